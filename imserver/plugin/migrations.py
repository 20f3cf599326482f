"""The face: columns and options of tables, for the steps that make them.

Only a step imports it, because it imports SQLAlchemy.
"""

from imserver.storage.migrations.table_text import Columns

__all__ = ["Columns"]
