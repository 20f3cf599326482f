"""Chats over a log in memory: logins by token, numbers that are used up, order, holding back, paging."""

from collections.abc import Callable, Iterator

import pytest
from gevent.event import Event as Signal

from imserver.auth.rules import ALLOWED, BAD_ORIGIN, BAD_TOKEN, UNDECIDED, LoginDecision
from imserver.errors import StorageUnavailable
from imserver.hub.expiry import Sweep
from imserver.protocol.protobuf import ProtobufDialect
from imserver.services.dialects import protobuf_service as module
from imserver.services.dialects.protobuf_service import (
    HOLD_SECONDS,
    PAGE,
    PAGE_SECONDS,
    ProtobufService,
    SyncDeadlines,
)
from imserver.services.dialects.protobuf_uplink import (
    MAX_WAITING,
    MAX_WAITING_BYTES,
    ProtobufState,
    ProtobufUplink,
)
from imserver.services.messages.deliverer import Result
from imserver.storage.log.contract import Appended, Entry
from imserver.transport.connection import CLOSING, OPEN, Connection
from tests.hub.world import POLICIES
from tests.integration import protobuf
from tests.integration.protobuf import GROUP, SINGLE, Output, Said, acked, pushed, synced
from tests.integration.raw import BINARY, PING, PONG, frame
from tests.services.memory_log import Shelf
from tests.services.messaging_world import Node
from tests.transport.rig import Client, turn, until

APP = "gochat"
DIALECT = ProtobufDialect()
ENDS_AT = 4102444800


class Door:
    """Decides on logins as a test says."""

    def __init__(self) -> None:
        self.verdict = ALLOWED
        self.unavailable = False
        self.asked: list[tuple[str, str, str]] = []
        self.began_with: list[LoginDecision] = []
        self.on_check: Callable[[str], object] = lambda user: None

    def resolve(self, app: str) -> str:
        return app

    def wants_tokens(self, app: str) -> bool:
        return True

    def check(
        self, app: str, user: str, token: str, dialect: str, connection: Connection, device: str = ""
    ) -> LoginDecision:
        """A token is the number of its account, where the test does not say what is decided."""
        self.asked.append((app, user, device))
        if self.unavailable:
            return UNDECIDED
        if self.verdict is not ALLOWED:
            return self.verdict
        if not token.isdecimal():
            return BAD_TOKEN
        self.on_check(token)
        return LoginDecision(expires_at=ENDS_AT, user=token)


class Chatter:
    """A client and its connection."""

    def __init__(self, connection: Connection, client: Client) -> None:
        self.connection = connection
        self.client = client
        self.id = 0

    def tell(self, payload: bytes) -> None:
        self.client.send(frame(BINARY, payload))

    def outputs(self) -> list[Output]:
        return [output for payload in self.client.payloads() for output in protobuf.outputs(payload)]

    def expect(self, count: int) -> list[Output]:
        until(lambda: len(self.outputs()) >= count)
        self.settle()
        found = self.outputs()
        assert len(found) == count, found
        return found

    def settle(self) -> None:
        self.client.probe(b"%d" % len(self.client.frames))

    def single(self, number: int, to: int, text: str, **more: object) -> None:
        self.tell(protobuf.message(number, Said(SINGLE, to, self.id, 1, text.encode(), time=7), **more))  # type: ignore[arg-type]

    def group(self, number: int, to: int, text: str) -> None:
        self.tell(protobuf.message(number, Said(GROUP, to, self.id, 1, text.encode(), time=7)))

    def acks(self) -> list[tuple[int, int]]:
        return [
            acked(each)
            for each in self.outputs()
            if each.kind == protobuf.ACK and each.data.startswith(b"\x08\x01")
        ]

    def pushes(self) -> list[Said]:
        return [pushed(each) for each in self.outputs() if each.kind == protobuf.MESSAGE]

    def stream(self) -> list[int]:
        """Places in the order in which it was told them."""
        found: list[int] = []
        for each in self.outputs():
            if each.kind == protobuf.MESSAGE:
                found.append(pushed(each).seq)
            elif each.kind == protobuf.SYNC:
                found += [said.seq for said in synced(each)[0]]
            elif each.kind == protobuf.ACK and each.data.startswith(b"\x08\x01"):
                found.append(acked(each)[1])
        return found


