"""Requests of a stranger: what holds the loop or takes memory is found."""

import json

import pytest

from bench.abuse import ATTACKS, operation_attacks
from bench.abuse_rows import COMMANDS, PROTOBUF, ROUTES
from bench.connections import Target
from imserver.api.v1.openapi import document
from imserver.api.v1.table import DOCUMENTED, OPERATIONS
from imserver.dialects.pusher import wire as pusher
from imserver.protocol import action, centrifuge, cmd, protobuf
from tests.bench.play import run
from tests.features import DIALECTS
from tests.features import ROUTES as ROUTE_TABLE

TARGET = Target("127.0.0.1", 2, http_port=1)


def test_every_attack_is_one_request_or_what_fits_one_read_without_a_key() -> None:
    strangers = {name: attack for name, attack in ATTACKS.items() if attack.mode != "demo"}
    for name, attack in strangers.items():
        if name.partition(":")[0] in COMMANDS or attack.account:
            continue
        data = attack.build(TARGET)
        assert data.count(b" HTTP/1.1\r\n") <= 1 or (name.startswith("64 KB of ") and len(data) <= 65536)
        assert b"uthorization" not in data[:4096] or "guessed token" in name


def test_every_command_of_every_dialect_has_an_attack() -> None:
    tables = {
        "cmd": {*cmd.COMMANDS},
        "centrifuge": {
            *centrifuge._READERS,
            *(f"rpc {name}" for name in centrifuge.RPC_METHODS),
            "ping",
            "send",
        },
        "action": {*action.ACTIONS},
        "pusher": {*pusher.COMMANDS, f"{pusher.CLIENT_PREFIX}typing"},
        "protobuf": {name for name, _ in protobuf.FULL_COMMANDS.values()},
        "client": set[str](),
    }
    assert tables.keys() == {dialect.name for dialect in DIALECTS}
    assert {dialect: {*rows} for dialect, rows in COMMANDS.items()} == tables
    assert {number: name for name, (number, _) in PROTOBUF.items()} == {
        number: name for number, (name, _) in protobuf.FULL_COMMANDS.items()
    }
    assert {f"{dialect}: {name}" for dialect, rows in tables.items() for name in rows} <= ATTACKS.keys()


def test_every_operation_and_every_other_route_has_an_attack() -> None:
    operations = {f"{row.method} {row.path}": row for row in DOCUMENTED}
    attacks = {attack.name: attack for attack in operation_attacks(document(DOCUMENTED, {}))}
    for name, row in operations.items():
        data = attacks[name].build(TARGET)
        assert data.startswith(f"{row.method} {row.path.partition('{')[0]}".encode())
        assert row.body is None or data.partition(b"\r\n\r\n")[2]
    others = {f"{row.method} {row.path}" for row in ROUTE_TABLE} - {
        f"{row.method} {row.path}" for row in OPERATIONS
    }
    assert others == ROUTES.keys() <= ATTACKS.keys()


def test_heads_and_bodies_are_whole() -> None:
    head, _, body = ATTACKS["POST /login, 4 MB of 0xFF as multipart"].build(TARGET).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    head, _, rest = ATTACKS["GET /, 4,000 header lines"].build(TARGET).partition(b"\r\n\r\n")
    assert head.count(b"\r\nX-") > 4000
    assert rest == b""


@pytest.mark.full
@pytest.mark.linux
def test_the_worst_request_is_named_first() -> None:
    result = run("abuse", "--match", "GET /health, 60 KB of query", "--tries", "1", "--json")
    found = json.loads(result.stdout)
    (report,) = found["reports"]
    rows = report["attacks"]
    assert {row["name"].partition(":")[0] for row in rows} == {"demo", "keys"}
    assert report["worst"] == rows[0]["name"]
    assert all(row["hold_ms"] > 0 and row["answer"].startswith("HTTP/1.1 ") for row in rows)
    assert result.exit_code == (0 if all(bar["met"] for bar in found["bars"]) else 1)


@pytest.mark.full
@pytest.mark.linux
def test_a_known_webhook_is_attacked() -> None:
    result = run("abuse", "--match", "people: POST /hooks/, known URL", "--tries", "1", "--json")
    (report,) = json.loads(result.stdout)["reports"]
    answers = {row["name"].partition("known URL")[2]: row["answer"].split()[1] for row in report["attacks"]}
    assert answers.pop("") == "200"
    assert set(answers.values()) == {"400", "413"}
