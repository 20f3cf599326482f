"""Workers of every kind, killed between claim and acknowledgement, and their
nodes, too. The checker judges what they were answered: each message is settled
once or dead, in the order of its conversation, none is lost, and late
acknowledgements are refused.

``MAILBOX_SECONDS`` says how long; 600 for a release.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, KEY, people

from checker.cli import check
from checker.history import read
from tests.integration.clusters import Nodes, nodes_of
from tests.tools import NODE_MODULES, require
from tests.users import User

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("MAILBOX_SECONDS", "30"))
KILL_SECONDS = 5.0
"""Between the start of a node and the end of the other one."""
KINDS = [*["mcp"] * 3, "sdk", "client", *["http"] * 10]
"""Of the workers: five are clients of others."""
CONVERSATIONS = 12


class Run:
    """Nodes, senders and workers. ``ids``: message → its conversation and its
    number there, from 1 on."""

    def __init__(self, folder: Path, nodes: Nodes, environment: dict[str, str]) -> None:
        self.folder = folder
        self.nodes = nodes
        self.environment = environment
        self.ids: dict[int, tuple[int, int]] = {}
        self.ended, self.over = threading.Event(), threading.Event()
        self.kills = 0
        self.places = folder / "places"
        shutil.copy(HERE / "work.mjs", folder)
        shutil.copy(HERE.parents[1] / "mcp" / "tests" / "connect.mjs", folder)
        (folder / "node_modules").symlink_to(NODE_MODULES)
        self.write_places()

    def write_places(self) -> None:
        new = self.folder / "new"
        new.write_text(" ".join(server.http_url for server in self.nodes.running))
        new.rename(self.places)

    def kill_nodes(self) -> None:
        while not self.ended.wait(KILL_SECONDS):
            server = self.nodes.running[0]
            server.process.kill()
            server.process.wait()
            self.write_places()
            self.nodes.start(environment=self.environment)
            self.write_places()

    def send(self, user: User, bot: str) -> None:
        for number in count(1):
            if self.ended.wait(0.2):
                return
            while True:
                user.server = self.nodes.running[-1]
                # its node was killed
                with suppress(OSError, HTTPException, AssertionError):
                    sent = user.post(
                        "messages/send",
                        to=bot,
                        text=str(number),
                        client_msg_id=str(number),
                    )
                    break
            self.ids[sent["id"]] = sent["conversation"], number

    def work(self, kind: str, token: str, index: int) -> None:
        """One worker after the other, until all is done. Each has a file of its
        own."""
        for number in count():
            if self.over.is_set():
                return
            file = self.folder / f"{index}-{number}.jsonl"
            command = [sys.executable, str(HERE / "work.py")]
            if kind in ("sdk", "client"):
                command = [require("node"), str(self.folder / "work.mjs")]
            given = [kind, str(self.places), token, str(file), "0.1"]
            with subprocess.Popen(
                [*command, *given], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as one:
                while one.poll() is None and not self.over.wait(0.1):
                    pass
                assert one.stdin is not None
                one.stdin.close()
                status = one.wait(60)
            assert status in (0, -9), (kind, status)
            self.kills += status == -9


def operations(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What one worker has asked, each with the answer as far as it came."""
    asked: dict[str, Any] = {}
    for line in map(json.loads, lines):
        if "ask" in line:
            if asked:
                yield asked
            asked = {"name": line["ask"], **line, "began": line["at"]}
        elif asked:
            yield {**asked, **line, "outcome": "ok" if "ok" in line else "fail"}
            asked = {}
    if asked:
        yield asked


