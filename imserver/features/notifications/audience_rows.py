"""Audiences in the database. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from time import time
from typing import Any, Final

from msgspec import json
from msgspec.structs import replace

from imserver.features.notifications.contract import (
    AUDIENCE_STATES,
    Audience,
    AudienceContent,
    AudienceState,
    AudienceTarget,
    Delivery,
)
from imserver.features.notifications.rows import add_deliveries_in, check_owner
from imserver.plugin.storage import PooledStatements, Row, Store, marks_of, text_of

MAX_AGE_SECONDS: Final = 7 * 86_400
"""How long an audience that has ended can be looked up."""
_AUDIENCE: Final = (
    "id, app, name, kind, target, content, state, last_user, users, queued, taken, gone, refused, created, "
    "ended"
)
_ACTIVE: Final = 2
"""States below are those of audiences with something to do."""
_encode: Final = json.Encoder().encode
_target: Final = json.Decoder(AudienceTarget).decode
_content: Final = json.Decoder(AudienceContent).decode


class AudienceRows:
    """The rows of audiences in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @Store.writing
    def add(self, sql: PooledStatements, new: Audience, most: int) -> Audience | None:
        """Store an audience, and return it with its id. One with the same name is returned as it is.

        None: the app has ``most`` audiences that have not ended. What ended long ago is deleted.
        """
        values = (
            new.app,
            new.name,
            new.kind,
            _encode(new.target),
            _encode(new.content),
            AUDIENCE_STATES.index(new.state),
            "",
            *(0, 0, 0, 0, 0),
            new.created,
            0,
        )
        where = f"SELECT {_AUDIENCE} FROM notify_audience WHERE app = %s AND name = %s"
        if not (rows := sql.query(where, (new.app, new.name))):
            old = "DELETE FROM notify_audience WHERE app = %s AND state >= %s AND ended < %s"
            sql.execute(old, (new.app, _ACTIVE, int(time()) - MAX_AGE_SECONDS))
            active = "SELECT count(*) FROM notify_audience WHERE app = %s AND state < %s"
            if sql.query(active, (new.app, _ACTIVE))[0][0] >= most:
                return None
            sql.insert_new("notify_audience", _AUDIENCE.removeprefix("id, "), [values])
            rows = sql.query(f"{where}{sql.for_update}", (new.app, new.name))
        return _audience(rows[0])

    def active(self, limit: int) -> list[Audience]:
        """Those with something to do, in the order of their ids."""
        statement = f"SELECT {_AUDIENCE} FROM notify_audience WHERE state = %s ORDER BY id LIMIT %s"
        rows = [row for state in range(_ACTIVE) for row in self._store.rows(statement, (state, limit))]
        return sorted(map(_audience, rows), key=lambda each: each.id)[:limit]

    def of(self, app: str, id: int, limit: int) -> list[Audience]:
        """One of an app, or (``id`` 0) the last ones, the newest first."""
        which, values = (" AND id = %s", (id,)) if id else ("", ())
        statement = f"SELECT {_AUDIENCE} FROM notify_audience WHERE app = %s{which} ORDER BY id DESC LIMIT %s"
        return list(map(_audience, self._store.rows(statement, (app, *values, limit))))

    def waiting(self, audiences: Sequence[int]) -> dict[int, int]:
        """Audience → its deliveries that wait to be sent; without those that have none."""
        if not audiences:
            return {}
        statement = (
            "SELECT audience, count(*) FROM notify_delivery WHERE audience IN "
            f"{marks_of(len(audiences))} GROUP BY audience"
        )
        return dict(self._store.rows(statement, audiences))

    def users_with_endpoints(self, app: str, after: str, limit: int) -> list[str]:
        """The users of an app with devices whose names come after ``after``, in the order of the database."""
        statement = (
            "SELECT DISTINCT member FROM notify_endpoint WHERE app = %s AND member > %s "
            "ORDER BY member LIMIT %s"
        )
        return [text_of(user) for (user,) in self._store.rows(statement, (app, after, limit))]

    @Store.writing
    def add_page(
        self,
        sql: PooledStatements,
        before: Audience,
        users: Sequence[str],
        deliveries: Sequence[Delivery],
        is_last: bool,
        owner: str,
    ) -> bool:
        """Store the deliveries to the next users, and the position behind them. False: the audience is not as
        it was before. ``owner``: who must have the lease. Raises NotOwner."""
        check_owner(sql, owner)
        changed = sql.execute(
            "UPDATE notify_audience SET last_user = %s, users = users + %s, queued = queued + %s, "
            "state = %s WHERE id = %s AND state = 0 AND last_user = %s AND users = %s",
            (
                users[-1] if users and not is_last else "",
                len(users),
                len(deliveries),
                int(is_last),
                before.id,
                before.last_user,
                before.users,
            ),
        )
        if changed:
            add_deliveries_in(sql, deliveries)
        return bool(changed)

    def finish(self, id: int) -> None:
        """All deliveries of an audience have been sent, or are gone."""
        self._store.write(lambda sql: _end(sql, id, "done"))

    @Store.writing_or(False)
    def cancel(self, sql: PooledStatements, app: str, id: int) -> bool:
        """Send nothing more of an audience; False: it has ended, or does not exist."""
        if not sql.query("SELECT 1 FROM notify_audience WHERE id = %s AND app = %s", (id, app)):
            return False
        if not _end(sql, id, "cancelled"):
            return False
        sql.execute("DELETE FROM notify_delivery WHERE audience = %s", (id,))
        return True

    def erase_user(self, app: str, user: str) -> None:
        """Name a user who is erased no more: not among those of an audience, and not as its position."""
        of_app = "SELECT id FROM notify_audience WHERE app = %s AND state < %s"
        for (id,) in self._store.rows(of_app, (app, _ACTIVE)):
            self._store.write(partial(_erase_user, id, app, user))


def _erase_user(id: int, app: str, user: str, sql: PooledStatements) -> None:
    statement = f"SELECT target, last_user FROM notify_audience WHERE id = %s AND state < %s{sql.for_update}"
    for encoded, position in sql.query(statement, (id, _ACTIVE)):
        target, last = _target(bytes(encoded)), text_of(position)
        begin = bisect_left(target.users, user)
        if last == user and target.users:
            last = target.users[begin - 1] if begin else ""
        elif last == user:
            # Between it and the user nobody has a device.
            before = "SELECT max(member) FROM notify_endpoint WHERE app = %s AND member < %s"
            last = text_of(sql.query(before, (app, user))[0][0] or "")
        if user in target.users[begin : begin + 1]:
            target = replace(target, users=target.users[:begin] + target.users[begin + 1 :])
        sql.execute(
            "UPDATE notify_audience SET target = %s, last_user = %s WHERE id = %s",
            (_encode(target), last, id),
        )


def _end(sql: PooledStatements, id: int, state: AudienceState) -> int:
    return sql.execute(
        "UPDATE notify_audience SET state = %s, ended = %s, target = %s, last_user = %s "
        "WHERE id = %s AND state < %s",
        (AUDIENCE_STATES.index(state), int(time()), b"{}", "", id, _ACTIVE),
    )


def _audience(row: Row) -> Audience:
    id, app, name, kind, target, content, state, last_user, *numbers = row
    kind_of: Any = text_of(kind)
    return Audience(
        id,
        text_of(app),
        text_of(name),
        kind_of,
        _target(bytes(target)),
        _content(bytes(content)),
        AUDIENCE_STATES[state],
        text_of(last_user),
        *numbers,
    )
