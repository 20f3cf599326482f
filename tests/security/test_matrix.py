"""Every route and every command, asked as every kind of principal, compared
with a table that people read.

``matrix.txt`` has a row for each route and a column for each principal. A cell
has three characters: what happens in the principal's own app (201), in a
foreign app (202), and by an alias of the own app (203). ``+``: the principal
may; ``-``: refused for want of identity. ``python -m
tests.security.test_matrix`` writes the table anew; read the difference before
you commit it. What a user may know of another one, and do to them, is in
:mod:`tests.security.test_relations`.
"""

import copy
import hashlib
import hmac
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock

import msgspec
from msgspec.structs import replace

from imserver.dialects.centrifuge.api import ROUTES as CENTRIFUGO
from imserver.dialects.client import api as client
from imserver.dialects.protobuf.api import NO_TOKEN
from imserver.dialects.pusher.declared import PusherOfApp, PusherSettings
from imserver.gateway import errors
from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.settings import ApiSettings
from imserver.gateway.http.call import Route
from imserver.gateway.http.openapi import examples_of
from imserver.gateway.http.operation import Operation
from imserver.gateway.http.reply import CMD, PROBLEM, UNAUTHORIZED
from imserver.gateway.model import Request
from imserver.media.uploads.resumable import ResumableUploads
from imserver.media.uploads.uploads import Offer, Uploads
from imserver.pages.blueprint import SDK_PATH
from tests.rows import DIALECTS, DOCUMENTED, FEATURE_OF, OPERATIONS, ROUTES

from .node_harness import (
    ADMIN,
    ALL,
    FOREIGN,
    METRICS,
    PUSH,
    READ,
    Harness,
    config,
    searched,
    written,
)

TABLE: Final = Path(__file__).with_name("matrix.txt")
APPS: Final = ("201", "202", "203")
PUSHER_SECRETS: Final = {"201": "the secret of 201", "202": "the secret of 202"}
OF_PAGE: Final = {"201": "204", "202": "201", "203": "206"}
"""Visitors of pages have another app of their own: an open one."""
STRANGER: Final = "192.0.2.1"

COLUMNS: Final = (
    "nobody",
    "wrong",
    "push",
    "read",
    "metrics",
    "admin",
    "foreign",
    "all",
    "session",
    "account",
    "gochat",
    "guest",
    "bot",
    "moderator",
    "owner",
    "page",
    "address",
    "browser",
    "signed",
    "demo",
    "demo+bad",
)
"""``foreign``: a key with all scopes for 202 only. ``all``, ``metrics``: a key
with the scope ``admin`` or ``metrics`` for all apps. ``gochat``: an account of
gochat. ``guest``, ``bot``: one of 201. ``moderator``, ``owner``: an account of
201 with this role. ``browser``: one at the address of a back end. ``signed``:
who signs as Pusher's libraries do, with the secret of 201. ``demo``: nobody in
demo mode; ``demo+bad``: with a token that proves nothing."""
ROLES: Final = ("moderator", "owner")
OF_USERS: Final = (
    "session",
    "account",
    "gochat",
    "guest",
    "bot",
    "moderator",
    "owner",
    "page",
)
REFUSED: Final = frozenset(
    {"unauthorized", "token_invalid", "forbidden", "not_allowed"}
)
ROWS: Final = {(row.method, row.path): row for row in OPERATIONS}


@contextmanager
def harnesses() -> Iterator[tuple[Harness, Harness]]:
    """A node with keys, and one in demo mode."""
    with tempfile.TemporaryDirectory() as keyed, tempfile.TemporaryDirectory() as demo:
        settings = config(Path(demo), api=ApiSettings())
        settings = replace(
            settings,
            apps={
                n: replace(t, jwt=(), of_features=()) for n, t in settings.apps.items()
            },
        )
        apps = searched("201", "202")
        for app, secret in PUSHER_SECRETS.items():
            signing = PusherOfApp(PusherSettings(f"id{app}", f"key{app}", secret))
            apps[app] = replace(
                apps[app], of_features=(signing, *apps[app].of_features)
            )
        both = Harness(config(Path(keyed), apps=apps)), Harness(settings)
        try:
            yield both
        finally:
            for harness in both:
                harness.close()


