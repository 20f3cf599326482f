"""Bulk exports of Mattermost as records."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from archives.mattermost import BEGIN, write
from imserver_arrivals.markdown import of_markdown
from imserver_arrivals.mattermost import Mattermost
from imserver_arrivals.problems import BadArchive
from imserver_arrivals.records import (
    Change,
    Emoji,
    File,
    Group,
    Member,
    Message,
    Person,
    Reaction,
    mention,
)

VERSION = {"type": "version", "version": 1}
TEAM = {
    "type": "team",
    "team": {
        "name": "dev",
        "display_name": "Dev",
        "type": "O",
        "allow_open_invite": True,
    },
}
ROOM = {"team": "dev", "name": "room", "display_name": "The Room", "type": "O"}


def export(folder: Path, *lines: object) -> Mattermost:
    """An export of these lines, with a team, a channel, ann and bob before
    them."""
    users = [{"type": "user", "user": {"username": name}} for name in ("ann", "bob")]
    rows = [VERSION, TEAM, {"type": "channel", "channel": ROOM}, *users, *lines]
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "import.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return Mattermost(folder)


def post(
    text: str = "", at: int = BEGIN, user: str = "ann", **more: Any
) -> dict[str, Any]:
    row = {
        "team": "dev",
        "channel": "room",
        "user": user,
        "message": text,
        "create_at": at,
        **more,
    }
    return {"type": "post", "post": row}


def of(archive: Mattermost, kind: type[Any]) -> list[Any]:
    return [record for record in archive.records() if isinstance(record, kind)]


@pytest.mark.parametrize("name", ["export.zip", "export"])
def test_all_that_an_export_has_becomes_records(tmp_path: Path, name: str) -> None:
    written = write(tmp_path / name, seed=3)
    archive = Mattermost(tmp_path / name)
    counts = Counter[str]()
    ids = set()
    for record in archive.records():
        if isinstance(record, Message):
            ids.add(record.id)
            counts.update(
                messages=1, replies=record.thread != "", reactions=len(record.reactions)
            )
            counts.update(edits=record.is_edited, files=len(record.files))
            for file in record.files:
                content = archive.open(file.id)
                assert content is not None
                with content:
                    assert content.read()
        elif isinstance(record, Group):
            counts.update(
                groups=1, memberships=len(record.members), pins=len(record.pins)
            )
        else:
            names = {Person: "people", Emoji: "emoji", Change: "changes"}
            counts[names[type(record)]] += 1
            assert isinstance(record, Change) or not ids
    assert counts == written
    assert len(ids) == counts["messages"]
    assert not archive.problems.broken


def test_people(tmp_path: Path) -> None:
    rows = [
        {
            "username": "carl",
            "nickname": "",
            "first_name": "Carl",
            "last_name": "C",
            "email": "c@example.org",
        },
        {
            "username": "dora",
            "nickname": "Dora",
            "email": "d@example.org",
            "delete_at": 5,
        },
        {
            "username": "eve",
            "roles": "system_guest",
            "profile_image": "users/e/profile.png",
        },
    ]
    bot = {
        "username": "helper",
        "owner": "ann",
        "display_name": "Helper",
        "delete_at": 0,
    }
    hook = {
        "from_webhook": "true",
        "override_username": "\n ",
        "webhook_display_name": "build\x1ber",
    }
    archive = export(
        tmp_path,
        *({"type": "user", "user": row} for row in rows),
        {"type": "bot", "bot": bot},
        post(props=hook),
        post(user="gone"),
    )
    assert of(archive, Person)[2:] == [
        Person("carl", "Carl C", "carl", "c@example.org"),
        Person("dora", "Dora", why="deactivated"),
        Person("eve", "eve", "eve", avatar="users/e/profile.png"),
        Person("helper", "Helper", why="bot"),
        Person("webhook/builder", "builder", why="bot"),
        Person("gone", "gone", why="not in the export"),
    ]
    assert [message.person for message in of(archive, Message)] == [
        "webhook/builder",
        "gone",
    ]
    assert archive.problems.of_people["eve"]


def test_groups(tmp_path: Path) -> None:
    ops = {
        "name": "ops",
        "display_name": "Operators",
        "type": "I",
        "allow_open_invite": False,
    }
    in_room = {
        "name": "room",
        "roles": "channel_user channel_admin",
        "last_viewed_at": BEGIN,
    }
    carl = {"username": "carl", "teams": [{"name": "dev", "channels": [in_room]}]}
    people = [{"username": "ann", "last_viewed_at": BEGIN + 5}, {"username": "bob"}]
    archive = export(
        tmp_path,
        {"type": "team", "team": ops},
        {
            "type": "channel",
            "channel": {**ROOM, "team": "ops", "header": "**Head**", "deleted_at": 7},
        },
        {
            "type": "channel",
            "channel": {
                **ROOM,
                "name": "own",
                "type": "P",
                "purpose": "Aim",
                "header": "Head",
            },
        },
        {"type": "user", "user": carl},
        post(
            "pinned",
            is_pinned=True,
            replies=[post("reply", BEGIN + 1, is_pinned=True)["post"]],
        ),
        {
            "type": "direct_channel",
            "direct_channel": {"participants": people, "header": "Hi"},
        },
        {
            "type": "direct_channel",
            "direct_channel": {"members": ["ann", "bob", "carl"]},
        },
        {"type": "direct_channel", "direct_channel": {"members": ["ann", "ann"]}},
    )
    room, of_ops, own, direct, several, self = of(archive, Group)
    messages = of(archive, Message)
    assert (room.id, room.kind, room.name) == ("dev/room", "open", "The Room (Dev)")
    assert room.members == [Member("carl", "admin", BEGIN)]
    assert [pin.message for pin in room.pins] == [message.id for message in messages]
    assert (of_ops.id, of_ops.kind, of_ops.description) == (
        "ops/room",
        "closed",
        "*Head*",
    )
    assert of_ops.is_archived
    assert (own.kind, own.description) == ("closed", "Aim")
    assert (direct.kind, direct.description) == ("direct", "Hi")
    assert direct.members == [Member("ann", read_ms=BEGIN + 5), Member("bob")]
    assert (several.kind, len(several.members), self.kind, len(self.members)) == (
        "several",
        3,
        "direct",
        1,
    )


def test_messages(tmp_path: Path) -> None:
    reactions = [{"user": "bob", "emoji_name": "+1_dark_skin_tone", "create_at": 1}]
    reactions += [
        {"user": "bob", "emoji_name": "own", "create_at": 1},
        {"user": "nobody", "emoji_name": "+1"},
    ]
    fields = [{"title": "Build", "value": 7}]
    attachment = {
        "title": "Log",
        "title_link": "https://example.org/",
        "text": "*green*",
        "fields": fields,
    }
    files = [{"path": "20260101/f1/plan.png"}]
    reply = {
        "user": "bob",
        "create_at": BEGIN + 1,
        "edit_at": BEGIN + 2,
        "message": "yes",
        "attachments": files,
    }
    direct = {
        "channel_members": ["ann", "bob"],
        "user": "ann",
        "create_at": BEGIN,
        "message": "hi",
    }
    archive = export(
        tmp_path,
        post(
            "**Hi** @Bob. @all ~room :tada: :own:", reactions=reactions, replies=[reply]
        ),
        post(
            "",
            BEGIN + 5,
            type="slack_attachment",
            props={"attachments": [attachment, "x"]},
        ),
        {"type": "direct_post", "direct_post": direct},
    )
    root, answer, built, private = of(archive, Message)
    assert root.text == f"*Hi* {mention('bob')}. {mention('*')} #The Room 🎉 :own:"
    assert (root.group, root.person, root.time_ms, root.thread) == (
        "dev/room",
        "ann",
        BEGIN,
        "",
    )
    assert root.reactions == [
        Reaction("bob", "👍🏿", "+1_dark_skin_tone"),
        Reaction("bob", ":own:", "own"),
    ]
    assert (answer.thread, answer.is_edited, root.is_edited) == (root.id, True, False)
    assert answer.files == [File("20260101/f1/plan.png", "plan.png")]
    assert built.text == "[Log](https://example.org/)\n_green_\nBuild: 7"
    assert private.group.startswith("direct/")
    assert archive.problems.of_groups["dev/room"] == {
        "reaction of somebody who is not in the export": 1
    }


@pytest.mark.parametrize(
    ("kind", "props", "change"),
    [
        ("system_join_channel", {}, ("join", ["ann"], "")),
        ("system_guest_join_channel", {}, ("join", ["ann"], "")),
        ("system_leave_channel", {}, ("leave", ["ann"], "")),
        ("system_add_to_channel", {"addedUsername": "bob"}, ("join", ["bob"], "")),
        ("system_add_guest_to_chan", {"addedUsername": "bob"}, ("join", ["bob"], "")),
        (
            "system_remove_from_channel",
            {"removedUsername": "bob"},
            ("leave", ["bob"], ""),
        ),
        ("system_displayname_change", {"new_displayname": "New"}, ("name", (), "New")),
        (
            "system_header_change",
            {"new_header": "**New**"},
            ("description", (), "*New*"),
        ),
        ("system_purpose_change", {"new_purpose": 7}, ("description", (), "")),
        ("system_add_to_channel", {"addedUsername": "nobody"}, None),
        ("system_channel_deleted", {}, None),
    ],
)
def test_changes(
    tmp_path: Path, kind: str, props: dict[str, Any], change: tuple[Any, ...] | None
) -> None:
    changes = of(export(tmp_path, post("text", type=kind, props=props)), Change)
    assert [(each.kind, each.people, each.text) for each in changes] == (
        [change] if change else []
    )
    assert all(
        (each.person, each.group, each.time_ms) == ("ann", "dev/room", BEGIN)
        for each in changes
    )


def test_a_later_export_gives_what_it_has_in_common_the_same_ids(
    tmp_path: Path,
) -> None:
    first = tmp_path / "first"
    later = tmp_path / "later"
    first.mkdir()
    later.mkdir()
    twin = post("one")
    reply = post("reply", BEGIN + 9)["post"]
    before = of(
        export(first, twin, post("two"), post("x", BEGIN + 1, replies=[reply, reply])),
        Message,
    )
    edited = post(
        "edited",
        BEGIN + 1,
        edit_at=BEGIN + 3,
        replies=[reply, reply, post("new", BEGIN + 10)["post"]],
    )
    after = of(
        export(later, edited, post("new", BEGIN + 7), twin, post("two")), Message
    )
    assert len({message.id for message in before}) == 5
    ids = {message.id: message.text for message in after}
    assert [ids[message.id] for message in before] == [
        "one",
        "two",
        "edited",
        "reply",
        "reply",
    ]
    assert len(ids) == 7


def test_lines_that_stand_twice_come_once(tmp_path: Path) -> None:
    """As in an export that was written behind another one: the second has
    more."""
    twice = tmp_path / "twice"
    once = tmp_path / "once"
    twice.mkdir()
    once.mkdir()
    reply = post("reply", BEGIN + 9)["post"]
    thumb = {"user": "bob", "emoji_name": "+1"}
    direct = {
        "channel_members": ["ann", "bob"],
        "user": "ann",
        "create_at": BEGIN,
        "message": "hi",
    }
    lines = [
        {"type": "user", "user": {"username": "carl"}},
        {"type": "bot", "bot": {"username": "helper"}},
        {"type": "direct_channel", "direct_channel": {"members": ["ann", "bob"]}},
        post("one"),
        post("two"),
        post("two"),
        post("joined", BEGIN + 5, type="system_join_channel"),
        post(
            "root", BEGIN + 1, is_pinned=True, reactions=[thumb], replies=[reply, reply]
        ),
        {"type": "direct_post", "direct_post": direct},
    ]
    more = [
        *lines,
        post(
            "root", BEGIN + 1, replies=[reply, reply, post("late", BEGIN + 10)["post"]]
        ),
    ]
    more.append(post("two", reactions=[thumb]))
    first = export(once, *lines)
    archive = export(twice, *lines, *more)
    expected = list(first.records())
    records = list(archive.records())
    late = [each for each in records if each not in expected]
    assert [(each.text, len(each.reactions)) for each in late] == [
        ("late", 0),
        ("two", 1),
    ]
    assert [each for each in records if each in expected] == expected
    messages = [each for each in expected if isinstance(each, Message)]
    assert [each.text for each in messages] == [
        "one",
        "two",
        "root",
        "reply",
        "reply",
        "hi",
    ]
    assert late[1].id == messages[1].id
    assert archive.problems.counts == {
        "post that stands twice (comes once)": 1 + 8 + 3,
        "line that stands twice (counts once)": 3,
    }


def test_what_is_broken_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    deep = '{"type":"post","post":{"x":' + "[" * 100_000
    archive = export(
        tmp_path,
        "no JSON",
        '{"type":"post","post":',
        deep,
        "[]",
        "",
        {"type": "user", "user": {"username": 7}},
        {"type": "user", "user": {"username": "ann", "email": "other@example.org"}},
        {"type": "channel", "channel": ROOM},
        {"type": "channel", "channel": {"team": "none", "name": "x"}},
        {"type": "strange"},
        {"type": "post"},
        {"type": "direct_channel", "direct_channel": {"members": []}},
        post("no time", 0),
        post("far", 1 << 60),
        post("wrong", reactions="x"),
        post("elsewhere", channel="none"),
        post("props", BEGIN + 1, props="text"),
        post(
            "root",
            BEGIN + 2,
            replies=[{"user": "bob"}, post("good", BEGIN + 3)["post"]],
        ),
        post(
            "path",
            BEGIN + 4,
            attachments=[{"path": "../../import.jsonl"}, {"path": None}, {}],
        ),
        "x" * (17 << 20),
        post("last", BEGIN + 6),
    )
    messages = of(archive, Message)
    assert [message.text for message in messages] == [
        "wrong",
        "props",
        "root",
        "good",
        "path",
        "last",
    ]
    assert [file.name for file in messages[4].files] == ["import.jsonl"]
    assert archive.open(messages[4].files[0].id) is None
    assert archive.problems.counts["line of type strange (not imported)"] == 1
    assert archive.problems.counts["post in a channel that is not in the export"] == 1
    assert archive.problems.counts["line that stands twice (counts once)"] == 1
    assert archive.problems.counts["broken"] == 11
    assert archive.problems.lost_messages == 8
    assert of(archive, Person)[0].email == ""


def test_a_file_that_ends_early_gives_what_is_before_its_end(tmp_path: Path) -> None:
    whole = tmp_path / "whole.zip"
    broken = tmp_path / "broken.zip"
    write(whole, posts=4000)
    content = bytearray(whole.read_bytes())
    with ZipFile(whole) as archive:
        size = archive.getinfo("import.jsonl").compress_size
    content[size // 2 : size] = bytes(size - size // 2)
    broken.write_bytes(content)
    read = Mattermost(broken)
    assert 0 < len(of(read, Message)) < 4000
    assert "after line" in read.problems.broken[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"type":"version","version":2}',
        b'{"type":"user"}',
        b"\xff\xfe",
        b"[" * 70_000,
    ],
)
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "import.jsonl"
    file.write_bytes(content)
    with pytest.raises(BadArchive):
        Mattermost(file)


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        (
            "**bold** *slanted* ***both*** __strong__ ~~old~~",
            "*bold* _slanted_ *_both_* *strong* ~~old~~",
        ),
        ("**a *b* c** 2*3*4 a_b_c", "*a _b_ c* 2*3*4 a_b_c"),
        ("# Head\n* one\n+ two\n>quote", "*Head*\n- one\n- two\n> quote"),
        ('[page](https://example.org "title")', "[page](https://example.org)"),
        ("[example.com](https://example.org)", "example.com (https://example.org)"),
        ("[file](/data/x)", "file (/data/x)"),
        ("![](https://example.org/x.png =10x5)", "https://example.org/x.png"),
        ("<https://example.org/a_b_c*d*>", "https://example.org/a_b_c*d*"),
        (
            "`**x** @ann`\n```\n*y*\n```\n~~~\nz\n~~~",
            "`**x** @ann`\n```\n*y*\n```\n```\nz\n```",
        ),
        (r"snake\_case \*no\*", "snake_case *no*"),
        ("\x02@ann\x03 **x", "@ann **x"),
    ],
)
def test_markdown(markdown: str, text: str) -> None:
    assert of_markdown(markdown, lambda words: words) == text
