"""Where Redis may be: URLs and addresses, Sentinel and Cluster with real
servers, TLS, users."""

import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent import socket as green
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway.cluster.history import Retained
from imserver.gateway.cluster.redis.connection import (
    DirectSocket,
    ErrorReply,
    RedisUnavailable,
    TrackedKeys,
    address_of,
)
from imserver.gateway.cluster.redis.masters import open_link, slot_of
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.registry import RegistryCounters, ReportedMembers, Session
from imserver.gateway.config.settings import ClusterSettings, RedisSettings
from imserver.gateway.errors import StartError
from imserver.gateway.model import ChannelPart, Event
from tests.gateway.cluster.conftest import PATIENT, QUIET, StartNode, StartServer
from tests.gateway.cluster.redis_server import RedisServer, form_cluster
from tests.integration.test_webhooks import certificate_of_loopback
from tests.ports import free_ports
from tests.support import until

OTHERS = {"addr": "here:1", "username": "me", "password": "pw", "db": 4}
CLUSTERED = ("--cluster-enabled", "yes")
OVER_OTHERS = "redis://you:secret@there/1"
OF_MAIN = "/main/1?sentinel_username=s&sentinel_password=t"


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "options"),
    [
        ("redis://cache", "single", "cache:6379", {}),
        ("redis://cache:7000/3", "single", "cache:7000", {"db": 3}),
        ("redis://[::1]:7000", "single", "::1:7000", {}),
        (
            "rediss://me:p%40ss@cache?ssl_ca_certs=/ca.pem",
            "single",
            "cache:6379",
            {"username": "me", "password": "p@ss", "ssl_ca_certs": "/ca.pem"},
        ),
        (
            "unix:///run/redis.sock?db=2&password=pw",
            "single",
            "",
            {"path": "/run/redis.sock", "db": 2, "password": "pw"},
        ),
        (
            f"redis+sentinel://:pw@a,b:7001,[::1]:7002{OF_MAIN}",
            "sentinel",
            "a:26379 b:7001 ::1:7002",
            {"password": "pw", "db": 1},
        ),
        (
            "rediss+cluster://me:pw@a:7001,b",
            "cluster",
            "a:7001 b:6379",
            {"username": "me", "password": "pw"},
        ),
        ("", "single", "here:1", {"username": "me", "password": "pw", "db": 4}),
        (
            OVER_OTHERS,
            "single",
            "there:6379",
            {"username": "you", "password": "secret", "db": 1},
        ),
    ],
)
def test_an_address_is_read(
    url: str, kind: str, hosts: str, options: dict[str, Any]
) -> None:
    got = address_of(
        RedisSettings(**(OTHERS if url in ("", OVER_OTHERS) else {}), url=url)
    )
    assert (got.kind, " ".join(f"{host}:{port}" for host, port in got.hosts)) == (
        kind,
        hosts,
    )
    assert got.options == options
    assert options.get("password", "secret") not in got.text, "which is in logs"
    assert got.tls == url.startswith("rediss")
    of_sentinels = (
        ("main", {"username": "s", "password": "t"}) if kind == "sentinel" else ("", {})
    )
    assert (got.service, got.sentinel_options) == of_sentinels


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (
            {"url": "redis+sentinel://a:1"},
            "redis.url: expected the name of the master behind the sentinels",
        ),
        (
            {"url": "redis://a,b"},
            "redis.url: several servers need redis+sentinel:// or redis+cluster://",
        ),
        (
            {"url": "redis://cache/x"},
            "redis.url: expected the number of a database, got 'x'",
        ),
        (
            {"url": "redis://cache:99999"},
            "redis.url: expected host:port, got 'cache:99999'",
        ),
        ({"url": "redis://"}, "redis.url: expected host:port, got ''"),
        (
            {"url": "redis+cluster://a:1/2"},
            "redis.url: a Redis Cluster has no numbered databases",
        ),
        ({"addr": "a:b:c"}, "redis.addr: expected host:port"),
        (
            {"url": "rediss://a?ssl_cert_reqs=no"},
            "redis.url: expected ssl_cert_reqs=required, optional or",
        ),
        (
            {"url": "rediss://a?ssl_validate_ocsp=1"},
            "redis.url: ssl_validate_ocsp=1 is no option",
        ),
    ],
)
def test_a_mistake_is_reported(given: dict[str, Any], output: str) -> None:
    with pytest.raises(StartError) as caught:
        address_of(RedisSettings(**given))
    assert str(caught.value).startswith(output)


