"""Redis stalled, restarted, with faults of its own: what one node makes of it;
see also tests/faults."""

from collections.abc import Callable

import gevent
import pytest
from msgspec.structs import replace

from imserver.gateway.cluster.redis.masters import slot_of
from imserver.gateway.cluster.redis.presence import bucket_of
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import LEASES
from imserver.gateway.cluster.registry import RegistryEvents, Session
from imserver.gateway.config.settings import RedisSettings
from imserver.gateway.errors import StartError
from tests.gateway.cluster.conftest import PATIENT, QUIET, StartNode, StartServer
from tests.gateway.cluster.redis_server import RedisServer, form_cluster
from tests.support import until

pytestmark = pytest.mark.full("faults")


class Holder:
    """A node with sessions, which does what its owner shall do: registers them
    again when it is asked to."""

    def __init__(self, node: RedisRegistry) -> None:
        self.node = node
        self.sessions: list[Session] = []

    def reregister(self, everything: bool) -> None:
        pending = [
            session
            for session in self.sessions
            if everything or not self.node.registered(session)
        ]
        for session, registration in self.node.reregister(pending):
            if not registration.addressed:
                self.sessions.remove(session)

    def register(self, user: str) -> Session:
        """Log in, whatever the registry says."""
        session = Session("101", user)
        self.sessions.append(session)
        self.node.register(session)
        return session

    def unregister(self, session: Session) -> bool | None:
        self.sessions.remove(session)
        return self.node.unregister(session)

    def whole(self) -> bool:
        """Whether the registry knows exactly what is held."""
        found = self.node.find("101", [session.user for session in self.sessions])
        return found is not None and [[ref.id for ref in refs] for refs in found] == [
            [session.id] for session in self.sessions
        ]


@pytest.fixture
def start_holder(start_node: StartNode) -> Callable[..., Holder]:
    def start(server: RedisServer | RedisSettings, number: int = 1) -> Holder:
        holders: list[Holder] = []

        def prepare(node: RedisRegistry) -> RegistryEvents:
            holders.append(Holder(node))
            return replace(QUIET, reregister=holders[0].reregister)

        start_node(server, number, PATIENT, prepare=prepare)
        return holders[0]

    return start


def test_what_was_on_its_way_when_redis_stalled_leaves_no_session(
    own_server: RedisServer, start_holder: Callable[..., Holder]
) -> None:
    holder = start_holder(own_server)
    own_server.pause()
    # In the socket already: Redis will execute it when it wakes, and nobody
    # hears the answer.
    session = holder.register("ann")
    assert session.number == 0
    assert holder.unregister(session) is None
    own_server.resume()
    until(lambda: holder.node.healthy() and holder.node.find("101", ["ann"]) == [()])
    gevent.sleep(0.3)
    assert holder.node.find("101", ["ann"]) == [()]


def test_a_claim_that_redis_took_without_saying_so_is_that_of_the_repeat(
    own_server: RedisServer, start_holder: Callable[..., Holder]
) -> None:
    node = start_holder(own_server).node
    other = start_holder(own_server, 2).node
    own_server.pause()
    try:
        # In the socket already: Redis will carry it out when it wakes.
        assert node.claim(["m1", "m2"]) is None
        assert node.find_and_claim("101", "ann", "m3") is None
    finally:
        own_server.resume()

    def states(of: RedisRegistry) -> list[str]:
        return [claim.state for claim in of.claim(["m1", "m2"]) or ()]

    until(lambda: states(other) == ["pending", "pending"])
    until(node.healthy)
    claims = node.claim(["m1", "m2"]) or []
    assert [claim.state for claim in claims] == ["mine", "mine"]
    for claim in claims:
        node.settle(claim, claim.key == "m1")
    until(lambda: states(other) == ["repeat", "mine"])


def test_a_session_whose_registration_fails_is_registered_when_it_can_be(
    server: RedisServer, start_holder: Callable[..., Holder]
) -> None:
    holder = start_holder(server)
    bad = holder.register("ann")
    good = holder.register("bob")
    generation = holder.node.generation()
    key = bucket_of("101", b"ann")
    with server.client() as client:
        client.flushall()
        client.lpush(key.decode(), "x")
        until(
            lambda: (
                holder.node.generation() > generation and holder.node.registered(good)
            )
        )
        assert not holder.node.registered(bad)
        client.delete(key.decode())
    until(lambda: holder.node.registered(bad) and holder.whole())


