"""Changes of groups: each is one function over a sheet, and adds what tells of it to the log.

Who may make a change is asked here, under the log's lock: what the group was a moment ago does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from imserver.storage.group_contract import FULL, Ground, Right
from imserver.storage.log_contract import (
    INVALID,
    NOT_MEMBER,
    UNKNOWN_CONVERSATION,
    USER_BYTES,
    Change,
    Draft,
    Entry,
    EntryKind,
    Rejected,
)
from imserver.storage.log_row import GROUP, Line, text_objection, text_of
from imserver.storage.log_sheet import Sheet

Deed = Callable[[Sheet], Change | Rejected]

OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"
ROLES: Final = (OWNER, ADMIN, MEMBER)
GROUP_NAME_BYTES: Final = 500

_encode: Final = msgspec.json.Encoder().encode


def create(owner: str, name: str, users: Sequence[str], meta: bytes) -> Deed:
    """Make a group. The owner comes first in the ``users`` that its entry names."""

    def deed(sheet: Sheet) -> Change | Rejected:
        all_users = list(dict.fromkeys((owner, *users)))
        if wrong := _wrong(all_users, name):
            return wrong
        line = sheet.make_conversation(GROUP, (), name)
        sheet.admit(line, [owner], OWNER)
        sheet.admit(line, all_users[1:], MEMBER)
        told = {"change": "create", "name": name, "users": all_users}
        entry = _tell(sheet, line, "group", owner, told, meta)
        return Change(line.id, entry, tuple(all_users))

    return deed


def join(conversation: int, users: Sequence[str], by: str, role: str, most: int, right: Right | None) -> Deed:
    """Make users members."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = _wrong(users) or _wrong_role(role) or _group(sheet, conversation, by, users, right)
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, users)
        new = [user for user in dict.fromkeys(users) if user not in there]
        if not new:
            return Change(conversation)
        if most and _count(sheet, conversation, most) + len(new) > most:
            return Rejected(FULL)
        sheet.admit(line, new, role)
        entry = _tell(sheet, line, "join", by, {"users": new, "role": role})
        return Change(line.id, entry, tuple(new))

    return deed


def leave(conversation: int, users: Sequence[str], by: str, heir: bool, right: Right | None) -> Deed:
    """End memberships."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = _wrong(users) or _group(sheet, conversation, by, users, right)
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, users)
        gone = [user for user in dict.fromkeys(users) if user in there]
        if not gone:
            return Change(conversation)
        if heir and any(there[user][1] == OWNER for user in gone):
            _bequeath(sheet, line, gone, by)
        entry = _tell(sheet, line, "leave", by, {"users": gone})
        sheet.pen.end_members(sheet.log, conversation, gone, line.last_id)
        return Change(line.id, entry, tuple(gone))

    return deed


def rename(conversation: int, name: str, by: str, right: Right | None) -> Deed:
    """Give a group another name."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = _wrong((), name) or _group(sheet, conversation, by, (), right)
        if isinstance(line, Rejected):
            return line
        sheet.pen.rename(sheet.log, conversation, name)
        return Change(line.id, _tell(sheet, line, "group", by, {"change": "rename", "name": name}))

    return deed


def set_open(conversation: int, is_open: bool, by: str, right: Right | None) -> Deed:
    """Let anybody join, or not any more."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = _group(sheet, conversation, by, (), right)
        if isinstance(line, Rejected):
            return line
        if _is_open(sheet, conversation) == is_open:
            return Change(line.id)
        sheet.pen.set_open(sheet.log, conversation, is_open)
        return Change(line.id, _tell(sheet, line, "group", by, {"change": "open", "open": is_open}))

    return deed


def set_member(
    conversation: int, user: str, role: str | None, muted_until: int | None, by: str, right: Right | None
) -> Deed:
    """Change a member's role or silence."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = (
            _wrong((user,)) or _wrong_role(role or MEMBER) or _group(sheet, conversation, by, (user,), right)
        )
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, (user,))
        if user not in there:
            return Rejected(NOT_MEMBER)
        until = sheet.pen.silences(sheet.log, [(user, conversation)])[user, conversation]
        before = there[user][1], until
        after = role or before[0], until if muted_until is None else muted_until
        if after == before:
            return Change(line.id)
        if after[0] == OWNER:
            for owner in _first_of(sheet, conversation, OWNER, len(ROLES)):
                if owner != user:
                    _set(sheet, line, owner, ADMIN, None, by)
        return Change(line.id, _set(sheet, line, user, *after, by), (user,))

    return deed


