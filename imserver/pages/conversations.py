"""The conversation pages: two users or a room in the action dialect, and stored messages of accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flask import abort
from werkzeug.wrappers import Response

from imserver.errors import HTTP_NOT_ALLOWED, HTTP_NOT_FOUND
from imserver.pages.text import (
    has_parameter,
    language_asked_for,
    language_of_visitor,
    parameter,
    policy,
    render,
)
from imserver.pages.visitors import Seen
from imserver.protocol.action import APP_PREFIX, NO_ROOM, NOBODY

if TYPE_CHECKING:
    from imserver.parts import Parts

_FIRST_APP: Final = "1"
_FIRST_ROOM: Final = "1"
_CHAT_PATH: Final = "/acc"
_TALK_PATH: Final = "/ws"
_WORDS: Final = ("talk_", "state_", "banner_", "refused_")
"""Beginnings of the keys of what the scripts say, besides those in :data:`_MORE_WORDS`."""
_MORE_WORDS: Final = (
    *("you", "earlier", "reconnected", "more", "less", "unread", "to_latest", "code", "enter_again"),
    *("retry_now", "no_answer", "send_offline", "too_long"),
)


def is_asked_for() -> bool:
    """Whether the request is for a talk: ``/home/index`` is the page of two originals."""
    return has_parameter("uid", "to_uid")


class TalkPages:
    """The two pages. Stateless; never blocks.

    They are in Chinese, as the original's are, unless their address asks for another language. Who one is
    stands in the address; where the app wants a token, the address brings that too.
    """

    def __init__(self, node: Parts, seen: Seen) -> None:
        self._node = node
        self._seen = seen

    def peer(self) -> Response:
        """``GET /home/index?uid=&to_uid=``: a talk with one user. Without ``to_uid`` nobody hears it."""
        return self._page(parameter("to_uid") or NOBODY, parameter("groups_id") or NO_ROOM)

    def room(self) -> Response:
        """``GET /home/room?uid=[&groups_id=]``: a talk with all in a room."""
        return self._page(NO_ROOM, parameter("groups_id") or _FIRST_ROOM)

    def _page(self, peer: str, room: str) -> Response:
        addresses = self._seen.addresses()
        language, words = language_asked_for()
        app = parameter("appid") or parameter("appname")
        if self._node.tenants.get(f"{APP_PREFIX}{app}") is None:
            app = _FIRST_APP
        if self._node.logins.is_closed(f"{APP_PREFIX}{app}"):
            abort(HTTP_NOT_ALLOWED.status)
        tenant = self._node.tenants.get(self._node.tenants.resolve(f"{APP_PREFIX}{app}"))
        kept = tenant is not None and tenant.keep_talks
        user, token = parameter("uid"), parameter("token")
        data = {
            "app": int(app) if app.isdecimal() else 0,
            "user": user,
            "peer": peer,
            "room": room,
            "token": token,
            "websocketUrl": addresses.websocket.removesuffix(_CHAT_PATH) + _TALK_PATH,
            "seenHost": addresses.seen_host,
            "language": words["html_lang"],
            "text": {
                key: text for key, text in words.items() if key in _MORE_WORDS or key.startswith(_WORDS)
            },
        }
        here = "" if room == NO_ROOM else room
        stored = self._node.action_service.rooms(self._node.tenants.resolve(f"{APP_PREFIX}{app}"))
        rooms = dict.fromkeys([*stored, here] if here else stored)
        shown = {
            "user": user,
            "peer": peer,
            "room": here,
            "rooms": list(rooms),
            "app": app,
            "token": token,
            "kept": kept,
        }
        answer = render("action.html", language, words, data=data, **shown)
        connect = " ".join(addresses.sources)
        answer.headers["Content-Security-Policy"] = policy(connect, media="'self'")
        return answer


APP: Final = "gochat"
"""The app whose accounts the page is for."""
_MESSAGES_WORDS: Final = ("messages_", "state_", "banner_", "refused_", "talk_")
"""Beginnings of the keys of what the scripts say, besides those in :data:`_MESSAGES_MORE_WORDS`."""
_MESSAGES_MORE_WORDS: Final = (
    *("you", "more", "less", "unread", "to_latest", "code", "enter_again"),
    *("retry_now", "no_answer", "send_failed", "send_offline", "too_long"),
)


def messages(node: Parts, seen: Seen) -> Response:
    """``GET /home/messages``: whoever has an account logs in on the page itself. 404 where there is no such
    app, or nobody may log in to it."""
    if node.tenants.get(APP) is None or node.logins.is_closed(APP):
        abort(HTTP_NOT_FOUND.status)
    addresses = seen.addresses()
    language, words = language_of_visitor()
    data = {
        "app": APP,
        "websocketUrl": addresses.websocket,
        "seenHost": addresses.seen_host,
        "language": words["html_lang"],
        "text": {
            key: text
            for key, text in words.items()
            if key in _MESSAGES_MORE_WORDS or key.startswith(_MESSAGES_WORDS)
        },
    }
    answer = render("messages.html", language, words, data=data)
    connect = " ".join(addresses.sources)
    answer.headers["Content-Security-Policy"] = policy(connect, media="'self'")
    return answer
