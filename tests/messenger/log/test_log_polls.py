"""Polls: each account has one vote, which it may change, and votes are counted
together, on every engine."""

import json
from collections.abc import Sequence
from typing import Any

import gevent

from imserver.messenger.log.asks import AskChange, AskRefused
from imserver.messenger.log.contract import Draft, Entry, Rejected
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import Ask, ask_in
from tests.messenger.log.test_log import APP, group_of, stored
from tests.stores import OpenStore

LUNCH = [{"text": text, "value": text[0]} for text in ("pizza", "soup", "tea")]


def poll(
    log: MessageLog, group: int, until: int = 0, gathers: bool = False, **kind: Any
) -> int:
    """The id of a new poll of ann. ``gathers``: votes are not counted for an
    hour, as after very many."""
    if gathers:
        kind |= {"voters": 3_600_000, "time": log.asks.time_ms()}
    ask: dict[str, Any] = {
        "options": LUNCH,
        "of": [],
        "poll": kind,
        **({"until": until} if until else {}),
    }
    meta = json.dumps({"ask": ask}, separators=(",", ":")).encode()
    return stored(
        log, Draft(sender="ann", body=b"lunch?", conversation=group, meta=meta)
    )[0].id


def vote(log: MessageLog, user: str, id: int, *choices: int) -> AskChange:
    result = log.asks.answer(APP, user, id, choices=choices)
    assert isinstance(result, AskChange), result
    assert result.ask.mine == choices
    return result


def refusal(result: AskChange | Rejected) -> str:
    assert isinstance(result, Rejected), result
    return result.reason


def state(log: MessageLog, reader: str, id: int) -> Ask:
    (entry,) = log.entries.readable(APP, reader, [id])
    ask = ask_in(entry.meta)
    assert ask is not None
    assert ask.poll is not None
    return ask


def totals(
    log: MessageLog, id: int
) -> tuple[int, Sequence[int], Sequence[Sequence[str]]]:
    """The totals after all votes were counted: voters, votes for each option,
    and who chose it last."""
    log.asks.tally(APP, id)
    seen = state(log, "ann", id).poll
    assert seen is not None
    return seen.voters, seen.counts, seen.users


def presses(log: MessageLog, id: int) -> list[Entry]:
    return [
        each
        for each in log.entries.sync(APP, "ann", id, 200)[0]
        if each.kind == "press"
    ]


def test_the_last_vote_of_each_account_counts_until_the_poll_closes(
    log: MessageLog,
) -> None:
    id = poll(log, group_of(log, "ann", "bob", "cal", "dan"))
    first = vote(log, "bob", id, 1)
    assert first.entry is not None, "the first vote is counted at once"
    assert (first.entry.type, first.entry.sender, first.entry.body) == (
        "tally",
        "",
        b"",
    )
    assert (first.ask.poll.voters, first.ask.poll.counts) == (1, (0, 1, 0))  # type: ignore[union-attr]
    vote(log, "bob", id, 0)
    vote(log, "ann", id, 1)
    vote(log, "cal", id, 1)
    vote(log, "cal", id)
    again = vote(log, "bob", id, 0)
    assert (again.entry, again.ask.mine) == (None, (0,))
    assert totals(log, id) == (2, (1, 1, 0), (("bob",), ("ann",), ()))
    assert {each.type for each in presses(log, id)} == {"tally"}
    for wrong in ((3,), (0, 1), (-1,)):
        assert refusal(log.asks.answer(APP, "dan", id, choices=wrong)) == "invalid"
    assert refusal(log.asks.answer(APP, "dan", id, text="cake")) == "invalid"
    assert refusal(log.asks.answer(APP, "eve", id, choices=(0,))) == "unknown_message"
    assert refusal(log.asks.remind(APP, "ann", id)) == refusal(
        log.asks.escalate(APP, "ann", id, ["dan"])
    )
    assert isinstance(log.asks.answer(APP, "dan", id, value="s"), AskChange), (
        "clients with buttons vote, too"
    )
    assert refusal(log.asks.cancel(APP, "bob", id)) == "unknown_message"
    closed = log.asks.cancel(APP, "ann", id)
    assert isinstance(closed, AskChange)
    assert closed.entry is not None
    assert (closed.ask.state, closed.ask.poll.counts) == ("answered", (1, 2, 0))  # type: ignore[union-attr]
    assert isinstance(log.asks.answer(APP, "dan", id, choices=(2,)), AskRefused)
    vote(log, "dan", id, 1)  # a repeated request
    assert log.asks.due("ask_tally") == ([], None)


def test_votes_at_one_moment_give_one_for_each_account_and_few_entries(
    log: MessageLog,
) -> None:
    users = [f"u{number}" for number in range(30)]
    id = poll(log, group_of(log, "ann", *users), gathers=True, many=True)
    votes = [
        gevent.spawn(log.asks.answer, APP, user, id, choices=choices)
        for user in users
        for choices in ((0,), (0, 2), (1, 0))
    ]
    gevent.joinall(votes, raise_error=True)
    own = [state(log, user, id).mine for user in users]
    assert all(own)
    voters, counts, last = totals(log, id)
    assert (voters, counts[0]) == (30, 30)
    assert counts == tuple(
        [sum(index in mine for mine in own if mine) for index in range(3)]
    )
    assert [len(each) for each in last] == [min(count, 3) for count in counts]
    assert len(presses(log, id)) == 1
    assert [log.asks.voters(APP, id, 0, after, 3) for after in ("u7", "\0")] == [
        ["u8", "u9"],
        [],
    ]
    assert log.asks.voters(APP, id, 0, "", 3) == ["u0", "u1", "u10"]


