"""Invitation links: with the code of an invitation, others join a group, or
become a friend of its maker."""

from collections.abc import Sequence
from functools import partial
from secrets import token_urlsafe
from time import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Struct

from imserver.messenger.groups.groups import (
    ADMIN,
    OWNER,
    Groups,
    NotAllowed,
    UnknownGroup,
)
from imserver.people.accounts import friends as changes
from imserver.people.accounts.api import Avatar, Nickname
from imserver.people.accounts.contract import FullSession
from imserver.people.accounts.friends import FriendResult, Oneself, UnknownFriend
from imserver.people.accounts.parts import AccountParts
from imserver.people.invitations.declared import InvitationLimits
from imserver.people.invitations.rows import (
    Code,
    Ends,
    ForGuests,
    InvitationShown,
    InvitationStore,
    Maker,
    OfGroup,
    use,
)
from imserver.plugin.errors import HttpProblem, Problems, ServiceRefused
from imserver.plugin.http import about, view
from imserver.plugin.identity import by_address
from imserver.plugin.messages import (
    Appended,
    Conversation,
    Draft,
    Entry,
    MessageLog,
    Messaging,
)
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Condition
from imserver.plugin.wire import id_of

CODE_BYTES: Final = 16
"""Random bytes of a code."""
SECONDS: Final = 7 * 86400
"""How long an invitation is valid, unless its maker sets another time."""
MESSAGE_TYPE: Final = "invitation"
"""The type of the messages with which invitations are sent."""


class UnknownInvitation(
    ServiceRefused,
    problem=HttpProblem(
        404,
        "unknown_invitation",
        "No such invitation, or it has expired or is used up.",
    ),
):
    """No such invitation; or it has expired, is used up, or its maker may no
    longer invite."""


class UsedInvitation(
    ServiceRefused,
    problem=HttpProblem(
        410,
        "invitation_used",
        "The invitation has already been used by the maximum number of people.",
    ),
):
    """The invitation is used up."""


class TooManyInvitations(
    ServiceRefused,
    problem=HttpProblem(
        409,
        "too_many_invitations",
        "The user has made as many invitations as accounts.invitations allows.",
    ),
):
    """The maker has ``accounts.invitations`` invitations."""


class Blocked(
    ServiceRefused,
    problem=Problems.NOT_ALLOWED,
    detail="You have blocked the user who made the invitation",
):
    """The user has blocked the maker of the invitation."""


class InvitationPreview(Struct):
    """The target of an invitation."""

    code: Code
    group: OfGroup
    name: Annotated[str, about("The name of the group.")]
    members: Annotated[int, about("The number of members of the group.")]
    user: Maker
    nickname: Nickname
    avatar: Avatar
    expires_at: Ends
    guests: ForGuests
    group_avatar: Annotated[
        str, about("The address of the picture of a group; empty: none.")
    ] = ""
    description: Annotated[
        str, about("The description of the group. It may have several lines.")
    ] = ""


class InvitationAccepted(Struct):
    """The result."""

    status: Annotated[
        Literal["joined", "friends", "already"],
        about(
            "`joined`: the user is now a member of the group. `friends`: the two users "
            "are now friends. `already`: nothing has changed."
        ),
    ]
    group: OfGroup
    user: Maker


class InvitationContent(Struct, frozen=True, omit_defaults=True):
    """The content of a message of the type :data:`MESSAGE_TYPE`.

    Once the invitation has ended, it has a ``status`` and no code.
    """

    group: str
    name: str
    code: str = ""
    expires_at: int = 0
    """Unix seconds."""
    status: Literal["", "accepted", "declined", "revoked"] = ""


