"""Mailboxes: workers claim messages, acknowledge them and give them back, or
wait for messages to claim.

While nobody claims, a mailbox is not filled. A claim first reads the entries
that the log has stored since the last claim. It moves the position of the
mailbox together with the rows. Therefore each message is added once, even if
several workers and nodes claim at the same time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final, Literal, TypeVar

import gevent
from gevent.event import Event as Flag
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import (
    HttpProblem,
    Problems,
    ServiceRefused,
    StorageUnavailable,
)
from imserver.plugin.messages import Entry, MessageServices, count_fitting
from imserver.plugin.services import Core

from .rows import Look, MailboxRows, Queue

log = logging.getLogger(__name__)

PAGE: Final = 500
"""The number of entries of the log that one read fetches."""
PAGES: Final = 20
"""The most pages that one claim reads. The next claims read the rest."""
LOOKS: Final = 20
"""How often a claim tries again while others take the rows that it has read."""
MOST_WAITS: Final = 10_000
"""The most claims that wait on a node. Further ones are answered at once."""
MOST_OF_ONE: Final = 200
"""The most claims of one principal that wait."""
LOOK_SECONDS: Final = 2.0
"""How often a waiting claim looks without news, because other nodes may give
claims back."""
_TOKEN_NUMBERS: Final = 4
"""How many numbers the token of a claim has."""
_MOST_DIGITS: Final = 18
"""The most digits of a number that fits into a column of 64 bits."""
HTTP_LATE: Final = HttpProblem(
    409,
    "claim_ended",
    "The lease has ended, or the message was acknowledged or given back.",
)
HTTP_UNKNOWN_LETTER: Final = HttpProblem(
    404, "unknown_dead_letter", "There is no such dead letter."
)
EVENTS: Final = ("claim", "renew", "ack", "nack", "late", "dead", "put_back", "drop")
T = TypeVar("T")
EventName = Literal["claim", "renew", "ack", "nack", "late", "dead", "put_back", "drop"]


class Claim(Struct, frozen=True):
    """Messages of one conversation that a worker has claimed: until the end of
    the lease nobody else gets messages of this conversation.

    ``row``: the row before the claim, but with its number. ``until``: the end
    of the lease in Unix milliseconds.
    """

    row: Queue
    messages: list[Entry]
    until: int

    @property
    def token(self) -> str:
        """The token by which the worker names the claim later. It is valid for
        this mailbox only."""
        row = self.row
        last = self.messages[-1].id
        return f"{row.conversation}.{row.message}.{row.claim}.{last}"


def claim_of(app: str, user: str, token: str) -> tuple[Queue, int]:
    """The claim that a token names, and the last message of the claim.

    A token has four numbers: ``<conversation>.<message>.<claim>.<last
    message>``. Raises ServiceRefused if it is no token.
    """
    numbers = token.split(".")
    if len(numbers) != _TOKEN_NUMBERS or not all(map(_is_number, numbers)):
        raise ServiceRefused(
            "`token`: it is not that of a claim", Problems.INVALID_REQUEST
        )

    conversation, message, claim, upto = map(int, numbers)
    # Only the fields that name the claim matter.
    row = Queue(
        app=app,
        member=user,
        message=message,
        conversation=conversation,
        claim=claim,
        handled=0,
        last=0,
    )
    return row, upto


def _is_number(text: str) -> bool:
    """Whether a part of a token is a number that fits into a column."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


