"""Pauses between children, what a child tells its supervisor, settings of each,
listeners of clients."""

import itertools
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.node.http_servers import Listeners, close_all, listen
from imserver.gateway.supervisor.slot import (
    RUSH_SECONDS,
    ConnectionSteering,
    NodeMarks,
    Rush,
    Slot,
    SlotState,
    StatusPage,
    apply_reload,
    check_ports,
    for_child,
    name_of,
    resolve_addresses,
)
from tests.support import eventually


def settings(**given: object) -> Config:
    overrides = {
        "redis.url": "redis://127.0.0.1",
        **{name.replace("__", "."): v for name, v in given.items()},
    }
    return load_with_locations(os.devnull, {}, overrides)[0]


def failing(lives: list[float]) -> list[float]:
    """The pauses after children that lived for so long."""
    slot = Slot(0, "n", {})
    now = 0.0
    pauses = []
    for life in lives:
        slot.forked(1, now, 0)
        now += life
        pauses.append(slot.ended(now, planned=False))
    return pauses


def test_pauses_lie_anywhere_below_a_bound_that_doubles_until_a_minute_of_life_or_a_planned_end() -> (
    None
):
    runs = [failing([1.0] * 8) for _ in range(400)]
    for number, bound in enumerate((1, 2, 4, 8, 16, 30, 30, 30)):
        pauses = [run[number] for run in runs]
        assert 0.9 * bound < max(pauses) <= bound
        assert min(pauses) < 0.1 * bound
    assert max(failing([*[1.0] * 6, 60.0])[-1] for _ in range(50)) <= 1.0
    slot = Slot(0, "n", {})
    for now, planned in ((0.0, False), (1.0, True)):
        slot.forked(1, now, 0)
        pause = slot.ended(now + 1, planned=planned)
    assert (pause, slot.state, slot.due, slot.failures) == (0.0, SlotState.DOWN, 2.0, 0)


def test_a_slot_takes_clients_while_its_child_is_ready_has_room_and_its_loop_turns() -> (
    None
):
    slot = Slot(0, "n", {})
    slot.forked(1, 0.0, 0)
    assert not slot.accepts_clients(0.0)
    for started, ready, full in itertools.product((False, True), repeat=3):
        slot.status.beat(NodeMarks(started, ready, 9, 0 if full else 1))
        slot.state = SlotState.STARTING
        assert slot.observe(1.0, 0.0) == started
        assert slot.accepts_clients(1.0) == (started and ready and not full)
    slot.status.beat(NodeMarks(True, True, 9, 1))
    slot.observe(2.0, 0.0)
    assert (slot.accepts_clients(6.9), slot.accepts_clients(7.1)) == (True, False)
    slot.observe(100.0, 97.0)
    assert slot.silent_seconds(100.0) == 1.0, (
        "time in which nobody looked is no silence"
    )


def test_a_page_keeps_what_is_written_until_it_is_cleared() -> None:
    status = StatusPage()
    status.report("app 7: OPEN\napp 8: closed")
    assert (status.text(False), status.text(True)) == ("app 7: OPEN\napp 8: closed", "")
    status.report("kein Platz – 没有空间" * 1000, failed=True)
    assert status.text(False) == ""
    assert status.text(True).startswith("kein Platz – 没有空间kein")
    assert status.beats == 0
    marks = NodeMarks(True, False, 17_900, sys.maxsize)
    status.beat(marks)
    assert (status.beats, status.marks) == (1, marks)
    status.clear()
    assert (status.text(True), status.beats, status.marks.started) == ("", 0, False)


def test_each_slot_has_two_private_ports_of_which_the_first_names_the_node() -> None:
    three = [
        for_child(settings(cluster__advertise="10.0.0.5"), number)
        for number in range(3)
    ]
    assert [part.app.rpc_port for part in three] == [9001, 9003, 9005]
    names = [name_of(part) for part in three]
    assert names == ["10.0.0.5:9001", "10.0.0.5:9003", "10.0.0.5:9005"]


def test_the_private_ports_have_to_have_room() -> None:
    check_ports(settings(server__processes=3, app__rpc_port=65530))
    check_ports(settings(server__processes=3, app__rpc_port=8083))
    check_ports(settings(app__rpc_port=0))
    with pytest.raises(
        StartError,
        match=r"^app\.rpc_port 8079: a node needs the ports up to 8080, and ",
    ):
        check_ports(settings(app__rpc_port=8079))
    check_ports(settings(app__rpc_port=8079, redis__url=""))
    with pytest.raises(StartError, match=r"^app\.rpc_port 0: 3 nodes need fixed ports"):
        check_ports(settings(server__processes=3, app__rpc_port=0))
    for port in (65531, 8076, 8088):
        with pytest.raises(
            StartError, match=rf"^app\.rpc_port {port}: 3 nodes need the ports up to "
        ):
            check_ports(settings(server__processes=3, app__rpc_port=port))


def test_settings_read_again_keep_what_the_supervisor_holds() -> None:
    before = settings(server__processes=3, app__http_port=80)
    fresh, changed = apply_reload(
        settings(server__processes=4, app__http_port=81, log__requests=False),
        before,
        before,
    )
    assert changed == ["app.http_port", "server.processes"]
    assert (fresh.app.http_port, fresh.server.processes, fresh.log.requests) == (
        80,
        3,
        False,
    )


