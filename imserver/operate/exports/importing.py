"""Imports an app's archive: verifies it, stores its rows and files, and finally
makes the app.

Each transaction stores rows together with the progress. Therefore an import may
be killed anywhere and repeated: nothing is stored twice. Until everything is
stored, the app does not exist, or has no messages.
"""

import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import IO, Any, Final, TypeVar
from zipfile import BadZipFile, ZipFile

import msgspec

from imserver.operate.exports.archive import CHECKSUMS, MANIFEST, EntryChecksum
from imserver.operate.exports.contents import FORMAT, VERSION, Manifest
from imserver.operate.exports.rows import (
    ImportProgress,
    begin_import,
    delete_import,
    progress_of,
    store_progress,
)
from imserver.plugin.errors import ImserverError, Unavailable
from imserver.plugin.identity import Tenants
from imserver.plugin.runtime import Service
from imserver.plugin.storage import ArchivedFiles, PooledStatements, Row, Store

T = TypeVar("T")

AT_ONCE: Final = 1000
"""The number of rows in one transaction."""
_AT_ONCE_BYTES: Final = 4 << 20
_PIECE_BYTES: Final = 1 << 16
_MOST_LINE_BYTES: Final = 64 << 20
"""Limit of the manifest, and of a line of an entry, in bytes."""
_ROWS: Final = "rows/"
"""The names of entries with rows begin so: ``rows/account/000001.jsonl``. All
other entries are files."""


class BadArchive(ImserverError):
    """The archive cannot be imported. The text says why."""


_DAMAGED: Final = (
    OSError,
    BadZipFile,
    KeyError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    ValueError,
    RecursionError,
)
"""The exceptions of the libraries for a broken or encrypted zip file, and for
broken JSON."""


class Archive:
    """The archive of an app, as a zip file that is read.

    ``digest`` is the SHA-256 of its manifest, by which an interrupted import
    recognizes it. Making one raises BadArchive if the file cannot be imported.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and check its format by its manifest.

        An older server refuses the format of a newer server. Raises BadArchive.
        """
        try:
            self._zip = ZipFile(path)
            with self._zip.open(MANIFEST) as file:
                manifest = file.read(_MOST_LINE_BYTES)
            self.manifest = msgspec.json.decode(manifest, type=Manifest)
        except _DAMAGED as error:
            raise BadArchive(
                f"{path} is no archive of imserver, or is damaged: {error}"
            ) from None
        _check_manifest(path, self.manifest)
        self.digest = sha256(manifest).hexdigest()

    def entries(self) -> Iterator[EntryChecksum]:
        """Name, size and checksum of each entry, in the order of the archive."""
        return self._decoded(CHECKSUMS, EntryChecksum)

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of an entry."""
        with self._zip.open(name) as file:
            yield from iter(partial(file.read, _PIECE_BYTES), b"")

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of an entry: column → value."""
        return self._decoded(name, dict[str, Any])

    def _decoded(self, name: str, kind: type[T]) -> Iterator[T]:
        """Decode the lines of an entry, which are JSON of this type."""
        with self._zip.open(name) as file:
            while line := file.readline(_MOST_LINE_BYTES):
                yield msgspec.json.decode(line, type=kind)

    def verify(self) -> None:
        """Check that the archive is complete and was not changed.

        Each entry has a checksum in the entry ``checksums.jsonl``, and this
        entry has a checksum in the manifest. Raises BadArchive.
        """
        rows_by_table: dict[str, int] = {}
        try:
            digest, _ = self._digest_of(CHECKSUMS)
            if digest != self.manifest.checksums:
                raise BadArchive(f"the entry {CHECKSUMS} was changed")
            # The checksums are verified now, so they can be trusted.
            for entry in self.entries():
                self._verify_entry(entry)
                if entry.name.startswith(_ROWS):
                    table = table_of(entry.name)
                    rows_by_table[table] = rows_by_table.get(table, 0) + entry.rows
        except _DAMAGED as error:
            raise BadArchive(f"the archive is damaged: {error}") from None
        if rows_by_table != self.manifest.tables:
            raise BadArchive("the archive does not have the rows of its manifest")

    def _verify_entry(self, entry: EntryChecksum) -> None:
        """Raise BadArchive if an entry does not have its checksum and size."""
        if self._digest_of(entry.name) != (entry.sha256, entry.bytes):
            raise BadArchive(f"the entry {entry.name} was changed")

    def _digest_of(self, name: str) -> tuple[str, int]:
        """The SHA-256 of an entry in hexadecimal, and its size in bytes."""
        digest = sha256()
        size = 0
        for piece in self.pieces(name):
            digest.update(piece)
            size += len(piece)
        return digest.hexdigest(), size

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def table_of(name: str) -> str:
    """The table of an entry with rows: ``account`` for
    ``rows/account/000001.jsonl``."""
    return name.split("/")[1]


