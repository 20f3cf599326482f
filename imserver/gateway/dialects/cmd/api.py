"""Routes of the original of the cmd dialect: push, presence, state, health,
kick."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, to_builtins

from imserver.gateway.auth.principal import Needs
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import ReplyCode
from imserver.gateway.http.call import Api, Call, Route
from imserver.gateway.http.form import (
    BadBody,
    NumberedRooms,
    app_from_json,
    app_named,
    cursor_of,
    fold,
    parse_json,
    read_cursor,
)
from imserver.gateway.http.reply import (
    BAD_PARAMETER,
    FAILED,
    NOT_SENT,
    NOT_STORED,
    PARTLY,
    PROBLEM,
    REPEATED,
    SENT,
    RequestRefused,
    refusal,
    success,
)
from imserver.gateway.model import ACTION_PREFIX, Event, Outcome
from imserver.gateway.protocol.forgiving import has_nul, values_in
from imserver.gateway.push.push import UserPush
from imserver.gateway.sessions.sessions import MAX_BAN_SECONDS
from imserver.gateway.transport.http1 import HttpResponse

_ANSWERS: Final = {
    Outcome.SENT: SENT,
    Outcome.NOT_SENT: NOT_SENT,
    Outcome.REPEATED: REPEATED,
    Outcome.FAILED: FAILED,
    Outcome.PARTLY: PARTLY,
    Outcome.UNKNOWN: NOT_SENT,  # as the original answers
}

_BLOCKED: Final = refusal(ReplyCode.UNAUTHORIZED, {"refused": "blocked"})
"""The refusal of a message to somebody who has blocked the sender, with the
code and reason of stored messages."""
MOST_BLOCKERS: Final = 10_000
"""The most users who may have blocked a user who sends to all others. Their
names are sent to the other nodes."""


def send_message(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessage``: send a message to one user who is online.

    The sender is the user of the session token. Without a token, it is the back
    end. If this user may not see the presence of the receiver, the answer is
    always the one for an absent user, because another answer would tell who is
    online.
    """
    app = call.app
    core = api.core
    params = call.params
    user = params.get("userid", "")
    msg_id = params.get("msgid", "")
    message = params.get("message", "")
    target = UserPush(user, msg_id, message)
    if len(message) + len(msg_id) + len(user) > api.limits.push_characters:
        return BAD_PARAMETER
    if core.metrics.pushes.stops:
        core.metrics.pushes.require(app)

    sender = call.principal.user
    if not sender:
        # A back end may send to everybody, and is told which users are absent.
        outcome = core.pushes.from_back_end(app, target)
        if outcome is Outcome.NOT_SENT:
            _report_absent(api, app, [target])
        return _ANSWERS[outcome]

    api.rates.require_message(app, sender)
    relations = core.relations
    if not relations.may_reach(app, sender, user):
        return _BLOCKED
    # This must be asked before the message is sent, because the answer may
    # change afterwards.
    may_know = relations.may_see_presence(app, sender, user)
    target.text = _reviewed(api, call, user, message)
    outcome = core.pushes.from_user(app, sender, target)
    if outcome is Outcome.SENT:
        _report_message(api, app, sender, user, msg_id, target.text)
    elif outcome is Outcome.NOT_SENT:
        _report_absent(api, app, [target], sender)
    if not may_know:
        return NOT_SENT
    return _ANSWERS[outcome]


