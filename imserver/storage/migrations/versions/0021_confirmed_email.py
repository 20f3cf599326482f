"""The e-mail address that the owner of an account has confirmed."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0021"
down_revision: Final = "0020"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # NULL: none is, and no mail has asked for it by itself. Empty: none is, and one has. The address
        # itself, so that a node of the previous release, which replaces "email" only, confirms nothing.
        columns account: confirmed_email name254?
        """
    )
