"""Input and output of commands: arguments, files, tables and errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import click


def fail(error: object) -> NoReturn:
    """Print an error and exit with status 1."""
    click.echo(f"imserver: {error}", err=True)
    sys.exit(1)


def given_once(name: str, argument: str | None, option: str | None) -> str | None:
    """What was given as an argument, or by the option of the same meaning; both must agree."""
    if argument is not None and option is not None and argument != option:
        raise click.UsageError(f"{name} is given twice: {argument} and {option}")
    return option if argument is None else argument


def required_once(name: str, argument: str | None, option: str | None) -> str:
    """A required value, given as an argument or by the option of the same meaning."""
    found = given_once(name, argument, option)
    if found is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    return found


def read_text(path: str) -> str:
    """The text of a file; ``-`` is standard input."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format rows as aligned columns."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
