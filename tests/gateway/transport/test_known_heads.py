"""Heads that have come before are read as if they had not, and nothing secret is kept of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imserver.gateway.transport.http1 import (
    MAX_BYTES,
    MAX_HEADS,
    MAX_LINES,
    BadHead,
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


def received(read: object, data: bytes) -> object:
    """What a head says, or why it is refused."""
    try:
        return fields_of(read(data))  # type: ignore[operator]
    except BadHead as bad:
        return bad.problem, bad.args


LINES = st.lists(
    st.sampled_from(
        [
            *USUAL,
            *HANDSHAKE_LINES,
            HANDSHAKE_KEY,
            OTHER_HANDSHAKE_KEY,
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Key: short",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\rX",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n folded",
            KEY,
            b"authorization: Bearer abc",
            b"AUTHORIZATION: Bearer abc",
            b"Authorization: Bearer \xe9",
            b"Authorization: Bearer a b",
            b"Authorization:  Bearer a",
            b"Authorization: Basic YTpi",
            b"Xuthorization: Bearer a",
            b"X: \r\nAuthorization: Bearer a",
            b" folded",
            b"Content-Length: 13",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Accept: a",
            b"Cookie: c",
            b"Upgrade: websocket",
        ]
    ),
    max_size=7,
)
FIRSTS = st.sampled_from(
    [
        FIRST,
        HANDSHAKE,
        b"GET /acc?token=1 HTTP/1.1",
        b"POST /a?b=1 HTTP/1.1",
        b"GET /a HTTP/1.1",
        b"POST http://h/a HTTP/1.0",
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(FIRSTS, LINES), min_size=1, max_size=4))
@example([(FIRST, [*USUAL]), (FIRST, [*USUAL, KEY, b" folded"])])
@example([(FIRST, [*USUAL, KEY, KEY]), (FIRST, [*USUAL, KEY])])
@example([(FIRST, [USUAL[0], KEY]), (FIRST, [USUAL[0], b"authorization: Bearer abc", KEY])])
@example([(HANDSHAKE, [*HANDSHAKE_LINES, HANDSHAKE_KEY]), (HANDSHAKE, [*HANDSHAKE_LINES])])
@example([(HANDSHAKE, [*HANDSHAKE_LINES, HANDSHAKE_KEY] * number) for number in (1, 2)])
@example([(first, [*HANDSHAKE_LINES, HANDSHAKE_KEY]) for first in (HANDSHAKE, FIRST)])
def test_a_head_says_the_same_whatever_came_before(heads: list[tuple[bytes, list[bytes]]]) -> None:
    known = KnownHeads()
    for _ in range(2):
        for first, lines in heads:
            data = head(*lines, first=first)
            assert received(known.read, data) == received(parse_head, data)


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
