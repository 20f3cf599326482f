"""Group commit: what comes while a transaction is written goes into the next one.

One greenlet writes, one transaction after the other; whoever asked waits for the commit. It is there as long
as there is something to write.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from random import SystemRandom
from time import time
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event

from imserver.errors import StorageUnavailable
from imserver.storage.log_contract import INVALID, Change, OnCommitted, Rejected, StorageUnsure, Stored
from imserver.storage.log_desk import Desk, Gate, NotStored, Refused, Unsure
from imserver.storage.log_groups import Deed
from imserver.storage.log_pen import Pen
from imserver.storage.log_row import Ready
from imserver.storage.log_sheet import Sheet

if TYPE_CHECKING:
    from imserver.storage.database import Database

log = logging.getLogger(__name__)

_BATCH_DRAFTS: Final = 2000
_BATCH_BYTES: Final = 8 << 20
_MOST_WAITING: Final = 100_000
_LOOK_SECONDS: Final = 0.5
"""Between two attempts to find out what became of a COMMIT."""
_CLOSE_SECONDS: Final = 5.0

_random: Final = SystemRandom()


class Job:
    """What one caller wants of one app's log: drafts to append, or a deed to do."""

    __slots__ = ("app", "change", "deed", "done", "error", "gate", "outcomes", "ready")

    def __init__(self, app: str, ready: Sequence[Ready], deed: Deed | None = None) -> None:
        self.app = app
        self.ready = ready
        self.deed = deed
        self.outcomes: Sequence[Stored] = ()
        self.change: Change | Rejected | None = None
        self.error: StorageUnavailable | None = None
        self.gate: Gate | None = None
        """Of the transaction that it is in; None: it still waits."""
        self.done = Event()

    @property
    def weight(self) -> int:
        """Bytes, roughly."""
        return sum(len(one.draft.body) + len(one.draft.meta) + 200 for one in self.ready)


