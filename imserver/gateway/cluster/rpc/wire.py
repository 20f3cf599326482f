"""zerorpc over our own ZeroMQ sockets: message formats, sockets, limits. It is
the only module that imports internals of zerorpc.

zerorpc 0.6.3 provides the message format, the call (``Client``, ``Server``) and
the one-way push (``Pusher``, ``Puller``). Its lower part (``Events``, gevent
sockets) is replaced by :class:`Wire`, because it

- ends a Puller on the first message that is not an event, and ends the
  dispatcher of a Server or Client on the first header of a wrong type. A Wire
  decodes by type and drops other messages;
- waits without end in ``send`` while a peer is away, even with a timeout. It
  waits again when its sender is killed, so that ``close`` never returns. A Wire
  never waits to send;
- wakes up each second for each receiving socket; a Wire wakes up when there is
  data.

zerorpc has no type annotations. Nothing untyped leaves this module. See
docs/decisions/0009-rpc.md.
"""

from __future__ import annotations

import _socket
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import gevent
import msgspec
import zerorpc
import zmq
from gevent.event import Event as Flag
from gevent.hub import get_hub
from msgspec import Meta, Struct
from zerorpc.channel_base import ChannelBase
from zerorpc.core import ClientBase, ServerBase

from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.errors import StartError
from imserver.gateway.logging import RateLimitedLog

log = logging.getLogger(__name__)
# At level debug, zerorpc writes two lines for each call. Its warnings are not
# needed, because a Wire drops bad messages before zerorpc sees them.
logging.getLogger("zerorpc").setLevel(logging.WARNING)

CALLS_AT_ONCE: Final = 1000
"""Limit of the queries of other nodes that are answered at one time. Each query
takes three greenlets."""

OK, FAILED, BUSY, STALE, VERSION, TOO_LARGE = range(6)
"""The codes of answers. A code is the first half of an answer. The second half
is empty unless the code is OK."""
REASONS: Final = (
    "",
    "it failed",
    "it is busy",
    "it has another epoch",
    "it speaks another version",
    "its answer is too large",
)

_PROTOCOL: Final = 3
"""The version of zerorpc's messages."""
_BATCH_PARTS: Final = 1
"""The number of parts of a message of ZeroMQ with a batch: the event."""
_QUERY_PARTS: Final = 3
"""The number of parts of a message with a query: the connection, an empty part,
and the event."""
_ANSWER_PARTS: Final = 2
"""The number of parts of a message with an answer: an empty part, and the
event."""
_TURN_MESSAGES: Final = 32
"""How many messages a socket receives before other greenlets have their
turn."""
_REST_PARTS: Final = 1000
"""How many surplus parts of a message are read before other greenlets have
their turn."""

Epoch = Annotated[int, Meta(ge=0)]
Answer = tuple[int, bytes]
"""The code and the body of the answer to a query."""

_log_malformed = RateLimitedLog(log, "dropped a malformed message on an RPC port")


class _Head(Struct):
    """The header of zerorpc's events.

    ``v`` is the version of the protocol. ``response_to`` is the ``message_id``
    of the query that the event answers; None for a query.
    """

    v: int = 1
    message_id: Annotated[bytes, Meta(max_length=64)] = b""
    response_to: Annotated[bytes, Meta(max_length=64)] | None = None


_Batch = tuple[
    int,
    Epoch,
    Epoch,
    Annotated[int, Meta(ge=1)],
    Annotated[list[bytes], Meta(min_length=1)],
]
"""Version, epoch of the sender, epoch of the destination, number of the first
item, items."""
_Query = tuple[int, Epoch, Annotated[str, Meta(max_length=64)], bytes]
"""Version, epoch of the asked node, kind, body."""
# An event of zerorpc is a header, a name and its arguments.
read_batch = msgspec.msgpack.Decoder(tuple[_Head, str, _Batch]).decode
read_query = msgspec.msgpack.Decoder(tuple[_Head, str, _Query]).decode
read_answer = msgspec.msgpack.Decoder(tuple[_Head, str, msgspec.Raw]).decode
_read_result = msgspec.msgpack.Decoder(tuple[Answer]).decode


