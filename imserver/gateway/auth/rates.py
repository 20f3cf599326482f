"""Rates, each with the acts that it counts and their payer, and the buckets of
tokens.

Each payer has a bucket of tokens. It is full at first. Each counted act takes
tokens out of it, and it fills up at a steady rate. Features have their rates in
their ``settings``. The module also has the list of muted users, who may send
nothing in their whole app for a time.
"""

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from time import monotonic_ns, time
from typing import Final

import gevent
import msgspec
from msgspec import Struct, field

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import Problems, ServiceRefused
from imserver.gateway.process import open_private, write_all

log: Final = logging.getLogger(__name__)

LASTING_SECONDS: Final = 600
"""The counts of a rate over at least this time are kept over a restart."""
MAX_PAYERS: Final = 100_000
"""Limit of the payers of one rate. Beyond it a node forgets the payer that paid
longest ago."""
_SECOND: Final = 1_000_000_000
"""Nanoseconds: what the monotonic clock counts."""
_FULL_STAYS: Final = 10 * _SECOND
"""How long a full bucket is kept. It would cost more to make a new bucket for
each message."""
_WRITE_SECONDS: Final = 60
"""Time between two writes of the file. A node that is killed loses the counts
since its last write."""
_DIGEST_BYTES: Final = 16
_MAX_BLAKE_KEY_BYTES: Final = 64
"""The longest key that BLAKE2b takes."""


class Rate(Struct, frozen=True):
    """A rate, as a row of the table: what is counted, and for whom.

    All texts except ``name`` are words for the documentation.

    - ``name``: the name of the rate in Redis, where the nodes of a cluster
      count together.
    - ``counted``: the acts that take a token.
    - ``payer``: who has a bucket of this rate.
    - ``limit``: the setting with the number of tokens and their time.
    - ``above``: the result if there are too few tokens: an HTTP status or a
      close code.
    - ``burst``: a full bucket has this many times the limit.
    """

    name: str
    counted: str
    payer: str
    limit: str
    above: str = "429"
    burst: int = 1


_MESSAGES: Final = "limits.messages_per_second, and that of the app"
MESSAGES: Final = Rate(
    name="messages",
    counted="messages",
    payer="connection",
    limit=_MESSAGES,
    above="close code 4003",
)
HTTP_MESSAGES: Final = Rate(
    name="http_messages",
    counted="messages over HTTP",
    payer="user",
    limit=_MESSAGES,
)
PUBLICATIONS: Final = Rate(
    name="publications",
    counted="publications to a namespace",
    payer="connection",
    limit="its publications_per_second",
    above="1008",
)
_EIGHTH: Final = "an eighth of limits.outbox_bytes per second"
NOTICES: Final = Rate(
    name="notices",
    counted="bytes of the join and leave notices that subscriptions cause",
    payer="user",
    limit=_EIGHTH,
    above="1008",
)
LOGIN_NOTICES: Final = Rate(
    name="login_notices",
    counted="bytes of the notices of a connection that logs in as another user",
    payer="connection",
    limit=_EIGHTH,
    above="1008",
)
REQUESTS: Final = Rate(
    name="requests",
    counted="requests",
    payer="key, user or address",
    limit="api.requests_per_second",
)


class TooManyRequests(
    ServiceRefused, problem=Problems.TOO_MANY_REQUESTS, login="attempts"
):
    """A payer has too few tokens: it has done something too often.

    ``seconds`` is the time until the next request is allowed. ``limit`` is the
    name of the rate.
    """

    def __init__(self, seconds: int, limit: str = "") -> None:
        super().__init__(f"too many requests; the next one may be tried in {seconds} s")
        self.seconds = seconds
        self.limit = limit


Digest = Callable[[Hashable], bytes]
"""Makes the bytes that represent a payer in a file."""
Shared = Callable[[str, float, float, float], float | None]
"""Takes tokens for all nodes of a cluster:
:meth:`imserver.gateway.cluster.redis.registry.RedisRegistry.attempt`."""


def _no_digest(_: Hashable) -> bytes:
    """Return no bytes. This is the digest on a node without counts from before
    its start."""
    return b""


