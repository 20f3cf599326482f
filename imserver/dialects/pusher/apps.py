"""The apps that speak Pusher's protocol, and the signatures of their back ends.
Back ends sign subscriptions and sign-ins of clients, and HTTP requests.

The back end of an app and this server share a secret. A signature about a
client is valid only for the ``socket_id`` of one connection. Nothing is stored.
"""

import hashlib
import hmac
from json import dumps
from time import gmtime, strftime, time
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.backends.webhooks.requests import POST_SECONDS, Receiver, WebhookQueues
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.dialects.pusher.declared import PusherSettings, pusher_of, secret_of
from imserver.dialects.pusher.wire import CACHED, PRESENCE, PRIVATE
from imserver.plugin.identity import (
    AppSecrets,
    BadSignature,
    Principal,
    Tenant,
    Tenants,
)
from imserver.plugin.runtime import Outgoing
from imserver.plugin.services import Channels
from imserver.plugin.settings import ChannelSettings

WINDOW_SECONDS: Final = 600
"""Largest difference between the time of a signed request and this server's
clock."""
_TIMESTAMP_DIGITS: Final = 15
"""A time with as many digits, or with more, is refused. The time of a signed
request has fewer digits."""
_MOST_PARAMETERS: Final = 64
"""The most parameters of a query."""
_CACHED_SECONDS: Final = 1800.0
"""How long a cache channel keeps its last event."""
_SECOND_MS: Final = 1000


class PusherApp(Struct, frozen=True):
    """An app that speaks Pusher's protocol.

    ``app``: the name of the app on this server. ``secret``: the secret that the
    app shares with its back end, for signatures.
    """

    app: str
    secret: bytes
    settings: PusherSettings

    def sign(self, text: str) -> str:
        """The signature of ``text``, in hexadecimal."""
        return hmac.digest(
            self.secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256
        ).hex()

    def has_signed(self, text: str, signature: str) -> bool:
        """Whether the back end of the app has signed ``text``."""
        return hmac.compare_digest(
            self.sign(text).encode(), signature.encode("utf-8", "replace")
        )

    def allows(self, text: str, auth: str) -> bool:
        """Whether a signature permits what ``text`` describes.

        ``auth`` has the form ``<key>:<signature>``, and the key must belong
        to the app.
        """
        key, _, signature = auth.partition(":")
        return key == self.settings.key and self.has_signed(text, signature)


# --- webhooks as Pusher sends them: at most once, like ours of connections ----

_OCCUPANCY: Final = frozenset({"occupied", "vacated"})


class PusherReceiver(Receiver, frozen=True, kw_only=True):
    """A receiver of webhooks in Pusher's form. ``key``: the key of the app. The
    receiver gets the key in a header."""

    key: str

    def body(self, events: bytes) -> bytes:
        """The body of a request with these events, which are JSON objects with
        commas."""
        return b'{"time_ms":%d,"events":[%b]}' % (int(time() * _SECOND_MS), events)

    def post(self, outgoing: Outgoing, body: bytes, _delivery: str) -> int:
        """Send a signed request. Returns its status. May switch greenlets."""
        signed = hmac.digest(self.secret, body, hashlib.sha256).hex()
        headers = {"X-Pusher-Key": self.key, "X-Pusher-Signature": signed}
        return outgoing.send(self.url, headers, body, POST_SECONDS)[0]


class PusherHooks:
    """The queues of webhooks in Pusher's form, one for each app that wants
    them.

    As with Pusher, each event is sent at most once. Methods never switch
    greenlets.
    """

    def __init__(self, webhooks: Webhooks) -> None:
        self.queues = WebhookQueues(webhooks.outgoing, webhooks.tally)
        webhooks.forms.append(self)

    def wants(self, app: str, events: frozenset[str]) -> bool:
        """Whether the app's back end wants any of these events of channels."""
        return app in self.queues and not events.isdisjoint(_OCCUPANCY)

    def channel(self, app: str, event: str, channel: str) -> None:
        """Queue an event of a channel if Pusher has a webhook for the event.

        The event is that a channel gets its first subscriber, or loses its last
        subscriber.
        """
        if event in _OCCUPANCY:
            self.add(app, f"channel_{event}", channel)

    def add(self, app: str, name: str, channel: str, **facts: Any) -> None:
        """Queue an event of a channel.

        ``name`` is the name of Pusher's webhook, and ``facts`` are the other
        fields of the event. Channels of users, and other channels of the server
        itself, have no webhooks.
        """
        queue = self.queues.get(app)
        if queue is not None and not channel.startswith("#"):
            queue.add(msgspec.json.encode({"name": name, "channel": channel, **facts}))


