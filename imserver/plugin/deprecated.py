"""Forms of the face of 1.0 that will be removed in 2.0. Each warns once.
Plug-ins that use them run as before."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final, cast

from msgspec import Struct
from msgspec.structs import replace

from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.observer import Act, Observer
from imserver.gateway.auth.questions import AccountLookup, BackEnds, Relations, Reviews
from imserver.gateway.auth.tenants import BadTenant
from imserver.gateway.command_rows import DOCTOR, CommandOf
from imserver.gateway.config.settings import Config
from imserver.gateway.core.core import Core, Parts
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow, SettingsRow
from imserver.gateway.hub.expiry import Check
from imserver.gateway.storage.contract import ArchivedFiles, Erasure
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import Opened
from imserver.plugin.settings import on_several_machines

_ROOMS: Final[Mapping[str, tuple[str, ...]]] = {
    "channels": ("channels", "consent", "commands=channel_commands", "registrar"),
    "cluster": (
        "registry",
        "queries",
        "values=temporary_values",
        "attempt",
        "rpc",
        "node_messages",
        "others",
    ),
    "identity": (
        "tenants",
        "keys",
        "sender_rates",
        "mutes",
        "page_tokens",
        "accounts",
        "relations",
        "reviews",
        "back_ends",
        "observer",
        "observers",
        "logins",
        "allowed",
        "authority",
    ),
    "network": ("outgoing", "proxies", "dispatcher"),
    "node": ("buckets", "metrics"),
    "push": ("idempotency", "reach", "pushes", "pending", "publishing", "rerouting"),
    "sessions": (
        "hub",
        "fanout",
        "ids=connection_ids",
        "table=connection_table",
        "sessions",
        "presence",
        "connections",
    ),
    "storage": ("store", "erasures=user_erasures"),
}
"""Room of services that the core had → its services. ``old=new``: the core has
the service under another name today."""
_LAST_FACE: Final = 4
"""The last version of the face that rows name."""
_CALLER_OF_FACE: Final = 3
"""The level in the stack of the plug-in: behind :func:`warn` and the module of
the face."""


def warn(text: str) -> None:
    """Warn once for each place in a plug-in."""
    warnings.warn(text, DeprecationWarning, stacklevel=_CALLER_OF_FACE)


class Room:
    """A group of services in the core of 1.0, such as ``core.identity``."""

    def __init__(self, core: Any, name: str) -> None:
        """Read which services the room ``name`` had, and their names today."""
        self._core = core
        self._name = name
        self._names = {}
        for service in _ROOMS[name]:
            old, _, new = service.partition("=")
            self._names[old] = new or old

    def __getattr__(self, name: str) -> Any:
        """Return a service of the room.

        Other names are attributes of what the core has under the name of the
        room today.
        """
        if name in self._names:
            return getattr(self._core, self._names[name])
        return getattr(getattr(self._core, self._name), name)


class RoomyCore:
    """The core as plug-ins of 1.0 get it: with rooms of services."""

    def __init__(self, core: Core) -> None:
        """Wrap the core of today."""
        self._core = core

    def __getattr__(self, name: str) -> Any:
        """Return a room with a warning, or an attribute of the core."""
        if name not in _ROOMS:
            return getattr(self._core, name)
        warn(
            f"core.{name} is deprecated: its services are attributes of core "
            "(docs/reference/plugin.md)"
        )
        return Room(self._core, name)


def _dialect_parts(
    opened: Opened | None = None,
    check: Callable[[Connection], object] = lambda connection: None,
    silent_seconds: float = 0.0,
) -> tuple[Opened | None, Check]:
    """Convert ``DialectParts`` of 1.0: the functions of a dialect.

    Returns the entries for ``opened`` and ``checks`` of :class:`Parts`.
    """

    def check_and_limit(connection: Connection) -> float:
        """Check a session, and return how long it may be silent."""
        check(connection)
        return silent_seconds

    return opened, check_and_limit


def _parts(
    service: object = None,
    commands: Mapping[type, Any] | None = None,
    dialects: Mapping[str, tuple[Opened | None, Check]] | None = None,
    ended: tuple[Any, ...] = (),
    prepare: Callable[[], object] = lambda: None,
    reload: Callable[[Config], object] = lambda config: None,
    streams: Callable[..., Any] = lambda serve: {},
    run: tuple[Callable[[], None], ...] = (),
    erasure: Erasure | None = None,
    page: Path | None = None,
    finish: Callable[[], object] = lambda: None,
    stop: Callable[[], object] = lambda: None,
) -> Parts:
    """Convert ``FeatureParts`` of 1.0 to :class:`Parts`.

    ``erasure`` and ``page`` become services; ``prepare`` and ``reload`` become
    ``configure``; ``finish`` and ``stop`` become ``stop``.
    """
    functions_of_dialects = (dialects or {}).items()
    # The field "configure" of today stands for two functions of 1.0.
    is_prepared = False

    def configure(config: Config) -> None:
        """Call ``prepare`` the first time, and ``reload`` later."""
        # The core calls it at the start, and whenever the settings change.
        nonlocal is_prepared
        if is_prepared:
            reload(config)
        else:
            is_prepared = True
            prepare()

    def finish_and_stop() -> None:
        """End the work, and then the feature."""
        finish()
        stop()

    return Parts(
        _services_of(service, erasure, page),
        commands=dict(commands or {}),
        opened={
            name: on_open
            for name, (on_open, _) in functions_of_dialects
            if on_open is not None
        },
        checks={name: check for name, (_, check) in functions_of_dialects},
        ended=ended,
        configure=configure,
        streams=streams,
        run=run,
        stop=finish_and_stop,
    )


def _services_of(
    service: object, erasure: Erasure | None, page: Path | None
) -> tuple[object, ...]:
    """Collect the services of a feature; None: it has none of this kind."""
    services: list[object] = []
    if service is not None:
        services.append(service)
    if erasure is not None:
        services.append(erasure)
    if page is not None:
        services.append(SimpleNamespace(page_folder=page))
    return tuple(services)


def _answers(
    accounts: object = None,
    relations: object = None,
    reviews: object = None,
    back_ends: object = None,
    observer: object = None,
) -> tuple[object, ...]:
    """Convert ``Answers`` of 1.0: the services that answer questions of the
    core.

    A service of another class than the core looks for gets an adapter.
    """
    service_of_kind: Mapping[type, object] = {
        AccountLookup: accounts,
        Relations: relations,
        Reviews: reviews,
        BackEnds: back_ends,
        Observer: observer,
    }
    objects: list[object] = []
    for kind, service in service_of_kind.items():
        if service is None:
            continue
        # The plug-in finds its own service, and the core the adapter.
        if not isinstance(service, kind):
            objects.append(_as_kind(kind, service))
        objects.append(service)
    return tuple(objects)


def _as_kind(kind: type, service: object) -> object:
    """Make an adapter, by which the core finds a service.

    It is an object of the class ``kind``, with the methods of a service that is
    not of this class.
    """
    members = {}
    for name in dir(kind):
        if not name.startswith("_"):
            member = getattr(service, name)
            if callable(member):
                member = staticmethod(member)
            members[name] = member
    subclass = type(kind.__name__, (kind,), members)
    adapter: object = subclass()
    return adapter


def _with_rooms(function: Any) -> Any:
    """Wrap a function so that its first argument, the core, has rooms as in
    1.0."""
    if function is None:
        return None

    def with_rooms(core: Core, *more: Any) -> Any:
        """Call the function with the core in the form of 1.0."""
        return function(RoomyCore(core), *more)

    return with_rooms


class _Views(Struct, frozen=True):
    """``Views`` of 1.0: the views of a feature.

    ``refusal`` makes a page in place of a refusal, or returns None.
    """

    blueprints: Callable[[Any, Any], Iterable[Any]]
    # A view reads the body of its POST and PATCH operations itself.
    streamed: object = None
    refusal: Callable[[Any, str], Any] | None = None
    preload: Callable[[], object] = lambda: None

    def load(self, forks: bool) -> Callable[[Any, Any], Iterable[Any]]:
        """Return the function that makes the blueprints, for
        ``FeatureRow.views``.

        If this process forks, it loads all modules of the views first.
        """
        if forks:
            self.preload()
        return self._make

    def _make(self, core: Any, api: Any) -> Iterable[Any]:
        """Make the blueprints, which explain refusals by pages."""
        for blueprint in self.blueprints(RoomyCore(core), api):
            blueprint.after_app_request(self._explain)
            yield blueprint

    def _explain(self, response: Any) -> Any:
        """Return the feature's page for a refused request, or the response as
        it is."""
        from imserver.gateway.http.views import g  # type: ignore[attr-defined]  # for these views only

        problem = g.get("refusal")
        if problem is None or self.refusal is None:
            return response
        page = self.refusal(problem, g.request_id)
        if page is None:
            return response
        return page


def _settings(
    sections: Mapping[str, type[Struct]] | None = None,
    of_app: type[Struct] | None = None,
    core_keys: tuple[str, ...] = (),
    objection: Callable[..., str] | None = None,
    check: Callable[..., object] | None = None,
    findings: Callable[..., Iterable[tuple[str, str]]] = lambda config, shared: (),
) -> SettingsRow:
    """Convert ``FeatureSettings`` of 1.0 to a :class:`SettingsRow`.

    ``of_app`` are settings of an app, and ``core_keys`` settings that the core
    declares and the feature switches on.
    """

    def check_all(config: Config, locations: Any) -> Iterator[tuple[str, str]]:
        """Check the settings, and yield what a careful operator would
        change."""
        if check is not None:
            check(config, locations)
        yield from findings(config, on_several_machines(config))

    # None in place of a struct means that the core declares the key.
    keys: dict[str, type[Struct] | None] = dict(sections or {})
    for key in core_keys:
        keys[f"apps.*.{key}"] = None
    if of_app is not None:
        keys["apps.*"] = of_app
    return SettingsRow(keys, objection, check_all)


Named = tuple[str, str]
"""The module and the attribute of a function."""


def _call(named: Sequence[str], *arguments: object) -> Any:
    """Import a function by the names of its module and itself, and call it."""
    module, attribute = named
    function = getattr(import_module(module), attribute)
    return function(*arguments)


def _rows_of_commands(
    commands: Mapping[str, tuple[str, str, str]],
    doctor: Mapping[str, tuple[str, str, str, str]],
    rows_check: Named | None,
) -> Iterator[CommandOf]:
    """Convert the commands that a feature of 1.0 added to the command line.

    ``commands`` is words of a command → module, function and help. ``doctor``
    is option of ``imserver doctor`` → the same, and the name of its value.
    """
    yield from _rows_of_words(commands)
    for option, (module, attribute, text, metavar) in doctor.items():
        function = f"{module}:{attribute}"
        yield CommandOf(option, function, text, DOCTOR, metavar)
    if rows_check is not None:
        yield CommandOf("rows", ":".join(rows_check), parent=DOCTOR)


def _rows_of_words(commands: Mapping[str, tuple[str, str, str]]) -> Iterator[CommandOf]:
    """Convert the commands that have words, such as ``app export``."""
    for words, (module, attribute, text) in commands.items():
        # "app export" is the command "export" below "app".
        parent, _, name = words.rpartition(" ")
        function = f"{module}:{attribute}"
        yield CommandOf(name, function, text, cast("Any", parent))


class _Files(Struct, ArchivedFiles, frozen=True):
    """The files of a feature of 1.0 in archives.

    ``exports`` and ``imports`` are functions for the files of one app.
    ``files`` is a module, and its functions that read and write the files of
    the whole server.
    """

    config: Config
    store: Any
    exports: Named | None
    imports: Named | None
    files: tuple[str, str, str] | None

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """List the files of an archive: name, size and pieces of each.

        ``app`` ``""`` means the whole server, and ``user`` ``""`` the whole
        app. A size of 0 is not known.
        """
        # The export of an app or a user.
        if app and self.exports is not None:
            exported = _call(self.exports, self.config, self.store, app, user)
            for name, pieces in exported:
                yield name, 0, iter(pieces)
        # The backup of the whole server.
        if not app and self.files is not None:
            module, read, _ = self.files
            files = _call((module, read), self.config, self.store)
            for name, size, pieces in files:
                yield name, size, iter(pieces)

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """Put back a file from an archive. Returns whether it belongs to this
        feature.

        ``app`` ``""`` means that the archive is of the whole server.
        """
        # The function of 1.0 takes the path of a file, and not the open file.
        if app and self.imports is not None:
            with _call(self.imports, self.config, self.store, app) as take:
                return bool(take(name, content.name))
        if app or self.files is None:
            return False
        module, _, write = self.files
        files = [(name, content)]
        return bool(_call((module, write), self.config, self.store, files))


def _files_of(
    exports: Named | None,
    imports: Named | None,
    files: tuple[str, str, str] | None,
    config: Config,
    store: Any,
) -> tuple[object, ...]:
    """Make the object for the files in archives, if a feature has any.

    :class:`_Files` explains the arguments.
    """
    if exports or imports or files:
        return (_Files(config, store, exports, imports, files),)
    return ()


class _PartsOfCommands(Struct, frozen=True):
    """Makes the objects that a feature of 1.0 has in a command.

    ``files_of`` makes those for the files in archives. The other fields are
    arguments of ``Feature`` of 1.0.
    """

    erasing: Callable[..., AbstractContextManager[Erasure]] | None
    acts: Named | None
    files_of: Callable[[Config, Any], tuple[object, ...]]
    push_services: Callable[..., tuple[object, ...]]

    @contextmanager
    def open(
        self, config: Config, store: Any, tenants: Callable[[], Any]
    ) -> Iterator[tuple[object, ...]]:
        """Open the objects, as a context.

        ``erasing`` of 1.0 is a context of its own, which ends with this one.
        """
        with ExitStack() as stack:
            parts: list[object] = []
            if self.erasing is not None:
                erasure = stack.enter_context(self.erasing(config, store))
                if erasure is not None:
                    parts.append(erasure)
            if self.acts is not None:
                parts.append(_Acts(partial(_call, self.acts, store)))
            parts += self.files_of(config, store)
            parts += self.push_services(config, tenants())
            yield tuple(parts)


class _Acts(Observer):
    """Calls a function with each act."""

    def __init__(self, function: Callable[[Act], object]) -> None:
        """Take the function."""
        self._function = function

    def acted(self, act: Act) -> None:
        """Call the function with the act."""
        self._function(act)


def _feature(
    name: str,
    build: Callable[..., Parts],
    dialects: tuple[Any, ...] = (),
    routes: tuple[Any, ...] = (),
    operations: tuple[Any, ...] = (),
    views: _Views | None = None,
    metrics: Callable[[], Iterable[Any]] = tuple,
    erasing: Callable[..., AbstractContextManager[Erasure]] | None = None,
    files: tuple[str, str, str] | None = None,
    uses: tuple[str, ...] = (),
    settings: SettingsRow | None = None,
    commands: Mapping[str, tuple[str, str, str]] | None = None,
    doctor: Mapping[str, tuple[str, str, str, str]] | None = None,
    rows_check: Named | None = None,
    acts: Named | None = None,
    exports: Named | None = None,
    imports: Named | None = None,
    answers: Callable[[Any], tuple[object, ...]] = lambda base: (),
    problems: tuple[object, ...] = (),
    wire: Mapping[str, Any] | None = None,
    tables: tuple[Any, ...] = (),
    migrations: tuple[Any, ...] = (),
    push_services: Callable[..., tuple[object, ...]] = lambda config, tenants: (),
    face: int = 1,
) -> FeatureRow:
    """Convert ``Feature`` of 1.0 to a :class:`FeatureRow`.

    Functions of the feature get the core with rooms (:class:`RoomyCore`).
    Raises StartError if the feature needs a newer face: ``face`` is the version
    that it was made for.
    """
    _require_known_face(face)
    # The functions below turn arguments of 1.0 into fields of a row. Each calls
    # functions of the plug-in only when the node or the command needs them.
    files_of = partial(_files_of, exports, imports, files)
    parts_of_commands = _PartsOfCommands(
        erasing=erasing,
        acts=acts,
        files_of=files_of,
        push_services=push_services,
    )

    def answer(base: Core) -> tuple[object, ...]:
        """Make the objects that answer questions of the core."""
        services = push_services(base.config, base.tenants)
        return (
            *answers(RoomyCore(base)),
            *services,
            *files_of(base.config, base.store),
        )

    rows = [_route_with_rooms(row) for row in (*routes, *operations)]
    rows_of_commands = _rows_of_commands(commands or {}, doctor or {}, rows_check)
    return FeatureRow(
        name=name,
        build=_with_rooms(build),
        dialects=dialects,
        routes=rows,
        views=None if views is None else views.load,
        metrics=partial(_metrics_with_rooms, metrics),
        uses=uses,
        settings=settings or SettingsRow(),
        commands=tuple(rows_of_commands),
        answers=answer,
        wire=wire or {},
        tables=(*tables, *migrations),
        offline=parts_of_commands.open,
    )


def _require_known_face(version: int) -> None:
    """Raise StartError if a feature needs a newer face than this server has."""
    if version > _LAST_FACE:
        raise StartError(
            f"it was made for version {version} of imserver.plugin: "
            "install a newer imserver"
        )


def _metrics_with_rooms(metrics: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Convert the metrics of a feature of 1.0, whose readers get the core with
    rooms."""
    for metric in metrics():
        yield replace(metric, read=_with_rooms(metric.read))


