"""The command line. Each command imports its own dependencies when it runs."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import EPIPE
from typing import Any, Final, NamedTuple

import click

from imserver.gateway import assets
from imserver.gateway.command_rows import CommandOf
from imserver.gateway.config.load import dump, read_value, settings_file
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import CLOSE, REPLY_TEXT, HttpProblem, StartError
from imserver.gateway.terminal import CommandLine, GroupOfRows, fail, table
from imserver.version import full_version

_NO_LOAD_TOOL: Final = (
    "the load tool is not installed. In a source tree, run `make bench` or "
    "`pip install ./imserver_client ./checker ./bench`."
)
_NO_CLIENT: Final = (
    "the Python client is not installed. Run `pip install 'imserver[client]'`, in "
    "a source tree `pip install ./imserver_client`."
)
COMMANDS: Final = (
    CommandOf(
        "app", "imserver.offline.app:app", "Create, list, show, change and delete apps."
    ),
    CommandOf(
        "bench",
        "bench.cli:bench",
        "Measure a server: memory, fan-out, latency, pushes.",
        absent=_NO_LOAD_TOOL,
    ),
    CommandOf(
        "bot",
        "imserver_client.bot:bot",
        "Create, list and delete bots, and set their webhooks.",
        absent=_NO_CLIENT,
    ),
    CommandOf(
        "doctor",
        "imserver.offline.doctor:doctor",
        "Check machine, database, Redis and public addresses.",
    ),
    CommandOf(
        "init",
        "imserver.offline.init:init",
        "Write imserver.yaml with an app, an API key and a secret.",
    ),
    CommandOf(
        "key",
        "imserver.offline.key:key",
        "Create, list, show, rotate and revoke API keys.",
    ),
    CommandOf(
        "move",
        "imserver.offline.copies.command:move",
        "Copy the database to another engine, and compare the two.",
    ),
    CommandOf(
        "outbox",
        "imserver_client.outbox:outbox",
        "Push the rows of a table in a PostgreSQL database.",
        absent=_NO_CLIENT,
    ),
    CommandOf(
        "restore",
        "imserver.offline.copies.command:restore",
        "Replace the database with a copy.",
    ),
    CommandOf(
        "status",
        "imserver.offline.status:status",
        "Show /health and /system/state of a running server.",
    ),
    CommandOf(
        "support",
        "imserver.offline.support:support",
        "Write one file for people who help, without secrets.",
    ),
    CommandOf(
        "token",
        "imserver.offline.token:token",
        "Create and check session tokens of users.",
    ),
    CommandOf(
        "upgrade",
        "imserver.offline.upgrade:upgrade",
        "Install another release, or go back to the previous one.",
    ),
)
"""The commands of the server, of its load tool and of its client. This module
adds more commands. A node never loads their modules."""

_OF_CLIENT: Final = {row.name for row in COMMANDS if row.absent == _NO_CLIENT}
"""Commands of the package of the client. Like other commands, they call the
server of the settings by default."""

SETTING_OF_OPTION: Final = {
    "host": "server.host",
    "http_port": "app.http_port",
    "ws_port": "app.websocket_port",
    "rpc_port": "app.rpc_port",
    "data_dir": "server.data_dir",
    "http": "server.http",
    "processes": "server.processes",
    "insecure": "server.insecure",
}
"""Options of serve → settings, which check their values."""


_FOR_THE_SERVER: Final = ("--config", "--data-dir", "--url", "--key-file")
"""Long options that say which server is meant. Each has a value."""


class _Words(NamedTuple):
    """The words of a command line."""

    name: list[str]
    """The name of the command, such as ``app list``."""
    server_options: list[str]
    """The options in front of its parts, which say which server is meant."""
    remaining: list[str]
    """All words after the name."""


class _Commands(GroupOfRows):
    """The commands of ``imserver``."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. If it cannot use a file, print one line, and no
        traceback."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            # If nobody reads the output, click ends without a message.
            if error.strerror is None or error.errno == EPIPE:
                raise
            if error.filename:
                fail(f"{error.filename}: {error.strerror}")
            fail(error.strerror)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line.

        The options for the server may also stand in front of each part of a
        command's name. So ``-c FILE app list`` is parsed as ``app list -c
        FILE``.
        """
        words = self._sort_words(ctx, args)
        if not words.name:  # ``-c FILE`` alone runs the server
            return super().parse_args(ctx, args)
        return super().parse_args(
            ctx, [*words.name, *words.server_options, *words.remaining]
        )

    def _sort_words(self, ctx: click.Context, args: list[str]) -> _Words:
        """Tell the name of the command from the options in front of its
        parts."""
        command: click.Command | None = self
        name = list[str]()
        server_options = list[str]()
        remaining = [*args]
        # The name of a command ends where there are no subcommands.
        while remaining and isinstance(command, click.Group):
            word = remaining.pop(0)
            if _names_server(word):
                server_options.append(word)
                if remaining and not _has_value(word):
                    server_options.append(remaining.pop(0))
                continue
            name.append(word)
            command = command.get_command(ctx, word)
            if word in ctx.help_option_names:
                server_options = []  # the help of a group does not take them
        return _Words(name, server_options, remaining)

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return a sentence for an unknown command, which may help.

        If a package that is not installed has the command, it names the
        package.
        """
        package = _optional_packages().get(name)
        if package is not None:
            return f" The package {package} brings it: pip install {package}"
        return super().hint(ctx, name)

    def likely_names(self, ctx: click.Context) -> Iterable[str]:
        """Return the names among which a mistyped command is searched.

        They include commands of features with two words, such as ``key usage``.
        """
        from imserver.gateway.offline import rows_below

        names = {*super().likely_names(ctx)}
        for parent in ("app", "key"):
            names.update(row.words for row in rows_below(parent))
        return names


