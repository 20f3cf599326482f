"""Rows of previews. Each method is one transaction, may switch greenlets, and
raises StorageUnavailable.

All times come from the clock of the database, because the clocks of nodes
differ.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of

MAKING: Final = 0
"""A node fetches the page."""
READY: Final = 1
NONE: Final = 2
"""The page has no preview, or could not be fetched."""


class PreviewRow(Struct, frozen=True):
    """The row of a link.

    The row is first the *lease* of the node that fetches the page: the
    exclusive right to fetch the page for some time. Later it has the preview,
    or the fact that the page has no preview.
    """

    link: str
    """The hash of the URL."""
    state: int
    """:data:`MAKING`, :data:`READY` or :data:`NONE`."""
    picture: str
    """The id of the file with the picture, which may not exist; ``""``: no id.
    While the preview is being made, this id also names the lease."""
    content: bytes
    """The preview as JSON, if it is ready."""


class PersonWishes(Struct, frozen=True):
    """The settings of a person.

    ``make``: whether links in messages of this person get previews. ``show``:
    whether this person sees the previews of others.
    """

    make: bool = True
    show: bool = True


_LINKS: Final = RowsOf(PreviewRow, "link_preview")
_WISHES: Final = RowsOf(PersonWishes, "preview_person", show="shown")


_TAKE_LEASE: Final = (
    "UPDATE link_preview SET state = %s, until = %s, picture = %s "
    "WHERE app = %s AND link = %s AND until = %s"
)
"""The row is changed only if it still has the time that was read. Otherwise
another node has changed it first."""


class PreviewRows(Store.Rows):
    """The rows of previews in a store. Without a database no rows exist."""

    # --- links ----------------------------------------------------------------

    @Store.reading_or({})
    def current(
        self, sql: PooledStatements, app: str, links: Collection[str]
    ) -> dict[str, PreviewRow]:
        """The rows of these links that have not expired, by link.

        A link in the result is being made, is ready, or has no preview.
        """
        # query_in() puts the list of links in place of "{}".
        statement = (
            f"{_LINKS.select} WHERE app = %s AND until > {sql.now} AND link IN {{}}"
        )
        rows = map(_LINKS.read, sql.query_in(statement, (app,), list(links)))
        return {row.link: row for row in rows}

    @Store.writing
    def claim(
        self, sql: PooledStatements, app: str, link: str, picture: str, seconds: int
    ) -> str | None:
        """Take the lease of a link for ``seconds``, to make its preview.

        ``picture``: the id that the new picture will have. Returns the id of
        the picture of a former preview, or ``""`` without a former preview.
        Returns None if another node has the lease, or has made the preview
        meanwhile.
        """
        # A new row counts as expired, so it is taken like an old one.
        new = (*_LINKS.values(PreviewRow(link, MAKING, "", b"")), app, 0)
        sql.insert_new("link_preview", f"{_LINKS.columns}, app, until", [new])
        query = (
            f"SELECT until, picture, {sql.now} FROM link_preview "
            "WHERE app = %s AND link = %s"
        )
        rows = sql.query(query, (app, link))
        if not rows:
            return None
        until, former_picture, now = rows[0]
        if until > now:
            return None
        values = (MAKING, int(now) + seconds, picture, app, link, until)
        if not sql.execute(_TAKE_LEASE, values):
            return None
        return text_of(former_picture)

    @Store.writing
    def finish(
        self, sql: PooledStatements, app: str, row: PreviewRow, seconds: int
    ) -> bool:
        """Store a preview, or the fact that the page has no preview, for
        ``seconds``.

        Returns False, and stores nothing, if another node has taken over the
        lease.
        """
        # The picture was chosen when the lease was taken. So the row has this
        # id only as long as this node has the lease.
        change = (
            f"UPDATE link_preview SET state = %s, until = {sql.now} + %s, content = %s "
            f"WHERE app = %s AND link = %s AND state = {MAKING} AND picture = %s"
        )
        values = (row.state, seconds, row.content, app, row.link, row.picture)
        return sql.execute(change, values) > 0

    @Store.reading_or([])
    def expired(
        self, sql: PooledStatements, most: int
    ) -> list[tuple[str, str, str, int]]:
        """At most ``most`` rows that have expired, the oldest first.

        Each row is the app, the link, the id of the picture, and the time at
        which the row has expired.
        """
        columns = "app, link, picture, until"
        statement = f"SELECT {columns} FROM link_preview WHERE until < {sql.now} ORDER BY until LIMIT %s"
        rows = sql.query(statement, (most,))
        return [
            (text_of(app), text_of(link), text_of(picture), until)
            for app, link, picture, until in rows
        ]

    def forget(self, app: str, link: str, until: int) -> None:
        """Delete the row of an expired preview.

        ``until``: the end that was read. If the end in the row differs now, a
        node has taken the lease meanwhile, and the row stays.
        """
        statement = (
            "DELETE FROM link_preview WHERE app = %s AND link = %s AND until = %s"
        )
        self._store.execute(statement, (app, link, until))

    # --- people ---------------------------------------------------------------

    def wishes(self, app: str, users: Collection[str]) -> Mapping[str, PersonWishes]:
        """The settings of the given users who have stored settings."""
        statement = (
            f"SELECT {_WISHES.columns}, member FROM preview_person "
            "WHERE app = %s AND member IN {}"
        )
        return {
            text_of(row[-1]): _WISHES.read(row)
            for row in self._store.rows_in(statement, (app,), users)
        }

    @Store.writing
    def wish(
        self, sql: PooledStatements, app: str, user: str, wishes: PersonWishes
    ) -> None:
        """Store the wishes of a user."""
        _WISHES.put(sql, wishes, app=app, member=user)

    @Store.writing
    def remove(self, sql: PooledStatements, app: str, user: str, message: int) -> None:
        """Store that the sender of a message wants no preview below it."""
        sql.insert_new(
            "preview_removed", "app, message, member", [(app, message, user)]
        )

    def removed(self, app: str, messages: Sequence[int]) -> set[int]:
        """The messages among ``messages`` whose senders want no preview below
        them."""
        statement = (
            "SELECT message FROM preview_removed WHERE app = %s AND message IN {}"
        )
        return {row[0] for row in self._store.rows_in(statement, (app,), messages)}
