"""Takes the clock, the randomness and the process id of this process away from
all code that is imported later.

Import this module first, in a process of its own: ``python -m tests.worlds``.
The names of the standard library are replaced before the server is imported, so
the server needs no seam for its clocks. What does I/O is replaced by
:func:`replace`.
"""

from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from importlib import import_module  # noqa: E402
from random import Random  # noqa: E402
from typing import Any, Final  # noqa: E402
from unittest.mock import patch  # noqa: E402

from tests.worlds.loop import EPOCH, VirtualLoop  # noqa: E402

_FIRST_PID: Final = 5000


class _Here:
    """The world that this process runs now."""

    loop: VirtualLoop | None = None
    bytes: Random = Random(0)


def _monotonic() -> float:
    return 1000.0 + _Here.loop.clock if _Here.loop is not None else 1000.0


def _time() -> float:
    return (
        EPOCH + _Here.loop.clock + _Here.loop.current.skew
        if _Here.loop is not None
        else EPOCH
    )


def _pid() -> int:
    return _FIRST_PID + (_Here.loop.current.number if _Here.loop is not None else 0)


def _random_bytes(size: int) -> bytes:
    return _Here.bytes.randbytes(size)


REPLACED: Final[tuple[tuple[Any, str, Any], ...]] = (
    (time, "monotonic", _monotonic),
    (time, "perf_counter", _monotonic),
    (time, "time", _time),
    (time, "clock_gettime", lambda _: _monotonic()),
    (time, "monotonic_ns", lambda: int(_monotonic() * 1e9)),
    (time, "perf_counter_ns", lambda: int(_monotonic() * 1e9)),
    (time, "time_ns", lambda: int(_time() * 1e9)),
    (os, "getpid", _pid),
    (os, "urandom", _random_bytes),
    (random, "_urandom", _random_bytes),
)
for _module, _name, _value in REPLACED:
    if not hasattr(_module, _name):
        raise RuntimeError(f"{_module.__name__} has no {_name}")
    vars(_module)[_name] = _value


def begin(loop: VirtualLoop, seed: int) -> None:
    """This process runs a world from now on."""
    _Here.loop, _Here.bytes = loop, Random(f"{seed} bytes")
    random.seed(f"{seed} random")


def replace(path: str, value: object) -> object:
    """Replace ``module:name`` or ``module:Class.name`` by something else.
    Returns what was there.

    Raises AttributeError if it is not there: whoever renames it in the server
    mends the simulation, too.
    """
    module, _, name = path.partition(":")
    owner: Any = import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    before: object = getattr(owner, last)
    patch.object(owner, last, value).start()
    return before


class Errors(logging.Handler):
    """Collects what the server logs with a traceback: it met what it does not
    expect."""

    def __init__(self, findings: list[str], loop: VirtualLoop) -> None:
        super().__init__(logging.ERROR)
        self._findings = findings
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            text = logging.Formatter().formatException(record.exc_info)
            self._findings.append(
                f"{self._loop.clock:.6f} {self._loop.current.name}: {record.getMessage()}\n{text}"
            )


class Lines(logging.Formatter):
    """Names the time and the process of each line."""

    def format(self, record: logging.LogRecord) -> str:
        loop = _Here.loop
        where = "" if loop is None else f"{loop.clock:.6f} {loop.current.name}: "
        return where + super().format(record)
