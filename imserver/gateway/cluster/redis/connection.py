"""Addresses of and connections to Redis: reads ``redis.url`` (or
``redis.addr``), connects by gevent. Also the keys whose next change Redis
reports over a connection.

No node imports redis-py, because any module of it takes 19 MB and 0.3 s of CPU
(docs/decisions/0070-packages-of-the-kind.md).
"""

import _socket
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gevent import socket
from hiredis import Reader
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.config.settings import RedisSettings
from imserver.gateway.errors import StartError
from imserver.gateway.transport.proxies import is_here

INCOMPLETE: Final = object()
"""A reader returns this object if the next reply has not arrived yet."""
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_MAX_PORT: Final = 65535
_HOST: Final = re.compile(
    r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?"
).fullmatch
_TEXTS: Final = frozenset(
    (
        "username",
        "password",
        "client_name",
        "sentinel_username",
        "sentinel_password",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_ciphers",
    )
)
"""The options of an address whose values are texts."""
_WITHOUT_EFFECT: Final = frozenset(
    (
        "socket_timeout",
        "socket_connect_timeout",
        "socket_read_size",
        "socket_keepalive",
        "timeout",
        "retry_on_timeout",
        "retry_on_error",
        "max_connections",
        "health_check_interval",
        "protocol",
    )
)
"""Options of redis-py that addresses may have, but that are ignored:
``cluster.redis_seconds`` is the time limit."""
_CHECKS: Final = ("none", "optional", "required")
"""The values of ``ssl_cert_reqs``."""
_FALSE: Final = ("0", "f", "false", "n", "no", "")
"""The texts that mean false. Any other text means true."""
RECEIVE_BYTES: Final = 65536


class RedisUnavailable(Exception):
    """Redis did not answer, or does not serve now.

    ``refused`` means that it rejected the user, the password or a command.
    ``late`` means that no connection was made within the time limit.
    """

    def __init__(
        self, cause: str, *, refused: bool = False, late: bool = False
    ) -> None:
        super().__init__(cause)
        self.refused = refused
        self.late = late


class ErrorReply(Exception):
    """The reply to a command that failed. Its text begins with the code of
    Redis, such as ``NOSCRIPT``, unless the code is only ``ERR``."""


def _error(reply: str) -> Exception:
    """Return the exception for an error that Redis has replied, such as ``ERR
    syntax error``.

    The result is a :class:`RedisUnavailable` if no other command would succeed
    now.
    """
    code, _, text = reply.partition(" ")
    # Old versions of Redis name this error only in words.
    refuses_password = (
        code in ("WRONGPASS", "NOAUTH")
        or text == "invalid password"
        or "any password configured" in text
    )
    if refuses_password:
        return RedisUnavailable(text, refused=True)
    if code == "LOADING" or text == "max number of clients reached":
        return RedisUnavailable(text)
    if code == "ERR":
        return ErrorReply(text)
    return ErrorReply(reply)


def new_reader() -> Reader:
    """Return the parser for the replies of a new connection.

    Errors that Redis replies are exceptions among the replies.
    """
    return Reader(
        protocolError=RedisUnavailable, replyError=_error, notEnoughData=INCOMPLETE
    )


