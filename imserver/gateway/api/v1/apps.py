"""Apps: list them, show the settings of one, create, change.

A setting is declared once, in a struct of settings. Its type, limits, default
and description hold for requests and answers, too. Its marks name the
differences in requests and answers (:mod:`imserver.gateway.config.declared`).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs, to_builtins
from msgspec.structs import asdict

from imserver.gateway.auth.principal import Needs
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.config.declared import about, bare, hints_of, marks_of, plain
from imserver.gateway.config.settings import (
    ChannelSettings,
    LoginPolicy,
    TenantSettings,
)
from imserver.gateway.config.values import RENAMED_OF_APPS, Declarations
from imserver.gateway.errors import Problems
from imserver.gateway.http import field
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.operation import PREFIX, Link, Operation, Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.http.wire import page_of

Shape = type[Struct]
"""A Struct for requests or answers, made of a struct of settings."""
Field = tuple[Any, ...]
"""A field of a shape, as ``msgspec.defstruct`` takes it: the name and the type,
and a default unless it is required."""
Make = Callable[[Shape], Shape]
"""Makes the shape of a struct of settings."""


class AppCreate(Struct, forbid_unknown_fields=True):
    """A new app."""

    app: Annotated[
        str,
        about(
            "The name of the app. It is a number if clients of the `cmd` dialect log "
            "in.",
            min_length=1,
            max_length=191,
        ),
    ]
    settings: Any


class AppSet(Struct, forbid_unknown_fields=True):
    """A change to an app that was created at run time."""

    app: field.App
    settings: Any
    unset: Annotated[list[str], about("Settings to reset to their defaults.")] = []
    merge: Annotated[
        bool,
        about(
            "Whether fields that you leave out of a group such as `webhook` keep "
            "their values."
        ),
    ] = False


class AppShown(Struct):
    """An app and its settings, without secrets."""

    app: str
    configured: Annotated[
        bool,
        about(
            "Whether the app is defined in the configuration file. Such an app can "
            "only be changed there."
        ),
    ]
    locked: Annotated[
        bool,
        about(
            "Whether the app is locked until its deletion, so that nobody can log in."
        ),
    ]


class AppsAnswer(Struct):
    """A page of the apps that the key reaches, ordered by name."""

    count: Annotated[int, about("The number of entries, on all pages together.")]
    apps: list[AppShown]
    next: field.NextCursor


def given_fields(kind: Shape) -> list[Field]:
    """Make the fields of a request for a group of settings.

    A *group* is a struct of settings, such as ``webhook``. All fields may be
    left out. The result has no settings that name a file, because only the
    configuration file may have such settings.
    """
    defaults = {field.name: field.default for field in structs.fields(kind)}
    fields: list[Field] = []
    for name, hint in hints_of(kind).items():
        # The holder of a key must not read files of the server.
        if marks_of(hint).get("file"):
            continue
        json_type = _type(
            hint, given_group, given_entry, limits=True, default=defaults[name]
        )
        fields.append((name, json_type | UnsetType, UNSET))
    return fields


@cache
def given_group(kind: Shape) -> Shape:
    """Make the Struct of a request for a group of settings."""
    return _define(
        kind, "", given_fields(kind), forbid_unknown_fields=True, omit_defaults=True
    )


@cache
def given_entry(kind: Shape) -> Shape:
    """Make the Struct of a request for an entry of a list or mapping.

    If a request leaves out a field of an entry, the field has its default. If
    it leaves out a field of a group, the field does not change.
    """
    hints = hints_of(kind)
    fields = [
        field
        for field in _with_defaults(kind, _type_in_entry)
        if not marks_of(hints[field[0]]).get("file")
    ]
    return _define(kind, "", fields, forbid_unknown_fields=True)


def _type_in_entry(hint: Any) -> Any:
    """Make the type of a field of :func:`given_entry`."""
    return _type(hint, given_group, given_entry, limits=True, empty=True)


def shown_fields(kind: Shape) -> list[Field]:
    """Make the fields of an answer with a group of settings.

    Secrets and files are left out. If the group has a secret, the field
    ``signed`` says whether it is set.
    """
    fields = _fields_shown(kind)
    if hasattr(kind, "signed"):
        fields.append(
            ("signed", Annotated[bool, Meta(description="Whether a secret is set.")])
        )
    return fields


@cache
def shown_group(kind: Shape) -> Shape:
    """Make the Struct of an answer with a group of settings."""
    return _define(kind, "Shown", shown_fields(kind))


@cache
def shown_entry(kind: Shape) -> Shape:
    """Make the Struct of an answer with an entry of a list or mapping.

    If the entry has no secrets, the result is the Struct of requests.
    """
    hidden = [hint for hint in hints_of(kind).values() if _is_hidden(hint)]
    if hidden:
        return _define(kind, "Shown", _fields_shown(kind), omit_defaults=True)
    return given_entry(kind)


def _fields_shown(kind: Shape) -> list[Field]:
    """Make the fields of an answer, without secrets and files.

    A field with the mark ``omit`` has a default. If its value is the default,
    answers leave the field out. All other fields are required.
    """
    hints = hints_of(kind)
    required: list[Field] = []
    omitted: list[Field] = []
    for row in _with_defaults(kind, _type_shown):
        hint = hints[row[0]]
        if _is_hidden(hint):
            continue
        if marks_of(hint).get("omit", False):
            omitted.append(row)
        else:
            name, shown_type, *_ = row
            required.append((name, shown_type))
    # A Struct has its required fields first.
    return required + omitted


def _type_shown(hint: Any) -> Any:
    """Make the type of a field of an answer."""
    return _type(hint, shown_group, shown_entry, empty=True)


def _is_hidden(hint: Any) -> bool:
    """Tell whether no answer has this setting."""
    marks = marks_of(hint)
    return bool(marks.get("secret") or marks.get("file"))


def _define(kind: Shape, suffix: str, fields: Iterable[Field], **options: Any) -> Shape:
    """Make a Struct with these fields, named after a struct of settings.

    ``ChannelSettings`` gives ``AppChannel`` and the ``suffix``. The first
    paragraph of its docstring becomes the published text. ``msgspec.defstruct``
    gets the ``options``.
    """
    paragraph = (kind.__doc__ or "").partition("\n\n")[0]
    text = "\n".join(map(str.strip, paragraph.split("\n")))
    name = "App" + kind.__name__.removesuffix("Settings").removeprefix("App") + suffix
    return msgspec.defstruct(
        name, fields, namespace={"__doc__": text}, module=__name__, **options
    )


def _with_defaults(kind: Shape, type_of: Callable[[Any], Any]) -> list[Field]:
    """Make the fields of a struct of settings, with their defaults.

    ``type_of`` makes the type of each field.
    """
    hints = hints_of(kind)
    fields: list[Field] = []
    for declared in msgspec.structs.fields(kind):
        name = declared.name
        hint = hints.get(name)
        # A field without a hint is no setting. An example is the field with the
        # settings of features.
        if hint is None:
            continue
        if declared.required:
            fields.append((name, type_of(hint)))
            continue

        fields.append((name, type_of(hint), _default_in_json(declared)))
    return fields


def _default_in_json(declared: msgspec.structs.FieldInfo) -> Any:
    """Convert the default of a setting to the default of its field in JSON.

    Settings have tuples, and JSON has lists.
    """
    default = declared.default
    if declared.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=declared.default_factory)
    if default == ():
        return []
    if isinstance(default, tuple):
        return msgspec.field(default_factory=partial(list, default))
    return default


def _type(
    hint: Any,
    group: Make,
    entry: Make,
    limits: bool = False,
    empty: bool = False,
    default: Any = "",
) -> Any:
    """Convert the type of a setting to the type of its field in JSON.

    ``group`` makes the Struct of a group of settings, and ``entry`` the Struct
    of an entry of a list or mapping. With ``limits``, the type has the limits
    of requests, and the document shows the ``default``. If ``default`` is
    ``""``, the document shows no default. With ``empty``, a choice may be
    ``""``, which means the default.
    """
    inner = bare(hint)
    kind = get_origin(inner)
    if kind in (tuple, dict):
        inner = _container_type(inner, entry, limits)
    elif kind is Literal and not empty:
        inner = _without_empty(inner)
    elif isinstance(inner, type) and issubclass(inner, Struct):
        inner = group(inner)

    meta = _limits_of(hint)
    if limits:
        meta |= _limits_of_requests(marks_of(hint), default)
    if meta:
        return Annotated[inner, Meta(**meta)]
    return inner


def _without_empty(choices: Any) -> Any:
    """Return a ``Literal`` without the choice ``""``."""
    return Literal[tuple(choice for choice in get_args(choices) if choice != "")]


def _limits_of_requests(marks: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Return the limits of a setting in requests, and the notes about it in the
    document."""
    limits = {**marks.get("api", {})}
    notes = _notes_of(marks, default)
    if notes:
        limits["extra_json_schema"] = notes
    return limits


