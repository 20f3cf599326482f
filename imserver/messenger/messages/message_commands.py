"""The commands of clients about stored messages, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from imserver.gateway.core.services import Services
from imserver.gateway.errors import ReplyCode, StorageUnavailable
from imserver.gateway.model import (
    Answer,
    Login,
    LogSubscription,
    Reply,
    Resume,
    Service,
    Signal,
)
from imserver.gateway.sessions.sessions import Sessions
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection, app_and_user
from imserver.gateway.transport.dispatch import CommandRow, CommandTable
from imserver.messenger.delivery.acks import AckingLogSubscription
from imserver.messenger.delivery.catch_up import CatchUp
from imserver.messenger.delivery.log_subscriptions import PendingLogSubscription
from imserver.messenger.delivery.messaging import Messaging, RefusedView, facts_of
from imserver.messenger.delivery.receipts import (
    MarksAnswer,
    Receipts,
    Signals,
    ToFollowers,
)
from imserver.messenger.log.asks import AskChange
from imserver.messenger.log.commands import (
    Ack,
    AnswerAsk,
    AskPins,
    AskThread,
    AskThreads,
    Conversations,
    FollowThread,
    History,
    Pin,
    React,
    ReadThread,
    Search,
    SearchFilter,
    Send,
    Sync,
)
from imserver.messenger.log.contract import (
    Change,
    ConversationSummary,
    Draft,
    Entry,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import Ask
from imserver.messenger.log.model import (
    EntryView,
    Message,
    ReviewUnavailable,
    TooManyMessages,
)
from imserver.messenger.log.threads import Thread, ThreadState
from imserver.messenger.search.message_search import MessageSearch
from imserver.plugin.http import view


class EntryPage(Struct):
    """Entries in the order of their ids. ``hasMore``: there are further
    entries."""

    messages: list[EntryView]
    more: bool = field(name="hasMore")
    begin_anew: bool | UnsetType = field(default=UNSET, name="beginAnew")
    """Entries after the cursor have expired, so the client must start again."""
    marks: MarksAnswer | UnsetType = UNSET
    """The changed marks, if the client has asked for them."""


class Resumed(Struct):
    """The answer to a login with a cursor: either the missed entries follow, or
    the client has to sync."""

    recovered: bool


class SearchPage(Struct, rename="camel"):
    """Entries in the order of their ids. ``has_more``: there may be others
    before ``before``."""

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
    """The id from which the next page continues, if it differs from the id of
    ``last``, the newest entry that is not hidden."""
    mentions: int = 0
    avatar: str = ""
    added: bool = False
    open: bool = False
    everybody: str = ""
    write: str = "member"
    reply: str = "member"
    unread_more: bool = field(default=False, name="unreadMore")
    """Whether there are more unread messages than ``unread``."""


class ConversationPage(Struct):
    """Conversations. Conversations with the newest entries come first."""

    conversations: list[ConversationView]
    more: bool = field(name="hasMore")


def conversation_view(summary: ConversationSummary, user: str) -> ConversationView:
    """Return one of a user's conversations, as the user sees it in a list."""
    row = summary.conversation
    last = summary.last
    view = ConversationView(
        id=row.id,
        kind=row.kind,
        unread=summary.unread,
        read=summary.read,
        role=summary.role,
        peer=row.peer(user),
        name=row.name,
    )
    if last is not None:
        view.last = last.view()
    # Without `position`, clients take the id of `last`.
    if last is None or last.id != summary.position:
        view.position = summary.position
    view.mentions = summary.mentions
    view.avatar = row.avatar
    view.added = summary.is_new
    view.unread_more = summary.unread_more
    view.open = row.open
    view.everybody = row.everybody
    # Fields with the default values of the view stay as they are.
    if row.options:
        options = row.option_values()
        view.write = options["write"]
        view.reply = options["reply"]
    return view


