"""``imserver token``: session tokens and channel tokens, for trying out what a
back end does by itself."""

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from time import time

import click

from imserver.gateway.auth.issuers import Issuers
from imserver.gateway.auth.json_web_tokens import BadToken, JsonWebToken
from imserver.gateway.auth.tenants import Tenant, Tenants
from imserver.gateway.auth.tokens import (
    BadKey,
    Claims,
    derived_secret,
    load_keys,
    make_token,
    read_token,
    text_of_key,
)
from imserver.gateway.config.settings import Config, JwtSettings
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.offline import opened, record_act, settings_options
from imserver.gateway.process import DataDirectory, Secret
from imserver.gateway.terminal import (
    CommandLine,
    deprecated_form,
    fail,
    given_once,
    person_of,
    required_once,
)
from imserver.gateway.transport.outgoing import Outgoing

_app_option = click.option(
    "--app", "name", required=True, metavar="NAME", help="The app."
)


@click.group()
def token() -> None:
    """Create and check session tokens, with which users log in to apps with the
    setting jwt, and channel tokens."""


@token.command()
@settings_options
@click.option("--app", "name", metavar="NAME", hidden=True)
@click.option("--user", "option", metavar="ID", hidden=True)
@click.option(
    "--channel",
    default="",
    metavar="NAME",
    help="Create a channel token, to subscribe to NAME.",
)
@CommandLine.duration(
    "--expires",
    "seconds",
    "The token expires after this time.",
    default="1h",
    old="--seconds",
    unit=1,
)
@click.option(
    "--kid",
    metavar="NAME",
    help="Sign with the key of this kid. Default: the first key of the app.",
)
@click.option(
    "--key-file",
    metavar="FILE",
    help="File with the private key (PEM). A key that is a secret needs no file.",
)
@click.argument("person", metavar="APP/USER", required=False)
def create(
    path: str | None,
    data_dir: str | None,
    name: str | None,
    option: str | None,
    channel: str,
    seconds: int,
    kid: str | None,
    key_file: str | None,
    person: str | None,
) -> None:
    """Create a session token for a user of an app, and print it."""
    name, user = _app_and_user(name, option, person)
    with opened(path, data_dir) as (settings, store, tenants):
        tenant = _tenant(tenants, name)
        row = _row(tenant, kid)
        _check_user(tenant, user)
        try:
            key = _signing_key(settings, tenant, row, key_file)
            expires = int(time()) + seconds
            text = make_token(user, tenant.name, expires, row, key, channel)
        except (BadKey, OSError, UnicodeDecodeError) as error:
            fail(error)
        # A command must not make a database only to record this.
        if store.has_database:
            facts: dict[str, object] = {"seconds": seconds}
            if channel:
                facts["channel"] = channel
            record_act(settings, store, "tokens.create", tenant.name, user, **facts)
    click.echo(text)


def _app_and_user(
    name: str | None, option: str | None, person: str | None
) -> tuple[str, str]:
    """Return the app and the user of a command.

    They are ``person``, in the form ``APP/USER``. An earlier release had the
    app ``name`` and the user in two options.
    """
    if name is None:
        return person_of(_words(person, option), "APP/USER")
    user = required_once("APP/USER", person, option)
    deprecated_form("--app NAME USER", "APP/USER")
    return name, user


def _signing_key(
    settings: Config, tenant: Tenant, row: JwtSettings, key_file: str | None
) -> str:
    """Return the key that signs a token: a private key, or a secret.

    ``key_file``: the option with a private key; None: the app must have a
    secret. Ends the command if nobody has given a key. Raises BadKey, OSError
    and UnicodeDecodeError.
    """
    if key_file is not None:
        return Path(key_file).read_text(encoding="utf-8")
    if not row.algorithm.startswith("HS"):
        fail(
            f"the app has only the public key of {row.algorithm}: give the private key with --key-file"
        )
    key = text_of_key(row, _secret(settings, row), tenant.name)
    # Raises BadKey for a key that a server would refuse.
    load_keys([row], _secret(settings, row), tenant.name)
    return key


def _check_user(tenant: Tenant, user: str) -> None:
    """End the command if the app does not accept this user id."""
    longest = tenant.user_bytes_of(tenant.name)
    given = os.fsencode(user)  # the bytes of the argument
    is_utf8 = given.decode(errors="replace") == user
    if not 0 < len(given) <= longest or not is_utf8:
        fail(
            f"USER: expected 1 to {longest} bytes of UTF-8, as app {tenant.name} allows"
        )


