"""Durable events while the node and the receiver are killed: none is lost, those of a user stay in order."""

import http.client
import json
import random
import signal
import sys
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.ports import free_ports
from tests.support import Server, eventually

from .conftest import Report

pytestmark = pytest.mark.linux

SECRET = "the secret of the webhook, as in the settings"
SENDERS = 6
ROUNDS = 5
PROGRAM = Path(__file__).with_name("event_receiver.py")


class BackEnd:
    """The receiver, which can be killed, and what it has written."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "events.jsonl"
        self.file.touch()
        self.port = free_ports(1)
        self.start()

    def start(self) -> None:
        self.process = processes.spawn([sys.executable, str(PROGRAM), str(self.port), str(self.file)])

    def kill(self) -> None:
        processes.end(self.process, signal.SIGKILL)

    def events(self) -> list[dict[str, Any]]:
        """All events, each once, in the order in which they came first."""
        found: dict[str, dict[str, Any]] = {}
        for line in self.file.read_bytes().split(b"\n")[:-1]:
            try:
                batch = json.loads(line)
            except ValueError:  # the receiver was killed while it wrote, and had not answered
                continue
            for event in batch["events"]:
                found.setdefault(event["id"], event)
        return list(found.values())


class Sender(threading.Thread):
    """Stores numbered messages of one user, each until it is acknowledged."""

    def __init__(self, user: str, where: list[Server], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.user = user
        self.acknowledged = 0
        self._where = where
        self._over = over

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            push = {
                "app": "101",
                "user": f"friend of {self.user}",
                "sender": self.user,
                "text": str(number),
                "id": f"{self.user}-{number}",
                "store": True,
            }
            while not self._store(push):
                self._over.wait(0.05)
            self.acknowledged = number

    def _store(self, push: dict[str, Any]) -> bool:
        address = self._where[-1].http
        connection = http.client.HTTPConnection(address.host, address.port, timeout=40)
        try:
            with closing(connection):
                kind = {"Content-Type": "application/json"}
                connection.request("POST", "/api/v1/push", json.dumps(push), kind)
                answer = json.loads(connection.getresponse().read())
                return bool(answer.get("sent") == 1)
        except (OSError, http.client.HTTPException, ValueError):
            return False


def wait_for_more(senders: list[Sender], count: int) -> None:
    """Wait until so many further messages of each sender are acknowledged."""
    wanted = [sender.acknowledged + count for sender in senders]
    eventually(
        lambda: all(each.acknowledged >= number for each, number in zip(senders, wanted, strict=True)), 120
    )


def test_no_event_is_lost_when_node_and_receiver_are_killed(tmp_path: Path, report: Report) -> None:
    back_end = BackEnd(tmp_path)
    webhook = {
        "url": f"http://127.0.0.1:{back_end.port}/",
        "secret": SECRET,
        "absent_seconds": 0.5,
        "events": ["message", "absent"],
    }
    config = {"apps": {"101": {"webhook": webhook}}}
    chance = random.Random(7)
    servers = [Server(tmp_path / "node", config=config)]
    over = threading.Event()
    senders = [Sender(f"user{number}", servers, over) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(ROUNDS):
            wait_for_more(senders, 20)
            if chance.random() < 0.7:
                back_end.kill()
                wait_for_more(senders, 10)
            processes.end(servers[-1].process, signal.SIGKILL)
            servers.append(Server(tmp_path / "node", config=config))
            if back_end.process.poll() is not None:
                back_end.start()
        over.set()
        for sender in senders:
            sender.join()
        total = sum(sender.acknowledged for sender in senders)
        events: list[dict[str, Any]] = []

        def all_came() -> bool:
            events[:] = back_end.events()
            return sum(event["event"] == "message" for event in events) >= total and len(absent()) >= SENDERS

        def absent() -> list[str]:
            return [event["user"] for event in events if event["event"] == "absent"]

        eventually(all_came, what="all events")
    finally:
        over.set()
        processes.end(servers[-1].process, signal.SIGKILL)
        back_end.kill()
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event["event"] == "message":
            numbers[event["sender"]].append(int(event["text"]))
    report(f"{total} messages, {len(servers) - 1} kills of the node; {len(events)} events, none lost")
    for sender in senders:
        assert numbers[sender.user] == list(range(1, sender.acknowledged + 1)), sender.user
    assert sorted(absent()) == sorted(f"friend of {sender.user}" for sender in senders), "each once"
