"""``imserver serve`` with several processes: the supervisor's main loop,
signals and rolling restart."""

import gc
import importlib
import logging
import mimetypes
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from imserver.gateway.cluster.redis.connection import address_of
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.logging import Logs, open_logs
from imserver.gateway.model import Service
from imserver.gateway.node import http_servers as servers
from imserver.gateway.node.feature_list import declarations_of, load_features, with_core
from imserver.gateway.node.http_servers import Listeners, listen, refuse_open_demo
from imserver.gateway.node.serve import banner, ending, has_terminal, terminal_matters
from imserver.gateway.process import (
    DataDirectory,
    connection_limit,
    cores,
    derive_key,
    hold_signals,
    raise_file_limit,
)
from imserver.gateway.storage.address import DRIVERS, database_address
from imserver.gateway.supervisor.children import (
    DRAIN,
    FORWARDED,
    ROLL,
    Children,
    SignalQueue,
)
from imserver.gateway.supervisor.slot import (
    RUSH_SECONDS,
    ConnectionSteering,
    Rush,
    Slot,
    SlotState,
    apply_reload,
    for_child,
    name_of,
    resolve_addresses,
)
from imserver.gateway.transport.bulk_permits import HOLD_SECONDS, BulkPermits

_log = logging.getLogger("imserver.gateway.supervisor")

MANY_NODES: Final = 4
"""From this number of nodes per processor, only a few nodes at a time write
broadcasts and get new clients."""
_BUSY_SECONDS: Final = 0.05
"""Time between two ticks while children start, or are replaced."""
_STATUS_OF_SIGNAL: Final = 128
"""If a signal ends a process, its exit status is this number plus the number of
the signal."""


def run(
    config: Config, read_config: Callable[[], Config], announce: Callable[[str], object]
) -> int:
    """Fork the nodes and supervise them until a signal ends them. Returns the
    exit status.

    ``read_config`` reads the settings again, for SIGHUP and a rolling restart.
    ``announce`` prints to the console. Raises :class:`StartError` with one
    clear line if the nodes cannot start.
    """
    given = config
    # The settings as they were written are kept, so that a reload can be
    # compared with them.
    config = resolve_addresses(config)
    refuse_open_demo(config)
    logs = open_logs(config)
    data = DataDirectory(config.server.data_dir, shared=config.clustered)
    with (
        ending(config, logs, "the supervisor failed; draining its nodes"),
        ExitStack() as stack,
    ):
        stack.callback(data.stop)
        for warning in config.warnings:
            _log.warning("%s", warning)
        raise_file_limit()
        hold_signals()
        data.start()
        data.secrets(config.server)
        # The sockets are opened only once. Each child inherits the sockets of
        # its slot.
        listeners = listen(config, config.server.processes)
        supervisor = Supervisor(
            given=given,
            config=config,
            read_config=read_config,
            announce=announce,
            logs=logs,
            data=data,
            listeners=listeners,
        )
        preload_modules(config)
        _freeze_objects()
        return supervisor.run()


def _freeze_objects() -> None:
    """Exclude all objects that exist now from garbage collection.

    The children share a page of memory as long as nobody writes to it. The
    garbage collector writes to objects, so it must not touch these objects.
    """
    gc.collect()
    gc.freeze()