class MessageCommands(Service, dict=True):
    """Runs the commands on stored messages.

    A connection that follows the log receives new entries. It follows the log
    after a login with a cursor, or after its first ``sync``.
    """

    sessions: Sessions
    messaging: Messaging
    receipts: Receipts
    searches: MessageSearch
    store: Store

    def __post_init__(self) -> None:
        """Take the service that sends missed entries, and the log."""
        self._catch_up: CatchUp = self.messaging.catch_up
        self._log = self.store.part(MessageLog)

    def commands(self) -> CommandTable:
        """Return the commands that this service runs."""
        return {
            Resume: CommandRow(self.resume, needs_session=False, answers=True),
            Send: CommandRow(self.messaging.send_command, answers=True),
            Sync: CommandRow(self.sync, answers=True),
            Ack: CommandRow(self.ack),
            History: CommandRow(self.history),
            Conversations: CommandRow(self.conversations),
            Search: CommandRow(self.search),
            React: CommandRow(self.react),
            Pin: CommandRow(self.pin),
            AskPins: CommandRow(self.pins),
        }

    # --- catch-up -------------------------------------------------------------

    def resume(
        self, connection: Connection, command: Resume, answer: Answer
    ) -> Reply | None:
        """Log in with a *cursor*: the last id that the client has.

        Either the missed entries follow the reply, or the client has to sync.
        May switch greenlets.
        """
        login = Login(command.app, command.user, command.token, command.device)
        code = self.sessions.login(connection, login)
        if code != ReplyCode.OK:
            return Reply(code)
        # A repeated login changes nothing.
        if connection.log_subscription is not None:
            return Reply.OK

        def resumed(recovered: bool, _begin_anew: bool) -> None:
            answer(Reply(ReplyCode.OK, Resumed(recovered)))

        try:
            self._catch_up.resume(connection, command.cursor, command.acks, resumed)
        except StorageUnavailable:
            # If the database does not answer, the client is logged in
            # nevertheless, and syncs later.
            self._catch_up.put_off(
                connection, PendingLogSubscription(acks=command.acks)
            )
            return Reply(ReplyCode.OK, Resumed(recovered=False))
        return None

    def sync(
        self, connection: Connection, command: Sync, answer: Answer
    ) -> Reply | None:
        """Answer with a page of missed entries. May switch greenlets.

        New entries are delivered after the last page.
        """
        app, user = app_and_user(connection)
        self._subscribe(connection, command.after)

        # The connection follows the log now, so it receives all later changes
        # of marks. No change is missed.
        marks: MarksAnswer | UnsetType = UNSET
        if command.version >= 0:
            marks = self.receipts.marks(app, user, command.version)
        if connection.log_subscription is None:
            return self._page_without_pushes(connection, command, marks)

        def answer_page(messages: list[Message], more: bool, anew: bool) -> bool:
            """Answer with the page. Returns whether it was the last page."""
            answer(Reply(ReplyCode.OK, _page(messages, more, anew, marks)))
            return not more

        self._catch_up.sync(
            connection, command.after, command.limit, answer_page, checks=True
        )
        return None

    def _page_without_pushes(
        self, connection: Connection, command: Sync, marks: MarksAnswer | UnsetType
    ) -> Reply:
        """Return a page of missed entries to a session that gets no pushes.

        Another session of the user receives the pushes. Switches greenlets.
        """
        app, user = app_and_user(connection)
        entries, more = self._catch_up.page(app, user, command.after, command.limit)
        anew = self._catch_up.must_begin_anew(connection, command.after)
        return Reply(ReplyCode.OK, _page(entries, more, anew, marks))

    def _subscribe(self, connection: Connection, cursor: int) -> None:
        """Let a connection follow the log, unless it already does. May switch
        greenlets.

        A session that logged in while the log was unavailable has a *pending*
        log subscription. It is replaced by a real log subscription.
        """
        log_subscription = connection.log_subscription
        if isinstance(log_subscription, PendingLogSubscription):
            subscription = LogSubscription()
            if log_subscription.acks:
                subscription = AckingLogSubscription(acked=cursor, delivered=cursor)
            self._catch_up.subscribe(connection, subscription)
        elif log_subscription is None:
            self._catch_up.subscribe(connection, LogSubscription())

    # --- queries --------------------------------------------------------------

    def history(self, connection: Connection, command: History) -> Reply:
        """Answer with a page of a conversation. Switches greenlets.

        The page has messages before an id, after an id, or of some types.
        """
        if command.types:
            return self.search(connection, _search_of_types(command))

        app, user = app_and_user(connection)
        after = None
        if command.after >= 0:
            after = command.after
        entries, more = self._log.entries.history(
            app, user, command.conversation, command.before, command.limit, after
        )
        return Reply(ReplyCode.OK, _page(entries, more, anew=False))

    def conversations(self, connection: Connection, command: Conversations) -> Reply:
        """Answer with a page of the user's conversations. Switches
        greenlets."""
        app, user = app_and_user(connection)
        summaries, more = self._log.conversations.page(
            app, user, command.before, command.limit
        )
        views = [conversation_view(each, user) for each in summaries]
        return Reply(ReplyCode.OK, ConversationPage(views, more))

    def search(self, connection: Connection, command: Search) -> Reply:
        """Search the messages that the user may read. Switches greenlets."""
        app, user = app_and_user(connection)
        entries, before = self.searches.search(app, user, command)
        return _search_page(entries, before)

    def ack(self, connection: Connection, command: Ack) -> Reply:
        """Note that the client has everything up to an id. Never switches
        greenlets."""
        app = connection.app or ""
        # The client may already have entries from another node that this node
        # has not delivered yet.
        ahead = self.messaging.log_subscriptions.ahead.get(app, {}).get(connection, 0)
        position = max(ahead, self.messaging.follower.position(app))
        self.messaging.ack_tracker.acked(connection, command.id, position)
        return Reply.OK

    # --- reactions and pins ---------------------------------------------------

    # All connections of the user receive the entry. The answer may come before
    # or after the entry.

    def react(self, connection: Connection, command: React) -> Reply:
        """React to a message, or remove the reaction. Switches greenlets."""
        app, user = app_and_user(connection)
        # A muted user may withdraw their reactions.
        mute = None
        if not command.remove:
            mute = self.messaging.mute_of(app, user)

        def change(log: MessageLog) -> Change | Rejected:
            """Change the log, if the user is not muted."""
            return log.annotations.react(
                app, user, command.id, command.emoji, remove=command.remove
            )

        return self._change(mute, change)

    def pin(self, connection: Connection, command: Pin) -> Reply:
        """Pin a message, or remove its pin. Switches greenlets."""
        app, user = app_and_user(connection)
        mute = self.messaging.mute_of(app, user)

        def change(log: MessageLog) -> Change | Rejected:
            return log.annotations.pin(app, user, command.id, remove=command.remove)

        return self._change(mute, change)

    def pins(self, connection: Connection, command: AskPins) -> Reply:
        """Answer with the pinned messages of a conversation. Switches
        greenlets."""
        app, user = app_and_user(connection)
        entries, before = self._log.entries.pins(
            app, user, command.conversation, command.before
        )
        views = [entry.view() for entry in entries]
        return Reply(ReplyCode.OK, PinsView(views, before))

    def _change(
        self, mute: Rejected | None, change: Callable[[MessageLog], Change | Rejected]
    ) -> Reply:
        """Run a reaction or a pin, and return the reply. Switches greenlets.

        ``mute`` is the refusal of a muted user, or None if the user may make
        the change. ``change`` writes to the log.
        """
        result: Change | Rejected
        if mute is not None:
            result = mute
        elif self.store.has_database:
            result = change(self._log)
        else:
            # There is no message, and a change would create the database.
            result = Rejected(RejectReason.UNKNOWN_MESSAGE)
        if isinstance(result, Rejected):
            return _refusal(result)

        view = AnnotatedView(result.conversation)
        if result.entry is not None:
            view.id = result.entry.id
            view.seq = result.entry.seq
        return Reply(ReplyCode.OK, view)


