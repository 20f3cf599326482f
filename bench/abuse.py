"""``imserver bench abuse``: single requests of an attacker, and how long each
blocks the server's loop.

Each attack is sent by the weakest client that may: without a key, or as a user.
One that misses a bar is sent again, because another program may have delayed an
answer, or the server has loaded code: the best try counts. The attacks of users
are a full message or read of each command (:mod:`bench.abuse_rows`), and of
each operation of the server's OpenAPI document. How many of these the server
accepts is counted. A third connection reads what others cause it to receive,
and must stay open; in demo mode 500 more do so. Meanwhile a second one requests
``/health`` every millisecond. Its slowest answer is the time for which the loop
was blocked, without the time that the server or the probe waited for a core.
The peak of the server's memory is compared with its memory right before.
"""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from bench import abuse_setup
from bench.abuse_rows import (
    ACCEPTED,
    BOTS,
    CALLBACK,
    CHANNEL,
    COMMANDS,
    FULL_BYTES,
    GROUPS,
    OF_ACCOUNTS,
    OF_COMMANDS,
    OF_DATA,
    OTHER,
    PATHS,
    PROTOBUF,
    PUBLISHER,
    REFUSED,
    SILENT,
    USER,
    VALUES,
    WILDCARDS,
    Request,
    command_answers,
    data_frames,
    frames_of,
    http_answers,
    operation_requests,
    with_data,
)
from bench.abuse_setup import CROWD, Attacker
from bench.connections import Target, error_name
from bench.context import RunContext, parameter, text_parameter
from bench.figures import Figures
from bench.frames import client_frame, server_frame, upgrade_request
from bench.generator import Generator
from bench.http_client import FORM, JSON, fetch, get_request, post, request_head
from bench.loop import READ, WRITE, BenchError, Json, Loop
from bench.probe import ANSWER_SECONDS, Probe
from bench.proc import Growth
from bench.report import show_phase
from bench.servers import NodeProcess, Worker

MOST_HOLD_MS = 50
MOST_GROWTH_MB = 20
MOST_RESIDUE_MB = 8
MOST_HASH_MB = 24
HASHES = ("/register", "/login", "/password")
"""The bar of the routes that hash a password: argon2id takes 19 MiB for a hash,
by its parameters. A node makes two at once."""
_PROVIDER = "{kind: github, client_id: bench, client_secret: bench, register: true}"
_GOCHAT = (
    f"{{oauth: {{example: {_PROVIDER}}}, accounts: {{search: true, guests: true}}}}"
)
_OPERATOR_KEY = "a-key-that-the-attacker-has"
_PUSHER = (
    "{open: true, pusher: {app_id: bench, key: bench, secret: a-secret-of-the-bench}}"
)
_OPEN = "{open: true, channels: {demo: {publish: subscribers, presence: true, join_leave: true}}}"
_STORED = "{history: log, subscribe: anybody, publish: anybody}"
_STORED_CHANNELS = f"{{open: true, channels: {{'': {_STORED}}}}}"
_PLUG_INS = {"mcp", "durable_streams"}
_GROUP = "imserver.features"
MODES = {
    "demo": {"IMSERVER_STORAGE_LOOK_SECONDS": "0.1"},
    "keys": {
        "IMSERVER_API_KEYS": f"[{{key: {_OPERATOR_KEY}, scopes: [push, read, admin]}}]"
    },
    "plug-ins": {
        "IMSERVER_FEATURES": "[all, mcp, durable_streams]",
        "IMSERVER_APPS": f"{{default: {_STORED_CHANNELS}}}",
    },
    "people": {
        "IMSERVER_APPS": f"{{gochat: {_GOCHAT}, bench: {_PUSHER}, default: {_OPEN}}}",
        "IMSERVER_ACCOUNTS_REGISTRATION": "true",
        "IMSERVER_APP_HTTP_URL": "http://127.0.0.1",
        "IMSERVER_SMTP_HOST": "127.0.0.1",
        "IMSERVER_SMTP_PORT": "9",
        "IMSERVER_SMTP_SENDER": "im@example.com",
    },
}
"""Servers under attack by their settings. ``people``: with a login provider,
and a mail server that is not there. ``keys``: strangers have none, and who
sends :data:`_ENDS_DEMO` has one. ``plug-ins``: if they are installed.
"""
_ENDS_DEMO = {
    "GET /api/v1/keys/usage",
    *(f"POST /api/v1/keys/{verb}" for verb in ("create", "revoke", "rotate")),
}
"""Operations that end the demo mode, so that all later attacks would be
refused: they need a key."""
HOOK = "/hooks/" + "x" * 43
"""An incoming webhook that does not exist."""
BODY_BYTES = 4_000_000
MESSAGE_BYTES = 65_536
HEAD_BYTES = 60_000
PIPELINED_BYTES = 65_536
CALM_SECONDS = 0.15
CALM_PROBES = 50
"""So long, and for so many answers to the probe, it continues after the last
answer to the attack: garbage collection, closing and logging cost time too.
"""
MOST_READ_BYTES = 200_000_000
"""Most bytes of answers to an attack that are kept to be counted."""
SUBSCRIBERS = 500
"""Other users in the channel of the attacks, in demo mode."""
FIRST_ANSWER_SECONDS = 15.0
MOST_SECONDS = 3.0
"""How long an attack is observed at most: until its first answer, and from then
on."""
SILENCE_SECONDS = 1.0
"""How long an attack without an answer is observed."""

