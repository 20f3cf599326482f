"""An upgrade: what the release before has stored is there, and goes on, on each
database.

Each story has two halves. The first one runs against a server of the release
before. Then that server ends, the new one starts on the same database, Redis
and data folder, and the second half runs. The old server is started from the
history of the repository (:mod:`tests.integration.release`), because that takes
two seconds, and a dump of its tables would not prove that clients go on with
their tokens and cursors.

What the nodes of both releases are to each other is in
``test_upgrade_cluster.py``.
"""

import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import inspect

from imserver.gateway.errors import CloseCode
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.storage.servers import KINDS, DatabaseServer
from tests.gateway.storage.test_migrations import connected
from tests.ports import fixed_ports
from tests.stores import OpenStore
from tests.support import ROOT, Server, eventually
from tests.users import PASSWORD, User

from . import v1
from .action import action_session
from .cmd import CmdClient, cmd_client, command, logged_in
from .gochat import register
from .protobuf import acked, chatting, pushed
from .raw import Response, ask, request
from .receiver import Post, Receiver
from .release import environment_of, run, unpack
from .setting import stop
from .sse import listening
from .test_bots import APP, entry, online, person
from .test_uploads import picture

pytestmark = [
    pytest.mark.full("programs"),
    pytest.mark.needs("redis-server"),
    pytest.mark.timeout(900),
]

ENGINES = ("sqlite", "postgresql", "mysql")
KEY = "key-of-the-operator-0123456789"
PAST = {
    "subscribe": "anybody",
    "publish": "subscribers",
    "history_size": 100,
    "history_seconds": 3600,
}
"""History in Redis."""
IN_LOG = {"subscribe": "anybody", "history": "log"}
"""History in the database."""


def assert_has_all(now: Any, before: Any) -> None:
    """An answer has all that it had before: a release may add fields."""
    if isinstance(before, dict):
        for name, value in before.items():
            assert name in now, name
            assert_has_all(now[name], value)
    elif isinstance(before, list):
        assert len(now) == len(before)
        for each in zip(now, before, strict=True):
            assert_has_all(*each)
    else:
        assert now == before


class Site:
    """One server: first of the release before, then of this one, at the same
    addresses."""

    def __init__(
        self,
        folder: Path,
        database: DatabaseServer | None,
        redis: RedisServer,
        old: Path,
    ) -> None:
        self._database = database
        url = "" if database is None else database.new_url()
        self._database_name = url.rpartition("/")[2].partition("?")[0]
        self._config = {
            "app": {**fixed_ports(), "rpc_port": 0},
            "server": {"data_dir": str(folder / "data")},
            "storage": {"url": url},
            "redis": {"addr": f"127.0.0.1:{redis.port}"},
            "cluster": {"advertise": "127.0.0.1", "redis_seconds": 10},
            "websocket": {"close_seconds": 0.1},
            "api": {"keys": [{"key": KEY, "scopes": ["push", "read", "admin"]}]},
            "accounts": {"registration": True, "registrations_per_address": 0},
            "bots": {"allow_loopback": True},
            "uploads": {"min_free_bytes": 0},
            "apps": {
                "staff": {"account_tokens": "required", "login_policy": "multi"},
                "hall": {
                    "open": True,
                    "login_policy": "multi",
                    "channels": {"past": PAST},
                },
                "signed": {"jwt": [{}]},
                "action:9": {"open": True, "keep_talks": True},
                "gochat": {},
            },
        }
        self._folder = folder
        self._start(old, "old")

    def _start(self, tree: Path, name: str) -> None:
        self.tree = tree
        self.server = Server(
            self._folder / name, config=self._config, environment=environment_of(tree)
        )
        self.http = self.server.http
        self.ws = self.server.ws

    def upgrade(self) -> None:
        self.stop()
        self._start(ROOT, "new")

    def stop(self) -> None:
        stop(self.server)

    def command(self, *arguments: str) -> str:
        """The output of ``imserver …``, of the release that runs."""
        config = str(self.server.config_file)
        return run(
            self.tree, sys.executable, "-m", "imserver", *arguments, "--config", config
        )

    def good(self, route: str, body: Any = None, key: str = KEY, **query: Any) -> Any:
        return v1.good(self.http, route, body, key=key, **query)

    def rows(self, statement: str) -> list[Any]:
        """What a statement finds in the database."""
        if self._database is not None:
            return self._database.execute(statement, self._database_name)
        with closing(
            sqlite3.connect(self._folder / "data" / "imserver.db")
        ) as connection:
            return connection.execute(statement).fetchall()

    def app(self, name: str, **settings: Any) -> None:
        """Create an app that anybody may use."""
        self.good("apps/create", {"app": name, "settings": {"open": True, **settings}})

    def store(self, app: str, sender: str, user: str, text: str, **more: Any) -> Any:
        """Store a message as a back end does; the result."""
        body = {
            "app": app,
            "user": user,
            "sender": sender,
            "text": text,
            "store": True,
            **more,
        }
        return self.good("push", body)["results"][0]


