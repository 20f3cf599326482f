"""Whether answers can be explained by one order of the operations that respects
their times.

The search of Wing and Gong with the memory of Lowe: take any operation that
began before the first open end, as long as the model allows its answer; never
try the same set of operations in the same state again.
"""

from __future__ import annotations

from typing import Final

from checker.findings import Finding
from checker.history import Operation
from checker.models import IMPOSSIBLE, MODELS, OPERATIONS, State, Step

MOST_STEPS: Final = 2_000_000
"""Steps of a search until it is given up."""


def check_object(name: str, operations: list[Operation]) -> list[Finding]:
    """Judge the operations on one object. Raises ValueError for a model or
    operation that is unknown."""
    model = name.partition(":")[0]
    if model not in MODELS:
        raise ValueError(f"{name}: there is no model {model!r}")
    for each in operations:
        if each.name not in OPERATIONS[model]:
            raise ValueError(f"{name}: {each.name!r} is no operation of {model}")
    first, step = MODELS[model]
    # What has failed did not happen; what only reads and has no answer says
    # nothing.
    seen = {
        repr(each.answer["value"])
        for each in operations
        if each.outcome == "ok" and "value" in each.answer
    }
    effects = [
        each for each in operations if each.outcome == "ok" or _may_change(each, seen)
    ]
    effects.sort(key=lambda each: (each.began, each.line))
    states: set[State] = {first}
    parts = _parts(effects)
    while parts and all(each.outcome != "ok" for each in parts[-1]):
        parts.pop()  # no answer is left to be explained
    for part in parts:
        ends = _search(part, states, step)
        if ends is None:
            return [
                _finding("undecided", name, part, f"{len(part)} operations overlap")
            ]
        if not ends:
            return [_finding("not linearizable", name, part, _words(part))]
        states = ends
    return []


def _may_change(operation: Operation, seen: set[str]) -> bool:
    """Whether it has to be looked at without an answer. A value that no answer
    has explains nothing: each order is as good without it."""
    value = operation.arguments.get("value")
    return (
        operation.outcome == "unknown"
        and operation.name != "get"
        and (value is None or repr(value) in seen)
    )


def _parts(operations: list[Operation]) -> list[list[Operation]]:
    """Cut where all earlier operations have ended before the next began."""
    parts: list[list[Operation]] = []
    latest = 0.0
    for each in operations:
        if not parts or each.began > latest:
            parts.append([])
        parts[-1].append(each)
        latest = max(latest, each.ended)
    return parts


def _search(
    operations: list[Operation], states: set[State], step: Step
) -> set[State] | None:
    """The states in which the operations can end; empty: there is no order;
    None: the search was given up."""
    must = sum(
        1 << index for index, each in enumerate(operations) if each.outcome == "ok"
    )
    work = [(0, state) for state in states]
    visited = set(work)
    ends: set[State] = set()
    steps = 0
    while work:
        done, state = work.pop()
        if done & must == must:
            ends.add(state)
        first_end = _first_end(operations, done)
        for index, each in enumerate(operations):
            if each.began > first_end:
                break
            if done >> index & 1:
                continue
            steps += 1
            after = step(state, each)
            following = (done | 1 << index, after)
            if after is not IMPOSSIBLE and following not in visited:
                visited.add(following)
                work.append(following)
        if steps > MOST_STEPS:
            return None
    return ends


def _first_end(operations: list[Operation], done: int) -> float:
    """The first end of an operation that is not done: what begins after it
    comes later in any order."""
    return min(
        (each.ended for index, each in enumerate(operations) if not done >> index & 1),
        default=0.0,
    )


def _finding(rule: str, name: str, operations: list[Operation], text: str) -> Finding:
    return Finding(rule, name, text, tuple(each.line for each in operations[:20]))


def _words(operations: list[Operation]) -> str:
    shown = [
        f"{each.client} {each.name} {each.arguments} → {each.answer or each.outcome}"
        for each in operations[:8]
    ]
    return "; ".join(shown) + ("; …" if len(operations) > len(shown) else "")
