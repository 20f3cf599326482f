"""Accounts: register, log in, show, change, devices, log out, delete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.field import Acting, ActingPage
from imserver.api.v1.operation import ACTOR_PROBLEMS, Operation
from imserver.api.v1.wire import reply
from imserver.auth.account_tokens import GOCHAT, AccountSession
from imserver.auth.authority import bearer
from imserver.auth.principal import ADMIN_OR_ACCOUNT, ANYONE, ANYONE_OR_ADMIN
from imserver.errors import MediaUnavailable
from imserver.services.people.accounts import (
    BadField,
    Closed,
    NoAccounts,
    UnknownAccount,
    UnknownDevice,
    WrongLogin,
    check_device,
)
from imserver.services.people.attempts import TooManyFailures
from imserver.services.people.passwords import Overloaded
from imserver.storage.contract import Account, Taken
from imserver.transport.exchange import HttpResponse

_SHOWN = r"^[^\x00-\x1f\x7f-\x9f]*$"

Phone = Annotated[
    str,
    Meta(
        min_length=1, max_length=20, pattern=_SHOWN, description="The phone number: any 1 to 20 characters."
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=250, description="The password.")]
NewPassword = Annotated[
    str, Meta(min_length=8, max_length=250, description="The password: 8 characters and more.")
]
Nickname = Annotated[str, Meta(max_length=64, pattern=_SHOWN, description="What others call the account.")]
Avatar = Annotated[
    str, Meta(max_length=1000, pattern=_SHOWN, description="Where the picture of the account is.")
]
UserId = Annotated[str, Meta(description="The id of the account: the user that it is.")]


DeviceName = Annotated[str, Meta(max_length=64, pattern=_SHOWN, description="What the device calls itself.")]
DeviceId = Annotated[str, Meta(pattern="^[1-9][0-9]{0,15}$", description="A login of the account.")]


class Registration(Struct, forbid_unknown_fields=True):
    """A new account."""

    phone: Phone
    password: NewPassword
    app: field.AccountApp = GOCHAT
    nickname: Nickname = ""
    avatar: Avatar = ""
    device: DeviceName = ""


class AccountLogin(Struct, forbid_unknown_fields=True):
    """A phone number and its password."""

    phone: Phone
    password: Password
    app: field.AccountApp = GOCHAT
    device: DeviceName = ""


class AccountSet(Acting):
    """What an account shows of itself. What is left out stays as it is."""

    nickname: Nickname | UnsetType = UNSET
    avatar: Avatar | UnsetType = UNSET


class PasswordSet(Acting, kw_only=True):
    """Another password."""

    password: NewPassword
    old_password: Annotated[
        str, Meta(max_length=250, description="The one so far; a back end need not know it.")
    ] = ""


class AccountQuery(Acting):
    """Which account."""

    of: Annotated[str, Meta(max_length=255, description="The account that is shown; none: one's own.")] = ""


class AccountShown(Struct):
    """What an account shows of itself."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    phone: Annotated[str, Meta(description="The phone number; empty for others.")]
    created: Annotated[int, Meta(description="When it was made, in Unix seconds.")]


class SessionAnswer(Struct):
    """A login, and the token that proves it."""

    token: Annotated[
        str, Meta(description="Shown as `Authorization: Bearer`, and by clients at their login.")
    ]
    expires_at: Annotated[int, Meta(description="Until when it is good, in Unix seconds.")]
    account: AccountShown


class DevicesQuery(Acting):
    """Whose logins."""


class DeviceEnd(Acting, kw_only=True):
    """Which login is to end."""

    device: DeviceId


class DeviceShown(Struct):
    """A login of an account."""

    device: DeviceId
    name: DeviceName
    since: Annotated[int, Meta(description="When it began, in Unix seconds.")]
    expires_at: Annotated[int, Meta(description="Until when its token is good, in Unix seconds.")]
    current: Annotated[bool, Meta(description="Whether it is the login of the token in this request.")]
    online: Annotated[bool, Meta(description="A device of this name is connected.")]


class DevicesAnswer(Struct):
    """The logins of an account that have not ended, the newest first."""

    devices: list[DeviceShown]


class AccountDone(Struct):
    """It is done."""

    user: UserId


# --- friends ------------------------------------------------------------------------------------------------

ListName = Literal["friends", "incoming", "outgoing", "blocked"]


class FriendsQuery(ActingPage):
    """Whose list, which, and which page of it."""

    list: Annotated[
        ListName,
        Meta(description="Friends, incoming requests, outgoing requests, or blocked users."),
    ] = "friends"


class FriendChange(Acting, kw_only=True):
    """Two accounts."""

    friend: Annotated[str, Meta(min_length=1, max_length=255, description="The other account.")]


class FriendAnswer(Struct):
    """What came of it."""

    status: Annotated[
        Literal["friends", "asked", "done", "already", "absent", "away"],
        Meta(
            description="`friends`: they are now. `asked`: the other was asked. `done`. `already`: so before."
            " `absent`: there was nothing to change. `away`: you keep the other away."
        ),
    ]


