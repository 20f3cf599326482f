"""Keeps the lease, detects outages and restarts of Redis, registers sessions
again, and cleans up after dead nodes."""

import logging
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import islice
from time import monotonic
from typing import Any, Final, Literal, TypeVar

import gevent
from gevent.event import Event as Flag

from imserver.gateway.clock import CLOCK_SECONDS, take_turns, until_beat
from imserver.gateway.cluster.redis.connection import RedisUnavailable
from imserver.gateway.cluster.redis.lease import (
    LeaseKeeper,
    LeaseLost,
    decode_lease,
    written_key,
)
from imserver.gateway.cluster.redis.link import Command, RedisLink
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.redis.presence import (
    BUCKETS,
    RECORD_SECONDS,
    BucketsByApp,
    bucket_key,
    bucket_of,
    channel_bucket_key,
    decoded,
    encoded,
    field_of,
    marked_offline,
    record_key,
    user_of,
)
from imserver.gateway.cluster.redis.scripts import (
    ACTION_SERVERS,
    CLEAN_BUCKET,
    CLEAN_ROOMS,
    CLEANER,
    DEAD_EPOCHS,
    REPLACE_RECORD,
    SERVERS,
)
from imserver.gateway.cluster.registry import Lease, RegistryCounters, Session
from imserver.gateway.errors import StartError
from imserver.gateway.model import Service

log = logging.getLogger(__name__)

_BATCH: Final = 100
"""How many users or buckets are handled together."""
_MIN_PAUSE_SECONDS: Final = 0.001
"""The shortest pause after commands that were executed at a limited rate."""
_SCANNED_BUCKETS: Final = 1000
"""How many recorded buckets Redis reads in a step."""


class Interrupted(Exception):
    """Redis became unavailable. The work is repeated when it is back."""


def _execute_paced(pipeline: Pipeline, commands: Sequence[Command]) -> list[Any]:
    """Execute commands, and return their replies.

    Pauses afterwards for at least as long as they took, so that Redis has time
    for other commands. Raises :class:`Interrupted` if Redis does not answer.
    """
    began = monotonic()
    replies = pipeline.execute(commands)
    if replies is None:
        raise Interrupted
    gevent.sleep(max(_MIN_PAUSE_SECONDS, monotonic() - began))
    return replies


