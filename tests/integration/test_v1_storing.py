"""Pushes that are stored, by every way in which a back end sends: on both HTTP servers."""

from typing import Any

import pytest

from tests.support import Server

from .cmd import CmdClient, fresh, json_request, logged_in
from .raw import ask
from .setting import MULTI
from .v1 import call, good, refused


def received(one: CmdClient) -> dict[str, Any]:
    data: dict[str, Any] = one.push("message").json["response"]["data"]
    return data


def stored(answer: Any) -> list[dict[str, Any]]:
    """Where the messages of an answer are, all of which must be stored."""
    assert [result["status"] for result in answer["results"]] == ["stored"] * answer["sent"]
    return [result["stored"] for result in answer["results"]]


def test_a_stored_push_reaches_online_users_now_and_others_later(server: Server, app: int) -> None:
    push = {"app": str(app), "users": ["ann", "bob"], "sender": "shop", "text": "hi", "store": True}
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        first, second = stored(good(server.http, "push", push))
        assert (first["id"], second["id"], first["seq"], second["seq"]) == (1, 2, 1, 1)
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["to"], heard["text"]) == (1, "shop", "ann", "hi")
    with logged_in(server.ws, "bob", app, cursor=0) as bob:
        assert received(bob)["id"] == 2


def test_without_a_sender_the_server_itself_says_it(server: Server, app: int) -> None:
    push = {"app": str(app), "user": "ann", "type": "order", "data": {"number": 17}, "store": True}
    (at,) = stored(good(server.http, "push", push))
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["to"]) == (at["id"], "", "ann")
        assert (heard["type"], heard["data"]) == ("order", {"number": 17})


def test_users_and_groups_have_channels_live_and_stored(server: Server, app: int) -> None:
    answer = good(
        server.http, "groups/create", {"app": str(app), "user": "ann", "name": "tea", "members": ["bob"]}
    )
    group = f"group:{answer['group']}"
    with logged_in(server.ws, "ann", app, cursor=1) as ann, logged_in(server.ws, "bob", app, cursor=1) as bob:
        everybody, of_ann = [ann, bob], [ann]
        for channel, reached in ((group, everybody), ("user:ann", of_ann)):
            body = {"app": str(app), "channel": channel, "text": "live"}
            assert good(server.http, "channels/publish", body) == {"channel": channel, "status": "sent"}
            assert good(server.http, "push", body)["results"][0]["status"] == "sent"
            for one in reached:
                assert [one.push("msg").json["response"]["data"]["msg"] for _ in range(2)] == ["live", "live"]
            (at,) = stored(good(server.http, "push", {**body, "text": "stored", "store": True}))
            for one in reached:
                assert received(one)["id"] == at["id"]
        batch = {"app": str(app), "channels": [group, "user:bob", "group:999", "user:nobody"], "text": "all"}
        found = good(server.http, "channels/broadcast", {**batch, "except_users": ["ann"]})["results"]
        assert [each["status"] for each in found] == ["sent", "sent", "absent", "absent"]
        assert [bob.push("msg").json["response"]["data"]["msg"] for _ in range(2)] == ["all", "all"]
        ann.no_push("msg")
    for channel in (group, "user:ann"):
        change = {"app": str(app), "channel": channel, "users": ["ann"]}
        status, code, message = refused(server.http, "channels/subscribe", change)
        assert (status, code) == (400, "invalid_request")
        assert "without subscriptions" in message


def test_a_push_to_a_group_is_stored_once_for_all_members(server: Server, app: int) -> None:
    group = good(
        server.http, "groups/create", {"app": str(app), "user": "ann", "name": "tea", "members": ["bob"]}
    )
    push = {"app": str(app), "group": group["group"], "text": "milk?", "store": True}
    (first,) = stored(good(server.http, "push", {**push, "sender": "bob"}))
    (second,) = stored(good(server.http, "push", push))
    assert first["conversation"] == second["conversation"] == int(group["group"])
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        assert [received(ann)["kind"] for _ in range(3)] == ["group", "message", "message"]
    outside = {
        **push,
        "targets": [{"group": group["group"]}, {"group": "999"}, {"user": "ann"}],
        "sender": "eve",
    }
    del outside["group"]
    answer = good(server.http, "push", outside)
    assert [(each["status"], each.get("reason")) for each in answer["results"]] == [
        ("refused", "not_member"),
        ("refused", "unknown_conversation"),
        ("stored", None),
    ]
    assert answer["sent"] == 1


@pytest.mark.parametrize("sender", ["", "ann"])
def test_a_push_to_a_group_is_not_stored_in_another_conversation(
    server: Server, app: int, sender: str
) -> None:
    first_push = {"app": str(app), "user": "bob", "sender": "ann", "text": "a secret", "store": True}
    (first,) = stored(good(server.http, "push", first_push))
    push = {"app": str(app), "group": str(first["conversation"]), "text": "for all", "store": True}
    (result,) = good(server.http, "push", push | {"sender": sender})["results"]
    assert (result["status"], result.get("reason")) == ("refused", "unknown_conversation")


def test_an_invalid_name_is_refused_for_its_target_only(server: Server, app: int) -> None:
    users = ["ann", "shop", "x" * 256, "bob"]
    push = {"app": str(app), "users": users, "sender": "shop", "text": "hi", "store": True}
    answer = good(server.http, "push", push)
    assert [each["status"] for each in answer["results"]] == ["stored", *["refused"] * 2, "stored"]
    assert {each.get("reason") for each in answer["results"]} == {None, "invalid"}


def test_a_stored_push_that_comes_again_under_its_id_is_stored_once(server: Server, app: int) -> None:
    push = {"app": str(app), "users": ["ann", "bob"], "text": "once", "store": True, "id": fresh("p")}
    first = call(server.http, "push", push)
    again = call(server.http, "push", push)
    assert (first.header("Idempotent-Replayed"), again.header("Idempotent-Replayed")) == (None, "true")
    assert first.json == again.json
    other = call(server.http, "push", {**push, "text": "another"})
    assert (other.status, other.json["code"]) == (422, "id_reused")
    single = {"app": str(app), "user": "ann", "text": "shown", "store": True, "id": "order-17"}
    assert stored(good(server.http, "push", single)) == stored(good(server.http, "push", single))
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        assert [received(ann)["text"], received(ann)["clientMsgID"]] == ["once", "order-17"]
        ann.no_push("message")


def test_batches_store_too(server: Server, app: int) -> None:
    commands = [
        {"push": {"app": str(app), "user": "ann", "text": str(number), "store": True}} for number in range(3)
    ]
    answer = good(server.http, "batch", {"commands": commands})
    seqs = [result["body"]["results"][0]["stored"]["seq"] for result in answer["results"]]
    assert seqs == [1, 2, 3]


def test_sessions_that_take_no_part_receive_nothing_of_it(server: Server) -> None:
    with logged_in(server.ws, user := fresh(), MULTI) as plain:
        good(server.http, "push", {"app": str(MULTI), "user": user, "text": "kept", "store": True})
        plain.no_push()


def test_in_a_system_whose_users_are_connections_nothing_is_stored(server: Server) -> None:
    name = fresh("storing")
    assert ask(server.http, json_request("/api/register", {"systemId": name})).json["code"] == 0
    push = {"app": f"system:{name}", "user": "a", "text": "x", "store": True}
    assert refused(server.http, "push", push)[:2] == (400, "store_unavailable")
