"""Routes on accounts for moderators, owners and operators: list, roles,
locks."""

from time import time
from typing import Annotated, Any, Final

from msgspec import UNSET, Struct, UnsetType

from imserver.people.accounts.api import (
    CHAPTER,
    AccountDone,
    Avatar,
    EmailConfirmed,
    Nickname,
    Role,
    SecondFactor,
    UserId,
    UserName,
)
from imserver.people.accounts.contract import (
    Account,
    RoleName,
    Taken,
    name_of,
    role_named,
)
from imserver.people.accounts.declared import HTTP_NO_GUEST
from imserver.people.accounts.guests import Guests
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.people import (
    REASON_CHARACTERS,
    Kind,
    People,
    PeopleFilter,
    end_of,
)
from imserver.plugin.errors import Problems
from imserver.plugin.http import AccountApp, ApiProblem, Call, Resource, about, view
from imserver.plugin.identity import GOCHAT, Needs, Principal
from imserver.plugin.wire import id_of

MOST_SECONDS: Final = 10 * 366 * 86400
"""The longest lock with an end, in seconds."""

User = Annotated[str, about("The id of the account.", min_length=1, max_length=255)]
LockReason = Annotated[
    str,
    about(
        "Why the account is or was locked. Its owner sees the reason at a login.",
        max_length=REASON_CHARACTERS,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
    ),
]


class PeopleQuery(Struct, forbid_unknown_fields=True):
    """Which accounts of an app."""

    app: AccountApp = GOCHAT
    text: Annotated[
        str,
        about(
            "An id, or a part of the nickname or the user name. Operators of the app "
            "also find accounts by a part of the e-mail address or the phone number.",
            max_length=254,
        ),
    ] = ""
    login: Annotated[
        str,
        about(
            "Only the account with this id, phone number, e-mail address or user name. "
            "Only operators of the app may use this field.",
            max_length=255,
        ),
    ] = ""
    role: Annotated[RoleName | UnsetType, about("Only accounts with this role.")] = (
        UNSET
    )
    kind: Annotated[Kind | UnsetType, about("Only accounts of this kind.")] = UNSET
    locked: Annotated[
        bool | UnsetType,
        about(
            "`true`: only locked accounts. `false`: only accounts that are not locked."
        ),
    ] = UNSET
    after: Annotated[
        str,
        about(
            "Where to continue: `next` of the previous page.",
            pattern="^([1-9][0-9]{0,18})?$",
        ),
    ] = ""
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=1000)
    ] = 100


