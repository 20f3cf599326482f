"""The tables as the newest migration leaves them.

A table is changed by a migration in ``migrations/versions`` and here; a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

NAME_BYTES: Final = 500
"""Bytes of the longest name of an app, in UTF-8."""


class Name(TypeDecorator[str]):
    """A name, compared byte by byte. MySQL compares texts by rules, under which ``a`` may equal ``A``."""

    impl = String
    cache_ok = True

    def __init__(self, length: int = NAME_BYTES) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is not None and dialect.name in ("mysql", "mariadb"):
            return value.encode()
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class ShortBytes(TypeDecorator[bytes]):
    """Bytes that stand in an index. MySQL's blobs cannot, without saying how much of them."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(LargeBinary())


Content: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
"""Bytes of any content. MySQL's plain blobs end one byte short of 64 KiB."""

metadata: Final = MetaData()

MYSQL_OPTIONS: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

directory: Final = Table(
    "directory",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""One row: the id of this database, and the version that each change of an app or a key raises by one.

Whoever changes something locks it first, so changes happen one after the other, and whoever has seen a
version has seen everything up to it.
"""

app: Final = Table(
    "app",
    metadata,
    Column("name", Name, primary_key=True),
    Column("settings", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("version", "name", name="app_by_version"),
    **MYSQL_OPTIONS,
)

api_key: Final = Table(
    "api_key",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("apps", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
    UniqueConstraint("version", "id", name="api_key_by_version"),
    UniqueConstraint("digest", name="api_key_by_digest"),
    **MYSQL_OPTIONS,
)
