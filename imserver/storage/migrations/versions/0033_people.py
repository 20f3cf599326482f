"""What people say of themselves."""

from typing import Final

revision: Final = "0033"
down_revision: Final = "0032"


def upgrade() -> None:
    """Nothing yet."""
