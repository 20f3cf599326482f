"""Routes for the links in mails: replace a forgotten password, and confirm an
e-mail address."""

from functools import cache
from typing import Annotated

import msgspec
from msgspec import Struct

from imserver.people.accounts.accounts import PasswordsOff
from imserver.people.accounts.api import CHAPTER, Login, NewPassword
from imserver.people.accounts.confirmations import (
    LINK_SECONDS,
    Confirmations,
    UnknownConfirmation,
)
from imserver.people.accounts.declared import HTTP_UNKNOWN_RESET
from imserver.people.accounts.mailing import button_page, page_reply
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.resets import CODE_SECONDS, Resets
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    AccountApp,
    Acting,
    ApiProblem,
    Call,
    HttpResponse,
    Resource,
    about,
)
from imserver.plugin.identity import GOCHAT, Needs
from imserver.plugin.runtime import asset_path

ResetCode = Annotated[
    str,
    about("The code at the end of the link in the mail.", min_length=1, max_length=100),
]


class ResetRequested(Struct):
    """A mail is sent if an account with this identifier and an e-mail address
    exists."""

    seconds: Annotated[int, about("How many seconds the code in the mail is valid.")]


class ResetShown(Struct):
    """Whether a code can reset a password now, and the login of the account."""

    valid: Annotated[
        bool, about("False: the code does not exist, has expired or was used.")
    ]
    login: Annotated[
        str,
        about(
            "The login of the account: its user name, e-mail address or phone number."
        ),
    ]


class ResetDone(Struct):
    """The password was replaced. Log in with the new one."""


reset_routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).resets,
    hot=True,
    chapter=CHAPTER,
    problems=(Problems.NOT_ALLOWED,),
    need=Needs.ANYONE,
)


@reset_routes.post(
    "/accounts/reset",
    schema=("ResetRequest", "The account whose password to reset."),
    act="",  # it changes nothing, so the audit log has no entry
    status=202,
    problems=(PasswordsOff.problem, Problems.NOT_IMPLEMENTED),
)
def reset(
    resets: Resets, call: Call, login: Login, app: AccountApp = GOCHAT
) -> ResetRequested:
    """Ask for a mail that resets a forgotten password.

    The mail has a link with a code. The answer is the same whether such an
    account exists or not. Each request counts as a login of its address.
    """
    resets.request(call.app, login, call.request.host)
    return ResetRequested(CODE_SECONDS)


@reset_routes.get("/accounts/reset/show", base=None, problems=(PasswordsOff.problem,))
def show_reset(
    resets: Resets, call: Call, code: ResetCode, app: AccountApp = GOCHAT
) -> ResetShown:
    """Show whether a code is still valid, and for which account.

    For the page to which the mail links. This request changes nothing. Each
    request counts as a login of its address.
    """
    account = resets.accounts.resets(call.app, code, call.request.host)
    if account is None:
        return ResetShown(valid=False, login="")
    name = account.name or account.email or account.phone
    return ResetShown(valid=True, login=name)


@reset_routes.post(
    "/accounts/reset/finish",
    schema=("ResetFinish", "The code of a mail, and the new password."),
    problems=(PasswordsOff.problem, HTTP_UNKNOWN_RESET),
)
def finish_reset(
    resets: Resets,
    call: Call,
    code: ResetCode,
    password: NewPassword,
    app: AccountApp = GOCHAT,
) -> ResetDone:
    """Set a new password with the code of a mail.

    A code works once. All sessions and tokens of the account end.
    """
    call.user = resets.accounts.reset_password(
        call.app, code, password, call.request.host
    )
    return ResetDone()


# --- e-mail addresses ---------------------------------------------------------


class ConfirmationRequested(Struct):
    """A mail with a link is on its way, unless the address is already
    confirmed."""

    confirmed: Annotated[
        bool, about("Whether the address is confirmed already. Then no mail is sent.")
    ]
    seconds: Annotated[int, about("How many seconds the link in the mail is valid.")]


