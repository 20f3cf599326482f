"""A dump of Rocket.Chat as records, in each form that mongodump has, also a
broken or hostile one."""

from collections import Counter
from pathlib import Path
from typing import Any

import bson
import pytest
from archives.rocketchat import BEGIN, PNG, Dump, at, make
from imserver_arrivals.problems import BadArchive
from imserver_arrivals.records import (
    Change,
    Emoji,
    File,
    Group,
    Member,
    Message,
    Person,
    Pin,
    Reaction,
)
from imserver_arrivals.rocketchat import RocketChat

ANN = {"_id": "user0", "username": "ann", "name": "Ann"}
HOST = "https://chat.example.org"
TEXTS = (
    ("*b* _i_ ~s~ ~~t~~ **c** a~b~c", "*b* _i_ ~~s~~ ~~t~~ **c** a~b~c"),
    ("`~x~ :smile:`\n```js\n~y~ @bob\n```", "`~x~ :smile:`\n```js\n~y~ @bob\n```"),
    (
        ":smile: :slight_smile: :wave_tone1: :nope: 12:30:45",
        "😄 🙂 👋🏻 :nope: 12:30:45",
    ),
    (
        "@bob. @all @team @nobody a@bob.example",
        "\x02@user1\x03. \x02@*\x03 @team @nobody a@bob.example",
    ),
    (
        f"<{HOST}/a_(b)|page> [x]({HOST}) {HOST}/~a~b",
        f"[page]({HOST}/a_%28b%29) [x]({HOST}) {HOST}/~a~b",
    ),
    (
        f"see {HOST}/channel/room-0?msg=m000001 !",
        f"see \x02#m000001|{HOST}/channel/room-0?msg=m000001\x03 !",
    ),
    ("a\x02@user1\x03b", "a@user1b"),
)
"""Of Rocket.Chat, and ours."""
MENTIONS = [
    {"_id": "user1", "username": "bob", "type": "user"},
    {"_id": "all", "username": "all"},
    {"_id": "t1", "username": "team", "type": "team"},
    {"_id": "gone", "username": "nobody"},
]


def row(id: str, **fields: Any) -> dict[str, Any]:
    return {"_id": id, "rid": "room0", "u": ANN, "ts": at(5000), "msg": ""} | fields


def read(archive: RocketChat) -> dict[type, dict[str, Any]]:
    """Kind of record → id or name → the record, each once."""
    kinds: dict[type, dict[str, Any]] = {
        Person: {},
        Group: {},
        Message: {},
        Change: {},
        Emoji: {},
    }
    for record in archive.records():
        id = record.name if isinstance(record, Emoji) else record.id
        assert id not in kinds[type(record)]
        kinds[type(record)][id] = record
    return kinds


def read_rows(
    folder: Path, *rows: dict[str, Any] | bytes
) -> tuple[dict[type, dict[str, Any]], RocketChat]:
    """What becomes of these messages in a small database."""
    dump = make(3, 5)
    dump.put("rocketchat_message", *rows)
    archive = RocketChat(dump.write(folder))
    return read(archive), archive


def content(archive: RocketChat, file: str) -> bytes:
    opened = archive.open(file)
    assert opened is not None
    with opened:
        return opened.read()


