"""Webhooks of bots on a node: what is posted, in which order, by which node,
and what becomes of answers."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag
from msgspec import json
from msgspec.structs import replace

from imserver.backends.webhooks import webhooks_of
from imserver.backends.webhooks.consumer import Consumer, DeliveryLease
from imserver.backends.webhooks.log_window import HookSender
from imserver.gateway.errors import StorageUnavailable
from imserver.messenger.log.contract import Commit, Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.rows import AccountStore
from imserver.people.bots import hooks as module
from imserver.people.bots.hooks import BotHooks, messages_of
from imserver.people.bots.incoming import text_of
from imserver.people.bots.parts import bots_of
from imserver.people.bots.rows import BotHook, BotStore, HookStore, IncomingHook
from tests.backends.webhooks.conftest import constants, quick
from tests.backends.webhooks.consumer_users import RECEIVERS, Node
from tests.backends.webhooks.test_consumer_users import DurableContract
from tests.docs.markdown import blocks
from tests.gateway.core.back_end import Answer, BackEnd, Post
from tests.gateway.transport.harness import until
from tests.rows import sections
from tests.security.node_harness import ADMIN, Harness, config
from tests.security.test_bots import person
from tests.stores import OpenStore
from tests.support import ROOT
from tests.users import User

__all__ = ["constants", "quick"]

NOTHING = (200, b"")
GUIDE = ROOT / "docs" / "guides" / "bot-webhooks.md"


class Receivers(BackEnd):
    """Stands for all URLs: ``replies`` has the function of each."""

    def __init__(self) -> None:
        super().__init__(
            lambda post: self.replies.get(post.url, lambda _: NOTHING)(post)
        )
        self.replies: dict[str, Callable[[Post], Answer]] = {}

    def at(self, url: str) -> list[Any]:
        """The events that were posted to a URL."""
        return [post.json for post in self.posts if post.url == url]

    def texts(self, url: str) -> list[str]:
        return [event["text"] for event in self.at(url) if "text" in event]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    of_features = sections(
        accounts={"registration": True, "registrations_per_address": 0},
        bots={"allow_loopback": True},
    )
    folder = Path(tmp_path_factory.mktemp("bot hooks"))
    harness = Harness(config(folder, of_features=of_features))
    yield harness
    harness.close()


@pytest.fixture
def receivers(node: Harness) -> Iterator[Receivers]:
    hooks = bots_of(node.node.core).hooks
    receivers = Receivers()
    usual = hooks.requests
    hooks.requests = receivers  # type: ignore[assignment]
    yield receivers
    hooks.requests = usual


def sender_of(hooks: BotHooks, bot: User) -> HookSender[BotHook]:
    """The consumer of a bot's webhook."""
    return next(
        each for each in hooks.log.senders.values() if each.hook.user == bot.user
    )


def hooked(owner: User, name: str) -> tuple[User, str]:
    """A bot with a webhook, and its URL."""
    bot = owner.bot(name)
    url = f"https://{name}.example/"
    assert owner.post("bots/update", bot=bot.user, hook_url=url)["hook_secret"]
    return bot, url


def say(sender: User, to: User, *texts: str) -> None:
    for text in texts:
        sender.post("messages/send", to=to.user, text=text)


def texts_by(bot: User, reader: User) -> list[str]:
    """The texts that a reader has from a bot."""
    found = reader.get("messages/sync", after=0, limit=200)["messages"]
    return [
        each["text"]
        for each in found
        if each["from"] == bot.user and each["kind"] == "message"
    ]