def _check_manifest(path: Path, manifest: Manifest) -> None:
    """Raise BadArchive if this server cannot import an archive."""
    if manifest.format != FORMAT or manifest.version > VERSION:
        raise BadArchive(
            f"{path}: its format has version {manifest.version}, this server reads {VERSION}"
        )
    if manifest.user:
        raise BadArchive(
            f"{path} is the archive of the user {manifest.user}: only an app can be imported"
        )


def _size_of(row: dict[str, Any]) -> int:
    """The characters of the texts in a row.

    Other values are small, and are limited by the number of rows.
    """
    return sum(len(value) for value in row.values() if isinstance(value, str))


class Import(Service, dict=True):
    """Imports one archive into one app.

    ``archived`` are the features that have files. ``report`` is called with the
    progress in words.
    """

    archived: Collection[ArchivedFiles]
    store: Store
    tenants: Tenants
    archive: Archive
    app: str
    report: Callable[[str], object]

    def __post_init__(self) -> None:
        """Begin at the first entry. :meth:`run` continues an earlier import."""
        self._rows = self.store.importing(self.app)
        self._progress = ImportProgress(self.archive.digest)
        self._counts: dict[str, int] = {}
        """Table → the number of its rows in the archive."""
        self._last_rows: dict[str, dict[str, Any]] = {}
        """Table → the row that is changed last of all, when everything else is
        stored."""

    def run(self) -> None:
        """Import the archive, or continue an earlier import.

        Raises BadArchive and BadRows, after it has deleted the imported rows.
        Raises Unavailable if the database does not answer; then the rows and
        the progress stay, and the command can be repeated.
        """
        earlier = self.store.read(partial(progress_of, self.app))
        if earlier is not None and earlier.digest != self.archive.digest:
            raise BadArchive(
                f"the import of another archive into the app {self.app} was begun"
            )
        if earlier is not None and earlier.finished:
            self.report(f"the app {self.app} has this archive already")
            return

        self._begin(earlier)
        try:
            self._import_entries()
            self._finish()
        except Unavailable:
            raise  # the progress stays, so that the command can be repeated
        except ImserverError:
            self.store.write(self._discard)
            raise

    def _import_entries(self) -> None:
        """Import the entries of the archive that are not stored yet."""
        for number, entry in enumerate(self.archive.entries()):
            if entry.name.startswith(_ROWS):
                # Also called for complete entries, which it counts.
                self._import_rows(number, entry)
            elif number >= self._progress.entry:
                self._import_file(number, entry)

    def _begin(self, earlier: ImportProgress | None) -> None:
        """Check the archive and the app, and store that the import has begun.

        ``earlier`` is the progress of an interrupted import of this archive;
        None if this is the first attempt. Raises BadArchive.
        """
        self.archive.verify()
        self.report("the archive is whole")
        if earlier is None:
            # This check comes first. The operator can change the name of the
            # app and its settings, but not the keys in the archive.
            self._require_free_keys()
        self._require_settings()
        if earlier is None:
            self._require_empty()
            self.store.write(partial(begin_import, self.app, self.archive.digest))
        else:
            self.report(f"goes on; entries that are there: {earlier.entry}")
            self._progress = earlier

    def _discard(self, sql: PooledStatements) -> None:
        """Delete the progress and all imported rows.

        Does nothing if another process continues the import.
        """
        if delete_import(self.app, self._progress, sql):
            self._rows.clear(sql)

    # --- before anything is stored --------------------------------------------

    def _require_settings(self) -> None:
        """Refuse an archive that would set who may log in as whom.

        Refuse it also if it would set what the app accepts. The archive may be
        forged, so only the operator sets these. If the app exists, its own
        settings stay, and the settings in the archive are not used. Raises
        BadArchive.
        """
        if self.tenants.get(self.app) is not None:
            return
        manifest = self.archive.manifest
        if manifest.left_out:
            raise BadArchive(
                f"the archive does not have the secrets of the app ({', '.join(manifest.left_out)}): create "
                f"the app first, with its secrets (imserver app create {self.app} …), then import into it"
            )
        try:
            self.tenants.check_new(self.app, manifest.settings)
        except ValueError as error:
            raise BadArchive(str(error)) from None
        names = self.tenants.only_by_key(manifest.settings)
        if names:
            raise BadArchive(
                f"an archive does not set {', '.join(names)}: create the app first, with these settings "
                f"(imserver app create {self.app} …), then import into it"
            )

    def _require_empty(self) -> None:
        """Refuse an app that was deleted, or that has data. Raises BadArchive."""
        if self.store.is_deleted(self.app):
            raise BadArchive(
                f"an app {self.app} was deleted: name another one with --app"
            )
        for page in self.store.rows_of_app(self.app):
            if self._rows.reason(page.table):
                continue  # Rows of this table are not imported.
            first = dict(zip(page.columns, page.rows[0], strict=True))
            if self._is_without_messages(page.table, first):
                continue
            raise BadArchive(
                f"the app {self.app} is not empty, it has rows of the table {page.table}: name a new "
                "app with --app"
            )

    def _is_without_messages(self, table: str, row: dict[str, Any]) -> bool:
        """Whether this is the row that an import changes last, of an app that
        has no messages yet."""
        return self._rows.stays(table) and row["last_id"] == 0

    def _row_entries(self) -> list[EntryChecksum]:
        """The entries with rows. The entries of accounts come first.

        Rows of other tables name accounts. So the ids of accounts must be known
        first.
        """
        entries = [
            entry for entry in self.archive.entries() if entry.name.startswith(_ROWS)
        ]
        entries.sort(key=lambda entry: table_of(entry.name) != "account")
        return entries

    def _require_free_keys(self) -> None:
        """Refuse rows that cannot be stored on this server. Raises BadArchive.

        These are rows that no export could have written, and rows with a key
        (such as the id of an account) that is already used here.
        """
        account_ids: set[int] = set()
        for entry in self._row_entries():
            if self._rows.reason(table_of(entry.name)):
                continue  # Rows of this table are not imported.
            rows = self._check_rows(entry, account_ids)
            if rows != entry.rows:
                raise BadArchive(
                    f"the entry {entry.name} has {rows} rows in place of {entry.rows}"
                )

    def _check_rows(self, entry: EntryChecksum, account_ids: set[int]) -> int:
        """Check the rows of an entry, and return how many the entry has.

        ``account_ids`` are the ids of the accounts in the archive so far. The
        ids in this entry are added to them. Raises BadArchive.
        """
        table = table_of(entry.name)
        count = 0
        for columns, rows in self._batches(entry, skip=0):
            count += len(rows)
            # ``check`` adds the ids of accounts to ``parents``.
            check = partial(
                self._rows.check,
                name=table,
                columns=columns,
                rows=rows,
                parents=account_ids,
            )
            used_key = self.store.read(check)
            if used_key:
                raise BadArchive(
                    f"{table} {used_key} exists on this server already: import into a server without it; "
                    "another name of the app does not help"
                )
        return count

    # --- rows and files -------------------------------------------------------

    def _batches(
        self, entry: EntryChecksum, skip: int
    ) -> Iterator[tuple[list[str], list[Row]]]:
        """Columns and rows of an entry, in groups for one transaction each.

        All rows of a group have equal columns. ``skip`` is the number of rows
        that an earlier run has stored. These rows are left out.
        """
        columns: list[str] = []
        rows: list[Row] = []
        size = 0
        for number, line in enumerate(self.archive.lines(entry.name)):
            if number < skip:
                continue
            is_full = len(rows) >= AT_ONCE or size >= _AT_ONCE_BYTES
            has_other_columns = list(line) != columns
            if rows and (is_full or has_other_columns):
                yield columns, rows
                rows = []
                size = 0
            columns = list(line)
            rows.append(tuple(line.values()))
            size += _size_of(line)
        if rows:
            yield columns, rows

    def _import_rows(self, number: int, entry: EntryChecksum) -> None:
        """Store the rows of an entry that are not stored yet.

        ``number`` is the index of the entry in the archive. Entries that an
        earlier run has completed are only counted, so that :meth:`_finish` can
        compare all counts.
        """
        table = table_of(entry.name)
        if self._rows.reason(table):
            return  # Rows of this table are not imported.
        self._counts[table] = self._counts.get(table, 0) + entry.rows
        if self._rows.stays(table):
            # The app has this row already. The row is changed last. Until then,
            # the app has no messages.
            for line in self.archive.lines(entry.name):
                self._last_rows[table] = line
        elif number >= self._progress.entry:
            self._store_entry(number, entry, table)

    def _store_entry(self, number: int, entry: EntryChecksum, table: str) -> None:
        """Store the rows of an entry; rows that an earlier run has stored are
        skipped.

        The progress is stored with each group of rows. ``number`` is the index
        of the entry in the archive.
        """
        done = 0
        if number == self._progress.entry:  # an earlier run was interrupted here
            done = self._progress.done
        for columns, rows in self._batches(entry, skip=done):
            done += len(rows)
            after = self._progress_in(number, done, most=entry.rows)
            self.store.write(partial(self._store_rows, table, columns, rows, after))
            self._progress = after
        self.report(f"{entry.name}: rows {entry.rows}")

    def _progress_in(self, number: int, done: int, most: int) -> ImportProgress:
        """The progress when ``done`` of ``most`` rows of an entry are stored."""
        if done == most:
            return ImportProgress(self.archive.digest, entry=number + 1)
        return ImportProgress(self.archive.digest, entry=number, done=done)

    def _store_rows(
        self,
        table: str,
        columns: list[str],
        rows: list[Row],
        after: ImportProgress,
        sql: PooledStatements,
    ) -> None:
        """Store rows and the progress ``after`` them in one transaction.

        So a second run after a crash stores no row twice. Raises BadArchive if
        another process has stored a progress meanwhile.
        """
        if not store_progress(self.app, self._progress, after, sql):
            raise BadArchive(f"another process imports into the app {self.app}")
        self._rows.add(sql, table, columns, rows)

    def _store_file(self, name: str, content: IO[bytes]) -> None:
        """Store a file by the first feature that knows its name."""
        for feature in self.archived:
            if feature.write(self.app, name, content):
                break

    def _import_file(self, number: int, entry: EntryChecksum) -> None:
        """Store a file by the feature that knows its name.

        ``number`` is the index of the entry in the archive. A file that no
        feature knows is left out.
        """
        # A file may be large, so it goes through the disk, not the memory.
        handle, path = mkstemp(prefix="imserver-")
        try:
            with open(handle, "wb") as file:
                for piece in self.archive.pieces(entry.name):
                    file.write(piece)
            with open(path, "rb") as content:
                self._store_file(entry.name, content)
        finally:
            Path(path).unlink(missing_ok=True)

        after = ImportProgress(self.archive.digest, entry=number + 1)
        self.store.write(partial(store_progress, self.app, self._progress, after))
        self._progress = after

    def _finish(self) -> None:
        """Compare the numbers of stored rows with the archive, and make the
        app.

        Only from now on do servers serve the app with its messages. Raises
        BadArchive.
        """
        self._check_counts()
        finish_rows = partial(self._rows.finish, heads=self._last_rows)
        self.store.finish_import(self.app, finish_rows)
        if self.tenants.get(self.app) is None:
            self.tenants.register(self.app, **self.archive.manifest.settings)
        after = msgspec.structs.replace(self._progress, finished=True)
        self.store.write(partial(store_progress, self.app, self._progress, after))

    def _check_counts(self) -> None:
        """Raise BadArchive if a table has another number of rows than the
        archive."""
        for table, count in self._counts.items():
            if self._rows.stays(table):
                continue  # The row of this table is changed last.
            stored = self.store.read(partial(self._rows.count, name=table))
            if stored != count:
                raise BadArchive(
                    f"the table {table} has {stored} rows of the app in place of {count}"
                )

    @property
    def left_out(self) -> dict[str, str]:
        """Table → the reason why none of its rows were imported."""
        reasons = {
            name: self._rows.reason(name) for name in self.archive.manifest.tables
        }
        return {name: why for name, why in reasons.items() if why}
