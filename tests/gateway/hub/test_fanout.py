"""Fan-out: who is told what, in which order; and a model that knows it for any run of events."""

import zlib

import pytest
from gevent.hub import get_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.model import Event, Reply, Request
from imserver.gateway.sessions.sessions import ENTER_TEXT, EXIT_TEXT
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import CMD, Harness, received, received_with_ids
from tests.gateway.protocol.line import LineDialect
from tests.gateway.transport.harness import Client, Socket, turn, until
from tests.integration.raw import CONTROL_OPCODES, text


def settle(*clients: Client) -> None:
    """Wait until the clients have all that was on its way."""
    turn()
    for client in clients:
        client.probe(b"settled")


def forget(*clients: Client) -> None:
    """Take no account of what came so far."""
    settle(*clients)
    for client in clients:
        client.frames.clear()


PONG = CMD.encode_reply(Request("1", "ping", None), Reply(200, "pong"))


def msg(text: str = "hello", sender: str = "eve") -> Event:
    return Event("msg", sender, text, "7")


def enter(user: str) -> tuple[str, str, str]:
    return ("enter", user, ENTER_TEXT)


def gone(user: str) -> tuple[str, str, str]:
    return ("exit", user, EXIT_TEXT)


# --- pushes -------------------------------------------------------------------------------------------------


def test_a_push_to_a_user_reaches_their_addressed_sessions_and_nobody_else(harness: Harness) -> None:
    _, ann = harness.login("102", "ann", "phone")
    _, ann_too = harness.login("102", "ann", "laptop")
    _, bob = harness.login("102", "bob")
    forget(ann, ann_too, bob)
    assert harness.fanout.to_sessions("102", "ann", msg()) == 2
    assert harness.fanout.to_sessions("102", "nobody", msg()) == 0
    assert harness.fanout.to_sessions("no such app", "ann", msg()) == 0
    settle(ann, ann_too, bob)
    assert received(ann) == received(ann_too) == [("msg", "eve", "hello")]
    assert received(bob) == []


@pytest.mark.parametrize("app", ["101", "102"])
def test_a_push_to_an_app_reaches_everybody_in_it_but_its_author(harness: Harness, app: str) -> None:
    sessions = [harness.login(app, user) for user in ("ann", "ann", "bob", "cid")]
    _, other = harness.login("103", "ann")
    _, stranger = harness.connect()
    clients = [client for _, client in sessions]
    forget(*clients, other, stranger)
    assert harness.fanout.to_app(app, msg(sender="ann"), "ann") == 2
    assert harness.fanout.to_app(app, msg("to all"), "not here") == (3 if app == "101" else 4)
    assert harness.fanout.to_app("no such app", msg()) == 0
    settle(*clients, other, stranger)
    first, second, bob, cid = map(received, clients)
    assert bob == cid == [("msg", "ann", "hello"), ("msg", "eve", "to all")]
    assert second == [("msg", "eve", "to all")]
    assert first == ([] if app == "101" else second)
    assert received(other) == received(stranger) == []


