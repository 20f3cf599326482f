"""permessage-deflate (RFC 7692) where it is switched on, through both HTTP servers."""

import json
import zlib
from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import NOT_VALID, CmdClient, command, fresh, pairs, push, reply, send_to_all
from .raw import CONTINUATION, PING, PONG, TEXT, Frame, Raw, frame, handshake, open_socket
from .setting import ECHO_PATH, Launch

RSV1 = 4
OFFER = "permessage-deflate"


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """A server with compression on."""
    return launch(
        http_server, websocket={"deflate": True, "close_seconds": 1}, debug={"echo_path": ECHO_PATH}
    )


def deflated(payload: bytes | str, bits: int = 15) -> bytes:
    """A message as RFC 7692 section 7.2.1 compresses it."""
    data = payload.encode() if isinstance(payload, str) else payload
    one = zlib.compressobj(wbits=-bits)
    return (one.compress(data) + one.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """A compressed message read with a window of `bits`, without anything kept from the message before."""
    return zlib.decompressobj(wbits=-bits).decompress(payload + b"\x00\x00\xff\xff")


def offered(server: Server, offer: str, path: str = "/acc") -> str | None:
    """The extension that the server answers to an offer."""
    with Raw(server.ws) as raw:
        answer = raw.ask(handshake(path, more=[("Sec-WebSocket-Extensions", offer)]))
        assert answer.status == 101, answer
        raw.quiet()
        return answer.header("sec-websocket-extensions")


@pytest.fixture
def echo(server: Server) -> Iterator[Raw]:
    with open_socket(server.ws, ECHO_PATH, more=[("Sec-WebSocket-Extensions", OFFER)]) as raw:
        yield raw


def test_compressed_messages_are_read_and_answered(echo: Raw) -> None:
    for payload in ("", "x", "哈喽~" * 100, "x" * 100_000):
        echo.send(frame(TEXT, deflated(payload), rsv=RSV1))
        found = echo.message()
        assert (inflated(found.payload) if found.rsv else found.payload).decode() == payload


def test_compressed_fragments_with_a_ping_in_between_are_put_together(echo: Raw) -> None:
    data = deflated("a" * 500 + "b" * 500)
    echo.send(frame(TEXT, data[:3], fin=False, rsv=RSV1), frame(PING, b"p"), frame(CONTINUATION, data[3:]))
    assert echo.frame() == Frame(PONG, b"p")
    found = echo.message()
    assert inflated(found.payload) == b"a" * 500 + b"b" * 500


def test_the_limit_counts_inflated_bytes(server: Server) -> None:
    more = [("Sec-WebSocket-Extensions", OFFER)]
    with open_socket(server.ws, more=more) as raw:
        raw.send(frame(TEXT, deflated(b"x" * 65536), rsv=RSV1))
        found = raw.message()
        assert (inflated(found.payload) if found.rsv else found.payload).decode() == NOT_VALID
        raw.send(frame(TEXT, deflated(b"x" * 65537), rsv=RSV1))
        raw.closed(1009)
        raw.ended()


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
