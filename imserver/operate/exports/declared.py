"""The settings, problems and tables that the feature declares."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount, Duration
from imserver.plugin.storage import Reason, Table

DAY_SECONDS: Final = 86_400.0
EXPORTS: Final = Rate("exports", "exports", "user; app", "exports.per_day a day")


class ExportSettings(Struct, frozen=True):
    """Section ``exports``."""

    directory: str = ""
    """``""``: ``exports`` in the data folder."""
    retention_seconds: Duration = DAY_SECONDS
    per_day: Amount = 5


SETTINGS: Final = SettingsRow({"exports": ExportSettings})


HTTP_EXPORT_UNFINISHED: Final = HttpProblem(
    409, "export_unfinished", "The export is not finished yet.", temporary=True
)


TABLES: Final = (
    Table(
        name="export_job",
        types="""app name255*, id name32*, member name255 user, state small, created big, ends big,
            leased big, entries big, records big, size big, subject blob""",
        columns=Reason("it names an archive that is gone after a day"),
        scan=True,
    ),
    Table(
        name="archive_import",
        types="app name255*, digest name64, entry big, done big, finished small",
        of_user=Reason("it says how far the import of the whole app is"),
    ),
)
"""In the order of their deletion."""
