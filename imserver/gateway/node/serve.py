"""Runs one node in the foreground: banner, signals, drain, exit."""

import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import gevent

from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.logging import Logs, log_greenlet_errors, open_logs
from imserver.gateway.node.http_servers import (
    Application,
    LateApplication,
    Servers,
    check_listeners,
    demo_note,
    refuse_open_demo,
)
from imserver.gateway.node.node import Node
from imserver.gateway.process import hold_signals, take_signals
from imserver.version import running_version

_log = logging.getLogger(__name__)

_STATUS_OF_SIGNAL: Final = 128
"""If a signal ends a process, its exit status is this number plus the number of
the signal."""


def run(
    config: Config, read_config: Callable[[], Config], announce: Callable[[str], object]
) -> None:
    """Serve until a signal, then return after the drain.

    ``read_config`` reads the settings again at each SIGHUP. ``announce`` prints
    the banner. Raises :class:`StartError` with a message of one line if the
    server cannot start.
    """
    refuse_open_demo(config)

    def started(node: Node) -> None:
        announce(banner(config, node.servers.addresses, banner_notes(node)))

    serve(config, read_config, started)


def serve(
    config: Config,
    read_config: Callable[[], Config],
    started: Callable[[Node], object],
    listeners: Mapping[str, socket.socket] | None = None,
    name: str = "",
) -> None:
    """Run the node of these settings until a signal, then return after the drain.

    ``started`` is called when the node serves. ``listeners`` has sockets to
    serve; None means that the node opens its own. ``name`` is the name in log
    lines, if several nodes share the log. Raises :class:`StartError`.
    """
    logs = open_logs(config, name)
    with ending(config, logs, "the server failed"):
        log_greenlet_errors(gevent.get_hub())
        if listeners is None:
            # This is checked first, so that no log lines stand above its error.
            check_listeners(config)
        _log_warnings(config)

        # Signals wait until their handlers are set.
        hold_signals()
        node = Node(config, logs.requests, _application, listeners)
        node.start()
        signals = _Signals(node, logs, read_config)
        signals.install()

        started(node)
        _log_start(node, config)
        node.serve_forever()
        if signals.drain is not None:
            signals.drain.get()
        _log.info("stopped")


def _log_warnings(config: Config) -> None:
    """Log the warnings about the settings."""
    for warning in config.warnings:
        _log.warning("%s", warning)


def _log_start(node: Node, config: Config) -> None:
    """Log who may log in, which keys are of no use, and the addresses."""
    if config.app.log_file:  # without a log file, the banner shows the lines
        for line in node.core.logins.exposure():
            _log.info("%s", line)
    apps_of_keys = set[str]()
    for key in config.api.keys:
        apps_of_keys.update(key.apps)
    for app in sorted(apps_of_keys):
        if node.core.tenants.get(app) is None:
            _log.warning("api.keys: a key is for the app %s, which does not exist", app)
    _log.info("started at %s", ", ".join(node.servers.addresses.values()))


@contextmanager
def ending(config: Config, logs: Logs, failure: str) -> Iterator[None]:
    """A context in which the server runs.

    If the server fails, the reason is logged with ``failure`` as the text of
    the line, and StartError is raised. At the end the logs are closed.
    """
    try:
        yield
    except StartError as error:
        if (
            config.app.log_file
        ):  # without a log file, the console shows the error anyway
            _log.error("cannot start: %s", error)
        raise
    except Exception as error:
        _log.exception("%s", failure)
        raise StartError(
            f"the server failed: {error}; the log has the traceback"
        ) from error
    finally:
        logs.close()


def _application(servers: Servers) -> Application:
    """Return the WSGI application for requests that the front server does not
    answer.

    The application is made at its first request, unless it serves all requests.
    """

    def make() -> Application:
        """Import Flask and make the application."""
        # Imported here, because it loads Flask.
        from imserver.gateway.node.flask_app import create_app

        application = create_app(servers)
        # The new objects live as long as the node, so the collector can skip
        # them, as at the end of the start.
        gc.freeze()
        return application

    if servers.core.config.server.http == "wsgi":
        return make()
    return LateApplication(make)


def banner_notes(node: Node) -> list[str]:
    """Return the notes of a node for the banner.

    They tell about demo mode, or about the login rule of each app.
    """
    core = node.core
    if core.keys.demo:
        return [demo_note(core.config)]
    return core.logins.exposure()


