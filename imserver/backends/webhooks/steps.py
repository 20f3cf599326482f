"""Steps for the tables of webhooks that step 20 of the core creates."""

from typing import Final

STEPS: Final = {
    52: """
    # Finds what is tried next without a look at all that wait. The column is there.
    columns event_retry: next_try big
      index event_retry_by_try: app dead next_try number
    """
}
