"""What no SDK of Centrifugo sends: frames by hand, and their limits."""

import json
from typing import Any

import pytest

from tests.integration.raw import BINARY, CLOSE, TEXT, Raw, frame, handshake, text
from tests.support import Server

from .conftest import token

PATH = "/connection/websocket"
CONNECT = json.dumps({"id": 1, "connect": {"token": token("raw")}})


def field(key: int, content: bytes) -> bytes:
    """A field of a protobuf message, with less than 128 bytes."""
    return bytes((key << 3 | 2, len(content))) + content


_COMMAND = b"\x08\x01" + field(4, field(1, token("raw").encode()))
CONNECT_PROTOBUF = bytes((len(_COMMAND),)) + _COMMAND


def answered(client: Raw) -> dict[str, Any]:
    """The next reply; pings and pushes before it are dropped."""
    while "id" not in (found := client.message().json):
        pass
    assert isinstance(found, dict)
    return found


def close_code(client: Raw) -> int | None:
    """The code of the close frame that comes; data before it is dropped."""
    while (found := client.frame()).opcode != CLOSE:
        pass
    return found.close_code


@pytest.mark.parametrize(
    ("offered", "confirmed", "opcode"),
    [
        (None, None, TEXT),
        ("centrifuge-json", "centrifuge-json", TEXT),
        ("chat, centrifuge-protobuf", "centrifuge-protobuf", BINARY),
        ("chat", None, TEXT),
    ],
)
def test_the_subprotocol_selects_the_form_of_frames(
    server: Server, offered: str | None, confirmed: str | None, opcode: int
) -> None:
    more = [("Sec-WebSocket-Protocol", offered)] if offered else []
    with Raw(server.ws) as client:
        client.send(handshake(PATH, more=more))
        answer = client.response()
        assert (answer.status, answer.header("sec-websocket-protocol")) == (101, confirmed)
        client.send(frame(opcode, CONNECT if opcode == TEXT else CONNECT_PROTOBUF))
        assert client.message().opcode == opcode


def test_a_renewed_token_says_anew_what_others_see_of_its_client(server: Server) -> None:
    with Raw(server.ws) as client:
        client.upgrade(PATH)

        def ask(name: str, **content: Any) -> Any:
            client.send(text(json.dumps({"id": 2, name: content})))
            return answered(client)[name]

        def renew(session: dict[str, Any], subscription: dict[str, Any]) -> dict[str, Any]:
            """Renew both tokens with these claims; what others see then."""
            ask("refresh", token=token("raw", channels=["open:anew"], **session))
            ask("sub_refresh", **named, token=token("raw", **named, **subscription))
            (found,) = ask("presence", **named)["presence"].values()
            return {name: info for name, info in found.items() if name.endswith("_info")}

        named = {"channel": "talk:anew"}
        ask("connect", token=token("raw", info=1, channels=["open:anew"]))
        ask("subscribe", **named, token=token("raw", info=2, **named))
        assert renew({"info": 3}, {"info": 4}) == {"conn_info": 3, "chan_info": 4}
        assert renew({}, {}) == {"conn_info": 3, "chan_info": 4}
        client.send(text(json.dumps({"id": 3, "refresh": {"token": token("raw", channels=["open:other"])}})))
        assert close_code(client) == 3010


@pytest.mark.full("programs")
def test_who_does_not_log_in_is_closed_with_3502(impatient: Server) -> None:
    with Raw(impatient.ws) as client:
        client.upgrade(PATH)
        while (found := client.frame()).opcode == TEXT:
            assert found.json == {}
            client.send(text("{}"))
        assert found.close_code == 3502


@pytest.mark.full("programs")
def test_who_answers_no_ping_is_closed_with_3012(impatient: Server) -> None:
    with Raw(impatient.ws) as client:
        client.upgrade(PATH)
        client.send(text(CONNECT))
        assert "connect" in answered(client)
        assert close_code(client) == 3012


def test_the_rate_of_an_app_counts_commands_and_not_frames(server: Server) -> None:
    with Raw(server.ws) as client:
        client.upgrade("/connection/slow/websocket")
        client.send(text('{"id":1,"connect":{}}'))
        assert "connect" in answered(client)
        client.send(text("\n".join(['{"id":2,"ping":{}}'] * 20)))
        assert close_code(client) == 4003
