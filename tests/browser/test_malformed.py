"""The messages page survives what it does not understand: malformed entries, people and stored rows."""

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.malformed import FIRST_ID, SCRIPT, Malformed
from tests.browser.messenger import APP, Account, Chat
from tests.support import Server, eventually

ENTRIES = 2_000
PER_FRAME = 100

_FEED = """
const [entries, perFrame, done] = arguments;
window.feed(JSON.parse(entries), perFrame).then(done, (error) => done(String(error)));
"""
_STORE = """
const [name, rows, stored, done] = arguments;
for (const [key, value] of Object.entries(stored)) localStorage.setItem(key, value);
const opening = indexedDB.open(name);
opening.onsuccess = () => {
  const transaction = opening.result.transaction(["conversations", "entries", "outbox"], "readwrite");
  for (const [table, row] of JSON.parse(rows)) {
    try { transaction.objectStore(table).put(row); } catch { /* its key is none */ }
  }
  transaction.oncomplete = () => { opening.result.close(); done("stored"); };
  transaction.onabort = () => done(String(transaction.error));
};
"""
_THROWING = """
const done = arguments[0];
const address = performance.getEntriesByType("resource").map(({ name }) => name)
  .find((name) => name.endsWith("/messages/summary.js"));
import(address).then(({ registerView }) => {
  const fail = () => { throw new Error("a defect of a view"); };
  registerView("picture", { draw: fail, summary: fail });
  done("registered");
});
"""


class Room:
    """The page of Ann, who has a conversation with Bob open."""

    def __init__(self, pair: Pair, server: Server) -> None:
        self.ann, self.bob = Account(server, "Ann"), Account(server, "Bob")
        self.bob.say(self.ann, "hello")
        self.conversation: int = self.ann.get("conversations")["conversations"][0]["conversation"]
        self.malformed = Malformed(self.conversation, (self.ann.user, self.bob.user))
        self.chat = Chat(pair[0], self.ann, script=SCRIPT)
        self.page: Page = self.chat.page
        self.chat.open(self.conversation)

    def feed(self, entries: list[dict[str, Any]]) -> None:
        assert self.page.driver.execute_async_script(_FEED, json.dumps(entries), PER_FRAME) is None

    def well_formed(self, position: int, **fields: Any) -> dict[str, Any]:
        entry = {"id": position, "conversation": self.conversation, "seq": position, "kind": "message"}
        sender = {"from": self.bob.user, "to": self.ann.user, "type": "text", "time": 1_800_000_000_000}
        return entry | sender | fields

    def answer(self, rows: dict[str, list[Any]]) -> None:
        """From now on, also after a reload, answers have these rows, too."""
        script = "window.answers = JSON.parse(arguments[0]); sessionStorage.setItem('answers', arguments[0])"
        self.page.run(script, json.dumps(rows))

    def lives(self, text: str, position: int) -> None:
        """A message that comes now is drawn in the list and in the conversation, and no view has failed."""
        preview = f"[data-conversation='{self.conversation}'] .preview"

        def is_drawn() -> bool:
            self.feed([self.well_formed(position, text=text)])  # once more, if the page was not listening yet
            self.page.run("document.querySelector('#latest').click()")
            return self.page.texts(preview) == [text] and text in self.chat.texts

        eventually(is_drawn, what=f"{text} in the list and in the conversation")
        assert self.page.run("return window.faults") == []

    def reload(self) -> None:
        self.page.driver.refresh()
        self.chat.online()


@pytest.mark.full
def test_the_page_draws_malformed_entries_and_starts_again(pair: Pair, server: Server) -> None:
    pair.expects("accounts/cards")  # the server refuses users whom it cannot have
    room = Room(pair, server)
    page, malformed = room.page, room.malformed
    page.driver.set_script_timeout(120)
    room.feed(malformed.entries(ENTRIES))
    room.lives("still here", FIRST_ID * 2)
    people = [room.ann.user, room.bob.user]
    room.answer(
        {name: malformed.entries(300) for name in ("history", "pins", "search")}
        | {"conversations": malformed.conversations(60), "cards": malformed.cards(people * 5)}
    )
    room.reload()
    room.lives("started again", FIRST_ID * 3)
    page.press(Keys.CONTROL + "k" + Keys.NULL)
    eventually(lambda: page.focused == "palette-field", what="the palette")
    page.press("media")
    eventually(lambda: any("media" in each.lower() for each in page.texts(".palette .hit.first b")))
    page.press(Keys.ENTER)
    eventually(lambda: page.texts(".media-list li"), what="the list of media")
    page.find("#search").send_keys("text")
    eventually(lambda: page.texts("[data-section=messages] .hit"), what="the malformed hits")
    assert page.run("return window.faults") == []


