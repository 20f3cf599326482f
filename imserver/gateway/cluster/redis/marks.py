"""Marks, which say which nodes have registered all their sessions on a server
of Redis since it may have lost data.

A user whom the registry does not know is absent only if all nodes have
registered their sessions. A server that was restarted, has failed over or was
flushed may have lost sessions of nodes that do not know it yet. So each node
leaves a mark, its epoch, beside the sessions: in a hash that begins anew
whenever its server may have lost data. A node that does not find a user reads
the marks and then looks the user up again, in one round trip. Nodes without a
mark may have sessions of the user.

A Redis Cluster has such hashes on all masters, with the keys
``scripts.MARKS_IN_CLUSTER``. Slots move with their data, so marks that have
moved are still valid.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from imserver.gateway.cluster.redis.lease import LeaseKeeper
from imserver.gateway.cluster.redis.link import Command, RedisLink, begin_marks
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.redis.scripts import SET_MARK
from imserver.gateway.cluster.registry import Lease, SessionRef

_NO_LEASES: Final[Mapping[int, Lease]] = {}


class _Generation(Protocol):
    """The part of the registry that counts how often everything was registered
    anew.

    :class:`imserver.gateway.cluster.redis.recovery.RegistryRecovery` is such an
    object.
    """

    generation: int


class OwnMarks:
    """The marks of this node: its proofs that it has registered all its
    sessions.

    Owner of their state, as far as it is known. Methods may switch greenlets.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        keeper: LeaseKeeper,
        link: RedisLink,
        recovery: _Generation,
    ) -> None:
        """Start without marks. :meth:`begin` and then :meth:`set` leave them."""
        self._pipeline = pipeline
        self._keeper = keeper
        self._link = link
        self._recovery = recovery
        self._lives: Sequence[Any] | None = None
        """The lives of the marks when the node began to register all its
        sessions. None means that a server did not answer."""
        self._begun_at = (0, 0)
        """The epoch and generation in which the node began to register all its
        sessions."""
        self._are_set = False
        """Whether the marks were left since then."""

    def begin(self) -> None:
        """Read the lives of the marks, before all sessions are registered.

        The life of a mark changes when its server may have lost data.
        """
        self._are_set = False
        self._begun_at = (self._keeper.lease.epoch, self._recovery.generation)
        self._lives = self._pipeline.execute_all(begin_marks(self._link.marks))

    def set(self) -> bool:
        """Leave the marks, because all sessions have been registered since
        :meth:`begin`.

        Returns False if all sessions must be registered again, because a server
        may have lost sessions since then.

        A mark on a server of Redis says that the node has registered all its
        sessions there.
        """
        epoch = self._keeper.lease.epoch
        if self._begun_at != (epoch, self._recovery.generation):
            # In the new epoch or generation all sessions are registered again
            # anyway, and that sets the marks.
            return True
        if self._lives is None:
            # A server did not answer. Other nodes do not expect the marks of
            # this node before its lease says that the node leaves marks.
            return not self._keeper.lease.marks

        if not self._store(epoch, self._lives):
            return False
        self._are_set = True
        self._keeper.report_marks()
        return True

    def _store(self, epoch: int, lives: Sequence[Any]) -> bool:
        """Store the marks on all servers, whose data have these ``lives``.

        Returns False if a server did not answer, or if its marks have begun
        anew.
        """
        table = self._keeper.table
        nodes = f",{','.join(map(str, table.reachable))},"
        commands: list[Command] = [
            ("EVALSHA", SET_MARK, 1, key, life, epoch, table.last_epoch, nodes)
            for key, life in zip(self._link.marks, lives, strict=True)
        ]
        replies = self._pipeline.execute_all(commands)
        return not (replies is None or 0 in replies)

    def are_lost(self) -> bool:
        """Whether a server lacks a mark that this node has left.

        Then it was flushed, and has lost sessions, too.
        """
        epoch = self._keeper.lease.epoch
        marks_epoch, _ = self._begun_at
        if not self._are_set or marks_epoch != epoch:
            return False
        reads = [("HGET", key, epoch) for key in self._link.marks]
        replies = self._pipeline.execute_all(reads)
        # ``_are_set`` is read again after the wait. If begin() was called
        # meanwhile, the marks need not exist.
        return self._are_set and replies is not None and None in replies


