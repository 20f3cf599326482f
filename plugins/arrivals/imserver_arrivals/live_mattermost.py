"""Follows a server of Mattermost by the events of its WebSocket.

An event tells only where something has happened. The REST API tells what has
changed in a channel since a time. Therefore a lost event loses nothing, with
one exception: only an event tells that a reaction was taken back.

The wire format is in the server's ``api/v4/source``,
``model/websocket_message.go`` and ``model/incoming_webhook.go``.
"""

import re
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from .live import MARK, LiveError, Server
from .markdown import to_markdown
from .mattermost_news import ID, MattermostNews
from .mattermost_server import MattermostServer, ServerReaction, ServerUser

_OVERLAP_MS: Final = 30_000
"""How far back each request reaches again. The clocks of their nodes differ,
and a post can be read only some time after its own time."""
_MOST_EVENTS: Final = 1000
_MOST_MARKS: Final = 1000
_MOST_DONE: Final = 50_000
_CONNECT_SECONDS: Final = 15
_MOST_EVENT_BYTES: Final = 4 << 20
_LOUD: Final = re.compile(r"@(?=(?:all|channel|here)\b)|<(?=[!@#])")
"""Words that would notify a whole channel there, and characters that their
webhooks take for a name."""
# Types of events. An event of a channel says that its members may have changed.
_OF_POSTS: Final = {"posted", "post_edited", "post_deleted"}
_OF_CHANNELS: Final = {
    "user_added",
    "user_removed",
    "direct_added",
    "group_added",
    "channel_member_updated",
    "channel_created",
    "channel_updated",
    "channel_converted",
    "channel_deleted",
    "channel_restored",
}
_OF_REACTIONS: Final = {"reaction_added", "reaction_removed"}
_encode: Final = msgspec.json.Encoder().encode


class Where(Struct):
    """The receivers of an event: the members of a channel, for example."""

    channel_id: str = ""


class MattermostEvent(Struct):
    """An event, or the answer to a message of ours.

    ``{"event": "posted", "data": {"post": "{…}"}, "broadcast": {"channel_id":
    "…"}, "seq": 7}`` is an event. Most values of ``data`` are texts with JSON.
    """

    event: str = ""
    data: dict[str, Any] | None = None
    broadcast: Where | None = None
    seq: int = -1
    status: str = ""

    @property
    def channel(self) -> object:
        """The id of the channel in which the event happened, or None."""
        if self.broadcast is not None and self.broadcast.channel_id:
            return self.broadcast.channel_id
        return (self.data or {}).get("channel_id")


class State(Struct):
    """The decoded cursor."""

    since: int = 0
    """A time in Unix milliseconds; later changes are new."""
    archive: int = 0
    """The number of the last archive, so that each has another cursor."""
    marks: list[int] = []
    """The ids of the last messages of our app that were posted there."""


