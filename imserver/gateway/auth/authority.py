"""Identification: turns the headers of a request into a principal, for all
kinds of requests.

A back end sends ``Authorization: Bearer <key>``. Keys are configured
(``api.keys``) or made at run time and stored (``imserver key create``). Memory
holds only their SHA-256 digests. A key is found by its digest, so the cost does
not grow with the number of keys and the lookup time reveals nothing about a
key. The node still knows a key that has expired. So the node can name the
reason when it refuses such a key, and logs the request under the name of the
key.

Without any key the node is in demo mode: every local program may do everything,
and the transport refuses foreign hosts and origins. A stored key ends demo mode
permanently. Otherwise, revoking the last key would open the server to
everybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from time import time
from typing import Final

from msgspec import Struct, field

from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.login_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.gateway.auth.principal import (
    BAD_TOKEN,
    DEMO,
    NOBODY,
    RIGHTS,
    SCOPES,
    Kind,
    Need,
    Principal,
)
from imserver.gateway.auth.questions import (
    BOT_TOKEN_PREFIX,
    AccountLookup,
    AccountSession,
)
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.config.settings import Config, KeySettings
from imserver.gateway.errors import CloseCode, HttpProblem, Problems, StorageUnavailable
from imserver.gateway.model import Service
from imserver.gateway.storage.contract import Changes, KeyRow
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.proxies import address_of

_BY_ADDRESS: Final = frozenset({"push", "read", "metrics"})
_TOKENS: Final[dict[Kind, str]] = {
    "account": "the token of an account",
    "guest": "the token of a guest",
    "bot": "the token of a bot",
    "session": "a session token",
}
"""Kinds of users with a token of their own → that token."""
TOKEN_HOLDERS: Final = frozenset({"account", "guest", "bot"})
"""Kinds of users whose tokens are checked in demo mode, too."""

Resolve = Callable[[str], str]
KeyUse = tuple[str, str, str, str]
"""Four texts: the id of a key, a route, an app and the address of a client.

