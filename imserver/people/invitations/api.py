"""Invitation links: create, list, revoke, preview, accept."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct

from imserver.messenger.groups.groups import TooManyMembers, UnknownGroup
from imserver.people.accounts.api import DeviceName, Nickname, SessionAnswer, session_answer
from imserver.people.accounts.declared import HTTP_TOO_MANY_FRIENDS
from imserver.people.invitations.invitations import (
    SECONDS,
    InvitationAccepted,
    InvitationPreview,
    Invitations,
    TooManyInvitations,
    UnknownInvitation,
)
from imserver.people.invitations.rows import Code, ForGuests, InvitationShown, OfGroup
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    AccountApp,
    Acting,
    ActingPage,
    ApiProblem,
    Call,
    NextCursor,
    PageCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
)
from imserver.plugin.identity import GOCHAT, Needs
from imserver.plugin.wire import id_of


class InvitationChange(Acting, kw_only=True):
    """An invitation."""

    code: Code


class InvitationsAnswer(Struct):
    """A page of invitations that have not ended."""

    invitations: list[InvitationShown]
    next: NextCursor


class AllInvitations(Struct):
    """A page of invitations of an app that have not ended."""

    invitations: list[InvitationShown]
    next: NextCursor
    names: Annotated[dict[str, str], about("User → name, of those who made them.")]
    groups: Annotated[dict[str, str], about("Group → name, of those to which they are.")]


class InvitationJoined(Struct):
    """The login of the guest, and the group that they are a member of now."""

    session: SessionAnswer
    group: OfGroup


class InvitationRevoked(Struct):
    """The invitation has ended."""

    code: Code


_UNKNOWN: Final = (UnknownInvitation.problem,)

routes = Resource(
    "invitations",
    service=lambda core, _: core.service(Invitations),
    chapter="Links with which users join groups and find friends.",
    hot=False,
    need=Needs.ADMIN_OR_ACCOUNT,
)


staff_routes = Resource(
    "invitations",
    service=lambda core, _: core.service(Invitations),
    chapter="Links with which users join groups and find friends.",
    hot=False,
    need=Needs.OPERATE,
)


@routes.post(
    "/invitations/create",
    schema=(
        "InvitationCreate",
        "A new invitation: to a group or to be a friend, its lifetime and number of uses.",
    ),
    base=Acting,
    status=201,
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        UnknownGroup.problem,
        Problems.ROLE_TOO_LOW,
        TooManyInvitations.problem,
    ),
    user="optional",
)
def create(
    invitations: Invitations,
    call: Call,
    group: OfGroup = "",
    seconds: Annotated[
        int, about("How long it is valid, at most 366 days; 0: without end.", ge=0, le=366 * 86400)
    ] = SECONDS,
    uses: Annotated[int, about("How often it may be accepted; 0: any number.", ge=0, le=1_000_000)] = 0,
    guests: ForGuests = False,
) -> InvitationShown:
    """Create an invitation to a group, or to be a friend.

    Whoever knows its code may accept it. To a group it is valid while its maker may invite members. With
    `guests`, which an app has to allow (`accounts.guests`), nobody needs an account to accept it.
    """
    number = id_of(group)
    if not (number or call.user):
        raise ApiProblem.invalid("`user` or `group`: name one")
    return invitations.create(call.app, call.user, number, seconds, uses, guests)


@routes.get("/invitations", base=ActingPage, problems=(UnknownGroup.problem,), user="optional")
def invitations(
    invitations: Invitations, call: Call, cursor: str, limit: int, group: OfGroup = ""
) -> InvitationsAnswer:
    """List the invitations of a user, or to a group, page by page.

    The owner and admins of a group see all invitations to it, other members see their own.
    """
    if not (group or call.user):
        raise ApiProblem.invalid("`user` or `group`: name one")
    rows = invitations.page(call.app, call.user, id_of(group), read_cursor(cursor) or "", limit + 1)
    page, following = page_and_cursor(rows, limit, lambda invitation: invitation.code)
    return InvitationsAnswer(list(page), following)


@routes.post("/invitations/revoke", Needs.ADMIN_OR_PERSON, problems=_UNKNOWN, user="optional")
def revoke(invitations: Invitations, call: Call, request: InvitationChange) -> InvitationRevoked:
    """Revoke an invitation.

    For its maker, for whoever was sent it and declines, and for the owner and admins of its group.
    """
    invitations.revoke(call.app, call.user, request.code)
    return InvitationRevoked(request.code)


@routes.get("/invitations/show", Needs.ANYONE, problems=(*_UNKNOWN, Problems.TOO_MANY_REQUESTS))
def show(invitations: Invitations, call: Call, *, app: AccountApp = GOCHAT, code: Code) -> InvitationPreview:
    """Show what an invitation is to, before the login.

    Requests count by address.
    """
    return invitations.preview(call.app, code, call.request.host)


@routes.post(
    "/invitations/join",
    Needs.ANYONE,
    schema=("InvitationJoin", "A guest who comes in."),
    status=201,
    problems=(*_UNKNOWN, Problems.NOT_ALLOWED, TooManyMembers.problem, Problems.TOO_MANY_REQUESTS),
)
def join(
    invitations: Invitations,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    code: Code,
    nickname: Annotated[Nickname, about("The name of the guest.", min_length=1)],
    device: DeviceName = "",
) -> InvitationJoined:
    """Come into a group as a guest.

    For people without an account, by an invitation with `guests`. The guest gets an account without a
    password, which is deleted when it was unused for `accounts.guest_days`. `accounts/promote` makes a member
    of a guest.
    """
    session, accepted = invitations.join(call.app, code, nickname, device, call.request.host)
    return InvitationJoined(session_answer(session), accepted.group)


@routes.post(
    "/invitations/accept",
    Needs.ADMIN_OR_PERSON,
    problems=(
        *_UNKNOWN,
        Problems.UNKNOWN_ACCOUNT,
        TooManyMembers.problem,
        HTTP_TOO_MANY_FRIENDS,
        Problems.TOO_MANY_REQUESTS,
    ),
)
def accept(invitations: Invitations, call: Call, request: InvitationChange) -> InvitationAccepted:
    """Accept an invitation.

    The user joins the group, or becomes a friend of its maker without a request. A user whom the maker has
    blocked, or who uses an invitation that was sent to somebody else, gets the answer `unknown_invitation`.
    """
    return invitations.accept(call.app, call.user, request.code, by_user=not call.is_back_end)


@staff_routes.get("/invitations/list")
def links(
    invitations: Invitations,
    call: Call,
    app: AccountApp = GOCHAT,
    cursor: PageCursor = "",
    limit: Annotated[int, about("The maximum number of entries on this page.", ge=1, le=1000)] = 100,
) -> AllInvitations:
    """List all invitations of an app that have not ended, page by page.

    For those who answer for the app: whoever has the code of one may come in.
    """
    rows = invitations.links(call.app, read_cursor(cursor) or "", limit + 1)
    page, following = page_and_cursor(rows, limit, lambda invitation: invitation.code)
    return AllInvitations(list(page), following, *invitations.names(call.app, page))


@staff_routes.post(
    "/invitations/end", schema=("InvitationEnd", "The invitation that ends."), problems=_UNKNOWN
)
def end(invitations: Invitations, call: Call, *, app: AccountApp = GOCHAT, code: Code) -> InvitationRevoked:
    """End an invitation of anybody."""
    call.facts = invitations.end(call.app, code)
    return InvitationRevoked(code)