def _route_with_rooms(row: Any) -> Any:
    """Convert a route of 1.0: the function that makes its service gets the core
    with rooms."""
    return replace(row, service=_with_rooms(row.service))


_FORMS: Final[Mapping[str, Mapping[str, tuple[Any, str]]]] = {
    "imserver.plugin": {
        "Answers": (_answers, "return a tuple of objects"),
        "DialectParts": (_dialect_parts, "use opened and checks of Parts"),
        "Feature": (_feature, "use FeatureRow"),
        "FeatureParts": (_parts, "use Parts"),
        "FeatureSettings": (_settings, "use SettingsRow"),
        "Views": (_Views, "use FeatureRow.views"),
    },
    "imserver.plugin.identity": {
        "BadTenant": (BadTenant, "use imserver.plugin.errors.ServiceRefused"),
        "Logins": (Logins, "it is in core.identity"),
        "NoObserver": (Observer, "use Observer"),
    },
}
"""Module → name → its form, or a function that makes a row of today; and the
advice for its users."""


def form_of(module: str, name: str) -> Any:
    """Return a name of an earlier version of a module, with a warning.

    Raises AttributeError if no version had it.
    """
    if name not in _FORMS[module]:
        raise AttributeError(f"{module} has no {name}")
    form, instead = _FORMS[module][name]
    warn(f"{module}.{name} is deprecated until 2.0: {instead}")
    return form
