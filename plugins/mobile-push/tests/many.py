"""Sends many notifications at a time, as a node does: in a process whose
sockets belong to gevent.

Reads JSON from standard input: ``app`` and ``node`` (settings), and for each
service how many are sent by how many greenlets. Writes outcomes, seconds, and
for how many milliseconds the loop was busy at most.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from time import monotonic, thread_time  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import msgspec  # noqa: E402
from fakes import FORMS  # noqa: E402
from imserver_mobile_push import services_of  # noqa: E402
from imserver_mobile_push.settings import (  # noqa: E402
    MobilePush,
    MobilePushOfApp,
    MobilePushSettings,
)

from imserver.plugin.identity import Tenant  # noqa: E402
from imserver.plugin.runtime import is_long_turn, serve_others  # noqa: E402
from imserver.plugin.settings import Config  # noqa: E402
from imserver.plugin.wire import PushNotice  # noqa: E402


def watch(longest: list[float]) -> None:
    """Note the CPU time between two turns of a timer: other programs do not
    count."""
    while True:
        before = thread_time()
        gevent.sleep(0.001)
        longest[0] = max(longest[0], thread_time() - before)


def run(given: dict[str, Any]) -> dict[str, Any]:
    config = Config(of_features=(("mobile_push", MobilePushSettings(**given["node"])),))
    settings = msgspec.convert(given["app"], MobilePush)
    tenants = {"shop": Tenant(name="shop", of_features=(MobilePushOfApp(settings),))}
    services = {
        each.name: each
        for each in services_of(config, SimpleNamespace(get=tenants.get))
    }
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in given["counts"]}

    def work(name: str, waiting: list[int]) -> None:
        while waiting:
            while is_long_turn():  # as the deliveries of a node do
                serve_others()
            if not waiting:
                return
            number = waiting.pop()
            notice = PushNotice(
                f"{name}-{number}",
                "message",
                "c1",
                f"t{number}",
                "Ann",
                "hello",
                ttl=600,
            )
            result = services[name].send("shop", FORMS[name].format(number), notice)
            while result.outcome == "later":
                outcomes[name]["later"] += 1
                gevent.sleep(0.05)
                result = services[name].send("shop", FORMS[name].format(number), notice)
            outcomes[name][result.outcome] += 1

    jobs = []
    for name, (count, width) in given["counts"].items():
        services[name].send(
            "shop", FORMS[name].format(10**7), PushNotice("first", "test", "t", "t")
        )
        waiting = [*reversed(range(count))]
        jobs += [(work, name, waiting) for _ in range(width)]
    longest = [0.0]
    watcher = gevent.spawn(watch, longest)
    began = monotonic()
    used = thread_time()
    gevent.joinall([gevent.spawn(*job) for job in jobs], raise_error=True)
    seconds = monotonic() - began
    cpu = thread_time() - used
    watcher.kill()
    for service in services.values():
        service.close()
    return {
        "outcomes": outcomes,
        "seconds": seconds,
        "cpu": cpu,
        "longest_ms": longest[0] * 1000,
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
