"""The messages page survives what it does not understand: malformed entries, people and stored rows."""

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.malformed import FIRST_ID, SCRIPT, Malformed
from tests.browser.messenger import APP, Account, Chat
from tests.support import Server, eventually

ENTRIES = 2_000
PER_FRAME = 100

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
  .find((name) => name.endsWith("/messages/summary.js"));
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
            "await window.feed(JSON.parse(arguments[0]), arguments[1])", json.dumps(entries), PER_FRAME
        )

    def well_formed(self, position: int, **fields: Any) -> dict[str, Any]:
        entry = {"id": position, "conversation": self.conversation, "seq": position, "kind": "message"}
        sender = {"from": self.bob.user, "to": self.ann.user, "type": "text", "time": 1_800_000_000_000}
        return entry | sender | fields

    def lives(self, text: str, position: int) -> None:
        """A message that comes now is drawn in the list and in the conversation, and no view has failed."""
        preview = f"[data-conversation='{self.conversation}'] .preview"

        def is_drawn() -> bool:
            self.feed([self.well_formed(position, text=text)])  # once more, if the page was not listening yet
            self.run("document.querySelector('#latest').click()")
            return self.texts(preview) == [text] and text in self.messages

        eventually(is_drawn, what=f"{text} in the list and in the conversation")
        assert self.run("return window.faults") == []


@pytest.mark.full("browser")
def test_the_page_draws_malformed_entries_and_starts_again(pair: Pair, server: Server) -> None:
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
    eventually(lambda: any("media" in each.lower() for each in chat.texts(".palette .hit.first b")))
    chat.press(Keys.ENTER)
    eventually(lambda: chat.texts(".media-list li"), what="the list of media")
    chat.write("#search", "text")
    eventually(lambda: chat.texts("[data-section=messages] .hit"), what="the malformed hits")
    assert chat.run("return window.faults") == []


@pytest.mark.full("browser")
def test_the_page_starts_with_rows_that_another_version_has_stored(pair: Pair, server: Server) -> None:
    pair.expects("first-view.js")  # says that it cannot draw what is stored
    chat = Reader(pair, server)
    malformed = chat.malformed
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
    name = f"{APP}:{chat.ann.user}"
    row = {"id": 1, "name": {}, "time": 1e300}
    first = {"language": "en", "me": {}, "archive": {"count": 1}, "rows": [row]}
    for number, value in enumerate(malformed.values(6)):
        stored = {
            "rows": {**first, **({"rows": value} if number % 2 else {})},
            "inbox": {"rows": [value, {"conversation": value}], "version": value} if number else value,
            "wishes": {"conversations": [value, [1, value]], "device": value} if number else value,
            "drafts": {f"@{chat.bob.user}": value} if number else value,
            "people": malformed.cards([chat.bob.user]) if number else value,
        }
        texts = {f"imserver:{key}:{name}": json.dumps(each) for key, each in stored.items()}
        assert chat.awaited(_STORE, f"imserver:{name}", json.dumps(rows), texts) == "stored"
        again = f"for (const each of Object.entries({json.dumps(texts)})) localStorage.setItem(...each);"
        chat.command(
            "Page.addScriptToEvaluateOnNewDocument", source=again
        )  # the page stores others as it goes
        chat.reload()
        chat.sees(f"[data-conversation='{chat.conversation}']")
    chat.lives("it starts", FIRST_ID * 2)


def test_a_view_that_fails_stops_no_other_one(pair: Pair, server: Server) -> None:
    pair.expects("a defect of a view")
    chat = Reader(pair, server)
    chat.awaited(_THROWING)
    chat.feed([chat.well_formed(FIRST_ID, type="picture", data={"url": "/static/favicon.svg"})])
    unshown = chat.word("messages_unshown")
    chat.has(".preview", unshown)
    chat.has("[role=log] article .unknown", unshown)
    chat.lives("the next one", FIRST_ID + 1)


@pytest.mark.full("browser")
def test_a_mute_that_ends_after_all_calendars_keeps_the_page_going(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.post("groups/mute", group=str(group), member=ann.user, until=2**53)
    chat = Chat(pair[0], ann, script=SCRIPT)
    chat.go(f"#c/{group}")
    chat.has_some("#read-only", "9999")
    bob.say(group, "tea?")
    chat.reads("tea?")
    assert chat.run("return window.faults") == []
