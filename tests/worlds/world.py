"""A world: three whole nodes, a Redis, a database and their clients, under a
virtual clock.

The nodes are real: :class:`imserver.gateway.node.node.Node` with its hub,
sessions, leases, claims, pushes, channels and message log, and its real
pipeline to Redis. Simulated are the clock, the network, Redis (the scripts run
in Lua), and what runs the transactions of the database (in SQLite). What may
not happen is checked while the world runs, and at its end, when all faults have
ended.
"""

from __future__ import annotations

import tests.worlds.seams as seams  # isort: skip  # first: it takes the clock away

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import gevent
from gevent.hub import Hub, set_hub

from checker.cli import check
from checker.history import read as read_history
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.config import settings
from imserver.gateway.logging import RequestLog
from imserver.gateway.model import Event, Outcome
from imserver.gateway.node.node import Node
from imserver.gateway.push.push import UserPush
from imserver.gateway.transport.gate import Admission, Head
from imserver.messenger.log.contract import Appended, Draft, StorageUnsure
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.services import MessageServices
from tests.worlds.clients import Client, Listener, Messenger, Wire
from tests.worlds.database import SimDatabase
from tests.worlds.loop import Owner, VirtualLoop
from tests.worlds.network import Route, RpcNetwork, SimPoller, SimSocket
from tests.worlds.plan import LOSES, NODES, Plan, Step
from tests.worlds.redis import RedisClients, SimRedis

MESSENGERS: Final = ("ann", "bob", "eve", "dan", "kim")
LISTENERS: Final = ("lea", "max", "tom")
CHANNELS: Final = ("news", "chat")
CALM_SECONDS: Final = 25.0
"""After the last fault all must be well within this time."""
_LONG_SECONDS: Final = 5.0
"""A push that nothing delays takes less."""
_NOTICED_SECONDS: Final = 1.5
"""By then a node has noticed that Redis does not answer."""
_PUSH = "101"
_LOG = "102"


