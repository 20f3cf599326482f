"""Makes exports of Matrix: rooms of a server as Synapse's ``export-data`` and
Element write them.

``make`` repeats from a seed. Ids of events are those of the adapter; Synapse
judges them (``tests/synapse``).
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from archives.slack import PNG
from imserver_arrivals.matrix_events import event_id

BEGIN_MS = 1_600_000_000_000
SERVER = "chat.example"
ANN = "@ann:chat.example"
BOB = "@bob:chat.example"
CAT = "@cat:chat.example"
FAR = "@dan:far.example"
EMOJI = ("👍", "🎉", "❤️", "👋🏽")
WORDS = (
    "tea",
    "order",
    "ship",
    "late",
    "fix",
    "on",
    "done",
    "ü",
    "茶",
    "<b>",
    "&amp;",
    "https://example.org/page",
)

Json = dict[str, Any]


@dataclass
class Room:
    """A room: its events, and their ids."""

    id: str
    version: str
    events: list[tuple[str, Json]] = field(default_factory=list)
    state: dict[tuple[str, str], tuple[str, Json]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The version; one that has a name is the newest."""
        return int(self.version) if self.version.isdecimal() else 99


@dataclass
class Server:
    """A server, which writes what Synapse writes."""

    version: str = "10"
    now_ms: int = BEGIN_MS
    rooms: list[Room] = field(default_factory=list)

    def room(
        self,
        creator: str,
        name: str = "",
        *members: str,
        public: bool = True,
        **create: Any,
    ) -> Room:
        """A room, as clients make one: its creator and the members are in
        it."""
        room = Room(f"!r{len(self.rooms)}:{SERVER}", self.version)
        self.rooms.append(room)
        self.send(
            room,
            creator,
            "m.room.create",
            {"room_version": self.version, **create},
            state_key="",
        )
        self.join(room, creator)
        self.send(
            room,
            creator,
            "m.room.power_levels",
            {"users": {creator: 100}},
            state_key="",
        )
        rule = "public" if public else "invite"
        self.send(room, creator, "m.room.join_rules", {"join_rule": rule}, state_key="")
        if name:
            self.send(room, creator, "m.room.name", {"name": name}, state_key="")
        for member in members:
            self.join(room, member)
        return room

    def send(
        self,
        room: Room,
        sender: str,
        type: str,
        content: Json,
        state_key: str | None = None,
        **more: Any,
    ) -> str:
        """Add an event, and return its id."""
        self.now_ms += 1000
        event: Json = {
            "auth_events": [],
            "prev_events": [room.events[-1][0]] if room.events else [],
            "type": type,
            "sender": sender,
            "room_id": room.id,
            "content": content,
            "depth": len(room.events) + 1,
            "origin_server_ts": self.now_ms,
            "hashes": {"sha256": "x"},
            "signatures": {SERVER: {"ed25519:a": "x"}},
            "unsigned": {"age_ts": self.now_ms},
            **more,
        }
        if state_key is not None:
            event["state_key"] = state_key
            if before := room.state.get((type, state_key)):
                event["unsigned"] |= {
                    "replaces_state": before[0],
                    "prev_content": before[1]["content"],
                }
        if room.version in ("1", "2"):
            event["event_id"] = f"${len(room.events)}{room.id[1:]}"
        id = event.get("event_id") or event_id(event, room.number)
        room.events.append((id, event))
        if state_key is not None:
            room.state[type, state_key] = id, event
        return id

    def say(self, room: Room, sender: str, body: str, **content: Any) -> str:
        return self.send(
            room,
            sender,
            "m.room.message",
            {"msgtype": "m.text", "body": body, **content},
        )

    def member(
        self, room: Room, sender: str, user: str, membership: str, **content: Any
    ) -> str:
        content = {"membership": membership, **content}
        return self.send(room, sender, "m.room.member", content, state_key=user)

    def join(self, room: Room, user: str, **content: Any) -> str:
        return self.member(
            room, user, user, "join", displayname=name_of(user), **content
        )

    def react(
        self, room: Room, sender: str, about: str, key: str, **content: Any
    ) -> str:
        relation = {"rel_type": "m.annotation", "event_id": about, "key": key}
        return self.send(
            room, sender, "m.reaction", {"m.relates_to": relation, **content}
        )

    def edit(
        self, room: Room, sender: str, about: str, body: str, **content: Any
    ) -> str:
        new = {"msgtype": "m.text", "body": body, **content}
        relation = {"rel_type": "m.replace", "event_id": about}
        return self.say(
            room,
            sender,
            f"* {body}",
            **{"m.new_content": new, "m.relates_to": relation},
        )

    def redact(self, room: Room, sender: str, about: str) -> str:
        """Redact an event: it loses its content, and its id stays."""
        next(event for id, event in reversed(room.events) if id == about)[
            "content"
        ] = {}
        place = (
            {"content": {"redacts": about}}
            if room.number > 10
            else {"content": {}, "redacts": about}
        )
        return self.send(
            room, sender, "m.room.redaction", place.pop("content"), **place
        )

    # --- what is written ------------------------------------------------------

    def export(self, folder: Path, user: str, *rooms: Room, **data: Any) -> Path:
        """What ``export-data`` writes of a user: the events of these rooms,
        else of all.

        ``data``: ``profile``, and the account data ``direct`` (m.direct) and
        ``read`` (room → id of event).
        """
        for room in rooms or self.rooms:
            write(
                folder / "rooms" / room.id / "events",
                (event for _, event in room.events),
            )
        profile = {
            "name": user,
            "displayname": name_of(user),
            "avatar_url": None,
            "deactivated": False,
        }
        email = {
            "medium": "email",
            "address": f"{user[1:4]}@example.org",
            "validated_at": 0,
            "added_at": 0,
        }
        more = {
            "threepids": [{"medium": "msisdn", "address": "1"}, email],
            "user_type": None,
        }
        user_data = folder / "user_data"
        write(user_data / "profile", [{**profile, **more, **data.get("profile", {})}])
        write(user_data / "devices", [{"device_id": "A"}])
        write(user_data / "connections", [{"ip": "127.0.0.1"}])
        direct = {"m.direct": data["direct"]} if "direct" in data else {}
        write(user_data / "account_data" / "global", [direct])
        for room_id, id in data.get("read", {}).items():
            write(
                user_data / "account_data" / room_id,
                [{"m.fully_read": {"event_id": id}}],
            )
        return folder