def _refusal(rejected: Rejected) -> Reply:
    """Return the reply to a command that the log or a service has refused."""
    return Reply(rejected.reply_code, RefusedView.of(rejected), rejected.reason)


def _search_of_types(command: History) -> Search:
    """Return the search for a page of messages of some types.

    Only a search finds messages by their type.
    """
    return Search(
        text="",
        conversation=command.conversation,
        before=command.before,
        limit=command.limit,
        filter=SearchFilter(types=command.types),
    )


def _search_page(entries: list[Entry], before: int) -> Reply:
    """Return the reply with a page of a search.

    ``before`` is the id from which the next page continues, or 0 if this is the
    last page.
    """
    views = [entry.view() for entry in entries]
    return Reply(ReplyCode.OK, SearchPage(views, has_more=before > 0, before=before))


def _page(
    messages: list[Message],
    more: bool,
    anew: bool,
    marks: MarksAnswer | UnsetType = UNSET,
) -> EntryPage:
    """Return a page of entries.

    ``more``: whether there are further entries. ``anew``: whether the client
    must start again.
    """
    page = EntryPage([message.view() for message in messages], more, marks=marks)
    if anew:
        page.begin_anew = True
    return page


class AnnotatedView(Struct, omit_defaults=True):
    """The answer to a reaction or a pin: its entry. Without ``id``, nothing had
    to change."""

    conversation: int
    id: int = 0
    seq: int = 0