# --- the apps -----------------------------------------------------------------


class PusherChannels:
    """The meaning of the names of channels in an app with Pusher's protocol."""

    def options(self, channel: str, options: ChannelSettings) -> ChannelSettings:
        """The settings of a channel: a cache channel keeps its last event, even
        if the settings give it no history."""
        if options.has_history or not channel.startswith(CACHED):
            return options
        return replace(options, history_size=1, history_seconds=_CACHED_SECONDS)

    def needs_token(self, channel: str) -> bool:
        """Whether the name of a channel says that the back end must sign
        subscriptions to it."""
        return channel.startswith((PRIVATE, PRESENCE))


def entrance(tenant: Tenant) -> str:
    """The line about an app with this protocol at the start of the server. It
    says who may connect."""
    if not pusher_of(tenant).key:
        return ""
    return "anybody with its pusher.key may connect; only its back end makes them users"


class PusherApps:
    """The apps that speak Pusher's protocol, by their names on this server and
    in the protocol.

    This class also sets the webhooks of these apps, and the meaning of the
    names of their channels. Methods never switch greenlets.
    """

    def __init__(
        self, tenants: Tenants, hooks: PusherHooks, channels: Channels
    ) -> None:
        """Begin without apps. ``secrets`` calls back for each app when the
        settings are read."""
        self._hooks = hooks
        self._set_names = channels.options.set_names
        self.by_name: dict[str, PusherApp] = {}
        self.by_key: dict[str, PusherApp] = {}
        """Key in the protocol, by which clients name the app → the app."""
        self.by_id: dict[str, PusherApp] = {}
        """Id in the protocol, by which back ends name the app → the app."""
        self.secrets = AppSecrets(
            tenants, secret_of, self._set_from_settings, lambda app: self.set(app, None)
        )

    def _set_from_settings(self, tenant: Tenant, secret: bytes) -> None:
        """Set an app from its settings.

        An app that is only another name of an app (``same_as``) is ignored.
        """
        settings = pusher_of(tenant)
        pusher = None
        if settings.key and secret and not tenant.same_as:
            pusher = PusherApp(tenant.name, secret, settings)
        self.set(tenant.name, pusher)

    def set(self, app: str, pusher: PusherApp | None) -> None:
        """Set an app, or remove the app if ``pusher`` is None.

        If two apps have the same key or id in the protocol, one of them keeps
        it: the app whose name comes first in the alphabet.
        """
        self._hooks.queues.set(app, _receiver_of(app, pusher))
        # The app itself has not changed, but its receiver of webhooks may have
        # changed.
        if self.by_name.get(app) == pusher:
            return

        self.by_name.pop(app, None)
        if pusher is None:
            self._set_names(app, None)
        else:
            self._set_names(app, PusherChannels())
            self.by_name[app] = pusher
        self._index()

    def _index(self) -> None:
        """Find the apps by their keys and ids from now on."""
        # In reverse order: if two apps have the same key or id, the app whose
        # name comes first overwrites the other.
        apps = [self.by_name[name] for name in sorted(self.by_name, reverse=True)]
        self.by_key = {each.settings.key: each for each in apps}
        self.by_id = {each.settings.app_id: each for each in apps}

    def signer(self, method: str, path: str, query: bytes, now: float) -> Principal:
        """The principal of a signed request: the app whose back end has signed
        it.

        The signature must be younger than :data:`WINDOW_SECONDS`. It covers the
        method, the path and the query. The query has the MD5 of the body. The
        code that reads the body must compare the MD5 (:func:`body_matches`).
        Raises :class:`BadSignature` with the texts of Pusher.
        """
        params = read_query(query)
        pusher = self.by_key.get(params.get("auth_key", ""))
        if pusher is None:
            raise _unknown_key(params)
        if params.get("auth_version") != "1.0":
            raise _unknown_version(params)
        _check_timestamp(params.get("auth_timestamp", ""), now)

        signature = params.pop("auth_signature", "")
        signed = "&".join(f"{name}={params[name]}" for name in sorted(params))
        # Some libraries sign the path before it is percent-encoded, and some
        # sign the encoded path. Under WSGI the path is already decoded.
        paths = dict.fromkeys((path, unquote(path), quote(unquote(path))))
        is_signed = any(
            pusher.has_signed(f"{method}\n{each}\n{signed}", signature)
            for each in paths
        )
        if not is_signed:
            raise _bad_signature(f"{method}\n{path}\n{signed}", signature)
        return Principal(
            "signature", apps=frozenset({pusher.app}), key=pusher.settings.key
        )


