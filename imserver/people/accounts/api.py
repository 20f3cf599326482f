"""Accounts: register, log in, show, change, devices, log out, delete."""

from time import time
from typing import Annotated, Any, Final

from msgspec import UNSET, Struct, UnsetType

from imserver.people.accounts.accounts import (
    AccountLocked,
    Closed,
    PasswordsOff,
    WrongLogin,
    check_device,
)
from imserver.people.accounts.contract import (
    STATUS_CHARACTERS,
    TITLE_CHARACTERS,
    Account,
    Device,
    FullSession,
    RoleName,
    Taken,
    name_of,
)
from imserver.people.accounts.declared import HTTP_NO_GUEST, HTTP_UNKNOWN_DEVICE
from imserver.people.accounts.factors import CODE_CHARACTERS, FactorRequired, WrongCode
from imserver.people.accounts.guests import Guests
from imserver.people.accounts.identifiers import (
    EMAIL_BYTES,
    IDENTIFIERS,
    LOGIN_CHARACTERS,
    NAME_PATTERN,
    Identifier,
    split,
)
from imserver.people.accounts.parts import AccountParts, accounts_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    AccountApp,
    Acting,
    ApiProblem,
    Call,
    Resource,
    about,
    one_of,
    view,
)
from imserver.plugin.identity import GOCHAT, Needs

_SHOWN = r"^[^\x00-\x1f\x7f-\x9f]*$"

Phone = Annotated[
    str,
    about(
        "The phone number: any 1 to 20 characters.",
        min_length=1,
        max_length=20,
        pattern=_SHOWN,
    ),
]
Email = Annotated[
    str,
    about(
        "The e-mail address. The server mails messages to it only after its owner has "
        "confirmed it.",
        max_length=EMAIL_BYTES,
        pattern=r"^[^\s\x00-\x1f\x7f-\x9f@]{1,64}@[^\s\x00-\x1f\x7f-\x9f@]+$",
    ),
]
UserName = Annotated[
    str,
    about(
        "The user name: a letter and 2 to 31 letters, digits, `_`, `.` or `-`. The "
        "case does not matter.",
        pattern=f"^{NAME_PATTERN}$",
    ),
]
Login = Annotated[
    str,
    about(
        "A phone number, an e-mail address or a user name.",
        min_length=1,
        max_length=LOGIN_CHARACTERS,
        pattern=_SHOWN,
    ),
]
Password = Annotated[str, about("The password.", min_length=1, max_length=250)]
CurrentPassword = Annotated[
    str,
    about(
        "The current password. A back end, and an account without a password, may "
        "leave it out.",
        max_length=250,
    ),
]
NewPassword = Annotated[
    str, about("The password, at least 8 characters.", min_length=8, max_length=250)
]
Nickname = Annotated[
    str, about("The display name of the account.", max_length=64, pattern=_SHOWN)
]
Avatar = Annotated[
    str,
    about(
        "The address of the picture of the account.", max_length=1000, pattern=_SHOWN
    ),
]
UserId = Annotated[str, about("The id of the account, which is the id of the user.")]
EmailConfirmed = Annotated[
    bool,
    about(
        "Whether the e-mail address is confirmed, by the user with a mail or by a back "
        "end."
    ),
]
IsGuest = Annotated[
    bool,
    about(
        "Whether the account is that of a guest: a person who joined by an invitation, "
        "without a password."
    ),
]
Findable = Annotated[
    bool, about("Whether other users find the account by its identifiers.")
]
Status = Annotated[
    str,
    about(
        "A line that the user writes about themselves, such as `on holiday`; empty: "
        "none.",
        max_length=STATUS_CHARACTERS,
        pattern=_SHOWN,
    ),
]
Away = Annotated[bool, about("Whether the user has set themselves to away.")]
StatusUntil = Annotated[
    int,
    about(
        "When `status` and `away` end, in Unix seconds; 0: they do not end by "
        "themselves.",
        ge=0,
        le=9_999_999_999,
    ),
]
Title = Annotated[
    str,
    about(
        "The user's own description of their work, such as `Designer`; empty: none.",
        max_length=TITLE_CHARACTERS,
        pattern=_SHOWN,
    ),
]
ShowPresence = Annotated[
    bool,
    about(
        "Whether other users see when the user is online, and when they were last "
        "online."
    ),
]
Role = Annotated[RoleName, about("The role of the account in its app.")]
SecondFactor = Annotated[
    bool, about("Whether its logins need a code of a second factor.")
]
FactorCode = Annotated[
    str,
    about(
        "A code of the second factor: six digits of the authenticator app, or a "
        "recovery code.",
        max_length=CODE_CHARACTERS,
    ),
]
DeviceName = Annotated[
    str, about("The name of the device.", max_length=64, pattern=_SHOWN)
]
DeviceId = Annotated[
    str, about("A login of the account.", pattern="^[1-9][0-9]{0,15}$")
]


