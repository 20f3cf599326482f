"""Webhooks: events about users that are sent to the back end of an app, and
questions that the back end answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import count
from secrets import token_hex
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import Struct

from imserver.backends.webhooks.back_ends import BackEndRequests
from imserver.backends.webhooks.event_rows import EventStore, NewEvent, add_events
from imserver.backends.webhooks.feeds import Feeds
from imserver.backends.webhooks.requests import (
    LastAnswer,
    Receiver,
    WebhookCounts,
    WebhookQueue,
    WebhookQueues,
)
from imserver.backends.webhooks.reviews import ReviewRequests
from imserver.plugin.errors import CloseCode, StorageUnavailable
from imserver.plugin.identity import Observer
from imserver.plugin.runtime import Outgoing
from imserver.plugin.settings import TenantSettings
from imserver.plugin.storage import PooledStatements, RecordEvent, Store
from imserver.plugin.wire import Connection, Event, host_of

if TYPE_CHECKING:
    from imserver.plugin.messages import Entry

log = logging.getLogger(__name__)

QUERY: Final = "webhooks.state"
"""The query with which nodes ask each other for a :class:`NodePart` of each
app."""


_ORIGIN_BYTES: Final = 6


class NodePart(Struct, frozen=True, array_like=True):
    """The state of the webhook of an app on one node."""

    waiting: int = 0
    """The number of events in its memory."""
    stored: int = 0
    """The number of durable events that it must deliver."""
    failing: bool = False
    """Whether its last request failed."""
    answers: tuple[LastAnswer, ...] = ()
    """The last answers of the receiver."""


class WebhookForm(Protocol):
    """Webhooks in the form of another server, such as Pusher, beside our own.

    Methods never switch greenlets.
    """

    queues: WebhookQueues

    def wants(self, app: str, events: frozenset[str]) -> bool:
        """Whether the app's back end wants any of these events in this form."""

    def channel(self, app: str, event: str, channel: str) -> None:
        """Queue the event of a channel, if the back end wants it."""


