"""Durable events as JSON: entries of the message log, and rows of the table
``event``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from imserver.backends.webhooks.event_rows import StoredEvent

if TYPE_CHECKING:
    from imserver.plugin.messages import Entry

LOG_PREFIX: Final = "log-"
EVENT_PREFIX: Final = "event-"
"""Prefixes of the ids of events, for entries of the log and for rows."""
_GROUP_KINDS: Final = ("join", "leave", "group")
_SECOND_MS: Final = 1000


class Outbound(Struct, frozen=True):
    """An event as it is sent to a back end.

    ``id`` stays the same at each attempt, for example ``log-17``. The events of
    a ``user`` are sent in order.
    """

    id: str
    user: str
    time: int
    """Unix seconds."""
    body: bytes


class Page(Struct):
    """Events in the order in which they are sent."""

    events: list[Outbound] = []
    is_full: bool = False
    """Whether events were left out, because the page has as many as it may
    have."""
    last_entry: int = 0
    last_row: int = 0
    """The greatest ids of the entries and rows whose events are on the page."""


def page_of(
    app: str,
    entries: Sequence[Entry],
    rows: Sequence[StoredEvent],
    node: str,
    wanted: frozenset[str],
    limit: int,
    limit_bytes: int,
) -> Page:
    """Return the first events of entries and rows, ordered by time.

    Entries keep their order, and so do rows. ``wanted``: the kinds of events
    that the receiver wants. The page has at most ``limit`` events of
    ``limit_bytes`` together, but a single event may be larger.
    """
    # Each event with the ids of its entry and of its row; one of the two is 0.
    events_of_log: list[tuple[Outbound, int, int]] = []
    for entry in entries:
        event = of_entry(app, entry, node, wanted)
        if event is not None:
            events_of_log.append((event, entry.id, 0))
    events_of_table: list[tuple[Outbound, int, int]] = []
    for row in rows:
        event = of_row(app, row, node, wanted)
        if event is not None:
            events_of_table.append((event, 0, row.id))

    merged = _in_order_of_time(events_of_log, events_of_table)
    return _first_of(merged, limit, limit_bytes)


def _in_order_of_time(
    *lists: list[tuple[Outbound, int, int]],
) -> Iterable[tuple[Outbound, int, int]]:
    """Merge lists of events by time. The order in each list stays."""
    now = int(time())

    def time_of(item: tuple[Outbound, int, int]) -> int:
        """Return the time of an event, at most now.

        The clock of a client may have been ahead.
        """
        return min(item[0].time, now)

    return merge(*lists, key=time_of)


def _first_of(
    events: Iterable[tuple[Outbound, int, int]], limit: int, limit_bytes: int
) -> Page:
    """Return a page with the first events, which notes whether others are left.

    ``events``: each event with the ids of its entry and of its row; one of the
    two is 0. The first event may have more bytes than the limit.
    """
    page = Page()
    size = 0
    for event, entry_id, row_id in events:
        size += len(event.body)
        # A page without an event would never end.
        if len(page.events) >= limit or (page.events and size > limit_bytes):
            page.is_full = True
            break
        page.events.append(event)
        page.last_entry = max(page.last_entry, entry_id)
        page.last_row = max(page.last_row, row_id)
    return page


def encode(
    id: str, event: str, app: str, time: int, node: str, facts: Mapping[str, Any]
) -> bytes:
    """Encode an event as JSON.

    ``facts``: its fields besides the ones that every event has. ``time``: Unix
    seconds.
    """
    return msgspec.json.encode(
        {"id": id, "event": event, "app": app, "time": time, "node": node, **facts}
    )


class StoredPosition(Struct, frozen=True):
    """The position at which an entry is stored."""

    id: int
    conversation: int
    seq: int


class MessageEvent(Struct, omit_defaults=True):
    """The event of a stored message, an edit or a recall."""

    id: str
    event: str
    app: str
    time: int
    node: str
    sender: str
    to: str = ""
    room: str = ""
    group: str = ""
    kind: str = "message"
    type: str = ""
    text: str = ""
    data: Raw | None = None
    base64: bytes | None = None
    client_msg_id: str = ""
    about: int = 0
    meta: Raw | None = None
    stored: StoredPosition | None = None
    bot: str = ""
    """The bot that receives the event; empty if the back end receives it."""


def of_entry(
    app: str, entry: Entry, node: str, wanted: frozenset[str]
) -> Outbound | None:
    """Return the event of an entry of the log.

    None: the entry has no event, or the receiver does not want the event.
    Messages of back ends have no sender, and no event. A button press that
    closes a question gives ``ask_closed`` if that is wanted, otherwise
    ``message`` as any press does.
    """
    id = f"{LOG_PREFIX}{entry.id}"
    time = entry.time_ms // _SECOND_MS
    # A change of a group: who joined or left, or a new name.
    if entry.kind in _GROUP_KINDS:
        if "group" not in wanted:
            return None
        body = encode(id, "group", app, time, node, _group_facts(entry))
        return Outbound(id, entry.sender, time, body)

    # An entry has one event at most. The question that closes comes first.
    closing_facts: dict[str, Any] = {}
    if "ask_closed" in wanted:
        closing_facts = _closing_facts(entry)
    if closing_facts:
        body = encode(id, "ask_closed", app, time, node, closing_facts)
    elif entry.sender and "message" in wanted:
        body = msgspec.json.encode(_message_event(id, app, time, node, entry))
    else:
        return None
    return Outbound(id, entry.sender, time, body)


def for_bot(app: str, entry: Entry, node: str, bot: str) -> Outbound:
    """Return the event of an entry for a bot that may read the entry.

    Unlike for back ends, messages of back ends have events, too.
    """
    id = f"{LOG_PREFIX}{entry.id}"
    time = entry.time_ms // _SECOND_MS
    if entry.kind in _GROUP_KINDS:
        # The bot is named, because one address may receive events of several
        # bots.
        facts = {"bot": bot, **_group_facts(entry)}
        body = encode(id, "group", app, time, node, facts)
    else:
        event = _message_event(id, app, time, node, entry)
        body = msgspec.json.encode(replace(event, bot=bot))
    return Outbound(id, entry.sender, time, body)


def of_row(
    app: str, row: StoredEvent, node: str, wanted: frozenset[str]
) -> Outbound | None:
    """Return the event of a row of the table ``event``.

    None: the receiver does not want its kind.
    """
    if row.kind not in wanted:
        return None
    id = f"{EVENT_PREFIX}{row.id}"
    head = encode(id, row.kind, app, row.time, node, {})
    # Join two JSON objects to one: `{"id": 1}` and `{"user": "ann"}` become
    # `{"id": 1,"user": "ann"}`.
    body = b"%b,%b" % (head[:-1], row.body[1:])
    return Outbound(id, row.user, row.time, body)


def _message_event(
    id: str, app: str, time: int, node: str, entry: Entry
) -> MessageEvent:
    """Return the event of a stored message, an edit or a recall.

    ``id``, ``time`` and ``node``: fields that every event has.
    """
    content = entry.view()
    event = MessageEvent(
        id,
        "message",
        app,
        time,
        node,
        entry.sender,
        kind=entry.kind,
        type=content.type,
        text=content.text or "",
        data=content.data,
        base64=content.base64,
        client_msg_id=entry.client_msg_id,
        about=entry.about,
        meta=content.meta,
        stored=_position(entry),
    )
    # It has one receiver: a user, a room, or a group.
    if entry.members:
        event.to = content.to
    elif entry.room:
        event.room = entry.room
    else:
        event.group = str(entry.conversation)
    return event


def _group_facts(entry: Entry) -> dict[str, Any]:
    """Return the fields of a ``group`` event: how a group has changed."""
    facts = {
        "group": str(entry.conversation),
        "user": entry.sender,
        "change": entry.kind,
    }
    return {**facts, **entry.details(), "stored": _position(entry)}


def _closing_facts(entry: Entry) -> dict[str, Any]:
    """Return the fields of an ``ask_closed`` event about a question.

    They are empty if the entry closes no question. A press with a type is an
    act on a question, such as an answer. If the act closes the question, its
    details have the new ``state``.
    """
    if entry.kind != "press" or not entry.type:
        return {}
    change = entry.ask_details()
    if "state" not in change:
        return {}
    return {
        "ask": entry.about,
        "user": entry.sender,
        **change,
        "stored": _position(entry),
    }


def _position(entry: Entry) -> StoredPosition:
    """Return where an entry is stored, for events about it."""
    return StoredPosition(entry.id, entry.conversation, entry.seq)
