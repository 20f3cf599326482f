"""The client dialect over the wire: connecting, being pushed to, groups and their notices."""

from contextlib import ExitStack

import pytest

from tests.support import Server, eventually

from .client import (
    OFFLINE,
    ONLINE,
    api,
    bind,
    done,
    groups_of,
    listening,
    new_system,
    online_list,
    send_to_client,
    send_to_group,
)
from .cmd import fresh
from .raw import TEXT, open_socket, text


@pytest.fixture
def system(server: Server) -> str:
    """A registered system of this test alone."""
    return new_system(server.http)


# --- connecting ---------------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_the_first_frame_gives_an_id_that_is_like_no_other(server: Server, system: str) -> None:
    with ExitStack() as stack:
        ids = [stack.enter_context(listening(server.ws, system)).id for _ in range(20)]
        assert len(set(ids)) == 20
        # Nothing in an id tells which node gave it, or which came first.
        assert len({one[:6] for one in ids}) == 20
        assert len({one[-6:] for one in ids}) == 20


def test_a_name_that_no_system_can_have_is_refused(server: Server) -> None:
    for system in ("%20shop", "shop%20", "sh%00op", "x" * 300):
        with open_socket(server.ws, f"/ws?systemId={system}") as one:
            found = one.message().json
            assert [found[key] for key in ("code", "msg", "data")] == [-1001, "系统ID无效", []]
            one.closed(4505)


def test_a_system_need_not_be_registered_to_connect_but_to_be_driven(server: Server) -> None:
    system = fresh("later")
    with listening(server.ws, system) as one:
        answer = api(server.http, "send_to_client", {"clientId": one.id, "data": "x"}, system)
        assert answer.json == {"code": -1, "msg": "系统ID无效", "data": []}
        assert done(server.http, "register", "", systemId=system) == []
        send_to_client(server.http, system, one.id, "now")
        assert one.received()["data"] == "now"


@pytest.mark.both_servers
def test_a_system_may_be_named_in_raw_utf_8(server: Server) -> None:
    """Go's net/http takes such a target, so clients of the original server send it."""
    system = fresh("商店")
    assert done(server.http, "register", "", systemId=system) == []
    with open_socket(server.ws, f"/ws?systemId={system}") as one:
        send_to_client(server.http, system, one.message().json["data"]["clientId"], "你好")
        assert one.message().json["data"] == "你好"


# --- pushes and groups --------------------------------------------------------------------------------------


def test_a_push_arrives_as_it_was_given_and_a_frame_above_8192_bytes_ends_the_connection(
    server: Server, system: str
) -> None:
    with listening(server.ws, system) as one:
        message_id = send_to_client(server.http, system, one.id, "hello", sendUserId="7", code=200, msg="m")
        expected = f'{{"messageId":"{message_id}","sendUserId":"7","code":200,"msg":"m","data":"hello"}}'
        found = one.message()
        assert (found.opcode, found.text) == (TEXT, expected)
        one.send(text("x" * 8192))
        one.quiet()
        one.send(text("x" * 8193))
        one.closed(1009)


def test_groups_and_systems_reach_their_clients_alone(server: Server, system: str) -> None:
    with ExitStack() as stack:
        outsider, *members = (stack.enter_context(listening(server.ws, system)) for _ in range(5))
        stranger = stack.enter_context(listening(server.ws, new_system(server.http)))
        for number, member in enumerate(members):
            for group in ("g", "h", f"alone {number}"):
                bind(server.http, system, member, group, str(number))
        for number, member in enumerate(members):
            for _ in range(2 * (4 - number) + 1):
                assert member.notice()[0] == ONLINE
        fields = {"sendUserId": "0", "code": 200, "msg": "m"}
        sent = send_to_group(server.http, system, "g", "x", **fields)
        to_all = done(server.http, "send_to_system", system, data="x", **fields)["messageId"]
        for one, ids in ((outsider, [to_all]), *((member, [sent, to_all]) for member in members)):
            for id in ids:
                assert one.received() == {"messageId": id, "data": "x", **fields}
        last = members.pop()
        assert groups_of(server.http, system, last.id) == ["g", "h", "alone 3"]
        last.leave()
        for member in members:
            assert [member.notice() for _ in range(2)] == [(OFFLINE, last.id, "3", "")] * 2
        for one in (*members, outsider, stranger):
            one.quiet()
        eventually(lambda: not online_list(server.http, system, "alone 3"))


def test_names_of_groups_and_labels_may_be_any_text_but_have_an_end(server: Server, system: str) -> None:
    with listening(server.ws, system) as one:
        for group in ("组 & 1", "a/b?c", "x" * 255):
            bind(server.http, system, one, group, "7", "x" * 8191)
            assert one.notice() == (ONLINE, one.id, "7", "x" * 8191)
            assert online_list(server.http, system, group) == [one.id]
        for more, why in (({"groupName": "x" * 256}, "GroupName无效"), ({"extend": "x" * 8192}, "消息过长")):
            fields = {"clientId": one.id, "groupName": "g", "userId": "7", **more}
            answer = api(server.http, "bind_to_group", fields, system)
            assert answer.json == {"code": -1, "msg": why, "data": []}
