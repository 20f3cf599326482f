"""Chaos runs: their judge sees what is lost, doubled or out of order; their
clients speak both dialects."""

import json
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from bench import chaos, chaos_channels, chaos_objects
from bench.chaos import CMD_APP
from bench.chaos_client import Faults, Reader
from bench.chaos_loads import EventReceiver
from bench.chat_dialects import Entry, mark_of
from bench.connections import Target
from bench.faults import Network
from bench.figures import faults
from bench.generator import Generator
from bench.history import History, judge
from bench.loop import Loop
from checker.cli import check
from checker.history import read
from checker.models import OPERATIONS
from tests.conftest import StartServer

ANN = 1
BOB = 2


def received(*ids: int) -> list[Entry]:
    """Messages of Bob's in one conversation; ids are places in the log, and
    double as numbers."""
    return [Entry(id, 7, index, mark_of(BOB, id)) for index, id in enumerate(ids, 1)]


def test_a_reader_drops_repeats_and_hands_on_everything_else() -> None:
    new: list[Entry] = []
    one = Reader("ann", Faults(), new.append)
    first, second, third = received(3, 5, 9)
    for entry in (first, third, first, third):
        one.take(entry)
    one.take(first, answer=True)
    assert (new, one.cursor, one.repeats, one.faults.counts) == (
        [first, third],
        9,
        2,
        {},
    )
    changed = third._replace(mark=99)
    for entry in (second, changed):
        one.take(entry)
    assert (new[2:], one.cursor, one.faults.counts) == (
        [second, changed],
        9,
        {"inversions": 2},
    )


# --- the network between nodes ------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    commands, mine = os.pipe()
    try:
        yield Loop(commands)
    finally:
        os.close(commands)
        os.close(mine)


def arrival(
    source: socket.socket, sink: socket.socket, data: bytes, seconds: float
) -> bytes:
    """Send something; what of it arrives within so many seconds."""
    source.send(data)
    sink.settimeout(seconds)
    try:
        return sink.recv(100)
    except TimeoutError:
        return b""


def has_ended(end: socket.socket) -> bool:
    end.settimeout(60)
    try:
        return end.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.linux
def test_a_network_carries_holds_back_and_loses() -> None:
    network = Network()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=500) as listener,
        ExitStack() as ends,
    ):
        port = listener.getsockname()[1]
        network.listen("127.0.3.1", port)

        def line() -> tuple[socket.socket, socket.socket]:
            near = ends.enter_context(socket.create_connection(("127.0.3.1", port), 5))
            return near, ends.enter_context(listener.accept()[0])

        near, far = line()
        assert arrival(near, far, b"one", 60) == b"one"
        network.control("hold")
        assert arrival(near, far, b"two", 0.2) == b""
        network.control("heal")
        assert arrival(near, far, b"", 60) == b"two"
        for how, requests, answers in (
            ("cut", b"", b""),
            ("deaf", b"", b"no"),
            ("mute", b"yes", b""),
        ):
            near, far = line()
            network.control(how)
            assert arrival(near, far, b"yes", 60 if requests else 0.2) == requests, how
            assert arrival(far, near, b"no", 60 if answers else 0.2) == answers, how
            network.control("heal")
            assert has_ended(near), "a connection that may have a gap"
        for _ in range(300):
            socket.create_connection(("127.0.3.1", port), 5).close()
            listener.accept()[0].close()
        near, far = line()
        assert arrival(near, far, b"three", 60) == b"three", (
            "it survives connections that end at once"
        )
    network.close()


# --- the whole, against a server ----------------------------------------------


