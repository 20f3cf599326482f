"""Apps: which there are, the settings of one, create, change."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from imserver import errors
from imserver.auth import app_deletion
from imserver.auth.principal import ADMIN
from imserver.auth.tenants import BadTenant, Tenant, TooManyTenants, UnknownTenant
from imserver.config.settings import (
    MAX_USER_BYTES,
    ChannelSettings,
    DialectName,
    TokenAlgorithm,
    WebhookEvent,
)
from imserver.http import field
from imserver.http.call import Api, Call
from imserver.http.field import about
from imserver.http.operation import Link, Resource, refuse
from imserver.http.reply import ApiProblem
from imserver.http.wire import page_of
from imserver.storage.contract import Identifier

NewApp = Annotated[
    str,
    about(
        "The name of the app. It must be a number if clients of the `cmd` dialect log in.",
        min_length=1,
        max_length=191,
    ),
]
Policy = Literal["newest", "multi", "single", "refuse"]
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Address = Annotated[str, Meta(pattern=r"^https?://")]


class TokenKey(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A key that may sign session tokens of the app, or an OpenID Connect issuer."""

    algorithm: TokenAlgorithm = "HS256"
    key: Annotated[str, about("HS256, HS384, HS512: the secret. Otherwise: the public key as PEM.")] = ""
    kid: Annotated[str, about("The `kid` in the header of its tokens. Without it every token is tried.")] = ""
    issuer: Annotated[str, about("The URL of an OpenID Connect issuer. The server fetches its keys.")] = ""
    audience: Annotated[str, about("The `aud` of the issuer's tokens. Required with `issuer`.")] = ""
    jwks_url: Annotated[str, about("The URL of the issuer's keys. Default: from its discovery document.")] = (
        ""
    )
    user_claim: Annotated[str, about("The claim that holds the user id.")] = "sub"


