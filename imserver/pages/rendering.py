"""How a page is made: its language, its parameters, its headers."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, render_template, request

from imserver.pages.text import LANGUAGES, TEXT, choose_language

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""What the answers of all pages have."""


def policy(connect: str, media: str = "'none'") -> str:
    """The Content-Security-Policy of a page that may connect to ``connect`` and play from ``media``."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        + (f"media-src {media}; " if media != "'none'" else "")
        + f"connect-src {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def render(template: str, language: str, words: dict[str, str], **values: Any) -> Response:
    """A page as an answer that nobody keeps."""
    other = next(each for each in TEXT if each != language)
    answer = Response(render_template(template, text=words, other_language=other, asked=_asked(), **values))
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def language_of_visitor() -> tuple[str, dict[str, str]]:
    """The language that suits the visitor, and its words."""
    language = choose_language(_asked(), request.accept_languages)
    return language, TEXT[language]


def language_asked_for() -> tuple[str, dict[str, str]]:
    """The language that the address asks for, else Chinese; and its words."""
    language = _asked() or LANGUAGES[0]
    return language, TEXT[language]


def parameter(name: str) -> str:
    """A parameter of query or form, its name in any letter case; ``""`` when it is missing."""
    for key, value in request.values.items():
        if key.lower() == name:
            return value
    return ""


def has_parameter(*names: str) -> bool:
    """Whether the query or form has one of these, be it empty."""
    return any(key.lower() in names for key in request.values)


def _asked() -> str:
    asked = parameter("lang")
    return asked if asked in LANGUAGES else ""
