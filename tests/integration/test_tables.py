"""The tables: each says what erases and exports its rows, or why nothing
does."""

import re
import subprocess
import sys
from collections.abc import Iterable

from sqlalchemy import inspect

from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.app_rows import TablePage
from imserver.gateway.storage.row_query import PAGE_ROWS
from imserver.gateway.storage.statements import PooledStatements
from tests.stores import OpenStore
from tests.support import clean_environment

ANSWERED = """
hashes, secrets, addresses and random ids: archive_import.digest link_preview.link link_preview.picture
  audit_name.salt audit.hash audit.previous audit_head.hash audit_head.anchor_hash notify_endpoint.digest
  notify_endpoint.auth notify_endpoint.p256dh incoming_hook.token_hash bot.token_hash bot.hook_secret
  invitation.code invitation_mail.id directory.id password_reset.code account_factor.secret
  recovery_code.code account.password api_key.digest api_key.id erasure.digest erasure.name
  export_job.id notify_endpoint.url notify_delivery.host bot.hook_url api_key.used_from
words of servers, operators, back ends and public pages: audit.name audit.kind audit.request
  notify_audience.kind notify_delivery.kind app.name notify_delivery.topic event_feed.owner
  feature_schema.feature feature_schema.tables api_key.scopes api_key.apps alembic_version.version_num
  owner_step.owner app.settings api_key.note export_job.subject link_preview.content notify_audience.name
  notify_audience.content
erased by code of the feature, which has a test: account.folded notify_audience.target word.terms audit.names
  notify_audience.last_user uplink_session.member erasure.member
"""
"""Why columns with texts are neither exported nor erased by a statement of
their table."""


def test_each_table_of_the_database_is_declared(
    url: str, open_store: OpenStore
) -> None:
    names = open_store(url).read(lambda sql: inspect(sql.connection).get_table_names())
    assert {table.name for table in tables_of_server()} == set(names)


def test_each_column_with_a_text_is_exported_or_erased_or_says_why_not() -> None:
    tables = tables_of_server()
    without = set()
    erasures = [
        each
        for table in tables
        if isinstance(table.erase_user, tuple)
        for each in table.erase_user
    ]
    for table in tables:
        for name, kind, *words in map(str.split, table.types.split(",")):
            erasing = f"DELETE FROM {table.name} |UPDATE {table.name} .*{name} = "
            is_answered = "out" in words or (
                words and any(re.match(erasing, each) for each in erasures)
            )
            is_filled = (
                name in ("app", "log")
                or {*words} & {"out", "empty"}
                or re.search("[?=]", kind)
            )
            assert (
                is_filled
                or table.stays
                or not table.exported
                or hasattr(table.imported, "why")
            ), name
            if (
                name != "app"
                and re.match("name|text|blob|string|bytes", kind)
                and not is_answered
            ):
                without.add(f"{table.name}.{name}")
    assert without == set(re.findall(r"\w+\.\w+", ANSWERED))


def test_the_tables_of_absent_features_are_read_without_them() -> None:
    code = (
        "import sys; from imserver.gateway.node.feature_list import FEATURES, tables_of\n"
        "assert 'arrangement' in [table.name for table in tables_of(()).of_server()]\n"
        "print([name for name in sys.modules if name in FEATURES])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean_environment()
    )
    assert done.stdout == "[]\n"


def test_rows_of_a_table_go_before_those_by_which_they_are_found() -> None:
    names = [table.name for table in tables_of_server()]
    found_by = [
        table.name
        for table in tables_of_server()
        if "FROM account" in str(table.of_app)
    ]
    assert max(map(names.index, found_by)) < names.index("account")


def rows_of(pages: Iterable[TablePage]) -> dict[str, list[dict[str, object]]]:
    rows: dict[str, list[dict[str, object]]] = {}
    for page in pages:
        assert 0 < len(page.rows) <= PAGE_ROWS
        rows.setdefault(page.table, []).extend(
            dict(zip(page.columns, row, strict=True)) for row in page.rows
        )
    return rows


def test_pages_of_large_tables_follow_each_other(
    url: str, open_store: OpenStore
) -> None:
    """Through more accounts than one query names, and more events than one
    query looks through."""
    store = open_store(url)
    ids = range(1, 603)
    own = {1, 5000, *range(10_001, 10_402)}

    def fill(sql: PooledStatements) -> None:
        sql.execute_many(
            "INSERT INTO account (id, app, phone, nickname, avatar, password, version, created) "
            "VALUES (%s, %s, %s, '', '', '', 0, 1)",
            [(id, "tea" if id == 7 else "shop", str(id)) for id in ids],
        )
        sql.execute_many(
            "INSERT INTO relation (account, other, state, since) VALUES (%s, %s, 'friend', 1)",
            [(id, other) for id in ids for other in (1, 2)],
        )
        sql.execute_many(
            "INSERT INTO event (app, id, member, kind, time, body) VALUES ('shop', %s, %s, 'a', 1, %s)",
            [(id, "ann" if id in own else "bob", b"{}") for id in range(1, 10_403)],
        )

    store.write(fill)
    relations = rows_of(store.rows_of_app("shop"))["relation"]
    assert [(row["account"], row["other"]) for row in relations] == [
        (id, other) for id in ids for other in (1, 2) if id != 7
    ]
    events = rows_of(store.rows_of_user("shop", "ann"))["event"]
    assert [row["id"] for row in events] == sorted(own)
