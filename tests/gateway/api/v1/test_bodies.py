"""Bodies are bounded by what their route takes, before they become objects."""

from typing import Any

import msgspec
import pytest

from imserver.gateway.config.settings import Config, LimitSettings
from imserver.gateway.http.form import MAX_VALUES
from imserver.gateway.http.limits import MOST_ONE_BODY_BYTES
from imserver.gateway.protocol.forgiving import values_in
from tests.gateway.api.api_node import JSON, ApiNode
from tests.gateway.api.conftest import StartNode

PUSH = "/api/v1/push"
SUBSCRIBE = "/api/v1/channels/subscribe"
BATCH = "/api/v1/batch"
CHARACTERS = LimitSettings().push_characters


def answered(node: ApiNode, path: str, body: bytes) -> tuple[int, Any]:
    """Status and document of the answer to a request."""
    finished = node.request("POST", path, body, kind=JSON)
    return finished.status, msgspec.json.decode(finished.body)


def refused(node: ApiNode, path: str, body: bytes) -> tuple[int, str]:
    status, document = answered(node, path, body)
    return status, document["code"]


def padded(document: Any, size: int) -> bytes:
    """JSON with so many bytes."""
    body = msgspec.json.encode(document)
    return body + b" " * (size - len(body))


def test_a_route_takes_the_room_of_one_message_unless_it_has_many_targets(
    node: ApiNode,
) -> None:
    one = {"app": "101", "channel": "news", "users": ["马远"]}
    assert answered(node, SUBSCRIBE, padded(one, MOST_ONE_BODY_BYTES))[0] == 200
    status, document = answered(node, SUBSCRIBE, padded(one, MOST_ONE_BODY_BYTES + 1))
    assert (status, document["code"]) == (413, "body_too_large")
    assert str(MOST_ONE_BODY_BYTES) in document["message"]
    many = {"app": "101", "user": "马远", "text": "x"}
    assert answered(node, PUSH, padded(many, Config().limits.body_bytes))[0] == 200
    assert refused(node, PUSH, padded(many, Config().limits.body_bytes + 1)) == (
        413,
        "body_too_large",
    )


def test_the_room_of_one_message_grows_with_the_longest_message(
    start_node: StartNode,
) -> None:
    node = start_node(Config(limits=LimitSettings(outbox_bytes=2 << 20)))
    one = {"app": "101", "channel": "news", "users": ["马远"]}
    assert answered(node, SUBSCRIBE, padded(one, 2 << 20))[0] == 200


@pytest.mark.parametrize("path", [PUSH, SUBSCRIBE, "/api/v1/disconnect"])
@pytest.mark.parametrize("value", [b"[],", b"1,", b'{"":1},'])
def test_a_body_with_too_many_values_is_refused_before_they_are_made(
    node: ApiNode, path: str, value: bytes
) -> None:
    values = value * (2 * MAX_VALUES // values_in(value))
    assert len(values) < MOST_ONE_BODY_BYTES
    assert refused(node, path, b'{"app":"101","users":[%b"x"]}' % values) == (
        413,
        "body_too_large",
    )


def test_the_largest_push_is_accepted(node: ApiNode) -> None:
    targets = [
        {"user": f"user-{number:06}", "device": "phone"} for number in range(10_000)
    ]
    head = msgspec.json.encode({"app": "101", "targets": targets})[:-1]
    texts = b"\\u002c" * CHARACTERS, b"," * CHARACTERS, "中".encode() * CHARACTERS
    for text in texts:
        assert answered(node, PUSH, b'%b,"text":"%b"}' % (head, text))[0] == 200
    data = b"[%b1]" % (b"1," * ((CHARACTERS - 3) // 2))
    assert len(data) <= CHARACTERS
    assert (
        answered(
            node, PUSH, b'%b,"type":"x","data":%b}' % (head, data.replace(b",", b", "))
        )[0]
        == 200
    )


def test_data_that_are_too_long_are_refused_and_on_one_line_they_may_fit(
    node: ApiNode,
) -> None:
    head = b'{"app":"101","user":"\xe9\xa9\xac\xe8\xbf\x9c","type":"x","data":'
    fitting = b"[%b1]" % (b"1,\n  " * 50_000)
    assert answered(node, PUSH, head + fitting + b"}")[0] == 200
    too_long = b"[%b1]" % (b"1," * CHARACTERS)
    assert refused(node, PUSH, head + too_long + b"}") == (400, "invalid_request")
    for broken in (b'["\xff"]', b"[1e999]"):
        assert refused(node, PUSH, head + broken + b"}") == (400, "invalid_request")


def test_commands_of_a_batch_are_counted_before_they_are_made(node: ApiNode) -> None:
    push = b'{"push":{"app":"101","user":"a","text":"x"}}'
    most = Config().limits.batch_targets
    status, document = answered(
        node, BATCH, b'{"commands":[%b]}' % b",".join([push] * most)
    )
    assert (status, {each["status"] for each in document["results"]}) == (200, {200})
    for command in (push, b'{"":0}', b"{}"):
        body = b'{"commands":[%b]}' % b",".join([command] * (3 * most))
        assert refused(node, BATCH, body) == (400, "too_many_targets")


def test_a_command_of_a_batch_is_bounded_like_a_request_of_its_route(
    node: ApiNode,
) -> None:
    subscribe = b'{"channels/subscribe":{"app":"101","channel":"news","users":["a"]%b}}'
    commands = (
        subscribe % b"",
        subscribe % (b" " * MOST_ONE_BODY_BYTES),
        subscribe % b"",
    )
    status, document = answered(node, BATCH, b'{"commands":[%b]}' % b",".join(commands))
    assert status == 200
    assert [each["status"] for each in document["results"]] == [200, 413, 200]


def test_a_batch_of_nested_values_is_refused_before_it_is_read(node: ApiNode) -> None:
    deep = b"[" * 900 + b"]" * 900
    body = b'{"commands":[{"push":[%b]}]}' % b",".join([deep] * 1_000)
    assert refused(node, BATCH, body) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        (
            b'[{"push":{},"x":{}}]',
            "Expected `object` of length <= 1 - at `$.commands[0]`",
        ),
        (b'[{"push":{}},{}]', "Expected `object` of length >= 1 - at `$.commands[1]`"),
        (b"[1]", "Expected `object`, got `int` - at `$.commands[0]`"),
        (b"[]", "Expected `array` of length >= 1 - at `$.commands`"),
    ],
)
def test_a_wrong_command_is_named(node: ApiNode, commands: bytes, text: str) -> None:
    status, document = answered(node, BATCH, b'{"commands":%b}' % commands)
    assert (status, document["message"]) == (400, text)