class Webhook(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Where the server posts events of the app, and asks whether to allow a login or a message."""

    url: Annotated[Address | UnsetType, about("The URL to which the server posts events.")] = UNSET
    secret: Annotated[str | UnsetType, about("The secret that signs requests to the back end.")] = UNSET
    events: Annotated[list[WebhookEvent] | UnsetType, about("The events to post.")] = UNSET
    authorise_url: Annotated[
        Address | UnsetType, about("The URL that the server asks at each login whether to allow it.")
    ] = UNSET
    review_url: Annotated[
        Address | UnsetType, about("The URL that the server asks about each message of a user.")
    ] = UNSET
    review_seconds: Annotated[
        Annotated[float, Meta(ge=0.1, le=30)] | UnsetType, about("Time for a review, in seconds.")
    ] = UNSET
    review_failure: Annotated[
        Literal["reject", "allow"] | UnsetType,
        about("What happens to a message that was not reviewed in this time."),
    ] = UNSET
    absent_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=86400)] | UnsetType,
        about("The seconds for which a receiver of a stored message has to be offline before `absent`."),
    ] = UNSET


class BackEndAddresses(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The URLs that decide for clients, in the form of Centrifugo's proxies. `webhook.secret` signs."""

    connect: Annotated[Address | UnsetType, about("Logs in clients of Centrifugo without a token.")] = UNSET
    refresh: Annotated[
        Address | UnsetType, about("Renews the sessions of clients of Centrifugo at their end.")
    ] = UNSET
    subscribe: Annotated[
        Address | UnsetType, about("Decides about channels with `subscribe` `back_end`.")
    ] = UNSET
    publish: Annotated[Address | UnsetType, about("Decides about channels with `publish` `back_end`.")] = (
        UNSET
    )
    sub_refresh: Annotated[
        Address | UnsetType, about("Renews the subscriptions of clients of Centrifugo at their end.")
    ] = UNSET
    rpc: Annotated[
        Address | UnsetType, about("Answers the methods of `rpc` that the server does not have.")
    ] = UNSET
    headers: Annotated[
        list[str] | UnsetType,
        about("Headers of a client's first request that requests to the back end repeat."),
    ] = UNSET
    emulated_headers: Annotated[
        list[str] | UnsetType,
        about(
            "Headers set in a client's SDK of Centrifugo that requests to the back end repeat. Clients can "
            "forge them."
        ),
    ] = UNSET
    seconds: Annotated[
        Annotated[float, Meta(ge=0.1, le=30)] | UnsetType, about("Time for an answer, in seconds.")
    ] = UNSET


class AccountRules(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the app demands of its accounts."""

    identifiers: Annotated[
        Annotated[list[Identifier], Meta(min_length=1)] | UnsetType,
        about("Kinds of identifiers; an account has at least one of them."),
    ] = UNSET
    find: Annotated[bool | UnsetType, about("Whether accounts find each other by their identifiers.")] = UNSET
    passwords: Annotated[bool | UnsetType, about("Whether accounts log in with a password.")] = UNSET
    reset_url: Annotated[
        Annotated[str, Meta(pattern="^(https?://.+)?$", max_length=1000)] | UnsetType,
        about(
            "The page that the mail for a forgotten password links to. Empty: no page; in `gochat` the "
            "messages page."
        ),
    ] = UNSET


class LoginProvider(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A provider with which accounts log in."""

    kind: Annotated[
        Literal["oidc", "github", "wechat", "wechat_official"],
        about(
            "`oidc`: any OpenID Connect provider. `wechat`: the QR code for websites. `wechat_official`: the "
            "page of an official account."
        ),
    ]
    client_id: Annotated[str, about("The id that the provider has given to the app.", min_length=1)]
    client_secret: Annotated[str, about("The secret of the `client_id`.")] = ""
    issuer: Annotated[str, about("The address of an `oidc` provider, or of a GitHub Enterprise Server.")] = ""
    scopes: Annotated[list[str], about("Scopes to ask for; an empty list: those that show the user.")] = []
    register: Annotated[bool, about("Whether the first login makes an account.")] = False
    title: Annotated[str, about("The name to show; empty: that of the entry.")] = ""


class LoginProviderShown(Struct):
    """A provider with which accounts log in, without the secret."""

    kind: str
    client_id: str
    issuer: str
    scopes: list[str]
    register: bool
    title: str


class PusherNames(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The app in Pusher's protocol."""

    app_id: Annotated[str | UnsetType, about("The id of the app in the HTTP API.")] = UNSET
    key: Annotated[str | UnsetType, about("The public key that clients name.")] = UNSET
    secret: Annotated[
        str | UnsetType,
        about("The secret that signs subscriptions, requests and webhooks. It has at least 16 bytes."),
    ] = UNSET
    webhook_url: Annotated[Address | UnsetType, about("The URL to which Pusher's webhooks go.")] = UNSET
    activity_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=86400)] | UnsetType,
        about("The seconds after which a silent client sends a ping."),
    ] = UNSET
    client_events_per_second: Annotated[
        Number | UnsetType, about("Client events of one connection; 0: none may send events.")
    ] = UNSET
    event_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType, about("The longest event.")
    ] = UNSET
    presence_members: Annotated[
        Number | UnsetType, about("The most members of a presence channel; 0: any number.")
    ] = UNSET
    subscription_count: Annotated[bool | UnsetType, about("Whether subscribers receive their number.")] = (
        UNSET
    )


class ChannelOptions(ChannelSettings, frozen=True, forbid_unknown_fields=True):
    """The options of the channels of a namespace."""