def test_what_a_bot_receives_is_posted_in_order_and_answers_are_its_messages(
    node: Harness, receivers: Receivers
) -> None:
    ann = person(node, "ann")
    echo, url = hooked(ann, "echo")
    receivers.replies[url] = lambda post: (
        200,
        json.encode({"text": f"{post.json['text']}!"}),
    )
    say(ann, echo, "a", "b", "c")
    until(lambda: texts_by(echo, ann) == ["a!", "b!", "c!"])
    first = next(post for post in receivers.posts if post.url == url)
    assert first.delivery.startswith(f"{echo.user}-log-")
    assert len(first.secret) == 43
    event = first.json
    stored = event.pop("stored")
    assert (event.pop("time") > 0, event.pop("node") != "", event.pop("id")) == (
        True,
        True,
        f"log-{stored['id']}",
    )
    assert event == {
        "event": "message",
        "app": "201",
        "bot": echo.user,
        "sender": ann.user,
        "to": echo.user,
        "type": "text",
        "text": "a",
    }
    until(lambda: len(receivers.at(url)) == 3)
    assert receivers.texts(url) == ["a", "b", "c"], "its own messages are not posted"
    (documented,) = (
        block for block in blocks(GUIDE, "json") if "bot-event" in block.words
    )
    assert set(json.decode(documented.text)) == {
        *event,
        "id",
        "time",
        "node",
        "stored",
        "meta",
    }


def test_membership_edits_and_reactions_are_posted_and_answers_go_to_the_group(
    node: Harness, receivers: Receivers
) -> None:
    bob = person(node, "bob")
    bot, url = hooked(bob, "grouped")
    answer = {
        "messages": [
            {"text": "one"},
            {"data": {"n": 2}, "to": "1"},
            {"text": 3},
            {"text": "four"},
        ]
    }
    receivers.replies[url] = lambda post: (
        200,
        json.encode(answer) if post.json.get("text") == "@grouped" else b"OK",
    )
    group = bob.post("groups/create", name="tea", members=[bot.user])["group"]
    bob.post("messages/send", conversation=int(group), text="not for it")
    mention = {"text": "@grouped", "mentions": [bot.user]}
    message = bob.post("messages/send", conversation=int(group), **mention)["id"]
    until(lambda: "@grouped" in receivers.texts(url))
    bob.post("messages/edit", id=message, **{**mention, "text": "edited"})
    bob.post("messages/react", id=message, emoji="+1")
    until(
        lambda: (
            len([event for event in receivers.at(url) if event.get("about") == message])
            == 2
        )
    )
    joined, *changes = receivers.at(url)
    assert "not for it" not in receivers.texts(url)
    assert (joined["event"], joined["group"], joined["bot"]) == (
        "group",
        group,
        bot.user,
    )
    assert [each.get("kind", "message") for each in changes][-2:] == [
        "edit",
        "reaction",
    ]
    assert {each["group"] for each in changes} == {group}
    sent = bob.get("messages", conversation=int(group))["messages"]
    assert [
        each.get("text", each.get("data")) for each in sent if each["from"] == bot.user
    ] == [
        "one",
        {"n": 2},
        "four",
    ]


def test_an_answer_to_a_reply_goes_to_its_thread(
    node: Harness, receivers: Receivers
) -> None:
    ted = person(node, "ted")
    bot, url = hooked(ted, "threaded")
    receivers.replies[url] = lambda post: (
        200,
        json.encode({"text": "here"}) if post.json.get("text") else b"",
    )
    group = int(ted.post("groups/create", name="tea", members=[bot.user])["group"])
    root = ted.post("messages/send", conversation=group, text="which tea?")["id"]
    ted.post(
        "messages/send",
        conversation=group,
        text="@threaded",
        mentions=[bot.user],
        thread=root,
    )
    until(lambda: "@threaded" in receivers.texts(url))
    until(lambda: ted.get("threads/get", thread=root)["messages"][-1]["text"] == "here")
    event = next(each for each in receivers.at(url) if each.get("text") == "@threaded")
    assert (event["meta"]["thread"], event["about"]) == (root, root)
    (answer,) = [
        each
        for each in ted.get("threads/get", thread=root)["messages"]
        if each["from"] == bot.user
    ]
    assert answer["meta"]["thread"] == root


