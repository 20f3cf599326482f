"""The results of the last notifications of each app, on all nodes."""

from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from time import time
from typing import Annotated, Final

from msgspec import Struct

from imserver.notifications.contract import Delivery
from imserver.plugin.http import about
from imserver.plugin.services import Core

MOST_RECENT: Final = 100
"""Notifications of one app that a node remembers."""
MOST_USERS: Final = 5000
"""Users whose last notifications a node remembers."""
_MOST_OF_USER: Final = 5
_PROBLEM_CHARACTERS: Final = 200
QUERY: Final = "notifications.recent"
FORGET: Final = "notifications.forget"


class RecentDelivery(Struct, frozen=True, array_like=True):
    """A notification and its outcome, as nodes send it to each other."""

    time: Annotated[int, about("The time, in Unix seconds.")]
    user: str
    kind: Annotated[str, about("`message`, `push`, `test` or `close`.")]
    host: Annotated[str, about("The push service.")]
    endpoint: Annotated[int, about("The number of the endpoint.")]
    outcome: Annotated[
        str,
        about(
            "`taken`, `later` (the server tries again), `gone` (the endpoint has "
            "ended), `refused`, `expired`, `replaced`, `read` or `removed`."
        ),
    ]
    problem: Annotated[
        str, about("The answer of the push service, or why no answer came.")
    ]


class RecentQuery(Struct, frozen=True, array_like=True):
    """Query for the last deliveries of a node: to a user of an app, or
    (``user`` ``""``) to all users of the app."""

    app: str
    user: str
    limit: int


class ForgetRecentQuery(Struct, frozen=True, array_like=True):
    """Query to forget the deliveries to a deleted user; ``user`` ``""``: all
    deliveries of an app."""

    app: str
    user: str


class RecentDeliveries:
    """Remembers the last notifications of this node, for operators.

    :meth:`of` and :meth:`forget` ask the other nodes, too, and switch
    greenlets.
    """

    def __init__(self, core: Core) -> None:
        """Remember nothing yet, and answer the queries of other nodes."""
        self._by_app: dict[str, deque[RecentDelivery]] = {}
        """App → its last deliveries, the newest first."""
        self._by_user: dict[tuple[str, str], deque[RecentDelivery]] = {}
        """(app, user) → their last deliveries. The user with the newest
        delivery comes last."""
        self._ask = core.ask_others
        core.queries.add(QUERY, RecentQuery, self._here)
        core.queries.add(FORGET, ForgetRecentQuery, self._forget_here)

    def note(self, delivery: Delivery, outcome: str, problem: str = "") -> None:
        """Remember the outcome of a delivery.

        ``problem``: why it failed; ``""``: it has not failed.
        """
        recent = RecentDelivery(
            time=int(time()),
            user=delivery.user,
            kind=delivery.kind,
            host=delivery.host,
            endpoint=delivery.endpoint,
            outcome=outcome,
            problem=problem[:_PROBLEM_CHARACTERS],
        )
        of_app = self._by_app.setdefault(delivery.app, deque(maxlen=MOST_RECENT))
        of_app.appendleft(recent)
        self._note_for_user((delivery.app, delivery.user), recent)

    def _note_for_user(self, key: tuple[str, str], recent: RecentDelivery) -> None:
        """Remember a delivery in the list of its user.

        A few deliveries of each user are stored separately, because a large
        audience displaces them from the list of the app. ``key``: (app, user).
        """
        # Removed and added again, so that the user comes last.
        of_user = self._by_user.pop(key, None) or deque(maxlen=_MOST_OF_USER)
        of_user.appendleft(recent)
        self._by_user[key] = of_user
        if len(self._by_user) > MOST_USERS:
            oldest_key = next(iter(self._by_user))
            del self._by_user[oldest_key]

    def of(
        self, app: str, user: str, limit: int
    ) -> tuple[list[RecentDelivery], list[str]]:
        """Return the last deliveries to a user, of all nodes, the newest first.

        ``user`` ``""``: to all users of the app. The second value names the
        nodes that did not answer. Switches greenlets.
        """
        query = RecentQuery(app, user, limit)
        answers, missing = self._ask(QUERY, query, list[RecentDelivery])
        deliveries = [*self._here(query), *chain.from_iterable(answers.values())]
        # Each node has sent its list in order; together they must be sorted
        # again.
        return sorted(deliveries, key=lambda one: -one.time)[:limit], missing

    def _here(self, query: RecentQuery) -> list[RecentDelivery]:
        """Return the last deliveries of this node, the newest first."""
        deliveries: Iterable[RecentDelivery]
        if query.user:
            deliveries = self._by_user.get((query.app, query.user), ())
        else:
            deliveries = self._by_app.get(query.app, ())
        return list(islice(deliveries, query.limit))

    def forget(self, app: str, user: str = "") -> None:
        """Forget the deliveries to a user, on all nodes that answer.

        ``user`` ``""``: forget all deliveries of the app. Switches greenlets.
        """
        query = ForgetRecentQuery(app, user)
        self._forget_here(query)
        self._ask(FORGET, query, bool)

    def _forget_here(self, query: ForgetRecentQuery) -> bool:
        """Forget deliveries on this node.

        It is the answer to a query of another node, which needs a value: True.
        """
        of_app = self._by_app.pop(query.app, ())
        # Without a user, the whole list of the app is forgotten by that.
        if query.user:
            to_others = [one for one in of_app if one.user != query.user]
            if to_others:
                self._by_app[query.app] = deque(to_others, maxlen=MOST_RECENT)
            self._by_user.pop((query.app, query.user), None)
        else:
            self._by_user = {
                (app, user): of_user
                for (app, user), of_user in self._by_user.items()
                if app != query.app
            }
        return True
