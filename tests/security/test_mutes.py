"""What a user who is muted in the app says nowhere: messages, and names that others read."""

from time import time
from typing import Any

from imserver.gateway.http.operation import Operation
from imserver.messenger.groups.wire import CreateGroup, UpdateGroup
from tests.rows import DOCUMENTED
from tests.users import User

from .node_harness import ALL, Harness
from .test_bots import person
from .test_relations import Session, of_users

SHOWN = {"text", "data", "value", "emoji", "name", "nickname", "avatar", "description", "status", "commands"}
"""Fields of requests whose content others see."""
ELSEWHERE = {
    **dict.fromkeys(("messages/send", "messages/edit", "asks/create", "notifications/act"), "messaging asks"),
    **dict.fromkeys(("asks/answer", "messages/stream/open"), "the service asks"),
    **dict.fromkeys(("accounts/find", "accounts/search"), "it is searched"),
    "messages/press": "a value that the bot has chosen",
    "reports/send": "moderators alone read it",
    **dict.fromkeys(("accounts/register", "accounts/promote", "invitations/join"), "the account is new"),
}
"""Operations with such a field that need no ``voice``, and why."""


def test_each_route_with_which_a_user_shows_others_something_has_a_voice() -> None:
    silent = {
        row.path.removeprefix("/api/v1/")
        for row in DOCUMENTED
        if isinstance(row, Operation) and of_users(row.need) and row.body and not row.voice
        if SHOWN & {*row.body.__struct_fields__}
    }
    assert silent == ELSEWHERE.keys()


def test_who_is_muted_names_nothing_for_others(node: Harness) -> None:
    eve, bob = person(node, "eve"), person(node, "bob")
    group = eve.group(bob)
    bot = eve.post("bots", name="eves_bot")["id"]
    node.node.core.mutes.mute(eve.app, eve.user, int(time()) + 60, "spam")
    requests: tuple[tuple[str, dict[str, Any]], ...] = (
        ("groups/create", {"name": "spam", "members": [bob.user]}),
        ("groups/rename", {"group": group, "name": "spam"}),
        ("groups/update", {"group": group, "description": "spam"}),
        ("accounts/set", {"nickname": "spam"}),
        ("accounts/set", {"status": "spam"}),
        ("accounts/identifiers", {"name": "spammer", "password": "correct horse"}),
        ("bots", {"name": "spam_bot"}),
        ("bots/update", {"bot": bot, "nickname": "spam"}),
        ("hooks", {"group": group, "nickname": "spam"}),
        ("messages/send", {"to": bob.user, "text": "spam"}),
    )
    for path, body in requests:
        assert eve.refused(path, **body) == (403, "muted"), path
    assert not eve.post("accounts/set", show_presence=False)["show_presence"]
    back_end = User(node, ALL.key, app=eve.app)
    assert back_end.post("groups/rename", user=eve.user, group=group, name="tea")["name"] == "tea"


def test_who_is_muted_names_no_group_by_a_command(node: Harness) -> None:
    dan, bob = person(node, "dan"), person(node, "bob2")
    group = int(dan.group(bob))
    node.node.core.mutes.mute(dan.app, dan.user, int(time()) + 60)
    session = Session(node, dan.app, dan.user)
    try:
        assert session.run(CreateGroup("spam", (bob.user,))) == "-"
        assert session.run(UpdateGroup(group, name="spam")) == "-"
    finally:
        session.close()
