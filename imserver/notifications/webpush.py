"""Web Push: encrypts a notification for a device, and hands it to the push
service of its endpoint.

RFC 8030 (requests), RFC 8291 (encryption) and RFC 8292 (VAPID: the signed token
by which a push service knows this server). The endpoints of UnifiedPush take
the same requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from time import time
from typing import TYPE_CHECKING, Final

from imserver.notifications.contract import PushEndpoint
from imserver.notifications.declared import P256_ORDER, NotificationSettings
from imserver.plugin.identity import JsonWebToken
from imserver.plugin.runtime import PublicRequests, Service, Unreachable, serve_others
from imserver.plugin.wire import PushResult, base64url

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

BODY_BYTES: Final = 4096
"""The longest encrypted body that every push service accepts, in bytes (RFC
8030, section 7.2; UnifiedPush)."""
ANSWER_BYTES: Final = 16384
REQUEST_SECONDS: Final = 10.0
TOKEN_SECONDS: Final = 12 * 3600
"""How long a token is valid. Push services refuse tokens that are valid for
more than a day."""
REUSE_SECONDS: Final = TOKEN_SECONDS - 3600
"""How long a token is reused."""
MOST_TOKENS: Final = 1024
PROBLEM_BYTES: Final = 200
"""How many bytes of the answer of a push service a problem quotes."""
_WRONG_KEY: Final = (401, 403)
"""The statuses by which a push service says that the token was not signed with
the key of the subscription."""
_GONE: Final = (404, 410)
"""The statuses by which a push service says that an endpoint has ended."""
_TEMPORARY: Final = (408, 425, 429)
"""The statuses below 500 after which the request is sent again."""
_DIGITS: Final = 9
"""Most digits of a ``retry-after`` that are read."""
_POINT_BYTES: Final = 65
"""An uncompressed point of P-256."""
_AUTH_BYTES: Final = 16


def _content_of(text: str) -> bytes:
    """Decode a key of a browser; ``b""`` if it is no base64."""
    try:
        return base64url.decode_any_form(text)
    except ValueError:
        return b""


def _encrypt(
    endpoint: PushEndpoint,
    body: bytes,
    key: EllipticCurvePrivateKey,
    salt: bytes | None = None,
) -> bytes:
    """Encrypt a notification for an endpoint (RFC 8291).

    ``key``: a key that is used once. ``salt`` None: a random one. Raises
    ValueError if the keys of the endpoint are invalid.
    """
    # Loaded here: a node without endpoints does not need it.
    import http_ece

    content: bytes = http_ece.encrypt(
        body,
        salt=salt,
        private_key=key,
        dh=base64url.decode_any_form(endpoint.p256dh),
        auth_secret=base64url.decode_any_form(endpoint.auth),
        rs=BODY_BYTES,
        version="aes128gcm",
    )
    return content


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read the header ``retry-after``: how many seconds to wait.

    The header has a number of seconds, or a date. ``now``: Unix seconds.
    Returns None if there is no such header, or if it cannot be read.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_DIGITS])
    from email.utils import parsedate_to_datetime  # services seldom answer with a date

    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _failure_of(status: int, answer: bytes, pause: float | None) -> PushResult:
    """Return the result of a request that the push service has not accepted.

    ``pause``: after how many seconds the service wants the next request; None:
    it does not say. With some statuses, the same request may succeed later.
    """
    text = answer[:PROBLEM_BYTES].decode("utf-8", "replace")
    problem = f"it answered with status {status}: {text!r}"
    if status >= 500 or status in _TEMPORARY:
        return PushResult("later", status, pause, problem)
    return PushResult("refused", status, pause, problem)


class WebPush(Service, dict=True):
    """Sends notifications to browsers, and to devices with UnifiedPush.

    A push service knows this server by its key (VAPID): each request has a
    token that is signed with the key.

    ``seed``: 32 bytes, from which the key is derived unless the settings have a
    key. ``http_url``: the contact for push services if the settings have no
    contact, and the URL has https. ``older_seed``: an older seed, for devices
    that subscribed before the server had the current one; ``b""``: no older
    seed.
    """

    requests: PublicRequests
    settings: NotificationSettings
    seed: bytes
    http_url: str = ""
    older_seed: bytes = b""

    def __post_init__(self) -> None:
        """Choose the contact for push services, and prepare the older key."""
        url = self.http_url
        self._older: WebPush | None = None
        """Sends with the older key."""
        if self.older_seed:
            self._older = WebPush(self.requests, self.settings, self.older_seed, url)
        self._subject = self.settings.contact
        if not self._subject and url.startswith("https://"):
            self._subject = url
        self._tokens: dict[str, tuple[float, str]] = {}
        """Origin → the end of the use of its header (Unix seconds), and the
        header."""

    @cached_property
    def _key(self) -> EllipticCurvePrivateKey:
        """The key that signs the tokens for push services."""
        # Loaded here: a node without endpoints does not need it.
        from cryptography.hazmat.primitives.asymmetric.ec import (
            SECP256R1,
            derive_private_key,
        )

        if self.settings.vapid_key:
            number = int.from_bytes(base64url.decode_any_form(self.settings.vapid_key))
        else:
            # Private keys are the numbers from 1 to the order less 1.
            number = int.from_bytes(self.seed, "big") % (P256_ORDER - 1) + 1
        return derive_private_key(number, SECP256R1())

    @cached_property
    def public_key(self) -> str:
        """The key with which browsers subscribe (``applicationServerKey``).

        It is a point of the curve P-256, in base64url.
        """
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        point = self._key.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )
        return base64url.encode(point)

    def check(self, url: str, p256dh: str, auth: str) -> None:
        """Check an endpoint and its keys, as a browser has given them.

        Raises BadUrl for the ``url``, and ValueError for the keys. Never
        switches greenlets.
        """
        self.requests.check(url)
        # Loaded here: a node without endpoints does not need it.
        from cryptography.hazmat.primitives.asymmetric.ec import (
            SECP256R1,
            EllipticCurvePublicKey,
        )

        point = _content_of(p256dh)
        try:
            EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
        except ValueError:
            point = b""
        # The library also accepts compressed points, but push does not.
        if len(point) != _POINT_BYTES:
            raise ValueError(
                "p256dh: expected an uncompressed point of P-256 in base64url"
            )
        if len(_content_of(auth)) != _AUTH_BYTES:
            raise ValueError("auth: expected 16 bytes in base64url")

    def send(
        self, endpoint: PushEndpoint, body: bytes, ttl: int, urgency: str, topic: str
    ) -> PushResult:
        """Encrypt ``body``, and hand it to the push service.

        ``body``: the notification as JSON. ``ttl``: seconds for which the push
        service keeps it. ``urgency``: ``very-low`` to ``high``. ``topic``: a
        later notification with this topic replaces it; ``""``: no topic.
        Switches greenlets.
        """
        content = self.encrypt(endpoint, body)
        return self.hand_over(endpoint, content, ttl, urgency, topic)

    @staticmethod
    def encrypt(endpoint: PushEndpoint, body: bytes) -> bytes:
        """Encrypt ``body``, with a key that is used once.

        ``body``: the notification as JSON. Returns ``b""`` if the keys of the
        endpoint are invalid.
        """
        # Loaded here: a node without endpoints does not need it.
        from cryptography.hazmat.primitives.asymmetric.ec import (
            SECP256R1,
            generate_private_key,
        )

        try:
            return _encrypt(endpoint, body, generate_private_key(SECP256R1()))
        except ValueError:
            return b""

    def hand_over(
        self, endpoint: PushEndpoint, content: bytes, ttl: int, urgency: str, topic: str
    ) -> PushResult:
        """Hand the encrypted content to the push service. Switches greenlets.

        ``content`` ``b""``: it could not be encrypted. ``ttl``: seconds for
        which the push service keeps it. ``urgency``: ``very-low`` to ``high``.
        ``topic``: a later notification with this topic replaces it; ``""``: no
        topic.
        """
        if not content:
            return PushResult(
                "refused", problem="the keys of the endpoint are not valid"
            )
        if not self._tokens:
            # Give others a turn between loading the libraries for encryption
            # and for signing.
            serve_others()
        headers = self._headers_of(endpoint.url, ttl, urgency, topic)
        try:
            status, answer, received = self.requests.exchange(
                "POST", endpoint.url, content, headers, REQUEST_SECONDS, ANSWER_BYTES
            )
        except Unreachable as error:
            return PushResult("later", problem=str(error))

        # The device may have subscribed when the server had its older key.
        if status in _WRONG_KEY and self._older is not None:
            return self._older.hand_over(endpoint, content, ttl, urgency, topic)
        if 200 <= status < 300:
            return PushResult("taken", status)
        if status in _GONE:
            return PushResult("gone", status)
        return _failure_of(status, answer, pause=retry_after(received, time()))

    def _headers_of(
        self, url: str, ttl: int, urgency: str, topic: str
    ) -> dict[str, str]:
        """Return the headers of a request, as :meth:`hand_over` describes them."""
        headers = {
            "Authorization": self.authorization(url),
            "Content-Type": "application/octet-stream",
            "Content-Encoding": "aes128gcm",
            "TTL": str(ttl),
            "Urgency": urgency,
        }
        if topic:
            headers["Topic"] = topic
        return headers

    def authorization(self, url: str) -> str:
        """Return the header ``Authorization`` of a request to an endpoint.

        It has a token for the origin of the URL, and the public key of this
        server: ``vapid t=eyJ0…,k=BLx3…``. A token is reused for hours.
        """
        origin = re.match(r"https?://[^/?#]+", url)[0]  # type: ignore[index]  # it was checked
        now = time()
        until, header = self._tokens.get(origin, (0.0, ""))
        if now < until:
            return header

        begin = int(now)
        token = self._make_token(origin, begin)
        # Without a space after the comma: some push services do not skip it.
        header = f"vapid t={token},k={self.public_key}"
        if len(self._tokens) >= MOST_TOKENS:
            self._tokens.clear()
        self._tokens[origin] = begin + REUSE_SECONDS, header
        return header

    def _make_token(self, origin: str, begin: int) -> str:
        """Make the signed token for a push service (RFC 8292).

        ``origin``: for example ``https://push.example``. ``begin``: Unix
        seconds.
        """
        # The origin of RFC 6454 is in lower case, and leaves out the usual
        # port.
        default_port = {"http": ":80", "https": ":443"}[origin.partition(":")[0]]
        claims = {
            "aud": origin.lower().removesuffix(default_port),
            "exp": begin + TOKEN_SECONDS,
        }
        if self._subject:
            claims["sub"] = self._subject
        return JsonWebToken.make(
            {"alg": "ES256", "typ": "JWT"}, claims, JsonWebToken.es256(self._key)
        )

    def close(self) -> None:
        """End the idle connections."""
        self.requests.close()
