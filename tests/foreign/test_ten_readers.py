"""One answer, ten readers: a bot streams an answer, and ten clients of others
read it at once, unmodified.

Each reader has a line of its own to one of two nodes. Lines are cut in the
middle of what they carry, and go on at any node. Readers are started anew, as
pages are reloaded. A node is killed when all have seen half of the answer, and
starts again. At the end each reader shows what the bot has said: nothing lost,
nothing twice. What it shows before is a beginning of that.

Eight read the conversation: the AI SDK over HTTP and WebSocket, AG-UI,
TanStack, centrifuge-js (the channel of the user), EventSource, MCP's client,
and our page in Chromium. MCP has no pieces: its client shows the answer once it
is stored. Durable Streams and Pusher know channels alone. So the bot says the
same in two: it appends to a durable stream, which keeps each piece, and streams
a message in a cache channel, from which pusher-js has the text so far after
each reconnect.

In a quarter of the runs the node that dies has the stream of the conversation.
Then the answer ends there, and all have what the bot had said.
``READERS_RUNS``: how many runs. The seed of each is in the name of its test.
"""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Lock, Thread
from types import SimpleNamespace
from typing import Any, Final

import pytest
from selenium.common.exceptions import WebDriverException

from tests.browser.chromium import CHROMIUM, DRIVER, Browser
from tests.browser.messenger import Account, Chat
from tests.integration.clusters import Nodes, nodes_of
from tests.integration.plug_ins import install
from tests.ports import fixed_ports, free_ports
from tests.processes import end, spawn
from tests.sdk.lossy import LossyProxy
from tests.sdk.node import NODE_FLAGS
from tests.support import ROOT, Server, eventually
from tests.tools import NODE_MODULES, require
from tests.users import User

pytestmark = [pytest.mark.full("programs"), pytest.mark.needs("node", "pusher-js")]

HERE = Path(__file__).parent
RUNS: Final = int(os.environ.get("READERS_RUNS", "3"))
KEY: Final = "key-of-the-admin-0123456789"
PUSHER: Final = {"app_id": "7", "key": "tea", "secret": "the secret of the chat"}
READ_BY_ALL: Final = {"subscribe": "anybody", "publish": "anybody"}
CONFIG: Final[dict[str, Any]] = {
    "features": ["all", "ai_chat", "mcp", "durable_streams"],
    "server": {"origin_policy": "any"},
    "limits": {"bot_rate": 0, "messages_per_second": 0, "stream_seconds": 600},
    "api": {"requests_per_second": 0, "keys": [{"key": KEY, "scopes": ["admin"]}]},
    "cluster": {"lease_seconds": 6, "renew_seconds": 1, "rpc_seconds": 2},
    "apps": {
        "gochat": {
            "login_policy": "multi",
            "pusher": PUSHER,
            "channels": {
                "answers": {**READ_BY_ALL, "history": "log"},
                "cache-answer": READ_BY_ALL,
            },
        }
    },
}
READERS: Final = (
    "ai-http",
    "ai-socket",
    "ag-ui",
    "tanstack",
    "sse",
    "centrifuge",
    "mcp",
    "page",
    "durable-streams",
    "pusher",
)
CONNECT: Final = ROOT / "plugins" / "mcp" / "tests" / "connect.mjs"
WORDS: Final = (
    "tea ☕",
    "你好",
    "café",
    "word",
    "😀 ok",
    "a ",
    "naïve",
    '{"b":1}',
    "fin",
    "ß",
)


