"""Tables of previews: pages of links, what people want, and previews that their senders have removed."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_OF_NOBODY: Final = Reason("it has the hash of a link and the title of its page, and names no user")
_COPY: Final = Reason("it is a copy of public pages, which is made again")

TABLES: Final = (
    Table(
        name="preview_person",
        key=("app", "member"),
        of_user="member = %s",
        erase_user=("DELETE FROM preview_person WHERE app = %s AND member = %s",),
        columns=("member", "make", "shown"),
    ),
    Table(
        name="preview_removed",
        key=("app", "message"),
        of_user="member = %s",
        erase_user=("DELETE FROM preview_removed WHERE app = %s AND member = %s",),
        columns=("message", "member"),
        imported=Reason("an import gives messages other ids"),
        scan=True,
    ),
    Table(
        name="link_preview",
        key=("app", "link"),
        of_user=_OF_NOBODY,
        erase_user=_OF_NOBODY,
        columns=_COPY,
    ),
)
"""In the order of their deletion."""
