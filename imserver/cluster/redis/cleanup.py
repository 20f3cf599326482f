"""Dead-node cleanup: remove what dead epochs have left in Redis, and mark their users offline.

Each epoch records the buckets into which it writes, in a set in Redis with a member ``bucket:app`` per
bucket, or ``*:app`` for an app with sessions in more than :data:`MOST_BUCKETS` of them. So the node that
cleans up does not have to read all buckets of all apps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import Any, Final
from zlib import crc32

import gevent

from imserver.cluster.redis.lease import LeaseKeeper, decode_lease
from imserver.cluster.redis.pipeline import Command, Pipeline
from imserver.cluster.redis.records import (
    ACTION_SERVERS,
    BUCKETS,
    RECORD_SECONDS,
    SERVERS,
    bucket_key,
    bucket_of,
    channel_bucket_key,
    decoded,
    encoded,
    field_of,
    marked_offline,
    record_key,
    user_of,
    written_buckets_key,
    written_channel_buckets_key,
)
from imserver.cluster.redis.scripts import CLEAN_BUCKET, CLEAN_ROOMS, CLEANER, DEAD_EPOCHS, REPLACE_RECORD
from imserver.cluster.registry import RegistryCounters, Session

log = logging.getLogger(__name__)

MOST_BUCKETS: Final = 1024
"""Buckets of one app that are recorded one by one."""
_BATCH: Final = 100

BucketsByApp = dict[str, set[int] | None]
"""App → its buckets; None: all."""


class Interrupted(Exception):
    """Redis became unavailable. The work is repeated when it is back."""


class WrittenBuckets:
    """The buckets that this node has recorded for its epoch. Owner of that set."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._written_for = (0, 0)
        """The epoch and registry generation that ``_buckets`` belongs to."""
        self._buckets: BucketsByApp = {}

    def commands_before(self, sessions: Iterable[Session], generation: int) -> list[Command]:
        """The commands to send before these sessions are registered; usually none. Never switches.

        ``generation``: of the registry. After a restart of Redis everything is recorded again.
        """
        epoch = self._keeper.lease.epoch
        if self._written_for != (epoch, generation):
            self._written_for = (epoch, generation)
            self._buckets.clear()
        recorded = self._buckets
        members = [
            member
            for session in sessions
            if recorded.get(session.app, frozenset()) is not None
            for member in self._new_members(session)
        ]
        return [("SADD", written_buckets_key(epoch), *members)] if members else []

    def forget(self) -> None:
        """Record everything again, because it is unknown what Redis has received."""
        self._buckets.clear()

    def _new_members(self, session: Session) -> Iterator[bytes]:
        buckets = self._buckets.setdefault(session.app, set())
        if buckets is None:  # another of these sessions was one too many
            return
        bucket = crc32(encoded(session.user)) % BUCKETS
        if bucket in buckets:
            return
        if len(buckets) < MOST_BUCKETS:
            buckets.add(bucket)
            yield b"%d:%b" % (bucket, encoded(session.app))
        else:
            self._buckets[session.app] = None
            yield b"*:" + encoded(session.app)


def _paced(pipeline: Pipeline, commands: Sequence[Command]) -> list[Any]:
    """Execute commands, then pause for at least as long. Raises :class:`Interrupted`."""
    began = monotonic()
    replies = pipeline.execute(commands)
    if replies is None:
        raise Interrupted
    gevent.sleep(max(0.001, monotonic() - began))
    return replies


