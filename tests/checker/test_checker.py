"""The checker finds each planted fault, and nothing where nothing is wrong."""

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import checker
from checker.cli import check, main
from checker.conversations import check_conversation, conversations_of
from checker.history import BadHistory
from checker.history import read as read_history
from tests.checker.faulty_system import (
    FAULTS,
    OF_WITHOUT_SEQS,
    WITHOUT_SEQS,
    FaultySystem,
)


def rules_of(lines: Iterable[str]) -> set[str]:
    return {each.rule for each in check(read_history(lines))}


@pytest.mark.parametrize("has_seqs", [True, False])
def test_it_finds_nothing_where_nothing_is_wrong(has_seqs: bool) -> None:
    for seed in range(8):
        assert rules_of(FaultySystem(seed, has_seqs=has_seqs).run()) == set(), seed


@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_each_planted_fault(fault: str) -> None:
    for seed in range(3):
        rules = rules_of(
            FaultySystem(seed, fault, has_seqs=fault not in WITHOUT_SEQS).run()
        )
        assert FAULTS[fault] in rules, (seed, rules)


@pytest.mark.parametrize("fault", OF_WITHOUT_SEQS)
def test_it_finds_faults_of_a_system_without_seqs(fault: str) -> None:
    for seed in range(3):
        rules = rules_of(FaultySystem(seed, fault, has_seqs=False).run())
        assert OF_WITHOUT_SEQS[fault] in rules, (seed, rules)


@pytest.mark.parametrize(
    "fault", ["leaves a message out", "shows a message twice", "stops showing"]
)
def test_what_followers_of_a_system_without_seqs_and_reads_have_seen_is_compared(
    fault: str,
) -> None:
    for seed in range(3):
        lines = FaultySystem(seed, fault, has_seqs=False).run()
        reads = {
            row["number"] for row in map(json.loads, lines) if row.get("name") == "read"
        }
        shown = [line for line in lines if json.loads(line).get("number") not in reads]
        assert OF_WITHOUT_SEQS[fault] in rules_of(shown), seed


def test_what_was_read_to_catch_up_and_is_shown_again_was_seen_twice() -> None:
    ask = {"event": "ask", "object": "t"}
    send = {**ask, "number": 1, "client": "a", "name": "send", "at": 1, "message": "m"}
    read = {**ask, "number": 2, "client": "b", "name": "read", "at": 3}
    lines: list[dict[str, object]] = [
        send,
        {"event": "ok", "number": 1, "at": 2},
        read | {"catches_up": True},
        {"event": "ok", "number": 2, "at": 4, "messages": [[None, "m"]]},
    ]
    assert rules_of(map(json.dumps, lines)) == set()
    again = {"event": "see", "client": "b", "object": "t", "at": 5, "message": "m"}
    assert rules_of(map(json.dumps, [*lines, again])) == {"seen twice"}


class CountingRows(list[list[object]]):
    """Counts how many rows are gone through, one by one."""

    count = 0

    def __iter__(self) -> Iterator[list[object]]:
        CountingRows.count += len(self)
        return super().__iter__()


def test_a_row_that_many_reads_have_is_gone_through_once() -> None:
    lines = []
    for number in range(1, 201):
        message = f"m{number}"
        send = {
            "event": "ask",
            "client": "a",
            "name": "send",
            "object": "t",
            "message": message,
        }
        lines += [send | {"number": 2 * number, "at": number}]
        lines += [
            {"event": "ok", "number": 2 * number, "at": number + 0.1, "place": number}
        ]
        read = {
            "event": "ask",
            "client": "b",
            "name": "read",
            "object": "t",
            "whole": True,
        }
        lines += [read | {"number": 2 * number + 1, "at": number + 0.2}]
        rows = [[each, f"m{each}"] for each in range(1, number + 1)]
        lines += [
            {
                "event": "ok",
                "number": 2 * number + 1,
                "at": number + 0.3,
                "messages": rows,
            }
        ]
    history = read_history(map(json.dumps, lines))
    for operation in history.operations:
        if operation.name == "read":
            operation.answer["messages"] = CountingRows(operation.answer["messages"])
    (conversation,) = conversations_of(history)
    assert check_conversation(conversation) == []
    assert CountingRows.count < 10 * 200


def test_an_answer_that_is_unknown_may_have_happened_or_not() -> None:
    of_x = {"event": "ask", "object": "register:x"}
    ask = {**of_x, "number": 1, "client": "a", "name": "write", "at": 1, "value": 5}
    for value in (None, 5):
        get = {**of_x, "number": 2, "client": "b", "name": "get", "at": 2}
        end = {"event": "ok", "number": 2, "at": 3, "value": value}
        assert rules_of(map(json.dumps, (ask, get, end))) == set()
    assert rules_of(map(json.dumps, (ask, get, end | {"value": 6}))) == {
        "not linearizable"
    }


