"""The append queue and the group commit: one transaction at a time stores all
waiting requests.

Drafts wait in the queue of their app. One greenlet takes the requests of all
queues, stores them in one transaction, and answers after the commit. Meanwhile
the queues fill again. The greenlet ends when the queues are empty.

- If an app has only a few drafts, they wait for the next drafts of the senders
  who were just answered. They wait at most as long as the last transaction
  took.
- An app whose messages go to many connections pauses after a batch, so that
  more of its messages share a write to each socket.
- A transaction that takes longer than twice ``seconds`` is given up. If COMMIT
  was not sent yet, it is forbidden (:class:`CommitGuard`), and the requests
  fail. If COMMIT was sent, the requests get a StorageUnsure after ``seconds``
  more, and later the final result. Requests that wait behind such a transaction
  fail after twice ``seconds``.
- If the answer to COMMIT is lost, the writer first looks up in the database
  whether the transaction was committed.
- If the database has lost entries that this node knows, the logs continue after
  the ids of these entries before anything else is written
  (:mod:`imserver.messenger.log.lost`).
- If the database refuses a row, the requests of that transaction are stored one
  by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Concatenate, Final, Protocol, TypeVar

import gevent
from gevent.event import AsyncResult
from msgspec import Struct, field

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.statements import (
    CommitGuard,
    DirectStatements,
    NotStored,
    RowRefused,
    Unsure,
)
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Change,
    Commit,
    Draft,
    Rejected,
    RejectReason,
    StorageUnsure,
    Stored,
)
from imserver.messenger.log.lost import EntriesLost, move_on
from imserver.messenger.log.rows import P, T, objection, resend_of
from imserver.messenger.log.transaction import (
    AppTransaction,
    ChangeRequest,
    Outcome,
    Request,
    WriterMemory,
    WriteTransaction,
    batch_of,
    lock_head,
)
from imserver.plugin.storage import Store

if TYPE_CHECKING:
    from imserver.gateway.storage.database import WriterConnection
    from imserver.gateway.transport.connection import Connection

log = logging.getLogger(__name__)

Writing = TypeVar("Writing", bound="WritingPart")

MAX_WAITING: Final = 50_000
"""The most waiting drafts of one app. Further drafts are refused
temporarily."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""The most bytes in the contents of the waiting drafts of one app."""
MAX_WAITING_IN_ALL: Final = 100_000
"""The most waiting drafts of all apps together. Further drafts are refused
temporarily."""
MAX_WAITING_BYTES_IN_ALL: Final = 128 * 1024 * 1024
"""The most bytes in the contents of the waiting drafts of all apps together."""
BATCH_DRAFTS: Final = 2000
"""The most drafts in one transaction."""
BATCH_CHANGES: Final = 50
"""The most changes in one transaction. Each change needs several statements,
and the drafts wait for them."""
_BATCH_BYTES: Final = 8 << 20
_REQUEST_BYTES: Final = 200
"""The size of a batch counts this number of bytes for each draft, in addition
to its content."""
_GROUP: Final = 4
"""If an app has at least this number of simultaneous senders, drafts wait for
others. With fewer senders, the next transaction begins at once. Decision 0043
has figures."""
_ENOUGH: Final = 12
"""If this number of drafts is there, they do not wait for more. Measured: 16
senders in a closed loop cost 0.84 of the CPU. 8,000 drafts a second cost 0.73,
and are answered after 2.1 instead of 1.6 ms."""
_LOST: Final = (
    "the database has lost entries of %s: its log ends with %d, but %d was stored. Ids continue after %d; "
    "clients that have lost entries begin anew"
)
_LATE: Final = "the database does not answer: no answer in time"
_MOST_GATHER_SECONDS: Final = 0.004
"""The longest time for which a few drafts wait for others."""
_CLOSE_SECONDS: Final = 5.0
"""Time in which the waiting requests must be stored when the log is closed."""
_RETRY_SECONDS: Final = 0.5
"""Time between two attempts to reach a database that does not answer."""


class LogListener(Protocol):
    """Receives the stored entries. A layer above the log implements it. Must
    not switch greenlets."""

    def committed(self, commit: Commit) -> None:
        """Deliver the entries that a transaction has stored in one app.

        This is called once for each transaction and app, in commit order, after
        the requests were answered.
        """

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """Learn that a transaction with ``drafts`` drafts of an app took
        ``seconds``, without delivery.

        Returns the time in seconds for which the next drafts of the app wait
        for each other, or 0 if they do not wait.
        """


