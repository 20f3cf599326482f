"""Chats over a log in memory: logins by token, numbers that are used up, order,
holding back, paging."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.dialects.protobuf.service import PAGE, ProtobufService, SyncDeadlines
from imserver.dialects.protobuf.uplink import (
    MAX_WAITING,
    MAX_WAITING_BYTES,
    ProtobufState,
    ProtobufUplink,
)
from imserver.dialects.protobuf.wire import NAME, ProtobufDialect
from imserver.gateway.auth.rules import (
    ALLOWED,
    BAD_ORIGIN,
    BAD_TOKEN,
    UNDECIDED,
    LoginDecision,
    LoginRequest,
)
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.hub.expiry import Sweep
from imserver.gateway.model import Limit
from imserver.gateway.transport.connection import Connection
from imserver.messenger.delivery import deliverer
from imserver.messenger.log.contract import Appended, Entry, Stored
from tests.gateway.hub.harness import POLICIES, Admitting
from tests.gateway.transport.harness import Client, turn, until
from tests.integration import protobuf
from tests.integration.protobuf import (
    GROUP,
    SINGLE,
    Output,
    SentMessage,
    acked,
    pushed,
    synced,
)
from tests.integration.raw import BINARY, PING, PONG, frame
from tests.messenger.log_file import LogFile
from tests.messenger.messaging_harness import Node

APP = "gochat"
DIALECT = ProtobufDialect()
ENDS_AT = 4102444800


class FakeLogins(Admitting):
    """Decides on logins as a test says."""

    def __init__(self) -> None:
        super().__init__(lambda *_: True)
        self.decision = ALLOWED
        self.on_check: Callable[[str], object] = lambda user: None

    def resolve(self, app: str) -> str:
        return app

    def wants_tokens(self, app: str) -> bool:
        return True

    def check(
        self,
        app: str,
        user: str,
        token: str,
        dialect: str,
        connection: LoginRequest,
        device: str = "",
    ) -> LoginDecision:
        """A token is the number of its account, where the test does not say
        what is decided."""
        if self.decision is not ALLOWED:
            return self.decision
        if not token.isdecimal():
            return BAD_TOKEN
        self.on_check(token)
        return LoginDecision(expires_at=ENDS_AT, user=token)


class ProtobufClient:
    """A client and its connection."""

    def __init__(self, connection: Connection, client: Client) -> None:
        self.connection = connection
        self.client = client
        self.id = 0

    def send_payload(self, payload: bytes) -> None:
        self.client.send(frame(BINARY, payload))

    def outputs(self) -> list[Output]:
        return [
            output
            for payload in self.client.payloads()
            for output in protobuf.outputs(payload)
        ]

    def expect(self, count: int) -> list[Output]:
        until(lambda: len(self.outputs()) >= count)
        self.settle()
        found = self.outputs()
        assert len(found) == count, found
        return found

    def settle(self) -> None:
        self.client.probe(b"%d" % len(self.client.frames))

    def single(self, number: int, to: int, text: str, **more: object) -> None:
        self.send_payload(
            protobuf.message(
                number,
                SentMessage(SINGLE, to, self.id, 1, text.encode(), time=7),
                **more,
            )
        )  # type: ignore[arg-type]

    def group(self, number: int, to: int, text: str) -> None:
        self.send_payload(
            protobuf.message(
                number, SentMessage(GROUP, to, self.id, 1, text.encode(), time=7)
            )
        )

    def acks(self) -> list[tuple[int, int]]:
        return [
            acked(each)
            for each in self.outputs()
            if each.kind == protobuf.ACK and each.data.startswith(b"\x08\x01")
        ]

    def pushes(self) -> list[SentMessage]:
        return [
            pushed(each) for each in self.outputs() if each.kind == protobuf.MESSAGE
        ]

    def stream(self) -> list[int]:
        """Places in the order in which it was told them."""
        found: list[int] = []
        for each in self.outputs():
            if each.kind == protobuf.MESSAGE:
                found.append(pushed(each).seq)
            elif each.kind == protobuf.SYNC:
                found += [entry.seq for entry in synced(each)[0]]
            elif each.kind == protobuf.ACK and each.data.startswith(b"\x08\x01"):
                found.append(acked(each)[1])
        return found


class Harness(Node):
    """A node with chats. A token is the number of its account."""

    app = APP

    def __init__(self, file: LogFile | None = None, policy: str = "refuse") -> None:
        policies = {**POLICIES, APP: policy}
        super().__init__(file, policies=policies)
        self.logins = FakeLogins()
        self.sweep = Sweep(self.context, self.metrics, 360, 0, 0, 20)
        self.uplink = ProtobufUplink(self.messaging, self.store)
        core = self.core(codec=lambda codec: codec, logins=self.logins, config=Config())
        self.protobuf_service = ProtobufService(core, self.messaging, self.uplink)
        self.sweep.checks[NAME] = self.protobuf_service.check
        self._make_dispatcher(self.protobuf_service.commands())

    def on_ended(self, connection: Connection, code: int) -> None:
        service = getattr(self, "protobuf_service", None)
        if service is not None:
            service.ended(connection, code)
        super().on_ended(connection, code)

    def visitor(self) -> ProtobufClient:
        connection, client = self.connect(dialect=DIALECT)
        return ProtobufClient(connection, client)

    def protobuf_client(self, id: int, device: str = "") -> ProtobufClient:
        """Somebody who has logged in."""
        found = self.visitor()
        found.id = id
        found.send_payload(protobuf.login(str(id), device))
        assert found.expect(1)[0].data == b"\x08\x03"
        return found

    def live(self, id: int, device: str = "") -> ProtobufClient:
        """Somebody who has nothing to catch up with."""
        found = self.protobuf_client(id, device)
        found.send_payload(protobuf.sync(2**62))
        assert synced(found.expect(2)[1]) == ([], False)
        found.client.frames.clear()
        return found


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as found:
        yield found


# --- logging in ---------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        protobuf.sync(0),
        protobuf.message(1, SentMessage(SINGLE, 2, 1)),
        protobuf.sent(2),
    ],
)
def test_before_the_login_everything_is_dropped(
    harness: Harness, payload: bytes
) -> None:
    stranger = harness.visitor()
    stranger.send_payload(payload)
    stranger.settle()
    assert stranger.outputs() == []
    assert stranger.connection.is_open
    assert harness.entries(APP) == []


@pytest.mark.parametrize(
    ("decision", "token", "close"),
    [
        (ALLOWED, "nonsense", 0),
        (LoginDecision(1003, 4505), "266", 0),
        (LoginDecision(user="eve"), "a.session.token", 0),
        (BAD_ORIGIN, "266", 4505),
        (UNDECIDED, "266", 1011),
        (None, "266", 1011),  # the log does not answer
    ],
)
def test_a_refused_login_is_dropped_or_closes_and_may_be_followed_by_a_good_one(
    harness: Harness, decision: LoginDecision | None, token: str, close: int
) -> None:
    harness.gates.away = decision is None
    harness.logins.decision = decision or ALLOWED
    ann = harness.visitor()
    ann.send_payload(protobuf.login(token))
    if close:
        assert ann.client.close_code() == close
    else:
        ann.settle()
        assert ann.connection.is_open
    assert ann.outputs() == []
    if not close:
        harness.logins.decision = LoginDecision(user="268")
        ann.send_payload(protobuf.login("a.session.token"))
        ann.expect(1)
        assert ann.connection.user == "268", "the account that the token names"


def test_who_ends_all_sessions_while_a_token_is_read_is_not_logged_in_with_it(
    harness: Harness,
) -> None:
    harness.logins.on_check = lambda user: harness.sessions.close(APP, [user])
    ann = harness.visitor()
    ann.send_payload(protobuf.login("266"))
    assert ann.client.close_code() == 4502
    assert ann.outputs() == []
    assert not harness.hub.is_online(APP, "266")


def test_a_user_who_is_online_elsewhere_stays_there(harness: Harness) -> None:
    ann = harness.protobuf_client(266)
    second = harness.visitor()
    second.send_payload(protobuf.login("266"))
    until(lambda: any(each.opcode == PING for each in ann.client.read()))
    ann.client.send(frame(PONG, b""))
    assert second.client.close_code() == 4501
    assert second.outputs() == []
    assert harness.hub.apps[APP].sessions_of("266") == (ann.connection,)


# --- sending ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        SentMessage(SINGLE, 267, 266, 0, b"", 0, 1),
        SentMessage(SINGLE, 267, 266, 3, b"\xff\x00", 0, Limit.TIME_MS),
        SentMessage(SINGLE, 267, 266, 3, b"x", 0, Limit.MIN_TIME_MS % 2**64),
        SentMessage(SINGLE, 2**63 - 1, 266, 9, b"x", 0, 1),
        SentMessage(
            SINGLE, 267, 266, 1, b"its position is the server's", 99, 1700000000000
        ),
    ],
)
def test_all_fields_of_a_message_come_back_as_they_were_sent(
    harness: Harness, sent: SentMessage
) -> None:
    ann = harness.live(266)
    desk = harness.live(266, "desk")
    bob = harness.live(sent.receiver)
    ann.send_payload(protobuf.message(1, sent))
    ann.expect(1)
    assert (ann.acks(), ann.pushes()) == ([(1, 1)], [])
    assert desk.pushes() == bob.pushes() == [sent._replace(seq=1)], (
        "the sender's other device is told, too"
    )
    bob.send_payload(protobuf.sync(0))
    assert synced(bob.expect(2)[1]) == ([sent._replace(seq=1)], False)


@pytest.mark.parametrize(
    "sent_ms", [Limit.TIME_MS + 1, Limit.MIN_TIME_MS - 1, 2**63 - 1, -(2**63)]
)
def test_a_time_that_no_page_can_show_is_replaced_by_the_servers(
    harness: Harness, sent_ms: int
) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    before = int(time() * 1000)
    ann.send_payload(
        protobuf.message(1, SentMessage(SINGLE, 267, 266, 1, b"hi", 0, sent_ms % 2**64))
    )
    ann.expect(1)
    (push,) = bob.pushes()
    assert before <= push.time <= int(time() * 1000)


@pytest.mark.parametrize(
    "sent",
    [
        SentMessage(SINGLE, 267, 999, 1, b"x"),
        SentMessage(SINGLE, 266, 266, 1, b"x"),
        SentMessage(0, 267, 266, 1, b"x"),
        SentMessage(3, 267, 266, 1, b"x"),
        SentMessage(SINGLE, 0, 266, 1, b"x"),
        SentMessage(SINGLE, 2**63, 266, 1, b"x"),
        SentMessage(GROUP, 12345, 266, 1, b"x"),
        SentMessage(),
    ],
    ids=[
        "for another",
        "to oneself",
        "no kind",
        "unknown kind",
        "nobody",
        "beyond",
        "no member",
        "empty",
    ],
)
def test_an_invalid_message_is_not_acknowledged_and_uses_its_number(
    harness: Harness, sent: SentMessage
) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    ann.send_payload(protobuf.message(1, sent))
    ann.send_payload(protobuf.message(1, sent))
    ann.settle()
    assert (ann.outputs(), ann.connection.is_open) == ([], True)
    ann.single(2, 267, "after")
    ann.expect(1)
    assert [number for number, _ in ann.acks()] == [2]
    assert [each.text for each in bob.pushes()] == ["after"]


def test_only_the_next_number_is_taken(harness: Harness) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    for number in (0, 2, 2**64 - 1):
        ann.single(number, 267, "wrong")
    ann.single(1, 267, "one")
    ann.expect(1)
    ann.single(3, 267, "wrong")
    ann.single(2, 267, "two")
    ann.expect(2)
    assert [number for number, _ in ann.acks()] == [1, 2]
    assert [each.text for each in bob.pushes()] == ["one", "two"]


def test_a_repeat_is_acknowledged_again_with_the_first_position_and_delivered_once(
    harness: Harness,
) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    ann.single(1, 267, "hi")
    ann.expect(1)
    bob.single(1, 266, "ho")
    bob.expect(2)
    ann.send_payload(protobuf.sync(2**62))  # which begins no numbers anew
    ann.single(1, 267, "hi")
    ann.expect(4)
    assert ann.acks() == [(1, 1), (1, 1)]
    assert len(bob.pushes()) == 1
    assert len(harness.entries(APP)) == 2


def test_a_repeat_that_comes_before_the_commit_is_stored_once(harness: Harness) -> None:
    ann = harness.live(266)
    harness.gates.committing = Flag()
    for _ in range(4):
        ann.single(1, 267, "hi")
    ann.settle()
    assert ann.outputs() == [], "nothing is acknowledged before it is stored"
    harness.gates.committing.set()
    ann.expect(1)
    assert len(harness.entries(APP)) == 1


def test_a_message_that_could_not_be_stored_may_be_sent_again(harness: Harness) -> None:
    ann = harness.live(266)
    harness.gates.away = True
    for number in (1, 2, 3):
        ann.single(number, 267, f"t{number}")
    ann.settle()
    until(lambda: not harness.uplink.queues)
    assert ann.outputs() == []
    harness.gates.away = False
    ann.single(3, 267, "not its turn")
    for number in (1, 2):
        ann.single(number, 267, f"t{number}")
    ann.expect(2)
    assert [entry.body for entry in harness.entries(APP)] == [b"t1", b"t2"]


@pytest.mark.parametrize("stored", [True, False])
def test_a_number_is_not_accepted_again_before_its_result_is_known(
    harness: Harness, stored: bool
) -> None:
    """A message without an id of its own, whose COMMIT is not answered in
    time."""
    ann = harness.live(266)
    bob = harness.live(267)
    harness.lose_answer(stored)
    ann.single(1, 267, "once")
    until(lambda: harness.gates.unsure)
    for number in (1, 2):
        ann.single(number, 267, "once" if number == 1 else "twice")
    ann.settle()
    assert ann.outputs() == []
    harness.find_answer()
    if not stored:
        assert ann.outputs() == []
        for number, text in ((1, "once"), (2, "twice")):
            ann.single(number, 267, text)
    until(lambda: len(ann.acks()) == 2)
    assert ann.acks() == [(1, 1), (2, 2)]
    assert [each.text for each in bob.pushes()] == ["once", "twice"]
    assert ann.pushes() == []
    assert not harness.uplink.queues


def test_a_connection_that_ends_before_the_result_leaves_no_state(
    harness: Harness,
) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    harness.lose_answer()
    ann.single(1, 267, "hi")
    until(lambda: harness.gates.unsure)
    ann.client.hang_up()
    until(lambda: not harness.hub.is_online(APP, "266"))
    harness.find_answer()
    until(bob.pushes)
    assert not harness.uplink.queues
    assert APP not in harness.messaging.deliverer.results


@pytest.mark.parametrize(
    ("size", "taken"), [(1, MAX_WAITING), (40_000, MAX_WAITING_BYTES // 40_000)]
)
def test_only_so_much_of_a_connection_waits_for_a_commit(
    harness: Harness, size: int, taken: int
) -> None:
    ann = harness.live(266)
    harness.gates.committing = Flag()
    for number in range(1, taken + 20):
        ann.single(number, 267, f"{number}".zfill(size))
    ann.settle()
    harness.gates.committing.set()
    until(lambda: len(ann.acks()) == taken)
    ann.single(taken + 1, 267, "next")
    until(lambda: len(ann.acks()) == taken + 1)
    assert [number for number, _ in ann.acks()] == [*range(1, taken + 2)]
    assert [int(entry.body[-4:]) for entry in harness.entries(APP)[:taken]] == [
        *range(1, taken + 1)
    ]


def test_a_client_whose_later_message_was_stored_first_must_reconnect(
    harness: Harness,
) -> None:
    ann = harness.live(266)
    dones: list[Callable[[Stored], None]] = []
    harness.messaging.send_of_user = lambda _app, _draft, done, _connection: (
        dones.append(done)
    )  # type: ignore
    for number in (1, 2, 3):
        ann.single(number, 267, "x")
    until(lambda: dones)
    ann.settle()
    assert len(dones) == 1, "those behind wait for the first"
    dones[0](Appended(Entry(id=7, conversation=1, seq=1, sender="266")))
    assert len(dones) == 3, "and are handed over together"
    dones[1](StorageUnavailable("away"))
    dones[2](Appended(Entry(id=8, conversation=1, seq=2, sender="266")))
    assert ann.client.close_code() == 1011
    assert ann.acks() == [(1, 7), (3, 8)]


def test_a_message_with_an_id_is_protected_across_connections(harness: Harness) -> None:
    ann = harness.live(266)
    ann.single(1, 267, "hi", client_msg_id="m1")
    ann.expect(1)
    first = ann.acks()[0][1]
    ann.client.hang_up()
    until(lambda: not harness.hub.is_online(APP, "266"))
    again = harness.live(266)
    again.single(1, 267, "hi", client_msg_id="m1")
    again.expect(1)
    assert again.acks() == [(1, first)]
    assert len(harness.entries(APP)) == 1


def test_waiting_messages_of_an_ended_connection_are_dropped(harness: Harness) -> None:
    ann = harness.live(266)
    harness.gates.committing = Flag()
    for number in (1, 2):
        ann.single(number, 267, "x")
    until(lambda: harness.uplink.queues)
    ann.client.hang_up()
    until(lambda: not harness.uplink.queues)
    harness.gates.committing.set()
    until(lambda: len(harness.entries(APP)) == 1)
    turn()
    assert len(harness.entries(APP)) == 1


# --- counting anew ------------------------------------------------------------


@contextmanager
def two_nodes(policy: str = "refuse") -> Iterator[tuple[Harness, Harness]]:
    """Two nodes with one log. Neither learns of the sessions of the other, as
    if one of them were stopped."""
    file = LogFile()
    with Harness(file, policy) as first, Harness(file, policy) as second:
        first.others, second.others = [second], [first]
        yield first, second


def texts(page: Output) -> list[str]:
    messages, more = synced(page)
    assert not more
    return [each.text for each in messages]


@pytest.mark.parametrize(
    ("policy", "device", "cursor", "refused"),
    [
        ("refuse", "", None, True),
        ("single", "", None, True),
        ("multi", "", None, False),
        ("newest", "", None, False),
        ("refuse", "phone", None, False),
        ("refuse", "", 0, False),
    ],
)
def test_what_a_replaced_session_sends_after_the_sync_of_its_successor_is_not_stored(
    policy: str, device: str, cursor: int | None, refused: bool
) -> None:
    """Unless sessions may send side by side, or the client has ids of its own:
    those of the full dialect."""
    with two_nodes(policy) as (stopped, other):
        older = stopped.visitor()
        newer = other.visitor()
        for client in (older, newer):
            client.id = 266
            client.send_payload(protobuf.login("266", device, cursor))
            client.send_payload(protobuf.sync(0))
            client.expect(2)
        older.single(1, 267, "hi")
        if not refused:
            older.expect(3)
            return
        assert older.client.close_code() == 1011
        assert older.acks() == []
        newer.single(1, 267, "hi")
        newer.expect(3)
        assert [entry.id for entry in stopped.entries(APP)] == [1]
        assert not stopped.uplink.queues


def test_a_login_waits_for_what_its_older_connection_has_sent(harness: Harness) -> None:
    ann = harness.live(266)
    harness.gates.committing = Flag()
    ann.single(1, 267, "hi")
    until(lambda: harness.uplink.queues)
    ann.client.hang_up()
    until(lambda: not harness.hub.is_online(APP, "266"))
    again = harness.visitor()
    again.send_payload(protobuf.login("266"))
    again.send_payload(protobuf.sync(0))
    other = harness.visitor()
    other.send_payload(protobuf.login("268", cursor=0))
    other.expect(1)
    assert again.outputs() == [], "although the log answers others"
    harness.gates.committing.set()
    assert texts(again.expect(2)[1]) == ["hi"]


def test_a_login_waits_until_its_node_can_sync_what_another_one_has_stored() -> None:
    with two_nodes() as (first, second):
        first.wire = lambda _first, _last: False
        second.live(267)
        ann = first.live(266)
        ann.single(1, 268, "hi")
        ann.expect(1)
        again = second.protobuf_client(266)
        again.send_payload(protobuf.sync(0))
        assert texts(again.expect(2)[1]) == ["hi"]


# --- catching up --------------------------------------------------------------


def missed(harness: Harness, count: int) -> None:
    """Bob has sent Ann so many messages while she was away."""
    bob = harness.live(267)
    for number in range(1, count + 1):
        bob.single(number, 266, f"t{number}")
    until(lambda: len(bob.acks()) == count)
    bob.client.hang_up()
    until(lambda: not harness.hub.is_online(APP, "267"))


def be_patient(
    harness: Harness, seconds: float = 600, page_seconds: float = 600
) -> None:
    """New entries wait so long for a client that has not synced; by default
    longer than any test takes."""
    service = harness.protobuf_service
    service.deadlines = SyncDeadlines(service.deadlines.release, seconds)
    service.page_deadlines = SyncDeadlines(service.page_deadlines.release, page_seconds)


def test_an_ack_does_not_overtake_missed_entries(harness: Harness) -> None:
    be_patient(harness)
    missed(harness, 60)
    ann = harness.protobuf_client(266)
    ann.send_payload(protobuf.sync(0))
    ann.single(1, 267, "mine")
    ann.send_payload(protobuf.sync(50))
    until(lambda: len(ann.acks()) == 1)
    assert ann.stream() == sorted(ann.stream())
    assert ann.stream()[-1] == 61


def test_a_client_that_does_not_sync_gets_new_entries_after_its_deadline(
    harness: Harness,
) -> None:
    missed(harness, 3)
    ann = harness.protobuf_client(266)
    bob = harness.live(267)
    bob.single(1, 266, "new")
    bob.expect(1)
    ann.single(1, 267, "mine")
    until(lambda: ann.acks())
    assert ann.stream() == [4, 5]
    until(lambda: not harness.protobuf_service.deadlines.expected)


def test_the_next_question_may_take_its_time_over_a_slow_line(harness: Harness) -> None:
    be_patient(harness)
    missed(harness, 60)
    ann = harness.protobuf_client(266)
    bob = harness.live(267)
    ann.send_payload(protobuf.sync(0))
    ann.expect(2)
    bob.single(1, 266, "new")
    bob.expect(1)
    be_patient(harness, 0.05)
    # gets its moment after the page, and lets it pass
    other = harness.protobuf_client(268)
    bob.single(2, 268, "new")
    until(lambda: other.pushes())
    assert not ann.pushes(), "it would hide what is missed"
    ann.send_payload(protobuf.sync(50))
    until(lambda: len(ann.stream()) == 61)
    assert ann.stream() == list(range(1, 62)), "each once, and in order"


def test_entries_delivered_between_two_pages_hide_nothing(harness: Harness) -> None:
    """A client asks for the rest with the greatest place that it has seen: here
    that of what is new."""
    be_patient(harness, page_seconds=0.05)
    missed(harness, 120)
    ann = harness.protobuf_client(266)
    bob = harness.live(267)
    ann.send_payload(protobuf.sync(0))
    ann.expect(2)
    bob.single(1, 266, "new")
    until(lambda: ann.pushes())
    # who wants more than the rest gets it
    for round, after in enumerate((0, 121, 121), 1):
        ann.send_payload(protobuf.sync(after))
        ann.expect(3 + round)
    assert sorted(set(ann.stream())) == list(range(1, 122))
    assert [len(messages) for messages, _ in pages(ann)] == [50, 50, 50, 21]
    assert [more for _, more in pages(ann)] == [True, True, True, False]
    assert not harness.protobuf_service.page_ends.ends
    ann.send_payload(protobuf.sync(121))
    ann.expect(7)
    assert pages(ann)[4] == ([], False)


def test_who_asks_for_a_later_position_of_their_own_accord_is_given_what_is_behind_it(
    harness: Harness,
) -> None:
    missed(harness, 120)
    ann = harness.live(266)
    for after, count in ((0, 50), (115, 5), (0, 50), (120, 0), (2**64 - 1, 0)):
        ann.send_payload(protobuf.sync(after))
        until(lambda: pages(ann))
        assert len(pages(ann)[-1][0]) == count
        ann.client.frames.clear()


def test_a_connection_that_ends_between_two_pages_leaves_no_state(
    harness: Harness,
) -> None:
    missed(harness, 60)
    ann = harness.protobuf_client(266)
    ann.send_payload(protobuf.sync(0))
    ann.expect(2)
    assert harness.protobuf_service.page_ends.ends
    ann.client.hang_up()
    until(lambda: not harness.protobuf_service.page_ends.ends)


def pages(protobuf_client: ProtobufClient) -> list[tuple[list[SentMessage], bool]]:
    """The answers to its syncs."""
    return [
        synced(each) for each in protobuf_client.outputs() if each.kind == protobuf.SYNC
    ]


@pytest.mark.parametrize(
    ("count", "first", "more"), [(49, 49, False), (50, 50, False), (51, 50, True)]
)
def test_changes_of_groups_take_no_room_on_a_page_however_many_there_are(
    harness: Harness, count: int, first: int, more: bool
) -> None:
    groups = [harness.group("266", "267") for _ in range(PAGE * 2 + 10)]
    bob = harness.live(267)
    group = groups[-1]
    for number in range(1, count + 1):
        bob.group(number, group, f"t{number}")
    until(lambda: len(bob.acks()) == count)
    ann = harness.protobuf_client(266)
    ann.send_payload(protobuf.sync(0))
    messages, has_more = synced(ann.expect(2)[-1])
    assert (len(messages), has_more) == (first, more)
    if more:
        ann.send_payload(protobuf.sync(messages[-1].seq))
        assert [each.text for each in synced(ann.expect(3)[-1])[0]] == ["t51"]


def test_a_refusal_among_messages_costs_the_others_nothing(harness: Harness) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    harness.gates.committing = Flag()
    ann.single(1, 267, "one")
    ann.group(2, 12345, "not mine")
    ann.single(3, 266, "to myself")
    ann.single(4, 267, "four")
    ann.settle()
    harness.gates.committing.set()
    until(lambda: len(ann.acks()) == 2)
    assert [number for number, _ in ann.acks()] == [1, 4]
    assert [each.text for each in bob.pushes()] == ["one", "four"]
    ann.single(5, 267, "five")
    until(lambda: len(ann.acks()) == 3)


def test_a_client_whose_sync_fails_is_closed(harness: Harness) -> None:
    ann = harness.live(266)
    harness.gates.away = True
    ann.send_payload(protobuf.sync(0))
    assert ann.client.close_code() == 1011
    assert ann.outputs() == []


def test_a_session_remembers_no_more_than_a_few_numbers(harness: Harness) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    ann.single(1, 267, "hi")
    bob.expect(1)
    state = ann.connection.dialect_state
    subscription = ann.connection.log_subscription
    assert type(state) is ProtobufState
    assert state.__sizeof__() + subscription.__sizeof__() <= 96
    assert not hasattr(state, "__dict__")
    assert not harness.uplink.queues


def test_a_session_ends_with_its_token(harness: Harness) -> None:
    for id, late, is_open in ((266, -60, True), (267, 0, True), (268, 61, False)):
        harness.logins.decision = LoginDecision(
            user=str(id), expires_at=int(time()) - late
        )
        ann = harness.live(id)
        harness.sweep.sweep()
        assert ann.connection.is_open is is_open
    assert ann.client.close_code() == 4504


def test_who_asks_again_is_served_in_order_and_nobody_else_waits(
    harness: Harness,
) -> None:
    ann = harness.live(266)
    bob = harness.live(267)
    eve = harness.live(268)
    go_on = Flag()
    reads = harness.gates.reads
    harness.gates.around = go_on.wait
    ann.send_payload(protobuf.sync(0))
    until(lambda: harness.gates.reads > reads)
    eve.single(1, 266, "to ann")
    eve.single(2, 267, "to bob")
    bob.expect(1)
    assert ann.outputs() == []
    go_on.set()
    until(lambda: ann.stream() == [1])
    ann.settle()
    assert (ann.stream(), bob.stream()) == ([1], [2])


# --- what is stored together --------------------------------------------------


def members(harness: Harness, *lives: int) -> tuple[int, list[ProtobufClient]]:
    """A group of these accounts, who are here."""
    first, *others = [str(each) for each in lives]
    return harness.group(first, *others), [harness.live(each) for each in lives]


def together(harness: Harness, begin: ProtobufClient, group: int) -> Flag:
    """Have what is sent from now on share a transaction: the one before does
    not end until this is set."""
    gate = Flag()
    harness.gates.committing = gate
    begin.group(1, group, "before")
    until(lambda: harness.uplink.queues)
    return gate


def test_what_is_stored_together_is_one_frame_and_its_senders_are_acknowledged_in_their_order(
    harness: Harness,
) -> None:
    group, (ann, bob, eve, dan) = members(harness, 1, 2, 3, 4)
    gate = together(harness, dan, group)
    for each, text in ((ann, "a"), (bob, "b"), (eve, "c")):
        each.group(1, group, text)
        each.settle()
    gate.set()
    until(lambda: len(dan.outputs()) >= 4)
    for each in (ann, bob, eve, dan):
        until(lambda each=each: len(each.stream()) >= 4)  # type: ignore[misc]
        assert each.stream() == [2, 3, 4, 5]
    assert harness.appends == [1, 3]
    assert dan.pushes() == [
        SentMessage(GROUP, group, sender, 1, text, seq, 7)
        for sender, text, seq in ((1, b"a", 3), (2, b"b", 4), (3, b"c", 5))
    ]
    assert [each.content for each in bob.pushes()] == [b"before", b"a", b"c"]
    assert bob.acks() == [(1, 4)]
    frames = {
        name: len(each.client.payloads())
        for name, each in zip("aed", (ann, eve, dan), strict=True)
    }
    assert frames == {"a": 3, "e": 3, "d": 2}
    assert (
        harness.metrics.batch_messages.total,
        sum(harness.metrics.batch_seconds.counts),
    ) == (4, 2)


def test_a_run_ends_where_it_is_enough_for_a_frame(harness: Harness) -> None:
    group, (ann, bob, dan) = members(harness, 1, 2, 3)
    gate = together(harness, dan, group)
    large = "x" * (deliverer.MAX_RUN_BYTES * 2 // 3)
    short = 3 * deliverer.MAX_RUN // 2
    many = 3
    for number in range(1, short + 1):
        ann.group(number, group, "short")
    for number in range(1, many + 1):
        bob.group(number, group, large)
    ann.settle()
    bob.settle()
    gate.set()
    until(lambda: len(dan.stream()) >= short + many + 1)
    assert dan.stream() == list(range(2, short + many + 3))
    sizes = [
        (payload.count(b"short"), payload.count(large.encode()))
        for payload in dan.client.payloads()
    ]
    assert all(small + big <= deliverer.MAX_RUN and big <= 1 for small, big in sizes)
    assert len(sizes) < 10


def test_a_member_who_joins_in_a_batch_receives_the_entries_after_it(
    harness: Harness,
) -> None:
    group, (ann, bob) = members(harness, 1, 2)
    eve = harness.live(3)
    gate = together(harness, bob, group)
    ann.group(1, group, "a")
    ann.settle()
    joining = gevent.spawn(harness.log.groups.join, APP, group, ["3"])
    gate.set()
    joining.join()
    ann.group(2, group, "b")
    until(lambda: len(eve.pushes()) == 2)
    assert [each.content for each in eve.pushes()] == [b"a", b"b"]


# --- deadlines ----------------------------------------------------------------


HOLD_SECONDS = 0.05


@dataclass(eq=False)
class Line:
    """Of a connection: what has not left yet."""

    outbox: list[bytes] | None = None


def test_a_release_may_end_its_connection_or_fail() -> None:
    released: list[Line] = []

    def release(line: Line) -> None:
        deadlines.cancel(line)
        released.append(line)
        if line is lines[1]:
            raise ValueError("not released")

    deadlines: Any = SyncDeadlines(release, HOLD_SECONDS)  # type: ignore[arg-type]
    lines = [Line() for _ in range(3)]
    for line in lines:
        deadlines.expect(line)
    until(lambda: not deadlines.expected)
    assert sorted(map(id, released)) == sorted(map(id, lines))


def test_the_time_begins_when_what_was_sent_has_left_and_ends_with_the_connection() -> (
    None
):
    released: list[Line] = []
    deadlines: Any = SyncDeadlines(released.append, HOLD_SECONDS)  # type: ignore[arg-type]
    slow = Line([b"a long page"])
    stuck = Line([b"a page"])
    quick = Line()
    deadlines.expect(slow)
    deadlines.expect(stuck)
    for _ in range(3):
        deadlines.expect(quick)
        until(lambda: quick in released)
        assert released.pop() is quick
    slow.outbox = None
    until(lambda: released == [slow])
    deadlines.cancel(stuck)
    until(lambda: not deadlines.expected)
    assert released == [slow]