class Buckets:
    """The buckets of one rate on a node: one for each payer.

    A payer, such as a user, a key or an address, pays with one token of its
    bucket for each request. A bucket gets ``number`` tokens every ``seconds``;
    0: no limit. The bucket is stored as the time at which it will be full
    again. Each token that is taken moves this time into the future.

    With ``shared`` the nodes of a cluster count together, in :meth:`require`,
    :meth:`give_back`, :meth:`forget` and :meth:`wait`, which may switch
    greenlets then. While Redis does not answer, each node counts by itself.
    Nothing else switches greenlets. Owner of the buckets.
    """

    def __init__(
        self,
        rate: Rate,
        number: float = 0,
        seconds: float = 1.0,
        shared: Shared | None = None,
    ) -> None:
        """Start with full buckets. The class explains the arguments."""
        self.rate = rate
        self.seconds = seconds
        self._shared = shared
        self.set(number)

    def set(self, number: float) -> None:
        """Change the limit to ``number`` tokens, and fill all buckets."""
        self._before: dict[bytes, int] = {}
        """The counts of this node before its restart: digest of a payer → a
        time as in ``_full_at``. A payer moves to ``_full_at`` when it pays, or
        when somebody looks it up."""
        self._digest: Digest = _no_digest
        self.number = number
        self._token_time = 0
        """Nanoseconds in which a bucket gets one token; 0: no limit."""
        self._fill_time = 0
        """Nanoseconds in which an empty bucket becomes full."""
        if number:
            self._token_time, self._fill_time = self._times_of(number)
        self._full_at: OrderedDict[Hashable, int] = OrderedDict()
        """Payer → when its bucket is full again, in nanoseconds of the
        monotonic clock: whole numbers, so sums are exact. The payer who has
        paid last is at the end. A payer with a full bucket may be missing."""

    def _times_of(self, number: float) -> tuple[int, int]:
        """Return two times for a limit of ``number`` tokens, in nanoseconds.

        The first is the time in which a bucket gets one token. The second is
        the time in which an empty bucket becomes full.
        """
        token_time = max(int(self.seconds * _SECOND / number), 1)
        return token_time, int(max(number * self.rate.burst, 1) * token_time)

    def take(self, payer: Hashable, tokens: int = 1, number: float = 0) -> bool:
        """Take tokens, and return True. If there are too few, take none and
        return False.

        ``number`` is the limit of this payer; 0: the limit of all payers.
        Called for each message of a client, so it repeats the code of other
        methods instead of calling them.
        """
        if number:
            token_time, fill_time = self._times_of(number)
        else:
            token_time = self._token_time
            fill_time = self._fill_time
        if not token_time:
            return True

        now = monotonic_ns()
        full_at = self._full_at
        full_before = full_at.get(payer, 0)
        # The payer may have paid before this node was restarted.
        if not full_before and self._before:
            full_before = self._find_full_at(payer)
        if full_before > now:
            full_after = full_before + tokens * token_time
        else:
            full_after = now + tokens * token_time
        # There are too few tokens: the bucket would be full too late.
        if full_after > now + fill_time:
            return False

        full_at[payer] = full_after
        if full_before:
            full_at.move_to_end(payer)
        else:
            self._forget_oldest(now)
        return True

    def require(self, payer: Hashable, tokens: int = 1, number: float = 0) -> None:
        """Take tokens. Raises TooManyRequests if there are too few.

        ``payer`` is None if nobody pays, so that everything is allowed.
        ``number`` is the limit of this payer; 0: the limit of all payers.
        """
        if payer is None:
            return

        seconds = self._count_shared(payer, tokens)
        if seconds:
            raise TooManyRequests(math.ceil(seconds), self.rate.name)
        if seconds is not None:
            # The cluster has allowed it. This node counts it, too, for a later
            # time in which Redis does not answer.
            self.charge(payer, tokens)
        elif not self.take(payer, tokens, number):
            raise self._too_many(payer, tokens, number)

    def _too_many(self, payer: Hashable, tokens: int, number: float) -> TooManyRequests:
        """Make the error that says when the payer will have enough tokens."""
        token_time, fill_time = self._times_of(number or self.number)
        missing = self._debt(payer) + tokens * token_time - fill_time
        return TooManyRequests(max(math.ceil(missing / _SECOND), 1), self.rate.name)

    def require_one(self, payer: Hashable, tokens: int) -> None:
        """Take tokens if there is at least one, even if there are too few.

        It is for requests whose number of parts the caller chooses. Raises
        TooManyRequests if there is no token.
        """
        if self.number:
            self.require(payer)
            self.charge(payer, tokens - 1)

    def charge(self, payer: Hashable, tokens: int = 1) -> None:
        """Take tokens even if there are too few.

        The missing tokens must be filled up before the next request is allowed.
        """
        now = monotonic_ns()
        full_before = max(self._find_full_at(payer), now)
        self._full_at[payer] = full_before + tokens * self._token_time
        self._full_at.move_to_end(payer)
        self._forget_oldest(now)

    def give_back(self, payer: Hashable) -> None:
        """Put back a token that was taken with :meth:`require`."""
        self._count_shared(payer, -1)
        if self._find_full_at(payer):
            self._full_at[payer] -= self._token_time

    def forget(self, payer: Hashable) -> None:
        """Fill the bucket of a payer, on all nodes that count together."""
        self._count_shared(payer, -self.number)
        self._find_full_at(payer)  # takes it out of the counts before a restart
        self._full_at.pop(payer, None)

    def payers(self) -> list[Hashable]:
        """Return the payers whose buckets are not full on this node.

        They are in the order of their last payment.
        """
        return list(self._full_at)

    def wait(self, payer: Hashable) -> int:
        """Return the seconds until a payer has a token, rounded up.

        The result is 0 if the payer has a token, or if this rate has no limit
        here.
        """
        if not self.number:
            return 0
        seconds = self._count_shared(payer, tokens=0)
        if seconds is None:
            seconds = (self._debt(payer) + self._token_time - self._fill_time) / _SECOND
        return max(math.ceil(seconds), 0)

    @property
    def is_shared(self) -> bool:
        """Whether the nodes of a cluster count together."""
        return self._shared is not None

    def left(self, payer: Hashable) -> tuple[int, int]:
        """Return how many tokens a payer has left, and the seconds until its
        bucket is full.

        The seconds are rounded up.
        """
        debt = self._debt(payer)
        tokens = max(self._fill_time - debt, 0) // self._token_time
        return tokens, math.ceil(debt / _SECOND)

    def _debt(self, payer: Hashable) -> int:
        """Return the nanoseconds until the bucket of a payer is full."""
        return max(self._find_full_at(payer) - monotonic_ns(), 0)

    def _find_full_at(self, payer: Hashable) -> int:
        """Return when the bucket of a payer is full again.

        The time is in nanoseconds of the monotonic clock. 0 means that nothing
        is known of the payer, so the bucket is full.
        """
        full_at = self._full_at.get(payer, 0)
        if full_at or not self._before:
            return full_at

        # The payer is moved from the counts before the restart to ``_full_at``.
        counted_before = self._before.pop(self._digest(payer), 0)
        if counted_before:
            self._full_at[payer] = counted_before
        return counted_before

    @property
    def is_lasting(self) -> bool:
        """Whether the counts of this rate are kept over a restart of this node.

        Counts in Redis, and buckets that are full again within seconds, are not
        kept.
        """
        return (
            self._shared is None and self.number > 0 and self.seconds >= LASTING_SECONDS
        )

    def state(self, digest: Digest) -> dict[bytes, float]:
        """Return when each bucket that is not full will be full, for
        :meth:`restore`.

        The result maps the digest of each payer to a Unix second. May switch
        greenlets.
        """
        now = monotonic_ns()
        # The Unix second at which the monotonic clock was 0.
        zero = time() - monotonic_ns() / _SECOND
        full_at = dict(self._before)
        for payer, full in tuple(self._full_at.items()):
            full_at[digest(payer)] = full
            if is_long_turn():
                serve_others()
        return {
            name: zero + full / _SECOND for name, full in full_at.items() if full > now
        }

    def restore(self, full_at: Mapping[bytes, float], digest: Digest) -> None:
        """Continue with an earlier result of :meth:`state`, after a restart."""
        now = monotonic_ns()
        unix = time()
        self._digest = digest
        self._before = {}
        for name, full in full_at.items():
            # The limit may have become smaller with the restart.
            debt = min(int((full - unix) * _SECOND), self._fill_time)
            if debt > 0:
                self._before[name] = now + debt

    def _count_shared(self, payer: Hashable, tokens: float) -> float | None:
        """Take tokens in Redis, for all nodes.

        0 ``tokens`` only asks whether there is a token. A negative number puts
        tokens back. Returns 0 if there were enough tokens, otherwise the
        seconds until there are enough. Returns None if nodes do not count
        together, or if Redis does not answer, so that this node has to count by
        itself.
        """
        if self._shared is None or not self.number:
            return None

        bucket = f"{self.rate.name}:{payer!r}"
        seconds_a_token = self.seconds / self.number
        return self._shared(bucket, self.number, seconds_a_token, tokens)

    def _forget_oldest(self, now: int) -> None:
        """Forget at most two buckets: old full ones, or the oldest if there are
        too many.

        A bucket is forgotten when it has been full for :data:`_FULL_STAYS`, or
        when there are more than :data:`MAX_PAYERS`. It is called after each new
        bucket and may forget two, so the number of buckets falls.
        """
        full_at = self._full_at
        for oldest in tuple(itertools.islice(full_at, 2)):
            stays = full_at[oldest] > now - _FULL_STAYS
            if stays and len(full_at) <= MAX_PAYERS:
                break
            del full_at[oldest]


