"""The page to which a browser comes back from a login provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import abort, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from imserver.errors import HTTP_NOT_READY, StorageUnavailable
from imserver.pages.text import policy
from imserver.pages.visitors import language_of_visitor, render
from imserver.services.people.accounts import NoAccounts
from imserver.services.people.oauth import LoginRefused, Question, UnknownLogin
from imserver.services.people.oauth_providers import ProviderUnavailable

if TYPE_CHECKING:
    from imserver.parts import Parts


class Callback:
    """Shows a browser what became of a login. Stateless. May switch."""

    def __init__(self, node: Parts) -> None:
        self._node = node

    def returned(self, app: str, provider: str) -> AnyResponse:
        """``GET /oauth/callback/<app>/<provider>?state=&code=``: go on to our page, or ask the user.

        The user is asked so that nobody logs somebody else in to a device of their own.
        """
        given = request.args
        try:
            question = self._node.oauth.returned(
                self._node.tenants.resolve(app),
                provider,
                given.get("state", ""),
                given.get("code", ""),
                given.get("error", ""),
                given.get("iss", ""),
            )
        except UnknownLogin:
            return self._page("unknown", 404)
        except (LoginRefused, NoAccounts):
            return self._page("refused", 403)
        except ProviderUnavailable:
            return self._page("unavailable", 503)
        except StorageUnavailable:
            abort(HTTP_NOT_READY.status)
        if question.address:
            answer = redirect(question.address, 303)
            answer.headers["Cache-Control"] = "no-store"
            return answer
        return self._page("question", 200, question)

    def agree(self, app: str, provider: str) -> AnyResponse:
        """``POST`` to the same path: the answer of the user (``code``, ``agreed``)."""
        agreed = request.form.get("agreed") == "yes"
        try:
            self._node.oauth.agree(request.form.get("code", ""), agreed)
        except UnknownLogin:
            return self._page("unknown", 404)
        except StorageUnavailable:
            abort(HTTP_NOT_READY.status)
        return self._page("done" if agreed else "refused", 200)

    @staticmethod
    def _page(outcome: str, status: int, question: Question | None = None) -> AnyResponse:
        language, words = language_of_visitor()
        path = url_for("pages.agree", **(request.view_args or {}))
        answer = make_response(
            render("callback.html", language, words, data={}, outcome=outcome, question=question, path=path),
            status,
        )
        answer.headers["Content-Security-Policy"] = policy("'none'", form="'self'")
        return answer