@pytest.fixture
def generator(
    loop: Loop,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Generator:
    """A process with clients, and a server for them: ``generator.state`` names
    its database ``file`` and the ``history`` of the clients.
    """
    # nothing breaks, nothing comes late
    monkeypatch.setattr(chaos, "QUIET_SECONDS", 0.3)
    apps: dict[str, Any] = {
        "gochat": {"login_policy": ""},
        str(CMD_APP): {"same_as": "gochat"},
    }
    apps |= yaml.safe_load(chaos_objects.CONFIG.format())
    server = start_server(config={"apps": apps})
    one = Generator(loop)
    one.aim(
        asdict(
            Target("127.0.0.1", server.ws.port, "/acc", "127.0.0.1", server.http.port)
        ),
        0,
    )
    history = tmp_path / "history.jsonl"
    one.state["history"] = history
    facts = {
        "addresses": [["127.0.0.1", server.ws.port]],
        "http_ports": [server.http.port],
    }
    facts |= {
        "history": str(history),
        "clients": 6,
        "seed": 1,
        "locks": True,
        "pace": 20.0,
    }
    chaos.meet(one, "messages", **facts)
    while one.state["clients"].sent < 50:
        chaos.chat(one, 0.5, rate=200)  # a process that was held up has said little
    one.state["file"] = server.folder / "data" / "imserver.db"
    return one


def operations_of(generator: Generator) -> list[str]:
    """The kinds of objects, and what was done with them."""
    whole = generator.state["history"].read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in whole if line.endswith("\n")]
    return [
        re.sub(":.*", ":", row["object"]) + f" {row['name']}"
        for row in rows
        if row["event"] == "ask"
    ]


def broken_rules(generator: Generator) -> set[str]:
    """What the checker says of the history of the clients."""
    return {
        each.rule
        for each in check(read(generator.state["history"].read_text().splitlines()))
    }


@pytest.mark.full("faults")
@pytest.mark.linux
def test_a_conversation_without_faults_has_none(generator: Generator) -> None:
    wanted = {
        f"{model}: {name}" for model, names in OPERATIONS.items() for name in names
    } - {"once: decide"}
    while not wanted <= set(operations_of(generator)):
        chaos.chat(generator, 1, rate=50)
    assert chaos.settle(generator, 60)["calm"]
    audit = chaos.audit(generator, 60)
    assert audit["faults"] == {}
    assert audit["figures"]["messages"] == audit["figures"]["acknowledged"] > 0
    assert broken_rules(generator) == set()


