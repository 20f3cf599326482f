"""``imserver bench abuse``: single requests of a stranger, and how long each holds the server's loop.

Each attack is sent once per try by a client without a key. Meanwhile a second connection asks for
``/health`` every millisecond. Its slowest answer is the time for which the loop was held, without the time
that the server or the probe waited for a core. The peak of the server's memory is compared with its memory
right before.
"""

from __future__ import annotations

import errno
import gzip
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.connections import Target
from bench.crew import Hand
from bench.figures import Figures
from bench.frames import client_frame, upgrade_request
from bench.generator import Generator
from bench.http_client import FORM, JSON, Lanes, get_request, request_head
from bench.loop import READ, WRITE, BenchError, Loop
from bench.proc import quick_rss_bytes
from bench.servers import disturb
from bench.stage import Stage, parameter, text_parameter

MOST_HOLD_MS, MOST_GROWTH_MB = 50, 20
KEYS = "[{key: a-key-that-no-stranger-knows, scopes: [push, read, admin]}]"
BODY_BYTES = 4_000_000
MESSAGE_BYTES = 65_536
HEAD_BYTES = 60_000
PROBE_SECONDS = 0.001
"""Between two questions of the probe."""
CALM_SECONDS = 0.15
"""The probe goes on for so long after the answer: garbage, closes and logs cost something too."""
ANSWER_SECONDS = 20.0
SILENCE_SECONDS = 1.0
"""How long an attack without an answer is watched."""

Build = Callable[[Target], bytes]


@dataclass(frozen=True)
class Attack:
    """One request. ``build`` makes its bytes; ``ws``: it goes to the WebSocket port; ``judged`` False: it is
    shown for comparison only. ``warm_up`` is sent first, so that code loaded on first use is not counted."""

    name: str
    build: Build
    ws: bool = False
    judged: bool = True
    warm_up: Build | None = None


def _get(path: str, *fields: str) -> Build:
    lines = "".join(f"{field}\r\n" for field in fields)
    return lambda target: get_request(target, path)[:-2] + f"{lines}\r\n".encode()


def _post(path: str, kind: str, body: Callable[[], bytes], *fields: str) -> Build:
    def build(target: Target) -> bytes:
        data = body()
        return request_head(target, path, kind, len(data), *fields) + data

    return build


def _announced(path: str, kind: str, size: int) -> Build:
    """A request whose body never comes."""
    return lambda target: request_head(target, path, kind, size)


def _upgrade(path: str, *frames: bytes) -> Build:
    return lambda target: upgrade_request(f"{target.ws_host}:{target.ws_port}", path) + b"".join(frames)


def _repeated(piece: bytes, size: int, begin: bytes = b"", end: bytes = b"") -> Callable[[], bytes]:
    return lambda: begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


