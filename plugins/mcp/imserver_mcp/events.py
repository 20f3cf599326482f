"""Events of the log for agents: the list of events, polls, and streams of
changes.

An agent has a cursor: the id of the last entry of the log that it has. It may
read the entries that its user may read, and it reads them as a client reads
missed entries. The extension is experimental; the working group for triggers
and events makes its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from imserver.plugin.errors import CloseCode
from imserver.plugin.identity import Needs
from imserver.plugin.messages import Entry, MessageLog
from imserver.plugin.runtime import Service
from imserver.plugin.services import Core
from imserver.plugin.wire import id_of

from .declared import What
from .offers import schema_of
from .protocol import META, Code, McpError, notification
from .resources import ALL, is_subscribable
from .turn import Turn

PAGE: Final = 100
MOST_STREAMS: Final = 20
"""The most streams of one user at a time."""
NEED: Final = Needs.ADMIN_OR_MEMBER
_EVENTS: Final = (
    (
        "message.created",
        "message",
        "Somebody has written in one of your conversations.",
    ),
    (
        "message.changed",
        "edit recall reaction pin",
        "A message was edited, recalled, reacted to or pinned.",
    ),
    (
        "question.changed",
        "press",
        "A question was answered or has ended, or a button was pressed.",
    ),
    (
        "member.changed",
        "join leave group",
        "Somebody has joined or left a group, or it was changed.",
    ),
)
"""Event, the kinds of entries that it stands for, and its description."""
_KINDS: Final = {name: kinds.split() for name, kinds, _ in _EVENTS}
MODES: Final = ("poll", "webhook")
NEXT_POLL_MS: Final = 5000
"""How often clients should poll, in milliseconds."""
STREAM_SECONDS: Final = 600.0
"""How long a stream is served. Then its client must show its token again."""
_SECOND_MS: Final = 1000


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """The filter for events of a kind."""

    conversation: Annotated[
        int,
        Meta(
            description="Only events of this conversation; 0: of all conversations.",
            ge=0,
        ),
    ] = 0
    sender: Annotated[
        str, Meta(description="Only events that this user has caused.", max_length=255)
    ] = msgspec.field(default="", name="from")
    own: Annotated[
        bool,
        Meta(description="Whether to include events that your own user has caused."),
    ] = False


class Subscription(Struct, frozen=True):
    """A subscription to one event, such as ``message.created``. ``wanted``: its
    filter."""

    event: str
    wanted: Wanted

    @classmethod
    def read(cls, turn: Turn, mode: str) -> Subscription:
        """The subscription that a request describes. ``mode``: how its events
        are delivered. Raises McpError."""
        name = turn.message.text("name")
        arguments = turn.message.mapping("arguments")
        # The codes are those of the extension for events.
        if name not in _KINDS:
            raise McpError(
                Code.NOT_FOUND, f"There is no event {name!r}", {"kind": "event"}
            )
        if mode not in MODES:
            raise McpError(
                Code.UNSUPPORTED,
                "Unsupported",
                {"feature": "deliveryMode", "value": mode},
            )
        try:
            return cls(name, msgspec.convert(arguments, Wanted))
        except msgspec.ValidationError as error:
            raise McpError(Code.BAD_PARAMS, f"arguments: {error}") from None

    @classmethod
    def of(cls, what: What) -> Subscription:
        """The subscription of a stored webhook."""
        return cls(what.event, msgspec.convert(what.arguments, Wanted))

    def has(self, entry: Entry, user: str) -> bool:
        """Whether the subscriber ``user`` gets an entry of the log.

        Its kind must belong to the event, and the filter must admit it.
        """
        wanted = self.wanted
        return (
            entry.kind in _KINDS[self.event]
            and (wanted.own or entry.sender != user)
            and wanted.conversation in (0, entry.conversation)
            and wanted.sender in ("", entry.sender)
        )

    def occurrence(self, entry: Entry, cursor: int | None = None) -> dict[str, Any]:
        """An entry of the log as an event for an agent.

        ``cursor``: the position after it; None if it is sent without one.
        """
        moment = datetime.fromtimestamp(entry.time_ms / _SECOND_MS, UTC)
        event = {
            "eventId": f"{entry.id}",
            "name": self.event,
            "timestamp": moment.isoformat(timespec="milliseconds").replace(
                "+00:00", "Z"
            ),
            "data": entry.view(),
        }
        if cursor is not None:
            event["cursor"] = str(cursor)
        return event


def listed() -> list[dict[str, Any]]:
    """The list of all events, as ``events/list`` answers it."""
    schemas = {"inputSchema": schema_of(Wanted), "payloadSchema": {"type": "object"}}
    return [
        {"name": name, "description": text, "delivery": MODES, **schemas}
        for name, _, text in _EVENTS
    ]


def require_user(turn: Turn) -> str:
    """The user for whom a request wants events. Raises McpError if it names
    none."""
    if not turn.user:
        raise McpError(Code.FORBIDDEN, "Name the user: their events are told")
    return turn.user


def position_of(turn: Turn) -> tuple[int, bool]:
    """The position in the log from which a request continues.

    Also returns whether entries after its cursor were lost (``truncated``).
    Without a cursor it begins at the end of the log. May switch greenlets.
    Raises McpError.
    """
    cursor = turn.params.get("cursor")
    is_cursor = isinstance(cursor, str) and cursor.isdecimal()
    if cursor is not None and not is_cursor:
        raise McpError(Code.BAD_PARAMS, "cursor: it is none of this server")

    extent = turn.core.store.part(MessageLog).entries.extent(turn.app)
    if cursor is None:
        return extent.head, False
    position = id_of(cursor)
    if extent.continues(position):
        return position, False
    # The cursor is of another log, or its entries have expired.
    if position > extent.head:
        return extent.head, True
    return extent.floor, True


def poll(turn: Turn) -> dict[str, Any]:
    """Answer ``events/poll`` with the events after the cursor of the agent.

    May switch greenlets. Raises McpError.
    """
    user = require_user(turn)
    params = turn.params
    subscription = Subscription.read(turn, "poll")
    limit = _limit_in(params)
    position, truncated = position_of(turn)
    log = turn.core.store.part(MessageLog).entries
    entries, has_more = log.sync(turn.app, user, position, limit)
    # The cursor moves over entries that are no such events, too.
    if entries:
        position = entries[-1].id
    events = [
        subscription.occurrence(entry)
        for entry in entries
        if subscription.has(entry, user)
    ]
    return {
        "events": events,
        "cursor": str(position),
        "truncated": truncated,
        "hasMore": has_more,
        "nextPollMs": NEXT_POLL_MS,
    }


def _limit_in(params: Mapping[str, Any]) -> int:
    """The most events that a request wants, at most a page. Raises
    McpError."""
    limit = params.get("maxEvents", PAGE)
    if not isinstance(limit, int) or limit < 1:
        raise McpError(Code.BAD_PARAMS, "maxEvents: expected a number from 1")
    return min(limit, PAGE)


Notify = Callable[[Sequence[Entry]], Collection[bytes]]


class Follower(Service):
    """A stream of changes to one agent.

    ``position``: the last entry of the log that it covers. ``notify`` makes the
    messages about entries. ``until``: when it ends, by the monotonic clock.
    ``proof`` shows whether its principal still has the right.
    """

    turn: Turn
    position: int
    notify: Notify
    until: float
    proof: str


class Followers:
    """The streams of changes on this node.

    One greenlet serves all of them when the log has new entries.
    """

    def __init__(self, core: Core) -> None:
        """Begin without streams."""
        self._core = core
        self._followers: dict[Any, Follower] = {}
        self.wake: Callable[[], object] = bool
        """Called when a stream has begun. The object that looks for new entries
        sets it."""

    def apps(self) -> set[str]:
        """The apps whose changes the streams want."""
        return {follower.turn.app for follower in self._followers.values()}

    def add(self, turn: Turn, position: int, notify: Notify) -> None:
        """Serve a stream that has begun, with the entries after ``position``.

        Raises McpError if its user has too many streams.
        """
        if self._count_of_user(turn) >= MOST_STREAMS:
            raise McpError(
                Code.EXHAUSTED,
                "ResourceExhausted",
                {"limit": "streams", "max": MOST_STREAMS},
            )

        until = monotonic() + STREAM_SECONDS
        proof = turn.proof()
        self._followers[turn.stream] = Follower(turn, position, notify, until, proof)
        # If the key is withdrawn, the stream is closed.
        if turn.principal.kind == "key":
            self._core.keys.hold(turn.principal.key, turn.stream)
        self.wake()

    def _count_of_user(self, turn: Turn) -> int:
        """The number of streams of the user of a request."""
        turns = [follower.turn for follower in self._followers.values()]
        return sum((each.app, each.user) == (turn.app, turn.user) for each in turns)

    def ended(self, stream: Any, _code: int) -> None:
        """Forget a stream that has ended."""
        self._followers.pop(stream, None)

    def send_news(
        self, heads: Mapping[str, int], readers: Mapping[str, Collection[str]]
    ) -> None:
        """Send new entries to the streams.

        ``heads``: app → its newest entry. ``readers``: app → users who may read
        something new; all bots that may read something new are in it. May
        switch greenlets. Raises StorageUnavailable.
        """
        for follower in list(self._followers.values()):
            turn = follower.turn
            head = heads.get(turn.app, 0)
            if _is_bot_without_news(turn, readers):
                # The database need not be asked.
                follower.position = max(follower.position, head)
            self._close_ended(follower, head)
            if turn.stream.is_open and head > follower.position:
                self._send(follower, head)

    def _close_ended(self, follower: Follower, head: int) -> None:
        """Close a stream if its time is over, or its principal has lost the
        right. May switch greenlets."""
        turn = follower.turn
        is_banned = self._core.sessions.is_banned
        if monotonic() > follower.until or is_banned(turn.app, turn.user):
            turn.stream.close(CloseCode.GOING_AWAY)
        # A check of the right costs a query, so it comes only before a message.
        if head > follower.position and not self._core.still_holds(
            turn.app, turn.user, follower.proof
        ):
            turn.stream.close(CloseCode.TOKEN_INVALID)

    def _send(self, follower: Follower, head: int) -> None:
        """Send the entries after the position of a stream, up to the entry
        ``head``.

        They are sent page by page, at the speed at which the client reads. May
        switch greenlets.
        """
        log = self._core.store.part(MessageLog).entries
        turn = follower.turn
        has_more = True
        while has_more and turn.stream.is_open and head > follower.position:
            entries, has_more = log.sync(turn.app, turn.user, follower.position, PAGE)
            if entries:
                follower.position = entries[-1].id
            # Entries that the user may not read are passed over, too.
            if not has_more:
                follower.position = max(head, follower.position)
            for message in follower.notify(entries):
                turn.stream.send(message)
            if has_more:
                turn.stream.wait_until_sent()


class ChangedResources(Struct, frozen=True):
    """The resources whose changes a client wants to know.

    ``uris``: their addresses. ``has_list``: it also wants to know when the list
    changes. ``meta`` names the request to which the notifications belong.
    """

    uris: Collection[str]
    has_list: bool
    meta: Mapping[str, Any]

    @classmethod
    def read(cls, turn: Turn) -> ChangedResources:
        """The changes that a request wants to know. Raises McpError.

        Addresses to which nobody can subscribe are left out.
        """
        wanted = turn.message.mapping("notifications")
        uris = wanted.get("resourceSubscriptions") or []
        if not _are_texts(uris):
            raise McpError(
                Code.BAD_PARAMS, "resourceSubscriptions: expected a list of texts"
            )
        # A back end that names no user gets no notifications.
        return cls(
            {uri for uri in uris if turn.user and is_subscribable(uri)},
            wanted.get("resourcesListChanged") is True and bool(turn.user),
            {"_meta": {f"{META}subscriptionId": turn.message.id}},
        )

    def agreed(self) -> dict[str, Any]:
        """The changes that the client will be told, as the acknowledgement
        names them."""
        agreed: dict[str, Any] = {}
        if self.uris:
            agreed["resourceSubscriptions"] = sorted(self.uris)
        if self.has_list:
            agreed["resourcesListChanged"] = True
        return agreed

    def notifications(self, entries: Sequence[Entry]) -> list[bytes]:
        """The notifications about new entries: one for each changed
        resource."""
        if not entries:
            return []
        # Each conversation once, in the order of the entries.
        changed = dict.fromkeys(f"{ALL}/{entry.conversation}" for entry in entries)
        lines = [
            notification("notifications/resources/updated", {"uri": uri, **self.meta})
            for uri in (ALL, *changed)
            if uri in self.uris
        ]
        if self.has_list and any(map(_changes_list, entries)):
            method = "notifications/resources/list_changed"
            lines.append(notification(method, self.meta))
        return lines


def _are_texts(values: Any) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(values, list) and all(isinstance(each, str) for each in values)


def _is_bot_without_news(turn: Turn, readers: Mapping[str, Collection[str]]) -> bool:
    """Whether a stream is that of a bot which can read none of the new entries.

    If nothing is known about the app, the bot may read something.
    """
    if turn.principal.kind != "bot":
        return False
    return turn.user not in readers.get(turn.app, (turn.user,))


def _changes_list(entry: Entry) -> bool:
    """Whether an entry changes the list of somebody's conversations.

    It does if it is the first of a conversation, or if somebody joins or
    leaves.
    """
    return entry.seq == 1 or entry.kind in ("join", "leave")


def listen(followers: Followers, turn: Turn) -> None:
    """Answer ``subscriptions/listen`` with a stream of changes, which stays
    open.

    May switch greenlets. Raises McpError.
    """
    changes = ChangedResources.read(turn)
    head = turn.core.store.part(MessageLog).entries.head(turn.app)
    if not turn.begin():
        raise McpError(
            Code.INVALID_REQUEST, "The client does not accept `text/event-stream`"
        )
    # The position was read before the stream began, so no change is missed.
    followers.add(turn, head, changes.notifications)
    turn.notify(
        "notifications/subscriptions/acknowledged",
        {"notifications": changes.agreed(), **changes.meta},
    )
