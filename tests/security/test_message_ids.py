"""The message ids of a user are their own: they never make a push of somebody else a repeat."""

from tests.integration.cmd import logged_in
from tests.integration.raw import Response, ask, request
from tests.security.attack_setting import PUSH_OF_TOKENS, TOKENS, session_token
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
