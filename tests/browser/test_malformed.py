"""The messages page survives entries, people and stored rows whose values have
other types than theirs."""

import json
import re
from random import Random
from typing import Any, Final

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.support import ROOT, Server, eventually

FIRST_ID: Final = 1_000_000
"""Ids of malformed entries begin here: the server has none that are as
great."""
_TYPES: Final = (ROOT / "sdk" / "js" / "types" / "messenger.d.ts").read_text(
    encoding="utf-8"
)


def _fields(part: str) -> list[str]:
    """The names of the fields in a part of the types."""
    found = re.search(part, _TYPES, re.DOTALL)
    assert found is not None
    return re.findall(rf"^{found[1]}(\w+)\??:", found[2], re.MULTILINE)


ENTRY, ASK, POLL, CONVERSATION = (
    _fields(rf"export type {name} = \{{\n(?=( +))(.*?)\n\}};")
    for name in ("Entry", "Ask", "Poll", "Conversation")
)
META: Final = [
    *_fields(r"    meta\?: \{\n(?=( +))(.*?)\n    \} \|"),
    "name",
    "avatar",
    "description",
    "role",
    "pin",
    "invited_by",
    "muted_until",
    "open",
    "history",
]
"""Also the fields that only changes of groups have."""
MEDIA: Final = re.findall(
    r" \* @property \{.*?\} \[(\w+)\]",
    (ROOT / "static/messages/parts/file.js").read_text(encoding="utf-8"),
)
CARD: Final = [
    "nickname",
    "avatar",
    "name",
    "relation",
    "presence",
    "last_seen",
    "bot",
    "guest",
]
KINDS: Final = (
    *("message",) * 8,
    "edit",
    "recall",
    "reaction",
    "pin",
    "press",
    "group",
    "join",
    "leave",
    "",
    "constructor",
    "later",
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
    None,
    True,
    False,
    0,
    -1,
    0.5,
    7,
    2**53,
    -(2**63),
    1e308,
    8_640_000_000_000_001,
    -8_640_000_000_000_001,
    9_223_372_036_854_775_807,
    "",
    "x",
    "constructor",
    "\u202ex",
    "//[",
    "javascript:0",
    "a" * 5_000,
    [],
    [None],
    [[]],
    [0],
    ["x", 7],
    [{"toString": 1}],
    [[{"text": {"toString": 1}}]],
    {},
    {"toString": 1},
    {"length": 3},
    {"from": 1, "id": {}},
    {"then": 1},
    {"x": {"x": [None]}},
)


class Malformed:
    """Makes malformed entries of a conversation between two users; always the
    same ones."""

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
            {
                **row,
                "id": FIRST_ID + number,
                "last": self._entry(),
                **self._some(CONVERSATION, 3, "id"),
            }
            for number in range(count)
        ]

    def cards(self, users: list[str]) -> list[dict[str, Any]]:
        return [
            {"user": user, "presence": "offline", **self._some(CARD, 3)}
            for user in users
        ]

    def _some(self, names: list[str], most: int, *keys: str) -> dict[str, Any]:
        """Up to so many of the fields, with any value; of keys no other number:
        the log gives ids."""
        chosen = self._random.sample(names, self._random.randint(0, most))
        found = {name: self.values(1)[0] for name in chosen}
        return {
            k: each
            for k, each in found.items()
            if k not in keys or not isinstance(each, int | float)
        }

    def _entry(self) -> dict[str, Any]:
        self._id += 1
        sender, other = self._random.sample(self._users, 2)
        kind = self._random.choice(KINDS)
        content = self._random.choice(CONTENT_TYPES)
        entry: dict[str, Any] = {
            "id": self._id,
            "conversation": self._conversation,
            "seq": self._id,
        }
        entry |= {
            "from": sender,
            "to": other,
            "time": 1_700_000_000_000 + self._id,
            "type": content,
        }
        entry |= {"kind": kind, "meta": self._some(META, 3)}
        if self._random.random() < 0.2:
            entry["meta"]["ask"] = self._some(ASK, 6) | {"poll": self._some(POLL, 3)}
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
        content = self._some(MEDIA, 9) | (
            {"caption": caption} if self._random.random() < 0.2 else {}
        )
        if self._random.random() < 0.8:
            items = [
                {**content, "type": self._random.choice(CONTENT_TYPES)},
                any_value,
                {"type": caption},
            ]
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
"""Runs before the scripts of a page. ``answers``: command → rows that are added
to each answer to it. ``feed`` receives entries, so many in each frame, and lets
the page draw them.
"""

