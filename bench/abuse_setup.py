"""The resources of the attackers of :mod:`bench.abuse`: an account with friends, a group, a bot, uploads;
in demo mode messages. They are made anew before each attack, because some attacks delete them.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Final
from urllib.parse import urlencode

import jwt

from bench.abuse_rows import CHANNEL, OTHER, SYSTEM, USER
from bench.connections import KEY, Target
from bench.http_client import fetch, post
from bench.loop import Json

PASSWORD: Final = "correct horse battery"
_ENDPOINT: Final = {
    "endpoint": "https://push.example.com/wpush/v2/gAAAA",
    "keys": {
        "p256dh": "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    },
    "device": "x",
}
CROWD: Final = 200
"""Accounts that the attacker may name as members of a group."""


@dataclass(frozen=True)
class Attacker(Target):
    """A server, and the principal that attacks it: its ``key``, and by name what it may use."""

    known: Mapping[str, Any] = field(default_factory=dict)


def register(target: Target, **fields: str) -> Json:
    """Make an account; return its ``token``, ``user`` and ``phone``."""
    phone = f"{time.time_ns():020d}"[-20:]
    account = fetch(target, "/register", f"phone_number={phone}&password={PASSWORD}")
    return {"token": account["token"], "user": account["id"], "phone": phone, **fields}


def crowd_of(target: Target) -> dict[str, str]:
    """Make the accounts whom each attacker may name; return their tokens."""
    return {each["user"]: each["token"] for each in (register(target) for _ in range(CROWD))}


def stranger(target: Target, reads_history: bool, user: str = USER) -> Attacker:
    """Anybody, in demo mode: a user of the app ``default`` and its back end.

    ``reads_history``: the channel has publications.
    """
    message = {"app": "default", "user": user, "to": OTHER, "text": "x"}
    sent = post(target, "/api/v1/messages/send", message)
    heard = post(target, "/api/v1/messages/send", {**message, "user": OTHER, "to": user})
    app = f"bench{time.time_ns()}"
    post(target, "/api/v1/apps/create", {"app": app, "settings": {"webhook": {"secret": "x" * 32}}})
    post(target, "/api/register", {"systemId": SYSTEM})
    publication = {"channels/publish": {"app": "default", "channel": CHANNEL, "text": "x" * 4_000}}
    if reads_history:
        post(target, "/api/v1/batch", {"commands": [publication] * 100})
    stream = post(
        target, "/api/v1/channels/stream/open", {"app": "default", "channel": CHANNEL, "sender": user}
    )
    known = {
        "app": "default",
        "user": user,
        "token": jwt.encode({"sub": user}, KEY, "HS256"),
        "to": OTHER,
        "channel": CHANNEL,
        **dict.fromkeys(("id", "thread"), sent["id"]),
        "heard": heard["id"],
        "conversation": sent["conversation"],
        "ids": list(range(max(1, sent["id"] - 999), sent["id"] + 1)),
        "last_ids": list(range(max(1, sent["id"] - 99), sent["id"] + 1)),
        "stream": stream["stream"],
        "upload": upload(target, f"app=default&user={user}", b"x" * 1_000),
        "tus": _tus(target, "app=default&user=" + user),
        "spare_app": app,
    }
    return Attacker(**{**vars(target), "known": known})


def object_of(attacker: Attacker, operation: str) -> object:
    """The id of a new object for one of :data:`bench.abuse_rows.OBJECTS`."""
    own = {"app": "default", "user": attacker.known["user"]}
    if operation.startswith("exports/"):
        whose = {"app": "default"} | (own if operation.endswith("/self") else {})
        suffix = "/self" if operation.endswith("/self") else ""
        id = post(attacker, f"/api/v1/exports/start{suffix}", whose)["id"]
        shown, until = f"/api/v1/exports/show{suffix}?{urlencode({**whose, 'id': id})}", time.monotonic() + 20
        while fetch(attacker, shown)["state"] != "done" and time.monotonic() < until:
            time.sleep(0.05)
        return id
    heard = attacker.known["heard"]
    notice = {"title": "x", "text": "x", "url": "/"}
    route, fields, name = {
        "reports": ("reports/send", {**own, "message": heard, "reason": "spam"}, "report"),
        "moderation": ("moderation/delete", {"app": "default", "messages": [heard]}, "act"),
        "keys": ("keys/create", {"scopes": ["read"]}, "id"),
        "audiences": ("notifications/audiences", {"app": "default", "all": True, "notify": notice}, "id"),
        "endpoints": ("notifications/endpoints", {**own, **_ENDPOINT}, "id"),
    }[operation.removeprefix("notifications/").partition("/")[0]]
    answer = post(attacker, f"/api/v1/{route}", fields)
    return (answer["key"] if route == "keys/create" else answer)[name]


def member_of_a_group(target: Target) -> Json:
    """A member of a group of accounts, whom a moderator may remove."""
    owner, member = register(target), register(target)
    fields = {"name": "bench", "members": [member["user"]]}
    group = post(replace(target, key=owner["token"]), "/api/v1/groups/create", fields)["group"]
    return {"app": "gochat", "user": member["user"], "group": group}


def upload(target: Target, query: str, body: bytes) -> str:
    """Upload a file; return its id."""
    answer = _request(target, "POST", f"/api/v1/uploads?name=x&{query}", body)
    return str(json.loads(answer.read())["id"])


def png(width: int, height: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _request(target: Target, method: str, path: str, body: bytes = b"", **headers: str) -> HTTPResponse:
    connection = HTTPConnection(target.http_host, target.http_port)
    if target.key:
        headers["Authorization"] = f"Bearer {target.key}"
    connection.request(method, path, body, headers={"Content-Type": "application/octet-stream", **headers})
    return connection.getresponse()


def _tus(target: Target, query: str, body: bytes = b"") -> str:
    """Begin a resumable upload of 1,000 bytes with some of them; return its id."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000"}
    headers["Content-Type"] = "application/offset+octet-stream"
    with _request(target, "POST", f"/api/v1/uploads/tus?{query}", body, **headers) as answer:
        return (answer.headers["Location"] or "").rpartition("/")[2].partition("?")[0]


