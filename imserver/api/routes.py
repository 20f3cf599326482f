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
from imserver.api.call import Api, Call, app_from_json, app_named, require_app, wait_for_broadcast
from imserver.api.form import BadBody, fold_pairs, parse_form, parse_json
from imserver.api.guests import guest
from imserver.api.reply import BAD_PARAMETER, PREFLIGHT, Answer, Refused
from imserver.api.route import ANY_KEY, Route
from imserver.api.style import CLIENT, PROBLEM, Problem
from imserver.api.v1 import table
from imserver.auth import ANYBODY, NOBODY, Caller
from imserver.errors import (
    HTTP_BAD_REQUEST,
    HTTP_BODY_TOO_LARGE,
    HTTP_FORBIDDEN,
    HTTP_INTERNAL_ERROR,
    HTTP_METHOD_NOT_ALLOWED,
    HTTP_STORAGE_UNAVAILABLE,
    HTTP_UNAUTHORIZED,
    StorageUnavailable,
)
from imserver.protocol.forgiving import has_nul
from imserver.transport.fast import FastRequest

log = logging.getLogger(__name__)


CMD_ROUTES: Final = (
    Route("POST", "/user/sendMessage", "push", push.send_message, hot=True),
    Route("POST", "/user/sendMessageAll", "push", push.send_message_all, hot=True, page=True),
    Route("POST", "/user/sendMessageBatch", "push", push.send_message_batch, hot=True, raw=True),
    Route("GET", "/user/online", "read", presence.user_online, hot=True),
    Route("POST", "/user/onlineBatch", "read", presence.user_online_batch, hot=True),
    Route("POST", "/user/kick", "admin", operate.kick, hot=True),
    Route("GET", "/system/state", "read", operate.system_state, hot=True),
    Route("GET", "/health", "", operate.health, hot=True),
    Route("GET", "/ready", "", operate.ready, hot=True),
    Route("GET", "/metrics", "admin", metrics.metrics, style=PROBLEM),
)

ROUTES: Final[tuple[Route, ...]] = CMD_ROUTES + client.ROUTES + action.ROUTES + gochat.ROUTES + table.ROUTES
"""All of them, in families."""

HOT: Final = {(row.method.encode(), row.path.encode()): row for row in ROUTES if row.hot}
"""(method, path) as they stand in the request → the row that the front answers itself."""

_TEXTS = frozenset({"userid", "msgid", "message", "cursor"})
_NUMBERS = frozenset({"banseconds"})


def answer(api: Api, route: Route, request: FastRequest) -> Answer:
    """Answer one request: read it, check who asks, do what the row says.

    HEAD and OPTIONS are answered too; the caller leaves out the body of an answer to HEAD. Never raises: what
    goes wrong inside is logged, and refused as the row's style does it. May switch to another greenlet.
    """
    if request.method == "OPTIONS":
        if route.style is CLIENT:
            return route.style.refuse(HTTP_METHOD_NOT_ALLOWED, request)
        return PREFLIGHT
    caller = ANYBODY
    if route.scope and not api.auth.demo:
        caller = api.auth.caller(request.headers.get("authorization", ""))
        if caller is NOBODY:
            caller = guest(api, route, request)
        if route.scope not in caller.scopes and not (route.page and caller.user):
            if not caller.key:
                return route.style.refuse(HTTP_UNAUTHORIZED, request)
            if route.scope != ANY_KEY:
                return route.style.refuse(HTTP_FORBIDDEN, request)
    filled = api.services.flusher.bulk_filled
    finished = _carry_out(api, route, request, caller)
    if api.services.flusher.bulk_filled != filled:
        wait_for_broadcast(api, filled)
    if api.rates.per_second and route.limited:
        left = api.rates.headers(caller, request.host)
        return replace(finished, headers=finished.headers + left)
    return finished


def _carry_out(api: Api, route: Route, request: FastRequest, caller: Caller) -> Answer:
    """Answer a request of a caller who may make it."""
    try:
        if api.rates.per_second and route.limited:
            api.rates.require(caller, request.host)
        if request.too_large or len(request.body) > api.body_bytes:
            return route.style.refuse(HTTP_BODY_TOO_LARGE, request)
        if route.raw:
            return route.function(api, Call({}, "", caller, request.body, None, request))
        if route.method == "GET":
            params = parse_form(request.query)
            app = route.app_of(api, params) if route.app_of else app_named(api, params.get("appid", ""))
            call = Call(params, app, caller, b"", None, request)
        else:
            call = _read_body(api, caller, request.headers.get("content-type", ""), request)
        if caller.apps is not None and (call.app or caller.user):
            require_app(call)
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


def _read_body(api: Api, caller: Caller, content_type: str, request: FastRequest) -> Call:
    body = request.body
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        if has_nul(body):
            raise BadBody("a text contains U+0000")
        fields = parse_json(body)
        app = app_from_json(api, fields.get("appid", 0))
        return Call(_json_params(fields), app, caller, body, fields, request)
    if kind == "multipart/form-data":
        # Hardly anybody sends one, and what reads it is large.
        from imserver.api.multipart import read_multipart

        pairs = read_multipart(body, content_type)
        params = fold_pairs(pairs)
        return Call(params, app_named(api, params.get("appid", "")), caller, b"", None, request, pairs)
    if kind and kind != "application/x-www-form-urlencoded" and body:
        raise BadBody("neither a form nor JSON")
    params = parse_form(body)
    return Call(params, app_named(api, params.get("appid", "")), caller, body, None, request)


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
