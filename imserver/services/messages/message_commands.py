"""Message commands: the commands of clients about stored messages, and what they share with the HTTP API."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final, Literal

from gevent.lock import BoundedSemaphore
from msgspec import UNSET, Struct, UnsetType, field

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import (
    Ack,
    Conversations,
    History,
    Login,
    Message,
    Reply,
    Resume,
    Search,
    Send,
    Subscription,
    Sync,
)
from imserver.protocol.cmd import EntryView, entry_view
from imserver.services.messages.catch_up import CatchUp
from imserver.services.messages.deliverer import Result, newest_page, oldest_page
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import MarksView, Receipts
from imserver.services.messages.subscriptions import AckingSubscription, PendingSubscription, app_and_user
from imserver.services.sessions.sessions import Sessions
from imserver.storage.log.contract import (
    INVALID,
    UNKNOWN_CONVERSATION,
    Appended,
    ConversationSummary,
    Draft,
    Entry,
    Rejected,
    message_of,
)
from imserver.storage.store import Store
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

SEARCHES_AT_ONCE: Final = 2
SEARCH_SECONDS: Final = 10.0
"""How long a search waits for its turn; then it is refused, as while the database does not answer."""

_NOT_STORED: Final = Reply(errors.REPLY_NOT_STORED)
_REFUSED: Final = Reply(errors.REPLY_UNAUTHORIZED)
_OK: Final = Reply(errors.REPLY_OK)
_CODE_OF: Final = {
    UNKNOWN_CONVERSATION: errors.REPLY_NO_DATA,
    INVALID: errors.REPLY_BAD_PARAMETER,
}
"""Why a message was not stored → the reply code; any other: 1003."""

Answer = Callable[[Reply], None]


class StoredView(Struct):
    """The answer to a send. ``repeated``: the message had been stored before; this is the first answer
    again."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False


class EntryPage(Struct):
    """Entries in the order of their ids. ``hasMore``: there are further ones."""

    messages: list[EntryView]
    more: bool = field(name="hasMore")
    begin_anew: bool | UnsetType = field(default=UNSET, name="beginAnew")
    """Something behind the cursor has expired."""
    marks: MarksView | UnsetType = UNSET
    """What the user marked since, where the client asked for it."""


class Resumed(Struct):
    """The answer to a login with a cursor: what was missed follows, or the client has to sync."""

    recovered: bool


class SearchPage(Struct, rename="camel"):
    """Entries in the order of their ids. ``has_more``: there may be others before ``before``."""

    messages: list[EntryView]
    has_more: bool
    before: int


class ConversationView(Struct, omit_defaults=True):
    """A conversation as its member sees it."""

    id: int
    kind: str
    unread: int = field(default=-1)
    read: int = field(default=-1)
    role: str = ""
    peer: str = ""
    name: str = ""
    last: EntryView | None = None
    place: int = 0
    """The id to page on from, if it is not that of ``last``, which is the newest entry that is not hidden."""


class ConversationPage(Struct):
    """Conversations, those with the newest entries first."""

    conversations: list[ConversationView]
    more: bool = field(name="hasMore")


def conversation_view(summary: ConversationSummary, user: str) -> ConversationView:
    """One of a user's conversations, as the user sees it."""
    known, last = summary.conversation, summary.last
    peer = next((each for each in known.members if each != user), "")
    view = ConversationView(
        known.id, known.kind, summary.unread, summary.read, summary.role, peer, known.name
    )
    if last is not None:
        view.last = entry_view(message_of(last))
    if last is None or last.id != summary.place:
        view.place = summary.place
    return view


def may_be_revised(entry: Entry, user: str) -> bool:
    """Whether an entry is a message of this user (``""``: of anybody). A recalled one is too: the recall or
    edit may be a resend, which gets its first answer again."""
    was_message = entry.kind == "message" or (entry.kind == "recall" and entry.about == entry.id)
    return was_message and (not user or entry.sender == user)


def revision(
    log: MessageLog | None,
    app: str,
    user: str,
    about: int,
    kind: Literal["recall", "edit"],
    *,
    type: str = "text",
    body: bytes = b"",
    client_msg_id: str = "",
    meta: bytes = b"",
) -> Draft | None:
    """The draft that recalls or edits a message; None: it is no message of this user.

    ``user`` ``""`` is a back end, which may revise any. Switches; raises StorageUnavailable.
    """
    found = [] if log is None else log.entries(app, [about])
    if not found or not may_be_revised(found[0], user):
        return None
    return Draft(
        sender=user,
        kind=kind,
        type=type,
        body=body,
        client_msg_id=client_msg_id,
        time_ms=int(time() * 1000),
        about=about,
        meta=meta,
        conversation=found[0].conversation,
    )


