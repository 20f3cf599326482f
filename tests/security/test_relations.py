"""Every route and command with which one user sees or reaches another, asked by
users in every relation.

``relations.txt`` has a row for each, and a column for what the user who asks is
to Ann. A cell is ``+``: the user sees Ann, or reaches her; ``-``: refused;
``0``: the answer is the same whether Ann is online or not, or nothing reaches
her; ``.``: such a user cannot ask this. ``python -m
tests.security.test_relations`` writes the table anew; read the difference
before you commit it. A new route or command that names another user needs a
row, or a reason in :data:`NO_ROW`.
"""

import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest
from msgspec import Struct

from imserver.dialects.action.service import ActionState
from imserver.dialects.action.wire import Say
from imserver.dialects.protobuf.api import ROUTES as GOCHAT
from imserver.dialects.protobuf.uplink import ProtobufState
from imserver.dialects.protobuf.wire import ChatMessage, FullProtobufDialect
from imserver.gateway import errors
from imserver.gateway.auth.principal import Need
from imserver.gateway.dialects.cmd import api as cmd
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.http.operation import Operation
from imserver.gateway.model import Event, Reply
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.messenger.groups.wire import CreateGroup, InviteToGroup
from imserver.messenger.later.service import ScheduledMessages
from imserver.messenger.log.commands import Pin, React, Send, Typing
from imserver.people.accounts import friends
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.parts import bots_of
from imserver.people.bots.wire import OpenAnswer
from tests.rows import DOCUMENTED, ROUTES, sections
from tests.support import until

from .node_harness import ALL, Harness, config, searched, written

TABLE: Final = Path(__file__).with_name("relations.txt")
APP: Final = "201"
ACTION: Final = "action:201"
RELATIONS: Final = (
    "friend",
    "met",
    "stranger",
    "hidden",
    "blocking",
    "blocked",
    "bot",
    "its owner",
    "itself",
    "key",
)
"""What the user who asks is to Ann. ``friend``, ``stranger``: without a
conversation. ``met``: they have one. ``hidden``: a friend, and Ann does not
show her presence. ``blocking``: they have a conversation, and the user has
blocked Ann. ``blocked``: Ann has blocked the user. ``bot``: a bot that she does
not know. ``its owner``: Ann has blocked the owner of the bot; ``itself``: the
bot, with which she had a conversation. ``key``: a back end asks for a user whom
Ann has blocked."""
OF_BOTS: Final = frozenset({"bot", "its owner", "itself"})


class Session:
    """A connection of a user in this process, and what it has received."""

    def __init__(
        self, harness: Harness, app: str, user: str, dialect: Any = None
    ) -> None:
        self.parts = harness.node.core
        near, self.far = socket.socketpair()
        self.far.setblocking(False)
        near.setblocking(False)
        codec = dialect or self.parts.codec(CmdDialect())
        encoding = Encoding(codec, self.parts.dispatcher.serve, 65536, 0)
        sock = socket._socket.socket(fileno=near.detach())  # type: ignore[attr-defined]
        self.connection = Connection(
            self.parts.network.context, sock, "192.0.2.1:1", encoding, monotonic()
        )
        self.parts.hub.join(self.parts.hub.apps[app], self.connection, user, "")
        self.received = b""

    def close(self) -> None:
        """End it without a word."""
        self.connection.close(1001)
        self.far.close()
        until(
            lambda: (
                self.connection.app is None
                or not self.parts.hub.is_online(*self.names())
            )
        )

    def names(self) -> tuple[str, str]:
        return self.connection.app or "", self.connection.user or ""

    def read(self) -> bytes:
        with suppress(BlockingIOError):
            self.received += self.far.recv(1 << 20)
        return self.received

    def run(self, command: Any) -> str:
        """Run a command; ``-`` if it is refused."""
        row = self.parts.dispatcher.table[type(command)]
        replies = list[Reply]()
        try:
            found = row.run(
                self.connection, command, *([replies.append] if row.answers else [])
            )
        except errors.ServiceRefused:
            return "-"
        if row.answers and found is None:
            until(lambda: replies)
        reply = found or replies[0]
        return "+" if reply.code == 200 else "-"


