"""The row with which a feature or a foreign dialect joins a node. It has data
and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imserver.gateway.auth.tenants import AppObjection, Tenants
from imserver.gateway.command_rows import DOCTOR, CommandOf
from imserver.gateway.config.settings import Config, Finding
from imserver.gateway.config.values import CORE, Locations, fold
from imserver.gateway.core.core import Core, Parts
from imserver.gateway.http.call import Route
from imserver.gateway.http.operation import Operation
from imserver.gateway.protocol.dialect import Dialect, Readers
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import FeatureTables, Migration, Table

if TYPE_CHECKING:
    from imserver.gateway.metric_table import Metric

VERSION: Final = 4
"""The version of the face, :mod:`imserver.plugin`. It rises with each name or
field that is added, changed or removed."""


class SettingsRow(Struct, frozen=True):
    """The settings of a feature, and their checks. Its module ``declared`` has
    them as ``SETTINGS``.

    - ``sections``: name of a section → the struct with the keys that the
      feature has in it. Others may have keys in the section, too. The section
      ``"apps.*"`` is the settings of an app. (``settings_of`` and
      ``app_settings_of`` of :mod:`imserver.gateway.config.settings` read them.)
      An entry may have None in place of the struct, as in ``"apps.*.webhook"``
      → None. Then the core declares this key of an app, because its login rules
      read the key, and marks the key with ``by_feature``. Without this feature
      the key has no effect.
    - ``objection``: checks the settings of an app beyond types. None means that
      there is nothing to check.
    - ``check``: raises ConfigError if settings of the node contradict each
      other or settings of apps. It yields the settings that a careful operator
      would change, each with the reason (``check-config --production``).
    """

    sections: Mapping[str, type[Struct] | None] = {}
    objection: AppObjection | None = None
    check: Callable[[Config, Locations], Iterable[Finding] | None] = (
        lambda config, locations: ()
    )

    @property
    def keys(self) -> Iterator[str]:
        """The names of the settings of the feature.

        If the core has no keys in a section, the name is ``section``.
        Otherwise it is ``section.key``. The name of a setting of apps is
        ``apps.*.key``.
        """
        for name, kind in self.sections.items():
            if kind is not None and (name == "apps.*" or fold(name) in CORE.names):
                yield from (f"{name}.{key}" for key in kind.__struct_fields__)
            else:
                yield name


class FeatureRow(Struct, frozen=True, eq=False):
    """One feature or foreign dialect, which a node may do without.

    All functions are called in the order of the list of features.

    - ``build``: makes its parts from the core, once for each node. It may raise
      ConfigError.
    - ``dialects``: its dialects, which are served on their paths.
    - ``routes``: its routes. The operations among them are its part of
      ``/api/v1``, which the document, batches and the router get. Its views
      answer the operations without a function. Any other route names the
      service that its function gets first.
    - ``views``: ``views(forks)`` imports the views of Flask, and returns the
      function that makes its blueprints from the core and the
      :class:`imserver.plugin.http.Api`. It is called at the first request that
      the front server does not answer. It is also called before this process
      forks (``forks`` is True). Then it loads all modules for first requests,
      so that nodes share the memory. A view that answers a POST or PATCH
      operation reads the body itself.
    - ``metrics``: returns its rows of the table of metrics, at the first
      scrape.
    - ``uses``: names of features that it needs, which come before it in the
      list. A name with a question mark, such as ``"webhooks?"``, is a feature
      that it uses only if the node has it.
    - ``settings``: the settings that it declares.
    - ``commands``: its commands of ``imserver``, and its additions to
      ``imserver doctor``. They exist as soon as its distribution is installed,
      whatever the setting ``features`` says.
    - ``answers``: makes the objects that answer questions of the core, or
      observe events, before logins begin; see
      :class:`imserver.gateway.core.core.Core`.
    - ``wire``: name of a dialect → the commands of clients that it adds there.
      A row of ``Parts.commands`` runs each of them.
    - ``tables``: its tables, in the order of their deletion. A feature of
      another distribution has the steps that make them behind the tables,
      numbered from 1. A feature of this server has its tables in a module
      ``declared``, which imports no other module of the feature, because nodes
      without the feature read it, too.
    - ``offline``: ``offline(config, store, tenants)`` is a context with the
      objects of the feature in a command, where no node runs; ``tenants()`` are
      the apps. The objects are of
      :class:`imserver.gateway.storage.contract.Erasure`, ``ArchivedFiles``
      there, :class:`imserver.gateway.auth.observer.Observer` (it gets acts, and
      may raise ImserverError) and :class:`imserver.gateway.notify.PushService`.
      In a node they are among its answers and services. Commands that use none
      of these objects enter the context, too, so expensive objects are made at
      their first use.
    """

    name: str
    build: Callable[[Core], Parts]
    dialects: tuple[Dialect, ...] = ()
    routes: Sequence[Route | Operation] = ()
    views: Callable[[bool], Callable[..., Iterable[Any]]] | None = None
    metrics: Callable[[], Iterable[Metric]] = tuple
    uses: tuple[str, ...] = ()
    settings: SettingsRow = SettingsRow()
    commands: tuple[CommandOf, ...] = ()
    answers: Callable[[Core], tuple[object, ...]] | None = None
    wire: Mapping[str, Readers] = {}
    tables: tuple[Table | Migration, ...] = ()
    offline: (
        Callable[
            [Config, Store, Callable[[], Tenants]],
            AbstractContextManager[tuple[object, ...]],
        ]
        | None
    ) = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Its part of ``/api/v1``."""
        return tuple(row for row in self.routes if isinstance(row, Operation))

    def checks(self, name: str) -> Iterator[Callable[..., Iterable[Any]]]:
        """Import the checks that each run of ``imserver doctor`` makes.

        ``name`` is their kind, ``"rows"`` or ``"settings"``
        (:class:`CommandOf`).
        """
        for row in self.commands:
            if row.parent == DOCTOR and row.name == name:
                yield row.load()

    @property
    def stored(self) -> FeatureTables:
        """Its tables, and the steps that make them."""
        return FeatureTables(
            self.name,
            tuple(row for row in self.tables if isinstance(row, Table)),
            tuple(row for row in self.tables if not isinstance(row, Table)),
        )
