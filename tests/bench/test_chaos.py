"""Chaos runs: their judge sees what is lost, doubled or out of order; their clients speak both dialects."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench import chaos_talk
from bench.chaos import CMD_APP, FAULTS, Network, chosen
from bench.chaos_client import (
    CmdSpeech,
    Faults,
    LoggedIn,
    NotStored,
    Outgoing,
    Page,
    Promises,
    ProtobufSpeech,
    Reader,
    Refused,
    Stored,
    Told,
    mark_of,
    read_mark,
    text_of,
)
from bench.chaos_talk import compare
from bench.connections import Target
from bench.figures import FIGURES
from bench.generator import Generator
from bench.loop import BenchError, Loop
from imserver.protocol import protobuf
from tests.conftest import StartServer

ANN, BOB = 1, 2


def reader() -> Reader:
    return Reader("ann", Faults())


def told(*ids: int) -> list[Told]:
    """Messages of Bob's in one conversation; ids are places in the log, and double as numbers."""
    return [Told(id, 7, place, mark_of(BOB, id)) for place, id in enumerate(ids, 1)]


def taken(*entries: Told) -> Reader:
    one = reader()
    for entry in entries:
        one.take(entry)
    return one


# --- what one client sees -----------------------------------------------------------------------------------


def test_entries_in_order_are_good_and_known_ones_are_repeats() -> None:
    one = taken(*told(3, 5, 9), *told(3, 5))
    assert dict(one.faults.counts) == {}
    assert (one.cursor, one.repeats, list(one.ids)) == (9, 2, [3, 5, 9])


def test_the_acknowledgement_of_what_is_known_is_no_repeat() -> None:
    one = taken(*told(3))
    one.take(told(3)[0], answer=True)
    assert one.repeats == 0


def test_a_seq_that_is_left_out_is_a_hole() -> None:
    first, second, third, fourth = told(3, 5, 9, 11)
    assert taken(first, fourth).faults.counts == {"holes": 2}
    assert taken(second).faults.counts == {"holes": 1}, "the first that a client sees is number 1"
    assert taken(first, second, third).faults.counts == {}


def test_an_id_that_comes_behind_a_greater_one_is_an_inversion() -> None:
    first, second, third = told(3, 5, 9)
    assert taken(first, third, second).faults.counts == {"holes": 1, "inversions": 1}


def test_a_seq_that_comes_again_under_another_id_is_an_inversion() -> None:
    assert taken(*told(3, 5), Told(9, 7, 2, 0)).faults.counts == {"inversions": 1}


def test_an_id_that_means_something_else_has_changed() -> None:
    assert taken(*told(3), Told(3, 7, 1, 99)).faults.counts == {"changed": 1}


def test_two_acknowledgements_that_differ_have_changed() -> None:
    promises = Promises(Faults())
    assert promises.keep(5, 10)
    assert not promises.keep(5, 10)
    assert not promises.faults.counts
    promises.keep(5, 11)
    assert promises.faults.counts == {"changed": 1}


# --- what is compared at the end ----------------------------------------------------------------------------

OWN = [Told(3, 7, 1, mark_of(ANN, 1)), Told(5, 7, 2, mark_of(BOB, 2)), Told(9, 7, 3, mark_of(ANN, 3))]
PROMISED = {mark_of(ANN, 1): 3, mark_of(ANN, 3): 9}


def test_the_same_on_both_sides_is_good() -> None:
    had = taken(*OWN)
    found = compare(had, taken(*OWN), ANN, PROMISED)
    assert asdict(found) == {"messages": 3, "lost": 0, "twice": 0, "missing": 0, "unknown": 0}
    assert had.faults.counts == {}


def test_what_was_acknowledged_and_is_not_stored_is_lost() -> None:
    found = compare(taken(*OWN), taken(*OWN[:2]), ANN, PROMISED)
    assert (found.lost, found.unknown) == (1, 1)


def test_what_is_stored_under_another_id_than_was_acknowledged_is_lost() -> None:
    found = compare(taken(*OWN), taken(*OWN), ANN, {**PROMISED, mark_of(ANN, 3): 5})
    assert found.lost == 1


def test_a_message_that_stands_twice_in_the_log_is_found() -> None:
    twice = [*OWN, Told(11, 7, 4, mark_of(ANN, 1))]
    found = compare(taken(*twice), taken(*twice), ANN, PROMISED)
    assert (found.twice, found.lost) == (1, 0)


def test_what_is_stored_and_was_not_told_is_missing() -> None:
    had = taken(*OWN[:2])
    found = compare(had, taken(*OWN), ANN, {})
    assert (found.missing, had.faults.counts["missing"]) == (1, 1)


