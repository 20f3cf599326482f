"""Accounts, friends and groups over ``/api/v1``: by an account with its token, by a back end with its key."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import Server, eventually
from tests.users import PASSWORD, User

from . import gochat
from .cmd import cmd_client, logged_in
from .gochat import fresh_phone
from .protobuf import chatting
from .raw import Response, ask, request
from .setting import Launch
from .v1 import KEYS, call, good, refused

# --- accounts -----------------------------------------------------------------------------------------------


def test_a_registered_user_can_read_and_change_their_account(ann: User) -> None:
    assert ann.post("accounts/set", nickname="Ann", avatar="https://example.org/a.png")
    shown = ann.get("accounts/show")
    assert abs(shown.pop("created") - time()) < 60
    assert shown == {
        "user": ann.user,
        "nickname": "Ann",
        "avatar": "https://example.org/a.png",
        "phone": ann.phone,
        "email": "",
        "name": "",
        "findable": True,
        "show_presence": True,
        "guest": False,
        "email_confirmed": False,
        "role": "member",
        "second_factor": False,
        "status": "",
        "away": False,
        "status_until": 0,
    }
    assert ann.post("accounts/set", nickname="Anne")["avatar"] == "https://example.org/a.png"


def test_phones_are_not_shown_to_others(ann: User, bob: User) -> None:
    assert bob.get("accounts/show", of=ann.user)["phone"] == ""
    shown = good(ann.server.http, "accounts/show", key="admin-key-of-the-tests", user=ann.user)
    assert shown["phone"] == ann.phone


def test_a_phone_is_taken_once(ann: User) -> None:
    body = {"phone": ann.phone, "password": PASSWORD}
    assert refused(ann.server.http, "accounts/register", body)[:2] == (409, "login_taken")


def test_the_error_of_a_login_does_not_name_the_wrong_part(ann: User) -> None:
    for phone, password in ((ann.phone, "wrong horse"), (fresh_phone(), PASSWORD)):
        body = {"phone": phone, "password": password}
        status, code, message = refused(ann.server.http, "accounts/login", body)
        assert (status, code, message) == (401, "wrong_login", "The login or the password is wrong.")
    assert good(ann.server.http, "accounts/login", {"phone": ann.phone, "password": PASSWORD})["token"]


@pytest.mark.full
def test_friends_see_when_a_user_was_last_connected(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"77": {"account_tokens": "required"}})
    ann, bob = (User.register(server, "77", login=name) for name in ("ann", "bob"))
    bob.befriend(ann)

    def card() -> tuple[str, int]:
        shown = bob.card(ann)
        return shown["presence"], shown["last_seen"]

    assert card() == ("offline", 0)
    with logged_in(server.ws, ann.user, 77, serviceToken=ann.token):
        assert card() == ("online", 0)
    eventually(lambda: card()[0] == "offline" and abs(card()[1] - time()) < 600)


def test_too_many_failures_are_answered_with_the_time_to_wait(launch: Launch, http_server: str) -> None:
    server = launch(http_server, accounts={"failures": 2, "failure_seconds": 2000})
    one = User.register(server)
    wrong = {"phone": one.phone, "password": "wrong horse"}
    for _ in range(2):
        assert refused(server.http, "accounts/login", wrong)[0] == 401
    response = call(server.http, "accounts/login", {"phone": one.phone, "password": PASSWORD})
    assert response.status == 429
    assert 900 < int(response.header("Retry-After") or 0) <= 1000


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"phone": "", "password": PASSWORD},
        {"phone": "1" * 21, "password": PASSWORD},
        {"phone": "1", "password": "short"},
        {"phone": "1", "password": "x" * 251},
        {"phone": "1", "password": PASSWORD, "nickname": "n" * 65},
        {"phone": "1", "password": PASSWORD, "nickname": "a\nb"},
        {"phone": "1", "password": PASSWORD, "nickname": "\u202eann"},
        {"phone": "1", "password": PASSWORD, "nickname": "\u200b"},
        {"phone": "1", "password": PASSWORD, "more": 1},
    ],
)
def test_an_invalid_field_is_refused(locked: Server, body: dict[str, Any]) -> None:
    assert refused(locked.http, "accounts/register", body)[:2] == (400, "invalid_request")


@pytest.mark.full
def test_where_registration_is_closed_a_back_end_registers(launch: Launch, http_server: str) -> None:
    server = launch(http_server, accounts={"registration": False}, api=KEYS)
    body = {"phone": fresh_phone(), "password": PASSWORD}
    assert refused(server.http, "accounts/register", body)[:2] == (403, "registration_closed")
    assert refused(server.http, "accounts/register", body, key="push-key-of-the-tests")[:2] == (
        403,
        "forbidden",
    )
    assert good(server.http, "accounts/register", body, key="admin-key-of-the-tests")["token"]


def test_another_password_needs_the_old_one_and_ends_all_sessions(ann: User) -> None:
    new = {"password": "battery staple"}
    assert ann.refused("accounts/password", **new, old_password="wrong") == (401, "wrong_login")
    assert ann.post("accounts/password", **new, old_password=PASSWORD) == {"user": ann.user}
    assert ann.refused_get("accounts/show") == (401, "token_invalid")
    assert refused(ann.server.http, "accounts/login", {"phone": ann.phone, "password": PASSWORD})[0] == 401
    good(ann.server.http, "accounts/login", {"phone": ann.phone, "password": "battery staple"})


def test_of_two_who_set_a_password_at_once_a_back_end_has_the_last_word(ann: User) -> None:
    def set_it(password: str, key: str = "admin-key-of-the-tests", **more: str) -> int:
        body = {"user": ann.user, "password": password, **more}
        return call(ann.server.http, "accounts/password", body, key=key).status

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(set_it, f"battery staple {number}") for number in range(4)]
        assert [one.result() for one in futures] == [200] * 4
    assert set_it(PASSWORD) == 200
    token = good(ann.server.http, "accounts/login", {"phone": ann.phone, "password": PASSWORD})["token"]
    with ThreadPoolExecutor(4) as pool:
        mine = [
            pool.submit(set_it, f"mine {number} and long", token, old_password=PASSWORD)
            for number in range(4)
        ]
        assert sorted(one.result() for one in mine) == [200, 401, 401, 401]


def test_an_account_is_deleted_with_all_its_data(ann: User, bob: User) -> None:
    ann.post("friends/request", friend=bob.user)
    bob.post("friends/accept", friend=ann.user)
    group = ann.group(bob)
    assert ann.post("accounts/delete", password=PASSWORD) == {"user": ann.user}
    assert ann.refused_get("accounts/show") == (401, "token_invalid")
    assert bob.refused_get("accounts/show", of=ann.user) == (404, "unknown_account")
    assert bob.get("friends")["count"] == 0
    assert bob.roles(group) == {bob.user: "owner"}
    assert refused(ann.server.http, "accounts/login", {"phone": ann.phone, "password": PASSWORD})[0] == 401
    again = good(ann.server.http, "accounts/register", {"phone": ann.phone, "password": PASSWORD})
    assert int(again["account"]["user"]) > int(ann.user)


def rows_of(server: Server, user: str) -> set[str]:
    """The tables of a server's database that have something of a user."""
    names = {"account", "other", "member", "user", "owner"}
    found = set()
    with closing(sqlite3.connect(server.folder / "data" / "imserver.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")} & names
            columns |= {"id"} if table == "account" else set()
            for column in columns:
                statement = f'SELECT 1 FROM {table} WHERE CAST("{column}" AS TEXT) = ? LIMIT 1'
                if database.execute(statement, (user,)).fetchone():
                    found.add(table)
    return found