class PinsView(Struct, omit_defaults=True):
    """Pinned messages; the message that was pinned last comes first.
    ``before``: of the next page; 0: this is the last page."""

    messages: list[EntryView]
    before: int = 0


class AnsweredView(Struct, omit_defaults=True):
    """The reply to an answer: the question as it is now. Without ``id``, the
    user has given this answer before."""

    conversation: int
    ask: Ask
    id: int = 0
    seq: int = 0


class AskCommands(Service):
    """Runs the command to answer a question, or to vote in a poll.

    The other connections of the user learn of a vote.
    """

    core: Services
    messaging: Messaging
    signals: Signals

    def commands(self) -> CommandTable:
        """Return the commands that this service runs."""
        return {AnswerAsk: CommandRow(self.run)}

    def run(self, connection: Connection, command: AnswerAsk) -> Reply:
        """Answer a question. Switches greenlets.

        The reply has the question as it is now. If the reply has no ``id``, the
        user has given this answer before.
        """
        app, user = app_and_user(connection)
        result = self.answer(
            app,
            user,
            message=command.id,
            value=command.value,
            text=command.text,
            choices=command.choices,
            besides=connection,
        )
        if isinstance(result, Rejected):
            return _refusal(result)

        view = AnsweredView(result.conversation, result.ask)
        if result.entry is not None:
            view.id = result.entry.id
            view.seq = result.entry.seq
        return Reply(ReplyCode.OK, view)

    def answer(
        self,
        app: str,
        user: str,
        message: int,
        value: str = "",
        text: str = "",
        by_user: bool = True,
        choices: Sequence[int] | None = None,
        besides: Connection | None = None,
    ) -> AskChange | Rejected:
        """Answer a question as a user, or vote in a poll.

        An answer is the ``value`` of an option, or a free ``text``. A vote is
        ``choices``, the indexes of options. If the app is configured so, its
        back end reviews free text. If ``by_user`` is False, a back end answers
        for the user, and nothing is checked or reviewed. The user's connections
        except ``besides`` are notified of a vote.

        Switches greenlets. Raises StorageUnavailable, TooManyMessages and
        ReviewUnavailable.
        """
        # There is no message, and a change would create the database.
        if not self.core.store.has_database:
            return Rejected(RejectReason.UNKNOWN_MESSAGE)
        if by_user:
            checked = self._checked_text(app, user, message, text)
            if isinstance(checked, Rejected):
                return checked
            text = checked

        asks = self.core.store.part(MessageLog).asks
        result = asks.answer(
            app, user, message, value=value, text=text, choices=choices
        )
        if isinstance(result, AskChange):
            self._notify_of_vote(app, user, message, result, besides)
        return result

    def _checked_text(
        self, app: str, user: str, message: int, text: str
    ) -> str | Rejected:
        """Check that a user may answer now, and return the text of the answer.

        The review of the back end may have changed the text. Switches
        greenlets. Raises TooManyMessages and ReviewUnavailable.
        """
        mute = self.messaging.mute_of(app, user)
        if mute is not None:
            return mute
        if not self.core.sender_rates.take(app, user):
            raise TooManyMessages("the user has sent too many messages")
        if text and app in self.core.reviews.apps:
            return self._review(app, user, message, text)
        return text

    def _notify_of_vote(
        self,
        app: str,
        user: str,
        message: int,
        change: AskChange,
        besides: Connection | None,
    ) -> None:
        """Send a vote to the user's connections, except ``besides``.

        The other devices then show what the user chose. Only a vote has
        ``mine``. All readers see other answers, so they need no notice.
        """
        if change.ask.mine is None:
            return
        data = msgspec.json.encode({"id": message, "choices": change.ask.mine})
        signal = Signal("vote", user, "", conversation=change.conversation, data=data)
        self.signals.send(
            ToFollowers(app, users=(user,), group=0, signal=signal), besides
        )

    def _review(self, app: str, user: str, message: int, text: str) -> str | Rejected:
        """Let the back end review a free text. Switches greenlets.

        Returns the text to store, or the refusal. Raises ReviewUnavailable.
        """
        # A review gets the answer in the shape of a message.
        draft = Draft(
            sender=user, kind="press", type="text", body=text.encode(), about=message
        )
        decision = self.core.reviews.decide(app, facts_of(draft))
        if decision.action == "reject":
            return Rejected(RejectReason.REJECTED, decision.reason)
        if decision.action == "undecided":
            raise ReviewUnavailable("the back end has not reviewed it in time")
        if decision.action == "replace":
            return decision.body.decode("utf-8", "replace")
        return text


