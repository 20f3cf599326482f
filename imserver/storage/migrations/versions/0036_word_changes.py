"""Messages whose words were changed, until the index of words has them."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0036"
down_revision: Final = "0035"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "id": the message, in "conversation". "entry": what changed it.
        ordered word_change: log big*, id big*, entry big*, conversation big
        # "floor": up to which id the index has no messages, because they have expired. From here on,
        # "changes" is the number of the last claim.
        columns word_position: floor big=0
        """
    )
