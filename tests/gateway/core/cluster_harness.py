"""Several nodes in this process: real sessions, pushes, presence and courier;
registry and RPC are made here.

The registry's rules are those of :mod:`imserver.gateway.cluster.registry`, in a
few plain lines; a test can hold its answers back, lose them, or take it away.
What nodes tell each other arrives at once unless the test holds it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

import gevent
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.members import ChannelMembers, NodeParts
from imserver.gateway.channels.publishing import ChannelNodes
from imserver.gateway.channels.registrar import Registrar
from imserver.gateway.channels.subscriptions import build_channels
from imserver.gateway.cluster.history import (
    HistoryPage,
    LocalHistory,
    Position,
    Retained,
)
from imserver.gateway.cluster.nodes import (
    ChannelsUnsettled,
    NodeMessages,
    NodeQueries,
    Notice,
    OtherNodes,
    Replaced,
    ToApp,
    ToChannel,
    ToConnection,
    ToUser,
)
from imserver.gateway.cluster.registry import (
    Claim,
    Lease,
    RegistryCounters,
    ReportedMembers,
    Session,
    SessionRef,
    SessionRegistration,
)
from imserver.gateway.cluster.rpc.counters import PeerBusy, PeerUnavailable
from imserver.gateway.model import Event
from imserver.gateway.process import Secret
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.push import Pushes
from imserver.gateway.push.routing import ClusterReach, ReorderGuard, Rerouting
from imserver.gateway.sessions.cluster_sessions import ClusterSessions, UsersElsewhere
from imserver.gateway.sessions.connection_ids import ConnectionIds, ConnectionTable
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Admitting, Bans, Harness, received
from tests.gateway.transport.harness import Client, turn, until

NEWEST = "101"
MULTI = "102"
SINGLE = "103"
REFUSE = "104"
HELLO = Event("msg", "eve", "hello", "7")
LEASE_LAG = 5
Answer = TypeVar("Answer")


class SharedHistory(LocalHistory):
    """In place of the history in Redis. ``away``: it does not answer.
    ``holding``: its pages are ready, and each arrives when the test sets its
    signal in ``delayed``."""

    away = False
    holding = False

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes, lambda _app, _channel: 0)
        self.reads: list[Flag] = []
        self._stored: dict[tuple[str, str, str], Event] = {}

    def append_each(
        self, app: str, publications: Sequence[Retained]
    ) -> list[Event] | None:  # type: ignore[override]
        gevent.sleep(0)
        return (
            None
            if self.away
            else [self._append_once(app, each) for each in publications]
        )

    def _append_once(self, app: str, what: Retained) -> Event:
        """A publication with an id is stored once."""
        key = app, what.channel, what.id
        if not what.id:
            return super().append_each(app, (what,))[0]
        if key not in self._stored:
            self._stored[key] = super().append_each(app, (what,))[0]
        return self._stored[key]

    def read(  # type: ignore[override]
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage | None:
        gevent.sleep(0)
        page = None if self.away else super().read(app, channel, since, limit, reverse)
        if self.holding:
            self.reads.append(Flag())
            self.reads[-1].wait()
        return page


class Book:
    """What all nodes share."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}
        self.overdue: dict[int, Lease] = {}
        self.refs: dict[tuple[str, str], list[SessionRef]] = {}
        self.channels: dict[tuple[str, str], dict[int, int]] = {}
        """LocalChannel → epoch → members."""
        self.store = Bans()
        self.ids: dict[str, str] = {}
        """Message id → the token of who claims it; ``"1"``: accepted."""
        self.results: dict[str, bytes] = {}
        self.history = SharedHistory(1_000_000)
        self.life = 1
        """Grows with every flush."""
        self.unmarked: set[int] = set()
        """The nodes that may have sessions which are not in ``refs``."""
        self.is_late = False  # logins are carried out behind those that came after them
        self._numbers = count(1)
        self._tokens = count(1)

    def live(self, app: str, user: str) -> list[SessionRef]:
        return [
            ref for ref in self.refs.get((app, user), ()) if ref.epoch in self.leases
        ]

    def where(self, app: str, channel: str) -> dict[int, int]:
        """The live nodes with members in a channel."""
        nodes = self.channels.get((app, channel), {})
        return {
            epoch: members for epoch, members in nodes.items() if epoch in self.leases
        }

    def flush(self) -> None:
        """Forget all, as a Redis that was restarted without its data."""
        self.refs.clear()
        self.channels.clear()
        self.ids.clear()
        self.life += 1

    def begin(
        self, epoch: int, session: Session, replacing: Collection[SessionRef]
    ) -> SessionRegistration:
        others = [
            p
            for p in self.live(session.app, session.user)
            if (p.epoch, p.id) != (epoch, session.id)
        ]
        rivals = (
            [p for p in others if p.device == session.device]
            if session.policy != "newest"
            else others
        )
        if session.policy == "multi":
            rivals = []
        if any(p.number > session.number for p in rivals) and (
            session.number or self.is_late
        ):
            return SessionRegistration(superseded=True)
        taken = tuple(p for p in rivals if p not in replacing)
        if session.policy == "refuse" and taken and not session.number:
            return SessionRegistration(refused=True, others=taken)
        ref = SessionRef(
            epoch, session.id, session.number or next(self._numbers), session.device
        )
        self.refs[session.app, session.user] = [
            p for p in others if p not in rivals
        ] + [ref]
        return SessionRegistration(ref.number, tuple(rivals))

    def end(self, epoch: int, session: Session, registered: bool) -> bool:
        refs = self.live(session.app, session.user)
        left = [p for p in refs if (p.epoch, p.id) != (epoch, session.id)]
        self.refs[session.app, session.user] = left
        return not left and (len(refs) > 0 or not registered)

    def claim(self, key: str) -> Claim:
        holder = self.ids.setdefault(key, token := f"t{next(self._tokens)}")
        if holder == token:
            return Claim(key, "mine", token)
        return Claim(key, "repeat" if holder == "1" else "pending")


