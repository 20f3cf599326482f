"""``imserver account``: accounts of people, taken over from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from imserver.features.accounts.account_import import BadImport, accounts_of, read_rows, store
from imserver.features.accounts.rows import AccountStore
from imserver.plugin.commands import fail, opened, settings_options
from imserver.plugin.identity import GOCHAT
from imserver.plugin.messages import MessageLog

_LAST_SEQ: Final = 2**52
"""JavaScript's numbers are exact up to twice this."""


@click.group()
def account() -> None:
    """Import accounts of users. Servers may run meanwhile."""


@account.command("import")
@settings_options
@click.option("--app", default=GOCHAT, show_default=True, help="The app that gets the accounts.")
@click.option("--dry-run", is_flag=True, help="Check the file only.")
@click.option(
    "--last-seq",
    type=click.IntRange(0, _LAST_SEQ),
    default=0,
    metavar="N",
    help="The greatest seq of GoChat's messages. New messages get greater ones: its clients ask for these.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_accounts(
    path: str | None, data_dir: str | None, app: str, dry_run: bool, last_seq: int, file: Path
) -> None:
    """Import accounts with their ids from FILE.

    The file is GoChat's table of users, as CSV or JSON. Columns: id; at least one of phone (or phone_number),
    email, name; password (a hash: MD5 with app.salt as in GoChat, or argon2id); optional: nickname, avatar,
    created (or create_time). Existing accounts are skipped.
    """
    try:
        rows = read_rows(file.read_text(encoding="utf-8-sig"))
        found = accounts_of(rows, app)
        if dry_run:
            click.echo(f"{len(found)} accounts could be imported")
            return
        progress = Progress(console=Console(stderr=True), transient=True)
        with opened(path, data_dir) as (_, database, tenants), progress:
            name = tenants.resolve(app)
            if tenants.find(name) is None:
                fail(f"app {app} does not exist")
            if name != app:  # which stands for the other
                found = accounts_of(rows, name)
            task: Any = progress.add_task("importing", total=len(found))
            count = store(
                AccountStore(database), name, found, lambda done: progress.update(task, completed=done)
            )
            if last_seq:
                database.part(MessageLog).continue_after(name, last_seq)
    except (BadImport, UnicodeDecodeError) as error:
        fail(error)
    click.echo(f"{count} accounts imported, {len(found) - count} already existed")
