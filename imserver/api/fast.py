"""The front's adapter: the hot rows of the route table as the front calls them."""

from __future__ import annotations

from imserver.api.call import Api
from imserver.api.reply import header_block
from imserver.api.route import Route
from imserver.api.routes import HOT, answer
from imserver.transport.fast import FastRequest, FastResponse, FastRoutes


def fast_routes(api: Api, everywhere: bool = False) -> FastRoutes:
    """Every hot row, by method and path as text; ``everywhere``: only those for WebSocket listeners, too."""
    return {
        (row.method, row.path): _adapter(api, row)
        for row in HOT.values()
        if row.style.everywhere or not everywhere
    }


class _adapter:  # a function with two fixed arguments; a closure costs more a call
    __slots__ = ("_api", "_route")

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self, request: FastRequest) -> FastResponse:
        finished = answer(self._api, self._route, request)
        return FastResponse(finished.status, header_block(finished), finished.body)
