"""The manifest and the service worker of the messages page. They make it an
application that browsers can install, and open without a network.

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
from imserver.pages.look import VERSION_DIGITS, Look
from imserver.pages.text import LANGUAGES, TEXT
from imserver.pages.visitors import language_of_visitor

RELEASES: Final = "/release/"
"""Prefix of the addresses of files of a release:
``/release/<release>/static/…`` and ``…/sdk/…``."""
_START: Final = ("static/messages/start.js",)
"""The module that shows the list of the last visit, and then imports the
others."""
_FIRST: Final = ("static/messages/session/connection.js", "static/messages/app.js")
"""The modules of the first view: the list of conversations."""
LOGIN: Final = ("static/messages/login/login.js",)
"""The additional modules for the first view of a visitor without a login."""
NEXT: Final = ("static/messages/conversation/conversation.js",)
"""The modules that are imported as soon as the first view is shown, and loaded
after it."""
SHEET: Final = "messages.css"
"""The style sheets of the page in one, below the release."""
LOOK: Final = "static/messages/look.js"
"""The script that runs before the page is drawn."""
_IMPORT: Final = re.compile(r'^(?:import|export|\}).*"(\.{1,2}/[^"]+)"', re.MULTILINE)
_LATER: Final = re.compile(r'\bimport\("(\.{1,2}/[^"]+)"\)(?!\.[A-Z])')
"""Matches imports of modules when they are needed. It does not match the types
in comments, which are followed by the name of a class."""
_FOLDERS: Final = {"static": assets.STATIC, "sdk": assets.SDK}
# File, sizes, type, and purpose of each icon.
_ICONS: Final = (
    ("app.svg", "any", "image/svg+xml", "any"),
    ("app-192.png", "192x192", "image/png", "any"),
    ("app-512.png", "512x512", "image/png", "any"),
    ("maskable-512.png", "512x512", "image/png", "maskable"),
)
_COLOURS: Final = {"theme_color": "#f6f3ec", "background_color": "#f3efe6"}
"""The colours of theme.css and base.html."""


def _source(address: str) -> Path:
    """Return the file of an address such as ``static/messages/app.js``."""
    folder, _, name = address.partition("/")
    return _FOLDERS[folder] / name


@cache
def modules() -> tuple[str, ...]:
    """Return all modules of the page, as ``static/…`` and ``sdk/…``."""
    return _imported((*_START, *_FIRST, *LOGIN), later=True)


@cache
def first_modules() -> tuple[str, ...]:
    """Return the modules that the first view needs, in the order of their need.

    The page names them, so that browsers load all of them at once.
    """
    modules: dict[str, None] = {}
    for entry in (*_START, *_FIRST):
        modules.update(dict.fromkeys(_imported((entry,))))
    return tuple(modules)


@cache
def start_modules() -> tuple[str, ...]:
    """Return the modules that run first."""
    return _imported(_START)


@cache
def more_modules(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modules that :data:`LOGIN` or :data:`NEXT` needs.

    Modules of the first view are left out, because they are loaded already.
    """
    more = set(_imported(entries)).difference(first_modules())
    return tuple(sorted(more))


def _imported(entries: Iterable[str], later: bool = False) -> tuple[str, ...]:
    """Return these modules and all modules that they import, sorted.

    Their modules may import others, and so on. ``later``: also follow imports
    that a module makes only when it needs them.
    """
    modules: set[str] = set()
    unread = [*entries]
    while unread:
        address = unread.pop()
        if address in modules:
            continue
        modules.add(address)
        unread.extend(imports_of(address, later))
    return tuple(sorted(modules))


def imports_of(address: str, later: bool = True) -> list[str]:
    """Read which modules a module imports.

    ``later``: also modules that it imports when it needs them, by
    ``import("./x.js")``.
    """
    text = _source(address).read_text(encoding="utf-8")
    paths = _IMPORT.findall(text)
    if later:
        paths += _LATER.findall(text)
    return [normpath(f"{address}/../{path}") for path in paths]


@cache
def styles() -> tuple[str, ...]:
    """Return the style sheets of the page, below ``/static/``, in their order.

    The style sheet of all pages is left out.
    """
    folder = assets.STATIC / "messages" / "styles"
    names = sorted(f"messages/styles/{path.name}" for path in folder.glob("*.css"))
    return ("chat.css", *names)


@cache
def _files_loaded_later() -> tuple[str, ...]:
    """Return style sheets and tables that modules load when they are needed.

    They are named as ``static/…``.
    """
    folder = assets.STATIC / "messages"
    paths = [*folder.glob("later/*.css"), *folder.glob("*/*.json")]
    addresses = [f"static/messages/{path.parent.name}/{path.name}" for path in paths]
    return tuple(sorted(addresses))


@cache
def files() -> tuple[str, ...]:
    """Return all files that the page needs, as ``static/…`` and ``sdk/…``.

    Tables of data are left out, because modules load them later.
    """
    icons = [name for name, *_ in _ICONS]
    icons += [path.name for path in (assets.STATIC / "icons").glob("unread-*.svg")]
    names = ["theme.css", *styles(), "favicon.svg"]
    names += [f"icons/{name}" for name in icons]
    static_files = [f"static/{name}" for name in sorted(names)]
    later_styles = [
        address for address in _files_loaded_later() if address.endswith(".css")
    ]
    return (*modules(), LOOK, *static_files, *later_styles)


