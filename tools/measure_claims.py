"""Measures claims and acknowledgements over HTTP, one after the other, on a
node of its own with SQLite: `python -m tools.measure_claims MESSAGES`, from the
folder of the repository."""

import http.client
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.integration.plug_ins import install
from tests.security.test_exhaustion import cpu_seconds
from tests.support import ROOT, Server
from tests.users import User

KEY = "key-of-the-admin-0123456789"
CONFIG: dict[str, Any] = {
    "features": ["all", "mcp", "mailbox"],
    "apps": {"gochat": {}},
    "limits": {"messages_per_second": 0},
    "api": {"requests_per_second": 0, "keys": [{"key": KEY, "scopes": ["admin"]}]},
}
SENDERS = 20


def measure(messages: int, folder: Path) -> None:
    installed = install(
        folder / "installed", ROOT / "plugins" / "mailbox", ROOT / "plugins" / "mcp"
    )
    with Server(folder / "node", config=CONFIG, environment=installed) as server:
        bot = User.register(server, key=KEY).bot("helper_bot")
        senders = [User.register(server, key=KEY) for _ in range(SENDERS)]
        for number in range(messages):
            senders[number % SENDERS].post(
                "messages/send", to=bot.user, text=str(number)
            )
        connection = http.client.HTTPConnection(*server.http)
        headers = {
            "Authorization": f"Bearer {bot.token}",
            "Content-Type": "application/json",
        }
        seconds: dict[str, list[float]] = {"claim": [], "ack": []}

        def ask(name: str, **fields: str) -> str:
            began = perf_counter()
            connection.request(
                "POST", f"/api/v1/mailbox/{name}", json.dumps(fields), headers
            )
            answer = json.loads(connection.getresponse().read())
            seconds[name].append(perf_counter() - began)
            return str(answer.get("token", ""))

        before = cpu_seconds(server.pid)
        while token := ask("claim"):
            ask("ack", token=token)
        each = (cpu_seconds(server.pid) - before) / messages
        for name, times in seconds.items():
            middle = sorted(times)[len(times) // 2]
            late = sorted(times)[len(times) * 99 // 100]
            print(f"{name}: p50 {middle * 1000:.1f} ms, p99 {late * 1000:.1f} ms")
        print(f"CPU of the node for both: {each * 1000:.1f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(int(sys.argv[1]), Path(folder))