class Mailboxes:
    """The mailboxes of bots, from which workers claim messages.

    Methods may switch greenlets and raise StorageUnavailable.
    """

    def __init__(self, core: Core, services: MessageServices) -> None:
        """Take the services of the core and the messenger. No mailbox is read
        yet."""
        self.rows = MailboxRows(core.store)
        self.waits = Waits(core, services)
        self.counts: Counter[EventName] = Counter()
        """Event → how often it has happened on this node since its start."""
        self._core = core
        self._log = services.log
        self._receipts = services.receipts

    def require_bot(self, app: str, user: str) -> None:
        """Raise ServiceRefused if a user is not a bot."""
        accounts = self._core.accounts.those_of(app, [user])
        if not any(account.bot for account in accounts):
            raise ServiceRefused("Only bots have mailboxes", Problems.UNKNOWN_ACCOUNT)

    def claim(
        self,
        app: str,
        user: str,
        seconds: int,
        limit: int,
        tries: int,
        wait: float,
        payer: str,
    ) -> Claim | None:
        """Claim the messages that have waited longest, for ``seconds``.

        ``limit``: the most messages. ``tries``: after so many claims a message
        becomes a dead letter. ``wait``: for how many seconds to wait for a
        message. ``payer``: the principal whose waiting claims are counted.
        Returns None if no message came in time.
        """
        if wait <= 0 or self.waits.is_full(payer):
            claim = self._claim(app, user, seconds, limit, tries)
            if isinstance(claim, Claim):
                return claim
            return None

        deadline = monotonic() + wait
        with self.waits.waiting(app, user, payer) as news:
            while True:
                news.clear()
                # Without a claim, this is how many seconds to wait.
                claim = self._claim(app, user, seconds, limit, tries)
                if isinstance(claim, Claim):
                    return claim
                seconds_left = deadline - monotonic()
                # A node that is about to stop sends its workers away.
                if seconds_left <= 0 or self._core.node.draining:
                    return None
                news.wait(max(0.0, min(seconds_left, claim)))

    def _claim(
        self, app: str, user: str, seconds: int, limit: int, tries: int
    ) -> Claim | float:
        """Claim messages, if there are any now.

        Otherwise returns the number of seconds until the next look. Arguments
        are as for :meth:`claim`.
        """
        if not self._core.store.has_database:
            return LOOK_SECONDS
        # A mailbox is filled by the claims themselves.
        look = self._add_new_messages(app, user)
        for _ in range(LOOKS):
            if look is None:
                look = self.rows.look(app, user)
            if not look.due:
                if look.seconds is None:
                    return LOOK_SECONDS
                return min(look.seconds, LOOK_SECONDS)
            claim = self._claim_first(look.due, seconds, limit, tries)
            if claim is not None:
                return claim
            look = None  # the rows have changed, and are read again
        return 0.0

    def _claim_first(
        self, rows: Sequence[Queue], seconds: int, limit: int, tries: int
    ) -> Claim | None:
        """Claim the first row that no other worker has claimed, with its
        messages. Returns None if there is no such row, or if it has no messages
        for a worker."""
        for row in rows:
            until = self.rows.claim(row, seconds)
            if until is None:
                continue  # another worker has claimed it
            claimed = replace(row, claim=row.claim + 1)
            return self._messages_or_dead_letter(claimed, until, limit, tries)
        return None

    def _messages_or_dead_letter(
        self, row: Queue, until: int, limit: int, tries: int
    ) -> Claim | None:
        """The messages of a row that was just claimed.

        Returns None if the claim has ended at once, because it has no messages.
        It also ends if its message has failed ``tries`` times: then the message
        becomes a *dead letter*, which nobody can claim. ``row`` has the number
        of the claim, but the tries and the reason from before it.
        """
        if row.tries:
            # A failed message comes alone: no other may become a dead letter
            # with it.
            limit = 1
        messages, upto = self._read_messages(row, limit)
        if not messages:
            self.rows.settle(row, upto)
            return None
        if row.tries < tries:
            self.counts["claim"] += 1
            return Claim(row, messages, until)

        letter = replace(row, reason=row.reason or "The lease has ended")
        if self.rows.bury(letter, messages[0].id):
            self.counts["dead"] += 1
        return None

    def _read_messages(self, row: Queue, limit: int) -> tuple[list[Entry], int]:
        """The messages of a row that its bot may read, and the last entry that
        was read.

        A row is about one message (``row.message``), or about a conversation.
        """
        if row.message:
            entries = self._log.entries.readable(row.app, row.member, [row.message])
            messages = [entry for entry in entries if entry.kind == "message"]
            return messages, row.message
        return self._read_conversation(row, limit)

    def _read_conversation(self, row: Queue, limit: int) -> tuple[list[Entry], int]:
        """The next messages of others in the conversation of a row, and the
        last entry that was read. There may be none."""
        after = row.handled
        for _ in range(PAGES):
            # Twice as many, because messages of the bot itself are left out.
            entries, more = self._log.entries.history(
                row.app,
                row.member,
                row.conversation,
                row.last + 1,
                2 * limit,
                after=after,
            )
            messages = _messages_of_others(entries, row.member)
            if messages:
                return _those_that_fit(messages[:limit]), messages[-1].id
            if not more:
                return [], row.last
            after = entries[-1].id
        return [], after

    # --- what the worker has done ---------------------------------------------

    def renew(self, app: str, user: str, token: str, seconds: int) -> int:
        """Extend a claim. Returns its new end, in Unix milliseconds. Raises
        ServiceRefused if it has ended."""
        row, _ = claim_of(app, user, token)
        until = self.rows.renew(row, seconds)
        return self._count_or_refuse("renew", until)

    def acknowledge(self, app: str, user: str, token: str) -> bool:
        """End a claim whose messages were handled.

        Their senders see it by the read mark of the bot. Returns False if the
        claim was acknowledged before. Raises ServiceRefused if it has ended.
        """
        row, upto = claim_of(app, user, token)
        is_new = self._count_or_refuse("ack", self.rows.settle(row, upto))
        self._receipts.note(app, user, row.conversation, read=upto)
        self.waits.wake(app, user)  # the conversation may have more
        return is_new

    def give_back(
        self, app: str, user: str, token: str, seconds: int, reason: str
    ) -> None:
        """End a claim whose messages were not handled.

        Other workers may claim them after ``seconds``. Raises ServiceRefused if
        it has ended.
        """
        row, _ = claim_of(app, user, token)
        self._count_or_refuse("nack", self.rows.give_back(row, seconds, reason) or None)
        self.waits.wake(app, user)

    def _count_or_refuse(self, event: EventName, result: T | None) -> T:
        """Count an event, and return its result.

        A result of None means that the claim has ended. Then raises
        ServiceRefused.
        """
        if result is None:
            self.counts["late"] += 1
            raise ServiceRefused(problem=HTTP_LATE)
        self.counts[event] += 1
        return result

    # --- dead letters ---------------------------------------------------------

    def put_back(self, app: str, user: str, message: int) -> None:
        """Put a dead letter back, so that it may be claimed again. Raises
        ServiceRefused."""
        if not self.rows.put_back(app, user, message):
            raise ServiceRefused(problem=HTTP_UNKNOWN_LETTER)
        self.counts["put_back"] += 1
        self.waits.wake(app, user)

    def drop(self, app: str, user: str, message: int) -> None:
        """Delete a dead letter. Raises ServiceRefused."""
        if not self.rows.drop(app, user, message):
            raise ServiceRefused(problem=HTTP_UNKNOWN_LETTER)
        self.counts["drop"] += 1

    # --- filling --------------------------------------------------------------

    def _add_new_messages(self, app: str, user: str) -> Look | None:
        """Add the messages that the log has stored since the last claim.

        A new mailbox begins with the messages that the bot has not read.
        Returns the state of the mailbox, or None if it has changed and must be
        read again.
        """
        look = self.rows.look(app, user)
        end = self._log.entries.head(app)
        if look.position is None:
            self.rows.begin(app, user, end)
            look = self.rows.look(app, user)
        position = look.position or 0
        if position >= end:
            return look
        self._add_pages(app, user, look.begin, position, end)
        return None

    def _add_pages(
        self, app: str, user: str, begin: int, position: int, end: int
    ) -> None:
        """Add the messages of the log between ``position`` and ``end``, a few
        pages at most.

        ``begin``: the end of the log when the mailbox was made.
        """
        # These are messages from before the mailbox, which the bot may have
        # read.
        read_marks: dict[int, int] = {}
        if position < begin:
            read_marks = self._read_marks(app, user)
        for _ in range(PAGES):
            if position >= end:
                break
            old_position = position
            entries, more = self._page(app, user, position, begin)
            if entries:
                position = entries[-1].id
            if not more:
                position = max(end, position)
            ranges = _ranges(entries, user, read_marks)
            # Another claim has added these messages at the same time.
            if not self.rows.add(app, user, old_position, position, ranges):
                break

    def _page(
        self, app: str, user: str, position: int, begin: int
    ) -> tuple[list[Entry], bool]:
        """Entries of the log after a position, and whether the log has more.

        Before the beginning of a mailbox, they are only the entries that its
        bot can read.
        """
        if position < begin:
            return self._log.entries.sync(app, user, position, PAGE)
        # Entries of all users: _waits_for() finds those for the bot.
        entries = self._log.entries.read(app, position, PAGE)
        return entries, len(entries) == PAGE

    def _read_marks(self, app: str, user: str) -> dict[int, int]:
        """The conversations of a bot, each with the last entry that the bot has
        read."""
        reads = dict[int, int]()
        version = 0
        while True:
            marks = self._log.marks.since(app, user, version)
            reads |= marks.reads
            if not marks.more:
                return reads
            version = marks.version


