"""Tables of uploads: files, and how many bytes each user has."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

TABLES: Final = (
    Table(
        name="upload",
        key=("id",),
        of_user='"user" = %s',
        erase_user=(
            'DELETE FROM upload WHERE app = %s AND "user" = %s',
            # With the total of the app, which the next upload counts anew.
            """DELETE FROM upload_usage WHERE app = %s AND "user" IN (%s, '')""",
        ),
        columns=(
            *("id", '"user"', "kind", "type", "name", "bytes", "sha256", "created", "width", "height"),
            *("thumbnail_bytes", "thumbnail_type"),
        ),
        imported=(("place", ""),),
    ),
    Table(
        name="upload_usage",
        key=("app", '"user"'),
        of_user='"user" = %s',
        erase_user=Reason("it goes with the files of the user"),
        columns=('"user"', "bytes", "files"),
    ),
)
"""In the order of their deletion."""