def signed(
    app: str, method: str, path: str, query: dict[str, Any], body: bytes
) -> dict[str, str]:
    """The parameters of a request that the back end of an app signs as Pusher's
    libraries do."""
    params = {name: str(value) for name, value in query.items()}
    params |= {
        "auth_key": f"key{app}",
        "auth_version": "1.0",
        "auth_timestamp": f"{time.time():.0f}",
    }
    if body:
        params["body_md5"] = hashlib.md5(body, usedforsecurity=False).hexdigest()
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    secret = PUSHER_SECRETS[app].encode()
    signature = hmac.digest(
        secret, f"{method}\n{path}\n{text}".encode(), "sha256"
    ).hex()
    return {**params, "auth_signature": signature}


def credential(harness: Harness, column: str) -> tuple[str, str, dict[str, str]]:
    """Token, address and headers of a principal."""
    keys = {
        "push": PUSH,
        "read": READ,
        "metrics": METRICS,
        "admin": ADMIN,
        "foreign": FOREIGN,
        "all": ALL,
    }
    if column in keys:
        token = keys[column].key
    elif column in ROLES:
        token = harness.account("201", column)
    elif column in ("session", "account", "guest", "bot", "page"):
        token = getattr(harness, column)("204" if column == "page" else "201")
    else:
        others = {"wrong": "wrong", "demo+bad": "eyJhbGciOiJIUzI1NiJ9.e30.x"}
        token = (
            harness.account("gochat") if column == "gochat" else others.get(column, "")
        )
    host = "10.0.0.7" if column in ("address", "browser") else STRANGER
    return token, host, {"origin": "http://evil.example"} if column == "browser" else {}


def shown(harness: Harness, column: str) -> tuple[dict[str, str], str]:
    """Headers and address of a principal that shows its token as most do."""
    token, host, headers = credential(harness, column)
    return headers | ({"authorization": f"Bearer {token}"} if token else {}), host


def fill(document: Any, app: str) -> Any:
    """An example, for this app."""
    if isinstance(document, dict):
        filled = {name: fill(value, app) for name, value in document.items()}
        return {**filled, "app": app} if "app" in filled else filled
    return (
        [fill(each, app) for each in document]
        if isinstance(document, list)
        else document
    )


def ask(harness: Harness, route: Route, app: str, column: str) -> bool:
    """Whether a principal may."""
    token, host, headers = credential(harness, column)
    if token:
        headers |= (
            {"token": token}
            if route.token_in == "token"
            else {"authorization": f"Bearer {token}"}
        )
    originals = {"appID": app, "userIDs": ["u1"], "message": "x"}
    form = {**originals, "userID": "u1", "friend_id": "9", "group_id": "9"}
    query: dict[str, Any] = {}
    body: Any = b""
    path = ""
    row = ROWS.get((route.method, route.path))
    feature = FEATURE_OF.get((route.method, route.path))
    if row is not None:
        token_of_user = column in OF_USERS and not (column in ROLES and row.need.right)
        if row.query is not None:
            query = fill(copy.deepcopy(examples_of(row)[0]) or {}, app)
            query |= {"app": app} if "app" in row.query.__struct_fields__ else {}
        if row.body is not None:
            document = fill(copy.deepcopy(examples_of(row)[0]), app)
            document |= {"app": app} if "app" in row.body.__struct_fields__ else {}
            body = [document]
        for given in (query, body[0] if body else {}):
            if token_of_user and given.get("user"):
                del given["user"]
    elif feature == "pusher":
        path = route.path.replace(
            "/*", f"/id{'201' if app == '203' else app}", 1
        ).replace("*", "presence-r")
        event = {"name": "e", "channel": "c", "data": "x"}
        body = [{**event, "batch": [event]}] if route.method == "POST" else b""
    elif feature == "client":
        headers["systemid"] = app
        body = [{"systemId": app} if route.path == "/api/register" else {}]
    elif route in CENTRIFUGO:
        body = {"user": "u1", "channel": "news", "channels": ["news"], "data": 1}
    elif route.read:
        body = [originals]
    elif route.method == "GET":
        query = form
    else:
        body = form
    sign = partial(signed, "201") if column == "signed" else None
    finished = harness.ask(route, headers, query, body, host, path, sign)
    assert finished.status != 500, (route.path, column, finished.body)
    if feature == "pusher":
        return finished.status == 200
    if route.path == "/api/v1/batch" and finished.status == 200:
        results = msgspec.json.decode(finished.body)["results"]
        return any(each["status"] not in (401, 403) for each in results)
    if route.style is CMD:
        return finished.body != UNAUTHORIZED.body
    if feature == "client":
        return finished.body != client.UNAUTHORIZED.body
    if route.style is not PROBLEM:
        return finished.body != NO_TOKEN.body
    if finished.status < 400:
        return True
    if finished.page:
        return finished.status not in (401, 403)
    return msgspec.json.decode(finished.body)["code"] not in REFUSED


