"""The face: statements, and rows as data."""

from imserver.auth.accounts import Account
from imserver.storage.contract import Erasure, KeyRow, RecordEvent
from imserver.storage.statements import (
    Condition,
    PooledStatements,
    Row,
    Statements,
    chunks,
    marks_of,
    text_of,
)
from imserver.storage.store import Store
from imserver.storage.tables import Reason, Table

__all__ = [
    "Account",
    "Condition",
    "Erasure",
    "KeyRow",
    "PooledStatements",
    "Reason",
    "RecordEvent",
    "Row",
    "Statements",
    "Store",
    "Table",
    "chunks",
    "marks_of",
    "text_of",
]