T = TypeVar("T")


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split values into parts of at most :data:`_BATCH`."""
    for first in range(0, len(values), _BATCH):
        yield values[first : first + _BATCH]


class DeadNodeCleanup(Service):
    """Removes the sessions and channels of dead nodes, at a limited rate.

    An epoch is one life of a node. Each epoch records the buckets into which it
    has written: parts of the registry with some users, or some channels, each.
    An epoch may have no such records, because its node has an older version, or
    because Redis has lost them. Then all buckets of ``apps`` and of the apps in
    its lease are read. Switches greenlets all the time.
    """

    pipeline: Pipeline
    counters: RegistryCounters
    apps: Collection[str]

    def run(self, epochs: Collection[int], is_live: Callable[[str], bool]) -> None:
        """Clean up after these dead epochs.

        ``is_live`` tells whether the node with an id has a live lease. A node
        that has started again has another epoch. Raises :class:`Interrupted`.

        A dead epoch is a life of a node that has ended without a farewell, and
        has left sessions and channels in Redis.
        """
        self._clean_channels(epochs)
        leases = self._read_leases(epochs)
        addresses = _addresses_in(leases.values())
        users = 0
        for app, buckets in self._find_buckets(leases).items():
            users += self._clean_app(app, buckets, epochs, addresses)

        # The epochs are forgotten only now, because an interrupted cleanup has
        # to find them again.
        dead = {
            node: address for node, address in addresses.items() if not is_live(node)
        }
        self._forget_epochs(epochs, dead)
        if users or addresses:
            _log_cleaned(users, addresses)

    def _find_buckets(self, leases: Mapping[int, Lease | None]) -> BucketsByApp:
        """Return the buckets that may have sessions of dead epochs.

        ``leases`` has the last lease of each dead epoch, or None if Redis no
        longer has the lease.

        A dead epoch is a life of a node that has ended. A bucket is a hash in
        Redis with the sessions of a part of the users of an app.
        """
        buckets_by_app: BucketsByApp = {}
        for epoch, lease in leases.items():
            if self._add_buckets(epoch, buckets_by_app):
                continue
            # Nothing is recorded, so all buckets of these apps are read.
            apps = list(self.apps)
            if lease is not None:
                apps += lease.counts
            for app in apps:
                buckets_by_app[app] = None
        return buckets_by_app

    def _read_leases(self, epochs: Collection[int]) -> dict[int, Lease | None]:
        """Return the last lease of each dead epoch, or None if Redis has lost
        the lease.

        The lease names the node, and the apps of the node. Raises
        :class:`Interrupted`.

        A dead epoch is a life of a node that has ended.
        """
        replies = self.pipeline.execute([("HMGET", DEAD_EPOCHS, *epochs)])
        if replies is None:
            raise Interrupted
        leases: dict[int, Lease | None] = {}
        for epoch, data in zip(epochs, replies[0], strict=True):
            # The script writes {} if the lease is lost.
            is_lost = not data or data == b"{}"
            leases[epoch] = None if is_lost else decode_lease(data)
        return leases

    def _forget_epochs(
        self, epochs: Collection[int], dead_nodes: Mapping[str, str]
    ) -> None:
        """Delete the records about these epochs, and remove dead nodes from the
        lists of servers.

        ``dead_nodes`` maps the nodes that have not joined again to the
        addresses of their client ports.

        An epoch is the number of one life of a node. These epochs have ended,
        and all their remaining data was removed.
        """
        commands: list[Command] = [
            ("DEL", written_key("buckets", epoch)) for epoch in epochs
        ]
        commands.append(("HDEL", DEAD_EPOCHS, *epochs))
        commands.append(("DEL", CLEANER))
        # A node that has joined again stays in the lists.
        if dead_nodes:
            commands.append(("HDEL", SERVERS, *dead_nodes))
            commands.append(("HDEL", ACTION_SERVERS, *dead_nodes.values()))
        _execute_paced(self.pipeline, commands)

    def _clean_channels(self, epochs: Collection[int]) -> None:
        """Remove the members of dead epochs from the channels.

        Only the buckets that these epochs have recorded are read. Then these
        records are removed.

        A dead epoch is a life of a node that has ended. A bucket is a hash with
        the members of a part of the channels of an app.
        """
        # In this form the script finds an epoch as ",12,".
        dead = f",{','.join(map(str, epochs))},"
        for epoch in epochs:
            record = written_key("channel-buckets", epoch)
            (members,) = _execute_paced(self.pipeline, [("SMEMBERS", record)])
            if not isinstance(members, Exception):
                self._clean_channel_buckets(members, dead)
            _execute_paced(self.pipeline, [("DEL", record)])

    def _clean_channel_buckets(self, members: Iterable[bytes], dead: str) -> None:
        """Remove the members of the ``dead`` epochs from recorded buckets.

        A bucket is recorded as ``b"17:app"``.

        ``dead`` has the epochs as ``,12,14,``: the numbers of lives of nodes
        that have ended.
        """
        calls: list[Command] = []
        for member in members:
            number, _, app = member.partition(b":")
            key = channel_bucket_key(app, int(number))
            calls.append(("EVALSHA", CLEAN_ROOMS, 1, key, dead))
        for part in _parts(calls):
            _execute_paced(self.pipeline, part)

    def _add_buckets(self, epoch: int, buckets_by_app: BucketsByApp) -> bool:
        """Add the buckets that a dead epoch has recorded to ``buckets_by_app``.

        None in place of the buckets of an app stands for all buckets. Returns
        False if the epoch has recorded no buckets.

        A bucket is a hash in Redis with the sessions of a part of the users of
        an app.
        """
        has_buckets = False
        record = written_key("buckets", epoch)

        cursor = b""  # Redis returns the cursor 0 at the end
        while cursor != b"0":
            scan = ("SSCAN", record, cursor or b"0", "COUNT", _SCANNED_BUCKETS)
            (reply,) = _execute_paced(self.pipeline, [scan])
            if isinstance(reply, Exception):
                return False  # the record cannot be read, so it counts as lost
            cursor, members = reply
            for member in members:
                _add_bucket(member, buckets_by_app)
            has_buckets = has_buckets or bool(members)
        return has_buckets

    def _clean_app(
        self,
        app: str,
        buckets: Collection[int] | None,
        epochs: Collection[int],
        nodes: Collection[str],
    ) -> int:
        """Remove the sessions of dead epochs from buckets of an app.

        ``buckets`` has the numbers of the buckets; None means all buckets.
        ``nodes`` has the dead nodes, whose users are marked as offline. Returns
        the number of users who have no session left.

        A bucket is a hash in Redis with the sessions of a part of the users.
        """
        numbers = range(BUCKETS) if buckets is None else sorted(buckets)
        offline = 0
        # In this form the script finds an epoch as ",12,".
        dead = f",{','.join(map(str, epochs))},"
        for part in _parts(numbers):
            users = self._clean_buckets(app, part, dead)
            for users_of_part in _parts(users):
                self._mark_offline(app, users_of_part, nodes)
            offline += len(users)
        return offline

    def _clean_buckets(
        self, app: str, numbers: Sequence[int], dead: str
    ) -> list[bytes]:
        """Remove the sessions of the ``dead`` epochs from these buckets.

        Returns the users whose last session was removed.

        ``dead`` has the epochs as ``,12,14,``: the numbers of lives of nodes
        that have ended.
        """
        keys = [bucket_key(app, number) for number in numbers]
        calls = [("EVALSHA", CLEAN_BUCKET, 1, key, dead) for key in keys]
        users: list[bytes] = []
        for reply in _execute_paced(self.pipeline, calls):
            if isinstance(reply, list):
                users += map(user_of, reply)
        return users

    def _mark_offline(
        self, app: str, users: Sequence[bytes], nodes: Collection[str]
    ) -> None:
        """Mark these users offline in their readable records.

        Records of nodes that are not in ``nodes`` stay as they are. A user may
        log in meanwhile. So the record is read before the sessions. If there
        are no sessions, a later login writes another record, and the script
        does not overwrite that record.
        """
        keys = [record_key(app, user) for user in users]
        changes: list[Command] = []
        for key, (record, refs) in zip(
            keys, self._read_records(app, users, keys), strict=True
        ):
            change = _offline_change(key, record, refs, nodes)
            if change is not None:
                changes.append(change)
        if changes:
            _execute_paced(self.pipeline, changes)
        self.counters.cleaned_users += len(users)

    def _read_records(
        self, app: str, users: Sequence[bytes], keys: Sequence[bytes]
    ) -> list[tuple[Any, Any]]:
        """Read the readable record of each user, and then the sessions.

        ``keys`` has the keys of the records. In the result, None stands for a
        record or sessions that do not exist.
        """
        # All records are read before the sessions. So if a user logs in
        # meanwhile, a session is found.
        reads: list[Command] = [("GET", key) for key in keys]
        for user in users:
            reads.append(("HGET", bucket_of(app, user), field_of(user)))
        replies = _execute_paced(self.pipeline, reads)
        records = replies[: len(keys)]
        refs_of_users = replies[len(keys) :]
        return list(zip(records, refs_of_users, strict=True))


def _addresses_in(leases: Iterable[Lease | None]) -> dict[str, str]:
    """Return the nodes of these leases, each with its address for clients."""
    return {lease.node: lease.clients for lease in leases if lease is not None}


def _log_cleaned(users: int, nodes: Iterable[str]) -> None:
    """Log how many users of dead nodes were marked offline."""
    log.info(
        "dead-node cleanup: %d users of %s marked offline",
        users,
        ", ".join(sorted(nodes)),
    )


def _offline_change(
    key: bytes, record: Any, refs: Any, nodes: Collection[str]
) -> Command | None:
    """Return the command that marks a user of one of these nodes offline.

    The result is None if there is no readable ``record`` under the ``key``, or
    if it is the record of another node. It is also None if the user has logged
    in; then ``refs`` has sessions.
    """
    if not isinstance(record, bytes) or refs is not None:
        return None
    marked = marked_offline(record, nodes)
    if marked is None:
        return None
    return ("EVALSHA", REPLACE_RECORD, 1, key, record, marked)


def _add_bucket(member: bytes, buckets_by_app: BucketsByApp) -> None:
    """Add a bucket that a node has recorded, such as ``b"17:app"``.

    ``b"*:app"`` stands for all buckets of the app.
    """
    number, _, name = member.partition(b":")
    app = decoded(name)
    buckets = buckets_by_app.setdefault(app, set())
    if number == b"*":
        buckets_by_app[app] = None
    elif buckets is not None:
        buckets.add(int(number))


def extend_records(pipeline: Pipeline, sessions: Iterable[Session]) -> None:
    """Let the readable records of these sessions live for
    :data:`RECORD_SECONDS` from now.

    Raises :class:`Interrupted` if Redis does not answer.
    """
    waiting = iter(sessions)
    while batch := list(islice(waiting, _BATCH)):
        # There are pauses, because a node may have very many sessions.
        commands: list[Command] = []
        for session in batch:
            key = record_key(session.app, encoded(session.user))
            commands.append(("EXPIRE", key, RECORD_SECONDS))
        _execute_paced(pipeline, commands)


NOTHING: Final = 0
UNREGISTERED: Final = 1
EVERYTHING: Final = 2
Extent = Literal[0, 1, 2]
"""Which sessions must be registered again: ``NOTHING`` (none), ``UNREGISTERED``
(only sessions that Redis does not know) or ``EVERYTHING`` (all)."""


class RegistryRecovery(Service, dict=True):
    """Keeps the lease of this node, and repairs the registry after an outage.

    One greenlet checks the lease once a second, and starts the jobs that are
    due. ``apps`` has the apps of this node. ``reregister(extent)`` registers
    sessions again. ``leases_changed`` is called when the set of live epochs has
    changed. Owner of ``generation`` and of the jobs.
    """

    keeper: LeaseKeeper
    pipeline: Pipeline
    data_link: RedisLink
    apps: Collection[str]
    reregister: Callable[[Extent], None]
    leases_changed: Callable[[], object]
    marks_are_lost: Callable[[], bool]
    """Whether a server was flushed, so that it lacks the mark of this node. May
    switch greenlets."""

    def __post_init__(self) -> None:
        """Prepare the state of a node that has not joined yet."""
        self.generation = 0
        """A number that grows whenever everything must be registered again; 0
        means that nothing was registered yet."""
        self.up = False
        """Whether the last lease check succeeded."""
        self.pending: Extent = NOTHING
        """The sessions that must be registered again."""
        self.rejoin = False
        """Whether to take a new epoch at the next tick, because it is unknown
        what the current epoch has left in Redis."""

        self._links = (self.data_link, self.keeper.link)
        self._cleanup = DeadNodeCleanup(
            self.pipeline, self.data_link.counters, self.apps
        )
        self._tick_seconds = min(1.0, self.keeper.renew_seconds)
        self._epoch = 0
        """The epoch as of the last tick."""
        self._refusal = ""
        """Why Redis refused the last renewal, so that a reason is logged once;
        ``""`` if it did not refuse."""
        self._is_clock_wrong = False
        self._connects = 0
        """How many connections to Redis there were at the last check of the
        life of its data."""
        self._life = b""
        """The life of the data in Redis: a name that changes when a server may
        have lost data. ``b""`` if the life is not known."""
        self._wake = Flag()
        """A flag that is set to make the greenlet check at once, and not at the
        next tick."""
        self._ticked = Flag()
        """A flag that is set after each check, for :meth:`look_again`."""
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._jobs: dict[str, gevent.Greenlet[..., None]] = {}
        """The last greenlet of each job, by the name of the job."""

    # --- interface ------------------------------------------------------------

    def join(self) -> None:
        """Join the cluster, at the start of the node: take an epoch and look at
        Redis.

        Switches greenlets. Raises :class:`~imserver.gateway.errors.StartError`
        if this node must not join, and RedisUnavailable.

        An epoch is the number of one life of a node.
        """
        self.keeper.join()
        self._note_epoch()
        self.pending = NOTHING  # the node has no sessions yet
        self.up = True
        self.pipeline.probe()  # from now on calls may pass
        self._check_restart()

    def start(self) -> None:
        """Start the greenlet."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End all greenlets. Switches greenlets."""
        greenlets = list(self._jobs.values())
        if self._greenlet is not None:
            greenlets.append(self._greenlet)
        gevent.killall(greenlets)

    def request(self, extent: Extent) -> None:
        """Register at least these sessions again, as soon as possible. Never
        switches greenlets."""
        self.pending = max(self.pending, extent)

    def wake(self) -> None:
        """Check now instead of at the next tick. Never switches greenlets."""
        self._wake.set()

    def look_again(self) -> None:
        """Read the leases again, and wait for the result.

        Waits no longer than an exchange with Redis may take.
        """
        self._ticked.clear()
        self._wake.set()
        self._ticked.wait(self.keeper.link.seconds)

    # --- greenlet -------------------------------------------------------------

    def _run(self) -> None:
        """Greenlet: one check per tick, which is a second or less."""
        while True:
            self._wake.wait(until_beat(self._tick_seconds))
            self._wake.clear()
            try:
                self._tick()
            except RedisUnavailable as error:
                # The node may have a new epoch although a later command failed.
                self._note_epoch()
                # There is one warning for each outage, and one for each reason
                # of a refusal.
                if self.up or (error.refused and str(error) != self._refusal):
                    log.warning("lease not renewed: %s", error)
                self.up = False
                self._refusal = str(error) if error.refused else ""
            except Exception:
                log.exception("checking the lease failed")
            self._ticked.set()  # look_again() waits for it

    def _tick(self) -> None:
        """Renew the lease or take a new one, then begin the jobs that are due.

        Raises RedisUnavailable.
        """
        keeper = self.keeper
        has_changed = False
        try:
            # The epoch 0 means that the node has not joined yet.
            if not keeper.lease.epoch or self.rejoin:
                self._rejoin()
            else:
                has_changed = keeper.refresh()
        except LeaseLost:
            log.warning(
                "the lease of epoch %d was lost, taking a new epoch", keeper.lease.epoch
            )
            self._rejoin()

        self._check_clock()
        self._note_epoch()
        if has_changed:
            self.leases_changed()
        if not self.up:
            self.up = True
            log.info("Redis is available; this node has epoch %d", self._epoch)

        if self._reaches_all_data():
            self._recover()

    def _reaches_all_data(self) -> bool:
        """Whether all servers with data answer.

        If some do not, this begins to connect to them again.
        """
        data_link, lease_link = self._links
        if not data_link.whole:
            self._job("masters", data_link.restore)
        # After a failover, an idle connection for the data may still lead to
        # the former master. The probe makes the link connect again.
        may_be_elsewhere = data_link.is_cluster or data_link.life != lease_link.life
        needs_probe = may_be_elsewhere or not self.pipeline.admits_calls
        if needs_probe and not self.pipeline.probe():
            return False
        return data_link.whole

    def _recover(self) -> None:
        """Begin the jobs that are due, now that all servers answer."""
        self._check_restart()
        data_link = self._links[0]
        if data_link.is_cluster and self.marks_are_lost():
            log.warning(
                "a master of the Redis Cluster has lost data: "
                "registering all sessions again"
            )
            self.generation += 1
            self.request(EVERYTHING)
        # At most one greenlet runs each job.
        if self.pending:
            self._job("re-registration", self._run_reregistration)
        if self.keeper.cleans_up:
            self._job("cleanup", self._run_cleanup)

    def _check_clock(self) -> None:
        """Warn the operator if the clock of this node differs from the clock of
        Redis.

        Only the begin and the end of such a time are logged.
        """
        ahead = self.keeper.clock_seconds
        is_wrong = abs(ahead) > CLOCK_SECONDS
        if is_wrong == self._is_clock_wrong:
            return
        self._is_clock_wrong = is_wrong
        if not is_wrong:
            log.info("the clock of this node agrees with that of Redis")
            return

        # The words name the direction of the difference.
        difference = "ahead of" if ahead > 0 else "behind"
        expiry = "early" if ahead > 0 else "late"
        log.warning(
            "the clock of this node is %.1f s %s that of Redis: tokens expire "
            "too %s, and times of messages are wrong. Let a time service set it",
            abs(ahead),
            difference,
            expiry,
        )

    def _rejoin(self) -> None:
        """Take a new epoch, while the node serves.

        Raises RedisUnavailable, also if this node must not join, because a node
        that has started continues to try.

        With a new epoch the node begins another life: its earlier registrations
        no longer count.
        """
        try:
            self.keeper.join()
        except StartError as error:
            raise RedisUnavailable(
                f"this node must not join: {error}", refused=True
            ) from None
        self.rejoin = False

    def _note_epoch(self) -> None:
        """If the node has a new epoch, request that everything is registered
        again.

        The registrations of the earlier epoch no longer count.
        """
        if self.keeper.lease.epoch == self._epoch:
            return
        self._epoch = self.keeper.lease.epoch
        self.data_link.counters.epochs += 1
        self.generation += 1
        self.request(EVERYTHING)
        self.leases_changed()

    # --- recovery -------------------------------------------------------------

    def _check_restart(self) -> None:
        """After a new connection, check whether Redis may have lost data.

        The life is a name of its data. If the life has changed or is not known,
        the data may lack the last writes. Then everything is registered again.
        """
        connects = sum(link.connects for link in self._links)
        if connects == self._connects:
            return
        life = self._links[0].life
        # At the first check there is no earlier life to compare with.
        if self._connects and (not life or life != self._life):
            log.warning(
                "Redis was restarted or has failed over: registering all sessions again"
            )
            self.generation += 1
            self.request(EVERYTHING)
        self._connects = connects
        self._life = life

    def _job(self, name: str, run: Callable[[], None]) -> None:
        """Run a job in a greenlet unless it is running. ``name`` identifies the
        job."""
        if name not in self._jobs or self._jobs[name].dead:
            self._jobs[name] = gevent.spawn(run)

    def _run_reregistration(self) -> None:
        """Job: register the pending sessions again.

        If the job is interrupted, the sessions are pending again.
        """
        # Perhaps all nodes have to register sessions at once, so they take
        # turns.
        take_turns(len(self.keeper.table.live))
        extent = self.pending
        self.pending = NOTHING
        try:
            self.reregister(extent)
        except Interrupted:
            self.request(extent)
        except Exception:
            log.exception("re-registration failed")

    def _run_cleanup(self) -> None:
        """Job: clean up after the dead epochs.

        An interrupted cleanup is begun again by a later tick.
        """
        table = self.keeper.table

        def is_live(node: str) -> bool:
            return any(lease.node == node for lease in table.live.values())

        # Nodes are compared by their ids, because a node may have started
        # again.
        try:
            self._cleanup.run(table.dead_epochs, is_live)
        except Interrupted:
            log.info("dead-node cleanup was interrupted")
        except Exception:
            log.exception("dead-node cleanup failed")
