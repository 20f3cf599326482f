"""The listener to events of the core: logins, messages, absent users, stored entries, changed accounts."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, Protocol

from imserver.config.settings import TenantSettings
from imserver.model import Event
from imserver.storage.contract import RecordEvent
from imserver.storage.log.contract import Entry
from imserver.transport.connection import Connection


class Observer(Protocol):
    """Hears what happens in apps. Where that costs less, a caller first looks whether it wants to hear."""

    @property
    def apps(self) -> Container[str]:
        """The apps whose stored entries it hears of. Never switches."""

    @property
    def known(self) -> Collection[Connection]:
        """The connections whose end it hears of. Never switches."""

    def observes(self, settings: TenantSettings) -> bool:
        """Whether it hears of logins to an app with these settings. Never switches."""

    def began(self, connection: Connection) -> None:
        """A connection is a session now, or has logged in again. Never switches."""

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over. Never switches."""

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        """A user has sent a message that is not stored; ``facts`` are its ``type``, ``text`` and receiver.
        Never switches."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """(user, push) for users who are offline. May switch."""

    def committed(self, app: str, first: int, last: int, entries: Sequence[Entry]) -> None:
        """This node's transaction stored these entries of one of :attr:`apps`. Never switches."""

    def recorder(self, app: str, kind: str) -> RecordEvent | None:
        """The function that stores an event of this kind; None: nobody wants it. Never switches."""

    def undelivered(self, app: str) -> int | None:
        """The position in the log after which entries must stay. None: all may expire. Switches.

        Raises StorageUnavailable.
        """

    def expire(self) -> None:
        """Delete stored events that are too old. Switches. Raises StorageUnavailable."""


class NoObserver:
    """Nobody hears anything. Never switches."""

    apps: Container[str] = ()
    known: Collection[Connection] = ()

    def observes(self, settings: TenantSettings) -> bool:
        """No."""
        return False

    def began(self, connection: Connection) -> None:
        """Nothing."""

    def ended(self, connection: Connection, code: int) -> None:
        """Nothing."""

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        """Nothing."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """Nothing."""

    def committed(self, app: str, first: int, last: int, entries: Sequence[Entry]) -> None:
        """Nothing."""

    def recorder(self, app: str, kind: str) -> RecordEvent | None:
        """None."""
        return None

    def undelivered(self, app: str) -> int | None:
        """None."""
        return None

    def expire(self) -> None:
        """Nothing."""
