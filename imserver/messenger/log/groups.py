"""Changes of groups. Each change runs in a transaction, and adds an entry about
the change to the log.

Permissions are checked under the lock of the log, so they are valid at the
moment of the change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.storage.statements import (
    Condition,
    chunks,
    marks_of,
    padded,
    text_objection,
    text_of,
)
from imserver.messenger.log.bots import MOST_BOTS, accounts_among
from imserver.messenger.log.contract import (
    OPENNESS,
    OPTIONS,
    Change,
    Draft,
    Entry,
    Everybody,
    GroupState,
    GroupText,
    Rejected,
    RejectReason,
    Right,
    openness_of,
    options_of,
)
from imserver.messenger.log.handles import MOST_HANDLES, look_of
from imserver.messenger.log.meta import GroupMeta
from imserver.messenger.log.model import EntryKind
from imserver.messenger.log.rows import (
    GROUP,
    SQLITE_BY_GROUP,
    ConversationState,
    count_members,
)
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import WritingPart, in_transaction

OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"
ROLES: Final = (OWNER, ADMIN, MEMBER)
TEXT_BYTES: Final[dict[GroupText, int]] = {
    "name": 500,
    "avatar": 1000,
    "description": 2000,
    "handle": 128,
}
"""Limits of the texts of a group."""
MOST_LEAVING: Final = 1000
"""The most members of a deleted group who leave in one transaction. One entry
names them all."""

_TOO_MANY_BOTS: Final = Rejected(
    RejectReason.INVALID, f"users: a group has at most {MOST_BOTS} bots"
)


class GroupWriter(WritingPart):
    """Changes groups. Each method makes its change in one transaction of the
    log.

    Each method returns after the commit, and may raise StorageUnavailable.
    Clients learn of the change from the entry that the method adds to the
    group. ``by`` is the user who makes the change, or ``""`` for a back end.
    ``right`` is the permission check. If it is None, anybody may make the
    change.
    """

    @in_transaction
    def create(
        self,
        transaction: AppTransaction,
        owner: str,
        name: str,
        users: Sequence[str],
        meta: bytes = b"",
        options: Mapping[str, str] | None = None,
        *,
        description: str = "",
        is_open: bool = False,
        everybody: Everybody = "",
    ) -> Change | Rejected:
        """Create a group with its owner and members.

        The first entry of the group has the kind ``group``. It has the
        properties that differ from the defaults. ``options`` has only values
        that differ from the defaults. ``everybody`` says which users are
        members without joining; ``""`` means nobody. ``meta`` is JSON that the
        entry gets in addition.
        """
        all_users = list(dict.fromkeys((owner, *users)))
        texts = {"name": name, "description": description}
        wrong = _users_refusal(all_users) or _texts_refusal(texts)
        if wrong:
            return wrong
        sql = transaction.sql
        bots = accounts_among(sql, transaction.app, all_users, "AND bot = 1")
        if len(bots) > MOST_BOTS:
            return _TOO_MANY_BOTS

        # First add the rows of the group and its members.
        bits = _with_options(bits=0, given=options or {})
        state = transaction.make_conversation(GROUP, (), name, bits)
        _admit_first(transaction, state, all_users, bots)

        # Then add the entry that tells clients about the group.
        created = _creation_of(state, name, all_users, is_open, everybody)
        entry = record(transaction, state, "group", owner, created.to_bytes(), meta)
        # These columns have defaults, and are rarely set.
        if is_open or everybody:
            openness = OPENNESS.index((is_open and not everybody, everybody))
            transaction.set_group(state.id, "open", openness)
        if description:
            transaction.set_group(state.id, "description", description)
        return Change(state.id, entry, tuple(all_users))

    @in_transaction
    def join(
        self,
        transaction: AppTransaction,
        conversation: int,
        users: Sequence[str],
        by: str = "",
        role: str = "member",
        *,
        most: int = 0,
        right: Right | None = None,
        invited_by: str = "",
        condition: Condition | None = None,
        everybody: bool = False,
    ) -> Change | Rejected:
        """Add members to a group. Users who are members already stay as they
        are.

        One entry of kind ``join`` names the new members, and has the number of
        all members.

        - ``most``: the most members that the group may have; 0 means no limit.
        - ``invited_by``: the maker of the invitation that the user ``by`` has
          accepted.
        - ``condition``: a function that is called if there are new members,
          after all other checks. If it returns False, nobody joins.
        - ``everybody``: whether the users become members because the group is a
          group of everybody. Such users are never bots.
        """
        checked_users = _users_to_check(users, invited_by, everybody)
        state = (
            _users_refusal(users)
            or _role_refusal(role)
            or _group(transaction, conversation, by, checked_users, right)
        )
        if isinstance(state, Rejected):
            return state

        new = _not_members(transaction, conversation, users)
        if not new:
            return Change(conversation)
        count = count_members(transaction.sql, transaction.log, conversation)
        count += len(new)
        if most and count > most:
            return Rejected(RejectReason.FULL)
        bots = _new_bots(transaction, state, () if everybody else new)
        if isinstance(bots, Rejected):
            return bots
        # The condition may use up an invitation, so it is checked last.
        if condition is not None and not condition(transaction.sql):
            return Rejected(RejectReason.UNKNOWN_CONVERSATION)

        _admit(transaction, state, new, role, bots)
        joined = GroupMeta(
            users=tuple(new),
            role=role,
            members=count,
            invited_by=invited_by or UNSET,
            everybody=everybody or UNSET,
        )
        entry = record(transaction, state, "join", by, joined.to_bytes())
        return Change(state.id, entry, tuple(new))

    @in_transaction
    def leave(
        self,
        transaction: AppTransaction,
        conversation: int,
        users: Sequence[str] | None,
        by: str = "",
        *,
        heir: bool = False,
        right: Right | None = None,
        record_more: Callable[[AppTransaction, Sequence[str]], object] | None = None,
    ) -> Change | Rejected:
        """End the memberships of users, or the whole group.

        One entry of kind ``leave`` names the users, and has the number of the
        remaining members. If ``users`` is None, the group ends: its first
        :data:`MOST_LEAVING` members leave, the owner after all others. Nobody
        can join by themselves any more. Call the method again until nobody is
        left.

        ``heir``: whether another member becomes the owner if the owner leaves.
        This is the first remaining admin or, without an admin, the first
        remaining member. The entry about the new owner precedes the ``leave``
        entry. ``record_more`` stores more about the leaving users in the same
        transaction.
        """
        named_users = users or ()
        state = _users_refusal(named_users) or _group(
            transaction, conversation, by, named_users, right
        )
        if isinstance(state, Rejected):
            return state

        is_owner_leaving = False
        if users is None:
            leaving = _first_leaving(transaction, conversation)
        else:
            roles = _roles_among(transaction, conversation, users)
            leaving = list(roles)
            is_owner_leaving = OWNER in roles.values()
        if not leaving:
            return Change(conversation)

        if heir and is_owner_leaving:
            _promote_heir(transaction, state, leaving, by)
        entry = _record_leave(transaction, state, leaving, by)
        # The memberships end after the entry about the leave, because the
        # leaving users read this entry.
        end_members(transaction, state, leaving)
        if record_more is not None:
            record_more(transaction, leaving)
        _remove_bots(transaction, state, leaving)
        return Change(state.id, entry, tuple(leaving))

    @in_transaction
    def describe(
        self,
        transaction: AppTransaction,
        conversation: int,
        given: Mapping[str, str],
        by: str = "",
        *,
        right: Right | None = None,
    ) -> Change | Rejected:
        """Change texts of a group: its name, picture, description or handle.

        ``given`` has the name of a text → its new value. Each changed text adds
        an entry of kind ``group``. The ``change`` of this entry is the name of
        the text, or ``rename`` for the name of the group. Nothing is stored if
        nothing changes. A handle that another group has is refused.
        """
        state = _texts_refusal(given) or _group(
            transaction, conversation, by, (), right
        )
        if not isinstance(state, Rejected) and given.get("handle"):
            state = _handle_refusal(transaction, conversation, given["handle"]) or state
        if isinstance(state, Rejected):
            return state

        # Only real changes are announced.
        entry = None
        stored = _stored_texts(transaction, conversation)
        for text in TEXT_BYTES:
            value = given.get(text)
            if value is not None and value != stored[text]:
                entry = _set_text(transaction, state, text, value, by)
        return Change(state.id, entry)

    @in_transaction
    def set_open(
        self,
        transaction: AppTransaction,
        conversation: int,
        is_open: bool,
        by: str = "",
        *,
        right: Right | None = None,
    ) -> Change | Rejected:
        """Open or close a group for anybody to join.

        The entry has the kind ``group``. Nothing is stored if nothing changes.
        """
        state = _group(transaction, conversation, by, (), right)
        if isinstance(state, Rejected):
            return state
        # 0 and 1 are closed and open in `OPENNESS`.
        openness, _ = group_settings(transaction, conversation)
        if openness == int(is_open):
            return Change(state.id)
        transaction.set_group(conversation, "open", int(is_open))
        changed = GroupMeta(change="open", open=is_open)
        entry = record(transaction, state, "group", by, changed.to_bytes())
        return Change(state.id, entry)

    @in_transaction
    def set_everybody(
        self,
        transaction: AppTransaction,
        conversation: int,
        everybody: Everybody,
        by: str = "",
        *,
        right: Right | None = None,
    ) -> Change | Rejected:
        """Set which users are members without joining.

        If ``everybody`` is ``""``, nobody is a member without joining. From
        then on, nobody can join the group by themselves. Members stay members.
        The entry has the kind ``group``. Nothing is stored if nothing changes.
        """
        state = _group(transaction, conversation, by, (), right)
        if isinstance(state, Rejected):
            return state
        openness, _ = group_settings(transaction, conversation)
        if openness_of(openness)[1] == everybody:
            return Change(state.id)
        # The column `open` has both facts as one number.
        transaction.set_group(conversation, "open", OPENNESS.index((False, everybody)))
        changed = GroupMeta(change="everybody", everybody=everybody)
        entry = record(transaction, state, "group", by, changed.to_bytes())
        return Change(state.id, entry)

    @in_transaction
    def set_options(
        self,
        transaction: AppTransaction,
        conversation: int,
        given: Mapping[str, str],
        by: str = "",
        *,
        right: Right | None = None,
    ) -> Change | Rejected:
        """Change options of a group, such as who may write.

        ``given`` has the name of an option → its new value. The entry has the
        kind ``group`` and names the changed options. Nothing is stored if
        nothing changes.
        """
        state = _group(transaction, conversation, by, (), right)
        if isinstance(state, Rejected):
            return state

        _, before = group_settings(transaction, conversation)
        after = _with_options(before, given)
        if after == before:
            return Change(state.id)

        transaction.set_group(conversation, "options", after)
        changed = GroupMeta.changing("options", _changed_options(before, after))
        entry = record(transaction, state, "group", by, changed.to_bytes())
        return Change(state.id, entry)

    @in_transaction
    def set_member(
        self,
        transaction: AppTransaction,
        conversation: int,
        user: str,
        *,
        role: str | None = None,
        muted_until: int | None = None,
        by: str = "",
        right: Right | None = None,
    ) -> Change | Rejected:
        """Change a member's role or mute.

        If ``role`` or ``muted_until`` is None, it stays as it is. The
        ``change`` of the entry is ``member`` if a role was given, otherwise
        ``mute``. Nothing is stored if nothing changes. If the member becomes
        the owner, the previous owner becomes an admin.
        """
        state = (
            _users_refusal((user,))
            or _role_refusal(role or MEMBER)
            or _group(transaction, conversation, by, (user,), right)
        )
        if isinstance(state, Rejected):
            return state
        former = _role_and_mute(transaction, conversation, user)
        if former is None:
            return Rejected(RejectReason.NOT_MEMBER)

        former_role, former_mute = former
        new_role = role or former_role
        # A change of the role alone must not end the mute.
        if muted_until is None:
            muted_until = former_mute
        if (new_role, muted_until) == former:
            return Change(state.id)

        if new_role == OWNER:
            _demote_owners(transaction, state, user, by)
        change = "mute" if role is None else "member"
        entry = _set_member(transaction, state, user, new_role, muted_until, by, change)
        return Change(state.id, entry, (user,))


# --- internal -----------------------------------------------------------------


def _creation_of(
    state: ConversationState,
    name: str,
    users: Sequence[str],
    is_open: bool,
    everybody: Everybody,
) -> GroupMeta:
    """Return the ``meta`` of the first entry of a group.

    The ``meta`` has the properties of the group that differ from the defaults.
    """
    rights = options_of(state.options)
    return GroupMeta(
        change="create",
        name=name,
        users=tuple(users),
        open=is_open or UNSET,
        everybody=everybody or UNSET,
        write=_unless_member(rights["write"]),
        reply=_unless_member(rights["reply"]),
    )


def _admit_first(
    transaction: AppTransaction,
    state: ConversationState,
    users: Sequence[str],
    bots: Sequence[str],
) -> None:
    """Add the first members of a new group. The first user is the owner.

    ``bots`` are the bots among the users.
    """
    transaction.admit(state, users[:1], OWNER, bots=bots)
    transaction.admit(state, users[1:], MEMBER, bots=bots)
    if bots:
        transaction.set_bots(state, tuple(bots))


def _unless_member(role: str) -> str | UnsetType:
    """Return the role for an entry about a group.

    The role of plain members is the default, so it is left out of the entry.
    """
    if role == MEMBER:
        return UNSET
    return role


def _set_text(
    transaction: AppTransaction,
    state: ConversationState,
    text: GroupText,
    value: str,
    by: str,
) -> Entry:
    """Set a text of a group, and return the entry about it."""
    transaction.set_group(state.id, text, value)
    change = "rename" if text == "name" else text
    changed = GroupMeta.changing(change, {text: value})
    return record(transaction, state, "group", by, changed.to_bytes())


def _changed_options(before: int, after: int) -> dict[str, str]:
    """Return option → new value, for the options that have changed.

    Each option is a bit, so the bits that differ are the changed options.
    """
    changed_bits = before ^ after
    return {
        name: value
        for name, value in options_of(after).items()
        if OPTIONS[name][0] & changed_bits
    }


def _record_leave(
    transaction: AppTransaction, state: ConversationState, users: Sequence[str], by: str
) -> Entry:
    """Add the entry that these members leave, and return it.

    If nobody remains, the group loses its handle.
    """
    count = count_members(transaction.sql, transaction.log, state.id)
    count -= len(users)
    if not count:
        # The handle would mention nobody, so it becomes free for other groups.
        transaction.set_group(state.id, "handle", "")
    left = GroupMeta(users=tuple(users), members=count)
    return record(transaction, state, "leave", by, left.to_bytes())


def _roles_among(
    transaction: AppTransaction, conversation: int, users: Sequence[str]
) -> dict[str, str]:
    """Return user → role, for the given users who are members, in the given
    order."""
    members = transaction.members(conversation, users)
    return {user: members[user][1] for user in users if user in members}


def _not_members(
    transaction: AppTransaction, conversation: int, users: Sequence[str]
) -> list[str]:
    """Return the given users who are not members yet, each once."""
    members = transaction.members(conversation, users)
    return [user for user in dict.fromkeys(users) if user not in members]


def _users_to_check(
    users: Sequence[str], invited_by: str, everybody: bool
) -> Sequence[str]:
    """Return the users whose roles the permission check of a join sees.

    See :meth:`GroupWriter.join` for the arguments.
    """
    if invited_by:
        return [*users, invited_by]
    if everybody:
        # A group of everybody has very many users, and the check does not need
        # their roles.
        return ()
    return users


def _new_bots(
    transaction: AppTransaction, state: ConversationState, users: Sequence[str]
) -> list[str] | Rejected:
    """Return the bots among users who join a group.

    Returns Rejected if the group would have too many bots.
    """
    bots: list[str] = []
    if users:
        bots = accounts_among(transaction.sql, transaction.app, users, "AND bot = 1")
    if len(state.bots) + len(bots) > MOST_BOTS:
        return _TOO_MANY_BOTS
    return bots


def _admit(
    transaction: AppTransaction,
    state: ConversationState,
    users: Sequence[str],
    role: str,
    bots: Sequence[str],
) -> None:
    """Make users members of a group, with as much of its history as it shows
    them.

    A user who leaves and joins again stays muted. ``bots`` are the bots among
    the users.
    """
    readable_after = start_of_history(transaction, state.id, users)
    mutes = {user: until for user, _, until in _ended(transaction, state.id, users)}
    transaction.admit(state, users, role, readable_after, bots, mutes)
    if bots:
        transaction.set_bots(state, (*state.bots, *bots))


def _first_leaving(transaction: AppTransaction, conversation: int) -> list[str]:
    """Return the members who leave next while a group ends.

    The owner leaves after all others. From the first call on, nobody can join
    the group by themselves: it is closed, and its invitations are deleted.
    """
    leaving: list[str] = []
    for role in (MEMBER, ADMIN, OWNER):
        # At most `MOST_LEAVING` members of all three roles together are
        # returned.
        room_left = MOST_LEAVING - len(leaving)
        leaving += _first_of(transaction, conversation, role, room_left)
    transaction.set_group(conversation, "open", OPENNESS.index((False, "")))
    statement = "DELETE FROM invitation WHERE app = %s AND conversation = %s"
    transaction.sql.execute(statement, (transaction.app, conversation))
    return leaving


def _remove_bots(
    transaction: AppTransaction, state: ConversationState, leaving: Sequence[str]
) -> None:
    """Remove the leaving users from the list of the group's bots."""
    staying = tuple(bot for bot in state.bots if bot not in leaving)
    if len(staying) < len(state.bots):
        transaction.set_bots(state, staying)
        transaction.write_conversations()