class Wire(ChannelBase):  # type: ignore[misc]
    """The socket through which zerorpc's classes send and receive events.

    An event is a header, a name and its arguments. Unlike zerorpc's own class,
    a wire never waits to send, and drops messages that are not events.
    """

    context: zerorpc.Context = None
    recv_is_supported = True
    emit_is_supported = True

    def __init__(
        self,
        context: zerorpc.Context,
        zmq_socket: ZmqSocket,
        read: Callable[[list[bytes]], Any],
        counters: RpcCounters,
    ) -> None:
        """``read`` makes an event from the parts of a message. It returns None
        if the message is to be ignored. It raises ValueError or RecursionError
        if the message is not an event."""
        self.zmq_socket = zmq_socket
        self.read = read
        self.context = context
        self._counters = counters

    def new_event(self, name: str, args: Any, xheader: Any = None) -> Any:
        """Make an event. zerorpc calls it."""
        return zerorpc.Event(name, args, self.context)

    def emit_event(self, event: Any, timeout: float | None = None) -> None:
        """Send an event at once. Raises :class:`SocketFull`."""
        payload = msgspec.msgpack.encode((event.header, event.name, event.args))
        self.zmq_socket.send([*(event.identity or ()), payload])

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next event. Malformed messages are counted and dropped."""
        while True:
            parts = self.zmq_socket.receive()
            try:
                event = self.read(parts)
            except (ValueError, RecursionError):
                self._counters.malformed += 1
                _log_malformed()
                continue
            if event is not None:
                return event

    def close(self) -> None:
        self.zmq_socket.close()


class _CallWire(Wire):
    """A wire for queries and their answers. If a message is lost, its query
    times out."""

    def emit_event(self, event: Any, timeout: float | None = None) -> None:
        """Send a query or an answer at once. A message that is not accepted is
        lost."""
        payload = msgspec.msgpack.encode((event.header, event.name, event.args))
        try:
            self.zmq_socket.send([*(event.identity or ()), b"", payload])
        except SocketFull:
            return
        finally:
            # Sending may consume the signal of the file descriptor, so the
            # events are read here.
            self.zmq_socket.update_events()


def _no_event(parts: list[bytes]) -> None:
    """Ignore a message, because a sender expects no messages."""


class DataSender(zerorpc.Pusher):  # type: ignore[misc]
    """The sending end of the data channel to one peer."""

    def __init__(
        self, context: zerorpc.Context, zmq_socket: ZmqSocket, counters: RpcCounters
    ) -> None:
        """Prepare to send batches over ``zmq_socket``."""
        self.zmq_socket = zmq_socket
        self._context = context
        self._events = Wire(context, zmq_socket, _no_event, counters)

    def send(
        self,
        version: int,
        sender: int,
        destination: int,
        first: int,
        items: list[bytes],
    ) -> None:
        """Send a batch of items to the peer.

        ``sender`` and ``destination`` are the epochs of the two nodes, and
        ``first`` is the number of the first item. Raises :class:`SocketFull`;
        never switches greenlets.

        An epoch is the number of one life of a node.
        """
        self("batch", version, sender, destination, first, items)


class DataReceiver(zerorpc.Puller):  # type: ignore[misc]
    """The receiving end of the data channel.

    It calls ``batch(version, sender, destination, first, items)`` for each
    batch.
    """

    def __init__(
        self,
        context: zerorpc.Context,
        zmq_socket: ZmqSocket,
        batch: Callable[[int, int, int, int, list[bytes]], None],
        counters: RpcCounters,
    ) -> None:
        """Prepare to receive batches over ``zmq_socket``.

        ``batch`` gets the version, the epochs of the sender and the receiver,
        the number of the first item, and the items.
        """
        self._context = context
        self._events = Wire(context, zmq_socket, _batch_event, counters)
        self._methods = {"batch": batch}
        self._receiver_task = None


def _batch_event(parts: list[bytes]) -> Any:
    """Return the event in a message with a batch. Raises ValueError."""
    if len(parts) != _BATCH_PARTS:
        raise ValueError("another shape")
    _, name, batch = read_batch(parts[0])
    if name != "batch":
        raise ValueError("another shape")
    return zerorpc.Event(name, batch, None, {})


class ControlServer(zerorpc.Server):  # type: ignore[misc]
    """Answers the queries of other nodes.

    ``answer(version, epoch, kind, body)`` returns code and bytes, and never
    raises.
    """

    def __init__(
        self,
        context: zerorpc.Context,
        zmq_socket: ZmqSocket,
        answer: Callable[[int, int, str, bytes], Answer],
        counters: RpcCounters,
    ) -> None:
        """Prepare the server. It answers nothing before :meth:`run`."""
        self._acceptor_task: Any = None
        self._context = context
        self._counters = counters
        self._in_work: set[bytes] = set()
        self._events = _CallWire(context, zmq_socket, self._query_event, counters)
        # zerorpc calls the method "ask" for each query.
        ServerBase.__init__(
            self, self._events, {"ask": answer}, "imserver", context, None, None
        )

    def _inject_builtins(self) -> None:
        """Do not expose zerorpc's introspection methods."""

    def _query_event(self, parts: list[bytes]) -> Any:
        """Return the event in a message with a query. Raises ValueError.

        The result is None if too many queries are being answered. Then the
        query is answered here with BUSY.
        """
        if len(parts) != _QUERY_PARTS:
            raise ValueError("another shape")
        head, name, query = read_query(parts[2])
        self._check_query(head, name)
        identity = parts[:1]
        if len(self._in_work) >= CALLS_AT_ONCE:
            self._refuse_busy(head.message_id, identity)
            return None

        header = {"message_id": head.message_id, "v": _PROTOCOL}
        event = zerorpc.Event(name, query, None, header)
        event.identity = identity
        self._in_work.add(head.message_id)
        return event

    def _check_query(self, head: _Head, name: str) -> None:
        """Raise ValueError unless a message with this head is a new query."""
        if name != "ask" or head.v != _PROTOCOL or head.response_to is not None:
            raise ValueError("another shape")
        # Two simultaneous queries with the same id would share a channel of
        # zerorpc. Then the second query would get the answer to the first.
        if not head.message_id or head.message_id in self._in_work:
            raise ValueError("another shape")

    def _refuse_busy(self, message_id: bytes, identity: list[bytes]) -> None:
        """Answer a query at once by the code BUSY.

        ``identity`` names the connection of the other node.
        """
        self._counters.busy += 1
        answer = self._events.new_event("OK", ((BUSY, b""),))
        answer.header["response_to"] = message_id
        answer.identity = identity
        self._events.emit_event(answer)

    def _async_task(self, initial_event: Any) -> None:
        """Answer one query, as zerorpc does, and then free its id."""
        try:
            super()._async_task(initial_event)
        finally:
            self._in_work.discard(initial_event.header["message_id"])

    def _print_traceback(
        self, protocol_v1: bool, exc_infos: Any
    ) -> tuple[str, str, str]:
        """Log an error that ``answer`` should not have raised. The other node
        gets a code."""
        log.error("a node query failed", exc_info=tuple(exc_infos))
        return "Failed", "", ""

    def close(self) -> None:
        """Stop answering. Never waits.

        Unfinished queries are dropped. The greenlets see the closed socket.
        """
        self.stop()
        self._task_pool.kill(block=False)
        self._events.close()

    def run(self) -> None:
        """Serve until closed.

        Returns early if a greenlet of zerorpc has ended. It may be called
        again.
        """
        # The dispatcher of zerorpc gives each answer to the call that waits for
        # it. Without the dispatcher, nothing would be served.
        mux = self._multiplexer
        if mux._channel_dispatcher_task.dead:
            mux._channel_dispatcher_task = gevent.spawn(mux._channel_dispatcher)
        mux._channel_dispatcher_task.link(lambda dispatcher: self.stop())
        super().run()

    def stop(self) -> None:
        """End :meth:`run`. Never waits."""
        if self._acceptor_task is not None:
            self._acceptor_task.kill(block=False)
            self._acceptor_task = None


