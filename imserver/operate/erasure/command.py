"""``imserver erase``: erase a user, or take what was erased out of the files of the database."""

from __future__ import annotations

import sys
from time import monotonic, sleep
from typing import Final

import click

from imserver.operate.erasure.declared import MOST_SECONDS
from imserver.plugin.commands import ServerApi, fail, opened, record_act, settings_options
from imserver.plugin.progress import long_work

_UNDO_SECONDS: Final = 60
_SAY_SECONDS: Final = 15
_LONGEST_SECONDS: Final = 120
_GOES_ON: Final = "the server tries again and again, and its log says what fails (erasure_due)"


@click.command(short_help="Erase a user, or compact the database.")
@ServerApi.options
@settings_options
@click.option(
    "--compact",
    "compacts",
    is_flag=True,
    help="Write the files of the database anew, without what was deleted. No server may run.",
)
@click.option(
    "--after",
    type=click.IntRange(0, MOST_SECONDS),
    metavar="SECONDS",
    help="Begin then. By default at once, and after 60 for somebody at a terminal.",
)
@click.option("--undo", "undoes", is_flag=True, help="Take back an erasure that has not begun.")
@click.option("--reason", default="", help="Why, for the audit log.")
@click.argument("target", metavar="APP/USER", required=False)
def erase(
    path: str | None,
    data_dir: str | None,
    url: str,
    key_file: str | None,
    compacts: bool,
    after: int | None,
    undoes: bool,
    reason: str,
    target: str | None,
) -> None:
    """Erase a user of any kind: the account, all that the user wrote, and the name.

    Until it begins, the user is locked out, and Ctrl-C or --undo takes it back. The server must run. Where it
    wants an API key, set the environment variable IMSERVER_KEY or give --key-file. --compact needs all
    servers stopped, and names no user.
    """
    if compacts:
        if target is not None:
            raise click.UsageError("--compact names no user")
        with opened(path, data_dir) as (settings, store, _), long_work("writing the database anew"):
            if not store.has_database:
                fail(f"{store.address.shown}: there is no such database")
            store.compact()
            record_act(settings, store, "database.compact")
            click.echo(f"{store.address.shown} has nothing of what was deleted")
        return
    app, _, user = (target or "").partition("/")
    if not (app and user):
        raise click.UsageError("expected APP/USER, or --compact")
    server = ServerApi(url, key_file)
    user, shown = server.whom(app, user)
    whom = {"app": app, "user": user}
    if undoes:
        server.post("users/erase/undo", whom)
        click.echo(f"{shown} is not erased; the ban by the erasure has ended")
        return
    is_stored = server.get("users/erase/show", whom).get("stored", True)
    seconds = (_UNDO_SECONDS if sys.stdin.isatty() else 0) if after is None else after
    more = {"seconds": seconds, "reason": reason}
    answer = server.post("users/erase", {**whom, **{name: each for name, each in more.items() if each}})
    if not answer["erased"]:
        click.echo(f"{shown} is locked out, and erased in {seconds} s: Ctrl-C takes it back", err=True)
        _wait(server, whom)
    if not is_stored:  # a node may have had something in its memory
        fail(f"the database had nothing of {shown}: look whether app and id are right")
    click.echo(f"{shown} is erased")


def _wait(server: ServerApi, whom: dict[str, str]) -> None:
    """Wait until a user is erased, or the erasure takes too long. Ctrl-C takes it back."""
    began = last = 0.0
    try:
        while (state := server.get("users/erase/show", whom)["state"]) in ("waiting", "under way"):
            if state == "under way":
                began = began or monotonic()
                seconds = monotonic() - began
                if seconds > _LONGEST_SECONDS:
                    fail(f"not erased after {seconds:.0f} s: {_GOES_ON}")
                if seconds > last + _SAY_SECONDS:
                    last = seconds
                    click.echo(f"not erased after {seconds:.0f} s; {_GOES_ON}", err=True)
            sleep(0.5)
    except KeyboardInterrupt:
        server.post("users/erase/undo", whom)
        state = "none"
    if state == "none":
        fail("the erasure was taken back: the user is not erased; the ban by the erasure has ended")
