"""A workspace that runs, followed: what happens there as records."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import time

import pytest
from archives.slack import PNG
from conftest import APP as OURS
from conftest import Site
from fake_slack import ANN, APP, BOB, BOT, CAT, ROBOT, TEA, FakeSlack, user
from imserver_arrivals.formats import archive_of
from imserver_arrivals.live import LiveError
from imserver_arrivals.live_slack import LiveSlack
from imserver_arrivals.records import (
    Change,
    Group,
    Message,
    Person,
    Reaction,
    Record,
    Removal,
)

from imserver.messenger.log.contract import Draft, Entry
from imserver.plugin.testing import eventually

SECONDS = 300.0


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    with FakeSlack().running() as running:
        yield running


class Follower:
    """Follows a workspace as the command does. ``cursor``: that was saved."""

    def __init__(self, slack: FakeSlack, folder: Path, cursor: str = "") -> None:
        self._folders = (folder / str(number) for number in count())
        self._slack = slack
        self.cursor = cursor
        self.archive = folder
        self.live = self._begin()

    def _begin(self) -> LiveSlack:
        hooks = {TEA: f"{self._slack.address}/services/{TEA}"}
        return LiveSlack(f"{self._slack.address}/api", f"{APP}\n{BOT}\n", hooks)

    def round(self, seconds: float = 0.0, saves: bool = True) -> list[Record]:
        """What one round brings. ``saves``: it is stored."""
        self.archive = next(self._folders)
        self.archive.mkdir(parents=True)
        cursor = self.live.write(self.archive, self.cursor, seconds)
        self.cursor = cursor if saves else self.cursor
        if not any(self.archive.iterdir()):
            return []
        archive = archive_of(self.archive, "slack")
        records = list(archive.records())
        assert not archive.problems.broken
        self.counts = archive.problems.counts
        return records

    def rounds(self, enough: Callable[[list[Record]], object]) -> list[Record]:
        """What rounds bring until it is enough."""
        records: list[Record] = []
        for _ in range(30):
            records += self.round(1.0)
            if enough(records):
                return records
        raise AssertionError(records)

    def again(self) -> None:
        """The process was killed, and another one begins."""
        self.live.close()
        self.live = self._begin()


@pytest.fixture
def follower(slack: FakeSlack, tmp_path: Path) -> Iterator[Follower]:
    follower = Follower(slack, tmp_path / "rounds")
    assert follower.round() == []
    yield follower
    follower.live.close()


def messages(records: list[Record]) -> list[Message]:
    return [each for each in records if isinstance(each, Message)]


def texts(records: list[Record]) -> list[str]:
    return [each.text for each in messages(records)]


def test_what_is_said_comes_with_who_is_there(
    slack: FakeSlack, follower: Follower
) -> None:
    slack.say(f"tea, <@{BOB}>? &amp; <https://example.org|cake>")
    records = follower.rounds(messages)
    (message,) = messages(records)
    assert message.text == f"tea, \x02@{BOB}\x03? & cake (https://example.org)"
    assert {each.id for each in records if isinstance(each, Person)} == {
        ANN,
        BOB,
        CAT,
        ROBOT,
    }
    (group,) = [each for each in records if isinstance(each, Group)]
    assert (group.id, group.kind, group.name, group.description) == (
        TEA,
        "open",
        "tea",
        "All tea",
    )
    assert follower.round(0.0) == []
    slack.wait(lambda: not slack.envelopes)


def test_edits_deletions_and_reactions(slack: FakeSlack, follower: Follower) -> None:
    first = slack.say("first")
    second = slack.say("second", BOB)
    follower.rounds(lambda records: len(messages(records)) == 2)
    slack.edit(first, "better")
    slack.react(second, "tada")
    records = follower.rounds(lambda records: len(messages(records)) == 2)
    assert {
        each.id.partition(".")[2]: (each.text, each.is_edited)
        for each in messages(records)
    } == {
        first["ts"]: ("better", True),
        second["ts"]: ("second", False),
    }
    reaction = Reaction(BOB, "🎉", "tada")
    assert [each.reactions for each in messages(records) if each.text == "second"] == [
        [reaction]
    ]
    slack.react(second, "tada", ends=True)
    slack.delete(first)
    removals = [
        each
        for each in follower.rounds(lambda each: len(each) > 6)
        if isinstance(each, Removal)
    ]
    assert {(each.person, each.message, each.reaction) for each in removals} == {
        (BOB, f"{TEA}.{second['ts']}", reaction),
        (ANN, f"{TEA}.{first['ts']}", None),
    }


def test_threads_of_earlier_rounds(slack: FakeSlack, follower: Follower) -> None:
    root = slack.say("root")
    follower.rounds(messages)
    slack.say("reply", BOB, thread_ts=root["ts"])
    (reply,) = messages(follower.rounds(messages))
    assert reply.thread == f"{TEA}.{root['ts']}"
    slack.delete(root)
    records = follower.rounds(
        lambda records: any(isinstance(each, Removal) for each in records)
    )
    assert [each.message for each in records if isinstance(each, Removal)] == [
        f"{TEA}.{root['ts']}"
    ]
    assert texts(records) == []


def test_who_joins_and_leaves(slack: FakeSlack, follower: Follower) -> None:
    slack.say("before")
    follower.rounds(messages)
    dan = user("U0000DAN", "dan")
    slack.users[dan["id"]] = dan
    slack.tell({"type": "team_join", "user": dan})
    slack.move(dan["id"], "join")
    slack.move(CAT, "leave", is_withheld=True)
    records = follower.rounds(
        lambda records: len([each for each in records if isinstance(each, Change)]) > 2
    )
    assert {
        (each.kind, *each.people) for each in records if isinstance(each, Change)
    } == {
        ("join", dan["id"]),
        ("leave", CAT),
    }
    groups = [each for each in records if isinstance(each, Group)]
    assert {each.person for each in groups[-1].members} == {ANN, BOB, ROBOT, dan["id"]}
    assert Person(dan["id"], "Dan", "dan", "dan@example.org", dan["id"]) in records


def test_new_channels_and_names(slack: FakeSlack, follower: Follower) -> None:
    slack.make_channel("C000CAKE", "cake", [ANN])
    records = follower.rounds(
        lambda records: any(isinstance(each, Group) for each in records)
    )
    assert [each.name for each in records if isinstance(each, Group)] == ["cake"]
    assert ROBOT in slack.channels["C000CAKE"]["all"]  # it hears what is said there
    slack.say("which?", channel="C000CAKE")
    slack.channels["C000CAKE"]["name"] = "pie"
    slack.say(
        "renamed",
        channel="C000CAKE",
        subtype="channel_name",
        old_name="cake",
        name="pie",
    )
    records = follower.rounds(
        lambda records: any(isinstance(each, Change) and each.text for each in records)
    )
    assert "which?" in texts(records)
    assert [each.name for each in records if isinstance(each, Group)][-1] == "pie"


def test_files_come_from_slack_alone(slack: FakeSlack, follower: Follower) -> None:
    here = f"{slack.address}/files/F1/tea.png"
    files = [
        {"id": "F1", "name": "../../tea.png", "url_private": here, "size": 69},
        {
            "id": "F2",
            "name": "b.png",
            "url_private": "https://evil.example.org/files/b.png",
        },
        {"id": "F3", "name": "c.png", "url_private": f"{slack.address}/lost"},
        {"id": "../F4", "name": "d.png", "url_private": here},
        {"id": "F5", "name": "e.png", "url_private": "http://[broken"},
    ]
    slack.say("look", files=files)
    records = follower.rounds(messages)
    archive = archive_of(follower.archive, "slack")
    file = archive.open("F1")
    assert file is not None
    with file:
        assert file.read() == PNG
    assert [archive.open(id) for id in ("F2", "F3", "F4", "F5")] == [None] * 4
    assert [each.name for each in messages(records)[0].files][:2] == [
        "../../tea.png",
        "b.png",
    ]


def test_a_connection_that_ends_soon_is_followed_by_another(
    slack: FakeSlack, follower: Follower
) -> None:
    before = list(slack.calls)
    slack.send({"type": "disconnect", "reason": "warning", "debug_info": {}})
    follower.round(0.5)
    slack.wait(lambda: len(slack.sockets) == 2)
    slack.send({"type": "disconnect", "reason": "refresh_requested"}, socket=0)
    event = {
        "type": "message",
        "channel": TEA,
        "user": ANN,
        "text": "old way",
        "ts": slack.ts(),
    }
    payload = {"type": "event_callback", "event_id": "Ev999", "event": event}
    slack.send(
        {"envelope_id": "e999", "type": "events_api", "payload": payload}, socket=0
    )
    slack.say("new way")
    assert set(texts(follower.rounds(lambda records: len(messages(records)) == 2))) == {
        "old way",
        "new way",
    }
    slack.sockets[0].close()
    slack.say("after")
    assert texts(follower.rounds(messages)) == ["after"]
    # nothing was missed
    assert "conversations.history" not in slack.calls[len(before) :]


def test_what_was_missed_is_read_again(slack: FakeSlack, follower: Follower) -> None:
    follower.cursor = f"@{int((time() - 7200) * 1000)}"
    slack.page = 2
    old = slack.say("old", before=3600)
    follower.rounds(messages)
    follower.round()
    follower.live.close()
    slack.wait(lambda: not slack.sockets)
    for number in range(5):
        slack.say(f"missed {number}")
    slack.say("reply", BOB, thread_ts=old["ts"])
    slack.edit(old, "older")
    slack.envelopes.clear()
    follower.again()
    records = follower.rounds(lambda records: len(messages(records)) >= 7)
    assert sorted(texts(records)) == [
        *(f"missed {number}" for number in range(5)),
        "older",
        "reply",
    ]
    assert len(messages(follower.round())) == 0


def test_a_kill_between_any_two_steps_loses_nothing(
    slack: FakeSlack, follower: Follower
) -> None:
    seen: dict[str, str] = {}
    for number in range(4):
        row = slack.say(f"said {number}")
        if number % 2:
            slack.edit(row, f"edited {number}")
        follower.round(0.5, saves=False)  # written, and not stored
        follower.again()
        records = follower.round(0.0)  # stored, and not acknowledged
        follower.again()
        records += follower.round(0.0)
        slack.repeat()
        records += follower.round(0.5)
        seen |= {each.id: each.text for each in messages(records)}
    follower.round()
    assert list(seen.values()) == ["said 0", "edited 1", "said 2", "edited 3"]
    slack.wait(lambda: not slack.envelopes)


def test_an_event_that_comes_again_does_not_undo_a_later_one(
    slack: FakeSlack, follower: Follower
) -> None:
    row = slack.say("first")
    slack.edit(row, "second")
    kept = dict(slack.envelopes)
    follower.rounds(messages)
    slack.edit(row, "third")
    assert texts(follower.rounds(messages)) == ["third"]
    slack.envelopes.update(kept)
    slack.repeat()
    assert follower.round(0.5) == []


def test_an_export_says_the_same_as_what_came(
    slack: FakeSlack, follower: Follower, tmp_path: Path
) -> None:
    root = slack.say("root")
    slack.say("reply", BOB, thread_ts=root["ts"])
    slack.react(root, "tada")
    live = follower.rounds(lambda records: len(messages(records)) >= 2)
    exported = archive_of(slack.export(tmp_path / "export"), "slack").records()
    assert {each.id: each for each in messages(live)} == {
        each.id: each for each in messages(list(exported))
    }


def test_ours_go_there_once_and_not_back(
    slack: FakeSlack, follower: Follower, tmp_path: Path
) -> None:
    text = "hello <!channel> & ~~gone~~ https://example.org/?a=1&b=2"
    assert follower.live.post(TEA, "Dan *the* <man>", text, 7)
    assert not follower.live.post("C000ELSE", "Dan", "hello", 8)
    assert follower.live.post(TEA, "Dan", "&" * 5000, 9)
    short, long = slack.messages[TEA]
    assert [each["blocks"][0]["block_id"] for each in (short, long)] == [
        "imserver.7",
        "imserver.9",
    ]
    said = "hello &lt;!channel&gt; &amp; ~gone~ <https://example.org/?a=1&amp;b=2>"
    assert short["blocks"][0]["text"]["text"] == f"*Dan the &lt;man&gt;*\n{said}"
    parts = [each["text"]["text"] for each in long["blocks"]]
    assert "".join(parts) == f"*Dan*\n{'&amp;' * 5000}"
    assert all(len(each) <= 3000 and each.endswith((";", "*\n")) for each in parts)
    slack.edit(short, "x")
    slack.react(short, "tada")
    slack.say("theirs")
    assert texts(follower.rounds(messages)) == ["theirs"]
    assert follower.counts["message of ours (leaves no entry)"] >= 2
    follower.cursor = f"@{int((time() - 3600) * 1000)}"
    follower.again()
    assert texts(follower.rounds(messages)) == ["theirs"]
    assert not follower.live.post(TEA, "Dan", "after a kill", 9)


@pytest.mark.parametrize("tokens", ["", "xapp-1-app", "xoxb-2-bot", "xoxb-1 xoxb-2"])
def test_both_tokens_are_needed(slack: FakeSlack, tokens: str) -> None:
    with pytest.raises(LiveError, match="two tokens") as caught:
        LiveSlack(f"{slack.address}/api", tokens, {})
    assert caught.value.is_final


@pytest.mark.parametrize(
    ("method", "error", "is_final"),
    [
        ("apps.connections.open", "invalid_auth", True),
        ("users.list", "missing_scope", True),
        ("conversations.members", "token_revoked", True),
        ("conversations.members", "fetch_members_failed", False),
        ("conversations.history", "missing_scope", True),
        ("conversations.history", "internal_error", False),
    ],
)
def test_what_slack_refuses_is_one_line(
    slack: FakeSlack, tmp_path: Path, method: str, error: str, is_final: bool
) -> None:
    slack.say("said")
    slack.refused[method] = error
    follower = Follower(slack, tmp_path / "rounds", "@1000")
    with pytest.raises(LiveError, match=f"^Slack refuses {method}: {error}") as caught:
        follower.round()
    assert caught.value.is_final == is_final
    assert not any(secret in str(caught.value) for secret in (APP, BOT, "secret"))
    slack.refused.clear()
    assert texts(follower.rounds(messages)) == ["said"]
    follower.live.close()


def test_too_many_requests_wait(slack: FakeSlack, follower: Follower) -> None:
    slack.limited = {"conversations.members": 2}
    slack.say("said")
    assert texts(follower.rounds(messages)) == ["said"]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("users.list", b"[" * 100_000),
        ("users.list", b"<html>"),
        ("conversations.list", b"[]"),
        ("apps.connections.open", b'{"ok": true, "url": "ws://example.org/link"}'),
        (
            "apps.connections.open",
            b'{"ok": true, "url": "wss://127.0.0.1:1/link?ticket=secret"}',
        ),
        ("apps.connections.open", b'{"ok": true, "url": 7}'),
    ],
)
def test_strange_answers_are_one_line(
    slack: FakeSlack, tmp_path: Path, method: str, answer: bytes
) -> None:
    slack.raw[method] = answer
    follower = Follower(slack, tmp_path / "rounds")
    with pytest.raises(LiveError) as caught:
        follower.round()
    assert not any(each in str(caught.value) for each in ("\n", "secret"))
    follower.live.close()


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[" * 100_000,
        '{"type": "events_api", "payload": 7}',
        {"type": "disconnect", "reason": "link_disabled"},
        {"type": "disconnect", "reason": "too_many_websockets"},
        {
            "type": "events_api",
            "envelope_id": "e0",
            "payload": {"type": "app_rate_limited"},
        },
    ],
)
def test_a_connection_with_strange_messages_is_begun_again(
    slack: FakeSlack, follower: Follower, message: object
) -> None:
    slack.send(message)
    with pytest.raises(LiveError):
        follower.round(5.0)
    slack.say("missed?")
    assert texts(follower.rounds(messages)) == ["missed?"]


def test_strange_events_are_passed_over(slack: FakeSlack, follower: Follower) -> None:
    for event in (
        {},
        {"type": 7, "channel": 7},
        {"type": "message", "channel": "../../etc", "ts": "1.0"},
        {
            "type": "message",
            "channel": "C000LOST",
            "ts": "1.0",
            "user": ANN,
            "text": "where?",
        },
        {"type": "message", "channel": TEA, "ts": "x", "user": ANN, "text": "when?"},
        {
            "type": "message",
            "channel": TEA,
            "ts": slack.ts(),
            "user": {},
            "files": 7,
            "text": "who?",
        },
        {
            "type": "reaction_added",
            "user": ANN,
            "reaction": "x",
            "item": {"channel": TEA, "ts": "9.9"},
        },
        {"type": "team_join", "user": 7},
        {"type": "member_joined_channel", "user": 7, "channel": TEA},
    ):
        slack.tell(event)
    slack.say("good")
    records: list[Record] = []
    for _ in range(3):
        follower.archive = next(follower._folders)
        follower.archive.mkdir(parents=True)
        follower.cursor = follower.live.write(follower.archive, follower.cursor, 0.5)
        if any(follower.archive.iterdir()):
            records += archive_of(follower.archive, "slack").records()
    assert texts(records) == ["good"]


def test_without_the_scope_it_follows_where_it_was_invited(
    slack: FakeSlack, tmp_path: Path
) -> None:
    slack.make_channel("C000CAKE", "cake", [ANN], is_silent=True)
    slack.make_channel("C00CLOSED", "closed", [ANN], is_silent=True, is_private=True)
    slack.refused["conversations.join"] = "missing_scope"
    follower = Follower(slack, tmp_path / "rounds", "@1000")
    for id in (TEA, "C000CAKE", "C00CLOSED"):
        slack.say(f"in {id}", channel=id)
    assert texts(follower.rounds(messages)) == [f"in {TEA}"]
    assert slack.calls.count("conversations.join") == 1
    follower.live.close()


# --- the command --------------------------------------------------------------


@contextmanager
def following(
    slack: FakeSlack, site: Site, installed: dict[str, str], *archive: str
) -> Iterator["subprocess.Popen[str]"]:
    """The command, until it is ended."""
    token = site.folder / "token"
    token.write_text(f"{APP}\n{BOT}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "imserver",
        "arrive",
        "--config",
        str(site.config),
        "--app",
        OURS,
    ]
    command += [
        "--from",
        "slack",
        "--follow",
        f"{slack.address}/api",
        "--token",
        str(token),
    ]
    command += ["--back", f"{TEA}={slack.address}/services/{TEA}", *archive]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=installed, **pipes)  # type: ignore[call-overload]
    try:
        slack.wait(lambda: slack.sockets, SECONDS)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)
        slack.wait(lambda: not slack.sockets, SECONDS)


def test_the_command_stores_what_happens_and_posts_ours(
    slack: FakeSlack, site: Site, installed: dict[str, str], tmp_path: Path
) -> None:
    old = slack.say("old", before=60)
    export = str(slack.export(tmp_path / "export"))
    slack.say("since the export")

    def entry(kind: str, body: str, about: int = 0) -> Entry:
        def find() -> Entry | None:
            some = [
                each
                for each in site.entries()
                if each.kind == kind and about in (0, each.about)
            ]
            return next((each for each in some if body in each.body.decode()), None)

        return eventually(find, SECONDS, f"{kind} {body}")

    with following(slack, site, installed, export) as process:
        root = entry("message", "old")
        entry("message", "since the export")
        slack.say("reply", BOB, thread_ts=old["ts"])
        assert entry("message", "reply").thread == root.id
        row = slack.say("first")
        first = entry("message", "first")
        slack.edit(row, "second")
        entry("edit", "second", first.id)
        slack.react(row, "tada")
        entry("reaction", "🎉", first.id)
        slack.react(row, "tada", ends=True)
        eventually(lambda: not entry("message", "second").reactions, SECONDS)
        slack.delete(row)
        entry("recall", "", first.id)
        slack.move(CAT, "leave")
        entry("leave", "")
        draft = Draft(sender=root.sender, conversation=root.conversation, body=b"ours")
        with site.log() as log:
            log.writer.append(OURS, [draft])
        eventually(
            lambda: [
                each for each in slack.messages[TEA] if each["text"] == "Ann: ours"
            ],
            SECONDS,
        )
        slack.say("in between")
        entry("message", "in between")
        process.send_signal(signal.SIGKILL)
    slack.say("while it is away")
    with following(slack, site, installed) as process:
        entry("message", "while it is away")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
        assert (process.returncode, BOT in output, APP in output) == (0, False, False)
    said = [each.body.decode() for each in site.entries() if each.kind == "message"]
    site.run(slack.export(tmp_path / "later"))
    assert [
        each.body.decode() for each in site.entries() if each.kind == "message"
    ] == said
    assert said == [
        "old",
        "since the export",
        "reply",
        "ours",
        "in between",
        "while it is away",
    ]
    assert [each["text"] for each in slack.messages[TEA]].count("Ann: ours") == 1