def test_a_run_is_not_good_if_the_checker_says_so(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.answered(history.ask("ann", "get", "text:note"), value="hello")
    history.close()
    figures, words = judge((tmp_path / "history.jsonl").read_text().splitlines())
    assert faults(figures) == {"chaos_broken": 1}
    assert words[0].startswith("not linearizable: text:note")


@pytest.mark.linux
def test_rows_that_vanish_and_rows_that_double_are_found(generator: Generator) -> None:
    assert chaos.settle(generator, 60)["calm"]
    file: Path = generator.state["file"]
    near = "SELECT 1 FROM message WHERE conversation = m.conversation AND seq"
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        (gone, _), *_, (doubled, conversation) = database.execute(
            "SELECT id, conversation FROM message AS m WHERE resend IS NOT NULL "
            f"AND EXISTS ({near} < m.seq) AND EXISTS ({near} > m.seq)"
        )
        columns = ", ".join(
            row[1] for row in database.execute("PRAGMA table_info(message)")
        )
        shown = columns.replace("id,", "(SELECT last_id + 1 FROM log),", 1).replace(
            "resend", "NULL"
        )
        shown = shown.replace(
            "seq", f"(SELECT last_seq + 1 FROM conversation WHERE id = {conversation})"
        )
        database.execute(
            f"INSERT INTO message ({columns}) SELECT {shown} FROM message WHERE id = {doubled}"
        )
        database.execute("UPDATE log SET last_id = last_id + 1")
        more = "last_seq = last_seq + 1, last_id = last_id + 1000"
        database.execute(
            f"UPDATE conversation SET {more} WHERE id = ?", (conversation,)
        )
        database.execute("DELETE FROM message WHERE id = ?", (gone,))
    chaos.audit(generator, 60)
    assert broken_rules(generator) >= {"lost", "doubled", "hole"}


# --- channels -----------------------------------------------------------------


def test_publications_have_places_that_are_dense() -> None:
    ranks = chaos_channels.Ranks(
        {("stored:1", "e", offset): offset for offset in (3, 7, 9)}
    )
    assert [ranks.rank(("stored:1", "e", offset)) for offset in (2, 3, 8, 9)] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.linux
def test_a_publication_that_subscribers_miss_or_see_twice_is_found(
    loop: Loop,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Subscribers that subscribe again all the time; then one of them has less,
    or more."""
    for name, value in {
        "CHECK_SECONDS": 0,
        "STAY_SECONDS": 0.05,
        "CHANNELS": ("live:1", "stored:1"),
    }.items():
        # nothing breaks, nothing comes late
        monkeypatch.setattr(chaos_channels, name, value)
    server = start_server(config=yaml.safe_load(chaos_channels.CONFIG.format()))
    one = Generator(loop)
    file = tmp_path / "history.jsonl"
    facts = {
        "addresses": [["127.0.0.1", server.ws.port]],
        "http_ports": [server.http.port],
    }
    facts |= {"history": str(file), "clients": 3, "seed": 1}
    chaos.meet(one, "channels", **facts)
    while one.state["clients"].resubscriptions < 20:
        chaos.chat(one, 0.5, rate=200)
    assert chaos.settle(one, 60)["calm"]

    def broken() -> tuple[set[str], dict[str, Any]]:
        audit = chaos.audit(one, 60)
        return {each.rule for each in check(read(file.read_text().splitlines()))}, audit

    rules, audit = broken()
    assert (rules, audit["faults"]) == (set(), {})
    assert audit["figures"]["recoveries"] == audit["figures"]["resubscriptions"] >= 20
    for subscriber in one.state["clients"].subscribers:
        for channel, lives in subscriber.lives.items():
            whole = [*lives[-1].seen]
            for seen, wanted in (
                ([whole[0], *whole[2:]], {"skipped"}),
                ([whole[0], *whole], {"seen twice"}),
                (whole[:-1], {"skipped"}),  # the history goes on behind it
            ):
                lives[-1].seen[:] = seen
                assert broken()[0] >= wanted, (subscriber.name, channel)
            lives[-1].seen[:] = whole


# --- events -------------------------------------------------------------------

LOG = [
    {"id": "log-1", "sender": "ann"},
    {"id": "log-2", "sender": "bob"},
    {"id": "log-3", "sender": "ann"},
    {"id": "log-4", "user": "ann"},
]


def deliver(receiver: EventReceiver, *rows: dict[str, Any]) -> None:
    """Deliver events as a server does."""
    body = json.dumps(
        {"events": [{"app": "101", "event": "message", **event} for event in rows]}
    )
    with urlopen(receiver.url, body.encode(), timeout=60) as answer:
        assert answer.status == 200


@pytest.mark.linux
@pytest.mark.parametrize(
    ("order", "rules"),
    [
        ((0, 1, 2, 3), set()),
        ((1, 0, 2, 3), set()),
        ((0, 2, 3), {"missing"}),
        ((2, 0, 1, 3), {"other order"}),
    ],
)
def test_what_is_missing_or_comes_after_a_later_one_of_its_user_is_found(
    order: tuple[int, ...], rules: set[str], tmp_path: Path
) -> None:
    log = [
        (f"101 {event['id']}", event.get("user", event.get("sender", "")))
        for event in LOG
    ]
    receiver = EventReceiver()
    history = History(tmp_path / "history")
    try:
        for number in order:
            deliver(receiver, LOG[number])
        deliver(receiver, LOG[order[0]])
        assert (len(receiver.seen), receiver.repeats) == (len(order), 1)
        receiver.control("kill")
        with pytest.raises(RemoteDisconnected):
            deliver(receiver, {"id": "log-9", "sender": "ann"})
        assert len(receiver.seen) == len(order)
    finally:
        receiver.close()
    receiver.note(history, log)
    history.close()
    assert {
        each.rule
        for each in check(read((tmp_path / "history").read_text().splitlines()))
    } == rules
