"""Measures a Redis Cluster of three that loses a master: ``python -m
tools.measure_master``.

A node registers users, and looks them up each second. No replica takes over.
The master of the leases lives, and the others go on without the lost slots.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import tempfile
from pathlib import Path

import gevent

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import LEASES
from imserver.gateway.cluster.registry import Session
from imserver.gateway.config.settings import ClusterSettings, RedisSettings
from tests.gateway.cluster.conftest import QUIET, lease_of
from tests.gateway.cluster.redis_server import RedisServer, form_cluster

USERS = [f"user{number}" for number in range(30)]
OPTIONS = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
SECONDS = 10


def main() -> None:
    servers = [RedisServer(Path(tempfile.mkdtemp()), *OPTIONS) for _ in range(3)]
    try:
        form_cluster(servers)
        urls = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        node = RedisRegistry(
            RedisSettings(url=f"redis+cluster://{urls}"), ClusterSettings(), ["101"]
        )
        node.start(lease_of(1), QUIET)
        for id, user in enumerate(USERS, 1):
            node.register(Session("101", user, id=id))
        with servers[0].client() as client:
            lives = (
                client.execute_command("CLUSTER", "KEYSLOT", LEASES)
                * len(servers)
                // 16_384
            )
        servers[lives - 1].kill()
        for second in range(1, SECONDS + 1):
            gevent.sleep(1)
            answered = sum(node.find("101", [user]) is not None for user in USERS)
            share, again = f"{answered} of {len(USERS)}", node.generation() - 1
            print(
                f"{second:2} s: {share} look-ups answered, {again} times all registered again"
            )
        node.stop()
    finally:
        for server in servers:
            server.kill()


if __name__ == "__main__":
    main()