class World(Node):
    """A node with chats. A token is the number of its account."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        policies = {**POLICIES, APP: "refuse"}
        super().__init__(shelf, policies=policies)
        self.door = Door()
        self.uplink = ProtobufUplink(self.messaging, self.store)
        self.protobuf_service = ProtobufService(self.sessions, self.door, self.messaging, self.uplink)
        self.sweep = Sweep(
            self.context, self.metrics, 360, 0, 0, 20, {"protobuf": 600}, self.protobuf_service.check_token
        )
        self._make_dispatcher(protobuf=self.protobuf_service, uplink=self.uplink)

    def on_ended(self, connection: Connection, code: int) -> None:
        service = getattr(self, "protobuf_service", None)
        if service is not None:
            service.ended(connection)
        super().on_ended(connection, code)

    def visitor(self) -> Chatter:
        connection, client = self.connect(dialect=DIALECT)
        return Chatter(connection, client)

    def chatter(self, id: int, device: str = "") -> Chatter:
        """Somebody who has logged in."""
        found = self.visitor()
        found.id = id
        found.tell(protobuf.login(str(id), device))
        assert found.expect(1)[0].data == b"\x08\x03"
        return found

    def live(self, id: int, device: str = "") -> Chatter:
        """Somebody who has nothing to catch up with."""
        found = self.chatter(id, device)
        found.tell(protobuf.sync(2**62))
        assert synced(found.expect(2)[1]) == ([], False)
        found.client.frames.clear()
        return found


@pytest.fixture
def world() -> Iterator[World]:
    with World() as found:
        yield found


# --- logging in ---------------------------------------------------------------------------------------------


def test_a_login_is_acknowledged_and_makes_a_session_that_ends_with_its_token(world: World) -> None:
    ann = world.chatter(266)
    assert (ann.connection.app, ann.connection.user) == (APP, "266")
    assert world.door.asked == [(APP, "", "")]


@pytest.mark.parametrize(
    "payload", [protobuf.sync(0), protobuf.message(1, Said(SINGLE, 2, 1)), protobuf.sent(2)]
)
def test_before_the_login_everything_is_dropped(world: World, payload: bytes) -> None:
    stranger = world.visitor()
    stranger.tell(payload)
    stranger.settle()
    assert stranger.outputs() == []
    assert stranger.connection.state == OPEN
    assert world.log.shelf.entries == {}


def test_a_bad_token_is_dropped_and_may_be_followed_by_a_good_one(world: World) -> None:
    ann = world.visitor()
    ann.tell(protobuf.login("nonsense"))
    ann.settle()
    assert (ann.outputs(), ann.connection.state) == ([], OPEN)
    ann.tell(protobuf.login("266"))
    assert len(ann.expect(1)) == 1


def test_who_ends_all_sessions_while_a_token_is_read_is_not_logged_in_with_it(
    world: World,
) -> None:
    world.door.on_check = lambda user: world.sessions.close(APP, [user])
    ann = world.visitor()
    ann.tell(protobuf.login("266"))
    assert ann.client.close_code() == 4502
    assert ann.outputs() == []
    assert not world.hub.is_online(APP, "266")


def test_a_second_login_on_a_connection_is_dropped(world: World) -> None:
    ann = world.chatter(266)
    ann.tell(protobuf.login("267"))
    ann.settle()
    assert len(ann.outputs()) == 1
    assert ann.connection.user == "266"


def test_a_user_who_is_online_elsewhere_stays_there(world: World) -> None:
    ann = world.chatter(266)
    second = world.visitor()
    second.tell(protobuf.login("266"))
    until(lambda: any(each.opcode == PING for each in ann.client.read()))
    ann.client.send(frame(PONG, b""))
    assert second.client.close_code() == 4501
    assert second.outputs() == []
    assert world.hub.apps[APP].sessions_of("266") == (ann.connection,)


def test_devices_with_names_of_their_own_are_online_together(world: World) -> None:
    phone, desk = world.live(266, "phone"), world.live(266, "desk")
    bob = world.live(267)
    bob.single(1, 266, "hi")
    bob.expect(1)
    assert [said.text for said in phone.pushes()] == [said.text for said in desk.pushes()] == ["hi"]
    phone.single(1, 267, "ho")
    phone.expect(2)
    desk.expect(2)
    assert phone.stream() == desk.stream()
    assert [said.text for said in desk.pushes()] == ["hi", "ho"], "the sender's other device is told, too"
    assert len(phone.pushes()) == 1


def test_a_final_verdict_closes_and_another_one_does_not(world: World) -> None:
    world.door.verdict = LoginDecision(1003, 4505)
    ann = world.visitor()
    ann.tell(protobuf.login("266"))
    ann.settle()
    assert (ann.outputs(), ann.connection.state) == ([], OPEN)
    world.door.verdict = BAD_ORIGIN
    ann.tell(protobuf.login("266"))
    assert ann.client.close_code() == 4505


def test_a_token_of_the_app_itself_logs_in_whoever_it_names_if_that_is_an_account(world: World) -> None:
    world.door.verdict = LoginDecision(user="268")
    ann = world.visitor()
    ann.tell(protobuf.login("a.session.token"))
    ann.expect(1)
    assert ann.connection.user == "268"
    world.door.verdict = LoginDecision(user="eve")
    eve = world.visitor()
    eve.tell(protobuf.login("a.session.token"))
    eve.settle()
    assert (eve.outputs(), eve.connection.user) == ([], None)


def test_whoever_cannot_be_logged_in_for_want_of_the_database_is_closed_to_try_again(world: World) -> None:
    world.door.unavailable = True
    ann = world.visitor()
    ann.tell(protobuf.login("266"))
    assert ann.client.close_code() == 1011
    world.door.unavailable, world.log.away = False, True
    bob = world.visitor()
    bob.tell(protobuf.login("267"))
    assert bob.client.close_code() == 1011
    assert bob.outputs() == []


# --- sending ------------------------------------------------------------------------------------------------


def test_a_message_is_stored_pushed_and_acknowledged_with_one_place(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    sent = Said(SINGLE, 267, 266, 1, b"hi", 0, 1700000000000)
    ann.tell(protobuf.message(1, sent))
    ann.expect(1)
    assert ann.acks() == [(1, 1)]
    assert bob.pushes() == [sent._replace(seq=1)]
    assert [entry.id for entry in world.log.shelf.entries[APP]] == [1]


@pytest.mark.parametrize(
    "sent",
    [
        Said(SINGLE, 267, 266, 0, b"", 0, 0),
        Said(SINGLE, 267, 266, 3, b"\xff\x00", 0, 2**63 - 1),
        Said(SINGLE, 2**63 - 1, 266, 9, b"x", 0, 1),
    ],
)
def test_all_fields_of_a_message_come_back_as_they_were_sent(world: World, sent: Said) -> None:
    ann, bob = world.live(266), world.live(sent.receiver)
    ann.tell(protobuf.message(1, sent))
    ann.expect(1)
    assert bob.pushes() == [sent._replace(seq=1)]
    bob.tell(protobuf.sync(0))
    assert synced(bob.expect(2)[1]) == ([sent._replace(seq=1)], False)


def test_a_place_that_a_client_gives_its_message_is_not_looked_at(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    ann.tell(protobuf.message(1, Said(SINGLE, 267, 266, 1, b"hi", seq=99)))
    ann.expect(1)
    assert bob.pushes()[0].seq == 1


def test_members_of_a_group_are_told_and_the_sender_is_not(world: World) -> None:
    group = world.log.create(APP, "266", ["267", "268"])
    ann, bob, eve = world.live(266), world.live(267), world.live(268)
    ann.group(1, group, "all")
    ann.expect(1)
    (id, place) = ann.acks()[0]
    assert id == 1
    for member in (bob, eve):
        assert member.pushes() == [Said(GROUP, group, 266, 1, b"all", place, 7)]
    assert ann.pushes() == []


@pytest.mark.parametrize(
    "sent",
    [
        Said(SINGLE, 267, 999, 1, b"x"),
        Said(SINGLE, 266, 266, 1, b"x"),
        Said(0, 267, 266, 1, b"x"),
        Said(3, 267, 266, 1, b"x"),
        Said(SINGLE, 0, 266, 1, b"x"),
        Said(SINGLE, 2**63, 266, 1, b"x"),
        Said(GROUP, 12345, 266, 1, b"x"),
        Said(),
    ],
    ids=["for another", "to oneself", "no kind", "unknown kind", "nobody", "beyond", "no member", "empty"],
)
def test_what_may_not_be_sent_is_not_acknowledged_and_uses_up_its_number(world: World, sent: Said) -> None:
    ann, bob = world.live(266), world.live(267)
    ann.tell(protobuf.message(1, sent))
    ann.tell(protobuf.message(1, sent))
    ann.settle()
    assert (ann.outputs(), ann.connection.state) == ([], OPEN)
    ann.single(2, 267, "after")
    ann.expect(1)
    assert [number for number, _ in ann.acks()] == [2]
    assert [said.text for said in bob.pushes()] == ["after"]


def test_only_the_next_number_is_taken(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    for number in (0, 2, 2**64 - 1):
        ann.single(number, 267, "wrong")
    ann.single(1, 267, "one")
    ann.expect(1)
    ann.single(3, 267, "wrong")
    ann.single(2, 267, "two")
    ann.expect(2)
    assert [number for number, _ in ann.acks()] == [1, 2]
    assert [said.text for said in bob.pushes()] == ["one", "two"]


def test_a_repeat_is_acknowledged_again_with_the_first_place_and_delivered_once(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    ann.single(1, 267, "hi")
    ann.expect(1)
    bob.single(1, 266, "ho")
    bob.expect(2)
    ann.single(1, 267, "hi")
    ann.expect(3)
    assert ann.acks() == [(1, 1), (1, 1)]
    assert len(bob.pushes()) == 1
    assert len(world.log.shelf.entries[APP]) == 2


def test_a_repeat_that_comes_before_the_commit_is_stored_once(world: World) -> None:
    ann = world.live(266)
    world.log.committing = Signal()
    for _ in range(4):
        ann.single(1, 267, "hi")
    ann.settle()
    assert ann.outputs() == [], "nothing is acknowledged before it is stored"
    world.log.committing.set()
    ann.expect(1)
    assert len(world.log.shelf.entries[APP]) == 1


def test_messages_that_do_not_wait_for_acks_are_stored_in_their_order(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    texts = [f"t{number}" for number in range(1, 101)]
    for number, text in enumerate(texts, 1):
        ann.single(number, 267, text)
    until(lambda: len(ann.acks()) == 100)
    assert [number for number, _ in ann.acks()] == list(range(1, 101))
    assert [said.text for said in bob.pushes()] == texts


def test_a_message_that_could_not_be_stored_may_be_sent_again(world: World) -> None:
    ann = world.live(266)
    world.log.away = True
    for number in (1, 2, 3):
        ann.single(number, 267, f"t{number}")
    ann.settle()
    until(lambda: world.uplink.idle)
    assert ann.outputs() == []
    world.log.away = False
    ann.single(3, 267, "not its turn")
    for number in (1, 2):
        ann.single(number, 267, f"t{number}")
    ann.expect(2)
    assert [entry.body for entry in world.log.shelf.entries[APP]] == [b"t1", b"t2"]


@pytest.mark.parametrize("stored", [True, False])
def test_a_number_is_not_taken_again_before_it_is_known_what_became_of_it(world: World, stored: bool) -> None:
    """A message without an id of its own, whose COMMIT is not answered in time."""
    ann, bob = world.live(266), world.live(267)
    world.log.late = late = []
    ann.single(1, 267, "once")
    until(lambda: late)
    for number in (1, 2):
        ann.single(number, 267, "once" if number == 1 else "twice")
    ann.settle()
    assert ann.outputs() == []
    world.log.late = None
    late.pop()(stored)
    if not stored:
        assert ann.outputs() == []
        for number, text in ((1, "once"), (2, "twice")):
            ann.single(number, 267, text)
    until(lambda: len(ann.acks()) == 2)
    assert ann.acks() == [(1, 1), (2, 2)]
    assert [said.text for said in bob.pushes()] == ["once", "twice"]
    assert ann.pushes() == []
    assert world.uplink.idle


def test_who_leaves_before_it_is_known_what_became_of_a_message_is_forgotten(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    world.log.late = late = []
    ann.single(1, 267, "hi")
    until(lambda: late)
    world.log.late = None
    ann.client.hang_up()
    until(lambda: not world.hub.is_online(APP, "266"))
    late.pop()(True)
    until(bob.pushes)
    assert world.uplink.idle
    assert APP not in world.messaging.deliverer.results


@pytest.mark.parametrize(("size", "taken"), [(1, MAX_WAITING), (40_000, MAX_WAITING_BYTES // 40_000)])
def test_only_so_much_of_a_connection_waits_for_a_commit(world: World, size: int, taken: int) -> None:
    ann = world.live(266)
    world.log.committing = Signal()
    for number in range(1, taken + 20):
        ann.single(number, 267, "x" * size)
    ann.settle()
    world.log.committing.set()
    until(lambda: len(ann.acks()) == taken)
    ann.single(taken + 1, 267, "next")
    until(lambda: len(ann.acks()) == taken + 1)


def test_whosoever_later_message_is_stored_and_the_earlier_is_not_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = world.live(266)
    dones: list[Callable[[Result], None]] = []
    monkeypatch.setattr(world.messaging, "send", lambda app, draft, done, connection: dones.append(done))
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


def test_a_message_with_an_id_is_protected_across_connections(world: World) -> None:
    ann = world.live(266)
    ann.single(1, 267, "hi", client_msg_id="m1")
    ann.expect(1)
    first = ann.acks()[0][1]
    ann.client.hang_up()
    until(lambda: not world.hub.is_online(APP, "266"))
    again = world.live(266)
    again.single(1, 267, "hi", client_msg_id="m1")
    again.expect(1)
    assert again.acks() == [(1, first)]
    assert len(world.log.shelf.entries[APP]) == 1


def test_what_waits_when_a_connection_ends_is_forgotten(world: World) -> None:
    ann = world.live(266)
    world.log.committing = Signal()
    for number in (1, 2):
        ann.single(number, 267, "x")
    until(lambda: not world.uplink.idle)
    ann.client.hang_up()
    until(lambda: world.uplink.idle)
    world.log.committing.set()
    until(lambda: len(world.log.shelf.entries.get(APP, ())) == 1)
    turn()
    assert len(world.log.shelf.entries[APP]) == 1


# --- catching up --------------------------------------------------------------------------------------------


def missed(world: World, count: int) -> None:
    """Bob has sent Ann so many messages while she was away."""
    bob = world.live(267)
    for number in range(1, count + 1):
        bob.single(number, 266, f"t{number}")
    until(lambda: len(bob.acks()) == count)
    bob.client.hang_up()
    until(lambda: not world.hub.is_online(APP, "267"))


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (50, [50]), (51, [50, 1]), (120, [50, 50, 20])])
def test_what_was_missed_comes_in_pages_of_fifty(world: World, count: int, pages: list[int]) -> None:
    missed(world, count)
    ann = world.chatter(266)
    cursor, found = 0, []
    for number, size in enumerate(pages, 2):
        ann.tell(protobuf.sync(cursor))
        messages, more = synced(ann.expect(number)[-1])
        assert (len(messages), more) == (size, number < len(pages) + 1)
        found += [said.text for said in messages]
        cursor = messages[-1].seq if messages else 0
    assert found == [f"t{number}" for number in range(1, count + 1)]


def test_own_messages_are_among_them_and_what_one_has_is_not(world: World) -> None:
    ann = world.live(266)
    ann.single(1, 267, "mine")
    ann.expect(1)
    missed(world, 2)
    ann.tell(protobuf.sync(1))
    ann.settle()
    assert [said.text for said in synced(ann.outputs()[-1])[0]] == ["t1", "t2"]
    ann.tell(protobuf.sync(0))
    ann.settle()
    assert [said.text for said in synced(ann.outputs()[-1])[0]] == ["mine", "t1", "t2"]


def test_nothing_new_overtakes_what_was_missed(world: World) -> None:
    missed(world, 70)
    ann, bob = world.chatter(266), world.live(267)
    bob.single(1, 266, "new")
    bob.expect(1)
    ann.tell(protobuf.sync(0))
    ann.expect(2)
    bob.single(2, 266, "newer")
    bob.expect(2)
    ann.tell(protobuf.sync(50))
    until(lambda: len(ann.stream()) == 72)
    assert ann.stream() == list(range(1, 73)), "each once, and in order"


def test_an_ack_does_not_overtake_what_was_missed(world: World) -> None:
    missed(world, 60)
    ann = world.chatter(266)
    ann.tell(protobuf.sync(0))
    ann.single(1, 267, "mine")
    ann.tell(protobuf.sync(50))
    until(lambda: len(ann.acks()) == 1)
    assert ann.stream() == sorted(ann.stream())
    assert ann.stream()[-1] == 61


def test_whoever_does_not_sync_is_told_what_is_new_in_a_moment(world: World) -> None:
    missed(world, 3)
    ann, bob = world.chatter(266), world.live(267)
    bob.single(1, 266, "new")
    bob.expect(1)
    ann.single(1, 267, "mine")
    until(lambda: ann.acks())
    assert ann.stream() == [4, 5]
    until(lambda: world.protobuf_service.deadlines.idle)


def test_the_next_question_may_take_its_time_over_a_slow_line(world: World) -> None:
    missed(world, 60)
    ann, bob = world.chatter(266), world.live(267)
    ann.tell(protobuf.sync(0))
    ann.expect(2)
    bob.single(1, 266, "new")
    bob.expect(1)
    other = world.chatter(268)  # gets its moment after the page, and lets it pass
    bob.single(2, 268, "new")
    until(lambda: other.pushes())
    assert not ann.pushes(), "it would hide what is missed"
    ann.tell(protobuf.sync(50))
    until(lambda: len(ann.stream()) == 61)
    assert ann.stream() == list(range(1, 62)), "each once, and in order"


def test_whoever_stops_in_the_middle_is_told_what_is_new_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        world.protobuf_service, "page_deadlines", SyncDeadlines(world.protobuf_service._pass_over, 0.1)
    )
    missed(world, 60)
    ann, bob = world.chatter(266), world.live(267)
    ann.tell(protobuf.sync(0))
    ann.expect(2)
    bob.single(1, 266, "new")
    until(lambda: ann.pushes())
    assert [said.text for said in ann.pushes()] == ["new"]


def test_what_is_told_between_two_pages_hides_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client asks for the rest with the greatest place that it has seen: here that of what is new."""
    monkeypatch.setattr(
        world.protobuf_service, "page_deadlines", SyncDeadlines(world.protobuf_service._pass_over, 0.05)
    )
    missed(world, 120)
    ann, bob = world.chatter(266), world.live(267)
    ann.tell(protobuf.sync(0))
    ann.expect(2)
    bob.single(1, 266, "new")
    until(lambda: ann.pushes())
    for asked in (1, 2):
        ann.tell(protobuf.sync(max(ann.stream())))
        ann.expect(3 + asked)
    assert sorted(set(ann.stream())) == list(range(1, 122))
    assert [len(messages) for messages, _ in pages(ann)] == [50, 50, 21]
    assert [more for _, more in pages(ann)] == [True, True, False]
    assert world.protobuf_service.page_ends.empty
    ann.tell(protobuf.sync(121))
    ann.expect(6)
    assert pages(ann)[3] == ([], False)