def _promote_heir(
    transaction: AppTransaction,
    state: ConversationState,
    leaving: Sequence[str],
    by: str,
) -> None:
    """Make a remaining member the owner of a group.

    This is the first admin or, without an admin, the first plain member. Bots
    cannot become owners, so a group may stay without an owner.
    """
    excluded = {*leaving, *state.bots}
    for role in (ADMIN, MEMBER):
        # The query returns one user more than can be excluded. So if a user may
        # become the owner, the result has one.
        users = _first_of(transaction, state.id, role, len(excluded) + 1)
        heir = next((user for user in users if user not in excluded), None)
        if heir is not None:
            _set_member(transaction, state, heir, OWNER, muted_until=None, by=by)
            return


def _stored_texts(
    transaction: AppTransaction, conversation: int
) -> dict[GroupText, str]:
    """Return the name of each text of a group → its stored value."""
    statement = (
        f"SELECT {', '.join(TEXT_BYTES)} FROM conversation WHERE log = %s AND id = %s"
    )
    (row,) = transaction.sql.query(statement, (transaction.log, conversation))
    return {
        text: text_of(column or "")
        for text, column in zip(TEXT_BYTES, row, strict=True)
    }


def _role_and_mute(
    transaction: AppTransaction, conversation: int, user: str
) -> tuple[str, int] | None:
    """Return the role and the end of the mute of a member, or None if the user
    is not a member."""
    members = transaction.members(conversation, (user,))
    if user not in members:
        return None
    _, role = members[user]
    mutes = transaction.mutes([(user, conversation)])()
    return role, mutes[user, conversation]