The route is its method and the pattern of its path. The app is ``""`` if the
request names no app.
"""

CONFIGURED: Final = "config:"
"""The prefix of ids of keys in the settings."""
MAX_USES: Final = 1000
"""Limit of the rows about the use of keys in the memory of a node."""
OTHER_USES: Final = "other"
"""The route under which requests are counted when there are :data:`MAX_USES`
rows already."""
_MAX_APP_CHARACTERS: Final = 255
"""Longer names of apps are not counted: a client may name any text."""
_KEY_ID_DIGITS: Final = 8
"""The id of a configured key has this many digits of the digest of the key."""
_BEARER: Final = "Bearer "
_BEARER_LENGTH: Final = len(_BEARER)
_ADDRESSES_CACHED: Final = 1024

_MAKER: Final = "The account that made the API key is locked or banned"
"""The text that explains the refusal of a key if its maker is banned."""


class _Key(Struct, frozen=True):
    """A key as configured or stored. Its apps may be aliases."""

    id: str
    scopes: tuple[str, ...]
    apps: tuple[str, ...]
    expires: int = 0
    """Unix seconds; 0: never."""
    maker: tuple[str, str] | None = None
    """The app and the user who made it; None means that no account has made the
    key."""

    def principal(self, resolve: Resolve, now: float) -> Principal:
        """Return the principal of a request with this key at the Unix second
        ``now``.

        A principal is what a request has proved about its maker. If the key has
        expired, the principal has no scopes, so that every route refuses it.
        ``resolve`` replaces aliases by the names of their apps.
        """
        if 0 < self.expires <= now:
            return Principal("key", key=self.id)

        scopes = set[str]()
        for name in self.scopes:
            scopes.update(SCOPES.get(name, ()))
        # A key without apps is valid for all apps, which None means.
        apps = frozenset(map(resolve, self.apps)) or None
        return Principal("key", frozenset(scopes), apps, key=self.id)


class KeyUses(Service):
    """Counts how often each API key is used.

    A row counts the requests with one key, for one route and app, from one
    address. Answered requests and refused requests are counted separately. The
    rows are bounded: beyond :data:`MAX_USES` rows a request counts for its key
    alone.

    Counting begins with the first :meth:`take`, which sets ``wanted``. Never
    switches greenlets.
    """

    wanted: bool = False
    _numbers: dict[KeyUse, list[int]] = field(default_factory=dict)

    def add(self, use: KeyUse, refused: bool, number: int = 1) -> None:
        """Count ``number`` requests of one kind, if somebody collects the
        counts.

        ``use`` names the key, the route, the app and the address. ``refused``
        means that the requests were refused.
        """
        if not self.wanted:
            return
        try:
            # A row has two numbers. The index is False (0) for answered
            # requests, and True (1) for refused ones.
            self._numbers[use][refused] += number
        except KeyError:
            # The first request of this kind gets a row of its own. A client can
            # name any app, so neither long names nor many names may fill the
            # memory.
            key, route, app, address = use
            if len(app) > _MAX_APP_CHARACTERS:
                use = (key, route, "", address)
            if len(self._numbers) >= MAX_USES and use not in self._numbers:
                use = (key, OTHER_USES, "", "")
            self._numbers.setdefault(use, [0, 0])[refused] += number

    def take(self) -> dict[KeyUse, list[int]]:
        """Return the numbers of answered and refused requests, and reset
        them."""
        self.wanted = True
        numbers = self._numbers
        self._numbers = {}
        return numbers


def configured_key(row: KeySettings) -> KeyRow:
    """Return a key of the settings in the form of a row of the database.

    So keys from the settings and keys from the database are listed in the same
    form. The id of a configured key is made of :data:`CONFIGURED` and the first
    digits of its digest, for example ``config:1f0e8a2c``.
    """
    digest = hashlib.sha256(row.key.encode()).hexdigest()
    return KeyRow(
        id=f"{CONFIGURED}{digest[:_KEY_ID_DIGITS]}",
        digest=digest,
        scopes=row.scopes,
        apps=row.apps,
        expires=row.expires_at,
    )


class Keys:
    """Owns the API keys and the demo mode flag.

    A key comes from the settings or from the database. For each key, the
    principal of its requests is made in advance, so that a request costs one
    lookup. The node calls :meth:`reload` on SIGHUP, and :meth:`expire` once a
    second.

    Features read ``configured``, the keys of the settings, and ``uses``, the
    counts of requests with each key.
    """

    def __init__(
        self, config: Config, resolve: Resolve, clock: Callable[[], float] = time
    ) -> None:
        """Start with the keys of ``config``. The stored keys come later, with
        the first call of :meth:`learn`.

        ``resolve`` returns the app that an alias stands for, and any other name
        unchanged.
        """
        self._resolve = resolve
        self._clock = clock
        self.uses = KeyUses()
        self.configured: list[KeyRow] = []
        self._holders: dict[Connection, str] = {}
        """Connection → the id of the key with which it was opened."""
        self._next_end = inf
        """When the next key expires, in Unix seconds; infinity if no key
        expires."""
        self._configured: dict[bytes, _Key] = {}
        """Digest → the key of the settings."""
        self._stored: dict[bytes, _Key] = {}
        """Digest → the key of the database, unless it was revoked."""
        self._principals: dict[bytes, Principal] = {}
        """Digest of each key → the principal of its requests. An expired or
        refused key has a principal without scopes."""
        self._barred_keys = frozenset[str]()
        """Ids of keys that are refused now, because their makers are banned."""
        self.closed = False
        """True after a stored key, or the stored secret of an app, has ended
        demo mode."""
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Replace the configured keys by the keys in ``config``.

        Connections whose key is no longer configured are closed. Demo mode does
        not come back after a stored secret has ended it.
        """
        self.demo = config.demo and not self.closed
        self.configured = [configured_key(row) for row in config.api.keys]
        self._configured = {}
        for row in self.configured:
            digest = bytes.fromhex(row.digest)
            self._configured[digest] = _Key(
                id=row.id,
                scopes=row.scopes,
                apps=row.apps,
                expires=row.expires,
            )
        # Sets the principals, by which requests are identified.
        self._resolve_all()

    def learn(self, changes: Changes) -> bool:
        """Apply keys that were created or revoked in the database, on any node.

        Returns whether the change ended demo mode. A revoked key ends demo
        mode, too: otherwise the server would open to everybody when its last
        key is revoked.
        """
        if not changes.keys:
            return False
        for row in changes.keys:
            digest = bytes.fromhex(row.digest)
            if row.revoked:
                self._stored.pop(digest, None)
            else:
                self._stored[digest] = self._key_of_row(row)
        # A key may have been in use, so its connections are checked, too.
        self._resolve_all()
        return self.close()

    def _key_of_row(self, row: KeyRow) -> _Key:
        """Return the key that a row of the database describes.

        The maker of the key is the account that has made the key, as app and
        user. None means that no account has made it. If the row names an alias,
        the result names the app of the alias.
        """
        maker = None
        if row.maker:
            maker = (self._resolve(row.maker_app), str(row.maker))
        return _Key(
            id=row.id,
            scopes=row.scopes,
            apps=row.apps,
            expires=row.expires,
            maker=maker,
        )

    def changed(self, tenant: Tenant) -> None:
        """Apply a new or changed app, which may have become an alias, or may no
        longer be one."""
        self.deleted(tenant.name)

    def deleted(self, app: str) -> None:
        """Apply the deletion of an app, which may have been an alias."""
        if app in self._named_apps:
            self._resolve_all()

    def _resolve_all(self) -> None:
        """Make the principals of all keys anew, after keys or aliases have changed.

        Also finds when the next key expires, and closes the connections whose keys
        are no longer valid.
        """
        keys = {**self._stored, **self._configured}
        now = self._clock()
        self._named_apps = set[str]()
        """The apps and aliases that keys name."""
        self._principals = {}
        for digest, key in keys.items():
            self._named_apps.update(key.apps)
            self._principals[digest] = self._principal_of(key, now)
        self._next_end = _next_end_of(keys.values(), now)
        if self._holders:
            self._close_refused()

    def _principal_of(self, key: _Key, now: float) -> Principal:
        """Return the principal of the requests that have this key."""
        if key.id in self._barred_keys:
            # Without scopes, so every route refuses it, with this reason.
            return Principal("key", key=key.id, lacks=_MAKER)
        return key.principal(self._resolve, now)

    def _close_refused(self) -> None:
        """Close the connections of keys that are refused now."""
        valid_keys = {each.key for each in self._principals.values() if each.scopes}
        # A list, because a closed connection leaves the dictionary (ended()).
        refused = [each for each, key in self._holders.items() if key not in valid_keys]
        for connection in refused:
            connection.close(CloseCode.TOKEN_INVALID)

    def expire(self, is_banned: Callable[[str, str], bool]) -> None:
        """End the keys that have expired, and refuse keys of banned accounts.

        While an account is banned or locked, the keys that it has made are
        refused. ``is_banned(app, user)`` returns whether an account is banned
        or locked. Called once a second; never switches greenlets.
        """
        barred_keys = frozenset(
            key.id
            for key in self._stored.values()
            if key.maker and is_banned(*key.maker)
        )
        # The principals are made anew only if a ban has begun or ended, or if a
        # key has expired since the last call. In most seconds nothing is done.
        if barred_keys != self._barred_keys or self._clock() >= self._next_end:
            self._barred_keys = barred_keys
            self._resolve_all()

    def hold(self, key: str, connection: Connection) -> None:
        """Record that a connection was opened with the key of this id, so that
        it is closed when the key ends."""
        self._holders[connection] = key

    def ended(self, connection: Connection, _code: int) -> None:
        """Forget an ended connection (``ConnectionContext.ended``)."""
        # A connection that was opened without a key is not in the dictionary.
        self._holders.pop(connection, None)

    def is_valid(self, key: str) -> bool:
        """Whether the key with this id may still act. Never switches
        greenlets."""
        return any(
            each.key == key and each.scopes for each in self._principals.values()
        )

    def close(self) -> bool:
        """End demo mode permanently, because the database has a secret now.

        Returns whether the server was in demo mode until now.
        """
        self.closed = True
        was_demo = self.demo
        self.demo = False
        return was_demo

    def find(self, credential: str) -> Principal | None:
        """Return the principal of this key, or None if no such key exists.

        A key that has expired has a principal without scopes. ``credential`` is
        header text as WSGI passes it: bytes decoded as Latin-1.
        """
        if credential.isascii():
            key = credential.encode()
        else:
            key = credential.encode("latin-1", "replace")
        return self._principals.get(hashlib.sha256(key).digest())


