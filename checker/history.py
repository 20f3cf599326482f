"""A history: what clients asked when, what was answered, and what they saw. One
JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

MESSAGES: Final = ("send", "read")
"""Operations on conversations. All others belong to an object with a model (see
:mod:`checker.models`)."""


class BadHistory(Exception):
    """A line is no event of a history. The text names the line."""


@dataclass
class Operation:
    """What one client asked, and the answer.

    ``began`` and ``ended``: seconds of one clock for all clients; ``ended`` is
    ``inf`` while nobody knows whether it happened. ``outcome``: ``ok`` (it
    happened), ``fail`` (it did not), ``unknown``.
    """

    number: int
    client: str
    name: str
    object: str
    arguments: dict[str, Any]
    began: float
    line: int
    ended: float = inf
    outcome: str = "unknown"
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sight:
    """A client was shown a message, without having asked. ``place``: its place
    in the conversation, or None where a system has no places. ``message`` is
    None for an entry that is no message."""

    client: str
    conversation: str
    message: str | None
    place: int | None
    at: float
    line: int


@dataclass
class History:
    """All operations and sights, in the order of their lines. ``followers``:
    the clients that followed a conversation until the end, by conversation:
    they must have seen all of it."""

    operations: list[Operation] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    followers: dict[str, set[str]] = field(default_factory=dict)


def read(lines: Iterable[str]) -> History:
    """Read a history. Raises BadHistory."""
    history = History()
    waiting: dict[int, Operation] = {}
    for number, event in _events(lines):
        try:
            _add(history, waiting, number, event)
        except (KeyError, TypeError, ValueError) as error:
            raise BadHistory(f"line {number}: {type(error).__name__} {error}") from None
    return history


def _events(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError:
            raise BadHistory(f"line {number} is not JSON") from None
        if not isinstance(event, dict):
            raise BadHistory(f"line {number} is not an object")
        yield number, event


def _add(
    history: History, waiting: dict[int, Operation], line: int, event: dict[str, Any]
) -> None:
    kind = event["event"]
    if kind == "ask":
        known = {"event", "number", "client", "name", "object", "at"}
        arguments = {name: value for name, value in event.items() if name not in known}
        number = int(event["number"])
        if number in waiting:
            raise ValueError(f"operation {number} began twice")
        operation = Operation(
            number,
            event["client"],
            event["name"],
            event["object"],
            arguments,
            float(event["at"]),
            line,
        )
        waiting[number] = operation
        history.operations.append(operation)
    elif kind in ("ok", "fail"):
        operation = waiting[int(event["number"])]
        if operation.outcome != "unknown":
            raise ValueError(f"operation {operation.number} ended twice")
        operation.outcome, operation.ended = kind, float(event["at"])
        if operation.ended < operation.began:
            raise ValueError(f"operation {operation.number} ended before it began")
        operation.answer = {
            name: value
            for name, value in event.items()
            if name not in ("event", "number", "at")
        }
    elif kind == "see":
        place = event.get("place")
        history.sights.append(
            Sight(
                event["client"],
                event["object"],
                event.get("message"),
                place,
                float(event["at"]),
                line,
            )
        )
    elif kind == "followed":
        history.followers.setdefault(event["object"], set()).add(event["client"])
    else:
        raise ValueError(f"there is no event {kind!r}")
