"""Placeholder of the step 0027 (safety)."""

from __future__ import annotations

from typing import Final

revision: Final = "0027"
down_revision: Final = "0026"


def upgrade() -> None:
    """Nothing yet."""
