"""Resource exhaustion: no request of a stranger costs much CPU time or memory, or delays others."""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.integration.cmd import cmd_client, get
from tests.integration.raw import Raw, ask, frame, handshake, request, text
from tests.integration.setting import growth_of
from tests.support import Server, eventually

MEGABYTE = 1 << 20
CPU_SECONDS = 0.25
"""CPU time that one request may cost the server: 50 ms of loop, with room for a busy machine. The cheapest
attack that was ever found took 0.31 s."""
RSS_BYTES = 20 * MEGABYTE
BODY = 4 * MEGABYTE - 1000
"""Just below ``limits.body_bytes``."""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def bounded(server: Server, times: int = 1) -> Iterator[None]:
    """What happens inside, and is over at the end, costs little."""
    assert get(server.http, "/health").status == 200
    grown, before = growth_of(server.pid), cpu_seconds(server.pid)
    yield
    assert get(server.http, "/health").status == 200
    assert cpu_seconds(server.pid) - before < CPU_SECONDS * times
    assert grown() < RSS_BYTES


def attack(server: Server, data: bytes) -> None:
    """Send a request, as far as the server takes it, and wait for its answer or the end."""
    with Raw(server.http) as one:
        try:
            one.send(data)
            one.response(30)
        except (OSError, AssertionError):
            pass  # it was cut off, which is as good


def post(path: str, body: bytes, kind: str, *more: tuple[str, str]) -> bytes:
    return request(path, method="POST", headers=[("Content-Type", kind), *more], body=body)


