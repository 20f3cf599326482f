"""What comes from another server and goes out again, in the same format: equal
but for what is listed."""

import json
import re
from collections import Counter
from collections.abc import Hashable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from archives import mattermost, slack, zulip
from archives.made import Made
from conftest import APP, Site
from imserver_arrivals.formats import WRITERS, archive_of
from imserver_arrivals.records import (
    MARK,
    Archive,
    Change,
    Emoji,
    File,
    Group,
    Member,
    Message,
    Person,
    Pin,
    Reaction,
    mention,
)

from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.audit.chain import shown
from imserver.operate.audit.rows import AuditQuery, search
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore


class Seen:
    """The records of an archive, without its ids: people by their nicknames,
    groups by their names."""

    def __init__(self, archive: Archive) -> None:
        records = list(archive.records())
        self.archive = archive
        self.people = {each.id: each for each in records if isinstance(each, Person)}
        self.groups = {each.id: each for each in records if isinstance(each, Group)}
        self.messages = {each.id: each for each in records if isinstance(each, Message)}
        self.emoji = {
            each.name: self.bytes_of(each.file)
            for each in records
            if isinstance(each, Emoji)
        }
        self.changes = [each for each in records if isinstance(each, Change)]

    def nickname(self, id: str) -> str:
        return self.people[id].nickname if id in self.people else id

    def group(self, id: str) -> tuple[str, ...]:
        """The words of its name; of one without a name, those of its
        members."""
        group = self.groups[id]
        members = {self.nickname(each.person) for each in group.members}
        return tuple(
            sorted(re.findall(r"\w+", (group.name or " ".join(members)).lower()))
        )

    def text(self, text: str) -> str:
        return MARK.sub(lambda match: f"<{match[1]}{self.nickname(match[2])}>", text)

    def message(self, id: str) -> tuple[Hashable, ...]:
        message = self.messages[id]
        moment = (
            self.group(message.group),
            self.nickname(message.person),
            message.time_ms,
        )
        return (*moment, self.text(message.text))

    def content(self, id: str) -> tuple[Hashable, ...]:
        message = self.messages[id]
        reactions = Counter(
            (self.nickname(each.person), each.emoji) for each in message.reactions
        )
        files = tuple((each.name, self.bytes_of(each.id)) for each in message.files)
        about = message.thread or message.reply
        also = (
            message.is_edited,
            message.also,
            self.message(about) if about in self.messages else about,
        )
        return (*self.message(id), *also, frozenset(reactions), files)

    def bytes_of(self, file: str) -> bytes | None:
        content = self.archive.open(file)
        if content is None:
            return None
        with content:
            return content.read()

    def of_groups(self) -> dict[Hashable, dict[str, Any]]:
        """What is said of each group. Of reading, how many of its messages each
        member has read."""
        times: dict[str, list[int]] = {}
        for message in self.messages.values():
            times.setdefault(message.group, []).append(message.time_ms)
        rows: dict[Hashable, dict[str, Any]] = {}
        for id, group in self.groups.items():
            own = times.get(id, [])
            rows[self.group(id)] = {
                "kind": group.kind,
                "description": self.text(group.description),
                "admins": {
                    self.nickname(each.person)
                    for each in group.members
                    if each.role != "member"
                },
                "pins": Counter(self.message(pin.message) for pin in group.pins),
                "reads": {
                    self.nickname(each.person): sum(
                        each.read_ms < 0 or time <= each.read_ms
                        for time in own  # not known: all
                    )
                    for each in group.members
                },
                "is_archived": group.is_archived,
            }
        return rows

    def of_changes(self) -> Counter[Hashable]:
        return Counter(
            (
                self.group(each.group),
                self.nickname(each.person),
                each.time_ms,
                each.kind,
                self.nickname(one),
            )
            for each in self.changes
            for one in each.people or [self.text(each.text)]
        )


def there_and_back(site: Site, path: Path, name: str) -> tuple[Seen, Seen]:
    """What an archive has, and what the app has from it in the same format."""
    site.run(path)
    out = site.folder / f"out-{name}.zip"
    said = site.depart(out, "--as", name)
    assert out.stat().st_mode & 0o777 == 0o600, said
    return Seen(archive_of(path, name)), Seen(archive_of(out, name))


