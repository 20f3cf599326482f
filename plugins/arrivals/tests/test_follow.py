"""The command ``arrive --follow`` in a process of its own, beside a server of
theirs and nodes of ours."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import APP, Site
from fake_mattermost import TOKEN, Mattermost, mattermost
from imserver_arrivals.command import arrive
from imserver_arrivals.follow import LIVE
from imserver_arrivals.formats import FOLLOWED

import imserver_client as im
from imserver.messenger.log.contract import Draft
from imserver.plugin.testing import eventually
from tests.docs.markdown import blocks
from tests.docs.play import exchanges, matches
from tests.integration import plug_ins
from tests.processes import running
from tests.support import ROOT
from tests.users import User

SECONDS = 120.0
KEY = "key-of-the-admin-0123456789"
CONFIG: dict[str, Any] = {
    "apps": {APP: {}},
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
}


@pytest.fixture
def fake() -> Iterator[Mattermost]:
    with mattermost() as server:
        yield server


class Command:
    """The command, which runs. ``output``: what it has said."""

    def __init__(self, process: "subprocess.Popen[bytes]", file: Path) -> None:
        self.process = process
        self._file = file

    @property
    def output(self) -> str:
        return self._file.read_text(encoding="utf-8")

    def says(self, text: str, seconds: float = SECONDS) -> None:
        """Wait until the command has said this."""
        eventually(
            lambda: text in self.output or self.process.poll() is not None,
            seconds,
            text,
        )
        assert text in self.output, self.output

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the command by a signal, and return its status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def following(
    fake: Mattermost,
    config: Path,
    installed: Mapping[str, str],
    *options: str,
    token: str = TOKEN,
) -> Iterator[Command]:
    """Follow a server until the end of ``with``, or of the command."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "imserver",
        "arrive",
        "--config",
        str(config),
        "--app",
        APP,
    ]
    command += [
        "--from",
        "mattermost",
        "--follow",
        fake.address,
        "--token",
        "-",
        *options,
    ]
    file = config.with_name(f"follow-{time.monotonic_ns()}.txt")
    with file.open("wb") as output:
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": output,
            "stderr": subprocess.STDOUT,
        }
        with running(command, env=dict(installed), **pipes) as process:
            process.stdin.write(token.encode())
            process.stdin.close()
            yield Command(process, file)


def back(fake: Mattermost) -> tuple[str, str]:
    return "--back", f"{fake.address}/hooks/one"


def texts(site: Site) -> Counter[str]:
    return Counter(
        each.body.decode() for each in site.entries() if each.kind == "message"
    )


def came(site: Site, text: str) -> bool:
    return text in texts(site)


def went(fake: Mattermost, text: str) -> bool:
    return any(each["text"] == text for each in fake.posted)


def say(site: Site, text: str, **more: Any) -> None:
    """Somebody writes here, in the group of the room if nothing else is
    said."""
    with site.log() as log:
        key = f"own.{text}"
        where = {"sender": "1", "conversation": 1, **more}
        draft = Draft(body=text.encode(), time_ms=int(time.time() * 1000), **where)
        log.import_past(APP, [key], lambda past: past.append(key, draft))


