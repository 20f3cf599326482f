"""Retention: what each app keeps; and where users stand whose clients cannot
say it."""

import json
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

from imserver.gateway.config.settings import (
    TenantSettings,
    app_settings_of,
    settings_of,
)
from imserver.gateway.metrics import Metrics
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.declared import AppRetention, RetentionSettings
from imserver.messenger.messages.retention import Retention
from imserver.messenger.messages.services import MessageServices
from imserver.messenger.search.word_index import WordIndex
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.node.test_node import Harness
from tests.gateway.test_config import read, refusal
from tests.messenger.log.test_log import APP, say, stored
from tests.messenger.search.test_word_index import indexed, pad
from tests.stores import OpenStore, WriteAt

APPS = {
    "old": TenantSettings(of_features=(AppRetention(retention_seconds=60),)),
    "few": TenantSettings(of_features=(AppRetention(retention_messages=3),)),
    "all": TenantSettings(),
}


POSITIONS: Any = SimpleNamespace(written=())


def test_retention_is_that_of_the_app_or_else_of_the_server(
    open_store: OpenStore, write_at: WriteAt
) -> None:
    store = open_store()
    metrics = Metrics()
    names = (*APPS, "unknown")

    observers: Any = [
        SimpleNamespace(undelivered={"all": 2}.get),
        SimpleNamespace(undelivered={"all": 1}.get),
    ]

    def expire(**rules: float) -> tuple[int, list[int]]:
        """How many entries have expired, and how many each app has left."""
        count = Retention(
            RetentionSettings(**rules), APPS.get, store, metrics, POSITIONS, observers
        ).expire()  # type: ignore[arg-type]
        return count, [len(log.entries.read(app, 0, 9)) for app in names]

    log = store.part(MessageLog)
    assert (expire(retention_messages=1)[0], store.has_database) == (0, False)
    now = time()
    for age in (100, 50, 40, 20, 0):
        write_at(now - age)
        for app in names:
            log.writer.append(app, [Draft(sender="ann", to_user="bob")])
    assert expire() == (3, [4, 3, 5, 5]), (
        "of one app what is old, of another all but a few"
    )
    assert metrics.expired == 3
    assert expire(retention_seconds=45, retention_messages=4) == (3, [4, 3, 4, 3]), (
        "an observer needs what is after 1"
    )
    observers.clear()
    assert expire(retention_messages=2) == (5, [2, 3, 2, 2])


def test_what_expires_leaves_the_index_of_words(
    store: Store, log: MessageLog, words: WordIndex
) -> None:
    stored(log, say("ann", "bob", "an old needle"))
    pad(log)
    assert words.fill(APP)
    assert indexed(store, "needle")
    rules = RetentionSettings(retention_messages=10)
    retention = Retention(rules, APPS.get, store, Metrics(), POSITIONS, [])
    assert retention.expire() > 0
    assert not indexed(store, "needle")


def test_renamed_settings_are_stored_as_the_release_before_reads_them(
    node: Make,
) -> None:
    one = node()
    one.tenants.register("105", store_conversations=True, retention_seconds=9)
    one.tenants.change("105", {"keep_seconds": 8}, ["keep_talks"])
    one.tenants.register("106", keep_talks=True)
    rows = one.store.read(
        lambda sql: sql.query("SELECT name, settings FROM app ORDER BY name")
    )
    assert [json.loads(settings) for _, settings in rows] == [
        {"keep_seconds": 8.0},
        {"keep_talks": True},
    ]
    found = [node().tenants.find(name) for name in ("105", "106")]
    assert [
        (
            app_settings_of(each, AppRetention).retention_seconds,
            each.store_conversations,
        )
        for each in found
        if each
    ] == [(8, False), (0, True)]


def test_settings_are_read_under_their_old_names_with_a_warning(tmp_path: Path) -> None:
    text = "storage: {keep_seconds: 5}\napps:\n  101: {keepTalks: true, keep_messages: 4}\n"
    config = read(tmp_path, text, {"IMSERVER_STORAGE_KEEP_MESSAGES": "7"})
    assert settings_of(config, RetentionSettings) == RetentionSettings(5, 7)
    assert config.apps["101"].store_conversations
    assert app_settings_of(config.apps["101"], AppRetention).retention_messages == 4
    assert [warning.rpartition(": ")[2] for warning in config.warnings] == [
        f"the old name of {name}, which the next release does not know"
        for name in (
            "storage.retention_messages",
            "retention_seconds",
            "store_conversations",
            "retention_messages",
        )
    ]
    both = "storage:\n  keep_seconds: 5\n  retention_seconds: 6\n"
    assert refusal(tmp_path, both).endswith(
        "storage.retention_seconds is given twice, in two spellings"
    )


