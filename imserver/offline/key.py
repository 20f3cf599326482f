"""``imserver key``: the keys with which back ends call the HTTP API."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any, Final

import click

from imserver.gateway.auth.authority import CONFIGURED, configured_key
from imserver.gateway.auth.principal import SCOPES
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.config.settings import Config
from imserver.gateway.offline import (
    day,
    opened,
    record_act,
    rows_below,
    settings_options,
)
from imserver.gateway.storage.contract import KeyRow
from imserver.gateway.storage.store import Store
from imserver.gateway.terminal import CommandLine, GroupOfRows, fail, lines_of

_Scope: Final = click.Choice(tuple(SCOPES))
_CLOSED_SHOWN: Final = 20
_COLUMNS: Final = "id, scopes, apps, created, expires, revoked, last used: used, from: used_from, note"


def _apps_as_text(apps: Iterable[str]) -> str:
    """Return the apps of a key; a key without apps reaches all of them."""
    return ",".join(apps) or "all"


_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "scopes": ",".join,
    "apps": _apps_as_text,
    "created": day,
    "expires": day,
    "revoked": day,
    "used": day,
}


@click.group(cls=GroupOfRows, rows=partial(rows_below, "key"))
def key() -> None:
    """Create, list, show, rotate and revoke API keys. Running servers apply a
    change within two seconds."""


@key.command()
@settings_options
@click.option(
    "--scope",
    "more",
    type=_Scope,
    multiple=True,
    help="The same as an argument SCOPE; repeatable.",
)
@click.option(
    "--app",
    "apps",
    multiple=True,
    metavar="NAME",
    help="Limit the key to this app; repeatable.",
)
@click.option("--note", default="", help="A note for people.")
@CommandLine.duration(
    "--expires", "expires", "The key expires after this time, such as 90d, 12h or 4w."
)
@click.argument("scopes", type=_Scope, nargs=-1, metavar="SCOPE...")
def create(
    path: str | None,
    data_dir: str | None,
    more: tuple[str, ...],
    apps: tuple[str, ...],
    note: str,
    expires: int | None,
    scopes: tuple[str, ...],
) -> None:
    """Create a key and print it once. Only its digest is stored.

    SCOPE says what the key may do: push, read, metrics or admin. A key with
    metrics may read only figures, which read includes. A key with admin may do
    everything.
    """
    scopes = tuple(dict.fromkeys((*scopes, *more)))
    if not scopes:
        raise click.UsageError(
            "Missing argument 'SCOPE...': push, read, metrics or admin."
        )
    _check_options(scopes, apps, note)
    with opened(path, data_dir) as (settings, store, tenants):
        resolved_apps = _resolved(apps, tenants)
        row, secret = KeyRow.make(scopes, resolved_apps, note, _end_of(expires))
        # Demo mode ends with the first key.
        ends_demo = settings.demo and not list(store.keys())
        store.add_key(row)
        app = _only_app_of(row)
        facts = {"key": row.id, "scopes": row.scopes, "apps": row.apps}
        record_act(settings, store, "keys.create", app, **facts)
        closed = _open_in_demo_only(tenants)
    click.echo(
        f"The id of this key is {row.id}. Save the key: it is not shown again.",
        err=True,
    )
    if ends_demo:
        _say_demo_ends(closed)
    click.echo(secret)


def _resolved(apps: Iterable[str], tenants: Tenants) -> tuple[str, ...]:
    """Return apps by their names in place of aliases, each once.

    Ends the command if an app does not exist.
    """
    for name in apps:
        if tenants.get(name) is None:
            fail(f"--app {name}: this app does not exist")
    return tuple(dict.fromkeys(map(tenants.resolve, apps)))


def _check_options(scopes: Sequence[str], apps: Sequence[str], note: str) -> None:
    """End the command if no key can have these scopes, apps and note."""
    if scopes == ("metrics",) and apps:
        fail("--app: the scope metrics reads figures of all apps, so leave --app out")
    if len(note) > KeyRow.NOTE_CHARACTERS or not note.isprintable():
        fail(
            f"--note: expected one line of at most {KeyRow.NOTE_CHARACTERS} printable characters"
        )


def _end_of(seconds: int | None) -> int:
    """Return the end of a new key, in Unix seconds; 0 if it never ends.

    ``seconds``: the option, after how many seconds it ends.
    """
    if not seconds:
        return 0
    return int(time()) + seconds


def _only_app_of(row: KeyRow) -> str:
    """Return the app of a key that is limited to one app, or ``""``."""
    if len(row.apps) != 1:
        return ""
    return row.apps[0]


def _open_in_demo_only(tenants: Tenants) -> list[str]:
    """Return the apps to which users can log in only in demo mode."""
    return [
        tenant.name
        for tenant in tenants.all()
        if not (tenant.open or tenant.has_login_rule or tenant.same_as)
    ]


def _say_demo_ends(closed: Sequence[str]) -> None:
    """Print what changes when demo mode ends.

    ``closed``: the apps to which nobody can log in any more.
    """
    click.echo(
        "Demo mode has ended, so requests need a key from now on. Existing sessions "
        "continue; new logins follow the rules of their app.",
        err=True,
    )
    if not closed:
        return
    names = ", ".join(closed[:_CLOSED_SHOWN])
    if len(closed) > _CLOSED_SHOWN:
        names += ", …"
    click.echo(
        f"Nobody can log in any more to: {names}. Give an app a login rule (jwt, "
        "account_tokens, webhook.authorise_url), or let anybody in with open: true.",
        err=True,
    )


@key.command("list")
@settings_options
@CommandLine.prints_data
def list_keys(path: str | None, data_dir: str | None) -> None:
    """List all keys, including revoked and expired keys."""
    with opened(path, data_dir) as (settings, store, _):
        rows = _keys(settings, store)
    CommandLine.rows(_COLUMNS, rows, **_TEXTS)


_FIELDS: Final = (
    "id",
    "scopes",
    "apps",
    "created",
    "expires",
    "revoked",
    "used",
    "used_from",
    "note",
)
"""The fields of a key in JSON."""


@key.command()
@settings_options
@CommandLine.prints_data
@click.argument("name", metavar="ID")
def show(path: str | None, data_dir: str | None, name: str) -> None:
    """Show the key with this id, one line for each of its fields."""
    with opened(path, data_dir) as (settings, store, _):
        row = next((each for each in _keys(settings, store) if each.id == name), None)
    if row is None:
        fail(f"no key has the id {name}")
    state = _state_of(row)
    # The table of one key: its headings and its line of values.
    headings, values = lines_of(_COLUMNS, (row,), **_TEXTS)
    text = _text_of_key(row, state, dict(zip(headings, values, strict=True)))
    fields = {name: getattr(row, name) for name in _FIELDS}
    CommandLine.data({"state": state, **fields}, text)


def _text_of_key(row: KeyRow, state: str, values: dict[str, str]) -> str:
    """Return a key as text, with a line for each of its fields.

    ``values``: heading of a column of the list of keys → the key's value.
    """
    # The address of the last use is shown in the line of its time.
    address = values.pop("from")
    lines = {
        "id": row.id,
        "state": state,
        **values,
        "expires": values["expires"] or "never",
        "last used": _last_use(row, values["last used"], address),
    }
    return "\n".join(f"{label:<11}{text}" for label, text in lines.items() if text)


def _state_of(row: KeyRow) -> str:
    """Return whether a key is valid, in one word."""
    if row.revoked:
        return "revoked"
    if row.has_ended(time()):
        return "expired"
    return "valid"


def _last_use(row: KeyRow, used: str, address: str) -> str:
    """Return when and from where a key was used last.

    An example is "2026-05-03 from ::1". ``used``: the time; ``""``: it was not
    used. The result is ``""`` for a key of the settings, whose last use is not
    stored.
    """
    if row.id.startswith(CONFIGURED):
        return ""
    if not used:
        return "never"
    return f"{used} from {address}"


@key.command()
@settings_options
@CommandLine.duration(
    "--grace",
    "grace",
    "The old key expires after this time. 0 means at once.",
    "1d",
    least=0,
)
@CommandLine.duration(
    "--expires", "expires", "The new key expires after this time, such as 90d."
)
@click.argument("name", metavar="ID")
def rotate(
    path: str | None, data_dir: str | None, grace: int, expires: int | None, name: str
) -> None:
    """Replace the key with this id, and print the new key once.

    The new key has the same scopes, apps and note. The old key expires after
    the time of --grace.
    """
    _refuse_configured(name)
    row, secret = KeyRow.make(expires=_end_of(expires))
    with opened(path, data_dir) as (settings, store, _):
        stored = _replace_key(store, name, row, grace)
        app = _only_app_of(stored)
        facts = {"key": name, "id": stored.id, "grace_seconds": grace}
        record_act(settings, store, "keys.rotate", app, **facts)
    ends = f"The key {name} has expired"
    if grace:
        ends = f"The key {name} expires at {day(int(time()) + grace)} UTC"
    click.echo(
        f"{ends}. The id of the new key is {stored.id}. Save it: it is not shown again.",
        err=True,
    )
    click.echo(secret)


@key.command()
@settings_options
@click.argument("name", metavar="ID")
def revoke(path: str | None, data_dir: str | None, name: str) -> None:
    """Revoke the key with this id. This cannot be undone."""
    _refuse_configured(name)
    with opened(path, data_dir) as (settings, store, _):
        # None: there is no such key. False: it was revoked before.
        revoked = None
        if store.address.exists:
            revoked = store.revoke_key(name)
        if revoked:
            record_act(settings, store, "keys.revoke", key=name)
    if revoked is None:
        fail(f"no key has the id {name}")
    if revoked:
        click.echo("revoked")
    else:
        click.echo("already revoked")


def _refuse_configured(name: str) -> None:
    """End the command if the key is one of the settings."""
    if name.startswith(CONFIGURED):
        fail(
            f"{name} is a key of the settings: remove it from api.keys, then send SIGHUP to running servers"
        )


def _keys(settings: Config, store: Store) -> list[KeyRow]:
    """Return the keys of the settings, and then the keys of the database."""
    return [*map(configured_key, settings.api.keys), *store.keys()]


def _replace_key(store: Store, name: str, new: KeyRow, grace: int) -> KeyRow:
    """Replace the key with the id ``name``, and return the stored new key.

    ``grace``: the seconds after which the old key expires. Ends the command if
    there is no such key.
    """
    stored = None
    # Without a database no key exists that could be replaced.
    if store.address.exists:
        stored = store.rotate_key(name, new, grace)
    if stored is None:
        fail(f"no valid key has the id {name}")
    return stored
