"""``imserver search rebuild``, which makes the index of words anew, and the
findings of ``imserver doctor`` about the log."""

from collections.abc import Iterator, Sequence
from time import gmtime, strftime, time
from typing import Final

import click

from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.store import Store
from imserver.messenger.log.lost import ranges_of
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search.word_index import WordIndex
from imserver.plugin.commands import Finding, fail, opened, record_act, settings_options
from imserver.plugin.progress import long_work

_NAMED_SECONDS: Final = 30 * 86_400
"""How long ``doctor`` reports a loss of entries."""


@click.group()
def search() -> None:
    """Rebuild the index of words."""


@search.command()
@settings_options
@click.argument("app", required=False)
@long_work("rebuilding the index of words")
def rebuild(path: str | None, data_dir: str | None, app: str | None) -> None:
    """Delete the index of words of APP, or of all apps, and rebuild it.

    Servers may run meanwhile, because a search scans messages that are not in
    the index yet. If the command is interrupted, run it again.
    """
    with opened(path, data_dir) as (settings, store, _):
        words = store.part(WordIndex)
        for name in _apps_with_messages(store, app):
            segments = _rebuild_index(words, name)
            record_act(settings, store, "search.rebuild", name)
            click.echo(f"segments of {name}: {segments}")


def _apps_with_messages(store: Store, app: str | None) -> Sequence[str]:
    """Return the apps with messages, or only ``app`` if it is not None.

    The command fails if this app has no messages.
    """
    apps = store.part(MessageLog).entries.apps()
    if app is None:
        return apps
    if app not in apps:
        fail(f"app {app} has no messages")
    return [app]


def _rebuild_index(words: WordIndex, app: str) -> int:
    """Delete the index of an app, and fill it anew.

    Returns the number of *segments*: the parts of the log that are indexed one
    at a time.
    """
    words.erase(app)
    segments = 0
    while words.fill(app):
        segments += 1
    return segments


def check_rows(sql: PooledStatements) -> Iterator[Finding]:
    """Yield a finding if nodes have lately found lost entries.

    Losses older than :data:`_NAMED_SECONDS` are no longer reported.
    """
    rows = sql.query("SELECT app, lost FROM log WHERE lost IS NOT NULL")
    # The last range in the column is the newest loss.
    losses = {text_of(app): ranges_of(lost)[-1].found for app, lost in rows}
    lost = sorted(app for app, at in losses.items() if at > time() - _NAMED_SECONDS)
    if lost:
        when = strftime("%Y-%m-%d %H:%M", gmtime(max(losses[app] for app in lost)))
        yield Finding(
            "warn",
            "lost entries",
            f"at {when} UTC the database had lost its newest commits: "
            f"{', '.join(lost)}",
            "a replica that was behind has replaced its primary, or a crash has lost "
            "commits; acknowledged messages are lost",
            "replicate synchronously (docs/operations.md, Replication), and set the "
            "database to flush each commit",
        )
