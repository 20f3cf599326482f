"""The generators' frames are what RFC 6455 says, and a scan finds every frame of a stream."""

import pytest

from bench.frames import CLOSE, MASK, PING, TEXT, client_frame, scan, server_frame


def unmasked(frame: bytes, head_bytes: int) -> bytes:
    assert frame[head_bytes : head_bytes + 4] == MASK
    return bytes(byte ^ MASK[at % 4] for at, byte in enumerate(frame[head_bytes + 4 :]))


@pytest.mark.parametrize(
    ("size", "head_bytes"), [(0, 2), (1, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)]
)
def test_a_client_frame_is_masked_and_has_the_shortest_head(size: int, head_bytes: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = client_frame(payload)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert len(frame) == head_bytes + 4 + size
    assert unmasked(frame, head_bytes) == payload


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_scan_finds_frames_of_every_size(size: int) -> None:
    stream = server_frame(b"x" * size) + server_frame(b"p", PING)
    found, used = scan(stream, len(stream))
    assert used == len(stream)
    assert [(opcode, stop - start) for opcode, start, stop in found] == [(TEXT, size), (PING, 1)]


def test_a_scan_leaves_an_unfinished_frame() -> None:
    first, second = server_frame(b"first"), server_frame(b"y" * 200, CLOSE)
    stream = first + second
    for end in range(len(first), len(stream)):
        found, used = scan(stream, end)
        assert used == len(first)
        assert len(found) == 1
