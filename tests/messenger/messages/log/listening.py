"""Listeners of a log, for tests."""

from collections.abc import Callable

from imserver.messenger.messages.log.contract import Commit, Entry


class Listening:
    """Calls a function for each commit."""

    def __init__(self, committed: Callable[[str, int, int, list[Entry]], object]) -> None:
        self._committed = committed

    def committed(self, commit: Commit) -> None:
        self._committed(commit.app, commit.first, commit.last, commit.entries)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        return 0.0
