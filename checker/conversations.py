"""The rules of a conversation: one order, dense, with everything that was
acknowledged, and nothing twice.

A place is the sequence number that the system gives. In a system without places
the orders that clients have seen are compared: there must be one order that has
them all, and nobody leaves out what it has between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from math import inf
from typing import Any, Final

from checker.findings import Finding
from checker.history import History, Operation, Sight

MOST_OF_A_RULE: Final = 20
"""Findings of one rule in one conversation that are told one by one."""
Row = Sequence[Any]
"""Place and message, as a read returns them."""


@dataclass
class Conversation:
    """What a history says of one conversation."""

    name: str
    sends: list[Operation] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    followers: set[str] = field(default_factory=set)
    log: list[Row] = field(default_factory=list)
    """The longest read from the beginning, of those that are beginnings of each
    other."""
    extents: dict[int, int] = field(default_factory=dict)
    """Number of a read → how much of ``log`` it has; only of those that have
    nothing else."""
    news: list[tuple[Operation, Sequence[Row]]] = field(default_factory=list)
    """The reads, and what each has that :attr:`log` did not have before."""

    def compare_reads(self) -> None:
        """Fill the last three. A whole read mostly repeats the one before it:
        to go through all of its rows each time would take the square of their
        number."""
        for read in self.reads:
            rows = read.answer.get("messages", ())
            if (
                read.arguments.get("whole")
                and rows[: len(self.log)] == self.log[: len(rows)]
            ):
                self.extents[read.number] = len(rows)
                self.news.append((read, rows[len(self.log) :]))
                self.log += rows[len(self.log) :]
            else:
                self.news.append((read, rows))


def check_conversation(talk: Conversation) -> list[Finding]:
    """Judge a conversation."""
    sends = {each.arguments["message"]: each for each in talk.sends}
    talk.compare_reads()
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
    for read, rows in talk.news:
        for place, message in rows:
            yield place, message, read.line
    for send in talk.sends:
        if send.outcome == "ok" and send.answer.get("place") is not None:
            yield send.answer["place"], send.arguments["message"], send.line


def _places(talk: Conversation) -> Iterator[Finding]:
    """One message at each place, one place for each message. Without places:
    once in what is read at once."""
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
            yield Finding(
                "two at one place",
                talk.name,
                f"{place}: {other} and {message}",
                (its_line, line),
            )
        if message is None:
            continue
        first, its_line = of_message.setdefault(message, (place, line))
        if first != place:
            yield Finding(
                "doubled",
                talk.name,
                f"{message} at {first} and {place}",
                (its_line, line),
            )
        if moved.get(message, place) != place:
            text = (
                f"{message} was acknowledged at {moved[message]} and stands at {place}"
            )
            yield Finding("moved", talk.name, text, (line,))
    for read, rows in talk.news:
        messages = [
            message for place, message in rows if place is None and message is not None
        ]
        if len(set(messages)) < len(messages):
            for message in sorted(
                {each for each in messages if messages.count(each) > 1}
            ):
                yield Finding(
                    "doubled",
                    talk.name,
                    f"{read.client} reads {message} twice",
                    (read.line,),
                )


def _senders(talk: Conversation, sends: dict[str, Operation]) -> Iterator[Finding]:
    """Only what was sent, and nothing that was refused."""
    for message, line in {
        message: line for _, message, line in _seen(talk) if message is not None
    }.items():
        send = sends.get(message)
        if send is None:
            yield Finding("invented", talk.name, message, (line,))
        elif send.outcome == "fail":
            yield Finding("refused", talk.name, message, (send.line, line))


def _receivers(talk: Conversation) -> Iterator[Finding]:
    """Each client is shown a message once, and in the order of places without a
    gap.

    What a client reads counts as seen: it catches up by reads.
    """
    events: dict[str, list[_Arrival]] = {}
    for sight in talk.sights:
        arrival = _Arrival(
            sight.at, sight.line, [(sight.place, sight.message)], shown=True
        )
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
    last = None
    shown = set[str]()
    fetched = set[str]()
    for arrival in arrivals:
        line = arrival.line
        for place, message in arrival.rows:
            if message is not None and arrival.shown:
                # With places, what is shown after it was read is "backwards".
                if message in shown or (place is None and message in fetched):
                    yield Finding("seen twice", talk, f"{client}: {message}", (line,))
                    continue
                shown.add(message)
            if place is None:
                if message is not None:
                    fetched.add(message)
                continue
            if last is not None and place > last + 1:
                yield Finding(
                    "skipped", talk, f"{client}: from {last} to {place}", (line,)
                )
            elif last is not None and place <= last and arrival.shown:
                yield Finding(
                    "backwards", talk, f"{client}: {place} after {last}", (line,)
                )
            last = place if last is None else max(last, place)


def _real_time(talk: Conversation) -> Iterator[Finding]:
    """A message that was sent after the acknowledgement of another has a later
    place."""
    placed = _place_of_each(talk)
    begins = [
        (send.began, 1, send)
        for send in talk.sends
        if send.arguments["message"] in placed
    ]
    ends = [(send.ended, 0, send) for send in talk.sends if send.outcome == "ok"]
    highest = -inf
    by = ""
    for _, begin, send in sorted((*begins, *ends), key=lambda row: (row[0], -row[1])):
        message = send.arguments["message"]
        place = placed.get(message, -inf)
        if not begin and place > highest:
            highest = place
            by = message
        elif begin and place < highest:
            text = f"{message} at {place} was sent after {by} at {highest} was acknowledged"
            yield Finding("overtaken", talk.name, text, (send.line,))


def _place_of_each(talk: Conversation) -> dict[str, float]:
    """Message → its first known place; in a system without places, its position
    in the read to the end, else among what the client was shown that was shown
    most."""
    places: dict[str, float] = {}
    for place, message, _ in _seen(talk):
        if message is not None and place is not None:
            places.setdefault(message, place)
    if not places:
        order = [
            message for _, message in _last_read(talk) or () if message is not None
        ]
        if not order:
            order = [*max(_orders(talk).values(), key=len, default={})]
        for index, message in enumerate(order):
            places.setdefault(message, index)
    return places


def _last_read(talk: Conversation) -> list[tuple[int | None, str | None]] | None:
    """What the last read from the beginning to the end has; None if there was
    none."""
    whole = [
        each
        for each in talk.reads
        if each.outcome == "ok" and each.arguments.get("whole")
    ]
    if not whole:
        return None
    return [
        (place, message)
        for place, message in max(whole, key=lambda each: each.began).answer["messages"]
    ]


def _stale(talk: Conversation) -> Iterator[Finding]:
    """A read to the end has all that was acknowledged, or read in this way,
    before it began."""
    position = {message: index for index, (_, message) in enumerate(talk.log)}
    reads = [
        each
        for each in talk.reads
        if each.outcome == "ok" and each.arguments.get("whole")
    ]
    # When something became known: messages, and how much of the log.
    known: list[tuple[float, list[str], int]] = [
        (send.ended, [send.arguments["message"]], 0)
        for send in talk.sends
        if send.outcome == "ok"
    ]
    for read in reads:
        extent = talk.extents.get(read.number)
        known.append(
            (read.ended, [], extent)
            if extent is not None
            else (read.ended, [*_texts(read)], 0)
        )
    known.sort(key=lambda row: row[0])
    index = 0
    before = list[str]()
    beginning = 0
    furthest = -1.0
    for read in sorted(reads, key=lambda each: each.began):
        while index < len(known) and known[index][0] < read.began:
            _, messages, extent = known[index]
            before += messages
            beginning = max(beginning, extent)
            furthest = max([furthest, *(position.get(each, inf) for each in messages)])
            index += 1
        own = talk.extents.get(read.number)
        if own is None or beginning > own or furthest >= own:
            due = {
                *before,
                *(
                    message
                    for _, message in talk.log[:beginning]
                    if message is not None
                ),
            }
            for message in sorted(due - set(_texts(read))):
                yield Finding(
                    "stale",
                    talk.name,
                    f"{read.client} does not read {message}",
                    (read.line,),
                )


def _texts(read: Operation) -> Iterator[str]:
    return (message for _, message in read.answer["messages"] if message is not None)


def _end(talk: Conversation, sends: dict[str, Operation]) -> Iterator[Finding]:
    """At the end all acknowledged messages are there, densely, and followers
    have seen all of them."""
    last = _last_read(talk)
    if last is not None:
        there = {message for _, message in last}
        for message, send in sends.items():
            if send.outcome == "ok" and message not in there:
                yield Finding(
                    "lost",
                    talk.name,
                    f"{message}, acknowledged by {send.client}",
                    (send.line,),
                )
        places = [place for place, _ in last if place is not None]
        for before, place in pairwise(places):
            if place > before + 1:
                yield Finding(
                    "hole", talk.name, f"nothing between {before} and {place}"
                )
            elif place <= before:
                yield Finding(
                    "backwards",
                    talk.name,
                    f"the read to the end has {place} after {before}",
                )
    yield from _missing(talk, sends, last)


def _missing(
    talk: Conversation,
    sends: dict[str, Operation],
    last: list[tuple[int | None, str | None]] | None,
) -> Iterator[Finding]:
    wanted = {message for _, message in last or () if message is not None}
    wanted |= {message for message, send in sends.items() if send.outcome == "ok"}
    seen: dict[str, set[str | None]] = {}
    for sight in talk.sights:
        seen.setdefault(sight.client, set()).add(sight.message)
    for read in talk.reads:
        if read.outcome == "ok" and not read.arguments.get("whole"):
            seen.setdefault(read.client, set()).update(
                message for _, message in read.answer["messages"]
            )
    for client in sorted(talk.followers):
        for message in sorted(wanted - seen.get(client, set())):
            yield Finding("missing", talk.name, f"{client} has not seen {message}")


def _orders(talk: Conversation) -> dict[str, dict[str, int]]:
    """Client → what it was shown or has read to catch up, in the order in which
    it was new, with the line."""
    arrivals = [
        (each.at, each.line, each.client, [each.message]) for each in talk.sights
    ]
    arrivals += [
        (each.ended, each.line, each.client, [*_texts(each)])
        for each in talk.reads
        if each.outcome == "ok" and each.arguments.get("catches_up")
    ]
    orders: dict[str, dict[str, int]] = {}
    for _, line, client, messages in sorted(arrivals, key=lambda each: each[:2]):
        order = orders.setdefault(client, {})
        for message in messages:
            if message is not None:
                order.setdefault(message, line)
    return orders


def _one_order(talk: Conversation) -> Iterator[Finding]:
    """Without places: there is one order of which each client has seen a part,
    without gaps."""
    orders = _orders(talk)
    end = [message for _, message in _last_read(talk) or () if message is not None]
    after: dict[str, set[str]] = {}
    for order in (*orders.values(), end):
        for message, follower in pairwise(order):
            after.setdefault(message, set()).add(follower)
            after.setdefault(follower, set())
    try:
        backwards = [*TopologicalSorter(after).static_order()]
    except CycleError as error:
        yield Finding(
            "other order", talk.name, " before ".join(error.args[1][:0:-1][:10])
        )
        return
    rank = {message: -index for index, message in enumerate(backwards)}
    gaps = {
        (message, follower)
        for message, followers in after.items()
        for follower in _later(followers, after, rank)
    }
    for client, order in orders.items():
        for message, follower in pairwise(order):
            if (message, follower) in gaps:
                text = f"{client}: from {message} to {follower}"
                yield Finding("skipped", talk.name, text, (order[follower],))


def _later(
    messages: set[str], after: dict[str, set[str]], rank: dict[str, int]
) -> set[str]:
    """Those of some messages that come after others of them in the one
    order."""
    if len(messages) < 2:
        return set()
    last = max(rank[each] for each in messages)
    later = set[str]()
    work = [*messages]
    while work:
        for follower in after[work.pop()]:
            if follower not in later and rank[follower] <= last:
                later.add(follower)
                work.append(follower)
    return messages & later


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
            few.append(
                Finding(rule, findings[0].object, f"and {count - MOST_OF_A_RULE} more")
            )
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
