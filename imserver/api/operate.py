"""Routes for operators: state, health, ending sessions."""

from __future__ import annotations

import math

from imserver.api.call import Api, Call
from imserver.api.reply import BAD_PARAMETER, UNAUTHORIZED, Answer, success

MAX_BAN_SECONDS = 366 * 86400

HEALTHY = Answer(200, b'{"status":"ok"}')
READY = Answer(200, b'{"status":"ready"}')
NOT_READY = Answer(503, b'{"status":"not ready"}')


def health(_api: Api, _call: Call) -> Answer:
    """``GET /health``: the loop runs and requests are answered."""
    return HEALTHY


def ready(api: Api, _call: Call) -> Answer:
    """``GET /ready``: the node can do its work; 503 while it starts or stops."""
    return READY if api.services.ready() else NOT_READY


def system_state(api: Api, call: Call) -> Answer:
    """``GET /system/state``: counters of this node.

    With ``isDebug=true`` also peers and users, for admins only; with ``detail=true`` also what the original
    does not have; with ``cluster=true`` the same of all nodes. The counters cover all apps, so the key must
    reach all apps.
    """
    debug, detail, cluster = (call.params.get(name) == "true" for name in ("isdebug", "detail", "cluster"))
    if call.principal.apps is not None or (debug and "admin" not in call.principal.scopes):
        return UNAUTHORIZED
    if not cluster:
        return success(api.services.state(debug, detail))
    nodes, missing = api.services.overview.states(debug, detail)
    return success({"nodes": nodes, "missingNodes": missing})


def kick(api: Api, call: Call) -> Answer:
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