def entries_of(messenger: im.Messenger) -> Iterator[im.Entry]:
    """What comes to a client that is online."""
    while True:
        event = messenger.receive(SECONDS)
        assert event is not None, "nothing came"
        if isinstance(event, im.Entry):
            yield event


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_said_there_is_heard_here_at_once_and_answered(
    fake: Mattermost, tmp_path: Path, installed: dict[str, str], number: int
) -> None:
    with plug_ins.running(tmp_path, installed, number, CONFIG) as servers:
        first = servers[0]
        last = servers[-1]
        zoe = User.register(first, APP, key=KEY, nickname="Zoe")
        with following(fake, first.config_file, installed, *back(fake)) as command:
            (group,) = eventually(lambda: zoe.get("groups/open")["groups"], SECONDS)
            zoe.post("groups/join", group=group["group"])
            with im.Messenger(
                last.ws_url, APP, zoe.user, token=zoe.token, cursor=None
            ) as messenger:
                entries = entries_of(messenger)
                began = time.monotonic()
                post = fake.post("bob", "hello")
                entry = next(each for each in entries if each.text == "hello")
                print(f"heard after {time.monotonic() - began:.2f} s")
                fake.edit(post, "hello again")
                edit = next(entries)
                assert (edit.kind, edit.about, edit.text) == (
                    "edit",
                    entry.id,
                    "hello again",
                )
                fake.react(post, "ann", "tada")
                assert next(entries).text == "🎉"
                fake.delete(post)
                recall = next(entries)
                assert (recall.kind, recall.about) == ("recall", entry.id)
                messenger.send(conversation=entry.conversation, text="good morning")
                eventually(lambda: fake.posted, SECONDS)
                fake.post("ann", "the end")  # ours would come back before it
                assert next(entries).text == "the end"
            assert command.stop() == 0
            assert "1 sent" in command.output
    assert [(each["username"], each["text"]) for each in fake.posted] == [
        ("Zoe", "good morning")
    ]


def test_killed_anywhere_each_message_is_once_on_both_sides(
    fake: Mattermost, site: Site, tmp_path: Path, installed: dict[str, str]
) -> None:
    fake.post("bob", "before")
    site.run(fake.export(tmp_path / "export"))
    theirs = [f"theirs {number}" for number in range(12)]
    ours = [f"ours {number}" for number in range(6)]
    options = back(fake)
    with following(fake, site.config, installed, *options) as command:
        command.says("following")
        eventually(lambda: fake.sockets, SECONDS)
        say(site, ours[0])
        # While their server takes the message of ours, before it answers.
        fake.after_hook = command.process.kill
        command.process.wait(SECONDS)
        fake.after_hook = None
    for number in range(1, len(ours)):
        with following(fake, site.config, installed, *options) as command:
            eventually(
                lambda: fake.sockets or command.process.poll() is not None, SECONDS
            )
            for text in theirs[2 * number - 2 : 2 * number]:
                fake.post("ann", text)
            say(site, ours[number])
            # Half of them are killed when theirs has come, the others when ours
            # has gone.
            if number % 2:
                eventually(partial(came, site, theirs[2 * number - 2]), SECONDS)
            else:
                eventually(partial(went, fake, ours[number]), SECONDS)
            command.process.kill()
            command.process.wait(SECONDS)
    with following(fake, site.config, installed, *options) as command:
        for text in theirs[2 * len(ours) - 2 :]:
            fake.post("ann", text)
        eventually(lambda: came(site, theirs[-1]) and went(fake, ours[-1]), SECONDS)
        assert command.stop(signal.SIGINT) == 0
    assert Counter(each["text"] for each in fake.posted) == Counter(ours)
    assert texts(site) == Counter(["before", *theirs, *ours])
    assert "messages 0" in site.run(fake.export(tmp_path / "later"))
    assert texts(site) == Counter(["before", *theirs, *ours])


def test_an_outage_of_theirs_is_said_twice_and_loses_nothing(
    fake: Mattermost, url: str, tmp_path: Path, installed: dict[str, str]
) -> None:
    site = Site(tmp_path, url)
    fake.post("bob", "before")
    export = fake.export(tmp_path / "export")
    with following(fake, site.config, installed, *back(fake), str(export)) as command:
        command.says("following")
        eventually(lambda: fake.sockets, SECONDS)
        fake.stop()
        command.says("waiting: ")
        post = fake.post("bob", "while it was away", files={"a.txt": b"some"})
        fake.edit(post, "changed while it was away")
        say(site, "ours")
        fake.start()
        command.says("continuing")
        eventually(lambda: fake.posted, SECONDS)
        fake.add_user("carl")
        fake.join("carl")
        fake.post("carl", "I am new")
        eventually(partial(came, site, "I am new"), SECONDS)
        fake.add_channel("direct", ["ann", "follower"], "D")
        fake.post("ann", "psst", "direct")
        eventually(partial(came, site, "psst"), SECONDS)
        direct = next(each for each in site.entries() if each.body == b"psst")
        say(
            site,
            "for the two alone",
            sender=direct.sender,
            conversation=direct.conversation,
        )
        say(site, '{"name": "plan.pdf", "url": "/api/v1/uploads/x"}', type="file")
        eventually(lambda: len(fake.posted) > 1, SECONDS)
        assert command.stop() == 0
        assert (
            command.output.count("waiting: ") == command.output.count("continuing") == 1
        )
        assert "ended: 3 messages received, 2 sent" in command.output
    file, plan = (
        each
        for each in site.entries()
        if each.type == "file" and each.kind == "message"
    )
    assert json.loads(file.body)["caption"] == "changed while it was away"
    link = f"plan.pdf http://127.0.0.1:8080/home/messages#c/1/{plan.id}"
    assert [each["text"] for each in fake.posted] == ["ours", link]
    state = site.folder / "data" / f"follow-mattermost-{APP}.json"
    assert state.stat().st_mode & 0o077 == 0
    assert TOKEN not in state.read_text(encoding="utf-8")


