"""Several nodes on one machine: the supervisor's care for them, signals,
restarts."""

import os
import re
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.node.test_serve import SIGNALS_DURING_THE_START, in_terminal
from tests.gateway.supervisor.conftest import StartFamily
from tests.gateway.supervisor.family import (
    ACCEPTED,
    Stream,
    alive,
    answer,
    children_of,
    crowd,
    kill,
    upgraded,
)
from tests.integration.cmd import form_request, logged_in, send_message
from tests.integration.raw import Ended, select_readable
from tests.ports import free_ports
from tests.processes import pause
from tests.support import eventually, merged, with_constants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def private_share(pid: int) -> float:
    """How much of its resident memory a process has for itself: a third if
    nodes share what is there at the fork, two thirds without that. It varies:
    each use of an object writes its reference count into a page."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    kilobytes = [
        int(each)
        for each in re.findall(r"^(?:Rss|Private_\w+): +(\d+) kB", rollup, re.M)
    ]
    return sum(kilobytes[1:]) / kilobytes[0]


NOTE_THE_PARENT = """
import os
fork = os.fork
def noted():
    assert threading.active_count() == 1
    kinds = {type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, greenlet)}
    assert kinds <= {"greenlet"}, kinds  # the main one
    assert gc.get_freeze_count() > 20_000, "nodes share what nobody writes to"
    assert sys.modules.keys() >= {"imserver.gateway.node.flask_app", "imserver.gateway.core.cluster"}
    servers = sys.modules["imserver.gateway.node.http_servers"]
    assert servers.api_table_of.cache_info().currsize, "no node makes the table of routes"
    print("clean", flush=True)
    return fork()
os.fork = noted
from gevent import monkey; monkey.patch_all()
import gc, sys, threading
from greenlet import greenlet
from imserver.cli import main
main()
"""


@pytest.mark.full("processes")
def test_the_supervisor_has_no_loop_thread_or_foreign_socket_when_it_forks(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=2, command=(sys.executable, "-c", NOTE_THE_PARENT))
    first = family.pids
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        family.signal(number)
    eventually(lambda: "SIGHUP: settings reloaded" in family.log_text)
    kill(first[0])
    pids = family.wait_until_replaced(first[0])
    family.signal(signal.SIGURG)
    family.wait_until_replaced(*pids)
    assert family.output.count("clean\n") == 5
    assert len(os.listdir(f"/proc/{family.pid}/task")) == 1
    links = [os.readlink(file) for file in Path(f"/proc/{family.pid}/fd").iterdir()]
    assert sum(link.startswith("socket:") for link in links) == 4
    assert not any("eventpoll" in link or "eventfd" in link for link in links)


@pytest.mark.full("processes")
def test_the_nodes_have_own_listeners_and_little_memory_and_obey_each_signal(
    start_family: StartFamily,
) -> None:
    first = free_ports(6)
    names = [f"127.0.0.1:{port}" for port in (first, first + 2, first + 4)]
    family = start_family(processes=3, config={"app": {"rpc_port": first}})
    assert re.search(rf"\n  nodes +3: {names[0]} to {names[2]}\n", family.output)
    assert sorted(family.pids) == sorted(children_of(family.pid))
    for path in ("/home/index", "/user/list?appID=101", "/system/state", "/none"):
        for _ in range(6):
            family.get(path)
    largest = max(map(private_share, family.pids))
    for pid in family.pids:
        assert os.getpgid(pid) == pid  # Ctrl-C reaches the supervisor only
        listening = 0
        inodes = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
        for line in (
            Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        ):
            cells = line.split()
            port = int(cells[1].partition(":")[2], 16)
            if cells[3] == "0A" and port in (family.http.port, family.ws.port):
                listening += f"socket:[{cells[9]}]" in inodes
        assert listening == 2
    family.signal(signal.SIGHUP)
    eventually(
        lambda: (
            family.log_text.count("imserver.gateway.node.serve: settings reloaded") == 3
        )
    )
    family.signal(signal.SIGUSR2)
    eventually(lambda: family.log_text.count("greenlets and loop state") == 3)
    moved = family.log.rename(family.folder / "server.log.1")
    family.signal(signal.SIGUSR1)
    eventually(family.log.exists)
    family.signal(signal.SIGUSR2)
    eventually(lambda: family.log_text.count("greenlets and loop state") == 3)
    before = moved.read_text(encoding="utf-8")
    assert before.count("greenlets and loop state") == 3
    assert re.search(
        rf"imserver\.gateway\.supervisor\S*: node {names[1]} \(pid \d+\) is serving\n",
        before,
    )
    with crowd(family, 10, 4096) as clients:
        family.signal(signal.SIGTERM)
        for client in clients:
            assert client.recv(4) == b"\x88\x0c\x03\xe9"  # 1001, "going away"
            client.close()
    assert family.process.wait(100) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(family.ws)
    assert family.log_text.count("imserver.gateway.node.serve: stopped node=") == 3
    for text in (family.output, family.log_text):
        assert "SIGTERM: draining 3 nodes\n" in text
        assert text.endswith("all nodes have ended\n")
    dumped = re.compile(r"^\d{4}-.*", re.MULTILINE)
    for line in (
        each for text in (before, family.log_text) for each in dumped.findall(text)
    ):
        assert any(f"node={name} " in f"{line} " for name in names) == (
            "imserver.gateway.supervisor" not in line
        ), line
    assert largest < 0.5


# --- one bad child ------------------------------------------------------------


@pytest.mark.full("processes")
def test_handshakes_in_the_queue_of_a_killed_node_are_served_by_the_next(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=2)
    stopped = family.pids[0]
    pause(stopped)
    clients = [upgraded(family.ws) for _ in range(60)]
    kill(stopped)
    family.wait_until_replaced(stopped)
    assert [answer(client) for client in clients] == [ACCEPTED] * 60
    assert re.search(
        rf"\(pid {stopped}\) ended by SIGKILL, after \S+ s; restarting in \S+ s\n",
        family.output,
    )


HANG_AT_SIGUSR2 = """
from gevent import monkey; monkey.patch_all()
import gevent.util
from imserver import cli
def spin_for_the_test():
    while True: pass
