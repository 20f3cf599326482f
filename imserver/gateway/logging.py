"""Logging of a process: line formats, the log file, and the request log.

Everything uses the standard library's ``logging``, except the request log
(:class:`RequestLog`). The fast push routes write to the request log, so it
collects its lines first. Use ``extra={"connection": …, "request": …}`` to name
the connection or request of a line, and ``extra={"detail": text}`` for
multi-line details.
"""

import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from random import getrandbits, random
from time import monotonic
from types import TracebackType
from typing import Any, Final

import msgspec
from gevent.hub import Hub
from msgspec import Struct, field

from imserver.gateway.config.settings import Config, LogSettings
from imserver.gateway.errors import StartError
from imserver.gateway.metrics import OTHER, SLOW_SECONDS, Timings

_REQUEST_LOGGER: Final = "imserver.request"
_SLOW_SECONDS: Final = 1.0
"""A request that takes at least this long always gets a line."""
_PIPE_BYTES: Final = 4096
"""How many bytes a pipe accepts atomically."""
_STANDARD_ERROR: Final = 2
_LOG_FILE_MODE: Final = 0o640
_MILLISECONDS: Final = 1000
"""Milliseconds in a second."""
_LINES_TOGETHER: Final = 250
"""How many lines of requests are formatted together, which takes 0.25 ms."""
_BY_CHARACTERS: Final = 128
"""Limit of the name of a principal in a line."""
_REQUEST_ID_BITS: Final = 64
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}", re.ASCII)

_MIDDLES: Final = 256
_MIDDLE_CHARACTERS: Final = 256
"""Limit of cached middle parts of request log lines, and the longest of them in
characters."""
_Entry = tuple[float, str, str, int, float, str, int, str, str, str]
"""An answered request: its time, then the arguments of
:meth:`RequestLog.add`."""

_NOBODY: Final = "nobody"
"""The label of a principal that has proved nothing."""
_IDS: Final = ("connection", "request")

# Text from clients may contain anything. Characters that could fake a line or
# control a terminal are escaped: the characters of C0 and C1, line and
# paragraph separators, and characters that change the direction of text.
_ESCAPES: Final = {
    code: repr(chr(code))[1:-1]
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
    )
}

_log = logging.getLogger(__name__)


class Stamps:
    """Formats times in Unix seconds, such as ``2026-01-31T12:00:00.123+08:00``.

    The texts have the local time. Formatting is expensive, so all parts except
    the milliseconds are formatted only once per second.
    """

    def __init__(self) -> None:
        """Begin without a formatted second."""
        self._second = -1
        self._head = ""
        self._zone = ""

    def __call__(self, moment: float) -> str:
        """Format a time in Unix seconds.

        The text before the milliseconds and the time zone are formatted again
        only if the second has changed.
        """
        second = int(moment)
        if second != self._second:
            local = time.localtime(second)
            # "+0800" becomes "+08:00".
            zone = time.strftime("%z", local)
            self._head = time.strftime("%Y-%m-%dT%H:%M:%S", local)
            self._zone = f"{zone[:3]}:{zone[3:]}"
            self._second = second
        milliseconds = int((moment - second) * _MILLISECONDS)
        return f"{self._head}.{milliseconds:03d}{self._zone}"


def shown(text: str) -> str:
    """Escape text that may come from a client, for a log line."""
    if text.isprintable():
        return text
    return text.translate(_ESCAPES)


