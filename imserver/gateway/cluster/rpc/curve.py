"""Encryption and authentication of the RPC ports: CURVE keys derived from the
cluster's secret, and ZAP.

CURVE alone accepts any client that knows the server's public key. A ZAP handler
(ZeroMQ RFC 27) is called once per connection and refuses clients with a foreign
key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from struct import unpack
from typing import Any, Final, NamedTuple

import gevent
import zmq
from zmq.utils import z85

from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.cluster.rpc.wire import SocketFull, ZmqSocket
from imserver.gateway.logging import RateLimitedLog
from imserver.gateway.process import derive_key

log = logging.getLogger(__name__)

# A request of ZAP is a message of ZeroMQ. These are the positions of its parts.
_ZAP_CONNECTION: Final = 0
_ZAP_REQUEST_ID: Final = 3
_ZAP_ADDRESS: Final = 5
_ZAP_MECHANISM: Final = slice(7, None)
"""The parts with the name of the mechanism and with the credentials. For CURVE,
the credentials are one public key."""
_ZAP_MIN_PARTS: Final = 5
_ZAP_CURVE_PARTS: Final = 9


_WATCHED_EVENTS: Final = (
    zmq.Event.ACCEPTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.DISCONNECTED
)
"""The events of a connection from its beginning to its end."""


class CurveKeys(NamedTuple):
    """The two key pairs of a cluster, for the encryption of ZeroMQ. Each key
    has 32 bytes.

    All nodes serve with one pair and connect with the other.
    """

    server_secret: bytes
    server_public: bytes
    client_secret: bytes
    client_public: bytes

    @classmethod
    def derive(cls, secret: bytes) -> CurveKeys:
        """Return the keys of the cluster with this secret. They are the same on
        each node."""
        server = derive_key(secret, "rpc server")
        client = derive_key(secret, "rpc client")
        return cls(server, _public(server), client, _public(client))

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket accept only clients that the authenticator knows. Call
        this before bind."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.server_secret)
        # With an enforced domain, all connections are refused if the ZAP
        # handler is missing.
        socket.setsockopt(zmq.ZAP_DOMAIN, b"imserver")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def connect_to(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket use the cluster's key and accept only its nodes. Call
        this before connect."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server_public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.client_public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.client_secret)


def _public(secret: bytes) -> bytes:
    """Return the public key that belongs to a secret key."""
    public: bytes = z85.decode(zmq.curve_public(z85.encode(secret)))
    return public


class Authenticator:
    """Decides which connections of other nodes this node accepts.

    ZeroMQ asks the authenticator once per connection, by a protocol named ZAP.
    The authenticator accepts the keys of all secrets that the node accepts.
    Owner of its greenlets and sockets.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        keys: Iterable[CurveKeys],
        counters: RpcCounters,
    ) -> None:
        """Begin to answer ZeroMQ. ``keys`` are the keys of the accepted
        secrets."""
        self._context = context
        self._accepted = [[b"CURVE", pair.client_public] for pair in keys]
        self._counters = counters
        self._zap = ZmqSocket(context, zmq.ROUTER)
        # ZeroMQ sends its requests to this address.
        self._zap.socket.bind("inproc://zeromq.zap.01")
        self._monitors: list[tuple[zmq.Socket[bytes], ZmqSocket]] = []
        self._greenlets: list[gevent.Greenlet[..., None]] = [gevent.spawn(self._answer)]
        self._foreign_key = RateLimitedLog(
            log, "RPC port: refused %s, its key is not the cluster's"
        )
        self._refused = RateLimitedLog(
            log, "RPC port: refused a connection without a valid handshake"
        )

    def watch(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Count the connections to a bound socket that end before they are
        authenticated.

        ``name`` identifies the socket within this process.
        """
        address = f"inproc://{name}.monitor"
        socket.monitor(address, _WATCHED_EVENTS)

        # ZeroMQ reports its events over a socket within the process.
        zmq_socket = ZmqSocket(self._context, zmq.PAIR)
        zmq_socket.socket.connect(address)
        self._monitors.append((socket, zmq_socket))
        self._greenlets.append(gevent.spawn(self._count, zmq_socket))

    def close(self) -> None:
        """Stop, so that no connection is accepted any more. Never waits.

        Call this before the watched sockets are closed.
        """
        gevent.killall(self._greenlets, block=False)
        for socket, zmq_socket in self._monitors:
            # This comes first, because ZeroMQ's thread would otherwise wait
            # forever for a reader of its events.
            socket.disable_monitor()
            zmq_socket.close()
        self._zap.close()

    def _answer(self) -> None:
        """Greenlet: answer ZeroMQ's requests to authenticate connections."""
        while True:
            request = self._zap.receive()
            # This should not happen: only ZeroMQ writes here.
            if len(request) < _ZAP_MIN_PARTS:
                continue

            status = self._status_of(request)
            connection = request[_ZAP_CONNECTION]
            request_id = request[_ZAP_REQUEST_ID]
            try:
                self._zap.send([connection, b"", b"1.0", request_id, *status, b"", b""])
            except SocketFull:
                log.error("an answer of the ZAP handler was lost")

    def _status_of(self, request: list[bytes]) -> tuple[bytes, bytes]:
        """Return the code and the text by which a connection is accepted or refused.

        A connection is accepted if it has the public key of a node with an
        accepted secret.
        """
        has_curve = len(request) == _ZAP_CURVE_PARTS
        if has_curve and request[_ZAP_MECHANISM] in self._accepted:
            return b"200", b"OK"
        # This is logged at most once per period, because anybody can cause it.
        address = "a peer"
        if len(request) > _ZAP_ADDRESS:
            address = request[_ZAP_ADDRESS].decode("ascii", "replace")
        self._foreign_key(address)
        return b"400", b"Unknown key"

    def _count(self, zmq_socket: ZmqSocket) -> None:
        """Greenlet: count the refused connections, from the events of a watched
        socket.

        Invalid data causes no event except the end of the connection, and the
        event of a successful handshake does not name its connection. So the end
        of a connection counts as a refusal if a handshake has just failed, or
        if no handshake has succeeded since the connection was accepted.
        """
        successes = 0
        successes_before: dict[int, int] = {}
        """File descriptor of a connection → how many handshakes had succeeded
        when the connection was accepted."""
        has_just_failed = False
        while True:
            # A message has the event, and for some events the file descriptor.
            kind, descriptor = unpack("=Hi", zmq_socket.receive()[0])
            if kind == zmq.Event.ACCEPTED:
                successes_before[descriptor] = successes
            elif kind == zmq.Event.HANDSHAKE_SUCCEEDED:
                successes += 1
            elif kind == zmq.Event.DISCONNECTED:
                if has_just_failed or successes_before.get(descriptor) == successes:
                    self._counters.refused_peers += 1
                    self._refused()
                successes_before.pop(descriptor, None)
                has_just_failed = False
            else:
                has_just_failed = True  # the end of the connection comes next
