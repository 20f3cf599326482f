"""Connections and their subscriptions: costs and memory, and how fast clients of Centrifugo recover."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jwt

from bench.connections import KEY, OPENERS, Connection
from bench.context import (
    MOST_CONNECTIONS,
    MOST_IN_PROCESS,
    RunContext,
    parameter,
    seconds_parameter,
    shares,
    text_parameter,
)
from bench.figures import Figures
from bench.frames import client_frame, request_frame, user_name
from bench.generator import Generator, close_connections, open_connections, settle
from bench.http_client import fetch, post
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.proc import memory
from bench.servers import Worker

LAST_ANSWERS_SECONDS = 5.0
HEARTBEAT = request_frame("heartbeat", "bench", {})


def beat(generator: Generator, seconds: float = 0.0) -> Json:
    """Task: send heartbeats over the connections of this process, one in flight on each, for so long; at
    least once.
    """
    loop, connections = generator.loop, generator.connections
    waiting: set[int] = set()
    answered = wrong = 0

    def read(conn: Connection, payload: bytes) -> None:
        nonlocal answered, wrong
        if b'"cmd":"heartbeat"' in payload and conn.fd in waiting:
            waiting.remove(conn.fd)
            answered += 1
            wrong += b'"code":200' not in payload

    end, again = time.monotonic() + seconds, True
    with connections.reading(read):
        while again:
            for conn in [conn for fd, conn in connections.by_fd.items() if fd not in waiting]:
                waiting.add(conn.fd)
                connections.send(conn, HEARTBEAT)
            loop.turn(0.1)
            again = time.monotonic() < end and not loop.stopped
        loop.until(lambda: not waiting & connections.by_fd.keys(), LAST_ANSWERS_SECONDS)
    return {"unanswered": wrong + len(waiting & connections.by_fd.keys()), "answered": answered}


def count_users(generator: Generator) -> Json:
    """Task: ask the server how many users are online."""
    return {"count": fetch(generator.target, f"/user/list?appID={generator.target.app}").get("userCount", 0)}


WARM_UP_CONNECTIONS = 500
CONNECTIONS_A_PROCESS = 5000


@dataclass(frozen=True)
class HandshakeOptions:
    connections: int = parameter(5000, "Connections to open.", most=MOST_IN_PROCESS)
    login: bool = parameter(False, "Log in too.")
    members: int = parameter(1100, "Users logged in before.", least=0, most=MOST_IN_PROCESS)
    redis: bool = parameter(False, "The server has a Redis.")
    processes: int = parameter(1, "Server processes; several have a Redis.", most=64)
    dialect: str = text_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        return dict(OPENERS[self.dialect].environment)


def handshake(context: RunContext, options: HandshakeOptions) -> Figures:
    """Measure the opening of connections, also with a login."""
    workers, first = context.start_workers(1), options.members
    if options.login and options.members:
        context.open(context.start_workers(1), options.members, dialect=options.dialect)
    given: Json = {"first": first, "login": options.login, "dialect": options.dialect}
    context.open(workers, min(WARM_UP_CONNECTIONS, options.connections), **given)
    context.ask(workers, close_connections)
    context.rest()
    with context.measured() as span:
        (answer,) = context.ask(workers, open_connections, count=options.connections, **given)
    span.note([answer])
    return {
        **span.rate("opened", answer["opened"], answer["seconds"], flat_out=True),
        "errors": sum(answer["errors"].values()),
        **Latency.merged([answer["latency"]]).figures(),
    }


@dataclass(frozen=True)
class IdleOptions:
    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(10.0, "How long to watch the idle CPU")
    ping_seconds: int = parameter(0, "Seconds between two pings; 0: none, or as --url does it.", least=0)
    dialect: str = text_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        pings = {"IMSERVER_WEBSOCKET_PING_SECONDS": str(self.ping_seconds)} if self.ping_seconds else {}
        return {**OPENERS[self.dialect].environment, **pings}


def attend(generator: Generator, seconds: float) -> Json:
    """Task: answer pings for so long."""
    generator.connections.pings = 0
    generator.loop.until(lambda: False, seconds)
    return {"pings": generator.connections.pings}


def warm_up(
    context: RunContext,
    workers: Sequence[Worker],
    connections: int,
    dialect: str,
    work: Callable[[], object] = lambda: None,
) -> int:
    """Let some connections come, work and go; return the memory of the server in bytes."""
    context.open(workers, min(WARM_UP_CONNECTIONS, connections), dialect=dialect)
    work()
    context.ask(workers, close_connections)
    context.rest()
    return memory(context.pids).rss_bytes


def idle(context: RunContext, options: IdleOptions) -> Figures:
    """Measure memory and CPU of idle connections."""
    if OPENERS[options.dialect].environment and not context.folder:
        raise BenchError(f"--dialect {options.dialect} needs a server of our own, which has our key")
    empty = memory(context.pids).rss_bytes
    workers = context.start_workers(-(-options.connections // CONNECTIONS_A_PROCESS))
    before = warm_up(context, workers, options.connections, options.dialect)
    context.open(workers, options.connections, dialect=options.dialect)
    context.rest()
    after = memory(context.pids).rss_bytes
    with context.measured() as span:
        attended = context.ask(workers, attend, seconds=options.seconds)
    answers = context.ask(workers, settle, quiet_seconds=0.1)
    pings = sum(answer["pings"] for answer in attended)
    return {
        "rss_empty_mb": empty / 1e6,
        "rss_warm_mb": before / 1e6,
        "rss_full_mb": after / 1e6,
        "rss_connection_bytes": (after - before) / options.connections,
        "idle_cpu_percent": span.server_us / 1e4 / span.seconds,
        **({"pings": pings, "ping_cpu_us": span.server_us / pings} if pings else {}),
        "connections": sum(answer["connections"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }


CENTRIFUGE = "centrifuge"
CHANNEL_DIALECTS = (CENTRIFUGE, "cmd")
CHANNELS = 3
HUNDREDS = 100
SUBSCRIBE_SECONDS = 60.0
MOST_BEHIND = 99
RECENT = "{subscribe: anybody, history_size: 100, history_seconds: 600}"
TEXT_BYTES = 60
_SUBSCRIBED = b'"cmd":"subscribe","response":{"code":200,'


def subscriptions(number: int, dialect: str, token: bool) -> bytes:
    """Return what subscribes a client to three channels, each with its ``token``.

    The commands of clients of Centrifugo share a frame.
    """
    wanted = []
    for name in (f"own:{number}", f"some:{number // HUNDREDS}", "all"):
        request: Json = {"channel": name}
        if token:
            request["token"] = jwt.encode({"sub": user_name(number), "channel": name}, KEY, "HS256")
        wanted.append(request)
    if dialect != CENTRIFUGE:
        return b"".join([request_frame("subscribe", "2", request) for request in wanted])
    commands = [
        json.dumps({"id": id, "subscribe": request}, separators=(",", ":"))
        for id, request in enumerate(wanted, 2)
    ]
    return client_frame("\n".join(commands).encode())


def subscribe(generator: Generator, dialect: str, token: bool) -> Json:
    """Task: subscribe all connections of this process.

    Returns the numbers of ``answers`` and ``errors``, and the ``seconds`` until the last of them.
    """
    answers = errors = 0
    conns = list(generator.connections.by_fd.values())
    frames = [subscriptions(conn.number, dialect, token) for conn in conns]
    begin, wanted = time.monotonic(), CHANNELS * len(conns)

    def read(_conn: Connection, payload: bytes) -> None:
        nonlocal answers, errors
        answers += payload.count(b'"subscribe":{') + payload.count(_SUBSCRIBED)
        errors += payload.count(b'"error":{') + payload.count(b'"refused":"')

    with generator.connections.reading(read):
        for conn, frame in generator.loop.each(zip(conns, frames, strict=True)):
            generator.connections.send(conn, frame)
        generator.loop.until(lambda: answers + errors >= wanted, SUBSCRIBE_SECONDS)
    return {"answers": answers, "errors": errors, "seconds": time.monotonic() - begin}


def recover(generator: Generator, first: int, count: int, behind: int, epochs: list[str]) -> Json:
    """Task: clients come back to channels whose histories have the ``epochs``, each ``behind`` publications
    behind. A good answer has so many offsets, and its own.
    """
    recovered = errors = 0
    begin, connections = time.monotonic(), generator.connections

    def read(_conn: Connection, payload: bytes) -> None:
        nonlocal recovered, errors
        if b'"subscribe":{' in payload:
            good = b'"recovered":true' in payload and payload.count(b'"offset":') == behind + 1
            recovered, errors = recovered + good, errors + (not good)

    with connections.reading(read):
        opening = connections.open(range(first, first + count), OPENERS[CENTRIFUGE])
        for conn in generator.loop.each(list(connections.by_fd.values())):
            channel = conn.number // HUNDREDS
            request = {"channel": f"recent:{channel}", "recover": True, "epoch": epochs[channel], "offset": 1}
            frame = client_frame(json.dumps({"id": 2, "subscribe": request}).encode())
            connections.send(conn, frame)
        generator.loop.until(lambda: recovered + errors >= opening.opened, SUBSCRIBE_SECONDS)
    seconds = time.monotonic() - begin
    return {"recovered": recovered, "errors": errors, "seconds": seconds, "opened": opening.opened}


def fill(context: RunContext, count: int, number: int) -> list[str]:
    """Publish ``number`` messages to each of the channels; return the epochs of their histories."""
    names = [f"recent:{channel}" for channel in range(count)]
    epochs: list[str] = []
    for each in range(number):
        body = {"app": str(context.app), "channels": names, "text": f"{each:0{TEXT_BYTES}}"}
        answer = post(context.target, "/api/v1/channels/broadcast", body)
        epochs = [result.get("epoch", "") for result in answer.get("results", ())]
        if not all(epochs) or len(epochs) < count:
            raise BenchError(f"the channels of the namespace recent have no history: {str(answer)[:300]}")
    return epochs


@dataclass(frozen=True)
class ChannelsOptions:
    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    dialect: str = text_parameter(CENTRIFUGE, "What the clients speak.", CHANNEL_DIALECTS)
    recover: bool = parameter(False, "Measure how fast all of them come back, and receive what they missed.")
    behind: int = parameter(50, "How many publications each has missed.", most=MOST_BEHIND)
    token: bool = parameter(False, "Each subscription has an HS256 token.")
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def environment(self) -> dict[str, str]:
        keys = f"jwt: [{{algorithm: HS256, key: {KEY}}}], " if self.token else ""
        return {"IMSERVER_APPS": f"{{101: {{open: true, {keys}channels: {{recent: {RECENT}}}}}}}"}


def channels(context: RunContext, options: ChannelsOptions) -> Figures:
    """Measure the cost of subscriptions to channels."""
    if options.dialect != CENTRIFUGE and options.recover:
        raise BenchError("only clients of Centrifugo recover")
    workers = context.start_workers(-(-options.connections // CONNECTIONS_A_PROCESS))
    if options.recover:
        return _recover(context, options, workers)
    opener = f"{options.dialect}-token" if options.token else options.dialect
    how = {"dialect": options.dialect, "token": options.token}
    before = warm_up(
        context, workers, options.connections, opener, lambda: context.ask(workers, subscribe, **how)
    )
    context.open(workers, options.connections, dialect=opener)
    context.rest()
    opened = memory(context.pids).rss_bytes
    with context.measured() as span:
        answers = context.ask(workers, subscribe, **how)
    span.note(answers)
    subscribed = sum(answer["answers"] for answer in answers)
    if not subscribed:
        raise BenchError("the server refused every subscription")
    context.rest()
    after = memory(context.pids).rss_bytes
    return {
        **span.rate("subscriptions", subscribed, max(answer["seconds"] for answer in answers)),
        "rss_opened_bytes": (opened - before) / options.connections,
        "rss_connection_bytes": (after - before) / options.connections,
        "missing": CHANNELS * options.connections - subscribed,
        "errors": sum(answer["errors"] for answer in answers),
    }


def _recover(context: RunContext, options: ChannelsOptions, workers: list[Worker]) -> Figures:
    """Let all clients come back at the same time, a hundred to a channel."""
    epochs = fill(context, -(-options.connections // HUNDREDS), options.behind + 1)
    context.rest()
    with context.measured() as span:
        for worker, first, count in shares(workers, options.connections):
            worker.ask(recover, first=first, count=count, behind=options.behind, epochs=epochs)
        answers = context.gather(workers)
    span.note(answers)
    recovered = sum(answer["recovered"] for answer in answers)
    return {
        "returned": sum(answer["opened"] for answer in answers),
        "recoveries": recovered,
        "seconds": max(answer["seconds"] for answer in answers),
        **span.cost(recovered),
        "missing": options.connections - recovered,
        "errors": sum(answer["errors"] for answer in answers),
    }
