"""Routes and their services: made once on a node, bound to routes and commands;
how a request is read and answered."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from imserver.gateway import errors
from imserver.gateway.auth.principal import NOBODY, Needs
from imserver.gateway.config.settings import Config
from imserver.gateway.core.core import Core
from imserver.gateway.http.call import Api, Call, Route, answer, read
from imserver.gateway.http.operation import Resource, route_of
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse
from tests.gateway.api.api_node import LIMITED, ApiNode

built: Counter[str] = Counter()


class Greeter(Struct, frozen=True):
    """A service."""

    word: str
    api: Api


class Greeting(Struct):
    """An answer."""

    text: str


class Name(Struct):
    """A query."""

    name: str = "all"


def greeter(core: Core, api: Api) -> Greeter:
    built["greeter"] += 1
    return Greeter(f"hello of {core.config.app.http_port}", api)


class Rude(errors.ServiceRefused, problem=errors.Problems.NOT_ALLOWED, detail="No: {}"):
    """A greeter does not greet."""


routes = Resource("greetings", service=greeter)


@routes.get("/greetings", Needs.ANYONE)
def greet(greeter: Greeter, call: Call, request: Name) -> Greeting:
    return Greeting(f"{greeter.word}: {request.name}")


@routes.post("/greetings/most", Needs.ANYONE)
def most(greeter: Greeter, call: Call) -> HttpResponse:
    """Answer with a limit."""
    return call.reply(greeter.api.limits.batch_targets)


@routes.post("/greetings/refused", Needs.ANYONE, status=201)
def refused(greeter: Greeter, call: Call, request: Name) -> Greeting:
    """Refuse some, fail for others."""
    if request.name == "bug":
        raise KeyError(request.name)
    if request.name != "all":
        raise Rude(request.name)
    return Greeting("hello")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    built.clear()
    node = ApiNode(tmp_path)
    rows = [route_of(row) for row in routes.rows]
    commands = {"greetings/most": rows[1], "greetings/refused": rows[2]}
    yield Api(node.core, rows, commands, lambda most, demo: b"")
    node.close()


def ask(api: Api, method: str, path: str) -> Any:
    request = HttpRequest(method, f"/api/v1{path}", b"", b"", {}, "192.0.2.1")
    return msgspec.json.decode(
        answer(api, api.endpoints[method, request.path], request).body
    )


def test_a_service_is_made_once_for_all_routes_and_hears_of_new_limits(
    api: Api,
) -> None:
    assert ask(api, "GET", "/greetings") == {"text": "hello of 8080: all"}
    services = [
        each.service for each in (*api.endpoints.values(), *api.commands.values())
    ]
    assert built == {"greeter": 1}
    assert [each is services[0] for each in services] == [True] * 5
    before = ask(api, "POST", "/greetings/most")
    api.reload(LIMITED)
    assert (before, ask(api, "POST", "/greetings/most")) == (
        Config().limits.batch_targets,
        3,
    )
    endpoint = api.bind(
        Route("GET", "/users", Needs.ANYONE, lambda _, call: call.reply(""))
    )
    request = HttpRequest("GET", "/users", b"name=ann", b"name=bob", {}, "192.0.2.1")
    call = read(api, endpoint, request, NOBODY)
    assert (call.params, call.texts("name"), call.body) == ({"name": "ann"}, [], b"")


@pytest.mark.parametrize(
    ("name", "status", "code", "message"),
    [
        ("all", 201, None, None),
        ("ann", 403, "not_allowed", "No: ann"),
        ("bug", 500, "internal_error", errors.Problems.INTERNAL_ERROR.message),
    ],
)
def test_commands_answer_alike(
    api: Api, name: str, status: int, code: str | None, message: str | None
) -> None:
    body = msgspec.json.encode({"name": name})
    request = HttpRequest(
        "POST", "/api/v1/greetings/refused", b"", body, {}, "192.0.2.1", given_id="one"
    )
    by_route = answer(api, api.endpoints["POST", request.path], request)
    by_command = api.run(api.commands["greetings/refused"], NOBODY, request)
    assert by_route == by_command
    shown = msgspec.json.decode(by_route.body)
    assert (by_route.status, shown.get("code"), shown.get("message")) == (
        status,
        code,
        message,
    )


def test_an_error_of_an_original_is_logged_and_1004(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = api.bind(
        Route("GET", "/users", Needs.ANYONE, lambda _, call: call.reply(1 // 0))
    )
    answered = answer(
        api, endpoint, HttpRequest("GET", "/users", b"", b"", {}, "192.0.2.1")
    )
    assert (answered.status, msgspec.json.decode(answered.body)["code"]) == (200, 1004)
    assert "Traceback" in caplog.text


def test_a_route_with_the_first_bytes_of_its_success_warns_and_knows_refusals() -> None:
    bodies = iter((b"ok", b"no"))
    with pytest.warns(DeprecationWarning, match="Route.success"):
        row = Route(
            "POST",
            "/greetings/old",
            Needs.ANYONE,
            lambda _service, _call: HttpResponse(200, next(bodies)),
            success=b"ok",
        )
    assert row.function is not None
    answers = [row.function(None, None) for _ in range(2)]
    assert [each.refuses for each in answers] == [False, True]
