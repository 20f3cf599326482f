"""What an idle connection costs."""

import sys
from collections.abc import Callable

import pytest

from tests.support import Server, eventually

from .client import ws_path
from .cmd import command, get, good
from .raw import Raw, handshake
from .setting import Launch, open_files, rss_bytes

CONNECTIONS = 5_000
COMPARED = 10_000
WARM_UP = 500
BAR_BYTES = 2.0 * 1024
EMPTY_NODE_BYTES = 46 << 20
"""A node that has read a configuration file: YAML takes one megabyte of it."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def counted(server: Server) -> tuple[int, int]:
    """Connections and users that the server counts."""
    info = good(get(server.http, "/system/state"))["managerInfo"]
    return info["clientsLen"], info["usersLen"]


def connect(server: Server, count: int) -> list[Raw]:
    """So many sessions, of users of their own, over the four apps."""
    raws = []
    for number in range(count):
        raw = Raw(server.ws)
        login = {"userID": f"user{number}", "appID": 101 + number % 4}
        raw.send(handshake(), command("login", login))
        raws.append(raw)
    eventually(lambda: counted(server) == (count, count), 60, "all are logged in")
    return raws


def log_in(server: Server, numbers: range) -> list[Raw]:
    """So many sessions of one app, each step waiting for the one before it."""
    raws = []
    for number in numbers:
        raw = Raw(server.ws).upgrade()
        raw.send(command("login", {"userID": f"user{number}", "appID": 101}))
        raw.message()
        raws.append(raw)
    return raws


def listen(server: Server, numbers: range) -> list[Raw]:
    """So many clients of one system."""
    raws = []
    for _ in numbers:
        raw = Raw(server.ws).upgrade(ws_path("shop"))
        raw.message()
        raws.append(raw)
    return raws


def slope(server: Server, connect: Callable[[Server, range], list[Raw]], count: int) -> float:
    """Resident bytes for each of so many idle connections more."""
    some = connect(server, range(WARM_UP))
    before = rss_bytes(server.pid)
    more = connect(server, range(WARM_UP, WARM_UP + count))
    cost = (rss_bytes(server.pid) - before) / count
    for raw in some + more:
        raw.leave()
    return cost


def test_an_idle_client_of_a_system_costs_at_most_a_tenth_more_than_a_session(launch: Launch) -> None:
    count = open_files(COMPARED)
    session = slope(launch("front", hub={"notice_members": 0}), log_in, count)
    client = slope(launch("front"), listen, count)
    print(f"{session:.0f} bytes a session, {client:.0f} bytes a client at {count}")
    assert client <= 1.1 * session


def test_an_idle_logged_in_connection_costs_no_more_than_2_kb(launch: Launch, door: str) -> None:
    # Without notices: they would only fill the sockets' buffers, which are the kernel's.
    server = launch(door, hub={"notice_members": 0})
    get(server.http, "/system/state")
    assert rss_bytes(server.pid) < EMPTY_NODE_BYTES
    count = open_files(CONNECTIONS)
    for raw in connect(server, min(WARM_UP, count)):
        raw.leave()
    eventually(lambda: counted(server) == (0, 0), 30, "the warm-up is over")
    before = rss_bytes(server.pid)
    raws = connect(server, count)
    cost = (rss_bytes(server.pid) - before) / count
    print(f"{door}: {cost:.0f} bytes a connection at {count}, {before >> 10} KiB before")
    for raw in raws:
        raw.leave()
    assert cost <= BAR_BYTES