def test_nothing_of_a_deleted_account_stays_in_the_database(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"77": {"account_tokens": "required"}})
    ann, bob = (User.register(server, "77") for _ in range(2))
    user, other = ann.user, bob.user
    for word in ("request", "block"):
        ann.post(f"friends/{word}", friend=other)
    group = ann.group(bob)
    upload = request(f"/api/v1/uploads?app=77&user={user}", method="POST", body=b"a file")
    assert ask(server.http, upload).status == 201
    with cmd_client(server.ws) as one:
        one.login(user, 77, cursor=0, serviceToken=ann.token)
        sent = one.ask_cmd("send", {"conversation": int(group), "text": "hi"})[2]
        assert one.ask_cmd("read", {"conversation": sent["conversation"], "id": sent["id"]})[0] == 200
        assert one.ask_cmd("hide", {"ids": [sent["id"]]})[0] == 200
        own = {"account", "account_device", "relation", "upload", "upload_usage", "membership"}
        assert rows_of(server, user) >= {*own, "read_position", "hidden", "mark_version"}
        ann.post("accounts/delete", password=PASSWORD)
        one.closed(4502)
    assert rows_of(server, user) == set()
    assert rows_of(server, other) >= {"account", "account_device", "membership"}


# --- who asks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["accounts/show", "friends", "groups"])
def test_a_request_without_a_token_is_refused(ann: User, route: str) -> None:
    server = ann.server
    assert refused(server.http, route, user=ann.user)[:2] == (401, "unauthorized")
    assert refused(server.http, route, key="wrong", user=ann.user)[:2] == (401, "unauthorized")
    assert refused(server.http, route, key="push-key-of-the-tests", user=ann.user)[:2] == (403, "forbidden")
    assert refused(server.http, route, key="eyJ.x.y", user=ann.user)[:2] == (401, "token_invalid")
    assert refused(server.http, route, key="admin-key-of-the-tests")[:2] == (400, "invalid_request")
    assert call(server.http, route, key="admin-key-of-the-tests", user=ann.user).status == 200


