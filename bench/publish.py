"""Scenario ``publish``: messages to single users over publisher connections. Many are under way."""

from __future__ import annotations

import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench.connections import Target
from bench.crew import Hand
from bench.fanout import LAST_FRAMES_SECONDS, MOST_MESSAGES, new_tag
from bench.figures import Figures, with_faults_of
from bench.frames import FINAL, TEXT, UPGRADE_KEY, scan, user_name
from bench.generator import Generator
from bench.latency import STAMP_DIGITS, Latency, stamp_us
from bench.loop import READ, WRITE, BenchError
from bench.push import shortfall_of
from bench.stage import MOST_IN_PROCESS, Stage, parameter, seconds_parameter
from bench.tally import Tally
from imserver_client import ClientError, Publisher

PATH = "/api/v1/publisher"
RECEIVE_BYTES = 65536
#: A mask of zeros is one, and leaves the bytes as they are.
_MASK = bytes(4)


class PublisherConnection:
    """One publisher connection: what was published over it and is not acknowledged, and its unsent bytes."""

    __slots__ = ("rest", "sock", "unsent", "waiting")

    def __init__(self, target: Target) -> None:
        head = [
            f"GET {PATH} HTTP/1.1",
            f"Host: {target.http_host}:{target.http_port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {UPGRADE_KEY.decode()}",
            *([f"Authorization: Bearer {target.key}"] if target.key else []),
        ]
        try:
            sock = socket.create_connection((target.http_host, target.http_port), timeout=10)
            sock.sendall("\r\n".join([*head, "", ""]).encode())
            answer = sock.recv(RECEIVE_BYTES)
        except OSError as error:
            raise BenchError(f"{PATH}: {error}") from error
        if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(b"\r\n\r\n"):
            raise BenchError(f"{PATH}: {answer[:100]!r}")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.sock = sock
        self.waiting: deque[tuple[int, int]] = deque()
        self.unsent = b""
        self.rest = b""