def compare_groups(before: Seen, after: Seen) -> None:
    """Equal but for: a direct conversation of several people becomes a group of
    those who are invited, as does one that is archived, which its writers may
    read; conversations of two have no description; each group has an owner."""
    there = before.of_groups()
    back = after.of_groups()
    assert there.keys() == back.keys()
    for name, row in there.items():
        if row["kind"] == "direct":
            row["description"] = ""
        if row["kind"] == "several" or row["is_archived"]:
            row |= {
                "kind": "closed",
                "is_archived": False,
                "reads": back[name]["reads"],
            }
        assert row["admins"] <= back[name]["admins"]
        assert len(back[name]["admins"] - row["admins"]) <= 1
        assert back[name] == row | {"admins": back[name]["admins"]}


def people_of(seen: Seen) -> Counter[Hashable]:
    """Equal but for the reason why nobody claims an account: the app does not
    have it."""
    return Counter(
        (
            each.nickname,
            each.login,
            each.email,
            seen.bytes_of(each.avatar),
            bool(each.why),
        )
        for each in seen.people.values()
    )


def test_mattermost(tmp_path: Path, url: str) -> None:
    site = Site(tmp_path, url)
    mattermost.write(tmp_path / "export.zip", seed=11)
    before, after = there_and_back(site, tmp_path / "export.zip", "mattermost")
    assert not after.archive.problems.counts
    assert Counter(map(before.content, before.messages)) == Counter(
        map(after.content, after.messages)
    )
    compare_groups(before, after)
    assert people_of(before) == people_of(after)
    assert before.emoji == after.emoji
    lost = before.of_changes() - after.of_changes()
    assert not after.of_changes() - before.of_changes()
    # of who is there, or is not
    assert {kind for _, _, _, kind, _ in lost} <= {"join", "leave"}


def test_slack(tmp_path: Path, site: Site) -> None:
    """The same, but for texts of links, which stand before them, and who makes
    somebody leave."""
    path = slack.make(11, 400).write_zip(tmp_path / "export.zip")
    before, after = there_and_back(site, path, "slack")
    assert not after.archive.problems.counts
    assert Counter(map(before.content, before.messages)) == Counter(
        map(after.content, after.messages)
    )
    compare_groups(before, after)
    assert people_of(before) == people_of(after)


ANN = Person("1", "Ann", "ann", "ann@example.org", "picture")
BOB = Person("2", "Bob", "", "bob@example.org")
ROOM = Group(
    "7",
    "open",
    "Tea & Cake",
    members=[Member("1", "owner", 5), Member("2")],
    pins=[Pin("20")],
)


def test_zulip(tmp_path: Path, site: Site) -> None:
    """A topic comes as a thread whose first line has its name, and leaves as
    the topic."""
    export = zulip.make(tmp_path / "export", 11, 400).folder
    before, after = there_and_back(site, export, "zulip")
    assert not after.archive.problems.counts
    assert Counter(map(before.content, before.messages)) == Counter(
        map(after.content, after.messages)
    )
    compare_groups(before, after)
    assert people_of(before) == people_of(after)
    assert before.emoji == after.emoji


def written(
    folder: Path, *records: Any, name: str = "mattermost"
) -> tuple[Made, Archive]:
    made = Made(ANN, BOB, ROOM, *records)
    path = folder / "out.zip"
    made.files = {"picture": b"picture", "f": b"text"}
    with ZipFile(path, "w") as target:
        WRITERS[name](made, "gochat").write(target, lambda count: count)
    return made, archive_of(path, name)


