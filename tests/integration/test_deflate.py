"""permessage-deflate (RFC 7692) where it is switched on, through both HTTP servers."""

import json
import zlib
from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import NOT_VALID, CmdClient, command, fresh, pairs, push, reply, send_to_all
from .raw import BINARY, CONTINUATION, PING, PONG, TEXT, Frame, Raw, frame, handshake, open_socket, text
from .setting import ECHO_PATH, Launch, growth_of

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


def parameters(answer: str | None) -> dict[str, str]:
    """The parameters of an accepted permessage-deflate."""
    assert answer is not None
    name, *rows = [part.strip() for part in answer.split(";")]
    assert name == OFFER
    assert "," not in answer, "one extension may be accepted once"
    return {key.strip(): value.strip().strip('"') for key, _, value in (row.partition("=") for row in rows)}


@pytest.fixture
def echo(server: Server) -> Iterator[Raw]:
    with open_socket(server.ws, ECHO_PATH, more=[("Sec-WebSocket-Extensions", OFFER)]) as raw:
        yield raw


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
    ],
)
def test_an_offer_is_taken_without_context_takeover_on_either_side(server: Server, offer: str) -> None:
    found = parameters(offered(server, offer))
    assert "server_no_context_takeover" in found
    assert "client_no_context_takeover" in found
    assert int(found.get("server_max_window_bits", 15)) in range(9, 16)
    if "client_max_window_bits" not in offer:
        assert "client_max_window_bits" not in found, "the answer may not name what the client did not offer"


@pytest.mark.parametrize("bits", range(9, 16))
def test_server_windows_of_9_to_15_bits_are_taken_and_kept(server: Server, bits: int) -> None:
    offer = f"permessage-deflate; server_max_window_bits={bits}"
    assert parameters(offered(server, offer))["server_max_window_bits"] == str(bits)
    payload = b"".join(b"%d," % (number * number) for number in range(5000))
    with open_socket(server.ws, ECHO_PATH, more=[("Sec-WebSocket-Extensions", offer)]) as raw:
        for _ in range(2):
            raw.send(text(payload))
            found = raw.message()
            assert found.rsv == RSV1
            assert inflated(found.payload, bits) == payload


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=x",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; nosuch",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-bzip2",
    ],
)
def test_an_offer_that_cannot_be_met_is_declined_and_the_connection_lives(server: Server, offer: str) -> None:
    assert offered(server, offer) is None


def test_the_first_offer_that_can_be_met_is_taken(server: Server) -> None:
    found = parameters(offered(server, "permessage-deflate; server_max_window_bits=8, permessage-deflate"))
    assert found.get("server_max_window_bits") != "8"


def test_without_an_offer_nothing_is_compressed(server: Server) -> None:
    with open_socket(server.ws, ECHO_PATH) as raw:
        raw.send(text("x" * 1000))
        assert raw.message() == Frame(TEXT, b"x" * 1000)


def test_compressed_messages_are_read_and_answered(echo: Raw) -> None:
    for payload in ("", "x", "哈喽~" * 100, "x" * 100_000):
        echo.send(frame(TEXT, deflated(payload), rsv=RSV1))
        found = echo.message()
        assert (inflated(found.payload) if found.rsv else found.payload).decode() == payload


def test_uncompressed_messages_are_read_too(echo: Raw) -> None:
    echo.send(text("plain"))
    found = echo.message()
    assert (inflated(found.payload) if found.rsv else found.payload) == b"plain"


def test_compressed_fragments_with_a_ping_in_between_are_put_together(echo: Raw) -> None:
    data = deflated("a" * 500 + "b" * 500)
    echo.send(frame(TEXT, data[:3], fin=False, rsv=RSV1), frame(PING, b"p"), frame(CONTINUATION, data[3:]))
    assert echo.frame() == Frame(PONG, b"p")
    found = echo.message()
    assert inflated(found.payload) == b"a" * 500 + b"b" * 500


def test_a_compressed_message_split_at_every_byte_is_understood(echo: Raw) -> None:
    data = frame(BINARY, deflated(bytes(range(256))), rsv=RSV1)
    echo.dribble(data)
    assert inflated(echo.message().payload) == bytes(range(256))


def test_a_block_marked_final_is_read(echo: Raw) -> None:
    """RFC 7692 section 7.2.3.4: a sender may end with BFINAL set."""
    one = zlib.compressobj(wbits=-15)
    data = one.compress(b"final") + one.flush(zlib.Z_FINISH) + b"\x00"
    echo.send(frame(TEXT, data, rsv=RSV1))
    found = echo.message()
    assert inflated(found.payload) == b"final"


@pytest.mark.parametrize("opcode", [PING, CONTINUATION])
def test_rsv1_on_what_is_not_the_start_of_a_message_is_refused_with_1002(echo: Raw, opcode: int) -> None:
    if opcode == CONTINUATION:
        echo.send(frame(TEXT, deflated("abc")[:1], fin=False, rsv=RSV1))
    echo.send(frame(opcode, b"", rsv=RSV1))
    echo.closed(1002)
    echo.ended()


def test_rsv1_without_the_extension_is_refused_with_1002(server: Server) -> None:
    with open_socket(server.ws, ECHO_PATH) as raw:
        raw.send(frame(TEXT, deflated("abc"), rsv=RSV1))
        raw.closed(1002)
        raw.ended()


def test_bytes_that_do_not_inflate_are_refused(echo: Raw) -> None:
    echo.send(frame(TEXT, b"\xff\xff\xff\xff\xff", rsv=RSV1))
    echo.closed(1002, 1007)
    echo.ended()


def test_broken_utf8_inside_a_compressed_message_is_refused_with_1007(echo: Raw) -> None:
    echo.send(frame(TEXT, deflated(b"x\xff"), rsv=RSV1))
    echo.closed(1007)
    echo.ended()


def test_the_limit_counts_inflated_bytes(server: Server) -> None:
    more = [("Sec-WebSocket-Extensions", OFFER)]
    with open_socket(server.ws, more=more) as raw:
        raw.send(frame(TEXT, deflated(b"x" * 65536), rsv=RSV1))
        found = raw.message()
        assert (inflated(found.payload) if found.rsv else found.payload).decode() == NOT_VALID
        raw.send(frame(TEXT, deflated(b"x" * 65537), rsv=RSV1))
        raw.closed(1009)
        raw.ended()


def test_the_limit_counts_inflated_bytes_of_fragments(server: Server) -> None:
    data = deflated(b"x" * 100_000)
    with open_socket(server.ws, more=[("Sec-WebSocket-Extensions", OFFER)]) as raw:
        half = len(data) // 2
        raw.send(frame(TEXT, data[:half], fin=False, rsv=RSV1), frame(CONTINUATION, data[half:]))
        raw.closed(1009)
        raw.ended()


def test_a_bomb_is_refused_before_it_is_inflated(server: Server) -> None:
    """64 MiB of zeros in 64 KiB."""
    bomb = deflated(b"\0" * (60 << 20))
    assert len(bomb) < 65536
    with open_socket(server.ws, more=[("Sec-WebSocket-Extensions", OFFER)]) as raw:
        grown = growth_of(server.pid)
        raw.send(frame(BINARY, bomb, rsv=RSV1))
        raw.closed(1009)
        assert grown() < 16 << 20


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
