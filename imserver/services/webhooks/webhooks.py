"""Webhooks: an app's back end is told what its users do, and asked who may log in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

import gevent
import msgspec

from imserver import errors
from imserver.model import Event
from imserver.protocol.cmd import entry_view
from imserver.services.webhooks.requests import (
    AuthoriseHook,
    Authoriser,
    LoginAnswer,
    Outgoing,
    Receiver,
    WebhookCounts,
    WebhookQueue,
)
from imserver.storage.log.contract import Entry, message_of
from imserver.transport.connection import Connection
from imserver.transport.gate import host_of

_WITHOUT_LOGIN: Final = frozenset({"client", "sse"})
"""Dialects whose connections belong to an app from their beginning; nobody logs in."""
_LOOK_SECONDS: Final = 0.02

_encode = msgspec.json.Encoder().encode


class Webhooks:
    """Owner of the queues, one for each app that wants to be told, and of what is known of its connections.

    Only :meth:`authorise` and :meth:`stop` switch. An app that wants nothing costs one look-up.
    """

    def __init__(
        self, outgoing: Outgoing, connection_id: Callable[[Connection], str], node: Callable[[], str]
    ) -> None:
        self._outgoing = outgoing
        self._connection_id = connection_id
        self._node = node
        self._queues: dict[str, WebhookQueue] = {}
        self.known: dict[Connection, tuple[str, str]] = {}
        """Connections whose begin was told: (app, id). Look, do not touch."""
        self._numbers = count(1)
        self._origin = token_hex(6)
        self.tally = WebhookCounts()
        self.authoriser = Authoriser(outgoing)

    def set(self, app: str, receiver: Receiver | None) -> None:
        """Tell this receiver from now on; None: nobody. What waits already goes there too, or is dropped."""
        queue = self._queues.get(app)
        if receiver is None:
            if queue is not None:
                del self._queues[app]
                gevent.spawn(queue.stop)
        elif queue is None:
            self._queues[app] = WebhookQueue(receiver, self._outgoing, self.tally)
        else:
            queue.receiver = receiver

    def wants(self, app: str, event: str) -> bool:
        """Whether the app's back end wants to be told of such events."""
        queue = self._queues.get(app)
        return queue is not None and event in queue.receiver.events

    # --- what happens ---------------------------------------------------------------------------------------

    def began(self, connection: Connection) -> None:
        """A connection is a session now, or has logged in anew."""
        app = connection.app or ""
        if self.known and connection in self.known and self.known[connection][0] != app:
            self.ended(connection, errors.CLOSE_NORMAL)
        queue = self._queues.get(app)
        if queue is None:
            return
        dialect = connection.encoding.dialect.name
        if connection not in self.known:
            self.known[connection] = (app, self._connection_id(connection))
            self._tell(queue, "connect", self._facts(connection))
        if dialect not in _WITHOUT_LOGIN:
            self._tell(queue, "login", self._facts(connection))

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over."""
        known = self.known.get(connection) if self.known else None
        if known is None:
            return
        queue = self._queues.get(known[0])
        if queue is not None:
            self._tell(queue, "disconnect", {**self._facts(connection), "code": code})
        del self.known[connection]

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        """The user ``sender`` has sent a message; ``facts`` are its ``type``, ``text`` and to whom."""
        queue = self._queues.get(app)
        if queue is not None:
            self._tell(queue, "message", {"sender": sender, **facts})

    def stored(self, app: str, entry: Entry) -> None:
        """A user has sent what is stored now: a message, or one that edits or recalls one."""
        queue = self._queues.get(app)
        if queue is not None and "message" in queue.receiver.events:
            self._tell(queue, "message", _facts_of(entry))

    def absent(self, app: str, user: str, event: Event) -> None:
        """A push to ``user`` has found nobody."""
        queue = self._queues.get(app)
        if queue is not None and "absent" in queue.receiver.events:
            facts: dict[str, Any] = {"user": user, "message": event.id, "sender": event.sender}
            facts["type"] = event.type
            if event.data:
                facts["data"] = msgspec.Raw(event.data)
            else:
                facts["text"] = event.text
            self._tell(queue, "absent", facts)

    def _facts(self, connection: Connection) -> dict[str, Any]:
        return {
            "user": connection.user,
            "device": connection.device,
            "dialect": connection.encoding.dialect.name,
            "connection": self.known[connection][1],
            "address": host_of(connection.peer),
        }

    def _tell(self, queue: WebhookQueue, event: str, facts: Mapping[str, Any]) -> None:
        receiver = queue.receiver
        if event in receiver.events:
            number = f"{self._origin}-{next(self._numbers)}"
            head = {"id": number, "event": event, "app": receiver.app, "time": int(time())}
            queue.add(_encode({**head, "node": self._node(), **facts}))

    # --- asking ---------------------------------------------------------------------------------------------

    def authorise(
        self, where: AuthoriseHook, user: str, token: str, dialect: str, peer: str, device: str
    ) -> LoginAnswer | None:
        """Ask an app's back end whether this login may happen; None: it does not say. Waits up to 2 s."""
        facts = {
            "event": "authorise",
            "app": where.app,
            "time": int(time()),
            "node": self._node(),
            "user": user,
            "device": device,
            "dialect": dialect,
            "token": token,
            "address": host_of(peer),
        }
        return self.authoriser.ask(where, facts)

    # --- at the end -----------------------------------------------------------------------------------------

    def stop(self, seconds: float) -> None:
        """Tell what waits, for at most ``seconds``, but not those who do not answer; drop the rest."""
        deadline = monotonic() + seconds
        queues = tuple(self._queues.values())
        while any(queue.busy and not queue.failing for queue in queues) and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)
        for queue in queues:
            queue.stop()
        self._outgoing.close()


def _facts_of(entry: Entry) -> dict[str, Any]:
    """What is told of an entry: what a push tells, and where it is kept."""
    seen = entry_view(message_of(entry))
    facts: dict[str, Any] = {"sender": entry.sender}
    if entry.members:
        facts["to"] = seen.to
    elif entry.room:
        facts["room"] = entry.room
    else:
        facts["group"] = str(entry.conversation)
    if entry.kind != "message":
        facts["kind"] = entry.kind
    payload = {"type": seen.type, "text": seen.text, "data": seen.data, "base64": seen.base64}
    facts |= {name: value for name, value in payload.items() if value not in ("", None)}
    more = {"client_msg_id": entry.client_msg_id, "about": entry.about, "meta": seen.meta}
    facts |= {name: value for name, value in more.items() if value}
    facts["stored"] = {"id": entry.id, "conversation": entry.conversation, "seq": entry.seq}
    return facts
