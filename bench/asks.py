"""Questions in a chaos run, which two devices answer in the same moment.

Ann asks. Bob taps on two devices, at the first and at the last node, a different answer on each. The history
has what each device was told, what everybody has heard, and what each node says at the end.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final

from bench.connections import Target
from bench.history import History
from bench.http_client import post
from bench.loop import BenchError, Json
from imserver_client import AsyncMessenger, CommandRefused, Entry, NotConnected

APP: Final = "108"
ASKER: Final = "ann"
DEVICES: Final = ("phone", "laptop")
EVERYBODY: Final = (ASKER, *DEVICES)
VALUES: Final = ("yes", "no")
"""What is answered on each device."""
OPTIONS: Final = [{"text": value, "value": value} for value in VALUES]
AT_ONCE: Final = 2
"""Open questions."""
PAUSE_SECONDS: Final = 0.5
"""Between two of them."""
ANSWER_SECONDS: Final = 300.0
"""For a request, whatever fails meanwhile."""
RETRY_SECONDS: Final = 0.1
LAST_SECONDS: Final = 60.0
"""For the last entries, after all answers."""
LOOK_SECONDS: Final = 0.05


class AskThread(threading.Thread):
    """Asks and answers until :meth:`stop`. Owner of the sessions."""

    def __init__(self, targets: Sequence[Target], history: History) -> None:
        super().__init__(daemon=True)
        self.targets, self.history = targets, history
        self.ids: list[int] = []
        """The questions."""
        self.heard: set[tuple[str, int]] = set()
        """Sessions, and the questions of whose answers they have heard."""
        self._is_over = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._play())
        except BaseException as error:
            self._error = error

    def stop(self) -> int:
        """Ask nothing more; the number of questions. Raises BenchError."""
        self._is_over.set()
        self.join()
        if self._error is not None:
            raise BenchError(f"questions: {self._error!r}") from self._error
        return len(self.ids)

    async def _play(self) -> None:
        first, last = (
            f"ws://{t.ws_host}:{t.ws_port}{t.ws_path}" for t in (self.targets[0], self.targets[-1])
        )
        async with (
            AsyncMessenger(first, APP, ASKER) as asker,
            AsyncMessenger(first, APP, "bob", device=DEVICES[0]) as phone,
            AsyncMessenger(last, APP, "bob", device=DEVICES[1]) as laptop,
        ):
            sessions = dict(zip(EVERYBODY, (asker, phone, laptop), strict=True))
            following = [asyncio.create_task(self._follow(*each)) for each in sessions.items()]
            numbers = itertools.count()
            await asyncio.gather(*(self._ask(numbers, (phone, laptop)) for _ in range(AT_ONCE)))
            deadline = monotonic() + LAST_SECONDS
            while len(self.heard) < len(EVERYBODY) * len(self.ids) and monotonic() < deadline:
                await asyncio.sleep(LOOK_SECONDS)
            for task in following:
                task.cancel()
        for id in self.ids:
            await self._read(id)

    async def _follow(self, name: str, session: AsyncMessenger) -> None:
        async for event in session:
            if isinstance(event, Entry):
                self.hear(name, event)

    def hear(self, name: str, entry: Entry) -> None:
        """A session has received an entry."""
        if entry.kind == "press" and entry.type == "answer":
            self.heard.add((name, entry.about))
            self.history.saw(name, f"answers to {entry.about}", entry.text)

    async def _ask(self, numbers: Iterator[int], devices: Sequence[AsyncMessenger]) -> None:
        while not self._is_over.is_set():
            number = next(numbers)
            body = {"user": ASKER, "to": "bob", "text": f"{number}?", "options": OPTIONS}
            question = await self._post(number, "asks/create", {**body, "client_msg_id": f"q{number}"})
            self.ids.append(question["id"])
            await asyncio.gather(
                *(self._tap(*row, question["id"]) for row in zip(devices, DEVICES, VALUES, strict=True))
            )
            await asyncio.sleep(PAUSE_SECONDS)

    async def _tap(self, device: AsyncMessenger, name: str, value: str, id: int) -> None:
        """Answer on a device, until the node has said whether it counts."""
        history, deadline = self.history, monotonic() + ANSWER_SECONDS
        vote = history.ask(name, "decide", f"votes:question {id}", user="bob", vote=value, need=1)
        sending = history.ask(name, "send", f"answers to {id}", message=value)
        while True:
            try:
                await device.answer(id, value)
            except CommandRefused as error:
                if error.refused != "answered":
                    raise BenchError(f"answer: {error}") from error
                history.answered(vote, accepted=False)
                history.refused(sending)
                return
            except NotConnected:
                if monotonic() > deadline:
                    raise BenchError(f"question {id} cannot be answered") from None
            else:
                history.answered(vote, accepted=True)
                history.answered(sending)
                return

    async def _read(self, id: int) -> None:
        """Note what each node says of a question, and that all have listened until now."""
        for node in range(len(self.targets)):
            number = self.history.ask(f"node {node + 1}", "get", f"votes:question {id}")
            row = await self._post(node, "asks/get", {"user": ASKER, "id": id}, one_node=True)
            self.history.answered(number, value=[(each["user"], each["value"]) for each in row["answers"]])
        for name in EVERYBODY:
            self.history.followed(name, f"answers to {id}")

    async def _post(self, first: int, route: str, body: Json, one_node: bool = False) -> Json:
        """The question in the answer of a node; of the next one if it is away. Raises BenchError."""
        deadline, answer = monotonic() + ANSWER_SECONDS, Json()
        for node in itertools.count(first, 0 if one_node else 1):
            target = self.targets[node % len(self.targets)]
            with suppress(BenchError):
                answer = await asyncio.to_thread(post, target, f"/api/v1/{route}", {"app": APP, **body})
                if "state" in answer:
                    return answer
            if monotonic() > deadline:
                break
            await asyncio.sleep(RETRY_SECONDS)
        raise BenchError(f"{route}: {answer}")
