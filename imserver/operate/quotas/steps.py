"""Steps for the table of counts for quotas."""

from typing import Final

STEPS: Final = {
    28: """
    # "day": days since 1970 in UTC.
    table app_usage: app name255*, day int*, pushes big, messages big
    """
}
