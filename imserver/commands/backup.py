"""``imserver backup`` and ``imserver restore``: copies of the SQLite database."""

from __future__ import annotations

from pathlib import Path

import click

from imserver.commands.opened import load_settings, settings_options
from imserver.errors import StartError
from imserver.lifecycle import DataDirectory
from imserver.storage import backup as copies
from imserver.storage.address import database_address
from imserver.terminal import fail


@click.command()
@settings_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(path: str | None, data_dir: str | None, file: Path) -> None:
    """Copy the database to a new FILE. Servers may run meanwhile."""
    try:
        copies.backup(_file(path, data_dir)[0], file)
    except StartError as error:
        fail(error)
    click.echo(f"copied to {file}")


@click.command()
@settings_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(path: str | None, data_dir: str | None, file: Path) -> None:
    """Replace the database by the copy FILE. No server may run meanwhile."""
    try:
        database, folder = _file(path, data_dir)
        # A server holds this lock as long as it runs.
        lock = DataDirectory(folder)
        lock.start()
        try:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = copies.restore(database, file)
        finally:
            lock.stop()
    except StartError as error:
        fail(error)
    click.echo(f"restored {database}" + (f"; the previous database is {before}" if before else ""))


def _file(path: str | None, data_dir: str | None) -> tuple[Path, str]:
    """The SQLite file of these settings, and the data folder."""
    settings = load_settings(path, data_dir)
    place = database_address(settings.storage, settings.server.data_dir)
    if place.file is None:
        raise StartError(f"{place.shown} is not a SQLite database: use {_TOOLS[place.engine]}")
    return place.file, settings.server.data_dir


_TOOLS = {"postgresql": "pg_dump and pg_restore", "mysql": "mariadb-dump or mysqldump"}
