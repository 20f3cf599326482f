"""Requests under an id: carried out once, answered as the first was, on one node and on two."""

from collections.abc import Sequence

import gevent
import pytest

from imserver.cluster.registry import Claim
from imserver.model import Outcome
from imserver.push import idempotency
from imserver.push.idempotency import (
    Carried,
    Dedupe,
    First,
    IdClaim,
    IdReused,
    MessageIds,
    RequestIds,
    Waiting,
)

SENT, ABSENT, HELD, FAILED = Outcome.SENT, Outcome.NOT_SENT, Outcome.HELD, Outcome.FAILED


class SharedClaims:
    """The claims of a registry that two nodes share; ``away`` while it does not answer."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.away = False
        self.asked: list[list[str]] = []

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        self.asked.append(list(keys))
        if self.away:
            return None
        found = []
        for key in keys:
            state = self.states.get(key)
            if state is None:
                self.states[key] = "pending"
            found.append(Claim(key, state or "mine", "token"))  # type: ignore[arg-type]
        return found

    def settle(self, claim: Claim, accepted: bool) -> None:
        if accepted:
            self.states[claim.key] = "repeat"
        else:
            del self.states[claim.key]


def alone() -> RequestIds:
    return RequestIds(MessageIds(Dedupe(1000, 1000, shared=True)))


def among(claims: SharedClaims) -> RequestIds:
    return RequestIds(MessageIds(Dedupe(1000, 1000, shared=True), claims))  # type: ignore[arg-type]


def accept(ids: RequestIds, name: str, *outcomes: Outcome, app: str = "101", digest: int = 1) -> None:
    ticket = ids.begin(app, name, digest)
    assert isinstance(ticket, IdClaim)
    ids.end(ticket, outcomes)


def test_a_repeat_gets_the_outcomes_of_the_first() -> None:
    ids = alone()
    accept(ids, "a", SENT, ABSENT, HELD)
    again = ids.begin("101", "a", 1)
    assert isinstance(again, First)
    assert list(again.result) == [SENT, ABSENT, HELD]


@pytest.mark.parametrize("outcomes", [(), (ABSENT,), (FAILED, ABSENT)])
def test_an_id_under_which_nothing_was_accepted_may_be_used_again(outcomes: tuple[Outcome, ...]) -> None:
    ids = alone()
    accept(ids, "a", *outcomes)
    assert isinstance(ids.begin("101", "a", 2), IdClaim)


@pytest.mark.parametrize("outcome", [SENT, HELD, Outcome.PARTLY])
def test_one_target_that_was_accepted_uses_the_id_up(outcome: Outcome) -> None:
    ids = alone()
    accept(ids, "a", ABSENT, outcome)
    assert isinstance(ids.begin("101", "a", 1), First)


def test_another_request_under_the_same_id_is_refused() -> None:
    ids = alone()
    accept(ids, "a", SENT, digest=1)
    with pytest.raises(IdReused):
        ids.begin("101", "a", 2)


def test_ids_of_two_apps_are_two_ids_though_those_of_the_original_are_one_in_demo_mode() -> None:
    ids = alone()
    accept(ids, "a", SENT)
    assert isinstance(ids.begin("102", "a", 1), IdClaim)


def test_ids_of_apps_with_colons_in_their_names_stay_apart() -> None:
    ids = alone()
    accept(ids, "eu:order-17", SENT, app="shop")
    assert isinstance(ids.begin("shop:eu", "order-17", 2), IdClaim)
    names = MessageIds(Dedupe(1000, 1000, shared=False))
    assert names.name("shop", "eu:order-17") != names.name("shop:eu", "order-17")


def test_ids_are_not_those_of_the_cmd_routes() -> None:
    dedupe = Dedupe(1000, 1000, shared=True)
    accept(RequestIds(MessageIds(dedupe)), "a", SENT)
    assert dedupe.claim("101", "a")


def test_a_repeat_that_comes_meanwhile_waits_for_the_outcome() -> None:
    ids = alone()
    ticket = ids.begin("101", "a", 1)
    assert isinstance(ticket, IdClaim)
    second = gevent.spawn(ids.begin, "101", "a", 1)
    gevent.sleep(0)
    assert not second.ready()
    ids.end(ticket, [SENT])
    assert isinstance(second.get(timeout=60), First)


def test_first_outcomes_leave_when_there_are_too_many_and_the_id_stays_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idempotency, "MAX_FIRSTS", 3)
    ids = alone()
    for name in "abcdefgh":
        accept(ids, name, SENT)
    known = [isinstance(ids.begin("101", name, 1), First) for name in "abcdefgh"]
    assert known == [False] * 3 + [True] * 5
    assert ids.begin("101", "a", 1) is None


def test_first_outcomes_leave_when_they_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_FIRST_BYTES", 2000)
    ids = alone()
    accept(ids, "small", SENT)
    for name in ("large", "larger"):
        accept(ids, name, *[SENT] * 1900)
    assert ids.begin("101", "small", 1) is None
    assert isinstance(ids.begin("101", "larger", 1), First)


def test_another_node_knows_only_that_it_was_accepted() -> None:
    claims = SharedClaims()
    here, there = among(claims), among(claims)
    accept(here, "a", SENT)
    assert there.begin("101", "a", 1) is None
    assert there.begin("101", "a", 1) is None
    assert isinstance(here.begin("101", "a", 1), First)


def test_another_node_waits_for_the_outcome_and_may_then_try_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "LOOK_SECONDS", 0.001)
    claims = SharedClaims()
    here, there = among(claims), among(claims)
    ticket = here.begin("101", "a", 1)
    assert isinstance(ticket, IdClaim)
    other = gevent.spawn(there.begin, "101", "a", 1)
    gevent.sleep(0.01)
    assert not other.ready()
    here.end(ticket, [ABSENT])
    assert isinstance(other.get(timeout=60), IdClaim)


def test_while_the_registry_is_away_each_node_is_by_itself() -> None:
    claims = SharedClaims()
    claims.away = True
    here, there = among(claims), among(claims)
    accept(here, "a", SENT)
    assert isinstance(here.begin("101", "a", 1), First)
    assert isinstance(there.begin("101", "a", 1), IdClaim)


def test_a_registry_that_fails_leaves_nothing_claimed() -> None:
    claims = SharedClaims()
    ids = among(claims)

    def fail(_keys: Sequence[str]) -> None:
        raise OSError("gone")

    claims.claim, usual = fail, claims.claim  # type: ignore[assignment, method-assign]
    with pytest.raises(OSError, match="gone"):
        ids.begin("101", "a", 1)
    with pytest.raises(OSError, match="gone"):
        ids.begin_each("101", [("a", 1), ("b", 1)])
    claims.claim = usual  # type: ignore[method-assign]
    assert isinstance(ids.begin("101", "a", 1), IdClaim)


def test_many_ids_are_claimed_with_one_question() -> None:
    claims = SharedClaims()
    here, there = among(claims), among(claims)
    accept(here, "old", SENT)
    accept(there, "theirs", SENT)
    busy = there.begin("101", "busy", 1)
    assert isinstance(busy, IdClaim)
    claims.asked.clear()
    begun = here.begin_each("101", [("new", 1), ("old", 1), ("theirs", 1), ("busy", 1), ("old", 2)])
    assert [type(each) for each in begun] == [IdClaim, First, type(None), Waiting, IdReused]
    assert claims.asked == [[f"\0{101}\0{id}" for id in ("new", "theirs", "busy")]]
    there.end(busy, [ABSENT])
    assert isinstance(here.begin("101", "busy", 1), IdClaim)


def test_of_many_ids_one_that_is_claimed_on_this_node_is_not_waited_for() -> None:
    ids = alone()
    held = ids.begin("101", "a", 1)
    assert isinstance(held, IdClaim)
    first, second = ids.begin_each("101", [("a", 1), ("b", 1)])
    assert isinstance(first, Waiting)
    assert isinstance(second, IdClaim)


def test_many_requests_are_carried_out_once_and_those_that_another_request_holds_come_last() -> None:
    claims = SharedClaims()
    here, there = among(claims), among(claims)
    accept(here, "old", SENT)
    busy = there.begin("101", "busy", 1)
    assert isinstance(busy, IdClaim)
    requests = [("busy", 1), ("old", 1), ("new", 1), ("old", 2), ("absent", 1)]
    seen: list[tuple[str, bytes | None]] = []

    def carry_out(index: int, first: First | None) -> Carried[int]:
        name, _ = requests[index]
        seen.append((name, None if first is None else first.result))
        if name == "absent":
            there.end(busy, [SENT])
        return index, [ABSENT if name == "absent" else SENT], name.encode()

    with pytest.raises(IdReused):
        here.carry_out_each("101", requests, carry_out, all_or_none=True)
    results = here.carry_out_each("101", requests, carry_out)
    assert seen == [("old", bytes([SENT])), ("new", None), ("absent", None), ("busy", b"")]
    assert here.begin("101", "new", 1) == First(b"new")
    assert [each for each in results if not isinstance(each, IdReused)] == [0, 1, 2, 4]
    begun = here.begin_each("101", [("new", 1), ("absent", 2)])
    assert [type(each) for each in begun] == [First, IdClaim]


def test_a_request_that_fails_leaves_those_behind_it_unclaimed() -> None:
    ids = alone()
    requests = [("a", 1), ("b", 1), ("c", 1)]

    def carry_out(index: int, _first: First | None) -> Carried[None]:
        if index:
            raise OSError("gone")
        return None, [SENT], b""

    with pytest.raises(OSError, match="gone"):
        ids.carry_out_each("101", requests, carry_out)
    begun = ids.begin_each("101", requests)
    assert [type(each) for each in begun] == [First, IdClaim, IdClaim]
