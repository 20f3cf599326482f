"""Groups: stored sets of members, with an owner and admins. Every change is an entry of the message log.

Who may what: a member invites others and leaves; an admin also renames, silences and removes members; the
owner also removes and silences admins, and gives roles. ``by`` ``""`` is a back end, which may everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imserver.errors import ImserverError
from imserver.storage.log.contract import (
    FULL,
    INVALID,
    NOT_ALLOWED,
    NOT_MEMBER,
    UNKNOWN_CONVERSATION,
    Change,
    Conversation,
    Ground,
    Membership,
    Rejected,
    Right,
)

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

NAME_CHARACTERS: Final = 50
OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"

_RANK: Final = {OWNER: 2, ADMIN: 1, MEMBER: 0}
_OUTSIDER: Final = Rejected(UNKNOWN_CONVERSATION)
_unshowable: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class BadGroup(ImserverError):
    """What was given cannot be stored; the text says which, and why."""


class UnknownGroup(ImserverError):
    """There is no such group, or whoever asks is no member: that is not told apart."""


class NotAllowed(ImserverError):
    """The role of the member does not permit this."""


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
        own = {
            row.conversation: row
            for row in log.memberships(app, user)
            if row.left_id is None and row.kind_of_conversation == "group"
        }
        shown = sorted(id for id in own if id > after)[:limit]
        return len(own), [_group(group, own[group.id]) for group in log.conversations(app, shown)]

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
        log = self._log_with(group)
        return _done(log.join(app, group, users, by, most=self.limit, right=_ranked(by, MEMBER))).users

    def join(self, app: str, group: int, user: str) -> Group:
        """Become a member of an open group. Raises TooManyMembers."""
        log = self._log_with(group)
        _done(log.join(app, group, [user], user, most=self.limit, right=_may_enter(user)))
        return self.show(app, group, user)

    def set_open(self, app: str, group: int, by: str, is_open: bool) -> Group:
        """Let anybody join, or not any more. Raises NotAllowed."""
        right = _ranked(by, ADMIN, "only the owner and admins open and close a group")
        _done(self._log_with(group).set_open(app, group, is_open, by, right=right))
        return self.show(app, group, by)

    def leave(self, app: str, group: int, user: str) -> None:
        """End a membership. An owner's group goes to the first admin, else to the first member."""
        log = self._log_with(group)
        _done(log.leave(app, group, [user], user, heir=True, right=_ranked(user, MEMBER)))

    def remove(self, app: str, group: int, by: str, users: Sequence[str]) -> tuple[str, ...]:
        """End the memberships of others; those who were members. Raises BadGroup and NotAllowed."""
        log = self._log_with(group)
        return _done(log.leave(app, group, users, by, heir=True, right=_above(by, users))).users

    def rename(self, app: str, group: int, by: str, name: str) -> Group:
        """Give a group another name. Raises BadGroup and NotAllowed."""
        _check_name(name)
        right = _ranked(by, ADMIN, "only the owner and admins rename a group")
        _done(self._log_with(group).rename(app, group, name, by, right=right))
        return self.show(app, group, by)

    def set_role(self, app: str, group: int, by: str, user: str, role: str) -> None:
        """Give a member a role; whoever makes another the owner is an admin afterwards.

        Raises NotAllowed and NoMember.
        """
        right = _gives_roles(by, user, role)
        _done(self._log_with(group).set_member(app, group, user, role=role, by=by, right=right))

    def mute(self, app: str, group: int, by: str, user: str, until: int) -> None:
        """Silence a member until a time (Unix seconds; 0: not any more). Raises NotAllowed and NoMember."""
        right = _above(by, [user])
        _done(self._log_with(group).set_member(app, group, user, muted_until=until, by=by, right=right))

    def forget(self, app: str, user: str) -> None:
        """The user leaves all groups. Whoever was taken out of one meanwhile need not leave it."""
        _, groups = self.page(app, user, 0, 2**31)
        for group in groups:
            self._log().leave(app, group.id, [user], user, heir=True)

    # --- inside ---------------------------------------------------------------------------------------------

    def _seen(
        self, app: str, group: int, by: str, or_open: bool = False
    ) -> tuple[Conversation, Membership | None]:
        """A group, and the membership of whoever asks (None: a back end; with ``or_open`` somebody else, too,
        if the group is open). Raises UnknownGroup."""
        log = self._log_with(group)
        own = log.member(app, group, by) if by else None
        found = log.conversation(app, group)
        if found is None or found.kind != "group" or (by and own is None and not (or_open and found.open)):
            raise UnknownGroup(str(group))
        return found, own

    def _log_with(self, group: int) -> MessageLog:
        """The log, which may have this group."""
        if not self._is_kept() or not group:
            raise UnknownGroup(str(group))
        return self._log()


def _group(found: Conversation, own: Membership | None) -> Group:
    if own is None:
        return Group(found.id, found.name, found.created, open=found.open)
    return Group(found.id, found.name, found.created, own.role, own.muted_until, found.open)


# --- who may what: asked under the log's lock, of the roles that are in force there -------------------------


def _ranked(by: str, least: str, words: str = "") -> Right:
    """Whoever asks is a member, and has this role or more."""

    def right(ground: Ground) -> Rejected | None:
        if not by:
            return None
        if by not in ground.roles:
            return _OUTSIDER
        return None if _RANK[ground.roles[by]] >= _RANK[least] else Rejected(NOT_ALLOWED, words)

    return right


def _above(by: str, users: Sequence[str]) -> Right:
    """Whoever asks is a member, and all who are named are below."""

    def right(ground: Ground) -> Rejected | None:
        if not by:
            return None
        if by not in ground.roles:
            return _OUTSIDER
        own = _RANK[ground.roles[by]]
        if all(_RANK[ground.roles[user]] < own for user in users if user in ground.roles):
            return None
        return Rejected(NOT_ALLOWED, "the member's role is not below that of whoever asks")

    return right


def _gives_roles(by: str, user: str, role: str) -> Right:
    """Whoever asks is the owner, who stays one until another is."""
    is_owner = _ranked(by, OWNER, "only the owner gives roles")

    def right(ground: Ground) -> Rejected | None:
        if ground.roles.get(user) == OWNER != role:
            return is_owner(ground) or Rejected(NOT_ALLOWED, "a group has an owner: make another the owner")
        return is_owner(ground)

    return right


def _may_enter(user: str) -> Right:
    """The group is open, or the user is in it already."""
    return lambda ground: None if ground.open or user in ground.roles else _OUTSIDER


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARACTERS or _unshowable.search(name):
        raise BadGroup(f"name: expected 1 to {NAME_CHARACTERS} characters that can be shown")


def _done(change: Change | Rejected) -> Change:
    if isinstance(change, Change):
        return change
    refusal = _REFUSALS.get(change.reason, UnknownGroup)
    raise refusal(change.detail)


_REFUSALS: Final[dict[str, type[ImserverError]]] = {
    INVALID: BadGroup,
    NOT_MEMBER: NoMember,
    NOT_ALLOWED: NotAllowed,
    FULL: TooManyMembers,
}