ENTRIES = 2_000

_STORE = """
const [name, rows, stored] = arguments;
for (const [key, value] of Object.entries(stored)) localStorage.setItem(key, value);
const database = await new Promise((opened) => {
  indexedDB.open(name).onsuccess = ({ target }) => opened(target.result);
});
const transaction = database.transaction(["conversations", "entries", "outbox"], "readwrite");
for (const [table, row] of JSON.parse(rows)) {
  try { transaction.objectStore(table).put(row); } catch { /* its key is none */ }
}
await new Promise((done, failed) => Object.assign(transaction, { oncomplete: done, onabort: failed }));
database.close();
return "stored";
"""
_THROWING = """
const address = performance.getEntriesByType("resource").map(({ name }) => name)
  .find((name) => name.endsWith("/messages/parts/summary.js"));
const fail = () => { throw new Error("a defect of a view"); };
(await import(address)).registerView("picture", { draw: fail, summary: fail });
"""


class Reader(Chat):
    """The page of Ann, who has a conversation with Bob open."""

    def __init__(self, pair: Pair, server: Server) -> None:
        self.ann, self.bob = Account(server, "Ann"), Account(server, "Bob")
        self.bob.say(self.ann, "hello")
        self.conversation = self.ann.newest
        self.malformed = Malformed(self.conversation, (self.ann.user, self.bob.user))
        super().__init__(pair[0], self.ann, script=SCRIPT)
        self.driver.set_script_timeout(120)
        self.open(self.conversation)

    def feed(self, entries: list[dict[str, Any]]) -> None:
        self.awaited(
            "await window.feed(JSON.parse(arguments[0]), arguments[1])",
            json.dumps(entries),
            100,
        )

    def well_formed(self, position: int, **fields: Any) -> dict[str, Any]:
        entry = {
            "id": position,
            "conversation": self.conversation,
            "seq": position,
            "kind": "message",
        }
        sender = {
            "from": self.bob.user,
            "to": self.ann.user,
            "type": "text",
            "time": 1_800_000_000_000,
        }
        return entry | sender | fields

    def lives(self, text: str, position: int) -> None:
        """A message that comes now is drawn in the list and in the
        conversation, and no view has failed."""
        preview = f"[data-conversation='{self.conversation}'] .preview"

        def is_drawn() -> bool:
            # once more, if the page was not listening yet
            self.feed([self.well_formed(position, text=text)])
            self.run("document.querySelector('#latest').click()")
            return self.texts(preview) == [text] and text in self.messages

        eventually(is_drawn, what=f"{text} in the list and in the conversation")
        assert self.run("return window.faults") == []


