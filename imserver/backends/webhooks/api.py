"""Durable events: read them from a cursor, list dead ones, replay them; the
state of webhooks."""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from imserver.backends.webhooks import dead_events
from imserver.backends.webhooks.event_json import page_of
from imserver.backends.webhooks.parts import webhooks_of
from imserver.backends.webhooks.requests import (
    MOST_ANSWERS,
    LastAnswer,
    Receiver,
    new_delivery_id,
)
from imserver.backends.webhooks.webhooks import QUERY, NodePart, Webhooks
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    ApiProblem,
    Call,
    NextCursor,
    PageCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import Needs, Tenant
from imserver.plugin.services import Core
from imserver.plugin.storage import Statements
from imserver.plugin.wire import base64url

_EVENTS_PER_PAGE: Final = 100
_WEBHOOKS_PER_PAGE: Final = 50
"""Number of events, or of webhooks, on a page if the reader names no limit."""
_PAGE_BYTES: Final = 1 << 20
"""Limit of the bytes of the events on one page."""
_CURSOR_DIGITS: Final = 18
"""The most digits of a number in a cursor, so that it fits into 64 bits."""

App = Annotated[str, about("The app: a tenant of this server.", min_length=1)]
PageSize = Annotated[
    int, about("The maximum number of events on this page.", ge=1, le=1000)
]


class EventsAnswer(Struct):
    """Events. The events of a user are in order."""

    events: Annotated[
        list[Any], about("Events in the form in which a webhook receives them.")
    ]
    next: Annotated[
        str,
        about(
            "Pass this value as `after` for the next page. Store it when you have "
            "stored the events."
        ),
    ]
    more: Annotated[bool, about("Whether more events exist now.")]


class DeadEvent(Struct):
    """An event that the receiver has not accepted within three days."""

    id: str
    user: str
    attempts: int
    since: Annotated[int, about("The time of the first failure, in Unix seconds.")]
    event: Annotated[
        Any,
        about(
            "The event as it was sent. An account that operates the app sees no "
            "contents."
        ),
    ]


class DeadAnswer(Struct):
    """Dead events, the oldest first."""

    events: list[DeadEvent]
    next: NextCursor


class ReplayAnswer(Struct):
    """The result."""

    replayed: Annotated[int, about("The number of events that are sent again.")]


class AnswerShown(LastAnswer, frozen=True, array_like=False):
    """The answer of the receiver to a request."""


class WebhookShown(Struct):
    """The webhook of an app."""

    app: str
    url: Annotated[
        str,
        about(
            "The address of the receiver; empty: the back end reads the events itself."
        ),
    ]
    events: Annotated[
        list[str], about("The types of events that the webhook receives.")
    ]
    failing: Annotated[bool, about("Whether the last request of a node has failed.")]
    waiting: Annotated[int, about("The number of events that wait in memory.")]
    stored: Annotated[
        int,
        about(
            "The approximate number of durable events that are still to be delivered."
        ),
    ]
    aside: Annotated[
        int,
        about(
            "The number of refused events that are tried again, and of events that "
            "wait behind a refused event. The count ends at 10,000."
        ),
    ]
    next_try: Annotated[
        int,
        about(
            "When the server tries the next refused event, in Unix seconds; 0: at "
            "once, or no event was refused."
        ),
    ]
    dead: Annotated[
        int,
        about(
            "The number of events that the receiver has not accepted within three "
            "days. The count ends at 10,000."
        ),
    ]
    answers: Annotated[
        list[AnswerShown], about("The last answers to all nodes, the newest first.")
    ]


class WebhooksAnswer(Struct):
    """The webhook of one app, or a page of the webhooks that the key reaches,
    ordered by app."""

    webhooks: list[WebhookShown]
    next: NextCursor
    missing_nodes: Annotated[
        list[str],
        about("Nodes that did not answer in time. The answer lacks their part."),
    ]