class Pair:
    """Ann, who is online, and a user who asks."""

    numbers = count(1)

    def __init__(self, harness: Harness, relation: str, app: str) -> None:
        self.harness = harness
        self.parts = harness.node.core
        self.relation = relation
        self.app = app
        self.ann, self.ann_token = self.account()
        owner, self.token = self.user, _ = self.account()
        if relation in OF_BOTS:
            bot, self.token = bots_of(self.parts).bots.create(app, owner, "")
            self.user = bot.account.user
        if relation in ("met", "blocking", "itself"):
            self.send(self.ann, self.user)
        if relation in ("friend", "hidden"):
            self.relate(self.ann, self.user, friends.add)
        if relation == "hidden":
            accounts_of(self.parts).accounts.change(
                app, self.ann, {"show_presence": False}
            )
        self.token = ALL.key if relation == "key" else self.token
        self.session_token = harness.session(app, self.user)
        self.before: dict[str, Any] = {}
        self.owner = owner
        self.online: Session | None = None
        self.asking: list[Session] = []

    def block(self) -> None:
        """One of the two blocks the other, after what a row has prepared."""
        if self.relation in ("blocked", "key", "itself"):
            self.relate(self.ann, self.user, friends.block)
        if self.relation == "its owner":
            self.relate(self.ann, self.owner, friends.block)
        if self.relation == "blocking":
            self.relate(self.user, self.ann, friends.block)

    def account(self) -> tuple[str, str]:
        number = next(self.numbers)
        answer = accounts_of(self.parts).rows.add(
            Account(0, self.app, f"1390{number:07}", name=f"name{number}"), "no hash"
        )
        return answer.user, accounts_of(self.parts).accounts.token(answer).token

    def name(self) -> str:
        return accounts_of(self.parts).accounts.known(self.app, self.ann).name

    def relate(self, one: str, other: str, change: Any) -> None:
        accounts_of(self.parts).friends.change(self.app, one, other, change)

    def send(self, sender: str, to: str) -> dict[str, Any]:
        """A stored message of a user; it may be the first one."""
        body = {"app": self.app, "user": sender, "to": to, "text": "hello"}
        status, sent = self.harness.call("POST", "/api/v1/messages/send", body, ALL.key)
        assert status == 200, sent
        return dict(sent)

    def log_in(self) -> None:
        """Ann comes online, and receives stored messages and signals."""
        self.online = Session(self.harness, self.app, self.ann)
        self.online.connection.encoding.serve(
            self.online.connection, b'{"seq":"s","cmd":"sync","data":{"after":0}}', True
        )
        until(lambda: b'"seq":"s"' in self.online.read())  # type: ignore[union-attr]

    def log_out(self) -> None:
        assert self.online is not None
        self.online.close()
        self.online = None

    def session(self, dialect: Any = None) -> Session:
        """A connection of the user who asks."""
        answer = Session(self.harness, self.app, self.user, dialect)
        self.asking.append(answer)
        return answer

    def close(self) -> None:
        for session in (*self.asking, *([self.online] if self.online else [])):
            session.close()

    # --- asking ---------------------------------------------------------------

    def post(
        self, path: str, document: dict[str, Any], token: str = ""
    ) -> tuple[int, Any]:
        """Ask a path of /api/v1 with the token of the user."""
        document = {"app": self.app, **document}
        if self.relation == "key":
            document = {"user": self.user, **document}
        return self.harness.call(
            "POST", f"/api/v1/{path}", document, token or self.token
        )

    def form(self, method: str, path: str, fields: dict[str, Any]) -> Any:
        """Ask a route of the originals, with a session token or as a back end;
        the decoded answer."""
        route = next(row for row in ROUTES if (row.method, row.path) == (method, path))
        token = ALL.key if self.relation == "key" else self.session_token
        fields = {"appID": self.app.removeprefix("action:"), **fields}
        query, body = (fields, b"") if method == "GET" else ({}, fields)
        finished = self.harness.ask(
            route, {"authorization": f"Bearer {token}"}, query, body
        )
        return msgspec.json.decode(finished.body)

    def gochat(self, path: str, fields: dict[str, Any]) -> Any:
        route = next(row for row in GOCHAT if row.path == path)
        return msgspec.json.decode(
            self.harness.ask(route, {"token": self.token}, body=fields).body
        )


PERSON: Final = frozenset({"account", "key"})


def nothing(_: Pair) -> None:
    """Prepare nothing."""


