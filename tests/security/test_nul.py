"""U+0000 in a text is refused before it reaches a database, which may not be able to store it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.dialects.action.wire import ActionDialect
from imserver.gateway import errors
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.http.form import cursor_of
from imserver.gateway.protocol.forgiving import has_nul
from tests.gateway.storage.servers import KINDS, DatabaseServer
from tests.integration.cmd import cmd_client
from tests.integration.gochat import code_and_message, form
from tests.integration.v1 import PREFIX, call, good
from tests.rows import OPERATIONS
from tests.support import Server

NUL = "a\0b"
READERS = [
    row.path.removeprefix(PREFIX)
    for row in OPERATIONS
    if row.method == "GET" and row.query is not None and "user" in row.query.__struct_fields__
]
"""All routes of ``/api/v1`` that are asked about a user."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that stores messages, once on each engine."""
    database: DatabaseServer | None = None
    storage: dict[str, Any] = {}
    if request.param == "postgresql":
        database = KINDS["postgresql"]()
        storage = {"storage": {"url": database.new_url()}}
    folder: Path = tmp_path_factory.mktemp("nul")
    one = Server(folder, config=storage)
    try:
        group = good(one.http, "groups/create", {"app": "101", "user": "ann", "name": "tea"})["group"]
        good(
            one.http, "messages/send", {"app": "101", "user": "ann", "conversation": int(group), "text": "hi"}
        )
        yield one
    finally:
        one.stop()
        if database is not None:
            database.remove()
    one.check()


def test_a_query_with_nul_is_refused(server: Server) -> None:
    for route in READERS:
        refused = call(server.http, route, app="101", user=NUL)
        assert (refused.status, refused.json["code"]) == (400, "invalid_request"), (route, refused)
    assert "SELECT" not in server.log_text


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("groups/create", {"user": NUL, "name": "tea"}),
        ("groups/create", {"user": "ann", "name": "tea", "members": [NUL]}),
        ("groups/invite", {"user": "ann", "group": "1", "members": [NUL]}),
        ("messages/send", {"user": "ann", "to": NUL, "text": "hi"}),
        ("messages/send", {"user": "ann", "to": "bob", "text": "hi", "client_msg_id": NUL}),
        ("push", {"user": NUL, "text": "hi", "store": True}),
        ("accounts/register", {"phone": "1", "password": "12345678", "device": NUL}),
        ("accounts/login", {"phone": NUL, "password": "12345678"}),
        ("friends/request", {"user": "1", "friend": NUL}),
    ],
)
def test_a_body_with_nul_is_a_bad_request(server: Server, route: str, body: dict[str, str]) -> None:
    refused = call(server.http, route, {"app": "101", **body})
    assert (refused.status, refused.json["code"]) == (400, "invalid_request"), refused


def test_a_cursor_that_hides_nul_does_no_harm(server: Server) -> None:
    for hidden in (cursor_of(NUL), cursor_of("\0")):
        for route, more in (("groups/members", {"group": "1"}), ("messages/receipts", {"conversation": "1"})):
            answer = call(server.http, route, app="101", user="ann", cursor=hidden, **more)
            assert answer.status != 500, answer
    assert "SELECT" not in server.log_text


def test_forms_refuse_nul_in_the_words_of_their_dialect(server: Server) -> None:
    assert code_and_message(form(server.http, "/login", {"phone_number": NUL, "password": "12345678"})) == (
        -1,
        "参数不正确",
    )
    answer = form(server.http, "/user/sendMessage", {"appID": 101, "userID": NUL, "message": "hi"})
    assert answer.json["code"] == errors.ReplyCode.BAD_PARAMETER


def test_commands_refuse_nul_and_the_connection_goes_on(server: Server) -> None:
    with cmd_client(server.ws) as one:
        login = {"appID": 101, "userID": NUL, "cursor": 0}
        assert one.ask_cmd("login", login)[0] == errors.ReplyCode.BAD_PARAMETER
        login = {"appID": 101, "userID": "ann", "device": NUL, "cursor": 0}
        assert one.ask_cmd("login", login)[0] == errors.ReplyCode.BAD_PARAMETER
        one.login("ann", 101, cursor=0)
        assert one.ask_cmd("receipts", {"id": 1, "after": NUL})[0] == errors.ReplyCode.BAD_PARAMETER
        assert one.ask_cmd("send", {"to": NUL, "text": "hi"})[0] == errors.ReplyCode.BAD_PARAMETER
        assert (
            one.ask_cmd("send", {"to": "bob", "type": NUL, "text": "hi"})[0] == errors.ReplyCode.BAD_PARAMETER
        )
        assert one.ask_cmd("send", {"to": "bob", "text": NUL})[0] == 200, "content may be anything"


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (rb'{"user":"a\u0000"}', True),
        (rb'{"a\u0000":1}', True),
        (rb'{"rows":[{"user":"a\\\u0000"}]}', True),
        (rb'{"user":"a\\u0000"}', False),
        (rb'{"text":"a\u0000"}', False),
        (rb'{"Text":"a\u0000","user":"ann"}', False),
        (rb'{"data":{"x":"a\u0000"}}', False),
        (b'{"user":"\\u0000","x":' + b"[" * 100_000, True),
        (b'{"user":"ann"}', False),
    ],
)
def test_nul_is_found_where_it_is_one(document: bytes, found: bool) -> None:
    assert has_nul(document) is found


@pytest.mark.parametrize(
    ("decode", "frame", "code"),
    [
        (CmdDialect().decode, rb'{"seq":"1","cmd":"login","data":{"userID":"a\u0000","appID":101}}', 1001),
        (ActionDialect().decode, rb'{"seq":"1","action":"login","data":{"userId":"a\u0000"}}', 1001),
        (ActionDialect().decode, rb'{"seq":"1","action":"sendmsg","data":{"msgType":"a\u0000"}}', 1001),
    ],
)
def test_a_frame_with_nul_is_a_bad_parameter(decode: Callable[[bytes], Any], frame: bytes, code: int) -> None:
    request = decode(frame)
    assert (request.command, request.code) == (None, code)
