"""Exports: all data of a user or an app as one archive, and the import of an
app's archive."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final

from imserver.operate.exports import api
from imserver.operate.exports.declared import (
    DAY_SECONDS,
    EXPORTS,
    SETTINGS,
    TABLES,
    ExportSettings,
)
from imserver.operate.exports.exports import Exports
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import ArchivedFiles, Erasure, Store

_SWEEP_SECONDS: Final = 600.0


def _build(core: Core) -> Parts:
    """Build the service that makes exports on a node.

    Two background jobs, the runners, make the archives. A third job removes old
    archives from the disk.
    """
    per_day = settings_of(core.config, ExportSettings).per_day
    # The features that add files to an archive are not all built yet. So the
    # service asks for them when it makes an archive.
    find_archived_files = partial(core.all_of, ArchivedFiles)
    exports = Exports(
        core.config,
        core.store,
        buckets=core.buckets.make(EXPORTS, per_day, DAY_SECONDS, core.attempt),
        release=core.node.version,
        archived=find_archived_files,
    )
    runners = [runner.run for runner in exports.runners]
    sweep = every(_SWEEP_SECONDS, exports.sweep, "old archives could not be removed")
    return Parts((exports, exports.erasure), run=(*runners, sweep), stop=exports.stop)


@contextmanager
def _offline(
    config: Config, store: Store, _tenants: object
) -> Iterator[tuple[Erasure]]:
    """The erasure of archives, for commands that delete users or apps."""
    with closing(Exports(config, store)) as exports:
        yield (exports.erasure,)


def _views(_forks: bool) -> Callable[..., Any]:
    """The view that sends archives, which is imported only on nodes that use
    it."""
    from imserver.operate.exports.views import create_export_view

    return create_export_view


FEATURE = FeatureRow(
    "exports",
    _build,
    routes=api.routes.rows,
    views=_views,
    offline=_offline,
    uses=("messages?", "audit?", "uploads?", "accounts?"),
    settings=SETTINGS,
    tables=TABLES,
    commands=(
        CommandOf(
            "export",
            "imserver.operate.exports.command:export",
            "Write all data of an app or a user to a file.",
        ),
        CommandOf(
            "import",
            "imserver.operate.exports.command:import_app",
            "Create an app from the archive of an export.",
        ),
    ),
)