class ControlClient(zerorpc.Client):  # type: ignore[misc]
    """Queries one peer."""

    def __init__(
        self, context: zerorpc.Context, zmq_socket: ZmqSocket, counters: RpcCounters
    ) -> None:
        """Prepare to send queries over ``zmq_socket``, without zerorpc's
        heartbeat."""
        self.zmq_socket = zmq_socket
        self._context = context
        self._events = _CallWire(context, zmq_socket, self._answer_event, counters)
        ClientBase.__init__(self, self._events, context, heartbeat=None)

    def close(self) -> None:
        """Disconnect; calls in flight time out. Never waits."""
        self._events.close()

    def query(
        self, version: int, epoch: int, kind: str, body: bytes, seconds: float
    ) -> Answer:
        """Send a query, and wait for the answer. Raises TimeoutError."""
        try:
            answer: Answer = self("ask", version, epoch, kind, body, timeout=seconds)
        except zerorpc.TimeoutExpired:
            raise TimeoutError from None
        return answer

    def _process_response(
        self, request_event: Any, bufchan: Any, timeout: float
    ) -> Any:
        """Wait for the answer to a query, as zerorpc does, and clean up if that
        is interrupted."""
        try:
            return super()._process_response(request_event, bufchan, timeout)
        except BaseException:
            # The caller was killed, or has a time limit of its own. Without
            # this call, two greenlets would stay.
            bufchan.close()
            raise

    def _answer_event(self, parts: list[bytes]) -> Any:
        """Return the event in a message with an answer. Raises ValueError.

        The result is None if nobody waits for the answer any more.
        """
        if len(parts) != _ANSWER_PARTS:
            raise ValueError("another shape")
        head, name, raw = read_answer(parts[1])
        result: Answer = (FAILED, b"")
        if name == "OK":
            result = _read_result(raw)[0]

        # Without a call under this id, the answer is late. A second answer to a
        # call would block the client, because nobody would take it.
        call = self._multiplexer.active_channels.get(head.response_to)
        if call is None or hasattr(call, "answered"):
            return None
        call.answered = True
        header = {"response_to": head.response_to, "v": _PROTOCOL}
        return zerorpc.Event("OK", (result,), None, header)