def test_what_gathers_is_counted_by_any_node_and_closed_with_the_last_votes(
    log: MessageLog,
) -> None:
    id = poll(log, group_of(log, "ann", "bob"), gathers=True)
    vote(log, "ann", id, 0)
    vote(log, "bob", id, 0)
    assert log.asks.news.is_set()
    due, left = log.asks.due("ask_tally")
    assert (due, left is not None and 0 < left <= 3601) == ([], True)
    log.asks.settle("ask_tally", APP, id)
    assert log.asks.due("ask_tally") == ([], None)
    assert state(log, "bob", id).poll.counts == (2, 0, 0)  # type: ignore[union-attr]
    late = poll(log, 1, until=log.asks.time_ms() - 1)
    assert refusal(log.asks.answer(APP, "bob", late, choices=(0,))) == "answered"
    assert state(log, "bob", late).state == "expired"


def test_votes_at_the_moment_of_closing_are_counted_or_refused_on_two_nodes(
    url: str, open_store: OpenStore
) -> None:
    near, far = (open_store(url).part(MessageLog) for _ in range(2))
    users = [f"u{number}" for number in range(40)]
    id = poll(near, group_of(near, "ann", *users), gathers=True)
    vote(far, "u0", id, 0)
    acts = [(node.asks.cancel, (APP, "ann", id), {}) for node in (near, far)]
    for number, user in enumerate(users[1:], 1):
        how = {"choices": (number % 3,)}
        acts.insert(
            len(acts) - (number > 20) * 2,
            ((near, far)[number % 2].asks.answer, (APP, user, id), how),
        )
    done = [gevent.spawn(act, *at, **how) for act, at, how in acts]
    gevent.joinall(done, raise_error=True)
    own = {user: state(near, user, id).mine for user in users}
    voted = [
        (str(at[1]), each.value)
        for (_, at, how), each in zip(acts, done, strict=True)
        if how
    ]
    accepted = {user for user, value in voted if isinstance(value, AskChange)}
    assert {user for user, choices in own.items() if choices} == accepted | {"u0"}
    assert isinstance(far.asks.answer(APP, "ann", id, choices=(1,)), AskRefused)
    closed = state(far, "ann", id)
    voters = [
        sum(index in choices for choices in own.values() if choices)
        for index in range(3)
    ]
    assert closed.poll is not None
    assert (closed.state, closed.poll.voters, [*closed.poll.counts]) == (
        "answered",
        sum(voters),
        voters,
    )
    assert [each.type for each in presses(near, id)] == ["cancel"]


def test_nobody_reads_who_has_voted_for_what_in_an_anonymous_poll(
    log: MessageLog,
) -> None:
    group = group_of(log, "ann", "bob", "cal")
    id = poll(log, group, anonymous=True, many=True)
    vote(log, "bob", id, 0, 2)
    vote(log, "cal", id, 0)
    assert totals(log, id) == (2, (2, 0, 1), ())
    assert [state(log, user, id).mine for user in ("ann", "bob", "cal")] == [
        (),
        (0, 2),
        (0,),
    ]
    assert [log.asks.voters(APP, id, choice, "", 9) for choice in range(3)] == [
        [],
        [],
        [],
    ]
    assert not any(
        name in entry.meta for entry in presses(log, id) for name in (b"bob", b"cal")
    )
    log.asks.cancel(APP, "ann", id)
    assert totals(log, id) == (2, (2, 0, 1), ())
    assert state(log, "bob", id).mine is None, "its votes are gone"


def test_who_has_left_sees_no_votes_and_what_is_gone_has_none(log: MessageLog) -> None:
    group = group_of(log, "ann", "bob", "cal")
    first = poll(log, group)
    second = poll(log, group)
    vote(log, "bob", first, 1)
    log.groups.leave(APP, group, ["cal"], "cal")
    vote(log, "bob", second, 1)
    seen = state(log, "cal", second)
    assert (seen.poll, seen.of, seen.options) == (
        Ask.Poll(),
        (),
        state(log, "ann", second).options,
    )
    log.erase_user(APP, "bob", "erased-1")
    assert totals(log, first) == (1, (0, 1, 0), ((), ("erased-1",), ()))
    log.removals.remove(APP, "act", [first])
    assert refusal(log.asks.answer(APP, "ann", first, choices=(1,))) == "recalled"
    log.removals.restore(APP, "act")
    assert log.asks.due("ask_tally")[0] == [(APP, first)]
    vote(log, "ann", first, 1)
    assert totals(log, first) == (2, (0, 2, 0), ((), ("ann", "erased-1"), ()))
    stored(
        log,
        Draft(sender="ann", kind="recall", type="", about=first, conversation=group),
    )
    log.asks.settle("ask_tally", APP, first)
    assert log.asks.voters(APP, first, 1, "", 9) == []
    log.expire(APP, more_than=1)
    assert log.asks.voters(APP, second, 1, "", 9) == []
