"""The face: statements, and rows as data."""

import warnings
from importlib import import_module
from typing import Any

from imserver.gateway.storage.contract import ArchivedFiles as ArchivedFiles
from imserver.gateway.storage.contract import Erasure as Erasure
from imserver.gateway.storage.contract import KeyRow as KeyRow
from imserver.gateway.storage.contract import RecordEvent as RecordEvent
from imserver.gateway.storage.statements import Condition as Condition
from imserver.gateway.storage.statements import PooledStatements as PooledStatements
from imserver.gateway.storage.statements import Row as Row
from imserver.gateway.storage.statements import RowsOf as RowsOf
from imserver.gateway.storage.statements import Statements as Statements
from imserver.gateway.storage.statements import chunks as chunks
from imserver.gateway.storage.statements import marks_of as marks_of
from imserver.gateway.storage.statements import text_of as text_of
from imserver.gateway.storage.store import Store as Store
from imserver.gateway.storage.tables import Reason as Reason
from imserver.gateway.storage.tables import Table as Table
from imserver.plugin.runner import Runner as Runner


def __getattr__(name: str) -> Any:
    """Return ``Account`` of version 3, with a warning, until 2.0."""
    if name != "Account":
        raise AttributeError(name)
    home = "imserver.people.accounts.contract"
    warnings.warn(
        f"{__name__}.Account is deprecated: it is in {home}",
        DeprecationWarning,
        stacklevel=2,
    )
    return import_module(home).Account
