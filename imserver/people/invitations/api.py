"""Invitation links: create, list, revoke, preview, accept."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.messenger.groups.groups import TooManyMembers, UnknownGroup
from imserver.people.accounts.api import (
    DeviceName,
    Nickname,
    SessionAnswer,
    session_answer,
)
from imserver.people.accounts.declared import HTTP_TOO_MANY_FRIENDS
from imserver.people.invitations.invitations import (
    SECONDS,
    InvitationAccepted,
    InvitationPreview,
    Invitations,
    TooManyInvitations,
    UnknownInvitation,
    UsedInvitation,
)
from imserver.people.invitations.mails import InvitationMails, Refusal, RefusedAddress
from imserver.people.invitations.rows import (
    Code,
    ForGuests,
    InvitationMail,
    InvitationShown,
    MailCounts,
    OfGroup,
)
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


class AllInvitations(InvitationsAnswer):
    """A page of invitations of an app that have not ended."""

    names: Annotated[
        dict[str, str], about("User → name, for the users who made the invitations.")
    ]
    groups: Annotated[
        dict[str, str], about("Group → name, for the groups of the invitations.")
    ]


class InvitationJoined(Struct):
    """The login of the guest, and the group that they have joined, if the
    invitation is to a group."""

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
        "A new invitation to a group or to be a friend, with its lifetime and number "
        "of uses.",
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
        int,
        about(
            "The lifetime of the invitation in seconds, at most 366 days; 0: no end.",
            ge=0,
            le=366 * 86400,
        ),
    ] = SECONDS,
    uses: Annotated[
        int,
        about(
            "How often the invitation may be accepted; 0: no limit.", ge=0, le=1_000_000
        ),
    ] = 0,
    guests: ForGuests = False,
) -> InvitationShown:
    """Create an invitation to a group, or to be a friend.

    Anybody who knows the code may accept the invitation. An invitation to a
    group is valid while its maker may invite members. With `guests`, people can
    accept it without an account. An app has to allow this (`accounts.guests`).
    """
    number = id_of(group)
    if not (number or call.user):
        raise ApiProblem.invalid("`user` or `group`: name one")
    return invitations.create(
        call.app, call.user, number, seconds=seconds, uses=uses, guests=guests
    )


@routes.get(
    "/invitations", base=ActingPage, problems=(UnknownGroup.problem,), user="optional"
)
def invitations(
    invitations: Invitations, call: Call, cursor: str, limit: int, group: OfGroup = ""
) -> InvitationsAnswer:
    """List the invitations of a user, or to a group, page by page.

    The owner and admins of a group see all invitations to it, other members see
    their own.
    """
    if not (group or call.user):
        raise ApiProblem.invalid("`user` or `group`: name one")
    after = read_cursor(cursor) or ""
    # One more row tells whether there is a next page.
    rows = invitations.page(call.app, call.user, id_of(group), after, limit + 1)
    page, following = page_and_cursor(rows, limit, lambda invitation: invitation.code)
    return InvitationsAnswer(list(page), following)


@routes.post(
    "/invitations/revoke", Needs.ADMIN_OR_PERSON, problems=_UNKNOWN, user="optional"
)
def revoke(
    invitations: Invitations, call: Call, request: InvitationChange
) -> InvitationRevoked:
    """Revoke an invitation.

    For its maker, for the receiver who declines it, and for the owner and
    admins of its group.
    """
    invitations.revoke(call.app, call.user, request.code)
    return InvitationRevoked(request.code)


@routes.get(
    "/invitations/show",
    Needs.ANYONE,
    problems=(*_UNKNOWN, UsedInvitation.problem),
)
def show(
    invitations: Invitations, call: Call, *, app: AccountApp = GOCHAT, code: Code
) -> InvitationPreview:
    """Show the target of an invitation, before the login.

    Requests count by address.
    """
    return invitations.preview(call.app, code, call.request.host)


@routes.post(
    "/invitations/join",
    Needs.ANYONE,
    schema=("InvitationJoin", "The guest who joins."),
    status=201,
    problems=(
        *_UNKNOWN,
        Problems.NOT_ALLOWED,
        TooManyMembers.problem,
        HTTP_TOO_MANY_FRIENDS,
    ),
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
    """Join as a guest.

    For people without an account, by an invitation with `guests`. The guest
    joins its group, or becomes a friend of its maker and may write to them. The
    guest gets an account without a password. The server deletes the account if
    nobody uses it for `accounts.guest_days`. `accounts/promote` turns the guest
    into a member.
    """
    session, accepted = invitations.join(
        call.app, code, nickname, device=device, address=call.request.host
    )
    return InvitationJoined(session_answer(session), accepted.group)


@routes.post(
    "/invitations/accept",
    Needs.ADMIN_OR_PERSON,
    problems=(
        *_UNKNOWN,
        Problems.UNKNOWN_ACCOUNT,
        TooManyMembers.problem,
        HTTP_TOO_MANY_FRIENDS,
    ),
)
def accept(
    invitations: Invitations, call: Call, request: InvitationChange
) -> InvitationAccepted:
    """Accept an invitation.

    The user joins the group, or becomes a friend of its maker without a
    request. If the maker has blocked the user, or the invitation was sent to
    somebody else, the answer is `unknown_invitation`.
    """
    return invitations.accept(
        call.app, call.user, request.code, by_user=not call.is_back_end
    )


@staff_routes.get("/invitations/list")
def links(
    invitations: Invitations,
    call: Call,
    app: AccountApp = GOCHAT,
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=1000)
    ] = 100,
) -> AllInvitations:
    """List all invitations of an app that have not ended, page by page.

    Only for people responsible for the app, because anybody with the code of an
    invitation can join.
    """
    rows = invitations.links(call.app, read_cursor(cursor) or "", limit + 1)
    page, following = page_and_cursor(rows, limit, lambda invitation: invitation.code)
    makers, groups = invitations.names(call.app, page)
    return AllInvitations(list(page), following, makers, groups)


@staff_routes.post(
    "/invitations/end",
    schema=("InvitationEnd", "The invitation to end."),
    problems=_UNKNOWN,
)
def end(
    invitations: Invitations, call: Call, *, app: AccountApp = GOCHAT, code: Code
) -> InvitationRevoked:
    """End the invitation of any user."""
    call.facts = invitations.end(call.app, code)
    return InvitationRevoked(code)


# --- by e-mail ----------------------------------------------------------------

Emails = Annotated[
    list[Annotated[str, Meta(max_length=254)]],
    about("The e-mail addresses to invite.", min_length=1, max_length=500),
]
MailGroup = Annotated[str, about("The id of the group.", pattern="^[1-9][0-9]{0,18}$")]


class InvitationsMailed(Struct):
    """The result for the addresses. The server sends the mails in the
    background."""

    count: Annotated[int, about("The number of invited addresses.")]
    refused: list[RefusedAddress]


class MailedInvitations(Struct, kw_only=True):
    """A page of the e-mail invitations to a group, and their number in each
    state."""

    refusal: Annotated[
        Refusal,
        about(
            "Why the user cannot invite by e-mail. `no_mail`: this server sends no "
            "invitations. `role`: the user is neither owner nor moderator of the app. "
            "Empty: the user can invite."
        ),
    ]
    counts: Annotated[MailCounts, about("The number of invitations in each state.")]
    mails: list[InvitationMail]
    next: NextCursor


mail_routes = Resource(
    "invitations",
    service=lambda core, _: core.service(InvitationMails),
    chapter="Links with which users join groups and find friends.",
    hot=False,
    need=Needs.ADMIN_OR_ACCOUNT,
)


@mail_routes.post(
    "/invitations/mail",
    schema=("InvitationMails", "The people to invite to a group by e-mail."),
    base=Acting,
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        UnknownGroup.problem,
        Problems.ROLE_TOO_LOW,
        Problems.NOT_IMPLEMENTED,
    ),
    user="optional",
)
def mail(
    mails: InvitationMails,
    call: Call,
    *,
    group: MailGroup,
    emails: Emails,
    guests: ForGuests = False,
    language: Annotated[
        str, about("The language of the mail, such as `de`.", pattern="^[a-z]{2}$")
    ] = "en",
) -> InvitationsMailed:
    """Invite people to a group by e-mail.

    Each address gets its own link, which works once, within a week. For owners
    and moderators of the app, because the mail names the user and the group. A
    server without the section `smtp` answers `not_implemented`.
    """
    # An account may lack a second factor, for example, if the app demands one
    # for the role of the account.
    if call.principal.lacks:
        raise ApiProblem(
            Problems.NOT_ALLOWED, f"Your account lacks {call.principal.lacks}"
        )
    count, refused = mails.create(
        call.app,
        call.user,
        id_of(group),
        emails,
        guests=guests,
        language=language,
    )
    return InvitationsMailed(count, refused)


@mail_routes.get(
    "/invitations/mails",
    base=ActingPage,
    problems=(Problems.UNKNOWN_ACCOUNT, UnknownGroup.problem),
    user="optional",
)
def mailed(
    mails: InvitationMails, call: Call, *, group: MailGroup, cursor: str, limit: int
) -> MailedInvitations:
    """List the invitations of a user to a group by e-mail, page by page.

    The list also has mails that the mail server has refused, with the reason.
    An address is deleted after 30 days.
    """
    group_id = id_of(group)
    after = read_cursor(cursor) or ""
    # One more row tells whether there is a next page.
    rows = mails.page(call.app, call.user, group_id, after, limit + 1)
    page, next_cursor = page_and_cursor(rows, limit, lambda row: row.code)
    counts = mails.counts(call.app, call.user, group_id)
    refusal = mails.refusal(call.app, call.user)
    return MailedInvitations(
        refusal=refusal, counts=counts, mails=list(page), next=next_cursor
    )
