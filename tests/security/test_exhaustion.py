"""Resource exhaustion: no request of a stranger costs much CPU time or memory,
or delays others.

The requests are those of ``imserver bench abuse``, which also measures the
loop, and has those of users.
"""

import gzip
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from bench.abuse import ATTACKS
from bench.abuse_setup import Attacker
from tests.conftest import StartServer
from tests.integration.cmd import cmd_client, get
from tests.integration.raw import Raw, open_socket, request
from tests.integration.setting import growth_of
from tests.security.attack_setting import ADMIN
from tests.support import HTTP_SERVERS, Server, eventually

MEGABYTE = 1 << 20
CPU_SECONDS = 0.25
DEMO_SECONDS = 0.5
"""CPU time that one request may cost the server: 50 ms of loop, with room for a
busy machine. The cheapest attack that was ever found took 0.31 s. In demo mode
nobody is a stranger, and bodies are read."""
BODY = 4 * MEGABYTE - 1000
"""Just below ``limits.body_bytes``."""
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=b"
STRANGERS = {
    name: attack
    for name, attack in ATTACKS.items()
    if attack.mode == ""
    and not (attack.account or attack.bot or attack.of or any(attack.command))
    # One hashes a password, some are many requests, and the others differ in
    # their routes alone.
    if not name.startswith(
        (
            "nothing",
            "64 KB of ",
            "POST /register",
            "POST /friend",
            "/ws?systemId",
            "/ws,",
        )
    )
    if not name.startswith(
        ("POST /group", "POST /api/v1/batch", "POST /user/onlineBatch")
    )
}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def bounded(server: Server, seconds: float = CPU_SECONDS) -> Iterator[None]:
    """What happens inside, and is over at the end, costs little."""
    assert get(server.http, "/health").status == 200
    grown = growth_of(server.pid)
    before = cpu_seconds(server.pid)
    yield
    assert get(server.http, "/health").status == 200
    assert cpu_seconds(server.pid) - before < seconds
    assert grown() < 20 * MEGABYTE


def attack(server: Server, data: bytes, ws: bool = False) -> None:
    """Send a request, as far as the server takes it, and wait for its answer or
    the end."""
    with (
        Raw(server.ws if ws else server.http) as one,
        suppress(OSError, AssertionError),
    ):
        one.send(data)  # that it is cut off is as good as an answer
        one.response(30, to_head=ws)
        while ws:
            one.frame(0.2)


def post(path: str, body: bytes, kind: str, *more: tuple[str, str]) -> bytes:
    return request(
        path, method="POST", headers=[("Content-Type", kind), *more], body=body
    )


PART = b'--b\r\nContent-Disposition: form-data; name="phone_number"'


def multipart(content: bytes, head: bytes = b"\r\n") -> bytes:
    return PART + head + b"\r\n" + content + b"\r\n--b--\r\n"


