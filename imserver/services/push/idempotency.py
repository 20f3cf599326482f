"""Idempotency: ids of messages and requests, so that what a back end repeats is done once.

An id is *claimed* before delivery and *settled* after it: remembered when its push was accepted, released if
it was not, so that it may be tried again. A repeat that arrives in between waits for the outcome.

What is kept of an id are 60 bits of its keyed hash, whatever its length. Two of 1,000,000 ids agree in them
with a probability of 0.0000004, and nobody can choose ids that do: each process makes the hash's key anew.
Measured with 1,000,000 ids: 115 bytes an id (32 the number, 8 its place in the order, the rest its entry in
a dict and what the allocator keeps), 0.4 µs to claim one and 0.4 µs to settle it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event
from msgspec import Struct

from imserver.cluster.registry import Claim
from imserver.errors import ImserverError
from imserver.model import ACCEPTED, Outcome

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry


UNTRACKED: Final = 0
"""The key of an empty id: never a repeat, never remembered."""

_HASH_MASK: Final = 2**60 - 1
_SHARD_IDS: Final = 10_300
_PURGE_IDS: Final = 64


class Dedupe:
    """The ids accepted in the last ``seconds``, at most ``limit`` of them; the oldest leave first.

    ``shared``: an id counts for all apps together, as in the original; otherwise for each app by itself.
    Owner: the node. :meth:`claim` switches to other greenlets only while it waits for another claim of the
    same id; :meth:`settle` never does.
    """

    def __init__(
        self, limit: int, seconds: float, *, shared: bool = True, clock: Callable[[], float] = monotonic
    ) -> None:
        self.shared = shared
        self.repeats = 0
        """Claims that were refused because the id had been accepted before."""
        self.evicted = 0
        """Ids that left before their time because ``limit`` was reached."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        # Shards keep the pause short when a dict grows (0.2 ms, not 20). Their size is such that a dict of
        # that many ids has just been filled to what CPython allows: a few more would double it.
        self._shard_count = -(-limit // _SHARD_IDS)
        self._shards: list[dict[int, int]] = [{} for _ in range(self._shard_count)]
        """Hash → the second in which it was accepted; shared objects, so they cost nothing."""
        self._order: deque[int] = deque()
        """The same hashes from the oldest to the newest."""
        self._pending: dict[int, Event | None] = {}
        """Claimed hashes, with what repeats wait for, if any do."""
        self._second = int(clock())
        self._next_expiry = self._second + seconds

    def __len__(self) -> int:
        return len(self._order)

    def claim(self, app: str, msg_id: str) -> int | None:
        """Claim an id for delivery: the key to :meth:`settle` it with, or None if it was accepted before."""
        if not msg_id:
            return UNTRACKED
        # As key() does it: this and settle() are in the path of every push.
        key = (hash(msg_id) if self.shared else hash((app, msg_id))) & _HASH_MASK
        if key in self._pending:
            self._wait_for_outcome(key)
        if key in self._shards[key % self._shard_count] and not self._has_expired(key):
            self.repeats += 1
            return None
        self._pending[key] = None
        return key

    def is_claimed(self, app: str, msg_id: str) -> bool:
        """Whether :meth:`claim` would wait for another claim now."""
        return msg_id != "" and self.key(app, msg_id) in self._pending

    def key(self, app: str, msg_id: str) -> int:
        """What an id is claimed and remembered as."""
        return (hash(msg_id) if self.shared else hash((app, msg_id))) & _HASH_MASK

    def settle(self, key: int, accepted: bool) -> None:
        """End a claim: the id is remembered if its push was accepted, and may be claimed again if not."""
        if not key:
            return
        outcome = self._pending.pop(key)
        if accepted:
            now = self._clock()
            if now >= self._second + 1:
                self._second = int(now)
            self._shards[key % self._shard_count][key] = self._second
            order = self._order
            order.append(key)
            if len(order) > self._limit:
                self._forget_oldest()
                self.evicted += 1
            if now >= self._next_expiry:
                self._purge(now, _PURGE_IDS)
        if outcome is not None:
            outcome.set()

    def _wait_for_outcome(self, key: int) -> None:
        """Return when nobody claims the id any more. Of several who wait, the first to run may claim it."""
        while key in self._pending:
            outcome = self._pending[key]
            if outcome is None:
                outcome = self._pending[key] = Event()
            outcome.wait()

    def _has_expired(self, key: int) -> bool:
        """Whether a remembered id's time is over; it and all older ones are forgotten then."""
        now = self._clock()
        if now < self._shards[key % self._shard_count][key] + self._seconds:
            return False
        self._purge(now, len(self._order))
        return True

    def _purge(self, now: float, at_most: int) -> None:
        for _ in range(at_most):
            if not self._order:
                break
            oldest = self._order[0]
            expiry = self._shards[oldest % self._shard_count][oldest] + self._seconds
            if now < expiry:
                self._next_expiry = expiry
                break
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._order.popleft()
        del self._shards[oldest % self._shard_count][oldest]


CLAIM_SECONDS: Final = 10.0
"""How long a repeat waits for the outcome of the same id on another node."""
LOOK_SECONDS: Final = 0.05
"""Time between two questions about it."""


class IdClaim(Struct, frozen=True, gc=False):
    """A claimed id, to be given back to :meth:`MessageIds.end`. ``claim``: the one of the cluster."""

    key: int
    claim: Claim | None = None


class Waiting(Struct, frozen=True):
    """Another request holds the id at this moment."""


WAITING: Final = Waiting()


class MessageIds:
    """Claims ids on this node and, if there is a ``registry``, in the cluster.

    Repeats on this node are found in its own memory first. While the registry does not answer, ids are known
    on this node only. Under the app ``""`` an id counts for all apps.
    """

    def __init__(self, dedupe: Dedupe, registry: RedisRegistry | None = None) -> None:
        self.dedupe = dedupe
        self.registry = registry

    def name(self, app: str, msg_id: str) -> str:
        """The name under which an id is claimed in the cluster."""
        return msg_id if self.dedupe.shared or not app else f"{app}:{msg_id}"

    def begin(self, app: str, msg_id: str) -> IdClaim | None:
        """Claim an id; None: it was accepted before. May switch while another request holds it."""
        key = self.dedupe.claim(app, msg_id)
        if key is None or not msg_id or self.registry is None:
            return None if key is None else IdClaim(key)
        claim: Claim | None = None
        mine = False
        try:
            claim = self._claim(self.registry, self.name(app, msg_id))
            mine = claim is None or claim.state == "mine"
        finally:
            if not mine:
                self.dedupe.settle(key, claim is not None)
        return IdClaim(key, claim) if mine else None

    def _claim(self, registry: RedisRegistry, name: str) -> Claim | None:
        """Claim in the cluster, and wait while another node holds the id; None: the registry is silent."""
        deadline = monotonic() + CLAIM_SECONDS
        while True:
            claims = registry.claim([name])
            if claims is None:
                return None
            if claims[0].state != "pending" or monotonic() > deadline:
                return claims[0]
            gevent.sleep(LOOK_SECONDS)

    def begin_each(
        self, app: str, msg_ids: Sequence[str], only_here: Collection[int] = ()
    ) -> list[IdClaim | Waiting | None]:
        """Claim many ids with one question to the registry.

        An id that another request holds is not waited for: claim it with :meth:`begin` when these are ended.
        ``only_here``: indexes of ids that are not claimed in the cluster.
        """
        begun: list[IdClaim | Waiting | None] = []
        ask: list[int] = []
        names: list[str] = []
        for index, msg_id in enumerate(msg_ids):
            if self.dedupe.is_claimed(app, msg_id):
                begun.append(WAITING)
                continue
            key = self.dedupe.claim(app, msg_id)
            begun.append(None if key is None else IdClaim(key))
            if key and index not in only_here:
                ask.append(index)
                names.append(self.name(app, msg_id))
        if self.registry is None or not ask:
            return begun
        try:
            claims = self.registry.claim(names) or ()
        except BaseException:
            for each in begun:
                if isinstance(each, IdClaim):
                    self.end(each, False)
            raise
        for index, claim in zip(ask, claims, strict=False):
            held = begun[index]
            assert isinstance(held, IdClaim)
            if claim.state == "mine":
                begun[index] = IdClaim(held.key, claim)
            else:
                repeated = claim.state == "repeat"
                self.dedupe.settle(held.key, repeated)
                begun[index] = None if repeated else WAITING
        return begun

    def end(self, held: IdClaim, accepted: bool) -> None:
        """End a claim: the id is remembered if ``accepted``, else it may be claimed again."""
        self.dedupe.settle(held.key, accepted)
        if held.claim is not None and self.registry is not None:
            self.registry.settle(held.claim, accepted)


MAX_FIRSTS: Final = 50_000
MAX_FIRST_BYTES: Final = 16 << 20
"""Requests whose outcomes are remembered: at least so many of the last ones, as far as they fit."""
_ENTRY_BYTES: Final = 150
_DIGEST_BYTES: Final = 8


class IdReused(ImserverError):
    """Another request came under this id before."""


class Ticket(Struct, frozen=True, gc=False):
    """The right to carry out a request: to be given back with its outcomes. ``digest``: of its content."""

    held: IdClaim
    digest: int


class First(Struct, frozen=True, gc=False):
    """The result of a request when it came first: an :class:`Outcome` per byte."""

    outcomes: bytes


class RequestIds:
    """Requests that a back end repeats under the same id are carried out once, and answered as the first was.

    An id counts in its app. The node that has carried out a request remembers its outcomes for a while; other
    nodes know only that it was accepted. Owner of the first outcomes: they are stored in two generations.
    When the younger one is full it becomes the older one, which is dropped. An entry is the digest of the
    request and its outcomes, under the key that the id has among claimed ids.
    """

    def __init__(self, ids: MessageIds) -> None:
        self._ids = ids
        self._firsts: dict[int, bytes] = {}
        self._older: dict[int, bytes] = {}
        self._bytes = 0

    def begin(self, app: str, request_id: str, digest: int) -> Ticket | First | None:
        """Claim an id for a request with this digest of its content. May switch.

        A ticket: carry it out, then :meth:`end`. Otherwise it was accepted before: its outcomes, or None if
        this node does not know them. Raises :class:`IdReused` if that was another request.
        """
        name = _name(app, request_id)
        held = self._ids.begin("", name)
        return self._first(name, digest) if held is None else Ticket(held, digest)

    def begin_each(
        self, app: str, requests: Sequence[tuple[str, int]]
    ) -> list[Ticket | First | IdReused | Waiting | None]:
        """The same for many different ids (each with a digest); see :meth:`MessageIds.begin_each`."""
        names = [_name(app, request_id) for request_id, _ in requests]
        begun: list[Ticket | First | IdReused | Waiting | None] = []
        for name, (_, digest), held in zip(names, requests, self._ids.begin_each("", names), strict=True):
            if isinstance(held, Waiting):
                begun.append(held)
            elif held is not None:
                begun.append(Ticket(held, digest))
            else:
                try:
                    begun.append(self._first(name, digest))
                except IdReused as reused:
                    begun.append(reused)
        return begun

    def end(self, ticket: Ticket, outcomes: Sequence[Outcome]) -> None:
        """The request was carried out; its id is free again if no outcome was accepted."""
        accepted = not ACCEPTED.isdisjoint(outcomes)
        if accepted:
            digest = ticket.digest.to_bytes(_DIGEST_BYTES, "big", signed=True)
            entry = self._firsts[ticket.held.key] = digest + bytes(outcomes)
            self._bytes += _ENTRY_BYTES + len(entry)
            if len(self._firsts) >= MAX_FIRSTS or self._bytes >= MAX_FIRST_BYTES:
                self._older, self._firsts, self._bytes = self._firsts, {}, 0
        self._ids.end(ticket.held, accepted)

    def _first(self, name: str, digest: int) -> First | None:
        key = self._ids.dedupe.key("", name)
        entry = self._firsts.get(key) or self._older.get(key)
        if entry is None:
            return None
        if entry[:_DIGEST_BYTES] != digest.to_bytes(_DIGEST_BYTES, "big", signed=True):
            raise IdReused
        return First(entry[_DIGEST_BYTES:])


def _name(app: str, request_id: str) -> str:
    return f"v1:{app}:{request_id}"