class MessageSearch:
    """Searches for texts. Owner of the turns: few searches run at a time, so that the database has time for
    everything else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = BoundedSemaphore(SEARCHES_AT_ONCE)

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        """See :meth:`imserver.storage.log.message_log.MessageLog.search`. Raises StorageUnavailable."""
        stored = self._store.existing_log()
        if stored is None:
            return [], 0
        if not self._turns.acquire(timeout=SEARCH_SECONDS):
            raise StorageUnavailable("too many searches at a time")
        try:
            return stored.search(app, user, text, conversation, before, limit)
        finally:
            self._turns.release()


class MessageCommands:
    """Carries out the commands. A connection follows the log from its login with a cursor on, or from its
    first ``sync``."""

    def __init__(
        self,
        sessions: Sessions,
        messaging: Messaging,
        receipts: Receipts,
        searches: MessageSearch,
        store: Store,
    ) -> None:
        self._sessions = sessions
        self._messaging = messaging
        self._catch_up: CatchUp = messaging.catch_up
        self._receipts = receipts
        self._searches = searches
        self._store = store

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, connection: Connection, command: Send, answer: Answer) -> Reply | None:
        """Store a message, a recall or an edit; answered behind the commit. May switch."""
        app, user = app_and_user(connection)
        if command.to == user:
            return Reply(errors.REPLY_BAD_PARAMETER)
        draft = (
            self._message(user, command) if command.kind == "message" else self._revision(app, user, command)
        )
        if draft is None:
            return _REFUSED
        self._messaging.send(app, draft, lambda result: answer(_reply_to(result)), connection)
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
        """The draft of a recall or an edit of one's own message."""
        assert command.kind != "message"
        return revision(
            self._store.existing_log(),
            app,
            user,
            command.about,
            command.kind,
            type=command.type,
            body=command.body,
            client_msg_id=command.id,
            meta=command.meta,
        )

    # --- catch-up -------------------------------------------------------------------------------------------

    def resume(self, connection: Connection, command: Resume, answer: Answer) -> Reply | None:
        """Log in with a cursor: what was missed follows the reply, or the client has to sync. May switch."""
        login = Login(command.app, command.user, command.token, command.device)
        code = self._sessions.login(connection, login)
        if code != errors.REPLY_OK:
            return Reply(code)
        if connection.subscription is not None:
            return _OK

        def told(recovered: bool, _begin_anew: bool) -> None:
            answer(_RECOVERED if recovered else _MUST_SYNC)

        try:
            subscription = AckingSubscription() if command.acks else Subscription()
            self._catch_up.resume(connection, subscription, command.cursor, told)
        except StorageUnavailable:
            self._catch_up.put_off(connection, PendingSubscription(acks=command.acks))
            return _MUST_SYNC
        return None

    def sync(self, connection: Connection, command: Sync, answer: Answer) -> Reply | None:
        """A page of missed entries; after the last one new entries are delivered. May switch."""
        app, user = app_and_user(connection)
        now = connection.subscription
        if isinstance(now, PendingSubscription) and now.acks:
            acking = AckingSubscription(acked=command.after, delivered=command.after)
            self._catch_up.subscribe(connection, acking, live=False)
        elif now is None or isinstance(now, PendingSubscription):
            self._catch_up.subscribe(connection, Subscription(), live=False)
        anew = self._catch_up.must_begin_anew(connection, command.after)
        # The subscription delivers changes of marks from here on, so none is missed.
        marks = UNSET if command.version < 0 else self._receipts.marks(app, user, command.version)
        if connection.subscription is None:
            # Another session of the user is addressed, so nothing will be pushed here.
            entries, more = oldest_page(*self._catch_up.page(app, user, command.after, command.limit))
            return Reply(errors.REPLY_OK, _page([message_of(entry) for entry in entries], more, anew, marks))

        def give(messages: list[Message], more: bool) -> bool:
            answer(Reply(errors.REPLY_OK, _page(messages, more, anew, marks)))
            return not more

        self._catch_up.sync(connection, command.after, command.limit, give)
        return None

    # --- queries --------------------------------------------------------------------------------------------

    def history(self, connection: Connection, command: History) -> Reply:
        """A page of a conversation. Switches."""
        app, user = app_and_user(connection)
        stored = self._store.existing_log()
        if stored is None:
            return Reply(errors.REPLY_OK, _page([], False, False))
        read = stored.history(app, user, command.conversation, command.before, command.limit)
        entries, more = newest_page(*read)
        return Reply(errors.REPLY_OK, _page([message_of(entry) for entry in entries], more, False))

    def conversations(self, connection: Connection, command: Conversations) -> Reply:
        """The user's conversations. Switches."""
        app, user = app_and_user(connection)
        stored = self._store.existing_log()
        if stored is None:
            return Reply(errors.REPLY_OK, ConversationPage([], False))
        found, more = stored.list_conversations(app, user, command.before, command.limit)
        return Reply(
            errors.REPLY_OK, ConversationPage([conversation_view(each, user) for each in found], more)
        )

    def search(self, connection: Connection, command: Search) -> Reply:
        """Search in what the user may read. Switches."""
        entries, before = self._searches.search(
            *app_and_user(connection), command.text, command.conversation, command.before, command.limit
        )
        entries, cut = newest_page(entries, False)
        if cut:
            before = entries[0].id
        messages = [entry_view(message_of(entry)) for entry in entries]
        return Reply(errors.REPLY_OK, SearchPage(messages, before > 0, before))

    def ack(self, connection: Connection, command: Ack) -> Reply:
        """The client has everything up to an id. Never switches."""
        position = self._messaging.follower.position(connection.app or "")
        self._messaging.ack_tracker.acked(connection, command.id, position)
        return _OK


_RECOVERED: Final = Reply(errors.REPLY_OK, Resumed(True))
_MUST_SYNC: Final = Reply(errors.REPLY_OK, Resumed(False))


def _reply_to(result: Result) -> Reply:
    if isinstance(result, Appended):
        entry = result.entry
        return Reply(errors.REPLY_OK, StoredView(entry.id, entry.conversation, entry.seq, result.repeated))
    if isinstance(result, Rejected):
        return Reply(_CODE_OF.get(result.reason, errors.REPLY_UNAUTHORIZED))
    return _NOT_STORED


def _page(messages: list[Message], more: bool, anew: bool, marks: MarksView | UnsetType = UNSET) -> EntryPage:
    return EntryPage([entry_view(message) for message in messages], more, True if anew else UNSET, marks)
