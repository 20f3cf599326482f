"""What one transaction adds to the log of one app: ids and seqs, given under the lock of its head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from imserver.storage import log_revisions
from imserver.storage.log_contract import (
    BLOCKED,
    MUTED,
    NOT_MEMBER,
    RECALLED,
    UNKNOWN_CONVERSATION,
    Appended,
    Draft,
    Entry,
    Rejected,
)
from imserver.storage.log_pen import Pen
from imserver.storage.log_row import (
    CONVERSATION_KINDS,
    ROOM,
    USER,
    Line,
    Ready,
    pair_of,
    pair_of_room,
    row_of,
)

_UNKNOWN: Final = Rejected(UNKNOWN_CONVERSATION)
_OUTSIDER: Final = Rejected(NOT_MEMBER)
_SILENT: Final = Rejected(MUTED)
_BLOCKED: Final = Rejected(BLOCKED)
_TAKEN_BACK: Final = Rejected(RECALLED)

Outcome = Appended | Rejected


class Sheet:
    """The head of an app's log, locked, and what is to be written below it. ``now``: Unix seconds."""

    def __init__(self, pen: Pen, app: str, batch: int, now: int) -> None:
        self.pen = pen
        self.app = app
        self.batch = batch
        self.now = now
        self.head = pen.lock(app)
        self.before = self.head.last_id
        """The last id of the transaction before."""
        self.entries: list[Entry] = []
        self._rows: list[tuple[Any, ...]] = []
        self._moved: dict[int, Line] = {}
        self._made: list[tuple[Line, bytes | None, str, int]] = []
        self._joined: list[tuple[str, int, int, str]] = []
        self._taken_back: set[int] = set()
        """Messages that cannot be edited any more, of those that somebody wants to."""

    @property
    def log(self) -> int:
        """The number of the log."""
        return self.head.number

    # --- conversations --------------------------------------------------------------------------------------

    def make_conversation(self, kind: int, members: tuple[str, ...], name: str = "") -> Line:
        """A new conversation. A pair's users become members here; a group's, by :meth:`admit`."""
        self.head.last_conversation += 1
        line = Line(self.head.last_conversation, kind, members, 0, 0, name if kind == ROOM else "")
        pair = pair_of(*members) if kind == USER else pair_of_room(name) if kind == ROOM else None
        self._made.append((line, pair, name, self.now))
        if kind == USER:
            self.admit(line, [user for user in dict.fromkeys(members) if user], "member")
        return line

    def admit(self, line: Line, users: Iterable[str], role: str) -> None:
        """Make users members: what comes next is the first that they read."""
        self._joined += [(user, line.id, self.head.last_id, role) for user in users]

    def enter(self, line: Line, draft: Draft, resend: bytes | None = None) -> Entry:
        """Add an entry to a conversation: it gets the next id and the next seq."""
        self.head.last_id += 1
        line.last_seq += 1
        line.last_id = self.head.last_id
        entry = Entry(
            id=line.last_id,
            conversation=line.id,
            seq=line.last_seq,
            sender=draft.sender,
            kind=draft.kind,
            type=draft.type,
            body=draft.body,
            client_msg_id=draft.client_msg_id,
            time_ms=draft.time_ms,
            about=draft.about,
            meta=draft.meta,
            kind_of_conversation=CONVERSATION_KINDS[line.kind],
            members=line.members,
            room=line.room,
        )
        self._moved[line.id] = line
        self._rows.append(row_of(self.head.number, entry, resend, self.now, self.batch))
        self.entries.append(entry)
        return entry

    def settle(self) -> None:
        """Write conversations and memberships, so that they are found by what comes next."""
        pen, log = self.pen, self.log
        made = {line.id for line, *_ in self._made}
        if self._made:
            pen.add_conversations(log, self._made)
        if self._joined:
            pen.add_members(log, self._joined)
        if moved := [line for line in self._moved.values() if line.id not in made]:
            pen.move_lines(log, moved)
        self._made, self._joined, self._moved = [], [], {}

    def write(self) -> None:
        """Write all of it."""
        self.settle()
        if self._rows:
            self.pen.add_messages(self._rows)
            log_revisions.revise(self.pen, self.log, self.entries)
            self.pen.move_head(self.head)

    # --- drafts ---------------------------------------------------------------------------------------------

    def append(self, ready: Sequence[Ready]) -> list[Outcome]:
        """Add drafts in their order; the outcome of each."""
        known = self.pen.repeats(self.log, list({one.resend for one in ready if one.resend is not None}))
        outcomes: dict[bytes, Outcome] = {name: Appended(entry, True) for name, entry in known.items()}
        fresh = [one for one in ready if one.resend not in outcomes]
        if edited := {one.draft.about for one in fresh if one.draft.kind == "edit"}:
            self._taken_back = log_revisions.taken_back(self.pen, self.log, edited)
        lines = self._lines(fresh)
        silences = self._silences(fresh, lines)
        blocks = self._blocks(fresh, lines)
        answers: list[Outcome] = []
        for one in ready:
            answer = outcomes.get(one.resend) if one.resend is not None else None
            if answer is None:
                answer = self._outcome(one, lines, silences, blocks)
                if one.resend is not None:
                    again = Appended(answer.entry, True) if isinstance(answer, Appended) else answer
                    outcomes[one.resend] = again
            answers.append(answer)
        return answers

    def _outcome(
        self,
        one: Ready,
        lines: dict[int | bytes, Line],
        silences: dict[tuple[str, int], int],
        blocks: set[tuple[str, str]],
    ) -> Outcome:
        draft = one.draft
        if draft.kind == "edit" and draft.about in self._taken_back:
            return _TAKEN_BACK
        if blocks and draft.kind == "message" and (_receiver(draft, lines), draft.sender) in blocks:
            return _BLOCKED
        if draft.room:
            pair = pair_of_room(draft.room)
            line = lines.get(pair)
            if line is None:
                line = lines[pair] = self.make_conversation(ROOM, (), draft.room)
        elif draft.to_user:
            pair = pair_of(draft.sender, draft.to_user)
            line = lines.get(pair)
            if line is None:
                users = (draft.sender, draft.to_user)
                line = lines[pair] = self.make_conversation(USER, tuple(sorted(users)))
        else:
            line = lines.get(draft.conversation)
            if line is None:
                return _UNKNOWN
            if draft.sender:  # nobody is the server itself, which may speak everywhere
                until = silences.get((draft.sender, line.id))
                if until is None:
                    return _OUTSIDER
                if until > self.now and draft.kind == "message":
                    return _SILENT
        if draft.kind == "recall":
            self._taken_back.add(draft.about)
        return Appended(self.enter(line, draft, one.resend))

    def _lines(self, ready: Iterable[Ready]) -> dict[int | bytes, Line]:
        """The conversations of drafts, by pair or id; a conversation is one object whatever names it."""
        pairs: set[bytes] = set()
        ids: set[int] = set()
        for one in ready:
            if one.draft.to_user:
                pairs.add(pair_of(one.draft.sender, one.draft.to_user))
            elif one.draft.room:
                pairs.add(pair_of_room(one.draft.room))
            else:
                ids.add(one.draft.conversation)
        by_id = self.pen.lines(self.log, list(ids))
        found: dict[int | bytes, Line] = dict(by_id.items())
        for pair, line in self.pen.pairs(self.log, list(pairs)).items():
            found[pair] = by_id.get(line.id, line)
        return found

    def _silences(self, ready: Iterable[Ready], lines: dict[int | bytes, Line]) -> dict[tuple[str, int], int]:
        wanted = {
            (one.draft.sender, one.draft.conversation)
            for one in ready
            if one.draft.conversation in lines and one.draft.sender
        }
        return self.pen.silences(self.log, list(wanted)) if wanted else {}

    def _blocks(self, ready: Iterable[Ready], lines: dict[int | bytes, Line]) -> set[tuple[str, str]]:
        """(receiver, sender) of messages to one user who has blocked their sender."""
        pairs = {
            (receiver, one.draft.sender)
            for one in ready
            if one.draft.kind == "message" and (receiver := _receiver(one.draft, lines))
        }
        return self.pen.blocks(self.app, pairs) if pairs else set()


def _receiver(draft: Draft, lines: dict[int | bytes, Line]) -> str:
    """The user that a draft is for; empty if it is for a group or a room."""
    if draft.to_user or draft.room:
        return draft.to_user
    line = lines.get(draft.conversation)
    if line is None or line.kind != USER:
        return ""
    return next((user for user in line.members if user != draft.sender), "")