BODIES: dict[str, tuple[str, bytes]] = {
    "multipart of bytes": (MULTIPART, multipart(b"\xff" * BODY)),
    "line ends": (MULTIPART, multipart(b"\r\n" * (BODY // 2))),
    "half boundaries": (MULTIPART, multipart(b"\r\n--by" * (BODY // 6))),
    "boundaries": (MULTIPART, b"--b\r\n" * (BODY // 5)),
    "parts": (MULTIPART, (PART + b"\r\n\r\n\r\n") * 60_000),
    "headers": (
        MULTIPART,
        multipart(b"1", b"\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(200_000))),
    ),
    "parameters": (
        MULTIPART,
        multipart(b"1", b"".join(b"; p%d=x" % n for n in range(200_000)) + b"\r\n"),
    ),
    "preamble": (MULTIPART, b"\r\n" * (BODY // 2)),
    "escapes": (FORM, b"a=" + b"%FF" * (BODY // 3)),
    "mixed escapes": (FORM, b"a=" + b"%41b" * (BODY // 4)),
    "broken escapes": (FORM, b"a=" + b"%4" * (BODY // 2)),
    "fields": (FORM, b"a&" * (BODY // 2)),
    "form of bytes": (FORM, b"a=" + b"\xff" * BODY),
    "plain": (FORM, b"a=" + b"y" * BODY),
    "spaces": (FORM, b"a=" + b"+" * BODY),
    "floats": (JSON, b'{"message":[' + b"0.1," * (BODY // 4) + b"1]}"),
    "objects": (JSON, b'{"message":[' + b"{}," * (BODY // 3) + b"1]}"),
    "surrogates": (JSON, b'{"message":"' + b"\\ud800" * (BODY // 6) + b'"}'),
    "keys": (JSON, b"{" + b",".join(b'"%d":1' % n for n in range(BODY // 12)) + b"}"),
    "nesting": (JSON, b"[" * BODY),
    "a long number": (JSON, b'{"appID":' + b"9" * BODY + b"}"),
}


@pytest.fixture(scope="module", autouse=True)
def warm(guarded: Server) -> None:
    """What is loaded at the first request of its kind is loaded."""
    for path in ("/api/v1/docs", "/api/v1/openapi.json", "/home/index", "/none"):
        get(guarded.http, path)
    attack(guarded, post("/login", multipart(b"1"), MULTIPART))
    attack(
        guarded,
        post(
            "/api/v1/accounts/login",
            gzip.compress(b"{}"),
            JSON,
            ("Content-Encoding", "gzip"),
        ),
    )


@pytest.mark.parametrize("name", STRANGERS)
def test_a_request_of_a_stranger_costs_little(guarded: Server, name: str) -> None:
    wanted = STRANGERS[name]
    data = wanted.build(
        Attacker(*guarded.ws, http_host=guarded.http.host, http_port=guarded.http.port)
    )
    # thousands of frames at once
    with bounded(guarded, 3 * CPU_SECONDS if wanted.ws else CPU_SECONDS):
        attack(guarded, data, wanted.ws)


@pytest.mark.parametrize("body", [b"1.0,", b"{},"], ids=["whole numbers", "objects"])
def test_a_bomb_in_gzip_with_a_key_costs_little(guarded: Server, body: bytes) -> None:
    bomb = gzip.compress(
        b'{"ttl_seconds":1.0,"app":"101","data":[' + body * 990_000 + b"1]}", 1
    )
    keyed = (("Content-Encoding", "gzip"), ("Authorization", f"Bearer {ADMIN}"))
    with bounded(guarded):
        attack(guarded, post("/api/v1/push", bomb, JSON, *keyed))


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def reading(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server in demo mode, where nobody is a stranger."""
    server = start_shared_server(http_server=request.param)
    for kind, body in ((MULTIPART, multipart(b"1")), (FORM, b"a=1"), (JSON, b"{}")):
        attack(server, post("/user/sendMessage", body, kind))
    return server


@pytest.mark.parametrize("name", BODIES)
def test_a_body_costs_little_in_demo_mode(reading: Server, name: str) -> None:
    kind, body = BODIES[name]
    for path in (
        "/user/sendMessage",
        *(("/api/send_to_client",) if kind == JSON else ()),
    ):
        with bounded(reading, DEMO_SECONDS):
            attack(reading, post(path, body, kind, ("SystemId", "s")))


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/login", 200, "参数不正确"),
        ("/register", 200, "参数不正确"),
        ("/api/v1/accounts/register", 413, "body_too_large"),
        ("/nowhere", 413, "body_too_large"),
    ],
)
def test_a_large_body_is_refused_before_it_arrives(
    guarded: Server, path: str, status: int, body: str
) -> None:
    for port in (
        (guarded.http, guarded.ws)
        if path in ("/login", "/register")
        else (guarded.http,)
    ):
        with Raw(port) as raw:
            raw.send(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n".encode()
            )
            answer = raw.response()
        assert answer.status == status
        assert body in answer.body.decode()


def test_connections_that_are_refused_leave_nothing(guarded: Server) -> None:
    with bounded(guarded, 3 * CPU_SECONDS):
        for _ in range(200):
            with open_socket(
                guarded.ws, more=[("Origin", "https://evil.example")]
            ) as client:
                client.closed(4505)


def test_clients_that_say_or_read_nothing_do_not_hold_others_up(
    guarded: Server,
) -> None:
    with ExitStack() as stack:
        half = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
        for start in (b"", b"GET / HT", half):
            for _ in range(100):
                stack.enter_context(Raw(guarded.http)).send(start)
        began = time.monotonic()
        for _ in range(20):
            assert get(guarded.http, "/health").status == 200
            with cmd_client(guarded.ws):
                pass
        assert time.monotonic() - began < 60
    with Raw(guarded.http, receive_buffer_bytes=4096) as one:
        one.send(request("/api/v1/openapi.json") * 50)
        assert get(guarded.http, "/health").status == 200


def test_the_server_is_as_before(guarded: Server) -> None:
    """Nothing of all that is left behind: no file, and no connection but this
    one."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{guarded.pid}/fd"))

    eventually(lambda: open_files() < 60, what="connections are closed")
