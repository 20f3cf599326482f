"""Questions: messages that are answered exactly once, or by a number of users
that the question names.

A question is a message with ``ask`` in its ``meta``
(:class:`imserver.messenger.log.meta.Ask`). The state and the answers are in
``ask``, too, so every view of the message shows them. Each act on a question is
an entry of the kind ``press`` about the question, in its conversation. The type
of the entry is the act: ``answer``, ``cancel``, ``expire``, ``escalate``,
``remind`` or ``tally``. The ``meta`` of the entry has the fields of the
question that the act changes. The body of an ``answer`` is the value or the
text. All checks run under the log's lock, so the first answer wins. The answers
to a poll are votes: :mod:`imserver.messenger.log.polls`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from time import time
from typing import Any, Final, Literal, get_args

from gevent.event import Event as Flag
from msgspec import Struct
from msgspec.structs import replace

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Statements, text_objection, text_of
from imserver.messenger.log import polls
from imserver.messenger.log.annotations import TargetMessage, find_message
from imserver.messenger.log.contract import (
    SECOND_MS,
    Change,
    Entry,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.groups import record
from imserver.messenger.log.meta import (
    Ask,
    AskAnswer,
    MessageMeta,
    ask_in,
    press_meta,
    with_keys,
)
from imserver.messenger.log.read import fetch, readable_sizes
from imserver.messenger.log.rows import (
    NUMBERS,
    LogHead,
    in_log,
    read_log,
)
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import LogWriter, WritingPart
from imserver.plugin.storage import Store

_DUE_AT_ONCE: Final = 100
"""The most questions that one query returns."""
_CHARACTER_BYTES: Final = 4
"""The most bytes of a character in UTF-8."""
_NOT_OF_POLLS: Final = Rejected(RejectReason.INVALID, "a poll: everybody may vote")
_CHANGING: Final = f"({NUMBERS['press']}, {NUMBERS['recall']}, {NUMBERS['edit']})"

AskAct = Literal["answer", "vote", "cancel", "expire", "escalate", "remind", "tally"]
Due = Literal["ask_deadline", "ask_tally"]
"""The things that can be due: the end of a question, or a count of votes."""


class AskChange(Change, frozen=True, kw_only=True):
    """A change of a question. ``ask``: the question after the change. If there
    is no entry, the same user has made the change before."""

    ask: Ask


class AskRefused(Rejected, frozen=True, kw_only=True):
    """The question is closed, or the user has given another answer. ``ask``:
    the question as it is."""

    ask: Ask


class AskLog(WritingPart):
    """Answers questions, and closes them.

    A *question* is a message that asks its readers for an answer; a *poll* is a
    question with votes. Each method may switch greenlets and raise
    StorageUnavailable. Methods that change something return after the commit.
    An empty ``user`` means a back end.
    """

    DUE: Final[tuple[Due, ...]] = get_args(Due)

    def __init__(self, writer: LogWriter, store: Store) -> None:
        """Prepare the counters. Nothing is read."""
        super().__init__(writer, store)
        self.counts: Counter[AskAct | Literal["ask", "refuse"]] = Counter()
        """The number of acts of this node since its start. ``refuse`` counts
        answers that came too late, because others had answered before, or the
        question was closed. ``ask`` is counted by the senders of questions."""
        self.news = Flag()
        """Set when this node has stored a deadline or a count that will be
        :meth:`due`."""

    def answer(
        self,
        app: str,
        user: str,
        message: int,
        *,
        value: str = "",
        text: str = "",
        choices: Sequence[int] | None = None,
    ) -> AskChange | Rejected:
        """Answer a question, or vote in a poll.

        An answer is the ``value`` of an option, or a free ``text``. In a poll,
        ``choices`` are the indexes of options. They replace the user's earlier
        choices, and an empty list withdraws the vote. If a user repeats the
        same answer, nothing changes.

        Returns :class:`AskRefused` if others have answered before, or if the
        question is closed.
        """
        given = _GivenAnswer(user, value, text, choices)
        wrong = given.objection()
        if wrong:
            return Rejected(RejectReason.INVALID, wrong)

        def work(question: _Question) -> AskChange | Rejected:
            return question.answer(given)

        return self._change(app, user, message, work)

    def cancel(self, app: str, user: str, message: int) -> AskChange | Rejected:
        """Close a question of this user.

        A question is then cancelled, but a poll counts as answered by its
        votes. The author may do this even after leaving the group.
        """

        def work(question: _Question) -> AskChange | Rejected:
            """Close the question, unless it is closed already."""
            state = "cancelled" if question.ask.poll is None else "answered"
            # A repeated request changes nothing.
            if question.ask.state == state:
                return question.unchanged()
            if question.ask.state:
                return question.refused()
            return question.change("cancel", user, {"state": state})

        return self._change(app, user, message, work, by_author=True, as_reader=False)

    def settle(self, due: Due, app: str, message: int) -> None:
        """Close a question whose deadline has passed, or count its votes.

        ``due`` says which of the two is due, as :meth:`due` has found.
        """
        if due == "ask_deadline":
            result = self.expire(app, message)
        else:
            result = self.tally(app, message)
        # The question may have been closed or recalled meanwhile.
        if isinstance(result, Rejected):
            was_over = True
        else:
            was_over = result.entry is None and result.ask.state != ""
        # Otherwise the question would be due again and again.
        if was_over:
            self.forget(app, message)

    def expire(self, app: str, message: int) -> AskChange | Rejected:
        """Close a question whose deadline has passed."""

        def work(question: _Question) -> AskChange:
            # _Question closes a question whose deadline has passed.
            return question.expiry or question.unchanged()

        return self._change(app, user="", message=message, work=work)

    def tally(self, app: str, message: int) -> AskChange | Rejected:
        """Count the votes of a poll anew. If the totals are the same, nothing
        changes."""
        return self._change(app, user="", message=message, work=_Question.tally)

    def escalate(
        self, app: str, user: str, message: int, users: Sequence[str]
    ) -> AskChange | Rejected:
        """Let these members answer a question of this user, too.

        Returns Rejected if one of the members cannot answer.
        """
        # Texts that cannot be ids would fail in the database.
        for other in users:
            wrong = text_objection(other, MAX_USER_BYTES)
            if wrong:
                return Rejected(RejectReason.INVALID, f"of: {wrong}")

        def work(question: _Question) -> AskChange | Rejected:
            return question.escalate(user, users)

        return self._change(app, user, message, work, by_author=True)

    def remind(self, app: str, user: str, message: int) -> AskChange | Rejected:
        """Remind the users who have not answered a question of this user.

        This adds an entry about the question, which notifies these users. A
        poll has no reminders.
        """

        def work(question: _Question) -> AskChange | Rejected:
            """Add the entry that reminds users, if the question is open."""
            if question.ask.poll is not None:
                return _NOT_OF_POLLS
            if question.ask.state:
                return question.refused()
            return question.change("remind", user, {})

        return self._change(app, user, message, work, by_author=True)

    def _change(
        self,
        app: str,
        user: str,
        message: int,
        work: _Work,
        by_author: bool = False,
        as_reader: bool = True,
    ) -> AskChange | Rejected:
        """Change a question by ``work``, in a transaction.

        If ``by_author``, only the author or a back end may make the change. If
        ``as_reader``, the user must still be able to read the message, and must
        not be muted. The acts are counted after the commit.
        """
        acts: list[AskAct] = []
        reader = user if as_reader else ""  # "" may read everything

        def change(transaction: AppTransaction) -> Change | Rejected:
            """Find the question, check who changes it, and change it."""
            target = find_message(transaction, reader, message)
            if isinstance(target, Rejected):
                return target
            ask = ask_in(target.meta)
            is_by_other = user not in ("", target.sender)
            if ask is None or (by_author and is_by_other):
                # Other users do not learn that there is a question.
                return Rejected(RejectReason.UNKNOWN_MESSAGE)
            question = _Question(transaction, target, ask)
            outcome = work(question)
            # The transaction may run again, so only the last acts count.
            acts[:] = question.acts
            return outcome

        result = self._writer.change(app, change)
        assert isinstance(result, AskChange | Rejected)
        self.counts.update(acts)
        self.counts["refuse"] += isinstance(result, AskRefused)
        if acts == ["vote"]:  # the vote was stored, but its count is due later
            self.news.set()
        return result

    # --- reading --------------------------------------------------------------

    @in_log()
    def get(
        self, sql: Statements, head: LogHead, user: str, message: int
    ) -> Entry | None:
        """Return the question in a message, if the user may read it.

        An empty ``user`` may read everything. Returns None if there is no such
        question. A recalled message is not a question.
        """
        ids: list[int] = []
        if user:
            ids = list(readable_sizes(sql, head, user, [message]))
        # Messages up to the floor have expired.
        elif message > head.floor:
            ids = [message]
        entries = fetch(sql, head.number, ids, user)
        if not entries or entries[0].kind != "message" or entries[0].ask is None:
            return None
        return entries[0]

    def changes(self, app: str, after: int) -> tuple[set[int], int]:
        """Return the messages that entries after an id have changed.

        An answer, an edit or a recall changes its message. The second value is
        the last id of the log, up to which the result is complete.
        """
        statement = (
            "SELECT about FROM message WHERE log = %s AND id > %s AND id <= %s "
            f"AND kind IN {_CHANGING}"
        )

        def work(sql: Statements, head: LogHead) -> tuple[set[int], int]:
            values = (head.number, max(after, head.floor), head.last_id)
            rows = sql.query(statement, values)
            return {row[0] for row in rows}, head.last_id

        return read_log(self._store, app, work, (set[int](), after))

    @in_log(list)
    def voters(
        self,
        sql: Statements,
        head: LogHead,
        message: int,
        choice: int,
        after: str,
        limit: int,
    ) -> list[str]:
        """Return the users who have chosen an option of a poll, ordered by id.

        ``choice`` is the index of the option. The page begins after the user id
        ``after``. For an anonymous poll, the result is empty.
        """
        if text_objection(after, MAX_USER_BYTES):
            return []
        # The choices of a vote are stored as bits, one for each option.
        statement = (
            "SELECT member FROM ask_vote WHERE log = %s AND id = %s AND member > %s "
            "AND (choices & %s) <> 0 ORDER BY member LIMIT %s"
        )
        rows = sql.query(statement, (head.number, message, after, 1 << choice, limit))
        return [text_of(row[0]) for row in rows]

    @Store.reading_or(([], None))
    def due(
        self, sql: Statements, what: Due = "ask_deadline"
    ) -> tuple[list[tuple[str, int]], float | None]:
        """Return some questions that are due, and when to look again.

        A question is (app, message). For ``ask_deadline``, a question is due if
        its deadline has passed. For ``ask_tally``, it is due if its votes must
        be counted. The second value is the seconds until the next question is
        due, or None if there is no further question. ``what`` is also the name
        of the table.
        """
        statement = (
            f"SELECT l.app, d.id, d.due - {sql.clock} * 1000 FROM {what} d JOIN log l "
            "ON l.number = d.log ORDER BY d.due LIMIT %s"
        )
        due: list[tuple[str, int]] = []
        for app, id, left_ms in sql.query(statement, (_DUE_AT_ONCE,)):
            # The rows are ordered by time, so the first question that is not
            # yet due is the next to be due.
            if left_ms > 0:
                return due, float(left_ms) / SECOND_MS
            due.append((text_of(app), id))
        if len(due) == _DUE_AT_ONCE:
            return due, 0.0  # more questions may be due now
        return due, None

    @in_log(writes=True)
    def forget(self, sql: Statements, head: LogHead, message: int) -> None:
        """Forget the deadline and the count of a message.

        The message is no longer an open question, so nothing will be due for
        it.
        """
        for table in self.DUE:
            statement = f"DELETE FROM {table} WHERE log = %s AND id = %s"
            sql.execute(statement, (head.number, message))

    def time_ms(self) -> int:
        """Return the current time in Unix milliseconds, by the clock of the
        database.

        Deadlines are compared with this clock. If the database does not answer,
        the clock of this node is used.
        """
        of_database = self._store.read_or(0, Statements.clock_ms)
        return of_database or int(time() * SECOND_MS)


# --- in the transaction -------------------------------------------------------


class _GivenAnswer(Struct, frozen=True):
    """The answer of a user: the value of an option, a free text, or the indexes
    of the chosen options of a poll. ``choices`` is None if no indexes were
    given."""

    user: str
    value: str
    text: str
    choices: Sequence[int] | None

    @property
    def content(self) -> str:
        """The body of the entry of this answer."""
        return self.value or self.text

    def objection(self) -> str:
        """Return why no question can have this answer, or ``""`` if a question
        can have it.

        An answer is either a value, or a text of limited length, or the choices
        of a poll.
        """
        is_too_long = len(self.text) > Limit.ANSWER_CHARACTERS
        is_value_or_text = bool(self.value) != bool(self.text)
        if self.choices is None and (is_too_long or not is_value_or_text):
            return f"a value, or a text of at most {Limit.ANSWER_CHARACTERS} characters"
        most_bytes = _CHARACTER_BYTES * Limit.ANSWER_CHARACTERS
        wrong = text_objection(self.content, most_bytes)
        if not wrong:
            return ""
        name = "value" if self.value else "text"
        return f"{name}: {wrong}"

    def choices_of(self, ask: Ask) -> Sequence[int] | None:
        """Return the indexes of the options that this answer chooses in a poll.

        A client may name one option by its value. Returns None if the poll has
        no option with this value.
        """
        if self.choices is not None:
            return self.choices
        for index, option in enumerate(ask.options):
            if option.value == self.value:
                return [index]
        return None

    def repeats(self, before: AskAnswer) -> bool:
        """Tell whether the user has given the same answer before."""
        return (before.value, before.text) == (self.value, self.text)

    def fits(self, ask: Ask) -> bool:
        """Tell whether the question accepts such an answer."""
        if self.text:
            return ask.text
        return any(option.value == self.value for option in ask.options)


class _Question:
    """A question in a transaction that changes it.

    Each method that changes the question adds an entry about the change, and
    writes the new fields into the message.
    """

    def __init__(
        self, transaction: AppTransaction, message: TargetMessage, ask: Ask
    ) -> None:
        """Take the question ``ask``, which is in the ``meta`` of ``message``.

        If the deadline has passed, the question is closed at once.
        """
        self.transaction = transaction
        self.message = message
        self.ask = ask
        self.acts: list[AskAct] = []
        """The acts on the question in this transaction."""
        self.expiry: AskChange | None = None
        """The change that closes the question because its deadline has passed.
        It is made at once, before a search for due questions finds the
        question."""
        # Like all deadlines, this one is compared with the clock of the
        # database.
        if ask.until and not ask.state and ask.until <= transaction.sql.clock_ms():
            self.expiry = self.change("expire", by="", changed={"state": "expired"})

    def unchanged(self) -> AskChange:
        """Return the result of an act that changes nothing. It has no entry."""
        return AskChange(self.message.state.id, ask=self.ask)

    def refused(self) -> AskRefused:
        """Return the result of an act that comes too late."""
        return AskRefused(
            RejectReason.ANSWERED, "the question is closed or answered", ask=self.ask
        )

    def answer(self, given: _GivenAnswer) -> AskChange | Rejected:
        """Store an answer, or the choices in a poll.

        Returns :class:`AskRefused` if the question is closed, or if the user
        has given another answer before. Returns Rejected if the user or the
        answer does not fit the question.
        """
        ask = self.ask
        if ask.poll is not None:
            return self.vote(given.user, ask.poll, given.choices_of(ask))
        if given.choices is not None:
            return Rejected(RejectReason.INVALID, "the question is no poll")

        # A client that got no reply sends its answer again.
        before = ask.answer_of(given.user)
        if before is not None and given.repeats(before):
            return self.unchanged()
        if ask.state or before is not None:
            return self.refused()

        refusal = self._answer_refusal(given)
        if refusal is not None:
            return refusal
        return self._add_answer(given)

    def _answer_refusal(self, given: _GivenAnswer) -> Rejected | None:
        """Return why an open question does not accept this answer.

        Returns None if the question accepts the answer. The author cannot
        answer. If the question has a list ``of``, only the users in it can.
        """
        ask = self.ask
        is_author = given.user == self.message.sender
        is_excluded = ask.of is not None and given.user not in ask.of
        if is_author or is_excluded:
            return Rejected(RejectReason.NOT_ALLOWED, "others may answer this question")
        if not given.fits(ask):
            return Rejected(RejectReason.INVALID, "the question has no such option")
        return None

    def _add_answer(self, given: _GivenAnswer) -> AskChange:
        """Store a valid answer.

        The last answer that the question needs closes the question.
        """
        now = int(time() * SECOND_MS)
        answer = AskAnswer(
            user=given.user, value=given.value, text=given.text, time=now
        )
        answers = (*self.ask.answers, answer)
        changed: dict[str, Any] = {"answers": answers}
        # A question may need answers of several users.
        if len(answers) >= self.ask.need:
            changed["state"] = "answered"
        return self.change("answer", given.user, changed, given.content.encode(), now)

    def escalate(self, user: str, users: Sequence[str]) -> AskChange | Rejected:
        """Let these members answer the question, too, in the name of ``user``.

        The list ``of`` has the users who may answer, or is None if everybody
        may. Users who are already in the list are ignored.
        """
        answerers = self.ask.of
        if self.ask.state:
            return self.refused()
        if self.ask.poll is not None:
            return _NOT_OF_POLLS
        if answerers is None:  # everybody may answer
            return self.unchanged()

        # Each user is added once, and only if the user may not answer already.
        new = [other for other in dict.fromkeys(users) if other not in answerers]
        if not new:
            return self.unchanged()
        if len(answerers) + len(new) > Limit.ANSWERERS:
            return Rejected(RejectReason.FULL, f"at most {Limit.ANSWERERS} users")
        refusal = self._answerers_refusal(new)
        if refusal is not None:
            return refusal
        return self.change("escalate", user, {"of": (*answerers, *new)})

    def _answerers_refusal(self, users: Sequence[str]) -> Rejected | None:
        """Return why these users cannot answer the question, or None if they
        can.

        They must be members of the conversation other than the author.
        """
        if self.message.sender in users:
            return Rejected(RejectReason.INVALID, "of: the author of the question")
        members = self.transaction.members(self.message.state.id, users)
        if len(members) < len(users):
            return Rejected(
                RejectReason.NOT_MEMBER,
                "of: only members of the conversation can answer",
            )
        return None

    def vote(
        self, user: str, poll: Ask.Poll, choices: Sequence[int] | None
    ) -> AskChange | Rejected:
        """Replace the choices of a user in a poll.

        ``choices`` are indexes of options. None means that the user has named
        an option that the poll does not have. The result has the choices as
        ``ask.mine``.

        A vote does not add an entry. Only a count of the votes does, and there
        is a pause between two counts.
        """
        if choices is None or not self._has_options(choices):
            return Rejected(RejectReason.INVALID, "the poll has no such option")
        # Each option is a bit.
        bits = polls.bits_of(choices)
        if not poll.many and bits.bit_count() > 1:
            return Rejected(RejectReason.INVALID, "the poll takes one choice")
        return self._store_vote(user, poll, bits)

    def _store_vote(self, user: str, poll: Ask.Poll, bits: int) -> AskChange | Rejected:
        """Store the choices of a user, as bits. 0 withdraws the vote.

        Returns :class:`AskRefused` if the poll is closed.
        """
        sql = self.transaction.sql
        log = self.transaction.log
        message = self.message.id
        # If the user votes for the same options again, nothing changes, even in
        # a closed poll.
        now, before = polls.look_up(sql, log, message, user)
        if bits == before:
            return self._voted(self.unchanged(), bits)
        if self.ask.state:
            return self.refused()

        # `is_unseen` says that no entry shows whether the vote was stored.
        polls.put(sql, log, message, user, bits, poll, now)
        self.transaction.is_unseen = True
        self.acts.append("vote")
        return self._voted(self._count_when_due(poll, now), bits)

    def _has_options(self, indexes: Iterable[int]) -> bool:
        """Tell whether the question has options with all these indexes."""
        options = len(self.ask.options)
        return all(0 <= index < options for index in indexes)

    def _count_when_due(self, poll: Ask.Poll, now: int) -> AskChange:
        """Count the votes now, or store when the next count is due.

        If the last count is recent, the next count waits, so that many votes
        share one entry. ``now`` is Unix milliseconds by the clock of the
        database.
        """
        sql = self.transaction.sql
        log = self.transaction.log
        message = self.message.id
        # The clock may be behind the time of the last count.
        due = min(poll.time, now) + polls.pause_ms(poll)
        if due <= now:
            counted = polls.count(sql, log, message, self.ask, poll, now)
            return self.change("tally", by="", changed={"poll": counted})
        sql.insert_new("ask_tally", "log, id, due", [(log, message, due)])
        return self.unchanged()

    def _voted(self, change: AskChange, bits: int) -> AskChange:
        """Return the change with the choices of its user."""
        return replace(change, ask=replace(change.ask, mine=polls.choices_of(bits)))

    def tally(self) -> AskChange:
        """Count the votes anew, and add an entry if the totals have changed."""
        if self.ask.state:
            return self.unchanged()
        poll = self._counted()
        if poll is None or self.ask.poll is None:
            return self.unchanged()
        before = replace(self.ask.poll, time=poll.time)
        if poll == before:  # only the time of the count differs
            return self.unchanged()
        return self.change("tally", by="", changed={"poll": poll})

    def _counted(self) -> Ask.Poll | None:
        """Return the poll with the totals of all votes, or None if this is not
        a poll."""
        poll = self.ask.poll
        if poll is None:
            return None
        sql = self.transaction.sql
        message = self.message.id
        now = sql.clock_ms()
        return polls.count(sql, self.transaction.log, message, self.ask, poll, now)

    def change(
        self,
        act: AskAct,
        by: str,
        changed: dict[str, Any],
        body: bytes = b"",
        time_ms: int = 0,
    ) -> AskChange:
        """Change fields of the question, and add the entry about the change.

        ``changed`` has field of :class:`Ask` → new value. ``by`` is the user
        who makes the change, or ``""`` for the server or a back end.
        ``time_ms`` is the time of the entry; 0 means now. A change of ``state``
        closes the question: the votes of a poll are counted a last time, and
        the deadline is deleted.
        """
        transaction = self.transaction
        message = self.message
        if "state" in changed:
            changed = self._with_last_count(changed)
        entry = record(
            transaction,
            message.state,
            "press",
            by,
            press_meta(changed),
            body,
            type=act,
            about=message.id,
            time_ms=time_ms,
        )
        self.acts.append(act)

        # The message itself always has the current question.
        if changed:
            self.ask = replace(self.ask, **changed)
            self._write(entry)
        if self.ask.state and self.ask.until:
            statement = "DELETE FROM ask_deadline WHERE log = %s AND id = %s"
            transaction.sql.execute(statement, (transaction.log, message.id))
        return AskChange(message.state.id, entry, ask=self.ask)

    def _with_last_count(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Count the votes of a poll that is being closed.

        Returns the changed fields, with the poll. If this is not a poll, the
        fields are returned unchanged.
        """
        poll = self._counted()
        if poll is None:
            return changed
        if poll.anonymous:
            # After the last count, nobody may learn which options a user has
            # chosen.
            transaction = self.transaction
            polls.forget(transaction.sql, transaction.log, [self.message.id])
        return {**changed, "poll": poll}

    def _write(self, press: Entry) -> None:
        """Write the question into its message, after a change by ``press``."""
        message = self.message
        new = MessageMeta(ask=self.ask, pressed=press.id)
        message.meta = with_keys(message.meta, new)
        self.transaction.sql.execute(
            "UPDATE message SET meta = %s WHERE log = %s AND id = %s",
            (message.meta, self.transaction.log, message.id),
        )


_Work = Callable[[_Question], AskChange | Rejected]