def test_an_answer_may_have_buttons_and_that_to_a_press_goes_to_who_pressed(
    node: Harness, receivers: Receivers
) -> None:
    kim = person(node, "kim")
    bot, url = hooked(kim, "buttoned")
    question = {
        "messages": [{"text": "tea?", "buttons": [[{"text": "Yes", "value": "y"}]]}]
    }
    receivers.replies[url] = lambda post: (
        200,
        json.encode(
            {"text": "pressed"} if post.json.get("kind") == "press" else question
        ),
    )
    say(kim, bot, "hello")
    until(lambda: texts_by(bot, kim) == ["tea?"])
    *_, sent = kim.get("messages/sync", after=0, limit=200)["messages"]
    kim.post("messages/press", id=sent["id"], value="y")
    until(lambda: texts_by(bot, kim) == ["tea?", "pressed"])


def test_of_exclusive_buttons_the_first_press_counts(
    node: Harness, receivers: Receivers
) -> None:
    amy = person(node, "amy")
    ben = person(node, "ben")
    bot, url = hooked(amy, "chooser")
    group = int(amy.group(ben, bot))
    row = [{"text": "Yes", "value": "y"}, {"text": "No", "value": "n"}]
    with_buttons = bot.post(
        "messages/send", conversation=group, text="tea?", buttons=[row], exclusive=True
    )
    ben.post("messages/press", id=with_buttons["id"], value="y")
    assert ben.post("messages/press", id=with_buttons["id"], value="y")["repeated"]
    assert amy.refused("messages/press", id=with_buttons["id"], value="n")[0] == 404
    until(lambda: any(each.get("type") == "answer" for each in receivers.at(url)))
    event = next(each for each in receivers.at(url) if each.get("type") == "answer")
    found = event["kind"], event["text"], event["about"], event["sender"]
    assert found == ("press", "y", with_buttons["id"], ben.user)
    assert event["meta"]["ask"]["state"] == "answered"
    many = [
        [{"text": "x", "value": str(3 * row + one)} for one in range(3)]
        for row in range(3)
    ]
    for more in ({"buttons": many}, {}):
        call = {"conversation": group, "text": "tea?", "exclusive": True, **more}
        assert bot.refused("messages/send", **call)[0] == 400


def test_a_refused_event_is_dropped_and_one_with_another_answer_comes_again(
    node: Harness, receivers: Receivers
) -> None:
    cid = person(node, "cid")
    bot, url = hooked(cid, "down")
    dropped = webhooks_of(node.node.core).tally.dropped.total()
    answers: list[Answer] = [
        "away",
        (500, b""),
        (401, b""),
        (302, b""),
        "away",
        NOTHING,
        (400, b""),
    ]
    receivers.replies[url] = lambda _: answers.pop(0) if answers else NOTHING
    say(cid, bot, "1", "bad", "2")
    until(lambda: receivers.texts(url) == ["1"] * 6 + ["bad", "2"])
    deliveries = [post.delivery for post in receivers.posts if post.url == url]
    assert len(set(deliveries)) == 3, "each attempt has the same id"
    assert webhooks_of(node.node.core).tally.dropped.total() == dropped + 1


def test_after_a_day_an_event_is_dropped(node: Harness, receivers: Receivers) -> None:
    fay = person(node, "fay")
    bot, url = hooked(fay, "late")
    receivers.replies[url] = lambda post: (
        "away" if post.json["text"] == "old" else NOTHING
    )
    say(fay, bot, "old", "new")
    hooks = bots_of(node.node.core).hooks
    until(
        lambda: (
            "old" in receivers.texts(url) and sender_of(hooks, bot).consumer.failures
        )
    )
    assert "new" not in receivers.texts(url)
    sender_of(hooks, bot).consumer.first_tried_at -= module.TRY_SECONDS
    until(lambda: "new" in receivers.texts(url))


