"""The second factor of an account: turn it on and off, new recovery codes."""

from msgspec import Struct

from imserver.people.accounts.accounts import Accounts, WrongLogin
from imserver.people.accounts.api import (
    CHAPTER,
    AccountDone,
    CurrentPassword,
    FactorCode,
)
from imserver.people.accounts.factors import (
    FactorOff,
    FactorOn,
    FactorStarted,
    WrongCode,
)
from imserver.people.accounts.parts import accounts_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Call, Resource
from imserver.plugin.identity import Needs


class FactorConfirm(Acting, kw_only=True):
    """A code of the authenticator app."""

    code: FactorCode


class RecoveryCodes(Struct):
    """The recovery codes of an account. Each works once instead of a code. No
    other answer shows them."""

    codes: list[str]


routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).accounts,
    base=Acting,
    hot=False,
    chapter=CHAPTER,
)


@routes.post(
    "/accounts/factor/begin",
    Needs.ACCOUNT,
    schema=("FactorBegin", "The second factor to turn on."),
    problems=(Problems.UNKNOWN_ACCOUNT, WrongLogin.problem, FactorOn.problem),
)
def begin(
    accounts: Accounts, call: Call, password: CurrentPassword = ""
) -> FactorStarted:
    """Begin to turn on the second factor of an account.

    Add the secret to an authenticator app, and confirm it with a code of this
    app. The route needs the password, so that a stolen token is not enough.
    Each request counts as a login.
    """
    account = accounts.confirmed(
        call.app,
        call.user,
        password,
        address=call.request.host,
        token=call.credential,
    )
    return accounts.factors.begin(account)


@routes.post(
    "/accounts/factor/confirm",
    Needs.ACCOUNT,
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        WrongCode.problem,
        FactorOn.problem,
        FactorOff.problem,
    ),
)
def confirm(accounts: Accounts, call: Call, request: FactorConfirm) -> RecoveryCodes:
    """Turn on the second factor of an account, with a code of it.

    From now on, logins with the password need a code. The answer has ten
    recovery codes, in case the authenticator app is lost.
    """
    account = accounts.known(call.app, call.user)
    return RecoveryCodes(accounts.factors.confirm(account, request.code))


@routes.post(
    "/accounts/factor/codes",
    Needs.ACCOUNT,
    problems=(Problems.UNKNOWN_ACCOUNT, WrongCode.problem, FactorOff.problem),
)
def renew_codes(
    accounts: Accounts, call: Call, request: FactorConfirm
) -> RecoveryCodes:
    """Make new recovery codes.

    All earlier recovery codes become invalid.
    """
    account = accounts.with_factor(call.app, call.user, request.code, call.credential)
    return RecoveryCodes(accounts.factors.renew_codes(account))


@routes.post(
    "/accounts/factor/remove",
    Needs.ADMIN_OR_ACCOUNT,
    schema=(
        "FactorRemove",
        "The second factor to turn off. A back end leaves out the password and the "
        "code.",
    ),
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        WrongLogin.problem,
        WrongCode.problem,
        FactorOff.problem,
    ),
)
def remove(
    accounts: Accounts,
    call: Call,
    password: CurrentPassword = "",
    code: FactorCode = "",
) -> AccountDone:
    """Turn off the second factor of an account.

    The owner of the account sends the password and a code. A back end needs
    neither, for example to help a user who has lost both.
    """
    if call.is_back_end:
        account = accounts.known(call.app, call.user)
    else:
        account = accounts.proved(
            call.app,
            call.user,
            password,
            code,
            address=call.request.host,
            token=call.credential,
        )
    accounts.factors.remove(account)
    return AccountDone(call.user)
