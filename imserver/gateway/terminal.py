"""Input and output of commands: arguments, files, tables and errors."""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import SplitResult, urlsplit

import click
import msgspec

from imserver.gateway.command_rows import CommandOf
from imserver.gateway.config.load import ENVIRONMENT_KEY
from imserver.gateway.logging import shown

if TYPE_CHECKING:
    from http.client import HTTPConnection

Command = TypeVar("Command", bound=Any)

_HELP_CHARACTERS: Final = 80
"""The most characters of the help line of a command in a list of commands."""


class CommandGroup(click.Group):
    """A group of commands. For a mistyped name it suggests the intended
    command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a word names, as click does.

        If the command is unknown, the error suggests similar names.
        """
        name = args[0]
        is_name = not name.startswith("-") and not ctx.resilient_parsing
        if is_name and self.get_command(ctx, name) is None:
            raise click.UsageError(
                f"No such command {name!r}.{self.hint(ctx, name)}", ctx
            )
        return super().resolve_command(ctx, args)

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return a hint for somebody who typed an unknown name.

        A hint begins with a space. ``""`` means that there is no hint.
        """
        likely = get_close_matches(name, self.likely_names(ctx))
        if likely:
            return f" Did you mean {' or '.join(likely)}?"
        return ""

    def likely_names(self, ctx: click.Context) -> Iterable[str]:
        """Return the names that a hint may suggest."""
        return self.list_commands(ctx)


CommandGroup.group_class = CommandGroup


class GroupOfRows(CommandGroup):
    """A group whose commands are rows (:class:`CommandOf`).

    The module of a row is imported when its command runs. ``rows`` is called
    for each look-up, and yields the rows. If two rows have one name, the first
    row counts. A command that a decorator has added comes before rows of the
    same name. The group reads no more rows than it needs.
    """

    def __init__(
        self, *args: Any, rows: Callable[[], Iterable[CommandOf]], **more: Any
    ) -> None:
        """Take the function that yields the rows, and the arguments of
        click."""
        super().__init__(*args, **more)
        self._rows = rows

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all commands, for click."""
        of_rows = (row.name for row in self._rows())
        return sorted({*super().list_commands(ctx), *of_rows})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name, for click. Imports the command of a
        row."""
        decorated = super().get_command(ctx, cmd_name)
        if decorated is not None:
            return decorated
        for row in self._rows():
            if row.name == cmd_name:
                return _load(row)
        return None

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of commands in a help text, for click.

        The list needs no import of a row's command.
        """
        lines: dict[str, str] = {}
        for name, command in self.commands.items():
            lines[name] = command.get_short_help_str(_HELP_CHARACTERS)
        for row in self._rows():
            lines.setdefault(row.name, row.help)
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


def _load(row: CommandOf) -> click.Command:
    """Import the command of a row.

    If its package is not installed, the current command ends.
    """
    try:
        command: click.Command = row.load()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # If a module of the server itself is missing, that is a defect.
        if row.absent and package != "imserver":
            fail(row.absent)
        raise
    return command


def deprecated_form(old: str, new: str) -> None:
    """Warn that a form of a command will be removed in 2.0.

    The warning names the form that replaces it.
    """
    click.echo(f"imserver: {old} is deprecated until 2.0: use {new}", err=True)


def person_of(words: Sequence[str], expected: str) -> tuple[str, str]:
    """Read the app and the user of an argument ``APP/USER``.

    Two words, ``APP USER``, are the deprecated form. ``expected`` is the right
    form of the argument, for the error.
    """
    app = ""
    user = ""
    if len(words) == 2:
        app, user = words
        deprecated_form("APP USER", "APP/USER")
    elif len(words) == 1:
        # A user id may have a slash, but the name of an app cannot.
        app, _, user = words[0].partition("/")
    if not (app and user):
        raise click.UsageError(f"expected {expected}, got {' '.join(words)!r}")
    return app, user


_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