def test_an_event_that_comes_again_has_the_same_answer_once(
    node: Harness, receivers: Receivers
) -> None:
    guy = person(node, "guy")
    bot, url = hooked(guy, "again")
    answers = {"x": "first", "end": "last"}
    receivers.replies[url] = lambda post: (
        200,
        json.encode({"text": answers[post.json["text"]]}),
    )
    first = guy.post("messages/send", to=bot.user, text="x")["id"]
    until(lambda: texts_by(bot, guy) == ["first"])
    hooks = bots_of(node.node.core).hooks
    sender = sender_of(hooks, bot)
    until(lambda: sender.window.position >= first and not sender.consumer.is_unsaved)
    answers["x"] = "second"
    node.node.core.store.write(
        lambda sql: sql.execute(
            "UPDATE bot SET hook_entry = 0 WHERE id = %s", (int(bot.user),)
        )
    )
    hooks.log.lease.until = 0.0  # as after a pause that was longer than the lease
    until(lambda: receivers.texts(url) == ["x", "x"])
    say(guy, bot, "end")
    until(lambda: texts_by(bot, guy) == ["first", "last"])


def test_a_banned_bot_is_posted_to_when_its_ban_has_ended(
    node: Harness, receivers: Receivers
) -> None:
    lea = person(node, "lea")
    bot, url = hooked(lea, "banned")
    receivers.replies[url] = lambda post: (
        200,
        json.encode({"text": f"{post.json['text']}!"}),
    )
    admin = User(node, ADMIN.key, app="201")
    admin.post("ban", users=[bot.user], seconds=600)
    lea.post("messages/send", to=bot.user, text="1")
    free, other = hooked(lea, "free")
    say(lea, free, "later")
    until(lambda: receivers.texts(other) == ["later"])
    assert receivers.texts(url) == []
    admin.post("unban", users=[bot.user])
    say(lea, bot, "2")
    until(lambda: texts_by(bot, lea) == ["1!", "2!"])


def test_an_answer_waits_while_the_bot_has_sent_too_many(
    node: Harness, receivers: Receivers
) -> None:
    jay = person(node, "jay")
    bot, url = hooked(jay, "eager")
    receivers.replies[url] = lambda _: (
        200,
        json.encode({"messages": [{"text": str(n)} for n in range(5)]}),
    )
    tokens = accounts_of(node.node.core).tokens
    tokens.know_bot("201", bot.user)
    tokens.bot_messages.charge(("201", bot.user), 100)
    say(jay, bot, "go")
    until(lambda: texts_by(bot, jay) == list("01234"))
    assert receivers.texts(url) == ["go"], "it is not asked again"


def test_an_answer_is_dropped_while_the_quota_is_spent(
    node: Harness, receivers: Receivers
) -> None:
    sue = person(node, "sue")
    bot, url = hooked(sue, "spender")
    stored = node.node.core.metrics.stored
    sent = Flag()

    def spend(post: Post) -> Answer:
        sent.wait()
        stored.stop_at("201", 0, 2**40, "the quota is spent")
        return 200, json.encode({"text": "answer"})

    receivers.replies[url] = spend
    say(sue, bot, "one", "two")
    sent.set()
    until(lambda: receivers.texts(url) == ["one", "two"])
    stored.go_on("201")
    assert texts_by(bot, sue) == []


