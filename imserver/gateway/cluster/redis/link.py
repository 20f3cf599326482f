"""The link to one Redis server, which executes pipelines. Also the base class
of all links, and the functions by which links connect."""

import re
import secrets
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from hiredis import PushNotification, Reader, pack_command
from msgspec.structs import replace

from imserver.gateway.cluster.redis.connection import (
    ENABLE,
    INCOMPLETE,
    RECEIVE_BYTES,
    DirectSocket,
    ErrorReply,
    RedisAddress,
    RedisUnavailable,
    TrackedKeys,
    new_reader,
    open_socket,
)
from imserver.gateway.cluster.redis.scripts import (
    BEGIN_LIFE,
    BEGIN_MARKS,
    LIFE,
    TEXT_OF,
)
from imserver.gateway.cluster.registry import RegistryCounters

Command = tuple[Any, ...] | bytes
"""The words of a command (bytes, int, ASCII str), or the whole command as the
bytes that Redis reads. A push uses bytes, because hiredis packs words more
slowly."""


def _packed(commands: Sequence[Command]) -> bytes:
    return b"".join(
        [
            command if isinstance(command, bytes) else pack_command(command)
            for command in commands
        ]
    )


def words_of(command: Command) -> Sequence[Any]:
    """The words of a command in either form."""
    if isinstance(command, tuple):
        return command
    reader = Reader()
    reader.feed(command)
    name, *more = reader.gets()
    return [name.decode(), *more]


_AWAY: Final = re.compile(
    r"\b(READONLY|OOM|MISCONF|BUSY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|UNKILLABLE)\b"
)
"""A word in replies that say that the server as a whole cannot serve now.
Scripts pass it on inside longer texts."""
_LIFE_BYTES: Final = 8
"""How many random bytes the name of a life has."""


_READ: Final = 1
_WRITE: Final = 2
"""Events of a descriptor in gevent's loop."""

Done = Callable[[list[Any] | RedisUnavailable | None], None]


