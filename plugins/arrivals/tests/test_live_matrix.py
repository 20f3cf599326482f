"""What happens on a server of Matrix, as records of archives; and what is
posted there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from archives.matrix import ANN, BOB, CAT, FAR, PNG, Room
from fake_matrix import TOKEN, Matrix, running
from imserver_arrivals.formats import archive_of
from imserver_arrivals.live import LiveError
from imserver_arrivals.live_matrix import LiveMatrix
from imserver_arrivals.records import (
    Archive,
    Change,
    Group,
    Member,
    Message,
    Reaction,
    Record,
    Removal,
)


@pytest.fixture
def fake() -> Iterator[Matrix]:
    with running(Matrix()) as server:
        yield server


@pytest.fixture
def room(fake: Matrix) -> Room:
    return fake.room(ANN, "tea", BOB)


class Follower:
    """Keeps the cursor of what it follows."""

    def __init__(
        self, fake: Matrix, cursor: str = "", token: str = TOKEN, **back: str
    ) -> None:
        self.cursor, self.counts = cursor, dict[str, int]()
        self.live = LiveMatrix(fake.address, token, back)

    def round(self, stored: bool = True) -> list[Record]:
        """What a round brings. ``stored``: the next one gets the new cursor."""
        with TemporaryDirectory() as name:
            cursor = self.live.write(Path(name), self.cursor, 0.0)
            self.cursor = cursor if stored else self.cursor
            if not any(Path(name).iterdir()):
                return []
            archive = archive_of(Path(name), "matrix")
            records = list(archive.records())
            assert not archive.problems.broken
            self.counts = archive.problems.counts
            self.files = {
                file.id: bytes_of(archive, file.id)
                for each in records
                for file in (each.files if isinstance(each, Message) else ())
            }
            return records

    def news(self) -> list[Message | Removal]:
        return [each for each in self.round() if isinstance(each, Message | Removal)]


@pytest.fixture
def follower(fake: Matrix, room: Room) -> Iterator[Follower]:
    """Who has seen what was there before."""
    follower = Follower(fake)
    assert not follower.round()
    yield follower
    follower.live.close()


def bytes_of(archive: Archive, id: str) -> bytes | None:
    file = archive.open(id)
    if file is None:
        return None
    with file:
        return file.read()


def messages(records: list[Record]) -> dict[str, Message]:
    return {each.id: each for each in records if isinstance(each, Message)}


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
def test_what_is_said_has_the_ids_and_contents_of_an_export(
    version: str, tmp_path: Path
) -> None:
    with running(Matrix(version)) as fake:
        room = fake.room(ANN, "tea", BOB)
        follower = Follower(fake)
        follower.round()
        root = fake.say(room, ANN, "frist")
        fake.edit(room, ANN, root, "first")
        fake.say(
            room,
            BOB,
            "reply",
            **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}},
        )
        fake.react(room, BOB, root, "👍")
        fake.say(
            room, ANN, "tea.png", msgtype="m.image", url="mxc://chat.example/abcdefg"
        )
        fake.media["abcdefg"] = PNG
        came = messages(follower.round())
        there = messages(
            list(archive_of(fake.export(tmp_path, BOB), "matrix").records())
        )
        assert came == there
        assert follower.files == {"mxc://chat.example/abcdefg": PNG}
        follower.live.close()


@pytest.mark.parametrize("version", ["10", "11"])
def test_what_happens_to_messages_of_earlier_rounds(version: str) -> None:
    with running(Matrix(version)) as fake:
        room = fake.room(ANN, "tea", BOB)
        first = fake.say(room, ANN, "frist")
        second = fake.say(room, BOB, "second")
        follower = Follower(fake)
        follower.round()
        fake.edit(room, ANN, first, "first")
        (message,) = follower.news()
        assert isinstance(message, Message)
        assert (message.id, message.text, message.is_edited) == (first, "first", True)
        reaction = fake.react(room, ANN, second, "👍")
        (message,) = follower.news()
        assert (message.id, message.reactions) == (second, [Reaction(ANN, "👍")])  # type: ignore[union-attr]
        again = Follower(fake, follower.cursor)  # another process
        fake.redact(room, BOB, reaction)
        ended = again.news()
        fake.redact(room, ANN, second)
        (removal,) = again.news()
        assert ended == [
            Removal(room.id, ANN, fake.now_ms - 1000, second, Reaction(ANN, "👍"))
        ]
        assert removal == Removal(room.id, ANN, fake.now_ms, second)
        assert not again.counts


def test_a_pause_loses_nothing(fake: Matrix, room: Room, follower: Follower) -> None:
    said = [fake.say(room, ANN, str(number)) for number in range(250)]
    fake.join(room, CAT)
    fake.say(room, CAT, "last")
    records = follower.round()
    assert len(messages(records)) == 251
    assert {*said} < {*messages(records)}
    assert [
        each.person
        for each in records
        if isinstance(each, Change) and each.person == CAT
    ] == [CAT]
    (group,) = (each for each in records if isinstance(each, Group))
    assert {each.person for each in group.members} == {ANN, BOB, CAT}
    assert not follower.round()


def test_state_is_asked_for_once_and_then_followed(
    fake: Matrix, room: Room, follower: Follower
) -> None:
    fake.say(room, ANN, "first")
    follower.round()
    fake.send(room, ANN, "m.room.name", {"name": "more tea"}, state_key="")
    fake.member(room, ANN, CAT, "invite")
    records = follower.round()
    group = next(each for each in records if isinstance(each, Group))
    assert (group.name, group.members) == (
        "more tea",
        [Member(ANN, "owner"), Member(BOB)],
    )
    assert sum("/state?" in path for path in fake.asked) == 1


def test_rooms_that_the_account_joins_come_from_the_begin_on(
    fake: Matrix, follower: Follower
) -> None:
    late = fake.room(ANN, "late")
    said = [fake.say(late, ANN, "long before bob") for _ in range(300)]
    fake.member(late, ANN, BOB, "invite")
    assert not messages(follower.round())
    fake.now_ms += 10_000_000_000_000  # later than the clock of the test
    last = fake.say(late, ANN, "still before bob")
    fake.join(late, BOB)
    came = messages(follower.round())
    assert last in came
    assert said[0] not in came
    again = Follower(fake, "@0")
    assert {*messages(again.round())} == {*said, last}
    declined = fake.room(ANN, "declined")
    fake.member(declined, ANN, BOB, "invite")
    fake.member(declined, BOB, BOB, "leave")
    assert not again.round()


def test_what_was_not_stored_is_written_again(
    fake: Matrix, room: Room, follower: Follower
) -> None:
    fake.media["abcdefg"] = PNG
    id = fake.say(
        room, ANN, "tea.png", msgtype="m.image", url="mxc://chat.example/abcdefg"
    )
    first = follower.round(stored=False)
    assert follower.round() == first
    assert follower.files == {"mxc://chat.example/abcdefg": PNG}
    reaction = fake.react(room, BOB, id, "👍")
    follower.round()
    fake.redact(room, BOB, reaction)
    assert follower.round(stored=False) == follower.round()
    assert not follower.round()


def test_a_file_that_cannot_be_had_stays_out(
    fake: Matrix, room: Room, follower: Follower
) -> None:
    for id in ("missing", "thumbnail"):
        info = {"thumbnail_url": f"mxc://chat.example/{id}"}
        fake.say(
            room, ANN, id, msgtype="m.image", url=f"mxc://chat.example/{id}x", info=info
        )
    fake.say(room, ANN, "far", msgtype="m.image", url="mxc://far.example/abcdefg")
    fake.answers["thumbnailx"] = 500
    for _ in range(2):  # perhaps it is there later
        with pytest.raises(LiveError):
            follower.round()
    assert len(messages(follower.round())) == 3
    assert {*follower.files.values()} == {None}
    assert not [
        path for path in fake.asked if "far.example" in path or "thumbnail?" in path
    ]


def test_direct_rooms_and_people_of_other_servers(
    fake: Matrix, follower: Follower
) -> None:
    direct = fake.room(ANN, "", BOB, public=False)
    fake.direct = {ANN: [direct.id]}
    fake.say(direct, ANN, "psst")
    far = fake.room(ANN, "far", BOB, FAR)
    fake.say(far, FAR, "hi")
    records = follower.round()
    assert {each.id: each.kind for each in records if isinstance(each, Group)}[
        direct.id
    ] == "direct"
    assert {each.id: each.why for each in records if hasattr(each, "why")}[
        FAR
    ] == "of another server"  # type: ignore[union-attr]


def test_ours_is_posted_once_and_passed_over(
    fake: Matrix, room: Room, tmp_path: Path
) -> None:
    follower = Follower(fake, **{room.id: fake.address})
    follower.round()
    for _ in range(2):
        assert follower.live.post(room.id, "Zoe", "*bold* `x<y`\n@room", 77)
    assert not follower.live.post("!other:chat.example", "Zoe", "text", 78)
    (content,) = (
        event["content"]
        for _, event in room.events
        if event["type"] == "m.room.message"
    )
    assert content == {
        "msgtype": "m.text",
        "body": "Zoe: *bold* `x<y`\n@room",
        "imserver": 77,
        "m.mentions": {},
        "format": "org.matrix.custom.html",
        "formatted_body": "<strong>Zoe</strong>: <strong>bold</strong> <code>x&lt;y</code><br>@room",
    }
    assert not messages(follower.round())
    assert follower.counts == {"message of ours": 1}
    assert not messages(
        list(archive_of(fake.export(tmp_path, BOB), "matrix").records())
    )
    with pytest.raises(LiveError, match="only to the followed"):
        LiveMatrix(fake.address, TOKEN, {"": "https://other.example"})


def test_a_token_that_does_not_count_is_final(fake: Matrix, room: Room) -> None:
    with pytest.raises(LiveError) as refusal:
        Follower(fake, token="other").round()
    assert refusal.value.is_final
    assert "other" not in str(refusal.value)


@pytest.mark.parametrize(
    "answer",
    [b"", b"5", b"[]", b"{}", b"[" * 100_000, b'{"next_batch": 5}', b'{"end": "x"}'],
)
@pytest.mark.parametrize(
    "path", ["whoami", "sync", "joined_rooms", "messages", "state", "event"]
)
def test_strange_answers_are_one_line(
    fake: Matrix, room: Room, path: str, answer: bytes
) -> None:
    fake.edit(room, ANN, "$other", "text")
    fake.answers[path] = answer
    follower = Follower(fake, "@0")
    said = list[str]()
    for _ in range(2):
        with TemporaryDirectory() as name, catching(said):
            follower.cursor = follower.live.write(Path(name), follower.cursor, 0.0)
            if any(Path(name).iterdir()):
                list(archive_of(Path(name), "matrix").records())
    assert not any("\n" in each for each in said)


@contextmanager
def catching(said: list[str]) -> Iterator[None]:
    try:
        yield
    except LiveError as error:
        said.append(str(error))


def test_strange_events_are_passed_over(
    fake: Matrix, room: Room, follower: Follower
) -> None:
    for content in (
        {"m.relates_to": 5},
        {"m.relates_to": {"event_id": [], "rel_type": {}}, "msgtype": []},
        {"redacts": 7},
    ):
        for type in (
            "m.reaction",
            "m.room.message",
            "m.room.redaction",
            "m.room.member",
        ):
            fake.send(
                room,
                ANN,
                type,
                content,
                state_key=CAT if type == "m.room.member" else None,
            )
    fake.answers["/event/"] = (
        b'{"event_id": "../../x", "content": "mxc://chat.example/../../x"}'
    )
    fake.edit(room, ANN, "../../x", "text")
    id = fake.say(room, ANN, "good")
    with TemporaryDirectory() as name:
        follower.live.write(Path(name), follower.cursor, 0.0)
        assert id in messages(list(archive_of(Path(name), "matrix").records()))
