"""A process with a listener and too few files, told what to do line by line on its standard input.

``report`` prints its counters as JSON; ``free`` closes all connections that it has accepted. Each connection
that it accepts gets a ``hi``.
"""

import json
import os
import resource
import sys

from gevent import socket as gevent_socket
from gevent.hub import get_hub

from imserver.gateway.metrics import Metrics
from imserver.gateway.transport import poller
from imserver.gateway.transport.listener import Listener, bind

SPARE_FILES = 12


class HastyListener(Listener):
    """Tries again soon."""

    PAUSE_SECONDS = 0.1


def main() -> None:
    """Serve until standard input ends."""
    hub = get_hub()
    metrics = Metrics()
    accepted = []
    turns = 0

    def accept(sock, _address) -> None:  # type: ignore[no-untyped-def]
        sock.send(b"hi")
        accepted.append(sock)

    def turned() -> None:
        nonlocal turns
        turns += 1

    watcher = hub.loop.prepare()
    watcher.start(turned)
    sock = bind("127.0.0.1", 0, 128, False)
    listener = HastyListener(sock, poller.make(hub.loop, 4), hub.loop, metrics, accept)
    files = len(os.listdir("/proc/self/fd")) + SPARE_FILES
    plenty = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, plenty[1]))
    print(listener.port, flush=True)
    while True:
        gevent_socket.wait_read(0)
        for line in os.read(0, 1000).decode().split() or ["end"]:
            if line == "end":
                resource.setrlimit(resource.RLIMIT_NOFILE, plenty)
                sys.exit()
            if line == "free":
                for sock in accepted:
                    sock.close()
                accepted.clear()
            print(json.dumps({"turns": turns, **metrics.snapshot()}), flush=True)


if __name__ == "__main__":
    main()
