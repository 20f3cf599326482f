"""zerorpc over sockets that cannot hang or be killed by a message: the only door to zerorpc.

zerorpc 0.6.3 brings the message format, the call (``Client``, ``Server``) and the one-way push (``Pusher``,
``Puller``). What it has below them (``Events``, gevent sockets) is replaced by :class:`Wire`, because it

- ends a Puller for good on the first message that is no event, and the dispatcher of a Server or Client on
  the first header of a wrong type; a Wire decodes by type and drops what does not fit;
- waits without end in ``send`` while a peer is away, also when the caller gave a timeout, and once more when
  its sender is killed, so that ``close`` never returns; a Wire never waits to send;
- wakes up each second for each socket that receives; a Wire wakes up when there is something.

zerorpc has no type annotations. Those of the classes here are complete, nothing untyped leaves this module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

import gevent
import msgspec
import zerorpc
from msgspec import Meta, Struct
from zerorpc.channel_base import ChannelBase
from zerorpc.core import ClientBase, ServerBase

from imserver.cluster.complaint import Complaint
from imserver.cluster.forward import RpcCounters
from imserver.cluster.rpc_mailbox import Full, Mailbox

log = logging.getLogger(__name__)
# At level debug it writes two lines a call; what it complains about, we have dropped before.
logging.getLogger("zerorpc").setLevel(logging.WARNING)

CALLS_AT_ONCE: Final = 1000
"""Questions of others in work at one time; each takes three greenlets."""

OK, FAILED, BUSY, STALE, VERSION, TOO_LARGE = range(6)
"""First half of each answer. The second half is empty unless it is OK."""
REASONS: Final = (
    "",
    "it failed",
    "it is busy",
    "it lives under another epoch",
    "it speaks another version",
    "its answer is too large",
)

Epoch = Annotated[int, Meta(ge=0)]
Answer = tuple[int, bytes]


class Malformed(ValueError):
    """The message does not have the shape that it should have."""


_complain_malformed = Complaint(log, "a malformed message on an RPC port was dropped")


class _Head(Struct):
    v: int = 1
    message_id: Annotated[bytes, Meta(max_length=64)] = b""
    response_to: Annotated[bytes, Meta(max_length=64)] | None = None


_Batch = tuple[int, Epoch, Epoch, Annotated[int, Meta(ge=1)], Annotated[list[bytes], Meta(min_length=1)]]
_Question = tuple[int, Epoch, Annotated[str, Meta(max_length=64)], bytes]
_encode = msgspec.msgpack.Encoder().encode
_read_batch = msgspec.msgpack.Decoder(tuple[_Head, str, _Batch]).decode
_read_question = msgspec.msgpack.Decoder(tuple[_Head, str, _Question]).decode
_read_answer = msgspec.msgpack.Decoder(tuple[_Head, str, msgspec.Raw]).decode
_read_result = msgspec.msgpack.Decoder(tuple[Answer]).decode


class Wire(ChannelBase):  # type: ignore[misc]
    """What zerorpc's classes send and receive events through."""

    def __init__(
        self,
        context: zerorpc.Context,
        mailbox: Mailbox,
        read: Callable[[list[bytes]], Any],
        counters: RpcCounters,
    ) -> None:
        """``read`` makes an event of a message's parts; returns None if it is to be passed over, raises
        ValueError or RecursionError if it is no event."""
        self.mailbox = mailbox
        self.read = read
        self._context = context
        self._counters = counters

    @property
    def context(self) -> zerorpc.Context:
        return self._context

    @property
    def recv_is_supported(self) -> bool:
        return True

    @property
    def emit_is_supported(self) -> bool:
        return True

    def new_event(self, name: str, args: Any, xheader: Any = None) -> Any:
        return zerorpc.Event(name, args, self._context)

    def emit_event(self, event: Any, timeout: float | None = None) -> None:
        """Send at once. Raises :class:`Full`."""
        self.mailbox.send([*(event.identity or ()), _encode((event.header, event.name, event.args))])

    def recv(self, timeout: float | None = None) -> Any:
        while True:
            parts = self.mailbox.receive()
            try:
                event = self.read(parts)
            except (ValueError, RecursionError):
                self._counters.malformed += 1
                _complain_malformed()
                continue
            if event is not None:
                return event

    def close(self) -> None:
        self.mailbox.close()


class _CallWire(Wire):
    """A wire with traffic in both directions, where a lost message is a call that times out."""

    def emit_event(self, event: Any, timeout: float | None = None) -> None:
        payload = _encode((event.header, event.name, event.args))
        try:
            self.mailbox.send([*(event.identity or ()), b"", payload])
        except Full:
            return
        finally:
            self.mailbox.look()


class DataSender(zerorpc.Pusher):  # type: ignore[misc]
    """The sending end of the data channel to one peer."""

    def __init__(self, context: zerorpc.Context, mailbox: Mailbox, counters: RpcCounters) -> None:
        self.mailbox = mailbox
        self._context = context
        self._events = Wire(context, mailbox, lambda parts: None, counters)

    def send(self, version: int, sender: int, destination: int, first: int, items: list[bytes]) -> None:
        """Send a batch. Raises :class:`Full`; never switches."""
        self("batch", version, sender, destination, first, items)


