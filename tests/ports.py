"""Ports for programs that cannot take any port: no two tests of this machine
have the same."""

import fcntl
import os
import random
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_FIRST: Final = 15_000
_LAST: Final = 32_000
"""Below the ports that the system gives to outgoing connections."""

_locks: list[int] = []
_taken: set[int] = set()


def free_ports(count: int = 1, *, beside: int = 0, multiple: int = 1) -> int:
    """Return the first of ``count`` free ports in a row. They stay with this
    process until it ends.

    A port of the system's choice (0) can be taken by an outgoing connection of
    any other test before a program listens there, or while it restarts. These
    cannot. ``beside``: how far above each of these ports another one is taken
    too. ``multiple``: what the first is a multiple of.
    """
    for _ in range(1000):
        first = random.randrange(_FIRST, _LAST - count - beside, multiple)
        wanted = list(range(first, first + count))
        wanted += [port + beside for port in wanted if beside]
        if _take(wanted):
            return first
    raise AssertionError(f"no {count} free ports in a row")


def fixed_ports() -> dict[str, int]:
    """The section ``app`` of a server that starts again at its ports."""
    first = free_ports(2)
    return {"http_port": first, "websocket_port": first + 1}


def _take(ports: list[int]) -> bool:
    """Lock these ports against the other processes of the tests, if nobody
    listens there."""
    if not _locks:
        # A lock ends when any descriptor of its file is closed: this one stays
        # open.
        name = Path(tempfile.gettempdir(), f"imserver-test-ports-{os.getuid()}")
        _locks.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with ExitStack() as bound:
        try:
            for port in ports:
                if port in _taken:
                    return False
                fcntl.lockf(_locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                bound.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
    _taken.update(ports)
    return True
