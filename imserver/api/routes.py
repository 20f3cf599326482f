"""The table of the HTTP API: every route is a row, and every row is answered by :func:`answer`.

Two doors use it. The front calls :func:`answer` straight for the rows in :data:`HOT`, in the greenlet that
has read the request; the Flask views of :mod:`imserver.api.views` call it for all rows. So both give the same
bytes.
A refusal keeps HTTP status 200 and has its code in the body, as clients of the original expect; the view of
a row with ``problems`` makes a fitting status of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from imserver.api import metrics, operate, presence, push
from imserver.api.call import Api, Call, app_from_json, app_named, require_app
from imserver.api.form import BadBody, multipart_to_urlencoded, parse_form, parse_json
from imserver.api.reply import BAD_PARAMETER, PREFLIGHT, SYSTEM_ERROR, UNAUTHORIZED, Answer, Refused
from imserver.auth import ANYBODY
from imserver.logs import request_id

log = logging.getLogger(__name__)


class Route(Struct, frozen=True):
    """One row. ``scope``: what a caller's key has to allow (``""``: no key needed).

    ``hot``: the front answers it. ``page``: a page token will do, for its own app. ``raw``: the function
    reads the body itself. ``problems``: no route in the original's style; it is served on the HTTP port only
    and refuses with a fitting HTTP status.
    """

    method: str
    path: str
    scope: str
    function: Callable[[Api, Call], Answer]
    hot: bool = False
    page: bool = False
    raw: bool = False
    problems: bool = False


ROUTES: Final = (
    Route("POST", "/user/sendMessage", "push", push.send_message, hot=True),
    Route("POST", "/user/sendMessageAll", "push", push.send_message_all, hot=True, page=True),
    Route("POST", "/user/sendMessageBatch", "push", push.send_message_batch, hot=True, raw=True),
    Route("GET", "/user/online", "read", presence.user_online, hot=True),
    Route("POST", "/user/onlineBatch", "read", presence.user_online_batch, hot=True),
    Route("GET", "/user/list", "read", presence.user_list, hot=True, page=True),
    Route("POST", "/user/kick", "admin", operate.kick, hot=True),
    Route("GET", "/system/state", "read", operate.system_state, hot=True),
    Route("GET", "/health", "", operate.health, hot=True),
    Route("GET", "/ready", "", operate.ready, hot=True),
    Route("GET", "/metrics", "admin", metrics.metrics, problems=True),
)

HOT: Final = {(row.method.encode(), row.path.encode()): row for row in ROUTES if row.hot}
"""(method, path) as they stand in the request → the row that the front answers itself."""

_TEXTS = frozenset({"userid", "msgid", "message", "cursor"})
_NUMBERS = frozenset({"banseconds"})


def answer(
    api: Api,
    route: Route,
    method: str,
    raw_query: bytes,
    content_type: str,
    body: bytes,
    authorization: str,
    peer: str,
    given_id: str = "",
) -> Answer:
    """Answer one request: read it, check who asks, do what the row says.

    ``method`` is that of the request (HEAD and OPTIONS are answered too; the caller leaves out the body of
    an answer to HEAD). ``raw_query`` is what follows the ``?``, ``authorization`` that header or ``""``;
    ``peer`` and ``given_id``, the request's ``X-Request-Id``, are for the log. Never raises: what goes wrong
    inside is logged and answered with code 1004. May switch to another greenlet.
    """
    try:
        if method == "OPTIONS":
            return PREFLIGHT
        caller = ANYBODY
        if route.scope and not api.auth.demo:
            caller = api.auth.caller(authorization)
            if route.scope not in caller.scopes and not (route.page and caller.user):
                return UNAUTHORIZED
        if len(body) > api.body_bytes:
            return BAD_PARAMETER
        if route.raw:
            return route.function(api, Call({}, "", caller, body))
        if route.method == "GET":
            call = Call(params := parse_form(raw_query), app_named(api, params.get("appid", "")), caller)
        else:
            call = _read_body(api, caller, content_type, body)
        if caller.apps is not None and (call.app or caller.user):
            require_app(call)
        return route.function(api, call)
    except Refused as refused:
        return refused.answer
    except BadBody:
        return BAD_PARAMETER
    except Exception:
        log.exception(
            "%s %s from %s failed", method, route.path, peer, extra={"request": request_id(given_id)}
        )
        return SYSTEM_ERROR


def _read_body(api: Api, caller: Any, content_type: str, body: bytes) -> Call:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        fields = parse_json(body)
        return Call(_json_params(fields), app_from_json(api, fields.get("appid", 0)), caller, body, fields)
    if kind == "multipart/form-data":
        body = multipart_to_urlencoded(body, content_type)
    elif kind and kind != "application/x-www-form-urlencoded" and body:
        raise BadBody("neither a form nor JSON")
    params = parse_form(body)
    return Call(params, app_named(api, params.get("appid", "")), caller, body)


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
