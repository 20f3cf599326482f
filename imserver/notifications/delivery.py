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
    """Sends the deliveries of all hosts. Owner of the consumers.

    ``is_read`` tells for each message or push of an app whether its user need
    not, or may not, be notified of it any more. It may switch greenlets, and
    raise StorageUnavailable. ``lease``: the notifier renews it. It calls
    :meth:`restart` when this node has got the lease, and :meth:`wake` after it
    has stored deliveries. ``wants``: whether the back end of an app wants
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
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(app, kind, result) → the number of notifications. Notifications of
        an audience have the kind ``audience``."""
        self._hosts: dict[str, Host] = {}
        self._queues: dict[Pace, dict[str, None]] = {pace: {} for pace in PACES}
        """Hosts with something to send, by their pace when they were added, in
        the order of their turns."""
        self._news = Flag()
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
        """Look for new deliveries to these hosts. Without hosts, search the
        database for hosts soon. Never switches greenlets."""
        names = list(hosts)
        for name in names:
            self._enqueue(name)
        if not names:
            soon = self._searched_at + LEAST_LOOK_SECONDS
            self._searches_at = min(self._searches_at, soon)
        self._news.set()

    def freed(self) -> None:
        """Note that a host needs its turn no longer, or has another pace. Never
        switches greenlets."""
        self._news.set()

    def give_way(self, name: str) -> None:
        """End the turn of a host, because others wait, and queue the host
        again. Never switches greenlets."""
        self._add(name)
        self._news.set()

    def restart(self) -> None:
        """Read the deliveries anew, because another node may have sent some.
        Never switches greenlets."""
        hosts = self._hosts
        self._hosts = {}
        self._queues = {pace: {} for pace in PACES}
        for host in hosts.values():
            gevent.spawn(host.finish, STOP_SECONDS)
        self.wake()

    def run(self) -> None:
        """Greenlet: give turns to hosts, until :meth:`stop`."""
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
        """Take no more deliveries, wait for requests that are under way, and
        store the results. Switches greenlets."""
        self._has_ended = True
        self._news.set()
        hosts = list(self._hosts.values())
        self._hosts = {}
        deadline = monotonic() + STOP_SECONDS
        for host in hosts:
            host.finish(max(0.0, deadline - monotonic()))

    def _give_turns(self) -> float:
        """Give turns to the first hosts of the queues. Returns the seconds
        until the next call. Switches greenlets. Raises StorageUnavailable."""
        if monotonic() >= self._searches_at:
            self._searched_at = monotonic()
            # Set before the query, which switches: a call of wake meanwhile
            # makes the node search again soon.
            self._searches_at = self._searched_at + RENEW_SECONDS
            now_ms = int(steady_time() * SECOND_MS)
            for name, next_try in self.rows.hosts(now_ms).items():
                if next_try <= now_ms:
                    self._enqueue(name)
        for pace, queue in self._queues.items():
            free_turns = max(0, self._free_turns(pace))
            for name in list(islice(queue, free_turns)):
                del queue[name]
                self._remember_host(name).begin()
        until_search = max(self._searches_at - monotonic(), 0.0)
        # A host whose slice has ended makes room without a call.
        if any(self._queues.values()):
            return min(until_search, SLICE_SECONDS / 2)
        return until_search

    def _free_turns(self, pace: Pace) -> int:
        """How many more hosts of a pace may have a turn now; 0 or less: no
        more."""
        busy = Counter(
            host.pace for host in self._hosts.values() if host.consumer.is_busy
        )
        if pace == "fast":
            return MOST_FAST - busy["fast"]
        others = MOST_OTHERS - busy["new"] - busy["slow"]
        if pace == "new":
            return others
        return min(others, MOST_SLOW - busy["slow"])

    def _enqueue(self, name: str) -> None:
        """Let a host send new deliveries. A host that has a turn reads them in
        this turn; a host that pauses reads them later."""
        host = self._hosts.get(name)
        if host is not None and host.consumer.is_busy:
            host.consumer.wake()
        elif host is None or not host.is_paused:
            self._add(name)

    def _add(self, name: str) -> None:
        """Put a host at the end of the queue, unless it is in one."""
        if any(name in queue for queue in self._queues.values()):
            return
        host = self._hosts.get(name)
        if host is None:
            pace: Pace = "new"
        else:
            pace = host.pace
        self._queues[pace][name] = None

    def _remember_host(self, name: str) -> Host:
        """Return the state of a host as the one that was used last. If there
        are too many hosts, forget hosts without a turn, beginning with the host
        that was used least recently."""
        host = self._hosts.pop(name, None) or Host(name, self)
        self._hosts[name] = host
        if len(self._hosts) > MOST_REMEMBERED:
            idle = [
                other_name
                for other_name, other in self._hosts.items()
                if not other.consumer.is_busy and other is not host
            ]
            # Many hosts at once, so that this search is rare.
            for idle_name in idle[: MOST_REMEMBERED // 2]:
                del self._hosts[idle_name]
        return host


class Host:
    """One push service: whether it answers, and the results of the deliveries
    to it."""

    def __init__(self, name: str, owner: Deliveries) -> None:
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
        if name.partition("/")[0] in owner.services.by_name:
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
        self.consumer = Consumer(
            f"the push service {name}",
            owner.lease,
            read=self._read,
            deliver=self._deliver,
        )

    @property
    def pace(self) -> Pace:
        """How fast the host answers. A host whose slice has ended counts as
        slow, so that others need not wait for its answers."""
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
        return (
            self._owner.is_owned
            and not self._has_ended
            and not self._is_stuck
            and not self.is_paused
        )

    def begin(self) -> None:
        """Begin the turn of the host. Never switches greenlets."""
        self._has_read = False
        self.consumer.wake()

    def finish(self, seconds: float) -> None:
        """Send nothing more, wait at most ``seconds`` for requests that are
        under way, and store the results. Switches greenlets."""
        self._has_ended = True
        deadline = monotonic() + seconds
        gevent.joinall(self._workers, timeout=seconds)
        # The consumer is still busy: it stores results.
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
        """Read the deliveries to send next. Returns None if nothing waits, if
        the host pauses, or if its turn is over because other hosts wait.
        Switches greenlets. Raises StorageUnavailable."""
        owner = self._owner
        self._slice_ends = inf
        if self._has_ended:
            return None
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
        """Send the waiting deliveries, as long as the host takes them. Other
        deliveries stay in the database. Switches greenlets. Raises
        StorageUnavailable.

        The method never returns a failure: each delivery has its own time of
        the next attempt.
        """
        self._is_stuck = False
        self._contents.clear()
        # Results that could not be stored before come first. If the database
        # still does not answer, nothing is sent.
        self._settle()
        while waiting and self._may_send:
            endpoints = self._drop_outdated(waiting)
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
            if monotonic() > self._slice_ends and self._owner.has_others(self.pace):
                break
        self._settle()
        return None

    def _drop_outdated(self, waiting: deque[Delivery]) -> dict[int, PushEndpoint]:
        """Remove deliveries that must not be sent any more from ``waiting``:
        their endpoint was removed, a newer one replaces them, they have
        expired, or their message was read. Returns id → endpoint of the others.
        Switches greenlets. Raises StorageUnavailable."""
        now = time()
        # Set before the queries: messages that are read from now on count at
        # the next check.
        self._checked_at = monotonic()
        endpoints = self._owner.rows.endpoints_by_id(
            list({delivery.endpoint for delivery in waiting})
        )
        for id in self._results.gone:
            endpoints.pop(id, None)

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

        waiting.clear()
        read_ids = self._ids_of_read(valid)
        for delivery in valid:
            if delivery.id in read_ids:
                self._drop(delivery, "read")
            else:
                waiting.append(delivery)
        return endpoints

    def _ids_of_read(self, deliveries: Iterable[Delivery]) -> set[int]:
        """The ids of deliveries that are not needed any more: the message was
        read meanwhile, or the user may not be notified. Switches greenlets."""
        by_app: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            if delivery.kind != "close":
                by_app.setdefault(delivery.app, []).append(delivery)

        read: set[int] = set()
        for app, of_app in by_app.items():
            messages = [
                (delivery.user, delivery.conversation, delivery.entry)
                for delivery in of_app
            ]
            answers = self._owner.is_read(app, messages)
            for delivery, is_read in zip(of_app, answers, strict=True):
                if is_read:
                    read.add(delivery.id)
        return read

    # --- requests -------------------------------------------------------------

    def _send_until_check(
        self, waiting: deque[Delivery], endpoints: dict[int, PushEndpoint]
    ) -> None:
        """Greenlet: send deliveries one after the other, until it is time to
        check again which messages were read, the host fails, or its pace
        changes."""
        was_fast = self._is_fast
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
            if endpoints.get(delivery.endpoint) is None:
                self._drop(delivery, "removed")
                continue
            try:
                began, result = self._hand_over(
                    [delivery, *islice(waiting, ahead)], endpoints
                )
            except Exception:
                began = monotonic()
                log.exception("a notification could not be sent to %s", self._name)
                result = PushResult("later", problem="see the line before")
            if result.outcome == "gone":
                endpoints.pop(delivery.endpoint, None)

            # One late answer among quick ones does not make a host slow.
            now = monotonic()
            if now - began <= SLICE_SECONDS:
                self._quick_at = now
            elif self._quick_at < now - SLICE_SECONDS:
                self._is_fast = False
                self._slow_until = now + SLOW_SECONDS

            self._process_result(delivery, result)
            if monotonic() - self._settled_at > SETTLE_SECONDS:
                try:
                    self._settle()
                except StorageUnavailable:
                    self._is_stuck = True

    def _hand_over(
        self, deliveries: Sequence[Delivery], endpoints: Mapping[int, PushEndpoint]
    ) -> tuple[float, PushResult]:
        """Hand the first of some deliveries to its push service. Other
        deliveries are encrypted together with it. Returns when the request
        began (monotonic), and the result. Switches greenlets."""
        delivery = deliveries[0]
        endpoint = endpoints[delivery.endpoint]
        device = self._owner.services.find(endpoint.url)
        if device is not None:
            service, token = device
            began = monotonic()
            result = service.send(delivery.app, token, notice_of(delivery))
            # The device has come back since the service lost it: the endpoint
            # stays.
            if (
                result.outcome == "gone"
                and result.gone_since
                and endpoint.created > result.gone_since
            ):
                result = PushResult("refused", result.status, problem=result.problem)
            return began, result

        webpush = self._owner.webpush
        if delivery.id not in self._contents:
            # Several are encrypted one after the other: the caches of the
            # processor halve the time.
            for other in deliveries:
                if other.id in self._contents:
                    continue
                receiver = endpoints.get(other.endpoint)
                if receiver is not None:
                    self._contents[other.id] = webpush.encrypt(receiver, other.body)
        content = self._contents.pop(delivery.id)

        ttl = max(0, delivery.created + delivery.ttl - int(time()))
        urgency = "normal" if delivery.kind == "close" else "high"
        began = monotonic()
        return began, webpush.hand_over(endpoint, content, ttl, urgency, delivery.topic)

    def _process_result(self, delivery: Delivery, result: PushResult) -> None:
        """Process the result of a request. Never switches greenlets."""
        outcome = result.outcome
        if outcome == "later":
            self._process_failure(delivery, result)
            return

        self._failures = 0
        self._pauses = 0
        if not self._is_fast and monotonic() >= self._slow_until:
            self._is_fast = True
            self._owner.freed()
        self._drop(delivery, outcome, result.problem)

        results = self._results
        if outcome == "taken":
            is_news = delivery.kind in ("message", "push")
            if is_news and self._owner.wants(delivery.app, "notified"):
                event = notified(
                    delivery.app,
                    delivery.user,
                    delivery.kind,
                    delivery.conversation,
                    delivery.entry,
                    delivery.endpoint,
                )
                results.events.append(event)
        elif outcome == "gone":
            results.gone.append(delivery.endpoint)
            if self._owner.wants(delivery.app, "gone"):
                facts = {
                    "user": delivery.user,
                    "endpoint": delivery.endpoint,
                    "host": self._name,
                }
                content = msgspec.json.encode(facts)
                event = NewEvent(delivery.app, delivery.user, "gone", content)
                results.events.append(event)
        else:
            _refusal(self._name, result.problem)

    def _process_failure(self, delivery: Delivery, result: PushResult) -> None:
        """Try a delivery again later, or drop it if it expires before. Let the
        host pause if each of its simultaneous requests has failed. Never
        switches greenlets."""
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

        self._failures += 1
        if self._is_fast:
            requests = self._width
        else:
            requests = 1
        if self._failures < requests:
            return

        # No other request has succeeded meanwhile, so the host is the cause.
        # One request will show when it works again.
        self._pauses += 1
        usual_pause = retry_pause(
            self._pauses, FIRST_RETRY_SECONDS, LONGEST_PAUSE_SECONDS
        )
        pause = max(usual_pause, min(service_pause, LONGEST_WANTED_SECONDS))
        self._paused_until = max(self._paused_until, monotonic() + pause)
        self._is_fast = False
        _silence(self._name, result.problem)

    def _drop(self, delivery: Delivery, outcome: str, problem: str = "") -> None:
        """Note that a delivery is done: its row will be deleted. ``problem``:
        the reason of a failure; ``""``: it has not failed."""
        self._count(delivery, outcome, problem)
        self._results.done.append(delivery.id)
        if delivery.audience and outcome in ("taken", "gone", "refused"):
            self._results.audiences[delivery.audience, outcome] += 1

    def _count(self, delivery: Delivery, outcome: str, problem: str) -> None:
        self._owner.recent.note(delivery, outcome, problem)
        kind = "audience" if delivery.audience else delivery.kind
        self._owner.counts[delivery.app, kind, outcome] += 1

    def _settle(self) -> None:
        """Store the results of requests. If that fails, they are kept for the
        next time. Switches greenlets. Raises StorageUnavailable."""
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
                results.done + later.done,
                results.gone + later.gone,
                results.retry + later.retry,
                results.events + later.events,
                results.audiences + later.audiences,
            )
            raise


def _slot_of(delivery: Delivery) -> tuple[int, str | int]:
    """The slot of a delivery at its endpoint. A delivery with the same topic
    has the same slot, and replaces it."""
    return delivery.endpoint, delivery.topic or delivery.id
