"""The parts of a node, built from the configuration; nothing else knows all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

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
from imserver.services.commands import Dispatcher, command_table
from imserver.services.dialects.action_messages import ActionMessages, publish_stored
from imserver.services.dialects.action_service import ActionService
from imserver.services.dialects.client_service import ClientService
from imserver.services.dialects.event_streams import EventStreams
from imserver.services.dialects.protobuf_service import ProtobufService
from imserver.services.dialects.protobuf_uplink import ProtobufUplink
from imserver.services.files.uploads import Uploads
from imserver.services.messages.message_commands import MessageCommands, MessageSearch
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import Receipts, Signals
from imserver.services.messages.retention import Retention
from imserver.services.nodes.messages import ToFollowers, ToLog
from imserver.services.nodes.queries import StateQuery
from imserver.services.people.accounts import Accounts
from imserver.services.people.friends import Friends
from imserver.services.people.groups import Groups
from imserver.services.push.idempotency import RequestIds
from imserver.services.push.pending import PendingPushes
from imserver.services.push.publish import Publishing
from imserver.services.sessions.overview import Overview
from imserver.speaking import paths_of
from imserver.storage.talk_positions import TalkPositions
from imserver.transport.connection import Connection
from imserver.transport.gate import Gate, Opened, host_of
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import Streams

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
        self.messaging = self._make_messaging()
        self.action_service = self._make_action_service()
        self.client_service = self._make_client_service()
        uplink = ProtobufUplink(self.messaging, self.store)
        self.protobuf_service = ProtobufService(self.sessions, self.logins, self.messaging, uplink)
        self.dispatcher = Dispatcher(
            command_table(
                self.sessions,
                MessageCommands(
                    self.sessions, self.messaging, self.receipts, self.message_search, self.store
                ),
                self.receipts,
                self.signals,
                self.action_service,
                self.protobuf_service,
                uplink,
            ),
            self.metrics,
        )
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
            self.protobuf_service.check_token,
        )
        self.api = self.publisher.api = Api(self)
        self.streams = self._make_streams()

    def _make_messaging(self) -> Messaging:
        """Everything about stored messages but the commands."""
        store = self.store
        node_messages = None if self.cluster is None else self.cluster.node_messages
        self.talk_positions = TalkPositions(store)
        messaging = Messaging(
            self.hub,
            self.fanout,
            self.metrics,
            store,
            self.talk_positions,
            node_messages,
            (self.webhooks.stored, partial(publish_stored, self.rooms)),
        )
        store.log_listener = messaging
        signals = Signals(self.hub, self.fanout, messaging.subscriptions.rooms, store, node_messages)
        if node_messages is not None:
            node_messages.handle(
                {
                    ToLog: lambda m: messaging.follower.committed(m.app, m.first, m.last, m.entries),
                    ToFollowers: lambda m: signals.deliver(m.app, m.users, m.group, m.signal),
                }
            )
        self.signals = signals
        self.receipts = Receipts(signals, store)
        self.message_search = MessageSearch(store)
        self.retention = Retention(
            self.config.storage, self.tenants.get, store, self.metrics, self.talk_positions
        )
        return messaging

    def _make_action_service(self) -> ActionService:
        def members(app: str) -> Mapping[str, Sequence[str]]:
            tenant = self.tenants.get(app)
            return {} if tenant is None else tenant.room_members

        def is_storing(app: str) -> bool:
            tenant = self.tenants.get(app)
            return tenant is not None and tenant.keep_talks

        self.carrier.ponged = self.messaging.pongs.ponged
        service = ActionService(
            self.hub,
            self.sessions,
            self.rooms,
            self.pushes,
            members,
            self.config.hub.notice_members,
            ActionMessages(self.messaging, is_storing, self.store),
            self.webhooks,
        )
        self.opened["action"] = service.opened
        return service

    def _make_client_service(self) -> ClientService:
        service = ClientService(
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
        self.opened["client"] = service.opened
        return service

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
                lambda gone: self.messaging.pongs.forget(gone.app, gone.user),
            ),
        )

    def _make_streams(self) -> Streams:
        events = Events(
            self,
            EventStreams(
                self.sessions, self.logins, self.rooms, self.connections, self.messaging, self.store
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
        self.messaging.catch_up.ended(connection)
        self.rooms.ended(connection)
        self.table.ended(connection)
        self.logins.ended(connection, code)
        self.sessions.ended(connection, code)
        self.client_service.ended(connection)
        self.protobuf_service.ended(connection)

    def _forgotten(self, connection: Connection) -> None:
        """A session is addressed no longer, though its connection lives on."""
        self.messaging.catch_up.ended(connection)
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
