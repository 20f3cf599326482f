"""ZeroMQ sockets under gevent, with the options that both channels have."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import gevent
import zmq
from gevent.event import Event as Signal
from gevent.hub import get_hub

from imserver.errors import StartError

log = logging.getLogger(__name__)

MESSAGE_BYTES: Final = 2_000_000
"""Largest message; ZeroMQ ends a connection that announces more."""
PARTS: Final = 16
"""More make a message malformed; the longest that is due, a request of ZAP, has 9."""
_TURN: Final = 32
"""Messages read before other greenlets have their turn."""

_BOTH: Final = (
    (zmq.RCVHWM, 100),
    (zmq.LINGER, 0),
    (zmq.MAXMSGSIZE, MESSAGE_BYTES),
    (zmq.HANDSHAKE_IVL, 5000),
    # A machine that has gone is noticed by TCP, within nine seconds, and never by heartbeats of ZMTP: libzmq
    # 4.3.5 aborts the process when one is due, or comes, on a connection that broke while its input was
    # stopped by the mark (stream_engine_base.cpp, out_event).
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 3),
    (zmq.TCP_KEEPALIVE_INTVL, 3),
    (zmq.TCP_KEEPALIVE_CNT, 2),
    (zmq.TCP_MAXRT, 9000),
)
_DIALLING: Final = (
    *_BOTH,
    (zmq.SNDHWM, 100),
    # Take nothing while there is no connection: what waits, waits where it is counted.
    (zmq.IMMEDIATE, 1),
    (zmq.CONNECT_TIMEOUT, 3000),
    (zmq.RECONNECT_IVL, 100),
    (zmq.RECONNECT_IVL_MAX, 2000),
)
_LISTENING: Final = (
    *_BOTH,
    # Answers above the mark are dropped, and what was sent is written off only half a mark at a time: with
    # 100, some of 64 answers were lost.
    (zmq.SNDHWM, 1000),
    (zmq.BACKLOG, 512),
)


class Full(Exception):
    """The message was not taken: the peer is not connected, or reads too slowly."""


class Mailbox:
    """A ZeroMQ socket under gevent. One greenlet receives; sending never waits.

    ``on_writable`` is called when the socket was looked at and can send; it must not switch.
    """

    __slots__ = ("_on_writable", "_readable", "_turn", "_watcher", "socket")

    def __init__(
        self, context: zmq.Context[Any], kind: int, on_writable: Callable[[], None] | None = None
    ) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Socket(context, kind)
        self._on_writable = on_writable
        self._readable = Signal()
        self._turn = 0
        descriptor: int = self.socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._watcher = get_hub().loop.io(descriptor, 1)
        self._watcher.start(self.look)

    def connect(self, endpoint: str) -> None:
        """Dial ``tcp://address:port``. Raises ZMQError."""
        self._set(_DIALLING, endpoint)
        self.socket.connect(endpoint)

    def bind(self, endpoint: str) -> str:
        """Listen; returns the endpoint with the port that was taken. Raises ZMQError."""
        self._set(_LISTENING, endpoint)
        self.socket.bind(endpoint)
        bound: bytes = self.socket.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        return bound.rstrip(b"\0").decode()

    def _set(self, options: tuple[tuple[int, int], ...], endpoint: str) -> None:
        for option, value in (*options, (zmq.IPV6, int("[" in endpoint))):
            self.socket.setsockopt(option, value)

    def look(self) -> int:
        """See what the socket can do now (ZeroMQ's ``EVENTS``), and wake up who waits for it. Never switches.

        The descriptor only tells that something changed since anybody looked, and every call takes that sign
        away. So whoever calls, for whatever reason, must see to all who wait.
        """
        if self.socket.closed:
            return 0
        events: int = self.socket.getsockopt(zmq.EVENTS)  # type: ignore[assignment]
        if events & zmq.POLLIN:
            self._readable.set()
        if events & zmq.POLLOUT and self._on_writable is not None:
            self._on_writable()
        return events

    def writable(self) -> bool:
        """Whether a message would be taken now."""
        return bool(self.look() & zmq.POLLOUT)

    def send(self, parts: list[bytes]) -> None:
        """Send one message. Raises :class:`Full`. Never switches."""
        if self.socket.closed:
            raise Full
        try:
            if len(parts) == 1:
                self.socket.send(parts[0], zmq.NOBLOCK)
            else:
                self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            raise Full from None
        except zmq.ZMQError as error:
            log.exception("an RPC socket failed")
            raise Full from error

    def receive(self) -> list[bytes]:
        """The parts of the next message; waits for it. None of one that has more than ``PARTS``.

        Ends the greenlet when the socket is closed: zerorpc's loops go on after any other exception.
        """
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            gevent.sleep(0)
        try:
            while True:
                try:
                    first = self.socket.recv(zmq.NOBLOCK)
                    break
                except zmq.Again:
                    self._turn = 0
                    self._readable.clear()
                    self.look()
                    self._readable.wait()
            if self.socket.getsockopt(zmq.RCVMORE):
                return self._rest(first)
        except zmq.ZMQError as error:
            if not self.socket.closed:
                log.exception("an RPC socket failed")
            raise gevent.GreenletExit from error
        return [first]

    def _rest(self, first: bytes) -> list[bytes]:
        parts, count = [first], 1
        while self.socket.getsockopt(zmq.RCVMORE):
            part = self.socket.recv(zmq.NOBLOCK)
            count += 1
            if count <= PARTS:
                parts.append(part)
            elif count % 1000 == 0:
                gevent.sleep(0)
        return parts if count <= PARTS else []

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what was not sent within ``linger_ms`` from now is dropped. Never waits."""
        if not self.socket.closed:
            self._watcher.stop()
            self._watcher.close()
            self.socket.close(linger_ms)
            self._readable.set()


def private_address(host: str) -> str:
    """The one IP address to listen on, in brackets if it is IPv6. Raises StartError."""
    try:
        text = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        address = ipaddress.ip_address(text.partition("%")[0])
    except (OSError, ValueError, IndexError):
        raise StartError(f"cluster.bind: {host!r} is no address of this machine") from None
    if not host or address.is_unspecified or address.is_multicast:
        raise StartError(
            f"cluster.bind: the RPC is private and must not listen on every address, as {host!r} says"
        )
    return f"[{text}]" if address.version == 6 else text
