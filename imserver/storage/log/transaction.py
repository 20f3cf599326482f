"""The part of a group commit that belongs to one app. Assigns ids and seqs under the lock of the log's head.

Edits and recalls rewrite the message and its earlier edits in place. Later reads cannot see the old content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.config.settings import MAX_USER_BYTES
from imserver.storage.log.bots import (
    EVERYBODY,
    BotReaders,
    accounts_among,
    bots_among,
    has_buttons,
    owners_among,
    with_command,
)
from imserver.storage.log.contract import (
    BLOCKED,
    FULL,
    MUTED,
    NOT_BOT,
    NOT_MEMBER,
    RECALLED,
    SUPERSEDED,
    UNKNOWN_ACCOUNT,
    UNKNOWN_CONVERSATION,
    Appended,
    Change,
    Draft,
    Entry,
    Rejected,
    StorageUnsure,
    Stored,
)
from imserver.storage.log.driver import LogDriver
from imserver.storage.log.rows import (
    GROUP,
    NUMBERS,
    ROOM,
    USER,
    ConversationState,
    decode_meta,
    pair_of,
    pair_of_room,
    row_of,
    text_objection,
)

MOST_EDITS: Final = 100
"""Edits of one message. Each edit and a recall rewrite all earlier ones under the log's lock."""

_UNKNOWN: Final = Rejected(UNKNOWN_CONVERSATION)
_UNKNOWN_ACCOUNT: Final = Rejected(UNKNOWN_ACCOUNT)
_NOT_MEMBER: Final = Rejected(NOT_MEMBER)
_MUTED: Final = Rejected(MUTED)
_BLOCKED: Final = Rejected(BLOCKED)
_RECALLED: Final = Rejected(RECALLED)
_TOO_MANY_EDITS: Final = Rejected(FULL, f"at most {MOST_EDITS} edits of a message")
_SUPERSEDED: Final = Rejected(SUPERSEDED)
_NO_BUTTONS: Final = Rejected(NOT_BOT, "only bots send buttons")

_SAYING: Final = ("message", "edit")
"""Kinds of entries that bring content of their sender to others."""
_NOTHING: Final[dict[str, int]] = {}

Outcome = Stored | Change
"""The result of a request."""


class AppendRequest(Struct):
    """A draft to store.

    ``to_account``: the receiver of a first message must be an account. ``answer`` receives the result and
    must not switch. After a StorageUnsure the final result goes to its
    ``on_known``. ``resend``: digest of the ``client_msg_id``, None without one. ``rejected``: the draft is
    invalid and waits only to be answered in order.
    """

    app: str
    draft: Draft
    answer: Callable[[Stored], object]
    resend: bytes | None
    rejected: Rejected | None
    size: int
    """Size of the content in bytes."""
    outcome: Outcome | None
    """Set in the transaction."""
    to_account: bool = False
    unsure: StorageUnsure | None = None
    """Set if the request was answered with it."""


class ChangeRequest(Struct):
    """A change of a group. ``answer``: as for :class:`AppendRequest`."""

    app: str
    apply: Callable[[AppTransaction], Change | Rejected]
    answer: Callable[[Outcome], object]
    outcome: Outcome | None = None
    unsure: StorageUnsure | None = None
    rejected: None = None
    size: int = 0