def _demote_owners(
    transaction: AppTransaction, state: ConversationState, new_owner: str, by: str
) -> None:
    """Make the previous owner of a group an admin.

    There should be only one previous owner. But each owner except ``new_owner``
    is demoted.
    """
    for owner in _first_of(transaction, state.id, OWNER, len(ROLES)):
        if owner != new_owner:
            _set_member(transaction, state, owner, ADMIN, muted_until=None, by=by)


def _set_member(
    transaction: AppTransaction,
    state: ConversationState,
    user: str,
    role: str,
    muted_until: int | None,
    by: str,
    change: str = "member",
) -> Entry:
    """Change the role and the mute of a member, and add an entry about it.

    If ``muted_until`` is None, the mute stays as it is. ``change`` is the name
    of the change in the entry.
    """
    if muted_until is None:
        muted_until = transaction.mutes([(user, state.id)])()[user, state.id]
    transaction.sql.execute(
        "UPDATE membership SET role = %s, muted_until = %s "
        "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL",
        (role, muted_until, transaction.log, user, state.id),
    )
    changed = GroupMeta(
        change=change, users=(user,), role=role, muted_until=muted_until
    )
    return record(transaction, state, "group", by, changed.to_bytes())


def record(
    transaction: AppTransaction,
    state: ConversationState,
    kind: EntryKind,
    by: str,
    meta: bytes = b"",
    body: bytes = b"",
    *,
    type: str = "",
    about: int = 0,
    time_ms: int = 0,
    resend: bytes | None = None,
) -> Entry:
    """Add an entry about a change to its conversation, and return it.

    ``by`` is the user who has made the change, or ``""`` for a back end or the
    server. A ``time_ms`` of 0 means now. ``resend`` is the digest by which a
    repeated import finds the entry.
    """
    draft = Draft(
        sender=by,
        kind=kind,
        type=type,
        body=body,
        time_ms=time_ms,
        about=about,
        meta=meta,
        conversation=state.id,
    )
    entry = transaction.enter(state, draft, resend)
    # Later statements of the same change must find the conversation.
    transaction.write_conversations()
    return entry