# --- real ones ----------------------------------------------------------------


def works(start_node: StartNode, settings: RedisSettings) -> None:
    """Two nodes do everything once."""
    patient = ClusterSettings(lease_seconds=60, renew_seconds=0.2, redis_seconds=20)
    replaced: list[int] = []
    a = start_node(
        settings,
        1,
        patient,
        events=replace(
            QUIET, replaced=lambda app, user, session: replaced.append(session)
        ),
    )
    b = start_node(settings, 2, patient)
    assert a.healthy()
    assert b.healthy()
    assert set(b.leases()) == {a.lease.epoch, b.lease.epoch}
    sessions = [Session("101", f"user{i}") for i in range(50)]
    logins = [gevent.spawn(a.register, session) for session in sessions]
    gevent.joinall(logins, raise_error=True)
    assert all(login.value.addressed for login in logins)
    found = b.find("101", [session.user for session in sessions])
    assert [ref.id for refs in found for ref in refs] == [
        session.id for session in sessions
    ]
    channels = [f"channel{i}" for i in range(50)]
    assert (
        a.report_channels([ReportedMembers("101", channel, 2) for channel in channels])
        is not None
    )
    assert b.find_channels("101", channels) == [{a.lease.epoch: 2}] * 50
    assert (
        a.report_channels([ReportedMembers("101", channel, 0) for channel in channels])
        is not None
    )
    assert b.find_channels("101", channels) == [{}] * 50
    newer = Session("101", "user0")
    registration = b.register(newer)
    assert [ref.id for ref in registration.replaced] == [sessions[0].id]
    until(lambda: replaced == [sessions[0].id])
    answer = a.find_and_claim("101", "user0", "m1")
    assert answer[1].state == "mine"
    a.settle(answer[1], True)
    until(lambda: (b.claim(["m1"]) or [answer[1]])[0].state == "repeat")
    assert [a.unregister(session) for session in sessions[:2]] == [False, True]
    assert len(list(a.reregister(sessions[2:]))) == 48
    assert a.counters.errors == b.counters.errors == 0


