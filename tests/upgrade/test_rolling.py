"""The files of an older release and those of this tree, installed beside each
other: up, and down again.

``last_release`` of :mod:`tests.integration.release` says which commit the last
release is.
"""

import random
import subprocess
import sys
import sysconfig
import threading
import venv
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.integration import v1
from tests.integration.clusters import Nodes, nodes_of
from tests.integration.cmd import CmdClient, cmd_client, logged_in
from tests.integration.raw import CLOSE, TEXT, Ended
from tests.integration.release import unpack
from tests.integration.test_upgrade import ENGINES, IN_LOG, PAST, database_of
from tests.support import ROOT, clean_environment, eventually
from tests.test_packaging import build, copy_sources

pytestmark = [
    pytest.mark.full("programs"),
    pytest.mark.slow,
    pytest.mark.needs("redis-server", "git"),
    pytest.mark.timeout(900),
]

MOST_SECONDS = 5.0
"""So long a write may be refused, on a busy machine too. On an idle one it is
less than a second."""
Options = dict[str, Any]
"""How a node is started."""


def install(tree: Path, folder: Path) -> Options:
    """Build the wheel of a tree and install it; the packages of others are
    borrowed from this environment.

    Returns the arguments of ``Nodes.start``.
    """
    wheel = build(tree)
    home = folder / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    how = ("install", "-q", "--no-deps", "--no-index", str(wheel))
    command = [sys.executable, "-m", "pip", "--python", str(python), *how]
    subprocess.run(command, env=clean_environment(PYTHONPATH=""), check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )
    where = [str(python), "-c", "import imserver; print(imserver.__file__)"]
    done = subprocess.run(
        where,
        cwd=folder,
        env=clean_environment(PYTHONPATH=""),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(home))
    return {
        "command": (str(home / "bin" / "imserver"),),
        "environment": {"PYTHONPATH": ""},
    }