def _group(
    transaction: AppTransaction,
    conversation: int,
    by: str,
    users: Sequence[str],
    right: Right | None,
) -> ConversationState | Rejected:
    """Find the group to change, and check whether ``by`` may change it.

    Returns the reason of a refusal as Rejected. ``users`` are the users whom
    the change names. ``right`` is the permission check, which sees the roles of
    ``by`` and of these users. If it is None, anybody may make the change.
    """
    state = transaction.conversations((conversation,))().get(conversation)
    if state is None or state.kind != GROUP:
        return Rejected(RejectReason.UNKNOWN_CONVERSATION)
    if right is None:
        return state
    before = _state_before(transaction, state, list(dict.fromkeys((by, *users))))
    return right(before) or state


def _state_before(
    transaction: AppTransaction, state: ConversationState, users: Sequence[str]
) -> GroupState:
    """Read the state of a group before a change, for a permission check.

    The state has the roles and mutes of the given users who are members.
    """
    members = transaction.members(state.id, users)
    roles = {user: role for user, (_, role) in members.items()}
    mutes = transaction.mutes([(user, state.id) for user in roles])()
    muted = {user for (user, _), until in mutes.items() if until > transaction.now}
    openness, options = group_settings(transaction, state.id)
    is_open, everybody = openness_of(openness)
    return GroupState(
        roles,
        open=is_open,
        options=options_of(options),
        muted=muted,
        everybody=everybody,
        bots=state.bots,
    )


