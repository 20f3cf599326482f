"""Warnings that may be due thousands of times a second and are written once a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

INTERVAL_SECONDS: Final = 60.0


class Complaint:
    """One kind of warning. The first is logged at once, those of the next minute are only counted.

    ``text`` is a logging format; the number of those not written since the last one follows it.
    """

    __slots__ = ("_clock", "_log", "_next", "_silent", "_text")

    def __init__(self, log: logging.Logger, text: str, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._text = text
        self._clock = clock
        self._next = 0.0
        self._silent = 0

    def __call__(self, *arguments: object) -> None:
        """Complain, or count it."""
        now = self._clock()
        if self._next and now < self._next:
            self._silent += 1
            return
        more = f" ({self._silent} more since the last such line)" if self._silent else ""
        self._log.warning(self._text + "%s", *arguments, more)
        self._next = now + INTERVAL_SECONDS
        self._silent = 0
