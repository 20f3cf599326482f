"""Communication between nodes: one-way messages with their handlers, queries
with their answers, and the state of all nodes.

A message contains only data. It is encoded once for all receivers. Messages to
one node arrive in the order in which they were sent, or are lost.
``RpcCounters`` counts the lost messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from itertools import count
from time import monotonic
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, Union, get_args

import gevent
import msgspec
from msgspec import Struct, field

from imserver.gateway.cluster.registry import Lease, SoloRegistry
from imserver.gateway.cluster.rpc.counters import PeerUnavailable, UnknownQuery
from imserver.gateway.errors import StartError
from imserver.gateway.model import Event, Service

if TYPE_CHECKING:
    from imserver.gateway.cluster.redis.registry import RedisRegistry
    from imserver.gateway.cluster.rpc.server import Rpc

log = logging.getLogger(__name__)
A = TypeVar("A")
Registry: TypeAlias = "SoloRegistry | RedisRegistry"

FENCE_SECONDS: Final = 0.25
"""The longest time that a query waits for earlier messages. These may be lost,
so it must not wait for ever."""
_FENCE_LOOK_SECONDS: Final = 0.0005
"""Seconds between two checks whether a fence has arrived."""
_MAX_FENCES: Final = 256
"""If fences of more epochs are remembered, the fences of ended epochs are
forgotten."""


class ToUser(Struct, frozen=True, gc=False, tag="u", array_like=True):
    """Deliver ``event`` to one user, whose sessions are on the receiving node.

    - ``hops``: how many times the push was rerouted, because the user had moved
      to another node.
    - ``alone``: whether the push was sent only to this node. Otherwise it must
      not be rerouted, because other nodes have it, too.
    - ``origin`` identifies the sender, and ``number`` counts the sender's
      pushes (:class:`imserver.gateway.push.routing.ReorderGuard`).
    - ``device``: the push is only for sessions of this device; None means all
      sessions.
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
    """Deliver ``event`` to all users of an app, except some."""

    app: str
    except_user: str
    event: Event
    except_users: tuple[str, ...] = ()


class Notice(Struct, frozen=True, gc=False, tag="n", array_like=True):
    """A user entered or left an app."""

    app: str
    event: Event


class Replaced(Struct, frozen=True, gc=False, tag="r", array_like=True):
    """A session of the receiving node is no longer addressed, which means that
    pushes do not go to it any more."""

    app: str
    user: str
    session_id: int


class ToChannel(Struct, frozen=True, gc=False, tag="m", array_like=True):
    """Deliver ``event`` to the members of a channel, except some users and one
    connection."""

    app: str
    channel: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: str = ""


class ToPending(Struct, frozen=True, gc=False, tag="p", array_like=True):
    """Store a push for an absent user for ``seconds``.

    The sender has stored the push until now, and no longer does so. The push is
    only for sessions of ``device``; None means all devices.
    """

    app: str
    user: str
    event: Event
    seconds: float
    device: str | None = None


class ForgetPending(Struct, frozen=True, gc=False, tag="e", array_like=True):
    """Forget the pending pushes of a user who is erased."""

    app: str
    user: str


class ToConnection(Struct, frozen=True, gc=False, tag="c", array_like=True):
    """Deliver ``event`` to one connection.

    If ``event`` is None, close the connection with ``code`` and ``reason``
    instead. ``as_given`` means that a back end has chosen code and reason.
    Nodes of the previous version ignore ``as_given``.
    """

    app: str
    connection: str
    event: Event | None = None
    code: int = 0
    reason: str = ""
    as_given: bool = False


class ChannelsUnsettled(Struct, frozen=True, gc=False, tag="o", array_like=True):
    """The registry may not know all channels of the sender, which has this
    ``epoch``.

    Other nodes then send every channel publication to this node.
    """

    epoch: int


class Fence(Struct, frozen=True, gc=False, tag="f", array_like=True):
    """Marks a position in the sequence of messages between two nodes.

    :meth:`NodeMessages.fence` sends it.
    """

    number: int


NodeMessage = (
    ToUser
    | ToApp
    | Notice
    | Replaced
    | ToChannel
    | ToConnection
    | ToPending
    | ChannelsUnsettled
    | Fence
)

encode = msgspec.msgpack.Encoder().encode


