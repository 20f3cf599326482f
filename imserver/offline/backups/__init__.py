"""Scheduled backups: a timer calls ``imserver backup``, which makes a backup
and restores it on trial.

The server knows only the folder of backups, so a deleted file does not count
any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imserver.offline.backups.declared import SETTINGS, BackupSettings
from imserver.offline.backups.folder import backups_of
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.runtime import Threads, every
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


class BackupState(Struct):
    """The figures of backups that ``/metrics`` and ``/system/state`` show.

    A backup is *proven* when it was restored on trial. ``last_backup``: when
    the newest proven backup was begun, in Unix seconds; 0: no backup is proven.
    ``unproven_backups``: how many backups are newer than it.
    """

    last_backup: int = 0
    unproven_backups: int = 0

    def look(self, folder: Path) -> None:
        """Read the folder again. An unreadable folder counts as empty."""
        try:
            files = backups_of(folder)
        except OSError:
            files = []
        # The newest file comes first.
        self.last_backup = next((each.created for each in files if each.is_proven), 0)
        self.unproven_backups = sum(each.created > self.last_backup for each in files)


_LOOK_SECONDS: Final = 60.0


def _build(core: Core) -> Parts:
    """Build the service that reads the folder of backups every minute.

    Without a folder in the settings there is no service. Its figures are shown
    by ``/metrics`` and ``/system/state``.
    """
    folder = settings_of(core.config, BackupSettings).folder
    if not folder:
        return Parts()
    state = BackupState()
    threads = Threads(1)

    def look() -> None:
        """Read the folder in a thread: it is often on another machine, for which the
        loop must not wait."""
        threads.do(state.look, Path(folder))

    core.node.show(state)
    return Parts(
        (state,),
        # Once at the start, and then every minute.
        run=(look, every(_LOOK_SECONDS, look, "backups could not be listed")),
        stop=threads.close,
    )


def _last_backup(core: Core) -> int | None:
    """Return the figure of a node; None: it has no folder of backups."""
    state = core.find(BackupState)
    if state is None:
        return None
    return state.last_backup


def _unproven_backups(core: Core) -> int | None:
    """Return the figure of a node; None: it has no folder of backups."""
    state = core.find(BackupState)
    if state is None:
        return None
    return state.unproven_backups


def metrics() -> tuple[Metric, ...]:
    """Return the metrics of backups. Called at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
        Metric(
            "imserver_backup_timestamp_seconds",
            "gauge",
            "When the newest backup was made that was restored on trial, in Unix seconds; 0: there is none",
            _last_backup,
        ),
        Metric(
            "imserver_backups_unproven",
            "gauge",
            "Backups that are newer, and could not be restored on trial",
            _unproven_backups,
        ),
    )


FEATURE = FeatureRow(
    "backups",
    _build,
    settings=SETTINGS,
    metrics=metrics,
    commands=(
        CommandOf(
            "backup",
            "imserver.offline.backups.command:backup",
            "Copy the database, or everything, to a new file.",
        ),
        CommandOf(
            "settings",
            "imserver.offline.backups.command:check_backups",
            parent="doctor",
        ),
    ),
)
