"""``imserver from-centrifugo``: settings of Centrifugo become settings of this server."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec

from imserver.dialects.centrifuge.migration import Migration
from imserver.dialects.centrifuge.migration_options import BadSettings
from imserver.plugin.commands import fail, read_yaml, write_yaml
from imserver.plugin.settings import ConfigError, valid_name


@click.command("from-centrifugo")
@click.option("--app", default="default", show_default=True, metavar="NAME", help="The app of its clients.")
@click.option("--secrets", is_flag=True, help="Print keys and secrets instead of placeholders.")
@click.argument("file")
def from_centrifugo(app: str, secrets: bool, file: str) -> None:
    """Print the settings that correspond to FILE, the configuration of a Centrifugo 5 or 6.

    FILE is JSON, YAML or TOML; -: standard input. What is not carried over is listed in comments, and on
    standard error if the output is redirected. Environment variables of Centrifugo are not read.
    """
    if not valid_name(app):
        fail(f"{app!r} is no name of an app")
    try:
        migration = Migration(_document(file, _text_of(file)), app, secrets)
    except BadSettings as error:
        fail(f"{file}: {error}")
    if migration.notes:
        click.echo("# Not the same as in Centrifugo (docs/guides/from-centrifugo.md):")
    for note in migration.notes:
        click.echo(f"# - {note}")
        if not sys.stdout.isatty():
            click.echo(f"imserver: {note}", err=True)
    click.echo(write_yaml(migration.settings), nl=False)


def _text_of(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}")


def _document(file: str, text: str) -> dict[str, Any]:
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        document = msgspec.json.decode(text) if text.lstrip().startswith("{") else read_yaml(text, file)
    except (ValueError, RecursionError, ConfigError) as error:
        fail(error if isinstance(error, ConfigError) else f"{file}: {error}")
    if not isinstance(document, dict):
        fail(f"{file}: expected an object")
    return document
