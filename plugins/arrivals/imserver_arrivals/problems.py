"""The parts of an archive that an import does not understand, cannot read or
cannot store."""

from collections import Counter
from typing import Final

from imserver.plugin.errors import ImserverError

MOST_BROKEN: Final = 20
"""Broken parts that are named. The others are counted."""

MOST_CHARACTERS: Final = 500
NAME_CHARACTERS: Final = 60
"""Limit of a name of an archive in the report."""
MOST_KINDS: Final = 200
"""The most kinds that are counted apart: an archive may have any number."""


class BadArchive(ImserverError):
    """This is no archive of the format."""


class BrokenArchive(BadArchive):
    """The archive cannot be read, whatever its format: it is cut, is too large,
    or needs a library."""


class Problems:
    """Counts the parts that cannot be read or are not understood, by kind, and
    has the first broken ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Kind → how often."""
        self.of_groups: dict[str, Counter[str]] = {}
        """Id of a group → the same, of what was in it."""
        self.of_people: dict[str, Counter[str]] = {}
        """Id of a person → the same, of what was theirs."""
        self.broken: list[str] = []
        self.lost_messages = 0
        """Messages that the archive has and that do not come."""
        self.has_lost_fields = False

    def note(
        self, kind: str, *, group: str = "", person: str = "", count: int = 1
    ) -> None:
        """Count something that is not understood or does not come, and whose it
        was, for the report."""
        kind = _printable(kind)[:MOST_CHARACTERS]
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
        """Count messages that the archive has and that do not come: then the
        command ends with 1."""
        self.note(kind, group=group, person=person, count=count)
        self.lost_messages += count

    def note_field(self, where: str, field: str) -> None:
        """Count a field that is left out, because its type is wrong. Its record
        comes."""
        self.note(f"field {field} of {where}: its type is wrong (left out)")
        self.has_lost_fields = True

    def note_broken(self, where: str, error: object, *, messages: int = 0) -> None:
        """Note something that cannot be read. ``messages``: how many messages
        go with it."""
        self.lost_messages += messages
        self.counts["broken"] += 1
        if len(self.broken) < MOST_BROKEN:
            self.broken.append(_printable(f"{where}: {error}")[:MOST_CHARACTERS])


def _printable(text: str) -> str:
    """A text for a terminal: names in an archive may be commands to it."""
    return "".join(map(_printable_sign, text))


def _printable_sign(sign: str) -> str:
    if sign.isprintable():
        return sign
    return "\N{REPLACEMENT CHARACTER}"
