"""Reads the query of a GET as a msgspec Struct: a parameter that is unknown or given twice is refused."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from imserver.api.call import Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.cursor import read_cursor
from imserver.api.form import BadBody, parse_pairs
from imserver.api.style import Problem
from imserver.errors import HTTP_INVALID_REQUEST

T = TypeVar("T", bound=msgspec.Struct)


def read_query(call: Call, kind: type[T]) -> T:
    """The parameters of a request as ``kind``. Raises :class:`Problem`, which names the wrong one."""
    params: dict[str, Any] = {}
    try:
        pairs = parse_pairs(b"" if call.request is None else call.request.query)
    except BadBody as bad:
        raise Problem(HTTP_INVALID_REQUEST, f"The query: {bad}") from None
    for name, value in pairs:
        if name in params:
            raise Problem(HTTP_INVALID_REQUEST, f"The parameter `{name}` is given twice")
        params[name] = value
    try:
        return msgspec.convert(params, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(HTTP_INVALID_REQUEST, str(error)) from None


def after(cursor: str) -> str | None:
    """The name behind which a page begins; None for the first page.

    A cursor that no page has given, but could have, stands for some place in the list.
    """
    return read_cursor(cursor, "replace") if cursor else None


def page_of(names: Sequence[str], cursor: str, limit: int) -> tuple[list[str], str]:
    """A page of sorted names, and the cursor of the one that follows."""
    start = bisect_right(names, after(cursor) or "")
    page = list(names[start : start + limit])
    return page, cursor_of(page[-1]) if start + limit < len(names) else ""