def _messages_of_others(entries: Sequence[Entry], bot: str) -> list[Entry]:
    """The messages among entries of the log that a bot has not sent itself."""
    return [
        entry for entry in entries if entry.kind == "message" and entry.sender != bot
    ]


def _those_that_fit(messages: list[Entry]) -> list[Entry]:
    """The first of these messages, as many as fit into an answer, which has a
    maximum size."""
    sizes = (len(entry.body) + len(entry.meta) for entry in messages)
    return messages[: count_fitting(sizes)]


def _ranges(
    entries: list[Entry], user: str, reads: dict[int, int]
) -> dict[int, tuple[int, int]]:
    """The conversations with unread messages in some entries, each with its
    first and last one.

    ``reads``: conversation → the last entry that the bot has read.
    """
    ranges = dict[int, tuple[int, int]]()
    for entry in entries:
        conversation = entry.conversation
        if _waits_for(entry, user) and entry.id > reads.get(conversation, 0):
            # Only the first and the last one count: a worker reads those
            # between.
            first, _ = ranges.get(conversation, (entry.id, 0))
            ranges[conversation] = first, entry.id
    return ranges


def _waits_for(entry: Entry, user: str) -> bool:
    """Whether an entry is a message of somebody else that the bot may read."""
    if entry.kind != "message" or entry.sender == user:
        return False
    return user in (entry.members or entry.bots)


