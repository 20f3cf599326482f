"""``imserver moderate``: acts of moderators, as commands that call a running
server."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from time import time
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from msgspec import Struct, convert

from imserver.operate.safety.declared import Outcome
from imserver.plugin.commands import CommandLine, ServerApi, fail

if TYPE_CHECKING:
    from imserver.operate.safety.moderation import UserHold
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_YEAR: Final = 366 * _DAY
_SECOND_MS: Final = 1000
_SHOWN_CHARACTERS: Final = 60
"""How many characters of a reported text a list shows."""
_reason: Final = click.option(
    "--reason", default="", help="The reason, which the user sees."
)
_app: Final = click.argument("app")
_person: Final = click.argument("person", nargs=-1, metavar="APP/USER")


@click.group(short_help="Delete messages, mute and ban users, list reports.")
def moderate() -> None:
    """Delete messages, warn, mute, remove and ban users, and list, show and
    close reports.

    The server must run. If the server requires an API key, set the environment
    variable IMSERVER_KEY or use --key-file.
    """


def _command(function: Callable[..., None]) -> click.Command:
    """A decorator that makes a command of ``moderate`` from a function.

    It adds the options for the server, such as ``--key-file``. The function
    gets its own options and arguments; it finds the server by :func:`_server`.
    """

    @wraps(function)
    def run(url: str, key_file: str | None, **options: Any) -> None:
        click.get_current_context().obj = ServerApi(url, key_file)
        function(**options)

    return moderate.command()(ServerApi.options(run))


def _server() -> ServerApi:
    """The API of the server to which this command speaks."""
    return click.get_current_context().obj  # type: ignore[no-any-return]


def _ask(path: str, **fields: object) -> Any:
    """Send a POST request, and return its answer.

    Empty texts are left out of the request.
    """
    request = {name: value for name, value in fields.items() if value != ""}
    return _server().post(path, request)


def _ask_of(path: str, app: str, user: str, **fields: object) -> tuple[Any, str]:
    """Send a POST request about a user; returns its answer, and the name to
    show.

    ``user`` is an id, or the login of an account.
    """
    user, name = _server().whom(app, user)
    return _ask(path, app=app, user=user, **fields), name


# --- messages -----------------------------------------------------------------


@_command
@_reason
@_app
@click.argument("messages", nargs=-1, required=True, type=int)
def delete(app: str, messages: Sequence[int], reason: str) -> None:
    """Delete messages for everybody. For a minute, you can undo the
    deletion."""
    _say_removal(_ask("moderation/delete", app=app, messages=messages, reason=reason))


@_command
@_reason
@_app
@click.argument("messages", nargs=-1, required=True, type=int)
def hide(app: str, messages: Sequence[int], reason: str) -> None:
    """Hide messages from everybody until a moderator decides."""
    _say_removal(_ask("moderation/hide", app=app, messages=messages, reason=reason))


@_command
@CommandLine.duration(
    "--since",
    "seconds",
    "The period whose messages are deleted, up to now.",
    "1d",
    least=_HOUR,
    most=_YEAR,
    old="--hours",
    unit=_HOUR,
)
@click.option("--count", is_flag=True, help="Only count the messages.")
@CommandLine.prints_data
@_reason
@_person
def clear(person: Sequence[str], seconds: int, count: bool, reason: str) -> None:
    """Delete the messages of a user for everybody. For a minute, you can undo
    the deletion."""
    app, user = ServerApi.person(person)
    since = int(time()) - seconds
    if count:
        _count(app, user, since)
        return
    answer, name = _ask_of("moderation/clear", app, user, since=since, reason=reason)
    _say_removal(
        answer, none=f"{name} has sent no message in this period", of=f" of {name}"
    )


def _count(app: str, user: str, since: int) -> None:
    """Print how many messages a user has sent since a Unix second.

    ``user`` is an id, or the login of an account.
    """
    user, name = _server().whom(app, user)
    query = {"app": app, "user": user, "since": str(since)}
    answer = _server().get("moderation/count", query)
    CommandLine.data(answer, f"messages of {name}: {answer['count']}")


@_command
@_app
@click.argument("act")
def undo(app: str, act: str) -> None:
    """Restore deleted or hidden messages."""
    answer = _ask("moderation/undo", app=app, act=act)
    if answer["done"]:
        click.echo("the messages are restored")
    else:
        click.echo("the messages are being restored")


# --- users --------------------------------------------------------------------


@_command
@click.option(
    "--reason", required=True, help="The text of the warning, which the user sees."
)
@_person
def warn(person: Sequence[str], reason: str) -> None:
    """Send a warning to a user."""
    app, user = ServerApi.person(person)
    _, name = _ask_of("moderation/warn", app, user, reason=reason)
    click.echo(f"{name} is warned")


@_command
@CommandLine.duration(
    "--for",
    "seconds",
    "The duration of the mute.",
    "1h",
    most=_YEAR,
    old="--seconds",
    unit=1,
)
@_reason
@_person
def mute(person: Sequence[str], seconds: int, reason: str) -> None:
    """Stop a user from sending messages in an app for a time."""
    app, user = ServerApi.person(person)
    answer, name = _ask_of("moderation/mute", app, user, seconds=seconds, reason=reason)
    click.echo(f"{name} is muted until {_when(answer['until'])}")


@_command
@_person
def unmute(person: Sequence[str]) -> None:
    """Let a muted user send again."""
    app, user = ServerApi.person(person)
    _, name = _ask_of("moderation/unmute", app, user)
    click.echo(f"{name} may send")


@_command
@_reason
@click.argument("words", nargs=-1, metavar="APP/USER GROUP")
def remove(words: Sequence[str], reason: str) -> None:
    """Remove a user from a group, and from its invitation links."""
    expected = "APP/USER GROUP"
    if len(words) < 2:
        given = " ".join(words)
        raise click.UsageError(f"expected {expected}, got {given!r}")
    person, group = _person_and_group(words)
    app, user = ServerApi.person(person, expected)
    _, name = _ask_of("moderation/remove", app, user, group=group, reason=reason)
    click.echo(f"{name} is no member of group {group} any more")


def _person_and_group(words: Sequence[str]) -> tuple[Sequence[str], str]:
    """Split ``APP/USER GROUP`` into the words of the person, and the group.

    ``APP GROUP USER`` is an older form.
    """
    if len(words) == 2:
        person, group = words
        return [person], group
    app, group, *users = words
    return [app, *users], group


@_command
@CommandLine.duration(
    "--for",
    "seconds",
    "The duration of the ban. 0 means for good.",
    "0",
    least=0,
    most=_YEAR,
    old="--seconds",
    unit=1,
)
@_reason
@_person
def ban(person: Sequence[str], seconds: int, reason: str) -> None:
    """End the sessions of a user and refuse logins."""
    app, user = ServerApi.person(person)
    answer, name = _ask_of("moderation/ban", app, user, seconds=seconds, reason=reason)
    closed = answer["closed"]
    until = answer["until"]
    end = "for good"
    if until is not None:
        end = f"until {_when(until)}"
    click.echo(f"{name} is banned {end}; sessions ended: {closed}")


@_command
@_person
def unban(person: Sequence[str]) -> None:
    """Let a banned user log in again."""
    app, user = ServerApi.person(person)
    _, name = _ask_of("moderation/unban", app, user)
    click.echo(f"{name} may log in")


@_command
@CommandLine.prints_data
@_app
def holds(app: str) -> None:
    """List the banned and muted users, with the end and the reason."""
    rows, names = _read_holds(app)
    if not rows:
        CommandLine.data([], "nobody is banned or muted")
        return

    def user(id: str) -> str:
        """The column of the banned or muted user."""
        return _named(id, names)

    def by(label: str) -> str:
        """The column of the moderator, whose label is such as ``staff:shop/7``."""
        return names.get(label.rpartition("/")[2], label)

    def until(seconds: int | None) -> str:
        """The column of the end."""
        if seconds is None:
            return "for good"
        return _when(seconds)

    columns = "user, kind, until, by, reason"
    CommandLine.rows(columns, rows, user=user, by=by, until=until)


def _read_holds(app: str) -> tuple[list["UserHold"], dict[str, str]]:
    """All bans and mutes in an app, and user → name."""
    # Imported here: no other command needs it.
    from imserver.operate.safety.moderation import UserHold

    rows: list[UserHold] = []
    names: dict[str, str] = {}
    cursor = ""  # the first page
    while True:
        query = {"app": app, "limit": "200", "cursor": cursor}
        answer = _server().get("moderation/holds", query)
        rows += convert(answer["holds"], list[UserHold])
        names |= answer["names"]
        cursor = answer["next"]
        if cursor == "":
            return rows, names


# --- reports ------------------------------------------------------------------


class _ReportLine(Struct):
    """A report as ``reports`` lists it."""

    id: str
    kind: str
    about: str
    reasons: str
    by: str
    age: str
    text: str


@_command
@CommandLine.prints_data
@_app
def reports(app: str) -> None:
    """List the newest open reports and appeals of an app."""
    answer = _server().get("reports", {"app": app, "limit": "200"})
    lines = [_report_line(row, answer["names"]) for row in answer["reports"]]
    if lines:
        CommandLine.rows("id, kind, about, reasons, by, age, text", lines)
    else:
        CommandLine.data([], "no report is open")


@_command
@CommandLine.prints_data
@_app
@click.argument("report")
def report(app: str, report: str) -> None:
    """Show a report or an appeal in full, with the messages around it."""
    row = _server().get("reports/show", {"app": app, "id": report})
    if CommandLine.wants_json():
        CommandLine.data(row, "")
    else:
        _say_report(row)


def _say_report(row: Mapping[str, Any]) -> None:
    """Print a report as the server answers it, with the messages around it."""
    names = row["names"]
    line = _report_line(row, names)
    _say(f"{line.id}: {line.kind} of {line.about}, {line.age} old")
    if row["ban"]:
        _say(row["ban"])
    for hold in row["holds"]:
        if hold["kind"] == "mute":
            _say_mute(hold)
    for reporter in row["people"]:
        _say_reporter(reporter, names)
    if row["evidence"]:
        _say_evidence(row["evidence"])
    for message in row["messages"]:
        _say_message(message, names)
    if row["closed"]:
        _say_closing(row)


def _say_evidence(text: str) -> None:
    """Print the text of a message at the first report.

    The message may have changed since.
    """
    _say("the message said:")
    lines = text.splitlines()
    _say(*lines, indent="  ")


def _say_closing(row: Mapping[str, Any]) -> None:
    """Print who has closed a report, and with which outcome."""
    when = _when(row["closed"])
    by = row["closed_by"]
    _say(f"closed {when} by {by}: {row['outcome']}", row["note"])


def _say_mute(hold: Mapping[str, Any]) -> None:
    """Print the end and the reason of a mute of a reported user."""
    end = _when(hold["until"])
    text = f"muted until {end}"
    reason = hold["reason"]
    if reason:
        text += f": {reason}"
    _say(text)


def _say_reporter(reporter: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Print the name of a reporter, and the reason of the report."""
    when = _when(reporter["time"])
    who = _named(reporter["user"], names)
    reason = reporter["reason"]
    _say(f"{when}  {who}: {reason}")
    lines = reporter["text"].splitlines()
    _say(*lines, indent="  ")


