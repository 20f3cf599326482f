"""An export as conversations, repeated, later and interrupted; exports that are
broken or hostile; texts."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from archives.slack import BEGIN, PNG, Workspace, day_of, make, people, ts
from conftest import APP, Site
from imserver_arrivals import slack as export_module
from imserver_arrivals import source as source_module
from imserver_arrivals.records import (
    EVERYBODY,
    Change,
    Group,
    Message,
    Person,
    Reaction,
    Removal,
    mention,
)
from imserver_arrivals.slack import SlackExport, Texts, microseconds_of, text_of
from imserver_arrivals.text import clean, emoji_named

from imserver.messenger.log.contract import Entry
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from tests.support import Server

Write = Callable[[Workspace, str], Path]


def small(*messages: dict[str, Any], **lists: Any) -> Workspace:
    """A workspace with the channel ``tea`` of ann, bob and a third, with these
    messages."""
    rows = people(5)
    about = {
        "creator": rows[0]["id"],
        "is_archived": False,
        "purpose": {"value": "All &amp; tea"},
    }
    members = [row["id"] for row in rows[:3]]
    channel = {
        "id": "C0TEA",
        "name": "tea",
        "created": BEGIN,
        "members": members,
        **about,
    }
    made = Workspace({"users.json": rows, "channels.json": [channel], **lists})
    for number, message in enumerate(messages):
        row = {
            "type": "message",
            "user": rows[0]["id"],
            "ts": ts(BEGIN + 60 + number),
            **message,
        }
        made.files.setdefault(f"tea/{day_of(BEGIN)}.json", []).append(row)
    return made


ANN = "U00000000"
BOB = "U00000001"
CAT = "U00000002"


def imported(site: Site, path: Path, *options: str) -> list[Entry]:
    site.run(path, *options)
    return site.entries()


def test_events_of_the_api_are_edits_and_removals(write: Write) -> None:
    """Exports with all edits and deletions have them, and what is followed
    live."""
    first, second, third = (ts(BEGIN + 60 + number) for number in range(3))
    changed = {
        "user": ANN,
        "text": "better",
        "ts": first,
        "edited": {"user": ANN, "ts": ts(BEGIN + 90)},
    }
    tombstone = {
        "user": "USLACKBOT",
        "subtype": "tombstone",
        "text": "This message was deleted.",
        "ts": third,
    }
    inner = {"subtype": "message_changed", "message": changed, "ts": first}
    removed = {"user": BOB, "ts": second}
    left = {"user": CAT, "text": "third", "ts": third}
    export = SlackExport(
        write(
            small(
                {"text": "first"},
                {"text": "second", "user": BOB},
                {"text": "third"},
                {"subtype": "message_changed", "user": None, "message": changed},
                {
                    "subtype": "message_deleted",
                    "user": None,
                    "deleted_ts": second,
                    "previous_message": removed,
                },
                {
                    "subtype": "message_changed",
                    "message": tombstone,
                    "previous_message": left,
                },
                {
                    "type": "reaction_removed",
                    "user": BOB,
                    "reaction": "+1",
                    "item": {"ts": first},
                },
                {"type": "member_left_channel", "user": CAT},
                {"subtype": "message_replied", "message": {"ts": first}},
                {"subtype": "message_deleted", "user": None, "deleted_ts": second},
                {
                    "text": "of ours",
                    "blocks": [{"type": "section", "block_id": "imserver.7"}, 7],
                },
                {"subtype": "message_changed", "message": inner},
            ),
            "export",
        )
    )
    records = [
        each for each in export.records() if not isinstance(each, Person | Group)
    ]
    messages = [
        (each.text, each.is_edited) for each in records if isinstance(each, Message)
    ]
    assert messages == [
        ("first", False),
        ("second", False),
        ("third", False),
        ("better", True),
        ("", False),
    ]
    assert [each for each in records if isinstance(each, Removal)] == [
        Removal("C0TEA", BOB, (BEGIN + 64) * 1000, f"C0TEA.{second}"),
        Removal("C0TEA", ANN, (BEGIN + 65) * 1000, f"C0TEA.{third}"),
        Removal(
            "C0TEA",
            BOB,
            (BEGIN + 66) * 1000,
            f"C0TEA.{first}",
            Reaction(BOB, "👍", "+1"),
        ),
    ]
    assert [
        (each.kind, each.people) for each in records if isinstance(each, Change)
    ] == [("leave", [CAT])]
    assert export.problems.counts == {
        "message_replied (leaves no entry)": 1,
        "message without a sender": 1,
        "message of ours (leaves no entry)": 1,
        "kind message_changed (imported as text)": 1,
    }


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
    assert "accounts 0, groups 0, messages 1, reactions 2" in said
    with site.log() as log:
        entries = site.entries()
        members = log.conversations.members(APP, 1, "", 10)
    old = entries[1]
    new = entries[-2]
    assert [(each.emoji, each.count) for each in old.reactions] == [("🎉", 2)]
    assert (new.kind, new.body, new.about) == ("message", b"new", old.id) or entries[
        -3
    ].about == old.id
    assert len(members) == 4  # no event says that the third has left


def test_events_change_groups_as_they_were(site: Site, write: Write) -> None:
    export = small(
        {"text": "first"},
        {"subtype": "channel_join", "user": CAT, "text": "joined"},
        {"subtype": "channel_topic", "topic": "Green &lt;3", "text": "set"},
        {
            "subtype": "channel_name",
            "old_name": "tea",
            "name": "green-tea",
            "text": "renamed",
        },
        {"subtype": "channel_leave", "user": CAT, "text": "left"},
        {"subtype": "channel_archive", "text": "archived"},
    )
    entries = imported(site, write(export, "export"))
    changes = [
        (entry.kind, json.loads(entry.meta))
        for entry in entries
        if entry.kind != "message"
    ]
    assert [kind for kind, _ in changes] == ["group", "join", "group", "group", "leave"]
    assert len(changes[0][1]["users"]) == 2
    assert changes[2][1] == {"change": "description", "description": "Green <3"}
    assert changes[3][1] == {"change": "rename", "name": "green-tea"}
    with site.log() as log:
        group = log.conversations.get(APP, 1)
        assert (group.name, group.open, group.created) == ("green-tea", True, BEGIN)


def test_people_claim_their_accounts_by_a_link(site: Site, write: Write) -> None:
    path = write(small({"text": "hello"}), "export")
    links = site.folder / "links.csv"
    site.run(path, "--links", str(links))
    assert links.stat().st_mode & 0o077 == 0
    rows = list(csv.DictReader(links.read_text(encoding="utf-8").splitlines()))
    # no bot, and nobody who has left
    assert [row["login"] for row in rows] == ["ann", "bob", "user2"]
    code = rows[0]["link"].partition("#reset=")[2]
    with Server(site.folder / "node", config=site.settings) as node:
        claim = {"app": APP, "code": code, "password": "a long password"}
        assert node.post("/api/v1/accounts/reset/finish", claim).status == 200
        assert node.post("/api/v1/accounts/reset/finish", claim).status != 200
        login = {"app": APP, "login": "ann@example.org", "password": "a long password"}
        token = node.post("/api/v1/accounts/login", login).json["token"]
        listed = node.get("/api/v1/conversations", key=token).json["conversations"]
        assert [(row["name"], row["unread"]) for row in listed] == [("tea", 0)]
        page = node.get(
            f"/api/v1/messages?conversation={listed[0]['conversation']}", key=token
        )
        assert page.json["messages"][-1]["text"] == "hello"
    site.run(path, "--links", str(links))
    rows = list(csv.DictReader(links.read_text(encoding="utf-8").splitlines()))
    assert [row["login"] for row in rows] == ["bob", "user2"]


def test_an_account_of_somebody_else_stays_theirs(site: Site, write: Write) -> None:
    with site.store() as store:
        other = AccountStore(store).add(
            Account(0, APP, "", email="ann@example.org", name="ann"), "x"
        )
    said = site.run(write(small({"text": "hello"}), "export"))
    assert "1  email that another account has" in said
    assert all(entry.sender != other.user for entry in site.entries())


def test_files_come_from_a_folder_once(site: Site, write: Write) -> None:
    files = site.folder / "files"
    files.mkdir()
    (files / "F000001.png").write_bytes(PNG)
    (files / "F000002").mkdir()
    (files / "F000002" / "notes.txt").write_text("notes")
    (files / f"{ANN}.png").write_bytes(PNG)
    export = small(
        {"text": "look", "files": [{"id": "F000001", "name": "../tea.png"}]},
        {
            "files": [
                {"id": "F000001", "name": "a.png"},
                {"id": "F000002", "name": "notes.txt"},
            ],
            "text": "",
        },
        {"text": "lost", "files": [{"id": "F000003", "name": "lost.pdf"}]},
    )
    path = write(export, "export")
    entries = [
        each
        for each in imported(site, path, "--files", str(files))
        if each.kind == "message"
    ]
    picture, album, lost = (json.loads(entry.body) for entry in entries)
    assert [entry.type for entry in entries] == ["picture", "album", "file"]
    assert (picture["caption"], picture["width"]) == ("look", 1)
    assert [item["type"] for item in album["items"]] == ["picture", "file"]
    assert lost == {"name": "lost.pdf", "caption": "lost"}
    assert "files 0" in site.run(path, "--files", str(files))
    uploaded = [
        each for each in (site.folder / "data" / "uploads").rglob("*") if each.is_file()
    ]
    assert len({each.name.removesuffix(".t") for each in uploaded}) == 3


def test_a_dry_run_says_what_would_come(site: Site, write: Write) -> None:
    said = site.run(write(make(3, 100), "export.zip"), "--dry-run")
    assert "100  messages" in said
    assert "10  people" in said
    assert not (site.folder / "data").exists()


TEXTS = Texts({"U1"}, {"C1": "general"})


@pytest.mark.parametrize(
    ("slack", "ours"),
    [
        ("a &lt;b&gt; &amp;amp;", "a <b> &amp;"),
        ("<@U1> and <@U2|old>", f"{mention('U1')} and @old"),
        (
            "<!here> <!channel> <!subteam^S1|@team>",
            f"{mention(EVERYBODY)} {mention(EVERYBODY)} @team",
        ),
        ("<#C1> <#C2|secret> <#C3>", "#general #secret #C3"),
        ("<https://a.org/?a=1&amp;b=2>", "https://a.org/?a=1&b=2"),
        (
            "<https://a.org|A page> <http://a.org|a.org>",
            "A page (https://a.org) http://a.org",
        ),
        ("<mailto:a@b.org|a@b.org>", "a@b.org"),
        ("<!date^1392734382^{date}|Feb 18>", "Feb 18"),
        (
            ":smile: :wave::skin-tone-3: :party_parrot: 10:30:00",
            "😄 👋🏼 :party_parrot: 10:30:00",
        ),
        (
            "*bold* _italic_ ~gone~ `~a~ :smile:`",
            "*bold* _italic_ ~~gone~~ `~a~ :smile:`",
        ),
        ("```x &lt; 1\n~y~```", "```x < 1\n~y~```"),
        ("a\x02@U1\x03b", "a@U1b"),
    ],
)
def test_texts_are_converted(slack: str, ours: str) -> None:
    assert TEXTS.convert(slack) == ours


def test_every_text_has_a_limit_and_takes_linear_time() -> None:
    for text in (
        "<" * 200_000,
        "`" * 100_000,
        ":a" * 100_000,
        "~a" * 100_000,
        "x" * 200_000,
    ):
        assert len(clean(TEXTS.convert(text)).encode()) <= 70_000


def test_apps_say_it_in_attachments_and_blocks() -> None:
    build = export_module.SlackAttachment(
        title="Build", title_link="https://ci.org", text="failed"
    )
    message = export_module.SlackMessage("1.0", attachments=[build])
    assert TEXTS.convert(text_of(message)) == "Build (https://ci.org)\nfailed"
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "hi "},
        {"type": "emoji", "name": "tada"},
    ]
    blocks = [
        {
            "type": "rich_text",
            "elements": [{"type": "rich_text_section", "elements": parts}],
        }
    ]
    assert (
        TEXTS.convert(text_of(export_module.SlackMessage("1.0", blocks=blocks)))
        == "hi 🎉"
    )
    deep: Any = {"type": "section"}
    for _ in range(500):
        deep = {"type": "section", "elements": [deep]}
    assert text_of(export_module.SlackMessage("1.0", blocks=[deep])) == ""


def test_names_of_emoji_and_times() -> None:
    assert [emoji_named(name) for name in ("+1", "heart", "us", "nothing")] == [
        "👍",
        "❤️",
        "🇺🇸",
        "",
    ]
    times = [
        microseconds_of(ts)
        for ts in ("1600000000.000200", "7.5", "", "x", "1.2.3", "99999999999999.1")
    ]
    assert times == [1_600_000_000_000_200, 7_500_000, 0, 0, 0, 0]


def test_what_is_broken_is_named_and_the_rest_is_imported(
    site: Site, write: Write
) -> None:
    path = write(small({"text": "good"}), "export")
    tea = path / "tea"
    (tea / "2020-09-15.json").write_text('[{"ts": "1.0", "text":')
    (tea / "2020-09-16.json").write_text(
        '[{"ts": 7}, 3, {"text": "no time"}, {"ts": "x"}]'
    )
    (tea / "2020-09-17.json").write_bytes(b'[{"ts": "1600300000.0", "text": "\xff"}]')
    end = {"ts": ts(BEGIN + 400_000), "user": ANN, "text": "end"}
    (tea / "2020-09-18.json").write_text(json.dumps([end]))
    (tea / "notes.txt").write_text("x")
    (path / "canvases.json").write_text("[]")
    (path / "\x1b[2J.json").write_text("[]")
    channels = json.loads((path / "channels.json").read_text())
    channels[0] |= {
        "created": 1e308,
        "pins": [{"id": "1.0", "user": ANN, "created": 1e308}],
    }
    (path / "channels.json").write_text(json.dumps(channels))
    (path / "lost").mkdir()
    (path / "lost" / "2020-09-18.json").write_text("[]")
    said = site.run(path, status=1)
    assert "tea/2020-09-15.json: " in said
    assert "tea/2020-09-16.json, message 2: " in said
    assert "5  broken" in said
    # a byte that is no character costs nothing else
    assert "1  message without a sender" in said
    assert "6 messages of the archive are not imported" in said
    assert "\x1b" not in said
    for kind in (
        "file canvases.json",
        "file lost/2020-09-18.json",
        "file in the folder of a conversation",
    ):
        assert f"1  {kind}" in said
    with site.log() as log:
        messages = [
            each for each in log.entries.read("gochat", 0, 10) if each.kind == "message"
        ]
    assert [each.body for each in messages] == [b"good", b"end"]


def test_a_zip_file_reaches_nothing_outside_and_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export.zip"
    small({"text": "good"}).write_zip(path)
    with ZipFile(path, "a", ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.json", "[]")
        archive.writestr("tea/../../../2020-09-20.json", "[]")
        archive.writestr("tea/2020-09-21.json", b"[" + b" " * 5_000_000 + b"]")
    monkeypatch.setattr(source_module, "MOST_JSON_BYTES", 1_000_000)
    export = SlackExport(path)
    assert sum(isinstance(each, Message) for each in export.records()) == 1
    assert export.problems.broken[-1] == "tea/2020-09-21.json: more than 1000000 bytes"
    leaving = ("../../evil.json", "tea/../../../2020-09-20.json")
    assert export.problems.broken[:-1] == [
        f"file {name}: its name leads out of the archive" for name in leaving
    ]
    assert [each.name for each in tmp_path.iterdir()] == ["export.zip"]


def test_senders_whom_no_list_names_have_names(site: Site, write: Write) -> None:
    bot = {"subtype": "bot_message", "user": None, "bot_id": "B1", "username": "Deploy"}
    export = small(
        {**bot, "text": "done"},
        {
            "user": "UFOREIGN",
            "user_profile": {"real_name": "Zoë"},
            "text": "from elsewhere",
        },
        {"user": None, "text": "nobody"},
        {"subtype": "me_message", "text": "waves"},
        {"subtype": "something_new", "text": "what"},
        {"text": "gone?", "thread_ts": ts(BEGIN)},
    )
    said = site.run(write(export, "export"), status=1)
    bodies = [each.body.decode() for each in site.entries() if each.kind == "message"]
    assert bodies == ["done", "from elsewhere", "_waves_", "what", "gone?"]
    assert "1 messages of the archive are not imported" in said
    assert "message without a sender" in said
    assert "kind something_new (imported as text)" in said
    assert "reply to a message that is not there" in said


def test_conversations_without_known_members_come_with_their_writers(
    site: Site, write: Write
) -> None:
    export = small({"text": "kept"})
    export.files["channels.json"].append(
        {"id": "C0EMPTY", "name": "empty", "members": []}
    )
    export.files["empty/2020-09-13.json"] = [
        {"ts": ts(BEGIN + 70), "user": ANN, "text": "kept, too"}
    ]
    export.files["dms.json"] = [{"id": "D0THREE", "members": [ANN, BOB, CAT]}]
    export.files["D0THREE/2020-09-13.json"] = [
        {"ts": ts(BEGIN + 80), "user": ANN, "text": "to whom"}
    ]
    said = site.run(write(export, "export.zip"))
    assert "groups 3, messages 3," in said
    assert "1  group without members (whoever wrote there is in it)" in said


def test_direct_messages_of_two_and_of_several(site: Site, write: Write) -> None:
    export = small({"text": "to all"})
    export.files["dms.json"] = [
        {"id": "D0TWO", "created": BEGIN, "members": [ANN, BOB]}
    ]
    export.files["D0TWO/2020-09-13.json"] = [
        {"ts": ts(BEGIN + 70), "user": BOB, "text": "psst"}
    ]
    export.files["mpims.json"] = [
        {"id": "G0SOME", "name": "mpdm-ann--bob-1", "members": [ANN, BOB, CAT]}
    ]
    three = {"ts": ts(BEGIN + 80), "user": CAT, "text": "we three"}
    export.files["mpdm-ann--bob-1/2020-09-13.json"] = [three]
    entries = [
        each
        for each in imported(site, write(export, "export.zip"))
        if each.kind == "message"
    ]
    assert [each.body for each in entries] == [b"to all", b"psst", b"we three"]
    with site.log() as log:
        pair, group = (
            log.conversations.get("gochat", entries[number].conversation)
            for number in (1, 2)
        )
        assert (pair.kind, set(pair.members)) == (
            "user",
            {entries[1].sender, entries[1].to},
        )
        assert (group.name, group.open) == ("Ann, Bob, User2", False)
        unread = log.conversations.page("gochat", entries[1].to, 0, 10)[0]
        assert [each.unread for each in unread] == [0, 0, 0]


def test_what_apps_and_old_workspaces_leave_out_is_found_elsewhere(
    write: Write,
) -> None:
    service = "added an integration: <https://tea.slack.com/services/B0000001|builds>"
    bots = [
        {"id": "U00000009", "profile": {"real_name": "Deploy", "bot_id": "B0000002"}}
    ]
    export = small(
        {"subtype": "bot_message", "user": None, "bot_id": "B0000001", "text": "green"},
        {"subtype": "bot_add", "bot_id": "B0000001", "text": service},
        {"user": None, "bot_id": "B0000002", "text": "out"},
        {"user": None, "bot_id": "B0000003", "app_id": "A02", "text": "ping"},
        {"user": None, "username": "x" * 90, "text": "long"},
        {
            "text": "",
            "files": [
                {"id": "F1", "name": "Untitled", "title": "Our tea", "filetype": "quip"}
            ],
        },
        **{
            "integration_logs.json": [
                {"user_id": 0, "app_id": "A02", "app_type": "Tester"}
            ]
        },
    )
    export.files["users.json"] += bots
    records = list(SlackExport(write(export, "export")).records())
    names = {
        each.id: each.nickname
        for each in records
        if isinstance(each, Person) and each.why
    }
    assert names["B0000001"] == "builds"
    assert names["B0000002"] == "Deploy"
    assert names["B0000003"] == "Tester"
    messages = [each for each in records if isinstance(each, Message)]
    assert len(messages) == 6
    assert messages[-1].files[0].name == "Our tea"


def test_tables_come_beside_the_text_of_a_message() -> None:
    cell = {
        "type": "rich_text",
        "elements": [{"type": "rich_text_section", "elements": []}],
    }
    rows = [
        [{"type": "raw_text", "text": "a"}, {"type": "raw_text", "text": "b\nc"}],
        [cell, cell],
    ]
    table = {"type": "table", "rows": rows}
    assert text_of(
        export_module.SlackMessage(
            "1.0", text="hi", blocks=[{"type": "divider"}, table]
        )
    ) == ("hi\na | b c\n | ")
    assert text_of(export_module.SlackMessage("1.0", blocks=[table])) == "a | b c\n |"
    pasted = export_module.SlackAttachment(
        fallback="[no preview available]", blocks=[table]
    )
    assert (
        text_of(export_module.SlackMessage("1.0", text="hi", attachments=[pasted]))
        == "hi\na | b c\n |"
    )


def test_a_reply_that_is_older_than_its_message_is_behind_it(
    site: Site, write: Write
) -> None:
    root = ts(BEGIN + 61)
    entries = imported(
        site,
        write(small({"text": "reply", "thread_ts": root}, {"text": "root"}), "export"),
    )
    first, reply = (each for each in entries if each.kind == "message")
    assert (first.body, reply.body, reply.thread) == (b"root", b"reply", first.id)


def test_a_folder_that_no_list_names_is_a_conversation_of_those_who_wrote(
    write: Write,
) -> None:
    export = small({"text": "one"}, {"text": "two", "user": BOB})
    del export.files["channels.json"]
    export.files[f"D0000001/{day_of(BEGIN)}.json"] = [
        {"ts": ts(BEGIN), "user": ANN, "text": "alone"}
    ]
    archive = SlackExport(write(export, "export"))
    groups = [each for each in archive.records() if isinstance(each, Group)]
    assert sorted(
        (each.kind, each.name, [member.person for member in each.members])
        for each in groups
    ) == [
        ("closed", "D0000001", [ANN]),
        ("closed", "tea", [ANN, BOB]),
    ]