def routes() -> Iterator[tuple[str, Callable[[Harness, str, str], bool]]]:
    for route in ROUTES:
        yield (
            f"{route.method} {route.path}",
            lambda h, a, c, route=route: ask(h, route, a, c),
        )


# --- what does not stand in the table of routes -------------------------------


def upload(harness: Harness, app: str, column: str) -> bool:
    headers, host = shown(harness, column)
    user = "" if column in OF_USERS else "&user=u1"
    query = f"?app={app}{user}"
    environ = {"REMOTE_ADDR": host}
    sent = harness.web.post(
        f"/api/v1/uploads{query}", data=b"x", headers=headers, environ_base=environ
    )
    return sent.status_code not in (401, 403)


def fetch_export(others: bool) -> Callable[[Harness, str, str], bool]:
    """Whether a principal may fetch an archive: as who operates the app, or its
    own."""

    def check(harness: Harness, app: str, column: str) -> bool:
        headers, host = shown(harness, column)
        user = "" if others or column in OF_USERS else "&user=u1"
        path = (
            f"/api/v1/exports/file{'' if others else '/self'}?app={app}&id=none{user}"
        )
        sent = harness.web.get(
            path, headers=headers, environ_base={"REMOTE_ADDR": host}
        )
        return sent.status_code not in (401, 403)

    return check


def upload_in_parts(
    method: str, others: bool = False
) -> Callable[[Harness, str, str], bool]:
    """Whether a principal may use an upload in parts: its own one (a back end:
    of any user), or another."""

    def check(harness: Harness, app: str, column: str) -> bool:
        parts = harness.node.core
        headers, host = shown(harness, column)
        user = (
            "u2"
            if others
            else parts.authority.identify(Needs.PUSH_OR_USER, headers, host).user
            or "u1"
        )
        uploads = parts.service(Uploads)
        name = ResumableUploads(uploads).create(
            Offer(parts.tenants.resolve(app), user, "f", "", 1, host), ""
        )
        owner = "" if column in OF_USERS else f"&user={user}"
        headers |= {
            "tus-resumable": "1.0.0",
            "upload-offset": "0",
            "upload-length": "1",
        }
        headers["content-type"] = "application/offset+octet-stream"
        path = f"/api/v1/uploads/tus{'' if method == 'POST' else f'/{name}'}?app={app}{owner}"
        body = b"x" if method in ("POST", "PATCH") else b""
        environ = {"REMOTE_ADDR": host}
        sent = harness.web.open(
            path, method=method, data=body, headers=headers, environ_base=environ
        )
        shutil.rmtree(uploads.incoming(), ignore_errors=True)
        # the upload is known, and unfinished
        if method == "GET" and sent.status_code == 404:
            return sent.json["message"] == "The upload is unfinished"
        return sent.status_code not in (401, 403, 404)

    return check


def delete_file(others: bool) -> Callable[[Harness, str, str], bool]:
    """Whether a principal may remove a file of its own (a back end: of any
    user), or of somebody else."""

    def check(harness: Harness, app: str, column: str) -> bool:
        parts = harness.node.core
        headers, host = shown(harness, column)
        user = (
            "u2"
            if others
            else parts.authority.identify(Needs.PUSH_OR_USER, headers, host).user
            or "u1"
        )
        file = parts.service(Uploads).receive(
            Offer(app, user, "f", "", 1, host), lambda _: b"x"
        )
        answer = harness.ask(_DELETE, headers, body=[{"id": file.id}], host=host)
        allowed = answer.status == 200
        assert allowed == (parts.service(Uploads).find(file.id) is None), (app, column)
        return allowed

    return check


