"""The routes of the pages: chats, boards, ``/gateway``, files, the SDK, page
tokens, errors.

Pages are templates without inline scripts and styles. The data for their
scripts is one JSON block in the page. Every answer has a
Content-Security-Policy that allows only our own files.
"""

from __future__ import annotations

import mimetypes
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from http import HTTPStatus
from os.path import normpath
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flask import (
    Blueprint,
    Response,
    abort,
    g,
    jsonify,
    request,
    send_from_directory,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from imserver.pages import assets, installable
from imserver.pages.additions import Additions, additions_of
from imserver.pages.address import websocket_address
from imserver.pages.declared import ChatSettings
from imserver.pages.look import BUTTON, COLOURS, PICTURE, Look
from imserver.pages.text import (
    HEADERS,
    LANGUAGES,
    TEXT,
    frame_ancestors,
    named_in_rooms,
    names_of_languages,
    policy,
)
from imserver.pages.visitors import (
    Seen,
    has_parameter,
    language_of_visitor,
    parameter,
    pick_name,
    render,
    requested_language,
)
from imserver.plugin.errors import Problems, Unavailable
from imserver.plugin.http import HttpResponse
from imserver.plugin.identity import GOCHAT, Needs, Principal
from imserver.plugin.runtime import Service
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.views import as_request, to_response

if TYPE_CHECKING:
    from imserver.pages.reference import Reference


def gateway(core: Core, seen: Seen) -> Response:
    """``GET /gateway``: tell a client to which node it shall connect.

    The answer is ``{"url": …}``, the WebSocket address of a node that is not
    stopping. If no node has an address of its own, it is the address that the
    client has used. The status is 503 if all nodes are stopping. Never blocks.
    """
    # A browser asks whether pages of other origins may send the request.
    if request.method == "OPTIONS":
        return to_response(HttpResponse(HTTPStatus.NO_CONTENT, b""))
    leases = core.overview.leases().values()
    live = [lease for lease in leases if not lease.draining]
    if not live:
        abort(Problems.NOT_READY.status)

    addresses = [
        (lease.connections, websocket_address(lease.public_ws_url)) for lease in live
    ]
    nodes = [(load, address) for load, address in addresses if address]
    url = less_loaded(nodes) or seen.websocket()
    response = to_response(HttpResponse(200, msgspec.json.encode({"url": url})))
    response.headers["Cache-Control"] = "no-store"
    return response


def less_loaded(nodes: Sequence[tuple[int, str]]) -> str:
    """Choose two nodes at random, and return the less loaded one.

    ``nodes``: the number of connections and the address of each; without nodes
    the result is ``""``. The numbers are seconds old: if all clients took the
    node with the smallest number, it would be overloaded.
    """
    if not nodes:
        return ""
    _, address = min(random.sample(nodes, min(2, len(nodes))))
    return address


_NOBODY: Final = "null"
"""The receiver of a page that was opened without the id of a user."""
_NO_ROOM: Final = "0"
"""The room of a page for messages to one user."""
_BOARD_TEXTS: Final = ("status_", "cluster_", "unit_", "no_answer")
"""Prefixes of the keys of operators' texts."""
_NODE_FIGURES: Final = ("connections", "users", "memory", "uptime", "lag", "share")
_MEANINGS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "status": {"status": (*_NODE_FIGURES, "cpus", "tasks", "waiting", "deliveries")},
    "cluster": {"cluster": ("nodes", "state", "cpu"), "status": _NODE_FIGURES},
}
"""Operators' page → prefix of texts → the figures with such texts that the page
explains."""
_OTHER_TEXTS: Final = (
    "start_",
    "status_",
    "cluster_",
    "unit_",
    "talk_",
    "messages_",
    "channels_",
    "refusal_",
    "callback_",
    "admin_",
)
"""Prefixes of the keys of texts that the chat page does not need."""
_CONVERSATION_TEXTS: Final = (
    "you",
    "earlier",
    "reconnected",
    "more",
    "less",
    "unread",
    "to_latest",
    "code",
    "enter_again",
    "retry_now",
    "no_answer",
    "send_failed",
    "send_rejected",
    "no_reason",
    "send_offline",
    "too_long",
    "over_limit",
)
"""Keys of the texts that all conversation pages need."""
_DEFAULT_APP: Final = "default"
"""The app of a new configuration."""
_ACTION_PREFIX: Final = "action:"
"""Prefix of the names of apps of the action dialect."""
_GZIP: Final = 31
"""``wbits`` of zlib: the header of gzip and the widest window."""
_FAST_LEVEL: Final = 6
"""The level of compression of a page, which is compressed for each request."""
_BEST_LEVEL: Final = 9
"""The level of compression of a file, which is compressed once."""
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
"""``Cache-Control`` of an address whose content never changes."""
_COMPRESSIBLE: Final = (
    "text/javascript",
    "text/css",
    "image/svg+xml",
    "application/json",
)
_BOARD_SECONDS: Final = 3
"""How often an operators' page reads the state."""
_KINDS: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
SDK_PATH: Final = (
    "/sdk/<any('accounts.js', 'errors.js', 'imserver.js', "
    "'messenger.js', 'notifications.js', 'notifications-worker.js'):name>"
)


