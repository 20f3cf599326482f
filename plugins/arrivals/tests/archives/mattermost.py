"""Makes bulk exports of Mattermost that repeat from a seed, with each field of
the format, of any size.

``python mattermost.py large.zip --posts 1000000 --people 5000 --channels 2000
--files 50000``
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import msgspec

BEGIN = 1_600_000_000_000
"""The first time, in September 2020."""
STEP = 40_000
"""Milliseconds from one post to the next."""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "18dd8db00000000049454e44ae426082"
)
WORDS = (
    "tea",
    "order",
    ":smile:",
    "ship",
    "[page](https://example.org/a_b)",
    "late",
    "**bold**",
    "*slanted*",
    "~~old~~",
    "fix",
    "`code`",
    "the",
    "on",
    "done",
    ":party_parrot:",
    "https://example.org/",
)
EMOJI = ("+1", "tada", "heart", "wave_dark_skin_tone", "party_parrot")
EVENTS = (
    ("system_join_channel", {}),
    ("system_leave_channel", {}),
    ("system_guest_join_channel", {}),
    ("system_add_to_channel", {"addedUsername": "bob", "addedUserId": "u1"}),
    (
        "system_remove_from_channel",
        {"removedUsername": "bob", "removedUserId": "u1"},
    ),
    ("system_header_change", {"new_header": "New header", "old_header": ""}),
    ("system_purpose_change", {"new_purpose": "New purpose", "old_purpose": ""}),
    (
        "system_displayname_change",
        {"new_displayname": "New name", "old_displayname": "Old"},
    ),
)
PASSED_OVER = ("system_join_team", "system_channel_deleted", "system_convert_channel")
encode = msgspec.json.Encoder().encode


def write(
    path: Path,
    seed: int = 1,
    posts: int = 400,
    people: int = 12,
    channels: int = 10,
    files: int = 20,
) -> Counter[str]:
    """Write an export, a zip file or (without ``.zip``) a folder, and return
    what is in it."""
    export = Export(seed, posts, people, channels, files)
    if path.suffix == ".zip":
        with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("import.jsonl", "w", force_zip64=True) as lines:
                export.write_lines(lines)
            for name, content in export.files():
                archive.writestr(f"data/{name}", content, ZIP_STORED)
    else:
        path.mkdir(parents=True)
        with (path / "import.jsonl").open("wb") as lines:
            export.write_lines(lines)
        for name, content in export.files():
            file = path / "data" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return export.counts


class Export:
    """An export of two teams, with ``ann`` and ``bob`` first."""

    def __init__(
        self, seed: int, posts: int, people: int, channels: int, files: int
    ) -> None:
        self._chance = random.Random(seed)
        self._posts = posts
        self._files = files
        self._users = ["ann", "bob", *(f"user.{number}" for number in range(2, people))]
        self._channels = [
            ("dev" if number % 3 else "ops", f"room-{number // 2}")
            for number in range(channels)
        ]
        self._channels = list(dict.fromkeys(self._channels))
        self._direct = [self._users[:2], self._users[:1] * 2, self._users[:4]]
        self._direct += [
            [self._users[0], user] for user in self._users[2 : max(2, channels // 10)]
        ]
        self._step = max(1, len(self._channels) // 40)
        """Each user is in one of so many channels, and each channel has one of
        so many users."""
        self._written = 0
        self._paths: list[str] = []
        self.counts: Counter[str] = Counter()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The files and their bytes."""
        for number, path in enumerate(self._paths):
            yield path, b"text %d\n" % number if path.endswith(".txt") else PNG

    def write_lines(self, file: IO[bytes]) -> None:
        """Write the lines, in the order of Mattermost."""
        lines: list[bytes] = []
        for line in self._lines():
            lines.append(encode(line))
            if len(lines) == 1000:
                file.write(b"\n".join(lines) + b"\n")
                lines.clear()
        file.write(b"\n".join(lines) + b"\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        info = {
            "generator": "mattermost-server",
            "version": "11.0.0",
            "created": "2026-01-02T03:04:05Z",
        }
        yield {"type": "version", "version": 1, "info": info}
        role = {
            "name": "custom",
            "display_name": "",
            "description": "",
            "permissions": [],
            "scheme_managed": False,
        }
        yield {"type": "role", "role": role}
        scheme = {"name": "s", "display_name": "S", "description": "", "scope": "team"}
        yield {"type": "scheme", "scheme": scheme | {"default_team_admin_role": role}}
        for name, is_open in (("dev", True), ("ops", False)):
            team = {
                "name": name,
                "display_name": name.title(),
                "type": "O" if is_open else "I",
            }
            about = {
                "description": f"Team {name}",
                "allow_open_invite": is_open,
                "scheme": None,
            }
            yield {"type": "team", "team": team | about}
        for number, (team_name, name) in enumerate(self._channels):
            row = {
                "team": team_name,
                "name": name,
                "display_name": name.replace("-", " ").title(),
            }
            row["type"] = "P" if number % 4 == 3 else "O"
            row |= {
                "header": f"Header **{number}**",
                "purpose": f"About {number}" if number % 2 else "",
            }
            yield {
                "type": "channel",
                "channel": row
                | {"scheme": None, "deleted_at": 5 if number == 5 else 0},
            }
        yield from self._user_lines()
        yield from self._post_lines(self._posts * 9 // 10)
        for number in range(2):
            path = f"emoji/e{number}/image"
            self._paths.append(path)
            yield {
                "type": "emoji",
                "emoji": {"name": ("party_parrot", "shipit")[number], "image": path},
            }
        for members in self._direct:
            yield {
                "type": "direct_channel",
                "direct_channel": self._direct_channel(members),
            }
        yield from self._direct_lines()
        self.counts["groups"] = len(self._channels) + len(self._direct)
        self.counts["emoji"] = 2

    def _user_lines(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self._users):
            roles = (
                "system_admin system_user"
                if not number
                else "system_guest"
                if number == 3
                else "system_user"
            )
            image = f"users/u{number}/profile.png" if number % 4 == 0 else None
            user = {
                "username": name,
                "email": f"{name}@example.org",
                "auth_service": None,
                "auth_data": None,
                "nickname": name.title() if number % 2 else "",
                "first_name": "First",
                "last_name": name,
                "position": "Cook",
                "roles": roles,
                "locale": "en",
                "theme": "{}",
                "tutorial_step": "999",
                "delete_at": 1 if number == 4 else 0,
                "military_time": "true",
                "formatting": "true",
                "link_previews": "true",
                "message_display": "clean",
                "email_interval": "immediately",
                "custom_status": {"emoji": "tea", "text": "tea"},
                "notify_props": {"desktop": "mention"},
                "teams": [self._team(name, number, team) for team in ("dev", "ops")],
            }
            if image is not None:
                self._paths.append(image)
                user["profile_image"] = image
            yield {"type": "user", "user": user}
        bot = {
            "username": "helper",
            "owner": "ann",
            "display_name": "Helper",
            "description": "",
            "delete_at": 0,
        }
        yield {"type": "bot", "bot": bot}
        self.counts["people"] = len(self._users) + 2  # the bot and a webhook

    def _team(self, name: str, number: int, team: str) -> dict[str, Any]:
        channels = []
        for index, (of_team, channel) in enumerate(self._channels):
            if of_team != team or (index + number) % self._step:
                continue
            roles = (
                "channel_user channel_admin" if number == index % 5 else "channel_user"
            )
            row = {
                "name": channel,
                "roles": roles,
                "favorite": number == 1,
                "mention_count": 0,
            }
            row |= {
                "msg_count": 5,
                "msg_count_root": 4,
                "last_viewed_at": BEGIN + number * STEP,
            }
            notify = {"desktop": "default", "mobile": "default", "mark_unread": "all"}
            channels.append(row | {"notify_props": notify})
            self.counts["memberships"] += 1
        return {"name": team, "roles": "team_user", "theme": "{}", "channels": channels}

    def _direct_channel(self, members: list[str]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [
            {"username": name, "notify_props": {}, "scheme_user": True}
            for name in members
        ]
        rows[0] |= {
            "last_viewed_at": BEGIN,
            "mention_count": 1,
            "msg_count": 2,
            "msg_count_root": 2,
        }
        self.counts["memberships"] += len(set(members))
        return {
            "participants": rows,
            "favorited_by": members[:1],
            "shown_by": members,
            "header": "Direct *header*",
        }

    def _post_lines(self, posts: int) -> Iterator[dict[str, Any]]:
        chance = self._chance
        channels = self._channels
        stride = _coprime(posts)
        number = 0
        while number < posts:
            index = chance.randrange(len(channels))
            (team, channel), members = (
                channels[index],
                self._users[-index % self._step :: self._step],
            )
            at = BEGIN + (number * stride % posts) * STEP
            post: dict[str, Any] = {
                "team": team,
                "channel": channel,
                **self._post(at, members),
            }
            number += 1
            if chance.random() < 0.02:
                kind, props = chance.choice(EVENTS)
                post |= {"type": kind, "props": props}
                self._uncount(post)
                self.counts["changes"] += 1
            elif chance.random() < 0.01:
                post["type"] = chance.choice(PASSED_OVER)
                self._uncount(post)
            elif chance.random() < 0.02:
                fields = [{"title": "Build", "value": 7, "short": True}]
                attachment = {
                    "fallback": "built",
                    "title": "Build",
                    "title_link": "https://example.org/7",
                }
                props = {
                    "from_webhook": "true",
                    "override_username": "builder",
                    "override_icon_url": "x",
                }
                post |= {
                    "props": props
                    | {
                        "attachments": [
                            attachment | {"fields": fields, "text": "*green*"}
                        ]
                    }
                }
            elif chance.random() < 0.2:
                count = min(chance.randint(1, 4), posts - number)
                post["replies"] = [
                    self._post(at + 1 + each, members) for each in range(count)
                ]
                post["thread_followers"] = [
                    {"user": "ann", "last_viewed": at, "unread_mentions": 0}
                ]
                self.counts["replies"] += count
                number += count
            yield {"type": "post", "post": post}

    def _direct_lines(self) -> Iterator[dict[str, Any]]:
        for number in range(self._posts - self._posts * 9 // 10):
            members = self._direct[number % len(self._direct)]
            post = self._post(BEGIN + number * 10 * STEP + 5, members)
            yield {
                "type": "direct_post",
                "direct_post": {"channel_members": members, **post},
            }

    def _post(self, at: int, users: list[str]) -> dict[str, Any]:
        chance = self._chance
        self._written = self._written + 1
        text = f"{self._written} {' '.join(chance.choices(WORDS, k=chance.randint(1, 14)))}"
        if chance.random() < 0.05:
            text += chance.choice(
                (" @bob", " @all", " ~room-1", " https://chat.example.org/dev/pl/a1")
            )
        post: dict[str, Any] = {
            "user": chance.choice(users),
            "type": "",
            "message": text,
            "props": {},
            "create_at": at,
            "edit_at": 0,
            "flagged_by": ["ann"],
            "replies": [],
            "reactions": [],
            "is_pinned": False,
        }
        self.counts["messages"] += 1
        if chance.random() < 0.1:
            once = list(dict.fromkeys(users))
            for user in chance.sample(once, min(len(once), chance.randint(1, 3))):
                given = {
                    "user": user,
                    "create_at": at + 5,
                    "emoji_name": chance.choice(EMOJI),
                }
                post["reactions"].append(given)
            self.counts["reactions"] += len(post["reactions"])
        if chance.random() < 0.03:
            post["edit_at"] = at + 1
            self.counts["edits"] += 1
        if chance.random() < 0.01:
            post["is_pinned"] = True
            self.counts["pins"] += 1
        if self._files and chance.random() < self._files / max(1, self._posts):
            path = f"20200913/teams/noteam/channels/c1/users/u1/f{self._written}/{self._written}."
            path += "txt" if self._written % 2 else "png"
            self._paths.append(path)
            post["attachments"] = [{"path": path}]
            self.counts["files"] += 1
        return post

    def _uncount(self, post: dict[str, Any]) -> None:
        """A post that is no message."""
        self.counts["messages"] -= 1
        self.counts["reactions"] -= len(post["reactions"])
        self.counts["edits"] -= bool(post["edit_at"])
        self.counts["pins"] -= post["is_pinned"]
        self.counts["files"] -= "attachments" in post
        post |= {"is_pinned": False, "reactions": []}


def _coprime(count: int) -> int:
    """A stride that reaches each of ``count`` numbers once."""
    stride = int(count * 0.618) | 1
    while count and any(
        not (count % each) and not (stride % each)
        for each in range(2, stride + 1)
        if each < 100
    ):
        stride += 2
    return stride


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    for name, count in (
        ("seed", 1),
        ("posts", 400),
        ("people", 12),
        ("channels", 10),
        ("files", 20),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = vars(parser.parse_args())
    print(dict(write(options.pop("path"), **options)))
