"""Origins and hosts: whose pages may use this server (RFC 6455 section 10.2, RFC 6454)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from imserver.errors import HTTP_HOST_REFUSED, HTTP_ORIGIN_REFUSED, HttpProblem
from imserver.protocol.registry import BY_NAME
from imserver.transport.proxies import FORWARDING_HEADERS, TrustedProxies, is_address, is_loopback

log = logging.getLogger(__name__)

OPAQUE: Final = "null"
"""The name of an origin that has none: of a file, of a sandbox, of what is no origin at all."""
_LONGEST_NAME: Final = 253
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
_LOG_SECONDS: Final = 60.0
"""Least time between two warnings about refused requests."""

_FORWARDING: Final = frozenset(FORWARDING_HEADERS)


def _is_public(path: str, headers: Mapping[str, str]) -> bool:
    return path.startswith("/sdk/") and path.endswith(".js") and "upgrade" not in headers


def host_name(value: str) -> str:
    """The host name in a Host header or an origin, without port, in lower case."""
    try:
        return (urlsplit(value if "//" in value else f"//{value}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Origins:
    """The node's own policy, and the origins that some app allows. Owner of both."""

    def __init__(self, proxies: TrustedProxies, any_origin: bool, origins: Collection[str]) -> None:
        self._proxies = proxies
        self._apps_any = False
        self._apps: frozenset[str] = frozenset()
        self._warned = False
        self._warn_at = 0.0
        self.set_policy(any_origin, origins)

    def set_policy(
        self, any_origin: bool, origins: Collection[str], demo: bool = False, hosts: Collection[str] = ()
    ) -> None:
        """Set the node's own policy.

        Args:
            any_origin: pages of all hosts may connect.
            origins: hosts whose pages may connect.
            demo: no API key exists; the servers have to ask :meth:`objection` about every request then.
            hosts: other names and addresses of this server. A wildcard address stands for all addresses.
        """
        self._any = any_origin
        self._own = frozenset(host_name(origin) for origin in origins)
        self.demo = demo
        self._hosts = self._own.union(map(host_name, hosts), ("localhost",)) - {""}
        self._any_address = not _WILDCARDS.isdisjoint(self._hosts)
        self._good_host: str | None = None
        self._good_origin: str | None = None

    def set_apps(self, origins: Collection[str], any_origin: bool) -> None:
        """Set the origins that some app allows. The login to another app still refuses them."""
        self._apps = frozenset(origins)
        self._apps_any = any_origin
        self._good_origin = None

    # --- demo mode ------------------------------------------------------------------------------------------

    def objection(self, headers: Mapping[str, str], path: str) -> HttpProblem | None:
        """Why demo mode refuses a request for ``path`` with these headers; None if it does not.

        Without API keys, any website could use a server on loopback through the browser of its visitor: by
        requests that need no permission, by WebSockets, or by a name that it has resolved to 127.0.0.1 (DNS
        rebinding). The headers of a proxy are not believed, for a page after rebinding can send them too.
        Ask while :attr:`demo`, before anything else is done with a request. Names are in lower case. Pages of
        every origin may import the SDK: its files are public.
        """
        host = headers.get("host", "")
        if host != self._good_host:
            if host and not self._is_own(host_name(host), self._any_address):
                return self._refused(HTTP_HOST_REFUSED, "for the host", host)
            self._good_host = host
        origin = headers.get("origin")
        if origin is not None and origin != self._good_origin and not _is_public(path, headers):
            name = host_name(origin)
            if not (self._any or self._apps_any or name in self._apps or self._is_own(name)):
                if not (self._any_address and name and name == host_name(host)):
                    return self._refused(HTTP_ORIGIN_REFUSED, "from a page of", origin)
            else:
                self._good_origin = origin
        if not self._warned and not _FORWARDING.isdisjoint(headers):
            self._warned = True
            log.warning(
                "DEMO MODE IS OPEN TO OTHERS: a request came through a proxy, and no API key exists, so "
                "anybody who can reach the proxy may log in as anyone and push to everyone. To close it, "
                "make a key: imserver key create --scope admin"
            )
        return None

    def _is_own(self, name: str, any_address: bool = False) -> bool:
        return name in self._hosts or is_loopback(name) or (any_address and is_address(name))

    def _refused(self, problem: HttpProblem, how: str, value: str) -> HttpProblem:
        now = monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _LOG_SECONDS
            log.warning(
                "demo mode: refused a request %s %r. To allow it, list the host in server.origins or make an "
                "API key (imserver key create)",
                how,
                value[:100],
            )
        return problem

    # --- logins ---------------------------------------------------------------------------------------------

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
        if self.demo and self._is_own(name):
            return ""
        forwarded = headers.get("x-forwarded-host", "") if self._proxies.trusts(host) else ""
        if name and forwarded and name == host_name(forwarded.split(",")[0].strip()):
            return ""
        # Interned: the connections of one page share the name.
        return sys.intern(name) if 0 < len(name) <= _LONGEST_NAME else OPAQUE

    def allows(self, origin: str, dialect: str) -> bool:
        """Whether pages of the host ``origin`` may connect, where no app has a say."""
        if not origin or self._any or origin in self._own:
            return True
        spoken = BY_NAME.get(dialect)
        return not self.demo and spoken is not None and spoken.any_origin

    def lists(self, origin: str) -> bool:
        """Whether the node's settings name pages of the host ``origin``."""
        return origin in self._own

    def passes(self, origin: str, any_origin: bool) -> bool:
        """Whether a handshake from there is worth while: the node or an app allows it.

        ``any_origin`` says that of the dialect.
        """
        return (
            (any_origin and not self.demo)
            or not origin
            or self._any
            or self._apps_any
            or origin in self._own
            or origin in self._apps
        )