class NodeMessages:
    """Sends messages to other nodes, and calls the handler of each message that
    arrives.

    Handlers run in the order of arrival. They must not block for long, because
    later messages wait. Owner of the handlers and of the fences that have
    arrived.

    A feature may have messages of its own: structs with ``array_like=True``,
    whose tag begins with its name and a dot (``tag="lamp.switched"``). A node
    that does not know a message counts it and continues.
    """

    def __init__(self, registry: Registry) -> None:
        """``registry`` has the leases of the other nodes, with their addresses."""
        self._registry = registry
        self._rpc: Rpc
        # attach() sets the RPC later, because the RPC needs this object.
        self._handlers: dict[type[Struct], Callable[[Any], object]] = {}
        self._decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(
            NodeMessage
        ).decode
        self.unreadable = 0
        """The number of messages that this version does not understand."""
        self._fence_numbers = count(1)
        self._last_fences: dict[int, int] = {}
        """Epoch of a sender → the number of its last fence that has arrived."""

    def attach(self, rpc: Rpc) -> None:
        """Set the RPC that sends.

        It passes the messages that it receives to :meth:`received`.
        """
        self._rpc = rpc

    def handle(self, handlers: Mapping[type[Struct], Callable[[Any], object]]) -> None:
        """Add handlers, by the type of their messages.

        Raises StartError if another type has the same tag.
        """
        self._handlers.update(handlers)
        core_kinds = get_args(NodeMessage)
        feature_kinds = [kind for kind in self._handlers if kind not in core_kinds]
        try:
            self._decode = msgspec.msgpack.Decoder(
                Union[(NodeMessage, *feature_kinds)]
            ).decode
        except TypeError as error:
            # The type that was added last is the type that does not fit.
            newest = feature_kinds[-1]
            raise StartError(f"the node message {newest.__name__}: {error}") from None

    @property
    def names(self) -> Set[str]:
        """The tags of the messages that have a handler."""
        return {str(kind.__struct_config__.tag) for kind in self._handlers}

    @property
    def own_epoch(self) -> int:
        """The epoch of this node; 0 until the registry has been reached."""
        return self._registry.lease.epoch

    def peers(self) -> list[Lease]:
        """Return the leases of the other nodes.

        These are the live nodes. A node with a lease that has run out may still
        live. It is listed, too, and marked as draining.
        """
        own_epoch = self.own_epoch
        leases = self._registry.reachable()
        return [lease for epoch, lease in leases.items() if epoch != own_epoch]

    # --- sending; never switches ----------------------------------------------

    def send(self, epoch: int, message: Struct) -> bool:
        """Send to one node. Returns False if the message certainly does not
        arrive."""
        lease = self._registry.reachable().get(epoch)
        return lease is not None and self._rpc.send(lease, encode(message))

    def send_each(self, epochs: Iterable[int], message: Struct) -> int:
        """Send to several nodes. Returns how many of them probably receive the
        message."""
        data = encode(message)
        leases = self._registry.reachable()
        return sum(
            epoch in leases and self._rpc.send(leases[epoch], data) for epoch in epochs
        )

    def broadcast(self, message: Struct) -> int:
        """Send to all :meth:`peers`.

        Returns how many of them certainly do not receive the message.
        """
        peers = self.peers()
        if not peers:
            return 0
        data = encode(message)
        return sum(not self._rpc.send(lease, data) for lease in peers)

    # --- fences ---------------------------------------------------------------

    def fence(self, epoch: int) -> int:
        """Send a fence to a node, after all messages sent so far.

        Returns the number of the fence, or 0 if it could not be sent. A query
        uses another connection, and could overtake messages. If the query names
        the fence, the other node answers the query after these messages.
        """
        number = next(self._fence_numbers)
        if self.send(epoch, Fence(number)):
            return number
        return 0

    def wait_for_fence(self, sender: int, number: int) -> None:
        """Wait until all messages are handled that another node sent before a
        fence.

        ``sender`` is the epoch of that node, and ``number`` the number of the
        fence. Waits at most :data:`FENCE_SECONDS`, and not at all for the
        number 0, which stands for no fence.

        A fence is a number that a node sends between its messages.
        """
        deadline = monotonic() + FENCE_SECONDS
        while self._last_fences.get(sender, 0) < number and monotonic() < deadline:
            gevent.sleep(_FENCE_LOOK_SECONDS)

    # --- receiving ------------------------------------------------------------

    def received(self, sender: int, items: Sequence[bytes]) -> None:
        """Handle messages of another node, in their order.

        A message that cannot be handled does not affect other messages.
        ``sender`` is the epoch of the node.

        An epoch is the number of one life of a node.
        """
        for data in items:
            try:
                message = self._decode(data)
            except (ValueError, RecursionError):
                self.unreadable += 1
                log.warning("node message from epoch %d is not readable", sender)
                # A newer version may send kinds of messages that this version
                # does not know.
                continue
            if isinstance(message, Fence):
                self._note_fence(sender, message)
                continue
            try:
                self._handlers[type(message)](message)
            except Exception:
                log.exception(
                    "node message %s from epoch %d failed",
                    type(message).__name__,
                    sender,
                )

    def _note_fence(self, sender: int, fence: Fence) -> None:
        """Note that all messages of a sender before this fence are handled.

        A fence marks a position in the sequence of messages between two nodes.
        ``sender`` is the epoch of the other node: the number of its life.
        """
        fences = self._last_fences
        # The fences of nodes that have ended are forgotten.
        if sender not in fences and len(fences) >= _MAX_FENCES:
            leases = self._registry.reachable()
            for epoch in fences.keys() - leases.keys():
                del fences[epoch]
        fences[sender] = fence.number


