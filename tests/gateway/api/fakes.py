"""A node of fakes for the API: who is online is a dict, and what is delivered is noted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import msgspec

from imserver.gateway.api.v1 import table
from imserver.gateway.auth.authority import AllowLists, Authority, Keys
from imserver.gateway.auth.login_tokens import PageTokens
from imserver.gateway.auth.observer import Denials, Observer
from imserver.gateway.auth.questions import AccountLookup, Relations, Reviews
from imserver.gateway.auth.rates import BucketList, MutedUsers, SenderRates
from imserver.gateway.auth.rules import objection
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.cluster.nodes import Overview
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import ApiSettings, Config, KeySettings, LimitSettings
from imserver.gateway.core.services import Services
from imserver.gateway.core.status import Unready
from imserver.gateway.http.call import Api, Route, answer
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event
from imserver.gateway.node.feature_list import declarations_of, load_core
from imserver.gateway.process import Secret
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.push import LocalReach, Pushes
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.sessions.sessions import Ban, ClosedSessions
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse
from imserver.gateway.transport.proxies import TrustedProxies
from tests.gateway.core.back_end import BackEnd

SECRET = b"a secret of thirty-two bytes ...."
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
_boundaries = itertools.count()
CORE = load_core()
_DECLARED = declarations_of(CORE)
_OPERATIONS = (*table.operations_of(_DECLARED), *(row for each in CORE for row in each.operations))
_V1 = table.routes_of(_OPERATIONS)
ROUTES = (*_V1, *(row for each in CORE for row in each.routes if isinstance(row, Route)))
"""Those of the core."""


def with_keys(*keys: KeySettings, **sections: Any) -> Config:
    """A configuration that knows these keys."""
    return Config(api=ApiSettings(keys=keys), **sections)


OWN_LEASE = Lease("10.0.0.1:9001", 1, host="one")
OWN_METRICS = """\
# HELP imserver_node_up Whether the node has answered
# TYPE imserver_node_up gauge
imserver_node_up{node="10.0.0.1:9001"} 1
# HELP imserver_users Users
# TYPE imserver_users gauge
imserver_users{node="10.0.0.1:9001",app="101"} 2
"""


class FakePeers:
    """Other nodes: their leases, and what they answer to which question; one without an answer is missing."""

    lease = OWN_LEASE

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.others: list[Lease] = []
        self.queries: list[tuple[list[str], str, bytes]] = []

    def leases(self) -> dict[int, Lease]:
        return {lease.epoch: lease for lease in (OWN_LEASE, *self.others)}

    def query_all(
        self, leases: Collection[Lease], kind: str, body: bytes, timeout: float
    ) -> tuple[dict[str, bytes], list[str]]:
        names = [lease.node for lease in leases]
        self.queries.append((names, kind, body))
        known = {name: self.answers[name][kind] for name in names if kind in self.answers.get(name, {})}
        return (
            {name: msgspec.msgpack.encode(value) for name, value in known.items()},
            [name for name in names if name not in known],
        )


class FakeNode:
    """Everything that the API reaches, and a memory of what it did."""

    ask_others = Services.ask_others

    def __init__(self, config: Config | None = None, **online: list[str]) -> None:
        self.config = config or Config()
        self.users = {"101": ["马远", "黄帝"], "102": ["马远"], "103": [], "104": [], **online}
        self.sessions = self.hub = self
        self.network = self.messages = self.node = self.status = self.channels = self
        self.features: dict[str, Any] = {}
        self.apps: dict[str, Any] = {}
        """Apps that somebody is connected to: of the hub, not of the users who count as online."""
        store: Any = SimpleNamespace(on_changes=[], look=lambda: None)
        self.tenants = Tenants(self.config, store, None, objection, _DECLARED)
        self.keys = Keys(self.config, self.tenants.resolve)
        config = self.config.api
        self.idempotency = ids = Idempotency(config.dedupe_ids, config.dedupe_seconds, shared=self.keys.demo)
        self.page_tokens = PageTokens(self.config, Secret(SECRET))
        self.proxies = TrustedProxies(self.config.server.trusted_proxies)
        self.metrics = Metrics()
        self.buckets = BucketList()
        self.denials = Denials(Observer(), lambda _app, _user: 0.0)
        self.flusher = SimpleNamespace(bulk_filled=0)
        self.delivered: list[tuple[str, str, Event]] = []
        self.kicked: list[tuple[str, str, float]] = []
        self.banned: set[tuple[str, str]] = set()
        self.table = SimpleNamespace(id_of=lambda _connection: "")
        self.peers = FakePeers()
        self.presence = Presence(self, self.table, self.peers)  # type: ignore[arg-type]
        self.relations = Relations()
        self.read_metrics = lambda: OWN_METRICS
        self.overview = Overview(
            lambda query: self.state(query.debug, query.detail),
            lambda: self.read_metrics(),
            lambda: OWN_LEASE,
            self.peers,
            self.peers,
        )
        self.reach = LocalReach(ids, self, self.metrics)  # type: ignore[arg-type]
        self.pushes = Pushes(ids, self.reach, self.metrics)
        self.back_end = BackEnd()
        self.reviews, self.observer = Reviews(), Observer()
        self.allowed = AllowLists()
        self.session_tokens: dict[str, Claims] = {}
        """Session token → what it is good for."""
        self.logins = SimpleNamespace(
            resolve=self.tenants.resolve,
            is_open=lambda _app: True,
            is_closed=lambda _app: False,
            wants_account=lambda _app, _by_account: False,
            session_of=self.session_tokens.get,
            lists_origin=lambda _app, origin: origin == "https://friend.example",
        )
        self.authority = Authority(
            self.keys,
            self.page_tokens,
            self.logins,  # type: ignore[arg-type]
            AccountLookup(),
            self.allowed,
        )
        self.streams = SimpleNamespace(paths={})
        self.is_ready, self.started_at, self.version = True, 0.0, "1.0.0"
        self.sender_rates = SenderRates()
        self.mutes = MutedUsers()
        self.silent: list[str] = []
        """Nodes that do not answer."""
        self.on_delivery: Callable[[], None] = lambda: None
        self.api = Api(self, ROUTES, table.commands_of(_V1), table.document_of(_OPERATIONS))

    def user_names(self, app: str) -> list[str]:
        return self.users.get(app, [])

    def is_online(self, app: str, user: str) -> bool:
        return user in self.users.get(app, [])

    def ban_of(self, app: str, user: str) -> Ban | None:
        return Ban(monotonic() + 60, "spam") if (app, user) in self.banned else None

    def to_sessions(self, app: str, user: str, event: Event, device: str | None = None) -> int:
        self.on_delivery()
        if not self.is_online(app, user):
            return 0
        self.delivered.append((app, user, event))
        return 1

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: Collection[str] = ()
    ) -> int:
        self.on_delivery()
        receivers = [user for user in self.users.get(app, []) if user != except_user]
        self.delivered.extend((app, user, event) for user in receivers)
        return len(receivers)

    def close(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> ClosedSessions:
        self.kicked += [(app, user, ban_seconds) for user in users]
        return ClosedSessions([int(self.is_online(app, user)) for user in users], tuple(self.silent))

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        return {"managerInfo": {"clientsLen": 2, **({"clients": ["127.0.0.1:1"]} if debug else {})}}

    def lease(self) -> Lease:
        return OWN_LEASE

    def unready(self) -> Unready | None:
        return None if self.is_ready else Unready("it starts")

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(user, text) of every delivery so far."""
        return [(user, event.text) for _, user, event in self.delivered]

    # --- asking ---------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: bytes = b"", *, query: str = "", kind: str = FORM, key: str = ""
    ) -> HttpResponse:
        """Ask the API itself, as the front does."""
        endpoint = next(each for each in self.api.endpoints.values() if each.route.path == path)
        headers = {"content-type": kind, **({"authorization": f"Bearer {key}"} if key else {})}
        request = HttpRequest(method, path, query.encode(), body, headers, "127.0.0.1")
        return answer(self.api, endpoint, request)

    def get(self, path: str, *, key: str = "", **query: Any) -> Any:
        """GET; the whole envelope."""
        return decoded(self.call("GET", path, query=urlencode(query), key=key))

    def post(self, path: str, *, key: str = "", **form: Any) -> Any:
        """POST of a form; the whole envelope."""
        return decoded(self.call("POST", path, urlencode(form, doseq=True).encode(), key=key))

    def post_json(self, path: str, document: Any, *, key: str = "") -> Any:
        """POST of JSON; the whole envelope."""
        body = document if isinstance(document, bytes) else msgspec.json.encode(document)
        return decoded(self.call("POST", path, body, kind=JSON, key=key))


