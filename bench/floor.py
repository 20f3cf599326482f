"""Scenario ``floor``: the cost of a send in the kernel alone. No server can be faster.

A bare process has plain sockets and only sends the same frame to each of them, one round for every byte that
the receiving process sends it. So the receiver sets the rate, as in the measurement of a server.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from bench.connections import ConnectionSet, Opener, Target
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures
from bench.frames import UPGRADE_ACCEPT, server_frame
from bench.generator import Generator
from bench.loop import BenchError, Json
from bench.tally import Tally
from bench.workers import Worker

TAG = "bare"
FRAME_BYTES = 154
IN_FLIGHT_ROUNDS = 8
LAST_FRAMES_SECONDS = 5.0
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + UPGRADE_ACCEPT + b"\r\n\r\n"
)


def bare_frame(frame_bytes: int) -> bytes:
    """Return a frame of ``frame_bytes`` on the wire, with the number and the time that a tally reads."""
    text = '{"seq":"%s0000000","cmd":"msg","msg":"0000000000%s"}'
    payload_bytes = frame_bytes - (2 if frame_bytes < 128 else 4)
    padding = payload_bytes - len(text % (TAG, ""))
    if padding < 0:
        raise BenchError(f"a frame of {frame_bytes} bytes is too small to carry a number and a time")
    frame = server_frame((text % (TAG, "." * padding)).encode())
    if len(frame) != frame_bytes:
        raise BenchError(f"no frame is {frame_bytes} bytes long")
    return frame


class BareSender:
    """The sending side. Owner of the accepted sockets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.sockets: list[socket.socket] = []
        self.pacer: socket.socket | None = None

    def accept(self, count: int) -> None:
        self.listener.settimeout(10)
        for _ in range(count):
            sock, _address = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.recv(4096)
            sock.send(ACCEPTED)
            self.sockets.append(sock)
        self.pacer, _address = self.listener.accept()
        self.pacer.settimeout(None)

    def rounds(self, data: bytes) -> tuple[int, int]:
        """Send ``data`` to all for each byte of the pacer until ``q``; return sends and CPU in ns."""
        assert self.pacer is not None
        sends = [sock.send for sock in self.sockets]
        clock = time.process_time_ns
        done = spent = 0
        while True:
            orders = self.pacer.recv(4096)
            for order in orders:
                if order == ord("q"):
                    return done * len(sends), spent
                begin = clock()
                for send in sends:
                    send(data)
                spent += clock() - begin
                done += 1
            if not orders:
                return done * len(sends), spent


def listen(generator: Generator) -> Json:
    sender = generator.state["sender"] = BareSender()
    return {"port": sender.listener.getsockname()[1]}


def accept(generator: Generator, receivers: int) -> Json:
    generator.state["sender"].accept(receivers)
    return {}


def send(generator: Generator, frames: int, frame_bytes: int) -> Json:
    """Task of the sending process: send until it is stopped."""
    sends, spent_ns = generator.state["sender"].rounds(bare_frame(frame_bytes) * frames)
    return {"sends": sends, "cpu_us": spent_ns / 1000}


def connect(generator: Generator, port: int, receivers: int) -> Json:
    """Task of the receiving process: connect to the sending one."""
    connections = generator.state["floor"] = ConnectionSet(
        generator.loop, Target("127.0.0.1", port), generator.index + 100
    )
    opening = connections.open(range(receivers), Opener(), window=64, seconds=10)
    generator.state["pacer"] = socket.create_connection(("127.0.0.1", port), timeout=10)
    if opening.opened < receivers:
        raise BenchError(f"the floor's sockets did not connect: {opening.errors}")
    return {}


def receive(
    generator: Generator, seconds: float, frames: int, in_flight: int, gap_seconds: float = 0.0
) -> Json:
    """Task: receive, with ``in_flight`` rounds requested at a time, or one round after each gap."""
    connections: ConnectionSet = generator.state["floor"]
    pacer: socket.socket = generator.state["pacer"]
    tally = Tally(connections, TAG)
    per_round = len(connections.by_fd) * frames
    begin = time.monotonic()
    ordered, due, end = 0, begin, begin + seconds
    while True:
        now = time.monotonic()
        missing = ordered * per_round - tally.received
        if now >= end and (not missing or now > end + LAST_FRAMES_SECONDS):
            break
        if due <= now < end and missing <= (in_flight - 1) * per_round:
            pacer.send(b".")
            ordered += 1
            due = now + gap_seconds
        else:
            generator.loop.turn(due - now if now < due and not missing else 0.2)
    pacer.send(b"q")
    tally.release()
    return {"rounds": ordered, "seconds": (tally.last_ns / 1e9) - begin, **tally.figures()}


class FloorRun:
    """The controlling side: a bare sending process, and a receiving process that may be shared."""

    def __init__(self, context: RunContext, receiver: Worker, receivers: int) -> None:
        self.context = context
        self.receiver = receiver
        (self.sender,) = context.start_workers(1, context.cores.server)
        port = context.ask([self.sender], listen)[0]["port"]
        self.sender.ask(accept, receivers=receivers)
        receiver.ask(connect, port=port, receivers=receivers)
        context.gather([self.sender, receiver])

    def measure(
        self,
        seconds: float,
        frames: int = 1,
        frame_bytes: int = FRAME_BYTES,
        in_flight: int = IN_FLIGHT_ROUNDS,
        gap_seconds: float = 0.0,
    ) -> tuple[float, float]:
        """Return CPU µs a send, and frames received a second."""
        self.sender.ask(send, frames=frames, frame_bytes=frame_bytes)
        ordered = {"in_flight": in_flight, "gap_seconds": gap_seconds}
        self.receiver.ask(receive, seconds=seconds, frames=frames, **ordered)
        sent, got = self.context.gather([self.sender, self.receiver])
        count = sent["sends"] * frames
        if got["received"] != count:
            raise BenchError(f"the floor lost frames: {count} sent, {got['received']} received")
        return sent["cpu_us"] / sent["sends"], got["received"] / got["seconds"]


@dataclass(frozen=True)
class FloorOptions:
    receivers: int = parameter(500, "Sockets that are sent to.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(2.0, "How long for each size of send")


def run(context: RunContext, options: FloorOptions) -> Figures:
    """Measure bare sends of 1, 5 and 25 frames."""
    (receiver,) = context.start_workers(1)
    floor = FloorRun(context, receiver, options.receivers)
    figures: Figures = {}
    floor.measure(0.2)
    for frames in (1, 5, 25):
        micros, rate = floor.measure(options.seconds, frames=frames)
        figures[f"send_us_{frames}"] = micros
        figures[f"frames_per_second_{frames}"] = frames * 1e6 / micros
        figures[f"received_per_second_{frames}"] = rate
    return figures