def _with_options(bits: int, given: Mapping[str, str]) -> int:
    """Return the option bits of a group with new values.

    ``given`` has option → new value, for example ``{"write": "admin"}``. Each
    option has two values: one with its bit, and the default without it.
    """
    for name, value in given.items():
        bit, _, value_with_bit = OPTIONS[name]
        if value == value_with_bit:
            bits |= bit
        else:
            bits &= ~bit
    return bits


def _first_of(
    transaction: AppTransaction, conversation: int, role: str, most: int
) -> list[str]:
    """Return the first ``most`` members with a role, ordered by id."""
    sql = transaction.sql
    statement = (
        f"SELECT member FROM membership {sql.on_sqlite(SQLITE_BY_GROUP)} "
        "WHERE log = %s "
        "AND conversation = %s AND left_id IS NULL AND role = %s "
        "ORDER BY member LIMIT %s"
    )
    rows = sql.query(statement, (transaction.log, conversation, role, most))
    return [text_of(row[0]) for row in rows]


def group_settings(transaction: AppTransaction, conversation: int) -> tuple[int, int]:
    """Return the columns ``open`` and ``options`` of a group.

    :func:`openness_of` explains the first number; the second number has a bit
    for each option.
    """
    statement = "SELECT open, options FROM conversation WHERE log = %s AND id = %s"
    (row,) = transaction.sql.query(statement, (transaction.log, conversation))
    return row[0], row[1]


