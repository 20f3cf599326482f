"""An export as conversations: counts, order, threads, reactions, files; repeated, later and interrupted."""

import csv
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import APP, Site
from workspace import BEGIN, PNG, Workspace, day_of, make, people, ts

from imserver.messenger.messages.log.contract import Entry
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from tests.support import Server

SECONDS = 600
Write = Callable[[Workspace, str], Path]


def entries_of(log: MessageLog) -> list[Entry]:
    """All entries of the app."""
    found: list[Entry] = []
    while page := log.entries.read(APP, found[-1].id if found else 0, 5000):
        found += page
    return found


def check(site: Site, workspace: Workspace) -> list[Entry]:
    """Compare an import with its export, by the counts and by each message."""
    with site.log() as log:
        entries = entries_of(log)
    kinds = Counter(entry.kind for entry in entries)
    counts = workspace.counts
    assert kinds["message"] == counts["messages"]
    assert kinds["reaction"] == counts["reactions"]
    assert kinds["edit"] == counts["edits"]
    assert sum(entry.kind == "message" and entry.about > 0 for entry in entries) == counts["replies"]
    assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))
    messages = [entry for entry in entries if entry.kind == "message"]
    assert [entry.time_ms for entry in messages] == sorted(entry.time_ms for entry in messages)
    own = {entry.client_msg_id: entry for entry in messages}
    assert len(own) == len(messages)
    ids = {entry.id: entry for entry in messages}
    for folder, rows in rows_of(workspace):
        for row in rows:
            entry = own[f"slack.{folder}.{row['ts']}"]
            assert f"{row['text'].split()[0]} " in f"{entry.body.decode()} ".replace('"', " ")
            if "thread_ts" in row:
                assert ids[entry.about].client_msg_id == f"slack.{folder}.{row['thread_ts']}"
                assert entry.thread == entry.about
            assert sum(each.count for each in entry.reactions) == sum(
                len(each["users"]) for each in row.get("reactions", ())
            )
    return entries


def rows_of(workspace: Workspace) -> list[tuple[str, list[dict[str, Any]]]]:
    """(id of a conversation, messages of a day)."""
    names = {
        row.get("name", row["id"]): row["id"]
        for file in ("channels", "groups", "mpims", "dms")
        for row in workspace.files[f"{file}.json"]
    }
    return [(names[name.split("/")[0]], rows) for name, rows in workspace.files.items() if "/" in name]


def test_an_export_is_imported_once_on_each_engine(url: str, tmp_path: Path, write: Write) -> None:
    site, workspace = Site(tmp_path, url), make(7, 300)
    path = write(workspace, "export.zip")
    said = site.run(path)
    assert "new: 12 accounts, 7 groups, 300 messages" in said
    check(site, workspace)
    assert "new: 0 accounts, 0 groups, 0 messages, 0 reactions, 0 files" in site.run(path)
    check(site, workspace)