class FakeRegistry:
    """One node's view of a :class:`Book`.

    ``away``: every question is answered with None. ``deaf``: what is asked is
    done, and the answer is lost. ``fails``: a question that ends in an error of
    ours. ``calls`` are the names of the questions so far, ``claimed`` the keys
    of those for claims.
    """

    def __init__(self, book: Book, lease: Lease) -> None:
        self.book = book
        self.lease = lease
        book.leases[lease.epoch] = lease
        self.counters = RegistryCounters()
        self.away = self.deaf = False
        self.fails = ""
        self.calls: list[str] = []
        self.claimed: list[list[str]] = []
        self._go = Flag()
        self._go.set()

    def hold(self) -> None:
        """Keep back all answers from now on; what is asked is done at once."""
        self._go.clear()

    def release(self) -> None:
        """Let the answers go."""
        self._go.set()

    def pass_later(self) -> Flag:
        """Let later answers go, and those that are kept back when this is
        set."""
        delayed = self._go
        self._go = Flag()
        self._go.set()
        return delayed

    def _ask(self, name: str, do: Callable[[], Answer]) -> Answer | None:
        self.calls.append(name)
        if name == self.fails:
            raise RuntimeError("a fault of ours")
        if self.away:
            return None
        answer = do()
        gevent.sleep(0)
        self._go.wait()
        return None if self.deaf else answer

    def leases(self) -> Mapping[int, Lease]:
        return self.book.leases

    def reachable(self) -> Mapping[int, Lease]:
        return self.book.overdue | self.book.leases

    def healthy(self) -> bool:
        return not self.away

    def registered(self, session: Session) -> bool:
        return session.number > 0 and session.generation == self.book.life

    def _begin(
        self, name: str, session: Session, replacing: Collection[SessionRef] = ()
    ) -> SessionRegistration | None:
        begun = self._ask(
            name, lambda: self.book.begin(self.lease.epoch, session, replacing)
        )
        if begun is not None and begun.addressed:
            session.number = begun.number
            session.generation = self.book.life
        return begun

    def register(
        self, session: Session, replacing: Collection[SessionRef] = ()
    ) -> SessionRegistration | None:
        return self._begin("register", session, replacing)

    def unregister(self, session: Session) -> bool | None:
        registered = self.registered(session)
        return self._ask(
            "unregister", lambda: self.book.end(self.lease.epoch, session, registered)
        )

    def reregister(
        self, sessions: Iterable[Session]
    ) -> Iterator[tuple[Session, SessionRegistration]]:
        for session in sessions:
            begun = self._begin("reregister", session)
            if begun is None:
                return
            yield session, begun

    def _refs(self, app: str, user: str) -> tuple[SessionRef, ...]:
        unsure = sorted(self.book.unmarked - {self.lease.epoch})
        return (
            *self.book.live(app, user),
            *(SessionRef(epoch, 0, 0) for epoch in unsure),
        )

    def find(
        self, app: str, users: Sequence[str]
    ) -> list[tuple[SessionRef, ...]] | None:
        return self._ask("find", lambda: [self._refs(app, user) for user in users])

    def find_in_apps(
        self, apps: Sequence[str], user: str
    ) -> list[tuple[SessionRef, ...]] | None:
        return self._ask(
            "find_in_apps", lambda: [self._refs(app, user) for app in apps]
        )

    def find_and_claim(
        self, app: str, user: str, key: str
    ) -> tuple[tuple[SessionRef, ...], Claim] | None:
        def do() -> tuple[tuple[SessionRef, ...], Claim]:
            refs = self._refs(app, user)
            return refs, self.book.claim(key) if refs else Claim(key, "mine")

        return self._ask("find_and_claim", do)

    def generation(self) -> int:
        return self.book.life

    def report_channels(self, entries: Sequence[ReportedMembers]) -> list[int] | None:
        def do() -> list[int]:
            others = []
            for entry in entries:
                nodes = self.book.channels.setdefault((entry.app, entry.channel), {})
                nodes.pop(self.lease.epoch, None)
                others.append(len(nodes))
                if entry.members:
                    nodes[self.lease.epoch] = entry.members
            return others

        return self._ask("report_channels", do)

    def find_channels(
        self, app: str, channels: Sequence[str]
    ) -> list[dict[int, int]] | None:
        def do() -> list[dict[int, int]]:
            unsettled = {
                epoch: 0 for epoch, lease in self.book.leases.items() if lease.unsettled
            }
            unsettled |= dict.fromkeys(self.book.overdue, 0)
            return [unsettled | self.book.where(app, channel) for channel in channels]

        return self._ask("find_channels", do)

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        self.claimed.append([*keys])
        return self._ask("claim", lambda: [self.book.claim(key) for key in keys])

    def settle(self, claim: Claim, accepted: bool, result: bytes = b"") -> None:
        assert claim.state == "mine"
        if claim.token and self.book.ids.get(claim.key) == claim.token:
            if accepted:
                self.book.ids[claim.key] = "1"
                self.book.results[claim.key] = result
            else:
                del self.book.ids[claim.key]

    def results(self, keys: Sequence[str]) -> list[bytes] | None:
        return self._ask(
            "results", lambda: [self.book.results.get(key, b"") for key in keys]
        )


