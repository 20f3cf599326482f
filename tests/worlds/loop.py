"""A loop for gevent's hub whose time is virtual: it runs what is due, then
jumps to the next timer.

Nothing here waits, and nothing depends on the clock of the machine. So all code
that waits by gevent runs unmodified, a thousand times faster, and in the same
order for the same seed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, Self

EPOCH: Final = 1_800_000_000.0
"""Unix seconds at which each world begins."""
_CALL_SECONDS: Final = 0.000_005
"""What each callback takes."""
_LATE_SECONDS: Final = 0.000_5
"""A timer fires late by a random time with this mean."""


class Owner:
    """A simulated process: whoever a callback belongs to. Callbacks inherit it
    from the one that schedules them.

    ``number``: of its process id. ``skew``: how far its clock of Unix seconds
    is off.
    """

    def __init__(self, name: str, number: int = 0) -> None:
        self.name = name
        self.number = number
        self.alive = True
        self.paused = False
        self.skew = 0.0
        self.waiting: list[Callback | Timer] = []
        """What became due while it was paused."""


class Callback:
    """A call at the end of this turn of the loop."""

    __slots__ = ("args", "callback", "owner")

    def __init__(
        self, owner: Owner, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.owner = owner
        self.callback: Callable[..., object] | None = callback
        self.args: tuple[Any, ...] | None = args

    def stop(self) -> None:
        self.callback = self.args = None

    close = stop

    @property
    def pending(self) -> bool:
        return self.callback is not None

    def __bool__(self) -> bool:
        return self.args is not None


class Timer:
    """As a timer of gevent's loops."""

    __slots__ = ("_after", "_loop", "_repeat", "args", "callback", "number", "owner")

    def __init__(self, loop: VirtualLoop, after: float, repeat: float) -> None:
        self._loop = loop
        self._after = after
        self._repeat = repeat
        self.number = 0
        self.owner = loop.current
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] = ()

    def start(
        self, callback: Callable[..., object], *args: Any, update: bool = True
    ) -> None:
        self._start(self._after, callback, args)

    def again(
        self, callback: Callable[..., object], *args: Any, update: bool = True
    ) -> None:
        self._start(self._repeat, callback, args)

    def _start(
        self, after: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.callback = callback
        self.args = args
        self.owner = self._loop.current
        self.number = self._loop.push(after, self)

    def stop(self) -> None:
        self.callback = None
        self.args = ()

    close = stop

    def fired(
        self, number: int
    ) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """What to call now; None: it was stopped, or started again."""
        if self.callback is None or number != self.number:
            return None
        due = self.callback, self.args
        if self._repeat:
            self.number = self._loop.push(self._repeat, self)
        else:
            self.stop()
        return due

    @property
    def active(self) -> bool:
        return self.callback is not None

    pending = active
    ref = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watcher:
    """A watcher that a world makes ready: of a simulated socket (``io``), or
    one that never fires."""

    def __init__(self, loop: VirtualLoop, fd: int = -1) -> None:
        self._loop = loop
        self._fd = fd
        self._call: tuple[Callable[..., object], tuple[Any, ...]] | None = None
        self.owner = loop.current

    def start(self, callback: Callable[..., object], *args: Any, **_: Any) -> None:
        self._call = (callback, args)
        self.owner = self._loop.current
        if self._fd >= 0:
            self._loop.watchers[self._fd] = self
            self._loop.look(self._fd)

    def stop(self) -> None:
        self._call = None
        if self._loop.watchers.get(self._fd) is self:
            del self._loop.watchers[self._fd]

    close = stop

    def ready(self) -> None:
        """Call, if it is started."""
        if self._call is not None:
            call, args = self._call
            call(*args)

    @property
    def active(self) -> bool:
        return self._call is not None

    def send(self) -> None:
        """Nothing here has other threads."""


class Stopped(Exception):
    """The world has ended."""


class VirtualLoop:
    """A loop for :class:`gevent.hub.Hub`. Owner of the time, and of all that is
    scheduled.

    ``failures``: what escaped from callbacks and greenlets.
    """

    default = False
    MAXPRI = 2
    MINPRI = -2
    approx_timer_resolution = 0.000_001
    error_handler: Any = None

    def __init__(self, seed: int) -> None:
        self.random = Random(f"{seed} loop")
        self.world = Owner("world")
        self.current = self.world
        self.clock = 0.0
        """Seconds since the world began."""
        self.calls = 0
        self.failures: list[str] = []
        self.leftovers: list[object] = []
        """What dead processes had: their greenlets must not run on because
        somebody collects them."""
        self.watchers: dict[int, Watcher] = {}
        """File descriptor → what waits until something can be read there."""
        self.readable: Callable[[int], bool] = lambda _: False
        self._turn_began = 0.0
        self._numbers = 0
        self._callbacks: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._ends = False

    # --- what gevent asks -----------------------------------------------------

    def run_callback(self, callback: Callable[..., object], *args: Any) -> Callback:
        entry = Callback(self.current, callback, args)
        self._callbacks.append(entry)
        return entry

    run_callback_threadsafe = run_callback

    def timer(
        self,
        after: float,
        repeat: float = 0.0,
        ref: bool = True,
        priority: int | None = None,
    ) -> Timer:
        return Timer(self, after, repeat)

    def io(
        self, fd: int, events: int, ref: bool = True, priority: int | None = None
    ) -> Watcher:
        return Watcher(self, fd if events & 1 else -1)

    def never(self, *_: Any, **__: Any) -> Watcher:
        return Watcher(self)

    async_ = never
    fork = async_
    signal = async_
    idle = async_
    prepare = async_
    check = async_
    child = async_

    def now(self) -> float:
        return EPOCH + self._turn_began + self.current.skew

    def closing_fd(self, _fd: int) -> bool:
        """No watcher has a descriptor of the machine."""
        return False

    def update_now(self) -> None:
        """The time is always that of now."""

    update = update_now

    def destroy(self) -> None:
        self._ends = True

    def handle_error(self, context: object, kind: Any, value: Any, _trace: Any) -> None:
        """A greenlet or a callback has raised."""
        import traceback

        text = "".join(traceback.format_exception(kind, value, _trace))
        self.failures.append(
            f"{self.clock:.6f} {self.current.name}: {context!r}\n{text}"
        )

    def run(self) -> None:
        """Run until :meth:`end`."""
        while not self._ends:
            if not self._callbacks:
                if not self._timers:
                    return
                self._advance()
            self._turn_began = self.clock
            for _ in range(len(self._callbacks)):
                self._call(self._callbacks.popleft())
            while self._timers and self._timers[0][0] <= self.clock:
                self._advance()

    # --- processes ------------------------------------------------------------

    @contextmanager
    def acting(self, owner: Owner) -> Iterator[None]:
        """What is scheduled in the block belongs to ``owner``. The block must
        not switch."""
        before = self.current
        self.current = owner
        try:
            yield
        finally:
            self.current = before

    def call_later(
        self, seconds: float, owner: Owner, call: Callable[..., object], *args: Any
    ) -> None:
        """Call as ``owner``, at exactly this time, unless it has died."""
        timer = Timer(self, seconds, 0.0)
        timer.callback = call
        timer.args = args
        timer.owner = owner
        timer.number = self._push(self.clock + seconds, timer)

    def kill(self, owner: Owner) -> None:
        """Nothing of a process runs any more. Its greenlets stay where they
        are."""
        owner.alive = False
        self.leftovers.append(owner.waiting)

    def pause(self, owner: Owner) -> None:
        """Stop a process as SIGSTOP does. Its time goes on."""
        owner.paused = True

    def resume(self, owner: Owner) -> None:
        """Continue it."""
        owner.paused = False
        waiting = owner.waiting
        owner.waiting = []
        for entry in waiting:
            if isinstance(entry, Callback):
                self._callbacks.append(entry)
            else:
                self._push(self.clock, entry, entry.number)

    def look(self, fd: int) -> None:
        """Something may have become readable at a file descriptor."""
        watcher = self.watchers.get(fd)
        if watcher is not None and self.readable(fd):
            entry = Callback(watcher.owner, self._ready, (fd,))
            self._callbacks.append(entry)

    def _ready(self, fd: int) -> None:
        watcher = self.watchers.get(fd)
        if watcher is not None and self.readable(fd):
            watcher.ready()
            self.look(fd)

    # --- internal -------------------------------------------------------------

    def push(self, after: float, timer: Timer) -> int:
        """Schedule a timer; it is a little late, as all are. Returns the number
        of this start."""
        return self._push(
            self.clock + max(after, 0.0) + self.random.expovariate(1 / _LATE_SECONDS),
            timer,
        )

    def _push(self, at: float, timer: Timer, number: int = 0) -> int:
        self._numbers += 1
        number = number or self._numbers
        heappush(self._timers, (at, number, timer))
        return number

    def _advance(self) -> None:
        at, number, timer = heappop(self._timers)
        self.clock = max(self.clock, at)
        owner = timer.owner
        if not owner.alive:
            self.leftovers.append((timer.callback, timer.args))
            return
        if owner.paused and timer.callback is not None and number == timer.number:
            owner.waiting.append(timer)
            return
        due = timer.fired(number)
        if due is not None:
            self._run(owner, *due)

    def _call(self, entry: Callback) -> None:
        callback = entry.callback
        args = entry.args
        if callback is None or args is None:
            return
        if not entry.owner.alive:
            self.leftovers.append((callback, args))
        elif entry.owner.paused:
            entry.owner.waiting.append(entry)
        else:
            entry.stop()
            self._run(entry.owner, callback, args)

    def _run(
        self, owner: Owner, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.current = owner
        self.calls += 1
        self.clock += _CALL_SECONDS
        try:
            callback(*args)
        except Exception:
            self.handle_error(callback, *sys.exc_info())
        finally:
            self.current = self.world