def _names_server(word: str) -> bool:
    """Tell whether a word is an option that says which server is meant."""
    option, _, _ = word.partition("=")
    return word.startswith("-c") or option in _FOR_THE_SERVER


def _has_value(word: str) -> bool:
    """Tell whether an option has its value in it: ``-cFILE``,
    ``--config=FILE``."""
    is_short = word.startswith("-c")
    return "=" in word or (is_short and word != "-c")


def _rows() -> Iterator[CommandOf]:
    """List the commands of this server, then the commands of features."""
    yield from COMMANDS

    # Imported here: most commands need no feature.
    from imserver.gateway.offline import rows_below

    yield from rows_below("")


def _optional_packages() -> Mapping[str, str]:
    """Return command → the optional package that has it."""
    text = assets.asset_path("config/packages.yaml").read_text(encoding="utf-8")
    packages: dict[str, list[str]] = read_value(text, "config/packages.yaml")
    package_by_command = {}
    for package, commands in packages.items():
        package_by_command.update(dict.fromkeys(commands, package))
    return package_by_command


def _defaults_of_client(context: click.Context) -> dict[str, Any]:
    """Return the default of ``--url`` for a command of the client.

    It is for its subcommands, too, in the form of click's ``default_map``. The
    package of the client does not read settings of a server.
    """
    command = main.get_command(context, context.invoked_subcommand or "")
    subcommands = getattr(command, "commands", ())
    address = {"url": _url_of_settings}
    return {**address, **dict.fromkeys(subcommands, address)}


def _url_of_settings() -> str:
    """Return the address of the server of the settings.

    If they are wrong, the command ends.
    """
    from imserver.gateway.offline import load_settings, url_of

    try:
        return url_of(load_settings(path=None, data_dir=None))
    except StartError as error:
        fail(error)


_config_option = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    help="The settings file: YAML, app.yaml of GoChat, or app.ini of go-websocket. "
    "Settings that are not in the file keep their defaults.",
)


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and end, if the option was given."""
    if wanted:
        click.echo(full_version())
        context.exit()


_HELP_WIDTH: Final = 100


@click.group(
    "imserver",
    cls=_Commands,
    rows=_rows,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": _HELP_WIDTH,
    },
)
@_config_option
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def main(context: click.Context, path: str | None) -> None:
    """A self-hosted instant-messaging and push gateway. With -c alone, the
    command runs the server."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False
    command = context.invoked_subcommand
    if command in _OF_CLIENT:
        context.default_map = {command: _defaults_of_client(context)}
    if command is not None:
        return
    if path is None:
        click.echo(context.get_help())
    else:
        context.invoke(serve, path=path)


@main.command()
@_config_option
@click.option("--host", metavar="ADDR", help="Address to listen on.")
@click.option(
    "--http-port",
    type=int,
    metavar="N",
    help="Port for pages and the HTTP API. 0 means any free port.",
)
@click.option(
    "--ws-port",
    type=int,
    metavar="N",
    help="Port for WebSockets. 0 means any free port.",
)
@click.option("--rpc-port", type=int, metavar="N", help="Port for calls between nodes.")
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder for the secret, the lock, the SQLite database and uploads.",
)
@click.option("--http", type=click.Choice(["front", "wsgi"]), help="HTTP server.")
@click.option(
    "--processes",
    metavar="N|auto",
    help="Number of nodes, one process each. Several nodes need Redis. auto means one node per core.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow the server to listen on other addresses than loopback without an API key.",
)
@click.pass_obj
def serve(run: Callable[..., int] | None, /, path: str | None, **given: Any) -> None:
    """Run the server in the foreground until SIGTERM or Ctrl-C."""
    # Without the flag, the setting applies. None leaves it as it is.
    given["insecure"] = given["insecure"] or None
    processes = given["processes"] or ""
    if processes.isdecimal():
        given["processes"] = int(processes)
    overrides = {
        SETTING_OF_OPTION[name]: value
        for name, value in given.items()
        if value is not None
    }

    # Imported here: no other command needs the transport.
    from imserver.gateway import start

    serve_until_end = run or start.run
    sys.exit(serve_until_end(path, overrides))


