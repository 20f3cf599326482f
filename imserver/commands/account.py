"""``imserver account``: accounts of people, taken over from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from imserver.commands.kept import fail, opened, settings_options
from imserver.services.people.account_import import BadImport, accounts_of, read_rows, store
from imserver.services.people.accounts import GOCHAT
from imserver.storage.accounts import KeptAccounts


@click.group()
def account() -> None:
    """Take over accounts from elsewhere. Servers may run meanwhile."""


@account.command("import")
@settings_options
@click.option("--app", default=GOCHAT, show_default=True, help="The app whose accounts they are to be.")
@click.option("--dry-run", is_flag=True, help="Look at the file only.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_accounts(path: str | None, data_dir: str | None, app: str, dry_run: bool, file: Path) -> None:
    """Import accounts with their ids from FILE.

    The file is GoChat's table of users, as CSV or JSON. Columns are id, phone_number (or phone), nickname,
    password (its hash: MD5 with app.salt, as GoChat keeps it, or argon2id), and, if there are such, avatar
    and create_time. Accounts that are there are passed over.
    """
    try:
        rows = read_rows(file.read_text(encoding="utf-8-sig"))
        found = accounts_of(rows, app)
        if dry_run:
            click.echo(f"{len(found)} accounts could be imported")
            return
        progress = Progress(console=Console(stderr=True), transient=True)
        with opened(path, data_dir) as (_, kept, tenants), progress:
            name = tenants.resolve(app)
            if tenants.find(name) is None:
                fail(f"there is no app {app}")
            if name != app:  # which stands for the other
                found = accounts_of(rows, name)
            task: Any = progress.add_task("importing", total=len(found))
            count = store(KeptAccounts(kept), name, found, lambda done: progress.update(task, completed=done))
    except (BadImport, UnicodeDecodeError) as error:
        fail(error)
    click.echo(f"{count} accounts imported, {len(found) - count} were there already")