class EventApi(Struct, frozen=True):
    """The services that the routes use.

    Calls switch greenlets, and raise StorageUnavailable.
    """

    webhooks: Webhooks
    core: Core

    def states(self, apps: Sequence[str]) -> tuple[list[WebhookShown], list[str]]:
        """Return the states of the webhooks of these apps.

        Apps without a receiver are left out. The second list names the nodes
        that did not answer. Switches greenlets.
        """
        feeds = self.webhooks.feeds.feeds
        with_receiver = [app for app in apps if app in feeds]
        # Read before the queries, which switch: the feeds may change meanwhile.
        receivers = {app: feeds[app].receiver for app in with_receiver}
        # Each node answers with a part for each app.
        answers, missing = self.core.ask_others(QUERY, with_receiver, list[NodePart])
        parts_by_node = [self.webhooks.parts_of(with_receiver), *answers.values()]
        parts_by_app = zip(*parts_by_node, strict=True)
        counts = self._refused_events(with_receiver)
        states = [
            _state(app, receivers[app], parts, *counts.get(app, (0, 0, 0)))
            for app, parts in zip(with_receiver, parts_by_app, strict=True)
        ]
        return states, missing

    def _refused_events(self, apps: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Count the refused events of apps, all in one transaction.

        Returns app → the events that are tried again, the dead events, and the
        time of the next try. Without a database it is empty.
        """

        def read_counts(sql: Statements) -> dict[str, tuple[int, int, int]]:
            """Return the counts of all these apps."""
            return {app: dead_events.counts(sql, app) for app in apps}

        # Without a database no events were refused.
        no_counts: dict[str, tuple[int, int, int]] = {}
        return self.core.store.read_or(no_counts, read_counts)


def _state(
    app: str,
    receiver: Receiver,
    parts: Sequence[NodePart],
    aside: int,
    dead: int,
    next_try: int,
) -> WebhookShown:
    """Put the state of a webhook together from the parts of all nodes.

    ``aside`` and ``dead``: the numbers of events that are tried again, and of
    dead ones. ``next_try``: when the next one is tried, in Unix seconds; 0: at
    once, or no event waits.
    """
    all_answers = chain.from_iterable(part.answers for part in parts)
    newest = sorted(all_answers, key=attrgetter("time"))[::-1]
    # The newest answer of any node says how the receiver is now.
    has_failed = bool(newest and newest[0].problem)
    answers_shown = msgspec.convert(
        newest[:MOST_ANSWERS], list[AnswerShown], from_attributes=True
    )
    return WebhookShown(
        app=app,
        url=receiver.url,
        events=sorted(receiver.events),
        failing=has_failed or any(part.failing for part in parts),
        waiting=sum(part.waiting for part in parts),
        stored=sum(part.stored for part in parts),
        aside=aside,
        next_try=next_try,
        dead=dead,
        answers=answers_shown,
    )


def _event_api(core: Core, _app: object) -> EventApi:
    """Return the services of the routes."""
    return EventApi(webhooks_of(core), core)


routes = Resource("events", _event_api, hot=False)


@routes.get("/events/log", Needs.ADMIN)
def log(
    api: EventApi,
    call: Call,
    app: App,
    after: Annotated[
        str,
        about(
            "`next` of the previous page; empty: begin with the oldest stored event.",
            pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
        ),
    ] = "",
    limit: PageSize = _EVENTS_PER_PAGE,
) -> EventsAnswer:
    """Read the durable events of an app after a cursor.

    The answer has the durable events of the app's webhook. An app with
    `webhook.events` and without `webhook.url` has durable events, too. Events
    of messages and groups are stored as long as messages, other events for four
    days.
    """
    entry_id, event_id = _read_positions(after)
    feeds = api.webhooks.feeds
    feed = feeds.feeds.get(call.app)
    if feed is None:
        raise ApiProblem.invalid(
            "The app has neither `webhook.url` nor `webhook.events`"
        )

    entries = feeds.entries_after(call.app, entry_id, limit)
    rows = feeds.events.read(call.app, event_id, limit)
    page = page_of(
        call.app,
        entries,
        rows,
        node=feeds.node(),
        wanted=feed.receiver.events,
        limit=limit,
        limit_bytes=_PAGE_BYTES,
    )
    if page.is_full:
        # Some of the entries and rows are for the next page.
        entry_id = max(entry_id, page.last_entry)
        event_id = max(event_id, page.last_row)
    else:
        # Also behind entries that have no event, or an unwanted one.
        if entries:
            entry_id = entries[-1].id
        if rows:
            event_id = rows[-1].id
    more = page.is_full or len(entries) == limit or len(rows) == limit
    return EventsAnswer(
        events=[msgspec.Raw(event.body) for event in page.events],
        next=base64url.encode(b"%d.%d" % (entry_id, event_id)),
        more=more,
    )


@routes.get("/events/dead", Needs.OPERATE)
def dead(
    api: EventApi,
    call: Call,
    app: App,
    cursor: PageCursor = "",
    limit: PageSize = _EVENTS_PER_PAGE,
) -> DeadAnswer:
    """List the events that the webhook of an app has not accepted for three
    days.

    An account that operates the app sees only the `id`, `event` and `time` of
    an event, and no contents.
    """
    text = read_cursor(cursor)
    number = 0 if text is None else _read_number("cursor", text)
    # One more than fits on the page: it shows whether others follow.
    retries = dead_events.list_retries(
        api.core.store, call.app, dead=True, after=number, limit=limit + 1
    )
    rows, next_cursor = page_and_cursor(
        retries, limit, lambda row: str(row.number), size_of=lambda row: len(row.body)
    )
    shown_event = _without_contents if call.principal.staff else msgspec.Raw
    events = [_dead_event(row, shown_event(row.body)) for row in rows]
    return DeadAnswer(events, next_cursor)


def _dead_event(
    row: dead_events.RetryRow, event: dict[str, Any] | msgspec.Raw
) -> DeadEvent:
    """Return a dead event as the API shows it. ``event``: its fields."""
    return view(DeadEvent, row, id=row.event, since=row.first_failed, event=event)


@routes.post(
    "/events/replay",
    Needs.OPERATE,
    schema=("ReplayRequest", "The event to send again."),
)
def replay(
    api: EventApi,
    call: Call,
    app: App,
    id: Annotated[
        str,
        about(
            "The `id` of the event; empty: all dead events, and all events that were "
            "put aside.",
            max_length=64,
        ),
    ] = "",
) -> ReplayAnswer:
    """Send refused events again.

    The server tries events that were put aside at once. It tries dead events
    again for up to three days.
    """
    return ReplayAnswer(dead_events.send_again(api.core.store, call.app, id))


def _read_positions(cursor: str) -> tuple[int, int]:
    """Read the ids of the last entry and the last row from a cursor.

    The cursor is such a text as "7.12" in base64url. An empty cursor gives 0
    and 0, the beginning. Raises ApiProblem.
    """
    text = read_cursor(cursor)
    if text is None:
        return 0, 0
    entry, _, event = text.partition(".")
    return _read_number("after", entry), _read_number("after", event)


def _without_contents(body: bytes) -> dict[str, Any]:
    """Return the fields of an event that no user has written.

    They are for readers who may not see contents.
    """
    event: dict[str, Any] = msgspec.json.decode(body)
    return {
        name: event[name] for name in ("id", "event", "app", "time") if name in event
    }


@routes.get("/webhooks", Needs.OPERATE, reach="optional")
def webhooks(
    api: EventApi,
    call: Call,
    app: Annotated[str, about("The app; empty: all that the key reaches.")] = "",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of webhooks on this page.", ge=1, le=100)
    ] = _WEBHOOKS_PER_PAGE,
) -> WebhooksAnswer:
    """Show the waiting events of webhooks, and the last answers of the
    receivers.

    The answer has one app, or a page of all apps that the key reaches and that
    have a webhook. Nodes keep the last 20 answers for each app in memory.
    """
    if app:
        names = [call.app]
        next_cursor = ""
    else:
        # The cursor is the name of the last app on the page before.
        after = read_cursor(cursor) or ""
        apps = [
            name
            for name in sorted(api.webhooks.feeds.feeds)
            if name > after and call.principal.reaches(name)
        ]
        page, next_cursor = page_and_cursor(apps, limit, str)
        names = list(page)
    states, missing = api.states(names)
    return WebhooksAnswer(states, next_cursor, missing)


@routes.post(
    "/webhooks/address",
    Needs.OWN,
    schema=(
        "AddressRequest",
        "An app that was created at run time, and the new address of its webhook.",
    ),
    problems=(Problems.APP_CONFIGURED,),
)
def set_address(
    api: EventApi,
    call: Call,
    app: App,
    url: Annotated[
        str,
        about(
            "The URL to which the server posts events.", min_length=1, max_length=2000
        ),
    ],
) -> WebhookShown:
    """Change the address of the webhook of an app.

    The secret and the other settings do not change. The server sends waiting
    events to the new address at once.
    """
    tenant = _changeable_app(api, call.app)
    # Empty settings are left out, as if they were not set.
    settings = {
        name: value for name, value in asdict(tenant.webhook).items() if value != ""
    }
    settings["url"] = url
    api.core.tenants.change(call.app, {"webhook": settings})
    states, _ = api.states([call.app])
    if not states:
        raise ApiProblem.invalid("The app has no secret to sign with")
    return states[0]


@routes.post(
    "/webhooks/test",
    Needs.OPERATE,
    schema=("TestRequest", "The app whose webhook is tested."),
)
def test(api: EventApi, call: Call, app: App) -> AnswerShown:
    """Send an event `test` to the webhook of an app, and show the answer.

    The event is signed like all events. It does not wait behind other events.
    """
    feed = api.webhooks.feeds.feeds.get(call.app)
    answers = api.webhooks.feeds.answers
    if feed is None or not feed.receiver.url:
        raise ApiProblem.invalid(
            "The app has no `webhook.url`, or no secret to sign with"
        )

    body = feed.receiver.body(api.webhooks.event(call.app, "test", {}))
    feed.receiver.attempt(
        api.webhooks.outgoing, body, new_delivery_id(), answers, events=1
    )
    # The attempt has noted its answer as the last one.
    answer = answers.of(call.app)[-1]
    return msgspec.convert(answer, AnswerShown, from_attributes=True)


def _read_number(parameter: str, text: str) -> int:
    """Read a number in a cursor. Raises ApiProblem.

    ``parameter``: the parameter with the cursor, for the error.
    """
    is_number = text.isascii() and text.isdecimal()
    if not is_number or len(text) > _CURSOR_DIGITS:
        raise ApiProblem.invalid(f"`{parameter}`: not a cursor of this list")
    return int(text)


def _changeable_app(api: EventApi, app: str) -> Tenant:
    """Return an app whose settings a request may change.

    Raises ApiProblem if it does not exist, or if the configuration defines it.
    """
    tenant = api.core.tenants.find(app)
    if tenant is None:
        raise ApiProblem(Problems.UNKNOWN_APP)
    if tenant.configured:
        raise ApiProblem(Problems.APP_CONFIGURED)
    return tenant
