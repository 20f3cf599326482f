"""Pushes of others: no user makes one a repeat, and no publisher connection pushes to an app of others."""

import json

from tests.integration.cmd import logged_in
from tests.integration.raw import Raw, Response, ask, request, text
from tests.security.attack_setting import OF_205, PUSH_OF_TOKENS, TOKENS, session_token
from tests.support import Server


def send(server: Server, path: str, credential: str, **fields: str) -> Response:
    body = "&".join(f"{name}={value}" for name, value in {"appID": TOKENS, **fields}.items()).encode()
    headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Authorization", f"Bearer {credential}"),
    ]
    return ask(server.http, request(f"/user/{path}", method="POST", headers=headers, body=body))


def test_a_user_cannot_use_up_the_message_ids_of_the_back_end_or_of_others(guarded: Server) -> None:
    token = {user: session_token(TOKENS, user) for user in ("eve", "bob", "joe")}
    with (
        logged_in(guarded.ws, "eve", int(TOKENS), serviceToken=token["eve"]),
        logged_in(guarded.ws, "bob", int(TOKENS), serviceToken=token["bob"]),
    ):
        for path, user in (("sendMessage", "eve"), ("sendMessageAll", "eve")):
            for number in ("one", "two", "three"):
                sent = send(guarded, path, token["eve"], userID=user, msgID=f"{path}-{number}", message="m")
                assert sent.json["data"] == {"sendResults": True}
        order = {"userID": "bob", "message": "your order"}
        for path in ("sendMessage", "sendMessageAll"):
            for number, credential in (("one", PUSH_OF_TOKENS), ("two", token["joe"])):
                sent = send(guarded, "sendMessage", credential, **order, msgID=f"{path}-{number}")
                assert sent.json["data"] == {"sendResults": True}, (path, number)
        again = send(guarded, "sendMessage", token["joe"], **order, msgID="sendMessage-two")
        assert again.json["data"] == {}


def test_a_publisher_connection_keeps_to_the_apps_of_its_key(guarded: Server) -> None:
    with (
        logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim,
        Raw(guarded.http) as one,
    ):
        one.upgrade("/api/v1/publisher", more=[("Authorization", f"Bearer {OF_205}")])
        one.send(text(json.dumps({"seq": 1, "publish": {"app": TOKENS, "user": "7", "text": "hi"}})))
        assert one.message().json["error"]["code"] == "forbidden"
        victim.no_push()
