"""The routes of the pages: chat, boards, ``/gateway``, files, the SDK, page tokens, errors.

Pages are templates without any inline script or style; what a script needs to know is in the page as one
JSON block. Every answer carries a Content-Security-Policy that allows our own files and nothing else.
"""

from __future__ import annotations

import mimetypes
import random
from collections.abc import Collection
from functools import cache
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flask import Blueprint, Response, abort, jsonify, redirect, request, send_from_directory, url_for
from werkzeug.wrappers import Response as AnyResponse

from imserver import assets
from imserver.api.reply import PREFLIGHT
from imserver.api.v1.table import described
from imserver.api.views import as_request, to_response
from imserver.auth.principal import ANYONE, VISITOR, Need, may
from imserver.cluster.registry import Lease
from imserver.errors import HTTP_NOT_READY, HTTP_TOKEN_INVALID, HTTP_UNAUTHORIZED, HttpProblem
from imserver.pages.address import check, websocket_address
from imserver.pages.conversations import APP, TalkPages, is_asked_for, messages
from imserver.pages.text import HEADERS, language_of_visitor, parameter, policy, render
from imserver.pages.visitors import Names, Seen
from imserver.transport.exchange import HttpResponse

if TYPE_CHECKING:
    from imserver.pages.reference import Reference
    from imserver.parts import Parts


class Gateway:
    """Recommends a node. Stateless; never blocks."""

    def __init__(self, node: Parts, seen: Seen) -> None:
        self._node = node
        self._seen = seen

    def answer(self) -> Response:
        """``{"url": …}``: the address of a node that is not about to stop; 503 if there is none.

        Where no node has an address of its own, they are all behind the one that the caller has used.
        """
        if request.method == "OPTIONS":
            return to_response(PREFLIGHT)
        live = [lease for lease in self._node.overview.leases().values() if not lease.draining]
        if not live:
            abort(HTTP_NOT_READY.status)
        lease = less_loaded([lease for lease in live if websocket_address(lease.public_ws_url)])
        url = self._seen.websocket() if lease is None else websocket_address(lease.public_ws_url)
        response = to_response(HttpResponse(200, msgspec.json.encode({"url": url})))
        response.headers["Cache-Control"] = "no-store"
        return response


def less_loaded(leases: Collection[Lease]) -> Lease | None:
    """The one with fewer connections of two that are chosen at random; None of none.

    Figures of load are seconds old: if all took the emptiest, a crowd would fall upon it.
    """
    two = random.sample(list(leases), min(2, len(leases)))
    return min(two, key=lambda lease: lease.connections, default=None)


_MIME_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STATUS_SECONDS: Final = 3
_BOARD_TEXTS: Final = ("status_", "cluster_", "unit_")
"""Beginnings of the keys of what only operators' pages say."""
_OTHER_TEXTS: Final = (*_BOARD_TEXTS, "talk_", "messages_", "refusal_")
"""Those of what the chat page does not say."""
_FALLBACK_ROOM: Final = "101"


NEEDS: Final[dict[str, Need]] = {
    "/": ANYONE,
    "/home/index": ANYONE,
    "/home/room": ANYONE,
    "/home/messages": ANYONE,
    "/home/token": VISITOR,
    "/api/v1/docs": ANYONE,
    "/status": ANYONE,
    "/cluster": ANYONE,
    "/static/<path:name>": ANYONE,
    "/favicon.ico": ANYONE,
    "/sdk/<any('imserver.js', 'messenger.js'):name>": ANYONE,
    "/gateway": ANYONE,
}
"""Who may ask for which page. Pages of apps are shown where anybody may log in, or to whom has a token."""


def create_pages(node: Parts) -> Blueprint:
    """The blueprint of all pages of ``node``.

    Raises :class:`imserver.config.values.ConfigError` when an address in the configuration is none.
    """
    check(node.config)
    for kind, suffix in ((kind, suffix) for suffix, kind in _MIME_TYPES.items()):
        mimetypes.add_type(kind, suffix)  # what the machine says of .js is not to be relied on
    pages = Blueprint("pages", __name__, template_folder=str(assets.TEMPLATES), static_folder=None)
    seen = Seen(node)
    chat, talk, gateway = _Chat(node, seen), TalkPages(node, seen), Gateway(node, seen)

    @cache
    def references() -> Reference:
        # Loaded when it is first asked for: most nodes never are, and memory counts.
        from imserver.pages.reference import Reference

        return Reference(lambda: described(node.api), seen, render)

    pages.add_url_rule("/", view_func=_start, methods=["GET"])
    pages.add_url_rule(
        "/home/index", "home", lambda: talk.peer() if is_asked_for() else chat.page(), methods=["GET"]
    )
    pages.add_url_rule("/home/room", "room", talk.room, methods=["GET"])
    pages.add_url_rule("/home/messages", "messages", lambda: messages(node, seen), methods=["GET"])
    pages.add_url_rule("/home/token", "token", chat.renew_token, methods=["POST"])
    pages.add_url_rule("/api/v1/docs", "reference", lambda: references().page(), methods=["GET"])
    pages.add_url_rule("/status", view_func=status, methods=["GET"])
    pages.add_url_rule("/cluster", view_func=cluster, methods=["GET"])
    pages.add_url_rule("/static/<path:name>", view_func=static, methods=["GET"])
    pages.add_url_rule(
        "/favicon.ico", "icon", view_func=static, methods=["GET"], defaults={"name": "favicon.svg"}
    )
    pages.add_url_rule("/sdk/<any('imserver.js', 'messenger.js'):name>", view_func=sdk, methods=["GET"])
    pages.add_url_rule(
        "/gateway",
        view_func=gateway.answer,
        methods=["GET", "OPTIONS"],
        provide_automatic_options=False,
    )
    pages.after_request(_protect)
    return pages