def test_an_event_is_encoded_once_for_all_who_share_an_encoding(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [harness.login("102", f"u{number}")[1] for number in range(20)]
    clients += [harness.login("102", f"v{number}", deflate=15)[1] for number in range(20)]
    forget(*clients)
    encoded: list[Event] = []
    encode = CmdDialect.encode_event
    monkeypatch.setattr(
        CmdDialect, "encode_event", lambda self, event: encoded.append(event) or encode(self, event)
    )
    assert harness.fanout.to_app("102", msg()) == 40
    turn()
    assert len(encoded) == 2


def test_deliveries_are_counted(harness: Harness) -> None:
    for number in range(3):
        harness.login("102", f"u{number}")
    turn()
    before = harness.metrics.deliveries
    harness.fanout.to_app("102", msg())
    harness.fanout.to_app("102", msg(), "u0")
    harness.fanout.to_sessions("102", "u1", msg())
    assert harness.metrics.deliveries - before == 3 + 2 + 1


def test_what_a_dialect_has_no_word_for_is_no_delivery(harness: Harness) -> None:
    harness.login("101", "ann", dialect=LineDialect())
    harness.login("101", "bob")
    turn()
    before = harness.metrics.deliveries
    harness.login("101", "cid")
    turn()
    assert harness.fanout.to_app("101", Event("exit", "eve", "")) == 2
    assert harness.metrics.deliveries - before == 1 + 2, "bob is told of cid, both of them of eve"


def test_frames_to_one_connection_keep_the_order_of_the_calls(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    harness.login("101", "bob")
    forget(ann)
    for number in range(50):
        event = Event("msg", "eve", "x", str(number))
        if number % 3:
            harness.fanout.to_app("101", event)
        else:
            harness.fanout.to_sessions("101", "ann", event)
        if number % 7 == 0:
            turn()
    settle(ann)
    assert [row[3] for row in received_with_ids(ann)] == [str(number) for number in range(50)]


# --- notices ------------------------------------------------------------------------------------------------


def test_joins_and_leaves_are_announced_to_the_others(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    turn()
    bob, client = harness.login("101", "bob")
    settle(ann, client)
    assert received(ann) == [enter("bob")]
    assert received(client) == [], "the newcomer is not told of itself, nor of who was there before"
    bob.close(1000)
    settle(ann)
    assert received(ann) == [enter("bob"), gone("bob")]


def test_notices_of_one_turn_travel_together_in_one_send(harness: Harness) -> None:
    connection, ann = harness.login("101", "ann")
    forget(ann)
    assert isinstance(connection.sock, Socket)
    connection.sock.sends.clear()
    for number in range(30):
        harness.login("101", f"u{number}")
    turn()
    assert len(connection.sock.sends) == 1
    assert received(ann) == [enter(f"u{number}") for number in range(30)]


def test_a_newcomer_misses_what_happened_before_it_and_gets_what_follows(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    _, bob = harness.login("101", "bob")
    _, cid = harness.login("101", "cid")
    settle(ann, bob, cid)
    assert received(ann) == [enter("bob"), enter("cid")]
    assert received(bob) == [enter("cid")]
    assert received(cid) == []


def test_a_user_gets_no_notice_of_their_own_second_login(harness: Harness) -> None:
    _, first = harness.login("102", "ann", "phone")
    _, bob = harness.login("102", "bob")
    forget(first, bob)
    _, second = harness.login("102", "ann", "laptop")
    settle(first, second, bob)
    assert received(bob) == [enter("ann")]
    assert received(first) == received(second) == []
    _, third = harness.login("102", "ann", "tablet")
    harness.login("102", "dan")
    settle(first, second, third, bob)
    assert received(first) == received(second) == received(third) == [enter("dan")]


def test_a_push_goes_behind_the_notices_that_wait(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    forget(ann)
    harness.login("101", "bob")
    harness.fanout.to_sessions("101", "ann", msg("1"))
    cid, _ = harness.login("101", "cid")
    cid.lost()
    harness.fanout.to_app("101", msg("2"))
    settle(ann)
    assert received(ann) == [
        enter("bob"),
        ("msg", "eve", "1"),
        enter("cid"),
        gone("cid"),
        ("msg", "eve", "2"),
    ]


def test_whoever_is_online_gets_a_push_right_after_their_login(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    assert harness.fanout.to_sessions("101", "ann", msg()) == 1
    assert harness.fanout.to_app("101", msg("to all")) == 1
    settle(ann)
    assert received(ann) == [("msg", "eve", "hello"), ("msg", "eve", "to all")]


def test_apps_are_distinguished(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    _, bob = harness.login("102", "bob")
    forget(ann, bob)
    harness.login("101", "cid")
    harness.login("102", "dan")
    settle(ann, bob)
    assert (received(ann), received(bob)) == ([enter("cid")], [enter("dan")])


def test_above_notice_members_no_joins_and_leaves_are_announced() -> None:
    with Harness(notice_members=3) as harness:
        sessions = [harness.login("101", f"u{number}") for number in range(3)]
        clients = [client for _, client in sessions]
        settle(*clients)
        assert received(clients[0]) == [enter("u1"), enter("u2")]
        forget(*clients)
        fourth, _ = harness.login("101", "u3")
        fifth, _ = harness.login("101", "u4")
        fifth.lost()
        settle(*clients)
        assert received(clients[0]) == []
        fourth.lost()
        settle(*clients)
        assert received(clients[0]) == [gone("u3")], "three members again"


def test_a_quiet_app_announces_nobody(harness: Harness) -> None:
    harness.hub.set_policy("101", "newest", quiet=True)
    _, ann = harness.login("101", "ann")
    bob, _ = harness.login("101", "bob")
    bob.lost()
    assert harness.fanout.to_app("101", msg()) == 1
    settle(ann)
    assert received(ann) == [("msg", "eve", "hello")]


def test_pushes_reach_any_number_of_members() -> None:
    with Harness(notice_members=0) as harness:
        clients = [harness.login("101", f"u{number}")[1] for number in range(5)]
        assert harness.fanout.to_app("101", msg()) == 5
        settle(*clients)
        assert all(received(client) == [("msg", "eve", "hello")] for client in clients)


def test_a_login_storm_costs_a_frame_a_notice_and_not_a_send_a_notice() -> None:
    with Harness(batch=10_000) as harness:
        sessions = [harness.login("101", f"u{number}")[0] for number in range(200)]
        turn()
        sends = [len(one.sock.sends) for one in sessions if isinstance(one.sock, Socket)]
        assert max(sends) == 1


def test_a_dialect_without_a_word_gets_nothing_and_keeps_its_turn(harness: Harness) -> None:
    _, line = harness.login("101", "ann", dialect=LineDialect())
    _, cmd = harness.login("101", "bob")
    forget(line, cmd)
    harness.login("101", "cid")
    harness.fanout.to_app("101", msg())
    settle(line, cmd)
    assert line.payloads() == [b"eve: hello"]
    assert received(cmd) == [enter("cid"), ("msg", "eve", "hello")]


def test_a_notice_that_cannot_be_encoded_stops_no_other_writing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ann = harness.login("101", "ann")
    _, bob = harness.login("102", "bob")
    forget(ann, bob)
    reported: list[object] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda *what: reported.append(what[1]))
    with monkeypatch.context() as broken:
        broken.setattr(CmdDialect, "encode_event", lambda *_: 1 // 0)
        harness.login("101", "cid")
        bob_session = next(iter(harness.hub.apps["102"].sessions_of("bob")))
        bob_session.send(b"reply")
        turn()
    until(lambda: b"reply" in bob.payloads())
    assert reported == [ZeroDivisionError]
    harness.fanout.to_app("101", msg())
    settle(ann)
    assert received(ann)[-1] == ("msg", "eve", "hello")


# --- a model ------------------------------------------------------------------------------------------------


class Model:
    """What every connection has to receive, by nothing but lists: the order of the calls.

    Notices wait until the turn ends or somebody sends to an app with waiting ones; then they go to whoever is
    addressed at that moment, except an enter to its own user, and except what a session came after.
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
            payload = zlib.decompressobj(wbits=-15).decompress(payload + b"\x00\x00\xff\xff")
        body = json.decode(payload)
        if body["response"]["codeMsg"] == "Ok":
            sender = body["response"]["data"]["from"]
            found.append((body["cmd"], body["seq"] if body["cmd"] == "msg" else sender))
    return found


steps = st.one_of(
    st.tuples(st.just("login"), st.sampled_from(["101", "102"]), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.integers(0, 20), st.booleans(), st.none()),
    st.tuples(st.just("to_user"), st.sampled_from(["101", "102"]), st.integers(0, 3), st.none()),
    st.tuples(st.just("to_app"), st.sampled_from(["101", "102"]), st.integers(-1, 3), st.integers(0, 1)),
    st.tuples(st.just("reply"), st.integers(0, 20), st.none(), st.none()),
    st.tuples(st.just("turn"), st.none(), st.none(), st.none()),
)


@settings(deadline=None, max_examples=150)
@given(
    run=st.lists(steps, min_size=5, max_size=50),
    members=st.sampled_from([0, 2, 1000]),
    batch=st.sampled_from([1, 3, 256]),
)
def test_every_connection_receives_exactly_what_the_model_says_in_order(
    run: list[tuple], members: int, batch: int
) -> None:
    """Two apps, four users each with any number of sessions; plain, compressed and slow clients."""
    with Harness(notice_members=members, batch=batch) as harness:
        model = Model(members)
        sessions: list[tuple[Connection, Client, str, str]] = []
        for number, (step, first, second, third) in enumerate(run):
            if step == "login":
                user = f"u{second}"
                options = {"deflate": 15 * (third == 1), "buffer_bytes": 4096 * (third == 2)}
                model.login(first, user, len(sessions))
                sessions.append((*harness.login(first, user, **options), first, user))
            elif step == "leave" and sessions:
                index = first % len(sessions)
                connection, _, app, user = sessions[index]
                if connection.is_open:
                    (connection.lost if second else lambda one=connection: one.close(1000))()
                    model.leave(app, user, index)
            elif step == "to_user":
                event = Event("msg", "eve", "x" * 3000 * (number % 2), str(number))
                reached = harness.fanout.to_sessions(first, f"u{second}", event)
                assert reached == model.push(first, str(number), user=f"u{second}")
            elif step == "to_app":
                event = Event("msg", "eve", "x" * 3000 * third, str(number))
                reached = harness.fanout.to_app(first, event, f"u{second}" if second >= 0 else "")
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


def test_a_broadcast_in_the_middle_of_a_flush_keeps_its_turn() -> None:
    with Harness(batch=2) as harness:
        clients = [harness.login("102", f"u{number}")[1] for number in range(9)]
        forget(*clients)
        for number in range(6):
            harness.fanout.to_app("102", Event("msg", "eve", "x", str(number)), f"u{number}")
            turn()
        settle(*clients)
        for index, client in enumerate(clients):
            assert [row[3] for row in received_with_ids(client)] == [str(n) for n in range(6) if n != index]


def test_a_client_that_asks_during_a_broadcast_is_answered_in_its_turn(harness: Harness) -> None:
    _, ann = harness.login("101", "ann")
    forget(ann)
    harness.fanout.to_app("101", msg("before"))
    ann.send(text('{"cmd":"ping"}'))
    until(lambda: len(ann.payloads()) == 2)
    harness.fanout.to_app("101", msg("after"))
    settle(ann)
    kinds = [json.decode(payload)["cmd"] for payload in ann.payloads()]
    assert kinds == ["msg", "ping", "msg"]
