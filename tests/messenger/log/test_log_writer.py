"""The append queue: its bounds, batches and pauses; and of uplink sessions only
the newest sends."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.database import WriterConnection
from imserver.gateway.storage.statements import CommitGuard, NotStored
from imserver.messenger.log import writer
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Change,
    Commit,
    Draft,
    Rejected,
    RejectReason,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.transaction import ChangeRequest, WriteTransaction
from imserver.messenger.log.writer import LogWriter
from tests.gateway.transport.harness import until
from tests.messenger.log.test_log import APP
from tests.messenger.log_file import Gates, LogFile
from tests.stores import OpenStore

REFUSED = Rejected("muted")


class Connection(WriterConnection):
    """Records what each transaction holds, and waits for ``gate`` before it
    commits."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = Flag()
        self.gate.set()

    def transact(self, work: Any, guard: CommitGuard, seconds: float) -> Any:
        assert isinstance(work, WriteTransaction)
        self.batches.append([request.app for request in work.requests])
        self.gate.wait()
        if not guard.take():
            raise NotStored("no answer in time")
        for request in work.requests:
            request.outcome = (
                Change(1) if isinstance(request, ChangeRequest) else REFUSED
            )

    def answered(self, wrote: bool) -> None:
        """Nothing to note."""

    def failed(
        self, words: str, cause: BaseException | None = None
    ) -> StorageUnavailable:
        return StorageUnavailable(words)

    def close(self) -> None:
        """Nothing to give back."""