@pytest.mark.full("browser")
def test_the_page_draws_malformed_entries_and_starts_again(
    pair: Pair, server: Server
) -> None:
    pair.expects("accounts/cards")  # the server refuses users whom it cannot have
    chat = Reader(pair, server)
    malformed = chat.malformed
    chat.feed(malformed.entries(ENTRIES))
    chat.lives("still here", FIRST_ID * 2)
    answers = {name: malformed.entries(300) for name in ("history", "pins", "search")}
    answers["conversations"] = malformed.conversations(60)
    answers["cards"] = malformed.cards([chat.ann.user, chat.bob.user] * 5)
    script = "window.answers = JSON.parse(arguments[0]); sessionStorage.setItem('answers', arguments[0])"
    chat.run(script, json.dumps(answers))
    chat.reload()
    chat.lives("started again", FIRST_ID * 3)
    chat.press(Keys.CONTROL + "k" + Keys.NULL)
    eventually(lambda: chat.focused == "palette-field", what="the palette")
    chat.press("media")
    eventually(
        lambda: any(
            "media" in each.lower() for each in chat.texts(".palette .hit.first b")
        )
    )
    chat.press(Keys.ENTER)
    eventually(lambda: chat.texts(".media-list li"), what="the list of media")
    chat.write("#search", "text")
    eventually(
        lambda: chat.texts("[data-section=messages] .hit"), what="the malformed hits"
    )
    assert chat.run("return window.faults") == []


@pytest.mark.full("browser")
def test_the_page_starts_with_rows_that_another_version_has_stored(
    pair: Pair, server: Server
) -> None:
    pair.expects("first-view.js")  # says that it cannot draw what is stored
    chat = Reader(pair, server)
    malformed = chat.malformed
    rows: list[tuple[str, Any]] = [
        ("entries", entry) for entry in malformed.entries(300)
    ]
    rows += [
        ("conversations", {**row, "counts": value, "group": value, "mutedUntil": value})
        for row, value in zip(
            malformed.conversations(60), malformed.values(60), strict=True
        )
    ]
    rows += [
        ("conversations", {"id": FIRST_ID + 99, "last": value})
        for value in malformed.values(1)
    ]
    rows += [
        ("outbox", {"id": str(at), "key": value, "time": value})
        for at, value in enumerate(malformed.values(60))
    ]
    name = f"{APP}:{chat.ann.user}"
    row = {"id": 1, "name": {}, "time": 1e300}
    first = {"language": "en", "me": {}, "archive": {"count": 1}, "rows": [row]}
    for number, value in enumerate(malformed.values(6)):
        stored = {
            "rows": {**first, **({"rows": value} if number % 2 else {})},
            "inbox": {"rows": [value, {"conversation": value}], "version": value}
            if number
            else value,
            "wishes": {"conversations": [value, [1, value]], "device": value}
            if number
            else value,
            "drafts": {f"@{chat.bob.user}": value} if number else value,
            "people": malformed.cards([chat.bob.user]) if number else value,
        }
        texts = {
            f"imserver:{key}:{name}": json.dumps(each) for key, each in stored.items()
        }
        assert (
            chat.awaited(_STORE, f"imserver:{name}", json.dumps(rows), texts)
            == "stored"
        )
        again = f"for (const each of Object.entries({json.dumps(texts)})) localStorage.setItem(...each);"
        chat.command(
            "Page.addScriptToEvaluateOnNewDocument", source=again
        )  # the page stores others as it goes
        chat.reload()
        # rows below are not in the document
        chat.sees(f"[data-conversation='{FIRST_ID + 59}']")
    chat.lives("it starts", FIRST_ID * 2)


def test_a_view_that_fails_stops_no_other_one(pair: Pair, server: Server) -> None:
    pair.expects("a defect of a view")
    chat = Reader(pair, server)
    chat.awaited(_THROWING)
    chat.feed(
        [
            chat.well_formed(
                FIRST_ID, type="picture", data={"url": "/static/favicon.svg"}
            )
        ]
    )
    unshown = chat.word("messages_unshown")
    chat.has(".preview", unshown)
    chat.has("[role=log] article .unknown", unshown)
    chat.lives("the next one", FIRST_ID + 1)


@pytest.mark.full("browser")
def test_a_mute_that_ends_after_all_calendars_keeps_the_page_going(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.post("groups/mute", group=str(group), member=ann.user, until=2**53)
    chat = Chat(pair[0], ann, script=SCRIPT)
    chat.go(f"#c/{group}")
    chat.has_some("#read-only", "9999")
    bob.say(group, "tea?")
    chat.reads("tea?")
    assert chat.run("return window.faults") == []
