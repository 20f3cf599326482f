"""Reactions to messages, and pinned messages.

Each reaction or pin is a row, and an entry of the log about the message. The
totals of a message's reactions are in its ``meta``, so that a page of messages
needs no query for them. The permission checks run under the log's lock.
"""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, text_objection, text_of
from imserver.messenger.log.bots import readers_of
from imserver.messenger.log.contract import (
    Change,
    Rejected,
    RejectReason,
    options_of,
)
from imserver.messenger.log.groups import MEMBER, record
from imserver.messenger.log.meta import (
    MessageMeta,
    ReactionTotal,
    take_reactions,
    with_reactions,
)
from imserver.messenger.log.rows import (
    NUMBERS,
    ROOM,
    USER,
    ConversationState,
    conversation_state_of,
)
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import WritingPart, in_transaction

MOST_EMOJI: Final = 20
"""The most different emoji with which users may react to one message."""
MOST_USERS: Final = 10
"""The most users who are named for each emoji."""
MOST_PINS: Final = 100
"""The most pinned messages of one conversation."""
_control: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]").search
"""Control characters, and ends of lines."""

_MESSAGE: Final = (
    "SELECT c.id, c.kind, c.pair, c.last_seq, c.last_id, c.options, c.bots, "
    "m.kind, m.about, m.sender, m.meta, "
    "coalesce(s.readable_after, s.joined_id), s.left_id, s.role, s.muted_until, s.bot "
    "FROM message m JOIN conversation c ON c.log = m.log AND c.id = m.conversation "
    "LEFT JOIN membership s ON s.log = m.log AND s.member = %s "
    "AND s.conversation = m.conversation "
    "WHERE m.log = %s AND m.id = %s ORDER BY s.joined_id"
)
"""Selects a message, its conversation, and the memberships of a user. This is
one statement instead of three, because a user who answers a question waits for
each statement."""
_OF_MESSAGE: Final = slice(7, 11)
_OF_MEMBERSHIP: Final = slice(11, None)
"""The columns of the message and of the membership."""
_REACTION: Final = (
    "FROM reaction WHERE log = %s AND message = %s AND emoji = %s AND member = %s"
)
_NEW_REACTION: Final = (
    "INSERT INTO reaction (log, message, emoji, member, id) VALUES (%s, %s, %s, %s, %s)"
)


class AnnotationWriter(WritingPart):
    """Adds and removes reactions and pins. Each method returns after the commit
    and may raise StorageUnavailable. If nothing had to change, its result has
    no entry."""

    @in_transaction
    def react(
        self,
        transaction: AppTransaction,
        user: str,
        message: int,
        emoji: str,
        *,
        remove: bool = False,
    ) -> Change | Rejected:
        """Add the reaction of a user who can read the message. If ``remove``,
        the reaction is removed instead."""
        wrong = emoji_objection(emoji)
        if wrong:
            return Rejected(RejectReason.INVALID, wrong)
        target = find_message(transaction, user, message)
        if isinstance(target, Rejected):
            return target
        return change_reaction(transaction, target, user, emoji, remove=remove)

    @in_transaction
    def pin(
        self,
        transaction: AppTransaction,
        user: str,
        message: int,
        *,
        remove: bool = False,
    ) -> Change | Rejected:
        """Pin a message in its conversation, or remove its pin. An empty
        ``user`` means a back end."""
        target = find_message(transaction, user, message)
        if isinstance(target, Rejected):
            return target
        # In a conversation of two, both users may pin.
        needed_role = options_of(target.state.options)["pin"]
        may_pin = target.role != MEMBER or needed_role == MEMBER
        is_group = target.state.kind != USER
        if user and is_group and not may_pin:
            return Rejected(
                RejectReason.NOT_ALLOWED,
                "only the owner and admins of this group pin messages",
            )
        return change_pin(transaction, target, user, remove=remove)


def emoji_objection(emoji: str) -> str:
    """Return why a text cannot be a reaction, or ``""`` if it can be one."""
    if not emoji.strip():
        return "emoji: empty"
    wrong = text_objection(emoji, Limit.EMOJI_BYTES)
    if wrong:
        return f"emoji: {wrong}"
    # Other invisible characters are allowed, because some join several emoji
    # into one picture.
    if _control(emoji):
        return "emoji: a control character"
    return ""


# --- in the transaction -------------------------------------------------------


class TargetMessage(Struct):
    """A message that somebody acts on, and can read."""

    id: int
    state: ConversationState
    """The conversation of the message."""
    role: str
    """The role of the acting user in the conversation, or ``""`` for a back
    end."""
    sender: str
    meta: bytes


