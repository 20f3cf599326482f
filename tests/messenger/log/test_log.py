"""The message log, on every engine: SQLite, PostgreSQL and MariaDB."""

import json
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult

from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage import database
from imserver.gateway.storage.statements import PooledStatements
from imserver.messenger.log.contract import (
    MOST_UNREAD,
    Appended,
    AppendRequest,
    Change,
    ConversationSummary,
    Draft,
    Entry,
    Rejected,
    RejectReason,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.storage.test_migrations import at_step
from tests.messenger.accounts import add_account
from tests.messenger.log_file import Listening
from tests.stores import OpenStore, WriteAt

APP = "gochat"


def say(sender: str, to: str | int, body: str = "hi", **fields: Any) -> Draft:
    """A draft to a user or, by its number, to a conversation."""
    where: dict[str, Any] = (
        {"conversation": to} if isinstance(to, int) else {"to_user": to}
    )
    return Draft(sender=sender, body=body.encode(), **where, **fields)


def stored(log: MessageLog, *drafts: Draft, app: str = APP) -> list[Entry]:
    """The entries of drafts that are all stored, for the first time."""
    entries = []
    for outcome in log.writer.append(app, drafts):
        assert not outcome.repeated
        entries.append(outcome.entry)
    return entries


def group_of(log: MessageLog, *users: str) -> int:
    """The number of a new group."""
    return log.groups.create(APP, users[0], "tea", users[1:]).conversation


def bodies(entries: list[Entry]) -> list[str]:
    return [entry.body.decode() for entry in entries]


def ids(entries: list[Entry]) -> list[int]:
    return [entry.id for entry in entries]


@pytest.mark.parametrize(
    "page", ["sync", "rooms", "oldest", "newest", "replies", "pins"]
)
def test_a_page_reads_no_more_texts_than_it_has(log: MessageLog, page: str) -> None:
    text = "x" * 100_000
    in_room = Draft(sender="a", room="r", body=text.encode())
    drafts = [say("a", "b", text), say("a", "b", text, thread=1), in_room]
    stored(log, say("a", "b"))
    for _ in range(25):
        for entry in stored(log, *drafts)[:1]:
            log.annotations.pin(APP, "a", entry.id)
    reader = log.entries
    pages: dict[str, Callable[[], Any]] = {
        "sync": lambda: reader.sync(APP, "b", 0, 200),
        "rooms": lambda: reader.catch_up(APP, "b", 0, 200, {"": 0, "r": 0}),
        "oldest": lambda: reader.history(APP, "b", 1, 0, 200, after=0),
        "newest": lambda: reader.history(APP, "b", 1, 0, 200),
        "replies": lambda: log.threads.replies(APP, "b", 1, 0, 200),
        "pins": lambda: reader.pins(APP, "b", 1),
    }
    tracemalloc.start()
    try:
        entries, more = pages[page]()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < sum(len(entry.body) for entry in entries) <= PAGE_BYTES
    assert more
    assert peak < 4 * PAGE_BYTES


# --- appending ----------------------------------------------------------------


def test_a_log_continues_after_an_id_but_never_goes_back(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url, seconds=10)
    for last_id, expected in ((900, 901), (5, 902), (902, 903), (2**52, 2**52 + 1)):
        store.part(MessageLog).continue_after(APP, last_id)
        assert ids(stored(store.part(MessageLog), say("a", "b"))) == [expected]
    assert ids(stored(store.part(MessageLog), say("a", "b"), app="another")) == [1]
    assert len(store.part(MessageLog).entries.sync(APP, "b", 900, 10)[0]) == 4


def test_an_entry_comes_out_as_it_went_in(log: MessageLog) -> None:
    draft = say(
        "系统 a'\\%s",
        "ö:?",
        type="picture",
        client_msg_id="é" * 32,
        time_ms=Limit.MIN_TIME_MS,
        about=7,
        meta=b'{"mentions": ["\xc3\xb6"]}',
    )
    every_byte = bytes(range(256)) * 400
    whole = Draft(
        **{name: getattr(draft, name) for name in Draft.__struct_fields__}
        | {"body": every_byte}
    )
    before = int(time.time()) * 1000
    entry, now = stored(log, whole, say("a", "b"))
    assert log.entries.read(APP, 0, 10) == [entry, now]
    assert before <= now.time_ms <= time.time() * 1000, (
        "without a time it gets that of the server"
    )
    assert entry.body == every_byte
    assert (entry.time_ms, entry.about, entry.type) == (draft.time_ms, 7, "picture")
    assert entry.members == ("ö:?", "系统 a'\\%s")
    assert entry.peer("ö:?") == "系统 a'\\%s"
    assert entry.peer("系统 a'\\%s") == "ö:?"


def test_apps_have_logs_of_their_own(log: MessageLog) -> None:
    stored(log, say("a", "b", "first"))
    stored(log, say("a", "b", "second"), app="other")
    stored(log, say("a", "b", "third"), app="Other")
    (sent,) = stored(log, say("ann", "bob", client_msg_id="c"), app="Other")
    others = (
        ("other", "ann", "c"),
        ("Other", "bob", "c"),
        ("Other", "ann", "C"),
        ("Other", "ann", ""),
    )
    assert [log.entries.sent(*each) for each in (("Other", "ann", "c"), *others)] == [
        sent,
        *[None] * 4,
    ]
    assert [log.entries.head(app) for app in (APP, "other", "Other", "none")] == [
        1,
        1,
        2,
        0,
    ]
    assert log.entries.heads([APP, "none", "Other"]) == {APP: 1, "Other": 2}
    assert (log.entries.heads([]), log.entries.apps()) == ({}, ["Other", APP, "other"])
    assert bodies(log.entries.sync("other", "b", 0, 10)[0]) == ["second"]


@pytest.mark.parametrize(
    "draft",
    [
        say("a" * 256, "b"),
        say("a", "b\0"),
        say("a", "\ud800"),
        say("a", "b", client_msg_id="é" * 33),
        say("a", "b", type="t" * 33),
        say("a", "b", time_ms=Limit.TIME_MS + 1),
        say("a", "b", time_ms=Limit.MIN_TIME_MS - 1),
        say("a", "b", about=-1),
        say("a", "b", "x" * (1 << 20) + "x"),
        Draft(sender="a"),
        Draft(sender="a", to_user="b", conversation=1),
        Draft(sender="a", room="r", to_user="b"),
        Draft(sender="a", room="r", conversation=1),
        Draft(sender="a", room="r", thread=1),
        Draft(sender="a", to_user="b", thread=-1),
        *(
            Draft(sender="a", room=room)
            for room in ("x" * (Limit.ROOM_BYTES + 1), "\0", "\0\0", "\ud800")
        ),
        Draft(sender="a", to_user="b", kind="shout"),  # type: ignore[arg-type]
        Draft(sender="a", to_user="b", kind="reaction", about=1),
    ],
    ids=lambda draft: repr(draft)[:60],
)
def test_a_draft_that_cannot_be_stored_costs_the_others_nothing(
    log: MessageLog, draft: Draft
) -> None:
    first, wrong, last = log.writer.append(APP, [say("a", "b"), draft, say("a", "b")])
    assert wrong.reason == "invalid"
    assert (first.entry.id, last.entry.id) == (1, 2)


# --- resends ------------------------------------------------------------------


def test_many_who_resend_at_once_are_stored_once(log: MessageLog) -> None:
    drafts = [
        say("a", "b", str(number % 10), client_msg_id=str(number % 10))
        for number in range(100)
    ]
    greenlets = [gevent.spawn(log.writer.append, APP, [draft]) for draft in drafts]
    outcomes = [one.get(timeout=60)[0] for one in greenlets]
    assert sum(not outcome.repeated for outcome in outcomes) == 10
    assert log.entries.head(APP) == 10
    assert {outcome.entry.body for outcome in outcomes} == {
        b"%d" % number for number in range(10)
    }


# --- what is told -------------------------------------------------------------


def test_whoever_delivers_learns_of_each_transaction_in_order_and_first(
    log: MessageLog,
) -> None:
    received: list[tuple[str, int, int, list[int]]] = []
    log.writer.report_to(
        Listening(
            lambda app, first, last, entries: received.append(
                (app, first, last, ids(entries))
            )
        )
    )
    heard: list[bool] = []

    def send(number: int) -> None:
        (outcome,) = log.writer.append(APP, [say(str(number), "b")])
        heard.append(
            any(first <= outcome.entry.id <= last for _, first, last, _ in received)
        )

    gevent.joinall([gevent.spawn(send, number) for number in range(200)], timeout=60)
    assert heard == [True] * 200
    assert [id for _, _, _, some in received for id in some] == list(range(1, 201))
    assert all(
        list(range(first, last + 1)) == some for _, first, last, some in received
    )
    assert len(received) < 100, "those who come at once share transactions"
    log.writer.append(APP, [say("0", 99)])
    assert received[-1][2] == 200, "where nothing was stored there is nothing to tell"


def test_a_listener_that_fails_costs_nobody_the_answer(
    log: MessageLog, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("oh")

    log.writer.report_to(Listening(fail))
    stored(log, say("a", "b"))
    assert "could not be delivered" in caplog.text


# --- groups -------------------------------------------------------------------


def test_whom_a_user_knows_by_groups_and_by_what_they_have_written(
    log: MessageLog,
) -> None:
    others = ["bob", "dan", "eve", "fay", "gus"]
    group = log.groups.create(APP, "ann", "tea", ["bob", "gus"])
    log.groups.leave(APP, group.conversation, ["gus"], "ann")
    stored(
        log,
        say("ann", "cid"),
        say("dan", "ann"),
        say("ann", "eve"),
        say("ann", "eve"),
        say("eve", "cid"),
    )
    stored(
        log, say("ann", "bob"), say("ann", "gus"), say("fay", "ann"), say("ann", "fay")
    )
    assert log.conversations.acquainted(APP, "ann", [*others, "cid"]) == {
        "bob",
        "dan",
        "fay",
    }
    assert log.conversations.acquainted(APP, "cid", [*others, "ann"]) == {"ann", "eve"}
    assert log.conversations.acquainted("103", "ann", others) == set()
    assert log.conversations.acquainted(APP, "ann", []) == set()
    stored(log, say("eve", "ann"))
    assert log.conversations.acquainted(APP, "ann", others * 2) == {
        "bob",
        "dan",
        "eve",
        "fay",
    }


def test_a_draft_for_a_group_is_stored_in_no_conversation_of_another_kind(
    log: MessageLog,
) -> None:
    (pair,) = stored(log, say("a", "b"))
    (room,) = stored(log, Draft(sender="a", room="r"))
    group = log.groups.create(APP, "a", "", ["b"]).conversation
    drafts = [
        say(sender, at, group=True)
        for sender in ("a", "")
        for at in (pair.conversation, group)
    ]
    drafts += [say("", room.conversation, group=True), say("a", pair.conversation)]
    outcomes = log.writer.append(APP, drafts)
    reasons = [one.reason if isinstance(one, Rejected) else "" for one in outcomes]
    assert reasons == [
        RejectReason.UNKNOWN_CONVERSATION,
        "",
        RejectReason.UNKNOWN_CONVERSATION,
        "",
        RejectReason.UNKNOWN_CONVERSATION,
        "",
    ]


def test_a_new_group_has_its_options_from_the_first_entry_on(log: MessageLog) -> None:
    at = log.groups.create(APP, "a", "", [], options={"history": "all"}).conversation
    stored(log, say("a", at, "before"))
    log.groups.join(APP, at, ["b"], "a")
    assert "before" in bodies(log.entries.history(APP, "b", at, 0, 100)[0])


def test_many_who_join_the_same_user_at_once_make_one_membership(
    log: MessageLog,
) -> None:
    at = log.groups.create(APP, "a", "", []).conversation
    joining = [gevent.spawn(log.groups.join, APP, at, ["b"]) for _ in range(20)]
    assert sum(one.get(timeout=60).entry is not None for one in joining) == 1
    assert len(log.conversations.memberships(APP, "b")) == 1


def test_who_is_muted_is_silent_for_that_long(log: MessageLog) -> None:
    at = log.groups.create(APP, "a", "", ["b"]).conversation
    (mine,) = stored(log, say("b", at))
    log.groups.set_member(APP, at, "b", muted_until=int(time.time()) + 100, by="a")
    edit = say("b", at, kind="edit", about=mine.id)
    assert log.writer.append(APP, [say("b", at), edit]) == [Rejected("muted")] * 2
    stored(log, say("b", at, kind="recall", about=1))
    changed = [log.groups.set_member(APP, at, "b", muted_until=int(time.time()) - 100)]
    stored(log, say("b", at))
    changed.append(log.groups.set_member(APP, at, "b", role="admin"))
    entries = [
        each.entry for each in changed if isinstance(each, Change) and each.entry
    ]
    assert [json.loads(entry.meta)["change"] for entry in entries] == ["mute", "member"]
    found = log.conversations.member(APP, at, "b")
    assert found.role == "admin"
    assert log.groups.set_member(APP, at, "x", role="admin") == Rejected("not_member")
    assert log.groups.set_member(APP, at, "b", role="king").reason == "invalid"  # type: ignore[union-attr]


def test_who_leaves_and_joins_again_stays_muted(log: MessageLog) -> None:
    at = log.groups.create(APP, "a", "", ["b", "c"]).conversation
    for user in ("b", "c"):
        log.groups.set_member(APP, at, user, muted_until=int(time.time()) + 100, by="a")
        log.groups.leave(APP, at, [user], user)
    log.groups.join(APP, at, ["b", "c"], "a")
    assert (
        log.writer.append(APP, [say("b", at), say("c", at)]) == [Rejected("muted")] * 2
    )
    log.groups.set_member(APP, at, "b", muted_until=0, by="a")
    log.groups.leave(APP, at, ["b"], "b")
    log.groups.join(APP, at, ["b"], "a")
    stored(log, say("b", at))


# --- reading ------------------------------------------------------------------


def test_sync_pages_through_all_conversations_in_the_order_of_the_log(
    log: MessageLog,
) -> None:
    """They are more than MySQL is asked about one by one."""
    many = 600
    stored(
        log,
        *(say(f"peer{number % many}", "me", str(number)) for number in range(2 * many)),
    )
    stored(log, *(say("others", "elsewhere") for _ in range(10)))
    stored(log, say("me", "peer0", "last"))
    seen: list[Entry] = []
    more = True
    while more:
        page, more = log.entries.sync(APP, "me", seen[-1].id if seen else 0, 500)
        seen += page
    assert bodies(seen) == [*map(str, range(2 * many)), "last"]
    assert log.entries.sync(APP, "me", seen[-1].id, 500) == ([], False)
    assert log.entries.sync(APP, "me", seen[-1].id + 1000, 500) == ([], False)


def test_sync_finds_the_little_that_is_far_behind_a_cursor(log: MessageLog) -> None:
    stored(log, say("a", "me", "first"))
    for _ in range(4):
        stored(log, *(say("others", "elsewhere") for _ in range(2000)))
    stored(log, say("a", "me", "last"))
    assert bodies(log.entries.sync(APP, "me", 0, 10)[0]) == ["first", "last"]
    assert log.entries.sync(APP, "me", 0, 1)[1]


def test_a_page_of_conversations_has_those_whose_last_messages_fit(
    log: MessageLog,
) -> None:
    stored(log, *(say(user, "me", "x" * (PAGE_BYTES // 3)) for user in "abcdefg"))
    pages = []
    before = 0
    more = True
    while more:
        page, more = log.conversations.page(APP, "me", before, 10)
        pages.append(
            [conversation.last.sender for conversation in page if conversation.last]
        )
        before = page[-1].position
    assert pages == [["g", "f", "e"], ["d", "c", "b"], ["a"]]


def test_own_messages_do_not_count_to_the_thousand(log: MessageLog) -> None:
    def row() -> ConversationSummary:
        return log.conversations.page(APP, "b", 0, 1)[0][0]

    stored(
        log,
        *(say("a", "b") for _ in range(2)),
        *(say("b", "a") for _ in range(MOST_UNREAD + 1)),
    )
    assert row().unread == 2
    stored(
        log,
        *(
            say(*pair)
            for _ in range(MOST_UNREAD - 2)
            for pair in (("a", "b"), ("b", "a"))
        ),
    )
    assert (row().unread, row().unread_more) == (MOST_UNREAD, False)
    stored(log, *(say(*pair) for _ in range(2) for pair in (("a", "b"), ("b", "a"))))
    assert row().unread == MOST_UNREAD
    assert row().unread_more


# --- retention ----------------------------------------------------------------


def test_as_many_stay_as_may_where_ids_have_a_gap(log: MessageLog) -> None:
    stored(log, *(say("a", "b") for _ in range(4)))
    log.continue_after(APP, 1000)
    stored(log, *(say("a", "b") for _ in range(3)))
    for most, left in (
        (7, [1, 2, 3, 4, 1001, 1002, 1003]),
        (5, [3, 4, 1001, 1002, 1003]),
        (2, [1002, 1003]),
    ):
        log.expire(APP, more_than=most)
        assert ids(log.entries.read(APP, 0, 10)) == left


@pytest.mark.parametrize(
    ("ages", "expirations", "left"),
    [
        ([300, 200, 100], [(1000, 0), (150, 4), (50, 2)], []),
        # Nodes write with clocks of their own. What lies before the first that
        # is young expires only with it.
        ([300, 100, 1.7e9, 1.6e9, 50], [(200, 2), (80, 6)], [9, 10]),
        ([300, -1e9, 200, -1e9], [(100, 6)], [7, 8]),
    ],
    ids=["right", "behind", "ahead"],
)
def test_the_oldest_expire_by_the_time_of_their_storing(
    log: MessageLog,
    write_at: WriteAt,
    ages: list[float],
    expirations: list[tuple[float, int]],
    left: list[int],
) -> None:
    now = time.time()
    for age in ages:
        write_at(now - age)
        stored(log, say("a", "b", time_ms=1), say("a", "b", time_ms=Limit.TIME_MS))
    for seconds, count in expirations:
        assert log.expire(APP, older_than_seconds=seconds) == count
    assert ids(log.entries.read(APP, 0, 10)) == left
    assert log.entries.head(APP) == 2 * len(ages)


def test_the_age_of_a_long_log_is_looked_at_in_steps(
    log: MessageLog, write_at: WriteAt
) -> None:
    now = time.time()
    for age, many in ((300, 5100), (100, 70)):
        write_at(now - age)
        stored(log, *(say("a", "b") for _ in range(many)))
    assert log.expire(APP, older_than_seconds=200) == 5100
    assert log.expire(APP, older_than_seconds=50) == 70
    assert log.expire(APP, older_than_seconds=50) == 0


# --- life ---------------------------------------------------------------------


def test_nothing_is_made_by_questions(open_store: OpenStore, tmp_path: Any) -> None:
    log = open_store().part(MessageLog)
    found = [log.entries.sync(APP, "a", 0, 1), log.conversations.page(APP, "a", 0, 1)]
    assert (found, log.entries.head(APP)) == ([([], False)] * 2, 0)
    assert (
        log.entries.read(APP, 0, 1)
        == log.conversations.memberships(APP, "a")
        == log.entries.apps()
        == []
    )
    assert list(tmp_path.iterdir()) == []
    stored(log, say("a", "b"))
    assert (tmp_path / "imserver.db").exists()


def test_a_group_is_opened_and_closed_by_an_entry_each(log: MessageLog) -> None:
    at = group_of(log, "ann")
    for is_open in (True, False):
        change = log.groups.set_open(APP, at, is_open, "ann")
        change_of = (change.entry.kind, json.loads(change.entry.meta))
        assert change_of == ("group", {"change": "open", "open": is_open})
        (found,) = log.conversations.find(APP, [at])
        assert found.open is is_open
    assert log.groups.set_open(APP, 999, True) == Rejected(
        RejectReason.UNKNOWN_CONVERSATION
    )


def test_a_first_message_is_stored_for_accounts_only(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    log = store.part(MessageLog)
    ann = add_account(store, APP)

    def send(*drafts: Draft) -> list[Stored]:
        """In one transaction. The receiver of the last draft must be an
        account."""
        answers: list[AsyncResult[Stored]] = [AsyncResult() for _ in drafts]
        for draft, answer in zip(drafts, answers, strict=True):
            log.writer.send(
                AppendRequest(APP, draft, answer.set, to_account=draft is drafts[-1])
            )
        return [answer.get(timeout=60) for answer in answers]

    _, before = send(say("a", "b"), say("shop", ann))
    assert isinstance(before, Appended)
    for nobody in (str(int(ann) + 1), "ann.lee", "0" + ann, "9" * 30):
        assert send(say("shop", ann), say(ann, nobody))[1] == Rejected(
            RejectReason.UNKNOWN_ACCOUNT
        )
    (again,) = send(say(ann, "shop"))
    assert again.entry.conversation == before.entry.conversation
    assert isinstance(send(say("a", "b"))[0], Appended), "it is not the first"
    first, refused = send(say("c", "nobody"), say(ann, "nobody"))
    assert (isinstance(first, Appended), refused) == (
        True,
        Rejected(RejectReason.UNKNOWN_ACCOUNT),
    )


def test_the_database_of_a_release_without_questions_takes_them(
    empty_url: str, open_store: OpenStore
) -> None:
    with at_step(empty_url, 36) as connection:
        connection.exec_driver_sql(
            "INSERT INTO log (app, part, last_id, last_conversation, floor) VALUES ('tea', 0, 7, 0, 0)"
        )
    log = open_store(empty_url).part(MessageLog)
    meta = b'{"ask":{"text":true,"until":%d}}' % (log.asks.time_ms() - 1)
    (sent,) = log.writer.append(
        "tea", [Draft(sender="ann", to_user="bob", body=b"?", meta=meta)]
    )
    assert isinstance(sent, Appended)
    assert log.asks.due()[0] == [("tea", 8)]
    log.asks.expire("tea", 8)
    assert log.asks.due() == ([], None)


def test_rejected_messages_are_no_write(
    open_store: OpenStore, constants: Callable[..., None]
) -> None:
    constants(database, REFUSED_SECONDS=0)
    store = open_store()
    store.add_app("shop", {})
    store.database().failed("no answer in time", wrote=True)
    assert isinstance(
        store.part(MessageLog).writer.append("shop", [say("ann", 99)])[0], Rejected
    )
    assert (store.healthy(), store.answers()) == (False, True)


PROMISES: dict[str, list[tuple[str, str]]] = {
    "sqlite": [("PRAGMA synchronous", "2"), ("PRAGMA journal_mode", "wal")],
    "postgresql": [
        ("SHOW transaction_isolation", "read committed"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW plan_cache_mode", "force_custom_plan"),
    ],
    "mysql": [
        (
            "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')",
            "read committed",
        )
    ],
}
"""What is asked of each engine, and the one answer that is right: on SQLite 2
is FULL."""


def test_all_connections_keep_what_they_confirm_and_those_that_write_see_what_was_committed_last(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    log = store.part(MessageLog)
    log.writer.append("gochat", [Draft(sender="a", to_user="b")])
    driver = log.writer.connection.sql  # type: ignore[union-attr]
    assert driver is not None

    for statement, right in PROMISES[store.address.engine]:
        of_read = "repeatable read" if right == "read committed" else right
        query = partial(PooledStatements.query, statement=statement)
        for rows, expected in (
            (driver.query(statement), right),
            (store.write(query), right),
            (store.read(query), of_read),
            (store.write(query), right),
        ):
            value = rows[0][-1]
            found = value.decode() if isinstance(value, bytes) else str(value)
            assert found.lower().replace("-", " ") == expected, statement