# --- inside -------------------------------------------------------------------------------------------------


def _bequeath(sheet: Sheet, line: Line, gone: Sequence[str], by: str) -> None:
    """Make somebody the owner who stays, if there is anybody."""
    for role in (ADMIN, MEMBER):
        found = _first_of(sheet, line.id, role, len(gone) + 1)
        heir = next((user for user in found if user not in gone), None)
        if heir is not None:
            _set(sheet, line, heir, OWNER, None, by)
            return


def _set(sheet: Sheet, line: Line, user: str, role: str, muted_until: int | None, by: str) -> Entry:
    """Write what has become of a member, and tell it. ``muted_until`` None: as it is."""
    if muted_until is None:
        muted_until = sheet.pen.silences(sheet.log, [(user, line.id)])[user, line.id]
    sheet.pen.change_member(sheet.log, line.id, user, role, muted_until)
    told = {"change": "member", "users": [user], "role": role, "muted_until": muted_until}
    return _tell(sheet, line, "group", by, told)


def _tell(
    sheet: Sheet, line: Line, kind: EntryKind, by: str, told: dict[str, Any], body: bytes = b""
) -> Entry:
    draft = Draft(
        sender=by,
        kind=kind,
        type="",
        body=body,
        time_ms=sheet.now * 1000,
        meta=_encode(told),
        conversation=line.id,
    )
    entry = sheet.enter(line, draft)
    sheet.settle()
    return entry


def _group(
    sheet: Sheet, conversation: int, by: str, users: Sequence[str], right: Right | None
) -> Line | Rejected:
    """The group that is to be changed, or why it is not: ``users`` are those whom the change names."""
    line = sheet.pen.lines(sheet.log, (conversation,)).get(conversation)
    if line is None or line.kind != GROUP:
        return Rejected(UNKNOWN_CONVERSATION)
    if right is None:
        return line
    there = sheet.pen.current(sheet.log, conversation, list(dict.fromkeys((by, *users))))
    ground = Ground({user: role for user, (_, role) in there.items()}, _is_open(sheet, line.id))
    return right(ground) or line


def _count(sheet: Sheet, conversation: int, most: int) -> int:
    """How many are members; counting ends at ``most``."""
    statement = (
        f"SELECT count(*) FROM (SELECT 1 FROM membership {sheet.pen.by_group} "
        "WHERE log = %s AND conversation = %s AND left_id IS NULL LIMIT %s) counted"
    )
    return int(sheet.pen.ask(statement, (sheet.log, conversation, most))[0][0])


def _first_of(sheet: Sheet, conversation: int, role: str, most: int) -> list[str]:
    """The first members of a role, by their ids."""
    statement = (
        f"SELECT member FROM membership {sheet.pen.by_group} WHERE log = %s AND conversation = %s "
        "AND left_id IS NULL AND role = %s ORDER BY member LIMIT %s"
    )
    return [text_of(row[0]) for row in sheet.pen.ask(statement, (sheet.log, conversation, role, most))]


def _is_open(sheet: Sheet, conversation: int) -> bool:
    """Whether anybody may join."""
    statement = "SELECT open FROM conversation WHERE log = %s AND id = %s"
    return any(row[0] for row in sheet.pen.ask(statement, (sheet.log, conversation)))


def _wrong(users: Sequence[str], name: str = "") -> Rejected | None:
    for user in users:
        if not user:
            return Rejected(INVALID, "users: an empty id")
        if wrong := text_objection(user, USER_BYTES):
            return Rejected(INVALID, f"users: {wrong}")
    wrong = text_objection(name, GROUP_NAME_BYTES)
    return Rejected(INVALID, f"name: {wrong}") if wrong else None


def _wrong_role(role: str) -> Rejected | None:
    return None if role in ROLES else Rejected(INVALID, "role: there is none of this name")