class Row(Struct, frozen=True):
    """One row. ``kinds``: the users who ask this. ``prepare`` runs before Ann
    blocks anybody.

    ``ask`` returns the answer (``sees``: it is compared between Ann online and
    offline), or ``+``, ``-`` for an action that was accepted or refused; it has
    reached Ann if her connection receives something.
    """

    ask: Callable[[Pair], Any]
    sees: bool = False
    kinds: frozenset[str] = PERSON
    app: str = APP
    prepare: Callable[[Pair], None] = nothing
    names: tuple[str, ...] = ()
    """The commands or routes that this row is about, if its name is not
    that."""


def sign(status: int) -> str:
    return "+" if status in (200, 201) else "-"


def posts(
    path: str, document: Callable[[Pair], dict[str, Any]]
) -> Callable[[Pair], str]:
    return lambda pair: sign(pair.post(path, document(pair))[0])


def list_online(pair: Pair) -> Any:
    """Whom the directory has online, and everybody."""
    query = {"app": pair.app, **({"user": pair.user} if pair.relation == "key" else {})}
    return [
        pair.harness.call(
            "GET",
            "/api/v1/accounts/directory",
            token=pair.token,
            query={**query, **more},
        )
        for more in ({"online": "true"}, {})
    ]


def to_ann(pair: Pair) -> dict[str, Any]:
    return {"to": pair.ann, "text": "x"}


def schedule(pair: Pair) -> str:
    """Await her coming: she is there."""
    answer = posts("scheduled/create", lambda pair: {**to_ann(pair), "awaits": True})(
        pair
    )
    rows = pair.parts.service(ScheduledMessages).rows
    until(lambda: all(row.reason for row in rows.of_user(pair.app, pair.user)[0]))
    return answer


def talked(pair: Pair) -> None:
    """Both have written in a conversation."""
    pair.before = pair.send(pair.user, pair.ann)
    pair.before |= {"hers": pair.send(pair.ann, pair.user)["id"]}


def own_group(pair: Pair) -> None:
    body = {"app": pair.app, "user": pair.user, "name": "tea"}
    pair.before = pair.harness.call("POST", "/api/v1/groups/create", body, ALL.key)[1]


def invited(pair: Pair) -> None:
    """Ann has made a link to be friends."""
    body = {"app": pair.app}
    pair.before = pair.harness.call(
        "POST", "/api/v1/invitations/create", body, pair.ann_token
    )[1]


def programmed(pair: Pair) -> None:
    """Ann has a bot with a command."""
    body = {"app": pair.app, "name": f"weather{pair.ann}"}
    pair.before = pair.harness.call("POST", "/api/v1/bots", body, pair.ann_token)[1]
    body = {"app": pair.app, "commands": [{"name": "today"}]}
    assert (
        pair.harness.call("POST", "/api/v1/bots/commands", body, pair.before["token"])[
            0
        ]
        == 200
    )


def ask_commands(pair: Pair) -> str:
    query = {"app": pair.app, "bot": pair.before["id"]}
    query |= {"user": pair.user} if pair.relation == "key" else {}
    _, answer = pair.harness.call(
        "GET", "/api/v1/bots/commands", query=query, token=pair.token
    )
    return "+" if answer["commands"] else "-"


def done(answer: Any) -> str:
    """Of a route of the originals."""
    return sign(answer["code"])


def push(pair: Pair) -> str:
    return done(
        pair.form(
            "POST",
            "/user/sendMessage",
            {"userID": pair.ann, "msgID": "1", "message": "x"},
        )
    )


def push_twice(pair: Pair) -> Any:
    """What a push tells, and the repeat of one with the same id."""
    fields = {
        "userID": pair.ann,
        "msgID": f"twice-{pair.online is None}",
        "message": "x",
    }
    return [pair.form("POST", "/user/sendMessage", fields) for _ in range(2)]


def list_room(pair: Pair) -> Any:
    if pair.online is not None:
        pair.parts.channels.subscriptions.join(ACTION, "tea", pair.online.connection)
    return pair.form("GET", "/user/list", {"groupsId": "tea"})


def run(command: Callable[[Pair], Any]) -> Callable[[Pair], str]:
    return lambda pair: pair.session().run(command(pair))


def chat(pair: Pair) -> str:
    session = pair.session(FullProtobufDialect())
    session.connection.dialect_state = ProtobufState()
    message = ChatMessage(1, 1, int(pair.ann), int(pair.user), 1, b"x", 1795155801000)
    assert (
        pair.parts.dispatcher.table[ChatMessage].run(session.connection, message)
        is None
    )
    until(session.read)
    return "+" if session.connection.dialect_state.last[1] else "-"


