"""Work on a whole log, on every engine: an erased user, an import, and entries
that the database has lost."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from msgspec.structs import replace
from sqlalchemy import inspect

from imserver.gateway.storage.numbers import far_number
from imserver.gateway.storage.statements import (
    PooledStatements,
    Row,
    Statements,
    text_of,
)
from imserver.gateway.storage.store import Store
from imserver.messenger.log.commands import Search, SearchFilter
from imserver.messenger.log.contract import (
    Appended,
    Change,
    Draft,
    LogExtent,
    Rejected,
)
from imserver.messenger.log.erasure import AT_ONCE
from imserver.messenger.log.log_import import LogImport
from imserver.messenger.log.lost import EntriesLost
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.transaction import WriterMemory, WriteTransaction
from imserver.messenger.messages.declared import NUMBERS
from imserver.messenger.search.search import EntrySearch
from tests.messenger.accounts import add_account
from tests.messenger.log.test_log import APP, ids, say, stored
from tests.messenger.log_file import Listening
from tests.stores import OpenStore

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


def test_nothing_of_an_erased_user_is_left_and_ids_stay_contiguous(
    store: Store, log: MessageLog
) -> None:
    mentioned = json.dumps({"mentions": [ANN, "bob"]}).encode()
    mine = json.dumps({"mentions": ["bob"], "own": SECRET}).encode()
    group = log.groups.create(
        APP, ANN, "tea", ["bob", "eve"], SECRET.encode()
    ).conversation
    log.groups.join(APP, group, ["dan"], ANN)
    alone = log.groups.create(APP, ANN, SECRET, []).conversation
    stored(log, say(ANN, alone, SECRET))
    first, reply = stored(
        log,
        say(ANN, group, SECRET, meta=mine, client_msg_id=SECRET),
        say("bob", group, "yes", meta=mentioned),
    )
    stored(
        log,
        say(
            ANN,
            group,
            f"{SECRET} edited",
            kind="edit",
            about=first.id,
            client_msg_id="e",
        ),
    )
    forwarded = json.dumps({"forwarded": {"from": ANN, "id": first.id}}).encode()
    direct, back, notice = stored(
        log,
        say(ANN, "bob", SECRET),
        say("bob", ANN, "hello", meta=forwarded),
        say("", ANN, f"{SECRET} of a warning"),
    )
    stored(
        log,
        say(ANN, ANN, f"{SECRET}, a note"),
        say(ANN, kind="message", room="lobby", to=""),
    )
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
        assert all(
            b == a + 1
            for a, b in pairwise([e.seq for e in entries if e.conversation == one])
        )
    # Others learn it by recalls of another name.
    new = [entry for entry in entries if entry.id > before and entry.kind == "recall"]
    assert {(entry.sender, entry.meta) for entry in new} == {
        ("deleted:1", b'{"erased":true}')
    }
    assert {first.id, direct.id} <= {entry.about for entry in new}
    (there,) = log.entries.find(APP, [first.id])
    assert (there.kind, there.sender, there.body, there.about) == (
        "recall",
        "deleted:1",
        b"",
        first.id,
    )
    (seen,) = log.entries.find(APP, [reply.id])
    assert seen.body == b"yes"
    assert json.loads(seen.meta)["mentions"] == ["deleted:1", "bob"]
    assert [(each.count, each.users) for each in seen.reactions] == [(1, ("eve",))]
    (pair,) = log.conversations.find(APP, [direct.conversation])
    assert set(pair.members) == {"bob", "deleted:1"}
    assert log.entries.find(APP, [notice.id])[0].members == ("", "deleted:1")
    assert {row.user for row in log.conversations.members(APP, group, "", 10)} == {
        "bob",
        "dan",
        "eve",
    }

    # Whoever comes under the same name is another user, and an erasure may be
    # repeated.
    assert log.entries.sync(APP, ANN, 0, 100)[0] == []
    assert log.conversations.memberships(APP, ANN) == []
    head = log.entries.head(APP)
    log.erase_user(APP, ANN, "deleted:2")
    assert log.entries.head(APP) == head
    (again,) = stored(log, say("bob", ANN, "who are you?"))
    assert again.conversation != direct.conversation
    assert ids(log.entries.sync(APP, ANN, 0, 100)[0]) == [again.id]
    assert log.entries.find(APP, [direct.id])[0].members == ("bob", "deleted:1")


def test_many_messages_and_reactions_are_erased_in_small_transactions(
    store: Store, log: MessageLog
) -> None:
    sent = stored(log, *(say("ann", "bob", SECRET) for _ in range(2 * AT_ONCE + 3)))
    others = stored(log, *(say("bob", "ann", "mine") for _ in range(AT_ONCE + 2)))
    for one in others:
        assert isinstance(log.annotations.react(APP, "ann", one.id, HEART), Change)
    sizes: list[int] = []
    log.writer.report_to(
        Listening(lambda _app, _first, _last, entries: sizes.append(len(entries)))
    )
    log.erase_user(APP, "ann", "deleted:1")
    assert sum(sizes) == len(sent) + len(others)
    assert max(sizes) <= AT_ONCE
    entries = log.entries.read(APP, 0, 1000)
    assert [entry.body for entry in entries if entry.kind == "message"] == [
        b"mine"
    ] * len(others)
    assert store.rows("SELECT member FROM reaction") == []
    assert not any(each.reactions for each in log.entries.find(APP, ids(others)))


def test_an_erasure_skips_the_ids_that_a_restore_leaves_out(
    store: Store, log: MessageLog
) -> None:
    stored(log, say(ANN, "bob", SECRET), say("bob", ANN, "hello"))
    for numbers in NUMBERS:
        store.write(lambda sql, numbers=numbers: numbers.skip(sql, far_number()))
    assert stored(log, say(ANN, "bob", SECRET))[0].id > 1 << 32
    log.erase_user(APP, ANN, "deleted:1")
    assert ANN not in everything(store)
    assert SECRET not in everything(store)


# --- what another server had, stored with its own times, on every engine ------

DAY = 86_400_000
BEGIN = 1_600_000_000_000
"""A moment in September 2020, in Unix milliseconds."""


def past(
    log: MessageLog,
    keys: Sequence[str],
    work: Callable[[LogImport], object],
    app: str = APP,
) -> int:
    """The number of new entries."""
    added = 0

    def counted(given: LogImport) -> None:
        nonlocal added
        work(given)
        added = given.added

    log.import_past(app, keys, counted)
    return added


def draft_of(sender: str, text: str, group: int, time_ms: int, about: int = 0) -> Draft:
    return Draft(
        sender=sender,
        body=text.encode(),
        conversation=group,
        time_ms=time_ms,
        about=about,
    )


KEYS = ("g", "1", "2", "3", "e", "r1", "r2", "r3", "j", "l", "n", "d", "p")


def fill(given: LogImport) -> None:
    """A group in which somebody replies, reacts, edits, joins and leaves; and a
    message between two."""
    group = given.create_group(
        "g", "a", "tea", ["b"], BEGIN, description="For tea", is_open=True
    )
    first = given.append(
        "1",
        draft_of("a", "tea?", group, BEGIN + 1),
        [("r1", "b", "👍"), ("r2", "a", "👍")],
    )
    assert isinstance(first, int)
    given.append("2", draft_of("gone", "yes", group, BEGIN + DAY, about=first), (), "e")
    given.join("j", group, ["c", "b"], "a", BEGIN + 2 * DAY)
    given.leave("l", group, ["b", "a"], "b", BEGIN + 3 * DAY)
    given.describe("n", group, "name", "coffee", "a", BEGIN + 4 * DAY)
    given.append(
        "d", Draft(sender="a", to_user="c", body=b"psst", time_ms=BEGIN + 5 * DAY)
    )


def test_everything_has_its_time_and_twice_is_once(log: MessageLog) -> None:
    assert past(log, KEYS, fill) == 10
    assert past(log, KEYS, fill) == 0
    entries = log.entries.read(APP, 0, 100)
    kinds = [(entry.kind, (entry.time_ms - BEGIN) // DAY) for entry in entries]
    assert kinds == [
        ("group", 0),
        ("message", 0),
        ("reaction", 0),
        ("reaction", 0),
        ("message", 1),
        ("edit", 1),
        ("join", 2),
        ("leave", 3),
        ("group", 4),
        ("message", 5),
    ]
    assert [entry.id for entry in entries] == list(range(1, 11))
    stored_at = log.entries.stored_at(APP, range(1, 11))
    assert [stored_at[entry.id] for entry in entries] == [
        entry.time_ms // 1000 for entry in entries
    ]
    group = log.conversations.get(APP, 1)
    assert (group.name, group.description, group.open, group.created) == (
        "coffee",
        "For tea",
        True,
        BEGIN // 1000,
    )
    members = log.conversations.members(APP, 1, "", 10)
    # the owner stays
    assert {row.user: row.role for row in members} == {"a": "owner", "c": "member"}


def test_a_repeated_change_does_not_touch_a_membership_that_changed_later(
    log: MessageLog,
) -> None:
    keys = ("g", "join b", "leave c", "leave b", "join c", "late", "leave d", "own")

    def work(given: LogImport) -> None:
        group = given.create_group("g", "a", "tea", ["b"], BEGIN)
        # without effect, and so without a key
        given.join("join b", group, ["b"], "a", BEGIN + DAY)
        given.leave("leave c", group, ["c"], "a", BEGIN + DAY)
        given.leave(
            "leave b", group, ["b"], "a", BEGIN + (DAY if is_same_time else 2 * DAY)
        )
        given.join(
            "join c", group, ["c"], "a", BEGIN + (DAY if is_same_time else 2 * DAY)
        )
        given.leave("leave d", group, ["d"], "a", BEGIN + 3 * DAY)

    for is_same_time in (False, True):
        name = f"{APP}{is_same_time}"
        for added in (3, 0):
            assert past(log, keys, work, name) == added
        log.groups.join(name, 1, ["d"], "a")
        assert past(log, keys, work, name) == 0
        assert [row.user for row in log.conversations.members(name, 1, "", 10)] == [
            "a",
            "c",
            "d",
        ]


def test_a_leave_and_a_join_at_the_same_time_both_count_in_their_order(
    log: MessageLog,
) -> None:
    def work(given: LogImport) -> None:
        group = given.create_group("g", "a", "tea", ["b"], BEGIN)
        for key in ("leave", "leave again"):
            given.leave(key, group, ["b"], "a", BEGIN + DAY)
            given.join(f"join after {key}", group, ["b"], "a", BEGIN + DAY)

    keys = ("g", "leave", "leave again", "join after leave", "join after leave again")
    for added in (5, 0):
        assert past(log, keys, work) == added
    assert [row.user for row in log.conversations.members(APP, 1, "", 10)] == ["a", "b"]


def test_messages_have_replies_reactions_and_edits(log: MessageLog) -> None:
    past(log, KEYS, fill)
    first, reply = (
        entry
        for entry in log.entries.history(APP, "c", 1, 0, 100)[0]
        if entry.kind == "message"
    )
    (reaction,) = first.reactions
    assert (reaction.emoji, reaction.count, reaction.users) == ("👍", 2, ("b", "a"))
    assert json.loads(first.meta)["reacted"] == 4
    assert (reply.about, reply.sender, json.loads(reply.meta)) == (
        first.id,
        "gone",
        {"edited": 6},
    )
    own = log.entries.history(APP, "a", 1, 0, 100)[0][1]
    assert own.reactions[0].mine
    change = log.annotations.react(APP, "a", first.id, "👍", remove=True)
    assert not isinstance(change, Rejected)
    assert json.loads(change.entry.meta) == {"count": 1}


def test_who_follows_an_imported_thread_does_not_depend_on_the_transactions(
    store: Store, log: MessageLog
) -> None:
    """Somebody who replies and leaves, somebody who replies before they join,
    and the author, who leaves before the last reply."""
    steps: list[Callable[[LogImport], object]] = []

    def reply(key: str, sender: str, day: int) -> Callable[[LogImport], object]:
        def append(given: LogImport) -> object:
            draft = draft_of(sender, key, given.conversation_of("g"), BEGIN + day * DAY)
            root = given.find("root")
            return given.append(
                key, replace(draft, thread=root, about=root) if root else draft
            )

        return append

    steps += [
        lambda given: given.create_group(
            "g", "owner", "tea", ["author", "leaver"], BEGIN
        ),
        reply("root", "author", 1),
        reply("1", "leaver", 2),
        reply("2", "joiner", 3),
        lambda given: given.leave(
            "l", given.conversation_of("g"), ["leaver"], "leaver", BEGIN + 4 * DAY
        ),
        lambda given: given.join(
            "j", given.conversation_of("g"), ["joiner"], "joiner", BEGIN + 5 * DAY
        ),
        lambda given: given.leave(
            "a", given.conversation_of("g"), ["author"], "author", BEGIN + 6 * DAY
        ),
        reply("3", "owner", 7),
    ]
    keys = ("g", "root", "1", "2", "3", "l", "j", "a")

    def followers(app: str, at_once: int) -> list[Row]:
        for start in range(0, len(steps), at_once):
            some = steps[start : start + at_once]
            past(
                log, keys, lambda given, some=some: [step(given) for step in some], app
            )
        statement = (
            "SELECT r.member, r.root, r.read_id, r.follows FROM thread_reader r "
            "JOIN log l ON l.number = r.log WHERE l.app = %s ORDER BY r.member"
        )
        return [
            (text_of(member), *rest) for member, *rest in store.rows(statement, (app,))
        ]

    alone = followers("alone", 1)
    assert [row[0] for row in alone] == ["author", "leaver", "owner"]
    assert followers("together", len(steps)) == alone
    assert followers("halves", 4) == alone


def test_a_later_import_adds_what_is_new(log: MessageLog) -> None:
    past(log, KEYS, fill)

    def later(given: LogImport) -> None:
        group = given.conversation_of("g")
        given.append("0", draft_of("a", "before", group, BEGIN + 1))
        given.append(
            "1",
            draft_of("a", "tea?", group, BEGIN + 1),
            [("r1", "b", "👍"), ("r3", "c", "🎉")],
        )
        given.append(
            "3", draft_of("c", "late", group, BEGIN + 6 * DAY, about=given.find("1"))
        )
        assert given.pin("p", given.find("1"), "a", BEGIN + 6 * DAY)

    assert past(log, KEYS, later) == 4
    first = log.entries.find(APP, [2])[0]
    assert [(each.emoji, each.count) for each in first.reactions] == [
        ("👍", 2),
        ("🎉", 1),
    ]
    assert log.entries.find(APP, [log.entries.head(APP) - 1])[0].about == 2
    assert [entry.id for entry in log.entries.pins(APP, "a", 1)[0]] == [2]
    seqs = [
        entry.seq for entry in log.entries.read(APP, 0, 100) if entry.conversation == 1
    ]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_later_import_brings_an_edit_once(
    log: MessageLog, search: EntrySearch
) -> None:
    past(log, KEYS, fill)

    def edited(text: str, edit: str, to: str = "1") -> int:
        def work(given: LogImport) -> None:
            given.append(
                to, draft_of("a", text, given.conversation_of("g"), BEGIN + 1), (), edit
            )

        return past(log, ["g", to, edit], work)

    assert edited("tea?", "e0") == 0, "the message has this text"
    assert edited("coffee?", "e1") == 1
    assert edited("water?", "e2") == 1
    assert edited("coffee?", "e1") == 0
    first = log.entries.find(APP, [2])[0]
    assert (first.body, [each.emoji for each in first.reactions]) == (b"water?", ["👍"])
    assert [
        each.id for each in search.find(APP, "c", Search("water", 0, 0, 10))[0]
    ] == [2]
    stored(log, say("a", 1, "cocoa?", kind="edit", about=2))
    assert edited("water?", "e2") == 0, "its author has edited it"
    stored(log, say("a", 1, "", kind="recall", about=2))
    assert edited("milk?", "e3") == 0


def test_what_has_come_is_taken_back_once(log: MessageLog, search: EntrySearch) -> None:
    past(log, KEYS, fill)
    past(
        log,
        ["1", "p"],
        lambda given: given.pin("p", given.find("1"), "a", BEGIN + 6 * DAY),
    )
    log.annotations.react(APP, "c", 2, "🎉")

    def taken(own: str) -> int:
        key = f"{own} gone"
        return past(
            log,
            [own, key],
            lambda given: given.take_back(key, own, "a", BEGIN + 7 * DAY),
        )

    assert [taken("r1"), taken("r1"), taken("unknown")] == [1, 0, 0]
    assert [
        (each.emoji, each.users) for each in log.entries.find(APP, [2])[0].reactions
    ] == [
        ("👍", ("a",)),
        ("🎉", ("c",)),
    ]
    log.annotations.react(APP, "a", 2, "👍", remove=True)
    log.annotations.react(APP, "a", 2, "👍")
    assert taken("r2") == 0, "a has reacted in this log again"
    assert [taken("1"), taken("1"), taken("g")] == [1, 0, 0]
    last = log.entries.read(APP, log.entries.head(APP) - 1, 1)[0]
    assert (last.kind, last.about, last.sender, last.time_ms) == (
        "recall",
        2,
        "a",
        BEGIN + 7 * DAY,
    )
    recalled = log.entries.find(APP, [2])[0]
    assert (recalled.kind, recalled.about, recalled.body, recalled.reactions) == (
        "recall",
        2,
        b"",
        (),
    )
    assert log.entries.pins(APP, "a", 1)[0] == []
    assert search.find(APP, "c", Search("tea", 0, 0, 10))[0] == []
    stored(log, say("a", 1, "next"))


def test_who_has_left_joins_again_only_if_an_event_says_so(log: MessageLog) -> None:
    past(log, KEYS, fill)
    listed = ["a", "b", "new"]
    past(
        log,
        ["m"],
        lambda given: given.join("m", 1, listed, "", BEGIN + 6 * DAY, only_first=True),
    )
    assert [row.user for row in log.conversations.members(APP, 1, "", 10)] == [
        "a",
        "c",
        "new",
    ]
    past(log, ["x"], lambda given: given.join("x", 1, ["b"], "b", BEGIN + 7 * DAY))
    assert [row.user for row in log.conversations.members(APP, 1, "", 10)] == [
        "a",
        "b",
        "c",
        "new",
    ]


def test_search_and_retention_go_by_the_times(
    log: MessageLog, search: EntrySearch
) -> None:
    past(log, KEYS, fill)
    window = SearchFilter(since=BEGIN + DAY // 2, until=BEGIN + 2 * DAY)
    found, _ = search.find(APP, "c", Search("", 0, 0, 10, window))
    assert [entry.body for entry in found] == [b"yes"]
    log.expire(APP, older_than_seconds=86400)
    assert log.entries.read(APP, 0, 100) == []


def test_what_cannot_be_stored_is_refused(log: MessageLog) -> None:
    def bad(given: LogImport) -> None:
        for key, draft in (
            ("1", draft_of("a", "x", 77, BEGIN)),
            ("2", Draft(sender="a", room="tea", body=b"x")),
            ("3", Draft(sender="a\0", to_user="b", body=b"x")),
        ):
            assert isinstance(given.append(key, draft), Rejected)
        assert not given.pin("p", 99, "a", BEGIN)
        stored = given.append(
            "d",
            Draft(sender="a", to_user="b", body=b"x"),
            [("r1", "", "👍"), ("r2", "b", "\n")],
        )
        assert isinstance(stored, int)

    assert past(log, KEYS, bad) == 1


# --- a database that has lost its newest commits, under nodes that know them --

FAR = 1 << 32


def send(
    store: Store, number: int = 1, app: str = APP, user: str = "bob"
) -> list[Appended]:
    drafts = [Draft(sender="ann", to_user=user, body=b"x", time_ms=1)] * number
    found = store.part(MessageLog).writer.append(app, drafts)
    return [each for each in found if isinstance(each, Appended)]


def lose(store: Store, last: int, app: str = APP) -> None:
    """Make the database one that has the log of an app up to an id: of one
    conversation, without edits."""

    def work(sql: Statements) -> None:
        of_app = "log = (SELECT number FROM log WHERE app = %s)"
        sql.execute(f"DELETE FROM message WHERE id > %s AND {of_app}", (last, app))
        sql.execute(
            f"UPDATE conversation SET last_seq = %s, last_id = %s WHERE {of_app}",
            (last, last, app),
        )
        sql.execute("UPDATE log SET last_id = %s WHERE app = %s", (last, app))

    store.write(work)


def extent(store: Store, app: str = APP) -> LogExtent:
    return store.part(MessageLog).entries.extent(app)


def test_the_ids_of_lost_entries_are_not_given_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    send(store, 10)
    send(store, 3, "other")
    lose(store, 6)
    first, second = send(store, 2)
    assert first.entry.id > FAR
    assert second.entry.id == first.entry.id + 1
    assert first.entry.seq > FAR, "a seq that was lost stands for another message"
    assert second.entry.seq == first.entry.seq + 1
    assert first.entry.id < 1 << 53, "JavaScript counts no further"
    assert (store.part(MessageLog).writer.losses, extent(store).head) == (
        1,
        second.entry.id,
    )
    assert (
        f"its log ends with 6, but 10 was stored. Ids continue after {first.entry.id - 1}"
        in caplog.text
    )
    assert [entry.id for entry in store.part(MessageLog).entries.read(APP, 5, 9)] == [
        6,
        first.entry.id,
        second.entry.id,
    ]


def test_what_is_learned_while_a_transaction_waits_for_the_log_counts(
    store: Store,
) -> None:
    known: dict[str, int] = {}
    transaction = WriteTransaction({APP: []}, WriterMemory(), known)
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
    assert [each for each in cursors if extent(store).continues(each)] == [
        1,
        6,
        new - 1,
        new,
    ]
    assert extent(store, "other").continues(3), "no entry of it was lost"
    assert send(store, 1, "other")[0].entry.id > FAR, (
        "it is not known whether another node has given more"
    )


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
    one = open_store(url)
    two = open_store(url)
    send(one, 10)
    lose(one, 6)
    two.part(MessageLog).writer.learn(APP, 10)
    last = two.part(MessageLog).writer.check(APP)
    assert last > FAR, "without a message"
    assert one.part(MessageLog).writer.check(APP) == last, "once for all nodes"
    assert (two.part(MessageLog).writer.losses, one.part(MessageLog).writer.losses) == (
        1,
        0,
    )
    assert send(one)[0].entry.id == last + 1


def test_a_log_that_was_lost_whole_continues_beyond_it(store: Store) -> None:
    send(store, 3)
    store.write(
        lambda sql: [
            sql.execute(f"DELETE FROM {table}") for table in ("message", "conversation")
        ]
    )
    store.write(
        lambda sql: [
            sql.execute(f"DELETE FROM {table}") for table in ("membership", "log")
        ]
    )
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
    assert after.version > before.version + FAR
    again = note(APP, "bob", conversation, read=6)
    assert again.version == after.version + 1
    assert int(add_account(store, APP)) > FAR


def test_a_draft_is_stored_once_although_its_transaction_begins_again(
    store: Store,
) -> None:
    send(store, 10)
    lose(store, 6)
    draft = Draft(sender="ann", to_user="bob", body=b"x", time_ms=1, client_msg_id="m")
    (one,) = store.part(MessageLog).writer.append(APP, [draft])
    (two,) = store.part(MessageLog).writer.append(APP, [draft])
    assert (two.entry.id, two.repeated, one.repeated) == (one.entry.id, True, False)
