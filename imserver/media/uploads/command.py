"""``imserver uploads move``: moves files from the folder to the bucket, or
back."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import click
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.media.uploads import upload_rows
from imserver.media.uploads.archive import parts_of, sha256_of
from imserver.media.uploads.contract import Media, MediaUnavailable, Upload
from imserver.media.uploads.declared import UploadSettings
from imserver.media.uploads.uploads import DamagedFile, UploadStorage, name_of
from imserver.plugin.commands import Finding, fail, opened, record_act, settings_options
from imserver.plugin.identity import Tenants
from imserver.plugin.progress import long_work
from imserver.plugin.runtime import Service
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

_NAMES: Final = {"directory": "", "s3": "s3"}
"""Value of ``--to`` → the name of the store in rows."""


class MoveReport(Struct):
    """The results of a run.

    ``files`` and ``bytes`` count the moved files. ``bad``: id of a file that
    was not moved → the reason. ``deleted``: the number of deleted copies at the
    source.
    """

    files: int = 0
    bytes: int = 0
    deleted: int = 0
    bad: dict[str, str] = {}


class MediaMove(Service):
    """Moves the bytes of files from one store to the other.

    A file is moved when its row names the other store, so a run continues where
    the previous one ended. Servers may run meanwhile, because a row is changed
    only after the other store has the bytes, and they were read back.
    """

    _store: Store
    _storage: UploadStorage
    _to: str
    """Name of the store to which the files move: ``""`` (the folder) or
    ``s3``."""
    _delete_source: bool
    """Whether the copies at the source are deleted."""
    report: MoveReport = field(default_factory=MoveReport)

    def run(self) -> Iterator[None]:
        """Move all files. Yields after each file. Raises StorageUnavailable and
        MediaUnavailable."""
        for row in upload_rows.rows_of(self._store):
            if row.store_name != self._to:
                self._move(row)
            elif self._delete_source:
                self._delete_copies(row)
            yield

    def _move(self, row: Upload) -> None:
        """Copy a file and its thumbnail to the other store, compare the copies,
        and change the row.

        A damaged file is reported, and not moved. Raises MediaUnavailable and
        StorageUnavailable.
        """
        moved = replace(row, store_name=self._to)
        problem = self._copy_or_problem(row, moved)
        if problem:
            self.report.bad[row.id] = problem
            return

        change_row = partial(upload_rows.move, row=row, store_name=self._to)
        if not self._store.write_or(False, change_row):
            # The file was deleted meanwhile, so nobody needs the copy.
            self._storage.remove(moved)
            return
        self.report.files += 1
        self.report.bytes += row.stored_bytes
        if self._delete_source:
            self._storage.delete(row)
            self.report.deleted += 1

    def _copy_or_problem(self, row: Upload, moved: Upload) -> str:
        """Copy a file to the store of the row ``moved``. Returns what is wrong
        with the file; ``""`` if it was copied."""
        try:
            self._copy(row, moved)
        except FileNotFoundError:
            return "its bytes are missing in the place that its row names"
        except DamagedFile:
            return "its bytes differ from the upload"
        return ""

    def _copy(self, row: Upload, moved: Upload) -> None:
        """Copy a file and its thumbnail to the store of the row ``moved``, and
        compare the copies.

        Raises FileNotFoundError, DamagedFile and MediaUnavailable.
        """
        source = self._storage.of(row)
        target = self._storage.of(moved)
        for part in parts_of(row):
            name = name_of(row, part.is_thumbnail)
            pieces = source.get(name, 0, part.size - 1)
            sha256 = self._storage.copy(row, part.is_thumbnail, pieces, self._to)
            # Read back, because a disk or a bucket may lose bytes without an
            # error.
            if not _has_same(target, name, part.size, sha256):
                raise MediaUnavailable(f"the copy of the file {row.id} differs")

    def _delete_copies(self, row: Upload) -> None:
        """Delete copies that an earlier run has left at the source.

        The other store must have the same bytes. Raises MediaUnavailable if it
        has not.
        """
        # The files move either to the bucket or to the folder (``""``).
        source_name = "" if self._to == "s3" else "s3"
        row_before = replace(row, store_name=source_name)
        source = self._storage.of(row_before)
        if not _has(source, row.id):
            return
        if not self._is_complete(row):
            raise MediaUnavailable(
                f"the copy of the file {row.id} differs, so the file at the source stays"
            )
        self._storage.delete(row_before)
        self.report.deleted += 1

    def _is_complete(self, row: Upload) -> bool:
        """Whether the store that a row names has the bytes of its file."""
        return _has_same(self._storage.of(row), row.id, row.bytes, row.sha256)


def _has(store: Media, name: str) -> bool:
    """Whether a store has a file of this name. Reads its first byte."""
    try:
        for _ in store.get(name, 0, 0):
            pass
    except FileNotFoundError:
        return False
    return True


def _has_same(store: Media, name: str, size: int, sha256: str) -> bool:
    """Whether a store has a file with these bytes."""
    return _has(store, name) and sha256_of(store, name, size) == sha256


def check_files(
    config: Config, store: Store, _tenants: Tenants, app: str
) -> Iterator[Finding]:
    """Read all files of an app, and compare them with their checksums.

    Yields a finding for each damaged file, or one that says that all are well.
    """
    count = 0
    has_damage = False
    settings = settings_of(config, UploadSettings)
    with closing(UploadStorage(settings, config.server.data_dir)) as storage:
        for row in upload_rows.rows_of(store, app):
            count += 1
            damage = _damage_of(storage, row)
            if not damage:
                continue
            has_damage = True
            yield _finding_of(row, damage)
    if not has_damage:
        yield Finding("ok", f"files of {app}", f"files as they were stored: {count}")


def _finding_of(row: Upload, damage: str) -> Finding:
    """The finding for a damaged file. ``damage``: in words."""
    meaning = f"{row.user} has uploaded it ({row.bytes} bytes); the server does not send it to others"
    remedy = "restore this file from a backup"
    return Finding("fail", f"file {row.id}", damage, meaning, remedy)


def _damage_of(storage: UploadStorage, row: Upload) -> str:
    """The damage of a file, in words; ``""`` if its bytes are right."""
    try:
        if sha256_of(storage.of(row), row.id, row.bytes) != row.sha256:
            return "its bytes differ from the stored bytes"
        if row.thumbnail_bytes and not _has(storage.of(row), name_of(row, True)):
            return "its thumbnail is missing in the place that its row names"
    except FileNotFoundError:
        return "it is missing in the place that its row names"
    except MediaUnavailable as error:
        return str(error)
    return ""


@click.group()
def uploads() -> None:
    """Move uploaded files between the folder and the bucket."""


@uploads.command("move")
@settings_options
@click.option(
    "--to",
    required=True,
    type=click.Choice(list(_NAMES)),
    help="The target of the files.",
)
@click.option(
    "--delete-source",
    is_flag=True,
    help="Delete each file at the source after its copy was checked.",
)
def move(path: str | None, data_dir: str | None, to: str, delete_source: bool) -> None:
    """Move uploaded files from the folder to the bucket, or back. Servers may
    run meanwhile.

    The settings uploads.s3_url and uploads.s3_bucket name the bucket. Each copy
    is read back and compared with the size and the SHA-256 of the file. If the
    command is interrupted, run it again to continue.
    """
    with opened(path, data_dir) as (config, store, _):
        settings = settings_of(config, UploadSettings)
        if not settings.s3_url:
            fail(
                "the settings name no bucket: set uploads.s3_url and uploads.s3_bucket"
            )

        # This is the storage of a node, but without its threads.
        with closing(UploadStorage(settings, config.server.data_dir)) as storage:
            report = _move_all(MediaMove(store, storage, _NAMES[to], delete_source))
            _record(config, store, to, report)
            folder = storage.directory.root

    target = f"the folder {Path(folder)}"
    if to == "s3":
        target = f"the bucket {settings.s3_bucket}"
    _print_report(report, target)
    if report.bad:
        raise SystemExit(1)
    if to == "directory" and report.files:
        click.echo(
            "new files are stored in the bucket as long as the settings have uploads.s3_url"
        )


def _record(config: Config, store: Store, to: str, report: MoveReport) -> None:
    """Record a move as an act, unless nothing was moved or deleted."""
    if report.files or report.deleted:
        counts = {"files": report.files, "deleted": report.deleted}
        record_act(config, store, "files.move", to=to, **counts)


def _move_all(moving: MediaMove) -> MoveReport:
    """Move all files, and show how many are moved. Ends the command with an
    error if a store is unavailable."""
    report = moving.report
    try:
        with long_work("moving files") as say:
            for _ in moving.run():
                say(f"moved: files {report.files}, bytes {report.bytes}")
    except MediaUnavailable as error:
        fail(
            f"{error}; files moved: {report.files}; run the same command again to continue"
        )
    return report


def _print_report(report: MoveReport, target: str) -> None:
    """Print the numbers of moved and deleted files, and each file that stays
    where it was."""
    click.echo(
        f"moved to {target}: files {report.files}, bytes {report.bytes}; sizes and checksums are equal"
    )
    if report.deleted:
        click.echo(f"files deleted at the source: {report.deleted}")
    for name, reason in report.bad.items():
        click.echo(f"imserver: the file {name} stays: {reason}", err=True)
