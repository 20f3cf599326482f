"""``imserver key``: the keys with which back ends call the HTTP API."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

import click

from imserver.offline import day, opened, settings_options
from imserver.storage.contract import KeyRow
from imserver.terminal import fail, table

PREFIX: Final = "imk_"
"""The prefix of keys. By it people, and tools that look for leaked secrets, recognise a key."""
NOTE_CHARACTERS: Final = 200

_Scope: Final = click.Choice(["push", "read", "admin"])
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 6
_CLOSED_SHOWN: Final = 20
_CONFIGURED: Final = "config:"
"""The prefix of ids of keys in the settings."""


@click.group()
def key() -> None:
    """Create, list and revoke API keys. Running servers follow within two seconds."""


@key.command()
@settings_options
@click.option(
    "--scope", "more", type=_Scope, multiple=True, help="The same as an argument SCOPE; repeatable."
)
@click.option("--app", "apps", multiple=True, metavar="NAME", help="Limit the key to this app; repeatable.")
@click.option("--note", default="", help="A note for people.")
@click.argument("scopes", type=_Scope, nargs=-1, metavar="SCOPE...")
def create(
    path: str | None,
    data_dir: str | None,
    more: tuple[str, ...],
    apps: tuple[str, ...],
    note: str,
    scopes: tuple[str, ...],
) -> None:
    """Create a key and print it once. Only its digest is stored.

    SCOPE says what the key may do: push, read, or admin, which includes all.
    """
    scopes = tuple(dict.fromkeys((*scopes, *more)))
    if not scopes:
        raise click.UsageError("Missing argument 'SCOPE...': push, read or admin.")
    if len(note) > NOTE_CHARACTERS:
        fail(f"--note: at most {NOTE_CHARACTERS} characters")
    if not note.isprintable():
        fail("--note: expected one line of printable text")
    secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    with opened(path, data_dir) as (settings, store, tenants):
        for name in apps:
            if tenants.get(name) is None:
                fail(f"--app {name}: this app does not exist")
        bound = dict.fromkeys(map(tenants.resolve, apps))
        row = KeyRow(secrets.token_hex(_ID_BYTES), _digest(secret), scopes, tuple(bound), note)
        first = settings.demo and not list(store.keys())
        store.add_key(row)
        closed = [
            each.name for each in tenants.all() if not (each.open or each.has_login_rule or each.same_as)
        ]
    click.echo(f"The id of this key is {row.id}. Save the key: it is not shown again.", err=True)
    if first:
        click.echo(
            "Demo mode ends: requests need a key from now on. Sessions stay until they end; new logins "
            "follow the rules of their app.",
            err=True,
        )
        if closed:
            click.echo(
                f"Nobody can log in any more to: {', '.join(closed[:_CLOSED_SHOWN])}"
                f"{', …' if len(closed) > _CLOSED_SHOWN else ''}. Give an app a login rule (jwt, "
                "account_tokens, webhook.authorise_url), or let anybody in with open: true.",
                err=True,
            )
    click.echo(secret)


@key.command("list")
@settings_options
def list_keys(path: str | None, data_dir: str | None) -> None:
    """List all keys, the revoked ones too."""
    with opened(path, data_dir) as (settings, store, _):
        rows = store.keys()
    body = [
        (
            f"{_CONFIGURED}{_digest(each.key)[:8]}",
            ",".join(each.scopes),
            ",".join(each.apps) or "all",
            "",
            "",
            "",
        )
        for each in settings.api.keys
    ]
    body += [
        (
            row.id,
            ",".join(row.scopes),
            ",".join(row.apps) or "all",
            day(row.created),
            day(row.revoked),
            row.note,
        )
        for row in rows
    ]
    click.echo(table(("id", "scopes", "apps", "created", "revoked", "note"), body))


@key.command()
@settings_options
@click.argument("name", metavar="ID")
def revoke(path: str | None, data_dir: str | None, name: str) -> None:
    """Revoke the key with this id. This cannot be undone."""
    if name.startswith(_CONFIGURED):
        fail(f"{name} is a key of the settings: remove it from api.keys, then send SIGHUP to running servers")
    with opened(path, data_dir) as (_, store, _):
        revoked = store.revoke_key(name) if store.address.exists else None
    if revoked is None:
        fail(f"no key has the id {name}")
    click.echo("revoked" if revoked else "already revoked")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
