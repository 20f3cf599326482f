"""Node messages: what nodes send each other one way, and the handlers of what arrives.

A message is data only; it is encoded once for all receivers. Messages to one node arrive in the order in
which they were sent, or not at all (``RpcCounters`` counts lost ones).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
import msgspec
from msgspec import Struct

from imserver.cluster.registry import Lease, Registry
from imserver.model import Event, Signal
from imserver.storage.log.contract import Entry

if TYPE_CHECKING:
    from imserver.cluster.rpc.server import Rpc

log = logging.getLogger(__name__)

FENCE_SECONDS: Final = 0.25
"""Longest wait of a query for the messages before it; they may be lost."""
_POLL_SECONDS: Final = 0.0005
_MAX_PASSED: Final = 256
_PIECE_BYTES: Final = 256 * 1024
_ENTRY_BYTES: Final = 1024
"""Upper bound of an entry's size without its body."""


class ToUser(Struct, frozen=True, gc=False, tag="u", array_like=True):
    """Deliver to one user.

    ``hops``: how often it was rerouted. ``alone``: it was sent to this node only; otherwise it must not be
    rerouted, because other nodes have it. ``origin`` identifies its sender, ``number`` counts the sender's
    pushes (:class:`imserver.services.push.routing.ReorderGuard`). ``device``: deliver to sessions of that
    device only (None: to all).
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
    """Deliver to all users of an app except ``except_user`` and ``except_users``."""

    app: str
    except_user: str
    event: Event
    except_users: tuple[str, ...] = ()


class Notice(Struct, frozen=True, gc=False, tag="n", array_like=True):
    """A user entered or left an app."""

    app: str
    event: Event


class Replaced(Struct, frozen=True, gc=False, tag="r", array_like=True):
    """A session of the receiving node is no longer addressed."""

    app: str
    user: str
    session_id: int


class ToRoom(Struct, frozen=True, gc=False, tag="m", array_like=True):
    """Deliver to the members of a room, except some users and one connection; with ``kept`` also except those
    who receive it from the log."""

    app: str
    room: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: str = ""
    kept: bool = False


class ToConnection(Struct, frozen=True, gc=False, tag="c", array_like=True):
    """Deliver to one connection; without an event, close it with ``code``."""

    app: str
    connection: str
    event: Event | None = None
    code: int = 0


class RoomsUnsettled(Struct, frozen=True, gc=False, tag="o", array_like=True):
    """The registry may not know all rooms of the sender: send it every room publication."""

    epoch: int


class ToLog(Struct, frozen=True, gc=False, tag="l", array_like=True):
    """Stored entries: all ids of the app's log from ``first`` to ``last``."""

    app: str
    first: int
    last: int
    entries: list[Entry]


class ToFollowers(Struct, frozen=True, gc=False, tag="s", array_like=True):
    """Deliver a signal to the subscribers of these users, or of this group, in an app."""

    app: str
    users: tuple[str, ...]
    group: int
    signal: Signal


class Fence(Struct, frozen=True, gc=False, tag="f", array_like=True):
    """Marks a position in the stream of messages; see :meth:`NodeMessages.fence`."""

    number: int


NodeMessage = (
    ToUser | ToApp | Notice | Replaced | ToRoom | ToConnection | RoomsUnsettled | Fence | ToLog | ToFollowers
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NodeMessage).decode


