"""The declaration of every setting with its type, range and default.

``config/default.yaml`` explains each setting and shows the same defaults (a
test compares them). :mod:`imserver.gateway.config.load` reads the values.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from imserver.gateway.config.declared import (
    Secret,
    SecretFile,
    Settings,
    Url,
    about,
    marked,
)

_LONGEST_SECONDS: Final = 1_000_000_000.0
_OUTBOX_SHARE: Final = 8
"""The longest push takes one of this many parts of ``limits.outbox_bytes``."""

Port = Annotated[int, Meta(ge=0, le=65535)]
NO_PORT: Final = -1
"""The port of a listener on a Unix socket."""
Count = Annotated[int, Meta(ge=0)]
"""The type of a setting: a whole number, 0 or more."""
Amount = Annotated[int, Meta(ge=1)]
"""The type of a setting: a whole number, 1 or more."""
Seconds = Annotated[float, Meta(ge=0, le=_LONGEST_SECONDS)]
"""The type of a setting: a number of seconds or a rate, 0 or more."""
Duration = Annotated[float, Meta(gt=0, le=_LONGEST_SECONDS)]
"""The type of a setting: a number of seconds above 0."""
Text = Annotated[str, Meta(min_length=1)]
"""The type of a setting: a text that is not empty."""
MountPath = Annotated[
    str,
    Meta(
        pattern=r"^(/[A-Za-z0-9_-]+)?$",
        description="a path of one name, as /chat, of letters, digits, - and _",
    ),
]
"""The first segment of paths, under which a listener or a host is served."""
Processes = Annotated[int, Meta(ge=0, extra={"auto": True})]
"""A number of processes; files may also write ``auto``, which is 0."""
AppName = Annotated[str, Meta(min_length=1, extra={"number": True})]
"""The type of a setting: the name of an app, a text. Files may also write a
number such as 101."""
AppCount = Annotated[int, Meta(ge=0, extra={"api": {"le": 2**31 - 1}})]
"""The type of a setting of an app: a whole number, 0 or more. ``/api/v1`` has
the limit of its generated clients."""

PUBLIC_SIGN_KEY: Final = "gooooIM"
"""The default key with which GoChat signs tokens, which is public."""

LoginPolicy = Literal["newest", "multi", "single", "refuse"]
OriginPolicy = Literal["", "any", "same_host"]
Scope = Literal["push", "read", "metrics", "admin"]


class AppSettings(Struct, frozen=True):
    """Section ``app``: the keys of the original server, under their own
    names."""

    log_file: str = ""
    http_port: Port = 8080
    websocket_port: Port = 8089
    rpc_port: Port = 9001
    http_url: str = ""
    websocket_url: str = ""
    salt: str = "gogogoChat"


class ListenSettings(Struct, frozen=True):
    """An entry of ``server.extra_listen``: an additional port, or Unix socket,
    that serves everything.

    ``host``: ``""`` means ``server.host``. ``socket``: the path of a Unix
    socket in place of a port. ``mode``: its permissions in octal digits.
    ``ws_dialect``: the dialect on ``/ws`` for clients whose query names none.
    ``path``: the listener serves only the paths below this one, and its clients
    leave it out of their requests; ``""``: it serves everything.
    ``proxy_protocol``: only trusted proxies connect, and they name each client
    in the PROXY protocol.
    """

    port: Port = NO_PORT
    host: str = ""
    socket: Annotated[
        str,
        Meta(
            pattern=r"^(/[^\0]{1,106})?$",
            description="an absolute path of at most 107 characters",
        ),
    ] = ""
    mode: Annotated[
        str, Meta(pattern=r"^0?[0-7]{3}$", description="three octal digits, as 660")
    ] = "660"
    ws_dialect: Literal["", "client", "action", "protobuf"] = ""
    path: MountPath = ""
    proxy_protocol: bool = False


class HostSettings(Struct, frozen=True):
    """An entry of ``server.extra_hosts``: a host name under which only the
    paths below ``path`` are served. Its clients leave ``path`` out of their
    requests."""

    host: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9.-]+$", description="the name of a host")
    ]
    path: Annotated[MountPath, Meta(min_length=1)]


class ServerSettings(Struct, frozen=True):
    """Section ``server``: where and how the node listens."""

    host: Text = "127.0.0.1"
    http: Literal["front", "wsgi"] = "front"
    reuse_port: bool = False
    data_dir: Text = "data"
    secret_file: str = ""
    second_secret_file: str = ""
    insecure: bool = False
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    backlog: Amount = 4096
    origins: tuple[Text, ...] = ()
    origin_policy: OriginPolicy = ""
    extra_listen: tuple[ListenSettings, ...] = ()
    extra_hosts: tuple[HostSettings, ...] = ()
    processes: Processes = 1
    hang_seconds: Duration = 30.0
    public_ws_url: str = ""


class LimitSettings(Struct, frozen=True):
    """Section ``limits``: limits and their values."""

    max_connections: Count = 0
    max_connections_per_address: Count = 0
    message_bytes: Amount = 65536
    header_bytes: Annotated[int, Meta(ge=1024)] = 16384
    body_bytes: Amount = 4194304
    handshake_seconds: Duration = 10.0
    login_seconds: Seconds = 0.0
    messages_per_second: Seconds = 0.0
    outbox_bytes: Amount = 1048576
    outbox_seconds: Duration = 30.0
    node_outbox_bytes: Amount = 268435456
    http_requests: Amount = 256
    keepalive_seconds: Duration = 75.0
    batch_targets: Amount = 10000
    pending_pushes: Count = 10000
    pending_bytes: Count = 33554432
    history_bytes: Count = 268435456
    registered_apps: Count = 100000

    @property
    def push_characters(self) -> int:
        """The longest push.

        JSON takes up to six bytes a character, so a frame always fits an empty
        outbox.
        """
        return max(1, self.outbox_bytes // _OUTBOX_SHARE)


class WebSocketSettings(Struct, frozen=True):
    """Section ``websocket``: compression, pings, heartbeats, closing."""

    deflate: bool = False
    ping_seconds: Seconds = 0.0
    pong_seconds: Duration = 20.0
    client_ping_seconds: Duration = 25.0
    client_silent_seconds: Duration = 75.0
    heartbeat_seconds: Duration = 360.0
    sweep_seconds: Duration = 30.0
    close_seconds: Duration = 5.0


class HubSettings(Struct, frozen=True):
    """Section ``hub``: reading and fan-out."""

    notice_members: Count = 1000
    flush_connections: Amount = 256
    readers: Amount = 64


Finding = tuple[str, str]
"""A setting that a careful operator would change, and what is open."""


class JwtSettings(Struct, frozen=True):
    """A key that may sign session tokens of the app, or an OpenID Connect
    issuer.

    ``key`` or the content of ``key_file``: a secret for HS256, HS384 and HS512,
    a public key as PEM for the other algorithms. Without either, HS256 uses a
    secret derived from the server's own.

    ``issuer``: an OpenID Connect provider. Its keys are fetched from
    ``jwks_url`` (default: the address in its discovery document). Its tokens
    must contain the ``audience``; ``user_claim`` names the claim with the user.
    """

    algorithm: Literal[
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    ] = "HS256"
    key: Annotated[
        Secret,
        about(
            "The secret for HS256, HS384 and HS512. For other algorithms, the public "
            "key as PEM."
        ),
    ] = ""
    key_file: SecretFile = ""
    kid: Annotated[
        str,
        about(
            "The `kid` in the header of tokens with this key. Without `kid`, the "
            "server tries the key on every token."
        ),
    ] = ""
    issuer: Annotated[
        str,
        about(
            "The URL of an OpenID Connect issuer. The server fetches its keys.",
            omit=True,
        ),
    ] = ""
    audience: Annotated[
        str,
        about("The `aud` of the issuer's tokens. Required with `issuer`.", omit=True),
    ] = ""
    jwks_url: Annotated[
        str,
        about(
            "The URL of the issuer's keys. The default is in the issuer's discovery "
            "document.",
            omit=True,
        ),
    ] = ""
    user_claim: Annotated[
        Text, about("The claim that contains the user id.", omit=True)
    ] = "sub"


WebhookEvent = Literal[
    "connect",
    "disconnect",
    "login",
    "message",
    "group",
    "account",
    "absent",
    "occupied",
    "vacated",
    "joined",
    "left",
    "notified",
    "gone",
    "report",
    "moderation",
    "ask_closed",
]
"""The events that the webhook of an app may get."""


class WebhookSettings(Struct, frozen=True):
    """The URLs to which the server posts events of the app, and at which it
    asks whether to allow a login or a message.

    ``secret``, or the content of ``secret_file``, signs what is sent.
    ``events`` without ``url``: the back end reads them from
    ``/api/v1/events/log``. ``review_seconds``: time for a review;
    ``review_failure``: what happens to a message that was not reviewed in this
    time.
    """

    url: Annotated[Url, about("The URL to which the server posts events.")] = ""
    secret: Annotated[
        Secret, about("The secret that signs requests to the back end.")
    ] = ""
    secret_file: SecretFile = ""
    events: Annotated[tuple[WebhookEvent, ...], about("The events to post.")] = ()
    authorise_url: Annotated[
        Url,
        about(
            "The URL that the server asks at each login whether to allow it.",
            by_key=True,
        ),
    ] = ""
    absent_seconds: Annotated[
        float,
        Meta(ge=0, le=86400),
        about(
            "The number of seconds for which the receiver of a stored message must be "
            "offline before the server posts `absent`."
        ),
    ] = 10.0
    review_url: Annotated[
        Url, about("The URL that the server asks about each message of a user.")
    ] = ""
    review_seconds: Annotated[
        float, Meta(ge=0.1, le=30), about("The time limit of a review, in seconds.")
    ] = 2.0
    review_failure: Annotated[
        Literal["reject", "allow"],
        about(
            "Whether the server rejects or allows a message that was not reviewed "
            "within the time limit."
        ),
    ] = "reject"

    @property
    def signed(self) -> bool:
        """Whether there is a secret."""
        return bool(self.secret or self.secret_file)

    @property
    def urls(self) -> dict[str, str]:
        """The addresses that are set, by the name of their setting."""
        return dict(marked(self, "url"))


class BackEndSettings(Struct, frozen=True):
    """The URLs of the back end that decide about requests of clients, in the
    form of Centrifugo's proxies. `webhook.secret` signs the requests.

    ``headers``: which headers of a client's first request they repeat.
    ``emulated_headers``: which headers that the SDK of a client has set they
    repeat; any client can forge them. ``seconds``: time for an answer.
    """

    connect: Annotated[
        Url,
        about(
            "The URL that decides about logins of Centrifugo clients without a token."
        ),
    ] = ""
    refresh: Annotated[
        Url, about("The URL that renews expiring sessions of Centrifugo clients.")
    ] = ""
    subscribe: Annotated[
        Url,
        about(
            "The URL that decides about subscriptions to channels with `subscribe` "
            "`back_end`."
        ),
    ] = ""
    publish: Annotated[
        Url,
        about(
            "The URL that decides about publications to channels with `publish` "
            "`back_end`."
        ),
    ] = ""
    sub_refresh: Annotated[
        Url, about("The URL that renews expiring subscriptions of Centrifugo clients.")
    ] = ""
    rpc: Annotated[
        Url, about("The URL that answers `rpc` methods that the server does not have.")
    ] = ""
    headers: Annotated[
        tuple[Text, ...],
        about(
            "Headers of a client's first request that the server copies to requests "
            "to the back end."
        ),
    ] = ()
    emulated_headers: Annotated[
        tuple[Text, ...],
        about(
            "Headers, set in a client's Centrifugo SDK, that the server copies to "
            "requests to the back end. Clients can forge these headers."
        ),
    ] = ()
    seconds: Annotated[
        float, Meta(ge=0.1, le=30), about("The time limit of an answer, in seconds.")
    ] = 2.0

    @property
    def urls(self) -> dict[str, str]:
        """The addresses that are set, by the name of their setting."""
        return dict(marked(self, "url"))


class ChannelSettings(Struct, frozen=True):
    """The options of the channels of a namespace."""

    subscribe: Annotated[
        Literal["", "nobody", "token", "members", "anybody", "back_end"],
        about(
            "Who may subscribe. Empty: clients with a token, and in an open app "
            "anybody. `members`: the members of the group whose id follows the colon "
            "of the name. `back_end`: clients with a token, and other clients if the "
            "back end allows it."
        ),
    ] = ""
    publish: Annotated[
        Literal["", "nobody", "subscribers", "anybody", "back_end"],
        about(
            "Which clients may publish. Empty: no clients. `back_end`: any client, if "
            "the back end allows it."
        ),
    ] = ""
    user_limited: Annotated[
        bool,
        about(
            "Whether the users whose ids follow the last `#` of a name, as in "
            "`news#1,2`, may subscribe without a token."
        ),
    ] = False
    anonymous: Annotated[
        bool,
        about(
            "Whether `anybody` and `subscribers` include clients without a user. This "
            "setting has no effect on tokens and decisions of the back end."
        ),
    ] = True
    presence: Annotated[
        bool,
        about(
            "Whether the clients in `read_presence`, and your back end, may list the "
            "subscribers."
        ),
    ] = False
    read_presence: Annotated[
        Literal["nobody", "subscribers", "anybody"],
        about("Which clients may list the subscribers."),
    ] = "subscribers"
    join_leave: Annotated[
        bool, about("Whether subscribers are notified when others subscribe and leave.")
    ] = False
    history: Annotated[
        Literal["", "log"],
        about(
            "`log`: the message log stores all publications, and `history_size` is 0. "
            "Empty: `history_size` and `history_seconds` define the history."
        ),
    ] = ""
    history_size: Annotated[
        int,
        about("The number of publications to retain; 0: no history.", ge=0, le=100_000),
    ] = 0
    history_seconds: Annotated[
        float,
        about(
            "The number of seconds for which the history is retained after the last "
            "publication.",
            ge=0,
            le=31_536_000,
        ),
    ] = 0.0
    read_history: Annotated[
        Literal["nobody", "subscribers", "anybody"],
        about(
            "Which clients may read the history. `nobody`: clients can only recover "
            "missed publications, with `recovery`."
        ),
    ] = "subscribers"
    recovery: Annotated[
        bool,
        about(
            "Whether clients receive missed publications even without asking for them."
        ),
    ] = False
    recovery_mode: Annotated[
        Literal["stream", "cache"],
        about(
            "The publications that a client receives when it reconnects: all missed "
            "publications (`stream`), or only the newest (`cache`)."
        ),
    ] = "stream"
    delta: Annotated[
        bool,
        about(
            "Whether clients that support deltas receive only the differences between "
            "publications (fossil)."
        ),
    ] = False
    max_subscribers: Annotated[
        Count, about("The maximum number of subscribers of a channel; 0: no limit.")
    ] = 0
    max_bytes: Annotated[
        Count, about("The maximum length of a message in bytes; 0: no separate limit.")
    ] = 0
    publications_per_second: Annotated[
        Count,
        about(
            "The maximum number of publications of one connection to the namespace "
            "per second; 0: no limit."
        ),
    ] = 0

    @property
    def has_history(self) -> bool:
        """Whether the channels have a history, so that publications have
        positions."""
        return self.history_size > 0 or self.history != ""

    @property
    def may_recover(self) -> bool:
        """Whether clients may receive publications that they missed."""
        return self.recovery or self.read_history != "nobody"


_BY_FEATURE: Final = {"by_feature": True}
MAX_USER_BYTES: Final = 255
"""Longest user id of any app, in bytes of UTF-8."""


class TenantSettings(Struct, frozen=True):
    """An entry of section ``apps``.

    ``login_policy`` ``""`` and ``max_user_bytes`` 0: the default for an app of
    this name. ``of_features``: structs with the settings that features declare
    (:func:`app_settings_of`); in the file their keys stand among these.
    """

    login_policy: Annotated[
        Literal["", LoginPolicy],
        about(
            "The effect of a second login of a user. `newest`: only the newest "
            "session receives messages for the user. `multi`: all sessions receive "
            "them. `single`: the server closes the older session on the same device. "
            "`refuse`: the server refuses a second login on the same device."
        ),
    ] = ""
    same_as: Annotated[
        str,
        about(
            "The app of which this app is an alias; empty: this app is not an alias.",
            number=True,
            by_key=True,
            api={"min_length": 1},
        ),
    ] = ""
    open: Annotated[
        bool,
        about(
            "Whether anybody may log in as any user if the app has no login rule.",
            by_key=True,
        ),
    ] = False
    dialects: Annotated[
        tuple[Text, ...],
        about("The dialects in which clients may log in; an empty list: all dialects."),
    ] = ()
    origins: Annotated[
        tuple[Text, ...],
        about(
            "The hosts whose web pages may connect, in addition to the server's own "
            "host."
        ),
    ] = ()
    origin_policy: Annotated[
        OriginPolicy,
        about("Which web pages may connect; empty: the server's setting applies."),
    ] = ""
    api_allow_from: Annotated[
        tuple[Text, ...],
        about(
            "Addresses and networks that may push and read without a key, on the "
            "routes of the original servers (`/user/…`, and `/api/…` except "
            "`/api/v1`).",
            by_key=True,
        ),
    ] = ()
    jwt: Annotated[
        tuple[JwtSettings, ...],
        about(
            "The keys for session tokens. If there is at least one key, a login "
            "requires a session token.",
            ends_demo=True,
            by_key=True,
        ),
    ] = ()
    account_tokens: Annotated[
        Literal["", "required", "ignored"],
        about(
            "Whether a login requires the token of an account of the app, or a "
            "session token of a key in `jwt`.",
            by_feature=True,
            by_key=True,
        ),
    ] = ""
    webhook: Annotated[WebhookSettings, Meta(extra=_BY_FEATURE)] = WebhookSettings()
    back_ends: Annotated[
        BackEndSettings, Meta(extra={**_BY_FEATURE, "by_key": True})
    ] = BackEndSettings()
    max_connections: Annotated[
        AppCount,
        about("The maximum number of sessions on a node; 0: no limit.", by_key=True),
    ] = 0
    messages_per_second: Annotated[
        Seconds,
        about(
            "The maximum number of messages and commands per second of a "
            "connection; 0: no limit.",
            by_key=True,
            api={"le": 1_000_000},
        ),
    ] = 0.0
    max_channels: Annotated[
        AppCount,
        about(
            "The maximum number of channels with subscribers on a node; 0: no limit.",
            by_key=True,
        ),
    ] = 0
    channels: Annotated[
        dict[
            Annotated[
                str,
                Meta(
                    extra={
                        "empty": True,
                        "api": {"max_length": 64, "pattern": "^[^:]*$"},
                    }
                ),
            ],
            ChannelSettings,
        ],
        about(
            "Namespace of channels → its options. The empty name has the options of "
            "channels without a namespace. `*` has the options of all channels "
            "without a row of their own."
        ),
    ] = field(default_factory=dict)
    known_channels_only: Annotated[
        bool,
        about("Whether the server refuses channels for which `channels` has no row."),
    ] = False
    room_members: Annotated[
        dict[
            Annotated[Text, Meta(extra={"api": {"max_length": 255}})], tuple[Text, ...]
        ],
        about("Rooms of the action dialect, with the users who belong to them."),
    ] = field(default_factory=dict)
    store_conversations: Annotated[
        bool,
        about("Whether messages of the `action` dialect are stored.", by_feature=True),
    ] = False
    max_user_bytes: Annotated[
        int,
        Meta(ge=0, le=MAX_USER_BYTES),
        about(
            "The maximum length of a user id, in bytes of UTF-8; 0: the default limit "
            "for the app.",
            by_key=True,
        ),
    ] = 0
    of_features: tuple[Any, ...] = ()

    @property
    def ends_demo(self) -> bool:
        """Whether the app demands a proof of its users or its back end.

        Such an app ends demo mode.
        """
        return any(marked(self, "ends_demo"))

    def policy_of(self, name: str) -> LoginPolicy:
        """Return the login policy of an app with these settings.

        It says what happens if a user logs in twice. ``name`` is the name of
        the app. Apps of an original server have the policy of the original by
        default.
        """
        if self.login_policy:
            return self.login_policy
        if name in _NEWEST:
            return "newest"
        if name == "gochat":
            return "refuse"
        return "multi"

    def user_bytes_of(self, name: str) -> int:
        """Return the longest user id of an app with these settings.

        It is in bytes of UTF-8. ``name`` is the name of the app.
        """
        if self.max_user_bytes:
            return self.max_user_bytes
        if name in _NEWEST:
            return ORIGINAL_USER_BYTES
        return MAX_USER_BYTES

    def wants_accounts(self, name: str) -> bool:
        """Tell whether a login to an app accepts account or session tokens.

        By default only the app ``gochat`` does.
        """
        if not self.account_tokens:
            return name == "gochat"
        return self.account_tokens == "required"


ORIGINAL_USER_BYTES: Final = 19
"""Longest user id of the apps of two originals, in bytes of UTF-8."""
_NEWEST: Final = frozenset({"101", "102", "103", "104", "action:1", "action:2"})
"""The apps of two originals, whose newest session of a user replaces the
others."""


class KeySettings(Struct, frozen=True):
    """An entry of ``api.keys``: a key of a back end, its scopes, and its apps
    (none: all).

    ``expires``: the day at whose beginning in UTC the key ends, such as
    ``2027-01-31``; ``""``: it never ends.
    """

    key: Annotated[Text, Meta(extra={"secret": True})]
    scopes: tuple[Scope, ...]
    apps: tuple[AppName, ...] = ()
    expires: str = ""

    @property
    def expires_at(self) -> int:
        """The end in Unix seconds; 0: never.

        Raises ValueError if the text is no day.
        """
        if not self.expires:
            return 0
        day = datetime.strptime(self.expires, "%Y-%m-%d")
        return int(day.replace(tzinfo=UTC).timestamp())


class ApiSettings(Struct, frozen=True):
    """Section ``api``: API keys and their rate, de-duplication of pushes, page
    tokens."""

    keys: tuple[KeySettings, ...] = ()
    dedupe_ids: Amount = 1000000
    dedupe_seconds: Duration = 43200.0
    page_token_seconds: Duration = 3600.0
    requests_per_second: Seconds = 0.0


class DrainSettings(Struct, frozen=True):
    """Section ``drain``: how the node stops."""

    delay_seconds: Seconds = 0.0
    close_seconds: Seconds = 5.0


class LogSettings(Struct, frozen=True):
    """Section ``log``: content and format of the log."""

    level: Literal["info", "debug"] = "info"
    format: Literal["text", "json"] = "text"
    requests: bool = True
    request_share: Annotated[float, Meta(ge=0, le=1)] = 1.0


class DebugSettings(Struct, frozen=True):
    """Section ``debug``: features for conformance tests that production nodes
    do not need."""

    echo_path: str = ""
    echo_bytes: Amount = 33554432


class StorageSettings(Struct, frozen=True):
    """Section ``storage``: the database. Default: a SQLite file in the data
    directory."""

    url: str = ""
    pool_size: Amount = 4
    seconds: Annotated[float, Meta(gt=0, le=60)] = 5.0
    look_seconds: Annotated[float, Meta(gt=0, le=60)] = 2.0
    expire_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0


class RateSettings(Struct, frozen=True):
    """Section ``accounts``: the seconds within which attempts of users are
    counted.

    Several features count by them (registrations, searches, groups), and each
    may be absent, so none of them declares this key. Features declare the other
    keys of the section.
    """

    rate_seconds: Duration = 3600.0


class AccountTokenSettings(Struct, frozen=True):
    """Section ``jwt``: GoChat's settings for account tokens, under their
    original names."""

    sign_key: Secret = ""
    expire_time: Annotated[float, Meta(gt=0, le=1_000_000)] = 720.0

    @property
    def is_public(self) -> bool:
        """Whether the key is the one of GoChat's example. Anybody can sign
        tokens with that key."""
        return self.sign_key == PUBLIC_SIGN_KEY


class RedisSettings(Struct, frozen=True):
    """Section ``redis``: the Redis that the nodes of a cluster share. Default:
    no cluster."""

    url: str = ""
    addr: str = ""
    username: str = ""
    password: Secret = ""
    db: Count = 0
    pool_size: Amount = 30
    min_idle_conns: Count = 30


class ClusterSettings(Struct, frozen=True):
    """Section ``cluster``: addresses and time limits for the nodes of a
    cluster."""

    advertise: str = ""
    bind: str = ""
    require_registry: bool = False
    lease_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    renew_seconds: Annotated[float, Meta(gt=0, le=1200)] = 3.0
    redis_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.5
    rpc_seconds: Annotated[float, Meta(gt=0, le=60)] = 1.0
    queue_items: Amount = 100000
    queue_bytes: Amount = 67108864


DEFAULT_APP: Final = "default"
"""The app for our own clients."""


_DEMO_CHANNEL: Final = ChannelSettings(
    publish="subscribers",
    presence=True,
    join_leave=True,
    history_size=100,
    history_seconds=600.0,
)


def _initial_apps() -> dict[str, TenantSettings]:
    """Make the apps of a node whose settings name no apps.

    They are the apps of the original servers, and one for our own clients.
    """
    rooms: dict[str, tuple[str, ...]] = {"1": ("1", "2")}
    plain = TenantSettings()
    action = TenantSettings(room_members=rooms)
    return {
        **dict.fromkeys(("101", "102", "103", "104"), plain),
        **dict.fromkeys(("action:1", "action:2"), action),
        "gochat": plain,
        DEFAULT_APP: TenantSettings(channels={"demo": _DEMO_CHANNEL}),
    }


class Config(Struct, frozen=True):
    """All checked settings of a node.

    ``features``: the names of the features of the node; None: all features of
    this server. ``of_features``: pairs of the name of a section and a struct
    with the keys that a feature declares in it (:func:`settings_of`).
    ``warnings``: texts for the log about settings that do not prevent the
    start.
    """

    app: AppSettings = AppSettings()
    features: tuple[str, ...] | None = None
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    hub: HubSettings = HubSettings()
    apps: dict[AppName, TenantSettings] = field(default_factory=_initial_apps)
    api: ApiSettings = ApiSettings()
    drain: DrainSettings = DrainSettings()
    log: LogSettings = LogSettings()
    debug: DebugSettings = DebugSettings()
    storage: StorageSettings = StorageSettings()
    accounts: RateSettings = RateSettings()
    jwt: AccountTokenSettings = AccountTokenSettings()
    redis: RedisSettings = RedisSettings()
    cluster: ClusterSettings = ClusterSettings()
    of_features: tuple[tuple[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def demo(self) -> bool:
        """Whether anybody may log in and push.

        No API key and no secret of an app is configured then. GoChat's default
        key does not count, because it is public.
        """
        has_secret = self.jwt.sign_key not in ("", PUBLIC_SIGN_KEY)
        if self.api.keys or has_secret:
            return False
        return not any(tenant.ends_demo for tenant in self.apps.values())

    @property
    def address(self) -> str:
        """The address at which browsers reach this server.

        It is ``app.http_url`` without a slash at its end.
        """
        return self.app.http_url.rstrip("/")

    @property
    def root(self) -> str:
        """The path below which a proxy serves this server, as ``/im``; ``""``:
        none.

        It is the path of ``app.http_url``.
        """
        _, _, address = self.app.http_url.rpartition("//")
        _, slash, path = address.partition("/")
        return f"{slash}{path}".rstrip("/")

    @property
    def clustered(self) -> bool:
        """Whether this node belongs to a cluster, even if it is the only one.

        Redis is configured then.
        """
        return bool(self.redis.url or self.redis.addr)


def settings_of(config: Config, kind: type[Settings]) -> Settings:
    """Return the settings of a node that ``kind`` declares.

    They are the defaults if no feature of the node has it.
    """
    for _, settings in config.of_features:
        if type(settings) is kind:
            return settings
    return kind()


def app_settings_of(tenant: TenantSettings, kind: type[Settings]) -> Settings:
    """Return the settings of an app that ``kind`` declares.

    They are the defaults if no feature of the node has it.
    """
    for settings in tenant.of_features:
        if type(settings) is kind:
            return settings
    return kind()
