"""The publisher connection, on both HTTP servers: commands and answers in order, keys, bounds."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, fresh, logged_in
from .raw import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Raw,
    Response,
    ask,
    bearer,
    frame,
    handshake,
    open_socket,
    request,
    text,
)
from .setting import OPEN, Launch
from .v1 import call, good, refused

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


@pytest.fixture
def ann(server: Server, app: int) -> Iterator[CmdClient]:
    """A session of `ann`."""
    with logged_in(server.ws, "ann", app) as one:
        yield one


def texts(one: CmdClient, count: int) -> list[str]:
    """The words of the next messages that a client was pushed."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


@pytest.mark.full
def test_publishes_are_acknowledged_in_order_with_what_was_not_sent(
    server: Server, app: int, ann: CmdClient
) -> None:
    name = str(app)
    with publisher(server) as one:
        one.send(
            command(1, app=name, user="ann", text="1"),
            command("two", app=name, user="x", text="-"),
            command(3, app=name, users=["ann", "x"], text="3"),
            command(
                4,
                app=name,
                targets=[{"all": True}, {"channel": "r"}],
                message={"type": "o", "data": {"n": 4}},
            ),
            text('{"seq":5,"ping":{}}'),
            command(6, app="nope", user="ann", text="-"),
            command(7, app=name, user="ann", text="7", nick="-"),
            text('{"seq":8}'),
            text('{"seq":9,"ping":{},"publish":{"app":"1","user":"a","text":"-"}}'),
            text('{"seq":[10],"ping":{}}'),
            text("{"),
            frame(BINARY, b'{"seq":11,"ping":{}}'),
            command(12, app=name, user="ann", text="12", store=True),
            command(13, app=name, user="ann", text="13"),
        )
        answers = [one.message().json for _ in range(14)]
    assert answers[:5] == [
        {"seq": 1, "sent": 1},
        {"seq": "two", "sent": 0, "results": [{"target": {"user": "x"}, "status": "absent"}]},
        {"seq": 3, "sent": 1, "results": [{"target": {"user": "x"}, "status": "absent"}]},
        {"seq": 4, "sent": 1, "results": [{"target": {"channel": "r"}, "status": "absent"}]},
        {"seq": 5, "pong": {}},
    ]
    codes = [(answer["seq"], answer["error"]["code"]) for answer in answers[5:11]]
    assert codes == [
        (6, "unknown_app"),
        (7, "invalid_request"),
        (8, "invalid_request"),
        (9, "invalid_request"),
        (None, "invalid_request"),
        (None, "invalid_request"),
    ]
    assert answers[5]["error"] == {
        "code": "unknown_app",
        "message": "There is no app `nope`",
        "temporary": False,
    }
    assert answers[11] == {"seq": 11, "pong": {}}
    (result,) = answers[12].pop("results")
    assert answers[12] == {"seq": 12, "sent": 1}
    assert (result["status"], sorted(result["stored"])) == ("stored", ["conversation", "id", "seq"])
    assert answers[13] == {"seq": 13, "sent": 1}
    assert texts(ann, 4) == ["1", "3", '{"n":4}', "13"]


def test_what_is_stored_among_others_keeps_its_order_and_is_stored_once(server: Server, app: int) -> None:
    def one_of(number: int) -> bytes:
        stored = number % 10 != 9
        return command(
            number, app=str(app), user="ann", text=str(number), store=stored, id=f"n-{number % 40}"
        )

    with publisher(server) as one:
        one.send(*map(one_of, range(60)))
        answers = [one.message().json for _ in range(60)]
    assert [answer["seq"] for answer in answers] == list(range(60))
    ids = [answer["results"][0]["stored"]["id"] for answer in answers[:40] if answer["sent"]]
    assert ids == list(range(1, 37))
    assert [answer["error"]["code"] for answer in answers[40:] if "error" in answer] == ["id_reused"] * 18
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        assert [ann.push("message").json["response"]["data"]["id"] for _ in range(36)] == ids
        ann.no_push("message")


def test_thousands_under_way_arrive_once_and_in_order(server: Server, app: int, ann: CmdClient) -> None:
    count = 5000
    frames = b"".join(
        command(number, app=str(app), user="ann", text=f"{number:05d}", id=f"{app}-{number}")
        for number in range(count)
    )
    with publisher(server) as one:
        one.send(frames)
        assert [one.message().json for _ in range(count)] == [{"seq": n, "sent": 1} for n in range(count)]
    assert texts(ann, count) == [f"{number:05d}" for number in range(count)]


