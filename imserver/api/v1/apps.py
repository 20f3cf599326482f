"""Apps: which there are, the settings of one, create, change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.operation import APP_PROBLEMS, Link, Operation
from imserver.api.v1.wire import page_of, reply
from imserver.auth.principal import ADMIN
from imserver.auth.tenants import BadTenant, TooManyTenants, UnknownTenant
from imserver.config.settings import DialectName, WebhookEvent
from imserver.transport.exchange import HttpResponse

if TYPE_CHECKING:
    from imserver.auth.tenants import Tenant

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
    "open",
    "dialects",
    "origins",
    "origin_policy",
    "api_allow_from",
    "jwt",
    "account_tokens",
    "webhook",
    "max_connections",
    "messages_per_second",
    "max_rooms",
    "keep_seconds",
    "keep_messages",
    "room_members",
    "keep_talks",
]


class TokenKey(Struct, forbid_unknown_fields=True):
    """A key that session tokens of the app may be signed with."""

    algorithm: Literal["HS256", "RS256", "EdDSA"]
    key: Annotated[str, Meta(min_length=1, description="HS256: the secret. Else: the public key as PEM.")]
    kid: Annotated[str, Meta(description="Its name in the header of a token, if there are several.")] = ""


class Webhook(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Where the server posts events of the app, and asks whether a login is allowed."""

    url: Annotated[Address | UnsetType, Meta(description="Where events are posted to.")] = UNSET
    secret: Annotated[str | UnsetType, Meta(description="What the posts are signed with.")] = UNSET
    events: Annotated[list[WebhookEvent] | UnsetType, Meta(description="Which events.")] = UNSET
    authorise_url: Annotated[
        Address | UnsetType,
        Meta(description="The URL that the server asks at each login whether to allow it."),
    ] = UNSET


