"""The row with which a feature or a foreign dialect joins a node: data and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from imserver.auth.tenants import AppObjection, Tenants
from imserver.config.settings import Config, Finding
from imserver.config.values import CORE, Locations, fold
from imserver.core.core import Core, FeatureParts
from imserver.core.services import Foundation
from imserver.errors import HttpProblem
from imserver.http.call import Api, Route
from imserver.http.operation import Operation
from imserver.notify import PushService
from imserver.protocol.dialect import Dialect, Readers
from imserver.storage.contract import Erasure
from imserver.storage.store import Store
from imserver.storage.tables import FeatureTables, Migration, Table
from imserver.transport.http1 import Streamed

if TYPE_CHECKING:
    from imserver.metric_table import Metric


class FeatureSettings(Struct, frozen=True):
    """The settings of a feature, and their checks. Its module ``settings`` has them as ``SETTINGS``.

    ``sections``: name of a section → the struct with the keys that the feature has in it. The section may be
    that of others, too. ``of_app``: the struct whose fields are its keys in the settings of an app.
    (``settings_of`` and ``app_settings_of`` of :mod:`imserver.config.settings` read them.) ``core_keys``:
    keys of an app that the core declares, because its login rules read them, and that have no effect without
    this feature. The core marks them with ``by_feature``.
    ``objection``: checks the settings of an app beyond types. ``check``: raises ConfigError if settings of
    the node contradict each other or those of apps. ``findings``: for ``check-config --production``; the
    second argument says whether nodes on several machines share what they store.
    """

    sections: Mapping[str, type[Struct]] = {}
    of_app: type[Struct] | None = None
    core_keys: tuple[str, ...] = ()
    objection: AppObjection | None = None
    check: Callable[[Config, Locations], object] | None = None
    findings: Callable[[Config, bool], Iterable[Finding]] = lambda config, shared: ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Their names: ``section`` if the core has no keys in it, else ``section.key``; ``apps.*.key``."""
        shared = [name for name in self.sections if fold(name) in CORE.names]
        of_app = self.of_app.__struct_fields__ if self.of_app is not None else ()
        return (
            *(name for name in self.sections if name not in shared),
            *(f"{name}.{key}" for name in shared for key in self.sections[name].__struct_fields__),
            *(f"apps.*.{key}" for key in (*self.core_keys, *of_app)),
        )


class Views(Struct, frozen=True):
    """What a feature has Flask answer: requests that its routes and operations do not.

    ``blueprints``: module and attribute of a function that makes them from the services of the node and its
    API, or the function; called at the first request that the front server does not answer. ``streamed``:
    whether a view reads the body of such a request itself, by method and path. ``refusal`` makes the page (a
    response of Flask) that tells a browser why a request was refused, from the problem and the id of the
    request; None: the client wants no page. ``preload`` imports what the first request needs besides the
    module: before a process forks, so that nodes share the memory.
    """

    blueprints: tuple[str, str] | Callable[[Core, Api], Iterable[Any]]
    streamed: Streamed | None = None
    refusal: Callable[[HttpProblem, str], Any] | None = None
    preload: Callable[[], object] = lambda: None

    def load(self) -> Callable[[Core, Api], Iterable[Any]]:
        """The function that makes the blueprints."""
        if callable(self.blueprints):
            return self.blueprints
        make: Callable[[Core, Api], Iterable[Any]]
        make = getattr(import_module(self.blueprints[0]), self.blueprints[1])
        return make


