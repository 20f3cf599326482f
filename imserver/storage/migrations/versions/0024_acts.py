"""Placeholder of the step 0024 (audit)."""

from __future__ import annotations

from typing import Final

revision: Final = "0024"
down_revision: Final = "0023"


def upgrade() -> None:
    """Nothing yet."""
