"""``imserver depart``: writes an app, or some of its conversations, as an
archive of another server."""

from contextlib import closing
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import click

from imserver.media.uploads import Uploads, UploadSettings
from imserver.plugin.commands import fail, opened, record_act, settings_options
from imserver.plugin.messages import MessageLog
from imserver.plugin.progress import long_work
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Store

from .departure import Departure
from .destination import tenant_of
from .formats import WRITERS
from .report import print_problems
from .writing import open_private


@click.command(short_help="Write an app as an archive that another server imports.")
@settings_options
@click.option(
    "--app", required=True, help="The app to write. Its users must be accounts."
)
@click.option(
    "--as",
    "name",
    required=True,
    type=click.Choice(list(WRITERS)),
    help="The format of the archive.",
)
@click.option(
    "--group",
    "groups",
    type=int,
    multiple=True,
    metavar="ID",
    help="Only this group and its members.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def depart(
    path: str | None,
    data_dir: str | None,
    app: str,
    name: str,
    groups: tuple[int, ...],
    file: Path,
) -> None:
    """Write all people, groups, messages and files of an app to a new FILE, an
    archive for another server.

    The archive also has the direct messages of all users, so keep it to
    yourself. Servers may run meanwhile. An interrupted command leaves
    FILE.part. Run the command again, and it starts from the beginning. The exit
    status is 1 if a file is damaged; the rest is written.
    """
    if file.exists():
        fail(f"{file} exists already")
    part = file.with_name(f"{file.name}.part")
    with opened(path, data_dir, reads=True) as (config, store, tenants):
        app = tenant_of(tenants, app).name
        _require_groups(store, app, groups)
        settings = settings_of(config, UploadSettings)
        with closing(Uploads(settings, config.server.data_dir, store)) as uploads:
            archive = _read_app(store, app, uploads, groups)
            with closing(archive):
                _write_archive(archive, app, name, part)
                record_act(config, store, f"{name}.export", app, groups=list(groups))
                part.replace(file)
    click.echo(f"{file}: bytes {file.stat().st_size:,}")
    print_problems(archive.problems, "not written, or different:")


def _read_app(
    store: Store, app: str, uploads: Uploads, groups: tuple[int, ...]
) -> Departure:
    """Read an app in the form of an archive, and show the progress."""
    with long_work("reading") as say:
        return Departure(
            store, app, uploads, groups, lambda n: say(f"reading: {n} messages")
        )


def _write_archive(archive: Departure, app: str, format: str, path: Path) -> None:
    """Write an app to a new zip file in the format of another server.

    Ends the command with an error if the disk is full, for example.
    """
    with long_work("writing") as say:
        try:
            with (
                open_private(path) as target,
                ZipFile(target, "w", ZIP_DEFLATED) as packed,
            ):
                WRITERS[format](archive, app).write(
                    packed, lambda n: say(f"writing: {n} messages")
                )
                target.flush()
        except OSError as error:
            fail(f"the archive {path} is not finished: {error}")


def _require_groups(store: Store, app: str, groups: tuple[int, ...]) -> None:
    """End the command with an error if the app does not have all of these
    groups."""
    if not groups:
        return
    rows = store.part(MessageLog).conversations.find(app, groups)
    missing = set(groups) - {row.id for row in rows}
    if missing:
        fail(f"app {app} has no group {', '.join(map(str, sorted(missing)))}")
