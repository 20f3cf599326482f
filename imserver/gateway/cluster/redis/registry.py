"""The registry of nodes that share a Redis.

The data model is described in :mod:`imserver.gateway.cluster.redis.scripts`.
Calls share one pipeline; the lease has a connection of its own, so that a
pipeline full of logins never delays a renewal.
"""

import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from time import monotonic
from typing import Any, Final

import gevent

from imserver.gateway.cluster.redis.connection import (
    RedisUnavailable,
    TrackedKeys,
    address_of,
)
from imserver.gateway.cluster.redis.history import RedisHistory
from imserver.gateway.cluster.redis.lease import LeaseKeeper
from imserver.gateway.cluster.redis.link import RedisLink
from imserver.gateway.cluster.redis.marks import OtherMarks, OwnMarks
from imserver.gateway.cluster.redis.masters import open_link
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.redis.presence import (
    NONE_LEFT,
    NONE_THERE,
    RECORD_SECONDS,
    ChannelLookup,
    Lookup,
    SessionCommands,
    WrittenBuckets,
    decoded,
    encoded,
    live_leases,
    record_key,
)
from imserver.gateway.cluster.redis.recovery import (
    EVERYTHING,
    UNREGISTERED,
    Extent,
    Interrupted,
    RegistryRecovery,
    extend_records,
)
from imserver.gateway.cluster.redis.scripts import ATTEMPT, SECOND_MS
from imserver.gateway.cluster.registry import (
    Lease,
    RegistryCounters,
    RegistryEvents,
    Session,
    SessionRef,
    SessionRegistration,
)
from imserver.gateway.config.settings import ClusterSettings, RedisSettings
from imserver.gateway.errors import StartError, StorageUnavailable

log = logging.getLogger(__name__)

_REREGISTER_SESSIONS: Final = 200
"""How many sessions one pipeline registers again."""
_REREGISTER_PAUSE_SECONDS: Final = 0.01
_UNREPORTED_LIMIT: Final = 100_000
"""Limit of the logouts that Redis has not confirmed."""
_DEDUPE_SECONDS: Final = 43_200.0
_FORGET_SECONDS: Final = 5.0
"""How long an erasure waits for the end of the last session of a user."""
_FORGET_LOOK_SECONDS: Final = 0.05
_EXTENSIONS: Final = 4
"""How many times a record is extended in its lifetime. So some attempts may
fail."""
_EXTENSION_SPREAD: Final = (0.75, 1.25)
"""The least and the greatest share of the usual pause, so that nodes do not
extend records at once."""


