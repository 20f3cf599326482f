"""The append queue and the group commit: what waits is stored in one transaction, then in the next one.

Drafts wait in the queue of their app. One greenlet takes what waits in all queues, stores it in one
transaction, and answers after the commit; meanwhile the queues fill again. It ends when nothing waits.

- An app whose messages go to many connections pauses after a batch, so that more of its messages share a
  write to each socket.
- A transaction that takes longer than twice ``seconds`` is given up. If COMMIT was not sent yet, it is
  forbidden (:class:`CommitGuard`), and the requests fail. If it was sent, they get a StorageUnsure after
  ``seconds`` more, and the final result once it is known. Requests that wait behind such a transaction fail
  after twice ``seconds``.
- If the answer to COMMIT is lost, the ids are looked up before anything else is written.
- If the database refuses a row, the requests of that transaction are stored one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from random import SystemRandom
from time import perf_counter, time
from typing import Final, Protocol

import gevent

from imserver.errors import StorageUnavailable
from imserver.storage.log.connection import CommitGuard, NotStored, RowRefused, Unsure, WriterConnection
from imserver.storage.log.contract import INVALID, Entry, Rejected, StorageUnsure
from imserver.storage.log.driver import LogDriver
from imserver.storage.log.transaction import AppendRequest, AppTransaction, ChangeRequest, Outcome

log = logging.getLogger(__name__)

Request = AppendRequest | ChangeRequest

MAX_WAITING: Final = 50_000
"""Drafts of one app that may wait; more are refused for the moment."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes of their contents."""
MAX_WAITING_IN_ALL: Final = 100_000
"""Drafts of all apps together that may wait; more are refused for the moment."""
MAX_WAITING_BYTES_IN_ALL: Final = 128 * 1024 * 1024
"""Bytes of their contents."""
BATCH_DRAFTS: Final = 2000
"""Drafts in one transaction."""
_BATCH_BYTES: Final = 8 << 20
_REQUEST_BYTES: Final = 200
"""What a draft counts in a batch besides its content."""
_LOOK_SECONDS: Final = 0.5
"""Between two attempts to find out what became of a COMMIT."""
_CLOSE_SECONDS: Final = 5.0
_LATE: Final = "the database does not answer: no answer in time"

_random: Final = SystemRandom()


class LogListener(Protocol):
    """Receives what was stored. Implemented above the log; must not switch."""

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """A transaction stored ``entries``, which have the ids from ``first`` to ``last``. Called once per
        transaction and app, in the order of the commits, after the requests were answered."""

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """A transaction with so many drafts of an app took ``seconds``, and was delivered. Returns for how
        many seconds the next drafts of the app are to gather."""


class WriteTransaction:
    """What is stored in one transaction; it may be run again from the start, on another connection."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.batch = _random.getrandbits(62) + 1
        self.guard = CommitGuard()
        self.given_up = False
        """Its requests were answered before it ended, and it will not be committed."""
        self.apps: dict[str, list[Request]] = {}
        """In the order of their names, so that two writers never wait for each other."""
        self.commits: dict[str, tuple[int, int, list[Entry]]] = {}
        """App → (first id, last id, entries), of the apps that have new entries."""
        self._now = int(time())
        by_app: dict[str, list[Request]] = {}
        for request in requests:
            by_app.setdefault(request.app, []).append(request)
        for app in sorted(by_app):
            self.apps[app] = by_app[app]

    @property
    def requests(self) -> list[Request]:
        """All requests."""
        return [request for some in self.apps.values() for request in some]

    def __call__(self, driver: LogDriver) -> None:
        self.commits = {}
        for app, requests in self.apps.items():
            part = AppTransaction(driver, app, self.batch, self._now)
            drafts = []
            for request in requests:
                if isinstance(request, ChangeRequest):
                    request.outcome = request.apply(part)
                elif request.rejected is None:
                    drafts.append(request)
            for request, outcome in zip(drafts, part.append(drafts), strict=True):
                request.outcome = outcome
            part.write()
            if part.entries:
                self.commits[app] = (part.before + 1, part.head.last_id, part.entries)


class _Total:
    """Number and size of the requests in several queues."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0


class _Queue:
    """Requests that wait; ``total`` counts them too. ``stale``: so many of them, from the left, have waited
    behind a transaction that does not end; they fail next."""

    __slots__ = ("bytes", "paused", "requests", "stale", "total")

    def __init__(self, total: _Total) -> None:
        self.requests: deque[Request] = deque()
        self.bytes = 0
        self.total = total
        self.paused = False
        self.stale = 0

    def push(self, request: Request) -> None:
        self.bytes += request.size
        self.total.requests += 1
        self.total.bytes += request.size
        self.requests.append(request)

    def pop(self) -> Request:
        request = self.requests.popleft()
        self.bytes -= request.size
        self.total.requests -= 1
        self.total.bytes -= request.size
        self.stale -= self.stale > 0
        return request


