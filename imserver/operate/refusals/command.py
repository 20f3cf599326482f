"""``imserver why``: shows why somebody was refused, and lifts the limits that
refuse them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import time
from typing import Any, Final

import click

from imserver.plugin.commands import CommandLine, ServerApi, fail

_MINUTE: Final = 60
_HOUR: Final = 3600
_YEAR: Final = 366 * 24 * _HOUR
_KINDS: Final = {
    "ban": "banned",
    "mute": "muted",
    "lock": "locked",
    "erasure": "to be erased",
}


@click.command(short_help="Show why a user or client was refused, and lift the limits.")
@ServerApi.options
@CommandLine.prints_data
@click.option(
    "--address",
    default="",
    metavar="ADDR",
    help="Only refusals of clients at this address.",
)
@click.option(
    "--request",
    default="",
    metavar="ID",
    help="Only the refusal of this request or connection.",
)
@click.option(
    "--lift",
    is_flag=True,
    help="Lift the bans, mutes, locks and rates that refuse the user or the address now.",
)
@click.argument("whom", metavar="[APP[/USER]]", default="")
def why(
    url: str, key_file: str | None, address: str, request: str, lift: bool, whom: str
) -> None:
    """Show why a user was refused within the last hour, and which limits refuse
    the user now.

    USER is a user id, or the phone number, e-mail address or name with which an
    account logs in. Without USER, the refusals of the app are listed. Without
    APP, the refusals of all apps are listed.

    The server must run. If the server requires an API key, the command uses the
    key of the settings file of this folder, of the environment variable
    IMSERVER_KEY, or of --key-file.
    """
    app, _, user = whom.partition("/")
    if lift and not (app and (user or address)):
        raise click.UsageError("--lift needs APP/USER, or APP and --address.")
    api = ServerApi(url, key_file)
    query = {"app": app, "user": user, "address": address}
    if lift:
        _lift(api, query)
    else:
        _explain(api, {**query, "request": request}, whom)


def _lift(api: ServerApi, query: Mapping[str, str]) -> None:
    """Lift the limits of a user or address, and print which were lifted.

    Also print the limits that stay, and how to end them.
    """
    app = query["app"]
    if query["user"]:
        # Ends the command if there is no such account.
        api.whom(app, query["user"])
    answer = api.post("limits/lift", query)
    holds = api.get("refusals", query)["holds"]
    mutes = _lift_mutes(api, app, holds)
    remaining = [hold for hold in holds if hold not in mutes]

    lines = _lines_after_lift(app, [*answer["lifted"], *mutes], remaining)
    _say(lines or ["No limit is in force now."], answer)


def _lines_after_lift(
    app: str,
    lifted: Sequence[Mapping[str, Any]],
    remaining: Sequence[Mapping[str, Any]],
) -> list[str]:
    """The limits that were lifted, and the remaining limits with the commands
    that end them."""
    lines = _hold_lines(lifted)
    if lines:
        lines.insert(0, "Lifted")
    if remaining:
        lines += ["Still in force", *_hold_lines(remaining)]
        lines += _undo_commands(app, remaining)
    return lines


def _lift_mutes(
    api: ServerApi, app: str, holds: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Lift the mutes in the whole app among holds, and return them.

    The route that lifts other limits does not lift mutes. A mute in one group
    stays: only owners and admins of the group lift it.
    """
    mutes = [
        hold for hold in holds if hold["kind"] == "mute" and not _is_of_group(hold)
    ]
    for hold in mutes:
        api.post("moderation/unmute", {"app": app, "user": hold["who"]})
    return mutes


def _explain(api: ServerApi, query: Mapping[str, str], whom: str) -> None:
    """Print which limits refuse somebody now, and what was refused before.

    ``query`` are the parameters of the request. ``whom`` is ``APP/USER`` as it
    was typed; the user may be a login. Ends the command if nothing is found,
    and no account has this login.
    """
    app = query["app"]
    user = query["user"]
    answer = api.get("refusals", query)
    holds = answer["holds"]
    refusals = answer["refusals"]
    # Other ids than the typed text show that it was a login.
    ids = [id for id in answer["users"] if id != user]

    lines: list[str] = []
    if ids:
        # An empty line ends each section.
        lines += [f"{user} is account {', '.join(ids)} of {app}.", ""]
    if holds:
        lines += _lines_of_now(app, holds, whom, query["address"])
    if refusals:
        lines += _history_lines(refusals, whom, shows_end=bool(holds))
    elif not holds:
        if user and not ids:
            # Ends the command if there is no such account.
            api.whom(app, user)
        lines.append(
            "Nothing was refused within the last hour, and no limit is in force now."
        )
    _say(lines, answer)


def _history_lines(
    refusals: Iterable[Mapping[str, Any]], whom: str, shows_end: bool
) -> Iterator[str]:
    """The refusals within the last hour. Each has a few lines, with an empty
    line before them."""
    yield "Refusals within the last hour, the latest first"
    for row in refusals:
        yield ""
        yield from _refusal_lines(row, whom, shows_end)


def _lift_command(
    holds: Sequence[Mapping[str, Any]], whom: str, address: str
) -> Iterator[str]:
    """A line with the command that lifts these limits.

    It lifts neither erasures nor mutes in one group. If nothing else is in
    force, there is no line.
    """
    liftable = [
        hold for hold in holds if hold["kind"] != "erasure" and not _is_of_group(hold)
    ]
    if not liftable:
        return
    what = "all limits"
    if len(liftable) < len(holds):
        what = "the other limits"
    option = ""
    if address:
        option = f" --address {address}"
    yield f"  To lift {what}: imserver why {whom}{option} --lift"