class AppSettingsGiven(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of an app. Fields that you leave out do not change; in a new app they have their defaults."""

    login_policy: Annotated[
        Policy | UnsetType,
        about(
            "What happens when a user logs in again. `newest`: only the latest session receives "
            "messages for the user. `multi`: all sessions do. `single`: the older session on the same "
            "device is closed. `refuse`: a second login on the same device is refused."
        ),
    ] = UNSET
    same_as: Annotated[field.App | UnsetType, about("The app that this name is an alias of.")] = UNSET
    open: Annotated[
        bool | UnsetType, about("Whether anybody may log in as any user if the app has no login rule.")
    ] = UNSET
    dialects: Annotated[
        list[DialectName] | UnsetType, about("Dialects that may log in; an empty list: all.")
    ] = UNSET
    origins: Annotated[
        list[str] | UnsetType, about("Hosts whose pages may connect, in addition to the server's own.")
    ] = UNSET
    origin_policy: Annotated[
        Literal["any", "same_host"] | UnsetType, about("The pages that may connect.")
    ] = UNSET
    api_allow_from: Annotated[
        list[str] | UnsetType,
        about(
            "Addresses and networks that may push and read without a key, on the routes of the original "
            "servers (`/user/…`, and `/api/…` except `/api/v1`)."
        ),
    ] = UNSET
    jwt: Annotated[
        list[TokenKey] | UnsetType, about("With at least one key, a login needs a session token.")
    ] = UNSET
    account_tokens: Annotated[
        Literal["required", "ignored"] | UnsetType,
        about("Whether a login needs the token of an account of the app, or one of `jwt`."),
    ] = UNSET
    accounts: AccountRules | UnsetType = UNSET
    oauth: Annotated[
        dict[Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,31}$")], LoginProvider] | UnsetType,
        about("Name → provider with which accounts log in."),
    ] = UNSET
    webhook: Webhook | UnsetType = UNSET
    back_ends: BackEndAddresses | UnsetType = UNSET
    pusher: PusherNames | UnsetType = UNSET
    max_connections: Annotated[
        Number | UnsetType, about("The maximum number of sessions on a node; 0: no limit.")
    ] = UNSET
    messages_per_second: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)] | UnsetType,
        about("The maximum number of messages and commands per second of a connection; 0: no limit."),
    ] = UNSET
    max_channels: Annotated[
        Number | UnsetType,
        about("The maximum number of channels with subscribers on a node; 0: no limit."),
    ] = UNSET
    channels: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=64, pattern="^[^:]+$")], ChannelOptions]
        | UnsetType,
        about("Namespace of channels → its options; `*`: of all channels without a row of their own."),
    ] = UNSET
    keep_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000_000)] | UnsetType,
        about("The longest age of stored messages in seconds; 0: the server's setting."),
    ] = UNSET
    keep_messages: Annotated[
        Number | UnsetType, about("The maximum number of stored messages; 0: the server's setting.")
    ] = UNSET
    room_members: Annotated[
        dict[field.ChannelName, list[field.User]] | UnsetType,
        about("Rooms of the action dialect, with the users who belong to them."),
    ] = UNSET
    keep_talks: Annotated[bool | UnsetType, about("Whether messages of the `action` dialect are stored.")] = (
        UNSET
    )
    max_user_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_USER_BYTES)] | UnsetType,
        about("The longest user id, in bytes of UTF-8; 0: the usual limit of an app of this name."),
    ] = UNSET


_SETTINGS: Final = AppSettingsGiven.__struct_fields__
_SETTING: Final = Meta(extra_json_schema={"enum": sorted(_SETTINGS)})


class AppCreate(Struct, forbid_unknown_fields=True):
    """A new app."""

    app: NewApp
    settings: AppSettingsGiven = msgspec.field(default_factory=AppSettingsGiven)


class AppSet(Struct, forbid_unknown_fields=True):
    """A change to an app that was created at run time."""

    app: field.App
    settings: AppSettingsGiven = msgspec.field(default_factory=AppSettingsGiven)
    unset: Annotated[list[Annotated[str, _SETTING]], about("Settings to reset to their defaults.")] = []


class AppDelete(Struct, forbid_unknown_fields=True):
    """An app that was created at run time, to be deleted."""

    app: field.App
    confirm: Annotated[str, about("The name of the app again.")]


class AppDeleted(Struct):
    """The numbers of rows and files that were deleted with an app."""

    app: str
    keys: Annotated[int, about("API keys that were limited to the app. They are revoked.")]
    accounts: int
    messages: Annotated[int, about("Stored messages and other entries of the log.")]
    uploads: int
    groups: int


class AppQuery(Struct, forbid_unknown_fields=True):
    """Which app."""

    app: field.App


class AppsQuery(Struct, forbid_unknown_fields=True):
    """Which page of the list."""

    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class TokenKeyShown(Struct, omit_defaults=True):
    """A key or an issuer of session tokens, without the key itself."""

    algorithm: str
    kid: str
    issuer: str = ""
    audience: str = ""
    jwks_url: str = ""
    user_claim: str = "sub"


class AccountRulesShown(Struct):
    """What the app demands of its accounts."""

    identifiers: list[Identifier]
    find: bool
    passwords: bool
    reset_url: str


class WebhookShown(Struct):
    """The webhook of an app, without the secret."""

    url: str
    events: list[str]
    authorise_url: str
    review_url: str
    review_seconds: float
    review_failure: str
    signed: Annotated[bool, about("Whether a secret is set.")]
    absent_seconds: float


class BackEndsShown(Struct):
    """The URLs that decide for clients."""

    connect: str
    refresh: str
    subscribe: str
    publish: str
    sub_refresh: str
    rpc: str
    headers: list[str]
    emulated_headers: list[str]
    seconds: float


class PusherShown(Struct):
    """The app in Pusher's protocol, without the secret."""

    app_id: str
    key: Annotated[str, about("The public key that clients name; empty: the app does not speak it.")]
    webhook_url: str
    signed: Annotated[bool, about("Whether a secret is set.")]
    activity_seconds: int
    client_events_per_second: int
    event_bytes: int
    presence_members: int
    subscription_count: bool


class AppShown(Struct):
    """An app and its settings, without secrets."""

    app: str
    configured: Annotated[
        bool,
        about("Whether the app is defined in the configuration file. Then it can only be changed there."),
    ]
    login_policy: Policy
    same_as: Annotated[str, about("The app of which this is an alias; empty: this is not an alias.")]
    open: Annotated[bool, about("Whether anybody may log in as any user if the app has no login rule.")]
    dialects: list[str]
    origins: list[str]
    origin_policy: Annotated[str, about("Empty: the server's setting.")]
    api_allow_from: list[str]
    jwt: list[TokenKeyShown]
    account_tokens: Annotated[
        Literal["required", "ignored"],
        about("Whether a login needs the token of an account of the app, or one of `jwt`."),
    ]
    accounts: AccountRulesShown
    oauth: Annotated[dict[str, LoginProviderShown], about("Providers with which accounts log in.")]
    webhook: WebhookShown
    back_ends: BackEndsShown
    pusher: PusherShown
    max_connections: int
    messages_per_second: float
    max_channels: int
    channels: Annotated[dict[str, ChannelOptions], about("Namespace of channels → its options.")]
    keep_seconds: float
    keep_messages: int
    keep_talks: Annotated[bool, about("Whether messages of the `action` dialect are stored.")]
    max_user_bytes: Annotated[int, about("The longest user id, in bytes of UTF-8.")]
    room_members: dict[str, list[str]]


class AppsAnswer(Struct):
    """A page of the apps that the key reaches, ordered by name."""

    count: Annotated[int, about("The number of entries, on all pages together.")]
    apps: list[AppShown]
    next: field.Next


def _shown(tenant: Tenant) -> AppShown:
    own = {
        "app": tenant.name,
        "login_policy": tenant.policy,
        "account_tokens": "required" if tenant.wants_accounts(tenant.name) else "ignored",
        "max_user_bytes": tenant.user_bytes_of(tenant.name),
    }
    fields = {name: getattr(tenant, name) for name in AppShown.__struct_fields__ if name not in own}
    return msgspec.convert({**fields, **own}, AppShown, from_attributes=True)


_SHOWN: Final = _shown(
    Tenant(
        name="shop",
        login_policy="single",
        origins=("shop.example.com",),
        channels={"news": ChannelSettings(history_size=100, history_seconds=600.0)},
    )
)

routes = Resource(
    "apps",
    refusals={
        BadTenant: refuse(errors.HTTP_INVALID_REQUEST, "{}"),
        TooManyTenants: refuse(errors.HTTP_TOO_MANY_APPS),
        UnknownTenant: refuse(errors.HTTP_UNKNOWN_APP),
    },
)


@routes.get("/apps", ADMIN, example={"limit": 100}, answer_example=AppsAnswer(1, [_SHOWN], ""))
def list_apps(api: Api, call: Call, asked: AppsQuery) -> AppsAnswer:
    """List the apps that the key reaches, page by page."""
    tenants = api.services.tenants
    names = [name for name in tenants.names() if call.principal.reaches(tenants.resolve(name))]
    page, following = page_of(names, asked.cursor, asked.limit)
    shown = [_shown(tenant) for tenant in map(tenants.get, page) if tenant is not None]
    return AppsAnswer(len(names), shown, following)


@routes.get(
    "/apps/show",
    ADMIN,
    reach="named",
    problems=(errors.HTTP_UNKNOWN_APP,),
    example={"app": "shop"},
    answer_example=_SHOWN,
)
def show_app(api: Api, call: Call, asked: AppQuery) -> AppShown:
    """Show the settings of an app."""
    tenant = api.services.tenants.find(asked.app)
    if tenant is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_APP)
    return _shown(tenant)


