"""What back ends send by ``/api/v1``, on both HTTP servers: push, batches,
publisher; ids, gzip, rates."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.gateway.channels.members import MAX_TAG_BYTES, MAX_TAGS
from imserver.gateway.http.reply import MAX_BATCH_BYTES
from tests.conftest import StartServer
from tests.support import Server

from .cmd import CmdClient, fresh, logged_in
from .raw import BINARY, Raw, Response, ask, frame, open_socket, request, text
from .setting import Launch
from .v1 import PREFIX, call, good, refused


@pytest.fixture
def ann(server: Server, app: int) -> Iterator[CmdClient]:
    """A session of `ann`."""
    with logged_in(server.ws, "ann", app) as one:
        yield one


def received(one: CmdClient) -> dict[str, Any]:
    """The next message that a client was pushed: seq and data in one."""
    body = one.push("msg").json
    return {"seq": body["seq"], **body["response"]["data"]}


def outcome(answer: Any) -> list[str]:
    """The statuses of an answer, whose count is checked."""
    statuses = [result["status"] for result in answer["results"]]
    assert answer["sent"] == sum(status in ("sent", "partly") for status in statuses)
    return statuses


def post(
    server: Server, route: str, body: bytes, *headers: tuple[str, str]
) -> Response:
    """POST bytes with headers."""
    return ask(
        server.http, request(PREFIX + route, method="POST", headers=headers, body=body)
    )


def test_a_message_is_text_or_any_json(
    server: Server, app: int, ann: CmdClient
) -> None:
    for content, kind, shown in (
        ({"text": "hi"}, "text", "hi"),
        ({"message": "你好"}, "text", "你好"),
        ({"message": "x", "type": "image"}, "image", "x"),
        ({"message": {"text": "x", "type": "image"}}, "image", "x"),
        (
            {"data": {"n": [1, None, "é"]}, "type": "order"},
            "order",
            '{"n":[1,null,"é"]}',
        ),
        ({"message": {"type": "order", "data": [1, 2]}}, "order", "[1,2]"),
        ({"data": "a string"}, "text", "a string"),
        ({"data": None}, "text", "null"),
        (
            {"data": 123456789012345678901234567890},
            "text",
            "123456789012345678901234567890",
        ),
    ):
        good(
            server.http,
            "push",
            {"app": str(app), "user": "ann", "sender": "shop", **content},
        )
        data = received(ann)
        assert (data["type"], data["msg"], data["from"], data["seq"]) == (
            kind,
            shown,
            "shop",
            "",
        )


TO_A: dict[str, Any] = {"app": "101", "user": "a"}
NOT_STORED: list[dict[str, Any]] = [
    {"channel": "r"},
    {"all": True},
    {"user": "a", "device": ""},
    {"targets": [{"connection": "c"}]},
    {"channel": "group:x"},
]
REFUSED: list[tuple[Any, str]] = [
    (b"", "truncated"),
    (b"[]", "Expected `object`"),
    (b"\xff", ""),
    (b'{"app":"101","user":"a","data":"\xff"}', "$.data"),
    (b'{"app":"101","user":"a","data":{"a":"\\ud800"}}', ""),
    (TO_A, "Give one of `message`"),
    ({**TO_A, "text": ""}, "`$.text`"),
    ({**TO_A, "data": ""}, "The message is empty"),
    ({**TO_A, "message": {}}, "`text` and `data`"),
    ({**TO_A, "message": {"text": "x", "data": 1}}, "one of"),
    ({**TO_A, "text": "x", "message": "y"}, "one of"),
    ({**TO_A, "message": {"text": "x"}, "type": "y"}, "`type`"),
    ({"app": "101", "text": "x"}, "Give one of `targets`"),
    ({**TO_A, "channel": "r", "text": "x"}, "Give one of `targets`"),
    ({"app": "101", "channel": "r", "device": "d", "text": "x"}, "`device`"),
    ({"app": "101", "targets": [{"user": "a"}, {}], "text": "x"}, "$.targets[1]"),
    ({**TO_A, "text": "x", "tll": 5}, "unknown field `tll`"),
    ({**TO_A, "text": "x", "ttl_seconds": 90_000}, "86400"),
    ({**TO_A, "text": "x" * 140_000}, "too long"),
    ({**TO_A, "text": "x", "store": True, "ttl_seconds": 1}, "ttl"),
    ({**TO_A, "message": {"text": "x", "code": 1}, "store": True}, "`code`"),
    ({"app": "101", "group": "x", "text": "x", "store": True}, "$.group"),
    ({"app": "101", "users": ["u"] * 10_001, "text": "x"}, "limits.batch_targets"),
    (
        {"app": "101", "all": True, "text": "x", "except_users": ["u"] * 10_001},
        "limits.batch_targets",
    ),
    *(
        ({"app": "101", "text": "x", "store": True, **target}, "users, on all")
        for target in NOT_STORED
    ),
]


def test_an_invalid_push_is_refused_with_the_reason(server: Server) -> None:
    for body, words in REFUSED:
        status, code, message = refused(server.http, "push", body)
        many = words == "limits.batch_targets"
        assert (status, code) == (
            400,
            "too_many_targets" if many else "invalid_request",
        ), body
        assert words in message


@pytest.mark.parametrize("by_header", [False, True])
def test_a_request_that_comes_again_is_answered_as_before_and_sent_once(
    server: Server, app: int, ann: CmdClient, by_header: bool
) -> None:
    name = fresh("request")
    push = {"app": str(app), "users": ["ann", "x"], "text": "once"}
    headers = [("Idempotency-Key", name)] if by_header else []
    body = json.dumps(push if by_header else {**push, "id": name}).encode()
    first = post(server, "push", body, *headers)
    again = post(server, "push", body, *headers)
    assert first.json == again.json
    assert outcome(first.json) == ["sent", "absent"]
    assert (
        first.header("Idempotent-Replayed"),
        again.header("Idempotent-Replayed"),
    ) == (None, "true")
    assert received(ann)["msg"] == "once"
    ann.no_push("msg")
    other = json.dumps(
        {**push, "text": "twice"}
        if by_header
        else {**push, "id": name, "text": "twice"}
    )
    answer = post(server, "push", other.encode(), *headers)
    assert (answer.status, answer.json["code"]) == (422, "id_reused")


# --- batches ------------------------------------------------------------------


def test_commands_of_a_batch_are_answered_as_if_each_had_come_alone(
    server: Server, app: int, ann: CmdClient
) -> None:
    commands = [
        {"push": {"app": str(app), "user": "ann", "text": "1"}},
        {"channels/subscribe": {"app": str(app), "channel": "r", "users": ["ann"]}},
        {"channels/publish": {"app": str(app), "channel": "r", "text": "2"}},
        {"push": {"app": "nope", "user": "ann", "text": "x"}},
        {"push": {"app": str(app)}},
        {"presence": {"app": str(app), "users": ["ann"]}},
        {"nonsense": {}},
        {"batch": {"commands": []}},
    ]
    results = good(server.http, "batch", {"commands": commands})["results"]
    assert [result["status"] for result in results] == [
        200,
        200,
        200,
        404,
        400,
        200,
        404,
        404,
    ]
    assert results[2]["body"] == {"channel": "r", "status": "sent"}
    assert results[3]["body"]["code"] == "unknown_app"
    assert results[5]["body"]["users"] == [{"user": "ann", "online": True}]
    assert [received(ann)["msg"] for _ in range(2)] == ["1", "2"]


def test_answers_of_a_batch_that_do_not_fit_are_problems(
    server: Server, app: int
) -> None:
    many = {
        "presence": {
            "app": str(app),
            "users": [f"nobody-{number:05}" for number in range(10_000)],
        }
    }
    commands = [*([many] * 20), {"presence": {"app": str(app), "users": ["nobody"]}}]
    results = good(server.http, "batch", {"commands": commands})["results"]
    fitting = [result["status"] for result in results].index(413)
    assert [result["status"] for result in results] == [200] * fitting + [413] * (
        20 - fitting
    ) + [200]
    assert results[fitting]["body"]["code"] == "answer_too_large"
    assert sum(len(json.dumps(result)) for result in results) <= 2 * MAX_BATCH_BYTES


def test_an_invalid_batch_is_refused(server: Server) -> None:
    invalid: list[list[dict[str, Any]]] = [[], [{}], [{"push": {}, "presence": {}}]]
    for commands in invalid:
        assert refused(server.http, "batch", {"commands": commands})[:2] == (
            400,
            "invalid_request",
        )
    pushes = [
        {"push": {"app": "101", "user": f"nobody-{number}", "text": "x"}}
        for number in range(10_000)
    ]
    results = good(server.http, "batch", {"commands": pushes})["results"]
    assert [outcome(result["body"]) for result in results] == [["absent"]] * 10_000
    many = {"commands": [*pushes, *pushes[:1]]}
    assert refused(server.http, "batch", many)[:2] == (400, "too_many_targets")


def test_bodies_may_come_compressed_and_long_answers_leave_so(
    server: Server, app: int
) -> None:
    push = {
        "app": str(app),
        "users": [f"user-{number}" for number in range(500)],
        "text": "x" * 5000,
    }
    plain = json.dumps(push).encode()
    kinds = ("Content-Encoding", "gzip"), ("Accept-Encoding", "br, gzip;q=0.5")
    answer = post(server, "push", gzip.compress(plain), *kinds)
    assert (answer.status, answer.header("Content-Encoding")) == (200, "gzip")
    assert answer.header("Vary") == "Accept-Encoding"
    assert len(answer.body) < 5000
    assert outcome(json.loads(gzip.decompress(answer.body))) == ["absent"] * 500
    for accepted in ("", "gzip;q=0", "identity", "gzip;q=0.0"):
        answer = post(server, "push", plain, ("Accept-Encoding", accepted))
        assert answer.header("Content-Encoding") is None
    whole = gzip.compress(b'{"app":"101","all":true,"text":"x"}')
    wrong = [
        b"no gzip",
        whole[:-9],
        whole + b"more",
        zlib.compress(b"{}"),
        gzip.compress(b"{"),
    ]
    for body in (*wrong, gzip.compress(b" " * 5_000_000)):
        answer = post(server, "push", body, ("Content-Encoding", "gzip"))
        expected = (
            (400, "invalid_request") if body in wrong else (413, "body_too_large")
        )
        assert (answer.status, answer.json["code"]) == expected


# --- channels -----------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(start_shared_server: StartServer) -> Server:
    """A server with an app whose channels have histories and limits."""
    channels = {
        "news": {"history_size": 3, "history_seconds": 60},
        "short": {"max_bytes": 5},
    }
    return start_shared_server(
        config={"apps": {"shop": {"open": True, "channels": channels}}}
    )


def test_a_repeated_broadcast_reaches_the_channels_that_have_not_accepted_it(
    shop: Server,
) -> None:
    body = {
        "app": "shop",
        "channels": ["news:all", "hall", "short:all"],
        "text": "123456",
        "id": "b-1",
    }

    def statuses(**fields: Any) -> list[str]:
        results = good(shop.http, "channels/broadcast", {**body, **fields})["results"]
        return [each["status"] for each in results]

    assert statuses() == ["sent", "absent", "refused"]
    with logged_in(shop.ws, "bob", "shop") as bob:
        good(
            shop.http,
            "channels/subscribe",
            {"app": "shop", "channel": "hall", "users": ["bob"]},
        )
        assert statuses() == ["repeated", "sent", "refused"]
        assert received(bob)["msg"] == "123456"
    assert statuses() == ["repeated", "repeated", "refused"]
    alone = {"app": "shop", "channel": "news:all", "text": "123456", "id": "b-1"}
    assert good(shop.http, "channels/publish", alone)["status"] == "repeated"
    other = {**body, "channels": ["news:other", "news:all"], "text": "other"}
    assert refused(shop.http, "channels/broadcast", other)[:2] == (422, "id_reused")
    assert statuses(channels=["news:other", "news:other"]) == ["sent", "sent"]
    assert statuses(channels=["news:all", "news:other"]) == ["repeated", "repeated"]
    for channel in ("news:all", "news:other"):
        assert (
            len(
                good(shop.http, "channels/history", app="shop", channel=channel)[
                    "publications"
                ]
            )
            == 1
        )


def test_tags_have_a_limit_of_number_and_of_bytes(shop: Server) -> None:
    def refusal(route: str, tags: dict[str, str], **fields: Any) -> str:
        body = {"app": "shop", "tags": tags, **fields}
        return str(refused(shop.http, f"channels/{route}", body)[2])

    tags = {"a": "x" * (MAX_TAG_BYTES - len('{"a":""}'))}
    full = {"app": "shop", "channel": "short:tags", "text": "x", "tags": tags}
    assert good(shop.http, "channels/publish", full)["status"] == "absent"
    longer = {"a": tags["a"] + "x"}
    wanted = f"`tags`: at most {MAX_TAGS}, with {MAX_TAG_BYTES} bytes; not 1 tags with {MAX_TAG_BYTES + 1}"
    assert wanted in refusal("publish", longer, channel="news:1", text="x")
    assert wanted in refusal("broadcast", longer, channels=["news:1"], text="x")
    assert wanted in refusal("stream/open", longer, channel="news:1")
    many = {str(number): "" for number in range(MAX_TAGS + 1)}
    assert f"length <= {MAX_TAGS} - at `$.tags`" in refusal(
        "publish", many, channel="news:1", text="x"
    )


# --- the publisher connection -------------------------------------------------


PATH = "/api/v1/publisher"


def command(seq: Any, **publish: Any) -> bytes:
    """A publish as a masked text frame."""
    return text(json.dumps({"seq": seq, "publish": publish}))


@contextlib.contextmanager
def publisher(server: Server, key: str = "") -> Iterator[Raw]:
    """A publisher connection."""
    more = [("Authorization", f"Bearer {key}")] if key else []
    with open_socket(server.http, PATH, more=more) as one:
        yield one


def texts(one: CmdClient, count: int) -> list[str]:
    """The words of the next messages that a client was pushed."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