def test_who_asks_for_a_later_place_of_their_own_accord_is_given_what_is_behind_it(world: World) -> None:
    missed(world, 120)
    ann = world.live(266)
    for after, count in ((0, 50), (115, 5), (0, 50), (120, 0)):
        ann.tell(protobuf.sync(after))
        until(lambda: pages(ann))
        assert len(pages(ann)[-1][0]) == count
        ann.client.frames.clear()


def test_who_leaves_between_two_pages_is_forgotten(world: World) -> None:
    missed(world, 60)
    ann = world.chatter(266)
    ann.tell(protobuf.sync(0))
    ann.expect(2)
    assert not world.protobuf_service.page_ends.empty
    ann.client.hang_up()
    until(lambda: world.protobuf_service.page_ends.empty)


def pages(chatter: Chatter) -> list[tuple[list[Said], bool]]:
    """The answers to its syncs."""
    return [synced(each) for each in chatter.outputs() if each.kind == protobuf.SYNC]


def test_changes_of_groups_are_passed_over_however_many_there_are(world: World) -> None:
    ann = world.live(266)
    for _ in range(PAGE * 2 + 10):
        group = world.log.create(APP, "266", ["267"])
    bob = world.live(267)
    bob.group(1, group, "at last")
    bob.expect(1)
    assert [said.text for said in ann.pushes()] == ["at last"]
    ann.tell(protobuf.sync(0))
    ann.settle()
    assert [said.text for said in synced(ann.outputs()[-1])[0]] == ["at last"]