class ThreadView(ThreadState, frozen=True, kw_only=True):
    """A thread as a user sees it, without ``message`` if the user may not read
    it."""

    message: EntryView | msgspec.UnsetType = msgspec.UNSET

    @staticmethod
    def of(thread: Thread) -> ThreadView:
        """Return the view of a thread."""
        message: EntryView | msgspec.UnsetType = msgspec.UNSET
        if thread.message is not None:
            message = thread.message.view()
        return view(ThreadView, thread, message=message)


class ThreadPageView(Struct, rename="camel"):
    """The answer to :class:`imserver.messenger.log.commands.AskThread`."""

    thread: ThreadView
    messages: list[EntryView]
    has_more: bool
    before: int


class ThreadList(Struct):
    """Threads. Threads with the newest replies come first."""

    threads: list[ThreadView]
    has_more: bool = field(name="hasMore")


class ThreadCommands:
    """Runs the commands of users on threads, and notifies their other
    connections.

    A *thread* is the replies to one message, its *root*.
    """

    def __init__(self, signals: Signals, store: Store) -> None:
        """Take the service that sends signals, and the store of the log."""
        self._signals = signals
        self._log = store.part(MessageLog)

    def commands(self) -> CommandTable:
        """Return the commands that this service runs."""
        return {
            AskThread: CommandRow(self._page_command),
            AskThreads: CommandRow(self._list_command),
            FollowThread: CommandRow(self._follow_command),
            ReadThread: CommandRow(self._read_command),
        }

    def page(
        self, app: str, user: str, root: int, before: int, limit: int
    ) -> tuple[Thread, list[Entry], int] | None:
        """Return a thread, and a page of its last replies, ordered by id.

        The replies have ids below ``before``; 0 means the end of the thread.
        The last value is the ``before`` of the next page, or 0 if there are no
        earlier replies. Returns None if the user cannot read the thread.
        Switches greenlets; raises StorageUnavailable.
        """
        thread = self._log.threads.get(app, user, root)
        replies = self._log.threads.replies(app, user, root, before, limit)
        if thread is None or replies is None:
            return None
        return thread, *replies

    def list(
        self, app: str, user: str, before: int, limit: int
    ) -> tuple[list[Thread], bool]:
        """Return a page of the threads that a user follows, and whether there
        are more.

        Threads with the newest replies come first. ``before`` selects threads
        whose last reply has a smaller id; 0 means all threads.
        """
        return self._log.threads.of_user(app, user, before, limit)

    def follow(
        self,
        app: str,
        user: str,
        root: int,
        follows: bool,
        besides: Connection | None = None,
    ) -> Thread | None:
        """Follow a thread, or mute it if ``follows`` is False.

        The user's connections except ``besides`` are notified. Returns None if
        the user cannot read the thread. Switches greenlets; raises
        StorageUnavailable.
        """
        thread = self._log.threads.follow(app, user, root, follows)
        return self._notify(app, user, thread, besides)

    def read(
        self, app: str, user: str, root: int, id: int, besides: Connection | None = None
    ) -> Thread | None:
        """Note that a user has read a thread up to a reply.

        The user's connections except ``besides`` are notified. Returns None if
        the user cannot read the thread. Switches greenlets; raises
        StorageUnavailable.
        """
        thread = self._log.threads.read(app, user, root, id)
        return self._notify(app, user, thread, besides)

    def _notify(
        self, app: str, user: str, thread: Thread | None, besides: Connection | None
    ) -> Thread | None:
        """Send a thread that has changed for the user to the user's
        connections.

        ``besides`` is the connection that has changed it. Returns the thread,
        or None if the user cannot read it.
        """
        if thread is None:
            return None
        # Clients already have the first message.
        data = msgspec.json.encode(ThreadView.of(replace(thread, message=None)))
        signal = Signal(
            "threadMark", user, "", conversation=thread.conversation, data=data
        )
        self._signals.send(ToFollowers(app, (user,), 0, signal), besides)
        return thread

    def _page_command(self, connection: Connection, command: AskThread) -> Reply:
        """Answer with a page of the replies of a thread. Switches greenlets."""
        app, user = app_and_user(connection)
        page = self.page(app, user, command.thread, command.before, command.limit)
        if page is None:
            return _UNKNOWN
        thread, entries, before = page
        view = ThreadPageView(
            ThreadView.of(thread),
            [entry.view() for entry in entries],
            has_more=before > 0,
            before=before,
        )
        return Reply(ReplyCode.OK, view)

    def _list_command(self, connection: Connection, command: AskThreads) -> Reply:
        """Answer with a page of the threads that the user follows. Switches
        greenlets."""
        app, user = app_and_user(connection)
        threads, more = self.list(app, user, command.before, command.limit)
        views = [ThreadView.of(thread) for thread in threads]
        return Reply(ReplyCode.OK, ThreadList(views, more))

    def _follow_command(self, connection: Connection, command: FollowThread) -> Reply:
        """Follow a thread or mute it, and answer with the thread. Switches
        greenlets."""
        app, user = app_and_user(connection)
        follows = not command.remove
        thread = self.follow(app, user, command.thread, follows, connection)
        return _answer(thread)

    def _read_command(self, connection: Connection, command: ReadThread) -> Reply:
        """Advance the read position in a thread. Switches greenlets."""
        app, user = app_and_user(connection)
        thread = self.read(app, user, command.thread, command.id, connection)
        return _answer(thread)


def _answer(thread: Thread | None) -> Reply:
    """Return the reply with a thread. ``thread`` is None if the user cannot
    read it."""
    if thread is None:
        return _UNKNOWN
    return Reply(ReplyCode.OK, ThreadView.of(thread))


_UNKNOWN = Reply(ReplyCode.NO_DATA, RefusedView(RejectReason.UNKNOWN_MESSAGE))