def _say(lines: Iterable[str], answer: Mapping[str, Any]) -> None:
    """Print lines, or with ``--json`` the answer of the server.

    Ends the command with an error if nodes are missing in the answer. The lines
    have texts of strangers, which must not control the terminal.
    """
    CommandLine.data(answer, "\n".join(map(_safe, lines)))
    missing = answer["missing_nodes"]
    if missing:
        fail(f"these nodes did not answer: {', '.join(missing)}")


def _safe(line: str) -> str:
    """A line without control sequences for a terminal."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for letter in line
    )


def _hold_lines(holds: Iterable[Mapping[str, Any]]) -> list[str]:
    """The limits that refuse somebody (*holds*), in one or two lines each.

    An example: ``banned  ann until 2026-11-26 08:30:00 UTC (in 5 min)``, and
    below it the reason of the ban.
    """
    lines = []
    for hold in holds:
        kind = _KINDS.get(hold["kind"], hold["kind"])
        lines.append(f"  {kind}  {hold['who']}{_end_of(hold)}")
        detail = _detail_of(hold)
        if detail:
            lines.append(f"        {detail}")
    return lines


def _end_of(hold: Mapping[str, Any]) -> str:
    """When a limit ends, as words with a space before them.

    ``until`` is 0 if a limit lasts until somebody lifts it. For an erasure,
    ``until`` is the time at which the erasure begins. If the erasure has begun,
    ``until`` is 0, and the words are ``""``.
    """
    if not hold["until"] and hold["kind"] != "erasure":
        return " for good"
    return _until(hold["until"])


def _detail_of(hold: Mapping[str, Any]) -> str:
    """The second line about a limit: what a rate counts, or the reason.

    ``""`` if nobody has given a reason.
    """
    detail: str = hold["detail"]
    if hold["kind"] == "rate":
        return f"{hold['name']}: {detail}"
    if _is_of_group(hold):
        return (
            f"in group {detail}: the owner or an admin of the group can lift the mute"
        )
    return detail


def _is_of_group(hold: Mapping[str, Any]) -> bool:
    """Whether a hold is a mute in one group, which the owners of the group
    lift."""
    return (hold["kind"], hold["name"]) == ("mute", "group")


def _undo_commands(app: str, holds: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines with the commands that cancel planned erasures."""
    erased = (
        hold["who"] for hold in holds if hold["kind"] == "erasure" and hold["until"]
    )
    return [
        f"  To cancel the erasure: imserver erase {app}/{who} --undo" for who in erased
    ]


def _lines_of_now(
    app: str, holds: Sequence[Mapping[str, Any]], whom: str, address: str
) -> list[str]:
    """The limits in force, and the commands that end them; an empty line
    ends the section."""
    return [
        "Now",
        *_hold_lines(holds),
        *_undo_commands(app, holds),
        *_lift_command(holds, whom, address),
        "",
    ]


def _refusal_lines(row: Mapping[str, Any], whom: str, shows_end: bool) -> Iterable[str]:
    """A refusal in a few lines: when, who, why, and how to lift it.

    ``whom`` is ``APP/USER`` as it was typed. ``shows_end`` says that some limit
    refuses now, so the end of the limit is of interest.
    """
    who = ", ".join(_who(row, is_app_known=bool(whom)))
    yield f"  {_times(row)}  {row['kind']} refused: {row['reason']}  {who}"
    yield f"    {row['meaning']}"
    if row["limit"]:
        until = ""
        if shows_end:
            until = _until(row["until"])
        yield f"    Limit: {row['limit']}{until}"
    if row["detail"]:
        yield f"    Detail: {row['detail']}"
    if row["lift"]:
        yield f"    {_command_for(row['lift'], whom)}"
    if row["request"]:
        yield f"    In the log: {row['request']}"


def _command_for(command: str, whom: str) -> str:
    """The command that lifts a limit, for the user that was typed.

    The server answers with a command for ``APP/USER``. If the operator typed
    only an address, the function returns this command without a change.
    """
    if "/" in whom:
        return command.replace("APP/USER", whom)
    return command


def _times(row: Mapping[str, Any]) -> str:
    """Times and number of the refusals: ``08:30:00 to 08:31:12  4 times``."""
    last = _clock(row["last"])
    if row["count"] == 1:
        return f"{last}  once"
    return f"{_clock(row['first'])} to {last}  {row['count']} times"


def _who(row: Mapping[str, Any], is_app_known: bool) -> Iterator[str]:
    """The app, user, account and address that were refused, as far as they are
    known.

    With ``is_app_known`` the app is left out, because the operator has typed
    it.
    """
    if not is_app_known:
        yield f"app {row['app'] or '(none)'}"
    if row["user"]:
        yield f"user {row['user']}"
    if row["account"]:
        yield f"account {row['account']}"
    if row["address"]:
        yield f"from {row['address']}"


def _clock(seconds: float) -> str:
    """The time of day of a Unix second, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _until(seconds: float) -> str:
    """The words for the end of a limit, with a space before them.

    An example: `` until 2026-11-26 08:30:00 UTC (in 5 min)``. ``seconds`` is
    the Unix time of the end. Returns ``""`` if the end is unknown (0) or in the
    past.
    """
    seconds_left = seconds - time()
    if seconds_left <= 0:
        return ""
    if seconds_left > _YEAR:
        return " for good"
    end = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f" until {end} UTC (in {_in_one_unit(seconds_left)})"


def _in_one_unit(seconds: float) -> str:
    """A duration in words, such as ``90 s``, ``5 min`` or ``3 h``."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h"
