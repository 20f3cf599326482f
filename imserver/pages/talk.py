"""The pages of the action dialect: a talk of two, and a room."""

from __future__ import annotations

from typing import Final, Protocol

from flask import abort
from werkzeug.wrappers import Response

from imserver.auth.login import Logins
from imserver.auth.tenants import Tenants
from imserver.errors import HTTP_NOT_ALLOWED
from imserver.pages.rendering import has_parameter, language_asked_for, parameter, policy, render
from imserver.pages.seen import Seen
from imserver.protocol.action import APP_PREFIX, NO_ROOM, NOBODY
from imserver.services.dialects.talks import Talks

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


class Speaking(Protocol):
    """A node: the apps and rooms that it knows."""

    @property
    def tenants(self) -> Tenants: ...
    @property
    def logins(self) -> Logins: ...
    @property
    def talks(self) -> Talks: ...


def is_asked_for() -> bool:
    """Whether the request is for a talk: ``/home/index`` is the page of two originals."""
    return has_parameter("uid", "to_uid")


class TalkPages:
    """The two pages. Stateless; never blocks.

    They are in Chinese, as the original's are, unless their address asks for another language. Who one is
    stands in the address; where the app wants a token, the address brings that too.
    """

    def __init__(self, node: Speaking, seen: Seen) -> None:
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
        stored = self._node.talks.rooms(self._node.tenants.resolve(f"{APP_PREFIX}{app}"))
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
        answer = render("talk.html", language, words, data=data, **shown)
        connect = " ".join(addresses.sources)
        answer.headers["Content-Security-Policy"] = policy(connect, media="'self'")
        return answer