def test_each_field_of_a_dump_becomes_a_record(tmp_path: Path) -> None:
    dump = make(7, 400)
    archive = RocketChat(dump.write(tmp_path))
    kinds = read(archive)
    people = kinds[Person]
    groups = kinds[Group]
    messages = kinds[Message]
    assert people["user0"] == Person(
        "user0", "Ann", "ann", "ann@example.org", "avatars/avatar1"
    )
    assert [people[f"user{number}"].why for number in (6, 7, 8, 9)] == [
        "",
        "bot",
        "deactivated",
        "federated",
    ]
    assert not any(
        person.login or person.email for person in people.values() if person.why
    )
    assert {id: group.kind for id, group in groups.items()} == {
        **dict.fromkeys(("room0", "room2", "room3"), "open"),
        **dict.fromkeys(("direct", "self"), "direct"),
        "room1": "closed",
        "several": "several",
    }
    room = groups["room1"]
    assert (room.name, room.description, room.creator, room.avatar) == (
        "Room 1",
        "About ~~1~~",
        "user1",
        "avatars/avatar2",
    )
    assert (room.created_ms, groups["room2"].is_archived) == ((BEGIN - 3) * 1000, True)
    last_ms = (BEGIN + 99_999) * 1000
    seen_ms = (BEGIN + 200) * 1000
    assert list(room.members[:4]) == [
        Member("user0", "owner", last_ms),
        Member("user1", "admin", seen_ms),
        Member("user2", "member", last_ms),
        Member("user3", "member", last_ms),
    ]
    assert {member.person for member in groups["several"].members} == {
        "user0",
        "user1",
        "user2",
    }
    assert sum(len(group.pins) for group in groups.values()) == dump.counts["pins"] > 0
    pin = next(pin for group in groups.values() for pin in group.pins)
    assert pin == Pin(pin.message, "user1", messages[pin.message].time_ms + 1750)
    assert len(messages) == dump.counts["messages"]
    assert (
        sum(bool(message.thread) for message in messages.values())
        == dump.counts["replies"]
        > 0
    )
    assert all(
        messages[each.thread].group == each.group
        for each in messages.values()
        if each.thread
    )
    assert (
        sum(message.also for message in messages.values()) == dump.counts["shown"] > 0
    )
    assert (
        sum(message.is_edited for message in messages.values())
        == dump.counts["edited"]
        > 0
    )
    assert (
        sum(len(message.reactions) for message in messages.values())
        == dump.counts["reactions"]
    )
    emoji = {
        reaction.emoji
        for message in messages.values()
        for reaction in message.reactions
    }
    assert emoji == {"👍", "🙂", "👋🏻", ":party:"}
    assert kinds[Emoji] == {
        name: Emoji(name, "emoji/party.png") for name in ("party", "fete")
    }
    files = [file for message in messages.values() for file in message.files]
    assert len(files) == dump.counts["files"] > 0
    for file in (
        *(file.id for file in files),
        "avatars/avatar1",
        "avatars/avatar2",
        "emoji/party.png",
    ):
        assert content(archive, file) == PNG
    assert archive.problems.counts == Counter()


def test_each_form_of_a_dump_has_the_same_records(tmp_path: Path) -> None:
    dump = make(7, 400)
    first = RocketChat(dump.write(tmp_path / "a"))
    records = list(first.records())
    assert records == list(first.records())
    paths = (
        dump.write(tmp_path / "b", is_packed=True),
        dump.archive(tmp_path / "c.archive"),
        dump.archive(tmp_path / "d.archive.gz", is_packed=True, size=7),
    )
    file = next(
        file for each in records if isinstance(each, Message) for file in each.files
    )
    for path in paths:
        archive = RocketChat(path)
        assert list(archive.records()) == records
        assert content(archive, file.id) == PNG


def test_texts(tmp_path: Path) -> None:
    rows = [
        row(f"t{number}", msg=text, mentions=MENTIONS)
        for number, (text, _) in enumerate(TEXTS)
    ]
    messages = read_rows(tmp_path, *rows)[0][Message]
    assert [messages[f"t{number}"].text for number in range(len(TEXTS))] == [
        expected for _, expected in TEXTS
    ]


def test_a_discussion_is_named_by_its_title(tmp_path: Path) -> None:
    """Its ``name`` is a second id, also where texts mention it
    (RocketChat/Rocket.Chat, createDiscussion.ts; zulip/zulip,
    data_import/rocketchat.py)."""
    channels = [
        {"_id": "room3", "name": "x7Hk"},
        {"_id": "gone", "name": "gone"},
        None,
        {"name": 5},
    ]
    dump = make(3, 5)
    dump.put(
        "rocketchat_room", {"_id": "room4", "t": "p", "name": "y8Jl", "prid": "room0"}
    )
    dump.put(
        "rocketchat_message",
        row("d0", msg="#x7Hk. #gone #room-0 a#x7Hk &#x7Hk `#x7Hk`", channels=channels),
        row("d1", t="discussion-created", msg="", drid="room3"),
    )
    kinds = read(RocketChat(dump.write(tmp_path)))
    assert kinds[Message]["d0"].text == "#Room 3. #gone #room-0 a#x7Hk &#x7Hk `#x7Hk`"
    assert kinds[Message]["d1"].text == "💬 *Room 3*"
    assert kinds[Group]["room4"].name == "Room 0"


