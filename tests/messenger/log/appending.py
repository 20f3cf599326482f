"""A node's log in a process of its own, patched as a server is, to be killed
while it stores.

It tells each id once its answer is there, with the ``client_msg_id``; what it
is about to ask, before. ``POINT`` and ``TRANSACTION``: at which function of a
transaction or of its statements, and at which call of it, the process kills
itself.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent.event import AsyncResult  # noqa: E402
from gevent.os import tp_read  # noqa: E402

from imserver.gateway.config.settings import StorageSettings  # noqa: E402
from imserver.gateway.errors import StorageUnavailable  # noqa: E402
from imserver.gateway.storage.statements import (  # noqa: E402
    MysqlStatements,
    PostgresqlStatements,
    SqliteStatements,
)
from imserver.gateway.storage.store import Store  # noqa: E402
from imserver.messenger.later.rows import (  # noqa: E402
    ScheduledMessage,
    ScheduledRows,
    SourceRow,
    When,
)
from imserver.messenger.log.contract import Appended, AppendRequest, Draft  # noqa: E402
from imserver.messenger.log.message_log import MessageLog  # noqa: E402
from imserver.messenger.log.transaction import AppTransaction  # noqa: E402

SENDERS = 8


def die_at(point: str, transaction: int) -> None:
    """Kill this process before a statement of a transaction, or behind its
    COMMIT."""
    name = point.removeprefix("after ")
    calls = [0]
    statements = (SqliteStatements, PostgresqlStatements, MysqlStatements)
    for driver in (AppTransaction,) if hasattr(AppTransaction, name) else statements:
        done = getattr(driver, name)

        def dying(self: object, *arguments: object, done: object = done) -> object:
            calls[0] += 1
            if name == point and calls[0] == transaction:
                os.kill(os.getpid(), signal.SIGKILL)
            value = done(self, *arguments)  # type: ignore[operator]
            if calls[0] == transaction:
                os.kill(os.getpid(), signal.SIGKILL)
            return value

        setattr(driver, name, dying)


def say(*words: object) -> None:
    """At once, and whole: a pipe keeps what a killed process has written."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    """Append until somebody kills us, or standard input ends."""
    url, folder, turn, point, transaction = sys.argv[1:]
    store = Store(StorageSettings(url, seconds=5), folder)
    store.start()
    log = store.part(MessageLog)
    if point != "-":
        die_at(point, int(transaction))

    def append(draft: Draft) -> Appended:
        """Store a draft; in the turn ``later`` as a message that was scheduled
        before."""
        if turn != "later":
            return log.writer.append("app", [draft])[0]
        name = draft.client_msg_id
        done = AsyncResult()
        row = ScheduledMessage(
            app="app", member=draft.sender, id=name, to_user=draft.to_user
        )
        source = SourceRow(ScheduledRows(store).add(row, When()))
        say("later", name, 0)
        log.writer.send(AppendRequest("app", draft, done.set, source=source))
        outcome = done.get()
        assert isinstance(outcome, Appended)
        return outcome

    def send(sender: int) -> None:
        number = 0
        while True:
            number += 1
            name = f"{turn}.{sender}.{number}"
            say("ask", name, 0)
            draft = Draft(
                sender=f"u{sender}",
                to_user=f"u{(sender + number) % SENDERS}",
                client_msg_id=name,
            )
            while True:
                try:
                    outcome = append(draft)
                except StorageUnavailable:
                    say("late", name, 0)
                    gevent.sleep(0.05)
                else:
                    break
            say("told", name, outcome.entry.id)

    for sender in range(SENDERS):
        gevent.spawn(send, sender)
    while tp_read(0, 1):
        pass


if __name__ == "__main__":
    main()
