"""The rows of exports, and of imports."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of

UNDER_WAY: Final = 0
DONE: Final = 1
FAILED: Final = 2
"""States of an export."""


class Subject(Struct, frozen=True):
    """The subject of an archive: a user, or the whole app if ``user`` is
    ``""``.

    The archive of an app has its ``settings`` without the secrets. ``left_out``
    are the names of the secrets.
    """

    app: str
    user: str
    settings: dict[str, Any] = {}
    left_out: list[str] = []


class Job(Struct, frozen=True):
    """An export.

    ``user`` is ``""`` if the export is of the whole app. ``state`` is
    :data:`UNDER_WAY`, :data:`DONE` or :data:`FAILED`. ``created`` and ``ends``
    are in Unix seconds: the start of the export, and the time at which the
    server deletes its archive. ``size`` are the bytes of the archive when it is
    done. Before that, they are the bytes of its contents so far. ``subject`` is
    a :class:`Subject` as JSON.
    """

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
        leased_until = 0  # no node makes the export yet
        row = (*_ROWS.values(job), leased_until)
        columns = f"{_ROWS.columns}, leased"
        self._store.write(lambda sql: sql.insert_new("export_job", columns, [row]))

    def get(self, app: str, id: str) -> Job | None:
        """An export. None if it does not exist."""
        return self._one("id = %s", app, id)

    def newest(self, app: str, user: str) -> Job | None:
        """The export of a user that was started last; None if there was no
        export.

        If ``user`` is ``""``, it is the last export of the whole app.
        """
        return self._one(
            "member = %s ORDER BY created DESC, id DESC LIMIT 1", app, user
        )

    def _one(self, condition: str, *values: str) -> Job | None:
        rest = f"WHERE app = %s AND {condition}"
        return _ROWS.first(self._store.rows, rest, *values)

    def of(self, app: str, user: str | None, most: int = 0) -> list[Job]:
        """The exports of a user, the newest first.

        If ``user`` is None, these are all exports of the app and of its users.
        If it is ``""``, these are only exports of the whole app. Returns at
        most ``most``; 0 means all.
        """
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
        """The ids among ``ids`` that belong to exports."""
        rows = self._store.rows_in("SELECT id FROM export_job WHERE id IN {}", (), ids)
        return {text_of(id) for (id,) in rows}

    def forget(self, job: Job) -> None:
        """Delete an export."""
        self._store.execute(
            "DELETE FROM export_job WHERE app = %s AND id = %s", (job.app, job.id)
        )


# --- imports ------------------------------------------------------------------


class ImportProgress(Struct, frozen=True):
    """The progress of the import of an app."""

    digest: str
    """The SHA-256 of the archive's manifest."""
    entry: int = 0
    """The number of entries of the archive that are stored."""
    done: int = 0
    """The number of stored rows of the next entry."""
    finished: bool = False
    """Whether the import is complete."""


_IMPORTS: Final = RowsOf(ImportProgress, "archive_import")


def progress_of(app: str, sql: PooledStatements) -> ImportProgress | None:
    """The progress of the import of an app. None if no import was begun."""
    return _IMPORTS.first(sql.query, "WHERE app = %s", app)


def begin_import(app: str, digest: str, sql: PooledStatements) -> None:
    """Store that the import of an archive into an app has begun."""
    row = (digest, 0, 0, 0, app)  # nothing is stored yet
    sql.insert_new("archive_import", f"{_IMPORTS.columns}, app", [row])


def delete_import(app: str, progress: ImportProgress, sql: PooledStatements) -> bool:
    """Delete the progress of an unfinished import.

    Returns False, and deletes nothing, if another process has continued the
    import: the stored progress is not ``progress`` any more.
    """
    statement = (
        "DELETE FROM archive_import "
        "WHERE app = %s AND digest = %s AND entry = %s AND done = %s AND finished = 0"
    )
    values = (app, progress.digest, progress.entry, progress.done)
    return sql.execute(statement, values) > 0


def store_progress(
    app: str, before: ImportProgress, after: ImportProgress, sql: PooledStatements
) -> bool:
    """Replace the progress of an import.

    If the stored progress differs from ``before``, another process has
    continued the import. The function then stores nothing and returns False.
    """
    statement = (
        "UPDATE archive_import SET entry = %s, done = %s, finished = %s "
        "WHERE app = %s AND digest = %s AND entry = %s AND done = %s AND finished = 0"
    )
    new_values = (after.entry, after.done, int(after.finished))
    old_values = (app, before.digest, before.entry, before.done)
    return sql.execute(statement, (*new_values, *old_values)) > 0
