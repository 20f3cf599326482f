"""Uplink sessions: of a user's sessions only the newest sends, on every engine, whichever node stores."""

from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from imserver.gateway.errors import StorageUnavailable
from imserver.messenger.messages.log import writer
from imserver.messenger.messages.log.contract import Appended, AppendRequest, Draft, Rejected, RejectReason
from imserver.messenger.messages.log.message_log import MessageLog
from tests.gateway.transport.harness import until
from tests.messenger.log_file import Gates, LogFile
from tests.messenger.messages.log.test_log import APP
from tests.stores import OpenStore

REFUSED = Rejected(RejectReason.SUPERSEDED)


@pytest.fixture
def logs(url: str, open_store: OpenStore) -> tuple[MessageLog, MessageLog]:
    """The logs of two nodes in one database."""
    return open_store(url).part(MessageLog), open_store(url).part(MessageLog)


def draft(session: int, sender: str = "ann", name: str = "") -> Draft:
    return Draft(sender=sender, to_user="bob", body=b"hi", uplink_session=session, client_msg_id=name)


def test_an_older_session_stores_nothing_on_any_node_once_a_newer_one_has_begun(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    first, second = logs
    assert first.writer.begin_uplink(APP, "ann", 2**62) == 0
    (stored,) = first.writer.append(APP, [draft(2**62)])
    assert isinstance(stored, Appended)
    assert second.writer.begin_uplink(APP, "ann", 11) == stored.entry.id
    for log in logs:
        assert log.writer.append(APP, [draft(2**62)]) == [REFUSED]
        assert [type(each) for each in log.writer.append(APP, [draft(11), draft(0)])] == [Appended] * 2
    assert first.writer.begin_uplink(APP, "cid", 12) == 5, "a session of another user"
    for log in logs:
        assert isinstance(log.writer.append(APP, [draft(11)])[0], Appended)
    second.marks.forget(APP, "ann")
    assert first.writer.append(APP, [draft(11)]) == [REFUSED], "a session that the log does not know"


def test_a_refused_draft_is_not_the_result_of_its_repeat_by_the_newest_session(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    log = logs[0]
    log.writer.begin_uplink(APP, "ann", 1)
    refused, stored = log.writer.append(APP, [draft(7, name="m"), draft(1, name="m")])
    assert (refused, type(stored)) == (REFUSED, Appended)


def test_a_session_that_begins_in_a_transaction_supersedes_the_older_one_there(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    log, done = logs[0], list[Any]()
    log.writer.begin_uplink(APP, "ann", 1)
    beginning = gevent.spawn(log.writer.begin_uplink, APP, "ann", 2)
    for session in (1, 2):
        log.writer.send(AppendRequest(APP, draft(session), done.append))
    beginning.join()
    until(lambda: len(done) == 2)
    assert (done[0], type(done[1])) == (REFUSED, Appended)
    assert log.writer.append(APP, [draft(1)]) == [REFUSED]


def test_what_an_older_session_has_sent_is_before_the_beginning_of_the_newer_one_or_never_stored(
    logs: tuple[MessageLog, MessageLog],
) -> None:
    """Both nodes store at the same time, in transactions that wait for each other."""
    first, second = logs
    for session in range(1, 30):
        older, newer = first.writer, second.writer
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
        assert stored[len(ids) :] == [REFUSED] * (40 - len(ids))


def _send(sender: writer.LogWriter, session: int, stored: list[Any]) -> None:
    for _ in range(20):
        sender.send(AppendRequest(APP, draft(session), stored.append))
        gevent.sleep(0)


def test_a_beginning_whose_commit_has_no_answer_is_a_failed_one() -> None:
    gates = Gates()
    log = LogFile().open(gates).part(MessageLog)
    log.writer.begin_uplink(APP, "ann", 1)
    log.writer.seconds, gates.losing = 0.001, Signal()
    with pytest.raises(StorageUnavailable):
        log.writer.begin_uplink(APP, "ann", 2)
    log.writer.seconds = 60
    assert gates.unsure is not None
    gates.unsure.set()
    assert log.writer.append(APP, [draft(1)]) == [REFUSED], "it may have begun nevertheless"
