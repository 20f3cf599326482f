"""The beat of a process: all that it does each second it does at one moment, and wakes up once for it."""

from __future__ import annotations

import os
from time import monotonic
from typing import Final

_GOLDEN: Final = 0.618_033_988_749_895
_TOO_SOON: Final = 0.25
"""Part of a period that is no pause: a timer that rang a moment early must not ring twice."""


def until_beat(seconds: float = 1.0) -> float:
    """Seconds until this process's next beat with that period; between a quarter of it and a quarter more.

    A process that sleeps finds nothing of its own in the processor's caches, so ten things to do at ten
    moments cost several times what they cost at one. The beats of the processes of a machine are spread over
    the period: what they ask of each other does not come all at once.
    """
    offset = os.getpid() * _GOLDEN % 1.0 * min(seconds, 1.0)
    left = seconds - (monotonic() - offset) % seconds
    return left if left > seconds * _TOO_SOON else left + seconds
