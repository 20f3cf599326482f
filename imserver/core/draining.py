"""Takes the clients off a node: at its end, and while an operator wants none there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import gevent
from msgspec import Struct

from imserver import errors
from imserver.config.settings import Config
from imserver.core.services import NetworkServices, NodeState, PushServices
from imserver.push.routing import RETURN_SECONDS

_CLOSES_PER_TURN: Final = 200


class Draining(Struct, frozen=True):
    """Closes the clients of this node. ``on_drain``: called before that, while the node is drained. Owner of
    :attr:`NodeState.drained`."""

    node: NodeState
    network: NetworkServices
    push: PushServices
    on_drain: Sequence[Callable[[], object]]
    config: Config

    def close_clients(self) -> None:
        """Close all clients with 1001, spread over time so that they do not all reconnect at once. Pushes
        that are on their way to them follow them. Switches."""
        connections, rerouting = self.network.context.connections, self.push.rerouting
        self._await_returns(RETURN_SECONDS)
        self._close(lambda: True)
        wait_while(lambda: bool(connections), self.config.websocket.close_seconds + 1)
        for connection in tuple(connections):
            connection.lost()
        if rerouting is not None:
            wait_while(lambda: rerouting.waiting, RETURN_SECONDS)

    def drain(self) -> None:
        """Refuse new clients and close the others, as at the end of the node, which goes on and answers
        requests. Switches."""
        node = self.node
        if node.drained:
            return
        node.drained = True
        gevent.sleep(self.config.drain.delay_seconds)
        if not node.drained:
            return
        self.network.gate.full = True
        for call in self.on_drain:
            call()
        self._await_returns(RETURN_SECONDS)
        self._close(lambda: node.drained)
        if node.drained:
            self.push.pending.pass_on()

    def undrain(self) -> None:
        """Serve clients again. Never switches."""
        self.node.drained = False
        self._await_returns(0.0)
        self.network.gate.full = self.node.life == "stops"

    def _await_returns(self, seconds: float) -> None:
        if self.push.rerouting is not None:
            self.push.rerouting.patience = seconds

    def _close(self, goes_on: Callable[[], bool]) -> None:
        """Begin to close all clients while ``goes_on``. Switches."""
        clients = [each for each in self.network.context.connections if each.is_open]
        turns = -(-len(clients) // _CLOSES_PER_TURN)
        pause = max(self.config.drain.close_seconds / turns if turns > 1 else 0.0, 0.001)
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
                if not goes_on():
                    return
            connection.close(errors.CloseCode.GOING_AWAY)


def wait_while(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until ``condition`` is false, at most ``seconds``. Switches."""
    deadline = monotonic() + seconds
    while condition() and monotonic() < deadline:
        gevent.sleep(0.01)