def start_of_history(
    transaction: AppTransaction, conversation: int, users: Sequence[str]
) -> dict[str, int]:
    """Return user → the id after which a new member may read earlier entries.

    The result is empty unless the group shows its whole history to new members.
    If the user was a member before, the id is the end of the last membership,
    so that no entry belongs to two memberships. Otherwise it is 0.
    """
    # The option that the group has at this moment decides.
    _, options = group_settings(transaction, conversation)
    if not options & OPTIONS["history"][0]:
        return {}
    starts = dict.fromkeys(users, 0)
    for user, left_id, _ in _ended(transaction, conversation, users):
        starts[user] = left_id  # the last membership comes last
    return starts


def _ended(
    transaction: AppTransaction, conversation: int, users: Sequence[str]
) -> Iterator[tuple[str, int, int]]:
    """Yield the ended memberships of these users, the last membership last.

    Each is (user, left_id, muted_until): the last entry that the user may read,
    and the Unix second at which the mute ends.
    """
    sql = transaction.sql
    for chunk in chunks(users):
        # The users are padded to a fixed number, so that there are few
        # different statements.
        members = padded(chunk, chunk[-1])
        rows = sql.query(
            "SELECT member, left_id, muted_until "
            f"FROM membership {sql.on_sqlite(SQLITE_BY_GROUP)} "
            "WHERE log = %s AND conversation = %s "
            f"AND member IN {marks_of(len(members))} "
            "AND left_id IS NOT NULL ORDER BY joined_id",
            (transaction.log, conversation, *members),
        )
        for user, left_id, muted_until in rows:
            yield text_of(user), left_id, muted_until


