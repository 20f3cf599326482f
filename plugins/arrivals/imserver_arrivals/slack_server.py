"""A running workspace of Slack: its Web API, and the connection of Socket Mode
that brings events.

An event is acknowledged when it is stored, as a rule within the three seconds
that Slack gives. Otherwise, and if the process is killed, Slack sends it again:
at once, after one minute and after five, also to a connection that begins
later. Therefore edits, deletions and ended reactions, which no history tells,
survive a crash. Repeated events are recognised by their ids.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from .fields import list_at, text_at
from .live import LiveError, Server, checked_address
from .slack import ID, Conversation, SlackUser

FILE_BYTES: Final = 256 << 20
"""Limit of one file in bytes. A larger one is imported with its name only."""
_PAGE: Final = 200
"""The number of rows in one answer that Slack recommends."""
_MOST_PAGES: Final = 5000
_MOST_EVENTS: Final = 500
"""The most events that are stored at once."""
_MOST_KNOWN: Final = 20_000
"""The most ids of events that are kept."""
_TOGETHER_SECONDS: Final = 0.1
"""If further events come within this time, in seconds, they are stored with the
first one."""
_ENDING_SECONDS: Final = 0.1
"""How long to wait for one of two connections, before the other is read."""
_OPEN_SECONDS: Final = 20
_MOST_QUEUED: Final = 256
_MOST_ERROR_CHARACTERS: Final = 200
_LAST_PIECE_BYTES: Final = 1 << 16
_KINDS: Final = "public_channel,private_channel,mpim"
_REQUIRED_METHODS: Final = (
    "apps.connections.open",
    "users.list",
    "conversations.list",
    "conversations.members",
)
"""Methods that must not be refused. Other methods may be refused for one
channel or message."""
_FINAL_ERRORS: Final = (
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "missing_scope",
    "not_allowed_token_type",
)
"""Errors after which a later try fails, too."""
_TEMPORARY_ERRORS: Final = (
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "ratelimited",
)
"""Errors after which a later try may succeed."""


class SlackChannel(Conversation):
    """A conversation in the form of the API."""

    is_member: bool | None = False
    is_private: bool | None = False
    is_mpim: bool | None = False
    is_im: bool | None = False

    @property
    def file(self) -> str:
        """The list of an export that contains the conversation."""
        if self.is_im:
            return "dms"
        if self.is_mpim:
            return "mpims"
        if self.is_private:
            return "groups"
        return "channels"


class Payload(Struct):
    """The content of an envelope: an event, and the id by which it is
    recognised."""

    type: str = ""
    event_id: str = ""
    event: dict[str, Any] | None = None


class Envelope(Struct):
    """A message of the connection for events. ``reason`` says why a connection
    ends."""

    type: str = ""
    envelope_id: str = ""
    reason: str = ""
    payload: Payload | None = None


T = TypeVar("T")
_read_envelope: Final = msgspec.json.Decoder(Envelope).decode


class SlackServer:
    """A running workspace of Slack, as one app and its bot see it.

    It asks methods of the Web API, and receives events by *Socket Mode*: a
    WebSocket that the app opens to Slack. Methods raise LiveError.
    """

    def __init__(self, address: str, token: str) -> None:
        """Prepare the requests. Nothing is sent yet.

        ``token`` has two lines: the app's token for Socket Mode (``xapp-…``),
        and the token of its bot for all other requests (``xoxb-…``).
        """
        app, bot = _tokens_in(token)
        self._headers = {"Authorization": f"Bearer {bot}"}
        self._app = Server(address, {"Authorization": f"Bearer {app}"})
        self._web = Server(address, self._headers)
        self._host = urlsplit(address).hostname or ""
        self._files: dict[str, Server] = {}
        """Origin of files → the server that has the files."""

        self._socket: ClientConnection | None = None
        self._ending_socket: ClientConnection | None = None
        """The connection that Slack is about to end. Its successor is open
        already."""
        self._unacknowledged: list[tuple[ClientConnection, str]] = []
        """Envelopes that are not acknowledged, each with its connection and
        id."""
        self._event_ids: dict[str, None] = {}
        """Ids of the last events, as an ordered set. Slack may send an event
        twice."""
        self.events: list[dict[str, Any]] = []
        """Events that may not be stored yet: they are not acknowledged."""

        self.users: dict[str, SlackUser] = {}
        self._unknown_users = set[str]()
        """Ids of users about whom Slack tells nothing."""
        self.channels: dict[str, SlackChannel] = {}
        """Channels that were read. They have no members until the members are
        read, too."""

    # --- the Web API ----------------------------------------------------------

    def call(self, method: str, **query: str | int) -> dict[str, Any]:
        """Ask a method of the Web API, such as ``users.list``.

        Slack answers ``{"ok": true, …}``, or ``{"ok": false, "error":
        "not_in_channel"}``. Such a refusal is returned if it concerns only one
        channel or message. Raises LiveError for all other refusals.
        """
        if method == "apps.connections.open":
            answer = self._app.post(dict[str, Any], f"/{method}", None)
        elif method == "conversations.join":
            answer = self._web.post(dict[str, Any], f"/{method}", query)
        else:
            answer = self._web.get(dict[str, Any], f"/{method}?{urlencode(query)}")
        if answer.get("ok") is not True:
            _raise_if_needed(method, answer)
        return answer

    def pages(self, method: str, field: str, **query: str | int) -> Iterator[list[Any]]:
        """Ask a method whose answer is long, and yield the rows of each page.

        ``field``: the field of the answers with the rows, such as ``members``.
        """
        cursor = ""
        for _ in range(_MOST_PAGES):
            answer = self.call(method, limit=_PAGE, cursor=cursor, **query)
            yield list_at(answer, field)
            cursor = text_at(answer, "response_metadata", "next_cursor")
            if not cursor:
                return

    def save(self, address: str, path: Path) -> None:
        """Save a file of a message to ``path``.

        If the file is not available, nothing is written. Raises LiveError if it
        may be available later.
        """
        try:
            parts = urlsplit(address)
            is_of_slack = f".{parts.hostname}".endswith(f".{self._host}")
        except ValueError:
            return
        # A message may name any address, and only Slack may get the token.
        if not is_of_slack:
            return
        origin = f"{parts.scheme}://{parts.netloc}"
        source = f"{parts.path}?{parts.query}".rstrip("?")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._download(origin, source, path)

    def _download(self, origin: str, source: str, path: Path) -> None:
        """Save a file of a server of Slack, as :meth:`save` does.

        ``source``: its path and query. ``path``: where it is written.
        """
        with path.open("wb") as file:
            try:
                server = self._files.setdefault(origin, Server(origin, self._headers))
                server.download(source, file, FILE_BYTES)
            except LiveError as error:
                path.unlink()
                if _may_come_later(error, size=file.tell()):
                    raise

    # --- people and channels --------------------------------------------------

    def read_users_and_channels(self) -> None:
        """Read the lists of users and channels, and join the public channels.

        Members are read later, when somebody needs them.
        """
        self.users = {}
        self.channels = {}
        for rows in self.pages("users.list", "members"):
            self.remember_users(rows)
        may_join = True
        for rows in self.pages("conversations.list", "channels", types=_KINDS):
            for row in rows:
                channel = converted(row, SlackChannel)
                if channel is None:
                    continue
                channel.members = None
                if may_join:
                    may_join = self._join(channel)
                self.channels[channel.id] = channel

    def _join(self, channel: SlackChannel) -> bool:
        """Let the bot join a public channel, because it gets no events
        otherwise.

        Returns False if the bot may join no channel at all.
        """
        is_closed = channel.is_private or channel.is_archived
        if channel.is_member or is_closed:
            return True
        answer = self.call("conversations.join", channel=channel.id)
        channel.is_member = answer.get("ok") is True
        return answer.get("error") != "missing_scope"

    def read_user(self, user: str) -> None:
        """Read a user whom no list names, unless that was tried before.

        Such a user is of another workspace, and in a shared channel.
        """
        is_known = user in self.users or user in self._unknown_users
        if is_known or not ID.fullmatch(user):
            return
        row = self.call("users.info", user=user).get("user")
        if user not in self.remember_users([row]):
            self._unknown_users.add(user)

    def channel(self, id: str) -> SlackChannel | None:
        """Return a channel with its members, from the cache or from Slack.

        None if the bot does not see the channel.
        """
        channel = self.channels.get(id)
        if channel is None:
            channel = converted(
                self.call("conversations.info", channel=id).get("channel"), SlackChannel
            )
            if channel is None or channel.id != id:
                return None
            channel.members = None
            self.channels[id] = channel
        if channel.members is None:
            pages = self.pages("conversations.members", "members", channel=id)
            ids = chain.from_iterable(pages)
            channel.members = [id for id in ids if isinstance(id, str)]
        return channel

    def remember_users(self, rows: Iterable[object]) -> list[str]:
        """Keep users whom Slack has sent, and return their ids. Other values
        are skipped."""
        ids = []
        for row in rows:
            user = converted(row, SlackUser)
            if user is not None and ID.fullmatch(user.id):
                self.users[user.id] = user
                ids.append(user.id)
        return ids

    # --- Socket Mode ----------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether a connection for events is open."""
        return self._socket is not None

    def connect(self) -> None:
        """Open a connection for events.

        An existing connection stays open until Slack ends it, so that no event
        is lost between them. Raises LiveError.
        """
        url = text_at(self.call("apps.connections.open"), "url")
        address = checked_address(url, ("wss", "ws"))
        try:
            # Entered by hand, because the connection outlives this method.
            socket = connect(
                address,
                open_timeout=_OPEN_SECONDS,
                close_timeout=1,
                max_queue=_MOST_QUEUED,
                proxy=None,
            ).__enter__()
        except (OSError, WebSocketException) as error:
            # The text of the error has the address, which is a secret.
            raise LiveError(
                f"Slack lets no connection begin: {type(error).__name__}"
            ) from None
        _close(self._ending_socket)
        self._ending_socket = self._socket
        self._socket = socket

    def receive(self, seconds: float) -> None:
        """Take the events that come within ``seconds``.

        After the first event the wait ends soon, so that people see it quickly.
        """
        end = monotonic() + seconds
        is_shortened = False
        while len(self.events) < _MOST_EVENTS:
            seconds_left = end - monotonic()
            if seconds_left <= 0:
                return
            if self.events and not is_shortened:
                end = min(end, monotonic() + _TOGETHER_SECONDS)
                is_shortened = True
            elif self._ending_socket is None:
                self._receive_one(self._socket, seconds_left)
            # The old connection is read first: its events are older.
            elif not self._receive_one(self._ending_socket, 0.0):
                self._receive_one(self._socket, min(seconds_left, _ENDING_SECONDS))

    def acknowledge(self) -> None:
        """Acknowledge all events, because they are stored."""
        for socket, id in self._unacknowledged:
            # If the connection is closed, Slack sends the event again.
            with suppress(ConnectionClosed):
                socket.send(msgspec.json.encode({"envelope_id": id}).decode())
        self._unacknowledged = []
        self.events = []

    def disconnect(self) -> None:
        """End the connections for events.

        Events in :attr:`events` stay, but are not acknowledged, so Slack sends
        them again.
        """
        _close(self._ending_socket)
        _close(self._socket)
        self._socket = None
        self._ending_socket = None
        self._unacknowledged = []

    def close(self) -> None:
        """End the connections for events and requests."""
        self.disconnect()
        for server in (self._app, self._web, *self._files.values()):
            server.close()

    def _receive_one(self, socket: ClientConnection | None, seconds: float) -> bool:
        """Receive one message of a connection.

        Slack sends each event in an *envelope*, whose id acknowledges it:
        ``{"envelope_id": "e1", "type": "events_api", "payload": {"event_id":
        "Ev1", "event": {…}}}``. Returns False if no message has come within
        ``seconds``. Raises LiveError.
        """
        if socket is None:
            raise LiveError("there is no connection to Slack")
        try:
            envelope = _read_envelope(socket.recv(timeout=seconds))
        except TimeoutError:
            return False
        except ConnectionClosed:
            if socket is not self._ending_socket:
                raise LiveError("Slack has ended the connection") from None
            self._ending_socket = None
            return False
        except (ValueError, RecursionError):
            raise LiveError("Slack sends what is not understood") from None

        payload = envelope.payload or Payload()
        if envelope.type == "disconnect":
            self._replace(socket, envelope.reason)
            return True
        if payload.type == "app_rate_limited":
            raise LiveError("Slack has left events out, because there were too many")
        if envelope.envelope_id:
            self._unacknowledged.append((socket, envelope.envelope_id))
        self._add_event(payload)
        return True

    def _replace(self, socket: ClientConnection, reason: str) -> None:
        """Open the next connection, because Slack will end this one soon.

        Raises LiveError if another reason than its age ends the connection.
        """
        if reason not in ("warning", "refresh_requested"):
            is_off = reason == "link_disabled"
            raise LiveError(
                "Slack ends the connection: Socket Mode is off, or there are too many",
                is_final=is_off,
            )
        if socket is self._socket:
            self.connect()

    def _add_event(self, payload: Payload) -> None:
        """Add an event to :attr:`events`, unless it came before."""
        if payload.event is None or payload.event_id in self._event_ids:
            return
        self.events.append(payload.event)
        if payload.event_id:
            self._event_ids[payload.event_id] = None
        if len(self._event_ids) > _MOST_KNOWN:
            del self._event_ids[next(iter(self._event_ids))]


