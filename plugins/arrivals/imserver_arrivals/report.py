"""Prints the contents of an archive and the parts that are not imported, and
writes the tables of an import."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Final

import click

from imserver.plugin.commands import fail
from imserver.plugin.wire import Limit

from .problems import Problems
from .records import Archive, Group, Person
from .survey import Activity, Survey
from .text import SECOND_MS
from .writing import open_private

_KINDS: Final = (
    ("open", "groups that anybody may join"),
    ("closed", "groups for invited people"),
    ("several", "direct conversations of several people"),
    ("direct", "direct conversations of two"),
    ("message", "messages"),
    ("reply", "replies in threads"),
    ("reaction", "reactions"),
    ("change", "joins, leaves, renames and descriptions"),
    ("file", "files"),
    ("bytes", "  of these with bytes"),
)


_COUNTS: Final = ("message", "reply", "reaction", "file", "bytes")
"""The columns of the report with numbers."""


def _day(moment_ms: int) -> str:
    """Return the day of a time, such as ``2024-01-20``."""
    seconds = min(moment_ms, Limit.TIME_MS) / SECOND_MS
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def print_survey(archive: Archive, contents: Survey) -> None:
    """Print how many people, groups, messages and files an archive has."""
    click.echo(f"an archive of {archive.title}:")
    for words, count in _counts_of(contents):
        click.echo(f"{count:>10,}  {words}")
    if contents.last_ms:
        click.echo(
            f"            from {_day(contents.first_ms)} to {_day(contents.last_ms)}"
        )


def _counts_of(contents: Survey) -> list[tuple[str, int]]:
    """Return the numbers of people, groups and so on, each with its words."""
    members = sum(person.is_member for person in contents.people.values())
    others = len(contents.people) - members
    rows = [("people", members), ("bots, apps and people who have left", others)]
    return rows + [(words, contents.counts[kind]) for kind, words in _KINDS]


def print_problems(problems: Problems, headline: str) -> None:
    """Print under a headline the parts that were not understood or not stored.

    Ends the command with 1 if a part of the archive is broken or lost.
    """
    print_counts(problems, headline)
    for line in problems.broken:
        click.echo(f"  {line}", err=True)
    if problems.lost_messages:
        click.echo(
            f"imserver: {problems.lost_messages:,} messages of the archive are not imported",
            err=True,
        )
    # Only one of these errors is printed. That of broken parts comes first.
    if problems.broken or problems.has_lost_fields:
        fail("parts of the archive are broken; the rest was read")
    if problems.lost_messages:
        fail("some messages of the archive are not imported; the rest was read")


def print_counts(problems: Problems, headline: str) -> None:
    """Print under a headline the numbers of parts that were not understood or
    stored."""
    if problems.counts:
        click.echo(headline)
    for kind, count in sorted(problems.counts.items(), key=_most_first):
        click.echo(f"{count:>10,}  {kind}")


def _most_first(row: tuple[str, int]) -> tuple[int, str]:
    """Return the key by which the largest numbers come first."""
    kind, count = row
    return -count, kind


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file that only this user may read, because it has links or
    names.

    An existing file is replaced when the new one is complete. A pipe or a
    terminal gets the rows as they are. Raises OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as target:
            csv.writer(target).writerows(rows)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with TextIOWrapper(open_private(part), encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def report_rows(contents: Survey, problems: Problems) -> Iterator[Sequence[object]]:
    """Yield the rows of the report of an import, as cells.

    The first row has the names of the columns. Then comes a row for each
    person, and one for each group.
    """
    yield ("kind", "id", "name", "becomes", *_COUNTS, "not imported, or different")
    for person in contents.people.values():
        yield _row(
            "person",
            person.id,
            person.nickname,
            _future_of_person(person),
            counts=contents.of_people.get(person.id, Counter()),
            lost=problems.of_people.get(person.id),
        )
    for group in contents.groups.values():
        activity = contents.of_groups[group.id]
        yield _row(
            "group",
            group.id,
            group.name or _names_of(activity, contents.people),
            _future_of(group, activity),
            counts=activity.counts,
            lost=problems.of_groups.get(group.id),
        )


def _future_of_person(person: Person) -> str:
    """Return what becomes of a person, in words."""
    if person.is_member:
        return "account"
    return f"account that nobody claims: {person.why or 'no login'}"


def _names_of(activity: Activity, people: Mapping[str, Person]) -> str:
    """Return the nicknames of a group's members, such as ``Ann, Bob``."""
    return ", ".join(people[id].nickname for id in activity.members if id in people)


def _future_of(group: Group, activity: Activity) -> str:
    """Return in words what a group of the archive becomes here."""
    if group.kind == "direct":
        return "conversation of two"
    if not activity.owner:
        return "nothing"
    if activity.lacks_members:
        return "group of the people who wrote in it"
    return "group"


def _row(
    kind: str,
    id: str,
    name: str,
    becomes: str,
    counts: Counter[str],
    lost: Counter[str] | None,
) -> Sequence[object]:
    """Return a row of the report.

    ``lost``: kind of a problem → number, or None if there was none.
    """
    rows = sorted((lost or Counter()).items())
    texts = [f"{reason}: {count}" for reason, count in rows]
    numbers = [counts[column] for column in _COUNTS]
    return (kind, _cell(id), _cell(name), becomes, *numbers, "; ".join(texts))


def _cell(text: str) -> str:
    """Return a text as a cell of a CSV file.

    A spreadsheet takes a cell such as ``=A1`` for a formula, so it gets a
    quote.
    """
    if text.startswith(tuple("=+-@\t\r")):
        return f"'{text}"
    return text
