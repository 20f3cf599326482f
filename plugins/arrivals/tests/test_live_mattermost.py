"""What happens on a server of Mattermost, as records of archives; and what is
posted there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fake_mattermost import MOST_SINCE, TOKEN, Mattermost, id_of, mattermost
from imserver_arrivals import live, mattermost_news
from imserver_arrivals.formats import archive_of
from imserver_arrivals.live import LiveError
from imserver_arrivals.live_mattermost import LiveMattermost
from imserver_arrivals.records import (
    Change,
    Emoji,
    Group,
    Message,
    Person,
    Record,
    Removal,
)

from imserver.plugin.testing import eventually

SECONDS = 30.0


@pytest.fixture
def fake() -> Iterator[Mattermost]:
    with mattermost() as server:
        yield server


class Follower:
    """Keeps the cursor of what it follows."""

    def __init__(
        self, fake: Mattermost, cursor: str = "@0", token: str = TOKEN, **back: str
    ) -> None:
        self.cursor = cursor
        self.live = LiveMattermost(fake.address, token, back)

    def look(self, seconds: float = SECONDS, stored: bool = True) -> list[Record]:
        """The records of one call. ``stored``: the next call gets the new
        cursor."""
        with TemporaryDirectory() as name:
            cursor = self.live.write(Path(name), self.cursor, seconds)
            self.cursor = cursor if stored else self.cursor
            if not any(Path(name).iterdir()):
                return []
            archive = archive_of(Path(name), "mattermost")
            records = list(archive.records())
            assert not archive.problems.broken
            for record in records:
                for file in record.files if isinstance(record, Message) else ():
                    if (content := archive.open(file.id)) is not None:
                        content.close()
            return records

    def until(
        self, kind: type[Any], condition: Callable[[Any], object] = lambda _: True
    ) -> Any:
        """The first record of a kind that comes from now on."""

        def found() -> Any:
            return next(
                (
                    each
                    for each in self.look(0.5)
                    if isinstance(each, kind) and condition(each)
                ),
                None,
            )

        return eventually(found, SECONDS)


@pytest.fixture
def follower(fake: Mattermost) -> Iterator[Follower]:
    """Who has seen what was there before."""
    follower = Follower(fake)
    follower.look()
    yield follower
    follower.live.close()


def messages(records: list[Record]) -> dict[str, Message]:
    return {each.id: each for each in records if isinstance(each, Message)}


def exported(fake: Mattermost, folder: Path) -> dict[str, Message]:
    """The messages of a bulk export."""
    return messages(list(archive_of(fake.export(folder), "mattermost").records()))


def test_what_is_posted_has_the_ids_and_contents_of_an_export(
    fake: Mattermost, tmp_path: Path
) -> None:
    root = fake.post(
        "bob", "hello **@ann** ~room :tada:", files={"a.txt": b"some", "../b": b"x"}
    )
    reply = fake.post("ann", "a reply", root=root)
    fake.react(reply, "bob", "+1")
    fake.edit(root, "hello again")
    fake.post(
        "bob",
        "of a hook",
        props={"from_webhook": "true", "override_username": "Builder"},
    )
    for text in ("one", "two"):
        fake.post("ann", text, id=id_of(text), create_at=5)
    fake.add_channel("talk", ["ann", "bob", "follower"], "G")
    fake.post("ann", "psst", "talk")
    follower = Follower(fake)
    came = messages(follower.look())
    there = exported(fake, tmp_path / "export")
    follower.live.close()
    assert list(came) == list(there)
    assert [
        (each.text, each.thread, each.reactions, each.is_edited)
        for each in came.values()
    ] == [
        (each.text, each.thread, each.reactions, each.is_edited)
        for each in there.values()
    ]
    names = {file.name for each in came.values() for file in each.files}
    assert names == {"a.txt", "_b"}
    assert {each.person for each in came.values()} >= {"webhook/Builder"}


def test_edits_deletions_and_ended_reactions(
    fake: Mattermost, follower: Follower
) -> None:
    post = fake.post("bob", "first")
    message = follower.until(Message)
    fake.edit(post, "second")
    edited = follower.until(Message)
    assert (edited.id, edited.text, edited.is_edited) == (message.id, "second", True)
    reply = fake.post("ann", "reply", root=post)
    answer = follower.until(Message, lambda each: each.thread == message.id)
    fake.react(post, "ann", "+1")
    assert (
        follower.until(Message, lambda each: each.reactions).reactions[0].person
        == "ann"
    )
    fake.react(post, "ann", "+1", ends=True)
    removal = follower.until(Removal)
    assert (removal.message, removal.person, removal.reaction.emoji) == (
        message.id,
        "ann",
        "👍",
    )
    fake.delete(reply)
    assert follower.until(Removal).message == answer.id
    fake.delete(post)
    assert (
        follower.until(Removal, lambda each: each.message == message.id).reaction
        is None
    )


def test_people_channels_joins_and_leaves(fake: Mattermost, follower: Follower) -> None:
    fake.add_user("carl")
    fake.join("carl")
    join = follower.until(Change)
    assert (join.kind, join.people) == ("join", ["carl"])
    fake.leave("carl")
    assert follower.until(Change).kind == "leave"
    fake.add_channel("news", ["ann", "follower"])
    assert follower.until(Group, lambda each: each.id == "dev/news").name == "News"
    fake.add_user("helper", is_bot=True)
    fake.post("bob", "where is @Helper?", "room")
    assert follower.until(Person, lambda each: each.id == "helper").why == "bot"
    fake.add_channel("hidden", ["ann", "bob"])
    fake.post("ann", "not for the account", "hidden")
    fake.post("ann", "last")
    assert (
        follower.until(Message, lambda each: each.group != "dev/hidden").text == "last"
    )


def test_own_emoji_come_with_the_messages_that_use_them(
    fake: Mattermost, follower: Follower
) -> None:
    metadata = {"emojis": [{"id": id_of("party"), "name": "party"}]}
    fake.post("bob", ":party:", emojis=metadata["emojis"])
    assert follower.until(Emoji).name == "party"


def test_a_new_process_and_a_lost_connection_miss_nothing(
    fake: Mattermost, follower: Follower
) -> None:
    follower.live.close()
    post = fake.post("bob", "while nobody looks")
    again = Follower(fake, follower.cursor)
    assert [each.text for each in messages(again.look()).values()] == [
        "while nobody looks"
    ]
    fake.stop()
    fake.edit(post, "while it is away")
    for _ in range(2):
        with pytest.raises(LiveError) as refusal:
            again.look()
        assert not refusal.value.is_final
    fake.start()
    assert again.until(Message).text == "while it is away"
    again.live.close()


def test_what_was_not_stored_is_written_again(
    fake: Mattermost, follower: Follower
) -> None:
    post = fake.post("bob", "hello")
    fake.react(post, "ann", "+1")
    fake.react(post, "ann", "+1", ends=True)
    eventually(
        lambda: {Message, Removal} <= {type(each) for each in follower.look(1, False)},
        SECONDS,
    )
    assert {Message, Removal} <= {type(each) for each in follower.look()}
    assert not [each for each in follower.look(0) if isinstance(each, Message)]


def test_without_a_cursor_it_begins_from_now_on(fake: Mattermost) -> None:
    fake.post("bob", "before")
    follower = Follower(fake, "")
    assert not messages(follower.look())
    fake.post("bob", "after")
    assert follower.until(Message).text == "after"
    follower.live.close()


def test_more_posts_than_an_answer_has_come_all(
    fake: Mattermost, tmp_path: Path
) -> None:
    for number in range(MOST_SINCE + 50):
        fake.post("bob", str(number))
    follower = Follower(fake)
    assert len(messages(follower.look())) == MOST_SINCE + 50
    follower.live.close()


def test_large_archives_come_in_parts(
    fake: Mattermost, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mattermost_news, "ARCHIVE_BYTES", 1000)
    fake.add_channel("big", ["bob", "follower"])
    follower.live.close()
    for channel in ("room", "big"):
        fake.post("bob", channel, channel, files={"a.txt": b"x" * 2000})
    again = Follower(fake, follower.cursor)
    parts = [[each.text for each in messages(again.look(0)).values()] for _ in range(3)]
    assert parts == [["room"], ["big"], []]
    assert json.loads(again.cursor)["since"] >= json.loads(follower.cursor)["since"]
    again.live.close()


def test_ours_is_posted_once_and_passed_over(
    fake: Mattermost, follower: Follower, tmp_path: Path
) -> None:
    hook = f"{fake.address}/hooks/one"
    one = Follower(fake, follower.cursor, **{"": hook})
    one.look()
    assert one.live.post("dev/room", "Zoe", "*bold* @channel <!here>", 77)
    assert not one.live.post("dev/room", "Zoe", "again", 77)
    (body,) = fake.posted
    assert body == {
        "text": "**bold** @\u200bchannel <\u200b!here>",
        "username": "Zoe",
        "props": {"imserver": 77},
        "channel": "room",
    }
    fake.post("bob", "a reply to ours", root=list(fake.posts)[-1])
    assert one.until(Message).text == "a reply to ours"
    # killed before the cursor was saved
    later = Follower(fake, follower.cursor, **{"": hook})
    assert [each.text for each in messages(later.look()).values()] == [
        "a reply to ours"
    ]
    assert not later.live.post("dev/room", "Zoe", "again", 77)
    archive = archive_of(fake.export(tmp_path / "export"), "mattermost")
    assert [each.text for each in archive.records() if isinstance(each, Message)] == [
        "a reply to ours"
    ]
    assert not [
        each
        for each in archive.records()
        if isinstance(each, Person) and "webhook" in each.id
    ]
    assert archive.problems.counts["message of ours"] == 2  # they were read twice
    only = Follower(fake, follower.cursor, **{"dev/other": hook})
    only.look()
    assert not only.live.post("dev/room", "Zoe", "no way leads there", 78)
    for each in (one, later, only):
        each.live.close()


def test_a_token_that_does_not_count_is_final(fake: Mattermost) -> None:
    with pytest.raises(
        LiveError, match="the server does not accept the token"
    ) as refusal:
        Follower(fake, token="wrong").look()
    assert refusal.value.is_final
    assert "wrong" not in str(refusal.value)


HOSTILE = (
    b"[" * 9000,
    b"x" * 20_000,
    b'{"order": 5}',
    b"[null]",
    b'[{"id": 1, "username": []}]',
    b"\xff",
)


@pytest.mark.parametrize(
    "path", ["users/me", "teams", "channels", "posts", "members", "ids"]
)
def test_hostile_answers_are_refused(
    fake: Mattermost, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(live, "ANSWER_BYTES", 10_000)
    fake.post("bob", "hello")
    for content in HOSTILE:
        fake.answer = lambda asked, content=content: (
            (200, content) if asked.endswith(path) else None
        )
        follower = Follower(fake)
        with pytest.raises(LiveError):
            follower.look()
        follower.live.close()
    fake.answer = None
    follower = Follower(fake)
    assert messages(follower.look())
    follower.live.close()


def test_hostile_names_lead_nowhere(fake: Mattermost, follower: Follower) -> None:
    fake.post("bob", "hello", files={"../../../evil": b"x", "": b"y"})
    fake.post(
        "bob",
        "more",
        metadata_files=[{"id": "../../evil", "name": "x", "create_at": 1}],
    )
    ((first, *_),) = [
        each.files for each in messages(follower.look()).values() if each.files
    ]
    assert ".." not in first.id.split("/")


def test_events_that_are_none_end_the_connection(
    fake: Mattermost, follower: Follower
) -> None:
    for event in (
        ["no object"],
        {"event": "reaction_added", "data": {"reaction": json.dumps([1])}},
    ):
        eventually(lambda: fake.sockets, SECONDS)
        fake.sockets[0].send_text(event)  # type: ignore[arg-type]
        with pytest.raises(LiveError) as refusal:
            follower.look()
        assert not refusal.value.is_final
        follower.look()