# --- where users stand whose clients cannot say it, on every engine -----------

MANY = 600
"""More than go into one statement."""


@pytest.fixture
def positions(url: str, open_store: OpenStore) -> ActionPositions:
    """Those in a new database, once on each engine."""
    return ActionPositions(open_store(url, seconds=10))


def test_a_position_is_remembered_per_app_and_user_and_never_goes_back(
    positions: ActionPositions,
) -> None:
    assert positions.get("action:1", "ann") == {"": 0}
    before = {
        ("action:1", "ann"): 5,
        ("action:1", "ANN"): 10**12,
        ("action:2", "ann"): 1,
        ("action:1", "安"): 3,
    }
    many = {("action:1", f"u{number}"): number for number in range(MANY)}
    positions.raise_to(
        [(app, user, "", id) for (app, user), id in (before | many).items()]
    )
    positions.raise_to([("action:1", "ANN", "", 7), ("action:1", "ann", "", 6)])
    for (app, user), id in {**before, ("action:1", "ann"): 6, **many}.items():
        assert positions.get(app, user) == {"": id}
    assert positions.get("action:1", "ann ") == {"": 0}


def test_rooms_have_positions_of_their_own_and_a_room_without_one_was_never_entered(
    positions: ActionPositions,
) -> None:
    positions.raise_to(
        [
            ("action:1", "ann", "r", 0),
            ("action:1", "ann", "", 9),
            ("action:1", "bob", "s", 3),
        ]
    )
    assert positions.get("action:1", "ann", ["r", "s"]) == {"": 9, "r": 0}
    positions.raise_to([("action:1", "ann", "r", 7), ("action:1", "ann", "s", 8)])
    positions.raise_to([("action:1", "ann", "r", 6)])
    assert positions.get("action:1", "ann", ["r", "s"]) == {"": 9, "r": 7, "s": 8}
    assert positions.get("action:1", "ann", ["s"]) == {"": 9, "s": 8}


def test_a_user_has_positions_in_so_many_rooms_and_the_oldest_go_first(
    positions: ActionPositions,
) -> None:
    rooms = [f"r{number}" for number in range(6)]
    for number, room in enumerate(rooms):
        positions.begin("action:1", "ann", room, number, most=4)
    positions.begin("action:1", "bob", "r0", 0, most=4)
    assert positions.get("action:1", "ann", rooms) == {
        "": 0,
        **{room: int(room[1:]) for room in rooms[2:]},
    }
    assert positions.get("action:1", "bob", ["r0"]) == {"": 0, "r0": 0}
    for number in range(10):
        positions.begin("action:1", "eve", f"r{number}", 0, most=4)
    found = positions.get("action:1", "eve", [f"r{number}" for number in range(10)])
    assert len(found) == 1 + 4
    assert "r9" in found, "the new one stays where all are equally old"


def test_positions_expire_with_the_messages_before_them_and_go_with_their_user(
    positions: ActionPositions,
) -> None:
    rows = [
        (app, "ann", room, id)
        for app in ("action:1", "action:2")
        for room, id in (("", 4), ("r", 5))
    ]
    positions.raise_to(rows)
    assert positions.written == {"action:1", "action:2"}
    assert positions.expire("action:1", 4) == 0
    assert positions.expire("action:1", 5) == 1
    assert positions.get("action:1", "ann", ["r"]) == {"": 0, "r": 5}
    positions.forget("action:1", "ann")
    assert positions.get("action:1", "ann", ["r"]) == {"": 0}
    assert positions.get("action:2", "ann", ["r"]) == {"": 4, "r": 5}


def test_an_app_has_so_many_positions(positions: ActionPositions) -> None:
    positions.raise_to(
        [
            ("action:1", f"u{number}", room, number)
            for number in range(9)
            for room in ("", "r")
        ]
    )
    assert positions.expire("action:1", 0, most=4) == 10
    assert positions.get("action:1", "u4", ["r"]) == {"": 0}
    assert positions.get("action:1", "u5", ["r"]) == {"": 5, "r": 5}


@pytest.mark.sqlite_first
def test_what_clients_of_the_action_dialect_acknowledge_at_last_is_stored(
    tmp_path: Path, url: str, open_store: OpenStore
) -> None:
    with Harness(tmp_path) as harness:
        node = harness.start(storage={"url": url, "seconds": 60})
        harness.join(node, "ann")
        positions = node.core.service(MessageServices).messaging.positions
        node.core.network.ended.append(
            lambda *_: positions.prove("action:1", "ann", ["", "r"], 7)
        )
        node.stop()
    positions = ActionPositions(open_store(url))
    assert positions.get("action:1", "ann", ["r"]) == {"": 7, "r": 7}
