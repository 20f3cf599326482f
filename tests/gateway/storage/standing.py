"""A node's store in a process of its own, patched as a server is, that is told what to do line by line.

``look``, ``keys`` or ``add NAME``, each with how many do it at once; it answers with the outcome of the first
and with the seconds that the slowest took.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402

from imserver.gateway.config.settings import StorageSettings  # noqa: E402
from imserver.gateway.errors import StorageUnavailable  # noqa: E402
from imserver.gateway.storage.store import Store  # noqa: E402


def main() -> None:
    """Serve the lines of standard input."""
    url, folder, seconds, pool = sys.argv[1:]
    # To make the tables takes longer than what is to be tried out.
    first = Store(StorageSettings(url), folder)
    first.start()
    first.close()
    store = Store(StorageSettings(url, seconds=float(seconds), pool_size=int(pool)), folder)
    store.start()
    print("ready", flush=True)

    def do(what: str, name: str) -> tuple[object, float]:
        deeds = {"look": store.refresh, "keys": store.keys, "add": lambda: store.add_app(name, {})}
        began = time.monotonic()
        try:
            done: object = deeds[what]()
        except StorageUnavailable:
            done = "unavailable"
        return done, time.monotonic() - began

    for line in sys.stdin:
        what, name, times = line.split()
        doing = [gevent.spawn(do, what, name) for _ in range(int(times))]
        outcomes = [one.get() for one in doing]
        print(outcomes[0][0], max(took for _, took in outcomes), store.healthy(), sep="|", flush=True)
    store.close()


main()
