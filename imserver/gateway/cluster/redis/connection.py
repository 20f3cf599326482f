"""Addresses of and connections to Redis: reads ``redis.url`` (or
``redis.addr``), connects by gevent. Keys whose next change Redis reports over a
connection.

No node imports redis-py, of which any module takes 19 MB and 0.3 s of CPU
(docs/decisions/0070-packages-of-the-kind.md).
"""

import _socket
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from gevent import socket
from hiredis import Reader
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.config.settings import RedisSettings
from imserver.gateway.errors import StartError
from imserver.gateway.transport.proxies import is_here

INCOMPLETE: Final = object()
"""What a reader returns if the next reply is not there yet."""
_TEXTS: Final = frozenset(
    (
        "username",
        "password",
        "client_name",
        "sentinel_username",
        "sentinel_password",
        *(
            f"ssl_{name}"
            for name in (
                "ca_certs",
                "ca_path",
                "ca_data",
                "certfile",
                "keyfile",
                "password",
            )
        ),
        "ssl_cert_reqs",
        "ssl_ciphers",
    )
)
"""The options of an address that are texts."""
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
"""Options of redis-py that addresses may have: the time limit is that of
``cluster.redis_seconds``."""
RECEIVE_BYTES: Final = 65536


class RedisUnavailable(Exception):
    """Redis did not answer, or does not serve. ``refused``: it rejected the
    user, password or command. ``late``: it did not accept a connection in
    time."""

    def __init__(
        self, cause: str, *, refused: bool = False, late: bool = False
    ) -> None:
        super().__init__(cause)
        self.refused = refused
        self.late = late


class ErrorReply(Exception):
    """The reply to a command that failed. Its first word says why, unless that
    is only ``ERR``."""


def _error(reply: str) -> Exception:
    code, _, text = reply.partition(" ")
    if (
        code in ("WRONGPASS", "NOAUTH")
        or text == "invalid password"
        or "any password configured" in text
    ):
        return RedisUnavailable(text, refused=True)
    if code == "LOADING" or text == "max number of clients reached":
        return RedisUnavailable(text)
    return ErrorReply(text if code == "ERR" else reply)


def new_reader() -> Reader:
    """Reads the replies of a new connection."""
    return Reader(
        protocolError=RedisUnavailable, replyError=_error, notEnoughData=INCOMPLETE
    )


class RedisAddress(Struct, frozen=True):
    """A Redis server, Sentinel setup or Redis Cluster.

    ``hosts`` are (name, port) of the server, of the sentinels, or of some nodes
    of the Cluster; ``service`` is the master's name for the sentinels;
    ``options`` go to every connection (user, password, database, TLS settings,
    or the path of a Unix socket); ``text`` is for logs and has no password.
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
        """Whether it is on this machine; nothing is resolved."""
        return "path" in self.options or all(is_here(host) for host, _ in self.hosts)


def address_of(settings: RedisSettings) -> RedisAddress:
    """The address in the settings. Raises :class:`StartError` with one clear
    line."""
    url = settings.url or f"redis://{settings.addr}"
    scheme, _, rest = url.partition("://")
    way, _, variant = scheme.partition("+")
    try:
        address = _read(way, variant, rest)
    except ValueError as error:
        raise StartError(
            f"redis.{'url' if settings.url else 'addr'}: {error}"
        ) from None
    defaults: dict[str, Any] = {}
    if settings.password:
        defaults["password"] = settings.password
        if settings.username:
            defaults["username"] = settings.username
    if settings.db and address.kind != "cluster":
        defaults["db"] = settings.db
    return replace(address, options=defaults | address.options)


def _read(way: str, variant: str, rest: str) -> RedisAddress:
    before_query, mark, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    credentials, at, hosts_text = authority.rpartition("@")
    if way == "unix":
        options = _options(f"unix://{rest}")
        return RedisAddress("single", (), options, text=f"unix:/{path}")
    default_port = 26379 if variant == "sentinel" else 6379
    hosts = tuple(_host(ref, default_port) for ref in hosts_text.split(","))
    service, path = path.partition("/")[::2] if variant == "sentinel" else ("", path)
    if variant == "sentinel" and not service:
        raise ValueError(
            "expected the name of the master behind the sentinels, as in …:26379/mymaster"
        )
    if not variant and len(hosts) > 1:
        raise ValueError("several servers need redis+sentinel:// or redis+cluster://")
    if path and not path.isdecimal():
        raise ValueError(f"expected the number of a database, got {path!r}")
    options = _options(f"{way}://{credentials}{at}host/{path}{mark}{query}")
    for_sentinels = {"sentinel_username", "sentinel_password"} & options.keys()
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name) for name in for_sentinels
    }
    for key in ("host", "port"):
        options.pop(key, None)
    if variant == "cluster" and options.pop("db", 0):
        raise ValueError("a Redis Cluster has no numbered databases")
    text = f"{way}{'+' if variant else ''}{variant}://{hosts_text}{slash}{before_query.partition('/')[2]}"
    kind: Any = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}[variant]
    return RedisAddress(
        kind, hosts, options, way == "rediss", service, sentinel_options, text
    )


def _host(written: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?", written.strip())
    if match is None or int(match[2] or 0) > 65535:
        raise ValueError(f"expected host:port, got {written!r}")
    return match[1].strip("[]"), int(match[2] or default_port)


def _options(url: str) -> dict[str, Any]:
    """The options in the URL of one server. Raises ValueError."""
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    if parts.scheme == "unix":
        options["path"] = unquote(parts.path)
    elif (database := parts.path.replace("/", "")).isdecimal():
        options["db"] = int(database)
    for name, value in parse_qsl(parts.query):
        if name in _TEXTS:
            options[name] = value
        elif name in ("db", "ssl_min_version") and value.isdecimal():
            options[name] = int(value)
        elif name == "ssl_check_hostname":
            options[name] = value.lower() not in ("0", "f", "false", "n", "no", "")
        elif name not in _WITHOUT_EFFECT:
            raise ValueError(f"{name}={value} is no option")
    checks = options.get("ssl_cert_reqs", "none")
    if checks not in (
        "none",
        "optional",
        "required",
    ):
        raise ValueError(
            f"expected ssl_cert_reqs=required, optional or none, got {checks!r}"
        )
    for name, text in (("username", parts.username), ("password", parts.password)):
        if text:
            options[name] = unquote(text)
    return {name: value for name, value in options.items() if value != ""}


class DirectSocket(socket.socket):
    """Sends all at once if it can: gevent's ``sendall`` takes 6 of the 41 µs of
    a round trip to Redis."""

    encrypted: Callable[[bytes], bytes] | None = None
    decrypted: Callable[[bytes], bytes] | None = None
    """What TLS sends for bytes, and what it makes of received ones
    (``TlsSocket``); None: there is none."""

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all bytes. Switches if the kernel does not accept them at
        once."""
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(data[sent:], flags)


