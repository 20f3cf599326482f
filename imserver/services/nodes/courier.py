"""The courier: what nodes tell each other one way, and what a node does when it is told.

An item is data only; it is encoded once for all peers. Items to one peer arrive in the order in which they
were sent, or not at all (``cluster.forward`` counts what is lost).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from time import monotonic
from typing import Final

import gevent
import msgspec
from msgspec import Struct

from imserver.cluster.contract import Lease, Registry
from imserver.cluster.rpc import Rpc
from imserver.model import Event, Signal
from imserver.storage.log_contract import Entry

log = logging.getLogger(__name__)

FENCE_SECONDS: Final = 0.25
"""Longest wait for items that a question must not overtake; they may have got lost."""
_LOOK_SECONDS: Final = 0.0005
_MAX_PASSED: Final = 256
_PIECE_BYTES: Final = 256 * 1024
_ENTRY_BYTES: Final = 1024
"""What an entry takes besides its body, at most."""


class ToUser(Struct, frozen=True, gc=False, tag="u", array_like=True):
    """Deliver to one user. ``hops``: how often it has followed the user already.

    ``alone``: it was sent to one node only. Otherwise sessions elsewhere have it, and it must not follow.
    ``origin`` names its sender, ``number`` counts the sender's pushes
    (:mod:`imserver.services.pushes.order`). ``device``: to sessions of that name only (None: to all).
    """

    app: str
    user: str
    event: Event
    hops: int = 0
    alone: bool = True
    origin: int = 0
    number: int = 0
    device: str | None = None


class ToApp(Struct, frozen=True, gc=False, tag="a", array_like=True):
    """Deliver to all users of an app but one, and but ``except_users``."""

    app: str
    except_user: str
    event: Event
    except_users: tuple[str, ...] = ()


class Notice(Struct, frozen=True, gc=False, tag="n", array_like=True):
    """Somebody entered or left an app."""

    app: str
    event: Event


class Replaced(Struct, frozen=True, gc=False, tag="r", array_like=True):
    """A session of yours is addressed no longer."""

    app: str
    user: str
    session_id: int


class ToRoom(Struct, frozen=True, gc=False, tag="m", array_like=True):
    """Deliver to the members of a room but these users, and but the connection of this id; ``kept``: nor to
    those who hear it from the log."""

    app: str
    room: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: str = ""
    kept: bool = False


class ToConnection(Struct, frozen=True, gc=False, tag="c", array_like=True):
    """Deliver to one connection, or close it with ``code`` if there is no event."""

    app: str
    connection: str
    event: Event | None = None
    code: int = 0


class Unsettled(Struct, frozen=True, gc=False, tag="o", array_like=True):
    """The registry may not know of all rooms of this life of the sender: let it have what you publish."""

    epoch: int


class ToLog(Struct, frozen=True, gc=False, tag="l", array_like=True):
    """Entries were stored: all ids of the app's log from ``first`` to ``last``."""

    app: str
    first: int
    last: int
    entries: list[Entry]


class ToFollowers(Struct, frozen=True, gc=False, tag="s", array_like=True):
    """Tell those who follow with these users, or in this group of the app, what happens there."""

    app: str
    users: tuple[str, ...]
    group: int
    signal: Signal


class Fence(Struct, frozen=True, gc=False, tag="f", array_like=True):
    """Nothing to do: what was sent before it has arrived. See :meth:`Courier.fence`."""

    number: int


Item = ToUser | ToApp | Notice | Replaced | ToRoom | ToConnection | Unsettled | Fence | ToLog | ToFollowers

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Item).decode


class Courier:
    """Sends items to other lives of nodes and hands out those that arrive.

    ``apply`` is called with each item that arrives, in order; it must not block for long. Owner of the fences
    that have arrived.
    """

    def __init__(self, registry: Registry, rpc: Rpc) -> None:
        self._registry = registry
        self._rpc = rpc
        self.apply: Callable[[Item], None] = lambda _item: None
        self.unreadable = 0
        """Items that no version of ours understands."""
        self._fences = count(1)
        self._passed: dict[int, int] = {}
        """The last fence of each life."""

    @property
    def own_epoch(self) -> int:
        """The epoch of this node's life; 0 while the registry has not been reached."""
        return self._registry.lease.epoch

    def peers(self) -> list[Lease]:
        """The live nodes but this one."""
        own = self.own_epoch
        return [lease for epoch, lease in self._registry.leases().items() if epoch != own]

    def to_life(self, epoch: int, item: Item) -> bool:
        """Send to one life of a node. False if it is known that it will not arrive."""
        lease = self._registry.leases().get(epoch)
        return lease is not None and self._rpc.send(lease, _encode(item))

    def to_lives(self, epochs: Iterable[int], item: Item) -> int:
        """Send to several lives of nodes; to how many of them it is on its way."""
        data = _encode(item)
        leases = self._registry.leases()
        return sum(epoch in leases and self._rpc.send(leases[epoch], data) for epoch in epochs)

    def to_all(self, item: Item) -> int:
        """Send to all other live nodes; returns how many are known not to get it."""
        peers = self.peers()
        if not peers:
            return 0
        data = _encode(item)
        return sum(not self._rpc.send(lease, data) for lease in peers)

    def tell_stored(self, app: str, first: int, last: int, entries: Sequence[Entry]) -> None:
        """Tell all other live nodes what was stored, in pieces that fit. What gets lost they read themselves.

        Never switches.
        """
        if not self.peers():
            return
        piece: list[Entry] = []
        size = 0
        for entry in entries:
            entry_size = len(entry.body) + len(entry.meta) + _ENTRY_BYTES
            if piece and size + entry_size > _PIECE_BYTES:
                self.to_all(ToLog(app, first, piece[-1].id, piece))
                first, piece, size = piece[-1].id + 1, [], 0
            piece.append(entry)
            size += entry_size
        self.to_all(ToLog(app, first, last, piece))

    def tell_followers(self, app: str, users: Collection[str], group: int, signal: Signal) -> None:
        """Have all other live nodes tell their followers a signal. Never switches."""
        self.to_all(ToFollowers(app, tuple(users), group, signal))

    def fence(self, epoch: int) -> int:
        """Mark what was sent to a life so far: a question to it that names the mark waits for that.

        Items and questions go by different ways, so a question may otherwise overtake an item. 0: no mark.
        """
        number = next(self._fences)
        return number if self.to_life(epoch, Fence(number)) else 0

    def wait_for(self, source: int, number: int) -> None:
        """Return when everything before a fence of the life ``source`` has been applied, or soon."""
        deadline = monotonic() + FENCE_SECONDS
        while self._passed.get(source, 0) < number and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)

    def _pass(self, source: int, number: int) -> None:
        if source not in self._passed and len(self._passed) >= _MAX_PASSED:
            live = self._registry.leases()
            self._passed = {epoch: passed for epoch, passed in self._passed.items() if epoch in live}
        self._passed[source] = number

    def received(self, source: int, items: Sequence[bytes]) -> None:
        """Items of another node have arrived (the RPC's ``received``). A bad one costs the others nothing."""
        for data in items:
            try:
                item: Item = _decode(data)
            except (ValueError, RecursionError):
                self.unreadable += 1
                log.warning("an item of epoch %d cannot be read", source)
                continue
            if isinstance(item, Fence):
                self._pass(source, item.number)
                continue
            try:
                self.apply(item)
            except Exception:
                log.exception("an item of epoch %d failed", source)
