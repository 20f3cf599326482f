"""The listening sockets of all children: one a child and port, which share the port by SO_REUSEPORT.

The parent makes and keeps them, a child inherits its own. So what waits in the queue of a killed child waits
for the next one, and no handshake is lost. They are raw: sockets of a patched process make a loop.
"""

import _socket
import logging
import sys
from array import array
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final

from imserver.config import Config
from imserver.doors import listeners_of
from imserver.errors import StartError

_log = logging.getLogger(__name__)

Listeners = dict[str, _socket.socket]
"""The sockets of one child by the name of their listener (``doors.listeners_of``)."""

_ATTACH_PROGRAM: Final = 51
"""SO_ATTACH_REUSEPORT_CBPF of Linux, which the standard library does not name."""


def resolve(host: str) -> str:
    """The first address of a host. Raises StartError."""
    return str(_addresses(host, 0)[4][0])


def listen(config: Config, count: int) -> list[Listeners]:
    """Listen on all ports for so many children; port 0 takes any free one, the same for all.

    Raises :class:`StartError` with one clear line if an address cannot be had; also if somebody else listens
    there with SO_REUSEPORT, who would lose clients to us without knowing.
    """
    made: list[Listeners] = [{} for _ in range(count)]
    server = config.server
    for name, row in listeners_of(config).items():
        port = row.port
        try:
            if port and not server.reuse_port:
                _bound(row.host, port, alone=True).close()
            for listeners in made:
                sock = listeners[name] = _bound(row.host, port)
                sock.listen(server.backlog)
                port = sock.getsockname()[1]
        except OSError as error:
            for listeners in made:
                close(listeners)
            raise StartError(f"cannot listen on {row.host}:{port}: {error.strerror or error}") from None
    return made


def close(listeners: Mapping[str, _socket.socket]) -> None:
    """Close the sockets of one child, in this process."""
    for sock in listeners.values():
        sock.close()


def _bound(host: str, port: int, alone: bool = False) -> _socket.socket:
    family, kind, proto, _, address = _addresses(host, port)
    sock = _socket.socket(family, kind, proto)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        if not alone:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _addresses(host: str, port: int) -> tuple[int, int, int, str, Any]:
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"server.host {host} cannot be resolved: {error.strerror}") from None
    return found[0]


class Steering:
    """Keeps new clients away from children that take none: in the queue they would wait until one is back.

    A small program tells the kernel which listener gets a client, by number in the order in which they began
    to listen (SO_ATTACH_REUSEPORT_CBPF, which needs no privilege). Where that is not ``possible``, clients
    wait: without Linux, or when others listen on the same ports.
    """

    _INSTRUCTION = Struct("=HBBI")
    _PROGRAM = Struct("@HP")

    def __init__(self, all_listeners: Sequence[Listeners], possible: bool = True) -> None:
        self._count = len(all_listeners)
        # A program counts for all that share the port.
        self._firsts = tuple(all_listeners[0].values())
        self._closed: frozenset[int] = frozenset()
        self._possible = possible and sys.platform == "linux"

    def keep_away_from(self, closed: frozenset[int]) -> None:
        """Send new clients to the other children from now on. If none is left, nobody is kept away."""
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
            _log.info("new clients wait for a node that starts again: %s", error.strerror)

    def _program(self, closed: frozenset[int]) -> list[bytes]:
        pack = self._INSTRUCTION.pack
        if not closed:
            return [pack(0x06, 0, 0, 0xFFFFFFFF)]  # return no listener: the kernel chooses by hash
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
