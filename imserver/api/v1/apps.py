"""Routes of apps: which there are, what is set for one, a new one, a change."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1 import field
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.reach import APP_PROBLEMS
from imserver.api.v1.wire import read, reply
from imserver.services.tenants import BadTenant, TooManyTenants, UnknownTenant
from imserver.settings import DialectName, WebhookEvent

if TYPE_CHECKING:
    from imserver.services.tenants import Tenant

NewApp = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=191,
        description="The name of the app; a number if clients of the `cmd` dialect log in to it.",
    ),
]
Policy = Literal["newest", "multi", "single", "refuse"]
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Address = Annotated[str, Meta(pattern=r"^https?://")]
Setting = Literal[
    "login_policy",
    "same_as",
    "dialects",
    "origins",
    "origin_policy",
    "api_allow_from",
    "jwt",
    "webhook",
    "max_connections",
    "messages_per_second",
    "max_rooms",
    "room_members",
]


class TokenKey(Struct, forbid_unknown_fields=True):
    """A key that session tokens of the app may be signed with."""

    algorithm: Literal["HS256", "RS256", "EdDSA"]
    key: Annotated[str, Meta(min_length=1, description="HS256: the secret. Else: the public key as PEM.")]
    kid: Annotated[str, Meta(description="Its name in the header of a token, if there are several.")] = ""


class Webhook(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Where the back end of the app is told what happens, and asked who may log in."""

    url: Annotated[Address | UnsetType, Meta(description="Where events are posted to.")] = UNSET
    secret: Annotated[str | UnsetType, Meta(description="What the posts are signed with.")] = UNSET
    events: Annotated[list[WebhookEvent] | UnsetType, Meta(description="Which events.")] = UNSET
    authorise_url: Annotated[
        Address | UnsetType, Meta(description="Who is asked, at each login, whether it may happen.")
    ] = UNSET