class TextFormatter(logging.Formatter):
    """Formats a record as one readable line, before traceback and detail."""

    def __init__(self, node: str) -> None:
        """Prepare the name of the node for each line; ``""``: no name."""
        super().__init__()
        self._node = ""
        if node:
            self._node = f" node={node}"
        self._stamp = Stamps()

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as text.

        The message is always one line, because line ends in it are escaped.
        Details and tracebacks follow on lines of their own.
        """
        stamp = self._stamp(record.created)
        message = record.getMessage().translate(_ESCAPES)
        line = f"{stamp} {record.levelname:<7} {record.name}: {message}{self._node}"
        for key in _IDS:
            value = getattr(record, key, None)
            if value:
                line += f" {key}={str(value).translate(_ESCAPES)}"
        # Details and tracebacks have several lines.
        blocks = [line, getattr(record, "detail", None)]
        if record.exc_info:
            blocks.append(self.formatException(record.exc_info))
        return "\n".join(block for block in blocks if block)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line.

    The object has time, level, logger and message. It also has node, ids,
    detail and traceback, if the record has them.
    """

    def __init__(self, node: str) -> None:
        """Prepare the name of the node for each line; ``""``: no name."""
        super().__init__()
        self._node = {}
        if node:
            self._node = {"node": node}
        self._stamp = Stamps()

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line of JSON.

        ``connection``, ``request`` and ``detail`` are there if the call has
        given them as ``extra``.
        """
        line: dict[str, Any] = {
            "time": self._stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._node,
        }
        # Set by "extra" in the call.
        for key in (*_IDS, "detail"):
            value = getattr(record, key, None)
            if value:
                line[key] = str(value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return as_json(line).decode()


def as_json(line: dict[str, Any]) -> bytes:
    """Encode a line as a JSON object, even if its texts are not valid Unicode.

    Names of files may have bytes that are not UTF-8. Such bytes are escaped.
    """
    try:
        return msgspec.json.encode(line)
    except UnicodeEncodeError:  # lone surrogates, from bytes that are not UTF-8
        encodable = dict(line)
        for name, value in line.items():
            if isinstance(value, str):
                escaped = value.encode("utf-8", "backslashreplace")
                encodable[name] = escaped.decode()
        return msgspec.json.encode(encodable)


class LineHandler(logging.Handler):
    """Writes whole lines to a log file, or to standard error.

    The file can be opened again after it was moved. O_APPEND separates the
    lines of several processes. Lines that cannot be written (disk full,
    terminal closed) are counted in ``lost``, and the number is logged later.
    """

    def __init__(self, path: str) -> None:
        """Open the file at ``path``. ``""`` means standard error. Raises
        OSError."""
        super().__init__()
        self.lost = 0
        self._path = path
        self._descriptor = _STANDARD_ERROR
        if path:
            self._descriptor = self._open()

    def _open(self) -> int:
        """Open the file, or create it with its folder. Raises OSError."""
        folder = Path(self._path).parent
        if not folder.exists():
            folder.mkdir(parents=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, _LOG_FILE_MODE)

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record and write it."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")
            self.write(line + b"\n")
        except Exception:  # a record that cannot be formatted
            self.handleError(record)

    def write(self, lines: bytes) -> None:
        """Write bytes that end with a line end. Never switches greenlets."""
        if not self._put(lines):
            self.lost += lines.count(b"\n")
        elif self.lost:
            self._report_lost()

    def _report_lost(self) -> None:
        """Write how many lines could not be written before."""
        lost = self.lost
        self.lost = 0
        # The logging module would call this handler again, so the line is made
        # here.
        note = _log.makeRecord(
            _log.name,
            logging.WARNING,
            fn="",
            lno=0,
            msg="%d lines could not be written",
            args=(lost,),
            exc_info=None,
        )
        self._put(f"{self.format(note)}\n".encode())

    def _put(self, lines: bytes) -> bool:
        """Write bytes that end with a line end.

        Returns False if they cannot all be written.
        """
        try:
            while lines:
                end = len(lines)
                if not self._path and end > _PIPE_BYTES:
                    # Standard error may be a pipe of several processes. Write
                    # whole lines, as many as a pipe accepts atomically, so that
                    # the lines of the processes do not mix.
                    end = lines.rfind(b"\n", 0, _PIPE_BYTES) + 1
                    if not end:  # the first line is longer than that
                        end = lines.find(b"\n") + 1
                written = os.write(self._descriptor, lines[:end])
                lines = lines[written:]
        except OSError:
            return False
        return True

    def reopen(self) -> None:
        """Open the file again after it was moved.

        On OSError the old file stays in use.
        """
        if self._path:
            new_descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = new_descriptor

    def close(self) -> None:
        """Close the file. Standard error stays open."""
        if self._path and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()


INTERVAL_SECONDS: Final = 60.0


class RateLimitedLog:
    """A warning that may occur thousands of times a second.

    It is logged once a minute. ``text`` is the format of the line. The next
    line says how many lines were suppressed.
    """

    def __init__(
        self, log: logging.Logger, text: str, clock: Callable[[], float] = monotonic
    ) -> None:
        """Begin with nothing suppressed."""
        self._log = log
        self._text = text
        self._clock = clock
        self._next = 0.0
        self._suppressed = 0

    def __call__(self, *arguments: object) -> None:
        """Log the warning, or count it as suppressed.

        ``arguments`` are for the format. Within a minute of the last line, the
        warning is only counted.
        """
        now = self._clock()
        if self._next and now < self._next:
            self._suppressed += 1
            return
        more = ""
        if self._suppressed:
            more = f" ({self._suppressed} more since the last one)"
        self._log.warning(self._text + "%s", *arguments, more)
        self._next = now + INTERVAL_SECONDS
        self._suppressed = 0


class OncePerMinute(Struct, eq=False):
    """Decides which lines are logged, so that strangers cannot fill the log.

    Each line is logged once per minute, and at most ``_limit`` lines per
    minute. ``_lines`` are the lines of this minute. ``_until`` is the monotonic
    time at which the minute ends.
    """

    _limit: int
    _lines: set[tuple[str, str]] = field(default_factory=set)
    _until: float = 0.0

    def is_new(self, subject: str, cause: str) -> bool:
        """Tell whether to log the line with this subject and cause.

        If so, the line counts as logged.
        """
        now = monotonic()
        if now >= self._until:
            self._lines.clear()
            self._until = now + INTERVAL_SECONDS
        line = (subject, cause)
        if line in self._lines or len(self._lines) >= self._limit:
            return False
        self._lines.add(line)
        return True


def _without_token(path: str) -> str:
    """Return a path for the log, without a token in it.

    Incoming webhooks have a token at the end of their path.
    """
    if path.startswith("/hooks/"):
        return "/hooks/*"
    return path


def request_id(given: str) -> str:
    """Return the client's request id (``X-Request-Id``), or a new one.

    If the given id is missing or invalid, a new id is made.
    """
    if given and _REQUEST_ID.fullmatch(given):
        return given
    return f"{getrandbits(_REQUEST_ID_BITS):016x}"


class RequestLog:
    """The log of HTTP requests, with one line per request.

    A request only appends an entry to a list. The lines are written when 250
    entries wait, and by :meth:`flush`. The node calls :meth:`flush` once a
    second together with its other periodic work, because a timer would wake
    the node more often.
    """

    def __init__(
        self, handler: LineHandler, settings: LogSettings, node: str = ""
    ) -> None:
        """Choose the format of the lines.

        ``handler`` writes the lines. ``node`` is a name in each line. ``""``
        means that lines have no such name.
        """
        self._handler = handler
        self._node = node
        if settings.format == "json":
            self._lines = self._json_lines
        else:
            self._lines = self._text_lines
        self.settings = settings
        """The settings of the log. All settings except the format may
        change."""
        self.shares: Mapping[str, float] = {}
        """Route → the share of its requests that get a line, if it differs from
        the general share. May change."""
        self.timings = Timings()
        """See :attr:`imserver.gateway.metrics.Metrics.requests`."""
        self._stamp = Stamps()
        # Many lines share these parts.
        self._middles: dict[tuple[str, str, str, int], str] = {}
        """Peer, method, path and status → their part of a line, see
        :meth:`_middle`."""
        self._names: dict[str, str] = {}
        """Label of a principal → the end of a line, see :meth:`_name`."""
        self._waiting: list[_Entry] = []
        """The requests that were not counted and written yet."""

    def add(
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        peer: str,
        bytes_out: int,
        request_id: str = "",
        by: str = "",
        route: str = OTHER,
    ) -> None:
        """Add an answered request.

        ``path`` is without the query, which may have tokens. ``seconds`` is the
        time until the answer, and ``bytes_out`` the length of its body. ``by``
        is the label of the principal, or ``""`` if the principal is unknown.
        ``route`` is the path or the pattern of the route. The request is
        counted under this name.
        """
        waiting = self._waiting
        waiting.append(
            (
                time.time(),
                method,
                path,
                status,
                seconds,
                peer,
                bytes_out,
                request_id,
                by,
                route,
            )
        )
        if len(waiting) >= _LINES_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Count the waiting requests, and write their lines.

        Never switches greenlets.
        """
        waiting = self._waiting
        self._waiting = []
        self._count(waiting)
        if not self.settings.requests:
            return
        if self.settings.request_share < 1.0 or self.shares:
            waiting = [entry for entry in waiting if self._gets_line(entry)]
        if waiting:
            self._handler.write(self._lines(waiting))

    def _gets_line(self, entry: _Entry) -> bool:
        """Tell whether a request gets a line.

        Each request that failed or took long gets a line. A share of the other
        requests gets a line, too.
        """
        # An entry is a plain tuple, because each request makes one.
        _, _, _, status, seconds, _, _, _, _, route = entry
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or seconds >= _SLOW_SECONDS:
            return True
        return random() < self.shares.get(route, self.settings.request_share)

    def _count(self, waiting: list[_Entry]) -> None:
        """Count requests by route and time, for the metrics.

        Slow requests are counted one by one, with the principal and the id.
        """
        # Fast requests are counted together: 250 requests of a route take 61 ns
        # each, and one by one they would take 383 ns each.
        fast: defaultdict[str, list[float]] = defaultdict(list)
        for _, _, _, _, seconds, _, _, request, by, route in waiting:
            if seconds < SLOW_SECONDS:
                fast[route].append(seconds)
            else:
                self.timings.took(route, seconds, by, request)
        for route, of_route in fast.items():
            self.timings.took_fast(route, of_route)

    def _text_lines(self, waiting: list[_Entry]) -> bytes:
        """Format requests as lines of text. Example::

        2026-01-31T12:00:00.123+08:00 INFO    imserver.request: 127.0.0.1 POST
        /api/v1/push 200 0.41ms 38B request=8f3c by=key:a1b2
        """
        # Formatting would take a tenth of the time of a push. So parts that
        # many lines share are made once.
        lines = []
        # ``stamp`` is right for the times of one millisecond. At first it is
        # right for no time.
        since = 1.0
        until = 0.0
        stamp = ""
        node = "B"
        if self._node:
            node = f"B node={shown(self._node)}"
        names = self._names
        for (
            moment,
            method,
            path,
            status,
            seconds,
            peer,
            size,
            request,
            by,
            _,
        ) in waiting:
            if not since <= moment < until:
                since = moment
                until = (int(moment * _MILLISECONDS) + 1) / _MILLISECONDS
                stamp = self._stamp(moment)
            middle = self._middles.get((peer, method, path, status))
            if middle is None:
                middle = self._middle(peer, method, path, status)
            if request:
                if not request.isprintable():
                    request = shown(request)
                request = f" request={request}"
            if by:
                name = names.get(by)
                if name is None:
                    name = self._name(by)
                by = name
            milliseconds = seconds * _MILLISECONDS
            lines.append(
                f"{stamp}{middle}{milliseconds:.2f}ms {size}{node}{request}{by}\n"
            )
        return "".join(lines).encode("utf-8", "backslashreplace")

    def _middle(self, peer: str, method: str, path: str, status: int) -> str:
        """Return the part of a line that equal requests of one peer share.

        The part has level, logger, peer, method, path and status. It is cached.
        """
        middle = shown(
            f" INFO    {_REQUEST_LOGGER}: {peer} {method} {_without_token(path)} "
            f"{status} "
        )
        if len(middle) <= _MIDDLE_CHARACTERS:
            if len(self._middles) >= _MIDDLES:
                self._middles.clear()
            self._middles[peer, method, path, status] = middle
        return middle

    def _name(self, by: str) -> str:
        """Return the end of a line, which names the principal: ``
        by=key:a1b2``.

        The result is ``""`` for a principal that has proved nothing. Results
        are cached.
        """
        if by == _NOBODY:
            name = ""
        else:
            # A user id with spaces could look like another field of the line.
            name = " by=" + shown(_cut(by)).replace(" ", r"\x20")
        if len(self._names) >= _MIDDLES:
            self._names.clear()
        self._names[by] = name
        return name

    def _json_lines(self, waiting: list[_Entry]) -> bytes:
        """Format requests as JSON objects, one on each line.

        The objects have the same facts as the lines of text. Empty fields are
        left out.
        """
        lines = []
        for (
            moment,
            method,
            path,
            status,
            seconds,
            peer,
            size,
            request,
            by,
            _,
        ) in waiting:
            line: dict[str, Any] = {
                "time": self._stamp(moment),
                "level": "info",
                "logger": _REQUEST_LOGGER,
                "message": f"{method} {_without_token(path)}",
                "status": status,
                "milliseconds": round(seconds * _MILLISECONDS, 3),
                "bytes": size,
                "peer": peer,
            }
            if self._node:
                line["node"] = self._node
            if request:
                line["request"] = request
            # A principal that has proved nothing has no label.
            if by and by != _NOBODY:
                line["by"] = _cut(by)
            lines.append(as_json(line) + b"\n")
        return b"".join(lines)


