"""Threads of a conversation."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0032"
down_revision: Final = "0031"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "id": the reply. "root": the message with which its thread begins. "also": the conversation shows
        # the reply, too.
        ordered thread_reply: log int*, conversation big*, id big*, root big, also small
          unique thread_reply_by_root: log root id
        # "follows": 0 for a user who has muted the thread.
        ordered thread_reader: log int*, member name255*, root big*, conversation big, read_id big,
            follows small
          unique thread_reader_by_root: log root member
        """
    )