class Supervisor(Service, dict=True):
    """Runs the main loop: starts all children, restarts them one by one, and
    ends them.

    A child is a process that runs one node. Owner of the slots, which have one
    child each. ``given`` has the settings as they were read at the start, and
    ``config`` the settings in use, with resolved addresses. ``listeners`` has
    the listening sockets of each child.
    """

    given: Config
    config: Config
    read_config: Callable[[], Config]
    announce: Callable[[str], object]
    logs: Logs
    data: DataDirectory
    listeners: list[Listeners]

    def __post_init__(self) -> None:
        """Make a slot for each child, and everything that looks after the
        children. No child is started yet."""
        self._status = 0
        """The exit status after a second signal; 0 if there was no second
        signal."""
        self._addresses = servers.addresses_of(self.config, self.listeners[0])
        self._slots = [
            Slot(number, name_of(for_child(self.config, number)), sockets)
            for number, sockets in enumerate(self.listeners)
        ]
        self._terminal_matters = terminal_matters()
        self._signals = SignalQueue()

        few = self._count_of_few()
        # There is one more permit than nodes that work in bulk. So no processor
        # waits while a permit goes to the next node.
        permits = few + 1 if few else 0
        self._permits = BulkPermits(permits, HOLD_SECONDS)
        self._rush = Rush(few)
        self._steering = ConnectionSteering(
            self.listeners, possible=not self.config.server.reuse_port
        )

        self._children = self._make_children()
        self._is_announced = False
        """Whether the banner was printed."""
        self._rolling = RollingRestart(
            slots=self._slots, drain=self._drain, report=self._report
        )

    def _make_children(self) -> Children:
        """Return the children of the slots. No child is started yet."""
        return Children(
            config=self.config,
            read_config=self.read_config,
            slots=self._slots,
            signals=self._signals,
            permits=self._permits,
            report=self._report,
            close_inherited=self._close_inherited,
        )

    def _count_of_few(self) -> int:
        """Return how many nodes shall do work in bulk at a time: one per processor.

        0 means that there are not many nodes, so all of them may do such work.
        """
        if len(self._slots) >= MANY_NODES * cores():
            return cores()
        return 0

    def _close_inherited(self) -> None:
        """In a child: close the files that belong to the supervisor."""
        self.logs.close()
        self.data.abandon()

    def run(self) -> int:
        """Run the main loop until all children have ended. Returns the exit
        status.

        Each turn looks after the children, then waits for signals. Raises
        StartError if the children cannot start.
        """
        children = self._children
        while True:
            now = time.monotonic()
            children.tick(now)
            # All children have ended.
            if children.ending and not any(slot.pid for slot in self._slots):
                break
            if children.settled and not children.ending:
                self._look_after_served(now)

            self._handle_signals(now)
        if children.failure is not None:
            raise children.failure
        self._report(logging.INFO, "all nodes have ended")
        return self._status or min(children.bad_ends, 1)

    def _handle_signals(self, now: float) -> None:
        """Wait for signals until the next turn, and handle them."""
        seconds = self._pause_seconds(now)
        for number in self._signals.wait(seconds, self._permits):
            self._handle(signal.Signals(number))

    def _look_after_served(self, now: float) -> None:
        """Do the work of a turn in which all nodes serve."""
        if not self._is_announced:
            self._is_announced = True
            self._announce_nodes()
        self._rolling.tick(now)
        self._steer(now)

    def _pause_seconds(self, now: float) -> float:
        """Return the longest time until the next tick of the main loop."""
        if self._children.starting or self._rolling.active:
            seconds = _BUSY_SECONDS
        else:
            seconds = self._children.next_tick_seconds(now)
        if self._rush.active:
            return min(seconds, RUSH_SECONDS)
        return seconds

    def _announce_nodes(self) -> None:
        """Print the banner and log the addresses, once all nodes serve."""
        names = [slot.name for slot in self._slots]
        # All nodes have the same settings, so the notes of one are enough.
        notes = self._slots[0].status.text(failed=False).splitlines()
        nodes = f"{len(names)}: {names[0]} to {names[-1]}"
        self._print(banner(self.config, self._addresses, notes, nodes=nodes))
        addresses = ", ".join(self._addresses.values())
        _log.info("%d nodes serve at %s", len(names), addresses)

    def _steer(self, now: float) -> None:
        """Choose which children get new connections from now on.

        Usually all children that accept clients get new connections. In a rush,
        when very many clients connect, only a few of these children get them.
        """
        accepting = {
            slot.number: slot.status.marks
            for slot in self._slots
            if slot.accepts_clients(now)
        }
        chosen = self._rush.choose(accepting, now)
        # An excluded child keeps its listener open, and the clients in its
        # queue stay there.
        numbers = frozenset(slot.number for slot in self._slots)
        self._steering.exclude(numbers - chosen)

    def _drain(self, slot: Slot) -> None:
        """Drain a child: let it close its connections and end.

        Before it gets the signal, new connections already go to the other
        children.
        """
        # In this state the child does not accept clients.
        slot.state = SlotState.DRAINING
        self._steer(time.monotonic())
        self._children.drain(slot)

    # --- signals --------------------------------------------------------------

    def _handle(self, number: signal.Signals) -> None:
        """Handle a signal of the operating system."""
        if number in DRAIN:
            self._end(number)
        elif number == signal.SIGHUP:
            self._hang_up(number)
        elif number in FORWARDED:
            # The supervisor has log files of its own.
            if number == signal.SIGUSR1:
                self.logs.reopen()
            self._children.forward(number)
        elif number == ROLL:
            self._roll()

    def _hang_up(self, number: signal.Signals) -> None:
        """Handle SIGHUP: read the settings again, or drain if the terminal has
        ended."""
        if self._terminal_matters and not has_terminal():
            if not self._children.ending:
                self._end(number)
        elif self._reload():
            self._report(logging.INFO, "SIGHUP: settings reloaded")
            self._children.forward(number)

    def _roll(self) -> None:
        """Begin a rolling restart, with the settings read again."""
        if not self._children.settled or self._children.ending:
            return
        if self._reload():
            self._rolling.begin()
            self._children.generation = self._rolling.generation

    def _end(self, number: signal.Signals) -> None:
        """Drain all nodes. If the nodes are already draining, end them at
        once."""
        if self._children.ending:
            self._report(logging.WARNING, f"{number.name} again: stopping at once")
            # Shells use this status for a process that a signal has ended.
            self._status = _STATUS_OF_SIGNAL + number
            self._children.end_at_once()
        else:
            self._report(
                logging.INFO, f"{number.name}: draining {len(self._slots)} nodes"
            )
            self._children.drain_all()

    def _reload(self) -> bool:
        """Read the settings again, for children that start from now on.

        Returns False if the settings are not valid. Then the old settings stay
        in use.
        """
        try:
            config, changed = apply_reload(self.read_config(), self.given, self.config)
            refuse_open_demo(config)
            connection_limit(config)
        # A mistake in the settings file must not stop a running server.
        except StartError as error:
            self._report(logging.ERROR, f"settings are unchanged: {error}")
            return False
        if changed:
            self._report(
                logging.WARNING, f"a full restart is needed for {', '.join(changed)}"
            )
        self.config = config
        self._children.config = config
        return True

    # --- messages -------------------------------------------------------------

    def _report(self, level: int, text: str) -> None:
        """Log for operators, also on the console if the log is a file."""
        _log.log(level, "%s", text)
        if self.config.app.log_file:
            self._print(f"imserver: {text}")

    def _print(self, text: str) -> None:
        """Print to the console, if it is still open."""
        try:
            self.announce(text)
        except OSError as error:  # the console is closed
            _log.debug("the console is closed: %s", error)


