"""How long each kind of work took on all nodes, and temporary changes of their
logs."""

from __future__ import annotations

import logging
from time import time
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.watch.calls import CallRule, Calls, LevelFilter
from imserver.operate.watch.declared import TracingSettings
from imserver.plugin import Parts
from imserver.plugin.http import Api, about
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Erasure

if TYPE_CHECKING:
    from imserver.operate.watch.tracing import Tracer

_all: Final = logging.getLogger("imserver")
SLOW_FOR: Final = 3600.0
"""How long the slowest is kept, in seconds."""
_LOOK_SECONDS: Final = 5.0
_LIKENESS: Final = 0.6
"""How similar the name of a part must be to a wrong name, from 0 to 1."""

Kind = Literal["requests", "commands", "transactions", "jobs"]
Level = Literal["debug", "info", "warning", "error"]
Order = Literal["slowest", "seconds", "count"]


class Timing(Struct):
    """The time that a kind of call took on a node since its start."""

    node: Annotated[str, about("The name of the node.")]
    kind: Annotated[
        Kind,
        about(
            "`requests` by the path of their route; `commands` of clients; "
            "`transactions` of the database, including their waiting time; `jobs`: "
            "periodic work."
        ),
    ]
    name: Annotated[str, about("The route, command, method or job.")]
    count: Annotated[int, about("The number of calls.")]
    seconds: Annotated[float, about("The total time of all calls, in seconds.")]
    slowest: Annotated[
        float,
        about("The slowest call of the last hour, in seconds; 0: no call took 25 ms."),
    ]
    time: Annotated[
        float, about("When the slowest call ended, in Unix seconds; 0: none.")
    ]
    by: Annotated[
        str,
        about(
            "Who made the slowest call: a principal, as in the log, or the address of "
            "a connection."
        ),
    ]
    request: Annotated[str, about("The id of the slowest request, as in the log.")]


class LogWish(Struct, frozen=True, array_like=True):
    """A temporary change of the log. Fields that are None stay as configured.

    ``level`` is the least level of lines. ``part`` is the part of the server
    with this level; ``""`` means all. ``share`` is the share of requests, or of
    calls with the ``name``, that get a line. ``seconds`` is how long the change
    lasts; 0 ends an earlier change. ``name`` restricts the change to calls with
    this name (:class:`Calls`); ``""`` means all. ``trace`` is the share of
    these calls with a trace.
    """

    level: Level | None
    part: str
    share: float | None
    seconds: float
    name: str = ""
    trace: float | None = None


class LogState(Struct, frozen=True):
    """The current temporary change of the log on the node that answers; null:
    as in the settings."""

    level: Level | None
    part: Annotated[
        str,
        about("The part of the server to which the level applies; empty: all parts."),
    ]
    name: Annotated[str, about("The route or command; empty: all calls.")]
    share: Annotated[float | None, about("The share of requests that get a log line.")]
    trace: Annotated[float | None, about("The share of calls with a trace.")]
    until: Annotated[float, about("When the change ends, in Unix seconds.")]


