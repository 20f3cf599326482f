"""Follows the real server with the command, kills it meanwhile, and compares
our log with what was said."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import msgspec
from conftest import APP, PLUGIN, Site

from imserver.messenger.log.contract import Draft, Entry
from imserver.people.accounts import AccountStore
from imserver.plugin.testing import eventually

SECONDS = 120.0
ROOT = Path(__file__).parents[4]
ARRIVE = "from imserver_arrivals.command import arrive; arrive()"


class Followed:
    """A site of ours, and the command that follows a server as the account of a
    token."""

    def __init__(self, folder: Path, address: str, token: str) -> None:
        folder.mkdir()
        self.site = Site(folder)
        self._address = address
        self._token = folder / "token"
        self._token.write_text(token, encoding="utf-8")

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[str]"]:
        """The command; at the end it is killed, if it was not ended before."""
        command = [
            sys.executable,
            "-c",
            ARRIVE,
            "--config",
            str(self.site.config),
            "--app",
            APP,
        ]
        command += [
            "--from",
            "matrix",
            "--follow",
            self._address,
            "--token",
            str(self._token),
        ]
        command += ["--back", self._address]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGIN}"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert "following" in process.stdout.readline()
            position = self.site.folder / "data" / f"follow-matrix-{APP}.json"
            eventually(position.exists, SECONDS, "it has begun")
            yield process
        finally:
            process.kill()
            process.communicate(timeout=SECONDS)

    def has(self, id: str, is_so: Callable[[Entry], object] = lambda _: True) -> None:
        """Wait for a message of theirs."""
        eventually(
            lambda: id in (found := self.entries()) and is_so(found[id]),
            SECONDS,
            f"{id} here",
        )

    def entries(self) -> dict[str, Entry]:
        """Id of a message there → ours."""
        some = (
            each
            for each in self.site.entries()
            if each.client_msg_id.startswith("matrix.$")
        )
        return {
            each.client_msg_id.removeprefix("matrix."): each
            for each in some
            if each.kind == "message"
        }

    def say(self, beside: str, text: str) -> None:
        """A member of ours says something in the group of a message."""
        entry = self.entries()[beside]
        with self.site.log() as log:
            log.writer.append(
                APP,
                [
                    Draft(
                        sender=entry.sender,
                        conversation=entry.conversation,
                        body=text.encode(),
                    )
                ],
            )

    def read(self) -> dict[str, dict[str, Any]]:
        """What the log has, as said things are kept, but with the names of
        rooms and people."""
        entries = self.entries()
        ids = {each.id: id for id, each in entries.items()}
        with self.site.store() as store, self.site.log() as log:
            users = sorted({int(each.sender) for each in entries.values()})
            names = {
                each.user: each.nickname
                for each in AccountStore(store).by_ids(APP, users)
            }
            conversations = sorted({each.conversation for each in entries.values()})
            groups = {
                each.id: each.name
                for each in log.conversations.find(APP, conversations)
            }
        found = {}
        for id, entry in entries.items():
            about = ids.get(entry.about, "")
            content = msgspec.json.decode(entry.body) if entry.type != "text" else {}
            found[id] = {
                "room": groups[entry.conversation],
                "person": names[entry.sender],
                "text": "" if content else entry.body.decode(),
                "thread": about if entry.thread else "",
                "reply": "" if entry.thread else about,
                "edited": b'"edited":' in entry.meta,
                "reactions": {each.emoji: each.count for each in entry.reactions},
                "files": [content.get("bytes")] if content else [],
            }
        return found


def as_read(
    said: Any, people: dict[str, Any], names: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """What was said, as :meth:`Followed.read` has it. ``names``: id of a room →
    its name."""
    found = {}
    for id, each in said.messages.items():
        text = each["text"]
        for person in people:
            text = text.replace(f"\x02@{person}\x03", f"@{_nickname(person)}")
        emoji = Counter(
            key for (_, key), count in each["reactions"].items() for _ in range(count)
        )
        more = {
            "text": text,
            "room": names[each["room"]],
            "person": _nickname(each["person"]),
        }
        found[id] = {
            **each,
            **more,
            "reactions": dict(emoji),
            "files": [len(file) for file in each["files"]],
        }
    return found


def _nickname(person: str) -> str:
    return person[1:].partition(":")[0].title()


def follow(
    followed: Followed,
    people: dict[str, Any],
    rooms: dict[str, list[Any]],
    said: Any,
    talk: Any,
) -> int:
    """Let people talk in rooms while the server is followed, and while nobody
    follows. Returns how often what was said of ours is there."""
    dice = random.Random(11)
    first = next(iter(rooms))
    ann, bob = rooms[first][:2]
    for number in range(3):
        with followed.running():
            talk(dice, rooms, said, 30)
            # a kill here loses no end of a reaction
            for text in ("one", "two", "three"):
                sleep(dice.random())
                last = ann.say(first, text)
                said.add(last, first, ann, text)
            if not number:
                followed.has(last)
        talk(dice, rooms, said, 30)
    plain = [
        id
        for id, each in said.messages.items()
        if not (each["edited"] or each["reactions"] or each["files"])
    ]
    named = {
        each[kind] for each in said.messages.values() for kind in ("thread", "reply")
    }
    edited, liked, disliked, gone = [id for id in plain if id not in named][:4]
    with followed.running() as process:
        of = {id: said.messages[id]["room"] for id in plain}
        by = people[said.messages[edited]["person"]]
        relation = {"rel_type": "m.replace", "event_id": edited}
        new = {
            "m.new_content": {"msgtype": "m.text", "body": "changed"},
            "m.relates_to": relation,
        }
        by.say(of[edited], "* changed", **new)
        said.messages[edited] |= {"text": "changed", "edited": True}
        reactions = {}
        for id in (liked, disliked):
            relation = {"rel_type": "m.annotation", "event_id": id, "key": "👍"}
            reactions[id] = bob.send(of[id], "m.reaction", {"m.relates_to": relation})
            followed.has(id, lambda each: each.reactions)
        said.messages[liked]["reactions"][bob.id, "👍"] += 1
        bob.redact(of[disliked], reactions[disliked])
        followed.has(disliked, lambda each: not each.reactions)
        ann.redact(of[gone], gone)
        del said.messages[gone]
        said.deleted += 1
        eventually(
            lambda: gone not in followed.entries(), SECONDS, "a message is taken back"
        )
        followed.say(edited, "of ours")
        eventually(lambda: _ours(ann, of[edited]), SECONDS, "ours there")
        ann_last = ann.say(first, "last")
        said.add(ann_last, first, ann, "last")
        followed.has(ann_last)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    return _ours(ann, of[edited])


def _ours(client: Any, room: str) -> int:
    return sum("imserver" in event["content"] for event in client.events(room))