State = dict[str, dict[bytes, float]]
"""Name of a rate → the result of :meth:`Buckets.state`."""


class _Person(Struct, frozen=True):
    """The person whom :meth:`BucketList.find` looks for among the payers.

    A payer is a tuple of an app and one or more ids, or a network alone.

    - ``apps``: the apps in which the person may pay; ``""`` in it stands for
      acts that belong to no app.
    - ``names``: the person's user ids, also as numbers.
    - ``networks``: the networks of the person's addresses.
    - ``networks_alone``: the networks that may pay without an app.
    """

    apps: frozenset[str]
    names: frozenset[Hashable]
    networks: frozenset[str]
    networks_alone: frozenset[str]

    @classmethod
    def of(
        cls,
        app: str,
        names: Iterable[Hashable],
        networks: frozenset[str],
        everywhere: bool,
    ) -> "_Person":
        """Describe a person by the arguments of :meth:`BucketList.find`."""
        return cls(
            apps=frozenset({app, ""} if everywhere else {app}),
            names=frozenset(names),
            networks=networks,
            networks_alone=networks if everywhere else frozenset(),
        )

    def pays_as(self, payer: Hashable) -> bool:
        """Whether this payer is a name or a network of the person, or contains
        one as an id."""
        if not isinstance(payer, tuple):
            return payer in self.networks_alone
        app, *ids = payer
        if app not in self.apps:
            return False
        return not (self.names.isdisjoint(ids) and self.networks.isdisjoint(ids))

    def likely_payers(self) -> set[Hashable]:
        """Return the payers that the person may be.

        Each has a single name or network of the person, or a name together with
        a network.
        """
        payers: set[Hashable] = set(self.networks_alone)
        for app in self.apps:
            payers.update((app, id) for id in self.names | self.networks)
            # A rate may count each user separately at each address.
            pairs = itertools.product(self.names, self.networks)
            payers.update((app, name, network) for name, network in pairs)
        return payers


