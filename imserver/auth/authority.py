"""Identification: from the headers of a request to a principal. All kinds of requests use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from imserver.auth.account_tokens import AccountTokens
from imserver.auth.keys import Keys
from imserver.auth.login import Logins
from imserver.auth.page_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.auth.principal import BAD_TOKEN, DEMO, NOBODY, Need, Principal
from imserver.auth.tenants import Tenant
from imserver.auth.tokens import BadToken
from imserver.errors import HTTP_FORBIDDEN, HTTP_TOKEN_INVALID, HTTP_UNAUTHORIZED, HttpProblem
from imserver.transport.proxies import address_of

_BY_ADDRESS: Final = frozenset({"push", "read"})
_TOKENS: Final = frozenset({"account", "session"})


class Authority:
    """Says who makes a request. Stateless but for its parts; ``allowed`` are the address lists."""

    def __init__(
        self, keys: Keys, pages: PageTokens, logins: Logins, accounts: AccountTokens, allowed: AllowLists
    ) -> None:
        self._keys = keys
        self._pages = pages
        self._logins = logins
        self._accounts = accounts
        self._allowed = allowed

    def identify(self, need: Need, headers: Mapping[str, str], host: str, token: str = "") -> Principal:
        """Who makes a request, as far as what it needs can be proved that way.

        ``host`` is the address that it comes from. ``token``: a token that does not stand in the header
        ``authorization``. May switch where ``need`` takes tokens of accounts; raises StorageUnavailable then.
        """
        demo = self._keys.demo
        if demo and need.scope and not need.reads_accounts:
            return DEMO
        authorization = headers.get("authorization", "")
        credential = bearer(authorization)
        if credential and need.scope and not demo:
            key = self._keys.find(credential)
            if key is not None:
                return key
        if need.users and (token or credential):
            shown = self._user(need, token or credential)
            if shown is not None and not (demo and shown is BAD_TOKEN and "session" in need.users):
                return shown
        elif need.address and not authorization and not demo:
            return self._by_address(headers, host)
        return DEMO if demo and need.scope else NOBODY

    def lists_address(self, host: str) -> bool:
        """Whether some app takes requests of back ends from this address without a key."""
        return bool(self._allowed.apps_of(host))

    def _user(self, need: Need, credential: str) -> Principal | None:
        """The user whose token this is; None: it looks like no token that counts here."""
        if "page" in need.users and credential.startswith(PAGE_TOKEN_PREFIX):
            named = self._pages.read(credential)
            if named is None or not self._logins.is_open(named[0]):
                return None
            return Principal("page", apps=frozenset({self._logins.resolve(named[0])}), user=named[1])
        if need.users.isdisjoint(_TOKENS):
            return None
        if not is_token(credential):
            # Where both kinds of tokens count, and perhaps a key, it is not known what this was meant to be.
            return BAD_TOKEN if need.users >= _TOKENS else None
        if "account" in need.users:
            try:
                found = self._accounts.holder(credential)
            except BadToken:
                pass
            else:
                app = self._logins.resolve(found.account.app)
                return Principal(
                    "account", apps=frozenset({app}), user=found.account.user, device=found.device_id
                )
        if "session" in need.users:
            claims = self._logins.session_of(credential)
            if claims is not None:
                return Principal("session", apps=frozenset({claims.app}), user=claims.user)
        return BAD_TOKEN

    def _by_address(self, headers: Mapping[str, str], host: str) -> Principal:
        """A back end that is known by its address. What a browser sends is none, unless the app, or the
        server, lists the page."""
        apps = self._allowed.apps_of(host)
        if apps and from_browser(headers):
            apps = frozenset(app for app in apps if self._logins.lists_origin(app, headers.get("origin", "")))
        return (
            Principal("address", _BY_ADDRESS, frozenset(map(self._logins.resolve, apps))) if apps else NOBODY
        )


def refusal(principal: Principal) -> HttpProblem:
    """Why a principal is refused who may not do what a route needs."""
    if principal is BAD_TOKEN:
        return HTTP_TOKEN_INVALID
    return HTTP_FORBIDDEN if principal.key else HTTP_UNAUTHORIZED


def bearer(authorization: str) -> str:
    """The key or token in an Authorization header; ``""``: there is none."""
    kind = authorization[:7]
    return authorization[7:].strip() if kind == "Bearer " or kind.lower() == "bearer " else ""


def is_token(credential: str) -> bool:
    """Whether it looks like a JSON Web Token, which no key does."""
    return credential.startswith("eyJ") and credential.count(".") == 2


def from_browser(headers: Mapping[str, str]) -> bool:
    """Whether a browser has sent the request on behalf of a page."""
    return "origin" in headers or any(name.startswith("sec-fetch-") for name in headers)


_Networks = tuple[IPv4Network | IPv6Network, ...]


class AllowLists:
    """Owner of the networks of the apps that have any. Nothing here switches.

    ``apps_of(host)`` are the apps whose list has the address ``host``.
    """

    def __init__(self) -> None:
        self._networks: dict[str, _Networks] = {}
        self.apps_of = lru_cache(1024)(self._apps_of)

    def learn(self, tenants: Iterable[Tenant]) -> None:
        """Take the lists of these apps in place of all that were known."""
        self._networks = {}
        for tenant in tenants:
            self.changed(tenant)
        self.apps_of.cache_clear()

    def changed(self, tenant: Tenant) -> None:
        """An app is new, or not what it was."""
        if tenant.api_allow_from:
            networks = tuple(ip_network(each, strict=False) for each in tenant.api_allow_from)
            if self._networks.get(tenant.name) != networks:
                self._networks[tenant.name] = networks
                self.apps_of.cache_clear()
        elif self._networks.pop(tenant.name, None) is not None:
            self.apps_of.cache_clear()

    def _apps_of(self, host: str) -> frozenset[str]:
        if not self._networks:
            return frozenset()
        try:
            address = address_of(host)
        except ValueError:
            return frozenset()
        return frozenset(
            app for app, networks in self._networks.items() if any(address in network for network in networks)
        )