class AppSettingsGiven(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What may be set for an app. What is left out stays as it is; a new app has the default."""

    login_policy: Annotated[
        Policy | UnsetType, Meta(description="What counts when a user logs in more than once.")
    ] = UNSET
    same_as: Annotated[
        field.App | UnsetType, Meta(description="The app that this name is another name of.")
    ] = UNSET
    open: Annotated[
        bool | UnsetType,
        Meta(description="Whether anybody may log in as anybody, where no login rule says who may."),
    ] = UNSET
    dialects: Annotated[
        list[DialectName] | UnsetType, Meta(description="Protocols that may log in; none: all.")
    ] = UNSET
    origins: Annotated[
        list[str] | UnsetType,
        Meta(description="Hosts whose pages may connect, besides the server's own."),
    ] = UNSET
    origin_policy: Annotated[
        Literal["any", "same_host"] | UnsetType, Meta(description="The pages that may connect.")
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
    account_tokens: Annotated[
        Literal["required", "ignored"] | UnsetType,
        Meta(description="Whether a login needs the token of an account of the app, or one of `jwt`."),
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
    keep_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000_000)] | UnsetType,
        Meta(description="Longest age of stored messages in seconds; 0: the server's setting."),
    ] = UNSET
    keep_messages: Annotated[
        Number | UnsetType, Meta(description="Most stored messages to keep; 0: the server's setting.")
    ] = UNSET
    room_members: Annotated[
        dict[field.RoomName, list[field.User]] | UnsetType,
        Meta(description="Users who join a room at login, by room."),
    ] = UNSET
    keep_talks: Annotated[
        bool | UnsetType,
        Meta(description="Whether what users of the `action` dialect say is stored."),
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
    configured: Annotated[
        bool,
        Meta(description="Whether the app comes from the configuration file, where it has to be changed."),
    ]
    login_policy: Policy
    same_as: Annotated[str, Meta(description="The app that this is another name of; empty: it is its own.")]
    open: Annotated[
        bool, Meta(description="Anybody may log in as anybody, where no login rule says who may.")
    ]
    dialects: list[str]
    origins: list[str]
    origin_policy: Annotated[str, Meta(description="Empty: as for the server as a whole.")]
    api_allow_from: list[str]
    jwt: list[TokenKeyShown]
    account_tokens: Annotated[
        Literal["required", "ignored"],
        Meta(description="Whether a login needs the token of an account of the app, or one of `jwt`."),
    ]
    webhook: WebhookShown
    max_connections: int
    messages_per_second: float
    max_rooms: int
    keep_seconds: float
    keep_messages: int
    keep_talks: Annotated[bool, Meta(description="Whether what users of the `action` dialect say is stored.")]
    room_members: dict[str, list[str]]


class AppsAnswer(Struct):
    """Some of the apps that the key reaches, in the order of their names."""

    count: Annotated[int, Meta(description="How many there are, on all pages together.")]
    apps: list[AppShown]
    next: field.Next


def list_apps(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/apps``."""
    asked: AppsQuery = call.asked
    tenants = api.services.tenants
    names = [name for name in tenants.names() if call.principal.reaches(tenants.resolve(name))]
    page, following = page_of(names, asked.cursor, asked.limit)
    shown = [_shown(tenant) for tenant in map(tenants.get, page) if tenant is not None]
    return reply(call, AppsAnswer(len(names), shown, following))


def show_app(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/apps/show``."""
    asked: AppQuery = call.asked
    tenant = api.services.tenants.find(asked.app)
    if tenant is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_APP)
    return reply(call, _shown(tenant))


def create_app(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/apps/create``."""
    asked: AppCreate = call.asked
    tenants = api.services.tenants
    try:
        created = tenants.register(asked.app, **_fields(asked.settings))
    except BadTenant as bad:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except TooManyTenants:
        raise ApiProblem(errors.HTTP_TOO_MANY_APPS) from None
    tenant = tenants.find(asked.app)
    if not created or tenant is None:
        raise ApiProblem(errors.HTTP_APP_EXISTS)
    return reply(call, _shown(tenant), status=201)


def set_app(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/apps/set``."""
    asked: AppSet = call.asked
    tenants = api.services.tenants
    tenant = tenants.find(asked.app)
    if tenant is not None and tenant.configured:
        raise ApiProblem(errors.HTTP_APP_CONFIGURED)
    try:
        return reply(call, _shown(tenants.change(asked.app, _fields(asked.settings), tuple(asked.unset))))
    except BadTenant as bad:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except UnknownTenant:
        raise ApiProblem(errors.HTTP_UNKNOWN_APP) from None


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
        tenant.open,
        list(tenant.dialects),
        list(tenant.origins),
        tenant.origin_policy,
        list(tenant.api_allow_from),
        [TokenKeyShown(key.algorithm, key.kid) for key in tenant.jwt],
        "required" if tenant.wants_accounts(tenant.name) else "ignored",
        WebhookShown(
            webhook.url,
            list(webhook.events),
            webhook.authorise_url,
            bool(webhook.secret or webhook.secret_file),
        ),
        tenant.max_connections,
        tenant.messages_per_second,
        tenant.max_rooms,
        tenant.keep_seconds,
        tenant.keep_messages,
        tenant.keep_talks,
        {room: list(users) for room, users in tenant.room_members.items()},
    )


_SHOWN: Final = {
    "app": "shop",
    "configured": False,
    "login_policy": "single",
    "same_as": "",
    "open": False,
    "dialects": [],
    "origins": ["shop.example.com"],
    "origin_policy": "",
    "api_allow_from": [],
    "jwt": [],
    "account_tokens": "ignored",
    "webhook": {"url": "", "events": [], "authorise_url": "", "signed": False},
    "max_connections": 0,
    "messages_per_second": 0.0,
    "max_rooms": 0,
    "keep_seconds": 0.0,
    "keep_messages": 0,
    "keep_talks": False,
    "room_members": {},
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/apps",
        ADMIN,
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
        ADMIN,
        show_app,
        "apps",
        "What is set for an app",
        query=AppQuery,
        reach="named",
        answer=AppShown,
        problems=APP_PROBLEMS,
        example_query={"app": "shop"},
        example_answer=_SHOWN,
    ),
    Operation(
        "POST",
        "/api/v1/apps/create",
        ADMIN,
        create_app,
        "apps",
        "A new app, stored in the database",
        "Every node knows it within two seconds, this one at once.",
        body=AppCreate,
        reach="settings",
        answer=AppShown,
        status=201,
        links=(Link("app", "get_apps_show", {"app": "$response.body#/app"}),),
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
        ADMIN,
        set_app,
        "apps",
        "Change what is set for an app that was created at run time",
        "Sessions that are there already are not ended by it.",
        body=AppSet,
        reach="settings",
        answer=AppShown,
        problems=(*APP_PROBLEMS, errors.HTTP_APP_CONFIGURED),
        example_body={"app": "shop", "settings": {"max_rooms": 100}, "unset": ["origins"]},
        example_answer={**_SHOWN, "origins": [], "max_rooms": 100},
    ),
)
