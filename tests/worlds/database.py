"""A simulated database: SQLite in memory files, behind delays, errors, late
answers and restarts.

Each transaction runs whole, at one moment; the nodes see the moments through
the network.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from gevent.event import AsyncResult
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from imserver.gateway.storage.database import GreenletRunner
from imserver.gateway.storage.engines import direct_statements, make_engine
from imserver.gateway.storage.statements import SqliteStatements
from tests.worlds.loop import Owner, VirtualLoop
from tests.worlds.network import Pipe, Route

T = TypeVar("T")


class SimDatabase:
    """The server. ``is_down``: it refuses everything. ``loses_answers``: the
    share of commits whose answer is lost."""

    def __init__(
        self,
        loop: VirtualLoop,
        file: Path,
        seed: int,
        route: Callable[[str, str], Route],
    ) -> None:
        self.loop = loop
        self.file = file
        self.route = route
        self.random = Random(f"{seed} database")
        self.is_down = False
        self.loses_answers = 0.0

    def runner(self) -> SimRunner:
        """The runner of the node that asks."""
        return SimRunner(self, self.loop.current)

    def copy(self) -> sqlite3.Connection:
        """The data as of now, for a restart that loses what comes after."""
        copy = sqlite3.connect(":memory:")
        with sqlite3.connect(self.file) as now:
            now.backup(copy)
        return copy

    def restore(self, copy: sqlite3.Connection) -> None:
        """Lose what came after."""
        with sqlite3.connect(self.file) as now:
            copy.backup(now)

    def loses_this(self) -> bool:
        """Whether the answer to this commit is lost."""
        return self.is_down or (
            self.loses_answers > 0 and self.random.random() < self.loses_answers
        )

    def engine(self, address: Any, settings: Any) -> Any:
        """As :func:`imserver.gateway.storage.engines.make_engine`."""
        engine = make_engine(address, settings)

        @event.listens_for(engine, "begin")
        def _begin(_connection: object) -> None:
            if self.is_down:
                raise OperationalError(
                    "BEGIN", {}, sqlite3.OperationalError("the server is down")
                )

        return engine

    def statements(self, address: Any, engine: Any) -> SqliteStatements:
        """As :func:`imserver.gateway.storage.engines.direct_statements`."""
        sql = _Statements(direct_statements(address, engine).connection)
        sql.server = self
        return sql


class _Statements(SqliteStatements):
    server: SimDatabase

    def begin(self) -> None:
        if self.server.is_down:
            raise sqlite3.OperationalError("the server is down")
        super().begin()

    def commit(self) -> None:
        super().commit()
        if self.server.loses_this():
            raise sqlite3.OperationalError("the connection was lost")


class SimRunner(GreenletRunner):
    """In place of :class:`imserver.gateway.storage.database.ThreadRunner`, as a
    pool of connections: work may overtake other work, and goes on when its
    caller has stopped waiting."""

    def __init__(self, server: SimDatabase, owner: Owner) -> None:
        self._server = server
        self._owner = owner
        self._there = server.route(owner.name, "database")
        self._back = server.route("database", owner.name)

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        return super().run(lambda: self._ask(function), seconds)

    def _ask(self, function: Callable[[], T]) -> T:
        result: AsyncResult[T] = AsyncResult()
        answers = Pipe(self._back, self._owner, _answer)
        Pipe(self._there, self._server.loop.world, self._work).send(
            function, result, answers
        )
        return result.get()  # type: ignore[return-value]

    def _work(
        self, function: Callable[[], Any], result: AsyncResult[Any], answers: Pipe
    ) -> None:
        server = self._server
        if not self._owner.alive:
            return
        try:
            with server.loop.acting(self._owner):
                value = function()
        except BaseException as error:
            answers.send(result, None, error)
        else:
            answers.send(result, value, None)


def _answer(result: AsyncResult[Any], value: Any, error: BaseException | None) -> None:
    if error is None:
        result.set(value)
    else:
        result.set_exception(error)
