"""Accounts, friends and groups over ``/api/v1``: by an account with its token, by a back end with its key."""

from time import time

import pytest

from tests.support import Server
from tests.users import PASSWORD, User

from .cmd import cmd_client
from .gochat import fresh_phone
from .protobuf import chatting
from .setting import Launch
from .v1 import good, refused


def test_the_error_of_a_login_does_not_name_the_wrong_part(ann: User) -> None:
    for phone, password in ((ann.phone, "wrong horse"), (fresh_phone(), PASSWORD)):
        body = {"phone": phone, "password": password}
        status, code, message = refused(ann.server.http, "accounts/login", body)
        assert (status, code, message) == (401, "wrong_login", "The login or the password is wrong.")
    assert good(ann.server.http, "accounts/login", {"phone": ann.phone, "password": PASSWORD})["token"]


@pytest.mark.full
def test_both_learn_of_a_change_but_not_of_a_block(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"77": {"account_tokens": "required"}})
    one, two = (User.register(server, "77", login=name) for name in ("ann", "bob"))
    ann, bob = one.user, two.user

    with cmd_client(server.ws) as first, cmd_client(server.ws) as second:
        for client, user in ((first, one), (second, two)):
            client.login(user.user, 77, serviceToken=user.token, cursor=0)
        for by, word, receivers in (
            (one, "block", [one]),
            (two, "request", [two]),  # ann has blocked bob, and learns nothing
            (one, "unblock", [one]),
            (one, "request", [one, two]),  # both have asked now
            (two, "remove", [one, two]),
        ):
            by.post(f"friends/{word}", friend=bob if by is one else ann)
            for user in receivers:
                client, about = (first, bob) if user is one else (second, ann)
                assert client.push("contact").json["response"]["data"] == {"from": about, "to": user.user}


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


def test_a_refused_change_of_a_bot_changes_nothing(ann: User) -> None:
    bot = ann.post("bots", name=f"bot{ann.user}")["id"]
    twice = [{"name": "tea", "description": "x"}] * 2
    question = {"bot": bot, "hook_url": "https://example.com/h", "commands": twice}
    assert ann.refused("bots/update", **question) == (400, "invalid_request")
    (shown,) = [each for each in ann.get("bots")["bots"] if each["id"] == bot]
    assert not shown.get("hook_url")


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


def test_a_device_that_may_not_be_called_so_is_refused_before_an_account_is_made(locked: Server) -> None:
    body = {"phone": fresh_phone(), "password": PASSWORD}
    question = {**body, "device": "phone\n"}
    for route in ("accounts/register", "accounts/login"):
        assert refused(locked.http, route, question)[:2] == (400, "invalid_request")
    assert good(locked.http, "accounts/register", body)["account"]["user"]
    assert refused(locked.http, "accounts/login", question)[:2] == (400, "invalid_request")
