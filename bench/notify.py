"""Scenario ``notify``: what notifications of absent users cost, of Web Push beside encrypting them alone.

A process of its own is the push services: one host that takes everything, one that does not know any endpoint
any more, one that answers 500 and one that never answers. Subscriptions are written into the database of the
server, because a hundred thousand requests would take minutes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
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
from bench.loop import BenchError, Json
from bench.probe import probe
from bench.proc import quick_rss_bytes
from bench.push_services import AUTH, DEAD, FAILING, GOOD, HANGING, P256DH, PushServices
from bench.servers import NodeProcess

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
LOOK_SECONDS: Final = 0.05


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
        group = str(self._post("/api/v1/groups/create", body, "group"))
        for start in range(0, len(rest), MEMBERS_AT_ONCE):
            some = rest[start : start + MEMBERS_AT_ONCE]
            invited = {"app": APP, "user": "owner", "group": group, "members": some}
            self._post("/api/v1/groups/invite", invited, "group")
        return group

    def subscribe(self, host: str, users: Iterable[str], devices: int = 1) -> None:
        """Give users devices at a host: the first by a request, which makes the server follow the app."""
        owners = [name for name in users for _ in range(devices)]
        base = f"http://{host}:{self.port}/{host}"
        urls = [f"{base}/{name}/{number % devices}" for number, name in enumerate(owners)]
        added = {"endpoint": urls[0], "keys": {"p256dh": P256DH, "auth": AUTH}}
        self._post("/api/v1/notifications/endpoints", {"app": APP, "user": owners[0], **added}, "id")
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

    def await_taken(self, devices: int) -> None:
        """Begin to count what devices get, until so many have got something."""
        self.services.ask(take, devices=devices, seconds=WAIT_SECONDS)

    def taken(self) -> Json:
        """What they got."""
        return self.context.gather([self.services])[0]

    def watch(self) -> None:
        """Begin to measure how long the loop is held."""
        self.prober.ask(probe, pid=self.own.pids[0], seconds=WAIT_SECONDS)

    def hold_ms(self) -> float:
        """For how long it was, since :meth:`watch`."""
        self.prober.stop()
        (longest,) = self.context.gather([self.prober])
        return float(longest["worst_us"] / 1000)

    def send(self, group: str) -> None:
        """Send a message to a group."""
        message = {"app": APP, "group": group, "sender": "owner", "store": True}
        self._post("/api/v1/push", {**message, "text": "Lunch is ready. Shall we meet at one?"}, "sent")

    def count(self, table: str, where: str = "") -> int:
        """The number of rows."""
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=10)) as database:
            (rows,) = database.execute(f"SELECT count(*) FROM {table} {where}").fetchone()
        return int(rows)

    def wait(self, table: str, rows: int, where: str = "") -> bool:
        """Wait until a table has at most so many rows."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.count(table, where) > rows:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS * 4)
        return True

    def audience(self, id: object) -> Json:
        """How far an audience is."""
        answer = fetch(self.target, f"/api/v1/notifications/audiences?app={APP}&id={id}")
        return dict(answer["audiences"][0])

    def start_audience(self) -> object:
        """Notify all users of the app; returns the id."""
        notify = {"title": "Spring sale", "text": "Until Friday"}
        return self._post(
            "/api/v1/notifications/audiences", {"app": APP, "all": True, "notify": notify}, "id"
        )

    def cancel_audience(self, id: object) -> None:
        """Send nothing more."""
        self._post("/api/v1/notifications/audiences/cancel", {"app": APP, "id": id}, "id")

    def _post(self, path: str, body: Json, field: str) -> object:
        answer = post(self.target, path, body)
        if field not in answer:
            raise BenchError(f"{path}: {json.dumps(answer)[:300]}")
        return answer.get(field)