class BucketList(Struct, eq=False):
    """The buckets of a node whose payers may wait for longer than seconds.

    Rates of a connection per second are left out, because such a bucket is full
    again before anybody looks. Owner of the list.
    """

    all: list[Buckets] = field(default_factory=list)
    """Read-only for others."""

    def make(
        self,
        rate: Rate,
        number: float = 0,
        seconds: float = 1.0,
        shared: Shared | None = None,
    ) -> Buckets:
        """Make the buckets of a rate, one for each payer, and add them to the
        list."""
        buckets = Buckets(rate, number, seconds, shared)
        self.all.append(buckets)
        return buckets

    def state(self, digest: Digest) -> bytes:
        """Return the counts that are kept over a restart, for :meth:`restore`.

        ``digest`` makes the bytes that stand for a payer. May switch greenlets.
        """
        state: State = {}
        for buckets in tuple(self.all):  # a copy: buckets.state() may switch
            if buckets.is_lasting:
                state[buckets.rate.name] = buckets.state(digest)
        return msgspec.msgpack.encode(state)

    def restore(self, content: bytes, digest: Digest) -> None:
        """Continue with an earlier result of :meth:`state`. Raises ValueError."""
        state = msgspec.msgpack.decode(content, type=State)
        for buckets in self.all:
            if buckets.is_lasting:
                buckets.restore(state.get(buckets.rate.name, {}), digest)

    def find(
        self,
        app: str,
        names: Iterable[Hashable],
        networks: Iterable[str],
        *,
        everywhere: bool = False,
        likely: bool = False,
    ) -> Iterator[tuple[Buckets, Hashable]]:
        """Find the buckets of a person that are not full, each with its payer.

        - ``app``: the app in which the person pays.
        - ``names``: the person's ids there, also as numbers.
        - ``networks``: the networks of the person's addresses, as
          :func:`network_of` returns them.
        - ``everywhere``: also find buckets that belong to no app, as for requests
          from an address.
        - ``likely``: also find buckets that only other nodes may have counted.

        May switch greenlets.
        """
        person = _Person.of(app, names, frozenset(networks), everywhere)
        likely_payers = set[Hashable]()
        if likely:
            likely_payers = person.likely_payers()

        for buckets in tuple(self.all):
            payers = _payers_of(person, buckets)
            # Redis cannot list the payers that other nodes have counted.
            if buckets.is_shared:
                payers.update(dict.fromkeys(likely_payers))
            for payer in payers:
                yield buckets, payer


