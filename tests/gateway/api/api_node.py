"""A node of the core in this process, users who are online there, and what was
sent to them."""

import _socket
from collections.abc import Collection
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import (
    ApiSettings,
    Config,
    KeySettings,
    LimitSettings,
)
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.http.call import answer
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse
from tests.gateway.transport.harness import Client, turn
from tests.security.node_harness import Harness

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def with_keys(*keys: KeySettings, **sections: Any) -> Config:
    return Config(api=ApiSettings(keys=keys), **sections)


class Sent(NamedTuple):
    """A message that somebody got."""

    app: str
    user: str
    sender: str
    text: str
    id: str = ""


class OtherNodes:
    """Other nodes: their leases, and what they answer to which question; one
    without an answer is missing."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.others: list[Lease] = []
        self.queries: list[tuple[list[str], str, bytes]] = []

    def leases(self) -> dict[int, Lease]:
        return {lease.epoch: lease for lease in self.others}

    def query_all(
        self, leases: Collection[Lease], kind: str, body: bytes, timeout: float
    ) -> tuple[dict[str, bytes], list[str]]:
        names = [lease.node for lease in leases]
        self.queries.append((names, kind, body))
        known = {
            name: self.answers[name][kind]
            for name in names
            if kind in self.answers.get(name, {})
        }
        return (
            {name: msgspec.msgpack.encode(value) for name, value in known.items()},
            [name for name in names if name not in known],
        )


class ApiNode(Harness):
    """A node of the core, unless the settings name features."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        config = config or Config()
        server = replace(config.server, data_dir=str(folder))
        super().__init__(replace(config, server=server, features=config.features or ()))
        self.core = self.node.core
        self.api = self.node.servers.api
        self.clients: dict[tuple[str, str], Client] = {}

    def begin(self, app: str, *users: str) -> None:
        """Log users in. They are sent what the cmd dialect sends."""
        encoding = Encoding(
            self.core.codec(CmdDialect()), self.core.dispatcher.serve, 65536, 0
        )
        for user in users:
            near, far = _socket.socketpair()
            near.setblocking(False)
            self.clients[app, user] = Client(far)
            connection = Connection(
                self.core.network.context, near, "127.0.0.1:1", encoding, monotonic()
            )
            self.core.network.poller.add(connection)
            self.core.hub.join(self.core.hub.apps[app], connection, user, "")

    def close(self) -> None:
        for connection in tuple(self.core.network.context.connections):
            connection.lost()
        for client in self.clients.values():
            client.sock.close()
        super().close()

    def sent(self) -> list[Sent]:
        """All messages so far, those of each user together."""
        turn()
        bodies = [
            (*where, msgspec.json.decode(payload))
            for where, client in self.clients.items()
            for payload in client.payloads()
        ]
        rows = [
            (app, user, body["response"]["data"], body["seq"])
            for app, user, body in bodies
        ]
        return [
            Sent(app, user, data["from"], data["msg"], id)
            for app, user, data, id in rows
        ]

    def meet(self) -> OtherNodes:
        """Let this node know others; it is ``10.0.0.1:9001`` on the machine
        ``one``."""
        others = OtherNodes()
        own = Lease("10.0.0.1:9001", 1, host="one")
        self.core.overview = replace(
            self.core.overview, own_lease=lambda: own, registry=others, rpc=others
        )
        return others

    # --- asking ---------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: str = "",
        kind: str = FORM,
        key: str = "",
    ) -> HttpResponse:
        """Ask the API itself, as the front does."""
        endpoint = next(
            each for each in self.api.endpoints.values() if each.route.path == path
        )
        headers = {
            "content-type": kind,
            **({"authorization": f"Bearer {key}"} if key else {}),
        }
        return answer(
            self.api,
            endpoint,
            HttpRequest(method, path, query.encode(), body, headers, "127.0.0.1"),
        )

    def get(self, path: str, *, key: str = "", **query: Any) -> Any:
        return decoded(self.request("GET", path, query=urlencode(query), key=key))

    def post(self, path: str, *, key: str = "", **form: Any) -> Any:
        return decoded(
            self.request("POST", path, urlencode(form, doseq=True).encode(), key=key)
        )

    def post_json(self, path: str, document: Any, *, key: str = "") -> Any:
        body = (
            document if isinstance(document, bytes) else msgspec.json.encode(document)
        )
        return decoded(self.request("POST", path, body, kind=JSON, key=key))


def decoded(finished: HttpResponse) -> Any:
    assert finished.status == 200, finished
    return msgspec.json.decode(finished.body)


LIMITED = Config(
    limits=LimitSettings(body_bytes=1000, batch_targets=3, outbox_bytes=800)
)
"""Small limits: bodies of 1,000 bytes, batches of 3, pushes of 100
characters."""
OK = {"code": 200, "msg": "Success"}
SENT = {**OK, "data": {"sendResults": True}}
NOT_SENT = {**OK, "data": {"sendResults": False}}
REPEATED = {**OK, "data": {}}
BAD_PARAMETER = {"code": 1001, "msg": "参数不合法", "data": {}}
UNAUTHORIZED = {"code": 1003, "msg": "未授权", "data": {}}
