"""What goes on working for somebody ends within seconds of their right, at the
other node too: one table.

What may go on, and why: webhooks of apps and event feeds belong to the app, and
end with its settings. The webhook of a bot belongs to the bot, not to its
token; it ends with the bot, and with a lock or ban of its owner. Subscriptions
of back ends (tokens of Pusher and Centrifugo) end with their connection, or at
the time in the token. An export is made for its user or app: who fetches it
shows their right then, and again while it is sent.
"""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final

import pytest

from imserver.gateway.errors import CloseCode
from imserver.operate.exports.views import while_it_holds
from tests.integration import pusher
from tests.integration.clusters import Nodes, nodes_of
from tests.integration.cmd import logged_in
from tests.integration.push_service import posts_of, push_service, subscribe
from tests.integration.raw import Raw, ask, bearer, open_socket, request, text
from tests.integration.sse import end_of, listening
from tests.integration.v1 import KEYS
from tests.support import eventually
from tests.users import User

KEY: Final = "admin-key-of-the-tests"
_numbers = count()
YES: Final = [{"text": "Yes", "value": "yes"}]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(
        tmp_path_factory.mktemp("ends"),
        2,
        storage={"look_seconds": 0.2},
        notifications={"allow_loopback": True},
        accounts={
            "registration": True,
            "registrations_per_address": 0,
            "logins_per_address": 0,
        },
        api=KEYS,
    ) as two:
        yield two


class Scene:
    """An owner of a new app with a login, a bot and a key, at the second node;
    operators use the first."""

    def __init__(self, nodes: Nodes) -> None:
        self.codes: list[int] = []  # with which streams of events have ended
        first, self.second = nodes.servers
        app = f"77{next(_numbers)}"
        self.app = app
        self.keyed, self.operator = User(first, KEY, app=app), User(first, KEY)
        notify = {"after_seconds": 0, "again_seconds": 0}
        of_app = {
            "notify": notify,
            "pusher": {**pusher.SHOP, "app_id": app, "key": app},
        }
        self.keyed.post(
            "apps/create", settings={"account_tokens": "required", **of_app}
        )
        self.friend = User.register(first, app)
        self.owner = User.register(first, app, device="phone")
        self.keyed.post("accounts/role", user=self.owner.user, role="owner")
        self.bot = self.owner.bot("helper" + self.owner.user)
        self.created = User(first, self.owner.token).post(
            "keys/create", scopes=["admin"], apps=[app]
        )
        self.key = self.created["key"]["id"]
        mine = User(self.second, self.created["secret"], app=app)
        eventually(lambda: mine.ask("GET", "apps/show", {})[0] == 200)

    def token(self, who: str) -> tuple[str, str]:
        """The credential and the user of somebody."""
        mine = {"account": self.owner, "bot": self.bot, "app": self.owner}
        return (
            (self.created["secret"], "")
            if who == "key"
            else (mine[who].token, mine[who].user)
        )

    # --- kinds: each returns what waits until it has ended --------------------

    def connection(self, stack: ExitStack, who: str) -> Callable[[], object]:
        token, user = self.token(who)
        if who == "key":
            headers = [("Authorization", f"Bearer {token}")]
            raw = stack.enter_context(
                open_socket(self.second.http, "/api/v1/publisher", more=headers)
            )
            return raw.rest
        one = stack.enter_context(
            logged_in(self.second.ws, user, self.app, serviceToken=token)
        )
        return one.rest

    def events(self, stack: ExitStack, who: str) -> Callable[[], object]:
        token, user = self.token(who)
        headers = [("Authorization", f"Bearer {token}")]
        one = stack.enter_context(
            listening(self.second.http, self.app, user, headers=headers)
        )
        return lambda: self.codes.append(end_of(one)["code"])

    def centrifuge(self, stack: ExitStack, who: str) -> Callable[[], object]:
        raw = stack.enter_context(Raw(self.second.ws)).upgrade(
            f"/connection/{self.app}/websocket"
        )
        raw.send(text(json.dumps({"id": 1, "connect": {"token": self.token(who)[0]}})))
        assert "connect" in raw.message().json
        return raw.rest

    def pusher(self, stack: ExitStack, who: str) -> Callable[[], object]:
        """Its back end signs who the user is: this ends with the user, not with
        a token."""
        client = stack.enter_context(pusher.Client(self.second.ws, self.app))
        client.signs_in(self.token(who)[1], self.app)
        client.event("pusher:signin_success")
        return client.rest

    def device(self, stack: ExitStack, who: str) -> Callable[[], object]:
        """The devices of a user are notified of nothing after the end, while
        those of others are."""
        service = stack.enter_context(contextmanager(push_service)())
        users = self.token(who)[1], self.friend.user
        sender = User.register(self.second, self.app)
        group = sender.post("groups/create", name="tea", members=[*users])["group"]

        def send(first: int, second: int) -> None:
            sender.post("messages/send", conversation=int(group), text="x")
            eventually(lambda: len(posts_of(service, users[1])) == second)
            eventually(lambda: len(posts_of(service, users[0])) == first)

        for user in users:
            subscribe(self.second.http, service, user, self.app, KEY)
        send(1, 1)
        return lambda: send(1, 2)

    def question(self, stack: ExitStack, who: str) -> Callable[[], object]:
        """Who waits for a question hears nothing of it after the end."""
        token, user = self.token(who)
        about = {
            "user": user or self.owner.user,
            "to": self.friend.user,
            "text": "?",
            "options": YES,
        }
        question = self.keyed.post("asks/create", **about)["id"]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        fields = {"id": question, "wait": 60}
        answer = pool.submit(
            User(self.second, token, app=self.app).ask, "POST", "asks/get", fields
        )
        metrics = bearer(request("/metrics"), KEY)
        one_waits = re.compile(rb"^imserver_ask_waits.* 1$", re.M)
        eventually(lambda: one_waits.search(ask(self.second.http, metrics).body))

        def closed() -> None:
            self.keyed.ask("POST", "asks/cancel", {"id": question})
            status, problem = answer.result(70)
            assert status in (401, 404), problem

        return closed


