"""``imserver move``: copy the database to another engine."""

from __future__ import annotations

import os
from typing import Final

import click

from imserver.config.settings import Config
from imserver.copies.everything import started_store, without_option
from imserver.errors import StartError
from imserver.node.feature_list import load_features, load_with_locations, tables_of
from imserver.offline import record_act, settings_options
from imserver.process import DataDirectory
from imserver.storage.address import DatabaseAddress, database_address
from imserver.terminal import Progress, fail, read_text

_URL_VARIABLE: Final = "IMSERVER_STORAGE_URL"


@click.command()
@settings_options
@click.option(
    "--to", required=True, metavar="URL", help="The empty database, as in storage.url; - is standard input."
)
@without_option
def move(path: str | None, data_dir: str | None, to: str, without: tuple[str, ...]) -> None:
    """Copy the database to another one: SQLite, PostgreSQL, MariaDB or MySQL, in any direction.

    No server may run meanwhile. The database is only read. The other one must be empty. If the command is
    interrupted, run it again: it goes on. At the end it compares the two databases, and says which setting to
    change.
    """
    url = read_text("-").strip() if to == "-" else to
    progress = Progress()
    try:
        given = {} if data_dir is None else {"server.data_dir": data_dir}
        settings, locations = load_with_locations(path, overrides=given)
        target_settings, _ = load_with_locations(path, overrides={**given, "storage.url": url})
        source, target = _address(settings), _address(target_settings)
        # A server holds this lock as long as it runs.
        lock = DataDirectory(settings.server.data_dir)
        lock.start()
        try:
            # Imported here: the check of the settings needs no database library.
            from imserver.copies import move as moving

            tables = tables_of(load_features(settings))
            report = moving.move(
                source, target, settings.storage, tables, progress.show_rows, without=without
            )
        finally:
            lock.stop()
    except StartError as error:
        progress.end()
        fail(error)
    except KeyboardInterrupt:
        progress.end()
        fail("interrupted: run the same command again to go on")
    progress.end()
    with started_store(target_settings.storage, target_settings.server.data_dir, tables) as store:
        record_act(target_settings, store, "database.move")
    for name in report.strangers:
        click.echo(f"imserver: the table {name} is not one of this server, and was not copied", err=True)
    click.echo(
        f"moved {report.rows} rows of {len(report.tables)} tables to {target.shown} in "
        f"{progress.seconds:.0f} s; counts and checksums are equal"
    )
    for name, each in sorted(report.tables.items()):
        click.echo(f"{name}  {each.rows} rows  {each.checksum}")
    setting = f"the variable {_URL_VARIABLE}" if _URL_VARIABLE in os.environ else locations.of("storage.url")
    click.echo(f"now set {setting} to this address, and start the servers; {source.shown} is unchanged")


def _address(settings: Config) -> DatabaseAddress:
    return database_address(settings.storage, settings.server.data_dir)