def test_an_account_cannot_act_for_another(ann: User, bob: User) -> None:
    assert ann.refused_get("accounts/show", user=bob.user) == (403, "not_allowed")
    assert ann.refused("friends/block", user=bob.user, friend=ann.user) == (403, "not_allowed")
    assert ann.get("accounts/show", user=ann.user)["user"] == ann.user


# --- friends ------------------------------------------------------------------------------------------------


def test_the_receiver_of_a_request_accepts_it(ann: User, bob: User) -> None:
    assert ann.post("friends/request", friend=bob.user) == {"status": "asked"}
    assert [row["user"] for row in bob.get("friends", list="incoming")["friends"]] == [ann.user]
    assert [row["user"] for row in ann.get("friends", list="outgoing")["friends"]] == [bob.user]
    assert bob.post("friends/accept", friend=ann.user) == {"status": "friends"}
    assert [row["user"] for row in ann.get("friends")["friends"]] == [bob.user]
    assert ann.post("friends/remove", friend=bob.user) == {"status": "done"}
    assert bob.get("friends")["count"] == 0


@pytest.mark.full
def test_both_learn_of_a_change_but_not_of_a_block(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"77": {"account_tokens": "required"}})
    one, two = (User.register(server, "77", login=name) for name in ("ann", "bob"))
    ann, bob = one.user, two.user

    def change(word: str, by: User, friend: str) -> None:
        by.post(f"friends/{word}", friend=friend)

    with cmd_client(server.ws) as first, cmd_client(server.ws) as second:
        for client, user in ((first, one), (second, two)):
            client.login(user.user, 77, serviceToken=user.token, cursor=0)
        change("block", one, bob)
        assert first.push("contact").json["response"]["data"] == {"from": bob, "to": ann}
        change("request", two, ann)  # ann has blocked bob, and learns nothing
        assert second.push("contact").json["response"]["data"] == {"from": ann, "to": bob}
        change("unblock", one, bob)
        assert first.push("contact").json["response"]["data"] == {"from": bob, "to": ann}
        change("request", one, bob)  # both have asked now
        for client, about, user in ((first, bob, ann), (second, ann, bob)):
            assert client.push("contact").json["response"]["data"] == {"from": about, "to": user}
        change("remove", two, ann)
        for client, about, user in ((first, bob, ann), (second, ann, bob)):
            assert client.push("contact").json["response"]["data"] == {"from": about, "to": user}


def test_oneself_and_nobody_are_no_friends(ann: User) -> None:
    assert ann.refused("friends/request", friend=ann.user) == (400, "invalid_request")
    assert ann.refused("friends/request", friend="999999999") == (404, "unknown_account")


