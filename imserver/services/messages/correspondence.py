"""Correspondence: commands of clients about what is stored, carried out. Stateless."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Struct, UnsetType, field

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import (
    Ack,
    Command,
    Conversations,
    History,
    Login,
    Message,
    Reply,
    Resume,
    Send,
    Sync,
)
from imserver.protocol.cmd_stored import Shown, shown
from imserver.services.messages import page_bounds
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.listing import ConversationPage, listed
from imserver.services.messages.messaging import Messaging, Result
from imserver.services.messages.readers import Behind, Reader
from imserver.services.messages.receipts import Receipts, ShownMarks
from imserver.services.messages.recovery import Recovery
from imserver.services.messages.revisions import revision
from imserver.services.sessions.dispatch import Dispatcher, Rule, who
from imserver.services.sessions.sessions import Sessions
from imserver.storage.log.contract import (
    INVALID,
    UNKNOWN_CONVERSATION,
    Appended,
    Draft,
    Rejected,
    message_of,
)
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

_NOT_STORED: Final = Reply(errors.REPLY_NOT_STORED)
_REFUSED: Final = Reply(errors.REPLY_UNAUTHORIZED)
_OK: Final = Reply(errors.REPLY_OK)
_CODE_OF: Final = {
    UNKNOWN_CONVERSATION: errors.REPLY_NO_DATA,
    INVALID: errors.REPLY_BAD_PARAMETER,
}
"""Why a message was not stored → the reply code; any other: 1003."""

Answers = Callable[[Reply], None]


class Stored(Struct):
    """Where a message is kept. ``repeated``: it was before; this is the first answer again."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False


class Page(Struct):
    """Entries in the order of their ids. ``hasMore``: there are further ones."""

    messages: list[Shown]
    more: bool = field(name="hasMore")
    begin_anew: bool | UnsetType = field(default=UNSET, name="beginAnew")
    """Something behind the cursor has expired."""
    marks: ShownMarks | UnsetType = UNSET
    """What the user marked since, where the client asked for it."""


class Resumed(Struct):
    """What a login with a cursor is told: all that was missed comes right behind, or has to be asked for."""

    recovered: bool


