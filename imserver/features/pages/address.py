"""The addresses of the HTTP interface and the WebSocket for a page, and the sources in its
Content-Security-Policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from imserver.plugin.settings import HOST, WEBSOCKET_PATH, WEBSOCKET_SCHEMES, Configured

_HTTP_SCHEMES: Final = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


class Addresses(Struct, frozen=True):
    """The addresses for one page.

    ``websocket`` and ``http`` are full addresses or begin with ``//``: then the page's own protocol is used.
    ``http`` is ``""`` for the page's own origin. ``seen_host`` is the Host from which ``websocket`` was made,
    ``""`` if it comes from the configuration. A page with another host (a proxy hid the port) uses its own
    host. ``sources`` are for the policy's connect-src.
    """

    websocket: str
    http: str
    seen_host: str
    sources: tuple[str, ...]


class Ports(Struct, frozen=True):
    """The ports of the listeners."""

    http: int
    websocket: int


def resolve(
    host: str, ports: Ports, websocket: Configured | None = None, http: Configured | None = None
) -> Addresses:
    """The addresses for a page requested under ``host`` (a valid Host header).

    Without a configured address the WebSocket is on the request's host: on the WebSocket listener's port if
    the page came from the HTTP listener's port, else on the same port (a proxy serves both).
    """
    seen_host = ""
    if websocket is None:
        seen_host = host
        websocket = Configured("", _websocket_host(host, ports), "")
    path = websocket.path.removesuffix(WEBSOCKET_PATH) + WEBSOCKET_PATH
    scheme = WEBSOCKET_SCHEMES.get(websocket.scheme, "")
    sources = ["'self'", *_sources(scheme, ("ws", "wss"), websocket.host)]
    base = ""
    if http is not None:
        http_scheme = _HTTP_SCHEMES.get(http.scheme, "")
        base = f"{_prefix(http_scheme)}{http.host}{http.path}"
        sources += _sources(http_scheme, ("http", "https"), http.host)
    return Addresses(f"{_prefix(scheme)}{websocket.host}{path}", base, seen_host, tuple(sources))


def _websocket_host(host: str, ports: Ports) -> str:
    name, port = _split(host)
    return f"{name}:{ports.websocket}" if port == str(ports.http) else host


def _split(host: str) -> tuple[str, str]:
    found = HOST.fullmatch(host)
    assert found is not None, "callers check with is_host"
    return found["host"], found["port"] or ""


def _prefix(scheme: str) -> str:
    return f"{scheme}://" if scheme else "//"


def _sources(scheme: str, either: tuple[str, str], host: str) -> Iterable[str]:
    """Policy sources. The grammar of CSP has no IPv6 addresses, so for those only the scheme is listed."""
    schemes = (scheme,) if scheme else either
    return (f"{each}:" if host.startswith("[") else f"{each}://{host}" for each in schemes)
