"""The front's adapter: the hot rows of the route table as the front calls them."""

from __future__ import annotations

from imserver.api.call import Api
from imserver.api.reply import BAD_PARAMETER, HEADERS
from imserver.api.routes import HOT, Route, answer
from imserver.transport.fast import FastRequest, FastResponse, FastRoutes

FORWARDING_HEADERS = ("x-forwarded-for", "forwarded", "x-forwarded-host", "x-real-ip", "via")
"""Headers that only a proxy sends."""


def fast_routes(api: Api) -> FastRoutes:
    """Every hot row, by method and path as text."""
    return {(row.method, row.path): _adapter(api, row) for row in HOT.values()}


class _adapter:  # a function with two fixed arguments; a closure costs more a call
    __slots__ = ("_api", "_route")

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self, request: FastRequest) -> FastResponse:
        if request.too_large:
            return FastResponse(BAD_PARAMETER.status, HEADERS, BAD_PARAMETER.body)
        headers = request.headers
        auth = self._api.auth
        if auth.watching:
            auth.look_at(headers.get("host", ""), any(name in headers for name in FORWARDING_HEADERS))
        finished = answer(
            self._api,
            self._route,
            request.method,
            request.query,
            headers.get("content-type", ""),
            request.body,
            headers.get("authorization", ""),
            request.host,
            headers.get("x-request-id", ""),
        )
        return FastResponse(finished.status, HEADERS, finished.body)
