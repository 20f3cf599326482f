"""A node in a process of its own, for tests that kill or stop it: reads orders from stdin, tells on stdout.

An order is a line of JSON ``[name, argument …]``; the answer is a line of JSON.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import json
import sys
from time import monotonic
from typing import Any

import gevent
from gevent import subprocess
from gevent.fileobject import FileObject

from imserver.cluster.contract import Lease, Session
from imserver.cluster.redis_registry import RedisRegistry
from imserver.settings import ClusterSettings, RedisSettings
from tests.cluster.redis_server import die_with_parent
from tests.support import clean_environment


class Orders:
    """What a test may order."""

    def __init__(self, url: str, number: int, lease_seconds: float) -> None:
        settings = ClusterSettings(lease_seconds=lease_seconds, renew_seconds=0.1, redis_seconds=0.3)
        self.node = RedisRegistry(RedisSettings(url=url), settings, ["101"])
        self.held: dict[str, Session] = {}
        self.restored: list[bool] = []
        self.superseded: list[str] = []
        self.node.on_restore = lambda everything: gevent.spawn(self._restore, everything) and None
        self.node.start(Lease(f"127.0.0.1:{9000 + 2 * number}", host="here", fingerprint="f1"))

    def _restore(self, everything: bool) -> None:
        wanted = [s for s in self.held.values() if everything or not self.node.registered(s)]
        for session, begun in self.node.restore(wanted):
            if not begun.addressed:
                self.superseded.append(session.user)
                self.held.pop(session.user, None)
        self.restored.append(everything)

    def begin(self, *users: str) -> list[bool]:
        """Log users in; whether the registry answered, for each."""
        answers = []
        for user in users:
            self.held[user] = session = Session("101", user)
            answers.append(self.node.begin(session) is not None)
        return answers

    def state(self) -> dict[str, Any]:
        """How it is."""
        return {
            "epoch": self.node.lease.epoch,
            "healthy": self.node.healthy(),
            "restored": self.restored,
            "superseded": self.superseded,
            "held": sorted(self.held),
        }

    def find(self, *users: str) -> list[list[int]] | None:
        """The epochs of the nodes where users are."""
        found = self.node.find("101", users)
        return None if found is None else [[place.epoch for place in places] for places in found]

    def timed_find(self, *users: str) -> tuple[list[list[int]] | None, float]:
        """The same, and how many seconds it took."""
        began = monotonic()
        return self.find(*users), monotonic() - began


class NodeProcess:
    """The test's end of such a process."""

    def __init__(self, url: str, number: int, lease_seconds: float = 1.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, str(number), str(lease_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            preexec_fn=die_with_parent,
        )

    def ask(self, *order: str) -> Any:
        """Give an order and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """Obey until stdin ends."""
    orders = Orders(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    for line in FileObject(sys.stdin.buffer):
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(orders, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
