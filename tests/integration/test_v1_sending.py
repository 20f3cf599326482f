"""What back ends send by ``/api/v1``, on both HTTP servers: push, publish, batches; ids, gzip, rates."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.gateway.http.reply import MAX_BATCH_BYTES
from tests.support import Server, eventually

from .cmd import CmdClient, fresh, logged_in
from .raw import Response, ask, request
from .setting import MULTI, OPEN, Launch
from .v1 import PREFIX, call, good, refused, sessions_of

TIMELESS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
KEYS = [
    {"key": "key-of-101-of-the-tests", "scopes": ["push"], "apps": [101]},
    {"key": "key-of-all-of-the-tests", "scopes": ["push", "read"]},
    {"key": "reading-key-of-the-tests", "scopes": ["read"]},
]


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


def post(server: Server, route: str, body: bytes, *headers: tuple[str, str]) -> Response:
    """POST bytes with headers."""
    return ask(server.http, request(PREFIX + route, method="POST", headers=headers, body=body))


# --- targets and messages -----------------------------------------------------------------------------------


def test_a_push_reaches_targets_of_all_kinds_in_one_request(server: Server) -> None:
    app = MULTI
    with (
        logged_in(server.ws, "ann", app) as ann,
        logged_in(server.ws, "bob", app, device="phone") as phone,
        logged_in(server.ws, "bob", app) as pad,
    ):
        (connection,) = (each["connection"] for each in sessions_of(server.http, app, "ann"))
        good(server.http, "channels/subscribe", {"app": str(app), "channel": "茶", "users": ["ann"]})
        targets = [
            {"user": "bob"},
            {"user": "bob", "device": "phone"},
            {"user": "bob", "device": "fridge"},
            {"user": "nobody"},
            {"connection": connection},
            {"connection": "A" * 38},
            {"channel": "茶"},
            {"channel": "empty"},
            {"all": True},
        ]
        push = {"app": str(app), "targets": targets, "message": {"type": "text", "text": "hi"}, "id": fresh()}
        answer = good(server.http, "push", {**push, "except_users": ["bob"]})
        assert [result["target"] for result in answer["results"]] == targets
        assert outcome(answer) == [
            "sent",
            "sent",
            "absent",
            "absent",
            "sent",
            "absent",
            "sent",
            "absent",
            "sent",
        ]
        wanted = {"seq": push["id"], "target": "", "type": "text", "msg": "hi", "from": ""}
        assert [received(ann) for _ in range(3)] == [wanted] * 3
        assert [received(phone) for _ in range(2)] == [wanted] * 2
        assert received(pad) == wanted
        for one in (ann, phone, pad):
            one.no_push("msg")


@pytest.mark.parametrize(
    ("content", "kind", "shown"),
    [
        ({"text": "hi"}, "text", "hi"),
        ({"message": "你好"}, "text", "你好"),
        ({"message": "x", "type": "image"}, "image", "x"),
        ({"message": {"text": "x", "type": "image"}}, "image", "x"),
        ({"data": {"n": [1, None, "é"]}, "type": "order"}, "order", '{"n":[1,null,"é"]}'),
        ({"message": {"type": "order", "data": [1, 2]}}, "order", "[1,2]"),
        ({"data": "a string"}, "text", "a string"),
        ({"data": None}, "text", "null"),
        ({"data": 123456789012345678901234567890}, "text", "123456789012345678901234567890"),
    ],
)
def test_a_message_is_text_or_any_json(
    server: Server, app: int, ann: CmdClient, content: dict[str, Any], kind: str, shown: str
) -> None:
    answer = good(server.http, "push", {"app": str(app), "user": "ann", "sender": "shop", **content})
    assert answer == {"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]}
    data = received(ann)
    assert (data["type"], data["msg"], data["from"]) == (kind, shown, "shop")
    assert data["seq"] == ""


@pytest.mark.parametrize(
    ("short", "targets"),
    [
        ({"users": ["ann", "x"]}, [{"user": "ann"}, {"user": "x"}]),
        ({"user": "ann", "device": ""}, [{"user": "ann", "device": ""}]),
        ({"all": True}, [{"all": True}]),
        ({"channel": "r"}, [{"channel": "r"}]),
        ({"connection": "c"}, [{"connection": "c"}]),
    ],
)
def test_short_forms_are_answered_like_long_ones(
    server: Server, app: int, ann: CmdClient, short: dict[str, Any], targets: list[dict[str, Any]]
) -> None:
    brief = good(server.http, "push", {"app": str(app), "text": "x", **short})
    full = good(server.http, "push", {"app": str(app), "message": {"text": "x"}, "targets": targets})
    assert brief == full
    assert [result["target"] for result in brief["results"]] == targets


def test_a_channel_is_published_to(server: Server, app: int, ann: CmdClient) -> None:
    with logged_in(server.ws, "bob", app) as bob:
        good(server.http, "channels/subscribe", {"app": str(app), "channel": "r", "users": ["ann", "bob"]})
        publish = {"app": str(app), "channel": "r", "text": "x", "sender": "ann", "except_users": ["ann"]}
        assert good(server.http, "channels/publish", publish) == {"channel": "r", "status": "sent"}
        assert received(bob)["from"] == "ann"
        ann.no_push("msg")


def test_a_large_push_reaches_everybody_in_order(server: Server, app: int, ann: CmdClient) -> None:
    users = [f"absent-{number}" for number in range(4999)]
    answer = good(server.http, "push", {"app": str(app), "users": [*users, "ann"], "text": "first"})
    good(server.http, "push", {"app": str(app), "user": "ann", "text": "second"})
    assert outcome(answer) == ["absent"] * 4999 + ["sent"]
    assert [received(ann)["msg"] for _ in range(2)] == ["first", "second"]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_request", "truncated"),
        (b"[]", "invalid_request", "Expected `object`"),
        (b"\xff", "invalid_request", ""),
        (b"[" * 100_000, "invalid_request", ""),
        ({"user": "ann", "text": "x"}, "invalid_request", "`app`"),
        ({"app": "101", "user": "ann"}, "invalid_request", "Give one of `message`"),
        ({"app": "101", "user": "ann", "text": ""}, "invalid_request", "`$.text`"),
        ({"app": "101", "user": "ann", "message": ""}, "invalid_request", "`$.message`"),
        ({"app": "101", "user": "ann", "data": ""}, "invalid_request", "The message is empty"),
        ({"app": "101", "user": "ann", "message": {}}, "invalid_request", "`text` and `data`"),
        ({"app": "101", "user": "ann", "message": {"text": "x", "data": 1}}, "invalid_request", "one of"),
        ({"app": "101", "user": "ann", "text": "x", "message": "y"}, "invalid_request", "one of"),
        ({"app": "101", "user": "ann", "message": {"text": "x"}, "type": "y"}, "invalid_request", "`type`"),
        ({"app": "101", "text": "x"}, "invalid_request", "Give one of `targets`"),
        (
            {"app": "101", "user": "a", "channel": "r", "text": "x"},
            "invalid_request",
            "Give one of `targets`",
        ),
        ({"app": "101", "channel": "r", "device": "d", "text": "x"}, "invalid_request", "`device`"),
        ({"app": "101", "targets": [], "text": "x"}, "invalid_request", "targets"),
        ({"app": "101", "targets": [{"user": "a"}, {}], "text": "x"}, "invalid_request", "$.targets[1]"),
        ({"app": "101", "user": "a", "text": "x", "tll": 5}, "invalid_request", "unknown field `tll`"),
        ({"app": "101", "user": "a", "text": "x", "ttl_seconds": -1}, "invalid_request", "$.ttl_seconds"),
        ({"app": "101", "user": "a", "text": "x", "ttl_seconds": 90_000}, "invalid_request", "86400"),
        ({"app": "101", "user": "a", "text": "x", "code": 2**31}, "invalid_request", "$.code"),
        ({"app": "101", "user": "a", "text": "x", "id": "i" * 129}, "invalid_request", "$.id"),
        ({"app": "101", "user": "a", "text": "x" * 140_000}, "invalid_request", "too long"),
        (b'{"app":"101","user":"a","data":"\xff"}', "invalid_request", "$.data"),
        (b'{"app":"101","user":"a","data":{"a":"\\ud800"}}', "invalid_request", ""),
        ({"app": "101", "channel": "r", "text": "x", "store": True}, "invalid_request", "users, on all"),
        ({"app": "101", "all": True, "text": "x", "store": True}, "invalid_request", "users, on all"),
        (
            {"app": "101", "user": "a", "device": "", "text": "x", "store": True},
            "invalid_request",
            "users, on all",
        ),
        (
            {"app": "101", "targets": [{"connection": "c"}], "text": "x", "store": True},
            "invalid_request",
            "users, on all",
        ),
        ({"app": "101", "user": "a", "text": "x", "store": True, "ttl_seconds": 1}, "invalid_request", "ttl"),
        (
            {"app": "101", "user": "a", "message": {"text": "x", "code": 1}, "store": True},
            "invalid_request",
            "`code`",
        ),
        (
            {"app": "101", "channel": "group:x", "text": "x", "store": True},
            "invalid_request",
            "users, on all",
        ),
        ({"app": "101", "group": "x", "text": "x", "store": True}, "invalid_request", "$.group"),
        ({"app": "101", "users": ["u"] * 10_001, "text": "x"}, "too_many_targets", "limits.batch_targets"),
        (
            {"app": "101", "all": True, "text": "x", "except_users": ["u"] * 10_001},
            "too_many_targets",
            "limits.batch_targets",
        ),
    ],
)
def test_an_invalid_push_is_refused_with_the_reason(server: Server, body: Any, code: str, words: str) -> None:
    status, error, message = refused(server.http, "push", body)
    assert (status, error) == (400, code)
    assert words in message


def test_an_unknown_app_is_not_found(server: Server) -> None:
    assert refused(server.http, "push", {"app": "nope", "all": True, "text": "x"})[:2] == (404, "unknown_app")


def test_another_method_is_not_allowed(server: Server) -> None:
    answer = call(server.http, "push")
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")


# --- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_header", [False, True])
def test_a_request_that_comes_again_is_answered_as_before_and_sent_once(
    server: Server, app: int, ann: CmdClient, by_header: bool
) -> None:
    name = fresh("request")
    push = {"app": str(app), "users": ["ann", "x"], "text": "once"}
    headers = [("Idempotency-Key", name)] if by_header else []
    body = json.dumps(push if by_header else {**push, "id": name}).encode()
    first, again = post(server, "push", body, *headers), post(server, "push", body, *headers)
    assert first.json == again.json
    assert outcome(first.json) == ["sent", "absent"]
    assert (first.header("Idempotent-Replayed"), again.header("Idempotent-Replayed")) == (None, "true")
    assert received(ann)["msg"] == "once"
    ann.no_push("msg")
    other = json.dumps({**push, "text": "twice"} if by_header else {**push, "id": name, "text": "twice"})
    answer = post(server, "push", other.encode(), *headers)
    assert (answer.status, answer.json["code"]) == (422, "id_reused")


def test_an_id_under_which_nobody_was_reached_may_be_used_again(server: Server, app: int) -> None:
    push = {"app": str(app), "user": "late", "text": "x", "id": fresh("request")}
    assert outcome(good(server.http, "push", push)) == ["absent"]
    with logged_in(server.ws, "late", app) as late:
        assert outcome(good(server.http, "push", push)) == ["sent"]
        assert received(late)["seq"] == push["id"]


def test_a_key_that_is_too_long_is_refused(server: Server) -> None:
    answer = post(server, "push", b'{"app":"101","all":true,"text":"x"}', ("Idempotency-Key", "k" * 129))
    assert answer.status == 400
    assert "Idempotency-Key" in answer.json["message"]


# --- absent users -------------------------------------------------------------------------------------------


def test_a_push_with_a_time_to_live_waits_for_a_login(server: Server, app: int) -> None:
    user = fresh()
    for text in ("one", "two"):
        push = {"app": str(app), "user": user, "text": text, "ttl_seconds": 30}
        assert outcome(good(server.http, "push", push)) == ["held"]
    assert outcome(good(server.http, "push", {"app": str(app), "user": user, "text": "lost"})) == ["absent"]
    with logged_in(server.ws, user, app) as one:
        assert [received(one)["msg"] for _ in range(2)] == ["one", "two"]
        one.no_push("msg")


def test_a_push_is_queued_behind_pending_ones_of_its_user(server: Server, app: int) -> None:
    user = fresh()
    pending = [f"held {number}" for number in range(5)]
    for text in pending:
        good(server.http, "push", {"app": str(app), "users": ["x", user], "text": text, "ttl_seconds": 30})
    with logged_in(server.ws, user, app) as one:
        good(server.http, "push", {"app": str(app), "user": user, "text": "now"})
        assert [received(one)["msg"] for _ in range(6)] == [*pending, "now"]


# --- batches ------------------------------------------------------------------------------------------------


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
    assert [result["status"] for result in results] == [200, 200, 200, 404, 400, 200, 404, 404]
    assert results[2]["body"] == {"channel": "r", "status": "sent"}
    assert results[3]["body"]["code"] == "unknown_app"
    assert results[5]["body"]["users"] == [{"user": "ann", "online": True}]
    assert [received(ann)["msg"] for _ in range(2)] == ["1", "2"]


def test_a_batch_that_comes_again_is_carried_out_once(server: Server, app: int, ann: CmdClient) -> None:
    commands = [{"push": {"app": str(app), "user": "ann", "text": text}} for text in ("1", "2")]
    body = json.dumps({"commands": commands}).encode()
    key = ("Idempotency-Key", fresh("batch"))
    first, again = post(server, "batch", body, key), post(server, "batch", body, key)
    assert first.json == again.json
    assert [received(ann)["msg"] for _ in range(2)] == ["1", "2"]
    ann.no_push("msg")


def test_answers_of_a_batch_that_do_not_fit_are_problems(server: Server, app: int) -> None:
    many = {"presence": {"app": str(app), "users": [f"nobody-{number:05}" for number in range(10_000)]}}
    commands = [*([many] * 20), {"presence": {"app": str(app), "users": ["nobody"]}}]
    results = good(server.http, "batch", {"commands": commands})["results"]
    fitting = [result["status"] for result in results].index(413)
    assert [result["status"] for result in results] == [200] * fitting + [413] * (20 - fitting) + [200]
    assert results[fitting]["body"]["code"] == "answer_too_large"
    assert sum(len(json.dumps(result)) for result in results) <= 2 * MAX_BATCH_BYTES


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        ([], "invalid_request"),
        ([{}], "invalid_request"),
        ([{"push": {}, "presence": {}}], "invalid_request"),
        ([{"push": {}}] * 10_001, "too_many_targets"),
    ],
)
def test_an_invalid_batch_is_refused(server: Server, commands: list[Any], code: str) -> None:
    assert refused(server.http, "batch", {"commands": commands})[:2] == (400, code)


# --- compression --------------------------------------------------------------------------------------------


def test_bodies_may_come_compressed_and_long_answers_leave_so(server: Server, app: int) -> None:
    push = {"app": str(app), "users": [f"user-{number}" for number in range(500)], "text": "x" * 5000}
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
        assert len(answer.json["results"]) == 500


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"no gzip", 400, "invalid_request"),
        (gzip.compress(b'{"app":"101","all":true,"text":"x"}')[:-9], 400, "invalid_request"),
        (gzip.compress(b'{"app":"101","all":true,"text":"x"}') + b"more", 400, "invalid_request"),
        (zlib.compress(b"{}"), 400, "invalid_request"),
        (gzip.compress(b" " * 5_000_000), 413, "body_too_large"),
        (gzip.compress(b"{"), 400, "invalid_request"),
    ],
    ids=["no gzip", "cut off", "with more behind", "another format", "a bomb", "no JSON"],
)
def test_a_body_that_is_not_what_it_says_is_refused(
    server: Server, body: bytes, status: int, code: str
) -> None:
    answer = post(server, "push", body, ("Content-Encoding", "gzip"))
    assert (answer.status, answer.json["code"]) == (status, code)


def test_an_unknown_encoding_is_refused(server: Server) -> None:
    answer = post(server, "push", b"{}", ("Content-Encoding", "br"))
    assert (answer.status, answer.json["code"]) == (415, "unknown_encoding")


# --- keys and rates -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(http_server: str, launch: Launch) -> Server:
    """A server with keys."""
    return launch(http_server, apps=OPEN, api={"keys": KEYS})


@pytest.mark.parametrize(
    ("key", "app", "status", "code"),
    [
        ("key-of-101-of-the-tests", "101", 200, ""),
        ("key-of-101-of-the-tests", "102", 403, "forbidden"),
        ("key-of-101-of-the-tests", "nope", 403, "forbidden"),
        ("key-of-all-of-the-tests", "102", 200, ""),
        ("key-of-all-of-the-tests", "nope", 404, "unknown_app"),
        ("reading-key-of-the-tests", "101", 403, "forbidden"),
        ("wrong", "101", 401, "unauthorized"),
        ("", "101", 401, "unauthorized"),
    ],
)
def test_a_push_needs_a_key_of_its_app(keyed: Server, key: str, app: str, status: int, code: str) -> None:
    answer = call(keyed.http, "push", {"app": app, "user": "x", "text": "x"}, key=key)
    assert (answer.status, answer.json.get("code", "")) == (status, code)


def test_commands_of_a_batch_need_the_scope_of_their_routes(keyed: Server) -> None:
    commands = [{"push": {"app": "101", "user": "x", "text": "x"}}, {"presence": {"app": "101", "users": []}}]
    seen = {
        key: [
            result["status"]
            for result in good(keyed.http, "batch", {"commands": commands}, key=key)["results"]
        ]
        for key in ("key-of-101-of-the-tests", "key-of-all-of-the-tests", "reading-key-of-the-tests")
    }
    assert seen == {
        "key-of-101-of-the-tests": [200, 403],
        "key-of-all-of-the-tests": [200, 200],
        "reading-key-of-the-tests": [403, 200],
    }
    assert refused(keyed.http, "batch", {"commands": commands}, key="wrong")[:2] == (401, "unauthorized")
    assert refused(keyed.http, "batch", {"commands": commands})[:2] == (401, "unauthorized")


@pytest.mark.full
def test_a_key_has_a_rate_and_learns_how_much_of_it_is_left(http_server: str, launch: Launch) -> None:
    server = launch(http_server, apps=OPEN, api={"keys": KEYS, "requests_per_second": 0.1})
    push = {"app": "101", "user": "x", "text": "x"}
    answers = [call(server.http, "push", push, key="key-of-all-of-the-tests") for _ in range(2)]
    statuses = [answer.status for answer in answers]
    assert statuses == [200, 429]
    assert [answer.header("RateLimit-Limit") for answer in answers] == ["1"] * 2
    assert answers[0].header("RateLimit-Remaining") == "0"
    assert 0 < int(answers[1].header("Retry-After") or 0) <= 10
    assert answers[1].json["temporary"]
    assert call(server.http, "push", push, key="key-of-101-of-the-tests").status == 200
    eventually(
        lambda: call(server.http, "push", push, key="key-of-all-of-the-tests").status == 200,
        what="the bucket fills up",
    )
    batch = {"commands": [{"push": push}] * 10}
    eventually(
        lambda: call(server.http, "batch", batch, key="key-of-all-of-the-tests").status == 200,
        what="the bucket fills up",
    )
    charged = call(server.http, "push", push, key="key-of-all-of-the-tests")
    assert charged.status == 429
    assert int(charged.header("Retry-After") or 0) > 10
    assert call(server.http, "push", push).header("RateLimit-Limit") is None, "who has no key is told nothing"
    server.configure({"api": {"keys": KEYS}})


def test_without_a_rate_nothing_is_reported_of_it(keyed: Server) -> None:
    answer = call(keyed.http, "push", {"app": "101", "user": "x", "text": "x"}, key="key-of-all-of-the-tests")
    assert [answer.header(name) for name in TIMELESS] == [None] * 3
