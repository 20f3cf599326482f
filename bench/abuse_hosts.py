"""The attack "slow hosts": users name push services that answer late, and somebody else waits for a push.

The push services are one listener of this process. Its host name says how it answers: 127.0.0.1 at once, all
others after nine seconds, as if they had taken the notification.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from bench.abuse_answers import row_of
from bench.context import RunContext
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.probe import watched
from bench.push_services import AUTH, GOOD, P256DH
from bench.servers import NodeProcess

NAME: Final = "demo: slow hosts"
APP: Final = "101"
USERS, HOSTS_EACH, DEVICES_EACH = 10, 8, 16
"""Attackers. Each has so many hosts and endpoints as a user may have, or nearly."""
ROUNDS: Final = 5
"""Notifications for each of their devices."""
LATE_SECONDS: Final = 9.0
PUSHES: Final = 10
"""To somebody else, one after the other, while the late hosts have their notifications."""
PUSH_SECONDS: Final = 1.0
"""Time between two of them."""
WAIT_SECONDS: Final = 120.0
MOST_DELAY_S, MOST_GROWTH_MB = 5.0, 32
_KEYS: Final = {"p256dh": P256DH, "auth": AUTH}


class _PushServices(ThreadingHTTPServer):
    """Owner of the times at which the good host got its notifications."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.late = 0
        super().__init__(("0.0.0.0", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, _PushServices)
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.connection.getsockname()[0] == GOOD:
            self.server.arrivals.append(time.monotonic())
        else:
            self.server.late += 1
            time.sleep(LATE_SECONDS)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def _push_services() -> Iterator[_PushServices]:
    services = _PushServices()
    thread = threading.Thread(target=services.serve_forever, daemon=True)
    thread.start()
    try:
        yield services
    finally:
        services.shutdown()
        services.server_close()
        thread.join()


def slow_hosts(context: RunContext) -> Json:
    """The row of the attack."""
    rules = {"open": True, "notify": {"after_seconds": 0, "again_seconds": 0}}
    settings = {"IMSERVER_APPS": json.dumps({APP: rules}), "IMSERVER_NOTIFICATIONS_ALLOW_LOOPBACK": "true"}
    node = context.pool.start(NodeProcess(context.log, environment=settings, cores=context.cores.server))
    context.target, pid = node.target, node.pids[0]
    (prober,) = context.start_workers(1)
    try:
        with _push_services() as services:
            attack = _Attack(context, services)
            attack.push(["bob"])  # loads the libraries
            attack.wait(lambda: len(services.arrivals) == 1)
            with watched(context, prober, pid, WAIT_SECONDS) as measured:
                delay_s = attack.run()
    finally:
        node.control("stop")
    return row_of(
        NAME,
        f"the push of somebody else came after {delay_s:.2f} s at most",
        (delay_s / MOST_DELAY_S, measured["growth_mb"] / MOST_GROWTH_MB),
        delay_s=delay_s,
        **measured,
    )


class _Attack:
    """Users with late push services, and bob, whose push service is a good one."""

    def __init__(self, context: RunContext, services: _PushServices) -> None:
        self._context = context
        self._services = services
        self._subscribe("bob", [GOOD], 1)
        for number in range(USERS):
            hosts = [f"127.0.1.{number * HOSTS_EACH + each + 1}" for each in range(HOSTS_EACH)]
            self._subscribe(f"mallory-{number}", hosts, DEVICES_EACH // HOSTS_EACH)

    def run(self) -> float:
        """Attack; the longest time that a notification of bob took, in seconds."""
        attackers = [f"mallory-{number}" for number in range(USERS)]
        for _ in range(ROUNDS):
            self.push(attackers)
        self.wait(lambda: self._services.late >= USERS * HOSTS_EACH // 2)
        time.sleep(LATE_SECONDS + 1)  # the first hosts have answered
        delays = []
        for _ in range(PUSHES):
            arrived, began = len(self._services.arrivals), time.monotonic()
            self.push(["bob"])
            self.wait(lambda arrived=arrived: len(self._services.arrivals) > arrived)  # type: ignore[misc]
            delays.append(self._services.arrivals[-1] - began)
            time.sleep(max(0.0, began + PUSH_SECONDS - time.monotonic()))
        return max(delays)

    def push(self, users: list[str]) -> None:
        """Push to users, who are all offline."""
        push = {"app": APP, "users": users, "text": "Lunch is ready", "notify": {}}
        answer = post(self._context.target, "/api/v1/push", push)
        if "results" not in answer:
            raise BenchError(f"push: {json.dumps(answer)[:300]}")

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something has come."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError("slow hosts: a notification has not come")
            time.sleep(0.01)

    def _subscribe(self, user: str, hosts: list[str], devices: int) -> None:
        port = self._services.server_address[1]
        for host in hosts:
            for number in range(devices):
                url = f"http://{host}:{port}/{user}/{number}"
                body = {"app": APP, "user": user, "endpoint": url, "keys": _KEYS}
                answer = post(self._context.target, "/api/v1/notifications/endpoints", body)
                if "id" not in answer:
                    raise BenchError(f"endpoints: {json.dumps(answer)[:300]}")