def _container_type(container: Any, entry: Make, limits: bool) -> Any:
    """Convert the type of a list or mapping, and the types of its entries.

    :func:`_type` explains ``entry`` and ``limits``.
    """
    arguments = [
        _type(argument, entry, entry, limits, empty=True)
        for argument in get_args(container)
        if argument is not ...
    ]
    if get_origin(container) is dict:
        return dict[arguments[0], arguments[1]]  # type: ignore[valid-type]
    # Settings have tuples, and JSON has lists.
    return list[arguments[0]]  # type: ignore[valid-type]


def _notes_of(marks: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Return what the document says of a setting beside its type.

    For example, ``{"writeOnly": True, "default": 60}``. The default of a group
    is left out, because its fields have their own defaults.
    """
    notes: dict[str, Any] = {
        note: True for mark, note in _NOTES.items() if marks.get(mark)
    }
    if default not in ("", msgspec.NODEFAULT) and not isinstance(default, Struct):
        notes["default"] = to_builtins(default)
    return notes


def _limits_of(hint: Any) -> dict[str, Any]:
    """Return the limits of a type: ``ge``, ``max_length`` and others.

    :data:`_LIMITS` has their names. If several marks have the same limit, the
    last one counts.
    """
    limits: dict[str, Any] = {}
    for mark in getattr(hint, "__metadata__", ()):
        for name in _LIMITS:
            value = getattr(mark, name, None)
            if value is not None:
                limits[name] = value
    return limits


_NOTES: Final = {"secret": "writeOnly", "by_key": "x-by-key"}
"""Mark of a setting → mark of its schema."""
_NAME_SHOWN: Final = 100
"""Limit of the characters of an unknown setting in a refusal."""
_LIMITS: Final = (
    "ge",
    "gt",
    "le",
    "lt",
    "min_length",
    "max_length",
    "pattern",
    "description",
)


class Shapes(Struct, frozen=True):
    """The Structs of requests and answers with the settings of an app.

    ``settings`` has the names of these settings.
    """

    create: Any
    set: Any
    shown: Any
    page: Any
    settings: frozenset[str]


@cache
def shapes_of(declared: Declarations) -> Shapes:
    """Make the Structs of requests and answers with the settings of an app.

    Their fields are the settings that the core and features declare.
    """
    kinds: tuple[type[Struct], ...] = (TenantSettings, *declared.app_kinds)
    given = _given_settings(kinds, declared)
    settings = ("settings", given, msgspec.field(default_factory=given))
    create = _extend(AppCreate, settings, forbid_unknown_fields=True)

    names = given.__struct_fields__
    change = _shape_of_change(settings, names)
    shown = _extend(AppShown, *_with_old_names(_shown_settings(kinds, declared)))
    page = _extend(AppsAnswer, ("apps", list[shown]))  # type: ignore[valid-type]
    return Shapes(
        create=create,
        set=change,
        shown=shown,
        page=page,
        settings=frozenset(names),
    )


def _shape_of_change(settings: Field, names: Iterable[str]) -> type[Struct]:
    """Make the Struct of a request that changes settings.

    ``settings`` is the field with the new settings. ``names`` are the settings
    that may be reset.
    """
    unset: tuple[Any, ...] = ("unset", _type_of_unset(names), [])
    return _extend(AppSet, settings, unset, forbid_unknown_fields=True)


def _type_of_unset(names: Iterable[str]) -> Any:
    """Make the type of the field ``unset``: names of settings to reset.

    The document lists the settings, but the route accepts any text and answers
    with a better error.
    """
    known_name = Annotated[str, Meta(extra_json_schema={"enum": sorted(names)})]
    return Annotated[list[known_name], about("Settings to reset to their defaults.")]


def _shown_settings(kinds: Iterable[Shape], declared: Declarations) -> list[Field]:
    """Make the fields of an answer about an app, from its structs of settings.

    A setting whose default depends on the app is shown with the value that is
    in force, so it has another type.
    """
    fields: list[Field] = []
    for row in itertools.chain.from_iterable(map(shown_fields, kinds)):
        name = row[0]
        if name not in declared.app_hints:
            continue
        if name in _RESOLVED:
            fields.append((name, _RESOLVED[name]))
        else:
            fields.append(row)
    return fields


def _given_settings(kinds: Iterable[Shape], declared: Declarations) -> Shape:
    """Make the Struct of the settings in a request.

    ``kinds`` are the structs of settings of apps, of the core and of features.
    """
    fields = [
        _limited(field, declared)
        for field in itertools.chain.from_iterable(map(given_fields, kinds))
        if field[0] in declared.app_hints
    ]
    text = (
        "Settings of an app. Fields that you leave out do not change; in a "
        "new app they have their defaults."
    )
    return msgspec.defstruct(
        "AppSettingsGiven",
        _with_old_names(fields),
        namespace={"__doc__": text},
        forbid_unknown_fields=True,
        omit_defaults=True,
    )


_RESOLVED: Final[dict[str, Any]] = {
    "login_policy": LoginPolicy,
    "account_tokens": Annotated[
        Literal["required", "ignored"],
        *hints_of(TenantSettings)["account_tokens"].__metadata__,
    ],
    "max_user_bytes": Annotated[
        int, about("The maximum length of a user id, in bytes of UTF-8.")
    ],
}
"""Setting whose default depends on the app → its type in answers, which have
the value in force for the app."""


def _with_old_names(fields: list[Field]) -> list[Field]:
    """Return the fields, and each renamed field also under its old name.

    The old names are deprecated, and come last.
    """
    by_name = {field[0]: field for field in fields}
    deprecated = Meta(extra_json_schema={"deprecated": True})
    old_fields: list[Field] = []
    for old_name, new_name in RENAMED_OF_APPS.items():
        if new_name in by_name:
            # A field of a request always has a default. A field of an answer
            # may have no default.
            _, hint, *default = by_name[new_name]
            old_fields.append((old_name, Annotated[hint, deprecated], *default))
    return fields + old_fields


def _limited(field: Field, declared: Declarations) -> Field:
    """Return a field of a request, with the choices of this node.

    Only the field ``dialects`` has such choices: the dialects of the node.
    """
    if field[0] != "dialects" or not declared.dialects:
        return field
    dialect: Any = Literal[tuple(declared.dialects)]
    described = hints_of(TenantSettings)["dialects"].__metadata__
    return ("dialects", Annotated[list[dialect], *described] | UnsetType, UNSET)


def _extend(base: type[Struct], *fields: Any, **options: Any) -> type[Struct]:
    """Make a subclass of a Struct with the same name and text.

    Its ``fields`` come after the fields of ``base``, or replace fields of the
    same name.
    """
    text = {"__doc__": base.__doc__}
    return msgspec.defstruct(
        base.__name__, fields, bases=(base,), namespace=text, **options
    )


def _shown(tenant: Tenant, declared: Declarations) -> AppShown:
    """Convert an app to the form of an answer.

    A setting whose default depends on the app has the value that is in force.
    Renamed settings are also in the answer under their old names.
    """
    fields = {name: getattr(tenant, name) for name in TenantSettings.__struct_fields__}
    # Settings of features are beside the settings of the core.
    for settings in tenant.of_features:
        fields |= asdict(settings)
    fields |= {
        "app": tenant.name,
        "configured": tenant.configured,
        "locked": tenant.locked,
        **_in_force(tenant),
    }
    for old_name, new_name in RENAMED_OF_APPS.items():
        if new_name in fields:
            fields[old_name] = fields[new_name]
    kind = shapes_of(declared).shown
    shown: AppShown = msgspec.convert(fields, kind, from_attributes=True)
    return shown


def _in_force(tenant: Tenant) -> dict[str, Any]:
    """Return the settings whose default depends on the app, with the values in
    force."""
    account_tokens = "ignored"
    if tenant.wants_accounts(tenant.name):
        account_tokens = "required"
    return {
        "login_policy": tenant.policy,
        "account_tokens": account_tokens,
        "max_user_bytes": tenant.user_bytes_of(tenant.name),
    }


routes = Resource("apps", lambda _, api: api)


@routes.get("/apps", Needs.OPERATE)
def list_apps(
    api: Api,
    call: Call,
    cursor: field.PageCursor = "",
    limit: field.Limit = field.USUAL_PAGE,
) -> AppsAnswer:
    """List the apps that the key reaches, page by page."""
    tenants = api.tenants
    # Who reaches the target of an alias reaches the alias, too.
    names = [
        name
        for name in tenants.names()
        if call.principal.reaches(tenants.resolve(name))
    ]
    page, next_cursor = page_of(names, cursor, limit)
    rows = [
        _shown(tenant, api.core.declared)
        for tenant in map(tenants.get, page)
        if tenant is not None
    ]
    return AppsAnswer(
        count=len(names),
        apps=rows,
        next=next_cursor,
    )


@routes.get(
    "/apps/show", Needs.OPERATE, reach="named", problems=(Problems.UNKNOWN_APP,)
)
def show_app(api: Api, call: Call, app: field.App) -> AppShown:
    """Show the settings of an app."""
    tenant = api.tenants.find(app)
    if tenant is None:
        raise ApiProblem(Problems.UNKNOWN_APP)
    return _shown(tenant, api.core.declared)


@routes.post(
    "/apps/create",
    Needs.ADMIN,
    reach="settings",
    status=201,
    links=(Link("app", "get_apps_show", {"app": "app"}, ()),),
    problems=(Problems.APP_EXISTS, Problems.TOO_MANY_APPS),
)
def create_app(api: Api, call: Call, request: AppCreate) -> AppShown:
    """Create an app and store it in the database.

    The app works on this node at once, and on all other nodes within two
    seconds.
    """
    tenants = api.tenants
    fields = msgspec.to_builtins(request.settings)
    call.old = sorted(RENAMED_OF_APPS.keys() & fields)
    created = tenants.register(request.app, **fields)
    tenant = tenants.find(request.app)
    if not created or tenant is None:
        raise ApiProblem(Problems.APP_EXISTS)
    return _shown(tenant, api.core.declared)


@routes.post(
    "/apps/set",
    Needs.OWN,
    reach="settings",
    problems=(Problems.UNKNOWN_APP, Problems.APP_CONFIGURED),
)
def set_app(api: Api, call: Call, request: AppSet) -> AppShown:
    """Change the settings of an app that was created at run time.

    The change does not end current sessions. An account that owns the app can
    change most settings. An API key is required for settings that decide who
    logs in as whom, or that let the app use more of the server.
    """
    declared = api.core.declared
    _require_known(request.unset, declared)
    tenants = api.tenants
    fields = msgspec.to_builtins(request.settings)
    call.old = sorted(RENAMED_OF_APPS.keys() & {*fields, *request.unset})
    if call.principal.staff:
        _require_no_key(api, {**dict.fromkeys(request.unset), **fields})

    tenant = tenants.find(request.app)
    _require_not_configured(tenant)
    if request.merge and tenant is not None:
        _fill_groups(fields, plain(tenant), declared)
    changed = tenants.change(request.app, fields, tuple(request.unset))
    return _shown(changed, declared)


def _require_not_configured(tenant: Tenant | None) -> None:
    """Raise :class:`ApiProblem` for an app of the configuration file. Such an
    app can only be changed in the file."""
    if tenant is not None and tenant.configured:
        raise ApiProblem(Problems.APP_CONFIGURED)


def _require_known(names: Iterable[str], declared: Declarations) -> None:
    """Raise :class:`ApiProblem` if one of the settings to reset does not
    exist."""
    settings = shapes_of(declared).settings
    for name in names:
        if name not in settings:
            raise ApiProblem.invalid(
                f"`unset`: there is no setting `{name[:_NAME_SHOWN]}`"
            )


def _fill_groups(
    fields: dict[str, Any], former: Mapping[str, Any], declared: Declarations
) -> None:
    """Complete groups of settings, such as ``webhook``, by their former values.

    ``fields`` are the settings of a request. If a group in ``fields`` leaves
    out a field, the field keeps its former value.
    """
    for name, value in former.items():
        is_given = name in fields
        if is_given and isinstance(bare(declared.app_hints[name]), type(Struct)):
            fields[name] = value | fields[name]


def _require_no_key(api: Api, changes: Mapping[str, Any]) -> None:
    """Refuse a change of settings that only an API key may change.

    ``changes`` is name of a setting → its new value. None means that the
    setting gets its default.
    """
    only_by_key = api.tenants.only_by_key(changes)
    if only_by_key:
        raise ApiProblem(
            Problems.NOT_ALLOWED,
            f"`{only_by_key[0]}`: only an API key of scope `admin` changes it",
        )


_EXAMPLE_CHANNELS: Final = {
    "news": ChannelSettings(history_size=100, history_seconds=600.0)
}
_EXAMPLE_MAX_CHANNELS: Final = 100


def operations(declared: Declarations) -> tuple[Operation, ...]:
    """Make the operations on apps of a node.

    The route functions above have Structs without settings. Here requests and
    answers get the settings that the features of the node declare.
    """
    shop = _example_app(declared)
    examples = _examples_with(shop)
    renamed = {
        old: new for old, new in RENAMED_OF_APPS.items() if new in declared.app_hints
    }
    own_shapes = _own_shapes(shapes_of(declared))
    return tuple(
        _with_settings(row, own_shapes, examples.get(row.path, shop), renamed)
        for row in routes.rows
    )


def _with_settings(
    row: Operation,
    own_shapes: Mapping[Any, Any],
    example: AppShown | AppsAnswer,
    renamed: Mapping[str, str],
) -> Operation:
    """Return an operation whose request and answer have the settings of the
    node.

    ``own_shapes`` is from :func:`_own_shapes`. ``example`` is an example of the
    answer. ``renamed`` is old name of a setting → its name.
    """
    if row.body in own_shapes:
        body = own_shapes[row.body]
        row = structs.replace(row, body=body, deprecated=renamed)
    if row.answer in own_shapes:
        answer = own_shapes[row.answer]
        row = structs.replace(row, answer=answer, answer_example=example)
    return row


def _own_shapes(shapes: Shapes) -> dict[Any, Any]:
    """Return Struct of the route functions → Struct of this node, which has the
    settings of the features."""
    return {
        AppCreate: shapes.create,
        AppSet: shapes.set,
        AppShown: shapes.shown,
        AppsAnswer: shapes.page,
    }


def _examples_with(shop: AppShown) -> dict[str, Any]:
    """Make the examples of answers: path of a route → example.

    The other routes show the app ``shop`` itself.
    """
    changed = structs.replace(shop, origins=[], max_channels=_EXAMPLE_MAX_CHANNELS)
    page = AppsAnswer(count=1, apps=[shop], next="")
    return {f"{PREFIX}/apps": page, f"{PREFIX}/apps/set": changed}


def _example_app(declared: Declarations) -> AppShown:
    """Make the app ``shop``, which is the example in the document."""
    settings = structs.replace(
        declared.app_of({}),
        login_policy="single",
        origins=("shop.example.com",),
        channels=_EXAMPLE_CHANNELS,
    )
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return _shown(Tenant(**fields, name="shop"), declared)