class Authority(Service):
    """Identifies requests: turns their credentials into principals.

    A principal says what a request has proved about its maker. A need says what
    a route asks for. ``allowed`` has, for each app, the addresses whose back
    ends need no key. This class has no state of its own.
    """

    keys: Keys
    pages: PageTokens
    logins: Logins
    accounts: AccountLookup
    allowed: AllowLists

    def identify(
        self, need: Need, headers: Mapping[str, str], host: str, token: str = ""
    ) -> Principal:
        """Return the principal of a request: what it has proved about its
        maker.

        ``need`` is the requirement of the route. Only the kinds of proof that
        ``need`` accepts are read. A valid token of a user counts even if the
        route does not accept it, so that the refusal can say why. A request
        that proves nothing gets :data:`NOBODY`.

        ``host`` is the address of the client. ``token`` is a token that was
        sent outside the header ``authorization``; ``""`` if there is no such
        token. May switch greenlets. Raises StorageUnavailable and
        IssuerUnavailable if ``need`` accepts tokens of users.
        """
        if self.keys.demo:
            return self._identify_in_demo_mode(need, headers, token)
        authorization = headers.get("authorization", "")
        # Most requests have a key, so the code of bearer() is repeated here,
        # which saves a call.
        if authorization.startswith(_BEARER):
            credential = authorization[_BEARER_LENGTH:].strip()
        else:
            credential = bearer(authorization)

        if credential and need.scope:
            key = self.keys.find(credential)
            if key is not None:
                return key

        user_token = token or credential
        if need.users and user_token:
            user = self._user(need, user_token)
            if user is not None:
                return user
        elif need.address and not authorization:
            return self._by_address(headers, host)
        return NOBODY

    def _identify_in_demo_mode(
        self, need: Need, headers: Mapping[str, str], token: str
    ) -> Principal:
        """Return the principal of a request while the server is in demo mode.

        In demo mode anybody may do what a key may do. Tokens of accounts are
        still checked, because their requests act for one user. A bad token is
        ignored if the route accepts session tokens.
        """
        # The route takes no tokens of accounts or bots, so no token is read.
        if need.scope and need.users.isdisjoint(TOKEN_HOLDERS):
            return DEMO

        user_token = token or bearer(headers.get("authorization", ""))
        if need.users and user_token:
            user = self._user(need, user_token)
            is_ignored = user is BAD_TOKEN and "session" in need.users
            if user is not None and not is_ignored:
                return user
        if need.scope:
            return DEMO
        return NOBODY

    def proof(self, principal: Principal, headers: Mapping[str, str]) -> str:
        """Return a text by which :meth:`still_holds` can check a principal
        later.

        A webhook or a stream works on after its request. It keeps this proof,
        to learn whether the token or key is still valid. A proof is no token:
        nobody can log in with it. It has one of three forms:

        - ``account:`` and the proof of :class:`AccountLookup`,
        - ``session:`` and the Unix second at which the token ends,
        - the label of the principal, such as ``key:ID`` or ``demo``.

        May switch greenlets. Raises StorageUnavailable.
        """
        if principal.kind in TOKEN_HOLDERS:
            token = bearer(headers.get("authorization", ""))
            try:
                return f"account:{self.accounts.proof_of(token)}"
            except BadToken:  # the token has just ended
                return "account:"
        if principal.kind == "session":
            token = bearer(headers.get("authorization", ""))
            claims = self.logins.session_of(token)
            if claims is None:  # the token has just ended
                return "session:0"
            return f"session:{claims.expires_at}"
        return principal.label

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        """Whether the token or key of a proof is still valid.

        ``proof`` is a text of :meth:`proof`. A proof becomes invalid by a new
        password, a logout, a new token of a bot, or the end of a session token
        or key. May switch greenlets. Raises StorageUnavailable.
        """
        kind, _, value = proof.partition(":")
        if kind == "account":
            return self.accounts.still_holds(app, user, value)
        if kind == "session":
            expires_at = int(value)
            return time() < expires_at
        if kind == "key":
            return self.keys.is_valid(value)
        # Any other proof, such as that of an address, ends with its request.
        return kind == "demo" and self.keys.demo

    def with_programs(self, app: str, users: Sequence[str]) -> list[str]:
        """Return these users, followed by their bots.

        Bots are banned and muted with their owners. If the database does not
        answer, the result has the users alone, because a ban must not wait. May
        switch greenlets.
        """
        try:
            bots = self.accounts.programs_of(app, users)
        except StorageUnavailable:
            return list(users)
        return list(dict.fromkeys([*users, *bots]))

    def unlocked(self, app: str, users: Sequence[str]) -> list[str]:
        """Return these users and their bots, without the accounts that are
        locked.

        A ban may be lifted for the users in the result. The ban of a locked
        account ends only with its lock. May switch greenlets. Raises
        StorageUnavailable.
        """
        users = self.with_programs(app, users)
        locked = {
            each.user
            for each in self.accounts.those_of(app, users)
            if each.is_locked(time())
        }
        return [user for user in users if user not in locked]

    def may_act_on(self, principal: Principal, app: str, users: Sequence[str]) -> bool:
        """Whether a principal may act on all of these users.

        A back end may act on everybody. An account that acts by its role may
        act on users with lower roles. May switch greenlets. Raises
        StorageUnavailable.
        """
        if not principal.staff:
            return True
        return all(
            principal.may_act_on(each.role)
            for each in self.accounts.those_of(app, users)
        )

    def _user(self, need: Need, credential: str) -> Principal | None:
        """Return the user whose token this is.

        Returns None if the credential does not look like a token that ``need``
        accepts. Returns :data:`BAD_TOKEN` if the credential looks like such a
        token, but is invalid. May switch greenlets.
        """
        if "page" in need.users and credential.startswith(PAGE_TOKEN_PREFIX):
            return self._page_visitor(credential)
        if need.right:
            return self._staff(need, credential)
        if need.users.isdisjoint(_TOKENS):
            return None
        if credential.startswith(BOT_TOKEN_PREFIX):
            return self._user_of(self._session(credential))
        if is_token(credential):
            return self._user_of_web_token(need, credential)

        # The credential has the form of no token. A route that accepts all kinds of
        # user tokens can only say that this one is invalid.
        accepts_all_tokens = need.users >= _TOKENS.keys()
        if accepts_all_tokens:
            return BAD_TOKEN
        return None

    def _user_of_web_token(self, need: Need, credential: str) -> Principal:
        """Return the user of this JSON Web Token, or :data:`BAD_TOKEN` if the
        token is invalid.

        Account tokens and session tokens look alike, so one kind is tried after
        the other. A valid token is found even if the route does not accept its
        kind. Then :func:`refusal` can name the kinds that the route accepts. If
        the server called the token invalid, the client would throw it away.
        """
        accepts_accounts = "account" in need.users
        accepts_sessions = "session" in need.users
        is_for_anybody = "nobody" in need.users

        if accepts_accounts:
            session = self._session(credential)
            if session is not None:
                return self._user_of(session)
        # A route for anybody refuses no user, so it needs no name for the refusal.
        if accepts_sessions or not is_for_anybody:
            user = self._user_of_session_token(credential)
            if user is not None:
                return user
        if not accepts_accounts:
            return self._user_of(self._session(credential))
        return BAD_TOKEN

    def _user_of_session_token(self, credential: str) -> Principal | None:
        """Return the user of a session token, or None if the token is
        invalid."""
        claims = self.logins.session_of(credential)
        if claims is None:
            return None
        return Principal("session", apps=frozenset({claims.app}), user=claims.user)

    def _page_visitor(self, token: str) -> Principal | None:
        """Return the visitor to whom one of our own pages has given this page
        token.

        The result is None if the token is invalid, or if the app is no longer
        open. An app is open if anybody may log in to it.
        """
        content = self.pages.read(token)
        if content is None:
            return None
        app, visitor = content
        if not self.logins.is_open(app):
            return None
        # An alias stands for another app, which the principal must name.
        apps = frozenset({self.logins.resolve(app)})
        return Principal("page", apps=apps, user=visitor)

    def _user_of(self, session: AccountSession | None) -> Principal:
        """Return the principal of the user of this login, without the rights of
        a role.

        ``session`` is None if the token was invalid. Then the result is
        :data:`BAD_TOKEN`.
        """
        if session is None:
            return BAD_TOKEN
        account = session.account
        apps = frozenset({self.logins.resolve(account.app)})
        return Principal(
            account.kind, apps=apps, user=account.user, device=session.device_id
        )

    def _session(self, credential: str) -> AccountSession | None:
        """Return the login of the account or bot with this token.

        The result is None if the token is invalid. May switch greenlets. Raises
        StorageUnavailable.
        """
        try:
            return self.accounts.holder(credential)
        except BadToken:
            return None

    def _staff(self, need: Need, credential: str) -> Principal | None:
        """Return the account with this token, as a principal that acts by its
        role.

        The result is None if the credential does not look like a token. An
        account without the right that ``need`` names is returned as a user. So
        the route refuses the account, and :func:`refusal` explains why.
        """
        if not is_token(credential):
            return None
        session = self._session(credential)
        if session is None:
            return BAD_TOKEN

        account = session.account
        if account.kind != "account" or need.right not in RIGHTS[account.role]:
            return self._user_of(session)
        return self._by_role(session)

    def _by_role(self, session: AccountSession) -> Principal:
        """Return an account as a principal that acts by its role."""
        account = session.account
        user = account.user
        apps = frozenset({self.logins.resolve(account.app)})
        # The role requires more of its account than a password, for example a
        # second factor.
        if session.lacks:
            return Principal("account", apps=apps, user=user, lacks=session.lacks)
        rights = RIGHTS[account.role]
        return Principal("staff", apps=apps, staff=user, rights=rights)

    def _by_address(self, headers: Mapping[str, str], host: str) -> Principal:
        """Return the back end at this address, which needs no key.

        The result is a principal for the apps that list the address, or
        :data:`NOBODY` if no app does.
        """
        apps = self.allowed.apps_of(host)
        if apps and _is_from_page(headers):
            apps = self._apps_of_page(apps, headers.get("origin", ""), host)
        if not apps:
            return NOBODY
        resolved = frozenset(map(self.logins.resolve, apps))
        return Principal("address", _BY_ADDRESS, resolved)

    def _apps_of_page(
        self, apps: frozenset[str], origin: str, host: str
    ) -> frozenset[str]:
        """Return the apps among ``apps`` that accept requests from a page of
        this origin.

        A browser at a listed address may show a page from any site. So the app
        or the server must list the origin of the page, too.
        """
        accepting = frozenset(
            app for app in apps if self.logins.lists_origin(app, origin)
        )
        if not accepting and origin:
            self.logins.log_page(origin, host)
        return accepting


