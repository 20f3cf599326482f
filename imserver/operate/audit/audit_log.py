"""The audit log of a node: acts wait for a group commit.

A *group commit* stores all waiting acts in one transaction. If it fails, the
acts are written as lines to the server's log.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct

from imserver.operate.audit.acts import entry_of, line_of
from imserver.operate.audit.chain import AuditRow, Name
from imserver.operate.audit.declared import AuditSettings
from imserver.operate.audit.rows import (
    NO_ACTS,
    ActBatch,
    AuditQuery,
    NewAct,
    append,
    lines_of,
    remove_before,
    search,
    store_act,
)
from imserver.plugin import Parts
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.identity import Act, Needs, Observer, Principal
from imserver.plugin.runtime import every, retry_pause
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import ArchivedFiles, PooledStatements, Store

log = logging.getLogger(__name__)
lines = logging.getLogger("imserver.audit")

WAIT_SECONDS: Final = 5.0
"""How long a request waits for the database to store its act. Then it is
answered, and the act stays in the queue."""
LAST_SECONDS: Final = 5.0
"""Time limit for storing the waiting acts when the node ends."""
MOST_WAITING: Final = 10_000
_DAY_MS: Final = 86_400_000
_BATCH_ACTS: Final = 200
_MIN_PAUSE_SECONDS: Final = 0.25
_MAX_PAUSE_SECONDS: Final = 5.0
_EXPIRY_SECONDS: Final = 600.0
"""How often old acts are removed."""


class _Waiting(Struct):
    """An act that waits for the database.

    ``new`` is the act in the form in which it is stored. ``stored`` is set when
    it is stored. ``is_logged`` says that it was also written to the server's
    log, because the database did not store it in time.
    """

    act: Act
    new: NewAct
    stored: Flag
    is_logged: bool = False


class AuditLog(Observer, ArchivedFiles):
    """Appends acts to the chain in the database.

    It owns the acts that wait for the database. ``days`` says after how many
    days an act is removed; 0 means never.
    """

    finds: Final = "request"
    """The type of things that :meth:`find` finds."""

    def __init__(self, store: Store, days: int) -> None:
        """Begin without acts that wait."""
        self._store = store
        self._days = days
        self._queue: deque[_Waiting] = deque()
        self._fails = False
        """Whether the last attempt to store acts has failed."""
        self._writer: gevent.Greenlet[[], None] | None = None
        self.stored = 0
        self.logged = 0
        """The number of acts that are only lines in the server's log, since the
        start of the node."""

    @property
    def waiting(self) -> int:
        """The number of acts that wait for the database."""
        return len(self._queue)

    def acted(self, act: Act) -> None:
        """Store an act that was done: somebody has changed something.

        Returns when the act is stored, or after :data:`WAIT_SECONDS`. Returns
        at once for an act of a node, and while the database fails. An act that
        is not stored in time becomes a line in the server's log, and is stored
        later.
        """
        try:
            if not self._store.has_database or len(self._queue) >= MOST_WAITING:
                # A node writes its own acts to the log anyway.
                if act.by.kind != "node":
                    self._write_line(act)
                return
            waiting = self._put_in_queue(act)
            # While the database fails, waiting would only delay the answer.
            is_late = self._fails
            if not is_late and act.by.kind != "node":
                is_late = not waiting.stored.wait(WAIT_SECONDS)
            if is_late:
                self._log_once(waiting)
        # The act is done already. So an error here must not become the answer.
        except Exception:
            log.exception("the act %s is missing in the audit log", act.name)

    def _put_in_queue(self, act: Act) -> _Waiting:
        """Let the writer store an act, and start the writer if there is none."""
        new = NewAct(*entry_of(act), done_at=monotonic())
        waiting = _Waiting(act, new, Flag())
        self._queue.append(waiting)
        if self._writer is None:
            self._writer = gevent.spawn(self._write)
        return waiting

    def _log_once(self, waiting: _Waiting) -> None:
        """Write an act to the server's log, unless it is there already."""
        if not waiting.is_logged:
            waiting.is_logged = True
            self._write_line(waiting.act)

    def _write_line(self, act: Act) -> None:
        """Write an act to the server's log, as JSON under ``imserver.audit``."""
        self.logged += 1
        lines.info("%s", line_of(act).decode())

    @staticmethod
    def add(sql: PooledStatements, act: Act) -> int:
        """Append an act in the transaction that carries it out, and return its
        number.

        So either both are stored or neither. Raises ImserverError.
        """
        batch = ActBatch([NewAct(*entry_of(act), done_at=monotonic())])
        append(batch, sql)
        return batch.number

    def newest(
        self, app: str, name: str, about: str
    ) -> tuple[AuditRow, list[Name]] | None:
        """The newest act with this name in an app about a thing such as
        ``message:7``.

        It is in its hashed form, with the names that were not erased. None if
        no act fits. Switches greenlets. Raises StorageUnavailable.
        """
        query = AuditQuery(app=app, name=name, about=about, limit=1)
        acts, _ = self._store.read_or((NO_ACTS, 0), partial(search, query))
        if not acts:
            return None
        return acts[0]

    # --- greenlets ------------------------------------------------------------

    def _write(self) -> None:
        """Greenlet: store the waiting acts, and end when all are stored."""
        try:
            while self._queue:
                # One greenlet writes, so the acts keep their order.
                batch = list(islice(self._queue, _BATCH_ACTS))
                self._store_batch(batch)
                # Acts leave the queue only when they are stored, so that
                # :meth:`stop` finds all others.
                for waiting in batch:
                    self._queue.popleft()
                    waiting.stored.set()
        finally:
            self._writer = None

    def _store_batch(self, waiting: list[_Waiting]) -> None:
        """Store acts, and try again until the database answers.

        An act that the database refuses becomes a line in the server's log.
        """
        batch = ActBatch([each.new for each in waiting])
        failures = 0
        while True:
            try:
                self._store.write(partial(append, batch))
                self.stored += len(waiting)
                self._fails = False
                return
            except StorageUnavailable:
                self._fails = True
                # Requests do not wait for these acts any more.
                for each in waiting:
                    self._log_once(each)
                failures += 1
                pause = retry_pause(failures, _MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
                gevent.sleep(pause)
            except Exception as error:
                self._store_alone(waiting, error)
                return

    def _store_alone(self, waiting: list[_Waiting], error: Exception) -> None:
        """Store each of the acts alone, because the database refuses one.

        All other acts are stored then. If ``waiting`` has only one act, the
        database has refused this act. The act then becomes a line in the
        server's log, with the error of the database.
        """
        if len(waiting) == 1:
            (refused,) = waiting
            log.error(
                "the act %s cannot be stored in the audit log",
                refused.act.name,
                exc_info=error,
            )
            self._log_once(refused)
            return
        for each in waiting:
            self._store_batch([each])

    def expire(self) -> None:
        """Remove acts that are older than the configured number of days.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not self._days:
            return
        remove = partial(remove_before, self._days * _DAY_MS)
        # Each transaction removes some of the acts. The last one finds none.
        while self._store.write_or(0, remove):
            pass

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """The acts of the request with this id, for the search of operators.

        Each is a tuple: id of the request, app, label (the id again), and the
        name of the act as detail. ``apps`` are the apps that the principal
        reaches.
        """
        if not principal.may(Needs.OPERATE):
            return
        query = AuditQuery(request=text, limit=limit)
        acts, _ = self._store.read_or((NO_ACTS, 0), partial(search, query))
        for row, _ in acts:
            app = row.entry.app
            # Only a principal for all apps (None) sees acts that belong to no
            # app.
            if principal.apps is None or app in apps:
                yield text, app, text, row.entry.name

    def stop(self) -> None:
        """Store the waiting acts before the node ends.

        After :data:`LAST_SECONDS`, write the acts that still wait to the
        server's log.
        """
        if self._writer is not None:
            self._writer.join(LAST_SECONDS)
        for waiting in self._queue:
            self._log_once(waiting)

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """The acts of an app or a user, as a file of an archive.

        Yields (name, size, content), at most once. If ``app`` is empty, the
        archive is the backup of the whole server. It has the acts in its
        tables, and needs no file.
        """
        if app:
            # The size is not known before all acts were read.
            unknown_size = 0
            yield "audit.jsonl", unknown_size, lines_of(self._store, app, user)


class CommandAudit(AuditLog):
    """The audit log in a command, which stores each act at once."""

    def acted(self, act: Act) -> None:
        """Append the act now. Raises StorageUnavailable."""
        store_act(self._store, act)


@contextmanager
def offline(
    _config: Config, store: Store, _tenants: object
) -> Iterator[tuple[AuditLog]]:
    """Build the audit log for a command that runs without a server.

    It removes no old acts: the setting for their age is for servers.
    """
    yield (CommandAudit(store, days=0),)


def answers(base: Core) -> tuple[object, ...]:
    """Build the audit log, which observes acts."""
    return (AuditLog(base.store, settings_of(base.config, AuditSettings).days),)


def build(core: Core) -> Parts:
    """Connect the audit log to the core."""
    audit = core.service(AuditLog)
    if not core.store.has_database:
        log.info(
            "there is no database yet: acts are written to the log only, as imserver.audit"
        )
    return Parts(
        run=(every(_EXPIRY_SECONDS, audit.expire, "old acts could not be removed"),),
        stop=audit.stop,
    )
