"""The Flask application around pages and API: problems, request ids, the
request log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from flask import abort
from flask.testing import FlaskClient
from werkzeug.exceptions import ImATeapot
from werkzeug.test import TestResponse

from imserver.gateway.auth.principal import DEMO
from imserver.gateway.config.settings import ApiSettings, Config
from imserver.gateway.http.reply import CMD, PREFLIGHT
from imserver.gateway.node.http_servers import LISTENER_KEY
from imserver.gateway.transport.http1 import HEADER_LIST
from tests.gateway.api.api_node import BAD_PARAMETER, ApiNode
from tests.rows import ROUTES
from tests.security.node_harness import Harness, config


class App(ApiNode):
    """A node, and what it logged as requests."""

    def __init__(self, folder: Path, *features: str) -> None:
        super().__init__(folder, Config(features=("client", *features)))
        self.logged: list[tuple[Any, ...]] = []
        self.core.node.request_log.add = lambda *entry: self.logged.append(entry)
        self.flask = self.node.servers.application
        self.flask.add_url_rule("/fail", "fail", self.fail)
        self.flask.add_url_rule("/teapot", "teapot", self.pour)
        self.flask.add_url_rule("/closed", "closed", lambda: abort(401))
        self.client: FlaskClient = self.web

    def fail(self) -> str:
        raise RuntimeError("the inner reason")

    def pour(self) -> str:
        raise ImATeapot


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    one = App(tmp_path)
    yield one
    one.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A node with all features, for tests that look at answers only."""
    harness = Harness(config(tmp_path_factory.mktemp("node"), api=ApiSettings()))
    yield harness.web
    harness.close()


def problem_of(answer: TestResponse) -> Any:
    assert answer.content_type == "application/json; charset=utf-8"
    assert answer.json is not None
    assert list(answer.json) == ["code", "message", "temporary", "request_id"]
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    return answer.json


@pytest.mark.parametrize("route", ROUTES, ids=lambda row: f"{row.method} {row.path}")
def test_every_route_answers_with_the_headers_of_the_api(
    site: FlaskClient, route: Any
) -> None:
    answer = site.open(route.path, method=route.method)
    assert answer.status_code == 200 or route.style is not CMD
    assert answer.status_code < 500
    headers = {**dict(HEADER_LIST), "Content-Type": answer.content_type}
    if "text/html" in answer.content_type:
        assert answer.headers["Content-Security-Policy"]
        return
    assert headers.items() <= dict(answer.headers).items()
    assert answer.headers["Content-Length"] == str(len(answer.data))
    if route.style is CMD:
        assert len(answer.headers) == len(headers) + 1
        assert answer.content_type == HEADER_LIST[0][1]


@pytest.mark.parametrize(
    "path", sorted({row.path for row in ROUTES if row.style.options is PREFLIGHT})
)
def test_a_browser_may_ask_whether_it_may_call_from_elsewhere(
    site: FlaskClient, path: str
) -> None:
    preflight = site.options(path)
    assert preflight.status_code == 204
    assert preflight.data == b""
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    "route", [row for row in ROUTES if row.method == "GET"], ids=lambda row: row.path
)
def test_head_has_the_headers_of_get_and_no_body(site: FlaskClient, route: Any) -> None:
    ids = {"X-Request-Id": "one"}
    head = site.head(route.path, headers=ids)
    get = site.get(route.path, headers=ids)
    assert (head.status_code, list(head.headers), head.data) == (
        get.status_code,
        list(get.headers),
        b"",
    )


PAGES = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("method", "path", "accept", "status", "code"),
    [
        ("POST", "/nothing", PAGES, 404, "not_found"),
        ("GET", "/api/v1/nothing", PAGES, 404, "not_found"),
        *(
            ("GET", "/nothing", accept, 404, "not_found")
            for accept in (
                "*/*",
                "application/json, text/html",
                "text/html;q=0.5, application/json",
                "",
            )
        ),
        ("GET", "/user/sendMessage", "", 405, "method_not_allowed"),
        ("PUT", "/health", "", 405, "method_not_allowed"),
        *(
            ("GET", path, "", 404, "not_found")
            for path in ("/user/list/", "/user//list", "/USER/list", "/user")
        ),
        ("GET", "/teapot", "", 418, "refused"),
    ],
)
def test_programs_are_given_a_problem_for_what_is_not_there(
    app: App, method: str, path: str, accept: str, status: int, code: str
) -> None:
    answer = app.client.open(path, method=method, headers={"Accept": accept})
    assert (answer.status_code, problem_of(answer)["code"]) == (status, code)
    assert method not in answer.headers.get("Allow", "")


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("path", ["/acc", "/ws", "/ws?systemId=1"])
def test_a_plain_request_to_a_websocket_path_is_400(
    app: App, path: str, method: str
) -> None:
    for listener in ("http", "websocket"):
        answer = app.client.open(
            path, method=method, environ_overrides={LISTENER_KEY: listener}
        )
        assert answer.status_code == 400
        if method != "HEAD":
            assert problem_of(answer)["code"] == "not_an_upgrade"
    assert (
        app.client.get(
            "/user/list", environ_overrides={LISTENER_KEY: "websocket"}
        ).status_code
        == 200
    )


def test_our_own_mistake_is_a_problem_without_its_reason_and_logged_with_it(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    answer = app.client.get("/fail", headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == 500
    assert problem_of(answer) == {
        "code": "internal_error",
        "message": "The server has an internal error. See its log.",
        "temporary": True,
        "request_id": "mine-1",
    }
    (record,) = caplog.records
    assert record.exc_info
    assert "the inner reason" in caplog.text
    assert cast(Any, record).request == "mine-1"


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", "é"])
def test_a_request_id_that_is_no_plain_word_is_replaced(app: App, given: str) -> None:
    found = problem_of(app.client.get("/nosuch", headers={"X-Request-Id": given}))[
        "request_id"
    ]
    assert found != given
    assert found != problem_of(app.client.get("/nosuch"))["request_id"]


def test_requests_are_logged_without_their_query(app: App) -> None:
    app.client.get("/user/list?token=secret", headers={"X-Request-Id": "mine-1"})
    ((method, path, status, seconds, host, size, request_id, by, route),) = app.logged
    assert (method, path, route, status, host, size, request_id, by) == (
        "GET",
        "/user/list",
        "/user/list",
        200,
        "127.0.0.1",
        65,
        "mine-1",
        DEMO.label,
    )
    assert 0 < seconds < 60


def test_a_body_over_the_limit_is_answered_in_the_style_of_the_api(app: App) -> None:
    limits = app.api.limits
    limits.body_bytes = limits.one_body_bytes = limits.public_body_bytes = 100
    assert app.client.post("/user/kick", data={"x": "y" * 98}).json != BAD_PARAMETER
    assert app.client.post("/user/kick", data={"x": "y" * 99}).json == BAD_PARAMETER
    assert app.client.post("/user/kick", data={"x": "y" * 1000}).json == BAD_PARAMETER


def test_an_absolute_request_target_is_understood(app: App) -> None:
    for target in ("http://localhost/user/list", "https://[::1]:80/user/list"):
        answer = app.client.get("/", environ_overrides={"PATH_INFO": target})
        assert answer.json == {
            "code": 200,
            "msg": "Success",
            "data": {"userCount": 0, "userList": []},
        }
