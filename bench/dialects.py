"""How connections of the generators open in each dialect: path, login frame, answer."""

from __future__ import annotations

import json
import time

import jwt

from bench import protobuf
from bench.connections import Opener
from bench.frames import client_frame, login_frame, request_frame, user_name

KEY = "a-secret-of-32-bytes-or-more-for-measuring-only"
_LIVE_SECONDS = 86_400
SYSTEM = "bench"


def _cmd_login(app: int, number: int) -> bytes:
    return login_frame(app, user_name(number))


def _cmd_login_with_cursor(app: int, number: int) -> bytes:
    user = user_name(number)
    return request_frame("login", user, {"userID": user, "appID": app, "cursor": 0})


def _cmd_login_with_token(app: int, number: int) -> bytes:
    user = user_name(number)
    claims = {"sub": user, "app": str(app), "exp": int(time.time()) + _LIVE_SECONDS}
    data = {"userID": user, "appID": app, "serviceToken": jwt.encode(claims, KEY, "HS256"), "cursor": 0}
    return request_frame("login", user, data)


def _action_login(_app: int, number: int) -> bytes:
    data = {"userId": user_name(number), "appId": 1, "toUid": user_name(number ^ 1), "groupsId": "0"}
    body = {"seq": user_name(number), "action": "login", "data": data}
    return client_frame(json.dumps(body, separators=(",", ":")).encode())


def _protobuf_login(_app: int, number: int) -> bytes:
    claims = {"sub": str(number + 1), "app": protobuf.APP, "exp": int(time.time()) + _LIVE_SECONDS}
    return protobuf.login_frame(jwt.encode(claims, KEY, "HS256"))


def _centrifuge_login(_app: int, _number: int) -> bytes:
    return client_frame(b'{"id":1,"connect":{}}')


def _centrifuge_login_with_token(_app: int, number: int) -> bytes:
    token = jwt.encode({"sub": user_name(number)}, KEY, "HS256")
    return client_frame(json.dumps({"id": 1, "connect": {"token": token}}).encode())


OPENERS = {
    "cmd": Opener(login=_cmd_login),
    "cmd-cursor": Opener(login=_cmd_login_with_cursor),
    "cmd-token": Opener(login=_cmd_login_with_token),
    "client": Opener(f"/ws?systemId={SYSTEM}"),
    "action": Opener("/ws?uid=1", _action_login),
    "centrifuge": Opener("/connection/101/websocket", _centrifuge_login, b'{"id":1,"connect":{'),
    "centrifuge-token": Opener(
        "/connection/101/websocket", _centrifuge_login_with_token, b'{"id":1,"connect":{'
    ),
    "protobuf": Opener(
        protobuf.PATH,
        _protobuf_login,
        protobuf.LOGGED_IN,
        {"IMSERVER_APPS": f"{{{protobuf.APP}: {{jwt: [{{algorithm: HS256, key: {KEY}}}]}}}}"},
    ),
}
"""By the name of the dialect."""
