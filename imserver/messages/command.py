"""``imserver search rebuild``: makes the index of words anew."""

from __future__ import annotations

import click

from imserver.messages.log.message_log import MessageLog
from imserver.plugin.commands import fail, opened, record_act, settings_options


@click.group()
def search() -> None:
    """Make the index of words anew."""


@search.command()
@settings_options
@click.argument("app", required=False)
def rebuild(path: str | None, data_dir: str | None, app: str | None) -> None:
    """Delete the index of words of APP, or of all apps, and make it anew.

    Servers may run meanwhile: a search scans what is not in the index yet. If it was ended, call it again.
    """
    with opened(path, data_dir) as (settings, store, _):
        stored = store.part(MessageLog)
        apps = stored.entries.apps()
        if app is not None and app not in apps:
            fail(f"app {app} has no messages")
        for name in apps if app is None else [app]:
            stored.words.erase(name)
            segments = 0
            while stored.words.fill(name):
                segments += 1
            record_act(settings, store, "search.rebuild", name)
            click.echo(f"{name}: {segments} segments")
