"""Planned erasures: rows of the table ``erasure_due``."""

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Struct

from imserver.operate.erasure.declared import MOST_SECONDS, NotWaiting
from imserver.plugin.http import about
from imserver.plugin.storage import PooledStatements, RowsOf, Runner, Store

LEASE_SECONDS: Final = 600
"""If nobody renews an erasure for this time, another node continues it."""
_LOOK_SECONDS: Final = 5.0
DUE: Final = "ends <= {now}"
"""The condition of the rows whose time has come."""


class PlannedErasure(Struct, frozen=True):
    """A planned erasure of a user or an app.

    ``id`` is the user; ``""`` means the whole app. ``ends`` is when the erasure
    begins, in Unix seconds by the clock of the database.
    """

    app: str
    id: str
    created: int
    ends: int
    reason: str


_ROWS: Final = RowsOf(PlannedErasure, "erasure_due")
_ROW: Final = "WHERE app = %s AND id = %s"


class DueErasures(Store.Rows):
    """The planned erasures in a store.

    Methods switch greenlets, and raise StorageUnavailable.
    """

    def get(self, app: str, user: str = "") -> PlannedErasure | None:
        """The planned erasure of a user, or with an empty ``user`` of the app.

        None if no erasure is planned, or if it has ended.
        """
        return _ROWS.first(self._store.rows, _ROW, app, user)

    def of_users(self) -> list[PlannedErasure]:
        """All planned erasures of users, in all apps."""
        return _ROWS.find(self._store.rows, "WHERE id <> ''")

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        app: str,
        user: str,
        seconds: int,
        reason: str,
        is_begun: bool = False,
    ) -> None:
        """Plan an erasure to begin after some seconds.

        If an erasure is planned already, nothing changes. With ``is_begun``,
        the caller carries out the erasure. If the caller does not end the
        erasure within :data:`LEASE_SECONDS`, a node continues it.
        """
        now = int(sql.query(f"SELECT {sql.now}")[0][0])
        leased_until = now
        if is_begun:
            leased_until = now + LEASE_SECONDS
        new = PlannedErasure(
            app=app, id=user, created=now, ends=now + seconds, reason=reason
        )
        banned = 0  # an unused column
        row = (*_ROWS.values(new), banned, leased_until)
        # An existing row is not changed.
        sql.insert_new("erasure_due", f"{_ROWS.columns}, banned, leased", [row])

    def added(self, app: str, user: str = "") -> PlannedErasure:
        """The planned erasure, right after :meth:`add`.

        Raises NotWaiting if somebody has taken it back meanwhile.
        """
        due = self.get(app, user)
        if due is None:
            raise NotWaiting
        return due

    @Store.writing
    def take_back(self, sql: PooledStatements, app: str, user: str = "") -> bool:
        """Take back an erasure.

        Returns False if no erasure is planned, or if the erasure has begun.
        """
        statement = f"DELETE FROM erasure_due {_ROW} AND ends > {sql.now}"
        return sql.execute(statement, (app, user)) > 0

    def drop(self, app: str, user: str = "") -> None:
        """Delete the row of an erasure that has ended, or that nobody wants any
        more."""
        self._store.execute(f"DELETE FROM erasure_due {_ROW}", (app, user))


def due_runner(store: Store, due: str, work: Callable[[str, str], object]) -> Runner:
    """Make the runner of the erasures whose time has come.

    ``due`` is the SQL condition of their rows, such as :data:`DUE`. ``work`` is
    a function that carries out an erasure. Its arguments are the app and the
    user.
    """
    return Runner(
        store,
        "erasure_due",
        due,
        work,
        lease_seconds=LEASE_SECONDS,
        look_seconds=_LOOK_SECONDS,
    )


def facts_of(reason: str) -> dict[str, str]:
    """The facts of an erasure for the audit log: the reason, if there is one."""
    if not reason:
        return {}
    return {"reason": reason}


AppName = Annotated[str, about("The app.", min_length=1, max_length=191)]
Seconds = Annotated[
    int,
    about(
        "The delay before the erasure begins, in seconds; 0: it begins at once.",
        ge=0,
        le=MOST_SECONDS,
    ),
]
ReasonText = Annotated[
    str,
    about("The reason, for the audit log. It stays in the audit log.", max_length=250),
]
