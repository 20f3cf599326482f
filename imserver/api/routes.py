"""The table of the HTTP API: every route is a row, and every row is answered by
:func:`imserver.http.call.answer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from imserver.auth.authority import bearer, is_token
from imserver.auth.principal import SIGNED
from imserver.http.call import Api, Route, answer, with_key
from imserver.transport.exchange import HttpRoutes, row_of
from imserver.transport.http1 import MAX_PUBLIC_BODY_BYTES


def fast_routes(api: Api, everywhere: bool = False) -> HttpRoutes:
    """The rows that the front server answers itself, by method and path: every hot one.

    ``everywhere``: only those that WebSocket listeners serve, too.
    """
    return _bound(api, (row for row in api.routes if row.hot), everywhere)


def routes_at(api: Api, everywhere: bool = False) -> HttpRoutes:
    """All rows of the API, by method and path."""
    return _bound(api, api.routes, everywhere)


def _bound(api: Api, rows: Iterable[Route], everywhere: bool) -> HttpRoutes:
    return {
        (row.method, row.path): partial(answer, api, row)
        for row in rows
        if row.style.everywhere or not everywhere
    }


def unread_body_limit(api: Api, method: str, path: str, headers: Mapping[str, str], host: str) -> int:
    """Bytes that are read of a body before :func:`imserver.http.call.admit` has decided. Never switches.

    A known key, a listed address and demo mode may send ``limits.body_bytes``; a user's token, which is
    not verified here, a few messages; all others what a form without identity needs.
    """
    public = api.public_body_bytes
    row = row_of(api.rows, method, path)
    if row is not None and row.need is SIGNED:
        return min(_TOKEN_BODY_BYTES, api.body_bytes)
    if row is None or not row.need.scope:
        return public
    if api.services.keys.demo:
        return api.body_bytes
    authorization = (with_key(row, headers) if row.key_in else headers).get("authorization", "")
    if not authorization:
        known = row.need.address and api.services.authority.lists_address(host)
        return api.body_bytes if known else public
    credential = bearer(authorization)
    if api.services.keys.find(credential) is not None:
        return api.body_bytes
    return min(_TOKEN_BODY_BYTES, api.body_bytes) if row.need.users and is_token(credential) else public


_TOKEN_BODY_BYTES = 8 * MAX_PUBLIC_BODY_BYTES
