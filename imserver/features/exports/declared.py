"""What the feature declares: settings, problems and tables."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount, Duration
from imserver.plugin.storage import Reason, Table

DAY_SECONDS: Final = 86_400.0
EXPORTS: Final = Rate("exports", "exports", "user; app", "exports.per_day a day", "429")


class ExportSettings(Struct, frozen=True):
    """Section ``exports``."""

    directory: str = ""
    """``""``: ``exports`` in the data folder."""
    retention_seconds: Duration = DAY_SECONDS
    per_day: Amount = 5


SETTINGS: Final = FeatureSettings({"exports": ExportSettings})


HTTP_EXPORT_UNFINISHED: Final = HttpProblem(
    409, "export_unfinished", "The export is not finished yet.", temporary=True
)

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
    Table(name="archive_import", key=("app",), of_user=_IMPORT, erase_user=_IMPORT, columns=_IMPORT),
)
"""In the order of their deletion."""
