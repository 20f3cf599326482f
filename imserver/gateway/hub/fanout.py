"""Fan-out: puts one event into the outboxes of many connections, encoded once
per encoding.

Filling outboxes never switches greenlets, so the frames of a connection have
the order of the calls. The flusher writes the outboxes in slices of 2 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.gateway.hub.hub import App, Hub, LocalChannel
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import ChannelPart, DialectState, Event
from imserver.gateway.protocol.dialect import Payload, StoredMessage
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.gateway.transport.outbox import BULK_CONNECTIONS, Flusher


class UnackedMessages(Protocol):
    """The messages to one connection that its client has not acknowledged yet.

    ``delivered`` is the number of the last message that was sent. ``waiting``
    are the messages, each as an event or the id of a stored message, with its
    frame.
    """

    delivered: int
    waiting: list[tuple[Event | int, bytes]]

    def add(
        self, connection: Connection, message: Event | StoredMessage, frame: bytes
    ) -> None:
        """Record the next message that goes to the connection."""

    def ack(self, connection: Connection, number: int) -> int:
        """Record that the client has the messages up to a number.

        Returns the id of the last stored message among these messages. If none
        of these messages is stored, the result is 0.
        """

    def clear(self) -> list[Event]:
        """Forget all messages, because the session ends.

        Returns the messages that are not stored.
        """


class AckedState(DialectState, gc=False):
    """The state of a connection whose client may acknowledge messages.

    ``unacked`` is None if the client does not acknowledge messages.
    """

    unacked: UnackedMessages | None = None


FrameSource = bytes | Callable[[Connection], bytes]
"""The frame of an event, or a function that makes the frame for one connection.
The function is called once for each connection that receives the event. The
frame ``b""`` means that the connection receives nothing, because its dialect
cannot express the event."""

_NUMBERED = ("msg", "message")
"""Kinds of events and of stored messages that clients acknowledge."""
_NOTICES_SHARE: Final = 8
"""The notices of a second fill at most an eighth of an outbox."""


def make(encoding: Encoding, event: Event | Part) -> FrameSource:
    """Encode an event once for all connections with this encoding.

    ``event`` may also be a part of a run of stored messages. Returns the frame,
    or a function that makes it for each connection.
    """
    dialect = encoding.dialect
    # isinstance() of a Struct would take a third of the time that encoding one
    # takes. The class has no subclass, so its type can be compared.
    if type(event) is Part:
        return event.run.pick(encoding, event.indexes)
    # The payloads of a personal dialect have the name of their receiver.
    if not dialect.personal:
        payload = dialect.encode_event(event)  # type: ignore[arg-type]
        if type(payload) is bytes:
            return encoding.frame(payload)
        return framed(encoding, payload)
    halves = dialect.encode_for(event)  # type: ignore[arg-type]
    if halves is None:
        return b""
    return named(encoding, event, *halves)


def framed(encoding: Encoding, payload: Payload | None) -> FrameSource:
    """Make the frame with a payload.

    If the payload depends on the connection, returns a function that makes the
    frame. None stands for an event that the dialect cannot express.
    """
    if payload is None:
        return b""
    if type(payload) is bytes:
        return encoding.frame(payload)

    make_payload: Callable[[str, DialectState | None], bytes] = payload  # type: ignore[assignment]

    def frame(connection: Connection) -> bytes:
        """Make the frame for one connection."""
        content = make_payload(connection.user or "", connection.dialect_state)
        if content:
            return encoding.frame(content)
        return b""

    return frame


def named(
    encoding: Encoding, event: Event | StoredMessage, before: bytes, behind: bytes
) -> Callable[[Connection], bytes]:
    """Return a function that makes a frame with the name of its receiver.

    The payload is ``before``, the user of the connection as JSON, and
    ``behind``.
    """
    if encoding.dialect.numbered and event.kind in _NUMBERED:
        return partial(_numbered, event, before, behind)

    def frame(connection: Connection) -> bytes:
        """Make the frame for one connection."""
        receiver = msgspec.json.encode(connection.user or "")
        return encoding.frame(b"%b%b%b" % (before, receiver, behind))

    return frame


def _numbered(
    event: Event | StoredMessage, before: bytes, behind: bytes, connection: Connection
) -> bytes:
    """Make the frame of a message that the client acknowledges.

    The message gets the next number of the connection, and is recorded as not
    acknowledged yet.
    """
    state = connection.dialect_state
    encoding = connection.encoding
    # The dialect has set this state at the login.
    assert isinstance(state, AckedState)
    assert state.unacked is not None
    receiver = msgspec.json.encode(connection.user or "")
    payload = b"%b%b%b" % (before, receiver, behind)
    number = state.unacked.delivered + 1
    frame = encoding.frame(encoding.dialect.add_number(payload, number))
    state.unacked.add(connection, event, frame)
    return frame


def frame_for(source: FrameSource, connection: Connection) -> bytes:
    """Return the frame for one connection."""
    if type(source) is bytes:
        return source
    return source(connection)  # type: ignore[operator]


class Run(Protocol):
    """Stored messages that are delivered together.

    A connection gets all of these messages, or a part of them.
    """

    def pick(self, encoding: Encoding, indexes: Sequence[int]) -> FrameSource:
        """Return the frames of the messages at these indexes, joined."""


class Part(Struct, eq=False, gc=False):
    """Some messages of a run, named by their indexes in the run."""

    run: Run
    indexes: Sequence[int]


class Fanout:
    """Puts events into the outboxes of connections.

    It owns the *notices* of apps that wait to be sent. A notice tells users who
    comes and goes. An app with more than ``notice_members`` users has no
    notices. ``notice_bytes`` is the limit of the bytes of notices that one
    connection may cause per second, an eighth of an outbox.
    """

    def __init__(
        self, hub: Hub, flusher: Flusher, metrics: Metrics, notice_members: int
    ) -> None:
        """Begin without notices.

        If an app has more than ``notice_members`` users, it gets no notices.
        """
        self._apps = hub.apps
        self._flusher = flusher
        self._metrics = metrics
        self.notice_members = notice_members
        self.notice_bytes = flusher.limit_bytes // _NOTICES_SHARE
        self._waiting: list[App] = []
        """The apps whose notices wait for the end of this turn."""
        self._event: Event | None = None
        """The last event that was sent to a single user."""
        self._sources: dict[Encoding, FrameSource] = {}
        """The frames of ``_event`` by encoding. They are reused, because the
        next user often gets the same event."""
        self._named = Event("msg", "", "")
        """The last push that names a channel."""
        self._plain = self._named
        """The push ``_named`` without its channel."""

    def to_sessions(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> int:
        """Send to the addressed sessions of a user. Returns their number.

        ``device`` is the only device that gets the event; None means all
        devices.

        A session may subscribe to ``user:<user>``, or to the ``group:<id>``
        that ``event.channel`` names. Then it receives a publication of that
        channel instead of a push. If ``event.channel`` names ``user:<user>``,
        sessions that subscribe to it get nothing here, because they receive the
        publication from their channel.
        """
        hub_app = self._apps.get(app)
        if hub_app is None:
            return 0
        entry = hub_app.users.get(user)
        if entry is None:
            return 0
        # Notices come before later events of the app.
        if hub_app.notices:
            self.flush_notices()
        if device is not None or hub_app.own_channels:
            return self._to_some_of(hub_app, user, event, device)

        if event.channel is not None:
            event = self._without_channel(event)
        sessions: Any = entry if type(entry) is list else (entry,)
        # This repeats the code of _send() in place of a call. That saves 0.1 of
        # the 1.5 µs that a push in bulk takes.
        if event is not self._event:
            self._event = event
            self._sources = {}
        sources = self._sources
        for connection in sessions:
            encoding = connection.encoding
            source = sources.get(encoding)
            if source is None:
                source = make(encoding, event)
                sources[encoding] = source
            if type(source) is bytes:
                frame = source
            else:
                frame = source(connection)  # type: ignore[operator]
            if frame:
                self._metrics.deliveries += 1
                self._flusher.enqueue(connection, frame)
        return len(sessions)

    def _to_some_of(self, app: App, user: str, event: Event, device: str | None) -> int:
        """Send to the sessions of a user, one by one. Returns their number.

        The caller :meth:`to_sessions` explains the rules. It calls this method
        if only the sessions on ``device`` get the event, or if channels of
        users or groups have subscribers in the app.
        """
        # Sessions that subscribe to the user's channel, or to the channel of
        # the event, get a publication. "plain" is the push for all others.
        user_channel = app.own_channels.get(f"user:{user}")
        event_channel = None
        plain = event
        if event.channel is not None:
            event_channel = app.own_channels.get(event.channel.name)
            plain = self._without_channel(event)

        sessions = app.sessions_of(user)
        if device is not None:
            sessions = tuple(
                [session for session in sessions if session.device == device]
            )
        for session in sessions:
            if event_channel is not None and session in event_channel.members:
                # Subscribers of the user's own channel receive the publication
                # from that channel.
                if event_channel is not user_channel:
                    self._send(session, event)
            elif user_channel is not None and session in user_channel.members:
                part = ChannelPart(user_channel.name)
                self._send(session, replace(plain, channel=part))
            else:
                self._send(session, plain)
        return len(sessions)

    def _without_channel(self, event: Event) -> Event:
        """Return the push for sessions that have not subscribed.

        The result is one object for each event, so it is encoded only once.
        """
        if self._named is not event:
            self._named = event
            self._plain = replace(event, channel=None)
        return self._plain

    def _send(self, connection: Connection, event: Event) -> None:
        """Put an event into the outbox of one connection."""
        encoding = connection.encoding
        # The frames of the last event are kept, because the next session often
        # gets the same event.
        if event is not self._event:
            self._event = event
            self._sources = {}
        source = self._sources.get(encoding)
        if source is None:
            source = make(encoding, event)
            self._sources[encoding] = source
        frame = frame_for(source, connection)
        if frame:
            self._metrics.deliveries += 1
            self._flusher.enqueue(connection, frame)

    def to_connection(self, connection: Connection, event: Event) -> None:
        """Send to one session, addressed or not."""
        hub_app = self._apps.get(connection.app or "")
        if hub_app is not None and hub_app.notices:
            self.flush_notices()
        self._send(connection, event)

    def to_channel(
        self,
        channel: LocalChannel,
        event: Event,
        except_users: Collection[str] = (),
        except_connection: Connection | None = None,
    ) -> int:
        """Send to the members of a channel, except some users and one
        connection.

        Returns the number of connections that receive it.
        """
        members: Collection[Connection] = channel.members
        if except_users or except_connection is not None:
            members = [
                connection
                for connection in members
                if connection.user not in except_users
                and connection is not except_connection
            ]
        return self.to_some(channel.app, members, event)

    def to_some(
        self, app: App, connections: Collection[Connection], event: Event
    ) -> int:
        """Send to these sessions of the app.

        Returns how many of them receive the event.
        """
        if app.notices:
            self.flush_notices()
        reached = self._fill(connections, None, event)
        self._metrics.deliveries += reached
        return reached

    def messages(
        self, app: App, connections: Collection[Connection], part: Part
    ) -> None:
        """Send stored messages to sessions of the app."""
        if app.notices:
            self.flush_notices()
        reached = self._fill(connections, None, part)
        self._metrics.deliveries += reached * len(part.indexes)

    def to_app(
        self,
        app: str,
        event: Event,
        except_user: str = "",
        except_users: Collection[str] = (),
    ) -> int:
        """Send to all users of an app except some.

        Neither ``except_user`` nor ``except_users`` get it. Returns the number
        of sessions that receive it.
        """
        hub_app = self._apps.get(app)
        if hub_app is None:
            return 0
        if hub_app.notices:
            self.flush_notices()

        # The usual push has no such list, and needs no list of sessions.
        if except_users:
            skipped = {*except_users, except_user}
            sessions: list[Connection] = []
            for user in hub_app.users:
                if user not in skipped:
                    sessions += hub_app.sessions_of(user)
            reached = self._fill(sessions, None, event)
        else:
            reached = self._spread(hub_app, event, except_user)
        self._metrics.deliveries += reached
        return reached

    def _spread(self, app: App, event: Event, except_user: str) -> int:
        """Send to all users of an app except one (``""``: to all).

        Returns the number of sessions that receive it.
        """
        if except_user:
            skipped = app.users.get(except_user)
        else:
            skipped = None
        entries = app.users.values()
        # An entry is a session, or a list if the user has several sessions. If
        # no user has several, the entries are the sessions.
        if not app.several:
            return self._fill(entries, skipped, event)

        sessions: list[Connection] = []
        for entry in entries:
            if entry is skipped:
                continue
            if type(entry) is list:
                sessions += entry
            else:
                sessions.append(entry)  # type: ignore[arg-type]
        return self._fill(sessions, None, event)

    def _fill(self, connections, skipped, event) -> int:  # type: ignore[no-untyped-def]
        """Put an event into the outboxes of connections.

        ``event`` may be a part of a run. The connection ``skipped`` gets
        nothing; it must be one of ``connections``. None means that all of them
        get the event. Returns how many connections receive the event. This is
        the inner loop of every broadcast. It takes about 50 ns for each
        connection.
        """
        sources: dict[Encoding, FrameSource] = {}
        is_bulk = len(connections) > BULK_CONNECTIONS
        dirty = self._flusher.bulk if is_bulk else self._flusher.dirty
        encoding: Encoding | None = None
        frame: FrameSource = b""
        personal: Callable[[Connection], bytes] | None = None
        before = len(dirty)
        unsent = 0
        for connection in connections:
            if connection is skipped:
                continue
            # Nearly always the next connection has the same encoding. So its
            # frame stays in a local variable.
            if connection.encoding is not encoding:
                encoding = connection.encoding
                source = sources.get(encoding)
                if source is None:
                    source = make(encoding, event)
                    sources[encoding] = source
                if isinstance(source, bytes):
                    frame = source
                    personal = None
                else:
                    personal = source
            if personal is not None:
                frame = personal(connection)
            if not frame:
                unsent += 1
                continue
            outbox = connection.outbox
            if outbox is None:
                connection.outbox = [frame]
                dirty.append(connection)
            else:
                outbox.append(frame)

        if len(dirty) > before:
            self._flusher.schedule()
            if is_bulk:
                self._flusher.filled(len(dirty) - before)
        return len(connections) - (skipped is not None) - unsent

    def takes_notices(self, app: App) -> bool:
        """Tell whether an app has enter and exit notices.

        An app has notices if it is not quiet, and if it does not have too many
        users on all nodes.
        """
        return not app.quiet and len(app.users) + app.elsewhere <= self.notice_members

    def notice(
        self, app: App, event: Event, newcomer: Connection | None = None
    ) -> None:
        """Send a notice to all users of the app at the end of this turn.

        The notice is sent together with the app's other notices, and before
        other events of the app. The user of an enter notice does not receive
        the notice. ``newcomer`` is the session of that user. This session does
        not receive the notices that already waited either.
        """
        if not self.takes_notices(app):
            return
        if not app.notices:
            if not self._waiting:
                self._flusher.call_before_flush(self.flush_notices)
            self._waiting.append(app)
        app.notices.append(event)
        if newcomer is not None:
            app.newcomers[newcomer] = len(app.notices)

    def flush_notices(self) -> None:
        """Put all waiting notices into outboxes.

        Nearly always an app has one notice, and all its users except one get
        it. If several notices wait, each session gets them joined.
        """
        waiting = self._waiting
        self._waiting = []
        for app in waiting:
            notices = app.notices
            app.notices = []
            newcomers = app.newcomers
            app.newcomers = {}

            entering = {event.sender for event in notices if event.kind == "enter"}
            others_came = any(newcomer.user not in entering for newcomer in newcomers)
            if len(notices) != 1 or others_came:
                self._spread_notices(app, notices, newcomers, entering)
            else:
                # In the usual case there is one notice, for all users except
                # the user who enters.
                except_user = next(iter(entering), "")
                reached = self._spread(app, notices[0], except_user)
                self._metrics.deliveries += reached

    def _spread_notices(
        self,
        app: App,
        notices: list[Event],
        newcomers: dict[Connection, int],
        entering: set[str],
    ) -> None:
        """Send several notices. Most sessions get all notices, joined.

        ``newcomers`` is session → how many of the first notices the session
        does not get. ``entering`` are the users who do not get the notices of
        their own entry.
        """
        encoded: dict[Encoding, list[FrameSource]] = {}
        joined: dict[Encoding, bytes | None] = {}
        """Encoding → all notices joined. None if the frames name their
        receiver, so that each session needs its own."""
        # Each notice is encoded once per encoding, as all other events are.
        for user in app.users:
            is_entering = user in entering
            for connection in app.sessions_of(user):
                encoding = connection.encoding
                if encoding not in joined:
                    sources = [make(encoding, event) for event in notices]
                    encoded[encoding] = sources
                    if encoding.dialect.personal:
                        joined[encoding] = None
                    else:
                        joined[encoding] = b"".join(sources)  # type: ignore[arg-type]

                skipped = newcomers.get(connection, 0)
                whole = joined[encoding]
                if whole is not None and not skipped and not is_entering:
                    self._enqueue_frames(connection, whole, len(notices))
                    continue

                # This session gets fewer notices, or frames of its own.
                rows = zip(notices, encoded[encoding], strict=True)
                frames = [
                    frame_for(source, connection)
                    for event, source in islice(rows, skipped, None)
                    if not (event.kind == "enter" and event.sender == user)
                ]
                self._enqueue_frames(connection, b"".join(frames), len(frames))

    def _enqueue_frames(
        self, connection: Connection, frames: bytes, count: int
    ) -> None:
        """Put ``count`` joined frames into an outbox, if there are any."""
        if frames:
            self._metrics.deliveries += count
            self._flusher.enqueue(connection, frames)