@pytest.mark.parametrize("name", ["register", "maximum", "once"])
def test_what_was_not_answered_and_nobody_has_seen_costs_nothing(name: str) -> None:
    change = {"register": "write", "maximum": "raise", "once": "decide"}[name]
    ask = {"event": "ask", "client": "a", "name": change, "object": f"{name}:x"}
    lines = []
    for number in range(0, 200, 2):
        value = number if name == "maximum" else -1 if name == "once" else number
        lines += [ask | {"number": number, "at": number, "value": value}]
        lines += [{"event": "ok", "number": number, "at": number + 0.5, "value": value}]
        lines += [ask | {"number": number + 1, "at": number, "value": number - 100.5}]
    assert rules_of(map(json.dumps, lines)) == set()


def test_operations_that_nobody_was_answered_are_explained_by_any_order() -> None:
    ask = {"event": "ask", "name": "acquire", "object": "lock:x", "at": 1}
    lines = [
        ask | {"number": each, "client": f"c{each}", "holder": f"h{each}"}
        for each in range(60)
    ]
    assert rules_of(map(json.dumps, lines)) == set()


def test_too_many_operations_at_once_are_not_judged_as_good() -> None:
    ask = {"event": "ask", "name": "write", "object": "register:x", "at": 1}
    lines = [
        ask | {"number": each, "client": f"c{each}", "value": each}
        for each in range(60)
    ]
    lines += [{"event": "ok", "number": each, "at": 2} for each in range(60)]
    assert rules_of(map(json.dumps, lines)) == {"undecided"}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("no json", "line 1 is not JSON"),
        ("[]", "line 1 is not an object"),
        ('{"event": "ok", "number": 1, "at": 1}', "line 1: KeyError 1"),
        ('{"event": "do"}', "line 1: ValueError there is no event 'do'"),
    ],
)
def test_a_bad_line_is_named(line: str, text: str) -> None:
    with pytest.raises(BadHistory, match=text):
        read_history([line])


def test_the_command_answers_by_its_exit_status(tmp_path, capsys) -> None:
    good = tmp_path / "good"
    bad = tmp_path / "bad"
    broken = tmp_path / "broken"
    good.write_text("\n".join(FaultySystem(1).run()))
    bad.write_text("\n".join(FaultySystem(1, "acknowledges without storing").run()))
    broken.write_text("{")
    assert main([str(good)]) == 0
    assert "no rule was broken" in capsys.readouterr().out
    assert main(["--json", str(good), str(bad)]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["findings"] == []
    assert {each["rule"] for each in rows[1]["findings"]} >= {"lost"}
    assert main([str(broken)]) == 2
    broken.write_text("")  # of a run that did not begin
    assert main([str(broken)]) == 2
    assert main([]) == 2


def test_it_imports_nothing_but_itself_and_the_standard_library() -> None:
    folder = Path(checker.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                package = name.partition(".")[0]
                assert package == "checker" or package in sys.stdlib_module_names, (
                    file.name,
                    name,
                )


def mailbox(
    *operations: tuple[str, dict[str, object], dict[str, object] | None],
) -> Iterator[str]:
    """One operation after the other; without an answer it is unknown what
    became of it."""
    for number, (name, arguments, answer) in enumerate(operations):
        ask = {
            "event": "ask",
            "number": number,
            "client": f"w{number}",
            "name": name,
            "object": "mailbox:1",
        }
        yield json.dumps({**ask, "at": 2 * number, **arguments})
        if answer is not None:
            yield json.dumps(
                {"event": "ok", "number": number, "at": 2 * number + 1, **answer}
            )


CLAIMS = (
    ("claim", {}, {"token": "a", "after": 0, "value": 1}),
    ("claim", {}, {"token": "b", "after": 0, "value": 1}),
)
LATE = ("settle", {"token": "a", "value": 1}, {})
SETTLED = ("settle", {"token": "b", "value": 1}, {})
UNSURE = ("settle", {"token": "b", "value": 1}, None)
FOLLOWING = ("claim", {}, {"token": "c", "after": 1, "value": 2})


@pytest.mark.parametrize(
    ("operations", "is_right"),
    [
        ((*CLAIMS, SETTLED, SETTLED, ("get", {}, {"value": 1})), True),
        ((*CLAIMS, UNSURE, FOLLOWING), True),
        (
            (
                *CLAIMS,
                UNSURE,
                ("claim", {}, {"token": "c", "after": 0, "value": 1}),
                ("get", {}, {"value": 0}),
            ),
            True,
        ),
        ((CLAIMS[0], ("release", {"token": "a"}, {}), CLAIMS[1], SETTLED), True),
        ((*CLAIMS, LATE), False),
        ((*CLAIMS, SETTLED, LATE), False),
        ((*CLAIMS, FOLLOWING), False),
        ((*CLAIMS, SETTLED, CLAIMS[0]), False),
        ((CLAIMS[0], ("release", {"token": "a"}, {}), LATE), False),
        ((*CLAIMS, SETTLED, ("get", {}, {"value": 2})), False),
    ],
)
def test_a_mailbox_is_settled_in_order_by_the_last_claim(
    operations: Iterable[tuple[str, dict[str, object], dict[str, object] | None]],
    is_right: bool,
) -> None:
    assert (rules_of(mailbox(*operations)) == set()) == is_right
