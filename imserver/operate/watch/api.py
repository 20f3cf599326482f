"""``/api/v1/nodes/timings`` and ``/api/v1/nodes/log``."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.operate.watch.slow import Level, LogState, LogWish, Order, Timing, Watch
from imserver.plugin.http import ApiProblem, Call, Resource, about
from imserver.plugin.identity import Needs

_LOG_SECONDS: Final = 600
_Missing = Annotated[list[str], about("Nodes that did not answer in time.")]


class TimingsQuery(Struct, forbid_unknown_fields=True):
    """Which of them, and how many."""

    order: Annotated[
        Order,
        about(
            "`slowest` of the last hour; `seconds`: all of them together; `count`: how often."
        ),
    ] = "slowest"
    limit: Annotated[int, about("The most timings of the answer.", ge=1, le=1000)] = 100


class TimingsAnswer(Struct):
    """How long everything took, on all nodes."""

    timings: list[Timing]
    missing_nodes: _Missing
    log: LogState | None = None


class LogDone(Struct):
    """It was told to all nodes."""

    seconds: Annotated[int, about("For how long; 0: the settings apply again.")]
    missing_nodes: _Missing


routes = Resource(
    "watch",
    service=lambda core, api: core.service(Watch).serve(api),
    chapter="How long everything took, and how much the nodes log for a while.",
    hot=False,
    need=Needs.ADMIN,
)


@routes.get("/nodes/timings", reach="all")
def timings(watch: Watch, call: Call, request: TimingsQuery) -> TimingsAnswer:
    """Show how long requests, commands, transactions and jobs took, and the
    slowest of each.

    They count since the start of each node. `/metrics` has the same as
    histograms.
    """
    rows, missing = watch.timings()
    rows.sort(key=lambda row: (getattr(row, request.order), row.seconds), reverse=True)
    return TimingsAnswer(rows[: request.limit], missing, watch.log_state)


@routes.post(
    "/nodes/log",
    schema=("LogRequest", "What the nodes log, and for how long."),
    reach="all",
)
def log(
    watch: Watch,
    call: Call,
    level: Annotated[
        Level | None, about("The least level of lines; null: as the settings say.")
    ] = None,
    part: Annotated[
        str,
        about(
            "The part of the server that this level is for, as lines of the log name it without `imserver.`: "
            "`gateway.cluster`; empty: all.",
            max_length=128,
            pattern=r"^[a-z0-9_.]*$",
        ),
    ] = "",
    share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        about(
            "The share of requests that get a line, or of commands with this `name`; null: as the settings "
            "say."
        ),
    ] = None,
    seconds: Annotated[
        int,
        about("For how long; 0: end it, so that the settings apply.", ge=0, le=86_400),
    ] = _LOG_SECONDS,
    name: Annotated[
        str,
        about(
            "Only calls with this name, as `nodes/timings` has it: a route, `/api/v1/push`, or a command of "
            "clients, `Login`; empty: all.",
            max_length=256,
        ),
    ] = "",
    trace: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        about("The share of calls with a trace; null: as the settings say."),
    ] = None,
) -> LogDone:
    """Let all nodes log more, or less, for a while.

    A later call replaces it; so does a reload of the settings.
    """
    if part:
        _require_part(watch, part)
    if seconds and level is None and share is None and trace is None:
        raise ApiProblem.invalid("it names neither `level` nor `share` nor `trace`")
    if trace is not None and watch.trace is None:
        raise ApiProblem.invalid(
            "`trace`: `tracing.endpoint` of the settings names no collector"
        )
    if name and not watch.calls.has(name):
        raise ApiProblem.invalid("`name`: there is no such route or command")
    missing = watch.log(LogWish(level, part, share, seconds, name, trace))
    return LogDone(seconds, missing)


def _require_part(watch: Watch, part: str) -> None:
    """Refuse the name of a part that the server does not have, and name similar
    ones."""
    nearest = watch.nearest(part)
    if nearest == [part]:
        return
    if nearest:
        near = f"the nearest: {', '.join(nearest)}"
    else:
        near = "they are named as `gateway.cluster`"
    raise ApiProblem.invalid(f"`part`: there is no {part}; {near}")
