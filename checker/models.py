"""What an object does, one operation after the other: the specification that
answers are compared with.

A model has a hashable state. It says for an operation and its answer which
state follows, or that the answer is impossible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from checker.history import Operation

State = Any
"""Hashable."""
IMPOSSIBLE: Final = object()
"""In place of a state: the answer cannot be given in this state."""
Step = Callable[[State, Operation], State]


def _register(state: State, operation: Operation) -> State:
    """``write value`` and ``get`` → ``value``. A login is a write of the
    connection that holds a user."""
    if operation.name == "write":
        return operation.arguments["value"]
    return _answers(operation, "value", state, state)


def _maximum(state: State, operation: Operation) -> State:
    """``raise value`` and ``get`` → ``value``: the greatest value yet. A read
    position."""
    if operation.name == "raise":
        return max(state, operation.arguments["value"])
    return _answers(operation, "value", state, state)


def _lock(state: State, operation: Operation) -> State:
    """``acquire`` → ``granted`` and ``release``; ``holder``: who asks, else the
    client. A claim or lease.

    ``acquire`` by the holder is granted again. ``release`` by another changes
    nothing. ``expire`` ends it.
    """
    holder = operation.arguments.get("holder", operation.client)
    if operation.name == "acquire":
        free = state is None or state == holder
        return _answers(operation, "granted", free, holder if free else state)
    if operation.name == "expire":
        return None
    return None if state == holder else state


def _once(state: State, operation: Operation) -> State:
    """``decide value`` → ``value``: the first value, for all who ask. An answer
    that is given once."""
    if state is None:
        first = operation.arguments["value"]
    else:
        first = state
    return _answers(operation, "value", first, first)


def _text(state: State, operation: Operation) -> State:
    """``write value``, ``remove`` and ``get`` → ``value``; None after
    ``remove``, which nothing undoes. A message that is edited, recalled or
    erased, and what else a user has left."""
    if operation.name == "get":
        return _answers(operation, "value", state[0] if state else None, state)
    if operation.name == "remove":
        return ()
    if state == ():
        if operation.outcome != "ok":
            return state
        return IMPOSSIBLE
    return (operation.arguments["value"],)


def _votes(state: State, operation: Operation) -> State:
    """``decide user vote need`` → ``accepted``, and ``get`` → ``value``, pairs
    of user and vote: the first votes of so many users count."""
    if operation.name == "get":
        return _answers(operation, "value", [[*pair] for pair in state], state)
    vote = operation.arguments
    pair = vote["user"], vote["vote"]
    counts = vote["user"] not in dict(state) and len(state) < vote["need"]
    return _answers(
        operation,
        "accepted",
        counts or pair in state,
        (*state, pair) if counts else state,
    )


def _mailbox(state: State, operation: Operation) -> State:
    """``claim`` → ``token``, ``value`` and ``after``; ``settle token value``
    and ``release token``; ``get`` → ``value``, the last one that was settled.
    Numbered messages that workers share, in their order.

    Anybody may claim: the lease of the other one has ended then. ``after`` is
    what must have been settled before. Only the last claim settles and
    releases; the one that has settled may do so again.
    """
    position, token, last = state
    if operation.name == "get":
        return _answers(operation, "value", position, state)
    if operation.name == "claim":
        is_next = operation.outcome == "ok" and operation.answer["after"] == position
        if is_next:
            return (position, operation.answer["token"], last)
        return IMPOSSIBLE
    given = operation.arguments["token"]
    if operation.name == "settle" and given == last and operation.outcome == "ok":
        return state
    if given != token:
        return IMPOSSIBLE
    if operation.name == "release":
        return (position, None, last)
    return (operation.arguments["value"], None, given)


def _answers(operation: Operation, name: str, value: object, state: State) -> State:
    """The state if the answer is this value, or unknown; else IMPOSSIBLE."""
    if operation.outcome != "ok" or operation.answer[name] == value:
        return state
    return IMPOSSIBLE


MODELS: Final[dict[str, tuple[State, Step]]] = {
    "register": (None, _register),
    "maximum": (0, _maximum),
    "lock": (None, _lock),
    "once": (None, _once),
    "text": (None, _text),
    "votes": ((), _votes),
    "mailbox": ((0, None, None), _mailbox),
}
"""Model → its first state and its step. The name of an object begins with its
model: ``lock:cron``."""

OPERATIONS: Final = {
    "register": {"write", "get"},
    "maximum": {"raise", "get"},
    "lock": {"acquire", "release", "expire"},
    "once": {"decide"},
    "text": {"write", "remove", "get"},
    "votes": {"decide", "get"},
    "mailbox": {"claim", "settle", "release", "get"},
}
