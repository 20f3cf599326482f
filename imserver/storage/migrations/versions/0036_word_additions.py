"""Additions to the index of words."""

from typing import Final

revision: Final = "0036"
down_revision: Final = "0035"


def upgrade() -> None:
    """Nothing yet."""
