"""The contract of the registry: which nodes live, and which user has a session where.

Two implementations fulfil it and pass the same tests: :mod:`imserver.cluster.memory` (one node, no server)
and :mod:`imserver.cluster.redis_registry` (many nodes that share a Redis).

Everything a node wrote counts only while its *lease* lives. Each life of a node has its own *epoch*, which
never comes back; whatever names an epoch that is not among the live leases is void, so a killed node cleans
itself up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final, Literal, Protocol

from msgspec import Struct, field

from imserver.metrics import Histogram

POLICIES: Final = ("newest", "multi", "single", "refuse")

next_session_id: Final = count(1).__next__
"""Ids of sessions: unique in this process, whatever epochs it lives through."""


class Lease(Struct, frozen=True):
    """One life of a node, as the others see it.

    ``node`` is ``ip:rpcPort``; ``control`` and ``data`` are its RPC addresses (``tcp://ip:port``); ``host``
    names its machine; ``fingerprint`` tells which secret it has (never the secret); ``version`` is that of
    the RPC. ``connections``, ``counts`` (users by app) and ``draining`` are as of its last renewal.
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
    birth: int = 0
    """What tells its process from all others, whatever epochs it lives through; 0: a version before."""
    clients: str = ""
    """``ip:port`` of where its clients connect, as operators read it; ``""``: not told."""
    unsettled: bool = False
    """Its rooms are not all in the registry: whoever publishes to any sends to this node too."""
    database: str = ""
    """The id of the database in which it keeps apps and keys; ``""``: it keeps none yet."""


class Session(Struct, gc=False, eq=False):
    """A logged-in connection, as its own node hands it to the registry. Owner: whoever made it.

    ``id`` is known before the registry has answered, so that a session whose registration was lost on the way
    can still be ended, or registered again. The registry sets ``number`` (0: not given yet) and ``life``. Of
    two sessions that exclude each other the one with the higher number stays.
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
    life: int = 0
    """In which life of the registry it was registered last; see :meth:`Registry.registered`."""


class Place(Struct, frozen=True, gc=False):
    """One addressed session of a user: ``id`` on the node life ``epoch``."""

    epoch: int
    id: int
    number: int
    device: str = ""


class RoomEntry(Struct, frozen=True, gc=False):
    """How many connections of this node are in a room; 0: none any more."""

    app: str
    room: str
    members: int


class Begun(Struct, gc=False):
    """What became of a session that was to begin, or to be restored.

    Either it is addressed, or one of these: ``refused`` (policy ``refuse``: ``others`` hold its place;
    nothing was changed), ``banned`` (nothing was changed), ``superseded`` (only when restored: a session
    with a higher number holds its place).

    ``replaced`` are sessions that are addressed no longer, those of this node included: under ``newest``
    they are to be forgotten silently, under ``single`` and ``refuse`` to be closed. Their nodes also find
    them at a renewal (:attr:`Registry.on_replaced`), should the call that tells them get lost.
    """

    number: int = 0
    replaced: tuple[Place, ...] = ()
    refused: bool = False
    others: tuple[Place, ...] = ()
    banned: bool = False
    superseded: bool = False

    @property
    def addressed(self) -> bool:
        """Whether the session is its user's, or one of them, now."""
        return not (self.refused or self.banned or self.superseded)


class Claim(Struct, frozen=True, gc=False):
    """The answer to a claim of a message id.

    ``mine``: deliver, then :meth:`Registry.settle`. ``repeat``: accepted before. ``pending``: somebody
    else's, with an open outcome: ask again a little later. A claim that is never settled lapses after 10 s.
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
    """Users of dead nodes that this node marked offline."""
    seconds: Histogram = field(default_factory=Histogram)
    """How long pipelines took that were answered."""


class Registry(Protocol):
    """Who lives, and who is where.

    Calls of a shared registry may switch greenlets, and return None when it does not answer within
    ``cluster.redis_seconds`` (at once while it is known to be away); those of the memory registry never do
    either. Hooks are called from a greenlet of the registry and may switch; set them before :meth:`start`.
    """

    shared: bool
    """False: this process is the whole cluster."""
    counters: Counters

    @property
    def lease(self) -> Lease:
        """This node's own; ``epoch`` is 0 until the registry has been reached."""
        ...

    sessions: Callable[[], Iterable[Session]]
    """Hook: all sessions of this node that are addressed, for the slow pass that keeps their records.
    Iterated lazily: the registry may switch between two, so go over a copy."""
    on_restore: Callable[[bool], None]
    """Hook: call :meth:`restore` with all sessions (True: the registry was restarted or flushed, or this
    node's lease was lost and it lives under a new epoch), or with those that are not :meth:`registered`
    (False: it was away for a moment). Comes again if that was cut short."""
    on_replaced: Callable[[str, str, int], None]
    """Hook: (app, user, session id) of this node is addressed no longer, as ``replaced`` told the node that
    replaced it. May name one that is gone, or be told twice."""
    on_leases: Callable[[], None]
    """Hook: the set of live leases, or this node's own epoch, has changed."""

    def start(self, lease: Lease) -> Lease:
        """Register this node; returns its lease with the epoch.

        Epoch 0: the registry is away; the node works alone and is registered when it is back. Raises
        :class:`~imserver.errors.StartError` if this node must not join: it has another secret than the
        cluster, its address is that of a live node on another machine, or Redis refuses user or password.
        """
        ...

    def stop(self, clean: bool = False) -> None:
        """Give back the lease, so that nothing of this node counts any more.

        ``clean``: every session has been ended; otherwise the other nodes look for what is left.
        """
        ...

    def healthy(self) -> bool:
        """Whether the registry answers and the lease lives. Never switches."""
        ...

    def registered(self, session: Session) -> bool:
        """Whether the registry knows of the session, as far as this node can tell. Never switches."""
        ...

    def leases(self) -> Mapping[int, Lease]:
        """The live leases by epoch, own included, about a second old (while healthy). Never switches."""
        ...

    def learn(self, lease: Lease) -> None:
        """Another node says that it lives: it counts as live until the next look confirms or drops it. Never
        switches."""
        ...

    def report(
        self,
        connections: int,
        counts: Mapping[str, int],
        draining: bool = False,
        unsettled: bool = False,
    ) -> None:
        """What the others shall know of this node; travels with the next renewal. Never switches."""
        ...

    def keeps(self, database: str) -> None:
        """The others shall know, soon, in which database this node keeps things. Never switches."""
        ...

    def begin(self, session: Session, replacing: Collection[Place] = ()) -> Begun | None:
        """Register a session under its policy, in one atomic step.

        ``replacing`` names sessions that are known to be dead although their nodes live: ``refuse`` takes
        their place. None: see :attr:`on_restore`.
        """
        ...

    def end(self, session: Session) -> bool | None:
        """A session is over that has begun, or whose beginning was not answered.

        True: nobody addressed is left of its user. False: it was not addressed any more, or others are. None:
        unknown; the registry ends it later by itself.
        """
        ...

    def restore(self, sessions: Iterable[Session]) -> Iterator[tuple[Session, Begun]]:
        """Register sessions again, with the number they had if they have one; paced.

        Consumes ``sessions`` lazily, a batch at a time; one that ends while its batch is on the way has to be
        ended after (it may have been registered). Stops early if the registry goes away again.
        """
        ...

    def find(self, app: str, users: Sequence[str]) -> list[tuple[Place, ...]] | None:
        """The addressed sessions of each user on live nodes, in the order of ``users``."""
        ...

    def find_in(self, apps: Sequence[str], user: str) -> list[tuple[Place, ...]] | None:
        """The same for one user in several apps."""
        ...

    def find_and_claim(self, app: str, user: str, key: str) -> tuple[tuple[Place, ...], Claim] | None:
        """Find a user and claim a message id in one round trip.

        If the user has no place, nothing stays claimed: the state is ``mine``, and settling does nothing.
        """
        ...

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        """Claim message ids, in the order of ``keys``."""
        ...

    def settle(self, claim: Claim, accepted: bool) -> None:
        """End a claim of mine: remembered if accepted, else free again. Never switches; others know soon."""
        ...

    def life(self) -> int:
        """Grows whenever what was registered counts no more, as after a flush. Never switches."""
        ...

    def enter_rooms(self, entries: Sequence[RoomEntry]) -> bool | None:
        """Say which rooms this node has members in, and how many. What was said before of other rooms stays.

        Returns True when everybody else will find it; None: unknown, say it again. All of it has to be said
        again under a new :meth:`life`.
        """
        ...

    def find_rooms(self, app: str, rooms: Sequence[str]) -> list[dict[int, int]] | None:
        """The live nodes that have members in each room, own included: epoch → how many, as last said.

        Nodes that are not settled are in all of them, with 0. None: any node may have members.
        """
        ...

    def attempt(self, name: str, most: float, each_seconds: float, weight: float) -> float | None:
        """Count ``weight`` attempts under a name for all nodes, at most ``most``; each is forgotten after
        ``each_seconds``. A negative weight takes some back.

        Returns 0, or the seconds after which they would be counted. None: the registry is away, or not
        shared: the caller counts by itself.
        """
        ...

    def ban(self, app: str, user: str, seconds: float) -> bool | None:
        """Refuse logins of a user for ``seconds`` (0: no longer)."""
        ...
