"""The table of the HTTP API: every route is a row, and every row is answered by
:func:`imserver.http.call.answer`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from imserver.auth.authority import bearer, is_token
from imserver.auth.principal import Needs
from imserver.http.call import Api, answer, with_key
from imserver.transport.http1 import MAX_PUBLIC_BODY_BYTES, HttpRoutes, row_of


def routes_at(api: Api, everywhere: bool = False, hot: bool = False) -> HttpRoutes:
    """The rows of the API, by method and path. ``hot``: only those that the front server answers itself.
    ``everywhere``: only those that WebSocket listeners serve, too."""
    return {
        (each.route.method, each.route.path): partial(answer, api, each)
        for each in api.endpoints.values()
        if (each.route.style.everywhere or not everywhere) and (each.route.hot or not hot)
    }


def unread_body_limit(api: Api, method: str, path: str, headers: Mapping[str, str], host: str) -> int:
    """Bytes that are read of a body before :func:`imserver.http.call.admit` has decided. Never switches.

    A known key, a listed address and demo mode may send ``limits.body_bytes``; a user's token, which is
    not verified here, a few messages; all others what a form without identity needs.
    """
    limits = api.limits
    public, some = limits.public_body_bytes, min(8 * MAX_PUBLIC_BODY_BYTES, limits.body_bytes)
    endpoint = row_of(api.endpoints, method, path)
    row = None if endpoint is None else endpoint.route
    if row is not None and row.need is Needs.SIGNED:
        return some
    if row is None or not row.need.scope:
        return public
    if api.keys.demo:
        return limits.body_bytes
    authorization = (with_key(row, headers) if row.key_in else headers).get("authorization", "")
    if not authorization:
        known = row.need.address and api.authority.lists_address(host)
        return limits.body_bytes if known else public
    credential = bearer(authorization)
    key = api.keys.find(credential)
    if key is not None and key.scopes:
        return limits.body_bytes
    return some if row.need.users and is_token(credential) else public
