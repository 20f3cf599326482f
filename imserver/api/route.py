"""What a route is: one row of the table in :mod:`imserver.api.routes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import CMD, Style

ANY_KEY: Final = "any"
"""A scope that every key has."""


class Route(Struct, frozen=True):
    """One row. ``scope``: what a caller's key has to allow (``""``: no key needed, or the function asks;
    :data:`ANY_KEY`: any key will do).

    ``hot``: the front answers it. ``page``: a page token will do, for its own app. ``raw``: the function
    reads query and body itself. ``style``: how it refuses, and whether it answers on WebSocket listeners.
    ``limited``: requests count against the rate of their key.
    ``app_of``: the app that the parameters of a GET name (``""``: none), where it is no number in ``appID``.
    """

    method: str
    path: str
    scope: str
    function: Callable[[Api, Call], Answer]
    hot: bool = False
    page: bool = False
    raw: bool = False
    style: Style = CMD
    limited: bool = False
    app_of: Callable[[Api, Mapping[str, str]], str] | None = None