class PersonShown(Struct, kw_only=True):
    """An account in the view of operators and moderators."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    name: Annotated[str, about("The user name; empty: none.")]
    phone: Annotated[
        str | UnsetType,
        about("The phone number. Only operators of the app see it."),
    ] = UNSET
    email: Annotated[
        str | UnsetType,
        about("The e-mail address. Only operators of the app see it."),
    ] = UNSET
    email_confirmed: EmailConfirmed | UnsetType = UNSET
    kind: Annotated[
        Kind, about("Whether the account belongs to a person, a guest or a bot.")
    ]
    role: Role
    second_factor: SecondFactor
    created: Annotated[int, about("The time of creation, in Unix seconds.")]
    last_seen: Annotated[
        int, about("When its last connection ended, in Unix seconds; 0: unknown.")
    ]
    locked: Annotated[bool, about("Whether the account is locked.")]
    locked_until: Annotated[
        int,
        about(
            "When the lock ends or has ended, in Unix seconds; 0: no lock, or a lock "
            "that does not end by itself."
        ),
    ]
    lock_reason: LockReason


class PeoplePage(Struct):
    """A page of the accounts, the newest first."""

    accounts: list[PersonShown]
    next: Annotated[
        str,
        about(
            "`after` of the next page; empty on the last page. A page may have fewer "
            "accounts than `limit`."
        ),
    ]


class LockAnswer(Struct):
    """The account was locked or unlocked."""

    account: PersonShown
    missing_nodes: Annotated[
        list[str],
        about(
            "Nodes that did not answer in time. They apply the change within "
            "`storage.look_seconds`."
        ),
    ]


routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).people,
    hot=False,
    chapter=CHAPTER,
)
guest_routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).guests,
    hot=False,
    chapter=CHAPTER,
    need=Needs.OPERATE,
)


def _shown(account: Account, principal: Principal) -> PersonShown:
    """An account in an answer to this principal."""
    # An account of a person has the kind "account" in the core.
    kind: Kind = "person"
    if account.kind != "account":
        kind = account.kind
    hidden: dict[str, Any] = {}
    if not principal.may(Needs.OPERATE):
        # Moderators see no contacts.
        hidden = dict.fromkeys(("phone", "email", "email_confirmed"), UNSET)
    return view(
        PersonShown,
        account,
        kind=kind,
        role=name_of(account.role),
        second_factor=account.factor,
        locked=account.is_locked(time()),
        locked_until=end_of(account),
        **hidden,
    )


@routes.get("/accounts/list", Needs.PEOPLE)
def page(people: People, call: Call, request: PeopleQuery) -> PeoplePage:
    """List or search the accounts of an app.

    The newest accounts come first. If a search takes long, the answer has the
    accounts found so far, and `next` continues the search. An account with the
    role `moderator` does not see or search e-mail addresses and phone numbers.
    """
    by = call.principal
    # A login is found in one step, without a search.
    if request.login:
        return _page_of_login(people, call, request.login)

    wanted = _filter_of(request, call.app, contacts=by.may(Needs.OPERATE))
    accounts, next_before = people.page(wanted, id_of(request.after), request.limit)
    next_page = ""
    if next_before:
        next_page = str(next_before)
    return PeoplePage([_shown(account, by) for account in accounts], next_page)


def _page_of_login(people: People, call: Call, login: str) -> PeoplePage:
    """The page with the account that has this login, or an empty page."""
    by = call.principal
    if not by.may(Needs.OPERATE):
        raise ApiProblem(Problems.FORBIDDEN, "`login`: your role searches by `text`")
    account = people.named(call.app, login)
    if account is None:
        return PeoplePage([], "")
    return PeoplePage([_shown(account, by)], "")


def _filter_of(request: PeopleQuery, app: str, contacts: bool) -> PeopleFilter:
    """The accounts that a request wants.

    With ``contacts``, the text is also searched in e-mail addresses and phone
    numbers.
    """
    conditions: dict[str, Any] = {"kind": request.kind, "locked": request.locked}
    if request.role is not UNSET:
        conditions["role"] = role_named(request.role)
    given = {name: value for name, value in conditions.items() if value is not UNSET}
    return PeopleFilter(app, request.text, contacts=contacts, **given)


@routes.post(
    "/accounts/role",
    Needs.OWN,
    schema=("RoleSet", "The account, and its new role."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def set_role(
    people: People, call: Call, *, app: AccountApp = GOCHAT, user: User, role: Role
) -> PersonShown:
    """Give an account a role.

    An owner may make moderators and owners. Only an API key or `imserver
    account role` changes the role of an owner. All nodes apply the change at
    once.
    """
    account = people.set_role(call.principal, call.app, user, role_named(role))
    return _shown(account, call.principal)


@routes.post(
    "/accounts/lock",
    Needs.OPERATE,
    schema=("AccountLock", "The account to lock, the duration, and the reason."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def lock(
    people: People,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    user: User,
    seconds: Annotated[
        int,
        about(
            "The duration of the lock in seconds; 0: until somebody unlocks the "
            "account.",
            ge=0,
            le=MOST_SECONDS,
        ),
    ] = 0,
    reason: LockReason = "",
) -> LockAnswer:
    """Lock an account.

    Until the lock ends, the server refuses logins of the account and its bots,
    and its tokens do not work. All nodes close its sessions with 4503. At a
    login with the right password, the user is told the end and the reason.
    Owners may lock moderators and members. A later lock replaces an earlier
    lock.
    """
    account, missing = people.lock(
        call.principal, call.app, user, seconds=seconds, reason=reason
    )
    return LockAnswer(_shown(account, call.principal), missing)


@routes.post(
    "/accounts/unlock",
    Needs.OPERATE,
    schema=("AccountUnlock", "The account to unlock."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def unlock(
    people: People, call: Call, *, app: AccountApp = GOCHAT, user: User
) -> LockAnswer:
    """Unlock an account.

    The password and the tokens of the account work again. A ban that ends later
    than the lock stays in force.
    """
    account, missing = people.unlock(call.principal, call.app, user)
    return LockAnswer(_shown(account, call.principal), missing)


@guest_routes.post(
    "/accounts/guests/admit",
    schema=(
        "GuestAdmission",
        "The guest to let in, and the user name for the logins of the new member.",
    ),
    problems=(Problems.UNKNOWN_ACCOUNT, HTTP_NO_GUEST, Taken.problem),
)
def admit(
    guests: Guests, call: Call, *, app: AccountApp = GOCHAT, user: User, name: UserName
) -> PersonShown:
    """Let a guest in as a member.

    From now on, the user can find people and make invitations. The user stays
    logged in. A message from the server has the user name, and explains how to
    choose a password for other devices (`accounts/password`).
    """
    member = guests.admit(call.app, user, name)
    return _shown(member, call.principal)


@guest_routes.post(
    "/accounts/guests/remove",
    schema=("GuestRemoval", "The guest to remove."),
    problems=(Problems.UNKNOWN_ACCOUNT, HTTP_NO_GUEST, Problems.MEDIA_UNAVAILABLE),
)
def remove(
    guests: Guests, call: Call, *, app: AccountApp = GOCHAT, user: User
) -> AccountDone:
    """Remove a guest.

    The sessions of the guest end, and the account is deleted. The messages of
    the guest stay.
    """
    guests.remove(call.app, user)
    call.gone = True
    return AccountDone(user)
