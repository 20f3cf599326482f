"""Scenario ``asks``: questions that are answered on two devices in the same moment, while nodes are killed.

Ann asks. Bob taps on two devices, at the first and at the last node, a different answer on each. The judge
wants exactly one answer to each question, the same at every node, of which everybody has heard once, and no
device to which another answer was promised.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from bench.connections import Target
from bench.figures import Figures
from bench.http_client import post
from bench.latency import Latency
from bench.loop import BenchError, Json
from imserver_client import AsyncMessenger, CommandRefused, Entry, NotConnected

APP: Final = "101"
SETTINGS: Final = {"IMSERVER_APPS": f"{{{APP}: {{open: true, login_policy: multi}}}}"}
ASKER: Final = "ann"
DEVICES: Final = ("phone", "laptop")
EVERYBODY: Final = (ASKER, *DEVICES)
VALUES: Final = ("yes", "no")
"""What is answered on each device."""
OPTIONS: Final = [{"text": value, "value": value} for value in VALUES]
ANSWER_SECONDS: Final = 300.0
"""For a request, whatever fails meanwhile."""
RETRY_SECONDS: Final = 0.1
LAST_SECONDS: Final = 60.0
"""For the last entries, after all answers."""
LOOK_SECONDS: Final = 0.05
READ_AT_ONCE: Final = 8


@dataclass
class AskJudge:
    """What everybody was answered, and has heard."""

    ids: list[int] = field(default_factory=list)
    """The questions."""
    taps: dict[int, float] = field(default_factory=dict)
    """Question → when the first tap was sent."""
    promises: dict[int, list[str]] = field(default_factory=dict)
    """Question → the answers that count, as the devices were told."""
    heard: dict[str, dict[int, list[str]]] = field(default_factory=lambda: {name: {} for name in EVERYBODY})
    """Session → question → the answers in its entries."""
    latency: Latency = field(default_factory=lambda: Latency(100))
    """From the first tap until the asker hears of the answer."""

    def hear(self, name: str, entry: Entry) -> None:
        """A session has received an entry."""
        if entry.kind != "press" or entry.type != "answer":
            return
        self.heard[name].setdefault(entry.about, []).append(entry.text or "")
        if name == ASKER and entry.about in self.taps:
            self.latency.add(int((monotonic() - self.taps[entry.about]) * 1_000_000))

    def has_all(self) -> bool:
        """Whether everybody has heard of an answer to each question."""
        return all(len(questions) >= len(self.ids) for questions in self.heard.values())

    def verdict(self, states: Mapping[int, Sequence[Json]]) -> Figures:
        """``states``: question → what each node says of it."""
        wrong: Counter[str] = Counter()
        for id in self.ids:
            (first, *others) = states[id]
            wrong["differ"] += any(each != first for each in others)
            answers = [each["value"] for each in first["answers"]]
            wrong["answers"] += len(answers) != 1 or first["state"] != "answered"
            wrong["promised"] += self.promises.get(id, []) != answers[:1]
            wrong["heard"] += sum(questions.get(id) != answers[:1] for questions in self.heard.values())
        return {
            "asks": len(self.ids),
            "asks_wrong": wrong["answers"],
            "asks_differ": wrong["differ"],
            "asks_promised": wrong["promised"],
            "asks_unheard": wrong["heard"],
            **self.latency.figures("tap_", maximum=True),
        }


class AskRun:
    """Asks and answers. Owner of the sessions. ``pause``: seconds between two questions of one asker."""

    def __init__(self, targets: Sequence[Target], app: str, at_once: int, pause: float = 0.0) -> None:
        self.targets, self.app, self.at_once, self.pause = targets, app, at_once, pause
        self.judge = AskJudge()
        self.is_over = threading.Event()
        """Set from any thread: no further question is asked."""

    async def play(self, most: int) -> Figures:
        """Ask so many questions, and return what became of them. Raises BenchError."""
        first, last = (
            f"ws://{t.ws_host}:{t.ws_port}{t.ws_path}" for t in (self.targets[0], self.targets[-1])
        )
        async with (
            AsyncMessenger(first, self.app, ASKER) as asker,
            AsyncMessenger(first, self.app, "bob", device=DEVICES[0]) as phone,
            AsyncMessenger(last, self.app, "bob", device=DEVICES[1]) as laptop,
        ):
            sessions = dict(zip(EVERYBODY, (asker, phone, laptop), strict=True))
            following = [asyncio.create_task(self._follow(*each)) for each in sessions.items()]
            numbers = iter(range(most))
            await asyncio.gather(*(self._ask(numbers, (phone, laptop)) for _ in range(self.at_once)))
            deadline = monotonic() + LAST_SECONDS
            while not self.judge.has_all() and monotonic() < deadline:
                await asyncio.sleep(LOOK_SECONDS)
            for task in following:
                task.cancel()
        return self.judge.verdict(await self._states())

    async def _follow(self, name: str, session: AsyncMessenger) -> None:
        async for event in session:
            if isinstance(event, Entry):
                self.judge.hear(name, event)

    async def _ask(self, numbers: Any, devices: Sequence[AsyncMessenger]) -> None:
        for number in numbers:
            if self.is_over.is_set():
                return
            body = {"user": ASKER, "to": "bob", "text": f"{number}?", "options": OPTIONS}
            question = await self._post(number, "asks/create", {**body, "client_msg_id": f"q{number}"})
            self.judge.ids.append(question["id"])
            await asyncio.gather(
                *(
                    self._tap(device, question["id"], value)
                    for device, value in zip(devices, VALUES, strict=True)
                )
            )
            await asyncio.sleep(self.pause)

    async def _tap(self, device: AsyncMessenger, id: int, value: str) -> None:
        """Answer on a device, until the node has said whether it counts."""
        judge, deadline = self.judge, monotonic() + ANSWER_SECONDS
        judge.taps.setdefault(id, monotonic())
        while True:
            try:
                await device.answer(id, value)
            except CommandRefused as error:
                if error.refused == "answered":
                    return
                raise BenchError(f"answer: {error}") from error
            except NotConnected:
                if monotonic() > deadline:
                    raise BenchError(f"question {id} cannot be answered") from None
            else:
                judge.promises.setdefault(id, []).append(value)
                return

    async def _states(self) -> dict[int, list[Json]]:
        """What each node says of the questions."""
        states: dict[int, list[Json]] = {}
        ids = iter(self.judge.ids)

        async def read() -> None:
            for id in ids:
                body = {"user": ASKER, "id": id}
                states[id] = [
                    await self._post(node, "asks/get", body, one_node=True)
                    for node in range(len(self.targets))
                ]

        await asyncio.gather(*(read() for _ in range(READ_AT_ONCE)))
        return states

    async def _post(self, first: int, route: str, body: Json, one_node: bool = False) -> Json:
        """The question in the answer of a node; of the next one if it is away. Raises BenchError."""
        deadline, answer = monotonic() + ANSWER_SECONDS, Json()
        for node in itertools.count(first, 0 if one_node else 1):
            target = self.targets[node % len(self.targets)]
            with suppress(BenchError):
                answer = await asyncio.to_thread(post, target, f"/api/v1/{route}", {"app": self.app, **body})
                if "state" in answer:
                    return answer
            if monotonic() > deadline:
                break
            await asyncio.sleep(RETRY_SECONDS)
        raise BenchError(f"{route}: {answer}")


class AskThread(threading.Thread):
    """Asks in an app of its own beside a chaos run, until :meth:`stop`."""

    def __init__(self, targets: Sequence[Target], app: str, at_once: int, pause: float) -> None:
        super().__init__(daemon=True)
        self._asking = AskRun(targets, app, at_once, pause)
        self._found: Figures | BaseException | None = None

    def run(self) -> None:
        try:
            self._found = asyncio.run(self._asking.play(1 << 62))
        except BaseException as error:
            self._found = error

    def stop(self) -> Figures:
        """Ask nothing more; what became of all questions. Raises BenchError."""
        self._asking.is_over.set()
        self.join()
        if isinstance(self._found, BaseException):
            raise BenchError(f"questions: {self._found!r}") from self._found
        assert self._found is not None
        return self._found