def test_a_numbered_database_by_a_unix_socket(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start_server("--unixsocket", "redis.sock")
    works(start_node, RedisSettings(url=f"unix://{server.folder}/redis.sock?db=3"))
    for number, is_used in ((3, True), (0, False)):
        with server.client(db=number) as client:
            assert (client.dbsize() > 0) is is_used


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    servers = [
        RedisServer(
            tmp_path_factory.mktemp("cluster"),
            *CLUSTERED,
            "--cluster-node-timeout",
            "60000",
        )
        for _ in range(2)
    ]
    form_cluster(servers)
    yield servers
    for server in servers:
        server.kill()


@pytest.mark.full("processes")
def test_a_redis_cluster(cluster: list[RedisServer], start_node: StartNode) -> None:
    works(start_node, RedisSettings(url=f"redis+cluster://127.0.0.1:{cluster[1].port}"))
    for server in cluster:
        with server.client() as client:
            assert len(client.keys("imserver:users:*")) > 5, (
                "users are spread over the servers"
            )

    def keys() -> list[str]:
        return [
            key
            for server in cluster
            for key in server.client().keys("acc:user:online:101_user2")
        ]

    until(keys)


@pytest.mark.full("processes")
def test_nodes_share_histories_in_a_redis_cluster_and_an_erasure_reaches_all_its_masters(
    cluster: list[RedisServer], start_node: StartNode
) -> None:
    settings = RedisSettings(url=f"redis+cluster://127.0.0.1:{cluster[0].port}")
    a = start_node(settings, 1)
    b = start_node(settings, 2)
    channels = [f"room {number}" for number in range(50)]
    for offset, node in enumerate((a, a, b, a), 1):
        for channel in channels:
            event = Event("msg", "ann", "x", channel=ChannelPart(channel))
            (stored,) = (
                node.history.append_each("101", [Retained(channel, event, 10, 60)])
                or ()
            )
            assert stored.channel.offset == offset
    assert a.history.positions("101", channels) == b.history.positions("101", channels)
    assert a.history.erase_user(
        "101", "ann", "deleted:1", lambda channel: channel == channels[0]
    )
    pages = [b.history.read("101", channel, limit=-1) for channel in channels]
    senders = [
        [each.sender for each in page.publications]
        for page in pages
        if page is not None
    ]
    assert senders == [[], *[["deleted:1"] * 4] * 49]


@pytest.mark.full("faults")
def test_a_redis_cluster_away_and_back(
    cluster: list[RedisServer], start_node: StartNode
) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    node = start_node(RedisSettings(url=url), 1, replace(PATIENT, lease_seconds=30.0))
    users = [f"user{i}" for i in range(50)]
    assert len(list(node.reregister([Session("101", user) for user in users]))) == 50
    until(lambda: all(node.find("101", users) or [()]))
    for server in cluster:
        server.pause()
    began = monotonic()
    assert node.find("101", users) is None
    assert monotonic() - began < 40, "not until it is back"
    assert not node.healthy()
    for server in cluster:
        server.resume()
    until(lambda: node.healthy() and all(node.find("101", users) or [()]))


def test_commands_follow_their_slot_to_another_master_in_their_order(
    cluster: list[RedisServer],
) -> None:
    here, there = (server.client() for server in cluster)
    slot = slot_of(("GET", "{tag}"))
    if slot >= 16_384 // 2:
        here, there = there, here
    ids = [client.execute_command("CLUSTER", "MYID") for client in (here, there)]
    link = open_link(
        address_of(RedisSettings(url=f"redis+cluster://127.0.0.1:{cluster[0].port}")),
        20,
        RegistryCounters(),
        TrackedKeys(),
    )
    pipeline = Pipeline(link, lambda: True, lambda: None)
    pipeline.start()
    assert pipeline.probe()
    before = link.connects, link.life
    stop = Flag()

    def write(key: str) -> int:
        """Posted and awaited commands of one key, one after the other."""
        number = 0
        while not stop.is_set():
            number += 2
            pipeline.post(("SET", key, number - 1))
            assert pipeline.execute([("SET", key, number), ("GET", key)]) == [
                b"OK",
                b"%d" % number,
            ]
            assert pipeline.execute([("GET", f"other{number}"), ("GET", key)]) == [
                None,
                b"%d" % number,
            ]
        return number

    writers = [gevent.spawn(write, f"{{tag}}{number}") for number in range(20)]
    for _ in range(3):
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        # ASK
        assert pipeline.execute([("SET", "{tag}new", 1), ("GET", "{tag}new")]) == [
            b"OK",
            b"1",
        ]
        port = there.connection_pool.connection_kwargs["port"]
        while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 3):
            here.execute_command(
                "MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys
            )
            gevent.sleep(0.01)
        for client in (there, here):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        # MOVED
        assert pipeline.execute([("GET", "{tag}new"), ("DEL", "{tag}new")]) == [b"1", 1]
        here, there, ids = there, here, ids[::-1]
    stop.set()
    last = [writer.get() for writer in writers]
    assert pipeline.execute([("GET", f"{{tag}}{n}") for n in range(20)]) == [
        b"%d" % each for each in last
    ]
    assert (link.connects, link.life) == before, "nothing has to be registered again"
    pipeline.stop()


