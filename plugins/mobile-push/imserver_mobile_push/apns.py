"""Apple's push service: requests over HTTP/2 with tokens of a key.

Sources: "Sending notification requests to APNs", "Establishing a token-based
connection to APNs" and "Handling notification responses from APNs" in Apple's
documentation of User Notifications.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from time import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec.structs import replace

from imserver.plugin.identity import JsonWebToken
from imserver.plugin.wire import PushNotice, PushResult

from .http2 import Answer, Http2Connection, StreamLost, open_socket
from .service import (
    GONE,
    LATER,
    MEND,
    REFUSED,
    RENEW,
    TAKEN,
    Cached,
    Rule,
    described,
    facts_of,
    fitted,
    is_silent,
    json_object,
    rule_of_status,
    rules,
)
from .settings import ApnsSettings, MobilePushSettings, apns_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

NAME: Final = "apns"
FORM: Final = re.compile(r"([0-9A-Fa-f]{2}){32,100}")
EVERY_SECONDS: Final = 30 * 60
"""The step of the times in tokens: two tokens differ by this time."""
YOUNG_SECONDS: Final = 5 * 60
"""The age at which a token is first used."""
MOST_BYTES: Final = 4096
"""Limit of a payload in bytes."""
_TRIES: Final = 3
"""How often a request is sent if no server has begun with it."""
_SECOND_MS: Final = 1000

RULES: Final = rules(
    (GONE, "BadDeviceToken ExpiredToken Unregistered"),
    (
        REFUSED,
        "BadCollapseId BadExpirationDate BadMessageId BadPath BadPriority DeviceTokenNotForTopic",
    ),
    (
        REFUSED,
        "DuplicateHeaders Forbidden InvalidPushType MethodNotAllowed MissingDeviceToken PayloadEmpty",
    ),
    (REFUSED, "PayloadTooLarge"),
    (
        MEND,
        "BadCertificate BadCertificateEnvironment BadEnvironmentKeyIdInToken BadTopic InvalidProviderToken",
    ),
    (MEND, "MissingProviderToken MissingTopic TopicDisallowed UnrelatedKeyIdInToken"),
    (RENEW, "ExpiredProviderToken TooManyProviderTokenUpdates"),
    (
        LATER,
        "IdleTimeout InternalServerError ServiceUnavailable Shutdown TooManyRequests",
    ),
)
"""Reason in Apple's answer → the rule for it."""


def aps_of(notice: PushNotice) -> dict[str, Any]:
    """The dictionary ``aps`` of a payload, which the device itself reads.

    For example: ``{"alert": {"title": "Ann"}, "badge": 3, "sound":
    "default"}``.
    """
    aps: dict[str, Any] = {}
    if notice.badge is not None:
        aps["badge"] = notice.badge
    if is_silent(notice):
        return {**aps, "content-available": 1}
    aps |= {
        "alert": _alert_of(notice),
        "sound": "default",
        "thread-id": notice.tag,
        "category": notice.kind,
        "mutable-content": 1,
    }
    if notice.time_sensitive:
        aps["interruption-level"] = "time-sensitive"
    return aps


def _alert_of(notice: PushNotice) -> dict[str, str]:
    """The texts of a notification that is shown."""
    texts = {"title": notice.title, "body": notice.body}
    alert = {name: text for name, text in texts.items() if text}
    # Without any text Apple shows nothing.
    return alert or {"body": " "}


def headers_of(notice: PushNotice, now: float) -> dict[str, str]:
    """The headers that tell Apple how to deliver a notification. ``now``: Unix
    seconds.

    They also count if Google passes the notification on.
    """
    headers = {"apns-push-type": "alert", "apns-priority": "10", "apns-expiration": "0"}
    if is_silent(notice):
        headers["apns-priority"] = "5"
        # Only a push that shows, sounds or counts something may be an alert. A
        # push with a badge must be one.
        if notice.badge is None:
            headers["apns-push-type"] = "background"
    # An expiration of 0 means: deliver now or never.
    if notice.ttl > 0:
        headers["apns-expiration"] = str(int(now) + notice.ttl)
    if notice.topic:
        headers["apns-collapse-id"] = notice.topic
    return headers


def payload_of(notice: PushNotice) -> bytes:
    """The body of a request. The application finds its own data under the key
    ``imserver``."""
    return msgspec.json.encode(
        {"aps": aps_of(notice), "imserver": facts_of(notice, with_text=False)}
    )


def _size(notice: PushNotice) -> int:
    """The size of a notification as Apple counts it, in bytes."""
    return len(payload_of(notice))


class ProviderToken:
    """The tokens that are signed by one key of Apple. Two of them are valid at
    any time: the current token by the clock, and the one before it.

    Apple refuses a token that is older than an hour, and a token that comes
    within 20 minutes of another. Therefore the time in a token is a multiple of
    half an hour, and its signature depends only on key and content: all nodes
    make equal tokens. A token is used when it is 5 to 35 minutes old, because
    clocks may be wrong by some minutes. If Apple refuses the next token because
    it came too soon, the one before stays in use until Apple accepts the next.
    """

    def __init__(self, settings: ApnsSettings, key: EllipticCurvePrivateKey) -> None:
        """Keep the two newest tokens in a cache, because signing takes time."""
        self.text = lru_cache(2)(partial(_sign, settings, key))
        """The token with a time (Unix seconds) in it."""
        self._earlier = 0
        """The time in the token before, if Apple has refused its successor."""

    def now(self) -> int:
        """The time in the token that is in use, in Unix seconds. Never switches
        greenlets."""
        # Apple refuses a token at the age of one hour.
        end = self._earlier + 2 * EVERY_SECONDS - YOUNG_SECONDS
        if self._earlier <= time() < end:
            return self._earlier
        return int(time() - YOUNG_SECONDS) // EVERY_SECONDS * EVERY_SECONDS

    def switch_from(self, refused: int) -> int:
        """Switch to the other token, because Apple has refused the one with the
        time ``refused``.

        Returns the time in the other token. Never switches greenlets.
        """
        self._earlier = 0
        newest = self.now()
        if refused == newest:
            self._earlier = newest - EVERY_SECONDS
        return self._earlier or newest


