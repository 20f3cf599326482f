"""The texts of the pages in each language, and their templates. Needs no Flask.

A language is the file ``words.<language>.json``; nothing else names it. Houses
with their own pages have ``pages.<language>.json`` in their folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader

from imserver.pages import assets

if TYPE_CHECKING:
    from werkzeug.datastructures import LanguageAccept

_FIRST: Final = ("zh", "en")
"""The language of the original pages, then the language of visitors whose own
language is not available."""


def _languages() -> tuple[str, ...]:
    """Return all languages with texts, :data:`_FIRST` first."""
    languages = set()
    for path in assets.TEMPLATES.glob("words.*.json"):
        _, _, language = path.stem.partition(".")
        languages.add(language)
    return (*_FIRST, *sorted(languages - {*_FIRST}))


LANGUAGES: Final = _languages()


def _words_of(language: str) -> dict[str, dict[str, Any]]:
    """Read the texts in a language: page → key → text.

    Houses with pages of their own have a file of texts in their folder.
    """
    words: dict[str, dict[str, Any]] = {}
    for name in (f"words.{language}.json", f"*/pages.{language}.json"):
        for path in sorted(assets.TEMPLATES.glob(name)):
            words.update(msgspec.json.decode(path.read_bytes()))
    return words


def _without_pages(words: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return key → text, of all pages together."""
    texts: dict[str, str] = {}
    for words_of_page in words.values():
        texts.update(words_of_page)
    return texts


_WORDS: Final = {language: _words_of(language) for language in LANGUAGES}
"""Language → page → key → text. The forms of a text for different numbers are
separated by ``|``."""

REFERENCE: Final = {
    language: words.pop("reference") for language, words in _WORDS.items()
}
"""Language → the texts of the API reference, which no other page uses."""

TEXT: Final = {language: _without_pages(words) for language, words in _WORDS.items()}
"""Language → key → text."""


def choose_language(in_address: str, accepted: LanguageAccept) -> str:
    """Choose the language of a page.

    It is the one in the address (``?lang=``), or else the best language that
    the browser accepts, or else English. A browser without any preference gets
    Chinese, the language of the original pages.
    """
    if in_address in LANGUAGES:
        return in_address
    if not accepted:
        return LANGUAGES[0]
    for tag, quality in accepted:
        primary = tag.lower().split("-")[0]
        if quality > 0 and primary in LANGUAGES:
            return primary
    return "en"


HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
"""Headers of the answers of all pages."""


def policy(
    connect: str, media: str = "'none'", form: str = "'none'", ancestors: str = "'none'"
) -> str:
    """Make the Content-Security-Policy of a page.

    The page may connect to ``connect``, play media from ``media``, send forms
    to ``form``, and be in frames of ``ancestors``. Each of them is a list of
    sources, such as ``'self' https://im.example.com``.
    """
    rules = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
    ]
    # Without the rule, the default applies: none.
    if media != "'none'":
        rules.append(f"media-src {media}")
    rules += [
        f"connect-src {connect}",
        "base-uri 'none'",
        f"form-action {form}",
        f"frame-ancestors {ancestors}",
    ]
    return "; ".join(rules)


def frame_ancestors(origins: Iterable[str]) -> str:
    """Return the sources of ``frame-ancestors`` for listed origins.

    ``""``: no origin can be a source. Ports in such a list do not count, so a
    page on any port may have the frame: ``example.org`` gives
    ``https://example.org:* http://example.org:*``.
    """
    sources = []
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            continue
        # An origin without a scheme stands for both.
        schemes = ["https", "http"]
        if match["scheme"]:
            schemes = [match["scheme"]]
        sources += [f"{scheme}://{match['host']}:*" for scheme in schemes]
    return " ".join(sources)


_ORIGIN: Final = re.compile(
    r"((?P<scheme>https?)://)?(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?/?", re.ASCII
)
"""Matches an origin that a policy may contain. Another text could end the
source, and begin another one."""


def named_in_rooms(language: str) -> str | None:
    """Return the language that a link to a room names.

    None for the first language, because such links leave it out.
    """
    if language == LANGUAGES[0]:
        return None
    return language


def html_of(
    template: str, language: str, root: str, in_address: str = "", **values: Any
) -> str:
    """Render a page.

    ``root``: the path below which a proxy serves this server (``""``: no such
    path). ``in_address``: the language in the address of the page, which its
    links keep (``""``: no language). ``values``: for the template.
    """
    words = TEXT[language]
    others = [
        (other, name) for other, name in names_of_languages() if other != language
    ]
    return _templates.get_template(template).render(
        text=words,
        root=root,
        in_rooms=named_in_rooms(language),
        page=words,
        other_languages=others,
        in_address=in_address,
        **values,
    )


def names_of_languages() -> list[tuple[str, str]]:
    """Return each language, and its name in itself: ("fr", "Français")."""
    return [(language, words["language_name"]) for language, words in TEXT.items()]


_templates: Final = Environment(
    loader=FileSystemLoader(assets.TEMPLATES), autoescape=True, auto_reload=False
)
_templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": True}


def precompile() -> None:
    """Compile all templates, for a process that forks."""
    for name in _templates.list_templates(["html"]):
        _templates.get_template(name)
