"""Messages that are removed for everybody and come back, on every engine."""

import json
import time

from imserver.gateway.storage.numbers import far_number
from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.declared import NUMBERS
from imserver.messenger.messages.log.contract import Change
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.removals import MOST_AT_ONCE
from tests.messenger.messages.log.test_log import APP, bodies, ids, say, stored
from tests.stores import OpenStore

THUMB = "\N{THUMBS UP SIGN}"


def test_a_removed_message_is_gone_and_comes_back_as_it_was(log: MessageLog) -> None:
    group = log.groups.create(APP, "ann", "tea", ["bob"]).conversation
    meta = json.dumps({"mentions": ["bob"]}).encode()
    first, reply = stored(log, say("bob", group, "tea?"), say("ann", group, "spam", meta=meta))
    (answer,) = stored(log, say("ann", group, "more spam", about=first.id))
    stored(log, say("ann", group, "edited spam", kind="edit", about=reply.id, meta=meta))
    assert isinstance(log.annotations.react(APP, "bob", reply.id, THUMB), Change)
    assert isinstance(log.annotations.pin(APP, "ann", reply.id), Change)
    before = {entry.id: entry for entry in log.entries.find(APP, [reply.id, answer.id])}

    assert log.removals.remove(APP, "act", [reply.id, answer.id]) == [reply.id, answer.id]
    for entry in log.entries.find(APP, [reply.id, answer.id]):
        assert (entry.kind, entry.body, entry.about) == ("recall", b"", entry.id)
        assert json.loads(entry.meta) == {"removed": True}
    assert bodies(log.search.find(APP, "bob", Search("spam", 0, 0, 10))[0]) == []
    assert log.entries.pins(APP, "bob", group)[0] == []
    assert b"spam" not in b"".join(entry.body for entry in log.entries.read(APP, 0, 100))
    assert log.removals.copies(APP, "act") == 2

    assert log.removals.restore(APP, "act") == 2
    assert log.removals.restore(APP, "act") == 0
    assert {entry.id: entry for entry in log.entries.find(APP, [reply.id, answer.id])} == before
    assert ids(log.search.find(APP, "bob", Search("spam", 0, 0, 10))[0]) == [reply.id, answer.id]
    assert ids(log.entries.pins(APP, "bob", group)[0]) == [reply.id]
    entries = log.entries.sync(APP, "bob", 0, 100)[0]
    assert [entry.kind for entry in entries if entry.kind == "recall"] == []
    edits = [entry for entry in entries if entry.kind == "edit" and entry.about == answer.id]
    assert json.loads(edits[-1].meta) == {"restored": first.id}
    assert edits[-1].body == b"more spam"


def test_a_removal_that_is_final_leaves_nothing(log: MessageLog) -> None:
    sent = stored(log, say("ann", "bob", "spam"), say("ann", "bob", "ham"))
    log.removals.remove(APP, "act", ids(sent))
    assert log.removals.finish(APP, "act") == 2
    assert log.removals.finish(APP, "act") == 0
    assert log.removals.restore(APP, "act") == 0
    assert {entry.kind for entry in log.entries.read(APP, 0, 100)} == {"recall"}


def test_a_recalled_message_is_not_removed_and_a_removal_ends_where_it_may_not_go_on(log: MessageLog) -> None:
    one, other = stored(log, say("ann", "bob", "one"), say("ann", "bob", "other"))
    stored(log, say("ann", 1, kind="recall", about=one.id))
    assert log.removals.remove(APP, "act", [one.id]) == [one.id]
    assert log.removals.copies(APP, "act") == 0
    assert log.removals.remove(APP, "act", [other.id], lambda sql: False) is None
    assert log.entries.find(APP, [other.id])[0].body == b"other"


def test_what_its_author_has_recalled_meanwhile_does_not_come_back(log: MessageLog) -> None:
    one, other = stored(log, say("ann", "bob", "one"), say("ann", "bob", "other"))
    log.removals.remove(APP, "act", [one.id, other.id])
    stored(log, say("ann", 1, kind="recall", about=one.id))
    assert log.removals.restore(APP, "act") == 2
    assert [entry.body for entry in log.entries.find(APP, [one.id, other.id])] == [b"", b"other"]
    assert log.removals.copies(APP, "act") == 0
    assert ids(log.search.find(APP, "bob", Search("one", 0, 0, 10))[0]) == []


def test_the_messages_of_a_user_are_counted_and_found_in_steps(log: MessageLog) -> None:
    now = int(time.time()) * 1000
    drafts = [say("ann", "bob", str(i), time_ms=now + i) for i in range(MOST_AT_ONCE + 10)]
    sent = stored(log, *drafts, say("bob", "ann"), say("ann", "eve", time_ms=now + 5000))
    assert log.removals.count(APP, "ann", 0, 0) == {1: MOST_AT_ONCE + 10, 2: 1}
    assert log.removals.count(APP, "ann", now + 5, now + 10) == {1: 5}
    assert log.removals.count(APP, "eve", 0, 0) == {}
    after, last = log.removals.extent(APP, 0, 0)
    found, after = log.removals.sent(APP, "ann", 0, 0, after, last)
    assert [id for id, _ in found] == ids(sent[:MOST_AT_ONCE])
    found, after = log.removals.sent(APP, "ann", 0, 0, after, last)
    assert [conversation for _, conversation in found] == [1] * 10 + [2]
    assert after == last


def test_looks_for_the_messages_of_a_user_skip_the_ids_that_a_restore_leaves_out(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url, seconds=10)
    log = store.part(MessageLog)
    before = stored(log, say("ann", "bob"), say("bob", "ann"))
    for _ in range(2):
        for numbers in NUMBERS:
            store.write(lambda sql, numbers=numbers: numbers.skip(sql, far_number()))
        before += stored(log, say("ann", "bob"), say("bob", "ann"))
    assert before[-1].id > 1 << 32
    after, last = log.removals.extent(APP, 0, 0)
    found, looks = list[int](), 0
    while after < last:
        some, after = log.removals.sent(APP, "ann", 0, 0, after, last)
        found += [id for id, _ in some]
        looks += 1
        assert looks <= 4
    assert found == ids(before[::2])
    assert log.removals.count(APP, "ann", 0, 0) == {1: 3}
    assert log.removals.size(APP, 0, 0) == 6


def test_copies_move_to_a_later_removal(log: MessageLog) -> None:
    sent = stored(log, say("ann", "bob", "spam"), say("ann", "bob", "ham"))
    log.removals.remove(APP, "hide", ids(sent))
    assert log.removals.move(APP, [sent[0].id, 99], "delete") == 1
    assert (log.removals.copies(APP, "hide"), log.removals.copies(APP, "delete")) == (1, 1)