def stream_channels(harness: Harness, app: str, column: str) -> bool:
    """Whether an event stream of the principal may subscribe to channels by
    itself."""
    from imserver.gateway.dialects.sse.api import EventStreams
    from imserver.gateway.http.reply import ApiProblem
    from imserver.gateway.transport.http1 import HttpRequest

    token, host, headers = credential(harness, column)
    headers["authorization"] = f"Bearer {token}"
    query = f"app={app}&user=u1&channels=r".encode()
    request = HttpRequest("GET", "/api/v1/events", query, b"", headers, host)
    try:
        EventStreams(harness.node.core, None).read_request(request)
    except ApiProblem:
        return False
    return True


def connect_publisher(harness: Harness, app: str, column: str) -> bool:
    token, host, headers = credential(harness, column)
    head = SimpleNamespace(
        headers={**headers, "authorization": f"Bearer {token}"}, host=host
    )
    choose: Any = harness.node.core.network.gate.paths["/api/v1/publisher"]
    return not isinstance(choose(head), errors.HttpProblem)


def renew(harness: Harness, app: str, column: str) -> bool:
    token, _, headers = credential(harness, column)
    data = {"appID": app, "userID": "u1"}
    headers = {**headers, "Authorization": f"Bearer {token}"}
    return (
        harness.web.post("/home/token", data=data, headers=headers).status_code != 401
    )


def page(path: str) -> Callable[[Harness, str, str], bool]:
    def get(harness: Harness, app: str, column: str) -> bool:
        sent = harness.web.get(path, query_string={"appID": app})
        return sent.status_code not in (401, 403, 404)

    return get


def login(dialect: str) -> Callable[[Harness, str, str], bool]:
    """A login to an app with the principal's token as the login's own."""
    family = {"client": "system:", "action": "action:"}.get(dialect, "")

    def check(harness: Harness, app: str, column: str) -> bool:
        token, host, _ = credential(harness, column)
        logins = harness.node.core.logins
        source = SimpleNamespace(peer=f"{host}:1", origin="")
        name = logins.resolve(app if app == "gochat" else family + app)
        user = (
            ""
            if dialect == "client"
            or column in ("account", "gochat", "guest", "bot", *ROLES)
            else "u1"
        )
        if column == "page":
            token = harness.page(logins.resolve(family + "204"))
        elif column in ROLES:
            token = harness.account(f"{family}201", column)
        elif column in ("session", "account", "guest", "bot"):
            token = getattr(harness, column)(f"{family}201")
        return logins.check(name, user, token, dialect, source).ok

    return check


_DELETE: Final = next(row for row in ROUTES if row.path == "/api/v1/uploads/delete")
_USERS: Final = next(row for row in ROUTES if row.path == "/user/list")

OTHERS: Final[dict[str, Callable[[Harness, str, str], bool]]] = {
    "POST /api/v1/uploads": upload,
    "POST /api/v1/uploads/tus": upload_in_parts("POST"),
    **{
        f"{method} {path}": upload_in_parts(method, others)
        for method in ("HEAD", "PATCH", "GET", "DELETE")
        for path, others in (
            ("/api/v1/uploads/tus/{id}", False),
            ("uploads/tus of somebody else", True),
        )
    },
    "GET /api/v1/exports/file": fetch_export(others=True),
    "GET /api/v1/exports/file/self": fetch_export(others=False),
    "uploads/delete of an own file": delete_file(others=False),
    "uploads/delete of somebody else": delete_file(others=True),
    "GET /api/v1/events?channels=": stream_channels,
    "connect /api/v1/publisher": connect_publisher,
    "POST /home/token": renew,
    "GET /home/index": page("/home/index"),
    "GET /home/room": page("/home/room"),
    "GET /home/channels": page("/home/channels"),
    **{f"login {dialect.name}": login(dialect.name) for dialect in DIALECTS},
    "login sse": login("sse"),
    **{f"login {name} to 204 205 207": login(name) for name in ("cmd", "sse")},
    "GET /home/index of 204 205 207": page("/home/index"),
    "GET /home/channels of 204 205 207": page("/home/channels"),
    "GET /user/list of 204 205 207": lambda harness, app, column: ask(
        harness, _USERS, app, column
    ),
}
ANYBODY_MAY: Final = frozenset(
    {
        "/api/v1/events",  # the login of the stream decides, see "login sse"
        # the same, see "login centrifuge"
        *(
            f"/connection/{app}{way}{kind}"
            for app in ("", "<segment>/")
            for way in ("", "uni_")
            for kind in ("sse", "http_stream")
        ),
        "/api/v1/uploads/{id}",
        "/api/v1/uploads/{id}/thumbnail",
        *(
            "/",
            "/admin",
            "/api/v1/docs",
            "/status",
            "/cluster",
            "/favicon.ico",
            "/static/<path:name>",
        ),
        *(
            f"/home/messages{end}"
            for end in ("", ".webmanifest", ".css", ".png", "-worker.js")
        ),
        *(
            f"/release/<release>/{file}"
            for file in ("static/<path:name>", "messages.css")
        ),
        *("/home/embed", "/release/<release>/features/<feature>/<path:name>"),
        "/gateway",
        *(f"{base}{SDK_PATH}" for base in ("", "/release/<release>")),
    }
)
"""Paths beside the table of routes that need no identity: they show what is
public, or their id is secret."""


