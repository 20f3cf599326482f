"""The addresses of the HTTP interface and the WebSocket: in the configuration,
and for a page, with the sources in its Content-Security-Policy.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from imserver.plugin.settings import Config, Locations

_HOST: Final = re.compile(
    r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
"""A host as it may stand in an address and in a policy: a name or an IP
address, and a port."""
_CONFIGURED: Final = re.compile(
    r"(?:(?P<scheme>https?|wss?)://)?(?P<host>[^/\s]+)(?P<path>(?:/[\w.~%-]+)*)/?",
    re.ASCII | re.IGNORECASE,
)
_WEBSOCKET_PATH: Final = "/acc"
_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Configured(Struct, frozen=True):
    """A parsed address from the configuration; ``scheme`` is ``""`` if it has
    none."""

    scheme: str
    host: str
    path: str


def parse_configured(value: str) -> Configured | None:
    """Parse ``host:port``, with or without scheme and path; None if ``value``
    is not an address."""
    match = _CONFIGURED.fullmatch(value)
    if match is None or not is_host(match["host"]):
        return None
    return Configured((match["scheme"] or "").lower(), match["host"], match["path"])


def check(config: Config, locations: Locations) -> None:
    """Raise ConfigError if an address in the configuration is invalid."""
    app = config.app
    url = config.server.public_ws_url
    for setting, value in (
        ("app.websocket_url", app.websocket_url),
        ("app.http_url", app.http_url),
    ):
        if value and parse_configured(value) is None:
            raise locations.wrong(
                setting,
                f"expected an address such as im.example.com:8089, got {value!r}",
            )
    if url and not websocket_address(url):
        raise locations.wrong(
            "server.public_ws_url",
            f"expected an address such as wss://im1.example.com/acc, got {url!r}",
        )


def websocket_address(value: str) -> str:
    """A full WebSocket address; ``""`` if it is invalid. The default scheme is
    ``ws``, the default path that of the cmd dialect."""
    address = parse_configured(value)
    if address is None:
        return ""
    scheme = _WEBSOCKET_SCHEMES[address.scheme or "ws"]
    return f"{scheme}://{address.host}{address.path or _WEBSOCKET_PATH}"


def is_host(text: str) -> bool:
    """Whether a text is a host with an optional port. It is safe to put such a
    text in a header."""
    return _HOST.fullmatch(text) is not None


class Addresses(Struct, frozen=True):
    """The addresses for one page.

    ``websocket`` and ``http`` are full addresses or begin with ``//``: then the
    page's own protocol is used. ``http`` is ``""`` for the page's own origin.
    ``seen_host`` is the Host from which ``websocket`` was made, ``""`` if it
    comes from the configuration. A page with another host (a proxy hid the
    port) uses its own host. ``sources`` are for the policy's connect-src.
    """

    websocket: str
    http: str
    seen_host: str
    sources: tuple[str, ...]


def resolve(
    host: str,
    ports: tuple[int, int],
    websocket: Configured | None = None,
    http: Configured | None = None,
) -> Addresses:
    """The addresses for a page requested under ``host`` (a valid Host header).
    ``ports``: those of the HTTP and of the WebSocket listener.

    Without a configured address the WebSocket is on the request's host: on the
    WebSocket listener's port if the page came from the HTTP listener's port,
    else on the same port (a proxy serves both). It has the path of ``http``.
    """
    seen_host = ""
    if websocket is None:
        seen_host = host
        path = "" if http is None else http.path
        seen = _HOST.fullmatch(host)
        assert seen is not None, "callers check with is_host"
        http_port, websocket_port = ports
        # Below a path there is a proxy, whatever its port.
        if not path and seen["port"] == str(http_port):
            host = f"{seen['host']}:{websocket_port}"
        websocket = Configured("", host, path)
    path = websocket.path.removesuffix(_WEBSOCKET_PATH) + _WEBSOCKET_PATH
    scheme = _WEBSOCKET_SCHEMES.get(websocket.scheme, "")
    sources = ["'self'", *_sources(scheme, ("ws", "wss"), websocket.host)]
    base = ""
    if http is not None:
        http_scheme = {
            "ws": "http",
            "wss": "https",
            "http": "http",
            "https": "https",
        }.get(http.scheme, "")
        base = f"{_prefix(http_scheme)}{http.host}{http.path}"
        sources += _sources(http_scheme, ("http", "https"), http.host)
    return Addresses(
        f"{_prefix(scheme)}{websocket.host}{path}", base, seen_host, tuple(sources)
    )


def _prefix(scheme: str) -> str:
    return f"{scheme}://" if scheme else "//"


def _sources(scheme: str, either: tuple[str, str], host: str) -> Iterable[str]:
    """Policy sources. The grammar of CSP has no IPv6 addresses, so for those
    only the scheme is listed."""
    schemes = (scheme,) if scheme else either
    return (
        f"{each}:" if host.startswith("[") else f"{each}://{host}" for each in schemes
    )