class AppSettingsGiven(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What may be set for an app. What is left out stays as it is; a new app has the default."""

    login_policy: Annotated[
        Policy | UnsetType, Meta(description="What counts when a user logs in more than once.")
    ] = UNSET
    same_as: Annotated[
        field.App | UnsetType, Meta(description="The app that this name is another name of.")
    ] = UNSET
    dialects: Annotated[
        list[DialectName] | UnsetType, Meta(description="Protocols that may log in; none: all.")
    ] = UNSET
    origins: Annotated[
        list[str] | UnsetType,
        Meta(description="Hosts whose pages may connect, besides the server's own."),
    ] = UNSET
    origin_policy: Annotated[
        Literal["any", "same_host"] | UnsetType, Meta(description="Whose pages may connect.")
    ] = UNSET
    api_allow_from: Annotated[
        list[str] | UnsetType,
        Meta(
            description="Addresses and networks that may use the `/api/…` routes of the client dialect "
            "without a key."
        ),
    ] = UNSET
    jwt: Annotated[
        list[TokenKey] | UnsetType, Meta(description="With one or more, a login needs a session token.")
    ] = UNSET
    webhook: Webhook | UnsetType = UNSET
    max_connections: Annotated[Number | UnsetType, Meta(description="Most sessions on a node; 0: any.")] = (
        UNSET
    )
    messages_per_second: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)] | UnsetType,
        Meta(description="Most frames of a connection in a second; 0: any."),
    ] = UNSET
    max_rooms: Annotated[Number | UnsetType, Meta(description="Most rooms on a node; 0: any.")] = UNSET
    room_members: Annotated[
        dict[field.RoomName, list[field.User]] | UnsetType,
        Meta(description="Users who are put into a room when they log in, by room."),
    ] = UNSET


class AppCreate(Struct, forbid_unknown_fields=True):
    """A new app."""

    app: NewApp
    settings: AppSettingsGiven = msgspec.field(default_factory=AppSettingsGiven)


class AppSet(Struct, forbid_unknown_fields=True):
    """A change of an app that was created at run time."""

    app: field.App
    settings: AppSettingsGiven = msgspec.field(default_factory=AppSettingsGiven)
    unset: Annotated[list[Setting], Meta(description="Settings that have their default again.")] = []


class AppQuery(Struct, forbid_unknown_fields=True):
    """Which app."""

    app: field.App


class AppsQuery(Struct, forbid_unknown_fields=True):
    """Which page of the list."""

    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class TokenKeyShown(Struct):
    """A key of session tokens, without the key itself."""

    algorithm: str
    kid: str


class WebhookShown(Struct):
    """The webhook of an app, without its secret."""

    url: str
    events: list[str]
    authorise_url: str
    signed: Annotated[bool, Meta(description="Whether a secret is set.")]


class AppShown(Struct):
    """An app and what is set for it. Secrets are not shown."""

    app: str
    configured: Annotated[bool, Meta(description="It stands in the configuration, and is changed there.")]
    login_policy: Policy
    same_as: Annotated[str, Meta(description="The app that this is another name of; empty: it is its own.")]
    dialects: list[str]
    origins: list[str]
    origin_policy: Annotated[str, Meta(description="Empty: as for the server as a whole.")]
    api_allow_from: list[str]
    jwt: list[TokenKeyShown]
    webhook: WebhookShown
    max_connections: int
    messages_per_second: float
    max_rooms: int
    room_members: dict[str, list[str]]


class AppsAnswer(Struct):
    """Some of the apps that the key reaches, in the order of their names."""

    count: Annotated[int, Meta(description="How many there are, on all pages together.")]
    apps: list[AppShown]
    next: field.Next


_read_create: Final = msgspec.json.Decoder(AppCreate)
_read_set: Final = msgspec.json.Decoder(AppSet)


def list_apps(api: Api, call: Call) -> Answer:
    """``GET /api/v1/apps``."""
    asked = read_query(call, AppsQuery)
    tenants = api.services.tenants
    names = [name for name in tenants.names() if call.caller.reaches(name)]
    start = bisect_right(names, after(asked.cursor) or "")
    page = names[start : start + asked.limit]
    shown = [_shown(tenant) for tenant in map(tenants.get, page) if tenant is not None]
    following = cursor_of(page[-1]) if start + asked.limit < len(names) else ""
    return reply(call, AppsAnswer(len(names), shown, following))


def show_app(api: Api, call: Call) -> Answer:
    """``GET /api/v1/apps/show``."""
    name = read_query(call, AppQuery).app
    _require_reach(call, name)
    tenant = api.services.tenants.find(name)
    if tenant is None:
        raise Problem(errors.HTTP_UNKNOWN_APP)
    return reply(call, _shown(tenant))


def create_app(api: Api, call: Call) -> Answer:
    """``POST /api/v1/apps/create``."""
    asked = read(api, call, _read_create)
    _require_reach(call, asked.app)
    tenants = api.services.tenants
    try:
        created = tenants.register(asked.app, **_fields(asked.settings))
    except BadTenant as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except TooManyTenants:
        raise Problem(errors.HTTP_TOO_MANY_APPS) from None
    tenant = tenants.find(asked.app)
    if not created or tenant is None:
        raise Problem(errors.HTTP_APP_EXISTS)
    return reply(call, _shown(tenant), status=201)


def set_app(api: Api, call: Call) -> Answer:
    """``POST /api/v1/apps/set``."""
    asked = read(api, call, _read_set)
    _require_reach(call, asked.app)
    tenants = api.services.tenants
    tenant = tenants.find(asked.app)
    if tenant is not None and tenant.configured:
        raise Problem(errors.HTTP_APP_CONFIGURED)
    try:
        return reply(call, _shown(tenants.change(asked.app, _fields(asked.settings), tuple(asked.unset))))
    except BadTenant as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except UnknownTenant:
        raise Problem(errors.HTTP_UNKNOWN_APP) from None


def _require_reach(call: Call, name: str) -> None:
    if not call.caller.reaches(name):
        raise Problem(errors.HTTP_FORBIDDEN)


def _fields(settings: AppSettingsGiven) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(settings)
    return fields


def _shown(tenant: Tenant) -> AppShown:
    webhook = tenant.webhook
    return AppShown(
        tenant.name,
        tenant.configured,
        tenant.policy_of(tenant.name),
        tenant.same_as,
        list(tenant.dialects),
        list(tenant.origins),
        tenant.origin_policy,
        list(tenant.api_allow_from),
        [TokenKeyShown(key.algorithm, key.kid) for key in tenant.jwt],
        WebhookShown(
            webhook.url,
            list(webhook.events),
            webhook.authorise_url,
            bool(webhook.secret or webhook.secret_file),
        ),
        tenant.max_connections,
        tenant.messages_per_second,
        tenant.max_rooms,
        {room: list(users) for room, users in tenant.room_members.items()},
    )


_SHOWN: Final = {
    "app": "shop",
    "configured": False,
    "login_policy": "single",
    "same_as": "",
    "dialects": [],
    "origins": ["shop.example.com"],
    "origin_policy": "",
    "api_allow_from": [],
    "jwt": [],
    "webhook": {"url": "", "events": [], "authorise_url": "", "signed": False},
    "max_connections": 0,
    "messages_per_second": 0.0,
    "max_rooms": 0,
    "room_members": {},
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/apps",
        "admin",
        list_apps,
        "apps",
        "The apps that the key reaches, page by page",
        query=AppsQuery,
        answer=AppsAnswer,
        problems=(errors.HTTP_INVALID_REQUEST,),
        example_query={"limit": 100},
        example_answer={"count": 1, "apps": [_SHOWN], "next": ""},
    ),
    Operation(
        "GET",
        "/api/v1/apps/show",
        "admin",
        show_app,
        "apps",
        "What is set for an app",
        query=AppQuery,
        answer=AppShown,
        problems=APP_PROBLEMS,
        example_query={"app": "shop"},
        example_answer=_SHOWN,
    ),
    Operation(
        "POST",
        "/api/v1/apps/create",
        "admin",
        create_app,
        "apps",
        "A new app, stored in the database",
        "Every node knows it within two seconds, this one at once.",
        body=AppCreate,
        answer=AppShown,
        status=201,
        problems=(
            errors.HTTP_INVALID_REQUEST,
            errors.HTTP_FORBIDDEN,
            errors.HTTP_APP_EXISTS,
            errors.HTTP_TOO_MANY_APPS,
            errors.HTTP_STORAGE_UNAVAILABLE,
        ),
        example_body={
            "app": "shop",
            "settings": {"login_policy": "single", "origins": ["shop.example.com"]},
        },
        example_answer=_SHOWN,
    ),
    Operation(
        "POST",
        "/api/v1/apps/set",
        "admin",
        set_app,
        "apps",
        "Change what is set for an app that was created at run time",
        "Sessions that are there already are not ended by it.",
        body=AppSet,
        answer=AppShown,
        problems=(*APP_PROBLEMS, errors.HTTP_APP_CONFIGURED),
        example_body={"app": "shop", "settings": {"max_rooms": 100}, "unset": ["origins"]},
        example_answer={**_SHOWN, "origins": [], "max_rooms": 100},
    ),
)