def say(pair: Pair) -> str:
    session = pair.session()
    session.connection.dialect_state = ActionState(peer=pair.ann)
    return session.run(Say("text", "x"))


SESSION: Final = frozenset({"session", "key"})
MEMBER: Final = frozenset({"account", "bot", "key"})
CLIENT: Final = frozenset({"account", "bot"})

ROWS: Final[dict[str, Row]] = {
    # who sees whether Ann is online
    "GET /user/online": Row(
        lambda p: p.form("GET", "/user/online", {"userID": p.ann}),
        sees=True,
        kinds=SESSION,
    ),
    "POST /user/onlineBatch": Row(
        lambda p: p.form("POST", "/user/onlineBatch", {"userIDs": [p.ann]}),
        sees=True,
        kinds=SESSION,
    ),
    "GET /user/list": Row(
        lambda p: p.form("GET", "/user/list", {}), sees=True, kinds=SESSION
    ),
    "GET /user/list?groupsId=": Row(
        list_room, sees=True, kinds=SESSION, app=ACTION, names=("GET /user/list",)
    ),
    "answer of POST /user/sendMessage": Row(
        push_twice, sees=True, kinds=SESSION, names=("POST /user/sendMessage",)
    ),
    "POST /api/v1/accounts/cards": Row(
        lambda p: p.post("accounts/cards", {"users": [p.ann]}), sees=True, kinds=MEMBER
    ),
    "POST /api/v1/accounts/find": Row(
        lambda p: p.post("accounts/find", {"text": p.name()}), sees=True
    ),
    "POST /api/v1/accounts/search": Row(
        lambda p: p.post("accounts/search", {"text": p.name()}), sees=True
    ),
    "GET /api/v1/accounts/directory": Row(list_online, sees=True),
    # who reaches Ann
    "POST /user/sendMessage": Row(push, kinds=SESSION),
    "POST /user/sendMessageAll": Row(
        lambda p: done(
            p.form("POST", "/user/sendMessageAll", {"userID": p.user, "message": "x"})
        ),
        kinds=SESSION,
    ),
    "POST /api/v1/messages/send": Row(posts("messages/send", to_ann), kinds=MEMBER),
    "POST /api/v1/scheduled/create": Row(schedule, kinds=MEMBER),
    "messages/send to a conversation": Row(
        posts(
            "messages/send",
            lambda p: {"conversation": p.before["conversation"], "text": "x"},
        ),
        kinds=MEMBER,
        prepare=talked,
        names=("POST /api/v1/messages/send",),
    ),
    **{
        f"POST /api/v1/{path}": Row(posts(path, document), kinds=kinds, prepare=prepare)
        for path, kinds, document, prepare in (
            (
                "asks/create",
                MEMBER,
                lambda p: {**to_ann(p), "free_text": True},
                nothing,
            ),
            (
                "messages/edit",
                MEMBER,
                lambda p: {"id": p.before["id"], "text": "y"},
                talked,
            ),
            (
                "messages/react",
                MEMBER,
                lambda p: {"id": p.before["hers"], "emoji": "👍"},
                talked,
            ),
            ("messages/pin", MEMBER, lambda p: {"id": p.before["hers"]}, talked),
            ("messages/stream/open", frozenset({"bot", "key"}), to_ann, nothing),
            ("friends/request", PERSON, lambda p: {"friend": p.ann}, nothing),
            (
                "invitations/accept",
                PERSON,
                lambda p: {"code": p.before["code"]},
                invited,
            ),
            (
                "groups/create",
                MEMBER,
                lambda p: {"name": "tea", "members": [p.ann]},
                nothing,
            ),
            (
                "groups/invite",
                MEMBER,
                lambda p: {"group": p.before["group"], "members": [p.ann]},
                own_group,
            ),
        )
    },
    "GET /api/v1/bots/commands": Row(ask_commands, kinds=MEMBER, prepare=programmed),
    "POST /friend/add": Row(
        lambda p: done(p.gochat("/friend/add", {"friend_id": p.ann})),
        kinds=frozenset({"account"}),
        app="gochat",
    ),
    "POST /group/create": Row(
        lambda p: done(p.gochat("/group/create", {"name": "tea", "ids": [p.ann]})),
        kinds=frozenset({"account"}),
        app="gochat",
    ),
    "Send": Row(run(lambda p: Send(to=p.ann, body=b"x")), kinds=CLIENT),
    "Typing": Row(run(lambda p: Typing(to=p.ann)), kinds=CLIENT),
    "React": Row(
        run(lambda p: React(p.before["hers"], "👍")), kinds=CLIENT, prepare=talked
    ),
    "Pin": Row(run(lambda p: Pin(p.before["hers"])), kinds=CLIENT, prepare=talked),
    "OpenAnswer": Row(
        run(lambda p: OpenAnswer(to=p.ann, text="x")), kinds=frozenset({"bot"})
    ),
    "CreateGroup": Row(run(lambda p: CreateGroup("tea", (p.ann,))), kinds=CLIENT),
    "InviteToGroup": Row(
        run(lambda p: InviteToGroup(int(p.before["group"]), (p.ann,))),
        kinds=CLIENT,
        prepare=own_group,
    ),
    "ChatMessage": Row(chat, kinds=CLIENT),
    "Say": Row(say, kinds=CLIENT, app=ACTION),
}