@pytest.fixture(scope="module")
def old(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Options:
    """The last release, or another commit on the way to this one."""
    folder = tmp_path_factory.mktemp("old")
    return install(unpack(folder / "tree", request.param), folder)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """This tree."""
    folder = tmp_path_factory.mktemp("new")
    copy_sources(ROOT, folder / "tree")
    return install(folder / "tree", folder)


class Reader(threading.Thread):
    """Reads what is pushed to one user, and comes back at any node when its
    connection ends.

    A client with a cursor, or a subscriber of a channel with a position.
    ``read``: the texts, in their order.
    """

    def __init__(self, nodes: Nodes, channel: str = "") -> None:
        super().__init__(daemon=True)
        self.read: list[str] = []
        self.problems: list[str] = []
        self.over = threading.Event()
        self._nodes = nodes
        self._channel = channel
        self._position: dict[str, Any] = {}
        self._cursor = 0

    def run(self) -> None:
        while not self.over.is_set():
            # A node that ends refuses, or closes where an answer should come.
            with (
                suppress(Ended, OSError),
                cmd_client(random.choice(self._nodes.running).ws) as one,
            ):
                self._follow(one)

    def _follow(self, one: CmdClient) -> None:
        try:
            self._begin(one)
        except AssertionError as problem:
            if "opcode=8" not in str(problem):
                self.problems.append(str(problem))
            return
        while not self.over.is_set():
            found = one.pushed.pop(0) if one.pushed else one.frame()
            if found.opcode == CLOSE:
                return
            if found.opcode == TEXT and found.json["cmd"] in ("message", "publication"):
                self._take(found.json["response"]["data"])

    def _begin(self, one: CmdClient) -> None:
        if not self._channel:
            one.login("ann", "hall", cursor=self._cursor)
            return
        one.login(f"u {self._channel}", "hall")
        code, _, answer = one.ask_cmd(
            "subscribe", {"channel": self._channel, **self._position}
        )
        assert code == 200, code
        if not self._position:
            self._position = {name: answer[name] for name in ("epoch", "offset")}
            return
        assert answer["recovered"] is True
        for each in answer.get("publications", []):
            self._take(each)

    def _take(self, entry: Any) -> None:
        if self._channel:
            assert entry["offset"] > self._position["offset"]
            self._position["offset"] = entry["offset"]
        else:
            self._cursor = entry["id"]
        self.read.append(entry["text"])


class Writer(threading.Thread):
    """Writes all the time: stored messages, and publications with a history in
    Redis and in the database.

    Each is sent to any node until one accepts it; its id makes sure that it
    counts once. ``slowest``: the longest time until one was accepted, in
    seconds, and which it was.
    """

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(daemon=True)
        self.texts: list[str] = []
        self.slowest = (0.0, "")
        self.over = threading.Event()
        self._nodes = nodes

    def run(self) -> None:
        while not self.over.is_set():
            text = str(len(self.texts))
            stored = {"user": "ann", "sender": "bob", "store": True}
            self._send(
                "push", {"app": "hall", "text": text, "id": f"m{text}", **stored}
            )
            for channel in ("past:1", "kept:1"):
                body = {
                    "app": "hall",
                    "channel": channel,
                    "text": text,
                    "id": f"{channel} {text}",
                }
                self._send("channels/publish", body)
            self.texts.append(text)

    def _send(self, route: str, body: dict[str, Any]) -> None:
        began = monotonic()
        eventually(lambda: self._is_accepted(route, body), what=f"{route} {body}")
        self.slowest = max(
            self.slowest, (monotonic() - began, f"{route} {body['text']}")
        )

    def _is_accepted(self, route: str, body: dict[str, Any]) -> bool:
        with suppress(Ended, OSError):
            answer = v1.call(random.choice(self._nodes.running).http, route, body)
            if answer.status == 200:
                results = answer.json.get("results", [answer.json])
                return results[0]["status"] in ("stored", "sent", "repeated")
        return False

    def more(self, count: int) -> None:
        """Wait until so many more are written."""
        last = len(self.texts) + count
        eventually(lambda: len(self.texts) >= last, what=f"{count} more are written")


def subscribed(nodes: Nodes) -> list[str]:
    """The channels with subscribers."""
    listed = v1.good(nodes.running[0].http, "channels/list", app="hall")["channels"]
    return [each["channel"] for each in listed]


def assert_each_reaches_all(nodes: Nodes) -> None:
    """A user at each node gets what each node pushes, live."""
    for there in nodes.running:
        with logged_in(there.ws, f"live {there.http.port}", "hall") as one:
            for here in nodes.running:
                body = {
                    "app": "hall",
                    "user": f"live {there.http.port}",
                    "text": f"from {here.http.port}",
                }
                assert v1.good(here.http, "push", body)["sent"] == 1
                assert one.push("msg").json["response"]["data"]["msg"] == body["text"]


@pytest.mark.parametrize(
    ("old", "engine"),
    [*(("", engine) for engine in ENGINES), ("f0a2862f", "sqlite")],
    indirect=["old"],
)
def test_nodes_are_replaced_one_after_the_other_and_clients_miss_nothing(
    old: Options,
    new: Options,
    tmp_path: Path,
    engine: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two nodes of an older release become two of this one, and these two of
    the older release again, with default settings. Meanwhile one of the old
    nodes starts again beside the first new one.

    All the time messages are stored, and published with a history in Redis and
    in the database.
    """
    hall = {
        "open": True,
        "login_policy": "multi",
        "channels": {"past": PAST, "kept": IN_LOG},
    }
    with ExitStack() as stack:
        database = stack.enter_context(database_of(engine))
        storage = {"url": "" if database is None else database.new_url()}
        nodes = stack.enter_context(
            nodes_of(tmp_path, 0, apps={"hall": hall}, storage=storage)
        )
        for _ in range(2):
            nodes.start(**old)
        nodes.wait_until_met()
        readers = {
            channel: Reader(nodes, channel) for channel in ("", "past:1", "kept:1")
        }
        for reader in readers.values():
            reader.start()
        eventually(
            lambda: len(subscribed(nodes)) == 2,
            what="readers of both channels are there",
        )
        writer = Writer(nodes)
        writer.start()
        writer.more(20)
        for number, release in enumerate((new, old, new, new, old, old)):
            nodes.start(**release)
            nodes.wait_until_met()
            writer.more(20)
            assert_each_reaches_all(nodes)
            nodes.servers[number].begin_to_stop()
            writer.more(20)
            assert nodes.servers[number].stop() == 0
            nodes.wait_until_met()
            writer.more(20)
            assert_each_reaches_all(nodes)
        writer.over.set()
        writer.join()
        texts = writer.texts
        for name, reader in readers.items():
            eventually(
                lambda reader=reader: len(reader.read) >= len(texts),
                what=f"all, by {name!r}",
            )
            reader.over.set()
            assert (reader.read, reader.problems) == (texts, []), name
    seconds, what = writer.slowest
    with capsys.disabled():
        print(
            f"\n{engine}: {len(texts)} of each kind, the slowest after {seconds:.2f} s ({what})"
        )
    assert seconds < MOST_SECONDS, what