def send_message_all(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessageAll``: send a message to all other users of an
    app.

    The message of a user does not reach users who have blocked the sender. A
    user whom more than :data:`MOST_BLOCKERS` users have blocked may not send
    it.
    """
    app = call.app
    core = api.core
    params = call.params
    sender = params.get("userid", "")
    msg_id = params.get("msgid", "")
    message = params.get("message", "")
    if len(message) + len(msg_id) + len(sender) > api.limits.push_characters:
        return BAD_PARAMETER
    core.metrics.pushes.require(app)

    acting_user = call.principal.user
    if acting_user:
        api.rates.require_message(app, acting_user)
    # One more than the limit shows that there are too many.
    blockers = core.relations.blockers(app, acting_user, MOST_BLOCKERS + 1)
    if len(blockers) > MOST_BLOCKERS:
        return _BLOCKED
    message = _reviewed(api, call, "all", message)
    by_user = not call.is_back_end
    outcome = core.pushes.to_app(app, sender, msg_id, message, by_user, blockers)
    if acting_user and outcome in (Outcome.SENT, Outcome.PARTLY):
        _report_message(api, app, sender, "all", msg_id, message)
    return _ANSWERS[outcome]


def _reviewed(api: Api, call: Call, to: str, text: str) -> str:
    """Return the text to send, after the back end has reviewed it.

    Only texts of users are reviewed, and only if the app has reviews. The back
    end may replace the text. ``to`` is the receiver, or ``all``. May switch
    greenlets. Raises RequestRefused if the back end rejects the text, or if the
    user is muted.
    """
    app = call.app
    sender = call.principal.user
    if not sender:
        return text
    mute = api.core.mutes.mute_of(app, sender)
    if mute is not None:
        data = {"refused": "muted", "reason": mute.text, "until": mute.until}
        raise RequestRefused(refusal(ReplyCode.UNAUTHORIZED, data))

    reviews = api.core.reviews
    if app not in reviews.apps:
        return text
    facts = {
        "kind": "message",
        "sender": sender,
        "to": to,
        "type": "text",
        "text": text,
    }
    decision = reviews.decide(app, facts)
    if decision.action == "reject":
        reason = {"reason": decision.reason}
        raise RequestRefused(refusal(ReplyCode.UNAUTHORIZED, reason))
    # The back end has not answered. The sender may try again.
    if decision.action == "undecided":
        raise RequestRefused(NOT_STORED)
    if decision.action == "replace":
        return decision.body.decode()
    return text


def _report_message(
    api: Api, app: str, sender: str, to: str, msg_id: str, text: str
) -> None:
    """Report a user's message to the back end of the app.

    The back end knows its own pushes, so these are not reported.
    """
    facts = {"message": msg_id, "to": to, "type": "text", "text": text}
    api.core.observer.message(app, sender, facts)


def _report_absent(
    api: Api, app: str, targets: Iterable[UserPush], sender: str = ""
) -> None:
    """Report pushes to users who are offline to the back end of the app.

    The back end may send these users a notification. May switch greenlets.
    """
    pushes = []
    for target in targets:
        if target.user:
            event = Event("msg", sender, target.text, target.msg_id)
            pushes.append((target.user, event))
    api.core.observer.absent(app, pushes)


# --- many at once -------------------------------------------------------------


class Batch(Struct, forbid_unknown_fields=True, gc=False):
    """A batch with keys in the usual spelling.

    It has either ``messages``, or ``userIDs`` who all get one ``message``.
    """

    appID: int | str = 0
    messages: list[UserPush] | None = None
    userIDs: list[str] | None = None
    msgID: str = ""
    message: str = ""


class SendResult(Struct, gc=False, omit_defaults=True):
    """The result for one target.

    If ``repeated`` is set, its ``msgID`` was accepted before, and nothing was
    delivered now.
    """

    userID: str
    sendResults: bool | None = None
    repeated: bool = False


_SPELLING = {
    name.lower(): name
    for name in (*Batch.__struct_encode_fields__, *UserPush.__struct_encode_fields__)
}
"""Key in lower case → the key of :class:`Batch` or :class:`UserPush`."""


def send_message_batch(api: Api, call: Call) -> HttpResponse:
    """``POST /user/sendMessageBatch``: send many messages.

    A batch has up to ``limits.batch_targets`` messages, or one message to as
    many users. The loop serves others meanwhile.
    """
    app = call.app
    batch = call.input
    limits = api.limits
    pushes = api.core.pushes
    assert isinstance(batch, Batch)
    targets = batch.messages
    users = batch.userIDs
    # The batch must have exactly one of ``messages`` and ``userIDs``.
    if (targets is None) == (users is None):
        return BAD_PARAMETER
    if len(targets or users or ()) > limits.batch_targets:
        return BAD_PARAMETER
    api.core.metrics.pushes.require(app)
    if targets is not None:
        users = [target.user for target in targets]
        for target in targets:
            if len(target.text) + len(target.msg_id) > limits.push_characters:
                target.user = ""  # a push without a user is not sent
        outcomes = pushes.to_each(app, targets)
    else:
        users = users or []
        if len(batch.message) + len(batch.msgID) > limits.push_characters:
            return BAD_PARAMETER
        accepted = pushes.to_many(app, users, batch.msgID, batch.message)
        if accepted is None:
            # The message was sent before. It has one id for all users.
            return REPEATED
        outcomes = accepted
        targets = [UserPush(user, batch.msgID, batch.message) for user in users]

    pairs = zip(targets, outcomes, strict=True)
    absent = [target for target, outcome in pairs if outcome is Outcome.NOT_SENT]
    _report_absent(api, app, absent)
    # A batch may have thousands of results, so the outcomes are not looked up
    # for each of them.
    sent = Outcome.SENT
    repeated = Outcome.REPEATED
    results = []
    for user, outcome in zip(users, outcomes, strict=True):
        if outcome is repeated:
            results.append(SendResult(user, repeated=True))
        else:
            results.append(SendResult(user, outcome is sent))
    return success({"sendCount": outcomes.count(sent), "results": results})


MOST_BATCH_OBJECTS: Final = 140_000
"""Limit of the opening braces of a batch, including braces in texts. Each brace
may begin an object of 80 bytes."""
MOST_BATCH_VALUES: Final = 500_000
"""Limit of the values of a batch. Each value may be a text of 50 bytes."""


def _read_batch(api: Api, call: Call) -> None:
    """Decode a batch, whose keys may be in any letter case.

    Sets the input, the cost and the app of the call. May switch greenlets.
    Raises RequestRefused.
    """
    has_many = len(call.body) > MOST_BATCH_OBJECTS
    if has_many and call.body.count(b"{") > MOST_BATCH_OBJECTS:
        raise RequestRefused(BAD_PARAMETER)
    if has_many and values_in(call.body) > MOST_BATCH_VALUES:
        raise RequestRefused(BAD_PARAMETER)
    if has_nul(call.body):
        raise RequestRefused(BAD_PARAMETER)

    try:
        batch = msgspec.json.decode(call.body, type=Batch)
    except (ValueError, RecursionError):
        if is_long_turn():
            serve_others()
        batch = _batch_in_any_spelling(call.body, api.limits.batch_targets)
    call.input = batch
    # Each message counts as a request against the rate.
    call.cost = max(1, len(batch.messages or ()))
    call.app = app_from_json(api.core.tenants, batch.appID)


def _batch_in_any_spelling(body: bytes, most: int) -> Batch:
    """Decode a batch whose keys may be in another letter case.

    The original server accepts such keys. Raises RequestRefused if the batch is
    invalid, or if it has more than ``most`` messages.
    """
    try:
        fields = _usual_spelling(parse_json(body))
        messages = fields.get("messages")
        if isinstance(messages, list):
            # The messages are counted before objects are made of them.
            if len(messages) > most:
                raise RequestRefused(BAD_PARAMETER)
            fields["messages"] = [_usual_spelling(fold(item)) for item in messages]
        return msgspec.convert(fields, Batch)
    except (BadBody, msgspec.ValidationError, AttributeError, TypeError):
        raise RequestRefused(BAD_PARAMETER) from None


def _usual_spelling(fields: dict[str, Any]) -> dict[str, Any]:
    """Rename keys to the spelling of :class:`Batch` and :class:`UserPush`.

    The given keys are folded: all letters are in lower case. Unknown keys are
    left out.
    """
    return {
        _SPELLING[name]: value for name, value in fields.items() if name in _SPELLING
    }


LIST_PAGE = 10_000
"""Users in one answer of ``/user/list``; an app with more of them is listed in
pages."""


def user_list(api: Api, call: Call) -> HttpResponse:
    """``GET /user/list``: list the users of an app, or of a room
    (``groupsId``).

    Up to :data:`LIST_PAGE` users of an app come at once and unordered. Larger
    apps, and rooms, are listed in pages ordered by name, and ``next`` is the
    ``cursor`` of the next page. A user who stays online is listed exactly once,
    even if others come and go. ``missingNodes`` names nodes that did not answer
    in time.
    """
    cursor = call.params.get("cursor", "")
    room = call.params.get("groupsid")
    if room is not None:
        return success(_list_room(api, call, room, cursor))
    # In some apps, users see the presence of their contacts only.
    if api.core.relations.limits(call.app, call.principal.user):
        return success(_list_visible(api, call, _last_user_of(cursor)))
    page = api.core.presence.page(call.app, _last_user_of(cursor), LIST_PAGE)
    return success(_page(page.total, page.users, page.more, page.missing))


def _page(
    count: int, users: list[str], more: bool, missing: Collection[str]
) -> dict[str, Any]:
    """Make the answer with a page of users.

    With ``more``, another page follows. ``missing`` are the nodes that did not
    answer.
    """
    data: dict[str, Any] = {"userCount": count, "userList": users}
    if more:
        data["next"] = cursor_of(users[-1])
    if missing:
        data["missingNodes"] = list(missing)
    return data


def _list_room(api: Api, call: Call, room: str, cursor: str) -> dict[str, Any]:
    """Make the answer with a page of the users who belong to a room.

    The users in the app's settings come first. The members of the channel
    follow, in the order of joining. A user sees only members whose presence
    the user may see. May switch greenlets.
    """
    app = call.app
    stored = _configured_members(api, app, room)
    page = api.channels.members.page(app, room, cursor, LIST_PAGE)
    # A user may be a member with several connections, but is listed once.
    users = dict.fromkeys(
        member.user for member in page.members if member.user not in stored
    )
    names = _visible_to(api, call, users)
    is_first_page = not cursor
    if is_first_page:
        names = [*stored, *names]
    entries = [{"ID": NumberedRooms.id_of(name)} for name in names]
    answer: dict[str, Any] = {"userList": entries}
    if page.next:
        answer["next"] = page.next
    return answer


def _visible_to(api: Api, call: Call, users: Collection[str]) -> list[str]:
    """Return the users whose presence the acting user may see, in their
    order."""
    visible = api.core.relations.visible(call.app, call.principal.user, users)
    return [user for user in users if user in visible]


def _configured_members(api: Api, app: str, room: str) -> Sequence[str]:
    """Return the users whom the app's settings put into a room."""
    tenant = api.core.tenants.get(app)
    if tenant is None:
        return ()
    return tenant.room_members.get(room, ())


def _list_visible(api: Api, call: Call, after: str | None) -> dict[str, Any]:
    """Make a page of the users whose presence the acting user may see.

    The page counts only such users. They come in the order of names, after the
    name ``after``. None means from the beginning. The function reads pages of
    all users until it has found enough visible users. Each such page costs a
    request of the user's rate. May switch greenlets.
    """
    more = True
    visible_users = list[str]()
    missing = dict[str, None]()
    while more and len(visible_users) <= LIST_PAGE:
        page = api.core.presence.page(call.app, after, LIST_PAGE)
        # The request itself has paid for one page.
        api.rates.charge(call.principal, call.request.host, int(page.more))
        names = sorted(page.users)
        more = page.more
        visible_users += _visible_to(api, call, names)
        missing |= dict.fromkeys(page.missing)
        if names:
            after = names[-1]
        serve_others()
    users = visible_users[:LIST_PAGE]
    return _page(len(users), users, len(visible_users) > LIST_PAGE, missing)


def _app_of_list(api: Api, params: Mapping[str, str]) -> str:
    """Find the app of ``/user/list``.

    A request with a room is for an app of the action dialect, because only
    these apps have rooms with numbers.
    """
    if "groupsid" not in params:
        return app_named(api.core.tenants, params.get("appid", ""))
    tenants = api.core.tenants
    # If the request names no app, the app is 1, as at the original server.
    return NumberedRooms.app_of(tenants, params) or tenants.resolve(f"{ACTION_PREFIX}1")


def _last_user_of(cursor: str) -> str | None:
    """Read the cursor of a page: the user after whom the page begins.

    Returns None for the first page. Raises RequestRefused if the cursor is
    invalid.
    """
    try:
        return read_cursor(cursor, "strict")
    except ValueError:
        raise RequestRefused(BAD_PARAMETER) from None


def user_online(api: Api, call: Call) -> HttpResponse:
    """``GET /user/online``: tell whether a user is online.

    If ``appID`` is 0 or missing, the user may be online in any app.
    """
    user = call.params.get("userid", "")
    online = False
    # A user who may not see the presence gets the answer for an absent user.
    if user in _visible_among(api, call, [user]):
        online = api.core.presence.is_online(_apps(api, call), user)
    return success({"online": online, "userID": user})


def user_online_batch(api: Api, call: Call) -> HttpResponse:
    """``POST /user/onlineBatch``: tell which of many users are online.

    There may be up to ``limits.batch_targets`` of them.
    """
    users = call.texts("userids")
    if len(users) > api.limits.batch_targets:
        return BAD_PARAMETER
    online = _online_among(api, call, users)
    results = [{"online": user in online, "userID": user} for user in users]
    online_count = sum(user in online for user in users)
    return success({"onlineCount": online_count, "userList": results})


def _online_among(api: Api, call: Call, users: Iterable[str]) -> set[str]:
    """Find the users who are online in one of the apps of the request.

    Users whose presence the principal may not see are left out. May switch
    greenlets.
    """
    # A user who is online in one app is not looked for in the others.
    unseen = list(_visible_among(api, call, dict.fromkeys(users)))
    online = set[str]()
    for app in _apps(api, call):
        are_online = api.core.presence.are_online(app, unseen)
        for user, is_online in zip(unseen, are_online, strict=True):
            if is_online:
                online.add(user)
        unseen = [user for user in unseen if user not in online]
        if not unseen:
            break
        serve_others()
    return online


def _visible_among(api: Api, call: Call, users: Collection[str]) -> Collection[str]:
    """Return the users whose presence the principal may see.

    A back end may see all of them. May switch greenlets.
    """
    principal = call.principal
    if principal.user:
        return api.core.relations.visible(principal.app, principal.user, users)
    return users


def _apps(api: Api, call: Call) -> list[str]:
    """Return the requested app, or all apps that the principal reaches.

    Apps that no ``appID`` can name are left out.
    """
    if call.app:
        return [call.app]
    apps = []
    for tenant in api.core.tenants.all():
        is_nameable = ":" not in tenant.name and not tenant.same_as
        if is_nameable and call.principal.reaches(tenant.name):
            apps.append(tenant.name)
    return apps


def health(_api: Api, _call: Call) -> HttpResponse:
    """``GET /health``: answer 200, which shows that the process runs."""
    return HttpResponse(200, b'{"status":"ok"}')


def ready(api: Api, _call: Call) -> HttpResponse:
    """``GET /ready``: tell whether the node serves clients.

    It answers 200, or 503 with the reason while the node does not.
    """
    unready = api.core.status.unready()
    if unready is None:
        return HttpResponse(200, b'{"status":"ready"}')
    document = {"status": "not ready", **to_builtins(unready)}
    return HttpResponse(503, msgspec.json.encode(document))


def system_state(api: Api, call: Call) -> HttpResponse:
    """``GET /system/state``: show counters of this node.

    ``isDebug=true`` adds peers and users. ``detail=true`` adds fields that the
    original does not have. ``cluster=true`` returns the state of all nodes.
    """
    debug = call.params.get("isdebug") == "true"
    detail = call.params.get("detail") == "true"
    # One node answers for itself, without asking the others.
    if call.params.get("cluster") != "true":
        return success(api.core.status.state(debug, detail))
    nodes, missing = api.core.overview.states(debug, detail)
    return success({"nodes": nodes, "missingNodes": missing})


def kick(api: Api, call: Call) -> HttpResponse:
    """``POST /user/kick``: close a user's connections, and ban the user for a
    time.

    The user may not log in for ``banSeconds``; 0 or missing: no ban.
    """
    user = call.params.get("userid", "")
    if not user or not call.app:
        call.act = ""  # observers hear of no act: nothing has changed
        return success({"kickResults": False, "kickCount": 0})
    ban_seconds = _ban_seconds_of(call)
    if ban_seconds is None:
        return BAD_PARAMETER
    closed = api.core.sessions.close(call.app, [user], ban_seconds=ban_seconds)
    _note_ban(call, user, ban_seconds)
    data: dict[str, object] = {
        "kickResults": closed.total > 0,
        "kickCount": closed.total,
    }
    if closed.missing:
        data["missingNodes"] = list(closed.missing)
    return success(data)


def _note_ban(call: Call, user: str, ban_seconds: float) -> None:
    """Tell observers who was kicked, and for how long the ban is.

    For them, a kick with a ban is the act "ban".
    """
    call.user = user
    if ban_seconds:
        call.act = "ban"
        call.facts = {"seconds": ban_seconds}


def _ban_seconds_of(call: Call) -> float | None:
    """Return for how many seconds a user shall be banned.

    The result is None if the parameter is invalid.
    """
    try:
        ban_seconds = float(call.params.get("banseconds") or 0)
    except ValueError:
        return None
    if math.isfinite(ban_seconds) and 0 <= ban_seconds <= MAX_BAN_SECONDS:
        return ban_seconds
    return None


def metrics(api: Api, _call: Call) -> HttpResponse:
    """``GET /metrics``: write the metrics of all nodes of this machine.

    Nodes of one machine share a port, so a scrape reaches any of them. Each
    sample has a label ``node``. The metrics cover all apps, so the key must
    reach all apps.
    """
    # Imported at the first scrape, because the module takes half a megabyte.
    from imserver.gateway.metric_table import merge

    texts, missing = api.core.overview.metrics()
    body = merge(texts, missing).encode()
    return HttpResponse(200, body, _PROMETHEUS)


_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def _api_itself(_core: object, api: Api) -> Api:
    """Return the API: the functions of these routes use the whole API as their
    service."""
    return api


_OF_NODE: Final[dict[str, Any]] = {"hot": True, "service": _api_itself}
"""The fields of routes about a node."""
_ROW: Final[dict[str, Any]] = {
    **_OF_NODE,
    "app": "any",
    "limited": True,
    "takes_many": True,
}
"""The fields of routes about users."""
_NAMED: Final[dict[str, Any]] = {**_ROW, "app": "named"}

ROUTES: Final = (
    Route("POST", "/user/sendMessage", Needs.PUSH_OR_SESSION, send_message, **_ROW),
    Route(
        "POST",
        "/user/sendMessageAll",
        Needs.PUSH_OR_VISITOR,
        send_message_all,
        user_in="userid",
        **_ROW,
    ),
    Route(
        "POST",
        "/user/sendMessageBatch",
        Needs.PUSH_OR_ADDRESS,
        send_message_batch,
        read=_read_batch,
        **_NAMED,
    ),
    Route(
        "GET",
        "/user/list",
        Needs.READ_OR_VISITOR,
        user_list,
        app_of=_app_of_list,
        **_ROW,
    ),
    Route("GET", "/user/online", Needs.READ_OR_SESSION, user_online, **_ROW),
    Route(
        "POST", "/user/onlineBatch", Needs.READ_OR_SESSION, user_online_batch, **_ROW
    ),
    Route(
        "POST",
        "/user/kick",
        Needs.ADMIN,
        kick,
        "any",
        act="disconnect",
        **_OF_NODE,
    ),
    Route(
        "GET",
        "/system/state",
        Needs.METRICS_OR_ADDRESS,
        system_state,
        "all",
        need_with=("isdebug", Needs.ADMIN),
        **_OF_NODE,
    ),
    Route("GET", "/health", Needs.ANYONE, health, **_OF_NODE),
    Route("GET", "/ready", Needs.ANYONE, ready, **_OF_NODE),
    Route(
        "GET",
        "/metrics",
        Needs.METRICS,
        metrics,
        "all",
        style=PROBLEM,
        service=_api_itself,
    ),
)