def interrupted(
    site: Site, path: Path, environment: dict[str, str], seed: int, total: int, times: int = 5
) -> None:
    """Import by the command as it is installed, killed when it has stored so many messages; then whole."""
    command = [sys.executable, "-m", "imserver", "slack-import", *site.arguments(path)]
    chance = random.Random(seed)
    points = sorted(chance.sample(range(total // 20, total - total // 20), times))
    database = site.folder / "data" / "imserver.db"
    for point in points:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + SECONDS
            while stored(database) < point:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.002)  # between two looks at another process
        finally:
            process.kill()
            process.communicate()
    subprocess.run(command, env=environment, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)


def stored(database: Path) -> int:
    """How many entries a log has that another process writes."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5) as connection:
            row = connection.execute("SELECT max(last_id) FROM log").fetchone()
        return int(row[0] or 0)
    except sqlite3.OperationalError:
        return 0  # its tables are being made


def test_an_import_that_is_killed_has_everything_once(
    site: Site, write: Write, installed: dict[str, str]
) -> None:
    workspace = make(11, 2000)
    path = write(workspace, "export.zip")
    interrupted(site, path, installed, 11, 2000, times=2)
    check(site, workspace)


def small(*messages: dict[str, Any], **lists: Any) -> Workspace:
    """A workspace with the channel ``tea`` of ann, bob and a third, with these messages."""
    rows = people(5)
    channel = {
        "id": "C0TEA",
        "name": "tea",
        "created": BEGIN,
        "creator": rows[0]["id"],
        "is_archived": False,
        "members": [row["id"] for row in rows[:3]],
        "purpose": {"value": "All &amp; tea"},
    }
    made = Workspace({"users.json": rows, "channels.json": [channel], **lists})
    for number, message in enumerate(messages):
        row = {"type": "message", "user": rows[0]["id"], "ts": ts(BEGIN + 60 + number), **message}
        made.files.setdefault(f"tea/{day_of(BEGIN)}.json", []).append(row)
    return made


ANN, BOB, CAT = "U00000000", "U00000001", "U00000002"


def imported(site: Site, path: Path, *options: str) -> list[Entry]:
    site.run(path, *options)
    with site.log() as log:
        return entries_of(log)


def test_a_later_export_adds_what_is_new(site: Site, write: Write) -> None:
    first = small({"text": "old"}, {"text": "second"})
    site.run(write(first, "first"))
    later = small(
        {"text": "old", "reactions": [{"name": "tada", "users": [BOB, CAT]}]},
        {"text": "second"},
        {"text": "new", "thread_ts": ts(BEGIN + 60), "user": BOB},
    )
    later.files["channels.json"][0]["members"] = [ANN, BOB, "U00000003"]
    said = site.run(write(later, "later.zip"))
    assert "0 accounts, 0 groups, 1 messages, 2 reactions" in said
    with site.log() as log:
        entries = entries_of(log)
        members = log.conversations.members(APP, 1, "", 10)
    old, new = entries[1], entries[-2]
    assert [(each.emoji, each.count) for each in old.reactions] == [("🎉", 2)]
    assert (new.kind, new.body, new.about) == ("message", b"new", old.id) or entries[-3].about == old.id
    assert len(members) == 4  # no event says that the third has left


def test_events_change_groups_as_they_were(site: Site, write: Write) -> None:
    entries = imported(
        site,
        write(
            small(
                {"text": "first"},
                {"subtype": "channel_join", "user": CAT, "text": "joined"},
                {"subtype": "channel_topic", "topic": "Green &lt;3", "text": "set"},
                {"subtype": "channel_name", "old_name": "tea", "name": "green-tea", "text": "renamed"},
                {"subtype": "channel_leave", "user": CAT, "text": "left"},
                {"subtype": "channel_archive", "text": "archived"},
            ),
            "export",
        ),
    )
    changes = [(entry.kind, json.loads(entry.meta)) for entry in entries if entry.kind != "message"]
    assert [kind for kind, _ in changes] == ["group", "join", "group", "group", "leave"]
    assert len(changes[0][1]["users"]) == 2
    assert changes[2][1] == {"change": "description", "description": "Green <3"}
    assert changes[3][1] == {"change": "rename", "name": "green-tea"}
    with site.log() as log:
        group = log.conversations.get(APP, 1)
        assert (group.name, group.open, group.created) == ("green-tea", True, BEGIN)


def test_people_claim_their_accounts_by_a_link(site: Site, write: Write) -> None:
    path, links = write(small({"text": "hello"}), "export"), site.folder / "links.csv"
    site.run(path, "--links", str(links))
    assert links.stat().st_mode & 0o077 == 0
    rows = list(csv.DictReader(links.read_text(encoding="utf-8").splitlines()))
    assert [row["login"] for row in rows] == ["ann", "bob", "user2"]  # no bot, and nobody who has left
    code = rows[0]["link"].partition("#reset=")[2]
    with Server(site.folder / "node", config=site.settings) as node:
        claim = {"app": APP, "code": code, "password": "a long password"}
        assert node.post("/api/v1/accounts/reset/finish", claim).status == 200
        assert node.post("/api/v1/accounts/reset/finish", claim).status != 200
        login = {"app": APP, "login": "ann@example.org", "password": "a long password"}
        token = node.post("/api/v1/accounts/login", login).json["token"]
        listed = node.get("/api/v1/conversations", key=token).json["conversations"]
        assert [(row["name"], row["unread"]) for row in listed] == [("tea", 0)]
        page = node.get(f"/api/v1/messages?conversation={listed[0]['conversation']}", key=token)
        assert page.json["messages"][-1]["text"] == "hello"
    site.run(path, "--links", str(links))
    assert [row["login"] for row in csv.DictReader(links.read_text(encoding="utf-8").splitlines())] == [
        "bob",
        "user2",
    ]


def test_an_account_of_somebody_else_stays_theirs(site: Site, write: Write) -> None:
    with site.store() as store:
        other = AccountStore(store).add(Account(0, APP, "", email="ann@example.org", name="ann"), "x")
    said = site.run(write(small({"text": "hello"}), "export"))
    assert "1  email that another account has" in said
    with site.log() as log:
        assert all(entry.sender != other.user for entry in entries_of(log))


def test_files_come_from_a_folder_once(site: Site, write: Write) -> None:
    files = site.folder / "files"
    files.mkdir()
    (files / "F000001.png").write_bytes(PNG)
    (files / "F000002").mkdir()
    (files / "F000002" / "notes.txt").write_text("notes")
    (files / f"{ANN}.png").write_bytes(PNG)
    path = write(
        small(
            {"text": "look", "files": [{"id": "F000001", "name": "../tea.png"}]},
            {
                "text": "",
                "files": [{"id": "F000001", "name": "a.png"}, {"id": "F000002", "name": "notes.txt"}],
            },
            {"text": "lost", "files": [{"id": "F000003", "name": "lost.pdf"}]},
        ),
        "export",
    )
    entries = [each for each in imported(site, path, "--files", str(files)) if each.kind == "message"]
    picture, album, lost = (json.loads(entry.body) for entry in entries)
    assert [entry.type for entry in entries] == ["picture", "album", "file"]
    assert (picture["caption"], picture["width"]) == ("look", 1)
    assert [item["type"] for item in album["items"]] == ["picture", "file"]
    assert lost == {"name": "lost.pdf", "caption": "lost"}
    assert "0 files" in site.run(path, "--files", str(files))
    uploaded = [each for each in (site.folder / "data" / "uploads").rglob("*") if each.is_file()]
    assert len({each.name.removesuffix(".t") for each in uploaded}) == 3


def test_a_dry_run_says_what_would_come(site: Site, write: Write) -> None:
    said = site.run(write(make(3, 100), "export.zip"), "--dry-run")
    assert "100  messages" in said
    assert "10  people" in said
    assert not (site.folder / "data").exists()
