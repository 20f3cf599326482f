"""The node: all parts together in this process, from the first port to the last
goodbye."""

import gc
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway.config.settings import Config, KeySettings
from imserver.gateway.errors import StartError
from imserver.gateway.metrics import Timings
from imserver.gateway.model import Event
from imserver.gateway.node.http_servers import LISTENER_KEY
from imserver.gateway.node.node import Node
from imserver.version import running_version
from tests.gateway.transport.harness import Caller, Client, Far, until
from tests.integration.raw import request, text
from tests.support import HTTP_SERVERS

LOGIN = '{"cmd":"login","data":{"userID":"%s","appID":101}}'
HELLO = Event("msg", "eve", "hello", "7")


class Requests:
    """A request log that only keeps. While it ``fails``, it cannot be
    written."""

    fails = False

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.flushed = 0
        self.timings = Timings()

    def add(self, *row: Any, **more: Any) -> None:
        self.rows.append((*row, *more.values()))

    def flush(self) -> None:
        self.flushed += 1
        if self.fails:
            raise OSError("full")


class Harness:
    """Starts nodes in this process, with an application of one line, and stops
    them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self.go = Flag()
        self.go.set()
        self.environs: list[dict[str, Any]] = []
        self.callers: list[Caller] = []

    def __enter__(self) -> "Harness":
        self._threshold = gc.get_threshold()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        for caller in self.callers:
            caller.sock.close()
        try:
            for node in self.nodes:
                if hasattr(node.core, "application"):
                    node.stop()
        finally:
            gc.set_threshold(*self._threshold)

    def call(self, port: int) -> Caller:
        """A client that is gone at the end of the test at the latest."""
        self.callers.append(Caller(port))
        return self.callers[-1]

    def join(self, node: Node, user: str) -> Client:
        """A client that has logged in through the WebSocket port."""
        client = self.call(node.core.node.ws_port).upgrade()
        client.send(text(LOGIN % user))
        client.expect(1)
        assert b'"code":200' in client.payloads()[0]
        return client

    def settings(
        self, apps: dict[str, Any] | None = None, **sections: dict[str, Any]
    ) -> Config:
        given: dict[str, dict[str, Any]] = {
            "app": {"http_port": 0, "websocket_port": 0},
            "server": {"data_dir": str(self.folder / "data")},
            "drain": {"close_seconds": 0},
            "websocket": {"close_seconds": 1},
        }
        for name, section in sections.items():
            given[name] = {**given.get(name, {}), **section}
        default = Config() if apps is None else Config(apps=apps)
        parts = {
            name: replace(getattr(default, name), **section)
            for name, section in given.items()
        }
        return replace(default, **parts)

    def start(self, **sections: dict[str, Any]) -> Node:
        node = Node(
            self.settings(**sections), Requests(), lambda _node: self.application
        )  # type: ignore[arg-type]
        self.nodes.append(node)
        assert node.core.node.life == "starts"
        node.start()
        return node

    def application(
        self, environ: dict[str, Any], start: Callable[..., Any]
    ) -> list[bytes]:
        self.environs.append(environ)
        self.go.wait()
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as one:
        yield one


def leave(*clients: Far) -> None:
    for client in clients:
        client.sock.close()


# --- starting -----------------------------------------------------------------


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_both_ports_say_which_they_are_and_clients_come_and_go(
    harness: Harness, http_server: str
) -> None:
    node = harness.start(server={"http": http_server})
    core = node.core
    ports = (node.core.node.http_port, node.core.node.ws_port)
    assert core.status.ready()
    addresses = {
        "http": f"http://127.0.0.1:{ports[0]}",
        "websocket": f"ws://127.0.0.1:{ports[1]}/acc",
    }
    assert node.servers.addresses == addresses
    for port in ports:
        with harness.call(port) as caller:
            caller.send(request("/somewhere"))
            assert caller.response()[::2] == (200, b"ok")
    assert [environ[LISTENER_KEY] for environ in harness.environs] == [
        "http",
        "websocket",
    ]
    ann = harness.join(node, "ann")
    bob = harness.join(node, "bob")
    assert core.fanout.to_sessions("101", "ann", HELLO) == 1
    until(lambda: any(b"hello" in payload for payload in ann.payloads()))
    assert (
        core.network.gate.connections,
        core.metrics.handshakes,
        core.metrics.logins.total,
    ) == (2, 2, 2)
    leave(ann)
    until(lambda: any(b'"exit"' in payload for payload in bob.payloads()))
    assert (core.network.gate.connections, core.hub.user_names("101")) == (1, ["bob"])
    assert core.metrics.closes == {1006: 1}


def test_fast_routes_are_answered_without_the_application_and_logged(
    harness: Harness,
) -> None:
    node = harness.start(log={"requests": False})
    node.reload(harness.settings())  # the log begins without a restart
    with harness.call(node.core.node.http_port) as caller:
        caller.send(request("/user/online?appID=101&userID=ann"))
        status, headers, body = caller.response()
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert msgspec.json.decode(body)["data"] == {"online": False, "userID": "ann"}
    assert not harness.environs
    assert [row[:3] for row in node.core.node.request_log.rows] == [
        ("GET", "/user/online", 200)
    ]  # type: ignore[attr-defined]


# --- settings reach their parts -----------------------------------------------


def test_large_messages_close_with_1009_many_with_4003_and_slow_readers_with_4000(
    harness: Harness,
) -> None:
    limits = {"message_bytes": 200, "messages_per_second": 5, "outbox_bytes": 100_000}
    node = harness.start(limits=limits)
    slow = harness.join(node, "ann")
    next(iter(node.core.hub.sessions())).sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
    )
    until(
        lambda: (
            node.core.fanout.to_sessions(
                "101", "ann", Event("msg", "eve", "x" * 10_000)
            )
            == 0
        )
    )
    assert slow.close_code() == 4000
    until(lambda: node.core.metrics.slow_readers == 1)
    large, quick = (harness.call(node.core.node.ws_port).upgrade() for _ in range(2))
    large.send(text("x" * 201))
    assert large.close_code() == 1009
    quick.send(text("x") * 50)
    assert quick.close_code() == 4003


def test_what_takes_too_long_is_ended_also_after_a_failure_and_the_lag_is_measured(
    harness: Harness,
) -> None:
    node = harness.start(
        websocket={"close_seconds": 0.05}, limits={"handshake_seconds": 0.05}
    )
    requests: Any = node.core.node.request_log
    requests.fails = True
    until(lambda: requests.flushed >= 2)
    with harness.call(node.core.node.http_port) as silent:
        silent.until_ended()
    harness.join(node, "ann")
    next(iter(node.core.hub.sessions())).close(4502)
    until(lambda: not node.core.network.context.connections)
    until(
        lambda: (
            threading.Event().wait(0.1)
            or node.core.metrics.loop_lag_max_seconds >= 0.05
        )
    )
    requests.fails = False


KEYS = {"keys": (KeySettings("secret", ("push",)),)}


# --- being asked --------------------------------------------------------------


def test_the_state_names_peers_and_users_only_when_asked_to_and_the_new_limit(
    harness: Harness,
) -> None:
    node = harness.start()
    state = node.core.status.state
    client = harness.join(node, "马远")
    stranger = harness.call(node.core.node.ws_port).upgrade()
    until(lambda: node.core.network.gate.connections == 2)
    plain = state(False)
    expected = {
        f"chan{name}Len": 0 for name in ("Broadcast", "Login", "Register", "Unregister")
    }
    assert plain["managerInfo"] == {**expected, "clientsLen": 2, "usersLen": 1}
    assert set(plain) == {"managerInfo", "numCPU", "numGoroutine"}
    manager = state(True)["managerInfo"]
    peers = [f"127.0.0.1:{one.sock.getsockname()[1]}" for one in (client, stranger)]
    assert (sorted(manager["clients"]), manager["users"]) == (
        sorted(peers),
        ["101_马远"],
    )
    detailed = state(False, detail=True)
    assert {name: users for name, users in detailed["apps"].items() if users} == {
        "101": 1
    }
    assert detailed["memoryBytes"] > 1_000_000
    assert detailed["metrics"]["logins"] == 1
    assert (detailed["version"], detailed["ready"], detailed["clustered"]) == (
        running_version(),
        True,
        False,
    )
    node.reload(harness.settings(limits={"max_connections": 7}))
    with pytest.raises(
        StartError, match=r"limits.max_connections 100000000 is above the \d+ files"
    ):
        node.reload(harness.settings(limits={"max_connections": 100_000_000}, api=KEYS))
    assert (
        state(False, detail=True)["maxConnections"]
        == node.core.node.max_connections
        == 7
    )
    assert node.core.keys.demo
    node.reload(harness.settings())
    assert state(False, detail=True)["maxConnections"] == detailed["maxConnections"]


# --- reading settings again ---------------------------------------------------


def test_reading_settings_again_changes_keys_origins_and_limits_and_drops_nobody(
    harness: Harness,
) -> None:
    node = harness.start()
    assert node.core.keys.demo
    clients = [harness.join(node, f"u{number}") for number in range(2)]
    server = {"data_dir": "elsewhere", "origins": ("https://partner.example",)}
    log = {"level": "debug", "requests": False}
    node.reload(
        harness.settings(
            api=KEYS, limits={"max_connections": 2}, log=log, server=server
        )
    )
    assert not node.core.keys.demo
    assert logging.getLogger("imserver").isEnabledFor(logging.DEBUG)
    assert not node.core.node.request_log.settings.requests
    assert all(
        connection.is_open for connection in node.core.network.context.connections
    )
    full = harness.call(node.core.node.ws_port).upgrade()
    assert full.close_code() == 4005
    leave(clients.pop(), full)
    for origin, code in (
        ("http://evil.example", 4505),
        ("https://partner.example", None),
    ):
        until(lambda: node.core.network.gate.connections == 1)
        page = harness.call(node.core.node.ws_port).upgrade("/acc", ("Origin", origin))
        assert page.close_code() == code if code else page.probe() is None
        leave(page)
    node.reload(harness.settings())
    assert not logging.getLogger("imserver").isEnabledFor(logging.DEBUG)


def test_a_limit_of_an_address_that_begins_later_counts_those_who_are_here(
    harness: Harness,
) -> None:
    node = harness.start()
    clients = [harness.join(node, f"u{number}") for number in range(3)]
    assert not node.core.network.gate.per_address
    node.reload(harness.settings(limits={"max_connections_per_address": 5}))
    assert dict(node.core.network.gate.per_address) == {"127.0.0.1": 3}
    next(iter(node.core.hub.sessions())).close(4502)
    node.reload(harness.settings(limits={"max_connections_per_address": 4}))
    assert dict(node.core.network.gate.per_address) == {"127.0.0.1": 2}, (
        "one is leaving and was counted out"
    )
    leave(*clients)
    until(lambda: node.core.network.gate.connections == 0)
    assert not node.core.network.gate.per_address


# --- stopping -----------------------------------------------------------------


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_stop_closes_clients_with_1001_and_frees_everything(
    harness: Harness, http_server: str
) -> None:
    node = harness.start(server={"http": http_server})
    client = harness.join(node, "ann")
    stop = gevent.spawn(node.stop)
    assert client.close_code() == 1001
    leave(client)
    stop.get()
    assert not node.core.status.ready()
    node.serve_forever()
    for port in (node.core.node.http_port, node.core.node.ws_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    assert not node.core.network.context.connections
    assert node.core.node.request_log.flushed  # type: ignore[attr-defined]
    node.stop()
    assert harness.start().core.status.ready(), "the data directory is free again"


def test_a_stop_ends_kept_connections_at_once_and_lets_a_request_under_way_be_answered(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imserver.gateway.node.node._LAST_REQUESTS_SECONDS", 100)
    node = harness.start()
    with (
        harness.call(node.core.node.http_port) as caller,
        harness.call(node.core.node.http_port) as idle,
    ):
        idle.send(request("/kept"))
        assert idle.response()[0] == 200
        harness.go.clear()
        caller.send(request("/slow"))
        until(lambda: len(harness.environs) == 2)
        stop = gevent.spawn(node.stop)
        assert idle.until_ended() == b""
        assert not node.core.status.ready()
        harness.go.set()
        assert caller.response()[0] == 200
        assert caller.until_ended() == b""
    until(stop.ready)


def test_whoever_waits_in_the_queue_when_a_stop_begins_is_answered(
    harness: Harness,
) -> None:
    node = harness.start()
    callers = [harness.call(node.core.node.http_port) for _ in range(100)]
    for caller in callers:
        caller.send(request("/user/list?appID=101"))
    stop = gevent.spawn(node.stop)
    assert [caller.response()[0] for caller in callers] == [200] * 100
    leave(*callers)
    until(stop.ready)


def test_clients_are_closed_over_the_time_of_the_drain_and_silent_ones_keep_nobody(
    harness: Harness,
) -> None:
    node = harness.start(
        drain={"close_seconds": 0.2}, websocket={"close_seconds": 0.05}
    )
    clients = [harness.call(node.core.node.ws_port).upgrade() for _ in range(401)]
    connections = [*node.core.network.context.connections]
    stop = gevent.spawn(node.stop)
    counts: set[int] = set()

    def all_closed() -> bool:
        counts.add(sum(each.is_open for each in connections))
        return 0 in counts

    until(all_closed)
    assert counts >= {201, 1, 0}, "two hundred at a time"
    assert [client.close_code() for client in clients] == [1001] * 401
    leave(*clients[1:])
    until(stop.ready)