class Duration(click.ParamType[int]):
    """The type of an argument: a time span, such as ``10m`` or ``90d``, in
    seconds.

    ``least`` and ``most`` are the limits of the time span in seconds. If
    ``most`` is None, there is no upper limit. A number without a letter is the
    deprecated form. It counts units of ``unit`` seconds. If ``unit`` is 0, such
    a number is refused.
    """

    name = "time"
    _SECONDS: Final = {"s": 1, "m": _MINUTE, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}

    def __init__(self, least: int = 0, most: int | None = None, unit: int = 0) -> None:
        """Set the limits and the unit."""
        self._least = least
        self._most = most
        self._unit = unit

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Convert a text to seconds, for click, and check the limits.

        If the text is wrong, the command ends with an error that names the
        option.
        """
        if isinstance(value, int):
            return value  # a default is in seconds already
        # The limits apply only to a text that somebody has typed.
        seconds = self._read(value, param, ctx)
        if seconds < self._least:
            self.fail(f"{value}: expected at least {in_words(self._least)}", param, ctx)
        if self._most is not None and seconds > self._most:
            self.fail(f"{value}: expected at most {in_words(self._most)}", param, ctx)
        return seconds

    def _read(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Convert a text to seconds. Another text ends the command.

        A number without a letter is accepted only if the option has a unit.
        Then a warning is printed.
        """
        match = re.fullmatch(r"(\d{1,9})([smhdw]?)", value)
        problem = f"{value}: expected a number with s, m, h, d or w, such as 90d"
        if match is None:
            self.fail(problem, param, ctx)
        number = int(match[1])
        letter = match[2]
        if letter:
            return number * self._SECONDS[letter]
        # Zero needs no unit.
        if value == "0":
            return 0
        if not self._unit:
            self.fail(problem, param, ctx)
        return self._seconds_of_units(value, number)

    def _seconds_of_units(self, value: str, number: int) -> int:
        """Convert a number without a letter, and warn that this is deprecated.

        ``value`` is the text of the number.
        """
        seconds = number * self._unit
        deprecated_form(f"{value} without a letter", in_words(seconds))
        return seconds


def in_words(seconds: int) -> str:
    """Write a time span as :class:`Duration` reads it, without a fraction.

    The text has the largest unit that divides the time span: 90 seconds are
    ``90s``, and 120 seconds are ``2m``.
    """
    for letter, length in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{letter}"
    return f"{seconds}s"


def fail(error: object) -> NoReturn:
    """Print an error and exit with status 1.

    Control characters in the error are escaped, because the error may contain
    forged names.
    """
    lines = map(shown, str(error).split("\n"))
    text = "\n".join(lines)
    click.echo(f"imserver: {text}", err=True)
    sys.exit(1)


def given_once(name: str, argument: str | None, option: str | None) -> str | None:
    """Return a value that may be an argument or an option.

    The result is None if neither is given. If both have different values, the
    command ends with an error. ``name`` is the name of the value, for the
    error.
    """
    if argument is not None and option is not None and argument != option:
        raise click.UsageError(f"{name} is given twice: {argument} and {option}")
    if argument is None:
        return option
    return argument


def required_once(name: str, argument: str | None, option: str | None) -> str:
    """Return a required value that may be an argument or an option.

    If neither is given, the command ends with an error.
    """
    value = given_once(name, argument, option)
    if value is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    return value


def read_text(path: str) -> str:
    """Return the text of a file; ``-`` is standard input.

    If the file cannot be read, the command ends with an error.
    """
    try:
        if path == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror or 'it is not UTF-8 text'}")
    except UnicodeDecodeError:
        fail(f"{path} cannot be read: it is not UTF-8 text")


def read_key(path: str | None) -> str:
    """Return the API key in a file, or else in the environment.

    The result is ``""`` if there is no key.
    """
    if path is None:
        key = os.environ.get(ENVIRONMENT_KEY, "")
    else:
        key = read_text(path).strip()
    # The key is sent in a header.
    if not (key.isascii() and key.isprintable()):
        fail("the API key: expected one line of printable ASCII")
    return key


def server_address(url: str) -> str:
    """Return the address of a server, from an option.

    If the option has no scheme, the result begins with ``http://``. The address
    of a Unix socket, such as ``unix:/run/imserver/im.sock``, does not change.
    If the option is no address, the command ends with an error.
    """
    if url.startswith("unix:/"):
        return url
    address = url
    if "://" not in url:
        address = f"http://{url}"
    if _is_http_address(address):
        return address
    fail(f"{url}: expected an http:// or https:// address")


def _is_http_address(address: str) -> bool:
    """Tell whether a client can connect to an address."""
    if not address.isprintable() or " " in address:
        return False
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:  # the port or the brackets are wrong
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


_ANSWER_SECONDS: Final = 30.0
"""Time limit of a request of a command."""


