"""On whose behalf a request is made: an account that shows its token, or a user whom a back end names.

Routes of accounts, friends and groups are asked by both. A back end shows a key with the scope ``admin``.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.style import Problem
from imserver.api.v1 import field
from imserver.auth.account_tokens import GOCHAT

App = Annotated[
    str, Meta(min_length=1, description="The app of the accounts; `gochat` where clients of GoChat are.")
]
Behalf = Annotated[
    str,
    Meta(
        max_length=255,
        description="Whose: needed with a key of a back end; whoever shows an account's token need not say.",
    ),
]

ACTOR_PROBLEMS: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_UNAUTHORIZED,
    errors.HTTP_TOKEN_INVALID,
    errors.HTTP_FORBIDDEN,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_STORAGE_UNAVAILABLE,
)
"""What may be wrong with any request that is made on somebody's behalf."""


class Acting(Struct, forbid_unknown_fields=True):
    """On whose behalf."""

    app: App = GOCHAT
    user: Behalf = ""


class Page(Acting):
    """On whose behalf, and which page of the list."""

    cursor: field.Cursor = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most entries of this page.")] = 100


class Actor(Struct, frozen=True):
    """Who asks: a user of an app. ``is_back_end``: a back end does, on that user's behalf, or itself, where
    ``user`` is ``""``, which may what no user may."""

    app: str
    user: str
    is_back_end: bool
    device: int = 0
    """Which login of an account it is; 0: that is not known."""


def known_app(api: Api, name: str) -> str:
    """The app that stands for ``name``. Raises :class:`Problem`."""
    app: str = api.services.tenants.resolve(name)
    if app not in api.services.hub.apps and api.services.tenants.find(app) is None:
        raise Problem(errors.HTTP_UNKNOWN_APP)
    return app


def actor(api: Api, call: Call, asked: Acting, needs_user: bool = True) -> Actor:
    """Who asks. Raises :class:`Problem`."""
    app, principal = known_app(api, asked.app), call.principal
    if principal.user:
        if not principal.reaches(app):
            raise Problem(errors.HTTP_TOKEN_INVALID)
        if asked.user not in ("", principal.user):
            raise Problem(errors.HTTP_FORBIDDEN)
        return Actor(app, principal.user, False, principal.device)
    if not principal.reaches(app):
        raise Problem(errors.HTTP_FORBIDDEN)
    if needs_user and not asked.user:
        raise Problem(errors.HTTP_INVALID_REQUEST, "`user`: say on whose behalf you ask")
    return Actor(app, asked.user, True)
