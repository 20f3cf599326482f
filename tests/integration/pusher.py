"""Clients and back ends of the pusher dialect on raw sockets."""

import hashlib
import hmac
import json
import time
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

from imserver.plugin.testing import HostAndPort
from tests.support import Server

from .raw import Raw, Response, ask, request, text

SHOP: Final = {"app_id": "7", "key": "shopkey", "secret": "the secret of the shop"}


def sign(what: str, secret: str = SHOP["secret"]) -> str:
    return hmac.digest(secret.encode(), what.encode(), "sha256").hex()


class Client(Raw):
    """A connected client. ``socket_id``: what the server calls it."""

    def __init__(
        self, address: HostAndPort, key: str = SHOP["key"], query: str = "protocol=7"
    ) -> None:
        super().__init__(address)
        self.upgrade(f"/app/{key}?{query}")
        first = self.message().json
        self.socket_id = ""
        self.refusal = first
        if first["event"] == "pusher:connection_established":
            self.socket_id = json.loads(first["data"])["socket_id"]

    def say(self, event: str, data: Any, channel: str = "") -> None:
        frame = {"event": event, "data": data} | (
            {"channel": channel} if channel else {}
        )
        self.send(text(json.dumps(frame)))

    def asks(
        self, channel: str, member: Any = None, secret: str = SHOP["secret"]
    ) -> None:
        """Ask for a subscription with a signature."""
        data = "" if member is None else json.dumps(member)
        signed = ":".join([self.socket_id, channel, *([data] if data else [])])
        question = {"channel": channel, "auth": f"{SHOP['key']}:{sign(signed, secret)}"}
        self.say(
            "pusher:subscribe", question | ({"channel_data": data} if data else {})
        )

    def subscribes(self, channel: str, user: str = "") -> Any:
        """Subscribe, and return the state of the channel."""
        self.asks(
            channel, {"user_id": user, "user_info": {"name": user}} if user else None
        )
        return self.event("pusher_internal:subscription_succeeded", channel)

    def signs_in(self, user: str | int, key: str = SHOP["key"]) -> None:
        data = json.dumps({"id": user})
        auth = f"{key}:{sign(f'{self.socket_id}::user::{data}')}"
        self.say("pusher:signin", {"auth": auth, "user_data": data})

    def event(self, name: str, channel: str = "") -> Any:
        """The data of the next frame, which is this event."""
        found = self.message().json
        assert (found["event"], found.get("channel", "")) == (name, channel), found
        data = found.get("data")
        with suppress(ValueError, TypeError):
            return json.loads(data)
        return data  # an error, or a text

    def is_quiet(self) -> None:
        """Nothing has come."""
        self.say("pusher:ping", {})
        self.event("pusher:pong")


def call(
    server: Server, method: str, path: str, body: Any = None, **params: Any
) -> Response:
    """A signed request of the back end."""
    content = b"" if body is None else json.dumps(body).encode()
    now = str(int(time.time()))
    given = {
        "auth_key": SHOP["key"],
        "auth_version": "1.0",
        "auth_timestamp": now,
        **params,
    }
    if content and "body_md5" not in given:
        given["body_md5"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    signed = "&".join(f"{name}={given[name]}" for name in sorted(given))
    given["auth_signature"] = sign(f"{method}\n{path}\n{signed}")
    return ask(
        server.http, request(f"{path}?{urlencode(given)}", method=method, body=content)
    )


def trigger(
    server: Server, channel: str, data: str = "x", name: str = "e", **more: Any
) -> Any:
    """Send an event; the answer."""
    event = {"name": name, "channels": [channel], "data": data, **more}
    answer = call(server, "POST", "/apps/7/events", event)
    assert answer.status == 200, answer
    return answer.json