def cell(
    harness: Harness, do: Callable[[Harness, str, str], bool], name: str, column: str
) -> str:
    apps = [
        OF_PAGE[app] if column == "page" and "/home/" not in name else app
        for app in APPS
    ]
    if name.endswith("204 205 207"):
        apps = ["204", "205", "207"]
    elif name.startswith("GET /home"):
        apps = ["204", "201", "206"]
    elif name.startswith("POST /home"):
        apps = [OF_PAGE[app] for app in APPS]
    return "".join("-+"[do(harness, app, column)] for app in apps)


def matrix(keyed: Harness, demo: Harness) -> dict[str, list[str]]:
    """What happens."""
    rows = dict(routes())
    rows.update(OTHERS)
    return {
        name: [
            cell(demo if "demo" in column else keyed, do, name, column)
            for column in COLUMNS
        ]
        for name, do in rows.items()
    }


def test_permissions_match_the_table() -> None:
    with harnesses() as both:
        found = written(matrix(*both), COLUMNS, 9).splitlines()
    wanted = TABLE.read_text(encoding="utf-8").splitlines()
    assert found == wanted


def test_what_is_in_no_table_of_routes_has_a_row_too() -> None:
    named = {name.split()[1].partition("?")[0] for name in OTHERS}
    elsewhere = {
        row.path
        for row in DOCUMENTED
        if isinstance(row, Operation) and row not in OPERATIONS
    }
    assert elsewhere <= named | ANYBODY_MAY
    with harnesses() as (keyed, _):
        paths = {str(rule) for rule in keyed.web.application.url_map.iter_rules()}
    named = {name.split()[1] for name in OTHERS}
    known = {
        path.replace("{id}", "<string(length=32):id>") for path in ANYBODY_MAY | named
    }
    upgrades = {
        path.replace("*", "<segment>") for path in keyed.node.servers.websocket_paths
    }
    assert paths - known <= {*upgrades, "/api/v1/publisher"}


# --- commands -----------------------------------------------------------------

WITHOUT_A_SESSION: Final = {
    "Login",
    "ActionLogin",
    "ChatLogin",
    "Resume",
    "CentrifugeLogin",
    "Ping",
}
"""The commands that anybody may use. A login proves by itself who comes, see
the rows "login …"."""


def test_every_command_needs_a_session_but_those_that_make_one() -> None:
    with harnesses() as (keyed, _):
        rules = keyed.node.core.dispatcher.table
        open_to_all = {kind for kind, rule in rules.items() if not rule.needs_session}
        assert {kind.__name__ for kind in open_to_all} == WITHOUT_A_SESSION
        for kind in rules.keys() - open_to_all:
            command: Any = kind(*[None] * len(kind.__struct_fields__))
            dialect = Mock(
                decode=lambda _, command=command: Request("1", "x", command),
                encode_reply=Mock(),
            )
            dialect.encode_reply.return_value = None
            stranger = Mock(
                encoding=Mock(dialect=dialect), app=None, user=None, peer="192.0.2.1:1"
            )
            keyed.node.core.dispatcher.serve(stranger, b"", True)
            ((_, reply), _options) = dialect.encode_reply.call_args
            assert reply.code == errors.ReplyCode.NOT_LOGGED_IN, kind


if __name__ == "__main__":
    with harnesses() as answer:
        TABLE.write_text(written(matrix(*answer), COLUMNS, 9), encoding="utf-8")
    print(f"{TABLE} is written; read the difference")
