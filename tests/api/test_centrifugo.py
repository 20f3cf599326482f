"""Batches of Centrifugo's server API."""

import json
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import Raw
from msgspec.structs import replace

from imserver.api import centrifugo
from imserver.api.call import Call
from imserver.auth.principal import READ, Principal
from imserver.errors import StorageUnavailable
from imserver.transport.exchange import HttpRequest

REQUEST = HttpRequest("POST", "/api/batch", b"", b"", {}, "127.0.0.1")
READER = Principal("key", frozenset({READ.scope}), None)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), StorageUnavailable("away")])
@pytest.mark.parametrize("path", ["/api/batch", "/api"])
def test_a_command_that_fails_takes_no_answer_from_the_others(
    monkeypatch: pytest.MonkeyPatch, path: str, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    (route,) = [each for each in centrifugo.ROUTES if each.path == path]
    assert route.function is not None
    for name, function in (("history", fail), ("channels", lambda *_: {"channels": {}})):
        method = replace(centrifugo.METHODS[name], function=function)
        monkeypatch.setitem(centrifugo.METHODS, name, method)  # type: ignore[arg-type]
    call = Call({}, "shop", READER, REQUEST)
    names = ["channels", "history", "channels"]
    if path == "/api":
        call.asked = [centrifugo._Command(method=name) for name in names]
    else:
        call.asked = Mock(commands=[{name: Raw(b"{}")} for name in names])
    found = route.function(Mock(), call).body
    replies = list(map(json.loads, found.splitlines())) if path == "/api" else json.loads(found)["replies"]
    assert [each.get("error", {}).get("code", 0) for each in replies] == [0, 100, 0]
