"""Removals go on after the end of a node, come back within their time only, and
end for good."""

import sys
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import ServiceRefused
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Appended, Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.safety.mutes import MuteRows
from imserver.operate.safety.removals import (
    DONE,
    ENDING,
    UNDER_WAY,
    UNDOING,
    Removal,
    Removals,
)
from tests.processes import spawn
from tests.rows import sections
from tests.security.node_harness import ALL, Harness, config
from tests.stores import OpenStore
from tests.tools import require
from tests.users import User

APP = "shop"
MESSAGES = 120
"""More than two transactions remove."""
OTHER_NODE = """\
import sys
from imserver.gateway.config.settings import StorageSettings
from imserver.operate.safety.mutes import MuteRows
from imserver.operate.safety.removals import Removals
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables

url, folder, user = sys.argv[1:]
store = Store(StorageSettings(url), folder, tables=StoreTables(tables_of_server))
store.start()
Removals(store).runner.look()
MuteRows(store).mute("shop", user, 600, "spam")
store.close()
"""


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    """A store in which ann has written, once on each engine."""
    one = open_store(url, seconds=10)
    drafts = [Draft(sender="ann", to_user="bob", body=b"spam") for _ in range(MESSAGES)]
    outcomes = one.part(MessageLog).writer.append(
        APP, [*drafts, Draft(sender="bob", to_user="ann", body=b"ham")]
    )
    assert all(isinstance(each, Appended) for each in outcomes)
    return one


def bodies(store: Store) -> list[bytes]:
    """What the messages of the log say."""
    return [
        each.body
        for each in store.part(MessageLog).entries.read(APP, 0, 1000)
        if each.kind == "message"
    ]


def end_lease(store: Store) -> None:
    """Let its time pass."""
    store.execute("UPDATE removal SET leased = 1")


def left(store: Store) -> Removal:
    """A removal that a node has left, whose lease is over."""
    reached, last = store.part(MessageLog).removals.extent(APP, 0, 0)
    removal = Removals(store).add(
        Removal(APP, "act", "ann", UNDER_WAY, 0, 0, reached, last), 60
    )
    end_lease(store)
    return removal


def test_another_node_goes_on_with_a_removal_and_a_third_undoes_it(
    store: Store,
) -> None:
    removals = Removals(store)
    removal = left(store)
    store.part(MessageLog).removals.remove(APP, "act", [1, 2, 3])
    removals.runner.look()
    assert bodies(store) == [b"ham"]
    assert store.rows("SELECT state FROM removal") == [(DONE,)]
    assert removals.count(APP, "act") == MESSAGES
    assert removals.change_state(removal, UNDOING, (UNDER_WAY, DONE))
    end_lease(store)
    removals.runner.look()
    assert bodies(store) == [b"spam"] * MESSAGES + [b"ham"]
    assert removals.get(APP, "act") is None


def test_a_removal_that_is_undone_while_it_is_under_way_stops(store: Store) -> None:
    removals = Removals(store)
    removal = removals.begin(APP, "ann", 0, 0)
    removals.undo(APP, removal.id)
    assert removals.wait(removal, 60)
    assert bodies(store) == [b"spam"] * MESSAGES + [b"ham"]


@pytest.mark.parametrize("state", [DONE, ENDING])
def test_a_removal_is_final_when_its_time_is_over(store: Store, state: int) -> None:
    removals = Removals(store)
    removal = removals.remove(APP, "ann", range(1, MESSAGES + 1), False)
    assert removals.count(APP, removal.id) == MESSAGES
    store.execute(
        "UPDATE removal SET state = %s, ends = %s, leased = 0", (state, int(time()) - 1)
    )
    with pytest.raises(ServiceRefused):
        removals.undo(APP, removal.id)
    removals.runner.look()
    assert removals.get(APP, removal.id) is None
    assert store.rows("SELECT id FROM removed_message") == []
    assert bodies(store) == [b"ham"]


def test_mutes_are_read_by_when_they_were_changed(store: Store) -> None:
    rows = MuteRows(store)
    rows.mute(APP, "ann", 500, "spam")
    ann = rows.mute(APP, "ann", 600, "more spam")
    bob = rows.mute(APP, "bob", 0, "")
    found, now = rows.changed(0)
    assert sorted(found, key=lambda row: row.user) == [ann, bob]
    assert bob.until < now < ann.until
    assert rows.changed(now + 60)[0] == []
    rows.forget(-60)
    assert rows.changed(0)[0] == [ann]