@main.command("check-config")
@_config_option
@click.option(
    "--defaults",
    is_flag=True,
    help="Print the manual of all settings instead. With a file, print only settings of its features.",
)
@click.option(
    "--production",
    is_flag=True,
    help="List insecure settings instead. If there are any, the exit status is 1.",
)
@CommandLine.prints_data
@click.argument("file", required=False)
def check_config(
    path: str | None, defaults: bool, production: bool, file: str | None
) -> None:
    """Check the settings and print them as the server would use them.

    FILE is the same as -c FILE.

    With --production, print one line for each setting that a careful operator
    would change before strangers reach the server. The check includes API keys
    and apps in the database.
    """
    if file is not None:
        path = file
    if defaults:
        click.echo(_manual(path), nl=False)
        return

    # Imported here: other commands do not need the features.
    from imserver.gateway.node import feature_list

    try:
        settings = _load_as_server(path)
    except StartError as error:
        fail(error)

    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    if production:
        _check_production(path)
    else:
        features = feature_list.load_features(settings)
        text = dump(settings, feature_list.declarations_of(features))
        CommandLine.data(read_value(text, "the settings"), text.rstrip("\n"))


def _load_as_server(path: str | None) -> Config:
    """Load the settings, and check them as a server does at its start.

    Raises StartError.
    """
    # Imported here: other commands do not need the parts of a server.
    from imserver.gateway.cluster.redis.connection import address_of
    from imserver.gateway.node import feature_list, http_servers
    from imserver.gateway.process import plan_processes
    from imserver.gateway.storage.address import database_address
    from imserver.gateway.storage.engines import make_engine
    from imserver.gateway.supervisor.slot import check_ports

    settings, locations = feature_list.load_with_locations(path)
    settings, _ = plan_processes(settings)
    feature_list.check(settings, locations)
    check_ports(settings)
    if settings.clustered:
        address_of(settings.redis)  # raises StartError
    database = database_address(settings.storage, settings.server.data_dir)
    # This does not connect. It finds wrong addresses and missing drivers.
    make_engine(database, settings.storage).dispose()
    http_servers.refuse_open_demo(settings)
    return settings


def _manual(path: str | None) -> str:
    """Return the manual of all settings.

    ``path`` is a file with settings. Then the manual has only the settings of
    the features that the file names.
    """
    text = assets.DEFAULT_CONFIG.read_text(encoding="utf-8")
    if path is None:
        return text
    from imserver.gateway.node import feature_list
    from imserver.offline.manual import manual_of

    try:
        features = feature_list.load_features(feature_list.load_config(path))
    except StartError as error:
        fail(error)
    return manual_of(text, feature_list.declarations_of(features))


def _check_production(path: str | None) -> None:
    """Print insecure settings, and end with status 1 if there are any.

    Apps and keys in the database count, too. ``path`` is the file with the
    settings; None: the usual file.
    """
    from imserver.gateway.offline import opened
    from imserver.offline import production

    with opened(path, data_dir=None) as (settings, store, tenants):
        file = path or settings_file(os.environ) or ""
        apps = {tenant.name: tenant for tenant in tenants.all()}
        deployment = production.Deployment(settings, file, bool(store.keys()), apps)
        findings = production.findings(deployment)
        # This is printed inside the block, because the end of :func:`opened`
        # fails if no server has run here yet.
        _print_findings(findings)
    if findings:
        sys.exit(1)


def _print_findings(findings: Sequence[tuple[str, str]]) -> None:
    """Print insecure settings. Each finding is a setting, and what is wrong."""
    lines = [f"{setting}: {finding}" for setting, finding in findings]
    rows = [{"setting": setting, "finding": finding} for setting, finding in findings]
    CommandLine.data(rows, "\n".join(lines) or "no insecure settings")


@main.command()
@CommandLine.prints_data
def codes() -> None:
    """Print the close codes, reply codes and HTTP problems."""
    # Imported here: other commands do not need the features.
    from imserver.gateway.node.feature_list import load_features, problems_of

    problems = problems_of(load_features(Config()))
    if CommandLine.wants_json():
        tables = {
            "close_codes": [*CLOSE.values()],
            "reply_codes": REPLY_TEXT,
            "problems": problems,
        }
        CommandLine.data(tables, "")
        return

    _print_codes(problems)


def _print_codes(problems: Sequence[HttpProblem]) -> None:
    """Print three tables: the close codes, the reply codes, and the HTTP
    problems."""
    # Functions that turn a cell of a table into words.
    reconnect = {True: "reconnect", False: "stay away"}.__getitem__
    temporary = {True: "yes", False: "no"}.__getitem__
    click.echo("WebSocket close codes\n")
    columns = "code, name, client may: reconnect, meaning"
    click.echo(table(columns, CLOSE.values(), reconnect=reconnect))

    _print_reply_codes()
    click.echo("\nHTTP problems outside the dialects' routes\n")
    click.echo(table("status, code, temporary, message", problems, temporary=temporary))


def _print_reply_codes() -> None:
    """Print the table of the reply codes, with its title."""
    click.echo("\nReply codes of the cmd dialect and its HTTP API\n")
    for code, text in (("code", "text"), *REPLY_TEXT.items()):
        click.echo(f"{code:<4}  {text}")


@main.command()
@CommandLine.prints_data
def version() -> None:
    """Print the version, and the commit if this is not a release."""
    CommandLine.data({"version": full_version()}, full_version())
