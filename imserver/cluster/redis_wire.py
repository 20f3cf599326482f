"""Wires: one connection to Redis over which pipelines go, one after the other.

An exchange takes at most the given seconds, whatever the server does, and then its connection is thrown
away. It is tried a second time at once if the connection was lost (an idle one may have been dead for
long), so what is sent must be harmless when it is executed twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, Protocol

import gevent
from hiredis import pack_command
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from imserver.cluster.contract import Counters
from imserver.cluster.redis_address import RedisAddress
from imserver.cluster.redis_connection import connection_to, limits_of
from imserver.cluster.redis_scripts import TEXT_OF

Command = tuple[Any, ...]
"""The words of a command: bytes, int, and str that is ASCII."""

#: in replies that say that the server as a whole cannot serve now; scripts pass them on inside longer texts
_AWAY: Final = re.compile(r"\b(READONLY|OOM|MISCONF|BUSY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|UNKILLABLE)\b")
_AWAY_ERRORS: Final = (ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError, AuthenticationError)


class Away(Exception):
    """Redis did not answer, in time or at all. ``refused``: it does not accept this user or password."""

    def __init__(self, cause: str, *, refused: bool = False) -> None:
        super().__init__(cause)
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
    if address.kind == "cluster":
        return ClusterWire(address, seconds, counters)
    return ServerWire(connection_to(address, seconds), seconds, counters)


class ServerWire:
    """A wire to one server, or to the master that sentinels name."""

    def __init__(self, connection: Any, seconds: float, counters: Counters) -> None:
        self.connects = 0
        self._connection = connection
        self._connected = False
        self.seconds = seconds
        self.counters = counters

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :class:`Wire`."""
        with _deadline(self):
            try:
                return self._loaded(commands, self._send(commands))
            except AuthenticationError:
                raise
            except ConnectionError:
                return self._loaded(commands, self._send(commands))

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        connection, count = self._connection, len(commands)
        try:
            if not self._connected:
                connection.connect()
                self._connected = True
                self.connects += 1
                # A command whose script is not loaded is sent a second time, behind those that followed it.
                commands = [*(("SCRIPT", "LOAD", text) for text in TEXT_OF.values()), *commands]
            self.counters.round_trips += 1
            self.counters.commands += len(commands)
            began = monotonic()
            connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            replies = [self._read() for _ in commands]
            self.counters.seconds.observe(monotonic() - began)
            return replies[len(commands) - count :]
        except BaseException:
            # What was not read would be taken for the answer to the next commands.
            self.close()
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
        self._connected = False
        self._connection.disconnect()


class ClusterWire:
    """A wire to a Redis Cluster: redis-py sends each command to the node that has its slot."""

    def __init__(self, address: RedisAddress, seconds: float, counters: Counters) -> None:
        self.connects = 0
        self._address = address
        limits = limits_of(seconds, len(address.hosts) + 1, tries=2)
        self._options = {**address.options, **limits, "ssl": address.tls}
        self.seconds = seconds
        self.counters = counters
        self._client: RedisCluster | None = None

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :class:`Wire`."""
        with _deadline(self):
            replies = self._send(commands)
            missing = _unloaded(commands, replies)
            if missing:
                again = self._send([with_text(commands[index]) for index in missing])
                for index, reply in zip(missing, again, strict=True):
                    replies[index] = reply
            for reply in replies:
                if isinstance(reply, RedisError) and (
                    _is_away(reply) or not isinstance(reply, ResponseError)
                ):
                    raise reply
        return replies

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self._client is None:
            nodes = [ClusterNode(host, port) for host, port in self._address.hosts]
            self._client = RedisCluster(startup_nodes=nodes, **self._options)
            self.connects += 1
        self.counters.round_trips += 1
        self.counters.commands += len(commands)
        began = monotonic()
        pipeline = self._client.pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        replies = list(pipeline.execute(raise_on_error=False))
        self.counters.seconds.observe(monotonic() - began)
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


@contextmanager
def _deadline(wire: ServerWire | ClusterWire) -> Iterator[None]:
    """What happens inside ends within the wire's seconds; whatever goes wrong there is raised as Away."""
    # Nothing that redis-py would take for an error of its own, and try again.
    timer = gevent.Timeout(wire.seconds)
    timer.start()
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        wire.close()
        wire.counters.errors += 1
        wire.counters.timeouts += isinstance(error, TimeoutError)
        refused = isinstance(error, AuthenticationError)
        raise Away(str(error).strip(". ") or type(error).__name__, refused=refused) from None
    except gevent.Timeout as timeout:
        wire.close()
        if timeout is not timer:
            raise
        wire.counters.errors += 1
        wire.counters.timeouts += 1
        raise Away(f"no answer within {wire.seconds:g} s") from None
    finally:
        timer.close()
