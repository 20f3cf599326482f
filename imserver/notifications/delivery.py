"""Deliveries: hands the notifications in the database to the push services.

Each host with something to send has a consumer. Hosts that answer quickly never
wait for others, because users may name hosts that hang, or that answer late.
Results are stored together, several times a second: a node that is killed
leaves few notifications to be sent again, and their topics replace the first
ones.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from operator import attrgetter
from time import monotonic, time
from typing import Final, Literal

import gevent
import msgspec
from gevent.event import Event as Flag

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.backends.webhooks.event_rows import NewEvent
from imserver.notifications.contract import SECOND_MS, Delivery, PushEndpoint
from imserver.notifications.device_services import DeviceServices, notice_of
from imserver.notifications.recent import RecentDeliveries
from imserver.notifications.rows import NotificationRows, Results, notified
from imserver.notifications.webpush import WebPush
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.runtime import (
    RateLimitedLog,
    Service,
    is_long_turn,
    retry_pause,
    serve_others,
    steady_time,
)
from imserver.plugin.wire import PushResult

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 3.0
"""How often a node looks for hosts with something to send."""
PAGE: Final = 100
"""Deliveries to a host that are read together."""
REQUESTS_TO_SERVICE: Final = 32
"""Simultaneous requests to a service of another feature, which the operator has
chosen. With 16 requests, and an answer after 100 ms, 10,000 notifications would
take a minute."""
MOST_FAST: Final = 16
"""The most fast hosts that have a turn at a time."""
MOST_OTHERS: Final = 64
"""The most new and slow hosts that have a turn at a time. Each gets one request
at a time."""
MOST_SLOW: Final = 32
"""The most slow hosts that have a turn at a time. The other turns of
:data:`MOST_OTHERS` are for new hosts."""
SLICE_SECONDS: Final = 2.0
"""How long a turn lasts while others wait. A fast host answers within this
time."""
SLOW_SECONDS: Final = 30.0
"""How long a host counts as slow after a late answer."""
MOST_REMEMBERED: Final = 1000
"""The most hosts whose state the node remembers."""
SETTLE_SECONDS: Final = 0.1
"""How long results may wait to be stored."""
LOOK_SECONDS: Final = 1.0
"""How long a message counts as unread before the node checks again."""
LEAST_LOOK_SECONDS: Final = 0.1
"""Least time between two searches for hosts with something to send."""
LATE_SECONDS: Final = 30
"""How long every delivery is tried, even if its time to live is shorter."""
FIRST_RETRY_SECONDS: Final = 2.0
LONGEST_RETRY_SECONDS: Final = 300.0
LONGEST_PAUSE_SECONDS: Final = 60.0
"""The longest pause of a host that fails: an error for one device must not
delay others for long."""
LONGEST_WANTED_SECONDS: Final = 3600.0
"""The longest pause that a host gets when it asks for one."""
STOP_SECONDS: Final = 2.0
"""How long the end waits for requests that are under way."""
_LOOK_AT_END_SECONDS: Final = 0.01
AHEAD: Final = 15
"""How many more deliveries are encrypted together with the next one."""

Pace = Literal["fast", "new", "slow"]
"""How fast a host answers. ``new``: its last request has failed, or it has had
no request yet."""
PACES: Final[tuple[Pace, ...]] = ("fast", "new", "slow")
Read = tuple[str, int, int]
"""The subject of a delivery: user, conversation, entry."""
_trouble: Final = RateLimitedLog(log, "notifications are not sent: %s")
_refusal: Final = RateLimitedLog(log, "the push service %s refuses a notification: %s")
_silence: Final = RateLimitedLog(
    log, "the push service %s takes no notifications: %s; trying again"
)


class Deliveries(Service, dict=True):
    """Sends the notifications that wait in the database, for all push services.

    A *delivery* is one notification to one device. A *host* is a push service,
    by the name of its server; each host gets *turns* in which its deliveries
    are sent. One node at a time has the *lease*, which permits it to send.

    ``is_read`` tells for messages and pushes of an app whether their users need
    not, or may not, be notified of them any more. It may switch greenlets, and
    raise StorageUnavailable. The notifier renews the ``lease``. It calls
    :meth:`restart` when this node has got the lease, and :meth:`wake` after it
    has stored deliveries. ``wants`` tells whether the back end of an app wants
    events of a kind.
    """

    rows: NotificationRows
    webpush: WebPush
    services: DeviceServices
    is_read: Callable[[str, list[Read]], list[bool]]
    lease: DeliveryLease
    wants: Callable[[str, str], bool]
    requests_per_host: int
    recent: RecentDeliveries

    def __post_init__(self) -> None:
        """Begin without queued hosts and without counts."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(app, kind, result) → the number of notifications. Notifications of
        an audience have the kind ``audience``."""
        self._hosts: dict[str, Host] = {}
        self._queues: dict[Pace, dict[str, None]] = {pace: {} for pace in PACES}
        """Hosts with something to send, by their pace when they were added, in
        the order of their turns."""
        self._news = Flag()
        """Wakes :meth:`run` before its pause is over."""
        self._searched_at = 0.0
        """When the node last searched the database for hosts (monotonic)."""
        self._searches_at = 0.0
        """When the node searches again (monotonic)."""
        self._has_ended = False

    @property
    def is_owned(self) -> bool:
        """Whether this node may send."""
        return not self._has_ended and self.lease.is_owned

    def has_others(self, pace: Pace) -> bool:
        """Whether hosts of a pace wait for their turn."""
        return bool(self._queues[pace])

    def wake(self, hosts: Iterable[str] = ()) -> None:
        """Look for new deliveries to these hosts.

        Without hosts, the node searches the database for hosts with deliveries
        soon. Calls that follow each other quickly lead to one search. Never
        switches greenlets.
        """
        names = list(hosts)
        for name in names:
            self._enqueue(name)
        if not names:
            soon = self._searched_at + LEAST_LOOK_SECONDS
            self._searches_at = min(self._searches_at, soon)
        self._news.set()

    def freed(self) -> None:
        """Look for the next host, because a turn has become free.

        Call it when a host needs its turn no longer, or has another pace: each
        pace has turns of its own. Never switches greenlets.
        """
        self._news.set()

    def give_way(self, name: str) -> None:
        """End the turn of a host because others wait, and queue the host again.

        Never switches greenlets.
        """
        self._add(name)
        self._news.set()

    def restart(self) -> None:
        """Forget all hosts, and read their deliveries from the database again.

        It is called when this node gets the lease: the state of the hosts is
        old, because another node may have sent some of their deliveries. Never
        switches greenlets.
        """
        hosts = self._hosts
        self._hosts = {}
        self._queues = {pace: {} for pace in PACES}
        for host in hosts.values():
            gevent.spawn(host.finish, STOP_SECONDS)
        self.wake()

    def run(self) -> None:
        """Greenlet: give turns to hosts, until :meth:`stop`.

        An error ends only the current round. A node without the lease looks
        again after each pause, as the lease may come.
        """
        while not self._has_ended:
            self._news.clear()
            pause = RENEW_SECONDS
            try:
                if self.lease.is_owned:
                    pause = self._give_turns()
            except StorageUnavailable as error:
                _trouble(error)
            except Exception:
                log.exception("notifications could not be sent")
            self._news.wait(pause)

    def stop(self) -> None:
        """Take no more deliveries, and store the results of requests under way.

        All hosts together have :data:`STOP_SECONDS` for their requests.
        Switches greenlets.
        """
        self._has_ended = True
        self._news.set()
        hosts = list(self._hosts.values())
        self._hosts = {}
        deadline = monotonic() + STOP_SECONDS
        for host in hosts:
            host.finish(max(0.0, deadline - monotonic()))

    def _give_turns(self) -> float:
        """Give turns to the first hosts of the queues.

        Returns the seconds until the next call. Switches greenlets. Raises
        StorageUnavailable.
        """
        if monotonic() >= self._searches_at:
            self._search_hosts()
        for pace, queue in self._queues.items():
            # The number is negative if hosts have become slow during their
            # turns.
            free_turns = max(0, self._free_turns(pace))
            for name in list(islice(queue, free_turns)):
                del queue[name]
                self._remember_host(name).begin()

        until_search = max(self._searches_at - monotonic(), 0.0)
        # When the slice of a host ends, the host counts as slow. That frees a
        # turn of its pace, but nobody calls wake() for it.
        if any(self._queues.values()):
            return min(until_search, SLICE_SECONDS / 2)
        return until_search

    def _search_hosts(self) -> None:
        """Queue the hosts that have deliveries to be sent now.

        Switches greenlets. Raises StorageUnavailable.
        """
        self._searched_at = monotonic()
        # Set before the query, which switches: a call of wake meanwhile makes
        # the node search again soon.
        self._searches_at = self._searched_at + RENEW_SECONDS
        now_ms = int(steady_time() * SECOND_MS)
        for name, next_try in self.rows.hosts(now_ms).items():
            if next_try <= now_ms:
                self._enqueue(name)

    def _free_turns(self, pace: Pace) -> int:
        """Return how many more hosts of a pace may have a turn now.

        Slow hosts and new hosts share one limit, and slow ones have a lower
        limit of their own. So hosts that hang cannot keep new hosts waiting.
        The result is 0 or less if there is no free turn.
        """
        busy = Counter(
            host.pace for host in self._hosts.values() if host.consumer.is_busy
        )
        # Fast hosts have turns of their own, which slow hosts cannot take.
        if pace == "fast":
            return MOST_FAST - busy["fast"]
        others = MOST_OTHERS - busy["new"] - busy["slow"]
        if pace == "new":
            return others
        return min(others, MOST_SLOW - busy["slow"])

    def _enqueue(self, name: str) -> None:
        """Let a host send new deliveries: in its turn, or in its next turn.

        A host that has a turn reads the deliveries before the turn ends. A host
        that pauses after failures is not queued: the search finds it again when
        the pause is over.
        """
        host = self._hosts.get(name)
        if host is not None and host.consumer.is_busy:
            host.consumer.wake()
        elif host is None or not host.is_paused:
            self._add(name)

    def _add(self, name: str) -> None:
        """Put a host at the end of the queue of its pace, if it is in none."""
        if any(name in queue for queue in self._queues.values()):
            return
        host = self._hosts.get(name)
        if host is None:
            pace: Pace = "new"
        else:
            pace = host.pace
        self._queues[pace][name] = None

    def _remember_host(self, name: str) -> Host:
        """Return the state of a host, and mark it as the one used last.

        ``_hosts`` is in order of use. If it is too long, idle hosts are
        forgotten, beginning with the one that was used least recently. A host
        that has a turn is never forgotten.
        """
        host = self._hosts.pop(name, None) or Host(name, self)
        self._hosts[name] = host
        if len(self._hosts) > MOST_REMEMBERED:
            idle = [
                other_name
                for other_name, other in self._hosts.items()
                if not other.consumer.is_busy and other is not host
            ]
            # Forget many hosts at once, so that this search is rare.
            for idle_name in idle[: MOST_REMEMBERED // 2]:
                del self._hosts[idle_name]
        return host


class Host:
    """One push service: its pace, and the results of deliveries to it.

    Its consumer reads deliveries, and sends them, while the host has a turn.
    """

    def __init__(self, name: str, owner: Deliveries) -> None:
        """Make a host that has had no request yet.

        ``name``: its server, or a service of another feature and a slash. Its
        pace is ``new`` until the first answer.
        """
        self._is_fast = False
        """Whether its last answer was quick, and shows that the service
        works."""
        self._slow_until = 0.0
        """The time until which it counts as slow (monotonic)."""
        self._quick_at = 0.0
        """When its last quick answer came (monotonic)."""
        self._slice_ends = inf
        """When the slice of its turn ends (monotonic); ``inf``: it has no
        turn."""
        self._name = name
        self._owner = owner
        self._width = owner.requests_per_host
        """Requests at a time when it is fast."""
        service_name = name.partition("/")[0]
        if service_name in owner.services.by_name:
            self._width = max(self._width, REQUESTS_TO_SERVICE)
        self._results = Results()
        """The results that are not stored yet."""
        self._contents: dict[int, bytes] = {}
        """Id of a delivery → its encrypted content."""
        self._settled_at = 0.0
        """When results were last stored (monotonic)."""
        self._checked_at = 0.0
        """When the node last checked which messages were read (monotonic)."""
        self._paused_until = 0.0
        """The time until which nothing is sent (monotonic)."""
        self._failures = 0
        """Number of consecutive failed requests."""
        self._pauses = 0
        """Number of consecutive pauses without an answer in between."""
        self._has_read = False
        """Whether deliveries were read since its turn began."""
        self._is_stuck = False
        """Whether results could not be stored. Nothing is sent then."""
        self._has_ended = False
        self._workers: list[gevent.Greenlet[..., None]] = []
        """The greenlets that send deliveries now."""
        # The consumer reads and sends only while this node has the lease.
        self.consumer = Consumer(
            f"the push service {name}",
            owner.lease,
            read=self._read,
            deliver=self._deliver,
        )

    @property
    def pace(self) -> Pace:
        """How fast the host answers.

        A host whose slice has ended counts as slow, even if its answers are
        quick. Then others get the turns for fast hosts, and need not wait for
        it.
        """
        now = monotonic()
        if now < self._slow_until or now > self._slice_ends:
            return "slow"
        if self._is_fast:
            return "fast"
        return "new"

    @property
    def is_paused(self) -> bool:
        """Whether the host gets no requests now, because it has failed."""
        return monotonic() < self._paused_until

    @property
    def _may_send(self) -> bool:
        """Whether the next delivery may be sent now."""
        return (
            self._owner.is_owned
            and not self._has_ended
            and not self._is_stuck
            and not self.is_paused
        )

    def begin(self) -> None:
        """Begin the turn of the host: its consumer reads the first deliveries.

        Never switches greenlets.
        """
        self._has_read = False
        self.consumer.wake()

    def finish(self, seconds: float) -> None:
        """Send nothing more, and store the results of requests under way.

        The method waits at most ``seconds`` for the requests. Requests that
        take longer are cancelled, and their deliveries are sent again by the
        next owner of the lease. Switches greenlets.
        """
        self._has_ended = True
        deadline = monotonic() + seconds
        gevent.joinall(self._workers, timeout=seconds)
        # After the last request the consumer is still busy: it stores results.
        while self.consumer.is_busy and monotonic() < deadline:
            gevent.sleep(_LOOK_AT_END_SECONDS)
        Consumer.stop_all([self.consumer])
        gevent.killall(self._workers)
        try:
            self._settle()
        except StorageUnavailable as error:
            log.debug("results of notifications could not be stored: %s", error)

    # --- the consumer's functions ---------------------------------------------

    def _read(self) -> deque[Delivery] | None:
        """Read the next deliveries to send, at most :data:`PAGE`.

        Returns None to end the turn of the host: nothing waits, the host
        pauses, or other hosts wait. Switches greenlets. Raises
        StorageUnavailable.
        """
        owner = self._owner
        self._slice_ends = inf
        if self._has_ended:
            return None
        # Each turn sends at least one page, so a host with many deliveries goes
        # on even if others always wait.
        if self._has_read and owner.has_others(self.pace):
            owner.give_way(self._name)
            return None

        if not self.is_paused:
            now_ms = int(steady_time() * SECOND_MS)
            deliveries = owner.rows.deliveries(self._name, now_ms, PAGE)
            self._has_read = True
            if deliveries:
                self._slice_ends = monotonic() + SLICE_SECONDS
                return deque(deliveries)
        owner.freed()
        return None

    def _deliver(self, waiting: deque[Delivery]) -> Failure | None:
        """Send the waiting deliveries, as long as the host takes them.

        Other deliveries stay in the database. The method never returns a
        failure: each delivery has its own time of the next attempt. Switches
        greenlets. Raises StorageUnavailable.
        """
        self._is_stuck = False
        self._contents.clear()
        # Results that could not be stored before come first. If the database
        # still does not answer, nothing is sent.
        self._settle()
        while waiting and self._may_send:
            endpoints = self._drop_outdated(waiting)
            self._send_in_parallel(waiting, endpoints)
            if monotonic() > self._slice_ends and self._owner.has_others(self.pace):
                break
        self._settle()
        return None

    def _drop_outdated(self, waiting: deque[Delivery]) -> dict[int, PushEndpoint]:
        """Remove deliveries that must not be sent any more from ``waiting``.

        Their endpoint was removed, a newer delivery replaces them, they have
        expired, or their message was read. Returns id → endpoint for the other
        deliveries. Switches greenlets. Raises StorageUnavailable.
        """
        # Set before the queries: messages that are read from now on count at
        # the next check.
        self._checked_at = monotonic()
        endpoints = self._owner.rows.endpoints_by_id(
            list({delivery.endpoint for delivery in waiting})
        )
        # Their removal may not be stored yet.
        for gone_id in self._results.gone:
            endpoints.pop(gone_id, None)

        valid = self._drop_invalid(waiting, endpoints)
        waiting.clear()
        read_ids = self._ids_of_read(valid)
        for delivery in valid:
            if delivery.id in read_ids:
                self._drop(delivery, "read")
            else:
                waiting.append(delivery)
        return endpoints

    def _send_in_parallel(
        self, waiting: deque[Delivery], endpoints: dict[int, PushEndpoint]
    ) -> None:
        """Send waiting deliveries with several workers, and join them.

        A host that is not fast gets one request, which shows whether it works.
        Switches greenlets.
        """
        if self._is_fast:
            width = min(self._width, len(waiting))
        else:
            width = 1
        self._workers = [
            gevent.spawn(self._send_until_check, waiting, endpoints)
            for _ in range(width)
        ]
        gevent.joinall(self._workers)
        self._workers = []

    def _drop_invalid(
        self, waiting: Iterable[Delivery], endpoints: Mapping[int, PushEndpoint]
    ) -> list[Delivery]:
        """Drop deliveries without an endpoint, replaced ones, and expired ones.

        Returns the other deliveries. ``endpoints``: id → endpoint that exists.
        """
        now = time()
        # The ids grow, so the last delivery of a slot is the newest one.
        newest = {
            _slot_of(delivery): delivery
            for delivery in sorted(waiting, key=attrgetter("id"))
        }
        valid: list[Delivery] = []
        for delivery in waiting:
            endpoint = endpoints.get(delivery.endpoint)
            if endpoint is None or not endpoint.enabled:
                self._drop(delivery, "removed")
            elif newest[_slot_of(delivery)] is not delivery:
                self._drop(delivery, "replaced")
            elif now > delivery.created + max(delivery.ttl, LATE_SECONDS):
                self._drop(delivery, "expired")
            else:
                valid.append(delivery)
        return valid

    def _ids_of_read(self, deliveries: Iterable[Delivery]) -> set[int]:
        """Return the ids of deliveries that are not needed any more.

        Their message was read meanwhile, or the user may not be notified of it
        now. Switches greenlets.
        """
        by_app = _shown_by_app(deliveries)
        read_ids: set[int] = set()
        for app, of_app in by_app.items():
            messages = [
                (delivery.user, delivery.conversation, delivery.entry)
                for delivery in of_app
            ]
            are_read = self._owner.is_read(app, messages)
            for delivery, is_read in zip(of_app, are_read, strict=True):
                if is_read:
                    read_ids.add(delivery.id)
        return read_ids

    # --- requests -------------------------------------------------------------

    def _send_until_check(
        self, waiting: deque[Delivery], endpoints: dict[int, PushEndpoint]
    ) -> None:
        """Greenlet: send deliveries of ``waiting`` one after the other.

        It ends when it is time to check again which messages were read, when
        the host fails, or when its pace changes. Several such workers share
        ``waiting`` and ``endpoints``.
        """
        was_fast = self._is_fast
        # Encrypting several together saves time only if all of them are sent
        # soon.
        if was_fast:
            ahead = AHEAD
        else:
            ahead = 0
        until = self._checked_at + LOOK_SECONDS
        while (
            waiting
            and self._may_send
            and monotonic() < until
            and self._is_fast == was_fast
        ):
            while is_long_turn():
                serve_others()
            # Other workers may have taken the last delivery meanwhile.
            if not waiting:
                return

            delivery = waiting.popleft()
            # Another worker has learned that the device is gone.
            if endpoints.get(delivery.endpoint) is None:
                self._drop(delivery, "removed")
                continue
            next_deliveries = [delivery, *islice(waiting, ahead)]
            began, result = self._try_to_hand_over(next_deliveries, endpoints)
            if result.outcome == "gone":
                endpoints.pop(delivery.endpoint, None)
            self._note_answer_time(began)
            self._process_result(delivery, result)
            self._settle_sometimes()

    def _try_to_hand_over(
        self, deliveries: Sequence[Delivery], endpoints: Mapping[int, PushEndpoint]
    ) -> tuple[float, PushResult]:
        """Call :meth:`_hand_over`. After an error, retry the delivery later.

        An error in one delivery must not end the worker. Switches greenlets.
        """
        try:
            return self._hand_over(deliveries, endpoints)
        except Exception:
            log.exception("a notification could not be sent to %s", self._name)
            return monotonic(), PushResult("later", problem="see the line before")

    def _note_answer_time(self, began: float) -> None:
        """Count the host as slow if the request of this time was answered late.

        ``began``: when the request began (monotonic). One late answer among
        quick ones does not make a host slow.
        """
        now = monotonic()
        if now - began <= SLICE_SECONDS:
            self._quick_at = now
        elif self._quick_at < now - SLICE_SECONDS:
            self._is_fast = False
            self._slow_until = now + SLOW_SECONDS

    def _settle_sometimes(self) -> None:
        """Store the results if the last time was :data:`SETTLE_SECONDS` ago.

        If they cannot be stored, the host sends nothing more. Otherwise a node
        that is killed would leave many notifications to be sent twice.
        """
        if monotonic() - self._settled_at <= SETTLE_SECONDS:
            return
        try:
            self._settle()
        except StorageUnavailable:
            self._is_stuck = True

    def _hand_over(
        self, deliveries: Sequence[Delivery], endpoints: Mapping[int, PushEndpoint]
    ) -> tuple[float, PushResult]:
        """Hand the first of some deliveries to its push service.

        Returns when the request began (monotonic), and the result. The other
        deliveries are only encrypted together with the first one, for the next
        calls. Switches greenlets.
        """
        delivery = deliveries[0]
        endpoint = endpoints[delivery.endpoint]
        device = self._owner.services.find(endpoint.url)
        if device is not None:
            service, token = device
            began = monotonic()
            result = service.send(delivery.app, token, notice_of(delivery))
            return began, _unless_device_is_back(result, endpoint)

        webpush = self._owner.webpush
        if delivery.id not in self._contents:
            self._encrypt(deliveries, endpoints)
        content = self._contents.pop(delivery.id)
        seconds_left = delivery.created + delivery.ttl - int(time())
        # A push service may delay this for a phone that saves power.
        urgency = "normal" if delivery.kind == "close" else "high"
        began = monotonic()
        return began, webpush.hand_over(
            endpoint,
            content,
            ttl=max(0, seconds_left),
            urgency=urgency,
            topic=delivery.topic,
        )

    def _encrypt(
        self, deliveries: Iterable[Delivery], endpoints: Mapping[int, PushEndpoint]
    ) -> None:
        """Encrypt the contents of deliveries, unless that is done already.

        Several are encrypted one after the other: the caches of the processor
        halve the time.
        """
        for delivery in deliveries:
            if delivery.id in self._contents:
                continue
            receiver = endpoints.get(delivery.endpoint)
            if receiver is not None:
                content = self._owner.webpush.encrypt(receiver, delivery.body)
                self._contents[delivery.id] = content

    def _process_result(self, delivery: Delivery, result: PushResult) -> None:
        """Process the answer of the push service to a delivery.

        The outcome ``later`` is a failure of the service. All other outcomes
        are final: ``taken``, ``gone`` (the device is not registered there any
        more), or a refusal of this delivery. Never switches greenlets.
        """
        outcome = result.outcome
        if outcome == "later":
            self._process_failure(delivery, result)
            return

        # Also a refusal shows that the service works.
        self._failures = 0
        self._pauses = 0
        if not self._is_fast and monotonic() >= self._slow_until:
            self._is_fast = True
            self._owner.freed()
        self._drop(delivery, outcome, result.problem)

        if outcome == "taken":
            self._report_taken(delivery)
        elif outcome == "gone":
            self._results.gone.append(delivery.endpoint)
            self._report_gone(delivery)
        else:
            _refusal(self._name, result.problem)

    def _report_taken(self, delivery: Delivery) -> None:
        """Tell the app's back end that a user was notified, if it asks.

        Closing notifications and tests are not reported.
        """
        is_news = delivery.kind in ("message", "push")
        if not is_news or not self._owner.wants(delivery.app, "notified"):
            return
        event = notified(
            delivery.app,
            delivery.user,
            delivery.kind,
            delivery.conversation,
            delivery.entry,
            delivery.endpoint,
        )
        # The event is stored together with the result, so each result is
        # reported once.
        self._results.events.append(event)

    def _report_gone(self, delivery: Delivery) -> None:
        """Tell the app's back end that a device is gone, if it asks."""
        if not self._owner.wants(delivery.app, "gone"):
            return
        facts = {
            "user": delivery.user,
            "endpoint": delivery.endpoint,
            "host": self._name,
        }
        content = msgspec.json.encode(facts)
        event = NewEvent(delivery.app, delivery.user, "gone", content)
        # The event is stored in the transaction that removes the endpoint.
        self._results.events.append(event)

    def _process_failure(self, delivery: Delivery, result: PushResult) -> None:
        """Try a delivery again later, or drop it if it expires before.

        The host pauses if each of its simultaneous requests has failed. Never
        switches greenlets.
        """
        # The pause that the push service asks for; 0: it asks for no pause.
        service_pause = result.retry_after or 0.0
        usual_pause = retry_pause(
            delivery.attempts + 1, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS
        )
        pause = max(service_pause, usual_pause)
        if time() + pause > delivery.created + max(delivery.ttl, LATE_SECONDS):
            self._drop(delivery, "expired", result.problem)
        else:
            self._count(delivery, "later", result.problem)
            next_try = int((steady_time() + pause) * SECOND_MS)
            self._results.retry.append((delivery.id, next_try))
        self._note_failure(result.problem, service_pause)

    def _note_failure(self, problem: str, service_pause: float) -> None:
        """Count a failed request, and pause if all requests have failed.

        ``service_pause``: the seconds for which the push service asks; 0: it
        does not ask.
        """
        self._failures += 1
        if self._is_fast:
            requests = self._width
        else:
            requests = 1
        # No other request has succeeded meanwhile, so the host is the cause.
        if self._failures >= requests:
            self._pause(service_pause)
            _silence(self._name, problem)

    def _pause(self, service_pause: float) -> None:
        """Send nothing to the host for a time, which grows with each pause.

        ``service_pause``: the seconds for which the push service asks; 0: it
        does not ask. After the pause, one request shows whether the host works
        again.
        """
        self._pauses += 1
        usual_pause = retry_pause(
            self._pauses, FIRST_RETRY_SECONDS, LONGEST_PAUSE_SECONDS
        )
        pause = max(usual_pause, min(service_pause, LONGEST_WANTED_SECONDS))
        self._paused_until = max(self._paused_until, monotonic() + pause)
        self._is_fast = False

    def _drop(self, delivery: Delivery, outcome: str, problem: str = "") -> None:
        """Note that a delivery is done, so that its row is deleted.

        ``outcome``: why, for example ``taken`` or ``expired``. ``problem``: the
        reason of a failure; ``""``: it has not failed.
        """
        self._count(delivery, outcome, problem)
        self._results.done.append(delivery.id)
        if delivery.audience and outcome in ("taken", "gone", "refused"):
            self._results.audiences[delivery.audience, outcome] += 1

    def _count(self, delivery: Delivery, outcome: str, problem: str) -> None:
        """Count an outcome for the metrics, and show it to the operator."""
        self._owner.recent.note(delivery, outcome, problem)
        kind = "audience" if delivery.audience else delivery.kind
        self._owner.counts[delivery.app, kind, outcome] += 1

    def _settle(self) -> None:
        """Store the results of requests in one transaction.

        If that fails, they are kept for the next time. Switches greenlets.
        Raises StorageUnavailable.
        """
        self._settled_at = monotonic()
        results = self._results
        if not results:
            return
        # Storing switches, so results of other workers are stored next time.
        self._results = Results()
        try:
            self._owner.rows.settle(results)
        except BaseException:
            later = self._results
            self._results = Results(
                done=results.done + later.done,
                gone=results.gone + later.gone,
                retry=results.retry + later.retry,
                events=results.events + later.events,
                audiences=results.audiences + later.audiences,
            )
            raise


def _unless_device_is_back(result: PushResult, endpoint: PushEndpoint) -> PushResult:
    """Return a result, but not ``gone`` for a device that is back.

    The service may have lost the device before the device registered again.
    Then the result is a refusal, and the endpoint stays.
    """
    is_back = (
        result.outcome == "gone"
        and result.gone_since
        and endpoint.created > result.gone_since
    )
    if not is_back:
        return result
    return PushResult("refused", result.status, problem=result.problem)


def _slot_of(delivery: Delivery) -> tuple[int, str | int]:
    """Return the slot of a delivery at its endpoint.

    Of the deliveries with the same slot only the newest one is sent. They have
    the same topic. A delivery without a topic has a slot of its own.
    """
    return delivery.endpoint, delivery.topic or delivery.id


def _shown_by_app(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    """Return app → its deliveries that show something.

    A closing notification is left out: it is sent because its message was read.
    """
    by_app: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        if delivery.kind != "close":
            by_app.setdefault(delivery.app, []).append(delivery)
    return by_app
