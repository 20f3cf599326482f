"""The face: statements, and rows as data."""

import warnings
from importlib import import_module
from typing import Any

from imserver.plugin.runner import Runner
from imserver.storage.contract import ArchivedFiles, Erasure, KeyRow, RecordEvent
from imserver.storage.statements import (
    Condition,
    PooledStatements,
    Row,
    RowsOf,
    Statements,
    chunks,
    marks_of,
    text_of,
)
from imserver.storage.store import Store
from imserver.storage.tables import Reason, Table

__all__ = [
    "ArchivedFiles",
    "Condition",
    "Erasure",
    "KeyRow",
    "PooledStatements",
    "Reason",
    "RecordEvent",
    "Row",
    "RowsOf",
    "Runner",
    "Statements",
    "Store",
    "Table",
    "chunks",
    "marks_of",
    "text_of",
]


def __getattr__(name: str) -> Any:
    """``Account`` of version 3, until 2.0."""
    if name != "Account":
        raise AttributeError(name)
    home = "imserver.features.accounts.contract"
    warnings.warn(f"{__name__}.Account is deprecated: it is in {home}", DeprecationWarning, stacklevel=2)
    return import_module(home).Account