def _cut(by: str) -> str:
    """Cut the label of a principal to :data:`_BY_CHARACTERS`."""
    if len(by) <= _BY_CHARACTERS:
        return by
    return f"{by[: _BY_CHARACTERS - 1]}…"


class Logs(Struct, eq=False):
    """The logging of the process, from :func:`open_logs` until
    :meth:`close`."""

    _handler: LineHandler
    requests: RequestLog

    def reopen(self) -> None:
        """Open the log file again after it was moved (log rotation)."""
        self.requests.flush()
        try:
            self._handler.reopen()
        except OSError as error:
            _log.error(
                "the log file cannot be opened again, the old one stays in use: %s",
                error.strerror,
            )

    def close(self) -> None:
        """Write the waiting lines and detach from the root logger."""
        self.requests.flush()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


def open_logs(config: Config, node: str = "") -> Logs:
    """Send all logging of this process to the configured file.

    Without a file, it goes to standard error. ``node`` is a name in each line,
    if several processes write to one place. Raises :class:`StartError` if the
    log file cannot be written.
    """
    handler = _make_handler(config.app.log_file)
    handler.setFormatter(_formatter_of(config, node))
    # Other libraries log from "info" on, and this server as its setting says.
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.getLogger("imserver").setLevel(config.log.level.upper())
    return Logs(handler, RequestLog(handler, config.log, node))


def _make_handler(path: str) -> LineHandler:
    """Make the object that writes lines to a file.

    If ``path`` is ``""``, the object writes to standard error. Raises
    :class:`StartError` if the file cannot be written.
    """
    try:
        return LineHandler(path)
    except OSError as error:
        raise StartError(
            f"app.log_file: {path} cannot be written: {error.strerror}"
        ) from None


def _formatter_of(config: Config, node: str) -> logging.Formatter:
    """Make the object that formats lines as the settings say."""
    if config.log.format == "json":
        return JsonFormatter(node)
    return TextFormatter(node)


def log_greenlet_errors(hub: Hub) -> None:
    """Log the tracebacks of failed greenlets and loop callbacks.

    gevent would print them to standard error.
    """

    def log(
        context: object,
        kind: type[BaseException],
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Log one failure, in place of gevent's function."""
        _log.error("%r failed", context, exc_info=(kind, error or kind(), trace))

    hub.print_exception = log  # type: ignore[method-assign, assignment]
