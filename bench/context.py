"""The environment of a scenario: the server, the generator processes, and the
clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from bench import proc
from bench.connections import Target
from bench.figures import Figures
from bench.generator import aim, open_connections, settle
from bench.loop import BenchError, Json
from bench.servers import Task, Worker, WorkerPool

REST_SECONDS = 1.0
REST_LIMIT_SECONDS = 30.0
RESTING_PERCENT = 2.0
#: Below this share of a core the server did not limit the rate.
SATURATED_PERCENT = 90.0
#: A process opens no more connections than this: the usual limit of open files is 20,000.
MOST_IN_PROCESS = 15_000
MOST_CONNECTIONS = 1_000_000
MOST_SECONDS = 600.0
T = TypeVar("T")


def parameter(default: Any, help: str, *, least: float = 1, most: float = 1000) -> Any:
    """Declare a parameter of a scenario: its default, its help text, its
    bounds."""
    return field(default=default, metadata={"help": help, "least": least, "most": most})


def text_parameter(default: str, help: str, choices: Iterable[str] = ()) -> Any:
    """Declare a parameter that is a text, or one of several words."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


def seconds_parameter(default: float, help: str) -> Any:
    """Declare the duration of a measurement."""
    return parameter(default, f"{help}, in seconds.", least=0.05, most=MOST_SECONDS)


@dataclass
class Span:
    """CPU of the server and of the generators during a measurement."""

    observed: bool
    server_us: float = 0.0
    seconds: float = 0.0
    generator_us: float = 0.0

    def note(self, answers: Iterable[Json]) -> None:
        self.generator_us = 1e6 * sum(
            answer["generator_cpu_seconds"] for answer in answers
        )

    def cost(self, count: float) -> Figures:
        """Return the CPU time per unit of the server, and of the generators."""
        return {
            "cpu_us": self.server_us / count if self.observed and count else None,
            "generator_cpu_us": self.generator_us / count if count else None,
        }

    def rate(
        self,
        unit: str,
        count: float,
        seconds: float,
        *,
        during: float | None = None,
        flat_out: bool = True,
    ) -> Figures:
        """Return the rate of ``count`` units in ``seconds``, and their costs.

        ``during``: the number of units that count for the rate, if some arrived
        later. If ``flat_out`` did not saturate the server, something else was
        the limit, and the rate is derived.
        """
        figures = self.cost(count)
        measured = (count if during is None else during) / seconds
        figures["measured_per_second"] = measured
        cost = figures["cpu_us"]
        if cost:
            busy = measured * cost / 1e4
            figures["server_busy_percent"] = busy
            derived = flat_out and busy < SATURATED_PERCENT
            figures["generator_bound"] = float(derived)
            figures[f"{unit}_per_second"] = 1e6 / cost if derived else measured
        else:
            figures[f"{unit}_per_second"] = measured
        return figures


@dataclass(frozen=True)
class Cores:
    """The cores of the server and those of the generators. Empty: no process is
    bound.

    Without binding, the scheduler often puts two processes that wake each other
    on the same core.
    """

    server: tuple[int, ...] = ()
    generators: tuple[int, ...] = ()

    @classmethod
    def divided(cls) -> Cores:
        """Return the first core for the server, the others for the generators;
        on a single core no bounds."""
        first, *others = sorted(os.sched_getaffinity(0))
        if others:
            return cls((first,), tuple(others))
        return cls()


def shares(parts: Sequence[T], count: int, first: int = 0) -> list[tuple[T, int, int]]:
    """Split ``count`` users over ``parts``; return each with its first user and
    how many."""
    found, (size, spare) = [], divmod(count, len(parts))
    for index, part in enumerate(parts):
        share = size + (index < spare)
        found.append((part, first, share))
        first += share
    return found


@dataclass
class RunContext:
    """One run of a scenario. Owner of the worker pool; knows the server by
    target and pids.

    ``folder``: the data of a server that the tool starts. ``extra``: further
    entries of the report.
    """

    target: Target
    pids: tuple[int, ...]
    pool: WorkerPool
    cores: Cores = field(default_factory=Cores)
    folder: str = ""
    log: str = "file"
    extra: Json = field(default_factory=dict)

    def start_workers(
        self, count: int, cores: tuple[int, ...] | None = None
    ) -> list[Worker]:
        """Start ``count`` processes aimed at the server, on the generators' or
        on ``cores``."""
        workers = self.pool.start_workers(count)
        cores = self.cores.generators if cores is None else cores
        for worker in workers:
            worker.ask(aim, target=asdict(self.target), index=worker.index, cores=cores)
        self.gather(workers)
        return workers

    def gather(self, workers: Sequence[Worker]) -> list[Json]:
        return self.pool.gather(workers)

    def ask(
        self, workers: Sequence[Worker], do: str | Task, **parameters: Any
    ) -> list[Json]:
        """Give the same command to each of ``workers`` and wait for the
        answers."""
        for worker in workers:
            worker.ask(do, **parameters)
        return self.gather(workers)

    def open(
        self,
        workers: Sequence[Worker],
        count: int,
        *,
        first: int = 0,
        login: bool = True,
        dialect: str = "cmd",
        end: Target | None = None,
    ) -> None:
        """Open ``count`` connections, split over ``workers``, and wait until
        there is no traffic. ``end``: another server than the target. Raises
        BenchError unless every connection is open.
        """
        how: Json = {
            "login": login,
            "dialect": dialect,
            "end": end and (end.ws_host, end.ws_port),
        }
        for worker, begin, share in shares(workers, count, first):
            worker.ask(open_connections, first=begin, count=share, **how)
        answers = self.gather(workers)
        opened = sum(answer["opened"] for answer in answers)
        if opened < count:
            errors = [answer["errors"] for answer in answers if answer["errors"]]
            raise BenchError(f"{opened} of {count} connections opened: {errors}")
        self.ask(workers, settle)

    @contextmanager
    def measured(self) -> Iterator[Span]:
        span = Span(bool(self.pids))
        begin = time.monotonic()
        before = proc.cpu(self.pids)
        yield span
        span.server_us = proc.cpu(self.pids).since(before)
        span.seconds = time.monotonic() - begin

    def rest(self) -> None:
        """Wait until the server is idle (closes handled, memory settled)."""
        time.sleep(REST_SECONDS)
        deadline = time.monotonic() + REST_LIMIT_SECONDS
        while self.pids and time.monotonic() < deadline:
            with self.measured() as span:
                time.sleep(REST_SECONDS / 2)
            if span.server_us / 1e4 < RESTING_PERCENT * span.seconds:
                return
