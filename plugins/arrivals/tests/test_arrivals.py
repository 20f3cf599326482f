"""Generated archives of all formats in the log: once, again, killed, later; and
what the importer makes of records."""

import csv
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from math import ceil
from pathlib import Path

import pytest
from archives import matrix, mattermost, rocketchat, slack, zulip
from archives.made import ANN, BOB, CAT, PNG, Made
from conftest import APP, Site
from imserver_arrivals.formats import archive_of
from imserver_arrivals.records import (
    EVERYBODY,
    Change,
    Emoji,
    File,
    Group,
    Member,
    Message,
    Person,
    Reaction,
    Removal,
    link,
    mention,
)
from imserver_arrivals.spool import RUN_BYTES, Spool

from imserver.gateway.storage.statements import text_of
from imserver.messenger.log.contract import Entry
from imserver.messenger.log.message_log import MessageLog
from tests.processes import running
from tests.security.mail import Sink

SECONDS = 600
FORMATS: dict[str, Callable[[Path, int], object]] = {
    "slack": lambda path, count: slack.make(5, count).write_folder(path),
    "mattermost": lambda path, count: mattermost.write(path, posts=count),
    "zulip": lambda path, count: zulip.make(path, 5, count),
    "rocketchat": lambda path, count: rocketchat.make(5, count).write(path),
    "matrix": lambda path, count: matrix.make(path, 5, count),
}
"""Format → what writes an archive of so many messages."""


def compare(site: Site, path: Path, name: str) -> None:
    """Each record of an archive is in the log once, and nothing else."""
    archive = archive_of(path, name)
    entries = site.entries()
    messages = [each for each in entries if each.kind == "message"]
    ids = {each.id: each for each in messages}
    texts = Counter(each.client_msg_id for each in messages)
    own = {each.client_msg_id: each for each in messages}
    assert texts.most_common(1)[0][1] == 1
    parts = 0
    for record in archive.records():
        if not isinstance(record, Message):
            continue
        entry = own[f"{name}.{record.id}"]
        parts += max(1, ceil(sum(not each.address for each in record.files) / 10))
        assert entry.time_ms == record.time_ms
        if record.text and "\x02" not in record.text:
            assert record.text.split()[0] in entry.body.decode()
        if about := record.thread or record.reply:
            assert ids[entry.about].client_msg_id == f"{name}.{about}"
            assert entry.thread == (entry.about if record.thread else 0)
        assert sum(each.count for each in entry.reactions) == len(
            {(each.person, each.emoji) for each in record.reactions}
        )
    assert len(messages) == parts
    assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_imported_once(site: Site, tmp_path: Path, name: str) -> None:
    import_twice(site, tmp_path / "archive", name)


def test_an_archive_is_imported_once_on_each_engine(url: str, tmp_path: Path) -> None:
    import_twice(Site(tmp_path, url), tmp_path / "archive", "slack")


