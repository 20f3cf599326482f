"""The refusals of the last hour on one node, in bounded memory.

Equal refusals are one row with a count. Rows are bounded for each *payer*: the
account, the user of a session, or else the network of the address. They are
bounded for each cause (kind, reason and app), and in total. Therefore a
stranger who is refused again and again only pushes out rows of their own
network.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from itertools import chain
from time import time
from typing import Annotated, Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.plugin.http import about
from imserver.plugin.identity import Denial, Observer
from imserver.plugin.runtime import Service, network_of

STAY_SECONDS: Final = 3600
ROWS_OF_PAYER: Final = 50
ROWS_OF_CAUSE: Final = 2_000
MAX_ROWS: Final = 10_000
"""Limits of the rows of a node. A row takes less than 1 KB."""
_NAME: Final = 64
_DETAIL_CHARACTERS: Final = 200
_REQUEST_CHARACTERS: Final = 128
_PRUNE_SECONDS: Final = 60
"""How often old rows are removed."""

_network: Final = lru_cache(4096)(network_of)


class RefusalRow(Struct, array_like=True):
    """Equal refusals, with their number.

    ``first`` and ``last`` are in Unix seconds. The other fields come from
    :class:`Denial`. The fields ``limit``, ``until``, ``detail`` and ``request``
    come from the last refusal.
    """

    kind: Annotated[
        Literal["login", "command", "request"], about("The kind of refusal.")
    ]
    reason: Annotated[
        str,
        about(
            "The reason of a refused login or command, or the problem code of a "
            "refused request."
        ),
    ]
    app: Annotated[
        str, about("The app; empty: the client named no app of this server.")
    ]
    user: Annotated[
        str,
        about(
            "The user whom the client named, or the user who made the request; empty: "
            "unknown."
        ),
    ]
    account: Annotated[
        str, about("The account whose password was checked; empty: none, or unknown.")
    ]
    address: Annotated[str, about("The address of the client.")]
    count: Annotated[int, about("The number of refusals within the last hour.")]
    first: Annotated[float, about("The time of the first refusal, in Unix seconds.")]
    last: Annotated[float, about("The time of the last refusal, in Unix seconds.")]
    limit: Annotated[
        str, about("The rate or setting that caused the last refusal; empty: none.")
    ]
    until: Annotated[
        float,
        about(
            "When this limit ends, in Unix seconds; 0: unknown, or when somebody lifts "
            "it."
        ),
    ]
    detail: Annotated[str, about("The command or request, and its error.")]
    request: Annotated[
        str,
        about(
            "The id of the last request, or the address and port of its connection. "
            "Search for it in the log."
        ),
    ]

    @property
    def key(self) -> tuple[str, ...]:
        """The fields that are equal in equal refusals."""
        return self.kind, self.reason, self.app, self.user, self.account, self.address

    def count_again(self, refusal: Denial, now: float) -> None:
        """Count a refusal.

        The row shows how often it happened, and the details of the last time.
        """
        self.count += 1
        self.last = now
        self.limit = refusal.limit
        self.until = refusal.until
        self.detail = refusal.detail[:_DETAIL_CHARACTERS]
        self.request = refusal.request[:_REQUEST_CHARACTERS]


class Wanted(Struct, frozen=True, array_like=True):
    """A filter for refusals. An empty field does not restrict them.

    ``apps`` selects refusals of these apps; None selects all, also refusals
    without an app of this server. ``names`` selects refusals of users and
    accounts with one of these ids. ``address`` selects refusals of this address
    or network. ``request`` selects the refusal of the request with this id.
    """

    apps: frozenset[str] | None = None
    names: frozenset[str] = frozenset()
    address: str = ""
    request: str = ""

    def has(self, row: RefusalRow) -> bool:
        """Whether a row passes the filter."""
        if self.apps is not None and row.app not in self.apps:
            return False
        if self.names and not (row.user in self.names or row.account in self.names):
            return False
        # The address may be a whole network.
        if self.address and self.address not in (_network(row.address), row.address):
            return False
        return not self.request or row.request == self.request


_Who = tuple[str, str, str]
"""The user, account and address that were refused."""
_Rows = OrderedDict[_Who, RefusalRow]
"""(user, account, address) → row, for one payer. The latest comes last."""


def _cut(names: Iterable[str]) -> frozenset[str]:
    """The names as rows have them: cut to :data:`_NAME` characters."""
    return frozenset(name[:_NAME] for name in names)


_CauseKey = tuple[Literal["login", "command", "request"], str, str]
"""The kind, reason and app of refusals."""


class _Cause(Service):
    """The rows of one cause, which is a kind, a reason and an app.

    ``payers`` is payer → rows; the payer of the latest row comes last. ``size``
    is the number of all rows.
    """

    payers: OrderedDict[str, _Rows] = field(default_factory=OrderedDict)
    size: int = 0

    def rows_of(self, payer: str) -> _Rows:
        """The rows of a payer, who comes last from now on."""
        rows = self.payers.get(payer)
        if rows is None:
            rows = OrderedDict()
            self.payers[payer] = rows
        else:
            self.payers.move_to_end(payer)
        return rows


def _payer_of(kind: str, who: _Who) -> str:
    """The payer of a refusal of this kind.

    It is somebody who cannot choose a new name for each refusal, so that one
    client cannot push out the rows of other clients.
    """
    user, account, address = who
    if account:
        return account
    if user and kind == "command":
        return user  # a session has proved the user; a login only claims it
    return _network(address)


class RefusalLog(Observer):
    """The refusals of a node. Methods never switch greenlets.

    ``is_app`` tells whether there is an app with a name. ``clock`` returns Unix
    seconds.
    """

    def __init__(
        self, is_app: Callable[[str], bool], clock: Callable[[], float] = time
    ) -> None:
        """Begin without refusals."""
        self._is_app = is_app
        self._clock = clock
        self._causes: dict[tuple[str, str, str], _Cause] = {}
        """(kind, reason, app) → the rows."""
        self._pruned = clock()
        """When old rows were removed last."""
        self.size = 0
        """The number of rows. Others only read it."""

    def refused(self, refusal: Denial) -> None:
        """Count a refusal: in the row of equal refusals, or in a new row.

        If there are too many rows, others are removed.
        """
        now = self._clock()
        if now - self._pruned > _PRUNE_SECONDS:
            self._prune(now)

        app = ""  # a client may name anything
        if self._is_app(refusal.app):
            app = refusal.app
        key = (refusal.kind, refusal.reason, app)
        cause = self._causes.get(key)
        if cause is None:
            cause = _Cause()
            self._causes[key] = cause

        who = refusal.user[:_NAME], refusal.account, refusal.address[:_NAME]
        rows = cause.rows_of(_payer_of(refusal.kind, who))
        row = rows.get(who)
        if row is None:
            row = self._add_row(key, who, cause, rows, now)
        else:
            rows.move_to_end(who)

        row.count_again(refusal, now)

    def select(self, wanted: Wanted) -> list[RefusalRow]:
        """The rows that pass the filter, in any order."""
        self._prune(self._clock())
        wanted = replace(wanted, names=_cut(wanted.names))
        selected = []
        for cause in self._causes.values():
            for rows in cause.payers.values():
                selected += [row for row in rows.values() if wanted.has(row)]
        return selected

    def forget(self, app: str, names: Collection[str] = ()) -> None:
        """Remove the rows of users and accounts with these ids.

        Without ids, remove all rows of the app.
        """
        names = _cut(names)

        def is_meant(who: tuple[str, str, str]) -> bool:
            """Whether a row of this user, account and address is to be removed."""
            user, account, _ = who
            return not names or user in names or account in names

        for key, cause in list(self._causes.items()):
            _, _, app_of_cause = key
            if app_of_cause != app:
                continue
            self._remove_rows(cause, is_meant)
            if not cause.payers:
                del self._causes[key]

    def _remove_rows(
        self, cause: _Cause, is_meant: Callable[[tuple[str, str, str]], bool]
    ) -> None:
        """Remove the rows of a cause for which ``is_meant`` returns True."""
        for payer, rows in list(cause.payers.items()):
            to_remove = [who for who in rows if is_meant(who)]
            for who in to_remove:
                del rows[who]
            self._note_removal(cause, payer, len(to_remove))

    def _add_row(
        self, key: _CauseKey, who: _Who, cause: _Cause, rows: _Rows, now: float
    ) -> RefusalRow:
        """Add a row of a cause to the rows of its payer.

        If there are too many rows, others are removed.
        """
        row = _new_row(key, who, now)
        rows[who] = row
        cause.size += 1
        self.size += 1
        self._bound(cause, rows)
        return row

    def _bound(self, cause: _Cause, rows: _Rows) -> None:
        """Remove old rows if there are too many.

        Call this after each new row; ``rows`` are the rows of its payer. Then
        at most one of the limits can be exceeded.
        """
        if len(rows) > ROWS_OF_PAYER:
            rows.popitem(last=False)
            cause.size -= 1
            self.size -= 1
        elif cause.size > ROWS_OF_CAUSE:
            self._drop_oldest(cause)
        if self.size > MAX_ROWS:
            largest = max(self._causes.values(), key=lambda each: each.size)
            # Half of the rows of this cause are removed at once, so that the
            # next rows do not search for the largest cause again.
            for _ in range((largest.size + 1) // 2):
                self._drop_oldest(largest)

    def _drop_oldest(self, cause: _Cause) -> None:
        """Remove the oldest row of the payer that was refused least recently."""
        payer, rows = next(iter(cause.payers.items()))
        rows.popitem(last=False)
        self._note_removal(cause, payer, count=1)

    def _prune(self, now: float) -> None:
        """Remove rows that are older than :data:`STAY_SECONDS`.

        Rows are in the order of their times, and so are the payers. So each
        search ends at the first row that stays.
        """
        self._pruned = now
        before = now - STAY_SECONDS
        for key, cause in list(self._causes.items()):
            for payer, rows in list(cause.payers.items()):
                count = 0
                for who, row in list(rows.items()):
                    if row.last >= before:
                        break  # the following rows are newer
                    del rows[who]
                    count += 1
                self._note_removal(cause, payer, count)
                if rows:
                    break  # the following payers were refused later
            if not cause.payers:
                del self._causes[key]

    def _note_removal(self, cause: _Cause, payer: str, count: int) -> None:
        """Correct the sizes after ``count`` rows of a payer were removed.

        Also remove the payer if it has no more rows.
        """
        cause.size -= count
        self.size -= count
        if not cause.payers[payer]:
            del cause.payers[payer]


def _new_row(cause: _CauseKey, who: tuple[str, str, str], now: float) -> RefusalRow:
    """A row for the first of equal refusals, which is not counted yet.

    ``who`` is (user, account, address).
    """
    return RefusalRow(
        *cause,
        *who,
        count=0,
        first=now,
        last=now,
        limit="",
        until=0,
        detail="",
        request="",
    )


def merged(lists: Iterable[Iterable[RefusalRow]]) -> list[RefusalRow]:
    """The rows of several nodes, the latest first.

    Rows with an equal key are joined. Their counts are added, and the details
    come from the later refusal.
    """
    rows: dict[tuple[str, ...], RefusalRow] = {}
    for row in chain.from_iterable(lists):
        before = rows.get(row.key)
        if before is None:
            rows[row.key] = row
        else:
            rows[row.key] = _joined(row, before)
    return sorted(rows.values(), key=lambda row: row.last, reverse=True)


def _joined(row: RefusalRow, before: RefusalRow) -> RefusalRow:
    """One row of two; with equal times, the details come from ``before``.

    A new row is made, because the rows of this node are still in its log.
    """
    newer = before
    if row.last > before.last:
        newer = row
    count = row.count + before.count
    first = min(row.first, before.first)
    return replace(newer, count=count, first=first)
