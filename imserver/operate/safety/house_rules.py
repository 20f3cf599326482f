"""The house rules of an app: a text of its owners, which newcomers see before
they come in."""

from collections.abc import Callable
from time import monotonic, time
from typing import Final

from imserver.plugin.storage import PooledStatements, Store, text_of

CHARACTERS: Final = 4000
_KNOWN_SECONDS: Final = 2.0
"""How long this node does not look again: anybody may ask, at any rate."""


class HouseRules(Store.Rows):
    """Owner of what this node knows, of apps that there are (``exists``).
    Methods may switch, and raise StorageUnavailable."""

    def __init__(self, store: Store, exists: Callable[[str], bool]) -> None:
        super().__init__(store)
        self._exists = exists
        self._known: dict[str, tuple[float, str]] = {}

    def of(self, app: str) -> str:
        """The rules of an app; ``""``: it has none."""
        if not self._exists(app):  # anybody may name any
            return ""
        now = monotonic()
        read_at, text = self._known.get(app, (0.0, ""))
        if read_at and now - read_at <= _KNOWN_SECONDS:
            return text
        statement = "SELECT text FROM house_rules WHERE app = %s"
        text = ""
        for (row,) in self._store.rows(statement, (app,)):
            text = text_of(row)
        self._known[app] = now, text
        return text

    def set(self, app: str, text: str) -> None:
        """Replace the rules of an app; ``""``: it has none any more."""
        self._write(app, text, int(time()))
        self._known.pop(app, None)

    @Store.writing
    def _write(self, sql: PooledStatements, app: str, text: str, now: int) -> None:
        sql.execute("DELETE FROM house_rules WHERE app = %s", (app,))
        if text:
            sql.insert_new("house_rules", "app, text, changed", [(app, text, now)])
