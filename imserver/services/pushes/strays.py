"""Strays: pushes that another node has sent here for a user who is not here any more, or not yet.

Between a look into the registry and the arrival of a push its user may have logged in elsewhere; and here a
login may have been registered whose answer has not come back. A stray waits for the login, or follows the
user to the node where the registry finds them now, in the order of arrival. What reaches nobody is counted.
"""

from __future__ import annotations

import logging
from collections import deque

import gevent
from msgspec.structs import replace

from imserver.cluster.contract import Registry
from imserver.services.nodes.courier import Courier, ToUser
from imserver.services.pushes.order import Arrivals
from imserver.services.pushes.pushing import Delivers
from imserver.services.sessions.cluster_sessions import ClusterSessions

log = logging.getLogger(__name__)

MAX_HOPS = 3
"""How often a push may follow its user."""
MAX_STRAYS = 10_000
_BEGIN_SECONDS = 0.01
_BEGIN_LOOKS = 100


class Strays:
    """Owner of the queues, one a user, and of the greenlets that empty them."""

    def __init__(
        self,
        registry: Registry,
        courier: Courier,
        delivery: Delivers,
        sessions: ClusterSessions,
        arrivals: Arrivals,
    ) -> None:
        self._registry = registry
        self._courier = courier
        self._delivery = delivery
        self._sessions = sessions
        self._arrivals = arrivals
        self._queues: dict[tuple[str, str], deque[ToUser]] = {}
        self._count = 0
        self.followed = 0
        """Pushes that were sent on to where their user had gone."""
        self.unreached = 0
        """Pushes that were accepted by a node and reached nobody, those that were overtaken included."""

    def deliver(self, item: ToUser) -> None:
        """Deliver here, behind earlier strays of the same user if there are any. Never switches."""
        queue = self._queues.get((item.app, item.user))
        if queue is None and self._deliver(item):
            return
        if self._count >= MAX_STRAYS:
            self.unreached += 1
            return
        self._count += 1
        if queue is not None:
            queue.append(item)
            return
        self._queues[item.app, item.user] = deque([item])
        gevent.spawn(self._run, item.app, item.user)

    def _deliver(self, item: ToUser) -> bool:
        """Deliver, or drop what was overtaken; False if the user is not here. Never switches."""
        app, user = item.app, item.user
        if item.hops and self._arrivals.is_overtaken(app, user, item.origin, item.number):
            self.unreached += 1
            return True
        if not self._delivery.to_user(app, user, item.event, item.device):
            return False
        self._arrivals.reached(app, user, item.origin, item.number)
        return True

    def _run(self, app: str, user: str) -> None:
        """Greenlet: serve the strays of one user until there are none."""
        queue = self._queues[app, user]
        try:
            while queue:
                if not self._serve(queue[0]):
                    self.unreached += 1
                queue.popleft()
                self._count -= 1
        except Exception:
            log.exception("strays of %s in %s failed", user, app)
            self.unreached += len(queue)
            self._count -= len(queue)
        finally:
            del self._queues[app, user]

    def _serve(self, item: ToUser) -> bool:
        """Deliver one stray, wherever its user is now; False if nobody knows where that is."""
        for _ in range(_BEGIN_LOOKS):
            if self._deliver(item):
                return True
            if not self._sessions.is_beginning(item.app, item.user):
                break
            gevent.sleep(_BEGIN_SECONDS)
        found = self._registry.find(item.app, [item.user])
        if self._deliver(item):
            return True
        if found is None or not item.alone or item.hops >= MAX_HOPS:
            return False
        epochs = {place.epoch for place in found[0]} - {self._courier.own_epoch}
        onward = replace(item, hops=item.hops + 1, alone=len(epochs) == 1)
        sent = sum(self._courier.to_life(epoch, onward) for epoch in epochs)
        self.followed += sent > 0
        return sent > 0
