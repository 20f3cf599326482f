"""A simulated Redis: the commands that the server uses, its own Lua scripts in
Lua, and connections with delays.

The real pipeline, leases and registry of the server talk to it in bytes.
``restart`` loses what the setting of its append-only file allows.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from fnmatch import fnmatchcase
from hashlib import sha1
from random import Random
from typing import Any

import gevent
from gevent.event import Event as Flag
from hiredis import Reader
from lupa import lua51

from imserver.gateway.cluster.redis.connection import DirectSocket, RedisUnavailable
from tests.worlds.loop import EPOCH, Owner, VirtualLoop
from tests.worlds.network import DESCRIPTORS, Pipe, Route


class Refusal(Exception):
    """An error reply."""


class Status(bytes):
    """A status reply, such as OK."""


_OK = Status(b"OK")
_INCOMPLETE = object()


class SimRedis:
    """One server. Owner of the data. ``connections``: those that are open."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.is_down = False
        self.connections: list[SimConnection] = []
        self._random = Random(f"{seed} redis")
        self._data: dict[bytes, Any] = {}
        self._ends: dict[bytes, int] = {}
        self._scripts: dict[bytes, Any] = {}
        self._changed: set[bytes] = set()
        self._ids()

    def _ids(self) -> None:
        self._run_id = f"{self._random.getrandbits(160):040x}"
        self._replication = f"{self._random.getrandbits(160):040x}"

    # --- faults ---------------------------------------------------------------

    def copy(self) -> tuple[Any, Any]:
        """The data as of now, for a restart that loses what comes after."""
        return deepcopy((self._data, self._ends))

    def stop(self) -> None:
        """End all connections."""
        self.is_down = True
        for connection in tuple(self.connections):
            connection.end()

    def start(self, data: tuple[Any, Any] | None = None) -> None:
        """Begin another life, with other data than those of the end."""
        self.is_down = False
        self._scripts.clear()
        self._ids()
        if data is not None:
            self._data, self._ends = deepcopy(data)

    # --- commands -------------------------------------------------------------

    @property
    def _now_ms(self) -> int:
        return int((EPOCH + self.loop.clock) * 1000)

    def execute(self, connection: SimConnection, words: list[bytes]) -> bytes:
        """Execute a command; the bytes of its reply, behind reports of keys
        that changed."""
        self._changed.clear()
        caching = connection.caching
        connection.caching = False
        try:
            reply = self._command(connection, words)
        except Refusal as refusal:
            reply = refusal
        if caching and connection.tracking:
            connection.keys.add(words[1])
        if self._changed:
            for each in self.connections:
                each.report(self._changed)
        return packed(reply)

    def _command(self, connection: SimConnection, words: list[bytes]) -> Any:
        name = words[0].decode().upper()
        if name == "CLIENT":
            connection.tracking |= words[1].upper() == b"TRACKING"
            connection.caching |= words[1].upper() == b"CACHING"
            return _OK
        if name == "HELLO":
            return [b"server", b"redis"]
        if name == "SCRIPT":
            self._load(words[2])
            return sha1(words[2], usedforsecurity=False).hexdigest().encode()
        if name in ("EVAL", "EVALSHA"):
            script = (
                self._load(words[1]) if name == "EVAL" else self._scripts.get(words[1])
            )
            if script is None:
                raise Refusal("NOSCRIPT No matching script.")
            number = int(words[2])
            return _LUA.run(
                script, words[3 : 3 + number], words[3 + number :], self.call
            )
        return self.call(name, words[1:])

    def _load(self, text: bytes) -> Any:
        digest = sha1(text, usedforsecurity=False).hexdigest().encode()
        script = _LUA.compile(text)
        self._scripts[digest] = script
        return script

    def call(self, name: str, words: list[bytes]) -> Any:
        """A command on the data."""
        if not hasattr(self, f"_{name.lower()}"):
            raise Refusal(f"ERR unknown command {name}")
        return getattr(self, f"_{name.lower()}")(*words)

    def _get_value(self, key: bytes, make: type) -> Any:
        """The value of a key; a new empty one, which is not stored, if there is
        none."""
        end = self._ends.get(key)
        if end is not None and end <= self._now_ms:
            del self._data[key], self._ends[key]
            self._changed.add(key)
        value = self._data.get(key)
        return make() if value is None else value

    def _put(self, key: bytes, value: Any) -> None:
        self._changed.add(key)
        if value or isinstance(value, bytes):
            self._data[key] = value
        else:
            self._data.pop(key, None)
            self._ends.pop(key, None)

    def _time(self) -> list[bytes]:
        seconds, part = divmod(EPOCH + self.loop.clock, 1)
        return [b"%d" % seconds, b"%d" % (part * 1_000_000)]

    def _info(self, section: bytes) -> bytes:
        if section == b"server":
            return f"run_id:{self._run_id}\r\n".encode()
        return f"master_replid:{self._replication}\r\nmaster_replid2:{'0' * 40}\r\n".encode()

    def _get(self, key: bytes) -> Any:
        return self._get_value(key, type(None))

    def _exists(self, *keys: bytes) -> int:
        return sum(self._get(key) is not None for key in keys)

    def _set(self, key: bytes, value: bytes, *options: bytes) -> Any:
        before = self._get(key)
        words = [each.upper() for each in options]
        if b"NX" in words and before is not None:
            return None
        self._put(key, value)
        if b"KEEPTTL" not in words:
            self._ends.pop(key, None)
        for unit, factor in ((b"EX", 1000), (b"PX", 1)):
            if unit in words:
                self._ends[key] = (
                    self._now_ms + int(options[words.index(unit) + 1]) * factor
                )
        return _OK

    def _incr(self, key: bytes) -> int:
        number = int(self._get(key) or b"0") + 1
        self._put(key, b"%d" % number)
        return number

    def _del(self, *keys: bytes) -> int:
        there = [key for key in keys if self._get(key) is not None]
        for key in there:
            self._put(key, None)
        return len(there)

    def _expire(self, key: bytes, seconds: bytes) -> int:
        return self._pexpire(key, b"%d" % (int(seconds) * 1000))

    def _pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if self._get(key) is None:
            return 0
        self._ends[key] = self._now_ms + int(float(milliseconds))
        return 1

    def _hget(self, key: bytes, field: bytes) -> Any:
        return self._get_value(key, dict).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> list[Any]:
        return [self._hget(key, field) for field in fields]

    def _hset(self, key: bytes, *pairs: Any) -> int:
        value = self._get_value(key, dict)
        new = dict(zip(pairs[::2], pairs[1::2], strict=True))
        added = len(new.keys() - value.keys())
        value.update(new)
        self._put(key, value)
        return added

    def _hsetnx(self, key: bytes, field: bytes, text: bytes) -> int:
        return (
            0 if field in self._get_value(key, dict) else self._hset(key, field, text)
        )

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        value = self._get_value(key, dict)
        gone = [value.pop(field) for field in fields if field in value]
        if gone:
            self._put(key, value)
        return len(gone)

    _srem = _hdel
    _zrem = _srem

    def _hlen(self, key: bytes) -> int:
        return len(self._get_value(key, dict))

    def _hkeys(self, key: bytes) -> list[bytes]:
        return list(self._get_value(key, dict))

    _smembers = _hkeys

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in self._get_value(key, dict).items() for word in pair]

    def _sadd(self, key: bytes, *members: bytes) -> int:
        return self._hset(key, *(word for each in members for word in (each, None)))

    def _sscan(self, key: bytes, *_: bytes) -> list[Any]:
        return [b"0", self._hkeys(key)]

    def _scan(self, _cursor: bytes, *options: bytes) -> list[Any]:
        pattern = options[1].decode("latin-1")
        return [
            b"0",
            [key for key in self._data if fnmatchcase(key.decode("latin-1"), pattern)],
        ]

    def _zadd(self, key: bytes, score: bytes, member: bytes) -> int:
        return self._hset(key, member, float(score))

    def _zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._hget(key, member)
        return None if score is None else b"%.17g" % score

    def _zrangebyscore(self, key: bytes, _low: bytes, high: bytes) -> list[bytes]:
        rows = sorted(
            (score, member) for member, score in self._get_value(key, dict).items()
        )
        return [member for score, member in rows if score <= float(high)]

    def _rpush(self, key: bytes, *values: bytes) -> int:
        value = self._get_value(key, list)
        value.extend(values)
        self._put(key, value)
        return len(value)

    def _llen(self, key: bytes) -> int:
        return len(self._get_value(key, list))

    def _lindex(self, key: bytes, index: bytes) -> bytes | None:
        value = self._get_value(key, list)
        return value[int(index)] if -len(value) <= int(index) < len(value) else None

    def _lset(self, key: bytes, index: bytes, text: bytes) -> Status:
        self._get_value(key, list)[int(index)] = text
        return _OK

    def _lrange(self, key: bytes, first: bytes, last: bytes) -> list[bytes]:
        value = self._get_value(key, list)
        begin = int(float(first))
        end = int(float(last))
        begin = max(0, len(value) + begin) if begin < 0 else begin
        return list(value[begin : (len(value) + end if end < 0 else end) + 1])

    def _ltrim(self, key: bytes, first: bytes, last: bytes) -> Status:
        self._put(key, self._lrange(key, first, last))
        return _OK


