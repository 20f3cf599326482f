"""Asks questions that two devices answer at once, while nodes are killed, and judges the answers.

``python -m tests.features.ask.measure [--questions 10000] [--nodes 2] [--kills 5] [--engine mysql]`` starts
its own nodes, and a Redis. ann asks at the first node. bob taps on two devices, at the first and at the last
node, different answers in the same moment. The program fails unless each question has exactly one answer, the
same at every node, which ann and both devices have received once, and no device was promised more than one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from imserver_client import AsyncMessenger, CommandRefused, Entry, NotConnected
from tests.integration.clusters import Nodes, app_with, nodes_of
from tests.ports import free_ports
from tests.storage.servers import KINDS
from tests.support import Server

APP = str(app_with("multi"))
YES_NO = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
SECONDS = 300.0
"""Until an answer has to be there, whatever dies."""


class Judge:
    """What everybody has heard of. ``taps``: question → when the first tap on it was sent."""

    def __init__(self) -> None:
        self.taps: dict[int, float] = {}
        self.latencies: list[float] = []
        self.wins: Counter[int] = Counter()
        self.values: dict[int, str] = {}
        self.entries: dict[str, dict[int, Entry]] = {}

    def hear(self, who: str, entry: Entry) -> None:
        """An entry has come to one of the sessions."""
        if entry.kind == "press" and entry.type == "answer":
            before = self.entries.setdefault(who, {}).setdefault(entry.about, entry)
            assert before.id == entry.id, f"two answers to {entry.about} were told to {who}"
            if who == "ann" and entry.about in self.taps:
                self.latencies.append(monotonic() - self.taps[entry.about])

    def has_all(self, everybody: Iterable[str], questions: int) -> bool:
        """Whether all have received the answers to so many questions."""
        return all(len(self.entries.get(who, ())) >= questions for who in everybody)

    def quantile(self, part: float) -> float:
        """A quantile of the times from the first tap until ann hears of it, in milliseconds."""
        times = sorted(self.latencies)
        return 1000 * times[min(int(part * len(times)), len(times) - 1)] if times else 0.0


def post(server: Server, route: str, body: dict[str, Any]) -> Any:
    """The answer of one request. Raises OSError."""
    content = json.dumps({"app": APP, **body}).encode()
    request = Request(f"{server.http_url}/api/v1/{route}", content, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


async def until_answered(server: Server, route: str, body: dict[str, Any]) -> Any:
    """As :func:`post`, again while the node is away or cannot store."""
    deadline = monotonic() + SECONDS
    while True:
        try:
            return await asyncio.to_thread(post, server, route, body)
        except (OSError, ValueError) as error:
            is_final = isinstance(error, HTTPError) and error.code < 500 and error.code != 429
            if is_final or monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def tap(judge: Judge, device: AsyncMessenger, id: int, value: str) -> None:
    """Answer as one device."""
    judge.taps.setdefault(id, monotonic())
    deadline = monotonic() + SECONDS
    while True:
        try:
            await device.answer(id, value)
            break
        except CommandRefused as refused:
            if refused.refused != "answered":
                raise
            return
        except NotConnected:
            if monotonic() > deadline:
                raise
    judge.wins[id] += 1
    judge.values[id] = value


async def follow(judge: Judge, who: str, session: AsyncMessenger) -> None:
    """Hear all entries."""
    async for event in session:
        if isinstance(event, Entry):
            judge.hear(who, event)


async def ask_all(
    nodes: Nodes, judge: Judge, questions: int, at_once: int, sessions: list[AsyncMessenger]
) -> list[int]:
    """Ask, so many questions at a time, and tap on both devices. Returns the ids of the questions."""
    numbers, ids = itertools.count(), list[int]()

    async def some() -> None:
        while (number := next(numbers)) < questions:
            body = {"user": "ann", "to": "bob", "text": f"{number}?", "options": YES_NO}
            question = await until_answered(
                nodes.servers[0], "asks/create", {**body, "client_msg_id": f"q{number}"}
            )
            id = question["id"]
            ids.append(id)
            await asyncio.gather(*map(tap, [judge] * 2, sessions, [id] * 2, ["yes", "no"]))

    await asyncio.gather(*(some() for _ in range(at_once)))
    return ids


async def kill(nodes: Nodes, ports: dict[str, int], times: int, every: float) -> None:
    """Kill the last node, and start it again at the same ports."""
    for _ in range(times):
        await asyncio.sleep(every)
        process = nodes.running[-1].process
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        await asyncio.to_thread(nodes.start, {"app": ports})


async def run(
    nodes: Nodes, ports: dict[str, int], questions: int, at_once: int, kills: int, every: float
) -> Judge:
    """Ask, tap, kill, and judge."""
    judge = Judge()
    first, last = nodes.servers[0].ws_url, nodes.servers[-1].ws_url
    async with (
        AsyncMessenger(first, APP, "ann") as ann,
        AsyncMessenger(first, APP, "bob", device="phone") as phone,
        AsyncMessenger(last, APP, "bob", device="laptop") as laptop,
    ):
        everybody = {"ann": ann, "phone": phone, "laptop": laptop}
        tasks = [asyncio.create_task(follow(judge, *each)) for each in everybody.items()]
        killing = asyncio.create_task(kill(nodes, ports, kills, every))
        ids = await ask_all(nodes, judge, questions, at_once, [phone, laptop])
        await killing
        deadline = monotonic() + 60
        while monotonic() < deadline and not judge.has_all(everybody, questions):
            await asyncio.sleep(0.05)
        for who in everybody:
            assert judge.entries[who].keys() == set(ids), f"{who} was not told of all answers"
        for id in ids:
            states = [
                await until_answered(server, "asks/get", {"user": "ann", "id": id})
                for server in nodes.running
            ]
            assert all(state == states[0] for state in states)
            (answer,) = states[0]["answers"]
            assert judge.wins[id] == 1, f"{judge.wins[id]} devices were told that their answer to {id} counts"
            texts = {judge.entries[who][id].text for who in everybody}
            assert texts == {answer["value"]} == {judge.values[id]}, id
        for task in tasks:
            task.cancel()
    return judge


def _ports() -> list[int]:
    first = free_ports(4)  # RPC needs two
    return [first, first + 2, first + 3]


def main() -> None:
    """Measure, and print what came of it."""
    parser = ArgumentParser()
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--engine", default="sqlite", choices=("sqlite", *KINDS))
    given = parser.parse_args()
    database = KINDS[given.engine]() if given.engine in KINDS else None
    settings: dict[str, Any] = {} if database is None else {"storage": {"url": database.new_url()}}
    ports = dict(zip(("rpc_port", "http_port", "websocket_port"), _ports(), strict=True))
    try:
        with tempfile.TemporaryDirectory() as folder, nodes_of(Path(folder), 1, **settings) as nodes:
            _measure(nodes, ports, given)
    finally:
        if database is not None:
            database.remove()


def _measure(nodes: Nodes, ports: dict[str, int], given: Namespace) -> None:
    if given.nodes > 1:
        nodes.start({"app": ports})
        nodes.wait_until_met()
    began = monotonic()
    judge = asyncio.run(run(nodes, ports, given.questions, given.at_once, given.kills, given.every))
    print(
        f"{given.engine}: {given.questions} questions, {given.nodes} nodes, {given.kills} kills, "
        f"{monotonic() - began:.0f} s: one answer each, told to all; "
        f"from tap to asker p50 {judge.quantile(0.5):.1f} ms, p99 {judge.quantile(0.99):.1f} ms"
    )


if __name__ == "__main__":
    main()
