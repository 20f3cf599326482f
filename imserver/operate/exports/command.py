"""``imserver export`` and ``imserver import``: archives of users and apps."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from operator import call
from pathlib import Path

import click

from imserver import __version__
from imserver.operate.exports.archive import ArchiveState
from imserver.operate.exports.contents import ArchiveMaker
from imserver.operate.exports.importing import Archive, BadArchive, Import
from imserver.operate.exports.rows import Subject
from imserver.plugin.commands import (
    fail,
    offline_parts,
    opened,
    record_act,
    settings_options,
)
from imserver.plugin.errors import ImserverError
from imserver.plugin.identity import Tenants
from imserver.plugin.progress import long_work
from imserver.plugin.storage import ArchivedFiles, Store


@click.command(short_help="Write all data of an app or a user to a file.")
@settings_options
@click.argument("target", metavar="APP[/USER]")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(path: str | None, data_dir: str | None, target: str, file: Path) -> None:
    """Write all data of an app, or of one of its users, to a new FILE. Servers
    may run meanwhile.

    If the command is interrupted, FILE.part has the data that was written. Run
    the same command again to continue.
    """
    app, _, name_of_user = target.partition("/")
    if file.exists():
        fail(f"{file} exists already")
    with (
        opened(path, data_dir, reads=True) as (config, store, tenants),
        offline_parts(config, store, ArchivedFiles) as parts,
    ):
        subject, shown_name = _subject_of(store, tenants, app, name_of_user)
        archived = [part for _, part in parts]
        rows = _write(archived, store, subject, file)
        record_act(config, store, "exports.start", subject.app, subject.user)
    size = file.stat().st_size
    click.echo(f"{shown_name} is written to {file}: rows {rows}, bytes {size}")


def _write(
    archived: Sequence[ArchivedFiles], store: Store, subject: Subject, file: Path
) -> int:
    """Write an archive to a file, and return the number of its rows."""
    # The archive grows in a folder beside FILE. If the command is
    # interrupted, the next one finds it there.
    folder = file.with_name(f"{file.name}.part")
    # Nothing else runs in a command, so it may block: ``call`` runs a
    # function here instead of in a thread.
    maker = ArchiveMaker(
        archived,
        store,
        subject=subject,
        folder=folder,
        run=call,
        release=__version__,
    )
    archive = _make(maker, file)
    archive.replace(file)
    shutil.rmtree(folder)
    return sum(maker.writer.state.counts.values())


def _subject_of(
    store: Store, tenants: Tenants, app: str, user: str
) -> tuple[Subject, str]:
    """The user or app to export, and how messages call it: ``app shop``, ``Ann
    (7)``.

    ``user`` is an id or a login; ``""`` means the whole app. Ends the command
    if there is no such user.
    """
    # Also called for a user, because it refuses an app that does not exist.
    settings, left_out = tenants.described(app)
    id = tenants.resolve(app)
    if user:
        user_id, shown_name = _find_user(store, tenants, id, user)
        return Subject(id, user_id), shown_name
    subject = Subject(id, user="", settings=settings, left_out=left_out)
    return subject, f"app {app}"


def _make(maker: ArchiveMaker, file: Path) -> Path:
    """Make the archive, print the progress, and return the path of the archive.

    ``file`` is the path to which the caller moves it, for the error text. Ends
    the command if the archive cannot be finished.
    """
    try:
        with long_work("exporting") as say:

            def proceed(state: ArchiveState) -> None:
                """Print the progress."""
                say(f"rows {state.rows}, files {state.entries}, bytes {state.size}")

            return maker.make(proceed)
    except (OSError, ImserverError) as error:
        reason = getattr(error, "strerror", None) or error
        fail(
            f"the export to {file} is not finished; run the same command again to continue: {reason}"
        )


def _find_user(store: Store, tenants: Tenants, app: str, name: str) -> tuple[str, str]:
    """The id of a user with stored data, and how messages call the user.

    ``name`` is the id of the user, or the login of an account. Ends the command
    if no such account exists, or nothing is stored.
    """
    user = name
    shown_name = f"user {name}"
    tenant = tenants.find(app)
    if tenant is not None and tenant.wants_accounts(app):
        user, shown_name = _find_account(store, app, name)
    has_rows = any(True for _ in store.rows_of_user(app, user))
    if not has_rows:
        fail(f"the database has no data of {shown_name}, so nothing was exported")
    return user, shown_name


def _find_account(store: Store, app: str, login: str) -> tuple[str, str]:
    """The id of an account, and how messages call it: ``Ann (7)``.

    ``login`` may also be the id. Ends the command if no such account exists.
    """
    # Imported here: a server may have no accounts.
    from imserver.people.accounts import AccountStore

    row = AccountStore(store).by_id_or_login(app, login)
    if row is None:
        fail(f"app {app} has no account {login}, so nothing was exported")
    account, _ = row
    name = account.name or account.email or account.phone
    if name:
        return account.user, f"{name} ({account.user})"
    return account.user, f"user {account.user}"


@click.command(short_help="Create an app from the archive of an export.")
@settings_options
@click.option(
    "--app",
    default="",
    metavar="NAME",
    help="The name of the new app, or an empty app. Default: the name in the archive.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@long_work("importing")
def import_app(path: str | None, data_dir: str | None, app: str, file: Path) -> None:
    """Create an app from FILE, the archive of an export. Servers may run
    meanwhile.

    Ids, cursors and the order of messages stay the same. Passwords, tokens and
    other secrets are not in an archive. If the command is interrupted, run it
    again to continue.
    """
    try:
        archive = Archive(file)
    except BadArchive as error:
        fail(error)
    with (
        closing(archive),
        opened(path, data_dir) as (config, store, tenants),
        offline_parts(config, store, ArchivedFiles) as parts,
    ):
        store.database_id()  # makes a database if there is none
        name = tenants.resolve(app or archive.manifest.app)
        # The features that store files, such as uploads.
        archived = [each for _, each in parts]
        report = partial(click.echo, err=True)
        job = Import(archived, store, tenants, archive, app=name, report=report)
        _run_import(job)
        record_act(config, store, "apps.import", name)
    click.echo(
        f"app {name} imported; accounts have no passwords until somebody sets them"
    )


def _run_import(job: Import) -> None:
    """Import an archive, and print what is left out.

    Ends the command if the archive cannot be imported.
    """
    try:
        job.run()
    except ImserverError as error:
        fail(error)
    for table, why in job.left_out.items():
        click.echo(f"not imported: {table}: {why}", err=True)
