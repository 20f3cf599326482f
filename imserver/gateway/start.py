"""Starts the server: `imserver serve`."""

import _pickle as pickle  # `pickle` itself would take 0.2 MB of a node
import os
import posix
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from imserver.gateway.config.load import read_value
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.node import feature_list
from imserver.gateway.process import plan_processes
from imserver.gateway.supervisor.slot import check_ports


def run(path: str | None, overrides: dict[str, Any]) -> int:
    """Serve until a signal, with the settings of a file and of the command
    line.

    If the settings want several processes, this process supervises them.
    Returns the exit status.
    """

    def read(parse: Callable[[str, str], Any] | None = None) -> tuple[Config, str]:
        """Read the settings, and the line about the number of processes.

        ``parse`` is the function that parses the file. None means that this
        process parses the file.
        """
        settings, locations = feature_list.load_with_locations(
            path, overrides=overrides, parse=parse
        )
        feature_list.check(settings, locations)
        return plan_processes(settings)

    def read_again() -> Config:
        """Read the settings again, when the operator asks for it."""
        settings, _ = read()
        return settings

    announce = partial(print, flush=True)
    try:
        settings, processes_line = read(_parse_in_child)
        check_ports(settings)
        if processes_line:
            announce(processes_line)
        return _serve(settings, read_again, announce)
    except StartError as error:
        from imserver.gateway.terminal import fail  # it imports click

        fail(error)
    return 0


def _serve(
    settings: Config, read_again: Callable[[], Config], announce: Callable[..., None]
) -> int:
    """Serve until a signal, as one node or as the supervisor of several.

    Returns the exit status. Raises StartError.
    """
    if settings.server.processes > 1:
        # Imported here: a single node does not need it.
        from imserver.gateway.supervisor import supervisor

        return supervisor.run(settings, read_again, announce)
    # Imported here: a supervisor imports this module later, together with other
    # modules.
    from imserver.gateway.node import serve

    serve.run(settings, read_again, announce)
    return 0


def _parse_in_child(text: str, where: str) -> Any:
    """Parse a settings file as :func:`read_value` does, in a child process.

    Raises ConfigError.
    """

    def work(give: Callable[..., None]) -> None:
        """Parse the file, in the child."""
        give(read_value(text, where))

    (value,) = in_child(work)
    return value


def in_child(work: Callable[[Callable[..., None]], object]) -> Any:
    """Run a function in a child process, and return the values that it gives.

    ``work`` gets a function ``give``, and calls it with the values. So this
    process never loads the modules that only ``work`` needs: click and YAML
    take 2 MB of a node. Raises StartError if ``work`` raises it. The child ends
    without a call of ``give`` if it has printed help, for example. Then this
    process ends with the status of the child.
    """
    receiver, sender = os.pipe()
    # gevent has replaced os.fork by its own function, which makes an event
    # loop. A supervisor that forks must not have an event loop.
    child = posix.fork()
    if not child:
        _work_in_child(work, sender)
    # Reading ends when the child has closed the pipe, too.
    posix.close(sender)
    with open(receiver, "rb") as file:
        content = file.read()
    status = os.waitstatus_to_exitcode(posix.waitpid(child, 0)[1])
    if not content:
        sys.exit(status)
    values = pickle.loads(content)
    first_value = values[0]
    if isinstance(first_value, StartError):
        raise first_value
    return values


def _work_in_child(
    work: Callable[[Callable[..., None]], object], sender: int
) -> NoReturn:
    """Run the function in the child, and end the child.

    ``sender`` is the end of the pipe to the parent. A StartError is sent in
    place of the values.
    """

    def give(*values: Any) -> None:
        """Send the values to the parent, and end the child."""
        content = pickle.dumps(values)
        with open(sender, "wb") as file:
            file.write(content)
        os._exit(0)

    try:
        work(give)
    except StartError as error:
        give(error)
    sys.exit()