NAMING: Final = frozenset(
    {
        "to",
        "users",
        "members",
        "member",
        "friend",
        "of",
        "person",
        "bot",
        "peer",
        "receiver",
        "sender",
    }
)
"""Fields of requests and commands that name another user. Whatever has none of
them is about the user who asks, or about a conversation, group or channel,
whose members or options decide."""
_END: Final = "ends something between the two, or limits the other"
_OWN: Final = "about the user who asks, and nobody else"
_NOBODY: Final = "anybody, and no other user is named or shown"
NO_ROW: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("GET /oauth/callback/*", "POST /oauth/callback/*", "POST /login"),
        "a secret proves it",
    ),
    **dict.fromkeys(
        ("GET /group_user/list", "POST /hooks/*"),
        "only members, or whoever has the secret",
    ),
    **dict.fromkeys(
        (f"POST /api/v1/groups/{what}" for what in ("mute", "remove", "role")),
        "only members",
    ),
    **dict.fromkeys(
        ("GET /api/v1/messages/search", "POST /api/v1/asks/escalate"), "only members"
    ),
    **dict.fromkeys(
        (
            f"POST /api/v1/friends/{what}"
            for what in ("accept", "decline", "remove", "block", "unblock")
        ),
        _END,
    ),
    **dict.fromkeys(
        (f"POST /api/v1/bots/{what}" for what in ("update", "rotate", "delete")),
        "own bots",
    ),
    **dict.fromkeys(("POST /emulation", "ActionLogin"), _OWN),
    **dict.fromkeys(
        ("GET /health", "GET /ready", "GET /up", "POST /register"), _NOBODY
    ),
    "GET /api/v1/accounts/show": "what accounts show to everybody: nickname and picture",
    "GET /api/v1/groups": "groups of both, whose members see each other",
    "GET /api/v1/bots/show": "those of owners who have blocked the user are left out (test_bots.py)",
    "POST /api/v1/reports/send": "moderators alone hear of it",
}