def open_socket(host: str, port: int, seconds: float) -> DirectSocket:
    """Connect to a server; port 0: by the Unix socket at the path ``host``.
    Numeric hosts skip gevent's resolver, which would start a native thread.
    Switches. Raises OSError."""
    where = host, port, 0, socket.SOCK_STREAM
    try:
        unix = [(socket.AF_UNIX, 0, 0, "", host)]
        addresses: Sequence[Any] = (
            _socket.getaddrinfo(*where, 0, socket.AI_NUMERICHOST) if port else unix
        )
    except OSError:
        addresses = socket.getaddrinfo(*where)
    problem: OSError = OSError(f"{host} has no address")
    for family, _, _, _, address in addresses:
        sock = DirectSocket(family, socket.SOCK_STREAM)
        try:
            if port:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(seconds)
            sock.connect(address)
            return sock
        except OSError as error:
            problem = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise problem


CACHING: Final = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"
"""Redis reports the next change of the keys that the command after this one
reads."""
ENABLE: Final = (("HELLO", 3), ("CLIENT", "TRACKING", "ON", "OPTIN"))
_MAX_KEYS: Final = 20_000
"""Above it all are forgotten."""


class TrackedKey(Struct, eq=False):
    """One key, until its next change."""

    unchanged: bool = True


class TrackedKeys(Struct, eq=False):
    """The keys that were read with :data:`CACHING`, which need not be read
    again until Redis reports a change (``CLIENT TRACKING``) over the connection
    of the pipeline. Never switches.

    A report comes before the replies to all commands that Redis executes after
    the change. So a value holds as of a later reply if its key is still
    unchanged then.

    ``enabled``: Redis reports them. It does not if it is older than 6.0, if it
    is a Redis Cluster, or if this node's user in Redis may not enable it.
    """

    enabled: bool = False
    _keys: dict[bytes, TrackedKey] = field(default_factory=dict)

    def key(self, name: bytes) -> TrackedKey:
        """The key ``name``, which the next command reads."""
        if len(self._keys) >= _MAX_KEYS:
            self.forget()
        return self._keys.setdefault(name, TrackedKey())

    def changed(self, report: list[object]) -> None:
        """Redis has sent a message: it names keys that have changed, or says
        that any may have."""
        names = report[1] if report[0] == b"invalidate" else ()
        if names is None:
            self.forget()
        else:
            for name in names:  # type: ignore[attr-defined]
                key = self._keys.pop(name, None)
                if key is not None:
                    key.unchanged = False

    def forget(self) -> None:
        """Any key may have changed: the connection is new, Redis was flushed,
        or there are too many."""
        keys = self._keys
        self._keys = {}
        for key in keys.values():
            key.unchanged = False