@pytest.mark.needs("faketime")
@pytest.mark.parametrize(  # SQLite has the clock of its node
    "url",
    ["postgresql", pytest.param("mysql", marks=pytest.mark.full("sampled"))],
    indirect=True,
)
def test_a_node_whose_clock_is_wrong_neither_ends_nor_takes_over_a_removal_nor_hides_a_mute(
    store: Store, url: str, tmp_path: Path
) -> None:
    removals = Removals(store)
    removal = removals.remove(APP, "ann", range(1, MESSAGES + 1), False)
    removals.add(Removal(APP, "held", "ann", UNDOING, 0, 0, 0, 0), 60)
    store.execute("UPDATE removal SET leased = leased + 600 WHERE id = 'held'")
    command = [require("faketime"), "-m", "-f"]
    more = [sys.executable, "-c", OTHER_NODE, url]
    others = [
        spawn([*command, clock, *more, str(tmp_path / clock), clock])
        for clock in ("+1h", "-1h")
    ]
    assert [other.wait(60) for other in others] == [0, 0]
    assert removals.get(APP, "held"), "another node works on it"
    removals.undo(APP, removal.id)
    assert removals.wait(removal, 60)
    assert bodies(store) == [b"spam"] * MESSAGES + [b"ham"]
    found, now = MuteRows(store).changed(int(time()) - 60)
    assert {row.user for row in found} == {"+1h", "-1h"}
    assert all(now < row.until <= now + 600 for row in found)


# --- what those see and hear of reports who decide about them -----------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Harness]:
    of_features = sections(
        accounts={"registration": True, "registrations_per_address": 0}
    )
    harness = Harness(config(tmp_path, of_features=of_features))
    yield harness
    harness.close()


def person(node: Harness, name: str, role: str = "member") -> User:
    user = User.register(node, "201", name=name.lower(), nickname=name)
    User(node, ALL.key, app="201").post("accounts/role", user=user.user, role=role)
    return user


def notices(user: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = user.get("messages/sync", after=0, limit=200)[
        "messages"
    ]
    return [each for each in found if not each["from"]]


def test_reports_name_people_and_the_group(node: Harness) -> None:
    ann = person(node, "Ann")
    bob = person(node, "Bob")
    moderator = person(node, "Moe", "moderator")
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
    ann = person(node, "Ann")
    bob = person(node, "Bob")
    owner = person(node, "Owen", "owner")
    other = person(node, "Olga", "owner")
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
    bob = person(node, "Bob")
    owner = person(node, "Owen", "owner")
    other = person(node, "Olga", "owner")
    bob.post("reports/send", person=owner.user, reason="scam")
    assert notices(owner) == []
    (notice,) = notices(other)
    assert notice["text"].startswith("Owen was reported (scam).")
    bob.post("reports/send", person=other.user, reason="scam")
    (notice,) = notices(owner)
    assert notice["text"].startswith("Olga was reported (scam).")


def test_reports_do_not_name_an_erased_moderator(tmp_path: Path, url: str) -> None:
    """On every engine."""
    of_features = sections(
        accounts={"registration": True, "registrations_per_address": 0}
    )
    node = Harness(
        config(
            tmp_path, storage=StorageSettings(url, seconds=60), of_features=of_features
        )
    )
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


def test_who_is_held_is_listed_with_end_reason_and_who_did_it(
    tmp_path: Path, url: str
) -> None:
    """On every engine."""
    of_features = sections(
        accounts={"registration": True, "registrations_per_address": 0}
    )
    node = Harness(
        config(
            tmp_path, storage=StorageSettings(url, seconds=60), of_features=of_features
        )
    )
    ann = person(node, "Ann", "moderator")
    bob = person(node, "Bob")
    cid = person(node, "Cid", "moderator")
    operator = User(node, ALL.key, app="201")
    operator.post("moderation/mute", user=cid.user, seconds=60)
    ann.post("moderation/ban", user=bob.user, seconds=0, reason="Spam.")
    until = ann.post(
        "moderation/mute", user=bob.user, seconds=600, reason="Calm down."
    )["until"]
    operator.post("accounts/lock", user=person(node, "Eve").user)  # a lock is no ban

    def holds(**query: Any) -> list[tuple[Any, ...]]:
        rows = ann.get("moderation/holds", **query)["holds"]
        return [tuple(row.values()) for row in rows]

    by_ann = f"staff:201/{ann.user}"
    of_bob = [
        (bob.user, "ban", None, "Spam.", by_ann),
        (bob.user, "mute", until, "Calm down.", by_ann),
    ]
    first = ann.get("moderation/holds", limit=1)
    assert first["names"] == {ann.user: "Ann", bob.user: "Bob"}
    (of_cid,) = holds(cursor=first["next"])
    assert (of_cid[:2], of_cid[3]) == ((cid.user, "mute"), "")
    assert of_cid[4].startswith("key:")
    assert holds() == [*of_bob, of_cid]
    assert holds(users=f"{ann.user},{bob.user}") == of_bob
    report = ann.post("reports/send", person=bob.user, reason="spam")["report"]
    assert (
        ann.get("reports/show", id=report)["holds"]
        == ann.get("moderation/holds", users=bob.user)["holds"]
    )
    ann.post("moderation/unban", user=bob.user)
    ann.post("moderation/unmute", user=bob.user)
    assert holds(users=bob.user) == []
    node.close()