def test_other_entries_than_messages_are_not_compared() -> None:
    found = compare(taken(*OWN), taken(*OWN, Told(10, 7, 4, 0)), ANN, PROMISED)
    assert (found.messages, found.missing) == (3, 0)


def test_a_mark_is_read_from_the_text_that_has_it() -> None:
    assert read_mark(text_of(mark_of(17, 123456), "....")) == mark_of(17, 123456)
    assert read_mark("hello: world") == read_mark("") == 0


# --- what is said on the wire -------------------------------------------------------------------------------


def test_cmd_frames_are_understood() -> None:
    speech = CmdSpeech(105, 1, "", acks=True)
    answer = b'{"seq":"%d","cmd":"send","response":{"code":%d,"codeMsg":"","data":%b}}'
    mark = mark_of(ANN, 4)
    stored = answer % (mark, 200, b'{"id":8,"conversation":2,"seq":5,"repeated":true}')
    assert speech.hear(stored) == [Stored(mark, Told(8, 2, 5, mark))]
    assert speech.hear(answer % (mark, 1008, b"null")) == [NotStored(mark)]
    with pytest.raises(KeyError):
        speech.hear(b"{}")


def sent(frame: bytes, dialect: protobuf.ProtobufDialect | None = None) -> Any:
    """The command that the server reads in a frame of a client."""
    return (dialect or protobuf.ProtobufDialect()).decode(unmasked(frame)).command


def test_protobuf_frames_are_understood() -> None:
    speech = ProtobufSpeech(1, "token")
    assert sent(speech.login(7)).token == "token"
    first, second = (Outgoing(mark_of(ANN, number), 2, False, f"1:{number}:..") for number in (4, 5))
    command = sent(speech.send(first))
    assert (command.number, command.receiver, command.content) == (1, 2, b"1:4:..")
    assert command.client_msg_id == first.name
    assert sent(speech.send(second)).number == 2
    assert sent(speech.send(first)).number == 1, "again under its own number"
    assert speech.hear(protobuf.LOGIN_ACK) == [LoggedIn(recovered=False)]
    ack = protobuf.uplink_ack(1, 5)
    assert speech.hear(ack) == [Stored(first.mark, Told(5, 0, 0, first.mark))]
    assert speech.hear(ack) == [], "the last one again"
    pushed = protobuf.message(1, 1, 2, 1, b"2:9:", 6, 1_700_000_000_000)
    expected = Told(6, 0, 0, mark_of(BOB, 9))
    assert speech.hear(protobuf.push(pushed)) == [expected]
    assert speech.hear(protobuf.page([pushed], True)) == [Page([expected], more=True)]
    assert speech.hear(protobuf.page([], False)) == [Page([], more=False)]
    speech.login(7)
    assert sent(speech.send(second)).number == 1, "each connection counts anew"


def test_protobuf_with_a_cursor_is_understood() -> None:
    speech = ProtobufSpeech(1, "token", resumes=True, acks=True)
    login = sent(speech.login(7))
    assert (login.token, login.cursor, login.acks) == ("token", 7, True)
    message = Outgoing(mark_of(ANN, 4), 2, False, "1:4:..")
    speech.send(message)
    recovered = protobuf.output(protobuf.CT_ACK, b"\x08\x03\x20\x01")
    assert speech.hear(recovered) == [LoggedIn(recovered=True)]
    refused = b"\x08\x04\x10%b\x22\x06\x08\x04\x10\x01\x30\x03"
    not_stored = refused % b"\xf0\x07"  # 1008
    assert speech.hear(b"\x0a%c%b" % (len(not_stored), not_stored)) == [NotStored(message.mark)]
    other = refused % b"\xeb\x07"  # 1003
    assert speech.hear(b"\x0a%c%b" % (len(other), other)) == [Refused("send", 1003)]
    with pytest.raises(ValueError, match="x04"):
        speech.hear(b"\x0a\x09\x08\x04")


def unmasked(frame: bytes) -> bytes:
    mask, body = frame[2:6], frame[6:]
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))


# --- the network between nodes ------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    commands, mine = os.pipe()
    try:
        yield Loop(commands)
    finally:
        os.close(commands)
        os.close(mine)


class Line:
    """A connection over the network to a listener of the test's own."""

    def __init__(self, port: int, listener: socket.socket) -> None:
        self.near = socket.create_connection(("127.0.3.1", port), 5)
        self.far, _ = listener.accept()

    def say(self, data: bytes, seconds: float = 5) -> bytes:
        """Send from the near end; what arrives at the far one."""
        self.near.send(data)
        return self.heard(seconds)

    def heard(self, seconds: float = 5) -> bytes:
        self.far.settimeout(seconds)
        try:
            return self.far.recv(100)
        except TimeoutError:
            return b""

    def ended(self) -> bool:
        try:
            return self.near.recv(100) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.mark.linux
