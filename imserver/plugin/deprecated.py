"""Forms of the face of 1.0 that go with 2.0. Each warns once. Plug-ins that use
them run as before."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
"""Room of services that the core had → what it had there, and its name in the
core today."""


def warn(text: str) -> None:
    """Warn once of a place in a plug-in."""
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class Room:
    """A room of services of the core of 1.0: ``core.identity``,
    ``core.storage`` …"""

    def __init__(self, core: Any, name: str) -> None:
        self._core = core
        self._name = name
        self._names = {
            old: new or old
            for old, _, new in (each.partition("=") for each in _ROOMS[name])
        }

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            return getattr(self._core, self._names[name])
        return getattr(getattr(self._core, self._name), name)


class RoomyCore:
    """The core as plug-ins of 1.0 get it: with rooms."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        if name not in _ROOMS:
            return getattr(self._core, name)
        warn(
            f"core.{name} is deprecated: its services are attributes of core (docs/reference/plugin.md)"
        )
        return Room(self._core, name)


def _dialect_parts(
    opened: Opened | None = None,
    check: Callable[[Connection], object] = lambda connection: None,
    silent_seconds: float = 0.0,
) -> tuple[Opened | None, Check]:
    return opened, lambda connection: (check(connection), silent_seconds)[1]


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
    reads: list[Callable[[Config], object]] = [lambda config: prepare()]
    if page is None:
        addition = None
    else:
        addition = SimpleNamespace(page_folder=page)
    rows = dialects or {}
    return Parts(
        tuple(each for each in (service, erasure, addition) if each is not None),
        commands=dict(commands or {}),
        opened={
            name: opened for name, (opened, _) in rows.items() if opened is not None
        },
        checks={name: check for name, (_, check) in rows.items()},
        ended=ended,
        configure=lambda config: (reads.pop() if reads else reload)(config),
        streams=streams,
        run=run,
        stop=lambda: (finish(), stop()),
    )


def _answers(
    accounts: object = None,
    relations: object = None,
    reviews: object = None,
    back_ends: object = None,
    observer: object = None,
) -> tuple[object, ...]:
    kinds = {
        AccountLookup: accounts,
        Relations: relations,
        Reviews: reviews,
        BackEnds: back_ends,
    }
    objects: list[object] = []
    for kind, each in {**kinds, Observer: observer}.items():
        # the core finds it by its class
        if each is not None and not isinstance(each, kind):
            own = {
                name: getattr(each, name)
                for name in dir(kind)
                if not name.startswith("_")
            }
            own = {
                name: staticmethod(value) if callable(value) else value
                for name, value in own.items()
            }
            objects.append(type(kind.__name__, (kind,), own)())
        objects += [] if each is None else [each]
    return tuple(objects)


def _with_rooms(function: Any) -> Any:
    """A function whose first argument is the core, which gets it as plug-ins of
    1.0 do."""
    if function is None:
        return None
    return lambda core, *more: function(RoomyCore(core), *more)


class _Views(Struct, frozen=True):
    blueprints: Callable[[Any, Any], Iterable[Any]]
    # a view reads the body of its POST and PATCH operations itself
    streamed: object = None
    refusal: Callable[[Any, str], Any] | None = None
    preload: Callable[[], object] = lambda: None

    def load(self, forks: bool) -> Callable[[Any, Any], Iterable[Any]]:
        """See ``FeatureRow.views``."""
        if forks:
            self.preload()
        return self._make

    def _make(self, core: Any, api: Any) -> Iterable[Any]:
        for blueprint in self.blueprints(RoomyCore(core), api):
            blueprint.after_app_request(self._explain)
            yield blueprint

    def _explain(self, response: Any) -> Any:
        from imserver.gateway.http.views import g  # type: ignore[attr-defined]  # for these views only

        problem = g.get("refusal")
        if problem is None or self.refusal is None:
            page = None
        else:
            page = self.refusal(problem, g.request_id)
        return response if page is None else page


def _settings(
    sections: Mapping[str, type[Struct]] | None = None,
    of_app: type[Struct] | None = None,
    core_keys: tuple[str, ...] = (),
    objection: Callable[..., str] | None = None,
    check: Callable[..., object] | None = None,
    findings: Callable[..., Iterable[tuple[str, str]]] = lambda config, shared: (),
) -> SettingsRow:
    def check_all(config: Config, locations: Any) -> Iterator[tuple[str, str]]:
        if check is not None:
            check(config, locations)
        yield from findings(config, on_several_machines(config))

    keys: dict[str, type[Struct] | None] = {f"apps.*.{key}": None for key in core_keys}
    keys |= {} if of_app is None else {"apps.*": of_app}
    return SettingsRow({**(sections or {}), **keys}, objection, check_all)


