"""Wires: one connection to Redis over which pipelines go, one after the other.

An exchange takes at most the given seconds, whatever the server does, and then its connection is thrown
away. It is tried a second time at once if the connection was lost (an idle one may have been dead for
long), so what is sent must be harmless when it is executed twice.
"""

from __future__ import annotations

import _socket
import re
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, Protocol

import gevent
from gevent import socket
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from imserver.cluster.contract import Counters
from imserver.cluster.redis_address import RedisAddress
from imserver.cluster.redis_scripts import TEXT_OF

Command = tuple[Any, ...]
"""The words of a command: bytes, int, and str that is ASCII."""

#: in replies that say that the server as a whole cannot serve now; scripts pass them on inside longer texts
_AWAY: Final = re.compile(r"\b(READONLY|OOM|MISCONF|BUSY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|UNKILLABLE)\b")
_AWAY_ERRORS: Final = (ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError, AuthenticationError)


_LOADING: Final = tuple(("SCRIPT", "LOAD", text) for text in TEXT_OF.values())


class Away(Exception):
    """Redis did not answer, in time or at all. ``refused``: it does not accept this user or password."""

    def __init__(self, cause: str, *, timeout: bool = False, refused: bool = False) -> None:
        super().__init__(cause)
        self.timeout = timeout
        self.refused = refused


class Wire(Protocol):
    """Used by one greenlet at a time."""

    connects: int
    """How often a connection was made."""

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, return their replies; one that failed has a ``ResponseError`` there. Switches.

        Raises :class:`Away`.
        """
        ...

    def close(self) -> None:
        """Drop the connection; the next exchange makes another."""
        ...


def open_wire(address: RedisAddress, seconds: float, counters: Counters) -> Wire:
    """A wire to ``address`` whose exchanges take at most ``seconds``. Connects when it is first used."""
    options: dict[str, Any] = {
        **address.options,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.kind == "cluster":
        return ClusterWire(address, options, seconds, counters)
    return ServerWire(_connection(address, options), seconds, counters)


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


def _connection(address: RedisAddress, options: dict[str, Any]) -> Any:
    if not address.hosts:
        return UnixDomainSocketConnection(**options)  # type: ignore[abstract]
    if address.kind == "single":
        host, port = address.hosts[0]
        return (_DirectTls if address.tls else _Direct)(host=host, port=port, **options)
    limits = {
        name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry", "protocol")
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if address.tls:
        tls["ssl"] = True
    sentinels = Sentinel(address.hosts, sentinel_kwargs={**limits, **tls, **address.sentinel_options})
    kind = _ManagedTls if address.tls else _Managed
    pool = SentinelConnectionPool(address.service, sentinels, connection_class=kind, **options)
    connection: Any = pool.make_connection()
    connection.kept_alive = pool, sentinels  # the connection knows its pool weakly
    return connection


class ServerWire:
    """A wire to one server, or to the master that sentinels name."""

    def __init__(self, connection: Any, seconds: float, counters: Counters) -> None:
        self.connects = 0
        self._connection = connection
        self._seconds = seconds
        self._counters = counters

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :class:`Wire`."""
        try:
            with gevent.Timeout(self._seconds, TimeoutError("no answer in time")):
                try:
                    return self._loaded(commands, self._send(commands))
                except AuthenticationError:
                    raise
                except ConnectionError:
                    return self._loaded(commands, self._send(commands))
        except (RedisError, OSError) as error:
            self.close()
            raise _away(error, self._counters) from None

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        connection, count = self._connection, len(commands)
        try:
            if not connection.is_connected:
                connection.connect()
                self.connects += 1
                # A command whose script is not loaded is sent a second time, behind those that followed it.
                commands = [*_LOADING, *commands]
            self._counters.round_trips += 1
            self._counters.commands += len(commands)
            began = monotonic()
            connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            replies = [self._read() for _ in commands]
            self._counters.seconds.observe(monotonic() - began)
            return replies[len(commands) - count :]
        except BaseException:
            # What was not read would be taken for the answer to the next commands.
            connection.disconnect()
            raise

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            if _is_away(error):
                raise ConnectionError(str(error)) from None
            return error

    def _loaded(self, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
        """Redis has forgotten the scripts (a restart, SCRIPT FLUSH): send their commands again, with the
        text."""
        missing = _unloaded(commands, replies)
        if missing:
            again = self._send([with_text(commands[index]) for index in missing])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies

    def close(self) -> None:
        """See :class:`Wire`."""
        self._connection.disconnect()


class ClusterWire:
    """A wire to a Redis Cluster: redis-py sends each command to the node that has its slot."""

    def __init__(
        self, address: RedisAddress, options: dict[str, Any], seconds: float, counters: Counters
    ) -> None:
        self.connects = 0
        self._address = address
        self._options = {**options, "retry": Retry(NoBackoff(), 1), "ssl": address.tls}
        self._seconds = seconds
        self._counters = counters
        self._client: RedisCluster | None = None

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :class:`Wire`."""
        try:
            with gevent.Timeout(self._seconds, TimeoutError("no answer in time")):
                replies = self._send(commands)
                missing = _unloaded(commands, replies)
                if missing:
                    again = self._send([with_text(commands[index]) for index in missing])
                    for index, reply in zip(missing, again, strict=True):
                        replies[index] = reply
        except (RedisError, OSError) as error:
            self.close()
            raise _away(error, self._counters) from None
        for reply in replies:
            if isinstance(reply, RedisError) and (not isinstance(reply, ResponseError) or _is_away(reply)):
                self.close()
                raise _away(reply, self._counters)
        return replies

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self._client is None:
            nodes = [ClusterNode(host, port) for host, port in self._address.hosts]
            self._client = RedisCluster(startup_nodes=nodes, **self._options)
            self.connects += 1
        self._counters.round_trips += 1
        self._counters.commands += len(commands)
        began = monotonic()
        pipeline = self._client.pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        replies = list(pipeline.execute(raise_on_error=False))
        self._counters.seconds.observe(monotonic() - began)
        return replies

    def close(self) -> None:
        """See :class:`Wire`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def with_text(command: Command) -> Command:
    """The same call of a script with its text instead of its hash; Redis then remembers it again."""
    return ("EVAL", TEXT_OF[command[1]], *command[2:])


def _unloaded(commands: Sequence[Command], replies: Sequence[Any]) -> list[int]:
    return [
        index
        for index, reply in enumerate(replies)
        if isinstance(reply, NoScriptError) and commands[index][0] == "EVALSHA"
    ]


def _is_away(error: RedisError) -> bool:
    return isinstance(error, _AWAY_ERRORS) or _AWAY.search(str(error)) is not None


def _away(error: Exception, counters: Counters) -> Away:
    counters.errors += 1
    timeout = isinstance(error, TimeoutError)
    counters.timeouts += timeout
    refused = isinstance(error, AuthenticationError)
    return Away(str(error).strip(". ") or type(error).__name__, timeout=timeout, refused=refused)
