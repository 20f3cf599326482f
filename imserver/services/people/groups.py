"""Groups: stored sets of members, with an owner and admins. Every change is an entry of the message log.

Who may what: a member invites others and leaves; an admin also renames, silences and removes members; the
owner also removes and silences admins, and gives roles. ``by`` ``""`` is a back end, which may everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from imserver.errors import ImserverError
from imserver.storage.log_contract import Change, Conversation, Membership, MessageLog, Rejected

NAME_CHARACTERS: Final = 50
OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"

_RANK: Final = {OWNER: 2, ADMIN: 1, MEMBER: 0}
_unshowable: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class BadGroup(ImserverError):
    """What was given cannot be stored; the text says which, and why."""


class UnknownGroup(ImserverError):
    """There is no such group, or whoever asks is no member: that is not told apart."""


class NotAllowed(ImserverError):
    """The member's role does not allow this."""


class NoMember(ImserverError):
    """Somebody who was named is no member of the group."""


class TooManyMembers(ImserverError):
    """The group would have more members than ``accounts.group_members``."""


class Group(Struct, frozen=True):
    """A group, and what whoever asks is in it (``""``: a back end)."""

    id: int
    name: str
    created: int
    """Unix seconds."""
    role: str = ""
    muted_until: int = 0
    """Unix seconds."""
    open: bool = False
    """Anybody may join."""


