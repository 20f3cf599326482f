"""What clients have that keep no place of their own in the log; see :mod:`imserver.storage.tables`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Table

from imserver.storage.tables import MYSQL_OPTIONS, Name, metadata

talk_position: Final = Table(
    "talk_position",
    metadata,
    Column("app", Name, primary_key=True),
    Column("member", Name(255), primary_key=True),
    Column("id", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Up to which id of the log a user of the action dialect has everything but what was said in rooms."""

room_position: Final = Table(
    "room_position",
    metadata,
    Column("app", Name, primary_key=True),
    Column("member", Name(255), primary_key=True),
    Column("room", Name(255), primary_key=True),
    Column("id", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Up to which id of the log a user of the action dialect has everything that was said in a room. Who has a
row belongs to the room: there is one from the first login to it on."""