# --- groups -------------------------------------------------------------------------------------------------


def test_a_group_is_made_and_seen_by_its_members_only(ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob)
    assert ann.roles(group) == {ann.user: "owner", bob.user: "member"}
    shown = bob.get("groups/show", group=group)
    assert (shown["group"], shown["name"], shown["role"]) == (group, "tea", "member")
    assert cid.refused_get("groups/show", group=group) == (404, "unknown_group")
    assert cid.refused_get("groups/members", group=group) == (404, "unknown_group")
    assert ann.refused_get("groups/show", group="999999999") == (404, "unknown_group")
    assert shown.pop("members") == 2
    assert bob.get("groups", limit=1) == {"count": 1, "groups": [shown], "next": ""}
    assert len(bob.get("groups/members", group=group, limit=1)["members"]) == 1
    assert bob.get("groups/members", group=group, limit=2)["next"] == ""
    assert cid.get("groups") == {"count": 0, "groups": [], "next": ""}


def test_members_invite_accounts_and_leave(ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob)
    invited = {"group": group, "members": [cid.user, ann.user]}
    assert bob.post("groups/invite", **invited)["users"] == [cid.user]
    assert cid.post("groups/leave", group=group)["users"] == [cid.user]
    assert set(ann.roles(group)) == {ann.user, bob.user}
    assert cid.refused("groups/leave", group=group) == (404, "unknown_group")


def test_the_group_of_an_owner_who_leaves_goes_to_an_admin(ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob, cid)
    ann.post("groups/role", group=group, member=cid.user, role="admin")
    ann.post("groups/leave", group=group)
    assert bob.roles(group) == {bob.user: "member", cid.user: "owner"}


def test_roles_decide_the_permissions(ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob, cid)
    too_low = (403, "role_too_low")
    rename = {"group": group, "name": "coffee"}
    away = {"group": group, "members": [cid.user]}
    quiet = {"group": group, "member": cid.user, "until": int(time()) + 100}
    role = {"group": group, "member": cid.user, "role": "admin"}
    for route, body in (("rename", rename), ("remove", away), ("mute", quiet), ("role", role)):
        assert bob.refused(f"groups/{route}", **body) == too_low, route
    ann.post("groups/role", group=group, member=bob.user, role="admin")
    assert bob.post("groups/rename", **rename)["name"] == "coffee"
    assert bob.post("groups/mute", **quiet)["users"] == [cid.user]
    assert cid.get("groups/show", group=group)["muted_until"] == quiet["until"]
    ann.post("groups/options", group=group, rename="member")
    assert cid.refused("groups/rename", **rename) == too_low, "a muted member writes nothing, also no name"
    assert cid.refused("groups/invite", group=group, members=[ann.user]) == too_low
    assert cid.refused("invitations/create", group=group) == too_low
    assert bob.refused("groups/role", **role) == too_low
    assert bob.refused("groups/remove", group=group, members=[ann.user]) == too_low
    assert bob.post("groups/remove", **away)["users"] == [cid.user]
    assert bob.refused("groups/mute", **quiet) == (404, "unknown_member")


def test_a_back_end_makes_no_group_of_an_account_that_does_not_exist(ann: User) -> None:
    given = {"app": "gochat", "user": "999999999", "name": "us", "members": [ann.user]}
    key = "admin-key-of-the-tests"
    assert refused(ann.server.http, "groups/create", given, key=key)[:2] == (404, "unknown_account")


