"""Scenario ``answers``: streamed answers on several nodes, while their readers reload, nodes die, and readers
stop some of them.

A bot streams on the first node to as many users, who read event streams of the other nodes. A reload forgets
what the page has; who reconnects because its node has died keeps it. Each reader adds the pieces up, and
compares them with the stored message, and that is compared with what the bot appended.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import jwt

from bench.cluster import Nodes
from bench.connections import Target
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.dialects import KEY
from bench.figures import Figures
from bench.latency import Latency
from bench.loop import BenchError, Json

APP: Final = "101"
OWN_KEY: Final = "a-key-for-measuring-only"
SETTINGS: Final = {
    "IMSERVER_API_KEYS": f"[{{key: {OWN_KEY}, scopes: [push, read, admin]}}]",
    "IMSERVER_API_REQUESTS_PER_SECOND": "0",
    "IMSERVER_APPS": f"{{{APP}: {{account_tokens: required, jwt: [{{algorithm: HS256, key: {KEY}}}]}}}}",
    "IMSERVER_LIMITS_BOT_RATE": "0",
    "IMSERVER_LIMITS_OPEN_STREAMS": str(MOST_IN_PROCESS),
}
BATCH: Final = 100
"""Pieces of a request."""
AT_ONCE: Final = 50
"""Connections that are opened at the same time."""
RETRY_SECONDS: Final = 0.2
ATTEMPTS: Final = 3
END_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 30.0
_TOKEN_SECONDS: Final = 3600


@dataclass(frozen=True)
class AnswersOptions:
    streams: int = parameter(1000, "Streamed answers, each to a user of its own.", most=MOST_IN_PROCESS)
    nodes: int = parameter(
        3, "Nodes: the first one has the bot, the others have the readers.", least=2, most=8
    )
    rate: float = parameter(2.0, "Pieces a second of each answer.", least=0.1, most=100)
    seconds: float = seconds_parameter(20.0, "How long the bot appends")
    reloads: int = parameter(1000, "Reloads of pages, at any times.", least=0, most=100_000)
    kills: int = parameter(3, "So often a node of readers is killed, and started again.", least=0, most=100)
    stops: int = parameter(500, "So many of the answers are stopped by their readers.", least=0)


class AnswerReader:
    """The reader of one answer: a page with an event stream. Owner of its text."""

    def __init__(self, run: AnswersRun, number: int) -> None:
        self._run = run
        self.number = number
        self.user = f"u{number}"
        claims = {"sub": self.user, "app": APP, "exp": int(time.time()) + _TOKEN_SECONDS}
        self.token = jwt.encode(claims, KEY, "HS256")
        self.stream = ""
        self.text = ""
        self.piece = -1
        """Number of the last piece on this connection; -1: the text so far has not come."""
        self.end: Json | None = None
        self.cursor = ""
        self.stopped_at = 0.0
        self._writer: asyncio.StreamWriter | None = None

    async def read(self) -> None:
        """Read until the message is stored, on one node after the other."""
        attempts = self.number
        while self.end is None:
            target = self._run.targets[1 + attempts % (len(self._run.targets) - 1)]
            self.piece, attempts = -1, attempts + 1
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async for event in self._events(target):
                    self._take(event)
                    if self.end is not None:
                        break
            self._disconnect()
            if self.end is None:
                await asyncio.sleep(RETRY_SECONDS * random.random())

    def reload(self) -> None:
        """The page loads again: it knows nothing any more."""
        self.text, self.piece = "", -1
        self._disconnect()
        self._run.found["reloads"] += 1

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _events(self, target: Target) -> AsyncIterator[Json]:
        query = {"app": APP, "user": self.user, "token": self.token}
        if self.cursor:
            query["cursor"] = self.cursor
        async with self._run.gate:
            reader, writer = await asyncio.open_connection(target.http_host, target.http_port, limit=1 << 22)
            self._writer = writer
            host = f"{target.http_host}:{target.http_port}"
            writer.write(f"GET /api/v1/events?{urlencode(query)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                return
        id = self.cursor
        while line := await reader.readline():
            if line.startswith(b"id: "):
                id = line[4:].decode().strip()
            elif line.startswith(b"event: ready"):
                self._run.ready.add(self.number)
            elif line.startswith(b"data: "):
                event: Json = json.loads(line[6:])
                self.cursor = id  # now that the event has come
                yield event

    def _take(self, event: Json) -> None:
        found, kind = self._run.found, event.get("event")
        if kind == "message" and event.get("client_msg_id") == self.stream:
            self.end = event
            found["differ"] += not event["text"].startswith(self.text)
            return
        if kind != "piece" or event["data"]["stream"] != self.stream:
            return
        data = event["data"]
        if data.get("whole"):
            found["differ"] += not data["text"].startswith(self.text)
            self.text, self.piece = data["text"], data["piece"]
        elif self.piece >= 0:
            found["doubled"] += data["piece"] <= self.piece
            found["lost"] += data["piece"] > self.piece + 1
            self.text, self.piece = self.text + data["text"], data["piece"]


class AnswersRun:
    """One run. Owner of the readers, and of what the bot was answered."""

    def __init__(self, nodes: Nodes, options: AnswersOptions) -> None:
        self.nodes, self.options = nodes, options
        self.targets = nodes.targets
        self.gate = asyncio.Semaphore(AT_ONCE)
        self.found: Counter[str] = Counter()
        self.ready: set[int] = set()
        self.readers = [AnswerReader(self, number) for number in range(options.streams)]
        self.appended: list[list[str]] = [[] for _ in self.readers]
        self.heard: dict[str, float] = {}
        """Stream → when the connection of the bot heard that it was stopped."""
        self._is_closed = [False] * options.streams
        self._bot: Json = {}

    async def play(self) -> Figures:
        options = self.options
        self._bot = await self._ask(0, "/api/v1/bots", {"name": f"bench{time.time_ns()}"})
        hearing = asyncio.create_task(self._hear())
        await asyncio.gather(*map(self._open, range(options.streams)))
        reading = [asyncio.create_task(reader.read()) for reader in self.readers]
        await self._until(lambda: len(self.ready) == options.streams, "readers are not connected")
        await asyncio.gather(
            self._append(),
            self._at_times(options.reloads, self._reload),
            self._at_times(options.stops, self._stop),
            self._kill(),
        )
        await asyncio.gather(*map(self._close, range(options.streams)))
        _, open = await asyncio.wait(reading, timeout=END_SECONDS)
        stopped = [reader for reader in self.readers if reader.stopped_at]
        with suppress(BenchError):
            await self._until(
                lambda: all(each.stream in self.heard for each in stopped), "stops are not heard"
            )
        hearing.cancel()
        for task in open:
            task.cancel()
        return self._figures(stopped, len(open))

    def _figures(self, stopped: list[AnswerReader], unfinished: int) -> Figures:
        latency = Latency()
        for reader in stopped:
            if reader.stream in self.heard:
                micros = int((self.heard[reader.stream] - reader.stopped_at) * 1_000_000)
                latency.add(max(0, micros))  # the answer to the first attempt may be lost
        differ = self.found["differ"]
        for reader, pieces in zip(self.readers, self.appended, strict=True):
            differ += reader.end is not None and reader.end["text"] != "".join(pieces)
        return {
            "open_streams": len(self.readers),
            "appended_pieces": sum(map(len, self.appended)),
            "characters": sum(len(piece) for pieces in self.appended for piece in pieces),
            "page_reloads": self.found["reloads"],
            "kills": self.found["kills"],
            "lost": self.found["lost"],
            "doubled": self.found["doubled"],
            "texts_wrong": differ,
            "unfinished": unfinished,
            "stops": len(stopped),
            "stops_unheard": sum(each.stream not in self.heard for each in stopped),
            "refused": self.found["refused"],
            **latency.figures("stop_", maximum=True),
        }

    # --- the bot --------------------------------------------------------------------------------------------

    async def _open(self, number: int) -> None:
        reader = self.readers[number]
        answer = await self._ask(0, "/api/v1/messages/stream/open", {**self._as_bot, "to": reader.user})
        reader.stream = answer["stream"]

    @property
    def _as_bot(self) -> Json:
        return {"user": self._bot["id"]}

    async def _append(self) -> None:
        """Append pieces to all answers in turn, which are spread over each period."""
        options, begun = self.options, time.monotonic()
        for turn in range(int(options.rate * options.seconds)):
            for first in range(0, options.streams, BATCH):
                due = begun + (turn + first / options.streams) / options.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                numbers = [
                    n for n in range(first, min(first + BATCH, options.streams)) if not self._is_closed[n]
                ]
                await self._append_to(numbers, turn)

    async def _append_to(self, numbers: list[int], turn: int) -> None:
        texts = {number: f"{number}.{turn} \N{HOT BEVERAGE} " for number in numbers}
        pieces = [
            {"stream": self.readers[n].stream, "piece": len(self.appended[n]) + 1, "text": texts[n]}
            for n in numbers
        ]
        if not pieces:
            return
        answer = await self._ask(0, "/api/v1/messages/stream/append", {**self._as_bot, "pieces": pieces})
        for number, row in zip(numbers, answer["results"], strict=True):
            if row["status"] == "appended":
                self.appended[number].append(texts[number])
            elif row["status"] == "closed" and self.readers[number].stopped_at:
                self._is_closed[number] = True
            else:
                self.found["refused"] += 1

    async def _close(self, number: int) -> None:
        body = {**self._as_bot, "stream": self.readers[number].stream}
        await self._ask(0, "/api/v1/messages/stream/close", body)

    async def _hear(self) -> None:
        """The connection of the bot, at the first node: it receives the messages that its streams become."""
        target = self.targets[0]
        query = urlencode({"app": APP, "user": self._bot["id"], "token": self._bot["token"]})
        reader, writer = await asyncio.open_connection(target.http_host, target.http_port, limit=1 << 22)
        host = f"{target.http_host}:{target.http_port}"
        writer.write(f"GET /api/v1/events?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                if b'"stopped"' in line and line.startswith(b"data: "):
                    self.heard[json.loads(line[6:])["client_msg_id"]] = time.monotonic()
        finally:
            writer.close()

    # --- readers and faults ---------------------------------------------------------------------------------

    async def _at_times(self, count: int, act: Any) -> None:
        """Do something so often, at random times while the bot appends."""
        begun = time.monotonic()
        running: list[asyncio.Task[None]] = []
        for moment in sorted(random.uniform(0, self.options.seconds) for _ in range(count)):
            await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
            running.append(asyncio.create_task(act(len(running))))
        await asyncio.gather(*running)

    async def _reload(self, _number: int) -> None:
        reader = random.choice(self.readers)
        if reader.end is None:
            reader.reload()

    async def _stop(self, number: int) -> None:
        """Stop the answer of one reader, at a node that lives, until it is done."""
        reader = self.readers[number % len(self.readers)]
        await self._until(lambda: self.appended[reader.number], "nothing is appended")
        body = {"app": APP, "user": reader.user, "stream": reader.stream}
        for attempt in range(100):
            target = self.targets[1 + (number + attempt) % (len(self.targets) - 1)]
            reader.stopped_at = time.monotonic()
            with suppress(OSError, TimeoutError):
                request = _request(target, "/api/v1/messages/stream/stop", body)
                status, _ = await asyncio.wait_for(request, REQUEST_SECONDS)
                if status == 200:
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def _kill(self) -> None:
        """Kill nodes of readers in turn, and start each again."""
        options = self.options
        for number in range(options.kills):
            await asyncio.sleep(options.seconds / (options.kills + 1))
            node = self.nodes.nodes[1 + number % (options.nodes - 1)]
            await asyncio.to_thread(node.control, "kill")
            self.found["kills"] += 1
            await asyncio.to_thread(node.control, "again")

    # --- requests -------------------------------------------------------------------------------------------

    async def _until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + END_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise BenchError(what)
            await asyncio.sleep(0.01)

    async def _ask(self, node: int, path: str, body: Json) -> Json:
        """The answer to a request. Raises BenchError and OSError."""
        async with self.gate:
            for attempt in range(ATTEMPTS):
                status, answer = await asyncio.wait_for(
                    _request(self.targets[node], path, {"app": APP, **body}), REQUEST_SECONDS
                )
                if status < 300:
                    return answer
                await asyncio.sleep(RETRY_SECONDS * (attempt + 1))
        raise BenchError(f"{path}: {status} {answer}")


async def _request(target: Target, path: str, body: Json) -> tuple[int, Json]:
    reader, writer = await asyncio.open_connection(target.http_host, target.http_port)
    try:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {target.http_host}:{target.http_port}\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {OWN_KEY}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = await reader.read()
    finally:
        writer.close()
    start, _, document = answer.partition(b"\r\n\r\n")
    if not start:
        raise ConnectionResetError("no answer")
    return int(start.split(b" ", 2)[1]), json.loads(document or b"{}")


def run(context: RunContext, options: AnswersOptions) -> Figures:
    """Count losses of streamed answers, and time stops."""
    nodes = Nodes(context.pool, options.nodes, int(APP), context.log, environment=SETTINGS, key=OWN_KEY)

    async def play() -> Figures:
        return await AnswersRun(nodes, options).play()

    playing: Coroutine[Any, Any, Figures] = play()
    return asyncio.run(playing)
