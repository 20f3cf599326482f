"""From a message to its answer: rules, what happens when one fails, and the
limit of messages a second."""

import logging
from time import perf_counter
from typing import Any

import pytest
from msgspec import json

from imserver.gateway.auth.quotas import limited
from imserver.gateway.metrics import SLOW_SECONDS
from imserver.gateway.model import Ping, Reply
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import CommandRow
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import Client, SocketHarness, ignore, until
from tests.integration.raw import text
from tests.support import Clock


def ask(client: Client, cmd: str, data: Any = None, seq: str = "1") -> int:
    count = len(client.payloads())
    client.send(text(json.encode({"seq": seq, "cmd": cmd, "data": data})))
    until(lambda: len(client.payloads()) > count)
    body = json.decode(client.payloads()[count])
    assert (body["seq"], body["cmd"]) == (seq, cmd)
    code: int = body["response"]["code"]
    return code


def test_a_rule_that_fails_costs_its_client_1004_and_the_log_a_traceback(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_connection: Connection, _command: Any) -> Reply:
        raise LookupError("a defect")

    harness.dispatcher.table[Ping] = CommandRow(fail, needs_session=False)
    connection, client = harness.connect()
    with caplog.at_level(logging.ERROR):
        assert ask(client, "ping") == 1004
    assert connection.is_open
    assert [record.connection for record in caplog.records] == [connection.peer]  # type: ignore[attr-defined]
    assert "Traceback" in caplog.text
    assert "LookupError: a defect" in caplog.text
    assert b"defect" not in b"".join(client.payloads()), "no word of it to the client"
    assert ask(client, "heartbeat") == 1000
    caplog.clear()
    harness.dispatcher.table[Ping] = CommandRow(
        fail, needs_session=False, refusals={LookupError: 1005}
    )
    assert ask(client, "ping") == 1005
    assert not caplog.records, "a refusal is no defect"


def test_commands_are_counted_by_their_time_and_slow_ones_are_named(
    harness: Harness,
) -> None:
    def work_for_long(_connection: Connection, _command: Any) -> Reply:
        began = perf_counter()
        while perf_counter() - began < SLOW_SECONDS:
            pass
        return Reply.OK

    connection, client = harness.connect()
    timings = harness.metrics.commands
    for _ in range(3):
        ask(client, "ping")
    timings.fold()
    assert sum(timings["Ping"].counts) == 3
    quick = timings["Ping"].total
    assert quick > 0
    harness.dispatcher.table[Ping] = CommandRow(work_for_long, needs_session=False)
    ask(client, "ping")
    timings.fold()
    slow = timings.slowest["Ping"]
    assert slow.by == connection.peer
    assert slow.seconds >= SLOW_SECONDS
    assert sum(timings["Ping"].counts) == 4, "each is counted once"
    assert timings["Ping"].total >= quick + SLOW_SECONDS


def test_a_connection_above_its_rate_is_closed_with_4003(clock: Clock) -> None:
    passed = 0

    def count(*_: Any) -> None:
        nonlocal passed
        passed += 1

    serve = limited(count, 10)

    def send(connection: Connection, count: int) -> int:
        """So many messages at once; how many were served."""
        before = passed
        for _ in range(count):
            if connection.is_open:
                serve(connection, b"", True)
        return passed - before

    with SocketHarness() as harness:
        (connection, client), (other, _) = (
            harness.connect(harness.encoding(ignore)) for _ in range(2)
        )
        assert send(connection, 10) == 10
        for _ in range(100):
            clock.now += 0.1001
            assert send(connection, 1) == 1, "at its rate it is served for ever"
        clock.now += 3600
        assert send(connection, 11) == 10, (
            "silence saves up no more than a second's worth"
        )
        assert client.close_code() == 4003
        assert client.frames[-1].close_reason == "rate limit"
        assert send(other, 5) == 5, "each connection has a rate of its own"