_MULTIPART = "multipart/form-data; boundary=b"
_PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
_high_bytes = _repeated(b"\xff", BODY_BYTES, _PART, b"\r\n--b--\r\n")
_many_parts = _repeated(_PART + b"\r\n", BODY_BYTES, b"", b"--b--\r\n")
_many_fields = _repeated(b"a=&", BODY_BYTES)
_percents = _repeated(b"%41", BODY_BYTES, b"appID=")
_floats = _repeated(b"1.5,", BODY_BYTES, b'{"app":"101","user":"1","text":"t","x":[', b"1]}")
_deep = _repeated(b"[", BODY_BYTES)
_deep_objects = _repeated(b'{"a":', BODY_BYTES)
_escapes = _repeated(b"\\u4e2d", BODY_BYTES, b'{"app":"101","user":"', b'"}')
_members = _repeated(b'"a":0,', BODY_BYTES, b"{", b'"b":0}')
_query = "&".join(["a=b"] * (HEAD_BYTES // 4))
_fields = tuple(f"X-{number}: {number}" for number in range(HEAD_BYTES // 14))


def _distinct_members() -> bytes:
    return b"{" + b",".join(b'"%06d":0' % number for number in range(BODY_BYTES // 11)) + b"}"


def _inflating() -> bytes:
    return gzip.compress(_floats(), 9)


def _small_frames() -> bytes:
    """One message of MESSAGE_BYTES in frames of one byte, of which the last never comes."""
    first, more = bytearray(client_frame(b"{")), bytearray(client_frame(b" "))
    first[0], more[0] = 0x01, 0x00  # not final
    return bytes(first) + bytes(more) * (MESSAGE_BYTES - 1)


def _forms(path: str) -> Iterator[Attack]:
    small = _post(path, FORM, lambda: b"a=b")
    for name, kind, body in (
        ("4 MB of 0xFF as multipart", _MULTIPART, _high_bytes),
        ("80,000 empty parts", _MULTIPART, _many_parts),
        ("1.3 million form fields", FORM, _many_fields),
        ("4 MB of %41", FORM, _percents),
    ):
        yield Attack(f"POST {path}, {name}", _post(path, kind, body), warm_up=small)


def _json_bodies(path: str) -> Iterator[Attack]:
    small = _post(path, JSON, lambda: b"{}")
    for name, body in (
        ("a million floats", _floats),
        ("4 million [", _deep),
        ('800,000 {"a":', _deep_objects),
        ("4 MB of \\u escapes", _escapes),
        ("600,000 equal members", _members),
        ("360,000 distinct members", _distinct_members),
    ):
        yield Attack(f"POST {path}, {name}", _post(path, JSON, body), warm_up=small)
    unpacked = _post(path, JSON, _inflating, "Content-Encoding: gzip")
    yield Attack(f"POST {path}, gzip that inflates to 4 MB of floats", unpacked, warm_up=small)


def _pages() -> Iterator[Attack]:
    for path in (
        "/",
        "/home/index",
        "/home/room",
        "/home/messages",
        "/status",
        "/cluster",
        "/gateway",
        "/api/v1/docs",
        "/api/v1/openapi.json",
        "/api/v1/users?app=101",
        "/metrics",
        "/system/state",
        "/user/list?appID=101",
        "/sdk/imserver.js",
        "/no-such-page",
    ):
        yield Attack(f"GET {path}", _get(path), warm_up=_get(path))


def _heads() -> Iterator[Attack]:
    for path in ("/health", "/user/online", "/api/v1/users", "/", "/no-such-page"):
        long = _get(f"{path}?{_query}")
        yield Attack(f"GET {path}, 60 KB of query", long, warm_up=_get(path))
    yield Attack("GET /, 4,000 header lines", _get("/", *_fields), warm_up=_get("/"))
    yield Attack("GET /, a cookie of 60 KB", _get("/", "Cookie: " + "a=b; " * 12_000), warm_up=_get("/"))
    languages = "Accept-Language: " + "zh;q=0.5," * 6_000
    yield Attack("GET /, 6,000 languages", _get("/", languages), warm_up=_get("/"))
    yield Attack("a header line of 1 MB without an end", lambda target: b"GET /" + b"a" * 1_000_000)


def _messages() -> Iterator[Attack]:
    """What is said before a login, in each dialect."""
    letters = client_frame(b"a" * MESSAGE_BYTES)
    deep = client_frame(b"[" * MESSAGE_BYTES)
    login = b'{"seq":"1","cmd":"login","data":{"userID":"' + b"\\u4e2d" * 10_000 + b'","appID":101}}'
    binary = client_frame(b"\x0a" * MESSAGE_BYTES, 0x2)
    for path in ("/acc", "/ws?systemId=abuse", "/ws?uid=1", "/ws"):
        for name, frames in (
            ("64 KB of letters", (letters,)),
            ("64 KB of [", (deep,)),
            ("64 KB of protobuf tags", (binary,)),
            ("a login with an id of 60 KB", (client_frame(login),)),
            ("64 KB in frames of one byte", (_small_frames(),)),
            ("10,000 pings", (client_frame(b"p" * 100, 0x9) * 10_000,)),
        ):
            yield Attack(f"{path}, {name}", _upgrade(path, *frames), ws=True, warm_up=_upgrade(path))
    yield Attack("/acc, 60 KB of query", _upgrade(f"/acc?{_query}"), ws=True)


def _bodies() -> Iterator[Attack]:
    uploads = "/api/v1/uploads?app=101&user=1"
    announced = _announced(uploads, "image/png", 100_000_000)
    yield Attack("POST /api/v1/uploads, 100 MB announced, nothing sent", announced)
    announced = _announced("/api/v1/push", JSON, BODY_BYTES)
    yield Attack("POST /api/v1/push, 4 MB announced, nothing sent", announced)
    chunks = "Transfer-Encoding: chunked"
    for path in ("/login", "/api/v1/push"):
        chunked = _chunked(path, chunks)
        yield Attack(f"POST {path}, 200,000 chunks of one byte", chunked)
    password = _post("/login", FORM, lambda: b"phone_number=1&password=" + b"p" * 1_000_000)
    yield Attack("POST /login, a password of 1 MB", password, warm_up=_post("/login", FORM, lambda: b"a=b"))
    account = _post("/register", FORM, lambda: b"phone_number=%d&password=secret" % time.time_ns())
    yield Attack("POST /register, an ordinary one", account, warm_up=account)


def _chunked(path: str, field: str) -> Build:
    return lambda target: (
        f"POST {path} HTTP/1.1\r\nHost: {target.http_host}:{target.http_port}\r\n{field}\r\n"
        f"Content-Type: {JSON}\r\n\r\n".encode()
        + b"1\r\na\r\n" * 200_000
        + b"0\r\n\r\n"
    )


FORM_ROUTES = ("/login", "/register", "/friend/add", "/group/create", "/user/sendMessage")
JSON_ROUTES = ("/api/v1/push", "/api/v1/accounts/login", "/api/v1/batch", "/user/onlineBatch")

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("nothing: how late an idle server answers", lambda _target: b"", judged=False),
        Attack("the first page: loads code once", _get("/"), judged=False),
        Attack("the first login: loads code once", _post("/login", FORM, lambda: b"a=b"), judged=False),
        *(attack for path in FORM_ROUTES for attack in _forms(path)),
        *(attack for path in JSON_ROUTES for attack in _json_bodies(path)),
        *_pages(),
        *_heads(),
        *_messages(),
        *_bodies(),
    )
}


class Stranger:
    """One connection that sends ``data`` and reads what comes. Owned by its loop."""

    def __init__(self, loop: Loop, address: tuple[str, int], data: bytes) -> None:
        self.loop = loop
        self.unsent = memoryview(data)
        self.answer = b""
        self.ended = False
        self.heard_at = 0.0
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setblocking(False)
        self.fd = self.sock.fileno()
        loop.add(self.fd, READ | WRITE, self)

    def ready(self, _fd: int, mask: int) -> None:
        try:
            if mask & WRITE and self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent[: 1 << 18]) :]
            if mask & WRITE and not self.unsent:
                self.loop.change(self.fd, READ)
            if mask & ~WRITE:
                data = self.sock.recv(1 << 18)
                self.heard_at = time.monotonic()
                self.answer = self.answer or data[:200]
                if not data:
                    self.close()
        except BlockingIOError:
            pass
        except OSError as error:
            self.answer = self.answer or errno.errorcode.get(error.errno or 0, "error").encode()
            self.close()

    def close(self) -> None:
        if not self.ended:
            self.ended, self.heard_at = True, time.monotonic()
            self.loop.remove(self.fd)
            self.sock.close()


class Probe:
    """Asks for ``/health`` again and again over one connection; ``worst_us`` is the longest hold.

    A hold is the time until the answer, without the time that the server's thread and this one waited for a
    core; both may wait at once, so it is at least the CPU time that the server took meanwhile.
    """

    def __init__(self, generator: Generator, pid: int) -> None:
        self.loop = generator.loop
        self.threads = [Path(f"/proc/{each}/task/{each}/schedstat") for each in (pid, os.getpid())]
        self.request = get_request(generator.target, "/health")
        self.worst_us = 0
        self.lanes = Lanes(self.loop, generator.target, 1, self._answered)
        (self.lane,) = self.lanes
        self._due = 0.0
        self._begun = (0, 0)

    def _answered(self, _number: int, micros: int, status: int, body: bytes) -> None:
        ran, waited = (now - then for now, then in zip(self._times_us(), self._begun, strict=True))
        self.worst_us = max(self.worst_us, min(micros, max(ran, micros - waited)))
        self._due = time.monotonic() + PROBE_SECONDS

    def _times_us(self) -> tuple[int, int]:
        """Return how long the server's thread ran, and how long both threads waited for a core, so far."""
        server, own = ([int(word) for word in path.read_text().split()] for path in self.threads)
        return server[0] // 1000, (server[1] + own[1]) // 1000

    def turn(self) -> float:
        """Let the loop turn once; return the time."""
        now = time.monotonic()
        if not self.lane.waiting and now >= self._due:
            self._begun = self._times_us()
            self.lanes.send(self.lane, (0,), self.request)
        self.loop.turn(PROBE_SECONDS)
        return time.monotonic()

    def watch(self, seconds: float) -> None:
        """Go on for so long, and until the last question is answered."""
        end = time.monotonic() + seconds
        while self.turn() < end or (self.lane.waiting and time.monotonic() < end + ANSWER_SECONDS):
            pass


def attack(generator: Generator, name: str, pid: int, warm_up: bool) -> dict[str, Any]:
    """Task: send one attack (or what warms up for it), and say what it did to the server ``pid``."""
    target, wanted = generator.target, ATTACKS[name]
    build = wanted.warm_up if warm_up else wanted.build
    assert build is not None
    data = build(target)
    address = (target.ws_host, target.ws_port) if wanted.ws else (target.http_host, target.http_port)
    probe = Probe(generator, pid)
    probe.watch(0.05)
    probe.worst_us = 0
    before = quick_rss_bytes((pid,))
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here
    answer = b""
    begin = time.monotonic()
    if data:
        stranger = Stranger(generator.loop, address, data)
        while (now := probe.turn()) < begin + ANSWER_SECONDS:
            silent = now - max(stranger.heard_at, begin)
            over = stranger.ended or silent > (CALM_SECONDS if stranger.heard_at else SILENCE_SECONDS)
            if over and not probe.lane.waiting:
                break
        stranger.close()
        answer = stranger.answer
    probe.watch(CALM_SECONDS)
    probe.lanes.close()
    return {
        "hold_ms": probe.worst_us / 1000,
        "growth_mb": max(0, _peak_bytes(pid) - before) / 1e6,
        "answer": answer.split(b"\r\n")[0].decode("latin-1")[:60],
    }


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return quick_rss_bytes((pid,))


@dataclass(frozen=True)
class AbuseOptions:
    """Parameters of the run."""

    tries: int = parameter(3, "How often each attack is made; the median of them counts.", most=25)
    match: str = text_parameter("", "Only attacks whose name contains this.")
    arguments: str = text_parameter("", "More arguments for `imserver serve`.")


def run(stage: Stage, options: AbuseOptions) -> Figures:
    """Send the worst single requests of a stranger to a server in demo mode and to one with keys.

    The report has a row an attack, the worst first: the median of the holds over the tries, since another
    program may delay an answer too, and the median of the growths.
    """
    chosen = [name for name in ATTACKS if options.match in name]
    if not chosen:
        raise BenchError(f"no attack has {options.match!r} in its name")
    rows: list[dict[str, Any]] = []
    for mode, settings in (("demo", {}), ("keys", {"IMSERVER_API_KEYS": KEYS})):
        own = stage.crew.serve(
            log=stage.log, arguments=options.arguments.split(), cores=stage.cores.server, environment=settings
        )
        stage.target = own.target
        (hand,) = stage.hire(1)
        for number, name in enumerate(chosen):
            if stage.progress is not None:
                stage.progress(number + len(rows), 2 * len(chosen))
            rows.append(_attacked(stage, hand, own.pids[0], mode, name, options.tries))
        stage.crew.ask(own.hand, disturb, how="stop")
    rows.sort(key=lambda row: -max(row["hold_ms"] / MOST_HOLD_MS, row["growth_mb"] / MOST_GROWTH_MB))
    judged = [row for row in rows if row["judged"]] or rows
    stage.extra |= {"attacks": rows, "worst": judged[0]["name"]}
    return {
        "attacks": len(judged),
        "attacks_over": sum(row["over"] for row in judged),
        "hold_ms": max(row["hold_ms"] for row in judged),
        "growth_mb": max(row["growth_mb"] for row in judged),
    }


def _attacked(stage: Stage, hand: Hand, pid: int, mode: str, name: str, tries: int) -> dict[str, Any]:
    """Make one attack several times; return its row."""
    wanted = ATTACKS[name]
    if wanted.warm_up is not None:
        stage.crew.ask(hand, attack, name=name, pid=pid, warm_up=True)
    count = tries if wanted.judged else 1
    found = [stage.crew.ask(hand, attack, name=name, pid=pid, warm_up=False) for _ in range(count)]
    hold_ms = statistics.median(each["hold_ms"] for each in found)
    growth_mb = statistics.median(each["growth_mb"] for each in found)
    return {
        "name": f"{mode}: {name}",
        "hold_ms": hold_ms,
        "growth_mb": growth_mb,
        "answer": found[-1]["answer"],
        "judged": wanted.judged,
        "over": wanted.judged and (hold_ms > MOST_HOLD_MS or growth_mb > MOST_GROWTH_MB),
    }