class Bot:
    """Says the same in the conversation, in a channel and in a durable stream.
    Each request goes to any node, again until there is an answer. ``owner``,
    ``other``: the nodes of the stream in the conversation, and of that in the
    channel."""

    def __init__(self, run: "Run", owner: Server, other: Server) -> None:
        self._run = run
        self._appended = self._calls = 0
        self._durable("PUT")
        self._streams = {
            "messages": self._post("messages/stream/open", owner, to=run.site.ann.user)[
                "stream"
            ],
            "channels": self._post(
                "channels/stream/open", other, channel=run.given["channel"]
            )["stream"],
        }

    def say(self, *pieces: str) -> None:
        first = self._appended + 1
        self._appended = self._appended + len(pieces)
        for kind in self._streams:
            rows = list(enumerate(pieces, first))
            states = eventually(
                lambda kind=kind, rows=rows: self._append(kind, rows), what="the pieces"
            )
            assert states <= {"appended", "repeated"}
        numbers = {
            "Producer-Id": "bot",
            "Producer-Epoch": "0",
            "Producer-Seq": str(self._calls),
        }
        self._durable("POST", "".join(pieces), **numbers)
        self._calls += 1

    def lose(self) -> None:
        """Until the bot hears that its stream in the conversation has ended
        with its node."""
        rows = [(self._appended + 1, "more")]
        states = eventually(
            lambda: self._append("messages", rows), what="the end of the stream"
        )
        assert states <= {"unknown", "closed"}
        del self._streams["messages"]

    def close(self) -> None:
        for kind, stream in self._streams.items():
            self._post(f"{kind}/stream/close", stream=stream)
        self._durable("POST", **{"Stream-Closed": "true"})

    def _append(self, kind: str, pieces: list[tuple[int, str]]) -> set[str]:
        """What became of pieces; nothing: their node does not answer."""
        rows = [
            {"stream": self._streams[kind], "piece": at, "text": text}
            for at, text in pieces
        ]
        states = {
            each["status"]
            for each in self._post(f"{kind}/stream/append", pieces=rows)["results"]
        }
        return set() if "failed" in states else states

    def _post(self, path: str, node: Server | None = None, **fields: Any) -> Any:
        token = self._run.site.bot.token if path.startswith("messages") else KEY
        body = json.dumps({"app": "gochat", **fields})
        return json.loads(
            self._ask(
                "POST", f"/api/v1/{path}", body, node, Authorization=f"Bearer {token}"
            )
        )

    def _durable(self, method: str, body: str = "", **headers: str) -> None:
        given = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "text/plain",
            **headers,
        }
        self._ask(
            method, f"/durable/gochat/stream/{self._run.given['stream']}", body, **given
        )

    def _ask(
        self,
        method: str,
        path: str,
        body: str,
        node: Server | None = None,
        **headers: str,
    ) -> bytes:
        def answer() -> bytes | None:
            connection = HTTPConnection(
                *(node or self._run.any_node()).http, timeout=60
            )
            # the node was killed
            with suppress(OSError, HTTPException), closing(connection):
                connection.request(method, path, body.encode(), headers)
                response = connection.getresponse()
                content = response.read()
                assert response.status < 300 or response.status == 503, (
                    response.status,
                    content,
                )
                return content or b"{}" if response.status < 300 else None
            return None

        found: bytes = eventually(answer, what=path)
        return found


