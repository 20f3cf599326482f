"""Where nobody can hide or block, nobody is asked."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from imserver.gateway.auth.questions import Relations
from imserver.people.accounts.relations import AccountRelations

NOWHERE: Any = cast(Any, None)
"""In place of a database: a look-up fails."""


def tokens(has_accounts: bool) -> Any:
    return SimpleNamespace(wanted_in=lambda _app: has_accounts)


@pytest.mark.parametrize("relations", [Relations(), AccountRelations(NOWHERE, NOWHERE, tokens(False))])
def test_without_accounts_nobody_is_limited_or_looked_up(relations: Relations) -> None:
    assert not relations.limits("101", "1")
    assert relations.may_gather("101", "1")
    assert relations.blocked_by("101", "1", ["2"]) == []
    assert relations.blockers("101", "1", 10) == ()
    assert relations.may_reach("101", "1", "2")
    assert relations.may_write("101", "1", "2")
    assert relations.may_see_presence("101", "1", "2")
    assert relations.visible("101", "1", ["2", "ann"]) == {"2", "ann"}


def test_users_without_an_account_are_not_looked_up() -> None:
    relations = AccountRelations(NOWHERE, NOWHERE, tokens(True))
    assert not relations.limits("201", ""), "nor is a back end"
    assert relations.may_reach("201", "", "2")
    assert relations.visible("201", "", ["2", "ann"]) == {"2", "ann"}
    assert relations.may_reach("201", "ann", "2"), "nobody can block a user who is no account"
    assert relations.visible("201", "2", ["ann", "bob", "2", "007", "0"]) == {"ann", "bob", "2", "007", "0"}
