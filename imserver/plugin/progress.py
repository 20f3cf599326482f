"""Says how far long work of a command is, for whoever waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Final

import click

SECONDS: Final = 5.0
"""How often it is said."""
_texts: Final[list[str]] = []
"""What is under way: the last one is a part of those before."""


@contextmanager
def long_work(what: str) -> Iterator[Callable[..., None]]:
    """Say on the standard error every few seconds that work goes on, also while
    nothing else runs. Also a decorator.

    What it yields says how far the work is: what is done, and how many rows of
    how many. Cheap.
    """
    number = len(_texts)
    ended = Event()

    def say(text: str, done: int = 0, total: int = 0) -> None:
        _texts[number] = f"{text} {done} of {total} rows" if total else text

    _texts.append(what)
    thread = Thread(target=_repeat, args=(ended,), daemon=True)
    if not number:
        thread.start()
    try:
        yield say
    finally:
        if not number:
            ended.set()
            thread.join()
        del _texts[number:]


def _repeat(ended: Event) -> None:
    began = monotonic()
    while not ended.wait(SECONDS):
        click.echo(f"{_texts[-1]}, {monotonic() - began:.0f} s", err=True)
