"""How connections of the generators open in each dialect: path, login frame, answer."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench import protobuf
from bench.frames import client_frame, login_frame, user_name

KEY = "a-secret-of-32-bytes-or-more-for-measuring-only"
_LIVE_SECONDS = 86_400


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


_HEAD = _text(b'{"alg":"HS256","typ":"JWT"}')


def session_token(user: int, app: str, key: str = KEY) -> str:
    """Return a token that lets ``user`` into an app whose ``jwt`` has ``key`` (HS256), for a day."""
    claims = {"sub": str(user), "app": app, "exp": int(time.time()) + _LIVE_SECONDS}
    signed = f"{_HEAD}.{_text(json.dumps(claims).encode())}"
    return f"{signed}.{_text(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"


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
