"""What the core hears where no feature answers its questions about back ends."""

from types import SimpleNamespace
from typing import Any

import pytest

from imserver.auth.back_ends import BackEndUnavailable, NoBackEnds
from imserver.auth.observer import NoObserver
from imserver.auth.reviews import ALLOWED, UNDECIDED, NoReviews, ReviewDecision
from imserver.config.settings import TenantSettings, WebhookSettings
from imserver.model import ClientFacts

CONNECTION: Any = SimpleNamespace()


def test_nobody_reviews() -> None:
    reviews, decisions = NoReviews(), list[ReviewDecision]()
    assert "101" not in reviews.apps
    assert reviews.decide("101", {}) == UNDECIDED
    reviews.review("101", {}, decisions.append, CONNECTION)
    reviews.pass_by(decisions.append, CONNECTION)
    assert decisions == [UNDECIDED, ALLOWED]


def test_nobody_decides() -> None:
    back_ends, facts = NoBackEnds(), ClientFacts("websocket", {})
    assert not back_ends.is_ready("101")
    assert not back_ends.has("101", "connect")
    assert back_ends.authorise("101", "ann", "", "cmd", "", "") is None
    assert back_ends.facts_of("101", "websocket", {}) is None
    back_ends.add_headers("101", facts, {"a": "b"})
    assert facts.headers == {}
    with pytest.raises(BackEndUnavailable):
        back_ends.ask("101", "subscribe", CONNECTION, {}, dict)


def test_nobody_hears() -> None:
    observer = NoObserver()
    assert not observer.observes(TenantSettings(webhook=WebhookSettings("http://x/")))
    assert not observer.known
    assert "101" not in observer.apps
    assert observer.recorder("101", "account") is observer.undelivered("101") is None
    observer.began(CONNECTION)
    observer.ended(CONNECTION, 1000)
    observer.message("101", "ann", {})
    observer.absent("101", [])
    observer.committed("101", 1, 1, [])
    observer.expire()
