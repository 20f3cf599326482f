"""Scenario ``notify``: what notifications of absent users cost, of Web Push beside encrypting them alone.

A process of its own is the push services: one host that takes everything, one that does not know any endpoint
any more, one that answers 500 and one that never answers. Subscriptions are written into the database of the
server, because a hundred thousand requests would take minutes.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

import http_ece
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from bench.connections import Target
from bench.context import RunContext, parameter
from bench.figures import Figures
from bench.generator import Generator
from bench.http_client import fetch, post
from bench.loop import READ, BenchError, Json, Loop
from bench.probe import probe
from bench.proc import quick_rss_bytes
from bench.report import show_phase
from bench.servers import NodeProcess

GOOD, DEAD, FAILING, HANGING = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""Hosts of push services, by what they do."""
STATUS: Final = {GOOD: "201 Created", DEAD: "410 Gone", FAILING: "500 Internal Server Error"}
# Of RFC 8291, appendix A.
P256DH: Final = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH: Final = "BTBZMqHH6r4Tts7J_aSIgg"
RECEIVE_BYTES: Final = 65536


class PushServices:
    """The push services. Owner of their sockets. They count requests, by path."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.requests: Counter[str] = Counter()
        self.body_bytes = 0
        """Longest body."""
        self.last = 0.0
        """When the last request to the good host came (monotonic)."""
        self._answers: dict[int, bytes] = {}
        """Listener → what its host answers; ``b""``: nothing."""
        self._open: dict[int, tuple[socket.socket, bytes, bytearray]] = {}
        """Connection → socket, answer, and what was received of a request."""
        self._listeners: dict[int, socket.socket] = {}
        self.port = 0
        for host in (GOOD, DEAD, FAILING, HANGING):
            sock = socket.create_server((host, self.port), backlog=1024)
            sock.setblocking(False)
            self.port = sock.getsockname()[1]
            status = STATUS.get(host)
            answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n" if status else ""
            self._answers[sock.fileno()] = answer.encode()
            self._listeners[sock.fileno()] = sock
            loop.add(sock.fileno(), READ, self)

    def good(self) -> int:
        """The number of requests to the good host."""
        return sum(1 for path in self.requests if path.startswith(f"/{GOOD}/"))

    def ready(self, fd: int, mask: int) -> None:
        if (listener := self._listeners.get(fd)) is not None:
            sock, _address = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[sock.fileno()] = sock, self._answers[fd], bytearray()
            self.loop.add(sock.fileno(), READ, self)
            return
        sock, answer, buffer = self._open[fd]
        try:
            data = sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self.loop.remove(fd)
            del self._open[fd]
            sock.close()
            return
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[:end])
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(buffer) < end + 4 + length:
                return
            del buffer[: end + 4 + length]
            self._take(head.split(b" ", 2)[1].decode(), length)
            if answer:
                sock.send(answer)

    def _take(self, path: str, length: int) -> None:
        self.requests[path] += 1
        self.body_bytes = max(self.body_bytes, length)
        if path.startswith(f"/{GOOD}/"):
            self.last = time.monotonic()


APP: Final = "101"
AUDIENCE_LOOK_SECONDS: Final = 0.5
# Of RFC 8291, appendix A.
_POINT: Final = bytes.fromhex(
    "042571b2becdfde360551aaf1ed0f4cd366c11cebe555f89bcb7b186a53339173168ece2ebe018597bd30479b86e3c8f8ece"
    "d577ca59187e9246990db682008b0e"
)
_SECRET: Final = bytes.fromhex("05305932a1c7eabe13b6cec9fda48882")
ALONE: Final = 2000
"""Encryptions that are measured alone."""
FIRST: Final = 50
"""Members of the group that warms the server up."""
MEMBERS_AT_ONCE: Final = 1000
ENDPOINTS_EACH: Final = 100
"""Dead endpoints of a user."""
WAIT_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class NotifyOptions:
    members: int = parameter(10_000, "Absent members of a group, with a device each.", most=10_000)
    bad: int = parameter(
        1000, "More devices at a host that hangs, and as many at one that fails; 0: none.", least=0, most=2000
    )
    audience: int = parameter(
        0, "Users with a device each, for a notification to all; 0: none.", least=0, most=2_000_000
    )
    audience_seconds: float = parameter(
        240.0, "After so many seconds it is cancelled.", least=1, most=WAIT_SECONDS
    )
    dead: int = parameter(
        100_000, "Endpoints that their host does not know any more; 0: none.", least=0, most=1_000_000
    )


def listen(generator: Generator) -> Json:
    services = generator.state["services"] = PushServices(generator.loop)
    return {"port": services.port}


def take(generator: Generator, devices: int, seconds: float, host: str = GOOD) -> Json:
    """Task: wait until so many devices of a host got a notification, or until it is stopped."""
    services: PushServices = generator.state["services"]
    before = services.requests.copy()
    prefix = f"/{host}/"

    def is_done() -> bool:
        if services.requests.total() < before.total() + devices:
            return False
        return sum(path.startswith(prefix) for path in services.requests - before) >= devices

    generator.loop.until(is_done, seconds)
    new = services.requests - before
    counts = [count for path, count in new.items() if path.startswith(prefix)]
    return {
        "devices": len(counts),
        "requests": sum(counts),
        "others": sum(count for path, count in new.items() if not path.startswith(prefix)),
        "last": services.last,
        "body_bytes": services.body_bytes,
    }


def encrypt(generator: Generator, size: int) -> Json:
    """Task: encrypt as a server has to, with ``http_ece``; CPU in µs of each."""
    plain = os.urandom(size)

    def run(count: int) -> float:
        begin = time.process_time_ns()
        for _ in range(count):
            key = generate_private_key(SECP256R1())
            http_ece.encrypt(plain, private_key=key, dh=_POINT, auth_secret=_SECRET, version="aes128gcm")
        return (time.process_time_ns() - begin) / 1000 / count

    run(ALONE // 10)
    return {"cpu_us": run(ALONE)}


class NotifyRun:
    """A server with an app, and the push services of its users."""

    def __init__(self, context: RunContext, options: NotifyOptions) -> None:
        self.context = context
        notify = {"after_seconds": 0, "again_seconds": 0, "audience_per_second": 100_000}
        rules: dict[str, Any] = {"open": True, "notify": notify}
        environment = {
            "IMSERVER_NOTIFICATIONS_ALLOW_LOOPBACK": "true",
            "IMSERVER_ACCOUNTS_GROUP_MEMBERS": str(options.members + 1),
        }
        (self.services,) = context.start_workers(1)
        self.port = context.ask([self.services], listen)[0]["port"]
        environment["IMSERVER_APPS"] = json.dumps({APP: rules})
        node = NodeProcess(context.log, environment=environment, cores=context.cores.server)
        context.pool.start(node)
        self.target: Target = node.target
        self.own = replace(context, target=node.target, pids=node.pids[:1], folder=node.data_directory)
        self.file = Path(node.data_directory, "imserver.db")
        (self.prober,) = self.own.start_workers(1)
        self.groups = 0

    def group(self, members: list[str]) -> str:
        """Make a group; return its id."""
        self.groups += 1
        first, rest = members[:MEMBERS_AT_ONCE], members[MEMBERS_AT_ONCE:]
        body = {"app": APP, "user": "owner", "name": f"group {self.groups}", "members": first}
        group = str(self.post("/api/v1/groups/create", body, "group"))
        for start in range(0, len(rest), MEMBERS_AT_ONCE):
            some = rest[start : start + MEMBERS_AT_ONCE]
            invited = {"app": APP, "user": "owner", "group": group, "members": some}
            self.post("/api/v1/groups/invite", invited, "group")
        return group

    def subscribe(self, host: str, users: Iterable[str], devices: int = 1) -> None:
        """Give users devices at a host: the first by a request, which makes the server follow the app."""
        owners = [name for name in users for _ in range(devices)]
        base = f"http://{host}:{self.port}/{host}"
        urls = [f"{base}/{name}/{number % devices}" for number, name in enumerate(owners)]
        added = {"endpoint": urls[0], "keys": {"p256dh": P256DH, "auth": AUTH}}
        self.post("/api/v1/notifications/endpoints", {"app": APP, "user": owners[0], **added}, "id")
        rows = (
            (APP, name, sha256(url.encode()).hexdigest(), url.encode(), P256DH, AUTH, "", "en", 1, 0, 0)
            for name, url in islice(zip(owners, urls, strict=True), 1, None)
        )
        with closing(sqlite3.connect(self.file, timeout=30)) as database, database:
            database.executemany(
                "INSERT INTO notify_endpoint (app, member, digest, url, p256dh, auth, device, language, "
                "enabled, login, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def round(self, group: str, host: str, devices: int, table: str, where: str = "") -> Json:
        """Send one message to a group, until so many devices at a host got a notification, and the rows of
        the table are gone. Returns what it cost, and what the push services got.
        """
        probes = host == GOOD  # endpoints that are gone are removed without a probe beside it
        if probes:
            self.prober.ask(probe, pid=self.own.pids[0], seconds=WAIT_SECONDS)
        self.services.ask(take, devices=devices, seconds=WAIT_SECONDS, host=host)
        time.sleep(0.5)
        with self.own.measured() as span:
            begin = time.monotonic()
            message = {"app": APP, "group": group, "sender": "owner", "store": True}
            self.post("/api/v1/push", {**message, "text": "Lunch is ready. Shall we meet at one?"}, "sent")
            (taken,) = self.context.gather([self.services])
            deadline = time.monotonic() + WAIT_SECONDS
            while self.count(table, where) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            ended = time.monotonic() - begin
        return {
            "cpu_us": span.server_us / devices,
            "ended": ended,
            "seconds": taken["last"] - begin,
            "lost": devices - taken["devices"],
            "again": taken["requests"] - taken["devices"],
            "others": taken["others"],
            "body_bytes": taken["body_bytes"],
            "hold_ms": self.hold_ms() if probes else 0.0,
        }

    def hold_ms(self) -> float:
        """For how long the loop was held since the prober began."""
        self.prober.stop()
        (longest,) = self.context.gather([self.prober])
        return float(longest["worst_us"] / 1000)

    def count(self, table: str, where: str = "") -> int:
        """The number of rows."""
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=10)) as database:
            (rows,) = database.execute(f"SELECT count(*) FROM {table} {where}").fetchone()
        return int(rows)

    def post(self, path: str, body: Json, field: str) -> object:
        answer = post(self.target, path, body)
        if field not in answer:
            raise BenchError(f"{path}: {json.dumps(answer)[:300]}")
        return answer.get(field)


def run(context: RunContext, options: NotifyOptions) -> Figures:
    """Measure notifications of absent users, bad hosts."""
    bench = NotifyRun(context, options)
    show_phase(f"notify: a group of {options.members:,}")
    names = [f"member-{number}" for number in range(options.members)]
    group = bench.group(names)
    bench.subscribe(GOOD, names)
    bench.own.rest()
    few = names[:FIRST]
    bench.round(bench.group(few), GOOD, len(few), "notify_delivery")  # loads the libraries
    found = bench.round(group, GOOD, options.members, "notify_delivery")
    (alone,) = context.start_workers(1, context.cores.server)
    (encrypted,) = context.ask([alone], encrypt, size=found["body_bytes"] - 103)
    figures: Figures = {
        "notified_cpu_us": found["cpu_us"],
        "notified_seconds": found["seconds"],
        "notifications_lost": found["lost"],
        "notifications_again": found["again"],
        "notify_hold_ms": found["hold_ms"],
        "encrypt_us": encrypted["cpu_us"],
        "of_encrypting": found["cpu_us"] / encrypted["cpu_us"],
    }
    if options.audience:
        show_phase(f"notify: an audience of {options.audience:,}")
        bench.subscribe(GOOD, (f"user-{number}" for number in range(options.audience)))
        bench.own.rest()
        figures |= _audience(bench, options)
    if options.bad:
        show_phase("notify: hosts that hang and fail")
        for host in (HANGING, FAILING):
            bench.subscribe(host, names[: options.bad])
        found = bench.round(group, GOOD, options.members, "notify_delivery", f"WHERE host LIKE '{GOOD}%'")
        figures |= {f"beside_bad_{name}": found[name] for name in ("seconds", "lost", "again", "hold_ms")}
        figures["bad_requests"] = found["others"]
    if options.dead:
        show_phase(f"notify: {options.dead:,} dead endpoints")
        figures |= _dead(bench, options.dead)
    return figures


def _audience(bench: NotifyRun, options: NotifyOptions) -> Figures:
    """Notify all users; memory and loop of the server meanwhile."""
    pids = bench.own.pids
    before = most = quick_rss_bytes(pids)
    bench.prober.ask(probe, pid=pids[0], seconds=WAIT_SECONDS)
    begin, path = time.monotonic(), "/api/v1/notifications/audiences"
    sale = {"app": APP, "all": True, "notify": {"title": "Spring sale", "text": "Until Friday"}}
    id = bench.post(path, sale, "id")
    while (now := fetch(bench.target, f"{path}?app={APP}&id={id}")["audiences"][0])["state"] in (
        "running",
        "queued",
    ):
        most = max(most, quick_rss_bytes(pids))
        if time.monotonic() - begin > options.audience_seconds:
            bench.post(f"{path}/cancel", {"app": APP, "id": id}, "id")
        time.sleep(AUDIENCE_LOOK_SECONDS)
    seconds = time.monotonic() - begin
    is_done = now["state"] == "done"
    return {
        "audience_users": options.audience + options.members,
        "audience_taken": now["taken"],
        "audience_lost": options.audience + options.members - now["taken"] if is_done else 0,
        "audience_seconds": seconds,
        "audience_per_second": now["taken"] / seconds,
        "audience_mb": (most - before) / 1e6,
        "audience_hold_ms": bench.hold_ms(),
    }


def _dead(bench: NotifyRun, count: int) -> Figures:
    """One round to endpoints that are all gone."""
    users = [f"dead-{number}" for number in range(-(-count // ENDPOINTS_EACH))]
    group = bench.group(users)
    bench.subscribe(DEAD, users, ENDPOINTS_EACH)
    where = "WHERE member LIKE 'dead-%'"
    endpoints = bench.count("notify_endpoint", where)
    found = bench.round(group, DEAD, endpoints, "notify_endpoint", where)
    return {
        "dead_endpoints": endpoints,
        "dead_left": bench.count("notify_endpoint", where),
        "dead_again": found["again"],
        "dead_seconds": found["ended"],
        "dead_cpu_us": found["cpu_us"],
    }