@pytest.mark.full("processes")
def test_publishes_are_acknowledged_in_order_with_what_was_not_sent(
    server: Server, app: int, ann: CmdClient
) -> None:
    name = str(app)
    targets = [{"all": True}, {"channel": "r"}]
    more = range(12, 42)
    with publisher(server) as one:
        one.send(
            command(1, app=name, user="ann", text="1"),
            command("two", app=name, users=["ann", "x"], text="2"),
            command(
                3, app=name, targets=targets, message={"type": "o", "data": {"n": 3}}
            ),
            text('{"seq":4,"ping":{}}'),
            command(5, app="nope", user="ann", text="-"),
            command(6, app=name, user="ann", text="6", nick="-"),
            text('{"seq":7}'),
            text('{"seq":8,"ping":{},"publish":{"app":"1","user":"a","text":"-"}}'),
            text('{"seq":[9],"ping":{}}'),
            text("{"),
            frame(BINARY, b'{"seq":11,"ping":{}}'),
            *(
                command(
                    n, app=name, user="ann", text=str(n), store=n % 10 != 9, id=f"n-{n}"
                )
                for n in more
            ),
            command(41, app=name, user="ann", text="41", store=True, id="n-41"),
        )
        answers = [one.message().json for _ in range(42)]
    assert answers[:4] == [
        {"seq": 1, "sent": 1},
        {
            "seq": "two",
            "sent": 1,
            "results": [{"target": {"user": "x"}, "status": "absent"}],
        },
        {
            "seq": 3,
            "sent": 1,
            "results": [{"target": {"channel": "r"}, "status": "absent"}],
        },
        {"seq": 4, "pong": {}},
    ]
    assert [(answer["seq"], answer["error"]["code"]) for answer in answers[4:10]] == [
        (5, "unknown_app"),
        *((number, "invalid_request") for number in (6, 7, 8, None, None)),
    ]
    assert sorted(answers[4]["error"]) == ["code", "message", "temporary"]
    assert answers[10] == {"seq": 11, "pong": {}}
    results = [
        result for answer in answers[11:] for result in answer.pop("results", ())
    ]
    assert {each["status"] for each in results} == {"stored"}
    assert sorted(results[0]["stored"]) == ["conversation", "id", "seq"]
    assert [each["stored"]["id"] for each in results] == [*range(1, 28), 27]
    assert answers[11:] == [{"seq": n, "sent": 1} for n in (*more, 41)]
    assert texts(ann, 6) == ["1", "2", '{"n":3}', "19", "29", "39"]