@routes.post(
    "/apps/create",
    ADMIN,
    reach="settings",
    status=201,
    links=(Link("app", "get_apps_show", {"app": "$response.body#/app"}),),
    problems=(errors.HTTP_APP_EXISTS, errors.HTTP_TOO_MANY_APPS),
    example={
        "app": "shop",
        "settings": {"login_policy": "single", "origins": ["shop.example.com"]},
    },
    answer_example=_SHOWN,
)
def create_app(api: Api, call: Call, asked: AppCreate) -> AppShown:
    """Create an app and store it in the database.

    The app works on this node at once, on all others within two seconds.
    """
    tenants = api.services.tenants
    created = tenants.register(asked.app, **_fields(asked.settings))
    tenant = tenants.find(asked.app)
    if not created or tenant is None:
        raise ApiProblem(errors.HTTP_APP_EXISTS)
    return _shown(tenant)


@routes.post(
    "/apps/set",
    ADMIN,
    reach="settings",
    problems=(errors.HTTP_UNKNOWN_APP, errors.HTTP_APP_CONFIGURED),
    example={"app": "shop", "settings": {"max_channels": 100}, "unset": ["origins"]},
    answer_example=replace(_SHOWN, origins=[], max_channels=100),
)
def set_app(api: Api, call: Call, asked: AppSet) -> AppShown:
    """Change the settings of an app that was created at run time.

    Current sessions are not ended.
    """
    if unknown := [name for name in asked.unset if name not in _SETTINGS]:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"`unset`: there is no setting `{unknown[0][:100]}`")
    tenants = api.services.tenants
    tenant = tenants.find(asked.app)
    if tenant is not None and tenant.configured:
        raise ApiProblem(errors.HTTP_APP_CONFIGURED)
    return _shown(tenants.change(asked.app, _fields(asked.settings), tuple(asked.unset)))


