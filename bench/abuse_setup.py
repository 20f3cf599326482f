"""The resources of the attackers of :mod:`bench.abuse`: an account with
friends, a group, a bot, uploads; in demo mode messages. They are made anew
before each attack, because some attacks delete them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from io import BytesIO
from typing import Any, Final

import jwt
from PIL import Image

from bench.abuse_rows import CHANNEL, OTHER, USER
from bench.connections import KEY, Target
from bench.http_client import ANSWER_SECONDS, fetch, post
from bench.loop import Json

PASSWORD: Final = "correct horse battery"
CROWD: Final = 200
"""Accounts that the attacker may name as members of a group."""


@dataclass(frozen=True)
class Attacker(Target):
    """A server, and the principal that attacks it: its ``key``, and by name
    what it may use."""

    known: Mapping[str, Any] = field(default_factory=dict)


def register(target: Target, **fields: str) -> Json:
    """Make an account; return its ``token``, ``user`` and ``phone``."""
    phone = f"{time.time_ns():020d}"[-20:]
    account = fetch(target, "/register", f"phone_number={phone}&password={PASSWORD}")
    return {"token": account["token"], "user": account["id"], "phone": phone, **fields}


def stranger(target: Target, reads_history: bool, user: str = USER) -> Attacker:
    """Anybody, in demo mode: a user of the app ``default`` and its back end.

    ``reads_history``: the channel has publications.
    """
    message = {"app": "default", "user": user, "to": OTHER, "text": "x"}
    sent = post(target, "/api/v1/messages/send", message)
    heard = post(
        target, "/api/v1/messages/send", {**message, "user": OTHER, "to": user}
    )
    app = f"bench{time.time_ns()}"
    post(
        target,
        "/api/v1/apps/create",
        {"app": app, "settings": {"webhook": {"secret": "x" * 32}}},
    )
    publication = {
        "channels/publish": {"app": "default", "channel": CHANNEL, "text": "x" * 4_000}
    }
    if reads_history:
        post(target, "/api/v1/batch", {"commands": [publication] * 100})
    stream = post(
        target,
        "/api/v1/channels/stream/open",
        {"app": "default", "channel": CHANNEL, "sender": user},
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


def upload(target: Target, query: str, body: bytes) -> str:
    """Upload a file; return its id."""
    path = f"/api/v1/uploads?name=x&{query}"
    kind = "application/octet-stream"
    return str(
        fetch(target, path, body, seconds=ANSWER_SECONDS, **{"Content-Type": kind})[
            "id"
        ]
    )


def picture(width: int, height: int) -> bytes:
    """A picture of one colour."""
    data = BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    return data.getvalue()


def _tus(target: Target, query: str, body: bytes = b"") -> str:
    """Begin a resumable upload of 1,000 bytes with some of them; return its
    id."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000"}
    headers["Content-Type"] = "application/offset+octet-stream"
    if target.key:
        headers["Authorization"] = f"Bearer {target.key}"
    connection = HTTPConnection(target.http_host, target.http_port)
    connection.request("POST", f"/api/v1/uploads/tus?{query}", body, headers)
    with connection.getresponse() as answer:
        return (answer.headers["Location"] or "").rpartition("/")[2].partition("?")[0]


def account_of(target: Target, crowd: list[str]) -> Attacker:
    """An account: the owner of a group of the crowd with a bot, a webhook and
    an invitation, with uploads."""
    own = register(target)
    friend = register(target)
    account, other = (replace(target, key=each["token"]) for each in (own, friend))
    fields = {"name": "bench", "members": [friend["user"], *crowd]}
    group = post(account, "/api/v1/groups/create", fields)["group"]
    post(account, "/api/v1/groups/open", {"group": group, "open": True})
    conversation = int(group)
    sent = post(
        account, "/api/v1/messages/send", {"conversation": conversation, "text": "x"}
    )
    bot = post(account, "/api/v1/bots", {"name": f"b{time.time_ns()}", "nickname": "x"})
    post(account, "/api/v1/groups/invite", {"group": group, "members": [bot["id"]]})
    as_bot = replace(target, key=bot["token"])
    pressed = {
        "conversation": conversation,
        "text": "x",
        "buttons": [[{"text": "yes", "value": "yes"}]],
    }
    question = post(as_bot, "/api/v1/messages/send", pressed)
    stream = post(
        as_bot, "/api/v1/messages/stream/open", {"conversation": conversation}
    )["stream"]
    hook = post(account, "/api/v1/hooks", {"group": group, "nickname": "x"})
    code, guests = (
        post(account, "/api/v1/invitations/create", {"group": group, "guests": each})[
            "code"
        ]
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
        "code": code,
        "guests": guests,
        "device": devices[0]["device"],
        "provider": "example",
        "upload": upload(account, "", b"x" * 1_000),
        "tus": _tus(account, ""),
        "finished": _tus(account, "", b"x" * 1_000),
    }
    return Attacker(**{**vars(account), "known": known})
