"""``imserver app``: the tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from imserver.commands.kept import fail, opened, read_text, settings_options, table
from imserver.config.load import dump_app, read_value
from imserver.config.values import fold


@click.group()
def app() -> None:
    """Create, list, show and change apps. Running servers follow within two seconds.

    Settings are those of an entry of the section apps (see: imserver check-config --defaults), with values as
    in the file: max_connections=5000, origins=[example.org], webhook.url=https://example.org/hook

    SETTING=@FILE reads the value from a file, SETTING=@- from standard input. Secrets (webhook.secret, jwt)
    are read in this way only, because other users of the machine can see the arguments of a command.
    """


@app.command()
@settings_options
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
def create(path: str | None, data_dir: str | None, name: str, settings: tuple[str, ...]) -> None:
    """Create an app."""
    with opened(path, data_dir) as (_, _, tenants):
        if not tenants.register(name, **_fields(settings, {})):
            fail(f"app {name} already exists")
    click.echo(f"app {name} created")


@app.command("list")
@settings_options
def list_apps(path: str | None, data_dir: str | None) -> None:
    """List all apps."""
    with opened(path, data_dir) as (_, _, tenants):
        rows = [
            (
                each.name,
                "configuration" if each.configured else "database",
                each.policy,
                each.same_as,
            )
            for each in tenants.all()
        ]
    click.echo(table(("name", "defined in", "login policy", "same as"), rows))


@app.command()
@settings_options
@click.argument("name")
def show(path: str | None, data_dir: str | None, name: str) -> None:
    """Print an app's settings as YAML; secrets are hidden."""
    with opened(path, data_dir) as (_, _, tenants):
        tenant = tenants.get(name)
    if tenant is None:
        fail(f"app {name} does not exist")
    click.echo(dump_app(tenant), nl=False)


@app.command("set")
@settings_options
@click.option("--unset", multiple=True, metavar="SETTING", help="Reset a setting to its default; repeatable.")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
def change(
    path: str | None, data_dir: str | None, name: str, settings: tuple[str, ...], unset: tuple[str, ...]
) -> None:
    """Change settings of an app and print the result.

    Apps of the configuration file are changed in that file.
    """
    with opened(path, data_dir) as (_, _, tenants):
        before = tenants.get(name)
        plain = {} if before is None else msgspec.to_builtins(before)
        tenant = tenants.change(name, _fields(settings, plain), unset)
    click.echo(dump_app(tenant), nl=False)


def _fields(written: Sequence[str], before: Mapping[str, Any]) -> dict[str, Any]:
    """What was written as ``setting=value``; ``webhook.url=…`` changes one field of what was there before."""
    fields: dict[str, Any] = {}
    for each in written:
        name, equals, value = each.partition("=")
        if not equals:
            fail(f"{each}: expected SETTING=VALUE")
        read = _value(name, value)
        name, _, inner = name.partition(".")
        if not inner:
            fields[name] = read
        else:
            whole = fields.get(name, before.get(name))
            fields[name] = {**(whole if isinstance(whole, dict) else {}), inner: read}
    return fields


def _value(setting: str, written: str) -> Any:
    """The value of one ``setting=written``; ``@file`` and ``@-`` name where it is read from."""
    text = read_text(written[1:]) if written.startswith("@") else written
    value = text.strip() if fold(setting) == "webhook.secret" else read_value(text, setting)
    if text is written and _has_secret(setting, value):
        fail(
            f"{setting}: other users of this machine can see the arguments of a command: "
            f"write the value to a file and give {setting}=@FILE, or {setting}=@- for standard input"
        )
    return value


def _has_secret(setting: str, value: Any) -> bool:
    """Whether a value holds a secret. The ``key`` of RS256 and EdDSA is a public one."""
    name = fold(setting)
    if name == "webhook.secret":
        return bool(value)
    if name == "webhook":
        return isinstance(value, dict) and any(fold(key) == "secret" for key in value)
    rows = value if name == "jwt" and isinstance(value, list) else []
    return any(
        isinstance(row, dict) and "key" in row and row.get("algorithm", "HS256") == "HS256" for row in rows
    )