# --- queries ------------------------------------------------------------------


class StateQuery(Struct, frozen=True, array_like=True):
    """Asks a node for its part of ``/system/state``.

    ``debug`` and ``detail`` are the parameters of the HTTP request.
    """

    debug: bool
    detail: bool


_FENCED_QUERY: Final = "behind"
"""The kind of a query with a :class:`FencedQuery`, on the wire."""


class FencedQuery(Struct, frozen=True, array_like=True):
    """A query inside a query. The inner query has a ``kind`` and an encoded
    ``body``. The inner query is answered after all messages that the epoch
    ``origin`` sent before the fence with the number ``fence``."""

    origin: int
    fence: int
    kind: str
    body: bytes


class NodeQueries(Service):
    """The queries that this node answers. Each kind of query has a type and a
    function.

    A function gets the decoded query and returns a value that can be encoded.
    It may block, within the time limit of the asking node. Owner: the node.
    """

    _rows: dict[str, tuple[msgspec.msgpack.Decoder[Any], Callable[[Any], Any]]] = field(
        default_factory=dict
    )

    def add(self, kind: str, query: type, answer: Callable[[Any], Any]) -> None:
        """Answer queries of this kind by a function.

        ``query`` is the type of the queries. The kind of a feature begins with
        its name: ``lamp.count``. Raises StartError if the kind already has an
        answer.
        """
        if kind in self._rows:
            raise StartError(f"the node query {kind!r} has an answer already")
        self._rows[kind] = (msgspec.msgpack.Decoder(query), answer)

    @property
    def names(self) -> Set[str]:
        """The kinds of queries that have an answer."""
        return self._rows.keys()

    def answer(self, kind: str, body: bytes) -> bytes:
        """Answer one query.

        Raises UnknownQuery, and ValueError for an unreadable body.
        """
        if kind not in self._rows:
            raise UnknownQuery(kind)
        decoder, answer = self._rows[kind]
        query = decoder.decode(body)
        return encode(answer(query))


def read(answers: Mapping[str, bytes], kind: type) -> dict[str, Any]:
    """Decode the answers to a node query, by node, as values of the type
    ``kind``.

    An unreadable answer is logged and left out.
    """
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
    # The answer may come from another version.
    decoded = {}
    for node, data in answers.items():
        try:
            decoded[node] = decoder.decode(data)
        except (ValueError, RecursionError):
            log.warning("node query: the answer of %s is not readable", node)
    return decoded


