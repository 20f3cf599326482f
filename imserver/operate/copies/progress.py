"""One line about long work, for whoever waits for it."""

import sys
from pathlib import Path
from time import monotonic
from typing import Final

import click


class Progress:
    """One line about long work, on the standard error: rewritten on a terminal, else repeated from time to
    time."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._began = monotonic()
        self._next = self._began if self._is_terminal else self._began + _REPEAT_SECONDS
        self._has_line = False

    @property
    def seconds(self) -> float:
        """How long the work has taken."""
        return monotonic() - self._began

    def show_rows(self, what: str, done: int, total: int) -> None:
        """Say how many of ``total`` rows are done. Cheap: it says so now and then."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + (0.2 if self._is_terminal else _REPEAT_SECONDS)
        text = f"{what} {done} of {total} rows, {self.seconds:.0f} s"
        self._has_line = self._is_terminal
        click.echo(f"\r\x1b[K{text}" if self._is_terminal else text, nl=not self._is_terminal, err=True)

    def close(self) -> None:
        """Remove the line of a terminal."""
        if self._has_line:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._has_line = False


def announce(what: str, file: Path) -> None:
    """Say that work on a large file begins, of which nothing is seen until it ends."""
    if (megabytes := file.stat().st_size >> 20) >= _LARGE_MB:
        click.echo(f"{what} {file} ({megabytes} MB)", err=True)


_REPEAT_SECONDS: Final = 10.0
_LARGE_MB: Final = 64
