"""Steps for the tables of exports and imports."""

from typing import Final

_TABLES: Final = """
# "member": whose data; empty: those of the whole app. "created", "ends" and "leased": Unix seconds;
# the archive is deleted at "ends", and a node works on it until "leased". "size": bytes of the
# archive when it is done, before of what is in it. "subject": JSON, the settings of the app.
table export_job: app name255*, id name32*, member name255, state small, created big, ends big,
    leased big, entries big, records big, size big, subject blob
# "digest": of the manifest of the archive. "entry" and "done": so many of its entries, and rows of
# the next one, are stored.
table archive_import: app name255*, digest name64, entry big, done big, finished small
"""

STEPS: Final = {
    30: _TABLES,
    # In version 1.0, step 30 was empty: its databases lack the tables.
    41: _TABLES,
}
