"""The test kit: clients of a node, and two nodes of a cluster."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from imserver.messenger.inbox import FEATURE
from imserver.plugin import FeatureRow
from imserver.plugin.storage import Store
from imserver.plugin.testing import NodeProcess, check_absent, check_tables

KEY = "push-key-of-the-tests"
SETTINGS: dict[str, Any] = {
    "api": {"keys": [{"key": KEY, "scopes": ["push", "read"]}]},
    "apps": {"shop": {"open": True}},
}


def test_a_client_on_one_node_hears_a_back_end_on_another(redis_url: str) -> None:
    settings = {**SETTINGS, "redis": {"addr": redis_url.removeprefix("redis://")}}
    with (
        NodeProcess(features=[], settings=settings) as first,
        first.another() as second,
        second.stream("/api/v1/events?app=shop&user=ann") as lines,
    ):
        assert first.post("/api/v1/push", {"app": "shop"}).status == 401
        assert next(line for line in lines if "ready" in line)
        push = {"app": "shop", "user": "ann", "text": "hello"}
        assert first.post("/api/v1/push", push, key=KEY).json["sent"] == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(
                lambda: next(line for line in lines if "hello" in line)
            ).result(30)


def test_a_node_that_does_not_start_leaves_no_folder() -> None:
    program = "import os; print(os.getcwd()); raise SystemExit(1)"
    with pytest.raises(AssertionError, match="exit status 1") as error:
        NodeProcess(command=(sys.executable, "-c", program))
    _, folder, *_ = str(error.value).splitlines()
    assert Path(folder).is_absolute()
    assert not Path(folder).exists()


def test_a_failure_gets_the_end_of_the_log_of_the_node() -> None:
    with pytest.raises(AssertionError) as caught, NodeProcess(features=["messages"]):
        raise AssertionError("wrong")
    (note,) = caught.value.__notes__
    assert note.startswith("The end of the log of the node:\n")
    assert "INFO" in note


def test_a_present_feature_is_not_absent() -> None:
    with (
        NodeProcess(features=["messages", "inbox"]) as node,
        pytest.raises(AssertionError),
    ):
        check_absent(node, FEATURE)


def test_rows_that_stay_are_noticed() -> None:
    def fill(store: Store, app: str, user: str) -> None:
        values = "(app, member, conversation, version, pinned, archived, marked, draft)"
        store.execute(
            f"INSERT INTO arrangement {values} VALUES (%s, %s, 7, 1, 0, 0, 0, %s)",
            (app, user, b""),
        )

    def with_erasure(statement: str) -> FeatureRow:
        (table,) = FEATURE.tables
        return structs.replace(
            FEATURE, tables=(structs.replace(table, erase_user=(statement,)),)
        )

    check_tables(FEATURE, fill)
    with pytest.raises(AssertionError, match="no row in arrangement"):
        check_tables(FEATURE, lambda *_: None)
    with pytest.raises(AssertionError):
        check_tables(
            with_erasure("DELETE FROM arrangement WHERE app = %s AND member < %s"), fill
        )
    with pytest.raises(AssertionError, match="rows of others were erased"):
        check_tables(
            with_erasure("DELETE FROM arrangement WHERE app = %s AND member >= %s"),
            fill,
        )
