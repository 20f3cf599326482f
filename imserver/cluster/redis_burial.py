"""Slow passes, paced: what dead nodes left is cleared away, and records of those who stay are kept from
expiring."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import Any, Final

import gevent

from imserver.cluster.contract import Counters, Session
from imserver.cluster.redis_lease import decode_lease
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_places import BUCKETS, bucket_key, bucket_of, encoded, field_of, user_of
from imserver.cluster.redis_records import ACTION_SERVERS, SERVERS, marked_offline, record_key
from imserver.cluster.redis_scripts import DIGGER, GRAVES, MARK, SWEEP
from imserver.cluster.redis_trail import Trodden, read_steps, trail_key

log = logging.getLogger(__name__)

_BATCH: Final = 100
_PAUSE_SECONDS: Final = 0.001
_TRAIL_MEMBERS: Final = 1000


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

    Where they were is told by their trails. For a life without one, which an older version may have lived or
    which Redis has lost, all buckets of ``apps`` are looked into, and of those its lease names. Switches all
    the time.
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
        nodes: dict[str, str] = {}
        """Dead nodes, and where their clients connected."""
        trodden: Trodden = {}
        for epoch, data in zip(epochs, leases[0], strict=True):
            lease = decode_lease(data) if data and data != b"{}" else None
            if lease is not None:
                nodes[lease.node] = lease.clients
            if not self._follow(epoch, trodden):
                trodden |= dict.fromkeys([*self._apps, *(lease.counts if lease is not None else ())])
        buried = sum(self._sweep(app, buckets, epochs, nodes) for app, buckets in trodden.items())
        gone = [node for node in nodes if not is_live(node)]
        commands: list[tuple[object, ...]] = [
            *(("DEL", trail_key(epoch)) for epoch in epochs),
            ("HDEL", GRAVES, *epochs),
            ("DEL", DIGGER),
        ]
        if gone:
            commands.append(("HDEL", SERVERS, *gone))
            commands.append(("HDEL", ACTION_SERVERS, *(nodes[node] for node in gone)))
        _paced(self._pipe, commands)
        if buried or nodes:
            log.info("%d users of dead nodes (%s) are offline now", buried, ", ".join(sorted(nodes)))

    def _follow(self, epoch: int, trodden: Trodden) -> bool:
        """Add the buckets of a dead life to ``trodden``. False: it has left no trail."""
        found, cursor = False, b""
        while cursor != b"0":
            reply: Any = _paced(
                self._pipe, [("SSCAN", trail_key(epoch), cursor or b"0", "COUNT", _TRAIL_MEMBERS)]
            )[0]
            if isinstance(reply, Exception):
                return False
            cursor, members = reply
            read_steps(members, trodden)
            found = found or bool(members)
        return found

    def _sweep(
        self, app: str, buckets: Collection[int] | None, epochs: Collection[int], nodes: Collection[str]
    ) -> int:
        """Clear these buckets of an app (None: all); the number of users who were there and nowhere else."""
        numbers = range(BUCKETS) if buckets is None else sorted(buckets)
        gone = 0
        for first in range(0, len(numbers), _BATCH):
            part = numbers[first : first + _BATCH]
            replies = _paced(
                self._pipe, [("EVALSHA", SWEEP, 1, bucket_key(app, number), *epochs) for number in part]
            )
            users = [user_of(field) for reply in replies if isinstance(reply, list) for field in reply]
            for start in range(0, len(users), _BATCH):
                self._mark(app, users[start : start + _BATCH], nodes)
            gone += len(users)
        return gone

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