def test_a_flood_of_ends_that_redis_did_not_get_gives_a_new_epoch(
    own_server: RedisServer,
    start_holder: Callable[..., Holder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imserver.gateway.cluster.redis.registry._UNREPORTED_LIMIT", 10)
    holder = start_holder(own_server)
    sessions = [holder.register(f"user{i}") for i in range(30)]
    epoch = holder.node.lease.epoch
    own_server.pause()
    for session in sessions[:20]:
        assert holder.unregister(session) is None
    own_server.resume()
    until(lambda: holder.node.lease.epoch > epoch)
    until(holder.whole)
    until(lambda: holder.node.find("101", [f"user{i}" for i in range(20)]) == [()] * 20)


def test_a_wrong_password_is_reported_at_start_and_a_user_of_redis_needs_these_keys_only(
    own_server: RedisServer, start_node: StartNode
) -> None:
    where = f"127.0.0.1:{own_server.port}"
    with own_server.client() as client:
        keys = [
            "~imserver:*",
            "~{imserver}:*",
            "~acc:*",
            "+@all",
            "-@dangerous",
            "+info",
        ]
        client.execute_command("ACL", "SETUSER", "im", "on", ">pass", *keys)
        client.execute_command("ACL", "SETUSER", "poor", "on", ">pass", "~x:*", "+@all")
        client.config_set("requirepass", "right")
    with pytest.raises(StartError, match=rf"^Redis at redis://{where}: "):
        start_node(RedisSettings(addr=where, password="wrong"))
    assert start_node(RedisSettings(addr=where, password="right"), 3).healthy()
    node = start_node(RedisSettings(url=f"redis://im:pass@{where}"))
    session = Session("101", "ann")
    assert node.register(session) is not None
    assert node.unregister(session) is True
    with pytest.raises(StartError, match="command refused"):
        start_node(RedisSettings(addr=where, username="poor", password="pass"), 2)


def test_another_secret_that_comes_with_redis_keeps_a_running_node_out(
    own_server: RedisServer, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.kill()
    lonely = start_node(own_server, 1, lease={"fingerprint": "f2"})
    lonely.recovery.stop()
    own_server.start()
    other = start_node(own_server, 2)
    lonely.recovery.start()
    until(lambda: "another secret than this node" in caplog.text)
    gevent.sleep(0.3)
    assert caplog.text.count("another secret than this node") == 1, "told once"
    assert lonely.lease.epoch == 0
    assert not lonely.healthy()
    assert set(other.leases()) == {other.lease.epoch}


def test_one_master_of_a_redis_cluster_dies_and_its_replica_takes_over(
    start_server: StartServer, start_holder: Callable[..., Holder]
) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
    masters = [start_server(*options) for _ in range(3)]
    replica = start_server(*options)
    form_cluster(masters)
    lives = slot_of(("GET", LEASES)) * 3 // 16_384
    dying = masters[lives - 1]
    with dying.client() as client, replica.client() as follower:
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", replica.port)
        id = client.execute_command("CLUSTER", "MYID")
        until(lambda: id in str(follower.execute_command("CLUSTER", "NODES")))
        until(lambda: follower.execute_command("CLUSTER", "REPLICATE", id) == "OK")
        until(lambda: follower.info("replication")["master_link_status"] == "up")

    settings = RedisSettings(
        url=f"redis+cluster://127.0.0.1:{dying.port},127.0.0.1:{masters[lives].port}"
    )
    holder = start_holder(settings)
    node = holder.node
    users = [f"user{number}" for number in range(60)]
    for user in users:
        holder.register(user)
    assert holder.whole()
    generation = node.generation()

    def reached() -> list[str]:
        return [user for user in users if node.find("101", [user])]

    dying.kill()
    until(lambda: len(reached()) < 60)
    others = reached()
    assert 20 <= len(others) <= 50, "those of the other masters"
    assert node.healthy()
    assert node.find("101", users) is None
    gevent.sleep(2.5)  # looks after the master twice
    assert (reached(), node.generation()) == (others, generation), (
        "nothing is registered again meanwhile"
    )

    with replica.client() as follower:
        until(
            lambda: follower.execute_command("CLUSTER", "FAILOVER", "TAKEOVER") == "OK"
        )
    until(lambda: node.generation() == generation + 1)  # the last writes may be lost
    until(holder.whole)
