"""What is set for an app, as requests and answers of ``/api/v1`` have it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.v1 import field
from imserver.settings import DialectName, WebhookEvent

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
        Meta(description="How old stored messages may become; 0: as the server has it."),
    ] = UNSET
    keep_messages: Annotated[
        Number | UnsetType, Meta(description="How many stored messages are kept; 0: as the server has it.")
    ] = UNSET
    room_members: Annotated[
        dict[field.RoomName, list[field.User]] | UnsetType,
        Meta(description="Users who are put into a room when they log in, by room."),
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
    configured: Annotated[bool, Meta(description="It stands in the configuration, and is changed there.")]
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
