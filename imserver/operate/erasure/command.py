"""``imserver erase``: erase a user, or take what was erased out of the files of the database."""

from __future__ import annotations

import click

from imserver.plugin.commands import ServerApi, opened, record_act, settings_options


@click.command(short_help="Erase a user, or compact the database.")
@settings_options
@ServerApi.options
@click.option(
    "--compact",
    "compacts",
    is_flag=True,
    help="Write the files of the database anew, without what was deleted. No server may run.",
)
@click.argument("target", metavar="APP/USER", required=False)
def erase(
    path: str | None, data_dir: str | None, url: str, key_file: str | None, compacts: bool, target: str | None
) -> None:
    """Erase a user of any kind: the account, all that the user wrote, and the name.

    The server must run. Where it wants an API key, set the environment variable IMSERVER_KEY or give
    --key-file. --compact needs all servers stopped, and names no user.
    """
    if compacts:
        if target is not None:
            raise click.UsageError("--compact names no user")
        with opened(path, data_dir) as (settings, store, _):
            store.compact()
            record_act(settings, store, "database.compact")
            click.echo(f"{store.address.shown} has nothing of what was deleted")
        return
    app, _, user = (target or "").partition("/")
    if not (app and user):
        raise click.UsageError("expected APP/USER, or --compact")
    ServerApi(url, key_file).post("users/erase", {"app": app, "user": user})
    click.echo("the user is erased")