def run(context: RunContext, options: NotifyOptions) -> Figures:
    """Measure notifications of absent users, bad hosts."""
    bench = NotifyRun(context, options)
    context.show_phase(f"notify: a group of {options.members:,}")
    names = [f"member-{number}" for number in range(options.members)]
    group = bench.group(names)
    bench.subscribe(GOOD, names)
    bench.own.rest()
    few = names[:FIRST]
    _round(bench, bench.group(few), len(few))  # loads the libraries
    figures = _round(bench, group, options.members)
    body_bytes = int(figures.pop("body_bytes") or 0)
    (alone,) = context.start_workers(1, context.cores.server)
    alone_us = float(context.ask([alone], encrypt, size=body_bytes - 103)[0]["cpu_us"])
    figures |= {"encrypt_us": alone_us, "of_encrypting": (figures["notified_cpu_us"] or 0) / alone_us}
    if options.audience:
        context.show_phase(f"notify: an audience of {options.audience:,}")
        bench.subscribe(GOOD, (f"user-{number}" for number in range(options.audience)))
        bench.own.rest()
        figures |= _audience(bench, options)
    if options.bad:
        context.show_phase("notify: hosts that hang and fail")
        for host in (HANGING, FAILING):
            bench.subscribe(host, names[: options.bad])
        figures |= _beside_bad_hosts(bench, group, options)
    if options.dead:
        context.show_phase(f"notify: {options.dead:,} dead endpoints")
        figures |= _dead(bench, options.dead)
    return figures


def _round(bench: NotifyRun, group: str, devices: int) -> Figures:
    """Send one message to a group; what it costs until the results are stored."""
    bench.watch()
    bench.await_taken(devices)
    time.sleep(0.5)
    with bench.own.measured() as span:
        begin = time.monotonic()
        bench.send(group)
        taken = bench.taken()
        bench.wait("notify_delivery", 0)
    return {
        "notified_cpu_us": span.server_us / devices,
        "notified_seconds": taken["last"] - begin,
        "notifications_lost": devices - taken["devices"],
        "notifications_again": taken["requests"] - taken["devices"],
        "notify_hold_ms": bench.hold_ms(),
        "body_bytes": taken["body_bytes"],
    }


def _audience(bench: NotifyRun, options: NotifyOptions) -> Figures:
    """Notify all users; memory and loop of the server meanwhile."""
    pids = bench.own.pids
    before = most = quick_rss_bytes(pids)
    bench.watch()
    begin = time.monotonic()
    id = bench.start_audience()
    while (now := bench.audience(id))["state"] in ("running", "queued"):
        most = max(most, quick_rss_bytes(pids))
        if time.monotonic() - begin > options.audience_seconds:
            bench.cancel_audience(id)
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


def _beside_bad_hosts(bench: NotifyRun, group: str, options: NotifyOptions) -> Figures:
    """The same message when some users have devices at hosts that hang and fail, too."""
    bench.watch()
    bench.await_taken(options.members)
    begin = time.monotonic()
    bench.send(group)
    taken = bench.taken()
    return {
        "beside_bad_seconds": taken["last"] - begin,
        "beside_bad_lost": options.members - taken["devices"],
        "beside_bad_again": taken["requests"] - taken["devices"],
        "beside_bad_hold_ms": bench.hold_ms(),
        "bad_requests": taken["others"],
    }


def _dead(bench: NotifyRun, count: int) -> Figures:
    """One round to endpoints that are all gone."""
    users = [f"dead-{number}" for number in range(-(-count // ENDPOINTS_EACH))]
    group = bench.group(users)
    bench.subscribe(DEAD, users, ENDPOINTS_EACH)
    where = "WHERE member LIKE 'dead-%'"
    endpoints = bench.count("notify_endpoint", where)
    bench.services.ask(take, devices=endpoints, seconds=WAIT_SECONDS, host=DEAD)
    with bench.own.measured() as span:
        begin = time.monotonic()
        bench.send(group)
        (taken,) = bench.context.gather([bench.services])
        bench.wait("notify_endpoint", 0, where)
    return {
        "dead_endpoints": endpoints,
        "dead_left": bench.count("notify_endpoint", where),
        "dead_again": taken["requests"] - taken["devices"],
        "dead_seconds": time.monotonic() - begin,
        "dead_cpu_us": span.server_us / endpoints,
    }
