"""The page ``/admin``: a frame without anything of anybody. Its scripts ask
``/api/v1`` with what its visitor has proved.
"""

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
    """The blueprint of the page."""
    blueprint = Blueprint("admin", __name__)
    look = Look(settings_of(core.config, ChatSettings), core.config.root)
    blueprint.add_url_rule(
        "/admin", "page", lambda: _page(core.keys.demo, look), methods=["GET"]
    )
    return (blueprint,)


def _page(demo: bool, look: Look) -> Response:
    """``GET /admin``: for anybody; the routes decide who sees what. ``demo``:
    nobody needs a login. ``look``: of the chat, whose owners come here with its
    login."""
    language = language_of_visitor()
    words = TEXT[language]
    data = {
        "language": words["html_lang"],
        "text": {
            key: text
            for key, text in words.items()
            if key.startswith(("admin_", "unit_"))
        },
        "accountsApp": GOCHAT,
        "demo": demo,
        "meanings": chinese_meanings() if language == "zh" else {},
    }
    answer = render(
        "operate/admin.html", language, data=data, modules=_modules(), look=look
    )
    answer.headers.update({**HEADERS, "Content-Security-Policy": policy("'self'")})
    return answer


@cache
def chinese_meanings() -> dict[str, str]:
    """What refusals mean: English, as the API says it → Chinese."""
    meanings: dict[str, str] = json.loads(
        (TEMPLATES / "operate/refusals.zh.json").read_bytes()
    )
    problems = [
        each.message
        for each in vars(Problems).values()
        if isinstance(each, HttpProblem)
    ]
    return meanings | {text: chinese()[text] for text in problems if text in chinese()}


@cache
def _modules() -> tuple[str, ...]:
    """All modules of the page, so that browsers load them at once."""
    return (
        "page-parts.js",
        "text.js",
        "messages/session/saved-login.js",
        *(f"operate/{path.name}" for path in sorted((STATIC / "operate").glob("*.js"))),
    )
