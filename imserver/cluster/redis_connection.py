"""Connections to Redis, by redis-py over gevent's sockets."""

from __future__ import annotations

import _socket
from collections.abc import Sequence
from typing import Any

from gevent import socket
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from imserver.cluster.redis_address import RedisAddress


def limits_of(seconds: float, hosts: int, tries: int = 1) -> dict[str, Any]:
    """How long redis-py may wait, and how often it may try.

    Several ``hosts`` are tried one after the other, all within ``seconds``: one that does not answer must
    leave time for the next.
    """
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds / hosts,
        "retry": Retry(NoBackoff(), tries - 1),
        "protocol": 2,
    }


class _Direct(Connection):
    """A TCP connection by gevent's sockets.

    Numbers are not given to gevent's resolver, which would start a native thread for them.
    """

    def _connect(self) -> socket.socket:
        place = self.host, self.port, 0, socket.SOCK_STREAM
        try:
            found: Sequence[Any] = _socket.getaddrinfo(*place, 0, socket.AI_NUMERICHOST)
        except OSError:
            found = socket.getaddrinfo(*place)
        problem: OSError = OSError(f"{self.host} has no address")
        for family, kind, number, _, address in found:
            sock = socket.socket(family, kind, number)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(self.socket_connect_timeout)
                sock.connect(address)
                sock.settimeout(self.socket_timeout)
                return sock
            except OSError as error:
                problem = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise problem


class _DirectTls(SSLConnection, _Direct):
    """The same with TLS."""


class _Managed(SentinelManagedConnection, _Direct):
    """The same to the master that sentinels name."""


class _ManagedTls(SentinelManagedSSLConnection, _DirectTls):
    """The same with TLS."""


def connection_to(address: RedisAddress, seconds: float) -> Any:
    """A connection, not yet made, to the server or to the master behind the sentinels."""
    options = {**address.options, **limits_of(seconds, 1)}
    if not address.hosts:
        return UnixDomainSocketConnection(**options)  # type: ignore[abstract]
    if address.kind == "single":
        host, port = address.hosts[0]
        return (_DirectTls if address.tls else _Direct)(host=host, port=port, **options)
    # One share for each of the sentinels, one for the master.
    share = seconds / (len(address.hosts) + 1)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if address.tls:
        tls["ssl"] = True
    asking = {**limits_of(share, 1), **tls, **address.sentinel_options}
    sentinels = Sentinel(address.hosts, sentinel_kwargs=asking)
    kind = _ManagedTls if address.tls else _Managed
    pool = SentinelConnectionPool(address.service, sentinels, connection_class=kind, **options)
    connection: Any = pool.make_connection()
    connection.kept_alive = pool, sentinels  # the connection knows its pool weakly
    return connection
