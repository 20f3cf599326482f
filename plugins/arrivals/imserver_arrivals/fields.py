"""What is in values of JSON that may be anything: an answer has the type that it should have."""

import re
from typing import Any

Json = dict[str, Any]


def at(value: object, *keys: str) -> Any:
    """What a value has under these keys; None: nothing."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text_at(value: object, *keys: str) -> str:
    """The text under these keys; ``""``: there is none."""
    found = at(value, *keys)
    return found if isinstance(found, str) else ""


def list_at(value: object, *keys: str) -> list[Any]:
    """The array under these keys; empty: there is none."""
    found = at(value, *keys)
    return found if isinstance(found, list) else []


def number_at(value: object, *keys: str) -> int | None:
    """The number under these keys; None: there is none. Old servers took a number as a text."""
    found = at(value, *keys)
    if isinstance(found, str) and re.fullmatch(r"-?\d{1,9}", found, re.ASCII):
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