def test_frames_may_arrive_in_any_pieces(server: Server, app: int, ann: CmdClient) -> None:
    with publisher(server) as one:
        one.dribble(b"".join(command(n, app=str(app), user="ann", text=str(n)) for n in range(20)), 7)
        assert [one.message().json for _ in range(20)] == [{"seq": n, "sent": 1} for n in range(20)]
        one.dribble(command(20, app=str(app), user="ann", text="x" * 10_000), 1000)
        assert one.message().json == {"seq": 20, "sent": 1}
    assert texts(ann, 21) == [*map(str, range(20)), "x" * 10_000]


def test_an_id_is_carried_out_once_whichever_way_it_comes(server: Server, app: int, ann: CmdClient) -> None:
    push = {"app": str(app), "user": "ann", "text": "once", "id": fresh("request")}
    with publisher(server) as one:
        one.send(*(command(number, **push) for number in range(3)), command(3, **{**push, "text": "-"}))
        assert [one.message().json for _ in range(3)] == [{"seq": n, "sent": 1} for n in range(3)]
        assert one.message().json["error"]["code"] == "id_reused"
    again = call(server.http, "push", push)
    assert again.json == {"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]}
    assert again.header("Idempotent-Replayed") == "true"
    assert texts(ann, 1) == ["once"]
    ann.no_push("msg")


def test_pushes_that_are_pending_are_reported_as_such(server: Server, app: int) -> None:
    user = fresh()
    with publisher(server) as one:
        one.send(command(1, app=str(app), user=user, text="later", ttl_seconds=60))
        assert one.message().json == {
            "seq": 1,
            "sent": 0,
            "results": [{"target": {"user": user}, "status": "held"}],
        }
    with logged_in(server.ws, user, app) as late:
        assert texts(late, 1) == ["later"]


def test_it_is_a_websocket_like_any_other(server: Server) -> None:
    with publisher(server) as one:
        one.send(frame(PING, b"there?"))
        found = one.frame()
        assert (found.opcode, found.payload) == (PONG, b"there?")
        one.send(frame(CLOSE))
        assert one.frame().opcode == CLOSE
    with publisher(server) as one:
        one.send(frame(TEXT, b"\xff"))
        one.closed(1007)


def test_a_refusal_to_store_in_a_channel_names_the_setting_that_stores(server: Server, app: int) -> None:
    for targets in ({"channel": "orders:17"}, {"targets": [{"user": "ann"}, {"channel": "orders:17"}]}):
        body = {"app": str(app), "text": "packed", "store": True, **targets}
        status, code, message = refused(server.http, "push", body)
        assert (status, code) == (400, "invalid_request")
        assert (
            "Pushes to `orders:17` are stored, without `store`, if its namespace has `history: log`"
            in message
        )
        with publisher(server) as one:
            one.send(command(1, **body))
            assert one.message().json["error"] == {"code": code, "message": message, "temporary": False}


def test_streamed_messages_and_pushes_keep_their_order(server: Server, app: int, ann: CmdClient) -> None:
    name = str(app)
    assert ann.ask_cmd("subscribe", {"channel": "answers"})[0] == 200

    def stream_command(seq: int, action: str, **fields: Any) -> bytes:
        return text(json.dumps({"seq": seq, f"channels/stream/{action}": {"app": name, **fields}}))

    with publisher(server) as one:
        one.send(stream_command(1, "open", channel="answers", sender="bot"))
        opened = one.message().json
        stream = opened["stream"]
        assert opened == {"seq": 1, "stream": stream, "channel": "answers"}
        one.send(
            stream_command(2, "append", pieces=[{"stream": stream, "piece": 1, "text": "The "}]),
            command(3, app=name, user="ann", text="between"),
            stream_command(4, "append", pieces=[{"stream": stream, "piece": 2, "text": "answer"}]),
            stream_command(5, "append", pieces=[{"stream": stream, "piece": 2, "text": "answer"}]),
            stream_command(6, "append", pieces=[]),
            stream_command(7, "open", channel="answers", app="nowhere"),
            text(json.dumps({"seq": 8, "ping": {}, "channels/stream/close": {}})),
            stream_command(9, "close", stream=stream),
            stream_command(10, "close", stream=stream),
            command(11, app=name, user="ann", text="after"),
        )
        answers = [one.message().json for _ in range(10)]
    appended = {"stream": stream, "piece": 1, "status": "appended"}
    assert answers[0] == {"seq": 2, "results": [appended]}
    assert answers[1] == {"seq": 3, "sent": 1}
    assert answers[2] == {"seq": 4, "results": [{**appended, "piece": 2}]}
    assert answers[3] == {"seq": 5, "results": [{**appended, "piece": 2, "status": "repeated"}]}
    codes = [(answer["seq"], sorted(answer["error"]), answer["error"]["code"]) for answer in answers[4:7]]
    fields = ["code", "message", "temporary"]
    assert codes == [
        (6, fields, "invalid_request"),
        (7, fields, "unknown_app"),
        (8, fields, "invalid_request"),
    ]
    assert answers[7] == {"seq": 9, "stream": stream, "status": "closed", "channel": "answers"}
    assert answers[8] == {"seq": 10, "stream": stream, "status": "repeated", "channel": "answers"}
    assert answers[9] == {"seq": 11, "sent": 1}
    received = [ann.push().json for _ in range(6)]
    assert [each["cmd"] for each in received] == ["stream", "stream", "msg", "stream", "publication", "msg"]
    found = [each["response"]["data"] for each in received]
    assert [each.get("text", each.get("msg")) for each in found] == [
        "",
        "The ",
        "between",
        "answer",
        "The answer",
        "after",
    ]


@pytest.mark.full
def test_what_is_too_big_ends_the_connection(http_server: str, launch: Launch) -> None:
    small = launch(http_server, limits={"body_bytes": 1000})
    with publisher(small) as one:
        one.send(text(b"x" * 1001))
        one.closed(1009)


def test_without_an_upgrade_there_is_nothing(server: Server) -> None:
    answer = ask(server.http, request(PATH))
    assert (answer.status, answer.json["code"]) == (400, "not_an_upgrade")


# --- keys ---------------------------------------------------------------------------------------------------

KEYS = [
    {"key": "pushing-key-of-the-tests", "scopes": ["push"], "apps": [101]},
    {"key": "reading-key-of-the-tests", "scopes": ["read"]},
]


@pytest.fixture(scope="module")
def keyed(http_server: str, launch: Launch) -> Server:
    """A server with keys."""
    return launch(http_server, apps=OPEN, api={"keys": KEYS})


def knock(server: Server, key: str) -> Response:
    """The answer to a handshake."""
    return ask(server.http, bearer(handshake(PATH), key))


def test_the_handshake_needs_a_key_that_may_push(keyed: Server) -> None:
    assert [
        knock(keyed, key).status
        for key in ("", "wrong", "reading-key-of-the-tests", "pushing-key-of-the-tests")
    ] == [401, 401, 403, 101]
    assert knock(keyed, "").json["code"] == "unauthorized"
    assert knock(keyed, "").header("WWW-Authenticate") == "Bearer"
    refused = knock(keyed, "reading-key-of-the-tests").json
    assert (refused["code"], refused["message"]) == ("forbidden", "The key lacks the scope `push`")


def test_a_key_publishes_in_its_own_apps_only(keyed: Server) -> None:
    with publisher(keyed, "pushing-key-of-the-tests") as one:
        opening = {"app": "102", "channel": "x"}
        one.send(
            command(1, app="102", user="x", text="-"),
            text(json.dumps({"seq": 2, "channels/stream/open": opening})),
            command(3, app="101", all=True, text="-"),
        )
        assert [one.message().json["error"]["code"] for _ in range(2)] == ["forbidden"] * 2
        assert one.message().json["seq"] == 3


@pytest.mark.full
def test_a_key_that_is_taken_away_ends_the_connection_at_its_next_command(
    http_server: str, launch: Launch
) -> None:
    server = launch(http_server, apps=OPEN, api={"keys": KEYS})
    with publisher(server, "pushing-key-of-the-tests") as one:
        one.send(command(1, app="101", user="x", text="-"))
        assert one.message().json["seq"] == 1
        server.configure({"api": {"keys": KEYS[1:]}})
        server.process.send_signal(1)
        eventually(lambda: knock(server, "pushing-key-of-the-tests").status == 401, what="the key is gone")
        one.send(command(2, app="101", user="x", text="-"))
        one.closed(4504)


def test_commands_count_against_the_rate_of_their_key(http_server: str, launch: Launch) -> None:
    server = launch(http_server, api={"keys": KEYS, "requests_per_second": 5})
    with publisher(server, "pushing-key-of-the-tests") as one:
        one.send(*(command(number, app="101", user="x", text="-") for number in range(100)))
        answers = [one.message().json for _ in range(100)]
    refused = [answer for answer in answers if "error" in answer]
    assert refused[0]["seq"] >= 5
    assert {each["error"]["code"] for each in refused} == {"too_many_requests"}
    assert all(each["error"]["temporary"] for each in refused)


def test_publishers_are_no_users(server: Server, app: int) -> None:
    with publisher(server) as one:
        one.send(command(1, app=str(app), all=True, text="-"))
        assert one.message().json["sent"] == 0
        assert good(server.http, "counts", app=app)["apps"][0]["sessions"] == 0
        one.quiet()
