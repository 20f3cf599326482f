"""Placeholder of the step 0025 (keys)."""

from __future__ import annotations

from typing import Final

revision: Final = "0025"
down_revision: Final = "0024"


def upgrade() -> None:
    """Nothing yet."""