def _tokens_in(text: str) -> list[str]:
    """Return the token of the app and that of its bot, which may be in any
    order.

    Raises LiveError if one is missing.
    """
    tokens = sorted(text.split(), key=_is_of_bot)
    if len(tokens) < 2 or _is_of_bot(tokens[0]):
        raise LiveError(
            "Slack needs two tokens, one on each line: xapp-… and xoxb-…",
            is_final=True,
        )
    return tokens[:2]


def _may_come_later(error: LiveError, size: int) -> bool:
    """Whether a later try may fetch a file. ``size``: the bytes that came.

    A file that was too large is not fetched again.
    """
    is_gone = error.is_final or 300 <= error.status < 500
    is_too_large = size + _LAST_PIECE_BYTES >= FILE_BYTES
    return not (is_gone or is_too_large)


def _raise_if_needed(method: str, answer: dict[str, Any]) -> None:
    """Raise LiveError for a refusal with which an import cannot continue.

    ``answer`` is ``{"ok": false, "error": "missing_scope", "needed":
    "users:read"}``, for example.
    """
    error = answer.get("error")
    is_temporary = error in _TEMPORARY_ERRORS
    is_final = error in _FINAL_ERRORS
    # Without these methods the import continues.
    may_fail = method in ("conversations.join", "conversations.replies")
    must_raise = (
        method in _REQUIRED_METHODS or is_temporary or (is_final and not may_fail)
    )
    if must_raise:
        why = _printable(f"{error} {answer.get('needed') or ''}")
        raise LiveError(f"Slack refuses {method}: {why}", is_final=is_final)


def _printable(text: str) -> str:
    """Return the beginning of a text of Slack, in a form that can be printed."""
    text = "".join(filter(str.isprintable, text))
    return text[:_MOST_ERROR_CHARACTERS].rstrip()


def _close(socket: ClientConnection | None) -> None:
    """Close a connection, if there is one. Errors of a broken one are
    ignored."""
    if socket is not None:
        with suppress(OSError, WebSocketException):
            socket.close()


def _is_of_bot(token: str) -> bool:
    """Whether a token is that of the bot, and not that of the app."""
    return not token.startswith("xapp-")


def converted(value: object, kind: type[T]) -> T | None:
    """Return a value as a struct. None if it has another form."""
    try:
        return msgspec.convert(value, kind)
    except ValueError:
        return None
