"""Makes archives of users and apps, keeps them for a while, and deletes them.

An export is a row. The node that takes it makes its archive in a folder of its own, so another node that has
the same folder goes on with it, and one that has not begins it again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

import msgspec
from gevent.event import Event as Signal

from imserver.features.exports.archive import NAME, ArchiveState
from imserver.features.exports.contents import ArchiveMaker, Subject
from imserver.features.exports.declared import HTTP_EXPORT_UNFINISHED, ExportSettings
from imserver.features.exports.rows import DONE, FAILED, UNDER_WAY, Job, JobRows
from imserver.plugin.errors import HttpProblem, ImserverError, ServiceRefused, StorageUnavailable, Unavailable
from imserver.plugin.identity import Buckets
from imserver.plugin.runtime import Threads
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Erasure, Store

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
LOOK_SECONDS: Final = 60.0
"""Between two looks at what other nodes have left behind. A node works at once on what is started there."""
_SWEEP_SECONDS: Final = 600.0
_PIECE_BYTES: Final = 1 << 16
_ID_BYTES: Final = 16


class UnknownExport(
    ServiceRefused, problem=HttpProblem(404, "unknown_export", "No such export, or it has been deleted.")
):
    """There is no such export, or it was deleted."""


class Lost(ImserverError):
    """The export was deleted, or another node has taken it over."""


def folder_of(config: Config) -> Path:
    """The folder of archives."""
    settings = settings_of(config, ExportSettings)
    return Path(settings.directory or Path(config.server.data_dir) / "exports")


class Exports:
    """Makes, shows and deletes exports. Owner of the folders of archives of this node."""

    def __init__(
        self, config: Config, store: Store, buckets: Buckets | None = None, release: str = ""
    ) -> None:
        self._config = config
        self._settings = settings_of(config, ExportSettings)
        self._rows = JobRows(store)
        self._root = folder_of(config)
        self._buckets = buckets
        self._release = release
        self._threads = Threads(2)
        self._wakes = Signal(), Signal()
        """Of the greenlets for exports of users and of apps."""
        self._swept = float("-inf")

    # --- requests -------------------------------------------------------------------------------------------

    def start(self, subject: Subject) -> Job:
        """Start an export, or return the one of the same subject that is under way. Switches. Raises
        TooManyRequests and StorageUnavailable."""
        newest = self._rows.newest(subject.app, subject.user)
        if newest is not None and newest.state == UNDER_WAY:
            return newest
        if self._buckets is not None:
            self._buckets.require((subject.app, subject.user))
        now = int(time())
        ends = now + int(self._settings.retention_seconds)
        packed = msgspec.json.encode(subject)
        job = Job(subject.app, token_hex(_ID_BYTES), subject.user, UNDER_WAY, now, ends, 0, subject=packed)
        self._rows.add(job)
        self._wakes[not subject.user].set()
        return job

    def show(self, app: str, id: str, user: str | None = None) -> Job:
        """An export. ``user``: the one whose it has to be; without an ``id`` the newest one of the user.
        Raises UnknownExport and StorageUnavailable."""
        job = self._rows.get(app, id) if id else self._rows.newest(app, user or "")
        if job is None or (user is not None and job.user != user) or job.ends < time():
            raise UnknownExport(id)
        return job

    def open(self, job: Job) -> tuple[int, Iterator[bytes]]:
        """The archive of an export: its size and its bytes. Raises UnknownExport, and ServiceRefused if
        it is not finished."""
        if job.state != DONE:
            raise ServiceRefused(problem=HTTP_EXPORT_UNFINISHED)
        try:
            file = self._threads.do((self._root / job.id / NAME).open, "rb")
        except FileNotFoundError:
            log.error("the archive %s is not in the folder of this node", job.id)
            raise UnknownExport(job.id) from None
        return os.fstat(file.fileno()).st_size, self._pieces(file)

    def _pieces(self, file: Any) -> Iterator[bytes]:
        try:
            while piece := self._threads.do(file.read, _PIECE_BYTES):
                yield piece
        finally:
            file.close()

    # --- work -----------------------------------------------------------------------------------------------

    def run_users(self) -> None:
        """Greenlet: make archives of users, and delete old ones, until it is killed."""
        self._run(False)

    def run_apps(self) -> None:
        """Greenlet: make archives of apps, until it is killed. They take long, and nobody waits for them."""
        self._run(True)

    def _run(self, of_apps: bool) -> None:
        wake = self._wakes[of_apps]
        while True:
            wake.clear()
            seconds = LOOK_SECONDS
            try:
                if self.tick(of_apps):
                    seconds = LEASE_SECONDS
            except StorageUnavailable as error:
                log.debug("exports could not be read: %s", error)
            except Exception:
                log.exception("exports could not be read")
            wake.wait(seconds)

    def tick(self, of_apps: bool) -> bool:
        """Work on what waits. Whether something is under way still: another node may die over it. Switches.
        Raises StorageUnavailable."""
        if not self._rows.store.has_database:
            return False
        for job in self._rows.waiting(of_apps):
            self._work(job)
        if not of_apps:
            for job in self._rows.ended(int(time())):
                self._delete(job)
            self._sweep()
        return self._rows.are_under_way(of_apps)

    def _work(self, job: Job) -> None:
        leased = self._rows.lease(job, LEASE_SECONDS)
        if not leased:
            return
        try:
            progress = self._make(job, leased)
        except Lost:
            log.info("the export %s of %s was deleted, or another node makes it", job.id, job.app)
            return
        except (Unavailable, OSError) as error:
            log.warning("the export %s of %s has to wait: %s", job.id, job.app, error)
            return
        except Exception:
            log.exception("the export %s of %s has failed", job.id, job.app)
            self._remove(job.id)
            self._rows.end(job, FAILED, (0, 0, 0), job.ends)
            return
        ends = int(time()) + int(self._settings.retention_seconds)
        if not self._rows.end(job, DONE, progress, ends):
            self._remove(job.id)

    def _make(self, job: Job, leased: int) -> tuple[int, int, int]:
        """Make the archive. Returns its entries, rows and bytes."""
        subject = msgspec.json.decode(job.subject, type=Subject)
        lease_end, reached = leased, monotonic()

        def proceed(state: ArchiveState) -> None:
            nonlocal lease_end, reached
            if monotonic() - reached < 1.0:
                return
            progress = state.entries, state.rows, state.size
            lease_end = self._rows.reach(job, progress, lease_end, LEASE_SECONDS)
            if not lease_end:
                if self._rows.get(job.app, job.id) is None:
                    self._remove(job.id)
                raise Lost(job.id)
            reached = monotonic()

        maker = ArchiveMaker(
            self._config, self._rows.store, subject, self._root / job.id, self._threads.do, self._release
        )
        path = maker.make(proceed)
        return maker.state.entries, maker.state.rows, path.stat().st_size

    # --- away -----------------------------------------------------------------------------------------------

    def _delete(self, job: Job) -> None:
        """The archive first, so that a failed deletion is repeated."""
        self._remove(job.id)
        self._rows.forget(job)

    def _remove(self, id: str) -> None:
        self._threads.do(lambda: shutil.rmtree(self._root / id, ignore_errors=True))

    def _sweep(self) -> None:
        """Remove archives whose rows another node has deleted."""
        if monotonic() - self._swept < _SWEEP_SECONDS:
            return
        self._swept = monotonic()
        ids: list[str] = self._threads.do(self._old)
        for id in set(ids) - self._rows.known(ids):
            self._remove(id)

    def _old(self) -> list[str]:
        if not self._root.is_dir():
            return []
        before = time() - self._settings.retention_seconds
        return [each.name for each in self._root.iterdir() if each.stat().st_mtime < before]

    def forget(self, app: str, user: str, _name: str = "") -> None:
        """Delete the exports of a user. Raises StorageUnavailable."""
        for job in self._rows.of(app, user):
            self._delete(job)

    def forget_app(self, app: str) -> None:
        """Delete all exports of an app."""
        for job in self._rows.of(app, None):
            self._delete(job)

    @property
    def erasure(self) -> Erasure:
        """The erasure of the archives of deleted users and apps."""
        return Erasure(frozenset({"export_job"}), self.forget, self.forget_app)

    def close(self) -> None:
        """End the threads."""
        self._threads.close()
