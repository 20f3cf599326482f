"""Notes which messages of a log have a new text, so that the index of words can
be updated."""

from collections.abc import Sequence
from typing import Final

from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Statements

SEGMENT: Final = 2048
"""How many ids are indexed together, once all of them are stored; at most
65,536."""


def note_changes(
    sql: Statements, log: int, changes: Sequence[tuple[int, int, int]], first: int
) -> None:
    """Note messages that get another text, so that the index of words is
    updated.

    ``changes`` has (message, conversation, the entry that changes the message).
    ``first`` is the first id that the transaction adds, or 0 if it adds no
    entries.

    A *segment* is the ids that are indexed together, once all of them are
    stored. Messages in the segment of ``first``, or in later segments, are not
    noted. These segments are not in the index yet. When a task adds them later,
    it reads the new texts.
    """
    indexed_before: int = Limit.ID
    # The segment of `first` was not complete before this transaction.
    if first:
        segment = first // SEGMENT
        indexed_before = segment * SEGMENT
    rows = [
        (log, id, entry, conversation)
        for id, conversation, entry in changes
        if id < indexed_before
    ]
    if rows:
        sql.insert_new("word_change", "log, id, entry, conversation", rows)
