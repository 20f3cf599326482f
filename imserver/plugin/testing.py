"""The face: a node in a test, and checks that codecs, tables and features must
pass.

For tests: no node imports it. It patches nothing, and needs no pytest.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import REPLY_TEXT, ReplyCode
from imserver.gateway.feature import FeatureRow
from imserver.gateway.model import BadFrame, Command, Event, Reply, Request
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import CORE_TABLES, Reason, StoreTables, Table

__all__ = ["CodecContract", "NodeProcess", "check_absent", "check_tables", "eventually"]

T = TypeVar("T")

COMMAND: Final = (sys.executable, "-m", "imserver")
START_SECONDS: Final = 240.0
STOP_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.01
_STORAGE_SECONDS: Final = 60
"""Time limit of the first write. It makes the database, which may take long on
a busy machine."""
_LAST_LINES: Final = 40
"""How many lines of a log a failure shows. A traceback is among them."""
_TIME: Final = 1_795_156_528
"""A time of events, in Unix seconds."""
_ID: Final = "x" * 32
"""A name in place of an id in a path."""
_UNKNOWN_CODE: Final = 7
"""A code that no refusal has."""

# Random bytes and texts.
_RANDOM_PAYLOADS: Final = 300
_RANDOM_BYTES: Final = 60
_RANDOM_TEXTS: Final = 60
_RANDOM_CHARACTERS: Final = 40
_LONG_TEXT: Final = "a" * 300
_TOP_CHARACTERS: Final = (0x80, 0xD7FF, 0x10FFFF)
"""Upper bounds of the characters of a random text: ASCII, below surrogates, or
any."""
_DAMAGED_COPIES: Final = 100
_MOST_DAMAGES: Final = 5
_MOST_REPLACED: Final = 3
_MOST_INSERTED: Final = 4

_HTTP: Final = re.compile(r"http://([0-9.]+|\[[0-9a-f:]+\]):(\d+)")
_WS: Final = re.compile(r"ws://([0-9.]+|\[[0-9a-f:]+\]):(\d+)")


def eventually(
    condition: Callable[[], T | None], seconds: float = 60.0, what: str = ""
) -> T:
    """Wait until ``condition()`` is true, and return its value.

    Fails after ``seconds``. The failure has the text ``what``.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, (
            f"not within {seconds} s: {what or condition}"
        )
        time.sleep(_LOOK_SECONDS)


# --- a node -------------------------------------------------------------------


class HostAndPort(NamedTuple):
    """Host and port of a listener, as ``socket.create_connection`` takes
    them."""

    host: str
    port: int


