"""Shows the progress of long work of a command to the person who waits for
it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Final

import click

SECONDS: Final = 5.0
"""How often the progress is shown."""
_texts: Final[list[str]] = []
"""Descriptions of the work under way, the outermost first. Each is a part of
the work before it."""


@contextmanager
def long_work(what: str) -> Iterator[Callable[..., None]]:
    """Tell the person who waits for a command that the work continues.

    It prints a line on the standard error every few seconds, even while nothing
    else runs. It is a context manager and a decorator. It yields a function
    that takes the progress: a text, the number of rows that are done, and the
    number of all rows. Calls are cheap.
    """
    number = len(_texts)
    ended = Event()

    def say(text: str, done: int = 0, total: int = 0) -> None:
        """Set the text of the next line."""
        if total:
            text = f"{text} {done} of {total} rows"
        _texts[number] = text

    _texts.append(what)
    # The outermost work starts the thread, which prints the innermost text.
    is_outermost = number == 0
    thread = Thread(target=_repeat, args=(ended,), daemon=True)
    if is_outermost:
        thread.start()
    try:
        yield say
    finally:
        if is_outermost:
            ended.set()
            thread.join()
        del _texts[number:]


def _repeat(ended: Event) -> None:
    """Thread: print the innermost text every few seconds, until the work has
    ended."""
    started_at = monotonic()
    while not ended.wait(SECONDS):
        click.echo(f"{_texts[-1]}, {monotonic() - started_at:.0f} s", err=True)