def test_mattermost_takes_what_it_has_names_for(tmp_path: Path) -> None:
    reactions = [
        Reaction("2", "👍🏿"),
        Reaction("2", ":own:"),
        Reaction("2", "not an emoji"),
    ]
    other = Person("3", "Ann", "", "")
    files = [
        File("f", "../a/b.txt"),
        File("", "page", "https://example.org/x"),
        File("", "gone.png", why="x"),
    ]
    made, read = written(
        tmp_path,
        other,
        Group("8", "closed", "tea-cake", members=[Member("1")]),
        Group("9", "direct", members=[Member("2")]),
        Message(
            "20",
            "7",
            "3",
            1000,
            f"*Hi* {mention('2')} {mention('*')} `a*b*`",
            reactions=reactions,
        ),
        Message("21", "9", "2", 1001, "to myself", reply="20", files=files),
    )
    people = {each.id: each for each in read.records() if isinstance(each, Person)}
    assert [(each.id, each.nickname, each.email) for each in people.values()] == [
        ("ann", "Ann", "ann@example.org"),
        ("bob", "Bob", "bob@example.org"),
        ("ann-2", "Ann", ""),
    ]
    groups = [each for each in read.records() if isinstance(each, Group)]
    assert [(each.id, each.kind, each.name) for each in groups[:2]] == [
        ("gochat/tea-cake", "open", "Tea & Cake"),
        ("gochat/tea-cake-2", "closed", "tea-cake"),
    ]
    assert groups[2].members == [Member("bob")]
    first, second = (each for each in read.records() if isinstance(each, Message))
    assert first.text == f"*Hi* {mention('bob')} {mention('*')} `a*b*`"
    assert [each.emoji for each in first.reactions] == ["👍🏿", ":own:"]
    assert groups[0].pins == [Pin(first.id, time_ms=1000)]
    assert second.text == "to myself\npage https://example.org/x\ngone.png"
    assert [each.name for each in second.files] == ["_a_b.txt"]
    assert made.problems.counts == {
        "reaction without a name in Mattermost": 1,
        "reply outside of a thread (leaves as a post)": 1,
    }


def test_direct_channels_of_mattermost_have_both_lists_of_members(
    tmp_path: Path,
) -> None:
    """Importers up to 2023 need ``members`` (mattermost/mattermost-server
    0276a69f0c, app/import_validators.go, validateDirectChannelImportData)."""
    pair = [Member("1", read_ms=5), Member("2")]
    alone = [Member("2")]
    written(
        tmp_path,
        Group("8", "direct", members=pair),
        Group("9", "direct", members=alone),
    )
    with ZipFile(tmp_path / "out.zip") as archive:
        lines = map(json.loads, archive.read("import.jsonl").splitlines())
        rows = [
            each["direct_channel"] for each in lines if each["type"] == "direct_channel"
        ]
    assert [each["members"] for each in rows] == [["ann", "bob"], ["bob", "bob"]]
    assert [each["participants"] for each in rows] == [
        [{"username": "ann", "last_viewed_at": 5}, {"username": "bob"}],
        [{"username": "bob"}, {"username": "bob"}],
    ]


def test_slack_says_in_words_who_joins_and_leaves(tmp_path: Path) -> None:
    """Other importers show the text (docs of Slack's channel_join and
    channel_leave; hfaran/slack-export-viewer, formatter.py)."""
    changes = (
        Change("19", "7", "1", 900, "join", ["2"]),
        Change("20", "7", "2", 901, "leave", ["2"]),
    )
    written(tmp_path, *changes, name="slack")
    with ZipFile(tmp_path / "out.zip") as archive:
        rows = json.loads(archive.read("tea-cake/1970-01-01.json"))
    assert [row["text"] for row in rows] == [
        "<@U00000002> has joined the channel",
        "<@U00000002> has left the channel",
    ]


def test_mattermost_has_posts_and_lines_of_a_length(tmp_path: Path) -> None:
    long = "x" * 40_000
    replies = [
        Message(str(21 + number), "7", "2", 1001 + number, long, "20")
        for number in range(400)
    ]
    made, read = written(
        tmp_path,
        Message("20", "7", "1", 1000, "root"),
        *replies,
        Message(
            "5000", "7", "1", 9000, "first reply of a thread whose root is gone", "4999"
        ),
        Message("5001", "7", "1", 9001, "second", "4999"),
    )
    messages = [each for each in read.records() if isinstance(each, Message)]
    assert not read.problems.counts
    assert sum(
        len(each.text) for each in messages if each.person == "bob"
    ) == 400 * len(long)
    assert all(len(each.text) <= 16_000 for each in messages)
    assert made.problems.counts["long text (its rest leaves as replies)"] == 800
    assert (
        made.problems.counts["reply above the bytes of a line (leaves as a post)"] == 1
    )
    assert messages[-1].thread == messages[-2].id != ""
    assert messages[-2].thread == ""


