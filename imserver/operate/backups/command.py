"""``imserver backup``: copies of what a server has stored, by a schedule too, and their trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Literal

import click

from imserver.gateway.config.settings import Config, settings_of
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import load_features
from imserver.gateway.offline import load_settings, settings_options
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.terminal import fail
from imserver.operate.backups.declared import BackupSettings
from imserver.operate.backups.folder import backups_of, delete_old, mark, new_backup
from imserver.operate.copies import backup as copies
from imserver.operate.copies import everything as whole
from imserver.operate.copies.command import TOOLS, address_of
from imserver.operate.copies.trial import restore_on_trial
from imserver.plugin.commands import Finding


@click.command()
@settings_options
@click.option(
    "--everything", is_flag=True, help="With secrets and uploaded files, of any database, in one archive."
)
@whole.without_option
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="Make none: restore FILE on trial, or the newest of backups.folder.",
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
    """Copy the SQLite database to a new FILE. Servers may run meanwhile.

    Without FILE: a copy of everything into backups.folder, which is then restored on trial in a folder of its
    own. Of those before, backups.count stay. A timer calls this.
    """
    try:
        settings = load_settings(path, data_dir)
        address = address_of(settings)
        if is_check:
            _try_out(settings, file or _newest(settings))
            return
        if file is None:
            _back_up_by_schedule(settings, address, without)
            return
        if everything:
            click.echo(whole.backup(settings, address, file, without))
            return
        if address.file is None:
            raise StartError(f"{address.shown} is not a SQLite database: use {TOOLS[address.engine][0]}")
        copies.backup(address.file, file)
    except StartError as error:
        fail(error)
    click.echo(f"copied to {file}")


def _back_up_by_schedule(settings: Config, address: DatabaseAddress, without: Sequence[str]) -> None:
    """Make a backup in the folder of the settings, restore it on trial, and delete old ones. Raises
    StartError."""
    folder = _folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = new_backup(folder, int(time()))
        click.echo(whole.backup(settings, address, file, without))
        _try_out(settings, file)
        for old in delete_old(folder, settings_of(settings, BackupSettings).count):
            click.echo(f"deleted {old}")
    except OSError as error:
        raise StartError(f"{folder} cannot be used: {error.strerror}") from None


def _try_out(settings: Config, file: Path) -> None:
    """Restore a backup on trial; the name of one of the schedule then says how that ended. Raises
    StartError."""
    is_proven = False
    try:
        click.echo(restore_on_trial(settings, file))
        is_proven = True
    finally:
        with suppress(OSError):  # it cannot be read, or the folder is of another user
            if (name := mark(file, is_proven)) != file:
                click.echo(f"it is {name}")


def _newest(settings: Config) -> Path:
    """The newest backup in the folder of the settings. Raises StartError."""
    folder = _folder(settings)
    try:
        return next(each.path for each in backups_of(folder))
    except (OSError, StopIteration):
        raise StartError(f"{folder} has no backup") from None


def _folder(settings: Config) -> Path:
    if not any(feature.name == "backups" for feature in load_features(settings)):
        raise StartError("name a FILE: the feature backups is not among features of the settings")
    if not (folder := settings_of(settings, BackupSettings).folder):
        raise StartError("name a FILE, or set backups.folder")
    return Path(folder)


# --- imserver doctor ----------------------------------------------------------------------------------------


def check_backups(config: Config) -> Iterator[Finding]:
    """Look for the newest backup in ``backups.folder``."""
    level, found = _look(config)
    meaning, mend = "what was stored since may be lost", "imserver backup, called by a timer"
    is_bad = level != "ok"
    yield Finding(level, "backups", found, meaning * is_bad, mend * is_bad)


def _look(config: Config) -> tuple[Literal["ok", "warn", "fail"], str]:
    settings = settings_of(config, BackupSettings)
    if not settings.folder:
        return "ok" if config.demo else "warn", "backups.folder is not set"
    try:
        files = backups_of(Path(settings.folder))
    except OSError as error:
        return "fail", f"{settings.folder} cannot be read: {error.strerror}"
    if not files:
        return "fail", f"there is none in {settings.folder}"
    if not files[0].is_proven:
        return "fail", f"{files[0].path} could not be restored on trial (imserver backup --check)"
    seconds = time() - files[0].created
    is_old = seconds > settings.max_age_seconds
    found = f"the newest in {settings.folder} is {seconds / 3600:.1f} hours old"
    return "fail" if is_old else "ok", found
