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
    """Return commands as the bytes that Redis reads."""
    return b"".join(
        [
            command if isinstance(command, bytes) else pack_command(command)
            for command in commands
        ]
    )


def words_of(command: Command) -> Sequence[Any]:
    """Return the words of a command, whether it is packed or not."""
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
Scripts return this word inside longer texts."""
_LIFE_BYTES: Final = 8
"""How many random bytes the name of a life has."""


_READ: Final = 1
_WRITE: Final = 2
"""Events of a descriptor in gevent's loop."""

Done = Callable[[list[Any] | RedisUnavailable | None], None]
"""A function that is called with the outcome of :meth:`RedisLink.begin`."""


class RedisLink:
    """A connection that executes pipelines: many commands at once, and their
    replies.

    A link has one exchange at a time. It connects on first use.
    """

    life: bytes
    """The name of the life of the server's data, as of the last connection.
    Another name means that data may be lost. ``b""`` means that the name is not
    known."""
    connects: int
    """Number of connections made."""
    seconds: float
    """How long an exchange may take."""
    counters: RegistryCounters
    is_cluster = False
    """Whether the link leads to several servers. Then an exchange does not
    notice the failure of a server that gets no command."""
    whole = True
    """Whether all servers answer, as far as is known."""
    marks: Sequence[str] = ()
    """The keys of the marks (:mod:`imserver.gateway.cluster.redis.marks`) on
    all servers together."""
    first_marks: Collection[str] = ()
    """One key of a mark for each server: the keys that :meth:`mark_of`
    returns."""

    def mark_of(self, command: Command) -> str:
        """Return the key of the marks on the server that executes ``command``.

        A mark is a node's proof that it has registered all its sessions there.
        Returns ``""`` if no marks are known there. Never switches greenlets.
        """
        return ""

    @abstractmethod
    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and wait for their replies.

        The reply to a failed command is an :class:`ErrorReply`. If one server
        of several does not answer, the replies to its commands are a
        :class:`RedisUnavailable`. Switches greenlets. Raises RedisUnavailable
        if no server answers.
        """

    @abstractmethod
    def begin(self, commands: Sequence[Command], done: Done) -> bool:
        """Send commands without waiting. The hub calls ``done`` with their
        replies. Never switches greenlets.

        ``done`` gets an error instead if Redis did not answer in time, and
        None if the caller has to repeat the commands by :meth:`exchange`.
        Returns False if nothing was sent, because that could block. Then
        ``done`` is not called.
        """

    def restore(self) -> None:
        """Connect again to servers that did not answer.

        Exchanges may go on meanwhile. Switches greenlets.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop the connection. The next exchange makes a new one."""


def connect(address: RedisAddress, seconds: float) -> DirectSocket:
    """Return a logged-in socket to the server, or to the master that sentinels
    name.

    Each step takes at most ``seconds``. Switches greenlets. Raises
    RedisUnavailable.
    """
    options = address.options
    if address.service:
        host, port = _master(address, seconds)
    elif address.hosts:
        host, port = address.hosts[0]
    else:
        # For a Unix socket, open_socket() takes the path as host, and the port
        # 0.
        host = options["path"]
        port = 0

    try:
        return _open(address, host, port, seconds)
    except TimeoutError:
        raise RedisUnavailable("Timeout connecting to server", late=True) from None
    except (OSError, ValueError) as error:
        raise _not_connected(host, port, error) from None


def _not_connected(
    host: str, port: int, error: OSError | ValueError
) -> RedisUnavailable:
    """Return the exception that says why a server could not be reached."""
    where = f"{host}:{port}" if port else host
    # The number of the error comes first, then its text.
    why = "".join(f" {text}." for text in error.args[1:])
    return RedisUnavailable(f"Error {error.args[0]} connecting to {where}.{why}")


def _open(address: RedisAddress, host: str, port: int, seconds: float) -> DirectSocket:
    """Connect to one server, agree on TLS if the address has it, and log in.

    Switches greenlets. Raises RedisUnavailable, OSError and ValueError.
    """
    sock = open_socket(host, port, seconds)
    try:
        if address.tls:
            from imserver.gateway.cluster.redis import tls

            context = tls.context_of(address.options)
            secured = tls.TlsSocket(sock, context, host)
            sock = secured  # so that it is closed if the handshake fails
            secured.shake_hands()
        _log_in(sock, address.options)
    except BaseException:
        sock.close()
        raise
    return sock


def _log_in(sock: DirectSocket, options: dict[str, Any]) -> None:
    """Tell the server the user, the name and the database of a connection.

    Switches greenlets. Raises RedisUnavailable and OSError.
    """
    user = options.get("username")
    password = options.get("password")
    if user:
        ask(sock, "AUTH", user, password or "")
    elif password:
        ask(sock, "AUTH", password)
    # From here on the server accepts commands.
    name = options.get("client_name")
    if name:
        ask(sock, "CLIENT", "SETNAME", name)
    if options.get("db"):
        ask(sock, "SELECT", options["db"])


def ask(sock: DirectSocket, *command: Any) -> Any:
    """Send one command over a socket that nobody else uses, and return its
    reply.

    Switches greenlets. Raises RedisUnavailable, also if the command fails, and
    OSError.
    """
    sock.sendall(pack_command(command))
    reader = new_reader()
    while (reply := reader.gets()) is INCOMPLETE:
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise RedisUnavailable("Connection closed by server.")
        reader.feed(data)
    # The reader turns error replies into exceptions.
    if isinstance(reply, RedisUnavailable):
        raise reply
    if isinstance(reply, Exception):
        raise RedisUnavailable(str(reply))
    return reply


def ask_first(
    addresses: Sequence[RedisAddress], seconds: float, *command: Any
) -> tuple[str, Any]:
    """Ask one server after the other, until one gives a reply that is not
    empty.

    Returns the host of that server and the reply. Each step, for each server,
    takes at most ``seconds``. Switches greenlets. Raises the RedisUnavailable
    of the last server if no server has replied.
    """
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
            # The server has answered, but does not know a master.
            problem = RedisUnavailable("No master found")
        except TimeoutError:
            problem = RedisUnavailable("Timeout reading from socket", late=True)
        except OSError as error:
            problem = RedisUnavailable(str(error))
        except RedisUnavailable as error:
            problem = error
    raise problem


def _master(address: RedisAddress, seconds: float) -> tuple[str, int]:
    """Return the host and port of the master, which the sentinels know.

    Sentinels are servers that watch a Redis and its replicas. Switches
    greenlets. Raises RedisUnavailable.
    """
    sentinels = _sentinels_of(address)
    # The time is divided into shares: one for each sentinel, and one for the
    # master.
    share = seconds / (len(sentinels) + 1)
    _, (master, port) = ask_first(
        sentinels, share, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service
    )
    return master.decode(), int(port)


def _sentinels_of(address: RedisAddress) -> list[RedisAddress]:
    """Return the address of each sentinel.

    Sentinels have their own user and password, but the TLS settings of the
    servers.
    """
    options = {}
    for name, value in address.options.items():
        if name.startswith("ssl_"):
            options[name] = value
    options |= address.sentinel_options
    return [
        replace(address, hosts=(host,), options=options, service="")
        for host in address.hosts
    ]


class ServerLink(RedisLink):
    """A link to one server, or to the master that sentinels name.

    Each connection begins with the scripts that write the life of the data and
    the life of the marks into Redis. A life is a name that changes when the
    server may have lost data. So scripts that run later can see whether earlier
    writes may be missing, even if they are repeated on another server.
    ``marks_here`` returns the keys of the marks on this server.

    Commands and replies use the socket directly. With redis-py, its layers took
    9 of the 35 µs of an exchange with one command. With a hundred commands they
    took half of the 1.9 µs per command. :meth:`begin` needs no greenlet, and
    its watchers stay between two exchanges. A lookup with a claim took 76 µs of
    CPU by :meth:`exchange`, and 64 µs by :meth:`begin`.
    """

    def __init__(
        self,
        address: RedisAddress,
        seconds: float,
        counters: RegistryCounters,
        tracked: TrackedKeys | None,
        marks_here: Callable[[], Collection[str]],
    ) -> None:
        """Prepare a link without a connection."""
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
        # The exchange that begin() has begun.
        self._done: Done | None = None
        """The function to call when the exchange ends; None if no exchange is
        under way."""
        self._replies: list[Any] = []
        """The replies that have arrived."""
        self._reply_count = 0
        """The number of all replies of the exchange."""
        self._unsent: bytes | memoryview = b""
        """The bytes that the kernel has not accepted yet."""
        self._began = 0.0
        """Monotonic time at which the exchange was begun."""

        self._watchers: tuple[Any, ...] = ()
        """The watchers that wait for replies, for room to send, and for the
        time limit, in this order. It is empty without a connection."""
        self._socket: DirectSocket | None = None
        """The socket of the connection; None without a connection."""
        self._raw: Any = None
        """The socket of the connection without gevent, and without TLS."""
        self._encrypted: Callable[[bytes], bytes] | None = None
        """Encrypts bytes to send by TLS; None without TLS."""
        self._decrypted: Callable[[bytes], bytes] | None = None
        """Decrypts received bytes by TLS; None without TLS."""
        self._reader: Any = None
        """Parses the replies of the connection."""

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and wait for their replies.

        The reply to a failed command is an :class:`ErrorReply`. After a failure
        of the server the connection is closed, and the error is counted.
        Switches greenlets. Raises RedisUnavailable.
        """
        timer = gevent.Timeout(self.seconds)
        timer.start()
        try:
            return self._exchange(commands)
        except RedisUnavailable as error:
            self.close()
            self.counters.errors += 1
            self.counters.timeouts += error.late  # True counts as 1
            text = str(error).strip(". ") or type(error).__name__
            raise RedisUnavailable(text, refused=error.refused) from None
        except gevent.Timeout as timeout:
            self.close()
            if timeout is not timer:  # this is a time limit of the caller
                raise
            raise self._no_answer() from None
        finally:
            timer.close()

    def _no_answer(self) -> RedisUnavailable:
        """Count an exchange that took too long, and return its error."""
        self.counters.errors += 1
        self.counters.timeouts += 1
        return RedisUnavailable(f"no answer within {self.seconds:g} s")

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Exchange commands. If that fails, try once more over a new
        connection.

        A failure is often a connection that the server has closed while it was
        idle. If the server refuses, or is late, a second attempt would not
        help.
        """
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
        """Send commands and read their replies.

        Connects first if there is no connection. After any error the connection
        is closed.
        """
        try:
            opening: list[Command] = []
            if self._socket is None:
                opening = self._reconnect()
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
            # Unread replies would be read as the replies to the next commands.
            self.close()
            raise

    def _reconnect(self) -> list[Command]:
        """Connect, and return the commands with which a connection begins."""
        self._connect()
        if self._tracked is not None:
            self._tracked.enabled = False  # until the server has agreed
            self._tracked.forget()
        return self._opening()

    def _opening(self) -> list[Command]:
        """Return the first commands of a connection.

        These commands load the scripts, and find out whether data was lost.
        :meth:`_opened` gets their replies.
        """
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
        """Apply the replies to the commands of :meth:`_opening`.

        The replies tell the life of the data, and whether the server reports
        changes of keys.
        """
        in_cluster = self._address.kind == "cluster"
        life_replies = len(_IDS) if in_cluster else 1
        self.life = _life(replies[-life_replies:])
        # The replies about tracking come first.
        if self._tracked is not None:
            agreements = replies[: len(ENABLE)]
            self._tracked.enabled = not any(
                isinstance(reply, ErrorReply) for reply in agreements
            )

    def _connect(self) -> None:
        """Connect, and create the watchers for :meth:`begin`."""
        sock = connect(self._address, self.seconds)
        self._socket = sock
        self._reader = new_reader()
        sock.settimeout(None)  # the whole exchange has a time limit
        self._encrypted = sock.encrypted
        self._decrypted = sock.decrypted
        # Callbacks of the hub must not block, so they use the socket below.
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
        """Read ``count`` replies.

        Raises RedisUnavailable if the server as a whole cannot serve now.
        """
        assert self._socket is not None
        # Local names are faster, and the loop runs for each reply.
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
            # Redis reports changes of keys between the replies.
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
        """Send commands without waiting; ``done`` is called with their replies.

        Returns False if there is no connection. Callbacks of the watchers then
        send the commands, read the replies and end the exchange.
        """
        if not self._watchers:
            return False

        self._unsent = _packed(commands)
        if self._encrypted is not None:
            self._unsent = self._encrypted(self._unsent)
        self._done = done
        self._replies = []
        self._reply_count = len(commands)
        self.counters.round_trips += 1
        self.counters.commands += self._reply_count
        self._began = monotonic()

        readable, _, timer = self._watchers
        if not readable.active:
            readable.start(self._readable)
        timer.again(self._expired)
        # Usually the kernel accepts everything at once.
        self._write()
        return True

    def _write(self) -> None:
        """Callback: send as many bytes as the kernel accepts.

        The rest follows when the socket is writable again.
        """
        unsent = self._unsent
        writable = self._watchers[1]
        try:
            sent = self._raw.send(unsent)
        except BlockingIOError:
            sent = 0  # the kernel's buffer is full
        except OSError:
            self._end(None)  # the caller exchanges the commands again
            return
        if sent == len(unsent):
            self._unsent = b""
            writable.stop()
        else:
            self._unsent = memoryview(unsent)[sent:]
            if not writable.active:
                writable.start(self._write)

    def _readable(self) -> None:
        """Callback: read the replies to the exchange that was begun.

        The exchange ends when all replies have arrived. It also ends, without
        replies, if the server cannot serve or lacks a script. Then the caller
        repeats the exchange by :meth:`exchange`.
        """
        if self._done is None:
            # The connection has ended, or it is used by `exchange`.
            self._watchers[0].stop()
            return

        # Local names are faster, and the usual replies come first, because this
        # runs for each reply to a push.
        reader = self._reader
        replies = self._replies
        reply_count = self._reply_count
        gets = reader.gets
        try:
            data = self._raw.recv(RECEIVE_BYTES)
            if not data:
                raise RedisUnavailable("Redis closed the connection")
            if self._decrypted is not None:
                data = self._decrypted(data)
            reader.feed(data)
            while len(replies) < reply_count:
                reply = gets()
                if reply is INCOMPLETE:
                    return
                if type(reply) is bytes:  # the type of most replies
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
            self._end(None)  # the caller exchanges the commands again
            return

        self.counters.seconds.observe(monotonic() - self._began)
        self._end(replies)

    def _expired(self) -> None:
        """Callback of the timer: end the exchange with an error, because Redis
        is late."""
        # If only the loop was late, and not Redis, the replies have arrived but
        # are unread.
        self._readable()
        if self._done is None:
            return
        self._end(self._no_answer())

    def _end(self, result: list[Any] | RedisUnavailable | None) -> None:
        """End the exchange that was begun, and pass ``result`` to its ``done``.

        The result is a list of replies, an error, or None if the caller has to
        repeat the commands by :meth:`exchange`. If the result is not a list,
        the connection is dropped.
        """
        # ``_done`` is read first, because close() resets it.
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
        """Drop the connection. The next exchange makes a new one.

        An exchange that was begun is forgotten, without a call of its ``done``.
        """
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
    """Return the commands that begin the marks under ``keys`` anew if data may
    be lost.

    Their replies are the lives of the marks: names that change when their
    server may have lost data.

    A mark says that a node has registered all its sessions on a server.
    """
    return [
        ("EVALSHA", BEGIN_MARKS, 1, key, secrets.token_urlsafe(_LIFE_BYTES))
        for key in keys
    ]


_IDS: Final = (("INFO", "server"), ("INFO", "replication"))
"""The commands whose replies have the ids of a master."""
_ID: Final = re.compile(rb"^(run_id|master_replid):(\w+)", re.MULTILINE)
"""The line with the id in the reply to either command of :data:`_IDS`."""


def _life(replies: Sequence[Any]) -> bytes:
    """Return the life of the data, from the last replies to the opening
    commands.

    The life is a name that changes when the server may have lost data. It is
    the reply of the script BEGIN_LIFE, or in a Redis Cluster the ids in the
    replies to :data:`_IDS`. Returns ``b""`` if the life is not known.
    """
    if len(replies) == 1:
        if isinstance(replies[0], bytes):
            return replies[0]
        return b""

    # These ids name the run of the server, and its history of writes. At least
    # one of them changes with each restart and failover.
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
    """Send commands and return their replies.

    If Redis has lost a script (restart, SCRIPT FLUSH), its commands are sent
    again with the text of the script.
    """
    replies = send(commands)
    # EVAL has the text of the script, and loads it again.
    calls = _calls_with_text(commands, replies)
    if calls:
        for index, reply in zip(calls, send([*calls.values()]), strict=True):
            replies[index] = reply
    return replies


def _calls_with_text(
    commands: Sequence[Command], replies: Sequence[Any]
) -> dict[int, Command]:
    """Return the commands to repeat because Redis has lost their scripts.

    The result maps the index of a command to the command with the text of its
    script.
    """
    calls: dict[int, Command] = {}
    for index, reply in enumerate(replies):
        if not _lacks_script(reply):
            continue
        words = words_of(commands[index])
        if words[0] == "EVALSHA":
            _, digest, *arguments = words
            calls[index] = ("EVAL", TEXT_OF[digest], *arguments)
    return calls


def _lacks_script(reply: object) -> bool:
    """Whether Redis has replied that it does not have the script of a command."""
    return isinstance(reply, ErrorReply) and str(reply).startswith("NOSCRIPT")


def _away(error: Exception) -> RedisUnavailable | None:
    """Return the reason why the server as a whole cannot serve now.

    The result is None if the error concerns only its command.
    """
    if isinstance(error, RedisUnavailable):
        return error
    if _AWAY.search(str(error)):
        return RedisUnavailable(str(error))
    return None
