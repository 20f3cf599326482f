"""Who hears of stored entries, besides their receivers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from imserver.messages.log.contract import Entry


class LogObserver(Protocol):
    """Hears what this node stores in the logs of some apps. It adds itself to ``MessageServices.observers``
    when its feature is built."""

    @property
    def apps(self) -> Container[str]:
        """The apps whose stored entries it hears of. Never switches."""

    def committed(self, app: str, first: int, last: int, entries: Sequence[Entry]) -> None:
        """This node's transaction stored these entries of one of :attr:`apps`. Never switches."""

    def undelivered(self, app: str) -> int | None:
        """The position in the log after which entries must stay. None: all may expire. Switches.

        Raises StorageUnavailable.
        """