def _next_end_of(keys: Iterable[_Key], now: float) -> float:
    """Return when the next of these keys expires; infinity if no key
    expires."""
    ends = (key.expires for key in keys if key.expires > now)
    return min(ends, default=inf)


def _is_from_page(headers: Mapping[str, str]) -> bool:
    """Whether a page in a browser has made the request.

    Browsers send ``origin`` or a header such as ``sec-fetch-site``. Back ends
    send neither.
    """
    return "origin" in headers or any(name.startswith("sec-fetch-") for name in headers)


def refusal(principal: Principal, need: Need) -> tuple[HttpProblem, str]:
    """Return the HTTP problem for a principal that may not use a route, and its
    message.

    The message is ``""`` if the usual message of the problem fits.
    """
    if principal is BAD_TOKEN:
        return Problems.TOKEN_INVALID, ""
    if principal.kind in _TOKENS:
        return Problems.NOT_ALLOWED, _message_to_user(principal, need)
    # A key without scopes has expired, or its maker is banned.
    if principal.kind == "key" and not principal.scopes:
        return Problems.UNAUTHORIZED, principal.lacks or "The API key has expired"
    if principal.key and need.scope:
        return Problems.FORBIDDEN, f"The key lacks the scope `{need.scope}`"
    if principal.key:
        return Problems.FORBIDDEN, "This request takes no API key"
    return Problems.UNAUTHORIZED, ""


