"""Exports and imports that go on after an interruption."""

from typing import Final

revision: Final = "0030"
down_revision: Final = "0029"


def upgrade() -> None:
    """Nothing yet."""
