"""Routes of the cmd dialect's original: push, presence, state, health, kick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.api.call import Api, Call, Route, app_from_json, app_number
from imserver.api.form import BadBody, fold, parse_json, read_cursor
from imserver.api.form import cursor as cursor_of
from imserver.api.metrics import metrics
from imserver.api.reply import (
    BAD_PARAMETER,
    FAILED,
    NOT_SENT,
    PARTLY,
    PROBLEM,
    REPEATED,
    SENT,
    RequestRefused,
    success,
)
from imserver.auth.principal import ADMIN, ANYONE, PUSH_OR_ADDRESS, PUSH_OR_VISITOR, READ_OR_ADDRESS
from imserver.model import Event, Outcome
from imserver.protocol.forgiving import has_nul
from imserver.services.push.push import UserPush
from imserver.transport.exchange import HttpResponse

_ANSWERS: Final = {
    Outcome.SENT: SENT,
    Outcome.NOT_SENT: NOT_SENT,
    Outcome.REPEATED: REPEATED,
    Outcome.FAILED: FAILED,
    Outcome.PARTLY: PARTLY,
}


def send_message(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessage``: a message to one user, delivered if they are online."""
    params = call.params
    target = UserPush(params.get("userid", ""), params.get("msgid", ""), params.get("message", ""))
    if len(target.text) + len(target.msg_id) + len(target.user) > api.push_characters:
        return BAD_PARAMETER
    outcome = api.pushes.to_user(call.app, target)
    if outcome is Outcome.NOT_SENT:
        _tell_absent(api, call.app, target.user, target.msg_id, target.text)
    return _ANSWERS[outcome]


