"""Requests that a back end repeats under the same id are carried out once, and answered as the first was.

An id counts in its app. It is claimed before anything is sent and settled afterwards: kept when anything was
accepted, free again otherwise. The node that has carried out a request remembers its outcomes for a while;
other nodes know only that it was accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver.cluster.registry import Claim
from imserver.errors import ImserverError
from imserver.services.pushes.dedupe import Dedupe
from imserver.services.pushes.pushing import Outcome

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry

MAX_FIRSTS: Final = 50_000
MAX_FIRST_BYTES: Final = 16 << 20
"""Requests whose outcomes are remembered: at least so many of the last ones, as far as they fit."""
CLAIM_SECONDS: Final = 10.0
"""How long a repeat waits for the outcome of the same request on another node."""
_LOOK_SECONDS: Final = 0.05
_ENTRY_BYTES: Final = 150
_DIGEST_BYTES: Final = 8
_ACCEPTED: Final = frozenset({Outcome.SENT, Outcome.PARTLY, Outcome.HELD, Outcome.STORED})


class IdReused(ImserverError):
    """Another request came under this id before."""


class Ticket(Struct, frozen=True, gc=False):
    """The right to carry out a request: to be given back with its outcomes."""

    name: str
    digest: int
    key: int
    claim: Claim | None = None


class First(Struct, frozen=True, gc=False):
    """What became of a request when it came first: an :class:`Outcome` a byte."""

    outcomes: bytes


class Waiting(Struct, frozen=True):
    """Another request holds the id at this moment."""


WAITING: Final = Waiting()


class Ids:
    """Owner of the first outcomes. ``registry`` is that of a cluster, None on a node that is alone.

    They are kept in two generations: when the younger one is full it becomes the older one, which is dropped.
    What is kept of a request is its digest and its outcomes, under the key that it has among claimed ids.
    """

    def __init__(self, dedupe: Dedupe, registry: RedisRegistry | None = None) -> None:
        self._dedupe = dedupe
        self._registry = registry
        self._firsts: dict[int, bytes] = {}
        self._older: dict[int, bytes] = {}
        self._bytes = 0

    def begin(self, app: str, request_id: str, digest: int) -> Ticket | First | None:
        """Claim an id for a request with this digest of its content. May switch.

        A ticket: carry it out, then :meth:`end`. Else it was accepted before: here are its outcomes, or None
        where this node does not know them. Raises :class:`IdReused` if that was another request.
        """
        name = f"v1:{app}:{request_id}"
        key = self._dedupe.claim("", name)
        if key is None:
            return self._first(self._dedupe.key("", name), digest)
        if self._registry is None:
            return Ticket(name, digest, key)
        claim: Claim | None = None
        mine = False
        try:
            claim = self._claim(name)
            mine = claim is None or claim.state == "mine"
        finally:
            if not mine:
                self._dedupe.settle(key, claim is not None)
        return Ticket(name, digest, key, claim) if mine else None

    def begin_each(
        self, app: str, asked: Sequence[tuple[str, int]]
    ) -> list[Ticket | First | IdReused | Waiting | None]:
        """The same for many ids (each with a digest) at the cost of one question to the registry.

        None may be named twice. What another request holds at this moment is not waited for: ask for that one
        by itself, when nothing of this is held any more.
        """
        begun: list[Ticket | First | IdReused | Waiting | None] = []
        mine: list[int] = []
        for index, (request_id, digest) in enumerate(asked):
            name = f"v1:{app}:{request_id}"
            if self._dedupe.is_claimed("", name):
                begun.append(WAITING)
                continue
            key = self._dedupe.claim("", name)
            if key is not None:
                mine.append(index)
                begun.append(Ticket(name, digest, key))
                continue
            try:
                begun.append(self._first(self._dedupe.key("", name), digest))
            except IdReused as reused:
                begun.append(reused)
        if self._registry is not None and mine:
            self._claim_each(begun, mine)
        return begun

    def _claim_each(self, begun: list[Ticket | First | IdReused | Waiting | None], mine: list[int]) -> None:
        """Claim in the cluster what nobody claims on this node."""
        tickets = [ticket for index in mine if isinstance(ticket := begun[index], Ticket)]
        claims = None
        try:
            assert self._registry is not None
            claims = self._registry.claim([ticket.name for ticket in tickets])
        except BaseException:
            for ticket in tickets:
                self._dedupe.settle(ticket.key, False)
            raise
        for index, ticket, claim in zip(mine, tickets, claims or (), strict=False):
            if claim.state == "mine":
                begun[index] = replace(ticket, claim=claim)
            else:
                repeated = claim.state == "repeat"
                self._dedupe.settle(ticket.key, repeated)
                begun[index] = None if repeated else WAITING

    def end(self, ticket: Ticket, outcomes: Sequence[Outcome]) -> None:
        """The request was carried out; with no outcomes, or none that was accepted, its id is free again."""
        accepted = not _ACCEPTED.isdisjoint(outcomes)
        key = ticket.key
        if accepted:
            digest = ticket.digest.to_bytes(_DIGEST_BYTES, "big", signed=True)
            kept = self._firsts[key] = digest + bytes(outcomes)
            self._bytes += _ENTRY_BYTES + len(kept)
            if len(self._firsts) >= MAX_FIRSTS or self._bytes >= MAX_FIRST_BYTES:
                self._older, self._firsts, self._bytes = self._firsts, {}, 0
        self._dedupe.settle(key, accepted)
        if ticket.claim is not None and self._registry is not None:
            self._registry.settle(ticket.claim, accepted)

    def _claim(self, name: str) -> Claim | None:
        """Claim in the cluster, waiting for the outcome of whoever holds it; None: there is nobody to ask."""
        deadline = monotonic() + CLAIM_SECONDS
        assert self._registry is not None
        while True:
            claims = self._registry.claim([name])
            if claims is None:
                return None
            if claims[0].state != "pending" or monotonic() > deadline:
                return claims[0]
            gevent.sleep(_LOOK_SECONDS)

    def _first(self, key: int, digest: int) -> First | None:
        kept = self._firsts.get(key) or self._older.get(key)
        if kept is None:
            return None
        if kept[:_DIGEST_BYTES] != digest.to_bytes(_DIGEST_BYTES, "big", signed=True):
            raise IdReused
        return First(kept[_DIGEST_BYTES:])
