"""What the checker says: the rules by name, and where one was broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RULES: Final = {
    "lost": "an acknowledged message is not there at the end",
    "missing": "a client that followed to the end has not seen a message that is there",
    "hole": "the places of a conversation at the end are not dense",
    "skipped": "a client has seen a later place before an earlier one was shown or read",
    "doubled": "a message has two places, or is twice in what is read at once",
    "seen twice": "a client was shown a message twice",
    "two at one place": "clients have seen different messages at one place",
    "moved": "a message is not at the place that its acknowledgement named",
    "other order": "clients have seen the same messages in different orders",
    "backwards": "a client was shown a message of an earlier place after one of a later place",
    "overtaken": "a message that was sent after the acknowledgement of another stands before it",
    "stale": "a read to the end lacks what was acknowledged, or read by anybody, before it began",
    "invented": "a client has seen a message that nobody sent",
    "refused": "a message is there although the sender was told that it is not",
    "not linearizable": "no order of the operations on an object explains the answers",
    "undecided": "the operations on an object are too many at once to be judged",
}
"""Rule → what it means that it was broken."""


@dataclass(frozen=True)
class Finding:
    """A rule that was broken. ``object``: the conversation, lock, … ``lines``:
    lines of the history."""

    rule: str
    object: str
    text: str
    lines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(self.rule)
