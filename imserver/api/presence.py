"""Routes that tell who is online."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from imserver.api.call import Api, Call
from imserver.api.reply import BAD_PARAMETER, Answer, Refused, success

LIST_PAGE = 10_000
"""Users in one answer of ``/user/list``; an app with more of them is listed in pages."""


def user_list(api: Api, call: Call) -> Answer:
    """``GET /user/list``: the users of an app.

    Up to :data:`LIST_PAGE` users come at once and in no order. Of a larger app each answer holds a page in
    the order of names, and ``next`` is the ``cursor`` to ask for the page that follows; a user who is online
    all the while is listed exactly once, whoever else comes and goes.
    """
    cursor = call.params.get("cursor", "")
    count = api.hub.user_count(call.app) if call.app else 0
    names = api.hub.user_names(call.app) if count else []
    if not cursor and len(names) <= LIST_PAGE:
        return success({"userCount": len(names), "userList": names})
    after = _read_cursor(cursor)
    rest = sorted(name for name in names if name > after)
    data: dict[str, Any] = {"userCount": count, "userList": rest[:LIST_PAGE]}
    if len(rest) > LIST_PAGE:
        data["next"] = _cursor(rest[LIST_PAGE - 1])
    return success(data)


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Refused(BAD_PARAMETER) from None


def user_online(api: Api, call: Call) -> Answer:
    """``GET /user/online``: whether a user is online, in one app or (``appID`` 0 or missing) in any."""
    user = call.params.get("userid", "")
    return success({"online": _is_online(api, call, user), "userID": user})


def user_online_batch(api: Api, call: Call) -> Answer:
    """``POST /user/onlineBatch``: the same for up to ``limits.batch_targets`` users."""
    users = call.texts("userids")
    if len(users) > api.batch_targets:
        return BAD_PARAMETER
    results = [{"online": _is_online(api, call, user), "userID": user} for user in users]
    return success({"onlineCount": sum(row["online"] for row in results), "userList": results})


def _is_online(api: Api, call: Call, user: str) -> bool:
    if call.app:
        return api.hub.is_online(call.app, user)
    return any(api.hub.is_online(app, user) for app in api.apps if call.caller.reaches(app))
