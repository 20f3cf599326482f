"""Forms of the face of 1.0 that go with 2.0. Each warns once. Plug-ins that use them run as before."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from imserver.auth.login import Logins
from imserver.auth.observer import Observer
from imserver.auth.questions import AccountLookup, BackEnds, Relations, Reviews
from imserver.auth.tenants import BadTenant
from imserver.config.settings import Config
from imserver.core.core import Core, Parts
from imserver.hub.expiry import Check
from imserver.storage.contract import Erasure
from imserver.transport.connection import Connection
from imserver.transport.gate import Opened

_ROOMS: Final[Mapping[str, tuple[str, ...]]] = {
    "channels": ("channels", "consent", "commands=channel_commands", "registrar"),
    "cluster": (
        *("registry", "queries", "values=temporary_values", "attempt", "rpc", "node_messages", "others"),
    ),
    "identity": (
        *("tenants", "keys", "sender_rates", "mutes", "page_tokens", "accounts", "relations", "reviews"),
        *("back_ends", "observer", "observers", "logins", "allowed", "authority"),
    ),
    "network": ("outgoing", "proxies", "dispatcher"),
    "node": ("buckets", "metrics"),
    "push": ("idempotency", "reach", "pushes", "pending", "publishing", "rerouting"),
    "sessions": (
        *("hub", "fanout", "ids=connection_ids", "table=connection_table", "sessions", "presence"),
        "connections",
    ),
    "storage": ("store", "erasures=user_erasures"),
}
"""Room of services that the core had → what it had there, and its name in the core today."""


def warn(text: str) -> None:
    """Warn once of a place in a plug-in."""
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class Room:
    """A room of services of the core of 1.0: ``core.identity``, ``core.storage`` …"""

    def __init__(self, core: Any, name: str) -> None:
        self._core, self._name = core, name
        self._names = {old: new or old for old, _, new in (each.partition("=") for each in _ROOMS[name])}

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
        warn(f"core.{name} is deprecated: its services are attributes of core (docs/reference/plugin.md)")
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
    addition = None if page is None else SimpleNamespace(page_folder=page)
    rows = dialects or {}
    return Parts(
        tuple(each for each in (service, erasure, addition) if each is not None),
        commands=dict(commands or {}),
        opened={name: opened for name, (opened, _) in rows.items() if opened is not None},
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
    kinds = {AccountLookup: accounts, Relations: relations, Reviews: reviews, BackEnds: back_ends}
    objects: list[object] = []
    for kind, each in {**kinds, Observer: observer}.items():
        if each is not None and not isinstance(each, kind):  # the core finds it by its class
            own = {name: getattr(each, name) for name in dir(kind) if not name.startswith("_")}
            own = {name: staticmethod(value) if callable(value) else value for name, value in own.items()}
            objects.append(type(kind.__name__, (kind,), own)())
        objects += [] if each is None else [each]
    return tuple(objects)


_FORMS: Final[Mapping[str, Mapping[str, tuple[Any, str]]]] = {
    "imserver.plugin": {
        "Answers": (_answers, "return a tuple of objects"),
        "DialectParts": (_dialect_parts, "use opened and checks of Parts"),
        "FeatureParts": (_parts, "use Parts"),
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
