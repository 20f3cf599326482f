"""Lets people talk at a real Synapse, follows it meanwhile, and compares what
comes of it and of its exports.

Started by ``run.sh``. The exports are those of ``export-data`` of two users,
and each room once more as Element writes it, from the events that the client
API gives.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[3]), str(HERE.parents[1]), str(HERE.parent)]

from archives.matrix import write_element  # noqa: E402
from archives.slack import PNG  # noqa: E402
from imserver_arrivals.matrix import Matrix  # noqa: E402
from imserver_arrivals.records import Change, Group, Message, Person  # noqa: E402
from live import Followed, as_read, follow  # noqa: E402

SERVER = "chat.example"
MESSAGES = 240
CONFIG = """
server_name: "{server}"
pid_file: {work}/pid
listeners:
  - {{port: {port}, type: http, bind_addresses: [127.0.0.1], resources: [{{names: [client, media]}}]}}
database: {{name: sqlite3, args: {{database: "{work}/homeserver.db"}}}}
log_config: "{work}/log.yaml"
media_store_path: "{work}/media_store"
signing_key_path: "{work}/signing.key"
report_stats: false
trusted_key_servers: []
macaroon_secret_key: judge
form_secret: judge
enable_registration: true
enable_registration_without_verification: true
rc_message: {fast}
rc_registration: {fast}
rc_room_creation: {fast}
rc_joins: {{local: {fast}}}
rc_invites: {{per_room: {fast}, per_user: {fast}, per_issuer: {fast}}}
rc_media_create: {fast}
"""
LOG = """
version: 1
disable_existing_loggers: false
formatters: {plain: {format: '%(name)s %(message)s'}}
handlers: {console: {class: logging.StreamHandler, formatter: plain}}
root: {level: INFO, handlers: [console]}
"""


def quoted(id: str) -> str:
    return quote(id, safe="")


class Client:
    """Somebody at the server."""

    sent = 0
    medium = ""
    """The address of a picture."""

    def __init__(self, port: int, name: str) -> None:
        self._base = f"http://127.0.0.1:{port}/_matrix"
        self.token = ""
        about = {
            "username": name,
            "password": f"{name} likes tea",
            "auth": {"type": "m.login.dummy"},
        }
        made = self.call("POST", "client/v3/register", about)
        self.id, self.token = made["user_id"], made["access_token"]
        self.call(
            "PUT",
            f"client/v3/profile/{quoted(self.id)}/displayname",
            {"displayname": name.title()},
        )

    def call(
        self, method: str, path: str, body: Any = None, type: str = "application/json"
    ) -> Any:
        data = (
            body
            if isinstance(body, bytes) or body is None
            else json.dumps(body).encode()
        )
        headers = {"Content-Type": type}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = Request(f"{self._base}/{path}", data, headers, method=method)
        with urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def of(self, room: str, path: str, body: Any, method: str = "POST") -> Any:
        return self.call(method, f"client/v3/rooms/{quoted(room)}/{path}", body)

    def send(self, room: str, type: str, content: dict[str, Any]) -> str:
        Client.sent += 1
        id: str = self.of(room, f"send/{type}/t{Client.sent}", content, "PUT")[
            "event_id"
        ]
        return id

    def say(self, room: str, body: str, **content: Any) -> str:
        return self.send(
            room, "m.room.message", {"msgtype": "m.text", "body": body, **content}
        )

    def state(self, room: str, type: str, content: dict[str, Any]) -> str:
        id: str = self.of(room, f"state/{type}/", content, "PUT")["event_id"]
        return id

    def redact(self, room: str, id: str) -> None:
        Client.sent += 1
        self.of(room, f"redact/{quoted(id)}/t{Client.sent}", {"reason": "x"}, "PUT")

    def room(self, **options: Any) -> str:
        id: str = self.call("POST", "client/v3/createRoom", options)["room_id"]
        return id

    def events(self, room: str) -> list[Any]:
        """The events of a room as clients get them, oldest first."""
        path = f"client/v3/rooms/{quoted(room)}/messages?dir=f&limit=500"
        events = []
        begin = ""
        while True:
            page = self.call("GET", path + begin)
            events += page["chunk"]
            if not page.get("end") or not page["chunk"]:
                return events
            begin = f"&from={quoted(page['end'])}"


class Said:
    """What has been said: by the ids of the messages, as the adapter should
    read it."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.deleted = self.encrypted = 0

    def add(self, id: str, room: str, by: Client, text: str, **more: Any) -> None:
        empty = {
            "thread": "",
            "reply": "",
            "edited": False,
            "reactions": Counter(),
            "files": [],
        }
        self.messages[id] = {
            "room": room,
            "person": by.id,
            "text": text,
            **empty,
            **more,
        }

    def of(self, rooms: set[str]) -> dict[str, dict[str, Any]]:
        return {
            id: message
            for id, message in self.messages.items()
            if message["room"] in rooms
        }


