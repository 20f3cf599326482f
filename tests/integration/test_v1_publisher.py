"""The publisher connection, on both HTTP servers: commands and answers in order, keys, bounds."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, fresh, logged_in
from .raw import BINARY, Raw, Response, ask, bearer, frame, handshake, open_socket, text
from .setting import OPEN, Launch
from .v1 import call

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
    absent = [{"target": {"user": "x"}, "status": "absent"}]
    assert answers[:5] == [
        {"seq": 1, "sent": 1},
        {"seq": "two", "sent": 0, "results": absent},
        {"seq": 3, "sent": 1, "results": absent},
        {"seq": 4, "sent": 1, "results": [{"target": {"channel": "r"}, "status": "absent"}]},
        {"seq": 5, "pong": {}},
    ]
    assert [(answer["seq"], answer["error"]["code"]) for answer in answers[5:11]] == [
        (6, "unknown_app"),
        *((number, "invalid_request") for number in (7, 8, 9, None, None)),
    ]
    assert sorted(answers[5]["error"]) == ["code", "message", "temporary"]
    assert answers[11] == {"seq": 11, "pong": {}}
    (result,) = answers[12].pop("results")
    assert (result["status"], sorted(result["stored"])) == ("stored", ["conversation", "id", "seq"])
    assert answers[12:] == [{"seq": 12, "sent": 1}, {"seq": 13, "sent": 1}]
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


@pytest.mark.full
def test_what_is_too_big_ends_the_connection(http_server: str, launch: Launch) -> None:
    small = launch(http_server, limits={"body_bytes": 1000})
    with publisher(small) as one:
        one.send(text(b"x" * 1001))
        one.closed(1009)


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