class Feature(Struct, frozen=True, eq=False):
    """One feature or foreign dialect, which a node may do without.

    ``build`` makes its parts from those of the core, once for each node. It may raise ConfigError.
    ``dialects``: served on their paths. ``wire``: dialect → its commands of clients there, which a row of
    ``FeatureParts.commands`` each runs. ``routes``: the operations are its part of ``/api/v1``, which the
    document, batches and the router get; those without a function are answered by its views. Another route
    names the service that its function gets first. ``settings``: those that it declares. ``metrics`` returns
    its rows of the table of metrics, at the first scrape. ``uses``: names of features that it needs, which
    come before it in the list. ``"webhooks?"`` is one that it uses if it is there.
    ``answers``: makes the objects that answer questions of the core, or hear what happens, before there are
    logins; see :class:`imserver.core.core.Core`.
    ``commands``: name of a command of ``imserver`` (one of ``imserver app`` or ``imserver key`` begins with
    that word and a space) → its module, which only the command imports, its attribute there, and one line of
    help. Settings need not name the feature.
    ``doctor``: option of ``imserver doctor`` that tries something out → the module and attribute of its
    function, one line of help, and what its value is. The function gets the settings, the store, the apps and
    the value of the option, and yields findings (:class:`imserver.plugin.commands.Finding`).
    ``rows_check``: module and attribute of a function that ``imserver doctor`` calls with statements that
    read the database. It yields findings about the feature's rows.
    ``acts``: module and attribute of a function that commands call with the store and each
    :class:`imserver.auth.observer.Act` that they have done there, where no node runs. It may raise
    ImserverError.
    ``exports``: module and attribute of a function that yields what an archive of an app, or of a user, has
    of the feature besides its rows. It gets the settings, the store, the app and the user (``""``: of the
    whole app), and yields the name of each file and an iterator of its bytes, which may raise
    FileNotFoundError before the first: the archive goes without it. Names are always the same, and those of
    files of one kind have a folder.
    ``imports``: module and attribute of a function that gets the settings, the store and the app, and returns
    a context with a function. That gets the name and the path of each such file, and says whether it has
    stored it; it may be called again.
    ``erasing``: the context with its :class:`Erasure` in a command, where no node runs.
    ``files``: a module, and two functions in it, for archives that commands make and put back
    (``imserver backup --everything``). Both get the settings and the store. The first yields name, size and
    pieces of each file that the feature has besides its rows. The second also gets names and open files, of
    which it reads each before the next, and returns how many it has stored. They may raise ImserverError.
    ``tables``: its tables, in the order of their deletion, then the steps that make them if the feature is of
    another distribution, numbered from 1. A feature of this server has its tables in a module ``declared``,
    which imports nothing else of it: nodes without the feature read it, too.
    ``push_services`` makes those by which notifications reach devices, from the settings and the apps: for a
    node, and for a command, where no node runs. They are closed at its end.
    Everything is called in the order of the list of features.
    """

    name: str
    build: Callable[[Core], FeatureParts]
    dialects: tuple[Dialect, ...] = ()
    routes: Sequence[Route | Operation] = ()
    views: Views | None = None
    metrics: Callable[[], Iterable[Metric]] = tuple
    erasing: Callable[[Config, Store], AbstractContextManager[Erasure]] | None = None
    files: tuple[str, str, str] | None = None
    uses: tuple[str, ...] = ()
    settings: FeatureSettings = FeatureSettings()
    commands: Mapping[str, tuple[str, str, str]] = {}
    doctor: Mapping[str, tuple[str, str, str, str]] = {}
    rows_check: tuple[str, str] | None = None
    acts: tuple[str, str] | None = None
    exports: tuple[str, str] | None = None
    imports: tuple[str, str] | None = None
    answers: Callable[[Foundation], tuple[object, ...]] | None = None
    wire: Mapping[str, Readers] = {}
    tables: tuple[Table | Migration, ...] = ()
    push_services: Callable[[Config, Tenants], tuple[PushService, ...]] | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Its part of ``/api/v1``."""
        return tuple(row for row in self.routes if isinstance(row, Operation))

    @property
    def stored(self) -> FeatureTables:
        """Its tables, and the steps that make them."""
        return FeatureTables(
            self.name,
            tuple(row for row in self.tables if isinstance(row, Table)),
            tuple(row for row in self.tables if not isinstance(row, Table)),
        )
