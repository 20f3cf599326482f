"""What holds for each user of the consumer, of the webhooks of bots."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import gevent
from gevent.event import Event as Signal

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease
from imserver.messenger.messages.log.contract import Commit
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from imserver.people.bots.hooks import BotHooks
from imserver.people.bots.rows import BotStore, HookStore
from tests.backends.webhooks.conftest import constants, quick
from tests.backends.webhooks.consumer_users import RECEIVERS, Node
from tests.backends.webhooks.test_consumer_users import DurableContract
from tests.gateway.core.back_end import Answer, BackEnd, Post

__all__ = ["constants", "quick"]

APP = "shop"


class BotNode(Node):
    """Two bots with webhooks."""

    lease_rows = "= ''"

    def start(self) -> None:
        rows = HookStore(self.store)
        for id, name in enumerate(RECEIVERS, 1):
            if not AccountStore(self.store).by_id(APP, id):
                assert BotStore(self.store).add(Account(0, APP, name), 0, f"hash of {name}", 0, None)
                assert rows.set_url(APP, id, f"https://{name}/", f"secret of {name}")
        self.watched: dict[str, Signal] = {}
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
        return (
            (200, b"") if self.receivers.receive(post.json["node"], receiver, [post.json["text"]]) else "away"
        )

    def send(self, receiver: str, *texts: str) -> None:
        self.append(APP, str(RECEIVERS.index(receiver) + 1), texts)

    def watch(self, news: Signal, apps: Collection[str]) -> None:
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