class Invitations:
    """Makes and accepts invitations, to join a group or to become a friend.

    Many methods take ``inviter``: a user, or ``""`` for a back end, which may
    invite to all groups. An invitation that was sent to one user is valid only
    for that user. The message with it has the code as its ``client_msg_id``, by
    which the message is found. Every method may switch greenlets and raise
    StorageUnavailable.
    """

    def __init__(
        self, core: Core, people: AccountParts, groups: Groups, messaging: Messaging
    ) -> None:
        """Take the services of accounts and groups that invitations use."""
        self._people = people
        self._most = settings_of(core.config, InvitationLimits).invitations
        self._store = core.store
        self._rows = InvitationStore(self._store)
        self._relations = core.relations
        self._groups = groups
        self._messaging = messaging

    def create(
        self,
        app: str,
        inviter: str,
        group: int,
        seconds: int,
        uses: int,
        guests: bool = False,
    ) -> InvitationShown:
        """Make an invitation.

        ``group`` is the group to join; 0 means that the invitation is to become
        a friend of ``inviter``. ``seconds`` is how long it is valid, and
        ``uses`` how many people may use it; 0 means no limit. With ``guests``,
        people without an account may come in, as guests.

        Raises UnknownGroup, NotAllowed, UnknownAccount, ServiceRefused (no
        guests) and TooManyInvitations.
        """
        if guests:
            self._people.guests.require_guests(app)
        if group:
            self._groups.check_inviting(app, group, inviter)
        else:
            self._people.accounts.known(app, inviter)
        invitation = _new_invitation(inviter, group, seconds, uses, guests)
        if not self._rows.add(app, invitation, self._most, id_of(inviter)):
            raise TooManyInvitations(f"accounts.invitations {self._most}")
        return invitation

    def send(
        self, app: str, group: int, inviter: str, users: Sequence[str]
    ) -> list[str]:
        """Send each user an invitation to a group, as a message of ``inviter``.

        Returns the users to whom an invitation was sent. A user gets no
        invitation above the limit ``accounts.invitations``, or if the message
        is refused. Raises UnknownGroup and NotAllowed.
        """
        name = self._groups.check_inviting(app, group, inviter).name
        invited: list[str] = []
        for user in users:
            try:
                new = self.create(app, inviter, group, SECONDS, uses=1)
            except TooManyInvitations:
                break
            draft = _message_to(user, new, name)
            result = self._messaging.store(app, draft, by_user=True)
            if isinstance(result, Appended):
                invited.append(user)
            else:  # the message was refused
                self._rows.remove(app, new.code)
        return invited

    def page(
        self, app: str, inviter: str, group: int, after: str, limit: int
    ) -> list[InvitationShown]:
        """A page of the invitations that ``inviter`` may see, after the code
        ``after``.

        These are their own invitations, or, if they may manage the group, all
        invitations to it. ``group`` 0 means all groups, and invitations to
        friends. Raises UnknownGroup.
        """
        maker: str | None = inviter
        # A back end has the role "".
        if group and self._groups.role(app, group, inviter) in (OWNER, ADMIN, ""):
            maker = None
        return self._rows.page(
            app, maker, group or None, now=int(time()), after=after, limit=limit
        )

    def revoke(self, app: str, inviter: str, code: str) -> None:
        """End an invitation.

        Allowed for its maker, for the owner and admins of its group, and for
        the user to whom it was sent (to decline it). Raises UnknownInvitation.
        """
        row = self._rows.get(app, code)
        if row is None:
            raise UnknownInvitation(code)
        # The message has the receiver, who may decline the invitation.
        message = self._message_with(app, row)
        is_maker = inviter in ("", row.user)
        is_receiver = (
            not is_maker and message is not None and inviter in message.members
        )
        may_revoke = is_maker or is_receiver
        if not (may_revoke or self._leads_group(app, id_of(row.group), inviter)):
            raise UnknownInvitation(code)
        self._rows.remove(app, code)
        if is_receiver:
            self._show_end(app, row, message, "declined")
        else:
            self._show_end(app, row, message, "revoked")

    def _leads_group(self, app: str, group: int, user: str) -> bool:
        """Whether a user is the owner or an admin of a group. ``group`` 0 means
        no group."""
        if not group:
            return False
        try:
            return self._groups.role(app, group, user) in (OWNER, ADMIN)
        except UnknownGroup:
            return False

    def links(self, app: str, after: str, limit: int) -> list[InvitationShown]:
        """A page of the invitations of an app that have not ended, after the
        code ``after``."""
        now = int(time())
        return self._rows.page(
            app, user=None, group=None, now=now, after=after, limit=limit
        )

    def names(
        self, app: str, rows: Sequence[InvitationShown]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The names in invitations: user → name of the maker, and group → its
        name.

        An invitation to be a friend has no group. A back end is no maker.
        """
        ids = list({id_of(row.group) for row in rows} - {0})
        groups: list[Conversation] = []
        if ids:
            groups = self._store.part(MessageLog).conversations.find(app, ids)
        users = {row.user for row in rows} - {""}
        makers = self._store.names_of(app, list(users))
        return makers, {str(group.id): group.name for group in groups}

    def end(self, app: str, code: str) -> dict[str, Any]:
        """End an invitation of any maker, for operators.

        Returns its group and maker, for the audit log. Raises
        UnknownInvitation.
        """
        row = self._rows.get(app, code)
        if row is None:
            raise UnknownInvitation(code)
        self.revoke(app, inviter="", code=code)
        facts: dict[str, Any] = {"group": row.group}
        if row.user:
            facts["users"] = [row.user]
        return facts

    def preview(self, app: str, code: str, address: str) -> InvitationPreview:
        """The target of an invitation, for somebody who has opened its link.

        Raises UnknownInvitation, UsedInvitation and TooManyRequests.
        """
        self._people.cards.addresses.require(by_address(app, address))
        # The person who was invited by mail may open the link again. They learn
        # that they have used it.
        mail = self._rows.mail(app, code)
        if mail is not None and mail.state == "joined":
            raise UsedInvitation(code)
        row = self._valid(app, code)

        preview = _empty_preview(row)
        self._show_maker(app, row, preview)
        if row.group:
            self._show_group(app, row, preview)
        return preview

    def _show_maker(
        self, app: str, invitation: InvitationShown, preview: InvitationPreview
    ) -> None:
        """Show the name and the picture of the maker, if the account exists."""
        maker = self._people.accounts.get(app, invitation.user)
        if maker is not None:
            preview.nickname = maker.nickname
            preview.avatar = maker.avatar

    def _show_group(
        self, app: str, row: InvitationShown, preview: InvitationPreview
    ) -> None:
        """Add the group of an invitation to its preview. Raises
        UnknownInvitation."""
        # An invitation ends when its maker may no longer invite.
        try:
            group = self._groups.check_inviting(app, id_of(row.group), row.user)
        except (UnknownGroup, NotAllowed):
            raise UnknownInvitation(row.code) from None
        preview.name = group.name
        preview.group_avatar = group.avatar
        preview.description = group.description
        preview.members = self._groups.count(app, group.id)

    def accept(
        self, app: str, user: str, code: str, by_user: bool = True
    ) -> InvitationAccepted:
        """Join the group, or become a friend of the maker.

        Members and friends do not use up an invitation. ``by_user`` means that
        the user makes the request, not a back end. Raises UnknownInvitation,
        UnknownAccount, Blocked, TooManyRequests, TooManyMembers, and
        ServiceRefused for too many friends.
        """
        self._people.accounts.known(app, user)
        invitation = self._valid(app, code)
        message = self._message_with(app, invitation)
        self._require_receiver(app, user, invitation, message)
        if by_user:
            self._require_may_accept(app, user, invitation)

        try:
            if not invitation.group:
                status = self._befriend(app, user, invitation)
                return InvitationAccepted(status, group="", user=invitation.user)
            is_new = self._join_group(app, user, invitation, message, by_user)
        except (UnknownGroup, NotAllowed, UnknownFriend):
            raise UnknownInvitation(code) from None

        self._show_end(app, invitation, message, "accepted")
        return _accepted_by_member(invitation, is_new)

    def _require_may_accept(
        self, app: str, user: str, invitation: InvitationShown
    ) -> None:
        """Raise Blocked if a user may not make friends at all."""
        is_to_friend = not invitation.group
        if is_to_friend and not self._relations.may_gather(app, user):
            raise Blocked(invitation.user)

    def _require_receiver(
        self, app: str, user: str, invitation: InvitationShown, message: Entry | None
    ) -> None:
        """Raise UnknownInvitation if an invitation is not for this user.

        It was sent to another user by ``message``, or its maker has blocked the
        user.
        """
        if message is not None:
            is_receiver = user in message.members and user != invitation.user
            if not is_receiver:
                raise UnknownInvitation(invitation.code)
        if self._relations.blocked_by(app, user, (invitation.user,)):
            raise UnknownInvitation(invitation.code)

    def _join_group(
        self,
        app: str,
        user: str,
        invitation: InvitationShown,
        message: Entry | None,
        by_user: bool,
    ) -> bool:
        """Make a user a member of the group of an invitation.

        Returns False if the user is a member already. ``message`` has brought
        the invitation; None if it was a link. Raises UnknownGroup, NotAllowed
        and TooManyMembers.
        """
        sent_at = 0
        if message is not None:
            sent_at = invitation.created
        return self._groups.accept(
            app,
            id_of(invitation.group),
            user,
            invited_by=invitation.user,
            condition=_use_of(app, invitation),
            by_user=by_user,
            sent=sent_at,
        )

    def join(
        self, app: str, code: str, nickname: str, device: str, address: str
    ) -> tuple[FullSession, InvitationAccepted]:
        """Let somebody without an account in, as a guest with this name.

        The guest joins a group, or becomes a friend of the maker. Raises
        UnknownInvitation (also if it is not for guests), ServiceRefused (no
        guests, too many friends), BadField, TooManyRequests and TooManyMembers.
        """
        self._people.cards.addresses.require(by_address(app, address))
        invitation = self._valid(app, code)
        if not invitation.guests:
            raise UnknownInvitation(code)
        session = self._people.guests.add(app, nickname, device, address)
        user = session.account.user
        try:
            return session, self.accept(app, user, code, by_user=False)
        except Exception:
            # The guest has come in nowhere, so the account is deleted again.
            self._people.accounts.remove(app, user)
            raise

    def _befriend(
        self, app: str, user: str, invitation: InvitationShown
    ) -> Literal["friends", "already"]:
        """Make a user a friend of the maker of an invitation.

        Raises Blocked, UnknownFriend, and ServiceRefused for too many friends.
        """
        use_invitation = _use_of(app, invitation)
        try:
            result = self._people.friends.change(
                app, user, invitation.user, changes.add, use_invitation
            )
        except Oneself:
            return "already"
        if result is FriendResult.AWAY:
            raise Blocked(invitation.user)
        if result is FriendResult.FRIENDS:
            return "friends"
        return "already"

    def _valid(self, app: str, code: str) -> InvitationShown:
        """An invitation that has not ended. Raises UnknownInvitation."""
        row = self._rows.get(app, code)
        if row is None:
            raise UnknownInvitation(code)
        has_expired = 0 < row.expires_at <= time()
        is_used_up = 0 < row.max_uses <= row.uses
        if has_expired or is_used_up:
            raise UnknownInvitation(code)
        return row

    def _message_with(self, app: str, invitation: InvitationShown) -> Entry | None:
        """The message with which an invitation was sent to one user.

        Returns None if the invitation was not sent by a message.
        """
        if invitation.max_uses != 1:  # such a link may be used by several people
            return None
        entries = self._store.part(MessageLog).entries
        message = entries.sent(app, invitation.user, invitation.code)
        if message is None or message.type != MESSAGE_TYPE:
            return None
        return message

    def _show_end(
        self,
        app: str,
        invitation: InvitationShown,
        message: Entry | None,
        status: Literal["accepted", "declined", "revoked"],
    ) -> None:
        """Show both users how an invitation has ended.

        The message with the invitation is edited. ``message`` None means that
        there is no message to edit.
        """
        if message is None:
            return
        group = id_of(invitation.group)
        try:
            name = self._groups.show(app, group, "").name
        except UnknownGroup:
            name = ""
        # The new content has no code, which is invalid now.
        content = InvitationContent(str(group), name, status=status)
        draft = Draft(
            sender="",
            kind="edit",
            type=MESSAGE_TYPE,
            body=msgspec.json.encode(content),
            time_ms=int(time() * 1000),
            about=message.id,
            conversation=message.conversation,
        )
        self._messaging.store(app, draft, by_user=False)


def _accepted_by_member(
    invitation: InvitationShown, is_new: bool
) -> InvitationAccepted:
    """The result for a user who is a member now, or was a member before."""
    if is_new:
        return InvitationAccepted("joined", invitation.group, invitation.user)
    return InvitationAccepted("already", invitation.group, invitation.user)


def _new_invitation(
    inviter: str, group: int, seconds: int, uses: int, guests: bool
) -> InvitationShown:
    """An invitation that is valid from now on; see :meth:`Invitations.create`."""
    now = int(time())
    expires_at = 0
    if seconds:
        expires_at = now + seconds
    return InvitationShown(
        code=token_urlsafe(CODE_BYTES),
        group=str(group or ""),
        user=inviter,
        created=now,
        expires_at=expires_at,
        uses=0,
        max_uses=uses,
        guests=guests,
    )


def _empty_preview(invitation: InvitationShown) -> InvitationPreview:
    """The preview of an invitation, still without names and pictures."""
    return view(
        InvitationPreview,
        invitation,
        name="",
        members=0,
        nickname="",
        avatar="",
        group_avatar="",
        description="",
    )


def _use_of(app: str, invitation: InvitationShown) -> Condition:
    """The condition that an invitation can still be used, which uses it.

    It runs in the transaction that lets the user in, so the invitation is used
    if and only if the user comes in.
    """
    return partial(use, app=app, code=invitation.code, now=int(time()))


def _message_to(user: str, invitation: InvitationShown, group_name: str) -> Draft:
    """The message with an invitation to a group, for one user."""
    content = InvitationContent(
        group=invitation.group,
        name=group_name,
        code=invitation.code,
        expires_at=invitation.expires_at,
    )
    return Draft(
        sender=invitation.user,
        type=MESSAGE_TYPE,
        body=msgspec.json.encode(content),
        client_msg_id=invitation.code,
        time_ms=int(time() * 1000),
        to_user=user,
    )