Story = Callable[[Site], Generator[None]]
STORIES: list[Story] = []


def story(function: Story) -> Story:
    """A row of :data:`STORIES`. The server is upgraded where it yields."""
    STORIES.append(function)
    return function


@story
def apps_keys_bans_and_tokens(site: Site) -> Generator[None]:
    site.app("made", max_channels=7, channels={"news": PAST})
    site.good("apps/create", {"app": "gone"})
    site.good("apps/delete", {"app": "gone", "confirm": "gone"})
    created = site.good("apps/show", app="made")
    key = site.command("key", "create", "--scope", "read", "--app", "made")
    others = {line.split()[0] for line in site.command("key", "list").splitlines()}
    revoked = site.command("key", "create", "--scope", "read")
    (id,) = {
        line.split()[0] for line in site.command("key", "list").splitlines()
    } - others
    site.command("key", "revoke", id)
    site.good("ban", {"app": "hall", "users": ["bad"], "seconds": 3600})
    bans = site.good("bans", app="hall")
    token = site.command("token", "create", "--app", "signed", "--user", "ann")
    yield
    assert_has_all(site.good("apps/show", app="made"), created)
    assert v1.refused(site.http, "apps/show", key=KEY, app="gone")[:2] == (
        404,
        "unknown_app",
    )
    assert site.good("counts", key=key)["apps"][0]["app"] == "made"
    assert v1.refused(site.http, "counts", key=key, app="hall")[0] == 403
    assert v1.refused(site.http, "counts", key=revoked)[0] == 401
    assert_has_all(site.good("bans", app="hall"), bans)
    with cmd_client(site.ws) as bad:
        bad.send(command("login", {"userID": "bad", "app": "hall"}))
        bad.closed(CloseCode.BANNED)
    with logged_in(site.ws, "ann", "signed", serviceToken=token):
        pass
    site.good("apps/set", {"app": "made", "settings": {"max_channels": 8}})
    site.app("gone")


# --- people -------------------------------------------------------------------