MESSAGE_BYTES: Final = 2_000_000
"""Most bytes of a message. ZeroMQ ends a connection that announces a larger
message."""
_READABLE: Final = 1
"""The event of gevent's loop that a descriptor is readable."""
PARTS: Final = 16
"""A message with more parts is malformed. The longest valid message, a ZAP
request, has 9 parts."""

_COMMON_OPTIONS: Final = (
    (zmq.RCVHWM, 100),
    (zmq.LINGER, 0),
    (zmq.MAXMSGSIZE, MESSAGE_BYTES),
    (zmq.HANDSHAKE_IVL, 5000),
    # TCP notices within nine seconds that a machine is gone. Heartbeats of ZMTP
    # are not used, because libzmq 4.3.5 may abort the process by them. That
    # happens if a heartbeat is due, or comes, on a connection that broke while
    # its input was stopped by the mark (stream_engine_base.cpp, out_event).
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 3),
    (zmq.TCP_KEEPALIVE_INTVL, 3),
    (zmq.TCP_KEEPALIVE_CNT, 2),
    (zmq.TCP_MAXRT, 9000),
)
_CONNECT_OPTIONS: Final = (
    *_COMMON_OPTIONS,
    (zmq.SNDHWM, 100),
    # Accept no messages while there is no connection. So items wait in the send
    # queue, where they are counted.
    (zmq.IMMEDIATE, 1),
    (zmq.CONNECT_TIMEOUT, 3000),
    (zmq.RECONNECT_IVL, 100),
    (zmq.RECONNECT_IVL_MAX, 2000),
)
_LISTEN_OPTIONS: Final = (
    *_COMMON_OPTIONS,
    # Answers above the high-water mark are dropped. Answers that were sent
    # still count until half as many as the mark were sent. With a mark of 100,
    # some of 64 answers were lost.
    (zmq.SNDHWM, 1000),
    (zmq.BACKLOG, 512),
)


class SocketFull(Exception):
    """The message was not accepted: the peer is not connected, or reads too
    slowly."""


