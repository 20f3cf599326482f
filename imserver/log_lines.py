"""What a line of the log looks like, as text or as JSON, and who writes it to a file or the console."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

import msgspec

_STDERR: Final = 2
_IDS: Final = ("connection", "request")
_PIPE_BYTES: Final = 4096

# Text from clients may hold anything: what could fake a line or drive a terminal is shown escaped.
_ESCAPES: Final = {
    code: repr(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F))
}

_log = logging.getLogger("imserver.logs")


class Stamps:
    """Local times as ``2026-01-31T12:00:00.123+08:00``, with the costly part made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._head = self._zone = ""

    def __call__(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            local = time.localtime(second)
            zone = time.strftime("%z", local)
            self._head, self._zone = time.strftime("%Y-%m-%dT%H:%M:%S", local), f"{zone[:3]}:{zone[3:]}"
            self._second = second
        return f"{self._head}.{int((moment - second) * 1000):03d}{self._zone}"


def shown(text: str) -> str:
    """Text that may come from a client, as it stands in a line."""
    return text if text.isprintable() else text.translate(_ESCAPES)


class TextFormatter(logging.Formatter):
    """One readable line a record; traceback and detail follow it."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = f" node={node}" if node else ""
        self._stamp = Stamps()

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().translate(_ESCAPES) + self._node
        ids = "".join(f" {key}={_plain(record, key)}" for key in _IDS if getattr(record, key, None))
        line = f"{self._stamp(record.created)} {record.levelname:<7} {record.name}: {message}{ids}"
        blocks = [line, getattr(record, "detail", None)]
        if record.exc_info:
            blocks.append(self.formatException(record.exc_info))
        return "\n".join(block for block in blocks if block)


def _plain(record: logging.LogRecord, key: str) -> str:
    return str(getattr(record, key)).translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message; node, ids, detail and traceback if any."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = {"node": node} if node else {}
        self._stamp = Stamps()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self._stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._node,
        }
        for key in (*_IDS, "detail"):
            if getattr(record, key, None):
                line[key] = str(getattr(record, key))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return as_json(line).decode()


def as_json(line: dict[str, Any]) -> bytes:
    """A line as a JSON object, whatever its texts hold."""
    try:
        return msgspec.json.encode(line)
    except UnicodeEncodeError:  # lone surrogates, from bytes that were no UTF-8
        return msgspec.json.encode({k: _encodable(v) if isinstance(v, str) else v for k, v in line.items()})


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class LineHandler(logging.Handler):
    """Writes whole lines to a descriptor it can re-open; O_APPEND keeps lines of several writers apart.

    Lines that cannot be written (disk full, terminal gone) harm nobody; how many were ``lost`` is said later.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.lost = 0
        self._path = path
        self._descriptor = self._open() if path else _STDERR

    def _open(self) -> int:
        folder = Path(self._path).parent
        if not folder.exists():
            folder.mkdir(parents=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # a record that cannot be formatted
            self.handleError(record)

    def write(self, lines: bytes) -> None:
        """Write bytes that end with a line end. Does not switch to another greenlet."""
        if not self._put(lines):
            self.lost += lines.count(b"\n")
        elif self.lost:
            lost, self.lost = self.lost, 0
            note = _log.makeRecord(
                _log.name, logging.WARNING, "", 0, "%d lines could not be written", (lost,), None
            )
            self._put(f"{self.format(note)}\n".encode())

    def _put(self, lines: bytes) -> bool:
        try:
            while lines:
                lines = lines[os.write(self._descriptor, lines if self._path else _whole_lines(lines)) :]
        except OSError:
            return False
        return True

    def reopen(self) -> None:
        """Open the file anew, after it was moved away. On failure the old one stays in use: OSError."""
        if self._path:
            fresh = self._open()
            os.close(self._descriptor)
            self._descriptor = fresh

    def close(self) -> None:
        if self._path and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()


def _whole_lines(lines: bytes) -> bytes:
    """As many lines as a pipe takes at once, so that those of several processes do not mix in it."""
    if len(lines) <= _PIPE_BYTES:
        return lines
    end = lines.rfind(b"\n", 0, _PIPE_BYTES) + 1 or lines.find(b"\n") + 1
    return lines[:end]


INTERVAL_SECONDS: Final = 60.0


class RateLimitedLog:
    """A warning that may occur thousands of times a second: logged once a minute.

    ``text`` is a logging format; the number of suppressed lines is appended.
    """

    __slots__ = ("_clock", "_log", "_next", "_suppressed", "_text")

    def __init__(self, log: logging.Logger, text: str, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._text = text
        self._clock = clock
        self._next = 0.0
        self._suppressed = 0

    def __call__(self, *arguments: object) -> None:
        """Log the warning, or count it as suppressed."""
        now = self._clock()
        if self._next and now < self._next:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more since the last one)" if self._suppressed else ""
        self._log.warning(self._text + "%s", *arguments, more)
        self._next = now + INTERVAL_SECONDS
        self._suppressed = 0
