"""From a message to its answer: rules, what happens when one fails, and the limit of messages a second."""

import logging
from typing import Any

import pytest
from gevent.event import Event as Signal
from msgspec import json

from imserver.gateway.auth.quotas import limited
from imserver.gateway.model import Heartbeat, Ping, Reply
from imserver.gateway.node.http_servers import echo
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import CommandRow
from tests.gateway.hub.harness import CMD, Harness
from tests.gateway.protocol.line import LineDialect
from tests.gateway.transport.harness import Client, SocketHarness, ignore, until
from tests.integration.raw import BINARY, TEXT, frame, text
from tests.support import Clock


def ask(client: Client, cmd: str, data: Any = None, seq: str = "1") -> int:
    """Send a command and wait for its answer; the code."""
    count = len(client.payloads())
    client.send(text(json.encode({"seq": seq, "cmd": cmd, "data": data})))
    until(lambda: len(client.payloads()) > count)
    body = json.decode(client.payloads()[count])
    assert (body["seq"], body["cmd"]) == (seq, cmd)
    code: int = body["response"]["code"]
    return code


def test_commands_are_answered_by_their_rules(harness: Harness) -> None:
    connection, client = harness.connect()
    assert ask(client, "ping") == 200
    assert ask(client, "heartbeat") == 1000
    assert ask(client, "login", {"userID": "", "appID": 101}) == 1002
    assert ask(client, "login", {"userID": "皇" * 7, "appID": 101}) == 1002
    assert ask(client, "login", {"userID": "ann", "appID": 101}) == 200
    assert ask(client, "login", {"userID": "ann", "appID": 101}) == 1009
    assert ask(client, "login", {"userID": "u" * 20, "appID": 101}) == 1002, "before 1009"
    assert ask(client, "heartbeat") == 200
    assert ask(client, "nonsense") == 1010
    assert connection.user == "ann"
    assert harness.metrics.messages_in == 9


def test_an_unreadable_request_is_answered_in_its_dialect(harness: Harness) -> None:
    _, cmd = harness.connect()
    _, line = harness.connect(dialect=LineDialect())
    cmd.send(text("no json"))
    cmd.expect(1)
    assert cmd.payloads() == ["数据不合法".encode()]
    line.send(frame(BINARY, b" "))
    line.send(frame(BINARY, b"ping"))
    line.expect(1)
    assert line.payloads() == [b"ping 200"], "nothing is answered to an empty line"


def test_requests_of_one_packet_are_answered_in_order(harness: Harness) -> None:
    _, client = harness.connect()
    client.send(b"".join(text(json.encode({"seq": str(n), "cmd": "ping"})) for n in range(100)))
    client.expect(100)
    assert [json.decode(payload)["seq"] for payload in client.payloads()] == [str(n) for n in range(100)]


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
    harness.dispatcher.table[Ping] = CommandRow(fail, needs_session=False, refusals={LookupError: 1005})
    assert ask(client, "ping") == 1005
    assert not caplog.records, "a refusal is no defect"


def test_a_rule_may_wait_and_its_client_waits_with_it(harness: Harness) -> None:
    go = Signal()

    def slow(_connection: Connection, _command: Any) -> Reply:
        go.wait()
        return Reply(200, "slow")

    harness.dispatcher.table[Heartbeat] = CommandRow(slow, needs_session=False)
    _, client = harness.connect()
    _, other = harness.connect()
    client.send(text('{"seq":"1","cmd":"heartbeat"}') + text('{"seq":"2","cmd":"ping"}'))
    assert ask(other, "ping") == 200
    assert client.payloads() == []
    go.set()
    client.expect(2)
    assert [json.decode(payload)["seq"] for payload in client.payloads()] == ["1", "2"]


def test_a_rule_that_needs_a_session_is_not_asked_without_one(harness: Harness) -> None:
    calls: list[Connection] = []
    harness.dispatcher.table[Heartbeat] = CommandRow(
        lambda connection, _: calls.append(connection) or Reply(200), needs_session=True
    )
    _, client = harness.connect()
    assert ask(client, "heartbeat") == 1000
    assert not calls


def test_a_decoder_that_breaks_the_contract_ends_its_own_connection_only(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LineDialect, "decode", lambda *_: 1 // 0)
    _, client = harness.connect(dialect=LineDialect())
    _, other = harness.connect()
    with caplog.at_level(logging.ERROR):
        client.send(frame(BINARY, b"ping"))
        client.until_ended()
    assert "ZeroDivisionError" in caplog.text
    assert ask(other, "ping") == 200


# --- echo ---------------------------------------------------------------------------------------------------


def test_the_echo_path_returns_messages_unchanged() -> None:
    with SocketHarness() as harness:
        _, client = harness.connect(harness.encoding(echo, 1 << 20))
        client.send(text("é") + frame(BINARY, b"\xff" * 70_000) + text(""))
        client.expect(3)
        assert [(one.opcode, one.payload) for one in client.frames] == [
            (TEXT, "é".encode()),
            (BINARY, b"\xff" * 70_000),
            (TEXT, b""),
        ]


# --- limits -------------------------------------------------------------------------------------------------


class Meter:
    """A limited serve and how many messages it let through."""

    def __init__(self, per_second: float) -> None:
        self.passed = 0
        self.serve = limited(self._serve, per_second)

    def _serve(self, _connection: Connection, _payload: bytes, _text: bool) -> None:
        self.passed += 1

    def send(self, connection: Connection, count: int) -> int:
        """So many messages at once; how many were served."""
        before = self.passed
        for _ in range(count):
            if connection.is_open:
                self.serve(connection, b"", True)
        return self.passed - before


def test_a_connection_above_its_rate_is_closed_with_4003(clock: Clock) -> None:
    with SocketHarness() as harness:
        meter = Meter(10)
        connection, client = harness.connect(harness.encoding(ignore))
        other, _ = harness.connect(harness.encoding(ignore))
        assert meter.send(connection, 11) == 10
        assert client.close_code() == 4003
        assert client.frames[-1].close_reason == "rate limit"
        assert meter.send(other, 5) == 5, "each connection has a rate of its own"


def test_a_connection_at_its_rate_is_served_for_ever(clock: Clock) -> None:
    with SocketHarness() as harness:
        meter = Meter(10)
        connection, _ = harness.connect(harness.encoding(ignore))
        assert meter.send(connection, 10) == 10
        for _ in range(100):
            clock.now += 0.1001
            assert meter.send(connection, 1) == 1
        clock.now += 3600
        assert meter.send(connection, 11) == 10, "silence saves up no more than a second's worth"


def test_a_limited_dispatcher_answers_within_the_limit(clock: Clock) -> None:
    with Harness() as harness:
        serve = limited(harness.dispatcher.serve, 3)
        connection, client = SocketHarness.connect(harness, harness.encoding(serve, dialect=CMD))
        client.send(text('{"cmd":"ping"}') * 4)
        assert client.close_code() == 4003
        assert len(client.payloads()) == 3
        assert not connection.is_open
