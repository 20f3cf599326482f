"""Media types, read from the first bytes of a file, and the process that reads pictures.

The name of the file and the type given by the sender are ignored. Only formats that browsers and phones play
are recognised. Every other file, also HTML and SVG with their scripts, has the type ``file``, which no
browser shows as a page.

Pictures are untrusted. So a process of its own decodes them, one at a time, with limits of memory and time:
:mod:`imserver.features.uploads.pictures`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
import msgspec
from gevent import socket
from gevent.event import Event
from msgspec import Struct

from imserver.features.uploads import pictures
from imserver.features.uploads.pictures import Picture, PictureTask
from imserver.plugin.errors import ImserverError

if TYPE_CHECKING:
    from gevent import Greenlet


HEAD_BYTES: Final = 4096
"""Number of bytes of a file that are examined."""


class MediaType(Struct, frozen=True):
    """A format: its kind (``picture``, ``voice``, ``video``, ``file``) and media type."""

    kind: str
    type: str


UNKNOWN: Final = MediaType("file", "application/octet-stream")

_BEGINNINGS: Final = tuple(
    (re.compile(pattern, re.DOTALL), MediaType(kind, name))
    for pattern, kind, name in (
        (rb"\xff\xd8\xff", "picture", "image/jpeg"),
        (rb"\x89PNG\r\n\x1a\n", "picture", "image/png"),
        (rb"GIF8[79]a", "picture", "image/gif"),
        (rb"RIFF....WEBPVP8[ LX]", "picture", "image/webp"),
        (rb"RIFF....WAVE", "voice", "audio/wav"),
        (rb"#!AMR(-WB)?\n", "voice", "audio/amr"),
        (rb"OggS.{24,280}\x01vorbis|OggS.{24,280}OpusHead|OggS.{24,280}Speex", "voice", "audio/ogg"),
        (rb"OggS.{24,280}\x80theora", "video", "video/ogg"),
        (rb"fLaC", "voice", "audio/flac"),
        (rb"ID3[\x02-\x04]", "voice", "audio/mpeg"),
        (rb"\xff[\xf2\xf3\xfa\xfb][^\x00-\x0f\xf0-\xff]", "voice", "audio/mpeg"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "voice", "audio/aac"),
        (rb"\x1a\x45\xdf\xa3.{0,64}\x42\x82.webm", "video", "video/webm"),
        (rb"\x1a\x45\xdf\xa3.{0,64}\x42\x82.matroska", "video", "video/x-matroska"),
        (rb"....ftyp(M4A |M4B )", "voice", "audio/mp4"),
        (rb"....ftyp(qt  )", "video", "video/quicktime"),
        (rb"....ftyp(3g[eghp2])", "video", "video/3gpp"),
        (rb"....ftyp(isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4|MSNV|f4v )", "video", "video/mp4"),
        (rb"%PDF-", "file", "application/pdf"),
        (rb"PK\x03\x04|PK\x05\x06", "file", "application/zip"),
    )
)


def type_of(head: bytes) -> MediaType:
    """The format of a file that begins with ``head``, its first :data:`HEAD_BYTES`."""
    for pattern, found in _BEGINNINGS:
        if pattern.match(head):
            if found.type == "video/webm" and _has_only_sound(head):
                return MediaType("voice", "audio/webm")
            return found
    return UNKNOWN


def _has_only_sound(head: bytes) -> bool:
    """Whether a WebM file, as browsers record voice, names an audio codec and no video codec."""
    return bool(re.search(rb"A_(OPUS|VORBIS)", head)) and b"V_" not in head


WORK_SECONDS: Final = 60.0
"""Time limit for one picture, which may have ``pictures.CPU_SECONDS`` of CPU time."""
_IDLE_SECONDS: Final = 60.0
_END_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 0.01
_ANSWER_BYTES: Final = 4096
_answer: Final = msgspec.json.Decoder(Picture | None)
_encode: Final = msgspec.json.Encoder().encode


class PictureTooCostly(ImserverError):
    """A picture needs more CPU time than one may have."""


class Turns:
    """The turns of users at one thing: apps in turn, and in each app its users in turn. Owner of the queue.

    Their number is that of the uploads that are open.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, dict[str, deque[Event]]] = {}

    @contextmanager
    def take(self, app: str, user: str) -> Iterator[None]:
        """Context of one turn. Switches."""
        if self._is_taken:
            self._wait(app, user)
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _wait(self, app: str, user: str) -> None:
        turn = Event()
        queue = self._waiting.setdefault(app, {}).setdefault(user, deque())
        queue.append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_on()
            else:
                queue.remove(turn)
            raise

    def _pass_on(self) -> None:
        self._is_taken = False
        while self._waiting:
            app, users = next(iter(self._waiting.items()))
            user, queue = next(iter(users.items()))
            del self._waiting[app], users[user]
            turn = queue.popleft() if queue else None
            if queue:
                users[user] = queue
            if users:
                self._waiting[app] = users
            if turn is not None:
                self._is_taken = True
                turn.set()
                return


