"""Entries with values of other types than theirs, made from the types of the SDK; and a script that lets a
page receive them, in place of what the server sends.
"""

import re
from random import Random
from typing import Any, Final

from tests.support import ROOT

FIRST_ID: Final = 1_000_000
"""Ids of malformed entries begin here: the server has none that are as great."""
_TYPES: Final = (ROOT / "sdk" / "js" / "types" / "messenger.d.ts").read_text(encoding="utf-8")


def _fields(part: str) -> list[str]:
    """The names of the fields in a part of the types."""
    found = re.search(part, _TYPES, re.DOTALL)
    assert found is not None
    return re.findall(rf"^{found[1]}(\w+)\??:", found[2], re.MULTILINE)


ENTRY, ASK, CONVERSATION = (
    _fields(rf"export type {name} = \{{\n(?=( +))(.*?)\n\}};") for name in ("Entry", "Ask", "Conversation")
)
META: Final = [
    *_fields(r"    meta\?: \{\n(?=( +))(.*?)\n    \} \|"),
    *("name", "avatar", "description", "role", "pin", "invited_by", "muted_until", "open", "history"),
]
"""Also the fields that only changes of groups have."""
MEDIA: Final = re.findall(
    r" \* @property \{.*?\} \[(\w+)\]", (ROOT / "static/messages/media/file.js").read_text(encoding="utf-8")
)
CARD: Final = ["nickname", "avatar", "name", "relation", "presence", "last_seen", "bot", "guest"]
KINDS: Final = (
    *("message",) * 8,
    *("edit", "recall", "reaction", "pin", "press", "group", "join", "leave", "", "constructor", "later"),
)
CONTENT_TYPES: Final = (
    *("text", "picture", "video", "voice", "file", "album", "invitation", "card"),
    *("__proto__", "toString"),
)
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 0.5, 7, 2**53, -(2**63), 1e308),
    *(8_640_000_000_000_001, -8_640_000_000_000_001, 9_223_372_036_854_775_807),
    *("", "x", "constructor", "\u202ex", "//[", "javascript:0", "a" * 5_000),
    *([], [None], [[]], [0], ["x", 7], [{"toString": 1}], [[{"text": {"toString": 1}}]]),
    *({}, {"toString": 1}, {"length": 3}, {"from": 1, "id": {}}, {"then": 1}, {"x": {"x": [None]}}),
)


class Malformed:
    """Makes malformed entries of a conversation between two users; always the same ones."""

    def __init__(self, conversation: int, users: tuple[str, str]) -> None:
        self._random = Random(1)
        self._conversation = conversation
        self._users = users
        self._id = FIRST_ID

    def values(self, count: int) -> list[Any]:
        return self._random.choices(VALUES, k=count)

    def entries(self, count: int) -> list[dict[str, Any]]:
        return [self._entry() for _ in range(count)]

    def conversations(self, count: int) -> list[dict[str, Any]]:
        """Rows of the list, whose last entries are malformed."""
        row = {"kind": "group", "unread": 1, "read": 0}
        return [
            {**row, "id": FIRST_ID + number, "last": self._entry(), **self._some(CONVERSATION, 3, "id")}
            for number in range(count)
        ]

    def cards(self, users: list[str]) -> list[dict[str, Any]]:
        return [{"user": user, "presence": "offline", **self._some(CARD, 3)} for user in users]

    def _some(self, names: list[str], most: int, *keys: str) -> dict[str, Any]:
        """Up to so many of the fields, with any value; of keys no other number: the log gives ids."""
        chosen = self._random.sample(names, self._random.randint(0, most))
        found = {name: self.values(1)[0] for name in chosen}
        return {k: each for k, each in found.items() if k not in keys or not isinstance(each, int | float)}

    def _entry(self) -> dict[str, Any]:
        self._id += 1
        sender, other = self._random.sample(self._users, 2)
        kind, content = self._random.choice(KINDS), self._random.choice(CONTENT_TYPES)
        entry: dict[str, Any] = {"id": self._id, "conversation": self._conversation, "seq": self._id}
        entry |= {"from": sender, "to": other, "time": 1_700_000_000_000 + self._id, "type": content}
        entry |= {"kind": kind, "meta": self._some(META, 3)}
        if self._random.random() < 0.2:
            entry["meta"]["ask"] = self._some(ASK, 6)
        if kind not in ("message", "group", "join", "leave"):
            entry["about"] = self._id - self._random.randint(1, 9)
        if self._random.random() < 0.7:
            entry["data"] = self._content()
        else:
            entry["text"] = f"text {self._id}"
        return entry | self._some(ENTRY, 3, "id", "conversation")

    def _content(self) -> Any:
        any_value, items, caption = self.values(3)
        if self._random.random() < 0.2:
            return any_value
        content = self._some(MEDIA, 9) | ({"caption": caption} if self._random.random() < 0.2 else {})
        if self._random.random() < 0.8:
            items = [{**content, "type": self._random.choice(CONTENT_TYPES)}, any_value, {"type": caption}]
        return {**content, "items": items}


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
