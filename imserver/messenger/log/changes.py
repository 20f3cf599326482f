"""Which messages of a log have another text than before, for whoever has indexed
their words."""

from collections.abc import Sequence
from typing import Final

from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Statements

SEGMENT: Final = 2048
"""Ids that are indexed together, when all of them are stored; at most 65,536."""


def note_changes(
    sql: Statements, log: int, changes: Sequence[tuple[int, int, int]], first: int
) -> None:
    """Messages get another text in the same transaction: (message,
    conversation, the entry that changes it).

    ``first``: the first id that the transaction adds (0: none). Messages of its
    segment are not in the index: it was not whole before, and who adds it later
    knows of these entries.
    """
    indexed_before: int = Limit.ID
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
