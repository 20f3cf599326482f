"""Imports messages and groups of another server, with their times, in one
transaction of a log."""

from collections.abc import Callable, Container, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Final

from msgspec.structs import replace

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, text_objection, text_of
from imserver.messenger.log.annotations import (
    MOST_EMOJI,
    MOST_USERS,
    TargetMessage,
    change_pin,
    change_reaction,
    emoji_objection,
    find_message,
)
from imserver.messenger.log.contract import (
    OPTIONS,
    SECOND_MS,
    Change,
    Draft,
    Entry,
    GroupText,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.groups import (
    ADMIN,
    MEMBER,
    OWNER,
    end_members,
    record,
    start_of_history,
)
from imserver.messenger.log.meta import (
    GroupMeta,
    MessageMeta,
    ReactionTotal,
    with_keys,
)
from imserver.messenger.log.model import EntryKind
from imserver.messenger.log.revisions import (
    FIXED,
    MOST_EDITS,
    count_edits,
    fixed_among,
)
from imserver.messenger.log.rows import (
    GROUP,
    USER,
    ConversationState,
    count_members,
    objection,
    pair_of,
    resend_of,
)
from imserver.messenger.log.transaction import AppTransaction

_LEFT: Final = ""
"""Stands for the role of a user whose last membership has ended."""


class LogImport:
    """An import from another server, in one transaction:
    :meth:`MessageLog.import_past` passes it to its function.

    Each method has a ``key``: the name of the entry, unique in the app. If a
    key was stored before, its entry is not stored again. So an import may be
    repeated, and a later import adds only new entries. ``keys`` has all keys
    that the import will use.

    No rights are checked. Senders need not be members. Times are Unix
    milliseconds. An entry counts as stored at its time, but not before the
    previous entry. So call the methods in the order of the times.

    A join or leave has no effect on a user who has left or joined later,
    because a repeated import finds the final memberships of the first import.
    If several joins and leaves have the same time, and are in one transaction,
    the order of the calls counts.

    ``added``: the number of entries that this import has added until now.
    """

    def __init__(self, transaction: AppTransaction, keys: Sequence[str]) -> None:
        """Look up which of the ``keys`` were stored by earlier imports."""
        self._transaction = transaction
        self._states: dict[int | bytes, ConversationState] = {}
        """Id or pair of a conversation → its state, which counts the entries
        that this import adds."""
        self._ids: dict[bytes, tuple[int, int]] = {}
        """Digest of a key → the id of its entry, and the conversation of this
        entry."""

        self._find_stored(keys)
        self._ahead = {id for id, _ in self._ids.values()}
        """The entries of earlier imports that this import has not reached yet.
        They are later than the entry that is being imported."""

        # Times of storage must not go back, so begin at the time of the last
        # entry.
        self._stored_at = _last_stored_at(transaction)
        self._reactions: list[tuple[int, int, str, str, int]] = []
        """New rows of the table ``reaction``: (log, message, emoji, user,
        id)."""
        self.added = 0

    def _find_stored(self, keys: Sequence[str]) -> None:
        """Find the entries that earlier imports have stored with these keys."""
        statement = (
            "SELECT resend, id, conversation FROM message "
            "WHERE log = %s AND resend IN {}"
        )
        digests = list({_digest(key) for key in keys})
        values = (self._transaction.log,)
        rows = self._transaction.sql.query_in(statement, values, digests)
        for resend, id, conversation in rows:
            self._ids[bytes(resend)] = id, conversation

    def find(self, key: str) -> int:
        """Return the id of the entry with a key, or 0 if there is no such
        entry. The key must be among the ``keys`` of the import, or stored in
        this transaction."""
        return self._ids.get(_digest(key), (0, 0))[0]

    def conversation_of(self, key: str) -> int:
        """Return the conversation of the entry with a key, or 0 if there is no
        such entry. The entry is found as in :meth:`find`."""
        return self._ids.get(_digest(key), (0, 0))[1]

    # --- messages -------------------------------------------------------------

    def append(
        self,
        key: str,
        draft: Draft,
        reactions: Sequence[tuple[str, str, str]] = (),
        edit: str = "",
    ) -> int | Rejected:
        """Store a message, and its new ``reactions`` (key, user, emoji).
        Returns the id of the message, even if it was stored before. Returns
        Rejected if the draft is invalid, or if its conversation or thread does
        not exist.

        ``draft``: a draft as clients send it, to a group by its id or to a
        user. The first message between two users makes their conversation.
        ``edit``: the key of the edit that has written the content, or ``""`` if
        the message was never edited. If an earlier transaction has stored the
        message, a new edit is added, unless the message already has this
        content.
        """
        wrong = objection(draft) or (draft.room and "room: not imported")
        if wrong:
            return Rejected(RejectReason.INVALID, wrong)
        valid = _valid_reactions(reactions)
        # An earlier import may have stored the message.
        entry_id = self.find(key)
        if entry_id:
            self._add_edit_and_reactions(key, entry_id, draft, valid, edit)
            return entry_id

        state = self._state_for(draft)
        if state is None:
            return Rejected(RejectReason.UNKNOWN_CONVERSATION)
        if draft.thread:
            reply = self._transaction.in_thread(state, draft, is_past=True)
            if isinstance(reply, Rejected):
                return reply
            draft = reply

        return self._enter_message(key, state, draft, valid, edit)

    def _enter_message(
        self,
        key: str,
        state: ConversationState,
        draft: Draft,
        reactions: Sequence[tuple[str, str, str]],
        edit: str,
    ) -> int:
        """Add a new message, then its edit and its reactions. Returns its id.

        The message is stored with the totals of its reactions, so that it is
        written only once. ``edit`` is the key of its edit, or ``""`` if there
        is no edit.
        """
        totals = _totals(reactions)
        # A message has reactions with a limited number of emoji.
        counted = [reaction for reaction in reactions if reaction[2] in totals]
        reacted = MessageMeta()
        if counted:
            # The ids of the edit and of the reactions follow the message.
            message_id = self._transaction.head.last_id + 1
            last_reaction = message_id + bool(edit) + len(counted)
            reacted = MessageMeta(
                reacted=last_reaction, reactions=tuple(totals.values())
            )
        meta = with_keys(draft.meta, reacted)
        draft = replace(draft, meta=meta, client_msg_id=_client_id_of(key))

        entry = self._enter(key, state, draft)
        if edit:
            as_edit = replace(
                draft, kind="edit", about=entry.id, client_msg_id="", thread=0
            )
            self._enter(edit, state, as_edit)
        self._enter_reactions(state, entry.id, draft.time_ms, counted)
        return entry.id

    def _add_edit_and_reactions(
        self,
        key: str,
        message: int,
        draft: Draft,
        reactions: Sequence[tuple[str, str, str]],
        edit: str,
    ) -> None:
        """Store the new edit and the new reactions of a message that an earlier
        transaction has stored.

        The edit is stored only if the content differs.
        """
        for reaction_key, user, emoji in reactions:
            change = partial(change_reaction, user=user, emoji=emoji)
            self._annotate(reaction_key, message, draft.time_ms, change)
        if not edit or self.find(edit):
            return
        # The other server may have counted an edit that changes nothing.
        if self.content(key) != (draft.type, draft.body):
            revise = partial(_revise, draft=replace(draft, kind="edit"))
            self._annotate(edit, message, draft.time_ms, revise)

    def _enter_reactions(
        self,
        state: ConversationState,
        message: int,
        time_ms: int,
        reactions: Sequence[tuple[str, str, str]],
    ) -> None:
        """Store the reactions to a message of this transaction.

        The message already has the totals of the reactions.
        """
        # The entry of a reaction has the number of reactions with its emoji
        # until then.
        counts: dict[str, int] = {}
        for reaction_key, user, emoji in reactions:
            counts[emoji] = counts.get(emoji, 0) + 1
            reaction = Draft(
                sender=user,
                kind="reaction",
                type="add",
                body=emoji.encode(),
                time_ms=time_ms,
                about=message,
                meta=MessageMeta(count=counts[emoji]).to_bytes(),
                conversation=state.id,
            )
            entry = self._enter(reaction_key, state, reaction)
            row = (self._transaction.log, message, emoji, user, entry.id)
            self._reactions.append(row)

    def content(self, key: str) -> tuple[str, bytes]:
        """Return the type and the body, after all edits, of the message that an
        earlier transaction has stored with a key. Both are empty if there is no
        such message."""
        statement = "SELECT type, body FROM message WHERE log = %s AND id = %s"
        values = (self._transaction.log, self.find(key))
        for type, body in self._transaction.sql.query(statement, values):
            return text_of(type), bytes(body)
        return "", b""

    def take_back(self, key: str, own: str, by: str, time_ms: int) -> None:
        """Recall the message, or withdraw the reaction, that an earlier
        transaction has stored with the key ``own``. ``key``: the key of the
        entry about the recall or withdrawal. ``by``: the sender of a recall."""
        statement = (
            "SELECT m.id, m.about, r.emoji, r.member FROM message m "
            "LEFT JOIN reaction r "
            "ON r.log = m.log AND r.message = m.about AND r.id = m.id "
            "WHERE m.log = %s AND m.id = %s"
        )
        values = self._transaction.log, self.find(own)
        for id, about, emoji, user in self._transaction.sql.query(statement, values):
            if emoji is None:  # a message
                self._annotate(key, id, time_ms, _recall_by(by))
            else:
                end = partial(
                    change_reaction,
                    user=text_of(user),
                    emoji=text_of(emoji),
                    remove=True,
                )
                self._annotate(key, about, time_ms, end)

    def pin(self, key: str, message: int, user: str, time_ms: int) -> bool:
        """Pin a message of an earlier transaction. Returns False if nothing was
        stored, for example because the pin was imported before."""
        return self._annotate(key, message, time_ms, partial(change_pin, user=user))

    def _annotate(
        self,
        key: str,
        message: int,
        time_ms: int,
        annotate: Callable[..., Change | Rejected],
    ) -> bool:
        """Let ``annotate`` add an entry about a message of an earlier
        transaction.

        The entry is a reaction, a pin, an edit or a recall. Returns False if
        nothing was stored, because the entry was imported before, the message
        does not exist, or the log refuses the entry.
        """
        if self.find(key):
            return False
        target = find_message(self._transaction, user="", message=message)
        if not isinstance(target, TargetMessage):
            return False
        # All methods use the same state of a conversation, because it counts
        # the entries.
        target.state = self._states.setdefault(target.state.id, target.state)
        self._begin(time_ms)
        change = annotate(
            self._transaction, target, time_ms=time_ms, resend=_digest(key)
        )
        if isinstance(change, Rejected) or change.entry is None:
            return False
        self._note(key, change.entry.id, target.state.id)
        return True

    # --- groups ---------------------------------------------------------------

    def create_group(
        self,
        key: str,
        owner: str,
        name: str,
        users: Sequence[str],
        time_ms: int,
        *,
        admins: Container[str] = (),
        description: str = "",
        avatar: str = "",
        is_open: bool = False,
    ) -> int:
        """Create a group whose new members read its whole history, and return
        its id. ``admins``: the admins among the users. ``is_open``: whether
        anybody may join."""
        group_id = self.conversation_of(key)
        if group_id:  # an earlier import has created it
            self._ahead.discard(self.find(key))
            return group_id
        self._begin(time_ms)
        all_users = list(dict.fromkeys((owner, *users)))
        state = self._make_group(name, all_users, admins)
        created = GroupMeta(change="create", name=name, users=tuple(all_users))
        self._record(key, state, "group", owner, time_ms, created)

        self._set_properties(state.id, description, avatar, is_open)
        return state.id

    def _set_properties(
        self, group: int, description: str, avatar: str, is_open: bool
    ) -> None:
        """Set the properties of a new group that differ from the defaults."""
        transaction = self._transaction
        if description:
            transaction.set_group(group, "description", description)
        if avatar:
            transaction.set_group(group, "avatar", avatar)
        # 1 in the column `open` means that anybody may join.
        if is_open:
            transaction.set_group(group, "open", 1)

    def _make_group(
        self, name: str, users: Sequence[str], admins: Container[str]
    ) -> ConversationState:
        """Make a group whose new members read its whole history.

        The first of the users is the owner. ``admins`` are the admins among the
        other users.
        """
        transaction = self._transaction
        state = transaction.make_conversation(
            GROUP, members=(), name=name, options=OPTIONS["history"][0]
        )
        owner, *others = users
        transaction.admit(state, [owner], OWNER)
        transaction.admit(state, [user for user in others if user in admins], ADMIN)
        members = [user for user in others if user not in admins]
        transaction.admit(state, members, MEMBER)
        self._states[state.id] = state
        return state

    def join(
        self,
        key: str,
        group: int,
        users: Sequence[str],
        by: str,
        time_ms: int,
        *,
        role: str = MEMBER,
        only_first: bool = False,
    ) -> None:
        """Add the users who are not members at this time. If ``only_first``,
        only users who never were members are added."""
        state = self._state_for_change(key, group)
        if state is None:
            return
        transaction = self._transaction
        new = self._joining(group, users, time_ms, only_first)
        if not new:
            return
        self._begin(time_ms)
        members = count_members(transaction.sql, transaction.log, group) + len(new)
        transaction.admit(state, new, role, start_of_history(transaction, group, new))
        joined = GroupMeta(users=tuple(new), role=role, members=members)
        self._record(key, state, "join", by, time_ms, joined)

    def _joining(
        self, group: int, users: Sequence[str], time_ms: int, only_first: bool
    ) -> list[str]:
        """Return the users who are not members at this time, each once.

        If ``only_first``, users who were members before are left out.
        """
        # Users who never were members are not in `former_roles`.
        former_roles = self._roles(group, users, time_ms)
        excluded = {
            user
            for user, former_role in former_roles.items()
            if only_first or former_role != _LEFT
        }
        return [user for user in dict.fromkeys(users) if user not in excluded]

    def leave(
        self, key: str, group: int, users: Sequence[str], by: str, time_ms: int
    ) -> None:
        """Remove the members among the users, except the owner.

        Users who have joined again later stay members.
        """
        state = self._state_for_change(key, group)
        if state is None:
            return
        roles = self._roles(group, users, time_ms)
        leaving = [
            user for user in dict.fromkeys(users) if roles.get(user) in (ADMIN, MEMBER)
        ]
        if not leaving:
            return
        transaction = self._transaction

        members = count_members(transaction.sql, transaction.log, group) - len(leaving)
        left = GroupMeta(users=tuple(leaving), members=members)
        self._record(key, state, "leave", by, time_ms, left)
        # The memberships end after the entry about the leave, because the
        # leaving users may read this entry.
        end_members(transaction, state, leaving)

    def describe(
        self, key: str, group: int, text: GroupText, value: str, by: str, time_ms: int
    ) -> None:
        """Change a text of a group. ``text``: the text that changes."""
        state = self._state_for_change(key, group)
        if state is None:
            return
        self._transaction.set_group(group, text, value)
        change = "rename" if text == "name" else text
        changed = GroupMeta.changing(change, {text: value})
        self._record(key, state, "group", by, time_ms, changed)

    # --- the end --------------------------------------------------------------

    def finish(self) -> None:
        """Write the remaining rows."""
        statement = (
            "INSERT INTO reaction (log, message, emoji, member, id) "
            "VALUES (%s, %s, %s, %s, %s)"
        )
        if self._reactions:
            self._transaction.sql.execute_many(statement, self._reactions)
        self._transaction.stored_at = self._transaction.now

    # --- internal -------------------------------------------------------------

    def _roles(
        self, group: int, users: Sequence[str], time_ms: int
    ) -> dict[str, str | None]:
        """Return user → role in the last membership, for users who ever were
        members.

        The role :data:`_LEFT` means that this membership has ended. None means
        that the membership began or ended after ``time_ms``, so an entry of
        ``time_ms`` must not change it.
        """
        rows = _memberships_with_entries(self._transaction, group, users)
        roles: dict[str, str | None] = {}
        # The memberships are read in the order in which they began, because the
        # last membership counts.
        for member, _, left, role, entry, changed_ms in sorted(rows, key=itemgetter(1)):
            user = text_of(member)
            if self._is_later(entry, changed_ms, time_ms):
                roles[user] = None
            elif left is None:
                roles[user] = text_of(role)
            else:
                roles[user] = _LEFT
        return roles

    def _is_later(
        self, entry: int | None, changed_ms: int | None, time_ms: int
    ) -> bool:
        """Tell whether an entry is later than ``time_ms``.

        If both times are the same, the order of the calls counts. ``entry`` is
        the id, and ``changed_ms`` the time of the entry. Both are None if the
        entry has expired. An expired entry is not later.
        """
        if changed_ms == time_ms:
            return entry in self._ahead
        return (changed_ms or 0) > time_ms

    def _state_for_change(self, key: str, group: int) -> ConversationState | None:
        """Return the group that an entry changes.

        Returns None if the entry was stored before, or there is no such group.
        """
        entry_id = self.find(key)
        self._ahead.discard(entry_id)
        if entry_id:
            return None
        return self._state(group)

    def _state(self, key: int | bytes) -> ConversationState | None:
        """Return a conversation by its id, or by the pair of its users.

        Returns None if there is no such conversation. Each conversation is
        looked up only once.
        """
        if key not in self._states:
            for state in self._transaction.conversations((key,))().values():
                # Both keys of a conversation lead to the same state, because
                # the state counts the entries.
                self._states[key] = self._states.setdefault(state.id, state)
        return self._states.get(key)

    def _state_for(self, draft: Draft) -> ConversationState | None:
        """Return the conversation of a draft.

        A missing conversation of two users is created. Returns None if the
        draft names a conversation that does not exist, or that belongs to two
        other users.
        """
        if draft.conversation:
            state = self._state(draft.conversation)
            if state is None or not state.members or draft.sender in state.members:
                return state
            return None

        # The draft names a user: look for the conversation of the two.
        state = self._state(pair_of(draft.sender, draft.to_user))
        if state is None:
            return self._make_pair(draft)
        return state

    def _make_pair(self, draft: Draft) -> ConversationState:
        """Make the conversation of the sender and the receiver of a draft."""
        self._begin(draft.time_ms)
        users = tuple(sorted((draft.sender, draft.to_user)))
        state = self._transaction.make_conversation(USER, users)
        self._states[state.id] = state
        self._states[pair_of(draft.sender, draft.to_user)] = state
        return state

    def _begin(self, time_ms: int) -> None:
        """Set the time at which the next entries count as stored.

        This time never goes back, and is not in the future.
        """
        stored_at = max(self._stored_at, time_ms // SECOND_MS)
        self._stored_at = min(stored_at, self._transaction.now)
        self._transaction.stored_at = self._stored_at

    def _enter(self, key: str, state: ConversationState, draft: Draft) -> Entry:
        """Add the entry of a draft, under a key."""
        self._begin(draft.time_ms)
        entry = self._transaction.enter(state, draft, _digest(key))
        self._note(key, entry.id, state.id)
        return entry

    def _record(
        self,
        key: str,
        state: ConversationState,
        kind: EntryKind,
        by: str,
        time_ms: int,
        details: GroupMeta,
    ) -> None:
        """Add an entry about a change of a group, under a key."""
        self._begin(time_ms)
        entry = record(
            self._transaction,
            state,
            kind,
            by,
            details.to_bytes(),
            time_ms=time_ms,
            resend=_digest(key),
        )
        self._note(key, entry.id, state.id)

    def _note(self, key: str, id: int, conversation: int) -> None:
        """Remember the entry of a key, and count it."""
        self._ids[_digest(key)] = id, conversation
        self.added += 1


def _memberships_with_entries(
    transaction: AppTransaction, group: int, users: Sequence[str]
) -> Sequence[Row]:
    """Return the memberships of these users in a group.

    Each row is (user, joined_id, left_id, role), then the id and the time of
    the entry with which the membership began or ended.
    """
    # `m` is the entry with which the membership began or ended.
    statement = (
        "SELECT s.member, s.joined_id, s.left_id, s.role, m.id, m.time_ms "
        "FROM membership s LEFT JOIN message m "
        "ON m.log = s.log AND m.id = coalesce(s.left_id, s.joined_id + 1) "
        "WHERE s.log = %s AND s.conversation = %s AND s.member IN {}"
    )
    values = (transaction.log, group)
    names = list(dict.fromkeys(users))
    return transaction.sql.query_in(statement, values, names, many=True)


def _last_stored_at(transaction: AppTransaction) -> int:
    """Return when the last entry was stored, in Unix seconds, or 0 if there is
    no entry."""
    statement = "SELECT stored_at FROM message WHERE log = %s ORDER BY id DESC LIMIT 1"
    rows = transaction.sql.query(statement, (transaction.log,))
    if rows:
        return int(rows[0][0])
    return 0


def _revise(
    transaction: AppTransaction,
    target: TargetMessage,
    *,
    draft: Draft,
    time_ms: int,
    resend: bytes,
) -> Change | Rejected:
    """Edit or recall a message of an earlier transaction.

    ``draft`` has the kind and the content. Returns Rejected if the message may
    not be edited.
    """
    if draft.kind == "edit":
        sql = transaction.sql
        log = transaction.log
        # Nobody may edit such a question, not even an import.
        if fixed_among(sql, log, [target.id]):
            return FIXED
        if count_edits(sql, log, target.id, MOST_EDITS) >= MOST_EDITS:
            return Rejected(RejectReason.FULL)
    draft = replace(draft, about=target.id, time_ms=time_ms, client_msg_id="", thread=0)
    entry = transaction.enter(target.state, draft, resend)
    return Change(target.state.id, entry)


def _recall_by(user: str) -> partial[Change | Rejected]:
    """Return the change that recalls a message.

    A draft must name a conversation, so this draft names any. The recall is
    stored in the conversation of the message.
    """
    recall = Draft(sender=user, kind="recall", type="", conversation=1)
    return partial(_revise, draft=recall)


def _digest(key: str) -> bytes:
    """Return the digest by which the entry of a key is found.

    The digest has the server, with an empty name, as sender. The server has no
    other drafts with such ids.
    """
    return resend_of(sender="", client_msg_id=key)


def _client_id_of(key: str) -> str:
    """Return the client's id of a message with a key.

    A long key is cut, perhaps inside a character, which is left out.
    """
    return key.encode()[: Limit.CLIENT_MSG_ID_BYTES].decode(errors="ignore")


def _valid_reactions(
    reactions: Sequence[tuple[str, str, str]],
) -> list[tuple[str, str, str]]:
    """Return the reactions (key, user, emoji) that the log can store.

    If a user has reacted several times with an emoji, only the last key counts.
    """
    once: dict[tuple[str, str], tuple[str, str, str]] = {}
    for key, user, emoji in reactions:
        if not user or text_objection(user, MAX_USER_BYTES):
            continue
        if emoji_objection(emoji):
            continue
        # A user can react only once with an emoji.
        once[user, emoji] = (key, user, emoji)
    return list(once.values())


def _totals(reactions: Sequence[tuple[str, str, str]]) -> dict[str, ReactionTotal]:
    """Return emoji → its total, for the first :data:`MOST_EMOJI` emoji.

    A total has the number of users, and names the first of them.
    """
    users_of: dict[str, list[str]] = {}
    for _, user, emoji in reactions:
        users_of.setdefault(emoji, []).append(user)
    return {
        emoji: ReactionTotal(emoji, len(users), tuple(users[:MOST_USERS]))
        for emoji, users in islice(users_of.items(), MOST_EMOJI)
    }
