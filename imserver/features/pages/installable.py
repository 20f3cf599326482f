"""What makes the messages page an application that browsers install: its manifest, and a service worker that
opens it without a network.

The worker asks the network first. It answers from its store only if the server does not answer, so a browser
never stays on an old release. The store belongs to one content of the files: if one changes, the address of
the worker stays and its content changes, and browsers then fetch all files anew.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from flask import Response, url_for

from imserver import assets
from imserver.features.pages.text import LANGUAGES, TEXT
from imserver.features.pages.visitors import language_of_visitor

ENTRY: Final = "static/messages/app.js"
"""The module that the page starts with."""
_IMPORT: Final = re.compile(r'^(?:import|export|\}).*"(\.{1,2}/[^"]+)"', re.MULTILINE)
_LATER: Final = re.compile(r'\bimport\("(\.{1,2}/[^"]+)"\)(?!\.[A-Z])')
"""Imports when they are needed; not the types in comments, which have the name of a class behind them."""
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
def modules(later: bool = False) -> tuple[str, ...]:
    """The modules of the page, as ``static/…`` and ``sdk/…``: the entry and what it imports.

    ``later``: also those that it imports when they are needed.
    """
    found: dict[str, None] = {}
    waiting = [ENTRY]
    while waiting:
        address = waiting.pop()
        if address in found:
            continue
        found[address] = None
        text = _source(address).read_text(encoding="utf-8")
        for path in (*_IMPORT.findall(text), *(_LATER.findall(text) if later else ())):
            parts = address.split("/")[:-1]
            for part in path.split("/"):
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            waiting.append("/".join(parts))
    return tuple(sorted(found))


@cache
def styles() -> tuple[str, ...]:
    """The style sheets of the page besides that of all pages, below ``/static/``."""
    return "chat.css", *sorted(f"messages/{path.name}" for path in (assets.STATIC / "messages").glob("*.css"))


@cache
def files() -> tuple[str, ...]:
    """All files that the page needs, as ``static/…`` and ``sdk/…``."""
    pictures = ["favicon.svg", *(f"icons/{name}" for name, *_ in _ICONS)]
    return (*modules(later=True), *(f"static/{name}" for name in sorted(("theme.css", *styles(), *pictures))))


@cache
def version() -> str:
    """Names the content of the files, the templates and the texts of the page."""
    digest = sha256(msgspec.json.encode(TEXT))
    parts = (_worker(), assets.SDK / "notifications-worker.js")
    for path in (*map(_source, files()), *sorted(assets.TEMPLATES.glob("*.html")), *parts):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _worker() -> Path:
    return assets.STATIC / "messages" / "worker.js"


def manifest() -> Response:
    """``GET /home/messages.webmanifest``: name, icons and colours, in the visitor's language."""
    language, words = language_of_visitor()
    page = url_for("pages.messages")
    shown: dict[str, Any] = {
        "id": page,
        "name": f"imserver · {words['messages_title']}",
        "short_name": words["messages_title"],
        "description": words["start_app_hint"],
        "lang": words["html_lang"],
        "start_url": f"{page}?lang={language}",
        "scope": page,
        "display": "standalone",
        **_COLOURS,
        "icons": [
            {
                "src": url_for("pages.static", name=f"icons/{name}"),
                "sizes": sizes,
                "type": kind,
                "purpose": purpose,
            }
            for name, sizes, kind, purpose in _ICONS
        ],
    }
    answer = Response(msgspec.json.encode(shown), mimetype="application/manifest+json")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def worker() -> Response:
    """``GET /home/messages-worker.js``: the service worker, with its version and its files."""
    page = url_for("pages.messages")
    endpoints = {"static": "pages.static", "sdk": "pages.sdk"}
    shell = {
        "version": version(),
        "page": page,
        "languages": LANGUAGES,
        "files": [
            url_for(endpoints[folder], name=name)
            for folder, _, name in (address.partition("/") for address in files())
        ],
    }
    code = _worker().read_bytes()
    answer = Response(
        b"self.SHELL = " + msgspec.json.encode(shell) + b";\n" + code, mimetype="text/javascript"
    )
    answer.headers["Cache-Control"] = "no-cache"
    return answer