def test_slack_has_changes_pins_files_and_replies_in_both_places(
    tmp_path: Path,
) -> None:
    text = f"a < b & [page](https://example.org/?a=1&b=2) https://example.org/ {mention('2')} `~~x~~` ~~y~~"
    _, read = written(
        tmp_path,
        Group("9", "direct", members=[Member("2"), Member("1")]),
        Change("19", "7", "1", 900, "join", ["2"]),
        Message(
            "20",
            "7",
            "1",
            1000,
            text,
            files=[File("f", "../b.txt"), File("", "gone.png", why="x")],
        ),
        Message("21", "7", "2", 1000, "reply", "20", also=True, is_edited=True),
        Change("22", "7", "1", 1002, "name", text="Cake"),
        Change("23", "7", "1", 1002, "description", text="a & b"),
        Change("24", "7", "2", 1003, "leave", ["2"]),
        Message("1021", "7", "1", 1000, "of the same millisecond"),
        Message(
            "1025",
            "9",
            "1",
            86_400_000,
            "next day",
            reactions=[Reaction("2", "👍🏿"), Reaction("1", "👍🏿")],
        ),
        name="slack",
    )
    room, pair = (each for each in read.records() if isinstance(each, Group))
    assert (room.kind, room.name, room.creator, pair.kind) == (
        "open",
        "tea-cake",
        "",
        "direct",
    )
    first, second, twin, third = (
        each for each in read.records() if isinstance(each, Message)
    )
    name = mention("U00000002")
    assert (
        first.text
        == f"a < b & page (https://example.org/?a=1&b=2) https://example.org/ {name} `~~x~~` ~~y~~"
    )
    assert [each.name for each in first.files] == ["../b.txt", "gone.png"]
    assert [read.open(each.id) is None for each in first.files] == [False, True]
    assert (twin.text, twin.thread, twin.time_ms) == (
        "of the same millisecond",
        "",
        1000,
    )
    assert (second.thread, second.also, second.is_edited) == (first.id, True, True)
    assert [pin.message for pin in room.pins] == [first.id]
    assert [(each.person, each.emoji) for each in third.reactions] == [
        ("U00000002", "👍🏿"),
        ("U00000001", "👍🏿"),
    ]
    changes = [each for each in read.records() if isinstance(each, Change)]
    assert [(each.kind, each.person, *each.people, each.text) for each in changes] == [
        ("join", "U00000001", "U00000002", ""),
        ("name", "U00000001", "Cake"),
        ("description", "U00000001", "a & b"),
        ("leave", "U00000002", "U00000002", ""),
    ]
    picture = next(each.avatar for each in read.records() if isinstance(each, Person))
    content = read.open(picture)
    assert content is not None
    with content:
        assert content.read() == b"picture"


def test_zulip_has_a_topic_for_each_thread(tmp_path: Path) -> None:
    text = f"*bold* _slanted_ *_both_* `_x_` {mention('2')} {mention('*')} https://example.org/a_b_c"
    _, read = written(
        tmp_path,
        Group(
            "9",
            "direct",
            members=[Member("2", read_ms=1002), Member("1", read_ms=1001)],
        ),
        Message(
            "20",
            "7",
            "1",
            1000,
            text,
            files=[File("f", "../b [1].txt"), File("", "gone.png", why="x")],
        ),
        Message("21", "7", "2", 1001, "reply", "20", is_edited=True),
        Message("22", "7", "2", 1002, "*Tea*\nfirst"),
        Message("23", "7", "2", 1003, "*tea*\nno topic of its own"),
        Message(
            "24",
            "9",
            "1",
            1002,
            "hi",
            reactions=[Reaction("2", "👍🏿"), Reaction("1", ":own:")],
        ),
        name="zulip",
    )
    messages = {each.id: each for each in read.records() if isinstance(each, Message)}
    assert messages["20"].text.partition("\n")[2] == f"{text}\ngone.png"
    assert [
        (each.name, read.open(each.id) is None) for each in messages["20"].files
    ] == [("../b [1].txt", False)]
    assert (
        messages["21"].thread,
        messages["21"].is_edited,
        messages["21"].time_ms,
    ) == ("20", True, 1001)
    assert [messages[id].text for id in ("22", "23")] == [
        "*Tea*\nfirst",
        "*tea*\nno topic of its own",
    ]
    assert [messages[id].thread for id in ("20", "22", "23", "24")] == [""] * 4
    assert [(each.person, each.emoji) for each in messages["24"].reactions] == [
        ("2", "👍🏿"),
        ("1", ":own:"),
    ]
    pair = next(
        each
        for each in read.records()
        if isinstance(each, Group) and each.kind == "direct"
    )
    assert {each.person: each.read_ms >= 1002 for each in pair.members} == {
        "1": False,
        "2": True,
    }


