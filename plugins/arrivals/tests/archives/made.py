"""An archive of the records that a test gives."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, ClassVar

from archives.slack import PNG as PNG
from imserver_arrivals.problems import Problems
from imserver_arrivals.records import Person, Record

ANN = Person("ann", "Ann", "ann", "ann@example.org")
BOB = Person("bob", "Bob", "bob", "bob@example.org")
CAT = Person("cat", "Cat", "cat", "cat@example.org")


class Made:
    """See :class:`imserver_arrivals.records.Archive`. ``files``: id → bytes."""

    name: ClassVar = "made"
    title: ClassVar = "Made"

    def __init__(self, *records: Record | Path) -> None:
        self.problems = Problems()
        self.files: dict[str, bytes] = {}
        self._records = [each for each in records if not isinstance(each, Path)]

    def records(self) -> Iterator[Record]:
        return iter(self._records)

    def open(self, file: str) -> IO[bytes] | None:
        return BytesIO(self.files[file]) if file in self.files else None
