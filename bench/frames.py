"""The bytes of the generators: masked client frames, requests of the cmd
dialect, a scanner for answers."""

from __future__ import annotations

import json

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA
FINAL = MASKED = 0x80

#: One fixed key for all frames: masking is there for proxies, and a generator has better things to do.
MASK = b"\x5a\xc3\x17\x8e"

#: Handshake of every connection: the key of RFC 6455 section 1.3 and the answer that belongs to it.
UPGRADE_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return ``payload`` as one masked frame of a client (RFC 6455 section
    5.2)."""
    size = len(payload)
    key = (MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return frame_head(size, opcode, MASKED) + MASK + masked.to_bytes(size, "big")


def frame_template(body: bytes) -> bytes:
    """Return a client frame with the placeholders of ``body``, for a number and a time (see
    :mod:`bench.push`); a mask of zeros leaves the bytes unchanged.
    """
    head = frame_head(len(body % (0, 0)), masked=MASKED)
    return head.replace(b"%", b"%%") + bytes(4) + body


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    return frame_head(len(payload), opcode) + payload


def frame_head(size: int, opcode: int = TEXT, masked: int = 0) -> bytes:
    """Return the head of a frame with a payload of ``size`` bytes; ``masked``
    is MASKED or 0."""
    if size < 126:
        return bytes((FINAL | opcode, masked | size))
    if size < 65536:
        return bytes((FINAL | opcode, masked | 126)) + size.to_bytes(2, "big")
    return bytes((FINAL | opcode, masked | 127)) + size.to_bytes(8, "big")


def scan(data: bytes | bytearray, end: int) -> tuple[list[tuple[int, int, int]], int]:
    """Find the whole server frames in ``data[:end]``.

    Returns (opcode, start, stop) of their payloads, and where the first
    unfinished frame begins.
    """
    found: list[tuple[int, int, int]] = []
    at = 0
    while at + 2 <= end:
        size = data[at + 1]
        start = at + 2
        if size == 126:
            start += 2
            size = int.from_bytes(data[at + 2 : start], "big")
        elif size == 127:
            start += 8
            size = int.from_bytes(data[at + 2 : start], "big")
        if start > end or start + size > end:
            break
        found.append((data[at] & 0x0F, start, start + size))
        at = start + size
    return found, at


def upgrade_request(host: str, path: str) -> bytes:
    """Return the request that turns a connection to ``host`` into a WebSocket
    at ``path``."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {UPGRADE_KEY.decode()}\r\n\r\n"
    ).encode()


def request_frame(
    command: str, seq: str, data: dict[str, object] | None = None
) -> bytes:
    body: dict[str, object] = {"seq": seq, "cmd": command}
    if data is not None:
        body["data"] = data
    return client_frame(json.dumps(body, separators=(",", ":")).encode())


def user_name(number: int) -> str:
    """Return the user id of connection ``number``; all are equally long, and so
    are their frames."""
    return f"u{number:07d}"
