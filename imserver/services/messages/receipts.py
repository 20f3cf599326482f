"""Receipts: up to where users have read and received; who is told of it, and who asks. Stateless."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imserver import errors
from imserver.model import AskMarks, AskReceipts, Hide, Read, Received, Reply, Signal, Typing
from imserver.services.messages.signals import Signals
from imserver.services.sessions.dispatch import Dispatcher, Rule, who
from imserver.storage.log.contract import Marks, Noted
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

_OK: Final = Reply(errors.REPLY_OK)
_NO_DATA: Final = Reply(errors.REPLY_NO_DATA)
_NOT_STORED: Final = Reply(errors.REPLY_NOT_STORED)


class ShownRead(Struct):
    """Up to which id a conversation was read."""

    conversation: int
    id: int


class ShownReceipt(Struct):
    """Up to which ids a user has read, and received."""

    user: str
    read: int
    received: int


class ShownPeer(ShownReceipt):
    """The same, of the other one in a conversation of two."""

    conversation: int


class ShownMarks(Struct):
    """What is new behind a version, and the version that it is now."""

    version: int
    read: list[ShownRead]
    hidden: tuple[int, ...]
    receipts: list[ShownPeer]


class ReceiptPage(Struct, rename="camel"):
    """Receipts in the order of the users' ids."""

    receipts: list[ShownReceipt]
    has_more: bool


class Receipts:
    """Notes what was read and received, and has it told.

    ``kept`` gives the log, or None while nothing was ever stored.
    """

    def __init__(self, signals: Signals, kept: Callable[[], MessageLog | None]) -> None:
        self._signals = signals
        self._kept = kept

    def add_to(self, dispatcher: Dispatcher) -> None:
        """Have the commands served."""
        for kind, run in (
            (Read, self.read),
            (Received, self.received),
            (Hide, self.hide),
            (AskReceipts, self.ask),
            (AskMarks, self.ask_marks),
        ):
            dispatcher.rules[kind] = Rule(run, needs_session=True)
        dispatcher.rules[Typing] = Rule(self._signals.typing, needs_session=True)

    # --- noting ---------------------------------------------------------------------------------------------

    def note(
        self,
        app: str,
        user: str,
        conversation: int,
        *,
        read: int = 0,
        received: int = 0,
        besides: Connection | None = None,
    ) -> Noted | None:
        """A user has read, or received, up to an id. Those who wrote it are told, and the user's other
        connections but ``besides``. Switches; raises StorageUnavailable. None: not in this conversation.
        """
        log = self._kept()
        noted = None if log is None else log.note(app, user, conversation, read=read, received=received)
        if noted is not None and noted.moved:
            at = noted.receipt
            signal = (
                Signal("receipt", user, "", conversation=conversation, read=at.read)
                if read
                else Signal("receipt", user, "", conversation=conversation, received=at.received)
            )
            self._signals.tell_users(app, (*noted.authors, user), signal, besides)
        return noted

    def read(self, connection: Connection, command: Read) -> Reply:
        """The user has read a conversation up to an id. Switches."""
        app, user = who(connection)
        noted = self.note(app, user, command.conversation, read=command.id, besides=connection)
        return _NO_DATA if noted is None else _OK

    def received(self, connection: Connection, command: Received) -> Reply:
        """The client has a conversation up to an id. Switches."""
        app, user = who(connection)
        noted = self.note(app, user, command.conversation, received=command.id, besides=connection)
        return _NO_DATA if noted is None else _OK

    def hide(self, connection: Connection, command: Hide) -> Reply:
        """Do not show entries to this user any more. Switches."""
        app, user = who(connection)
        if self._kept() is None:
            return _NO_DATA
        self.hide_from(app, user, command.ids, connection)
        return _OK

    def hide_from(self, app: str, user: str, ids: tuple[int, ...], besides: Connection | None = None) -> int:
        """A user does not want to see these entries any more; the user's connections but ``besides`` are
        told. The version of the user's marks. Switches; raises StorageUnavailable.
        """
        log = self._kept()
        if log is None:
            return 0
        version = log.hide(app, user, ids)
        self._signals.tell_users(app, (user,), Signal("hidden", user, "", ids=ids), besides)
        return version

    # --- being asked ----------------------------------------------------------------------------------------

    def ask(self, connection: Connection, command: AskReceipts) -> Reply:
        """Where the other members of a conversation are. Switches."""
        app, user = who(connection)
        log = self._kept()
        if log is None:
            return _NO_DATA
        rows = log.receipts(app, user, command.conversation, command.after, command.limit + 1)
        shown = [ShownReceipt(row.user, row.read, row.received) for row in rows[: command.limit]]
        return Reply(errors.REPLY_OK, ReceiptPage(shown, len(rows) > command.limit))

    def ask_marks(self, connection: Connection, command: AskMarks) -> Reply:
        """What the user marked, on whatever device. Switches."""
        return Reply(errors.REPLY_OK, self.marks(*who(connection), command.version))

    def marks(self, app: str, user: str, after: int) -> ShownMarks:
        """What is new to a user behind a version. Switches; raises StorageUnavailable."""
        log = self._kept()
        found = Marks(0, {}) if log is None else log.marks(app, user, after)
        return ShownMarks(
            found.version,
            [ShownRead(conversation, id) for conversation, id in sorted(found.reads.items())],
            found.hidden,
            [ShownPeer(row.user, row.read, row.received, row.conversation) for row in found.receipts],
        )