class Registration(Struct, forbid_unknown_fields=True, kw_only=True):
    """A new account, with at least one identifier."""

    login: Login | UnsetType = UNSET
    phone: Phone | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    name: UserName | UnsetType = UNSET
    email_confirmed: EmailConfirmed = False
    password: NewPassword
    app: AccountApp = GOCHAT
    nickname: Nickname = ""
    avatar: Avatar = ""
    device: DeviceName = ""


class AccountLogin(Struct, forbid_unknown_fields=True, kw_only=True):
    """An identifier of an account and its password. `phone` is another name of
    `login`."""

    login: Login | UnsetType = UNSET
    phone: Login | UnsetType = UNSET
    password: Password
    code: FactorCode = ""
    app: AccountApp = GOCHAT
    device: DeviceName = ""


class GuestPromotion(Acting, kw_only=True):
    """The login data that a guest gets: at least one identifier, and a
    password."""

    login: Login | UnsetType = UNSET
    phone: Phone | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    name: UserName | UnsetType = UNSET
    password: NewPassword
    device: DeviceName = ""


class AccountSet(Acting):
    """Changes to the profile. Fields that you leave out do not change."""

    nickname: Nickname | UnsetType = UNSET
    avatar: Avatar | UnsetType = UNSET
    findable: Findable | UnsetType = UNSET
    show_presence: ShowPresence | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    away: Away | UnsetType = UNSET
    status_until: StatusUntil | UnsetType = UNSET
    title: Title | UnsetType = UNSET


class IdentifiersSet(Acting):
    """Changes to the identifiers. An empty text removes an identifier. Fields
    that you leave out do not change."""

    phone: (
        Annotated[str, about("The phone number.", max_length=20, pattern=_SHOWN)]
        | UnsetType
    ) = UNSET
    email: (
        Annotated[str, about("The e-mail address.", max_length=EMAIL_BYTES)] | UnsetType
    ) = UNSET
    name: Annotated[str, about("The user name.", max_length=32)] | UnsetType = UNSET
    email_confirmed: EmailConfirmed = False
    password: CurrentPassword = ""


