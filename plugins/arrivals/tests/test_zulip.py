"""An export of Zulip as records, also a broken or hostile one; tables of JSON
that are read in pieces."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from archives.zulip import BEGIN, PNG, REALM, Export, make
from imserver_arrivals.problems import BadArchive
from imserver_arrivals.records import Emoji, File, Group, Member, Message, Person
from imserver_arrivals.tables import Tables
from imserver_arrivals.zulip import Zulip

TEXTS = (
    (
        "@**Ann** @**Bob|11** @**all** @**|11**",
        "\x02@10\x03 \x02@11\x03 \x02@*\x03 \x02@11\x03",
    ),
    ("@_**Bob|11** @*team* @**Nobody** @**topic**", "@Bob @team @Nobody @topic"),
    (
        "#**room 1** #**room 1>hi** #**room 1>hi@1005**",
        "#room 1 #room 1 > hi \x02#1005|#room 1 > hi\x03",
    ),
    ("**b** *i* ***both*** a*b*c 2*3*4 ~~s~~", "*b* _i_ *_both_* a*b*c 2*3*4 ~~s~~"),
    ("`*x*` ``a`b`` $$x^2$$", "`*x*` `a'b` `x^2`"),
    (":smile: :+1: :party: :nope:", "😄 👍 :party: :nope:"),
    ("```python\nx = **1**\n```", "```python\nx = **1**\n```"),
    ("~~~ quote\nhi **x**\n```js\ny\n```\n~~~\nz", "> hi *x*\n```js\ny\n```\nz"),
    ("```spoiler Head **x**\nbody\n```\nafter", "*Head x*\n▒▒▒\nafter"),
    ("```\nopen", "```\nopen\n```"),
    ("/me waves", "_waves_"),
    ("/poll What?\nTea\nMilk", "*What?*\n- Tea\n- Milk"),
    ("<time:2020-01-01T00:00:00Z>", "2020-01-01T00:00:00Z"),
    (
        "[x](https://example.org/a_(b)) [https://a.b](https://a.b)",
        "[x](https://example.org/a_%28b%29) https://a.b",
    ),
    (
        "[said](https://shop.example.org/#narrow/channel/1-room/topic/hi/near/1005):",
        "said (\x02#1005|https://shop.example.org/#narrow/channel/1-room/topic/hi/near/1005\x03):",
    ),
    (
        "https://a.b/#narrow/stream/99-a/topic/b/near/4",
        "https://a.b/#narrow/stream/99-a/topic/b/near/4",
    ),
    ("a\x02@10\x03b", "a@10b"),
)
"""Of Zulip, and ours."""


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return make(tmp_path / "zulip-export-shop", 7, 300)


def by_kind(archive: Zulip) -> dict[type, dict[str, Any]]:
    """Kind of record → id or name → the record, each once."""
    kinds: dict[type, dict[str, Any]] = {Person: {}, Group: {}, Message: {}, Emoji: {}}
    for record in archive.records():
        id = record.name if isinstance(record, Emoji) else record.id
        assert id not in kinds[type(record)]
        kinds[type(record)][id] = record
    return kinds


def written(export: Export, *texts: str) -> list[Message]:
    """What becomes of messages with these texts, from Ann in a channel and
    without a topic."""
    rows = [
        {
            "id": 9000 + at,
            "sender": 10,
            "recipient": 201,
            "content": text,
            "date_sent": BEGIN + 9000.5 + at,
        }
        for at, text in enumerate(texts)
    ]
    export.put(
        "messages-000009.json", {"zerver_message": rows, "zerver_usermessage": []}
    )
    messages = by_kind(Zulip(export.folder))[Message]
    return [messages[str(9000 + at)] for at in range(len(texts))]


def test_each_field_of_an_export_becomes_a_record(export: Export) -> None:
    archive = Zulip(export.folder)
    kinds = by_kind(archive)
    people = kinds[Person]
    groups = kinds[Group]
    messages = kinds[Message]
    avatar = f"avatars/{REALM}/{'e' * 40}-medium.png"
    assert people["10"] == Person("10", "Ann", email="ann@example.org", avatar=avatar)
    assert [people[id].why for id in ("19", "20", "21", "5")] == [
        "bot",
        "deactivated",
        "",
        "bot",
    ]
    assert not any(person.email for person in people.values() if person.why)
    assert people["5"].nickname == "Notification Bot"
    assert {id: group.kind for id, group in groups.items()} == {
        **dict.fromkeys(("s1", "s3", "s4"), "open"),
        **dict.fromkeys(("d10.10", "d10.11", "d11.11"), "direct"),
        "s2": "closed",
        "h1": "several",
    }
    assert groups["s3"].is_archived
    assert (groups["s2"].name, groups["s2"].description) == ("room 1", "About *1*")
    assert (groups["s2"].creator, groups["s2"].created_ms) == (
        "11",
        BEGIN * 1000 - 3500,
    )
    # who has left
    assert "10" not in [member.person for member in groups["s1"].members]
    assert (
        Member("11", "owner", groups["s2"].members[1].read_ms)
        == groups["s2"].members[1]
    )
    assert kinds[Emoji] == {
        "party": Emoji("party", f"emoji/{REALM}/emoji/images/1.png")
    }
    assert len(messages) == export.counts["messages"]
    assert (
        sum(message.is_edited for message in messages.values())
        == export.counts["edited"]
    )
    assert (
        sum(len(message.reactions) for message in messages.values())
        == export.counts["reactions"]
    )
    emoji = {
        reaction.emoji
        for message in messages.values()
        for reaction in message.reactions
    }
    assert emoji == {"👍", "👨‍🌾", ":party:", ":zulip:"}
    files = [file for message in messages.values() for file in message.files]
    assert len(files) == export.counts["files"]
    for file in files:
        opened = archive.open(file.id)
        assert opened is not None
        with opened:
            assert opened.read() == PNG
    assert archive.problems.counts == Counter(
        {
            "topic that somebody mutes or follows": 1,
            "vote in a poll, or change of a list": 1,
            "protected history (new members read it)": 1,
        }
    )


def test_a_topic_is_a_thread_that_begins_with_its_oldest_message(
    export: Export,
) -> None:
    rows = [
        row
        for row in export.get("messages-000001.json")["zerver_message"]
        if row["subject"]
    ]
    messages = by_kind(Zulip(export.folder))[Message]
    first: dict[tuple[int, str], str] = {}
    for row in rows:
        root = first.setdefault((row["recipient"], row["subject"]), str(row["id"]))
        message = messages[str(row["id"])]
        assert message.thread == ("" if root == message.id else root)
        assert message.text.startswith(f"*{row['subject']}*\n") == (root == message.id)
    assert len(rows) == export.counts["in topics"] > len(first) > 20
    assert not any(
        message.thread
        for id, message in messages.items()
        if id not in {str(row["id"]) for row in rows}
    )


def test_names_of_topics_are_the_same_in_any_case(export: Export) -> None:
    part = export.get("messages-000001.json")
    rows = [
        row
        for row in part["zerver_message"]
        if row["recipient"] == 201 and row["subject"] == "topic 1"
    ]
    rows[1]["subject"] = "TOPIC 1"
    export.put("messages-000001.json", part)
    assert by_kind(Zulip(export.folder))[Message][str(rows[1]["id"])].thread == str(
        rows[0]["id"]
    )


def test_who_has_not_read_a_message_has_read_what_is_before_it(export: Export) -> None:
    part = export.get("messages-000001.json")
    groups = by_kind(Zulip(export.folder))[Group]
    last_ms = (BEGIN + 299) * 1000 + 250
    for group, recipient in (("s2", 202), ("h1", 301)):
        positions = {member.person: member.read_ms for member in groups[group].members}
        unread = next(
            row
            for row in part["zerver_message"]
            if row["recipient"] == recipient and row["id"] >= 1000 + 150
        )
        assert positions["10"] == last_ms
        assert positions["11"] == int(unread["date_sent"] * 1000) - 1
    del part["zerver_usermessage"]
    export.put("messages-000001.json", part)
    groups = by_kind(Zulip(export.folder))[Group]
    assert {
        member.read_ms for group in groups.values() for member in group.members
    } == {-1}


def test_a_packed_export_has_the_same_records_each_time(
    export: Export, tmp_path: Path
) -> None:
    folder = Zulip(export.folder)
    packed = Zulip(export.pack(tmp_path / "export.tar.gz"))
    export.put("messages-000002.json", b"{")
    records = list(folder.records())
    assert records == list(packed.records()) == list(packed.records())
    broken = Zulip(export.folder)
    assert records == list(broken.records()) == list(broken.records())
    assert broken.problems.counts["broken"] == 1


def test_texts(export: Export) -> None:
    messages = written(export, *(text for text, _ in TEXTS))
    assert [message.text for message in messages] == [expected for _, expected in TEXTS]


def test_spoilers_are_in_a_file(export: Export) -> None:
    text = "~~~spoiler Who\n@**Bob|11** **did**\n```js\nx\n```\n~~~\n\n```spoiler\n#**room 1>hi@1005**\n```"
    (message,) = written(export, text)
    assert message.text == "*Who*\n▒▒▒\n\n▒▒▒"
    (file,) = message.files
    content = Zulip(export.folder).open(file.id)
    assert content is not None
    assert content.read().decode() == "@Bob *did*\n```js\nx\n```\n\n#room 1 > hi"
    assert file.name == "spoiler.txt"


def test_files_that_a_text_names_are_taken_out_of_it(export: Export) -> None:
    export.put(f"uploads/{REALM}/ab/a b.png", PNG)
    export.put(
        "attachment.json",
        {
            "zerver_attachment": [
                {"path_id": f"{REALM}/ab/a b.png", "file_name": "plan.png"}
            ]
        },
    )
    way = f"/user_uploads/{REALM}/ab/a%20b.png"
    messages = written(
        export,
        f"see\n[p]({way})\nthere",
        f"![q](https://shop.example.org{way})",
        "[r](/user_uploads/../realm.json)",
    )
    assert [message.text for message in messages] == ["see\nthere", "", ""]
    file = File(f"uploads/{REALM}/ab/a b.png", "plan.png")
    assert [message.files for message in messages[:2]] == [[file], [file]]
    assert messages[2].files == [File("uploads/../realm.json", "r")]
    assert Zulip(export.folder).open("uploads/../realm.json") is None


def test_a_move_is_no_edit(export: Export) -> None:
    part = export.get("messages-000001.json")
    row = part["zerver_message"][0]
    row |= {
        "edit_history": json.dumps([{"prev_subject": "a"}]),
        "last_edit_time": BEGIN + 5.5,
    }
    export.put("messages-000001.json", part)
    assert not by_kind(Zulip(export.folder))[Message][str(row["id"])].is_edited


def test_what_is_broken_is_noted_and_the_rest_is_read(export: Export) -> None:
    good = {
        "id": 9000,
        "sender": 10,
        "recipient": 201,
        "content": "good",
        "date_sent": BEGIN,
    }
    bad: list[Any] = [
        good | {"id": 9001, "sender": 999},
        good | {"id": 9002, "recipient": 999},
        good | {"id": 9003, "date_sent": 1e300},
        good | {"id": 9004, "date_sent": -1},
        good | {"id": 9005, "content": None},
        good | {"id": "9006"},
        {"id": 9007},
        None,
        [[]],
    ]
    rows = [*bad, good, good | {"id": 9010, "content": "\ud83d", "subject": "\udc00"}]
    export.put(
        "messages-000002.json",
        {"zerver_message": rows, "zerver_usermessage": [{"message": {}}, 5]},
    )
    export.put(
        "messages-000003.json",
        b'{"zerver_message": [' + json.dumps(good | {"id": 9008}).encode() + b", nul",
    )
    export.put("messages-000004.json", b'{"zerver_message": ' + b"[" * 100_000)
    export.put("messages-000005.json", b"\xff\xfe{}")
    archive = Zulip(export.folder)
    messages = by_kind(archive)[Message]
    assert set(messages) >= {"9000", "9008", "9010"}
    # a number in quotes is a number
    assert len(messages) == export.counts["messages"] + 4
    assert (
        messages["9010"].text
        == "*\N{REPLACEMENT CHARACTER}*\n\N{REPLACEMENT CHARACTER}"
    )
    assert (
        archive.problems.counts["message of nobody, to nobody or without a time"] == 4
    )
    assert archive.problems.counts["broken"] == 4 + 2 + 3
    assert archive.problems.lost_messages == 4 + 4 + 3


def test_tables_that_are_broken_or_missing_leave_the_rest(export: Export) -> None:
    realm = export.get("realm.json")
    realm["zerver_userprofile"] += [{"id": None}, {"id": 50, "full_name": 7}, 3]
    realm["zerver_reaction"] += [
        {"user_profile": 999, "message": 1000, "emoji_code": "1f44d"},
        {"user_profile": 10, "message": 1000, "emoji_code": "zz"},
        {"user_profile": 10, "message": 1000, "emoji_code": "ffffffffff"},
    ]
    realm["zerver_recipient"] += [
        {"id": 400, "type": 9, "type_id": 1},
        {"id": 401, "type": 1, "type_id": 999},
    ]
    del realm["zerver_realmemoji"]
    export.put("realm.json", realm)
    for name in ("attachment.json", "avatars/records.json"):
        (export.folder / name).unlink()
    archive = Zulip(export.folder)
    kinds = by_kind(archive)
    assert (len(kinds[Person]), len(kinds[Message]), kinds[Emoji]) == (14, 300, {})
    assert kinds[Person]["50"].nickname == "7"
    assert archive.problems.counts["reaction of nobody or with nothing"] == 3
    assert archive.problems.counts["broken"] == 2


def test_pairs_of_new_versions_are_the_pairs_of_old_ones(export: Export) -> None:
    rows = [
        {
            "id": 9000,
            "sender": 10,
            "recipient": 111,
            "content": "old",
            "date_sent": BEGIN,
        },
        {
            "id": 9001,
            "sender": 11,
            "recipient": 302,
            "content": "new",
            "date_sent": BEGIN + 1,
        },
    ]
    export.put(
        "messages-000002.json", {"zerver_message": rows, "zerver_usermessage": []}
    )
    messages = by_kind(Zulip(export.folder))[Message]
    assert messages["9000"].group == messages["9001"].group == "d10.11"


def test_names_that_lead_out_are_left_out_and_other_archives_are_refused(
    export: Export, tmp_path: Path
) -> None:
    path = export.pack(tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name in (
            "x/realm.json",
            "../messages-000001.json",
            "x/../../messages-000002.json",
        ):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    assert list(Zulip(tmp_path / "b.tar").records()) == []
    (tmp_path / "none").mkdir()
    (tmp_path / "cut.tar.gz").write_bytes(path.read_bytes()[:2000])
    for other in ("none", "cut.tar.gz"):
        with pytest.raises(BadArchive):
            Zulip(tmp_path / other)


def test_tables_are_read_in_pieces_up_to_what_is_broken() -> None:
    rows = [{"text": "é" * 300_000, "number": number} for number in range(3)]
    text = json.dumps(
        {"a": rows, "b": 5, "c": [], "d": [1, 2]}, ensure_ascii=False
    ).encode()
    assert list(Tables(io.BytesIO(text)).rows()) == [
        *(("a", row) for row in rows),
        ("d", 1),
        ("d", 2),
    ]
    assert list(Tables(io.BytesIO(b"[1, 23]")).rows()) == [("", 1), ("", 23)]
    for broken in (
        b"",
        b"[1",
        b"[1 2]",
        b'{"a" [1]}',
        b'{"a": [1],, "b": []}',
        b"[1, nope]",
    ):
        with pytest.raises(ValueError, match=r"expected|ends too early|Expecting"):
            list(Tables(io.BytesIO(broken)).rows())
    with pytest.raises(ValueError, match="a row of more than"):
        list(Tables(io.BytesIO(b'["' + b"x" * (33 << 20) + b'"]')).rows())
