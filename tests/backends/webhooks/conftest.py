"""What delivers to back ends, with short pauses and small limits."""

from collections.abc import Callable
from typing import Any

import pytest

from imserver.backends.webhooks import (
    absences,
    consumer,
    event_rows,
    feeds,
    parts,
    requests,
    reviews,
)
from imserver.backends.webhooks.consumer import Consumer, DeliveryLease
from tests.gateway.transport.harness import turn

Constants = dict[tuple[Any, str], Any]
SHORT: Constants = {
    (feeds, "LOOK_SECONDS"): 0.02,
    (feeds, "GATHER_SECONDS"): 0.01,
    (feeds, "RENEW_SECONDS"): 0.1,
    (feeds, "RETRY_SECONDS"): 0.05,
    (consumer, "LOOK_SECONDS"): 0.01,
    (DeliveryLease, "RENEW_SECONDS"): 0.1,
    (absences, "GATHER_SECONDS"): 0.01,
    (parts, "VACATED_SECONDS"): 0.02,
}
SMALL: Constants = {
    (requests, "ASK_SECONDS"): 0.5,
    (requests, "REQUESTS_AT_ONCE"): 1,
    (requests, "MAX_WAITING"): 5,
    (requests, "MAX_BYTES"): 50,
    (reviews, "MAX_WAITING"): 5,
    (reviews, "MAX_OF_CONNECTION"): 2,
    (reviews, "MAX_WAITING_BYTES"): 1000,
    (event_rows, "MAX_RETRIES"): 3,
    (event_rows, "MAX_WAITING_BYTES"): 100,
}


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> Callable[[Constants], None]:
    """Gives constants other values."""

    def give(values: Constants) -> None:
        for (owner, name), value in values.items():
            monkeypatch.setattr(owner, name, value)

    return give


@pytest.fixture
def quick(hasty_consumers: None, constants: Callable[[Constants], None]) -> None:
    """Short pauses."""
    constants(SHORT)


@pytest.fixture
def small_limits(constants: Callable[[Constants], None]) -> None:
    """Few questions to a back end at a time, which few others wait for, and not
    for long; few events."""
    constants(SMALL)


class Pauses:
    """Stands for the clock and the pauses after failures, which are noted and
    take no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.seconds: list[float] = []

    def of(self, one: Consumer[object]) -> None:
        """Take the place of the pauses of a consumer."""
        one._retry = self  # type: ignore[assignment]

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.now += seconds
        turn()

    def set(self) -> None:
        pass

    clear = set


@pytest.fixture
def pauses(constants: Callable[[Constants], None]) -> Pauses:
    result = Pauses()
    constants(
        {(module, "monotonic"): result.monotonic for module in (consumer, requests)}
    )
    return result