def test_an_id_is_carried_out_once_whichever_way_it_comes(
    server: Server, app: int, ann: CmdClient
) -> None:
    push = {"app": str(app), "user": "ann", "text": "once", "id": fresh("request")}
    with publisher(server) as one:
        one.send(
            *(command(number, **push) for number in range(3)),
            command(3, **{**push, "text": "-"}),
        )
        assert [one.message().json for _ in range(3)] == [
            {"seq": n, "sent": 1} for n in range(3)
        ]
        assert one.message().json["error"]["code"] == "id_reused"
    again = call(server.http, "push", push)
    assert again.json == {
        "sent": 1,
        "results": [{"target": {"user": "ann"}, "status": "sent"}],
    }
    assert again.header("Idempotent-Replayed") == "true"
    assert texts(ann, 1) == ["once"]
    ann.no_push("msg")


def test_commands_count_against_the_rate_of_their_key(
    http_server: str, launch: Launch
) -> None:
    key = "pushing-key-of-the-tests"
    api = {"keys": [{"key": key, "scopes": ["push"]}], "requests_per_second": 5}
    with publisher(launch(http_server, api=api), key) as one:
        one.send(
            *(command(number, app="101", user="x", text="-") for number in range(100))
        )
        answers = [one.message().json for _ in range(100)]
    refused = [answer for answer in answers if "error" in answer]
    assert refused[0]["seq"] >= 5
    assert {each["error"]["code"] for each in refused} == {"too_many_requests"}
    assert all(each["error"]["temporary"] for each in refused)
