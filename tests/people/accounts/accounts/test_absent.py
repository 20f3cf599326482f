"""A node without accounts: no token is an account's, everybody may reach everybody, and apps are deleted with
the accounts that they once had.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imserver.gateway.auth import tenants
from imserver.gateway.auth.questions import Relations
from imserver.gateway.auth.tokens import BadToken
from imserver.gateway.config.settings import StorageSettings
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.relations import AccountRelations
from tests.security.node_harness import Harness, config

LISTED = "/api/v1/conversations"


def test_no_token_is_an_accounts(tmp_path: Path) -> None:
    first = Harness(config(tmp_path))
    token, session, app = first.account("201"), first.session("201"), {"app": "201"}
    assert first.call("GET", LISTED, None, token, query=app)[0] == 200
    user = accounts_of(first.node.core).tokens.holder(token).account.user
    first.close()
    node = Harness(config(tmp_path, features=("messages",)))
    parts = node.node.core
    assert node.call("GET", LISTED, None, token, query=app)[0] == 401
    assert parts.logins.session_of(session) is not None
    with pytest.raises(BadToken):
        parts.accounts.holder(token)
    assert parts.accounts.those_of("201", [user]) == []
    assert isinstance(parts.relations, Relations)
    node.close()


def test_an_app_is_deleted_with_the_accounts_that_it_had(tmp_path: Path) -> None:
    first = Harness(config(tmp_path))
    first.node.core.tenants.register("shop", account_tokens="required")
    people = accounts_of(first.node.core)
    people.accounts.token(people.rows.add(Account(0, "shop", "1"), "no hash"), "phone")
    first.close()
    node = Harness(config(tmp_path, features=()))
    parts = node.node.core
    assert parts.logins.wants_tokens("shop"), "nobody gets in who has not shown what the app demands"
    assert parts.store.contents("shop").accounts == 1
    tenants.delete_app(parts.tenants, parts.store, parts.erasures, "shop", StorageSettings(look_seconds=0.01))
    for table in ("account", "account_device"):
        assert parts.store.rows(f"SELECT count(*) FROM {table}", ()) == [(0,)]
    node.close()


# --- where nobody can hide or block, nobody is asked --------------------------------------------------------

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
