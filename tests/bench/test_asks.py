"""Questions in a chaos run: what devices were told and have heard is in the history, which is judged."""

from pathlib import Path

import pytest

from bench.asks import EVERYBODY, AskThread
from bench.history import History
from checker.cli import check
from checker.history import read
from imserver_client import Entry


def rules(
    file: Path, accepted: tuple[bool, bool], heard: dict[str, list[str]], stored: str = "yes"
) -> set[str]:
    """The rules that are broken if the phone says yes and the laptop no: whether each was told that it
    counts, what everybody heard, and what a node says at the end."""
    history = History(file)
    asking = AskThread([], history)
    for device, vote, counts in zip(("phone", "laptop"), ("yes", "no"), accepted, strict=True):
        decided = history.ask(device, "decide", "votes:question 7", user="bob", vote=vote, need=1)
        sending = history.ask(device, "send", "answers to 7", message=vote)
        history.answered(decided, accepted=counts)
        (history.answered if counts else history.refused)(sending)
    history.answered(history.ask("node 1", "get", "votes:question 7"), value=[("bob", stored)])
    for name in EVERYBODY:
        for number, text in enumerate(heard.get(name, ["yes"]), 9):
            asking.hear(
                name,
                Entry(
                    id=number,
                    conversation=1,
                    seq=number,
                    kind="press",
                    type="answer",
                    sender="bob",
                    about=7,
                    text=text,
                ),
            )
        history.followed(name, "answers to 7")
    history.close()
    return {each.rule for each in check(read(file.read_text().splitlines()))}


@pytest.mark.parametrize(
    ("accepted", "heard", "stored", "broken"),
    [
        ((True, False), {}, "yes", set()),
        ((True, True), {}, "yes", {"not linearizable", "missing"}),
        ((False, False), {}, "yes", {"not linearizable", "refused"}),
        ((True, False), {}, "no", {"not linearizable"}),
        ((True, False), {"phone": []}, "yes", {"missing"}),
        ((True, False), {"ann": ["yes", "yes"]}, "yes", {"seen twice"}),
        ((True, False), {"laptop": ["no"]}, "yes", {"refused", "missing"}),
    ],
)
def test_each_question_has_one_answer_of_which_everybody_hears_once(
    tmp_path: Path, accepted: tuple[bool, bool], heard: dict[str, list[str]], stored: str, broken: set[str]
) -> None:
    assert rules(tmp_path / "history", accepted, heard, stored) == broken
