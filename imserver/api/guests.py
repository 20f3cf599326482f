"""Guests: callers without an API key, who may do something nevertheless."""

from __future__ import annotations

from typing import Final

from imserver.api.call import Api
from imserver.api.route import Route
from imserver.api.style import PROBLEM
from imserver.auth import NOBODY, Caller
from imserver.transport.fast import FastRequest

_TRUSTED: Final = frozenset({"push", "read"})
_PAGE: Final = frozenset({"page"})


def guest(api: Api, route: Route, request: FastRequest) -> Caller:
    """Who makes a request that shows no key, or none that is known.

    A user with a session token may do what a page may, for their own app and in their own name. Whoever shows
    nothing at all may push and read on the routes of the originals, whose SDKs send no key, in the apps whose
    address list (``api_allow_from``) they call from.
    """
    authorization = request.headers.get("authorization", "")
    if not authorization:
        apps = api.services.allowed.apps_of(request.host) if route.style is not PROBLEM else None
        return Caller(_TRUSTED, apps) if apps else NOBODY
    kind, _, token = authorization.partition(" ")
    if route.page and kind.lower() == "bearer":
        holder = api.services.logins.holder(token.strip())
        if holder is not None:
            return Caller(_PAGE, frozenset({holder.app}), holder.user)
    return NOBODY
