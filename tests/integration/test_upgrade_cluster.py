"""An upgrade without an interruption: nodes of the release before and of this one are one cluster.

Every test of clusters is run once more with each second node of the release before: people, pushes, channels,
histories, stored messages, signals, policies, kicks, bans, queries between nodes. What only a cluster of two
releases can do wrong has its tests below. The data that one server leaves to the next: ``test_upgrade.py``.
"""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import ROOT, eventually

from . import v1
from .clusters import OTHER_RELEASE, Nodes, nodes_of
from .cmd import CmdClient, cmd_client, logged_in
from .raw import CLOSE, TEXT, Ended
from .release import environment_of, unpack
from .test_upgrade import ENGINES, IN_LOG, PAST, database_of

pytestmark = [pytest.mark.full, pytest.mark.needs("redis-server")]

FILES: Final = (
    "foreign/test_centrifuge_cluster",
    "integration/test_action_cluster",
    "integration/test_bot_hooks",
    "integration/test_bots",
    "integration/test_channels_cluster",
    "integration/test_client_cluster",
    "integration/test_cluster",
    "integration/test_events_cluster",
    "integration/test_group_channels",
    "integration/test_logins_cluster",
    "integration/test_messaging_cluster",
    "integration/test_protobuf_cluster",
    "integration/test_stored_conversations_cluster",
    "integration/test_streamed_messages",
    "integration/test_v1_cluster",
    "integration/test_v1_sending_cluster",
)
"""Not ``integration/test_failed_publications``: it tests answers that the release before does not give."""
NOT_WITH_BOTH: Final = (
    # In demo mode, nodes of the release before listen for other nodes on other addresses than loopback, too.
    "integration/test_cluster.py::test_in_demo_mode_other_machines_reach_no_port_for_nodes[False]",
    # It changes a constant, which another module has there.
    "integration/test_cluster.py::test_a_large_app_is_listed_in_pages_from_any_node",
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the release before."""
    return unpack(tmp_path_factory.mktemp("before"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [0, 1], ids=["old-first", "new-first"])
@pytest.mark.parametrize("file", FILES)
def test_clusters_of_both_releases_pass_the_tests_of_clusters(
    old: Path, tmp_path: Path, file: str, number: int
) -> None:
    """``number``: of the first node of the release before; every second one is."""
    left_out = [f"--deselect=tests/{test}" for test in NOT_WITH_BOTH]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FLAKY"))}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider"),
            *(f"--basetemp={tmp_path / 'tests'}", *left_out, f"tests/{file}.py"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**given, OTHER_RELEASE: f"{number}:{old}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert " passed" in done.stdout


# --- what only two releases can do wrong --------------------------------------------------------------------


@pytest.mark.parametrize("first", ["old", "new"])
def test_nodes_without_a_list_of_features_share_a_cluster_with_all_lists(
    old: Path, tmp_path: Path, first: str
) -> None:
    """Nodes of the release before have none. Among those that have one, it is the same."""
    with nodes_of(tmp_path, 0) as nodes:
        for tree in (old, ROOT) if first == "old" else (ROOT, old):
            few = {"features": ["client"]} if tree is ROOT else {}
            nodes.start(few, environment=environment_of(tree))
        nodes.wait_until_met()
        with pytest.raises(AssertionError, match="the cluster has other features than this node"):
            nodes.start()
        nodes.start({"features": ["client"]})
        nodes.wait_until_met()


@pytest.mark.parametrize("there", ["old", "new"])
@pytest.mark.parametrize("app", ["my_app", "50%"])
def test_users_of_an_app_of_any_name_are_found_by_both(pair: Nodes, app: str, there: str) -> None:
    """The records of online users in Redis write such names in another way since."""
    with logged_in(pair.ws[there == "new"], "ann", app) as ann:
        for http in pair.http:
            assert v1.good(http, "presence", app=app, user="ann")["users"][0]["online"]
            assert v1.good(http, "push", {"app": app, "user": "ann", "text": "hi"})["sent"] == 1
            assert ann.push("msg").json["response"]["data"]["msg"] == "hi"


@pytest.fixture(scope="module")
def pair(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A node of the release before and one of this one."""
    apps = {name: {"open": True, "login_policy": "multi"} for name in ("my_app", "50%")}
    with nodes_of(tmp_path_factory.mktemp("pair"), 0, apps=apps) as nodes:
        for tree in (old, ROOT):
            nodes.start(environment=environment_of(tree))
        nodes.wait_until_met()
        yield nodes


# --- node by node -------------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Reads what is pushed to one user, and comes back at any node when its connection ends.

    A client with a cursor, or a subscriber with a position. ``read``: the texts, in their order.
    """

    def __init__(self, nodes: Nodes, begin: Callable[[CmdClient], list[Any]]) -> None:
        super().__init__(daemon=True)
        self.read: list[str] = []
        self.problems: list[str] = []
        self.over = threading.Event()
        self._nodes = nodes
        self._begin = begin

    def run(self) -> None:
        while not self.over.is_set():
            # A node that ends refuses, or closes where an answer should come.
            with suppress(Ended, OSError), cmd_client(random.choice(self._nodes.running).ws) as one:
                self._follow(one)

    def _follow(self, one: CmdClient) -> None:
        try:
            self._take(self._begin(one))
        except AssertionError as problem:
            if "opcode=8" not in str(problem):
                self.problems.append(str(problem))
            return
        while not self.over.is_set():
            found = one.pushed.pop(0) if one.pushed else one.frame()
            if found.opcode == CLOSE:
                return
            if found.opcode == TEXT and found.json["cmd"] in ("message", "publication"):
                self._take([found.json["response"]["data"]])

    def _take(self, entries: list[Any]) -> None:
        for each in entries:
            self.note(each)
            self.read.append(each["text"])

    def note(self, entry: Any) -> None:
        """Keep the position of what was read."""


class CursorReader(Reader):
    """Stored messages to a user."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes, self._log_in)
        self._cursor = 0

    def _log_in(self, one: CmdClient) -> list[Any]:
        one.login("ann", "hall", cursor=self._cursor)
        return []

    def note(self, entry: Any) -> None:
        self._cursor = entry["id"]


class ChannelReader(Reader):
    """Publications of a channel."""

    def __init__(self, nodes: Nodes, channel: str) -> None:
        super().__init__(nodes, self._subscribe)
        self._channel = channel
        self._position: dict[str, Any] = {}

    def _subscribe(self, one: CmdClient) -> list[Any]:
        one.login(f"u {self._channel}", "hall")
        code, _, answer = one.ask_cmd("subscribe", {"channel": self._channel, **self._position})
        assert code == 200, code
        if self._position:
            assert answer["recovered"] is True
            publications: list[Any] = answer.get("publications", [])
            return publications
        self._position = {name: answer[name] for name in ("epoch", "offset")}
        return []

    def note(self, entry: Any) -> None:
        assert entry["offset"] > self._position["offset"]
        self._position["offset"] = entry["offset"]


def send(nodes: Nodes, route: str, body: dict[str, Any]) -> None:
    """Ask any node until one accepts; the id makes sure that it counts once."""

    def accepted() -> bool:
        with suppress(Ended, OSError):
            answer = v1.call(random.choice(nodes.running).http, route, body)
            if answer.status == 200:
                results = answer.json.get("results", [answer.json])
                return results[0]["status"] in ("stored", "sent", "repeated")
        return False

    eventually(accepted, what=f"{route} {body}")


@pytest.mark.parametrize("engine", ENGINES)
def test_nodes_are_replaced_one_after_the_other_and_clients_miss_nothing(
    old: Path, tmp_path: Path, engine: str
) -> None:
    """Two nodes of the release before, then one of each, then two of this one. All write at all times."""
    hall = {"open": True, "login_policy": "multi", "channels": {"past": PAST, "kept": IN_LOG}}
    with ExitStack() as stack:
        database = stack.enter_context(database_of(engine))
        storage = {"url": "" if database is None else database.new_url(), "seconds": 60}
        nodes = stack.enter_context(nodes_of(tmp_path, 0, apps={"hall": hall}, storage=storage))
        for _ in range(2):
            nodes.start(environment=environment_of(old))
        nodes.wait_until_met()
        readers: dict[str, Reader] = {
            "": CursorReader(nodes),
            **{channel: ChannelReader(nodes, channel) for channel in ("past:1", "kept:1")},
        }
        for reader in readers.values():
            reader.start()
        texts: list[str] = []

        def write(count: int) -> None:
            for _ in range(count):
                text = str(len(texts))
                stored = {"user": "ann", "sender": "bob", "store": True}
                send(nodes, "push", {"app": "hall", "text": text, "id": f"m{text}", **stored})
                for channel in ("past:1", "kept:1"):
                    body = {"app": "hall", "channel": channel, "text": text, "id": f"{channel} {text}"}
                    send(nodes, "channels/publish", body)
                texts.append(text)

        eventually(lambda: len(subscribed(nodes)) == 2, what="readers of both channels are there")
        write(20)
        for number in range(2):
            nodes.start()
            nodes.wait_until_met()
            write(20)
            nodes.servers[number].begin_to_stop()
            write(20)
            assert nodes.servers[number].stop() == 0
            nodes.wait_until_met()
            write(20)
        for name, reader in readers.items():
            eventually(lambda reader=reader: len(reader.read) >= len(texts), what=f"all, by {name!r}")
            reader.over.set()
            assert (reader.read, reader.problems) == (texts, []), name


def subscribed(nodes: Nodes) -> list[str]:
    """The channels with subscribers."""
    listed = v1.good(nodes.http[0], "channels/list", app="hall")["channels"]
    return [each["channel"] for each in listed]
