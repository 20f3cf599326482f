"""What a deleted account takes with it, on a node with and without the features
to which it belongs."""

import json
from pathlib import Path

import pytest

from imserver.gateway.storage.statements import text_of
from imserver.messenger.log.message_log import MessageLog
from imserver.people.accounts.parts import accounts_of
from tests.rows import sections
from tests.security.node_harness import Harness, config
from tests.security.test_bots import person

REGISTRATION = sections(accounts={"registration": True, "registrations_per_address": 0})


@pytest.mark.parametrize(
    "features", [None, ("messages", "accounts"), ("messages", "accounts", "groups")]
)
def test_a_deleted_account_leaves_its_groups_and_takes_bots_and_invitations_with_it(
    tmp_path: Path, features: tuple[str, ...] | None
) -> None:
    first = Harness(config(tmp_path, of_features=REGISTRATION))
    ann, bob, eve = (person(first, name) for name in ("ann", "bob", "eve"))
    group = int(
        ann.post("groups/create", name="tea", members=[bob.user, eve.user])["group"]
    )
    for one in (ann, bob):
        one.post("invitations/create", group=str(group))
        one.post("invitations/create")
    bot = ann.bot("Weather")
    other = eve.bot("Rain")
    first.close()
    node = Harness(config(tmp_path, of_features=REGISTRATION, features=features))
    parts = node.node.core
    status, _ = node.call(
        "GET", "/api/v1/conversations", None, bot.token, query={"app": "201"}
    )
    assert status == (200 if features is None else 401)
    log = parts.store.part(MessageLog)
    before = parts.store.part(MessageLog).entries.head("201")
    assert ("groups" in parts.features) == (features != ("messages", "accounts"))
    accounts_of(parts).accounts.remove("201", ann.user)
    left = accounts_of(parts).rows.by_ids(
        "201", [int(each.user) for each in (ann, bot, other)]
    )
    assert [account.user for account in left] == [other.user]
    assert log.conversations.memberships("201", ann.user) == []
    roles = {
        row.user: row.role for row in log.conversations.members("201", group, "", 10)
    }
    assert roles == {bob.user: "owner", eve.user: "member"}
    role, leaving = log.entries.read("201", before, 10)
    assert (role.kind, leaving.kind) == ("group", "leave")
    assert [leaving.sender] == json.loads(leaving.meta)["users"]
    assert leaving.sender.startswith("deleted:")
    rows = parts.store.rows("SELECT member FROM invitation WHERE app = %s", ("201",))
    assert [text_of(user) for (user,) in rows] == [bob.user] * 2
    node.close()
