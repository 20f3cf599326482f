"""A node in a process of its own, for tests that kill or stop it: reads orders from stdin, tells on stdout.

An order is a line of JSON ``[name, argument …]``; the answer is a line of JSON.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import json
import signal
import sys
from time import monotonic
from typing import Any, Final

import gevent
from gevent import subprocess
from gevent.fileobject import FileObject
from gevent.socket import wait_read
from msgspec.structs import replace

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import Lease, RegistryEvents, Session
from imserver.gateway.config.settings import ClusterSettings, RedisSettings
from tests.processes import die_with_parent, end, spawn
from tests.support import clean_environment

QUIET: Final = RegistryEvents(
    lambda: (), lambda everything: None, lambda app, user, session: None, lambda: None
)
"""The events of a node that does nothing."""


class Orders:
    """What a test may order."""

    def __init__(self, url: str, number: int, lease_seconds: float) -> None:
        settings = ClusterSettings(lease_seconds=lease_seconds, renew_seconds=0.1, redis_seconds=5.0)
        self.node = RedisRegistry(RedisSettings(url=url), settings, ["101"])
        self.sessions: dict[str, Session] = {}
        self.reregistered: list[bool] = []
        self.superseded: list[str] = []
        self.node.start(
            Lease(f"127.0.0.1:{9000 + 2 * number}", host="here", fingerprint="f1"),
            replace(QUIET, reregister=lambda everything: gevent.spawn(self._reregister, everything) and None),
        )

    def _reregister(self, everything: bool) -> None:
        pending = [s for s in self.sessions.values() if everything or not self.node.registered(s)]
        for session, registration in self.node.reregister(pending):
            if not registration.addressed:
                self.superseded.append(session.user)
                self.sessions.pop(session.user, None)
        self.reregistered.append(everything)

    def register(self, *users: str) -> list[bool]:
        """Log users in; whether the registry answered, for each."""
        answers = []
        for user in users:
            self.sessions[user] = session = Session("101", user)
            answers.append(self.node.register(session) is not None)
        return answers

    def state(self) -> dict[str, Any]:
        """How it is."""
        return {
            "epoch": self.node.lease.epoch,
            "healthy": self.node.healthy(),
            "restored": self.reregistered,
            "superseded": self.superseded,
            "held": sorted(self.sessions),
        }

    def find(self, *users: str) -> list[list[int]] | None:
        """The epochs of the nodes where users are."""
        found = self.node.find("101", users)
        return None if found is None else [[ref.epoch for ref in refs] for refs in found]

    def timed_find(self, *users: str) -> tuple[list[list[int]] | None, float]:
        """The same, and how many seconds it took."""
        began = monotonic()
        return self.find(*users), monotonic() - began


class NodeProcess:
    """The test's end of such a process."""

    def __init__(self, url: str, number: int, lease_seconds: float = 3.0) -> None:
        self.process = spawn(
            [sys.executable, "-m", __name__, url, str(number), str(lease_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            preexec_fn=die_with_parent,
        )

    def ask(self, *order: str) -> Any:
        """Give an order and wait for the answer. The nodes of this process go on meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        wait_read(self.process.stdout.fileno())
        return json.loads(self.process.stdout.readline())

    def unregister(self) -> None:
        """Kill it if it still runs."""
        end(self.process, signal.SIGKILL)


def main() -> None:
    """Obey until stdin ends."""
    orders = Orders(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    for line in FileObject(sys.stdin.buffer):
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(orders, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