class FriendShown(Struct):
    """Somebody on a list."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    since: field.Since


class FriendsAnswer(Struct):
    """A list of an account, in the order of ids."""

    count: Annotated[int, Meta(description="How many there are, on all pages together.")]
    friends: list[FriendShown]
    next: field.Next


_read_acting: Final = msgspec.json.Decoder(Acting)


@contextmanager
def _refusing() -> Iterator[None]:
    """What the service refuses, as problems."""
    try:
        yield
    except BadField as bad:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except Taken:
        raise ApiProblem(errors.HTTP_PHONE_TAKEN) from None
    except NoAccounts:
        raise ApiProblem(errors.HTTP_NOT_ALLOWED, "The app has no accounts") from None
    except Closed:
        raise ApiProblem(errors.HTTP_REGISTRATION_CLOSED) from None
    except WrongLogin:
        raise ApiProblem(errors.HTTP_WRONG_LOGIN) from None
    except UnknownAccount:
        raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    except TooManyFailures as many:
        headers = (("Retry-After", str(many.seconds)),)
        raise ApiProblem(errors.HTTP_TOO_MANY_REQUESTS, headers=headers) from None
    except Overloaded:
        raise ApiProblem(errors.HTTP_BUSY) from None
    except MediaUnavailable:
        raise ApiProblem(errors.HTTP_MEDIA_UNAVAILABLE) from None


def _host(call: Call) -> str:
    return call.request.host


def _earlier(call: Call) -> str:
    """An earlier token of the account, by which its device is known."""
    return bearer(call.request.headers.get("authorization", ""))


def register(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/register``."""
    asked: Registration = call.asked
    invited = call.principal.kind != "nobody"
    accounts = api.services.accounts
    with _refusing():
        check_device(asked.device)
        account = accounts.register(
            call.app,
            asked.phone,
            asked.password,
            asked.nickname,
            asked.avatar,
            invited=invited,
            address=_host(call),
        )
        session = accounts.token(account, asked.device)
    return reply(call, _session(session), status=201)


def login(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/login``."""
    asked: AccountLogin = call.asked
    accounts = api.services.accounts
    with _refusing():
        check_device(asked.device)
        account = accounts.login(call.app, asked.phone, asked.password, _host(call), _earlier(call))
        session = accounts.token(account, asked.device)
    return reply(call, _session(session))


def show(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/accounts/show``."""
    asked: AccountQuery = call.asked
    if not (asked.of or call.user):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`user` or `of`: name the account")
    account = api.services.accounts.get(call.app, asked.of or call.user)
    if account is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT)
    return reply(call, _shown(account, call.is_back_end or account.user == call.user))


