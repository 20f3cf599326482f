"""``imserver backup``: copies of everything that a server has stored, also by a
schedule, and their trial."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final

import click

from imserver.gateway.config.settings import Config, settings_of
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import load_features
from imserver.gateway.offline import load_settings, settings_options
from imserver.gateway.process import RESTORING
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.terminal import fail
from imserver.offline.backups.declared import BackupSettings
from imserver.offline.backups.folder import (
    BackupFile,
    backups_of,
    delete_old,
    mark,
    new_backup,
)
from imserver.offline.copies import backup as copies
from imserver.offline.copies import everything as whole
from imserver.offline.copies.command import TOOLS, address_of
from imserver.offline.copies.trial import restore_on_trial
from imserver.offline.doctor import finding_of
from imserver.plugin.commands import Finding

_HOUR_SECONDS: Final = 3600


@click.command(short_help="Copy the database, or everything, to a new file.")
@settings_options
@click.option(
    "--everything",
    is_flag=True,
    help="Copy a database of any kind, secrets and uploaded files to one archive.",
)
@whole.without_option
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="Make no backup. Restore FILE on trial, or the newest backup in backups.folder.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def backup(
    path: str | None,
    data_dir: str | None,
    everything: bool,
    without: tuple[str, ...],
    is_check: bool,
    file: Path | None,
) -> None:
    """Copy a SQLite database to a new FILE. Servers may run meanwhile.

    With --everything or without FILE, the database may be of any kind. Without
    FILE, the command copies everything to backups.folder, and restores the copy
    on trial in a separate folder. It keeps the newest backups.count copies and
    removes older ones. Let a timer run the command without FILE.
    """
    try:
        settings = load_settings(path, data_dir)
        address = address_of(settings)
        if is_check:
            _try_out(settings, file or _newest(settings).path)
            return
        if Path(settings.server.data_dir, RESTORING).exists():
            raise StartError(
                "a restore was interrupted: run imserver restore again before a backup"
            )
        if file is None:  # a timer has called this
            _back_up_by_schedule(settings, address, without)
            return
        if everything:
            click.echo(whole.backup(settings, address, file, without))
            return
        copies.backup(_file_of(address), file)
    except StartError as error:
        fail(error)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    click.echo(f"copied to {file}")


def _file_of(address: DatabaseAddress) -> Path:
    """Return the file of a SQLite database.

    Raises StartError for all other databases.
    """
    if address.file is None:
        tool = TOOLS[address.engine][0]
        raise StartError(
            f"{address.shown} is not a SQLite database: add --everything, which copies any "
            f"database with all its data, or use {tool}"
        )
    return address.file


def _back_up_by_schedule(
    settings: Config, address: DatabaseAddress, without: Sequence[str]
) -> None:
    """Make a backup in the folder of the settings, and restore it on trial.

    Old backups are deleted even if that fails. Otherwise they would fill the
    disk. Raises StartError.
    """
    folder = _folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = new_backup(folder, int(time()))
        try:
            try:
                click.echo(whole.backup(settings, address, file, without))
            finally:
                # If files are missing in it, the backup exists although this
                # has raised an error.
                if file.exists():
                    _try_out(settings, file)
        finally:
            for old in delete_old(folder, settings_of(settings, BackupSettings).count):
                click.echo(f"deleted {old}")
    except OSError as error:
        raise StartError(f"{folder} cannot be used: {error.strerror}") from None


def _try_out(settings: Config, file: Path) -> None:
    """Restore a backup on trial, and print the report.

    A scheduled backup is renamed to a name that tells the result. Raises
    StartError if the trial has failed.
    """
    error: StartError | None = None
    try:
        click.echo(restore_on_trial(settings, file))
    except StartError as failure:
        error = failure
    # The folder may belong to another user. Then the backup keeps its name.
    with suppress(OSError):
        new_name = mark(file, is_proven=error is None)
        if new_name != file:
            click.echo(f"it is {new_name}")
    if error is not None:
        raise error


def _newest(settings: Config) -> BackupFile:
    """Return the newest scheduled backup. Raises StartError."""
    folder = _folder(settings)
    try:
        return backups_of(folder)[0]
    except (OSError, IndexError):
        raise StartError(f"{folder} has no backup") from None


def _folder(settings: Config) -> Path:
    """Return the folder of scheduled backups.

    Raises StartError if the settings name no folder.
    """
    if not any(feature.name == "backups" for feature in load_features(settings)):
        raise StartError(
            "give a FILE, because the setting features does not name the feature backups"
        )
    folder = settings_of(settings, BackupSettings).folder
    if not folder:
        raise StartError(
            "backups.folder is not set: set it, for example to /var/backups/imserver, or give a FILE"
        )
    return Path(folder)


# --- imserver doctor ----------------------------------------------------------


def check_backups(config: Config) -> Iterator[Finding]:
    """Check whether the newest backup is recent, and was restored on trial.

    It is a check of ``imserver doctor``, with one finding.
    """
    settings = settings_of(config, BackupSettings)
    try:
        newest = _newest(config)
    except StartError as error:
        # A server in demo mode needs no backup.
        is_bad = bool(settings.folder) or not config.demo
        found = str(error)
    else:
        seconds = time() - newest.created
        is_bad = not newest.is_proven or seconds > settings.max_age_seconds
        hours = seconds / _HOUR_SECONDS
        found = f"the newest backup in {settings.folder} is {hours:.1f} hours old"
        if not newest.is_proven:
            found = f"{newest.path} could not be restored on trial (imserver backup --check)"
    meaning = "data that was stored since then may be lost"
    mend = "run imserver backup from a timer"
    yield finding_of(
        is_bad, "backups", found, meaning, mend, fails=bool(settings.folder)
    )
