"""Origins: whose pages may open a WebSocket here (RFC 6455, section 10.2)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from imserver.protocol.registry import BY_NAME
from imserver.transport.proxies import TrustedProxies

OPAQUE: Final = "null"
"""The name of an origin that has none: of a file, of a sandbox, of what is no origin at all."""
_LONGEST_NAME: Final = 253


def host_name(value: str) -> str:
    """The host name in a Host header or an origin, without port, in lower case."""
    try:
        return (urlsplit(value if "//" in value else f"//{value}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Origins:
    """The node's own policy, and which origins some app allows besides. Owner of both."""

    def __init__(self, proxies: TrustedProxies, any_origin: bool, origins: Collection[str]) -> None:
        self._proxies = proxies
        self._apps_any = False
        self._apps: frozenset[str] = frozenset()
        self.set_policy(any_origin, origins)

    def set_policy(self, any_origin: bool, origins: Collection[str]) -> None:
        """The node's own policy from now on: everybody's pages, or those of these hosts too."""
        self._any = any_origin
        self._own = frozenset(host_name(origin) for origin in origins)

    def set_apps(self, origins: Collection[str], any_origin: bool) -> None:
        """What some app allows: with the others, its own login says no."""
        self._apps = frozenset(origins)
        self._apps_any = any_origin

    def stranger(self, host: str, headers: Mapping[str, str]) -> str:
        """The host of the page that a request comes from; ``""`` if it is this server's own, or no page.

        ``host`` is the address that the request came from: a trusted proxy's word counts.
        """
        origin = headers.get("origin")
        if origin is None:
            return ""
        name = host_name(origin)
        if name and name == host_name(headers.get("host", "")):
            return ""
        forwarded = headers.get("x-forwarded-host", "") if self._proxies.trusts(host) else ""
        if name and forwarded and name == host_name(forwarded.split(",")[0].strip()):
            return ""
        # Interned: the connections of one page share the name.
        return sys.intern(name) if 0 < len(name) <= _LONGEST_NAME else OPAQUE

    def allows(self, origin: str, dialect: str) -> bool:
        """Whether pages of the host ``origin`` may connect, where no app has a say."""
        spoken = BY_NAME.get(dialect)
        return not origin or self._any or origin in self._own or (spoken is not None and spoken.any_origin)

    def passes(self, origin: str, any_origin: bool) -> bool:
        """Whether a handshake from there is worth while: the node or an app allows it.

        ``any_origin`` says that of the dialect.
        """
        return (
            any_origin
            or not origin
            or self._any
            or self._apps_any
            or origin in self._own
            or origin in self._apps
        )
