"""What was edited or recalled, as it is read from then on, on every engine."""

import json

import pytest

from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.log.contract import Appended, Entry, Rejected
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.test_log import APP, bodies, say, stored


def received(entries: list[Entry]) -> list[tuple[int, str, str, int]]:
    return [(entry.id, entry.kind, entry.body.decode(), entry.about) for entry in entries]


def test_a_recalled_message_is_read_by_nobody_any_more_and_its_position_shows_that(log: MessageLog) -> None:
    first, second = stored(log, say("a", "b", "secret", meta=b'{"mentions":["b"]}'), say("a", "b", "other"))
    stored(log, say("a", "b", "secret too", kind="edit", about=first.id))
    assert log.conversations.page(APP, "b", 0, 10)[0][0].unread == 2
    (recall,) = stored(log, say("a", "b", "", kind="recall", about=first.id))
    whole = [
        (first.id, "recall", "", first.id),
        (second.id, "message", "other", 0),
        (3, "recall", "", first.id),
        (recall.id, "recall", "", first.id),
    ]
    assert received(log.entries.history(APP, "b", first.conversation, 0, 10)[0]) == whole
    assert received(log.entries.sync(APP, "b", 0, 10)[0]) == whole
    assert received(log.entries.read(APP, 0, 10)) == whole
    assert received(log.entries.find(APP, [first.id])) == whole[:1]
    assert log.conversations.page(APP, "b", 0, 10)[0][0].unread == 1
    (gone,) = log.entries.find(APP, [first.id])
    assert (gone.sender, gone.seq, gone.time_ms, gone.type, gone.meta) == ("a", 1, first.time_ms, "", b"")


def test_a_message_and_its_edits_show_the_newest_text(log: MessageLog) -> None:
    (first,) = stored(log, say("a", "b", "helo", about=7, meta=b'{"mentions":["x"]}'))
    stored(log, say("a", "b", "hello", kind="edit", about=first.id))
    edited = say("a", "b", '{"n":1}', kind="edit", type="custom", about=first.id, meta=b'{"mentions":["b"]}')
    (last,) = stored(log, edited)
    found = log.entries.history(APP, "b", first.conversation, 0, 10)[0]
    assert bodies(found) == ['{"n":1}'] * 3
    assert [entry.type for entry in found] == ["custom"] * 3
    assert [entry.about for entry in found] == [7, first.id, first.id]
    assert [json.loads(entry.meta) for entry in found] == [
        {"mentions": ["b"], "edited": last.id},
        {"mentions": ["b"]},
        {"mentions": ["b"]},
    ]


def test_an_edit_with_a_strange_meta_costs_nobody_anything(log: MessageLog) -> None:
    (first,) = stored(log, say("a", "b", "helo"))
    stored(log, say("a", "b", "x", kind="edit", about=first.id, meta=b"no json"), say("a", "b", "next"))
    assert json.loads(log.entries.find(APP, [first.id])[0].meta) == {"edited": 2}


def test_of_many_changes_that_are_stored_together_the_last_counts(log: MessageLog) -> None:
    one, two = stored(log, say("a", "b", "1"), say("a", "b", "2"))
    outcomes = log.writer.append(
        APP,
        [
            say("a", "b", "1a", kind="edit", about=one.id),
            say("a", "b", "2a", kind="edit", about=two.id, client_msg_id="e"),
            say("a", "b", "1b", kind="edit", about=one.id),
            say("a", "b", "", kind="recall", about=two.id, client_msg_id="r"),
            say("a", "b", "2b", kind="edit", about=two.id),
        ],
    )
    assert [isinstance(each, Appended) for each in outcomes] == [True, True, True, True, False]
    assert outcomes[-1] == Rejected("recalled")
    assert bodies(log.entries.read(APP, 0, 10)) == ["1b", "", "1b", "", "1b", ""]