_Route = tuple[str, str, Callable[..., AnyResponse]]
"""The path, the name of the endpoint, and the view."""


def create_pages(core: Core, document: Callable[[], bytes]) -> Blueprint:
    """Make the blueprint (the routes) of all pages of a node.

    ``document`` makes the OpenAPI document. Anybody may read every page. Pages
    of an app also need an open app or a token, which their views check.
    """
    for suffix, kind in _KINDS.items():
        # The types of the operating system may be wrong.
        mimetypes.add_type(kind, suffix)
    seen = Seen(core)
    additions = additions_of(core)
    look = Look(settings_of(core.config, ChatSettings), core.config.root)
    chat = _Chat(core, seen, additions, look)
    rows: tuple[_Route, ...] = (
        *_routes_of_chat(chat),
        *_routes_of_release(_Released(additions)),
        ("/api/v1/docs", "reference", _view_of_reference(document, seen)),
        ("/status", "status", _status),
        ("/cluster", "cluster", _cluster),
        ("/favicon.ico", "icon", _icon),
        (SDK_PATH, "sdk", sdk),
    )
    pages = Blueprint("pages", __name__, static_folder=None)
    for path, name, view in rows:
        pages.add_url_rule(path, name, view, methods=["GET"])
    pages.add_url_rule("/home/token", "token", chat.renew_token, methods=["POST"])
    pages.add_url_rule(
        "/gateway",
        "gateway",
        partial(gateway, core, seen),
        methods=["GET", "OPTIONS"],
        provide_automatic_options=False,
    )
    pages.after_request(_protect)
    # Refusals of other blueprints are explained, too.
    pages.after_app_request(explain)
    return pages


def _view_of_reference(
    document: Callable[[], bytes], seen: Seen
) -> Callable[[], AnyResponse]:
    """Return the view of ``GET /api/v1/docs``, the reference of the API.

    The reference is made at the first request. Most nodes never need it, and it
    takes memory.
    """

    @cache
    def references() -> Reference:
        from imserver.pages.reference import Reference

        return Reference(document, seen)

    return lambda: references().page()


def _routes_of_chat(chat: _Chat) -> tuple[_Route, ...]:
    """Return the routes of the chat pages."""
    return (
        ("/", "start", chat.start),
        ("/home/index", "home", chat.index),
        ("/home/room", "room", chat.room),
        ("/home/messages", "messages", chat.messages),
        ("/home/embed", "embedded", chat.embedded),
        ("/home/messages.webmanifest", "manifest", chat.manifest),
        (PICTURE, "picture", chat.picture),
        (COLOURS, "colours", chat.colours),
        ("/home/messages-worker.js", "worker", chat.messages_worker),
        ("/home/channels", "channels", chat.channels),
        ("/static/<path:name>", "static", chat.static),
    )


def _routes_of_release(released: _Released) -> tuple[_Route, ...]:
    """Return the routes of files whose address has the release of the page.

    A release is a name of the content of all these files.
    """
    base = f"{installable.RELEASES}<release>"
    # The content of such an address never changes.
    return (
        (f"{base}/static/<path:name>", "released", released.file),
        (f"{base}/{installable.SHEET}", "released_sheet", released.sheet),
        (f"{base}{SDK_PATH}", "released_sdk", released.sdk),
        (
            f"{base}/features/<feature>/<path:name>",
            "released_feature",
            released.of_feature,
        ),
    )