def request_json(
    url: str,
    method: str,
    path: str,
    key: str,
    body: bytes = b"",
    seconds: float = _ANSWER_SECONDS,
) -> tuple[int, Any]:
    """Send a request to a running server.

    Returns the status and the JSON of the answer. The JSON is None if the body
    is empty. If there is no answer, the command ends. ``url`` is the address of
    the server, from :func:`server_address`. ``key`` is the API key. ``""``
    means that the request has no key.
    """
    # Imported here: a node saves the memory.
    from http import client

    parts = urlsplit(url)
    connection = _make_connection(parts, seconds)
    try:
        if parts.scheme == "unix":
            connection.sock.connect(parts.path)
        whole_path = _path_below(parts, path)
        connection.request(method, whole_path, body or None, _headers_of(key, body))
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read() or b"null")
    except client.HTTPException:  # its text may have bytes that a terminal obeys
        _fail_unanswered(url, "the answer is not HTTP")
    except OSError as error:
        _fail_unanswered(url, error.strerror or error)
    except ValueError as error:
        _fail_unanswered(url, error)
    finally:
        connection.close()


def _fail_unanswered(url: str, reason: object) -> NoReturn:
    """End the command, because the server at a URL does not answer."""
    fail(f"{url} does not answer: {reason}")


def _make_connection(parts: SplitResult, seconds: float) -> "HTTPConnection":
    """Make a connection to the server of a URL.

    The connection is not open yet. ``parts`` are the parts of the URL.
    ``seconds`` is how long each operation may take.
    """
    # Imported here: a node saves the memory.
    from http import client

    kind: type[HTTPConnection] = client.HTTPConnection
    if parts.scheme == "https":
        kind = client.HTTPSConnection
    connection = kind(parts.hostname or "localhost", parts.port, timeout=seconds)
    if parts.scheme == "unix":
        # The library connects only if the connection has no socket yet.
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(seconds)
    return connection


def _path_below(parts: SplitResult, path: str) -> str:
    """Return a path of the API below the path of the server's URL.

    ``parts`` are the parts of the URL. If the URL names a Unix socket, its path
    is the path of the socket.
    """
    if parts.scheme == "unix":
        return path
    return parts.path.rstrip("/") + path


