"""Attacks on notifications: messages to a group of users with devices. Somebody else is notified, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bench.abuse_setup import Attacker
from bench.generator import Generator
from bench.http_client import JSON, post, request_head
from bench.loop import BenchError
from bench.push_services import AUTH, GOOD, P256DH, PushServices

MODE: Final = "notify"
ENVIRONMENT: Final = {
    "IMSERVER_APPS": "{default: {open: true, notify: {after_seconds: 1, again_seconds: 0}}}",
    "IMSERVER_NOTIFICATIONS_ALLOW_LOOPBACK": "true",
}
APP: Final = "default"
MEMBERS: Final = 150
MENTIONED: Final = 100
"""The most users whom a message may mention."""
STRANGER: Final = "stranger"


def _services(generator: Generator) -> PushServices:
    services: PushServices | None = generator.state.get("services")
    if services is None:
        services = generator.state["services"] = PushServices(generator.loop)
    return services


def group_of(generator: Generator) -> Attacker:
    """The owner of a new group, whose members have a device each and want only mentions."""
    target, services = generator.target, _services(generator)
    prefix = f"{time.time_ns()}-"
    members = [f"{prefix}{number}" for number in range(MEMBERS)]
    group = post(
        target, "/api/v1/groups/create", {"app": APP, "user": "owner", "name": "x", "members": members}
    )
    if "group" not in group:
        raise BenchError(f"no group: {json.dumps(group)[:300]}")
    conversation = int(group["group"])
    for user in (*members, STRANGER):
        endpoint = f"http://{GOOD}:{services.port}/{GOOD}/{user}"
        keys = {"p256dh": P256DH, "auth": AUTH}
        body = {"app": APP, "user": user, "endpoint": endpoint, "keys": keys}
        post(target, "/api/v1/notifications/endpoints", body)
    for user in members:
        wish = {"app": APP, "user": user, "conversation": conversation, "level": "mentions"}
        post(target, "/api/v1/notifications/conversations", wish)
    known = {"conversation": conversation, "members": members, "before": notified(generator)}
    return Attacker(**{**vars(target), "known": known})


def notified(generator: Generator) -> int:
    """How often the stranger was notified."""
    return _services(generator).requests[f"/{GOOD}/{STRANGER}"]


def messages(count: int, **fields: Any) -> Callable[[Attacker], bytes]:
    """A message that mentions all members, ``count`` that say ``fields``, and one to the stranger."""

    def build(attacker: Attacker) -> bytes:
        own = {"app": APP, "user": "owner", "conversation": attacker.known["conversation"], "text": "x"}
        named = {"mentions": attacker.known["members"][:MENTIONED]} if fields.get("mentions") else {}
        many = _request(attacker, {**own, **fields, **named})
        everybody = _request(attacker, {**own, "mentions": ["all"]})
        other = _request(attacker, {"app": APP, "user": "owner", "to": STRANGER, "text": "x"})
        return everybody + many * count + other

    return build


def _request(attacker: Attacker, message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return request_head(attacker, "/api/v1/messages/send", JSON, len(body)) + body
