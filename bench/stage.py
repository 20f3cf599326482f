"""What a scenario plays on: the server, the generator processes, the clock and the progress bar."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from bench import proc
from bench.connections import Target
from bench.crew import Crew, Hand, Progress, Task
from bench.figures import Figures
from bench.generator import aim, open_connections, settle
from bench.loop import BenchError, Json

REST_SECONDS = 1.0
REST_LIMIT_SECONDS = 30.0
RESTING_PERCENT = 2.0
#: A server that used less than this share of a core was not what limited a flat-out rate.
SATURATED_PERCENT = 90.0
#: A process opens no more connections than this: the usual limit of open files is 20,000.
MOST_IN_PROCESS = 15_000
MOST_CONNECTIONS = 1_000_000
MOST_SECONDS = 600.0
T = TypeVar("T")


def parameter(default: Any, help: str, *, least: float = 1, most: float = 1000) -> Any:
    """Declare a parameter of a scenario: its default, what the command line says of it, its bounds."""
    return field(default=default, metadata={"help": help, "least": least, "most": most})


def text_parameter(default: str, help: str, choices: Iterable[str] = ()) -> Any:
    """Declare a parameter that is a text, or one of several words."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


def seconds_parameter(default: float, help: str) -> Any:
    """Declare how long something is measured."""
    return parameter(default, f"{help}, in seconds.", least=0.05, most=MOST_SECONDS)


@dataclass
class Span:
    """CPU of the server and of the generators during a measurement."""

    observed: bool
    server_us: float = 0.0
    seconds: float = 0.0
    generator_us: float = 0.0

    def note(self, answers: Iterable[Json]) -> None:
        self.generator_us = 1e6 * sum(answer["generator_cpu_seconds"] for answer in answers)

    def cost(self, count: float) -> Figures:
        """Return CPU a unit of the server, and of the generators."""
        return {
            "cpu_us": self.server_us / count if self.observed and count else None,
            "generator_cpu_us": self.generator_us / count if count else None,
        }

    def rate(
        self, unit: str, count: float, seconds: float, *, during: float | None = None, flat_out: bool = True
    ) -> Figures:
        """Return what ``count`` units in ``seconds`` were a second and what they cost.

        ``during``: those of them that count for the rate, if some came after the time. Where a flat-out
        rate did not saturate the server, something else was the limit, and the rate is derived.
        """
        figures = self.cost(count)
        measured = (count if during is None else during) / seconds
        figures["measured_per_second"] = measured
        cost = figures["cpu_us"]
        if cost:
            busy = figures["server_busy_percent"] = measured * cost / 1e4
            derived = flat_out and busy < SATURATED_PERCENT
            figures["generator_bound"] = float(derived)
            figures[f"{unit}_per_second"] = 1e6 / cost if derived else measured
        else:
            figures[f"{unit}_per_second"] = measured
        return figures


@dataclass(frozen=True)
class Cores:
    """Which cores are for the server and which for the generators; nothing said, nobody is bound to any.

    Left alone, the scheduler likes to put two processes that wake each other on the same core.
    """

    server: tuple[int, ...] = ()
    generators: tuple[int, ...] = ()

    @classmethod
    def divided(cls) -> Cores:
        """Return the first core for the server, the others for the generators; on a single core no bounds."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls((first,), tuple(others)) if others else cls()


def shares(parts: Sequence[T], count: int, first: int = 0) -> list[tuple[T, int, int]]:
    """Split ``count`` users over ``parts``; return each with its first user and how many."""
    found, (size, spare) = [], divmod(count, len(parts))
    for place, part in enumerate(parts):
        share = size + (place < spare)
        found.append((part, first, share))
        first += share
    return found


class Stage:
    """One run of a scenario. Owns the crew; knows the server by target and pids."""

    def __init__(
        self,
        target: Target,
        pids: tuple[int, ...],
        crew: Crew,
        progress: Progress | None = None,
        cores: Cores | None = None,
        folder: str = "",
        *,
        begin: Callable[[str], Progress] = lambda text: lambda done, total: None,
        log: str = "file",
    ) -> None:
        self.target = target
        self.pids = pids
        self.crew = crew
        self.progress = progress
        self.cores = cores or Cores()
        self.folder = folder
        """Data folder of a server of our own."""
        self.begin = begin
        """Shows a new phase of a run."""
        self.log = log
        self.extra: Json = {}
        """What the report has besides the figures."""

    @property
    def app(self) -> int:
        return self.target.app

    def hire(self, count: int, cores: tuple[int, ...] | None = None) -> list[Hand]:
        """Start ``count`` processes aimed at the server, on the generators' or on ``cores``."""
        hands = self.crew.hire(count)
        cores = self.cores.generators if cores is None else cores
        for hand in hands:
            hand.ask(aim, target=asdict(self.target), index=hand.index, cores=cores)
        self.gather(hands)
        return hands

    def gather(self, hands: Sequence[Hand]) -> list[Json]:
        return self.crew.gather(hands, self.progress)

    def ask(self, hands: Sequence[Hand], do: str | Task, **parameters: Any) -> list[Json]:
        """Give the same command to each of ``hands`` and wait for the answers."""
        for hand in hands:
            hand.ask(do, **parameters)
        return self.gather(hands)

    def open(
        self, hands: Sequence[Hand], count: int, *, first: int = 0, login: bool = True, dialect: str = "cmd"
    ) -> list[tuple[int, int]]:
        """Open ``count`` connections, split over ``hands``, and wait until all is quiet.

        Returns (first, count) of each; raises BenchError unless every connection stands.
        """
        parts = shares(hands, count, first)
        for hand, begin, share in parts:
            hand.ask(open_connections, first=begin, count=share, login=login, dialect=dialect)
        answers = self.gather(hands)
        opened = sum(answer["opened"] for answer in answers)
        if opened < count:
            errors = [answer["errors"] for answer in answers if answer["errors"]]
            raise BenchError(f"{opened} of {count} connections opened: {errors}")
        self.ask(hands, settle)
        return [(begin, share) for _hand, begin, share in parts]

    @contextmanager
    def measured(self) -> Iterator[Span]:
        span = Span(bool(self.pids))
        begin, before = time.monotonic(), proc.cpu(self.pids)
        yield span
        span.server_us = proc.cpu(self.pids).since(before)
        span.seconds = time.monotonic() - begin

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.progress is not None:
                self.progress(int(10 * (seconds - left)), int(10 * seconds))
            time.sleep(min(left, 0.5))

    def rest(self) -> None:
        """Wait until the server does nothing any more (closes handled, memory settled)."""
        time.sleep(REST_SECONDS)
        deadline = time.monotonic() + REST_LIMIT_SECONDS
        while self.pids and time.monotonic() < deadline:
            with self.measured() as span:
                time.sleep(REST_SECONDS / 2)
            if span.server_us / 1e4 < RESTING_PERCENT * span.seconds:
                return
