"""``imserver app events``: the events that the webhook of an app refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import click

from imserver.features.webhooks.dead_events import list_retries, replay_dead
from imserver.plugin.commands import fail, opened, record_act, settings_options

_MOST: Final = 1000
_HEAD: Final = ("event", "user", "attempts", "first failed")


@click.command()
@settings_options
@click.option("--dead", is_flag=True, help="List events that the receiver did not take for three days.")
@click.option("--replay", metavar="ID", help="Send a dead event again, or all of them (all).")
@click.argument("name")
def events(path: str | None, data_dir: str | None, dead: bool, replay: str | None, name: str) -> None:
    """List or replay events that a webhook refused.

    Without --dead it lists the oldest 1000 that are still tried again.
    """
    with opened(path, data_dir) as (settings, store, tenants):
        if tenants.get(name) is None:
            fail(f"app {name} does not exist")
        app = tenants.resolve(name)
        if replay is not None:
            count = replay_dead(store, app, "" if replay == "all" else replay)
            if not count and replay != "all":
                fail(f"app {name} has no dead event {replay}")
            record_act(settings, store, "events.replay", app, id=replay, count=count)
            click.echo(f"{count} events are sent again")
            return
        rows = list_retries(store, app, dead, 0, _MOST)
    lines = [_HEAD, *((row.event, row.user, str(row.attempts), _time(row.first_failed)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
