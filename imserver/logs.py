"""Logging of a process: where its lines go, and its requests.

Everything logs through the standard library's ``logging``; only the request log, which the fast push routes
write to, gathers its lines first (:class:`RequestLog`). Give ``extra={"connection": …, "request": …}``
to name the connection or request of a line, and ``extra={"detail": text}`` for what takes several lines.
"""

import logging
import re
import time
from types import TracebackType
from typing import Any, Final

import gevent
from gevent.hub import Hub

from imserver.config import Config
from imserver.errors import StartError
from imserver.log_lines import JsonFormatter, LineHandler, Stamps, TextFormatter, as_json, shown

_REQUEST_LOGGER: Final = "imserver.request"
_FLUSH_SECONDS: Final = 0.1
_FLUSH_LINES: Final = 1000
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}", re.ASCII)

_MIDDLES: Final = 256
_MIDDLE_CHARACTERS: Final = 256
"""Middles of lines of the request log that are kept, and the longest of them."""
_Entry = tuple[float, str, str, int, float, str, int, str]
"""An answered request: what :meth:`RequestLog.add` was told, behind the moment."""

_log = logging.getLogger(__name__)


def request_id(given: str) -> str:
    """The id that a client gives its request (``X-Request-Id``); ``""`` if it is not fit to be one."""
    return given if _REQUEST_ID.fullmatch(given) else ""


class RequestLog:
    """One line a request; the hot path only appends, one write follows after 100 ms or 1,000 lines."""

    def __init__(self, handler: LineHandler, *, json: bool, enabled: bool = True, node: str = "") -> None:
        self._handler = handler
        self._node = node
        self._lines = self._json_lines if json else self._text_lines
        self._enabled = enabled
        self._stamp = Stamps()
        self._middles: dict[tuple[str, str, str, int], str] = {}
        self._waiting: list[_Entry] = []
        self._timer: Any = None

    def add(
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        peer: str,
        bytes_out: int,
        request_id: str = "",
    ) -> None:
        """Note an answered request. ``path`` comes without its query, which may hold tokens."""
        if not self._enabled:
            return
        waiting = self._waiting
        waiting.append((time.time(), method, path, status, seconds, peer, bytes_out, request_id))
        if len(waiting) == 1:
            if self._timer is None:
                # Repeating: a timer that has fired once would fire at once when it is started again.
                self._timer = gevent.get_hub().loop.timer(0.0, _FLUSH_SECONDS, ref=False)
            self._timer.again(self.flush)
        elif len(waiting) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Does not switch to another greenlet."""
        if self._timer is not None:
            self._timer.stop()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._handler.write(self._lines(waiting))

    def _text_lines(self, waiting: list[_Entry]) -> bytes:
        # A tenth of what a push costs was its line here: what many lines share is made once for all of them.
        lines = []
        last, stamp = -1, ""
        node = f"B node={shown(self._node)}" if self._node else "B"
        for moment, method, path, status, seconds, peer, size, request in waiting:
            if (millisecond := int(moment * 1000)) != last:
                last, stamp = millisecond, self._stamp(moment)
            middle = self._middles.get((peer, method, path, status))
            if middle is None:
                middle = self._middle(peer, method, path, status)
            if request:
                request = f" request={request if request.isprintable() else shown(request)}"
            lines.append(f"{stamp}{middle}{seconds * 1000:.2f}ms {size}{node}{request}\n")
        return "".join(lines).encode("utf-8", "backslashreplace")

    def _middle(self, peer: str, method: str, path: str, status: int) -> str:
        middle = shown(f" INFO    {_REQUEST_LOGGER}: {peer} {method} {path} {status} ")
        if len(middle) <= _MIDDLE_CHARACTERS:
            if len(self._middles) >= _MIDDLES:
                self._middles.clear()
            self._middles[peer, method, path, status] = middle
        return middle

    def _json_lines(self, waiting: list[_Entry]) -> bytes:
        return b"".join([self._json_line(*entry) for entry in waiting])

    def _json_line(
        self,
        moment: float,
        method: str,
        path: str,
        status: int,
        seconds: float,
        peer: str,
        size: int,
        request: str,
    ) -> bytes:
        line: dict[str, Any] = {
            "time": self._stamp(moment),
            "level": "info",
            "logger": _REQUEST_LOGGER,
            "message": f"{method} {path}",
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            "bytes": size,
            "peer": peer,
        }
        if self._node:
            line["node"] = self._node
        if request:
            line["request"] = request
        return as_json(line) + b"\n"


class Logs:
    """The process's logging, from :func:`open_logs` until :meth:`close`."""

    def __init__(self, handler: LineHandler, requests: RequestLog) -> None:
        self.requests = requests
        self._handler = handler

    def reopen(self) -> None:
        """Write to a fresh file, after the old one was moved away (log rotation)."""
        self.requests.flush()
        try:
            self._handler.reopen()
        except OSError as error:
            _log.error("the log file cannot be opened again, the old one stays in use: %s", error.strerror)

    def close(self) -> None:
        """Write what waits and let go of the root logger."""
        self.requests.flush()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


def open_logs(config: Config, node: str = "") -> Logs:
    """Send all logging of this process to where the configuration says.

    ``node`` is named in each line: given where several processes write to one place.
    Raises :class:`StartError` if the log file cannot be written.
    """
    path = config.app.log_file
    try:
        handler = LineHandler(path)
    except OSError as error:
        raise StartError(f"app.log_file: {path} cannot be written: {error.strerror}") from None
    json = config.log.format == "json"
    handler.setFormatter(JsonFormatter(node) if json else TextFormatter(node))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.getLogger("imserver").setLevel(config.log.level.upper())
    requests = RequestLog(handler, json=json, enabled=config.log.requests, node=node)
    return Logs(handler, requests)


def log_greenlet_errors(hub: Hub) -> None:
    """Send the tracebacks of greenlets and loop callbacks that died to the log instead of standard error."""

    def log(
        context: object, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _log.error("%r failed", context, exc_info=(kind, error or kind(), trace))

    hub.print_exception = log  # type: ignore[method-assign, assignment]
