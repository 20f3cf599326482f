"""The commands of clients about stored messages, and their answers."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType, field

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.messages.acks import AckingLogSubscription
from imserver.messages.catch_up import CatchUp
from imserver.messages.commands import Ack, Conversations, History, Search, SearchFilter, Send, Sync
from imserver.messages.log.contract import ConversationSummary, Entry, newest_page, oldest_page
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log_subscriptions import PendingLogSubscription
from imserver.messages.message_search import MessageSearch
from imserver.messages.messaging import Messaging
from imserver.messages.model import EntryView, Message
from imserver.messages.receipts import MarksAnswer, Receipts
from imserver.model import Answer, Login, LogSubscription, Reply, Resume
from imserver.sessions.sessions import Sessions
from imserver.storage.store import Store
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable

_OK: Final = Reply(errors.ReplyCode.OK)


class EntryPage(Struct):
    """Entries in the order of their ids. ``hasMore``: there are further ones."""

    messages: list[EntryView]
    more: bool = field(name="hasMore")
    begin_anew: bool | UnsetType = field(default=UNSET, name="beginAnew")
    """Something behind the cursor has expired."""
    marks: MarksAnswer | UnsetType = UNSET
    """The marks since then, if the client asked for them."""


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
    position: int = field(default=0, name="place")
    """The id to page on from, if it is not that of ``last``, which is the newest entry that is not hidden."""
    mentions: int = 0
    avatar: str = ""


class ConversationPage(Struct):
    """Conversations, those with the newest entries first."""

    conversations: list[ConversationView]
    more: bool = field(name="hasMore")


def conversation_view(summary: ConversationSummary, user: str) -> ConversationView:
    """One of a user's conversations, as the user sees it."""
    row, last = summary.conversation, summary.last
    peer = next((each for each in row.members if each != user), "")
    view = ConversationView(row.id, row.kind, summary.unread, summary.read, summary.role, peer, row.name)
    if last is not None:
        view.last = last.view()
    if last is None or last.id != summary.position:
        view.position = summary.position
    view.mentions = summary.mentions
    view.avatar = row.avatar
    return view


class MessageCommands(Struct, dict=True, eq=False):
    """Carries out the commands. A connection follows the log from its login with a cursor on, or from its
    first ``sync``."""

    sessions: Sessions
    messaging: Messaging
    receipts: Receipts
    searches: MessageSearch
    store: Store

    def __post_init__(self) -> None:
        self._catch_up: CatchUp = self.messaging.catch_up
        self._log = self.store.part(MessageLog)

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            Resume: CommandRow(self.resume, needs_session=False, answers=True),
            Send: CommandRow(self.messaging.send_command, answers=True),
            Sync: CommandRow(self.sync, answers=True),
            Ack: CommandRow(self.ack),
            History: CommandRow(self.history),
            Conversations: CommandRow(self.conversations),
            Search: CommandRow(self.search),
        }

    # --- catch-up -------------------------------------------------------------------------------------------

    def resume(self, connection: Connection, command: Resume, answer: Answer) -> Reply | None:
        """Log in with a cursor: what was missed follows the reply, or the client has to sync. May switch."""
        login = Login(command.app, command.user, command.token, command.device)
        code = self.sessions.login(connection, login)
        if code != errors.ReplyCode.OK:
            return Reply(code)
        if connection.log_subscription is not None:
            return _OK

        def resumed(recovered: bool, _begin_anew: bool) -> None:
            answer(Reply(errors.ReplyCode.OK, Resumed(recovered)))

        try:
            self._catch_up.resume(connection, command.cursor, command.acks, resumed)
        except StorageUnavailable:
            self._catch_up.put_off(connection, PendingLogSubscription(acks=command.acks))
            return Reply(errors.ReplyCode.OK, Resumed(False))
        return None

    def sync(self, connection: Connection, command: Sync, answer: Answer) -> Reply | None:
        """A page of missed entries; after the last one new entries are delivered. May switch."""
        app, user = app_and_user(connection)
        now = connection.log_subscription
        if isinstance(now, PendingLogSubscription) and now.acks:
            acking = AckingLogSubscription(acked=command.after, delivered=command.after)
            self._catch_up.subscribe(connection, acking)
        elif now is None or isinstance(now, PendingLogSubscription):
            self._catch_up.subscribe(connection, LogSubscription())
        # The subscription delivers changes of marks from here on, so none is missed.
        marks = UNSET if command.version < 0 else self.receipts.marks(app, user, command.version)
        if connection.log_subscription is None:
            # Another session of the user is addressed, so nothing will be pushed here.
            entries, more = oldest_page(*self._catch_up.page(app, user, command.after, command.limit))
            anew = self._catch_up.must_begin_anew(connection, command.after)
            return Reply(errors.ReplyCode.OK, _page(entries, more, anew, marks))

        def give(messages: list[Message], more: bool, anew: bool) -> bool:
            answer(Reply(errors.ReplyCode.OK, _page(messages, more, anew, marks)))
            return not more

        self._catch_up.sync(connection, command.after, command.limit, give, checks=True)
        return None

    # --- queries --------------------------------------------------------------------------------------------

    def history(self, connection: Connection, command: History) -> Reply:
        """A page of a conversation. Switches."""
        app, user = app_and_user(connection)
        stored = self._log
        conversation, before, limit = command.conversation, command.before, command.limit
        if command.types:
            wanted = Search("", conversation, before, limit, SearchFilter(types=command.types))
            return _search_page(*self.searches.search(app, user, wanted))
        if command.after >= 0:
            read = stored.entries.history(app, user, conversation, before, limit, command.after)
            entries, more = oldest_page(*read)
        else:
            entries, more = newest_page(*stored.entries.history(app, user, conversation, before, limit))
        return Reply(errors.ReplyCode.OK, _page(entries, more, False))

    def conversations(self, connection: Connection, command: Conversations) -> Reply:
        """The user's conversations. Switches."""
        app, user = app_and_user(connection)
        summaries, more = self._log.conversations.page(app, user, command.before, command.limit)
        return Reply(
            errors.ReplyCode.OK, ConversationPage([conversation_view(each, user) for each in summaries], more)
        )

    def search(self, connection: Connection, command: Search) -> Reply:
        """Search in what the user may read. Switches."""
        return _search_page(*self.searches.search(*app_and_user(connection), command))

    def ack(self, connection: Connection, command: Ack) -> Reply:
        """The client has everything up to an id. Never switches."""
        position = self.messaging.follower.position(connection.app or "")
        self.messaging.ack_tracker.acked(connection, command.id, position)
        return _OK


def _search_page(entries: list[Entry], before: int) -> Reply:
    messages = [entry.view() for entry in entries]
    return Reply(errors.ReplyCode.OK, SearchPage(messages, before > 0, before))


def _page(
    messages: list[Message], more: bool, anew: bool, marks: MarksAnswer | UnsetType = UNSET
) -> EntryPage:
    return EntryPage([message.view() for message in messages], more, True if anew else UNSET, marks)
