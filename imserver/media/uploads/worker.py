"""A process that reads untrusted content, one task at a time, and the turns of
the users of these tasks."""

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Final

import gevent
from gevent import Greenlet, socket
from gevent.event import Event as Flag

from imserver.plugin.errors import ImserverError

_IDLE_SECONDS: Final = 60.0
"""A process without a task ends after this time."""
_END_SECONDS: Final = 1.0
"""Time in which a process must end when its socket is closed."""
_POLL_SECONDS: Final = 0.01
"""Time between two checks whether a process has ended."""


class TooCostly(ImserverError):
    """A task needs more CPU time than a task may have."""


class Turns:
    """The turns of users to use one resource.

    Apps take turns, and in each app its users take turns. So a user with many
    tasks does not make other users wait. The number of waiting users is at most
    the number of open uploads.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, dict[str, deque[Flag]]] = {}
        """App → its waiting users → the flags of their tasks. Each flag is set
        when its task has the turn. The first app and its first user have the
        next turn."""

    @contextmanager
    def take(self, app: str, user: str) -> Iterator[None]:
        """A context in which this user has the resource. The context begins
        after the user has got a turn. Switches greenlets."""
        if self._is_taken:
            self._wait(app, user)
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _wait(self, app: str, user: str) -> None:
        """Wait for a turn, behind the other tasks of this user. Switches
        greenlets."""
        turn = Flag()
        queue = self._waiting.setdefault(app, {}).setdefault(user, deque())
        queue.append(turn)
        try:
            turn.wait()
        except BaseException:
            # For example, the greenlet is killed.
            if turn.is_set():
                # The task got the turn, but cannot use it.
                self._pass_on()
            else:
                queue.remove(turn)
            raise

    def _pass_on(self) -> None:
        """Give the turn to the next task that waits, if there is one. Never
        switches greenlets."""
        self._is_taken = False
        while self._waiting:
            app, users = next(iter(self._waiting.items()))
            user, queue = next(iter(users.items()))
            del self._waiting[app], users[user]
            # The queue is empty if the task of its user has stopped waiting.
            turn = queue.popleft() if queue else None
            # If more tasks of the user wait, the user goes to the end of the
            # queue. The app does so, too.
            if queue:
                users[user] = queue
            if users:
                self._waiting[app] = users
            if turn is not None:
                self._is_taken = True
                turn.set()
                return


class Worker:
    """A process that runs a program which reads untrusted content.

    It is started for the first task, and ends after a minute without a task.
    ``program``: the path of a module that imports nothing of the server. It
    answers each line of its standard input with at most ``answer_bytes``, in
    one piece. SIGPROF ends it when a task needs too much CPU time.
    """

    def __init__(self, program: str, answer_bytes: int) -> None:
        self._program = program
        self._answer_bytes = answer_bytes
        self._turns = Turns()
        self.pid = 0
        """The id of the process; 0: no process. Read-only outside this
        class."""
        self._end_signal = 0
        """The signal that has ended the last process; 0: no signal."""
        self._socket: socket.socket | None = None
        self._end_later: Greenlet[..., object] | None = None

    def run(self, task: bytes, app: str, user: str, seconds: float) -> bytes:
        """Send a task to the process as one line, and return its answer.

        Returns ``b""`` if there is no answer within ``seconds``, or the process
        has failed. ``app``, ``user``: the user of the task; the tasks of
        several users are done in turn. Raises :class:`TooCostly`. Switches
        greenlets.
        """
        with self._turns.take(app, user):
            if self._end_later is not None:
                self._end_later.kill()
            try:
                return self._exchange(task + b"\n", seconds)
            finally:
                self._end_later = gevent.spawn_later(_IDLE_SECONDS, self._end)

    def _exchange(self, task: bytes, seconds: float) -> bytes:
        """Send a line to the process, and return its answer, as :meth:`run`
        does. The caller has the turn."""
        for _ in range(2):  # a process that has ended meanwhile is started again
            try:
                if self._socket is None:
                    self._start()
                assert self._socket is not None
                with gevent.Timeout(seconds, TimeoutError):
                    self._socket.sendall(task)
                    answer = self._socket.recv(self._answer_bytes)
            except TimeoutError:
                self._kill()
                return b""
            except OSError:
                answer = b""
            except BaseException:
                # Otherwise a late answer would be taken for the answer to the
                # next task.
                self._kill()
                raise
            # No answer, and no error: the process has ended.
            if answer:
                return answer
            self._kill()
            if self._end_signal == signal.SIGPROF:
                raise TooCostly("the task takes more CPU time than one may have")
        return b""

    def _start(self) -> None:
        """Start the process. One end of a socket pair becomes its standard
        input and output."""
        ours, theirs = socket.socketpair()
        # The program needs a blocking input. Otherwise it would treat a pause
        # as the end of its input.
        os.set_blocking(theirs.fileno(), True)
        try:
            # The program is run by its path. If it were run as a module, its
            # package would import the whole server.
            command = [sys.executable, "-P", self._program]
            actions = [
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
            ]
            # The program finds the same packages as this process.
            search_path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "PYTHONPATH": search_path}
            self.pid = os.posix_spawn(
                sys.executable, command, environment, file_actions=actions
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours

    def _kill(self) -> None:
        """End the process at once."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._end()

    def _end(self) -> None:
        """Let the process end by closing its socket, and wait until it has
        ended.

        If it takes too long, it is killed. Switches greenlets.
        """
        # The process is removed from this object first, because nothing may use
        # it while this method waits.
        pid = self.pid
        self.pid = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        deadline = monotonic() + _END_SECONDS
        while pid and not self._has_ended(pid):
            if monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            gevent.sleep(_POLL_SECONDS)

    def _has_ended(self, pid: int) -> bool:
        """Whether the process has ended. Also stores the signal that has ended
        it."""
        try:
            child, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            return True
        if child == pid and os.WIFSIGNALED(status):
            self._end_signal = os.WTERMSIG(status)
        else:
            self._end_signal = 0
        return child == pid

    def close(self) -> None:
        """End the process."""
        if self._end_later is not None:
            self._end_later.kill()
        self._kill()
