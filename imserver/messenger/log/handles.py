"""Handles: names of groups. A message with a handle mentions the members of
that group who may read the message.

A draft has the handle, after an ``@``, among its ``mentions``. The transaction
that stores the message replaces the handle by the members. So code that reads
mentions of users need not know handles.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from unicodedata import category, normalize

from msgspec.structs import replace

from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Statements, text_of
from imserver.messenger.log.bots import accounts_among
from imserver.messenger.log.contract import Draft, Rejected, RejectReason
from imserver.messenger.log.meta import MessageMeta, with_mentions
from imserver.messenger.log.rows import (
    SQLITE_BY_GROUP,
    ConversationState,
)

is_handle: Final = re.compile(r"\w[\w.-]*\w").fullmatch
"""Tells whether a text may be a handle. The text must be :func:`spelled`."""
MOST_HANDLES: Final = 1000
"""The most handles of an app."""
MOST_MEMBERS: Final = 1000
"""A group with more members cannot be mentioned, because all members are looked
up under the lock of the log."""
MOST_GROUPS: Final = 5
"""The most groups that a message mentions."""

_TOO_MANY: Final = Rejected(
    RejectReason.FULL,
    f"at most {Limit.MENTIONS} mentioned users and {MOST_GROUPS} groups of {MOST_MEMBERS} members",
)


def spelled(handle: str) -> str:
    """Return a handle as it is stored: in lower case.

    So upper and lower case make no difference in handles.
    """
    return normalize("NFC", handle.lower())


_BESIDE_OTHERS: Final = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "BOPOMOFO",
    "IDEOGRAPHIC",
)
"""Beginnings of the Unicode names of letters of East Asia. These letters are
written beside Latin letters, and do not look like letters of an alphabet."""
_SMALL_CAPITAL: Final = "LATIN LETTER SMALL CAPITAL "
_LOOKS_LIKE: Final = str.maketrans(
    # Letters of Cyrillic, of Greek, of Armenian, and other Latin letters. Below
    # each letter is the plain letter that it looks like.
    "аеорсухіјѕһӏԁԛԝѵүмктнвгпουνρικχγτμαεωօոսցıɑɡɩ",
    "aeopcyxijshldqwvymktnbrnouvpikxytmaewonugiagi",
)


def has_one_alphabet(handle: str) -> bool:
    """Tell whether all letters of a handle belong to one alphabet.

    Letters of two alphabets can look alike, so ``раypal`` with Cyrillic letters
    could stand for another group. Letters of East Asia are allowed, because
    they are written beside Latin letters.
    """
    scripts: set[str] = set()
    for sign in normalize("NFKC", handle):
        if category(sign).startswith("L"):
            # The Unicode name begins with the alphabet: `CYRILLIC SMALL LETTER
            # A`.
            script = unicodedata.name(sign, sign).partition(" ")[0]
            if not script.startswith(_BESIDE_OTHERS):
                scripts.add(script)
    return len(scripts) <= 1


def look_of(handle: str) -> str:
    """Return a text that is equal for handles that look alike.

    Letters that look like Latin letters are replaced by these: a Cyrillic ``а``
    becomes ``a``.
    """
    signs = []
    for sign in normalize("NFKC", handle).lower().translate(_LOOKS_LIKE):
        name = unicodedata.name(sign, "")
        # A small capital has its letter at the end of its name.
        if name.startswith(_SMALL_CAPITAL):
            signs.append(name.removeprefix(_SMALL_CAPITAL).lower())
        else:
            signs.append(sign)
    return "".join(signs)


def reached(
    sql: Statements, log: int, group: int, conversation: int
) -> Sequence[str] | None:
    """Return the members of a group whom its handle mentions in a conversation.

    These are the members of the group who are also in the conversation. Returns
    None if the group has too many members, or too many of them would be
    mentioned.
    """
    members = (
        f"SELECT member FROM membership {sql.on_sqlite(SQLITE_BY_GROUP)} "
        "WHERE log = %s "
        f"AND conversation = %s AND left_id IS NULL LIMIT {MOST_MEMBERS + 1}"
    )
    count = sql.query(f"SELECT count(*) FROM ({members}) h", (log, group))[0][0]
    if count > MOST_MEMBERS:
        return None

    # The query looks up each member. Otherwise PostgreSQL, without statistics,
    # would join all members of the group and of the conversation.
    rows = sql.query(
        f"SELECT h.member FROM ({members}) h "
        "WHERE (SELECT 1 FROM membership s WHERE s.log = %s AND s.conversation = %s "
        "AND s.member = h.member AND s.left_id IS NULL LIMIT 1) = 1 "
        "ORDER BY h.member LIMIT %s",
        (log, group, log, conversation, Limit.MENTIONS + 1),
    )
    if len(rows) > Limit.MENTIONS:
        return None
    return [text_of(row[0]) for row in rows]


def with_handles(
    sql: Statements, app: str, log: int, state: ConversationState, draft: Draft
) -> Draft | Rejected:
    """Replace the handles in the mentions of a draft by the members of their
    groups.

    A *handle* such as ``@team`` is the name of a group. The draft is a message
    to the group ``state``. In the result, ``meta`` also lists the handles that
    mention somebody. Returns Rejected if the draft would mention too many users
    or groups.

    The sender is not mentioned. A guest can mention only their own groups.
    Handles that no group has stay in ``mentions``, like ids of unknown users.
    """
    mentions = dict.fromkeys(MessageMeta.of(draft.meta).mentions)
    handles = _handles_in(mentions)
    groups = _groups_of(sql, app, log, draft.sender, set(handles.values()))
    if not groups:
        return draft
    if len(groups) > MOST_GROUPS:
        return _TOO_MANY

    # A dict is used because it keeps the order and has each user once.
    users = dict.fromkeys(
        mention for mention in mentions if handles.get(mention) not in groups
    )
    used_handles: list[str] = []  # handles that mention somebody
    for handle in dict.fromkeys(handles.values()):
        if handle not in groups:
            continue
        members = reached(sql, log, groups[handle], state.id)
        if members is None:
            return _TOO_MANY
        others = [user for user in members if user != draft.sender]
        if others:
            users |= dict.fromkeys(others)
            used_handles.append(handle)
    # A user may be in several of the groups, so the users are counted at the
    # end.
    if len(users) > Limit.MENTIONS:
        return _TOO_MANY
    meta = with_mentions(draft.meta, list(users), used_handles)
    return replace(draft, meta=meta)


def _handles_in(mentions: Iterable[str]) -> dict[str, str]:
    """Return mention → its handle, for the mentions that are handles.

    ``["7", "@Team"]`` gives ``{"@Team": "team"}``.
    """
    handles: dict[str, str] = {}
    for mention in mentions:
        if not mention.startswith("@"):
            continue
        handle = spelled(mention[1:])
        if is_handle(handle):
            handles[mention] = handle
    return handles


def _groups_of(
    sql: Statements, app: str, log: int, sender: str, handles: Collection[str]
) -> dict[str, int]:
    """Return handle → the group that has it, for handles that the sender may
    use.

    Handles that no group has are left out.
    """
    statement = "SELECT handle, id FROM conversation WHERE log = %s AND handle IN {}"
    rows = sql.query_in(statement, (log,), list(handles))
    groups = {text_of(handle): id for handle, id in rows}
    # Only guests are restricted.
    if not (groups and accounts_among(sql, app, [sender], "AND guest = 1")):
        return groups
    # A guest may use only the handles of their own groups.
    of_guest = _own_among(sql, log, sender, list(groups.values()))
    return {handle: id for handle, id in groups.items() if id in of_guest}


def _own_among(sql: Statements, log: int, user: str, groups: Sequence[int]) -> set[int]:
    """Return the given groups in which a user is a member now."""
    statement = (
        "SELECT conversation FROM membership WHERE log = %s AND member = %s "
        "AND left_id IS NULL AND conversation IN {}"
    )
    rows = sql.query_in(statement, (log, user), groups)
    return {conversation for (conversation,) in rows}
