"""Retention: what each app keeps, looked after in the background."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from imserver.config.settings import TenantSettings
from imserver.errors import StorageUnavailable
from imserver.messages.declared import AppRetention, RetentionSettings
from imserver.messages.retention import Retention
from imserver.metrics import Metrics
from tests.core.memory_log import MemoryStore
from tests.transport.harness import until

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
        self.looks = 0
        self.away = False

    def apps(self) -> list[str]:
        self.looks += 1
        if self.away:
            raise StorageUnavailable("away")
        return ["all", "few", "old", "unknown"]

    def expire(
        self, app: str, *, older_than_seconds: float = 0, more_than: int = 0, upto: int | None = None
    ) -> int:
        assert upto is None
        self.expirations.append((app, older_than_seconds, more_than))
        return 5


def test_retention_is_that_of_the_app_or_else_of_the_server() -> None:
    log, metrics = ExpiringLog(), Metrics()
    retention = Retention(RetentionSettings(), 60.0, APPS.get, MemoryStore(log), metrics, POSITIONS, ())
    assert retention.expire() == 10
    assert log.expirations == [("few", 0, 3), ("old", 60, 0)]
    assert metrics.expired == 10
    log.expirations.clear()
    Retention(
        RetentionSettings(retention_seconds=9, retention_messages=7),
        60.0,
        APPS.get,
        MemoryStore(log),
        metrics,
        POSITIONS,
        (),
    ).expire()
    assert log.expirations == [("all", 9, 7), ("few", 9, 3), ("old", 60, 7), ("unknown", 9, 7)]


def test_without_a_database_nothing_expires() -> None:
    assert (
        Retention(
            RetentionSettings(retention_messages=1),
            60.0,
            APPS.get,
            MemoryStore(None),
            Metrics(),
            POSITIONS,
            (),
        ).expire()
        == 0
    )


def test_it_looks_again_after_the_database_was_away(caplog: pytest.LogCaptureFixture) -> None:
    log = ExpiringLog()
    log.away = True
    retention = Retention(RetentionSettings(), 0.001, APPS.get, MemoryStore(log), Metrics(), POSITIONS, ())
    running = gevent.spawn(retention.run)
    until(lambda: log.looks >= 3)
    log.away = False
    until(lambda: log.expirations)
    running.kill()
    assert "Traceback" not in caplog.text