class Correspondence:
    """Carries out commands; ``kept`` gives the log, or None while nothing was ever stored.

    A connection is told what is stored from its login with a cursor on, or from its first ``sync``.
    """

    def __init__(
        self,
        sessions: Sessions,
        messaging: Messaging,
        receipts: Receipts,
        kept: Callable[[], MessageLog | None],
    ) -> None:
        self._sessions = sessions
        self._messaging = messaging
        self._receipts = receipts
        self._kept = kept
        self._recovery = Recovery(messaging, kept)

    def add_to(self, dispatcher: Dispatcher) -> None:
        """Have the commands served."""
        for kind, run in (
            (History, self.history),
            (Conversations, self.conversations),
            (Ack, self.ack),
        ):
            dispatcher.rules[kind] = Rule(run, needs_session=True)
        dispatcher.rules[Send] = Rule(self.send, needs_session=True, answers=True)
        dispatcher.rules[Sync] = Rule(self.sync, needs_session=True, answers=True)
        dispatcher.rules[Resume] = Rule(self.resume, needs_session=False, answers=True)

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, connection: Connection, command: Send, answer: Answers) -> Reply | None:
        """Store a message, a recall or an edit; answered behind the commit. May switch."""
        app, user = who(connection)
        if command.to == user:
            return Reply(errors.REPLY_BAD_PARAMETER)
        draft = (
            self._message(user, command) if command.kind == "message" else self._revision(app, user, command)
        )
        if draft is None:
            return _REFUSED
        self._messaging.send(app, draft, lambda result: answer(_told(result)), connection)
        return None

    def _message(self, user: str, command: Send) -> Draft:
        return Draft(
            sender=user,
            type=command.type,
            body=command.body,
            client_msg_id=command.id,
            time_ms=int(time() * 1000),
            about=command.about,
            meta=command.meta,
            to_user=command.to,
            conversation=command.conversation,
        )

    def _revision(self, app: str, user: str, command: Send) -> Draft | None:
        """What recalls or edits one's own message."""
        assert command.kind != "message"
        return revision(
            self._kept(),
            app,
            user,
            command.about,
            command.kind,
            type=command.type,
            body=command.body,
            client_msg_id=command.id,
            meta=command.meta,
        )

    # --- catching up ----------------------------------------------------------------------------------------

    def resume(self, connection: Connection, command: Command, answer: Answers) -> Reply | None:
        """Log in with a cursor: what was missed follows the reply, or has to be asked for. May switch."""
        assert isinstance(command, Resume)
        login = Login(command.app, command.user, command.token, command.device)
        code = self._sessions.login(connection, login)
        if code != errors.REPLY_OK:
            return Reply(code)
        if isinstance(connection.about, Reader):
            return _OK

        def told(recovered: bool, _begin_anew: bool) -> None:
            answer(_RECOVERED if recovered else _MUST_SYNC)

        try:
            reader = Acknowledger() if command.acks else Reader()
            self._recovery.resume(connection, reader, command.cursor, told)
        except StorageUnavailable:
            self._messaging.put_off(connection, Behind(acks=command.acks))
            return _MUST_SYNC
        return None

    def sync(self, connection: Connection, command: Sync, answer: Answers) -> Reply | None:
        """A page of what was missed; with the last one the connection is told everything new. May switch."""
        app, user = who(connection)
        about = connection.about
        if isinstance(about, Behind) and about.acks:
            reader = Acknowledger(acked=command.after, told=command.after)
            self._messaging.follow(connection, reader, live=False)
        elif not isinstance(about, Reader) or isinstance(about, Behind):
            self._messaging.follow(connection, Reader(), live=False)
        anew = self._recovery.must_begin_anew(connection, command.after)
        # From here on it is told what is marked: so nothing falls in between.
        marks = UNSET if command.version < 0 else self._receipts.marks(app, user, command.version)
        if not isinstance(connection.about, Reader):
            # Another session of the user is addressed, so nothing will be pushed here.
            read = self._messaging.page(app, user, command.after, command.limit)
            entries, more = page_bounds.oldest(*read)
            return Reply(errors.REPLY_OK, _page([message_of(entry) for entry in entries], more, anew, marks))

        def give(messages: list[Message], more: bool) -> bool:
            answer(Reply(errors.REPLY_OK, _page(messages, more, anew, marks)))
            return not more

        self._messaging.sync(connection, command.after, command.limit, give)
        return None

    # --- being asked ----------------------------------------------------------------------------------------

    def history(self, connection: Connection, command: History) -> Reply:
        """What was said in a conversation. Switches."""
        app, user = who(connection)
        log = self._kept()
        if log is None:
            return Reply(errors.REPLY_OK, _page([], False, False))
        read = log.history(app, user, command.conversation, command.before, command.limit)
        entries, more = page_bounds.newest(*read)
        return Reply(errors.REPLY_OK, _page([message_of(entry) for entry in entries], more, False))

    def conversations(self, connection: Connection, command: Conversations) -> Reply:
        """The user's conversations. Switches."""
        app, user = who(connection)
        log = self._kept()
        talks, more = (
            ([], False) if log is None else log.list_conversations(app, user, command.before, command.limit)
        )
        return Reply(errors.REPLY_OK, ConversationPage([listed(talk, user) for talk in talks], more))

    def ack(self, connection: Connection, command: Ack) -> Reply:
        """Remember that the client has everything up to an id."""
        self._messaging.wheel.acked(connection, command.id)
        return _OK


_RECOVERED: Final = Reply(errors.REPLY_OK, Resumed(True))
_MUST_SYNC: Final = Reply(errors.REPLY_OK, Resumed(False))


def _told(result: Result) -> Reply:
    if isinstance(result, Appended):
        entry = result.entry
        return Reply(errors.REPLY_OK, Stored(entry.id, entry.conversation, entry.seq, result.repeated))
    if isinstance(result, Rejected):
        return Reply(_CODE_OF.get(result.reason, errors.REPLY_UNAUTHORIZED))
    return _NOT_STORED


def _page(messages: list[Message], more: bool, anew: bool, marks: ShownMarks | UnsetType = UNSET) -> Page:
    return Page([shown(message) for message in messages], more, True if anew else UNSET, marks)