class _Total(Struct):
    """The number of waiting requests in several queues, and their bytes."""

    requests: int = 0
    bytes: int = 0


class _Queue(Struct, eq=False):
    """Waiting requests: the drafts of an app, or all requests of another
    kind."""

    total: _Total
    """The totals of all queues that share this object."""
    requests: deque[Request] = field(default_factory=deque)
    bytes: int = 0
    paused: bool = False
    """Whether the requests wait for more requests. A pause ends by a timer, or
    when the queue has ``enough`` requests."""
    enough: float = inf
    stale: int = 0
    """The number of requests at the beginning of the queue that have waited
    long behind a transaction that does not end. These requests fail next."""

    def push(self, request: Request) -> None:
        """Add a request at the end of the queue."""
        self.bytes += request.size
        self.total.requests += 1
        self.total.bytes += request.size
        self.requests.append(request)

    def take(self, count: int, size: float = inf) -> tuple[list[Request], int]:
        """Remove the next requests of the queue, for one transaction.

        Takes at most ``count`` requests, and stops when ``size`` bytes are
        reached. The last request may exceed this size. Returns the requests and
        their size in bytes. In this size, each request costs
        :data:`_REQUEST_BYTES` more than its content, so that many tiny drafts
        do not seem to be free.
        """
        batch: list[Request] = []
        content = 0
        while (
            self.requests
            and len(batch) < count
            and content + len(batch) * _REQUEST_BYTES < size
        ):
            request = self.requests.popleft()
            batch.append(request)
            content += request.size
        # The queue and the totals count only the bytes of contents.
        self.bytes -= content
        self.total.requests -= len(batch)
        self.total.bytes -= content
        self.stale = max(0, self.stale - len(batch))
        return batch, content + len(batch) * _REQUEST_BYTES


