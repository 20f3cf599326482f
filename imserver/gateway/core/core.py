"""Builds the services of a node below its HTTP API, in order, and keeps the
parts that features add."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from imserver.gateway.auth.authority import AllowLists, Authority, Keys
from imserver.gateway.auth.issuers import Issuers
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.login_tokens import LoginTokens, PageTokens
from imserver.gateway.auth.observer import (
    Denials,
    Observer,
    observer_of,
    report_commands,
)
from imserver.gateway.auth.questions import AccountLookup, BackEnds, Relations, Reviews
from imserver.gateway.auth.rates import BucketList, MutedUsers, SenderRates
from imserver.gateway.auth.tenants import AppObjection, Tenants
from imserver.gateway.channels.client_commands import ChannelAnswers, ChannelCommands
from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.histories import StoredHistory
from imserver.gateway.channels.members import ChannelMembers, NodeParts
from imserver.gateway.channels.subscriptions import Channels, build_channels
from imserver.gateway.clock import JOBS
from imserver.gateway.cluster.history import LocalHistory
from imserver.gateway.cluster.nodes import NodeQueries, Overview, StateQuery
from imserver.gateway.cluster.registry import (
    Lease,
    LocalValues,
    SoloRegistry,
    node_name,
)
from imserver.gateway.config.settings import Config, LoginPolicy
from imserver.gateway.config.values import CORE, Declarations
from imserver.gateway.core.network import Draining, build_network
from imserver.gateway.core.services import NodeState, OnEnded, Services
from imserver.gateway.core.status import NodeStatus
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.hub.expiry import Check
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import Hub
from imserver.gateway.logging import RequestLog
from imserver.gateway.metrics import Metrics
from imserver.gateway.process import Secret
from imserver.gateway.protocol.dialect import Dialect, Readers
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.pending import PendingPushes
from imserver.gateway.push.push import LocalReach, Publishing, Pushes
from imserver.gateway.push.targets import StoredPushes, UserChannels
from imserver.gateway.sessions.connection_ids import (
    ConnectionIds,
    ConnectionTable,
    new_birth,
)
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.sessions.sessions import Sessions
from imserver.gateway.storage.contract import Erasure, programs_of, tables_of
from imserver.gateway.storage.erasures import PURPOSE, Erasures, new_name
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import OF_CORE, StoreTables
from imserver.gateway.transport.connection import Serve
from imserver.gateway.transport.dispatch import CommandTable, Dispatcher
from imserver.gateway.transport.gate import Opened
from imserver.gateway.transport.outgoing import Outgoing
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.gateway.transport.stream import StreamPath

if TYPE_CHECKING:
    from imserver.gateway.core.cluster import ClusterLinks, ClusterMember, DatabaseCheck
    from imserver.gateway.metric_table import Metric

S = TypeVar("S")
_Dialect = TypeVar("_Dialect", bound=Dialect)


class Parts(Struct, frozen=True):
    """The parts that a feature adds to one node.

    - ``services``: objects that its routes and other features use, each found
      by its type (``core.service``), and each :class:`Erasure` of data other
      than rows.
    - ``commands``: the commands of clients that it runs.
    - ``opened``: name of a dialect → the function called with each new
      connection.
    - ``checks``: name of a dialect → the function that the sweep calls with
      each session.
    - ``ended``: functions called with each connection that has ended.
    - ``configure``: reads the settings of the node and of all apps, before the
      node serves and at SIGHUP. It may raise StartError or StorageUnavailable.
    - ``streams``: gets the function that serves messages, and returns path of
      streams → the function that serves the path.
    - ``run``: functions that run in greenlets of their own, from the start of
      the node until they are killed.
    - ``stop``: called when all connections and requests have ended, while the
      greenlets of the node still run. It stores positions, gives leases back,
      and ends threads. Features stop in the reverse order.
    """

    services: tuple[object, ...] = ()
    commands: CommandTable = {}
    opened: Mapping[str, Opened] = {}
    checks: Mapping[str, Check] = {}
    ended: tuple[OnEnded, ...] = ()
    configure: Callable[[Config], object] = lambda config: None
    streams: Callable[[Serve], Mapping[str, StreamPath]] = lambda serve: {}
    run: tuple[Callable[[], None], ...] = ()
    stop: Callable[[], object] = lambda: None


class Core(Services):
    """Builds the services of a node below its HTTP API, in their order, and
    adds the parts of features.

    Features use its ``store`` (:class:`Store`), ``tenants`` (:class:`Tenants`),
    ``relations``, ``reviews``, ``channels`` and ``sessions`` (classes of these
    names). ``buckets`` has ``make(rate, number, seconds, core.attempt)``, which
    makes :class:`Buckets`. Features also use services that have a title of
    their own, as ``core.node``.

    ``answers``: functions that make the objects of features that answer
    questions of the core. If several features answer one question, the core
    asks the first one. ``wires``: name of a feature → name of a dialect → the
    commands that the feature adds there.
    """

    member: ClusterMember | None
    """This node as a member of a cluster; None on a node alone."""
    denials: Denials
    draining: Draining
    status: NodeStatus
    overview: Overview
    """State and metrics of all nodes."""

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        objection: AppObjection,
        declared: Declarations = CORE,
        answers: Sequence[Callable[[Core], tuple[object, ...]]] = (),
        wires: Mapping[str, Mapping[str, Readers]] | None = None,
        tables: StoreTables = OF_CORE,
    ) -> None:
        """Make the services that need no other service.

        :meth:`build` makes the others. ``objection`` tells why an app may not
        have certain settings, and ``tables`` are the tables of the database.
        The other arguments are explained at the class.
        """
        self._objection = objection
        self._answers = answers
        self._services: list[Any] = []
        self._wires = wires or {}
        self._codecs: dict[Any, Any] = {}
        self._questions: Mapping[type, Callable[[Any], None]] = {}
        """Type of a service that answers questions → the function that makes
        the core ask such a service."""
        self.declared = declared
        self.features: dict[str, Parts] = {}
        """Name of a feature → its parts."""
        self.metric_rows: list[Callable[[], Iterable[Metric]]] = []
        """Functions that return the metrics of features."""
        self.config = config
        self.limits = config.limits
        self.node = NodeState(config, request_log)
        self.buckets = BucketList()
        self.store = Store(config.storage, config.server.data_dir, tables=tables)
        # Services own their counters. The metrics only refer to them.
        requests = request_log.timings
        transactions = self.store.timings
        self.metrics = Metrics(requests=requests, transactions=transactions, jobs=JOBS)
        self.user_erasures = Erasures(self.store, lambda: self.node.keys_for(PURPOSE))

    @property
    def node_name(self) -> str:
        """The name by which the other nodes know this one."""
        return self.registry.lease.node

    # --- services of features -------------------------------------------------

    def service(self, kind: type[S]) -> S:
        """Return the service of a feature, found by its exact type.

        Objects that answer questions of the core are found in the same way.
        Raises LookupError if no feature has an object of this type.
        """
        service = self.find(kind)
        if service is None:
            names = ", ".join(self.features) or "none"
            raise LookupError(
                f"no feature of this node has {kind.__name__} of "
                f"{kind.__module__}; its features: {names}"
            )
        return service

    def find(self, kind: type[S]) -> S | None:
        """Return the service of this type, or None if no feature has one."""
        return next((each for each in self._services if type(each) is kind), None)

    def all_of(self, kind: type[S]) -> list[S]:
        """List all services and answers of features that are of a type.

        A derived type counts, too.
        """
        return [each for each in self._services if isinstance(each, kind)]

    # --- start ----------------------------------------------------------------

    def build(self) -> None:
        """Build all services, in the order in which they need each other.

        Raises :class:`StartError` with a one-line message.
        """
        # The data folder first: its lock keeps a second server away.
        secret = self.node.start()
        self._make_sockets()
        # Apps, keys and logins. They need the sockets, and pushes need them.
        links = self._make_foundation(secret)
        self._make_identity(secret)
        self.dispatcher.report_to(acted=report_commands(self.observer))
        self.idempotency = self._make_idempotency(links)
        database = self._find_users_with(links)

        # Users, channels and pushes.
        self.tenants.report_to(self.sessions.forget_app, self.sessions.app_changed)
        self.dispatcher.add(self.sessions.commands())
        self._make_push()
        self._make_denials()
        self._make_channel_commands()
        self._report_ends()
        self.draining = Draining(self)
        self.status = NodeStatus(self, database)
        self.overview = self._make_overview()

    def _make_sockets(self) -> None:
        """Build the services for connections, requests to others, and commands.

        Raises StartError.
        """
        config = self.config
        self.proxies = TrustedProxies(config.server.trusted_proxies)
        self.network = build_network(config, self.node, self.metrics, self.proxies)
        self.outgoing = Outgoing()
        self.dispatcher = Dispatcher(self.metrics)

    def _make_idempotency(self, links: ClusterLinks | None) -> Idempotency:
        """Make the memory of the ids of sent pushes.

        A push whose id is remembered is not sent again. In a cluster, the nodes
        share the memory through their registry.
        """
        registry = None
        if links is not None:
            registry = links.registry
        return Idempotency(
            self.config.api.dedupe_ids,
            self.config.api.dedupe_seconds,
            shared=self.keys.demo,
            registry=registry,
        )

    def _find_users_with(self, links: ClusterLinks | None) -> DatabaseCheck | None:
        """Build the services that find users and channels.

        ``links`` are the links to other nodes, or None on a node alone. Returns
        the comparison of the databases of all nodes, or None on a node alone.
        """
        if links is None:
            self.member = None
            self.registrar = None
            self.rerouting = None
            _build_alone(self)
            return None

        # Imported here: a node alone needs no module of clusters.
        from imserver.gateway.core.cluster import ClusterMember

        self.member = ClusterMember(links, self)
        return self.member.database

    def _report_ends(self) -> None:
        """Add the functions that are called with each connection that has
        ended.

        The order of the calls is the order in this method.
        """
        members = self.channels.members
        # ``+=`` adds to the list that the network has.
        ended = self.network.ended
        ended += (members.ended, self.connection_table.ended, self.keys.ended)
        ended += (self.logins.ended, self.sessions.ended)
        self.hub.report_to(members.leave_all)

    def codec(self, dialect: _Dialect) -> _Dialect:
        """Return the codec of a dialect, with the commands that features add.

        Each call returns the same object, because connections share frames if
        they have the same codec. Raises StartError if two features add the same
        command.
        """
        codec: _Dialect | None = self._codecs.get(dialect)
        if codec is not None:
            return codec

        codec = dialect
        # Each feature adds its commands to a copy of the codec.
        for name, wire in self._wires.items():
            if dialect.name not in wire:
                continue
            try:
                codec = codec.joined(wire[dialect.name])
            except StartError as error:
                raise StartError(f"the feature {name!r}: {error}") from None
        self._codecs[dialect] = codec
        return codec

    def learn_dialects(self, dialects: Iterable[Dialect]) -> None:
        """Apply the rules of dialects about origins and tokens.

        A dialect may accept pages of any origin, and tokens that name no app.
        """
        for row in dialects:
            if row.any_origin:
                self.network.origins.open_dialects.add(row.name)
            if row.bare_tokens:
                self.logins.bare_dialects.add(row.name)

    def join(self, name: str, feature: Parts) -> None:
        """Add the parts of a feature to the node.

        If one of its services answers questions of the core, the core asks it
        from now on.
        """
        network = self.network
        self.features[name] = feature
        for service in feature.services:
            self._services.append(service)
            # A question is a class, and ``ask`` tells the core whom to ask.
            for question, ask in self._questions.items():
                if isinstance(service, question):
                    ask(service)
        self.dispatcher.add(feature.commands)
        network.ended.extend(feature.ended)
        network.opened.update(feature.opened)
        network.sweep.checks.update(feature.checks)

    def prepare(self) -> None:
        """Let the logins and the features read the settings of all apps.

        Raises StartError.
        """
        self.logins.prepare()
        try:
            for feature in self.features.values():
                feature.configure(self.config)
        except StorageUnavailable as error:
            raise StartError(str(error)) from None

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        """Tell whether work for the maker of an earlier request may continue.

        ``user`` is the maker. ``""`` means that a back end made the request.
        ``proof`` says which key or token the request had. It comes from
        :meth:`imserver.gateway.auth.authority.Authority.proof`. The work may
        continue if that key or token is still valid, and the maker is not
        banned. May switch greenlets. Raises StorageUnavailable.
        """
        if user and self.sessions.is_banned(app, user):
            return False
        if self.authority.still_holds(app, user, proof):
            return True
        if not proof.startswith("key:"):
            return False
        # Another node may have made the key just now.
        self.store.refresh()
        return self.authority.still_holds(app, user, proof)

    # --- erasure --------------------------------------------------------------

    @property
    def erasures(self) -> tuple[Erasure, ...]:
        """The erasures of all features: each erases the data of one feature.

        A feature comes before the features that it uses.
        """
        return tuple(reversed(self.all_of(Erasure)))

    def erase_user(self, app: str, user: str, *, keeps_messages: bool = False) -> None:
        """Erase a user of any kind, with all data of the user.

        Sessions are ended, a ban is lifted, and the data in features and in the
        core are erased, with the account. A later user of this name is another
        user. The bots of the user are erased, too.

        With ``keeps_messages``, the messages stay in the conversations, under
        an id that nobody gets again. Callers set it for a bot, or for a guest
        who has been absent for long.

        Switches greenlets. Raises Unavailable. You may call this method again.
        After an error, the next call continues the erasure. After a success,
        it erases data that was added since.
        """
        store = self.store
        sessions = self.sessions
        is_recorded = store.has_database and not keeps_messages
        # This name replaces the user in the messages. If it is empty, the
        # messages keep the id of the user.
        name = ""
        if not keeps_messages:
            name = new_name()
        if is_recorded:
            # If the erasure was begun before, this is the name of that time.
            name = self.user_erasures.begin(app, user)
            sessions.unban(app, [user])

        # Everything is erased twice, because a request that was served during
        # the first time may have added data.
        for _ in range(2):
            self._erase_data_of(app, user, name)
        if is_recorded:
            self.user_erasures.end(app, user)

    def _erase_data_of(self, app: str, user: str, name: str) -> None:
        """End the sessions of a user, and erase the data of all parts.

        ``name`` replaces the user in messages. ``""`` means that the messages
        keep their sender. Switches greenlets. Raises Unavailable.
        """
        for program in programs_of(self.erasures, app, user):
            self.erase_user(app, program, keeps_messages=True)
        self.sessions.close(app, [user])
        self.pending.forget_user(app, user)
        # Erasures that may fail come first, and the account is erased after
        # them. After a failure, a caller who tries again still finds the
        # account.
        self.registry.forget_user(app, user)
        for erasure in self.erasures:
            erasure.user(app, user, name)
        if name:
            self.channels.histories.erase_user(app, user, name)
        self.store.delete_rows_of_user(app, user, tables_of(self.erasures))

    # --- services of the core -------------------------------------------------

    def _make_foundation(self, secret: Secret) -> ClusterLinks | None:
        """Build the services that a node needs before it can log in users.

        Returns the links to the other nodes, or None on a node alone.
        """
        config = self.config
        self._make_hub()
        hub = self.hub
        self.connection_ids = ConnectionIds(secret, new_birth())
        self.connection_table = ConnectionTable(hub, self.connection_ids)
        tenants = Tenants(
            config=config,
            store=self.store,
            hub=hub,
            objection=self._objection,
            declared=self.declared,
        )
        self.tenants = tenants
        self.keys = Keys(config, tenants.resolve)
        self.sender_rates = SenderRates()
        if config.clustered:
            return self._make_links(secret)
        self._make_solo_registry()
        return None

    def _make_hub(self) -> None:
        """Build the table of the users here, and the service that sends to
        them."""
        config = self.config
        network = self.network
        self.hub = Hub(_policies_of(config), network.context.connections)
        self.fanout = Fanout(
            self.hub, network.flusher, self.metrics, config.hub.notice_members
        )

    def _make_links(self, secret: Secret) -> ClusterLinks:
        """Build the registry of a cluster, and the links to the other nodes.

        The *registry* in Redis is the directory of nodes, users and channels.
        """
        # Imported here: Redis and zerorpc cost memory that a single node saves.
        from imserver.gateway.core.cluster import ClusterLinks

        links = ClusterLinks(self.config, secret, self.store, self.tenants)
        self.registry = links.registry
        self.temporary_values = links.registry
        self.attempt = links.registry.attempt
        self.queries = links.queries
        self.rpc = links.rpc
        self.node_messages = links.node_messages
        self.others = links.others
        return links

    def _make_solo_registry(self) -> None:
        """Build the registry of a node alone, and leave out links to other
        nodes.

        The *registry* is the directory of nodes and users. A node alone has
        only its own lease in it, for operators.
        """
        config = self.config
        lease = Lease(
            node_name(config.cluster.advertise, config.app.rpc_port),
            started_at=self.node.started_at,
            host=socket.gethostname(),
            public_ws_url=config.server.public_ws_url,
            birth=self.connection_ids.birth,
        )
        # Counters and values stay in this process, and there is nobody to ask.
        self.registry = SoloRegistry(lease)
        self.queries = NodeQueries()
        self.temporary_values = LocalValues()
        self.attempt = None
        self.rpc = None
        self.node_messages = None
        self.others = None

    def _make_identity(self, secret: Secret) -> None:
        """Build authentication and the login rules.

        The objects of features that answer questions of the core come first.
        """
        self._find_answers()
        tenants = self.tenants
        keys = self.keys
        self.page_tokens = PageTokens(self.config, secret)
        logins = self._make_logins(secret)
        self.logins = logins
        allowed = AllowLists()
        self.allowed = allowed
        allowed.learn(tenants.all())
        # Each service forgets its data about an app that is deleted or changed.
        for service in (keys, logins, allowed):
            tenants.report_to(service.deleted, service.changed)
        self.mutes = MutedUsers()
        self.authority = Authority(
            keys=keys,
            pages=self.page_tokens,
            logins=logins,
            accounts=self.accounts,
            allowed=allowed,
        )

    def _make_logins(self, secret: Secret) -> Logins:
        """Make the service that decides on logins, with the tokens that it
        accepts."""
        network = self.network
        tokens = LoginTokens(
            resolve=self.tenants.resolve,
            pages=self.page_tokens,
            accounts=self.accounts,
            issuers=Issuers(self.outgoing),
            secret=secret,
        )
        return Logins(
            tenants=self.tenants,
            keys=self.keys,
            tokens=tokens,
            back_ends=self.back_ends,
            observer=self.observer,
            connections=network.context.connections,
            metrics=self.metrics,
            origins=network.origins,
        )

    def _find_answers(self) -> None:
        """Find the objects that answer questions of the core.

        A question is, for example, who has an account. If no feature answers
        it, the core has a default.
        """
        for answers in self._answers:
            self._services += answers(self)
        self.accounts = self._first_of(AccountLookup, AccountLookup)
        self.relations = self._first_of(Relations, Relations)
        self.reviews = self._first_of(Reviews, partial(Reviews, self.tenants))
        self.back_ends = self._first_of(BackEnds, BackEnds)
        self.observer = observer_of(self.all_of(Observer))

    def _first_of(self, kind: type[S], make_default: Callable[[], S]) -> S:
        """Return the first service or answer of a type.

        If there is no such object, the method makes the default and returns it.
        Some defaults follow changes of all apps, so a default is made only if
        it is needed.
        """
        for service in self.all_of(kind):
            return service
        return make_default()

    def _make_push(self) -> None:
        """Build the services that push to targets of all kinds.

        A *pending push* is a push for an absent user. The user gets it at the
        next login.
        """
        limits = self.limits
        channels = self.channels
        to_users = UserChannels(channels, self.reach.to_user)
        self.pushes = Pushes(self.idempotency, self.reach, self.metrics, to_users)
        self.pending = PendingPushes(
            to_user=self.reach.to_user,
            presence=self.presence,
            limit_pushes=limits.pending_pushes,
            limit_bytes=limits.pending_bytes,
            node_messages=self.node_messages,
        )
        # This function must be added after sessions.forget_app (in build()):
        # pushes that a closed session has not acknowledged become pending
        # pushes.
        self.tenants.report_to(self.pending.forget)
        self.publishing = Publishing(
            reach=self.reach,
            channels=channels,
            connections=self.connections,
            pending=self.pending,
            ids=self.idempotency,
            on_absent=self.observer.absent,
        )

    def _make_denials(self) -> None:
        """Report refused logins, requests and commands to the observers.

        A feature may observe refusals, for an audit log. If no feature does so,
        commands and connections are not reported at all.
        """
        denials = Denials(self.observer, self.sessions.banned_until)
        self.denials = denials
        # The base class ignores all refusals.
        if type(self.observer) is Observer:
            return
        self.network.origins.report_to(denials.connection)
        self.dispatcher.report_to(refused=denials.command)
        self.network.ended.append(denials.ended)

    def _make_channel_commands(self) -> None:
        """Build the commands of clients on channels, and register questions.

        Features may answer these questions: a feature that stores messages
        knows the history of stored channels, for example.
        """
        self.consent = ChannelConsent(
            back_ends=self.back_ends,
            reviews=self.reviews,
            channels=self.channels,
            mutes=self.mutes,
        )
        self.channel_commands = ChannelCommands(
            channels=self.channels,
            logins=self.logins,
            consent=self.consent,
            answers={},
            table=self.connection_table,
        )
        self.dispatcher.add(self.channel_commands.commands())
        self._questions = {
            StoredHistory: self.channels.histories.ask,
            StoredPushes: self.publishing.ask,
            ChannelAnswers: self.channel_commands.ask,
        }

    def _make_overview(self) -> Overview:
        """Build the service that shows state and metrics of all nodes.

        The service asks the other nodes, and answers their queries about this
        node.
        """
        status = self.status

        def own_state(query: StateQuery) -> dict[str, Any]:
            """Return the state of this node."""
            return status.state(query.debug, query.detail)

        def own_metrics() -> str:
            """Write the metrics of this node as text."""
            # Imported at the first scrape: the module takes half a megabyte. A
            # node without scrapes saves this memory.
            from imserver.gateway.metric_table import render

            rows = chain.from_iterable(rows_of() for rows_of in self.metric_rows)
            return render(self, status.lease().node, rows)

        seconds = self.config.cluster.rpc_seconds
        overview = Overview(
            own_state=own_state,
            own_metrics=own_metrics,
            own_lease=status.lease,
            registry=self.registry,
            rpc=self.rpc,
            seconds=seconds,
        )
        overview.add_to(self.queries)
        return overview


def _policies_of(config: Config) -> dict[str, LoginPolicy]:
    """Return the login policies of the configured apps.

    A policy says what happens if a user logs in twice.
    """
    # An alias has the policy of its target.
    return {
        name: tenant.policy_of(name)
        for name, tenant in config.apps.items()
        if not tenant.same_as
    }


def _build_alone(core: Services) -> None:
    """Build the services that find users and channels, for a node alone.

    For a node of a cluster, :mod:`imserver.gateway.core.cluster` builds them.
    The histories of channels are in memory.
    """
    hub = core.hub
    fanout = core.fanout
    table = core.connection_table
    metrics = core.metrics
    core.sessions = Sessions(
        hub=hub,
        fanout=fanout,
        metrics=metrics,
        logins=core.logins,
        store=core.store,
    )
    # Without other nodes, a push goes to the sessions of this node only.
    core.reach = LocalReach(core.idempotency, fanout, metrics)
    channels = _build_local_channels(core)
    core.channels = channels
    core.presence = Presence(hub, table, core.registry)
    core.connections = Connections(
        table=table,
        channels=channels,
        fanout=fanout,
        queries=core.queries,
        registry=core.registry,
    )


def _build_local_channels(core: Services) -> Channels:
    """Build the channels of a node alone, whose histories are in memory."""
    tenants = core.tenants
    history = LocalHistory(core.limits.history_bytes, core.hub.member_count)
    tenants.report_to(history.forget)
    parts = NodeParts(
        hub=core.hub,
        fanout=core.fanout,
        metrics=core.metrics,
        table=core.connection_table,
        settings=tenants.by_name.get,
        history_apps=tenants.history_apps,
    )
    return build_channels(parts, ChannelMembers(parts), history)
