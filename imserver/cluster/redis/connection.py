"""Addresses of and connections to Redis: reads ``redis.url`` (or ``redis.addr``), connects by gevent. Keys
whose next change Redis reports over a connection."""

from __future__ import annotations

import _socket
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import redis
from gevent import socket
from msgspec import Struct
from msgspec.structs import replace
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from imserver.config.settings import RedisSettings
from imserver.errors import StartError

try:
    from redis.driver_info import DriverInfo
except ImportError:  # redis-py before 7.1
    _ABOUT_US: dict[str, Any] = {}
else:
    # Otherwise redis-py parses the metadata of its package for each connection: 2 MB of a node's memory.
    _ABOUT_US = {"driver_info": DriverInfo(lib_version=redis.__version__)}

_HOST: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")


class RedisAddress(Struct, frozen=True):
    """A Redis server, Sentinel setup or Redis Cluster.

    ``hosts`` are (name, port) of the server, of the sentinels, or of some nodes of the Cluster; ``service``
    is the master's name for the sentinels; ``options`` go to every connection (user, password, database, TLS
    settings, or the path of a Unix socket); ``text`` is for logs and has no password.
    """

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    options: dict[str, Any]
    tls: bool = False
    service: str = ""
    sentinel_options: dict[str, Any] = {}
    text: str = ""


def address_of(settings: RedisSettings) -> RedisAddress:
    """The address in the settings. Raises :class:`StartError` with one clear line."""
    url = settings.url or f"redis://{settings.addr}"
    scheme, _, rest = url.partition("://")
    way, _, variant = scheme.partition("+")
    try:
        address = _read(way, variant, rest)
    except ValueError as error:
        raise StartError(f"redis.{'url' if settings.url else 'addr'}: {error}") from None
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
        raise ValueError("expected the name of the master behind the sentinels, as in …:26379/mymaster")
    if not variant and len(hosts) > 1:
        raise ValueError("several servers need redis+sentinel:// or redis+cluster://")
    if path and not path.isdecimal():
        raise ValueError(f"expected the number of a database, got {path!r}")
    options = _options(f"{way}://{credentials}{at}host/{path}{mark}{query}")
    for_sentinels = {"sentinel_username", "sentinel_password"} & options.keys()
    sentinel_options = {name.removeprefix("sentinel_"): options.pop(name) for name in for_sentinels}
    for key in ("host", "port"):
        options.pop(key, None)
    if variant == "cluster" and options.pop("db", 0):
        raise ValueError("a Redis Cluster has no numbered databases")
    text = f"{way}{'+' if variant else ''}{variant}://{hosts_text}{slash}{before_query.partition('/')[2]}"
    kind: Any = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}[variant]
    return RedisAddress(kind, hosts, options, way == "rediss", service, sentinel_options, text)


def _host(written: str, default_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(written.strip())
    if match is None or int(match[2] or 0) > 65535:
        raise ValueError(f"expected host:port, got {written!r}")
    return match[1].strip("[]"), int(match[2] or default_port)


def _options(url: str) -> dict[str, Any]:
    """The options of a single-server URL as arguments of redis-py's connections."""
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("connection_class", None)
    return options


def limits_of(seconds: float, hosts: int, tries: int = 1) -> dict[str, Any]:
    """Timeouts and retries of redis-py. Several ``hosts`` are tried in turn, all within ``seconds``."""
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds / hosts,
        "retry": Retry(NoBackoff(), tries - 1),
        "protocol": 2,
    }


class DirectSocket(socket.socket):
    """A socket that first tries to send everything at once.

    Measured: gevent's ``sendall`` takes 6 of the 41 µs of CPU of a round trip to Redis.
    """

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all bytes. Switches if the kernel does not accept them at once."""
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(data[sent:], flags)


class _Direct(Connection):
    """A TCP connection over gevent sockets. Numeric hosts skip gevent's resolver, which would start a native
    thread."""

    def _connect(self) -> socket.socket:
        where = self.host, self.port, 0, socket.SOCK_STREAM
        try:
            addresses: Sequence[Any] = _socket.getaddrinfo(*where, 0, socket.AI_NUMERICHOST)
        except OSError:
            addresses = socket.getaddrinfo(*where)
        problem: OSError = OSError(f"{self.host} has no address")
        for family, kind, number, _, address in addresses:
            sock = DirectSocket(family, kind, number)
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
    """A direct connection with TLS."""


class _Managed(SentinelManagedConnection, _Direct):
    """A connection to the master that the sentinels name."""


class _ManagedTls(SentinelManagedSSLConnection, _DirectTls):
    """A connection to that master, with TLS."""


def connection_to(address: RedisAddress, seconds: float) -> Any:
    """Make an unopened connection to the server, or to the master behind the sentinels."""
    options = {**_ABOUT_US, **address.options, **limits_of(seconds, 1)}
    if not address.hosts:
        return UnixDomainSocketConnection(**options)  # type: ignore[abstract]
    if address.kind == "single":
        host, port = address.hosts[0]
        return (_DirectTls if address.tls else _Direct)(host=host, port=port, **options)
    # One share of the time for each sentinel, one for the master.
    share = seconds / (len(address.hosts) + 1)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if address.tls:
        tls["ssl"] = True
    asking = {**_ABOUT_US, **limits_of(share, 1), **tls, **address.sentinel_options}
    sentinels = Sentinel(address.hosts, sentinel_kwargs=asking)
    kind = _ManagedTls if address.tls else _Managed
    pool = SentinelConnectionPool(address.service, sentinels, connection_class=kind, **options)
    connection: Any = pool.make_connection()
    connection.keep_alive = pool, sentinels  # the connection references its pool weakly
    return connection


CACHING: Final = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"
"""Redis reports the next change of the keys that the command after this one reads."""
ENABLE: Final = (("HELLO", 3), ("CLIENT", "TRACKING", "ON", "OPTIN"))
_MAX_KEYS: Final = 20_000
"""Above it all are forgotten."""


class TrackedKey:
    """One key, until its next change."""

    __slots__ = ("unchanged",)

    def __init__(self, unchanged: bool = True) -> None:
        self.unchanged = unchanged


class TrackedKeys:
    """The keys that were read with :data:`CACHING`, which need not be read again until Redis reports a change
    (``CLIENT TRACKING``) over the connection of the pipeline. Never switches.

    A report comes before the replies to all commands that Redis executes after the change. So a value holds
    as of a later reply if its key is still unchanged then.

    ``enabled``: Redis reports them. It does not if it is older than 6.0, if it is a Redis Cluster, or if this
    node's user in Redis may not enable it.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._keys: dict[bytes, TrackedKey] = {}

    def key(self, name: bytes) -> TrackedKey:
        """The key ``name``, which the next command reads."""
        if len(self._keys) >= _MAX_KEYS:
            self.forget()
        return self._keys.setdefault(name, TrackedKey())

    def changed(self, report: list[object]) -> None:
        """Redis has sent a message: it names keys that have changed, or says that any may have."""
        names = report[1] if report[0] == b"invalidate" else ()
        if names is None:
            self.forget()
        else:
            for name in names:  # type: ignore[attr-defined]
                if (key := self._keys.pop(name, None)) is not None:
                    key.unchanged = False

    def forget(self) -> None:
        """Any key may have changed: the connection is new, Redis was flushed, or there are too many."""
        keys, self._keys = self._keys, {}
        for key in keys.values():
            key.unchanged = False