def banner(
    config: Config, addresses: Mapping[str, str], notes: Sequence[str], **more: str
) -> str:
    """Return the text that is printed at the start.

    It has the addresses, the settings, the lines of ``more``, and the ``notes``
    of the node.
    """
    lines = {**addresses, **_facts_of(config), **more}
    # The first line identifies the process.
    text = [f"imserver {running_version()}, pid {os.getpid()}"]
    text += [f"  {name:<10} {line}" for name, line in lines.items()]
    text += [f"  {line}" for line in notes]
    return "\n".join(text)


def _facts_of(config: Config) -> dict[str, str]:
    """Return the settings that the banner shows, each with its name."""
    return {
        "server": config.server.http,
        "data": str(Path(config.server.data_dir).absolute()),
        "log": config.app.log_file or "console",
    }


class _Signals:
    """The signal handlers of a node. Each handler runs in a greenlet of its
    own, so it may block."""

    def __init__(
        self, node: Node, logs: Logs, read_config: Callable[[], Config]
    ) -> None:
        """``read_config`` reads the settings again, for SIGHUP. No handler is
        set yet."""
        self._node = node
        self._logs = logs
        self._read_config = read_config
        self.drain: gevent.Greenlet[[], None] | None = None
        """The greenlet that drains and stops the node; None if no signal has
        ended the node yet."""
        self._terminal_matters = terminal_matters()

    def install(self) -> None:
        """Set the handlers, and handle the signals that have waited for
        them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._end, number)
        gevent.signal_handler(signal.SIGHUP, self._hang_up)
        gevent.signal_handler(signal.SIGUSR1, self._logs.reopen)
        gevent.signal_handler(signal.SIGUSR2, self._dump)
        take_signals()

    def _end(self, number: int) -> None:
        """Begin the drain because of the signal ``number``.

        If the drain has begun already, end the process at once.
        """
        name = signal.Signals(number).name
        if self.drain is not None:
            _log.warning("%s again: stopping at once", name)
            self._end_at_once(_STATUS_OF_SIGNAL + number)
        _log.info("%s: draining", name)
        self.drain = gevent.spawn(self._stop)

    def _stop(self) -> None:
        """Drain and stop the node. If that fails, end the process at once."""
        try:
            self._node.stop()
        except Exception:
            _log.exception("the drain failed: stopping at once")
            self._end_at_once(status=1)

    def _end_at_once(self, status: int) -> NoReturn:
        """End the process, without a drain."""
        self._logs.close()
        os._exit(status)

    def _hang_up(self) -> None:
        """Handle SIGHUP: read the settings again, or drain if the terminal has
        ended."""
        if self._terminal_matters and not has_terminal():
            if self.drain is None:
                self._end(signal.SIGHUP)
            return
        # A mistake in the settings must not end a server that runs.
        try:
            config = self._read_config()
            refuse_open_demo(config, self._node.core.keys.closed)
            self._node.reload(config)
        except StartError as error:
            _log.error("settings are unchanged: %s", error)
            return
        _log.info(
            "settings reloaded: apps, keys, origins, limits, log; other changes "
            "need a restart"
        )

    def _dump(self) -> None:
        """Log the stacks of all greenlets, and the state of the node, to find a
        fault."""
        loop = gevent.get_hub().loop
        state = {
            "active watchers": loop.activecnt,
            "pending callbacks": loop.pendingcnt,
            "node": self._node.core.status.state(debug=False, detail=True),
        }
        # Objects frozen at the start are invisible to the collector, which is
        # used to find greenlets.
        gc.unfreeze()
        try:
            # Imported here: only this uses it, and it loads other modules.
            from gevent.util import format_run_info

            stacks: list[str] = format_run_info()  # type: ignore[func-returns-value, assignment]
        finally:
            gc.freeze()
        detail = [json.dumps(state, ensure_ascii=False), *stacks]
        _log.info("greenlets and loop state", extra={"detail": "\n".join(detail)})


def terminal_matters() -> bool:
    """Whether the end of its terminal ends this process.

    Under nohup SIGHUP is ignored, so the end of the terminal does not matter.
    """
    return has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN


def has_terminal() -> bool:
    """Whether this process has an open terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