def _payers_of(person: _Person, buckets: Buckets) -> dict[Hashable, None]:
    """Find the payers of some buckets that are this person, as an ordered set.

    May switch greenlets, because there may be very many payers.
    """
    payers: dict[Hashable, None] = {}
    for payer in buckets.payers():
        if person.pays_as(payer):
            payers[payer] = None
        if is_long_turn():
            serve_others()
    return payers


class SenderRates(Struct, eq=False):
    """The users with a rate of messages on this node.

    When a feature has verified the token of a user here, it adds the user with
    the buckets that count for this user. Owner of the list. Never switches
    greenlets.
    """

    known: dict[tuple[str, str], Buckets] = field(default_factory=dict)
    """App and user → the buckets that count for this user. Read-only for
    others."""

    def limit(self, app: str, user: str, buckets: Buckets) -> None:
        """Count the messages of a user from now on.

        Does nothing if the buckets have no limit.
        """
        if buckets.number and self.known.get((app, user)) is not buckets:
            if len(self.known) >= MAX_PAYERS:
                del self.known[next(iter(self.known))]
            self.known[app, user] = buckets

    def lift(self, app: str, user: str, buckets: Buckets) -> None:
        """Stop counting the messages of a user in these buckets."""
        if self.known.get((app, user)) is buckets:
            del self.known[app, user]

    def take(self, app: str, user: str) -> bool:
        """Count one message of a user. Returns False if there were too many."""
        buckets = self.known.get((app, user))
        return buckets is None or buckets.take((app, user))


class LastingRates:
    """Keeps counts per hour or day over a restart of a node without Redis.

    The counts are in the file ``rates`` in the data folder. The file has no
    names: each payer is a digest, made with a key from the server's secret.
    Owner of the file.
    """

    def __init__(
        self, buckets: BucketList, folder: Path, key_for: Callable[[str], bytes]
    ) -> None:
        """Begin without reading the file. ``key_for(purpose)`` makes a key from
        the server's secret."""
        self._buckets = buckets
        self._file = folder / "rates"
        self._key_for = key_for

    def start(self) -> None:
        """Read the file. If it cannot be read, counting begins anew."""
        try:
            self._buckets.restore(self._file.read_bytes(), self._digest)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s is not read, so rates begin anew: %s", self._file, error)

    def run(self) -> None:
        """Greenlet: write the file every :data:`_WRITE_SECONDS`."""
        while True:
            gevent.sleep(_WRITE_SECONDS)
            self.write()

    def write(self) -> None:
        """Write the file, and log a failure. Switches greenlets."""
        content = self._buckets.state(self._digest)
        # A new file replaces the old one, so that the file is never incomplete.
        new = self._file.with_name("rates.new")
        try:
            descriptor = open_private(new)
            try:
                os.ftruncate(descriptor, 0)
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
            os.replace(new, self._file)
        except OSError as error:
            log.warning(
                "%s cannot be written, so a restart forgets rates: %s",
                self._file,
                error,
            )

    def _digest(self, payer: Hashable) -> bytes:
        """Return the bytes that stand for a payer in the file."""
        key = self._key_for("rates")[:_MAX_BLAKE_KEY_BYTES]
        content = repr(payer).encode()
        return blake2b(content, digest_size=_DIGEST_BYTES, key=key).digest()


# --- who sends nothing for a time ---------------------------------------------


class Mute(Struct, frozen=True):
    """The mute of a user, who may send nothing in the whole app until this Unix
    second.

    ``reason`` is shown to the user.
    """

    until: int
    reason: str = ""

    @property
    def text(self) -> str:
        """The message for the muted user, in one line."""
        end = datetime.fromtimestamp(self.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
        text = f"muted until {end}"
        if self.reason:
            text += f": {self.reason}"
        return text


class MutedUsers(Struct, eq=False):
    """The users who may send nothing for a time.

    A feature fills the list. Beyond :data:`MAX_PAYERS` it forgets the oldest
    mute. Owner of the list. Never switches greenlets.
    """

    all: dict[tuple[str, str], Mute] = field(default_factory=dict)
    """App and user → the mute. Read-only for others."""

    def mute(self, app: str, user: str, until: int, reason: str = "") -> None:
        """Mute a user until this Unix second. A time in the past ends the mute."""
        # A new mute replaces an earlier one, and goes to the end of the list.
        self.all.pop((app, user), None)
        if until > time():
            self.all[app, user] = Mute(until, reason)
            if len(self.all) > MAX_PAYERS:
                del self.all[next(iter(self.all))]

    def mute_of(self, app: str, user: str) -> Mute | None:
        """Return the mute of a user; None if the user may send."""
        mute = self.all.get((app, user))
        if mute is None or mute.until > time():
            return mute
        del self.all[app, user]
        return None
