"""Sessions as commands to Redis, and replies of Redis as what became of them. No I/O."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from imserver.cluster.contract import Begun, Place, Session
from imserver.cluster.redis_lease import LeaseKeeper
from imserver.cluster.redis_places import (
    ban_field_of,
    bucket_of,
    device_of,
    encoded,
    field_of,
    parse_places,
)
from imserver.cluster.redis_records import record_key, record_of
from imserver.cluster.redis_scripts import BEGIN, END, REPLACED
from imserver.cluster.redis_wire import Command

REPLACED_SECONDS = 60
"""A replaced session is remembered for its node, which looks every second or has lost its lease by then."""


class SessionCommands:
    """Stateless; asks the keeper for the node's own life and for the dead ones.

    ``inside``: all keys are on one server, so scripts write the readable records and the lists of replaced
    sessions too. In a Redis Cluster these have other slots, and are written by :meth:`after_begin` and
    :meth:`after_end`.
    """

    def __init__(self, keeper: LeaseKeeper, inside: bool, record_seconds: int) -> None:
        self._keeper = keeper
        self._inside = inside
        self._record_seconds = record_seconds
        self._replaced_prefix = REPLACED if inside else ""

    def begin(self, session: Session, replacing: Collection[Place] = ()) -> Command:
        """Register a session, anew or (if it has a number) again."""
        user, lease = encoded(session.user), self._keeper.lease
        bucket, field = bucket_of(session.app, user), field_of(user)
        keys: tuple[Any, ...] = (1, bucket)
        writes: tuple[Any, ...] = ("", 0, "", "")
        if self._inside:
            keys = (2, bucket, record_key(session.app, user))
            tail = b"\0%b\0%b" % (encoded(session.app), user)
            writes = (
                record_of(lease.node, session, False),
                self._record_seconds,
                self._replaced_prefix,
                tail,
            )
        return (
            "EVALSHA",
            BEGIN,
            *keys,
            field,
            lease.epoch,
            session.id,
            device_of(session.device),
            session.policy,
            session.number,
            self._dead(),
            "," + "".join([f"{place.epoch}.{place.id}," for place in replacing]) if replacing else "",
            ban_field_of(user),
            *writes,
        )

    def begun(self, session: Session, reply: Any, life: int) -> Begun | None:
        """What became of a session, by the reply to :meth:`begin`; sets its number and life.

        None: Redis refused the command.
        """
        if isinstance(reply, Exception):
            return None
        code = reply[0]
        if code == 2:
            return Begun(refused=True, others=parse_places(reply[1]))
        if code != 1:
            return Begun(banned=code == 3, superseded=code == 4)
        session.number, session.life = int(reply[1]), life
        if not reply[2]:
            return Begun(session.number)
        book = self._keeper.book
        return Begun(
            session.number,
            tuple([place for place in parse_places(reply[2]) if not book.is_dead(place.epoch)]),
        )

    def after_begin(self, session: Session, begun: Begun) -> list[Command]:
        """What is left to write once a session is addressed."""
        if self._inside or not begun.addressed:
            return []
        user, lease = encoded(session.user), self._keeper.lease
        commands: list[Command] = [self._record(session, False)]
        for place in begun.replaced:
            if place.epoch != lease.epoch:
                entry = b"%d\0%b\0%b" % (place.id, encoded(session.app), user)
                commands.append(("RPUSH", f"{REPLACED}{place.epoch}", entry))
                commands.append(("EXPIRE", f"{REPLACED}{place.epoch}", REPLACED_SECONDS))
        return commands

    def end(self, session: Session) -> Command:
        """Take a session out, if it is still there."""
        user, lease = encoded(session.user), self._keeper.lease
        bucket, field = bucket_of(session.app, user), field_of(user)
        if not self._inside:
            return ("EVALSHA", END, 1, bucket, field, lease.epoch, session.id, self._dead())
        record = record_of(lease.node, session, True), self._record_seconds
        keys = (2, bucket, record_key(session.app, user))
        return ("EVALSHA", END, *keys, field, lease.epoch, session.id, self._dead(), *record)

    def after_end(self, session: Session, reply: Any) -> list[Command]:
        """What is left to write once nobody of a user is left."""
        return [] if self._inside or reply != 1 else [self._record(session, True)]

    def _record(self, session: Session, logout: bool) -> Command:
        record = record_of(self._keeper.lease.node, session, logout)
        return ("SET", record_key(session.app, encoded(session.user)), record, "EX", self._record_seconds)

    def _dead(self) -> str:
        """Lives whose places do not count, for scripts: usually none."""
        dead = self._keeper.past + self._keeper.book.graves
        return f",{','.join(map(str, dead))}," if dead else ""
