"""Changes of groups: each is one function over a sheet, and adds the one entry that tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from imserver.storage.log_contract import (
    INVALID,
    NOT_MEMBER,
    UNKNOWN_CONVERSATION,
    USER_BYTES,
    Change,
    Draft,
    EntryKind,
    Rejected,
)
from imserver.storage.log_row import GROUP, Line, text_objection
from imserver.storage.log_sheet import Sheet

Deed = Callable[[Sheet], Change | Rejected]

ROLES: Final = ("owner", "admin", "member")
GROUP_NAME_BYTES: Final = 500

_encode: Final = msgspec.json.Encoder().encode


def create(owner: str, name: str, users: Sequence[str], meta: bytes) -> Deed:
    """Make a group. The owner comes first in the ``users`` that its entry names."""

    def deed(sheet: Sheet) -> Change | Rejected:
        all_users = list(dict.fromkeys((owner, *users)))
        if wrong := _wrong(all_users, name):
            return wrong
        line = sheet.make_conversation(GROUP, (), name)
        sheet.admit(line, [owner], "owner")
        sheet.admit(line, all_users[1:], "member")
        told = {"change": "create", "name": name, "users": all_users}
        return _tell(sheet, line, "group", owner, told, all_users, meta)

    return deed


def join(conversation: int, users: Sequence[str], by: str, role: str) -> Deed:
    """Make users members."""

    def deed(sheet: Sheet) -> Change | Rejected:
        if wrong := _wrong(users) or _wrong_role(role):
            return wrong
        line = _group(sheet, conversation)
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, users)
        new = [user for user in dict.fromkeys(users) if user not in there]
        if not new:
            return Change(conversation)
        sheet.admit(line, new, role)
        return _tell(sheet, line, "join", by, {"users": new, "role": role}, new)

    return deed


def leave(conversation: int, users: Sequence[str], by: str) -> Deed:
    """End memberships."""

    def deed(sheet: Sheet) -> Change | Rejected:
        if wrong := _wrong(users):
            return wrong
        line = _group(sheet, conversation)
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, users)
        gone = [user for user in dict.fromkeys(users) if user in there]
        if not gone:
            return Change(conversation)
        change = _tell(sheet, line, "leave", by, {"users": gone}, gone)
        sheet.pen.end_members(sheet.log, conversation, gone, line.last_id)
        return change

    return deed


def rename(conversation: int, name: str, by: str) -> Deed:
    """Give a group another name."""

    def deed(sheet: Sheet) -> Change | Rejected:
        if wrong := _wrong((), name):
            return wrong
        line = _group(sheet, conversation)
        if isinstance(line, Rejected):
            return line
        sheet.pen.rename(sheet.log, conversation, name)
        return _tell(sheet, line, "group", by, {"change": "rename", "name": name}, ())

    return deed


def set_open(conversation: int, is_open: bool, by: str) -> Deed:
    """Let anybody join, or not any more."""

    def deed(sheet: Sheet) -> Change | Rejected:
        line = _group(sheet, conversation)
        if isinstance(line, Rejected):
            return line
        sheet.pen.set_open(sheet.log, conversation, is_open)
        return _tell(sheet, line, "group", by, {"change": "open", "open": is_open}, ())

    return deed


def set_member(conversation: int, user: str, role: str | None, muted_until: int | None, by: str) -> Deed:
    """Change a member's role or silence."""

    def deed(sheet: Sheet) -> Change | Rejected:
        if wrong := _wrong((user,)) or _wrong_role(role or "member"):
            return wrong
        line = _group(sheet, conversation)
        if isinstance(line, Rejected):
            return line
        there = sheet.pen.current(sheet.log, conversation, (user,))
        if user not in there:
            return Rejected(NOT_MEMBER)
        until = sheet.pen.silences(sheet.log, [(user, conversation)])[user, conversation]
        role_now = role or there[user][1]
        until_now = until if muted_until is None else muted_until
        sheet.pen.change_member(sheet.log, conversation, user, role_now, until_now)
        told = {"change": "member", "users": [user], "role": role_now, "muted_until": until_now}
        return _tell(sheet, line, "group", by, told, (user,))

    return deed


# --- inside -------------------------------------------------------------------------------------------------


def _tell(
    sheet: Sheet,
    line: Line,
    kind: EntryKind,
    by: str,
    told: dict[str, Any],
    users: Sequence[str],
    body: bytes = b"",
) -> Change:
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
    return Change(line.id, entry, tuple(users))


def _group(sheet: Sheet, conversation: int) -> Line | Rejected:
    line = sheet.pen.lines(sheet.log, (conversation,)).get(conversation)
    if line is None or line.kind != GROUP:
        return Rejected(UNKNOWN_CONVERSATION)
    return line


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
