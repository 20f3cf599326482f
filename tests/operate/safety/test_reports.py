"""What those see and hear of reports who decide about them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.config.settings import StorageSettings
from tests.rows import sections
from tests.security.node_harness import ALL, Harness, config
from tests.users import User


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Harness]:
    of_features = sections(accounts={"registration": True, "registrations_per_address": 0})
    harness = Harness(config(tmp_path, of_features=of_features))
    yield harness
    harness.close()


def person(node: Harness, name: str, role: str = "member") -> User:
    user = User.register(node, "201", name=name.lower(), nickname=name)
    User(node, ALL.key, app="201").post("accounts/role", user=user.user, role=role)
    return user


def notices(user: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = user.get("messages/sync", after=0, limit=200)["messages"]
    return [each for each in found if not each["from"]]


def test_reports_name_people_and_the_group(node: Harness) -> None:
    ann, bob, moderator = person(node, "Ann"), person(node, "Bob"), person(node, "Moe", "moderator")
    group = ann.group(bob)
    sent = ann.post("messages/send", conversation=int(group), text="spam")
    report = bob.post("reports/send", message=sent["id"], reason="spam")["report"]
    page = moderator.get("reports")
    assert page["names"] == {ann.user: "Ann"}
    assert page["groups"].keys() == {group}
    moderator.post("reports/close", id=report, outcome="warned")
    shown = moderator.get("reports/show", id=report)
    assert shown["names"] == {ann.user: "Ann", bob.user: "Bob", moderator.user: "Moe"}
    assert shown["groups"] == page["groups"]


def test_owners_hear_of_a_report_but_not_of_each_within_minutes(node: Harness) -> None:
    ann, bob = person(node, "Ann"), person(node, "Bob")
    owner, other = person(node, "Owen", "owner"), person(node, "Olga", "owner")
    sent = ann.post("messages/send", to=bob.user, text="spam")
    report = bob.post("reports/send", message=sent["id"], reason="spam")["report"]
    for each in (person(node, "Moe"), person(node, "Max"), person(node, "Mia")):
        bob.post("reports/send", person=each.user, reason="scam")
    for user in (owner, other):
        notice, *more = notices(user)
        assert len(more) < 2  # one if ten minutes end meanwhile
        assert notice["text"].startswith("A message of Ann was reported (spam).")
        assert notice["meta"] == {"moderation": {"act": "report", "report": report}}
    assert notices(ann) == notices(bob) == []


def test_an_owner_hears_of_no_report_of_themselves(node: Harness) -> None:
    bob, owner, other = person(node, "Bob"), person(node, "Owen", "owner"), person(node, "Olga", "owner")
    bob.post("reports/send", person=owner.user, reason="scam")
    assert notices(owner) == []
    (notice,) = notices(other)
    assert notice["text"].startswith("Owen was reported (scam).")
    bob.post("reports/send", person=other.user, reason="scam")
    (notice,) = notices(owner)
    assert notice["text"].startswith("Olga was reported (scam).")


def test_reports_do_not_name_an_erased_moderator(tmp_path: Path, url: str) -> None:
    """On every engine."""
    of_features = sections(accounts={"registration": True, "registrations_per_address": 0})
    node = Harness(config(tmp_path, storage=StorageSettings(url, seconds=60), of_features=of_features))
    ann, bob = (person(node, name, "moderator") for name in ("Ann", "Bob"))
    eve = person(node, "Eve")
    for user in (ann, bob):
        bob.post("reports/send", person=eve.user, reason="spam")
        (report,) = user.get("reports")["reports"]
        user.post("reports/close", id=report["id"], outcome="dismissed", note="seen")
    node.node.core.erase_user("201", ann.user)
    rows = bob.get("reports", state="closed")["reports"]
    closed = sorted((row["closed_by"], row["note"]) for row in rows)
    assert closed == [("", ""), (f"staff:201/{bob.user}", "seen")]
    node.close()