def test_a_quote_of_the_same_room_is_a_reply(tmp_path: Path) -> None:
    quote = {
        "author_name": "bob",
        "text": "a ~b~\nc",
        "message_link": f"{HOST}/channel/room-0?msg=m000001",
    }
    other = quote | {"message_link": f"{HOST}/group/room-1?msg=m000002"}
    mark = f"[ ]({quote['message_link']}) "
    messages = read_rows(
        tmp_path,
        row("q0", msg=f"{mark}yes", attachments=[quote]),
        row("q1", msg=f"[ ]({other['message_link']}) no", attachments=[other]),
        row("q2", msg=f"{mark}in a thread", attachments=[quote], tmid="m000001"),
        row("q3", msg=f"{mark}alone"),
    )[0][Message]
    assert (messages["q0"].reply, messages["q0"].text) == ("m000001", "yes")
    said = (
        f"no\n\x02#m000002|{HOST}/group/room-1?msg=m000002\x03\n> bob\n> a ~~b~~\n> c"
    )
    assert (messages["q1"].reply, messages["q1"].text) == ("", said)
    assert (messages["q2"].reply, messages["q2"].thread) == ("", "m000001")
    assert (messages["q3"].reply, messages["q3"].text) == ("m000001", "alone")


def test_messages_of_apps_say_what_is_in_their_attachments(tmp_path: Path) -> None:
    attachment = {
        "author_name": "CI",
        "pretext": "pre",
        "title": "Build",
        "title_link": f"{HOST}/1",
        "text": "*ok*",
        "fields": [{"title": "Took", "value": "3 s"}, None, {"title": 5}],
        "image_url": f"{HOST}/a.png",
    }
    messages = read_rows(
        tmp_path,
        row("a0", alias="Builds", attachments=[attachment, None]),
        row("a1", location={"type": "Point", "coordinates": [10.5, 50]}),
        row("a2", t="discussion-created", msg="Plans", drid="room3"),
        row("a3", t="my-app", msg="hello"),
    )[0][Message]
    assert messages["a0"].text == (
        f"*Builds*\nCI\npre\n[Build]({HOST}/1)\n*ok*\nTook: 3 s\n5\n{HOST}/a.png"
    )
    assert [messages[id].text for id in ("a1", "a2", "a3")] == [
        "50, 10.5",
        "💬 *Plans*",
        "hello",
    ]


def test_events_are_changes_or_counted(tmp_path: Path) -> None:
    kinds, archive = read_rows(
        tmp_path,
        row("uj", t="uj", msg="ann"),
        row("ul", t="ul", msg="ann"),
        row("au", t="au", msg="bob"),
        row("ru", t="ru", msg="bob"),
        row("r", t="r", msg="New name"),
        row("topic", t="room_changed_topic", msg="News"),
        row("nobody", t="au", msg="stranger"),
        row("e2e", t="e2e", msg="AAAA"),
        row("rm", t="rm"),
        row("role", t="subscription-role-added", msg="bob", role="owner"),
        row("old", _hidden=True, msg="before"),
        row("visit", rid="visit", msg="hello"),
    )
    time_ms = (BEGIN + 5000) * 1000
    assert kinds[Change] == {
        "uj": Change("uj", "room0", "user0", time_ms, "join", ("user0",)),
        "ul": Change("ul", "room0", "user0", time_ms, "leave", ("user0",)),
        "au": Change("au", "room0", "user0", time_ms, "join", ("user1",)),
        "ru": Change("ru", "room0", "user0", time_ms, "leave", ("user1",)),
        "r": Change("r", "room0", "user0", time_ms, "name", (), "New name"),
        "topic": Change("topic", "room0", "user0", time_ms, "description", (), "News"),
    }
    assert len(kinds[Message]) == 5
    assert archive.problems.counts == {
        **dict.fromkeys(
            ("change of nobody", "encrypted message", "deleted message"), 1
        ),
        **dict.fromkeys(
            (
                "event subscription-role-added",
                "earlier text of a message",
                "message of omnichannel",
            ),
            1,
        ),
    }
    assert archive.problems.of_groups["room0"]["encrypted message"] == 1


def test_files_elsewhere_have_their_names(tmp_path: Path) -> None:
    dump = make(3, 5)
    dump.put(
        "rocketchat_uploads",
        {"_id": "s3", "name": "a\nb.pdf", "store": "AmazonS3:Uploads"},
    )
    old = {
        "type": "file",
        "title": "c.txt",
        "title_link": "/file-upload/none/c%20d.txt",
        "description": "*old*",
    }
    dump.put(
        "rocketchat_message",
        row("f0", file={"_id": "s3", "name": "x"}),
        row("f1", attachments=[old]),
    )
    archive = RocketChat(dump.write(tmp_path))
    messages = read(archive)[Message]
    assert list(messages["f0"].files) == [File("s3", "a b.pdf")]
    assert list(messages["f1"].files) == [File("none", "c d.txt")]
    assert messages["f1"].text == "*old*"
    assert [
        archive.open(file) for file in ("s3", "uploads/../x", "emoji/none", "x")
    ] == [None] * 4


