"""What the core hears where no feature, or more than one, answers its questions
about back ends."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.observer import Observer, observer_of
from imserver.gateway.auth.questions import (
    ALLOWED,
    UNDECIDED,
    AccountLookup,
    BackEnds,
    BackEndUnavailable,
    Relations,
    ReviewDecision,
    Reviews,
)
from imserver.gateway.config.settings import TenantSettings
from imserver.gateway.model import Event

CONNECTION: Any = SimpleNamespace()


def test_nobody_answers() -> None:
    reviews = Reviews()
    decisions = list[ReviewDecision]()
    assert reviews.decide("101", {}) == UNDECIDED
    reviews.review("101", {}, decisions.append, CONNECTION)
    reviews.pass_by(decisions.append, CONNECTION)
    assert decisions == [UNDECIDED, ALLOWED]
    back_ends = BackEnds()
    assert not back_ends.is_ready("101")
    assert not back_ends.has("101", "connect")
    assert back_ends.authorise("101", "ann", "", "cmd", "", "") is None
    assert back_ends.headers_of("101", {}) is None
    assert back_ends.emulated_headers_of("101", {"a": "b"}) == {}
    with pytest.raises(BackEndUnavailable):
        back_ends.ask("101", "subscribe", CONNECTION, {}, dict)
    relations = Relations()
    accounts = AccountLookup()
    assert relations.visible("101", "ann", ["bob"]) == {"bob"}
    questions = (relations.may_reach, relations.may_write, relations.may_see_presence)
    assert all(ask("101", "ann", "bob") for ask in questions)
    assert not relations.limits("101", "ann")
    assert [
        *relations.blocked_by("101", "ann", ["bob"]),
        *relations.blockers("101", "ann", 9),
    ] == []
    for read in (accounts.holder, accounts.proof_of):
        with pytest.raises(BadToken):
            read("token")
    assert not accounts.still_holds("101", "ann", "")


class Heard(Observer):
    """Notes what it hears, if it knows of connections."""

    def __init__(self, apps: Sequence[str], connections: Sequence[Any] = ()) -> None:
        self.apps = apps
        self.known = connections
        self.calls: list[str] = []

    def observes(self, settings: TenantSettings) -> bool:
        return bool(self.apps)

    def began(self, connection: Any) -> None:
        self.calls.append("began")

    def ended(self, connection: Any, code: int) -> None:
        self.calls.append(f"ended {code}")

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        self.calls.append(f"message of {sender}")

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        self.calls.append("absent")

    def recorder(self, app: str, kind: str) -> Any:
        return (
            (lambda _sql, _app, user, _facts: self.calls.append(f"{kind} of {user}"))
            if self.apps
            else None
        )


def test_several_hear_what_they_want_to_hear() -> None:
    first = Heard(["101"])
    second = Heard([], [CONNECTION])
    third = Heard(["101", "7"])
    observer = observer_of([first, second, third])
    assert observer.observes(TenantSettings())
    assert observer.known == [CONNECTION]
    observer.began(CONNECTION)
    observer.ended(CONNECTION, 1000)
    observer.message("101", "ann", {})
    observer.absent("101", [])
    record: Any = observer.recorder("101", "account")
    record(None, "101", "bob", {})
    common = ["began", "message of ann", "absent"]
    assert first.calls == [*common, "account of bob"]
    assert second.calls == ["began", "ended 1000", *common[1:]]
    assert third.calls == [*common, "account of bob"]
    silent = observer_of([second, Observer()])
    assert silent.recorder("101", "account") is None
    only = Observer()
    assert observer_of([only]) is only
    assert isinstance(observer_of([]), Observer)