@pytest.mark.parametrize(("count", "first", "more"), [(49, 49, False), (50, 50, False), (51, 50, True)])
def test_changes_of_groups_take_no_room_on_a_page(world: World, count: int, first: int, more: bool) -> None:
    group = world.log.create(APP, "266", ["267"])
    bob = world.live(267)
    for number in range(1, count + 1):
        bob.group(number, group, f"t{number}")
    until(lambda: len(bob.acks()) == count)
    ann = world.chatter(266)
    ann.tell(protobuf.sync(0))
    messages, has_more = synced(ann.expect(2)[-1])
    assert (len(messages), has_more) == (first, more)
    if more:
        ann.tell(protobuf.sync(messages[-1].seq))
        assert [said.text for said in synced(ann.expect(3)[-1])[0]] == ["t51"]


def test_a_refusal_among_messages_costs_the_others_nothing(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    world.log.committing = Signal()
    ann.single(1, 267, "one")
    ann.group(2, 12345, "not mine")
    ann.single(3, 266, "to myself")
    ann.single(4, 267, "four")
    ann.settle()
    world.log.committing.set()
    until(lambda: len(ann.acks()) == 2)
    assert [number for number, _ in ann.acks()] == [1, 4]
    assert [said.text for said in bob.pushes()] == ["one", "four"]
    ann.single(5, 267, "five")
    until(lambda: len(ann.acks()) == 3)


def test_whoever_cannot_be_synced_is_closed_instead_of_missing_something(world: World) -> None:
    ann = world.live(266)
    world.log.away = True
    ann.tell(protobuf.sync(0))
    assert ann.client.close_code() == 1011
    assert ann.outputs() == []


def test_a_place_beyond_all_is_answered_with_nothing(world: World) -> None:
    ann = world.chatter(266)
    ann.tell(protobuf.sync(2**64 - 1))
    assert ann.expect(2)[1].data == b""


def test_a_session_remembers_no_more_than_a_few_numbers(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    ann.single(1, 267, "hi")
    bob.expect(1)
    state, subscription = ann.connection.dialect_state, ann.connection.subscription
    assert type(state) is ProtobufState
    assert state.__sizeof__() + subscription.__sizeof__() <= 100
    assert not hasattr(state, "__dict__")
    assert world.uplink.idle


def test_a_session_ends_with_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = world.live(266)
    world.look = world.protobuf_service.check_token  # type: ignore[method-assign]
    for late, state in ((-1, OPEN), (0, OPEN), (61, CLOSING)):
        monkeypatch.setattr(module, "time", lambda late=late: ENDS_AT + late)
        world.sweep.sweep()
        assert ann.connection.state == state
    assert ann.client.close_code() == 4504


def test_who_has_sent_something_has_numbers_of_their_own(world: World) -> None:
    ann, bob, eve = world.live(266), world.live(267), world.live(268)
    for number in (1, 2):
        ann.single(number, 268, f"a{number}")
    bob.single(1, 268, "b1")
    until(lambda: len(eve.pushes()) == 3)
    assert [number for number, _ in ann.acks()] == [1, 2]
    assert [number for number, _ in bob.acks()] == [1]
    ann.tell(protobuf.sync(2**62))
    ann.settle()
    ann.single(2, 268, "a repeat")
    ann.single(3, 268, "a3")
    until(lambda: len(eve.pushes()) == 4)
    assert [number for number, _ in ann.acks()] == [1, 2, 2, 3]


def test_who_comes_into_a_group_is_its_member_alone(world: World) -> None:
    ann, bob, eve = world.live(266), world.live(267), world.live(268)
    group = world.log.create(APP, "266", ["267"])
    until(lambda: len(world.messaging.subscriptions.rooms.members(APP, group)) == 2)
    ann.group(1, group, "to both of us")
    bob.expect(1)
    eve.settle()
    assert eve.outputs() == []
    eve.connection.lost()
    until(lambda: not world.hub.is_online(APP, "268"))
    assert list(world.messaging.subscriptions.rooms.members(APP, group)) == [ann.connection, bob.connection]


def test_who_asks_again_is_told_in_order_and_nobody_else_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob, eve = world.live(266), world.live(267), world.live(268)
    read, begun, go_on = world.log.sync, Signal(), Signal()

    def sync(app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        begun.set()
        go_on.wait()
        return read(app, user, after, limit)

    monkeypatch.setattr(world.log, "sync", sync)
    ann.tell(protobuf.sync(0))
    until(begun.is_set)
    eve.single(1, 266, "to ann")
    eve.single(2, 267, "to bob")
    bob.expect(1)
    assert ann.outputs() == []
    go_on.set()
    until(lambda: ann.stream() == [1])
    ann.settle()
    assert (ann.stream(), bob.stream()) == ([1], [2])


def test_the_moment_for_a_sync_is_short_and_for_the_next_page_there_is_time() -> None:
    assert 0.1 <= HOLD_SECONDS <= 0.5
    assert 3 <= PAGE_SECONDS <= 10
