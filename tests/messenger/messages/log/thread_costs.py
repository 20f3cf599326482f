"""What a list of conversations costs: ``python -m tests.messenger.messages.log.thread_costs [URL of a
database]``."""

import sys
import tempfile
from statistics import median
from time import perf_counter

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog


def _list(log: MessageLog) -> float:
    lists = []
    for _ in range(20):
        began = perf_counter()
        page, _ = log.conversations.page("app", "ann", 0, 50)
        lists.append(1000 * (perf_counter() - began))
        assert sorted(each.unread for each in page)[-20:] == [1000] * 20
    return median(lists)


def main() -> None:
    """Print the median of 20 lists of 20 conversations with 1,000 unread messages each."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(StorageSettings(sys.argv[1] if len(sys.argv) > 1 else "", seconds=30), folder)
        store.start()
        log = store.part(MessageLog)
        for peer in range(20):
            for _ in range(10):
                log.writer.append("app", [Draft(sender=f"u{peer}", to_user="ann", body=b"x" * 50)] * 100)
        print(f"without threads: {_list(log):.0f} ms")
        log.writer.append("app", [Draft(sender="ann", to_user="bob")])
        log.writer.append("app", [Draft(sender="ann", to_user="bob", thread=log.entries.head("app"))])
        print(f"with threads: {_list(log):.0f} ms")
        store.close()


if __name__ == "__main__":
    main()
