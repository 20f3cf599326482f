"""``imserver moderate``: what moderators do, by commands that change the database. Servers follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time
from typing import Any, Final

import click

from imserver.features.safety.moderation import FOR_GOOD
from imserver.features.safety.removals import Removals, UnknownAct
from imserver.features.safety.rows import MuteRow, Removal, SafetyRows
from imserver.plugin.commands import fail, opened, settings_options
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import Store, text_of

_HOUR: Final = 3600
_reason: Final = click.option("--reason", default="", help="Why. The user sees it.")


@click.group()
def moderate() -> None:
    """Delete messages, mute and ban users, list reports. Servers may run meanwhile."""


@contextmanager
def _app(path: str | None, data_dir: str | None, name: str) -> Iterator[tuple[Store, str]]:
    with opened(path, data_dir) as (_, store, tenants):
        app = tenants.resolve(name)
        if tenants.find(app) is None:
            fail(f"app {name} does not exist")
        yield store, app


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("messages", nargs=-1, required=True, type=int)
def delete(path: str | None, data_dir: str | None, app: str, messages: Sequence[int]) -> None:
    """Delete messages for everybody. They may come back for a minute."""
    with _app(path, data_dir, app) as (store, name):
        _say(Removals(SafetyRows(store)).remove(name, "", messages, False), store)


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("user")
@click.option(
    "--hours", type=click.IntRange(1, 24 * 366), default=24, show_default=True, help="How far back."
)
@click.option("--count", is_flag=True, help="Only count them.")
def clear(path: str | None, data_dir: str | None, app: str, user: str, hours: int, count: bool) -> None:
    """Delete the messages of a user for everybody. They may come back for a minute."""
    with _app(path, data_dir, app) as (store, name):
        since = (int(time()) - hours * _HOUR) * 1000
        if count:
            click.echo(
                f"{sum(store.part(MessageLog).removals.count(name, user, since, 0).values())} messages"
            )
            return
        removals = Removals(SafetyRows(store))
        removal = removals.begin(name, user, since, 0)
        while not removals.wait(removal, _HOUR):
            pass
        _say(removal, store)


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("act")
def undo(path: str | None, data_dir: str | None, app: str, act: str) -> None:
    """Bring deleted messages back."""
    with _app(path, data_dir, app) as (store, name):
        removals = Removals(SafetyRows(store))
        try:
            removal = removals.undo(name, act)
        except UnknownAct:
            fail(f"there is no removal {act}, or its time to be undone is over")
        while not removals.wait(removal, _HOUR):
            pass
        click.echo("the messages are back")


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("user")
@click.option("--seconds", type=click.IntRange(1, 366 * 86400), default=_HOUR, show_default=True)
@_reason
def mute(path: str | None, data_dir: str | None, app: str, user: str, seconds: int, reason: str) -> None:
    """Let a user send nothing in an app for a time."""
    with _app(path, data_dir, app) as (store, name):
        until = int(time()) + seconds
        SafetyRows(store).mute(MuteRow(name, user, until, reason), int(time()))
        click.echo(f"{user} is muted until {_when(until)}")


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("user")
def unmute(path: str | None, data_dir: str | None, app: str, user: str) -> None:
    """Let a muted user send again."""
    with _app(path, data_dir, app) as (store, name):
        SafetyRows(store).mute(MuteRow(name, user, int(time()) - 1, ""), int(time()))
        click.echo(f"{user} may send")


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("user")
@click.option(
    "--seconds",
    type=click.IntRange(0, 366 * 86400),
    default=0,
    help="For how long; 0, the default: for good.",
)
@_reason
def ban(path: str | None, data_dir: str | None, app: str, user: str, seconds: int, reason: str) -> None:
    """End the sessions of a user and refuse logins."""
    with _app(path, data_dir, app) as (store, name):
        store.ban(name, [user], seconds or FOR_GOOD, reason)
        click.echo(f"{user} is banned {'until ' + _when(int(time()) + seconds) if seconds else 'for good'}")


@moderate.command()
@settings_options
@click.argument("app")
@click.argument("user")
def unban(path: str | None, data_dir: str | None, app: str, user: str) -> None:
    """Let a banned user log in again."""
    with _app(path, data_dir, app) as (store, name):
        store.ban(name, [user], 0)
        click.echo(f"{user} may log in")


@moderate.command()
@settings_options
@click.argument("app")
def reports(path: str | None, data_dir: str | None, app: str) -> None:
    """List the open reports of an app."""
    with _app(path, data_dir, app) as (store, name):
        statement = (
            "SELECT id, member, message, reporters, changed FROM report WHERE app = %s AND closed = 0 "
            "ORDER BY changed DESC LIMIT 1000"
        )
        rows: list[Any] = store.rows(statement, (name,))
        for id, user, message, reporters, changed in rows:
            what = f"message {message} of {text_of(user)}" if message else f"{text_of(user)}"
            click.echo(f"{text_of(id)}  {_when(changed)}  {what}, by {reporters}")


def _say(removal: Removal, store: Store) -> None:
    count = store.part(MessageLog).removals.copies(removal.app, removal.id)
    click.echo(f"{count} messages deleted; to undo it until {_when(removal.ends)}: {removal.id}")


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