class _Reader(Struct, frozen=True):
    """A user who can read a message, with the role and the end of the mute of
    this user in the conversation. A back end has no role."""

    role: str = ""
    muted_until: int = 0


def find_message(
    transaction: AppTransaction, user: str, message: int
) -> TargetMessage | Rejected:
    """Find the message on which a user wants to act, by a reaction for example.

    Returns Rejected if the user cannot read it, is muted or blocked, or if the
    message was recalled. An empty ``user`` means a back end, which may act on
    everything.
    """
    unknown = Rejected(RejectReason.UNKNOWN_MESSAGE)
    # Messages up to the floor have expired.
    if message <= transaction.head.floor:
        return unknown
    rows = transaction.sql.query(_MESSAGE, (user, transaction.log, message))
    if not rows:
        return unknown

    # A recalled message is a recall that is about itself. Other recalls and
    # edits are not messages.
    kind, about, sender, meta = rows[0][_OF_MESSAGE]
    is_recalled = kind == NUMBERS["recall"] and about == message
    is_message = is_recalled or kind == NUMBERS["message"]
    state = conversation_state_of(rows[0])
    if not is_message or state.kind == ROOM:
        return unknown

    reader: _Reader | None = _Reader()  # a back end
    if user:
        reader = _reader_of(transaction, user, message, rows)
    if reader is None:
        return unknown

    # Only readers may learn why the message cannot be changed.
    if is_recalled:
        return Rejected(RejectReason.RECALLED)
    if reader.muted_until > transaction.now:
        return Rejected(RejectReason.MUTED)
    if _is_blocked(transaction, state, user):
        return Rejected(RejectReason.BLOCKED)
    return TargetMessage(message, state, reader.role, text_of(sender), bytes(meta))


def _is_blocked(
    transaction: AppTransaction, state: ConversationState, user: str
) -> bool:
    """Tell whether the other user of a conversation of two has blocked ``user``.

    A back end (``""``) is never blocked. In a group, nobody is blocked.
    """
    if not user or state.kind != USER:
        return False
    pairs = {(member, user) for member in state.members if member != user}
    return bool(transaction.blocks(pairs)())


def _reader_of(
    transaction: AppTransaction, user: str, message: int, rows: Sequence[Row]
) -> _Reader | None:
    """Return the user as a reader of a message, or None if the user is not a
    reader.

    A reader is a member now, and was a member when the message was stored.
    ``rows`` are the result of :data:`_MESSAGE`: the same message with each
    membership of the user. The newest membership comes last.
    """
    joined = [row[_OF_MEMBERSHIP] for row in rows]
    # A user who never was a member has one row, without a membership.
    memberships = [columns for columns in joined if columns[0] is not None]
    # Users may leave and join again. One of their memberships must have covered
    # the message.
    could_read = any(
        readable_after < message and (left_id is None or message <= left_id)
        for readable_after, left_id, *_ in memberships
    )
    if not could_read:
        return None
    # The last membership shows whether the user is a member now.
    _, left_id, role, muted_until, is_bot = memberships[-1]
    if left_id is not None:
        return None
    # Bots do not get all messages of a group.
    if is_bot and user not in readers_of(transaction.sql, transaction.log, message):
        return None
    return _Reader(text_of(role), muted_until)


def change_reaction(
    transaction: AppTransaction,
    target: TargetMessage,
    user: str,
    emoji: str,
    *,
    remove: bool = False,
    time_ms: int = 0,
    resend: bytes | None = None,
) -> Change | Rejected:
    """Add the reaction of a user to a message, or ``remove`` it.

    A reaction is a row of its own, an entry of the log, and a part of the
    totals in the ``meta`` of the message. All three are written here.
    ``time_ms`` and ``resend`` are for the entry, see :func:`record`. If nothing
    had to change, the result has no entry.
    """
    sql = transaction.sql
    log = transaction.log
    row = (log, target.id, emoji, user)
    has_reacted = bool(sql.query(f"SELECT id {_REACTION}", row))
    if has_reacted is not remove:
        return Change(target.state.id)
    totals = _totals_of(target.meta)
    if not remove and emoji not in totals and len(totals) >= MOST_EMOJI:
        return Rejected(RejectReason.FULL, f"at most {MOST_EMOJI} different emoji")

    before = totals.get(emoji, ReactionTotal(emoji, count=0, users=()))
    if remove:
        type = "remove"
        count = before.count - 1
    else:
        type = "add"
        count = before.count + 1
    # The entry tells clients the new count.
    entry = record(
        transaction,
        target.state,
        "reaction",
        user,
        MessageMeta(count=count).to_bytes(),
        emoji.encode(),
        type=type,
        about=target.id,
        time_ms=time_ms,
        resend=resend,
    )
    if remove:
        sql.execute(f"DELETE {_REACTION}", row)
    else:
        sql.execute(_NEW_REACTION, (*row, entry.id))

    # Readers get the totals with the message.
    users = _named_users(transaction, target.id, before, user, count)
    totals[emoji] = ReactionTotal(emoji, count, users)
    meta = with_reactions(target.meta, entry.id, totals.values())
    sql.execute(_NEW_META, (meta, log, target.id))
    return Change(target.state.id, entry)


