"""The parts of an archive that an import does not understand, cannot read or
cannot store."""

from collections import Counter
from typing import Final

from imserver.plugin.errors import ImserverError

MOST_BROKEN: Final = 20
"""The most broken parts that the report names. All others are only counted."""

MOST_CHARACTERS: Final = 500
NAME_CHARACTERS: Final = 60
"""Limit of the characters of a name in the report."""
MOST_KINDS: Final = 200
"""The most kinds that are counted separately, because an archive may have any
number of kinds."""


class BadArchive(ImserverError):
    """The archive does not have the expected format."""


class BrokenArchive(BadArchive):
    """The archive is unreadable, whatever its format: it is cut off, is too
    large, or needs a library."""


class Problems:
    """Counts the parts of an archive that are unreadable or not understood, by
    kind.

    It keeps the texts of the first broken parts for the report.
    """

    def __init__(self) -> None:
        """Begin with no problems."""
        self.counts: Counter[str] = Counter()
        """Kind → number."""
        self.of_groups: dict[str, Counter[str]] = {}
        """Id of a group → kind → number, for parts in the group."""
        self.of_people: dict[str, Counter[str]] = {}
        """Id of a person → kind → number, for parts of the person."""
        self.broken: list[str] = []
        self.lost_messages = 0
        """The number of messages in the archive that are not imported."""
        self.has_lost_fields = False
        """Whether a field was left out because its type is wrong."""

    def note(
        self, kind: str, *, group: str = "", person: str = "", count: int = 1
    ) -> None:
        """Count a part that is not understood or not imported, for the report.

        ``group`` and ``person``: the ids of those to whom the part belongs;
        ``""`` if that is unknown.
        """
        kind = _printable(kind)[:MOST_CHARACTERS]
        # The report must stay readable, and memory small.
        if len(self.counts) >= MOST_KINDS and kind not in self.counts:
            kind = "others"
        self.counts[kind] += count
        if group:
            self.of_groups.setdefault(group, Counter())[kind] += count
        if person:
            self.of_people.setdefault(person, Counter())[kind] += count

    def note_lost(
        self, kind: str, *, group: str = "", person: str = "", count: int = 1
    ) -> None:
        """Count messages of the archive that are not imported. The command then
        ends with 1."""
        self.note(kind, group=group, person=person, count=count)
        self.lost_messages += count

    def note_field(self, where: str, field: str) -> None:
        """Count a field that is left out because its type is wrong. Its record
        is imported.

        ``where``: the kind of the record, such as ``a message``.
        """
        self.note(f"field {field} of {where}: its type is wrong (left out)")
        self.has_lost_fields = True

    def note_broken(self, where: str, error: object, *, messages: int = 0) -> None:
        """Note an unreadable part. ``messages``: how many messages are lost
        with it."""
        self.lost_messages += messages
        self.counts["broken"] += 1
        if len(self.broken) < MOST_BROKEN:
            self.broken.append(_printable(f"{where}: {error}")[:MOST_CHARACTERS])


def _printable(text: str) -> str:
    """Return a text that is safe for a terminal.

    Names in an archive may contain sequences that control the terminal.
    """
    return "".join(map(_printable_sign, text))


def _printable_sign(sign: str) -> str:
    """Return a character, or the replacement character if it cannot be
    printed."""
    if sign.isprintable():
        return sign
    return "\N{REPLACEMENT CHARACTER}"
