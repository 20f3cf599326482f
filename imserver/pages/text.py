"""The texts of the pages in each language, and their templates. Needs no Flask.

A language is the file ``words.<language>.json``; nothing else names it. Houses
that have pages of their own have ``pages.<language>.json`` in their folders.
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
"""The language of the original pages, and that of visitors whose language there
is not."""
LANGUAGES: Final = (
    *_FIRST,
    *sorted(
        {path.stem.partition(".")[2] for path in assets.TEMPLATES.glob("words.*.json")}
        - {*_FIRST}
    ),
)

_WORDS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    language: {
        page: words
        for name in (f"words.{language}.json", f"*/pages.{language}.json")
        for path in sorted(assets.TEMPLATES.glob(name))
        for page, words in msgspec.json.decode(path.read_bytes()).items()
    }
    for language in LANGUAGES
}
"""Language → page → key → text. The forms of a text for different numbers are
separated by ``|``."""

REFERENCE: Final = {
    language: words.pop("reference") for language, words in _WORDS.items()
}
"""Language → the texts of the API reference, which no other page uses."""

TEXT: Final[dict[str, dict[str, str]]] = {
    language: {key: text for page in words.values() for key, text in page.items()}
    for language, words in _WORDS.items()
}
"""Language → key → text."""


def choose_language(in_address: str, accepted: LanguageAccept) -> str:
    """The language of ``?lang=``, else the best accepted one, else English. Without any
    preference it is Chinese, the language of the original page."""
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
    """The Content-Security-Policy of a page that may connect to ``connect``,
    play from ``media``, send forms to ``form``, and be in frames of
    ``ancestors``.
    """
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        + (f"media-src {media}; " if media != "'none'" else "")
        + f"connect-src {connect}; base-uri 'none'; form-action {form}; frame-ancestors {ancestors}"
    )


def frame_ancestors(origins: Iterable[str]) -> str:
    """The sources of ``frame-ancestors`` for the origins that an app lists;
    ``""``: none can be one. Ports count in no list of origins, so each port may
    be there."""
    sources = []
    for origin in filter(None, map(_ORIGIN.fullmatch, origins)):
        if origin["scheme"]:
            schemes = [origin["scheme"]]
        else:
            schemes = ["https", "http"]
        sources += [f"{scheme}://{origin['host']}:*" for scheme in schemes]
    return " ".join(sources)


_ORIGIN: Final = re.compile(
    r"((?P<scheme>https?)://)?(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?/?", re.ASCII
)
"""What does not match could end the source, and begin another one."""


def named_in_rooms(language: str) -> str | None:
    """The language that a link to a room names. None: the first one, in which
    rooms are without a name."""
    if language == LANGUAGES[0]:
        return None
    return language


def html_of(
    template: str, language: str, root: str, in_address: str = "", **values: Any
) -> str:
    """A page. ``root``: the path below which a proxy serves this server
    (``""``: none). ``in_address``: the language in its address (``""``: none),
    which its links keep."""
    words = TEXT[language]
    return _templates.get_template(template).render(
        text=words,
        root=root,
        in_rooms=named_in_rooms(language),
        page=words,
        other_languages=[each for each in names_of_languages() if each[0] != language],
        in_address=in_address,
        **values,
    )


def names_of_languages() -> list[tuple[str, str]]:
    """Each language, and its name in itself."""
    return [(language, words["language_name"]) for language, words in TEXT.items()]


_templates: Final = Environment(
    loader=FileSystemLoader(assets.TEMPLATES), autoescape=True, auto_reload=False
)
_templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": True}


def precompile() -> None:
    """Compile all templates; for a process that forks."""
    for name in _templates.list_templates(["html"]):
        _templates.get_template(name)