class Program:
    """The readers of npm, in one process. ``on_line``: gets what they print."""

    def __init__(self, script: Path) -> None:
        command = [require("node"), *NODE_FLAGS, str(script)]
        self._process = spawn(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.on_line: Callable[[dict[str, Any]], None] = lambda _line: None
        self._lock, self._thread = Lock(), Thread(target=self._read)
        self._thread.start()

    def write(self, **what: Any) -> None:
        with self._lock:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        end(self._process)
        self._thread.join()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.on_line(json.loads(line))


class Site:
    """Two nodes, a line to them for each reader, the browser and the program,
    ann and her bot."""

    def __init__(
        self, nodes: Nodes, installed: dict[str, str], folder: Path, opened: ExitStack
    ) -> None:
        self.nodes = nodes
        self.installed = installed
        self.ports = [
            {"app": {**fixed_ports(), "rpc_port": free_ports()}} for _ in range(2)
        ]
        for each in self.ports:
            self.start(each)
        self.ann = User.register(nodes.servers[0], "gochat", key=KEY, nickname="Ann")
        self.bot = self.ann.bot("tea_bot")
        self.lines = {
            each: opened.enter_context(LossyProxy(nodes.http[0], 0)) for each in READERS
        }
        self.reloads = self.kills = self.runs = 0
        self.browser = Browser(folder / "chromium")
        opened.callback(self.browser.quit)
        for script in (
            HERE / "ten_readers.mjs",
            ROOT / "tests/sdk/pusher_smoke.mjs",
            CONNECT,
        ):
            shutil.copy(script, folder)
        (folder / "node_modules").symlink_to(NODE_MODULES)
        self.program = Program(folder / "ten_readers.mjs")
        opened.callback(self.program.close)

    def start(self, ports: dict[str, Any]) -> None:
        self.nodes.start(ports, environment=self.installed)

    def url(self, reader: str) -> str:
        return "http://{}:{}".format(*self.lines[reader].address)


class Run:
    """One answer and what happens while it is read."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.number = site.runs
        chance = random.Random(seed)
        self.chance = chance
        self.pieces = [
            chance.choice(WORDS) + chance.choice((" ", "", ", ")) for _ in range(60)
        ]
        self.pieces[-1] = "the end."
        self.whole = "".join(self.pieces)
        self.shown = dict.fromkeys(READERS, "")
        self.over: set[str] = set()
        self.turns = dict.fromkeys(READERS, 0)
        self.problems: list[object] = []
        self.chances = {each: random.Random(f"{seed} {each}") for each in READERS}
        self.plans = {
            each: sorted(
                (own.randrange(len(self.whole)), own.random())
                for _ in range(own.randint(1, 3))
            )
            for each, own in self.chances.items()
        }
        question = f"q{self.number}-{seed}"
        self.asks = f"Question {self.number}?"
        site.ann.server = self.any_node()
        sent = site.ann.post(
            "messages/send", to=site.bot.user, text=self.asks, client_msg_id=question
        )
        self.given = {
            "token": site.ann.token,
            "user": site.ann.user,
            "bot": site.bot.user,
            "conversation": sent["conversation"],
            "question": question,
            "asks": self.asks,
            "after": sent["id"],
            "pusher": PUSHER,
            "channel": f"cache-answer:{self.number}",
            "stream": f"answers:{self.number}",
        }

    # --- readers --------------------------------------------------------------

    def start(self, reader: str, is_again: bool = False) -> None:
        """Start a reader anew, at any node."""
        self.move(reader)
        self.turns[reader] += 1
        self.shown[reader] = ""
        self.over.discard(reader)
        if reader == "page":
            self.site.browser.driver.refresh()
            return
        given = {
            **self.given,
            "turn": f"{self.number}.{self.turns[reader]}",
            "isAgain": is_again,
            "url": self.site.url(reader),
            "live": self.chances[reader].choice(("sse", "long-poll")),
        }
        self.site.program.write(start=reader, given=given)

    def any_node(self) -> Server:
        return self.chance.choice(self.site.nodes.running)

    def move(self, reader: str) -> None:
        self.site.lines[reader].target = (
            self.chances[reader].choice(self.site.nodes.running).http
        )

    def take(self, line: dict[str, Any]) -> None:
        """What a reader shows, and what happens to it then."""
        reader = line["reader"]
        if line["turn"] != f"{self.number}.{self.turns[reader]}":
            return  # it has gone
        if "problem" in line or not self.whole.startswith(line["text"]):
            self.problems.append(line)
            return
        text = line["text"]
        self.shown[reader] = text
        if line["over"]:
            self.over.add(reader)
            if text != self.whole:
                self.problems.append(line)
        plan = self.plans[reader]
        while plan and plan[0][0] < len(text):
            self.disturb(reader, plan.pop(0)[1])

    def disturb(self, reader: str, how: float) -> None:
        """Cut the line of a reader after some bytes, or start it anew."""
        if how < 0.5:
            self.move(reader)
            self.site.lines[reader].cut_after(int(how * 600))
        else:
            self.site.reloads += 1
            self.start(reader, True)

    def look(self) -> None:
        """Take what the page shows."""
        with suppress(WebDriverException):
            texts = self.page.messages
            found = texts[texts.index(self.asks) + 1 :] if self.asks in texts else []
            assert len(found) < 2, found
            text = found[0].strip() if found else ""
            if is_over := text == self.whole.strip() and not self.page.shown(
                ".streamed"
            ):
                text = self.whole  # the page shows no spaces at an end
            turn = f"{self.number}.{self.turns['page']}"
            self.take({"reader": "page", "turn": turn, "text": text, "over": is_over})

    def wait(self, text: str) -> None:
        """Until all who read pieces show what was said."""
        last: list[str] = []

        def look() -> bool:
            self.look()
            last[:] = [
                f"{each}: {self.shown[each]!r}"
                for each in READERS
                if each != "mcp" and self.shown[each].strip() != text.strip()
            ]
            assert not self.problems, (self.problems, last)
            return not last

        try:
            eventually(look, 120)
        except AssertionError as error:
            error.add_note(f"{last} show not {text!r}")
            raise

    # --- the run --------------------------------------------------------------

    def go(self) -> None:
        site = self.site
        chance = self.chance
        site.program.on_line = self.take
        for reader in READERS:
            self.move(reader)
            if reader != "page":
                self.start(reader)
        address = SimpleNamespace(http_url=site.url("page"))
        account = Account(
            address, "Ann", {"token": site.ann.token, "user": site.ann.user}
        )
        self.page = Chat(site.browser, account)
        self.page.open(self.given["conversation"])
        victim, other = chance.sample(site.nodes.running, 2)
        is_owner = chance.random() < 0.25
        bot = Bot(self, victim if is_owner else other, other)
        sent = 0
        with ThreadPoolExecutor(1) as pool:
            half = len(self.pieces) // 2
            started = None
            while sent < len(self.pieces):
                most = half if sent < half else len(self.pieces)
                few = self.pieces[sent : min(most, sent + chance.randint(1, 6))]
                bot.say(*few)
                sent += len(few)
                self.look()
                if chance.random() < 0.15:
                    self.disturb("mcp", chance.random())
                if sent == half:
                    self.wait("".join(self.pieces[:half]))
                    if is_owner:
                        self.whole, sent = "".join(self.pieces[:half]), len(self.pieces)
                    victim.process.kill()
                    victim.process.wait()
                    site.kills += 1
                    for reader in READERS:
                        if site.lines[reader].target == victim.http:
                            self.move(reader)
                    (own,) = [
                        each
                        for each in site.ports
                        if each["app"]["http_port"] == victim.http.port
                    ]
                    started = pool.submit(site.start, own)
                elif chance.random() < 0.1:
                    self.wait("".join(self.pieces[:sent]))
            if is_owner:
                bot.lose()
            bot.close()
            self.wait(self.whole)
            eventually(
                lambda: self.look() or self.over == set(READERS), what="all are over"
            )
            assert not self.problems, self.problems
            assert self.shown == dict.fromkeys(READERS, self.whole)
            assert started is not None
            started.result()
        for reader in READERS:
            if reader != "page":
                site.program.write(stop=reader)
        site.nodes.wait_until_met()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require(*CHROMIUM)
    require(DRIVER)
    folder = tmp_path_factory.mktemp("readers")
    plugins = [
        ROOT / "plugins" / each for each in ("ai-chat", "durable-streams", "mcp")
    ]
    installed = install(folder, *plugins)
    with ExitStack() as opened, nodes_of(folder / "nodes", 0, **CONFIG) as nodes:
        site = Site(nodes, installed, folder, opened)
        yield site
        cuts = sum(each.cut for each in site.lines.values())
        print(
            f"{site.runs} runs, {cuts} cuts, {site.reloads} reloads, {site.kills} nodes killed"
        )


@pytest.mark.parametrize("seed", range(RUNS))
def test_ten_readers_of_one_answer_show_the_same(site: Site, seed: int) -> None:
    site.runs += 1
    Run(site, seed).go()
