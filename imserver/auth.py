"""Who may call the HTTP API, and the tokens with which pages call it.

A back end sends ``Authorization: Bearer <key>``. Keys are configured (``api.keys``), or made at run time and
kept (``imserver key create``). In memory they are SHA-256 digests only; a request's key is looked up by its
digest, so the cost does not grow with the number of keys, and how long a look-up takes tells nothing of a
key. Without any key the node is in demo mode: everybody may do everything, and the first request that seems
to come from elsewhere is answered with a loud warning. Once a key has been kept demo mode is over for good:
that the last one is revoked must not open the server to everybody.

A page token is made by the server for the person at a page: it names an app and a user, is valid for
``api.page_token_seconds`` and signed with a key derived from the node's secret.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
from collections.abc import Callable

from itsdangerous import BadSignature, URLSafeTimedSerializer
from msgspec import Struct

from imserver.config import Config
from imserver.lifecycle import derive_key
from imserver.storage.contract import Changes

log = logging.getLogger(__name__)

PAGE_TOKEN_PREFIX = "page."
"""What page tokens begin with; any other token is not ours to judge."""

_PAGE_SCOPES = frozenset({"page"})
_ALL_SCOPES = frozenset({"push", "read", "admin"})


class Caller(Struct, frozen=True):
    """Whoever makes a request: what they may do, in which apps (None: all), and as whom (pages only).

    ``key`` is the id of their key; ``""`` where there is none.
    """

    scopes: frozenset[str]
    apps: frozenset[str] | None = None
    user: str = ""
    key: str = ""

    def reaches(self, app: str) -> bool:
        """Whether the caller has anything to do with this app."""
        return self.apps is None or app in self.apps


ANYBODY = Caller(_ALL_SCOPES)
"""The caller in demo mode."""
NOBODY = Caller(frozenset())
"""The caller whose key is missing or wrong."""


def _latin(credential: str) -> bytes:
    return credential.encode("latin-1", "replace")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Auth:
    """Knows the keys and makes page tokens. Owner: the node, which calls :meth:`reload` on SIGHUP."""

    def __init__(self, config: Config, secret: bytes) -> None:
        self._signer = URLSafeTimedSerializer(derive_key(secret, "page tokens"), salt="page")
        self._configured: dict[bytes, tuple[bytes, Caller]] = {}
        self._stored: dict[bytes, tuple[bytes, Caller]] = {}
        self.closed = False
        """Something that is kept, a key or an app's secret, has ended demo mode."""
        self.on_closed: Callable[[], object] = lambda: None
        """Called when that happens. Must not switch."""
        self._own_host = ""
        """The Host header that was found to be this machine's last."""
        self.watching = False
        """True while a stranger's request would still be worth a warning; the doors look before they ask."""
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take the keys of ``config`` in place of those known so far."""
        self.demo = config.demo and not self.closed
        self._page_token_seconds = math.ceil(config.api.page_token_seconds)
        self._own_host = ""
        self._own_hosts = frozenset({"localhost", config.server.host.lower()})
        self._configured = {}
        for row in config.api.keys:
            digest = _digest(row.key.encode())
            apps = tuple(
                (config.apps[name].same_as or name) if name in config.apps else name for name in row.apps
            )
            self._configured[digest] = _known(digest, row.scopes, apps, f"config:{digest.hex()[:8]}")
        self._keys = self._stored | self._configured
        self.watching = self.demo

    def learn(self, changes: Changes) -> None:
        """Take over keys that were made or revoked."""
        for row in changes.keys:
            digest = bytes.fromhex(row.digest)
            if row.revoked:
                self._stored.pop(digest, None)
            else:
                self._stored[digest] = _known(digest, row.scopes, row.apps, row.id)
        if changes.keys:
            self._keys = self._stored | self._configured
            self.close()

    def close(self) -> None:
        """End demo mode for good: something is kept that strangers are to be kept from."""
        if not self.closed:
            self.closed = True
            was_open, self.demo, self.watching = self.demo, False, False
            if was_open:
                self.on_closed()

    def caller(self, authorization: str) -> Caller:
        """The caller that an Authorization header names; :data:`NOBODY` if it is missing or wrong.

        ``authorization`` is the header as WSGI has it, its bytes read as Latin-1.
        """
        if self.demo:
            return ANYBODY
        kind, credential = authorization[:7], authorization[7:].strip()
        if (kind != "Bearer " and kind.lower() != "bearer ") or not credential:
            return NOBODY
        digest = _digest(credential.encode() if credential.isascii() else _latin(credential))
        known = self._keys.get(digest)
        if known is not None and hmac.compare_digest(known[0], digest):
            return known[1]
        named = self._read_page_token(credential)
        return NOBODY if named is None else Caller(_PAGE_SCOPES, frozenset({named[0]}), named[1])

    # --- pages ----------------------------------------------------------------------------------------------

    def page_token(self, app: str, user: str) -> str:
        """A token for the page of ``user`` in ``app``.

        With it the page logs in, lists the app's users and sends to all of them, as that user only.
        """
        signed = self._signer.dumps([app, user])
        return PAGE_TOKEN_PREFIX + (signed if isinstance(signed, str) else signed.decode())

    def may_login(self, app: str, user: str, token: str) -> bool:
        """Whether a login with this token is in order.

        A page token has to be valid and made for exactly this app and user. Any other token, or none, is let
        pass unread, as in the original.
        """
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return True
        return self._read_page_token(token) == (app, user)

    def _read_page_token(self, token: str) -> tuple[str, str] | None:
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return None
        try:
            named = self._signer.loads(token[len(PAGE_TOKEN_PREFIX) :], max_age=self._page_token_seconds)
        except BadSignature:
            return None
        app, user = named
        return app, user

    # --- demo mode ------------------------------------------------------------------------------------------

    def look_at(self, host: str, forwarded: bool) -> None:
        """In demo mode: warn, once, of a request that came through a proxy or by a name not this machine's.

        ``host`` is the Host header, ``forwarded`` whether any header of a proxy was there. Call it while
        :attr:`watching`.
        """
        if not self.watching or (host == self._own_host and not forwarded):
            return
        if not forwarded and not self._is_foreign(host):
            self._own_host = host
            return
        self.watching = False
        how = "through a proxy" if forwarded else f"for the host {host[:100]!r}"
        log.warning(
            "DEMO MODE IS OPEN TO OTHERS: a request came %s, and no API key exists, so anybody who can reach "
            "this server may log in as anyone and push to everyone. To close it, make a key: "
            "imserver key create --scope admin",
            how,
        )

    def _is_foreign(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").lower()
        if not name or name in self._own_hosts:
            return False
        try:
            return not ipaddress.ip_address(name).is_loopback
        except ValueError:
            return True


def _known(digest: bytes, scopes: tuple[str, ...], apps: tuple[str, ...], key: str) -> tuple[bytes, Caller]:
    """How a key is remembered."""
    return digest, Caller(_scopes(scopes), frozenset(apps) or None, key=key)


def _scopes(named: tuple[str, ...]) -> frozenset[str]:
    """The scopes of a key; admin has all."""
    return _ALL_SCOPES if "admin" in named else frozenset(named)
