"""Errors and counters of the RPC."""

from msgspec import Struct, field

from imserver.gateway.errors import ImserverError
from imserver.gateway.metrics import Histogram


class PeerUnavailable(ImserverError):
    """A node did not answer a query: it is unreachable, too slow, or failed.

    ``node`` is its id.
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node
        self.reason = reason


class UnknownQuery(ImserverError):
    """This node does not answer queries of this kind, because it has another
    version than the asking node."""


class PeerBusy(PeerUnavailable):
    """A node could not be asked, because too many queries to it are waiting."""


class RpcCounters(Struct, gc=False):
    """Counters since the start: items (data channel) and queries (control
    channel)."""

    sent: int = 0
    received: int = 0
    batches_sent: int = 0
    batches_received: int = 0
    bytes_sent: int = 0
    """The bytes of the items, like :attr:`bytes_received`, without framing and
    encryption."""
    bytes_received: int = 0
    dropped: int = 0
    """Items that ``send`` had accepted, but that were dropped: the lease of the
    peer ended, or this node stopped."""
    overflows: int = 0
    """Items refused because the send queue was full, or one item was too
    large."""
    refused: int = 0
    """Items refused because the peer's circuit is open."""
    stale: int = 0
    """Items received for an earlier epoch of this node."""
    gaps: int = 0
    """How many times numbers of items were missing."""
    lost: int = 0
    """How many numbers were missing: items sent to this node that never
    arrived."""
    late: int = 0
    """Items dropped because later ones arrived before them."""
    malformed: int = 0
    """Messages dropped because of their shape or version."""
    refused_peers: int = 0
    """Connections to the RPC ports that ended before authentication."""
    call_failures: int = 0
    """Queries of this node that ended in :class:`PeerUnavailable`."""
    call_seconds: Histogram = field(default_factory=Histogram)
    """Duration of the answered queries, including answers with an error
    code."""
    answered: int = 0
    """Queries of other nodes that this node answered."""
    busy: int = 0
    """Queries of other nodes that this node refused, because it was answering
    too many."""
    breaker_opens: int = 0
    restarts: int = 0
    """Number of restarts of a receiver. A number above 0 means a defect."""