@contextmanager
def harness() -> Iterator[Harness]:
    """A node where all apps that matter have accounts, without limits that
    would end a test."""
    many = 100_000
    of_features = sections(
        accounts={
            "registration": True,
            "finds_per_account": many,
            "finds_per_address": many,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Harness(
            config(Path(folder), apps=searched(APP), of_features=of_features)
        )
        try:
            yield answer
        finally:
            answer.close()


def alike(answer: Any) -> str:
    """An answer without what differs in each."""
    return re.sub(r"'request_id': '\w+'", "", str(answer))


def cell(node: Harness, row: Row, relation: str) -> str:
    """What happens."""
    kind = "key" if relation == "key" else "bot" if relation in OF_BOTS else "account"
    if kind not in row.kinds and not (kind == "account" and "session" in row.kinds):
        return "."
    with closing(Pair(node, relation, row.app)) as pair:
        row.prepare(pair)
        pair.block()
        pair.log_in()
        if row.sees:
            online = row.ask(pair)
            pair.log_out()
            # The last connection is remembered once a second.
            with patch.object(accounts_of(pair.parts).last_seen, "_seen", {}):
                offline = row.ask(pair)
            return "0" if alike(online) == alike(offline) else "+"
        assert pair.online is not None
        before = pair.online.read()
        result = str(row.ask(pair))
        pair.parts.reach.to_user(pair.app, pair.ann, Event("msg", "", "the last one"))
        came = until(
            lambda: (found := pair.online.read()) and b"the last one" in found and found
        )
        reached = came[len(before) :].count(b"\x81") > 1
        assert not (result == "-" and reached), "refused, and done"
        return "-" if result == "-" else "+" if reached else "0"


def table() -> str:
    with harness() as node:
        cells = {
            name: [cell(node, row, each) for each in RELATIONS]
            for name, row in ROWS.items()
        }
        return written(cells, RELATIONS, 11)


def test_relations_match_the_table() -> None:
    assert table().splitlines() == TABLE.read_text(encoding="utf-8").splitlines()


# --- what a cell cannot show --------------------------------------------------


def test_a_list_for_a_user_names_and_counts_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cmd, "LIST_PAGE", 2)
    with harness() as node, closing(Pair(node, "friend", APP)) as pair:
        pair.log_in()
        seen = [pair.ann, *[f"{letter}-without-account" for letter in "ab"]]
        hidden = [pair.account()[0] for _ in range(5)]
        pair.asking += [Session(node, APP, user) for user in (*seen[1:], *hidden)]
        first = pair.form("GET", "/user/list", {})["data"]
        assert (first["userCount"], first["userList"]) == (2, seen[:2])
        second = pair.form("GET", "/user/list", {"cursor": first["next"]})["data"]
        assert second == {"userCount": 1, "userList": seen[2:]}
        pair.relation = "key"
        assert pair.form("GET", "/user/list", {})["data"]["userCount"] == len(
            seen
        ) + len(hidden)


def test_whom_too_many_have_blocked_does_not_send_to_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cmd, "MOST_BLOCKERS", 1)
    with harness() as node, closing(Pair(node, "blocked", APP)) as pair:
        pair.block()
        fields = {"userID": pair.user, "message": "x"}
        assert pair.form("POST", "/user/sendMessageAll", fields)["code"] == 200
        pair.relate(pair.account()[0], pair.user, friends.block)
        answer = pair.form("POST", "/user/sendMessageAll", fields)
        assert (answer["code"], answer["data"]) == (
            errors.ReplyCode.UNAUTHORIZED,
            {"refused": "blocked"},
        )


def test_a_refused_push_has_the_code_and_reason_of_a_refused_message() -> None:
    with harness() as node, closing(Pair(node, "blocked", APP)) as pair:
        pair.block()
        session = pair.session()
        send = {"seq": "s", "cmd": "send", "data": {"to": pair.ann, "text": "x"}}
        session.connection.encoding.serve(
            session.connection, msgspec.json.encode(send), True
        )
        found = until(lambda: re.search(rb'{"seq".*', session.read(), re.DOTALL))
        stored = msgspec.json.decode(found[0])["response"]
        pushed = pair.form(
            "POST",
            "/user/sendMessage",
            {"userID": pair.ann, "msgID": "1", "message": "x"},
        )
        assert (pushed["code"], pushed["data"]) == (stored["code"], stored["data"])


# --- nothing is left out ------------------------------------------------------


def of_users(need: Need) -> bool:
    """Whether others than back ends, and accounts that act as one by their
    role, may ask."""
    return not need.users <= {"signature", "staff"}


def test_every_route_and_command_that_names_a_user_has_a_row() -> None:
    with harness() as node:
        known = {
            kind.__name__: {*kind.__struct_fields__}
            for kind in node.node.core.dispatcher.table
        }
    for row in DOCUMENTED:
        if isinstance(row, Operation) and of_users(row.need):
            structs = [each for each in (row.body, row.query) if each is not None]
            known[f"{row.method} {row.path}"] = {
                name for each in structs for name in each.__struct_fields__
            }
    wanted = {name for name, fields in known.items() if fields & NAMING}
    # Those of the originals have no struct: they may name anybody.
    wanted |= {
        f"{row.method} {row.path}" for row in ROUTES if of_users(row.need)
    } - known.keys()
    have = {name for key, row in ROWS.items() for name in row.names or (key,)}
    assert not wanted - have - NO_ROW.keys(), "each needs a row, or a reason for none"
    assert not have & NO_ROW.keys()
    assert not have - wanted - known.keys() | (NO_ROW.keys() - wanted), (
        "what is not there needs no row"
    )


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    print(f"{TABLE} is written; read the difference")
