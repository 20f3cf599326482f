"""What accounts with a role may do to others, that nobody raises themselves,
and what a lock stops."""

from typing import Any

import pytest

from imserver.people.bots.parts import bots_of
from tests.users import PASSWORD, User

from .node_harness import ADMIN, ALL, Harness

HOOK = {"url": "http://1.1.1.1/", "secret": "a secret of the webhook"}
ROLES = ("owner", "moderator", "member")


def back_end(node: Harness, key: str = ADMIN.key) -> User:
    return User(node, key, app="201")


def person(
    node: Harness, role: str = "member", app: str = "201", **fields: Any
) -> User:
    """An account with a role. With ``name`` it has a password."""
    if "name" in fields:
        user = User.register(node, app, **fields)
    else:
        user = User(node, token := node.account(app), _user_of(node, token), app)
    if role != "member":
        User(node, ALL.key, app=app).post("accounts/role", user=user.user, role=role)
    return user


def row_of(node: Harness, user: User) -> Any:
    """What a back end sees of an account."""
    rows = back_end(node).get("accounts/list", text=user.user, limit=1000)["accounts"]
    return next(row for row in rows if row["user"] == user.user)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("of", ROLES)
def test_an_owner_gives_roles_to_those_below_it_and_locks_them(
    node: Harness, role: str, of: str
) -> None:
    one = person(node, role)
    for wanted in ROLES:
        other = person(node, of)
        may = role == "owner" and of != "owner"
        status, _ = one.ask(
            "POST", "accounts/role", {"user": other.user, "role": wanted}
        )
        assert (status == 200) == may
        assert row_of(node, other)["role"] == (wanted if may else of)
        if wanted != role:
            assert one.refused("accounts/role", user=one.user, role=wanted) == (
                403,
                "not_allowed",
            ), "oneself"
    other = person(node, of)
    may = role == "owner" and of != "owner"
    for route in ("accounts/lock", "accounts/unlock", "ban", "unban"):
        about = {"users": [other.user]} if "ban" in route else {"user": other.user}
        about |= {"seconds": 60} if route in ("accounts/lock", "ban") else {}
        status, answer = one.ask("POST", route, about)
        assert (status == 200) == may, (route, answer)


def _user_of(node: Harness, token: str) -> str:
    return node.node.core.accounts.holder(token).account.user


def test_a_moderator_sees_no_contacts_and_finds_open_groups_alone(
    node: Harness,
) -> None:
    ann = person(node, email="ann@example.com", name="ann")
    moderator = person(node, "moderator")
    owner = person(node, "owner")
    member = person(node)
    seen = moderator.get("accounts/list", text="ann")["accounts"][0]
    assert (seen["user"], {"email", "phone"} & seen.keys()) == (ann.user, set())
    assert moderator.get("accounts/list", text="example.com")["accounts"] == []

    def found(by: User, text: str, name: str) -> list[str]:
        return [each[name] for each in by.get("find", text=text)["results"]]

    for text in (ann.user, "ann", "ann@example.com"):
        assert found(owner, text, "detail") == ["ann · ann@example.com"]
    assert found(moderator, "ann", "detail") == ["ann"]
    assert found(moderator, "ann@example.com", "detail") == []
    (row,) = owner.get("accounts/list", text="example.com")["accounts"]
    assert row["email"] == "ann@example.com"
    assert member.refused_get("accounts/list") == (403, "not_allowed")
    group = ann.post("groups/create", name="a quiet room")["group"]
    for text in ("quiet", group):
        assert group in found(owner, text, "id")
        assert "group" not in found(moderator, text, "type")
    ann.post("groups/open", group=group, open=True)
    assert found(moderator, "quiet", "id") == [group]


def test_no_role_reads_a_conversation_of_others(node: Harness) -> None:
    ann = person(node)
    bob = person(node)
    conversation = ann.post("messages/send", to=bob.user, text="a secret")[
        "conversation"
    ]
    assert len(bob.get("messages", conversation=conversation)["messages"]) == 1
    for one in (person(node, "owner"), person(node, "moderator")):
        assert one.get("messages", conversation=conversation)["messages"] == []
        assert one.refused_get(
            "messages", conversation=conversation, user=ann.user
        ) == (403, "not_allowed")


