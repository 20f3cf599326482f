"""The page to which a browser comes back from a login provider. It needs no Flask: the front answers it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final
from urllib.parse import unquote

from imserver.features.accounts.accounts import NoAccounts
from imserver.features.oauth.oauth import CALLBACK, LoginRefused, OAuth, Question, UnknownLogin, oauth_of
from imserver.features.oauth.providers import ProviderUnavailable
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.http import PROBLEM, Call, HttpResponse, Route
from imserver.plugin.identity import Needs


def returned(oauth: OAuth, call: Call) -> HttpResponse:
    """``GET /oauth/callback/<app>/<provider>?state=&code=``: go on to our page, or ask the user.

    The user is asked so that nobody logs somebody else in to a device of their own. May switch.
    """
    given = call.params
    app, _, provider = call.request.path.removeprefix(CALLBACK).rpartition("/")
    try:
        question = oauth.returned(
            unquote(app),
            unquote(provider),
            given.get("state", ""),
            given.get("code", ""),
            given.get("error", ""),
            given.get("iss", ""),
        )
    except UnknownLogin:
        return _page(oauth, call, "unknown", 404)
    except (LoginRefused, NoAccounts):
        return _page(oauth, call, "refused", 403)
    except (ProviderUnavailable, StorageUnavailable):
        return _page(oauth, call, "unavailable", 503)
    if question.address:
        return _answered(303, "", ("Location", question.address))
    return _page(oauth, call, "question", 200, question)


def agree(oauth: OAuth, call: Call) -> HttpResponse:
    """``POST`` to the same path: the answer of the user (``code``, ``agreed``). May switch."""
    agreed = call.params.get("agreed") == "yes"
    try:
        oauth.agree(call.params.get("code", ""), agreed)
    except UnknownLogin:
        return _page(oauth, call, "unknown", 404)
    except StorageUnavailable:
        return _page(oauth, call, "unavailable", 503)
    return _page(oauth, call, "done" if agreed else "refused", 200)


def _page(
    oauth: OAuth, call: Call, outcome: str, status: int, question: Question | None = None
) -> HttpResponse:
    # Imported at the first page: most nodes never need the templates, and they take memory.
    from werkzeug.datastructures import LanguageAccept
    from werkzeug.http import parse_accept_header

    from imserver.features.pages.text import choose_language

    accepted = parse_accept_header(call.request.headers.get("accept-language"), LanguageAccept)
    language = choose_language("", accepted)
    if question is None:
        content = _outcome(oauth.root, language, outcome)
    else:
        content = _rendered(oauth.root, language, outcome, question, call.request.path)
    return _answered(status, content, ("Vary", "Accept-Language"))


def _rendered(
    root: str, language: str, outcome: str, question: Question | None = None, path: str = ""
) -> str:
    from imserver.features.pages.text import TEXT, html_of

    words = TEXT[language]
    return html_of(
        "callback.html", language, words, root, data={}, outcome=outcome, question=question, path=root + path
    )


@cache
def _outcome(root: str, language: str, outcome: str) -> str:
    """A page without a question. Each is rendered once: strangers may ask for many in one packet."""
    return _rendered(root, language, outcome)


def _answered(status: int, content: str, *more: tuple[str, str]) -> HttpResponse:
    from imserver.features.pages.text import HEADERS, policy

    headers = (
        *HEADERS.items(),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", policy("'none'", form="'self'")),
        *more,
    )
    return HttpResponse(status, content.encode(), "text/html; charset=utf-8", headers, page=True)


_ROW: Final[dict[str, Any]] = {"style": PROBLEM, "hot": True, "service": lambda core, _: oauth_of(core)}

ROUTES: Final = tuple(
    Route(method, f"{CALLBACK}*", Needs.ANYONE, function, **_ROW)
    for method, function in (("GET", returned), ("POST", agree))
)
