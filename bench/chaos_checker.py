"""The judge of a chaos run: what each client was told, what it was promised, and what is stored at the end.

A message is named by its *mark*: who sent it and its number there, which stand in its text. A client keeps
what it is told as its SDK would: what has an id that it knows is a repeat and is dropped; what is new must
have a greater id than all before, and the next ``seq`` of its conversation.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

MARK_BITS = 32
MOST_NOTES = 50
"""Faults of which the words are kept; all are counted."""


class Told(NamedTuple):
    """One entry of the log as a client was told it. ``conversation`` and ``seq``: 0 where its dialect does
    not say them; ``mark``: 0 for what is no message."""

    id: int
    conversation: int
    seq: int
    mark: int


def mark_of(sender: int, number: int) -> int:
    """The name of a message; senders and their numbers count from 1."""
    return sender << MARK_BITS | number


def text_of(mark: int, padding: str = "") -> str:
    """The text of a message."""
    return f"{mark >> MARK_BITS}:{mark & (1 << MARK_BITS) - 1}:{padding}"


def read_mark(text: str) -> int:
    """The mark in a text; 0 where there is none."""
    sender, _, rest = text.partition(":")
    number = rest.partition(":")[0]
    return mark_of(int(sender), int(number)) if sender.isdecimal() and number.isdecimal() else 0


class Faults:
    """What was wrong, by kind, and the words of the first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def add(self, kind: str, words: str, count: int = 1) -> None:
        """Note one fault, or ``count`` of them."""
        self.counts[kind] += count
        if len(self.notes) < MOST_NOTES:
            self.notes.append(f"{kind}: {words}")


class Reader:
    """What one client has, in the order in which it was told. ``name`` is for people.

    Kinds of faults: ``holes`` (a seq was left out), ``inversions`` (an id or a seq that is not greater than
    the last, and is not known), ``changed`` (an id that means something else than before).
    """

    __slots__ = ("faults", "ids", "marks", "name", "repeats", "seqs")

    def __init__(self, name: str, faults: Faults) -> None:
        self.name = name
        self.faults = faults
        self.ids = array("Q")
        self.marks = array("Q")
        self.seqs: dict[int, int] = {}
        """The last seq of each conversation."""
        self.repeats = 0

    @property
    def cursor(self) -> int:
        return self.ids[-1] if self.ids else 0

    def take(self, told: Told, *, answer: bool = False) -> None:
        """Take one entry; ``answer``: it is an acknowledgement of its sender's, which is no repeat."""
        if told.id <= self.cursor:
            self._take_known(told, answer)
            return
        self.ids.append(told.id)
        self.marks.append(told.mark)
        if told.seq:
            last = self.seqs.get(told.conversation, 0)
            if told.seq > last + 1:
                words = f"{self.name}: conversation {told.conversation} goes from {last} to {told.seq}"
                self.faults.add("holes", words, told.seq - last - 1)
            elif told.seq <= last:
                self.faults.add("inversions", f"{self.name}: {told} behind seq {last}")
            self.seqs[told.conversation] = max(last, told.seq)

    def _take_known(self, told: Told, answer: bool) -> None:
        place = bisect_left(self.ids, told.id)
        if self.ids[place] != told.id:
            self.faults.add("inversions", f"{self.name}: {told} came behind id {self.cursor}")
        elif self.marks[place] != told.mark:
            self.faults.add("changed", f"{self.name}: {told} was mark {self.marks[place]:#x}")
        else:
            self.repeats += not answer

    def messages(self) -> dict[int, int]:
        """The messages, other entries apart: ids and marks."""
        return {id: mark for id, mark in zip(self.ids, self.marks, strict=True) if mark}


class Promises:
    """What was acknowledged: to every mark the id."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.ids: dict[int, int] = {}

    def keep(self, mark: int, id: int) -> bool:
        """Note an acknowledgement; whether it is the first of this message."""
        first = self.ids.get(mark)
        if first is None:
            self.ids[mark] = id
        elif first != id:
            self.faults.add("changed", f"{text_of(mark)} was acknowledged as {first}, then as {id}")
        return first is None


@dataclass
class Comparison:
    """What was compared at the end."""

    messages: int = 0
    lost: int = 0
    """Acknowledged and not stored."""
    twice: int = 0
    """Stored more than once."""
    missing: int = 0
    """Stored, and not told to a client that may read it."""
    unknown: int = 0
    """Told to a client, and not stored."""


def compare(reader: Reader, truth: Reader, sender: int, promises: dict[int, int]) -> Comparison:
    """Compare what a client has with what is stored for it (``truth``, read anew from the beginning).

    ``promises``: what was acknowledged to this client, who sends as ``sender``.
    """
    had, stored, faults = reader.messages(), truth.messages(), reader.faults
    found = Comparison(messages=len(stored))
    own = Counter(mark for mark in stored.values() if mark >> MARK_BITS == sender)
    for mark, id in promises.items():
        if stored.get(id) != mark:
            found.lost += 1
            faults.add("lost", f"{reader.name}: {text_of(mark)}, acknowledged as {id}, is not stored there")
    for mark, count in own.items():
        if count > 1:
            found.twice += count - 1
            ids = [id for id, each in stored.items() if each == mark]
            faults.add("twice", f"{reader.name}: {text_of(mark)} is stored as {ids}")
    for id in stored.keys() - had.keys():
        found.missing += 1
        faults.add("missing", f"{reader.name} was never told {id}, {text_of(stored[id])}")
    for id in had.keys() - stored.keys():
        found.unknown += 1
        faults.add("unknown", f"{reader.name} was told {id}, {text_of(had[id])}, which is not stored")
    for id in had.keys() & stored.keys():
        if had[id] != stored[id]:
            faults.add("changed", f"{reader.name}: {id} was {text_of(had[id])}, is {text_of(stored[id])}")
    return found