def multipart(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="phone_number"\r\n\r\n' + content + b"\r\n--b--\r\n"


FORM, JSON, MULTIPART = (
    "application/x-www-form-urlencoded",
    "application/json",
    "multipart/form-data; boundary=b",
)
GOCHAT = ("/login", "/register", "/friend/add", "/group/create")
FLOATS = b"[" + b"1.5e-7," * (BODY // 7) + b"1]"
ATTACKS: dict[str, Callable[[], bytes]] = {
    **{
        f"multipart of 0xFF to {path}": lambda path=path: post(path, multipart(b"\xff" * BODY), MULTIPART)
        for path in GOCHAT
    },
    "many multipart fields": lambda: post(
        "/login", (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 60_000)[:BODY], MULTIPART
    ),
    "many form fields": lambda: post("/user/sendMessage", (b"a=1&" * (BODY // 4)), FORM),
    "escaped form": lambda: post("/login", b"phone_number=" + b"%ff" * (BODY // 3), FORM),
    "floats": lambda: post("/api/v1/push", FLOATS, JSON),
    "floats in gzip": lambda: post("/api/v1/push", gzip.compress(FLOATS), JSON, ("Content-Encoding", "gzip")),
    "a gzip bomb": lambda: post(
        "/api/v1/accounts/login", gzip.compress(bytes(200 * MEGABYTE)), JSON, ("Content-Encoding", "gzip")
    ),
    "nested JSON": lambda: post("/api/v1/accounts/login", b"[" * BODY, JSON),
    "nested JSON to an original": lambda: post("/api/send_to_client", b"[" * BODY, JSON),
    "a long number": lambda: post("/api/v1/accounts/register", b"9" * BODY, JSON),
    "a long number to an original": lambda: post(
        "/user/sendMessageBatch", b'{"appID":' + b"9" * BODY + b"}", JSON
    ),
    "many keys": lambda: post(
        "/api/register", json.dumps(dict.fromkeys(map(str, range(250_000)), 1)).encode()[:BODY], JSON
    ),
    "an upload by nobody": lambda: post("/api/v1/uploads?app=101&user=7", bytes(BODY), "image/png"),
    "small chunks": lambda: (
        b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * 60_000
        + b"0\r\n\r\n"
    ),
    "many headers": lambda: request("/health", headers=[(f"X{n}", "1") for n in range(1500)]),
    "a long query": lambda: request("/user/list?" + "appID=101&" * 1500),
    "a long path": lambda: request("/" + "../" * 5000),
    "the description": lambda: request("/api/v1/openapi.json"),
    "the reference": lambda: request("/api/v1/docs"),
}


@pytest.fixture(scope="module", autouse=True)
def warm(guarded: Server) -> None:
    """What is loaded at the first request of its kind is loaded."""
    for path in ("/api/v1/docs", "/api/v1/openapi.json", "/home/index", "/none"):
        get(guarded.http, path)
    attack(guarded, post("/login", multipart(b"1"), MULTIPART))
    attack(guarded, post("/api/v1/accounts/login", gzip.compress(b"{}"), JSON, ("Content-Encoding", "gzip")))


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_request_of_a_stranger_costs_little(guarded: Server, kind: str) -> None:
    data = ATTACKS[kind]()
    with bounded(guarded):
        attack(guarded, data)


@pytest.mark.parametrize(
    "message",
    [
        b"[" * 60_000,
        b'{"cmd":"login","data":' + b"[" * 60_000,
        b'{"seq":"' + b"\\u0000" * 10_000 + b'","cmd":"login"}',
        b'{"seq":"1","cmd":"login","data":{"userID":"7","appID":' + b"9" * 60_000 + b"}}",
        b"\xff" * 60_000,
    ],
    ids=["nested", "nested data", "NULs", "long number", "no UTF-8"],
)
def test_a_message_before_the_login_costs_little(guarded: Server, message: bytes) -> None:
    with bounded(guarded), Raw(guarded.ws) as one:
        one.upgrade("/acc")
        one.send(*[text(message)] * 3)
        one.send(frame(9, b"over?"))
        while one.frame().opcode not in (8, 10):
            pass


def test_many_pings_cost_little(guarded: Server) -> None:
    with bounded(guarded, 3), cmd_client(guarded.ws) as one:
        one.send(frame(9, b"x" * 100) * 5000)
        for _ in range(5000):
            one.frame()


def test_handshakes_that_are_refused_leave_nothing(guarded: Server) -> None:
    with bounded(guarded, 3):
        for _ in range(200):
            assert ask(guarded.ws, handshake("/acc", more=[("Origin", "https://evil.example")])).status in (
                101,
                403,
            )


# --- slow clients -------------------------------------------------------------------------------------------


def test_sockets_that_say_nothing_do_not_hold_others_up(guarded: Server) -> None:
    with ExitStack() as stack:
        for start in (
            b"",
            b"GET / HT",
            b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        ):
            for _ in range(100):
                stack.enter_context(Raw(guarded.http)).send(start)
        began = time.monotonic()
        for _ in range(20):
            assert get(guarded.http, "/health").status == 200
            with cmd_client(guarded.ws):
                pass
        assert time.monotonic() - began < 60


def test_an_answer_that_nobody_reads_does_not_hold_others_up(guarded: Server) -> None:
    with Raw(guarded.http, receive_buffer_bytes=4096) as one:
        one.send(request("/api/v1/openapi.json") * 50)
        assert get(guarded.http, "/health").status == 200


@pytest.fixture(scope="module")
def impatient(start_shared_server: StartServer) -> Server:
    return start_shared_server(config={"limits": {"handshake_seconds": 2}})


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: 1\r\n"), (b"\r\n", b"\r\n")],
    ids=["nothing", "a header now and then", "line ends"],
)
def test_a_head_that_does_not_end_is_cut_off(impatient: Server, start: bytes, more: bytes) -> None:
    with Raw(impatient.http) as one:
        one.send(start)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                one.send(more)
                one.rest(0.2)
            except TimeoutError:
                continue
            except OSError:
                pass
            return
    raise AssertionError("the connection is still open")


def test_the_server_is_as_before(guarded: Server) -> None:
    """Nothing of all that is left behind: no file, and no connection but this one."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{guarded.pid}/fd"))

    eventually(lambda: open_files() < 60, what="connections are closed")