_READY_SECONDS: Final = 60.0
"""Time limit for a replaced child to become ready."""


class RollingRestart(Service):
    """Replaces one child after the other, so that the server never stops
    serving.

    A child is drained when the replacement of the previous one is ready.
    ``drain`` ends one child, whose slot then starts the next one.
    """

    slots: Sequence[Slot]
    drain: Callable[[Slot], None]
    report: Callable[[int, str], None]
    _current: Slot | None = None
    """The slot whose child is being replaced; None before the first
    replacement."""
    active: bool = False
    """Whether a rolling restart is in progress."""
    generation: int = 0
    """How many rolling restarts have begun."""

    def begin(self) -> None:
        """Replace all running children, from the next tick on."""
        if self.active:
            self.report(logging.WARNING, "a rolling restart is already in progress")
            return
        self.active = True
        self.generation += 1
        self.report(logging.INFO, f"rolling restart of {len(self.slots)} nodes")

    def tick(self, now: float) -> None:
        """Go on with the restart, if the current child has been replaced.

        The restart ends early if a new child fails, or takes too long.
        """
        if not self.active:
            return
        slot = self._current
        # No child has been replaced yet.
        if slot is None:
            self._replace_next()
        elif slot.state is SlotState.DRAINING:
            return  # the old child still runs
        elif slot.failures:
            self._end(f"node {slot.name} did not start")
        elif slot.generation == self.generation:  # the new child runs
            self._check_new_child(slot, now)

    def _check_new_child(self, slot: Slot, now: float) -> None:
        """Replace the next child if the new one of this slot is ready."""
        is_ready = slot.state is SlotState.SERVING and slot.status.marks.ready
        if is_ready:
            self._replace_next()
        elif now - slot.since > _READY_SECONDS:
            self._end(f"node {slot.name} is not ready after {_READY_SECONDS:.0f} s")

    def _replace_next(self) -> None:
        """Drain the next child that is older than this restart, or end after
        the last one."""
        # Children that are down start with the new settings anyway.
        old = [
            slot
            for slot in self.slots
            if slot.pid and slot.generation < self.generation
        ]
        if not old:
            self._end()
            return
        slot = old[0]
        self._current = slot
        self.report(
            logging.INFO,
            f"node {slot.name} (pid {slot.pid}): draining; {len(old)} to restart",
        )
        self.drain(slot)

    def _end(self, failure: str = "") -> None:
        """End the restart, and tell the operators.

        ``failure`` says why it stops early; ``""`` if it is complete.
        """
        self.active = False
        self._current = None
        if failure:
            text = f"rolling restart stopped: {failure}; the other nodes keep running"
            self.report(logging.ERROR, text)
        else:
            self.report(logging.INFO, "rolling restart: done")