def decoded(finished: HttpResponse) -> Any:
    """The body of an answer of HTTP 200."""
    assert finished.status == 200, finished
    return msgspec.json.decode(finished.body)


def multipart(*fields: tuple[str, str], files: tuple[tuple[str, bytes], ...] = ()) -> tuple[bytes, str]:
    """A multipart form: its body and its content type."""
    boundary = f"boundary{next(_boundaries)}"
    parts = [f'Content-Disposition: form-data; name="{n}"\r\n\r\n{v}'.encode() for n, v in fields]
    parts += [
        f'Content-Disposition: form-data; name="{n}"; filename="{n}.bin"\r\n\r\n'.encode() + v
        for n, v in files
    ]
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    return body + b"--%b--\r\n" % boundary.encode(), f"multipart/form-data; boundary={boundary}"


LIMITED = Config(limits=LimitSettings(body_bytes=1000, batch_targets=3, outbox_bytes=800))
"""Small limits: bodies of 1,000 bytes, batches of 3, pushes of 100 characters."""
OK = {"code": 200, "msg": "Success"}
SENT = {**OK, "data": {"sendResults": True}}
NOT_SENT = {**OK, "data": {"sendResults": False}}
REPEATED = {**OK, "data": {}}
BAD_PARAMETER = {"code": 1001, "msg": "参数不合法", "data": {}}
UNAUTHORIZED = {"code": 1003, "msg": "未授权", "data": {}}
SYSTEM_ERROR = {"code": 1004, "msg": "系统错误", "data": {}}
