"""Bots in groups: what they read, on every engine."""

import json
from typing import Any

import msgspec
import pytest

from imserver.messenger.log.bots import MOST_BOTS, values_of
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import (
    Appended,
    Change,
    Draft,
    Entry,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Reaction
from imserver.messenger.search.search import EntrySearch
from tests.messenger.accounts import add_account, block, insert
from tests.messenger.log.test_log import APP, ids
from tests.stores import OpenStore


class Setting:
    """A store with a log. ``add_bot`` makes a bot and returns its user id."""

    def __init__(self, url: str, open_store: OpenStore) -> None:
        self.store = open_store(url, seconds=10)
        self.log: MessageLog = self.store.part(MessageLog)

    def add_bot(self, name: str | None = None, *commands: str, owner: str = "0") -> str:
        bot = add_account(self.store, APP, name=name, bot=1)
        encoded = msgspec.json.encode(
            [{"name": each, "description": ""} for each in commands]
        )
        row = {
            "owner": int(owner),
            "token_hash": bot,
            "commands": encoded,
            "hook_url": "",
            "hook_secret": "",
        }
        insert(self.store, "bot", id=int(bot), app=APP, **row)
        return bot

    def group(self, *users: str) -> int:
        return self.log.groups.create(APP, users[0], "tea", users[1:]).conversation

    def add(self, draft: Draft) -> Entry:
        (result,) = self.log.writer.append(APP, [draft])
        assert isinstance(result, Appended), result
        return result.entry

    def say(
        self, sender: str, at: int, text: str, *mentions: str, **more: Any
    ) -> Entry:
        meta = json.dumps({"mentions": mentions}).encode() if mentions else b""
        return self.add(
            Draft(
                sender=sender,
                conversation=at,
                body=text.encode(),
                meta=meta,
                time_ms=1,
                **more,
            )
        )

    def change(
        self, kind: Any, sender: str, message: Entry, text: str = "", *mentions: str
    ) -> Entry:
        return self.say(
            sender, message.conversation, text, *mentions, about=message.id, kind=kind
        )

    def synced(self, user: str) -> list[int]:
        """Everything that a user reads, by small pages."""
        found = list[int]()
        after = 0
        while True:
            page, more = self.log.entries.sync(APP, user, after, 2)
            found += ids(page)
            if not more:
                return found
            after = found[-1]


@pytest.fixture
def setting(url: str, open_store: OpenStore) -> Setting:
    return Setting(url, open_store)


def test_a_bot_reads_what_names_it_and_everybody_else_everything(
    setting: Setting, search: EntrySearch
) -> None:
    log = setting.log
    bot = setting.add_bot()
    other = setting.add_bot()
    at = setting.group("ann", "bob", bot, other)
    seen = [log.entries.head(APP)]
    private = setting.say("ann", at, "tea, not for bots")
    named = setting.say("ann", at, "tea?", bot)
    message = setting.say(bot, at, "tea!")
    seen += [named.id, message.id, setting.say("bob", at, "tea for all", "all").id]
    replied = setting.say("bob", at, "tea with milk", about=message.id)
    seen.append(replied.id)
    setting.say("bob", at, "tea again", about=private.id)
    setting.say("bob", at, "tea for the other", other)
    reaction, hidden = (
        log.annotations.react(APP, "bob", id, "+1").entry
        for id in (named.id, private.id)
    )  # type: ignore[union-attr]
    assert reaction is not None
    assert hidden is not None
    assert (reaction.bots, hidden.bots) == ((bot,), ())
    seen.append(reaction.id)
    seen.append(setting.change("edit", "ann", named, "tea, edited").id)
    setting.change("edit", "ann", private, "still private")
    left = log.groups.leave(APP, at, ["bob"], "bob").entry  # type: ignore[union-attr]
    seen.append(left.id)
    assert setting.synced(bot) == seen
    assert setting.synced("ann") == list(range(1, log.entries.head(APP) + 1))
    messages = [id for id in seen if id != reaction.id]
    assert ids(log.entries.history(APP, bot, at, 0, 100)[0]) == messages
    assert ids(log.entries.history(APP, bot, at, 0, 100, after=seen[1])[0]) == [
        id for id in messages if id > seen[1]
    ]
    assert ids(log.entries.readable(APP, bot, [private.id, named.id])) == [named.id]
    assert private.id not in ids(search.find(APP, bot, Search("private", 0, 0, 100))[0])
    entries, _ = search.find(APP, bot, Search("tea", 0, 0, 100))
    assert ids(entries) == [named.id, message.id, seen[3], replied.id]
    assert log.annotations.react(APP, bot, private.id, "+1") == Rejected(
        RejectReason.UNKNOWN_MESSAGE
    )
    assert isinstance(log.annotations.react(APP, bot, named.id, "+1"), Change)
    ((summary,), _) = log.conversations.page(APP, bot, 0, 10)
    assert (summary.last.id, summary.unread) == (left.id, 3)
    (shown,) = log.entries.find(APP, [named.id])
    assert (shown.bots, shown.body) == ((bot,), b"tea, edited")
    (page, _) = log.entries.history(APP, "ann", at, named.id + 1, 1)
    assert getattr(page[0], "reactions", ()) == (
        Reaction("+1", 2, ("bob", bot), mine=False),
    )


def test_an_edit_may_name_a_bot_and_a_recall_reaches_who_read_the_message(
    setting: Setting,
) -> None:
    log = setting.log
    bot = setting.add_bot()
    at = setting.group("ann", bot)
    first = log.entries.head(APP)
    message = setting.say("ann", at, "one")
    edit = setting.change("edit", "ann", message, "one, robot?", bot)
    later = setting.change("edit", "ann", message, "two")
    recall = setting.change("recall", "ann", message)
    again = setting.change("recall", "ann", message)
    unseen = setting.say("ann", at, "three")
    setting.change("recall", "ann", unseen)
    seen = [first, message.id, edit.id, later.id, recall.id, again.id]
    assert setting.synced(bot) == seen
    assert recall.bots == (bot,)
    page, _ = log.entries.sync(APP, bot, first, 10)
    assert [entry.body for entry in page] == [b""] * 5
    message = setting.say("ann", at, "four")
    meta = json.dumps({"mentions": [bot]}).encode()
    name = Draft(
        sender="ann",
        kind="edit",
        conversation=at,
        about=message.id,
        meta=meta,
        time_ms=1,
    )
    assert all(
        isinstance(each, Appended) for each in log.writer.append(APP, [name, name])
    )
    assert setting.synced(bot) == [*seen, message.id, message.id + 1, message.id + 2]


def test_the_option_and_membership_decide_when_the_entry_is_stored(
    setting: Setting,
) -> None:
    log = setting.log
    bot = setting.add_bot()
    at = setting.group("ann", "bob")
    before = setting.say("ann", at, "before", bot)
    log.groups.join(APP, at, [bot], "ann")
    seen = [log.entries.head(APP)]
    hidden = setting.say("ann", at, "hidden")
    log.groups.set_options(APP, at, {"bots": "all"}, "ann")
    seen.append(log.entries.head(APP))
    whole = setting.say("ann", at, "whole")
    results = log.writer.append(
        APP,
        [
            Draft(sender=bot, conversation=at, body=b"batch", time_ms=1),
            Draft(sender="bob", conversation=at, body=b"reply", time_ms=1),
        ],
    )
    seen += [
        whole.id,
        *[each.entry.id for each in results if isinstance(each, Appended)],
    ]
    log.groups.set_options(APP, at, {"bots": "mentions"}, "ann")
    seen.append(log.entries.head(APP))
    setting.say("ann", at, "hidden again")
    log.groups.leave(APP, at, [bot], "ann")
    seen.append(log.entries.head(APP))
    after = setting.say("ann", at, "after", bot)
    assert setting.synced(bot) == seen
    assert (hidden.bots, after.bots, before.bots) == ((), (), ())
    assert log.conversations.find(APP, [at])[0].bots == ()
    log.groups.join(APP, at, [bot], "ann")
    assert log.conversations.find(APP, [at])[0].bots == (bot,)
    assert setting.synced(bot) == [*seen, log.entries.head(APP)]
    log.marks.forget(APP, bot)
    assert log.expire(APP, more_than=1) > 0


def test_a_reply_in_the_same_transaction_is_read_and_no_bot_becomes_the_owner(
    setting: Setting,
) -> None:
    log = setting.log
    bot = setting.add_bot()
    at = setting.group("ann", bot, "bob")
    next_id = log.entries.head(APP) + 1
    drafts = [
        Draft(sender=bot, conversation=at, body=b"one", time_ms=1),
        Draft(sender="bob", conversation=at, body=b"two", about=next_id, time_ms=1),
        Draft(
            sender="bob",
            kind="edit",
            conversation=at,
            body=b"three",
            about=next_id + 1,
            time_ms=1,
        ),
        Draft(
            sender="bob", conversation=at, body=b"four", about=next_id + 2, time_ms=1
        ),
    ]
    log.writer.append(APP, drafts)
    assert setting.synced(bot) == [next_id - 1, next_id, next_id + 1, next_id + 2]
    log.groups.leave(APP, at, ["ann"], "ann", heir=True)
    found = log.conversations.member(APP, at, "bob")
    assert (found.role, found.bot) == ("owner", False)


def test_the_log_says_which_command_of_which_bot_a_text_is(setting: Setting) -> None:
    tea = setting.add_bot("tea", "brew", "stop")
    other = setting.add_bot("other", "brew", "other_1")
    at = setting.group("ann", tea, other)

    def command(to: int | str, text: str, sender: str = "ann", **more: Any) -> Any:
        where: dict[str, Any] = (
            {"conversation": to} if isinstance(to, int) else {"to_user": to}
        )
        entry = setting.add(
            Draft(sender=sender, body=text.encode(), time_ms=1, **where, **more)
        )
        found = json.loads(entry.meta or b"{}")
        result = found.get("command")
        assert (
            result is None
            or not isinstance(to, int)
            or found["bots"] == [result["bot"]]
        )
        return result and (result["bot"], result["name"], result["text"])

    assert command(at, "/brew") == (tea, "brew", "")
    assert command(at, "/brew@other  green\ntea ") == (other, "brew", "green\ntea ")
    assert command(at, "/brew@OTHER") == (other, "brew", "")
    assert command(at, "/other_1 x") == (other, "other_1", "x")
    assert command(tea, "/stop now") == (tea, "stop", "now")
    assert command("ann", "/stop now", tea) is None, "the bot itself"
    for text in (
        "/other_1@tea",
        "/none",
        "/brew@nobody",
        "/Brew",
        " /brew",
        "/brew!",
        "//brew",
        "/",
        "/brew@",
    ):
        assert command(at, text) is None, text
    assert command(tea, "/other_1") is None
    assert command("bob", "/brew") is None
    assert command(at, "/brew", type="code") is None
    message = setting.say("ann", at, "/brew")
    edited = setting.change("edit", "ann", message, "/stop")
    assert "command" not in json.loads(edited.meta)


def test_only_bots_send_buttons(setting: Setting) -> None:
    log = setting.log
    bot = setting.add_bot()
    at = setting.group("ann", bot)
    meta = json.dumps(
        {"buttons": [[{"text": "Yes", "value": "y"}]]}, separators=(",", ":")
    ).encode()
    message = setting.add(Draft(sender=bot, conversation=at, meta=meta, time_ms=1))
    assert values_of(message.meta) == {"y"}
    for sender, kind in (
        ("ann", "message"),
        ("", "message"),
        ("ann", "edit"),
        ("", "edit"),
    ):
        draft = Draft(
            sender=sender,
            kind=kind,
            conversation=at,
            about=message.id,
            meta=meta,
            time_ms=1,
        )  # type: ignore[arg-type]
        (refused,) = log.writer.append(APP, [draft])
        assert refused.reason == RejectReason.NOT_BOT
    setting.change("edit", bot, message, "done")
    (shown,) = log.entries.find(APP, [message.id])
    assert values_of(shown.meta) == set()


def test_a_bot_starts_no_conversation_with_somebody_who_has_blocked_its_owner(
    setting: Setting,
) -> None:
    log = setting.log
    ann, bob, cid = (add_account(setting.store, APP) for _ in range(3))
    first = setting.add_bot(owner=bob)
    second = setting.add_bot(owner=bob)
    of_all = setting.add_bot()
    block(setting.store, ann, bob)

    def sent(*pairs: tuple[str, str]) -> list[bool]:
        drafts = [
            Draft(sender=sender, to_user=to, body=b"x", time_ms=1)
            for sender, to in pairs
        ]
        results = log.writer.append(APP, drafts)
        assert all(
            isinstance(each, Appended) or each == Rejected(RejectReason.BLOCKED)
            for each in results
        )
        return [isinstance(each, Appended) for each in results]

    assert sent((first, ann), (first, cid), (of_all, ann)) == [False, True, True]
    assert sent((first, ann), (ann, first), (first, ann)) == [False, True, True]
    assert sent((first, ann), (second, ann)) == [True, False], "a conversation goes on"


def test_a_group_has_a_limited_number_of_bots(setting: Setting) -> None:
    log = setting.log
    bots = [setting.add_bot() for _ in range(MOST_BOTS + 1)]
    at = setting.group("ann", *bots[:MOST_BOTS])
    refused = log.groups.join(APP, at, bots[MOST_BOTS:], "ann")
    assert refused.reason == RejectReason.INVALID
    assert log.groups.create(APP, "ann", "tea", bots) == refused
    assert log.entries.head(APP) == 1
    log.groups.leave(APP, at, bots[:1], "ann")
    assert isinstance(log.groups.join(APP, at, bots[MOST_BOTS:], "ann"), Change)