def _message_to_user(principal: Principal, need: Need) -> str:
    """Return the message to a user with a valid token which the route does not
    accept.

    It says what the route takes instead, for example: "This request takes the
    token of an account, or an API key of scope `admin`, not a session token".
    """
    if need.right:
        return _message_about_role(principal, need)

    # A route that accepts guests accepts accounts, too.
    kinds = need.users - {"guest"}
    tokens = " or ".join(name for kind, name in _TOKENS.items() if kind in kinds)
    if need.scope:
        key = f", or an API key of scope `{need.scope}`"
    else:
        key = ""
    return f"This request takes {tokens}{key}, not {_TOKENS[principal.kind]}"


def _message_about_role(principal: Principal, need: Need) -> str:
    """Return the message to a user of a route that takes an account by its role."""
    if principal.lacks:
        return f"The role of the account takes {principal.lacks}"
    role = f"an account whose role has the right `{need.right}`"
    return f"This request takes {role}, or an API key of scope `{need.scope}`"


def bearer(authorization: str) -> str:
    """Return the key or token in an Authorization header, for example ``abc``
    for ``Bearer abc``.

    The result is ``""`` if the header has another form.
    """
    kind = authorization[:_BEARER_LENGTH]
    if kind == _BEARER or kind.lower() == _BEARER.lower():
        return authorization[_BEARER_LENGTH:].strip()
    return ""