@pytest.mark.full
def test_the_page_starts_with_rows_that_another_version_has_stored(pair: Pair, server: Server) -> None:
    pair.expects("first-view.js")  # says that it cannot draw what is stored
    room = Room(pair, server)
    page, malformed = room.page, room.malformed
    rows: list[tuple[str, Any]] = [("entries", entry) for entry in malformed.entries(300)]
    rows += [
        ("conversations", {**row, "counts": value, "group": value, "mutedUntil": value})
        for row, value in zip(malformed.conversations(60), malformed.values(60), strict=True)
    ]
    rows += [("conversations", {"id": FIRST_ID + 99, "last": value}) for value in malformed.values(1)]
    rows += [
        ("outbox", {"id": str(at), "key": value, "time": value})
        for at, value in enumerate(malformed.values(60))
    ]
    name = f"{APP}:{room.ann.user}"
    first = {
        "language": "en",
        "me": {},
        "archive": {"count": 1},
        "rows": [{"id": 1, "name": {}, "time": 1e300}],
    }
    for number, value in enumerate(malformed.values(6)):
        stored = {
            "rows": {**first, **({"rows": value} if number % 2 else {})},
            "inbox": {"rows": [value, {"conversation": value}], "version": value} if number else value,
            "wishes": {"conversations": [value, [1, value]], "device": value} if number else value,
            "drafts": {f"@{room.bob.user}": value} if number else value,
            "people": malformed.cards([room.bob.user]) if number else value,
        }
        texts = {f"imserver:{key}:{name}": json.dumps(each) for key, each in stored.items()}
        assert (
            page.driver.execute_async_script(_STORE, f"imserver:{name}", json.dumps(rows), texts) == "stored"
        )
        page.command("Page.addScriptToEvaluateOnNewDocument", source=_stored_again(texts))
        room.reload()
        eventually(lambda: page.shown(f"[data-conversation='{room.conversation}']"), what="the list")
    room.lives("it starts", FIRST_ID * 2)


def test_a_view_that_fails_stops_no_other_one(pair: Pair, server: Server) -> None:
    pair.expects("a defect of a view")
    room = Room(pair, server)
    page = room.page
    assert page.driver.execute_async_script(_THROWING) == "registered"
    room.feed([room.well_formed(FIRST_ID, type="picture", data={"url": "/static/favicon.svg"})])
    unshown = room.chat.word("messages_unshown")
    eventually(lambda: page.texts(".preview") == [unshown], what="the list says so")
    eventually(lambda: page.texts("[role=log] article .unknown") == [unshown], what="the row says so")
    room.lives("the next one", FIRST_ID + 1)


def _stored_again(texts: dict[str, str]) -> str:
    """A script that stores these texts again before those of the page: it has stored others when it went."""
    return (
        f"for (const [key, value] of Object.entries({json.dumps(texts)})) localStorage.setItem(key, value);"
    )


@pytest.mark.full
def test_a_mute_that_ends_after_all_calendars_keeps_the_page_going(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.post("groups/mute", app=APP, group=str(group), member=ann.user, until=2**53)
    chat = Chat(pair[0], ann, script=SCRIPT)
    chat.page.run("location.hash = arguments[0]", f"#c/{group}")
    eventually(lambda: "9999" in "".join(chat.page.texts("#read-only")), what="the end of the mute")
    bob.say(group, "tea?")
    eventually(lambda: "tea?" in chat.texts, what="the next message")
    assert chat.page.run("return window.faults") == []
