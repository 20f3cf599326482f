"""Retention: what each app keeps, looked after in the background."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from imserver.gateway.config.settings import TenantSettings, app_settings_of, settings_of
from imserver.gateway.metrics import Metrics
from imserver.messenger.messages.declared import AppRetention, RetentionSettings
from imserver.messenger.messages.retention import Retention
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.test_config import read, refusal

APPS = {
    "old": TenantSettings(of_features=(AppRetention(retention_seconds=60),)),
    "few": TenantSettings(of_features=(AppRetention(retention_messages=3),)),
    "all": TenantSettings(),
}


POSITIONS: Any = SimpleNamespace(written=())


class ExpiringLog:
    """A log that notes what it is asked to let expire."""

    def __init__(self) -> None:
        self.entries = self
        self.expirations: list[tuple[str, float, int]] = []

    def apps(self) -> list[str]:
        return ["all", "few", "old", "unknown"]

    def expire(
        self, app: str, *, older_than_seconds: float = 0, more_than: int = 0, upto: int | None = None
    ) -> int:
        assert upto is None
        self.expirations.append((app, older_than_seconds, more_than))
        return 5


def store_of(log: ExpiringLog | None) -> Any:
    return SimpleNamespace(has_database=log is not None, part=lambda _make: log)


def test_retention_is_that_of_the_app_or_else_of_the_server() -> None:
    log, metrics = ExpiringLog(), Metrics()
    rules = RetentionSettings(retention_messages=1)
    assert Retention(rules, APPS.get, store_of(None), metrics, POSITIONS, ()).expire() == 0
    retention = Retention(RetentionSettings(), APPS.get, store_of(log), metrics, POSITIONS, ())
    assert retention.expire() == 10
    assert log.expirations == [("few", 0, 3), ("old", 60, 0)]
    assert metrics.expired == 10
    log.expirations.clear()
    rules = RetentionSettings(retention_seconds=9, retention_messages=7)
    Retention(rules, APPS.get, store_of(log), metrics, POSITIONS, ()).expire()
    assert log.expirations == [("all", 9, 7), ("few", 9, 3), ("old", 60, 7), ("unknown", 9, 7)]


def test_renamed_settings_are_stored_as_the_release_before_reads_them(node: Make) -> None:
    one = node()
    one.tenants.register("105", store_conversations=True, retention_seconds=9)
    one.tenants.change("105", {"keep_seconds": 8}, ["keep_talks"])
    one.tenants.register("106", keep_talks=True)
    rows = one.store.read(lambda sql: sql.query("SELECT name, settings FROM app ORDER BY name"))
    assert [json.loads(settings) for _, settings in rows] == [{"keep_seconds": 8.0}, {"keep_talks": True}]
    found = [node().tenants.find(name) for name in ("105", "106")]
    assert [
        (app_settings_of(each, AppRetention).retention_seconds, each.store_conversations)
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
    assert refusal(tmp_path, both).endswith("storage.retention_seconds is given twice, in two spellings")
