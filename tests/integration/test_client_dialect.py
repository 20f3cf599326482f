"""The client dialect over two nodes, one per HTTP server: its routes, groups,
and systems apart."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import time
from typing import Any

import jwt
import pytest

from imserver.dialects.client.api import ROUTES
from tests.samples import samples_of
from tests.support import Server, eventually

from .client import (
    NO_SYSTEM,
    OFFLINE,
    ONLINE,
    UNKNOWN_SYSTEM,
    Listener,
    api,
    api_request,
    bind,
    done,
    listening,
    new_system,
    online_list,
    refused,
    send_to_client,
)
from .clusters import Nodes
from .cmd import fresh
from .raw import TEXT, ask, open_socket, request, text
from .setting import Launch
from .v1 import good

PATHS = sorted({row.path.removeprefix("/api/") for row in ROUTES})
DRIVEN = [path for path in PATHS if path != "register"]
WHOLE: dict[str, Any] = {"clientId": "x", "clientIds": ["x"], "groupName": "g"}
"""A body that every route but register takes: unknown keys are ignored."""
BAD_BODIES = (
    b"",
    b"no JSON",
    b"[]",
    b"7",
    b"null",
    b'"x"',
    b"{",
    b'{"a":1}{}',
    b"\xff{}",
)
SECRET = "a secret of forty characters for this test"
PUSH, ADMIN = (f"a-{name}-key-of-this-test" for name in ("push", "admin"))


@pytest.fixture
def system(nodes: Nodes) -> str:
    """A system of this test alone, registered at the first node."""
    return new_system(nodes.http[0])


@contextmanager
def clients(
    nodes: Nodes, system: str, *nodes_of_clients: int
) -> Iterator[list[Listener]]:
    """Clients of a system, one at each of these nodes."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(listening(nodes.ws[node], system))
            for node in nodes_of_clients
        ]


# --- routes -------------------------------------------------------------------


def test_every_route_has_samples() -> None:
    posted = {
        row["post"].removeprefix("/api/")
        for row in samples_of("client")["samples"]
        if "post" in row
    }
    assert posted == {*PATHS}


@pytest.mark.parametrize("path", DRIVEN)
def test_the_method_is_checked_first_then_the_system_then_the_body(
    nodes: Nodes, system: str, path: str
) -> None:
    http = nodes.http[0]
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        answer = ask(http, api_request(path, b"", None, method=method))
        assert (answer.status, answer.body) == (405, b"")
    for body in (*BAD_BODIES, {}, {"clientId": 7}):
        for unnamed in (None, ""):
            assert api(http, path, body, unnamed).body.decode() == NO_SYSTEM
        assert api(http, path, body, fresh("nobody")).body.decode() == UNKNOWN_SYSTEM
    for body in BAD_BODIES:
        answer = api(http, path, body, system)
        assert (answer.status, answer.body) == (400, b""), body
    odd = {
        "clientIds": ["x", None, "", "1" * 9999],
        "clientId": "../系统\x00",
        "groupName": "组" * 100,
    }
    assert api(http, path, odd, system).status == 200


def test_a_push_arrives_as_it_was_given_whatever_the_header_and_the_content_type(
    nodes: Nodes, system: str
) -> None:
    with listening(nodes.ws[1], system) as one:
        message_id = send_to_client(
            nodes.http[0], system, one.id, sendUserId="7", code=200, msg="m"
        )
        expected = f'{{"messageId":"{message_id}","sendUserId":"7","code":200,"msg":"m","data":"hello"}}'
        found = one.message()
        assert (found.opcode, found.text) == (TEXT, expected)
        for header, kind in (("systemid", "text/plain"), ("SYSTEMID", "multipart/x")):
            body = json.dumps(
                {"CLIENTID": one.id, "Data": kind, "SENDuserid": "7", "other": [None]}
            ).encode()
            headers = [(header, system), ("Content-Type", kind)]
            sent = request(
                "/api/send_to_client", method="POST", headers=headers, body=body
            )
            assert ask(nodes.http[1], sent).json["code"] == 0
            pushed = one.received()
            assert (pushed["data"], pushed["sendUserId"]) == (kind, "7")
        one.send(text("x" * 8192))
        one.quiet()
        one.send(text("x" * 8193))
        one.closed(1009)