class RedisRegistry:
    """The registry of nodes that share a Redis: who is connected to which node.

    It has the methods of
    :class:`imserver.gateway.cluster.registry.SoloRegistry`, and the methods for
    sessions, channels and claims. ``apps`` has the apps of this node.
    ``dedupe_seconds`` is the lifetime of an accepted message id. ``created``
    returns when an app was created, see :class:`RedisHistory`.

    Methods may switch greenlets unless they say otherwise. They return None if
    Redis does not answer within ``cluster.redis_seconds`` (at once while it is
    known to be unavailable). Owner of logouts that Redis has not confirmed.
    """

    def __init__(
        self,
        redis: RedisSettings,
        cluster: ClusterSettings,
        apps: Collection[str],
        dedupe_seconds: float = _DEDUPE_SECONDS,
        created: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Build the parts of the registry. Nothing is sent before
        :meth:`start`."""
        self.counters = RegistryCounters()
        self._events: RegistryEvents
        address = address_of(redis)
        self._address = address
        single = address.kind != "cluster"

        tracked = TrackedKeys()
        data_link = open_link(address, cluster.redis_seconds, self.counters, tracked)
        self.keeper = self._make_keeper(cluster)
        self.pipeline = self._make_pipeline(data_link)
        self.recovery = self._make_recovery(data_link, apps)

        self._marks = OwnMarks(self.pipeline, self.keeper, data_link, self.recovery)
        self._commands = SessionCommands(self.keeper, single)
        self._written = WrittenBuckets(self.keeper)

        # These methods are called very often. As attributes of this object,
        # they need no further call.
        lookup = self._make_lookup(data_link, tracked, dedupe_seconds)
        self.find = lookup.find
        self.find_in_apps = lookup.find_in_apps
        self.find_and_claim = lookup.find_and_claim
        self.claim = lookup.claim
        self.settle = lookup.settle
        self.results = lookup.results

        channels = ChannelLookup(self.pipeline, self.keeper, self.recovery, data_link)
        self._channels = channels
        self.report_channels = channels.report
        self.find_channels = channels.find
        self.history = RedisHistory(self.pipeline, single, created)

        self._extent: Extent = EVERYTHING
        """Which sessions the next :meth:`reregister` gets."""
        self._unreported_ends: dict[int, Session] = {}
        """Session id → a session that has ended, but Redis has not confirmed
        its end."""
        self._recorder: gevent.Greenlet[..., None] | None = None
        """The greenlet that extends the readable records."""

    def _make_pipeline(self, data_link: RedisLink) -> Pipeline:
        """Return the pipeline by which all calls share round trips."""
        return Pipeline(
            data_link,
            may_send=self.keeper.alive,
            on_failure=lambda: self.recovery.request(UNREGISTERED),
        )

    def _make_recovery(
        self, data_link: RedisLink, apps: Collection[str]
    ) -> RegistryRecovery:
        """Return the part that renews the lease and repairs the registry."""
        return RegistryRecovery(
            keeper=self.keeper,
            pipeline=self.pipeline,
            data_link=data_link,
            apps=apps,
            reregister=self._reregister,
            leases_changed=lambda: gevent.spawn(self._events.leases_changed),
            marks_are_lost=lambda: self._marks.are_lost(),
        )

    def _make_lookup(
        self, data_link: RedisLink, tracked: TrackedKeys, dedupe_seconds: float
    ) -> Lookup:
        """Return the look-ups of users and the claims of message ids."""
        marks = OtherMarks(self.keeper, data_link, self.recovery)
        return Lookup(
            self.pipeline, self.keeper, self.recovery, tracked, marks, dedupe_seconds
        )

    def _make_keeper(self, cluster: ClusterSettings) -> LeaseKeeper:
        """Return the keeper of this node's lease.

        It has a link of its own, so that a pipeline full of logins never delays a
        renewal.
        """
        return LeaseKeeper(
            link=open_link(self._address, cluster.redis_seconds, self.counters),
            lease_seconds=cluster.lease_seconds,
            renew_seconds=cluster.renew_seconds,
            on_replaced=partial(gevent.spawn, self._notify_replaced),
        )

    # --- the node -------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        return self.keeper.lease

    def start(self, lease: Lease, events: RegistryEvents) -> Lease:
        """Register this node. Returns its lease with the epoch.

        The epoch is 0 if Redis is unavailable. Then the node works alone, and
        is registered when Redis is back. Raises
        :class:`~imserver.gateway.errors.StartError` if this node must not join,
        for one of these reasons:

        - The cluster has another secret or another database.
        - A live node on another machine has the address of this node.
        - Redis rejects the user or the password.

        A lease proves for some seconds that a node lives. Its epoch is the
        number of this life.
        """
        self._events = events
        self.keeper.lease = lease
        self.pipeline.start()
        try:
            self._join()
        except StartError:
            self._end_greenlets()
            raise

        self._channels.started()
        if self.pipeline.admits_calls:
            # A mark proves that a node has registered all its sessions. This
            # node has no sessions yet, so it may leave its marks at once.
            self._marks.begin()
            self._marks.set()
        self.recovery.start()
        self._recorder = gevent.spawn(self._extend_records)
        return self.lease

    def _join(self) -> None:
        """Take an epoch, unless Redis is unavailable. Raises StartError if this
        node must not join, or if Redis rejects it.

        An epoch is the number of one life of a node.
        """
        where = self._address.text
        try:
            self.recovery.join()
        except RedisUnavailable as error:
            if error.refused:
                raise StartError(f"Redis at {where}: {error}") from None
            log.warning(
                "Redis at %s is unavailable, this node works alone until it is back: %s",
                where,
                error,
            )

    def stop(self, clean: bool = False) -> None:
        """Give back the lease.

        ``clean`` means that this node has no session left. Otherwise other
        nodes clean up after it.
        """
        self._end_greenlets()
        try:
            self.keeper.leave(clean and not self._unreported_ends)
        except RedisUnavailable as error:
            log.info("the lease was not released, Redis is unavailable: %s", error)
        self.keeper.link.close()

    def _end_greenlets(self) -> None:
        """End the greenlets, and close the connections."""
        self.recovery.stop()
        if self._recorder is not None:
            self._recorder.kill()
        self.pipeline.stop()
        self.keeper.link.close()

    def healthy(self) -> bool:
        return self.pipeline.admits_calls and self.keeper.alive()

    def registered(self, session: Session) -> bool:
        """Whether Redis knows the session, as far as this node can tell.

        Never switches greenlets.
        """
        return session.generation == self.recovery.generation != 0

    def leases(self) -> Mapping[int, Lease]:
        return self.keeper.table.live

    def reachable(self) -> Mapping[int, Lease]:
        return self.keeper.table.reachable

    def overdue(self) -> list[Lease]:
        """Return the leases that have run out although their nodes may still
        serve.

        A busy node renews its lease too late, for example. Never switches
        greenlets.
        """
        return self.keeper.table.overdue()

    def forget_lease(self, epoch: int) -> None:
        """Count a node with an overdue lease as dead, because it does not
        answer either.

        Never switches greenlets.
        """
        self.keeper.table.forget(epoch)

    def add_lease(self, lease: Lease) -> None:
        """Add the lease of a node that has announced itself.

        It counts as live until the next refresh. Never switches greenlets.
        """
        self.keeper.table.add(lease)

    def generation(self) -> int:
        """Return a number that grows whenever everything must be registered
        again.

        That is so after a flush of Redis, for example. Never switches
        greenlets.
        """
        return self.recovery.generation

    def report(
        self,
        connections: int,
        counts: Mapping[str, int],
        draining: bool = False,
        unsettled: bool = False,
    ) -> None:
        """Put the state of this node into its lease, where other nodes read it.

        ``counts`` has the number of users by app. ``draining`` means that the
        node is about to stop. ``unsettled`` means that the registry does not
        know all its channels yet.
        """
        if self.keeper.report(connections, counts, draining, unsettled):
            self.recovery.wake()

    def report_database(self, database: str) -> None:
        """Publish the id of this node's database with the next renewal, soon.

        Never switches greenlets.
        """
        self.keeper.report_database(database)
        if self.keeper.lease.epoch:
            self.recovery.wake()

    # --- sessions -------------------------------------------------------------

    def register(
        self, session: Session, replacing: Collection[SessionRef] = ()
    ) -> SessionRegistration | None:
        """Register a session under its policy, in one atomic step.

        The policy says which other sessions of the user the new session
        replaces, and which sessions block it. ``replacing`` has sessions that
        are known to be dead although their nodes are live. Such sessions do not
        block under ``refuse``. Returns None if Redis did not answer. Then the
        session is registered later (:class:`RegistryEvents`).
        """
        registration = self._register(session, replacing)
        if registration is None and self.pipeline.admits_calls and self.recovery.up:
            # Redis is available, so the reason must be that the lease has
            # expired: this process was stopped for a while. The check takes
            # another lease.
            self.recovery.look_again()
            registration = self._register(session, replacing)
        if registration is None or not registration.refused:
            return registration

        return self._register_beside_dead(session, replacing, registration)

    def _register_beside_dead(
        self,
        session: Session,
        replacing: Collection[SessionRef],
        registration: SessionRegistration,
    ) -> SessionRegistration | None:
        """Register a refused session again if dead sessions block it.

        Otherwise this returns the refusal, ``registration``. Then the caller
        asks the nodes of the blocking sessions. So this node must also know
        nodes that have just joined.
        """
        table = self.keeper.table
        others = registration.others
        live_leases(table, self.recovery, [ref.epoch for ref in others])
        dead = [ref for ref in others if table.is_dead(ref.epoch)]
        if dead:
            # This is rare: an epoch that was already cleaned up has written
            # again.
            return self._register(session, [*replacing, *dead])
        return registration

    def _register(
        self, session: Session, replacing: Collection[SessionRef]
    ) -> SessionRegistration | None:
        """Register a session in one attempt, so that pushes find it.

        ``replacing`` has sessions that are known to be dead, and so do not
        block it. Returns None if Redis did not answer; then the session is
        registered later.
        """
        generation = self.recovery.generation
        commands = self._written.commands_before((session,), generation)
        commands.append(self._commands.register(session, replacing))
        replies = self.pipeline.execute(commands)
        registration = None
        if replies:
            registration = self._commands.registration(session, replies[-1], generation)

        if registration is None:
            # It is unknown which commands Redis has carried out.
            self._written.forget()
            self.recovery.request(UNREGISTERED)
            return None

        for command in self._commands.after_register(session, registration):
            self.pipeline.post(command)
        if generation != self.recovery.generation:
            # The session may have been written before Redis lost its data.
            self.recovery.request(EVERYTHING)
        return registration

    def unregister(self, session: Session) -> bool | None:
        """End a session, also if its registration was not answered.

        Returns True if the user has no addressed session left. Returns False if
        the user has other addressed sessions, or if the session was no longer
        addressed. Returns None if Redis did not answer; then the registry ends
        the session later.

        A session is addressed if pushes reach it.
        """
        replies = self.pipeline.execute_all([self._commands.unregister(session)])
        if replies is None:
            self._end_later(session)
            return None

        reply = replies[0]
        for command in self._commands.after_unregister(session, reply):
            self.pipeline.post(command)
        if reply == NONE_LEFT:
            return True
        # Redis does not have the session. If this node did not count it as
        # registered, it was the last session of its user. If this node did,
        # another session has replaced it meanwhile.
        return bool(reply == NONE_THERE and not self.registered(session))

    def _end_later(self, session: Session) -> None:
        """Note a session whose end Redis has not confirmed."""
        self.recovery.request(UNREGISTERED)
        self._unreported_ends[session.id] = session
        if len(self._unreported_ends) > _UNREPORTED_LIMIT:
            # There are too many sessions to end them one by one. A new epoch of
            # this node invalidates all its earlier sessions.
            self._unreported_ends.clear()
            self.recovery.rejoin = True

    def forget_user(self, app: str, user: str) -> None:
        """Delete the readable record of an erased user.

        Waits until the last session has ended, because its end writes the
        record. If the user still has a session after five seconds, the record
        stays. Raises StorageUnavailable.
        """
        end = monotonic() + _FORGET_SECONDS
        while True:
            refs = self.find(app, [user])
            if refs is None:
                raise StorageUnavailable("Redis does not answer")
            # No node has a session of the user.
            if not refs[0]:
                break
            if monotonic() > end:
                return
            gevent.sleep(_FORGET_LOOK_SECONDS)

        key = record_key(app, encoded(user))
        if self.pipeline.execute_all([("DEL", key)]) is None:
            raise StorageUnavailable("Redis does not answer")

    def attempt(
        self, name: str, most: float, each_seconds: float, weight: float
    ) -> float | None:
        """Count ``weight`` attempts under a name for all nodes, if the limit
        allows it.

        ``most`` is the largest number of attempts, and each attempt expires
        after ``each_seconds``. A negative weight takes attempts back. Weight 0
        counts nothing, but asks whether one attempt could be counted.

        Returns 0 if the attempts were (or could be) counted. Otherwise it
        returns the seconds until they could be counted. Returns None if Redis
        did not answer; then the caller must count locally.
        """
        # Names contain phone numbers, which nobody may read in Redis.
        key = "imserver:attempts:" + sha256(encoded(name)).hexdigest()
        each_ms = each_seconds * SECOND_MS
        replies = self.pipeline.execute_all(
            [("EVALSHA", ATTEMPT, 1, key, most, each_ms, weight)]
        )
        if replies is None:
            return None
        return int(replies[0]) / SECOND_MS

    # --- temporary values: as LocalValues -------------------------------------

    def put_value(self, key: str, value: bytes, seconds: float) -> None:
        """Store a value for ``seconds``, for all nodes."""
        milliseconds = max(int(seconds * SECOND_MS), 1)
        self._value_command("SET", key, value, "PX", milliseconds)

    def value(self, key: str) -> bytes | None:
        """Return a stored value; None if it does not exist, or has expired."""
        value: bytes | None = self._value_command("GET", key)
        return value

    def remove_value(self, key: str) -> bool:
        return bool(self._value_command("DEL", key))

    def _value_command(self, name: str, key: str, *arguments: Any) -> Any:
        """Execute one command on a temporary value. Raises StorageUnavailable."""
        command = (name, "imserver:values:" + key, *arguments)
        replies = self.pipeline.execute_all([command])
        if replies is None:
            raise StorageUnavailable("Redis does not answer")
        return replies[0]

    # --- re-registration ------------------------------------------------------

    def reregister(
        self, sessions: Iterable[Session]
    ) -> Iterator[tuple[Session, SessionRegistration]]:
        """Register sessions again with their numbers, at a limited rate.

        Yields each session with its result. Reads ``sessions`` lazily, a batch
        at a time. The caller must unregister a session that ends while its
        batch is sent. Stops early if Redis becomes unavailable.
        """
        waiting = iter(sessions)
        has_failed = False
        extent = self._begin_extent()
        while batch := list(islice(waiting, _REREGISTER_SESSIONS)):
            started = monotonic()
            generation = self.recovery.generation
            replies = self._send_again(batch, generation)
            if replies is None:
                self._written.forget()
                self.recovery.request(extent)
                return

            took = monotonic() - started
            for session, reply in zip(batch, replies, strict=True):
                registration = self._take_again(session, reply, generation)
                if registration is None:
                    has_failed = True
                    continue
                yield session, registration
            # All nodes may do the same at once: the busier Redis is, the longer
            # the pause.
            gevent.sleep(_REREGISTER_PAUSE_SECONDS + 2 * took)

        self._end_extent(extent, has_failed)

    def _end_extent(self, extent: Extent, has_failed: bool) -> None:
        """Leave the marks after all sessions were registered again, or request
        that sessions are registered once more."""
        if has_failed:
            self.recovery.request(UNREGISTERED)
        if extent == EVERYTHING and not self._marks.set():
            self.recovery.request(EVERYTHING)

    def _take_again(
        self, session: Session, reply: Any, generation: int
    ) -> SessionRegistration | None:
        """Return the result of registering a session again; None if that
        failed."""
        registration = self._commands.registration(session, reply, generation)
        if registration is None:
            return None
        for command in self._commands.after_register(session, registration):
            self.pipeline.post(command)
        self.counters.reregistered += 1
        return registration

    def _begin_extent(self) -> Extent:
        """Return which sessions must be registered again now.

        If they are all sessions, new marks are begun.
        """
        extent = self._extent
        self._extent = UNREGISTERED
        if extent == EVERYTHING:
            self._marks.begin()
        return extent

    def _send_again(
        self, batch: Sequence[Session], generation: int
    ) -> list[Any] | None:
        """Send the commands that register these sessions again.

        Returns the reply for each session; None if Redis did not answer.
        """
        records = self._written.commands_before(batch, generation)
        # The buckets are recorded first, so that a cleanup finds the sessions.
        registering = [self._commands.register(session, late=True) for session in batch]
        replies = self.pipeline.execute([*records, *registering])
        if replies is None:
            return None
        return replies[len(records) :]

    def _reregister(self, extent: Extent) -> None:
        """Unregister sessions that have ended meanwhile, then register again.

        ``extent`` says which sessions: all, or only sessions that Redis does
        not know. Raises Interrupted.
        """
        while self._unreported_ends:
            batch = list(islice(self._unreported_ends.values(), _REREGISTER_SESSIONS))
            commands = [self._commands.unregister(session) for session in batch]
            if self.pipeline.execute(commands) is None:
                raise Interrupted
            # The sessions are forgotten only after Redis has answered.
            for session in batch:
                self._unreported_ends.pop(session.id, None)
            gevent.sleep(_REREGISTER_PAUSE_SECONDS)
        self._extent = max(self._extent, extent)
        self._events.reregister(extent == EVERYTHING)

    def _notify_replaced(self, entries: Sequence[bytes]) -> None:
        """Greenlet: report sessions of this node that are no longer addressed.

        An entry is ``session id\\0app\\0user``.
        """
        self.counters.late_replacements += len(entries)
        for entry in entries:
            # A name of a user may contain the separator, so it comes last.
            session_id, app, user = entry.split(b"\0", 2)
            try:
                self._events.replaced(decoded(app), decoded(user), int(session_id))
            except Exception:
                log.exception("a replaced session was not removed")

    def _extend_records(self) -> None:
        """Greenlet: extend the readable records of sessions that outlive a
        record."""
        while True:
            # The pause is random, so that not all nodes write at the same time.
            spread = random.uniform(*_EXTENSION_SPREAD)
            gevent.sleep(RECORD_SECONDS / _EXTENSIONS * spread)
            try:
                extend_records(self.pipeline, self._events.sessions())
            except Interrupted:
                continue
            except Exception:
                log.exception("extending the records of this node's sessions failed")
