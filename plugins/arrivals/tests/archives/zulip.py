"""Makes exports of Zulip that have each field of the format, and repeat from a
seed."""

import json
import random
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archives.slack import BEGIN as BEGIN
from archives.slack import PNG as PNG

REALM = 2
WORDS = (
    "tea",
    "order",
    ":smile:",
    "[page](https://example.org/a)",
    "late",
    "**bold**",
    "*thin*",
    "~~old~~",
    "`code`",
)
NAMES = ("Ann", "Bob", "Carol", "Dave")


@dataclass
class Export:
    """An export in a folder, and what it has."""

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)

    def put(self, name: str, value: Any) -> None:
        """Write a file: bytes as they are, else JSON as Zulip writes it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            value if isinstance(value, bytes) else json.dumps(value, indent=2).encode()
        )

    def get(self, name: str) -> Any:
        return json.loads((self.folder / name).read_bytes())

    def pack(self, path: Path) -> Path:
        """All of it as a ``.tar.gz`` file, as Zulip packs it: below the name of
        the folder."""
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            tar.add(self.folder, self.folder.name)
        return path


def make(
    folder: Path,
    seed: int,
    messages: int,
    users: int = 12,
    channels: int = 4,
    topics: int = 10,
) -> Export:
    """An export with ``users`` people; the last three: a bot, deactivated, and
    without consent."""
    chance = random.Random(seed)
    export = Export(folder)
    people = [_user(10 + number, number) for number in range(users)]
    people[-3] |= {"is_bot": True, "bot_type": 1, "full_name": "Builds"}
    people[-2]["is_active"] = False
    people[-1] |= {"is_active": False, "is_mirror_dummy": True}
    streams = [_stream(1 + number, number, people) for number in range(channels)]
    recipients = [
        {"id": 100 + each["id"], "type": 1, "type_id": each["id"]} for each in people
    ]
    recipients += [
        {"id": 200 + each["id"], "type": 2, "type_id": each["id"]} for each in streams
    ]
    recipients += [
        {"id": 301, "type": 3, "type_id": 1},
        {"id": 302, "type": 3, "type_id": 2},
    ]
    members = {each["id"]: people[: max(3, users - 3 - each["id"])] for each in streams}
    subscriptions = [
        (person, 200 + each["id"]) for each in streams for person in members[each["id"]]
    ]
    subscriptions += [(person, 100 + person["id"]) for person in people]
    subscriptions += [(person, 301) for person in people[:3]] + [
        (person, 302) for person in people[:2]
    ]
    bots = [{"id": 5, "email": "notification-bot@zulip.com", "recipient_id": 105}]
    realm: dict[str, Any] = {
        "zerver_realm": [
            {
                "id": REALM,
                "string_id": "shop",
                "name": "Shop",
                "date_created": BEGIN - 9.5,
            }
        ],
        "zerver_userprofile": people[:-1],
        "zerver_userprofile_mirrordummy": people[-1:],
        "zerver_userprofile_crossrealm": bots,
        "zerver_stream": streams,
        "zerver_recipient": recipients,
        "zerver_huddle": [
            {"id": 1, "huddle_hash": "a" * 40, "recipient": 301, "group_size": 3}
        ],
        "zerver_subscription": [
            {
                "id": number,
                "user_profile": person["id"],
                "recipient": recipient,
                "active": True,
                "is_muted": False,
            }
            for number, (person, recipient) in enumerate(subscriptions, 1)
        ],
        "zerver_realmemoji": [_emoji(1, "party", False), _emoji(2, "gone", True)],
        "zerver_usertopic": [
            {
                "id": 1,
                "user_profile": 10,
                "stream": 1,
                "topic_name": "topic 1",
                "visibility_policy": 1,
            }
        ],
        "zerver_submessage": [
            {
                "id": 1,
                "message": 1000,
                "sender": 10,
                "msg_type": "widget",
                "content": "{}",
            }
        ],
        "zerver_useractivity": [
            {"id": 1, "user_profile": 10, "count": 3, "query": "get_events"}
        ],
    }
    realm["zerver_subscription"][0]["active"] = False  # who has left
    reactions: list[dict[str, Any]] = []
    attachments: list[dict[str, Any]] = []
    last = {(200 + each["id"]): each for each in streams}
    for start in range(0, messages, 1000):
        rows = []
        flags = []
        for number in range(start, min(start + 1000, messages)):
            id = 1000 + number
            time = BEGIN + number + 0.25
            recipient = chance.choice([*last, *last, 301, 302, 110, 111])
            readers = {
                301: people[:3],
                302: people[:2],
                110: people[:1],
                111: people[1:2],
            }.get(recipient)
            if readers is None:
                readers = members[recipient - 200]
            sender = chance.choice(people[:2] if recipient in (110, 111) else readers)
            row = _message(
                id,
                time,
                sender["id"],
                recipient,
                f"{number} {' '.join(chance.choices(WORDS, k=4))}",
            )
            if recipient in last:
                row["subject"] = (
                    f"topic {chance.randrange(topics)}" if number % 50 else ""
                )
                export.counts["in topics"] += bool(row["subject"])
            if chance.random() < 0.05:
                row |= {
                    "last_edit_time": time + 9,
                    "edit_history": json.dumps([_edit(row, time)]),
                }
                export.counts["edited"] += 1
            if chance.random() < 0.02:
                way = f"{REALM}/ab/{number}/p {number}.png"
                row["content"] += f" [p.png](/user_uploads/{way.replace(' ', '%20')})"
                row |= {"has_attachment": True, "has_image": True, "has_link": True}
                attachments.append(_attachment(len(attachments) + 1, way, row))
                export.put(f"uploads/{way}", PNG)
                export.counts["files"] += 1
            if chance.random() < 0.1:
                kind, code, name = chance.choice(_CODES)
                reactions += [
                    {
                        "id": len(reactions) + at,
                        "user_profile": person["id"],
                        "emoji_name": name,
                        "reaction_type": kind,
                        "emoji_code": code,
                        "message": id,
                    }
                    for at, person in enumerate(
                        chance.sample(readers, min(2, len(readers))), 1
                    )
                ]
            rows.append(row)
            for person in readers:
                mask = 1 if person["id"] != 11 or number < messages // 2 else 0
                flags.append(
                    {
                        "id": id * 100 + person["id"],
                        "user_profile": person["id"],
                        "message": id,
                    }
                )
                flags[-1]["flags_mask"] = mask
        export.counts["messages"] += len(rows)
        name = f"messages-{start // 1000 + 1:06}.json"
        export.put(name, {"zerver_message": rows, "zerver_usermessage": flags})
    export.counts["reactions"] = len(reactions)
    export.put(
        "realm.json", realm | {"zerver_reaction": reactions, "import_source": "zulip"}
    )
    export.put("attachment.json", {"zerver_attachment": attachments})
    export.put(
        "uploads/records.json",
        [{"path": each["path_id"], "s3_path": each["path_id"]} for each in attachments],
    )
    avatars = [
        f"{REALM}/{'e' * 40}{end}" for end in (".png", ".original", "-medium.png")
    ]
    export.put(
        "avatars/records.json",
        [{"path": way, "user_profile_id": 10, "realm_id": REALM} for way in avatars],
    )
    for way in avatars:
        export.put(f"avatars/{way}", PNG)
    export.put("emoji/records.json", [_record("party", 1), _record("gone", 2)])
    export.put(f"emoji/{REALM}/emoji/images/1.png", PNG)
    export.put(f"emoji/{REALM}/emoji/images/2.png", PNG)
    export.put(
        "migration_status.json",
        {"migrations_by_app": {"zerver": ["0001_initial"]}, "zulip_version": "9.0"},
    )
    return export


_CODES = (
    ("unicode_emoji", "1f44d", "+1"),
    ("unicode_emoji", "1f468-200d-1f33e", "man_farmer"),
    ("realm_emoji", "1", "party"),
    ("zulip_extra_emoji", "zulip", "zulip"),
)


def _user(id: int, number: int) -> dict[str, Any]:
    name = NAMES[number] if number < len(NAMES) else f"User {number}"
    email = f"{name.lower().replace(' ', '')}@example.org"
    return {
        "id": id,
        "realm": REALM,
        "full_name": name,
        "email": f"user{id}@shop.example.org",
        "delivery_email": email,
        "recipient": 100 + id,
        "date_joined": BEGIN - 5.5,
        "role": 100 if not number else 400,
        "is_active": True,
        "is_bot": False,
        "bot_type": None,
        "is_mirror_dummy": False,
        "avatar_source": "U" if not number else "G",
        "long_term_idle": False,
    }


def _stream(id: int, number: int, people: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": id,
        "realm": REALM,
        "name": f"room {number}",
        "description": f"About **{number}**",
        "rendered_description": f"<p>About <strong>{number}</strong></p>",
        "creator": people[1]["id"] if number else None,
        "date_created": BEGIN - 3.5,
        "recipient": 200 + id,
        "invite_only": number == 1,
        "history_public_to_subscribers": number != 1,
        "is_web_public": False,
        "deactivated": number == 2,
        "stream_post_policy": 1,
        "message_retention_days": None,
        "first_message_id": None,
    }


def _message(
    id: int, time: float, sender: int, recipient: int, content: str
) -> dict[str, Any]:
    return {
        "id": id,
        "sender": sender,
        "recipient": recipient,
        "realm": REALM,
        "subject": "",
        "content": content,
        "rendered_content": None,
        "rendered_content_version": None,
        "date_sent": time,
        "sending_client": 1,
        "last_edit_time": None,
        "edit_history": None,
        "has_attachment": False,
        "has_image": False,
        "has_link": False,
    }


def _edit(row: dict[str, Any], time: float) -> dict[str, Any]:
    return {
        "user_id": row["sender"],
        "timestamp": int(time) + 9,
        "prev_content": "before",
        "content_html_diff": "",
    }


def _attachment(id: int, way: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id,
        "file_name": way.rpartition("/")[2],
        "path_id": way,
        "owner": row["sender"],
        "realm": REALM,
        "create_time": row["date_sent"],
        "size": len(PNG),
        "is_realm_public": True,
        "messages": [row["id"]],
        "scheduled_messages": [],
    }


def _emoji(id: int, name: str, deactivated: bool) -> dict[str, Any]:
    return {
        "id": id,
        "realm": REALM,
        "name": name,
        "file_name": f"{id}.png",
        "is_animated": False,
        "deactivated": deactivated,
        "author": 10,
    }


def _record(name: str, id: int) -> dict[str, Any]:
    way = f"{REALM}/emoji/images/{id}.png"
    return {
        "realm_id": REALM,
        "author": 10,
        "path": way,
        "s3_path": way,
        "file_name": f"{id}.png",
        "name": name,
    }
