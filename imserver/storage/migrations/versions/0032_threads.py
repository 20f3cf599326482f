"""Threads of a conversation."""

from typing import Final

revision: Final = "0032"
down_revision: Final = "0031"


def upgrade() -> None:
    """Nothing yet."""
