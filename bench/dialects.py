"""How connections of the generators open in each dialect: where, and by which frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench import protobuf
from bench.frames import client_frame, login_frame, user_name
from bench.tokens import KEY, session_token

LOGIN_ANSWER = b'":"login"'
"""Stands in the answer to a login in every dialect that has one, and in nothing else."""
SYSTEM = "bench"


@dataclass(frozen=True)
class Opener:
    """``path`` with its query (``""``: the target's own); ``login`` makes of app and number the frame that
    logs a user in, None where whoever connects is a client already. ``answer``: the payload that answers a
    login, where it is no JSON; ``environment``: what a server of our own has to be told for it.
    """

    path: str = ""
    login: Callable[[int, int], bytes] | None = None
    answer: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)


def _cmd_login(app: int, number: int) -> bytes:
    return login_frame(app, user_name(number))


def _action_login(_app: int, number: int) -> bytes:
    data = {"userId": user_name(number), "appId": 1, "toUid": user_name(number ^ 1), "groupsId": "0"}
    body = {"seq": user_name(number), "action": "login", "data": data}
    return client_frame(json.dumps(body, separators=(",", ":")).encode())


def _protobuf_login(_app: int, number: int) -> bytes:
    return protobuf.login_frame(session_token(number + 1, protobuf.APP))


OPENERS = {
    "cmd": Opener(login=_cmd_login),
    "client": Opener(f"/ws?systemId={SYSTEM}"),
    "action": Opener("/ws?uid=1", _action_login),
    "protobuf": Opener(
        protobuf.PATH,
        _protobuf_login,
        protobuf.LOGGED_IN,
        {"IMSERVER_APPS": f"{{{protobuf.APP}: {{jwt: [{{algorithm: HS256, key: {KEY}}}]}}}}"},
    ),
}
"""By the name of the dialect."""
