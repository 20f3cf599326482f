"""Steps for the table of planned erasures."""

from typing import Final

STEPS: Final = {
    51: """
    # "id": the user. "ends": Unix seconds at which the erasure begins. "leased": Unix seconds until which a
    # node works on it. "banned": nobody reads it.
    table erasure_due: app name255*, id name255*, created big, ends big, leased big, banned small,
        reason name1000
    """
}
