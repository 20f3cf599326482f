"""A password that was forgotten: reset by e-mail."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from imserver.features.accounts.accounts import PasswordsOff
from imserver.features.accounts.api import CHAPTER, Login, NewPassword
from imserver.features.accounts.declared import HTTP_UNKNOWN_RESET
from imserver.features.accounts.parts import accounts_of
from imserver.features.accounts.resets import CODE_SECONDS, Resets
from imserver.plugin.errors import Problems
from imserver.plugin.http import AccountApp, Call, Resource, about
from imserver.plugin.identity import GOCHAT, Needs


class ResetRequested(Struct):
    """A mail is sent if an account with this identifier and an e-mail address exists."""

    seconds: Annotated[int, about("For how long the code in the mail is valid.")]


class ResetDone(Struct):
    """The password was replaced. Log in with the new one."""


routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).resets,
    hot=True,
    chapter=CHAPTER,
    problems=(Problems.NOT_ALLOWED, Problems.TOO_MANY_REQUESTS),
)


@routes.post(
    "/accounts/reset",
    Needs.ANYONE,
    schema=("ResetRequest", "The account whose password to reset."),
    act="",
    status=202,
    problems=(PasswordsOff.problem, Problems.NOT_IMPLEMENTED),
)
def reset(resets: Resets, call: Call, login: Login, app: AccountApp = GOCHAT) -> ResetRequested:
    """Ask for a mail that resets a forgotten password.

    The mail has a link with a code. The answer is the same whether such an account exists or not. Each
    request counts as a login of its address.
    """
    resets.request(call.app, login, call.request.host)
    return ResetRequested(CODE_SECONDS)


@routes.post(
    "/accounts/reset/finish",
    Needs.ANYONE,
    schema=("ResetFinish", "The code of a mail, and the new password."),
    problems=(PasswordsOff.problem, HTTP_UNKNOWN_RESET),
)
def finish_reset(
    resets: Resets,
    call: Call,
    code: Annotated[str, about("The code at the end of the link in the mail.", min_length=1, max_length=100)],
    password: NewPassword,
    app: AccountApp = GOCHAT,
) -> ResetDone:
    """Set a new password with the code of a mail.

    A code works once. All sessions and tokens of the account end.
    """
    call.user = resets.finish(call.app, code, password, call.request.host)
    return ResetDone()
