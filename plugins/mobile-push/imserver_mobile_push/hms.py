"""Huawei's Push Kit, version 1: requests with access tokens of an application.

Sources: "Sending messages" and "Obtaining an app-level access token" in
Huawei's references of HMS Core.
"""

import re
from collections.abc import Collection
from functools import partial
from typing import Any, Final

import msgspec

from imserver.plugin.runtime import Outgoing
from imserver.plugin.wire import PushNotice

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
from .settings import HmsSettings, MobilePushSettings, hms_secret

NAME: Final = "hms"
FORM: Final = re.compile(r"[A-Za-z0-9_.:|+/=-]{16,990}")
MOST_TTL: Final = 1_296_000
_SOME_SENT: Final = "80100000"
_OPEN_APPLICATION: Final = 3
"""The code for the effect of a tap on a notification: open the application."""
_MOST_BADGE: Final = 99

RULES: Final = rules(
    (TAKEN, "80000000"),
    (GONE, "80300007"),
    (REFUSED, f"{_SOME_SENT} 80100001 80100003 80100004 80100013 80100016 80100017"),
    (REFUSED, "80300008 80300010 80300011 400"),
    (RENEW, "80200001 80200003 401"),
    (MEND, "80300002 404"),
    (LATER, "80600003 81000001 500 502"),
    (Rule("later", AGAIN_SECONDS), "503"),
)
"""Code of the service, or else status of HTTP → the rule for it."""


def message_of(token: str, notice: PushNotice, settings: HmsSettings) -> dict[str, Any]:
    """The field ``message`` of a request to Huawei. A silent notification has
    only data."""
    android: dict[str, Any] = {
        "ttl": f"{min(max(notice.ttl, 1), MOST_TTL)}s",
        "urgency": "HIGH",
    }
    if is_silent(notice):
        android["urgency"] = "NORMAL"
    else:
        if settings.category:
            android["category"] = settings.category
        android["notification"] = _display_of(notice, settings)
    # The facts of the application are JSON in a text.
    facts = msgspec.json.encode(facts_of(notice, with_text=False)).decode()
    return {"token": [token], "data": facts, "android": android}


def _display_of(notice: PushNotice, settings: HmsSettings) -> dict[str, Any]:
    """How the phone shows a notification."""
    display: dict[str, Any] = {
        # Huawei refuses an empty text.
        "title": notice.title or " ",
        "body": notice.body or " ",
        "tag": notice.tag,
        "click_action": {"type": _OPEN_APPLICATION},
    }
    if settings.badge_class and notice.badge is not None:
        display["badge"] = {
            "set_num": min(notice.badge, _MOST_BADGE),
            "class": settings.badge_class,
        }
    return display


def _size(message: dict[str, Any]) -> int:
    """The size of a message as Huawei counts it, in bytes."""
    return len(msgspec.json.encode(message))


def client_of(
    settings: HmsSettings, addresses: MobilePushSettings, requests: Outgoing
) -> JsonClient | None:
    """The client for one application, or None if the app has no keys for
    Huawei. Raises BadKey."""
    secret = hms_secret(settings)
    if not secret:
        return None

    def renew() -> AccessToken:
        """Request an access token. Switches greenlets. Raises
        Unreachable."""
        fields = {
            "grant_type": "client_credentials",
            "client_id": settings.app_id,
            "client_secret": secret,
        }
        return ask_for_token(
            requests, addresses.hms_oauth_url, fields, addresses.seconds
        )

    url = f"{addresses.hms_url.rstrip('/')}/v1/{settings.app_id}/messages:send"
    make_message = partial(message_of, settings=settings)
    return JsonClient(
        requests,
        url,
        addresses.seconds,
        renew=renew,
        message_of=make_message,
        size=_size,
        judge=judge,
    )


def judge(token: str, status: int, body: bytes) -> tuple[Rule, str]:
    """The rule for an answer of Huawei to a request for one device, and its
    description for log lines."""
    answer = json_object(body)
    code = str(answer.get("code", ""))
    text = str(answer.get("msg", ""))
    rule = RULES.get(code) or RULES.get(str(status)) or rule_of_status(status)
    # A request may be for many devices, of which some are not reached.
    if code == _SOME_SENT and token in _illegal_tokens(text):
        rule = GONE
        text = ""
    return rule, described(f"{status} {code}".rstrip(), text)


def _illegal_tokens(text: str) -> Collection[str]:
    """The tokens of devices that are gone, from the message of an answer, which
    is JSON here."""
    tokens: Collection[str] = json_object(text.encode()).get("illegal_tokens") or ()
    return tokens
