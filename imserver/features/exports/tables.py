"""The tables of exports and imports that go on after an interruption."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_GONE: Final = Reason("it names an archive that is gone after a day")
_IMPORT: Final = Reason("it says how far the import of the whole app is")

TABLES: Final = (
    Table(
        name="export_job",
        key=("app", "id"),
        of_user="member = %s",
        erase_user=("DELETE FROM export_job WHERE app = %s AND member = %s",),
        columns=_GONE,
        scan=True,
    ),
    Table(
        name="archive_import",
        key=("app",),
        of_user=_IMPORT,
        erase_user=_IMPORT,
        columns=_IMPORT,
    ),
)
"""In the order of their deletion."""
