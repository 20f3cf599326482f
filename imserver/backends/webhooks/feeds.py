"""Feeds deliver the durable events of apps: one node per app, at least once,
and in order per user.

The events of a feed are the entries of the app's message log and the rows of
the table ``event``. The node with the lease of a feed sends them and stores the
positions up to which the receiver has everything. After its death another node
continues from these positions.

- If a receiver does not answer, its feed pauses and tries again. So it does if
  the receiver refuses all events for another reason than their content.
- If the receiver refuses an event for its content, or accepts others meanwhile,
  the event is put aside with all later events of its user. It is retried alone.
- After three days an event is dead. An operator may replay it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import gevent
import msgspec
from gevent.event import Event as Flag
from msgspec import field

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.backends.webhooks.dead_events import RetryRow
from imserver.backends.webhooks.event_json import EVENT_PREFIX, Outbound, Page, page_of
from imserver.backends.webhooks.event_rows import (
    TRY_SECONDS,
    EventStore,
    FeedHead,
    FeedRow,
    NewEvent,
    StoredEvent,
)
from imserver.backends.webhooks.log_window import LogWindow, RememberedMembers
from imserver.backends.webhooks.requests import (
    BATCH_BYTES,
    REFUSED_PAUSE_SECONDS,
    LastAnswers,
    PostProblem,
    Receiver,
    WebhookCounts,
    new_delivery_id,
)
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.runtime import Outgoing, Service, until_beat
from imserver.plugin.storage import Store, chunks

if TYPE_CHECKING:
    from imserver.plugin.messages import Entry, MessageLog

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 3.0
"""How often the node renews its leases."""
LOOK_SECONDS: Final = 0.5
"""How often the node compares the ends of the logs with its positions, because
other nodes store entries, too."""
GATHER_SECONDS: Final = 0.2
"""How long the first event waits for others, so that a busy app sends few
requests."""
REQUEST_EVENTS: Final = 250
"""The most events in one request. A request costs 0.4 ms of CPU, each event in
it 2 µs."""
RETRY_SECONDS: Final = 1.0
"""How long retries may delay the other events of an app."""
_RETRY_EVERY_SECONDS: Final = 1.0
"""How often the node tries events again that were put aside."""
_RETRIED_TOGETHER: Final = 50
MAX_RETRY_SECONDS: Final = 300
"""The longest pause before an event is tried again."""
_MOST_DOUBLINGS: Final = 10
"""Number of attempts after which a doubled pause is longer than any limit."""
_SPLIT_AFTER: Final = 3
"""Each time this number of requests with the same events has failed, the node
sends the events one by one. If it refuses events of this number of users, and
takes no event, the receiver refuses everything."""
_BURY_AFTER: Final = 7
"""Number of failed requests after which pauses are long, so events may be old
enough to be dead."""
_LONG_SECONDS: Final = 3600.0
"""After this time the pauses become :data:`MAX_RETRY_SECONDS`."""
_STORED_TOGETHER: Final = 500
"""The most events that one group commit stores. A push to many absent users can
have a large content."""


def _read_nothing(_after: int, _limit: int) -> Sequence[Entry]:
    """Stands for the log in a window of a feed that this node does not deliver."""
    return ()


_EMPTY: Final = LogWindow(_read_nothing, position=0)


class Feed(Service):
    """The feed of one app on one node: its durable events.

    While this node has the lease, the two consumers of the feed run. ``sender``
    sends the events. ``notifier`` looks for users who are offline.
    """

    app: str
    receiver: Receiver
    lease: DeliveryLease = field(default_factory=DeliveryLease)
    begin: int | None = None
    """The position at which a new feed begins: before the first entry that this
    node saw."""
    is_known: bool = False
    """Whether this node has tried to get the lease."""
    entries: LogWindow = _EMPTY
    """The entries to send, with the position of the receiver."""
    noting: LogWindow = _EMPTY
    """The entries that :attr:`notifier` has not read yet."""
    sender: Consumer[_Batch] | None = None
    """Sends the events. None if another node has the lease."""
    notifier: Consumer[Any] | None = None
    """Looks for absent users in ``noting``."""
    event_id: int = 0
    """The id of the last row of ``event`` that the receiver has."""
    event_head: int = 0
    """The id of the last row of ``event`` that is known to be stored."""
    waiting: set[str] = field(default_factory=set)
    """Users with events that were put aside."""
    has_retries: bool = True
    """Whether events were put aside, as far as is known."""
    retried_at: float = 0.0
    """When events that were put aside were last tried (monotonic)."""
    next_due: int = 0
    """When the next absence is due (:func:`steady_time`, in ms). 0: now, or not
    known."""
    members: RememberedMembers | None = None
    """The members of groups, at the position up to which absences were looked
    for."""
    saved: tuple[int, int, int] = (0, 0, 0)
    """The positions as last stored."""

    @property
    def owned(self) -> bool:
        """Whether this node has the lease, and has read the positions."""
        return self.sender is not None and self.lease.is_owned

    @property
    def count(self) -> int:
        """The number of entries and rows to send, as far as is known."""
        if self.sender is None:
            return 0
        return self.entries.count + self.event_head - self.event_id

    @property
    def is_sending(self) -> bool:
        """Whether this node has events to send, and the receiver answers."""
        if self.sender is None or self.sender.failures:
            return False
        return self.owned and self.count > 0 and self.receiver.url != ""

    @property
    def consumers(self) -> list[Consumer[Any]]:
        """The consumers that work on this feed."""
        consumers = (self.sender, self.notifier)
        return [consumer for consumer in consumers if consumer is not None]

    @property
    def positions(self) -> tuple[int, int, int]:
        """The positions to store for the next owner of the lease.

        They are the last entry and the last row that the receiver has, and the
        entry up to which absences were looked for.
        """
        return self.entries.position, self.event_id, self.noting.position

    def take(self, entry_id: int, event_id: int) -> None:
        """Note that the receiver has everything up to these positions.

        ``entry_id`` is a position in the log, ``event_id`` a row of ``event``.
        Never switches greenlets.
        """
        self.entries.take(entry_id)
        self.event_id = event_id
        # Rows may be read before the greenlet that stores them has called
        # Feeds.added.
        self.event_head = max(self.event_head, event_id)

    def wake(self) -> None:
        """Wake the consumers that may have something to do."""
        if self.sender is not None and (self.count or self.has_retries):
            self.sender.wake()
        if self.notifier is not None and self.noting.count:
            self.notifier.wake()


def _until_retry(feed: Feed) -> float | None:
    """Return the seconds until events that were put aside are tried again.

    None: there are no such events, as far as is known.
    """
    if feed.has_retries and feed.receiver.url:
        return _RETRY_EVERY_SECONDS
    return None


class Feeds(Service, dict=True):
    """The feeds of all apps on one node.

    Each feed is delivered by one node, which has its lease. ``node`` returns
    the name of this node, which owns the leases. A restart does not change it.
    """

    store: Store
    events: EventStore
    outgoing: Outgoing
    node: Callable[[], str]
    tally: WebhookCounts

    def __post_init__(self) -> None:
        """Begin without feeds: :meth:`set` adds them."""
        self.feeds: dict[str, Feed] = {}
        """App → its feed. Read it only."""
        self.log: MessageLog | None = None
        """The stored messages. None if this node stores no messages."""
        self._make_notifier: Callable[[Feed], Consumer[Any]] | None = None
        """Makes the consumer that looks for absent users; None: no consumer
        does."""
        self.answers = LastAnswers()
        self._changed = Flag()
        """Set when the leases must be renewed at once, because a feed is
        new."""
        self._online: set[tuple[str, str]] = set()
        """(app, user) of the users who came online since the last look."""

    def attach(
        self,
        log: MessageLog,
        notifier: Callable[[Feed], Consumer[Any]] | None = None,
    ) -> None:
        """Set the stored messages of this node. Call it before :meth:`run`.

        ``notifier`` makes the consumer that looks for absent users in the log
        of a feed; None: nobody looks for them.
        """
        self.log = log
        self._make_notifier = notifier

    # --- what happens ---------------------------------------------------------

    def set(self, app: str, receiver: Receiver | None) -> None:
        """Set the receiver of an app. None: the app has no events any more.

        A new receiver is tried at once, even if the old one did not answer.
        Never switches greenlets.
        """
        feed = self.feeds.get(app)
        if receiver is None:
            if feed is not None:
                del self.feeds[app]
                self._end_delivery(feed)
        elif feed is not None:
            feed.receiver = receiver
            for consumer in feed.consumers:
                consumer.retry()
        else:
            feed = Feed(app, receiver)
            self.feeds[app] = feed
            # The first entry will make the database, so the feed begins before
            # it.
            if not self.store.has_database:
                feed.begin = 0
            self._changed.set()

    def committed(
        self, app: str, first: int, last: int, entries: Sequence[Entry]
    ) -> None:
        """Add the entries that a transaction of this node stored for an app.

        The app has a feed. ``first`` and ``last``: the ids of all entries of
        the transaction. This node then need not read them from the database.
        Never switches greenlets.
        """
        feed = self.feeds[app]
        if feed.sender is None:
            # Another node delivers the feed, or it is new.
            if feed.begin is None:
                feed.begin = first - 1
            if not feed.is_known:
                self._changed.set()
            return
        feed.entries.committed(first, last, entries)
        feed.sender.wake()
        feed.noting.committed(first, last, entries)
        if feed.notifier is not None and "absent" in feed.receiver.events:
            feed.notifier.wake()
        else:
            # Nobody looks for absent users in these entries.
            feed.noting.skip()

    def wants(self, app: str, kind: str) -> bool:
        """Whether the back end of an app wants events of this kind."""
        feed = self.feeds.get(app)
        return feed is not None and kind in feed.receiver.events

    def add(
        self, app: str, kind: str, facts: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Store events for the back end of an app, each as (user, fields).

        ``kind``: for example ``absent``. Returns after the commit. Switches
        greenlets. Raises StorageUnavailable.
        """
        for rows in chunks(facts, _STORED_TOGETHER):
            events = [
                NewEvent(app, user, kind, msgspec.json.encode(fields))
                for user, fields in rows
            ]
            self.added(self.events.append(events))

    def added(self, heads: Mapping[str, int]) -> None:
        """Note that events were stored, and wake the senders of their feeds.

        ``heads``: app → the id of its last event. Never switches greenlets.
        """
        for app, head in heads.items():
            known = self.events.known.get(app, 0)
            self.events.known[app] = max(head, known)
            feed = self.feeds.get(app)
            if feed is None:
                continue
            feed.event_head = max(feed.event_head, head)
            if feed.sender is not None:
                feed.sender.wake()
            # The feed is new: take its lease now, not at the next renewal.
            if not feed.is_known:
                self._changed.set()

    @property
    def backlog(self) -> dict[str, int]:
        """App → how much this node must deliver, as far as is known."""
        return {
            app: feed.count for app, feed in self.feeds.items() if feed.receiver.url
        }

    def came_online(self, app: str, user: str) -> None:
        """Note that a user has logged in.

        From then on an absence of the user may be reported again. Never
        switches greenlets.
        """
        if self.wants(app, "absent"):
            self._online.add((app, user))

    # --- leases ---------------------------------------------------------------

    def run(self) -> None:
        """Greenlet: renew the leases, and look for entries of other nodes.

        It runs until it is killed. An error ends only the current round.
        """
        renewed = 0.0
        while True:
            try:
                if self._changed.is_set() or monotonic() - renewed >= RENEW_SECONDS:
                    self._changed.clear()
                    renewed = monotonic()
                    self.renew()
                self.look()
            except StorageUnavailable as error:
                log.debug("the feeds could not be read: %s", error)
            except Exception:
                log.exception("the feeds could not be read")
            # Without feeds nothing is to be done until the first one is set.
            pause = until_beat(LOOK_SECONDS) if self.feeds else None
            self._changed.wait(pause)

    def renew(self) -> None:
        """Take or renew the leases of all feeds, and store the positions.

        A feed whose lease this node gets begins, and a feed whose lease it has
        lost ends. Switches greenlets. Raises StorageUnavailable.
        """
        if not self.feeds or not self.store.has_database:
            return
        # Read before the query, so that a lease does not seem to last longer
        # than it does.
        since = monotonic()
        begins = {app: feed.begin for app, feed in self.feeds.items()}
        rows = self.events.claim(begins, self.node(), DeliveryLease.SECONDS)

        for app, feed in tuple(self.feeds.items()):
            self._renew_lease(feed, since, rows.get(app))
        for feed in tuple(self.feeds.values()):
            self.save(feed)

    def _renew_lease(self, feed: Feed, since: float, row: FeedRow | None) -> None:
        """Begin or end the delivery of a feed whose lease was asked for.

        ``since``: when it was asked for (monotonic). ``row``: the stored feed;
        None: another node has the lease.
        """
        feed.is_known = True
        # After a break, another node may have delivered: begin at the stored
        # positions.
        if not feed.lease.renew(since, row is not None):
            self._end_delivery(feed)
        if row is not None and feed.sender is None:
            self._begin_delivery(feed, row)

    def _begin_delivery(self, feed: Feed, row: FeedRow) -> None:
        """Begin to deliver a feed at the positions of its last owner.

        ``row``: the stored feed with these positions.
        """
        feed.entries = LogWindow(partial(self.entries_after, feed.app), row.entry_id)
        feed.noting = LogWindow(partial(self.entries_after, feed.app), row.noted_id)
        feed.event_id = row.event_id
        feed.event_head = row.last_id
        feed.saved = feed.positions
        # Not known yet: the first calls read the retries and the absences.
        feed.has_retries = True
        feed.next_due = 0
        feed.sender = Consumer(
            f"the webhook of {feed.app}",
            feed.lease,
            read=partial(self._next, feed),
            deliver=partial(self._deliver, feed),
            save=partial(self.save, feed),
            until_due=partial(_until_retry, feed),
        )
        if self._make_notifier is None:
            feed.notifier = None
        else:
            feed.notifier = self._make_notifier(feed)
        for consumer in feed.consumers:
            consumer.wake()

    def entries_after(self, app: str, after: int, limit: int) -> list[Entry]:
        """Read the first entries of an app's log after an id.

        Without stored messages there are no entries. Switches greenlets. Raises
        StorageUnavailable.
        """
        if self.log is None:
            return []
        return self.log.entries.read(app, after, limit)

    def save(self, feed: Feed) -> None:
        """Store the positions of a feed, if they have changed.

        Switches greenlets. Raises StorageUnavailable.
        """
        positions = feed.positions
        if feed.sender is not None and positions != feed.saved:
            self.events.save(feed.app, self.node(), *positions)
            feed.saved = positions

    def _end_delivery(self, feed: Feed) -> None:
        """Stop delivering a feed.

        Another node has the lease, or the feed has ended.
        """
        for consumer in feed.consumers:
            consumer.stop()
        feed.entries = _EMPTY
        feed.noting = _EMPTY
        feed.sender = None
        feed.notifier = None

    def look(self) -> None:
        """Read how far the feeds have grown, and wake their consumers.

        Only the feeds that this node delivers are read. Before that, the method
        stores which users came online. Switches greenlets. Raises
        StorageUnavailable.
        """
        self._store_online()
        apps = [app for app, feed in self.feeds.items() if feed.owned]
        if not apps:
            return
        for app, head in self.events.heads(apps).items():
            feed = self.feeds.get(app)
            # The query switches: the feed may have ended meanwhile.
            if feed is not None and feed.sender is not None:
                self._note_head(feed, head)
                feed.wake()

    def _note_head(self, feed: Feed, head: FeedHead) -> None:
        """Note how far a feed has grown, as the database has answered.

        The greatest id of an event is also noted in ``events.known``, so that
        it is never given again.
        """
        # This node may have stored more since the query: positions never go
        # back.
        if self.log is not None:
            feed.entries.head = max(feed.entries.head, head.entries)
            feed.noting.head = max(feed.noting.head, head.entries)
        feed.event_head = max(feed.event_head, head.events)
        known = self.events.known.get(feed.app, 0)
        self.events.known[feed.app] = max(head.events, known)
        feed.has_retries = head.has_retries or bool(feed.waiting)

    def _store_online(self) -> None:
        """Store which users came online since the last call.

        If that fails, the next call stores them. Switches greenlets. Raises
        StorageUnavailable.
        """
        if not self._online:
            return
        # The write switches: users who come online meanwhile are for the next
        # call.
        users = self._online
        self._online = set()
        try:
            self.events.came_online(users)
        except StorageUnavailable:
            self._online |= users
            raise

    def stop(self, seconds: float) -> None:
        """Send the waiting events, and give the leases back.

        Some events are left for another node: events that are not sent within
        ``seconds``, and events of receivers that do not answer. Switches
        greenlets.
        """
        deadline = monotonic() + seconds
        while monotonic() < deadline and any(
            feed.is_sending for feed in self.feeds.values()
        ):
            gevent.sleep(GATHER_SECONDS)

        # The other feeds are not delivered by this node.
        feeds = [feed for feed in self.feeds.values() if feed.sender is not None]
        self.feeds.clear()
        try:
            self._give_back(feeds)
        except StorageUnavailable as error:
            log.debug("the leases of events could not be given back: %s", error)

    def _give_back(self, feeds: Sequence[Feed]) -> None:
        """Stop the consumers of feeds, store the positions, and end the leases.

        Switches greenlets. Raises StorageUnavailable.
        """
        consumers = list(chain.from_iterable(feed.consumers for feed in feeds))
        Consumer.stop_all(consumers)
        for feed in feeds:
            self.save(feed)
        if feeds:
            self.events.release([feed.app for feed in feeds], self.node())

    # --- sending --------------------------------------------------------------

    def _next(self, feed: Feed) -> _Batch | None:
        """Read the next events of a feed; None: no events wait.

        Before that, try events again that were put aside. Switches greenlets.
        Raises StorageUnavailable.
        """
        assert feed.sender is not None
        # Without a URL the back end reads the events itself: nothing is sent,
        # and only the positions move.
        if not feed.receiver.url:
            feed.sender.is_unsaved |= bool(feed.count)
            feed.entries.skip()
            feed.event_id = feed.event_head
            return None
        if feed.has_retries and monotonic() - feed.retried_at > _RETRY_EVERY_SECONDS:
            self._retry(feed, feed.sender)
            feed.retried_at = monotonic()
        if not feed.count:
            return None
        if feed.count < REQUEST_EVENTS:
            gevent.sleep(GATHER_SECONDS)
        return self._read_batch(feed)

    def _read_batch(self, feed: Feed) -> _Batch:
        """Read the first events after the positions of a feed.

        Switches greenlets. Raises StorageUnavailable.
        """
        entries = feed.entries.first(REQUEST_EVENTS)
        rows: list[StoredEvent] = []
        # Read before the rows, so that rows that are added meanwhile are not
        # among them.
        last_row = feed.event_head
        if last_row > feed.event_id:
            rows = self.events.read(feed.app, feed.event_id, REQUEST_EVENTS)
        if rows:
            last_row = rows[-1].id
        page = page_of(
            feed.app,
            entries,
            rows,
            node=self.node(),
            wanted=feed.receiver.events,
            limit=REQUEST_EVENTS,
            limit_bytes=BATCH_BYTES,
        )
        return _Batch(page, seen=len(entries), last_row=last_row, waiting=feed.waiting)

    def _deliver(self, feed: Feed, batch: _Batch) -> Failure | None:
        """Send the events of a batch.

        Events that the receiver refuses are put aside, and so are later events
        of their users. Returns the failure if the batch must be tried again.
        Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        if batch.events:
            # The URL was removed meanwhile: the back end reads the events.
            if not feed.receiver.url:
                return None
            problem = self._post(feed, batch.events, batch.delivery)
            if problem is not None:
                return self._handle_failure(feed, batch, problem)
        if batch.aside:
            self._advance(feed, batch)
        else:
            # The consumer stores the positions later.
            entry_id, event_id = batch.positions(feed)
            feed.take(entry_id, event_id)
        if batch.events:
            self._count_delivered(feed, len(batch.events))
        return None

    def _post(
        self, feed: Feed, events: Sequence[Outbound], delivery: str
    ) -> PostProblem | None:
        """Send events in one request.

        ``delivery``: the id of the delivery, which all its attempts have.
        Returns None if the receiver has taken the events. Switches greenlets.
        """
        body = feed.receiver.body(b",".join([event.body for event in events]))
        return feed.receiver.attempt(
            self.outgoing, body, delivery, self.answers, len(events)
        )

    def _count_delivered(self, feed: Feed, count: int) -> None:
        """Note that the receiver has taken events."""
        self.tally.delivered[feed.app] += count
        if feed.sender is not None and feed.sender.failures:
            log.info("webhook of %s: the back end answers again", feed.app)

    def _handle_failure(
        self, feed: Feed, batch: _Batch, problem: PostProblem
    ) -> Failure | None:
        """Decide what becomes of the events of a failed request.

        They are sent one by one, moved to the dead ones, or tried again.
        Returns None if the batch is done, or else the failure. Switches
        greenlets. Raises StorageUnavailable and NotOwner.
        """
        assert feed.sender is not None
        self.tally.failures[feed.app] += 1
        failures = feed.sender.failures + 1
        if failures == 1:
            log.warning("webhook of %s: %s; trying again", feed.app, problem.text)

        # One event may be the cause, so the events are sent one by one.
        must_split = problem.is_final or (
            problem.status and failures % _SPLIT_AFTER == 0
        )
        if must_split and self._send_one_by_one(feed, batch, problem):
            return None
        if failures >= _BURY_AFTER and self._bury(feed, batch, failures):
            # If no more events wait, this is no failure. Otherwise replayed
            # events would wait for ever.
            if feed.count:
                return Failure(problem.text, is_dead=True)
            return None
        return _failure_of(problem, feed.sender.first_tried_at)

    def _send_one_by_one(self, feed: Feed, batch: _Batch, problem: PostProblem) -> bool:
        """Send each event of a batch alone, and put refused events aside.

        ``problem``: why the whole batch has failed. Returns False if the
        receiver does not answer, or takes no event at all. Then no event is put
        aside. Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        refused_users: set[str] = set()
        aside: list[tuple[Outbound, int]] = []
        """Each event with its number of attempts."""
        taken = 0
        for event in batch.events:
            # It waits behind the refused event of its user.
            if event.user in refused_users:
                aside.append((event, 0))
                continue
            # The only event of a batch was just sent alone.
            if len(batch.events) > 1:
                next_problem = self._post(feed, [event], new_delivery_id())
                if next_problem is None:
                    taken += 1
                    continue
                problem = next_problem
            refused_users.add(event.user)
            aside.append((event, 1))
            # No answer: the receiver is down, and does not refuse this event.
            if not problem.status:
                return False
            # The receiver refuses everything, and not for the content.
            is_refusing_all = not taken and not problem.is_final
            if is_refusing_all and len(refused_users) >= _SPLIT_AFTER:
                return False
        if not taken and not problem.is_final:
            return False

        self._put_aside(feed, batch, aside, problem)
        self._count_delivered(feed, taken)
        return True

    def _put_aside(
        self,
        feed: Feed,
        batch: _Batch,
        aside: Sequence[tuple[Outbound, int]],
        problem: PostProblem,
    ) -> None:
        """Store the refused events of a batch, which are retried alone.

        ``aside``: each event with its number of attempts. ``problem``: why the
        last one was refused. Switches greenlets. Raises StorageUnavailable and
        NotOwner.
        """
        rows = [_retry_row(event, attempts) for event, attempts in aside]
        self._advance(feed, batch, rows)
        # Later events of these users are put aside, too, so that they stay in
        # order.
        feed.waiting.update(event.user for event, _ in aside)
        feed.has_retries = True
        log.warning(
            "webhook of %s: %d events were refused, or wait behind refused ones: %s",
            feed.app,
            len(rows),
            problem.text,
        )

    def _advance(
        self,
        feed: Feed,
        batch: _Batch,
        refused: Sequence[RetryRow] = (),
        dead: bool = False,
    ) -> None:
        """Store the positions behind a batch, and events that are put aside.

        These are the ``refused`` events, and the events of users who have an
        earlier event aside. ``dead``: they are not tried again. Switches
        greenlets. Raises StorageUnavailable and NotOwner.
        """
        entry_id, event_id = batch.positions(feed)
        aside = [*refused, *(_retry_row(event, 0) for event in batch.aside)]
        self.events.advance(feed.app, self.node(), entry_id, event_id, aside, dead)
        feed.take(entry_id, event_id)

    def _bury(self, feed: Feed, batch: _Batch, failures: int) -> bool:
        """Move events that have failed for three days to the dead ones.

        Returns whether it has moved any. ``failures``: how often they were
        tried. Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        before = int(time()) - TRY_SECONDS
        stored_at: Mapping[int, int] = {}
        if self.log is not None:
            stored_at = self.log.entries.stored_at(feed.app, batch.entry_ids)
        old = batch.older_than(before, stored_at)
        # The events are still young enough to be tried again.
        if old is None:
            return False

        rows = [_retry_row(event, failures) for event in old.events]
        self._advance(feed, old, rows, dead=True)
        log.error(
            "webhook of %s: %d events are dead after three days",
            feed.app,
            len(old.events),
        )
        return True

    def _retry(self, feed: Feed, sender: Consumer[_Batch]) -> None:
        """Try events again that were put aside.

        For each user the oldest one is tried, if it is due. The method stops
        after :data:`RETRY_SECONDS`, because new events wait for it. It also
        stops if the receiver does not answer. Switches greenlets. Raises
        StorageUnavailable.
        """
        feed.waiting = self.events.waiting_users(feed.app)
        now = int(time())
        deadline = monotonic() + RETRY_SECONDS
        while feed.waiting and not sender.failures:
            rows = self.events.due_retries(
                feed.app, now, now + MAX_RETRY_SECONDS, _RETRIED_TOGETHER
            )
            if not rows:
                break
            for row in rows:
                if not feed.owned or monotonic() > deadline:
                    return
                # Without an answer, the other events need not be tried.
                if not self._try_again(feed, row, now):
                    return
            # A user whose event was taken now may have a next one.
            feed.waiting = self.events.waiting_users(feed.app)

    def _try_again(self, feed: Feed, row: RetryRow, now: int) -> bool:
        """Send an event that was put aside, and store the result.

        Returns whether the receiver has answered. ``now``: Unix seconds.
        Switches greenlets. Raises StorageUnavailable.
        """
        event = Outbound(row.event, row.user, time=now, body=row.body)
        problem = self._post(feed, [event], new_delivery_id())
        if problem is None:
            self.events.end_retry(row)
            self.tally.delivered[feed.app] += 1
            return True
        # The receiver has refused the event again.
        if problem.status:
            self._put_off(feed.app, row, now)
            return True
        return False

    def _put_off(self, app: str, row: RetryRow, now: int) -> None:
        """Store that an event was refused again, and when to try it next.

        Each pause is twice as long as the one before. After three days the
        event is dead. Switches greenlets. Raises StorageUnavailable.
        """
        self.tally.failures[app] += 1
        doublings = min(row.attempts, _MOST_DOUBLINGS)
        pause = min(2**doublings, MAX_RETRY_SECONDS)
        is_dead = self.events.put_off(row, now, seconds=pause)
        if is_dead:
            log.error(
                "webhook of %s: event %s is dead after three days", app, row.event
            )


class _Batch:
    """Events of a feed to send together, and the positions behind them.

    ``events`` are sent. ``aside``: the events of ``waiting`` users, who have an
    earlier event aside; they are put aside, too. ``seen``: how many entries of
    the window were read for the page. ``last_row``: the id up to which rows
    were read for it.
    """

    def __init__(self, page: Page, seen: int, last_row: int, waiting: set[str]) -> None:
        """Divide the events of a page by whether their users wait."""
        self.events = [event for event in page.events if event.user not in waiting]
        self.aside = [event for event in page.events if event.user in waiting]
        self._waiting = waiting
        self._page = page
        self._seen = seen
        self._last_row = last_row
        self.delivery = new_delivery_id()
        """The id of this delivery. All its attempts have this id."""

    def positions(self, feed: Feed) -> tuple[int, int]:
        """Return the positions in the log and in the events behind this batch.

        Call it before :meth:`Feed.take`, which changes the window.
        """
        # Some of the entries and rows are for the next page.
        if self._page.is_full:
            entry_id = max(self._page.last_entry, feed.entries.position)
            return entry_id, max(self._page.last_row, feed.event_id)
        return feed.entries.after(self._seen), max(self._last_row, feed.event_id)

    @property
    def entry_ids(self) -> list[int]:
        """The ids of the entries among the events."""
        return [_number_of(event) for event in self._page.events if not _is_row(event)]

    def older_than(self, before: int, stored_at: Mapping[int, int]) -> _Batch | None:
        """Return a batch of the first events of this one, which are all old.

        It ends before the first event that was not stored before ``before``
        (Unix seconds). None: already the first event is newer. ``stored_at``:
        entry → when it was stored. Entries without a time have expired.
        """
        # A page that is full, because the newer events are left out.
        page = Page([], is_full=True)
        for event in self._page.events:
            number = _number_of(event)
            is_row = _is_row(event)
            if is_row:
                stored_time = event.time
            else:
                stored_time = stored_at.get(number, 0)
            if stored_time >= before:
                break
            page.events.append(event)
            if is_row:
                page.last_row = number
            else:
                page.last_entry = number
        if not page.events:
            return None
        # The positions behind a full page need neither ``seen`` nor
        # ``last_row``.
        return _Batch(page, seen=0, last_row=0, waiting=self._waiting)


def _failure_of(problem: PostProblem, first_tried_at: float) -> Failure:
    """Return the failure of a batch, with the longest pause before the next try.

    ``first_tried_at``: when the batch was first tried (monotonic).
    """
    # A program that is just started refuses connections: try again soon.
    if problem.is_refused:
        return Failure(problem.text, longest_pause=REFUSED_PAUSE_SECONDS)
    # After an hour without an answer the pauses may be longer.
    if monotonic() - first_tried_at > _LONG_SECONDS:
        return Failure(problem.text, longest_pause=MAX_RETRY_SECONDS)
    return Failure(problem.text)


def _is_row(event: Outbound) -> bool:
    """Whether an event is a row of ``event``, not an entry of the log."""
    return event.id.startswith(EVENT_PREFIX)


def _number_of(event: Outbound) -> int:
    """Return the id of the row or entry of an event: 7 for ``event-7``."""
    return int(event.id.rpartition("-")[2])


def _retry_row(event: Outbound, attempts: int) -> RetryRow:
    """Return the row of an event that is put aside now."""
    return RetryRow(
        number=0,  # the database chooses it
        event=event.id,
        user=event.user,
        attempts=attempts,
        first_failed=int(time()),
        body=event.body,
    )
