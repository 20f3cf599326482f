"""Scenario ``notify``: what notifications of absent users cost by Web Push.

The push service runs in this process, and takes everything. Subscriptions are
written into the database of the server, because so many requests would take
minutes.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from bench.chaos_loads import AUTH, P256DH, PostReceiver
from bench.context import RunContext, parameter
from bench.figures import Figures
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.probe import probe
from bench.report import show_phase
from bench.servers import NodeProcess

APP: Final = "101"
FIRST: Final = 50
"""Members of the group that warms the server up."""
MEMBERS_AT_ONCE: Final = 1000
WAIT_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class NotifyOptions:
    members: int = parameter(
        10_000, "Absent members of a group, with a device each.", most=10_000
    )


class PushService:
    """The push service. Owner of its threads. It counts requests, by path."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.last = 0.0
        """When the last request came (monotonic)."""
        self._lock = threading.Lock()
        self._receiver = PostReceiver(self._take)
        self.url = self._receiver.url
        self.close = self._receiver.close

    def _take(self, path: str, _headers: object, _body: bytes) -> int:
        with self._lock:
            self.requests[path] += 1
            self.last = time.monotonic()
        return 201


class NotifyRun:
    """A server with an app, and the push services of its users."""

    def __init__(self, context: RunContext, options: NotifyOptions) -> None:
        notify = {"after_seconds": 0, "again_seconds": 0}
        rules: dict[str, Any] = {"open": True, "notify": notify}
        environment = {
            "IMSERVER_NOTIFICATIONS_ALLOW_LOOPBACK": "true",
            "IMSERVER_ACCOUNTS_GROUP_MEMBERS": str(options.members + 1),
            "IMSERVER_APPS": json.dumps({APP: rules}),
        }
        self.service = PushService()
        node = context.pool.start(
            NodeProcess(
                context.log, environment=environment, cores=context.cores.server
            )
        )
        self.target = node.target
        self.own = replace(
            context, target=node.target, pids=node.pids[:1], folder=node.data_directory
        )
        self.file = Path(node.data_directory, "imserver.db")
        (self.prober,) = self.own.start_workers(1)

    def group(self, members: list[str]) -> str:
        """Make a group; return its id."""
        owner = {"app": APP, "user": "owner"}
        size = MEMBERS_AT_ONCE
        body = {**owner, "name": f"group of {len(members)}", "members": members[:size]}
        group = str(self.post("/api/v1/groups/create", body, "group"))
        for start in range(size, len(members), size):
            body = {**owner, "group": group, "members": members[start : start + size]}
            self.post("/api/v1/groups/invite", body, "group")
        return group

    def subscribe(self, users: list[str]) -> None:
        """Give each user a device: the first by a request, which makes the
        server follow the app."""
        urls = [self.service.url + name for name in users]
        added = {"endpoint": urls[0], "keys": {"p256dh": P256DH, "auth": AUTH}}
        self.post(
            "/api/v1/notifications/endpoints",
            {"app": APP, "user": users[0], **added},
            "id",
        )
        rows = [
            (
                APP,
                name,
                sha256(url.encode()).hexdigest(),
                url.encode(),
                P256DH,
                AUTH,
                "",
                "en",
                1,
                0,
                0,
            )
            for name, url in zip(users[1:], urls[1:], strict=True)
        ]
        with closing(sqlite3.connect(self.file, timeout=30)) as database, database:
            database.executemany(
                "INSERT INTO notify_endpoint (app, member, digest, url, p256dh, auth, device, language, "
                "enabled, login, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def round(self, group: str, devices: int) -> Figures:
        """Send a message to a group, until so many devices got a notification,
        and results are stored."""
        self.prober.ask(probe, pid=self.own.pids[0], seconds=WAIT_SECONDS)
        time.sleep(0.5)
        service = self.service
        begin = time.monotonic()
        service.requests.clear()
        with self.own.measured() as span:
            message = {"app": APP, "group": group, "sender": "owner", "store": True}
            self.post(
                "/api/v1/push",
                {**message, "text": "Lunch is ready. Shall we meet at one?"},
                "sent",
            )
            while (
                len(service.requests) < devices or self.count()
            ) and time.monotonic() < begin + WAIT_SECONDS:
                time.sleep(LOOK_SECONDS)
        self.prober.stop()
        (longest,) = self.own.gather([self.prober])
        return {
            "notified_cpu_us": span.server_us / devices,
            "notified_seconds": service.last - begin,
            "notifications_lost": devices - len(service.requests),
            "notifications_again": service.requests.total() - len(service.requests),
            "notify_hold_ms": longest["worst_us"] / 1000,
        }

    def count(self) -> int:
        """The number of notifications whose results are not stored."""
        with closing(
            sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=10)
        ) as database:
            (rows,) = database.execute(
                "SELECT count(*) FROM notify_delivery"
            ).fetchone()
        return int(rows)

    def post(self, path: str, body: Json, field: str) -> object:
        answer = post(self.target, path, body)
        if field not in answer:
            raise BenchError(f"{path}: {json.dumps(answer)[:300]}")
        return answer.get(field)


def run(context: RunContext, options: NotifyOptions) -> Figures:
    """Measure notifications of absent users."""
    bench = NotifyRun(context, options)
    with closing(bench.service):
        show_phase(f"notify: a group of {options.members:,}")
        names = [f"member-{number}" for number in range(options.members)]
        group = bench.group(names)
        bench.subscribe(names)
        bench.own.rest()
        few = names[:FIRST]
        bench.round(bench.group(few), len(few))  # loads the libraries
        return bench.round(group, options.members)
