"""Messages that followers of a channel miss while the server is killed, or while their connections are cut.

Each follower comes back as the protocol of the server documents it: with the position of its last message.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from shutil import copyfileobj
from typing import Final

from bench.connections import Connection, ConnectionSet, Opener
from bench.context import RunContext
from bench.frames import CLOSE, client_frame, scan, upgrade_request
from bench.generator import Generator
from bench.history import History
from bench.http_client import JSON
from bench.loop import BenchError, Json
from bench.servers import ServerProcess

FOLLOWERS: Final = 20
FAULTS: Final = 3
CALM_SECONDS: Final = 1.5
AWAY_SECONDS: Final = 0.5
LAST_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 0.003
NUMBER: Final = re.compile(rb"#(\d{7})")
EPOCH: Final = re.compile(rb'"epoch":"([^"]*)"')
OFFSET: Final = re.compile(rb'"offset":(\d+)')
CHANNEL: Final = "log:all"
SETTINGS: Final = {
    "IMSERVER_APPS": "{101: {open: true, channels: {log: {subscribe: anybody, history: log}}}}"
}
Position = dict[str, str | int]


@dataclass(frozen=True)
class Wire:
    """How a follower connects, from a position (empty: for the first time); how it reads its position, and
    whether the server has announced that it has missed something. ``has_ids``: a message that was not
    accepted may be published again, under the same id.
    """

    path: str
    login: Callable[[Position], bytes]
    answer: bytes
    read: Callable[[bytes, Position], bool]
    push: Callable[[int], tuple[str, str]] = lambda number: ("/push/all", f'{{"n":"#{number:07d}"}}')
    fields: str = ""
    has_ids: bool = False


def _read_offset(payload: bytes, position: Position) -> bool:
    """Centrifugo's protocol: the epoch comes with the answer, an offset with each publication."""
    missed = bool(position) and b'"epoch":' in payload and b'"recovered":true' not in payload
    for epoch in EPOCH.findall(payload):
        position["epoch"] = epoch.decode()
    offsets = [int(each) for each in OFFSET.findall(payload)]
    if offsets:
        position["offset"] = max(offsets)
    return missed


