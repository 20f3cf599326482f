"""Counters of one node: plain integers, incremented where an event happens and
read on request.

The public metrics are the table in :mod:`imserver.gateway.metric_table`.
"""

import gc
import os
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter, time
from typing import Any, Final

from msgspec import Struct, field

from imserver.gateway.errors import LoginRefusal, QuotaSpent

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the buckets for durations."""
SLOW_SECONDS: Final = 0.025
"""Work that takes at least this long is recorded as slow."""
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
"""Upper bounds of the buckets for numbers of items."""
MAX_APPS: Final = 10_000
"""Limit of the apps that are counted under their own names."""
_GENERATIONS: Final = 3
"""Generations of the garbage collector."""
OTHER: Final = "other"
"""The label of all other apps."""


class Histogram:
    """Counts of values by bucket. The observer owns it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        """Begin with empty buckets. ``bounds`` are their upper bounds."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The number of values in each bucket, not cumulative. The last number
        counts values above all bounds."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: list[float]) -> None:
        """Count many values at once. The list is sorted in place.

        In a sorted list, each bucket is a range that a binary search finds.
        """
        values.sort()
        counted = 0
        for bucket, bound in enumerate(self.bounds):
            up_to_bound = bisect_right(values, bound, counted)
            self.counts[bucket] += up_to_bound - counted
            counted = up_to_bound
            if counted == len(values):  # nearly always in the first bucket
                break
        self.counts[-1] += len(values) - counted
        self.total += sum(values)


class Slow(Struct, frozen=True):
    """A slow piece of work.

    ``time`` is the Unix second at which the work ended, and ``seconds`` is how
    long it took. ``by`` is the label of the principal, or the address of the
    connection. ``request`` is the id of the request.
    """

    time: float
    seconds: float
    by: str = ""
    request: str = ""


def _ignore_time(_name: str, _seconds: float) -> None:
    """Ignore the time of a transaction."""


class Timings(dict[str, Histogram]):
    """Name → the distribution of durations, in seconds.

    It also has the slowest recent duration of each name. A name is the path of
    a route, a command or a method, so the number of names is limited. The
    object that observes the durations owns this mapping.
    """

    def __init__(self) -> None:
        """Begin without durations."""
        super().__init__()
        self.heard: Callable[[str, float], None] = _ignore_time
        """A function that is called with the name and the seconds of each
        transaction, in the greenlet that has waited for the transaction. May
        change."""
        self.fast: defaultdict[type, list[float]] = defaultdict(list)
        """Class → durations below :data:`SLOW_SECONDS` that frequent work
        appends here. :meth:`fold` counts them under the name of the class. If
        250 durations are counted together, each takes 61 ns. :meth:`took`
        would take 383 ns for each."""
        self.slowest: dict[str, Slow] = {}
        """Name → the slowest piece of work, if it took at least
        :data:`SLOW_SECONDS`. Read-only for others."""

    def took(self, name: str, seconds: float, by: str = "", request: str = "") -> None:
        """Count one duration. Never switches greenlets.

        ``by`` and ``request`` say whose work it was (:class:`Slow`).
        """
        self[name].observe(seconds)
        if seconds >= SLOW_SECONDS:
            before = self.slowest.get(name)
            if before is None or seconds > before.seconds:
                self.slowest[name] = Slow(time(), seconds, by, request)

    def fold(self) -> None:
        """Count the durations in ``fast``. Never switches greenlets.

        The node calls it once a second, and before durations are read.
        """
        for kind, seconds in self.fast.items():
            if seconds:
                self.took_fast(kind.__name__, seconds)
                seconds.clear()

    def took_fast(self, name: str, seconds: list[float]) -> None:
        """Count many durations at once, and sort them. Never switches
        greenlets.

        Each duration is below :data:`SLOW_SECONDS`.
        """
        self[name].observe_all(seconds)

    def forget(self, is_over: Callable[[Slow], bool]) -> None:
        """Forget each entry of ``slowest`` for which ``is_over`` is true."""
        self.slowest = {
            name: slow for name, slow in self.slowest.items() if not is_over(slow)
        }

    def __missing__(self, name: str) -> Histogram:
        """Make the distribution of a new name."""
        histogram = Histogram()
        self[name] = histogram
        return histogram


class _Stop(Struct, frozen=True):
    """The stop of an app that has used up a quota.

    When the count of the app is ``count``, the app may not continue until the
    Unix second ``until``. ``text`` says why.
    """

    count: int
    until: int
    text: str


class CountsByApp(dict[str, int]):
    """App → a count since the start. Owner: the observer.

    Without API keys strangers may choose names of apps. So at most
    :data:`MAX_APPS` apps have a count of their own. If another app comes, the
    count of the newest app is added to :data:`OTHER`.

    A feature that limits apps sets stops. An app that has reached its stop may
    not continue.
    """

    __slots__ = ("stops",)

    def __init__(self) -> None:
        """Begin without counts and stops."""
        super().__init__()
        self.stops: dict[str, _Stop] = {}
        """App → its stop. Read-only for others."""

    def stop_at(self, app: str, count: int, until: int, text: str) -> None:
        """Let an app stop when its count is ``count``, until a Unix second.

        ``text`` says why.
        """
        self.stops[app] = _Stop(count, until, text)

    def go_on(self, app: str) -> None:
        """Remove the stop of an app."""
        self.stops.pop(app, None)

    def spent(self, app: str) -> QuotaSpent | None:
        """Return why the app has to stop now, or None if it may continue.

        Never switches greenlets.
        """
        stop = self.stops.get(app)
        if stop is None or self.get(app, 0) < stop.count or time() >= stop.until:
            return None
        return QuotaSpent(stop.text, stop.until)

    def require(self, app: str) -> None:
        """Raise QuotaSpent if the app has to stop. Never switches greenlets.

        Frequently called code checks first whether :attr:`stops` is empty.
        """
        spent = self.spent(app)
        if spent is not None:
            raise spent

    def __missing__(self, app: str) -> int:
        """Return 0, for an app that is counted for the first time.

        If there are too many apps, the newest one joins :data:`OTHER`.
        """
        if len(self) >= MAX_APPS:
            _, count = self.popitem()
            self[OTHER] = self.get(OTHER, 0) + count
        return 0

    @property
    def total(self) -> int:
        """The sum of all apps."""
        return sum(self.values())


class Metrics(Struct, eq=False):
    """Counters that no part of a node owns. They count since the start, except
    the ``…_now`` gauges.

    Owner: the node. Each part increments its counters; gevent switches
    greenlets only at I/O, so ``+= 1`` needs no lock. ``/system/state`` shows
    them in this order.
    """

    accepted: int = 0
    """TCP connections accepted by the front server."""
    batch_messages: Histogram = field(default_factory=partial(Histogram, SIZES))
    """Number of client messages passed to the log together."""
    batch_seconds: Histogram = field(default_factory=Histogram)
    closes: dict[int, int] = field(default_factory=dict)
    collections: list[int] = field(default_factory=lambda: [0] * _GENERATIONS)
    """Garbage collections by generation."""
    collector_pause_max_seconds: float = 0.0
    collector_seconds: list[float] = field(default_factory=lambda: [0.0] * _GENERATIONS)
    commands: Timings = field(default_factory=Timings)
    """Command → the time until its reply."""
    deliveries: int = 0
    delivery_seconds: Histogram = field(default_factory=Histogram)
    """The time from the acceptance of a message until its frames are with the
    sockets of this node."""
    denials: dict[LoginRefusal, CountsByApp] = field(default_factory=dict)
    """Reason → logins refused for it."""
    expired: int = 0
    """Entries of the log that the retention has deleted."""
    files_exhausted: int = 0
    """How often the node stopped to accept, because it could open no more
    files."""
    handshakes: int = 0
    handshakes_refused: int = 0
    http_fast: int = 0
    """HTTP requests that the front server has answered."""
    http_handed_over: int = 0
    """HTTP requests that the front server has passed to Flask."""
    http_over_rate: int = 0
    """HTTP requests that were refused, because their payer had no token
    left."""
    http_refused: int = 0
    """HTTP requests that were refused before the front server or Flask had
    them."""
    http_running: int = 0
    """HTTP requests that run in Flask now."""
    log_gaps: int = 0
    """How often the node read the log, because it had missed a node message."""
    logins: CountsByApp = field(default_factory=CountsByApp)
    jobs: Timings = field(default_factory=Timings)
    """Function of periodic work → the time of its turn."""
    loop_lag_max_seconds: float = 0.0
    loop_lag_seconds: float = 0.0
    loop_lags: Histogram = field(default_factory=Histogram)
    messages_in: int = 0
    """Messages read from clients."""
    not_stored: int = 0
    """Messages of clients that were refused or could not be stored."""
    outbox_bytes_now: int = 0
    pushes: CountsByApp = field(default_factory=CountsByApp)
    requests: Timings = field(default_factory=Timings)
    """Path of the route → the time until the answer."""
    slow_readers: int = 0
    stored: CountsByApp = field(default_factory=CountsByApp)
    stored_repeats: int = 0
    """Messages of clients that had been stored before."""
    streams: int = 0
    """Requests for an event stream that reached the login."""
    sweeps: int = 0
    """Passes over all connections that look for silent ones."""
    swept: int = 0
    """Connections that these passes have closed."""
    resent_entries: int = 0
    """Entries that were sent again, because the client had not acknowledged
    them."""
    transactions: Timings = field(default_factory=Timings)
    """Method of the database's rows → the time of its transaction, including
    waits."""

    @property
    def timings(self) -> dict[str, Timings]:
        """Kind → its timings: ``requests``, ``commands``, ``transactions`` and
        ``jobs``."""
        return {
            name: getattr(self, name)
            for name in ("requests", "commands", "transactions", "jobs")
        }

    @property
    def logins_refused(self) -> CountsByApp:
        """App → its refused logins, for all reasons together."""
        counts = CountsByApp()
        for of_reason in self.denials.values():
            for app, number in of_reason.items():
                counts[app] += number
        return counts

    def login_refused(self, reason: LoginRefusal, app: str) -> None:
        """Count a refused login.

        ``app`` is a known app of this node, else :data:`OTHER`.
        """
        self.denials.setdefault(reason, CountsByApp())[app] += 1

    def closed(self, code: int) -> None:
        """Count a closed connection by its close code.

        1006 means that it ended without a close frame.
        """
        self.closes[code] = self.closes.get(code, 0) + 1

    def lagged(self, seconds: float) -> None:
        """Count a delay of the event loop by ``seconds``."""
        self.loop_lag_seconds = seconds
        self.loop_lag_max_seconds = max(self.loop_lag_max_seconds, seconds)
        self.loop_lags.observe(seconds)

    def watch_collector(self) -> Callable[[], None]:
        """Measure garbage collections, which block the loop.

        The returned function ends the measurement.
        """
        started = 0.0

        def collecting(phase: str, info: Mapping[str, int]) -> None:
            """Callback of Python: a collection starts or has ended."""
            nonlocal started
            if phase == "start":
                started = perf_counter()
                return
            pause = perf_counter() - started
            generation = info["generation"]
            self.collections[generation] += 1
            self.collector_seconds[generation] += pause
            longest = max(self.collector_pause_max_seconds, pause)
            self.collector_pause_max_seconds = longest

        # Python calls the function at the start and at the end of each
        # collection.
        gc.callbacks.append(collecting)
        return partial(gc.callbacks.remove, collecting)

    def snapshot(self) -> dict[str, Any]:
        """Return all current counters by name, as plain numbers.

        Counters by app are added up. Distributions are left out.
        """
        numbers: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "denials":
                value = {reason: counts.total for reason, counts in value.items()}
            elif isinstance(value, Histogram | Timings):
                continue
            elif isinstance(value, CountsByApp):
                value = value.total
            elif isinstance(value, dict | list):
                # The snapshot gets a copy, because the counters continue to
                # change.
                value = value.copy()
            numbers[name] = value
        return numbers


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes.

    The result is 0 if the system does not report the memory.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
