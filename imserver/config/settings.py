"""What can be set: every setting with its type, range and default, declared once.

``config/default.yaml`` explains each and shows the same defaults (a test compares them);
:mod:`imserver.config.load` reads the values.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

_LONGEST_SECONDS: Final = 1_000_000_000.0

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=_LONGEST_SECONDS)]
Duration = Annotated[float, Meta(gt=0, le=_LONGEST_SECONDS)]
Text = Annotated[str, Meta(min_length=1)]
#: An app is named by a string; files may write the number 101 too.
AppName = Annotated[str, Meta(min_length=1, extra={"number": True})]

PUBLIC_SIGN_KEY: Final = "gooooIM"
"""The key with which GoChat signs tokens unless told otherwise: anybody can look it up."""

LoginPolicy = Literal["newest", "multi", "single", "refuse"]
OriginPolicy = Literal["", "any", "same_host"]
DialectName = Literal["cmd", "client", "action", "protobuf", "sse"]
Scope = Literal["push", "read", "admin"]


class AppSettings(Struct, frozen=True):
    """Section ``app``: the keys of the original server, under their own names."""

    log_file: str = ""
    http_port: Port = 8080
    websocket_port: Port = 8089
    rpc_port: Port = 9001
    http_url: str = ""
    websocket_url: str = ""
    salt: str = "gogogoChat"


class ListenSettings(Struct, frozen=True):
    """One entry of ``server.extra_listen``: a port beside the usual two that serves all that they do.

    ``ws_dialect`` is spoken on ``/ws`` by clients whose query names no dialect.
    """

    port: Port
    host: str = ""
    ws_dialect: Literal["", "client", "action", "protobuf"] = ""


class ServerSettings(Struct, frozen=True):
    """Section ``server``: where and how the node listens."""

    host: Text = "127.0.0.1"
    http: Literal["front", "wsgi"] = "front"
    reuse_port: bool = False
    data_dir: Text = "data"
    secret_file: str = ""
    insecure: bool = False
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    backlog: Amount = 4096
    origins: tuple[Text, ...] = ()
    origin_policy: OriginPolicy = ""
    extra_listen: tuple[ListenSettings, ...] = ()
    processes: Amount = 1
    hang_seconds: Duration = 30.0
    public_ws_url: str = ""


class LimitSettings(Struct, frozen=True):
    """Section ``limits``: what is bounded, and by how much."""

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
    registered_apps: Count = 100000


class WebSocketSettings(Struct, frozen=True):
    """Section ``websocket``: compression, pings, heartbeats, closing."""

    deflate: bool = False
    ping_seconds: Seconds = 0.0
    pong_seconds: Duration = 20.0
    client_ping_seconds: Duration = 25.0
    client_silent_seconds: Duration = 75.0
    protobuf_silent_seconds: Duration = 600.0
    heartbeat_seconds: Duration = 360.0
    sweep_seconds: Duration = 30.0
    close_seconds: Duration = 5.0


class HubSettings(Struct, frozen=True):
    """Section ``hub``: reading and fan-out."""

    notice_members: Count = 1000
    flush_connections: Amount = 256
    readers: Amount = 64


class JwtSettings(Struct, frozen=True):
    """One entry of an app's ``jwt``: a key that its session tokens may be signed with.

    ``key`` or the content of ``key_file``: a secret for HS256, a public key as PEM for the others. Without
    either HS256 takes a secret that is derived from the server's own.
    """

    algorithm: Literal["HS256", "RS256", "EdDSA"] = "HS256"
    key: str = ""
    key_file: str = ""
    kid: str = ""


WebhookEvent = Literal["connect", "disconnect", "login", "message", "absent"]


class WebhookSettings(Struct, frozen=True):
    """An app's ``webhook``: where its back end is told what happens, and asked who may log in.

    ``secret``, or the content of ``secret_file``, signs what is sent.
    """

    url: str = ""
    secret: str = ""
    secret_file: str = ""
    events: tuple[WebhookEvent, ...] = ()
    authorise_url: str = ""


class TenantSettings(Struct, frozen=True):
    """One entry of section ``apps``. ``login_policy`` ``""``: the usual one of that name."""

    login_policy: Literal["", "newest", "multi", "single", "refuse"] = ""
    same_as: Annotated[str, Meta(extra={"number": True})] = ""
    open: bool = False
    dialects: tuple[DialectName, ...] = ()
    origins: tuple[Text, ...] = ()
    origin_policy: OriginPolicy = ""
    api_allow_from: tuple[Text, ...] = ()
    jwt: tuple[JwtSettings, ...] = ()
    account_tokens: Literal["", "required", "ignored"] = ""
    webhook: WebhookSettings = WebhookSettings()
    max_connections: Count = 0
    messages_per_second: Seconds = 0.0
    max_rooms: Count = 0
    keep_seconds: Seconds = 0.0
    keep_messages: Count = 0
    room_members: dict[Text, tuple[Text, ...]] = field(default_factory=dict)
    keep_talks: bool = False

    def policy_of(self, name: str) -> LoginPolicy:
        """The login policy of the app ``name`` with these settings."""
        return self.login_policy or usual_policy(name)

    def wants_accounts(self, name: str) -> bool:
        """Whether a login to the app ``name`` takes the token of an account, or one of ``jwt``."""
        return self.account_tokens == "required" or (not self.account_tokens and name == "gochat")


_NEWEST: Final = frozenset({"101", "102", "103", "104", "action:1", "action:2"})


def usual_policy(name: str) -> LoginPolicy:
    """The login policy of an app whose settings name none: that of the original, else ``multi``."""
    if name in _NEWEST:
        return "newest"
    return "refuse" if name == "gochat" else "multi"


class KeySettings(Struct, frozen=True):
    """One entry of ``api.keys``: a back end's key, what it may do, and in which apps (none named: in all)."""

    key: Text
    scopes: tuple[Scope, ...]
    apps: tuple[AppName, ...] = ()


