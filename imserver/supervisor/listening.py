"""Listening sockets: one per child and port, which share the port with SO_REUSEPORT. A Unix socket cannot be
shared so: all children accept from one queue.

The supervisor creates and keeps them, and each child inherits its own: connections in the accept queue of a
killed child wait for its successor. The sockets are raw, because a gevent socket would start a loop.
"""

import _socket
import logging
import os
import sys
from array import array
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

from imserver.config.settings import Config
from imserver.errors import StartError
from imserver.node.http_servers import listeners_of
from imserver.process import cannot_listen
from imserver.transport.listener import bind_raw, bind_unix

_log = logging.getLogger(__name__)

Listeners = dict[str, _socket.socket]
"""The sockets of one child by listener name (``servers.listeners_of``)."""

_ATTACH_PROGRAM: Final = 51
"""SO_ATTACH_REUSEPORT_CBPF of Linux; not in the standard library."""


def resolve(host: str) -> str:
    """The first address of a host. Raises StartError."""
    try:
        found = _socket.getaddrinfo(host, 0, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"server.host {host} cannot be resolved: {error.strerror}") from None
    return str(found[0][4][0])


def listen(config: Config, count: int) -> list[Listeners]:
    """Listen on all ports for ``count`` children; port 0 takes a free port, the same for all.

    Raises :class:`StartError` if an address is not available, or if another process listens there with
    SO_REUSEPORT and would lose clients.
    """
    shares: list[Listeners] = [{} for _ in range(count)]
    server = config.server
    for name, row in listeners_of(config).items():
        port = row.port
        try:
            if row.socket:
                _share(bind_unix(row.socket, row.mode, server.backlog), name, shares)
                continue
            if port and not server.reuse_port:
                bind_raw(row.host, port, False).close()
            for listeners in shares:
                sock = listeners[name] = bind_raw(row.host, port, True)
                sock.listen(server.backlog)
                port = sock.getsockname()[1]
        except (OSError, StartError) as error:
            for listeners in shares:
                close(listeners)
            refused = error if isinstance(error, StartError) else cannot_listen(row.host, port, error)
            raise refused from None
    return shares


def _share(sock: _socket.socket, name: str, shares: Sequence[Listeners]) -> None:
    """Give each child its own descriptor of one listening socket."""
    for listeners in shares:
        fd = os.dup(sock.fileno())
        listeners[name] = _socket.socket(sock.family, sock.type, sock.proto, fd)
    sock.close()


def close(listeners: Mapping[str, _socket.socket]) -> None:
    """Close the sockets of one child in this process."""
    for sock in listeners.values():
        sock.close()


class ConnectionSteering:
    """Sends new connections only to children that can serve them.

    A classic BPF program selects the listener by number (SO_ATTACH_REUSEPORT_CBPF; needs no privilege). Where
    it is not ``possible`` (no Linux, or other processes share the ports) connections wait in the queue of the
    child.
    """

    _INSTRUCTION = Struct("=HBBI")
    _PROGRAM = Struct("@HP")

    def __init__(self, all_listeners: Sequence[Listeners], possible: bool = True) -> None:
        self._count = len(all_listeners)
        # One program applies to all sockets of the port.
        self._firsts = [each for each in all_listeners[0].values() if each.family != _socket.AF_UNIX]
        self._closed: frozenset[int] = frozenset()
        self._possible = possible and sys.platform == "linux"

    def exclude(self, closed: frozenset[int]) -> None:
        """Send new connections to the other children from now on. If all are excluded, none is."""
        if len(closed) == self._count:
            closed = frozenset()
        if closed == self._closed or not self._possible:
            return
        self._closed = closed
        program = array("B", b"".join(self._program(closed)))
        address, size = program.buffer_info()
        option = self._PROGRAM.pack(size // self._INSTRUCTION.size, address)
        try:
            for sock in self._firsts:
                sock.setsockopt(_socket.SOL_SOCKET, _ATTACH_PROGRAM, option)
        except OSError as error:
            self._possible = False
            _log.info(
                "connection steering is unavailable (%s): while a node restarts, its new connections wait",
                error.strerror,
            )

    def _program(self, closed: frozenset[int]) -> list[bytes]:
        pack = self._INSTRUCTION.pack
        if not closed:
            return [pack(0x06, 0, 0, 0xFFFFFFFF)]  # out of range: the kernel chooses by hash
        program = [
            pack(0x20, 0, 0, 0xFFFFF000 + 56),  # A = a random number
            pack(0x94, 0, 0, self._count - len(closed)),  # A = A mod open listeners
        ]
        for number in sorted(closed):
            program += [
                pack(0x35, 0, 1, number),  # if A >= number:
                pack(0x04, 0, 0, 1),  # A += 1
            ]
        return [*program, pack(0x16, 0, 0, 0)]  # return A
