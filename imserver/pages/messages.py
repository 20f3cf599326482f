"""The page of messages that are kept: accounts, who write to each other and in groups."""

from __future__ import annotations

from typing import Final, Protocol

from flask import abort
from werkzeug.wrappers import Response

from imserver.auth.login import Logins
from imserver.auth.tenants import Tenants
from imserver.errors import HTTP_NOT_FOUND
from imserver.pages.rendering import language_of_visitor, policy, render
from imserver.pages.seen import Seen

APP: Final = "gochat"
"""The app whose accounts the page is for."""
_WORDS: Final = ("messages_", "state_", "banner_", "refused_", "talk_")
"""Beginnings of the keys of what the scripts say, besides those in :data:`_MORE_WORDS`."""
_MORE_WORDS: Final = (
    *("you", "more", "less", "unread", "to_latest", "code", "enter_again"),
    *("retry_now", "no_answer", "send_failed", "send_offline", "too_long"),
)


class Keeping(Protocol):
    """A node: the apps that it knows."""

    @property
    def tenants(self) -> Tenants: ...
    @property
    def logins(self) -> Logins: ...


def messages(node: Keeping, seen: Seen) -> Response:
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
        "text": {key: text for key, text in words.items() if key in _MORE_WORDS or key.startswith(_WORDS)},
    }
    answer = render("messages.html", language, words, data=data)
    connect = " ".join(addresses.sources)
    answer.headers["Content-Security-Policy"] = policy(connect, media="'self'")
    return answer