class AppTransaction:
    """The part of a group commit for one app: the locked head of its log, and new rows. ``now``: Unix
    seconds."""

    def __init__(self, driver: LogDriver, app: str, batch: int, now: int) -> None:
        self.driver = driver
        self.app = app
        self.batch = batch
        self.now = now
        self.head = driver.lock(app)
        self.before = self.head.last_id
        """The last id before this transaction."""
        self.entries: list[Entry] = []
        self._rows: list[tuple[Any, ...]] = []
        self._moved: dict[int, ConversationState] = {}
        self._made: list[tuple[ConversationState, bytes | None, str, int]] = []
        self._joined: list[tuple[str, int, int, str, int | None, int, int]] = []
        self._bots: BotReaders | None = None
        """Of the entries of groups with bots, if there are any."""
        self._regrouped: dict[int, ConversationState] = {}
        """Groups whose bots have changed."""
        self._recalled: set[int] = set()
        """Recalled messages among those that drafts edit."""
        self._edits: dict[int, int] = {}
        """The number of edits of the messages that drafts edit."""
        self.uplink_sessions: dict[str, int] = {}
        """User → the uplink session that begins in this transaction. It supersedes the user's older one for
        the drafts of this transaction, too."""

    @property
    def log(self) -> int:
        """The number of the log."""
        return self.head.number

    # --- conversations --------------------------------------------------------------------------------------

    def make_conversation(self, kind: int, members: tuple[str, ...], name: str = "") -> ConversationState:
        """Add a conversation. The users of a pair become members. Call :meth:`admit` for those of a group."""
        self.head.last_conversation += 1
        state = ConversationState(
            self.head.last_conversation, kind, members, 0, 0, name if kind == ROOM else ""
        )
        pair = pair_of(*members) if kind == USER else pair_of_room(name) if kind == ROOM else None
        self._made.append((state, pair, name, self.now))
        if kind == USER:
            self.admit(state, [user for user in dict.fromkeys(members) if user], "member")
        return state

    def admit(
        self,
        state: ConversationState,
        users: Iterable[str],
        role: str,
        readable_after: Mapping[str, int] = _NOTHING,
        bots: Collection[str] = (),
        mutes: Mapping[str, int] = _NOTHING,
    ) -> None:
        """Make users members from the next entry on. ``readable_after``: user → id after which they may read
        earlier entries. ``bots``: bots among the users of a group. ``mutes``: user → end of the mute."""
        last = self.head.last_id
        self._joined += [
            (user, state.id, last, role, readable_after.get(user), int(user in bots), mutes.get(user, 0))
            for user in users
        ]

    def set_bots(self, state: ConversationState, bots: tuple[str, ...]) -> None:
        """Change which members of a group are bots, from the next entry on."""
        state.bots = bots
        self._regrouped[state.id] = state

    def enter(self, state: ConversationState, draft: Draft, resend: bytes | None = None) -> Entry:
        """Add an entry to a conversation, with the next id and seq."""
        if state.bots:
            if self._bots is None:
                self._bots = BotReaders(self.driver, self.head, self.before, self.entries)
            draft = self._bots.name(state, draft)
        self.head.last_id += 1
        state.last_seq += 1
        state.last_id = self.head.last_id
        entry = Entry(
            id=state.last_id,
            conversation=state.id,
            seq=state.last_seq,
            sender=draft.sender,
            kind=draft.kind,
            type=draft.type,
            body=draft.body,
            client_msg_id=draft.client_msg_id,
            time_ms=draft.time_ms,
            about=draft.about,
            meta=draft.meta,
            members=state.members,
            room=state.room,
        )
        self._moved[state.id] = state
        self._rows.append(row_of(self.head.number, entry, resend, self.now, self.batch))
        self.entries.append(entry)
        return entry

    def settle(self) -> None:
        """Write conversations and memberships, so that later statements find them."""
        driver, log = self.driver, self.log
        made = {state.id for state, *_ in self._made}
        if self._made:
            driver.add_conversations(log, self._made)
        if self._joined:
            driver.add_members(log, self._joined)
        if moved := [state for state in self._moved.values() if state.id not in made]:
            driver.update_conversations(log, moved)
        for state in self._regrouped.values():
            driver.set_group(log, state.id, "bots", ",".join(state.bots) or None)
        self._made, self._joined, self._moved, self._regrouped = [], [], {}, {}

    def write(self) -> None:
        """Write everything."""
        self.settle()
        if self._rows:
            self.driver.add_messages(self._rows)
            if self._bots is not None:
                self._bots.write()
            revise(self.driver, self.log, self.entries)
            self.driver.update_head(self.head)
        if self.uplink_sessions:
            self.driver.set_uplink_sessions(self.log, self.uplink_sessions)

    # --- drafts ---------------------------------------------------------------------------------------------

    def append(self, ready: Sequence[AppendRequest]) -> list[Appended | Rejected]:
        """Add drafts in order. Returns the result of each."""
        known = self.driver.repeats(self.log, list({one.resend for one in ready if one.resend is not None}))
        outcomes: dict[bytes, Appended | Rejected] = {
            name: Appended(entry, True) for name, entry in known.items()
        }
        fresh = [one for one in ready if one.resend not in outcomes]
        if edited := {one.draft.about for one in fresh if one.draft.kind == "edit"}:
            self._recalled = find_recalled(self.driver, self.log, edited)
            self._edits = {about: self.driver.count_edits(self.log, about, MOST_EDITS) for about in edited}
        keys = [_key_of(one.draft) for one in ready]
        wanted = {key for one, key in zip(ready, keys, strict=True) if one.resend not in outcomes}
        states = self._conversations(wanted)
        mutes = self._mutes(fresh, states)
        blocks = self._blocks(fresh, states)
        strangers = self._strangers(fresh, states)
        unwelcome = set[tuple[str, str]]()
        if len(states) < len(wanted):  # some are first messages
            unwelcome = self._unwelcome(
                {
                    (one.draft.to_user, one.draft.sender)
                    for one in fresh
                    if one.draft.to_user and _key_of(one.draft) not in states
                }
            )
        newest = self._newest_sessions(fresh)
        answers: list[Appended | Rejected] = []
        for one, key in zip(ready, keys, strict=True):
            answer = outcomes.get(one.resend) if one.resend is not None else None
            session = one.draft.uplink_session
            if answer is None and session and session not in newest:
                answer = _SUPERSEDED  # not the outcome of a repeat by the newest session
            elif answer is None:
                answer = self._outcome(one, key, states, mutes, blocks, strangers, unwelcome)
                if one.resend is not None:
                    again = Appended(answer.entry, True) if isinstance(answer, Appended) else answer
                    outcomes[one.resend] = again
            answers.append(answer)
        return answers

    def _outcome(
        self,
        one: AppendRequest,
        key: int | bytes,
        states: dict[int | bytes, ConversationState],
        mutes: dict[tuple[str, int], int],
        blocks: set[tuple[str, str]],
        strangers: set[str],
        unwelcome: set[tuple[str, str]],
    ) -> Appended | Rejected:
        draft = one.draft
        if draft.kind == "edit" and draft.about in self._recalled:
            return _RECALLED
        if draft.kind == "edit" and self._edits[draft.about] >= MOST_EDITS:
            return _TOO_MANY_EDITS
        if (
            draft.meta
            and has_buttons(draft.meta)
            and not draft.room
            and not bots_among(self.driver, self.app, [draft.sender])
        ):
            return _NO_BUTTONS
        if blocks and draft.kind in _SAYING and (_receiver(draft, states), draft.sender) in blocks:
            return _BLOCKED
        state = states.get(key)
        if state is None:
            if draft.room:
                state = self.make_conversation(ROOM, (), draft.room)
            elif one.to_account and draft.to_user in strangers:
                return _UNKNOWN_ACCOUNT
            elif (draft.to_user, draft.sender) in unwelcome:
                return _BLOCKED
            elif draft.to_user:
                state = self.make_conversation(USER, tuple(sorted((draft.sender, draft.to_user))))
            else:
                return _UNKNOWN
            states[key] = state
        elif draft.group and state.kind != GROUP:
            return _UNKNOWN
        if draft.conversation and draft.sender:  # an empty sender is the server, which may send to all
            until = mutes.get((draft.sender, state.id))
            if until is None:
                return _NOT_MEMBER
            if until > self.now and draft.kind in _SAYING:
                return _MUTED
        if draft.kind == "message" and draft.body[:1] == b"/" and draft.type == "text" and not draft.room:
            draft = with_command(self.driver, self.app, state, draft)
        if draft.kind == "recall":
            self._recalled.add(draft.about)
        elif draft.kind == "edit":
            self._edits[draft.about] += 1
        return Appended(self.enter(state, draft, one.resend))

    def _conversations(self, keys: Iterable[int | bytes]) -> dict[int | bytes, ConversationState]:
        """The conversations with these keys. Those with a pair are found by their id, too, if it is a key."""
        by_id = self.driver.conversations(self.log, [key for key in keys if isinstance(key, int)])
        pairs = [key for key in keys if isinstance(key, bytes)]
        found: dict[int | bytes, ConversationState] = dict(by_id.items())
        for pair, state in self.driver.conversations_of_pairs(self.log, pairs).items():
            found[pair] = by_id.get(state.id, state)
        return found

    def _mutes(
        self, ready: Iterable[AppendRequest], states: dict[int | bytes, ConversationState]
    ) -> dict[tuple[str, int], int]:
        wanted = {
            (one.draft.sender, one.draft.conversation)
            for one in ready
            if one.draft.conversation in states and one.draft.sender
        }
        return self.driver.mutes(self.log, list(wanted)) if wanted else {}

    def _blocks(
        self, ready: Iterable[AppendRequest], states: dict[int | bytes, ConversationState]
    ) -> set[tuple[str, str]]:
        """(receiver, sender) of messages and edits to a user who has blocked the sender."""
        pairs = {
            (receiver, one.draft.sender)
            for one in ready
            if one.draft.kind in _SAYING and (receiver := _receiver(one.draft, states))
        }
        return self.driver.blocks(self.app, pairs) if pairs else set()

    def _unwelcome(self, first: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (receiver, sender) of first messages where the sender is a bot, and the receiver has blocked
        its owner."""
        owners = owners_among(self.driver, self.app, {sender for _, sender in first})
        if not owners:
            return set()
        pairs = {(user, owners[bot]) for user, bot in first if bot in owners}
        blocks = self.driver.blocks(self.app, pairs)
        return {(user, bot) for user, bot in first if (user, owners.get(bot)) in blocks}

    def _newest_sessions(self, ready: Iterable[AppendRequest]) -> Collection[int]:
        """The newest uplink sessions of the senders of drafts that only those may send."""
        senders = {one.draft.sender for one in ready if one.draft.uplink_session}
        begin = self.uplink_sessions
        if not begin:
            return self.driver.known_uplink_sessions(self.log, senders) if senders else ()
        stored = self.driver.uplink_sessions(self.log, [user for user in senders if user not in begin])
        return stored.union(begin.values())

    def _strangers(
        self, ready: Iterable[AppendRequest], states: dict[int | bytes, ConversationState]
    ) -> set[str]:
        """Receivers of first messages who have to be accounts, and are none."""
        wanted = {one.draft.to_user for one in ready if one.to_account and _key_of(one.draft) not in states}
        return wanted.difference(accounts_among(self.driver, self.app, wanted)) if wanted else wanted


def _key_of(draft: Draft) -> int | bytes:
    """The key of the conversation of a draft: its pair or its room; its id if the draft names it."""
    if draft.to_user:
        return pair_of(draft.sender, draft.to_user)
    return pair_of_room(draft.room) if draft.room else draft.conversation


def _receiver(draft: Draft, states: dict[int | bytes, ConversationState]) -> str:
    """The user who receives a draft; ``""`` for a group or a room."""
    if draft.to_user or draft.room:
        return draft.to_user
    state = states.get(draft.conversation)
    if state is None or state.kind != USER:
        return ""
    return next((user for user in state.members if user != draft.sender), "")


_SET_RECALLED: Final = (
    f"UPDATE message SET kind = {NUMBERS['recall']}, type = '', body = %s, meta = %s, about = %s "
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)
_SET_CONTENT: Final = (
    "UPDATE message SET type = %s, body = %s, meta = %s "
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)


def find_recalled(driver: LogDriver, log: int, ids: Collection[int]) -> set[int]:
    """Those of these messages that were recalled."""
    statement = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = 0 AND id IN {}"
    return {row[0] for row in driver.query_in(statement, (log,), list(ids))}


def revise(driver: LogDriver, log: int, entries: Iterable[Entry]) -> None:
    """Apply new edits and recalls. The last edit of a message counts; recalls are final."""
    last: dict[int, Entry] = {}
    edits = []
    mentions: dict[int, Entry] = {}
    for entry in entries:
        if entry.kind in ("recall", "edit"):
            last[entry.about] = entry
            if entry.kind == "edit":
                edits.append((entry.about, entry.id))
        elif entry.meta and entry.kind == "message" and not entry.room:
            mentions[entry.id] = entry
    if not last:
        if mentions:
            driver.add_mentions(log, _mentions(mentions))
        return
    driver.add_edits(log, edits)
    mentions |= {about: entry for about, entry in last.items() if entry.kind == "edit" and not entry.room}
    driver.forget_mentions(log, list(last))
    before = driver.metas(log, [about for about, entry in last.items() if entry.kind == "edit"])
    recalls: list[tuple[Any, ...]] = []
    edited: list[tuple[Any, ...]] = []
    for about, entry in last.items():
        of_it = driver.edits(log, about)
        if entry.kind == "recall":
            recalls += [(b"", b"", about, log, id) for id in (about, *of_it)]
        else:
            edited.append((entry.type, entry.body, _with_edit(entry, before.get(about, b"")), log, about))
            edited += [(entry.type, entry.body, entry.meta, log, id) for id in of_it if id != entry.id]
    if recalls:
        gone = [about for about, entry in last.items() if entry.kind == "recall"]
        driver.hide_recalled(log, gone)
        driver.forget_annotations(log, gone)
        driver.execute_many(_SET_RECALLED, recalls)
    if edited:
        driver.execute_many(_SET_CONTENT, edited)
    driver.add_mentions(log, _mentions(mentions))


def _with_edit(edit: Entry, before: bytes) -> bytes:
    """The ``meta`` of an edited message: that of the edit, its id, and the reactions. The message is not
    forwarded any more: its content is that of the editor."""
    old = decode_meta(before)
    kept = {key: old[key] for key in ("reacted", "reactions") if key in old}
    return msgspec.json.encode({**decode_meta(edit.meta), "edited": edit.id, **kept})


def _mentions(entries: Mapping[int, Entry]) -> list[tuple[str, int, int]]:
    """(user, conversation, message) of all whom these messages mention. The user is ``""`` for everybody."""
    found = []
    for id, entry in entries.items():
        users = decode_meta(entry.meta).get("mentions", ())
        for user in dict.fromkeys(users if isinstance(users, list) else ()):
            if isinstance(user, str) and user and not text_objection(user, MAX_USER_BYTES):
                found.append(("" if user == EVERYBODY else user, entry.conversation, id))
    return found