class FakeRpc:
    """From one node to the others. ``cut`` are epochs that get and answer
    nothing, and are known for it. If ``busy``, no query that waits for clients
    has its turn."""

    def __init__(self, cluster: "Several", epoch: int) -> None:
        self._cluster = cluster
        self._epoch = epoch
        self.cut: set[int] = set()
        self.busy = False
        self.sent: list[tuple[int, bytes]] = []
        self.holding = False
        self._delayed: list[tuple[int, bytes]] = []

    def send(self, lease: Lease, item: bytes) -> bool:
        if lease.epoch in self.cut:
            return False
        self.sent.append((lease.epoch, item))
        if self.holding:
            self._delayed.append((lease.epoch, item))
        else:
            self._deliver(lease.epoch, item)
        return True

    def _deliver(self, epoch: int, item: bytes) -> None:
        self._cluster.nodes[epoch].node_messages.received(self._epoch, [item])

    def release(self) -> None:
        """Deliver what was held."""
        self.holding = False
        delayed = self._delayed
        self._delayed = []
        for epoch, item in delayed:
            self._deliver(epoch, item)

    def _ask(self, lease: Lease, kind: str, body: bytes) -> bytes | None:
        if lease.epoch in self.cut or lease.epoch not in self._cluster.nodes:
            return None
        return self._cluster.nodes[lease.epoch].queries.answer(kind, body)

    def query(
        self,
        lease: Lease,
        kind: str,
        body: bytes,
        timeout: float = 1.0,
        *,
        slow: bool = False,
    ) -> bytes:
        if slow and self.busy:
            raise PeerBusy(lease.node, "too many")
        answer = self._ask(lease, kind, body)
        if answer is None:
            raise PeerUnavailable(lease.node, "cut")
        return answer

    def query_all(
        self, leases: Collection[Lease], kind: str, body: bytes, timeout: float = 1.0
    ) -> tuple[dict[str, bytes], list[str]]:
        greenlets = {
            lease.node: gevent.spawn(self._ask, lease, kind, body) for lease in leases
        }
        gevent.joinall(list(greenlets.values()))
        heard = {node: greenlet.get() for node, greenlet in greenlets.items()}
        answers = {node: answer for node, answer in heard.items() if answer is not None}
        return answers, sorted(heard.keys() - answers.keys())


