"""Requests of a stranger: what holds the loop or takes memory is found."""

import json
from collections import Counter
from typing import get_type_hints

import msgspec
import pytest

from bench.abuse import ATTACKS, operation_attacks, unproved_in
from bench.abuse_rows import (
    COMMANDS,
    PROTOBUF,
    PUBLISHER,
    REFUSED,
    SILENT,
    command_answers,
    http_answers,
)
from bench.abuse_setup import Attacker
from bench.frames import server_frame
from imserver.dialects.action import wire as action
from imserver.dialects.centrifuge import wire as centrifuge
from imserver.dialects.protobuf import wire as protobuf
from imserver.dialects.pusher import wire as pusher
from imserver.gateway.api.v1.publisher import PublisherCommand
from imserver.gateway.dialects.cmd import wire as cmd
from imserver.gateway.http.openapi import document
from tests.bench.play import run
from tests.rows import COMMANDS as ROUTES_OF_BATCHES
from tests.rows import DIALECTS, DOCUMENTED, READERS

KNOWN = {
    "app": "default",
    "user": "1",
    "id": 1,
    "conversation": 1,
    "stream": "x",
    "token": "x.y.z",
}
TARGET = Attacker("127.0.0.1", 2, http_port=1, known=KNOWN)


def test_every_attack_is_one_request_or_what_fits_one_read_without_a_key() -> None:
    strangers = {
        name: attack for name, attack in ATTACKS.items() if attack.mode != "demo"
    }
    for name, attack in strangers.items():
        if name.partition(":")[0] in COMMANDS or attack.account:
            continue
        data = attack.build(TARGET)
        assert data.count(b" HTTP/1.1\r\n") <= 1 or (
            name.startswith("64 KB of ") and len(data) <= 65536
        )
        assert b"uthorization" not in data[:4096] or "guessed token" in name


def is_small(dialect: str, name: str) -> bool:
    """Whether a command of a feature has only numbers: a client cannot make it
    large, so it needs no attack."""
    reader = READERS.get(dialect, {}).get(name.removeprefix("rpc "))
    command = get_type_hints(reader).get("return") if reader else None
    if command is None:
        return False
    kinds = {field.type for field in msgspec.structs.fields(command)}
    return kinds <= {int, int | None, bool, bool | None, float}


def test_every_command_of_every_dialect_has_an_attack_unless_it_is_small() -> None:
    tables = {
        "cmd": {*cmd.COMMANDS, *READERS["cmd"]},
        "centrifuge": {
            *centrifuge._READERS,
            *(f"rpc {name}" for name in READERS["centrifuge"]),
            *("rpc", "ping", "send"),
        },
        "action": {*action.ACTIONS},
        "pusher": {*pusher.COMMANDS, "pusher:ping", f"{pusher.CLIENT_PREFIX}typing"},
        "protobuf": {name for name, _ in protobuf.FULL_COMMANDS.values()},
        "client": set[str](),
    }
    assert tables.keys() == {dialect.name for dialect in DIALECTS}
    for dialect, names in tables.items():
        rows = COMMANDS[dialect].keys()
        assert rows <= names
        assert [name for name in names - rows if not is_small(dialect, name)] == []
    assert {number: name for name, (number, _) in PROTOBUF.items()} == {
        number: name for number, (name, _) in protobuf.FULL_COMMANDS.items()
    }
    of_routes = {
        name for name, route in ROUTES_OF_BATCHES.items() if route.on_publisher
    }
    published = {*PublisherCommand.__struct_encode_fields__, *of_routes} - {"seq"}
    assert PUBLISHER.keys() == published
    assert {f"publisher: {name}" for name in published} <= ATTACKS.keys()
    assert {
        f"{dialect}: {name}" for dialect, rows in COMMANDS.items() for name in rows
    } <= ATTACKS.keys()


def test_every_operation_has_an_attack() -> None:
    operations = {f"{row.method} {row.path}": row for row in DOCUMENTED}
    attacks = {
        attack.name: attack for attack in operation_attacks(document(DOCUMENTED, {}))
    }
    for name, row in operations.items():
        data = attacks[name].build(TARGET)
        assert data.startswith(f"{row.method} {row.path.partition('{')[0]}".encode())
        assert row.body is None or data.partition(b"\r\n\r\n")[2]
    attacked = {attack.of for attack in ATTACKS.values()}
    assert REFUSED.keys() | SILENT <= attacked | operations.keys()


def test_accepted_and_refused_requests_are_counted() -> None:
    answers = (
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"code":200}',
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"code":1003}',
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"error":{"code":103}}',
        b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"replies":[{"error":{"code":108}},{"publish":{}}]}',
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"replies":[{"publish":{}}]}',
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"results":[{"status":403,"body":{}}]}',
        b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n{"results":[{"status":200,"body":{}}]}',
    )
    counts = {"ok": 3, "code 1003": 1, "code 103": 1, "code 108": 1, "403": 1, "404": 1}
    assert http_answers(b"".join(answers)) == counts
    switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"

    def counted(dialect: str, *payloads: bytes) -> dict[str, int]:
        frames = b"".join(map(server_frame, payloads))
        return command_answers(dialect, "ping", switched + frames)

    ping = b'{"seq":"1","cmd":"ping","response":{"code":%d,"msg":"","data":null}}'
    login = b'{"seq":"1","cmd":"login","response":{"code":200,"msg":"","data":null}}'
    assert counted("cmd", login, ping % 200, ping % 1003) == {"ok": 1, "code 1003": 1}
    both = b'{"id":3,"ping":{}}\n{"id":3,"error":{"code":103,"message":""}}'
    assert counted("centrifuge", b'{"id":1,"connect":{}}', both) == {
        "ok": 1,
        "code 103": 1,
    }
    wrong = b'{"event":"pusher:error","data":{"code":4301,"message":""}}'
    assert counted("pusher", wrong, b'{"event":"pusher:pong"}') == {
        "ok": 1,
        "code 4301": 1,
    }


def test_an_attack_that_is_refused_for_everybody_proves_nothing() -> None:
    rows = [
        {"of": "GET /mine", "counts": Counter({"401": 9})},
        {"of": "GET /mine", "counts": Counter({"ok": 1, "404": 8})},
        {"of": "GET /nobodys", "counts": Counter({"401": 9})},
        {"of": next(iter(REFUSED)), "counts": Counter({"401": 9})},
        {"of": "", "counts": Counter({"401": 9})},
    ]
    assert unproved_in(rows) == ["GET /nobodys"]


@pytest.mark.full("load")
@pytest.mark.linux
def test_the_worst_request_is_named_first() -> None:
    result = run(
        "abuse", "--match", "GET /health, 60 KB of query", "--tries", "1", "--json"
    )
    found = json.loads(result.stdout)
    (report,) = found["reports"]
    rows = report["attacks"]
    assert {row["name"].partition(":")[0] for row in rows} == {"demo", "keys"}
    assert report["worst"] == rows[0]["name"]
    assert all(
        row["hold_ms"] > 0 and row["answer"].startswith("HTTP/1.1 ") for row in rows
    )
    assert result.exit_code == (0 if all(bar["met"] for bar in found["bars"]) else 1)