def test_an_answer_is_stored_even_if_the_database_refuses_it_for_longer_than_the_lease(
    node: Harness, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ivy = person(node, "ivy")
    bot, url = hooked(ivy, "patient")
    receivers.replies[url] = lambda _: (200, json.encode({"text": "answer"}))
    hooks = bots_of(node.node.core).hooks
    send = hooks.messaging.send_of_user
    refused = Flag()
    with monkeypatch.context() as patched:

        def refuse(app: str, draft: Draft, done: Any, *rest: Any, **more: Any) -> None:
            if draft.sender != bot.user:
                send(app, draft, done, *rest, **more)
                return
            patched.setattr(hooks.log, "_renew", lambda: None)
            hooks.log.lease.until = 0.0
            done(StorageUnavailable())
            refused.set()

        patched.setattr(hooks.messaging, "send_of_user", refuse)
        say(ivy, bot, "question")
        refused.wait()
        sender_of(hooks, bot).consumer.save()
    until(lambda: texts_by(bot, ivy) == ["answer"])
    assert set(receivers.texts(url)) == {"question"}


def test_a_webhook_begins_with_the_next_entry_and_ends_when_it_is_removed(
    node: Harness, receivers: Receivers
) -> None:
    hal = person(node, "hal")
    bot = hal.bot("moved")
    say(hal, bot, "before")

    def set_url(url: str) -> Any:
        return hal.post("bots/update", bot=bot.user, hook_url=url)

    first = set_url("https://first.example/")
    assert hal.get("bots")["bots"][0]["hook_url"] == "https://first.example/"
    assert hal.get("bots")["bots"][0]["hook_secret"] == ""
    say(hal, bot, "1")
    until(lambda: receivers.texts("https://first.example/") == ["1"])
    second = set_url("https://second.example/")
    assert first["hook_secret"] != second["hook_secret"]
    say(hal, bot, "2")
    until(lambda: receivers.texts("https://second.example/") == ["2"])
    (moved,) = (
        post for post in receivers.posts if post.url == "https://second.example/"
    )
    assert moved.secret == second["hook_secret"].encode()
    assert set_url("")["hook_secret"] == ""
    hooks = bots_of(node.node.core).hooks
    until(
        lambda: bot.user not in [each.hook.user for each in hooks.log.senders.values()]
    )
    say(hal, bot, "3")
    assert set_url("http://127.0.0.1:9/")["hook_secret"], "the setting allows loopback"
    for wrong in ("https://10.0.0.1/", "ftp://x", "x" * 1001):
        assert hal.refused("bots/update", bot=bot.user, hook_url=wrong) == (
            400,
            "invalid_request",
        )
    set_url("")
    assert "3" not in receivers.texts("https://second.example/")


def test_an_answer_without_messages_has_none() -> None:
    for content in (
        b"",
        b"OK",
        b"[]",
        b'{"text":1}',
        b'{"messages":{}}',
        b"\xff",
        b"[" * 5000,
        b'{"x":1}',
    ):
        assert messages_of(content) == []
    assert messages_of(b'{"text":"hi"}') == [{"text": "hi"}]
    assert len(messages_of(json.encode({"messages": [{}] * 11}))) == module.MAX_ANSWERS


# --- webhooks of bots and incoming webhooks, as each kind of database stores
# them

HASH = "0f" * 32


def test_without_a_database_there_are_no_webhooks(open_store: OpenStore) -> None:
    store = open_store()
    rows = HookStore(store)
    assert (rows.of_bots(), rows.incoming_to("shop", 1)) == ([], [])
    assert rows.incoming_with(HASH) is None
    assert not rows.set_url("shop", 1, "https://a.example/", "s")
    assert not store.has_database


def test_webhooks_end_with_the_account_of_their_bot(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    rows = HookStore(store)
    accounts = AccountStore(store)
    result = BotStore(store).add(Account(0, "shop", "", "x", ""), 0, HASH, 1, None)
    id = result.account.id
    one = IncomingHook(id, "shop", 7, 1000)
    rows.add_incoming(one, HASH)
    assert (rows.incoming_with(HASH), rows.incoming_with(HASH.upper())) == (one, None)
    assert (rows.incoming("shop", id), rows.incoming("other", id)) == (one, None)
    assert (rows.incoming_to("shop", 7), rows.incoming_to("shop", 8)) == ([one], [])
    store.part(MessageLog).writer.append(
        "shop", [Draft(sender="ann", to_user="bob", body=b"before")]
    )
    assert not rows.set_url("other", id, "https://a.example/", "s1")
    assert rows.set_url("shop", id, "https://a.example/", "s1")
    first = BotHook(
        app="shop", user=str(id), url="https://a.example/", secret="s1", position=1
    )
    assert rows.of_bots() == [first], "it begins behind what is stored"
    rows.advance(first, 5)
    assert rows.of_bots() == [replace(first, position=5)]
    assert rows.set_url("shop", id, "https://a.example/", "s2")
    rows.advance(first, 9)
    assert rows.of_bots() == [replace(first, secret="s2")], (
        "the position of the earlier one is not stored"
    )
    assert accounts.remove("shop", id)
    assert (rows.of_bots(), rows.incoming_with(HASH)) == ([], None)


def test_no_bot_is_made_after_the_deletion_of_its_owner(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    accounts = AccountStore(store)
    bots = BotStore(store)
    owner = accounts.add(Account(0, "shop", "138"), "a hash")
    assert bots.add(Account(0, "shop", "", "x", ""), owner.id, HASH, 2, None)
    assert accounts.remove("shop", owner.id)
    assert bots.add(Account(0, "shop", "", "y", ""), owner.id, HASH, 2, None) is None


# --- what holds for each user of the consumer, of the webhooks of bots --------

APP = "shop"


class BotNode(Node):
    """Two bots with webhooks."""

    lease_rows = "= ''"

    def start(self) -> None:
        rows = HookStore(self.store)
        for id, name in enumerate(RECEIVERS, 1):
            if not AccountStore(self.store).by_id(APP, id):
                assert BotStore(self.store).add(
                    Account(0, APP, name), 0, f"hash of {name}", 0, None
                )
                assert rows.set_url(APP, id, f"https://{name}/", f"secret of {name}")
        self.watched: dict[str, Flag] = {}
        messaging = SimpleNamespace(follower=SimpleNamespace(watch=self.watch))
        self.hooks = BotHooks(
            self.store,
            rows,
            self.events,
            BackEnd(self.reply),  # type: ignore[arg-type]
            messaging,  # type: ignore[arg-type]
            lambda app, bot: None,
            lambda app, bot: False,
            lambda: self.name,
            self.tally,
        )
        self._run = gevent.spawn(self.hooks.log.work.run)

    def reply(self, post: Post) -> Answer:
        receiver = post.url.removeprefix("https://").strip("/")
        self.receivers.receive(post.json["node"], receiver, [post.json["text"]])
        return 200, b""

    def send(self, receiver: str, *texts: str) -> None:
        self.append(APP, str(RECEIVERS.index(receiver) + 1), texts)

    def watch(self, news: Flag, apps: Collection[str]) -> None:
        self.watched = dict.fromkeys(apps, news)

    def committed(self, commit: Commit) -> None:
        if commit.app in self.watched:
            self.watched[commit.app].set()

    def consumers(self) -> list[Consumer[Any]]:
        return [sender.consumer for sender in self.hooks.log.senders.values()]

    def leases(self) -> list[DeliveryLease]:
        return [self.hooks.log.lease]

    def finish(self) -> None:
        self.hooks.stop()


class TestHooks(DurableContract):
    user = BotNode


# --- what Grafana, Alertmanager, GitLab and slack_sdk send to an incoming
# webhook of Slack, as messages

SAMPLES = json.decode((ROOT / "tests/vectors/slack-incoming.json").read_bytes())


@pytest.mark.parametrize("sample", SAMPLES, ids=[each["from"] for each in SAMPLES])
def test_a_message_in_the_form_of_slack_has_its_text(sample: dict[str, Any]) -> None:
    text, mentions_all = text_of(sample["given"])
    assert text.split("\n") == sample["lines"]
    assert mentions_all is sample["mentions_all"]
