"""Previews of links."""

from typing import Final

revision: Final = "0034"
down_revision: Final = "0033"


def upgrade() -> None:
    """Nothing yet."""
