"""A user erases themselves, and those with a role others; what was interrupted
goes on."""

from pathlib import Path

import pytest

from imserver.gateway.config.settings import JwtSettings, TenantSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.erasures import JOURNAL, read_journal
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.erasure.parts import UserErasure
from imserver.people.accounts.parts import accounts_of
from imserver.plugin import Parts
from imserver.plugin.storage import Erasure
from tests.rows import sections
from tests.security.node_harness import ALL, APPS, SECRET, Harness, config
from tests.security.test_bots import person
from tests.support import run_cli
from tests.users import PASSWORD, User

REGISTRATION = sections(accounts={"registration": True, "registrations_per_address": 0})


def test_an_account_needs_its_password_and_is_gone(tmp_path: Path) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    ann = person(node, "ann")
    assert ann.refused("users/erase/self", password="wrong") == (403, "not_allowed")
    assert ann.post("users/erase/self", password=PASSWORD) == {"erased": True}
    assert accounts_of(node.node.core).accounts.get("201", ann.user) is None
    (row,) = read_journal(tmp_path / JOURNAL)
    assert (row.app, row.name.startswith("deleted:")) == ("201", True)
    assert row.digest in node.node.core.user_erasures.digests("201", ann.user)
    node.close()


def test_the_user_of_a_session_token_needs_nothing_else(tmp_path: Path) -> None:
    apps = {**APPS, "300": TenantSettings(jwt=(JwtSettings("HS256", SECRET),))}
    node = Harness(config(tmp_path, apps=apps))
    log = node.node.core.store.part(MessageLog)
    log.writer.append("300", [Draft(sender="bob", to_user="ann", body=b"hello")])
    token = node.session("300", "bob")
    answer = node.call("POST", "/api/v1/users/erase/self", {"app": "300"}, token)
    assert answer == (200, {"erased": True})
    (first, recall) = log.entries.read("300", 0, 10)
    assert (first.kind, first.body, recall.about) == ("recall", b"", first.id)
    assert first.sender == recall.sender != "bob"
    assert log.entries.sync("300", "bob", 0, 10)[0] == []
    node.close()


def test_an_interrupted_erasure_goes_on(tmp_path: Path) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    core = node.node.core
    ann = person(node, "ann")
    core.user_erasures.begin("201", ann.user)
    assert core.user_erasures.interrupted() == []  # a node has its lease
    core.store.execute("UPDATE erasure SET leased = 0")
    assert core.user_erasures.interrupted() == [("201", ann.user)]
    core.service(UserErasure).look()
    assert core.user_erasures.interrupted() == []
    (row,) = core.user_erasures.ended()
    assert [each.name for each in read_journal(tmp_path / JOURNAL)] == [row.name]
    acts = User(node, ALL.key, app="201").get("audit", name="users.erase.end")["acts"]
    assert [(act["by"]["kind"], act["user"]) for act in acts] == [("node", None)]
    node.close()


def test_who_asks_hears_that_an_erasure_goes_on_if_something_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    core = node.node.core
    ann = person(node, "ann")
    boss = User(node, ALL.key, app="201")

    def fail(app: str, user: str) -> None:
        raise StorageUnavailable("Redis does not answer")

    with monkeypatch.context() as fault:
        fault.setattr(core.registry, "forget_user", fail)
        assert boss.post("users/erase", user=ann.user) == {"erased": False}
    assert boss.get("users/erase/show", user=ann.user)["state"] == "under way"
    core.store.execute("UPDATE erasure SET leased = 0")
    core.service(UserErasure).look()
    assert boss.get("users/erase/show", user=ann.user)["state"] == "ended"
    node.close()


def test_what_another_node_has_ended_meanwhile_is_erased_all_the_same(
    tmp_path: Path,
) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    core = node.node.core
    ann = person(node, "ann")
    log = core.store.part(MessageLog)
    log.writer.append("201", [Draft(sender=ann.user, to_user="bob", body=b"hello")])

    def other_node(app: str, user: str, *_: str) -> None:
        core.user_erasures.end(app, user)

    # The erasure of the feature that joined last is the first one.
    core.join("other", Parts((Erasure(frozenset(), other_node, lambda _: None),)))
    core.erase_user("201", ann.user)
    (row,) = core.user_erasures.ended()
    (first, *_) = log.entries.read("201", 0, 10)
    assert (first.sender, first.body) == (row.name, b"")
    node.close()


def test_an_owner_erases_those_below_and_a_key_everybody(tmp_path: Path) -> None:
    node = Harness(config(tmp_path, of_features=REGISTRATION))
    keyed = User(node, ALL.key, app="201")
    owner = person(node, "ann")
    equal = person(node, "bob")
    moderator = person(node, "ann2")
    member = person(node, "bob2")
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


def test_a_compacted_database_has_the_act_in_its_audit_log(tmp_path: Path) -> None:
    command = "erase", "--compact", "--data-dir", str(tmp_path)
    assert "there is no such database" in run_cli(*command).stderr
    run_cli("key", "create", "push", "--data-dir", str(tmp_path))
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    listed = run_cli(
        "audit", "list", "--name", "database.compact", "--data-dir", str(tmp_path)
    )
    assert "command:" in listed.stdout, listed
