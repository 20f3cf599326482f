"""What a route function gets: the call, and the parts of the node that it may reach."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

import gevent
from msgspec import Struct

from imserver.api.form import parse_pairs
from imserver.api.rates import Rates, TalkRates
from imserver.api.reply import BAD_PARAMETER, UNAUTHORIZED, Refused
from imserver.auth.authority import Authority
from imserver.auth.keys import Keys
from imserver.auth.login import Logins
from imserver.auth.principal import Principal
from imserver.auth.tenants import Tenants
from imserver.config import Config
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.services.dialects.clients import Clients
from imserver.services.dialects.talks import Talks
from imserver.services.files.uploads import Uploads
from imserver.services.messages.finding import Finding
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import Receipts
from imserver.services.people.accounts import Accounts
from imserver.services.people.friends import Friends
from imserver.services.people.groups import Groups
from imserver.services.push.idempotency import Dedupe, RequestIds
from imserver.services.push.pending import PendingPushes
from imserver.services.push.publish import Publishing
from imserver.services.push.push import Pushes
from imserver.services.rooms.connections import Connections
from imserver.services.rooms.rooms import Rooms
from imserver.services.sessions.overview import Overview
from imserver.services.sessions.presence import Presence
from imserver.services.sessions.sessions import Sessions
from imserver.services.webhooks.webhooks import Webhooks
from imserver.storage.store import Store
from imserver.transport.fast import FastRequest

_number = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)

_BROADCAST_SECONDS = 60.0
_LOOK_SECONDS = 0.005


class Broadcasts(Protocol):
    """What is known of broadcasts that are being written; the node's flusher."""

    @property
    def bulk_filled(self) -> int: ...

    def drained(self, since: int) -> bool: ...


class Services(Protocol):
    """The parts of a node that the API is made of."""

    @property
    def config(self) -> Config: ...
    @property
    def presence(self) -> Presence: ...
    @property
    def pushes(self) -> Pushes: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def dedupe(self) -> Dedupe: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def authority(self) -> Authority: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def flusher(self) -> Broadcasts: ...
    @property
    def overview(self) -> Overview: ...
    @property
    def talks(self) -> Talks: ...
    @property
    def clients(self) -> Clients: ...
    @property
    def connections(self) -> Connections: ...
    @property
    def rooms(self) -> Rooms: ...
    @property
    def tenants(self) -> Tenants: ...
    @property
    def store(self) -> Store: ...
    @property
    def finding(self) -> Finding: ...
    @property
    def receipts(self) -> Receipts: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def publishing(self) -> Publishing: ...
    @property
    def request_ids(self) -> RequestIds: ...
    @property
    def pending(self) -> PendingPushes: ...
    @property
    def logins(self) -> Logins: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def uploads(self) -> Uploads: ...
    @property
    def accounts(self) -> Accounts: ...
    @property
    def friends(self) -> Friends: ...
    @property
    def groups(self) -> Groups: ...
    @property
    def messaging(self) -> Messaging: ...

    def state(self, debug: bool, detail: bool = False) -> Mapping[str, Any]:
        """The data of ``/system/state``."""

    def ready(self) -> bool:
        """Whether the node can do its work."""


class Api:
    """The parts of the node that routes reach, and the limits they keep.

    Owner: the node. One instance serves both doors.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.presence = services.presence
        self.pushes = services.pushes
        self.sessions = services.sessions
        self.dedupe = services.dedupe
        self.keys = services.keys
        self.authority = services.authority
        self.metrics = services.metrics
        self.rates = Rates(services.config.api.requests_per_second)
        self.talk_rates = TalkRates(self._messages_per_second)
        self.reload(services.config)

    def reload(self, config: Config) -> None:
        """Take over what of the configuration the API keeps to."""
        self.dedupe.shared = self.keys.demo
        if self.rates.per_second != config.api.requests_per_second:
            self.rates.set(config.api.requests_per_second)
        pending, limits = self.services.pending, config.limits
        pending.limit_pushes, pending.limit_bytes = limits.pending_pushes, limits.pending_bytes
        self.batch_targets = config.limits.batch_targets
        self.body_bytes = config.limits.body_bytes
        self.push_characters = max(1, config.limits.outbox_bytes // 8)
        """Longest push. JSON takes up to six bytes a character, so a frame always fits an empty outbox."""
        self.message_bytes = config.limits.message_bytes
        """Longest message of an account: as over a connection."""
        self._limit_messages = config.limits.messages_per_second

    def _messages_per_second(self, app: str) -> float:
        """How many messages one connection to an app may send; 0: any number."""
        tenant = self.services.tenants.get(app)
        limits = (self._limit_messages, tenant.messages_per_second if tenant is not None else 0.0)
        return min((each for each in limits if each), default=0.0)


def wait_for_broadcast(api: Api, since: int) -> None:
    """Return when what broadcasts have put into outboxes since then is mostly written.

    So whoever sends to very many learns of it when they have it, and cannot send faster than that.
    """
    deadline = monotonic() + _BROADCAST_SECONDS
    while not api.services.flusher.drained(since) and monotonic() < deadline:
        gevent.sleep(_LOOK_SECONDS)


class Call(Struct):
    """One request, read and allowed: parameters by folded name, the app they name, and who asks.

    ``app`` is ``""`` where the request names none (or no number). ``fields`` is the object of a JSON body,
    ``pairs`` are the fields of a multipart form, ``request`` is what came.
    """

    params: dict[str, str]
    app: str
    principal: Principal
    body: bytes = b""
    fields: dict[str, Any] | None = None
    request: FastRequest | None = None
    pairs: list[tuple[str, str]] | None = None

    def texts(self, name: str) -> Sequence[str]:
        """All values of a parameter that may be repeated: a JSON list, or a form field given repeatedly."""
        if self.fields is None:
            pairs = parse_pairs(self.body) if self.pairs is None else self.pairs
            return [value for key, value in pairs if key.lower() == name]
        values = self.fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Refused(BAD_PARAMETER)
        return values


def app_number(text: str) -> str:
    """The number that an ``appID`` is, in decimal; ``""`` if it is none."""
    return str(int(text)) if _number.fullmatch(text) else ""


def app_named(api: Api, app_id: str) -> str:
    """The app that an ``appID`` names: its number in decimal; ``""`` for 0 and for what is no number."""
    tenants = api.services.tenants
    tenant = tenants.get(app_id)
    if tenant is not None and app_id.isdecimal():
        return tenant.same_as or app_id
    name = app_number(app_id)
    return "" if name == "0" else tenants.resolve(name)


def app_from_json(api: Api, app_id: object) -> str:
    """The app that an ``appID`` in JSON names: a number of 32 bits, or its digits as text."""
    if isinstance(app_id, str):
        return app_named(api, app_id)
    if type(app_id) is not int or not 0 <= app_id < 2**32:
        raise Refused(BAD_PARAMETER)
    return app_named(api, str(app_id))


def require_app(call: Call) -> None:
    """Refuse a principal who has nothing to do with the app that the call names."""
    if not call.principal.reaches(call.app):
        raise Refused(UNAUTHORIZED)