class ZmqSocket:
    """A ZeroMQ socket under gevent.

    Only one greenlet may receive. Sending never waits. ``on_writable`` is
    called when the socket may accept messages again. The function must not
    wait.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        kind: int,
        on_writable: Callable[[], None] | None = None,
    ) -> None:
        """Create the socket, of a ``kind`` such as ``zmq.PUSH``, and watch its
        file descriptor for events."""
        self.socket: zmq.Socket[bytes] = zmq.Socket(context, kind)
        self._on_writable = on_writable
        self._readable = Flag()
        self._turn = 0
        """The number of messages received since the receiver last let other
        greenlets run."""
        descriptor: int = self.socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._watcher = get_hub().loop.io(descriptor, _READABLE)
        self._watcher.start(self.update_events)

    def connect(self, endpoint: str) -> None:
        """Connect to ``tcp://address:port``. Raises ZMQError."""
        self._set(_CONNECT_OPTIONS, endpoint)
        self.socket.connect(endpoint)

    def bind(self, endpoint: str) -> str:
        """Listen, and return the endpoint with the port that was taken. Raises
        ZMQError."""
        self._set(_LISTEN_OPTIONS, endpoint)
        self.socket.bind(endpoint)
        bound: bytes = self.socket.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        return bound.rstrip(b"\0").decode()

    def _set(self, options: tuple[tuple[int, int], ...], endpoint: str) -> None:
        """Set the options of the socket, before it connects or listens."""
        for option, value in options:
            self.socket.setsockopt(option, value)
        is_ipv6 = "[" in endpoint
        self.socket.setsockopt(zmq.IPV6, int(is_ipv6))

    def update_events(self) -> int:
        """Read which events of ZeroMQ have happened, and wake the greenlets
        that wait for them.

        Returns the events (``zmq.POLLIN``, ``zmq.POLLOUT``); 0 for a closed
        socket. Never switches greenlets.

        The descriptor only signals a change since the last reading, and every
        reading consumes the signal. So each reading has to wake all waiters.
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
        """Whether a message would be accepted now."""
        return bool(self.update_events() & zmq.POLLOUT)

    def send(self, parts: list[bytes]) -> None:
        """Send one message. Never switches greenlets.

        Raises :class:`SocketFull` if it is not accepted.
        """
        if self.socket.closed:
            raise SocketFull
        try:
            if len(parts) == 1:
                self.socket.send(parts[0], zmq.NOBLOCK)
            else:
                self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            raise SocketFull from None
        # A fault of the socket must not end the sender.
        except zmq.ZMQError as error:
            log.exception("an RPC socket failed")
            raise SocketFull from error

    def receive(self) -> list[bytes]:
        """Wait for the next message, and return its parts.

        Returns an empty list if the message has more than :data:`PARTS` parts.
        If the socket is closed, this ends the greenlet by GreenletExit, because
        the loops of zerorpc continue after any other exception.
        """
        self._turn += 1
        if self._turn >= _TURN_MESSAGES:
            self._turn = 0
            gevent.sleep(0)
        try:
            while True:
                try:
                    first = self.socket.recv(zmq.NOBLOCK)
                    break
                except zmq.Again:
                    # No message has arrived. The flag is cleared before the
                    # events are read, so that no message is missed.
                    self._turn = 0
                    self._readable.clear()
                    self.update_events()
                    self._readable.wait()
            if self.socket.getsockopt(zmq.RCVMORE):
                return self._receive_rest(first)
        except zmq.ZMQError as error:
            if not self.socket.closed:
                log.exception("an RPC socket failed")
            raise gevent.GreenletExit from error
        return [first]

    def _receive_rest(self, first: bytes) -> list[bytes]:
        """Receive the other parts of a message. Its first part was received
        already.

        Returns all parts, or an empty list if there are too many. All of them
        must be read in any case, because the next message follows.
        """
        parts = [first]
        count = 1
        while self.socket.getsockopt(zmq.RCVMORE):
            part = self.socket.recv(zmq.NOBLOCK)
            count += 1
            if count <= PARTS:
                parts.append(part)
            elif count % _REST_PARTS == 0:
                gevent.sleep(0)
        if count > PARTS:
            return []
        return parts

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, and wake the greenlet that receives. Never waits.

        Messages that are not sent within ``linger_ms`` are dropped.
        """
        if not self.socket.closed:
            self._watcher.stop()
            self._watcher.close()
            self.socket.close(linger_ms)
            self._readable.set()


def private_address(host: str) -> str:
    """Return the IP address of ``host`` to listen on, in brackets if it is IPv6.

    Raises StartError if ``host`` is not a single address of this machine.
    """
    try:
        text = _first_address(host)
        # An IPv6 address may have a zone, as in "fe80::1%eth0".
        address = ipaddress.ip_address(text.partition("%")[0])
    except (OSError, ValueError, IndexError):
        raise StartError(
            f"cluster.bind: {host!r} is not an address of this machine"
        ) from None

    # The port must not be reachable by everybody by accident.
    if not host or address.is_unspecified or address.is_multicast:
        raise StartError(
            f"cluster.bind: {host!r} means every address; "
            "name one address of a private network"
        )
    if isinstance(address, ipaddress.IPv6Address):
        return f"[{text}]"
    return text


def _first_address(host: str) -> str:
    """Look up the first address of a host. Raises OSError and IndexError.

    A numeric host skips gevent's resolver, which would start a native thread.
    """
    question = (host, None, 0, socket.SOCK_STREAM, 0)
    addresses: Sequence[Any]
    try:
        addresses = _socket.getaddrinfo(*question, socket.AI_NUMERICHOST)
    except OSError:
        addresses = socket.getaddrinfo(*question)
    _, _, _, _, address_and_port = addresses[0]
    return str(address_and_port[0])
