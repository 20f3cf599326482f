"""Common parts of commands: the store of the settings, a running server, one
line for each error."""

import logging
import os
import pwd
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from imserver.gateway.auth.observer import Act, Observer
from imserver.gateway.auth.principal import ALL_SCOPES, Principal
from imserver.gateway.auth.tenants import BadTenant, Tenants, UnknownTenant
from imserver.gateway.command_rows import CommandOf
from imserver.gateway.config.load import settings_file
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import ImserverError, StartError, StorageUnavailable
from imserver.gateway.feature import FeatureRow
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_config,
    load_features,
    objection_of,
    offered_rows,
    tables_of,
)
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables
from imserver.gateway.terminal import Command as Command
from imserver.gateway.terminal import fail

S = TypeVar("S")
Opened = tuple[Config, Store, Tenants]


def settings_options(command: Command) -> Command:
    """Add the options by which a command finds the data of a server.

    The options are ``--config`` and ``--data-dir``, for :func:`opened`.
    """
    command = click.option(
        "--data-dir",
        metavar="DIR",
        help="Folder for the secret, the lock, the SQLite database and uploads.",
    )(command)
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        help="The settings file; see imserver serve.",
    )(command)


def load_settings(path: str | None, data_dir: str | None) -> Config:
    """Load the settings that these options name.

    An argument is None if the option was not given. Raises ConfigError.
    """
    overrides = {}
    if data_dir is not None:
        overrides = {"server.data_dir": data_dir}
    return load_config(path, overrides=overrides)


def host_of(settings: Config) -> str:
    """Return the address at which a server answers on its own machine."""
    # A server that listens on all addresses also listens on loopback.
    loopback_of_all = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return loopback_of_all.get(settings.server.host, settings.server.host)


def url_of(settings: Config) -> str:
    """Return the URL at which commands on this machine reach a server.

    If the settings have no port, an error is printed and the command ends.
    """
    port = settings.app.http_port
    if not port:
        fail(
            "app.http_port is 0, so the server uses any free port: give its address with --url"
        )
    host = host_of(settings)
    if ":" in host:
        return f"http://[{host}]:{port}"
    return f"http://{host}:{port}"


def rows_below(parent: str) -> Iterator[CommandOf]:
    """List the commands of features under a parent, such as ``imserver user``.

    If a distribution cannot be loaded, its rows are missing, and a warning
    names the distribution. Features of other distributions come last. Callers
    should read no more rows than they need, because the later rows take longer.
    """
    for row in offered_rows():
        if isinstance(row, Exception):
            click.echo(f"warning: {row}", err=True)
        elif row.parent == parent:
            yield row


@contextmanager
def opened(
    path: str | None, data_dir: str | None, reads: bool = False
) -> Iterator[Opened]:
    """Open the settings, the database and the apps of a server for a command.

    An error inside is printed in one line, and the command ends with status 1.
    ``path`` and ``data_dir`` are the options of the command. None means that an
    option was not given. If ``reads`` is set, the command only reads. Then a
    folder without settings and without a database is an error, because no
    server has used it.
    """
    # A command prints errors itself, and does not log them.
    logging.getLogger("imserver").addHandler(logging.NullHandler())
    try:
        with ExitStack() as stack:
            settings, store, tenants = _open(stack, path, data_dir)
            folder = Path(settings.server.data_dir)
            # The store makes the data folder only when something is written.
            was_empty = not any(folder.glob("*"))
            # Nothing shows that the command runs in the folder of a server.
            is_lost = was_empty and not (path or settings_file(os.environ))
            if not (reads and is_lost and not store.has_database):
                yield settings, store, tenants

            # The command may have written something since then.
            is_created = was_empty and any(folder.glob("*"))
            if is_created:
                _report_folder(folder)
            elif is_lost and not store.has_database:
                _fail_without_server(folder)
    except UnknownTenant as error:
        fail(f"app {error} does not exist")
    except (StartError, StorageUnavailable, BadTenant) as error:
        fail(error)


def _open(stack: ExitStack, path: str | None, data_dir: str | None) -> Opened:
    """Open what a command needs. The end of the stack closes the store.

    Raises StartError and StorageUnavailable.
    """
    settings = load_settings(path, data_dir)
    folder = Path(settings.server.data_dir)
    features = load_features(settings)
    store = _make_store(settings, folder, tables_of(features))
    stack.callback(store.close)
    tenants = _tenants_of(settings, store, features)
    store.start()
    return settings, store, tenants


def _make_store(settings: Config, folder: Path, tables: StoreTables) -> Store:
    """Make the store of a command. The store has one thread, and is not open
    yet."""
    return Store(settings.storage, str(folder), threaded=False, tables=tables)


def _report_folder(folder: Path) -> None:
    """Tell the person that the command has created the data folder."""
    click.echo(f"imserver: created the data folder {folder.absolute()}", err=True)


def _fail_without_server(folder: Path) -> NoReturn:
    """End the command, because no server has used this data folder."""
    fail(
        f"this folder has no settings, and {folder.absolute()} has no database of "
        "a server"
    )


def record_act(
    settings: Config,
    store: Store,
    name: str,
    app: str = "",
    user: str = "",
    /,
    **facts: Any,
) -> None:
    """Report an act of a command to the features that observe acts.

    :class:`imserver.gateway.auth.observer.Act` explains ``name``, ``app`` and
    ``user``. ``facts`` are JSON. The command is already done, so an error here
    is printed and does not end it.
    """
    # The person who runs a command may do everything. The name of the system
    # user identifies this person.
    by = Principal("command", ALL_SCOPES, apps=None, key=_system_user())
    act = Act(name, by, app, user, facts=facts)
    with offline_parts(settings, store, Observer) as observers:
        for feature, observer in observers:
            try:
                observer.acted(act)
            except ImserverError as error:
                click.echo(
                    f"imserver: this act was not stored in the {feature} log ({name}): {error}",
                    err=True,
                )


@contextmanager
def offline_parts(
    settings: Config, store: Store, kind: type[S]
) -> Iterator[list[tuple[str, S]]]:
    """Open the objects that features have in a command, as a context.

    Only objects of the type ``kind`` are returned, as pairs of the name of the
    feature and the object
    (:attr:`imserver.gateway.feature.FeatureRow.offline`). Raises StartError.
    """
    features = load_features(settings)

    @cache
    def tenants() -> Tenants:
        """Load the apps, if a feature wants them."""
        return _tenants_of(settings, store, features)

    with ExitStack() as stack:
        # The contexts end in the reverse order, after the caller has used the
        # objects.
        parts: list[tuple[str, S]] = []
        for feature in features:
            if feature.offline is None:
                continue
            context = feature.offline(settings, store, tenants)
            for part in stack.enter_context(context):
                if isinstance(part, kind):
                    parts.append((feature.name, part))
        yield parts


def _tenants_of(
    settings: Config, store: Store, features: tuple[FeatureRow, ...]
) -> Tenants:
    """Load the apps of these settings and this database.

    A command serves no clients, so these apps have no hub of connections.
    """
    objection = objection_of(features)
    return Tenants(
        config=settings,
        store=store,
        hub=None,
        objection=objection,
        declared=declarations_of(features),
    )


def _system_user() -> str:
    """Return the name of the system user who runs this process.

    If the user has no name, the result is the number of the user.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def day(seconds: int) -> str:
    """Format a time for people in UTC, as ``2026-01-31 12:00``.

    ``seconds`` are Unix seconds. 0 gives ``""``.
    """
    if seconds:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    return ""
