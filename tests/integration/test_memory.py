"""What an idle connection costs."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Server, eventually

from .action import ActionClient
from .client import Listener
from .cmd import command, get
from .protobuf import ProtobufClient
from .raw import Raw
from .setting import rss_bytes, stop

FEW = 50
MORE = 2_000
SESSION_BYTES = 740
"""Most bytes of the objects of an idle session of any dialect, with its typed
state."""
EMPTY_NODE_BYTES = 46_000_000
"""A node with all features that has read a configuration file: YAML takes one
megabyte of it."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is read from /proc"
)


def log_in(server: Server, number: int) -> Raw:
    """A session of the cmd dialect."""
    raw = Raw(server.ws).upgrade()
    raw.send(command("login", {"userID": f"user{number}", "appID": 101}))
    raw.message()
    return raw


def listen(server: Server, _number: int) -> Raw:
    """A client of a system."""
    raw = Listener(server.ws)
    raw.open("shop")
    return raw


def action_user(server: Server, number: int) -> Raw:
    """A user who talks to their neighbour, and the neighbour to them."""
    return (
        ActionClient(server.ws).begin().login(f"user{number}", to=f"user{number ^ 1}")
    )


def call(server: Server, number: int) -> Raw:
    """A user who talks to somebody who is not there."""
    return ActionClient(server.ws).begin().login(f"user{number}", to=f"gone{number}")


def chat(server: Server, number: int) -> Raw:
    """A session of the protobuf dialect, which has caught up."""
    raw = ProtobufClient(server.ws).begin()
    raw.login(f"{number + 1}")
    raw.catch_up()
    return raw


class Weighed(Server):
    """A server that counts what its objects take."""

    def weigh(self) -> int:
        """Bytes, by :mod:`.weighed_server`."""
        weights = self.folder / "weights"
        known = len(weights.read_text().splitlines()) if weights.exists() else 0
        self.process.send_signal(signal.SIGWINCH)
        lines = eventually(
            lambda: weights.exists() and weights.read_text().split("\n")[known:-1]
        )
        return int(lines[0])


def cost(folder: Path, open_one: Callable[[Server, int], Raw]) -> float:
    """Bytes that each of so many idle connections more takes."""
    script = str(Path(__file__).with_name("weighed_server.py"))
    # Without notices, which would wait in the sockets of those who do not read,
    # and without pings.
    quiet = {
        "hub": {"notice_members": 0},
        "websocket": {"client_ping_seconds": 3600, "client_silent_seconds": 7200},
    }
    server = Weighed(folder, config=quiet, command=(sys.executable, script))
    try:
        raws = [open_one(server, number) for number in range(FEW)]
        before = server.weigh()
        raws += [open_one(server, number) for number in range(FEW, FEW + MORE)]
        taken = (server.weigh() - before) / MORE
        for raw in raws:
            raw.leave()
        return taken
    finally:
        stop(server)


@pytest.mark.parametrize("open_one", [log_in, listen, action_user, call, chat])
@pytest.mark.full("load")
def test_an_idle_session_takes_at_most_740_bytes(
    open_one: Callable[[Server, int], Raw], tmp_path: Path
) -> None:
    taken = cost(tmp_path, open_one)
    print(f"{taken:.0f} bytes a session: {open_one.__name__}")
    assert 300 < taken <= SESSION_BYTES


@pytest.mark.full("load")
def test_an_empty_node_takes_no_more_than_46_mb(tmp_path: Path) -> None:
    # As it is installed: compiling at the start would leave some megabytes
    # behind.
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"),
    }
    Server(tmp_path / "first", environment=compiled).stop()
    server = Server(tmp_path / "second", environment=compiled)
    try:
        get(server.http, "/system/state")
        with Raw(server.ws).upgrade() as raw:
            raw.send(command("login", {"userID": "ann", "appID": 101}))
            raw.message()
        assert rss_bytes(server.pid) < EMPTY_NODE_BYTES
    finally:
        stop(server)