class Waits:
    """The claims that wait on this node.

    While any wait, one greenlet finds out for which of them the log has
    something new, no matter which node has stored it.
    """

    def __init__(self, core: Core, services: MessageServices) -> None:
        """Begin without waiting claims."""
        self._log = services.log.entries
        self._watch = services.messaging.follower.watch
        self._core = core
        self._news = Flag()
        self._waits: dict[tuple[str, str], list[Flag]] = {}
        """(app, user) → the signals of the waiting claims."""
        self._positions: dict[str, int] = {}
        """App → the id up to which the log was read."""
        self._payers: Counter[str] = Counter()
        """Principal → the number of its waiting claims."""

    def is_full(self, payer: str) -> bool:
        """Whether a principal has as many waiting claims as it may have, or the
        node has too many."""
        return self._payers.total() >= MOST_WAITS or self._payers[payer] >= MOST_OF_ONE

    @contextmanager
    def waiting(self, app: str, user: str, payer: str) -> Iterator[Flag]:
        """A context with a signal that is set when there may be something to
        claim.

        May switch greenlets. Raises StorageUnavailable.
        """
        news = Flag()
        self._waits.setdefault((app, user), []).append(news)
        self._payers[payer] += 1
        self._watch(self._news, self._apps())
        try:
            # The query may switch greenlets, and another claim may set the
            # position meanwhile.
            if app not in self._positions:
                self._positions.setdefault(app, self._log.head(app))
            self._news.set()
            yield news
        finally:
            self._payers -= Counter({payer: 1})
            self._forget(app, user, news)

    def _forget(self, app: str, user: str, news: Flag) -> None:
        """Remove a claim that waits no more. The logs of apps without waiting
        claims are not read any more."""
        self._waits[app, user].remove(news)
        if not self._waits[app, user]:
            del self._waits[app, user]
        apps = self._apps()
        self._positions = {
            name: position for name, position in self._positions.items() if name in apps
        }
        self._watch(self._news, apps)

    def _apps(self) -> set[str]:
        """The apps in which claims wait."""
        return {app for app, _ in self._waits}

    def wake(self, app: str, user: str) -> None:
        """Note that a user's mailbox may have something to claim. Never
        switches greenlets."""
        for news in self._waits.get((app, user), ()):
            news.set()

    def run(self) -> None:
        """Wake waiting claims when the log has news, until the greenlet is
        killed."""
        while True:
            # While no claim waits, only a new claim sets the signal.
            seconds = None
            if self._waits:
                seconds = LOOK_SECONDS
            self._news.wait(seconds)
            self._news.clear()
            try:
                self._wake_for_news()
            except StorageUnavailable as error:
                log.debug("mailboxes could not be read: %s", error)
                gevent.sleep(LOOK_SECONDS)
            except Exception:
                log.exception("mailboxes could not be read")
                gevent.sleep(LOOK_SECONDS)

    def _wake_for_news(self) -> None:
        """Wake the waiting claims of users who may read new entries.

        May switch greenlets. Raises StorageUnavailable.
        """
        heads = self._log.heads(list(self._positions))
        for app, end in heads.items():
            position = self._positions.get(app, end)
            if position >= end:
                continue
            users = self._log.readers(app, position, end)
            # The query has switched greenlets, so the last waiting claim may
            # have gone.
            if app in self._positions:
                self._positions[app] = end
            for user in users:
                self.wake(app, user)