class ConfirmationQuery(Struct, forbid_unknown_fields=True):
    """The token of a mail."""

    token: Annotated[
        str, about("The token in the link of the mail.", min_length=1, max_length=100)
    ]


class EmailConfirmed(Struct):
    """The e-mail address is confirmed."""

    confirmed: bool


routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).confirmations,
    hot=True,
    chapter=CHAPTER,
)


@routes.post(
    "/accounts/email/request",
    Needs.ADMIN_OR_ACCOUNT,
    act="",  # it changes nothing, so the audit log has no entry
    problems=(Problems.UNKNOWN_ACCOUNT, Problems.NOT_IMPLEMENTED),
)
def ask(
    confirmations: Confirmations, call: Call, _request: Acting
) -> ConfirmationRequested:
    """Ask for a mail that confirms the e-mail address of an account.

    Until the address is confirmed, the server sends only two kinds of mail to
    it: this mail, and that for a forgotten password. Both have fixed texts. An
    account and an address get at most three such mails within
    `accounts.rate_seconds`.
    """
    if not confirmations.mails.has_server:
        raise ApiProblem(Problems.NOT_IMPLEMENTED, "This server sends no mail")
    is_sent = confirmations.request(call.app, call.user)
    return ConfirmationRequested(confirmed=not is_sent, seconds=LINK_SECONDS)


@routes.get(
    "/accounts/email/confirm",
    Needs.ANYONE,
    query=ConfirmationQuery,
    content_type="text/html",
    problems=(UnknownConfirmation.problem,),
)
def show_confirmation(confirmations: Confirmations, call: Call) -> HttpResponse:
    """Show a page for confirming an e-mail address.

    The link in a mail opens this page. Opening it changes nothing, because
    virus scanners open links, too.
    """
    try:
        confirmations.read(call.input.token)
    except UnknownConfirmation:
        return _page(call, "gone", status=404)
    return _page(call, "question")


@routes.post(
    "/accounts/email/confirm",
    Needs.ANYONE,
    query=ConfirmationQuery,
    answer=EmailConfirmed,
    problems=(UnknownConfirmation.problem, Problems.STORAGE_UNAVAILABLE),
)
def confirm(confirmations: Confirmations, call: Call) -> HttpResponse:
    """Confirm an e-mail address.

    The token proves that the sender can read mails to this address, so the
    request needs no other credential. A browser gets a page.
    """
    wants_page = "text/html" in call.request.headers.get("accept", "")
    try:
        account = confirmations.confirm(call.input.token)
    except UnknownConfirmation:
        if not wants_page:
            raise
        return _page(call, "gone", status=404)
    # The audit log names the account as the target of the act.
    call.app = account.app
    call.user = account.user
    if wants_page:
        return _page(call, "done")
    return call.reply(EmailConfirmed(True))


def _page(call: Call, content: str, status: int = 200) -> HttpResponse:
    """The page behind the link of a mail, in the language of the browser.

    ``content`` is ``question`` (with a button), ``done`` or ``gone``.
    """
    all_words = _page_words()
    accepted = call.request.headers.get("accept-language", "").lower()
    language = next((name for name in all_words if accepted.startswith(name)), "en")

    words = all_words[language]
    text = words[f"confirm_{content}"]
    button = ""
    if content == "question":
        button = words["confirm_button"]
    page = button_page(language, words["confirm_title"], text, button)
    return page_reply(call, page, status)


@cache
def _page_words() -> dict[str, dict[str, str]]:
    """Language → key → text of the page behind the link of a mail."""
    files = sorted(asset_path("templates/people").glob("words.*.json"))
    # The language is in the name of the file: ``words.zh.json``.
    return {
        file.stem.partition(".")[2]: msgspec.json.decode(file.read_bytes())
        for file in files
    }
