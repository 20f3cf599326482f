"""Google's Firebase Cloud Messaging, HTTP v1: requests with access tokens of a
service account.

Sources: the reference of ``projects.messages`` and of ``ErrorCode``, "FCM
throttling and quotas", and "Using OAuth 2.0 for server to server applications"
of Google.
"""

import re
from functools import partial
from itertools import chain
from time import time
from typing import Any, Final

import msgspec

from imserver.plugin.identity import JsonWebToken
from imserver.plugin.runtime import Outgoing
from imserver.plugin.wire import PushNotice

from .apns import aps_of, headers_of
from .service import (
    AGAIN_SECONDS,
    GONE,
    LATER,
    MEND,
    REFUSED,
    RENEW,
    TAKEN,
    AccessToken,
    JsonClient,
    Rule,
    ask_for_token,
    described,
    facts_of,
    is_silent,
    json_object,
    rule_of_status,
    rules,
)
from .settings import FcmKey, FcmSettings, MobilePushSettings, fcm_key

NAME: Final = "fcm"
FORM: Final = re.compile(r"[A-Za-z0-9_:%.~-]{20,990}")
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
MOST_TTL: Final = 2_419_200
_ASSERTION_SECONDS: Final = 3600
"""The life of the assertion that requests an access token."""
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"

RULES: Final = rules(
    (GONE, "UNREGISTERED"),
    (REFUSED, "INVALID_ARGUMENT SENDER_ID_MISMATCH THIRD_PARTY_AUTH_ERROR"),
    (Rule("later", AGAIN_SECONDS), "QUOTA_EXCEEDED RESOURCE_EXHAUSTED"),
    (LATER, "INTERNAL UNAVAILABLE UNSPECIFIED_ERROR"),
    (RENEW, "UNAUTHENTICATED"),
    (MEND, "NOT_FOUND PERMISSION_DENIED"),
)
"""Code of FCM, or else status of Google's APIs → the rule for it."""


def message_of(token: str, notice: PushNotice, data_only: bool) -> dict[str, Any]:
    """The field ``message`` of a request to Google.

    Devices of Apple and browsers get the same content as without Google.
    ``data_only``: the application shows the notification itself, so the texts
    are in its data.
    """
    is_shown_by_device = not is_silent(notice) and not data_only
    facts = facts_of(notice, with_text=data_only and not is_silent(notice))
    # Google accepts only texts as data, so the facts are JSON in a text.
    data = {"imserver": msgspec.json.encode(facts).decode()}
    message: dict[str, Any] = {"token": token, "data": data}
    android, web = _delivery_of(notice)
    if is_shown_by_device:
        message["notification"] = _texts_of(notice)
        android["notification"] = _android_display(notice)
        web |= _web_display(notice)

    apns = {"headers": headers_of(notice, time()), "payload": {"aps": aps_of(notice)}}
    return {**message, "android": android, "apns": apns, "webpush": web}


def _texts_of(notice: PushNotice) -> dict[str, str]:
    """The title and the body of a notification, without empty ones."""
    texts = {"title": notice.title, "body": notice.body}
    return {name: value for name, value in texts.items() if value}


def _delivery_of(notice: PushNotice) -> tuple[dict[str, Any], dict[str, Any]]:
    """How Google delivers a notification to Android, and to browsers: how long
    it is tried, how urgent it is, and which others it replaces."""
    ttl = min(max(notice.ttl, 0), MOST_TTL)
    # Only pushes that show something may wake the device.
    urgency = "high"
    if is_silent(notice):
        urgency = "normal"
    android: dict[str, Any] = {"ttl": f"{ttl}s", "priority": urgency.upper()}
    headers = {"TTL": str(ttl), "Urgency": urgency}
    if notice.topic:
        android["collapse_key"] = notice.topic
        headers["Topic"] = notice.topic
    return android, {"headers": headers}


def _android_display(notice: PushNotice) -> dict[str, Any]:
    """How Android shows a notification."""
    display: dict[str, Any] = {"tag": notice.tag, "sound": "default"}
    if notice.badge is not None:
        display["notification_count"] = notice.badge
    return display