class LiveMattermost:
    """Follows a server of Mattermost, as the option ``--follow`` asks for.

    Messages that the account of the token cannot see are not imported. The
    interface is :class:`~imserver_arrivals.live.Live`.
    """

    name: ClassVar[str] = "mattermost"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """Prepare the requests. Nothing is sent yet. See
        :class:`.live.Live`."""
        self._server = MattermostServer(address, token)
        self._token = token
        # "https://…" → "wss://…"
        self._events_url = f"ws{address.removeprefix('http')}/api/v4/websocket"
        self._hooks = {group: Server(hook, {}) for group, hook in back.items()}
        self._socket: ClientConnection | None = None
        self._connection = ExitStack()
        """Closes the socket."""
        self._seq = -1
        """The number of the last event; -1 if none has come on this
        connection."""
        self._is_all_due = True
        """Whether all channels must be read, because events may be lost."""
        self._last_cursor: str | None = None
        """The cursor of the last call. None if it has failed, or if this is the
        first call."""
        self._due: dict[str, bool] = {}
        """Id of a channel with events → whether its members may have changed.
        Kept until the archive is stored."""
        self._postponed: dict[str, bool] = {}
        """The channels of :attr:`_due` that are left for the next archive."""
        self._until = 0
        """The time of the last change that was written."""
        self._reactions: list[tuple[str, ServerReaction]] = []
        """Kind of an event and its reaction. Kept until the archive is
        stored."""
        self._marks: dict[int, None] = {}
        """Ids of messages of the app that were posted there."""
        self._done: dict[str, int] = {}
        """Posts and files that were written, for :class:`MattermostNews`."""

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write the changes since the cursor as an archive, and return a new
        cursor.

        Waits up to ``seconds`` for an event. Raises LiveError.
        """
        self._note_stored(cursor)
        self._last_cursor = None  # until this call has succeeded
        self._take_events(cursor, seconds)
        state = self._state_of(cursor)
        self._marks |= dict.fromkeys(state.marks)
        news = MattermostNews(self._server, folder, self._marks, self._done)
        until = news.run(self._due, self._reactions, state.since)
        self._until = max(self._until, until)
        self._is_all_due = False
        self._postponed = news.postponed

        self._last_cursor = self._cursor_after(state, has_archive=any(folder.iterdir()))
        return self._last_cursor

    def _take_events(self, cursor: str, seconds: float) -> None:
        """Wait for events, and find out which channels must be read.

        If events may be lost, these are all channels. With the first cursor
        their members are new, too.
        """
        if self._socket is None:
            self._connect()
        if self._is_all_due:
            seconds = 0.0
        self._listen(seconds)
        if self._is_all_due:
            self._server.read_teams_and_channels()
            is_first = not cursor.startswith("{")
            self._due = {
                id: is_first or self._due.get(id, False) for id in self._server.channels
            }

    def _note_stored(self, cursor: str) -> None:
        """Forget the events of the last archive, if it was stored.

        The cursor which that archive has returned proves it. With another
        cursor events may be lost, so everything is read.
        """
        if cursor == self._last_cursor:
            self._due = self._postponed
            self._reactions = []
        else:
            # The last archive was not stored, or this is the first call.
            self._is_all_due = True
            self._done = {}
            self._until = 0

    def _cursor_after(self, state: State, has_archive: bool) -> str:
        """Return the cursor behind the written changes. Old marks are
        dropped."""
        since = state.since
        # Changes in postponed channels are older than the last one here.
        if not self._postponed:
            since = max(since, self._until - _OVERLAP_MS)
        _drop_oldest(self._done, _MOST_DONE)
        _drop_oldest(self._marks, _MOST_MARKS)
        state = State(since, state.archive + has_archive, list(self._marks))
        return _encode(state).decode()

    def _state_of(self, cursor: str) -> State:
        """Return the state that a cursor stands for.

        The first cursor is ``@1700000000000``, a time in Unix milliseconds. Or
        it is ``""``, and then posts after the newest one of the server are new.
        """
        if cursor.startswith("{"):
            return msgspec.json.decode(cursor, type=State)
        if cursor:
            return State(since=int(cursor[1:]))
        channels = self._server.channels.values()
        return State(since=max((each.last_post_at for each in channels), default=0))

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of our app to a channel, by a webhook of Mattermost.

        ``group`` is the channel as ``team/channel``. A message that is there
        already is not posted again. Returns False if it was not posted. Raises
        LiveError.
        """
        hook = self._hook_of(group)
        if hook is None or id in self._marks:
            return False
        text = _LOUD.sub(_quiet, to_markdown(text)) or "…"
        body: dict[str, Any] = {"text": text, "username": nickname, "props": {MARK: id}}
        if group not in self._hooks:
            # The webhook is for several channels, so the body names this one.
            body["channel"] = group.partition("/")[2]
        hook.ask("POST", "", body)
        self._marks[id] = None
        return True

    def _hook_of(self, group: str) -> Server | None:
        """Return the webhook for a channel, which is given as ``team/channel``.

        A webhook is given for a channel, for a team (``team/``), or, if there
        is only one team, for all channels (``""``).
        """
        team, _, _ = group.partition("/")
        keys = [group, f"{team}/"]
        if len(self._server.teams) == 1:
            keys.append("")
        return next((self._hooks[key] for key in keys if key in self._hooks), None)

    def close(self) -> None:
        """End the connections."""
        for server in (self._server.web, *self._hooks.values()):
            server.close()
        self._connection.close()

    # --- events ---------------------------------------------------------------

    def _connect(self) -> None:
        """Open the WebSocket for events, and log in.

        Events from before that are lost, so all channels are read next. Raises
        LiveError.
        """
        # This request fails with a clear error if the token is wrong.
        self._server.web.get(ServerUser, "/users/me")
        challenge = {
            "seq": 1,
            "action": "authentication_challenge",
            "data": {"token": self._token},
        }
        try:
            connecting = connect(
                self._events_url,
                max_size=_MOST_EVENT_BYTES,
                open_timeout=_CONNECT_SECONDS,
                close_timeout=1,
                proxy=None,
            )
            socket = self._connection.enter_context(connecting)
            socket.send(_encode(challenge).decode())
        except (OSError, WebSocketException, ValueError) as error:
            raise LiveError(f"no WebSocket: {type(error).__name__}: {error}") from None
        self._socket = socket
        self._seq = -1
        self._is_all_due = True

    def _listen(self, seconds: float) -> None:
        """Wait up to ``seconds`` for an event, and take all events that have
        come.

        Raises LiveError if the connection has ended.
        """
        deadline = monotonic() + seconds
        socket = self._socket
        assert socket is not None
        try:
            for _ in range(_MOST_EVENTS):
                # As soon as there is something to write, the wait ends.
                timeout = 0.0
                if not (self._due or self._reactions or self._is_all_due):
                    timeout = max(deadline - monotonic(), 0)
                content = socket.recv(timeout)
                self._take_event(msgspec.json.decode(content, type=MattermostEvent))
        except TimeoutError:
            return
        except (OSError, WebSocketException, ValueError, RecursionError) as error:
            self._connection.close()
            self._socket = None
            raise LiveError(f"the WebSocket ends: {error}") from None

    def _take_event(self, event: MattermostEvent) -> None:
        """Note what must be read or written because of an event.

        Raises ValueError if the server refuses the token.
        """
        if event.status == "FAIL":
            raise ValueError("the server does not accept the token")
        if event.seq >= 0:
            # A gap in the numbers means that an event was lost.
            self._is_all_due |= self._seq not in (-1, event.seq - 1)
            self._seq = event.seq
        kind = event.event
        if kind in ("user_updated", "new_user"):
            self._server.forget_people()
        elif kind in _OF_REACTIONS:
            self._reactions.append((kind, _reaction_of(event)))
        elif kind in _OF_POSTS | _OF_CHANNELS:
            self._note_due(event.channel, may_have_new_members=kind in _OF_CHANNELS)

    def _note_due(self, channel: object, may_have_new_members: bool) -> None:
        """Note that a channel must be read. Anything but an id is ignored."""
        if not isinstance(channel, str) or not ID.fullmatch(channel):
            return
        self._due[channel] = may_have_new_members or self._due.get(channel, False)
        if may_have_new_members:
            self._server.forget_channel(channel)


def _reaction_of(event: MattermostEvent) -> ServerReaction:
    """Return the reaction of an event, which has it as a text of JSON. Raises
    ValueError."""
    content = str((event.data or {}).get("reaction"))
    return msgspec.json.decode(content, type=ServerReaction)


def _drop_oldest(rows: dict[Any, Any], most: int) -> None:
    """Remove all rows but the last ``most``. The rows are in the order of their
    age."""
    for key in list(rows)[:-most]:
        del rows[key]


def _quiet(match: re.Match[str]) -> str:
    """Return a matched word with an invisible character behind it.

    ``@all`` looks the same afterwards, and notifies nobody.
    """
    return f"{match[0]}\u200b"