class PictureWorker:
    """Owner of the process that reads pictures: it begins with the first picture, and ends after a minute
    without one. ``pixels``: the longer side of a thumbnail; 0: none are made.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._turns = Turns()
        self.pid = 0
        """The process; 0: there is none. Read-only for others."""
        self._end_signal = 0
        """The signal that has ended the last process; 0: none."""
        self._socket: socket.socket | None = None
        self._end_later: Greenlet[..., object] | None = None

    def look(
        self, path: Path, kind: str, target: Path, cleaned: Path, app: str = "", user: str = ""
    ) -> Picture | None:
        """Measure the picture at ``path``, of media type ``kind``. Write its thumbnail to ``target`` and, if
        it must be turned or has metadata, the picture without them to ``cleaned``.

        ``app``, ``user``: whose picture it is; the pictures of many are read in turn. Returns None if the
        file is not a readable picture. Raises :class:`PictureTooCostly`. Switches.
        """
        task = _encode(PictureTask(str(path), kind, str(target), str(cleaned), self._pixels)) + b"\n"
        with self._turns.take(app, user):
            if self._end_later is not None:
                self._end_later.kill()
            try:
                return self._run(task)
            finally:
                self._end_later = gevent.spawn_later(_IDLE_SECONDS, self._end)

    def _run(self, task: bytes) -> Picture | None:
        for _ in range(2):  # a process that has ended meanwhile is started again
            try:
                answer = self._exchanged(task)
            except TimeoutError:
                self._kill()
                return None
            except OSError:
                answer = b""
            except BaseException:
                self._kill()  # its answer would be taken for that to the next order
                raise
            if answer:
                found: Picture | None = _answer.decode(answer)
                return found
            self._kill()
            if self._end_signal == signal.SIGPROF:
                raise PictureTooCostly("the picture takes more CPU time than one may have")
        return None

    def _exchanged(self, task: bytes) -> bytes:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        with gevent.Timeout(WORK_SECONDS, TimeoutError):
            self._socket.sendall(task)
            return self._socket.recv(_ANSWER_BYTES)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            # By its path: the package would import the whole server.
            command = [sys.executable, "-P", pictures.__file__]
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)]
            self.pid = os.posix_spawn(command[0], command, _environment(), file_actions=actions)
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
        """Let the process end, which it does without its socket."""
        pid, self.pid = self.pid, 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        until = monotonic() + _END_SECONDS
        while pid and not self._has_ended(pid):
            if monotonic() > until:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            gevent.sleep(_STEP_SECONDS)

    def _has_ended(self, pid: int) -> bool:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return True
        self._end_signal = os.WTERMSIG(status) if found == pid and os.WIFSIGNALED(status) else 0
        return found == pid

    def close(self) -> None:
        """End the process."""
        if self._end_later is not None:
            self._end_later.kill()
        self._kill()


def _environment() -> dict[str, str]:
    """The environment of the process: it finds the packages that this process has found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
