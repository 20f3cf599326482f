"""What a forked child does: let go of what is its parent's, run one node, end."""

import faulthandler
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import gevent

from imserver import serving
from imserver.clock import until_beat
from imserver.config import Config
from imserver.errors import StartError
from imserver.node import Node
from imserver.parent.page import Page
from imserver.parent.slot import Slot

#: Writes the Python stack to standard error; what a child whose loop hangs gets before it is killed.
STACK: Final = signal.SIGQUIT

_READ: Final = 1


@dataclass(frozen=True)
class Inheritance:
    """What the parent hands to a child. ``let_go`` gives up what is the parent's or another child's."""

    slot: Slot
    config: Config
    read_config: Callable[[], Config]
    lifeline: int
    """Readable when the parent is gone."""
    let_go: Callable[[], None]
    beat_seconds: float


def live(inheritance: Inheritance) -> NoReturn:
    """All of a child's life: nothing of the parent's code runs in it, neither before nor after."""
    status = 1
    try:
        gevent.reinit()
        status = _live(inheritance)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _live(inheritance: Inheritance) -> int:
    os.setpgid(0, 0)  # a Ctrl-C is the parent's to pass on
    inheritance.let_go()
    faulthandler.register(STACK, file=sys.__stderr__ or 2, all_threads=False)
    slot = inheritance.slot
    pulse = _Pulse(slot.page, inheritance.beat_seconds)
    orphaned = gevent.get_hub().loop.io(inheritance.lifeline, _READ, ref=False)
    orphaned.start(_end_with_parent, orphaned)
    listeners = {
        name: socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        for name, sock in slot.listeners.items()
    }
    try:
        serving.serve(inheritance.config, inheritance.read_config, pulse.started, listeners, slot.name)
    except StartError as error:
        slot.page.excuse(str(error))
        return 1
    return 0


class _Pulse:
    """Tells the parent that the loop turns: a callback of the loop, no greenlet."""

    def __init__(self, page: Page, seconds: float) -> None:
        self._page = page
        self._node: Node | None = None
        self._beat()
        loop = gevent.get_hub().loop
        loop.update_now()  # the loop's time is that of its last turn, and what was done since took some
        self._timer: Any = loop.timer(until_beat(seconds), seconds, ref=False)
        self._timer.start(self._beat)

    def started(self, node: Node) -> None:
        """From now on also how the node is."""
        self._node = node
        self._beat()

    def _beat(self) -> None:
        node = self._node
        if node is None:
            self._page.beat(False, False, False)
        else:
            full = len(node.carrier.connections) >= node.max_connections
            self._page.beat(True, node.ready(), full)


def _end_with_parent(orphaned: Any) -> None:
    orphaned.stop()
    logging.getLogger(__name__).error("the parent process is gone")
    os.kill(os.getpid(), signal.SIGTERM)
