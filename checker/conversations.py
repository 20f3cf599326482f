"""The rules of a conversation: one order, dense, with everything that was acknowledged, and nothing twice.

A place is the sequence number that the system gives. In a system without places the orders that clients have
seen are compared: there must be one order that has them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from math import inf
from typing import Final

from checker.findings import Finding
from checker.history import History, Operation, Sight

MOST_OF_A_RULE: Final = 20
"""Findings of one rule in one conversation that are told one by one."""


@dataclass
class Conversation:
    """What a history says of one conversation."""

    name: str
    sends: list[Operation] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    followers: set[str] = field(default_factory=set)


def check_conversation(talk: Conversation) -> list[Finding]:
    """Judge a conversation."""
    sends = {each.arguments["message"]: each for each in talk.sends}
    found = [
        *_places(talk),
        *_senders(talk, sends),
        *_receivers(talk),
        *_real_time(talk),
        *_stale(talk),
        *_end(talk, sends),
    ]
    if all(place is None for place, _, _ in _seen(talk)):
        found += _one_order(talk)
    return _few(found)


def _seen(talk: Conversation) -> Iterator[tuple[int | None, str | None, int]]:
    """Place, message and line of all that was acknowledged, read or shown."""
    for sight in talk.sights:
        yield sight.place, sight.message, sight.line
    for read in talk.reads:
        for place, message in read.answer.get("messages", ()):
            yield place, message, read.line
    for send in talk.sends:
        if send.outcome == "ok" and send.answer.get("place") is not None:
            yield send.answer["place"], send.arguments["message"], send.line


def _places(talk: Conversation) -> Iterator[Finding]:
    """One message at each place, one place for each message."""
    at_place: dict[int, tuple[str | None, int]] = {}
    of_message: dict[str, tuple[int, int]] = {}
    moved = {
        send.arguments["message"]: send.answer["place"]
        for send in talk.sends
        if send.outcome == "ok" and send.answer.get("place") is not None
    }
    for place, message, line in _seen(talk):
        if place is None:
            continue
        other, its_line = at_place.setdefault(place, (message, line))
        if other != message:
            yield Finding("two at one place", talk.name, f"{place}: {other} and {message}", (its_line, line))
        if message is None:
            continue
        first, its_line = of_message.setdefault(message, (place, line))
        if first != place:
            yield Finding("doubled", talk.name, f"{message} at {first} and {place}", (its_line, line))
        if moved.get(message, place) != place:
            text = f"{message} was acknowledged at {moved[message]} and stands at {place}"
            yield Finding("moved", talk.name, text, (line,))


def _senders(talk: Conversation, sends: dict[str, Operation]) -> Iterator[Finding]:
    """Only what was sent, and nothing that was refused."""
    for message, line in {message: line for _, message, line in _seen(talk) if message is not None}.items():
        send = sends.get(message)
        if send is None:
            yield Finding("invented", talk.name, message, (line,))
        elif send.outcome == "fail":
            yield Finding("refused", talk.name, message, (send.line, line))


def _receivers(talk: Conversation) -> Iterator[Finding]:
    """Each client is shown a message once, and in the order of places without a gap.

    What a client reads counts as seen: it catches up by reads.
    """
    events: dict[str, list[_Arrival]] = {}
    for sight in talk.sights:
        arrival = _Arrival(sight.at, sight.line, [(sight.place, sight.message)], shown=True)
        events.setdefault(sight.client, []).append(arrival)
    for read in talk.reads:
        if read.outcome == "ok" and read.arguments.get("catches_up"):
            rows = [(place, message) for place, message in read.answer["messages"]]
            arrival = _Arrival(read.ended, read.line, rows, shown=False)
            events.setdefault(read.client, []).append(arrival)
    for client, arrivals in events.items():
        arrivals.sort(key=lambda each: (each.at, each.line))
        yield from _receiver(talk.name, client, arrivals)


@dataclass
class _Arrival:
    """Places and messages that a client got at once; ``shown``: unasked."""

    at: float
    line: int
    rows: list[tuple[int | None, str | None]]
    shown: bool


def _receiver(talk: str, client: str, arrivals: list[_Arrival]) -> Iterator[Finding]:
    last, shown = None, set[str]()
    for arrival in arrivals:
        line = arrival.line
        for place, message in arrival.rows:
            if message is not None and arrival.shown:
                if message in shown:
                    yield Finding("seen twice", talk, f"{client}: {message}", (line,))
                    continue
                shown.add(message)
            if place is None:
                continue
            if last is not None and place > last + 1:
                yield Finding("skipped", talk, f"{client}: from {last} to {place}", (line,))
            elif last is not None and place <= last and arrival.shown:
                yield Finding("backwards", talk, f"{client}: {place} after {last}", (line,))
            last = place if last is None else max(last, place)


def _real_time(talk: Conversation) -> Iterator[Finding]:
    """A message that was sent after the acknowledgement of another has a later place."""
    placed = _place_of_each(talk)
    begins = [(send.began, 1, send) for send in talk.sends if send.arguments["message"] in placed]
    ends = [(send.ended, 0, send) for send in talk.sends if send.outcome == "ok"]
    highest, by = -inf, ""
    for _, begin, send in sorted((*begins, *ends), key=lambda row: (row[0], -row[1])):
        message = send.arguments["message"]
        place = placed.get(message, -inf)
        if not begin and place > highest:
            highest, by = place, message
        elif begin and place < highest:
            text = f"{message} at {place} was sent after {by} at {highest} was acknowledged"
            yield Finding("overtaken", talk.name, text, (send.line,))


def _place_of_each(talk: Conversation) -> dict[str, float]:
    """Message → its first known place; in a system without places, its position in the read to the end."""
    places: dict[str, float] = {}
    for place, message, _ in _seen(talk):
        if message is not None and place is not None:
            places.setdefault(message, place)
    if not places:
        for index, (_, message) in enumerate(_last_read(talk) or ()):
            if message is not None:
                places.setdefault(message, index)
    return places


def _last_read(talk: Conversation) -> list[tuple[int | None, str | None]] | None:
    """What the last read from the beginning to the end has; None if there was none."""
    whole = [each for each in talk.reads if each.outcome == "ok" and each.arguments.get("whole")]
    if not whole:
        return None
    return [(place, message) for place, message in max(whole, key=lambda each: each.began).answer["messages"]]


def _stale(talk: Conversation) -> Iterator[Finding]:
    """A read to the end has all that was acknowledged, or read in this way, before it began."""
    reads = [each for each in talk.reads if each.outcome == "ok" and each.arguments.get("whole")]
    sets = {id(each): {message for _, message in each.answer["messages"] if message} for each in reads}
    known: list[tuple[float, set[str]]] = [(each.ended, sets[id(each)]) for each in reads]
    known += [(send.ended, {send.arguments["message"]}) for send in talk.sends if send.outcome == "ok"]
    known.sort(key=lambda row: row[0])
    position, before = 0, set[str]()
    for read in sorted(reads, key=lambda each: each.began):
        while position < len(known) and known[position][0] < read.began:
            before |= known[position][1]
            position += 1
        for message in sorted(before - sets[id(read)]):
            yield Finding("stale", talk.name, f"{read.client} does not read {message}", (read.line,))


def _end(talk: Conversation, sends: dict[str, Operation]) -> Iterator[Finding]:
    """At the end all acknowledged messages are there, densely, and followers have seen all of them."""
    last = _last_read(talk)
    if last is not None:
        there = {message for _, message in last}
        for message, send in sends.items():
            if send.outcome == "ok" and message not in there:
                yield Finding("lost", talk.name, f"{message}, acknowledged by {send.client}", (send.line,))
        places = [place for place, _ in last if place is not None]
        for before, place in pairwise(places):
            if place > before + 1:
                yield Finding("hole", talk.name, f"nothing between {before} and {place}")
            elif place <= before:
                yield Finding("backwards", talk.name, f"the read to the end has {place} after {before}")
    yield from _missing(talk, sends, last)


def _missing(
    talk: Conversation, sends: dict[str, Operation], last: list[tuple[int | None, str | None]] | None
) -> Iterator[Finding]:
    wanted = {message for _, message in last or () if message is not None}
    wanted |= {message for message, send in sends.items() if send.outcome == "ok"}
    seen: dict[str, set[str | None]] = {}
    for sight in talk.sights:
        seen.setdefault(sight.client, set()).add(sight.message)
    for read in talk.reads:
        if read.outcome == "ok" and not read.arguments.get("whole"):
            seen.setdefault(read.client, set()).update(message for _, message in read.answer["messages"])
    for client in sorted(talk.followers):
        for message in sorted(wanted - seen.get(client, set())):
            yield Finding("missing", talk.name, f"{client} has not seen {message}")


def _one_order(talk: Conversation) -> Iterator[Finding]:
    """Without places: there is one order of which each client has seen a part."""
    before: dict[str, set[str]] = {}
    last: dict[str, str] = {}
    for sight in talk.sights:
        if sight.message is None:
            continue
        if (other := last.get(sight.client)) is not None and other != sight.message:
            before.setdefault(sight.message, set()).add(other)
        last[sight.client] = sight.message
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        yield Finding("other order", talk.name, " before ".join(error.args[1][:10]))


def _few(findings: list[Finding]) -> list[Finding]:
    """The first findings of each rule, and one that counts the others."""
    counts: dict[str, int] = {}
    few = []
    for each in findings:
        counts[each.rule] = counts.get(each.rule, 0) + 1
        if counts[each.rule] <= MOST_OF_A_RULE:
            few.append(each)
    for rule, count in counts.items():
        if count > MOST_OF_A_RULE:
            few.append(Finding(rule, findings[0].object, f"and {count - MOST_OF_A_RULE} more"))
    return few


def conversations_of(history: History) -> list[Conversation]:
    """The conversations of a history: objects with messages."""
    talks: dict[str, Conversation] = {}

    def talk(name: str) -> Conversation:
        return talks.setdefault(name, Conversation(name))

    for each in history.operations:
        if each.name == "send":
            talk(each.object).sends.append(each)
        elif each.name == "read":
            talk(each.object).reads.append(each)
    for sight in history.sights:
        talk(sight.conversation).sights.append(sight)
    for name, clients in history.followers.items():
        talk(name).followers |= clients
    return list(talks.values())
