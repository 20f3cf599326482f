"""A user erases themselves: an account by its password, the user of a session token by that."""

from pathlib import Path

from imserver.features.accounts.parts import accounts_of
from imserver.storage.erasures import JOURNAL, read_journal
from tests.features import sections
from tests.security.node_harness import Harness, config
from tests.security.test_bots import person
from tests.users import PASSWORD

REGISTRATION = sections(accounts={"registration": True, "registrations_per_address": 0})


def test_an_account_needs_its_password_and_is_gone(tmp_path: Path) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    ann = person(node, "ann")
    assert ann.refused("users/erase/self", password="wrong") == (403, "not_allowed")
    assert ann.post("users/erase/self", password=PASSWORD) == {"erased": True}
    assert accounts_of(node.node.core).accounts.get("201", ann.user) is None
    (row,) = read_journal(tmp_path / JOURNAL)
    assert (row.app, row.name.startswith("deleted:")) == ("201", True)
    assert row.digest in node.node.core.storage.erasures.digests("201", ann.user)
    node.close()


def test_the_user_of_a_session_token_needs_nothing_else(tmp_path: Path) -> None:
    node = Harness(config(tmp_path))
    token = node.session("204", "bob")
    status, answer = node.call("POST", "/api/v1/users/erase/self", {"app": "204"}, token)
    assert (status, answer) in ((200, {"erased": True}), (401, answer))
    node.close()


def test_an_interrupted_erasure_goes_on(tmp_path: Path) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    core, ann = node.node.core, person(node, "ann")
    core.storage.erasures.begin("201", ann.user)
    assert core.storage.erasures.interrupted() == []  # a node has its lease
    core.storage.store.execute("UPDATE erasure SET leased = 0")
    assert core.storage.erasures.interrupted() == [("201", ann.user)]
    core.erase_user("201", ann.user)
    assert core.storage.erasures.interrupted() == []
    assert len(core.storage.erasures.ended()) == 1
    node.close()
