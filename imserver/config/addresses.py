"""The addresses in the configuration under which clients reach this server."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from imserver.config.settings import Config
from imserver.config.values import ConfigError

#: a host as it may stand in an address and in a policy: a name or an IP address, and a port
HOST: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
_CONFIGURED: Final = re.compile(
    r"(?:(?P<scheme>https?|wss?)://)?(?P<host>[^/\s]+)(?P<path>(?:/[\w.~%-]+)*)/?", re.ASCII | re.IGNORECASE
)
WEBSOCKET_PATH: Final = "/acc"
WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Configured(Struct, frozen=True):
    """A parsed address from the configuration; ``scheme`` is ``""`` if it has none."""

    scheme: str
    host: str
    path: str


def parse_configured(setting: str, value: str) -> Configured | None:
    """Parse ``host:port``, with or without scheme and path; None if ``value`` is empty.

    Raises :class:`ConfigError` naming ``setting`` if it is not an address.
    """
    if not value:
        return None
    found = _CONFIGURED.fullmatch(value)
    if found is None or not is_host(found["host"]):
        raise ConfigError(f"{setting}: expected an address such as im.example.com:8089, got {value!r}")
    return Configured((found["scheme"] or "").lower(), found["host"], found["path"])


def check(config: Config) -> None:
    """Raise :class:`ConfigError` if an address in the configuration is invalid."""
    parse_configured("app.websocket_url", config.app.websocket_url)
    parse_configured("app.http_url", config.app.http_url)
    url = config.server.public_ws_url
    if url and not websocket_address(url):
        raise ConfigError(
            f"server.public_ws_url: expected an address such as wss://im1.example.com/acc, got {url!r}"
        )


def websocket_address(value: str) -> str:
    """``value`` (as in ``server.public_ws_url``) as a full WebSocket address; ``""`` if it is invalid.

    The default scheme is ``ws``, the default path that of the cmd dialect.
    """
    found = _CONFIGURED.fullmatch(value)
    if found is None or not is_host(found["host"]):
        return ""
    scheme = WEBSOCKET_SCHEMES[(found["scheme"] or "ws").lower()]
    return f"{scheme}://{found['host']}{found['path'] or WEBSOCKET_PATH}"


def is_host(text: str) -> bool:
    """Whether a text is a host with an optional port. It is safe to put such a text in a header."""
    return HOST.fullmatch(text) is not None