def _headers_of(key: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request with JSON.

    ``key`` is the API key. ``""`` means that the request has no key.
    """
    headers = {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if body:
        headers["Content-Type"] = "application/json"
    return headers


def lines_of(
    columns: str, rows: Iterable[Any], **texts: Callable[[Any], object]
) -> list[list[str]]:
    """Make the texts of a :func:`table`: its heads, then the cells of each row.

    :func:`table` explains the arguments. Characters that could control a
    terminal are escaped.
    """
    heads = []
    fields = []
    # "from: used_from" has a head of its own, and "first failed" is the field
    # first_failed.
    for column in columns.split(", "):
        head, _, name = column.rpartition(": ")
        heads.append(head or name)
        fields.append(name.replace(" ", "_"))

    lines = [heads]
    for row in rows:
        lines.append([_cell(row, field, texts.get(field, str)) for field in fields])
    return lines


def _cell(row: Any, field: str, text_of: Callable[[Any], object]) -> str:
    """Make the text of a cell: a field of a row, in the words of
    ``text_of``."""
    return shown(str(text_of(getattr(row, field))))


def table(columns: str, rows: Iterable[Any], **texts: Callable[[Any], object]) -> str:
    """Format rows, which are structs, as aligned columns.

    ``columns`` are the fields that are printed, in order, as ``id, first
    failed, from: used_from``. The head of a column is the name of its field,
    with spaces, or the text before the colon. ``texts`` is field → the function
    that makes a text of its value. Without such a function, ``str()`` makes the
    text.
    """
    lines = lines_of(columns, rows, **texts)
    # Each column is as wide as its widest cell.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


_AS_JSON: Final = "imserver.json"
"""The key under which the context of a command keeps ``--json``."""


def _note_json(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Remember in the context of a command whether ``--json`` was given."""
    context.meta[_AS_JSON] = wanted


class _DeprecatedOption(NamedTuple):
    """An option whose value is a number of units, and which another option
    replaces."""

    name: str
    unit: int
    """How many seconds a unit has."""
    new_name: str
    """The option that replaces the deprecated option."""
    kind: Duration
    """The type of the new option."""
    key: str
    """The key of the deprecated option's value in the context of the
    command."""

    def note(
        self, context: click.Context, option: click.Parameter, number: int | None
    ) -> None:
        """Convert the value of the deprecated option, and remember it."""
        # click calls this before prefer(), because the deprecated option is
        # eager.
        if number is not None:
            text = in_words(number * self.unit)
            seconds = self.kind.convert(text, option, context)
            deprecated_form(self.name, f"{self.new_name} {in_words(seconds)}")
            context.meta[self.key] = seconds

    def prefer(
        self, context: click.Context, _option: click.Parameter, value: int | None
    ) -> int | None:
        """Return the value of the deprecated option, if it was given."""
        seconds: int | None = context.meta.pop(self.key, value)
        return seconds


def _hidden_option(
    name: str, field: str, note: Callable[[click.Context, click.Parameter, Any], None]
) -> Callable[[Command], Command]:
    """Make a deprecated option, whose value is a number.

    click parses this option before all other options, and calls ``note`` with
    the number, or with None if the option was not given. The function of the
    command does not get the number.
    """
    return click.option(
        name,
        field,
        type=int,
        hidden=True,
        is_eager=True,
        expose_value=False,
        callback=note,
    )


class CommandLine:
    """The common parts of commands: options, and the printing of data."""

    @staticmethod
    def prints_data(command: Command) -> Command:
        """Decorate a command with the option ``--json``.

        :meth:`data` and :meth:`rows` obey it.
        """
        return click.option(
            "--json",
            is_flag=True,
            expose_value=False,
            callback=_note_json,
            help="Print the result as JSON.",
        )(command)

    @staticmethod
    def wants_json() -> bool:
        """Tell whether the command was called with ``--json``."""
        context = click.get_current_context(silent=True)
        return context is not None and bool(context.meta.get(_AS_JSON))

    @staticmethod
    def data(value: Any, text: str) -> None:
        """Print this text, or the value as JSON with ``--json``."""
        if CommandLine.wants_json():
            click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
        elif text:
            click.echo(text)

    @staticmethod
    def yaml(value: Any) -> None:
        """Print a value as YAML, or as JSON with ``--json``."""
        # Imported here, because most commands print no YAML.
        from imserver.gateway.config.yaml import write_yaml

        CommandLine.data(value, write_yaml(value).rstrip("\n"))

    @staticmethod
    def rows(
        columns: str, rows: Iterable[Any], **texts: Callable[[Any], object]
    ) -> None:
        """Print rows, which are structs, as aligned columns with a head.

        With ``--json``, print an array of objects with these fields.
        ``columns`` are the fields in order, as ``id, first failed, from:
        used_from``. The head of a column is the name of its field, with spaces,
        or the text before the colon. ``texts`` is field → the function that
        makes a text of its value for people.
        """
        rows = list(rows)
        fields = [
            column.rpartition(": ")[2].replace(" ", "_")
            for column in columns.split(", ")
        ]
        plain = []
        for row in rows:
            plain.append({field: getattr(row, field) for field in fields})
        CommandLine.data(plain, table(columns, rows, **texts))

    @staticmethod
    def duration(
        name: str,
        field: str,
        text: str,
        default: str | None = None,
        least: int = 1,
        most: int | None = None,
        old: str = "",
        unit: int = 0,
    ) -> Callable[[Command], Command]:
        """Decorate a command with an option that is a time span, such as
        ``10m``.

        ``name`` is the option, and ``field`` the argument of the command's
        function, which gets seconds. ``text`` is the help of the option.
        ``least`` and ``most`` are the limits of the seconds.

        ``old`` is the name of a deprecated option. The value of that option is
        a number of units of ``unit`` seconds. ``""`` means that there is no
        such option. If ``unit`` is given without ``old``, the option ``name``
        itself accepts such a number. This form is deprecated, too.
        """
        kind = Duration(least, most, unit)
        if old:
            kind = Duration(least, most)
        key = f"{__name__}.{field}"
        deprecated = _DeprecatedOption(old, unit, name, kind, key)

        def add(command: Command) -> Command:
            """Add the option, and the deprecated one, to a command."""
            option = click.option(
                name,
                field,
                type=kind,
                default=default,
                show_default=default is not None,
                metavar="TIME",
                help=text,
                callback=deprecated.prefer,
            )
            if not old:
                return option(command)
            hidden = _hidden_option(old, f"old_{field}", deprecated.note)
            return option(hidden(command))

        return add
