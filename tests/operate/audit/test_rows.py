"""The chain, as each kind of database keeps it."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import gevent
import pytest
from msgspec import UNSET, Struct, UnsetType, structs

from imserver.gateway.config.settings import Config, KeySettings, TenantSettings
from imserver.messenger.groups.wire import InviteToGroup, UpdateGroup
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.audit import FEATURE
from imserver.operate.audit.acts import MOST_USERS, entry_of, facts_of, user_in
from imserver.operate.audit.chain import ActShown, shown
from imserver.operate.audit.rows import (
    MOST_LOOKED,
    ActBatch,
    AuditQuery,
    NewAct,
    after,
    append,
    page_of,
    remove_before,
    search,
    store_act,
)
from imserver.operate.audit.verification import check_rows, verify
from imserver.plugin.identity import Act, Principal
from imserver.plugin.storage import PooledStatements, Row, Store
from imserver.plugin.testing import check_tables
from tests.gateway.api.api_node import ApiNode, with_keys
from tests.stores import OpenStore
from tests.support import run_cli

KEY = Principal("key", apps=None, key="1f2e")
ANN = Principal("staff", apps=frozenset({"shop"}), staff="ann")


def ban(user: str, by: Principal = KEY, app: str = "shop", **more: Any) -> Act:
    return Act(
        "ban", by, app, user, "192.0.2.7", "r1", **{"facts": {"seconds": 60}, **more}
    )


def add(store: Store, *acts: Act) -> None:
    new = [NewAct(*entry_of(act), monotonic()) for act in acts]
    store.write(partial(append, ActBatch(new)))


def acts(store: Store, **wanted: Any) -> list[ActShown]:
    rows, _ = store.read(partial(search, AuditQuery(**wanted)))
    return [shown(row, names) for row, names in rows]


def numbers(store: Store, **wanted: Any) -> list[int]:
    return [act.number for act in acts(store, **wanted)]


def wrong(store: Store, wanted: tuple[int, str] | None = None) -> list[str]:
    result = verify(store.read, wanted).wrong
    if wanted is None:  # `imserver doctor` says the same of the newest acts
        assert [
            each.level for each in store.read(lambda sql: list(check_rows(sql)))
        ] == ["fail"][: len(result)]
    return result


def test_acts_on_a_message_include_removals_by_sender_and_time(store: Store) -> None:
    log = store.part(MessageLog)
    drafts = [
        Draft(sender=user, to_user="ann", body=b"spam") for user in ("bob", "eve")
    ]
    log.writer.append("shop", drafts)
    of_bob, of_eve = (
        f"message:{entry.id}" for entry in log.entries.read("shop", 0, 10)
    )
    now = int(time())

    def clear(app: str, user: str, **facts: int) -> Act:
        return Act("moderation.clear", ANN, app, user, facts=facts)

    add(
        store,
        clear("shop", "bob", since=now - 60),
        clear("shop", "bob", since=now - 60, until=now - 30),
    )
    add(
        store, clear("shop", "eve", since=now + 60), clear("tea", "bob", since=now - 60)
    )
    add(
        store,
        Act(
            "moderation.remove",
            ANN,
            "shop",
            "bob",
            facts={"messages": [int(of_bob[8:])]},
        ),
    )
    add(store, clear("shop", "bob", since=now - 60, until=now + 60))

    def found(**wanted: Any) -> tuple[list[int], int]:
        rows, following = page_of(store, AuditQuery(**wanted))
        return [row.number for row, _ in rows], following

    assert found(app="shop", about=of_bob) == found(about=of_bob) == ([6, 5, 1], 0)
    assert found(about=of_eve) == found(app="tea", about=of_bob) == ([], 0)
    pages = list[int]()
    following = 0
    while not pages or following:
        page, following = found(about=of_bob, limit=1, after=following)
        assert len(page) <= 1
        pages += page
    assert pages == [6, 5, 1]
    assert found(app="shop", user="bob", about=of_bob) == ([6, 5, 1], 0)
    assert found(app="shop", user="eve", about=of_bob) == ([], 0)
    assert found(about=of_bob, name="moderation.remove") == ([5], 0)


def test_an_act_is_shown_as_it_was_done(store: Store) -> None:
    facts = {"seconds": 60, "users": ["eve", "bob\0 \ud800"]}
    add(
        store,
        ban("bob", ANN, facts=facts),
        Act("node.start", Principal("node", key="n1")),
    )
    newest, oldest = acts(store)
    assert (oldest.number, oldest.name, oldest.app, oldest.user) == (
        1,
        "ban",
        "shop",
        "bob",
    )
    assert (oldest.by.kind, oldest.by.id, oldest.by.app) == ("staff", "ann", "shop")
    assert (oldest.address, oldest.request) == ("192.0.2.7", "r1")
    assert oldest.facts == {"seconds": 60, "users": ["eve", "bob ?"]}
    assert (newest.number, newest.by.kind, newest.by.id, newest.facts) == (
        2,
        "node",
        "n1",
        {},
    )
    assert oldest.time <= newest.time
    assert wrong(store) == []


def test_acts_are_found_by_everything_that_they_name(store: Store) -> None:
    add(
        store,
        ban("bob", ANN),
        ban("eve"),
        ban("", facts={"users": ["bob", "eve"]}),
        Act("unban", KEY, "shop", "ann", request="r2"),
        ban("bob", KEY, "tea"),
        Act("keys.create", Principal("command", key="root"), facts={"key": "2a"}),
    )
    assert numbers(store) == [6, 5, 4, 3, 2, 1]
    assert numbers(store, app="shop") == [4, 3, 2, 1]
    assert numbers(store, app="shop", user="bob") == [3, 1]
    assert numbers(store, app="shop", user="ann") == [4, 1]
    assert numbers(store, name="ban") == [5, 3, 2, 1]
    assert numbers(store, app="shop", name="unban") == [4]
    assert numbers(store, request="r2") == [4]
    assert numbers(store, request="r1", app="shop", user="eve", by="key") == [3, 2]
    assert numbers(store, by="key:1f2e") == [5, 4, 3, 2]
    assert numbers(store, by="staff:shop/ann") == [1]
    assert numbers(store, by="command") == [6]
    assert numbers(store, app="shop", user="bob", by="key:1f2e") == [3]
    assert numbers(store, app="shop", user="bob", by="key:1f2e", request="r1") == [3]
    assert numbers(store, after=4, limit=2) == [3, 2]
    assert numbers(store, by="key:none") == []
    times = [act.time for act in acts(store)]
    assert numbers(store, since=times[0] + 1) == []
    assert len(numbers(store, since=times[-1], until=times[0])) == 6


def test_acts_are_found_by_the_things_that_they_are_about(store: Store) -> None:
    add(
        store,
        Act(
            "messages.recall",
            KEY,
            "shop",
            request="r1",
            given={"id": 7},
            answer=Stored(9),
        ),
        Act("moderation.delete", ANN, "shop", facts={"messages": [7, 8, 8]}),
        Act("keys.revoke", ANN, facts={"id": "1f2e"}),
        Act(
            "groups.update",
            ANN,
            "shop",
            "ann",
            "",
            "r1",
            given={"group": 7, "handle": ""},
        ),
        ban("bob"),
    )
    assert numbers(store, about="message:7") == [2, 1]
    assert numbers(store, app="shop", about="message:8") == [2]
    assert (
        numbers(store, about="message:9")
        == numbers(store, app="tea", about="message:7")
        == []
    )
    assert numbers(store, about="message:7", request="r1", by="key:1f2e") == [1]
    assert numbers(
        store, app="shop", user="ann", about="message:7", by="staff:shop/ann"
    ) == [2]
    assert numbers(store, about="key:1f2e") == [3]
    assert numbers(store, about="group:7") == [4]
    assert acts(store, about="group:7")[0].facts == {"group": 7, "handle": ""}
    assert wrong(store) == []


def test_pages_follow_each_other(store: Store) -> None:
    add(store, *(ban("bob" if number % 50 else "eve") for number in range(500)))
    position = 0
    pages = []
    while True:
        query = AuditQuery(app="shop", user="eve", name="ban", limit=4, after=position)
        rows, position = store.read(partial(search, query))
        pages.append([row.number for row, _ in rows])
        if not position:
            break
    assert pages == [[451, 401, 351, 301], [251, 201, 151, 101], [51, 1]]


def test_a_search_that_finds_little_says_where_to_go_on(store: Store) -> None:
    add(store, ban("eve", ANN), *(ban("bob") for _ in range(MOST_LOOKED + 100)))
    query = AuditQuery(app="shop", by="staff", limit=1000)
    rows, position = store.read(partial(search, query))
    assert (rows, 0 < position < 110) == ([], True)
    rows, position = store.read(partial(search, structs.replace(query, after=position)))
    assert ([row.number for row, _ in rows], position) == ([1], 0)


def test_a_search_reads_no_act_that_is_not_wanted(store: Store) -> None:
    """What a thread reads holds the loop."""

    class Counted(PooledStatements):
        rows = 0

        def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
            rows = super().query(statement, values)
            self.rows += len(rows)
            return rows

    def rows_of(sql: PooledStatements) -> int:
        counted = Counted(sql.connection)
        search(AuditQuery(app="tea", by="key:1f2e", limit=10), counted)
        return counted.rows

    add(store, ban("bob", app="tea"), *(ban("eve") for _ in range(2000)))
    assert store.read(rows_of) < 20


def test_a_batch_whose_commit_was_unclear_is_stored_once(store: Store) -> None:
    batch = ActBatch(
        [
            NewAct(*entry_of(ban("bob")), monotonic()),
            NewAct(*entry_of(ban("eve")), monotonic()),
        ]
    )
    store.write(partial(append, batch))
    add(store, ban("ann"))
    store.write(partial(append, batch))
    assert [act.user for act in acts(store)] == ["ann", "eve", "bob"]
    assert wrong(store) == []


Change = tuple[str, Sequence[Any]]
CHANGES: list[tuple[Change | list[Change], str]] = [
    (("UPDATE audit SET name = %s WHERE number = 3", ("unban",)), "row 3 was changed"),
    (("UPDATE audit SET time = time - 1 WHERE number = 3", ()), "row 3 was changed"),
    (("UPDATE audit SET kind = %s WHERE number = 1", ("nobody",)), "row 1 was changed"),
    (("DELETE FROM audit WHERE number = 3", ()), "row 3 is missing"),
    (("DELETE FROM audit WHERE number IN (3, 4)", ()), "rows 3 to 4 are missing"),
    (("DELETE FROM audit WHERE number = 5", ()), "rows 5 to 5 are missing"),
    (
        ("UPDATE audit SET previous = %s WHERE number = 4", ("0" * 64,)),
        "the link between rows 3 and 4",
    ),
    (
        (
            "UPDATE audit_name SET member = %s WHERE part = 'user' AND number = 2",
            ("eve",),
        ),
        "user of row 2",
    ),
    (
        (
            "UPDATE audit_name SET number = 4, part = 'x' WHERE part = 'user' AND number = 2",
            (),
        ),
        "x of row 4",
    ),
    (("UPDATE audit_head SET number = 4", ()), "rows 5 to 5 were inserted"),
    (
        ("UPDATE audit_head SET hash = %s", ("0" * 64,)),
        "the head has another hash than row 5",
    ),
    (("DELETE FROM audit_head", ()), "the head of the chain is missing"),
    (("UPDATE audit SET names = %s WHERE number = 3", (b"xyz",)), "row 3 was changed"),
    (("UPDATE audit SET time = %s WHERE number = 3", (1 << 60,)), "row 3 was changed"),
    (
        (
            "UPDATE audit_name SET text = %s WHERE part = 'facts' AND number = 2",
            (b"[]",),
        ),
        "facts of row 2",
    ),
]
TYPES: list[tuple[str, str]] = [
    ("UPDATE audit SET names = 'xyz' WHERE number = 3", "row 3 was changed"),
    ("UPDATE audit SET time = 'abc' WHERE number = 3", "row 3 was changed"),
    ("UPDATE audit SET time = 9e999 WHERE number = 3", "row 3 was changed"),
    ("UPDATE audit SET kind = x'ff' WHERE number = 3", "row 3 was changed"),
    (
        "UPDATE audit SET kind = CAST(x'ff' AS TEXT) WHERE number = 3",
        "row 3 was changed",
    ),
    (
        "UPDATE audit SET time = CAST(x'ff' AS TEXT) WHERE number = 3",
        "row 3 was changed",
    ),
    (
        "UPDATE audit SET hash = CAST(x'ff' AS TEXT) WHERE number = 3",
        "row 3 was changed",
    ),
    ("UPDATE audit SET number = 'abc' WHERE number = 3", "row 3 is missing"),
    ("UPDATE audit SET number = 3.5 WHERE number = 3", "row 3 is missing"),
    (
        "UPDATE audit_name SET text = '{}' WHERE part = 'facts' AND number = 3",
        "facts of row 3 was changed",
    ),
    (
        "UPDATE audit_name SET salt = 'zz' WHERE part = 'user' AND number = 3",
        "user of row 3 was changed",
    ),
    (
        "UPDATE audit_name SET salt = 1e15 WHERE part = 'by' AND number = 3",
        "by of row 3 was changed",
    ),
    (
        "UPDATE audit_name SET member = CAST(x'ff' AS TEXT) WHERE part = 'by' AND number = 3",
        "by of row 3",
    ),
    (
        "UPDATE audit_head SET hash = CAST(x'ff' AS TEXT)",
        "the head of the chain is missing or unreadable",
    ),
    (
        "UPDATE audit_head SET time = 'abc'",
        "the head of the chain is missing or unreadable",
    ),
]


@pytest.mark.parametrize(
    ("change", "complaint"), CHANGES, ids=[each[1] for each in CHANGES]
)
def test_what_was_done_to_the_rows_is_named(
    store: Store, change: Change, complaint: str
) -> None:
    add(store, *(ban(user) for user in ("ann", "bob", "eve", "jan", "kim")))
    assert wrong(store) == []
    store.execute(*change)
    assert any(complaint in text for text in wrong(store)), wrong(store)
    acts(store)  # every one that is left can be shown


@pytest.mark.parametrize(
    ("statement", "complaint"), TYPES, ids=[each[0] for each in TYPES]
)
def test_a_value_of_another_type_hides_no_other_act(
    open_store: OpenStore, tmp_path: Path, statement: str, complaint: str
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/types.db")
    add(store, *(ban(user) for user in ("ann", "bob", "eve", "jan")))
    store.execute(statement, ())
    assert any(complaint in text for text in wrong(store)), wrong(store)
    assert {1, 2, 4} <= set(numbers(store))
    assert {1, 2, 4} <= {row.number for row, _ in store.read(partial(after, 0, 9))}


def test_a_chain_that_was_written_anew_has_another_head(store: Store) -> None:
    add(store, ban("ann"), ban("bob"))
    notes: list[tuple[str, int, int]] = []
    earlier = verify(store.read, note=lambda *note: notes.append(note)).head
    assert notes == [("verified", 2, 2)]
    add(store, ban("eve"))
    assert wrong(store, earlier) == []

    def rewrite(sql: Any) -> None:
        for table in ("audit", "audit_name"):
            sql.execute(f"DELETE FROM {table}")
        sql.execute(
            "UPDATE audit_head SET number = 0, time = 0, hash = %s", ("0" * 64,)
        )

    store.write(rewrite)
    add(store, ban("ann"), ban("jan"), ban("eve"))
    assert wrong(store) == []
    complaint = (
        "row 2 has another hash than the given head: rows up to it were rewritten"
    )
    assert wrong(store, earlier) == [complaint]
    assert wrong(store, (9, earlier[1])) == ["row 9, the given head, is missing"]


def test_the_newest_acts_are_verified_over_http(tmp_path: Path) -> None:
    node = ApiNode(
        tmp_path,
        Config(
            features=("audit",),
            apps={"shop": TenantSettings(), "tea": TenantSettings()},
        ),
    )
    store = node.core.store
    add(store, *(ban(f"ann {number}") for number in range(1200)))

    def check(**more: Any) -> tuple[int, list[str]]:
        answer = node.get("/api/v1/audit", check="true", limit=1, **more)["check"]
        assert 0 < answer["since"] <= answer["until"]
        assert answer["head"] == ":".join(map(str, verify(store.read).head))
        return answer["acts"], answer["wrong"]

    store.execute("UPDATE audit SET kind = 'page' WHERE number = 150", ())
    assert check(app="shop") == (1000, [])
    store.execute("UPDATE audit SET kind = 'page' WHERE number = 1150", ())
    assert check() == (1000, ["row 1150 was changed"])
    assert node.get("/api/v1/audit", app="shop")["check"] is None
    node.close()


def test_a_check_costs_its_acts_and_says_to_a_key_of_one_app_only_whether_the_chain_is_whole(
    tmp_path: Path,
) -> None:
    keys = (
        KeySettings("key-of-all", ("admin",)),
        KeySettings("key-of-shop", ("admin",), ("shop",)),
    )
    apps = {"shop": TenantSettings(), "tea": TenantSettings()}
    node = ApiNode(tmp_path, with_keys(*keys, features=("audit",), apps=apps))
    add(node.core.store, *(ban(f"ann {number}", app="tea") for number in range(300)))

    def check(key: str) -> Any:
        return node.get("/api/v1/audit", key=key, check="true", limit=1)["check"]

    silent = {"acts": 0, "since": 0, "until": 0, "head": "", "wrong": []}
    assert (check("key-of-shop"), check("key-of-all")["acts"]) == (silent, 300)
    node.core.store.execute("UPDATE audit SET kind = 'page' WHERE number = 150", ())
    assert check("key-of-shop") == {**silent, "wrong": ["the chain is broken"]}
    node.api.rates.set(20)
    ask = partial(
        node.request,
        "GET",
        "/api/v1/audit",
        key="key-of-all",
        query="check=true&limit=1",
    )
    requests = [gevent.spawn(ask) for _ in range(2)]
    gevent.joinall(requests, raise_error=True)
    assert sorted(each.get().status for each in requests) == [200, 429], (
        "who checks has paid before"
    )
    node.close()


def test_an_erasure_takes_the_names_of_one_and_the_chain_holds(store: Store) -> None:
    add(
        store,
        ban("bob", ANN),
        ban("ann", facts={"users": ["bob", "eve"]}),
        ban("bob", app="tea"),
    )
    before = verify(store.read)
    store.delete_rows_of_user("shop", "bob")
    tea, second, first = acts(store)
    assert (first.by.id, first.user, first.address, first.facts) == (
        "ann",
        None,
        "192.0.2.7",
        None,
    )
    assert (second.user, second.facts) == ("ann", {"users": [None, "eve"]})
    assert tea.user == "bob"
    after = verify(store.read)
    assert (after.wrong, after.head) == ([], before.head)
    assert (after.erased, after.names) == (3, before.names - 3)
    store.delete_rows_of_user("shop", "ann")
    first = acts(store)[2]
    assert (first.by.kind, first.by.id, first.by.app, first.address) == (
        "staff",
        None,
        "shop",
        None,
    )
    assert wrong(store) == []
    assert numbers(store, app="shop", user="bob") == []


def test_the_name_of_whom_an_act_deletes_is_not_stored(store: Store) -> None:
    add(
        store,
        Act("accounts.delete", KEY, "shop", "bob", "192.0.2.7", facts={}, gone=True),
    )
    (act,) = acts(store)
    assert (act.user, act.by.id, act.address) == (None, "1f2e", "192.0.2.7")
    assert verify(store.read).erased == 1
    assert store.rows("SELECT * FROM audit_name WHERE member = 'bob'") == []


def test_why_somebody_was_deleted_stays_with_who_did_it(store: Store) -> None:
    add(
        store,
        Act(
            "users.erase",
            ANN,
            "shop",
            "bob",
            facts={"reason": "asked by letter"},
            gone=True,
        ),
    )
    assert [(act.user, act.facts) for act in acts(store)] == [
        (None, {"reason": "asked by letter"})
    ]


def test_the_acts_of_a_deleted_app_stay_without_the_names_of_its_users(
    store: Store,
) -> None:
    store.add_app("shop", {})
    add(
        store,
        ban("bob", ANN),
        ban("bob", app="tea"),
        Act("apps.delete", KEY, "shop", facts={"key": "2a"}),
    )
    store.delete_app("shop")
    store.delete_rows("shop")
    last, tea, first = acts(store)
    assert (first.name, first.app, first.by.id, first.user) == (
        "ban",
        "shop",
        None,
        None,
    )
    assert (last.by.id, last.facts) == ("1f2e", {"key": "2a"})
    assert tea.user == "bob"
    assert wrong(store) == []


def test_old_acts_go_and_leave_an_anchor(store: Store) -> None:
    add(store, *(ban(user) for user in ("ann", "bob", "eve")))
    earlier = verify(store.read).head
    assert store.write(partial(remove_before, 3_600_000)) == 0
    assert store.write(partial(remove_before, -1000)) == 3
    assert (acts(store), wrong(store)) == ([], [])
    assert wrong(store, earlier) == []
    add(store, ban("jan"))
    result = verify(store.read)
    assert (result.wrong, result.anchor, result.rows, result.head[0]) == (
        [],
        earlier,
        1,
        4,
    )
    assert store.rows("SELECT count(*) FROM audit_name WHERE number < 4") == [(0,)]
    assert wrong(store, (2, earlier[1])) == [
        "row 2 was removed for its age: its hash cannot be compared"
    ]
    assert store.rows("SELECT number, anchor FROM audit_head") == [(4, 3)]


def test_its_tables_are_erased_and_exported(url: str) -> None:
    def fill(store: Store, app: str, user: str) -> None:
        store_act(store, ban(user, app=app))

    check_tables(FEATURE, fill, url)


# --- facts --------------------------------------------------------------------


class Settings(Struct):
    origins: list[str] | UnsetType = UNSET
    secret: str | UnsetType = UNSET


class Request(Struct):
    app: str
    user: str = ""
    group: str = ""
    members: list[str] = []
    seconds: int = 60
    reason: str = ""
    password: str = ""
    nickname: str | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET


class Account(Struct):
    user: str


class Stored(Struct):
    id: int


class Session(Struct):
    token: str
    account: Account


def test_an_act_has_ids_and_reasons_but_no_texts_and_secrets() -> None:
    request = Request(
        "7",
        "ann",
        "3",
        ["ann", "bob"],
        5,
        "spam",
        "correct horse",
        "Ann",
        Settings(secret="s"),
    )
    assert facts_of(request, user="ann") == {
        "group": "3",
        "seconds": 5,
        "reason": "spam",
        "fields": ["nickname"],
        "settings": ["secret"],
        "users": ["bob"],
    }


def test_what_was_not_given_is_no_fact() -> None:
    assert facts_of(Request("7")) == {}
    assert facts_of({"userid": "ann", "seconds": "7"}) == {"seconds": "7"}
    assert facts_of(None) == {}


def test_an_act_is_bounded() -> None:
    users = [str(number) for number in range(2 * MOST_USERS)]
    facts = facts_of(Request("7", members=users, reason="x" * 10_000))
    assert facts["users"] == users[:MOST_USERS]
    assert len(facts["reason"]) == 200


def test_commands_of_clients_have_facts_too() -> None:
    assert facts_of(InviteToGroup(3, ("bob",))) == {"group": 3, "users": ["bob"]}
    assert facts_of(UpdateGroup(3, "tea")) == {"group": 3, "fields": ["name"]}


def test_a_login_names_the_account_in_its_answer() -> None:
    answers: list[tuple[Any, str]] = [
        (Session("t", Account("ann")), "ann"),
        (Account("bob"), "bob"),
        (None, ""),
        (Settings(), ""),
    ]
    for answer, user in answers:
        assert user_in(answer) == user


def test_each_change_of_an_account_is_an_act(tmp_path: Path) -> None:
    table = tmp_path / "user.json"
    data = ("--data-dir", str(tmp_path / "data"))
    table.write_text(json.dumps([{"id": 7, "phone": "1", "password": "0" * 32}]))
    run_cli("account", "import", *data, str(table))
    with closing(sqlite3.connect(tmp_path / "data" / "imserver.db")) as sql, sql:
        sql.execute("UPDATE account SET factor_since = 1")
    changes = {
        "role": ("owner",),
        "lock": (),
        "unlock": (),
        "password": (),
        "remove-factor": (),
    }
    for command, more in changes.items():
        done = run_cli(
            "account", command, *data, "gochat/7", *more, stdin="correct horse\n"
        )
        assert done.returncode == 0, done
    acts = ("audit", "list", *data)
    assert run_cli(*acts, "gochat/7").stdout.count(" accounts.") == 5
    assert run_cli(*acts, "gochat/1").stdout.count(" accounts.") == 5, (
        "by the phone number"
    )
    assert run_cli(*acts, "gochat/8").stdout.startswith("no act matches")
