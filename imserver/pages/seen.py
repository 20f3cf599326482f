"""Where the caller of a request sees this server, which proxies may stand in front of."""

from typing import Protocol

from flask import abort, request

from imserver.config import Config
from imserver.errors import HTTP_BAD_REQUEST
from imserver.pages.address import Addresses, Ports, is_host, parse_configured, resolve
from imserver.transport.proxies import TrustedProxies


class Listening(Protocol):
    """A node: its settings and real ports."""

    @property
    def config(self) -> Config: ...
    @property
    def http_port(self) -> int: ...
    @property
    def ws_port(self) -> int: ...


class Seen:
    """Answers for the request under way. Stateless.

    Raises :class:`imserver.config.ConfigError` when ``app.http_url`` or ``app.websocket_url`` is no address.
    """

    def __init__(self, node: Listening) -> None:
        self._node = node
        app = node.config.app
        self._websocket = parse_configured("app.websocket_url", app.websocket_url)
        self._http = parse_configured("app.http_url", app.http_url)
        self._proxies = TrustedProxies(node.config.server.trusted_proxies)

    def addresses(self) -> Addresses:
        """What a page of this server needs to reach it."""
        host = self._forwarded("Host") or request.headers.get("Host", "")
        if not is_host(host):
            abort(HTTP_BAD_REQUEST.status)
        return resolve(host, Ports(self._node.http_port, self._node.ws_port), self._websocket, self._http)

    def http(self) -> str:
        """The address of the HTTP interface, without a path."""
        configured = self.addresses().http
        if configured and not configured.startswith("//"):
            return configured
        scheme = "https" if self._scheme() in ("https", "wss") else "http"
        host = self._forwarded("Host") or request.headers.get("Host", "")
        return f"{scheme}:{configured or f'//{host}'}"

    def websocket(self) -> str:
        """The full address of the WebSocket."""
        address = self.addresses().websocket
        if address.startswith("//"):
            address = f"{'wss' if self._scheme() in ('https', 'wss') else 'ws'}:{address}"
        return address

    def _scheme(self) -> str:
        return (self._forwarded("Proto") or request.scheme).lower()

    def _forwarded(self, name: str) -> str:
        """What a trusted proxy says of the request that it forwards."""
        if not self._proxies.trusts(request.remote_addr or ""):
            return ""
        return request.headers.get(f"X-Forwarded-{name}", "").split(",")[0].strip()
