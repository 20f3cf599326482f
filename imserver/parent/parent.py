"""``imserver serve`` with several processes: the life of the parent, and what it does on each signal."""

import gc
import logging
import signal
import time
from collections.abc import Callable
from typing import Final

from imserver import doors
from imserver.config import Config
from imserver.errors import StartError
from imserver.exposure import keys_may_be_kept, refuse_open_demo
from imserver.lifecycle import DataDirectory, raise_file_limit
from imserver.logs import Logs, open_logs
from imserver.parent import listening, provision
from imserver.parent.children import Children
from imserver.parent.inbox import DRAIN, PASSED_ON, ROLL, Inbox
from imserver.parent.preload import load_modules
from imserver.parent.rolling import Rolling
from imserver.parent.slot import Slot
from imserver.serving import banner, has_terminal

_log = logging.getLogger("imserver.parent")

_BUSY_SECONDS: Final = 0.05


def run(config: Config, read_config: Callable[[], Config], announce: Callable[[str], object]) -> int:
    """Fork the nodes and watch over them until a signal ends all; the exit status.

    ``read_config`` reads the settings again, at SIGHUP and at a rolling restart; ``announce`` shows lines on
    the console. Raises :class:`StartError`, one clear line, if the nodes cannot start.
    """
    provision.check(config)
    given, config = config, provision.located(config)
    refuse_open_demo(config)
    logs = open_logs(config)
    data = DataDirectory(config.server.data_dir, shared=config.clustered)
    try:
        for warning in config.warnings:
            _log.warning("%s", warning)
        raise_file_limit()
        data.start()
        data.secret(config.server.secret_file)
        listeners = listening.listen(config, config.server.processes)
        parent = Parent(given, config, read_config, announce, logs, data, listeners)
        _prepare_memory(config)
        return parent.run()
    except StartError as error:
        if config.app.log_file:  # the console hears of it anyway
            _log.error("cannot start: %s", error)
        raise
    except Exception as error:
        _log.exception("the parent failed; its nodes drain")
        raise StartError(f"the server failed: {error}; the log has the traceback") from error
    finally:
        data.stop()
        logs.close()


def _prepare_memory(config: Config) -> None:
    """Load what the children will need, and keep their collections off it: to write to it is to copy it."""
    load_modules(config)
    gc.collect()
    gc.freeze()


class Parent:
    """Owner of the children's order: all start, one after the other is replaced, all end."""

    def __init__(
        self,
        given: Config,
        config: Config,
        read_config: Callable[[], Config],
        announce: Callable[[str], object],
        logs: Logs,
        data: DataDirectory,
        listeners: list[listening.Listeners],
    ) -> None:
        self._given = given
        self._config = config
        self._read_config = read_config
        self._announce = announce
        self._logs = logs
        self._status = 0
        self._addresses = doors.addresses_of(listeners[0])
        self._slots = [
            Slot(number, provision.name_of(provision.of_slot(config, number)), sockets)
            for number, sockets in enumerate(listeners)
        ]
        # Under nohup SIGHUP arrives ignored, and a lost terminal is no reason to end.
        self._terminal_matters = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._inbox = Inbox()

        def let_go() -> None:
            logs.close()
            data.abandon()

        self._children = Children(config, read_config, self._slots, self._inbox, self._say, let_go)
        self._rolling = Rolling(self._slots, self._children.drain, self._say)
        self._steering = listening.Steering(listeners, possible=not config.server.reuse_port)

    def run(self) -> int:
        """Return the exit status when all children have ended. Raises StartError if they cannot start."""
        children, announced = self._children, False
        while True:
            now = time.monotonic()
            children.turn(now)
            if children.ending and not children.any:
                break
            if children.settled and not children.ending:
                if not announced:
                    announced = True
                    self._announce_all()
                self._rolling.turn(now)
                self._steering.keep_away_from(
                    frozenset(slot.number for slot in self._slots if not slot.takes_clients(now))
                )
            busy = children.starting or self._rolling.active
            for number in self._inbox.wait(_BUSY_SECONDS if busy else children.next_turn(now)):
                self._on(signal.Signals(number))
        if children.failure is not None:
            raise children.failure
        self._say(logging.INFO, "all nodes have ended")
        return self._status or min(children.bad_ends, 1)

    # --- signals --------------------------------------------------------------------------------------------

    def _on(self, number: signal.Signals) -> None:
        if number in DRAIN:
            self._end(number)
        elif number == signal.SIGHUP and self._terminal_matters and not has_terminal():
            if not self._children.ending:
                self._end(number)
        elif number == signal.SIGHUP:
            if self._reread():
                self._say(logging.INFO, "SIGHUP: settings reloaded")
                self._children.pass_on(number)
        elif number in PASSED_ON:
            if number == signal.SIGUSR1:
                self._logs.reopen()
            self._children.pass_on(number)
        elif number == ROLL and self._children.settled and not self._children.ending and self._reread():
            self._rolling.begin()
            self._children.generation = self._rolling.generation

    def _end(self, number: signal.Signals) -> None:
        if self._children.ending:
            self._say(logging.WARNING, f"{number.name} again: stopping at once")
            self._status = 128 + number
            self._children.end_at_once()
        else:
            self._say(logging.INFO, f"{number.name}: draining {len(self._slots)} nodes")
            self._children.drain_all()

    def _reread(self) -> bool:
        """Take the settings anew, for children that start from now on."""
        try:
            config, changed = provision.reread(self._read_config(), self._given, self._config)
            refuse_open_demo(config)
        except StartError as error:
            self._say(logging.ERROR, f"settings are unchanged: {error}")
            return False
        if changed:
            self._say(logging.WARNING, f"only a restart of all changes {', '.join(changed)}")
        self._config = self._children.config = config
        return True

    # --- telling --------------------------------------------------------------------------------------------

    def _announce_all(self) -> None:
        names = [slot.name for slot in self._slots]
        demo = self._config.demo and not keys_may_be_kept(self._config)
        nodes = f"{len(names)}: {names[0]} to {names[-1]}"
        self._print(banner(self._config, self._addresses, demo, nodes=nodes))
        _log.info("%d nodes serve at %s", len(names), ", ".join(self._addresses.values()))

    def _say(self, level: int, text: str) -> None:
        _log.log(level, "%s", text)
        if self._config.app.log_file:
            self._print(f"imserver: {text}")

    def _print(self, text: str) -> None:
        try:
            self._announce(text)
        except OSError as error:  # whoever listened has gone: no reason to end
            _log.debug("the console is gone: %s", error)
