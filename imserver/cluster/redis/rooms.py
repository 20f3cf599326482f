"""Rooms in Redis: which nodes have members in them."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from imserver.cluster.redis.lease import LeaseKeeper
from imserver.cluster.redis.pipeline import Command, Pipeline, RedisLink
from imserver.cluster.redis.records import (
    encoded,
    room_bucket_key,
    room_bucket_number,
    written_room_buckets_key,
)
from imserver.cluster.redis.recovery import RegistryRecovery
from imserver.cluster.redis.scripts import ENTER_ROOM
from imserver.cluster.registry import RoomMembers

_BATCH: Final = 500
"""Rooms that are written, or looked up, together."""


class RoomLookup:
    """The rooms of :class:`imserver.cluster.redis.registry.RedisRegistry`.

    After a new connection to Redis, and in a new generation, other nodes may not have reported their rooms
    again yet: for ``incomplete_seconds`` any node may have members of any room. Owner of that deadline.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        keeper: LeaseKeeper,
        recovery: RegistryRecovery,
        link: RedisLink,
        refresh_seconds: float,
        incomplete_seconds: float,
    ) -> None:
        self._pipeline = pipeline
        self._keeper = keeper
        self._recovery = recovery
        self._link = link
        self._refresh_seconds = refresh_seconds
        self._incomplete_seconds = incomplete_seconds
        self._incomplete_until = 0.0
        self._seen = (0, 0)

    def started(self) -> None:
        """The node has joined: its first connection and generation are not a change."""
        self._seen = (self._link.connects, self._recovery.generation)

    def report(self, rooms: Sequence[RoomMembers]) -> bool | None:
        """Report the members that this node has in these rooms; other rooms keep what was reported.

        True: every node finds them from now on. None: unknown, report them again. In a new generation all
        rooms must be reported again.
        """
        epoch = self._keeper.lease.epoch
        dead = self._keeper.dead_epochs()
        generation = self._recovery.generation
        for first in range(0, len(rooms), _BATCH):
            commands: list[Command] = []
            buckets: dict[bytes, None] = {}
            for each in rooms[first : first + _BATCH]:
                app, room = encoded(each.app), encoded(each.room)
                number = room_bucket_number(room)
                buckets[b"%d:%b" % (number, app)] = None
                key = room_bucket_key(app, number)
                commands.append(("EVALSHA", ENTER_ROOM, 1, key, room, epoch, each.members, dead))
            replies = self._pipeline.execute([("SADD", written_room_buckets_key(epoch), *buckets), *commands])
            if replies is None or any(isinstance(reply, Exception) for reply in replies):
                return None
        return True if generation == self._recovery.generation and generation else None

    def find(self, app: str, rooms: Sequence[str]) -> list[dict[int, int]] | None:
        """The live nodes with members in each room, own included: epoch → members, as last reported.

        Nodes that are not settled are in all of them, with 0. None: any node may have members.
        """
        name = encoded(app)
        found: list[dict[int, int]] = []
        for first in range(0, len(rooms), _BATCH):
            fields = [encoded(room) for room in rooms[first : first + _BATCH]]
            replies = self._pipeline.execute(
                [("HGET", room_bucket_key(name, room_bucket_number(field)), field) for field in fields]
            )
            if replies is None or any(isinstance(reply, Exception) for reply in replies):
                return None
            found += map(_parse_nodes, replies)
        return None if self._is_incomplete() else self._live(found)

    def _is_incomplete(self) -> bool:
        seen = self._link.connects, self._recovery.generation
        if seen != self._seen:
            self._seen = seen
            self._incomplete_until = monotonic() + self._incomplete_seconds
        return monotonic() < self._incomplete_until

    def _live(self, found: list[dict[int, int]]) -> list[dict[int, int]]:
        """Remove dead epochs, add nodes that have not reported all rooms yet."""
        table = self._keeper.table
        epochs = set().union(*found)
        if any(table.is_newer(epoch) for epoch in epochs):
            self._recovery.refresh_now(self._refresh_seconds)
        live = table.live
        unsettled = {epoch: 0 for epoch, lease in live.items() if lease.unsettled}
        if not unsettled and epochs <= live.keys():
            return found
        return [
            unsettled | {epoch: members for epoch, members in nodes.items() if epoch in live}
            for nodes in found
        ]


def _parse_nodes(value: Any) -> dict[int, int]:
    """Epoch → members, from the field of a room."""
    if not isinstance(value, bytes) or not value:
        return {}
    pairs = (part.partition(b".") for part in value.split(b","))
    return {int(epoch): int(members) for epoch, _, members in pairs}