def _own_login(position: Position) -> bytes:
    request = {"channel": CHANNEL, "recover": True, **position} if position else {"channel": CHANNEL}
    return client_frame(b'{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": request}).encode())


def _own_push(number: int) -> tuple[str, str]:
    body = {"app": "101", "channel": CHANNEL, "id": f"n{number}", "text": f"#{number:07d}"}
    return "/api/v1/channels/publish", json.dumps(body)


def _library_login(position: Position) -> bytes:
    subs = {"subs": {"all": {"recover": True, **position}}} if position else {}
    return client_frame(json.dumps({"id": 1, "params": {"token": "u", **subs}}).encode())


def _socketio_login(position: Position) -> bytes:
    return client_frame(b"40" + json.dumps({"user": "u", **position}).encode())


def _read_socketio(payload: bytes, position: Position) -> bool:
    missed = False
    if found := re.search(rb'"pid":"([^"]+)"', payload):
        missed = position.get("pid", found[1].decode()) != found[1].decode()
        position["pid"] = found[1].decode()
    elif found := re.search(rb',"([^"]+)"\]$', payload):
        position["offset"] = found[1].decode()
    return missed


def _read_nchan(payload: bytes, position: Position) -> bool:
    if payload.startswith(b"id: "):
        position["id"] = payload[4 : payload.index(b"\n")].decode()
    return False


WIRES: Final = {
    "imserver": Wire(
        "/connection/101/websocket", _own_login, b'{"id":1', _read_offset, _own_push, has_ids=True
    ),
    "centrifuge": Wire("/connection/websocket", _library_login, b'{"id":1', _read_offset),
    "socket.io": Wire("/socket.io/?EIO=4&transport=websocket", _socketio_login, b"40{", _read_socketio),
    "nchan": Wire(
        "/durable", lambda _: b"", b"", _read_nchan, fields="Sec-WebSocket-Protocol: ws+meta.nchan\r\n"
    ),
}


class Followers(ConnectionSet):
    """The followers of one process. Owner of their positions and of what each has received.

    A follower that was told that it has missed something has another name in the history from then on.
    """

    def __init__(self, generator: Generator, wire: Wire, history: History | None) -> None:
        super().__init__(generator.loop, generator.target, generator.index)
        self.wire = wire
        self.history = history
        self.positions: list[Position] = [{} for _ in range(FOLLOWERS)]
        self.seen: list[Counter[int]] = [Counter() for _ in range(FOLLOWERS)]
        self.announced = [0] * FOLLOWERS
        login = None if not wire.answer else lambda _app, number: wire.login(self.positions[number])
        self.opener = Opener(wire.path, login, wire.answer)
        self.take = self._read

    def _send_upgrade(self, conn: Connection) -> None:
        if self.wire.fields:
            id = self.positions[conn.number].get("id")
            path = f"{self.wire.path}?last_event_id={id}" if id else self.wire.path
            head = upgrade_request(f"{self.target.ws_host}:{self.target.ws_port}", path)
            self._upgrade = head[:-2] + self.wire.fields.encode() + head[-2:]
        super()._send_upgrade(conn)

    def complete(self) -> None:
        """Open the connections that are missing; tries again until the server is back."""
        online = {conn.number for conn in self.by_fd.values()}
        if missing := [number for number in range(FOLLOWERS) if number not in online]:
            self.open(missing, self.opener, retry=True)

    def _logged_in(self, conn: Connection, data: bytes) -> None:
        found, _ = scan(data, len(data))
        for opcode, start, stop in found:
            if opcode < CLOSE:
                self._note(conn, data[start:stop])
        super()._logged_in(conn, data)

    def _read(self, conn: Connection, end: int) -> None:
        for payload in self.payloads(conn, end):
            self._note(conn, payload)

    def _note(self, conn: Connection, payload: bytes) -> None:
        self.announced[conn.number] += self.wire.read(payload, self.positions[conn.number])
        numbers = [*map(int, NUMBER.findall(payload))]
        self.seen[conn.number].update(numbers)
        if self.history is not None:
            for each in numbers:
                self.history.saw(self._name(conn.number), CHANNEL, message_of(each))

    def _name(self, number: int) -> str:
        gaps = self.announced[number]
        return f"follower {number + 1}" + (f", after {gaps} gaps" if gaps else "")

    def finish(self) -> None:
        """End all connections. Who was told of no gap has to have seen everything."""
        self.close()
        if self.history is not None:
            for number, gaps in enumerate(self.announced):
                if not gaps:
                    self.history.followed(self._name(number), CHANNEL)
            self.history.close()


def message_of(number: int) -> str:
    """The text of a message."""
    return f"#{number:07d}"


def join(generator: Generator, wire: str, history: str) -> Json:
    """Task: connect the followers. ``history``: a file for what they see; empty: none."""
    recorder = History(Path(history)) if history else None
    generator.state["followers"] = followers = Followers(generator, WIRES[wire], recorder)
    followers.complete()
    if not followers.wire.fields:  # nchan gives the first position with the first message
        generator.loop.until(lambda: all(followers.positions), LAST_SECONDS)
    return {"connected": len(followers.by_fd)}


def follow(generator: Generator, cuts: int) -> Json:
    """Task: follow until it is stopped, and come back after each loss; lose all ``cuts`` times."""
    followers: Followers = generator.state["followers"]
    due = time.monotonic() + CALM_SECONDS
    while not generator.loop.stopped:
        if cuts and time.monotonic() > due:
            followers.close()
            time.sleep(AWAY_SECONDS)
            cuts, due = cuts - 1, time.monotonic() + CALM_SECONDS
        followers.complete()
        generator.loop.turn(0.05)
    return {}


def collect(generator: Generator, last: int) -> Json:
    """Task: wait until all have received the message ``last``; return what each has received."""
    followers: Followers = generator.state["followers"]
    end = time.monotonic() + LAST_SECONDS
    while time.monotonic() < end and not all(last in seen for seen in followers.seen):
        followers.complete()
        generator.loop.turn(0.05)
    followers.finish()
    return {"seen": [list(seen.items()) for seen in followers.seen], "announced": followers.announced}


class PublishingThread(threading.Thread):
    """Publishes one message after the other. One that is not accepted is published again if it has an id, and
    else given up: it may have been accepted."""

    def __init__(self, context: RunContext, wire: Wire, first: int, history: History | None) -> None:
        super().__init__(daemon=True)
        target = context.target
        self.http = HTTPConnection(target.http_host, target.http_port, timeout=5)
        self.wire, self.number, self.history = wire, first, history
        self.acknowledged: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        history, sent, operation = self.history, -1, 0
        while not self.ended.wait(PAUSE_SECONDS):
            path, body = self.wire.push(self.number)
            if history is not None and sent != self.number:
                sent = self.number
                operation = history.ask("publisher", "send", CHANNEL, message=message_of(sent))
            is_accepted = self._publish(path, body)
            if is_accepted:
                self.acknowledged.append(self.number)
                if history is not None:
                    history.answered(operation)
            if is_accepted or not self.wire.has_ids:
                self.number += 1
        self.http.close()

    def _publish(self, path: str, body: str) -> bool:
        try:
            self.http.request("POST", path, body, {"Content-Type": JSON})
            with self.http.getresponse() as answer:
                answer.read()
        except (OSError, HTTPException):
            self.http.close()
            return False
        return answer.status < 300


def measure(context: RunContext, server: ServerProcess, name: str, folder: Path | None) -> Json:
    """Return what followers have missed after the server was killed, and after their connections were cut.
    ``folder``: where a history of each goes, ``NAME-kill.jsonl`` and ``NAME-cut.jsonl``.
    """
    found: Json = {}
    for first, fault in ((0, "kill"), (5_000_000, "cut")):
        (worker,) = context.start_workers(1)
        file = None if folder is None else folder / f"{name}-{fault}.jsonl"
        part = None if file is None else file.with_suffix(".part").resolve()
        (joined,) = context.ask([worker], join, wire=name, history="" if part is None else str(part))
        if joined["connected"] < FOLLOWERS:
            raise BenchError(f"{name}: {joined['connected']} of {FOLLOWERS} followers connected")
        worker.ask(follow, cuts=FAULTS if fault == "cut" else 0)
        history = None if file is None else History(file)
        publisher = PublishingThread(context, WIRES[name], first, history)
        publisher.start()
        for _ in range(FAULTS):
            time.sleep(CALM_SECONDS)
            if fault == "kill":
                server.control("kill")
            time.sleep(AWAY_SECONDS)
            if fault == "kill":
                server.control("again")
        time.sleep(CALM_SECONDS)
        publisher.ended.set()
        publisher.join()
        worker.stop()
        context.gather([worker])
        if not publisher.acknowledged:
            raise BenchError(f"{name}: no message was acknowledged")
        (answer,) = context.ask([worker], collect, last=publisher.acknowledged[-1])
        found[fault] = losses(publisher.acknowledged, answer["seen"], answer["announced"])
        if history is not None and file is not None and part is not None:
            history.close()
            with file.open("ab") as whole, part.open("rb") as rest:
                copyfileobj(rest, whole)
            part.unlink()
    return found


def losses(acknowledged: list[int], seen: list[list[list[int]]], announced: list[int]) -> Json:
    """Compare the acknowledged messages with those that each follower has seen, [number, times] each."""
    missing = [len(set(acknowledged) - {number for number, _ in each}) for each in seen]
    return {
        "acknowledged": len(acknowledged),
        "due": len(acknowledged) * len(seen),
        "missing": sum(missing),
        "announced": sum(count for count, times in zip(missing, announced, strict=True) if times),
        "repeated": sum(times - 1 for each in seen for _, times in each),
    }