def _users_refusal(users: Sequence[str]) -> Rejected | None:
    """Return a refusal if one of these texts cannot be the id of a user,
    otherwise None."""
    for user in users:
        if not user:
            return Rejected(RejectReason.INVALID, "users: an empty id")
        wrong = text_objection(user, MAX_USER_BYTES)
        if wrong:
            return Rejected(RejectReason.INVALID, f"users: {wrong}")
    return None


def _texts_refusal(given: Mapping[str, str]) -> Rejected | None:
    """Return a refusal if a text of a group cannot be stored, otherwise None.

    ``given`` has the name of a text → its value.
    """
    for text, most in TEXT_BYTES.items():
        if text not in given:
            continue
        wrong = text_objection(given[text], most)
        if wrong:
            return Rejected(RejectReason.INVALID, f"{text}: {wrong}")
    return None


def _handle_refusal(
    transaction: AppTransaction, conversation: int, handle: str
) -> Rejected | None:
    """Return a refusal if a group may not have a handle, otherwise None.

    It may not have a handle that looks like the handle of another group, for
    example with a letter of another alphabet. The number of handles in an app
    is limited, too.
    """
    statement = (
        "SELECT id, handle FROM conversation "
        "WHERE log = %s AND handle > '' AND id <> %s"
    )
    rows = transaction.sql.query(statement, (transaction.log, conversation))
    if len(rows) >= MOST_HANDLES:
        return Rejected(
            RejectReason.INVALID, f"handle: the app has {MOST_HANDLES} handles"
        )
    # An app has few handles, so all of them are compared.
    look = look_of(handle)
    if any(look_of(text_of(other)) == look for _, other in rows):
        return Rejected(RejectReason.TAKEN, handle)
    return None


def _role_refusal(role: str) -> Rejected | None:
    """Return a refusal if there is no such role, otherwise None."""
    if role in ROLES:
        return None
    return Rejected(RejectReason.INVALID, "role: unknown")


def end_members(
    transaction: AppTransaction, state: ConversationState, users: Sequence[str]
) -> None:
    """End the memberships of users in a group.

    The current last entry of the group is the last entry that these users may
    read.
    """
    transaction.sql.execute_many(
        "UPDATE membership SET left_id = %s "
        "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL",
        [(state.last_id, transaction.log, user, state.id) for user in users],
    )