class Groups:
    """Makes and changes groups. Everything may switch, and raise StorageUnavailable and UnknownGroup.

    ``log`` gives the message log; while ``is_kept`` says no there are no groups.
    """

    def __init__(self, log: Callable[[], MessageLog], is_kept: Callable[[], bool], limit: int) -> None:
        self._log = log
        self._is_kept = is_kept
        self.limit = limit

    # --- asking ---------------------------------------------------------------------------------------------

    def show(self, app: str, group: int, by: str) -> Group:
        """One group, for a member of it or a back end; an open one for anybody."""
        found, own = self._seen(app, group, by, or_open=True)
        return _group(found, own)

    def page(self, app: str, user: str, after: int, limit: int) -> tuple[int, list[Group]]:
        """How many groups a user is in, and a page of them in the order of their ids, behind one."""
        if not self._is_kept():
            return 0, []
        log = self._log()
        rows = [
            row
            for row in log.memberships(app, user)
            if row.left_id is None and row.kind_of_conversation == "group"
        ]
        rows.sort(key=lambda row: row.conversation)
        shown = [row for row in rows if row.conversation > after][:limit]
        found = ((log.conversation(app, row.conversation), row) for row in shown)
        return len(rows), [_group(group, row) for group, row in found if group is not None]

    def members(self, app: str, group: int, by: str, after: str, limit: int) -> list[Membership]:
        """Members in the order of their ids, behind one."""
        self._seen(app, group, by)
        return self._log().members(app, group, after, limit)

    def ids(self, app: str, group: int, by: str) -> list[str]:
        """All members."""
        return [row.user for row in self.members(app, group, by, "", self.limit + 1)]

    # --- changing -------------------------------------------------------------------------------------------

    def create(self, app: str, owner: str, name: str, users: Sequence[str]) -> Group:
        """Make a group of an owner and others. Raises BadGroup and TooManyMembers."""
        _check_name(name)
        others = [user for user in dict.fromkeys(users) if user != owner]
        if len(others) + 1 > self.limit:
            raise TooManyMembers(f"accounts.group_members {self.limit}")
        try:
            made = self._log().create(app, owner, name, others)
        except ValueError as error:
            raise BadGroup(str(error)) from None
        return self.show(app, made.conversation, owner)

    def invite(self, app: str, group: int, by: str, users: Sequence[str]) -> tuple[str, ...]:
        """Make users members; those who were none before. Raises BadGroup and TooManyMembers."""
        self._seen(app, group, by)
        log = self._log()
        there = {row.user for row in log.members(app, group, "", self.limit + 1)}
        new = [user for user in dict.fromkeys(users) if user not in there]
        if len(there) + len(new) > self.limit:
            raise TooManyMembers(f"accounts.group_members {self.limit}")
        return _done(log.join(app, group, new, by)).users if new else ()

    def join(self, app: str, group: int, user: str) -> Group:
        """Become a member of an open group. Raises TooManyMembers."""
        _, own = self._seen(app, group, user, or_open=True)
        if own is None:
            log = self._log()
            if len(log.members(app, group, "", self.limit)) >= self.limit:
                raise TooManyMembers(f"accounts.group_members {self.limit}")
            _done(log.join(app, group, [user], user))
        return self.show(app, group, user)

    def set_open(self, app: str, group: int, by: str, is_open: bool) -> Group:
        """Let anybody join, or not any more. Raises NotAllowed."""
        found, own = self._seen(app, group, by)
        if own is not None and own.role == MEMBER:
            raise NotAllowed("only the owner and admins open and close a group")
        if found.open != is_open:
            _done(self._log().set_open(app, group, is_open, by))
        return self.show(app, group, by)

    def leave(self, app: str, group: int, user: str) -> None:
        """End a membership. An owner's group goes to the first admin, else to the first member."""
        _, own = self._seen(app, group, user)
        log = self._log()
        if own is not None and own.role == OWNER:
            rest = [row for row in log.members(app, group, "", self.limit + 1) if row.user != user]
            rest.sort(key=lambda row: -_RANK[row.role])
            if rest:
                _done(log.set_member(app, group, rest[0].user, role=OWNER, by=user))
        _done(log.leave(app, group, [user], user))

    def remove(self, app: str, group: int, by: str, users: Sequence[str]) -> tuple[str, ...]:
        """End the memberships of others; those who were members. Raises NotAllowed."""
        found, own = self._seen(app, group, by)
        log = self._log()
        there = [row for user in dict.fromkeys(users) if (row := log.member(app, found.id, user)) is not None]
        for row in there:
            _require_above(own, row)
        named = [row.user for row in there]
        return _done(log.leave(app, group, named, by)).users if named else ()

    def rename(self, app: str, group: int, by: str, name: str) -> Group:
        """Give a group another name. Raises BadGroup and NotAllowed."""
        _check_name(name)
        _, own = self._seen(app, group, by)
        if own is not None and own.role == MEMBER:
            raise NotAllowed("only the owner and admins rename a group")
        _done(self._log().rename(app, group, name, by))
        return self.show(app, group, by)

    def set_role(self, app: str, group: int, by: str, user: str, role: str) -> None:
        """Give a member a role; whoever makes another the owner is an admin afterwards.

        Raises NotAllowed and NoMember.
        """
        _, own = self._seen(app, group, by)
        if own is not None and own.role != OWNER:
            raise NotAllowed("only the owner gives roles")
        row = self._member(app, group, user)
        if row.role == role:
            return
        if row.role == OWNER:
            raise NotAllowed("a group has an owner: make another member the owner")
        log = self._log()
        if role == OWNER:
            for owner in log.members(app, group, "", self.limit + 1):
                if owner.role == OWNER:
                    _done(log.set_member(app, group, owner.user, role=ADMIN, by=by))
        _done(log.set_member(app, group, user, role=role, by=by))

    def mute(self, app: str, group: int, by: str, user: str, until: int) -> None:
        """Silence a member until a time (Unix seconds; 0: not any more). Raises NotAllowed and NoMember."""
        _, own = self._seen(app, group, by)
        row = self._member(app, group, user)
        _require_above(own, row)
        _done(self._log().set_member(app, group, user, muted_until=until, by=by))

    def forget(self, app: str, user: str) -> None:
        """The user leaves all groups."""
        _, groups = self.page(app, user, 0, 2**31)
        for group in groups:
            self.leave(app, group.id, user)

    # --- inside ---------------------------------------------------------------------------------------------

    def _seen(
        self, app: str, group: int, by: str, or_open: bool = False
    ) -> tuple[Conversation, Membership | None]:
        """A group, and the membership of whoever asks (None: a back end; with ``or_open`` somebody else, too,
        if the group is open). Raises UnknownGroup."""
        if not self._is_kept() or not group:
            raise UnknownGroup(str(group))
        log = self._log()
        own = log.member(app, group, by) if by else None
        found = log.conversation(app, group)
        if found is None or found.kind != "group" or (by and own is None and not (or_open and found.open)):
            raise UnknownGroup(str(group))
        return found, own

    def _member(self, app: str, group: int, user: str) -> Membership:
        row = self._log().member(app, group, user)
        if row is None:
            raise NoMember(user)
        return row


def _group(found: Conversation, own: Membership | None) -> Group:
    if own is None:
        return Group(found.id, found.name, found.created, open=found.open)
    return Group(found.id, found.name, found.created, own.role, own.muted_until, found.open)


def _require_above(own: Membership | None, other: Membership) -> None:
    if own is not None and _RANK[own.role] <= _RANK[other.role]:
        raise NotAllowed("the member's role is not below that of whoever asks")


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARACTERS or _unshowable.search(name):
        raise BadGroup(f"name: expected 1 to {NAME_CHARACTERS} characters that can be shown")


def _done(change: Change | Rejected) -> Change:
    if isinstance(change, Rejected):
        if change.reason == "invalid":
            raise BadGroup(change.detail)
        if change.reason == "not_member":
            raise NoMember(change.detail)
        raise UnknownGroup(change.detail)
    return change
