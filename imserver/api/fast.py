"""The front's adapter: the hot rows of the route table as the front calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imserver.api.call import Api
from imserver.api.reply import header_block
from imserver.api.route import Route
from imserver.api.routes import HOT, ROUTES, answer
from imserver.auth.authority import bearer, is_token
from imserver.transport.body import MAX_PUBLIC_BODY_BYTES
from imserver.transport.fast import FastRequest, FastResponse, FastRoutes


def fast_routes(api: Api, everywhere: bool = False) -> FastRoutes:
    """Every hot row, by method and path as text; ``everywhere``: only those for WebSocket listeners, too."""
    return _adapters(api, HOT.values(), everywhere)


def routes_at(api: Api, everywhere: bool = False) -> FastRoutes:
    """The same of all rows."""
    return _adapters(api, ROUTES, everywhere)


def _adapters(api: Api, rows: Iterable[Route], everywhere: bool) -> FastRoutes:
    return {
        (row.method, row.path): _adapter(api, row) for row in rows if row.style.everywhere or not everywhere
    }


def body_limit(api: Api, method: str, path: str, headers: Mapping[str, str], host: str) -> int:
    """Bytes that are read of a body before :func:`imserver.api.routes.admit` has decided. Never switches.

    A known key, a listed address and demo mode may send ``limits.body_bytes``; a user's token, which is
    not verified here, a few messages; all others what a form without identity needs.
    """
    public = min(MAX_PUBLIC_BODY_BYTES, api.body_bytes)
    row = _ROWS.get((method, path))
    if row is None or not row.need.scope:
        return public
    if api.keys.demo:
        return api.body_bytes
    authorization = headers.get("authorization", "")
    if not authorization:
        known = row.need.address and api.authority.lists_address(host)
        return api.body_bytes if known else public
    credential = bearer(authorization)
    if api.keys.find(credential) is not None:
        return api.body_bytes
    return min(_TOKEN_BODY_BYTES, api.body_bytes) if row.need.users and is_token(credential) else public


_TOKEN_BODY_BYTES = 8 * MAX_PUBLIC_BODY_BYTES
_ROWS = {(row.method, row.path): row for row in ROUTES}


class _adapter:  # a function with two fixed arguments; a closure costs more a call
    __slots__ = ("_api", "_route")

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self, request: FastRequest) -> FastResponse:
        finished = answer(self._api, self._route, request)
        return FastResponse(finished.status, header_block(finished), finished.body)