@routes.post(
    "/apps/delete",
    ADMIN,
    reach="all",
    problems=(errors.HTTP_UNKNOWN_APP, errors.HTTP_APP_CONFIGURED, errors.HTTP_MEDIA_UNAVAILABLE),
    example={"app": "shop", "confirm": "shop"},
    answer_example={"app": "shop", "keys": 1, "accounts": 20, "messages": 1200, "uploads": 3, "groups": 2},
)
def delete_app(api: Api, call: Call, asked: AppDelete) -> AppDeleted:
    """Delete an app that was created at run time, with its accounts, groups, messages and files.

    All nodes close its sessions with 4506 within `storage.look_seconds`. Rows and files are deleted after
    that, so the answer takes a few seconds. If the request fails midway, repeat it. An app with aliases
    cannot be deleted. This cannot be undone.
    """
    if asked.confirm != asked.app:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`confirm`: repeat the name of the app")
    parts = api.services
    tenant = parts.tenants.find(asked.app)
    if tenant is not None and tenant.configured:
        raise ApiProblem(errors.HTTP_APP_CONFIGURED)
    found = app_deletion.delete_app(
        parts.tenants, parts.store, parts.erasures, asked.app, parts.config.storage
    )
    return AppDeleted(asked.app, **msgspec.structs.asdict(found))


def _fields(settings: AppSettingsGiven) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(settings)
    return fields
