"""Makes exports of Slack: workspaces that repeat from a seed."""

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

BEGIN = 1_600_000_000
"""The first second, in September 2020."""
WORDS = (
    "tea",
    "order",
    ":smile:",
    "ship",
    "<https://example.org|page>",
    "&amp;",
    "late",
    "*bold*",
    "~old~",
    "fix",
    "`code`",
    "the",
    "on",
    "done",
)
EMOJI = ("+1", "tada", "heart", "wave::skin-tone-3", "party_parrot")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "18dd8db00000000049454e44ae426082"
)


@dataclass
class Workspace:
    """An export."""

    files: dict[str, Any] = field(default_factory=dict)

    def write_zip(self, path: Path) -> Path:
        with ZipFile(path, "w", ZIP_DEFLATED) as archive:
            for name, rows in self.files.items():
                archive.writestr(name, json.dumps(rows))
        return path

    def write_folder(self, folder: Path) -> Path:
        for name, rows in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rows), encoding="utf-8")
        return folder


def ts(second: int, number: int = 0) -> str:
    return f"{second}.{number:06}"


def day_of(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")


def people(count: int) -> list[dict[str, Any]]:
    """Users: ``ann`` and ``bob`` first, the last one deactivated, the one
    before it a bot."""
    rows = []
    for number in range(count):
        name = ("ann", "bob")[number] if number < 2 else f"user{number}"
        profile = {
            "real_name": name.title(),
            "display_name": name.title(),
            "email": f"{name}@example.org",
        }
        rows.append(
            {
                "id": f"U{number:08}",
                "name": name,
                "deleted": False,
                "is_bot": False,
                "profile": profile,
            }
        )
    rows[-1]["deleted"], rows[-2]["is_bot"] = True, True
    return rows


def make(
    seed: int, messages: int, users: int = 12, channels: int = 8, days: int = 20
) -> Workspace:
    chance = random.Random(seed)
    made = Workspace()
    rows = people(users)
    ids = [row["id"] for row in rows]
    persons = ids[:-2]
    made.files["users.json"] = rows
    lists: dict[str, list[dict[str, Any]]] = {
        "channels": [],
        "groups": [],
        "mpims": [],
        "dms": [],
    }
    conversations = []
    for number in range(channels):
        kind = ("channels", "channels", "groups", "mpims", "dms")[number % 5]
        members = persons
        if kind == "mpims":
            members = chance.sample(persons, min(len(persons), 4))
        elif kind == "dms":
            members = [persons[0], persons[1 + (number // 5) % (len(persons) - 1)]]
        id = {"channels": "C", "groups": "G", "mpims": "G", "dms": "D"}[
            kind
        ] + f"{number:08}"
        row = {"id": id, "created": BEGIN, "members": members}
        folder = id
        if kind != "dms":
            folder = f"mpdm-{number}" if kind == "mpims" else f"room-{number}"
            row["name"] = folder
            about = {"purpose": {"value": f"About {number} &amp; more"}}
            row |= {"creator": members[0], "is_archived": False, **about}
        lists[kind].append(row)
        conversations.append((kind, id, folder, members))
    for name, some in lists.items():
        made.files[f"{name}.json"] = some
    parents: dict[str, list[str]] = {}
    step = days * 86400 / max(messages, 1)
    for number in range(messages):
        kind, id, folder, members = chance.choice(conversations)
        second = BEGIN + 60 + number * step
        moment = f"{int(second)}.{number % 1_000_000:06}"
        senders = members if kind in ("dms", "mpims") else ids
        text = f"{number} {' '.join(chance.choices(WORDS, k=chance.randint(1, 14)))}"
        if chance.random() < 0.05:
            text += f" <@{chance.choice(persons)}>"
        user = chance.choice(senders)
        message: dict[str, Any] = {
            "type": "message",
            "user": user,
            "text": text,
            "ts": moment,
        }
        own = parents.setdefault(id, [])
        if own and chance.random() < 0.2:
            message["thread_ts"] = chance.choice(own[-20:])
        elif chance.random() < 0.3:
            own.append(moment)
        if chance.random() < 0.1:
            given = []
            message["reactions"] = given
            for name in chance.sample(EMOJI, chance.randint(1, 2)):
                who = chance.sample(persons, chance.randint(1, 3))
                given.append({"name": name, "users": who, "count": len(who)})
        if chance.random() < 0.03:
            message["edited"] = {"user": message["user"], "ts": moment}
        if chance.random() < 0.02:
            message["files"] = [
                {
                    "id": f"F{number:08}",
                    "name": f"{number}.png",
                    "mimetype": "image/png",
                }
            ]
        made.files.setdefault(f"{folder}/{day_of(second)}.json", []).append(message)
    return made