@story
def accounts_with_friends(site: Site) -> Generator[None]:
    ann, bob, cid = people = [
        person(site, f"f_{name}") for name in ("ann", "bob", "cid")
    ]
    ann.post(
        "accounts/set",
        nickname="Ann",
        avatar="https://example.org/a.png",
        show_presence=False,
    )
    ann.post(
        "accounts/identifiers",
        phone="13800000001",
        email="ann@example.org",
        password=PASSWORD,
    )
    for one, word, friend in (
        (ann, "request", bob),
        (bob, "accept", ann),
        (cid, "request", ann),
    ):
        one.post(f"friends/{word}", friend=friend.user)
    bob.post("friends/block", friend=cid.user)
    login = {"app": "staff", "login": "f_ann", "password": PASSWORD}
    second = v1.good(site.http, "accounts/login", {**login, "device": "pad"})

    def view() -> list[Any]:
        lists = ("friends", "incoming", "outgoing", "blocked")
        return [
            ann.get("accounts/show"),
            *(one.get("friends", list=name) for one in people for name in lists),
        ]

    before = view()
    yield
    assert_has_all(view(), before)
    assert cid.refused("messages/send", to=bob.user, text="hi") == (403, "not_allowed")
    for identifier in ("f_ann", "13800000001", "ann@example.org"):
        answer = v1.good(site.http, "accounts/login", {**login, "login": identifier})
        assert answer["account"]["user"] == ann.user
    assert (
        v1.refused(site.http, "accounts/login", {**login, "password": "wrong"})[1]
        == "wrong_login"
    )
    tablet = User(site, second["token"], ann.user, APP)
    with online(ann, site.ws), online(tablet, site.ws):
        pass
    ann.post("friends/accept", friend=cid.user)
    assert person(site, "f_dan").user not in [one.user for one in people]
    ann.post("accounts/logout")
    for one in (ann, tablet):
        assert one.refused("friends/request", friend=cid.user)[0] == 401


@story
def groups_and_invitations(site: Site) -> Generator[None]:
    ann, bob, cid, dan = (
        person(site, f"g_{name}") for name in ("ann", "bob", "cid", "dan")
    )
    group = ann.post("groups/create", name="tea", members=[bob.user, cid.user])["group"]
    ann.post("groups/role", group=group, member=bob.user, role="admin")
    ann.post("groups/mute", group=group, member=cid.user, until=4_000_000_000)
    ann.post("groups/options", group=group, history="all", pin="admin")
    code = bob.post("invitations/create", group=group, uses=1)["code"]
    view = [
        lambda: ann.get("groups/show", group=group),
        lambda: ann.get("groups/members", group=group),
        lambda: bob.get("groups"),
        lambda: bob.get("invitations", group=group),
    ]
    before = [look() for look in view]
    yield
    assert_has_all([look() for look in view], before)
    assert cid.refused("messages/send", conversation=int(group), text="hi")[0] == 403
    assert dan.post("invitations/accept", code=code)["status"] == "joined"
    eve = person(site, "g_eve")
    assert eve.refused("invitations/accept", code=code) == (
        404,
        "unknown_invitation",
    ), "it was for one"
    sent = dan.post("messages/send", conversation=int(group), text="hello")
    assert bob.get("messages", conversation=group)["messages"][-1]["id"] == sent["id"]


# --- bots and back ends -------------------------------------------------------


def texts_of(posts: list[Post]) -> list[str]:
    return [post.json["text"] for post in tuple(posts)]


@story
def bots_with_webhooks(site: Site) -> Generator[None]:
    ann = person(site, "b_ann")
    bot = ann.bot("echo_bot")
    other = ann.bot("poll_bot")
    group = ann.post("groups/create", name="bots", members=[other.user])["group"]
    hook = ann.post("hooks", group=group, nickname="Builds")
    other.post("bots/commands", commands=[{"name": "brew", "description": "Make tea"}])
    with Receiver() as receiver:
        receiver.reply = lambda post: (
            200,
            b'{"text":"%b!"}' % post.json["text"].encode(),
        )
        secret = ann.post("bots/update", bot=bot.user, hook_url=receiver.url)[
            "hook_secret"
        ]

        def answers() -> list[str]:
            entries = ann.get("messages/sync", after=0)["messages"]
            return [each["text"] for each in entries if each["from"] == bot.user]

        ann.post("messages/send", to=bot.user, text="one")
        eventually(lambda: answers() == ["one!"])
        receiver.reply = lambda _: (503, b"")
        ann.post("messages/send", to=bot.user, text="two")
        eventually(lambda: "two" in texts_of(receiver.posts))
        delivery = receiver.posts[-1].headers["imserver-delivery"]
        bots = ann.get("bots")
        yield
        assert_has_all(ann.get("bots"), bots)
        receiver.forget()
        receiver.reply = lambda post: (
            200,
            b'{"text":"%b!"}' % post.json["text"].encode(),
        )
        ann.post("messages/send", to=bot.user, text="three")
        eventually(
            lambda: answers() == ["one!", "two!", "three!"],
            what="it goes on where it was",
        )
        assert texts_of(receiver.posts) == ["two", "three"]
        assert receiver.posts[0].headers["imserver-delivery"] == delivery
        assert secret
    answer = ask(
        site.http, request(hook["url"], method="POST", body=b'{"text":"green"}')
    )
    assert (answer.status, answer.json["conversation"]) == (200, int(group))
    ann.post("messages/send", conversation=int(group), text="/brew green")
    with online(other, site.ws) as at_other:
        while (seen := entry(at_other))["kind"] != "message":
            pass
    assert seen["meta"]["command"] == {
        "bot": other.user,
        "name": "brew",
        "text": "green",
    }


