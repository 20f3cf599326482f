"""Erasures and what restores need of them."""

from typing import Final

revision: Final = "0029"
down_revision: Final = "0028"


def upgrade() -> None:
    """Nothing yet."""