class Publishes:
    """The publishes of one run, to one user after the other. Owns the connections and what was answered."""

    def __init__(self, generator: Generator, tag: str, clients: int, window: int, text_bytes: int) -> None:
        self.loop = generator.loop
        users = [user_name(peer.number) for peer in generator.swarm.peers.values()]
        padding = "." * (text_bytes - STAMP_DIGITS)
        app = generator.target.app
        self.templates = [
            _frame(
                f'{{"seq":"%07d","publish":{{"app":"{app}","user":"{user}","id":"{tag}%07d",'
                f'"text":"%010d{padding}"}}}}'
            )
            for user in users
        ]
        self.window = window
        self.latency = Latency()
        self.pushed = self.answered = 0
        self.refused: set[int] = set()
        self.first_refusal = ""
        self.lines = {
            line.sock.fileno(): line
            for line in (PublisherConnection(generator.target) for _ in range(clients))
        }
        for fd in self.lines:
            self.loop.add(fd, READ, self)

    def fill(self, line: PublisherConnection) -> None:
        count = self.window - len(line.waiting)
        if count <= self.window // 2:
            return
        templates, users, stamp, now = self.templates, len(self.templates), stamp_us(), time.monotonic_ns()
        numbers = range(self.pushed, self.pushed + count)
        self.pushed += count
        frames = b"".join([templates[n % users] % (n, n, stamp) for n in numbers])
        line.waiting.extend([(n, now) for n in numbers])
        line.unsent += frames
        self._send(line)

    def publish(self, line: PublisherConnection) -> None:
        number, self.pushed = self.pushed, self.pushed + 1
        line.waiting.append((number, time.monotonic_ns()))
        line.unsent += self.templates[number % len(self.templates)] % (number, number, stamp_us())
        self._send(line)

    def _send(self, line: PublisherConnection) -> None:
        try:
            line.unsent = line.unsent[line.sock.send(line.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise BenchError(f"the server ended a publisher connection: {error}") from error
        self.loop.change(line.sock.fileno(), READ | WRITE if line.unsent else READ)

    def ready(self, fd: int, mask: int) -> None:
        line = self.lines[fd]
        if mask & WRITE and line.unsent:
            self._send(line)
        try:
            data = line.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise BenchError(f"the server ended a publisher connection: {error}") from error
        if not data:
            raise BenchError("the server closed a publisher connection")
        data = line.rest + data
        found, end = scan(data, len(data))
        line.rest = data[end:]
        now = time.monotonic_ns()
        for opcode, start, stop in found:
            if opcode == TEXT:
                number, sent = line.waiting.popleft()
                self.answered += 1
                self.latency.add((now - sent) // 1000)
                if not data.startswith(b'{"seq":"%07d","sent":1}' % number, start):
                    self.refused.add(number)
                    self.first_refusal = self.first_refusal or repr(data[start:stop][:200])

    def close(self) -> None:
        for fd, line in self.lines.items():
            self.loop.remove(fd)
            line.sock.close()


def _frame(payload: str) -> bytes:
    """A masked frame, with places for numbers and time, around a payload whose length they do not change."""
    size = len(payload % (0, 0, 0))
    head = (
        bytes((FINAL | TEXT, 0x80 | size))
        if size < 126
        else bytes((FINAL | TEXT, 0xFE)) + size.to_bytes(2, "big")
    )
    return head.replace(b"%", b"%%") + _MASK + payload.encode()


def publish_and_receive(
    generator: Generator, tag: str, seconds: float, clients: int, window: int, text_bytes: int, rate: float
) -> dict[str, Any]:
    """Task: publish for ``seconds`` over ``clients`` connections, at a ``rate``, or (0) flat out."""
    tally = Tally(generator.swarm, tag, every=True)
    run = Publishes(generator, tag, clients, window, text_bytes)
    lines = list(run.lines.values())
    begin = time.monotonic()
    end = begin + seconds
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        if not rate:
            for line in lines:
                run.fill(line)
            generator.loop.turn(0.2)
        elif now >= begin + run.pushed / rate:
            run.publish(lines[run.pushed % len(lines)])
        else:
            generator.loop.turn(begin + run.pushed / rate - now)
        generator.passed(begin, end)
    during, publishing = run.answered, time.monotonic() - begin
    last_news = time.monotonic()
    while run.answered < run.pushed or tally.received < run.pushed - len(run.refused):
        if generator.loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    run.close()
    tally.release()
    lost, wrong = shortfall_of(tally, len(run.templates), run.pushed, run.refused)
    return {
        "pushed": run.pushed,
        "unanswered": run.pushed - run.answered,
        "refused": len(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "seconds": publishing,
        "not_received": lost,
        "wrong": wrong,
        "answers": run.latency.pack(),
        **tally.figures(),
        **generator.swarm.facts(),
    }


@dataclass(frozen=True)
class PublishOptions:
    """Parameters of the scenario."""

    users: int = parameter(1000, "Connected users, published to in turn.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(3.0, "How long to publish")
    clients: int = parameter(4, "Publisher connections.")
    window: int = parameter(64, "Publishes under way on each.", most=10_000)
    text_bytes: int = parameter(20, "Bytes of the message text.", least=STAMP_DIGITS, most=60_000)
    rate: float = parameter(0.0, "Publishes a second; 0 is flat out.", least=0, most=100_000)
    keyed: bool = parameter(False, "Start a server that asks for API keys, and publish with one.")


def run(stage: Stage, options: PublishOptions) -> Figures:
    """Measure messages over publisher connections."""
    hands = stage.hire(1)
    stage.open(hands, options.users)
    _try_out(stage.target)
    warm_up = measure(stage, hands, options, min(0.3, options.seconds))
    return with_faults_of(warm_up, measure(stage, hands, options, options.seconds))


def _try_out(target: Target) -> None:
    """Publish once, as the Python client does: the server has to know the route, the key and the app."""
    url = f"http://{target.http_host}:{target.http_port}"
    try:
        with Publisher(url, target.key) as publisher:
            answer = publisher.push(str(target.app), "a first one", user=user_name(0))
    except ClientError as error:
        raise BenchError(f"{url}{PATH}: {error}") from None
    if answer.sent != 1:
        raise BenchError(f"{url}{PATH}: a push to a user who is connected was not sent: {answer}")


def measure(stage: Stage, hands: list[Hand], options: PublishOptions, seconds: float) -> Figures:
    """Publish to the users that the one process of ``hands`` has connected."""
    with stage.measured() as span:
        (answer,) = stage.ask(
            hands,
            publish_and_receive,
            tag=new_tag(),
            seconds=seconds,
            clients=options.clients,
            window=options.window,
            text_bytes=options.text_bytes,
            rate=options.rate,
        )
    span.note([answer])
    if not answer["received"]:
        raise BenchError(f"no message arrived; the server answered {answer['refusal'] or 'nothing'}")
    answers = Latency.merged([answer["answers"]])
    return {
        "messages": answer["pushed"],
        **span.rate(
            "publishes",
            answer["pushed"],
            answer["seconds"],
            during=answer["during"],
            flat_out=not options.rate,
        ),
        **Latency.merged([answer["latency"]]).figures(),
        "ack_p50_ms": answers.percentile_ms(50),
        "ack_p99_ms": answers.percentile_ms(99),
        "frame_bytes": answer["frame_bytes"],
        "lost": answer["not_received"],
        "doubled": answer["wrong"],
        "refused": answer["refused"] + answer["unanswered"],
        "dropped": answer["lost"],
    }
