"""What redis-py does: TLS, sentinels, a Redis Cluster. Its errors become ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis import connection as tcp
from redis import exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from imserver.gateway.cluster.redis.connection import DirectSocket, ErrorReply, RedisAddress, RedisUnavailable

try:
    from redis.driver_info import DriverInfo
except ImportError:  # redis-py before 7.1
    _ABOUT_US: dict[str, Any] = {}
else:
    # Otherwise redis-py parses the metadata of its package for each connection: 2 MB of a node's memory.
    _ABOUT_US = {"driver_info": DriverInfo(lib_version=redis.__version__)}

_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_CODES = {
    exceptions.NoScriptError: "NOSCRIPT ",
    exceptions.ReadOnlyError: "READONLY ",
    exceptions.OutOfMemoryError: "OOM ",
    exceptions.ClusterDownError: "CLUSTERDOWN ",
    exceptions.TryAgainError: "TRYAGAIN ",
}
"""What redis-py leaves out of the texts of error replies."""


def _translated(error: Exception) -> RedisUnavailable | ErrorReply:
    """Our error in place of one of redis-py."""
    text = str(error)
    if not isinstance(error, exceptions.ResponseError):
        refused = isinstance(error, exceptions.AuthenticationError)
        return RedisUnavailable(text, refused=refused, late=isinstance(error, exceptions.TimeoutError))
    return ErrorReply("".join(code for kind, code in _CODES.items() if isinstance(error, kind)) + text)


def _limits(seconds: float, hosts: int, tries: int = 1) -> dict[str, Any]:
    """Timeouts and retries of redis-py. Several ``hosts`` are tried in turn, all within ``seconds``."""
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds / hosts,
        "retry": Retry(NoBackoff(), tries - 1),
        "protocol": 2,
    }


def master(address: RedisAddress, seconds: float) -> tuple[str, int]:
    """The server that the sentinels name. Switches. Raises RedisUnavailable."""
    # One share of the time for each sentinel, one for the master.
    limits = _limits(seconds / (len(address.hosts) + 1), 1)
    tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    asking = {**_ABOUT_US, **limits, **tls, "ssl": address.tls, **address.sentinel_options}
    try:
        host, port = Sentinel(address.hosts, sentinel_kwargs=asking).discover_master(address.service)
    except exceptions.RedisError as error:
        raise _translated(error) from None
    return host, port


def checked(address: RedisAddress) -> Any:
    """A connection of redis-py, which never connects: it refuses options that are none, and makes the TLS."""
    options = {**_ABOUT_US, **address.options}
    plain = tcp.Connection if address.hosts else tcp.UnixDomainSocketConnection
    kind: Any = tcp.SSLConnection if address.tls else plain
    return kind(**options)


def secured(sock: DirectSocket, address: RedisAddress, host: str) -> Any:
    """The socket, with TLS if the address asks for it. Switches. Raises RedisUnavailable and OSError."""
    connection = checked(address)
    if not address.tls:
        return sock
    connection.host = host
    try:
        return connection._wrap_socket_with_ssl(sock)
    except exceptions.RedisError as error:
        raise _translated(error) from None


class ClusterClient:
    """redis-py sends each command to the node of its slot in a Redis Cluster."""

    def __init__(self, address: RedisAddress, seconds: float) -> None:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        limits = _limits(seconds, len(address.hosts) + 1, tries=2)
        options = {**address.options, **limits, "ssl": address.tls}
        try:
            self._client = RedisCluster(startup_nodes=nodes, **options)
        except _ERRORS as error:
            raise _translated(error) from None

    def send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies; a failed command has its error there. Switches. Raises RedisUnavailable."""
        try:
            pipeline = self._client.pipeline()
            scans: dict[int, Any] = {}
            for index, words in enumerate(commands):
                if words[0] == "SCAN":
                    scans[index] = self._scan(*words[1:])
                else:
                    pipeline.execute_command(*words)
            replies = pipeline.execute(raise_on_error=False)
        except _ERRORS as error:
            raise _translated(error) from None
        replies = [_translated(each) if isinstance(each, exceptions.RedisError) else each for each in replies]
        for index, reply in scans.items():
            replies.insert(index, reply)
        return replies

    def _scan(self, cursor: bytes, *options: Any) -> list[Any]:
        """One step of a SCAN through the masters, one after the other: the cursor also says which."""
        masters = sorted(self._client.get_primaries(), key=lambda node: str(node.name))
        position, index = divmod(int(cursor), len(masters))
        positions, keys = self._client.execute_command(
            "SCAN", position, *options, target_nodes=masters[index]
        )
        (position,) = positions.values()
        if not position:
            index = (index + 1) % len(masters)
        return [b"%d" % (position * len(masters) + index), keys]

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