def account_of(target: Target, crowd: list[str]) -> Attacker:
    """An account: the owner of a group of the crowd with a bot, a webhook and an invitation, with uploads."""
    own, friend = register(target), register(target)
    account, other = (replace(target, key=each["token"]) for each in (own, friend))
    fields = {"name": "bench", "members": [friend["user"], *crowd]}
    group = post(account, "/api/v1/groups/create", fields)["group"]
    post(account, "/api/v1/groups/open", {"group": group, "open": True})
    conversation = int(group)
    sent = post(account, "/api/v1/messages/send", {"conversation": conversation, "text": "x"})
    bot = post(account, "/api/v1/bots", {"name": f"b{time.time_ns()}", "nickname": "x"})
    post(account, "/api/v1/groups/invite", {"group": group, "members": [bot["id"]]})
    as_bot = replace(target, key=bot["token"])
    pressed = {"conversation": conversation, "text": "x", "buttons": [[{"text": "yes", "value": "yes"}]]}
    question = post(as_bot, "/api/v1/messages/send", pressed)
    stream = post(as_bot, "/api/v1/messages/stream/open", {"conversation": conversation})["stream"]
    hook = post(account, "/api/v1/hooks", {"group": group, "nickname": "x"})
    code, guests = (
        post(account, "/api/v1/invitations/create", {"group": group, "guests": each})["code"]
        for each in (False, True)
    )
    post(other, "/api/v1/friends/request", {"friend": own["user"]})
    devices = fetch(account, "/api/v1/accounts/devices")["devices"]
    known = {
        "app": "gochat",
        **dict.fromkeys(("user", "of"), own["user"]),
        "login": own["phone"],
        **dict.fromkeys(("password", "old_password"), PASSWORD),
        **dict.fromkeys(("friend", "member", "to"), friend["user"]),
        "friend_token": friend["token"],
        "friend_login": friend["phone"],
        **dict.fromkeys(("members", "users"), crowd),
        "group": group,
        "conversation": conversation,
        **dict.fromkeys(("id", "thread"), sent["id"]),
        **{name: [sent["id"]] for name in ("ids", "last_ids")},
        "asked": question["id"],
        "bot": bot["id"],
        "bot_token": bot["token"],
        "stream": stream,
        "hook": hook["id"],
        "hook_url": hook["url"],
        "code": code,
        "guests": guests,
        "device": devices[0]["device"],
        "provider": "example",
        "upload": upload(account, "", b"x" * 1_000),
        "tus": _tus(account, ""),
        "finished": _tus(account, "", b"x" * 1_000),
    }
    return Attacker(**{**vars(account), "known": known})
