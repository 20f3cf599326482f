"""Where a messenger stands in the log, without a server."""

from math import inf
from time import monotonic
from typing import Any

import pytest

from imserver.client.entries import BeginAnew, Entry
from imserver.client.inbox import ACK_ENTRIES, ACK_SECONDS, Inbox


def entry(id: int) -> dict[str, Any]:
    return {
        "id": id,
        "conversation": 1,
        "seq": id,
        "kind": "message",
        "from": "ann",
        "type": "text",
        "text": "x",
    }


def told(id: int) -> Entry:
    found = Entry.of(entry(id))
    assert found is not None
    return found


def page(*ids: int, more: bool = False, **other: Any) -> dict[str, Any]:
    return {"messages": [entry(id) for id in ids], "hasMore": more, **other}


def live(cursor: int = 0) -> Inbox:
    inbox = Inbox(cursor)
    inbox.login_fields()
    assert inbox.logged_in({"recovered": True}) is None
    return inbox


def test_the_login_says_where_the_client_stands() -> None:
    assert Inbox(7).login_fields() == {"cursor": 7, "acks": True}
    assert Inbox(None).login_fields() == {}


def test_what_was_recovered_needs_no_question() -> None:
    inbox = live(3)
    assert inbox.told(told(4))
    assert inbox.cursor == 4


def test_what_is_told_again_is_passed_over_and_acknowledged_again() -> None:
    inbox = live()
    assert inbox.told(told(4))
    now = monotonic() + ACK_SECONDS
    assert inbox.ack(now) == ("ack", {"id": 4})
    assert inbox.ack(now) is None
    assert not inbox.told(told(4))
    assert inbox.ack(now + ACK_SECONDS) == ("ack", {"id": 4})


def test_pages_are_asked_for_until_there_are_no_more() -> None:
    inbox = Inbox(1)
    inbox.login_fields()
    ask = inbox.logged_in({"recovered": False})
    assert ask is not None
    assert (ask[0], ask[1]["cursor"]) == ("sync", 1)
    brought, ask = inbox.answered("sync", page(2, 5, more=True))
    assert [each.id for each in brought if isinstance(each, Entry)] == [2, 5]
    assert ask is not None
    assert ask[1]["cursor"] == 5
    assert not inbox.told(told(9)), "it comes again in a page"
    brought, ask = inbox.answered("sync", page(6, 9))
    assert [each.id for each in brought if isinstance(each, Entry)] == [6, 9]
    assert ask is None
    assert inbox.told(told(10))


def test_a_cursor_that_is_void_begins_at_the_first() -> None:
    inbox = Inbox(500)
    inbox.login_fields()
    inbox.logged_in({"recovered": False})
    brought, ask = inbox.answered("sync", page(beginAnew=True))
    assert brought == [BeginAnew()]
    assert ask is not None
    assert ask[1]["cursor"] == 0
    assert not inbox.told(told(501))
    brought, ask = inbox.answered("sync", page(1))
    assert ask is None
    assert inbox.cursor == 1


def test_from_now_on_begins_behind_the_newest_of_all() -> None:
    inbox = Inbox(None)
    inbox.login_fields()
    assert inbox.logged_in(None) == ("conversations", {"limit": 1})
    newest = {"id": 3, "kind": "user", "peer": "bob", "last": entry(40), "place": 41}
    brought, ask = inbox.answered("conversations", {"conversations": [newest], "hasMore": True})
    assert brought == []
    assert ask is not None
    assert (ask[0], ask[1]["cursor"]) == ("sync", 41)


def test_who_has_no_conversation_begins_at_the_first() -> None:
    inbox = Inbox(None)
    inbox.login_fields()
    inbox.logged_in(None)
    inbox.answered("conversations", {"conversations": [], "hasMore": False})
    assert inbox.cursor == 0


def test_many_are_acknowledged_before_their_time() -> None:
    inbox = live()
    for id in range(1, ACK_ENTRIES):
        inbox.told(told(id))
    now = monotonic()
    assert inbox.ack(now) is None
    assert now < inbox.ack_at() <= now + ACK_SECONDS
    inbox.told(told(ACK_ENTRIES))
    assert inbox.ack(now) == ("ack", {"id": ACK_ENTRIES})
    assert inbox.ack_at() == inf


def test_without_a_cursor_in_the_login_nothing_is_acknowledged() -> None:
    inbox = Inbox(None)
    inbox.login_fields()
    inbox.logged_in(None)
    inbox.answered("conversations", {"conversations": [], "hasMore": False})
    inbox.answered("sync", page(1))
    assert inbox.ack(monotonic() + 60) is None
    assert inbox.login_fields() == {"cursor": 1, "acks": True}


def test_one_mark_stands_for_all_messages_of_ours_in_a_row() -> None:
    inbox = live()
    mark = inbox.stored(3)
    assert mark is not None
    assert inbox.stored(5) is None
    assert inbox.stored(4) is None
    assert mark.take() == 5
    again = inbox.stored(6)
    assert again is not None
    inbox.told(told(7))
    behind = inbox.stored(8)
    assert behind is not None
    assert (again.take(), behind.take()) == (6, 8)
    assert inbox.cursor == 8


@pytest.mark.parametrize(
    "data", [None, {}, {"messages": 1, "hasMore": False}, {"messages": [{}], "hasMore": False}]
)
def test_an_answer_that_makes_no_sense_is_said(data: Any) -> None:
    inbox = Inbox(1)
    inbox.login_fields()
    inbox.logged_in(None)
    with pytest.raises(ValueError, match=r"\w"):
        inbox.answered("sync", data)


def test_our_own_message_takes_nobody_past_what_pages_still_bring() -> None:
    inbox = Inbox(None)
    inbox.login_fields()
    inbox.logged_in(None)
    assert inbox.stored(42) is None, "who stops here and comes back has to be given 41"
    inbox.answered("conversations", {"conversations": [], "hasMore": False})
    brought, _ = inbox.answered("sync", page(41, 42))
    assert [each.id for each in brought if isinstance(each, Entry)] == [41, 42]
    mark = inbox.stored(43)
    assert mark is not None
    assert mark.take() == 43