@story
def durable_events_of_a_back_end(site: Site) -> Generator[None]:
    with Receiver() as receiver:
        site.app(
            "told",
            webhook={
                **receiver.settings,
                "events": ["message", "absent"],
                "absent_seconds": 1,
            },
        )
        site.app("pulled", webhook={"events": ["message"]})
        receiver.reply = lambda _: (200, b"")
        site.store("told", "ann", "bob", "one")
        receiver.wait_for(1, "message")
        receiver.wait_for(1, "absent")
        receiver.reply = lambda _: (503, b"")
        site.store("told", "ann", "bob", "two")
        eventually(lambda: "two" in str(receiver.posts[-1].body))
        for text in ("one", "two"):
            site.store("pulled", "ann", "bob", text)
        page = site.good("events/log", app="pulled", limit=1)
        log = [
            {**event, "node": ""}
            for event in site.good("events/log", app="pulled")["events"]
        ]
        yield
        receiver.forget()
        site.store("told", "ann", "bob", "three")
        texts = [event["text"] for event in receiver.wait_for(2, "message")]
        assert texts == ["two", "three"]
        assert receiver.events("absent") == [], "bob was told of once"
        assert [
            {**event, "node": ""}
            for event in site.good("events/log", app="pulled")["events"]
        ] == log
        site.store("pulled", "ann", "bob", "three")
        rest = site.good("events/log", app="pulled", after=page["next"])
        assert [event["text"] for event in page["events"] + rest["events"]] == [
            "one",
            "two",
            "three",
        ]


# --- messages -----------------------------------------------------------------


