"""CPU of the server for one login with a provider: ``python -m tests.security.measure_oauth``.

Each login is the whole of it: start, the browser that comes back, the exchange of its code, the end with a
token; for a device also the question to the user. The provider runs in this process, and does not count.
It prints the best and the median batch of 20 logins: other work on the machine makes the same code slower.
At the end it times logins while as many others as may wait for a provider that hangs.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from socket import create_server
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

import msgspec

from imserver.people.oauth.oauth import AT_ONCE
from tests.ports import fixed_ports
from tests.security.providers import CLIENT, SECRET, StandIn
from tests.support import Server

APP = "shop"
USERS = 100
BATCH = 20


def cpu_seconds(pid: int) -> float:
    """CPU that all threads of a process have used."""
    used = (path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(map(int, used)) / 1e9


class Client:
    """A client and its browser, on one connection."""

    def __init__(self, server: Server, provider: StandIn) -> None:
        self._http = HTTPConnection(*server.http)
        self._provider = provider

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """The body of an answer; the address to which it leads, if it has one."""
        self._http.request(method, path, body or None, {"Content-Type": kind})
        answer = self._http.getresponse()
        content = answer.read()
        assert answer.status in (200, 303), content
        return answer.getheader("Location") or content

    def _call(self, route: str, **fields: Any) -> Any:
        body = msgspec.json.encode({"app": APP, **fields})
        return msgspec.json.decode(self._ask("POST", f"/api/v1/accounts/oauth/{route}", body))

    def wait_for_hanging(self) -> int:
        """Start a login with the provider that hangs. Returns the status of the late answer."""
        body = msgspec.json.encode({"app": APP, "provider": "hanging"})
        self._http.request("POST", "/api/v1/accounts/oauth/start", body, {"Content-Type": "application/json"})
        return self._http.getresponse().status

    def log_in_on_page(self, number: int) -> None:
        """A login of a page of the server."""
        self._provider.user["sub"] = f"user {number % USERS}"
        started = self._call("start", provider="main", return_to="/home/messages")
        back = urlencode(self._provider.agree(started["url"]))
        address = self._ask("GET", f"/oauth/callback/{APP}/main?{back}")
        code = address.partition("#oauth=")[2]
        assert self._call("finish", login=started["login"], code=code)["token"]

    def log_in_on_device(self, number: int) -> None:
        """A login of a device."""
        self._provider.user["sub"] = f"user {number % USERS}"
        started = self._call("start", provider="main")
        back = urlencode(self._provider.agree(started["url"]))
        path = f"/oauth/callback/{APP}/main"
        page = unescape(self._ask("GET", f"{path}?{back}").decode())
        form = {**dict(re.findall(r'name="(code)" value="([^"]+)"', page)), "agreed": "yes"}
        self._ask("POST", path, urlencode(form).encode(), "application/x-www-form-urlencoded")
        assert self._call("finish", login=started["login"])["token"]


def times(log_in: Callable[[int], None]) -> str:
    """How long logins take, one after the other."""
    took = []
    for number in range(USERS):
        begun = perf_counter()
        log_in(number)
        took.append((perf_counter() - begun) * 1000)
    return f"median {median(took):.1f} ms, p99 {quantiles(took, n=100)[98]:.1f} ms"


def main(logins: int) -> None:
    provider, ports, hanging = StandIn(), fixed_ports(), create_server(("127.0.0.1", 0), backlog=AT_ONCE)
    provider.claims = {"name": "Ann Lee"}  # as most providers do, so nothing else is asked
    row = {"kind": "oidc", "client_id": CLIENT, "client_secret": SECRET, "register": True}
    issuers = {"main": provider.issuer, "hanging": f"http://127.0.0.1:{hanging.getsockname()[1]}"}
    providers = {name: {**row, "issuer": issuer} for name, issuer in issuers.items()}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(
            Path(folder),
            config={
                "app": {**ports, "http_url": f"http://127.0.0.1:{ports['http_port']}"},
                "apps": {APP: {"account_tokens": "required", "oauth": providers}},
            },
        )
        client = Client(server, provider)
        for log_in, where in ((client.log_in_on_page, "page"), (client.log_in_on_device, "device")):
            for number in range(2 * USERS):  # loads libraries, fetches keys, makes the accounts
                log_in(number)
            costs = []
            for first in range(0, logins, BATCH):
                before = cpu_seconds(server.pid)
                for number in range(first, first + BATCH):
                    log_in(number)
                costs.append((cpu_seconds(server.pid) - before) / BATCH * 1000)
            print(f"{where}: {min(costs):.2f} ms of CPU per login, median {median(costs):.2f} ms", flush=True)
        print(f"a login by the page takes {times(client.log_in_on_page)}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = [pool.submit(Client(server, provider).wait_for_hanging) for _ in range(AT_ONCE)]
            accepted = [hanging.accept() for _ in waiting]  # they are not answered
            print(f"while {AT_ONCE} wait for another provider: {times(client.log_in_on_page)}")
            assert not any(each.done() for each in waiting), "they did not wait so long"
            assert {each.result() for each in waiting} == {503}
        server.stop()
    for connection, _ in accepted:
        connection.close()
    hanging.close()
    provider.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 500)
