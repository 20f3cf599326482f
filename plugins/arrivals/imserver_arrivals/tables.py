"""Reads files of JSON that are too large to be read as a whole: an object of
tables, a table, or several values one after the other.

A table is an array of rows. One row at a time is in memory.
"""

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import IO, Any, Final

from imserver.plugin.wire import well_formed

MOST_ROW: Final = 16 << 20
"""Limit of the characters of one row."""
_LEAST_PIECE: Final = 1 << 18
"""The least number of bytes that one read fetches."""
_SPACE: Final = re.compile(r"[ \t\r\n]*").match


class Tables:
    """Reads the tables of a JSON file, with or without a byte order mark.

    A file ``{"users": [{…}, {…}], "name": "x"}`` has one table of two rows, and
    one text. Only one row at a time is in memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Prepare to read a file. Nothing is read yet."""
        self._file = file
        self._text_of = getincrementaldecoder("utf-8-sig")("replace").decode
        self._text = ""
        """The text that was read and may be needed."""
        self._at = 0
        """The index of the next character in it."""
        self._decode = json.JSONDecoder().raw_decode
        self.texts: dict[str, str] = {}
        """Name → value, for the texts in the file that are not tables."""

    def values(self) -> Iterator[Any]:
        """Yield the values of a file with nothing between them, such as
        ``{…}{…}``.

        Raises as :meth:`rows` does.
        """
        while self._peek():
            yield self._take_value()

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield (name of the table, row) for each row of the file.

        If the file is only an array, the name is ``""``. Raises ValueError and
        RecursionError where the file is broken.
        """
        if self._next() == "[":
            yield from self._array("")
            return
        self._expect("{")
        while self._next() != "}":
            # The text after a name decides: an array is a table, and another
            # value is skipped or becomes one of the texts.
            name = str(self._take_value())
            self._expect(":")
            if self._next() == "[":
                yield from self._array(name)
            else:
                value = self._take_value()
                if isinstance(value, str):
                    self.texts[name] = value
            self._skip_comma("}")

    def _array(self, name: str) -> Iterator[tuple[str, Any]]:
        """Yield (name, row) for the rows of an array."""
        self._expect("[")
        while self._next() != "]":
            yield name, self._take_value()
            self._skip_comma("]")
        self._expect("]")

    def _skip_comma(self, end: str) -> None:
        """Skip the comma after a value.

        At the end of the array or object (``end``) there need not be one.
        Raises ValueError.
        """
        if self._next() == ",":
            self._at += 1
        elif self._text[self._at] != end:
            self._expect(",")

    def _next(self) -> str:
        """Return the next character that is not a space, without taking it.

        Raises ValueError at the end of the file.
        """
        sign = self._peek()
        if not sign:
            raise ValueError("the file ends too early")
        return sign

    def _peek(self) -> str:
        """Return the next character that is not a space, without taking it.

        ``""`` at the end of the file.
        """
        self._at = _SPACE(self._text, self._at).end()  # type: ignore[union-attr]  # it matches anything
        while self._at == len(self._text):
            if not self._read_more():
                return ""
            self._at = _SPACE(self._text, 0).end()  # type: ignore[union-attr]
        return self._text[self._at]

    def _expect(self, sign: str) -> None:
        """Take this character. Raises ValueError if another one is next."""
        if self._next() != sign:
            raise ValueError(f"{self._next()!r} where {sign!r} is expected")
        self._at += 1

    def _take_value(self) -> Any:
        """Take the next value, and read on until it is complete.

        Raises ValueError and RecursionError if it is broken.
        """
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError:
                # The value may only be cut off where the text ends.
                if not self._read_more():
                    raise
                continue
            if end == len(self._text) and self._read_more():
                continue  # a number may have further digits
            has_surrogates = (
                isinstance(value, dict) and self._text.find("\\ud", self._at, end) >= 0
            )
            self._at = end
            if has_surrogates:
                return _without_surrogates(value)
            return value

    def _read_more(self) -> bool:
        """Read a further piece of the file behind the text that was not taken.

        Returns False at the end of the file. Raises ValueError if a row is too
        long.
        """
        untaken = self._text[self._at :]
        if len(untaken) >= MOST_ROW:
            raise ValueError(f"a row of more than {MOST_ROW} characters")
        # Twice as much each time, so that a long row is not searched too often.
        size = min(max(_LEAST_PIECE, len(untaken)), MOST_ROW + 1)
        piece = self._file.read(size)
        self._text = untaken + self._text_of(piece, not piece)
        self._at = 0
        return bool(piece)


def _without_surrogates(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose texts have no lone halves of surrogate pairs.

    No storage accepts such halves.
    """
    texts = {
        name: well_formed(value)
        for name, value in row.items()
        if isinstance(value, str)
    }
    return {**row, **texts}
