"""What apps have used of their quotas, by day."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0028"
down_revision: Final = "0027"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "day": days since 1970 in UTC.
        table app_usage: app name255*, day int*, pushes big, messages big
        """
    )
