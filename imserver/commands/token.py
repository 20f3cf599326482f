"""``imserver token``: session tokens, for trying out what a back end does by itself."""

from __future__ import annotations

from pathlib import Path
from time import time

import click

from imserver.auth.tenants import Tenant, Tenants
from imserver.auth.tokens import BadKey, derived_secret, load_keys, make_token, text_of_key
from imserver.commands.kept import fail, opened, settings_options
from imserver.config.settings import Config, JwtSettings
from imserver.lifecycle import DataDirectory

_app_option = click.option("--app", "name", required=True, metavar="NAME", help="The app.")


@click.group()
def token() -> None:
    """Create session tokens. Users log in with them to apps with the setting jwt."""


@token.command()
@settings_options
@_app_option
@click.option("--user", required=True, metavar="ID", help="The user.")
@click.option("--seconds", type=click.IntRange(min=1), default=3600, show_default=True, help="Lifetime.")
@click.option("--kid", metavar="NAME", help="Use the key with this kid; default: the first key of the app.")
@click.option("--key-file", metavar="FILE", help="File with the private key (PEM) for RS256 and EdDSA.")
def create(
    path: str | None,
    data_dir: str | None,
    name: str,
    user: str,
    seconds: int,
    kid: str | None,
    key_file: str | None,
) -> None:
    """Create a token and print it."""
    with opened(path, data_dir) as (settings, _, tenants):
        tenant = _tenant(tenants, name)
        row = _row(tenant, kid)
        try:
            if key_file is not None:
                key = Path(key_file).read_text(encoding="utf-8")
            elif row.algorithm == "HS256":
                key = text_of_key(row, _secret(settings, row), tenant.name)
                load_keys([row], _secret(settings, row), tenant.name)
            else:
                fail(f"the app has the public key of {row.algorithm}: --key-file names the private one")
            made = make_token(user, tenant.name, int(time()) + seconds, row, key)
        except (BadKey, OSError, UnicodeDecodeError) as error:
            fail(error)
    click.echo(made)


@token.command()
@settings_options
@_app_option
def secret(path: str | None, data_dir: str | None, name: str) -> None:
    """Print the derived HS256 secret of an app that has jwt without a key.

    It is derived from the server's secret, so it is the same on all nodes. The app's back end signs with it.
    """
    with opened(path, data_dir) as (settings, _, tenants):
        tenant = _tenant(tenants, name)
        row = next((row for row in tenant.jwt if not (row.key or row.key_file)), None)
        if row is None:
            fail(f"app {tenant.name} has no jwt entry without a key")
        made = derived_secret(_secret(settings, row), tenant.name)
    click.echo(made)


def _tenant(tenants: Tenants, name: str) -> Tenant:
    tenant = tenants.get(tenants.resolve(name))
    if tenant is None:
        fail(f"app {name} does not exist")
    return tenant


def _row(tenant: Tenant, kid: str | None) -> JwtSettings:
    if not tenant.jwt:
        fail(f"app {tenant.name} has no key for session tokens (setting jwt)")
    named = [row for row in tenant.jwt if kid is None or row.kid == kid]
    if not named:
        fail(f"app {tenant.name} has no key with the kid {kid}")
    return named[0]


def _secret(settings: Config, row: JwtSettings) -> bytes:
    """The server's secret, if the row needs it."""
    if row.key or row.key_file:
        return b""
    return DataDirectory(settings.server.data_dir).secret(settings.server.secret_file)
