"""The trail of a life: the buckets into which it has written sessions, so that whoever buries it need not
look into all buckets of all apps there may be.

It stands in Redis as a set for each life, with a member ``bucket:app`` for each bucket, or ``*:app`` for an
app that had sessions in more than :data:`MOST_BUCKETS` of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from imserver.cluster.contract import Session
from imserver.cluster.redis_lease import LeaseKeeper
from imserver.cluster.redis_places import bucket_number, decoded, encoded
from imserver.cluster.redis_scripts import TRAIL
from imserver.cluster.redis_wire import Command

MOST_BUCKETS: Final = 1024
"""Buckets of one app that are told one by one."""

Trodden = dict[str, set[int] | None]
"""App → its buckets; None: all."""


def trail_key(epoch: int) -> str:
    """The key of the trail of a life."""
    return f"{TRAIL}{epoch}"


class Trail:
    """What this node has told of its own life. Owner of that memory, which a new life begins anew."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._life = (0, 0)
        self._told: Trodden = {}

    def before(self, sessions: Iterable[Session], life: int) -> list[Command]:
        """What Redis has to be told before these sessions are registered: usually nothing. Never switches.

        ``life`` is that of the registry: after a restart of Redis everything is told again.
        """
        epoch = self._keeper.lease.epoch
        if self._life != (epoch, life):
            self._life = (epoch, life)
            self._told.clear()
        members = [member for session in sessions for member in self._step(session)]
        return [("SADD", trail_key(epoch), *members)] if members else []

    def forget(self) -> None:
        """It is not known what has arrived."""
        self._told.clear()

    def _step(self, session: Session) -> Iterator[bytes]:
        buckets = self._told.setdefault(session.app, set())
        if buckets is None:
            return
        bucket = bucket_number(encoded(session.user))
        if bucket in buckets:
            return
        if len(buckets) < MOST_BUCKETS:
            buckets.add(bucket)
            yield b"%d:%b" % (bucket, encoded(session.app))
        else:
            self._told[session.app] = None
            yield b"*:" + encoded(session.app)


def read_steps(members: Collection[bytes], trodden: Trodden) -> None:
    """Add what members of a trail tell to ``trodden``."""
    for member in members:
        number, _, name = member.partition(b":")
        app = decoded(name)
        buckets = trodden.setdefault(app, set())
        if number == b"*":
            trodden[app] = None
        elif buckets is not None:
            buckets.add(int(number))
