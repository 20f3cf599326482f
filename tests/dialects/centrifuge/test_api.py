"""Batches of Centrifugo's server API."""

import json
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import Raw
from msgspec.structs import replace

from imserver.dialects.centrifuge import api as centrifugo
from imserver.gateway.auth.principal import Needs, Principal
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.http.call import Call
from imserver.gateway.http.reply import MAX_BATCH_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse

REQUEST = HttpRequest("POST", "/api/batch", b"", b"", {}, "127.0.0.1")
API = Mock(limits=Mock(one_body_bytes=1000))
READER = Principal("key", frozenset({Needs.READ.scope}), None)


def run_batch(path: str, names: list[str]) -> list[dict[str, Any]]:
    """The replies to these commands, of :data:`READER` who sends them
    together."""
    (route,) = [each for each in centrifugo.ROUTES if each.path == path]
    assert route.function is not None
    call = Call({}, "shop", READER, REQUEST)
    if path == "/api":
        call.input = [centrifugo.NamedCommand(method=name) for name in names]
    else:
        call.input = [{name: Raw(b"{}")} for name in names]
    found = route.function(API, call).body
    return (
        list(map(json.loads, found.splitlines()))
        if path == "/api"
        else json.loads(found)["replies"]
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), StorageUnavailable("away")]
)
@pytest.mark.parametrize("path", ["/api/batch", "/api"])
def test_a_command_that_fails_takes_no_answer_from_the_others(
    monkeypatch: pytest.MonkeyPatch, path: str, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    for name, function in (
        ("history", fail),
        ("channels", lambda *_: {"channels": {}}),
    ):
        method = replace(centrifugo.METHODS[name], function=function)
        monkeypatch.setitem(centrifugo.METHODS, name, method)  # type: ignore[arg-type]
    replies = run_batch(path, ["channels", "history", "channels"])
    assert [each.get("error", {}).get("code", 0) for each in replies] == [0, 100, 0]


@pytest.mark.parametrize("path", ["/api/batch", "/api"])
def test_the_replies_of_a_batch_have_a_limit(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    large = {"channels": {"c" * (MAX_BATCH_BYTES // 3): {}}}
    for name, function in (("channels", lambda *_: large), ("info", lambda *_: {})):
        method = replace(centrifugo.METHODS[name], function=function)
        monkeypatch.setitem(centrifugo.METHODS, name, method)  # type: ignore[arg-type]
    replies = run_batch(path, ["channels"] * 3 + ["info"])
    assert [each.get("error", {}).get("code", 0) for each in replies] == [0, 0, 106, 0]


@pytest.mark.parametrize(
    ("pattern", "alternatives"),
    [
        ("a*", {"a*"}),
        ("{a,b}:*", {"a:*", "b:*"}),
        ("a{b,c{d,e}}", {"ab", "acd", "ace"}),
        ("{a", {"{a"}),
        ("{}a", {"a"}),
    ],
)
def test_a_pattern_may_have_alternatives(pattern: str, alternatives: set[str]) -> None:
    assert {*centrifugo.alternatives_of(pattern)} == alternatives


def test_a_pattern_has_few_alternatives() -> None:
    assert len(centrifugo.alternatives_of("{a,b}" * 6)) == centrifugo.MAX_ALTERNATIVES
    with pytest.raises(centrifugo.MethodFailed):
        centrifugo.alternatives_of("{a,b}" * 50)


def test_a_pattern_is_not_longer_than_a_name() -> None:
    (route,) = [each for each in centrifugo.ROUTES if each.path == "/api/channels"]
    assert route.function is not None
    call = Call({}, "shop", READER, REQUEST)
    call.input = centrifugo.METHODS["channels"].request("*" * (Limit.CHANNEL_BYTES + 1))
    assert json.loads(route.function(Mock(), call).body)["error"]["code"] == 107


@pytest.mark.parametrize(
    ("refused", "code", "status"),
    [
        ("not_available", 108, 400),
        ("unrecoverable", 112, 416),
        ("unknown", 102, 404),
        ("denied", 103, 403),
    ],
)
def test_an_error_has_a_status_of_its_own_if_the_client_wants_it(
    monkeypatch: pytest.MonkeyPatch, refused: str, code: int, status: int
) -> None:
    def fail(*_: Any) -> Any:
        raise ChannelRefused(refused)

    method = replace(centrifugo.METHODS["history"], function=fail)

    def answered(mode: str) -> HttpResponse:
        request = replace(REQUEST, headers={"x-centrifugo-error-mode": mode})
        call = Call({}, "shop", READER, request)
        call.input = method.request()
        return centrifugo.respond(method, Mock(), call)

    error = json.loads(answered("transport").body)
    assert (answered("transport").status, error["code"]) == (status, code)
    assert answered("any").status == 200
    assert json.loads(answered("any").body) == {"error": error}
