"""Removals go on after the end of a node, come back within their time only, and end for good."""

from time import time

import pytest
from msgspec.structs import replace

from imserver.features.safety.removals import Removals, UnknownAct
from imserver.features.safety.rows import DONE, ENDING, UNDER_WAY, UNDOING, MuteRow, Removal, SafetyRows
from imserver.messages.log.contract import Appended, Draft
from imserver.messages.log.message_log import MessageLog
from imserver.storage.store import Store
from tests.storage.conftest import OpenStore

APP = "shop"
MESSAGES = 120
"""More than two transactions remove."""


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
    return [each.body for each in store.part(MessageLog).entries.read(APP, 0, 1000) if each.kind == "message"]


def left(rows: SafetyRows, **changes: int) -> Removal:
    """A removal that a node has left under way, whose lease is over."""
    reached, last = rows.store.part(MessageLog).removals.extent(APP, 0, 0)
    now = int(time())
    removal = Removal(APP, "act", "ann", UNDER_WAY, 0, 0, reached, last, now, now + 60, now - 60)
    rows.add(replace(removal, **changes))
    return removal


def test_another_node_goes_on_with_a_removal_and_a_third_undoes_it(store: Store) -> None:
    rows = SafetyRows(store)
    removal = left(rows)
    store.part(MessageLog).removals.remove(APP, "act", [1, 2, 3])
    Removals(rows).tick()
    assert bodies(store) == [b"ham"]
    found = rows.get(APP, "act")
    assert found is not None
    assert found.state == DONE
    assert Removals(rows).count(APP, "act") == MESSAGES
    assert rows.change_state(removal, UNDOING, int(time()), (UNDER_WAY, DONE))
    rows.reach(removal, 0, int(time()) - 60)
    Removals(rows).tick()
    assert bodies(store) == [b"spam"] * MESSAGES + [b"ham"]
    assert rows.get(APP, "act") is None


def test_a_removal_that_is_undone_while_it_is_under_way_stops(store: Store) -> None:
    rows = SafetyRows(store)
    removals = Removals(rows)
    removal = removals.begin(APP, "ann", 0, 0)
    removals.undo(APP, removal.id)
    assert removals.wait(removal, 60)
    assert bodies(store) == [b"spam"] * MESSAGES + [b"ham"]


def test_a_removal_is_final_when_its_time_is_over(store: Store) -> None:
    rows = SafetyRows(store)
    removals = Removals(rows)
    removal = removals.remove(APP, "ann", range(1, MESSAGES + 1), False)
    assert removals.count(APP, removal.id) == MESSAGES
    store.execute("UPDATE removal SET ends = %s, leased = 0 WHERE app = %s", (int(time()) - 1, APP))
    with pytest.raises(UnknownAct):
        removals.undo(APP, removal.id)
    removals.tick()
    assert rows.get(APP, removal.id) is None
    assert store.rows("SELECT id FROM removed_message") == []
    assert bodies(store) == [b"ham"]


def test_a_node_that_ended_while_copies_were_erased_is_replaced(store: Store) -> None:
    rows = SafetyRows(store)
    store.part(MessageLog).removals.remove(APP, "act", [1])
    left(rows, state=ENDING)
    Removals(rows).tick()
    assert store.rows("SELECT id FROM removed_message") == []
    assert rows.get(APP, "act") is None


def test_mutes_are_read_by_when_they_were_changed(store: Store) -> None:
    rows = SafetyRows(store)
    rows.mute(MuteRow(APP, "ann", 500, "spam"), 100)
    rows.mute(MuteRow(APP, "ann", 600, "more spam"), 200)
    rows.mute(MuteRow(APP, "bob", 700, ""), 150)
    assert rows.mutes(160) == [MuteRow(APP, "ann", 600, "more spam")]
    rows.forget_mutes(650)
    assert rows.mutes(0) == [MuteRow(APP, "bob", 700, "")]