class _Chat:
    """The chat page. Owns the names given to newcomers; never blocks."""

    def __init__(self, node: Parts, seen: Seen) -> None:
        self._node = node
        self._seen = seen
        self._names = Names()
        self._rooms = [name for name in node.config.apps if name.isdecimal()] or [_FALLBACK_ROOM]

    def page(self) -> AnyResponse:
        """``GET /home/index?appID=``: the room's page, with a name and a token made for the newcomer."""
        addresses = self._seen.addresses()
        room = parameter("appid")
        if room not in self._rooms:
            room = self._rooms[0]
        language, words = language_of_visitor()
        data = {
            "app": int(room),
            **self._pass(room),
            "websocketUrl": addresses.websocket,
            "httpUrl": addresses.http,
            "seenHost": addresses.seen_host,
            "noticeMembers": self._node.config.hub.notice_members,
            "language": words["html_lang"],
            "text": {key: text for key, text in words.items() if not key.startswith(_OTHER_TEXTS)},
        }
        shown = {"room": room, "rooms": self._rooms, "has_messages": APP in self._node.config.apps}
        answer = render("home.html", language, words, data=data, **shown)
        answer.headers["Content-Security-Policy"] = policy(" ".join(addresses.sources))
        return answer

    def _pass(self, room: str) -> dict[str, Any]:
        """Who the visitor is, and the token that shows it.

        Only an open app gives its visitors a token. Elsewhere the address has to bring a session token
        (``token=``), which nobody renews.
        """
        node = self._node
        app = node.tenants.resolve(room)
        if node.logins.is_open(app):
            name = self._names.pick(app, node.hub.is_online)
            return {
                "user": name,
                "token": node.page_tokens.make(app, name),
                "tokenSeconds": node.config.api.page_token_seconds,
                "tokenUrl": url_for("pages.token"),
            }
        token = parameter("token")
        holder = node.logins.session_of(token)
        if holder is None or holder.app != app:
            abort(HTTP_TOKEN_INVALID.status)
        seconds = max(holder.expires_at - time(), 0)
        return {"user": holder.user, "token": token, "tokenSeconds": seconds, "tokenUrl": ""}

    def renew_token(self) -> AnyResponse:
        """``POST /home/token`` (``appID``, ``userID``, bearer: their valid page token): a fresh token."""
        node, asked = self._node, as_request()
        visitor = node.authority.identify(NEEDS["/home/token"], asked.headers, asked.host)
        if not may(visitor, VISITOR, node.tenants.resolve(parameter("appid"))):
            abort(HTTP_UNAUTHORIZED.status)
        if parameter("userid") != visitor.user:
            abort(HTTP_UNAUTHORIZED.status)
        answer = jsonify(
            token=node.page_tokens.make(visitor.app, visitor.user),
            seconds=node.config.api.page_token_seconds,
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _start() -> AnyResponse:
    return redirect(url_for("pages.home"))


def status() -> AnyResponse:
    """``GET /status``: this node."""
    return _board("status", "/system/state?detail=true")


def cluster() -> AnyResponse:
    """``GET /cluster``: all nodes."""
    return _board("cluster", "/system/state?cluster=true&detail=true")


def _board(name: str, state_url: str) -> AnyResponse:
    """An operators' page: one without data, whose script reads the state with the key that it is given."""
    language, words = language_of_visitor()
    data = {
        "stateUrl": state_url,
        "seconds": _STATUS_SECONDS,
        "language": words["html_lang"],
        "text": {key: text for key, text in words.items() if key.startswith((*_BOARD_TEXTS, "no_answer"))},
    }
    return render(f"{name}.html", language, words, data=data, here=name)


def static(name: str) -> AnyResponse:
    """``GET /static/…``: a file of the pages."""
    return _file(assets.STATIC, name)


def sdk(name: str) -> AnyResponse:
    """``GET /sdk/…``: a module of the SDK, which pages of other origins may import too."""
    answer = _file(assets.SDK, name)
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


def _file(folder: Path, name: str) -> Response:
    # Asked for anew each time, answered 304 mostly: modules of two releases never meet in one page.
    answer = send_from_directory(folder, name)
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _protect(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers.setdefault("Content-Security-Policy", policy("'self'"))
    return answer


_PROGRAMS: Final = "/api/"
"""Where addresses of programs begin: whoever looks at these wants to see what programs see."""


def refusal(problem: HttpProblem, request_id: str) -> Response | None:
    """A page that says what ``problem`` is; None: the visitor has not come to read a page."""
    accepted = request.accept_mimetypes
    if request.method not in ("GET", "HEAD") or request.path.startswith(_PROGRAMS):
        return None
    if accepted["text/html"] <= accepted["application/json"]:
        return None  # programs take either
    language, words = language_of_visitor()
    answer = render("refusal.html", language, words, data={}, problem=problem, request_id=request_id)
    answer.status_code = problem.status
    answer.headers["Vary"] = "Accept, Accept-Language"
    answer.headers["Content-Security-Policy"] = policy("'none'")
    answer.headers.update(HEADERS)
    return answer