class ApiSettings(Struct, frozen=True):
    """Section ``api``: keys and their rate, de-duplication of pushes, tokens of the pages."""

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
    """Section ``log``: what is logged, and in which form."""

    level: Literal["info", "debug"] = "info"
    format: Literal["text", "json"] = "text"
    requests: bool = True


class DebugSettings(Struct, frozen=True):
    """Section ``debug``: what a conformance suite needs and a production node does not."""

    echo_path: str = ""
    echo_bytes: Amount = 33554432


class StorageSettings(Struct, frozen=True):
    """Section ``storage``: the database; none named: a SQLite file in the data folder."""

    url: str = ""
    pool_size: Amount = 4
    seconds: Annotated[float, Meta(gt=0, le=60)] = 5.0
    look_seconds: Annotated[float, Meta(gt=0, le=60)] = 2.0
    keep_seconds: Seconds = 0.0
    keep_messages: Count = 0
    expire_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0


class AccountSettings(Struct, frozen=True):
    """Section ``accounts``: who may have one, and what of them is bounded. ``registration`` None: anybody may
    register while there is no API key."""

    registration: bool | None = None
    failures: Amount = 10
    failures_per_account: Amount = 100
    failures_per_address: Amount = 100
    failure_seconds: Duration = 900.0
    registrations_per_address: Count = 100
    logins_per_address: Count = 1000
    rate_seconds: Duration = 3600.0
    devices: Amount = 100
    friends: Amount = 5000
    group_members: Annotated[int, Meta(ge=1, le=100_000)] = 10000


class AccountTokenSettings(Struct, frozen=True):
    """Section ``jwt``: the keys of GoChat for the tokens of its accounts, under their own names."""

    sign_key: str = ""
    expire_time: Annotated[float, Meta(gt=0, le=1_000_000)] = 720.0


MediaKind = Literal["picture", "voice", "video", "file"]


class UploadSettings(Struct, frozen=True):
    """Section ``uploads``: files that users send each other; kept in a folder, or in a bucket of S3."""

    max_bytes: Amount = 104857600
    kinds: tuple[MediaKind, ...] = ("picture", "voice", "video", "file")
    picture_bytes: Amount = 20971520
    voice_bytes: Amount = 20971520
    quota_bytes: Count = 1073741824
    quota_app_bytes: Count = 107374182400
    daily_address_bytes: Count = 10737418240
    min_free_bytes: Count = 536870912
    at_once: Amount = 64
    at_once_per_user: Amount = 8
    at_once_per_address: Amount = 32
    min_bytes_per_second: Count = 1024
    seconds: Duration = 600.0
    thumbnail_pixels: Annotated[int, Meta(ge=0, le=2048)] = 320
    directory: str = ""
    s3_url: str = ""
    s3_bucket: str = ""
    s3_region: Text = "us-east-1"
    s3_prefix: str = ""
    s3_access_key: str = ""
    s3_secret_key: str = ""
    s3_seconds: Duration = 30.0


class RedisSettings(Struct, frozen=True):
    """Section ``redis``: where the nodes of a cluster share what they know; none named: no cluster."""

    url: str = ""
    addr: str = ""
    username: str = ""
    password: str = ""
    db: Count = 0
    pool_size: Amount = 30
    min_idle_conns: Count = 30


class ClusterSettings(Struct, frozen=True):
    """Section ``cluster``: how the nodes reach each other, and how long they wait."""

    advertise: str = ""
    bind: str = ""
    require_registry: bool = False
    lease_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    renew_seconds: Annotated[float, Meta(gt=0, le=1200)] = 3.0
    redis_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.5
    rpc_seconds: Annotated[float, Meta(gt=0, le=60)] = 1.0
    queue_items: Amount = 100000
    queue_bytes: Amount = 67108864


def _original_apps() -> dict[str, TenantSettings]:
    names = ("101", "102", "103", "104", "action:1", "action:2", "gochat")
    rooms: dict[str, tuple[str, ...]] = {"1": ("1", "2")}
    return {
        name: TenantSettings(room_members=rooms) if name.startswith("action:") else TenantSettings()
        for name in names
    }


class Config(Struct, frozen=True):
    """All settings of a node, checked. ``warnings`` are for the log: they stopped nothing."""

    app: AppSettings = AppSettings()
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    hub: HubSettings = HubSettings()
    apps: dict[AppName, TenantSettings] = field(default_factory=_original_apps)
    api: ApiSettings = ApiSettings()
    drain: DrainSettings = DrainSettings()
    log: LogSettings = LogSettings()
    debug: DebugSettings = DebugSettings()
    storage: StorageSettings = StorageSettings()
    uploads: UploadSettings = UploadSettings()
    accounts: AccountSettings = AccountSettings()
    jwt: AccountTokenSettings = AccountTokenSettings()
    redis: RedisSettings = RedisSettings()
    cluster: ClusterSettings = ClusterSettings()
    warnings: tuple[str, ...] = ()

    @property
    def demo(self) -> bool:
        """No API key and no secret of an app is configured: anybody may log in and push.

        A key that GoChat comes with is none: anybody knows it.
        """
        secret = self.jwt.sign_key not in ("", PUBLIC_SIGN_KEY)
        return not self.api.keys and not secret and not any(tenant.jwt for tenant in self.apps.values())

    @property
    def clustered(self) -> bool:
        """A Redis is configured: this node is one of a cluster, be it the only one."""
        return bool(self.redis.url or self.redis.addr)
