"""Exports that are broken or hostile, and what texts become."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from conftest import Site
from imserver_slack import export as export_module
from imserver_slack.export import BadExport, Export, microseconds_of
from imserver_slack.survey import survey
from imserver_slack.text import Texts, emoji_named, text_of
from test_slack_import import ANN, BOB, CAT, imported, small
from workspace import BEGIN, Workspace, ts

Write = Callable[[Workspace, str], Path]
TEXTS = Texts({"U1": ("17", "Ann & Bob")}.get, {"C1": "general"})


@pytest.mark.parametrize(
    ("slack", "ours", "mentions"),
    [
        ("a &lt;b&gt; &amp;amp;", "a <b> &amp;", []),
        ("<@U1> and <@U2|old>", "@Ann & Bob and @old", ["17"]),
        ("<!here> <!channel> <!subteam^S1|@team>", "@all @all @team", ["all"]),
        ("<#C1> <#C2|secret> <#C3>", "#general #secret #C3", []),
        ("<https://a.org/?a=1&amp;b=2>", "https://a.org/?a=1&b=2", []),
        ("<https://a.org|A page> <http://a.org|a.org>", "A page (https://a.org) http://a.org", []),
        ("<mailto:a@b.org|a@b.org>", "a@b.org", []),
        ("<!date^1392734382^{date}|Feb 18>", "Feb 18", []),
        (":smile: :wave::skin-tone-3: :party_parrot: 10:30:00", "😄 👋🏼 :party_parrot: 10:30:00", []),
        ("*bold* _italic_ ~gone~ `~a~ :smile:`", "*bold* _italic_ ~~gone~~ `~a~ :smile:`", []),
        ("```x &lt; 1\n~y~```", "```x < 1\n~y~```", []),
        ("a\x00b\x07\u202e", "ab\u202e", []),
    ],
)
def test_texts_are_converted(slack: str, ours: str, mentions: list[str]) -> None:
    assert TEXTS.convert(slack) == (ours, mentions)


def test_every_text_has_a_limit_and_takes_linear_time() -> None:
    for text in ("<" * 200_000, "`" * 100_000, ":a" * 100_000, "~a" * 100_000, "x" * 200_000):
        assert len(TEXTS.convert(text)[0].encode()) <= 70_000


def test_apps_say_it_in_attachments_and_blocks() -> None:
    message = export_module.Message(
        "1.0",
        attachments=[export_module.Attachment(title="Build", title_link="https://ci.org", text="failed")],
    )
    assert TEXTS.convert(text_of(message))[0] == "Build (https://ci.org)\nfailed"
    parts: list[dict[str, Any]] = [{"type": "text", "text": "hi "}, {"type": "emoji", "name": "tada"}]
    blocks = [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": parts}]}]
    assert TEXTS.convert(text_of(export_module.Message("1.0", blocks=blocks)))[0] == "hi 🎉"
    deep: Any = {"type": "section"}
    for _ in range(500):
        deep = {"type": "section", "elements": [deep]}
    assert text_of(export_module.Message("1.0", blocks=[deep])) == ""


def test_names_of_emoji_and_times() -> None:
    assert [emoji_named(name) for name in ("+1", "heart", "us", "nothing")] == ["👍", "❤️", "🇺🇸", ""]
    times = [microseconds_of(ts) for ts in ("1600000000.000200", "7.5", "", "x", "1.2.3", "99999999999999.1")]
    assert times == [1_600_000_000_000_200, 7_500_000, 0, 0, 0, 0]


def test_what_is_broken_is_named_and_the_rest_is_imported(site: Site, write: Write) -> None:
    path = write(small({"text": "good"}), "export")
    tea = path / "tea"
    (tea / "2020-09-15.json").write_text('[{"ts": "1.0", "text":')
    (tea / "2020-09-16.json").write_text('[{"ts": 7}, 3, {"text": "no time"}, {"ts": "x"}]')
    (tea / "2020-09-17.json").write_bytes(b'[{"ts": "1600300000.0", "text": "\xff"}]')
    (tea / "2020-09-18.json").write_text(
        json.dumps([{"ts": ts(BEGIN + 400_000), "user": ANN, "text": "end"}])
    )
    (tea / "notes.txt").write_text("x")
    (path / "canvases.json").write_text("[]")
    (path / "\x1b[2J.json").write_text("[]")
    channels = json.loads((path / "channels.json").read_text())
    channels[0] |= {"created": 1e308, "pins": [{"id": "1.0", "user": ANN, "created": 1e308}]}
    (path / "channels.json").write_text(json.dumps(channels))
    (path / "lost").mkdir()
    (path / "lost" / "2020-09-18.json").write_text("[]")
    said = site.run(path)
    assert "tea/2020-09-15.json: " in said
    assert "tea/2020-09-16.json, message 2: " in said
    assert "6  broken" in said
    assert "\x1b" not in said
    for kind in ("file canvases.json", "folder lost", "file in the folder of a conversation"):
        assert f"1  {kind}" in said
    with site.log() as log:
        assert [each.body for each in log.entries.read("gochat", 0, 10) if each.kind == "message"] == [
            b"good",
            b"end",
        ]


def test_a_zip_file_reaches_nothing_outside_and_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export.zip"
    small({"text": "good"}).write_zip(path)
    with ZipFile(path, "a", ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.json", "[]")
        archive.writestr("tea/../../../2020-09-20.json", "[]")
        archive.writestr("tea/2020-09-21.json", b"[" + b" " * 5_000_000 + b"]")
    monkeypatch.setattr(export_module, "MOST_JSON_BYTES", 1_000_000)
    export = Export(path)
    assert survey(export).counts["message"] == 1
    assert export.problems.broken == ["tea/2020-09-21.json: more than 1000000 bytes"]
    assert [each.name for each in tmp_path.iterdir()] == ["export.zip"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_what_is_no_export_is_refused(site: Site, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(content)
    assert "is no zip file" in site.run(path, status=1)
    with ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(BadExport, match=r"no users\.json"):
        Export(path)


def test_senders_whom_no_list_names_have_names(site: Site, write: Write) -> None:
    entries = imported(
        site,
        write(
            small(
                {
                    "subtype": "bot_message",
                    "user": None,
                    "bot_id": "B1",
                    "username": "Deploy",
                    "text": "done",
                },
                {"user": "UFOREIGN", "user_profile": {"real_name": "Zoë"}, "text": "from elsewhere"},
                {"user": None, "text": "nobody"},
                {"subtype": "me_message", "text": "waves"},
                {"subtype": "something_new", "text": "what"},
                {"text": "gone?", "thread_ts": ts(BEGIN)},
            ),
            "export",
        ),
    )
    bodies = [each.body.decode() for each in entries if each.kind == "message"]
    assert bodies == ["done", "from elsewhere", "_waves_", "what", "gone?"]
    said = site.run(site.folder / "export")
    assert "message without a sender" in said
    assert "kind something_new (imported as text)" in said
    assert "reply to a message that is not there" in said


def test_conversations_without_known_members_are_counted(site: Site, write: Write) -> None:
    export = small({"text": "kept"})
    export.files["channels.json"].append({"id": "C0EMPTY", "name": "empty", "members": []})
    export.files["empty/2020-09-13.json"] = [{"ts": ts(BEGIN + 70), "user": ANN, "text": "lost"}]
    export.files["dms.json"] = [{"id": "D0THREE", "members": [ANN, BOB, CAT]}]
    export.files["D0THREE/2020-09-13.json"] = [{"ts": ts(BEGIN + 80), "user": ANN, "text": "to whom"}]
    said = site.run(write(export, "export.zip"))
    assert "1 groups, 1 messages" in said
    for kind in (
        "conversation of nobody",
        "message in a conversation of nobody",
        "direct message of a third",
    ):
        assert f"1  {kind}" in said


def test_direct_messages_of_two_and_of_several(site: Site, write: Write) -> None:
    export = small({"text": "to all"})
    export.files["dms.json"] = [{"id": "D0TWO", "created": BEGIN, "members": [ANN, BOB]}]
    export.files["D0TWO/2020-09-13.json"] = [{"ts": ts(BEGIN + 70), "user": BOB, "text": "psst"}]
    export.files["mpims.json"] = [{"id": "G0SOME", "name": "mpdm-ann--bob-1", "members": [ANN, BOB, CAT]}]
    export.files["mpdm-ann--bob-1/2020-09-13.json"] = [
        {"ts": ts(BEGIN + 80), "user": CAT, "text": "we three"}
    ]
    entries = [each for each in imported(site, write(export, "export.zip")) if each.kind == "message"]
    assert [each.body for each in entries] == [b"to all", b"psst", b"we three"]
    with site.log() as log:
        pair, group = (log.conversations.get("gochat", entries[number].conversation) for number in (1, 2))
        assert (pair.kind, set(pair.members)) == ("user", {entries[1].sender, entries[1].to})
        assert (group.name, group.open) == ("Ann, Bob, User2", False)
        unread = log.conversations.page("gochat", entries[1].to, 0, 10)[0]
        assert [each.unread for each in unread] == [0, 0, 0]
