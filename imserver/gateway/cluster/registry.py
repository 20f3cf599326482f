"""The registry: live nodes, the sessions of each user, channels, message ids
and temporary values.

:class:`SoloRegistry` serves a node without Redis,
:class:`imserver.gateway.cluster.redis.registry.RedisRegistry` the nodes that
share a Redis.

Each start of a node has its own *epoch*, a number that is never used again. The
data of a node counts only while its *lease* is live. Data of other epochs is
ignored, so answers stay right after a node was killed.
"""

import _socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from time import monotonic
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.metrics import Histogram
from imserver.gateway.model import Service

MAX_VALUES: Final = 100_000
"""Limit of the temporary values in memory. Beyond it the oldest are dropped."""
_LOOPBACK: Final = "127.0.0.1"
_FAR_ADDRESS: Final = ("192.0.2.1", 9)
"""An address for examples, which no machine has (RFC 5737), and the discard
port."""


class Lease(Struct, frozen=True):
    """One epoch of a node, as other nodes see it.

    ``node`` is the id of the node, ``ip:rpcPort``. ``control`` and ``data`` are
    its RPC addresses (``tcp://ip:port``). ``host`` names its machine.
    ``fingerprint`` identifies its secret. ``version`` is the version of the
    RPC. ``connections``, ``counts`` (users by app) and ``draining`` are as of
    the last renewal.
    """

    node: str
    epoch: int = 0
    control: str = ""
    data: str = ""
    fingerprint: str = ""
    started_at: float = 0.0
    host: str = ""
    public_ws_url: str = ""
    connections: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    draining: bool = False
    version: int = 1
    birth: int = 0
    """A number that identifies the process across its epochs; 0 if the node has
    an older version, which has no such number."""
    clients: str = ""
    """``ip:port`` to which clients connect, for operators; may be empty."""
    unsettled: bool = False
    """Whether the registry may not know all channels of the node. Then other
    nodes send it every channel publication."""
    database: str = ""
    """The id of the node's database; empty without a database."""
    features: str = ""
    """Always empty. Nodes of an older release compare a list here with the
    names of their own features, which are fewer."""
    marks: bool = False
    """Whether the node leaves a mark in Redis when it has registered all its
    sessions. Without the mark, a user whom the registry does not know may still
    be on that node. Older versions leave no marks."""
    second_fingerprint: str = ""
    """The fingerprint of the second secret that the node accepts; empty if
    there is no second secret, or if the node has an older version."""
    file: str = ""
    """The SQLite file that the node will make at its first write; empty if it
    had a database at the start."""
    feature_names: str = ""
    """The list of features that nodes of 1.0 compare with their own, and that
    must be equal. It is the list of the cluster that this node has joined.
    Otherwise it is ``core`` and the features of this node that 1.0 knows. It is
    empty if the node is older than 1.0."""
    all_features: str = ""
    """``core`` and the sorted names of the node's features, with spaces
    between; empty if the node has release 1.0 or an older one."""
    features_left_out: str = ""
    """See ``left_out`` of
    :class:`imserver.gateway.cluster.features.NodeFeatures`."""


class Session(Struct, gc=False, eq=False):
    """A logged-in connection, as its node registers it.

    ``id`` is known before the registry answers, so that a session whose
    registration was lost can still be unregistered or registered again. The
    registry sets ``number`` (0: not registered yet) and ``generation``. If two
    sessions exclude each other, the one with the higher number stays. Numbers
    are in the order in which sessions began, also for sessions that are
    registered late.

    ``policy`` says which sessions exclude each other, see
    :class:`SessionRegistration`. ``began`` is the monotonic time of the begin.
    Owner: the node's sessions.
    """

    app: str
    user: str
    device: str = ""
    policy: str = "newest"
    peer: str = ""
    """``ip:port`` of the client, for the record that operators read."""
    login_time: int = 0
    """Unix seconds, for the same record."""
    heartbeat_time: int = 0
    """Unix seconds of the last heartbeat, for the record of the logout; set
    when the session ends."""
    # unique in this process, across its epochs
    id: int = field(default_factory=count(1).__next__)
    number: int = 0
    generation: int = 0
    """The registry generation in which the session was last registered; see
    ``RedisRegistry.generation``."""
    began: float = field(default_factory=monotonic)