def _receiver_of(app: str, pusher: PusherApp | None) -> PusherReceiver | None:
    """The receiver of the webhooks of an app. The result is None if the app
    has no address for webhooks."""
    if pusher is None or not pusher.settings.webhook_url:
        return None
    settings = pusher.settings
    return PusherReceiver(
        app, settings.webhook_url, pusher.secret, frozenset(), key=settings.key
    )


def _unknown_key(params: dict[str, str]) -> BadSignature:
    """The error for a request whose key belongs to no app."""
    if params.get("auth_key"):
        return BadSignature("Unknown auth_key")
    return BadSignature("Missing parameter: auth_key")


def _unknown_version(params: dict[str, str]) -> BadSignature:
    """The error for a request that is not signed by version 1.0."""
    if params.get("auth_version"):
        return BadSignature("Version not supported")
    return BadSignature("Version required")


def _bad_signature(text: str, signature: str) -> BadSignature:
    """The error for a wrong signature. It shows which text should have been
    signed, because developers otherwise cannot find their mistake."""
    expected = dumps(text, ensure_ascii=False)
    sent = dumps(signature, ensure_ascii=False)
    return BadSignature(
        f"Invalid signature: you should have sent HmacSHA256Hex({expected}, your_secret_key), "
        f"but you sent {sent}"
    )


def _check_timestamp(text: str, now: float) -> None:
    """Refuse a request that was not signed just now. ``text`` has the Unix
    seconds. Raises :class:`BadSignature`."""
    if not (text.isascii() and text.isdecimal() and len(text) < _TIMESTAMP_DIGITS):
        raise BadSignature("Timestamp required")
    timestamp = int(text)
    if abs(now - timestamp) > WINDOW_SECONDS:
        raise BadSignature(
            f"Timestamp expired: Given timestamp ({_iso(timestamp)}) not within {WINDOW_SECONDS}s "
            f"of server time ({_iso(now)})"
        )


def _iso(seconds: float) -> str:
    """A time as Pusher's texts show it, for example
    ``2024-05-01T12:00:00Z``."""
    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))


def read_query(query: bytes) -> dict[str, str]:
    """The decoded parameters of a signed query, with names in lower case.

    A query that has a parameter twice is refused, because the signature could
    cover only one of the two values. Raises :class:`BadSignature`.
    """
    try:
        pairs = parse_qsl(
            query.decode(), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        raise BadSignature("the query cannot be read") from None
    params = {name.lower(): value for name, value in pairs}
    if len(params) != len(pairs):
        raise BadSignature("the query has a parameter twice")
    return params


def body_matches(params: dict[str, str], body: bytes) -> bool:
    """Whether a signed query has the MD5 of the body. A query without an MD5
    stands for an empty body."""
    expected = params.get("body_md5", "")
    if not expected:
        return not body
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return hmac.compare_digest(digest.encode(), expected.encode("utf-8", "replace"))