@pytest.mark.parametrize("way", ["rediss", "rediss+cluster"])
def test_tls_with_a_password(
    start_server: StartServer, start_node: StartNode, tmp_path: Path, way: str
) -> None:
    certificate, key = certificate_of_loopback(tmp_path)
    files = {"cert": certificate, "key": key, "ca-cert": certificate}
    port = free_ports(beside=10_000)  # the nodes of a cluster meet there
    server = start_server(
        "--tls-port",
        str(port),
        "--tls-auth-clients",
        "no",
        *(
            word
            for name, file in files.items()
            for word in (f"--tls-{name}-file", str(file))
        ),
        *((*CLUSTERED, "--tls-cluster", "yes") if "cluster" in way else ()),
    )
    if "cluster" in way:
        form_cluster([server])
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "im", "on", ">p@ss", "~*", "+@all")
        client.config_set("requirepass", "right")
    url = f"{way}://im:p%40ss@127.0.0.1:{port}?ssl_ca_certs={certificate}"
    works(start_node, RedisSettings(url=url))

    link = open_link(address_of(RedisSettings(url=url)), 20, RegistryCounters())
    link.exchange([("EXISTS", "a")])
    large = bytes(range(256)) * 4096
    ended = list[Any]()  # many records of TLS
    assert link.begin(
        [("SET", "a", large), ("GET", "a"), ("STRLEN", "a")], ended.append
    )
    until(lambda: ended)
    assert ended == [[b"OK", large, len(large)]]
    link.close()
    for wrong, why in (
        (url.replace("p%40ss", "p"), "invalid username-password"),
        (url.partition("?")[0], "CERTIFICATE_VERIFY_FAILED"),
    ):
        link = open_link(address_of(RedisSettings(url=wrong)), 20, RegistryCounters())
        with pytest.raises(RedisUnavailable, match=why):
            link.exchange([("GET", "a")])
    unchecked = f"{url.partition('?')[0]}?ssl_cert_reqs=none"
    link = open_link(address_of(RedisSettings(url=unchecked)), 20, RegistryCounters())
    assert link.exchange([("STRLEN", "a")]) == [len(large)]
    link.close()


@pytest.fixture(scope="module")
def sentinel(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[list[RedisServer], RedisServer]]:
    """A master and its replica, and one sentinel that watches them."""
    master = RedisServer(tmp_path_factory.mktemp("master"))
    replica = RedisServer(
        tmp_path_factory.mktemp("replica"), "--replicaof", "127.0.0.1", str(master.port)
    )
    folder = tmp_path_factory.mktemp("sentinel")
    watcher = Sentinel(folder, master.port)
    with master.client() as client, watcher.client() as watching:
        until(lambda: client.info("replication")["connected_slaves"] == 1)
        until(lambda: watching.execute_command("SENTINEL", "REPLICAS", "main"))
    yield [master, replica], watcher
    for server in (watcher, replica, master):
        server.kill()


class Sentinel(RedisServer):
    def __init__(self, folder: Path, master_port: int) -> None:
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f"sentinel monitor main 127.0.0.1 {master_port} 1\n"
            "sentinel down-after-milliseconds main 60000\n"
            "sentinel failover-timeout main 3000\n"
        )
        super().__init__(folder)

    def command(self) -> list[str]:
        return [
            super().command()[0],
            str(self._config),
            "--sentinel",
            "--port",
            str(self.port),
        ]


def test_a_sentinel_that_does_not_answer_leaves_time_for_the_next(
    sentinel: tuple[list[RedisServer], RedisServer],
) -> None:
    _, watcher = sentinel
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        first = silent.getsockname()[1]
        settings = RedisSettings(
            url=f"redis+sentinel://127.0.0.1:{first},127.0.0.1:{watcher.port}/main"
        )
        wire = open_link(address_of(settings), 6, RegistryCounters())
        assert wire.exchange([("SET", "a", 1)]) == [b"OK"]
        wire.close()