class AccountShown(Struct):
    """The profile of an account."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    phone: Annotated[str, about("The phone number. Other users see an empty text.")]
    email: Annotated[str, about("The e-mail address. Other users see an empty text.")]
    name: Annotated[str, about("The user name. Other users see an empty text.")]
    created: Annotated[int, about("The time of creation, in Unix seconds.")]
    guest: IsGuest
    findable: Findable | UnsetType = UNSET
    show_presence: ShowPresence | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    away: Away | UnsetType = UNSET
    status_until: StatusUntil | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    email_confirmed: EmailConfirmed | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    second_factor: SecondFactor | UnsetType = UNSET


class RulesAnswer(Struct):
    """The account rules of an app."""

    registration: Annotated[bool, about("Whether anybody may register.")]
    identifiers: Annotated[
        list[Identifier],
        about("The kinds of identifiers. An account has at least one of them."),
    ]
    find: Annotated[
        bool, about("Whether accounts can find each other by their identifiers.")
    ]
    search: Annotated[
        bool,
        about(
            "Whether accounts can find each other by parts of their nickname and user "
            "name."
        ),
    ]
    passwords: Annotated[bool, about("Whether accounts log in with a password.")]
    reset: Annotated[
        bool,
        about("Whether a user who has forgotten the password can reset it by e-mail."),
    ]
    guests: Annotated[
        bool, about("Whether people without an account can join by an invitation.")
    ]


class SessionAnswer(Struct):
    """A login, and its token."""

    token: Annotated[
        str,
        about(
            "The token. Send it as `Authorization: Bearer`, and in the login of a "
            "connection."
        ),
    ]
    expires_at: Annotated[int, about("When the token expires, in Unix seconds.")]
    account: AccountShown


class DeviceShown(Struct):
    """The id of a login of the account."""

    device: DeviceId
    name: DeviceName
    since: Annotated[int, about("When the device logged in, in Unix seconds.")]
    expires_at: Annotated[
        int, about("When the token of the device expires, in Unix seconds.")
    ]
    current: Annotated[
        bool, about("Whether this request uses the token of this login.")
    ]
    online: Annotated[bool, about("Whether a device with this name is connected.")]


class DevicesAnswer(Struct):
    """The active logins of an account, the newest first."""

    devices: list[DeviceShown]


class AccountDone(Struct):
    """Done."""

    user: UserId


_UNKNOWN: Final = (Problems.UNKNOWN_ACCOUNT,)
_IDENTIFIED: Final = {
    "anyOf": [{"required": [name]} for name in ("login", "phone", "email", "name")]
}
"""At least one identifier is given."""

CHAPTER: Final = (
    "Accounts of users who register with an identifier and a password. Use the "
    "account's own token, or an API key with the scope `admin`."
)
routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core),
    base=Acting,
    hot=False,
    chapter=CHAPTER,
)
guest_routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).guests,
    hot=False,
    chapter=CHAPTER,
)


@routes.post(
    "/accounts/register",
    Needs.ANYONE_OR_ADMIN,
    status=201,
    problems=(
        Problems.NOT_ALLOWED,
        PasswordsOff.problem,
        Closed.problem,
        Taken.problem,
    ),
    rules=_IDENTIFIED,
)
def register(api: AccountParts, call: Call, request: Registration) -> SessionAnswer:
    """Register an account and log in.

    Anybody may register while `accounts.registration` is on. A back end with an
    admin key may always register accounts. The app must use accounts
    (`account_tokens`). Its setting `accounts` has the accepted identifiers. The
    answer `login_taken` does not say which identifier belongs to another
    account.
    """
    accounts = api.accounts
    is_invited = call.principal.kind != "nobody"  # a back end makes the account
    check_device(request.device)
    account = accounts.register(
        call.app,
        _identifiers_to_register(request),
        request.password,
        nickname=request.nickname,
        avatar=request.avatar,
        invited=is_invited,
        email_confirmed=_confirmed(request.email_confirmed, is_back_end=is_invited),
        address=call.request.host,
    )
    return session_answer(accounts.token(account, request.device))


def _identifiers_to_register(request: Registration) -> dict[Identifier, str]:
    """The identifiers in a registration.

    They include the identifier in the field ``login``, which may be of any
    kind. Raises ApiProblem if another field has a different identifier of the
    same kind.
    """
    identifiers = _given_identifiers(request)
    if request.login is not UNSET:
        kind, text = split(request.login)
        if identifiers.setdefault(kind, text) != text:
            raise ApiProblem.invalid(f"`login` and `{kind}` differ: send one of them")
    return identifiers


@routes.post(
    "/accounts/login",
    Needs.ANYONE,
    problems=(
        WrongLogin.problem,
        FactorRequired.problem,
        WrongCode.problem,
        AccountLocked.problem,
        Problems.BANNED,
        Problems.NOT_ALLOWED,
        PasswordsOff.problem,
    ),
    rules=one_of("login", "phone"),
)
def login(api: AccountParts, call: Call, request: AccountLogin) -> SessionAnswer:
    """Log in with the password and get a token.

    `login` is any identifier of the account. The answer does not say whether
    the login or the password was wrong. With the right password, the answer
    `account_locked` has the end and the reason of a lock. `banned` has them for
    a ban, and `second_factor_required` asks for a `code`, too. After too many
    failures with any identifiers, further logins must wait. Others cannot lock
    out a device that sends an earlier token of the account as `Authorization:
    Bearer`, even an expired token. Only its own failures count for this device.
    """
    accounts = api.accounts
    check_device(request.device)
    if request.login is UNSET:
        text = request.phone
    else:
        text = request.login
    # ``phone`` is the older name of ``login``. Exactly one of them is sent.
    if text is UNSET or UNSET not in (request.phone, request.login):
        raise ApiProblem.invalid("expected either `login` or `phone`")
    account = accounts.login(
        call.app,
        text,
        request.password,
        address=call.request.host,
        earlier=call.credential,
        code=request.code,
    )
    return session_answer(accounts.token(account, request.device))


@routes.get(
    "/accounts/rules", Needs.ANYONE, base=None, problems=(Problems.NOT_ALLOWED,)
)
def rules(api: AccountParts, call: Call, app: AccountApp = GOCHAT) -> RulesAnswer:
    """Show the rules that an app has for its accounts.

    For the form with which users register.
    """
    of_app = api.accounts.rules_of(call.app)
    is_open = api.accounts.registration_is_open
    has_resets = api.resets.offered_in(call.app)
    return view(
        RulesAnswer,
        of_app,
        registration=is_open,
        identifiers=list(of_app.identifiers),
        reset=has_resets,
    )


@routes.get("/accounts/show", Needs.ADMIN_OR_MEMBER, problems=_UNKNOWN, user="optional")
def show(
    api: AccountParts,
    call: Call,
    of: Annotated[
        str, about("The account to show; empty: the acting user.", max_length=255)
    ] = "",
) -> AccountShown:
    """Show the profile of an account.

    Only the account itself and back ends see identifiers and settings.
    """
    if not (of or call.user):
        raise ApiProblem.invalid("`user` or `of`: name the account")
    account = api.accounts.get(call.app, of or call.user)
    if account is None:
        raise ApiProblem(Problems.UNKNOWN_ACCOUNT)
    shows_all = call.is_back_end or account.user == call.user
    return _shown(account, with_private_fields=shows_all)


_PROFILE: Final = (
    "nickname",
    "avatar",
    "findable",
    "show_presence",
    "status",
    "away",
    "status_until",
    "title",
)


def _says_something(request: AccountSet) -> bool:
    """Whether a change contains text of the user that others see."""
    return any((request.nickname, request.avatar, request.status, request.title))


@routes.post(
    "/accounts/set",
    Needs.ADMIN_OR_PERSON,
    # A muted user may not change texts that others see.
    voice=_says_something,
    problems=_UNKNOWN,
)
def change(api: AccountParts, call: Call, request: AccountSet) -> AccountShown:
    """Change the profile of an account."""
    fields: dict[str, Any] = {}
    for name in _PROFILE:
        value = getattr(request, name)
        if value is not UNSET:
            fields[name] = value
    account = api.accounts.change(call.app, call.user, fields)
    return _shown(account, with_private_fields=True)


@routes.post(
    "/accounts/identifiers",
    Needs.ADMIN_OR_ACCOUNT,
    # Others see the user name, so a muted user may not change it.
    voice=lambda request: bool(request.name),
    problems=(*_UNKNOWN, WrongLogin.problem, Taken.problem),
)
def set_identifiers(
    api: AccountParts, call: Call, request: IdentifiersSet
) -> AccountShown:
    """Change the identifiers of an account.

    At least one identifier must remain. Each request of a user counts as a
    registration and a login from its network address.
    """
    password: str | None = request.password
    if call.is_back_end:
        password = None  # a back end needs no password
    account = api.accounts.change_identifiers(
        call.app,
        call.user,
        _given_identifiers(request),
        password,
        address=call.request.host,
        token=call.credential,
        email_confirmed=_confirmed(request.email_confirmed, call.is_back_end),
    )
    return _shown(account, with_private_fields=True)


@routes.post(
    "/accounts/password",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("PasswordSet", "A new password."),
    problems=(*_UNKNOWN, WrongLogin.problem, PasswordsOff.problem),
)
def set_password(
    api: AccountParts,
    call: Call,
    password: NewPassword,
    old_password: Annotated[
        str, about("The current password. A back end may leave it out.", max_length=250)
    ] = "",
) -> AccountDone:
    """Change a password.

    This ends all sessions of the account. An account with neither a password
    nor an e-mail address sets its first password without `old_password`.
    """
    old: str | None = old_password
    if call.is_back_end:
        old = None  # a back end needs no password
    api.accounts.change_password(
        call.app,
        call.user,
        old=old,
        new=password,
        address=call.request.host,
        token=call.credential,
    )
    return AccountDone(call.user)


@routes.post("/accounts/logout", Needs.ADMIN_OR_PERSON, problems=_UNKNOWN)
def log_out(api: AccountParts, call: Call, _request: Acting) -> AccountDone:
    """Log an account out on all devices.

    All tokens of the account become invalid. The connections of the account are
    closed with 4502.
    """
    api.accounts.log_out(call.app, call.user)
    return AccountDone(call.user)


@routes.post(
    "/accounts/delete",
    Needs.ADMIN_OR_PERSON,
    schema=(
        "AccountDelete",
        "The account to delete. A back end leaves out the password and the code.",
    ),
    problems=(
        *_UNKNOWN,
        WrongLogin.problem,
        FactorRequired.problem,
        WrongCode.problem,
        Problems.MEDIA_UNAVAILABLE,
    ),
)
def delete(
    api: AccountParts, call: Call, password: CurrentPassword = "", code: FactorCode = ""
) -> AccountDone:
    """Delete an account.

    The server erases the user and deletes the account, with its friends,
    memberships, files, messages and marks. Users prove their identity as at a
    login: by the password and, if the account has a second factor, by a `code`.
    A user's requests count as logins of their address.
    """
    if not call.is_back_end:
        api.accounts.proved(
            call.app,
            call.user,
            password,
            code,
            address=call.request.host,
            token=call.credential,
        )
        # The server writes the log line of this request after the erasure, so
        # the line must not name the user.
        call.request.by = ""
    api.accounts.remove(call.app, call.user)
    call.gone = True
    return AccountDone(call.user)


@guest_routes.post(
    "/accounts/promote",
    Needs.ADMIN_OR_PERSON,
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        Problems.NOT_ALLOWED,
        PasswordsOff.problem,
        HTTP_NO_GUEST,
        Taken.problem,
    ),
    rules=_IDENTIFIED,
)
def promote(guests: Guests, call: Call, request: GuestPromotion) -> SessionAnswer:
    """Turn a guest into a member.

    The account gets an identifier and a password, and keeps its messages and
    groups. The answer has a new login; the old token of the guest becomes
    invalid. Each request counts as a registration from its network address.
    """
    identifiers = _given_identifiers(request)
    if request.login is not UNSET:
        kind, text = split(request.login)
        identifiers.setdefault(kind, text)
    address = call.request.host
    if call.is_back_end:
        address = ""  # the request counts for no address
    session = guests.promote(
        call.app,
        call.user,
        identifiers,
        request.password,
        device=request.device,
        address=address,
    )
    return session_answer(session)


def _given_identifiers(request: Any) -> dict[Identifier, str]:
    """The identifiers that a request has.

    ``request`` is a struct with a field for each kind of identifier.
    """
    identifiers: dict[Identifier, str] = {}
    for kind in IDENTIFIERS:
        value = getattr(request, kind)
        if value is not UNSET:
            identifiers[kind] = value
    return identifiers


def _shown(account: Account, with_private_fields: bool) -> AccountShown:
    """The profile of an account in an answer.

    Without the private fields it has no identifiers and settings.
    """
    if not with_private_fields:
        return AccountShown(
            user=account.user,
            nickname=account.nickname,
            avatar=account.avatar,
            phone="",
            email="",
            name="",
            created=account.created,
            guest=account.guest,
        )
    status, away, status_until = account.status_at(time())
    return view(
        AccountShown,
        account,
        role=name_of(account.role),
        second_factor=account.factor,
        status=status,
        away=away,
        status_until=status_until,
    )


def _confirmed(is_wanted: bool, is_back_end: bool) -> bool:
    """Whether a request confirms an e-mail address, which only back ends may
    do.

    ``is_wanted`` is the field of the request. Raises ApiProblem.
    """
    if is_wanted and not is_back_end:
        raise ApiProblem(
            Problems.NOT_ALLOWED, "`email_confirmed`: only back ends may set it"
        )
    return is_wanted


def session_answer(session: FullSession) -> SessionAnswer:
    """The answer to a login: the token, its end, and the account."""
    account = _shown(session.account, with_private_fields=True)
    return SessionAnswer(session.token, session.expires_at, account)


@routes.get("/accounts/devices", Needs.ADMIN_OR_PERSON, problems=_UNKNOWN)
def devices(api: AccountParts, call: Call, _request: Acting) -> DevicesAnswer:
    """List the devices on which an account is logged in.

    Each login with a password is listed until its token expires. Tokens issued
    by GoChat are not listed.
    """
    devices = api.accounts.devices(call.app, call.user)
    if not devices:
        return DevicesAnswer([])
    presence = api.people.presence.sessions(call.app, [call.user])
    (sessions,) = presence.sessions  # of the only user

    current = call.principal.device
    rows = [
        _shown_device(
            each,
            is_current=each.id == current,
            is_online=any(session.is_on(each.name) for session in sessions),
        )
        for each in devices
    ]
    return DevicesAnswer(rows)


def _shown_device(device: Device, is_current: bool, is_online: bool) -> DeviceShown:
    """The row of a device.

    The current device is the device that has sent the request.
    """
    return view(
        DeviceShown,
        device,
        device=str(device.id),
        current=is_current,
        online=is_online,
    )


@routes.post(
    "/accounts/devices/logout",
    Needs.ADMIN_OR_PERSON,
    schema=("DeviceEnd", "The login to end."),
    problems=(*_UNKNOWN, HTTP_UNKNOWN_DEVICE),
)
def end_device(api: AccountParts, call: Call, device: DeviceId) -> AccountDone:
    """Log an account out on one device.

    The token of this login becomes invalid. Connections of the account on
    devices with the same name are closed with 4502.
    """
    api.accounts.log_out_device(call.app, call.user, device=int(device))
    return AccountDone(call.user)