def test_in_demo_mode_an_account_writes_first_to_accounts_alone(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        ann, bob = User.register(server), User.register(server)
        bot = ann.bot("helper_bot")
        ann.post("messages/send", to=bob.user, text="hi")
        for by in (ann, bot):
            for nobody in ("999999999", "Bob"):
                assert by.refused("messages/send", to=nobody, text="hi") == (404, "unknown_account")
                given = {"to": nobody, "text": "Well?", "free_text": True}
                assert by.refused("asks/create", **given) == (404, "unknown_account")
        demo = User(server, "", app="gochat")  # anybody is a user
        demo.post("messages/send", user="eve", to="Bob", text="hi")
        demo.post("messages/send", user="eve", to=ann.user, text="hi")
        ann.post("messages/send", to="eve", text="hello")
    finally:
        server.stop()


def test_nobody_writes_to_an_account_that_does_not_exist(ann: User, bob: User, cid: User) -> None:
    """Ids follow each other: the next account would read it."""
    http, key = ann.server.http, "admin-key-of-the-tests"
    cid.post("accounts/delete", password=PASSWORD)
    for nobody in (str(int(cid.user) + 1), cid.user, "bob.lee"):
        assert ann.refused("messages/send", to=nobody, text="hi") == (404, "unknown_account")
        pushed = {"app": "gochat", "user": nobody, "sender": "shop", "text": "hi", "store": True}
        (result,) = good(http, "push", pushed, key=key)["results"]
        assert (result["status"], result["reason"]) == ("refused", "unknown_account")
    assert User.register(ann.server).get("messages/sync", after=0)["messages"] == []
    # Who is no account may write first, and be answered.
    good(http, "push", {**pushed, "user": bob.user}, key=key)
    bob.post("messages/send", to="shop", text="thanks")


def test_a_refused_change_of_a_bot_changes_nothing(ann: User) -> None:
    bot = ann.post("bots", name=f"bot{ann.user}")["id"]
    twice = [{"name": "tea", "description": "x"}] * 2
    question = {"bot": bot, "hook_url": "https://example.com/h", "commands": twice}
    assert ann.refused("bots/update", **question) == (400, "invalid_request")
    (shown,) = [each for each in ann.get("bots")["bots"] if each["id"] == bot]
    assert not shown.get("hook_url")


def test_an_owner_hands_a_group_over(ann: User, bob: User) -> None:
    group = ann.group(bob)
    ann.post("groups/role", group=group, member=bob.user, role="owner")
    assert bob.roles(group) == {ann.user: "admin", bob.user: "owner"}
    mine = {"group": group, "member": bob.user, "role": "member"}
    assert bob.refused("groups/role", **mine) == (403, "role_too_low"), "a group has an owner"


def test_a_back_end_may_everything_with_any_users(ann: User) -> None:
    server = ann.server
    users = {"app": "101", "user": "u1", "name": "us", "members": ["u2", "安"]}
    group = good(server.http, "groups/create", users, key="admin-key-of-the-tests")["group"]
    named = {"app": "101", "group": group}
    good(server.http, "groups/remove", {**named, "members": ["u1"]}, key="admin-key-of-the-tests")
    good(server.http, "groups/rename", {**named, "name": "them"}, key="admin-key-of-the-tests")
    listed = good(server.http, "groups/members", key="admin-key-of-the-tests", **named)["members"]
    assert [row["user"] for row in listed] == ["u2", "安"]
    assert good(server.http, "groups/show", key="admin-key-of-the-tests", **named)["role"] == ""


@pytest.mark.full
def test_a_group_has_a_limit_of_members(launch: Launch, http_server: str) -> None:
    one = User(launch(http_server, accounts={"group_members": 2}), "", app="101")
    group = one.post("groups/create", user="a", name="us", members=["b"])["group"]
    too_many = (409, "too_many_members")
    assert one.refused("groups/invite", group=group, members=["b", "c"]) == too_many
    assert one.refused("groups/create", user="a", name="us", members=["b", "c"]) == too_many


@pytest.mark.full
def test_members_of_a_large_group_come_in_pages(launch: Launch, http_server: str) -> None:
    server = launch(http_server)
    users = [f"u{number:05}" for number in range(10_000)]
    named: dict[str, Any] = {"app": "101", "user": users[0]}
    group = good(server.http, "groups/create", {**named, "name": "many", "members": users[1:1000]})["group"]
    for start in range(1000, 10_000, 1000):
        body = {"app": "101", "group": group, "members": users[start : start + 1000]}
        assert len(good(server.http, "groups/invite", body)["users"]) == 1000
    body = {"app": "101", "group": group, "members": ["one more"]}
    assert refused(server.http, "groups/invite", body)[:2] == (409, "too_many_members")
    found: list[str] = []
    cursor = ""
    while not found or cursor:
        page = good(server.http, "groups/members", app="101", group=group, limit=1000, cursor=cursor)
        assert page["count"] == 10_000
        found += [row["user"] for row in page["members"]]
        cursor = page["next"]
    assert found == users
    eventually(lambda: good(server.http, "groups", **named)["count"] == 1)


# --- logins one by one --------------------------------------------------------------------------------------


def test_one_login_is_ended_and_the_others_stay(locked: Server, ann: User) -> None:
    body = {"phone": ann.phone, "password": PASSWORD, "device": "phone"}
    token = good(locked.http, "accounts/login", body)["token"]
    with chatting(locked.ws, (ann.user, token)) as phone, chatting(locked.ws, (ann.user, ann.token)):
        rows = {row["name"]: row for row in ann.get("accounts/devices")["devices"]}
        phone_row, own = rows["phone"], rows[""]
        assert (phone_row["name"], phone_row["online"], phone_row["current"]) == ("phone", True, False)
        assert (own["name"], own["online"], own["current"]) == ("", True, True)
        assert ann.post("accounts/devices/logout", device=phone_row["device"]) == {"user": ann.user}
        phone.closed(4502)
        assert refused(locked.http, "accounts/show", key=token)[:2] == (401, "token_invalid")
        assert [row["device"] for row in ann.get("accounts/devices")["devices"]] == [own["device"]]
    again = {"device": phone_row["device"]}
    assert ann.refused("accounts/devices/logout", **again) == (404, "unknown_device")
    question = {"user": ann.user, **again}
    assert refused(locked.http, "accounts/devices/logout", question, key="push-key-of-the-tests")[:2] == (
        403,
        "forbidden",
    )
    assert (
        refused(locked.http, "accounts/devices", key="admin-key-of-the-tests", user="999999")[1]
        == "unknown_account"
    )


def test_tabs_are_parts_of_a_device_and_end_with_it(locked: Server, ann: User) -> None:
    body = {"phone": ann.phone, "password": PASSWORD, "device": "phone"}
    account = (ann.user, good(locked.http, "accounts/login", body)["token"])
    with (
        chatting(locked.ws, account, "phone/1") as one,
        chatting(locked.ws, account, "phone/2") as two,
        chatting(locked.ws, (ann.user, ann.token), "phones/1") as other,
    ):
        rows = {row["name"]: row for row in ann.get("accounts/devices")["devices"]}
        assert rows["phone"]["online"]
        ann.post("accounts/devices/logout", device=rows["phone"]["device"])
        one.closed(4502)
        two.closed(4502)
        assert other.catch_up(0) == []


def test_an_account_cannot_end_the_logins_of_another(locked: Server, ann: User, bob: User) -> None:
    (row,) = ann.get("accounts/devices")["devices"]
    assert bob.refused("accounts/devices/logout", device=row["device"]) == (404, "unknown_device")
    assert bob.refused_get("accounts/devices", user=ann.user) == (403, "not_allowed")
    assert ann.get("accounts/show")["user"] == ann.user


# --- open groups --------------------------------------------------------------------------------------------


def test_any_user_can_join_an_open_group(ann: User, bob: User, cid: User) -> None:
    group = ann.group(bob)
    assert cid.refused("groups/join", group=group) == (404, "unknown_group")
    assert bob.refused("groups/open", group=group, open=True) == (403, "role_too_low")
    assert ann.post("groups/open", group=group, open=True)["open"] is True
    assert cid.get("groups/show", group=group)["role"] == ""
    assert cid.refused_get("groups/members", group=group) == (404, "unknown_group")
    for _ in range(2):
        joined = cid.post("groups/join", group=group)
        assert (joined["role"], joined["open"]) == ("member", True)
    assert ann.roles(group) == {ann.user: "owner", bob.user: "member", cid.user: "member"}
    cid.post("groups/leave", group=group)
    assert ann.post("groups/open", group=group, open=False)["open"] is False
    assert cid.refused("groups/join", group=group) == (404, "unknown_group")
    assert cid.refused_get("groups/show", group=group) == (404, "unknown_group")


# --- how often ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(launch: Launch, http_server: str) -> Server:
    """A server that lets an address register and log in twice."""
    return launch(
        http_server,
        api=KEYS,
        accounts={"registration": True, "registrations_per_address": 2, "logins_per_address": 2},
    )


def post_from(server: Server, address: str, path: str, body: str) -> Response:
    kind = "application/json" if body.startswith("{") else "application/x-www-form-urlencoded"
    headers = [("X-Forwarded-For", address), ("Content-Type", kind)]
    return ask(server.http, request(path, method="POST", headers=headers, body=body.encode()))


def test_each_user_and_each_stranger_may_ask_so_often(launch: Launch, http_server: str) -> None:
    forwarded = {"trusted_proxies": ["127.0.0.1"]}
    api = {**KEYS, "requests_per_second": 0.01}
    accounts = {"registration": True}
    server = launch(http_server, api=api, accounts=accounts, server=forwarded)

    def ask_as(address: str, path: str, token: str = "", **fields: str) -> Response:
        headers = [("X-Forwarded-For", address), ("Authorization", f"Bearer {token}"), ("token", token)]
        if fields:
            headers.append(("Content-Type", "application/x-www-form-urlencoded"))
        method = "POST" if fields else "GET"
        return ask(
            server.http, request(path, method=method, headers=headers, body=urlencode(fields).encode())
        )

    people = [gochat.register(server.http) for _ in range(3)]
    tokens = [token for _, token in people]
    above = [ask_as("192.0.2.1", "/api/v1/friends", tokens[0]) for _ in range(2)]
    assert [each.status for each in above] == [200, 429]
    assert 90 < int(above[1].header("Retry-After") or 0) <= 100
    assert above[0].header("RateLimit-Remaining") == "0"
    assert ask_as("192.0.2.1", "/api/v1/friends", tokens[1]).status == 200
    add = [ask_as("192.0.2.1", "/friend/add", tokens[2], friend_id=people[n][0]).json["code"] for n in (0, 1)]
    assert add == [200, -1], "in the form of GoChat's clients"
    hosts = ("2001:db8::1", "2001:db8::2", "2001:db8:1::1")
    assert [ask_as(host, "/api/v1/openapi.json").status for host in hosts] == [200, 429, 200]
    wrong = [ask_as("192.0.2.9", "/api/v1/friends", "wrong").status for _ in range(2)]
    assert wrong == [401, 429]


@pytest.mark.full
def test_an_address_registers_and_logs_in_so_often_and_others_go_on(strict: Server) -> None:
    def register(address: str) -> Response:
        body = json.dumps({"phone": fresh_phone(), "password": PASSWORD})
        return post_from(strict, address, "/api/v1/accounts/register", body)

    assert [register("203.0.113.7").status for _ in range(2)] == [201, 201]
    above = register("203.0.113.7")
    assert (above.status, above.json["code"]) == (429, "too_many_requests")
    assert 0 < int(above.header("Retry-After") or 0) <= 1800
    form = f"phone_number={fresh_phone()}&password=secret"
    assert post_from(strict, "203.0.113.7", "/register", form).json["code"] == -1
    assert register("203.0.113.8").status == 201
    assert [register("127.0.0.1").status for _ in range(3)] == [201] * 3
    ann = User.register(strict)
    login = json.dumps({"phone": ann.phone, "password": PASSWORD})
    found = [post_from(strict, "203.0.113.9", "/api/v1/accounts/login", login).status for _ in range(3)]
    assert found == [200, 200, 429]
    form = f"phone_number={ann.phone}&password={PASSWORD}"
    assert post_from(strict, "203.0.113.9", "/login", form).json["code"] == -1
    assert post_from(strict, "203.0.113.10", "/login", form).json["code"] == 200


def test_a_device_that_may_not_be_called_so_is_refused_before_an_account_is_made(locked: Server) -> None:
    body = {"phone": fresh_phone(), "password": PASSWORD}
    question = {**body, "device": "phone\n"}
    for route in ("accounts/register", "accounts/login"):
        assert refused(locked.http, route, question)[:2] == (400, "invalid_request")
    assert good(locked.http, "accounts/register", body)["account"]["user"]
    assert refused(locked.http, "accounts/login", question)[:2] == (400, "invalid_request")