def test_what_the_log_says_beyond_messages(tmp_path: Path, site: Site) -> None:
    with site.store() as store:
        accounts = AccountStore(store)
        log = store.part(MessageLog)
        ann, bob = (
            accounts.add(Account(0, APP, "", name, name=name), "").user
            for name in ("ann", "bob")
        )
        room = log.groups.create(APP, ann, "Room", [bob]).conversation
        other = log.groups.create(APP, ann, "Other", []).conversation
        meta = b'{"mentions":["%s"]}' % bob.encode()
        texts = [
            Draft(sender=ann, conversation=room, body=b"Hi @bob `@bob`", meta=meta),
            Draft(
                sender=bob, conversation=room, type="location", body=b'{"name":"Cafe"}'
            ),
            Draft(sender=bob, conversation=room, body=b"recalled"),
            Draft(sender=ann, conversation=other, body=b"elsewhere"),
        ]
        hi, _, recalled, _ = (each.entry.id for each in log.writer.append(APP, texts))
        log.writer.append(
            APP, [Draft(sender=bob, kind="recall", about=recalled, conversation=room)]
        )
        log.annotations.react(APP, bob, hi, "🎉")
        log.annotations.react(APP, ann, hi, "🎉")
        log.annotations.react(APP, bob, hi, "🎉", remove=True)
        log.annotations.pin(APP, ann, hi)
        log.annotations.pin(APP, ann, hi, remove=True)
        log.groups.describe(APP, room, {"name": "Hall", "description": "For all"}, ann)
        log.groups.leave(APP, room, [bob], ann)
    options = ("--as", "mattermost", "--group", str(room))
    said = site.depart(tmp_path / "out.zip", *options)
    assert "message of type location (its name leaves)" in said
    assert "exists already" in site.depart(tmp_path / "out.zip", *options, status=1)
    assert f"no group {other + 9}" in site.depart(
        tmp_path / "x", *options, "--group", str(other + 9), status=1
    )
    with site.store() as store:
        acts, _ = store.read(
            partial(search, AuditQuery(app=APP, name="mattermost.export"))
        )
    assert [shown(*act).facts for act in acts] == [{"groups": [room]}]
    seen = Seen(archive_of(tmp_path / "out.zip"))
    (group,) = seen.groups.values()
    assert (group.name, group.description) == ("Hall", "For all")
    assert not group.pins
    assert [each.person for each in group.members] == ["ann"]
    assert sorted(each.text for each in seen.messages.values()) == [
        "Cafe",
        f"Hi {mention('bob')} `@bob`",
    ]
    reactions = [
        each for message in seen.messages.values() for each in message.reactions
    ]
    assert [(each.person, each.emoji) for each in reactions] == [("ann", "🎉")]
    changes = [
        (each.kind, each.person, *(each.people or [each.text])) for each in seen.changes
    ]
    assert sorted(changes) == [
        ("description", "ann", "For all"),
        ("leave", "ann", "bob"),
        ("name", "ann", "Hall"),
    ]


def test_what_was_made_after_a_loss_leaves_too(tmp_path: Path, site: Site) -> None:
    with site.store() as store:
        log = store.part(MessageLog)
        log.groups.create(APP, "1", "Near", [])
        log.writer.learn(APP, 10_000)
        assert log.writer.check(APP) > 10_000
        far = AccountStore(store).add(Account(0, APP, "", "far", name="far"), "").user
        group = log.groups.create(APP, far, "Far", []).conversation
        log.writer.append(APP, [Draft(sender=far, conversation=group, body=b"hi")])
    site.depart(tmp_path / "out.zip", "--as", "slack")
    seen = Seen(archive_of(tmp_path / "out.zip"))
    assert sorted(each.name for each in seen.groups.values()) == ["far", "near"]
    assert [seen.message(id)[-1] for id in seen.messages] == ["hi"]
    assert {each.nickname for each in seen.people.values()} == {"1", "far"}
