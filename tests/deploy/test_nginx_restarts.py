"""The files of deploy/ while a node is away: restarted, one after the other, or
powered off, or dead."""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests.conftest import StartServer
from tests.integration.cmd import get, json_request, logged_in
from tests.integration.raw import Address, Ended, Raw, ask, handshake, request
from tests.ports import fixed_ports
from tests.support import ROOT, Server, eventually

from .proxy import CONFIG, NODES, Nginx, powered_off

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("nginx")]

CLIENTS = 40
READ = request("/api/v1/presence?app=101&user=ann")
PUSH = {"app": "101", "user": "ann"}


class File(NamedTuple):
    """A file of deploy/: the addresses in it, and which ports of a server stand
    there."""

    path: Path
    nodes: tuple[str, ...]
    ports: Callable[[Server], tuple[int, ...]]


FILES = [
    File(CONFIG, NODES, lambda server: (server.http.port, server.ws.port)),
    File(
        ROOT / "deploy" / "nginx-go-websocket.conf",
        ("127.0.0.1:7800", "127.0.0.1:7801"),
        lambda server: (server.http.port,),
    ),
]


@pytest.fixture(params=FILES, ids=lambda file: file.path.stem)
def file(request: pytest.FixtureRequest) -> File:
    found: File = request.param
    return found


def before(folder: Path, file: File, *ports: int) -> Nginx:
    """nginx with this file before two nodes with these ports."""
    return Nginx(folder, (), file.path.read_text(encoding="utf-8"), file.nodes, ports)


class Threads:
    """Threads that all do ``run`` with one connection after the other, until
    the end of the ``with``."""

    def __init__(
        self, address: Address, count: int, run: Callable[["Threads", Raw], None]
    ) -> None:
        self.address = address
        self.run = run
        self.answers: Counter[int] = Counter()
        """How often each status came; 0: the connection ended without one."""
        self.closed: Counter[int | None] = Counter()
        """How often each close code came."""
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self.over.is_set():
            with Raw(self.address) as connection:
                try:
                    self.run(self, connection)
                except Ended:
                    self.answers[0] += 1
            self.over.wait(0.02)


def stay(clients: Threads, connection: Raw) -> None:
    """A client with a WebSocket, which comes back as soon as it is
    disconnected."""
    connection.send(handshake("/ws"))
    status = connection.response().status
    clients.answers[status] += 1
    while status == 101 and not clients.over.is_set():
        with contextlib.suppress(TimeoutError):
            clients.closed[connection.frame(0.2).close_code] += 1
            return


def read_and_push(back_ends: Threads, connection: Raw) -> None:
    """A back end that reads and pushes in turn, without a pause, on a
    connection that is kept."""
    push = json_request("/api/v1/push", {**PUSH, "text": "m"})
    for turn in range(50):
        back_ends.answers[connection.ask(push if turn % 2 else READ).status] += 1


def connections(server: Server) -> int:
    """How many WebSockets a node has."""
    found: int = get(server.http, "/system/state").json["data"]["managerInfo"][
        "clientsLen"
    ]
    return found


@pytest.mark.parametrize("http_server", ["front", "wsgi"])
def test_nobody_is_refused_while_the_nodes_are_restarted_in_turn(
    start_server: StartServer, tmp_path: Path, file: File, http_server: str
) -> None:
    configs = [
        {"app": fixed_ports(), "drain": {"close_seconds": 0.5}} for _ in range(2)
    ]
    servers = [
        start_server(config=config, http_server=http_server) for config in configs
    ]
    ports = [port for server in servers for port in file.ports(server)]
    with (
        before(tmp_path, file, *ports) as nginx,
        Threads(nginx.address, CLIENTS, stay) as clients,
        Threads(nginx.address, 4, read_and_push) as back_ends,
    ):
        eventually(
            lambda: all(connections(server) == CLIENTS / 2 for server in servers),
            what="all are here",
        )
        for number in (0, 1):
            assert servers[number].stop() == 0
            other = servers[1 - number]
            eventually(
                lambda other=other: connections(other) == CLIENTS,
                what="the other node has all",
            )
            served = back_ends.answers.total()
            eventually(
                lambda served=served: back_ends.answers.total() > served + 50,
                what="requests go on",
            )
            servers[number] = start_server(
                config=configs[number], http_server=http_server
            )
            assert get(servers[number].http, "/ready").status == 200

        def goes_to_the_empty_node() -> bool:
            with Raw(nginx.address).upgrade("/ws"):
                return connections(servers[1]) == 1

        eventually(
            goes_to_the_empty_node,
            what="nginx has found the node that was restarted last",
        )
        eventually(
            lambda: sum(map(connections, servers)) == CLIENTS, what="all are back"
        )
    assert set(clients.answers) == {101}
    assert set(clients.closed) == {1001}
    assert set(back_ends.answers) == {200}


def test_a_host_that_is_powered_off_delays_few_and_refuses_nobody(
    start_server: StartServer, tmp_path: Path, file: File
) -> None:
    server = start_server()
    ports = file.ports(server)
    with ExitStack() as stack:
        off = [stack.enter_context(powered_off()) for _ in ports]
        nginx = stack.enter_context(before(tmp_path, file, *off, *ports))
        ann = stack.enter_context(logged_in(server.ws, "ann", 101))

        def tried(path: str) -> list[bool]:
            """For each request to this path whether the host that is off was
            tried."""
            lines = [
                line for line in nginx.access_log.splitlines() if f" {path} " in line
            ]
            return [any(f":{port}" in line for port in off) for line in lines]

        # The first request of all goes to the first node: nginx passes a push
        # on that it could not send.
        answer = ask(
            nginx.address, json_request("/api/v1/push", {**PUSH, "text": "first"})
        )
        assert (answer.status, answer.json["sent"]) == (200, 1)
        eventually(lambda: tried("/api/v1/push") == [True], what="nginx has tried it")
        assert ann.push("msg").json["response"]["data"]["msg"] == "first"
        ann.no_push("msg")
        for _ in range(CLIENTS):
            assert ask(nginx.address, READ).status == 200
        with ExitStack() as clients:
            for _ in range(CLIENTS):
                clients.enter_context(Raw(nginx.address)).upgrade("/ws")
            assert connections(server) == CLIENTS + 1
        for path in ("/ws", "/api/v1/presence"):
            eventually(
                lambda path=path: len(tried(path)) == CLIENTS,
                what="nginx has logged them",
            )
            assert sum(tried(path)) < CLIENTS / 2, "nginx leaves the host out"


@contextlib.contextmanager
def dying_node() -> Iterator[int]:
    """The port of a node that dies with each request: it reads some of it and
    answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_push_that_a_node_may_have_sent_is_not_sent_by_another(
    start_server: StartServer, tmp_path: Path, file: File
) -> None:
    server = start_server()
    ports = file.ports(server)
    with ExitStack() as stack:
        dead = [stack.enter_context(dying_node()) for _ in ports]
        nginx = stack.enter_context(before(tmp_path, file, *dead, *ports))
        ann = stack.enter_context(logged_in(server.ws, "ann", 101))
        # The first request of all goes to the first node.
        assert (
            ask(
                nginx.address, json_request("/api/v1/push", {**PUSH, "text": "m"})
            ).status
            == 502
        )
        ann.no_push("msg")
        for _ in range(4):
            assert ask(nginx.address, READ).status == 200
