"""Messaging: sends drafts to the log, and delivers results and entries in the
order of the log. It also has the command that sends a message."""

from __future__ import annotations

from functools import partial
from time import perf_counter, time
from typing import Any, Final

from gevent.event import AsyncResult
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from imserver.gateway.auth.questions import ReviewDecision
from imserver.gateway.cluster.nodes import NodeMessages, NodeQueries, OtherNodes, read
from imserver.gateway.core.core import Core
from imserver.gateway.errors import ReplyCode, StorageUnavailable
from imserver.gateway.model import Answer, Reply
from imserver.gateway.transport.connection import Connection, app_and_user
from imserver.messenger.channels.stored_channels import ChannelLog
from imserver.messenger.delivery.acks import AckTracker
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.delivery.catch_up import CatchUp
from imserver.messenger.delivery.deliverer import Deliverer, LogFollower
from imserver.messenger.delivery.log_subscriptions import LogSubscriptions
from imserver.messenger.delivery.open_streams import OpenStreams
from imserver.messenger.delivery.wire import read_send
from imserver.messenger.log.asks import AskChange, AskRefused
from imserver.messenger.log.bots import values_of
from imserver.messenger.log.commands import Send
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Commit,
    Done,
    Draft,
    DraftSource,
    Entry,
    LogObserver,
    Rejected,
    RejectReason,
    StorageUnsure,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import Ask, forwarded_from
from imserver.messenger.log.model import (
    Message,
    ReviewUnavailable,
    TooManyMessages,
)

WIDE: Final = 50
"""After a message to this many connections the app pauses, so that more
messages gather. One write to a socket costs as much as twenty frames in a
write."""
_GATHER_SECONDS: Final = 0.000_1
"""The length of the pause for each connection that receives the message."""
_MAX_GATHER_SECONDS: Final = 0.1

_PIECE_BYTES: Final = 256 * 1024
"""The most bytes of several entries in one message to other nodes."""
_ENTRY_BYTES: Final = 1024
"""Upper bound of an entry's size without its body."""

_KNOWN_IDS: Final = "known_ids"


class ReplacedView(Struct, omit_defaults=True):
    """The content that was stored in place of the client's content."""

    type: str
    text: str | None = None
    data: Raw | None = None
    base64: bytes | None = None


