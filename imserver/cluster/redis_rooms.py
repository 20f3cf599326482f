"""Rooms in Redis: which nodes have members in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import monotonic
from typing import Any, Final
from zlib import crc32

import gevent

from imserver.cluster.contract import RoomEntry
from imserver.cluster.redis_burial import Interrupted
from imserver.cluster.redis_lease import LeaseKeeper
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_places import encoded
from imserver.cluster.redis_scripts import ENTER_ROOM, HALLS, ROOMS, SWEEP_ROOMS
from imserver.cluster.redis_watch import Watch
from imserver.cluster.redis_wire import Command, Wire

ROOM_BUCKETS: Final = 1024
_ENTRIES: Final = 500
"""Rooms that are written, or looked up, together."""
_BURIED: Final = 100
"""Buckets that are cleared together."""


def hall_key(epoch: int) -> str:
    """The key of the set that names the buckets of a life."""
    return f"{HALLS}{epoch}"


def bucket_key(app: bytes, number: int) -> bytes:
    """The key of bucket ``number`` of an app's rooms."""
    return b"%b{%b:%d}" % (ROOMS.encode(), app, number)


def bucket_number(room: bytes) -> int:
    """Which bucket a room is in."""
    return crc32(room) % ROOM_BUCKETS


def parse_nodes(value: Any) -> dict[int, int]:
    """Epoch → members, as a field says."""
    if not isinstance(value, bytes) or not value:
        return {}
    pairs = (part.partition(b".") for part in value.split(b","))
    return {int(epoch): int(members) for epoch, _, members in pairs}


class RoomRecords:
    """The part of :class:`imserver.cluster.contract.Registry` that knows rooms.

    After a new connection to Redis, and under a new life, others may not have said again yet what Redis has
    lost: for ``unsure_seconds`` any node may have members of any room. Owner of that time.
    """

    def __init__(
        self,
        pipe: Pipe,
        keeper: LeaseKeeper,
        watch: Watch,
        wire: Wire,
        look_seconds: float,
        unsure_seconds: float,
    ) -> None:
        self._pipe = pipe
        self._keeper = keeper
        self._watch = watch
        self._wire = wire
        self._look_seconds = look_seconds
        self._unsure_seconds = unsure_seconds
        self._unsure_until = 0.0
        self._seen = (0, 0)

    def started(self) -> None:
        """The node has joined; what Redis says now is not news."""
        self._seen = (self._wire.connects, self._watch.life)

    def enter(self, entries: Sequence[RoomEntry]) -> bool | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        epoch = self._keeper.lease.epoch
        dead = self._dead()
        life = self._watch.life
        for first in range(0, len(entries), _ENTRIES):
            part = entries[first : first + _ENTRIES]
            commands: list[Command] = []
            halls: dict[bytes, None] = {}
            for entry in part:
                app, room = encoded(entry.app), encoded(entry.room)
                number = bucket_number(room)
                halls[b"%d:%b" % (number, app)] = None
                commands.append(
                    ("EVALSHA", ENTER_ROOM, 1, bucket_key(app, number), room, epoch, entry.members, dead)
                )
            replies = self._pipe.ask([("SADD", hall_key(epoch), *halls), *commands])
            if replies is None or any(isinstance(reply, Exception) for reply in replies):
                return None
        return True if life == self._watch.life and life else None

    def _dead(self) -> str:
        dead = self._keeper.past + self._keeper.book.graves
        return f",{','.join(map(str, dead))}," if dead else ""

    def find(self, app: str, rooms: Sequence[str]) -> list[dict[int, int]] | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        name = encoded(app)
        found: list[dict[int, int]] = []
        for first in range(0, len(rooms), _ENTRIES):
            fields = [encoded(room) for room in rooms[first : first + _ENTRIES]]
            replies = self._pipe.ask(
                [("HGET", bucket_key(name, bucket_number(field)), field) for field in fields]
            )
            if replies is None or any(isinstance(reply, Exception) for reply in replies):
                return None
            found += map(parse_nodes, replies)
        return None if self._is_unsure() else self._live(found)

    def _is_unsure(self) -> bool:
        seen = self._wire.connects, self._watch.life
        if seen != self._seen:
            self._seen = seen
            self._unsure_until = monotonic() + self._unsure_seconds
        return monotonic() < self._unsure_until

    def _live(self, found: list[dict[int, int]]) -> list[dict[int, int]]:
        """Leave out what dead lives have left, add those that have not said everything again."""
        book = self._keeper.book
        epochs = set().union(*found)
        if any(book.is_news(epoch) for epoch in epochs):
            self._watch.look_now(self._look_seconds)
        live = book.live
        unsettled = {epoch: 0 for epoch, lease in live.items() if lease.unsettled}
        if not unsettled and epochs <= live.keys():
            return found
        return [
            unsettled | {epoch: members for epoch, members in nodes.items() if epoch in live}
            for nodes in found
        ]

    def bury(self, epochs: Collection[int]) -> int:
        """Clear away what dead lives have left; how many rooms had members there. Switches all the time.

        Raises :class:`~imserver.cluster.redis_burial.Interrupted`.
        """
        dead = f",{','.join(map(str, epochs))},"
        rooms = 0
        for epoch in epochs:
            members = self._ask([("SMEMBERS", hall_key(epoch))])[0]
            keys = [_key_of(member) for member in members] if not isinstance(members, Exception) else []
            for first in range(0, len(keys), _BURIED):
                part = keys[first : first + _BURIED]
                replies = self._ask([("EVALSHA", SWEEP_ROOMS, 1, key, dead) for key in part])
                rooms += sum(reply for reply in replies if isinstance(reply, int))
            self._ask([("DEL", hall_key(epoch))])
        return rooms

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """Ask, then leave Redis and the loop to others for at least as long."""
        began = monotonic()
        replies = self._pipe.ask(commands)
        if replies is None:
            raise Interrupted
        gevent.sleep(max(0.001, monotonic() - began))
        return replies


def _key_of(member: bytes) -> bytes:
    number, _, app = member.partition(b":")
    return bucket_key(app, int(number))
