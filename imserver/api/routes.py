"""The table of the HTTP API: every route is a row, and every row is answered by :func:`answer`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from imserver.api import action, client, cmd, gochat
from imserver.api.call import Api, Call, Route, app_from_json, app_named, prepare, wait_for_broadcast
from imserver.api.form import BadBody, fold_pairs, parse_form, parse_json, read_multipart
from imserver.api.reply import BAD_PARAMETER, CLIENT, PREFLIGHT, ApiProblem, RequestRefused
from imserver.api.v1 import table
from imserver.auth.authority import bearer, is_token, refusal
from imserver.auth.principal import (
    ANYONE,
    DEMO,
    NOBODY,
    Principal,
    may,
)
from imserver.errors import (
    HTTP_BAD_REQUEST,
    HTTP_BODY_TOO_LARGE,
    HTTP_INTERNAL_ERROR,
    HTTP_METHOD_NOT_ALLOWED,
    HTTP_STORAGE_UNAVAILABLE,
    StorageUnavailable,
)
from imserver.protocol.forgiving import has_nul
from imserver.transport.body import MAX_PUBLIC_BODY_BYTES
from imserver.transport.exchange import HttpRequest, HttpResponse, HttpRoutes

log = logging.getLogger(__name__)


ROUTES: Final[tuple[Route, ...]] = cmd.ROUTES + client.ROUTES + action.ROUTES + gochat.ROUTES + table.ROUTES
"""All of them, in families."""

HOT: Final = {(row.method.encode(), row.path.encode()): row for row in ROUTES if row.hot}
"""(method, path) as they stand in the request → the row that the front answers itself."""

_TEXTS = frozenset({"userid", "msgid", "message", "cursor"})
_NUMBERS = frozenset({"banseconds"})


def answer(api: Api, route: Route, request: HttpRequest) -> HttpResponse:
    """Answer one request: find out who asks, whether they may, and do what the row says.

    HEAD and OPTIONS are answered too; the caller leaves out the body of an answer to HEAD. Never raises: what
    goes wrong inside is logged, and refused as the row's style does it. May switch to another greenlet.
    """
    if request.method == "OPTIONS":
        if route.style is CLIENT:
            return route.style.refuse(HTTP_METHOD_NOT_ALLOWED, request)
        return PREFLIGHT
    principal = admit(api, route, request)
    if type(principal) is HttpResponse:
        return principal
    assert type(principal) is Principal
    return carry_out(api, route, request, principal)


def admit(api: Api, route: Route, request: HttpRequest) -> Principal | HttpResponse:
    """Who makes a request; or the refusal, if they may not. Nothing of the body is read. May switch."""
    need = route.need
    if need is ANYONE:
        return NOBODY
    if api.keys.demo and need.scope and not need.users:
        return DEMO
    try:
        token = _token_of(route, request) if route.token_in else ""
        principal = api.authority.identify(need, request.headers, request.host, token)
    except StorageUnavailable:
        return route.style.refuse(HTTP_STORAGE_UNAVAILABLE, request)
    return principal if may(principal, need) else route.style.refuse(refusal(principal), request)


def _token_of(route: Route, request: HttpRequest) -> str:
    if route.token_in != "?token":
        return request.headers.get(route.token_in, "")
    try:
        return parse_form(request.query).get("token", "")
    except BadBody:  # it is refused when it is read
        return ""


def carry_out(api: Api, route: Route, request: HttpRequest, principal: Principal) -> HttpResponse:
    """Answer a request whose body has come, of a principal who was admitted. May switch."""
    filled = api.services.flusher.bulk_filled
    finished = _carry_out(api, route, request, principal)
    if api.services.flusher.bulk_filled != filled:
        wait_for_broadcast(api, filled)
    if api.rates.per_second and route.limited:
        left = api.rates.headers(principal, request.host)
        return replace(finished, headers=finished.headers + left)
    return finished


def body_limit(api: Api, principal: Principal) -> int:
    """Longest body that is read of a principal."""
    return min(api.body_bytes, MAX_PUBLIC_BODY_BYTES) if principal.kind == "nobody" else api.body_bytes


def _carry_out(api: Api, route: Route, request: HttpRequest, principal: Principal) -> HttpResponse:
    try:
        if api.rates.per_second and route.limited:
            api.rates.require(principal, request.host)
        if request.too_large or len(request.body) > body_limit(api, principal):
            return route.style.refuse(HTTP_BODY_TOO_LARGE, request)
        if route.read is not None:
            call = Call({}, "", principal, request, request.body)
        elif route.method == "GET":
            params = parse_form(request.query)
            app = route.app_of(api, params) if route.app_of else app_named(api, params.get("appid", ""))
            call = Call(params, app, principal, request)
        else:
            call = _read_body(api, principal, request.headers.get("content-type", ""), request)
            if route.app_of:
                call.app = route.app_of(api, call.params)
        prepare(api, route, call)
        return route.function(api, call)
    except RequestRefused as refused:
        return refused.answer
    except ApiProblem as problem:
        refusal = route.style.refuse(problem.problem, request, problem.detail)
        return replace(refusal, headers=refusal.headers + problem.headers) if problem.headers else refusal
    except BadBody:
        return route.style.refuse(HTTP_BAD_REQUEST, request)
    except StorageUnavailable:
        return route.style.refuse(HTTP_STORAGE_UNAVAILABLE, request)
    except Exception:
        log.exception(
            "%s %s from %s failed", request.method, route.path, request.host, extra={"request": request.id}
        )
        return route.style.refuse(HTTP_INTERNAL_ERROR, request)


def _read_body(api: Api, principal: Principal, content_type: str, request: HttpRequest) -> Call:
    body = request.body
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        if has_nul(body):
            raise BadBody("a text contains U+0000")
        fields = parse_json(body)
        app = app_from_json(api, fields.get("appid", 0))
        return Call(_json_params(fields), app, principal, request, body, fields)
    if kind == "multipart/form-data":
        pairs = read_multipart(body, content_type)
        params = fold_pairs(pairs)
        return Call(params, app_named(api, params.get("appid", "")), principal, request, pairs=pairs)
    if kind and kind != "application/x-www-form-urlencoded" and body:
        raise BadBody("neither a form nor JSON")
    params = parse_form(body)
    return Call(params, app_named(api, params.get("appid", "")), principal, request, body)


def _json_params(fields: dict[str, Any]) -> dict[str, str]:
    """The parameters in a JSON object as text. A value of a wrong type is refused, not converted."""
    params: dict[str, str] = {}
    for name, value in fields.items():
        if name in _TEXTS:
            if not isinstance(value, str):
                raise RequestRefused(BAD_PARAMETER)
            params[name] = value
        elif name in _NUMBERS:
            if type(value) not in (int, float):
                raise RequestRefused(BAD_PARAMETER)
            params[name] = str(value)
    return params


def fast_routes(api: Api, everywhere: bool = False) -> HttpRoutes:
    """Every hot row, by method and path as text; ``everywhere``: only those for WebSocket listeners, too."""
    return _bound(api, HOT.values(), everywhere)


def routes_at(api: Api, everywhere: bool = False) -> HttpRoutes:
    """The same of all rows."""
    return _bound(api, ROUTES, everywhere)


def _bound(api: Api, rows: Iterable[Route], everywhere: bool) -> HttpRoutes:
    return {
        (row.method, row.path): partial(answer, api, row)
        for row in rows
        if row.style.everywhere or not everywhere
    }


def unread_body_limit(api: Api, method: str, path: str, headers: Mapping[str, str], host: str) -> int:
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
