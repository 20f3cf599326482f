"""All tables, as the newest migration leaves them."""

from imserver.storage import account_tables, log_tables, talk_tables, upload_tables
from imserver.storage.tables import metadata

__all__ = ["account_tables", "log_tables", "metadata", "talk_tables", "upload_tables"]