@story
def stored_messages(site: Site) -> Generator[None]:
    ann = person(site, "m_ann")
    bob = person(site, "m_bob")
    group = int(ann.post("groups/create", name="m", members=[bob.user])["group"])
    conversation = 0
    for where in ({"to": bob.user}, {"conversation": group}):
        sent = [
            ann.post("messages/send", text=f"tea {number}", **where)
            for number in range(6)
        ]
        ids = [each["id"] for each in sent]
        conversation = sent[0]["conversation"]
        ann.post("messages/edit", id=ids[0], text="coffee")
        ann.post("messages/recall", id=ids[1])
        bob.post("messages/react", id=ids[2], emoji="+1")
        bob.post("messages/react", id=ids[3], emoji="+1")
        bob.post("messages/react", id=ids[3], emoji="+1", remove=True)
        ann.post("messages/pin", id=ids[2])
        bob.post("messages/read", conversation=conversation, id=ids[3])
        ann.post("messages/hide", ids=[ids[4]])
        for message in (
            {"text": "answer", "reply_to": ids[2]},
            {"text": "you", "mentions": [ann.user]},
            {"data": {"n": 1}, "type": "order", "client_msg_id": "once"},
        ):
            bob.post("messages/send", conversation=conversation, **message)
    views: list[Callable[[], Any]] = []
    for one in (ann, bob):
        for route, query in (
            ("conversations", {}),
            ("messages/sync", {"after": 0}),
            ("messages/marks", {}),
            ("messages/search", {"text": "tea"}),
            *(
                (word, {"conversation": conversation})
                for word in ("messages", "messages/receipts")
            ),
            ("conversations/pins", {"conversation": conversation}),
        ):
            views.append(
                lambda one=one, route=route, query=query: one.get(route, **query)
            )
    before = [view() for view in views]
    yield
    assert_has_all([view() for view in views], before)
    question = ann.post(
        "asks/create",
        conversation=conversation,
        text="Tea?",
        free_text=True,
        seconds=60,
    )
    assert bob.post("asks/answer", id=question["id"], text="yes")["accepted"]
    assert (
        bob.post("messages/send", conversation=conversation, **message)["repeated"]
        is True
    )
    ann.post("messages/recall", id=ids[0])
    bob.post("messages/react", id=ids[2], emoji="+1", remove=True)
    ann.post("messages/pin", id=ids[2], remove=True)
    bob.post("messages/read", conversation=conversation, id=ids[5])
    sent = ann.post("messages/send", conversation=conversation, text="later tea")
    assert bob.get("messages/search", text="later")["messages"][0]["id"] == sent["id"]
    assert bob.get("conversations/pins", conversation=conversation)["messages"] == []


def ids_behind(one: CmdClient, last: int) -> list[int]:
    """The ids of all entries until this one."""
    found: list[int] = []
    while not found or found[-1] < last:
        found.append(entry(one)["id"])
    return found


@story
def clients_with_cursors(site: Site) -> Generator[None]:
    """A client of each dialect that has a cursor goes on behind it."""
    ids = [
        site.store("hall", "ann", "cur", str(number))["stored"]["id"]
        for number in range(5)
    ]
    with logged_in(site.ws, "cur", "hall", cursor=0) as one:
        assert ids_behind(one, ids[2])[-1] == ids[2]
    page = site.good("messages/sync", app="hall", user="cur", after=0, limit=3)
    marks = site.good("messages/marks", app="hall", user="cur")
    yield
    ids += [
        site.store("hall", "ann", "cur", str(number))["stored"]["id"]
        for number in range(5, 8)
    ]
    with (
        logged_in(site.ws, "cur", "hall", cursor=ids[2]) as one,
        listening(site.http, "hall", "cur", cursor=ids[2]) as stream,
        logged_in(site.ws, "cur", "hall") as synced,
    ):
        assert ids_behind(one, ids[-1]) == ids[3:]
        assert [stream.stored()["id"] for _ in ids[3:]] == ids[3:]
        rest = synced.ask_cmd("sync", {"cursor": page["after"]})[2]
        assert [each["id"] for each in [*page["messages"], *rest["messages"]]] == ids
        ids.append(site.store("hall", "ann", "cur", "live")["stored"]["id"])
        assert entry(one)["id"] == stream.stored()["id"] == ids[-1]
    changed = site.good(
        "messages/marks", app="hall", user="cur", version=marks["version"]
    )
    assert changed["version"] >= marks["version"]


@story
def clients_of_gochat(site: Site) -> Generator[None]:
    ann = register(site.http, "13700000001")
    bob = register(site.http, "13700000002")
    with chatting(site.ws, ann) as one, chatting(site.ws, bob) as two:
        for number in (1, 2):
            one.single(number, int(bob[0]), f"old {number}")
            assert acked(one.output())[0] == number
        last = pushed(two.output()).seq
    yield
    with chatting(site.ws, ann) as one, chatting(site.ws, bob, after=last) as two:
        assert [each.text for each in two.missed] == ["old 2"]
        one.single(1, int(bob[0]), "new 1")  # a connection counts from 1 again
        assert acked(one.output())[0] == 1
        assert pushed(two.output()).text == "new 1"
    with chatting(site.ws, bob) as two:
        assert [each.text for each in two.missed] == ["old 1", "old 2", "new 1"]