def send_message_all(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessageAll``: a message to all users of an app but its sender."""
    params = call.params
    sender = params.get("userid", "")
    msg_id = params.get("msgid", "")
    message = params.get("message", "")
    if len(message) + len(msg_id) + len(sender) > api.push_characters:
        return BAD_PARAMETER
    outcome = api.pushes.to_app(call.app, sender, msg_id, message)
    if call.principal.user and outcome in (Outcome.SENT, Outcome.PARTLY):
        # A page's user said it, not a back end.
        facts = {"message": msg_id, "to": "all", "type": "text", "text": message}
        api.services.webhooks.message(call.app, sender, facts)
    return _ANSWERS[outcome]


def _tell_absent(api: Api, app: str, user: str, msg_id: str, text: str) -> None:
    if user:
        api.services.webhooks.absent(app, user, Event("msg", "", text, msg_id))


# --- many at once -------------------------------------------------------------------------------------------


class Batch(Struct, forbid_unknown_fields=True, gc=False):
    """A batch with keys in the usual spelling: many messages, or one message to many users."""

    appID: int | str = 0
    messages: list[UserPush] | None = None
    userIDs: list[str] | None = None
    msgID: str = ""
    message: str = ""


class SendResult(Struct, gc=False, omit_defaults=True):
    """What became of one target. ``repeated``: its ``msgID`` was accepted before, nothing was delivered."""

    userID: str
    sendResults: bool | None = None
    repeated: bool = False


_SPELLING = {
    name.lower(): name for name in (*Batch.__struct_encode_fields__, *UserPush.__struct_encode_fields__)
}
_decode_batch = msgspec.json.Decoder(Batch).decode


def send_message_batch(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessageBatch``: ``limits.batch_targets`` messages, or one message to as many users.

    May switch: a large batch lets other greenlets run in between.
    """
    batch: Batch = call.asked
    if (batch.messages is None) == (batch.userIDs is None):
        raise RequestRefused(BAD_PARAMETER)
    if batch.messages is not None:
        if len(batch.messages) > api.batch_targets:
            raise RequestRefused(BAD_PARAMETER)
        return _send_each(api, call.app, batch.messages)
    assert batch.userIDs is not None
    if len(batch.userIDs) > api.batch_targets:
        raise RequestRefused(BAD_PARAMETER)
    return _send_one_to_many(api, call.app, batch.userIDs, batch.msgID, batch.message)


def _read_batch(api: Api, call: Call) -> None:
    call.asked = _batch_in(call)
    call.app = app_from_json(api, call.asked.appID)


def _batch_in(call: Call) -> Batch:
    if has_nul(call.body):
        raise RequestRefused(BAD_PARAMETER)
    try:
        return _decode_batch(call.body)
    except (ValueError, RecursionError):
        pass
    try:
        fields = _usual_spelling(parse_json(call.body))
        if isinstance(fields.get("messages"), list):
            fields["messages"] = [_usual_spelling(fold(item)) for item in fields["messages"]]
        return msgspec.convert(fields, Batch)
    except (BadBody, msgspec.ValidationError, AttributeError, TypeError):
        raise RequestRefused(BAD_PARAMETER) from None


def _usual_spelling(fields: dict[str, Any]) -> dict[str, Any]:
    """The known ones of folded keys, as :class:`Batch` and :class:`UserPush` spell them."""
    return {_SPELLING[name]: value for name, value in fields.items() if name in _SPELLING}


def _send_each(api: Api, app: str, targets: Sequence[UserPush]) -> HttpResponse:
    longest = api.push_characters
    users = [target.user for target in targets]
    for target in targets:
        if len(target.text) + len(target.msg_id) > longest:
            target.user = ""  # what is too long is sent to nobody
    outcomes = api.pushes.to_each(app, targets)
    if api.services.webhooks.wants(app, "absent"):
        for target, outcome in zip(targets, outcomes, strict=True):
            if outcome is Outcome.NOT_SENT:
                _tell_absent(api, app, target.user, target.msg_id, target.text)
    return _answer_each(users, outcomes)


def _send_one_to_many(api: Api, app: str, users: Sequence[str], msg_id: str, message: str) -> HttpResponse:
    if len(message) + len(msg_id) > api.push_characters:
        raise RequestRefused(BAD_PARAMETER)
    outcomes = api.pushes.to_many(app, users, msg_id, message)
    if outcomes is None:
        return REPEATED
    if api.services.webhooks.wants(app, "absent"):
        for user, outcome in zip(users, outcomes, strict=True):
            if outcome is Outcome.NOT_SENT:
                _tell_absent(api, app, user, msg_id, message)
    return _answer_each(users, outcomes)


def _answer_each(users: Sequence[str], outcomes: Sequence[Outcome]) -> HttpResponse:
    sent, repeated = Outcome.SENT, Outcome.REPEATED
    results = [
        SendResult(user, None, True) if outcome is repeated else SendResult(user, outcome is sent)
        for user, outcome in zip(users, outcomes, strict=True)
    ]
    return success({"sendCount": outcomes.count(sent), "results": results})


LIST_PAGE = 10_000
"""Users in one answer of ``/user/list``; an app with more of them is listed in pages."""


def user_list(api: Api, call: Call) -> HttpResponse:
    """``GET /user/list``: the users of an app.

    Up to :data:`LIST_PAGE` users come at once and in no order. Of a larger app each answer holds a page in
    the order of names, and ``next`` is the ``cursor`` to ask for the page that follows; a user who is online
    all the while is listed exactly once, whoever else comes and goes. ``missingNodes`` names nodes that did
    not answer in time, if any did not.
    """
    page = api.presence.page(call.app, _after(call.params.get("cursor", "")), LIST_PAGE)
    data: dict[str, Any] = {"userCount": page.total, "userList": page.users}
    if page.more:
        data["next"] = cursor_of(page.users[-1])
    if page.missing:
        data["missingNodes"] = page.missing
    return success(data)


def _after(cursor: str) -> str | None:
    try:
        return read_cursor(cursor) if cursor else None
    except ValueError:
        raise RequestRefused(BAD_PARAMETER) from None


def user_online(api: Api, call: Call) -> HttpResponse:
    """``GET /user/online``: whether a user is online, in one app or (``appID`` 0 or missing) in any."""
    user = call.params.get("userid", "")
    online = any(api.presence.is_online(app, user) for app in _apps(api, call))
    return success({"online": online, "userID": user})


def user_online_batch(api: Api, call: Call) -> HttpResponse:
    """``POST /user/onlineBatch``: the same for up to ``limits.batch_targets`` users."""
    users = call.texts("userids")
    if len(users) > api.batch_targets:
        return BAD_PARAMETER
    online = [False] * len(users)
    for app in _apps(api, call):
        online = [
            known or here for known, here in zip(online, api.presence.are_online(app, users), strict=True)
        ]
    results = [{"online": here, "userID": user} for here, user in zip(online, users, strict=True)]
    return success({"onlineCount": sum(online), "userList": results})


def _apps(api: Api, call: Call) -> list[str]:
    """The app that is asked about, or all that the caller reaches."""
    return [call.app] if call.app else [app for app in _numbered(api) if call.principal.reaches(app)]


def _numbered(api: Api) -> list[str]:
    """The apps that an ``appID`` can name."""
    return [tenant.name for tenant in api.services.tenants.all() if app_number(tenant.name) == tenant.name]


MAX_BAN_SECONDS = 366 * 86400

HEALTHY = HttpResponse(200, b'{"status":"ok"}')
READY = HttpResponse(200, b'{"status":"ready"}')
NOT_READY = HttpResponse(503, b'{"status":"not ready"}')


def health(_api: Api, _call: Call) -> HttpResponse:
    """``GET /health``: the loop runs and requests are answered."""
    return HEALTHY


def ready(api: Api, _call: Call) -> HttpResponse:
    """``GET /ready``: the node can do its work; 503 while it starts or stops."""
    return READY if api.services.ready() else NOT_READY


def system_state(api: Api, call: Call) -> HttpResponse:
    """``GET /system/state``: counters of this node.

    With ``isDebug=true`` also peers and users; with ``detail=true`` also what the original
    does not have; with ``cluster=true`` the same of all nodes.
    """
    debug, detail, cluster = (call.params.get(name) == "true" for name in ("isdebug", "detail", "cluster"))
    if not cluster:
        return success(api.services.state(debug, detail))
    nodes, missing = api.services.overview.states(debug, detail)
    return success({"nodes": nodes, "missingNodes": missing})


def kick(api: Api, call: Call) -> HttpResponse:
    """``POST /user/kick``: close a user's connections, and refuse their logins for ``banSeconds``."""
    user = call.params.get("userid", "")
    if not user or not call.app:
        return success({"kickResults": False, "kickCount": 0})
    try:
        ban_seconds = float(call.params.get("banseconds") or 0)
    except ValueError:
        return BAD_PARAMETER
    if not (math.isfinite(ban_seconds) and 0 <= ban_seconds <= MAX_BAN_SECONDS):
        return BAD_PARAMETER
    closed = api.sessions.close(call.app, [user], None, ban_seconds)
    data: dict[str, object] = {"kickResults": closed.total > 0, "kickCount": closed.total}
    if closed.missing:
        data["missingNodes"] = list(closed.missing)
    return success(data)


ROUTES: Final = (
    Route("POST", "/user/sendMessage", PUSH_OR_ADDRESS, send_message, "any", hot=True),
    Route(
        "POST", "/user/sendMessageAll", PUSH_OR_VISITOR, send_message_all, "any", hot=True, user_in="userid"
    ),
    Route(
        "POST",
        "/user/sendMessageBatch",
        PUSH_OR_ADDRESS,
        send_message_batch,
        "named",
        hot=True,
        read=_read_batch,
    ),
    Route("GET", "/user/online", READ_OR_ADDRESS, user_online, "any", hot=True),
    Route("POST", "/user/onlineBatch", READ_OR_ADDRESS, user_online_batch, "any", hot=True),
    Route("POST", "/user/kick", ADMIN, kick, "any", hot=True),
    Route(
        "GET",
        "/system/state",
        READ_OR_ADDRESS,
        system_state,
        "all",
        hot=True,
        need_with=("isdebug", ADMIN),
    ),
    Route("GET", "/health", ANYONE, health, hot=True),
    Route("GET", "/ready", ANYONE, ready, hot=True),
    Route("GET", "/metrics", ADMIN, metrics, "all", style=PROBLEM),
)
