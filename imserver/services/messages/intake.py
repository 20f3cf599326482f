"""Intake: drafts of clients wait here in the line of their app, and are stored a batch at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from time import perf_counter
from typing import Final, Protocol

import gevent

from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.services.messages.follower import Follower
from imserver.services.messages.telling import Done, Result, Telling, Unsettled
from imserver.storage.log.contract import Appended, Draft, Entry, StorageUnsure
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)

MAX_WAITING: Final = 50_000
"""Messages of an app that wait to be stored; more are refused for the moment."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of their bodies."""
WIDE: Final = 50
"""A message to so many connections is followed by a pause in which others gather: a write to a socket costs
as much as twenty frames that share it."""
_GATHER_SECONDS: Final = 0.000_1
"""The pause, for each of the connections."""
_MAX_GATHER_SECONDS: Final = 0.1
BATCH_DRAFTS: Final = 2000
"""Most drafts that are handed to the log at once."""

Forward = Callable[[str, int, int, list[Entry]], None]
Waiting = tuple[Draft, Connection | None, Done]


class Appends(Protocol):
    """What of the log is needed here."""

    def append(self, app: str, drafts: Sequence[Draft]) -> Sequence[Result]:
        """Store drafts; returns after the commit. Raises StorageUnavailable, StorageUnsure too."""


class _Line:
    """The drafts of one app that wait, and what is known of the transaction that is under way."""

    __slots__ = ("bytes", "own", "running", "storing", "unsettled", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.bytes = 0
        """Of the bodies that wait."""
        self.running = False
        self.storing: list[Waiting] = []
        self.unsettled: list[list[Waiting]] = []
        """Batches of which it is not known whether they were stored."""
        self.own: list[tuple[int, int, list[Entry]]] = []
        """Batches that were stored, but told to nobody until it is known whose acknowledgements belong to
        them."""


class Intake:
    """Owner of what waits to be stored. ``logs`` gives the log, and opens it if need be (raises
    StorageUnavailable)."""

    def __init__(
        self, logs: Callable[[], Appends], follower: Follower, telling: Telling, metrics: Metrics
    ) -> None:
        self._logs = logs
        self._follower = follower
        self._telling = telling
        self._metrics = metrics
        self.forward: Forward = lambda app, first, last, entries: None
        """Tells the other nodes what was stored here. Must not switch."""
        self.on_sent: Callable[[str, Entry], None] = lambda app, entry: None
        """Told of each entry that a client has sent, once. Must not switch."""
        self._lines: dict[str, _Line] = {}
        follower.storing = self._senders

    def _senders(self, app: str) -> Collection[str]:
        """Whose drafts are being stored, or were, without their results being known here."""
        line = self._lines.get(app)
        if line is None:
            return ()
        return {draft.sender for batch in (line.storing, *line.unsettled) for draft, _, _ in batch}

    def running(self, app: str) -> bool:
        """Whether something of an app is being stored. Never switches."""
        line = self._lines.get(app)
        return line is not None and (line.running or bool(line.unsettled))

    def send(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Store a draft. Never switches.

        ``done`` is told what became of it: that it was stored behind everything that its sender, on
        ``connection``, has to be told before. Everybody else who may read it is told, the sender's other
        connections too. Where that is not known in time it is told :class:`Unsettled`.
        """
        line = self._lines.get(app)
        if line is None:
            line = self._lines[app] = _Line()
        size = len(draft.body) + len(draft.meta)
        if len(line.waiting) >= MAX_WAITING or line.bytes + size > MAX_WAITING_BYTES:
            done(StorageUnavailable("too much waits to be stored"))
            return
        line.bytes += size
        line.waiting.append((draft, connection, done))
        if not line.running:
            line.running = True
            gevent.spawn(self._pump, app, line)

    def _pump(self, app: str, line: _Line) -> None:
        """Greenlet: store what waits, a batch at a time, until nothing does."""
        try:
            while line.waiting:
                batch = list(islice(line.waiting, BATCH_DRAFTS))
                for draft, _, _ in batch:
                    line.waiting.popleft()
                    line.bytes -= len(draft.body) + len(draft.meta)
                self._telling.widest.pop(app, None)
                self._store(app, line, batch)
                widest = self._telling.widest.get(app, 0)
                if widest >= WIDE:
                    gevent.sleep(min(widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS))
        finally:
            line.running = False

    def _store(self, app: str, line: _Line, batch: list[Waiting]) -> None:
        results: Sequence[Result]
        line.storing = batch
        began = perf_counter()
        try:
            stored = self._logs()
            self._follower.follow(app)
            results = stored.append(app, [draft for draft, _, _ in batch])
            self._metrics.batched(len(batch), perf_counter() - began)
        except StorageUnsure as unsure:
            results = unsettled = [Unsettled(str(unsure)) for _ in batch]
            line.unsettled.append(batch)
            unsure.on_known = lambda answers: self._known(app, line, batch, unsettled, answers)
        except StorageUnavailable as unavailable:
            results = [unavailable] * len(batch)
        except Exception:
            log.exception("storing in %s failed", app)
            results = [StorageUnavailable("storing failed")] * len(batch)
        line.storing = []
        for (_, connection, done), result in zip(batch, results, strict=True):
            if not isinstance(result, Unsettled):
                self._settled(app, connection, result)
            self._answer(app, connection, done, result)
        own, line.own = line.own, []
        for first, last, entries in own:
            self._follower.heard(app, first, last, entries)

    def _known(
        self,
        app: str,
        line: _Line,
        batch: list[Waiting],
        unsettled: Sequence[Unsettled],
        answers: Sequence[Result] | None,
    ) -> None:
        """It is known now what became of a batch; what was stored of it is told next. Never switches."""
        line.unsettled = [each for each in line.unsettled if each is not batch]
        if answers is None:
            answers = [StorageUnavailable("it was not stored")] * len(batch)
        for (_, connection, _), each, result in zip(batch, unsettled, answers, strict=True):
            self._settled(app, connection, result)
            if each.on_known is not None:
                self._answer(app, connection, each.on_known, result)

    def _settled(self, app: str, connection: Connection | None, result: Result) -> None:
        """It is known what became of a draft."""
        self._count(result)
        if connection is not None and isinstance(result, Appended) and not result.repeated:
            try:
                self.on_sent(app, result.entry)
            except Exception:
                log.exception("what was sent could not be told to others")

    def _answer(self, app: str, connection: Connection | None, done: Done, result: Result) -> None:
        """Tell a sender, in its place."""
        if isinstance(result, Appended) and result.entry.id > self._follower.position(app):
            self._telling.acknowledge(app, connection, done, result)
            if result.repeated:
                self._follower.expect(app, result.entry.id)
        else:
            self._telling.settle(connection, done, result)

    def _count(self, result: Result) -> None:
        if not isinstance(result, Appended):
            self._metrics.not_stored += 1
        elif result.repeated:
            self._metrics.stored_repeats += 1
        else:
            self._metrics.stored += 1

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """A transaction of this node is stored (the log's ``on_committed``). Never switches."""
        self.forward(app, first, last, entries)
        line = self._lines.get(app)
        if line is not None and line.storing:
            line.own.append((first, last, entries))
        else:
            self._follower.heard(app, first, last, entries)