def preload_modules(config: Config) -> None:
    """Import the modules, and make the tables, that each node needs.

    After a fork, all children share the memory of these modules. This function
    creates no loop, thread, socket or file, because each child would get a copy
    of it. Raises StartError.
    """
    for name in _modules_of(config):
        importlib.import_module(name)
    mimetypes.init()
    # The first digest makes OpenSSL load its algorithms.
    derive_key(secret=b"", purpose="")

    features = load_features(config)
    all_features = with_core(features)
    forks = True  # so the views also load the modules that first requests need
    for feature in all_features:
        if feature.views is not None:
            feature.views(forks)
        feature.metrics()
    servers.api_table_of(all_features, declarations_of(features))


_MODULES: Final = (
    "cryptography.hazmat.primitives.ciphers.aead",
    "encodings.ascii",
    "encodings.idna",
    "encodings.unicode_escape",
    "gevent.pool",
    "gevent.resolver.thread",
    "gevent.threadpool",
    "imserver.gateway.http.form",
    "imserver.gateway.node.flask_app",
    "imserver.gateway.metric_table",
    "imserver.gateway.transport.one_request",
    "imserver.gateway.transport.parser",
)
"""Modules that each node imports sooner or later, whatever its settings."""


def _modules_of(config: Config) -> list[str]:
    """List the modules that each node with these settings needs later.

    Without this list, these modules of the core would be imported at their
    first use. Then each child would use its own memory for them.
    """
    names = [*_MODULES]
    if config.clustered:
        names += _modules_of_cluster(config)
    if config.server.http == "wsgi":
        names.append("imserver.gateway.transport.wsgi")
    if any(tenant.jwt for tenant in config.apps.values()):
        names.append("jwt.api_jws")
    if any(tenant.webhook.urls for tenant in config.apps.values()):
        # Webhooks are sent with urllib3, as HTTP requests.
        names.append("urllib3")
    names += _modules_of_database(config)
    return names


def _modules_of_cluster(config: Config) -> list[str]:
    """List the modules of a node of a cluster."""
    names = ["imserver.gateway.core.cluster"]
    if address_of(config.redis).tls:
        names.append("imserver.gateway.cluster.redis.tls")
    return names


def _modules_of_database(config: Config) -> list[str]:
    """List the modules for the database, if there is one or must be one."""
    address = database_address(config.storage, config.server.data_dir)
    if not (address.configured or address.exists):
        return []
    return ["imserver.gateway.storage.database", DRIVERS[address.engine]]
