"""Listeners of a log, for tests."""

from collections.abc import Callable

from imserver.messages.log.contract import Entry


class Listening:
    """Calls a function for each commit."""

    def __init__(self, committed: Callable[[str, int, int, list[Entry]], object]) -> None:
        self._committed = committed

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        self._committed(app, first, last, entries)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        return 0.0