def test_somebody_who_was_deleted_still_has_a_name(tmp_path: Path) -> None:
    gone = {"_id": "gone", "username": "zed", "name": "Zed"}
    reactions = {":tada:": {"usernames": ["zed", "stranger", 5]}}
    kinds, archive = read_rows(
        tmp_path, row("g", u=gone, msg="hi", reactions=reactions)
    )
    assert kinds[Person]["gone"] == Person("gone", "Zed", why="deleted")
    assert list(kinds[Message]["g"].reactions) == [Reaction("gone", "🎉")]
    assert archive.problems.counts == {"reaction of nobody": 2}


def test_rooms_and_messages_may_be_nobodys(tmp_path: Path) -> None:
    dump = make(3, 5)
    dump.put(
        "rocketchat_room",
        {"_id": "GENERAL", "t": "c", "name": "general", "u": {"_id": None}},
    )
    dump.put(
        "rocketchat_message",
        row("n0", u={}, rid="GENERAL"),
        row("n1", mentions=[None], reactions={":x:": None}),
        row(bson.Code("n2"), u={"_id": bson.Code("code")}),
    )
    archive = RocketChat(dump.write(tmp_path))
    kinds = read(archive)
    assert kinds[Group]["GENERAL"] == Group("GENERAL", "open", "general", members=[])
    assert (set(kinds[Message]) & {"n0", "n1", "n2"}, archive.problems.counts) == (
        {"n1", "n2"},
        {"message without a room, a sender or a time": 1},
    )


def deep(levels: int) -> bytes:
    document = b"\x05\x00\x00\x00\x00"
    for _ in range(levels):
        document = (
            (len(document) + 8).to_bytes(4, "little")
            + b"\x03a\x00"
            + document
            + b"\x00"
        )
    return document


def test_what_is_broken_is_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    wrong = b"\x0c\x00\x00\x00\x7fa\x00\x01\x00\x00\x00\x00"
    kinds, archive = read_rows(
        tmp_path,
        row("b0", u=None),
        row("b1", msg={"x": 1}),
        row("b2", ts="soon"),
        row("b3", ts=float("nan")),
        row("b4", rid="nowhere"),
        {"_id": 5} | row("b5", _id=5),
        {"rid": "room0"},
        deep(3000),
        wrong,
        row("b6", msg="lone \ufffd"),
        row(bson.ObjectId(b"123456789012"), msg="fine"),
    )
    assert set(kinds[Message]) - {f"m{number:06}" for number in range(5)} == {
        "b1",
        "b6",
        "313233343536373839303132",
    }
    assert archive.problems.counts == {
        "broken": 4,
        "message without a room, a sender or a time": 4,
        "field msg of rocketchat_message: its type is wrong (left out)": 1,
    }
    assert archive.problems.lost_messages == 8


def test_a_cut_dump_is_read_up_to_there(tmp_path: Path) -> None:
    folder = make(3, 50).write(tmp_path / "a")
    path = make(3, 50).archive(tmp_path / "b", size=20)
    file = folder / "dump" / "rocketchat" / "rocketchat_message.bson"
    file.write_bytes(file.read_bytes()[:-5])
    archive = RocketChat(folder)
    assert len(read(archive)[Message]) == 49
    assert archive.problems.counts["broken"] == 1
    path.write_bytes(path.read_bytes().partition(b"m000030")[0])
    cut = RocketChat(path)
    assert len(read(cut)[Message]) == 30
    assert cut.problems.counts["broken"] == 1
    file.write_bytes(b"\xff\xff\xff\x7f" + bytes(100))
    assert not read(RocketChat(folder))[Message]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8b\x00")
    Dump({"users": [{"_id": "a"}]}).archive(tmp_path / "other")
    Dump({"users": [{"_id": "a"}]}).write(tmp_path / "folder")
    for name in ("folder", "empty", "text", "bad.gz", "other"):
        with pytest.raises(BadArchive):
            RocketChat(tmp_path / name)
