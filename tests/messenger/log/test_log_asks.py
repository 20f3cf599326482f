"""Questions and their answers, and what is said in rooms, on every engine."""

import json
import tracemalloc
from time import time
from typing import Any

import gevent
import pytest

from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.store import Store
from imserver.messenger.log.asks import AskChange, AskRefused
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import (
    Draft,
    Entry,
    LogExtent,
    PublicationPage,
    Rejected,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import Ask, AskOption, ask_in
from imserver.messenger.search.search import EntrySearch
from tests.messenger.log.test_log import APP, group_of, say, stored
from tests.stores import WriteAt

YES_NO = ({"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"})


def meta_of(**fields: Any) -> bytes:
    return json.dumps(
        {"ask": {"options": YES_NO, **fields}}, separators=(",", ":")
    ).encode()


def ask(
    log: MessageLog, sender: str, group: int = 0, to: str = "", **fields: Any
) -> int:
    """The id of a new question."""
    draft = Draft(
        sender=sender,
        body=b"tea?",
        conversation=group,
        to_user=to,
        meta=meta_of(**fields),
    )
    return stored(log, draft)[0].id


def answered(result: AskChange | Rejected) -> Entry:
    assert isinstance(result, AskChange), result
    assert result.entry is not None
    return result.entry


def refusal(result: AskChange | Rejected) -> str:
    assert isinstance(result, Rejected), result
    return result.reason


def state(store: Store, reader: str, id: int) -> Ask:
    """The question in each view of the log, which all show the same."""
    log = store.part(MessageLog)
    (entry,) = log.entries.readable(APP, reader, [id])
    seen = ask_in(entry.meta)
    assert seen is not None
    pages = (
        log.entries.history(APP, reader, entry.conversation, 0, 50)[0],
        log.entries.sync(APP, reader, 0, 50)[0],
        store.part(EntrySearch).find(APP, reader, Search("tea", 0, 0, 50))[0],
    )
    for page in pages:
        assert [ask_in(one.meta) for one in page if one.id == id] == [seen]
    found = log.asks.get(APP, reader, id)
    assert found.ask == seen
    return seen


def users(seen: Ask) -> list[tuple[str, str]]:
    return [(each.user, each.value or each.text) for each in seen.answers]


def test_the_first_answer_closes_the_question_in_every_view(
    log: MessageLog, store: Store
) -> None:
    group = group_of(log, "a", "b", "c", "d")
    id = ask(log, "a", group)
    log.groups.leave(APP, group, ["d"], "d")
    assert log.asks.changes(APP, id - 1) == (set(), id + 1)
    entry = answered(log.asks.answer(APP, "b", id, value="yes"))
    assert log.asks.changes(APP, id) == ({id}, id + 2)
    assert log.asks.get(APP, "d", id).ask.answers == (), (
        "who has left sees nothing of what came later"
    )  # type: ignore[union-attr]
    assert (entry.kind, entry.type, entry.body, entry.about) == (
        "press",
        "answer",
        b"yes",
        id,
    )
    (answer,) = json.loads(entry.meta)["ask"].pop("answers")
    assert json.loads(entry.meta)["ask"]["state"] == "answered"
    assert (answer["user"], answer["value"]) == ("b", "yes")
    for reader in ("a", "b", "c"):
        assert (state(store, reader, id).state, users(state(store, reader, id))) == (
            "answered",
            [("b", "yes")],
        )
    late = log.asks.answer(APP, "c", id, value="no")
    assert isinstance(late, AskRefused)
    assert (late.reason, late.ask) == ("answered", state(store, "c", id))
    assert log.conversations.page(APP, "a", 0, 10)[0][0].unread == 0


def test_many_at_once_get_one_answer(log: MessageLog, store: Store) -> None:
    names = [f"u{number}" for number in range(12)]
    group = group_of(log, "a", *names)
    id = ask(log, "a", group)
    tries = [
        gevent.spawn(log.asks.answer, APP, user, id, value=value)
        for user in names
        for value in ("yes", "no")
    ]
    gevent.joinall(tries, raise_error=True)
    entries = [
        one.value.entry
        for one in tries
        if isinstance(one.value, AskChange) and one.value.entry
    ]
    assert len(entries) == 1
    seen = state(store, "a", id)
    assert users(seen) == [(entries[0].sender, entries[0].body.decode())]
    assert {one.value.ask for one in tries if isinstance(one.value, AskRefused)} == {
        seen
    }


def test_a_question_may_need_answers_of_several_users(
    log: MessageLog, store: Store
) -> None:
    group = group_of(log, "a", "b", "c", "d")
    id = ask(log, "a", group, need=2, text=True)
    answered(log.asks.answer(APP, "b", id, value="yes"))
    assert refusal(log.asks.answer(APP, "b", id, value="no")) == "answered"
    assert state(store, "d", id).state == ""
    answered(log.asks.answer(APP, "c", id, text="perhaps"))
    assert refusal(log.asks.answer(APP, "d", id, value="yes")) == "answered"
    assert users(state(store, "d", id)) == [("b", "yes"), ("c", "perhaps")]


def test_who_may_answer(log: MessageLog) -> None:
    group = group_of(log, "a", "b", "c", "d", "e")
    id = ask(log, "a", group, of=["b", "c", "d", "e"], need=4)
    assert refusal(log.asks.answer(APP, "a", id, value="yes")) == "not_allowed"
    assert refusal(log.asks.answer(APP, "x", id, value="yes")) == "unknown_message"
    log.groups.leave(APP, group, ["b"], "b")
    assert refusal(log.asks.answer(APP, "b", id, value="yes")) == "unknown_message"
    log.groups.set_member(APP, group, "c", muted_until=int(time()) + 60)
    assert refusal(log.asks.answer(APP, "c", id, value="yes")) == "muted"
    assert refusal(log.asks.answer(APP, "d", id, value="maybe")) == "invalid"
    assert refusal(log.asks.answer(APP, "d", id, text="maybe")) == "invalid"
    assert refusal(log.asks.answer(APP, "d", id)) == "invalid"
    only = ask(log, "a", group, of=["d"], text=True)
    assert refusal(log.asks.answer(APP, "e", only, value="yes")) == "not_allowed"
    assert (
        refusal(
            log.asks.answer(APP, "d", only, text="x" * (Limit.ANSWER_CHARACTERS + 1))
        )
        == "invalid"
    )
    plain = stored(log, say("a", "b", "hello"))[0].id
    assert refusal(log.asks.answer(APP, "b", plain, value="yes")) == "unknown_message"


def test_the_author_cancels_reminds_and_escalates(log: MessageLog) -> None:
    group = group_of(log, "a", "b", "c")
    id = ask(log, "a", group, of=["b"])
    for act in (log.asks.cancel, log.asks.remind):
        assert refusal(act(APP, "b", id)) == "unknown_message"
    assert answered(log.asks.remind(APP, "a", id)).type == "remind"
    assert refusal(log.asks.escalate(APP, "a", id, ["x"])) == "not_member"
    assert refusal(log.asks.escalate(APP, "a", id, ["a"])) == "invalid"
    entry = answered(log.asks.escalate(APP, "a", id, ["b", "c"]))
    assert (entry.type, json.loads(entry.meta)) == (
        "escalate",
        {"ask": {"of": ["b", "c"]}},
    )
    again = log.asks.escalate(APP, "a", id, ["c"])
    assert isinstance(again, AskChange)
    assert again.entry is None
    assert answered(log.asks.cancel(APP, "", id)).sender == ""
    again = log.asks.cancel(APP, "a", id)
    assert isinstance(again, AskChange)
    assert again.entry is None
    for late in (
        log.asks.answer(APP, "c", id, value="yes"),
        log.asks.remind(APP, "a", id),
    ):
        assert isinstance(late, AskRefused)
        assert late.ask.state == "cancelled"
    id = ask(log, "b", group, of=["a"])  # who was removed or muted only cancels
    log.groups.set_member(APP, group, "b", muted_until=int(time()) + 60)
    for reason in ("muted", "unknown_message"):
        assert refusal(log.asks.remind(APP, "b", id)) == reason
        assert refusal(log.asks.escalate(APP, "b", id, ["c"])) == reason
        log.groups.leave(APP, group, ["b"])
    assert answered(log.asks.cancel(APP, "b", id)).type == "cancel"


def test_a_deadline_closes_it_once(log: MessageLog) -> None:
    group = group_of(log, "a", "b")
    now = log.asks.time_ms()
    late = ask(log, "a", group, until=now - 1)
    later = ask(log, "a", group, until=now + 60_000)
    due, left = log.asks.due()
    assert [message for _, message in due] == [late]
    assert left is not None
    assert 0 < left <= 60
    first = log.asks.expire(APP, late)
    second = log.asks.expire(APP, late)
    entry = answered(first)
    assert (entry.type, entry.sender, json.loads(entry.meta)) == (
        "expire",
        "",
        {"ask": {"state": "expired"}},
    )
    assert isinstance(second, AskChange)
    assert second.entry is None
    assert isinstance(open := log.asks.expire(APP, later), AskChange)
    assert (open.entry, open.ask.state) == (None, "")
    answered(log.asks.answer(APP, "b", later, value="yes"))
    assert log.asks.due() == ([], None)
    last = ask(log, "a", group, until=log.asks.time_ms() - 1)
    refused = log.asks.answer(APP, "b", last, value="yes")
    assert isinstance(refused, AskRefused)
    assert refused.ask.state == "expired"
    assert [one.type for one in log.entries.sync(APP, "b", last, 10)[0]] == ["expire"]


def edit(
    log: MessageLog, about: int, text: bytes, sender: str = "a", meta: bytes = b""
) -> str:
    """Edit a message; the reason of a refusal, or ``""``."""
    draft = Draft(
        sender=sender, kind="edit", body=text, about=about, conversation=1, meta=meta
    )
    (result,) = log.writer.append(APP, [draft])
    return result.reason if isinstance(result, Rejected) else ""


def test_an_edit_changes_no_options_and_makes_no_question(
    log: MessageLog, store: Store
) -> None:
    stored(log, say("a", "b", "hello"))
    id = ask(log, "a", to="b")
    before = state(store, "b", id)
    other = json.dumps({"ask": {"options": [{"text": "All", "value": "all"}]}}).encode()
    assert edit(log, id, b"more tea?", meta=other) == ""
    assert state(store, "b", id) == before
    plain = stored(log, say("a", "b", "plain tea"))[0].id
    assert edit(log, plain, b"tea", meta=other) == ""
    (entry,) = log.entries.readable(APP, "b", [plain])
    assert ask_in(entry.meta) is None


@pytest.mark.parametrize("by", ["a", ""])
def test_what_was_answered_keeps_its_text(log: MessageLog, by: str) -> None:
    """By whoever edits it: its author, or a back end."""
    stored(log, say("a", "b", "hello"))
    question = ask(log, "a", to="b", need=2)
    poll = ask(log, "a", to="b", of=[], poll={"anonymous": True})
    answered(log.asks.answer(APP, "b", question, value="no"))
    for choices in ([1], [0]):
        # the second vote is not counted yet
        log.asks.answer(APP, "b", poll, choices=choices)
    assert [edit(log, id, b"coffee?", by) for id in (question, poll)] == [
        "fixed",
        "fixed",
    ]
    log.asks.answer(APP, "b", poll, choices=[])
    assert edit(log, poll, b"coffee?", by) == ""
    log.asks.answer(APP, "b", poll, choices=[1])
    log.asks.cancel(APP, "a", poll)  # which forgets the votes
    assert edit(log, poll, b"milk?", by) == "fixed"
    texts = [entry.body for entry in log.entries.readable(APP, "b", [question, poll])]
    assert texts == [b"tea?", b"coffee?"]


def test_a_fixed_question_never_changes_and_may_be_recalled(
    log: MessageLog, store: Store
) -> None:
    stored(log, say("a", "b", "hello"))
    id = ask(log, "a", to="b", fixed=True)
    assert [edit(log, id, b"good morning?", by) for by in ("a", "")] == [
        "fixed",
        "fixed",
    ]
    answered(log.asks.answer(APP, "b", id, value="yes"))
    assert state(store, "b", id).fixed
    log.removals.remove(APP, "act", [id])
    assert log.removals.restore(APP, "act") == 1
    assert edit(log, id, b"good morning?") == "fixed"
    stored(log, Draft(sender="a", kind="recall", type="", about=id, conversation=1))
    assert log.asks.get(APP, "b", id) is None


def test_a_recalled_question_is_none(log: MessageLog) -> None:
    stored(log, say("a", "b", "hello"))
    id = ask(log, "a", to="b", until=log.asks.time_ms() - 1)
    stored(log, Draft(sender="a", kind="recall", type="", about=id, conversation=1))
    assert refusal(log.asks.answer(APP, "b", id, value="yes")) == "recalled"
    assert log.asks.get(APP, "b", id) is None
    ((_, due),) = log.asks.due()[0]
    assert refusal(log.asks.expire(APP, due)) == "recalled"
    log.asks.forget(APP, due)
    assert log.asks.due() == ([], None)


def test_a_removed_question_comes_back_as_it_was(log: MessageLog, store: Store) -> None:
    stored(log, say("a", "b", "hello"))
    until = log.asks.time_ms() + 60_000
    id = ask(log, "a", to="b", until=until)
    log.removals.remove(APP, "act", [id])
    log.asks.forget(APP, id)
    assert log.asks.due() == ([], None)
    log.removals.restore(APP, "act")
    assert state(store, "b", id).until == until
    assert log.asks.due()[1] is not None
    answered(log.asks.answer(APP, "b", id, value="yes"))


def test_an_erased_user_leaves_no_name_and_no_text(
    log: MessageLog, store: Store
) -> None:
    group = group_of(log, "a", "yes", "c")
    id = ask(log, "a", group, of=["yes", "c"], need=2, text=True)
    answered(log.asks.answer(APP, "yes", id, text="my secret"))
    answered(log.asks.answer(APP, "c", id, value="yes"))
    log.erase_user(APP, "yes", "erased-1")
    seen = state(store, "c", id)
    assert users(seen) == [("erased-1", ""), ("c", "yes")]
    assert seen.of == ("erased-1", "c")
    assert seen.options == (AskOption("Yes", "yes"), AskOption("No", "no"))
    for entry in log.entries.sync(APP, "c", 0, 50)[0]:
        assert b"secret" not in entry.meta + entry.body


def test_a_question_in_a_thread_and_expired_entries_that_take_their_deadlines_along(
    log: MessageLog,
) -> None:
    group = group_of(log, "a", "b")
    root = ask(log, "a", group, until=log.asks.time_ms() - 1)
    id = stored(
        log,
        Draft(
            sender="a", body=b"tea?", conversation=group, thread=root, meta=meta_of()
        ),
    )[0].id
    answered(log.asks.answer(APP, "b", id, value="yes"))
    replies = log.threads.replies(APP, "b", root, 0, 10)
    assert [(one.id, ask_in(one.meta).state) for one in replies[0]] == [
        (id, "answered")
    ]  # type: ignore[union-attr]
    log.expire(APP, more_than=1)
    assert log.asks.due() == ([], None)


# --- rooms, beyond what the model of the log asks -----------------------------


def draft_to(room: str, body: str = "hi", sender: str = "ann") -> Draft:
    """What somebody says in a room."""
    return Draft(sender=sender, body=body.encode(), room=room)


def test_a_page_of_a_channel_has_what_fits_and_who_says_something_there_is_no_member(
    log: MessageLog, search: EntrySearch
) -> None:
    for name in ("安", "it's %s \\", "x" * Limit.ROOM_BYTES):
        entries = stored(log, draft_to(name))
        assert (entries[0].room, entries[0].members) == (name, ())
        assert log.entries.channel_page(APP, name, None, 9).entries == entries
    first, second, third = stored(log, *[draft_to("big", "x" * (PAGE_BYTES // 2))] * 3)
    for reverse, entries in ((False, [first, second]), (True, [third, second])):
        found = log.entries.channel_page(APP, "big", None, 9, reverse)
        assert (found.entries, found.more) == (entries, True)
    assert log.entries.channel_page("other", "big", None, 9) == PublicationPage(
        [], False, 0, LogExtent(0, 0)
    )
    room = log.conversations.get(APP, first.conversation)
    assert (room.kind, room.name, room.members, room.last_id) == ("room", "big", (), 6)
    assert log.conversations.memberships(APP, "ann") == []
    wanted = Search("x" * 9, first.conversation, 0, 10)
    assert search.find(APP, "ann", wanted)[0] == []


def test_what_does_not_fit_on_a_page_of_a_channel_is_not_loaded(
    log: MessageLog,
) -> None:
    stored(log, *[draft_to("big", "x" * PAGE_BYTES)] * 16)
    tracemalloc.start()
    try:
        for reverse in (False, True):
            page = log.entries.channel_page(APP, "big", None, 16, reverse)
            assert (len(page.entries), page.more) == (1, True)
        assert tracemalloc.get_traced_memory()[1] < 5 * PAGE_BYTES
    finally:
        tracemalloc.stop()


def test_a_recalled_message_is_no_publication_and_its_recall_is_read_with_the_revisions(
    log: MessageLog,
) -> None:
    first, second = stored(log, draft_to("r", "one"), draft_to("r", "two"))
    (recall,) = stored(
        log,
        Draft(
            sender="", kind="recall", about=first.id, conversation=first.conversation
        ),
    )
    stored(log, draft_to("r", "three"))
    found = log.entries.channel_page(APP, "r", None, 9)
    assert [entry.body for entry in found.entries] == [b"two", b"three"]
    assert found.last == 4
    page = log.entries.channel_page(APP, "r", None, 2, reverse=True, revisions=True)
    assert ([entry.id for entry in page.entries], page.more) == ([4, recall.id], True)
    page = log.entries.channel_page(
        APP, "r", recall.id, 9, reverse=True, revisions=True
    )
    assert [(entry.id, entry.kind) for entry in page.entries] == [
        (second.id, "message"),
        (1, "recall"),
    ]
    assert not page.more


def test_what_was_stored_before_a_moment_is_found(
    log: MessageLog, write_at: WriteAt
) -> None:
    assert log.entries.stored_before(APP, 10**10) == 0
    for now in (100, 100, 200, 300):
        write_at(now)
        stored(log, draft_to("r"), draft_to("s"))
    assert [
        log.entries.stored_before(APP, time)
        for time in (99, 100, 101, 200, 201, 300, 301)
    ] == [0, 0, 4, 4, 6, 6, 8]
