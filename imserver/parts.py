"""The parts of a node, built from the configuration; nothing else knows all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imserver.api.call import Api
from imserver.api.metrics import render
from imserver.api.v1.events import PATH as EVENTS_PATH
from imserver.api.v1.events import Events
from imserver.api.v1.publisher import Publisher
from imserver.cluster.registry import Lease
from imserver.config import Config
from imserver.core import Core
from imserver.doors import Doors
from imserver.hub.expiry import Sweep
from imserver.logs import RequestLog
from imserver.report import Report
from imserver.services.dialects.chats import Chats
from imserver.services.dialects.clients import Clients
from imserver.services.dialects.kept_talks import KeptTalks
from imserver.services.dialects.streams import EventStreams
from imserver.services.dialects.talk_places import TalkPlaces
from imserver.services.dialects.talks import Talks
from imserver.services.dialects.uplink import Uplink
from imserver.services.files.uploads import Uploads
from imserver.services.messages.correspondence import Correspondence
from imserver.services.messages.finding import Finding
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import Receipts
from imserver.services.messages.recovery import Recovery
from imserver.services.messages.retention import Retention
from imserver.services.messages.signals import Signals
from imserver.services.nodes.messages import ToFollowers, ToLog
from imserver.services.nodes.queries import StateQuery
from imserver.services.people.accounts import Accounts
from imserver.services.people.friends import Friends
from imserver.services.people.groups import Groups
from imserver.services.push.idempotency import RequestIds
from imserver.services.push.pending import PendingPushes
from imserver.services.push.publish import Publishing
from imserver.services.sessions.dispatch import Dispatcher
from imserver.services.sessions.overview import Overview
from imserver.speaking import paths_of
from imserver.storage.log.contract import Entry
from imserver.storage.talk_positions import TalkPositions
from imserver.transport.connection import Connection
from imserver.transport.gate import Gate, Opened, host_of
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import Streams

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog


log = logging.getLogger(__name__)


def hosts_of(config: Config) -> tuple[str, ...]:
    """Names and addresses by which the settings say that this server is reached."""
    server, app = config.server, config.app
    addresses = (app.http_url, app.websocket_url, server.public_ws_url)
    # "::" has no host name as it stands: an IPv6 address needs its brackets.
    hosts = (server.host, *(row.host for row in server.extra_listen))
    return (*addresses, *(f"[{host}]" if ":" in host else host for host in hosts))


class Parts(Core):
    """Everything that a node is made of; parts are reached as attributes and own their state themselves."""

    doors: Doors

    def __init__(self, config: Config, request_log: RequestLog) -> None:
        super().__init__(config)
        self.request_log = request_log
        self.report = Report(self)
        self.opened: dict[str, Opened] = {}
        """What dialects do when a connection begins, by their name."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port

    def build(self) -> None:
        """Build all parts but the doors. Raises :class:`StartError` with one clear line if it cannot."""
        config = self.config
        self._build_core()
        self._make_publishing()
        self._make_accounts()
        self.overview = self._make_overview()
        self.dispatcher = Dispatcher(self.sessions, self.metrics)
        self.messaging = self._make_messaging()
        self.talks = self._make_talks()
        self.chats = self._make_chats()
        self.clients = self._make_clients()
        self.gate = self._make_gate()
        self.logins.origins = self.gate.origins
        self.logins.prepare()
        self.uploads = Uploads(config.uploads, config.server.data_dir, self.store, self.metrics)
        self.sweep = Sweep(
            self.carrier,
            self.metrics,
            config.websocket.heartbeat_seconds,
            config.limits.login_seconds,
            config.websocket.ping_seconds,
            config.websocket.pong_seconds,
            {"protobuf": config.websocket.protobuf_silent_seconds},
            self.chats.look,
        )
        self.api = self.publisher.api = Api(self)
        self.streams = self._make_streams()

    def _kept(self) -> MessageLog | None:
        """The message log; None while nothing was ever stored."""
        return self.store.log() if self.store.keeps else None

    def _make_messaging(self) -> Messaging:
        """What is stored, and told in its order."""
        store, kept = self.store, self._kept
        self.talk_positions = TalkPositions(store)
        messaging = Messaging(self.hub, self.fanout, self.metrics, store.log, kept)
        store.log_listener = messaging
        if self.cluster is not None:
            messaging.forward = self.cluster.node_messages.broadcast_entries
        self.signals = Signals(self.hub, self.fanout, messaging.rooms, kept)
        if self.cluster is not None:
            self.signals.forward = self.cluster.node_messages.broadcast_signal
            self.cluster.node_messages.handle(
                {
                    ToLog: lambda m: messaging.heard(m.app, m.first, m.last, m.entries),
                    ToFollowers: lambda m: self.signals.heard(m.app, m.users, m.group, m.signal),
                }
            )
        self.receipts = Receipts(self.signals, kept)
        self.receipts.add_to(self.dispatcher)
        self.retention = Retention(
            self.config.storage, self.tenants.get, kept, self.metrics, self.talk_positions
        )
        self.finding = Finding(kept)
        self.finding.add_to(self.dispatcher)
        Correspondence(self.sessions, messaging, self.receipts, kept).add_to(self.dispatcher)
        return messaging

    def _make_talks(self) -> Talks:
        def stored(app: str) -> Mapping[str, Sequence[str]]:
            tenant = self.tenants.get(app)
            return {} if tenant is None else tenant.room_members

        limit = self.config.hub.notice_members
        talks = Talks(self.hub, self.sessions, self.rooms, self.pushes, stored, limit)
        talks.on_said = self.webhooks.message
        self.talk_places = places = TalkPlaces(self.talk_positions)
        talks.kept = KeptTalks(self.messaging, places, self._keeps_talks, self._kept)
        self.carrier.ponged = places.ponged

        def sent(app: str, entry: Entry) -> None:
            self.webhooks.stored(app, entry)
            talks.stored(app, entry)

        self.messaging.on_sent = sent
        talks.add_to(self.dispatcher)
        self.opened["action"] = talks.opened
        return talks

    def _keeps_talks(self, app: str) -> bool:
        tenant = self.tenants.get(app)
        return tenant is not None and tenant.keep_talks

    def _make_chats(self) -> Chats:
        chats = Chats(
            self.sessions,
            self.logins,
            self.messaging,
            Recovery(self.messaging, self._kept),
            Uplink(self.messaging, self._kept),
        )
        chats.add_to(self.dispatcher)
        return chats

    def _make_clients(self) -> Clients:
        clients = Clients(
            self.hub,
            self.ids,
            self.rooms,
            self.connections,
            self.queries,
            self.tenants,
            self.logins,
            self.metrics,
            self.config.hub.notice_members,
        )
        self.opened["client"] = clients.opened
        return clients

    def _make_publishing(self) -> None:
        """What sends to targets of all kinds, and what it keeps for later."""
        limits = self.config.limits
        self.pending = PendingPushes(self.pushes, self.presence, limits.pending_pushes, limits.pending_bytes)
        self.publishing = Publishing(
            self.pushes, self.rooms, self.connections, self.pending, self.webhooks.absent
        )
        self.request_ids = RequestIds(self.message_ids)
        self.publisher = Publisher(limits.body_bytes)

    def _make_accounts(self) -> None:
        """Users who register here, and their relations."""
        accounts, store = self.kept_accounts, self.store
        self.friends = Friends(accounts, self.config.accounts.friends)
        self.groups = Groups(store.log, lambda: store.keeps, self.config.accounts.group_members)
        self.accounts = Accounts(
            self.config,
            self.account_tokens,
            accounts,
            self.sessions.close,
            lambda: self.keys.demo,
            None if self.cluster is None else self.cluster.registry.attempt,
            (
                # Uploads first: a bucket may be unavailable while all else is there.
                lambda gone: self.uploads.forget(gone.app, gone.user),
                lambda gone: self.groups.forget(gone.app, gone.user),
                lambda gone: store.log().forget(gone.app, gone.user),
                lambda gone: self.talk_places.forget(gone.app, gone.user),
            ),
        )

    def _make_streams(self) -> Streams:
        events = Events(
            self,
            EventStreams(
                self.sessions, self.logins, self.rooms, self.connections, self.messaging, self._kept
            ),
        )
        return Streams(
            self.carrier,
            self.gate,
            self.metrics,
            {EVENTS_PATH: events.open},
            events.refuse,
            self.config.websocket.client_silent_seconds,
        )

    def _make_overview(self) -> Overview:
        def own_state(asked: StateQuery) -> dict[str, Any]:
            return self.state(asked.debug, asked.detail)

        def own_metrics() -> str:
            return render(self, self.lease().node)

        rpc = None if self.cluster is None else self.cluster.rpc
        seconds = self.config.cluster.rpc_seconds
        overview = Overview(own_state, own_metrics, self.lease, self.registry, rpc, seconds)
        overview.add_to(self.queries)
        return overview

    def _make_gate(self) -> Gate:
        config = self.config
        return Gate(
            {
                **paths_of(config, self.dispatcher.serve, self.opened),
                self.publisher.path: self.publisher.choose,
            },
            TrustedProxies(config.server.trusted_proxies),
            config.websocket.deflate,
            self.max_connections,
            config.limits.max_connections_per_address,
            config.server.origin_policy == "any",
            config.server.origins,
            self.keys.demo,
            hosts_of(config),
        )

    # --- being told and asked -------------------------------------------------------------------------------

    def _ended(self, connection: Connection, code: int) -> None:
        self.gate.left(host_of(connection.peer))
        if log.isEnabledFor(logging.DEBUG):
            who = f" of {connection.user} in {connection.app}" if connection.user is not None else ""
            log.debug("end%s: %d", who, code, extra={"connection": connection.peer})
        self.messaging.ended(connection)
        self.rooms.ended(connection)
        self.table.ended(connection)
        self.logins.ended(connection, code)
        self.sessions.ended(connection, code)
        self.clients.ended(connection)
        self.chats.ended(connection)

    def _forgotten(self, connection: Connection) -> None:
        """A session is addressed no longer, though its connection lives on."""
        self.messaging.ended(connection)
        self.rooms.leave_all(connection)

    def ready(self) -> bool:
        """Whether this node can do its work; whoever runs it knows."""
        return False

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """What ``/system/state`` tells of this node; see :meth:`imserver.report.Report.state`."""
        return self.report.state(debug, detail)

    def lease(self) -> Lease:
        """What this node says of itself, as of now."""
        return self.report.lease()
