"""The command: read files, print what was found, and answer by the exit
status."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence

from checker.conversations import check_conversation, conversations_of
from checker.findings import RULES, Finding
from checker.history import MESSAGES, BadHistory, History, Operation, read
from checker.linear import check_object

USAGE = "usage: python -m checker [--json] FILE ...    (- for standard input)"


def check(history: History) -> list[Finding]:
    """Judge a history. Raises ValueError for an object of an unknown model."""
    findings = [
        found
        for talk in conversations_of(history)
        for found in check_conversation(talk)
    ]
    objects: dict[str, list[Operation]] = {}
    for each in history.operations:
        if each.name not in MESSAGES:
            objects.setdefault(each.object, []).append(each)
    for name, operations in objects.items():
        findings += check_object(name, operations)
    return findings


def main(arguments: Sequence[str]) -> int:
    """Judge the files; 0: no rule was broken, 1: some were, 2: a file is no
    history."""
    as_json = "--json" in arguments
    files = [each for each in arguments if each != "--json"]
    if not files or any(each.startswith("--") for each in files):
        print(USAGE, file=sys.stderr)
        return 2
    status = 0
    for name in files:
        try:
            if name == "-":
                history = read(sys.stdin)
            else:
                with open(name, encoding="utf-8") as lines:
                    history = read(lines)
            if not (history.operations or history.sights):
                raise BadHistory("it has no events")
            findings = check(history)
        except (OSError, ValueError, BadHistory) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        status |= bool(findings)
        print(
            _as_json(name, history, findings)
            if as_json
            else _as_text(name, history, findings)
        )
    return status


def _counts(history: History) -> dict[str, int]:
    sends = [each for each in history.operations if each.name == "send"]
    outcomes = Counter(each.outcome for each in sends)
    return {
        "conversations": len(conversations_of(history)),
        "sent": len(sends),
        "acknowledged": outcomes["ok"],
        "refused": outcomes["fail"],
        "unknown": outcomes["unknown"],
        "shown": len(history.sights),
        "reads": sum(each.name == "read" for each in history.operations),
        "other operations": sum(
            each.name not in MESSAGES for each in history.operations
        ),
    }


def _as_json(name: str, history: History, findings: list[Finding]) -> str:
    rows = [
        {
            "rule": each.rule,
            "object": each.object,
            "text": each.text,
            "lines": each.lines,
        }
        for each in findings
    ]
    return json.dumps(
        {"file": name, **_counts(history), "findings": rows}, ensure_ascii=False
    )


def _as_text(name: str, history: History, findings: list[Finding]) -> str:
    lines = [
        f"{name}: "
        + ", ".join(
            f"{count:,} {what}" for what, count in _counts(history).items() if count
        )
    ]
    for rule in RULES:
        some = [each for each in findings if each.rule == rule]
        if some:
            lines.append(f"  {rule}: {RULES[rule]}")
            lines += [f"    {each.object}: {each.text}{_lines(each)}" for each in some]
    return "\n".join(
        [
            *lines,
            "  no rule was broken" if not findings else f"  {len(findings)} findings",
        ]
    )


def _lines(finding: Finding) -> str:
    if finding.lines:
        return f" (lines {', '.join(map(str, finding.lines))})"
    return ""
