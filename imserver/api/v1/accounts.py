"""Routes of accounts: register, log in, show and change oneself, end all sessions, leave for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from msgspec import UNSET

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.account import (
    AccountDone,
    AccountLogin,
    AccountQuery,
    AccountSet,
    AccountShown,
    PasswordSet,
    Registration,
    SessionAnswer,
)
from imserver.api.v1.actor import ACTOR_PROBLEMS, Acting, actor, known_app
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import read_query
from imserver.api.v1.wire import read, reply
from imserver.auth.account_tokens import AccountSession
from imserver.auth.authority import bearer
from imserver.auth.principal import ADMIN_OR_ACCOUNT, ANYONE, ANYONE_OR_ADMIN
from imserver.errors import MediaUnavailable
from imserver.services.people.accounts import (
    BadField,
    Closed,
    NoAccounts,
    UnknownAccount,
    WrongLogin,
    check_device,
)
from imserver.services.people.attempts import TooManyFailures
from imserver.services.people.passwords import Overloaded
from imserver.storage.contract import Account, Taken

_read_registration: Final = msgspec.json.Decoder(Registration)
_read_login: Final = msgspec.json.Decoder(AccountLogin)
_read_set: Final = msgspec.json.Decoder(AccountSet)
_read_password: Final = msgspec.json.Decoder(PasswordSet)
_read_acting: Final = msgspec.json.Decoder(Acting)


@contextmanager
def _refusing() -> Iterator[None]:
    """What the service refuses, as problems."""
    try:
        yield
    except BadField as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except Taken:
        raise Problem(errors.HTTP_PHONE_TAKEN) from None
    except NoAccounts:
        raise Problem(errors.HTTP_NOT_ALLOWED, "The app has no accounts") from None
    except Closed:
        raise Problem(errors.HTTP_REGISTRATION_CLOSED) from None
    except WrongLogin:
        raise Problem(errors.HTTP_WRONG_LOGIN) from None
    except UnknownAccount:
        raise Problem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    except TooManyFailures as many:
        headers = (("Retry-After", str(many.seconds)),)
        raise Problem(errors.HTTP_TOO_MANY_REQUESTS, headers=headers) from None
    except Overloaded:
        raise Problem(errors.HTTP_BUSY) from None
    except MediaUnavailable:
        raise Problem(errors.HTTP_MEDIA_UNAVAILABLE) from None


def _host(call: Call) -> str:
    return "" if call.request is None else call.request.host


def _earlier(call: Call) -> str:
    """An earlier token of the account, by which its device is known."""
    return "" if call.request is None else bearer(call.request.headers.get("authorization", ""))


def register(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/register``."""
    asked = read(api, call, _read_registration)
    app, invited = known_app(api, asked.app), call.principal.kind != "nobody"
    if invited and not call.principal.reaches(app):
        raise Problem(errors.HTTP_FORBIDDEN)
    accounts = api.services.accounts
    with _refusing():
        check_device(asked.device)
        account = accounts.register(
            app,
            asked.phone,
            asked.password,
            asked.nickname,
            asked.avatar,
            invited=invited,
            address=_host(call),
        )
        session = accounts.token(account, asked.device)
    return reply(call, _session(session), status=201)


def login(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/login``."""
    asked = read(api, call, _read_login)
    accounts = api.services.accounts
    with _refusing():
        check_device(asked.device)
        app = known_app(api, asked.app)
        account = accounts.login(app, asked.phone, asked.password, _host(call), _earlier(call))
        session = accounts.token(account, asked.device)
    return reply(call, _session(session))


def show(api: Api, call: Call) -> Answer:
    """``GET /api/v1/accounts/show``."""
    asked = read_query(call, AccountQuery)
    who = actor(api, call, asked, needs_user=not asked.of)
    account = api.services.accounts.get(who.app, asked.of or who.user)
    if account is None:
        raise Problem(errors.HTTP_UNKNOWN_ACCOUNT)
    return reply(call, _shown(account, who.is_back_end or account.user == who.user))


def change(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/set``."""
    asked = read(api, call, _read_set)
    who = actor(api, call, asked)
    nickname = None if asked.nickname is UNSET else asked.nickname
    avatar = None if asked.avatar is UNSET else asked.avatar
    with _refusing():
        return reply(call, _shown(api.services.accounts.change(who.app, who.user, nickname, avatar), True))


def set_password(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/password``."""
    asked = read(api, call, _read_password)
    who = actor(api, call, asked)
    old = None if who.is_back_end else asked.old_password
    with _refusing():
        api.services.accounts.change_password(who.app, who.user, old, asked.password, _host(call))
    return reply(call, AccountDone(who.user))


def log_out(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/logout``."""
    who = actor(api, call, read(api, call, _read_acting))
    with _refusing():
        api.services.accounts.log_out(who.app, who.user)
    return reply(call, AccountDone(who.user))


def delete(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/delete``."""
    who = actor(api, call, read(api, call, _read_acting))
    with _refusing():
        api.services.accounts.remove(who.app, who.user)
    return reply(call, AccountDone(who.user))


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
        "A token for who has the password",
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
)
