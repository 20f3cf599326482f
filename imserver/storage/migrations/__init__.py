"""The steps that bring a database to what this release expects (:mod:`imserver.storage.migrate` takes them).

A step only adds; what an earlier release still uses is removed by a later release than the one that stopped
using it, so that nodes of both can share a database while one after the other is replaced.
"""

from typing import Final

HEAD: Final = "0008"
"""The newest step. A database that has it needs no migration, and nobody has to load Alembic to know."""
