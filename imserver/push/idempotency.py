"""Idempotency: a push or request that a back end repeats under the same id is carried out once.

An id is *claimed* before delivery and *settled* after it. It is remembered if its push was accepted.
Otherwise it is released, so that it may be tried again. A repeat that arrives in between waits for the
result.

Each id is stored as 60 bits of its keyed hash, whatever its length. Two of 1,000,000 ids collide with a
probability of 0.0000004. Nobody can choose ids that collide, because each process makes a new key. Measured
with 1,000,000 ids: 115 bytes per id (32 for the number, 8 for its position in the order, the rest for the
dict entry and the allocator), 0.4 µs to claim an id and 0.4 µs to settle it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

import gevent
from gevent.event import Event
from msgspec import Struct

from imserver.cluster.registry import Claim
from imserver.errors import ImserverError
from imserver.model import ACCEPTED, Outcome

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry


T = TypeVar("T")

UNTRACKED: Final = 0
"""The key of an empty id. It is never a repeat and never remembered."""

_HASH_MASK: Final = 2**60 - 1
_SHARD_IDS: Final = 10_300
_PURGE_IDS: Final = 64


class Dedupe:
    """The ids accepted in the last ``seconds``, at most ``limit`` of them. The oldest are dropped first.

    ``shared``: an id is unique among all apps, as in the original; otherwise within its app. Owner: the node.
    :meth:`claim` switches only while it waits for another claim of the same id. :meth:`settle` never
    switches.
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
        # Shards keep the pause short when a dict grows (0.2 ms instead of 20 ms). The shard size is the
        # number of ids that just fills a dict as CPython sizes it. A few more ids would double the dict.
        self._shard_count = -(-limit // _SHARD_IDS)
        self._shards: list[dict[int, int]] = [{} for _ in range(self._shard_count)]
        """Hash → the second in which it was accepted; shared objects, so they cost nothing."""
        self._order: deque[int] = deque()
        """The same hashes from the oldest to the newest."""
        self._pending: dict[int, Event | None] = {}
        """Claimed hash → the event that its repeats wait for; None: no repeat waits."""
        self._second = int(clock())
        self._next_expiry = self._second + seconds

    def __len__(self) -> int:
        return len(self._order)

    def claim(self, app: str, msg_id: str) -> int | None:
        """Claim an id for delivery. Return the key for :meth:`settle`, or None if the id was accepted
        before.
        """
        if not msg_id:
            return UNTRACKED
        # Same code as key(), inlined: claim and settle run for every push.
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
        """The key under which an id is claimed and remembered."""
        return (hash(msg_id) if self.shared else hash((app, msg_id))) & _HASH_MASK

    def settle(self, key: int, accepted: bool) -> None:
        """End a claim. The id is remembered if its push was ``accepted``; otherwise it may be claimed
        again.
        """
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
        """Wait until no claim of the id is left. Of several waiting callers, the first to run may claim
        it.
        """
        while key in self._pending:
            outcome = self._pending[key]
            if outcome is None:
                outcome = self._pending[key] = Event()
            outcome.wait()

    def _has_expired(self, key: int) -> bool:
        """Whether a remembered id has expired. If so, delete it and all older ones."""
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
"""How long a repeat waits for the result of the same id on another node."""
LOOK_SECONDS: Final = 0.05
"""Time between two queries for the result."""


class IdClaim(Struct, gc=False):
    """A claimed id, passed back to the owner of the claim: :class:`MessageIds` or :class:`RequestIds`.

    ``claim``: the claim in the cluster. ``digest``: digest of the request's content.
    """

    key: int
    claim: Claim | None = None
    digest: int = 0


class Waiting(Struct, frozen=True):
    """Another request holds the id now."""


WAITING: Final = Waiting()


class MessageIds:
    """Claims ids on this node and, if there is a ``registry``, in the cluster.

    Repeats on this node are found in its own memory first. While the registry does not answer, claims count
    on this node only. Under the app ``""`` an id is unique among all apps.
    """

    def __init__(self, dedupe: Dedupe, registry: RedisRegistry | None = None) -> None:
        self.dedupe = dedupe
        self.registry = registry

    def name(self, app: str, msg_id: str) -> str:
        """The name under which an id is claimed in the cluster."""
        return msg_id if self.dedupe.shared or not app else f"{app}\0{msg_id}"

    def begin(self, app: str, msg_id: str) -> IdClaim | None:
        """Claim an id. Return None if it was accepted before. May switch while another request holds it."""
        key = self.dedupe.claim(app, msg_id)
        if key is None:
            return None
        if self.registry is None or not msg_id:
            return IdClaim(key)
        claim: Claim | None = None
        mine = False
        try:
            claim = self._claim(self.registry, self.name(app, msg_id))
            mine = claim is None or claim.state == "mine"
        finally:
            if not mine:
                self.dedupe.settle(key, claim is not None and claim.state == "repeat")
        return IdClaim(key, claim) if mine else None

    def _claim(self, registry: RedisRegistry, name: str) -> Claim | None:
        """Claim in the cluster, and wait while another node holds the id. Return None if the registry does
        not answer.
        """
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
        """Claim many ids with one query to the registry.

        This does not wait for ids that another request holds: claim those with :meth:`begin` after ending the
        claims made here. ``only_here``: indexes of ids that are not claimed in the cluster.
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
                held.claim = claim
            else:
                repeated = claim.state == "repeat"
                self.dedupe.settle(held.key, repeated)
                begun[index] = None if repeated else WAITING
        return begun

    def end(self, held: IdClaim, accepted: bool) -> None:
        """End a claim. The id is remembered if ``accepted``; otherwise it may be claimed again."""
        self.dedupe.settle(held.key, accepted)
        if held.claim is not None and self.registry is not None:
            self.registry.settle(held.claim, accepted)


MAX_FIRSTS: Final = 50_000
MAX_FIRST_BYTES: Final = 16 << 20
"""Least number of recent requests whose outcomes are remembered, within the memory limit."""
_ENTRY_BYTES: Final = 150
_DIGEST_BYTES: Final = 8
_pack_digest: Final = struct.Struct(">q").pack


class IdReused(ImserverError):
    """The id was used before for a different request."""


class First(Struct, frozen=True, gc=False):
    """The stored result of the first request with this id: one :class:`Outcome` per byte, or what
    :meth:`RequestIds.end` was given."""

    result: bytes


_UNKNOWN: Final = First(b"")
Carried = tuple[T, Sequence[Outcome], bytes]
"""What became of a request, its outcomes, and what :meth:`RequestIds.end` remembers."""


class RequestIds:
    """Carries out a request once per id. A repeat gets the answer of the first one.

    An id is unique in its app. The node that carried out a request remembers its result for a while. Other
    nodes know only that it was accepted. Owner of the remembered results. They are stored in two
    generations: when the younger one is full, it becomes the older one, and the previous older one is
    dropped. An entry maps the key of a claimed id to the digest of the request and its result.
    """

    def __init__(self, ids: MessageIds) -> None:
        self._ids = ids
        self._firsts: dict[int, bytes] = {}
        self._older: dict[int, bytes] = {}
        self._bytes = 0

    def begin(self, app: str, request_id: str, digest: int) -> IdClaim | First | None:
        """Claim an id for a request. ``digest``: digest of its content. May switch.

        If a claim is returned: carry the request out, then call :meth:`end`. Otherwise the request was
        accepted before. Then the result is that of the first, or None if this node does not know it. Raises
        :class:`IdReused` if the id belongs to a different request.
        """
        name = _name(app, request_id)
        held = self._ids.begin("", name)
        if held is None:
            return self._first(name, digest)
        held.digest = digest
        return held

    def begin_each(
        self, app: str, requests: Sequence[tuple[str, int]]
    ) -> list[IdClaim | First | IdReused | Waiting | None]:
        """Claim many different ids, each with a digest; see :meth:`MessageIds.begin_each`."""
        names = [_name(app, request_id) for request_id, _ in requests]
        begun: list[IdClaim | First | IdReused | Waiting | None] = []
        for name, (_, digest), held in zip(names, requests, self._ids.begin_each("", names), strict=True):
            if isinstance(held, Waiting):
                begun.append(held)
            elif held is not None:
                held.digest = digest
                begun.append(held)
            else:
                try:
                    begun.append(self._first(name, digest))
                except IdReused as reused:
                    begun.append(reused)
        return begun

    def carry_out_each(
        self,
        app: str,
        requests: Sequence[tuple[str, int]],
        carry_out: Callable[[int, First | None], Carried[T]],
        *,
        all_or_none: bool = False,
    ) -> list[T | IdReused]:
        """Carry out requests with different ids, each with a digest, once per id. May switch.

        ``carry_out`` gets the index of a request, and the stored result if the request was accepted before.
        Requests whose id another one holds come last, because a request that waits must hold no claims.
        ``all_or_none``: raise :class:`IdReused` if an id is known to belong to another request.
        """
        begun = self.begin_each(app, requests)
        results: dict[int, T | IdReused] = {}
        left = enumerate(begun)
        try:
            if all_or_none and any(isinstance(claim, IdReused) for claim in begun):
                raise IdReused
            for index, claim in left:
                if not isinstance(claim, Waiting):
                    results[index] = self._carry_out(claim, partial(carry_out, index))
        finally:
            for _, claim in left:  # after an error
                if isinstance(claim, IdClaim):
                    self.end(claim, ())
        for index, (request_id, digest) in enumerate(requests):
            if index not in results:
                try:
                    results[index] = self._carry_out(
                        self.begin(app, request_id, digest), partial(carry_out, index)
                    )
                except IdReused as reused:
                    results[index] = reused
        return [results[index] for index in range(len(requests))]

    def _carry_out(
        self, claim: IdClaim | First | IdReused | None, carry_out: Callable[[First | None], Carried[T]]
    ) -> T | IdReused:
        if isinstance(claim, IdReused):
            return claim
        if not isinstance(claim, IdClaim):
            return carry_out(claim or _UNKNOWN)[0]
        outcomes: Sequence[Outcome] = ()
        result = b""
        try:
            found, outcomes, result = carry_out(None)
        finally:
            self.end(claim, outcomes, result)
        return found

    def end(self, held: IdClaim, outcomes: Sequence[Outcome], result: bytes = b"") -> None:
        """End a request. Its id may be used again if no outcome was accepted. ``result``: what is remembered
        in place of the outcomes."""
        accepted = not ACCEPTED.isdisjoint(outcomes)
        if accepted:
            entry = self._firsts[held.key] = _pack_digest(held.digest) + (result or bytes(outcomes))
            self._bytes += _ENTRY_BYTES + len(entry)
            if len(self._firsts) >= MAX_FIRSTS or self._bytes >= MAX_FIRST_BYTES:
                self._older, self._firsts, self._bytes = self._firsts, {}, 0
        self._ids.end(held, accepted)

    def _first(self, name: str, digest: int) -> First | None:
        key = self._ids.dedupe.key("", name)
        entry = self._firsts.get(key) or self._older.get(key)
        if entry is None:
            return None
        if entry[:_DIGEST_BYTES] != _pack_digest(digest):
            raise IdReused
        return First(entry[_DIGEST_BYTES:])


def _name(app: str, request_id: str) -> str:
    # No name of an app contains U+0000, so this equals neither the name of another app's request nor that of
    # a message id (outside demo mode, where an id may be any text).
    return f"\0{app}\0{request_id}"