class ClusterHarness(Harness):
    """One of several nodes."""

    def __init__(
        self,
        cluster: "Several",
        epoch: int,
        *,
        require_registry: bool = False,
        **options: Any,
    ) -> None:
        self.epoch = epoch
        self.registry = FakeRegistry(
            cluster.book, Lease(f"127.0.0.1:{9000 + epoch}", epoch, birth=epoch)
        )
        self.rpc = FakeRpc(cluster, epoch)
        self.queries = NodeQueries()
        self.node_messages = NodeMessages(self.registry)  # type: ignore[arg-type]
        self.node_messages.attach(self.rpc)  # type: ignore[arg-type]
        self.others = OtherNodes(
            self.registry, self.node_messages, self.rpc, self.queries, 1.0
        )  # type: ignore[arg-type]
        super().__init__(**options)
        self.reorder_guard = ReorderGuard(self.hub)
        self.sessions: ClusterSessions = ClusterSessions(
            self.hub,
            self.fanout,
            self.metrics,
            Admitting(self._may_login),
            self.registry.book.store,  # type: ignore[arg-type]
            self.others,
            require_registry,
            self.reorder_guard.logged_in,
        )
        self.elsewhere = UsersElsewhere(
            self.hub, self.fanout, self.node_messages, LEASE_LAG
        )
        self._make_dispatcher()
        ids = Idempotency(1000, 3600, registry=self.registry)  # type: ignore[arg-type]
        self.reach = ClusterReach(
            self.registry,  # type: ignore[arg-type]
            self.node_messages,
            self.hub,
            self.fanout,
            ids,
            self.reorder_guard,
            self.metrics,
        )
        self.pushes = Pushes(ids, self.reach, self.metrics)
        self.rerouting = Rerouting(
            self.registry,
            self.node_messages,
            self.fanout,
            self.sessions,
            self.reorder_guard,
        )  # type: ignore[arg-type]
        self.presence = Presence(self.hub, self.table, self.registry, self.others)
        self.node_messages.handle(
            {
                ToUser: self.rerouting.deliver,
                ToApp: lambda m: self.fanout.to_app(
                    m.app, m.event, m.except_user, m.except_users
                ),
                ToChannel: self.channels.publishing.received,
                ToConnection: self.connections.received,
                ChannelsUnsettled: lambda m: self.channel_nodes.peer_unsettled(m.epoch),
                Notice: self.elsewhere.noticed,
                Replaced: lambda m: self.sessions.replaced(m.app, m.user, m.session_id),
            }
        )
        self.presence.add_to(self.queries)
        self.channels.members.add_to(self.queries)
        self.connections.add_to(self.queries)
        self.sessions.add_to(self.queries)
        self.registrar.start()

    def _add_channels(self) -> None:
        self.table = ConnectionTable(
            self.hub, ConnectionIds(Secret(b"s" * 32), self.epoch)
        )
        self.registrar = Registrar(self.registry, self.node_messages, self.hub)  # type: ignore[arg-type]
        self.channel_nodes = ChannelNodes(self.others, self.registrar)
        here = NodeParts(
            self.hub, self.fanout, self.metrics, self.table, self.settings_of
        )
        members = ChannelMembers(here, self.others, self.registrar)
        self.channels = build_channels(
            here, members, self.registry.book.history, self.channel_nodes
        )
        self.connections = Connections(
            self.table,
            self.channels,
            self.fanout,
            self.queries,
            self.registry,
            self.others,
        )

    def session_of(self, connection: Connection) -> Session:
        """The session of a connection that has logged in."""
        assert connection.session is not None
        return connection.session

    def take_new_epoch(self, epoch: int) -> None:
        """Live again after a lease was lost."""
        book = self.registry.book
        del book.leases[self.epoch]
        self.epoch = epoch
        self.registry.lease = replace(self.registry.lease, epoch=epoch)
        book.leases[epoch] = self.registry.lease
        book.life += 1


