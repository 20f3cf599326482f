"""Notifications for large audiences."""

from typing import Final

revision: Final = "0035"
down_revision: Final = "0034"


def upgrade() -> None:
    """Nothing yet."""
