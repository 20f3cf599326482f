"""Measures claims and acknowledgements over HTTP, one after the other, on a node of its own with SQLite:
`python plugins/mailbox/tests/measure_claims.py MESSAGES`, from the folder of the repository."""

import http.client
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter

sys.path[:0] = [".", str(Path(__file__).parent)]

from conftest import CONFIG, KEY, PLUGIN, people  # noqa: E402

from tests.integration.plug_ins import install  # noqa: E402
from tests.security.test_exhaustion import cpu_seconds  # noqa: E402
from tests.support import Server  # noqa: E402
from tests.users import User  # noqa: E402

SENDERS = 20


def measure(messages: int, folder: Path) -> None:
    installed = install(folder / "installed", PLUGIN, PLUGIN.parent / "mcp")
    with Server(folder / "node", config=CONFIG, environment=installed) as server:
        _, _, bot = people(server)
        senders = [User.register(server, key=KEY) for _ in range(SENDERS)]
        for number in range(messages):
            senders[number % SENDERS].post("messages/send", to=bot.user, text=str(number))
        connection = http.client.HTTPConnection(*server.http)
        headers = {"Authorization": f"Bearer {bot.token}", "Content-Type": "application/json"}
        seconds: dict[str, list[float]] = {"claim": [], "ack": []}

        def ask(name: str, **fields: str) -> str:
            began = perf_counter()
            connection.request("POST", f"/api/v1/mailbox/{name}", json.dumps(fields), headers)
            answer = json.loads(connection.getresponse().read())
            seconds[name].append(perf_counter() - began)
            return str(answer.get("token", ""))

        before = cpu_seconds(server.pid)
        while token := ask("claim"):
            ask("ack", token=token)
        each = (cpu_seconds(server.pid) - before) / messages
        for name, times in seconds.items():
            middle, late = sorted(times)[len(times) // 2], sorted(times)[len(times) * 99 // 100]
            print(f"{name}: p50 {middle * 1000:.1f} ms, p99 {late * 1000:.1f} ms")
        print(f"CPU of the node for both: {each * 1000:.1f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(int(sys.argv[1]), Path(place))
