"""The last answers of the receivers of events, for those who want to know why one has a queue."""

from __future__ import annotations

from collections import deque
from time import monotonic, time
from typing import Final

from msgspec import Struct

QUERY: Final = "webhooks.state"
"""The query with which nodes ask each other for a :class:`NodePart` of each app."""
MOST_ANSWERS: Final = 20
"""Answers of one app."""
_CHARACTERS: Final = 200
"""Longest text of a problem."""


class LastAnswer(Struct, frozen=True, array_like=True):
    """What a receiver has answered. ``status`` 0: nothing. ``problem``: why it failed; ``""``: it took the
    events. ``seconds``: how long it took. ``time``: Unix seconds."""

    time: int
    status: int
    problem: str
    seconds: float
    events: int


class NodePart(Struct, frozen=True, array_like=True):
    """What one node knows of the webhook of an app. ``waiting``: events in its memory; ``stored``: durable
    events that it has to deliver. ``failing``: whether its last request has failed."""

    waiting: int = 0
    stored: int = 0
    failing: bool = False
    answers: tuple[LastAnswer, ...] = ()


class LastAnswers:
    """Owner of the last answers, by app. Never switches."""

    def __init__(self) -> None:
        self._by_app: dict[str, deque[LastAnswer]] = {}

    def note(self, app: str, status: int, problem: str, began: float, events: int) -> LastAnswer:
        """Note an answer to a request of ``began`` (monotonic)."""
        seconds = round(monotonic() - began, 4)
        answer = LastAnswer(int(time()), status, problem[:_CHARACTERS], seconds, events)
        self._by_app.setdefault(app, deque(maxlen=MOST_ANSWERS)).append(answer)
        return answer

    def of(self, app: str) -> list[LastAnswer]:
        """Those of an app, the oldest first."""
        return list(self._by_app.get(app, ()))

    def forget(self, app: str) -> None:
        """The app has no receiver any more."""
        self._by_app.pop(app, None)