class Answer(NamedTuple):
    """The answer to a request over HTTP."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def _folder_for(stack: ExitStack, folder: Path | None) -> Path:
    """Return the folder of a node, which exists afterwards.

    None: a temporary folder, which the end of the stack removes.
    """
    if folder is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class NodeProcess:
    """A node in its own process, from the construction to the end of ``with``.

    ``features``: the setting of this name (None: all features of this server).
    ``settings``: the other settings, as in the file. Unless the settings say
    otherwise, the node listens on free ports, and requests need no key.
    ``folder``: the folder for its files and its database (None: a folder that
    is removed with the node). ``arguments``: the arguments of ``imserver
    serve``. The end of ``with`` fails if the node has logged a traceback. An
    exception inside gets the end of the log as a note.

    ``http`` and ``ws`` are its hosts and ports, ``output`` is its printed text,
    and ``log_text`` is its log. Nodes with the same ``redis.addr`` are a
    cluster: :meth:`another` starts one more node.
    """

    def __init__(
        self,
        *arguments: str,
        features: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Write the settings, start the process, and wait until it serves.

        ``command`` is the program ``imserver`` with its first arguments. The
        class explains the other arguments.
        """
        # What is on this stack is undone in the reverse order.
        with ExitStack() as started:
            self.folder = _folder_for(started, folder)
            self.log = self.folder / "server.log"
            self.config_file = self.folder / "config.yaml"
            self._output = self.folder / "output.txt"
            self._stopping = False
            self._environment = environment
            self._features = {}
            if features is not None:
                self._features = {"features": list(features)}
            self._settings = settings or {}
            self.configure(self._settings)

            self.process = self._start(command, arguments)
            started.callback(self._end)
            self.http, self.ws = self._wait_for_banner()
            # Until here, an error ends the process and removes the folder. From
            # now on, the end of the outer `with` does so.
            self._started = started.pop_all()

    def _start(
        self, command: Sequence[str], arguments: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Start the process of the node. Its output goes to a file."""
        with self._output.open("wb") as output:
            return subprocess.Popen(
                [*command, "serve", "--config", str(self.config_file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment_of(self._environment or {}),
                cwd=self.folder,
            )

    def __enter__(self) -> Self:
        """Return the node, which runs already."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """End the node, and remove its folder. Fail if it logged a
        traceback."""
        with self._started:
            self.stop()
            if error is None:
                self.check()
            else:
                last_lines = self.log_text.splitlines()[-_LAST_LINES:]
                lines = ["The end of the log of the node:", *last_lines]
                error.add_note("\n".join(lines))

    def another(self, **settings: Any) -> NodeProcess:
        """Start one more node of the cluster.

        It has the data and the settings of this node, and some ``settings`` of
        its own.
        """
        shared = {"server": {"data_dir": str(self.folder / "data")}}
        return NodeProcess(
            features=self._features.get("features"),
            settings=merged(merged(shared, self._settings), settings),
            environment=self._environment,
        )

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the settings. SIGHUP makes the node read them again.

        They are merged with defaults: free ports, and a folder of the node's
        own.
        """
        defaults = self._defaults()
        if "redis" in settings:
            cluster = {"app": {"rpc_port": 0}, "cluster": {"advertise": "127.0.0.1"}}
            defaults = merged(defaults, cluster)
        # JSON is YAML.
        text = json.dumps(merged(defaults, settings))
        self.config_file.write_text(text, encoding="utf-8")

    def _defaults(self) -> dict[str, Any]:
        """Return the settings of a node for tests: it writes into its folder."""
        return {
            **self._features,
            "app": {"log_file": str(self.log), "http_port": 0, "websocket_port": 0},
            "server": {"data_dir": str(self.folder / "data")},
            "drain": {"close_seconds": 0},
            "storage": {"seconds": _STORAGE_SECONDS},
        }

    # --- clients --------------------------------------------------------------

    def get(self, path: str, *, key: str = "") -> Answer:
        """GET a path. ``key`` is an API key or the token of a user."""
        return self.ask("GET", path, key=key)

    def post(self, path: str, document: Any, *, key: str = "") -> Answer:
        """POST a document as JSON, or bytes as they are."""
        return self.ask("POST", path, document, key=key)

    def ask(
        self, method: str, path: str, document: Any = None, *, key: str = ""
    ) -> Answer:
        """Send a request, and return the answer.

        ``document`` is sent as JSON, and bytes as they are.
        """
        with self._request(method, path, document, key) as response:
            return Answer(response.status, response.read())

    @contextmanager
    def stream(self, path: str, *, key: str = "") -> Iterator[Iterator[str]]:
        """Read the lines of an answer that does not end, such as an event
        stream.

        Empty lines are left out.
        """
        with self._request("GET", path, document=None, key=key) as response:
            assert response.status == 200, (response.status, response.read())
            yield (line.decode().rstrip("\r\n") for line in response if line.strip())

    @contextmanager
    def connect(
        self, path: str, *, key: str = "", **options: Any
    ) -> Iterator[ClientConnection]:
        """Open a WebSocket on the path of a dialect.

        It is a connection of ``websockets``, with ``options`` as there. Raises
        ``websockets.exceptions.InvalidStatus`` if the node refuses it.
        """
        url = f"ws://{self.ws.host}:{self.ws.port}{path}"
        with connect(
            url, additional_headers=_headers(key), proxy=None, **options
        ) as client:
            yield client

    @contextmanager
    def _request(
        self, method: str, path: str, document: Any, key: str
    ) -> Iterator[HTTPResponse]:
        """Send a request, and yield the response.

        A ``document`` is sent as JSON, bytes as they are, and None means no
        body.
        """
        if document is None or isinstance(document, bytes):
            body = document
        else:
            body = json.dumps(document).encode()
        with closing(HTTPConnection(*self.http, timeout=REQUEST_SECONDS)) as connection:
            connection.request(method, path, body, _headers(key))
            with connection.getresponse() as response:
                yield response

    # --- the process ----------------------------------------------------------

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

    @property
    def output(self) -> str:
        """The text that the node has printed."""
        return self._output.read_text(encoding="utf-8")

    @property
    def log_text(self) -> str:
        """All whole lines of the log, without an unfinished last line."""
        if not self.log.exists():
            return ""
        data = self.log.read_bytes()
        return data[: data.rfind(b"\n") + 1].decode()

    def _wait_for_banner(self) -> tuple[HostAndPort, HostAndPort]:
        """Wait until the node has printed its addresses, and return them.

        The first is that of HTTP, the second that of WebSockets. Fails if the
        process ends before.
        """

        def addresses() -> tuple[HostAndPort, HostAndPort] | None:
            """Find the addresses in the output; None if they are not there
            yet."""
            text = self.output
            http = _HTTP.search(text)
            ws = _WS.search(text)
            if http and ws and text.endswith("\n"):
                return _address(http), _address(ws)
            assert self.process.poll() is None, (
                f"exit status {self.process.returncode}:\n{text}\n{self.log_text}"
            )
            return None

        return eventually(addresses, START_SECONDS, "the banner")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process, wait for its end and return the exit status.

        Does nothing to a process that has ended.
        """
        self.begin_to_stop(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"no end within {STOP_SECONDS} s of {number!r}:\n{self.log_text}"
            ) from None
        finally:
            self._end()
            self._stopping = False

    def begin_to_stop(self, number: int = signal.SIGTERM) -> None:
        """Signal the process, and do not wait.

        So several nodes can end at once. :meth:`stop` waits.
        """
        if self.process.poll() is None and not self._stopping:
            self.process.send_signal(number)
        self._stopping = True

    def check(self) -> None:
        """Fail if the node logged a traceback."""
        for text in (self.output, self.log_text):
            assert "Traceback" not in text, text

    def _end(self) -> None:
        """Kill the process, if it has not ended."""
        self.process.kill()
        self.process.wait()


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations.

    Their sections are joined. If both have a setting, the one of ``over``
    counts.
    """
    both: dict[str, Any] = {**base}
    for name, value in over.items():
        section = both.get(name)
        # The keys of `apps` are names of apps and not settings, so `apps` is
        # replaced as a whole.
        is_section = isinstance(section, Mapping) and name != "apps"
        if is_section and isinstance(value, Mapping):
            both[name] = {**both[name], **value}
        else:
            both[name] = value
    return both


def _environment_of(more: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of a node.

    It is the environment of this process without any setting of imserver, and
    with the variables ``more``. The node imports the same imserver.
    """
    environment = {}
    for name, value in os.environ.items():
        if not name.startswith("IMSERVER_"):
            environment[name] = value
    # The folder that has the package imserver.
    folders = [str(Path(__file__).parents[2])]
    if os.environ.get("PYTHONPATH"):
        folders.append(os.environ["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    environment["PYTHONUNBUFFERED"] = "1"
    return {**environment, **more}


def _address(match: re.Match[str]) -> HostAndPort:
    """Convert a match of an address in the output of a node."""
    return HostAndPort(match[1].strip("[]"), int(match[2]))


def _headers(key: str) -> dict[str, str]:
    """Return the headers of a request with a key; ``""``: no key."""
    if key:
        return {"Authorization": f"Bearer {key}"}
    return {}


# --- contracts ----------------------------------------------------------------


def _damaged(sample: bytes, dice: random.Random) -> bytes:
    """Damage a sample: a few places get other bytes, fewer or more than
    before."""
    payload = bytearray(sample)
    for _ in range(dice.randint(1, _MOST_DAMAGES)):
        start = dice.randrange(len(payload) + 1)
        inserted = dice.randbytes(dice.randrange(_MOST_INSERTED))
        end = start + dice.randrange(_MOST_REPLACED)
        payload[start:end] = inserted
    return bytes(payload)


class CodecContract:
    """The contract of a codec as tests. Check a dialect by a class of your
    tests::

        class TestLines(CodecContract):
            dialect = LinesDialect()
            requests = {b"last": Last(), b"nonsense": ReplyCode.NO_ROUTE}
            replies = [(b"last", Reply(ReplyCode.OK, "hello"), b"hello")]
            events = [(Event("msg", "ann", "hello"), b"ann: hello")]

    ``requests``: payload of a client → its command, the type of its command, or
    the code that refuses it. ``replies``: the payload of a request, a reply,
    and the payload for the client. ``events``: an event, and the payload for
    the client (None: the client gets nothing).
    """

    dialect: Dialect
    requests: Mapping[bytes, Command | type[Command] | int] = {}
    replies: Sequence[tuple[bytes, Reply, bytes | None]] = ()
    events: Sequence[tuple[Event, bytes | None]] = ()

    # --- for subclasses -------------------------------------------------------

    def decode(self, payload: bytes) -> Request | None:
        """Decode a payload. Returns None if the payload is no request."""
        try:
            return self.dialect.decode(payload)
        except BadFrame as bad:
            self.check_payload(bad.reply)
            return None

    def received(self, event: Event, user: str = "ann") -> bytes | None:
        """Encode an event for a user, as the server would do.

        Returns None if the user gets nothing.
        """
        if not self.dialect.personal:
            payload = self.dialect.encode_event(event)
            if callable(payload):
                return payload(user, None)
            return payload
        halves = self.dialect.encode_for(event)
        if halves is None:
            return None
        # The name of the user is between the halves.
        return json.dumps(user, ensure_ascii=False).encode().join(halves)

    def check_payload(self, payload: bytes | None) -> None:
        """Check that a payload is bytes.

        If the frames of the dialect are text, it must be UTF-8.
        """
        assert payload is None or type(payload) is bytes
        if payload is not None and self.dialect.text:
            payload.decode()

    def check_request(self, request: Request | None) -> None:
        """Check that a request has either a command or a code.

        A code refuses the request. In both cases the dialect must be able to
        answer.
        """
        if request is None:
            return
        assert type(request.seq) is str
        assert type(request.name) is str
        assert (request.command is None) == (request.code != 0)
        assert isinstance(request.command, Command | None)
        # Any request must be answerable.
        reply = Reply(request.code or ReplyCode.OK)
        self.check_payload(self.dialect.encode_reply(request, reply))

    # --- tests ----------------------------------------------------------------

    def test_it_says_its_name_its_path_and_its_kind_of_frames(self) -> None:
        assert self.dialect.name == self.dialect.name.lower().strip()
        assert self.dialect.path.startswith("/")
        for mark in ("text", "any_origin", "pinged", "personal"):
            assert type(getattr(self.dialect, mark)) is bool, mark

    def test_decoding_any_bytes_raises_only_bad_frame(self) -> None:
        # The same numbers each time, so that a failure can be repeated.
        dice = random.Random(0)
        payloads = [b"", b"\xff\x00nonsense"]
        for _ in range(_RANDOM_PAYLOADS):
            payloads.append(dice.randbytes(dice.randrange(_RANDOM_BYTES)))
        for payload in payloads:
            self.check_request(self.decode(payload))
        for text in _texts(dice):
            self.check_request(self.decode(text.encode()))

    def test_a_damaged_request_raises_only_bad_frame(self) -> None:
        dice = random.Random(0)
        for sample in self.requests:
            for _ in range(_DAMAGED_COPIES):
                self.check_request(self.decode(_damaged(sample, dice)))

    def test_its_requests_become_their_commands(self) -> None:
        for payload, expected in self.requests.items():
            request = self.dialect.decode(payload)
            self.check_request(request)
            # An example may say only the type of the command.
            if isinstance(expected, type):
                assert type(request.command) is expected, payload
            elif isinstance(expected, Command):
                assert request.command == expected, payload
            else:
                assert request.code == expected, payload

    def test_decoding_keeps_no_memory_of_earlier_frames(self) -> None:
        # One instance of a codec serves all connections.
        before = [self.decode(payload) for payload in self.requests]
        self.decode(b"\xff\x00nonsense")
        assert [self.decode(payload) for payload in self.requests] == before

    def test_any_request_can_be_answered(self) -> None:
        dice = random.Random(0)
        codes = [*REPLY_TEXT, _UNKNOWN_CODE]
        for text in _texts(dice):
            for data in (None, text):
                # A dialect must express codes that it does not know, too.
                code = dice.choice(codes)
                request = Request(text, dice.choice([text, "ping"]), None, code)
                reply = Reply(code, data)
                self.check_payload(self.dialect.encode_reply(request, reply))

    def test_its_replies_are_those_of_the_examples(self) -> None:
        for payload, reply, expected in self.replies:
            request = self.dialect.decode(payload)
            assert self.dialect.encode_reply(request, reply) == expected, payload

    def test_any_event_can_be_encoded(self) -> None:
        dice = random.Random(0)
        for text in _texts(dice):
            for kind in ("enter", "exit", "left", "msg", "online", "offline"):
                # An event with a text, and one with JSON and all fields.
                event = Event(kind, text, dice.choice(["", text]), text)
                self.check_payload(self.received(event))
                event = Event(
                    kind,
                    sender=text,
                    text="",
                    id="7",
                    type="order",
                    data=b'{"n":[1,null]}',
                    code=200,
                    note="note",
                    time=_TIME,
                )
                self.check_payload(self.received(event))

    def test_an_event_with_an_id_is_always_encoded_alike(self) -> None:
        event = Event("msg", "ann", "hello", "7", time=_TIME)
        assert self.received(event) == self.received(event)

    def test_its_events_are_those_of_the_examples(self) -> None:
        for event, expected in self.events:
            assert self.received(event) == expected, event


def _texts(dice: random.Random) -> Iterable[str]:
    """Yield texts that codecs often get wrong, and random texts."""
    yield from (
        "",
        "\0",
        " ",
        '"',
        "\\",
        "\r\n",
        "{}",
        "[1]",
        "null",
        "é",
        "\u2028",
        "\U0001f600",
        _LONG_TEXT,
    )
    for _ in range(_RANDOM_TEXTS):
        text = ""
        for _ in range(dice.randrange(_RANDOM_CHARACTERS)):
            text += chr(dice.randrange(dice.choice(_TOP_CHARACTERS)))
        # UTF-8 has no surrogates.
        yield text.encode("utf-8", "ignore").decode()


def check_tables(
    feature: FeatureRow, fill: Callable[[Store, str, str], object], url: str = ""
) -> None:
    """Check that rows of the feature are exported, imported and erased.

    Rows are erased with their user and with their app. ``fill(store, app,
    user)`` stores at least one row in each table, also in tables whose rows
    belong to the app alone. ``url`` is an empty database, as in ``storage.url``
    (``""``: a new file of SQLite).
    """
    stored = feature.stored
    # A feature of this server has its tables among those of the core.
    if stored.migrations:
        tables = StoreTables(of_others=(stored,))
    else:
        tables = StoreTables(lambda: (*stored.tables, *CORE_TABLES))
    with tempfile.TemporaryDirectory() as folder:
        address = url or f"sqlite:///{folder}/tables.db"
        settings = StorageSettings(address, seconds=_STORAGE_SECONDS)
        store = Store(settings, folder, threaded=False, tables=tables)
        store.start()
        with closing(store):
            _check_rows(store, stored.tables, fill)


class _ExpectedTables(NamedTuple):
    """The names of tables with rows in an export, or after an erasure."""

    of_user: set[str]
    """Tables with rows in an export of a user."""
    of_app: set[str]
    """Tables with rows in an export of an app."""
    stays_of_user: set[str]
    """Tables whose rows stay when their user is erased."""


def _expected_tables(store: Store, tables: Sequence[Table]) -> _ExpectedTables:
    """Read from the declarations of tables which rows an export has.

    Fails if a table has no row in the store.
    """
    of_user = set()
    of_app = set()
    stays_of_user = set()
    for table in tables:
        # A declaration has a Reason where it has no columns or no statement: it
        # says why.
        columns = table.key
        if not isinstance(table.columns, Reason):
            columns = table.columns
            if not isinstance(table.of_user, Reason):
                of_user.add(table.name)
            if not isinstance(table.of_app, Reason):
                of_app.add(table.name)
        if isinstance(table.erase_user, Reason):
            stays_of_user.add(table.name)
        _require_row(store, table.name, columns)
    return _ExpectedTables(of_user, of_app, stays_of_user)


def _require_row(store: Store, table: str, columns: Iterable[str]) -> None:
    """Fail if a table has no row in the store."""
    assert store.rows(f"SELECT {', '.join(columns)} FROM {table}"), (
        f"fill() has stored no row in {table}"
    )


def _exported(
    store: Store, tables: Sequence[Table], app: str, user: str = ""
) -> dict[str, list[tuple[Any, ...]]]:
    """Export a user or an app: table → its rows.

    ``user`` ``""`` means the whole app. Only the given ``tables`` are read.
    """
    if user:
        pages = store.rows_of_user(app, user)
    else:
        pages = store.rows_of_app(app)
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for page in pages:
        rows.setdefault(page.table, []).extend(page.rows)
    return {table.name: rows[table.name] for table in tables if table.name in rows}


_OWNERS_OF_ROWS: Final = (("shop", "ann"), ("shop", "bob"), ("tea", "ann"))
"""App and user: for each of them, the tables of a feature get rows."""


def _check_rows(
    store: Store, tables: Sequence[Table], fill: Callable[[Store, str, str], object]
) -> None:
    """Fill the tables for users of two apps, and check what happens to rows.

    Exports read them, erasures delete them, and imports add them.
    """
    exported = partial(_exported, store, tables)
    store.add_app("shop", {})
    for app, user in _OWNERS_OF_ROWS:
        fill(store, app, user)
    expected = _expected_tables(store, tables)

    # Check the rows that an export reads.
    assert exported("shop", "ann").keys() == expected.of_user
    assert exported("shop").keys() == expected.of_app

    _check_erasure(store, exported, expected)
    _check_deletion(store, exported, expected)


def _check_erasure(
    store: Store, exported: Callable[..., Any], expected: _ExpectedTables
) -> None:
    """Erase a user, and check which rows are left.

    ``exported`` reads the rows of an app or a user.
    """
    bob = exported("shop", "bob")
    tea = exported("tea")
    store.delete_rows_of_user("shop", "ann")
    assert exported("shop", "ann").keys() <= expected.stays_of_user
    assert (exported("shop", "bob"), exported("tea")) == (bob, tea), (
        "rows of others were erased"
    )


def _check_deletion(
    store: Store, exported: Callable[..., Any], expected: _ExpectedTables
) -> None:
    """Delete an app, and check which rows are left, and whether its rows can be
    imported.

    ``exported`` reads the rows of an app.
    """
    tea = exported("tea")
    store.delete_app("shop")
    pages = list(store.rows_of_app("shop"))
    store.delete_rows("shop")
    assert exported("shop") == {}
    _import_pages(store, pages, expected.of_app)
    assert exported("tea") == tea, "rows of another app were erased"


def _import_pages(store: Store, pages: Iterable[Any], tables: Container[str]) -> None:
    """Import the rows of pages into another app, if they belong to ``tables``
    and their table allows it."""
    imported = store.importing("copy")
    for page in pages:
        if page.table in tables and not imported.reason(page.table):
            add = partial(
                imported.add, name=page.table, columns=page.columns, rows=page.rows
            )
            store.write(add)


def check_absent(node: NodeProcess, feature: FeatureRow) -> None:
    """Check that a node without the feature has nothing of it.

    It has no route, metric, command and path of the feature.
    """
    _check_no_routes(node, feature)
    metrics = node.get("/metrics").body.decode()
    assert [row.name for row in feature.metrics() if row.name in metrics] == []
    _check_no_commands(node, feature)
    for dialect in feature.dialects:
        # Otherwise the path also belongs to other dialects.
        if dialect.path and not dialect.chosen_by:
            assert upgrade_status(node, dialect.path.replace("*", "x")) == 404, (
                dialect.name
            )


def _check_no_routes(node: NodeProcess, feature: FeatureRow) -> None:
    """Check that a node neither answers nor documents routes of a feature."""
    documented = node.get("/api/v1/openapi.json").json["paths"]
    for row in feature.routes:
        path = row.path.replace("*", "x").replace("{id}", _ID)
        answer = node.ask(row.method, path)
        assert answer.status == 404, (row.method, row.path)
        assert row.path not in documented


def _check_no_commands(node: NodeProcess, feature: FeatureRow) -> None:
    """Check that a node refuses the commands of a feature in the cmd
    dialect."""
    with node.connect("/acc") as client:
        for name in feature.wire.get("cmd", ()):
            client.send(json.dumps({"seq": "1", "cmd": name, "data": {}}))
            answer = json.loads(client.recv(REQUEST_SECONDS))
            assert answer["response"]["code"] == ReplyCode.NO_ROUTE, name


def upgrade_status(node: NodeProcess, path: str) -> int:
    """Return the status with which a node answers a WebSocket handshake.

    101 means that it accepts it.
    """
    try:
        with node.connect(path):
            return HTTPStatus.SWITCHING_PROTOCOLS
    except InvalidStatus as error:
        return error.response.status_code