class Writer:
    """Owner of what waits to be stored. ``on_committed`` is told of every transaction before anybody else."""

    def __init__(self, database: Database, seconds: float, on_committed: OnCommitted) -> None:
        self._on_committed = on_committed
        self._database = database
        self._seconds = seconds
        self._desk = Desk(database)
        self._waiting: deque[Job] = deque()
        self._drafts_waiting = 0
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._closed = False

    def write(self, job: Job) -> None:
        """Have it stored; returns when it is. Switches. Raises StorageUnavailable, StorageUnsure too."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        if self._drafts_waiting >= _MOST_WAITING:
            raise StorageUnavailable("too much waits to be stored")
        self._waiting.append(job)
        self._drafts_waiting += len(job.ready)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        # Twice: for the transaction that is under way, and for its own.
        if not job.done.wait(2 * self._seconds):
            self._give_up(job)
        if isinstance(job.error, StorageUnsure):
            raise job.error
        if job.error is not None:
            raise StorageUnavailable(str(job.error)) from None

    def close(self) -> None:
        """Store what waits, as far as that goes, and take nothing more."""
        self._closed = True
        if self._greenlet is not None:
            self._greenlet.join(_CLOSE_SECONDS)
            if self._greenlet is not None:
                self._greenlet.kill(block=False)
        for job in self._waiting:
            self._fail([job], StorageUnavailable("the database is closed"))
        try:
            self._desk.close()
        except NotStored:
            log.debug("the log's connection is left as it is")

    def _give_up(self, job: Job) -> None:
        if job.gate is None:
            self._waiting.remove(job)
            self._drafts_waiting -= len(job.ready)
            job.error = self._database.away("no answer in time")
        elif job.gate.take():
            job.error = self._database.away("no answer in time")  # its transaction will be undone
        elif not job.done.wait(self._seconds):
            job.error = StorageUnsure("the database does not answer: no answer in time")

    # --- the greenlet ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._waiting:
                jobs = self._take()
                try:
                    self._store(jobs)
                except Exception:
                    log.exception("the log could not be written")
                    self._fail(jobs, StorageUnavailable("the log could not be written"))
        finally:
            self._greenlet = None

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        drafts = weight = 0
        while self._waiting and drafts < _BATCH_DRAFTS and weight < _BATCH_BYTES:
            job = self._waiting.popleft()
            jobs.append(job)
            drafts += len(job.ready)
            weight += job.weight
        self._drafts_waiting -= drafts
        return jobs

    def _store(self, jobs: list[Job]) -> None:
        gate = Gate()
        for job in jobs:
            job.gate = gate
        written = _Transaction(jobs)
        try:
            self._desk.transact(written, gate, self._seconds)
        except NotStored as error:
            self._fail(jobs, self._database.away(str(error)))
            return
        except Refused as error:
            gate.take()
            self._store_one_by_one(jobs, str(error))
            return
        except Unsure as error:
            failure = self._database.away(str(error))
            if not self._was_stored(written):
                self._fail(jobs, failure)
                return
        self._database.heard()
        for job in jobs:
            _settle_late(job, job.outcomes)
        self._tell(written)
        for job in jobs:
            job.done.set()

    def _tell(self, written: _Transaction) -> None:
        for sheet in written.sheets:
            if sheet.entries:
                try:
                    self._on_committed(sheet.app, sheet.before + 1, sheet.head.last_id, sheet.entries)
                except Exception:  # it is stored all the same
                    log.exception("what was stored could not be passed on")

    def _was_stored(self, written: _Transaction) -> bool:
        """Find out, for as long as it takes: nothing may be told before what comes earlier in the log."""
        first = next(((sheet.app, sheet.entries[0].id) for sheet in written.sheets if sheet.entries), None)
        if first is None:
            return True

        def look(pen: Pen) -> bool:
            # Behind the lock: the transaction may still be ending somewhere.
            return pen.batch_of(pen.lock(first[0]).number, first[1]) == written.batch

        while True:
            try:
                return self._desk.ask(look, self._seconds)
            except (NotStored, Refused):
                gevent.sleep(_LOOK_SECONDS)

    def _store_one_by_one(self, jobs: list[Job], words: str) -> None:
        """One row is to blame, and the others need not suffer for it."""
        single = len(jobs) == 1 and len(jobs[0].ready) <= 1
        for job in jobs:
            if single:
                log.error("the database refuses a row: %s", words)
                job.outcomes = [Rejected(INVALID, "the database refuses it")] * len(job.ready)
                job.change = Rejected(INVALID, "the database refuses it")
            elif job.deed is not None:
                self._store([job])
                continue
            else:
                parts = [Job(job.app, [one]) for one in job.ready]
                for part in parts:
                    self._store([part])
                job.outcomes = [part.outcomes[0] if part.error is None else part.error for part in parts]
            _settle_late(job, job.outcomes)
            job.done.set()

    def _fail(self, jobs: Sequence[Job], error: StorageUnavailable) -> None:
        for job in jobs:
            if not _settle_late(job, None):
                job.error = error
            job.done.set()


def _settle_late(job: Job, outcomes: Sequence[Stored] | None) -> bool:
    """Say what became of it to somebody who could not wait; whether there is such a one."""
    if not isinstance(job.error, StorageUnsure):
        return False
    try:
        job.error.on_known(outcomes)
    except Exception:
        log.exception("what was stored late could not be passed on")
    return True


class _Transaction:
    """What is done in one transaction; may be done again from the start, on another connection."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.batch = _random.getrandbits(62) + 1
        self.sheets: list[Sheet] = []
        self._now = int(time())
        self._jobs: dict[str, list[Job]] = {}
        for job in jobs:
            self._jobs.setdefault(job.app, []).append(job)

    def __call__(self, pen: Pen) -> None:
        self.sheets = []
        for app in sorted(self._jobs):  # always in this order, so that two writers never wait for each other
            sheet = Sheet(pen, app, self.batch, self._now)
            self.sheets.append(sheet)
            appending = [job for job in self._jobs[app] if job.ready]
            for job in self._jobs[app]:
                if job.deed is not None:
                    job.change = job.deed(sheet)
            outcomes = iter(sheet.append([one for job in appending for one in job.ready]))
            for job in appending:
                job.outcomes = [next(outcomes) for _ in job.ready]
            sheet.write()
