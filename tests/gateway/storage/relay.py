"""What stands between the server and its database: it counts round trips, and
cuts a connection in one."""

import select
import socket
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, Literal, Self

from sqlalchemy import make_url


class Relay(ThreadingTCPServer):
    """Carries connections to the database at ``url``. Its own address is
    ``self.url``.

    ``trips``: how often a client has sent something behind an answer.
    ``cut_in``: the round trip, counted from now, in which the connection is
    cut, with what the client has sent or with the answer to it.
    """

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), BaseRequestHandler)
        target = make_url(url)
        self._target = (target.host, target.port)
        self.url = target.set(port=self.server_address[1]).render_as_string(
            hide_password=False
        )
        self.trips = 0
        self._cut: tuple[int, str] = (-1, "")

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def cut_in(self, trip: int, what: Literal["question", "answer"]) -> None:
        """Cut the connection that makes this round trip: its ``what`` is
        lost."""
        self._cut = (self.trips + trip, what)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with suppress(OSError), socket.create_connection(self._target) as server:
            ends = {request: server, server: request}
            source: Any = server
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    self.trips += end is request and source is server
                    source = end
                    piece = end.recv(65536)
                    if not piece:
                        return
                    if (
                        self.trips,
                        "question" if end is request else "answer",
                    ) == self._cut:
                        self._cut = (-1, "")
                        return
                    ends[end].sendall(piece)

    def shutdown_request(self, request: Any) -> None:
        request.close()
