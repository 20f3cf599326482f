"""The options by which commands name the server, and errors as single lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

Command = TypeVar("Command", bound=Any)

ENVIRONMENT_KEY: Final = "IMSERVER_KEY"


class Commands(click.Group):
    """Commands whose options for the server may stand before each part of their
    name, as in ``--url=X bot list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the options for the server behind the name of the command.

        ``--url=X bot list`` becomes ``bot list --url=X``, which click
        understands.
        """
        command: click.Command | None = self
        name_parts = list[str]()
        options = list[str]()
        remaining = [*args]
        while remaining and isinstance(command, click.Group):
            word = remaining.pop(0)
            if word.partition("=")[0] in ("--url", "--key-file"):
                options += _option_and_value(word, remaining)
            else:
                name_parts.append(word)
                command = command.get_command(ctx, word)
                if word in ctx.help_option_names:
                    options = []  # the help of a group has no such options
        if not name_parts:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, [*name_parts, *options, *remaining])


def _option_and_value(option: str, remaining: list[str]) -> list[str]:
    """An option with its value: ``--url=X``, or ``--url`` and the next word,
    which is taken from ``remaining``."""
    if "=" not in option and remaining:
        return [option, remaining.pop(0)]
    return [option]


def fail(error: object) -> NoReturn:
    """Print an error after the name of the program and exit with status 1."""
    program = click.get_current_context().find_root().info_name
    click.echo(f"{program}: {error}", err=True)
    sys.exit(1)


def url_option(command: Command) -> Command:
    """The option that gives the server's address."""
    return click.option(
        "--url",
        default="http://127.0.0.1:8080",
        show_default=True,
        help="The URL of the server's HTTP port.",
    )(command)


def server_address(url: str) -> str:
    """The address of a server's HTTP port, with a scheme: ``host:8080`` becomes
    ``http://host:8080``.

    Ends the program with an error if this is no such address.
    """
    if "://" in url:
        address = url
    else:
        address = f"http://{url}"
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return address
    except ValueError:
        pass  # the port is no number
    fail(f"{url}: expected an http:// or https:// address")


def read_key(path: str | None) -> str:
    """The key in a file, or else in the environment; ``""`` if neither has one.

    The path ``-`` means standard input. Ends the program with an error if the
    file cannot be read, or has no key.
    """
    try:
        key = _text_of_key(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fail(f"{path} cannot be read: {why}")
    if not (key.isascii() and key.isprintable()):
        # A header cannot contain other characters.
        fail("the API key: expected one line of printable ASCII")
    return key


def _text_of_key(path: str | None) -> str:
    """The text of the key at a path. None means the environment, and ``-``
    standard input. Raises OSError and UnicodeDecodeError."""
    if path is None:
        return os.environ.get(ENVIRONMENT_KEY, "")
    if path == "-":
        return sys.stdin.read().strip()
    return Path(path).read_text(encoding="utf-8").strip()
