"""Routes that tell who is online."""

from __future__ import annotations

from typing import Any

from imserver.api.call import Api, Call, app_number
from imserver.api.cursor import cursor as cursor_of
from imserver.api.cursor import read_cursor
from imserver.api.reply import BAD_PARAMETER, Answer, Refused, success

LIST_PAGE = 10_000
"""Users in one answer of ``/user/list``; an app with more of them is listed in pages."""


def user_list(api: Api, call: Call) -> Answer:
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
        raise Refused(BAD_PARAMETER) from None


def user_online(api: Api, call: Call) -> Answer:
    """``GET /user/online``: whether a user is online, in one app or (``appID`` 0 or missing) in any."""
    user = call.params.get("userid", "")
    online = any(api.presence.is_online(app, user) for app in _apps(api, call))
    return success({"online": online, "userID": user})


def user_online_batch(api: Api, call: Call) -> Answer:
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