def _login(scene: Scene) -> Any:
    return scene.owner.get("accounts/devices")["devices"][0]["device"]


ENDS: Final[dict[str, dict[str, Callable[[Scene], object]]]] = {
    "account": {
        "password": lambda one: one.keyed.post(
            "accounts/password", user=one.owner.user, password="staples!"
        ),
        "logout": lambda one: one.keyed.post("accounts/logout", user=one.owner.user),
        "logout of one device": lambda one: one.owner.post(
            "accounts/devices/logout", device=_login(one)
        ),
        "lock": lambda one: one.keyed.post("accounts/lock", user=one.owner.user),
        "ban": lambda one: one.keyed.post("ban", users=[one.owner.user], seconds=600),
        "deletion": lambda one: one.keyed.post("accounts/delete", user=one.owner.user),
    },
    "bot": {
        "new token": lambda one: one.owner.post("bots/rotate", bot=one.bot.user),
        "lock of its owner": lambda one: one.keyed.post(
            "accounts/lock", user=one.owner.user
        ),
        "ban of its owner": lambda one: one.keyed.post(
            "ban", users=[one.owner.user], seconds=600
        ),
        "deletion": lambda one: one.owner.post("bots/delete", bot=one.bot.user),
    },
    "key": {
        "revocation": lambda one: one.operator.post("keys/revoke", id=one.key),
        "rotation": lambda one: one.operator.post(
            "keys/rotate", id=one.key, grace_seconds=0
        ),
        "lock of its owner": lambda one: one.keyed.post(
            "accounts/lock", user=one.owner.user
        ),
        "ban of its owner": lambda one: one.keyed.post(
            "ban", users=[one.owner.user], seconds=600
        ),
        "role of its owner": lambda one: one.keyed.post(
            "accounts/role", user=one.owner.user, role="member"
        ),
        "deletion of its owner": lambda one: one.keyed.post(
            "accounts/delete", user=one.owner.user
        ),
    },
    "app": {
        "deletion": lambda one: one.keyed.post("apps/delete", confirm=one.app),
        "deletion here": lambda one: User(one.second, KEY, app=one.app).post(
            "apps/delete", confirm=one.app
        ),
    },
}


@pytest.mark.parametrize(
    ("who", "end"), [(who, end) for who, ends in ENDS.items() for end in ends]
)
def test_all_that_goes_on_working_ends_with_the_right(
    nodes: Nodes, who: str, end: str
) -> None:
    scene = Scene(nodes)
    # The app admits no streams by keys. Those that others admit are held by
    # their key, as publishers are.
    kinds = [scene.connection, scene.question]
    if who != "key":
        kinds += [scene.events, scene.centrifuge]
    # these end the user, not a proof of who it is
    if end in ("lock", "ban", "deletion") and who != "bot":
        kinds += [scene.pusher, *([scene.device] if who == "account" else ())]
    with ExitStack() as stack:
        waiting = [kind(stack, who) for kind in kinds]
        ENDS[who][end](scene)
        for wait in waiting:
            wait()
    code = CloseCode.BANNED if {"lock", "ban"} & {*end.split()} else CloseCode.KICKED
    assert scene.codes == (
        [] if who == "key" else [CloseCode.APP_DELETED if who == "app" else code]
    )


def test_a_download_is_cut_off_when_its_right_ends() -> None:
    answers = iter((True, False))
    pieces = while_it_holds(iter([b"a", b"b", b"c"]), lambda: next(answers), 0)
    assert list(pieces) == [b"a"]
