"""The house rules of an app: a text of its owners that newcomers see before
they join."""

from collections.abc import Callable
from time import monotonic, time
from typing import Final

from imserver.plugin.storage import PooledStatements, Store, text_of

CHARACTERS: Final = 4000
_CACHE_SECONDS: Final = 2.0
"""How long this node uses a text that it has read, because anybody may ask for
it at any rate."""


class HouseRules(Store.Rows):
    """The house rules of apps, with a cache of their texts.

    ``exists`` tells whether there is an app with a name. Methods may switch
    greenlets, and raise StorageUnavailable.
    """

    def __init__(self, store: Store, exists: Callable[[str], bool]) -> None:
        super().__init__(store)
        self._exists = exists
        self._cache: dict[str, tuple[float, str]] = {}
        """App → the monotonic time of the read, and the text. A cache."""

    def of(self, app: str) -> str:
        """The rules of an app; ``""`` if it has no rules, or does not exist."""
        # Anybody may ask for any name. Without this check the cache would grow.
        if not self._exists(app):
            return ""
        now = monotonic()
        read_at, text = self._cache.get(app, (0.0, ""))
        if read_at and now - read_at <= _CACHE_SECONDS:
            return text
        # There is at most one row.
        statement = "SELECT text FROM house_rules WHERE app = %s"
        text = ""
        for (value,) in self._store.rows(statement, (app,)):
            text = text_of(value)
        self._cache[app] = now, text
        return text

    def set(self, app: str, text: str) -> None:
        """Replace the rules of an app; ``""`` removes them."""
        self._write(app, text, int(time()))
        self._cache.pop(app, None)

    @Store.writing
    def _write(self, sql: PooledStatements, app: str, text: str, now: int) -> None:
        """Replace the row with the rules of an app; ``now`` is in Unix seconds."""
        sql.execute("DELETE FROM house_rules WHERE app = %s", (app,))
        if text:
            sql.insert_new("house_rules", "app, text, changed", [(app, text, now)])