def test_a_network_carries_holds_back_and_loses() -> None:
    network = Network()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        network.listen("127.0.3.1", port)
        line = Line(port, listener)
        assert line.say(b"one") == b"one"
        network.disturb("hold")
        assert line.say(b"two", 0.2) == b""
        network.disturb("heal")
        assert line.heard() == b"two"
        network.disturb("cut")
        assert line.say(b"three", 0.2) == b""
        network.disturb("heal")
        assert line.ended(), "a connection with a hole"
        line.close()
        line = Line(port, listener)
        assert line.say(b"four") == b"four"
        line.close()
    network.close()
    assert not network.pairs


# --- the whole, against a server ----------------------------------------------------------------------------


@pytest.fixture
def generator(loop: Loop, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Generator:
    """A process with clients, and a server for them; its database is ``generator.kept["file"]``."""
    monkeypatch.setattr(chaos_talk, "QUIET_SECONDS", 0.3)  # nothing breaks, nothing comes late
    apps = {"gochat": {"login_policy": ""}, str(CMD_APP): {"same_as": "gochat"}}
    server = start_server(config={"apps": apps})
    one = Generator(loop)
    one.tell = lambda line: None  # type: ignore[method-assign]
    one.aim(asdict(Target("127.0.0.1", server.ws.port, "/acc", "127.0.0.1", server.http.port)), 0)
    chaos_talk.meet(one, [["127.0.0.1", server.ws.port]], 6, CMD_APP, ["cmd", "protobuf"], 1, 20)
    chaos_talk.talk(one, 0.5, 200)
    one.kept["file"] = server.folder / "data" / "imserver.db"
    return one


@pytest.mark.linux
def test_a_talk_without_faults_has_none(generator: Generator) -> None:
    assert chaos_talk.settle(generator, 10)["calm"]
    audit = chaos_talk.audit(generator, 10)
    assert audit["faults"] == {}
    assert audit["sent"] == audit["acked"] > 50
    assert audit["compared"]["messages"] > 2 * audit["acked"]


@pytest.mark.linux
def test_rows_that_vanish_and_rows_that_double_are_found(generator: Generator) -> None:
    assert chaos_talk.settle(generator, 10)["calm"]
    file: Path = generator.kept["file"]
    with closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT id, conversation FROM message WHERE resend IS NOT NULL").fetchall()
        (gone, _), (doubled, conversation) = found[3], found[7]
        columns = ", ".join(row[1] for row in database.execute("PRAGMA table_info(message)"))
        shown = columns.replace("id,", "(SELECT last_id + 1 FROM log),", 1).replace("resend", "NULL")
        shown = shown.replace("seq", f"(SELECT last_seq + 1 FROM conversation WHERE id = {conversation})")
        database.execute(f"INSERT INTO message ({columns}) SELECT {shown} FROM message WHERE id = {doubled}")
        database.execute("UPDATE log SET last_id = last_id + 1")
        database.execute(
            "UPDATE conversation SET last_seq = last_seq + 1, last_id = last_id + 1000 WHERE id = ?",
            (conversation,),
        )
        database.execute("DELETE FROM message WHERE id = ?", (gone,))
        database.commit()
    faults = chaos_talk.audit(generator, 10)["faults"]
    assert (faults["lost"], faults["twice"]) == (1, 1)
    assert faults["unknown"] >= 2, "both sides of the conversation were told what is gone"
    assert faults["missing"] >= 2, "and nobody of what stands twice"
    assert faults["holes"] >= 2


# --- what is broken -----------------------------------------------------------------------------------------


class FakeGround:
    """Says what could be broken."""

    def __init__(self, nodes: int, can_stall: bool) -> None:
        self.nodes = [object()] * nodes
        self.database = None
        self.can_stall = can_stall


def test_only_what_is_there_is_broken() -> None:
    lone = {fault.name for fault in chosen("", FakeGround(1, False))}  # type: ignore[arg-type]
    assert lone == {"kill", "restart", "pause", "redis"}
    assert {fault.name for fault in chosen("kill, cut", FakeGround(2, False))} == {"kill", "cut"}  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="nothing to break"):
        chosen("database", FakeGround(2, True))  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="no fault flood"):
        chosen("flood", FakeGround(2, True))  # type: ignore[arg-type]


def test_every_fault_is_counted_by_a_figure() -> None:
    assert {f"chaos_{name}_count" for name in FAULTS} <= set(FIGURES)