_COMMENT: Final = re.compile(
    rb"^[ \t]*(?:/\*\*(?:(?!\*/).)*\*/|//[^\n]*)$", re.MULTILINE | re.DOTALL
)
"""Matches a comment on lines of its own."""


def without_comments(code: bytes) -> bytes:
    """Return the text of a module without its comments.

    Empty lines take their place, so that the numbers of lines in errors are
    right.
    """
    return _COMMENT.sub(_empty_lines, code)


def _empty_lines(comment: re.Match[bytes]) -> bytes:
    """Return as many empty lines as a comment has."""
    return b"\n" * comment[0].count(b"\n")


def sheet() -> bytes:
    """Return the text of all :func:`styles` in one file.

    Browsers draw nothing before they have all style sheets, so there is only
    one.
    """
    return b"\n".join((assets.STATIC / name).read_bytes() for name in styles())


def release(additions: Additions) -> str:
    """Return the release: a name of the content of all files of the page.

    If a file changes, the release changes without a restart of the node.
    """
    addresses = sorted({*files(), *_files_loaded_later()})
    paths = [*map(_source, addresses), *additions.files.values()]
    # The contents are read again only if a file has another time or size.
    states = []
    for path in paths:
        state = path.stat()
        states.append((path, state.st_mtime_ns, state.st_size))
    return _release(tuple(states))


@lru_cache(1)
def _release(states: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the release of files.

    ``states``: the path, the time of the last change, and the size of each.
    """
    digest = sha256()
    for path, *_ in states:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:VERSION_DIGITS]


_WORKER_PARTS: Final = (
    assets.SDK / "notifications-worker.js",
    assets.STATIC / "messages" / "worker.js",
)
"""The parts of the worker. They are joined into one text, because browsers
request each part that a worker imports."""


def manifest(look: Look) -> Response:
    """``GET /home/messages.webmanifest``: describes the page as an application.

    It has the name, the icons and the colours, in the visitor's language.
    """
    language = language_of_visitor()
    words = TEXT[language]
    page = url_for("pages.messages")
    name, short_name = _names_of_application(look, words["messages_title"])
    colours = dict(_COLOURS)
    if look.colour:
        colours["theme_color"] = look.colour

    fields: dict[str, Any] = {
        "id": page,
        "name": name,
        "short_name": short_name,
        "description": words["start_app_hint"],
        "lang": words["html_lang"],
        "start_url": f"{page}?lang={language}",
        "scope": page,
        "display": "standalone",
        **colours,
        "icons": _icons_of(look),
    }
    answer = Response(msgspec.json.encode(fields), mimetype="application/manifest+json")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def _names_of_application(look: Look, title: str) -> tuple[str, str]:
    """Return the long and the short name of the application.

    ``title``: of the page. The name of the server alone does not say what the
    application does.
    """
    if look.has_name:
        return look.name, look.name
    return f"{look.name} · {title}", title


def _icons_of(look: Look) -> list[dict[str, str]]:
    """Return the icons of the application, in the form of a manifest.

    They are the picture of the chat, or the icons of imserver.
    """
    icons = []
    if look.picture:
        # A manifest has the sizes in the form 512x512.
        size = f"{look.side}x{look.side}"
        icons.append((look.picture_url, size, "image/png", "any"))
    else:
        for name, sizes, kind, purpose in _ICONS:
            address = url_for("pages.static", name=f"icons/{name}")
            icons.append((address, sizes, kind, purpose))
    return [
        {"src": address, "sizes": sizes, "type": kind, "purpose": purpose}
        for address, sizes, kind, purpose in icons
    ]


def worker(pages: Iterable[bytes], additions: Additions, look: Look) -> Response:
    """``GET /home/messages-worker.js``: the service worker.

    Before its code, the text has its version and the addresses of the files
    that it stores: ``self.SHELL = {…};``. ``pages``: the page in each language,
    which is a part of the version.
    """
    current = release(additions)
    releases = f"{request.script_root}{RELEASES}"
    code = b"\n".join([path.read_bytes() for path in _WORKER_PARTS])
    version = _version_of_worker(code, current, pages)
    shell = {
        "version": version,
        "page": url_for("pages.messages"),
        "manifest": url_for("pages.manifest"),
        "languages": LANGUAGES,
        "releases": releases,
        "release": f"{releases}{current}/",
        "files": _stored_files(f"{releases}{current}", additions, look),
    }
    text = b"self.SHELL = " + msgspec.json.encode(shell) + b";\n" + code
    answer = Response(text, mimetype="text/javascript")
    # The browser must notice a new version at each visit.
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _version_of_worker(code: bytes, current: str, pages: Iterable[bytes]) -> str:
    """Return a version that changes with what the worker stores."""
    digest = sha256(code)
    digest.update(current.encode())
    for page in pages:
        digest.update(page)
    return digest.hexdigest()[:VERSION_DIGITS]


def _stored_files(base: str, additions: Additions, look: Look) -> list[str]:
    """Return the addresses of the files that the worker stores.

    ``base``: the address of the release.
    """
    stored = []
    for address in (SHEET, *files(), *additions.files):
        # The styles are in SHEET, and tables are stored when they are used.
        is_in_sheet = address.removeprefix("static/") in styles()
        if address.endswith(".json") or is_in_sheet:
            continue
        # Icons have no release in their address.
        is_in_release = address.endswith((".js", ".css"))
        folder = base if is_in_release else request.script_root
        stored.append(f"{folder}/{address}")

    stored.append(url_for("pages.manifest"))
    stored += [url for url in (look.colours_url, look.picture_url) if url]
    return stored
