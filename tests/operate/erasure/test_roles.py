"""An account with a role erases those below it."""

from pathlib import Path

from tests.rows import sections
from tests.security.node_harness import ALL, Harness, config
from tests.security.test_bots import person
from tests.users import User


def test_an_owner_erases_those_below_and_a_key_everybody(tmp_path: Path) -> None:
    accounts = {"registration": True, "registrations_per_address": 0}
    node = Harness(config(tmp_path, of_features=sections(accounts=accounts)))
    keyed, owner, equal = User(node, ALL.key, app="201"), person(node, "ann"), person(node, "bob")
    moderator, member = person(node, "ann2"), person(node, "bob2")
    for user, role in ((owner, "owner"), (equal, "owner"), (moderator, "moderator")):
        keyed.post("accounts/role", user=user.user, role=role)
    assert moderator.refused("users/erase", user=member.user) == (403, "not_allowed")
    for user in (equal, owner):
        assert owner.refused("users/erase", user=user.user) == (403, "not_allowed")
        assert user.get("accounts/show")
    for user in (moderator, member):
        assert owner.post("users/erase", user=user.user) == {"erased": True}
    assert keyed.post("users/erase", user=equal.user) == {"erased": True}
    node.close()