_NEW_META: Final = "UPDATE message SET meta = %s WHERE log = %s AND id = %s"


def _totals_of(meta: bytes) -> dict[str, ReactionTotal]:
    """Return emoji → its total, from the ``meta`` of a message.

    A total has the number of users, and names the first of them.
    """
    _, totals = take_reactions(meta)
    return {total.emoji: total for total in totals}


def _named_users(
    transaction: AppTransaction,
    message: int,
    before: ReactionTotal,
    user: str,
    count: int,
) -> tuple[str, ...]:
    """Return the users whom the new total of an emoji names.

    A total names at most :data:`MOST_USERS` users. ``before`` is the total
    until now, and ``count`` the new number. If this number is greater than
    before, ``user`` has reacted. Otherwise ``user`` has withdrawn the reaction.
    """
    users = tuple(other for other in before.users if other != user)
    if count > before.count and len(users) < MOST_USERS:
        users = (*users, user)
    if len(users) < count <= MOST_USERS:
        # A user who was named has withdrawn the reaction. If the other users
        # are few, all can be named.
        users = _users_reacting(transaction, message, before.emoji)
    return users


def _users_reacting(
    transaction: AppTransaction, message: int, emoji: str
) -> tuple[str, ...]:
    """Return all users who reacted to a message with one emoji, in the order of
    the reactions."""
    statement = (
        "SELECT member FROM reaction "
        "WHERE log = %s AND message = %s AND emoji = %s ORDER BY id"
    )
    rows = transaction.sql.query(statement, (transaction.log, message, emoji))
    return tuple(text_of(member) for (member,) in rows)


def change_pin(
    transaction: AppTransaction,
    target: TargetMessage,
    user: str,
    *,
    remove: bool = False,
    time_ms: int = 0,
    resend: bytes | None = None,
) -> Change | Rejected:
    """Pin a message in its conversation, or ``remove`` its pin.

    A pin is a row of its own and an entry of the log. ``time_ms`` and
    ``resend`` are for the entry, see :func:`record`. If nothing had to change,
    the result has no entry.
    """
    sql = transaction.sql
    log = transaction.log
    message = target.id
    conversation = target.state.id
    rows = sql.query(
        "SELECT id FROM pin WHERE log = %s AND message = %s", (log, message)
    )
    is_pinned = bool(rows)
    if is_pinned is not remove:
        return Change(conversation)
    if not remove and _count_pins(transaction, conversation) >= MOST_PINS:
        return Rejected(RejectReason.FULL, f"at most {MOST_PINS} pinned messages")

    # The id of the entry orders the list of pins.
    entry = record(
        transaction,
        target.state,
        "pin",
        user,
        type="remove" if remove else "add",
        about=target.id,
        time_ms=time_ms,
        resend=resend,
    )
    if remove:
        sql.execute("DELETE FROM pin WHERE log = %s AND message = %s", (log, message))
    else:
        sql.execute(
            "INSERT INTO pin (log, message, conversation, id) VALUES (%s, %s, %s, %s)",
            (log, message, conversation, entry.id),
        )
    return Change(conversation, entry)


def _count_pins(transaction: AppTransaction, conversation: int) -> int:
    """Return the number of pinned messages of a conversation."""
    statement = "SELECT count(*) FROM pin WHERE log = %s AND conversation = %s"
    values = (transaction.log, conversation)
    return int(transaction.sql.query(statement, values)[0][0])


def withdraw(transaction: AppTransaction, user: str, message: int, emoji: str) -> None:
    """Remove an existing reaction, even if the user may not read the message
    any more.

    An erasure calls this function for all reactions of the erased user.
    """
    # An empty user means a back end, which may act on everything.
    target = find_message(transaction, user="", message=message)
    if isinstance(target, Rejected):
        # The message was recalled or has expired, so it has no totals.
        transaction.sql.execute(
            f"DELETE {_REACTION}", (transaction.log, message, emoji, user)
        )
    else:
        change_reaction(transaction, target, user, emoji, remove=True)
