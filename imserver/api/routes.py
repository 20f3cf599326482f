"""The table of the HTTP API: every route is a row, and every row is answered by :func:`answer`.

Two doors use it. The front calls :func:`answer` straight for the rows in :data:`HOT`, in the greenlet that
has read the request; the Flask views of :mod:`imserver.api.views` call it for all rows. So both give the same
bytes.
How a refusal looks is said by the row's style.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from msgspec.structs import replace

from imserver.api import action, client, gochat, metrics, operate, presence, push
from imserver.api.call import Api, Call, app_from_json, app_named, wait_for_broadcast
from imserver.api.form import BadBody, fold_pairs, parse_form, parse_json
from imserver.api.reply import BAD_PARAMETER, PREFLIGHT, Answer, Refused
from imserver.api.route import Route
from imserver.api.style import CLIENT, PROBLEM, Problem
from imserver.api.v1 import table
from imserver.auth.authority import refusal
from imserver.auth.principal import (
    ADMIN,
    ANYONE,
    DEMO,
    NOBODY,
    PUSH_OR_ADDRESS,
    PUSH_OR_VISITOR,
    READ_OR_ADDRESS,
    Principal,
    may,
)
from imserver.errors import (
    HTTP_BAD_REQUEST,
    HTTP_BODY_TOO_LARGE,
    HTTP_FORBIDDEN,
    HTTP_INTERNAL_ERROR,
    HTTP_METHOD_NOT_ALLOWED,
    HTTP_STORAGE_UNAVAILABLE,
    StorageUnavailable,
)
from imserver.protocol.forgiving import has_nul
from imserver.transport.body import MAX_PUBLIC_BODY_BYTES
from imserver.transport.fast import FastRequest

log = logging.getLogger(__name__)


CMD_ROUTES: Final = (
    Route("POST", "/user/sendMessage", PUSH_OR_ADDRESS, push.send_message, "form", hot=True),
    Route(
        "POST",
        "/user/sendMessageAll",
        PUSH_OR_VISITOR,
        push.send_message_all,
        "form",
        hot=True,
        user_in="userid",
    ),
    Route(
        "POST", "/user/sendMessageBatch", PUSH_OR_ADDRESS, push.send_message_batch, "body", hot=True, raw=True
    ),
    Route("GET", "/user/online", READ_OR_ADDRESS, presence.user_online, "query", hot=True),
    Route("POST", "/user/onlineBatch", READ_OR_ADDRESS, presence.user_online_batch, "form", hot=True),
    Route("POST", "/user/kick", ADMIN, operate.kick, "form", hot=True),
    Route("GET", "/system/state", READ_OR_ADDRESS, operate.system_state, hot=True),
    Route("GET", "/health", ANYONE, operate.health, hot=True),
    Route("GET", "/ready", ANYONE, operate.ready, hot=True),
    Route("GET", "/metrics", ADMIN, metrics.metrics, style=PROBLEM),
)

ROUTES: Final[tuple[Route, ...]] = CMD_ROUTES + client.ROUTES + action.ROUTES + gochat.ROUTES + table.ROUTES
"""All of them, in families."""

HOT: Final = {(row.method.encode(), row.path.encode()): row for row in ROUTES if row.hot}
"""(method, path) as they stand in the request → the row that the front answers itself."""

_TEXTS = frozenset({"userid", "msgid", "message", "cursor"})
_NUMBERS = frozenset({"banseconds"})


def answer(api: Api, route: Route, request: FastRequest) -> Answer:
    """Answer one request: find out who asks, whether they may, and do what the row says.

    HEAD and OPTIONS are answered too; the caller leaves out the body of an answer to HEAD. Never raises: what
    goes wrong inside is logged, and refused as the row's style does it. May switch to another greenlet.
    """
    if request.method == "OPTIONS":
        if route.style is CLIENT:
            return route.style.refuse(HTTP_METHOD_NOT_ALLOWED, request)
        return PREFLIGHT
    principal = admit(api, route, request)
    if type(principal) is Answer:
        return principal
    assert type(principal) is Principal
    return carry_out(api, route, request, principal)


def admit(api: Api, route: Route, request: FastRequest) -> Principal | Answer:
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


def _token_of(route: Route, request: FastRequest) -> str:
    if route.token_in != "?token":
        return request.headers.get(route.token_in, "")
    try:
        return parse_form(request.query).get("token", "")
    except BadBody:  # it is refused when it is read
        return ""


def carry_out(api: Api, route: Route, request: FastRequest, principal: Principal) -> Answer:
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


def _carry_out(api: Api, route: Route, request: FastRequest, principal: Principal) -> Answer:
    try:
        if api.rates.per_second and route.limited:
            api.rates.require(principal, request.host)
        if request.too_large or len(request.body) > body_limit(api, principal):
            return route.style.refuse(HTTP_BODY_TOO_LARGE, request)
        if route.raw:
            return route.function(api, Call({}, "", principal, request.body, None, request))
        if route.method == "GET":
            params = parse_form(request.query)
            app = route.app_of(api, params) if route.app_of else app_named(api, params.get("appid", ""))
            call = Call(params, app, principal, b"", None, request)
        else:
            call = _read_body(api, principal, request.headers.get("content-type", ""), request)
            if route.app_of:
                call.app = route.app_of(api, call.params)
        if principal.apps is not None and route.app and (call.app or principal.user):
            as_user = (
                not (route.user_in and principal.user) or call.params.get(route.user_in) == principal.user
            )
            if not (may(principal, route.need, call.app) and as_user):
                return route.style.refuse(HTTP_FORBIDDEN, request)
        return route.function(api, call)
    except Refused as refused:
        return refused.answer
    except Problem as problem:
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


def _read_body(api: Api, principal: Principal, content_type: str, request: FastRequest) -> Call:
    body = request.body
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        if has_nul(body):
            raise BadBody("a text contains U+0000")
        fields = parse_json(body)
        app = app_from_json(api, fields.get("appid", 0))
        return Call(_json_params(fields), app, principal, body, fields, request)
    if kind == "multipart/form-data":
        # Hardly anybody sends one, and what reads it is large.
        from imserver.api.multipart import read_multipart

        pairs = read_multipart(body, content_type)
        params = fold_pairs(pairs)
        return Call(params, app_named(api, params.get("appid", "")), principal, b"", None, request, pairs)
    if kind and kind != "application/x-www-form-urlencoded" and body:
        raise BadBody("neither a form nor JSON")
    params = parse_form(body)
    return Call(params, app_named(api, params.get("appid", "")), principal, body, None, request)


def _json_params(fields: dict[str, Any]) -> dict[str, str]:
    """The parameters in a JSON object as text. A value of a wrong type is refused, not converted."""
    params: dict[str, str] = {}
    for name, value in fields.items():
        if name in _TEXTS:
            if not isinstance(value, str):
                raise Refused(BAD_PARAMETER)
            params[name] = value
        elif name in _NUMBERS:
            if type(value) not in (int, float):
                raise Refused(BAD_PARAMETER)
            params[name] = str(value)
    return params