def change(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/set``."""
    asked: AccountSet = call.asked
    nickname = None if asked.nickname is UNSET else asked.nickname
    avatar = None if asked.avatar is UNSET else asked.avatar
    with _refusing():
        return reply(call, _shown(api.services.accounts.change(call.app, call.user, nickname, avatar), True))


def set_password(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/password``."""
    asked: PasswordSet = call.asked
    old = None if call.is_back_end else asked.old_password
    with _refusing():
        api.services.accounts.change_password(call.app, call.user, old, asked.password, _host(call))
    return reply(call, AccountDone(call.user))


def log_out(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/logout``."""
    with _refusing():
        api.services.accounts.log_out(call.app, call.user)
    return reply(call, AccountDone(call.user))


def delete(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/delete``."""
    with _refusing():
        api.services.accounts.remove(call.app, call.user)
    return reply(call, AccountDone(call.user))


def _shown(account: Account, whole: bool) -> AccountShown:
    phone = account.phone if whole else ""
    return AccountShown(account.user, account.nickname, account.avatar, phone, account.created)


def _session(session: AccountSession) -> SessionAnswer:
    return SessionAnswer(session.token, session.expires_at, _shown(session.account, True))


_ACCOUNT: Final = {
    "user": "1",
    "nickname": "Ann",
    "avatar": "",
    "phone": "13800000001",
    "created": 1795155801,
}
_SESSION: Final = {"token": "eyJ…", "expires_at": 1797747801, "account": _ACCOUNT}
_OPEN: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_TOO_MANY_REQUESTS,
    errors.HTTP_STORAGE_UNAVAILABLE,
)


def _row(path: str, function: Any, summary: str, description: str, **more: Any) -> Operation:
    """A route by which an account, or a back end for it, changes something."""
    more.setdefault("body", Acting)
    more.setdefault("answer", AccountDone)
    more.setdefault("example_body", {"app": "gochat", "user": "1"})
    more.setdefault("example_answer", {"user": "1"})
    problems = (*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT, *more.pop("problems", ()))
    return Operation(
        "POST",
        path,
        ADMIN_OR_ACCOUNT,
        function,
        "accounts",
        summary,
        description,
        problems=problems,
        hot=False,
        **more,
    )


def devices(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/accounts/devices``."""
    try:
        found = api.services.accounts.devices(call.app, call.user)
    except UnknownAccount:
        raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    sessions = api.services.presence.sessions(call.app, [call.user]).sessions[0] if found else []
    online = {session.device for session in sessions}
    shown = [
        DeviceShown(
            str(each.id),
            each.name,
            each.since,
            each.expires_at,
            each.id == call.principal.device,
            each.name in online,
        )
        for each in found
    ]
    return reply(call, DevicesAnswer(shown))


def end_device(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/accounts/devices/logout``."""
    asked: DeviceEnd = call.asked
    try:
        api.services.accounts.log_out_device(call.app, call.user, int(asked.device))
    except UnknownAccount:
        raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    except UnknownDevice:
        raise ApiProblem(errors.HTTP_UNKNOWN_DEVICE) from None
    return reply(call, AccountDone(call.user))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/accounts/register",
        ANYONE_OR_ADMIN,
        register,
        "accounts",
        "A new account, logged in",
        "Anybody may ask while `accounts.registration` is on, a back end with an admin key always. The app "
        "must want accounts (`account_tokens`).",
        body=Registration,
        answer=SessionAnswer,
        status=201,
        problems=(
            *_OPEN,
            errors.HTTP_FORBIDDEN,
            errors.HTTP_NOT_ALLOWED,
            errors.HTTP_REGISTRATION_CLOSED,
            errors.HTTP_PHONE_TAKEN,
        ),
        example_body={"phone": "13800000001", "password": "correct horse", "nickname": "Ann"},
        example_answer=_SESSION,
        hot=False,
    ),
    Operation(
        "POST",
        "/api/v1/accounts/login",
        ANYONE,
        login,
        "accounts",
        "Log in with the password and get a token",
        "What was wrong is not told. Further logins wait after too many failures. A device that shows an "
        "earlier token of the account as `Authorization: Bearer`, expired or not, is not locked out by "
        "strangers.",
        body=AccountLogin,
        answer=SessionAnswer,
        problems=(*_OPEN, errors.HTTP_WRONG_LOGIN, errors.HTTP_NOT_ALLOWED),
        example_body={"phone": "13800000001", "password": "correct horse"},
        example_answer=_SESSION,
        hot=False,
    ),
    Operation(
        "GET",
        "/api/v1/accounts/show",
        ADMIN_OR_ACCOUNT,
        show,
        "accounts",
        "What an account shows of itself",
        "Its phone number is shown to itself and to back ends.",
        query=AccountQuery,
        answer=AccountShown,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT),
        example_query={"of": "1"},
        example_answer=_ACCOUNT,
        hot=False,
        user="optional",
    ),
    _row(
        "/api/v1/accounts/set",
        change,
        "Change what an account shows of itself",
        "",
        body=AccountSet,
        answer=AccountShown,
        example_body={"user": "1", "nickname": "Ann"},
        example_answer=_ACCOUNT,
    ),
    _row(
        "/api/v1/accounts/password",
        set_password,
        "Another password",
        "It ends all sessions of the account.",
        body=PasswordSet,
        problems=(errors.HTTP_WRONG_LOGIN, errors.HTTP_TOO_MANY_REQUESTS),
        example_body={"user": "1", "password": "battery staple", "old_password": "correct horse"},
    ),
    _row(
        "/api/v1/accounts/logout",
        log_out,
        "End all sessions of an account",
        "Its tokens are void, its connections closed with 4502.",
    ),
    _row(
        "/api/v1/accounts/delete",
        delete,
        "Delete an account",
        "With its profile, its friends, its memberships of groups, its files and what it has marked. What it "
        "has said stays in the conversations of others.",
        problems=(errors.HTTP_MEDIA_UNAVAILABLE,),
    ),
    Operation(
        "GET",
        "/api/v1/accounts/devices",
        ADMIN_OR_ACCOUNT,
        devices,
        "accounts",
        "The devices on which an account is logged in",
        "Each login with a password is one, until its token ends. Tokens that GoChat has made are not "
        "listed.",
        query=DevicesQuery,
        answer=DevicesAnswer,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT),
        example_query={"user": "1"},
        example_answer={
            "devices": [
                {
                    "device": "4711",
                    "name": "phone",
                    "since": 1795155801,
                    "expires_at": 1797747801,
                    "current": True,
                    "online": True,
                }
            ]
        },
        hot=False,
    ),
    Operation(
        "POST",
        "/api/v1/accounts/devices/logout",
        ADMIN_OR_ACCOUNT,
        end_device,
        "accounts",
        "End one login of an account",
        "Its token is void; connections of the account on devices of that name are closed with 4502.",
        body=DeviceEnd,
        answer=AccountDone,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT, errors.HTTP_UNKNOWN_DEVICE),
        example_body={"user": "1", "device": "4711"},
        example_answer={"user": "1"},
        hot=False,
    ),
)