def _say_message(message: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Print one of the messages around a reported one."""
    text = message.get("text", "")
    if message.get("removed"):
        text = "removed"
    id = message["id"]
    when = _when(message["time"] // _SECOND_MS)
    sender = _named(message["sender"], names)
    _say(f"{id}  {when}  {sender}: {text}")


@_command
@click.option(
    "--outcome",
    type=click.Choice(get_args(Outcome)),
    required=True,
    help="The decision about the report.",
)
@click.option("--note", default="", help="A note for other moderators.")
@_app
@click.argument("report")
def close(app: str, report: str, outcome: str, note: str) -> None:
    """Close a report."""
    _ask("reports/close", app=app, id=report, outcome=outcome, note=note)
    click.echo(f"report {report} is closed")


def _say_removal(
    answer: Mapping[str, Any], none: str = "none of these messages exists", of: str = ""
) -> None:
    """Print the result of a removal of messages.

    ``none`` is the text of the error if no message was removed. ``of`` has the
    words about the sender, such as `` of Ann``.
    """
    count = answer["messages"]
    is_done = answer["done"]
    if is_done and not count:
        fail(none)
    so_far = ""
    if not is_done:
        so_far = " so far; the server goes on"
    end = ""
    if answer["until"]:
        end = f" until {_when(answer['until'])}"
    act = answer["act"]
    click.echo(f"removed messages{of}: {count}{so_far}; the id for undo{end}: {act}")


def _report_line(row: Mapping[str, Any], names: Mapping[str, str]) -> _ReportLine:
    """The line of a report in a list.

    ``row`` is the report as the server answers it. ``names`` is user → name.
    """
    kind, reasons, by = _words_of(row)
    first_line = next(iter(row["evidence"].splitlines()), "")
    return _ReportLine(
        id=row["id"],
        kind=kind,
        about=_named(row["user"], names),
        reasons=reasons,
        by=by,
        age=_age(time() - row["opened"]),
        text=first_line[:_SHOWN_CHARACTERS],
    )


def _words_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """The kind of a report, the reasons, and who has made it.

    Examples are ``("message 7", "spam", "2 users")`` and ``("appeal", "",
    "themselves")``.
    """
    if row["appeal"]:
        # The banned user asks for an end of the ban. Other users have no part
        # in an appeal.
        return "appeal", "", "themselves"
    kind = "person"
    if row["message"]:
        kind = f"message {row['message']}"
    count = row["reporters"]
    by = f"{count} user" if count == 1 else f"{count} users"
    return kind, ", ".join(row["reasons"]), by


def _age(seconds: float) -> str:
    """An age in its largest unit: ``3 d``, ``5 h`` or ``20 min``."""
    for unit, length in (("d", _DAY), ("h", _HOUR)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0) // _MINUTE:.0f} min"


def _named(user: str, names: Mapping[str, str]) -> str:
    """A user with their name, such as ``Ann (7)``; without a name, only the id."""
    if user in names:
        return f"{names[user]} ({user})"
    return user


def _say(*lines: str, indent: str = "") -> None:
    """Print the lines that are not empty.

    They have texts of strangers. Characters that could control a terminal are
    replaced.
    """
    for line in filter(None, lines):
        safe = "".join(
            letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for letter in line
        )
        click.echo(indent + safe)


def _when(seconds: int) -> str:
    """A Unix second as text, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