def test_what_was_recalled_is_edited_no_more_but_a_resend_has_its_first_answer(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b", "secret", client_msg_id="m"))
    edit = say("a", "b", "still secret", kind="edit", about=message.id, client_msg_id="e")
    recall = say("a", "b", "", kind="recall", about=message.id, client_msg_id="r")
    first = stored(log, edit, recall)
    assert log.writer.append(APP, [say("a", "b", "x", kind="edit", about=message.id)]) == [
        Rejected("recalled")
    ]
    again = log.writer.append(APP, [say("a", "b", "secret", client_msg_id="m"), edit, recall])
    assert [(each.entry.id, each.repeated) for each in again if isinstance(each, Appended)] == [
        (message.id, True),
        *((entry.id, True) for entry in first),
    ]
    assert bodies(log.entries.read(APP, 0, 10)) == ["", "", ""]


@pytest.mark.usefixtures("small")
def test_the_edits_of_a_message_are_limited_and_it_can_still_be_recalled(log: MessageLog) -> None:
    first, second = stored(log, say("a", "b", "0"), say("a", "b", "other"))
    edits = [say("a", "b", str(n), kind="edit", about=first.id, client_msg_id=str(n)) for n in range(1, 5)]
    stored(log, edits[0])
    outcomes = log.writer.append(APP, edits)
    assert [isinstance(one, Appended) for one in outcomes] == [True, True, True, False]
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason == "full"
    assert bodies(log.entries.history(APP, "b", first.conversation, 0, 10)[0]) == [
        "3",
        "other",
        "3",
        "3",
        "3",
    ]
    stored(log, say("a", "b", "x", kind="edit", about=second.id))
    stored(log, say("a", "b", "", kind="recall", about=first.id))
    assert bodies(log.entries.history(APP, "b", first.conversation, 0, 10)[0]) == [
        "",
        "x",
        "",
        "",
        "",
        "x",
        "",
    ]


def test_who_has_left_a_group_sees_nothing_of_what_came_later(log: MessageLog) -> None:
    group = log.groups.create(APP, "a", "tea", ["b", "c"]).conversation
    question = json.dumps({"ask": {"options": [{"text": "Yes", "value": "yes"}], "need": 2}}).encode()
    texts = ("first", "second", "third", "fourth")
    edited, again, liked, begun = (
        each.id for each in stored(log, *(say("a", group, text) for text in texts))
    )
    (choice,) = (each.id for each in stored(log, say("a", group, "tea?", meta=question)))
    (edit,) = stored(log, say("a", group, "edited once", kind="edit", about=again))
    log.annotations.react(APP, "c", liked, "+1")
    log.groups.leave(APP, group, ["b"], "a")

    def views(reader: str) -> list[Entry]:
        pages = [log.entries.history(APP, reader, group, 0, 50)[0], log.entries.sync(APP, reader, 0, 50)[0]]
        pages += [
            log.entries.readable(APP, reader, range(1, 50)),
            log.search.find(APP, reader, Search("", 0, 0, 50))[0],
        ]
        return [each for page in pages for each in page]

    before = views("b")
    for about in (edited, again):
        stored(log, say("a", group, "of later", kind="edit", about=about))
    log.annotations.react(APP, "a", liked, "+2")
    stored(log, say("c", group, "a reply of later", thread=begun))
    log.asks.answer(APP, "c", choice, value="yes")
    changed = (edited, again, edit.id)
    after = views("b")
    assert [each for each in after if each.id not in (*changed, liked)] == [
        each for each in before if each.id not in (*changed, liked)
    ]
    assert {(each.kind, each.body, each.meta) for each in after if each.id in changed} == {
        ("recall", b"", b"")
    }
    assert {(each.body, each.reactions) for each in after if each.id == liked} == {(b"third", ())}
    assert log.search.find(APP, "b", Search("later", 0, 0, 10))[0] == []
    assert log.asks.get(APP, "b", choice).ask.answers == ()
    assert "of later" in bodies(views("c"))

    log.groups.join(APP, group, ["b"], "a")
    assert "of later" in bodies(log.entries.readable(APP, "b", [edited]))
