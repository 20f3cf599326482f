"""Messaging: drafts go to the log, results and entries come back in its order; the commands of clients about
stored messages, and what they share with the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import monotonic, time
from typing import Any, Final

import msgspec
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore
from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from imserver import errors
from imserver.auth.login import Logins
from imserver.auth.rates import Buckets, SenderRates, TooManyRequests
from imserver.auth.reviews import ReviewDecision, Reviews
from imserver.cluster.nodes import NodeMessages, NodeQueries, OtherNodes, read
from imserver.errors import ReviewUnavailable, StorageUnavailable, TooManyMessages
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.messages.acks import AckingLogSubscription, AckTracker
from imserver.messages.action_positions import ActionPositions
from imserver.messages.annotations import RefusedView
from imserver.messages.catch_up import CatchUp
from imserver.messages.commands import (
    NO_FILTER,
    Ack,
    Conversations,
    History,
    Search,
    SearchFilter,
    Send,
    Sync,
)
from imserver.messages.deliverer import Deliverer, newest_page, oldest_page
from imserver.messages.log.bots import values_of
from imserver.messages.log.contract import (
    Appended,
    ConversationSummary,
    Draft,
    Entry,
    Rejected,
    RejectReason,
    StorageUnsure,
    Stored,
)
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log.requests import AppendRequest, Commit, Done
from imserver.messages.log.rows import decode_meta
from imserver.messages.log_follower import LogFollower
from imserver.messages.log_observer import LogObserver
from imserver.messages.log_subscriptions import LogSubscriptions, PendingLogSubscription
from imserver.messages.model import EntryView, Message
from imserver.messages.node_messages import broadcast_entries
from imserver.messages.open_streams import OpenStreams
from imserver.messages.receipts import MarksView, Receipts
from imserver.messages.settings import SEARCH_MILLISECONDS, SEARCH_TIME
from imserver.messages.stored_channels import ChannelLog
from imserver.messages.wire import read_send
from imserver.metrics import Metrics
from imserver.model import Answer, Login, LogSubscription, Reply, Resume
from imserver.sessions.sessions import Sessions
from imserver.storage.store import Store
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable

WIDE: Final = 50
"""After a message to this many connections the app pauses, so that more messages gather: one write to a
socket costs as much as twenty frames in it."""
_GATHER_SECONDS: Final = 0.000_1
"""The pause, for each of the connections."""
_MAX_GATHER_SECONDS: Final = 0.1

SEARCHES_AT_ONCE: Final = 2
SEARCH_SECONDS: Final = 10.0
"""How long a search waits for its turn; then it is refused, as while the database does not answer."""
SEARCHES_WAITING: Final = 40
"""How many wait; further ones are refused at once. A search may take half a second, so more would wait in
vain, and over HTTP each of them takes one of ``limits.http_requests``."""

_KNOWN_IDS: Final = "known_ids"
_NOT_STORED: Final = Reply(errors.ReplyCode.NOT_STORED)
_REFUSED: Final = Reply(errors.ReplyCode.UNAUTHORIZED)
_OK: Final = Reply(errors.ReplyCode.OK)
_TOO_MANY: Final[dict[type[Exception], int]] = {TooManyRequests: errors.ReplyCode.NOT_STORED}
_encode: Final = msgspec.json.Encoder().encode


class KnownIds(Struct, frozen=True):
    """A query of a node that starts: the greatest ids of logs that the others know."""


class Messaging:
    """Sends drafts, and listens to the log. Owner of the parts that deliver entries.

    ``reviews`` asks the back ends of apps about what users send. ``node_messages`` reaches the other nodes;
    None on a node that is alone. ``observers`` hear of stored entries.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        store: Store,
        logins: Logins,
        positions: ActionPositions,
        ack_tracker: AckTracker,
        reviews: Reviews,
        sender_rates: SenderRates,
        channel_log: ChannelLog,
        node_messages: NodeMessages | None,
        observers: Sequence[LogObserver],
    ) -> None:
        self._store = store
        self._log = store.part(MessageLog)
        self._account_apps = logins.account_apps
        self._metrics = metrics
        self._reviews = reviews
        self._sender_rates = sender_rates
        self._node_messages = node_messages
        self._observers = observers
        self.log_subscriptions = LogSubscriptions()
        self.positions = positions
        self.ack_tracker = ack_tracker
        self.streams = OpenStreams()
        """Of streamed answers, which a feature opens."""
        self.deliverer = Deliverer(
            hub, fanout, self.log_subscriptions, ack_tracker, channel_log, self.streams
        )
        self.follower = LogFollower(self._log, self.deliverer, metrics)
        self.catch_up = CatchUp(
            metrics, store, self.log_subscriptions, ack_tracker, self.follower, self.deliverer, positions
        )

    # --- other nodes ----------------------------------------------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add(_KNOWN_IDS, KnownIds, lambda _: self._known_ids())

    def _known_ids(self) -> dict[str, int]:
        return dict(self._log.writer.known)

    def learn(self, others: OtherNodes) -> None:
        """Learn from the other nodes which ids are stored, so that none is given again if the database has
        lost them. Switches."""
        if not self._store.has_database:
            return
        answers, _ = others.query(_KNOWN_IDS, KnownIds())
        for known in read(answers, dict[str, int]).values():
            for app, id in known.items():
                self._log.writer.learn(app, id)

    # --- sending --------------------------------------------------------------------------------------------

    def draft_of(self, app: str, user: str, command: Send) -> Draft | None:
        """The draft of a message, a recall, an edit or a press; None: it is about no message of this user, or
        forwards none that the user may read, or that message has no such button.

        ``user`` ``""`` is a back end, which may revise any message. Switches unless it is a plain message;
        then raises StorageUnavailable.
        """
        sent = command if command.kind == "message" else _completed(self._log, app, user, command)
        if sent is None:
            return None
        return Draft(
            sender=user,
            kind="message" if sent.kind == "forward" else sent.kind,
            type=sent.type,
            body=sent.body,
            client_msg_id=sent.id,
            time_ms=int(time() * 1000),
            about=sent.about,
            meta=sent.meta,
            to_user=sent.to,
            conversation=sent.conversation,
        )

    def read(self, app: str, user: str, data: bytes) -> Draft | None:
        """The draft of a message in JSON, as clients of ``cmd`` send it. See :meth:`draft_of`.

        Raises :class:`imserver.protocol.forgiving.Refused`.
        """
        return self.draft_of(app, user, read_send(data))

    def send(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Store a draft. Never switches.

        ``done`` gets the result, after every earlier entry that its sender is to receive on ``connection``.
        Everybody else who may read it receives it, the sender's other connections too. If the result is not
        known in time, ``done`` gets a StorageUnsure. For what a back end stores; see :meth:`send_of_user`.
        """
        self._send(AppendRequest(app, draft, done, self, connection))

    def _send(self, request: AppendRequest) -> None:
        draft = request.draft
        request.to_account = (
            request.app in self._account_apps and draft.to_user != "" and not draft.to_anybody
        )
        self._log.writer.send(request)

    def send_of_user(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Like :meth:`send`, for what a user sends: where the app wants it, its back end reviews it before.
        Bots and guests have a rate.

        Drafts of one connection keep their order. Recalls and presses have no content of the user, and only
        wait for their turn.
        """
        request = AppendRequest(app, draft, done, self, connection)
        if self._sender_rates.known and not self._sender_rates.take(app, draft.sender):
            self.stored(request, TooManyMessages("the user has sent too many messages"))
            return
        if app not in self._reviews.apps:
            self._send(request)
            return
        then = partial(self._reviewed, request)
        if draft.kind not in ("recall", "press"):
            self._reviews.review(app, facts_of(draft), then, connection)
        elif connection is not None:
            self._reviews.pass_by(then, connection)
        else:
            self._send(request)

    def _reviewed(self, request: AppendRequest, decision: ReviewDecision) -> None:
        if decision.action == "reject":
            self.stored(request, Rejected(RejectReason.REJECTED, decision.reason))
        elif decision.action == "undecided":
            self.stored(request, ReviewUnavailable("the back end has not reviewed it in time"))
        else:
            if decision.action == "replace":
                request.draft = replace(request.draft, type=decision.type, body=decision.body)
            self._send(request)

    def store(self, app: str, draft: Draft, *, by_user: bool) -> Stored:
        """:meth:`send_of_user` or, if not ``by_user``, :meth:`send`. Switches. Returns :class:`Appended`,
        :class:`Rejected` or StorageUnavailable; raises nothing."""
        settled: AsyncResult[Stored] = AsyncResult()
        (self.send_of_user if by_user else self.send)(app, draft, settled.set)
        result = settled.get()
        assert result is not None
        return result

    def stored(self, request: AppendRequest, result: Stored) -> None:
        """See :class:`imserver.messages.log.requests.DraftOwner`."""
        if request.unsure is not None:
            request.done = request.unsure.on_known
        if isinstance(result, Appended):
            if result.repeated:
                self._metrics.stored_repeats += 1
            else:
                self._metrics.stored += 1
            if request.done is not None and self.follower.is_behind(request.app, result.entry.id):
                self.deliverer.settle_in_order(request, result)
                if result.repeated:
                    self.follower.expect(request.app, result.entry.id)
                return
        elif not isinstance(result, StorageUnsure):
            self._metrics.not_stored += 1
        self.deliverer.settle(request, result)

    # --- the listener of the log ----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """See :class:`imserver.messages.log.writer.LogListener`."""
        app = commit.app
        if self._node_messages is not None:
            broadcast_entries(self._node_messages, commit)
        for observer in self._observers:
            if app in observer.apps:
                observer.committed(app, commit.first, commit.last, commit.entries)
        self.deliverer.widest.pop(app, None)
        self.follower.committed(commit)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """See :class:`imserver.messages.log.writer.LogListener`."""
        self._metrics.batched(drafts, seconds)
        widest = self.deliverer.widest.get(app, 0)
        return min(widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS) if widest >= WIDE else 0.0


def facts_of(draft: Draft) -> dict[str, Any]:
    """The fields of a draft that a review is about."""
    seen = Message(0, 0, 0, draft.sender, kind=draft.kind, type=draft.type, body=draft.body).view()
    facts: dict[str, Any] = {"kind": draft.kind, "sender": draft.sender}
    to = {"to": draft.to_user, "conversation": draft.conversation, "room": draft.room}
    facts |= {name: value for name, value in to.items() if value}
    payload = {"type": seen.type, "text": seen.text, "data": seen.data, "base64": seen.base64}
    facts |= {name: value for name, value in payload.items() if value is not None}
    more = {"client_msg_id": draft.client_msg_id, "about": draft.about, "meta": Raw(draft.meta)}
    return facts | {name: value for name, value in more.items() if value}


# --- commands -----------------------------------------------------------------------------------------------


class ReplacedView(Struct, omit_defaults=True):
    """The content that was stored in place of the content of the client."""

    type: str
    text: str | None = None
    data: Raw | None = None
    base64: bytes | None = None


class StoredView(Struct):
    """The answer to a send. ``repeated``: the message had been stored before; this is the first answer
    again."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False
    replaced: ReplacedView | UnsetType = UNSET


class RejectedView(Struct):
    """The answer to a message that the back end of the app has rejected."""

    reason: str


class EntryPage(Struct):
    """Entries in the order of their ids. ``hasMore``: there are further ones."""

    messages: list[EntryView]
    more: bool = field(name="hasMore")
    begin_anew: bool | UnsetType = field(default=UNSET, name="beginAnew")
    """Something behind the cursor has expired."""
    marks: MarksView | UnsetType = UNSET
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
    known, last = summary.conversation, summary.last
    peer = next((each for each in known.members if each != user), "")
    view = ConversationView(
        known.id, known.kind, summary.unread, summary.read, summary.role, peer, known.name
    )
    if last is not None:
        view.last = last.view()
    if last is None or last.id != summary.position:
        view.position = summary.position
    view.mentions = summary.mentions
    view.avatar = known.avatar
    return view


def _completed(stored: MessageLog, app: str, user: str, command: Send) -> Send | None:
    """A command about another message, with what it takes from that."""
    if command.kind == "forward":
        return _forwarded(stored, app, user, command)
    if command.kind == "press":
        return _pressed(stored, app, user, command)
    found = stored.entries.find(app, [command.about])
    if not found or not found[0].may_be_revised(user):
        return None
    return replace(command, conversation=found[0].conversation)


def _pressed(stored: MessageLog, app: str, user: str, command: Send) -> Send | None:
    """A pressed button: to the bot that has sent the message."""
    found = stored.entries.readable(app, user, [command.about])
    if not found or found[0].kind != "message" or found[0].sender in ("", user):
        return None
    if command.body.decode() not in values_of(found[0].meta):
        return None
    return replace(command, to=found[0].sender, conversation=0, meta=b"")


def _forwarded(stored: MessageLog, app: str, user: str, command: Send) -> Send | None:
    """A forwarded message: the content of the original, and who wrote that."""
    ids = [command.about]
    found = stored.entries.readable(app, user, ids) if user else stored.entries.find(app, ids)
    if not found or found[0].kind != "message" or found[0].room:
        return None
    original = found[0]
    origin = decode_meta(original.meta).get("forwarded") or {"from": original.sender, "id": original.id}
    meta = _encode({"forwarded": origin})
    return replace(command, type=original.type, body=original.body, about=0, meta=meta)


class MessageSearch:
    """Searches of messages. Owner of the turns: few searches run at a time, so that the database has time for
    everything else. Each user pays for the time that their searches take."""

    def __init__(self, store: Store) -> None:
        self._log = store.part(MessageLog)
        self._turns = BoundedSemaphore(SEARCHES_AT_ONCE)
        self._waiting = 0
        self._time = Buckets(SEARCH_TIME, SEARCH_MILLISECONDS, 60.0)

    def search(
        self,
        app: str,
        user: str,
        text: str,
        conversation: int,
        before: int,
        limit: int,
        filter: SearchFilter = NO_FILTER,
    ) -> tuple[list[Entry], int]:
        """As many of the newest results as fit on a page; see
        :meth:`imserver.messages.log.search.EntrySearch.find`. Raises StorageUnavailable, and TooManyRequests
        if the user has used up their time.
        """
        self._time.require((app, user))
        self._take_turn()
        began = monotonic()
        try:
            found, upto = self._log.search.find(app, user, text, conversation, before, limit, filter)
        finally:
            self._turns.release()
            self._time.charge((app, user), int((monotonic() - began) * 1000))
        entries, is_cut = newest_page(found, False)
        return entries, entries[0].id if is_cut else upto

    def _take_turn(self) -> None:
        has_turn = self._turns.acquire(blocking=False)
        if not has_turn and self._waiting < SEARCHES_WAITING:
            self._waiting += 1
            try:
                has_turn = self._turns.acquire(timeout=SEARCH_SECONDS)
            finally:
                self._waiting -= 1
        if not has_turn:
            raise StorageUnavailable("too many searches at a time")


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
        self._log = store.part(MessageLog)

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            Resume: CommandRow(self.resume, needs_session=False, answers=True),
            Send: CommandRow(self.send, answers=True),
            Sync: CommandRow(self.sync, answers=True),
            Ack: CommandRow(self.ack),
            History: CommandRow(self.history, refusals=_TOO_MANY),
            Conversations: CommandRow(self.conversations),
            Search: CommandRow(self.search, refusals=_TOO_MANY),
        }

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, connection: Connection, command: Send, answer: Answer) -> Reply | None:
        """Store a message, a recall or an edit; answered after the commit. May switch."""
        app, user = app_and_user(connection)
        if command.to == user:
            return Reply(errors.ReplyCode.BAD_PARAMETER)
        draft = self._messaging.draft_of(app, user, command)
        if draft is None:
            return _UNKNOWN if command.kind in ("forward", "press") else _REFUSED
        self._messaging.send_of_user(
            app, draft, lambda result: answer(_reply_to(command, result)), connection
        )
        return None

    # --- catch-up -------------------------------------------------------------------------------------------

    def resume(self, connection: Connection, command: Resume, answer: Answer) -> Reply | None:
        """Log in with a cursor: what was missed follows the reply, or the client has to sync. May switch."""
        login = Login(command.app, command.user, command.token, command.device)
        code = self._sessions.login(connection, login)
        if code != errors.ReplyCode.OK:
            return Reply(code)
        if connection.log_subscription is not None:
            return _OK

        def resumed(recovered: bool, _begin_anew: bool) -> None:
            answer(_RECOVERED if recovered else _MUST_SYNC)

        try:
            self._catch_up.resume(connection, command.cursor, command.acks, resumed)
        except StorageUnavailable:
            self._catch_up.put_off(connection, PendingLogSubscription(acks=command.acks))
            return _MUST_SYNC
        return None

    def sync(self, connection: Connection, command: Sync, answer: Answer) -> Reply | None:
        """A page of missed entries; after the last one new entries are delivered. May switch."""
        app, user = app_and_user(connection)
        now = connection.log_subscription
        if isinstance(now, PendingLogSubscription) and now.acks:
            acking = AckingLogSubscription(acked=command.after, delivered=command.after)
            self._catch_up.subscribe(connection, acking, live=False)
        elif now is None or isinstance(now, PendingLogSubscription):
            self._catch_up.subscribe(connection, LogSubscription(), live=False)
        # The subscription delivers changes of marks from here on, so none is missed.
        marks = UNSET if command.version < 0 else self._receipts.marks(app, user, command.version)
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
            entries, before = self._searches.search(
                app, user, "", conversation, before, limit, SearchFilter(types=command.types)
            )
            return Reply(errors.ReplyCode.OK, _search_page(entries, before))
        if command.after >= 0:
            read = stored.entries.history(app, user, conversation, before, limit, command.after)
            entries, more = oldest_page(*read)
        else:
            entries, more = newest_page(*stored.entries.history(app, user, conversation, before, limit))
        return Reply(errors.ReplyCode.OK, _page(entries, more, False))

    def conversations(self, connection: Connection, command: Conversations) -> Reply:
        """The user's conversations. Switches."""
        app, user = app_and_user(connection)
        found, more = self._log.conversations.page(app, user, command.before, command.limit)
        return Reply(
            errors.ReplyCode.OK, ConversationPage([conversation_view(each, user) for each in found], more)
        )

    def search(self, connection: Connection, command: Search) -> Reply:
        """Search in what the user may read. Switches."""
        entries, before = self._searches.search(
            *app_and_user(connection),
            command.text,
            command.conversation,
            command.before,
            command.limit,
            command.filter,
        )
        return Reply(errors.ReplyCode.OK, _search_page(entries, before))

    def ack(self, connection: Connection, command: Ack) -> Reply:
        """The client has everything up to an id. Never switches."""
        position = self._messaging.follower.position(connection.app or "")
        self._messaging.ack_tracker.acked(connection, command.id, position)
        return _OK


_RECOVERED: Final = Reply(errors.ReplyCode.OK, Resumed(True))
_MUST_SYNC: Final = Reply(errors.ReplyCode.OK, Resumed(False))
_UNKNOWN: Final = Reply(errors.ReplyCode.NO_DATA, RefusedView(RejectReason.UNKNOWN_MESSAGE))


def _reply_to(command: Send, result: Stored) -> Reply:
    if isinstance(result, Appended):
        entry = result.entry
        view = StoredView(entry.id, entry.conversation, entry.seq, result.repeated)
        if entry.kind == command.kind and (entry.body, entry.type) != (command.body, command.type):
            stored = entry.view()
            view.replaced = ReplacedView(stored.type, stored.text, stored.data, stored.base64)
        return Reply(errors.ReplyCode.OK, view)
    if isinstance(result, Rejected) and result.reason == RejectReason.REJECTED:
        return Reply(errors.ReplyCode.UNAUTHORIZED, RejectedView(result.detail))
    if isinstance(result, Rejected):
        return Reply(result.reply_code, RefusedView(result.reason))
    return _NOT_STORED


def _search_page(entries: list[Entry], before: int) -> SearchPage:
    entries, cut = newest_page(entries, False)
    messages = [entry.view() for entry in entries]
    before = entries[0].id if cut else before
    return SearchPage(messages, before > 0, before)


def _page(messages: list[Message], more: bool, anew: bool, marks: MarksView | UnsetType = UNSET) -> EntryPage:
    return EntryPage([message.view() for message in messages], more, True if anew else UNSET, marks)
