"""How much goes on a page of stored messages: it is one frame, and waits in an outbox as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Final

import gevent

from imserver.storage.log.contract import Entry
from imserver.transport.connection import OPEN, Connection

PAGE_BYTES: Final = 1 << 19
"""Bytes of bodies on a page, unless it is a single one: half of what an outbox holds by default, so that a
client behind a slow line may be told something else while a page is on its way to it."""

_LOOK_SECONDS: Final = 0.05


def oldest(entries: list[Entry], more: bool) -> tuple[list[Entry], bool]:
    """Of entries in order as many as a page holds, from the first on; and whether there is more behind."""
    count = fitting(len(entry.body) for entry in entries)
    return (entries, more) if count == len(entries) else (entries[:count], True)


def newest(entries: list[Entry], more: bool) -> tuple[list[Entry], bool]:
    """Of entries in order as many as a page holds, up to the last; and whether there is more before."""
    count = fitting(len(entry.body) for entry in reversed(entries))
    return (entries, more) if count == len(entries) else (entries[-count:], True)


def fitting(sizes: Iterable[int]) -> int:
    """How many of so many bytes go on a page: all that fit together, but at least one."""
    return sum(1 for place, size in enumerate(accumulate(sizes)) if not place or size <= PAGE_BYTES)


def let_leave(connection: Connection) -> None:
    """Wait until what was sent to a connection has left, or it has ended: the next page is not to wait in its
    outbox beside the one before. It switches."""
    while connection.outbox is not None and connection.state == OPEN:
        gevent.sleep(_LOOK_SECONDS)
