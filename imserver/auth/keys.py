"""API keys, and demo mode.

A back end sends ``Authorization: Bearer <key>``. Keys are configured (``api.keys``), or made at run time and
stored (``imserver key create``). In memory they are SHA-256 digests only; a request's key is looked up by its
digest, so the cost does not grow with the number of keys, and the time of a look-up tells nothing of a key.
Without any key the node is in demo mode: every local program may do everything, and the transport refuses
foreign hosts and origins. Once a key has been stored, demo mode is over for good: revoking the last key must
not open the server to everybody.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from msgspec import Struct

from imserver.auth.principal import ALL_SCOPES, Principal
from imserver.auth.tenants import Tenant
from imserver.config.settings import Config
from imserver.storage.contract import Changes

Resolve = Callable[[str], str]


class _Key(Struct, frozen=True):
    """A key as it was given: its apps may be aliases."""

    id: str
    scopes: tuple[str, ...]
    apps: tuple[str, ...]

    def principal(self, resolve: Resolve) -> Principal:
        """Who has shown this key."""
        scopes = ALL_SCOPES if "admin" in self.scopes else frozenset({*self.scopes, "any"})
        return Principal("key", scopes, frozenset(map(resolve, self.apps)) or None, key=self.id)


class Keys:
    """Owner of the API keys, and of whether this is demo mode. ``resolve`` gives the app that a name stands
    for. The node calls :meth:`reload` on SIGHUP."""

    def __init__(self, config: Config, resolve: Resolve) -> None:
        self._resolve = resolve
        self._configured: dict[bytes, _Key] = {}
        self._stored: dict[bytes, _Key] = {}
        self._known: dict[bytes, tuple[bytes, Principal]] = {}
        self.closed = False
        """A stored key, or the stored secret of an app, has ended demo mode."""
        self.on_closed: list[Callable[[], object]] = []
        """Called when that happens. Must not switch."""
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take the keys of ``config`` in place of those known so far."""
        self.demo = config.demo and not self.closed
        self._configured = {}
        for row in config.api.keys:
            digest = digest_of(row.key.encode())
            self._configured[digest] = _Key(f"config:{digest.hex()[:8]}", row.scopes, row.apps)
        self._resolve_all()

    def learn(self, changes: Changes) -> None:
        """Take over keys that were made or revoked."""
        for row in changes.keys:
            digest = bytes.fromhex(row.digest)
            if row.revoked:
                self._stored.pop(digest, None)
            else:
                self._stored[digest] = _Key(row.id, row.scopes, row.apps)
        if changes.keys:
            self._resolve_all()
            self.close()

    def app_changed(self, tenant: Tenant) -> None:
        """An app is new or changed: it may be an alias now, or no alias any more."""
        if tenant.name in self._named:
            self._resolve_all()

    def _resolve_all(self) -> None:
        keys = {**self._stored, **self._configured}
        self._named = {app for key in keys.values() for app in key.apps}
        self._known = {digest: (digest, key.principal(self._resolve)) for digest, key in keys.items()}

    def close(self) -> None:
        """End demo mode for good: something is stored that must be protected."""
        if not self.closed:
            self.closed = True
            was_open, self.demo = self.demo, False
            if was_open:
                for told in self.on_closed:
                    told()

    def find(self, credential: str) -> Principal | None:
        """The back end whose key this is; None: it is no key.

        ``credential`` comes from a header as WSGI has it, its bytes read as Latin-1.
        """
        digest = digest_of(
            credential.encode() if credential.isascii() else credential.encode("latin-1", "replace")
        )
        known = self._known.get(digest)
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None


def digest_of(key: bytes) -> bytes:
    """How a key is stored."""
    return hashlib.sha256(key).digest()