def write(path: Path, values: Iterable[object], separator: str = "") -> None:
    """Values of JSON one behind the other, as Synapse writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value) + separator)


def write_media(folder: Path, media: str, content: bytes = PNG) -> str:
    """A file of the server's ``media_store``. Returns its address."""
    path = folder / "local_content" / media[:2] / media[2:4] / media[4:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"mxc://{SERVER}/{media}"


def element_events(room: Room) -> list[Json]:
    """The events of a room as clients get them: with ids, without hashes."""
    kept = (
        "type",
        "sender",
        "content",
        "origin_server_ts",
        "state_key",
        "room_id",
        "unsigned",
    )
    return [
        {**{name: event[name] for name in kept if name in event}, "event_id": id}
        for id, event in room.events
    ]


def write_element(path: Path, name: str, events: list[Json], **files: bytes) -> Path:
    """What Element writes: one file, or a zip file if there are files.
    ``files``: name → bytes."""
    document = {
        "room_name": name,
        "room_creator": "Ann",
        "topic": "All of tea",
        "export_date": "2020/09/13",
        "exported_by": "Ann",
        "messages": events,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if path.suffix == ".json":
        path.write_text(text, encoding="utf-8")
        return path
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(f"{path.stem}/{file}", content)
        archive.writestr(f"{path.stem}/export.json", text)
    return path


def name_of(user: str) -> str:
    return user[1:].partition(":")[0].title()


def make(
    folder: Path, seed: int, count: int, people: int = 12, rooms: int = 7
) -> Counter[str]:
    """Exports of two users of a server with so many messages, and what an
    import of them should make.

    One message in twelve has a file, an edit, a redaction, a reply or a thread;
    one in four a reaction.
    """
    dice = random.Random(seed)
    server = Server()
    counts = Counter[str]()
    users = [ANN, BOB, *(f"@user{number}:{SERVER}" for number in range(2, people))]
    for number in range(rooms - 2):
        server.version = str(dice.choice((1, 3, 6, 9, 10, 11, 12)))
        members = [BOB, *dice.sample(users[2:], min(4, people - 2))]
        server.room(ANN, f"tea {number}", *members, public=number % 2 == 0)
    direct = server.room(ANN, "", BOB, public=False)
    several = server.room(ANN, "", BOB, *users[2:4], public=False)
    media = write_media(folder, "aabbcc")
    said = dict[str, list[str]]()
    for number in range(count):
        room = dice.choice(server.rooms)
        sender = dice.choice(
            [user for type, user in room.state if type == "m.room.member"]
        )
        text = " ".join([f"m{number}", *dice.choices(WORDS, k=dice.randint(2, 9))])
        kind = dice.randrange(12)
        about = dice.choice(said[room.id][-20:]) if said.get(room.id) else ""
        if kind == 0:
            id = server.say(
                room, sender, text, msgtype="m.image", filename="tea.png", url=media
            )
            counts["files"] += 1
        elif kind == 1 and about:
            id = server.say(
                room,
                sender,
                text,
                **{"m.relates_to": {"m.in_reply_to": {"event_id": about}}},
            )
            counts["replies"] += 1
        elif kind == 2:
            root = server.say(room, sender, f"root of {text}")
            counts["messages"] += 1
            relation = {
                "rel_type": "m.thread",
                "event_id": root,
                "is_falling_back": True,
            }
            id = server.say(room, sender, text, **{"m.relates_to": relation})
            counts["replies"] += 1
        else:
            id = server.say(room, sender, text)
        counts["messages"] += 1
        if kind == 3:
            server.edit(room, sender, id, f"{text} again")
            counts["edits"] += 1
        elif kind == 4:
            server.redact(room, sender, id)
            counts["messages"] -= 1
        elif kind > 8:
            server.react(room, sender, id, dice.choice(EMOJI))
            counts["reactions"] += 1
        if kind != 4:
            said.setdefault(room.id, []).append(id)
    server.export(
        folder / "ann",
        ANN,
        direct={BOB: [direct.id]},
        read={several.id: several.events[-1][0]},
    )
    server.export(folder / "bob", BOB, direct={ANN: [direct.id]})
    return counts
