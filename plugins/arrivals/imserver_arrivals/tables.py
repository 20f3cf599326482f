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
    """The tables of a file, with or without a byte order mark."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._text_of = getincrementaldecoder("utf-8-sig")("replace").decode
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode
        self.texts: dict[str, str] = {}
        """Name → value, for the texts in the file that are not tables."""

    def values(self) -> Iterator[Any]:
        """The values of a file, with nothing between them. Raises as
        :meth:`rows` does."""
        while self._peek():
            yield self._value()

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield (name of the table, row). Raises ValueError and RecursionError
        where the file is broken."""
        if self._next() == "[":
            yield from self._array("")
            return
        self._expect("{")
        while self._next() != "}":
            name = str(self._value())
            self._expect(":")
            if self._next() == "[":
                yield from self._array(name)
            else:
                value = self._value()
                if isinstance(value, str):
                    self.texts[name] = value
            self._comma("}")

    def _array(self, name: str) -> Iterator[tuple[str, Any]]:
        self._expect("[")
        while self._next() != "]":
            yield name, self._value()
            self._comma("]")
        self._expect("]")

    def _comma(self, end: str) -> None:
        if self._next() == ",":
            self._at += 1
        elif self._text[self._at] != end:
            self._expect(",")

    def _next(self) -> str:
        """The next character that is not a space."""
        sign = self._peek()
        if not sign:
            raise ValueError("the file ends too early")
        return sign

    def _peek(self) -> str:
        """The next character that is not a space, without taking it; ``""`` at
        the end."""
        self._at = _SPACE(self._text, self._at).end()  # type: ignore[union-attr]  # it matches anything
        while self._at == len(self._text):
            if not self._fill():
                return ""
            self._at = _SPACE(self._text, 0).end()  # type: ignore[union-attr]
        return self._text[self._at]

    def _expect(self, sign: str) -> None:
        if self._next() != sign:
            raise ValueError(f"{self._next()!r} where {sign!r} is expected")
        self._at += 1

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError:
                if not self._fill():
                    raise
                continue
            if end == len(self._text) and self._fill():
                continue  # a number may go on
            has_surrogates = (
                isinstance(value, dict) and self._text.find("\\ud", self._at, end) >= 0
            )
            self._at = end
            if has_surrogates:
                return _well_formed(value)
            return value

    def _fill(self) -> bool:
        left = self._text[self._at :]
        if len(left) >= MOST_ROW:
            raise ValueError(f"a row of more than {MOST_ROW} characters")
        # Twice as much each time, so that a long row is not searched too often.
        size = min(max(_LEAST_PIECE, len(left)), MOST_ROW + 1)
        more = self._file.read(size)
        self._text = left + self._text_of(more, not more)
        self._at = 0
        return bool(more)


def _well_formed(row: dict[str, Any]) -> dict[str, Any]:
    texts = {
        name: well_formed(value)
        for name, value in row.items()
        if isinstance(value, str)
    }
    return {**row, **texts}
