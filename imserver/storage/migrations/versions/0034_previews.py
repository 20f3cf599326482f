"""Previews of links."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0034"
down_revision: Final = "0033"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``link``: SHA-256 of the URL. ``until``: Unix seconds; while the preview is made, the end of the lease.
    # ``picture``: the id of its file, which may not be there. ``content``: title and so on as JSON.
    op.create_table(
        "link_preview",
        Columns.key("app", Columns.name()),
        Columns.key("link", Columns.name(64)),
        Columns.need("state", sa.SmallInteger),
        Columns.need("until"),
        Columns.need("picture", Columns.name(32)),
        Columns.need("content", Columns.CONTENT),
        sa.UniqueConstraint("until", "app", "link", name="link_preview_by_until"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``make``: of the links of this user. ``shown``: to this user.
    op.create_table(
        "preview_person",
        Columns.key("app", Columns.name()),
        Columns.key("member", Columns.name(255)),
        Columns.need("make", sa.SmallInteger),
        Columns.need("shown", sa.SmallInteger),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    op.create_table(
        "preview_removed",
        Columns.key("app", Columns.name()),
        Columns.key("message"),
        Columns.need("member", Columns.name(255)),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
