"""All nodes of a cluster keep apps and keys in one database: who has another is found, and kept out."""

from __future__ import annotations

import logging
from time import monotonic

from imserver.cluster.contract import Registry
from imserver.storage.store import Store

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 10.0
"""Time for a node to find the file that another one has just made, and for its lease to say so."""
_REMEDY = (
    "the cluster keeps its apps and keys in another database: give all nodes the same storage.url, or, on "
    "one machine, the same server.data_dir"
)


class OneDatabase:
    """Watches over the database of this node and of the others. ``wrong``: they are not the same."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.wrong = False
        self._store = store
        self._registry = registry
        self._since = 0.0
        store.allows = self._objection
        store.on_open = registry.keeps

    def check(self) -> None:
        """Compare, as often as you like. Never switches."""
        if not self._differs(self._store.id):
            if self.wrong:
                log.info("all nodes of the cluster have one database again")
            self.wrong, self._since = False, 0.0
            return
        self._since = self._since or monotonic()
        if not self.wrong and monotonic() - self._since > _PATIENCE_SECONDS:
            self.wrong = True
            log.error("%s", _REMEDY)

    def _objection(self, database: str) -> str:
        return _REMEDY if self._differs(database) else ""

    def _differs(self, database: str) -> bool:
        return any(lease.database not in ("", database) for lease in self._registry.leases().values())
