"""Thousands of broken streams, made from a seed: whatever comes, others are answered and the end is clean."""

import os
import random
import select
import socket
import time

import pytest

from tests.fuzz.target import mutated
from tests.support import Server, eventually

from .cmd import command, form_request, get, good, json_request
from .raw import Address, close, frame, handshake, request, text
from .setting import ECHO_PATH, Launch
from .test_slow_reader import Probe

STREAMS = 5_000
AT_ONCE = 100
BATCH_SECONDS = 60.0


def conversations() -> list[bytes]:
    """Honest streams to start from."""
    login = command("login", {"userID": "马远", "appID": 101})
    offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
    fragments = frame(1, "哈", fin=False) + frame(9, b"p") + frame(0, "喽", fin=False) + frame(0, "~")
    chunked = b"5\r\nappID\r\n4\r\n=101\r\n0\r\n\r\n"
    return [
        handshake() + login + command("heartbeat", {}) + command("ping") + close(),
        handshake() + fragments + login + close(1001, "再见"),
        handshake() + text("{}") + frame(2, b'{"cmd":"ping"}') + frame(10, b"x"),
        handshake() + text("x" * 300) + text("y" * 70_000),
        handshake() + frame(1, b"z" * 200, form=64) + login,
        handshake(ECHO_PATH) + text("a" * 1000) + fragments + close(),
        handshake(ECHO_PATH, more=offer)
        + frame(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
        + text("plain")
        + close(),
        request("/user/list?appID=101") + request("/system/state?isDebug=true") + handshake() + login,
        form_request("/user/sendMessageAll", {"appID": 101, "userID": "f", "message": "x"})
        + request("/health"),
        json_request("/user/sendMessage", {"appID": 101, "userID": "f", "message": "x"}) + request("/nosuch"),
        json_request("/user/sendMessageBatch", {"appID": 101, "messages": [{"userID": "f", "message": "x"}]}),
        request("/user/sendMessage", method="POST", headers=[("Transfer-Encoding", "chunked")], body=chunked),
        request("/home/index?appID=101") + request("/user/kick", method="POST", body=b"appID=101&userID=f"),
        request("/user/onlineBatch", method="POST", headers=[("Expect", "100-continue")], body=b"userIDs=a"),
    ]


def stream_of(seed: int, number: int, honest: list[bytes]) -> bytes:
    """The stream of this number, the same at every run with this seed."""
    chance = random.Random(f"{seed}.{number}")
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 400))
    if kind == 1:
        return handshake(chance.choice(("/acc", ECHO_PATH))) + chance.randbytes(chance.randrange(1, 400))
    stream = chance.choice(honest)
    # Half of the upgrades keep a head that is honest, or few would get as far as frames.
    begin = stream.find(b"\r\n\r\n") + 4 if b"Sec-WebSocket-Key" in stream[:200] and kind < 6 else 0
    return stream[:begin] + mutated(chance, stream[begin:], honest)


def send_all(address: Address, streams: list[bytes], chance: random.Random) -> int:
    """Send them side by side, each in one to four pieces; some vanish, the others wait for the server's end.

    Returns how many were still not ended by the server in time.
    """
    poll = select.poll()
    waiting: dict[int, socket.socket] = {}
    for stream in streams:
        sock = socket.create_connection(address, timeout=60)
        cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(4)))
        try:
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                sock.sendall(stream[start:end])
            if chance.randrange(4):
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.close()
                continue
        except OSError:
            sock.close()
            continue
        sock.setblocking(False)
        waiting[sock.fileno()] = sock
        poll.register(sock, select.POLLIN)
    deadline = time.monotonic() + BATCH_SECONDS
    while waiting and time.monotonic() < deadline:
        for fd, _ in poll.poll(200):
            try:
                ended = not waiting[fd].recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                ended = True
            if ended:
                poll.unregister(fd)
                waiting.pop(fd).close()
    for sock in waiting.values():
        sock.close()
    return len(waiting)


@pytest.fixture(scope="module")
def target(launch: Launch, http_server: str) -> Server:
    """A server with everything switched on."""
    return launch(
        http_server,
        debug={"echo_path": ECHO_PATH},
        websocket={"deflate": True, "close_seconds": 1},
        limits={"handshake_seconds": 2, "keepalive_seconds": 2},
    )


@pytest.mark.full
def test_five_thousand_broken_streams_do_not_affect_others(target: Server) -> None:
    """The same at every run; FUZZ_SEED takes others."""
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    honest = conversations()
    print(f"FUZZ_SEED={seed}")  # pytest shows it when the test fails
    with Probe(target.ws) as probe:
        for start in range(0, STREAMS, AT_ONCE):
            streams = [stream_of(seed, number, honest) for number in range(start, start + AT_ONCE)]
            address = target.ws if start // AT_ONCE % 2 else target.http
            stuck = send_all(address, streams, random.Random(f"{seed}.{start}"))
            assert not stuck, f"FUZZ_SEED={seed}: {stuck} of the streams from {start} on were never ended"
            assert probe.fault is None, f"FUZZ_SEED={seed}: {probe.fault!r} in the streams from {start} on"
    assert target.process.poll() is None
    assert get(target.http, "/health").status == 200
    info = lambda: good(get(target.http, "/system/state"))["managerInfo"]["clientsLen"]  # noqa: E731
    eventually(lambda: info() == 0, what="no connection is left behind")
    assert "Traceback" not in target.log_text, "see the log in the message of the fixture"
