"""The contract of the registry: which nodes live, and which user has a session where.

Two implementations fulfil it and pass the same tests: :mod:`imserver.cluster.memory` (one node, no server) and
:mod:`imserver.cluster.redis_registry` (many nodes that share a Redis).

Everything a node wrote counts only while its *lease* lives. Each life of a node has its own *epoch*, which never
comes back; whatever names an epoch that is not among the live leases is void, so a killed node cleans itself up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final, Literal, Protocol

from msgspec import Struct, field

POLICIES: Final = ("newest", "multi", "single", "refuse")

next_session_id: Final = count(1).__next__
"""Ids of sessions: unique in this process, whatever epochs it lives through."""


class Lease(Struct, frozen=True):
    """One life of a node, as the others see it.

    ``node`` is ``ip:rpcPort``; ``control`` and ``data`` are its RPC addresses (``tcp://ip:port``); ``host`` names
    its machine; ``fingerprint`` tells which secret it has (never the secret); ``version`` is that of the RPC.
    ``connections``, ``counts`` (users by app) and ``draining`` are as of its last renewal.
    """

    node: str
    epoch: int = 0
    control: str = ""
    data: str = ""
    fingerprint: str = ""
    started_at: float = 0.0
    host: str = ""
    public_ws_url: str = ""
    connections: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    draining: bool = False
    version: int = 1


class Session(Struct, gc=False, eq=False):
    """A logged-in connection, as its own node hands it to the registry.

    ``id`` is known before the registry has answered, so that a session whose registration was lost on the way can
    still be ended or registered again. ``number`` is given by the registry (0: not registered yet) and set by it;
    of two sessions that exclude each other the one with the higher number stays. Owner: whoever made it.
    """

    app: str
    user: str
    device: str = ""
    policy: str = "newest"
    peer: str = ""
    """``ip:port`` of the client; for the record that operators read."""
    login_time: int = 0
    """Unix seconds; for the record that operators read."""
    id: int = field(default_factory=next_session_id)
    number: int = 0


class Place(Struct, frozen=True, gc=False):
    """One addressed session of a user: ``id`` on the node life ``epoch``."""

    epoch: int
    id: int
    number: int
    device: str = ""


class Begun(Struct, gc=False):
    """What became of a session that was to begin (or to be restored).

    One of: it is addressed (``number`` > 0 and no flag); ``refused`` (policy ``refuse``: ``others`` hold it; nothing
    was changed); ``banned`` (nothing was changed); ``superseded`` (only when restored: a session with a higher number
    holds its place, so it is no longer addressed).
    ``replaced`` are sessions that are addressed no longer, those of this node included: under ``newest`` they are to
    be forgotten silently, under ``single`` and ``refuse`` to be closed. Their nodes also find them at a renewal
    (``on_replaced``), should the call that tells them get lost.
    """

    number: int = 0
    replaced: tuple[Place, ...] = ()
    refused: bool = False
    others: tuple[Place, ...] = ()
    banned: bool = False
    superseded: bool = False

    @property
    def addressed(self) -> bool:
        """Whether the session is the user's (or one of them) now."""
        return not (self.refused or self.banned or self.superseded)


class Claim(Struct, frozen=True, gc=False):
    """The answer to a claim of a message id.

    ``mine``: deliver, then :meth:`Registry.settle`. ``repeat``: accepted before. ``pending``: somebody else's, with
    an open outcome: ask again a little later. A claim that is never settled lapses after 10 s.
    """

    key: str
    state: Literal["mine", "repeat", "pending"]
    token: str = ""


class Counters(Struct, gc=False):
    """What the registry did, counted since the start."""

    round_trips: int = 0
    """Pipelines sent, those of the lease included."""
    commands: int = 0
    errors: int = 0
    """Pipelines that failed, time-outs included."""
    timeouts: int = 0
    unanswered: int = 0
    """Calls that were answered with None."""
    epochs: int = 0
    """Lives of this node in the registry; above 1 a lease was lost."""
    restored: int = 0
    lost_kicks: int = 0
    """Replaced sessions that were found at a renewal."""
    buried: int = 0
    """Dead nodes' users that this node marked offline."""


class Registry(Protocol):
    """Who lives and who is where.

    Calls of a shared registry may switch greenlets and return None when it does not answer within
    ``cluster.redis_seconds`` (at once while it is known to be away); those of the memory registry never do either.
    Hooks are called from a greenlet of the registry and may switch. All are set before :meth:`start`.
    """

    shared: bool
    """False: this process is the whole cluster."""
    counters: Counters
    lease: Lease
    """This node's own; ``epoch`` is 0 until the registry has been reached."""

    on_restore: Callable[[bool], None]
    """The registry wants sessions again: call :meth:`restore` with all of them (True: it was restarted or flushed, or
    the lease was lost and this node lives under a new epoch), or with those whose number is 0 (False: it was away for
    a moment)."""
    on_replaced: Callable[[str, str, int], None]
    """(app, user, session id) of this node is addressed no longer. May name one that is gone, or be told twice."""
    on_leases: Callable[[], None]
    """The set of live leases has changed."""

    def start(self, lease: Lease) -> Lease:
        """Register this node; returns its lease with the epoch.

        Epoch 0: the registry is away; the node works alone and is registered when it is back. Raises
        :class:`~imserver.errors.StartError` if this node must not join: another secret than the cluster's, an address
        that a live node of another machine has, a Redis that refuses user or password.
        """
        ...

    def stop(self) -> None:
        """Give back the lease, so that nothing of this node counts any more. Sessions need not be ended before."""
        ...

    def healthy(self) -> bool:
        """Whether the registry answers and the lease lives."""
        ...

    def leases(self) -> Mapping[int, Lease]:
        """The live leases by epoch, own included, not older than about a second (while healthy). Never switches."""
        ...

    def report(self, connections: int, counts: Mapping[str, int], draining: bool = False) -> None:
        """What the others shall know of this node; travels with the next renewal. Never switches."""
        ...

    def begin(self, session: Session, replacing: Collection[Place] = ()) -> Begun | None:
        """Register a session under its policy, in one atomic step; sets ``session.number``.

        ``replacing`` names sessions that are known to be dead though their node lives: ``refuse`` takes their place.
        """
        ...

    def end(self, session: Session) -> bool | None:
        """A session is over. True: nobody addressed is left of its user. False: it was not addressed any more, or
        others are. None: unknown; the registry will end it later by itself."""
        ...

    def restore(self, sessions: Iterable[Session]) -> Iterator[tuple[Session, Begun]]:
        """Register sessions again, with the number they had; paced.

        Consumes ``sessions`` lazily, a batch at a time. Stops early if the registry goes away again;
        ``on_restore`` is then called anew.
        """
        ...

    def find(self, app: str, users: Sequence[str]) -> list[tuple[Place, ...]] | None:
        """The addressed sessions of each user on live nodes, in the order of ``users``."""
        ...

    def find_in(self, apps: Sequence[str], user: str) -> list[tuple[Place, ...]] | None:
        """The same for one user in several apps."""
        ...

    def find_and_claim(self, app: str, user: str, key: str) -> tuple[tuple[Place, ...], Claim] | None:
        """Find a user and claim a message id in one round trip. If the user has no place, the state is ``mine``
        with an empty token: there is nothing to settle."""
        ...

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        """Claim message ids, in the order of ``keys``."""
        ...

    def settle(self, claim: Claim, accepted: bool) -> None:
        """End a claim of mine: remembered if accepted, free again if not. Never switches; others know it soon."""
        ...

    def ban(self, app: str, user: str, seconds: float) -> bool | None:
        """Refuse logins of a user for ``seconds`` (0: no longer)."""
        ...
