"""The votes of polls: questions that any number of users answer, and about
which they may change their minds.

A vote is a row of ``ask_vote``, so each account has one, and a poll of
thousands rewrites no text that grows. The totals are in ``poll`` of the
question. A vote is counted with its transaction if the last count is older than
:func:`pause_ms`. Else a row of ``ask_tally`` says when the next count is due,
and votes gather until then. So members hear of a poll at most once in that
time, and a node that ends forgets no vote.

In an anonymous poll a row has the choices as ``secret``, which no export reads,
and no time. Its rows are deleted when it closes.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from imserver.gateway.storage.statements import Statements, text_of
from imserver.messenger.log.contract import Entry
from imserver.messenger.log.meta import Ask
from imserver.messenger.log.rows import decode_meta

MOST_USERS: Final = 3
"""Users whom the totals name for each option: those who chose it last."""
_OF_POLL: Final = "log = %s AND id = %s"


def pause_ms(poll: Ask.Poll) -> int:
    """The least time between two counts in milliseconds: a second, and a
    millisecond for each voter."""
    return 1000 + poll.voters


def choices_of(bits: int) -> tuple[int, ...]:
    """The options that were chosen, by their index: each is a bit."""
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)


def look_up(sql: Statements, log: int, message: int, user: str) -> tuple[int, int]:
    """The time of the database in Unix milliseconds, and the choices of a user
    as bits."""
    own = f"SELECT choices + secret FROM ask_vote WHERE {_OF_POLL} AND member = %s"
    now, bits = sql.query(f"SELECT {sql.clock}, ({own})", (log, message, user))[0]
    return int(float(now) * 1000), int(bits or 0)


def put(
    sql: Statements,
    log: int,
    message: int,
    user: str,
    bits: int,
    poll: Ask.Poll,
    now: int,
) -> None:
    """Store the choices of a user in place of those before; 0: none."""
    sql.execute_many(
        f"DELETE FROM ask_vote WHERE {_OF_POLL} AND member = %s", [(log, message, user)]
    )
    if bits:
        values = (0, bits, 0) if poll.anonymous else (bits, 0, now)
        sql.execute_many(
            "INSERT INTO ask_vote (log, id, member, choices, secret, time) VALUES (%s, %s, %s, %s, %s, %s)",
            [(log, message, user, *values)],
        )


def has_votes(sql: Statements, log: int, message: int) -> bool:
    """Whether there are votes, also such as are not counted yet."""
    return bool(
        sql.query(f"SELECT 1 FROM ask_vote WHERE {_OF_POLL} LIMIT 1", (log, message))
    )


def count(
    sql: Statements, log: int, message: int, ask: Ask, poll: Ask.Poll, now: int
) -> Ask.Poll:
    """The poll with the totals of all votes. No count is due any more."""
    sql.execute(f"DELETE FROM ask_tally WHERE {_OF_POLL}", (log, message))
    counts, voters = [0] * len(ask.options), 0
    statement = f"SELECT choices, secret, count(*) FROM ask_vote WHERE {_OF_POLL} GROUP BY choices, secret"
    for choices, secret, number in sql.query(statement, (log, message)):
        voters += number
        for choice in choices_of(choices | secret):
            counts[choice] += number
    users: tuple[tuple[str, ...], ...] = ()
    if not poll.anonymous:
        last = f"WHERE {_OF_POLL} ORDER BY time DESC, member DESC LIMIT 200"
        found = sql.query(
            f"SELECT member, choices FROM ask_vote {last}", (log, message)
        )
        rows = [(text_of(member), choices) for member, choices in found]
        users = tuple(
            tuple(
                [member for member, choices in rows if choices >> index & 1][
                    :MOST_USERS
                ]
            )
            for index in range(len(ask.options))
        )
    return replace(poll, voters=voters, counts=tuple(counts), users=users, time=now)


def forget(sql: Statements, log: int, messages: Sequence[int]) -> None:
    """Delete all votes of polls."""
    sql.execute_many(
        f"DELETE FROM ask_vote WHERE {_OF_POLL}", [(log, id) for id in messages]
    )


def as_begun(ask: dict[str, Any]) -> dict[str, Any]:
    """A question, as ``meta`` has it, without what has happened to it."""
    begun: dict[str, Any] = {
        key: ask[key]
        for key in ("options", "text", "need", "until", "fixed")
        if key in ask
    }
    if isinstance(poll := ask.get("poll"), dict):
        kind = {key: poll[key] for key in ("many", "anonymous") if key in poll}
        begun |= {"of": [], "poll": kind}
    return begun


def with_own_votes(
    sql: Statements, log: int, user: str, entries: list[Entry]
) -> list[Entry]:
    """The entries with ``mine`` in their polls for a reader. Queries only if
    there is one."""
    polls: dict[int, int] = {}
    """Index of an entry → the poll that it is, or is about."""
    for index, entry in enumerate(entries):
        if (
            b'"poll":' in entry.meta
            and (ask := entry.ask) is not None
            and ask.poll is not None
        ):
            polls[index] = entry.about if entry.kind == "press" else entry.id
    if not polls:
        return entries
    statement = "SELECT id, choices + secret FROM ask_vote WHERE log = %s AND member = %s AND id IN {}"
    own: dict[int, int] = dict(
        sql.query_in(statement, (log, user), list(dict.fromkeys(polls.values())))
    )
    return [
        _voted(entry, int(own.get(polls[index], 0))) if index in polls else entry
        for index, entry in enumerate(entries)
    ]


def _voted(entry: Entry, bits: int) -> Entry:
    meta: dict[str, Any] = decode_meta(entry.meta)
    ask = meta["ask"]
    if not bits and ask.get("state") and ask["poll"].get("anonymous"):
        return entry  # nobody knows any more
    return replace(
        entry,
        meta=msgspec.json.encode({**meta, "ask": {**ask, "mine": choices_of(bits)}}),
    )
