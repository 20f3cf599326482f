"""U+0000 in a text is refused before it reaches a database, which may not be
able to store it."""

from collections.abc import Iterator
from typing import Any

import pytest

from imserver.dialects.action.wire import ActionDialect
from imserver.gateway import errors
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.http.form import cursor_of
from imserver.gateway.protocol.forgiving import has_nul
from tests.gateway.storage.servers import KINDS
from tests.rows import OPERATIONS, ROUTES, sections
from tests.users import User

from .node_harness import ADMIN, Harness, config

NUL = "a\0b"
READERS = [
    row.path.removeprefix("/api/v1/")
    for row in OPERATIONS
    if row.method == "GET"
    and row.query is not None
    and "user" in row.query.__struct_fields__
]
"""All routes of ``/api/v1`` that are asked about a user."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    database = None if request.param == "sqlite" else KINDS[request.param]()
    storage = StorageSettings(url="" if database is None else database.new_url())
    of_features = sections(accounts={"registration": True})
    one = Harness(
        config(tmp_path_factory.mktemp("nul"), storage=storage, of_features=of_features)
    )
    yield one
    one.close()
    if database is not None:
        database.remove()


@pytest.fixture
def back_end(node: Harness) -> User:
    return User(node, ADMIN.key, app="201")


def test_a_query_with_nul_is_refused_and_a_cursor_that_hides_it_does_no_harm(
    back_end: User,
) -> None:
    for route in READERS:
        assert back_end.refused_get(route, user=NUL) == (400, "invalid_request"), route
    ann = User.register(back_end.server, "201")
    group = int(ann.group())
    ann.post("messages/send", conversation=group, text="hi")
    for hidden in (cursor_of(NUL), cursor_of("\0")):
        for route, about in (
            ("groups/members", "group"),
            ("messages/receipts", "conversation"),
        ):
            fields = {about: str(group), "cursor": hidden}
            assert ann.ask("GET", route, fields)[0] != 500, route


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("groups/create", {"user": NUL, "name": "tea"}),
        ("groups/create", {"user": "ann", "name": "tea", "members": [NUL]}),
        ("groups/invite", {"user": "ann", "group": "1", "members": [NUL]}),
        ("messages/send", {"user": "ann", "to": NUL, "text": "hi"}),
        (
            "messages/send",
            {"user": "ann", "to": "bob", "text": "hi", "client_msg_id": NUL},
        ),
        ("push", {"user": NUL, "text": "hi", "store": True}),
        ("accounts/register", {"phone": "1", "password": "12345678", "device": NUL}),
        ("accounts/login", {"phone": NUL, "password": "12345678"}),
        ("friends/request", {"user": "1", "friend": NUL}),
    ],
)
def test_a_body_with_nul_is_a_bad_request(
    back_end: User, route: str, body: dict[str, Any]
) -> None:
    assert back_end.refused(route, **body) == (400, "invalid_request")


def test_forms_refuse_nul_in_the_words_of_their_dialect(node: Harness) -> None:
    for path, fields, words in (
        ("/login", {"phone_number": NUL, "password": "12345678"}, "参数不正确"),
        (
            "/user/sendMessage",
            {"appID": "201", "userID": NUL, "message": "hi"},
            "参数不合法",
        ),
    ):
        route = next(row for row in ROUTES if row.path == path)
        headers = {"authorization": f"Bearer {ADMIN.key}"}
        assert words in node.ask(route, headers, body=fields).body.decode()


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


def test_a_frame_with_nul_is_a_bad_parameter_but_content_may_be_anything(
    node: Harness,
) -> None:
    cmd = node.node.core.codec(CmdDialect())
    for dialect, frame in (
        (cmd, rb'{"seq":"1","cmd":"login","data":{"userID":"a\u0000","appID":101}}'),
        (
            cmd,
            rb'{"seq":"1","cmd":"login","data":{"userID":"ann","device":"a\u0000","appID":101}}',
        ),
        (cmd, rb'{"seq":"1","cmd":"receipts","data":{"id":1,"after":"a\u0000"}}'),
        (cmd, rb'{"seq":"1","cmd":"send","data":{"to":"a\u0000","text":"hi"}}'),
        (
            cmd,
            rb'{"seq":"1","cmd":"send","data":{"to":"bob","type":"a\u0000","text":"hi"}}',
        ),
        (ActionDialect(), rb'{"seq":"1","action":"login","data":{"userId":"a\u0000"}}'),
        (
            ActionDialect(),
            rb'{"seq":"1","action":"sendmsg","data":{"msgType":"a\u0000"}}',
        ),
    ):
        request = dialect.decode(frame)
        assert (request.command, request.code) == (
            None,
            errors.ReplyCode.BAD_PARAMETER,
        ), frame
    assert cmd.decode(
        rb'{"seq":"1","cmd":"send","data":{"to":"bob","text":"a\u0000"}}'
    ).command
