"""Makes archives of users and apps, keeps them for a while, and deletes them.

An export is a row of a :class:`Runner`. The node that works on it makes its
archive in a separate folder. If another node has access to this folder, it can
continue the archive. Otherwise it begins again.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any, Final

import msgspec

from imserver.operate.exports.archive import NAME, ArchiveState
from imserver.operate.exports.declared import HTTP_EXPORT_UNFINISHED, ExportSettings
from imserver.operate.exports.rows import DONE, FAILED, UNDER_WAY, Job, JobRows, Subject
from imserver.plugin.errors import HttpProblem, ServiceRefused, Unavailable
from imserver.plugin.identity import Buckets
from imserver.plugin.runtime import Threads
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import ArchivedFiles, Erasure, Runner, Store

log = logging.getLogger(__name__)

_LEASE_SECONDS: Final = 15
_LOOK_SECONDS: Final = 60.0
_ID_BYTES: Final = 16
_MOST_SHOWN: Final = 100
_PIECE_BYTES: Final = 1 << 16


class UnknownExport(
    ServiceRefused,
    problem=HttpProblem(
        404, "unknown_export", "No such export, or it has been deleted."
    ),
):
    """There is no such export, or it was deleted."""


class Exports:
    """Makes, shows and deletes exports. Owner of the folders of archives.

    ``buckets`` limit how often a user or app may start an export; None means no
    limit. ``release`` is the version of the server. ``archived`` is a function
    that finds the features which have files. Methods may raise
    StorageUnavailable.
    """

    page_folder: Final = Path(__file__).parent / "page"

    def __init__(
        self,
        config: Config,
        store: Store,
        buckets: Buckets | None = None,
        release: str = "",
        archived: Callable[[], Iterable[ArchivedFiles]] = tuple,
    ) -> None:
        """Make the runners of this node, and the threads that write archives.

        Compression and writes to the disk would block all connections of the
        node.
        """
        self._archived = archived
        self._settings = settings_of(config, ExportSettings)
        self._store = store
        self._rows = JobRows(store)
        self._root = Path(
            self._settings.directory or Path(config.server.data_dir) / "exports"
        )
        self._buckets = buckets
        self._release = release
        self._threads = Threads(2)
        self.runners = (self._runner("member <> ''"), self._runner("member = ''"))
        """The runner for users, and the runner for apps. Archives of apps take
        long, and must not delay the archives of users."""

    def _runner(self, condition: str) -> Runner:
        """Make the runner of the exports whose rows meet this SQL condition.

        A *runner* finds rows that are due, leases one of these rows to this
        node, and calls :meth:`_work` for this row. Exports are due while their
        archive is to be made, and again when the archive is to be deleted.
        """
        due = f"state = {UNDER_WAY} OR ends < {{now}}"
        return Runner(
            self._store,
            "export_job",
            f"({due}) AND {condition}",  # the runner puts the time for {now}
            self._work,
            lease_seconds=_LEASE_SECONDS,
            look_seconds=_LOOK_SECONDS,
        )

    # --- requests -------------------------------------------------------------

    def start(self, subject: Subject) -> Job:
        """Start an export, and return it.

        If an export of the subject is in progress, return that one. Switches
        greenlets. Raises TooManyRequests.
        """
        newest = self._rows.newest(subject.app, subject.user)
        if newest is not None and newest.state == UNDER_WAY:
            return newest
        if self._buckets is not None:
            self._buckets.require((subject.app, subject.user))

        job = self._new_job(subject)

        # Any node may make the export. Only the runner of this node is woken at
        # once.
        self._rows.add(job)
        self._runner_of(job).wake()
        return job

    def _new_job(self, subject: Subject) -> Job:
        """An export that begins now."""
        now = int(time())
        return Job(
            app=subject.app,
            id=token_hex(_ID_BYTES),
            user=subject.user,
            state=UNDER_WAY,
            created=now,
            ends=now + int(self._settings.retention_seconds),
            subject=msgspec.json.encode(subject),
        )

    def _runner_of(self, job: Job) -> Runner:
        """The runner that makes an export. One runner is for users, and one is
        for apps."""
        of_users, of_apps = self.runners
        if job.user:
            return of_users
        return of_apps

    def show(self, app: str, id: str, user: str | None = None) -> Job:
        """The export with this id, or the newest one if ``id`` is empty.

        ``user`` is the user to whom it must belong, or ``""`` for an export of
        the whole app. None allows any export. If ``id`` is empty then, the
        result is the newest export of the whole app. Raises UnknownExport.
        """
        if id:
            job = self._rows.get(app, id)
        else:
            job = self._rows.newest(app, user or "")
        if job is None or job.ends < time():
            raise UnknownExport(id)
        if user is not None and job.user != user:
            raise UnknownExport(id)
        return job

    def of(self, app: str, user: str | None) -> list[Job]:
        """The exports that are not yet to be deleted, the newest first.

        ``user`` has the meaning that it has in :meth:`JobRows.of`.
        """
        now = time()
        jobs = self._rows.of(app, user, most=_MOST_SHOWN)
        return [job for job in jobs if job.ends >= now]

    def delete(self, job: Job) -> None:
        """Delete an export and its archive.

        A node that is making the archive stops at its next step.
        """
        # The folder is deleted before the row. If that fails, the row makes the
        # runner repeat it.
        self._remove(job.id)
        self._rows.forget(job)

    def open(self, job: Job) -> tuple[int, Iterator[bytes]]:
        """The size and the bytes of an archive.

        The bytes are read when the iterator asks for them. Raises
        ServiceRefused if the archive is not done, and UnknownExport if its file
        is not on this node.
        """
        if job.state != DONE:
            raise ServiceRefused(problem=HTTP_EXPORT_UNFINISHED)
        try:
            file = self._threads.do((self._root / job.id / NAME).open, "rb")
        except FileNotFoundError:
            log.error("the archive %s is not in the folder of this node", job.id)
            raise UnknownExport(job.id) from None
        return os.fstat(file.fileno()).st_size, self._pieces(file)

    def _pieces(self, file: Any) -> Iterator[bytes]:
        """The bytes of a file, each piece read in a thread."""
        with file:
            read = partial(self._threads.do, file.read, _PIECE_BYTES)
            yield from iter(read, b"")

    # --- work -----------------------------------------------------------------

    def _work(self, app: str, id: str) -> None:
        """Make the archive of an export, or delete an export that has expired.

        The runner calls this while it has the lease of the export. If this
        method raises an error, the runner calls it again later.
        """
        job = self._rows.get(app, id)
        if job is None:
            return
        runner = self._runner_of(job)
        try:
            self._make_or_delete(job, runner)
        except Runner.Lost:
            # The export was deleted, or another node makes it.
            if self._rows.get(app, id) is None:
                self._remove(id)
            raise
        except (Unavailable, OSError):
            raise  # a later attempt may succeed
        except Exception:
            log.exception("the export %s of %s has failed", id, app)
            self._remove(id)
            runner.end(app, id, state=FAILED, entries=0, records=0, size=0)

    def _make_or_delete(self, job: Job, runner: Runner) -> None:
        """Do what an export needs now, and store that in its row.

        Its archive is made, or deleted if its time is over. ``runner`` has the
        lease.
        """
        if job.state != UNDER_WAY or job.ends < time():
            runner.end(job.app, job.id)  # without values, this deletes the row
            self._remove(job.id)
            return
        progress = self._make(job, runner)
        ends = int(time()) + int(self._settings.retention_seconds)
        runner.end(job.app, job.id, state=DONE, ends=ends, **progress)

    def _make(self, job: Job, runner: Runner) -> dict[str, int]:
        """Make the archive, and return its progress for the columns of the row."""
        # Imported on first use, because its page takes 0.5 MB.
        from imserver.operate.exports.contents import ArchiveMaker

        def proceed(state: ArchiveState) -> None:
            """Store the progress, and stop if the export is not ours any more."""
            runner.proceed(job.app, job.id, **_progress(state, state.size))

        maker = ArchiveMaker(
            self._archived(),
            self._store,
            subject=msgspec.json.decode(job.subject, type=Subject),
            folder=self._root / job.id,
            run=self._threads.do,
            release=self._release,
        )
        path = maker.make(proceed)
        return _progress(maker.writer.state, path.stat().st_size)

    # --- away -----------------------------------------------------------------

    def _remove(self, id: str) -> None:
        """Delete the folder of an archive."""
        import shutil  # on first use: it loads compressors, 0.2 MB

        self._threads.do(partial(shutil.rmtree, self._root / id, ignore_errors=True))

    def sweep(self) -> None:
        """Remove archives on this node whose rows another node has deleted.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not self._store.has_database:
            return
        ids: list[str] = self._threads.do(self._find_old_folders)
        for id in set(ids) - self._rows.known(ids):
            self._remove(id)

    def _find_old_folders(self) -> list[str]:
        """The ids of archives that are older than the retention time of
        archives."""
        if not self._root.is_dir():
            return []
        before = time() - self._settings.retention_seconds
        return [
            each.name for each in self._root.iterdir() if each.stat().st_mtime < before
        ]

    def forget(self, app: str, user: str | None = None, _name: str = "") -> None:
        """Delete the exports of a user.

        If ``user`` is None, delete all exports of the app and its users. Raises
        StorageUnavailable.
        """
        for job in self._rows.of(app, user):
            self.delete(job)

    @property
    def erasure(self) -> Erasure:
        """The erasure of the archives of deleted users and apps."""
        return Erasure(frozenset({"export_job"}), self.forget, self.forget)

    def stop(self) -> None:
        """Stop at the next step, and end the threads."""
        for runner in self.runners:
            runner.stop()
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._threads.close()


def _progress(state: ArchiveState, size: int) -> dict[str, int]:
    """The columns with the progress of an export; ``size`` is in bytes."""
    return {"entries": state.entries, "records": state.rows, "size": size}