def test_what_cannot_be_followed_ends_in_one_line(
    fake: Mattermost, site: Site, installed: dict[str, str]
) -> None:
    with following(fake, site.config, installed, token="wrong") as command:
        assert command.process.wait(SECONDS) == 1
        assert (
            command.output.splitlines()[-1]
            == "imserver: 127.0.0.1: the server does not accept the token"
        )
    with following(fake, site.config, installed) as first:
        first.says("following")
        with following(fake, site.config, installed) as second:
            assert second.process.wait(SECONDS) == 1
            assert "another process imports into this app or follows" in second.output
        first.process.kill()
    state = site.folder / "data" / f"follow-mattermost-{APP}.json"
    state.write_text('{"address": "https://elsewhere.example"}', encoding="utf-8")
    with following(fake, site.config, installed) as command:
        assert command.process.wait(SECONDS) == 1
        assert "this app follows https://elsewhere.example" in command.output
    for token in ("", "x\x00y"):
        with following(fake, site.config, installed, token=token) as command:
            assert command.process.wait(SECONDS) == 1
            assert "the token is empty, or is not printable ASCII" in command.output


def test_an_import_notes_its_end_for_each_format_that_can_be_followed() -> None:
    assert set(FOLLOWED) == set(LIVE)


def test_the_guide_does_what_it_says(
    fake: Mattermost, site: Site, tmp_path: Path, installed: dict[str, str]
) -> None:
    (session,) = blocks(ROOT / "docs" / "guides" / "from-mattermost.md", "console")
    ((command, wanted),) = exchanges(
        session.text.replace("https://chat.example.com", fake.address).replace(
            "KEY", "one"
        )
    )
    shutil.make_archive(str(tmp_path / "export"), "zip", fake.export(tmp_path / "made"))
    (tmp_path / "token.txt").write_text(f"{TOKEN}\n", encoding="utf-8")
    words = [
        sys.executable,
        "-u",
        "-m",
        *shlex.split(command),
        "--config",
        str(site.config),
    ]
    file = tmp_path / "output.txt"
    with (
        file.open("wb") as output,
        running(words, env=installed, cwd=tmp_path, stdout=output) as process,
    ):
        running_command = Command(process, file)
        running_command.says("Ctrl-C ends it")
        eventually(lambda: fake.sockets, SECONDS)
        assert running_command.stop(signal.SIGINT) == 0
    assert matches(running_command.output.strip(), wanted), running_command.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--follow", "https://chat.example"), "--follow needs --token"),
        (("--token", "-"), "--token and --back need --follow"),
        (
            ("--follow", "http://chat.example", "--token", "-", "--from", "mattermost"),
            "use https",
        ),
        (
            ("--follow", "https://chat.example", "--token", "-", "--from", "zulip"),
            "cannot be followed",
        ),
        ((), "Missing argument 'ARCHIVE'"),
    ],
)
def test_wrong_options_are_refused(
    site: Site, options: tuple[str, ...], text: str
) -> None:
    done = CliRunner().invoke(
        arrive, ["--config", str(site.config), "--app", APP, *options], input="token"
    )
    assert done.exit_code in (1, 2)
    assert text in done.output