class DataReceiver(zerorpc.Puller):  # type: ignore[misc]
    """The receiving end of the data channel: calls ``batch(version, sender, destination, first, items)``."""

    def __init__(
        self,
        context: zerorpc.Context,
        mailbox: Mailbox,
        batch: Callable[[int, int, int, int, list[bytes]], None],
        counters: RpcCounters,
    ) -> None:
        self._context = context
        self._events = Wire(context, mailbox, _batch_event, counters)
        self._methods = {"batch": batch}
        self._receiver_task = None


def _batch_event(parts: list[bytes]) -> Any:
    if len(parts) != 1:
        raise Malformed
    _, name, batch = _read_batch(parts[0])
    if name != "batch":
        raise Malformed
    return zerorpc.Event(name, batch, None, {})


class ControlServer(zerorpc.Server):  # type: ignore[misc]
    """Answers questions: ``answer(version, epoch, kind, body)`` returns code and bytes, and never raises."""

    def __init__(
        self,
        context: zerorpc.Context,
        mailbox: Mailbox,
        answer: Callable[[int, int, str, bytes], Answer],
        counters: RpcCounters,
    ) -> None:
        self._acceptor_task: Any = None
        self._context = context
        self._counters = counters
        self._in_work: set[bytes] = set()
        self._events = _CallWire(context, mailbox, self._question_event, counters)
        ServerBase.__init__(self, self._events, {"ask": answer}, "imserver", context, None, None)

    def _inject_builtins(self) -> None:
        """Tell nobody what can be called."""

    def _question_event(self, parts: list[bytes]) -> Any:
        if len(parts) != 3:
            raise Malformed
        head, name, question = _read_question(parts[2])
        # A second call under the id of one that is in work would take its answer, then break its end.
        wrong = name != "ask" or head.v != 3 or head.response_to is not None
        if wrong or not head.message_id or head.message_id in self._in_work:
            raise Malformed
        event = zerorpc.Event(name, question, None, {"message_id": head.message_id, "v": 3})
        event.identity = parts[:1]
        if len(self._in_work) >= CALLS_AT_ONCE:
            self._refuse(event)
            return None
        self._in_work.add(head.message_id)
        return event

    def _refuse(self, event: Any) -> None:
        self._counters.busy += 1
        answer = self._events.new_event("OK", ((BUSY, b""),))
        answer.header["response_to"] = event.header["message_id"]
        answer.identity = event.identity
        self._events.emit_event(answer)

    def _async_task(self, initial_event: Any) -> None:
        try:
            super()._async_task(initial_event)
        finally:
            self._in_work.discard(initial_event.header["message_id"])

    def _print_traceback(self, protocol_v1: bool, exc_infos: Any) -> tuple[str, str, str]:
        log.error("a question could not be answered", exc_info=tuple(exc_infos))
        return "Failed", "", ""

    def close(self) -> None:
        """Stop answering; questions in work are dropped. Never waits: the greenlets see the closed socket."""
        self.stop()
        self._task_pool.kill(block=False)
        self._events.close()

    def run(self) -> None:
        """Serve until closed. Returns early if one of zerorpc's two greenlets ended; may be called again."""
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
    """Asks one peer."""

    def __init__(self, context: zerorpc.Context, mailbox: Mailbox, counters: RpcCounters) -> None:
        self.mailbox = mailbox
        self._context = context
        self._events = _CallWire(context, mailbox, self._answer_event, counters)
        ClientBase.__init__(self, self._events, context, heartbeat=None)

    def close(self) -> None:
        """Hang up; calls in flight time out. Never waits: the dispatcher sees that the socket is closed."""
        self._events.close()

    def ask(self, version: int, epoch: int, kind: str, body: bytes, seconds: float) -> Answer:
        """Ask and wait for the answer. Raises TimeoutError."""
        try:
            answer: Answer = self("ask", version, epoch, kind, body, timeout=seconds)
        except zerorpc.TimeoutExpired:
            raise TimeoutError from None
        return answer

    def _process_response(self, request_event: Any, bufchan: Any, timeout: float) -> Any:
        try:
            return super()._process_response(request_event, bufchan, timeout)
        except BaseException:
            # Killed, or left by a timeout of the caller's own: without this two greenlets would stay.
            bufchan.close()
            raise

    def _answer_event(self, parts: list[bytes]) -> Any:
        if len(parts) != 2:
            raise Malformed
        head, name, raw = _read_answer(parts[1])
        result = _read_result(raw)[0] if name == "OK" else (FAILED, b"")
        # None in flight under this id: the answer is late. A second answer would stop up the client.
        call = self._multiplexer.active_channels.get(head.response_to)
        if call is None or hasattr(call, "answered"):
            return None
        call.answered = True
        return zerorpc.Event("OK", (result,), None, {"response_to": head.response_to, "v": 3})
