"""The rows of exports, and of imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, Row, Store, text_of

UNDER_WAY: Final = 0
DONE: Final = 1
FAILED: Final = 2
_COLUMNS: Final = "app, id, member, state, created, ends, leased, entries, records, size, subject"
_JOBS: Final = f"SELECT {_COLUMNS} FROM export_job"


class Job(Struct, frozen=True):
    """An export. ``user`` ``""``: of the whole app. ``created``, ``ends`` and ``leased``: Unix seconds; until
    ``leased`` a node works on it. ``size``: bytes of the archive when it is done, before of its contents.
    ``subject``: JSON for who makes it."""

    app: str
    id: str
    user: str
    state: int
    created: int
    ends: int
    leased: int
    entries: int = 0
    records: int = 0
    size: int = 0
    subject: bytes = b""


class JobRows:
    """The rows of exports in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, job: Job) -> None:
        """Store a new export."""
        row = tuple(getattr(job, name) for name in Job.__struct_fields__)
        self.store.write(lambda sql: sql.insert_new("export_job", _COLUMNS, [row]))

    def get(self, app: str, id: str) -> Job | None:
        """An export; None: there is no such one."""
        return self._one(f"{_JOBS} WHERE app = %s AND id = %s", (app, id))

    def newest(self, app: str, user: str) -> Job | None:
        """The export of a user that was started last."""
        order = "ORDER BY created DESC, id DESC LIMIT 1"
        return self._one(f"{_JOBS} WHERE app = %s AND member = %s {order}", (app, user))

    def _one(self, statement: str, values: Sequence[Any]) -> Job | None:
        rows = self.store.rows(statement, values)
        return _job(rows[0]) if rows else None

    def of(self, app: str, user: str | None) -> list[Job]:
        """All exports of a user; None: of an app."""
        where, values = ("", [app]) if user is None else (" AND member = %s", [app, user])
        return list(map(_job, self.store.rows(f"{_JOBS} WHERE app = %s{where}", values)))

    def waiting(self, of_apps: bool) -> list[Job]:
        """The exports on which no node works, the oldest first."""
        whose = "=" if of_apps else "<>"

        def work(sql: PooledStatements) -> list[Row]:
            where = f"state = {UNDER_WAY} AND leased < {sql.now} AND member {whose} %s"
            return sql.query(f"{_JOBS} WHERE {where} ORDER BY created", ("",))

        nothing: list[Row] = []
        return list(map(_job, self.store.read_or(nothing, work)))

    def are_under_way(self, of_apps: bool) -> bool:
        """Whether there are exports that are not made yet."""
        whose = "=" if of_apps else "<>"
        statement = f"SELECT 1 FROM export_job WHERE state = {UNDER_WAY} AND member {whose} %s LIMIT 1"
        return bool(self.store.rows(statement, ("",)))

    def ended(self, now: int) -> list[Job]:
        """The exports whose archives are to be deleted."""
        return list(map(_job, self.store.rows(f"{_JOBS} WHERE ends < %s", (now,))))

    def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids are those of exports."""
        statement = "SELECT id FROM export_job WHERE id IN {}"
        nothing: list[Row] = []
        rows = self.store.read_or(nothing, lambda sql: sql.query_in(statement, (), ids))
        return {text_of(id) for (id,) in rows}

    def lease(self, job: Job, seconds: int) -> int:
        """Take over the work on an export for so many seconds. Returns the end of the lease; 0: another node
        has."""
        return self._lease(job, job.leased, seconds, "", ())

    def reach(self, job: Job, progress: tuple[int, int, int], leased: int, seconds: int) -> int:
        """Say how far an export is: entries, records and bytes; and hold on to it. Returns the new end of the
        lease; 0: it was deleted, or another node has taken it over."""
        return self._lease(job, leased, seconds, ", entries = %s, records = %s, size = %s", progress)

    def _lease(self, job: Job, leased: int, seconds: int, changes: str, values: tuple[int, ...]) -> int:
        """Change an export whose lease ends at ``leased``, by the clock of the database: those of nodes
        differ.
        """
        where = f"app = %s AND id = %s AND leased = %s AND state = {UNDER_WAY}"

        def work(sql: PooledStatements) -> int:
            until = max(int(sql.query(f"SELECT {sql.now}")[0][0]) + seconds, leased + 1)
            statement = f"UPDATE export_job SET leased = %s{changes} WHERE {where}"
            return until * sql.execute(statement, (until, *values, job.app, job.id, leased))

        return self.store.write_or(0, work)

    def end(self, job: Job, state: int, progress: tuple[int, int, int], ends: int) -> bool:
        """End an export; False: it was deleted."""
        statement = (
            "UPDATE export_job SET state = %s, entries = %s, records = %s, size = %s, ends = %s "
            "WHERE app = %s AND id = %s"
        )
        return self.store.execute(statement, (state, *progress, ends, job.app, job.id)) > 0

    def forget(self, job: Job) -> None:
        """Delete an export."""
        self.store.execute("DELETE FROM export_job WHERE app = %s AND id = %s", (job.app, job.id))


def _job(row: Row) -> Job:
    app, id, user = map(text_of, row[:3])
    state, created, ends, leased, entries, records, size, subject = row[3:]
    return Job(app, id, user, state, created, ends, leased, entries, records, size, bytes(subject))


# --- imports ------------------------------------------------------------------------------------------------


class ImportProgress(Struct, frozen=True):
    """How far the import of an app is: the digest of the archive's manifest, entries that are stored, rows of
    the next one that are, and whether all is done."""

    digest: str
    entry: int = 0
    done: int = 0
    finished: bool = False


def progress_of(app: str, sql: PooledStatements) -> ImportProgress | None:
    """The import of an app; None: none was begun."""
    statement = "SELECT digest, entry, done, finished FROM archive_import WHERE app = %s"
    rows = sql.query(statement, (app,))
    for digest, entry, done, finished in rows:
        return ImportProgress(text_of(digest), entry, done, bool(finished))
    return None


def begin_import(app: str, digest: str, sql: PooledStatements) -> None:
    """Begin the import of an app."""
    sql.insert_new("archive_import", "app, digest, entry, done, finished", [(app, digest, 0, 0, 0)])


def give_up(app: str, at: ImportProgress, sql: PooledStatements) -> bool:
    """Forget an import that is not finished; False: another process has moved it on."""
    statement = (
        "DELETE FROM archive_import WHERE app = %s AND digest = %s AND entry = %s AND done = %s "
        "AND finished = 0"
    )
    return sql.execute(statement, (app, at.digest, at.entry, at.done)) > 0


def go_on(app: str, before: ImportProgress, after: ImportProgress, sql: PooledStatements) -> bool:
    """Move an import on; False: another process has."""
    statement = (
        "UPDATE archive_import SET entry = %s, done = %s, finished = %s "
        "WHERE app = %s AND digest = %s AND entry = %s AND done = %s AND finished = 0"
    )
    values = after.entry, after.done, int(after.finished), app, before.digest, before.entry, before.done
    return sql.execute(statement, values) > 0