# --- Lua ----------------------------------------------------------------------


class _Lua:
    """Runs scripts as Redis does."""

    def __init__(self) -> None:
        runtime = lua51.LuaRuntime(encoding=None, register_eval=False)
        self._runtime = runtime  # type: ignore[call-arg]
        self._call: Callable[[str, list[bytes]], Any]
        calls = {b"call": self._redis_call, b"pcall": self._redis_call}
        runtime.globals()[b"redis"] = runtime.table_from(calls)
        runtime.globals()[b"cjson"] = runtime.table_from({b"decode": self._decode})

    def compile(self, text: bytes) -> Any:
        """A function of KEYS and ARGV."""
        return self._runtime.execute(b"return function(KEYS, ARGV)\n" + text + b"\nend")

    def run(
        self, script: Any, keys: list[bytes], arguments: list[bytes], call: Any
    ) -> Any:
        """What a script returns, as a reply."""
        self._call = call
        try:
            value = script(
                self._runtime.table_from(keys), self._runtime.table_from(arguments)
            )
        except lua51.LuaError as error:
            raise Refusal(f"ERR {error}") from None
        return self._reply(value)

    def _redis_call(self, name: bytes, *words: Any) -> Any:
        return self._value(
            self._call(name.decode().upper(), [_word(each) for each in words])
        )

    def _decode(self, text: bytes) -> Any:
        return self._table(json.loads(text))

    def _table(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._runtime.table_from(
                {name.encode(): self._table(value[name]) for name in value}
            )
        if isinstance(value, list):
            return self._runtime.table_from([self._table(each) for each in value])
        return value.encode() if isinstance(value, str) else value

    def _value(self, reply: Any) -> Any:
        """A reply as a value of Lua."""
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._runtime.table_from({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._runtime.table_from([self._value(each) for each in reply])
        return reply

    def _reply(self, value: Any) -> Any:
        """A value of Lua as a reply."""
        if value is None or value is False:
            return None
        if isinstance(value, bytes):
            return value
        if isinstance(value, int | float):
            return int(value)
        if value[b"ok"] is not None:
            return _OK
        return [self._reply(value[index]) for index in range(1, len(value) + 1)]


def _word(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"%d" % value if value == int(value) else b"%.17g" % value


_LUA = _Lua()


def packed(reply: Any) -> bytes:
    """The bytes of a reply."""
    if isinstance(reply, Refusal):
        return f"-{reply}\r\n".replace("\n", " ", str(reply).count("\n")).encode()
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%b\r\n" % bytes(reply)
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"*%d\r\n%b" % (len(reply), b"".join(map(packed, reply)))


# --- connections --------------------------------------------------------------


class SimConnection:
    """An open connection at the server."""

    def __init__(self, server: SimRedis, replies: Pipe) -> None:
        self.tracking = False
        self.caching = False
        self.keys: set[bytes] = set()
        self.is_open = True
        self._server = server
        self._replies = replies
        self._reader = Reader(notEnoughData=_INCOMPLETE)
        self._parts: list[bytes] | None = None
        """The replies to what it has just sent."""
        server.connections.append(self)

    def received(self, data: bytes | None) -> None:
        """Commands have arrived; None: the client has ended."""
        if not self.is_open:
            return
        if data is None or self._server.is_down:
            self.end(data is not None)
            return
        self._reader.feed(data)
        parts = []
        self._parts = parts
        while (words := self._reader.gets()) is not _INCOMPLETE:
            parts.append(self._server.execute(self, words))
        self._parts = None
        self._replies.send(b"".join(parts))

    def report(self, changed: set[bytes]) -> None:
        """Tell the client which of its keys have changed."""
        names = sorted(self.keys & changed)
        if names:
            self.keys -= changed
            send = self._replies.send if self._parts is None else self._parts.append
            send(b">2\r\n$10\r\ninvalidate\r\n" + packed(names))

    def end(self, by_server: bool = True) -> None:
        """The server or the client ends it."""
        self.is_open = False
        self._server.connections.remove(self)
        if by_server:
            self._replies.send(None)


class RedisClients:
    """Makes connections for nodes, as
    :func:`imserver.gateway.cluster.redis.link.connect` does."""

    def __init__(
        self, loop: VirtualLoop, server: SimRedis, route: Callable[[str, str], Route]
    ) -> None:
        self.loop = loop
        self.server = server
        self.route = route
        self.sockets: dict[int, SimRedisSocket] = {}
        loop.readable = lambda fd: fd in self.sockets and self.sockets[fd].is_readable

    def connect(self, _address: object, _seconds: float) -> SimRedisSocket:
        """An open connection. Switches."""
        owner = self.loop.current
        there = self.route(owner.name, "redis")
        back = self.route("redis", owner.name)
        while there.cut_at is not None or back.cut_at is not None:
            gevent.sleep(0.1)  # until the time limit
        gevent.sleep(there.delay() + back.delay())
        if self.server.is_down:
            raise RedisUnavailable("connection refused")
        return SimRedisSocket(self, owner, there, back)


class SimRedisSocket(DirectSocket):
    """The end of a connection at a node. Its methods are those that the link
    uses."""

    def __new__(cls, *_: object) -> SimRedisSocket:
        return object.__new__(cls)

    def __init__(
        self, clients: RedisClients, owner: Owner, there: Route, back: Route
    ) -> None:
        self._clients = clients
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._fd = next(DESCRIPTORS)
        self._read_event: Any = None
        server = SimConnection(clients.server, Pipe(back, owner, self._received))
        self._out = Pipe(there, clients.loop.world, server.received)
        clients.sockets[self._fd] = self

    @property
    def _sock(self) -> SimRedisSocket:  # type: ignore[override]
        return self

    @property
    def is_readable(self) -> bool:
        return bool(self._chunks) or self._ended

    def _received(self, data: bytes | None) -> None:
        if data is None:
            self._ended = True
        else:
            self._chunks.append(data)
        if self._read_event is not None:
            self._read_event.set()
        self._clients.loop.look(self._fd)

    def fileno(self) -> int:
        return self._fd

    def settimeout(self, _seconds: float | None) -> None:
        """The link has a time limit of its own."""

    def sendall(self, data: bytes, flags: int = 0) -> None:
        if self._ended:
            raise ConnectionResetError("connection reset")
        self._out.send(bytes(data))

    def send(self, data: bytes, flags: int = 0) -> int:
        self.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:  # type: ignore[override]
        # a greenlet may, the hub cannot
        waits = gevent.getcurrent() is not gevent.get_hub()
        if (
            waits
            and not self.is_readable
            and self._clients.sockets.get(self._fd) is self
        ):
            self._read_event = Flag()
            self._read_event.wait()
            self._read_event = None
        if self._chunks:
            return self._chunks.popleft()
        if self._ended:
            return b""
        raise BlockingIOError

    def close(self) -> None:
        if self._clients.sockets.pop(self._fd, None) is not None:
            self._out.send(None)
