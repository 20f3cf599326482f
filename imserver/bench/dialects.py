"""How connections of the generators open in each dialect: where, and by which frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from imserver.bench.frames import client_frame, login_frame, user_name

LOGIN_ANSWER = b'":"login"'
"""Stands in the answer to a login in every dialect that has one, and in nothing else."""
SYSTEM = "bench"


@dataclass(frozen=True)
class Opener:
    """``path`` with its query (``""``: the target's own); ``login`` makes of app and number the frame that
    logs a user in, None where whoever connects is a client already.
    """

    path: str = ""
    login: Callable[[int, int], bytes] | None = None


def _cmd_login(app: int, number: int) -> bytes:
    return login_frame(app, user_name(number))


def _action_login(_app: int, number: int) -> bytes:
    data = {"userId": user_name(number), "appId": 1, "toUid": user_name(number ^ 1), "groupsId": "0"}
    body = {"seq": user_name(number), "action": "login", "data": data}
    return client_frame(json.dumps(body, separators=(",", ":")).encode())


OPENERS = {
    "cmd": Opener(login=_cmd_login),
    "client": Opener(f"/ws?systemId={SYSTEM}"),
    "action": Opener("/ws?uid=1", _action_login),
}
"""By the name of the dialect."""
