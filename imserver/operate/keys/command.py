"""``imserver key usage`` shows the use of a key. ``imserver key deprecated``
shows who uses things that 2.0 removes."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from time import time
from typing import Any, Final

import click
from msgspec import convert

from imserver.operate.keys.usage import MINUTE, DeprecatedUse, uses_of
from imserver.plugin.commands import (
    CommandLine,
    ServerApi,
    fail,
    opened,
    settings_options,
)
from imserver.plugin.storage import Store

_HOUR: Final = 3600
_MOST_LINES: Final = 1000


def _minute(seconds: int) -> str:
    """A Unix time as date, hour and minute in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _text(text: str) -> str:
    """A text in a table; ``-`` if it is empty."""
    return text or "-"


_TEXTS: Final[dict[str, Any]] = {
    "time": _minute,
    "first": _minute,
    "last": _minute,
    "address": _text,
    "app": _text,
}


@click.command()
@settings_options
@CommandLine.prints_data
@CommandLine.duration(
    "--since",
    "seconds",
    "The period to show, up to now.",
    "1d",
    least=_HOUR,
    old="--hours",
    unit=_HOUR,
)
@click.argument("name", metavar="ID")
def usage(path: str | None, data_dir: str | None, seconds: int, name: str) -> None:
    """Show the requests of the key with this id, the newest first.

    Each row is for one minute, address, route and app. The server stores at
    most 1000 rows for a minute, and counts all other requests of this minute in
    the route "other". The command lists at most 1000 rows.
    """
    now = int(time()) // MINUTE
    with opened(path, data_dir) as (_, store, _):
        _require_key(store, name)
        since = now - seconds // MINUTE
        rows = uses_of(store, name, since=since, until=now, skip=0, limit=_MOST_LINES)
    if not rows:
        CommandLine.data([], "no use is stored; uses are stored once a minute")
        return
    columns = "minute: time, address, route, app, answered, refused"
    CommandLine.rows(columns, rows, **_TEXTS)


def _require_key(store: Store, id: str) -> None:
    """End the command if no stored key has this id.

    Keys of the settings have no row, and ids such as ``config:1f2e``.
    """
    stored = store.keys()
    if not id.startswith("config:") and id not in [row.id for row in stored]:
        fail(f"no key has the id {id}")


class _Row(DeprecatedUse, frozen=True):
    """A line of the table: the use of something deprecated."""

    name: str
    instead: str


@click.command(short_help="Show which deprecated features are used, and by whom.")
@ServerApi.options
@CommandLine.prints_data
@click.option("--app", default="", metavar="NAME", help="Only uses in this app.")
def deprecated(url: str, key_file: str | None, app: str) -> None:
    """Show which deprecated routes and forms of requests are used, by whom, and
    what replaces them.

    The exit status is 1 if a deprecated form is used, because version 2.0
    refuses such requests. The last minute of nodes other than the answering
    node may be missing. Deprecated settings are not listed here; check-config
    names them.
    """
    answer = ServerApi(url, key_file).get("keys/deprecated", {"app": app})
    rows = _rows_of(answer["deprecated"])
    if rows:
        columns = "name, use: instead, key, app, from: address, first, last, answered, refused"

        CommandLine.rows(columns, rows, **_TEXTS)
        fail("version 2.0 will refuse these requests")
    _print_no_uses(answer)


def _print_no_uses(answer: Mapping[str, Any]) -> None:
    """Print since when the server knows that nothing deprecated was used.

    Ends the command if the server does not know it.
    """
    names = ", ".join(feature["name"] for feature in answer["deprecated"])
    if not answer["since"]:
        fail(
            "no use of a key is stored yet, so the server does not know who uses deprecated features"
        )
    since = f"since {_minute(answer['since'])}, on other nodes until a minute ago,"
    CommandLine.data([], f"{since} nobody has used a deprecated feature: {names}")


def _rows_of(features: Iterable[Mapping[str, Any]]) -> list[_Row]:
    """The uses of deprecated features, the latest first."""
    rows = []
    for feature in features:
        form = {"name": feature["name"], "instead": feature["instead"]}
        rows += [convert({**use, **form}, _Row) for use in feature["uses"]]
    return sorted(rows, key=attrgetter("last"), reverse=True)