@pytest.mark.parametrize(
    ("route", "field"), [("unban", "users"), ("moderation/unban", "user")]
)
def test_a_lifted_ban_leaves_the_lock_and_what_it_stops(
    node: Harness, route: str, field: str
) -> None:
    core = node.node.core
    owner = person(node, "owner")
    secret = User(node, owner.token).post(
        "keys/create", scopes=["admin"], apps=["201"]
    )["secret"]

    def works() -> bool:
        core.keys.expire(core.sessions.is_banned)
        return back_end(node, secret).ask("GET", "accounts/list", {})[0] == 200

    assert works()
    back_end(node).post("accounts/lock", user=owner.user)
    assert not works()
    back_end(node).post(
        route, **{field: [owner.user] if field == "users" else owner.user}
    )
    assert not works()
    back_end(node).post("accounts/unlock", user=owner.user)
    assert works()


@pytest.mark.parametrize("end", ["role", "delete"])
def test_keys_of_an_owner_end_with_the_role(node: Harness, end: str) -> None:
    """At once on the node that has taken it; on the others when they look."""
    owner = person(node, "owner")
    created = User(node, owner.token).post(
        "keys/create", scopes=["admin"], apps=["201"]
    )
    key = back_end(node, created["secret"])
    assert key.ask("GET", "accounts/list", {})[0] == 200
    role = {"role": "moderator"} if end == "role" else {}
    back_end(node).post(f"accounts/{end}", user=owner.user, **role)
    assert key.ask("GET", "accounts/list", {})[0] == 401
    keys = back_end(node).get("keys", ended="true")["keys"]
    assert [each["state"] for each in keys if each["id"] == created["key"]["id"]] == [
        "revoked"
    ]


def test_a_bot_is_muted_and_banned_with_its_owner(node: Harness) -> None:
    ann = person(node)
    bob = person(node)
    keyed = back_end(node)
    id, token = bots_of(node.node.core).bots.create("201", ann.user, "")
    bot = User(node, token, id.account.user, "201")

    def says() -> Any:
        return bot.ask("POST", "messages/send", {"to": bob.user, "text": "hi"})

    for act, back, code in (("mute", "unmute", "muted"), ("ban", "unban", "banned")):
        assert says()[0] == 200
        keyed.post(f"moderation/{act}", user=ann.user, seconds=60)
        assert says()[1]["code"] == code
        keyed.post(f"moderation/{back}", user=ann.user)
    keyed.post("ban", users=[ann.user], seconds=60)
    assert says()[1]["code"] == "banned"
    assert node.node.core.sessions.is_banned("201", bot.user)
    keyed.post("unban", users=[ann.user])
    assert says()[0] == 200


def test_a_lock_stops_logins_and_tokens_until_it_is_lifted(node: Harness) -> None:
    ann = person(node, name="ann_locked")
    owner = person(node, "owner")
    bot = User(
        node, bots_of(node.node.core).bots.create("201", ann.user, "")[1], app="201"
    )
    login = {"login": "ann_locked", "password": PASSWORD}
    answer = owner.post("accounts/lock", user=ann.user, reason="lost phone")
    assert answer["account"]["locked"]
    assert answer["missing_nodes"] == []
    for user in (ann, bot):
        assert user.refused_get("accounts/show") == (401, "token_invalid")
    anybody = User(node, "", app="201")
    status, document = anybody.ask("POST", "accounts/login", login)
    assert (status, document["code"]) == (403, "account_locked")
    assert document["message"] == "The account is locked: lost phone"
    wrong = anybody.refused(
        "accounts/login", login="ann_locked", password="wrong horse"
    )
    assert wrong == (401, "wrong_login")
    row = row_of(node, ann)
    assert (row["locked"], row["locked_until"], row["lock_reason"]) == (
        True,
        0,
        "lost phone",
    )
    owner.post("accounts/unlock", user=ann.user)
    assert ann.get("accounts/show")["user"] == ann.user
    assert bot.get("accounts/show")["user"]
    assert anybody.post("accounts/login", **login)["token"]
    row = row_of(node, ann)
    assert (row["locked"], row["lock_reason"]) == (False, "")


