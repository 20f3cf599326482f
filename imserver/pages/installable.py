"""What makes the messages page an application that browsers install: its
manifest, and a service worker that opens it without a network.

Modules and style sheets have addresses with the *release*, a name of their
content: browsers store them for good, and a page never mixes two releases. The
worker answers from its store, so a reload asks the server for nothing but the
worker. The worker has the content of the page in its text. If the release, the
settings or a text changes, the text changes; browsers then install the new
worker, which stores the new page and its files.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from posixpath import normpath
from typing import Any, Final

import msgspec
from flask import Response, request, url_for

from imserver.pages import assets
from imserver.pages.additions import Additions
from imserver.pages.look import Look
from imserver.pages.text import LANGUAGES, TEXT
from imserver.pages.visitors import language_of_visitor

RELEASES: Final = "/release/"
"""Prefix of the addresses of files of a release:
``/release/<release>/static/…`` and ``…/sdk/…``."""
_START: Final = ("static/messages/start.js",)
"""What shows the list of the last visit, and then imports the others."""
_FIRST: Final = ("static/messages/session/connection.js", "static/messages/app.js")
"""What the first view is made of: the list of conversations."""
LOGIN: Final = ("static/messages/login/login.js",)
"""What the first view of somebody without a login needs besides."""
NEXT: Final = ("static/messages/conversation/conversation.js",)
"""What is imported as soon as the first view is shown, and loaded after it."""
SHEET: Final = "messages.css"
"""The style sheets of the page in one, below the release."""
LOOK: Final = "static/messages/look.js"
"""The script that runs before the page is drawn."""
_IMPORT: Final = re.compile(r'^(?:import|export|\}).*"(\.{1,2}/[^"]+)"', re.MULTILINE)
_LATER: Final = re.compile(r'\bimport\("(\.{1,2}/[^"]+)"\)(?!\.[A-Z])')
"""Imports when they are needed; not the types in comments, which have the name
of a class behind them."""
_FOLDERS: Final = {"static": assets.STATIC, "sdk": assets.SDK}
_ICONS: Final = (
    ("app.svg", "any", "image/svg+xml", "any"),
    ("app-192.png", "192x192", "image/png", "any"),
    ("app-512.png", "512x512", "image/png", "any"),
    ("maskable-512.png", "512x512", "image/png", "maskable"),
)
_COLOURS: Final = {"theme_color": "#f6f3ec", "background_color": "#f3efe6"}
"""Of theme.css and base.html."""


def _source(address: str) -> Path:
    """The file of an address such as ``static/messages/app.js``."""
    folder, _, name = address.partition("/")
    return _FOLDERS[folder] / name


@cache
def modules() -> tuple[str, ...]:
    """All modules of the page, as ``static/…`` and ``sdk/…``."""
    return _imported((*_START, *_FIRST, *LOGIN), later=True)


@cache
def first_modules() -> tuple[str, ...]:
    """Those that the first view needs, in the order in which they are needed.
    The page names them, so that browsers load all of them at once."""
    return tuple(
        dict.fromkeys(
            each for entry in (*_START, *_FIRST) for each in _imported((entry,))
        )
    )


@cache
def start_modules() -> tuple[str, ...]:
    """Those that run before the rest of :func:`first_modules`, which begin with
    them."""
    return _imported(_START)


@cache
def more_modules(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Those that :data:`LOGIN` or :data:`NEXT` needs besides
    :func:`first_modules`."""
    return tuple(sorted({*_imported(entries)}.difference(first_modules())))


def _imported(entries: Iterable[str], later: bool = False) -> tuple[str, ...]:
    """Modules and what they import; ``later``: also what they import when it is
    needed."""
    modules: dict[str, None] = {}
    waiting = [*entries]
    while waiting:
        address = waiting.pop()
        if address in modules:
            continue
        modules[address] = None
        waiting.extend(imports_of(address, later))
    return tuple(sorted(modules))


def imports_of(address: str, later: bool = True) -> list[str]:
    """What a module imports; ``later``: also what it imports when it is
    needed."""
    text = _source(address).read_text(encoding="utf-8")
    paths = (*_IMPORT.findall(text), *(_LATER.findall(text) if later else ()))
    return [normpath(f"{address}/../{path}") for path in paths]


@cache
def styles() -> tuple[str, ...]:
    """The style sheets of the page besides that of all pages, below
    ``/static/``, in their order."""
    folder = assets.STATIC / "messages" / "styles"
    return "chat.css", *sorted(
        f"messages/styles/{path.name}" for path in folder.glob("*.css")
    )


