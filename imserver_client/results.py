"""The answers of the HTTP API (docs/guides/README.md)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class StoredPosition(Struct, frozen=True):
    """The position of a stored message: its id in the log of the app, its
    conversation, and its number there."""

    id: int
    conversation: int
    seq: int


class PushResult(Struct, frozen=True):
    """The result for one target.

    ``status``:

    - ``"sent"``: to a connection, or to the node that has one
    - ``"absent"``: the target has no connection
    - ``"held"``: waits for a login, at most ``ttl_seconds``
    - ``"stored"``: at the position ``stored``
    - ``"repeated"``: this id was accepted before
    - ``"refused"``: it cannot be stored, for this ``reason``
    - ``"failed"``: a node or the database does not answer; other targets have
      accepted the push
    - ``"partly"``: one node of a channel or an app cannot be reached
    """

    target: dict[str, Any]
    status: str
    stored: StoredPosition | None = None
    reason: str = ""


class PushAnswer(Struct, frozen=True):
    """The results of a push. ``sent``: the number of targets whose result is
    ``"sent"``."""

    sent: int
    results: tuple[PushResult, ...] = ()


class Session(Struct, frozen=True):
    """One session of a user. ``since`` is in Unix seconds; ``node`` is the
    server process that has it."""

    connection: str
    device: str = ""
    dialect: str = ""
    since: int = 0
    node: str = ""


class Presence(Struct, frozen=True):
    """Whether a user is online, and, where requested, in which sessions."""

    user: str
    online: bool
    sessions: tuple[Session, ...] = ()


class UserPage(Struct, frozen=True):
    """Users of an app in the order of their names. ``count``: the number of all
    users. ``next``: the cursor of the next page. ``missing_nodes``: server
    processes that did not answer."""

    count: int
    users: tuple[str, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class Counts(Struct, frozen=True):
    """The numbers of one app, on all nodes together."""

    app: str
    users: int
    sessions: int
    channels: int


class Channel(Struct, frozen=True):
    """A channel, and its number of subscribers.

    ``offset`` and ``epoch``: the position of its history, if the request wants
    it and the channel has a history.
    """

    channel: str
    subscribers: int
    offset: int = 0
    epoch: str = ""


class ChannelPage(Struct, frozen=True):
    """Channels of an app in the order of their names; see :class:`UserPage`."""

    count: int
    channels: tuple[Channel, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class ChannelResult(Struct, frozen=True):
    """The result of a publication in one channel, and its position, if the
    channel has a history.

    ``status``:

    - ``"sent"``: subscribers receive it, or the history has it
    - ``"absent"``: nobody is subscribed, and there is no history
    - ``"repeated"``: this id was accepted before
    - ``"refused"``: it is too long for this channel
    - ``"failed"``: it has not accepted the message, but other channels of the
      broadcast have. Broadcast again with the same ``id``: each channel accepts
      it once
    - ``"partly"``: a node with subscribers cannot be reached
    """

    channel: str
    status: str
    offset: int = 0
    epoch: str = ""


class RetainedPublication(Struct, frozen=True):
    """A message in the history of a channel: ``text`` or ``data``."""

    offset: int
    type: str = "text"
    text: str = ""
    data: Any = None
    sender: str = ""
    id: str = ""
    tags: dict[str, str] = {}


class HistoryPage(Struct, frozen=True):
    """Publications of a channel. ``offset`` and ``epoch`` are the position of
    the newest publication in the history."""

    publications: tuple[RetainedPublication, ...]
    offset: int
    epoch: str


class PieceResult(Struct, frozen=True):
    """The result for a piece of a streamed message, whose last piece has the
    number ``piece``.

    ``status`` is one of:

    - ``"appended"``, ``"repeated"``, ``"too_long"``, ``"closed"``
    - ``"gap"``: pieces before it are missing
    - ``"unknown"``: no such message exists
    - ``"failed"``: its node does not answer, but the node of another piece
      does; append it again
    """

    stream: str
    piece: int
    status: str


class StreamEnd(Struct, frozen=True):
    """The result of closing a streamed message.

    ``status``: ``"closed"``; ``"repeated"``: it was closed before;
    ``"unknown"``: the server closed it long ago, or its node has ended.
    ``offset`` and ``epoch`` are its position (0 and ``""`` if it has no
    position).
    """

    stream: str
    status: str
    channel: str = ""
    offset: int = 0
    epoch: str = ""


class ChannelSubscriber(Struct, frozen=True):
    """A connection that is subscribed to a channel; ``subscribed_at`` is in
    Unix seconds.

    ``info``, ``channel_info``: its facts about itself, in all its channels and
    in this one.
    """

    connection: str
    user: str = ""
    device: str = ""
    dialect: str = ""
    subscribed_at: float = 0.0
    info: Any = None
    channel_info: Any = None


class ChannelSubscriberPage(Struct, frozen=True):
    """Subscribers of a channel in the order of subscribing; see
    :class:`UserPage`."""

    count: int
    subscribers: tuple[ChannelSubscriber, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class MailboxClaim(Struct, frozen=True):
    """Messages of one conversation that a worker has claimed, the oldest first.
    The claim has no messages if none wait.

    ``until``: when the lease ends, in Unix milliseconds of the server.
    ``tries``: how often the first message was claimed, including this claim.
    The messages have the fields of the HTTP API.
    """

    token: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    tries: int = 0
    until: int = 0


class BatchResult(Struct, frozen=True):
    """The answer to one command of a batch. It is the answer that the command
    would get alone."""

    status: int
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether the command was carried out."""
        return self.status < 400


class App(Struct, frozen=True):
    """An app and its settings. ``configured``: it is in the configuration, and
    can be changed only there."""

    app: str
    configured: bool = False
    login_policy: str = ""
    same_as: str = ""
    dialects: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_connections: int = 0
    messages_per_second: float = 0.0
    max_channels: int = 0
    retention_seconds: float = 0.0
    retention_messages: int = 0
    store_conversations: bool = False
    max_user_bytes: int = 255
