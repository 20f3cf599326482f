"""Makes dumps of Rocket.Chat's database that have each field of the format, and
repeat from a seed."""

import gzip
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
from archives.slack import BEGIN as BEGIN
from archives.slack import PNG as PNG

WORDS = (
    "tea",
    "order",
    ":smile:",
    "[page](https://example.org/a)",
    "late",
    "*bold*",
    "~old~",
    "`~code~`",
    "@bob",
    "@all",
)
NAMES = ("ann", "bob", "carol", "dave")
EMOJI = (":thumbsup:", ":slight_smile:", ":wave_tone1:", ":party:")


def at(second: float) -> datetime:
    return datetime.fromtimestamp(BEGIN + second, UTC)


@dataclass
class Dump:
    """The collections of a database: documents, or bytes that are none.
    ``counts``: what they have."""

    collections: dict[str, list[dict[str, Any] | bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def put(self, collection: str, *documents: dict[str, Any] | bytes) -> None:
        self.collections.setdefault(collection, []).extend(documents)

    def write(self, folder: Path, is_packed: bool = False) -> Path:
        """As ``mongodump`` writes it, with ``--gzip`` or without."""
        inside = folder / "dump" / "rocketchat"
        inside.mkdir(parents=True)
        for name, documents in self.collections.items():
            content = b"".join(_raw(each) for each in documents)
            path = inside / f"{name}.bson{'.gz' if is_packed else ''}"
            path.write_bytes(gzip.compress(content) if is_packed else content)
            (inside / f"{name}.metadata.json").write_text("{}", encoding="utf-8")
        return folder

    def archive(self, path: Path, is_packed: bool = False, size: int = 100) -> Path:
        """As ``mongodump --archive`` writes it: collections are mixed, in
        pieces of ``size`` documents."""
        end = b"\xff\xff\xff\xff"
        parts = [b"\x6d\xe2\x99\x81"]
        parts.append(
            bson.encode(
                {"concurrent_collections": 4, "version": "0.1", "server_version": "6.0"}
            )
        )
        for name in self.collections:
            parts.append(
                bson.encode(
                    {
                        "db": "rocketchat",
                        "collection": name,
                        "metadata": "{}",
                        "size": 1,
                    }
                )
            )
        parts.append(end)
        most = max(map(len, self.collections.values()))
        for start in range(0, most, size):
            for name, documents in self.collections.items():
                if some := documents[start : start + size]:
                    parts.append(_header(name, False))
                    parts += [*map(_raw, some), end]
        parts += [_header(name, True) + end for name in self.collections]
        content = b"".join(parts)
        path.write_bytes(gzip.compress(content) if is_packed else content)
        return path


def _raw(document: dict[str, Any] | bytes) -> bytes:
    return document if isinstance(document, bytes) else bson.encode(document)


def _header(name: str, is_end: bool) -> bytes:
    return bson.encode(
        {
            "db": "rocketchat",
            "collection": name,
            "EOF": is_end,
            "CRC": bson.Int64(7 * is_end),
        }
    )


def make(seed: int, messages: int, users: int = 10, rooms: int = 4) -> Dump:
    """A database with ``users`` people, of whom the last three are a bot,
    deactivated and federated."""
    chance = random.Random(seed)
    dump = Dump()
    people = [_user(number) for number in range(users)]
    people[-3] |= {"type": "bot", "roles": ["bot"]}
    people[-2]["active"] = False
    people[-1] |= {
        "federated": True,
        "federation": {"origin": "example.org"},
        "username": "@eve:example.org",
    }
    dump.put("users", *people)
    members: dict[str, list[dict[str, Any]]] = {}
    for number in range(rooms):
        members[f"room{number}"] = people[: max(3, users - 3 - number)]
        dump.put("rocketchat_room", _room(number, people))
    for id, some in (
        ("direct", people[:2]),
        ("several", people[:3]),
        ("self", people[:1]),
    ):
        members[id] = some
        names = [each["username"] for each in some]
        room = {
            "_id": id,
            "t": "d",
            "uids": [each["_id"] for each in some],
            "usernames": names,
            "ts": at(-5),
        }
        dump.put("rocketchat_room", room | {"msgs": 1, "usersCount": len(some)})
    dump.put(
        "rocketchat_room",
        {
            "_id": "visit",
            "t": "l",
            "v": {"_id": "v1", "token": "x"},
            "ts": at(0),
            "open": True,
        },
    )
    ids = list(members)
    roots: dict[str, list[str]] = {}
    for number in range(messages):
        room = chance.choice(ids)
        sender = chance.choice(members[room])
        id = f"m{number:06}"
        text = f"{number} {' '.join(chance.choices(WORDS, k=chance.randint(1, 8)))}"
        row = _message(id, room, sender, number, text)
        if "@bob" in text:
            row["mentions"].append(
                {"_id": "user1", "username": "bob", "name": "Bob", "type": "user"}
            )
        if "@all" in text:
            row["mentions"].append({"_id": "all", "username": "all"})
        if roots.get(room) and chance.random() < 0.2:
            row |= {
                "tmid": chance.choice(roots[room][-10:]),
                "tshow": chance.random() < 0.2,
            }
            dump.counts["replies"] += 1
            dump.counts["shown"] += row["tshow"]
        elif chance.random() < 0.3:
            roots.setdefault(room, []).append(id)
            row |= {"tcount": 1, "tlm": at(number + 5), "replies": [sender["_id"]]}
        if chance.random() < 0.1:
            who = [
                each["username"]
                for each in chance.sample(members[room], min(2, len(members[room])))
            ]
            row["reactions"] = {chance.choice(EMOJI): {"usernames": who, "names": who}}
            dump.counts["reactions"] += len(who)
        if chance.random() < 0.05:
            row |= {"editedAt": at(number + 1), "editedBy": _short(sender)}
            dump.counts["edited"] += 1
        if chance.random() < 0.03:
            row |= {
                "pinned": True,
                "pinnedAt": at(number + 2),
                "pinnedBy": _short(people[1]),
            }
            dump.counts["pins"] += 1
        if chance.random() < 0.03:
            _add_file(dump, row, f"f{number}")
            dump.counts["files"] += 1
        dump.put("rocketchat_message", row)
        dump.counts["messages"] += 1
    for room, some in members.items():
        for number, person in enumerate(some):
            dump.put(
                "rocketchat_subscription", _subscription(room, person, number, messages)
            )
    _add_picture(
        dump, "rocketchat_avatars", {"_id": "avatar1", "name": "ann", "userId": "user0"}
    )
    _add_picture(
        dump,
        "rocketchat_avatars",
        {"_id": "avatar2", "name": "room-room1", "rid": "room1"},
    )
    dump.put(
        "rocketchat_custom_emoji",
        {"_id": "e1", "name": "party", "aliases": ["fete"], "extension": "png"},
    )
    file = bson.ObjectId(b"123456789012")
    dump.put(
        "custom_emoji.files",
        {"_id": file, "filename": "party.png", "length": len(PNG), "chunkSize": 261120},
    )
    dump.put(
        "custom_emoji.chunks",
        {"_id": bson.ObjectId(), "files_id": file, "n": 0, "data": PNG},
    )
    return dump


def _user(number: int) -> dict[str, Any]:
    name = NAMES[number] if number < len(NAMES) else f"user{number}"
    return {
        "_id": f"user{number}",
        "createdAt": at(-100),
        "roles": ["user"] if number else ["admin", "user"],
        "type": "user",
        "active": True,
        "username": name,
        "name": name.title(),
        "emails": [{"address": f"{name}@example.org", "verified": True}],
        "status": "online",
        "avatarETag": "x" if not number else None,
        "services": {"password": {"bcrypt": "secret"}},
        "_updatedAt": at(0),
    }


def _short(user: dict[str, Any]) -> dict[str, Any]:
    return {"_id": user["_id"], "username": user["username"], "name": user["name"]}


def _room(number: int, people: list[dict[str, Any]]) -> dict[str, Any]:
    room: dict[str, Any] = {
        "_id": f"room{number}",
        "t": "p" if number == 1 else "c",
        "name": f"room-{number}",
        "fname": f"Room {number}",
        "topic": f"About ~{number}~",
        "u": _short(people[1]),
        "ts": at(-3),
        "lm": at(99_999),
        "msgs": 1,
        "usersCount": len(people),
        "ro": False,
    }
    return room | (
        {"archived": True}
        if number == 2
        else {"prid": "room0", "name": "x7Hk"}
        if number == 3
        else {}
    )


def _subscription(
    room: str, person: dict[str, Any], number: int, messages: int
) -> dict[str, Any]:
    return {
        "_id": f"s-{room}-{number}",
        "rid": room,
        "u": _short(person),
        "t": "c",
        "open": True,
        "ts": at(-2),
        "ls": at(messages / 2),
        "alert": number == 1,
        "unread": int(number == 1),
        "roles": (["owner"], ["moderator"], ["leader"])[number] if number < 3 else None,
    }


def _message(
    id: str, room: str, sender: dict[str, Any], second: float, text: str
) -> dict[str, Any]:
    return {
        "_id": id,
        "rid": room,
        "msg": text,
        "ts": at(second + 0.25),
        "u": _short(sender),
        "mentions": [],
        "channels": [],
        "urls": [],
        "md": [{"type": "PARAGRAPH", "value": [{"type": "PLAIN_TEXT", "value": text}]}],
        "_updatedAt": at(second + 0.5),
    }


def _add_file(dump: Dump, row: dict[str, Any], id: str) -> None:
    """A picture of a message, and a small one of it, as version 3 and later
    have them."""
    _add_picture(
        dump,
        "rocketchat_uploads",
        {"_id": id, "name": f"{id}.png", "typeGroup": "image", "rid": row["rid"]},
    )
    dump.put(
        "rocketchat_uploads",
        {"_id": f"{id}t", "name": f"thumb-{id}.png", "typeGroup": "thumb"},
    )
    file = {
        "_id": id,
        "name": f"{id}.png",
        "type": "image/png",
        "size": len(PNG),
        "format": "png",
    }
    small = file | {"_id": f"{id}t", "name": f"thumb-{id}.png"}
    link = {"title": f"{id}.png", "title_link": f"/file-upload/{id}/{id}.png"}
    attachment = {
        "type": "file",
        "description": "see",
        "image_url": f"/file-upload/{id}t/{id}.png",
        "fileId": id,
    }
    row |= {"file": file, "files": [file, small], "attachments": [attachment | link]}


def _add_picture(dump: Dump, bucket: str, row: dict[str, Any]) -> None:
    store = f"GridFS:{'Uploads' if bucket.endswith('uploads') else 'Avatars'}"
    more = {
        "size": len(PNG),
        "type": "image/png",
        "store": store,
        "complete": True,
        "uploadedAt": at(1),
    }
    dump.put(bucket, row | more)
    for number, piece in ((1, PNG[40:]), (0, PNG[:40])):
        dump.put(
            f"{bucket}.chunks",
            {
                "_id": bson.ObjectId(),
                "files_id": row["_id"],
                "n": number,
                "data": piece,
            },
        )
