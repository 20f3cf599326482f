"""What is done to a server that the load tool keeps: asked to end, held still, let go on."""

from __future__ import annotations

import signal
import subprocess


class Keeper:
    """One server process of our own; ``process`` is None before its start."""

    end_seconds = 10.0

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(self.end_seconds)

    def pause(self) -> None:
        """Let it stand still, but for the children that it may have."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end_by(self, number: int) -> None:
        """End it by a signal, whatever state it is in; by force if that does not do."""
        if self.process is None or self.process.poll() is not None:
            return
        self.resume()
        self._signal(number)
        try:
            self.process.wait(self.end_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
