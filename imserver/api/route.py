"""What a route is: one row of the table in :mod:`imserver.api.routes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import CMD, Style
from imserver.auth.principal import Need

AppFrom = Literal["", "query", "form", "body", "header", "token"]
"""Where the app of a request stands; ``""``: the route is for no app. ``body``: in the JSON, once or for each
thing that is to be done. ``token``: it is that of the token, or gochat."""


class Route(Struct, frozen=True):
    """One row. ``need``: who may ask. ``app``: where the app stands for which they must be allowed to.

    ``hot``: the front answers it. ``raw``: the function reads query and body itself. ``style``: how it
    refuses, and whether it answers on WebSocket listeners. ``limited``: requests count against the rate of
    their key. ``app_of``: the app that the parameters name (``""``: none), if it is no number in ``appID``.
    ``user_in``: the parameter in which a user (of a page, or with a session token) must name themselves.
    ``token_in``: the header with the token of a user where it is not ``authorization``; ``?token``: the
    query may have it.
    """

    method: str
    path: str
    need: Need
    function: Callable[[Api, Call], Answer]
    app: AppFrom = ""
    hot: bool = False
    raw: bool = False
    style: Style = CMD
    limited: bool = False
    app_of: Callable[[Api, Mapping[str, str]], str] | None = None
    user_in: str = ""
    token_in: str = ""
