"""Power cuts: the traffic of a server that is recorded, and what a start finds after each of them."""

from __future__ import annotations

import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from bench import chaos_tasks, power
from bench.chaos_tasks import AUDIT_SECONDS, CMD_APP, DIALECTS, MEET_SECONDS, SETTLE_SECONDS
from bench.chat_dialects import mark_of, text_of
from bench.connections import Target
from bench.figures import Figures
from bench.generator import aim
from bench.history import History
from bench.loop import BenchError, Json
from bench.servers import ENGINES, NodeProcess
from bench.workers import WorkerPool

APP: Final = "power"
OWNER: Final = f"app={APP}&user=ann"
ANSWER_SECONDS: Final = 30.0
THREADS: Final = 3
_KEY: Final = "the-key-of-this-run-alone"
_PART: Final = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
_CONFIG: Final = f"""\
api: {{keys: [{{key: {_KEY}, scopes: [push, read]}}]}}
uploads: {{min_free_bytes: 0, daily_address_bytes: 0, quota_bytes: 0}}
apps:
  {APP}:
    open: true
"""


class Answer(Exception):
    """An HTTP status that was not expected."""


def ask(
    target: Target, method: str, path: str, body: bytes = b"", headers: Json | None = None
) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer. Raises Answer, if its status is no success, and OSError."""
    with closing(HTTPConnection(target.http_host, target.http_port, timeout=ANSWER_SECONDS)) as connection:
        try:
            own = {"Authorization": f"Bearer {_KEY}", "Content-Type": "application/json"}
            connection.request(method, path, body, {**own, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        except HTTPException as error:
            raise OSError(str(error)) from None
        if response.status >= 300:
            raise Answer(f"{response.status} {content[:200]!r}")
        return dict(response.getheaders()), content


class PowerTraffic(ABC):
    """Traffic on a server that is recorded, and the power cuts that are made of it."""

    disk: power.Disk
    recorded: Any
    """The server."""

    def __init__(
        self, pool: WorkerPool, options: Any, folder: Path, show_phase: Callable[[str], None]
    ) -> None:
        self.pool, self.options, self.folder, self.show_phase = pool, options, folder, show_phase
        self.seed = options.seed or random.randrange(1, 2**31)
        self.root = self.make_root()
        self.file = folder / "history.jsonl"
        """What clients did and were told, for the checker."""
        self.config = folder / "config.yaml"
        self.config.write_text(_CONFIG, encoding="utf-8")

    def play(self) -> tuple[Figures, Json]:
        """Let the traffic flow, cut the power, and let the checker judge."""
        environment, recording = power.recorder(self.folder, self.root)
        self.start(environment)
        self.show_phase("traffic flows")
        self.flow()
        self.stop()
        self.show_phase("the power is cut")
        found = power.Cuts(sorted(power.sends_in(self.file), key=itemgetter(0)))
        cuts, state = self.options.power, self.folder / "state"
        power.cut_all(self.disk, recording, found, cuts, self.seed, state, self.read, self.show_phase)
        return found.figures, {"seed": self.seed, "faults": found.notes}

    def make_root(self) -> Path:
        """The folder that is recorded."""
        root = self.folder / "disk"
        root.mkdir()
        return root

    @abstractmethod
    def start(self, environment: dict[str, str]) -> None:
        """Start the servers, one of them with this environment; load the disk."""

    @abstractmethod
    def flow(self) -> None:
        """Let clients work for the time of the options, and write the history."""

    @abstractmethod
    def read(self, folder: Path) -> power.Remains:
        """What a start from this folder finds."""

    def node(self, environment: dict[str, str], data: Path) -> NodeProcess:
        words, folder = ["--config", str(self.config)], str(self.folder / "node")
        node = NodeProcess(arguments=words, environment=environment, data_directory=str(data), folder=folder)
        return self.pool.start(node)

    def stop(self) -> None:
        """End what is recorded."""
        self.recorded.control("kill")


class MessageTraffic(PowerTraffic):
    """A chat on one node."""

    def make_root(self) -> Path:
        engine = self.options.database
        self.database = None if engine == "sqlite" else ENGINES[engine]({})
        if self.database is None:
            root = self.folder / "data"
            root.mkdir()
            return root
        self.database.prepare()
        return self.database.data

    def start(self, environment: dict[str, str]) -> None:
        self.disk = power.Disk(self.root, journal=self.database is not None)
        self.disk.load()
        if self.database is not None:
            self.database.environment = environment
            self.pool.start(self.database)
            self.database.create()
            environment = {"IMSERVER_STORAGE_URL": self.database.url}
        self.config.write_text(chaos_tasks.CONFIG.format(""), encoding="utf-8")
        self.recorded = self.node(environment, self.folder / "data")

    def flow(self) -> None:
        options, target = self.options, self.recorded.target
        (worker,) = self.pool.start_workers(1)
        self.pool.ask(worker, aim, target=asdict(target), index=worker.index)
        self.pool.ask(
            worker,
            chaos_tasks.meet,
            seed=self.seed,
            seconds=MEET_SECONDS,
            addresses=[[target.ws_host, target.ws_port]],
            clients=options.clients,
            app=CMD_APP,
            dialects=DIALECTS[options.dialect],
            history=str(self.file),
        )
        self.pool.ask(worker, chaos_tasks.chat, seconds=options.minutes * 60, rate=options.rate)
        self.pool.ask(worker, chaos_tasks.settle, seconds=SETTLE_SECONDS)
        self.pool.ask(worker, chaos_tasks.audit, seconds=AUDIT_SECONDS)

    def stop(self) -> None:
        super().stop()
        if self.database is not None:
            self.database.control("kill")

    def read(self, folder: Path) -> power.Remains:
        if self.database is None:
            return power.read_sqlite(folder)
        return power.read_server(self.options.database, folder)


class UploadTraffic(PowerTraffic):
    """Uploads, half of them in parts. A file that was acknowledged is whole; an upload in parts goes on."""

    def start(self, environment: dict[str, str]) -> None:
        self.disk = power.Disk(self.root)
        self.recorded = self.node(environment, self.root / "data")
        self.small = self.folder / "small.yaml"
        self.small.write_text(f"features: [uploads]\n{_CONFIG}", encoding="utf-8")
        self.paths: dict[int, str] = {}
        """Where each file is, or its upload in parts."""

    def content(self, number: int) -> bytes:
        chance = random.Random(f"{self.seed} {number}")
        return chance.randbytes(chance.randint(1, 60_000))

    def flow(self) -> None:
        history, end = History(self.file), time.monotonic() + self.options.minutes * 60

        def work(thread: int) -> None:
            number = thread
            while time.monotonic() < end:
                text = text_of(mark_of(1, number))
                number = history.ask(f"thread {thread}", "send", f"thing {number}", message=text)
                self._send(number)
                history.answered(number)
                number += THREADS
                time.sleep(THREADS / self.options.rate)

        try:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(work, range(1, THREADS + 1)))
        except (Answer, OSError) as error:
            raise BenchError(f"traffic: {error}") from error
        history.close()

    def _send(self, number: int) -> None:
        target, content = self.recorded.target, self.content(number)
        if number % 2:
            _, body = ask(target, "POST", f"/api/v1/uploads?{OWNER}", content)
            self.paths[number] = json.loads(body)["url"]
            return
        length = {**_PART, "Upload-Length": str(len(content))}
        middle = len(content) // 2
        headers, _ = ask(target, "POST", f"/api/v1/uploads/tus?{OWNER}", content[:middle], length)
        self.paths[number] = headers["Location"]
        self._continue(target, number, middle)

    def _continue(self, target: Target, number: int, offset: int) -> None:
        rest = self.content(number)[offset:]
        ask(target, "PATCH", self.paths[number], rest, {**_PART, "Upload-Offset": str(offset)})

    def read(self, folder: Path) -> power.Remains:
        stored = power.Remains()
        for each in folder.rglob("*.sure"):  # another life of the machine
            each.write_text(each.read_text()[:21] + "another")
        node = NodeProcess(arguments=["--config", str(self.small)], data_directory=str(folder / "data"))
        try:
            node.start()
            for number, path in self.paths.items():
                try:
                    content = self._file(node.target, number, path)
                except Answer as answer:
                    if not str(answer).startswith("404"):
                        stored.broken = f"{path}: {answer}"
                    continue
                if content == self.content(number):
                    stored.rows.append((number, None, f"1:{number}:".encode()))
                else:
                    stored.broken = f"{path} has other bytes"
        except (BenchError, OSError) as error:
            stored.broken = str(error)
        finally:
            node.end()
        return stored

    def _file(self, target: Target, number: int, path: str) -> bytes:
        """The bytes of a file; an upload in parts is ended first."""
        if "/tus/" in path:
            headers, _ = ask(target, "HEAD", path, headers=_PART)
            if int(headers["Upload-Offset"]) < len(self.content(number)):
                self._continue(target, number, int(headers["Upload-Offset"]))
            _, body = ask(target, "GET", path)
            path = json.loads(body)["url"]
        return ask(target, "GET", path)[1]


TRAFFIC: Final[dict[str, type[PowerTraffic]]] = {"messages": MessageTraffic, "uploads": UploadTraffic}