class DeadNodeCleanup:
    """Removes the sessions and channels of dead epochs, paced. Switches all the time.

    For an epoch without recorded buckets (an older version, or Redis has lost them) it reads all buckets of
    ``apps`` and of the apps in its lease.
    """

    def __init__(self, pipeline: Pipeline, counters: RegistryCounters, apps: Collection[str]) -> None:
        self._pipeline = pipeline
        self._counters = counters
        self._apps = apps

    def run(self, epochs: Collection[int], is_live: Callable[[str], bool]) -> None:
        """Clean up after these epochs. Raises :class:`Interrupted`."""
        self._clean_channels(epochs)
        leases = self._pipeline.execute([("HMGET", DEAD_EPOCHS, *epochs)])
        if leases is None:
            raise Interrupted
        nodes: dict[str, str] = {}
        """Dead node → address of its client port."""
        buckets_by_app: BucketsByApp = {}
        for epoch, data in zip(epochs, leases[0], strict=True):
            lease = decode_lease(data) if data and data != b"{}" else None
            if lease is not None:
                nodes[lease.node] = lease.clients
            if not self._read_buckets(epoch, buckets_by_app):
                buckets_by_app |= dict.fromkeys([*self._apps, *(lease.counts if lease is not None else ())])
        users = sum(self._clean_app(app, buckets, epochs, nodes) for app, buckets in buckets_by_app.items())
        dead = [node for node in nodes if not is_live(node)]
        commands: list[Command] = [
            *(("DEL", written_buckets_key(epoch)) for epoch in epochs),
            ("HDEL", DEAD_EPOCHS, *epochs),
            ("DEL", CLEANER),
        ]
        if dead:
            commands.append(("HDEL", SERVERS, *dead))
            commands.append(("HDEL", ACTION_SERVERS, *(nodes[node] for node in dead)))
        _paced(self._pipeline, commands)
        if users or nodes:
            log.info("dead-node cleanup: %d users of %s marked offline", users, ", ".join(sorted(nodes)))

    def _clean_channels(self, epochs: Collection[int]) -> None:
        dead = f",{','.join(map(str, epochs))},"
        for epoch in epochs:
            members = _paced(self._pipeline, [("SMEMBERS", written_channel_buckets_key(epoch))])[0]
            pairs = [member.partition(b":") for member in ([] if isinstance(members, Exception) else members)]
            keys = [channel_bucket_key(app, int(number)) for number, _, app in pairs]
            for first in range(0, len(keys), _BATCH):
                part = keys[first : first + _BATCH]
                _paced(self._pipeline, [("EVALSHA", CLEAN_ROOMS, 1, key, dead) for key in part])
            _paced(self._pipeline, [("DEL", written_channel_buckets_key(epoch))])

    def _read_buckets(self, epoch: int, buckets_by_app: BucketsByApp) -> bool:
        """Add the recorded buckets of a dead epoch. False: it has none."""
        found, cursor = False, b""
        while cursor != b"0":
            scan = ("SSCAN", written_buckets_key(epoch), cursor or b"0", "COUNT", 1000)
            reply = _paced(self._pipeline, [scan])[0]
            if isinstance(reply, Exception):
                return False
            cursor, members = reply
            for member in members:
                number, _, name = member.partition(b":")
                app = decoded(name)
                buckets = buckets_by_app.setdefault(app, set())
                if number == b"*":
                    buckets_by_app[app] = None
                elif buckets is not None:
                    buckets.add(int(number))
            found = found or bool(members)
        return found

    def _clean_app(
        self, app: str, buckets: Collection[int] | None, epochs: Collection[int], nodes: Collection[str]
    ) -> int:
        """Clean these buckets of an app (None: all). Returns the number of users without a session left."""
        numbers = range(BUCKETS) if buckets is None else sorted(buckets)
        offline = 0
        for first in range(0, len(numbers), _BATCH):
            part = numbers[first : first + _BATCH]
            replies = _paced(
                self._pipeline,
                [("EVALSHA", CLEAN_BUCKET, 1, bucket_key(app, number), *epochs) for number in part],
            )
            users = [user_of(field) for reply in replies if isinstance(reply, list) for field in reply]
            for start in range(0, len(users), _BATCH):
                self._mark_offline(app, users[start : start + _BATCH], nodes)
            offline += len(users)
        return offline

    def _mark_offline(self, app: str, users: Sequence[bytes], nodes: Collection[str]) -> None:
        """Mark these users offline in their readable records.

        A user may log in at any moment. The record is read before the bucket: if the bucket is still empty
        then, a later login writes a different record, and that is not overwritten.
        """
        keys = [record_key(app, user) for user in users]
        fields = [("HGET", bucket_of(app, user), field_of(user)) for user in users]
        replies = _paced(self._pipeline, [*(("GET", key) for key in keys), *fields])
        commands: list[Command] = []
        for key, data, refs in zip(keys, replies[: len(keys)], replies[len(keys) :], strict=True):
            marked = marked_offline(data, nodes) if isinstance(data, bytes) and refs is None else None
            if marked is not None:
                commands.append(("EVALSHA", REPLACE_RECORD, 1, key, data, marked))
        if commands:
            _paced(self._pipeline, commands)
        self._counters.cleaned_users += len(users)


def extend_records(pipeline: Pipeline, sessions: Iterable[Session]) -> int:
    """Keep the records of these sessions for :data:`RECORD_SECONDS` from now; returns their number. Switches.

    Raises :class:`Interrupted`.
    """
    extended, waiting = 0, iter(sessions)
    while batch := list(islice(waiting, _BATCH)):
        keys = [record_key(session.app, encoded(session.user)) for session in batch]
        _paced(pipeline, [("EXPIRE", key, RECORD_SECONDS) for key in keys])
        extended += len(batch)
    return extended
