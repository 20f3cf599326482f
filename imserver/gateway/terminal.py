"""Input and output of commands: arguments, files, tables and errors."""

import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
import msgspec

from imserver.gateway.config.load import ENVIRONMENT_KEY
from imserver.gateway.logging import shown


class GroupWithFeatures(click.Group):
    """Its commands, and those that features add to it: in their rows, the names begin with its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        root, names, prefix = ctx.find_root(), super().list_commands(ctx), f"{self.name} "
        assert isinstance(root.command, click.Group)
        more = [name for name in root.command.list_commands(root) if name.startswith(prefix)]
        return sorted([*names, *(name.removeprefix(prefix) for name in more)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        root = ctx.find_root()
        assert isinstance(root.command, click.Group)
        return super().get_command(ctx, cmd_name) or root.command.get_command(root, f"{self.name} {cmd_name}")


def fail(error: object) -> NoReturn:
    """Print an error and exit with status 1. It may have names that somebody forged."""
    click.echo("imserver: " + "\n".join(map(shown, str(error).split("\n"))), err=True)
    sys.exit(1)


def given_once(name: str, argument: str | None, option: str | None) -> str | None:
    """The value of an argument, or of the option with the same meaning; both must agree."""
    if argument is not None and option is not None and argument != option:
        raise click.UsageError(f"{name} is given twice: {argument} and {option}")
    return option if argument is None else argument


def required_once(name: str, argument: str | None, option: str | None) -> str:
    """A required value, given as an argument or by the option of the same meaning."""
    value = given_once(name, argument, option)
    if value is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    return value


def read_text(path: str) -> str:
    """The text of a file; ``-`` is standard input."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}")


def read_key(path: str | None) -> str:
    """The API key in a file, or else in the environment. ``""``: there is none."""
    key = os.environ.get(ENVIRONMENT_KEY, "") if path is None else read_text(path).strip()
    if not (key.isascii() and key.isprintable()):
        fail("the API key: expected one line of printable ASCII")  # no header can have it
    return key


def server_address(url: str) -> str:
    """The address of a server's HTTP port, with a scheme; the default scheme is http. Or that of its Unix
    socket, as ``unix:/run/imserver/im.sock``."""
    if url.startswith("unix:/"):
        return url
    address = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(address if address.isprintable() and " " not in address else "")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return address
    except ValueError:
        pass  # the port, or the brackets
    fail(f"{url}: expected an http:// or https:// address")


def request_json(
    url: str, method: str, path: str, key: str, body: bytes = b"", seconds: float = 30
) -> tuple[int, Any]:
    """The status and the JSON of the answer of a running server. If there is none, the command ends."""
    parts = urlsplit(url)
    # Imported here: a node saves the memory.
    from http import client

    kind = client.HTTPSConnection if parts.scheme == "https" else client.HTTPConnection
    connection = kind(parts.hostname or "localhost", parts.port, timeout=seconds)
    if parts.scheme == "unix":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(seconds)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if body:
        headers["Content-Type"] = "application/json"
    try:
        if parts.scheme == "unix":
            connection.sock.connect(parts.path)
            parts = parts._replace(path="")
        connection.request(method, parts.path.rstrip("/") + path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read() or b"null")
    except client.HTTPException:  # its text may have bytes that a terminal obeys
        fail(f"{url} does not answer: the answer is not HTTP")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        fail(f"{url} does not answer: {reason or error}")
    finally:
        connection.close()


def lines_of(columns: str, rows: Iterable[Any], **texts: Callable[[Any], object]) -> list[list[str]]:
    """The head of a :func:`table`, and the texts of each row, without what would control a terminal."""
    pairs = [each.rpartition(": ") for each in columns.split(", ")]
    fields = [field.replace(" ", "_") for _, _, field in pairs]
    lines = [[shown(str(texts.get(field, str)(getattr(row, field)))) for field in fields] for row in rows]
    return [[head or field for head, _, field in pairs], *lines]


def table(columns: str, rows: Iterable[Any], **texts: Callable[[Any], object]) -> str:
    """Format rows, which are structs, as aligned columns.

    ``columns``: the fields that are printed, in order, as ``id, first failed, from: used_from``. The head of
    a column is the name of its field, with spaces, or stands before it. ``texts``: field → what makes a text
    of its value."""
    lines = lines_of(columns, rows, **texts)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