class RedisAddress(Struct, frozen=True):
    """A Redis server, Sentinel setup or Redis Cluster.

    - ``hosts``: name and port of the server, of the sentinels, or of some nodes
      of the Cluster; empty for a Unix socket.
    - ``service``: the name by which the sentinels know the master; ``""``
      without sentinels.
    - ``options``: the settings of each connection: user, password, database,
      TLS, or the path of a Unix socket.
    - ``sentinel_options``: user and password for the sentinels.
    - ``text``: the address without a password, for logs.
    """

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    options: dict[str, Any]
    tls: bool = False
    service: str = ""
    sentinel_options: dict[str, Any] = {}
    text: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the Redis is on this machine. Host names are not looked
        up."""
        return "path" in self.options or all(is_here(host) for host, _ in self.hosts)


def address_of(settings: RedisSettings) -> RedisAddress:
    """Return the address of Redis from the settings.

    Raises :class:`StartError` with one clear line.
    """
    url = settings.url or f"redis://{settings.addr}"
    try:
        address = _read(url)
    except ValueError as error:
        setting = "url" if settings.url else "addr"
        raise StartError(f"redis.{setting}: {error}") from None

    options = _separate_options(settings)
    if address.kind == "cluster":
        options.pop("db", None)
    # Options in the address override the separate settings.
    return replace(address, options=options | address.options)


def _separate_options(settings: RedisSettings) -> dict[str, Any]:
    """Return the options that have settings of their own beside the address."""
    options: dict[str, Any] = {}
    if settings.password:
        options["password"] = settings.password
        if settings.username:
            options["username"] = settings.username
    if settings.db:
        options["db"] = settings.db
    return options


def _read(url: str) -> RedisAddress:
    """Read an address, such as
    ``rediss+sentinel://user:password@a,b:26380/mymaster/0?ssl_ca_path=…``.

    The scheme says whether to use TLS (``rediss``) and to what the hosts belong
    (``sentinel``, ``cluster``). Raises ValueError.
    """
    scheme, _, after_scheme = url.partition("://")
    transport, _, variant = scheme.partition("+")
    if transport == "unix":
        return _unix_address(after_scheme)
    return _network_address(transport, variant, after_scheme)


def _unix_address(after_scheme: str) -> RedisAddress:
    """Read the address of a Unix socket, without ``unix://``."""
    before_query, _, _ = after_scheme.partition("?")
    _, _, path = before_query.partition("/")
    options = _options(f"unix://{after_scheme}")
    return RedisAddress("single", (), options, text=f"unix:/{path}")


def _network_address(transport: str, variant: str, after_scheme: str) -> RedisAddress:
    """Read an address with hosts. The arguments are its parts.

    ``transport`` says whether to use TLS, and ``variant`` to what the hosts
    belong: ``sentinel``, ``cluster``, or ``""`` for a single server.
    """
    before_query, mark, query = after_scheme.partition("?")
    authority, slash, whole_path = before_query.partition("/")
    credentials, at, hosts_text = authority.rpartition("@")
    hosts = _hosts(hosts_text, variant)
    service, path = _service_and_path(variant, whole_path)

    # A placeholder stands for all hosts, because a URL with a list of hosts is
    # not valid.
    options = _options(f"{transport}://{credentials}{at}host/{path}{mark}{query}")
    sentinel_options = _take_sentinel_options(options)
    _refuse_numbered_database(variant, options)

    shown_scheme = f"{transport}+{variant}" if variant else transport
    return RedisAddress(
        _KINDS[variant],
        hosts,
        options,
        tls=transport == "rediss",
        service=service,
        sentinel_options=sentinel_options,
        text=f"{shown_scheme}://{hosts_text}{slash}{whole_path}",
    )


def _refuse_numbered_database(variant: str, options: dict[str, Any]) -> None:
    """Raise ValueError if the options name a database of a Redis Cluster.

    The number 0 is allowed there, and removed.
    """
    if variant == "cluster" and options.pop("db", 0):
        raise ValueError("a Redis Cluster has no numbered databases")


