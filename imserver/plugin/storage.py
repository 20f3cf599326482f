"""The face: statements, and rows as data."""

import warnings
from importlib import import_module
from typing import Any

from imserver.plugin.runner import Runner as Runner
from imserver.storage.contract import ArchivedFiles as ArchivedFiles
from imserver.storage.contract import Erasure as Erasure
from imserver.storage.contract import KeyRow as KeyRow
from imserver.storage.contract import RecordEvent as RecordEvent
from imserver.storage.statements import Condition as Condition
from imserver.storage.statements import PooledStatements as PooledStatements
from imserver.storage.statements import Row as Row
from imserver.storage.statements import RowsOf as RowsOf
from imserver.storage.statements import Statements as Statements
from imserver.storage.statements import chunks as chunks
from imserver.storage.statements import marks_of as marks_of
from imserver.storage.statements import text_of as text_of
from imserver.storage.store import Store as Store
from imserver.storage.tables import Reason as Reason
from imserver.storage.tables import Table as Table


def __getattr__(name: str) -> Any:
    """``Account`` of version 3, until 2.0."""
    if name != "Account":
        raise AttributeError(name)
    home = "imserver.people.accounts.contract"
    warnings.warn(f"{__name__}.Account is deprecated: it is in {home}", DeprecationWarning, stacklevel=2)
    return import_module(home).Account
