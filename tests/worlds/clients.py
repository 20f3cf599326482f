"""Simulated clients: the state machines of the Python client without I/O, over
simulated sockets."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from imserver_client.errors import REPLY_NOT_LOGGED_IN, REPLY_NOT_STORED
from imserver_client.messages import Entry
from imserver_client.protocol import ChannelNotice, CmdCodec, Publication, Push, Reply
from imserver_client.session import (
    SILENT_SECONDS,
    Backoff,
    MessengerCore,
    PushCore,
    SessionCore,
    State,
)
from tests.integration.raw import CLOSE, PING, PONG, TEXT, frame, take_frame, text
from tests.worlds.network import Pipe, SimSocket

if TYPE_CHECKING:
    from tests.worlds.world import SimNode, Simulation


class Wire:
    """One connection of a client to a node. ``number`` grows: what an older one
    brings does not count."""

    def __init__(self, client: Client, node: SimNode) -> None:
        world = client.world
        self.client = client
        self.node = node
        self._waiting = bytearray()
        self.is_open = True
        self.there = world.route(client.address, node.owner.name)
        self.back = world.route(node.owner.name, client.address)
        self.sock = SimSocket(world.loop)
        self.sock.pipe = Pipe(self.back, world.clients, self.received)
        self.out = Pipe(self.there, node.owner, self.sock.received)
        Pipe(self.there, node.owner, node.admit).send(self.sock, self)

    def received(self, data: bytes | None) -> None:
        """Bytes of the node have arrived; None: it has ended."""
        if not self.is_open:
            return
        if data is None:
            self.lost(1006)
            return
        self._waiting += data
        while self.is_open and (each := take_frame(self._waiting)) is not None:
            if each.opcode == CLOSE:
                self.lost(1005 if each.close_code is None else each.close_code)
            elif each.opcode == PING:
                self.out.send(frame(PONG, each.payload))
            elif each.opcode == TEXT:
                self.client.frame(self, each.payload)

    def lost(self, code: int) -> None:
        """It has ended."""
        if self.is_open:
            self.close()
            self.client.lost(code)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.out.send(None)


class Answer:
    """A future that calls a function."""

    def __init__(self, call: Callable[[Reply | None], object]) -> None:
        self._call: Callable[[Reply | None], object] | None = call

    def done(self) -> bool:
        return self._call is None

    def set_result(self, reply: Reply | None) -> None:
        call = self._call
        self._call = None
        if call is not None:
            call(reply)

    def set_exception(self, _error: Exception) -> None:
        self.set_result(None)

    def exception(self) -> None:
        """Nobody asks."""


class Client:
    """A client that stays logged in: on any node, and on another one when a
    connection is lost.

    ``address``: its end of routes.
    """

    def __init__(self, world: Simulation, name: str, core: SessionCore[Any]) -> None:
        self.world = world
        self.name = name
        self.address = f"client {name}"
        self.core = core
        self.random = Random(f"{world.seed} {name}")
        self.home: int | None = None
        """The only node to which it connects; None: any."""
        self.wire: Wire | None = None
        self.is_wanted = False
        self.logins = 0
        self.login_began = self.login_ended = 0.0
        self._ticks = 0

    # --- life -----------------------------------------------------------------

    def start(self) -> None:
        """Connect and log in, and stay so."""
        if not self.is_wanted:
            self.is_wanted = True
            self.core.start(self.world.now)
            self._connect()

    def _connect(self) -> None:
        nodes = [
            node
            for node in self.world.nodes
            if node.serves and self.home in (None, node.number)
        ]
        if not nodes:
            self.world.loop.call_later(0.3, self.world.clients, self._failed, None)
            return
        node = self.random.choice(nodes)
        wire = Wire(self, node)
        self.wire = wire
        self.world.loop.call_later(5.0, self.world.clients, self._failed, wire)

    def _failed(self, wire: Wire | None) -> None:
        """Connecting has taken too long."""
        if wire is self.wire and (
            wire is None or (wire.is_open and self.core.state is State.CONNECTING)
        ):
            if wire is not None:
                wire.close()
            self.lost(1006)

    def opened(self, wire: Wire) -> None:
        """The node has accepted the connection."""
        if wire is self.wire and wire.is_open and self.core.state is State.CONNECTING:
            self.login_began = self.world.now
            self.core.opened("", self.world.now)
            self.pump()

    def cut(self) -> None:
        """The client loses its connection, and the node does not hear of it at
        once."""
        if self.wire is not None and self.wire.is_open:
            self.wire.is_open = False
            late = self.random.uniform(0.0, 20.0)
            self.world.loop.call_later(
                late, self.world.clients, self.wire.out.send, None
            )
            self.lost(1006)

    def leave(self) -> None:
        """End the session."""
        self.is_wanted = False
        if self.core.state is not State.ENDED:
            self.core.end()
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    def lost(self, code: int) -> None:
        """The connection has ended."""
        self.wire = None
        if self.core.state not in (State.CONNECTING, State.ONLINE):
            return
        self.core.lost(code, self.world.now)
        if self.core.state is State.ENDED:
            self.is_wanted = False
            return
        self.pump()

    def fail(self, text: str) -> None:
        """Something happened to this client that may not."""
        self.world.fail(f"{self.name}: {text}")

    def frame(self, wire: Wire, payload: bytes) -> None:
        """A frame of the node has arrived."""
        if wire is not self.wire:
            return
        logins = self.core.logins
        self.core.feed(payload, self.world.now)
        if self.core.logins != logins:
            self.logins += 1
            self.login_ended = self.world.now
            self.logged_in()
        self.pump()

    def logged_in(self) -> None:
        """For the kinds of clients."""

    def pump(self) -> None:
        """Send what is due, take what came, and set the next tick."""
        core = self.core
        now = self.world.now
        while (event := core.take()) is not None:
            self.take(event)
        if self.wire is not None and self.wire.is_open:
            frames = [text(each) for each in core.to_send()]
            if frames:
                self.wire.out.send(b"".join(frames))
            if core.close_code and core.state is not State.IDLE:
                self.wire.close()
                self.lost(core.close_code)
                return
        deadline = core.deadline
        if core.state is State.ONLINE and core.answers.futures:
            deadline = min(deadline, now + SILENT_SECONDS)
        if deadline < inf:
            self._ticks += 1
            tick = self._tick, self._ticks
            self.world.loop.call_later(
                max(deadline - now, 0.001), self.world.clients, *tick
            )

    def _tick(self, number: int) -> None:
        if number != self._ticks or not self.is_wanted:
            return
        core = self.core
        now = self.world.now
        if core.state is State.WAITING:
            if now >= core.deadline:
                core.start(now)
                self._connect()
            else:
                self.pump()
        elif core.state in (State.ONLINE, State.CONNECTING):
            core.tick(now)
            self.pump()

    def ask(self, cmd: str, data: Any, call: Callable[[Reply | None], object]) -> None:
        """Send a command; None: it was not answered."""
        if self.wire is None or self.core.state is not State.ONLINE:
            call(None)
            return
        seq, command = self.core.command(cmd, data)
        self.core.answers.add(seq, Answer(call), command)  # type: ignore[arg-type]
        self.wire.out.send(text(command))

    def take(self, event: Any) -> None:
        """For the kinds of clients."""


class Messenger(Client):
    """Sends messages until each is stored, and sees all of its conversations,
    each entry once."""

    def __init__(self, world: Simulation, name: str) -> None:
        core = MessengerCore("102", name, 0, device="phone", backoff=Backoff(0.2, 3.0))
        super().__init__(world, f"{name} messenger", core)
        self.codec = CmdCodec()
        self.cursor_at_login = 0
        self.user = name
        self.unsent: dict[str, int] = {}
        """Id of a message that is not acknowledged → conversation."""
        self.operations: dict[str, int] = {}
        self.first_login: dict[str, int] = {}
        """Id of a message → the login in which it was sent first."""
        self.seen: set[str] = set()
        self._numbers = 0

    def send(self, conversation: int) -> None:
        """Send a new message."""
        self._numbers += 1
        id = f"{self.user}-{self._numbers}"
        self.unsent[id] = conversation
        self.operations[id] = self.world.ask(
            self.name, "send", f"c{conversation}", message=id
        )
        self._send(id)

    def _send(self, id: str) -> None:
        if id in self.unsent and self.core.state is State.ONLINE:
            data = {"conversation": self.unsent[id], "text": id, "clientMsgID": id}
            login = self.logins
            self.first_login.setdefault(id, login)
            self.ask("send", data, lambda reply: self._answered(id, reply))
            self.world.loop.call_later(15.0, self.world.clients, self._late, id, login)

    def opened(self, wire: Wire) -> None:
        assert isinstance(self.core, MessengerCore)
        self.cursor_at_login = self.core.cursor or 0
        super().opened(wire)

    def frame(self, wire: Wire, payload: bytes) -> None:
        entry = (
            self.codec.read(payload)
            if b'"message"' in payload and wire is self.wire
            else None
        )
        if isinstance(entry, Entry):
            self._entry(entry)
        super().frame(wire, payload)

    def _entry(self, entry: Entry) -> None:
        """An entry that the node sends, unasked or as missed."""
        self.world.stored(entry.id, entry.text if entry.kind == "message" else None)
        if entry.id <= self.cursor_at_login:
            self.fail(
                f"entry {entry.id} came again, the cursor was {self.cursor_at_login}"
            )
        id = entry.text or ""
        if (
            entry.sender == self.user
            and id in self.unsent
            and self.first_login.get(id) == self.logins
        ):
            self.fail(f"its own message {id} came before the answer")

    def _late(self, id: str, logins: int) -> None:
        if id in self.unsent and logins == self.logins:
            self._send(id)

    def _answered(self, id: str, reply: Reply | None) -> None:
        if reply is None or id not in self.unsent:
            return
        if reply.ok:
            conversation = self.unsent.pop(id)
            self.world.stored(reply.data["id"], id)
            self.world.note("ok", number=self.operations.pop(id), seq=reply.data["seq"])
            self._see(conversation, id, reply.data["seq"])
        elif reply.code in (REPLY_NOT_LOGGED_IN, REPLY_NOT_STORED):
            self.world.loop.call_later(0.7, self.world.clients, self._send, id)
        else:
            self.fail(f"{id} was refused: {reply}")

    def _see(self, conversation: int, id: str, seq: int) -> None:
        if id not in self.seen:
            self.seen.add(id)
            self.world.see(self.name, conversation, id, seq)

    def logged_in(self) -> None:
        for id in list(self.unsent):
            self._send(id)

    def take(self, event: Any) -> None:
        if isinstance(event, Entry):
            text = event.text if event.kind == "message" else None
            if (
                text is None or event.sender != self.user or text not in self.seen
            ):  # else its answer came before
                self.world.see(self.name, event.conversation, text, event.seq)
                self.seen |= {text} - {None}


class Listener(Client):
    """Receives pushes and publications. Its user has one session: the
    newest."""

    def __init__(
        self, world: Simulation, name: str, channels: tuple[str, ...], number: str = ""
    ) -> None:
        core = PushCore("101", name, backoff=Backoff(0.2, 3.0))
        super().__init__(world, f"{name} listener{number}", core)
        self.user = name
        self.channels = channels
        self.last_pushes: dict[str, int] = {}
        """Origin of pushes → the last number."""
        self.ids: dict[str, float] = {}
        self.last: dict[str, tuple[str, int]] = {}
        """Channel → position of the last publication; absent: it loads the
        state anew."""
        self.pushes = 0
        for channel in channels:
            self.core.subscriptions.add(channel, "", None)

    def take(self, event: Any) -> None:
        if isinstance(event, Push) and event.kind == "msg":
            self._pushed(event)
        elif isinstance(event, Publication):
            self._published(event)
        elif isinstance(event, ChannelNotice):
            if event.kind == "reload":
                self.last.pop(event.channel, None)
            elif event.kind == "ended" and event.code != 2500:
                self.fail(f"the subscription to {event.channel} was ended: {event}")

    def _pushed(self, event: Push) -> None:
        self.pushes += 1
        origin, _, number = event.text.rpartition(":")
        last = self.last_pushes.get(origin, 0)
        if origin.startswith("once"):
            if event.id in self.ids and self.world.was_calm(self.ids[event.id]):
                self.fail(f"push {event.id} came twice")
            self.ids.setdefault(event.id, self.world.now)
        elif int(number) <= last:
            self.fail(f"push {number} of {origin} came after {last}")
        else:
            self.last_pushes[origin] = int(number)

    def _published(self, event: Publication) -> None:
        last = self.last.get(event.channel)
        if last is not None and last[0] == event.epoch and event.offset != last[1] + 1:
            self.fail(
                f"publication {event.offset} of {event.channel} came after {last[1]}, without a reload"
            )
        self.last[event.channel] = event.epoch, event.offset
        text = self.world.published.get((event.channel, event.epoch, event.offset))
        if text is not None and text != event.text:
            self.fail(f"{event.channel} has two publications at {event.offset}")
