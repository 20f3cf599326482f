"""The scenario asks: what its judge finds, and a few questions with the death of a node."""

from typing import Any

from bench.asks import EVERYBODY, AskJudge
from imserver_client import Entry

FAULTS = ("asks_wrong", "asks_differ", "asks_promised", "asks_unheard")


def answer(about: int, value: str, id: int = 9) -> Entry:
    return Entry(
        id=id, conversation=1, seq=id, kind="press", type="answer", sender="bob", about=about, text=value
    )


def state(*values: str, closed: str = "answered") -> dict[str, Any]:
    return {"id": 7, "state": closed, "answers": [{"user": "bob", "value": value} for value in values]}


def judge(*promises: str, heard: str = "yes") -> AskJudge:
    """A judge of one question that the phone has answered with ``yes``."""
    one = AskJudge(ids=[7], taps={7: 0.0}, promises={7: list(promises)})
    for name in EVERYBODY:
        one.hear(name, answer(7, heard))
    return one


def faults(one: AskJudge, *states: dict[str, Any]) -> dict[str, float | None]:
    """The figures that are not zero."""
    figures = one.verdict({7: list(states)})
    assert figures["asks"] == 1
    return {name: figures[name] for name in FAULTS if figures[name]}


def test_one_answer_of_which_everybody_has_heard_is_good() -> None:
    one = judge("yes")
    assert one.has_all()
    assert faults(one, state("yes"), state("yes")) == {}


def test_two_answers_are_found() -> None:
    assert faults(judge("yes", "no"), state("yes", "no"), state("yes", "no")) == {
        "asks_wrong": 1,
        "asks_promised": 1,
    }


def test_a_promise_to_both_devices_is_found() -> None:
    assert faults(judge("yes", "no"), state("yes"), state("yes")) == {"asks_promised": 1}


def test_a_promise_to_no_device_is_found() -> None:
    assert faults(judge(), state("yes"), state("yes")) == {"asks_promised": 1}


def test_nodes_that_do_not_agree_are_found() -> None:
    assert faults(judge("yes"), state("yes"), state("no")) == {"asks_differ": 1}


def test_a_question_that_nobody_could_answer_is_found() -> None:
    wrong = faults(judge("yes"), state(closed="expired"), state(closed="expired"))
    assert wrong == {"asks_wrong": 1, "asks_promised": 1, "asks_unheard": 3}


def test_whoever_has_heard_nothing_twice_or_something_else_is_found() -> None:
    one = judge("yes")
    one.heard["phone"].clear()
    assert not one.has_all()
    one.hear("laptop", answer(7, "yes", id=11))
    assert faults(one, state("yes"), state("yes")) == {"asks_unheard": 2}
    assert faults(judge("yes", heard="no"), state("yes"), state("yes")) == {"asks_unheard": 3}