def test_a_banned_user_gets_no_token(node: Harness) -> None:
    ann = person(node, name="ann_banned")
    keyed = back_end(node)
    login = {"login": "ann_banned"}
    keyed.post("ban", users=[ann.user], seconds=3600, reason="spam")
    status, document = User(node, "", app="201").ask(
        "POST", "accounts/login", {**login, "password": PASSWORD}
    )
    assert (status, document["code"]) == (403, "banned")
    assert document["message"].startswith("banned until 20")
    assert document["message"].endswith(" UTC: spam")
    wrong = User(node, "", app="201").refused(
        "accounts/login", **login, password="wrong horse"
    )
    assert wrong == (401, "wrong_login")


def test_a_lock_is_lifted_with_all_else_by_those_above(node: Harness) -> None:
    ann = person(node)
    owner = person(node, "owner")
    moderator = person(node, "moderator")
    keyed = back_end(node)
    for user in (ann, owner):
        keyed.post("accounts/lock", user=user.user, seconds=60, reason="spam")
    other = person(node, "owner")
    assert moderator.refused("limits/lift", user=ann.user) == (403, "not_allowed")
    assert other.refused("limits/lift", user=owner.user) == (403, "not_allowed")
    lifted = other.post("limits/lift", user=ann.user)["lifted"]
    assert sorted(each["kind"] for each in lifted) == ["ban", "lock"]
    assert ann.get("accounts/show")


def test_the_end_of_a_lock_leaves_a_longer_ban(node: Harness) -> None:
    ann = person(node)
    keyed = back_end(node)
    keyed.post("ban", users=[ann.user], seconds=3600)
    keyed.post("accounts/lock", user=ann.user, seconds=60)
    keyed.post("accounts/unlock", user=ann.user)
    assert ann.refused_get("accounts/show") == (403, "banned")
    keyed.post("unban", users=[ann.user])
    assert ann.get("accounts/show")


def test_an_owner_changes_what_does_not_let_others_in(node: Harness) -> None:
    keyed = User(node, ALL.key)
    keyed.post("apps/create", app="shop", settings={"account_tokens": "required"})
    owner = person(node, "owner", "shop")
    moderator = person(node, "moderator", "shop")
    shown = owner.post("apps/set", settings={"login_policy": "single", "webhook": HOOK})
    assert (shown["login_policy"], shown["webhook"]["url"]) == (
        "single",
        "http://1.1.1.1/",
    )
    assert moderator.refused("apps/set", settings={"login_policy": "multi"}) == (
        403,
        "not_allowed",
    )
    assert moderator.refused_get("apps/show") == (403, "not_allowed")
    for settings in (
        {"open": True},
        {"same_as": "shop"},
        {"jwt": []},
        {"account_tokens": "ignored"},
        {"max_connections": 0},
        {"webhook": {"authorise_url": "http://1.1.1.1/"}},
        {"oauth": {}},
    ):
        status, document = owner.ask("POST", "apps/set", {"settings": settings})
        assert (status, document["code"]) == (403, "not_allowed"), settings
        assert "an API key of scope `admin` changes it" in document["message"]
    for name in ("account_tokens", "webhook"):
        assert owner.refused("apps/set", settings={}, unset=[name]) == (
            403,
            "not_allowed",
        )
    assert [each["app"] for each in User(node, owner.token).get("apps")["apps"]] == [
        "shop"
    ]
    assert owner.refused("apps/create", app="another", settings={}) == (
        401,
        "unauthorized",
    )
    assert owner.refused("apps/delete", confirm="shop") == (401, "unauthorized")
