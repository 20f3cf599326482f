"""The registry of many nodes: what they share is in Redis.

How it stands there is told in :mod:`imserver.cluster.redis_scripts`. Calls go through the *pipe*, which
everybody shares; the lease has a wire of its own, so that a pipeline full of logins never delays a renewal.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from time import monotonic
from typing import Final

import gevent

from imserver.cluster.contract import Begun, Counters, Lease, Place, Session
from imserver.cluster.redis_address import address_of
from imserver.cluster.redis_burial import Interrupted, keep_records
from imserver.cluster.redis_lease import LeaseKeeper
from imserver.cluster.redis_lookup import Lookup
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_places import ban_field_of, bucket_of, decoded, encoded
from imserver.cluster.redis_rooms import RoomRecords
from imserver.cluster.redis_scripts import ATTEMPT, ATTEMPTS, BAN
from imserver.cluster.redis_sessions import SessionCommands
from imserver.cluster.redis_trail import Trail
from imserver.cluster.redis_watch import EVERYTHING, UNREGISTERED, Extent, Watch
from imserver.cluster.redis_wire import Away, open_wire
from imserver.errors import StartError
from imserver.settings import ClusterSettings, RedisSettings

log = logging.getLogger(__name__)

RECORD_SECONDS: Final = 86400
_RESTORE_SESSIONS: Final = 200
_RESTORE_PAUSE_SECONDS: Final = 0.01
_UNENDED_LIMIT: Final = 100_000


class RedisRegistry:
    """See :class:`imserver.cluster.contract.Registry`. Owner of the ends that Redis has not been told yet.

    ``apps`` are those of this node, ``dedupe_seconds`` tells for how long an accepted message id is
    remembered, ``record_seconds`` for how long the record of a user who is not heard of stays.
    """

    shared = True

    def __init__(
        self,
        redis: RedisSettings,
        cluster: ClusterSettings,
        apps: Collection[str],
        dedupe_seconds: float = 43200.0,
        record_seconds: int = RECORD_SECONDS,
    ) -> None:
        self.counters = Counters()
        self.sessions: Callable[[], Iterable[Session]] = lambda: ()
        self.on_restore: Callable[[bool], None] = lambda everything: None
        self.on_replaced: Callable[[str, str, int], None] = lambda app, user, session_id: None
        self.on_leases: Callable[[], None] = lambda: None
        self._address = address = address_of(redis)
        self._record_seconds = record_seconds
        single = address.kind != "cluster"
        data_wire = open_wire(address, cluster.redis_seconds, self.counters)
        lease_wire = open_wire(address, cluster.redis_seconds, self.counters)
        self._keeper = LeaseKeeper(
            lease_wire, cluster.lease_seconds, cluster.renew_seconds, single, self._found_replaced
        )
        self._pipe = Pipe(data_wire, self.counters, self._keeper.alive, self._pipe_failed)
        self._watch = Watch(
            self._keeper,
            self._pipe,
            data_wire,
            self.counters,
            apps,
            cluster.renew_seconds,
            self._restore,
            self._leases_changed,
        )
        self._commands = SessionCommands(self._keeper, single, record_seconds)
        self._trail = Trail(self._keeper)
        lookup = Lookup(self._pipe, self._keeper, self._watch, cluster.redis_seconds, dedupe_seconds)
        self.find = lookup.find
        self.find_in = lookup.find_in
        self.find_and_claim = lookup.find_and_claim
        self.claim = lookup.claim
        self.settle = lookup.settle
        self._rooms = rooms = RoomRecords(
            self._pipe, self._keeper, self._watch, data_wire, cluster.redis_seconds, cluster.lease_seconds
        )
        self._watch.on_burial = rooms.bury
        self.enter_rooms = rooms.enter
        self.find_rooms = rooms.find
        self._extent: Extent = EVERYTHING
        self._unended: dict[int, Session] = {}
        self._recorder: gevent.Greenlet[..., None] | None = None

    # --- the node -------------------------------------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        """See :class:`imserver.cluster.contract.Registry`."""
        return self._keeper.lease

    def start(self, lease: Lease) -> Lease:
        """See :class:`imserver.cluster.contract.Registry`."""
        self._keeper.lease = lease
        self._pipe.start()
        where = self._address.text
        try:
            self._watch.join()
        except Away as away:
            if away.refused:
                self._end_greenlets()
                raise StartError(f"Redis at {where}: {away}") from None
            log.warning("Redis at %s is away, this node works alone until it is back: %s", where, away)
        except StartError:
            self._end_greenlets()
            raise
        self._rooms.started()
        self._watch.start()
        self._recorder = gevent.spawn(self._keep_records)
        return self.lease

    def stop(self, clean: bool = False) -> None:
        """See :class:`imserver.cluster.contract.Registry`."""
        self._end_greenlets()
        try:
            self._keeper.leave(clean and not self._unended)
        except Away as away:
            log.info("Redis was not told that this node stops: %s", away)
        self._keeper.wire.close()

    def _end_greenlets(self) -> None:
        """End everything that runs, and close both wires."""
        self._watch.stop()
        if self._recorder is not None:
            self._recorder.kill()
        self._pipe.stop()
        self._keeper.wire.close()

    def healthy(self) -> bool:
        """See :class:`imserver.cluster.contract.Registry`."""
        return self._pipe.closed and self._keeper.alive()

    def registered(self, session: Session) -> bool:
        """See :class:`imserver.cluster.contract.Registry`."""
        return session.life == self._watch.life != 0

    def leases(self) -> Mapping[int, Lease]:
        """See :class:`imserver.cluster.contract.Registry`."""
        return self._keeper.book.live

    def learn(self, lease: Lease) -> None:
        """See :class:`imserver.cluster.contract.Registry`."""
        self._keeper.book.learn(lease)

    def life(self) -> int:
        """See :class:`imserver.cluster.contract.Registry`."""
        return self._watch.life

    def report(
        self,
        connections: int,
        counts: Mapping[str, int],
        draining: bool = False,
        unsettled: bool = False,
    ) -> None:
        """See :class:`imserver.cluster.contract.Registry`."""
        if self._keeper.report(connections, counts, draining, unsettled):
            self._watch.hurry()

    def keeps(self, database: str) -> None:
        """See :class:`imserver.cluster.contract.Registry`."""
        self._keeper.keeps(database)
        if self._keeper.lease.epoch:
            self._watch.hurry()

    def _leases_changed(self) -> None:
        gevent.spawn(self.on_leases)

    # --- sessions -------------------------------------------------------------------------------------------

    def begin(self, session: Session, replacing: Collection[Place] = ()) -> Begun | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        begun = self._begin(session, replacing)
        if begun is not None and begun.refused:
            dead = [place for place in begun.others if self._keeper.book.is_dead(place.epoch)]
            if dead:
                # Rare: a life that was cleared away already had written once more.
                begun = self._begin(session, [*replacing, *dead])
        return begun

    def _begin(self, session: Session, replacing: Collection[Place]) -> Begun | None:
        life = self._watch.life
        trail = self._trail.before((session,), life)
        replies = self._pipe.ask([*trail, self._commands.begin(session, replacing)])
        begun = None if replies is None else self._commands.begun(session, replies[-1], life)
        if begun is None:
            self._trail.forget()
            self._watch.want(UNREGISTERED)
            return None
        for command in self._commands.after_begin(session, begun):
            self._pipe.tell(command)
        if life != self._watch.life:
            self._watch.want(EVERYTHING)
        return begun

    def end(self, session: Session) -> bool | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        replies = self._pipe.ask([self._commands.end(session)])
        if replies is None or isinstance(replies[0], Exception):
            self._end_later(session)
            return None
        for command in self._commands.after_end(session, replies[0]):
            self._pipe.tell(command)
        return bool(replies[0] == 1 or (replies[0] == 2 and not self.registered(session)))

    def _end_later(self, session: Session) -> None:
        self._watch.want(UNREGISTERED)
        self._unended[session.id] = session
        if len(self._unended) > _UNENDED_LIMIT:
            # Under a new epoch all that this one has left is void.
            self._unended.clear()
            self._watch.rejoin = True

    def ban(self, app: str, user: str, seconds: float) -> bool | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        name = encoded(user)
        arguments = ban_field_of(name), max(int(seconds * 1000), 0)
        replies = self._pipe.ask([("EVALSHA", BAN, 1, bucket_of(app, name), *arguments)])
        return None if replies is None or isinstance(replies[0], Exception) else True

    def attempt(self, name: str, most: float, each_seconds: float, weight: float) -> float | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        key = ATTEMPTS + sha256(encoded(name)).hexdigest()  # names have phone numbers
        replies = self._pipe.ask([("EVALSHA", ATTEMPT, 1, key, most, each_seconds * 1000, weight)])
        return None if replies is None or isinstance(replies[0], Exception) else int(replies[0]) / 1000

    # --- registering again ----------------------------------------------------------------------------------

    def restore(self, sessions: Iterable[Session]) -> Iterator[tuple[Session, Begun]]:
        """See :class:`imserver.cluster.contract.Registry`."""
        waiting, extent = iter(sessions), self._extent
        while batch := list(islice(waiting, _RESTORE_SESSIONS)):
            started, life = monotonic(), self._watch.life
            trail = self._trail.before(batch, life)
            replies = self._pipe.ask([*trail, *map(self._commands.begin, batch)])
            if replies is None:
                self._trail.forget()
                self._watch.want(extent)
                return
            took = monotonic() - started
            for session, reply in zip(batch, replies[len(trail) :], strict=True):
                begun = self._commands.begun(session, reply, life)
                if begun is None:
                    continue
                for command in self._commands.after_begin(session, begun):
                    self._pipe.tell(command)
                self.counters.restored += 1
                yield session, begun
            # Others restore too, perhaps all nodes of the cluster: the busier Redis is, the longer the pause.
            gevent.sleep(_RESTORE_PAUSE_SECONDS + 2 * took)

    def _restore(self, extent: Extent) -> None:
        """First end what ended meanwhile, then let sessions be registered again. Raises Interrupted."""
        while self._unended:
            batch = list(islice(self._unended.values(), _RESTORE_SESSIONS))
            if self._pipe.ask([self._commands.end(session) for session in batch]) is None:
                raise Interrupted
            for session in batch:
                self._unended.pop(session.id, None)
            gevent.sleep(_RESTORE_PAUSE_SECONDS)
        self._extent = extent
        self.on_restore(extent == EVERYTHING)

    def _pipe_failed(self) -> None:
        self._watch.want(UNREGISTERED)

    def _found_replaced(self, entries: Sequence[bytes]) -> None:
        self.counters.lost_kicks += len(entries)
        gevent.spawn(self._tell_replaced, entries)

    def _tell_replaced(self, entries: Sequence[bytes]) -> None:
        """Greenlet: pass on which sessions of this node are addressed no longer."""
        for entry in entries:
            session_id, app, user = entry.split(b"\0", 2)
            try:
                self.on_replaced(decoded(app), decoded(user), int(session_id))
            except Exception:
                log.exception("a replaced session was not let go")

    def _keep_records(self) -> None:
        """Greenlet: records of sessions that last longer than a record lives."""
        while True:
            gevent.sleep(self._record_seconds / 4 * random.uniform(0.75, 1.25))
            try:
                keep_records(self._pipe, self.sessions(), self._record_seconds)
            except Interrupted:
                continue
            except Exception:
                log.exception("keeping the records of this node's sessions failed")
