"""An index of the words of messages."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0031"
down_revision: Final = "0030"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # A segment is a range of ids of one length; "segment": its number. "bucket": a part of the terms of
        # a segment. "terms": MessagePack, term → in which messages of the segment it is.
        ordered word: log big*, segment big*, bucket small*, terms blob
        # "segment": the first one that is not in the index. "changes": counts the changes of its messages.
        # "leased": Unix seconds until which a node works on it.
        table word_position: log big*, segment big, changes big, leased big
        """
    )
