"""The rows of exports, and of imports."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of

UNDER_WAY: Final = 0
DONE: Final = 1
FAILED: Final = 2


class Subject(Struct, frozen=True):
    """The subject of an archive. ``user``: ``""`` means the whole app.
    ``settings`` and ``left_out`` belong to the app."""

    app: str
    user: str
    settings: dict[str, Any] = {}
    left_out: list[str] = []


class Job(Struct, frozen=True):
    """An export. ``user``: ``""`` means the whole app. ``created`` and
    ``ends``: Unix seconds. ``size``: the size of the archive when it is done,
    before that the size of its contents. ``subject``: a :class:`Subject` as
    JSON."""

    app: str
    id: str
    user: str
    state: int
    created: int
    ends: int
    entries: int = 0
    records: int = 0
    size: int = 0
    subject: bytes = b""


_ROWS: Final = RowsOf(Job, "export_job", user="member")


class JobRows(Store.Rows):
    """The rows of exports in a store with a database."""

    def add(self, job: Job) -> None:
        """Store a new export."""
        row = (*_ROWS.values(job), 0)
        columns = f"{_ROWS.columns}, leased"
        self._store.write(lambda sql: sql.insert_new("export_job", columns, [row]))

    def get(self, app: str, id: str) -> Job | None:
        """An export. None if it does not exist."""
        return self._one("id = %s", app, id)

    def newest(self, app: str, user: str) -> Job | None:
        """The export of a user that was started last."""
        return self._one(
            "member = %s ORDER BY created DESC, id DESC LIMIT 1", app, user
        )

    def _one(self, which: str, *values: str) -> Job | None:
        return _ROWS.first(self._store.rows, f"WHERE app = %s AND {which}", *values)

    def of(self, app: str, user: str | None, most: int = 0) -> list[Job]:
        """The exports of a user (None: of an app), the newest first. ``most``:
        0 means all."""
        where = "WHERE app = %s"
        values = [app]
        if user is not None:
            where += " AND member = %s"
            values.append(user)
        rest = f"{where} ORDER BY created DESC, id"
        if most:
            rest += f" LIMIT {most}"
        return _ROWS.find(self._store.rows, rest, *values)

    def known(self, ids: Sequence[str]) -> set[str]:
        """The ids that belong to exports."""
        rows = self._store.rows_in("SELECT id FROM export_job WHERE id IN {}", (), ids)
        return {text_of(id) for (id,) in rows}

    def forget(self, job: Job) -> None:
        """Delete an export."""
        self._store.execute(
            "DELETE FROM export_job WHERE app = %s AND id = %s", (job.app, job.id)
        )


# --- imports ------------------------------------------------------------------


class ImportProgress(Struct, frozen=True):
    """The progress of the import of an app. It has the digest of the archive's
    manifest, the numbers of stored entries and of stored rows of the next one,
    and whether everything is done."""

    digest: str
    entry: int = 0
    done: int = 0
    finished: bool = False


_IMPORTS: Final = RowsOf(ImportProgress, "archive_import")


def progress_of(app: str, sql: PooledStatements) -> ImportProgress | None:
    """The import of an app. None if no import was begun."""
    return _IMPORTS.first(sql.query, "WHERE app = %s", app)


def begin_import(app: str, digest: str, sql: PooledStatements) -> None:
    """Begin the import of an app."""
    sql.insert_new(
        "archive_import", f"{_IMPORTS.columns}, app", [(digest, 0, 0, 0, app)]
    )


def give_up(app: str, at: ImportProgress, sql: PooledStatements) -> bool:
    """Forget an import that is not finished. False if another process has
    continued it."""
    statement = (
        "DELETE FROM archive_import WHERE app = %s AND digest = %s AND entry = %s AND done = %s "
        "AND finished = 0"
    )
    return sql.execute(statement, (app, at.digest, at.entry, at.done)) > 0


def go_on(
    app: str, before: ImportProgress, after: ImportProgress, sql: PooledStatements
) -> bool:
    """Store the progress of an import. False if another process has continued
    it."""
    statement = (
        "UPDATE archive_import SET entry = %s, done = %s, finished = %s "
        "WHERE app = %s AND digest = %s AND entry = %s AND done = %s AND finished = 0"
    )
    values = (
        after.entry,
        after.done,
        int(after.finished),
        app,
        before.digest,
        before.entry,
        before.done,
    )
    return sql.execute(statement, values) > 0
