"""Logging in with a provider: routes of ``/api/v1``."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Final, Literal
from urllib.parse import unquote

from msgspec import UNSET, Struct, UnsetType

from imserver.people.accounts.accounts import (
    AccountLocked,
    Closed,
    NoAccounts,
    UnknownAccount,
    WrongLogin,
)
from imserver.people.accounts.api import (
    AccountDone,
    AccountShown,
    DeviceName,
    FactorCode,
    session_answer,
)
from imserver.people.accounts.factors import FactorRequired, WrongCode
from imserver.people.oauth.declared import HTTP_LAST_LOGIN, HTTP_LINK_TAKEN
from imserver.people.oauth.oauth import (
    CALLBACK,
    LOGIN_SECONDS,
    POLL_SECONDS,
    LoginRefused,
    OAuth,
    Question,
    UnknownLogin,
    UnknownProvider,
)
from imserver.people.oauth.providers import ProviderUnavailable
from imserver.plugin.errors import Problems, StorageUnavailable
from imserver.plugin.http import (
    PROBLEM,
    AccountApp,
    Acting,
    Api,
    ApiProblem,
    Call,
    HttpResponse,
    Resource,
    Route,
    about,
)
from imserver.plugin.identity import GOCHAT, Needs
from imserver.plugin.services import Core

Provider = Annotated[
    str, about("The name of a provider of the app.", min_length=1, max_length=32)
]
Handle = Annotated[
    str,
    about(
        "The handle of the login: the `login` in the answer that started it.",
        min_length=1,
        max_length=100,
    ),
]


class ProviderShown(Struct):
    """A provider with which accounts log in."""

    provider: Provider
    kind: Literal["oidc", "github", "wechat", "wechat_official"]
    title: Annotated[str, about("The display name of the provider.")]
    register: Annotated[bool, about("Whether the first login creates an account.")]


class ProvidersAnswer(Struct):
    """The providers of an app."""

    providers: list[ProviderShown]


class LoginStarted(Struct):
    """A login that was started."""

    url: Annotated[str, about("The address to open in a browser.")]
    login: Annotated[str, about("The secret handle of this login. It works once.")]
    shown: Annotated[
        str,
        about(
            "Show this code to the user. The browser asks the user whether their "
            "device shows the same code."
        ),
    ]
    interval: Annotated[
        int,
        about(
            "The number of seconds to wait between two requests to finish the login."
        ),
    ]
    expires: Annotated[int, about("The lifetime of the unfinished login, in seconds.")]


class LoginFinished(Struct, omit_defaults=True):
    """The result: the login is still pending, a session as in the answer of
    `accounts/login`, or the linked provider."""

    pending: Annotated[
        bool, about("The user has not agreed yet. Send the request again later.")
    ] = False
    token: Annotated[str | UnsetType, about("The token of the session.")] = UNSET
    expires_at: Annotated[
        int | UnsetType, about("When the token expires, in Unix seconds.")
    ] = UNSET
    account: AccountShown | UnsetType = UNSET
    linked: Annotated[
        str | UnsetType, about("The provider with which the account was linked.")
    ] = UNSET


class LinkShown(Struct):
    """A provider with which the account logs in."""

    provider: Provider
    title: Annotated[str, about("The display name of the provider.")]
    since: Annotated[
        int, about("When the account was linked with the provider, in Unix seconds.")
    ]


class LinksAnswer(Struct):
    """The providers with which an account logs in."""

    links: list[LinkShown]


routes = Resource(
    "oauth",
    service=lambda core, _: core.service(OAuth),
    base=Acting,
    chapter="Log in with a provider, and link an account with one.",
    hot=True,
    problems=(Problems.NOT_ALLOWED,),
)


@routes.get("/accounts/oauth/providers", Needs.ANYONE, base=None)
def providers(oauth: OAuth, call: Call, app: AccountApp = GOCHAT) -> ProvidersAnswer:
    """List the providers with which accounts of an app log in."""
    settings = oauth.settings_of(call.app)
    providers = [
        ProviderShown(
            name, kind=row.kind, title=row.title or name, register=row.register
        )
        for name, row in settings.items()
    ]
    return ProvidersAnswer(providers)


@routes.post(
    "/accounts/oauth/start",
    Needs.ANYONE_OR_ACCOUNT,
    schema=("LoginStart", "A login with a provider."),
    base=None,
    act="",  # the audit log has the end of the login, not its start
    problems=(
        Problems.TOKEN_INVALID,
        WrongLogin.problem,
        UnknownProvider.problem,
        Problems.NOT_IMPLEMENTED,
        ProviderUnavailable.problem,
    ),
)
def start(
    oauth: OAuth,
    call: Call,
    provider: Provider,
    app: AccountApp = GOCHAT,
    device: DeviceName = "",
    return_to: Annotated[
        str,
        about(
            "For pages of this server: the path to which the browser returns. The "
            "fragment of the address is then `#oauth=` with the `code` that finishes "
            "the login, or `#oauth=refused`.",
            max_length=500,
        ),
    ] = "",
    link: Annotated[
        bool,
        about(
            "Whether to link the account of the request's token with the provider, "
            "instead of logging in."
        ),
    ] = False,
    password: Annotated[
        str,
        about(
            "For `link`: the current password. An account without a password may "
            "leave it out.",
            max_length=250,
        ),
    ] = "",
) -> LoginStarted:
    """Start a login with a provider.

    Open `url` in a browser on any device, and finish the login with `login`.
    Each request counts as a login of its address. With `link`, the account of
    the token is linked with the provider. Linking needs the password of the
    account.
    """
    user: str | None = None  # a login, not a link
    if link:
        user = call.principal.user
    try:
        url, login, short_code = oauth.start(
            call.app,
            provider,
            address=call.request.host,
            device=device,
            return_to=return_to,
            user=user,
            password=password,
            token=call.credential,
        )
    except UnknownAccount:
        raise ApiProblem(Problems.TOKEN_INVALID) from None
    # The route also tells how often to ask, and for how long.
    return LoginStarted(url, login, short_code, POLL_SECONDS, LOGIN_SECONDS)


@routes.post(
    "/accounts/oauth/finish",
    Needs.ANYONE,
    schema=("LoginFinish", "The login to finish."),
    base=None,
    problems=(
        WrongLogin.problem,
        Closed.problem,
        AccountLocked.problem,
        Problems.BANNED,
        FactorRequired.problem,
        WrongCode.problem,
        LoginRefused.problem,
        UnknownLogin.problem,
        UnknownProvider.problem,
        HTTP_LINK_TAKEN,
    ),
)
def finish(
    oauth: OAuth,
    call: Call,
    login: Handle,
    code: Annotated[
        str,
        about(
            "The code from the fragment of the address, if you sent `return_to`.",
            max_length=100,
        ),
    ] = "",
    factor: FactorCode = "",
    app: AccountApp = GOCHAT,
) -> LoginFinished:
    """Finish a login with a provider.

    The answer is `{"pending": true}` until the user has agreed. Then the answer
    is that of `accounts/login`, or has `linked`. If the provider may create
    accounts, the first login creates one with the provider's nickname and
    picture. If the account has a second factor, send a code of it as `factor`.
    Without a correct code, the login is not finished, and you can try again.
    """
    result = oauth.finish(
        call.app, login, code, address=call.request.host, factor=factor
    )
    if result is None:
        call.act = ""  # nothing has changed yet
        return LoginFinished(pending=True)
    if isinstance(result, str):
        return LoginFinished(linked=result)
    session = session_answer(result)
    return LoginFinished(
        token=session.token, expires_at=session.expires_at, account=session.account
    )


@routes.get(
    "/accounts/oauth/links",
    Needs.ADMIN_OR_ACCOUNT,
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def links(oauth: OAuth, call: Call, _request: Acting) -> LinksAnswer:
    """List the providers with which an account logs in."""
    settings = oauth.settings_of(call.app)
    rows = oauth.links(call.app, call.user)
    titles = {name: row.title for name, row in settings.items()}
    links = []
    for row in rows:
        title = titles.get(row.provider) or row.provider
        links.append(LinkShown(row.provider, title, row.since))
    return LinksAnswer(links)


@routes.post(
    "/accounts/oauth/unlink",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("LinkEnd", "The provider to unlink."),
    problems=(Problems.UNKNOWN_ACCOUNT, UnknownProvider.problem, HTTP_LAST_LOGIN),
)
def unlink(oauth: OAuth, call: Call, provider: Provider) -> AccountDone:
    """End the link between an account and a provider.

    The server refuses to end the last way to log in. A password or another link
    has to remain.
    """
    oauth.unlink(call.app, call.user, provider)
    return AccountDone(call.user)


def returned(oauth: OAuth, call: Call) -> HttpResponse:
    """Answer ``GET /oauth/callback/<app>/<provider>?state=&code=``.

    The browser comes back from a provider. It goes on to our page, or a page
    asks the user. The user is asked so that nobody logs somebody else in to a
    device of their own. May switch greenlets.
    """
    try:
        question = _process_return(oauth, call)
    except UnknownLogin:
        return _page(oauth, call, "unknown", status=404)
    except (LoginRefused, NoAccounts):
        return _page(oauth, call, "refused", status=403)
    except (ProviderUnavailable, StorageUnavailable):
        return _page(oauth, call, "unavailable", status=503)
    if question.address:
        return _answered(303, "", ("Location", question.address))
    return _page(oauth, call, "question", question=question)


def _process_return(oauth: OAuth, call: Call) -> Question:
    """Process the return of a browser, from the parameters of its request.

    Raises what :meth:`OAuth.returned` raises.
    """
    params = call.params
    # The names are quoted in the path, so they have no slash.
    app, _, provider = call.request.path.removeprefix(CALLBACK).rpartition("/")
    return oauth.returned(
        app=unquote(app),
        name=unquote(provider),
        state=params.get("state", ""),
        code=params.get("code", ""),
        problem=params.get("error", ""),
        issuer=params.get("iss", ""),
    )


def agree(oauth: OAuth, call: Call) -> HttpResponse:
    """Answer ``POST`` to the same path: the user agrees, or does not.

    The form has ``code`` and ``agreed``. May switch greenlets.
    """
    agreed = call.params.get("agreed") == "yes"
    try:
        oauth.agree(call.params.get("code", ""), agreed)
    except UnknownLogin:
        return _page(oauth, call, "unknown", status=404)
    except StorageUnavailable:
        return _page(oauth, call, "unavailable", status=503)
    if agreed:
        return _page(oauth, call, "done")
    return _page(oauth, call, "refused")


def _page(
    oauth: OAuth,
    call: Call,
    outcome: str,
    status: int = 200,
    question: Question | None = None,
) -> HttpResponse:
    """The page for a browser that has come back, in its language.

    ``outcome`` is ``question``, ``done``, ``refused``, ``unknown`` or
    ``unavailable``. ``question`` is the question to the user; None for the
    other outcomes.
    """
    # Imported with the first page: most nodes never need the templates, which
    # take memory.
    from werkzeug.datastructures import LanguageAccept
    from werkzeug.http import parse_accept_header

    from imserver.pages.text import choose_language

    accepted = parse_accept_header(
        call.request.headers.get("accept-language"), LanguageAccept
    )
    language = choose_language("", accepted)

    # Pages without a question are equal for all logins, so they are cached.
    if question is None:
        content = _without_question(oauth.root, language, outcome)
    else:
        content = _rendered(oauth.root, language, outcome, question, call.request.path)
    return _answered(status, content, ("Vary", "Accept-Language"))


def _rendered(
    root: str,
    language: str,
    outcome: str,
    question: Question | None = None,
    path: str = "",
) -> str:
    """The HTML of a page. ``path`` is the path to which the form with the
    answer goes."""
    from imserver.pages.text import html_of

    return html_of(
        "people/callback.html",
        language,
        root,
        data={},
        outcome=outcome,
        question=question,
        path=root + path,
    )


_without_question: Final = cache(_rendered)
"""Each such page is rendered once, because strangers may request many in one
packet."""


def _answered(status: int, content: str, *more: tuple[str, str]) -> HttpResponse:
    """The answer with a page, and with ``more`` headers."""
    from imserver.pages.text import HEADERS, policy

    headers = (
        *HEADERS.items(),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", policy("'none'", form="'self'")),
        *more,
    )
    return HttpResponse(
        status, content.encode(), "text/html; charset=utf-8", headers, page=True
    )


def _service(core: Core, _api: Api) -> OAuth:
    """The service that the routes of the callback use."""
    return core.service(OAuth)


def _route(method: str, handler: Callable[[OAuth, Call], HttpResponse]) -> Route:
    """The route of a callback with this method."""
    return Route(
        method,
        f"{CALLBACK}*",
        Needs.ANYONE,
        handler,
        style=PROBLEM,
        hot=True,
        service=_service,
    )


ROUTES: Final = (_route("GET", returned), _route("POST", agree))