class SimNode:
    """A node, which can be killed and started again. ``owner``: its process."""

    def __init__(self, world: Simulation, number: int) -> None:
        self.world = world
        self.number = number
        self.life = 0
        self.owner = Owner(f"n{number}")
        self.node: Node | None = None
        self.serves = False
        self.skew = 0.0
        self.pushes: dict[str, deque[int]] = {}
        """User → what waits to be pushed, in order."""

    def start(self) -> None:
        """Start a process."""
        self.life += 1
        self.pushes = {}
        self.owner = Owner(f"n{self.number}", self.number * 1000 + self.life)
        self.owner.skew = self.skew
        with self.world.loop.acting(self.owner):
            gevent.spawn(self._run, self.owner)

    def _run(self, owner: Owner) -> None:
        world = self.world
        node = Node(
            world.config_of(self.number),
            RequestLog(_nothing, settings.LogSettings(requests=False)),
            lambda _: None,
        )
        try:
            node.start(listeners=False)
        except Exception as error:
            logging.getLogger("world").info("%s did not start: %s", owner.name, error)
            node.core.node.data.stop()
            if owner is self.owner and owner.alive:
                world.loop.call_later(2.0, world.world, self._restart, owner)
            return
        self.node = node
        self.serves = True

    def kill(self) -> None:
        """End the process at once."""
        self.serves = False
        node = self.node
        self.node = None
        self.world.loop.kill(self.owner)
        if node is not None:
            node.core.node.data.abandon()
            self.world.loop.leftovers.append(node)
        for client in self.world.all_clients:
            if client.wire is not None and client.wire.node is self:
                self.world.loop.call_later(
                    0.001, self.world.clients, client.wire.lost, 1006
                )

    def stop(self) -> None:
        """Let it drain, and start it again."""
        if self.node is not None and self.serves:
            self.serves = False
            with self.world.loop.acting(self.owner):
                gevent.spawn(self._stop, self.node, self.owner)

    def _stop(self, node: Node, owner: Owner) -> None:
        node.stop()
        if owner is self.owner and owner.alive:
            self.world.loop.call_later(0.5, self.world.world, self._restart, owner)

    def _restart(self, owner: Owner) -> None:
        if owner is self.owner and owner.alive:
            self.kill()
            self.start()

    def addressed(self, user: str) -> object:
        """The session on this node that receives pushes to a user; None: there
        is none."""
        some = (
            self.node.core.network.context.connections if self.node is not None else ()
        )
        return next(
            (
                each
                for each in some
                if each.user == user and each.is_addressed and each.is_open
            ),
            None,
        )

    def admit(self, sock: SimSocket, wire: Wire) -> None:
        """A client wants to connect. Called as this node."""
        if self.node is None or not self.serves:
            sock.close()
            return
        gevent.spawn(self._admit, self.node, sock, wire)

    def _admit(self, node: Node, sock: SimSocket, wire: Wire) -> None:
        world = self.world
        headers = {
            "sec-websocket-version": "13",
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        head = Head(
            "GET", "/acc", "1.1", "10.1.0.1", 40000 + sock.fileno() % 20000, headers
        )
        admission = node.core.network.gate.decide(head, upgraded=True)
        assert isinstance(admission, Admission), admission
        sock.poller = node.core.network.poller  # type: ignore[assignment]
        node.servers.admit(sock, admission, b"")  # type: ignore[arg-type]
        world.loop.call_later(
            wire.back.delay(), world.clients, wire.client.opened, wire
        )


def _nothing(*_: object) -> None:
    pass


class _NoCollector:
    """In place of the garbage collector, which stands still here."""

    collect = staticmethod(_nothing)
    freeze = collect
    set_threshold = collect


@dataclass
class Result:
    """What became of a world."""

    seed: int
    findings: list[str]
    seconds: float
    calls: int
    digest: str = ""
    took: float = 0.0


class Simulation:
    """One world. Run one in a process: :func:`tests.worlds.runs.run_seed`."""

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.seed = seed
        self.plan = plan
        self.folder = folder
        self.loop = VirtualLoop(seed)
        self.world = self.loop.world
        self.clients = Owner("clients")
        self.random = Random(f"{seed} world")
        self.findings: list[str] = []
        self.lines: list[str] = []
        """What clients asked, were answered and saw, for the checker."""
        self._questions = 0
        self._routes: dict[tuple[str, str], Route] = {}
        self.redis = SimRedis(self.loop, seed)
        self.database = SimDatabase(self.loop, folder / "world.db", seed, self.route)
        self.rpc = RpcNetwork(self.loop, self.route)
        self.redis_clients = RedisClients(self.loop, self.redis, self.route)
        self.nodes = [SimNode(self, number) for number in range(1, NODES + 1)]
        self.messengers = [Messenger(self, name) for name in MESSENGERS]
        self.listeners = [Listener(self, name, CHANNELS) for name in LISTENERS]
        self.visitors: list[Listener] = []
        """Sessions of users who log in again and again, app 101."""
        self.conversations: dict[int, tuple[str, ...]] = {}
        self.published: dict[tuple[str, str, int], str | None] = {}
        self.faults: dict[str, int] = {}
        """Those that last now."""
        self.fault_ended = -1000.0
        self._numbers = 0
        self.entries: dict[int, str | None] = {}
        """Id → text of each entry."""
        self.is_losing = any(step.name == LOSES for step in plan.steps)
        self.epochs: dict[int, tuple[int, int]] = {}
        """Epoch → number and life of its node."""
        self.is_ending = False
        self.departed: dict[str, float] = {}
        """User → when a visitor has left."""

    @property
    def now(self) -> float:
        return self.loop.clock

    @property
    def all_clients(self) -> list[Client]:
        return [*self.messengers, *self.listeners, *self.visitors]

    def fail(self, text: str) -> None:
        """Something happened that may not."""
        if len(self.findings) < 20:
            self.findings.append(f"{self.now:.6f} {text}")

    def ask(self, client: str, name: str, object: str, **arguments: Any) -> int:
        """A client asks for something. Returns the number of the question."""
        self._questions += 1
        self.note(
            "ask",
            number=self._questions,
            client=client,
            name=name,
            object=object,
            **arguments,
        )
        return self._questions

    def note(self, event: str, *, seq: int | None = None, **fields: Any) -> None:
        """Write a line for the checker. ``seq``: of the message in its
        conversation."""
        rest = {} if seq is None else {"place": seq}
        self.lines.append(
            json.dumps({"at": round(self.now, 7), "event": event, **fields, **rest})
        )

    def see(
        self, client: str, conversation: int, message: str | None, seq: int
    ) -> None:
        """A client sees an entry of a conversation."""
        self.note(
            "see", client=client, object=f"c{conversation}", message=message, seq=seq
        )

    def stored(self, id: int, text: str | None) -> None:
        """An entry that somebody was shown, or was told of."""
        other = self.entries.setdefault(id, text)
        if other != text:
            self.fail(f"the id {id} is that of {other!r} and of {text!r}")

    def route(self, one: str, other: str) -> Route:
        """The route from one place to another."""
        if (one, other) not in self._routes:
            self._routes[one, other] = Route(self.loop, f"{one} > {other}", self.seed)
        return self._routes[one, other]

    def was_calm(self, since: float, before: float = 20.0) -> bool:
        """Whether no fault has lasted since ``before`` seconds before a
        moment."""
        return not self.faults and self.fault_ended < since - before

    # --- nodes ----------------------------------------------------------------

    def config_of(self, number: int) -> settings.Config:
        """The configuration of a node."""
        channel = settings.ChannelSettings(
            subscribe="anybody", history_size=200, history_seconds=3600.0
        )
        push = settings.TenantSettings(
            login_policy="newest", open=True, channels={"": channel}
        )
        messages = settings.TenantSettings(login_policy="single", open=True)
        url = f"sqlite:///{self.folder}/world.db"
        return settings.Config(
            app=settings.AppSettings(
                http_port=0, websocket_port=0, rpc_port=7000 + 10 * number
            ),
            features=("messages",),
            server=settings.ServerSettings(
                data_dir=str(self.folder / f"n{number}"),
                secret_file=str(self.folder / "secret"),
                insecure=True,
            ),
            apps={_PUSH: push, _LOG: messages},
            api=settings.ApiSettings(),
            drain=settings.DrainSettings(delay_seconds=0.5),
            storage=settings.StorageSettings(url, seconds=2.0, look_seconds=30.0),
            redis=settings.RedisSettings(url="redis://10.0.0.9"),
            cluster=settings.ClusterSettings(advertise=f"10.0.0.{number}"),
        )

    # --- the script -----------------------------------------------------------

    def run(self) -> Result:
        """Run the plan to its end, and judge."""
        loop = self.loop
        seams.begin(loop, self.seed)
        set_hub(Hub(loop))
        self._connect()
        errors = seams.Errors(self.findings, loop)
        logging.getLogger("imserver").addHandler(errors)
        self.loop.call_later(1.0, self.world, self._look)
        script = gevent.spawn(self._script)
        self.script = script
        script.join()
        if script.exception is not None:
            self.findings.append(
                f"{self.now:.6f} the script failed: {script.exception!r}"
            )
        self.findings += loop.failures
        self._judge()
        record = "\n".join((*self.lines, *self.findings, str(loop.calls)))
        digest = sha256(record.encode()).hexdigest()[:12]
        return Result(self.seed, self.findings, self.now, loop.calls, digest)

    def _connect(self) -> None:
        """What does I/O is simulated from now on."""
        for path, value in (
            ("imserver.gateway.storage.database:ThreadRunner", self.database.runner),
            (
                "imserver.gateway.storage.database:direct_statements",
                self.database.statements,
            ),
            ("imserver.gateway.storage.database:make_engine", self.database.engine),
            # reads megabytes at each start
            ("imserver.gateway.storage.database:refuse_damaged", _nothing),
            ("imserver.gateway.cluster.redis.link:connect", self.redis_clients.connect),
            ("imserver.gateway.core.cluster:Rpc", self.rpc.make),
            ("imserver.gateway.transport.poller:make", SimPoller),
            ("imserver.gateway.node.node:gc", _NoCollector),
        ):
            seams.replace(path, value)

    def _script(self) -> None:
        for node in self.nodes:
            node.start()
            gevent.sleep(0.2)
        self._wait(
            lambda: all(node.serves for node in self.nodes),
            30.0,
            "the nodes do not start",
        )
        self._make_conversations()
        for client in self.all_clients:
            with self.loop.acting(self.clients):
                client.start()
        began = self.now
        for step in self.plan.steps:
            pause = began + step.at - self.now
            if pause > 0:
                gevent.sleep(pause)
            self._step(step)
            if self.findings or self.loop.failures:
                return
        gevent.sleep(max(0.0, began + self.plan.seconds - self.now))
        self._wait(lambda: not self.faults, 200.0, "faults do not end")
        self._end()

    def _wait(self, condition: Callable[[], bool], seconds: float, words: str) -> bool:
        end = self.now + seconds
        while not condition():
            if self.now > end or self.findings:
                self.fail(words)
                return False
            gevent.sleep(0.25)
        return True

    def on_node(
        self, node: SimNode, call: Callable[..., object], *args: Any
    ) -> gevent.Greenlet[..., Any]:
        """Run a function in the process of a node."""
        with self.loop.acting(node.owner):
            return gevent.spawn(call, *args)

    def finish_on_node(
        self, node: SimNode, call: Callable[..., object], *args: Any
    ) -> None:
        """Run it, and wait for its end. Who joins the greenlet would go on as a
        part of the node."""
        greenlet = self.on_node(node, call, *args)
        self._wait(lambda: greenlet.dead, 60.0, "a node does not answer")

    def _make_conversations(self) -> None:
        def make() -> None:
            log = self.nodes[0].node.core.store.part(MessageLog)  # type: ignore[union-attr]
            for members in (MESSENGERS[:2], MESSENGERS[:3], MESSENGERS[1:]):
                change = log.groups.create(_LOG, members[0], "", members[1:])
                self.conversations[change.conversation] = members

        self.finish_on_node(self.nodes[0], make)

    def _look(self) -> None:
        """Several times a second: an epoch is that of one process, and the
        newest login wins."""
        for node in self.nodes:
            epoch = node.node.core.registry.lease.epoch if node.node is not None else 0
            if epoch and self.epochs.setdefault(epoch, (node.number, node.life)) != (
                node.number,
                node.life,
            ):
                self.fail(
                    f"epoch {epoch} is that of n{node.number}, and of {self.epochs[epoch]}"
                )
        if self.was_calm(self.now, 12.0) and all(node.serves for node in self.nodes):
            self._check_sessions(self.now - 8.0)
        self.loop.call_later(0.25, self.world, self._look)

    # --- steps ----------------------------------------------------------------

    def _step(self, step: Step) -> None:
        kind, _, target = step.name.partition(" ")
        if kind in ("cut", "slow"):
            getattr(self, f"_do_{kind}")(step, target)
        elif kind in ("pause", "stall"):
            self._pause(
                self._node(step),
                step.amount**3 * 40.0 if kind == "pause" else step.amount * 0.5,
            )
        elif kind == "redis":
            lost = {"restarts": 0.0, "loses a second": 1.0, "loses all": None}
            self._restart_redis(step, lost[target])
        elif step.name == "database restarts":
            self._spoil_database("is_down", 1, 0, 0.05 + step.amount**2 * 15.0)
        elif step.name == "database loses answers":
            self._spoil_database("loses_answers", 0.3, 0, step.amount * 20.0)
        else:
            getattr(self, "_do_" + step.name.replace(" ", "_"))(step)

    def _node(self, step: Step) -> SimNode:
        return self.nodes[step.which % NODES]

    def _other(self, step: Step) -> SimNode:
        return self.nodes[(step.which + 1 + step.which // NODES % (NODES - 1)) % NODES]

    def _serving(self, number: int) -> SimNode | None:
        nodes = [node for node in self.nodes if node.serves and not node.owner.paused]
        return nodes[number % len(nodes)] if nodes else None

    def _do_messages(self, step: Step) -> None:
        conversation = list(self.conversations)[step.which % len(self.conversations)]
        members = self.conversations[conversation]
        name = members[step.which // 7 % len(members)]
        messenger = next(each for each in self.messengers if each.user == name)
        with self.loop.acting(self.clients):
            messenger.send(conversation)

    def _do_burst_of_messages(self, step: Step) -> None:
        for number in range(2 + int(step.amount * 25)):
            some = self._send_some, step.which + number * 7919
            self.loop.call_later(self.random.expovariate(300.0), self.clients, *some)
        if step.which & 1:  # some come back in the midst of it
            for number in range(1 + step.which // 2 % 3):
                messenger = self.messengers[
                    (step.which // 5 + number) % len(self.messengers)
                ]
                self.loop.call_later(
                    0.25 * self.random.random(), self.clients, messenger.cut
                )

    def _send_some(self, which: int) -> None:
        messenger = self.messengers[which % len(self.messengers)]
        own = [
            each
            for each, members in self.conversations.items()
            if messenger.user in members
        ]
        messenger.send(own[which // 31 % len(own)])

    def _do_notes(self, step: Step) -> None:
        """The back end stores messages without an id: each is stored once, or
        refused."""
        for number in range(1 + step.which % 3):
            node = self._serving(step.which + number)
            if node is not None:
                self._numbers += 1
                conversation = list(self.conversations)[
                    step.which // 11 % len(self.conversations)
                ]
                self.on_node(
                    node, self._note, node, conversation, f"note {self._numbers}"
                )

    def _note(self, node: SimNode, conversation: int, text: str) -> None:
        if node.node is None:
            return
        messaging = node.node.core.service(MessageServices).messaging
        number = self.ask("back end", "send", f"c{conversation}", message=text)
        sender = self.conversations[conversation][0]
        draft = Draft(sender=sender, conversation=conversation, body=text.encode())
        result = messaging.store(_LOG, draft, by_user=False)
        if isinstance(result, Appended):
            self.stored(result.entry.id, text)
            self.note("ok", number=number, seq=result.entry.seq)
        elif not isinstance(result, StorageUnsure):
            self.note("fail", number=number)

    def _do_pushes(self, step: Step) -> None:
        node = self._serving(step.which)
        if node is None:
            return
        user = LISTENERS[step.which // 5 % len(LISTENERS)]
        for _ in range(1 + int(step.amount * 4)):
            self._push(node, user)

    def _push(self, node: SimNode, user: str) -> None:
        """Push behind the earlier ones of this node to this user."""
        self._numbers += 1
        queue = node.pushes.setdefault(user, deque())
        queue.append(self._numbers)
        if len(queue) == 1:
            self.on_node(
                node,
                self._push_all,
                node,
                user,
                queue,
                f"{node.owner.name}.{node.life}",
            )

    def _push_all(
        self, node: SimNode, user: str, queue: deque[int], origin: str
    ) -> None:
        while queue and node.node is not None:
            before = node.addressed(user)
            outcome = node.node.core.pushes.from_back_end(
                _PUSH, UserPush(user, "", f"{origin}:{queue[0]}")
            )
            if (
                outcome is Outcome.NOT_SENT
                and before is not None
                and node.addressed(user) is before
            ):
                self.fail(
                    f"push {queue[0]} of {origin} missed {user}, who is on this node"
                )
            queue.popleft()

    def _do_claims(self, step: Step) -> None:
        """The same push comes to several nodes: it is delivered once."""
        self._numbers += 1
        user = LISTENERS[step.which // 5 % len(LISTENERS)]
        id = f"once-{self._numbers}"
        outcomes: list[Outcome] = []
        began = self.now
        for number in range(2 + step.which % 2):
            node = self._serving(step.which + number)
            if node is not None:
                pause = (
                    self.random.choice((0.0, 0.0, 0.001, 0.02)) * self.random.random()
                )
                claim = self._claim, node, user, id, outcomes, began
                self.loop.call_later(
                    pause, self.world, self._if_serving, node, self.on_node, *claim
                )

    def _if_serving(
        self, node: SimNode, call: Callable[..., object], *args: Any
    ) -> None:
        if node.serves and node.owner.alive:
            call(node, *args)

    def _claim(
        self, node: SimNode, user: str, id: str, outcomes: list[Outcome], began: float
    ) -> None:
        if node.node is None:
            return
        outcome = node.node.core.pushes.from_back_end(
            _PUSH, UserPush(user, id, f"once{id}:1")
        )
        outcomes.append(outcome)
        if outcomes.count(Outcome.SENT) > 1 and self.was_calm(began):
            self.fail(f"push {id} to {user} was accepted twice: {outcomes}")

    def _do_retries(self, step: Step) -> None:
        """A push that was not sent is tried again by the same node: nobody else
        has its id."""
        user = LISTENERS[step.which // 5 % len(LISTENERS)]
        for node in self.nodes:
            if node.serves and not node.owner.paused:
                self._numbers += 1
                self.on_node(node, self._retry, node, user, f"once-{self._numbers}")

    def _retry(self, node: SimNode, user: str, id: str) -> None:
        for _ in range(30):
            if node.node is None:
                return
            began = self.now
            outcome = node.node.core.pushes.from_back_end(
                _PUSH, UserPush(user, id, f"once{id}:1")
            )
            if self.now - began > _LONG_SECONDS and self.was_calm(began, 0.0):
                self.fail(f"push {id} has waited for a claim that nobody has")
            if outcome is Outcome.REPEATED:
                self.fail(f"push {id} is called a repeat, but nothing has accepted it")
            if outcome in (Outcome.SENT, Outcome.REPEATED):
                return
            gevent.sleep(0.3)

    def _do_publications(self, step: Step) -> None:
        channel = CHANNELS[step.which % len(CHANNELS)]
        for number in range(1 + int(step.amount * 5)):
            node = self._serving(step.which + number)
            if node is not None:
                self._numbers += 1
                self.on_node(node, self._publish, node, channel, f"p{self._numbers}")

    def _publish(self, node: SimNode, channel: str, text: str) -> None:
        if node.node is None:
            return
        event = Event("msg", "back end", text)
        with suppress(ChannelRefused):
            position = node.node.core.channels.publishing.publish_event(
                _PUSH, channel, event
            ).position
            if position is not None:
                key = channel, position.epoch, position.offset
                if key in self.published:
                    self.fail(
                        f"two publications to {channel} have the offset {position.offset}"
                    )
                self.published[key] = text

    def _do_logins(self, step: Step) -> None:
        """Users of sessions log in on several nodes at about the same time."""
        user = f"visitor{step.which % 3}"
        for _ in range(1 + step.which // 3 % 3):
            within = step.amount * (3.0 if step.which & 1024 else 0.05)
            self.loop.call_later(
                self.random.random() * within, self.clients, self._visit, user
            )

    def _visit(self, user: str, home: int | None = None) -> None:
        self._numbers += 1
        visitor = Listener(self, user, (), str(self._numbers))
        visitor.home = home
        self.visitors.append(visitor)
        visitor.start()
        self.loop.call_later(
            self.random.expovariate(1 / 60.0), self.clients, self._leave, visitor
        )

    def _leave(self, visitor: Listener) -> None:
        if not self.is_ending:
            visitor.leave()
            self.visitors.remove(visitor)
            self.departed[visitor.user] = self.now

    def _do_subscriptions(self, step: Step) -> None:
        """A subscriber comes back at once: it must skip nothing."""
        listener = self.listeners[step.which % len(self.listeners)]
        node = self._serving(step.which // 7)
        for number in range(15 if node is not None and step.which & 1 else 0):
            push = self._if_serving, node, self._push, listener.user
            self.loop.call_later(0.08 * number * step.amount, self.world, *push)
        for number in range(5 if step.which & 2 else 0):
            self.loop.call_later(
                0.1 * number * step.amount, self.world, self._do_publications, step
            )
        self.loop.call_later(0.3 * step.amount, self.clients, listener.cut)

    def _push_at_home(self, which: int) -> None:
        """Push to a user from their own node."""
        listener = self.listeners[which % len(self.listeners)]
        if listener.wire is not None:
            self._if_serving(listener.wire.node, self._push, listener.user)

    def _do_reads(self, step: Step) -> None:
        with self.loop.acting(self.clients):
            self.messengers[step.which % len(self.messengers)].cut()

    # --- faults ---------------------------------------------------------------

    def _begin(self, name: str, seconds: float, end: Callable[[], object]) -> None:
        self.faults[name] = self.faults.get(name, 0) + 1

        def ends() -> None:
            end()
            self.faults[name] -= 1
            self.faults = {
                each: number for each, number in self.faults.items() if number
            }
            self.fault_ended = self.now

        self.loop.call_later(seconds, self.world, ends)

    def _do_crash(self, step: Step) -> None:
        node = self._node(step)
        if not node.serves or node.owner.paused:
            return
        node.kill()
        self._begin("crash", 0.2 + step.amount * 20.0, node.start)

    def _do_drain(self, step: Step) -> None:
        node = self._node(step)
        if not node.owner.paused:
            node.stop()
            self._begin("drain", 15.0, _nothing)

    def _pause(self, node: SimNode, seconds: float) -> None:
        owner = node.owner
        if not owner.paused and owner.alive:
            self.loop.pause(owner)
            self._begin("pause", seconds, lambda: self.loop.resume(owner))

    def _do_cut(self, step: Step, target: str) -> None:
        """Cut the routes between a node and a place, or one of both."""
        node = self._node(step)
        seconds = 0.05 + step.amount**2 * 25.0
        target, _, one_way = target.partition(" ")
        there = (
            node.owner.name,
            self._other(step).owner.name if target == "nodes" else target,
        )
        pairs = [there, there[::-1]]
        if one_way:
            pairs = pairs[:1] if target == "nodes" or step.which & 1 else pairs[1:]
        routes = [self.route(*pair) for pair in pairs]
        for route in routes:
            route.cut()

        self._begin("cut", seconds, lambda: [route.mend() for route in routes])
        if (
            target == "redis"
            and not one_way
            and step.which & 8
            and seconds > _NOTICED_SECONDS
        ):
            # A user logs in there, and then elsewhere.
            user = f"visitor{step.which % 3}"
            self.loop.call_later(
                _NOTICED_SECONDS, self.clients, self._visit, user, node.number
            )
            other = self._other(step).number
            self.loop.call_later(
                _NOTICED_SECONDS + 0.5 + step.amount,
                self.clients,
                self._visit,
                user,
                other,
            )

    def _do_slow(self, step: Step, name: str) -> None:
        def fits(pair: tuple[str, str]) -> bool:
            are_nodes = all(each[0] == "n" and each[1:].isdecimal() for each in pair)
            return name in pair or (name == "nodes" and are_nodes)

        routes = [route for pair, route in self._routes.items() if fits(pair)]

        def slow(factor: float) -> None:
            for route in routes:
                route.slow = factor

        slow(1.0 + step.amount**2 * 200.0)
        self._begin(f"slow {name}", 1.0 + step.amount * 20.0, partial(slow, 1.0))

    def _restart_redis(self, step: Step, lost_seconds: float | None) -> None:
        if self.redis.is_down:
            return
        data = self.redis.copy() if lost_seconds else None

        def stop() -> None:
            if not self.redis.is_down:
                self.redis.stop()
                rest = ({}, {}) if lost_seconds is None else data
                down = 0.05 + step.amount**2 * 15.0
                self.loop.call_later(down, self.world, self.redis.start, rest)
                for number in range(30 if step.which & 1 else 0):
                    push = self._push_at_home, step.which + number
                    self.loop.call_later(down + 0.08 * number, self.world, *push)

        self._begin(
            "redis", (lost_seconds or 0.0) + 0.1 + step.amount**2 * 15.0, _nothing
        )
        self.loop.call_later(lost_seconds or 0.0, self.world, stop)

    def _spoil_database(
        self, name: str, fault: float, well: float, seconds: float
    ) -> None:
        """Set an attribute of the database for so long."""
        attributes = vars(self.database)
        attributes[name] = fault
        self._begin("database", seconds, partial(attributes.update, {name: well}))

    def _do_machines_restart(self, step: Step) -> None:
        """All nodes begin anew at about the same time, and Redis, which has
        lost the last moments."""
        if (
            self.faults
            or self.redis.is_down
            or not all(node.serves for node in self.nodes)
        ):
            return
        for node in self.nodes:
            node.kill()
            self.loop.call_later(0.2 + self.random.random(), self.world, node.start)
        self._begin("machines", 3.0, _nothing)
        self.loop.call_later(
            0.2 + self.random.random(), self.world, self._restart_redis, step, 0.3
        )

    def _do_database_loses_commits(self, step: Step) -> None:
        """The database restarts with the data of some moments before."""
        copy = self.database.copy()
        self._begin(
            "commits", 0.05 + step.amount * 0.5, lambda: self.database.restore(copy)
        )

    def _do_clock_jumps(self, step: Step) -> None:
        node = self._node(step)
        node.skew = node.owner.skew = (step.amount - 0.5) * 7200.0

    def _do_clients_are_cut(self, step: Step) -> None:
        node = self._node(step)
        with self.loop.acting(self.clients):
            for client in self.all_clients:
                if client.wire is not None and client.wire.node is node:
                    client.cut()

    # --- the end --------------------------------------------------------------

    def _end(self) -> None:
        """All faults have ended: all must become well."""
        self.is_ending = True
        # While clients settle, work goes on a little, so that nothing waits for
        # news.
        gevent.sleep(10.0)
        served = "a node does not serve again"
        if not self._wait(
            lambda: all(node.serves for node in self.nodes), 60.0, served
        ):
            return
        for client in (*self.messengers, *self.listeners):
            words = f"{client.name} does not log in again"
            self._wait(lambda c=client: c.core.state == "online", 60.0, words)  # type: ignore[misc]
        self._wait(
            lambda: not any(each.unsent for each in self.messengers),
            60.0,
            "messages are not stored",
        )
        with self.loop.acting(self.clients):
            for conversation, members in self.conversations.items():
                next(each for each in self.messengers if each.user == members[0]).send(
                    conversation
                )
        gevent.sleep(CALM_SECONDS)
        if self.findings:
            return
        self._read_all()
        self._check_pushes()
        self._check_channels()
        self._check_sessions(self.now)
        for messenger in self.messengers:
            for conversation, members in self.conversations.items():
                if messenger.user in members:
                    self.note(
                        "followed", client=messenger.name, object=f"c{conversation}"
                    )

    def _read_all(self) -> None:
        def read() -> None:
            log = self.nodes[0].node.core.store.part(MessageLog)  # type: ignore[union-attr]
            for conversation, members in self.conversations.items():
                number = self.ask("reader", "read", f"c{conversation}", whole=True)
                rows: list[list[Any]] = []
                before = 0
                more = True
                while more:
                    entries, more = log.entries.history(
                        _LOG, members[0], conversation, before, 100
                    )
                    texts = [
                        each.body.decode() if each.kind == "message" else None
                        for each in entries
                    ]
                    rows[:0] = [
                        [each.seq, text]
                        for each, text in zip(entries, texts, strict=True)
                    ]
                    before = entries[0].id if more else 0
                self.note("ok", number=number, messages=rows)

        self.finish_on_node(self.nodes[0], read)

    def _check_pushes(self) -> None:
        """A push from each node reaches each listener."""
        before = {each.name: each.pushes for each in self.listeners}
        for node in self.nodes:
            for user in LISTENERS:
                self._push(node, user)
        gevent.sleep(5.0)
        for each in self.listeners:
            if (pushes := each.pushes - before[each.name]) != NODES:
                self.fail(f"{each.name} received {pushes} of {NODES} pushes at the end")

    def _check_channels(self) -> None:
        """All listeners are at the same position of each channel: its last."""
        for channel in CHANNELS:
            self.on_node(
                self.nodes[0],
                self._publish,
                self.nodes[0],
                channel,
                f"last of {channel}",
            )
        gevent.sleep(5.0)
        for channel in CHANNELS:
            ends = [
                key[2]
                for key, text in self.published.items()
                if text == f"last of {channel}"
            ]
            last = max(ends, default=0)
            for each in self.listeners:
                if each.last.get(channel, ("", 0))[1] != last:
                    self.fail(
                        f"{each.name} is at {each.last.get(channel)} of {channel}, whose end is {last}"
                    )

    def _check_sessions(self, until: float) -> None:
        """Each user who is logged in has one session that is addressed: that of
        the last login, which ended before ``until``."""
        some = [
            each
            for each in (*self.visitors, *self.listeners)
            if each.core.state == "online"
        ]
        connections = [
            connection
            for node in self.nodes
            if node.node is not None
            for connection in node.node.core.network.context.connections
            if connection.app == _PUSH and connection.is_addressed
        ]
        for user in sorted({each.user for each in some}):
            addressed = [each.sock for each in connections if each.user == user]
            clients = [each for each in some if each.user == user]
            last = max(clients, key=lambda each: each.login_ended)
            changed = max(
                max(each.login_began, each.login_ended)  # a login may be under way
                for each in self.all_clients
                if isinstance(each, Listener) and each.user == user
            )
            if (
                self.departed.get(user, 0.0) > min(last.login_began, until)
                or changed > until
            ):
                continue  # the newest has left: nobody takes its place
            holders = [
                each
                for each in clients
                if each.wire is not None and each.wire.sock in addressed
            ]
            if len(addressed) != 1:
                self.fail(
                    f"{user} has {len(addressed)} addressed sessions of {len(clients)}"
                )
            elif last not in holders and all(
                last.login_began > each.login_ended + 0.01 for each in holders
            ):
                self.fail(
                    f"{user}: the login at {last.login_ended:.3f} lost against an older one"
                )

    def _judge(self) -> None:
        """What the checker says of the history."""
        if self.findings or self.is_losing:
            return
        self.findings += [
            f"checker: {finding}" for finding in check(read_history(self.lines))
        ]


def fresh_folder(folder: Path, template: Path) -> None:
    """The files with which a world begins."""
    folder.mkdir(parents=True)
    (folder / "secret").write_bytes(b"0123456789abcdef0123456789abcdef")
    (folder / "secret").chmod(0o600)
    for file in template.glob("world.db*"):
        shutil.copy(file, folder)
