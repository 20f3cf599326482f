"""Commands that clients of streams send in requests of their own, to any node."""

from __future__ import annotations

import logging
from collections import deque
from enum import StrEnum
from typing import Final

import gevent
from msgspec import Struct

from imserver.plugin.errors import CloseCode
from imserver.plugin.services import ClusterServices, SessionServices
from imserver.plugin.wire import Connection, Stream

log = logging.getLogger(__name__)

MAX_WAITING: Final = 100
"""Requests of one client that wait for the ones before them."""


class Emulated(StrEnum):
    """The result of the commands in a request."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """No stream has this session."""
    TOO_LARGE = "too_large"
    FAILED = "failed"
    """The node of the stream does not answer."""


class EmulatedCommands(Struct, frozen=True, array_like=True):
    """Serve commands of the client whose stream has this number on the queried node."""

    number: int
    data: bytes


class Emulation:
    """Finds the stream of a request, on any node. Owner of the requests that wait.

    The answers to commands are sent on the stream.
    """

    def __init__(self, sessions: SessionServices, cluster: ClusterServices) -> None:
        self._table = sessions.table
        self._others = cluster.others
        self._waiting: dict[Connection, deque[bytes]] = {}
        cluster.queries.add("emulate", EmulatedCommands, self._serve_here)

    def serve(self, session: str, data: bytes) -> Emulated:
        """Serve the commands ``data`` of the client whose secret is ``session``.

        May switch. Does not wait for the end of the commands.
        """
        address = self._table.secrets.read(session)
        if address is None:
            return Emulated.UNKNOWN
        commands = EmulatedCommands(address.number, data)
        if address.birth == self._table.secrets.birth:
            return self._serve_here(commands)
        lease = None if self._others is None else self._others.born(address.birth)
        if self._others is None or lease is None:
            return Emulated.UNKNOWN
        answer: Emulated | None = self._others.query_behind(lease, "emulate", commands, Emulated)
        return Emulated.FAILED if answer is None else answer

    def _serve_here(self, commands: EmulatedCommands) -> Emulated:
        """Serve commands of a stream of this node, those of one stream in their order. Never switches."""
        stream = self._table.at(commands.number)
        if not isinstance(stream, Stream):
            return Emulated.UNKNOWN
        if len(commands.data) > stream.encoding.limit_bytes:
            return Emulated.TOO_LARGE
        stream.pinged_at = 0.0
        waiting = self._waiting.get(stream)
        if waiting is None:
            self._waiting[stream] = deque((commands.data,))
            gevent.spawn(self._run, stream)
        elif len(waiting) < MAX_WAITING:
            waiting.append(commands.data)
        else:
            stream.close(CloseCode.RATE_LIMIT)
        return Emulated.ACCEPTED

    def _run(self, stream: Connection) -> None:
        """Greenlet: run the queued commands."""
        waiting = self._waiting[stream]
        try:
            while waiting and stream.is_open:
                stream.encoding.serve(stream, waiting.popleft(), stream.encoding.dialect.text)
        except Exception:
            log.exception("serving failed", extra={"connection": stream.peer})
            stream.lost()
        finally:
            del self._waiting[stream]