class Several:
    """Nodes of epochs 1, 2, … that share one book."""

    def __init__(self, number: int = 2, **options: Any) -> None:
        self.book = Book()
        self.nodes: dict[int, ClusterHarness] = {}
        for epoch in range(1, number + 1):
            self.nodes[epoch] = ClusterHarness(self, epoch, **options)

    def __enter__(self) -> Self:
        for node in self.nodes.values():
            node.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self.nodes.values():
            node.registry.release()
            node.__exit__(kind, error, trace)
        turn()
        for node in self.nodes.values():
            node.sessions.stop()
            node.registrar.stop(0)

    def __getitem__(self, epoch: int) -> ClusterHarness:
        return self.nodes[epoch]

    def listed(self, app: str) -> list[str]:
        """Who is online by what the nodes themselves know; a user on two nodes
        twice."""
        return sorted(
            name for node in self.nodes.values() for name in node.hub.user_names(app)
        )

    def addressed(self, app: str, user: str) -> list[int]:
        """The epochs of the user's places in the registry."""
        return [ref.epoch for ref in self.book.live(app, user)]

    def settle(self, *clients: Client) -> None:
        """Wait until everything that was begun has been told and written."""
        until(lambda: all(node.sessions.flush(0) for node in self.nodes.values()))
        for _ in range(10):
            turn()
        for client in clients:
            client.probe(b"settled")

    def texts(self, *clients: Client) -> list[list[str]]:
        """The messages that each client was told since it was last asked, when
        all has been told."""
        until(lambda: not any(node.rerouting.waiting for node in self.nodes.values()))
        self.settle(*clients)
        return [
            [text for kind, _, text in received_since(client) if kind == "msg"]
            for client in clients
        ]


def received_since(client: Client) -> list[tuple[str, str, str]]:
    """What a client was told unasked, and forget it."""
    found = received(client)
    client.frames.clear()
    return found


class Topology:
    """Where a user logs in: ``here`` and ``there`` are one node, or two of a
    cluster."""

    def __init__(
        self, here: Harness, there: Harness, cluster: Several | None = None
    ) -> None:
        self.here = here
        self.there = there
        self._cluster = cluster

    def addressed(self, app: str, user: str) -> int:
        """How many sessions of a user get pushes."""
        if self._cluster is not None:
            return len(self._cluster.addressed(app, user))
        return len(self.here.hub.apps[app].sessions_of(user))

    def news_of(self, client: Client) -> list[tuple[str, str, str]]:
        """What a client was told since it was last asked, when all has been
        told."""
        if self._cluster is None:
            turn()
            client.probe(b"settled")
        else:
            self._cluster.settle(client)
        return received_since(client)
