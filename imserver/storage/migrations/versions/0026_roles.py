"""Roles and locks of accounts, and their second factor."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0026"
down_revision: Final = "0025"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "role": empty, "moderator" or "owner". "locked_until": Unix seconds; 0: it is not locked.
        # "lock_reason": NULL: none. "factor_since": when its second factor was confirmed, in Unix seconds;
        # 0: it has none.
        columns account: role name16='', locked_until big=0, lock_reason string200?, factor_since big=0
        # "secret": of the codes, in base32. "step": the number of the last half minute whose code was used.
        table account_factor: account big*, secret name64, step big
        # "code": its hash. Each code is used once, and deleted then.
        ordered recovery_code: account big*, code name64*
        """
    )
