"""Marks, which tell the nodes that have registered all their sessions on a
server of Redis since it may have lost data.

A user whom the registry does not know is absent only if all nodes have
registered their sessions. A server that was restarted, has failed over or was
flushed may have lost sessions of nodes that do not know it yet. So each node
leaves a mark, its epoch, beside the sessions: in a hash that begins anew
whenever its server may have lost data. A node that does not find a user reads
the marks and looks again behind them, in one round trip. Nodes without a mark
may have sessions of the user.

A Redis Cluster has such hashes on all masters, with the keys
``scripts.MARKS_IN_CLUSTER``. Slots move with their data, so marks that have
moved still hold.
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
    """See :class:`imserver.gateway.cluster.redis.recovery.RegistryRecovery`."""

    generation: int


class OwnMarks:
    """The marks of this node. Owner of their state, as far as it is known.
    Methods may switch greenlets."""

    def __init__(
        self,
        pipeline: Pipeline,
        keeper: LeaseKeeper,
        link: RedisLink,
        recovery: _Generation,
    ) -> None:
        self._pipeline = pipeline
        self._keeper = keeper
        self._link = link
        self._recovery = recovery
        self._lives: Sequence[Any] | None = None
        """The lives of the marks when the node began to register all its
        sessions; None: not known."""
        self._begun = (0, 0)
        """The epoch and generation of that time."""
        self._are_set = False

    def begin(self) -> None:
        """Read the lives of the marks, before all sessions are registered."""
        self._are_set = False
        self._begun = (self._keeper.lease.epoch, self._recovery.generation)
        self._lives = self._pipeline.execute_all(begin_marks(self._link.marks))

    def set(self) -> bool:
        """Leave the marks, because all sessions have been registered since
        :meth:`begin`. False: a server may have lost sessions since then."""
        epoch = self._keeper.lease.epoch
        table = self._keeper.table
        if self._begun != (epoch, self._recovery.generation):
            return True  # another round follows
        if self._lives is None:
            # A server did not answer. Nobody expects the marks of this node
            # before its lease says that there are some.
            return not self._keeper.lease.marks

        nodes = f",{','.join(map(str, table.reachable))},"
        commands: list[Command] = [
            ("EVALSHA", SET_MARK, 1, key, life, epoch, table.last_epoch, nodes)
            for key, life in zip(self._link.marks, self._lives, strict=True)
        ]
        replies = self._pipeline.execute_all(commands)
        if replies is None or 0 in replies:
            return False
        self._are_set = True
        self._keeper.report_marks()
        return True

    def are_lost(self) -> bool:
        """Whether a server has lost a mark, and sessions with it: it was
        flushed."""
        epoch = self._keeper.lease.epoch
        if not self._are_set or self._begun[0] != epoch:
            return False
        reads = [("HGET", key, epoch) for key in self._link.marks]
        replies = self._pipeline.execute_all(reads)
        # Meanwhile another round may have begun, which sets them anew.
        return self._are_set and replies is not None and None in replies


class OtherMarks:
    """The marks of the other nodes. Owner of the last state that was
    read. Never switches greenlets.

    A server is *proven* when it had the marks of all nodes, until there is
    another connection, another node or another generation. While it is not, its
    marks are read before each look-up.
    """

    def __init__(
        self, keeper: LeaseKeeper, link: RedisLink, recovery: _Generation
    ) -> None:
        self._keeper = keeper
        self._link = link
        self._recovery = recovery
        self._leases = _NO_LEASES
        self._expected: tuple[int, ...] = ()
        """The epochs of the other nodes that leave marks, in order."""
        self._state = (0, 0)
        self._proven: set[str] = set()
        self.are_all_proven = False
        """Whether no marks need to be read before a look-up, as of the last
        :attr:`expected`."""

    @property
    def expected(self) -> tuple[int, ...]:
        """The epochs whose marks must be there; empty if no other node leaves
        marks."""
        leases = self._keeper.table.reachable
        if leases is not self._leases:
            self._leases = leases
            own_epoch = self._keeper.lease.epoch
            epochs = [lease.epoch for lease in leases.values() if lease.marks]
            expected = tuple(sorted(epoch for epoch in epochs if epoch != own_epoch))
            if expected != self._expected:
                self._expected = expected
                self._forget()

        state = (self._link.connects, self._recovery.generation)
        if state != self._state:
            self._state = state
            self._forget()
        return self._expected

    def _forget(self) -> None:
        self._proven.clear()
        self.are_all_proven = False

    def unproven(self, commands: Iterable[Command]) -> list[str]:
        """The marks to be read before these commands. Usually none."""
        if not self.expected or self.are_all_proven:
            return []
        keys = set(map(self._link.mark_of, commands)) - self._proven
        return sorted(keys - {""})

    def beside(self, commands: Iterable[Command]) -> list[str]:
        """The marks on the servers of these commands."""
        if self.expected:
            return sorted(set(map(self._link.mark_of, commands)) - {""})
        return []

    def unmarked(
        self, keys: Sequence[str], expected: Sequence[int], replies: Sequence[Any]
    ) -> dict[str, tuple[SessionRef, ...]]:
        """The nodes without a mark, by the key of the marks, from the replies
        to :func:`questions`."""
        unmarked: dict[str, tuple[SessionRef, ...]] = {}
        for key, marks in zip(keys, replies, strict=True):
            if not isinstance(marks, list):
                continue
            pairs = zip(expected, marks, strict=True)
            epochs = [epoch for epoch, mark in pairs if mark is None]
            if epochs:
                unmarked[key] = tuple([SessionRef(epoch, 0, 0) for epoch in epochs])
                self._proven.discard(key)
                self.are_all_proven = False
            elif expected == self._expected:  # other nodes may have come meanwhile
                self._proven.add(key)

        if keys and not self.are_all_proven:
            self.are_all_proven = self._proven.issuperset(self._link.first_marks)
        return unmarked

    def mark_of(self, command: Command) -> str:
        """The key of the marks on the server of a command; ``""`` if no marks
        are known there."""
        return self._link.mark_of(command)


def questions(keys: Collection[str], expected: Collection[int]) -> list[Command]:
    """The commands that read the marks of these epochs."""
    return [("HMGET", key, *expected) for key in keys]