class LogWriter:
    """Owner of the requests that wait, and of the connection that stores them.

    ``connect`` opens the database (raises StorageUnavailable). ``seconds`` is the time for one statement.
    """

    def __init__(self, connect: Callable[[], WriterConnection], seconds: float) -> None:
        self.listener: LogListener | None = None
        self.seconds = seconds
        self._connect = connect
        self._connection: WriterConnection | None = None
        self._queues: dict[str, _Queue] = {}
        """The drafts that wait, by app: those that wait longest first."""
        self._drafts = _Total()
        """Those in all of these queues."""
        self._changes = _Queue(_Total())
        self._singles = _Queue(_Total())
        """Requests to be stored one by one, before all others."""
        self._current: WriteTransaction | None = None
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._closed = False

    # --- the queues -----------------------------------------------------------------------------------------

    def append(self, request: AppendRequest) -> None:
        """Store a draft. Never switches; ``request.answer`` gets the result."""
        queue, total = self._queues.get(request.app), self._drafts
        if self._closed:
            _answer(request, StorageUnavailable("the database is closed"))
            return
        if total.requests >= MAX_WAITING_IN_ALL or total.bytes + request.size > MAX_WAITING_BYTES_IN_ALL:
            _answer(request, StorageUnavailable("the append queues of all apps are full"))
            return
        if queue is None:
            queue = self._queues[request.app] = _Queue(total)
        elif len(queue.requests) >= MAX_WAITING or queue.bytes + request.size > MAX_WAITING_BYTES:
            _answer(request, StorageUnavailable("the append queue of the app is full"))
            return
        queue.push(request)
        if not queue.paused:
            self._wake()

    def change(self, request: ChangeRequest) -> None:
        """Make a change of a group. Never switches; ``request.answer`` gets the result."""
        if self._closed:
            _answer(request, StorageUnavailable("the database is closed"))
        else:
            self._changes.push(request)
            self._wake()

    def is_busy(self, app: str) -> bool:
        """Whether drafts of an app wait or are being stored. Never switches."""
        return app in self._queues or any(True for _ in self._underway(app))

    def senders(self, app: str) -> set[str]:
        """Whose drafts are being stored. Never switches."""
        return {request.draft.sender for request in self._underway(app)}

    def _underway(self, app: str) -> Iterable[AppendRequest]:
        current = self._current
        requests = () if current is None or current.given_up else current.apps.get(app, ())
        for request in (*requests, *self._singles.requests):
            if request.app == app and isinstance(request, AppendRequest):
                yield request

    def close(self) -> None:
        """Store what waits, as far as that goes, and take nothing more. Switches."""
        for queue in self._queues.values():
            queue.paused = False
        self._closed = True
        self._wake()
        if self._greenlet is not None:
            self._greenlet.join(_CLOSE_SECONDS)
            if self._greenlet is not None:
                self._greenlet.kill(block=False)
        closed = StorageUnavailable("the database is closed")
        if self._current is not None:
            self._give_up(self._current, closed)
        for queue in (self._singles, self._changes, *self._queues.values()):
            _refuse(queue, len(queue.requests), closed)
        try:
            if self._connection is not None:
                self._connection.close()
        except NotStored:
            log.debug("the log's connection is left open: it is still in use")

    # --- the greenlet ---------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            while requests := self._take():
                self._store(WriteTransaction(requests))
        finally:
            self._greenlet = None

    def _take(self) -> list[Request]:
        """What goes into the next transaction; nothing: nothing waits, but for apps that pause."""
        if self._singles.requests:
            return [self._singles.pop()]
        taken = [self._changes.pop() for _ in range(len(self._changes.requests))]
        drafts = size = 0
        for app in list(self._queues):
            if drafts >= BATCH_DRAFTS or size >= _BATCH_BYTES:
                break
            queue = self._queues[app]
            if queue.paused:
                continue
            del self._queues[app]
            while queue.requests and drafts < BATCH_DRAFTS and size < _BATCH_BYTES:
                request = queue.pop()
                taken.append(request)
                drafts += 1
                size += request.size + _REQUEST_BYTES
            if queue.requests:
                self._queues[app] = queue  # behind the others
        return taken

    def _store(self, transaction: WriteTransaction) -> None:
        self._current = transaction
        watches: list[gevent.Greenlet[..., None]] = []
        timer = gevent.get_hub().loop.timer(2 * self.seconds)
        timer.start(lambda: watches.append(gevent.spawn(self._watch, transaction)))
        began = perf_counter()
        try:
            self._write(transaction, began)
        except Exception:
            log.exception("the log could not be written")
            self._fail(transaction, StorageUnavailable("the log could not be written"))
        finally:
            self._current = None
            timer.stop()
            timer.close()
            gevent.killall(watches, block=False)

    def _write(self, transaction: WriteTransaction, began: float) -> None:
        if any(request.outcome is None for request in transaction.requests):
            try:
                if self._connection is None:
                    self._connection = self._connect()
            except StorageUnavailable as error:
                self._fail(transaction, error)
                return
            connection = self._connection
            try:
                connection.transact(transaction, transaction.guard, self.seconds)
            except NotStored as error:
                self._fail(transaction, connection.away(str(error)))
                return
            except RowRefused as error:
                if transaction.guard.take():
                    self._divide(transaction, str(error))
                return
            except Unsure as error:
                failure = connection.away(str(error))
                if not self._was_stored(connection, transaction):
                    self._fail(transaction, failure)
                    return
            connection.heard()
        self._finish(transaction, perf_counter() - began)

    def _finish(self, transaction: WriteTransaction, seconds: float) -> None:
        """Answer and deliver what was stored. Does not switch."""
        for app, requests in transaction.apps.items():
            for request in requests:
                assert request.outcome is not None
                _answer(request, request.outcome)
            if self.listener is None:
                continue
            try:
                if app in transaction.commits:
                    self.listener.committed(app, *transaction.commits[app])
                drafts = sum(isinstance(request, AppendRequest) for request in requests)
                if drafts:
                    self._pause(app, self.listener.batch_stored(app, drafts, seconds))
            except Exception:  # it is stored all the same
                log.exception("stored entries of %s could not be delivered", app)

    def _pause(self, app: str, seconds: float) -> None:
        if not seconds or self._closed:
            return
        queue = self._queues.get(app)
        if queue is None:
            queue = self._queues[app] = _Queue(self._drafts)
        queue.paused = True
        gevent.spawn_later(seconds, self._resume, app, queue)

    def _resume(self, app: str, queue: _Queue) -> None:
        queue.paused = False
        if queue.requests:
            self._wake()
        elif self._queues.get(app) is queue:
            del self._queues[app]

    def _was_stored(self, connection: WriterConnection, transaction: WriteTransaction) -> bool:
        """Find out, for as long as it takes: nothing may be delivered before earlier entries of the log."""
        if not transaction.commits:
            return True
        app, (first, _, _) = next(iter(transaction.commits.items()))

        def look(driver: LogDriver) -> bool:
            # Behind the lock: the transaction may still be ending somewhere.
            return driver.batch_of(driver.lock(app).number, first) == transaction.batch

        while True:
            try:
                return connection.ask(look, self.seconds)
            except (NotStored, RowRefused):
                gevent.sleep(_LOOK_SECONDS)

    def _divide(self, transaction: WriteTransaction, words: str) -> None:
        """The database refused a row: find it, so that the other requests do not fail with it."""
        requests = transaction.requests
        if len(requests) > 1:
            for request in requests:
                request.outcome = request.rejected
                self._singles.push(request)
            return
        log.error("the database refuses a row: %s", words)
        _answer(requests[0], Rejected(INVALID, "the database refuses it"))

    def _fail(self, transaction: WriteTransaction, error: StorageUnavailable) -> None:
        if not transaction.given_up:
            for request in transaction.requests:
                _answer(request, error)

    # --- what takes too long --------------------------------------------------------------------------------

    def _watch(self, transaction: WriteTransaction) -> None:
        """Greenlet: give up a transaction that does not end, then what waits behind it."""
        error: StorageUnavailable = StorageUnavailable(_LATE)
        if self._connection is not None:
            error = self._connection.away("no answer in time")
        if transaction.guard.take():
            self._fail(transaction, error)
            transaction.given_up = True
        else:
            gevent.sleep(self.seconds)
            self._answer_unsure(transaction)
        while True:
            waiting = (self._singles, self._changes, *self._queues.values())
            for queue in waiting:
                queue.stale = len(queue.requests)
            gevent.sleep(2 * self.seconds)
            for queue in waiting:
                _refuse(queue, queue.stale, error)

    def _give_up(self, transaction: WriteTransaction, error: StorageUnavailable) -> None:
        if transaction.guard.take():
            self._fail(transaction, error)
            transaction.given_up = True
        elif not transaction.given_up:
            self._answer_unsure(transaction)

    def _answer_unsure(self, transaction: WriteTransaction) -> None:
        for request in transaction.requests:
            if request.unsure is None:
                unsure = StorageUnsure(_LATE)
                _answer(request, unsure)
                request.unsure = unsure


def _refuse(queue: _Queue, count: int, error: StorageUnavailable) -> None:
    for _ in range(count):
        _answer(queue.pop(), error)


def _answer(request: Request, outcome: Outcome) -> None:
    """Tell a requester the result; one that was told StorageUnsure, through its ``on_known``."""
    try:
        if request.unsure is None:
            request.answer(outcome)  # type: ignore[arg-type]  # a change gets a Change, a draft an Appended
        elif request.unsure.on_known is not None:
            request.unsure.on_known(outcome)  # type: ignore[arg-type]
    except Exception:
        log.exception("a requester could not be answered")
