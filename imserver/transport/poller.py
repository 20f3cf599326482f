"""The poller of this platform: all parked sockets in one epoll instance, or a watcher each."""

from __future__ import annotations

from typing import Any

from imserver.transport.epoll import EPOLL, EpollPoller
from imserver.transport.readers import NO_SOCKET
from imserver.transport.watchers import WatcherPoller

Poller = EpollPoller | WatcherPoller


def make(loop: Any, readers: int) -> Poller:
    """The best poller of this platform; ``readers`` of its greenlets are kept when nothing is to do."""
    return WatcherPoller(loop, readers) if EPOLL is None else EpollPoller(loop, readers)


__all__ = ["NO_SOCKET", "EpollPoller", "Poller", "WatcherPoller", "make"]
