"""Bots of a deleted account, and their tokens, on a node with and without bots."""

from pathlib import Path

import pytest

from imserver.people.accounts.parts import accounts_of
from tests.rows import sections
from tests.security.node_harness import Harness, config
from tests.security.test_bots import person

REGISTRATION = sections(accounts={"registration": True, "registrations_per_address": 0})


@pytest.mark.parametrize("features", [None, ("messages", "accounts")])
def test_a_deleted_account_takes_its_bots_with_it(tmp_path: Path, features: tuple[str, ...] | None) -> None:
    first = Harness(config(tmp_path, of_features=REGISTRATION))
    ann = person(first, "ann")
    bot = ann.bot("Weather")
    other = person(first, "eve").bot("Rain")
    first.close()
    node = Harness(config(tmp_path, of_features=REGISTRATION, features=features))
    parts = node.node.core
    status, _ = node.call("GET", "/api/v1/conversations", None, bot.token, query={"app": "201"})
    assert status == (200 if features is None else 401)
    accounts_of(parts).accounts.remove("201", ann.user)
    left = accounts_of(parts).rows.by_ids("201", [int(ann.user), int(bot.user), int(other.user)])
    assert [account.user for account in left] == [other.user]
    node.close()
