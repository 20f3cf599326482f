"""``imserver key usage``: what a key did."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import Final

import click

from imserver.operate.keys.usage import uses_of
from imserver.plugin.commands import fail, opened, settings_options, table

_MOST: Final = 1000


@click.command()
@settings_options
@click.option(
    "--hours", type=click.IntRange(1), default=24, show_default=True, help="What it did in so many hours."
)
@click.argument("name", metavar="ID")
def usage(path: str | None, data_dir: str | None, hours: int, name: str) -> None:
    """Show what the key with this id did, the newest first.

    A line is for a minute, an address, a route and an app. Of each minute the server stores 1000 rows at
    most, and the rest as the route "other". It lists 1000 rows.
    """
    now = int(time()) // 60
    with opened(path, data_dir) as (_, store, _):
        stored = store.keys()
        if not name.startswith("config:") and name not in [row.id for row in stored]:
            fail(f"no key has the id {name}")
        rows = uses_of(store, name, now - hours * 60, now, 0, _MOST)
    texts = {
        "time": lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M"),
        **dict.fromkeys(("address", "app"), lambda text: text or "-"),
    }
    click.echo(table("minute: time, address, route, app, answered, refused", rows, **texts))
