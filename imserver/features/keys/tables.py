"""The table of what keys did."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_OF_KEYS: Final = Reason("it says what back ends did, not which users")

TABLES: Final = (
    Table(
        name="key_use",
        key=("minute", "node", "number"),
        of_user=_OF_KEYS,
        erase_user=_OF_KEYS,
        columns=("minute", "key_id", "route", "address", "answered", "refused"),
        imported=Reason("it counts what keys of the other server did"),
    ),
)
