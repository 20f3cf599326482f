"""A database that has lost its newest commits, under nodes that know them: no number is given twice."""

import pytest

from imserver.gateway.storage.statements import Statements
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.contract import Appended, Draft, LogExtent
from imserver.messenger.messages.log.lost import EntriesLost
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.transaction import UplinkSessions, WriteTransaction
from tests.messenger.accounts import add_account
from tests.stores import OpenStore

APP = "shop"
FAR = 1 << 32


def send(store: Store, number: int = 1, app: str = APP, user: str = "bob") -> list[Appended]:
    drafts = [Draft(sender="ann", to_user=user, body=b"x", time_ms=1)] * number
    found = store.part(MessageLog).writer.append(app, drafts)
    return [each for each in found if isinstance(each, Appended)]


def lose(store: Store, last: int, app: str = APP) -> None:
    """Make the database one that has the log of an app up to an id: of one conversation, without edits."""

    def work(sql: Statements) -> None:
        of_app = "log = (SELECT number FROM log WHERE app = %s)"
        sql.execute(f"DELETE FROM message WHERE id > %s AND {of_app}", (last, app))
        sql.execute(f"UPDATE conversation SET last_seq = %s, last_id = %s WHERE {of_app}", (last, last, app))
        sql.execute("UPDATE log SET last_id = %s WHERE app = %s", (last, app))

    store.write(work)


def extent(store: Store, app: str = APP) -> LogExtent:
    return store.part(MessageLog).entries.extent(app)


def test_the_ids_of_lost_entries_are_not_given_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    send(store, 10)
    send(store, 3, "other")
    lose(store, 6)
    first, second = send(store, 2)
    assert first.entry.id > FAR
    assert second.entry.id == first.entry.id + 1
    assert first.entry.seq > FAR, "a seq that was lost stands for another message"
    assert second.entry.seq == first.entry.seq + 1
    assert first.entry.id < 1 << 53, "JavaScript counts no further"
    assert (store.part(MessageLog).writer.losses, extent(store).head) == (1, second.entry.id)
    assert f"its log ends with 6, but 10 was stored. Ids continue after {first.entry.id - 1}" in caplog.text
    assert [entry.id for entry in store.part(MessageLog).entries.read(APP, 5, 9)] == [
        6,
        first.entry.id,
        second.entry.id,
    ]


def test_what_is_learned_while_a_transaction_waits_for_the_log_counts(store: Store) -> None:
    known: dict[str, int] = {}
    transaction = WriteTransaction({APP: []}, UplinkSessions(), known)
    known[APP] = 5
    with pytest.raises(EntriesLost):
        store.write(transaction)  # type: ignore[arg-type]


def test_clients_that_have_lost_entries_begin_anew_and_no_others(store: Store) -> None:
    send(store, 10)
    send(store, 3, "other")
    lose(store, 6)
    new = send(store)[0].entry.id
    cursors = (1, 6, 7, 10, 11, new - 2, new - 1, new)
    # The head is moved first. Whoever subscribes then has it as a cursor.
    assert [each for each in cursors if extent(store).continues(each)] == [1, 6, new - 1, new]
    assert extent(store, "other").continues(3), "no entry of it was lost"
    assert send(store, 1, "other")[0].entry.id > FAR, "it is not known whether another node has given more"


def test_a_second_loss_leaves_what_is_between_them(store: Store) -> None:
    send(store, 10)
    lose(store, 6)
    first = send(store, 4)[0].entry.id
    lose(store, first + 1)
    last = send(store)[0].entry.id
    assert last > first + FAR
    assert extent(store).lost == ((7, first - 2), (first + 2, last - 2))
    for _ in range(25):
        last = send(store, 2)[-1].entry.id
        lose(store, last - 1)
    send(store)
    assert len(extent(store).lost) == 20, "the oldest are one"
    assert not extent(store).continues(8)
    assert not extent(store).continues(last)


def test_another_node_may_know_more(url: str, open_store: OpenStore) -> None:
    one, two = open_store(url), open_store(url)
    send(one, 10)
    lose(one, 6)
    two.part(MessageLog).writer.learn(APP, 10)
    last = two.part(MessageLog).writer.check(APP)
    assert last > FAR, "without a message"
    assert one.part(MessageLog).writer.check(APP) == last, "once for all nodes"
    assert (two.part(MessageLog).writer.losses, one.part(MessageLog).writer.losses) == (1, 0)
    assert send(one)[0].entry.id == last + 1


def test_a_log_that_was_lost_whole_continues_beyond_it(store: Store) -> None:
    send(store, 3)
    store.write(lambda sql: [sql.execute(f"DELETE FROM {table}") for table in ("message", "conversation")])
    store.write(lambda sql: [sql.execute(f"DELETE FROM {table}") for table in ("membership", "log")])
    entry = send(store)[0].entry
    assert entry.id > FAR
    assert entry.conversation > FAR
    assert not extent(store).continues(2)


def test_accounts_and_marks_get_new_numbers(store: Store) -> None:
    conversation = send(store, 10)[0].entry.conversation
    note = store.part(MessageLog).marks.note
    before = note(APP, "bob", conversation, read=3)
    lose(store, 6)
    send(store)
    after = note(APP, "bob", conversation, read=5)
    assert before is not None
    assert after is not None
    assert after.version > before.version + FAR
    again = note(APP, "bob", conversation, read=6)
    assert again is not None
    assert again.version == after.version + 1
    assert int(add_account(store, APP)) > FAR


def test_a_draft_is_stored_once_although_its_transaction_begins_again(store: Store) -> None:
    send(store, 10)
    lose(store, 6)
    draft = Draft(sender="ann", to_user="bob", body=b"x", time_ms=1, client_msg_id="m")
    (one,) = store.part(MessageLog).writer.append(APP, [draft])
    (two,) = store.part(MessageLog).writer.append(APP, [draft])
    assert isinstance(one, Appended)
    assert isinstance(two, Appended)
    assert (two.entry.id, two.repeated, one.repeated) == (one.entry.id, True, False)