class SessionRef(Struct, frozen=True, gc=False):
    """An addressed session of a user: the session ``id`` on the node with
    ``epoch``.

    If ``id`` is 0, this is not a session. It stands for a node that may have
    sessions of the user that the registry does not know. Redis may have lost
    sessions, and the node has not registered all its sessions again yet.
    """

    epoch: int
    id: int
    number: int
    device: str = ""


def is_found(refs: Iterable[SessionRef]) -> bool:
    """Whether one of these is a session, and not only a node that may have
    sessions."""
    return any(ref.id for ref in refs)


class ReportedMembers(Struct, frozen=True, gc=False):
    """The number of connections of this node in a channel. 0 means that the
    channel no longer has members on the node."""

    app: str
    channel: str
    members: int


class SessionRegistration(Struct, gc=False):
    """The result of registering a session.

    Usually the session is addressed now: pushes to its user reach it. Otherwise
    one of these is true:

    - ``refused``: the policy of the session is ``refuse``, and the sessions
      ``others`` block it. Nothing was changed.
    - ``superseded``: a session with a higher number exists. That happens if the
      session is registered again, or if Redis carried out its login late.

    ``replaced`` has the sessions that are no longer addressed, of any node.
    Under ``newest`` the nodes of these sessions forget them silently. Under
    ``single`` and ``refuse`` the nodes close them. A node that misses the
    message learns of it at its next lease renewal
    (:attr:`RegistryEvents.replaced`).
    """

    number: int = 0
    replaced: tuple[SessionRef, ...] = ()
    refused: bool = False
    others: tuple[SessionRef, ...] = ()
    superseded: bool = False

    @property
    def addressed(self) -> bool:
        """Whether the session is addressed now."""
        return not (self.refused or self.superseded)


class Claim(Struct, frozen=True, gc=False):
    """The result of claiming a message id, by which each message is delivered
    once.

    - ``mine``: deliver the message, then settle the claim.
    - ``repeat``: the id was accepted before.
    - ``pending``: another request has claimed the id, and its outcome is not
      known yet. Ask again later.

    A claim that is never settled expires after 10 s. ``token`` proves who has
    the claim. ``""`` means that nothing is claimed, so nothing has to be
    settled.
    """

    key: str
    state: Literal["mine", "repeat", "pending"]
    token: str = ""


class RegistryCounters(Struct, gc=False):
    """Counters of the registry since the start."""

    round_trips: int = 0
    """Pipelines sent, pipelines of the lease included."""
    commands: int = 0
    errors: int = 0
    """Pipelines that failed, time-outs included."""
    timeouts: int = 0
    unanswered: int = 0
    """Calls without an answer (None)."""
    epochs: int = 0
    """Number of epochs of this node. More than 1 means that a lease was
    lost."""
    reregistered: int = 0
    late_replacements: int = 0
    """Replaced sessions found at a lease renewal."""
    cleaned_users: int = 0
    """Users of dead nodes that this node marked offline."""
    seconds: Histogram = field(default_factory=Histogram)
    """Duration of the pipelines that were answered."""


class RegistryEvents(Struct, frozen=True):
    """Callbacks of a shared registry, called from its own greenlets. They may
    switch greenlets."""

    sessions: Callable[[], Iterable[Session]]
    """Return all addressed sessions of this node, to extend their records. The
    sessions are read one by one, with switches of greenlets between them."""
    reregister: Callable[[bool], None]
    """Register sessions again. True means all sessions: Redis was restarted or
    flushed, or the lease was lost. False means only sessions that are not
    ``registered``: Redis was unavailable. After an interruption it is called
    again."""
    replaced: Callable[[str, str, int], None]
    """A session of this node (app, user, session id), which may have ended, is
    no longer addressed. A session may be reported several times."""
    leases_changed: Callable[[], None]
    """The set of live leases, or the epoch of this node, has changed."""


def own_address() -> str:
    """Return the first address of this machine that is not loopback, or else
    127.0.0.1.

    The routing table is asked by connecting a datagram socket, which sends
    nothing. The socket is raw, because the supervisor also calls this function
    and must not start a gevent loop.
    """
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        sock.connect(_FAR_ADDRESS)
        address: str = sock.getsockname()[0]
    except OSError:
        return _LOOPBACK
    finally:
        sock.close()
    return address


