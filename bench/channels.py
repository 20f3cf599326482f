"""Scenario ``channels``: what subscriptions cost, and how fast clients of Centrifugo recover."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import jwt

from bench.connections import KEY, OPENERS, Connection
from bench.context import MOST_CONNECTIONS, RunContext, parameter, shares, text_parameter
from bench.figures import Figures
from bench.frames import client_frame, request_frame, user_name
from bench.generator import Generator
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.proc import memory
from bench.servers import Worker
from bench.session_scenarios import CONNECTIONS_A_PROCESS, warm_up

DIALECT = "centrifuge"
DIALECTS = (DIALECT, "cmd")
CHANNELS = 3
HUNDREDS = 100
ANSWER_SECONDS = 60.0
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
    if dialect != DIALECT:
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
        generator.loop.until(lambda: answers + errors >= wanted, ANSWER_SECONDS)
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
        opening = connections.open(range(first, first + count), OPENERS[DIALECT])
        for conn in generator.loop.each(list(connections.by_fd.values())):
            channel = conn.number // HUNDREDS
            request = {"channel": f"recent:{channel}", "recover": True, "epoch": epochs[channel], "offset": 1}
            frame = client_frame(json.dumps({"id": 2, "subscribe": request}).encode())
            connections.send(conn, frame)
        generator.loop.until(lambda: recovered + errors >= opening.opened, ANSWER_SECONDS)
    seconds = time.monotonic() - begin
    return {"recovered": recovered, "errors": errors, "seconds": seconds, "opened": opening.opened}


def fill(context: RunContext, channels: int, number: int) -> list[str]:
    """Publish ``number`` messages to each of the channels; return the epochs of their histories."""
    names = [f"recent:{channel}" for channel in range(channels)]
    epochs: list[str] = []
    for each in range(number):
        body = {"app": str(context.app), "channels": names, "text": f"{each:0{TEXT_BYTES}}"}
        answer = post(context.target, "/api/v1/channels/broadcast", body)
        epochs = [result.get("epoch", "") for result in answer.get("results", ())]
        if not all(epochs) or len(epochs) < channels:
            raise BenchError(f"the channels of the namespace recent have no history: {str(answer)[:300]}")
    return epochs


@dataclass(frozen=True)
class ChannelsOptions:
    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    dialect: str = text_parameter(DIALECT, "What the clients speak.", DIALECTS)
    recover: bool = parameter(False, "Measure how fast all of them come back, and receive what they missed.")
    behind: int = parameter(50, "How many publications each has missed.", most=MOST_BEHIND)
    token: bool = parameter(False, "Each subscription has an HS256 token.")
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def environment(self) -> dict[str, str]:
        keys = f"jwt: [{{algorithm: HS256, key: {KEY}}}], " if self.token else ""
        return {"IMSERVER_APPS": f"{{101: {{open: true, {keys}channels: {{recent: {RECENT}}}}}}}"}


def run(context: RunContext, options: ChannelsOptions) -> Figures:
    """Measure the cost of subscriptions to channels."""
    if options.dialect != DIALECT and options.recover:
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