class OtherNodes(Service):
    """Queries other nodes, for at most ``seconds`` each.

    Also finds a node by the birth number of its process (``Lease.birth``).
    """

    registry: RedisRegistry
    node_messages: NodeMessages
    rpc: Rpc
    queries: NodeQueries
    seconds: float
    _lease_by_birth: dict[int, Lease] = field(default_factory=dict)
    _leases: Mapping[int, Lease] | None = None
    """The leases from which ``_lease_by_birth`` was made."""

    def __post_init__(self) -> None:
        self.queries.add(_FENCED_QUERY, FencedQuery, self._answer_fenced)

    def query(
        self, kind: str, query: object, leases: Iterable[Lease] | None = None
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query the nodes of ``leases``; None means all other nodes.

        Returns the encoded answers by node, and the nodes that did not answer.
        Switches greenlets.
        """
        if leases is None:
            peers = self.node_messages.peers()
        else:
            peers = list(leases)
        if not peers:
            return {}, []
        return self.rpc.query_all(peers, kind, encode(query), self.seconds)

    def answers(self, kind: str, query: object, answer: type[A]) -> list[A]:
        """Query all other nodes, and return the answers that came in time.

        They are values of the type ``answer``. Switches greenlets.
        """
        answers, _ = self.query(kind, query)
        return list(read(answers, answer).values())

    def query_behind(self, lease: Lease, kind: str, query: object, answer: Any) -> Any:
        """Query one node, after it has handled all messages that were sent to
        it before.

        Returns the answer of the node as a value of the type ``answer``; None
        if no answer came in time. Switches greenlets.
        """
        # A query could overtake the messages, which use another connection. So
        # the other node waits for the fence after these messages.
        fence = self.node_messages.fence(lease.epoch)
        own_epoch = self.node_messages.own_epoch
        fenced_query = FencedQuery(own_epoch, fence, kind, encode(query))
        try:
            body = self.rpc.query(
                lease, _FENCED_QUERY, encode(fenced_query), self.seconds
            )
            # The answer to the outer query is the encoded answer to the inner
            # query.
            data = msgspec.msgpack.decode(body, type=bytes)
            return msgspec.msgpack.decode(data, type=answer)
        except (PeerUnavailable, ValueError, RecursionError):
            return None

    def _answer_fenced(self, query: FencedQuery) -> bytes:
        """Answer the inner query of a :class:`FencedQuery`, after the messages
        before its fence."""
        self.node_messages.wait_for_fence(query.origin, query.fence)
        return self.queries.answer(query.kind, query.body)

    def born(self, birth: int) -> Lease | None:
        """Return the lease of the node whose process has this birth number.

        The result is None if there is no such node. Never switches greenlets.
        """
        leases = self.registry.reachable()
        # The registry makes another mapping for each change.
        if leases is not self._leases:
            self._leases = leases
            # If a process has two epochs, the later one is valid.
            by_epoch = sorted(leases.items())
            self._lease_by_birth = {lease.birth: lease for _, lease in by_epoch}
        return self._lease_by_birth.get(birth)


# --- the state of all nodes ---------------------------------------------------


class LeaseView(Struct, frozen=True, rename="camel"):
    """A lease, as operator commands show it."""

    node: str
    epoch: int
    host: str
    started_at: float
    connections: int
    counts: dict[str, int]
    draining: bool
    public_ws_url: str
    version: int


def _plain_lease(lease: Lease) -> Any:
    """Return a lease as operator commands show it, as a plain value."""
    view = msgspec.convert(lease, LeaseView, from_attributes=True)
    return msgspec.to_builtins(view)


class Overview(Struct, frozen=True):
    """State and metrics of all nodes.

    ``own_state``, ``own_metrics`` and ``own_lease`` return the data of this
    node. ``rpc`` queries the other nodes, each for at most ``seconds``; it is
    None without a cluster.
    """

    own_state: Callable[[StateQuery], Mapping[str, Any]]
    own_metrics: Callable[[], str]
    own_lease: Callable[[], Lease]
    registry: Registry
    rpc: Rpc | None
    seconds: float = 1.0

    def add_to(self, queries: NodeQueries) -> None:
        """Add the queries by which other nodes ask for the state and the
        metrics of this node."""

        def metrics(_: None) -> str:
            return self.own_metrics()

        queries.add("state", StateQuery, self.own_state)
        queries.add("metrics", NoneType, metrics)

    def leases(self) -> dict[str, Lease]:
        """Return the lease of every live node, by the name of the node. This
        node comes first.

        If a node has two epochs, the later one is used.

        A node gets a new epoch with each start.
        """
        own_lease = self.own_lease()
        leases = {own_lease.node: own_lease}
        for _, lease in sorted(self.registry.leases().items()):
            if lease.node != own_lease.node:
                leases[lease.node] = lease
        return leases

    def states(self, debug: bool, detail: bool) -> tuple[dict[str, Any], list[str]]:
        """Return the state of every node by its name, and the nodes that did
        not answer.

        Each state has the lease of the node. If the node did not answer, the
        state has only the lease. Switches greenlets.
        """
        leases = self.leases()
        query = StateQuery(debug, detail)
        answers, missing = self._ask(leases.values(), "state", encode(query))
        states = read(answers, dict[str, Any])
        own_node = next(iter(leases))  # this node is the first
        states[own_node] = dict(self.own_state(query))

        # If a node did not answer, its state has only the lease.
        result = {
            node: {**states.get(node, {}), "lease": _plain_lease(lease)}
            for node, lease in leases.items()
        }
        return result, missing

    def metrics(self) -> tuple[list[str], list[str]]:
        """Return the metrics of every node of this machine, this node first.

        Also returns the names of the nodes that did not answer. Switches
        greenlets.
        """
        leases = list(self.leases().values())
        own_host = leases[0].host  # this node is the first
        here = [lease for lease in leases if lease.host == own_host]
        answers, missing = self._ask(here, "metrics", encode(None))
        metrics = [self.own_metrics()]
        metrics += read(answers, str).values()
        return metrics, missing

    def _ask(
        self, leases: Collection[Lease], kind: str, body: bytes
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query the other nodes among ``leases``.

        Returns the encoded answers by node, and the nodes that did not answer.
        """
        own_node = self.own_lease().node
        others = [lease for lease in leases if lease.node != own_node]
        if self.rpc is None or not others:
            return {}, []
        return self.rpc.query_all(others, kind, body, self.seconds)
