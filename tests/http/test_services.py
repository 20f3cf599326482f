"""The services of routes: made once on a node, bound to routes and commands, with the limits of the node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from imserver.auth.principal import ANYONE
from imserver.config.settings import Config
from imserver.core.core import Core
from imserver.http.call import Api, Call, answer, reply
from imserver.http.operation import Resource, route_of
from imserver.transport.exchange import HttpRequest, HttpResponse
from tests.api.fakes import LIMITED, FakeNode

made: Counter[str] = Counter()


class Greeter(Struct, frozen=True):
    """A service."""

    word: str
    api: Api


class Greeting(Struct):
    """An answer."""

    text: str


class Asked(Struct):
    """A query."""

    name: str = "all"


def greeter(core: Core, api: Api) -> Greeter:
    made["greeter"] += 1
    return Greeter(f"hello of {core.config.app.http_port}", api)


routes = Resource("greetings", service=greeter)


@routes.get("/greetings", ANYONE)
def greet(greeter: Greeter, call: Call, asked: Asked) -> Greeting:
    """Greet."""
    return Greeting(f"{greeter.word}: {asked.name}")


@routes.post("/greetings/most", ANYONE)
def most(greeter: Greeter, call: Call) -> HttpResponse:
    """Answer with a limit."""
    return reply(call, greeter.api.limits.batch_targets)


@pytest.fixture
def api() -> Api:
    made.clear()
    node: Any = FakeNode()
    rows = [route_of(row) for row in routes.rows]
    return Api(node, rows, {"greetings/most": rows[1]}, lambda most, demo: b"")


def ask(api: Api, method: str, path: str) -> Any:
    request = HttpRequest(method, f"/api/v1{path}", b"", b"", {}, "192.0.2.1")
    return msgspec.json.decode(answer(api, api.endpoints[method, request.path], request).body)


def test_a_service_is_made_once_for_all_routes_and_commands(api: Api) -> None:
    assert ask(api, "GET", "/greetings") == {"text": "hello of 8080: all"}
    services = [each.service for each in (*api.endpoints.values(), *api.commands.values())]
    assert made == {"greeter": 1}
    assert [each is services[0] for each in services] == [True, True, True]


def test_new_limits_reach_services(api: Api) -> None:
    before = ask(api, "POST", "/greetings/most")
    api.reload(LIMITED)
    assert (before, ask(api, "POST", "/greetings/most")) == (Config().limits.batch_targets, 3)
