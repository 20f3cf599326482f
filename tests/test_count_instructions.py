"""``python -m tools.count_instructions``: what it reads, what it compares, and
when it counts nothing."""

import json

import pytest

from tools.count_instructions import (
    CASES,
    RECORDED,
    CountError,
    grown,
    main,
    masked_frame,
    table_of,
    total_of,
)

DUMP = """# callgrind format
version: 1
creator: callgrind-3.19.0
desc: Trigger: Client Request: dump
events: Ir
summary: 19040861

ob=(1) /usr/bin/python3.11
fn=(1) _PyEval_EvalFrameDefault
0 18000000
{end}
"""


@pytest.mark.parametrize("end", ["totals: 19040861", ""])
def test_the_count_is_the_total_of_a_dump(end: str) -> None:
    assert total_of(DUMP.format(end=end)) == 19_040_861


def test_a_dump_without_a_total_is_an_error() -> None:
    with pytest.raises(CountError):
        total_of("# callgrind format\nversion: 1\n")


@pytest.mark.parametrize(
    ("size", "head"), [(2, b"\x81\x82"), (125, b"\x81\xfd"), (300, b"\x81\xfe\x01\x2c")]
)
def test_frames_of_the_counting_client_are_masked(size: int, head: bytes) -> None:
    payload = bytes(range(100)) * 3
    frame = masked_frame(payload[:size])
    assert frame.startswith(head)
    mask = frame[len(head) : len(head) + 4]
    masked = frame[len(head) + 4 :]
    assert (
        bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))
        == payload[:size]
    )


def test_a_case_has_grown_if_it_is_more_than_two_percent_above_what_was_recorded() -> (
    None
):
    recorded = {"ping": 1.0, "push": 0.9}
    assert grown({"ping": 1.019, "push": 0.919, "login": 2.0}, recorded) == ["push"]
    assert grown({"ping": 1.021}, recorded) == ["ping"]


def test_the_table_has_a_ratio_where_there_is_another_tree() -> None:
    lines = table_of(
        {"ping": 30_000.4, "push": 120_000}, {"ping": 25_000}, {"ping": 1.2}
    ).splitlines()
    assert lines[1].split() == ["ping", "30,000", "25,000", "1.200", "1.200"]
    assert lines[2].split() == ["push", "120,000"]


def test_without_valgrind_nothing_is_counted_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["ping", "--check"]) == 0
    assert "Skipped" in capsys.readouterr().out


def test_what_is_recorded_are_ratios_of_all_cases() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert recorded["ratios"].keys() == CASES.keys()