class OtherMarks:
    """The marks of the other nodes: their proofs that they have registered all
    sessions.

    A server of Redis is *proven* when it had the marks of all nodes. It stays
    proven until there is another connection to Redis, another node or another
    generation. The marks of a server that is not proven are read before each
    look-up. Owner of the last state that was read. Never switches greenlets.
    """

    def __init__(
        self, keeper: LeaseKeeper, link: RedisLink, recovery: _Generation
    ) -> None:
        """Start with no server proven."""
        self._keeper = keeper
        self._link = link
        self._recovery = recovery
        self._leases = _NO_LEASES
        self._expected: tuple[int, ...] = ()
        """The epochs of the other nodes that leave marks, in order."""
        self._state = (0, 0)
        """The number of connections and the generation for which ``_proven`` is
        valid."""
        self._proven: set[str] = set()
        """The keys of the marks on the proven servers."""
        self.are_all_proven = False
        """Whether all servers are proven, so that no marks need to be read
        before a look-up. Read :attr:`expected` first, which updates this."""

    @property
    def expected(self) -> tuple[int, ...]:
        """The epochs that must have left marks; empty if no other node leaves
        marks.

        If nodes or connections have changed, all servers count as not proven
        again.

        A mark on a server of Redis says that a node, in the life *epoch*, has
        registered all its sessions there. A server is proven if all these marks
        were found there.
        """
        leases = self._keeper.table.reachable
        # The table makes another mapping for each change.
        if leases is not self._leases:
            self._note_leases(leases)

        # A new connection may lead to another server.
        state = (self._link.connects, self._recovery.generation)
        if state != self._state:
            self._state = state
            self._forget()
        return self._expected

    def _note_leases(self, leases: Mapping[int, Lease]) -> None:
        """Find the epochs whose marks must be there, after nodes have
        changed."""
        self._leases = leases
        own_epoch = self._keeper.lease.epoch
        epochs = [lease.epoch for lease in leases.values() if lease.marks]
        expected = tuple(sorted(epoch for epoch in epochs if epoch != own_epoch))
        if expected != self._expected:
            self._expected = expected
            self._forget()

    def _forget(self) -> None:
        """Count all servers as not proven."""
        self._proven.clear()
        self.are_all_proven = False

    def unproven(self, commands: Iterable[Command]) -> list[str]:
        """Return the keys of the marks that have to be read before these
        commands.

        These are the keys on servers that are not proven yet. The list is
        usually empty.

        A server is proven if all other nodes have left marks there: so a user
        who is not found there is absent.
        """
        if not self.expected or self.are_all_proven:
            return []
        keys = set(map(self._link.mark_of, commands)) - self._proven
        return sorted(keys - {""})  # "": no marks are known there

    def beside(self, commands: Iterable[Command]) -> list[str]:
        """Return the keys of the marks on the servers of these commands.

        The list is empty if no other node leaves marks.
        """
        if self.expected:
            return sorted(set(map(self._link.mark_of, commands)) - {""})
        return []

    def unmarked(
        self, keys: Sequence[str], expected: Sequence[int], replies: Sequence[Any]
    ) -> dict[str, tuple[SessionRef, ...]]:
        """Return the nodes that have left no mark, by the key of the marks.

        Each node is a :class:`SessionRef` with the id 0, because it may have
        sessions that the registry does not know. ``replies`` are the replies to
        :func:`questions` about ``keys`` and ``expected``. This also notes which
        servers are proven.

        A mark says that a node has registered all its sessions on this server
        of Redis.
        """
        unmarked: dict[str, tuple[SessionRef, ...]] = {}
        for key, marks in zip(keys, replies, strict=True):
            if not isinstance(marks, list):
                continue  # the server did not answer
            pairs = zip(expected, marks, strict=True)
            epochs = [epoch for epoch, mark in pairs if mark is None]
            if epochs:
                unmarked[key] = tuple(
                    [SessionRef(epoch, id=0, number=0) for epoch in epochs]
                )
                self._proven.discard(key)
                self.are_all_proven = False
            elif expected == self._expected:
                # If the epochs differ, nodes have joined or left since the
                # question.
                self._proven.add(key)

        if keys and not self.are_all_proven:
            self.are_all_proven = self._proven.issuperset(self._link.first_marks)
        return unmarked

    def mark_of(self, command: Command) -> str:
        """Return the key of the marks on the server of a command; ``""`` if no
        marks are known there."""
        return self._link.mark_of(command)


def questions(keys: Collection[str], expected: Collection[int]) -> list[Command]:
    """Return the commands that read the marks of the ``expected`` epochs.

    There is one command for each of the ``keys``.
    """
    return [("HMGET", key, *expected) for key in keys]