Build = Callable[[Attacker], bytes]
Body = Callable[[], bytes]


@dataclass(frozen=True)
class Attack:
    """One request. ``build`` makes its bytes. ``ws``: it is sent to the
    WebSocket port. ``mode``: it is sent to the server of this mode only;
    ``""``: to those without people. ``account``: with the token of an account;
    ``bot``: of a bot. ``command``: dialect and name of the command that it
    repeats. ``of``: the name of the operation or route. Of the attacks with the
    same one, some must be accepted.
    """

    name: str
    build: Build
    ws: bool = False
    mode: str = ""
    account: bool = False
    bot: bool = False
    command: tuple[str, str] = ("", "")
    of: str = ""


def _get(path: str, *fields: str) -> Build:
    return lambda target: get_request(target, path, *fields)


def _post(path: str, kind: str, body: Body | bytes, *fields: str) -> Build:
    def build(target: Target) -> bytes:
        data = body if isinstance(body, bytes) else body()
        return request_head(target, path, kind, len(data), *fields) + data

    return build


def _upgrade(path: str, *frames: bytes) -> Callable[[Target], bytes]:
    return lambda target: (
        upgrade_request(f"{target.ws_host}:{target.ws_port}", path) + b"".join(frames)
    )


def _as_many(one: Build) -> Build:
    """As many of these requests as fit one read."""

    return lambda attacker: b"".join(
        one(attacker) for _ in range(PIPELINED_BYTES // len(one(attacker)))
    )


def _chunked(path: str) -> Build:
    body = (
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n"
    )
    kind = f"Content-Type: {JSON}"
    return lambda target: get_request(target, path, kind, method="POST")[:-2] + body


def _repeated(piece: bytes, begin: bytes = b"", end: bytes = b"") -> bytes:
    return begin + piece * ((BODY_BYTES - len(begin) - len(end)) // len(piece)) + end


_MULTIPART = "multipart/form-data; boundary=b"
_MEMBER = b'"%06d":0'
_PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
_floats = partial(
    _repeated, b"1.5,", b'{"app":"101","user":"1","text":"t","x":[', b"1]}"
)
_query = "&".join(["a=b"] * (HEAD_BYTES // 4))
FORMS: tuple[tuple[str, str, Body], ...] = (
    (
        "4 MB of 0xFF as multipart",
        _MULTIPART,
        partial(_repeated, b"\xff", _PART, b"\r\n--b--\r\n"),
    ),
    (
        "80,000 empty parts",
        _MULTIPART,
        partial(_repeated, _PART + b"\r\n", b"", b"--b--\r\n"),
    ),
    ("1.3 million form fields", FORM, partial(_repeated, b"a=&")),
    ("4 MB of %41", FORM, partial(_repeated, b"%41", b"appID=")),
)
JSON_BODIES: tuple[tuple[str, Body], ...] = (
    ("a million floats", _floats),
    ("4 million [", partial(_repeated, b"[")),
    ('800,000 {"a":', partial(_repeated, b'{"a":')),
    (
        "4 MB of \\u escapes",
        partial(_repeated, b"\\u4e2d", b'{"app":"101","user":"', b'"}'),
    ),
    ("600,000 equal members", partial(_repeated, b'"a":0,', b"{", b'"b":0}')),
    (
        "360,000 distinct members",
        lambda: b"{%b}" % b",".join(_MEMBER % n for n in range(BODY_BYTES // 11)),
    ),
)
FORM_ROUTES = (
    "/login",
    "/register",
    "/friend/add",
    "/group/create",
    "/user/sendMessage",
)
JSON_ROUTES = (
    "/api/v1/push",
    "/api/v1/accounts/login",
    "/api/v1/batch",
    "/user/onlineBatch",
)
HOOK_BODIES = (
    ("64 KB of [", JSON, b"[" * MESSAGE_BYTES),
    (
        "6,000 members",
        JSON,
        b"{%b}" % b",".join(_MEMBER % number for number in range(5_900)),
    ),
    ("64 KB of %41 in a form", FORM, b"payload=" + b"%41" * 21_000),
    ("64 KB of [ in a form", FORM, b"payload=" + b"[" * 65_000),
    ("U+0000 in a form", FORM, b"payload=%00"),
    ("30,000 form fields", FORM, b"a&" * 30_000),
    (
        "20,000 empty buttons",
        JSON,
        b'{"text":"x","buttons":[%b[]]}' % (b"[]," * 20_000),
    ),
)
PAGES = (
    "/ /home/index /home/room /home/messages /home/channels /status /cluster /gateway"
    " /api/v1/docs /api/v1/openapi.json /api/v1/users?app=101 /metrics /system/state /user/list?appID=101"
    " /sdk/imserver.js /no-such-page"
)


def _requests() -> Iterator[Attack]:
    yield Attack("nothing: how late an idle server answers", lambda _target: b"")
    for path in FORM_ROUTES:
        for name, kind, form in FORMS:
            yield Attack(f"POST {path}, {name}", _post(path, kind, form))
    for path in JSON_ROUTES:
        for name, body in JSON_BODIES:
            yield Attack(f"POST {path}, {name}", _post(path, JSON, body))
        unpacked = _post(
            path, JSON, lambda: gzip.compress(_floats(), 9), "Content-Encoding: gzip"
        )
        yield Attack(f"POST {path}, gzip that inflates to 4 MB of floats", unpacked)
    for path in PAGES.split():
        yield Attack(f"GET {path}", _get(path))
    for path in ("/health", "/user/online", "/api/v1/users", "/", "/no-such-page"):
        yield Attack(f"GET {path}, 60 KB of query", _get(f"{path}?{_query}"))
    fields = [f"X-{number}: {number}" for number in range(HEAD_BYTES // 14)]
    yield Attack("GET /, 4,000 header lines", _get("/", *fields))
    yield Attack("GET /, a cookie of 60 KB", _get("/", "Cookie: " + "a=b; " * 12_000))
    languages = "Accept-Language: " + "zh;q=0.5," * 6_000
    yield Attack("GET /, 6,000 languages", _get("/", languages))
    yield Attack(
        "a header line of 1 MB without an end",
        lambda target: b"GET /" + b"a" * 1_000_000,
    )
    uploads = "/api/v1/uploads?app=101&user=1"
    for path, kind, size in (
        (uploads, "image/png", 100_000_000),
        ("/api/v1/push", JSON, BODY_BYTES),
    ):
        announced = partial(request_head, path=path, content_type=kind, body_bytes=size)
        yield Attack(
            f"POST {path.partition('?')[0]}, {size} bytes announced, nothing sent",
            announced,
        )
    for path in ("/login", "/api/v1/push"):
        yield Attack(f"POST {path}, 200,000 chunks of one byte", _chunked(path))
    password = _post("/login", FORM, b"phone_number=1&password=" + b"p" * 1_000_000)
    yield Attack("POST /login, a password of 1 MB", password)
    for path in ("/health", "/user/online", "/user/online?appID=101&userID=1"):
        yield Attack(f"64 KB of GET {path}", _as_many(_get(path)))
    account = _post(
        "/register", FORM, lambda: b"phone_number=%d&password=secret" % time.time_ns()
    )
    yield Attack("POST /register, an ordinary one", account)


def _messages() -> Iterator[Attack]:
    """One message before a login, in each dialect."""
    login = (
        b'{"seq":"1","cmd":"login","data":{"userID":"'
        + b"\\u4e2d" * 10_000
        + b'","appID":101}}'
    )
    # One message in frames of one byte. The last one is missing, so none is
    # final.
    begin = b"\x01" + client_frame(b"{")[1:]
    more = b"\x00" + client_frame(b" ")[1:]
    by_name = {
        "64 KB of letters": client_frame(b"a" * MESSAGE_BYTES),
        "64 KB of [": client_frame(b"[" * MESSAGE_BYTES),
        "64 KB of protobuf tags": client_frame(b"\x0a" * MESSAGE_BYTES, 0x2),
        "a login with an id of 60 KB": client_frame(login),
        "64 KB in frames of one byte": begin + more * (MESSAGE_BYTES - 1),
        "64 KB of messages of one byte": client_frame(b"{") * (PIPELINED_BYTES // 7),
        "64 KB of empty messages": client_frame(b"") * (PIPELINED_BYTES // 6),
        "10,000 pings": client_frame(b"p" * 100, 0x9) * 10_000,
    }
    for path in ("/acc", "/ws?systemId=abuse", "/ws?uid=1", "/ws"):
        for name, frames in by_name.items():
            yield Attack(f"{path}, {name}", _upgrade(path, frames), ws=True)
    yield Attack("/acc, 60 KB of query", _upgrade(f"/acc?{_query}"), ws=True)


ONE_BODY_BYTES = 1 << 20
"""The longest body of most routes, and the longest append to a stream."""
MOST_VALUES = 138_000
"""A little less than the commas, colons and brackets that most bodies may
have."""
_FULL_BODY_BYTES = ONE_BODY_BYTES - 300
_FULL_MESSAGE_BYTES = MESSAGE_BYTES - 300


def _allowed_bytes(make: Callable[[int], bytes]) -> int:
    """So long may JSON be that it has as many values as a body may have."""
    sample = make(1 << 16)
    share = sum(map(sample.count, (b",", b":", b"[", b"{"))) / len(sample)
    return min(_FULL_BODY_BYTES, int(MOST_VALUES / max(share, 0.01)))


def _data_attacks(
    path: str, build: Callable[[bytes], Build], mode: str, by_values: bool = True
) -> Iterator[Attack]:
    """A request of each value: too large, and as large as a body may be, or
    (``by_values``) with as many values as it may have. ``build`` makes it of
    the value."""
    for name, make in VALUES.items():
        if by_values:
            allowed_bytes = _allowed_bytes(make)
        else:
            allowed_bytes = _FULL_BODY_BYTES
        sizes = {"4 MB": BODY_BYTES, "the most": allowed_bytes}
        for size, most_bytes in sizes.items():

            def request(
                target: Attacker, make: Any = make, most_bytes: int = most_bytes
            ) -> bytes:
                return build(make(most_bytes))(target)

            yield Attack(f"{path}, data: {size} of {name}", request, mode=mode)


def _post_data(path: str, document: Json, data: bytes) -> Build:
    return _post(path, JSON, with_data(document, data))


def _data() -> Iterator[Attack]:
    """Values that may be any JSON: many, deep, and long ones, where a user or a
    back end may send them."""
    for path, document in OF_DATA.items():
        where = path.partition(" ")[0]
        yield from _data_attacks(
            f"POST {path}", partial(_post_data, where, document), mode="demo"
        )
    for number, pattern in enumerate(WILDCARDS):
        body = b'{"pattern":"%b"}' % pattern
        yield Attack(
            f"POST /api/channels, wildcards {number}",
            _post("/api/channels", JSON, body),
            mode="demo",
        )
    for dialect, name in OF_COMMANDS:
        if dialect == "publisher":
            most_bytes = BODY_BYTES
        else:
            most_bytes = _FULL_MESSAGE_BYTES
        for value, make in VALUES.items():

            def frames(
                target: Target,
                row: tuple[str, str] = (dialect, name),
                make: Any = make,
                most_bytes: int = most_bytes,
            ) -> bytes:
                return _upgrade(
                    PATHS[row[0]], data_frames(*row, USER, make(most_bytes))
                )(target)

            whole = f"{dialect}: {name}, data: a message of {value}"
            yield Attack(whole, frames, ws=True, mode="demo")


def _plug_ins() -> Iterator[Attack]:
    """The same for features of other distributions, where they are
    installed."""
    yield from _data_attacks(
        "POST /mcp",
        lambda data: _post(
            "/mcp?app=default&user=ann",
            JSON,
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"x":%b}}}'
            % data,
        ),
        mode="plug-ins",
    )
    yield from _data_attacks(
        "PUT /durable",
        lambda data: _put(f"/durable/default/stream/{time.time_ns()}", data),
        mode="plug-ins",
        by_values=False,
    )
    yield from _data_attacks(
        "PUT /durable, an array as",
        lambda data: _put(
            f"/durable/default/stream/{time.time_ns()}", data[data.find(b"[") :]
        ),
        mode="plug-ins",
    )


def _put(path: str, body: bytes) -> Build:
    fields = (f"Content-Type: {JSON}", f"Content-Length: {len(body)}")
    return lambda target: get_request(target, path, *fields, method="PUT") + body


def _people() -> Iterator[Attack]:
    """The requests that anybody may send to a server with accounts, bots and
    login providers."""
    text = b'{"text":"x"}'
    for name, kind, data in (("an ordinary one", JSON, text), *HOOK_BODIES):
        yield Attack(f"POST /hooks/, {name}", _post(HOOK, kind, data), mode="people")
    yield Attack(
        "64 KB of POST /hooks/", _as_many(_post(HOOK, JSON, text)), mode="people"
    )
    came_back = _get(f"{CALLBACK}?state=forged&code=forged")
    yield Attack(
        "64 KB of GET /oauth/callback, forged", _as_many(came_back), mode="people"
    )
    for name, kind, form in FORMS:
        yield Attack(
            f"POST /oauth/callback, {name}", _post(CALLBACK, kind, form), mode="people"
        )

    def guess(target: Target) -> bytes:
        token = f"bot_1_{time.time_ns():043d}"
        return get_request(
            target, "/api/v1/conversations?app=gochat", f"Authorization: Bearer {token}"
        )

    yield Attack("a guessed token of a bot", guess, mode="people")
    yield Attack("64 KB of guessed tokens of a bot", _as_many(guess), mode="people")


def _command(attacker: Attacker, dialect: str, name: str, path: str) -> bytes:
    known = (
        {**attacker.known, "token": attacker.key} if attacker.key else attacker.known
    )
    return _upgrade(
        path, b"" if dialect == "pusher" else frames_of(dialect, name, known)
    )(attacker)


def _commands() -> Iterator[Attack]:
    """Each command of each dialect and of publishers, repeated until a message
    or a read is full."""
    for dialect, rows in {**COMMANDS, "publisher": PUBLISHER}.items():
        for name in rows:
            method = name.removeprefix("rpc ")
            whole = f"{dialect}: {name}"
            bot = method in BOTS
            account = method in {*GROUPS, *OF_ACCOUNTS} or dialect == "protobuf"
            if bot or account or dialect == "pusher":
                mode = "people"
            else:
                mode = "demo"
            is_gochat = dialect == "centrifuge" and mode == "people"
            if is_gochat:
                path = "/connection/gochat/websocket"
            else:
                path = PATHS[dialect]
            build = partial(_command, dialect=dialect, name=name, path=path)
            yield Attack(whole, build, True, mode, account, bot, (dialect, name), whole)


def _repeated_requests(make: Callable[[Mapping[str, Any]], Iterator[Request]]) -> Build:
    """The first request, and then the last one until a read is full."""

    def build(attacker: Attacker) -> bytes:
        every = []
        for method, path, kind, body, fields in make(
            {**attacker.known, "token": attacker.key}
        ):
            if body:
                fields = (
                    *fields,
                    f"Content-Type: {kind}",
                    f"Content-Length: {len(body)}",
                )
            every.append(get_request(attacker, path, *fields, method=method) + body)
        return every[0] + every[-1] * (FULL_BYTES // len(every[-1]))

    return build


def operation_attacks(document: Json) -> Iterator[Attack]:
    """Each operation of the OpenAPI document: in demo mode, of an account, a
    bot, and of a stranger."""
    for name, requests in operation_requests(document):
        build = _repeated_requests(requests)
        yield Attack(
            name, build, mode="keys" if name in _ENDS_DEMO else "demo", of=name
        )
        yield Attack(
            f"{name}, of an account", build, mode="people", account=True, of=name
        )
        method, path = name.split(" ")
        if (
            "/accounts/" in path
            and not document["paths"][path][method.lower()]["security"]
        ):
            yield Attack(f"{name}, of a stranger", build, mode="people", of=name)
        if "/stream/" in name or "bots/commands" in name:
            yield Attack(f"{name}, of a bot", build, mode="people", bot=True, of=name)


ATTACKS = {
    attack.name: attack
    for attacks in (
        _requests(),
        _messages(),
        _people(),
        _commands(),
        _data(),
        _plug_ins(),
    )
    for attack in attacks
}
"""All but those of the operations of the API."""


_PING = server_frame(b"{}")
_PONG = client_frame(b"{}")
"""A ping of the centrifuge dialect, and its answer."""


class AttackConnection:
    """One connection that sends ``data`` and reads the answers. Owned by its
    loop.

    ``most``: bytes of answers that are kept. ``then``: returns what is sent
    after the first answers, and nothing until they have come.
    """

    def __init__(
        self,
        loop: Loop,
        address: tuple[str, int],
        data: bytes,
        then: Callable[[bytes], bytes] | None = None,
        most: int = 1 << 12,
    ) -> None:
        self.most = most
        self.loop = loop
        self.then = then
        self.unsent = memoryview(data)
        self.answers: list[bytes] = []
        self.size = 0
        self.ended = False
        self.heard_at = 0.0
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setblocking(False)
        loop.add(self.sock.fileno(), READ | WRITE, self)

    def has_subscribed(self) -> bool:
        """Whether the answer to the second command has come, or nothing
        will."""
        return self.ended or b'"id":2' in b"".join(self.answers)

    def ready(self, fd: int, mask: int) -> None:
        try:
            if mask & WRITE and self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent[: 1 << 18]) :]
            if mask & WRITE and not self.unsent:
                self.loop.change(fd, READ)
            if mask & ~WRITE:
                data = self.sock.recv(1 << 18)
                self.heard_at = time.monotonic()
                if _PING in data and not self.unsent:
                    self.sock.send(_PONG)
                if self.size < self.most:
                    self.answers.append(data)
                    self.size += len(data)
                if self.then is not None and (
                    more := self.then(b"".join(self.answers))
                ):
                    self.unsent = memoryview(more)
                    self.then = None
                    self.loop.change(fd, READ | WRITE)
                if not data:
                    self.close()
        except BlockingIOError:
            pass
        except OSError as error:
            self.answers = self.answers or [error_name(error).encode()]
            self.close()

    def close(self) -> None:
        if not self.ended:
            self.ended, self.heard_at = True, time.monotonic()
            self.loop.remove(self.sock.fileno())
            self.sock.close()


def learn(generator: Generator) -> Json:
    """Task: read the server's OpenAPI document, for the attacks on its
    operations. Return their names."""
    document = fetch(generator.target, "/api/v1/openapi.json")
    generator.state["attacks"] = {
        attack.name: attack for attack in operation_attacks(document)
    }
    return {
        "modes": {each.name: each.mode for each in generator.state["attacks"].values()}
    }


def fill(generator: Generator) -> Json:
    """Task: store messages of the attacker, and a picture."""
    target = generator.target
    message = {
        "messages/send": {
            "app": "default",
            "user": USER,
            "to": OTHER,
            "text": "x" * 4_000,
        }
    }
    post(target, "/api/v1/batch", {"commands": [message] * 100})
    picture = abuse_setup.picture(800, 600)
    generator.state["picture"] = abuse_setup.upload(
        target, f"app=default&user={USER}&kind=picture", picture
    )
    return {}


def gather(generator: Generator) -> Json:
    """Task: let other users subscribe to the channel of the attacks, read, and
    stay."""
    target = generator.target
    address = target.ws_host, target.ws_port
    every = generator.state.setdefault("subscribers", [])
    while len(every) < SUBSCRIBERS:
        every.append(AttackConnection(generator.loop, address, _bystander(target)))
        generator.loop.until(every[-1].has_subscribed, ANSWER_SECONDS)
    return {}


def count_lost(generator: Generator) -> Json:
    """Task: how many of the subscribers were disconnected since the last time.
    Others replace them."""
    every = generator.state["subscribers"]
    generator.state["subscribers"] = [each for each in every if not each.ended]
    lost = len(every) - len(generator.state["subscribers"])
    gather(generator)
    return {"lost": lost}


def make_crowd(generator: Generator) -> Json:
    """Task: register the accounts whom attackers may name."""
    generator.state["crowd"] = [
        abuse_setup.register(generator.target)["user"] for _ in range(CROWD)
    ]
    return {}


STRANGER: Json = {
    "app": "gochat",
    "user": USER,
    "id": 1,
    "provider": "example",
    "login": "nobody",
}
"""What somebody may name who has no account."""
_HISTORY = "history", "subscribe", "batch"
"""Words in the names of attacks that read the history of the channel."""


def _attacker(generator: Generator, wanted: Attack) -> Attacker:
    target = generator.target
    if not wanted.of:
        return Attacker(**vars(target))
    if wanted.mode in ("demo", "keys"):
        if wanted.mode == "keys":
            target = replace(target, key=_OPERATOR_KEY)
        else:
            target = target
        # Reports of one user are limited, and moderators end what a user may
        # do.
        alone = "report" in wanted.of or "/moderation/" in wanted.of
        if alone:
            user = f"{USER}{time.time_ns()}"
        else:
            user = USER
        attacker = abuse_setup.stranger(
            target, any(word in wanted.of.lower() for word in _HISTORY), user
        )
        known: Json = {**attacker.known, "picture": generator.state.get("picture", "")}
        if wanted.of.startswith("POST /api/v1/asks/") or wanted.of.endswith(" answer"):
            sender, receiver = (
                (OTHER, USER) if wanted.of.endswith(" answer") else (USER, OTHER)
            )
            options = [{"text": "x", "value": "x"}]
            question = {
                "app": "default",
                "user": sender,
                "to": receiver,
                "text": "x",
                "options": options,
            }
            known["ask"] = post(
                target, "/api/v1/asks/create", {**question, "free_text": True}
            )["id"]
        return replace(attacker, known=known)
    if not (wanted.account or wanted.bot):
        return Attacker(**{**vars(target), "known": STRANGER})
    attacker = abuse_setup.account_of(target, generator.state["crowd"])
    if wanted.bot:
        bot = attacker.known["bot"]
        token = attacker.known["bot_token"]
        attacker = replace(attacker, key=token, known={**attacker.known, "user": bot})
    return attacker


def _bystander(target: Target) -> bytes:
    """Another user, who subscribes to the channel of the attacks and reads
    everything."""
    begin = (
        b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%b"}}'
        % CHANNEL.encode()
    )
    return _upgrade(PATHS["centrifuge"], client_frame(begin))(target)


def attack(generator: Generator, mode: str, name: str, pid: int) -> Json:
    """Task: send one attack, and measure its effect on the server ``pid``.
    Returns its row."""
    wanted = ATTACKS.get(name) or generator.state["attacks"][name]
    target = _attacker(generator, wanted)
    data = wanted.build(target)
    if wanted.ws:
        address = (target.ws_host, target.ws_port)
    else:
        address = (target.http_host, target.http_port)
    bystander = AttackConnection(
        generator.loop, (target.ws_host, target.ws_port), _bystander(target)
    )
    probe = Probe(generator, pid)
    probe.watch(0.05)
    stands_by = not bystander.ended  # without an open app it is refused
    probe.worst_us = 0
    growth = Growth(pid)
    answer = b""
    begin = time.monotonic()
    if data:
        then = None
        if wanted.command[0] == "pusher":
            then = partial(_pusher_frames, wanted.command[1])
        attacker = AttackConnection(
            generator.loop, address, data, then, MOST_READ_BYTES
        )
        if wanted.of and wanted.of not in SILENT:
            first = FIRST_ANSWER_SECONDS
        else:
            first = SILENCE_SECONDS
        until = begin + FIRST_ANSWER_SECONDS
        heard = begin
        calm_at = 0
        while (now := probe.turn()) < until:
            if attacker.heard_at > heard:
                if calm_at:
                    until = until
                else:
                    until = attacker.heard_at + MOST_SECONDS
                heard = attacker.heard_at
                calm_at = probe.http.answered + CALM_PROBES
            over = (
                now - heard > (CALM_SECONDS if calm_at else first)
                and probe.http.answered > calm_at
            )
            if (over or attacker.ended) and not probe.conn.waiting:
                break
        attacker.close()
        answer = b"".join(attacker.answers)
    probe.watch(CALM_SECONDS)
    probe.http.close()
    lost = stands_by and bystander.ended
    bystander.close()
    growth_mb = growth.peak_mb()
    residue_mb = growth.residue_mb()
    hold_ms = probe.worst_us / 1000
    return {
        "name": f"{mode}: {name}",
        "answer": answer.split(b"\r\n")[0].decode("latin-1")[:60],
        "share": max(
            hold_ms / MOST_HOLD_MS,
            growth_mb / _most_mb(name),
            residue_mb / MOST_RESIDUE_MB,
        ),
        "of": wanted.of,
        "counts": _counted(wanted, answer),
        "hold_ms": hold_ms,
        "growth_mb": growth_mb,
        "residue_mb": residue_mb,
        "dropped": int(lost),
    }


def _pusher_frames(name: str, first: bytes) -> bytes:
    """The frames of a client of the pusher dialect, after the server has named
    its connection."""
    found = re.search(rb"(\d+\.\d+)", first.partition(b"\r\n\r\n")[2])
    if found:
        return frames_of("pusher", name, {"socket_id": found[1].decode()})
    return b""


def _counted(wanted: Attack, answer: bytes) -> dict[str, int]:
    """How many of the requests of an attack were accepted or refused, by the
    code."""
    dialect, command = wanted.command
    if not dialect:
        return http_answers(answer)
    if dialect == "protobuf":
        number = PROTOBUF[command][0]
    else:
        number = 0
    return command_answers(dialect, command, answer, number)


def best_of(tries: int, attack: Callable[[], Json]) -> Json:
    """Attack until no bar is missed, at most so many times. Returns the row of
    the best try, which counts what all of them dropped and were answered."""
    rows: list[Json] = []
    while len(rows) < tries and (not rows or rows[-1]["share"] > 1):
        rows.append(attack())
    best = min(rows, key=lambda row: row["share"])
    dropped = sum(row["dropped"] for row in rows)
    counts = sum((Counter(row["counts"]) for row in rows), Counter[str]())
    over = best["share"] > 1 or dropped > 0
    return {
        **best,
        "counts": counts,
        "dropped": dropped,
        "over": over,
        "tries": len(rows),
    }


@dataclass(frozen=True)
class AbuseOptions:
    tries: int = parameter(3, "The most tries of an attack that misses a bar.", most=25)
    match: str = text_parameter("", "Only attacks whose name contains this.")


def run(context: RunContext, options: AbuseOptions) -> Figures:
    """Send the worst single requests of an attacker to a server of each mode.

    The report has one row per attack, the worst first: its best try, and how
    many it took.
    """
    rows: list[Json] = []

    def note(name: str, attack: Callable[[], Json]) -> None:
        show_phase(f"attack {len(rows) + 1}: {name}")
        rows.append(best_of(options.tries, attack))

    for mode in MODES:
        if options.match.partition(": ")[0] in {*MODES} - {mode}:
            continue
        if (
            mode == "plug-ins"
            and not {each.name for each in entry_points(group=_GROUP)} >= _PLUG_INS
        ):
            continue
        own = NodeProcess(
            context.log, environment=MODES[mode], cores=context.cores.server
        )
        context.pool.start(own)
        context.target = own.target
        worker, others = context.start_workers(2)
        modes = {name: wanted.mode for name, wanted in ATTACKS.items()}
        modes |= context.pool.ask(worker, learn)["modes"]
        if mode == "people":
            context.pool.ask(worker, make_crowd, limit_seconds=CROWD * ANSWER_SECONDS)
        elif mode == "demo":
            context.pool.ask(worker, fill)
            context.pool.ask(others, gather)
        for name, only in modes.items():
            if (
                only == mode if only else mode in ("demo", "keys")
            ) and options.match in f"{mode}: {name}":
                note(
                    name,
                    partial(
                        _attack_once, context, worker, others, mode, name, own.pids[0]
                    ),
                )
        own.control("stop")
    if not rows:
        raise BenchError(f"no attack has {options.match!r} in its name")
    unproved = unproved_in(rows)
    rows.sort(key=lambda row: -row["share"])
    hashing = [row for row in rows if _most_mb(row["name"]) == MOST_HASH_MB]
    context.extra |= {"attacks": rows, "worst": rows[0]["name"], "unproved": unproved}
    return {
        "attacks": len(rows),
        "attacks_over": sum(row["over"] for row in rows),
        "hold_ms": max(row["hold_ms"] for row in rows),
        "growth_mb": max(
            (row["growth_mb"] for row in rows if row not in hashing), default=0
        ),
        "hash_mb": max((row["growth_mb"] for row in hashing), default=0),
        "residue_mb": max(row["residue_mb"] for row in rows),
        "dropped": sum(row["dropped"] for row in rows),
        "unproved": len(unproved),
    }


def _attack_once(
    context: RunContext, worker: Worker, others: Worker, mode: str, name: str, pid: int
) -> Json:
    row = context.pool.ask(worker, attack, mode=mode, name=name, pid=pid)
    if mode == "demo":
        row["dropped"] += context.pool.ask(others, count_lost)["lost"]
    return row


def _most_mb(name: str) -> int:
    if any(word in name for word in HASHES):
        return MOST_HASH_MB
    return MOST_GROWTH_MB


def unproved_in(rows: Iterable[Json]) -> list[str]:
    """Commands, operations and routes whose attacks prove nothing: all requests
    of all principals were refused, and :data:`REFUSED` has no reason.
    """
    accepted = {row["of"] for row in rows if row["counts"][ACCEPTED]}
    return sorted(
        {row["of"] for row in rows} - accepted - {""} - SILENT - REFUSED.keys()
    )