def test_sentinels_name_the_master_and_the_next_one_after_it_died(
    sentinel: tuple[list[RedisServer], RedisServer], start_node: StartNode
) -> None:
    (master, replica), watcher = sentinel
    settings = RedisSettings(
        url=f"redis+sentinel://127.0.0.1:{free_ports()},127.0.0.1:{watcher.port}/main"
    )
    works(start_node, settings)
    patient = ClusterSettings(lease_seconds=60, renew_seconds=0.2)
    sessions = [Session("101", f"held{i}") for i in range(50)]
    calls: list[bool] = []

    def reregister(everything: bool) -> None:
        calls.append(everything)
        list(node.reregister(sessions))

    node = start_node(
        settings, 3, patient, events=replace(QUIET, reregister=reregister)
    )
    for session in sessions:
        node.register(session)
    master.kill()
    with watcher.client() as watching:
        watching.execute_command(
            "SENTINEL", "SET", "main", "down-after-milliseconds", "300"
        )
    until(lambda: True in calls and node.healthy())
    until(lambda: all(node.find("101", [session.user for session in sessions]) or [()]))
    with replica.client() as client:
        assert client.info("replication")["role"] == "master"


def test_a_wire_reconnects_to_a_server_that_was_restarted(
    own_server: RedisServer,
) -> None:
    counters = RegistryCounters()
    wire = open_link(address_of(own_server.settings), 30, counters)
    assert wire.exchange([("SET", "a", 1), ("GET", "a")]) == [b"OK", b"1"]
    own_server.kill()
    own_server.start()
    assert wire.exchange([("GET", "a")]) == [None]
    assert (wire.connects, counters.errors) == (2, 0)
    wire.close()


def test_an_exchange_that_was_begun_ends_with_replies_or_has_to_be_repeated(
    own_server: RedisServer,
) -> None:
    link = open_link(address_of(own_server.settings), 30, RegistryCounters())
    ended: list[Any] = []
    # it would have to connect first
    assert not link.begin([("GET", "a")], ended.append)
    link.exchange([("SET", "a", 1)])

    # the kernel takes it in parts, and returns it in parts
    large = bytes(range(256)) * 65_536
    assert link.begin(
        [("SET", "b", large), ("GET", "a"), ("LPUSH", "a", 1), ("GET", "b")],
        ended.append,
    )
    until(lambda: ended)
    stored, number, refused, returned = ended.pop()
    assert (stored, number, type(refused), returned == large) == (
        b"OK",
        b"1",
        ErrorReply,
        True,
    )

    assert link.begin([("EVALSHA", "0" * 40, 0), ("GET", "a")], ended.append)
    until(lambda: ended)
    assert ended.pop() is None  # the script is not loaded
    link.exchange([("GET", "a")])
    own_server.kill()
    assert link.begin([("GET", "a")], ended.append)
    until(lambda: ended)
    assert ended == [None]
    assert not link.begin([("GET", "a")], ended.append)
    link.close()


@pytest.mark.full("waits")
def test_replies_that_were_there_in_time_count_although_the_loop_was_late(
    own_server: RedisServer,
) -> None:
    counters = RegistryCounters()
    ended = list[Any]()
    link = open_link(address_of(own_server.settings), 5, counters)
    link.exchange([("SET", "a", 1)])
    assert link.begin([("GET", "a")], ended.append)
    monkey.get_original("time", "sleep")(5.5)  # holds the loop
    until(lambda: ended)
    assert (ended, counters.timeouts) == ([[b"1"]], 0)
    link.close()


def test_a_command_that_the_kernel_does_not_take_at_once_is_sent_whole() -> None:
    near, far = green.socketpair()
    sender = DirectSocket(near.family, near.type, near.proto, near.detach())
    data = bytes(range(256)) * 16_384
    sending = gevent.spawn(sender.sendall, data)
    received = bytearray()
    while len(received) < len(data):
        received += far.recv(1 << 20)
    sending.get()
    assert received == data
    sender.close()
    far.close()
