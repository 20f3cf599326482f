"""An index of the words of messages."""

from typing import Final

revision: Final = "0031"
down_revision: Final = "0030"


def upgrade() -> None:
    """Nothing yet."""