def advertised_address(advertise: str, only_local: bool) -> str:
    """Return the address at which other nodes reach this node.

    It is the setting ``advertise``, or else an address of this machine:
    loopback if ``only_local``.
    """
    if advertise:
        return advertise
    return _LOOPBACK if only_local else own_address()


def node_name(advertise: str, rpc_port: int) -> str:
    """Return the id of a node, such as ``10.0.0.5:7000``.

    It has the advertised address, or else an address of this machine, and the
    RPC port.
    """
    return f"{advertise or own_address()}:{rpc_port}"


EPOCH: Final = 1
"""The epoch of a node without Redis. It need not be new at each start, because
no other node can remember an earlier epoch."""


class SoloRegistry:
    """The registry of a node without Redis, which knows only the lease of this
    node.

    Sessions, channels and claims of such a node need no registry. A cluster
    keeps them in
    :class:`imserver.gateway.cluster.redis.registry.RedisRegistry`.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = replace(lease, epoch=EPOCH)
        """The lease of this node; ``epoch`` is 0 until the registry has been
        reached."""
        self._leases = {EPOCH: self.lease}

    def stop(self) -> None:
        """Give back the lease."""
        self._leases = {}

    def healthy(self) -> bool:
        """Whether the registry answers and the lease is live. Never
        switches greenlets."""
        return bool(self._leases)

    def leases(self) -> Mapping[int, Lease]:
        """Return the live leases by epoch, as of about a second ago.

        The lease of this node is included. Never switches greenlets.
        """
        return self._leases

    reachable = leases
    """The live leases, and leases that have run out although their nodes may
    still live. Leases that have run out are marked as draining. Never switches
    greenlets."""

    def report(
        self,
        connections: int,
        counts: Mapping[str, int],
        draining: bool = False,
        unsettled: bool = False,
    ) -> None:
        """Update the lease of this node, which other nodes see at the next
        renewal.

        ``counts`` has the number of users of each app. ``unsettled`` means that
        the registry does not know all channels of the node. Never switches
        greenlets.
        """
        self.lease = replace(
            self.lease,
            connections=connections,
            counts=dict(counts),
            draining=draining,
            unsettled=unsettled,
        )
        self._leases = {EPOCH: self.lease}

    def forget_user(self, app: str, user: str) -> None:
        """Remove the remains of an erased user, whose sessions end. Switches
        greenlets. Raises StorageUnavailable."""


class LocalValues(Service):
    """Values by key that nodes share for minutes, such as running logins with a
    provider.

    This class owns the values of a node without Redis. In a cluster
    :class:`imserver.gateway.cluster.redis.registry.RedisRegistry` has them, so
    any node may continue the work that another node has begun. All methods may
    switch greenlets, and raise StorageUnavailable if Redis does not answer.
    """

    clock: Callable[[], float] = monotonic
    _values: OrderedDict[str, tuple[bytes, float]] = field(default_factory=OrderedDict)
    """Key → a value, and the time of the clock at which it expires. The value
    that was stored first comes first."""

    def put_value(self, key: str, value: bytes, seconds: float) -> None:
        """Store a value for ``seconds``.

        The oldest values are forgotten if they have expired or if there are too
        many.
        """
        now = self.clock()
        self._values.pop(key, None)
        self._values[key] = value, now + seconds
        # The oldest value is first, whether it has expired or not.
        while self._values:
            oldest, (_, end) = next(iter(self._values.items()))
            if end > now and len(self._values) <= MAX_VALUES:
                break
            del self._values[oldest]

    def value(self, key: str) -> bytes | None:
        """Return the value of a key; None if it has expired or was removed."""
        value, end = self._values.get(key, (None, 0.0))
        if end > self.clock():
            return value
        return None

    def remove_value(self, key: str) -> bool:
        """Delete a value. Returns whether there was a value.

        If several callers delete it at once, only one of them gets True.
        """
        _, end = self._values.pop(key, (b"", 0.0))
        return end > self.clock()