class StoredView(Struct):
    """The answer to a send. ``repeated``: the message had been stored before;
    this is the first answer again."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False
    replaced: ReplacedView | UnsetType = UNSET


class ReasonView(Struct, omit_defaults=True):
    """The answer to a message that the back end of the app has rejected, or for
    which the app has no quota left. ``until``: when that ends, in Unix
    seconds."""

    reason: str
    until: int = 0


class RefusedView(Struct, omit_defaults=True):
    """The answer to a refused message, reaction, pin or answer: the reason for
    programmers. ``reason`` and ``until`` (Unix seconds): of a mute in the whole
    app, for people. ``ask``: the question as it is now."""

    refused: str
    reason: str = ""
    until: int = 0
    ask: Ask | None = None

    @staticmethod
    def of(result: Rejected) -> RefusedView:
        """The answer to a rejected request."""
        view = RefusedView(result.reason)
        if result.until:
            view.reason = result.detail
            view.until = result.until
        if isinstance(result, AskRefused):
            view.ask = result.ask
        return view


class KnownIds(Struct, frozen=True):
    """The query of a starting node for the greatest ids of logs that other
    nodes know. The answer is app → id."""


class Messaging:
    """Sends drafts to the log, and passes on results and stored entries. It
    owns the parts that deliver entries."""

    def __init__(
        self,
        core: Core,
        positions: ActionPositions,
        ack_tracker: AckTracker,
        channel_log: ChannelLog,
    ) -> None:
        """Make the parts that deliver entries. Nothing is read yet."""
        store = core.store
        metrics = core.metrics
        self._store = store
        self._log = store.part(MessageLog)
        self._account_apps = core.logins.account_apps
        self._metrics = metrics
        self._reviews = core.reviews
        self._sender_rates = core.sender_rates
        self._mutes = core.mutes
        self._node_messages = core.node_messages
        self.observers: list[LogObserver] = []
        """The observers of stored entries."""

        self.log_subscriptions = LogSubscriptions()
        self.positions = positions
        self.ack_tracker = ack_tracker
        self.streams = OpenStreams()
        """Streamed messages in conversations, which a feature opens."""
        self.deliverer = Deliverer(
            hub=core.hub,
            fanout=core.fanout,
            log_subscriptions=self.log_subscriptions,
            ack_tracker=ack_tracker,
            channel_log=channel_log,
            streams=self.streams,
        )
        self.follower = LogFollower(self._log, self.deliverer, metrics)
        self.catch_up = CatchUp(
            metrics=metrics,
            store=store,
            log_subscriptions=self.log_subscriptions,
            ack_tracker=ack_tracker,
            follower=self.follower,
            deliverer=self.deliverer,
            positions=positions,
        )

    # --- other nodes ----------------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add(_KNOWN_IDS, KnownIds, self._known_ids)

    def _known_ids(self, _query: KnownIds) -> dict[str, int]:
        """Return app → the greatest id of its log that this node knows."""
        return dict(self._log.writer.known)

    def learn(self, others: OtherNodes) -> None:
        """Ask the other nodes which ids are stored. Switches greenlets.

        If the database has lost entries, the ids of these entries must not be
        given to other entries.
        """
        if not self._store.has_database:
            return
        # Nodes of older versions do not announce this feature, and do not know
        # this query.
        leases = [
            lease for lease in others.node_messages.peers() if lease.feature_names
        ]
        answers, _ = others.query(_KNOWN_IDS, KnownIds(), leases)
        for known in read(answers, dict[str, int]).values():
            for app, id in known.items():
                self._log.writer.learn(app, id)

    # --- sending --------------------------------------------------------------

    def send_command(
        self, connection: Connection, command: Send, answer: Answer
    ) -> Reply | None:
        """Store a message, a forward, a recall, an edit or a press of a button.

        Returns None if the draft was sent to the log; ``answer`` then gets the
        reply after the commit. Otherwise returns the reply. May switch
        greenlets.
        """
        app, user = app_and_user(connection)
        if command.kind == "press":
            # The button belongs to a question, which is answered here, or to a
            # message of a bot, which gets a draft.
            change = self.answer(app, user, command.about, command.body.decode())
            if change is not None:
                return _reply_to_press(change)

        draft = self.draft_of(app, user, command)
        # The user may not do this, or there is no such message.
        if draft is None:
            if command.kind not in ("forward", "press"):
                return Reply(ReplyCode.UNAUTHORIZED)
            return Reply(ReplyCode.NO_DATA, RefusedView(RejectReason.UNKNOWN_MESSAGE))

        def reply(result: Stored) -> None:
            answer(_reply_to(command, result))

        self.send_of_user(app, draft, reply, connection)
        return None

    def draft_of(self, app: str, user: str, command: Send) -> Draft | None:
        """Return the draft of a message, a forward, a recall, an edit or a
        press of a button.

        Returns None if the user may not revise the message that the command is
        about, or may not read the message to forward. Also returns None if the
        message has no such button.

        An empty ``user`` means a back end, which may revise any message. For a
        plain message the method never switches greenlets. For the other kinds
        it switches, and may raise StorageUnavailable.
        """
        complete: Send | None = command
        if command.kind != "message":
            complete = _completed(self._log, app, user, command)
        if complete is None:
            return None
        # A forwarded message is stored as a new one.
        kind = complete.kind
        if kind == "forward":
            kind = "message"
        return Draft(
            sender=user,
            kind=kind,
            type=complete.type,
            body=complete.body,
            client_msg_id=complete.id,
            time_ms=int(time() * 1000),
            about=complete.about,
            meta=complete.meta,
            to_user=complete.to,
            conversation=complete.conversation,
            thread=complete.thread,
            also=complete.also,
        )

    def answer(
        self, app: str, user: str, message: int, value: str
    ) -> AskChange | Rejected | None:
        """Answer a question with the value of a button.

        Returns None if the message is not a question, or if the user may not
        read it. Switches greenlets. Raises StorageUnavailable.
        """
        if not self._store.has_database:
            return None
        asks = self._log.asks
        if asks.get(app, user, message) is None:
            return None
        # For a press that goes to a bot, send_of_user() checks the mute.
        mute = self.mute_of(app, user)
        if mute is not None:
            return mute
        return asks.answer(app, user, message, value=value)

    def read(self, app: str, user: str, data: bytes) -> Draft | None:
        """Return the draft of a message in JSON, as clients of the dialect
        ``cmd`` send it. See :meth:`draft_of`.

        Raises :class:`imserver.gateway.protocol.forgiving.Refused`.
        """
        return self.draft_of(app, user, read_send(data))

    def send(
        self,
        app: str,
        draft: Draft,
        done: Done,
        connection: Connection | None = None,
        source: DraftSource | None = None,
    ) -> None:
        """Store a draft. Never switches greenlets.

        ``done`` gets the result after ``connection`` has received every earlier
        entry. Everybody else who may read the message receives it, and so do
        the other connections of the sender. If the result is not known in time,
        ``done`` gets a StorageUnsure. This method is for drafts of back ends;
        for users see :meth:`send_of_user`. ``source``: the row that decides
        whether the draft is stored, and that is changed in the same
        transaction.
        """
        self._send(AppendRequest(app, draft, done, self, connection, source=source))

    def _send(self, request: AppendRequest) -> None:
        """Send a draft to the writer of the log. Never switches greenlets.

        If the app has no quota left, the draft is refused.
        """
        draft = request.draft
        stored = self._metrics.stored
        if stored.stops and draft.kind == "message":
            spent = stored.spent(request.app)
            if spent is not None:
                self.stored(request, spent)
                return
        # In an app with accounts, a first message needs a receiver with an
        # account.
        request.to_account = draft.to_user != "" and (
            request.to_account
            or (request.app in self._account_apps and not draft.to_anybody)
        )
        self._log.writer.send(request)

    def mute_of(self, app: str, user: str) -> Rejected | None:
        """Return the refusal for a user who is muted in the app, or None if the
        user is not muted. Never switches greenlets."""
        if not self._mutes.all:
            return None
        mute = self._mutes.mute_of(app, user)
        if mute is None:
            return None
        return Rejected(RejectReason.MUTED, mute.text, mute.until)

    def send_of_user(
        self,
        app: str,
        draft: Draft,
        done: Done,
        connection: Connection | None = None,
        to_account: bool = False,
        source: DraftSource | None = None,
    ) -> None:
        """Store a draft of a user, like :meth:`send`. If the app is configured
        so, its back end reviews the draft first. The rate of some users is
        limited. A user who is muted in the app cannot send.

        Drafts of one connection keep their order. Recalls and presses of
        buttons have no content of the user. They are not reviewed, but wait for
        the reviews of earlier drafts. ``to_account``: the receiver of a first
        message must be an account.
        """
        request = AppendRequest(app, draft, done, self, connection, to_account, source)
        has_content = draft.kind not in ("recall", "press")
        if has_content:
            mute = self.mute_of(app, draft.sender)
            if mute is not None:
                self.stored(request, mute)
                return
        if self._sender_rates.known and not self._sender_rates.take(app, draft.sender):
            self.stored(request, TooManyMessages("the user has sent too many messages"))
            return
        if app not in self._reviews.apps:
            self._send(request)
            return

        send_reviewed = partial(self._send_reviewed, request)
        if has_content:
            self._reviews.review(app, facts_of(draft), send_reviewed, connection)
        elif connection is not None:
            # The draft waits for the reviews of the connection's earlier
            # drafts.
            self._reviews.pass_by(send_reviewed, connection)
        else:
            self._send(request)

    def _send_reviewed(self, request: AppendRequest, decision: ReviewDecision) -> None:
        """Send a draft as the review has decided. Never switches greenlets.

        The draft is sent unchanged or with other content, or is refused.
        """
        if decision.action == "reject":
            self.stored(request, Rejected(RejectReason.REJECTED, decision.reason))
            return
        # The result is an error after which the client may send the message
        # again.
        if decision.action == "undecided":
            error = ReviewUnavailable("the back end has not reviewed it in time")
            self.stored(request, error)
            return
        if decision.action == "replace":
            request.draft = replace(
                request.draft, type=decision.type, body=decision.body
            )
        self._send(request)

    def store(
        self, app: str, draft: Draft, *, by_user: bool, to_account: bool = False
    ) -> Stored:
        """Store a draft, and wait for the result. Switches greenlets.

        If ``by_user``, the draft is sent with :meth:`send_of_user`, otherwise
        with :meth:`send`. ``to_account``: see :meth:`send_of_user`. Returns
        :class:`Appended`, :class:`Rejected` or StorageUnavailable; raises
        nothing.
        """
        settled: AsyncResult[Stored] = AsyncResult()
        began = perf_counter()
        if by_user:
            self.send_of_user(app, draft, settled.set, to_account=to_account)
        else:
            self.send(app, draft, settled.set)
        result = settled.get()
        assert result is not None
        self.waited(began)
        return result

    def waited(self, began: float) -> None:
        """Add the time that this greenlet has waited for the log to the
        metrics. ``began``: the value of ``perf_counter()`` when the wait began.
        Never switches greenlets."""
        self._metrics.transactions.heard("MessageLog.append", perf_counter() - began)

    def stored(self, request: AppendRequest, result: Stored) -> None:
        """See :class:`imserver.messenger.log.contract.DraftOwner`."""
        if request.unsure is not None:
            # The sender has already been told that the result is not known. If
            # the sender still wants the result, another function gets it.
            request.done = request.unsure.on_known
        if isinstance(result, Appended):
            if result.repeated:
                self._metrics.stored_repeats += 1
            else:
                self._metrics.stored[request.app] += 1
            if request.done is not None and self.follower.is_behind(
                request.app, result.entry.id
            ):
                # The entries before this entry were not delivered yet, so the
                # result waits for them.
                self.deliverer.settle_in_order(request, result)
                if result.repeated:
                    self.follower.expect(request.app, result.entry.id)
                return
        elif not isinstance(result, StorageUnsure):
            self._metrics.not_stored += 1
        self.deliverer.settle(request, result)

    # --- the listener of the log ----------------------------------------------

    def committed(self, commit: Commit) -> None:
        """See :class:`imserver.messenger.log.writer.LogListener`."""
        app = commit.app
        if self._node_messages is not None:
            _broadcast(self._node_messages, commit)
        for observer in self.observers:
            if app in observer.apps:
                observer.committed(app, commit.first, commit.last, commit.entries)
        self.deliverer.widest.pop(app, None)
        self.follower.committed(commit)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """See :class:`imserver.messenger.log.writer.LogListener`."""
        self._metrics.batch_messages.observe(drafts)
        self._metrics.batch_seconds.observe(seconds)
        widest = self.deliverer.widest.get(app, 0)
        if widest >= WIDE:
            return min(widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS)
        return 0.0


def _reply_to(command: Send, result: Stored) -> Reply:
    """Return the reply to a command whose draft has this result.

    If other content was stored, for example after a review, the reply includes
    that content.
    """
    if isinstance(result, Appended):
        entry = result.entry
        view = StoredView(entry.id, entry.conversation, entry.seq, result.repeated)
        # A review may have replaced the content.
        is_same = entry.body == command.body and entry.type == command.type
        if entry.kind == command.kind and not is_same:
            stored = entry.view()
            view.replaced = ReplacedView(
                stored.type, stored.text, stored.data, stored.base64
            )
        return Reply(ReplyCode.OK, view)
    return _reply_without_entry(result)


def _reply_without_entry(result: Rejected | StorageUnavailable) -> Reply:
    """Return the reply to a command whose draft was not stored.

    A rejected draft must not be sent again. After the other errors, the client
    may try again.
    """
    # A back end gives its own reasons, which clients show to people.
    if isinstance(result, Rejected) and result.reason == RejectReason.REJECTED:
        return Reply(ReplyCode.UNAUTHORIZED, ReasonView(result.detail), result.reason)
    if isinstance(result, Rejected):
        return Reply(result.reply_code, RefusedView.of(result), result.reason)
    # The app has no quota left until this time.
    if result.until:
        return Reply(ReplyCode.NOT_STORED, ReasonView(str(result), result.until))
    if isinstance(result, TooManyMessages):
        return Reply(ReplyCode.NOT_STORED, None, "rate")
    return Reply(ReplyCode.NOT_STORED)


def _reply_to_press(change: AskChange | Rejected) -> Reply:
    """Return the reply to the press of a button that answered a question."""
    if isinstance(change, Rejected):
        return Reply(change.reply_code, RefusedView.of(change), change.reason)
    entry = change.entry
    if entry is None:
        # The user has given this answer before.
        view = StoredView(0, change.conversation, 0, repeated=True)
    else:
        view = StoredView(entry.id, change.conversation, entry.seq)
    return Reply(ReplyCode.OK, view)


def _broadcast(nodes: NodeMessages, commit: Commit) -> None:
    """Send stored entries to all other live nodes, in pieces of limited size.

    Together the pieces cover all ids of the commit. A node that misses a piece
    reads it from the log.
    """
    if not nodes.peers():
        return
    app = commit.app
    first = commit.first
    piece: list[Entry] = []
    size = 0
    for entry in commit.entries:
        entry_size = len(entry.body) + len(entry.meta) + _ENTRY_BYTES
        # A piece has at least one entry, even if the entry is larger than the
        # limit.
        if piece and size + entry_size > _PIECE_BYTES:
            nodes.broadcast(Commit(app, first, piece[-1].id, piece))
            first = piece[-1].id + 1
            piece = []
            size = 0
        piece.append(entry)
        size += entry_size
    nodes.broadcast(Commit(app, first, commit.last, piece))


def facts_of(draft: Draft) -> dict[str, Any]:
    """Return the fields of a draft for its review, as a webhook sends them.

    Empty fields are left out.
    """
    # A message without an id shows the content as clients see it.
    content = Message(
        id=0,
        conversation=0,
        seq=0,
        sender=draft.sender,
        kind=draft.kind,
        type=draft.type,
        body=draft.body,
    ).view()
    facts: dict[str, Any] = {"kind": draft.kind, "sender": draft.sender}
    target = {
        "to": draft.to_user,
        "conversation": draft.conversation,
        "room": draft.room,
    }
    facts |= {name: value for name, value in target.items() if value}
    # An empty text is content, too.
    payload = {
        "type": content.type,
        "text": content.text,
        "data": content.data,
        "base64": content.base64,
    }
    facts |= {name: value for name, value in payload.items() if value is not None}
    # These are further fields, which most messages do not have.
    message_fields = {
        "client_msg_id": draft.client_msg_id,
        "about": draft.about,
        "thread": draft.thread,
        "meta": Raw(draft.meta),
    }
    facts |= {name: value for name, value in message_fields.items() if value}
    return facts


def _completed(stored: MessageLog, app: str, user: str, command: Send) -> Send | None:
    """Complete a command about another message with the data of that message.

    A forward gets the content and the author of the message. The press of a
    button gets a receiver: the bot that has sent the message. Returns None if
    there is no such message, or if the user may not do this with the message.
    Switches greenlets. Raises StorageUnavailable.
    """
    ids = [command.about]
    kind = command.kind
    # A back end may forward any message of its app.
    if kind == "press" or (kind == "forward" and user):
        entries = stored.entries.readable(app, user, ids)
    else:
        entries = stored.entries.find(app, ids)
    if not entries:
        return None
    (entry,) = entries

    # The command is an edit or a recall.
    if kind not in ("forward", "press"):
        if entry.may_be_revised(user):
            return replace(command, conversation=entry.conversation)
        return None
    if entry.kind != "message":
        return None

    if kind == "press":
        return _completed_press(command, entry, user)
    return _completed_forward(command, entry)


def _completed_press(command: Send, message: Entry, user: str) -> Send | None:
    """Address the press of a button to the bot that has sent the message.

    Returns None if the message has no such button. Also returns None if no bot
    can answer, because a back end (``""``) or the user has sent the message.
    """
    if message.sender in ("", user):
        return None
    if command.body.decode() not in values_of(message.meta):
        return None
    return replace(command, to=message.sender, conversation=0, meta=b"")


def _completed_forward(command: Send, message: Entry) -> Send | None:
    """Give a forward the content of the message, and the name of its author.

    Returns None for a message of a room, which cannot be forwarded.
    """
    if message.room:
        return None
    meta = forwarded_from(message.meta, message.sender, message.id)
    return replace(command, type=message.type, body=message.body, about=0, meta=meta)
