"""permessage-deflate (RFC 7692) where it is switched on, through both HTTP servers."""

import json
import zlib

import pytest

from tests.support import Server

from .cmd import NOT_VALID, CmdClient, command, fresh, pairs, push, reply, send_to_all
from .raw import CONTINUATION, PING, PONG, TEXT, Frame, Raw, frame, open_socket
from .setting import ECHO_PATH, Launch

RSV1 = 4
OFFER = "permessage-deflate"


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """A server with compression on."""
    return launch(
        http_server, websocket={"deflate": True, "close_seconds": 1}, debug={"echo_path": ECHO_PATH}
    )


def deflated(payload: bytes | str) -> bytes:
    """A message as RFC 7692 section 7.2.1 compresses it."""
    data = payload.encode() if isinstance(payload, str) else payload
    one = zlib.compressobj(wbits=-15)
    return (one.compress(data) + one.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """A compressed message read with a window of `bits`, without anything kept from the message before."""
    return zlib.decompressobj(wbits=-bits).decompress(payload + b"\x00\x00\xff\xff")


def test_messages_are_read_compressed_and_in_fragments_up_to_the_limit(server: Server) -> None:
    more = [("Sec-WebSocket-Extensions", OFFER)]

    def heard(one: Raw) -> str:
        found = one.message()
        return (inflated(found.payload) if found.rsv else found.payload).decode()

    with open_socket(server.ws, ECHO_PATH, more=more) as echo:
        for payload in ("", "x", "哈喽~" * 100, "x" * 100_000):
            echo.send(frame(TEXT, deflated(payload), rsv=RSV1))
            assert heard(echo) == payload
        data = deflated("a" * 500 + "b" * 500)
        first = frame(TEXT, data[:3], fin=False, rsv=RSV1)
        echo.send(first, frame(PING, b"p"), frame(CONTINUATION, data[3:]))
        assert echo.frame() == Frame(PONG, b"p")
        assert heard(echo) == "a" * 500 + "b" * 500
    with open_socket(server.ws, more=more) as one:
        one.send(frame(TEXT, deflated(b"x" * 65536), rsv=RSV1))
        assert heard(one) == NOT_VALID, "the limit counts inflated bytes"
        one.send(frame(TEXT, deflated(b"x" * 65537), rsv=RSV1))
        one.closed(1009)
        one.ended()


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