class Webhooks(Observer):
    """Sends back ends the events of their apps.

    Events of connections and live messages wait in memory, in a queue for each
    app. Durable events are stored, and go to the ``feeds``. Only
    :meth:`absent`, :meth:`undelivered` and :meth:`stop` switch. An app without
    a webhook costs one look-up.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        connection_id: Callable[[Connection], str],
        node: Callable[[], str],
        store: Store,
    ) -> None:
        """Begin without webhooks: :meth:`set` adds them.

        ``connection_id`` returns the id of a connection in events. ``node``
        returns the name of this node.
        """
        self.outgoing = outgoing
        self._connection_id = connection_id
        self._node = node
        self.known: dict[Connection, tuple[str, str]] = {}
        """Connection → (app, id), for connections whose ``connect`` was queued.
        Do not change it."""
        self._numbers = count(1)
        self._origin = token_hex(_ORIGIN_BYTES)
        """With a number, it makes the id of an event. A node that starts again
        has another one."""
        self.tally = WebhookCounts()
        self.queues = WebhookQueues(outgoing, self.tally)
        self.forms: list[WebhookForm] = []
        """Forms of other servers in which back ends may also want events of
        channels."""
        self._on_absent: list[Callable[[str, Sequence[tuple[str, Event]]], None]] = []
        self.feeds = Feeds(store, EventStore(store), outgoing, node, self.tally)
        self.apps: Container[str] = self.feeds.feeds
        """The apps whose stored entries this class wants."""
        self.reviews = ReviewRequests(outgoing, node)
        self.back_ends = BackEndRequests(outgoing, connection_id, node)

    def report_to(
        self, absent: Callable[[str, Sequence[tuple[str, Event]]], None]
    ) -> None:
        """Call a function with pushes to users who are offline.

        It also gets pushes of apps without a webhook.
        """
        self._on_absent.append(absent)

    def set(self, app: str, receiver: Receiver | None) -> None:
        """Set the receiver of an app; None: drop its waiting events."""
        if receiver is None:
            self.queues.answers.forget(app)
            self.feeds.answers.forget(app)
        self.feeds.set(app, receiver)
        self.queues.set(app, receiver)

    def parts_of(self, apps: Sequence[str]) -> list[NodePart]:
        """Return the state of the webhooks of these apps on this node.

        Never switches greenlets.
        """
        return [self._part_of(app) for app in apps]

    def _part_of(self, app: str) -> NodePart:
        """Return the state of the webhook of an app on this node.

        Other nodes have parts, too: the API shows them together.
        """
        waiting = 0
        failures = 0
        # Events of connections are in the queue, durable ones in the feed.
        queue = self.queues.get(app)
        if queue is not None:
            waiting = queue.waiting
            failures += queue.consumer.failures
        feed = self.feeds.feeds.get(app)
        stored = 0
        if feed is not None and feed.owned and feed.receiver.url:
            stored = feed.count
        if feed is not None and feed.sender is not None:
            failures += feed.sender.failures
        answers = (*self.queues.answers.of(app), *self.feeds.answers.of(app))
        return NodePart(waiting, stored, failing=failures > 0, answers=answers)

    # --- what happens ---------------------------------------------------------

    def observes(self, settings: TenantSettings) -> bool:
        """Whether the back end of an app with these settings gets events.

        Never switches greenlets.
        """
        return bool(settings.webhook.url or settings.webhook.events)

    def began(self, connection: Connection) -> None:
        """Report that a connection is a session now, or has logged in again.

        The event ``connect`` is sent once for a connection, ``login`` at each
        login. Dialects without a login have no ``login`` event. Never switches
        greenlets.
        """
        app = connection.app or ""
        if self.known and connection in self.known:
            known_app, _ = self.known[connection]
            # It has logged in to another app, so the back end of the first app
            # gets the end of its session.
            if known_app != app:
                self.ended(connection, CloseCode.NORMAL)
        self.feeds.came_online(app, connection.user or "")
        queue = self.queues.get(app)
        if queue is None:
            return
        if connection not in self.known:
            self.known[connection] = (app, self._connection_id(connection))
            self._add(queue, "connect", self._facts(connection))
        if connection.encoding.dialect.logs_in:
            self._add(queue, "login", self._facts(connection))

    def ended(self, connection: Connection, code: int) -> None:
        """Report that a connection has ended, if its ``connect`` was reported.

        ``code``: the reason, as in a WebSocket's close frame. Never switches
        greenlets.
        """
        if not self.known:
            return
        app_and_id = self.known.get(connection)
        if app_and_id is None:
            return
        app, _ = app_and_id
        # The webhook may have been removed since the connection began.
        queue = self.queues.get(app)
        if queue is not None:
            self._add(queue, "disconnect", {**self._facts(connection), "code": code})
        del self.known[connection]

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        """Report that a user has sent a message.

        ``facts`` are its ``type``, ``text`` and receiver. Never switches
        greenlets.
        """
        queue = self.queues.get(app)
        if queue is not None:
            self._add(queue, "message", {"sender": sender, **facts})

    def wants_any(self, app: str, events: frozenset[str]) -> bool:
        """Whether the app's back end gets one of these events of connections.

        Never switches greenlets.
        """
        queue = self.queues.get(app)
        if queue is not None and not events.isdisjoint(queue.receiver.events):
            return True
        return any(form.wants(app, events) for form in self.forms)

    def has_receiver(self, app: str) -> bool:
        """Whether the app's back end gets any events, in any form.

        Never switches greenlets.
        """
        return app in self.queues or any(app in form.queues for form in self.forms)

    def channel(
        self, app: str, event: str, channel: str, facts: Mapping[str, Any]
    ) -> None:
        """Report that something has happened to a channel.

        ``facts``: more fields of the event. Never switches greenlets.
        """
        queue = self.queues.get(app)
        if queue is not None:
            self._add(queue, event, {"channel": channel, **facts})
        # Back ends may also get the event in the form of another server.
        for form in self.forms:
            form.channel(app, event, channel)

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """Report pushes to users who are offline, each as (user, push).

        The method returns when the events are stored. If the database does not
        answer, they wait in memory, as events of connections do. Switches
        greenlets.
        """
        for on_absent in self._on_absent:
            on_absent(app, pushes)
        if not pushes or not self.feeds.wants(app, "absent"):
            return

        rows = [(user, _facts_of_push(user, event)) for user, event in pushes]
        try:
            self.feeds.add(app, "absent", rows)
        except StorageUnavailable:
            # An app without a URL has no queue, so its events are lost.
            queue = self.queues.get(app)
            if queue is None:
                return
            for _user, facts in rows:
                self._add(queue, "absent", facts)

    def committed(
        self, app: str, first: int, last: int, entries: Sequence[Entry]
    ) -> None:
        """Add the entries that a transaction of this node stored.

        Never switches greenlets.
        """
        self.feeds.committed(app, first, last, entries)

    def recorder(self, app: str, kind: str) -> RecordEvent | None:
        """Return the function that stores an event in a transaction.

        None: the back end does not want the event.
        """
        # The caller then need not make the event at all.
        if not self.feeds.wants(app, kind):
            return None

        def record(
            sql: PooledStatements, app: str, user: str, facts: Mapping[str, Any]
        ) -> None:
            """Store the event together with the change that it reports."""
            event = NewEvent(app, user, kind, msgspec.json.encode(facts))
            add_events(sql, [event], self.feeds.events.known)

        return record

    def undelivered(self, app: str) -> int | None:
        """Return up to where in the log a back end has everything.

        None: the app has no receiver. Switches greenlets. Raises
        StorageUnavailable.
        """
        return self.feeds.events.undelivered(app)

    def _facts(self, connection: Connection) -> dict[str, Any]:
        """Return the fields of events of a known connection."""
        _, connection_id = self.known[connection]
        return {
            "user": connection.user,
            "device": connection.device,
            "dialect": connection.encoding.dialect.name,
            "connection": connection_id,
            "address": host_of(connection.peer),
        }

    def _add(self, queue: WebhookQueue, event: str, facts: Mapping[str, Any]) -> None:
        """Queue an event, if the receiver wants events of this kind."""
        receiver = queue.receiver
        if event in receiver.events:
            queue.add(self.event(receiver.app, event, facts))

    def event(self, app: str, event: str, facts: Mapping[str, Any]) -> bytes:
        """Encode an event that is not stored, as JSON.

        Its id is not used again. ``facts``: its fields besides the ones that
        every event has. Never switches greenlets.
        """
        number = f"{self._origin}-{next(self._numbers)}"
        head = {"id": number, "event": event, "app": app, "time": int(time())}
        return msgspec.json.encode({**head, "node": self._node(), **facts})

    # --- at the end -----------------------------------------------------------

    def stop(self, seconds: float) -> None:
        """Send the waiting events, except to failing back ends.

        Events that still wait in memory are dropped. Switches greenlets.
        """
        deadline = monotonic() + seconds
        self.feeds.stop(seconds)
        for queues in (self.queues, *(form.queues for form in self.forms)):
            queues.stop(deadline)


def _facts_of_push(user: str, event: Event) -> dict[str, Any]:
    """Return the fields of the ``absent`` event about a push."""
    facts: dict[str, Any] = {
        "user": user,
        "message": event.id,
        "sender": event.sender,
        "type": event.type,
    }
    if event.data:
        facts["data"] = msgspec.Raw(event.data)
    else:
        facts["text"] = event.text
    return facts
