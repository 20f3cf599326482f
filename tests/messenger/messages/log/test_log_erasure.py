"""Erased users in the log, on every engine: what they wrote and their names go, ids stay contiguous."""

import json
from itertools import pairwise

from sqlalchemy import inspect

from imserver.gateway.storage.numbers import far_number
from imserver.gateway.storage.statements import PooledStatements, Row, text_of
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.declared import NUMBERS
from imserver.messenger.messages.log.contract import Change
from imserver.messenger.messages.log.erasure import AT_ONCE
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.listening import Listening
from tests.messenger.messages.log.test_log import APP, ids, say, stored

HEART = "\N{HEAVY BLACK HEART}"
ANN = 'marker-ann"é'
SECRET = "marker text"


def everything(store: Store) -> str:
    """All rows of all tables, as text."""

    def read(sql: PooledStatements) -> list[tuple[str, list[Row]]]:
        names = inspect(sql.connection).get_table_names()
        return [(name, sql.query(f"SELECT * FROM {name}")) for name in names]

    return "\n".join(
        f"{name}: {value if isinstance(value, int | None) else text_of(value)}"
        for name, rows in store.read(read)
        for row in rows
        for value in row
    )


def test_nothing_of_an_erased_user_is_left_and_ids_stay_contiguous(store: Store, log: MessageLog) -> None:
    mentioned = json.dumps({"mentions": [ANN, "bob"]}).encode()
    mine = json.dumps({"mentions": ["bob"], "own": SECRET}).encode()
    group = log.groups.create(APP, ANN, "tea", ["bob", "eve"], SECRET.encode()).conversation
    log.groups.join(APP, group, ["dan"], ANN)
    alone = log.groups.create(APP, ANN, SECRET, []).conversation
    stored(log, say(ANN, alone, SECRET))
    first, reply = stored(
        log,
        say(ANN, group, SECRET, meta=mine, client_msg_id=SECRET),
        say("bob", group, "yes", meta=mentioned),
    )
    stored(log, say(ANN, group, f"{SECRET} edited", kind="edit", about=first.id, client_msg_id="e"))
    forwarded = json.dumps({"forwarded": {"from": ANN, "id": first.id}}).encode()
    direct, back, notice = stored(
        log,
        say(ANN, "bob", SECRET),
        say("bob", ANN, "hello", meta=forwarded),
        say("", ANN, f"{SECRET} of a warning"),
    )
    stored(log, say(ANN, ANN, f"{SECRET}, a note"), say(ANN, kind="message", room="lobby", to=""))
    recalled = stored(log, say(ANN, group, SECRET))[0]
    stored(log, say(ANN, group, kind="recall", about=recalled.id))
    for user, message in ((ANN, reply), ("eve", reply), ("bob", first), (ANN, back)):
        assert isinstance(log.annotations.react(APP, user, message.id, HEART), Change)
    assert isinstance(log.annotations.pin(APP, ANN, reply.id), Change)
    log.removals.remove(APP, "act", [back.id])
    log.marks.note(APP, ANN, group, read=reply.id)
    log.marks.hide(APP, ANN, [reply.id])
    before = log.entries.head(APP)

    log.erase_user(APP, ANN, "deleted:1")
    assert "marker" not in everything(store)
    entries = log.entries.read(APP, 0, 1000)
    assert [entry.id for entry in entries] == list(range(1, log.entries.head(APP) + 1))
    for one in {entry.conversation for entry in entries}:
        assert all(b == a + 1 for a, b in pairwise([e.seq for e in entries if e.conversation == one]))
    # Others learn it by recalls of another name.
    new = [entry for entry in entries if entry.id > before and entry.kind == "recall"]
    assert {(entry.sender, entry.meta) for entry in new} == {("deleted:1", b'{"erased":true}')}
    assert {first.id, direct.id} <= {entry.about for entry in new}
    (there,) = log.entries.find(APP, [first.id])
    assert (there.kind, there.sender, there.body, there.about) == ("recall", "deleted:1", b"", first.id)
    (seen,) = log.entries.find(APP, [reply.id])
    assert seen.body == b"yes"
    assert json.loads(seen.meta)["mentions"] == ["deleted:1", "bob"]
    assert [(each.count, each.users) for each in seen.reactions] == [(1, ("eve",))]
    (pair,) = log.conversations.find(APP, [direct.conversation])
    assert set(pair.members) == {"bob", "deleted:1"}
    assert log.entries.find(APP, [notice.id])[0].members == ("", "deleted:1")
    assert {row.user for row in log.conversations.members(APP, group, "", 10)} == {"bob", "dan", "eve"}

    # Whoever comes under the same name is another user, and an erasure may be repeated.
    assert log.entries.sync(APP, ANN, 0, 100)[0] == []
    assert log.conversations.memberships(APP, ANN) == []
    head = log.entries.head(APP)
    log.erase_user(APP, ANN, "deleted:2")
    assert log.entries.head(APP) == head
    (again,) = stored(log, say("bob", ANN, "who are you?"))
    assert again.conversation != direct.conversation
    assert ids(log.entries.sync(APP, ANN, 0, 100)[0]) == [again.id]
    assert log.entries.find(APP, [direct.id])[0].members == ("bob", "deleted:1")


def test_an_erased_user_leaves_no_reaction(store: Store, log: MessageLog) -> None:
    sent = stored(log, *(say("bob", ANN, "tea") for _ in range(AT_ONCE + 2)))
    for one in sent:
        assert isinstance(log.annotations.react(APP, ANN, one.id, HEART), Change)
    log.erase_user(APP, ANN, "deleted:1")
    assert store.read(lambda sql: sql.query("SELECT member FROM reaction")) == []
    assert not any(each.reactions for each in log.entries.find(APP, ids(sent)))


def test_many_messages_are_erased_in_small_transactions(log: MessageLog) -> None:
    sent = stored(log, *(say("ann", "bob", SECRET) for _ in range(2 * AT_ONCE + 3)))
    others = stored(log, *(say("bob", "ann", "mine") for _ in range(3)))
    sizes: list[int] = []

    log.writer.listener = Listening(lambda _app, _first, _last, entries: sizes.append(len(entries)))
    log.erase_user(APP, "ann", "deleted:1")
    assert sum(sizes) == len(sent)
    assert max(sizes) <= AT_ONCE
    entries = log.entries.read(APP, 0, 1000)
    assert [entry.body for entry in entries if entry.kind == "message"] == [b"mine"] * len(others)


def test_an_erasure_skips_the_ids_that_a_restore_leaves_out(store: Store, log: MessageLog) -> None:
    stored(log, say(ANN, "bob", SECRET), say("bob", ANN, "hello"))
    for numbers in NUMBERS:
        store.write(lambda sql, numbers=numbers: numbers.skip(sql, far_number()))
    assert stored(log, say(ANN, "bob", SECRET))[0].id > 1 << 32
    log.erase_user(APP, ANN, "deleted:1")
    assert ANN not in everything(store)
    assert SECRET not in everything(store)