class Watch:
    """Tells how long work took on all nodes, and changes their logs for a
    while.

    A change of the log is a :class:`LogWish`. It ends by itself. Methods switch
    greenlets.
    """

    def __init__(self, core: Core, tracer: Tracer | None = None) -> None:
        """Answer queries of other nodes for timings, and for changes of the
        log."""
        self._core = core
        self._request_log = core.node.request_log
        self._settings = core.config.log
        self.log_state: LogState | None = None
        """The temporary change that applies now. None means: as configured."""
        self._logger = _all
        """The logger whose level was changed last."""
        self._filter = logging.Filter()
        """The filter that handlers have during a change for some calls."""
        self.calls = Calls(core, tracer)
        self.trace: float | None = None
        """The configured share of calls with a trace. None if traces are
        off."""
        if tracer is not None:
            self.trace = settings_of(core.config, TracingSettings).share
        core.queries.add("watch.timings", NoneType, self._timings_here)
        core.queries.add("watch.log", LogWish, self._log_here)
        core.queries.add("watch.forget", str, self._forget_here)

    def timings(self) -> tuple[list[Timing], list[str]]:
        """How long each kind of work took, and the nodes that did not answer."""
        others, missing = self._core.ask_others("watch.timings", None, list[Timing])
        rows = self._timings_here()
        for rows_of_node in others.values():
            rows += rows_of_node
        return rows, missing

    def nearest(self, part: str) -> list[str]:
        """The parts of the server whose names are most similar to this one.

        If there is a part with exactly this name, the result has only this
        part. Python's loggers know the parts: each module has a logger with its
        name.
        """
        from difflib import get_close_matches  # on first use: only for wrong names

        parts = [name.removeprefix("imserver.") for name in _all.manager.loggerDict]
        if part in parts:
            return [part]
        return get_close_matches(part, parts, cutoff=_LIKENESS)

    def log(self, wish: LogWish) -> list[str]:
        """Change the logs of all nodes; returns the nodes that did not answer."""
        self._log_here(wish)
        _, missing = self._core.ask_others("watch.log", wish, bool)
        return missing

    def look(self) -> None:
        """Forget slow work of long ago, and end a change of the log whose time
        is over."""
        before = time() - SLOW_FOR
        for timings in self._core.metrics.timings.values():
            timings.forget(lambda slow: slow.time < before)
        if self.log_state and time() >= self.log_state.until:
            self.follow_settings()

    def forget(self, app: str, user: str, _name: str) -> None:
        """Forget, on all nodes that answer, that a deleted user made the
        slowest call."""
        person = f"{app}/{user}"
        self._forget_here(person)
        self._core.ask_others("watch.forget", person, bool)

    def _forget_here(self, person: str) -> bool:
        """Forget the slowest calls of a person (``APP/USER``) on this node."""
        # Requests that were not added up yet may name the person, too.
        self._request_log.flush()
        for timings in self._core.metrics.timings.values():
            # ``by`` is such as ``staff:APP/USER``.
            timings.forget(lambda slow: slow.by.partition(":")[2] == person)
        return True

    def _timings_here(self, _query: None = None) -> list[Timing]:
        """The timings of this node, also as the answer to a query of another
        node."""
        # Count what was measured but not added up yet.
        self._request_log.flush()
        self._core.metrics.commands.fold()
        node = self._core.node_name
        rows = []
        for kind, timings in self._core.metrics.timings.items():
            for name, histogram in timings.items():
                row = Timing(
                    node=node,
                    kind=kind,  # type: ignore[arg-type]
                    name=name,
                    count=sum(histogram.counts),
                    seconds=histogram.total,
                    slowest=0.0,
                    time=0.0,
                    by="",
                    request="",
                )
                # Only slow calls are remembered, and only for a while.
                slow = timings.slowest.get(name)
                if slow:
                    row.slowest = slow.seconds
                    row.time = slow.time
                    row.by = slow.by
                    row.request = slow.request
                rows.append(row)
        return rows

    def _log_here(self, wish: LogWish) -> bool:
        """Change the log of this node, in place of an earlier change.

        Returns True, as the answer to a query of another node.
        """
        self.follow_settings()
        if not wish.seconds:
            return True
        self.log_state = LogState(
            level=wish.level,
            part=wish.part,
            name=wish.name,
            share=wish.share,
            trace=wish.trace,
            until=time() + wish.seconds,
        )
        if wish.level is not None:
            self._set_level(wish.level, wish)
        if wish.share is not None:
            self._set_share(wish.share, wish)
        self._watch_calls(wish)
        return True

    def _watch_calls(self, wish: LogWish) -> None:
        """Watch the calls that a wish names, or all calls if it names none."""
        trace = self.trace
        if wish.trace is not None:
            trace = wish.trace
        if not wish.name:
            self.calls.apply(name="", rule=CallRule(trace=trace), others=CallRule())
            return
        # Calls with this name follow the wish, all others follow the settings.
        own_level = wish.level is not None
        rule = CallRule(own_level, lines=wish.share or 0.0, trace=trace)
        self.calls.apply(wish.name, rule, others=CallRule(trace=self.trace))

    def _set_level(self, name: Level, wish: LogWish) -> None:
        """Write lines from this level on.

        If the wish names a part or calls, the level is only for these; other
        code keeps the level that it had.
        """
        self._logger = _all
        if wish.part:
            self._logger = _all.getChild(wish.part)
        before = self._logger.getEffectiveLevel()
        level = logging.getLevelNamesMapping()[name.upper()]
        if not wish.name:
            self._logger.setLevel(level)
            return
        self._filter_lines(level, before)

    def _filter_lines(self, level: int, before: int) -> None:
        """Write lines from ``level`` on for some calls, and from ``before`` on
        for other code.

        The logger passes on the lines that the calls or other code need. A
        filter of the handlers then removes records that nobody wants.
        """
        self._logger.setLevel(min(level, before))
        self._filter = LevelFilter(self._logger.name, level, before)
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._filter)

    def _set_share(self, share: float, wish: LogWish) -> None:
        """Write a line for this share of requests.

        If the wish names calls, the share is for these, and other requests
        follow the settings.
        """
        log = self._request_log
        if wish.name:
            log.shares = {wish.name: share}
            share = 0.0
            if self._settings.requests:
                share = self._settings.request_share
        log.settings = replace(self._settings, requests=True, request_share=share)

    def serve(self, api: Api) -> Watch:
        """Watch the routes, too. The node calls this when they exist."""
        self.calls.api = api
        return self

    def configure(self, config: Config) -> None:
        """Take settings that were read again. They end a temporary change."""
        self._settings = config.log
        if self.trace is not None:
            self.trace = settings_of(config, TracingSettings).share
        self.follow_settings()

    def follow_settings(self) -> None:
        """Log and trace as configured, and end a temporary change.

        Is also called at the start, when the routes exist. Never switches
        greenlets.
        """
        if self.log_state:
            self._logger.setLevel(logging.NOTSET)
            _all.setLevel(self._settings.level.upper())
            for handler in logging.getLogger().handlers:
                handler.removeFilter(self._filter)
            self._request_log.settings = self._settings
            self._request_log.shares = {}
            self.log_state = None
        rule = CallRule(trace=self.trace)
        self.calls.apply(name="", rule=rule, others=CallRule())


def build(core: Core) -> Parts:
    """Build the service that watches a node.

    If ``tracing.endpoint`` is set, it also sends traces.
    """
    tracer = None
    stop = Parts().stop  # does nothing
    endpoint = settings_of(core.config, TracingSettings).endpoint
    if endpoint:
        from imserver.operate.watch.tracing import Tracer  # most nodes start without it

        tracer = Tracer(core, endpoint)
        stop = tracer.stop
    watch = Watch(core, tracer)
    look = every(_LOOK_SECONDS, watch.look, "the log stays as it is")
    return Parts(
        (watch, Erasure(frozenset(), watch.forget, _forget_nobody)),
        run=(watch.follow_settings, look),
        configure=watch.configure,
        stop=stop,
    )


def _forget_nobody(_app: str) -> None:
    """Do nothing: the slowest calls of a deleted app stay for an hour."""
