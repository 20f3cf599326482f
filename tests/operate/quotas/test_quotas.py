"""Quotas: what an app uses is added up over nodes, and ends at the quota until
the day ends."""

from pathlib import Path
from time import time
from types import SimpleNamespace as Services
from typing import Any

import pytest

from imserver.gateway.errors import QuotaSpent
from imserver.gateway.metrics import CountsByApp
from imserver.operate.quotas import FEATURE
from imserver.operate.quotas.declared import QuotaSettings, QuotasOfApp
from imserver.operate.quotas.quotas import Quotas, UsageRows, Used
from imserver.plugin.identity import Tenant
from imserver.plugin.storage import Store
from imserver.plugin.testing import NodeProcess, check_tables, eventually
from tests.gateway.storage.test_migrations import connected
from tests.stores import OpenStore
from tests.support import run_cli

TODAY = int(time()) // 86_400


def tenant(pushes: int = 0, messages: int = 0) -> Tenant:
    return Tenant(
        name="shop", of_features=(QuotasOfApp(QuotaSettings(pushes, messages)),)
    )


class OneNode:
    def __init__(self, store: Store, of_app: Tenant) -> None:
        self.pushes, self.messages = CountsByApp(), CountsByApp()
        metrics = Services(pushes=self.pushes, stored=self.messages)
        core = Services(store=store, metrics=metrics)
        self.quotas = Quotas(core)  # type: ignore[arg-type]
        self.quotas.changed(of_app)
        self.quotas.look()


def test_a_node_stops_at_the_quota_and_says_until_when(open_store: OpenStore) -> None:
    node = OneNode(open_store(), tenant(pushes=3))
    for _ in range(3):
        node.pushes.require("shop")
        node.pushes["shop"] += 1
    node.pushes.require("another")
    node.messages.require("shop")
    with pytest.raises(
        QuotaSpent, match=r"its 3 pushes of today; the next day begins at 20\d\d-"
    ) as spent:
        node.pushes.require("shop")
    assert spent.value.until in {(TODAY + 1) * 86_400, (TODAY + 2) * 86_400}
    node.quotas.changed(tenant())
    node.pushes.require("shop")


def test_nodes_add_up_what_they_have_counted(url: str, open_store: OpenStore) -> None:
    nodes = [OneNode(open_store(url), tenant(pushes=10, messages=10)) for _ in range(2)]
    for node in nodes:
        node.pushes["shop"] += 5
        node.messages["shop"] += 2
        node.quotas.look()
    nodes[0].quotas.look()
    for node in nodes:
        with pytest.raises(QuotaSpent):
            node.pushes.require("shop")
        assert node.messages.spent("shop") is None
    (used,) = nodes[0].quotas.days("shop", TODAY - 1)
    assert (used.pushes, used.messages) == (10, 4)


def test_a_restart_forgets_nothing(url: str, open_store: OpenStore) -> None:
    first = OneNode(open_store(url), tenant(pushes=4))
    first.pushes["shop"] += 4
    first.quotas.finish()
    again = OneNode(open_store(url), tenant(pushes=4))
    with pytest.raises(QuotaSpent):
        again.pushes.require("shop")


def test_nothing_is_written_for_apps_without_quotas(open_store: OpenStore) -> None:
    store = open_store()
    node = OneNode(store, tenant())
    node.pushes["shop"] += 5
    node.quotas.look()
    assert not store.has_database


def test_the_table_erases_and_exports(url: str) -> None:
    def fill(store: Store, app: str, _user: str) -> None:
        UsageRows(store).add(TODAY, {app: Used(TODAY, 1, 2)})

    check_tables(FEATURE, fill, url)


KEYS = {
    "admin": "the key of the operator of all apps",
    "shop": "the key of the operator of the shop",
    "other": "the key of the operator of another",
}


def test_requests_over_the_quota_are_refused_and_the_usage_is_shown(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "api": {
            "keys": [
                {"key": KEYS["admin"], "scopes": ["admin", "push"]},
                {"key": KEYS["shop"], "scopes": ["admin"], "apps": ["101"]},
                {"key": KEYS["other"], "scopes": ["admin"], "apps": ["102"]},
            ]
        },
        "apps": {
            "101": {
                "open": True,
                "quotas": {"pushes_per_day": 2, "messages_per_day": 1},
            },
            "102": {"open": True},
        },
    }
    message = {"app": "101", "user": "ann", "to": "bob", "text": "hi"}
    with NodeProcess(settings=settings, folder=tmp_path) as node:
        for number in range(2):
            answer = node.post(
                "/api/v1/messages/send",
                {**message, "text": f"{number}"},
                key=KEYS["admin"],
            )
            assert answer.status == (200, 429)[number], answer.body
        assert b"1 stored messages of today" in answer.body
        push = {"app": "101", "channel": "news", "data": {}}
        assert (
            node.post("/api/v1/channels/publish", push, key=KEYS["admin"]).status == 200
        )
        used = eventually(
            lambda: node.get("/api/v1/apps/usage?app=101", key=KEYS["shop"]).json[
                "days"
            ]
        )
        assert used[0]["messages"] == 1
        assert node.get("/api/v1/apps/usage?app=101", key=KEYS["other"]).status == 403
        shown = node.get("/api/v1/apps/usage?app=102", key=KEYS["other"]).json
        assert (shown["days"], shown["pushes_per_day"], shown["stored"]) == ([], 0, {})
        stored = node.get(
            "/api/v1/apps/usage?app=101&stored=true", key=KEYS["shop"]
        ).json["stored"]
        assert stored == {"accounts": 0, "groups": 0, "messages": 1, "uploads": 0}
        printed = run_cli(
            "app", "usage", "101", "--config", str(node.config_file)
        ).stdout.split()
        assert printed[4:9] == ["2,", "stored", "messages", "of", "a"]
        assert printed[-3:] == [used[0]["day"], str(used[0]["pushes"]), "1"]


def test_the_steps_of_a_folder_that_comes_back_are_taken(
    url: str, open_store: OpenStore
) -> None:
    open_store(url).close()
    with connected(url) as connection:
        connection.exec_driver_sql("DELETE FROM owner_step WHERE owner = 'quotas'")
        connection.exec_driver_sql("DROP TABLE app_usage")
    assert open_store(url).rows("SELECT * FROM app_usage") == []
