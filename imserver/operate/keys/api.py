"""API keys: list, create, rotate, revoke, and what each of them did."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Annotated, Final, Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.keys.usage import (
    MINUTE,
    DeprecatedUse,
    KeyUsage,
    KeyUse,
    uses_of,
    uses_of_routes,
)
from imserver.plugin.errors import HttpProblem, Problems
from imserver.plugin.http import (
    Api,
    ApiProblem,
    Call,
    NextCursor,
    PageCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.services import Core
from imserver.plugin.storage import KeyRow
from imserver.plugin.wire import id_of

_DAY: Final = 86_400
MOST_SECONDS: Final = 3650 * _DAY
_PAGE_USES: Final = 100
_MINUTE_DIGITS: Final = 11
_NUMBER_DIGITS: Final = 7
"""The most digits of each of the two numbers in a cursor."""

HTTP_UNKNOWN_KEY: Final = HttpProblem(404, "unknown_key", "There is no such API key.")

KeyId = Annotated[
    str, about("The id of a key. It is no secret.", min_length=1, max_length=32)
]
KeyScope = Literal["push", "read", "metrics", "admin"]
Scopes = Annotated[
    list[KeyScope],
    about(
        "The scopes of the key: `push`, `read`, `metrics` (figures of the server, "
        "which `read` includes), or `admin`, which includes all.",
        min_length=1,
    ),
]
Note = Annotated[
    str,
    about(
        "A note about the key, for display.",
        max_length=KeyRow.NOTE_CHARACTERS,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
    ),
]
ExpiresIn = Annotated[
    int,
    about(
        "The lifetime of the key in seconds; 0: the key does not expire.",
        ge=0,
        le=MOST_SECONDS,
    ),
]
Secret = Annotated[str, about("The key itself. No other answer shows it.")]


class KeyCreate(Struct, forbid_unknown_fields=True):
    """A new key."""

    scopes: Scopes
    apps: Annotated[
        list[str],
        about("The apps to which the key is limited; empty: all.", max_length=100),
    ] = []
    note: Note = ""
    expires_seconds: ExpiresIn = 0


class KeyShown(Struct):
    """A key, without the key itself."""

    id: KeyId
    scopes: list[KeyScope]
    apps: Annotated[list[str], about("The apps to which it is limited; empty: all.")]
    note: str
    state: Annotated[
        Literal["valid", "expired", "revoked"],
        about("`valid`, or the reason why requests with the key are refused."),
    ]
    configured: Annotated[
        bool,
        about(
            "Whether the key comes from the settings. Then it can only be changed "
            "there."
        ),
    ]
    created: Annotated[
        int, about("When the key was created, in Unix seconds; 0: unknown.")
    ]
    expires: Annotated[
        int, about("When the key expires, in Unix seconds; 0: it does not expire.")
    ]
    revoked: Annotated[
        int, about("When the key was revoked, in Unix seconds; 0: it was not revoked.")
    ]
    last_used: Annotated[
        int,
        about(
            "When the key was last used, in Unix seconds, exact to a minute; 0: never."
        ),
    ]
    last_used_from: Annotated[
        str, about("The client address of the last request with the key.")
    ]
    maker: Annotated[
        str,
        about(
            "The account that made the key, itself or with another key. If this "
            "account is locked or banned, the key does not work. Empty: none."
        ),
    ] = ""


class KeysAnswer(Struct):
    """Keys, the oldest first."""

    keys: list[KeyShown]
    scopes: Annotated[list[KeyScope], about("The scopes that a new key may have.")]


class KeyCreated(Struct):
    """A new key."""

    key: KeyShown
    secret: Secret


class UsageAnswer(Struct):
    """A page of the uses of a key, the newest first."""

    uses: list[KeyUse]
    next: NextCursor


class Deprecated(Struct):
    """A deprecated feature, and its users."""

    name: Annotated[
        str,
        about(
            "Method and path of a route, followed by the deprecated form of its "
            "requests."
        ),
    ]
    instead: Annotated[str, about("The replacement.")]
    uses: Annotated[
        list[DeprecatedUse],
        about("The users of the feature, the newest first; empty: nobody uses it."),
    ]


class DeprecatedAnswer(Struct):
    """All deprecated features, and their users."""

    since: Annotated[
        int,
        about(
            "When the server began to store these uses, in Unix seconds; 0: it "
            "stores none."
        ),
    ]
    deprecated: list[Deprecated]


class KeysApi(Struct, frozen=True):
    """The services that the routes of keys use."""

    core: Core
    api: Api
    usage: KeyUsage

    def all(self) -> Iterable[KeyRow]:
        """The keys of the settings, then the keys of the database.

        May switch greenlets. Raises StorageUnavailable.
        """
        for row in self.core.keys.configured:
            last = self.usage.last_use(row.id)
            yield replace(row, used=last.time, used_from=last.address)
        yield from self.core.store.keys()

    def sees(self, principal: Principal, row: KeyRow) -> bool:
        """Whether a principal may see and revoke a key.

        The principal must reach all apps, or the key must be limited to apps
        that the principal reaches.
        """
        if principal.apps is None:
            return True
        return bool(row.apps) and self.apps_of(row) <= principal.apps

    def apps_of(self, row: KeyRow) -> frozenset[str]:
        """The apps of a key, without aliases; empty means all."""
        return frozenset(map(self.core.tenants.resolve, row.apps))

    def find(self, principal: Principal, id: str) -> KeyRow:
        """The key with this id.

        Raises ApiProblem if there is no such key, or the principal may not see
        it.
        """
        row = next((row for row in self.all() if row.id == id), None)
        if row is None or not self.sees(principal, row):
            raise ApiProblem(HTTP_UNKNOWN_KEY)
        return row

    def changeable(self, principal: Principal, id: str) -> KeyRow:
        """A key that the principal may see, and that is not in the settings.

        Raises ApiProblem.
        """
        row = self.find(principal, id)
        if not row.created:  # only stored keys have the time
            raise ApiProblem.invalid(
                "The key is in the settings: change `api.keys` there, then send SIGHUP"
            )
        return row

    def end_of(self, principal: Principal, seconds: int) -> int:
        """The end of a key that a principal makes now, in Unix seconds; 0 means
        never.

        ``seconds`` says after how many seconds the key is to end; 0 means
        never. Raises ApiProblem if the key would outlive the key that makes it.
        """
        expires = 0
        if seconds:
            expires = int(time()) + seconds
        if principal.kind == "key":
            latest = self.find(principal, principal.key).expires
            # A key that never ends (0) would outlive any key that ends.
            if latest and not 0 < expires <= latest:
                raise ApiProblem(
                    Problems.FORBIDDEN,
                    f"`expires_seconds`: your key ends at {latest}, and no key of it later",
                )
        return expires

    def maker_of(self, principal: Principal) -> int:
        """The account on whose behalf a principal makes keys.

        It is the account of the principal, or the account that has made its
        key. 0 if there is no such account.
        """
        account = id_of(principal.staff)
        if not account and principal.kind == "key":
            account = self.find(principal, principal.key).maker
        return account


def _shown(row: KeyRow) -> KeyShown:
    """A key as the routes show it, without its secret, which nobody can read."""
    state: Literal["valid", "expired", "revoked"] = "valid"
    if row.has_ended(time()):
        state = "expired"
        if row.revoked:
            state = "revoked"
    maker = ""
    if row.maker:
        maker = str(row.maker)
    # In the order of the documentation, whatever the order in the row.
    scopes: list[KeyScope] = [each for each in get_args(KeyScope) if each in row.scopes]
    return view(
        KeyShown,
        row,
        scopes=scopes,
        state=state,
        configured=not row.created,  # only stored keys have the time
        last_used=row.used,
        last_used_from=row.used_from,
        maker=maker,
    )


def _name_act(call: Call, row: KeyRow) -> None:
    """Set app and facts of the act, as the audit log stores them.

    The act belongs to an app only if the key is limited to this one app.
    """
    call.app = ""
    if len(row.apps) == 1:
        (call.app,) = row.apps
    call.facts = {"id": row.id, "scopes": row.scopes, "apps": row.apps}
    if row.expires:
        call.facts["expires_at"] = row.expires


routes = Resource(
    "keys",
    service=lambda core, api: KeysApi(core, api, core.service(KeyUsage)),
    chapter="List, make and revoke API keys, and see their uses.",
    hot=False,
    problems=(Problems.FORBIDDEN, Problems.STORAGE_UNAVAILABLE),
    need=Needs.OWN,
)


@routes.get("/keys", reach="optional")
def keys(
    api: KeysApi,
    call: Call,
    app: Annotated[
        str, about("Only keys that reach this app; empty: all keys that you may see.")
    ] = "",
    ended: Annotated[
        bool, about("Whether to list revoked and expired keys, too.")
    ] = False,
) -> KeysAnswer:
    """List the API keys.

    A key or account that reaches only some apps sees the keys that are limited
    to these apps.
    """
    now = time()
    rows = []
    for row in api.all():
        if not api.sees(call.principal, row):
            continue
        if row.has_ended(now) and not ended:
            continue
        apps_of_key = api.apps_of(row)  # empty: all apps
        if not call.app or not apps_of_key or call.app in apps_of_key:
            rows.append(_shown(row))
    return KeysAnswer(rows, list(get_args(KeyScope)))


@routes.post("/keys/create", problems=(Problems.UNKNOWN_APP,))
def create(api: KeysApi, call: Call, request: KeyCreate) -> KeyCreated:
    """Create an API key.

    The answer has the key itself. Nobody can read the key again later. A key or
    account that reaches only some apps makes keys for these apps only. No key
    outlives the key that has made it. If an account is locked or banned, the
    keys that it made are refused. They end when the account loses its role or
    is deleted. In demo mode, the first key ends demo mode.
    """
    principal = call.principal
    if request.apps and {*request.scopes} == {"metrics"}:
        raise ApiProblem.invalid(
            "`apps`: the figures that `metrics` reads are those of all apps"
        )
    row, secret = _make_row(api, principal, request)
    stored = api.core.store.add_key(row, principal.key)
    # The key or the account may have lost this right, which this node may not
    # know yet.
    if stored is None:
        raise ApiProblem(Problems.FORBIDDEN, "You may make no keys any more")
    _name_act(call, stored)
    return KeyCreated(_shown(stored), secret)


def _make_row(
    api: KeysApi, principal: Principal, request: KeyCreate
) -> tuple[KeyRow, str]:
    """Make the row of a requested key, and the key itself. Raises ApiProblem."""
    apps = _reached_apps(api, principal, request.apps)
    expires = api.end_of(principal, request.expires_seconds)
    scopes = tuple(dict.fromkeys(request.scopes))
    row, secret = KeyRow.make(scopes, apps, request.note, expires)
    return replace(row, maker=api.maker_of(principal)), secret


def _reached_apps(
    api: KeysApi, principal: Principal, names: Sequence[str]
) -> tuple[str, ...]:
    """The apps for a new key, each once and without aliases; empty means all.

    Raises ApiProblem if an app does not exist, or the principal does not reach
    it.
    """
    tenants = api.core.tenants
    # Whoever reaches only some apps does not learn which others there are.
    for name in names:
        if principal.apps is None and tenants.find(name) is None:
            raise ApiProblem(Problems.UNKNOWN_APP, f"There is no app `{name}`")
    apps = tuple(dict.fromkeys(map(tenants.resolve, names)))
    if principal.apps is not None and not (apps and principal.apps.issuperset(apps)):
        raise ApiProblem(
            Problems.FORBIDDEN,
            "`apps`: name apps that you reach; your key is for them only",
        )
    return apps


@routes.post(
    "/keys/revoke",
    schema=("KeyRevoke", "The key to revoke."),
    problems=(HTTP_UNKNOWN_KEY,),
)
def revoke(api: KeysApi, call: Call, id: KeyId) -> KeyShown:
    """Revoke an API key.

    All nodes refuse the key within two seconds, and close the connections that
    were opened with it. You cannot undo this. A key that was revoked earlier
    does not change.
    """
    row = api.changeable(call.principal, id)
    api.core.store.revoke_key(row.id)
    _name_act(call, row)
    return _shown(api.find(call.principal, row.id))


@routes.post(
    "/keys/rotate",
    schema=("KeyRotate", "The key to replace."),
    problems=(HTTP_UNKNOWN_KEY,),
)
def rotate(
    api: KeysApi,
    call: Call,
    id: KeyId,
    grace_seconds: Annotated[
        int,
        about(
            "The remaining lifetime of the old key in seconds; 0: it ends at once.",
            ge=0,
            le=90 * _DAY,
        ),
    ] = _DAY,
    expires_seconds: ExpiresIn = 0,
) -> KeyCreated:
    """Create an API key that replaces another key.

    The new key has the same scopes, apps and note. The old key ends after
    `grace_seconds`. Until then, both keys are valid. If a key was stolen, set
    `grace_seconds` to 0.
    """
    row = api.changeable(call.principal, id)
    # The store fills in scopes, apps and note from the old key.
    new, secret = KeyRow.make(expires=api.end_of(call.principal, expires_seconds))
    new = replace(new, maker=api.maker_of(call.principal))
    stored = api.core.store.rotate_key(row.id, new, grace_seconds, call.principal.key)
    if stored is None:
        raise ApiProblem.invalid("The key was revoked, or has expired")
    _name_act(call, row)
    call.facts = {"key": row.id, "id": stored.id, "grace_seconds": grace_seconds}
    return KeyCreated(_shown(stored), secret)


@routes.get("/keys/usage", problems=(HTTP_UNKNOWN_KEY,))
def usage(
    api: KeysApi,
    call: Call,
    id: KeyId,
    since: Annotated[
        int,
        about(
            "Only uses from this time on, in Unix seconds; 0: all stored uses.", ge=0
        ),
    ] = 0,
    until: Annotated[
        int, about("Only uses until this time, in Unix seconds; 0: until now.", ge=0)
    ] = 0,
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=1000)
    ] = _PAGE_USES,
) -> UsageAnswer:
    """List the uses of an API key.

    An entry counts the requests of a minute, route, app and address. The server
    stores entries once a minute, and keeps them for `keys.usage_days`. Each
    command of a batch or of a publisher connection counts as a request.
    """
    row = api.find(call.principal, id)
    start = -(-since // MINUTE)  # rounded up to the first whole minute
    end = (until or int(time())) // MINUTE
    skip = 0
    if cursor:
        end, skip = _start_of(cursor)
    # One row more than the page shows whether another page follows.
    rows = uses_of(
        api.core.store, row.id, since=start, until=end, skip=skip, limit=limit + 1
    )
    times = [use.time for use in rows[:limit]]
    cursor_of = partial(_continuation, times, end * MINUTE, skip)
    page, after = page_and_cursor(rows, limit, cursor_of)
    return UsageAnswer(list(page), after)


def _continuation(times: Sequence[int], end: int, skip: int, last: KeyUse) -> str:
    """The cursor after a row, such as ``29410000.3``.

    It is the minute of the row, and how many rows of this minute were listed.
    ``times`` are the times of the rows on this page. Earlier pages have shown
    ``skip`` rows of the minute ``end``, with which this page begins.
    """
    listed = times.count(last.time)
    if last.time == end:
        listed += skip
    return f"{last.time // MINUTE}.{listed}"


def _start_of(cursor: str) -> tuple[int, int]:
    """Read a cursor, such as ``29410000.3``.

    Returns the minute with which the page begins, and how many rows of this
    minute were on earlier pages. Raises ApiProblem.
    """
    minute, _, number = (read_cursor(cursor) or "").partition(".")
    is_cursor = minute.isdecimal() and number.isdecimal()
    if not is_cursor or len(minute) > _MINUTE_DIGITS or len(number) > _NUMBER_DIGITS:
        raise ApiProblem.invalid("`cursor`: expected `next` of the previous page")
    return int(minute), int(number)


@routes.get("/keys/deprecated", reach="optional")
def deprecated(
    api: KeysApi,
    call: Call,
    app: Annotated[
        str, about("Only uses in this app; empty: all uses that you may see.")
    ] = "",
) -> DeprecatedAnswer:
    """List deprecated features, and their users.

    If this list is empty after your back ends have done everything that they
    do, no request prevents the update to 2.0. The node that answers stores its
    uses before the answer, other nodes once a minute. The server keeps uses for
    `keys.usage_days`. A key or account that reaches only some apps sees the
    uses in these apps.
    """
    replacements = _replacements(api.api)
    # This node first stores its uses of the last minute.
    api.usage.store(replacements)
    since = 0
    uses: Mapping[str, Sequence[DeprecatedUse]] = {}
    if replacements:
        since, uses = uses_of_routes(api.core.store, tuple(replacements))

    rows = []
    for name, instead in replacements.items():
        visible = [use for use in uses.get(name, ()) if _may_see(call, use)]
        rows.append(Deprecated(name, instead, visible))
    return DeprecatedAnswer(since, rows)


def _may_see(call: Call, use: DeprecatedUse) -> bool:
    """Whether the caller reaches the app of a use, and asks for it."""
    reached_apps = call.principal.apps  # None: all apps
    if reached_apps is not None and use.app not in reached_apps:
        return False
    return call.app in ("", use.app)


def _replacements(api: Api) -> dict[str, str]:
    """Deprecated form of requests → what replaces it.

    A form is named by its route, and by a word if only some requests to the
    route are deprecated.
    """
    replacements: dict[str, str] = {}
    for endpoint in api.endpoints.values():
        for form, instead in endpoint.route.deprecated.items():
            # The form is empty if the whole route is deprecated.
            replacements[f"{endpoint.name} {form}".rstrip()] = instead
    return replacements
