"""Redis loses data: until all nodes have registered again, nobody whom one of
them may have is absent."""

from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway.cluster.redis.masters import slot_of
from imserver.gateway.cluster.redis.presence import bucket_of
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import LEASES
from imserver.gateway.cluster.registry import RegistryEvents, Session, SessionRef
from imserver.gateway.config.settings import RedisSettings
from tests.gateway.cluster.conftest import PATIENT, QUIET, StartNode, StartServer
from tests.gateway.cluster.redis_server import RedisServer, form_cluster
from tests.support import until

MASTERS = 3
AS_MASTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
USERS = [f"user{number}" for number in range(12)]


class Holder:
    """A node with one session for each user, which registers them again when it
    may."""

    def __init__(self, node: RedisRegistry) -> None:
        self.node = node
        self.sessions = {user: Session("101", user) for user in USERS}
        self.may_register = Flag()
        self.may_register.set()

    def reregister(self, everything: bool) -> None:
        def run() -> None:
            self.may_register.wait()
            for _ in self.node.reregister(list(self.sessions.values())):
                pass

        gevent.spawn(run)


def seen(node: RedisRegistry, users: list[str]) -> list[str]:
    """What a node says of users: ``there``, ``absent`` or ``unknown``."""
    found = node.find("101", users)
    if found is None:
        return ["unknown"] * len(users)
    return [_word(refs) for refs in found]


def _word(refs: tuple[SessionRef, ...]) -> str:
    if any(ref.id for ref in refs):
        return "there"
    return "unknown" if refs else "absent"


class LossyRedis:
    """Redis, a node with users, and one that looks for them. ``lost``: the
    users whose data Redis loses."""

    def __init__(
        self,
        servers: list[RedisServer],
        settings: RedisSettings,
        start_node: StartNode,
        fails: RedisServer,
    ) -> None:
        self.server = fails
        self.looker = start_node(settings, 1, PATIENT)
        holders: list[Holder] = []

        def prepare(node: RedisRegistry) -> RegistryEvents:
            holders.append(Holder(node))
            return replace(QUIET, reregister=holders[0].reregister)

        start_node(settings, 2, PATIENT, prepare=prepare)
        self.holder = holders[0]
        for session in self.holder.sessions.values():
            assert self.holder.node.register(session).addressed
        self.lost = [
            user
            for user in USERS
            if _master_of(user, len(servers)) == servers.index(fails)
        ]
        assert self.lost
        until(lambda: len(self.looker.leases()) == 2)
        until(lambda: self.holder.node.lease in self.looker.leases().values())


def _master_of(user: str, masters: int) -> int:
    slot = slot_of(("GET", bucket_of("101", user.encode())))
    return next(n for n in range(masters) if slot < 16_384 * (n + 1) // masters)


def start_masters(start_server: StartServer) -> tuple[list[RedisServer], RedisSettings]:
    """The masters of a Redis Cluster, and where nodes find it."""
    masters = [start_server(*AS_MASTER) for _ in range(MASTERS)]
    form_cluster(masters)
    hosts = ",".join(f"127.0.0.1:{master.port}" for master in masters)
    return masters, RedisSettings(url=f"redis+cluster://{hosts}")


@pytest.fixture(params=["single", "cluster", "cluster with the leases"])
def lossy(
    request: pytest.FixtureRequest, start_server: StartServer, start_node: StartNode
) -> LossyRedis:
    if request.param == "single":
        server = start_server()
        return LossyRedis([server], server.settings, start_node, server)
    masters, settings = start_masters(start_server)
    has_leases = slot_of(("GET", LEASES)) * MASTERS // 16_384
    index = (
        has_leases
        if request.param == "cluster with the leases"
        else (has_leases + 1) % MASTERS
    )
    return LossyRedis(masters, settings, start_node, masters[index])


def flush(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def restart(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("lose", [flush, restart])
def test_nobody_is_absent_before_their_node_has_registered_again(
    lossy: LossyRedis, lose: Callable[[RedisServer], None]
) -> None:
    nobody_is_absent(lossy, lose)


def test_nobody_is_absent_when_a_replica_without_the_last_writes_takes_over(
    start_server: StartServer, start_node: StartNode
) -> None:
    masters, settings = start_masters(start_server)
    replica = start_server(*AS_MASTER)
    with masters[1].client() as client, replica.client() as follower:
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", replica.port)
        id = client.execute_command("CLUSTER", "MYID")
        until(lambda: id in str(follower.execute_command("CLUSTER", "NODES")))
        until(lambda: follower.execute_command("CLUSTER", "REPLICATE", id) == "OK")
        until(lambda: follower.info("replication")["master_link_status"] == "up")
    lossy = LossyRedis(masters, settings, start_node, masters[1])

    def fail_over(master: RedisServer) -> None:
        with replica.client() as follower, master.client() as client:
            assert client.execute_command("WAIT", 1, 30_000) == 1
            master.pause()
            # In place of writes that did not arrive.
            follower.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
            for key in follower.scan_iter("imserver:users:*"):
                follower.delete(key)
            master.kill()

    nobody_is_absent(lossy, fail_over)


def nobody_is_absent(lossy: LossyRedis, lose: Callable[[RedisServer], None]) -> None:
    """Lose data of Redis. Nobody is absent before their node has registered
    again; afterwards all is true."""
    assert seen(lossy.looker, [*USERS, "nobody"]) == ["there"] * len(USERS) + ["absent"]
    lossy.holder.may_register.clear()
    statuses: set[str] = set()

    def look() -> None:
        while True:
            statuses.update(seen(lossy.looker, lossy.lost))
            gevent.sleep(0.002)

    looks = gevent.spawn(look)
    lose(lossy.server)
    assert "absent" not in seen(lossy.looker, lossy.lost), (
        "no node knows yet that data were lost"
    )
    until(lambda: lossy.looker.healthy() and lossy.holder.node.healthy())
    assert seen(lossy.looker, lossy.lost) == ["unknown"] * len(lossy.lost)
    lossy.holder.may_register.set()
    until(lambda: seen(lossy.looker, USERS) == ["there"] * len(USERS))
    until(lambda: seen(lossy.looker, ["nobody"]) == ["absent"])
    looks.kill()
    assert "absent" not in statuses
