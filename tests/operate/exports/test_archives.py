"""An archive has all rows of its user or app and nothing of others; an import
makes the same app of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from operator import call
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from imserver.gateway.errors import ImserverError, StartError
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.offline import offline_parts
from imserver.gateway.storage.contract import ArchivedFiles
from imserver.gateway.storage.tables import Reason
from imserver.messenger.log.asks import AskChange
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.exports.archive import ArchiveWriter
from imserver.operate.exports.contents import ArchiveMaker
from imserver.operate.exports.importing import Archive, BadArchive, Import
from imserver.operate.exports.rows import Subject
from tests.operate.exports.rows import (
    Storage,
    content_of,
    exported_of_app,
    fill,
    messages,
    tables_in,
)
from tests.support import run_cli

ANN = "701"
BOB = "702"


class Killed(Exception):
    """In storage of a kill."""


@pytest.fixture
def storage(url: str, tmp_path: Path) -> Iterator[Storage]:
    """A server, once on each engine."""
    one = Storage(url, tmp_path / "one")
    one.tenants.register("shop")
    yield one
    one.store.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Storage]:
    """A server with an empty database of SQLite."""
    one = Storage(f"sqlite:///{tmp_path}/other.db", tmp_path / "other")
    yield one
    one.store.close()


def run_import(
    storage: Storage,
    path: Path,
    app: str = "shop",
    report: Callable[[str], object] = len,
) -> Import:
    with (
        closing(Archive(path)) as archive,
        offline_parts(storage.config, storage.store, ArchivedFiles) as parts,
    ):
        archived = [each for _, each in parts]
        job = Import(archived, storage.store, storage.tenants, archive, app, report)
        job.run()
    return job


def pack(archive: Path, entries: dict[str, bytes]) -> Path:
    with ZipFile(archive, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return archive


def test_the_archive_of_a_user_has_a_row_of_each_table_and_nothing_of_others(
    storage: Storage,
) -> None:
    fill(storage.store, "shop", [ANN, BOB])
    archive = storage.export("shop", ANN)
    found = tables_in(archive)
    wanted = {
        table.name
        for table in tables_of_server()
        if isinstance(table.of_user, str)
        and isinstance(table.of_app, str)
        and not isinstance(table.columns, Reason)
    }
    assert found.keys() == wanted
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(wanted, 1)
    entries = content_of(archive)
    assert json.loads(entries["manifest.json"])["tables"] == dict.fromkeys(wanted, 1)
    assert [
        name for name, content in entries.items() if f"of {BOB}".encode() in content
    ] == []
    assert {
        "index.html",
        "profile.json",
        "conversations.jsonl",
        "audit.jsonl",
    } <= entries.keys()


def test_an_app_comes_back_from_its_archive(storage: Storage, other: Storage) -> None:
    fill(storage.store, "shop", [ANN, BOB])
    archive = storage.export("shop")
    found = tables_in(archive)
    assert found.keys() == exported_of_app().keys()
    job = run_import(other, archive)
    again = tables_in(other.export("shop"))
    imported = {
        name
        for name, table in exported_of_app().items()
        if not isinstance(table.imported, Reason)
    }
    assert again.keys() == imported
    assert {name: again[name] for name in imported} == {
        name: found[name] for name in imported
    }
    assert job.left_out.keys() == found.keys() - imported
    assert other.tenants.get("shop") is not None
    texts: list[str] = []
    run_import(other, archive, report=texts.append)
    assert texts == ["the app shop has this archive already"]
    assert tables_in(other.export("shop", name="third")) == again


class _Huge(ArchivedFiles):
    """A file for which no disk has room."""

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        yield "files/1/film.mp4", 1 << 60, iter(())


def test_an_archive_for_which_the_disk_has_no_room_is_not_begun(
    tmp_path: Path, storage: Storage
) -> None:
    folder = tmp_path / "archives" / "1"
    subject = Subject("shop", "", {}, [])
    with pytest.raises(StartError, match="too little space"):
        ArchiveMaker([_Huge()], storage.store, subject, folder, call, "1").make(
            lambda _: None
        )
    assert not folder.parent.exists()


def test_questions_come_back_with_answers_and_deadlines(
    storage: Storage, other: Storage
) -> None:
    asks = storage.store.part(MessageLog).asks
    until = asks.time_ms() + 3_600_000
    meta = (
        b'{"ask":{"options":[{"text":"Yes","value":"yes"}],"need":2,"until":%d}}'
        % until
    )
    writer = storage.store.part(MessageLog).writer
    writer.append(
        "shop",
        [Draft(sender=ANN, to_user=BOB, body=b"tea?", meta=meta) for _ in range(2)],
    )
    asks.answer("shop", BOB, 1, value="yes")
    run_import(other, storage.export("shop"))
    again = other.store.part(MessageLog).asks
    answered, open_one = (again.get("shop", BOB, id) for id in (1, 2))
    assert [(each.user, each.value) for each in answered.ask.answers] == [(BOB, "yes")]
    assert open_one.ask.until == until
    due, left = again.due()
    assert due == []
    assert left is not None
    assert 0 < left <= 3600
    assert isinstance(again.answer("shop", BOB, 1, value="yes"), AskChange)
    assert isinstance(again.cancel("shop", ANN, 2), AskChange)
    assert again.due()[1] is not None, "the other one is open"


def test_a_second_archive_a_changed_one_and_a_full_app_are_refused(
    storage: Storage, other: Storage
) -> None:
    fill(storage.store, "shop", [ANN])
    archive = storage.export("shop")
    run_import(other, archive)
    fill(storage.store, "tea", [BOB], 1000)
    storage.tenants.register("tea")
    tea = storage.export("tea", name="tea")
    with pytest.raises(BadArchive, match="another archive"):
        run_import(other, tea)
    with pytest.raises(BadArchive, match="exists on this server"):
        run_import(other, archive, "copy")
    storage.tenants.register("cup")
    storage.store.part(MessageLog).writer.append(
        "cup", [Draft(sender="ann", to_user="bob")]
    )
    with pytest.raises(BadArchive, match="another name of the app does not help"):
        # at once: an empty app would have led there, too
        run_import(storage, archive, "cup")
    storage.tenants.register("plain")
    with pytest.raises(BadArchive, match="not empty"):
        run_import(storage, storage.export("plain", name="plain"), "cup")
    entries = content_of(tea)
    (name,) = [name for name in entries if name.startswith("rows/account/")]
    entries[name] = entries[name].replace(BOB.encode(), b"703")
    pack(tea, entries)
    with pytest.raises(BadArchive, match=f"the entry {name} was changed"):
        run_import(other, tea, "tea")
    tea.write_bytes(tea.read_bytes()[:-100])
    with pytest.raises(BadArchive):
        run_import(other, tea, "tea")
    assert other.tenants.get("tea") is None


def forge(
    archive: Path, table: str = "", row: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """An archive with rows of a table that ``row`` changes, with other
    settings, and with right checksums."""
    entries = content_of(archive)
    sums = [json.loads(line) for line in entries["checksums.jsonl"].splitlines()]
    for each in sums:
        if each["name"].startswith(f"rows/{table}/"):
            lines = [
                json.loads(line) | (row or {})
                for line in entries[each["name"]].splitlines()
            ]
            changed = "".join(json.dumps(line) + "\n" for line in lines).encode()
            each.update(sha256=sha256(changed).hexdigest(), bytes=len(changed))
            entries[each["name"]] = changed
    entries["checksums.jsonl"] = "".join(
        json.dumps(each) + "\n" for each in sums
    ).encode()
    manifest = json.loads(entries["manifest.json"])
    manifest["checksums"] = sha256(entries["checksums.jsonl"]).hexdigest()
    manifest["settings"] |= settings
    entries["manifest.json"] = json.dumps(manifest).encode()
    return pack(archive.with_name("forged.zip"), entries)


@pytest.mark.parametrize(
    ("table", "row", "settings", "why"),
    [
        ("account", {"app": "victim"}, {}, "column app"),
        ("account", {"password": "scrypt"}, {}, "column password"),
        ("account", {"APP": "victim"}, {}, "column APP"),
        ("message", {"log": 1}, {}, "column log"),
        ("account", {"id": "1"}, {}, "str stands in place of int"),
        ("account", {"id": (1 << 63) - 1}, {}, "no server gives"),
        ("bot", {"id": 1}, {}, "accounts that are not in the archive"),
        ("relation", {"other": 1}, {}, "accounts that are not in the archive"),
        ("oauth_link", {"account": 1}, {}, "accounts that are not in the archive"),
        ("message", {"id": 1.5}, {}, "float stands in place of int"),
        ("message", {"id": -1}, {}, "no place"),
        ("message", {"time_ms": 1 << 62}, {}, "no place"),
        ("account", {"created": -1}, {}, "no place"),
        ("log", {"floor": -1}, {}, "no place"),
        ("account", {"created": True}, {}, "bool stands in place of int"),
        ("account", {"created": []}, {}, "list stands in place of int"),
        ("account", {"nickname": "a\0b"}, {}, "no place"),
        ("account", {"nickname": "x" * 20_000}, {}, "no place"),
        ("message", {"sender": None}, {}, "message does not take such rows"),
        ("", None, {"same_as": "victim"}, "does not set same_as"),
        ("", None, {"SameAs": "victim"}, "SameAs"),
        ("", None, {"limits": "none"}, "limits"),
        ("", None, {"login_policy": "none"}, "login_policy"),
        ("", None, {"anonymous": True}, "unknown key .anonymous"),
    ],
)
def test_a_forged_archive_stores_nothing(
    other: Storage,
    table: str,
    row: dict[str, Any] | None,
    settings: dict[str, Any],
    why: str,
    tmp_path: Path,
) -> None:
    source = Storage(f"sqlite:///{tmp_path}/source.db", tmp_path / "source")
    source.tenants.register("shop")
    fill(source.store, "shop", [ANN])
    check_forgery(source, other, why, table, row, **settings)


def check_forgery(
    source: Storage,
    other: Storage,
    why: str,
    table: str,
    row: dict[str, Any] | None,
    **settings: Any,
) -> None:
    """Import what :func:`forge` makes of the archive of ``source``, in vain,
    and then the archive."""
    archive = source.export("shop")
    source.store.close()
    other.tenants.register("victim")
    with pytest.raises(ImserverError, match=why):
        run_import(other, forge(archive, table, row, **settings), "evil")
    assert other.tenants.get("evil") is None
    # an empty one
    assert {page.table for page in other.store.rows_of_app("evil")} <= {"log"}
    assert [*other.store.rows_of_app("victim")] == []
    assert [
        path for path in (other.folder / "uploads").rglob("*") if path.is_file()
    ] == []
    run_import(other, archive, "evil")  # as nothing is left of the other one


def test_an_app_with_secrets_is_made_before_its_import(
    storage: Storage, other: Storage
) -> None:
    storage.tenants.register(
        "safe", max_channels=7, jwt=[{"algorithm": "HS256", "key": "x" * 40}]
    )
    archive = storage.export("safe")
    assert b"xxxx" not in b"".join(content_of(archive).values())
    with pytest.raises(BadArchive, match=r"jwt\[0\]\.key"):
        run_import(other, archive, "safe")
    other.tenants.register("safe", jwt=[{"algorithm": "HS256", "key": "y" * 40}])
    run_import(other, archive, "safe")


def test_a_user_reads_no_more_than_in_the_chat(storage: Storage) -> None:
    log = storage.store.part(MessageLog)
    group = log.groups.create("shop", "ann", "tea", ["bob"]).conversation  # type: ignore[union-attr]
    write = log.writer.append

    def say(sender: str, text: str) -> None:
        write("shop", [Draft(sender=sender, conversation=group, body=text.encode())])

    say("bob", "first")
    log.groups.leave("shop", group, ["bob"], "ann")
    say("ann", "without bob")
    log.groups.join("shop", group, ["bob"], "ann")
    say("ann", "<b>again</b>")
    write("shop", [Draft(sender="ann", to_user="cat", body=b"between ann and cat")])
    archive = storage.export("shop", "bob")
    entries = content_of(archive)
    whole = b"".join(entries.values())
    page = entries[f"conversations/{group}.html"].decode()
    lines = [
        json.loads(each)
        for each in entries[f"conversations/{group}.jsonl"].splitlines()
    ]
    assert [each["text"] for each in lines if each["kind"] == "message"] == [
        "first",
        "<b>again</b>",
    ]
    assert "&lt;b&gt;again&lt;/b&gt;" in page
    assert "<b>again" not in page
    assert b"without bob" not in whole
    assert b"between ann" not in whole


def test_an_export_and_an_import_go_on_after_kills(
    storage: Storage, other: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages(storage.store, 12_000)
    dice = random.Random(7)
    whole = tables_in(storage.export("shop", name="whole"))
    user = storage.export("shop", "ann", name="user")
    left = 0

    def proceed(_state: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    for target, expected in (("", whole), ("ann", tables_in(user))):
        kills = 0
        monkeypatch.setattr("imserver.operate.exports.archive.SAVE_SECONDS", 0.0)
        while True:
            left = dice.randint(2, 60)
            try:
                archive = storage.export("shop", target, proceed, "parts" + target)
                break
            except Killed:
                kills += 1
                # what was written behind the last save
                with (storage.folder / f"parts{target}" / "archive.zip").open(
                    "ab"
                ) as file:
                    file.write(dice.randbytes(dice.randint(0, 5000)))
        assert kills > 1
        assert tables_in(archive) == expected
    assert content_of(archive).keys() == content_of(user).keys()
    kills = 0
    archive = storage.folder / "parts" / "archive.zip"
    while True:
        left = dice.randint(3, 5)
        try:
            run_import(other, archive, report=proceed)
            break
        except Killed:
            kills += 1
            assert other.tenants.get("shop") is None, (
                "an app that is not whole is not there"
            )
    assert kills > 1
    again = tables_in(other.export("shop"))
    assert again == {name: rows for name, rows in whole.items() if name in again}
    log = other.store.part(MessageLog)
    assert log.entries.head("shop") == storage.store.part(MessageLog).entries.head(
        "shop"
    )
    (after,) = log.writer.append(
        "shop", [Draft(sender="ann", to_user="u1", body=b"next")]
    )
    assert after.entry.id == log.entries.head("shop")  # type: ignore[union-attr]


def test_a_process_that_still_writes_keeps_the_next_one_away(tmp_path: Path) -> None:
    """It slept until its lease was over."""
    first = ArchiveWriter(tmp_path)
    second = ArchiveWriter(tmp_path)
    first.open()
    first.begin("tables/message.jsonl")
    first.write(b"hi")
    with pytest.raises(BlockingIOError):
        second.open()
    second.close()
    first.end(1, "message")
    with ZipFile(first.finish(b"{}")) as archive:
        assert archive.read("tables/message.jsonl") == b"hi"
    second.open()
    second.close()


def test_an_app_is_exported_to_a_new_file_and_imported(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        done = run_cli(*words, "--data-dir", str(tmp_path / "data"))
        return done.returncode, done.stdout, done.stderr

    archive = tmp_path / "shop.zip"
    assert "has no database of a server" in run("export", "gochat", str(archive))[2]
    assert not list(tmp_path.iterdir())
    assert run("app", "create", "shop")[0] == 0
    status, output, _ = run("export", "shop", str(archive))
    size = archive.stat().st_size
    assert (status, output) == (
        0,
        f"app shop is written to {archive}: rows 0, bytes {size}\n",
    )
    assert "manifest.json" in ZipFile(archive).namelist()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "shop.zip"]
    assert run("export", "shop", str(archive)) == (
        1,
        "",
        f"imserver: {archive} exists already\n",
    )
    nobody = (
        "imserver: the database has no data of user typo, so nothing was exported\n"
    )
    assert run("export", "shop/typo", str(tmp_path / "typo.zip")) == (1, "", nobody)
    assert not (tmp_path / "typo.zip").exists()
    status, output, _ = run("import", "--app", "copy", str(archive))
    assert (status, output.split(";")[0]) == (0, "app copy imported")
    acts = run("audit", "list")[1]
    assert "exports.start" in acts
    assert "apps.import" in acts