Named = tuple[str, str]
"""The module and the attribute of a function."""


def _call(named: Sequence[str], *arguments: object) -> Any:
    return getattr(import_module(named[0]), named[1])(*arguments)


def _rows_of_commands(
    commands: Mapping[str, tuple[str, str, str]],
    doctor: Mapping[str, tuple[str, str, str, str]],
    rows_check: Named | None,
) -> Iterator[CommandOf]:
    """What a feature of 1.0 added to the command line."""
    for words, (module, attribute, text) in commands.items():
        parent, _, name = words.rpartition(" ")
        yield CommandOf(name, f"{module}:{attribute}", text, cast("Any", parent))
    for option, (module, attribute, text, metavar) in doctor.items():
        yield CommandOf(option, f"{module}:{attribute}", text, DOCTOR, metavar)
    if rows_check is not None:
        yield CommandOf("rows", ":".join(rows_check), parent=DOCTOR)


class _Files(Struct, ArchivedFiles, frozen=True):
    config: Config
    store: Any
    exports: Named | None
    imports: Named | None
    files: tuple[str, str, str] | None

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """See :class:`ArchivedFiles`."""
        if app and self.exports is not None:
            for name, pieces in _call(self.exports, self.config, self.store, app, user):
                yield name, 0, iter(pieces)
        if not app and self.files is not None:
            for name, size, pieces in _call(self.files[:2], self.config, self.store):
                yield name, size, iter(pieces)

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """See :class:`ArchivedFiles`."""
        if app and self.imports is not None:
            with _call(self.imports, self.config, self.store, app) as take:
                return bool(take(name, content.name))
        if app or self.files is None:
            return False
        return bool(_call(self.files[::2], self.config, self.store, [(name, content)]))


class _Acts(Observer):
    def __init__(self, function: Callable[[Act], object]) -> None:
        self._function = function

    def acted(self, act: Act) -> None:
        """Tell the function."""
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
    if face > 4:  # rows of later versions do not say it
        raise StartError(
            f"it was made for version {face} of imserver.plugin: install a newer imserver"
        )

    def files_of(config: Config, store: Any) -> tuple[object, ...]:
        if exports or imports or files:
            return (_Files(config, store, exports, imports, files),)
        return ()

    @contextmanager
    def offline(
        config: Config, store: Any, tenants: Callable[[], Any]
    ) -> Iterator[tuple[object, ...]]:
        hears = () if acts is None else (_Acts(partial(_call, acts, store)),)
        with (
            nullcontext(None) if erasing is None else erasing(config, store) as erasure
        ):
            erasures = () if erasure is None else (erasure,)
            yield (
                *erasures,
                *hears,
                *files_of(config, store),
                *push_services(config, tenants()),
            )

    def answer(base: Core) -> tuple[object, ...]:
        services = push_services(base.config, base.tenants)
        return (
            *answers(RoomyCore(base)),
            *services,
            *files_of(base.config, base.store),
        )

    def measure() -> Iterator[Any]:
        for metric in metrics():
            yield replace(metric, read=_with_rooms(metric.read))

    return FeatureRow(
        name=name,
        build=_with_rooms(build),
        dialects=dialects,
        routes=[
            replace(row, service=_with_rooms(row.service))
            for row in (*routes, *operations)
        ],
        views=None if views is None else views.load,
        metrics=measure,
        uses=uses,
        settings=settings or SettingsRow(),
        commands=tuple(_rows_of_commands(commands or {}, doctor or {}, rows_check)),
        answers=answer,
        wire=wire or {},
        tables=(*tables, *migrations),
        offline=offline,
    )


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
"""Module → name → what it was, or what makes a row of today; and what to do."""


def form_of(module: str, name: str) -> Any:
    """A name of an earlier version of a module. Raises AttributeError."""
    if name not in _FORMS[module]:
        raise AttributeError(f"{module} has no {name}")
    form, instead = _FORMS[module][name]
    warn(f"{module}.{name} is deprecated until 2.0: {instead}")
    return form