def talk(
    dice: random.Random, rooms: dict[str, list[Client]], said: Said, count: int
) -> None:
    """Let people say, answer, edit, react and delete, in rooms of all
    versions."""
    names = list(rooms)
    for number in range(count):
        room = names[number % len(names)]
        by = dice.choice(rooms[room])
        other = dice.choice(rooms[room])
        text = f"m{number} tea ü茶\u2028<b>&amp;"
        kind = number // len(names) % 10
        before = [
            id for id, message in said.messages.items() if message["room"] == room
        ]
        about = dice.choice(before) if before else ""
        if kind == 0:
            html = f'<a href="https://matrix.to/#/{other.id}">x</a> <b>bold</b>'
            id = by.say(
                room, text, format="org.matrix.custom.html", formatted_body=html
            )
            said.add(id, room, by, f"\x02@{other.id}\x03 *bold*")
        elif kind == 1 and about:
            relation = {"m.in_reply_to": {"event_id": about}}
            id = by.say(room, f"> <x> y\n\n{text}", **{"m.relates_to": relation})
            said.add(id, room, by, text, reply=about)
        elif kind == 2 and about and not said.messages[about]["thread"]:
            relation = {
                "rel_type": "m.thread",
                "event_id": about,
                "is_falling_back": True,
            }
            id = by.say(
                room,
                text,
                **{"m.relates_to": {**relation, "m.in_reply_to": {"event_id": about}}},
            )
            said.add(id, room, by, text, thread=about)
        elif kind == 3:
            id = by.say(
                room,
                "tea.png",
                msgtype="m.image",
                url=Client.medium,
                info={"mimetype": "image/png"},
            )
            said.add(id, room, by, "", files=[PNG])
        elif kind == 4:
            by.send(
                room,
                "m.room.encrypted",
                {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"},
            )
            said.encrypted += 1
            continue
        elif kind == 5:
            by.redact(room, by.say(room, "deleted"))
            said.deleted += 1
            continue
        else:
            id = by.say(room, text)
            said.add(id, room, by, text)
        message = said.messages[id]
        if kind in (1, 6):
            new = {"msgtype": "m.text", "body": f"new {text}"}
            for body in ("older", new["body"]):
                content = {
                    "m.new_content": {**new, "body": body},
                    "m.relates_to": {"rel_type": "m.replace", "event_id": id},
                }
                by.say(room, f"* {body}", **content)
            message["text"] = new["body"]
            message["edited"] = True
        if kind in (0, 3, 7):
            for person in {by, other}:
                relation = {"rel_type": "m.annotation", "event_id": id, "key": "👍"}
                person.send(room, "m.reaction", {"m.relates_to": relation})
                message["reactions"][person.id, "👍"] += 1
            relation = {"rel_type": "m.annotation", "event_id": id, "key": "🎉"}
            by.redact(room, by.send(room, "m.reaction", {"m.relates_to": relation}))


def differences(
    wanted: dict[str, dict[str, Any]], archive: Matrix, messages: list[Message]
) -> Iterator[str]:
    """What the adapter reads otherwise than it was said."""
    found = {}
    for message in messages:
        if message.id in found:
            yield f"{message.id}: twice"
        files = []
        for each in message.files:
            file = archive.open(each.id)
            if file is not None:
                with file:
                    files.append(file.read())
        found[message.id] = {
            "room": message.group,
            "person": message.person,
            "text": message.text,
            "thread": message.thread,
            "reply": message.reply,
            "edited": message.is_edited,
            "reactions": Counter(
                (each.person, each.emoji) for each in message.reactions
            ),
            "files": files,
        }
    for id in wanted.keys() | found.keys():
        if wanted.get(id) != found.get(id):
            yield f"{id}: said {wanted.get(id)}, read {found.get(id)}"


@contextmanager
def running(work: Path, environment: dict[str, str], config: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "synapse.app.homeserver", "-c", str(config)]
    with (work / "synapse.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=log
        )
        assert process.stderr is not None
        rest = Thread(target=shutil.copyfileobj, args=(process.stderr, log))
        try:
            for line in process.stderr:
                log.write(line)
                if b"now listening on" in line:
                    break
            else:
                raise SystemExit(f"Synapse does not start: {work}/synapse.log")
            rest.start()  # else its pipe fills
            yield
        finally:
            process.terminate()
            process.wait(60)
            if rest.ident:
                rest.join()


def main(top: Path) -> int:
    work = top / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fast = "{per_second: 10000, burst_count: 10000}"
    config = work / "config.yaml"
    config.write_text(
        CONFIG.format(server=SERVER, work=work, port=port, fast=fast), encoding="utf-8"
    )
    (work / "log.yaml").write_text(LOG, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(top / "env")}
    keys = [
        sys.executable,
        "-m",
        "synapse.app.homeserver",
        "-c",
        str(config),
        "--generate-keys",
    ]
    subprocess.run(keys, env=environment, check=True, capture_output=True)
    wrong: list[str] = []
    checks = 0

    def check(name: str, wanted: object, found: object) -> None:
        nonlocal checks
        checks += 1
        if wanted != found:
            wrong.append(f"{name}: wanted {wanted}, read {found}")

    with running(work, environment, config):
        ann, bob, cat, dan = people = [
            Client(port, name) for name in ("ann", "bob", "cat", "dan")
        ]
        medium = ann.call("POST", "media/v3/upload?filename=tea.png", PNG, "image/png")[
            "content_uri"
        ]
        Client.medium = medium
        ann.call(
            "PUT",
            f"client/v3/profile/{quoted(ann.id)}/avatar_url",
            {"avatar_url": medium},
        )
        versions = ann.call("GET", "client/v3/capabilities")["capabilities"][
            "m.room_versions"
        ]["available"]
        stable = sorted(
            (each for each, state in versions.items() if state == "stable"), key=int
        )
        rooms: dict[str, list[Client]] = {}
        names: dict[str, str] = {}
        for version in stable:
            public = int(version) % 2 == 0
            options = {
                "room_version": version,
                "name": "old name",
                "topic": f"All of {version}",
            }
            preset = "public_chat" if public else "private_chat"
            room = ann.room(preset=preset, invite=[bob.id, cat.id], **options)
            for each in (bob, cat):
                each.of(room, "join", {})
            ann.state(room, "m.room.name", {"name": (name := f"tea {version}")})
            rooms[room] = [ann, bob, cat]
            names[room] = name
        direct = ann.room(
            preset="trusted_private_chat", is_direct=True, invite=[bob.id]
        )
        bob.of(direct, "join", {})
        for each, other in ((ann, bob), (bob, ann)):
            path = f"client/v3/user/{quoted(each.id)}/account_data/m.direct"
            each.call("PUT", path, {other.id: [direct]})
        several = ann.room(preset="private_chat", invite=[bob.id, dan.id])
        for each in (bob, dan):
            each.of(several, "join", {})
        rooms |= {direct: [ann, bob], several: [ann, bob, dan]}
        said = Said()
        talk(random.Random(7), rooms, said, MESSAGES)
        space = ann.room(name="space", creation_content={"type": "m.space"})
        first = next(iter(rooms))
        powers = ann.call(
            "GET", f"client/v3/rooms/{quoted(first)}/state/m.room.power_levels/"
        )
        ann.state(
            first,
            "m.room.power_levels",
            {**powers, "users": {**powers["users"], bob.id: 50}},
        )
        pinned, read = [
            id for id, message in said.messages.items() if message["room"] == first
        ][-2:]
        bob.state(first, "m.room.pinned_events", {"pinned": [pinned]})
        bob.of(first, "read_markers", {"m.fully_read": read, "m.read": read})
        bob.of(first, "kick", {"user_id": cat.id})
        # Bob sees neither what was before he came, nor what cat writes after he
        # has gone.
        late = cat.room(preset="public_chat", name="late", topic="of cat")
        cat.of(
            late,
            "state/m.room.history_visibility/",
            {"history_visibility": "joined"},
            "PUT",
        )
        cat.say(late, "before bob")
        bob.of(late, "join", {})
        said.add(cat.say(late, "with bob"), late, cat, "with bob")
        bob.of(late, "leave", {})
        cat.say(late, "after bob")
        upgraded = list(rooms)[2]
        successor = ann.of(upgraded, "upgrade", {"new_version": stable[-1]})[
            "replacement_room"
        ]
        said.add(ann.say(successor, "goes on"), successor, ann, "goes on")
        never = cat.room(preset="private_chat", name="never entered", invite=[bob.id])
        # Synapse 1.163 cannot export a user with an open invitation
        bob.of(never, "leave", {})
        live: dict[str, list[Client]] = {}
        for name, preset in (
            ("live tea", "public_chat"),
            ("live plan", "private_chat"),
        ):
            room = ann.room(preset=preset, name=name, invite=[bob.id, dan.id])
            for each in (bob, dan):
                each.of(room, "join", {})
            live[room] = [ann, bob]
            names[room] = name
        followed = Followed(work / "site", f"http://127.0.0.1:{port}", dan.token)
        said_live = Said()
        clients = {each.id: each for each in people}
        check("ours there", 1, follow(followed, clients, live, said_live, talk))
        element = top / "element"
        shutil.rmtree(element, ignore_errors=True)
        element.mkdir()
        for number, room in enumerate(rooms):
            write_element(
                element / f"{number}.json", names.get(room, ""), ann.events(room)
            )
    archive_folder = top / "archive"
    shutil.rmtree(archive_folder, ignore_errors=True)
    shutil.copytree(
        work / "media_store" / "local_content", archive_folder / "local_content"
    )
    for each in (ann, bob):
        command = [
            sys.executable,
            "-m",
            "synapse.app.admin_cmd",
            "-c",
            str(config),
            "export-data",
            each.id,
        ]
        command += ["--output-directory", str(archive_folder / each.id[1:4])]
        with (work / "export.log").open("wb") as log:
            subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
    heard = as_read(said_live, clients, names)
    came = followed.read()
    checks += len(heard)
    wrong += (
        f"{id}: said {heard.get(id)}, followed {came.get(id)}"
        for id in heard.keys() | came.keys()
        if heard.get(id) != came.get(id)
    )
    later = work / "later"
    for each in (ann, bob):
        folder = archive_folder / each.id[1:4]
        shutil.copytree(folder / "user_data", later / each.id[1:4] / "user_data")
        for room in live:
            shutil.copytree(
                folder / "rooms" / room, later / each.id[1:4] / "rooms" / room
            )
    output = followed.site.run(later, status=int(said_live.encrypted > 0))
    check(
        "nothing twice",
        True,
        "new: accounts 0, groups 0, messages 0, reactions 0" in output,
    )
    check("nothing changes", came, followed.read())
    said.messages |= said_live.messages
    said.deleted += said_live.deleted
    said.encrypted += said_live.encrypted
    archive = Matrix(archive_folder)
    records = [*archive.records()]
    messages = [each for each in records if isinstance(each, Message)]
    checks += len(said.messages)
    wrong += differences(said.messages, archive, messages)
    persons = {each.id: each for each in records if isinstance(each, Person)}
    groups = {each.id: each for each in records if isinstance(each, Group)}
    check(
        "people",
        {each.id: each.id[1:4].title() for each in people},
        {id: each.nickname for id, each in persons.items()},
    )
    check("avatar", medium, persons[ann.id].avatar)
    check("rooms", {*rooms, *live, late, successor}, {*groups})
    for number, version in enumerate(stable):
        room = list(rooms)[number]
        group = groups[room]
        kind = "open" if int(version) % 2 == 0 else "closed"
        check("kind", kind if room != upgraded else group.kind, group.kind)
        check(
            "name",
            (f"tea {version}", f"All of {version}"),
            (group.name, group.description),
        )
        check("archived", room == upgraded, group.is_archived)
        members = {each.person: each.role for each in group.members}
        wanted = {ann.id: "owner", bob.id: "member", cat.id: "member"}
        if room == first:
            wanted = {ann.id: "owner", bob.id: "admin"}
        check("members", wanted, members)
        events = [
            each for each in records if isinstance(each, Change) and each.group == room
        ]
        kinds = Counter(each.kind for each in events)
        check(
            "changes",
            {"join": 3, "name": 1} | ({"leave": 1} if room == first else {}),
            dict(kinds),
        )
    check(
        "direct",
        ("direct", {ann.id, bob.id}),
        (groups[direct].kind, {each.person for each in groups[direct].members}),
    )
    check("several", "several", groups[several].kind)
    check("late", ("late", "of cat"), (groups[late].name, groups[late].description))
    check("successor", names[upgraded], groups[successor].name)
    check(
        "pin",
        [(pinned, bob.id)],
        [(each.message, each.person) for each in groups[first].pins],
    )
    times = {message.id: message.time_ms for message in messages}
    check(
        "read",
        times[read],
        next(each.read_ms for each in groups[first].members if each.person == bob.id),
    )
    notes = archive.problems.counts
    check("deleted", said.deleted, notes["deleted message"])
    check("encrypted", said.encrypted, notes["encrypted message"])
    check("ours", 1, notes["message of ours"])
    rest = {
        "deleted message",
        "encrypted message",
        "message of ours",
        "space (its rooms come)",
    }
    check("rest", rest, {*notes})
    of_element = Matrix(element)
    messages = [each for each in of_element.records() if isinstance(each, Message)]
    wanted_there = said.of(set(rooms))
    for message in wanted_there.values():
        message["files"] = []  # Element writes them beside, which needs Element
    checks += len(wanted_there)
    wrong += (
        f"as Element: {each}"
        for each in differences(wanted_there, of_element, messages)
    )
    check("space", False, space in groups)
    for each in wrong[:20]:
        print(each)
    print(f"{checks - len(wrong)} of {checks}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