def _sign(settings: ApnsSettings, key: EllipticCurvePrivateKey, issued: int) -> str:
    """Make the token with the time ``issued`` in it, signed by the key of the
    app."""
    header = {"alg": "ES256", "kid": settings.key_id}
    claims = {"iss": settings.team_id, "iat": issued}
    return JsonWebToken.make(header, claims, JsonWebToken.es256(key))


class ApnsClient:
    """Sends notifications through Apple, for one app and over one connection.

    ``token``: the tokens of its key.
    """

    def __init__(
        self, settings: ApnsSettings, token: ProviderToken, url: str, seconds: float
    ) -> None:
        """Connect later, with the first notification."""
        self._settings = settings
        self._token = token
        self._url = url
        self._seconds = seconds
        self._connection: Cached[Http2Connection] = Cached(
            self._connect, lambda connection: connection.is_open
        )

    def _connect(self) -> Http2Connection:
        """Open a connection to Apple. Switches greenlets. Raises
        Unreachable."""
        parts = urlsplit(self._url)
        sock = open_socket(self._url, self._seconds)
        return Http2Connection(sock, parts.netloc, parts.scheme, self._seconds)

    def send(self, token: str, notice: PushNotice) -> PushResult:
        """Hand over a notification for the device with this token.

        If Apple does not accept our own token, the other one is tried. Switches
        greenlets. Raises Unreachable.
        """
        body = payload_of(fitted(notice, MOST_BYTES, _size))
        issued = self._token.now()
        answer = self._ask(token, notice, body, issued)
        rule, reason = self._rule_and_reason(answer)
        if rule.renew:
            answer = self._ask(token, notice, body, self._token.switch_from(issued))
            rule, reason = self._rule_and_reason(answer)
        problem = described(f"{answer.status} {reason}".rstrip())
        result = rule.result(answer.status, problem, answer.headers)
        if rule is GONE:
            return _with_time_gone(result, answer)
        return result

    @staticmethod
    def _rule_and_reason(answer: Answer) -> tuple[Rule, str]:
        """The rule for an answer, and Apple's reason in it; ``""`` if it was
        accepted."""
        if answer.status == 200:
            return TAKEN, ""
        reason = str(json_object(answer.body).get("reason", ""))
        return RULES.get(reason) or rule_of_status(answer.status), reason

    def _ask(self, token: str, notice: PushNotice, body: bytes, issued: int) -> Answer:
        """Send a request with our token of the time ``issued``, and return the
        answer.

        If the server has not begun with it, it is sent again on another
        connection, at most :data:`_TRIES` times. Switches greenlets. Raises
        Unreachable.
        """
        headers = self._headers(notice, issued)
        tries = 0
        while True:
            tries += 1
            connection = self._connection.get()
            try:
                return connection.request(
                    f"/3/device/{token}", headers, body, self._seconds
                )
            except StreamLost as lost:
                # A new try helps only if the connection has ended, and if Apple
                # has not begun with the request.
                if not lost.is_safe or tries == _TRIES or connection.is_open:
                    raise

    def _headers(self, notice: PushNotice, issued: int) -> list[tuple[str, str]]:
        """The headers of a request with our token of the time ``issued``."""
        return [
            ("authorization", f"bearer {self._token.text(issued)}"),
            # The same notification has the same id in each try.
            ("apns-id", str(uuid5(NAMESPACE_URL, f"imserver:{notice.id}"))),
            ("apns-topic", self._settings.topic),
            *headers_of(notice, time()).items(),
        ]

    def close(self) -> None:
        """End the connection if it is idle."""
        if self._connection.value is not None:
            self._connection.value.close()


def _with_time_gone(result: PushResult, answer: Answer) -> PushResult:
    """A result that says since when the device is gone, if Apple tells it.

    The device may have registered again since that time. Then it is not
    removed.
    """
    gone_since = json_object(answer.body).get("timestamp")
    if not isinstance(gone_since, int):
        return result
    return replace(result, gone_since=gone_since // _SECOND_MS)


def client_of(
    settings: ApnsSettings,
    tokens: dict[object, ProviderToken],
    addresses: MobilePushSettings,
) -> ApnsClient | None:
    """The client for one application, or None if the app has no keys for Apple.

    ``tokens``: the tokens of all keys, which apps with one key share. Raises
    BadKey.
    """
    key = apns_key(settings)
    if key is None:
        return None
    if settings.sandbox:
        url = addresses.apns_sandbox_url
    else:
        url = addresses.apns_url
    names = settings.team_id, settings.key_id, key.public_key().public_numbers()
    token = tokens.setdefault(names, ProviderToken(settings, key))
    return ApnsClient(settings, token, url, addresses.seconds)