def import_twice(site: Site, path: Path, name: str) -> None:
    FORMATS[name](path, 300)
    assert "new: accounts" in site.run(path)
    compare(site, path, name)
    again = site.run(path)
    assert "accounts 0, groups 0, messages 0, reactions 0, files 0, emoji 0" in again
    compare(site, path, name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_import_has_everything_once(
    site: Site, tmp_path: Path, installed: dict[str, str], name: str
) -> None:
    path = tmp_path / "archive"
    FORMATS[name](path, 3000)
    command = [sys.executable, "-m", "imserver", "arrive", *site.arguments(path)]
    for point in sorted(random.Random(name).sample(range(100, 2900), 2)):
        with running(
            command, env=installed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            deadline = time.monotonic() + SECONDS
            while stored(site.folder / "data" / "imserver.db") < point:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.002)  # between two looks at another process
            process.kill()
    subprocess.run(
        command, env=installed, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL
    )
    compare(site, path, name)
    with site.store() as store:
        rows = store.rows("SELECT id FROM upload")
    assert {
        path.name.removesuffix(".t")
        for path in files_in(site.folder / "data" / "uploads")
    } == {text_of(id) for (id,) in rows}
    other = Site(tmp_path / "other")
    other.run(path)
    for one, same in zip(contents(site), contents(other), strict=True):
        assert one == same


def contents(site: Site) -> Iterator[tuple[object, ...]]:
    """All entries, memberships and followers of threads, without what the
    secret of the site is in."""
    for each in site.entries():
        body = re.sub(rb"/uploads/[^/\"]+", b"", each.body)
        own_id = each.client_msg_id
        about = (each.conversation, each.about, each.thread)
        yield (
            own_id,
            each.kind,
            each.type,
            each.sender,
            each.time_ms,
            *about,
            body,
            each.meta,
            each.reactions,
        )
    with site.store() as store:
        columns = "conversation, member, joined_id, left_id, role, readable_after"
        yield from store.rows(
            f"SELECT {columns} FROM membership ORDER BY conversation, member, joined_id"
        )
        columns = "conversation, root, member, read_id, follows"
        yield from store.rows(
            f"SELECT {columns} FROM thread_reader ORDER BY root, member"
        )


def stored(database: Path) -> int:
    """How many entries a log has that another process writes."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(
            f"file:{database}?mode=ro", uri=True, timeout=5
        ) as connection:
            row = connection.execute("SELECT max(last_id) FROM log").fetchone()
        return int(row[0] or 0)
    except sqlite3.OperationalError:
        return 0  # its tables are being made


# --- what becomes of records --------------------------------------------------

TEA = Group(
    "1",
    "closed",
    "tea",
    creator="ann",
    created_ms=1,
    members=[
        Member("ann", "owner", 10),
        Member("bob", "admin", 20),
        Member("cat", "owner", -1),
    ],
)


def said(id: str, text: str, time_ms: int, **more: object) -> Message:
    return Message(id, "1", "ann", time_ms, text, **more)  # type: ignore[arg-type]


def bodies(entries: list[Entry]) -> list[str]:
    return [each.body.decode() for each in entries if each.kind == "message"]


def test_members_keep_their_roles_and_what_they_have_read(site: Site) -> None:
    joins = Change("j", "1", "ann", 15, "join", ["bob"])
    site.bring(
        Made(
            ANN,
            BOB,
            CAT,
            TEA,
            said("1", "one", 10),
            joins,
            said("3", "two", 20),
            said("4", "three", 30),
        )
    )
    with site.log() as log:
        members = {
            row.user: row.role for row in log.conversations.members(APP, 1, "", 10)
        }
        reads = log.conversations.read_positions(APP, {1: list(members)})
    ids = [each.id for each in site.entries() if each.kind == "message"]
    assert list(members.values()) == ["owner", "admin", "admin"]
    assert [reads[user, 1] for user in members] == [ids[0], ids[1], ids[2]]


def test_marks_are_names_and_links_to_what_has_come(site: Site) -> None:
    text = f"{mention('bob')} {mention('nobody')} {mention(EVERYBODY)}"
    there = [link("1", "https://old/1"), link("9", "https://old/9")]
    site.bring(
        Made(
            ANN, BOB, TEA, said("1", text, 5), said("2", " ".join(there), 6, reply="1")
        )
    )
    first, second = (each for each in site.entries() if each.kind == "message")
    assert first.body.decode() == "@Bob @nobody @all"
    assert b'"mentions":["all"]' in first.meta
    assert (
        second.body.decode()
        == f"http://127.0.0.1:8080/home/messages#c/1/{first.id} https://old/9"
    )
    assert (second.about, second.thread) == (first.id, 0)


def test_a_later_archive_brings_edits_and_takes_back(site: Site) -> None:
    photo = File("f", "f.png")
    hot = Reaction("bob", "🔥")
    before = (
        said("1", "one", 5, reactions=[hot]),
        said("2", "two", 6, files=[photo]),
        said("3", "three", 7),
    )
    bob = Message("4", "1", "bob", 8, "four")
    made = Made(ANN, BOB, TEA, *before, bob)
    made.files["f"] = PNG
    site.bring(made)
    again = (
        Removal("1", "bob", 4, "5"),  # before what it takes back
        Removal("1", "bob", 20, "1", hot),
        Removal("1", "ann", 20, "3"),
        Removal("1", "ann", 20, "unknown"),
        said("1", "One", 5, is_edited=True),
        said("2", "Two", 6, files=[File("f", "f.png", why="gone")], is_edited=True),
        Message("5", "1", "bob", 21, "five"),
        said("6", "six", 22),
        said("6", "Six", 22, is_edited=True, reactions=[hot]),
        said("6", "SIX", 22, is_edited=True),
    )
    later = Made(ANN, BOB, TEA, *again)
    site.bring(later)
    entries = site.entries()
    first, second, third, *others = (each for each in entries if each.client_msg_id)
    assert (first.body, first.reactions, json.loads(first.meta).keys()) == (
        b"One",
        (),
        {"edited", "reacted"},
    )
    assert (second.type, json.loads(second.body)["caption"]) == ("picture", "Two")
    assert json.loads(second.body)["url"].startswith("/api/v1/uploads/")
    assert [each.kind for each in (third, *others)] == [
        "recall",
        "message",
        "recall",
        "message",
    ]
    assert (others[-1].body, others[-1].reactions[0].emoji) == (b"SIX", "🔥")
    site.bring(made)
    site.bring(later)
    assert site.entries() == entries


def test_pictures_of_people_groups_and_emoji_come_once(site: Site) -> None:
    person = Person("ann", "Ann", "ann", avatar="a")
    group = Group("1", "open", "tea", members=[Member("ann")], avatar="g")
    emoji = [Emoji("party", "e"), Emoji("Not Possible", "e"), Emoji("lost", "x")]
    made = Made(
        person,
        group,
        *emoji,
        said("1", "one", 5, reactions=[Reaction("ann", ":party:")]),
    )
    made.files |= {"a": PNG, "g": PNG, "e": PNG}
    output = site.bring(made, status=1)
    assert "files 2, emoji 1" in output
    assert "1  emoji with a name that this server does not allow" in output
    with site.log() as log:
        assert log.conversations.get(APP, 1).avatar.startswith("/api/v1/uploads/")
    made.problems.counts.clear()
    assert "files 0, emoji 0" in site.bring(made, status=1)


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_repeated_import_leaves_no_file_of_a_killed_one(
    site: Site, is_stored: bool
) -> None:
    """A process that is killed leaves what is in the folder while a file is
    read: before its row is stored, or after that."""
    folder = site.folder / "data" / "uploads"
    left = dict[Path, bytes]()

    class Watched(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            left.update(
                (path, path.read_bytes()) for path in (folder / "incoming").glob("*")
            )
            return content

    made = Made(
        ANN,
        BOB,
        TEA,
        Emoji("party", "e"),
        said("1", "one", 5, files=[File("f", "f.txt")]),
    )
    made.files["e"] = PNG
    made.open = lambda id: (
        Watched(b"text" * 50_000) if id == "f" else Made.open(made, id)
    )  # type: ignore[method-assign]
    site.bring(made)
    assert left, "the folder of files that arrive was seen"
    before = files_in(folder)
    if not is_stored:
        with site.store() as store:
            store.execute("DELETE FROM upload")
            store.execute("DELETE FROM own_emoji")
    for path, content in left.items():
        path.write_bytes(content)
        path.with_name(f"{path.name}.t").write_bytes(b"thumbnail")
    site.bring(made)
    assert files_in(folder) == before


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_what_nobody_can_have_said_is_counted_for_the_report(site: Site) -> None:
    direct = Group("d", "direct", members=[Member("ann"), Member("bob")])
    third = Message("2", "d", "cat", 6, "psst")
    elsewhere = Message("3", "?", "ann", 7, "where")
    lost = said("1", "", 5, files=[File("f", "f.png")])
    path = site.folder / "report.csv"
    made = Made(
        ANN, BOB, CAT, TEA, direct, Group("e", "open", "=empty"), lost, third, elsewhere
    )
    site.bring(made, status=1, report=path, dry_run=True)
    assert path.stat().st_mode & 0o077 == 0
    rows = {
        row["id"]: row
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    }
    column = "not imported, or different"
    assert [rows[id]["message"] for id in ("ann", "cat", "1", "d")] == [
        "1",
        "0",
        "1",
        "0",
    ]
    assert rows["cat"][column] == rows["d"][column] == "direct message of a third: 1"
    assert (
        rows["1"][column]
        == rows["ann"][column].split("; ")[0]
        == "file without its bytes (its name comes): 1"
    )
    assert rows["d"]["name"] == "Ann, Bob"
    empty = rows["e"]
    assert (empty["name"], empty["becomes"]) == ("'=empty", "nothing")
    assert empty[column] == "conversation of nobody: 1"


BOT = Person("bot", "Bot", why="bot")


def test_whoever_wrote_in_a_group_without_members_is_in_it(site: Site) -> None:
    left = Group("1", "closed", "left")
    path = site.folder / "report.csv"
    made = Made(
        ANN,
        BOB,
        CAT,
        BOT,
        left,
        Group("2", "open", "joined"),
        Group("3", "open", "empty"),
        said("1", "one", 5, reactions=[Reaction("cat", "🔥")]),
        Message("2", "1", "bob", 6, "two"),
        Change("l", "1", "ann", 7, "leave", ["ann"]),
        Message("3", "1", "bot", 8, "three"),
        Change("j", "2", "cat", 9, "join", ["cat"]),
    )
    output = site.bring(made, report=path)
    assert "2  group without members (whoever wrote there is in it)" in output
    assert "1  conversation of nobody" in output
    rows = {
        row["id"]: row
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    }
    assert [rows[id]["becomes"] for id in "123"] == [
        *["group of the people who wrote in it"] * 2,
        "nothing",
    ]
    assert bodies(site.entries()) == ["one", "two", "three"]
    roles = [{"bob": "owner", "bot": "member"}, {"cat": "owner"}]
    assert roles_in(site) == roles
    assert "groups 0, messages 0" in site.bring(made)
    assert roles_in(site) == roles


def roles_in(site: Site) -> list[dict[str, str]]:
    """For each group, the role of each member there, by the id of the person
    there."""
    with site.store() as store:
        log = store.part(MessageLog)
        names = dict[str, str]()
        for subject, account in store.rows("SELECT subject, account FROM oauth_link"):
            names[str(account)] = text_of(subject)
        ids = [
            id
            for (id,) in store.rows(
                "SELECT id FROM conversation WHERE pair IS NULL ORDER BY id"
            )
        ]
        members = [log.conversations.members(APP, id, "", 10) for id in ids]
    return [{names[row.user]: row.role for row in some} for some in members]


@pytest.mark.parametrize(
    ("listed", "writers", "becomes"),
    [
        ((), ("ann", "bob"), "conversation of two"),
        (("ann",), ("bob", "bob"), "conversation of two"),
        ((), ("ann", "ann"), "conversation of two"),
        ((), ("ann", "bob", "cat"), "group of the people who wrote in it"),
        (("ann", "bob", "cat"), ("ann", "bob"), "group"),
    ],
)
def test_whoever_wrote_in_a_direct_conversation_without_members_is_in_it(
    site: Site, listed: tuple[str, ...], writers: tuple[str, ...], becomes: str
) -> None:
    path = site.folder / "report.csv"
    direct = Group("d", "direct", members=[Member(id) for id in listed])
    messages = [
        Message(str(time), "d", person, time, f"from {person}")
        for time, person in enumerate(writers, 5)
    ]
    output = site.bring(Made(ANN, BOB, CAT, direct, *messages), report=path)
    rows = {
        row["id"]: row
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    }
    assert rows["d"]["becomes"] == becomes
    assert ("without members" in output) == (len(listed) < 2)
    entries = [each for each in site.entries() if each.kind == "message"]
    assert bodies(entries) == [each.text for each in messages]
    if becomes != "conversation of two":
        assert set(roles_in(site)[0]) == {"ann", "bob", "cat"}
    else:
        assert len(set(entries[0].members)) == len({*listed, *writers})


def test_hostile_records_are_counted_and_the_rest_comes(site: Site) -> None:
    far = Message("5", "1", "ann", 10**15, "far")
    nobody = Message("2", "1", "y" * 300, 6, "nobody")
    people = Person("\x1b[2J", "x\x00" * 9), Person("z" * 300, "z")
    long = said(
        "3",
        "x" * 100_000,
        7,
        reactions=[Reaction("ann", "y" * 200), Reaction("u\x00", "z")],
    )
    many = said("4", "", 8, files=[File(str(number), "../f") for number in range(25)])
    output = site.bring(
        Made(
            ANN,
            *people,
            TEA,
            said("1", "one", 5),
            nobody,
            said("1", "twice", 9),
            long,
            many,
            far,
        ),
        status=1,
    )
    assert "1  message without a sender" in output
    assert "1  reaction with a long name" in output
    found = bodies(site.entries())
    assert [each[:4] for each in found[:2]] == ["one", "xxxx"]
    assert len(found) == 6
    assert found[-1] == "far"


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_people_get_their_links_by_mail(site: Site, sink: Sink) -> None:
    smtp = {
        "host": "127.0.0.1",
        "port": sink.port,
        "tls": "none",
        "user": "im",
        "password": "secret",
    }
    site.settings["smtp"] = {**smtp, "sender": "chat@example.org"}
    site.write()
    sink.answers = ["550 no", "250 OK"]
    nameless = Person("dan", "Dan", "dan")
    made = Made(ANN, BOB, nameless, TEA, said("1", "one", 5))
    output = site.bring(made, mail=True)
    assert "sent: 1 mails with links" in output
    assert "1  mail that the mail server refuses" in output
    assert "1  person without an e-mail address, who gets no mail" in output
    assert sink.mails[0][1] == ["bob@example.org"]
    assert (
        "links lead to http://127.0.0.1:8080/home/messages: set app.http_url" in output
    )
    assert sink.code("http://127.0.0.1:8080/home/messages")
    assert "You log in as bob." in sink.mails[0][2]
    site.settings["smtp"]["password"] = "wrong"
    site.write()
    output = site.bring(made, mail=True)
    assert "sent: 0 mails with links" in output
    assert "2  mail that is not sent: SMTP" in output


def test_the_spool_sorts_by_time_and_keeps_the_order_of_the_same_time() -> None:
    spool = Spool()
    dice = random.Random(3)
    times = [dice.randrange(50) for _ in range(300)]
    for number, moment in enumerate(times):
        spool.add(
            said(
                str(number),
                "x" * dice.choice((0, RUN_BYTES // 100, RUN_BYTES // 4)),
                moment,
            )
        )
    for _ in range(2):
        read = [(each.time_ms, int(each.id)) for each in spool.read()]
        assert read == sorted(zip(times, range(300), strict=True))
    spool.close()