class Pauses:
    """A listener that has the app ``busy`` pause for a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def committed(self, commit: Commit) -> None:
        raise AssertionError("nothing is stored here")

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        return self.seconds if app == "busy" else 0.0


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def log(connection: Connection) -> LogWriter:
    return LogWriter(lambda: connection, 100)


def send(
    log: LogWriter, app: str, answer: Callable[[Stored], object], body: bytes = b""
) -> None:
    log.send(AppendRequest(app, Draft(sender="a", to_user="b", body=body), answer))


def test_more_than_may_wait_in_an_app_is_refused_and_other_apps_are_not_affected(
    log: LogWriter, connection: Connection, constants: Callable[..., None]
) -> None:
    constants(writer, MAX_WAITING=3, MAX_WAITING_BYTES=10)
    connection.gate.clear()
    busy: list[Stored] = []
    other: list[Stored] = []
    send(log, "busy", busy.append)
    until(lambda: connection.batches)
    for _ in range(4):
        send(log, "busy", busy.append)
    assert [type(each) for each in busy] == [StorageUnavailable]
    send(log, "other", other.append, b"123456")
    send(log, "other", other.append, b"12345")
    assert [type(each) for each in other] == [StorageUnavailable]
    connection.gate.set()
    until(lambda: len(busy) == 5 and len(other) == 2)
    assert busy[1:] == [REFUSED] * 4
    assert other[1] == REFUSED


@pytest.mark.parametrize(
    ("most", "bytes", "body"), [(3, 1000, b""), (1000, 10, b"123")]
)
def test_more_than_may_wait_in_all_apps_together_is_refused(
    log: LogWriter,
    connection: Connection,
    constants: Callable[..., None],
    most: int,
    bytes: int,
    body: bytes,
) -> None:
    constants(writer, MAX_WAITING_IN_ALL=most, MAX_WAITING_BYTES_IN_ALL=bytes)
    for _ in range(2):  # what was stored leaves room again
        connection.gate.clear()
        before = len(connection.batches)
        results = list[Stored]()
        send(log, "first", results.append)
        until(lambda before=before: len(connection.batches) > before)  # type: ignore[misc]
        for number in range(5):
            send(log, f"app {number}", results.append, body)
        assert [type(each) for each in results] == [StorageUnavailable] * 2
        connection.gate.set()
        until(lambda results=results: len(results) == 6)  # type: ignore[misc]
        assert results[2:] == [REFUSED] * 4


@pytest.mark.usefixtures("small")
def test_apps_share_a_transaction_and_one_with_much_to_store_does_not_hold_up_the_others(
    log: LogWriter, connection: Connection
) -> None:
    connection.gate.clear()
    done: list[Stored] = []
    send(log, "busy", done.append)
    until(lambda: connection.batches)
    for _ in range(6):
        send(log, "busy", done.append)
    for _ in range(2):
        send(log, "other", done.append)
    connection.gate.set()
    until(lambda: len(done) == 9)
    assert connection.batches == [["busy"], ["other"] * 2, ["busy"] * 4, ["busy"] * 2]


@pytest.mark.parametrize(("come_back", "batches"), [(True, [8, 16]), (False, [8, 8])])
def test_a_few_drafts_wait_a_little_for_the_next_ones_of_those_who_were_answered(
    log: LogWriter, connection: Connection, come_back: bool, batches: list[int]
) -> None:
    connection.gate.clear()
    done: list[Stored] = []

    def answered(result: Stored) -> None:
        done.append(result)
        if come_back:
            gevent.spawn(send, log, "busy", done.append)

    for _ in range(8):
        send(log, "busy", answered)
    until(lambda: connection.batches)
    for _ in range(8):
        send(log, "busy", done.append)
    connection.gate.set()
    until(lambda: len(done) == sum(batches))
    assert [len(batch) for batch in connection.batches] == batches
    until(lambda: not log.is_busy("busy"))


def test_another_app_does_not_wait_with_them(
    log: LogWriter, connection: Connection
) -> None:
    connection.gate.clear()
    done: list[Stored] = []
    for _ in range(8):
        send(log, "busy", done.append)
    until(lambda: connection.batches)
    for _ in range(8):
        send(log, "busy", done.append)
    send(log, "other", done.append)
    connection.gate.set()
    until(lambda: len(done) == 17)
    assert connection.batches == [["busy"] * 8, ["other"], ["busy"] * 8]


def test_an_app_pauses_alone_and_changes_of_its_groups_do_not_wait(
    log: LogWriter, connection: Connection
) -> None:
    log.report_to(Pauses(600))
    done: list[Stored] = []
    send(log, "busy", done.append)
    until(lambda: done)
    for _ in range(3):
        send(log, "busy", done.append)
        gevent.sleep(0.001)
    assert log.is_busy("busy")
    changed = gevent.spawn(log.change, "busy", lambda _transaction: REFUSED)
    send(log, "other", done.append)
    until(lambda: changed.ready() and len(done) == 2)
    log.close()  # ends the pause
    until(lambda: len(done) == 5)
    assert connection.batches[0] == ["busy"]
    assert connection.batches[-1] == ["busy"] * 3
    until(lambda: not log.is_busy("busy"))


def test_what_waits_for_the_end_of_a_pause_is_stored_when_the_writer_closes(
    log: LogWriter, connection: Connection
) -> None:
    log.report_to(Pauses(60))
    done: list[Stored] = []
    send(log, "busy", done.append)
    until(lambda: done)
    send(log, "busy", done.append)
    log.close()
    assert done == [REFUSED, REFUSED]
    send(log, "busy", done.append)
    assert isinstance(done[2], StorageUnavailable)


def test_a_transaction_that_does_not_end_fails_with_what_waits_behind_it(
    log: LogWriter, connection: Connection
) -> None:
    log.seconds = 0.05
    connection.gate.clear()
    done: list[Stored] = []
    for app in ("busy", "busy", "other"):
        send(log, app, done.append)
        until(lambda: connection.batches)
    until(lambda: len(done) == 3)
    assert all(isinstance(each, StorageUnavailable) for each in done)
    connection.gate.set()
    send(log, "busy", done.append)
    until(lambda: len(done) == 4)
    assert done[3] == REFUSED
    assert connection.batches == [["busy"], ["busy"]], "what failed is not stored later"


def test_the_time_of_a_transaction_does_not_run_while_its_database_is_made(
    connection: Connection,
) -> None:
    seconds = 0.01

    def make() -> WriterConnection:
        gevent.sleep(5 * seconds)
        return connection

    log = LogWriter(make, seconds)
    results: list[Stored] = []
    send(log, "first", results.append)
    until(lambda: results)
    assert results == [REFUSED], "it was carried out, not given up"


# --- uplink sessions ----------------------------------------------------------

SUPERSEDED = Rejected(RejectReason.SUPERSEDED)


@pytest.fixture
def logs(url: str, open_store: OpenStore) -> tuple[MessageLog, MessageLog]:
    """The logs of two nodes in one database."""
    return open_store(url).part(MessageLog), open_store(url).part(MessageLog)


def draft(session: int, sender: str = "ann", name: str = "") -> Draft:
    return Draft(
        sender=sender,
        to_user="bob",
        body=b"hi",
        uplink_session=session,
        client_msg_id=name,
    )


def test_an_older_session_stores_nothing_on_any_node_once_a_newer_one_has_begun(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    first, second = logs
    assert first.writer.begin_uplink(APP, "ann", 2**62) == 0
    (stored,) = first.writer.append(APP, [draft(2**62)])
    assert second.writer.begin_uplink(APP, "ann", 11) == stored.entry.id
    for log in logs:
        assert log.writer.append(APP, [draft(2**62)]) == [SUPERSEDED]
        assert [
            type(each) for each in log.writer.append(APP, [draft(11), draft(0)])
        ] == [Appended] * 2
    assert first.writer.begin_uplink(APP, "cid", 12) == 5, "a session of another user"
    for log in logs:
        assert isinstance(log.writer.append(APP, [draft(11)])[0], Appended)
    second.marks.forget(APP, "ann")
    assert first.writer.append(APP, [draft(11)]) == [SUPERSEDED], (
        "a session that the log does not know"
    )


def test_a_refused_draft_is_not_the_result_of_its_repeat_by_the_newest_session(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    log = logs[0]
    log.writer.begin_uplink(APP, "ann", 1)
    refused, stored = log.writer.append(APP, [draft(7, name="m"), draft(1, name="m")])
    assert (refused, type(stored)) == (SUPERSEDED, Appended)


def test_a_session_that_begins_in_a_transaction_supersedes_the_older_one_there(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    log = logs[0]
    done = list[Any]()
    log.writer.begin_uplink(APP, "ann", 1)
    beginning = gevent.spawn(log.writer.begin_uplink, APP, "ann", 2)
    for session in (1, 2):
        log.writer.send(AppendRequest(APP, draft(session), done.append))
    beginning.join()
    until(lambda: len(done) == 2)
    assert (done[0], type(done[1])) == (SUPERSEDED, Appended)
    assert log.writer.append(APP, [draft(1)]) == [SUPERSEDED]


def test_what_an_older_session_has_sent_is_before_the_beginning_of_the_newer_one_or_never_stored(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    """Both nodes store at the same time, in transactions that wait for each
    other."""
    first, second = logs
    for session in range(1, 30):
        older = first.writer
        newer = second.writer
        if session % 2 == 0:
            older, newer = newer, older
        older.begin_uplink(APP, "ann", 2 * session)
        stored: list[Any] = []
        for _ in range(20):
            older.send(AppendRequest(APP, draft(2 * session), stored.append))
        until(lambda stored=stored: stored)  # type: ignore[misc]
        sending = gevent.spawn(_send, older, 2 * session, stored)
        begun = newer.begin_uplink(APP, "ann", 2 * session + 1)
        sending.join()
        until(lambda stored=stored: len(stored) == 40)  # type: ignore[misc]
        ids = [each.entry.id for each in stored if isinstance(each, Appended)]
        assert max(ids) <= begun
        assert stored[len(ids) :] == [SUPERSEDED] * (40 - len(ids))


def test_who_hears_of_what_is_stored_fails_without_harm(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    log, _ = logs
    heard: list[int] = []

    def fail(commit: Commit) -> None:
        heard.append(commit.last)
        raise ValueError(commit.app)

    log.writer.report_commits_to(fail)
    log.writer.report_commits_to(lambda commit: heard.append(commit.last))
    drafts = [Draft(sender="ann", to_user="bob")] * 2
    assert all(isinstance(each, Appended) for each in log.writer.append(APP, drafts))
    assert heard == [2, 2]


def _send(sender: writer.LogWriter, session: int, stored: list[Any]) -> None:
    for _ in range(20):
        sender.send(AppendRequest(APP, draft(session), stored.append))
        gevent.sleep(0)


def test_a_beginning_whose_commit_has_no_answer_is_a_failed_one() -> None:
    gates = Gates()
    log = LogFile().open(gates).part(MessageLog)
    log.writer.begin_uplink(APP, "ann", 1)
    log.writer.seconds, gates.losing = 0.001, Flag()
    with pytest.raises(StorageUnavailable):
        log.writer.begin_uplink(APP, "ann", 2)
    log.writer.seconds = 60
    gates.unsure.set()
    assert log.writer.append(APP, [draft(1)]) == [SUPERSEDED], (
        "it may have begun nevertheless"
    )
