"""The tables of uploaded files; see :mod:`imserver.storage.tables`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text, UniqueConstraint

from imserver.storage.tables import MYSQL_OPTIONS, Name, metadata

upload: Final = Table(
    "upload",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("app", Name, nullable=False),
    Column("user", Name, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("type", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("place", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("thumbnail_bytes", BigInteger, nullable=False),
    Column("thumbnail_type", String(64), nullable=False),
    UniqueConstraint("app", "user", "created", "id", name="upload_by_owner"),
    **MYSQL_OPTIONS,
)

upload_usage: Final = Table(
    "upload_usage",
    metadata,
    Column("app", Name, primary_key=True),
    Column("user", Name, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""What each user keeps, added up, so that a quota holds however many files come at once."""