@token.command()
@settings_options
@click.option("--app", "option", metavar="NAME", help="The same as the argument APP.")
@click.argument("app", required=False)
def secret(
    path: str | None, data_dir: str | None, option: str | None, app: str | None
) -> None:
    """Print the derived HS256 secret of APP, whose jwt entry has no key.

    The secret is derived from the server's secret, so it is the same on all
    nodes. The back end of the app signs session tokens with this secret.
    """
    name = required_once("APP", app, option)
    with opened(path, data_dir) as (settings, store, tenants):
        tenant = _tenant(tenants, name)
        # An entry with a key of its own has no derived secret.
        row = next((row for row in tenant.jwt if not (row.key or row.key_file)), None)
        if row is None:
            fail(f"app {tenant.name} has no jwt entry without a key")
        text = derived_secret(_secret(settings, row).first, tenant.name)
        if store.has_database:
            record_act(settings, store, "tokens.secret", tenant.name)
    click.echo(text)


@token.command()
@settings_options
@CommandLine.prints_data
@_app_option
@click.argument("shown", metavar="TOKEN")
def check(path: str | None, data_dir: str | None, name: str, shown: str) -> None:
    """Check whether a token is valid for an app, and if not, say why. If TOKEN
    is "-", it is read from standard input.

    The exit status is 1 if the app would refuse the token. Tokens of accounts
    are not checked.
    """
    if shown == "-":
        shown = sys.stdin.read().strip()
    with opened(path, data_dir) as (settings, _, tenants):
        tenant = _tenant(tenants, name)
        if not tenant.jwt:
            fail(f"app {tenant.name} has no key for session tokens (setting jwt)")
        if not CommandLine.wants_json():
            _print_parts(shown)
        # An issuer may have to be asked for its keys.
        with closing(Outgoing()) as outgoing:
            try:
                claims = _claims_of(shown, tenant, settings, outgoing)
                # The name of the app in the token may be an alias.
                if tenants.resolve(claims.app) != tenant.name:
                    raise BadToken(f"the token is for another app, {claims.app!r}")
            except (BadKey, BadToken, IssuerUnavailable) as error:
                fail(f"refused: {error}")
    _print_claims(tenant.name, claims)


def _print_claims(app: str, claims: Claims) -> None:
    """Print for which user and how long a token is valid."""
    # The seconds are for people; programs have their own clock.
    seconds = claims.expires_at - int(time())
    answer = {"app": app, "user": claims.user, "expires_at": claims.expires_at}
    text = f"accepted: user {claims.user!r} of app {app}, for {seconds} more seconds"
    CommandLine.data(answer, text)


def _print_parts(token: str) -> None:
    """Print header and claims of a token, without a check of its signature.

    Prints nothing if the text is no token.
    """
    with suppress(BadToken, UnicodeDecodeError):
        unverified = JsonWebToken.read(token)
        header = unverified.header.decode()
        claims = unverified.unverified_payload.decode()
        click.echo(f"header: {header}\nclaims: {claims}")


def _claims_of(
    token: str, tenant: Tenant, settings: Config, outgoing: Outgoing
) -> Claims:
    """Return the claims of a token that is valid for the app.

    *Claims* are the statements of a token: the user, the app, and when it
    expires. Raises BadKey, BadToken and IssuerUnavailable.
    """
    rows = [row for row in tenant.jwt if row.issuer]
    if rows:
        claims = Issuers(outgoing).claims(tenant.name, rows, token, time())
        if claims is not None:  # None: the token names no issuer of the app
            return claims
    # The server's secret is read only if a key is derived from it. Otherwise
    # the empty secret stands in its place.
    secret = Secret(b"")
    for row in tenant.jwt:
        if not (row.issuer or row.key or row.key_file):
            secret = _secret(settings, row)
            break
    return read_token(token, load_keys(tenant.jwt, secret, tenant.name), time())


def _words(person: str | None, option: str | None) -> list[str]:
    """Return the argument ``APP/USER`` as a list of one word.

    It may have been given as the option ``--user``. The list is empty if
    neither was given.
    """
    word = given_once("APP/USER", person, option)
    if word is None:
        return []
    return [word]


def _tenant(tenants: Tenants, name: str) -> Tenant:
    """Return an app. Ends the command if there is no such app."""
    tenant = tenants.get(tenants.resolve(name))
    if tenant is None:
        fail(f"app {name} does not exist")
    return tenant


def _row(tenant: Tenant, kid: str | None) -> JwtSettings:
    """Return the entry of ``jwt`` whose key signs a token.

    It is the first entry, or the one with this ``kid``. Ends the command if the
    app has no such entry.
    """
    name = tenant.name
    if not tenant.jwt:
        fail(f"app {name} has no key for session tokens (setting jwt)")
    rows = [row for row in tenant.jwt if not row.issuer and kid in (None, row.kid)]
    # All entries of the app name an issuer.
    if not rows and kid is None:
        fail(
            f"app {name} accepts only tokens of its issuers, and only the issuers can make them"
        )
    if not rows:
        fail(f"app {name} has no key with the kid {kid}")
    return rows[0]


def _secret(settings: Config, row: JwtSettings) -> Secret:
    """Return the server's secret, from which the key of an entry is derived.

    It is empty if the entry has a key of its own.
    """
    if row.key or row.key_file:
        return Secret(b"")
    return DataDirectory(settings.server.data_dir).secrets(settings.server)
