"""Routes that only the admin page needs: search, rights, connections, nodes."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from msgspec import Raw, Struct, json

from imserver.operate.admin.finder import MOST_APPS, HitShown, ListedConnection
from imserver.operate.admin.parts import AdminParts, NodeName, NodeShown
from imserver.plugin.errors import Problems
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
)
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.services import Core
from imserver.plugin.settings import TenantSettings

Missing = Annotated[
    list[str], about("Nodes that did not answer in time. The answer lacks their part.")
]


class NoQuery(Struct, forbid_unknown_fields=True):
    """Nothing."""


class RightsAnswer(Struct):
    """The principal of the request, and its rights on this server."""

    kind: Annotated[
        str, about("`demo`, `key` or `staff` (an account that acts by its role).")
    ]
    id: Annotated[str, about("The id of the key, or of the user.")]
    apps: Annotated[
        list[str] | None, about("The apps that the principal reaches; null: all.")
    ]
    rights: Annotated[list[str], about("The rights of the role of an account.")]
    routes: Annotated[
        list[str],
        about(
            "The routes of `/api/v1` that the principal may use, such as `GET "
            "accounts/list`."
        ),
    ]
    version: Annotated[str, about("The version of the server.")]


class FindAnswer(Struct):
    """The results by type. Exact ids come first."""

    results: list[HitShown]


class NodesAnswer(Struct):
    """All live nodes, ordered by name."""

    nodes: list[NodeShown]


class NodeRequest(Struct, forbid_unknown_fields=True):
    """A node."""

    node: NodeName


class NodeDone(Struct):
    """The node has received the request."""

    node: NodeName
    drained: bool


class ConnectionsAnswer(Struct):
    """Connections, in the order of their users."""

    users: Annotated[int, about("The number of users online, on all pages together.")]
    connections: list[ListedConnection]
    next: NextCursor
    missing_nodes: Missing


class AppSettingsAnswer(Struct):
    """The settings of apps, and which of them this app has set."""

    schemas: Annotated[
        dict[str, Any],
        about(
            "JSON Schemas by name: `AppSettingsGiven`, and the schemas that it uses. "
            "`writeOnly`: a secret. `x-by-key`: only an API key may change the "
            "setting, no account."
        ),
    ]
    given: Annotated[
        list[str], about("The settings of the app that differ from the defaults.")
    ]
    new_logins: Annotated[
        list[str],
        about(
            "Settings whose changes apply only to new logins. All other changes "
            "apply at once."
        ),
    ]


_HITS: Final = 8
_PAGE_USERS: Final = 50


class AdminApi(Struct, frozen=True):
    """The services that the routes use."""

    parts: AdminParts
    core: Core
    api: Api


routes = Resource(
    "admin",
    lambda core, api: AdminApi(core.service(AdminParts), core, api),
    hot=False,
    chapter=(
        "Search, connections and nodes, for operators of a server. Use an API key "
        "with the scope `admin`, or the token of an account whose role has the "
        "right."
    ),
)


@routes.get("/admin/rights", Needs.PEOPLE)
def rights(api: AdminApi, call: Call, request: NoQuery) -> RightsAnswer:
    """Show the principal of the request, and the routes that it may use."""
    principal = call.principal
    apps = None
    if principal.apps is not None:
        apps = sorted(principal.apps)
    return RightsAnswer(
        kind=principal.kind,
        id=principal.staff or principal.key,
        apps=apps,
        rights=sorted(principal.rights),
        routes=_routes_for(api.api, principal),
        version=api.core.node.version,
    )


def _routes_for(api: Api, principal: Principal) -> list[str]:
    """The routes that a principal may use, such as ``POST keys/create``."""
    routes = []
    for (method, path), endpoint in api.endpoints.items():
        route = endpoint.route
        if not path.startswith("/api/v1/") or not principal.may(route.need):
            continue
        # Some routes are only for principals that reach all apps.
        if principal.apps is None or route.app != "all":
            routes.append(f"{method} {path.removeprefix('/api/v1/')}")
    return routes


@routes.get("/find", Needs.PEOPLE, reach="optional")
def find(
    api: AdminApi,
    call: Call,
    text: Annotated[
        str,
        about(
            "An id, an identifier, or a part of a name.",
            min_length=1,
            max_length=200,
            pattern=r"\S",
        ),
    ],
    app: Annotated[str, about("The app; empty: all that the principal reaches.")] = "",
    limit: Annotated[
        int, about("The maximum number of results of each type.", ge=1, le=50)
    ] = _HITS,
) -> FindAnswer:
    """Find an object by a text.

    The search finds people by any identifier, connections, channels, groups,
    apps, API keys and requests. A principal finds only objects that it may see,
    in the apps that it reaches. An account with the role `moderator` finds open
    groups only. It does not see or search e-mail addresses and phone numbers.
    The contents of messages are not searched.
    """
    principal = call.principal
    if call.app:
        names = [call.app]
    else:
        # Aliases are other names of these apps.
        tenants = api.core.tenants.all()
        names = [tenant.name for tenant in tenants if not tenant.same_as]
    apps = [name for name in names if principal.reaches(name)]
    finder = api.parts.finder
    return FindAnswer(finder.find(principal, text.strip(), apps[:MOST_APPS], limit))


# --- apps ---------------------------------------------------------------------

_NEW_LOGINS: Final = [
    "login_policy",
    "same_as",
    "open",
    "dialects",
    "origins",
    "origin_policy",
    "jwt",
    "account_tokens",
    "webhook.authorise_url",
    "back_ends.connect",
    "max_connections",
    "max_user_bytes",
    "subscribe_to_own_channel",
    "anonymous_tokens",
    "accounts.factor_for",
    "accounts.passwords",
    "oauth",
]


@routes.get(
    "/apps/settings", Needs.OPERATE, reach="named", problems=(Problems.UNKNOWN_APP,)
)
def settings_of_app(
    api: AdminApi,
    call: Call,
    app: Annotated[
        str, about("The app: a tenant of this server.", min_length=1, max_length=191)
    ],
    language: Annotated[
        Literal["en", "zh"],
        about("The language of the descriptions, as far as they are translated."),
    ] = "en",
) -> AppSettingsAnswer:
    """Describe the settings of apps.

    The descriptions, limits and defaults are the same as in the OpenAPI
    document. `GET /api/v1/apps/show` has the current values.
    """
    tenant = api.core.tenants.find(app)
    usual = api.core.declared.app_of({})
    if tenant is None:
        raise ApiProblem(Problems.UNKNOWN_APP)
    # Features have settings of their own in an app, each feature in a struct.
    given = list(_differing(tenant, usual))
    for values, defaults in zip(tenant.of_features, usual.of_features, strict=True):
        given += _differing(values, defaults)
    schemas = _schemas(api.api.described(), language == "zh")
    return AppSettingsAnswer(schemas, given, _NEW_LOGINS)


def _differing(settings: Struct, defaults: Struct) -> Iterator[str]:
    """The names of settings that differ from the defaults.

    Settings in a group are named like ``quotas.pushes_per_day``.
    """
    fields = defaults.__struct_fields__
    if isinstance(defaults, TenantSettings):
        # A tenant derives from its settings, and has further fields.
        fields = TenantSettings.__struct_fields__
    for name in fields:
        value = getattr(settings, name)
        default = getattr(defaults, name)
        if isinstance(default, Struct):
            yield from (f"{name}.{inner}" for inner in _differing(value, default))
        elif value != default and name != "of_features":
            yield name


class _Components(Struct):
    """The part of the OpenAPI document with the schemas, still as JSON."""

    schemas: dict[str, Raw]


class _Document(Struct):
    """The OpenAPI document, as far as this module reads it."""

    components: _Components


@lru_cache(maxsize=2)
def _schemas(document: bytes, translated: bool) -> dict[str, Any]:
    """The JSON Schemas of the settings of apps, by name.

    These are the schema ``AppSettingsGiven`` of the OpenAPI document, and all
    schemas that it names. With ``translated``, their texts are in Chinese. The
    result is cached, because it is the same until the node ends.
    """
    # Imported here, because a node loads the pages only when somebody opens
    # one.
    from imserver.pages.reference import chinese

    texts: Mapping[str, str] = {}
    if translated:
        texts = chinese()
    schemas_as_json = json.decode(document, type=_Document).components.schemas
    reader = _SchemaReader(schemas_as_json, texts, schemas={})
    reader.add("AppSettingsGiven")
    return reader.schemas


class _SchemaReader(Struct):
    """Collects a schema, and all schemas that it names, in ``schemas``.

    ``texts`` is English → translation. Texts without a translation stay.
    """

    schemas_as_json: Mapping[str, Raw]
    texts: Mapping[str, str]
    schemas: dict[str, Any]

    def add(self, name: str) -> None:
        """Add the schema with this name, unless it is there."""
        if name not in self.schemas:
            # A schema may name itself. Then it must not be read again.
            self.schemas[name] = {}
            self.schemas[name] = self._read(json.decode(self.schemas_as_json[name]))

    def _read(self, value: Any) -> Any:
        """Translate the texts in a part of a schema, and add the schemas that
        it names."""
        if isinstance(value, list):
            return [self._read(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            self.add(value["$ref"].rpartition("/")[2])  # #/components/schemas/NAME
        text = value.get("description")
        if isinstance(text, str):
            value["description"] = self._translated(text)
        return {key: self._read(each) for key, each in value.items()}

    def _translated(self, text: str) -> str:
        """A text in the language of the page.

        Each paragraph has a translation of its own.
        """
        parts = [self.texts.get(part, part) for part in text.split("\n\n")]
        return "\n\n".join(parts)


# --- connections --------------------------------------------------------------


@routes.get("/connections/list", Needs.OPERATE)
def list_connections(
    api: AdminApi,
    call: Call,
    app: Annotated[str, about("The app: a tenant of this server.", min_length=1)],
    user: Annotated[
        str, about("The user; empty: all users, page by page.", max_length=255)
    ] = "",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of users on this page.", ge=1, le=200)
    ] = _PAGE_USERS,
) -> ConnectionsAnswer:
    """List live connections, page by page.

    The connections of a user or of an app on all nodes, in the order of users.
    """
    live = api.parts.live
    if user:
        page = live.of_user(call.app, user)
    else:
        page = live.page(call.app, read_cursor(cursor), limit)
    # The page of users has one user more if another page follows.
    _, following = page_and_cursor(page.users, limit, str)
    return ConnectionsAnswer(page.total, page.connections, following, page.missing)


# --- nodes --------------------------------------------------------------------


@routes.get("/nodes", Needs.ADMIN, reach="all")
def nodes(api: AdminApi, call: Call, request: NoQuery) -> NodesAnswer:
    """Show the state of each node."""
    return NodesAnswer(api.parts.nodes.all())


@routes.post("/nodes/drain", Needs.ADMIN, reach="all")
def drain(api: AdminApi, call: Call, request: NodeRequest) -> NodeDone:
    """Drain a node.

    The node refuses new clients. It closes its connections with 1001 over
    `drain.close_seconds`, so that clients reconnect to other nodes. `/ready`
    answers 503. The node continues to answer HTTP requests.
    """
    return _drain(api, request.node, drained=True)


@routes.post("/nodes/undrain", Needs.ADMIN, reach="all")
def undrain(api: AdminApi, call: Call, request: NodeRequest) -> NodeDone:
    """Let a drained node serve clients again."""
    return _drain(api, request.node, drained=False)


def _drain(api: AdminApi, node: str, drained: bool) -> NodeDone:
    """Drain a node, or let it serve clients again. Raises ApiProblem."""
    if not api.parts.nodes.drain(node, drained):
        raise ApiProblem.invalid("`node`: no live node of this name answers")
    return NodeDone(node, drained)
