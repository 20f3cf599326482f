"""The addresses of the HTTP interface and the WebSocket: in the configuration,
and for a page, with the sources in its Content-Security-Policy.
"""

import re
from typing import Final

from msgspec import Struct

from imserver.plugin.settings import Config, Locations

_HOST: Final = re.compile(
    r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
"""Matches a host in an address or in a policy: a name or an IP address, and a
port."""
_CONFIGURED: Final = re.compile(
    r"(?:(?P<scheme>https?|wss?)://)?(?P<host>[^/\s]+)(?P<path>(?:/[\w.~%-]+)*)/?",
    re.ASCII | re.IGNORECASE,
)
_WEBSOCKET_PATH: Final = "/acc"
_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_HTTP_SCHEMES: Final = {
    "ws": "http",
    "wss": "https",
    "http": "http",
    "https": "https",
}


class Configured(Struct, frozen=True):
    """A parsed address from the configuration.

    Without a scheme, ``scheme`` is ``""``.
    """

    scheme: str
    host: str
    path: str


def parse_configured(value: str) -> Configured | None:
    """Parse ``host:port``, with or without a scheme and a path.

    ``wss://im.example.com/acc`` gives ``wss``, ``im.example.com`` and ``/acc``.
    Returns None if ``value`` is not an address.
    """
    match = _CONFIGURED.fullmatch(value)
    if match is None or not is_host(match["host"]):
        return None
    scheme = (match["scheme"] or "").lower()
    return Configured(scheme, match["host"], match["path"])


def check(config: Config, locations: Locations) -> None:
    """Check the addresses in the configuration. Raises ConfigError."""
    app = config.app
    url = config.server.public_ws_url
    addresses = (
        ("app.websocket_url", app.websocket_url),
        ("app.http_url", app.http_url),
    )
    for setting, value in addresses:
        if value and parse_configured(value) is None:
            raise locations.wrong(
                setting,
                f"expected an address such as im.example.com:8089, got {value!r}",
            )

    # Clients get this address from /gateway, so it must be complete.
    if url and not websocket_address(url):
        raise locations.wrong(
            "server.public_ws_url",
            f"expected an address such as wss://im1.example.com/acc, got {url!r}",
        )


def websocket_address(value: str) -> str:
    """Complete a WebSocket address.

    ``im.example.com`` becomes ``ws://im.example.com/acc``, with the default
    scheme and the path of the cmd dialect. Returns ``""`` if the address is
    invalid.
    """
    address = parse_configured(value)
    if address is None:
        return ""
    scheme = _WEBSOCKET_SCHEMES[address.scheme or "ws"]
    return f"{scheme}://{address.host}{address.path or _WEBSOCKET_PATH}"


def is_host(text: str) -> bool:
    """Whether a text is a host with an optional port.

    It is safe to put such a text in a header.
    """
    return _HOST.fullmatch(text) is not None


class Addresses(Struct, frozen=True):
    """The addresses of this server for one page.

    ``websocket`` and ``http`` are full addresses, or begin with ``//``, which
    means the page's own protocol. ``http`` is ``""`` for the page's own origin.
    ``seen_host`` is the header Host from which ``websocket`` was made (``""``:
    it comes from the configuration). If the page has another host in the
    browser, because a proxy has hidden the port, the page uses that host.
    ``sources``: for ``connect-src`` of the Content-Security-Policy.
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
    """Find the addresses of this server for a page.

    ``host``: the valid Host header of the request. ``ports``: the port of the
    HTTP listener and the port of the WebSocket listener. ``websocket`` and
    ``http``: the configured addresses (None: not configured).

    Without a configured address, the WebSocket is on the host of the request,
    with the path of ``http``. If the page came from the port of the HTTP
    listener, the WebSocket is on the port of the WebSocket listener. Otherwise
    it is on the port of the page, because a proxy serves both.
    """
    seen_host = ""
    if websocket is None:
        seen_host = host
        http_path = "" if http is None else http.path
        websocket = _websocket_beside(host, ports, http_path)
    websocket_url, websocket_sources = _of_websocket(websocket)
    http_url = ""
    http_sources: list[str] = []
    if http is not None:
        http_url, http_sources = _of_http(http)
    return Addresses(
        websocket=websocket_url,
        http=http_url,
        seen_host=seen_host,
        sources=("'self'", *websocket_sources, *http_sources),
    )


def _of_websocket(configured: Configured) -> tuple[str, list[str]]:
    """Return the URL of the WebSocket, and the sources of the policy for it.

    An operator may have configured the address with or without the path.
    """
    path = configured.path.removesuffix(_WEBSOCKET_PATH) + _WEBSOCKET_PATH
    scheme = _WEBSOCKET_SCHEMES.get(configured.scheme, "")
    url = f"{_prefix(scheme)}{configured.host}{path}"
    return url, _sources(scheme, ("ws", "wss"), configured.host)


def _of_http(configured: Configured) -> tuple[str, list[str]]:
    """Return the URL of the HTTP API, and the sources of the policy for it."""
    scheme = _HTTP_SCHEMES.get(configured.scheme, "")
    url = f"{_prefix(scheme)}{configured.host}{configured.path}"
    return url, _sources(scheme, ("http", "https"), configured.host)


def _websocket_beside(host: str, ports: tuple[int, int], path: str) -> Configured:
    """Find the WebSocket of the server whose pages are at this host and path.

    ``ports``: the port of the HTTP listener and the port of the WebSocket
    listener.
    """
    match = _HOST.fullmatch(host)
    assert match is not None, "callers check with is_host"
    http_port, websocket_port = ports
    # A path means that a proxy serves the pages, even if it has the port of the
    # listener.
    if not path and match["port"] == str(http_port):
        host = f"{match['host']}:{websocket_port}"
    return Configured("", host, path)


def _prefix(scheme: str) -> str:
    """Return the beginning of an address; ``//`` without a scheme."""
    return f"{scheme}://" if scheme else "//"


def _sources(scheme: str, both: tuple[str, str], host: str) -> list[str]:
    """Return the sources of a Content-Security-Policy for a host.

    They have its scheme, or ``both`` schemes if the scheme is ``""``.
    """
    schemes = (scheme,) if scheme else both
    if host.startswith("["):
        # The grammar of CSP has no IPv6 addresses: only schemes are listed.
        return [f"{name}:" for name in schemes]
    return [f"{name}://{host}" for name in schemes]
