"""Signatures of Pusher's protocol: of subscriptions and sign-ins of clients, and of HTTP requests.

The back end of an app and this server share a secret. The back end signs what a client may do, bound to the
``socket_id`` of one connection, and it signs its own requests. Nothing is stored.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from msgspec import Struct

from imserver.auth.principal import Principal
from imserver.config.settings import PusherSettings
from imserver.errors import ImserverError

WINDOW_SECONDS: Final = 600
"""Largest difference between the time of a signed request and this server's clock."""
_MAX_PARAMETERS: Final = 64


class BadSignature(ImserverError):
    """A request without a valid signature. The text says why, and holds nothing secret."""


class PusherApp(Struct, frozen=True):
    """An app that speaks Pusher's protocol: its name here, its secret, and its settings."""

    app: str
    secret: bytes
    settings: PusherSettings

    def sign(self, text: str) -> str:
        """The signature of ``text``, in hexadecimal."""
        return hmac.digest(self.secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()

    def has_signed(self, text: str, signature: str) -> bool:
        """Whether the back end of the app has signed ``text``."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))

    def allows(self, text: str, auth: str) -> bool:
        """Whether ``auth``, ``key:signature``, permits what ``text`` describes."""
        key, _, signature = auth.partition(":")
        return key == self.settings.key and self.has_signed(text, signature)


class PusherApps:
    """The apps that speak Pusher's protocol, by their names in it. Owner: :class:`Logins`. Never switches."""

    def __init__(self) -> None:
        self._apps: dict[str, PusherApp] = {}
        self._by_key: dict[str, PusherApp] = {}
        self._by_id: dict[str, PusherApp] = {}

    def set(self, app: str, pusher: PusherApp | None) -> None:
        """Set or remove (None) an app. If two apps have the same names, the first by name keeps them."""
        if self._apps.get(app) == pusher:
            return
        self._apps.pop(app, None)
        if pusher is not None:
            self._apps[app] = pusher
        in_order = [self._apps[name] for name in sorted(self._apps, reverse=True)]
        self._by_key = {each.settings.key: each for each in in_order}
        self._by_id = {each.settings.app_id: each for each in in_order}

    def of(self, app: str) -> PusherApp | None:
        """The app of this name, if it speaks the protocol."""
        return self._apps.get(app)

    def with_key(self, key: str) -> PusherApp | None:
        """The app that clients name by this key."""
        return self._by_key.get(key)

    def with_id(self, app_id: str) -> PusherApp | None:
        """The app that back ends name by this id."""
        return self._by_id.get(app_id)

    def signer(self, method: str, path: str, query: bytes, now: float) -> Principal:
        """The back end that has signed a request at most :data:`WINDOW_SECONDS` ago.

        The signature covers the method, the path and the query. The query holds the MD5 of the body; who
        reads the body compares it. Raises :class:`BadSignature`.
        """
        params = read_query(query)
        pusher = self.with_key(params.get("auth_key", ""))
        if pusher is None:
            raise BadSignature("auth_key: no app has this key")
        if params.get("auth_version") != "1.0":
            raise BadSignature("auth_version: expected 1.0")
        timestamp = params.get("auth_timestamp", "")
        if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 20):
            raise BadSignature("auth_timestamp: expected Unix seconds")
        if abs(now - int(timestamp)) > WINDOW_SECONDS:
            raise BadSignature(
                f"auth_timestamp: {timestamp} is not within {WINDOW_SECONDS} s of the server's time {now:.0f}"
            )
        signature = params.pop("auth_signature", "")
        signed = "&".join(f"{name}={params[name]}" for name in sorted(params))
        # Libraries sign the path as they were given it, some before and some after it is percent-encoded.
        # Under WSGI the path is decoded already.
        paths = dict.fromkeys((path, unquote(path), quote(unquote(path))))
        if not any(pusher.has_signed(f"{method}\n{each}\n{signed}", signature) for each in paths):
            raise BadSignature("auth_signature: does not match this request and the secret of the app")
        return Principal("signature", apps=frozenset({pusher.app}), key=pusher.settings.key)


def read_query(query: bytes) -> dict[str, str]:
    """The decoded parameters of a signed query, with names in lower case. Raises :class:`BadSignature`."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise BadSignature("the query cannot be read") from None
    params = {name.lower(): value for name, value in pairs}
    if len(params) != len(pairs):
        raise BadSignature("the query has a parameter twice")
    return params


def body_matches(params: dict[str, str], body: bytes) -> bool:
    """Whether a signed query holds the MD5 of the body (none: there is no body)."""
    given = params.get("body_md5", "")
    if not given:
        return not body
    found = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return hmac.compare_digest(found.encode(), given.encode("utf-8", "replace"))