class NodeMessages:
    """Sends messages to other nodes, and calls the handler of each message that arrives.

    Handlers run in the order of arrival and must not block for long: everything behind waits. Owner of the
    handlers and of the fences that have arrived.
    """

    def __init__(self, registry: Registry, rpc: Rpc) -> None:
        self._registry = registry
        self._rpc = rpc
        self._handlers: dict[type, Callable[[Any], object]] = {}
        self.unreadable = 0
        """Messages that this version does not understand."""
        self._fences = count(1)
        self._passed: dict[int, int] = {}
        """The last fence of each epoch."""

    def handle(self, handlers: Mapping[type, Callable[[Any], object]]) -> None:
        """Add handlers by type of message; each is called with the message."""
        self._handlers.update(handlers)

    @property
    def own_epoch(self) -> int:
        """The epoch of this node; 0 while the registry has not been reached."""
        return self._registry.lease.epoch

    def peers(self) -> list[Lease]:
        """The other live nodes."""
        own = self.own_epoch
        return [lease for epoch, lease in self._registry.leases().items() if epoch != own]

    # --- sending; never switches ----------------------------------------------------------------------------

    def send(self, epoch: int, message: NodeMessage) -> bool:
        """Send to one node. False if it is known that the message will not arrive."""
        lease = self._registry.leases().get(epoch)
        return lease is not None and self._rpc.send(lease, _encode(message))

    def send_each(self, epochs: Iterable[int], message: NodeMessage) -> int:
        """Send to several nodes; returns how many of them probably receive it."""
        data = _encode(message)
        leases = self._registry.leases()
        return sum(epoch in leases and self._rpc.send(leases[epoch], data) for epoch in epochs)

    def broadcast(self, message: NodeMessage) -> int:
        """Send to all other live nodes; returns how many are known not to receive it."""
        peers = self.peers()
        if not peers:
            return 0
        data = _encode(message)
        return sum(not self._rpc.send(lease, data) for lease in peers)

    def broadcast_entries(self, app: str, first: int, last: int, entries: Sequence[Entry]) -> None:
        """Send stored entries to all other live nodes, in pieces that fit.

        A node that misses one reads it from the log.
        """
        if not self.peers():
            return
        piece: list[Entry] = []
        size = 0
        for entry in entries:
            entry_size = len(entry.body) + len(entry.meta) + _ENTRY_BYTES
            if piece and size + entry_size > _PIECE_BYTES:
                self.broadcast(ToLog(app, first, piece[-1].id, piece))
                first, piece, size = piece[-1].id + 1, [], 0
            piece.append(entry)
            size += entry_size
        self.broadcast(ToLog(app, first, last, piece))

    def broadcast_signal(self, app: str, users: Collection[str], group: int, signal: Signal) -> None:
        """Send a signal to the subscribers on all other live nodes."""
        self.broadcast(ToFollowers(app, tuple(users), group, signal))

    # --- fences ---------------------------------------------------------------------------------------------

    def fence(self, epoch: int) -> int:
        """Mark what was sent to a node so far; a query that names the mark waits for it. 0: no mark.

        Messages and queries use different connections, so a query may otherwise overtake a message.
        """
        number = next(self._fences)
        return number if self.send(epoch, Fence(number)) else 0

    def wait_for(self, sender: int, number: int) -> None:
        """Return when everything before a fence of the epoch ``sender`` has been handled, or soon."""
        deadline = monotonic() + FENCE_SECONDS
        while self._passed.get(sender, 0) < number and monotonic() < deadline:
            gevent.sleep(_POLL_SECONDS)

    def _pass(self, sender: int, number: int) -> None:
        if sender not in self._passed and len(self._passed) >= _MAX_PASSED:
            live = self._registry.leases()
            self._passed = {epoch: passed for epoch, passed in self._passed.items() if epoch in live}
        self._passed[sender] = number

    # --- receiving ------------------------------------------------------------------------------------------

    def received(self, sender: int, items: Sequence[bytes]) -> None:
        """Handle messages of another node, in their order. One that fails does not affect the others."""
        for data in items:
            try:
                message: NodeMessage = _decode(data)
            except (ValueError, RecursionError):
                self.unreadable += 1
                log.warning("node message from epoch %d is not readable", sender)
                continue
            if isinstance(message, Fence):
                self._pass(sender, message.number)
                continue
            try:
                self._handlers[type(message)](message)
            except Exception:
                log.exception("node message %s from epoch %d failed", type(message).__name__, sender)