def _web_display(notice: PushNotice) -> dict[str, Any]:
    """How browsers show a notification. Google accepts only addresses with
    https."""
    display: dict[str, Any] = {"tag": notice.tag}
    if notice.icon.startswith("https://"):
        display["icon"] = notice.icon
    fields: dict[str, Any] = {"notification": display}
    if notice.url.startswith("https://"):
        fields["fcm_options"] = {"link": notice.url}
    return fields


def _size(message: dict[str, Any]) -> int:
    """The size of a message as Google counts it, in bytes.

    Texts and data count, and the copies of them for Apple's devices.
    """
    parts = message["data"], message.get("notification"), message["apns"]["payload"]
    return len(msgspec.json.encode(parts))


def client_of(
    settings: FcmSettings, addresses: MobilePushSettings, requests: Outgoing
) -> JsonClient | None:
    """The client with the service account of one app, or None if the app has
    no such account. Raises BadKey."""
    key = fcm_key(settings)
    if key is None:
        return None

    def renew() -> AccessToken:
        """Request an access token, with an assertion that the service account
        signs (RFC 7523). Switches greenlets. Raises Unreachable."""
        fields = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": _assertion(key),
        }
        return ask_for_token(
            requests, addresses.google_oauth_url, fields, addresses.seconds
        )

    url = f"{addresses.fcm_url.rstrip('/')}/v1/projects/{key.project}/messages:send"
    make_message = partial(message_of, data_only=settings.data_only)
    return JsonClient(
        requests,
        url,
        addresses.seconds,
        renew=renew,
        message_of=make_message,
        size=_size,
        judge=judge,
    )


def _assertion(key: FcmKey) -> str:
    """A token by which a service account proves itself to Google, for an hour.
    It is signed with the account's own key."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    now = int(time())
    claims = {
        "iss": key.email,
        "scope": SCOPE,
        "aud": key.audience,
        "iat": now,
        "exp": now + _ASSERTION_SECONDS,
    }
    head = {"alg": "RS256", "typ": "JWT"}
    if key.key_id:
        head["kid"] = key.key_id
    sign = partial(key.key.sign, padding=PKCS1v15(), algorithm=SHA256())
    return JsonWebToken.make(head, claims, sign)


def judge(_token: str, status: int, body: bytes) -> tuple[Rule, str]:
    """The rule for an answer of Google, and its description for log lines.

    The description is ``""`` if the notification was accepted. A *rule* says
    whether to try again, or to remove the device.
    """
    if status == 200:
        return TAKEN, ""
    error = json_object(body).get("error")
    if not isinstance(error, dict):
        error = {}
    details = [row for row in error.get("details") or () if isinstance(row, dict)]
    code = _code_of(error, details)
    text = str(error.get("message", ""))
    # The device is gone, but only the text or the details tell it.
    if code == "INVALID_ARGUMENT" and _is_of_token(text, details):
        rule = GONE
    else:
        rule = _rule_of_code(code, status)
    return rule, described(f"{status} {code}".rstrip(), text)


def _rule_of_code(code: str, status: int) -> Rule:
    """The rule for a code of Google, or for the status if the code has none."""
    if code in RULES:
        return RULES[code]
    if status == 401:
        return RENEW
    return rule_of_status(status)


def _code_of(error: dict[str, Any], details: list[dict[str, Any]]) -> str:
    """The code of FCM in an error, such as ``UNREGISTERED``. An error without
    one has the status of Google's APIs."""
    for row in details:
        if row.get("@type") == _FCM_ERROR and row.get("errorCode"):
            return str(row["errorCode"])
    return str(error.get("status", ""))


def _is_of_token(text: str, details: list[dict[str, Any]]) -> bool:
    """Whether the argument that Google calls wrong is the token of the
    device."""
    if "registration token" in text:
        return True
    lists = (row.get("fieldViolations") or () for row in details)
    for violation in chain.from_iterable(lists):
        if isinstance(violation, dict) and violation.get("field") == "message.token":
            return True
    return False