gevent.util.format_run_info = spin_for_the_test
cli.main()
"""


@pytest.mark.full("processes")
def test_a_node_whose_loop_hangs_shows_where_and_is_killed_but_not_after_a_long_pause_of_the_supervisor(
    start_family: StartFamily,
) -> None:
    family = start_family(
        processes=2,
        config={"server": {"hang_seconds": 1.5}},
        command=(sys.executable, "-c", HANG_AT_SIGUSR2),
    )
    spinning, other = pids = family.pids
    for pid in (family.pid, *pids):  # as when a virtual machine is suspended
        pause(pid)
    time.sleep(2.5)
    for pid in (family.pid, *pids):
        kill(pid, signal.SIGCONT)
    time.sleep(0.5)
    assert family.pids == pids
    assert "blocked" not in family.output
    kill(spinning, signal.SIGUSR2)
    began = time.monotonic()
    family.wait_until_replaced(spinning)
    assert time.monotonic() - began > 1.2
    assert re.search(
        rf"\(pid {spinning}\): event loop blocked for \d s, killing it", family.log_text
    )
    assert re.search(
        r"most recent call first\):\n +File .* in spin_for_the_test\n", family.output
    )
    assert other in family.pids
    assert family.get("/health")[0] == 200
    kill(other, signal.SIGSTOP)
    family.signal(signal.SIGINT)
    assert family.process.wait(100) == 1, "it does not hold up the end for ever"
    assert "drain ended by SIGKILL" in family.output


@pytest.mark.full("processes")
def test_a_node_that_cannot_start_is_tried_with_growing_pauses_as_others_serve(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=2)
    secret = family.folder / "data" / "secret"
    good = secret.read_bytes()
    broken = family.pids[0]
    secret.write_bytes(b"short\n")
    kill(broken)
    eventually(lambda: family.output.count("it needs at least 32, after") >= 2)
    for _ in range(5):
        assert family.get("/health")[0] == 200
    pauses = [
        float(pause) for pause in re.findall(r"restarting in (\S+) s", family.output)
    ]
    assert all(pause <= 2**number for number, pause in enumerate(pauses))
    secret.write_bytes(good)
    family.wait_until_replaced(broken)


@pytest.mark.full("processes")
def test_a_broadcast_waits_for_the_supervisor_and_reaches_all_clients_of_nodes_that_are_not_killed_meanwhile(
    start_family: StartFamily,
) -> None:
    constants = {
        "imserver.gateway.transport.outbox.BULK_CONNECTIONS": 4,
        "imserver.gateway.transport.bulk_permits.WAIT_SECONDS": 600,
        "imserver.gateway.supervisor.supervisor.MANY_NODES": 0,
    }
    quiet = {"hub": {"notice_members": 0}}
    family = start_family(processes=2, config=quiet, command=with_constants(constants))
    with ExitStack() as stack:
        clients = [
            stack.enter_context(logged_in(family.ws, f"u{n}", 101)) for n in range(60)
        ]
        pause(family.pid)
        stack.callback(family.signal, signal.SIGCONT)
        back_end = stack.enter_context(socket.create_connection(family.http))
        fields = {"appID": 101, "userID": "boss", "msgID": "all", "message": "to all"}
        back_end.sendall(form_request("/user/sendMessageAll", fields))

        def came(number: int) -> bool:
            send_message(family.http, 101, f"u{number}", "to one")
            return (
                clients[number].push("msg").json["response"]["data"]["msg"] == "to all"
            )

        # on both nodes, or one of them has not heard of it yet
        for number in range(20):
            eventually(lambda number=number: came(number))
        others = clients[20:]
        assert not any(select_readable(client.sock, 0.0) for client in others)
        kill(family.pids[0])
        family.signal(signal.SIGCONT)
        reached = ended = 0
        for client in others:
            try:
                reached += (
                    client.push("msg").json["response"]["data"]["msg"] == "to all"
                )
            except Ended:
                ended += 1
        assert (reached > 0, ended > 0, reached + ended) == (True, True, 40)


def test_a_rolling_restart_replaces_all_nodes_one_by_one_and_refuses_nobody(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=3)
    old = family.pids
    with Stream(family) as stream:
        stream.wait_for(50)
        family.signal(signal.SIGURG)
        new = family.wait_until_replaced(*old)
        eventually(lambda: "rolling restart: done" in family.output)
        stream.wait_for(50)
    assert stream.seen.keys() == {"101"}, stream.seen
    events = re.findall(r"\(pid (\d+)\)(?:: (draining)| (is serving))", family.output)[
        3:
    ]
    steps = zip(old, new, strict=True)
    expected = [
        step
        for before, after in steps
        for step in ((before, "draining"), (after, "is serving"))
    ]
    assert [
        (int(pid), draining or serves) for pid, draining, serves in events
    ] == expected


@pytest.mark.full("processes")
def test_a_rolling_restart_takes_new_settings_and_stops_at_a_node_that_fails(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=2)
    old = family.pids
    family.config_file.write_text("app: [", encoding="utf-8")
    family.signal(signal.SIGURG)
    eventually(lambda: "settings are unchanged: " in family.output)
    assert ("rolling" in family.output, family.pids) == (False, old)
    family.configure(
        merged(family.needed, {"app": {"http_port": 1}, "log": {"requests": False}})
    )
    family.signal(signal.SIGURG)
    first, second = family.wait_until_replaced(*old)
    assert "a full restart is needed for app.http_port" in family.log_text
    before = family.log_text.count("GET /none")
    assert family.get("/none")[0] == 404
    eventually(lambda: "rolling restart: done" in family.output)
    (family.folder / "data" / "secret").write_bytes(b"short\n")
    family.signal(signal.SIGURG)
    eventually(lambda: "rolling restart stopped: node 127.0.0.1" in family.output)
    assert (alive(first), alive(second)) == (False, True)
    assert family.get("/health")[0] == 200
    family.stop()
    assert family.log_text.count("GET /none") == before


# --- signals ------------------------------------------------------------------


@pytest.mark.full("processes")
def test_signals_during_the_start_wait_until_the_nodes_serve(
    start_family: StartFamily,
) -> None:
    family = start_family(
        processes=2, command=(sys.executable, "-c", SIGNALS_DURING_THE_START)
    )
    eventually(lambda: "SIGHUP: settings reloaded" in family.log_text)
    eventually(lambda: family.log_text.count("greenlets and loop state") >= 2)
    assert len(family.pids) == 2


@pytest.mark.full("processes")
def test_a_second_signal_ends_all_at_once(start_family: StartFamily) -> None:
    family = start_family(processes=2, config={"drain": {"delay_seconds": 60}})
    family.signal(signal.SIGTERM)
    eventually(
        lambda: (
            family.log_text.count("imserver.gateway.node.serve: SIGTERM: draining") == 2
        )
    )
    family.signal(signal.SIGINT)
    assert family.process.wait(100) == 128 + signal.SIGINT
    assert family.log_text.count("SIGTERM again: stopping at once") == 2


@pytest.mark.full("processes")
def test_when_the_terminal_is_gone_all_nodes_drain(
    redis_url: str, tmp_path: Path
) -> None:
    settings = {
        "IMSERVER_APP_RPC_PORT": free_ports(4),
        "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
        "IMSERVER_DRAIN_CLOSE_SECONDS": 0,
        "IMSERVER_REDIS_URL": redis_url,
        "IMSERVER_SERVER_PROCESSES": 2,
    }
    environment = [f"{name}={value}" for name, value in settings.items()]
    with in_terminal(tmp_path, "env", *environment) as (process, master):
        os.close(master)
        assert process.wait(100) == 0
    log = (tmp_path / "server.log").read_text(encoding="utf-8")
    assert "SIGHUP: draining 2 nodes" in log
    assert log.endswith("all nodes have ended\n")


@pytest.mark.full("processes")
def test_the_nodes_of_a_supervisor_that_is_killed_drain_and_free_the_ports(
    start_family: StartFamily,
) -> None:
    family = start_family(processes=2)
    pids = family.pids
    with crowd(family, 1, 4096) as (client,):
        family.process.kill()
        family.process.wait()
        assert client.recv(4)[:1] == b"\x88"
    eventually(lambda: not any(alive(pid) for pid in pids))
    assert family.log_text.count("the supervisor process has ended") == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(family.http)