_KINDS: Final[Mapping[str, Any]] = {
    "": "single",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
"""The kind of an address, by the variant in its scheme."""


def _hosts(text: str, variant: str) -> tuple[tuple[str, int], ...]:
    """Read the hosts of an address, such as ``a,b:26380``, with their ports.

    ``variant`` is ``sentinel``, ``cluster``, or ``""`` for a single server. Raises
    ValueError.
    """
    default_port = _SENTINEL_PORT if variant == "sentinel" else _PORT
    hosts = tuple(_host(host, default_port) for host in text.split(","))
    if not variant and len(hosts) > 1:
        raise ValueError("several servers need redis+sentinel:// or redis+cluster://")
    return hosts


def _service_and_path(variant: str, whole_path: str) -> tuple[str, str]:
    """Split the path of an address into the name of a master and a database.

    Only sentinels have names of masters: ``mymaster/0`` becomes ``("mymaster",
    "0")``. Without sentinels the name is ``""``. Raises ValueError.
    """
    service = ""
    path = whole_path
    if variant == "sentinel":
        service, _, path = whole_path.partition("/")
        if not service:
            raise ValueError(
                "expected the name of the master behind the sentinels, "
                "as in …:26379/mymaster"
            )
    # The rest of the path is the number of a database.
    if path and not path.isdecimal():
        raise ValueError(f"expected the number of a database, got {path!r}")
    return service, path


def _take_sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the user and the password for sentinels out of the options.

    In ``options`` they are ``sentinel_username`` and ``sentinel_password``. In
    the result they have their usual names.
    """
    sentinel_options = {}
    for name in ("username", "password"):
        if f"sentinel_{name}" in options:
            sentinel_options[name] = options.pop(f"sentinel_{name}")
    return sentinel_options


def _host(text: str, default_port: int) -> tuple[str, int]:
    """Return the host and port that a part of an address names. Raises
    ValueError."""
    match = _HOST(text.strip())
    if match is None:
        raise ValueError(f"expected host:port, got {text!r}")
    port = default_port
    if match["port"]:
        port = int(match["port"])
    if port > _MAX_PORT:
        raise ValueError(f"expected host:port, got {text!r}")
    # Brackets stand around an IPv6 address.
    return match["host"].strip("[]"), port


def _options(url: str) -> dict[str, Any]:
    """Return the options in the URL of one server.

    These are the user, password, database or path, and the parameters of the
    query. Raises ValueError for an unknown parameter.
    """
    parts = urlsplit(url)
    options = _database_options(parts)
    options |= _read_query(parts.query)
    _require_known_check(options.get("ssl_cert_reqs", "none"))
    for name, text in (("username", parts.username), ("password", parts.password)):
        if text:
            options[name] = unquote(text)
    # An empty value counts as absent.
    return {name: value for name, value in options.items() if value != ""}


def _database_options(parts: SplitResult) -> dict[str, Any]:
    """Return the database that the path of a URL names, or the path of a Unix
    socket."""
    database = parts.path.replace("/", "")
    if parts.scheme == "unix":
        return {"path": unquote(parts.path)}
    if database.isdecimal():
        return {"db": int(database)}
    return {}


def _require_known_check(text: str) -> None:
    """Raise ValueError for a check of the server's certificate that does not
    exist."""
    if text not in _CHECKS:
        raise ValueError(
            f"expected ssl_cert_reqs=required, optional or none, got {text!r}"
        )


def _read_query(query: str) -> dict[str, Any]:
    """Return the options in the query of a URL, such as ``db=1&ssl_ca_path=/ca``.

    Raises ValueError for an unknown option.
    """
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query):
        if name in _TEXTS:
            options[name] = value
        elif name in ("db", "ssl_min_version") and value.isdecimal():
            options[name] = int(value)
        elif name == "ssl_check_hostname":
            options[name] = value.lower() not in _FALSE
        # Addresses may have options of other clients of Redis, which are
        # ignored.
        elif name not in _WITHOUT_EFFECT:
            raise ValueError(f"{name}={value} is no option")
    return options


class DirectSocket(socket.socket):
    """A socket of gevent with a faster ``sendall``.

    The method of gevent takes 6 of the 41 µs of a round trip to Redis.
    """

    encrypted: Callable[[bytes], bytes] | None = None
    """Encrypts bytes to send by TLS (``TlsSocket``); None without TLS."""
    decrypted: Callable[[bytes], bytes] | None = None
    """Decrypts received bytes by TLS (``TlsSocket``); None without TLS."""

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all bytes. Switches greenlets if the kernel does not accept them
        at once."""
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(data[sent:], flags)


def open_socket(host: str, port: int, seconds: float) -> DirectSocket:
    """Connect to a server. Port 0 means a Unix socket, whose path is ``host``.

    Tries all addresses of the host, each for at most ``seconds``. Switches
    greenlets. Raises the OSError of the last attempt.
    """
    addresses: Sequence[Any]
    if port:
        addresses = _addresses_of(host, port)
    else:
        addresses = [(socket.AF_UNIX, 0, 0, "", host)]

    problem: OSError = OSError(f"{host} has no address")
    for family, _, _, _, address in addresses:
        try:
            return _connected(family, address, seconds)
        except OSError as error:
            problem = error
    raise problem


def _connected(family: int, address: Any, seconds: float) -> DirectSocket:
    """Connect to one address, within ``seconds``. Raises OSError."""
    sock = DirectSocket(family, socket.SOCK_STREAM)
    try:
        # A command should be sent at once, without waiting for more data.
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(seconds)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _addresses_of(host: str, port: int) -> Sequence[Any]:
    """Look up the addresses of a host. May switch greenlets. Raises OSError.

    A numeric host skips gevent's resolver, which would start a native thread.
    """
    question = (host, port, 0, socket.SOCK_STREAM)
    try:
        return _socket.getaddrinfo(*question, 0, socket.AI_NUMERICHOST)
    except OSError:
        return socket.getaddrinfo(*question)


CACHING: Final = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"
"""A command that lets Redis report the next change of each key that the command
after this one reads."""
ENABLE: Final = (("HELLO", 3), ("CLIENT", "TRACKING", "ON", "OPTIN"))
"""The commands that enable such reports on a connection."""
_MAX_KEYS: Final = 20_000
"""Limit of the tracked keys. Above this limit all keys are forgotten."""


class TrackedKey(Struct, eq=False):
    """One key in Redis, as it was read.

    ``unchanged`` means that Redis has reported no change since then. A later
    reading makes another object.
    """

    unchanged: bool = True


class TrackedKeys(Struct, eq=False):
    """The keys whose next change Redis reports, so that they need not be read
    again.

    These keys were read with :data:`CACHING`. Redis reports changes (``CLIENT
    TRACKING``) over the connection of the pipeline. A report comes before the
    replies to all commands that Redis executes after the change. So if a key is
    still unchanged when a later reply comes, its value was still right at the
    time of that reply.

    ``enabled`` tells whether Redis reports changes. Redis does not report
    changes if it is older than 6.0, or if it is a Redis Cluster. It also does
    not if this node's user in Redis may not enable reports. Never switches
    greenlets.
    """

    enabled: bool = False
    _keys: dict[bytes, TrackedKey] = field(default_factory=dict)

    def key(self, name: bytes) -> TrackedKey:
        """Begin to track the key ``name``, which the next command reads."""
        if len(self._keys) >= _MAX_KEYS:
            self.forget()
        return self._keys.setdefault(name, TrackedKey())

    def changed(self, report: list[object]) -> None:
        """Apply a message of Redis, such as ``[b"invalidate", [key, key]]``.

        None in place of the keys means that any key may have changed. Other
        messages are ignored.
        """
        if report[0] != b"invalidate":
            return
        names: Any = report[1]
        if names is None:
            self.forget()
            return
        for name in names:
            key = self._keys.pop(name, None)
            if key is not None:
                key.unchanged = False

    def forget(self) -> None:
        """Forget all keys, because any key may have changed.

        This is needed if the connection is new, if Redis was flushed, or if
        there are too many keys.
        """
        keys = self._keys
        self._keys = {}
        for key in keys.values():
            key.unchanged = False
