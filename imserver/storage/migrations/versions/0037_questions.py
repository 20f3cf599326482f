"""Questions to people, and their answers."""

from typing import Final

revision: Final = "0037"
down_revision: Final = "0036"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