def test_addresses_that_were_found_out_are_no_change_of_the_settings() -> None:
    listeners = [{"port": 7800}, {"port": 7801, "host": "localhost"}]
    given = settings(
        server__processes=3,
        server__host="localhost",
        server__insecure=True,
        server__extra_listen=listeners,
    )
    used = resolve_addresses(given)
    assert used.cluster.advertise
    hosts = [used.server.host, *(row.host for row in used.server.extra_listen)]
    loopback = ("127.0.0.1", "::1")
    assert [host in loopback for host in hosts] == [True, False, True]
    assert hosts[1] == "", "it goes with server.host"
    assert apply_reload(given, given, used) == (used, [])
    fresh, changed = apply_reload(settings(server__processes=3), given, used)
    assert "server.extra_listen" in changed
    assert fresh.server.extra_listen == used.server.extra_listen
    assert not resolve_addresses(settings(server__processes=3)).cluster.advertise, (
        "demo mode: the node knows"
    )


class Crowd:
    """Connections that come to 13 nodes of which each reports their number once
    a second."""

    def __init__(self, few: int) -> None:
        self.rush = Rush(few)
        self.counts = dict.fromkeys({*range(14)} - {5}, 0)
        self.room = 60_000
        self.now = 0.0
        self._report()

    def _report(self) -> None:
        self._nodes = {
            number: NodeMarks(True, True, count, self.room - count)
            for number, count in self.counts.items()
        }

    def come(self, seconds: int, each_second: int) -> None:
        for _ in range(seconds):
            for _ in range(round(1 / RUSH_SECONDS)):
                for number in (chosen := self.choose()):
                    self.counts[number] += round(
                        each_second * RUSH_SECONDS / len(chosen)
                    )
                self.now += RUSH_SECONDS
            self._report()

    def choose(self) -> frozenset[int]:
        return self.rush.choose(dict(self._nodes), self.now)

    @property
    def spread(self) -> int:
        return max(self.counts.values()) - min(self.counts.values())


def test_in_a_rush_a_few_nodes_get_connections_in_turn_and_afterwards_those_that_have_less() -> (
    None
):
    crowd = Crowd(few=2)
    assert crowd.choose() == crowd.counts.keys()
    for seconds in (5, 60):
        crowd.come(seconds, 7_000)
        assert crowd.rush.active
        assert len(crowd.choose()) == 2
        assert crowd.spread < sum(crowd.counts.values()) / len(crowd.counts)
    assert crowd.spread < 7_000
    crowd.come(90, 400)
    assert not crowd.rush.active
    assert crowd.spread < 1_000
    crowd.counts[3] = 0  # a node of a rolling restart
    crowd.come(240, 400)
    assert crowd.spread < 1_000
    crowd.room = max(crowd.counts.values()) + 5_000
    crowd.come(4, 3_000)
    assert crowd.rush.active
    assert len(crowd.choose()) > 2, "two have not room enough for all"


def test_few_connections_or_few_nodes_are_no_rush() -> None:
    for few, each_second in ((2, 100), (0, 7_000)):
        crowd = Crowd(few)
        crowd.come(5, each_second)
        assert crowd.choose() == crowd.counts.keys()


linux = pytest.mark.skipif(sys.platform != "linux", reason="steering needs Linux")

COUNT = 5


@pytest.fixture
def all_listeners() -> Iterator[list[Listeners]]:
    settings = load_with_locations(
        os.devnull, {}, {"app.http_port": 0, "app.websocket_port": 0}
    )[0]
    result = listen(settings, COUNT)
    yield result
    for listeners in result:
        close_all(listeners)


def taken_by(
    all_listeners: list[Listeners], name: str, clients: int = 200
) -> Counter[int]:
    address = all_listeners[0][name].getsockname()
    connections = [socket.create_connection(address) for _ in range(clients)]
    got: Counter[int] = Counter()

    def all_taken() -> bool:
        for number, listeners in enumerate(all_listeners):
            with (
                suppress(BlockingIOError),
                socket.socket(fileno=os.dup(listeners[name].fileno())) as same,
            ):
                same.setblocking(False)
                while True:
                    same.accept()[0].close()
                    got[number] += 1
        return got.total() == clients

    eventually(all_taken)
    for connection in connections:
        connection.close()
    return got


@linux
@pytest.mark.parametrize("closed", [set(), {0}, {1, 3}, {1, 2, 3, 4}])
def test_clients_are_kept_away_from_listeners_that_take_none(
    all_listeners: list[Listeners], closed: set[int]
) -> None:
    steering = ConnectionSteering(all_listeners)
    steering.exclude(frozenset(closed))
    for name in ("http", "websocket"):
        assert len({listeners[name].getsockname() for listeners in all_listeners}) == 1
        got = taken_by(all_listeners, name)
        assert got.keys() == set(range(COUNT)) - closed
        assert min(got.values()) > 40 / len(got) * (len(closed) > 0)
    steering.exclude(frozenset(range(COUNT)))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT)), (
        "there is nowhere else"
    )
    ConnectionSteering(all_listeners, possible=False).exclude(frozenset({1}))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT))
