"""``imserver slow`` and ``imserver log``."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args

import click
from msgspec import convert
from msgspec.structs import replace

from imserver.operate.watch.slow import Level, Order, Timing
from imserver.plugin.commands import CommandLine, ServerApi, fail

_WORDS: Final = {
    "Store.rows": "a query of any part of the server",
    "Runner._due": "look for work that is due",
    "_read_changes": "look for changed apps, keys and bans",
    "other": "anything else",
}
"""Names in the code → clearer words."""
_MINUTE: Final = 60
_DAY: Final = 24 * 60 * _MINUTE
_SECOND_MS: Final = 1000
_MOST_LINES: Final = 1000
_USUAL_LINES: Final = 25
_NONE: Final = "-"


def _milliseconds(seconds: float) -> str:
    """A time in seconds as ``25 ms``; ``-`` for 0."""
    if not seconds:
        return _NONE
    return f"{seconds * _SECOND_MS:.0f} ms"


def _clock(seconds: float) -> str:
    """The time of day of a Unix second, in UTC; ``-`` for 0."""
    if not seconds:
        return _NONE
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _text(text: str) -> str:
    """A text in a table; ``-`` if it is empty."""
    return text or _NONE


@click.command(short_help="Show the slowest requests and jobs of all nodes.")
@ServerApi.options
@CommandLine.prints_data
@click.option(
    "--by",
    "order",
    type=click.Choice(get_args(Order)),
    default="slowest",
    show_default=True,
    help="Sort by the slowest call of the last hour, by total seconds, or by the number of calls.",
)
@click.option(
    "--most",
    type=click.IntRange(1, _MOST_LINES),
    default=_USUAL_LINES,
    show_default=True,
    help="The maximum number of lines.",
)
def slow(url: str, key_file: str | None, order: str, most: int) -> None:
    """Show how long requests, commands, transactions and jobs took.

    Each line is for one name. If its slowest call of the last hour took 25 ms
    or more, the line also shows when this call ended (UTC), who made it, and
    its id in the log. Sums count since the start of the node.
    """
    answer = ServerApi(url, key_file).get(
        "nodes/timings", {"order": order, "limit": str(most)}
    )
    columns = "node, kind, name, count, seconds, slowest, time, by, request"
    timings = convert(answer["timings"], list[Timing])
    if not CommandLine.wants_json():
        timings = [replace(each, name=_in_words(each)) for each in timings]
    CommandLine.rows(
        columns,
        timings,
        slowest=_milliseconds,
        seconds="{:.3f}".format,
        time=_clock,
        by=_text,
        request=_text,
    )
    _end(answer)


@click.command(short_help="Let all nodes log or trace more for a limited time.")
@ServerApi.options
@CommandLine.prints_data
@click.option(
    "--part", default="", help="Only this part of the server, such as gateway.cluster."
)
@click.option(
    "--name",
    default="",
    help='Only this route or command, as "imserver slow" names it.',
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    help="The share of requests that get a log line.",
)
@click.option(
    "--trace", type=click.FloatRange(0, 1), help="The share of calls that get a trace."
)
@CommandLine.duration(
    "--for",
    "seconds",
    "The duration of the change.",
    "10m",
    least=_MINUTE,
    most=_DAY,
    old="--minutes",
    unit=_MINUTE,
)
@click.argument(
    "level", type=click.Choice([*get_args(Level), "default"]), required=False
)
def log(url: str, key_file: str | None, seconds: int, **wish: Any) -> None:
    """Set the log level of all nodes without a restart. The level "default"
    ends the change, so that the settings apply again.

    Without a level or an option, the command shows the present change and its
    end (UTC).
    """
    server = ServerApi(url, key_file)
    minutes = seconds // _MINUTE
    end = f"for {minutes} min"
    if not _given(wish):
        # Nothing is to be changed. This answer has the present change of logs.
        answer = server.get("nodes/timings", {"limit": "1"})
        wish = answer["log"] or {}
        if wish:
            until = wish.pop("until")
            end = f"until {_clock(until)}"
    else:
        answer, wish = _change_log(server, wish, seconds)
    given = _given(wish)
    CommandLine.data(given, _change_as_text(given, end))
    _end(answer)


def _change_log(
    server: ServerApi, wish: dict[str, Any], seconds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the logs of all nodes. The level ``default`` ends an earlier
    change.

    Returns the answer of the server, and the wish that applies now.
    """
    if wish["level"] == "default":
        return server.post("nodes/log", {"seconds": 0}), {}
    return server.post("nodes/log", {**wish, "seconds": seconds}), wish


def _change_as_text(given: Mapping[str, Any], end: str) -> str:
    """A change of the logs in words: ``level debug, share 0.1, for 10 min``."""
    if not given:
        return "as the settings say"
    wishes = [f"{key} {value}" for key, value in given.items()]
    return ", ".join([*wishes, end])


def _given(wish: dict[str, Any]) -> dict[str, Any]:
    """The fields of a wish that were given.

    None and ``""`` mean that a field was left out.
    """
    return {key: value for key, value in wish.items() if value not in (None, "")}


def _in_words(timing: Timing) -> str:
    """The name of a timing in words: ``PeopleStore.page`` → ``people store:
    page``.

    Requests and commands keep their names, which people know.
    """
    if timing.kind not in ("transactions", "jobs"):
        return timing.name
    before, _, work = timing.name.rpartition(".")
    owner = before.rpartition(".")[2]  # the class; "" for a function
    clearer = _WORDS.get(f"{owner}.{work}".strip("."))
    if clearer:
        return clearer
    words = _words_of(work)
    words_of_owner = _words_of(owner)
    if words_of_owner:
        words = f"{words_of_owner}: {words}"
    return words.strip()


def _words_of(name: str) -> str:
    """The words in a name of the code: ``PeopleStore`` → ``people store``."""
    # An underscore between a small letter and a capital one.
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return " ".join(apart.lower().split("_")).strip()


def _end(answer: dict[str, Any]) -> None:
    """End the command with an error if nodes are missing in the answer."""
    missing = answer["missing_nodes"]
    if missing:
        fail(f"these nodes did not answer: {', '.join(missing)}")
