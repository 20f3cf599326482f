"""``GET /gateway``: where to connect, for clients that ask before they do."""

import random
from collections.abc import Collection
from typing import Protocol

import msgspec
from flask import abort, request
from werkzeug.wrappers import Response

from imserver.api.reply import PREFLIGHT, Answer
from imserver.api.views import to_response
from imserver.cluster.registry import Lease
from imserver.errors import HTTP_NOT_READY
from imserver.pages.address import websocket_address
from imserver.pages.seen import Listening, Seen
from imserver.services.sessions.overview import Overview


class Member(Listening, Protocol):
    """A node that knows the others."""

    @property
    def overview(self) -> Overview: ...


class Gateway:
    """Recommends a node. Stateless; never blocks."""

    def __init__(self, node: Member, seen: Seen) -> None:
        self._node = node
        self._seen = seen

    def answer(self) -> Response:
        """``{"url": …}``: the address of a node that is not about to stop; 503 if there is none.

        Where no node has an address of its own, they are all behind the one that the caller has used.
        """
        if request.method == "OPTIONS":
            return to_response(PREFLIGHT)
        live = [lease for lease in self._node.overview.leases().values() if not lease.draining]
        if not live:
            abort(HTTP_NOT_READY.status)
        lease = less_loaded([lease for lease in live if websocket_address(lease.public_ws_url)])
        url = self._seen.websocket() if lease is None else websocket_address(lease.public_ws_url)
        response = to_response(Answer(200, msgspec.json.encode({"url": url})))
        response.headers["Cache-Control"] = "no-store"
        return response


def less_loaded(leases: Collection[Lease]) -> Lease | None:
    """The one with fewer connections of two that are chosen at random; None of none.

    Figures of load are seconds old: if all took the emptiest, a crowd would fall upon it.
    """
    two = random.sample(list(leases), min(2, len(leases)))
    return min(two, key=lambda lease: lease.connections, default=None)
