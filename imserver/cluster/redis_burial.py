"""Slow passes, paced: what dead nodes left is cleared away, and records of those who stay are kept from
expiring."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import Final

import gevent

from imserver.cluster.contract import Counters, Session
from imserver.cluster.redis_lease import decode_lease
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_places import (
    BUCKETS,
    SERVERS,
    bucket_key,
    bucket_of,
    encoded,
    field_of,
    marked_offline,
    record_key,
    user_of,
)
from imserver.cluster.redis_scripts import DIGGER, GRAVES, MARK, SWEEP

log = logging.getLogger(__name__)

_BATCH: Final = 100
_PAUSE_SECONDS: Final = 0.005


class Interrupted(Exception):
    """Redis went away; the pass begins anew when it is back."""


def _paced(pipe: Pipe, commands: Sequence[tuple[object, ...]]) -> list[object]:
    """Ask, then leave Redis and the loop to others for at least as long."""
    began = monotonic()
    replies = pipe.ask(commands)
    if replies is None:
        raise Interrupted
    gevent.sleep(max(_PAUSE_SECONDS, monotonic() - began))
    return replies


class Burial:
    """Clears the buckets of dead lives and marks their users' records offline.

    ``apps`` are those that this node knows; the dead may have known others. Switches all the time.
    """

    def __init__(self, pipe: Pipe, counters: Counters, apps: Collection[str]) -> None:
        self._pipe = pipe
        self._counters = counters
        self._apps = apps

    def run(self, epochs: Collection[int], is_live: Callable[[str], bool]) -> None:
        """Bury these lives. Raises :class:`Interrupted`."""
        leases = self._pipe.ask([("HMGET", GRAVES, *epochs)])
        if leases is None:
            raise Interrupted
        nodes, apps = set(), dict.fromkeys(self._apps)
        for data in leases[0]:
            lease = decode_lease(data) if data and data != b"{}" else None
            if lease is not None:
                nodes.add(lease.node)
                apps |= dict.fromkeys(lease.counts)
        buried = 0
        for app in apps:
            for first in range(0, BUCKETS, _BATCH):
                buried += self._sweep(app, range(first, min(first + _BATCH, BUCKETS)), epochs, nodes)
        gone = [node for node in nodes if not is_live(node)]
        commands: list[tuple[object, ...]] = [("HDEL", GRAVES, *epochs), ("DEL", DIGGER)]
        if gone:
            commands.append(("HDEL", SERVERS, *gone))
        _paced(self._pipe, commands)
        if buried or nodes:
            log.info("%d users of dead nodes (%s) are offline now", buried, ", ".join(sorted(nodes)))

    def _sweep(self, app: str, buckets: range, epochs: Collection[int], nodes: Collection[str]) -> int:
        replies = _paced(
            self._pipe, [("EVALSHA", SWEEP, 1, bucket_key(app, bucket), *epochs) for bucket in buckets]
        )
        users = [user_of(field) for reply in replies if isinstance(reply, list) for field in reply]
        for first in range(0, len(users), _BATCH):
            self._mark(app, users[first : first + _BATCH], nodes)
        return len(users)

    def _mark(self, app: str, users: Sequence[bytes], nodes: Collection[str]) -> None:
        """Say in the records of these users that they are gone.

        A user may log in at any moment. The record is read before the bucket: if the bucket is still
        empty then, a later login writes another record than was read, and that is not overwritten.
        """
        keys = [record_key(app, user) for user in users]
        fields = [("HGET", bucket_of(app, user), field_of(user)) for user in users]
        replies = _paced(self._pipe, [*(("GET", key) for key in keys), *fields])
        commands: list[tuple[object, ...]] = []
        for key, data, places in zip(keys, replies[: len(keys)], replies[len(keys) :], strict=True):
            marked = marked_offline(data, nodes) if isinstance(data, bytes) and places is None else None
            if marked is not None:
                commands.append(("EVALSHA", MARK, 1, key, data, marked))
        if commands:
            _paced(self._pipe, commands)
        self._counters.buried += len(users)


def keep_records(pipe: Pipe, sessions: Iterable[Session], seconds: int) -> int:
    """Let the records of these sessions live for ``seconds`` from now; their number. Switches all the time.

    Raises :class:`Interrupted`.
    """
    kept = 0
    batch: list[tuple[object, ...]] = []
    for session in sessions:
        batch.append(("EXPIRE", record_key(session.app, encoded(session.user)), seconds))
        if len(batch) == _BATCH:
            _paced(pipe, batch)
            kept += len(batch)
            batch = []
    if batch:
        _paced(pipe, batch)
    return kept + len(batch)
