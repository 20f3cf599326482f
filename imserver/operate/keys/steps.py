"""Steps for the table of the use of API keys."""

from typing import Final

STEPS: Final = {
    25: """
    # What keys did: numbers of "answered" and "refused" requests in a minute (Unix minutes) by key,
    # route (method and pattern of the path), app (empty: none was named) and address. "node": the
    # random number of the process that has counted; "number": of its rows.
    ordered key_use: minute big*, node big*, number big*, key_id name32, route name200, app name500,
        address name64, answered big, refused big
      unique key_use_by_key: key_id minute node number
      unique key_use_by_app: app minute node number
    """
}