class _Chat:
    """The chat pages, and the names given to visitors. Never blocks.

    A *room* is an app that these pages list. Visitors of an open app get a name
    and a token; other apps need a token in the address.
    """

    def __init__(
        self, core: Core, seen: Seen, additions: Additions, look: Look
    ) -> None:
        """``look``: the name, the picture and the colours of the chat."""
        self._config = core.config
        self._additions = additions
        self._look = look
        self._features = core.features
        self._keys = core.keys
        self._tenants = core.tenants
        self._logins = core.logins
        self._page_tokens = core.page_tokens
        self._authority = core.authority
        self._seen = seen
        # The apps that the pages list: the rooms of the original have numbers.
        apps = core.config.apps
        self._rooms = [name for name in apps if name.isdecimal()]
        if _DEFAULT_APP in apps:
            self._rooms.append(_DEFAULT_APP)

    def _render(
        self,
        template: str,
        language: str,
        text: dict[str, str],
        data: dict[str, Any],
        media: str = "'none'",
        around: str = "'none'",
        **values: Any,
    ) -> AnyResponse:
        """Render a page whose script connects to this server.

        ``text`` and ``data``: for the script. ``values``: for the template.
        ``media`` and ``around`` have the form of a Content-Security-Policy: the
        sources of media, and the origins that may have the page in a frame.
        """
        addresses = self._seen.addresses()
        data = {
            "websocketUrl": addresses.websocket,
            "seenHost": addresses.seen_host,
            "language": TEXT[language]["html_lang"],
            "text": text,
            **data,
        }
        answer = render(template, language, data=data, **values)
        # The script may connect only to this server.
        sources = " ".join(addresses.sources)
        rules = policy(sources, media, ancestors=around)
        answer.headers["Content-Security-Policy"] = rules
        return answer

    def start(self) -> AnyResponse:
        """``GET /``: a link to the chat, and links for programmers.

        Names of apps are shown in demo mode only.
        """
        demo = self._keys.demo
        language = language_of_visitor()
        in_address = parameter("lang") or None

        first_room = self._first_room(demo)
        example_app = "APP"
        apps: Sequence[str] = ()
        if demo:
            apps = self._tenants.names()
            example_app = first_room or example_app

        links = self._links_to_pages(in_address)
        if first_room and self._logins.is_open(first_room):
            address = url_for(
                "pages.home",
                appID=first_room if demo else None,
                lang=in_address or named_in_rooms(language),
            )
            links.insert(0, (address, "start_room", "start_room_hint"))

        chat = ""
        has_messages = self._has_messages()
        if has_messages:
            chat = url_for("pages.messages", lang=in_address)
        return render(
            "start.html",
            language,
            data={},
            look=self._look,
            # A server that is only tried out shows first what programmers need.
            for_people=has_messages and (self._look.has_name or not demo),
            demo=demo,
            insecure=self._config.server.insecure,
            chat=chat,
            links=links,
            app=example_app,
            apps=apps,
            http=self._seen.http(),
        )

    def _links_to_pages(self, in_address: str | None) -> list[tuple[str, str, str]]:
        """Return the links for programmers.

        Each has an address, the key of its text, and the key of its hint.
        ``in_address``: the language in the address of the page, which the links
        keep (None: no language).
        """
        pages = []
        # A link must not lead to a page that refuses the visitor.
        if self._has_channels():
            pages.append(("pages.channels", "start_channels", "start_channels_hint"))
        pages.append(("pages.reference", "status_reference", "start_reference_hint"))
        pages.append(("pages.status", "status_title", "start_status_hint"))
        if "admin" in self._features:
            pages.append(("admin.page", "admin_title", "start_admin_hint"))
        return [
            (url_for(page, lang=in_address), label, hint) for page, label, hint in pages
        ]

    def _has_messages(self) -> bool:
        """Whether users can log in on the page of messages."""
        if self._tenants.get(GOCHAT) is None:
            return False
        return not self._logins.is_closed(GOCHAT)

    def _has_channels(self) -> bool:
        """Whether visitors may use the page of channels without a token."""
        if not self._rooms:
            return False
        app = self._rooms[-1]
        return self._tenants.get(app) is not None and self._logins.is_open(app)

    def index(self) -> AnyResponse:
        """``GET /home/index``: a room, or a conversation with one user.

        Two originals have this address. The parameters ``uid`` and ``to_uid``
        tell which page is meant.
        """
        if not has_parameter("uid", "to_uid"):
            return self._page_of_room()
        peer = parameter("to_uid") or _NOBODY
        room = parameter("groups_id") or _NO_ROOM
        return self._conversation(peer, room)

    def _first_room(self, demo: bool) -> str:
        """Return the room to which the start page links; ``""``: no room.

        In ``demo`` mode it is the usual app, if that is a room.
        """
        if demo and _DEFAULT_APP in self._rooms:
            return _DEFAULT_APP
        return self._rooms[0] if self._rooms else ""

    def _page_of_room(self) -> AnyResponse:
        """``GET /home/index?appID=``: the page of an app for a visitor.

        An unknown app gives the page of the first room; 404 if there is no
        room. The original's rooms have numbers, and are in Chinese unless
        ``lang`` names another language.
        """
        room = self._room_of_visitor()
        app: int | str
        if room.isdecimal():
            app = int(room)
            language = requested_language()
        else:
            app = room
            language = language_of_visitor()
        data = {
            "app": app,
            **self._credentials_for(room, language),
            "httpUrl": self._seen.addresses().http,
            "noticeMembers": self._config.hub.notice_members,
        }
        # The list of the page also has an app that only the visitor has named.
        rooms = self._rooms
        if room not in rooms:
            rooms = [room, *rooms]
        return self._render(
            "home.html",
            language,
            _texts_of_room(language),
            data,
            app=room,
            apps=rooms,
            has_messages=self._has_messages(),
            has_channels=self._has_channels(),
        )

    def _room_of_visitor(self) -> str:
        """Return the app in the address (``appID=``), or the first room.

        The first room is for addresses without a known app. Without rooms, the
        request ends with 404.
        """
        room = parameter("appid")
        if room in self._rooms:
            return room
        # Visitors may name an app that is not listed.
        if ":" not in room and room != GOCHAT and self._tenants.get(room) is not None:
            return room
        if not self._rooms:
            abort(Problems.NOT_FOUND.status)
        return self._rooms[0]

    def room(self) -> AnyResponse:
        """``GET /home/room?uid=[&groups_id=]``: a conversation in a room.

        The room belongs to the action dialect.
        """
        return self._conversation(_NO_ROOM, parameter("groups_id") or "1")

    def _conversation(self, peer: str, room: str) -> AnyResponse:
        """Make a page of the action dialect: to one user, or in a room.

        ``peer``: the user; a message to :data:`_NOBODY` reaches nobody.
        ``room``: :data:`_NO_ROOM` for messages to the user. The address names
        the user of the page, and has the token of this user if the app requires
        one. The page is in Chinese, as in the original, unless ``lang`` names
        another language.
        """
        language = requested_language()
        app = self._app_of_action()
        # The page lists the rooms with members in the settings, and the room in
        # the address.
        rooms, is_stored = self._rooms_of_action(app)
        named_room = "" if room == _NO_ROOM else room
        if named_room and named_room not in rooms:
            rooms.append(named_room)

        user = parameter("uid")
        token = parameter("token")
        websocket = self._seen.addresses().websocket
        data = {
            "app": int(app) if app.isdecimal() else 0,
            "user": user,
            "peer": peer,
            "room": room,
            "token": token,
            # The action dialect has a path of its own.
            "websocketUrl": websocket.removesuffix("/acc") + "/ws",
        }
        return self._render(
            "action.html",
            language,
            _texts(language, "talk_"),
            data,
            media="'self'",
            user=user,
            peer=peer,
            room=named_room,
            rooms=rooms,
            app=app,
            token=token,
            stored=is_stored,
        )

    def _app_of_action(self) -> str:
        """Return the app of the action dialect in the address, such as ``1``.

        An unknown app is replaced by ``1``, the app of the original. Ends the
        request with 403 if nobody may log in to it.
        """
        app = parameter("appid") or parameter("appname")
        if self._tenants.get(f"{_ACTION_PREFIX}{app}") is None:
            app = "1"
        if self._logins.is_closed(f"{_ACTION_PREFIX}{app}"):
            abort(Problems.NOT_ALLOWED.status)
        return app

    def messages(self) -> AnyResponse:
        """``GET /home/messages``: the page of stored messages, with a login.

        404 if no app lets users log in there.
        """
        return self._compress(self._messages(language_of_visitor()))

    def embedded(self) -> AnyResponse:
        """``GET /home/embed?appID=``: the page of stored messages for a frame.

        The page around it gives the login. 404 if nobody may log in to the app,
        or the app lists no origins.
        """
        app = self._tenants.resolve(parameter("appid") or GOCHAT)
        tenant = self._tenants.get(app)
        around = ""
        if tenant is not None:
            around = frame_ancestors(tenant.origins)
        # Without origins, any page could show a login of this server in a
        # frame.
        if not around or self._logins.is_closed(app):
            abort(Problems.NOT_FOUND.status)
        return self._compress(self._messages(language_of_visitor(), app, around))

    def _compress(self, answer: AnyResponse) -> AnyResponse:
        """Compress a page if the browser accepts it."""
        answer.headers["Vary"] += ", Accept-Encoding"
        # The page has no secret that its length could reveal.
        if request.accept_encodings["gzip"]:
            html = answer.get_data()
            answer.set_data(zlib.compress(html, _FAST_LEVEL, _GZIP))
            answer.headers["Content-Encoding"] = "gzip"
        return answer

    def manifest(self) -> AnyResponse:
        """``GET /home/messages.webmanifest``: the page as application."""
        return installable.manifest(self._look)

    def messages_worker(self) -> AnyResponse:
        """``GET /home/messages-worker.js``: the service worker of the page.

        Its text changes if the page changes in any language. So browsers notice
        a new page.
        """
        contents = []
        for language in LANGUAGES:
            page = self._messages(language)
            rules = page.headers["Content-Security-Policy"]
            contents.append(rules.encode() + page.get_data())
        return installable.worker(contents, self._additions, self._look)

    def static(self, name: str) -> AnyResponse:
        """``GET /static/…``: a file of the pages.

        The button for other pages has the colour of the chat.
        """
        if name != BUTTON or not self._look.colour:
            return static(name)
        script = self._look.button((assets.STATIC / BUTTON).read_bytes())
        answer = Response(script, mimetype="text/javascript")
        answer.headers["Cache-Control"] = "no-cache"
        # The file differs from the one on the disk, so it has a tag of its own.
        answer.add_etag()
        return answer.make_conditional(request)

    def picture(self) -> AnyResponse:
        """``GET`` the picture of the chat; 404 without a picture."""
        return self._of_look(self._look.picture, "image/png")

    def colours(self) -> AnyResponse:
        """``GET`` the colours of the chat; 404 without a colour."""
        return self._of_look(self._look.sheet.encode(), "text/css")

    def _of_look(self, content: bytes, kind: str) -> AnyResponse:
        """Make an answer with a file of the look; 404 if its content is empty.

        Browsers may store it for good if the address has its version (``v=``).
        """
        if not content:
            abort(Problems.NOT_FOUND.status)
        answer = Response(content, mimetype=kind)
        answer.headers["Cache-Control"] = "no-cache"
        if parameter("v") == self._look.version:
            answer.headers["Cache-Control"] = _FOR_GOOD
        return answer

    def _rooms_of_action(self, app: str) -> tuple[list[str], bool]:
        """Return the rooms of an app of the action dialect.

        They are the rooms with members in the settings. The second result says
        whether the app stores conversations.
        """
        tenant = self._tenants.get(self._tenants.resolve(f"{_ACTION_PREFIX}{app}"))
        if tenant is None:
            return [], False
        return list(tenant.room_members), tenant.store_conversations

    def _messages(
        self, language: str, app: str = GOCHAT, around: str = ""
    ) -> AnyResponse:
        """Make the page of messages of an app.

        ``around``: the origins that may have the page in a frame; ``""``: the
        page is not for a frame. Ends the request with 404 if no user may log
        in.
        """
        if not around and not self._has_messages():
            abort(Problems.NOT_FOUND.status)

        text = _texts(language, "messages_") | self._additions.words(language)
        release = installable.release(self._additions)
        base = f"{request.script_root}{installable.RELEASES}{release}"
        data = self._data_of_messages(app, base, is_embedded=bool(around))
        start_modules = installable.start_modules()
        answer = self._render(
            "messages.html",
            language,
            text,
            data,
            # Videos are measured before they are sent, from addresses of the
            # browser.
            media="'self' blob:",
            around=around or "'none'",
            embedded=bool(around),
            start_modules=start_modules,
            modules=installable.first_modules()[len(start_modules) :],
            login_modules=installable.more_modules(installable.LOGIN),
            next_modules=installable.more_modules(installable.NEXT),
            sheet=installable.SHEET,
            release=base,
            look=self._look,
        )
        answer.headers["Content-Security-Policy"] += (
            "; manifest-src 'self'; worker-src 'self'"
        )
        return answer

    def _data_of_messages(
        self, app: str, release: str, is_embedded: bool
    ) -> dict[str, Any]:
        """Return the data for the script of the page of messages.

        ``release``: the address of the release.
        """
        has_notifications = "notifications" in self._features
        return {
            "app": app,
            "isEmbedded": is_embedded,
            "workerUrl": url_for("pages.worker"),
            "notifications": has_notifications and not is_embedded,
            "additions": self._additions.shown(release),
            "languages": names_of_languages(),
        }

    def channels(self) -> AnyResponse:
        """``GET /home/channels?appID=&channel=``: try out channels of an app.

        The page subscribes and publishes. Visitors of an open app need no
        token, and do not get one. 404 if the app does not exist, or has no name
        in the cmd dialect.
        """
        app = parameter("appid") or next(reversed(self._rooms), "")
        # With a colon it is an app of another dialect.
        if ":" in app or self._tenants.get(app) is None:
            abort(Problems.NOT_FOUND.status)
        language = language_of_visitor()
        user, token = self._visitor_of(app, language)

        data = {
            "app": app,
            "channel": parameter("channel") or "demo:lobby",
            "user": user,
            "token": token,
            "publishUrl": f"{self._seen.http()}/api/v1/channels/publish",
            "demo": self._keys.demo,
        }
        return self._render(
            "channels.html",
            language,
            _texts(language, "channels_", "self_mark", "people_more"),
            data,
            app=app,
            query=_query_of_channels(),
            has_messages=self._has_messages(),
            has_chat=bool(self._rooms) and self._logins.is_open(self._rooms[0]),
        )

    def _visitor_of(self, app: str, language: str) -> tuple[str, str]:
        """Return the user and the token of a visitor of the page of channels.

        In an open app the visitor gets a name, and needs no token: it is
        ``""``. Otherwise both are from the token in the address.
        """
        resolved = self._tenants.resolve(app)
        if self._logins.is_open(resolved):
            return pick_name(language), ""
        user, _ = self._holder_of_token(resolved)
        return user, parameter("token")

    def _credentials_for(self, room: str, language: str) -> dict[str, Any]:
        """Return the visitor's name and token, as data for the page.

        An open app gets a new name and a new token. Otherwise the address has a
        session token (``token=``), which is not renewed.
        """
        app = self._tenants.resolve(room)
        if self._logins.is_open(app):
            name = pick_name(language)
            # The token is not renewed here: the app has made it, and knows how
            # long it is valid.
            return {
                "user": name,
                "token": self._page_tokens.make(app, name),
                "tokenSeconds": self._config.api.page_token_seconds,
                "tokenUrl": url_for("pages.token"),
            }
        user, expires_at = self._holder_of_token(app)
        return {
            "user": user,
            "token": parameter("token"),
            "tokenSeconds": max(expires_at - time(), 0),
            "tokenUrl": "",
        }

    def _holder_of_token(self, app: str) -> tuple[str, float]:
        """Return the user of the token in the address, and its end.

        The time is in Unix seconds. Ends the request if the app does not accept
        the token.
        """
        try:
            holder = self._logins.session_of(parameter("token"))
        except Unavailable as error:
            abort(error.problem.status)
        if holder is None or holder.app != app:
            abort(Problems.TOKEN_INVALID.status)
        # The log names the user of the request.
        principal = Principal("session", apps=frozenset({app}), user=holder.user)
        as_request().by = principal.label
        return holder.user, holder.expires_at

    def renew_token(self) -> AnyResponse:
        """``POST /home/token``: a new page token for a visitor.

        The request has ``appID``, ``userID``, and the valid page token of this
        user in ``authorization``.
        """
        http_request = as_request()
        visitor = self._authority.identify(
            Needs.VISITOR, http_request.headers, http_request.host
        )
        http_request.by = visitor.label

        named = (self._tenants.resolve(parameter("appid")), parameter("userid"))
        # With a token of another user, a visitor could take over that name.
        if visitor.kind != "page" or (visitor.app, visitor.user) != named:
            abort(Problems.UNAUTHORIZED.status)

        answer = jsonify(
            token=self._page_tokens.make(visitor.app, visitor.user),
            seconds=self._config.api.page_token_seconds,
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _texts(language: str, *prefixes: str) -> dict[str, str]:
    """Return the texts that a conversation page needs: key → text.

    All such pages share some texts. The ``prefixes`` of keys select the others.
    """
    all_prefixes = ("state_", "banner_", "refused_", *prefixes)
    return {
        key: text
        for key, text in TEXT[language].items()
        if key in _CONVERSATION_TEXTS or key.startswith(all_prefixes)
    }


def _texts_of_room(language: str) -> dict[str, str]:
    """Return the texts that the page of an app needs: key → text."""
    return {
        key: text
        for key, text in TEXT[language].items()
        if not key.startswith(_OTHER_TEXTS)
    }


def _query_of_channels() -> dict[str, str | None]:
    """Return the parameters that links to other languages keep."""
    query = {}
    for name in ("appID", "channel", "token"):
        query[name] = parameter(name.lower()) or None
    return query


def _status() -> AnyResponse:
    """``GET /status``: what this node does, for operators."""
    return _board("status", "/system/state?detail=true")


def _cluster() -> AnyResponse:
    """``GET /cluster``: what all nodes do, for operators."""
    return _board("cluster", "/system/state?cluster=true&detail=true")


def _board(name: str, state_url: str) -> AnyResponse:
    """Make an operators' page.

    ``name``: ``status`` for this node, ``cluster`` for all nodes. Its script
    reads the state from ``state_url``, with the key that the operator enters.
    """
    language = language_of_visitor()
    words = TEXT[language]
    # The meanings of figures are in the page itself, not in the script.
    text = {
        key: text
        for key, text in words.items()
        if key.startswith(_BOARD_TEXTS) and "_means_" not in key
    }

    data = {
        "stateUrl": request.script_root + state_url,
        "seconds": _BOARD_SECONDS,
        "language": words["html_lang"],
        "text": text,
    }
    meanings = _meanings_of_figures(name, words)
    return render(f"{name}.html", language, data=data, here=name, meanings=meanings)


def _meanings_of_figures(name: str, words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (label, meaning) of the figures on an operators' page."""
    meanings = []
    for prefix, figures in _MEANINGS[name].items():
        for figure in figures:
            label = words[f"{prefix}_{figure}"]
            meanings.append((label, words[f"{prefix}_means_{figure}"]))
    return meanings


def static(name: str) -> AnyResponse:
    """``GET /static/…``: a file of the pages."""
    return _file(assets.STATIC, name)


def _icon() -> AnyResponse:
    """``GET /favicon.ico``."""
    return static("favicon.svg")


def sdk(name: str) -> AnyResponse:
    """``GET /sdk/…``: a module of the SDK, for pages of any origin."""
    return _for_all(_file(assets.SDK, name))


def _for_all(answer: AnyResponse) -> AnyResponse:
    """Let pages of all origins read an answer."""
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


class _Released(Service):
    """The files of the messages page, below its release.

    The *release* is a name of their content. So an address never changes its
    content, and browsers store it for good.
    """

    additions: Additions

    def file(self, release: str, name: str) -> AnyResponse:
        """``GET /release/<release>/static/…``: a file of the messages page."""
        answer = _file(assets.STATIC, name, installable.without_comments)
        return self._stored(answer, release)

    def sheet(self, release: str) -> AnyResponse:
        """``GET /release/<release>/messages.css``: all style sheets."""
        answer = Response(installable.sheet(), mimetype="text/css")
        answer.headers["Cache-Control"] = "no-cache"
        version = installable.release(self.additions)
        _pack(answer, installable.SHEET, version, answer.get_data)
        return self._stored(answer, release)

    def sdk(self, release: str, name: str) -> AnyResponse:
        """``GET /release/<release>/sdk/…``: a module of the SDK."""
        answer = _file(assets.SDK, name, installable.without_comments)
        return self._stored(_for_all(answer), release)

    def of_feature(self, release: str, feature: str, name: str) -> AnyResponse:
        """``GET /release/<release>/features/<feature>/…``: its file."""
        if feature not in self.additions.folders:
            abort(Problems.NOT_FOUND.status)
        folder = self.additions.folders[feature]
        answer = _file(folder, name, installable.without_comments)
        return self._stored(answer, release)

    def _stored(self, answer: AnyResponse, release: str) -> AnyResponse:
        """Let browsers store an answer of the current release for good.

        A page that was opened earlier may ask for a file of another release: it
        gets the current content, which must not be stored under that address.
        """
        is_current = release == installable.release(self.additions)
        has_content = answer.status_code in (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED)
        if is_current and has_content:
            answer.headers["Cache-Control"] = _FOR_GOOD
        return answer


def _file(
    folder: Path, name: str, shorten: Callable[[bytes], bytes] | None = None
) -> Response:
    """Make the answer with a file, compressed if possible.

    ``shorten`` makes the shorter text of modules that are sent compressed
    (None: the text stays).
    """
    # Browsers revalidate each time and mostly get 304, so a page never mixes
    # modules of two releases.
    answer = send_from_directory(folder, name)
    answer.headers["Cache-Control"] = "no-cache"
    if answer.mimetype not in _COMPRESSIBLE:
        return answer

    # The tag changes with the time and the size of the file.
    etag = answer.get_etag()[0] or ""
    path = normpath(f"{folder}/{name}")
    if shorten and answer.mimetype == "text/javascript":
        # A path of its own: the module may also be sent with its comments.
        _pack(answer, f"{path} short", etag, lambda: shorten(answer.get_data()))
    else:
        _pack(answer, path, etag, answer.get_data)
    if "Content-Encoding" in answer.headers:
        # A weak tag: the bytes differ, and the content is equal.
        answer.set_etag(etag, weak=True)
    return answer


def _pack(
    answer: Response, path: str, version: str, content: Callable[[], bytes]
) -> None:
    """Compress a whole answer if the client accepts it.

    ``content`` returns the bytes to compress. The result is remembered under
    ``path``, until its ``version`` changes.
    """
    answer.headers["Vary"] = "Accept-Encoding"
    if answer.status_code != HTTPStatus.OK or request.method != "GET":
        return
    if not request.accept_encodings["gzip"]:
        return

    answer.direct_passthrough = False
    compressed = _compress_once(path, version, content)
    answer.close()  # closes the file, which need not be read any more
    answer.set_data(compressed)
    answer.headers["Content-Encoding"] = "gzip"


def _compress_once(path: str, version: str, content: Callable[[], bytes]) -> bytes:
    """Return the compressed content, as remembered for this path and version."""
    stored = _compressed.get(path)
    if stored is None or stored[0] != version:
        stored = (version, zlib.compress(content(), _BEST_LEVEL, _GZIP))
        _compressed[path] = stored
    return stored[1]


_compressed: Final[dict[str, tuple[str, bytes]]] = {}
"""Path of a file, without ``..`` → its last version, and its compressed
content."""


def _protect(answer: Response) -> Response:
    """Add the security headers of all pages to an answer that lacks them."""
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers.setdefault("Content-Security-Policy", policy("'self'"))
    return answer


def explain(refused: Response) -> Response:
    """Replace the answer to a refused request by a page that explains why.

    The answer stays as it is if it is no refusal, or if the client is a program
    and not a browser.
    """
    problem = g.get("refusal")
    if problem is None or not _wants_page():
        return refused

    # The form of the page asks again with these parameters, and another token.
    parameters = [
        (name, value) for name, value in request.args.items() if name.lower() != "token"
    ]
    answer = render(
        "refusal.html",
        language_of_visitor(),
        data={},
        problem=problem,
        request_id=g.request_id,
        others=parameters,
    )
    answer.status_code = problem.status
    for name in ("Allow", "X-Request-Id"):
        if name in refused.headers:
            answer.headers[name] = refused.headers[name]
    answer.headers["Vary"] = "Accept, Accept-Language"
    answer.headers["Content-Security-Policy"] = _policy_of_refusal(problem.status)
    answer.headers.update(HEADERS)
    return answer


def _policy_of_refusal(status: int) -> str:
    """Return the policy of the page that explains a refusal with this status.

    Only the page of a wrong token has a form.
    """
    form = "'none'"
    if status == Problems.TOKEN_INVALID.status:
        form = "'self'"
    return policy("'none'", form=form)


def _wants_page() -> bool:
    """Whether the client of this request is a browser that shows the answer."""
    if request.method not in ("GET", "HEAD") or request.path.startswith("/api/"):
        return False
    accepted = request.accept_mimetypes
    # Programs accept both types alike.
    return bool(accepted["text/html"] > accepted["application/json"])
