"""The votes of polls. A poll is a question that any number of users answer.
Users may change their votes.

A vote is a row of ``ask_vote``. So each user has one vote, and in a poll with
thousands of voters no growing text is rewritten. The totals are in ``poll`` of
the question. The transaction of a vote counts the votes if the last count is
older than :func:`pause_ms`. Otherwise a row of ``ask_tally`` says when the next
count is due, and votes wait until then. So members are notified of a poll at
most once in this time, and no vote is lost if a node ends.

In an anonymous poll, a row has the choices as ``secret``, which no export
reads, and has no time. The rows are deleted when the poll closes.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from imserver.gateway.storage.statements import Statements, text_of
from imserver.messenger.log.contract import SECOND_MS, Entry
from imserver.messenger.log.meta import POLL_KEY, Ask, with_own_choices

MOST_USERS: Final = 3
"""The most users whom the totals name for each option. The newest voters are
named."""
_LOOKED_AT: Final = 200
"""The number of the newest votes among which these users are searched."""
_LEAST_PAUSE_MS: Final = 1000
_OF_POLL: Final = "log = %s AND id = %s"


def pause_ms(poll: Ask.Poll) -> int:
    """Return the least time between two counts of a poll in milliseconds.

    The time is a second, and a millisecond for each voter, so that large polls
    are counted more rarely.
    """
    return _LEAST_PAUSE_MS + poll.voters


def choices_of(bits: int) -> tuple[int, ...]:
    """Return the indexes of the chosen options; ``0b101`` gives ``(0, 2)``."""
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)


def bits_of(choices: Sequence[int]) -> int:
    """Return the choices as bits; ``[0, 2]`` gives ``0b101``."""
    bits = 0
    for index in choices:
        bits |= 1 << index
    return bits


def look_up(sql: Statements, log: int, message: int, user: str) -> tuple[int, int]:
    """Return the time of the database, and the choices of a user as bits.

    The time is in Unix milliseconds. The bits are 0 if the user has not voted.
    """
    # One of the two columns is 0: anonymous polls use `secret`.
    own_choices = (
        f"SELECT choices + secret FROM ask_vote WHERE {_OF_POLL} AND member = %s"
    )
    rows = sql.query(f"SELECT {sql.clock}, ({own_choices})", (log, message, user))
    now, bits = rows[0]
    return int(float(now) * SECOND_MS), int(bits or 0)


def put(
    sql: Statements,
    log: int,
    message: int,
    user: str,
    bits: int,
    poll: Ask.Poll,
    now: int,
) -> None:
    """Replace the vote of a user in a poll.

    ``bits`` are the choices as bits, and 0 withdraws the vote. ``now`` is in
    Unix milliseconds. Choices of an anonymous poll go into the column
    ``secret``, which no query for voters reads.
    """
    sql.execute_many(
        f"DELETE FROM ask_vote WHERE {_OF_POLL} AND member = %s", [(log, message, user)]
    )
    if not bits:
        return
    if poll.anonymous:
        # The row has no time, because the time could show which options the
        # user has chosen.
        row = (log, message, user, 0, bits, 0)
    else:
        row = (log, message, user, bits, 0, now)
    sql.execute_many(
        "INSERT INTO ask_vote (log, id, member, choices, secret, time) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        [row],
    )


def has_votes(sql: Statements, log: int, message: int) -> bool:
    """Tell whether there are votes, including votes that are not counted
    yet."""
    statement = f"SELECT 1 FROM ask_vote WHERE {_OF_POLL} LIMIT 1"
    return bool(sql.query(statement, (log, message)))


def count(
    sql: Statements, log: int, message: int, ask: Ask, poll: Ask.Poll, now: int
) -> Ask.Poll:
    """Count all votes of a poll, and return the poll with the totals.

    If a count was due, it is no longer due. ``ask`` is the question, whose
    options are counted. ``now`` is in Unix milliseconds.
    """
    sql.execute(f"DELETE FROM ask_tally WHERE {_OF_POLL}", (log, message))
    voters, counts = _sums_of_votes(sql, log, message, len(ask.options))
    users: tuple[tuple[str, ...], ...] = ()
    if not poll.anonymous:
        users = _last_users(sql, log, message, len(ask.options))
    return replace(poll, voters=voters, counts=counts, users=users, time=now)


def _sums_of_votes(
    sql: Statements, log: int, message: int, options: int
) -> tuple[int, tuple[int, ...]]:
    """Return how many users have voted in a poll, and how many have chosen each
    option.

    ``options`` is the number of options.
    """
    statement = (
        "SELECT choices, secret, count(*) FROM ask_vote "
        f"WHERE {_OF_POLL} GROUP BY choices, secret"
    )
    voters = 0
    counts = [0] * options
    # The query counts equal votes together, in one row.
    for choices, secret, number in sql.query(statement, (log, message)):
        voters += number
        for choice in choices_of(choices | secret):
            counts[choice] += number
    return voters, tuple(counts)


def _last_users(
    sql: Statements, log: int, message: int, options: int
) -> tuple[tuple[str, ...], ...]:
    """Return, for each option, the users who chose it last.

    There are at most :data:`MOST_USERS` users for an option. ``options`` is the
    number of options. Only the newest votes are read, so there may be fewer
    users for a rare option.
    """
    users: list[list[str]] = [[] for _ in range(options)]
    rows = sql.query(
        f"SELECT member, choices FROM ask_vote WHERE {_OF_POLL} "
        f"ORDER BY time DESC, member DESC LIMIT {_LOOKED_AT}",
        (log, message),
    )
    # A vote may have several choices.
    for member, choices in rows:
        for choice in choices_of(choices):
            if len(users[choice]) < MOST_USERS:
                users[choice].append(text_of(member))
    return tuple(map(tuple, users))


def forget(sql: Statements, log: int, messages: Sequence[int]) -> None:
    """Delete all votes of these polls."""
    sql.execute_many(
        f"DELETE FROM ask_vote WHERE {_OF_POLL}", [(log, id) for id in messages]
    )


def with_own_votes(
    sql: Statements, log: int, user: str, entries: list[Entry]
) -> list[Entry]:
    """Set ``mine`` in the polls among these entries, for a reader.

    Returns the entries. If there is no poll, no query is made.
    """
    polls: dict[int, int] = {}
    """Index of an entry → the poll that the entry is, or is about."""
    for index, entry in enumerate(entries):
        # Most entries need not be decoded.
        if POLL_KEY in entry.meta:
            poll = _poll_of(entry)
            if poll:
                polls[index] = poll
    if not polls:
        return entries

    votes = _votes_of(sql, log, user, polls.values())
    as_read = list(entries)
    for index, poll in polls.items():
        as_read[index] = _voted(entries[index], int(votes.get(poll, 0)))
    return as_read


def _votes_of(
    sql: Statements, log: int, user: str, polls: Iterable[int]
) -> dict[int, int]:
    """Return poll → the choices of a user as bits, for polls with a vote."""
    statement = (
        "SELECT id, choices + secret FROM ask_vote "
        "WHERE log = %s AND member = %s AND id IN {}"
    )
    return dict(sql.query_in(statement, (log, user), list(dict.fromkeys(polls))))


def _poll_of(entry: Entry) -> int:
    """Return the poll that an entry is, or is about, or 0 if there is no
    poll."""
    ask = entry.ask
    if ask is None or ask.poll is None:
        return 0
    if entry.kind == "press":
        return entry.about
    return entry.id


def _voted(entry: Entry, bits: int) -> Entry:
    """Return the entry with the choices of its reader in its question."""
    ask = entry.ask
    is_closed = ask is not None and ask.state != ""
    is_secret = ask is not None and ask.poll is not None and ask.poll.anonymous
    if not bits and is_secret and is_closed:
        return entry  # the votes were deleted, so the choices are unknown
    return replace(entry, meta=with_own_choices(entry.meta, choices_of(bits)))
