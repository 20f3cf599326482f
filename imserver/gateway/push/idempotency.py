"""Idempotency: a push or request that a back end repeats under the same id is
carried out once.

An id is *claimed* before delivery and *settled* after it, on this node and in
the cluster. The id is remembered if a target accepted the push. Otherwise it is
released, so that it may be used again. If a repeat arrives between the two, it
waits for the outcome. There are two kinds of ids:

- a *message id* (``msgID`` of the original): a repeat is recognised by its id
  alone;
- the id of a *request* (``id`` or ``Idempotency-Key`` of ``/api/v1``), with the
  digest of its content. A repeat gets the result of the first request. Another
  request under the same id is refused.

Each id is stored as 60 bits of its keyed hash, whatever its length. Two of
1,000,000 ids collide with a probability of 0.0000004. Nobody can choose ids
that collide, because each process makes a new key. Measured with 1,000,000 ids:
an id takes 115 bytes (32 for the number, 8 for its position in the order, the
rest for the dict entry and the allocator). Claiming an id takes 0.4 µs, and so
does settling it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar, overload

import gevent
from gevent.event import Event as Flag
from msgspec import Struct

from imserver.gateway.cluster.registry import Claim
from imserver.gateway.errors import Problems, ServiceRefused
from imserver.gateway.model import ACCEPTED, Outcome

if TYPE_CHECKING:
    from imserver.gateway.cluster.redis.registry import RedisRegistry


T = TypeVar("T")

UNTRACKED: Final = 0
"""The key of an empty id. A push with an empty id is never a repeat, and its id
is never remembered."""
CLAIM_SECONDS: Final = 10.0
"""How long a repeat waits for the result of the same id on another node."""
LOOK_SECONDS: Final = 0.05
"""Time between two queries for the result."""
MAX_FIRSTS: Final = 50_000
"""The number of results in one generation. At least so many recent results are
remembered, within the memory limit."""
MAX_FIRST_BYTES: Final = 16 << 20
"""Memory limit of one generation of results."""

_HASH_MASK: Final = 2**60 - 1
_SHARD_IDS: Final = 10_300
"""The number of ids that just fills a dict of CPython. A few more ids would
double the size of the dict."""
_ENTRY_BYTES: Final = 150
"""Memory of a remembered result, without its bytes."""
_DIGEST_BYTES: Final = 8
_PURGED_TOGETHER: Final = 64
"""How many expired ids one push deletes at most."""
_pack_digest: Final = struct.Struct(">q").pack
_unpack_digest: Final = struct.Struct(">q").unpack


class IdReused(ServiceRefused, problem=Problems.ID_REUSED):
    """The id was used before for a different request."""


def digest_of(content: bytes) -> int:
    """Return a hash of the content of a request, which is equal on all
    nodes."""
    digest = blake2b(content, digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, signed=True)


class Waiting(Struct, frozen=True):
    """The result of a claim, if another push or request holds the id now."""


WAITING: Final = Waiting()


class First(Struct, frozen=True, gc=False):
    """The result of the first request with this id.

    ``result`` is the result that :meth:`Idempotency.settle` got. It is ``b""``
    if this node does not know the result.
    """

    result: bytes


Claimed = int | First | IdReused | None
"""The result of a claim. If the id was free, it is the key of the claim. For a
repeat, it is the result of the first request. If a different request has this
id, it is IdReused. If a message with this id was accepted, it is None."""
RequestResult = tuple[T, Sequence[Outcome], bytes]
"""The answer to a request, its outcomes, and the result to remember for
repeats. The result ``b""`` is not remembered."""


class _PendingClaim(Struct):
    """An id that is claimed and not settled.

    ``claim`` is the claim of the id in the cluster. None means that the id is
    claimed on this node only. ``settled`` is a flag that is set when the claim
    is settled. It is None if no repeat waits for that.
    """

    claim: Claim | None = None
    settled: Flag | None = None


class Idempotency:
    """The ids that were accepted in the last ``seconds``, at most ``limit`` of
    them. The oldest ids are dropped first.

    If ``shared`` is set, a message id is unique among all apps, as in the
    original server. Otherwise it is unique within its app. The id of a request
    always is unique within its app. ``registry`` is the registry of a cluster
    node. Repeats on this node are found in its own memory first. While the
    registry does not answer, claims count on this node only.

    The node that carried out a request remembers its result for a while. Other
    nodes find the results of :meth:`carry_out_each` in the registry. About
    other requests the other nodes know only that they were accepted. Results
    are stored in two generations. When the younger generation is full, the
    older generation is dropped, and the younger one takes its place. The node
    owns this object. :meth:`settle` never switches greenlets.
    """

    def __init__(
        self,
        limit: int,
        seconds: float,
        *,
        shared: bool = True,
        registry: RedisRegistry | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Begin without ids.

        At most ``limit`` ids are remembered, each for ``seconds``. The class
        explains ``shared`` and ``registry``. Tests set the ``clock``.
        """
        self.shared = shared
        self.registry = registry
        self.repeats = 0
        """Number of refused claims whose id was accepted before."""
        self.evicted = 0
        """Number of ids that were dropped early because ``limit`` was
        reached."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        # Shards keep the pause short when a dict grows (0.2 ms instead of 20
        # ms).
        self._shard_count = -(-limit // _SHARD_IDS)
        self._shards: list[dict[int, int]] = [{} for _ in range(self._shard_count)]
        """Hash → the second in which the id was accepted. All ids of a second
        share one object, so the seconds take nearly no memory."""
        self._order: deque[int] = deque()
        """The hashes of accepted ids from the oldest to the newest."""
        self._pending: dict[int, _PendingClaim | None] = {}
        """Claimed hash → the claim in the cluster, and the flag for repeats
        that wait. None if there is neither a claim nor a flag."""
        self._second = int(clock())
        self._next_expiry = self._second + seconds
        self._young_results: dict[int, bytes] = {}
        """The younger generation of results: hash of a request's id → the
        digest of the request (:data:`_DIGEST_BYTES`), followed by its
        result."""
        self._old_results: dict[int, bytes] = {}
        """The older generation of results, which is dropped next."""
        self._young_bytes = 0
        """Memory of the younger generation."""

    def __len__(self) -> int:
        """Return the number of remembered ids."""
        return len(self._order)

    # --- one id ---------------------------------------------------------------

    @overload
    def claim(
        self, app: str, id: str, digest: None = None, only_here: bool = False
    ) -> int | None: ...

    @overload
    def claim(
        self, app: str, id: str, digest: int | None, only_here: bool = False
    ) -> Claimed: ...

    def claim(
        self, app: str, id: str, digest: int | None = None, only_here: bool = False
    ) -> Claimed:
        """Claim an id: the right to execute the push or request with this id.

        Returns the key for :meth:`settle` if the id is free. For a repeat, the
        result describes the first push or request (:data:`Claimed`). ``digest``
        is the hash of a request. None means that the id is a message id. With
        ``only_here``, the id is claimed on this node, but not in the cluster.
        May switch greenlets while another push or request has claimed the id,
        and in a cluster.
        """
        if not id:
            return UNTRACKED
        # This repeats the code of _key() to save a call, because claim() and
        # settle() run for every push.
        if digest is None:
            key = (hash(id) if self.shared else hash((app, id))) & _HASH_MASK
        else:
            # True distinguishes the id of a request from a message id.
            key = hash((app, id, True)) & _HASH_MASK

        # If several callers wait, the one that runs first may claim the id. The
        # others then wait again.
        while key in self._pending:
            id_claim = self._entry_of(key)
            if id_claim.settled is None:
                id_claim.settled = Flag()
            id_claim.settled.wait()

        if key in self._shards[key % self._shard_count] and not self._has_expired(key):
            self.repeats += 1
            return self._repeat_of(key, digest)

        # The id is claimed here first, because asking the cluster switches
        # greenlets.
        self._pending[key] = None
        if self.registry is None or only_here:
            return key
        if self._claim_in_cluster(self.registry, app, id, digest, key):
            return key
        return self._repeat_of(key, digest)

    def settle(
        self,
        key: int,
        accepted: bool,
        digest: int = 0,
        result: bytes = b"",
        for_all: bool = False,
    ) -> None:
        """End the claim with this key. If it is :data:`UNTRACKED`, do nothing.

        The id is remembered if a target has ``accepted`` the push or request.
        Otherwise it may be claimed again. ``digest`` (see :func:`digest_of`)
        and ``result`` of a request are remembered with its id. An empty
        ``result`` is not remembered. With ``for_all``, the result is remembered
        on all nodes.
        """
        if not key:
            return
        id_claim = self._pending.pop(key)
        if accepted:
            now = self._clock()
            if now >= self._second + 1:
                # All ids of one second share this object.
                self._second = int(now)
            self._shards[key % self._shard_count][key] = self._second
            order = self._order
            order.append(key)
            if len(order) > self._limit:
                self._forget_oldest()
                self.evicted += 1
            if now >= self._next_expiry:
                self._purge(now, _PURGED_TOGETHER)
            if result:
                self._remember(key, digest, result)

        # Most claims have neither an entry in the cluster nor a repeat that
        # waits.
        if id_claim is not None:
            if id_claim.claim is not None and self.registry is not None:
                if result and for_all:
                    entry = _pack_digest(digest) + result
                else:
                    entry = b""
                self.registry.settle(id_claim.claim, accepted, entry)
            if id_claim.settled is not None:
                id_claim.settled.set()

    def _remember(self, key: int, digest: int, result: bytes) -> None:
        """Remember the result of a request in the younger generation.

        If the younger generation is full, it becomes the older generation.
        """
        self._young_results[key] = _pack_digest(digest) + result
        self._young_bytes += _ENTRY_BYTES + _DIGEST_BYTES + len(result)
        if (
            len(self._young_results) >= MAX_FIRSTS
            or self._young_bytes >= MAX_FIRST_BYTES
        ):
            self._old_results = self._young_results
            self._young_results = {}
            self._young_bytes = 0

    def name(self, app: str, id: str, digest: int | None = None) -> str:
        """Return the name under which an id is claimed in the cluster.

        ``digest`` is the hash of a request. None means that the id is a message
        id.
        """
        if digest is not None:
            # No name of an app contains U+0000. So the result never equals the
            # name of another app's request. It never equals the name of a
            # message id either, except in demo mode, where an id may be any
            # text.
            return f"\0{app}\0{id}"
        if self.shared or not app:
            return id
        return f"{app}\0{id}"

    # --- many ids -------------------------------------------------------------

    def claim_each(
        self,
        app: str,
        ids: Sequence[str],
        digests: Sequence[int] | None = None,
        only_here: Collection[int] = (),
    ) -> list[Claimed | Waiting]:
        """Claim many ids with one query to the registry.

        The results are in the order of the ids, as :meth:`claim` returns them.
        This method does not wait for an id that another push or request has
        claimed. The result is then WAITING. The caller claims such ids one by
        one after all claims of this call are settled. ``digests`` are the
        hashes of requests. None means that the ids are message ids.
        ``only_here`` are indexes of ids that are not claimed in the cluster.
        """
        claims: list[Claimed | Waiting] = []
        shared: list[tuple[int, int]] = []
        """Indexes and keys of the ids that are claimed in the cluster, too."""
        names: list[str] = []
        """The names of these ids in the cluster."""
        all_digests: Sequence[int | None]
        if digests is None:
            all_digests = [None] * len(ids)
        else:
            all_digests = digests
        for index, (id, digest) in enumerate(zip(ids, all_digests, strict=True)):
            if not id:
                claims.append(UNTRACKED)
                continue
            key = self._key(app, id, digest)
            if key in self._pending:
                claims.append(WAITING)
                continue

            # This repeats code of claim(). A call of claim() would compute the
            # key again, which takes 0.2 µs for each push.
            shard = self._shards[key % self._shard_count]
            if key in shard and not self._has_expired(key):
                self.repeats += 1
                claims.append(self._repeat_of(key, digest))
                continue

            self._pending[key] = None
            claims.append(key)
            if self.registry is not None and index not in only_here:
                shared.append((index, key))
                names.append(self.name(app, id, digest))
        if self.registry is None or not shared:
            return claims

        try:
            repeats = self._claim_shared(self.registry, names, shared, claims)
            if digests is None:
                requests = []
            else:
                requests = [ids[index] for index, _ in repeats]
            keys = [key for _, key in repeats]
            self._settle_repeats(self.registry, app, keys, requests)
        except BaseException:
            self._release_pending(claims)
            raise

        for index, key in repeats:
            claims[index] = self._repeat_of(key, all_digests[index])
        return claims

    def _claim_shared(
        self,
        registry: RedisRegistry,
        names: Sequence[str],
        shared: Sequence[tuple[int, int]],
        claims: list[Claimed | Waiting],
    ) -> list[tuple[int, int]]:
        """Claim ids in the cluster that are claimed here already.

        ``shared`` has the index and the key of each of the ``names``. Returns
        the index and the key of each id that was accepted in the cluster
        before. If another node has claimed an id, its entry in ``claims``
        becomes WAITING.
        """
        repeats: list[tuple[int, int]] = []
        # If the registry does not answer, the claims count on this node only.
        answers = registry.claim(names) or ()
        for (index, key), claim in zip(shared, answers, strict=False):
            if claim.state == "mine":
                self._entry_of(key).claim = claim
            elif claim.state == "repeat":
                repeats.append((index, key))
            else:
                self.settle(key, accepted=False)
                claims[index] = WAITING
        return repeats

    def _release_pending(self, claims: Sequence[Claimed | Waiting]) -> None:
        """Settle the claims that are not settled yet."""
        for claim in claims:
            if isinstance(claim, int) and claim in self._pending:
                self.settle(claim, accepted=False)

    def release(self, claims: Sequence[object]) -> None:
        """Give up the claims among these results of :meth:`claim_each`.

        No push was accepted, so their ids may be claimed again.
        """
        for key in claims:
            if isinstance(key, int):
                self.settle(key, accepted=False)

    def carry_out_each(
        self,
        app: str,
        requests: Sequence[tuple[str, int]],
        carry_out: Callable[[int, First | None], RequestResult[T]],
        *,
        all_or_none: bool = False,
    ) -> list[T | IdReused]:
        """Execute requests with different ids, each only once. May switch
        greenlets.

        ``requests`` has the id and the digest of each request. ``carry_out``
        executes a request. It gets the index of the request, and the result of
        the first request with this id. None means that the request is not a
        repeat. If an id is known to belong to another request, the result of
        the request is IdReused. With ``all_or_none``, :class:`IdReused` is
        raised instead.
        """
        ids = [id for id, _ in requests]
        digests = [digest for _, digest in requests]
        claims = self.claim_each(app, ids, digests)
        answers: dict[int, T | IdReused] = {}

        def carry_out_one(index: int, claim: Claimed) -> None:
            """Carry out one request, and settle its claim."""
            if isinstance(claim, IdReused):
                answers[index] = claim
                return
            # This is a repeat, so only the result of the first request is read.
            if not isinstance(claim, int):
                answers[index], _, _ = carry_out(index, claim)
                return

            outcomes: Sequence[Outcome] = ()
            result = b""
            try:
                answers[index], outcomes, result = carry_out(index, None)  # no repeat
            finally:
                accepted = not ACCEPTED.isdisjoint(outcomes)
                self.settle(claim, accepted, digests[index], result, for_all=True)

        # After an error, this iterator still has the claims that are not
        # settled yet.
        unsettled = enumerate(claims)
        try:
            if all_or_none and any(isinstance(claim, IdReused) for claim in claims):
                raise IdReused
            for index, claim in unsettled:
                if not isinstance(claim, Waiting):
                    carry_out_one(index, claim)
        finally:
            self.release([claim for _, claim in unsettled])

        # If another request has claimed an id, the request with this id comes
        # last. A call must not wait while it has a claim, because two calls
        # could wait for each other.
        for index, (id, digest) in enumerate(requests):
            if isinstance(claims[index], Waiting):
                carry_out_one(index, self.claim(app, id, digest))
        return [answers[index] for index in range(len(requests))]

    # --- this node ------------------------------------------------------------

    def _key(self, app: str, id: str, digest: int | None) -> int:
        """Return the key under which an id is claimed and remembered."""
        if digest is None:
            return (hash(id) if self.shared else hash((app, id))) & _HASH_MASK
        return hash((app, id, True)) & _HASH_MASK

    def _entry_of(self, key: int) -> _PendingClaim:
        """Return the entry of a claimed id. The entry is made when it is first
        needed."""
        id_claim = self._pending[key]
        if id_claim is None:
            id_claim = _PendingClaim()
            self._pending[key] = id_claim
        return id_claim

    def _repeat_of(self, key: int, digest: int | None) -> First | IdReused | None:
        """Return the result of the first request with an id, as far as this
        node knows it.

        If ``digest`` is None, the id is a message id, which has no result. The
        method then returns None.
        """
        if digest is None:
            return None
        return self._result_of(key, digest)

    def _result_of(self, key: int, digest: int) -> First | IdReused:
        """Return the result of the request that was accepted under this key.

        Returns IdReused if the accepted request was another request, with
        another digest.
        """
        entry = self._young_results.get(key) or self._old_results.get(key)
        if entry is None:
            return First(b"")
        if entry[:_DIGEST_BYTES] != _pack_digest(digest):
            return IdReused()
        return First(entry[_DIGEST_BYTES:])

    def _has_expired(self, key: int) -> bool:
        """Tell whether a remembered id has expired.

        If so, this id and older ids are deleted.
        """
        now = self._clock()
        if now < self._shards[key % self._shard_count][key] + self._seconds:
            return False
        self._purge(now, len(self._order))
        return True

    def _purge(self, now: float, at_most: int) -> None:
        """Delete expired ids, the oldest first, and find the next expiry."""
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
        """Delete the oldest id."""
        oldest = self._order.popleft()
        del self._shards[oldest % self._shard_count][oldest]

    # --- the cluster ----------------------------------------------------------

    def _claim_in_cluster(
        self, registry: RedisRegistry, app: str, id: str, digest: int | None, key: int
    ) -> bool:
        """Claim in the cluster an id that is claimed here already.

        This method waits while another node has claimed the id. Returns False
        if the id is not free. The claim on this node is then settled. If the
        registry does not answer, the claim on this node is enough.
        """
        name = self.name(app, id, digest)
        deadline = monotonic() + CLAIM_SECONDS
        state = ""
        try:
            while True:
                claims = registry.claim([name])
                if claims is None:  # the registry does not answer
                    state = "mine"
                    break
                state = claims[0].state
                if state == "mine":
                    self._entry_of(key).claim = claims[0]
                if state != "pending" or monotonic() > deadline:
                    break
                gevent.sleep(LOOK_SECONDS)
        finally:
            # Another node still holds the id, or an error was raised.
            if state not in ("mine", "repeat"):
                self.settle(key, accepted=False)

        if state == "repeat":
            requests = [] if digest is None else [id]
            self._settle_repeats(registry, app, [key], requests)
        return state == "mine"

    def _settle_repeats(
        self,
        registry: RedisRegistry,
        app: str,
        keys: Sequence[int],
        requests: Sequence[str],
    ) -> None:
        """Settle claims on this node whose ids were accepted in the cluster.

        ``requests`` are the ids of requests, in the order of ``keys``. It is
        empty if the ids are message ids. Switches greenlets to read the results
        of requests.
        """
        entries = [b""] * len(keys)
        try:
            if requests:
                # A digest marks the ids as ids of requests. Its value is not a
                # part of the name.
                names = [self.name(app, id, digest=0) for id in requests]
                entries = registry.results(names)
        finally:
            for key, entry in zip(keys, entries, strict=True):
                digest = 0
                if entry:
                    (digest,) = _unpack_digest(entry[:_DIGEST_BYTES])
                self.settle(key, True, digest, entry[_DIGEST_BYTES:])
