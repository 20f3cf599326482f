"""Placeholder of the step 0026 (accounts)."""

from __future__ import annotations

from typing import Final

revision: Final = "0026"
down_revision: Final = "0025"


def upgrade() -> None:
    """Nothing yet."""