@story
def clients_of_the_action_dialect(site: Site) -> Generator[None]:
    """They have no cursor: the server keeps their position."""
    with action_session(site.ws, "ann", 9, "bob") as ann:
        ann.say("one")
        with action_session(site.ws, "bob", 9, "ann") as bob:
            bob.receives("ann", "one", "bob")
            bob.until_pinged()
        position = (
            "SELECT id FROM talk_position WHERE app = 'action:9' AND member = 'bob'"
        )
        eventually(
            lambda: site.rows(position),
            what="the position, which is written once a second",
        )
        ann.say("two")
    yield
    with (
        action_session(site.ws, "ann", 9, "bob") as ann,
        action_session(site.ws, "bob", 9, "ann") as bob,
    ):
        bob.receives("ann", "two", "bob")
        ann.say("three")
        bob.receives("ann", "three", "bob")


# --- files and channels -------------------------------------------------------


def fetch(site: Site, path: str) -> Response:
    return ask(site.http, request(path))


@story
def uploads(site: Site) -> Generator[None]:
    content = picture()
    authorised = ("Authorization", f"Bearer {KEY}")
    path = f"{v1.PREFIX}uploads?{urlencode({'app': 'hall', 'user': 'ann', 'name': 'tea.png'})}"
    answer = ask(
        site.http, request(path, method="POST", headers=[authorised], body=content)
    )
    assert answer.status == 201, answer
    file = answer.json
    tus = [authorised, ("Tus-Resumable", "1.0.0")]
    path = f"{v1.PREFIX}uploads/tus?app=hall&user=ann"
    half = len(content) // 2
    length = ("Upload-Length", str(len(content)))
    part = (
        ask(site.http, request(path, method="POST", headers=[*tus, length])).header(
            "Location"
        )
        or ""
    )

    def add(offset: int, piece: bytes) -> Response:
        kind = ("Content-Type", "application/offset+octet-stream")
        head = [*tus, kind, ("Upload-Offset", str(offset))]
        return ask(site.http, request(part, method="PATCH", headers=head, body=piece))

    assert add(0, content[:half]).status == 204
    listed = site.good("uploads", app="hall", user="ann")
    thumbnail = fetch(site, f"{file['url']}/thumbnail").body
    yield
    assert fetch(site, file["url"]).body == content
    assert fetch(site, f"{file['url']}/thumbnail").body == thumbnail
    assert_has_all(
        site.good("uploads", app="hall", user="ann")["files"], listed["files"]
    )
    assert add(half, content[half:]).status == 204
    finished = ask(site.http, request(part, headers=tus)).json
    assert fetch(site, finished["url"]).body == content
    site.good("uploads/delete", {"id": file["id"]})
    assert fetch(site, file["url"]).status == 404


@story
def ids_of_pushes(site: Site) -> Generator[None]:
    """An id that was accepted is known behind the upgrade, live and stored."""
    live = {"app": "hall", "user": "ids", "text": "once", "id": "live-id"}
    stored = {**live, "user": "nobody", "id": "stored-id", "store": True}
    with logged_in(site.ws, "ids", "hall"):
        assert site.good("push", live)["results"][0]["status"] == "sent"
    answer = site.good("push", stored)
    yield
    with logged_in(site.ws, "ids", "hall") as one:
        assert site.good("push", live)["results"][0]["status"] == "repeated"
        one.no_push("msg")
    assert site.good("push", stored) == answer, "it is where it was"


# --- the tests ----------------------------------------------------------------