def history(run: Run, done: list[dict[str, Any]], dead: set[int]) -> Iterator[str]:
    """The lines for the checker. ``dead``: messages that are dead letters."""
    numbers: dict[int, list[int]] = {}
    for id, (conversation, number) in sorted(run.ids.items()):
        alive = numbers.setdefault(conversation, [0])
        if id not in dead:
            alive.append(number)
    names = {"claim": "claim", "ack": "settle", "nack": "release"}
    following = count(1)
    for each in done:
        if "token" not in each:
            continue  # nothing was claimed
        value = int(each["text"])
        number = next(following)
        after = max(one for one in numbers[each["conversation"]] if one < value)
        ask = {
            "event": "ask",
            "number": number,
            "name": names[each["name"]],
            "at": each["began"],
        }
        given = (
            {} if each["name"] == "claim" else {"token": each["token"], "value": value}
        )
        yield json.dumps(
            {
                **ask,
                "client": str(number),
                "object": f"mailbox:{each['conversation']}",
                **given,
            }
        )
        if "outcome" in each:
            answer = (
                {"token": each["token"], "value": value, "after": after}
                if each["name"] == "claim"
                else {}
            )
            yield json.dumps(
                {"event": each["outcome"], "number": number, "at": each["at"], **answer}
            )
    now = time.monotonic()
    for conversation, alive in numbers.items():
        number = next(following)
        ask = {
            "event": "ask",
            "number": number,
            "client": "all",
            "name": "get",
            "at": now,
        }
        yield json.dumps({**ask, "object": f"mailbox:{conversation}"})
        yield json.dumps(
            {"event": "ok", "number": number, "at": now, "value": alive[-1]}
        )


def drain(bot: User) -> Iterator[dict[str, Any]]:
    """Handle what is left, also what dead workers have claimed."""
    while True:
        began = time.monotonic()
        claim = bot.post("mailbox/claim", app="gochat", wait=10)
        if not (token := claim["token"]):
            return
        (message,) = claim["messages"]
        what = {
            "token": token,
            "outcome": "ok",
            "text": message["text"],
            "conversation": message["conversation"],
        }
        middle = time.monotonic()
        yield {**what, "name": "claim", "began": began, "at": middle}
        bot.post("mailbox/ack", app="gochat", token=token)
        yield {**what, "name": "ack", "began": middle, "at": time.monotonic()}


@pytest.mark.slow
@pytest.mark.full("faults")
@pytest.mark.needs("node")
@pytest.mark.timeout(600 + 2 * SECONDS)
def test_each_message_is_settled_once_or_dead_whoever_is_killed(
    url: str, installed: dict[str, str], tmp_path: Path
) -> None:
    config = {**CONFIG, "storage": {"url": url}}
    with (
        nodes_of(tmp_path / "nodes", 0, **config) as nodes,
        ThreadPoolExecutor(64) as pool,
    ):
        for _ in range(2):  # the first makes the tables
            nodes.start(environment=installed)
        (tmp_path / "work").mkdir()
        run = Run(tmp_path / "work", nodes, installed)
        _, _, bot = people(nodes.servers[0])
        senders = [
            User.register(nodes.servers[0], key=KEY) for _ in range(CONVERSATIONS)
        ]
        workers = [
            pool.submit(run.work, kind, bot.token, index)
            for index, kind in enumerate(KINDS)
        ]
        others = [pool.submit(run.send, user, bot.user) for user in senders]
        others.append(pool.submit(run.kill_nodes))
        try:
            run.ended.wait(SECONDS)
            run.ended.set()
            for each in others:
                each.result()
        finally:
            run.ended.set()
            run.over.set()
        for each in workers:
            each.result()
        files = [
            file.read_text("utf-8").splitlines() for file in run.folder.glob("*.jsonl")
        ]
        done = [each for lines in files for each in operations(lines)]
        bot.server = nodes.running[-1]
        for some in pool.map(lambda _: list(drain(bot)), range(CONVERSATIONS)):
            done += some
        dead = {
            each["message"]
            for each in bot.get("mailbox/dead", app="gochat", limit=1000)["letters"]
        }
    acks = [each.get("outcome") for each in done if each["name"] == "ack"]
    print(
        f"{len(run.ids)} messages, {len(dead)} dead, {run.kills} workers killed; acks:",
        *map(acks.count, ("ok", "fail", None)),
    )
    assert check(read(history(run, done, dead))) == []
    assert acks.count("ok") + acks.count(None) >= len(run.ids) - len(dead)
    assert run.kills
