"""Connections and their subscriptions: costs and memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.connections import Connection
from bench.context import (
    MOST_CONNECTIONS,
    MOST_IN_PROCESS,
    RunContext,
    parameter,
    seconds_parameter,
    text_parameter,
)
from bench.figures import Figures
from bench.frames import client_frame, request_frame
from bench.generator import Generator, close_connections, open_connections, settle
from bench.http_client import fetch
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.proc import memory
from bench.servers import Worker

LAST_ANSWERS_SECONDS = 5.0
HEARTBEAT = request_frame("heartbeat", "bench", {})


def beat(generator: Generator, seconds: float = 0.0) -> Json:
    """Task: send heartbeats over the connections of this process, one in flight
    on each, for so long; at least once.
    """
    loop = generator.loop
    connections = generator.connections
    waiting: set[int] = set()
    answered = wrong = 0

    def read(conn: Connection, payload: bytes) -> None:
        nonlocal answered, wrong
        if b'"cmd":"heartbeat"' in payload and conn.fd in waiting:
            waiting.remove(conn.fd)
            answered += 1
            wrong += b'"code":200' not in payload

    end = time.monotonic() + seconds
    again = True
    with connections.reading(read):
        while again:
            for conn in [
                conn for fd, conn in connections.by_fd.items() if fd not in waiting
            ]:
                waiting.add(conn.fd)
                connections.send(conn, HEARTBEAT)
            loop.turn(0.1)
            again = time.monotonic() < end and not loop.stopped
        loop.until(lambda: not waiting & connections.by_fd.keys(), LAST_ANSWERS_SECONDS)
    return {
        "unanswered": wrong + len(waiting & connections.by_fd.keys()),
        "answered": answered,
    }


def count_users(generator: Generator) -> Json:
    """Task: ask the server how many users are online."""
    return {
        "count": fetch(
            generator.target, f"/user/list?appID={generator.target.app}"
        ).get("userCount", 0)
    }


WARM_UP_CONNECTIONS = 500
CONNECTIONS_A_PROCESS = 5000


@dataclass(frozen=True)
class HandshakeOptions:
    connections: int = parameter(5000, "Connections to open.", most=MOST_IN_PROCESS)
    login: bool = parameter(False, "Also log in.")
    members: int = parameter(
        1100,
        "Users who are logged in before the measurement.",
        least=0,
        most=MOST_IN_PROCESS,
    )
    redis: bool = parameter(False, "The server has a Redis.")


def handshake(context: RunContext, options: HandshakeOptions) -> Figures:
    """Measure the opening of connections, also with a login."""
    workers = context.start_workers(1)
    if options.login and options.members:
        context.open(context.start_workers(1), options.members)
    given: Json = {"first": options.members, "login": options.login}
    context.open(workers, min(WARM_UP_CONNECTIONS, options.connections), **given)
    context.ask(workers, close_connections)
    context.rest()
    with context.measured() as span:
        (answer,) = context.ask(
            workers, open_connections, count=options.connections, **given
        )
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
    ping_seconds: int = parameter(
        0,
        "Seconds between two pings. 0 means no pings, or with --url, the interval of that server.",
        least=0,
    )

    @property
    def environment(self) -> dict[str, str]:
        seconds = str(self.ping_seconds)
        if self.ping_seconds:
            return {"IMSERVER_WEBSOCKET_PING_SECONDS": seconds}
        return {}


def attend(generator: Generator, seconds: float) -> Json:
    """Task: answer pings for so long."""
    generator.connections.pings = 0
    generator.loop.until(lambda: False, seconds)
    return {"pings": generator.connections.pings}


def warm_up(
    context: RunContext,
    workers: Sequence[Worker],
    connections: int,
    dialect: str = "cmd",
    work: Callable[[], object] = lambda: None,
) -> int:
    """Let some connections come, work and go; return the memory of the server
    in bytes."""
    context.open(workers, min(WARM_UP_CONNECTIONS, connections), dialect=dialect)
    work()
    context.ask(workers, close_connections)
    context.rest()
    return memory(context.pids).rss_bytes


def idle(context: RunContext, options: IdleOptions) -> Figures:
    """Measure memory and CPU of idle connections."""
    empty = memory(context.pids).rss_bytes
    workers = context.start_workers(-(-options.connections // CONNECTIONS_A_PROCESS))
    before = warm_up(context, workers, options.connections)
    context.open(workers, options.connections)
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
CHANNELS = 3
HUNDREDS = 100
SUBSCRIBE_SECONDS = 60.0
_SUBSCRIBED = b'"cmd":"subscribe","response":{"code":200,'


def subscriptions(number: int, dialect: str) -> bytes:
    """What subscribes a client to three channels; commands of clients of
    Centrifugo share a frame."""
    wanted: list[Json] = [
        {"channel": name}
        for name in (f"own:{number}", f"some:{number // HUNDREDS}", "all")
    ]
    if dialect != CENTRIFUGE:
        return b"".join(
            [request_frame("subscribe", "2", request) for request in wanted]
        )
    commands = [
        json.dumps({"id": id, "subscribe": request}, separators=(",", ":"))
        for id, request in enumerate(wanted, 2)
    ]
    return client_frame("\n".join(commands).encode())


def subscribe(generator: Generator, dialect: str) -> Json:
    """Task: subscribe all connections of this process.

    Returns the numbers of ``answers`` and ``errors``, and the ``seconds`` until
    the last of them.
    """
    answers = errors = 0
    conns = list(generator.connections.by_fd.values())
    frames = [subscriptions(conn.number, dialect) for conn in conns]
    begin = time.monotonic()
    wanted = CHANNELS * len(conns)

    def read(_conn: Connection, payload: bytes) -> None:
        nonlocal answers, errors
        answers += payload.count(b'"subscribe":{') + payload.count(_SUBSCRIBED)
        errors += payload.count(b'"error":{') + payload.count(b'"refused":"')

    with generator.connections.reading(read):
        for conn, frame in generator.loop.each(zip(conns, frames, strict=True)):
            generator.connections.send(conn, frame)
        generator.loop.until(lambda: answers + errors >= wanted, SUBSCRIBE_SECONDS)
    return {"answers": answers, "errors": errors, "seconds": time.monotonic() - begin}


@dataclass(frozen=True)
class ChannelsOptions:
    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    dialect: str = text_parameter(
        CENTRIFUGE, "The dialect of the clients.", (CENTRIFUGE, "cmd")
    )
    redis: bool = parameter(False, "The server has a Redis.")


def channels(context: RunContext, options: ChannelsOptions) -> Figures:
    """Measure the cost of subscriptions to channels."""
    workers = context.start_workers(-(-options.connections // CONNECTIONS_A_PROCESS))
    how: Json = {"dialect": options.dialect}
    before = warm_up(
        context,
        workers,
        options.connections,
        work=lambda: context.ask(workers, subscribe, **how),
        **how,
    )
    context.open(workers, options.connections, **how)
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
        **span.rate(
            "subscriptions", subscribed, max(answer["seconds"] for answer in answers)
        ),
        "rss_opened_bytes": (opened - before) / options.connections,
        "rss_connection_bytes": (after - before) / options.connections,
        "missing": CHANNELS * options.connections - subscribed,
        "errors": sum(answer["errors"] for answer in answers),
    }