@cache
def _later() -> tuple[str, ...]:
    """Style sheets and tables that modules load when they are needed, as
    ``static/…``."""
    paths = [
        path
        for kind in ("later/*.css", "*/*.json")
        for path in (assets.STATIC / "messages").glob(kind)
    ]
    return tuple(
        sorted(f"static/messages/{path.parent.name}/{path.name}" for path in paths)
    )


@cache
def files() -> tuple[str, ...]:
    """All files that the page needs, as ``static/…`` and ``sdk/…``, but tables
    of data."""
    unread = sorted(
        path.name for path in (assets.STATIC / "icons").glob("unread-*.svg")
    )
    pictures = [
        "favicon.svg",
        *(f"icons/{name}" for name in (*(name for name, *_ in _ICONS), *unread)),
    ]
    return (
        *modules(),
        LOOK,
        *(f"static/{name}" for name in sorted(("theme.css", *styles(), *pictures))),
        *[address for address in _later() if address.endswith(".css")],
    )


_COMMENT: Final = re.compile(
    rb"^[ \t]*(?:/\*\*(?:(?!\*/).)*\*/|//[^\n]*)$", re.MULTILINE | re.DOTALL
)
"""A comment that has its lines for itself."""


def without_comments(code: bytes) -> bytes:
    """A module with empty lines in place of its comments, which are a third of
    it."""
    return _COMMENT.sub(lambda comment: b"\n" * comment[0].count(b"\n"), code)


def sheet() -> bytes:
    """The text of all :func:`styles`: in one file, because browsers draw
    nothing before they have all."""
    return b"\n".join((assets.STATIC / name).read_bytes() for name in styles())


def release(additions: Additions) -> str:
    """Names the content of the files of the page. Somebody who works on them
    need not restart the node."""
    paths = [*map(_source, sorted({*files(), *_later()})), *additions.files.values()]
    states = [(path, path.stat()) for path in paths]
    return _release(
        tuple([(path, state.st_mtime_ns, state.st_size) for path, state in states])
    )


@lru_cache(1)
def _release(states: tuple[tuple[Path, int, int], ...]) -> str:
    digest = sha256()
    for path, *_ in states:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_WORKER_PARTS: Final = (
    assets.SDK / "notifications-worker.js",
    assets.STATIC / "messages" / "worker.js",
)
"""In one text: browsers ask for each part that a worker imports."""


def manifest(look: Look) -> Response:
    """``GET /home/messages.webmanifest``: name, icons and colours, in the
    visitor's language."""
    language = language_of_visitor()
    words = TEXT[language]
    page = url_for("pages.messages")
    icons = [
        (url_for("pages.static", name=f"icons/{name}"), *rest) for name, *rest in _ICONS
    ]
    if look.picture:
        icons = [(look.picture_url, f"{look.side}x{look.side}", "image/png", "any")]
    shown: dict[str, Any] = {
        "id": page,
        "name": look.name
        if look.has_name
        else f"{look.name} · {words['messages_title']}",
        "short_name": look.name if look.has_name else words["messages_title"],
        "description": words["start_app_hint"],
        "lang": words["html_lang"],
        "start_url": f"{page}?lang={language}",
        "scope": page,
        "display": "standalone",
        **_COLOURS,
        **({"theme_color": look.colour} if look.colour else {}),
        "icons": [
            {"src": address, "sizes": sizes, "type": kind, "purpose": purpose}
            for address, sizes, kind, purpose in icons
        ],
    }
    answer = Response(msgspec.json.encode(shown), mimetype="application/manifest+json")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def worker(pages: Iterable[bytes], additions: Additions, look: Look) -> Response:
    """``GET /home/messages-worker.js``: the service worker, with its version
    and its files. ``pages``: the page in each language, of which the worker
    stores those that are opened."""
    now = release(additions)
    root = request.script_root
    code = b"\n".join([path.read_bytes() for path in _WORKER_PARTS])
    digest = sha256(code)
    for part in (now.encode(), *pages):
        digest.update(part)
    shell = {
        "version": digest.hexdigest()[:16],
        "page": url_for("pages.messages"),
        "manifest": url_for("pages.manifest"),
        "languages": LANGUAGES,
        "releases": f"{root}{RELEASES}",
        "release": f"{root}{RELEASES}{now}/",
        "files": [
            root
            + (
                f"{RELEASES}{now}/{address}"
                if address.endswith((".js", ".css"))
                else f"/{address}"
            )
            for address in (SHEET, *files(), *additions.files)
            if not address.endswith(".json")
            and address.removeprefix("static/") not in styles()
        ]
        + [url_for("pages.manifest")]
        + [address for address in (look.colours_url, look.picture_url) if address],
    }
    answer = Response(
        b"self.SHELL = " + msgspec.json.encode(shell) + b";\n" + code,
        mimetype="text/javascript",
    )
    answer.headers["Cache-Control"] = "no-cache"
    return answer