def is_token(credential: str) -> bool:
    """Whether a credential looks like a JSON Web Token or the token of a bot.
    API keys never do."""
    is_json_web_token = credential.startswith("eyJ") and credential.count(".") == 2
    return is_json_web_token or credential.startswith(BOT_TOKEN_PREFIX)


class AllowLists:
    """Knows which apps accept back ends without a key, by their addresses.

    Owner of the address networks of the apps. Never switches greenlets.
    ``apps_of(host)`` returns the apps that list the address ``host``; the
    results for recent addresses are cached.
    """

    def __init__(self) -> None:
        self._networks: dict[str, tuple[IPv4Network | IPv6Network, ...]] = {}
        self.apps_of = lru_cache(_ADDRESSES_CACHED)(self._apps_of)

    def learn(self, tenants: Iterable[Tenant]) -> None:
        """Replace all lists by the lists of these apps."""
        self._networks.clear()
        self.apps_of.cache_clear()
        for tenant in tenants:
            self.changed(tenant)

    def changed(self, tenant: Tenant) -> None:
        """Apply a new or changed app."""
        networks = tuple(
            ip_network(each, strict=False) for each in tenant.api_allow_from
        )
        if self._networks.pop(tenant.name, ()) != networks:
            self.apps_of.cache_clear()
        if networks:
            self._networks[tenant.name] = networks

    def deleted(self, app: str) -> None:
        """Forget the list of a deleted app."""
        if self._networks.pop(app, None) is not None:
            self.apps_of.cache_clear()

    def _apps_of(self, host: str) -> frozenset[str]:
        """Return the apps that list an address. The result is empty if ``host``
        is not an IP address."""
        if not self._networks:
            return frozenset()
        try:
            address = address_of(host)
        except ValueError:
            # A Unix socket has no address, for example.
            return frozenset()

        apps = set[str]()
        for app, networks in self._networks.items():
            if any(address in network for network in networks):
                apps.add(app)
        return frozenset(apps)
