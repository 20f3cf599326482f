"""The page ``/admin``: a frame without anything of anybody. Its scripts ask ``/api/v1`` with what its visitor
has proved.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from flask import Blueprint

from imserver.features.pages.assets import STATIC
from imserver.features.pages.text import HEADERS, policy
from imserver.features.pages.visitors import language_of_visitor, render
from imserver.plugin.identity import GOCHAT

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

_TEXTS = ("admin_", "unit_")
"""Prefixes of the keys of texts that the page needs."""


def create_page() -> Blueprint:
    """The blueprint of the page."""
    blueprint = Blueprint("admin", __name__)
    blueprint.add_url_rule("/admin", "page", _page, methods=["GET"])
    return blueprint


def _page() -> Response:
    """``GET /admin``: for anybody; the routes decide who sees what."""
    language, words = language_of_visitor()
    data = {
        "language": words["html_lang"],
        "text": {key: text for key, text in words.items() if key.startswith(_TEXTS)},
        "accountsApp": GOCHAT,
    }
    answer = render("admin.html", language, words, data=data, modules=_modules())
    answer.headers.update({**HEADERS, "Content-Security-Policy": policy("'self'")})
    return answer


@cache
def _modules() -> tuple[str, ...]:
    """All modules of the page, so that browsers load them at once."""
    return ("text.js", *(f"admin/{path.name}" for path in sorted((STATIC / "admin").glob("*.js"))))
