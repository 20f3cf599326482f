"""What nodes tell each other about stored messages."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.cluster.nodes import NodeMessages
from imserver.messages.log.contract import Commit, Entry
from imserver.model import Signal

_PIECE_BYTES: Final = 256 * 1024
_ENTRY_BYTES: Final = 1024
"""Upper bound of an entry's size without its body."""


class ToFollowers(Struct, frozen=True, gc=False, tag="s", array_like=True):
    """Deliver a signal to the subscribed connections of these users or (not 0) of this group in an app, with
    ``MessageServices.signals``.

    ``ToFollowers(app, ("ann",), 0, Signal("moods.changed", "bob", "", data=b'{"text": "happy"}'))``: clients
    of ``cmd`` get a frame ``moods.changed`` with this data.
    """

    app: str
    users: tuple[str, ...]
    group: int
    signal: Signal


def broadcast_entries(nodes: NodeMessages, commit: Commit) -> None:
    """Send stored entries to all other live nodes, in pieces of limited size.

    A node that misses a piece reads it from the log.
    """
    if not nodes.peers():
        return
    app, first = commit.app, commit.first
    piece: list[Entry] = []
    size = 0
    for entry in commit.entries:
        entry_size = len(entry.body) + len(entry.meta) + _ENTRY_BYTES
        if piece and size + entry_size > _PIECE_BYTES:
            nodes.broadcast(Commit(app, first, piece[-1].id, piece))
            first, piece, size = piece[-1].id + 1, [], 0
        piece.append(entry)
        size += entry_size
    nodes.broadcast(Commit(app, first, commit.last, piece))