class StoryRun:
    """A story, and what went wrong in its first half."""

    def __init__(self, begin: Story, site: Site) -> None:
        self._halves = begin(site)
        self._failure: BaseException | None = None
        try:
            next(self._halves)
        except (Exception, pytest.fail.Exception) as failure:
            self._failure = failure

    def go_on(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert next(self._halves, self) is self

    def close(self) -> None:
        self._halves.close()


@contextmanager
def database_of(engine: str) -> Iterator[DatabaseServer | None]:
    """A database server of its own (None: SQLite in the data folder)."""
    if engine == "sqlite":
        yield None
        return
    server: DatabaseServer = KINDS[engine]()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module", params=ENGINES)
def upgraded(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_redis: RedisServer,
) -> Iterator[dict[Story, StoryRun]]:
    """All stories; their server has been upgraded."""
    old = unpack(tmp_path_factory.mktemp("before"))
    with shared_redis.client() as client:
        client.flushall()
    with ExitStack() as stack:
        database = stack.enter_context(database_of(request.param))
        site = Site(tmp_path_factory.mktemp("site"), database, shared_redis, old)
        stack.callback(site.stop)
        stories = {each: StoryRun(each, site) for each in STORIES}
        for each in stories.values():
            stack.callback(each.close)
        site.upgrade()
        yield stories


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_what_the_release_before_has_stored_goes_on(
    upgraded: dict[Story, StoryRun], story: Story
) -> None:
    upgraded[story].go_on()


def test_settings_of_the_release_before_are_valid_and_its_backup_is_restored(
    tmp_path: Path,
) -> None:
    """The settings are its defaults, and what its ``imserver init`` has
    written."""
    old = unpack(tmp_path / "before")
    data = str(tmp_path / "data")
    copy = str(tmp_path / "copy.db")

    def command(tree: Path, *arguments: str) -> str:
        return run(tree, sys.executable, "-m", "imserver", *arguments)

    command(old, "init", str(tmp_path))
    for file in (old / "config" / "default.yaml", tmp_path / "imserver.yaml"):
        command(ROOT, "check-config", "--config", str(file))
    where = ("--data-dir", data)
    command(old, "app", "create", "copied", *where)
    command(old, "backup", copy, *where)
    command(old, "app", "create", "later", *where)
    command(ROOT, "restore", copy, *where)
    listed = command(ROOT, "app", "list", *where)
    assert "copied" in listed
    assert "later" not in listed


@pytest.mark.full("programs")
@pytest.mark.needs("git")
@pytest.mark.parametrize(
    "commit",
    ["f37e25a6", "", "f0a2862f", "b9a87c62"],
    ids=["0020", "1.0", "0038", "0040"],
)
def test_an_old_database_becomes_as_a_new_one(
    database_servers: dict[str, DatabaseServer],
    empty_url: str,
    open_store: OpenStore,
    tmp_path: Path,
    commit: str,
) -> None:
    new = f"sqlite:///{tmp_path}/new.db"
    if not empty_url.startswith("sqlite"):
        new = database_servers[empty_url.partition(":")[0]].new_url()
    make = (
        "from imserver.config.settings import StorageSettings; "
        "from imserver.storage.store import Store; "
        f"Store(StorageSettings({empty_url!r}, seconds=60), '', threaded=False).start()"
    )
    run(unpack(tmp_path / "old", commit), sys.executable, "-c", make)
    for url in (empty_url, new):
        open_store(url).close()
    assert _schema(empty_url) == _schema(new)


def _schema(url: str) -> Any:
    """All columns, keys, constraints and indexes of a database."""
    with connected(url) as connection:
        tables = inspect(connection)
        return {
            name: (
                [
                    {**each, "type": repr(each["type"])}
                    for each in tables.get_columns(name)
                ],
                tables.get_pk_constraint(name),
                sorted(map(str, tables.get_unique_constraints(name))),
                sorted(map(str, tables.get_indexes(name))),
                tables.get_table_options(name),
            )
            for name in tables.get_table_names()
        }
