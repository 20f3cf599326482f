"""Entries with values of other types than theirs, made from the types of the SDK; and a script that lets a
page receive them, in place of what the server sends.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any, Final

from tests.support import ROOT

FIRST_ID: Final = 1_000_000
"""Ids of malformed entries begin here: the server has none that are as great."""

_TYPES: Final = (ROOT / "sdk" / "js" / "types" / "messenger.d.ts").read_text(encoding="utf-8")
_MEDIA: Final = (ROOT / "static" / "messages" / "media" / "file.js").read_text(encoding="utf-8")

KINDS: Final = (
    *("message",) * 8,
    *("edit", "recall", "reaction", "pin", "press", "group", "join", "leave"),
    *("", "constructor", "later"),
)
CONTENT_TYPES: Final = (
    "text",
    "picture",
    "video",
    "voice",
    "file",
    "album",
    "invitation",
    "card",
    "__proto__",
    "toString",
)
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 0.5, 7, 2**53, -(2**63), 1e308),
    *(8_640_000_000_000_001, -8_640_000_000_000_001, 9_223_372_036_854_775_807),
    *("", "x", "constructor", "\u202ex", "//[", "javascript:0", "a" * 5_000),
    *([], [None], [[]], [0], ["x", 7], [{"toString": 1}], [[{"text": {"toString": 1}}]]),
    *({}, {"toString": 1}, {"length": 3}, {"from": 1, "id": {}}, {"then": 1}, {"x": {"x": [None]}}),
)


def _fields(name: str) -> list[str]:
    """The names of the fields of a type."""
    body = re.search(rf"export type {name} = \{{(.*?)\n\}};", _TYPES, re.DOTALL)
    assert body is not None
    return re.findall(r"^    (\w+)\??:", body[1], re.MULTILINE)


def _meta() -> list[str]:
    """The names of the fields of ``meta``, and those that only changes of groups have."""
    entry = re.search(r"    meta\?: \{(.*?)\n    \} \|", _TYPES, re.DOTALL)
    assert entry is not None
    extra = ["name", "avatar", "description", "role", "pin", "invited_by", "muted_until", "open", "history"]
    return re.findall(r"^        (\w+)\??:", entry[1], re.MULTILINE) + extra


def _media() -> list[str]:
    """The names of the fields of media."""
    return re.findall(r" \* @property \{.*?\} \[(\w+)\]", _MEDIA)


class Malformed:
    """Makes malformed entries of a conversation between two users; always the same ones."""

    def __init__(self, conversation: int, users: tuple[str, str], seed: int = 1) -> None:
        self._random = Random(seed)
        self._conversation = conversation
        self._users = users
        self._id = FIRST_ID
        self._entry, self._meta, self._media = _fields("Entry"), _meta(), _media()
        self._ask = _fields("Ask")

    def entries(self, count: int) -> list[dict[str, Any]]:
        return [self._malformed() for _ in range(count)]

    def conversations(self, count: int) -> list[dict[str, Any]]:
        """Rows of the list, whose last entries are malformed."""
        rows = []
        for number in range(count):
            row = {
                "id": FIRST_ID + number,
                "kind": "group",
                "unread": 1,
                "read": 0,
                "last": self._malformed(),
            }
            rows.append(self._broken(row, _fields("Conversation"), ("id",)))
        return rows

    def cards(self, users: list[str]) -> list[dict[str, Any]]:
        names = ["nickname", "avatar", "name", "relation", "presence", "last_seen", "bot", "guest"]
        return [
            {"user": user, "presence": "offline"} | {name: self._value() for name in self._some(names)}
            for user in users
        ]

    def values(self, count: int) -> list[Any]:
        return [self._value() for _ in range(count)]

    def _value(self) -> Any:
        return self._random.choice(VALUES)

    def _some(self, names: list[str]) -> list[str]:
        return self._random.sample(names, self._random.randint(0, 3))

    def _malformed(self) -> dict[str, Any]:
        self._id += 1
        sender, other = self._users if self._random.random() < 0.5 else self._users[::-1]
        kind = self._random.choice(KINDS)
        entry: dict[str, Any] = {
            "id": self._id,
            "conversation": self._conversation,
            "seq": self._id,
            "kind": kind,
            "from": sender,
            "to": other,
            "time": 1_700_000_000_000 + self._id,
            "type": self._random.choice(CONTENT_TYPES),
            "meta": {name: self._value() for name in self._some(self._meta)},
        }
        if self._random.random() < 0.2:
            entry["meta"]["ask"] = {name: self._value() for name in self._random.sample(self._ask, 4)}
        if kind not in ("message", "group", "join", "leave"):
            entry["about"] = self._id - self._random.randint(1, 9)
        if self._random.random() < 0.7:
            entry["data"] = self._content()
        else:
            entry["text"] = f"text {self._id}"
        return self._broken(entry, self._entry, ("id", "conversation"))

    def _content(self) -> Any:
        if self._random.random() < 0.2:
            return self._value()
        content = {name: self._value() for name in self._random.sample(self._media, 5)}
        content |= {"caption": self._value()} if self._random.random() < 0.2 else {}
        items = [
            dict(content, type=self._random.choice(CONTENT_TYPES)),
            self._value(),
            {"type": self._value()},
        ]
        return content | {"items": items if self._random.random() < 0.8 else self._value()}

    def _broken(self, row: dict[str, Any], names: list[str], keys: tuple[str, ...]) -> dict[str, Any]:
        """The row with other values in up to three fields. ``keys`` are never other numbers."""
        for name in self._some(names):
            value = self._value()
            if name in keys and isinstance(value, (int, float)):
                continue  # the log gives ids: they are numbers in its order
            row[name] = value
        return row


SCRIPT: Final = """
window.faults = [];
addEventListener("error", ({ error, message }) => window.faults.push(String(error?.stack ?? message)));
addEventListener("unhandledrejection", ({ reason }) => window.faults.push(String(reason?.stack ?? reason)));
window.answers = JSON.parse(sessionStorage.getItem("answers") ?? "{}");
const changed = (text) => {
  const frame = JSON.parse(text);
  const data = frame.response?.data;
  const rows = window.answers[frame.cmd];
  if (!rows || !data) return text;
  if (frame.cmd === "conversations") data.conversations.push(...rows);
  else data.messages = [...data.messages, ...rows];
  return JSON.stringify(frame);
};
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  set onmessage(listener) {
    window.hear = (frame) => listener({ data: JSON.stringify(frame) });
    super.onmessage = listener && ((event) => listener({ data: changed(event.data) }));
  }
};
const plainFetch = window.fetch;
window.fetch = async (address, ...more) => {
  const answer = await plainFetch(address, ...more);
  const { cards } = window.answers;
  if (!cards || !String(address).includes("accounts/cards")) return answer;
  const { status, headers } = answer;
  return new Response(JSON.stringify({ ...(await answer.json()), cards }), { status, headers });
};
window.feed = async (entries, perFrame) => {
  for (let at = 0; at < entries.length; at += perFrame) {
    for (const data of entries.slice(at, at + perFrame)) {
      window.hear({ seq: "0", cmd: "message", response: { code: 200, data } });
    }
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  }
};
"""
"""Runs before the scripts of a page. ``answers``: command → rows that are added to each answer to it.
``feed`` receives entries, so many in each frame, and lets the page draw them.
"""
