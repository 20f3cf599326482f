"""The tables of accounts, as the newest migration leaves them (:mod:`imserver.storage.tables`)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, String, Table, UniqueConstraint

from imserver.storage.account_contract import AVATAR_CHARACTERS, NICKNAME_CHARACTERS
from imserver.storage.tables import MYSQL_OPTIONS, Name, metadata

ID: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives numbers to a column of exactly this type only; there, too, they have 64 bits."""

account: Final = Table(
    "account",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("app", Name, nullable=False),
    Column("phone", Name, nullable=False),
    Column("nickname", String(NICKNAME_CHARACTERS), nullable=False),
    Column("avatar", String(AVATAR_CHARACTERS), nullable=False),
    Column("password", String(255), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("app", "phone", name="account_by_phone"),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)
"""An id is never given twice: whoever is deleted stands in the messages of others."""

account_device: Final = Table(
    "account_device",
    metadata,
    Column("account", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Name(255), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Logins that have not ended: a token that names one is good as long as its row is there."""

relation: Final = Table(
    "relation",
    metadata,
    Column("account", BigInteger, primary_key=True, autoincrement=False),
    Column("other", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(8), nullable=False),
    Column("since", BigInteger, nullable=False),
    UniqueConstraint("other", "account", name="relation_by_other"),
    **MYSQL_OPTIONS,
)
"""What ``account`` is to ``other``: ``asked`` to be a friend, ``friend`` (two rows), or keeps it away:
``blocked``."""
