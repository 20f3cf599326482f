"""Heads that have come before are read as if they had not, and nothing secret is kept of them."""

from __future__ import annotations

import pytest

from imserver.gateway.transport.http1 import (
    MAX_BYTES,
    MAX_HEADS,
    MAX_LINES,
    KnownHeads,
    ParsedHead,
    parse_head,
)

FIRST = b"POST /user/sendMessage HTTP/1.1"
USUAL = (b"Host: chat.example", b"Content-Type: application/json", b"Content-Length: 12")
KEY = b"Authorization: Bearer abc.DEF-123_~+/="
HANDSHAKE = b"GET /acc HTTP/1.1"
HANDSHAKE_LINES = (
    b"Host: chat.example",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
)
HANDSHAKE_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
OTHER_HANDSHAKE_KEY = b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw=="


def head(*lines: bytes, first: bytes = FIRST) -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))


def fields_of(parsed: ParsedHead) -> dict[str, object]:
    return {name: getattr(parsed, name) for name in ParsedHead.__slots__}


@pytest.mark.parametrize(
    "data",
    [
        head(*HANDSHAKE_LINES, first=HANDSHAKE),
        *(
            head(*HANDSHAKE_LINES, HANDSHAKE_KEY, secret, first=HANDSHAKE)
            for secret in (b"Cookie: c", KEY, b"Sec-WebSocket-Protocol: token", HANDSHAKE_KEY)
        ),
        head(*HANDSHAKE_LINES, HANDSHAKE_KEY, first=b"GET /acc?token=1 HTTP/1.1"),
        head(*USUAL, b"Cookie: session=1"),
        head(*USUAL, b"X-Request-Id: 7"),
        head(*USUAL, b"Authorization: Basic YTpi"),
        head(*USUAL, b"Authorization: Bearer a b"),
        head(*USUAL, b"Authorization: Bearer a", b"Authorization: Bearer a"),
        head(*USUAL, first=b"POST /user/sendMessage?token=1 HTTP/1.1"),
        head(*USUAL, first=b"GET /uploads/secret HTTP/1.1"),
        head(*USUAL, b"User-Agent: " + b"x" * MAX_BYTES),
        head(*USUAL, *[b"Accept: x"] * MAX_LINES),
    ],
)
def test_what_may_be_secret_or_is_large_or_comes_once_is_not_remembered(data: bytes) -> None:
    known = KnownHeads()
    assert fields_of(known.read(data)) == fields_of(parse_head(data))
    assert not known.heads


@pytest.mark.parametrize(
    ("first", "usual", "secrets"),
    [
        (FIRST, USUAL, (b"Authorization: Bearer one", b"authorization: Bearer two", KEY)),
        (HANDSHAKE, HANDSHAKE_LINES, (HANDSHAKE_KEY, OTHER_HANDSHAKE_KEY)),
    ],
)
def test_a_key_is_of_its_own_request_only_and_is_not_remembered(
    first: bytes, usual: tuple[bytes, ...], secrets: tuple[bytes, ...]
) -> None:
    known = KnownHeads()
    for secret in (*secrets, secrets[0]):
        data = head(*usual, secret, first=first)
        assert fields_of(known.read(data)) == fields_of(parse_head(data))
    assert list(known.heads) == [head(*usual, first=first)]
    assert not {"authorization", "sec-websocket-key"} & known.heads[head(*usual, first=first)].headers.keys()
    assert known.read(head(*USUAL)) is known.read(head(*USUAL)), "it is not read again"
    assert known.read(head(*USUAL)) is not known.read(head(*USUAL, b"Accept: x"))


def test_no_more_than_so_many_are_remembered() -> None:
    known = KnownHeads()
    for number in range(3 * MAX_HEADS):
        known.read(head(*USUAL[:2], b"Content-Length: %d" % number))
        assert len(known.heads) <= MAX_HEADS
