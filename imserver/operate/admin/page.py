"""The page ``/admin``: a frame without data. Its scripts call ``/api/v1`` with
the login of the visitor."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from flask import Blueprint

from imserver.pages.assets import STATIC, TEMPLATES
from imserver.pages.declared import ChatSettings
from imserver.pages.look import Look
from imserver.pages.reference import chinese
from imserver.pages.text import HEADERS, TEXT, policy
from imserver.pages.visitors import language_of_visitor, render
from imserver.plugin.errors import HttpProblem, Problems
from imserver.plugin.http import Api
from imserver.plugin.identity import GOCHAT
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response


def create_page(core: Core, _api: Api) -> tuple[Blueprint]:
    """The blueprint with the path ``/admin``."""
    blueprint = Blueprint("admin", __name__)
    look = Look(settings_of(core.config, ChatSettings), core.config.root)

    def page() -> Response:
        """Answer ``GET /admin``."""
        return _page(core.keys.demo, look)

    blueprint.add_url_rule("/admin", "page", page, methods=["GET"])
    return (blueprint,)


def _page(demo: bool, look: Look) -> Response:
    """Answer with the admin page.

    Anybody gets the page, because it has no data; the routes that it calls
    decide who sees them. ``demo`` says that nobody needs a login. ``look`` is
    the look of the chat, because owners of the chat use this page with their
    login there.
    """
    language = language_of_visitor()
    words = TEXT[language]
    prefixes = ("admin_", "unit_")
    meanings = {}
    if language == "zh":
        meanings = chinese_meanings()
    data = {
        "language": words["html_lang"],
        "text": {key: text for key, text in words.items() if key.startswith(prefixes)},
        "accountsApp": GOCHAT,
        "demo": demo,
        # The API answers in English. The page translates its texts.
        "meanings": meanings,
    }
    answer = render(
        "operate/admin.html", language, data=data, modules=_modules(), look=look
    )
    answer.headers.update({**HEADERS, "Content-Security-Policy": policy("'self'")})
    return answer


@cache
def chinese_meanings() -> dict[str, str]:
    """The meanings of refusals: the English text of the API → the Chinese text."""
    content = (TEMPLATES / "operate/refusals.zh.json").read_bytes()
    meanings: dict[str, str] = json.loads(content)
    # The messages of problems are translated in the API reference, too.
    translated = chinese()
    for problem in vars(Problems).values():
        if isinstance(problem, HttpProblem) and problem.message in translated:
            meanings[problem.message] = translated[problem.message]
    return meanings


@cache
def _modules() -> tuple[str, ...]:
    """All modules of the page, so that browsers load them at once."""
    return (
        "page-parts.js",
        "text.js",
        "messages/session/saved-login.js",
        *(f"operate/{path.name}" for path in sorted((STATIC / "operate").glob("*.js"))),
    )