class LogWriter:
    """Stores the requests of all apps, one transaction at a time.

    It owns the append queues, in which drafts wait, and the one database
    connection that writes the log. ``connect`` opens this connection, and may
    raise StorageUnavailable. ``seconds`` is the time limit of one statement.
    """

    def __init__(self, connect: Callable[[], WriterConnection], seconds: float) -> None:
        """Prepare empty queues. The database is opened by the first
        transaction."""
        self._listener: LogListener | None = None
        self.seconds = seconds
        self._connect = connect
        self.connection: WriterConnection | None = None
        """None until the first transaction that needs the database. Only the
        writer uses this connection."""

        self._queues: dict[str, _Queue] = {}
        """Waiting drafts by app. The app that has waited longest comes
        first."""
        self._drafts = _Total()
        """The totals over the queues of all apps."""
        self._changes = _Queue(_Total())
        self._singles = _Queue(_Total())
        """Requests to store one by one, before all others."""

        self._current: WriteTransaction | None = None
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._closed = False
        self._memory = WriterMemory()

        self._reports: list[Callable[[Commit], object]] = []
        """See :meth:`report_commits_to`."""
        self.known: dict[str, int] = {}
        """App → the greatest id that is known to be stored, by any node.
        Read-only outside this class."""
        self.losses = 0
        """How often this node has found that the database had lost entries."""

    def report_to(self, listener: LogListener) -> None:
        """Call this listener with the entries of each later transaction."""
        self._listener = listener

    # --- queues ---------------------------------------------------------------

    def send(self, request: AppendRequest) -> None:
        """Put a draft into the queue of its app. Never switches greenlets or
        raises.

        The request gets its result later, through its ``done`` or ``owner``. If
        a queue is full, or the writer is closed, the request gets
        StorageUnavailable at once. A client may send the same ``client_msg_id``
        again, and always gets the same entry.
        """
        app = request.app
        draft = request.draft
        error = objection(draft)
        client_msg_id = draft.client_msg_id
        if error:
            # The rejected draft waits in the queue nevertheless, so that
            # results keep their order.
            rejected = Rejected(RejectReason.INVALID, error)
            request.rejected = rejected
            request.outcome = rejected
        elif client_msg_id:
            request.resend = resend_of(draft.sender, client_msg_id)
        # Refuse the draft if a limit is reached. The limits for all apps
        # together come first.
        size = len(draft.body) + len(draft.meta)
        request.size = size

        queue = self._queues.get(app)
        total = self._drafts
        if self._closed:
            _answer(request, StorageUnavailable("the database is closed"))
            return
        if (
            total.requests >= MAX_WAITING_IN_ALL
            or total.bytes + size > MAX_WAITING_BYTES_IN_ALL
        ):
            _answer(
                request, StorageUnavailable("the append queues of all apps are full")
            )
            return
        if queue is None:
            queue = _Queue(total)
            self._queues[app] = queue
        elif (
            len(queue.requests) >= MAX_WAITING or queue.bytes + size > MAX_WAITING_BYTES
        ):
            _answer(request, StorageUnavailable("the append queue of the app is full"))
            return

        # A paused queue waits until its timer ends, or until the queue has
        # enough drafts.
        queue.push(request)
        if queue.paused and len(queue.requests) >= queue.enough:
            self._resume(app, queue)
        elif self._greenlet is None and not queue.paused:
            self._wake()

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Stored]:
        """Store drafts in order, and return their results after the commit.

        Switches greenlets. A rejected draft does not affect the others. If no
        draft was stored, and at least one failed because of the database, the
        first such error is raised: StorageUnavailable, or StorageUnsure if the
        result is unknown.
        """
        waiting: list[AsyncResult[Stored]] = [AsyncResult() for _ in drafts]
        for draft, answer in zip(drafts, waiting, strict=True):
            self.send(AppendRequest(app, draft, answer.set))
        results: list[Stored] = []
        for answer in waiting:
            result = answer.get()
            if result is not None:
                results.append(result)
        errors = [
            result for result in results if isinstance(result, StorageUnavailable)
        ]
        # The caller learns of an error of the database only if nothing was
        # stored.
        if errors and not any(isinstance(result, Appended) for result in results):
            raise errors[0]
        return results

    def change(
        self, app: str, work: Callable[[AppTransaction], Change | Rejected]
    ) -> Change | Rejected:
        """Make a change that is not a draft, and return its result after the
        commit.

        ``work`` makes the change inside the transaction. It may run in another
        thread, and again after a failure. Switches greenlets. Raises the same
        errors as :meth:`append`.
        """
        if self._closed:
            raise StorageUnavailable("the database is closed")
        # The greenlet of the caller waits for this result.
        result: AsyncResult[Outcome] = AsyncResult()
        self._changes.push(ChangeRequest(app, work, result.set))
        self._wake()
        outcome = result.get()
        if isinstance(outcome, StorageUnavailable):
            raise outcome
        assert isinstance(outcome, Change | Rejected)
        return outcome

    def run(self, app: str, work: Callable[[AppTransaction], T]) -> T:
        """Do ``work`` in a transaction, and return its result after the commit.

        Switches greenlets. Raises the same errors as :meth:`append`. Also
        raises StorageUnavailable if the database refuses a row.
        """
        results: list[T] = []

        def change(transaction: AppTransaction) -> Change:
            # The transaction may run again, and only the last result counts.
            results[:] = [work(transaction)]
            return Change(conversation=0)

        outcome = self.change(app, change)
        if isinstance(outcome, Rejected):
            raise StorageUnavailable(outcome.detail)
        return results[0]

    def begin_uplink(self, app: str, user: str, session: int) -> int:
        """Make this session the only one of a user that may send drafts.

        The change concerns only drafts that name an *uplink session*. No other
        session may send such drafts of the user. Returns the last id of the log
        at this moment. Drafts of the user's older sessions are stored at or
        before this id, or never.

        ``session`` is a number that no session of the app ever had. Switches
        greenlets. Raises the same errors as :meth:`append`. After an error, the
        client must log in again.
        """

        def work(transaction: AppTransaction) -> int:
            transaction.uplink_sessions[user] = session
            return transaction.before

        return self.run(app, work)

    def report_commits_to(self, stored: Callable[[Commit], object]) -> None:
        """Call ``stored`` from now on with each commit of this node.

        The calls come in commit order, before the senders get their results.
        ``stored`` must not switch greenlets. So the caller need not read the
        log. If ``stored`` raises an error, or is added late, the caller finds
        the missing entries in the log.
        """
        self._reports.append(stored)

    def learn(self, app: str, id: int) -> None:
        """Remember that this id of an app's log is stored, perhaps by another
        node.

        The writer finds lost entries by comparing the log with the greatest
        known id. Never switches greenlets.
        """
        if id > self.known.get(app, 0):
            self.known[app] = id

    def check(self, app: str) -> int:
        """Return the last id of an app's log, after a check for lost entries.

        If the database has lost entries that this node knows, the log continues
        beyond the known ids. Switches greenlets. Raises the same errors as
        :meth:`append`.
        """

        def last_id(transaction: AppTransaction) -> int:
            # If entries were lost, the log was moved beyond them before this
            # function runs.
            return transaction.before

        return self.run(app, last_id)

    def is_busy(self, app: str) -> bool:
        """Tell whether drafts of an app are waiting or being stored.

        Never switches greenlets.
        """
        return app in self._queues or any(True for _ in self._drafts_underway(app))

    def senders(self, app: str) -> set[str]:
        """Return the senders of an app whose drafts are being stored.

        Drafts in the queue of the app do not count. Never switches greenlets.
        """
        return {request.draft.sender for request in self._drafts_underway(app)}

    def stores_for(self, app: str, connection: Connection) -> bool:
        """Tell whether a draft of this connection is being stored.

        Never switches greenlets.
        """
        return any(
            request.connection is connection for request in self._drafts_underway(app)
        )

    def _drafts_underway(self, app: str) -> Iterable[AppendRequest]:
        """Yield the drafts of an app that have left its queue and have no
        result yet.

        These drafts are in the current transaction, or were in a refused
        transaction and will be stored one by one.
        """
        current = self._current
        requests: Sequence[Request] = ()
        # A transaction that was given up has answered its requests already.
        if current is not None and not current.given_up:
            requests = current.apps.get(app, ())
        for request in (*requests, *self._singles.requests):
            if request.app == app and isinstance(request, AppendRequest):
                yield request

    def close(self) -> None:
        """Store the waiting drafts, and refuse new requests. Switches
        greenlets.

        After :data:`_CLOSE_SECONDS`, drafts that are still waiting fail.
        """
        # The waiting drafts are stored now, without a pause.
        for queue in self._queues.values():
            queue.paused = False
        self._closed = True
        self._wake()
        self._end_greenlet()
        # Now the time is over, or all drafts were stored.
        closed = StorageUnavailable("the database is closed")
        if self._current is not None:
            self._give_up(self._current, closed)
        for queue in (self._singles, self._changes, *self._queues.values()):
            _refuse(queue, len(queue.requests), closed)

        try:
            if self.connection is not None:
                self.connection.close()
        except NotStored:
            log.debug("the log's connection stays open: it is in use")

    def _end_greenlet(self) -> None:
        """Wait until the greenlet has stored all drafts, then end it.

        The greenlet sets ``_greenlet`` to None when it ends by itself.
        """
        if self._greenlet is not None:
            self._greenlet.join(_CLOSE_SECONDS)
            if self._greenlet is not None:
                self._greenlet.kill(block=False)

    # --- greenlet -------------------------------------------------------------

    def _wake(self) -> None:
        """Start the greenlet that stores requests, unless it runs already."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        """Store requests until no queue has a request that may be taken."""
        try:
            while apps := self._take():
                self._store(WriteTransaction(apps, self._memory, self.known))
        finally:
            self._greenlet = None

    def _take(self) -> dict[str, list[Request]]:
        """Take the requests of the next transaction from their queues.

        Returns app → requests. The result is empty if there are no requests, or
        if all requests are in queues that pause.
        """
        # After a refused transaction, each request is stored alone. So only the
        # request with the invalid row fails.
        if self._singles.requests:
            (single,), _ = self._singles.take(count=1)
            return {single.app: [single]}
        batch: dict[str, list[Request]] = {}
        changes, _ = self._changes.take(BATCH_CHANGES)
        for change in changes:
            batch.setdefault(change.app, []).append(change)

        # The rest of the batch is for drafts. The app that has waited longest
        # comes first, and goes to the end if drafts remain.
        drafts = 0
        size = 0
        for app in list(self._queues):
            if drafts >= BATCH_DRAFTS or size >= _BATCH_BYTES:
                break
            queue = self._queues[app]
            if queue.paused:
                continue
            del self._queues[app]
            requests, requests_size = queue.take(
                BATCH_DRAFTS - drafts, _BATCH_BYTES - size
            )
            if requests:
                batch.setdefault(app, []).extend(requests)
            drafts += len(requests)
            size += requests_size
            if queue.requests:
                self._queues[app] = queue  # now at the end
        return batch

    def _store(self, transaction: WriteTransaction) -> None:
        """Run a transaction and answer its requests.

        After twice ``seconds``, a timer starts :meth:`_watch`, which gives the
        transaction up. The requests are also answered after an unexpected
        error.
        """
        self._current = transaction
        watches: list[gevent.Greenlet[..., None]] = []
        timer = gevent.get_hub().loop.timer(2 * self.seconds)
        try:
            if self._open_database_for(transaction):

                def begin_watch() -> None:
                    watches.append(gevent.spawn(self._watch, transaction))

                timer.start(begin_watch)
                self._write(transaction, perf_counter())
        except Exception:
            log.exception("the log could not be written")
            self._fail(transaction, StorageUnavailable("the log could not be written"))
        finally:
            self._current = None
            timer.stop()
            timer.close()
            gevent.killall(watches, block=False)

    def _open_database_for(self, transaction: WriteTransaction) -> bool:
        """Open the database for the first transaction that needs it.

        Returns False if the database could not be opened. The requests were
        then answered with the error. The time does not count as time of the
        transaction, because creating a database takes long if the disk or the
        processor is busy.
        """
        if self.connection is not None or not transaction.is_undecided:
            return True
        try:
            self.connection = self._connect()
        except StorageUnavailable as error:
            self._fail(transaction, error)
            return False
        return True

    def _write(self, transaction: WriteTransaction, began: float) -> None:
        """Run a transaction, and answer its requests with the result.

        If all requests of the transaction already have an outcome, the database
        is not needed. ``began`` is the value of :func:`perf_counter` at the
        start. There are three failures:

        - NotStored: nothing was written, so all requests fail.
        - RowRefused: one row was invalid, so the requests are stored one by
          one.
        - Unsure: the answer to COMMIT was lost, so the database is asked.
        """
        connection = self.connection
        if connection is not None and transaction.is_undecided:
            try:
                self._transact(connection, transaction)
            except NotStored as error:
                self._fail(transaction, connection.failed(str(error), error.__cause__))
                return
            except RowRefused as error:
                # If the guard was taken before, the transaction was given up,
                # and its requests were answered.
                if transaction.guard.take():
                    self._store_one_by_one(transaction, str(error))
                return
            except Unsure as error:
                failure = connection.failed(str(error), error.__cause__)
                if not self._was_stored(connection, transaction):
                    self._fail(transaction, failure)
                    return
            connection.answered(wrote=bool(transaction.commits))
        self._finish(transaction, perf_counter() - began)

    def _transact(
        self, connection: WriterConnection, transaction: WriteTransaction
    ) -> None:
        """Run a transaction, again if entries were lost.

        If the database has lost entries that this node knows, the logs are
        first moved beyond them. Then the transaction runs again. Raises
        NotStored, Unsure or RowRefused.
        """
        while True:
            try:
                connection.transact(transaction, transaction.guard, self.seconds)
                return
            except EntriesLost:
                try:
                    # The logs are moved in a transaction of its own, so that
                    # the loss is recorded even if the requests fail.
                    lost = connection.transact(
                        partial(move_on, dict(self.known)), CommitGuard(), self.seconds
                    )
                # The requests themselves were certainly not stored.
                except (Unsure, RowRefused) as error:
                    raise NotStored(str(error)) from error
            for app, gap in lost.items():
                if gap.first <= self.known.get(app, 0):
                    log.error(_LOST, app, gap.first - 1, self.known[app], gap.last + 1)
            self.losses += bool(lost)

    def _finish(self, transaction: WriteTransaction, seconds: float) -> None:
        """Answer the requests of a committed transaction, and deliver its
        entries.

        ``seconds`` is the time that the transaction took. After the delivery,
        the queue of each app may pause, so that more drafts share a
        transaction. Never switches greenlets.
        """
        for commit in transaction.commits.values():
            self.learn(commit.app, commit.last)
            self._report(commit)
        # Senders are answered before the entries are delivered.
        for app, requests in transaction.apps.items():
            for request in requests:
                assert request.outcome is not None
                _answer(request, request.outcome)
            drafts = sum([isinstance(request, AppendRequest) for request in requests])
            pause = 0.0  # in seconds; 0 means no pause
            if self._listener is not None:
                try:
                    if app in transaction.commits:
                        self._listener.committed(transaction.commits[app])
                    if drafts:
                        pause = self._listener.batch_stored(app, drafts, seconds)
                except Exception:
                    # The entries are stored, so the error must not fail the
                    # requests.
                    log.exception("stored entries of %s could not be delivered", app)

            queue = self._queues.get(app)
            waiting = 0
            if queue is not None:
                waiting = len(queue.requests)
            if pause:
                self._pause(app, pause)
            elif drafts and 0 < waiting < _ENOUGH and waiting + drafts >= _GROUP:
                # The senders that were just answered will send again. Without
                # this pause, two groups of senders would take turns, with a
                # transaction for each group.
                gather_seconds = min(seconds, _MOST_GATHER_SECONDS)
                self._pause(app, gather_seconds, enough=waiting + drafts)

    def _report(self, commit: Commit) -> None:
        """Call the functions of :meth:`report_commits_to` with a commit."""
        for stored in self._reports:
            try:
                stored(commit)
            except Exception:
                # The entries are stored, so the senders get their results
                # nevertheless.
                log.exception("stored entries of %s could not be reported", commit.app)

    def _pause(self, app: str, seconds: float, enough: float = inf) -> None:
        """Let the next drafts of an app wait for more drafts.

        The pause ends after ``seconds``, or when ``enough`` drafts wait.
        """
        if self._closed:
            return
        queue = self._queues.get(app)
        # The queue of an app exists only while it has drafts or pauses.
        if queue is None:
            queue = _Queue(self._drafts)
            self._queues[app] = queue
        queue.paused = True
        queue.enough = enough
        gevent.spawn_later(seconds, self._resume, app, queue)

    def _resume(self, app: str, queue: _Queue) -> None:
        """End the pause of an app's queue.

        This is called by a timer, or when enough drafts wait. The timer of an
        earlier pause may end a later pause early, which does no harm.
        """
        queue.paused = False
        if queue.requests:
            self._wake()
        elif self._queues.get(app) is queue:
            del self._queues[app]

    def _was_stored(
        self, connection: WriterConnection, transaction: WriteTransaction
    ) -> bool:
        """Find out whether a transaction was committed, if the answer to its
        COMMIT was lost.

        Each entry is stored with the random number of its transaction, so one
        row shows the result. The method waits until the database answers,
        because later entries of the log must not be delivered before the
        entries of this transaction.
        """
        if not transaction.commits:
            # No row shows whether a session has begun, or a vote was stored.
            # The client logs in again, or votes again, which is always safe.
            # Without such changes, the transaction has changed nothing.
            return not transaction.is_unseen
        # All logs are committed together, so one entry shows the result.
        commit = next(iter(transaction.commits.values()))

        def look(sql: DirectStatements) -> bool:
            """Compare the stored number of the transaction with its own
            number."""
            # The lock waits for the end of the transaction, which may still be
            # running on the server.
            head = lock_head(sql, commit.app)
            batch = batch_of(sql, head.number, commit.first)
            return batch == transaction.batch

        while True:
            try:
                return connection.ask(look, self.seconds)
            except (NotStored, RowRefused):
                gevent.sleep(_RETRY_SECONDS)

    def _store_one_by_one(self, transaction: WriteTransaction, words: str) -> None:
        """Queue the requests of a refused transaction again, to be stored one
        by one.

        The database has refused a row without saying to which request it
        belongs. If the requests are stored one by one, only the request with
        the invalid row fails. If the transaction had a single request, this is
        the request that fails. ``words`` is the error of the database.
        """
        requests = transaction.requests
        if len(requests) > 1:
            for request in requests:
                # Drafts that were rejected before the transaction stay
                # rejected.
                request.outcome = request.rejected
                self._singles.push(request)
            return
        log.error("the database refuses a row: %s", words)
        _answer(requests[0], Rejected(RejectReason.INVALID, "the database refuses it"))

    def _fail(self, transaction: WriteTransaction, error: StorageUnavailable) -> None:
        """Answer all requests of a transaction with an error.

        A transaction that was given up has answered its requests already.
        """
        if not transaction.given_up:
            for request in transaction.requests:
                _answer(request, error)

    # --- time limits ----------------------------------------------------------

    def _watch(self, transaction: WriteTransaction) -> None:
        """Give up a transaction that has not ended in time.

        Then the requests that wait behind this transaction fail, until it ends
        and kills this greenlet.
        """
        error: StorageUnavailable = StorageUnavailable(_LATE)
        if self.connection is not None:
            error = self.connection.failed("no answer in time")
        # If the guard can be taken, COMMIT was not sent, and is now forbidden.
        if transaction.guard.take():
            self._fail(transaction, error)
            transaction.given_up = True
        else:
            gevent.sleep(self.seconds)
            self._answer_unsure(transaction)
        while True:
            self._refuse_stale(error)

    def _refuse_stale(self, error: StorageUnavailable) -> None:
        """Wait for twice ``seconds``, and refuse the requests that have waited
        all this time."""
        waiting = (self._singles, self._changes, *self._queues.values())
        for queue in waiting:
            # If requests are taken meanwhile, take() subtracts their number.
            queue.stale = len(queue.requests)
        gevent.sleep(2 * self.seconds)
        for queue in waiting:
            _refuse(queue, queue.stale, error)

    def _give_up(
        self, transaction: WriteTransaction, error: StorageUnavailable
    ) -> None:
        """End a transaction that still runs while the log is closed.

        If COMMIT was not sent, it is forbidden, and the requests fail.
        Otherwise the requests are answered that the result is unknown.
        """
        # The guard can be taken once. Taking it here forbids the COMMIT.
        if transaction.guard.take():
            self._fail(transaction, error)
            transaction.given_up = True
        elif not transaction.given_up:
            self._answer_unsure(transaction)

    def _answer_unsure(self, transaction: WriteTransaction) -> None:
        """Answer all requests that their result is unknown.

        Each request gets the final result later, through its StorageUnsure.
        """
        for request in transaction.requests:
            # A request that already has this answer must not get it twice.
            if request.unsure is None:
                unsure = StorageUnsure(_LATE)
                _answer(request, unsure)
                request.unsure = unsure


def _refuse(queue: _Queue, count: int, error: StorageUnavailable) -> None:
    """Take the next ``count`` requests of a queue, and answer them with an
    error."""
    requests, _ = queue.take(count)
    for request in requests:
        _answer(request, error)


def _answer(request: Request, outcome: Outcome) -> None:
    """Pass an outcome to the function that waits for it.

    If the request has an owner, the owner gets the request and the outcome.
    Otherwise the callback of the request gets the outcome. Never switches
    greenlets or raises.
    """
    try:
        if request.owner is not None:
            request.owner.stored(request, outcome)  # type: ignore[arg-type]  # a draft gets an Appended
            return
        callback: Callable[[Any], object] | None
        if request.unsure is None:
            callback = request.done
        else:
            # The first answer was that the result is unknown. This is the
            # final result.
            callback = request.unsure.on_known
        if callback is not None:
            callback(outcome)  # type: ignore[arg-type]  # a change gets a Change
    # If one requester raises an error, the writer must go on.
    except Exception:
        log.exception("a requester could not be answered")


class WritingPart(Store.Rows):
    """A part of the log that reads its tables, and changes them through the
    writer."""

    def __init__(self, writer: LogWriter, store: Store) -> None:
        """Take the writer of the log."""
        super().__init__(store)
        self._writer = writer


def in_transaction(
    work: Callable[Concatenate[Writing, AppTransaction, P], Change | Rejected],
) -> Callable[Concatenate[Writing, str, P], Change | Rejected]:
    """Turn a method that works in a transaction into a method for callers
    outside.

    The method takes an AppTransaction as its first argument. Callers pass the
    name of the app in its place. The result is returned after the commit
    (:meth:`LogWriter.change`).
    """

    @wraps(work)
    def method(
        part: Writing, app: str, /, *args: P.args, **values: P.kwargs
    ) -> Change | Rejected:
        def change(transaction: AppTransaction) -> Change | Rejected:
            return work(part, transaction, *args, **values)

        return part._writer.change(app, change)

    return method