@pytest.mark.full("waits")
def test_limits(launch: Launch) -> None:
    server = launch(
        "front", limits={"body_bytes": 2000, "batch_targets": 3, "registered_apps": 2}
    )
    system = new_system(server.http)
    _ = new_system(server.http)
    assert (
        refused(api(server.http, "register", {"systemId": fresh()}))
        == "系统数量已达上限"
    )
    for path in PATHS:
        answer = api(
            server.http, path, {**WHOLE, "systemId": "s", "data": "x" * 2000}, system
        )
        assert (answer.status, answer.body) == (400, b""), path
    assert (
        api(server.http, "send_to_clients", {"clientIds": ["x"] * 3}, system).json[
            "code"
        ]
        == 0
    )
    many = api(server.http, "send_to_clients", {"clientIds": ["x"] * 4}, system)
    assert refused(many) == "ClientIds数量超过上限"


def test_register_takes_any_method_and_names_that_a_system_can_have(
    nodes: Nodes,
) -> None:
    http = nodes.http[0]
    for method in ("POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        empty = ask(http, api_request("register", b"", None, method=method))
        assert (empty.status, empty.body) == (400, b"")
        system = {"systemId": fresh("shop")}
        answer = ask(http, api_request("register", system, None, method=method))
        assert answer.json == {"code": 0, "msg": "success", "data": []}
        again = ask(nodes.http[1], api_request("register", system, None, method=method))
        assert refused(again) == "该系统ID已被注册"
    for name in (" ", " x", "x ", "x\n", "x" * 200, "\x00"):
        assert refused(api(http, "register", {"systemId": name})) == "系统ID无效"


def test_with_keys_strangers_learn_nothing_and_the_user_of_a_token_is_named_in_notices(
    launch: Launch, http_server: str
) -> None:
    keys = [
        {"key": PUSH, "scopes": ["push"], "apps": ["system:shop"]},
        {"key": ADMIN, "scopes": ["admin"]},
    ]
    apps = {
        "system:shop": {"open": True, "origins": ["https://shop.example.com"]},
        "system:tokens": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
    }
    strict = launch(http_server, apps=apps, api={"keys": keys})

    def called(system: str | None, key: str = "") -> str:
        return refused(api(strict.http, "is_online", WHOLE, system, key=key))

    assert called("shop") == called("nobody") == "未授权"
    assert called("nobody", ADMIN) == "系统ID无效"
    for body in (b"", b"x", {}, {"systemId": "shop"}, {"systemId": ""}):
        for key in ("", PUSH):
            assert refused(api(strict.http, "register", body, key=key)) == "未授权"
    with listening(strict.ws, "shop") as one:
        assert done(
            strict.http, "send_to_client", "shop", PUSH, clientId=one.id, data="x"
        )
        assert one.received()["data"] == "x"
    with Listener(strict.ws) as page:
        page.upgrade("/ws?systemId=shop", more=[("Origin", "https://evil.example.com")])
        assert page.message().json["code"] == -1003
        page.closed(4505)
    claims = {"sub": "ann", "app": "system:tokens", "exp": time() + 60}
    with listening(
        strict.ws, "tokens", token=jwt.encode(claims, SECRET, "HS256")
    ) as one:
        # Whoever joins by another way than bind keeps the name.
        fields = {"app": "system:tokens", "channel": "g", "connections": [one.id]}
        good(strict.http, "channels/subscribe", fields, key=ADMIN)
        assert one.notice()[1:] == (one.id, "ann", "")


# --- clients ------------------------------------------------------------------


@pytest.mark.both_servers
def test_a_system_may_be_named_in_raw_utf_8_and_is_driven_once_it_is_registered(
    server: Server,
) -> None:
    """Go's net/http takes such a target, so clients of the original server send
    it."""
    system = fresh("商店")
    with open_socket(server.ws, f"/ws?systemId={system}") as one:
        id = one.message().json["data"]["clientId"]
        answer = api(
            server.http, "send_to_client", {"clientId": id, "data": "x"}, system
        )
        assert answer.body.decode() == UNKNOWN_SYSTEM
        assert done(server.http, "register", "", systemId=system) == []
        send_to_client(server.http, system, id, "你好")
        assert one.message().json["data"] == "你好"


@pytest.mark.parametrize(("via", "there"), [(0, 1), (1, 0), (0, 0)])
def test_a_client_is_closed_behind_all_that_it_was_sent(
    nodes: Nodes, system: str, via: int, there: int
) -> None:
    http = nodes.http[via]

    def is_online() -> bool:
        return bool(done(http, "is_online", system, clientId=one.id)["online"])

    with clients(nodes, system, there) as (one,):
        assert is_online()
        for number in range(49):
            send_to_client(http, system, one.id, str(number))
        fields = {"sendUserId": "7", "code": 2**40, "msg": "m"}
        sent = send_to_client(http, system, one.id, {"n": 1}, **fields)
        assert done(http, "close_client", system, clientId=one.id) == {}
        assert [one.received()["data"] for _ in range(49)] == [
            str(number) for number in range(49)
        ]
        assert one.received() == {"messageId": sent, "data": {"n": 1}, **fields}
        one.closed_by_server(4502)
        eventually(lambda: not is_online())
        # It is unknown now, which is no error anywhere.
        send_to_client(http, system, one.id)
        assert done(http, "close_client", system, clientId=one.id) == {}


# --- groups -------------------------------------------------------------------


def test_members_on_all_nodes_learn_who_comes_and_goes_and_what_their_group_is_sent(
    nodes: Nodes, system: str
) -> None:
    with clients(nodes, system, 0, 1, 1, 0) as (*members, outsider):
        one, two, three = members
        bind(nodes.http[1], system, one, "组 & 1", "1", "x" * 8191)
        assert one.notice() == (ONLINE, one.id, "1", "x" * 8191)
        for number, each in enumerate((two, three), 2):
            bind(nodes.http[0], system, each, "组 & 1", str(number))
            for member in members[:number]:
                assert member.notice() == (ONLINE, each.id, str(number), "")
        for http in nodes.http:
            assert online_list(http, system, "组 & 1") == [one.id, two.id, three.id]
            sent = done(http, "send_to_group", system, groupName="组 & 1", data="x")[
                "messageId"
            ]
            to_all = done(http, "send_to_system", system, data="y")["messageId"]
            for each in members:
                assert [each.received()["messageId"] for _ in range(2)] == [
                    sent,
                    to_all,
                ]
            assert outsider.received()["messageId"] == to_all
            fields = {"clientIds": [one.id, two.id, three.id, "x"], "data": "z"}
            assert done(http, "send_to_clients", system, **fields) == []
            assert len({each.received()["messageId"] for each in members}) == 1
        bind(nodes.http[1], system, three, "组 & 1", "33", "new")
        three.leave()
        for each in (one, two):
            assert each.notice() == (OFFLINE, three.id, "33", "new")
        for _ in range(2):
            done(
                nodes.http[1],
                "unbind_from_group",
                system,
                clientId=one.id,
                groupName="组 & 1",
            )
        assert two.notice() == (OFFLINE, one.id, "1", "x" * 8191)
        for each in (one, two, outsider):
            each.quiet()
        for more, why in (
            ({"groupName": "x" * 256}, "GroupName无效"),
            ({"extend": "x" * 8192}, "消息过长"),
        ):
            wrong = {"clientId": one.id, "groupName": "g", "userId": "7", **more}
            assert refused(api(nodes.http[0], "bind_to_group", wrong, system)) == why


@pytest.mark.parametrize(("via", "there"), [(0, 1), (1, 0)])
def test_no_route_reaches_into_another_system(
    nodes: Nodes, system: str, via: int, there: int
) -> None:
    http = nodes.http[via]
    other = new_system(nodes.http[0])
    with (
        clients(nodes, system, there, 1 - there) as (one, two),
        clients(nodes, other, via) as (own,),
    ):
        for of, each, hears in (
            (system, one, [one]),
            (system, two, [one, two]),
            (other, own, [own]),
        ):
            bind(nodes.http[0], of, each, "g", "7", "secret")
            assert [member.notice()[1] for member in hears] == [each.id] * len(hears)
        ids = {"clientId": one.id, "clientIds": [one.id, two.id]}
        for path in DRIVEN:
            answer = api(
                http, path, {**ids, "groupName": "g", "userId": "0", "data": "x"}, other
            )
            assert answer.json["code"] == 0
            for secret in (one.id, two.id, "secret"):
                assert secret not in answer.body.decode()
            found = answer.json["data"]
            nothing = (
                [],
                {},
                {"online": False},
                {"count": 0, "list": []},
                {"count": 1, "list": [own.id]},
            )
            assert found in nothing or list(found) == ["messageId"]
        # Nothing has come, nothing has changed; and what is asked in its own
        # system still works.
        sent = done(http, "send_to_group", system, groupName="g", data="mine")[
            "messageId"
        ]
        for each in (one, two):
            assert each.received()["messageId"] == sent
            each.quiet()
        assert online_list(http, system, "g") == [one.id, two.id]
        groups = done(http, "get_client_groups", system, clientId=one.id)
        assert groups == {"count": 1, "list": ["g"]}
        one.leave()
        assert two.notice() == (OFFLINE, one.id, "7", "secret")