class RedisLink:
    """A connection that executes pipelines; one exchange at a time. Connects on
    first use."""

    life: bytes
    """The life of the data of the server, as of the last connection; ``b""``:
    unknown."""
    connects: int
    """Number of connections made."""
    seconds: float
    """How long an exchange may take."""
    counters: RegistryCounters
    is_cluster = False
    """Whether it leads to several servers. A server without commands may fail
    unnoticed."""
    whole = True
    """Whether it leads to all servers."""
    marks: Sequence[str] = ()
    """The keys of the marks (:mod:`imserver.gateway.cluster.redis.marks`) on
    all servers together."""
    first_marks: Collection[str] = ()
    """One key of a mark for each server: the keys that :meth:`mark_of`
    returns."""

    def mark_of(self, command: Command) -> str:
        """The key of marks on the server of a command; ``""`` if no marks are
        known there. Never switches greenlets."""
        return ""

    @abstractmethod
    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands. A failed command has an :class:`ErrorReply`.
        If one server of several does not answer, its commands have a
        :class:`RedisUnavailable`. Switches greenlets. Raises
        RedisUnavailable."""

    @abstractmethod
    def begin(self, commands: Sequence[Command], done: Done) -> bool:
        """Send commands without waiting, and call ``done`` from the hub with
        their replies. Never switches greenlets.

        ``done`` gets the error if Redis did not answer in time, and None if
        :meth:`exchange` has to repeat the commands. False: nothing was sent,
        because that could block.
        """

    def restore(self) -> None:
        """Connect again to servers that did not answer, beside the exchanges.
        Switches greenlets."""

    @abstractmethod
    def close(self) -> None:
        """Drop the connection. The next exchange makes a new one."""


def connect(address: RedisAddress, seconds: float) -> DirectSocket:
    """A logged-in socket to the server, or to the sentinels' master; each step
    takes at most ``seconds``. Switches greenlets. Raises RedisUnavailable."""
    options = address.options
    if address.service:
        host, port = _master(address, seconds)
    elif address.hosts:
        host, port = address.hosts[0]
    else:
        host = options["path"]
        port = 0

    try:
        sock = open_socket(host, port, seconds)
        try:
            if address.tls:
                from imserver.gateway.cluster.redis import tls

                secured = tls.TlsSocket(sock, tls.context_of(options), host)
                sock = secured  # so that it is closed if the handshake fails
                secured.shake_hands()
            _log_in(sock, options)
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise RedisUnavailable("Timeout connecting to server", late=True) from None
    except (OSError, ValueError) as error:
        where = f"{host}:{port}" if port else host
        why = "".join(f" {text}." for text in error.args[1:])
        raise RedisUnavailable(
            f"Error {error.args[0]} connecting to {where}.{why}"
        ) from None
    return sock


def _log_in(sock: DirectSocket, options: dict[str, Any]) -> None:
    """Tell the server the user, the name and the database of a connection.
    Switches greenlets. Raises RedisUnavailable and OSError."""
    user = options.get("username")
    password = options.get("password")
    if user:
        ask(sock, "AUTH", user, password or "")
    elif password:
        ask(sock, "AUTH", password)
    name = options.get("client_name")
    if name:
        ask(sock, "CLIENT", "SETNAME", name)
    if options.get("db"):
        ask(sock, "SELECT", options["db"])


def ask(sock: DirectSocket, *command: Any) -> Any:
    """The reply to a command over a socket that nobody else uses. Switches
    greenlets. Raises RedisUnavailable and OSError."""
    sock.sendall(pack_command(command))
    reader = new_reader()
    while (reply := reader.gets()) is INCOMPLETE:
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise RedisUnavailable("Connection closed by server.")
        reader.feed(data)
    if isinstance(reply, RedisUnavailable):
        raise reply
    if isinstance(reply, Exception):
        raise RedisUnavailable(str(reply))
    return reply


def ask_first(
    addresses: Sequence[RedisAddress], seconds: float, *command: Any
) -> tuple[str, Any]:
    """The first of these servers that replies to a command with anything: its
    host, and the reply. Each step of each takes at most ``seconds``. Switches
    greenlets. Raises RedisUnavailable."""
    problem = RedisUnavailable("no server is known")
    for address in addresses:
        try:
            sock = connect(address, seconds)
            try:
                reply = ask(sock, *command)
                if reply:
                    return address.hosts[0][0], reply
            finally:
                sock.close()
            problem = RedisUnavailable("No master found")
        except TimeoutError:
            problem = RedisUnavailable("Timeout reading from socket", late=True)
        except OSError as error:
            problem = RedisUnavailable(str(error))
        except RedisUnavailable as error:
            problem = error
    raise problem


def _master(address: RedisAddress, seconds: float) -> tuple[str, int]:
    """The server that the sentinels name. Switches greenlets. Raises
    RedisUnavailable."""
    options = {}
    for name, value in address.options.items():
        if name.startswith("ssl_"):
            options[name] = value
    options |= address.sentinel_options
    sentinels = [
        replace(address, hosts=(host,), options=options, service="")
        for host in address.hosts
    ]
    # One share of the time for each sentinel, one for the master.
    share = seconds / (len(sentinels) + 1)
    _, (master, port) = ask_first(
        sentinels, share, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service
    )
    return master.decode(), int(port)


class ServerLink(RedisLink):
    """A link to one server, or to the master that sentinels name.

    Commands and replies use the socket directly. Measured: layers of redis-py
    took 9 of the 35 µs of an exchange with one command, and half of the 1.9 µs
    per command of one with a hundred.

    Each connection begins with the scripts that note the life of the data and
    of the marks. So all later commands find there whether the server may lack
    earlier writes, also commands that are repeated on another server.
    ``marks_here``: the keys of the marks on this server.

    :meth:`begin` needs no greenlet, and its watchers stay between two
    exchanges. Measured: a lookup with a claim took 76 µs of CPU by
    :meth:`exchange`, and 64 µs by :meth:`begin`.
    """

    def __init__(
        self,
        address: RedisAddress,
        seconds: float,
        counters: RegistryCounters,
        tracked: TrackedKeys | None,
        marks_here: Callable[[], Collection[str]],
    ) -> None:
        self.life = b""
        self.connects = 0
        self.seconds = seconds
        self.counters = counters
        self.marks = ()
        if address.kind != "cluster":
            self.marks = tuple(marks_here())
        self.first_marks = self.marks

        self._address = address
        self._tracked = tracked
        self._marks_here = marks_here
        self._done: Done | None = None
        """Called when the exchange that was begun has ended."""
        self._replies: list[Any] = []
        self._missing = 0
        self._unsent: bytes | memoryview = b""
        self._began = 0.0
        self._watchers: tuple[Any, ...] = ()
        """They wait for replies, for room to send, and for the time limit."""
        self._socket: DirectSocket | None = None
        """The socket of the connection; None without a connection."""
        self._raw: Any = None
        """The socket of the connection without gevent, and without TLS."""
        self._encrypted: Callable[[bytes], bytes] | None = None
        self._decrypted: Callable[[bytes], bytes] | None = None
        """Decrypts received bytes by TLS; None without TLS."""
        self._reader: Any = None

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        timer = gevent.Timeout(self.seconds)
        timer.start()
        try:
            return self._exchange(commands)
        except RedisUnavailable as error:
            self.close()
            self.counters.errors += 1
            self.counters.timeouts += error.late
            text = str(error).strip(". ") or type(error).__name__
            raise RedisUnavailable(text, refused=error.refused) from None
        except gevent.Timeout as timeout:
            self.close()
            if timeout is not timer:
                raise
            raise self._no_answer() from None
        finally:
            timer.close()

    def _no_answer(self) -> RedisUnavailable:
        """Count an exchange that took too long."""
        self.counters.errors += 1
        self.counters.timeouts += 1
        return RedisUnavailable(f"no answer within {self.seconds:g} s")

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return _send_loaded(self._send, commands)
        except RedisUnavailable as error:
            if error.refused or error.late:
                raise
            return _send_loaded(self._send, commands)

    def mark_of(self, command: Command) -> str:
        return self.marks[0] if self.marks else ""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return bool(self._watchers)

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            opening: list[Command] = []
            if self._socket is None:
                self._connect()
                if self._tracked is not None:
                    self._tracked.enabled = False  # until the server has agreed
                    self._tracked.forget()
                opening = self._opening()
                commands = [*opening, *commands]

            assert self._socket is not None
            self.counters.round_trips += 1
            self.counters.commands += len(commands)
            began = monotonic()
            self._socket.sendall(_packed(commands))
            replies = self._read(len(commands))
            self.counters.seconds.observe(monotonic() - began)

            if opening:
                self._opened(replies[: len(opening)])
            return replies[len(opening) :]
        except OSError as error:
            self.close()
            raise RedisUnavailable(str(error)) from None
        except BaseException:
            # Unread replies would be taken for the replies to the next
            # commands.
            self.close()
            raise

    def _opening(self) -> list[Command]:
        """The first commands of a connection. Their replies go to
        :meth:`_opened`."""
        commands: list[Command] = []
        if self._tracked is not None:
            commands += ENABLE
        # A command whose script is not loaded is sent a second time, after the
        # commands that followed it.
        commands += [("SCRIPT", "LOAD", text) for text in TEXT_OF.values()]
        commands += begin_marks(self._marks_here())
        if self._address.kind == "cluster":
            commands += _IDS
        else:
            life = secrets.token_urlsafe(_LIFE_BYTES)
            commands.append(("EVALSHA", BEGIN_LIFE, 1, LIFE, life))
        return commands

    def _opened(self, replies: Sequence[Any]) -> None:
        in_cluster = self._address.kind == "cluster"
        life_replies = len(_IDS) if in_cluster else 1
        self.life = _life(replies[-life_replies:])
        if self._tracked is not None:
            agreements = replies[: len(ENABLE)]
            self._tracked.enabled = not any(
                isinstance(reply, ErrorReply) for reply in agreements
            )

    def _connect(self) -> None:
        sock = connect(self._address, self.seconds)
        self._socket = sock
        self._reader = new_reader()
        sock.settimeout(None)  # the whole exchange has a time limit
        self._encrypted = sock.encrypted
        self._decrypted = sock.decrypted
        self._raw = sock._sock  # type: ignore[attr-defined]
        loop = get_hub().loop
        descriptor = sock.fileno()
        self._watchers = (
            loop.io(descriptor, _READ),
            loop.io(descriptor, _WRITE),
            loop.timer(0.0, self.seconds),
        )
        self.connects += 1

    def _read(self, count: int) -> list[Any]:
        """Read ``count`` replies. Raises RedisUnavailable if the server as a
        whole cannot serve now."""
        assert self._socket is not None
        # Local names: the loop runs for each reply.
        reader = self._reader
        receive = self._socket.recv
        replies: list[Any] = []

        while len(replies) < count:
            reply = reader.gets()
            if reply is INCOMPLETE:
                data = receive(RECEIVE_BYTES)
                if not data:
                    raise RedisUnavailable("Redis closed the connection")
                reader.feed(data)
                continue
            if type(reply) is PushNotification:
                if self._tracked is not None:
                    self._tracked.changed(reply)
                continue
            if isinstance(reply, Exception):
                away = _away(reply)
                if away is not None:
                    raise away
            replies.append(reply)
        return replies

    def begin(self, commands: Sequence[Command], done: Done) -> bool:
        if not self._watchers:
            return False

        self._unsent = _packed(commands)
        if self._encrypted is not None:
            self._unsent = self._encrypted(self._unsent)
        self._done = done
        self._replies = []
        self._missing = len(commands)
        self.counters.round_trips += 1
        self.counters.commands += self._missing
        self._began = monotonic()

        readable, _, limit = self._watchers
        if not readable.active:
            readable.start(self._readable)
        limit.again(self._expired)
        self._write()
        return True

    def _write(self) -> None:
        """Callback: send as many bytes as the kernel accepts."""
        unsent = self._unsent
        writable = self._watchers[1]
        try:
            sent = self._raw.send(unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(None)
            return
        if sent == len(unsent):
            self._unsent = b""
            writable.stop()
        else:
            self._unsent = memoryview(unsent)[sent:]
            if not writable.active:
                writable.start(self._write)

    def _readable(self) -> None:
        """Callback: read replies. Redis is away if it has closed, or if a reply
        says so."""
        if self._done is None:
            # The connection has ended, or it is used by `exchange`.
            self._watchers[0].stop()
            return

        # Local names, and most replies first: this runs for each reply to a
        # push.
        reader = self._reader
        replies = self._replies
        missing = self._missing
        gets = reader.gets
        try:
            data = self._raw.recv(RECEIVE_BYTES)
            if not data:
                raise RedisUnavailable("Redis closed the connection")
            if self._decrypted is not None:
                data = self._decrypted(data)
            reader.feed(data)
            while len(replies) < missing:
                reply = gets()
                if reply is INCOMPLETE:
                    return
                if type(reply) is bytes:  # most of them
                    replies.append(reply)
                    continue
                if type(reply) is PushNotification:
                    if self._tracked is not None:
                        self._tracked.changed(reply)
                    continue
                if isinstance(reply, Exception) and (
                    _lacks_script(reply) or _away(reply)
                ):
                    raise reply  # all commands are exchanged again
                replies.append(reply)
        except BlockingIOError:
            return
        except (OSError, RedisUnavailable, ErrorReply):
            self._end(None)
            return

        self.counters.seconds.observe(monotonic() - self._began)
        self._end(replies)

    def _expired(self) -> None:
        """Callback of the timer. If the loop was late, and not Redis, the
        replies are there."""
        self._readable()
        if self._done is None:
            return
        self._end(self._no_answer())

    def _end(self, result: list[Any] | RedisUnavailable | None) -> None:
        """End the exchange that was begun. Without replies the connection is
        dropped."""
        done = self._done
        if isinstance(result, list):
            self._done = None
            self._replies = []
            self._watchers[2].stop()
        else:
            self.close()
        if done is not None:
            done(result)

    def close(self) -> None:
        sock = self._socket
        self._socket = None
        self._done = None
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers = ()
        if sock is not None:
            sock.close()


def begin_marks(keys: Collection[str]) -> list[Command]:
    """Commands whose replies are the lives of the marks."""
    return [
        ("EVALSHA", BEGIN_MARKS, 1, key, secrets.token_urlsafe(_LIFE_BYTES))
        for key in keys
    ]


_IDS: Final = (("INFO", "server"), ("INFO", "replication"))
"""The commands whose replies have the ids of a master."""
_ID: Final = re.compile(rb"^(run_id|master_replid):(\w+)", re.MULTILINE)


def _life(replies: Sequence[Any]) -> bytes:
    """The life of the data: the reply of the script, or the ids of a master of
    a Redis Cluster. ``b""``: unknown."""
    if len(replies) == 1:
        if isinstance(replies[0], bytes):
            return replies[0]
        return b""

    ids = []
    for reply in replies:
        if not isinstance(reply, bytes):
            return b""
        match = _ID.search(reply)
        if match is None:
            return b""
        ids.append(match[2])
    return b".".join(ids)


def _send_loaded(
    send: Callable[[Sequence[Command]], list[Any]], commands: Sequence[Command]
) -> list[Any]:
    """Send commands, and again with its text each script that Redis has lost
    (restart, SCRIPT FLUSH)."""
    replies = send(commands)
    indexes = []
    calls: list[Command] = []
    for index, reply in enumerate(replies):
        if not _lacks_script(reply):
            continue
        words = words_of(commands[index])
        if words[0] == "EVALSHA":
            _, digest, *arguments = words
            indexes.append(index)
            calls.append(("EVAL", TEXT_OF[digest], *arguments))

    if calls:
        for index, reply in zip(indexes, send(calls), strict=True):
            replies[index] = reply
    return replies


def _lacks_script(reply: object) -> bool:
    return isinstance(reply, ErrorReply) and str(reply).startswith("NOSCRIPT")


def _away(error: Exception) -> RedisUnavailable | None:
    """The reason why the server as a whole cannot serve now, if the error says
    so; else None."""
    if isinstance(error, RedisUnavailable):
        return error
    if _AWAY.search(str(error)):
        return RedisUnavailable(str(error))
    return None
