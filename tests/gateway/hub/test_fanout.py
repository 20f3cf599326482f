"""Fan-out: who is told what, in which order; and a model that knows it for any
run of events."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.model import Event, Reply, Request
from imserver.gateway.sessions.sessions import ENTER_TEXT
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import CMD, Harness, received
from tests.gateway.protocol.line import LineDialect
from tests.gateway.transport.harness import Client, Socket, turn, until
from tests.integration.raw import CONTROL_OPCODES


def settle(*clients: Client, forget: bool = False) -> None:
    """Wait until the clients have all that was on its way, and take no account
    of it if they ``forget``."""
    turn()
    for client in clients:
        client.probe(b"settled")
        if forget:
            client.frames.clear()


PONG = CMD.encode_reply(Request("1", "ping", None), Reply(200, "pong"))


def msg(text: str = "hello", sender: str = "eve") -> Event:
    return Event("msg", sender, text, "7")


def enter(user: str) -> tuple[str, str, str]:
    return ("enter", user, ENTER_TEXT)


# --- pushes -------------------------------------------------------------------


class Words(CmdDialect):
    """Notes what it encodes. It has no word for who ``fails``."""

    fails = ""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[Event] = []

    def encode_event(self, event: Event) -> bytes | None:
        self.encoded.append(event)
        if event.sender == self.fails:
            raise ZeroDivisionError
        return super().encode_event(event)


def test_an_event_is_encoded_once_for_all_who_share_an_encoding(
    harness: Harness,
) -> None:
    harness.hub.set_policy("102", "multi", quiet=True)
    words = Words()
    for number in range(40):
        harness.login("102", f"u{number}", dialect=words, deflate=15 * (number % 2))
    assert harness.fanout.to_app("102", msg()) == 40
    turn()
    assert len(words.encoded) == 2


def test_deliveries_are_counted_but_those_without_a_word_and_a_quiet_app_is_silent(
    harness: Harness,
) -> None:
    (_, line), (_, bob) = (
        harness.login("101", "ann", dialect=LineDialect()),
        harness.login("101", "bob"),
    )
    settle(line, bob, forget=True)
    before = harness.metrics.deliveries
    harness.login("101", "cid")
    turn()
    assert harness.metrics.deliveries - before == 1, "bob is told of cid"
    assert harness.fanout.to_app("101", msg(), "cid") == 2
    assert harness.fanout.to_app("no such app", msg()) == 0
    assert harness.fanout.to_sessions("101", "none", msg()) == 0
    harness.fanout.to_sessions("101", "ann", msg("to one"))
    assert harness.metrics.deliveries - before == 1 + 2 + 1
    harness.hub.set_policy("101", "newest", quiet=True)
    harness.login("101", "dan")[0].lost()
    settle(line, bob)
    assert line.payloads() == [b"eve: hello", b"eve: to one"]
    assert received(bob) == [enter("cid"), ("msg", "eve", "hello")]


# --- notices ------------------------------------------------------------------


def test_a_login_storm_costs_a_frame_a_notice_and_a_send_a_turn() -> None:
    with Harness(batch=10_000) as harness:
        connection, ann = harness.login("101", "ann")
        settle(ann, forget=True)
        several = [harness.login("101", f"u{number}")[0] for number in range(200)]
        turn()
        sends = [
            len(one.sock.sends)
            for one in (connection, *several)
            if isinstance(one.sock, Socket)
        ]
        assert (sends[0] - 1, max(sends[1:])) == (1, 1)
        assert received(ann) == [enter(f"u{number}") for number in range(200)]


def test_a_broken_notice_stops_no_other_writing(
    harness: Harness, capfd: pytest.CaptureFixture[str]
) -> None:
    words = Words()
    _, ann = harness.login("101", "ann", dialect=words)
    bob_session, bob = harness.login("102", "bob")
    settle(ann, bob, forget=True)
    words.fails = "cid"
    harness.login("101", "cid")
    bob_session.send(b"reply")
    until(lambda: b"reply" in bob.payloads())
    assert "ZeroDivisionError" in capfd.readouterr().err
    harness.fanout.to_app("101", msg())
    settle(ann)
    assert received(ann)[-1] == ("msg", "eve", "hello")


# --- a model ------------------------------------------------------------------


class Model:
    """What every connection has to receive, by nothing but lists: the order of
    the calls.

    Notices wait until the turn ends or something is sent in an app with waiting
    ones; then they go to whoever is addressed at that moment, except an enter
    to its own user, and except what a session came after.
    """

    def __init__(self, notice_members: int) -> None:
        self.notice_members = notice_members
        self.addressed: dict[str, dict[str, list[int]]] = {"101": {}, "102": {}}
        self.received: dict[int, list[tuple[str, ...]]] = {}
        self.waiting: dict[str, list[tuple[str, str]]] = {"101": [], "102": []}
        self.came_after: dict[int, int] = {}

    def flush(self) -> None:
        for app, notices in self.waiting.items():
            for user, sessions in self.addressed[app].items():
                for session in sessions:
                    for kind, about in notices[self.came_after.get(session, 0) :]:
                        if (kind, about) != ("enter", user):
                            self.received[session].append((kind, about))
            notices.clear()
        self.came_after.clear()

    def notice(self, app: str, kind: str, user: str) -> None:
        if len(self.addressed[app]) <= self.notice_members:
            self.waiting[app].append((kind, user))

    def login(self, app: str, user: str, session: int) -> None:
        users = self.addressed[app]
        users[user] = [session] if app == "101" else [*users.get(user, []), session]
        self.received[session] = []
        self.notice(app, "enter", user)
        self.came_after[session] = len(self.waiting[app])

    def leave(self, app: str, user: str, session: int) -> None:
        users = self.addressed[app]
        if session in users.get(user, []):
            users[user].remove(session)
            if not users[user]:
                del users[user]
                self.notice(app, "exit", user)

    def push(self, app: str, number: str, user: str = "", but: str = "") -> int:
        if user and user not in self.addressed[app]:
            return 0  # nothing is sent, so notices go on waiting
        if self.waiting[app]:
            self.flush()
        reached = 0
        for name, sessions in self.addressed[app].items():
            if name != but and user in ("", name):
                for session in sessions:
                    self.received[session].append(("msg", number))
                    reached += 1
        return reached


def events_of(client: Client) -> list[tuple[str, ...]]:
    """What a client was told, in the words of the model; compressed or not."""
    found = []
    for frame in client.read():
        if frame.opcode in CONTROL_OPCODES:
            continue
        payload = frame.payload
        if frame.rsv:
            payload = zlib.decompressobj(wbits=-15).decompress(
                payload + b"\x00\x00\xff\xff"
            )
        body = json.decode(payload)
        if body["response"]["codeMsg"] == "Ok":
            sender = body["response"]["data"]["from"]
            found.append((body["cmd"], body["seq"] if body["cmd"] == "msg" else sender))
    return found


steps = st.one_of(
    st.tuples(
        st.just("login"),
        st.sampled_from(["101", "102"]),
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.tuples(st.just("leave"), st.integers(0, 20), st.booleans(), st.none()),
    st.tuples(
        st.just("to_user"),
        st.sampled_from(["101", "102"]),
        st.integers(0, 3),
        st.none(),
    ),
    st.tuples(
        st.just("to_app"),
        st.sampled_from(["101", "102"]),
        st.integers(-1, 3),
        st.integers(0, 1),
    ),
    st.tuples(st.just("reply"), st.integers(0, 20), st.none(), st.none()),
    st.tuples(st.just("turn"), st.none(), st.none(), st.none()),
)


@settings(deadline=None, max_examples=150)
@given(
    run=st.lists(steps, min_size=5, max_size=50),
    members=st.sampled_from([0, 2, 1000]),
    batch=st.sampled_from([1, 3, 256]),
)
def test_all_receive_exactly_what_the_model_says_in_order(
    run: list[tuple], members: int, batch: int
) -> None:
    """Two apps, four users each with any number of sessions; plain, compressed
    and slow clients."""
    with Harness(notice_members=members, batch=batch) as harness:
        model = Model(members)
        sessions: list[tuple[Connection, Client, str, str]] = []
        for number, (step, first, second, third) in enumerate(run):
            if step == "login":
                user = f"u{second}"
                options = {
                    "deflate": 15 * (third == 1),
                    "buffer_bytes": 4096 * (third == 2),
                }
                model.login(first, user, len(sessions))
                sessions.append((*harness.login(first, user, **options), first, user))
            elif step == "leave" and sessions:
                index = first % len(sessions)
                connection, _, app, user = sessions[index]
                if connection.is_open:
                    (
                        connection.lost
                        if second
                        else lambda one=connection: one.close(1000)
                    )()
                    model.leave(app, user, index)
            elif step == "to_user":
                event = Event("msg", "eve", "x" * 3000 * (number % 2), str(number))
                reached = harness.fanout.to_sessions(first, f"u{second}", event)
                assert reached == model.push(first, str(number), user=f"u{second}")
            elif step == "to_app":
                event = Event("msg", "eve", "x" * 3000 * third, str(number))
                reached = harness.fanout.to_app(
                    first, event, f"u{second}" if second >= 0 else ""
                )
                assert reached == model.push(first, str(number), but=f"u{second}")
            elif step == "reply" and sessions:
                sessions[first % len(sessions)][0].send(PONG)
            elif step == "turn":
                turn()
                model.flush()
        model.flush()
        for index, (connection, client, *_) in enumerate(sessions):
            expected = model.received[index]
            if connection.is_open:
                client.probe(b"end")
                assert events_of(client) == expected
            else:
                turn()
                assert events_of(client) == expected[: len(events_of(client))]
