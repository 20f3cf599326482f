"""permessage-deflate (RFC 7692) where it is switched on, through both HTTP servers."""

import json
import zlib

import pytest

from tests.support import Server

from .cmd import CmdClient, command, fresh, pairs, push, reply, send_to_all
from .raw import Raw
from .setting import ECHO_PATH, Launch

RSV1 = 4
OFFER = "permessage-deflate"


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """A server with compression on."""
    return launch(
        http_server, websocket={"deflate": True, "close_seconds": 1}, debug={"echo_path": ECHO_PATH}
    )


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """A compressed message read with a window of `bits`, without anything kept from the message before."""
    return zlib.decompressobj(wbits=-bits).decompress(payload + b"\x00\x00\xff\xff")


def test_cmd_answers_and_pushes_are_understood_by_all_kinds_of_clients(server: Server) -> None:
    """One broadcast reaches a plain client, and clients with windows of 9 and 15 bits."""
    user, message = fresh(), "大家好 " * 50
    offers = [None, OFFER, "permessage-deflate; server_max_window_bits=9"]
    opened = []
    for number, offer in enumerate(offers):
        one = CmdClient(server.ws).upgrade(more=[("Sec-WebSocket-Extensions", offer)] if offer else [])
        one.send(command("login", {"userID": f"{user}.{number}", "appID": 104}))
        opened.append(one)
    bits = [0, 15, 9]

    def read(one: Raw, window: int) -> bytes:
        found = one.message()
        return inflated(found.payload, window) if found.rsv else found.payload

    for one, window in zip(opened, bits, strict=True):
        assert pairs(read(one, window)) == reply(200, "Success", "login")
    send_to_all(server.http, 104, "nobody", message, msg := fresh("m"))
    for one, window in zip(opened, bits, strict=True):
        while json.loads(found := read(one, window))["cmd"] != "msg":
            pass
        assert pairs(found) == push("msg", message, "nobody", msg)
        one.leave()
