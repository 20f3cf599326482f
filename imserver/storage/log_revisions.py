"""Revisions: what was edited or recalled says so in its own place, to everybody who reads it from then on.

A message, and every edit of it, has the content that it was given last; once it is recalled, none. So nobody
who was away, or asks for the history, is shown what was taken back or corrected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from imserver.storage.log_contract import Entry
from imserver.storage.log_pen import Pen
from imserver.storage.log_row import NUMBERS

_TAKEN_BACK: Final = (
    f"UPDATE message SET kind = {NUMBERS['recall']}, type = '', body = %s, meta = %s, about = %s "
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)
_EDITED: Final = (
    "UPDATE message SET type = %s, body = %s, meta = %s "
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def taken_back(pen: Pen, log: int, ids: Collection[int]) -> set[int]:
    """Those of these messages that were recalled."""
    statement = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = 0 AND id IN {}"
    return {row[0] for row in pen.ask_in(statement, (log,), list(ids))} if ids else set()


def revise(pen: Pen, log: int, entries: Iterable[Entry]) -> None:
    """Carry out what was added to the log just now: of what a message is told several times, the last word
    counts, and a recall is the last."""
    last: dict[int, Entry] = {}
    edits = []
    for entry in entries:
        if entry.kind in ("recall", "edit"):
            last[entry.about] = entry
            if entry.kind == "edit":
                edits.append((entry.about, entry.id))
    if not last:
        return
    pen.add_edits(log, edits)
    recalled: list[tuple[Any, ...]] = []
    edited: list[tuple[Any, ...]] = []
    for about, entry in last.items():
        of_it = pen.edits(log, about)
        if entry.kind == "recall":
            recalled += [(b"", b"", about, log, id) for id in (about, *of_it)]
        else:
            edited.append((entry.type, entry.body, _with_edit(entry), log, about))
            edited += [(entry.type, entry.body, entry.meta, log, id) for id in of_it if id != entry.id]
    if recalled:
        pen.take_back(log, [about for about, entry in last.items() if entry.kind == "recall"])
        pen.do_many(_TAKEN_BACK, recalled)
    if edited:
        pen.do_many(_EDITED, edited)


def _with_edit(edit: Entry) -> bytes:
    """What else is said of the message: whom it mentions now, and which entry changed it."""
    try:
        meta = _decode(edit.meta) if edit.meta else {}
    except ValueError:  # one draft must not cost the others of its transaction anything
        meta = {}
    return msgspec.json.encode({**meta, "edited": edit.id})
