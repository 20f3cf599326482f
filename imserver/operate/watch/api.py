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
            "`slowest`: by the slowest call of the last hour. `seconds`: by the total "
            "time. `count`: by the number of calls."
        ),
    ] = "slowest"
    limit: Annotated[
        int, about("The maximum number of timings in the answer.", ge=1, le=1000)
    ] = 100


class TimingsAnswer(Struct):
    """The timings of all nodes."""

    timings: list[Timing]
    missing_nodes: _Missing
    log: LogState | None = None


class LogDone(Struct):
    """All nodes have received the change."""

    seconds: Annotated[
        int,
        about("The duration of the change in seconds. 0: the settings apply again."),
    ]
    missing_nodes: _Missing


routes = Resource(
    "watch",
    service=lambda core, api: core.service(Watch).serve(api),
    chapter=(
        "See how long requests and other work took, and change the log of the "
        "nodes for a limited time."
    ),
    hot=False,
    need=Needs.ADMIN,
)


@routes.get("/nodes/timings", reach="all")
def timings(watch: Watch, call: Call, request: TimingsQuery) -> TimingsAnswer:
    """Show the duration of requests, commands, transactions and jobs, and the
    slowest of each kind.

    The timings count from the start of each node. `/metrics` has the same
    timings as histograms.
    """
    rows, missing = watch.timings()
    # Rows that are equal in the wanted order are ordered by their total time.
    rows.sort(key=lambda row: (getattr(row, request.order), row.seconds), reverse=True)
    return TimingsAnswer(rows[: request.limit], missing, watch.log_state)


@routes.post(
    "/nodes/log",
    schema=("LogRequest", "The temporary change of the log, and its duration."),
    reach="all",
)
def log(
    watch: Watch,
    call: Call,
    level: Annotated[
        Level | None, about("The minimum level of log lines; null: as in the settings.")
    ] = None,
    part: Annotated[
        str,
        about(
            "The part of the server to which the level applies, by its name in the log "
            "without `imserver.`, such as `gateway.cluster`; empty: all parts.",
            max_length=128,
            pattern=r"^[a-z0-9_.]*$",
        ),
    ] = "",
    share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        about(
            "The share of requests, or of commands with this `name`, that get a log "
            "line; null: as in the settings."
        ),
    ] = None,
    seconds: Annotated[
        int,
        about(
            "Duration of the change in seconds. 0 ends it now, so that the "
            "settings apply again.",
            ge=0,
            le=86_400,
        ),
    ] = _LOG_SECONDS,
    name: Annotated[
        str,
        about(
            "Only calls with this name, as in `nodes/timings`: a route such as "
            "`/api/v1/push`, or a command of clients such as `Login`; empty: all "
            "calls.",
            max_length=256,
        ),
    ] = "",
    trace: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        about("The share of calls that get a trace; null: as in the settings."),
    ] = None,
) -> LogDone:
    """Change how much all nodes log, for a limited time.

    A later call replaces the change. A reload of the settings replaces it, too.
    """
    wish = LogWish(
        level=level,
        part=part,
        share=share,
        seconds=seconds,
        name=name,
        trace=trace,
    )
    _check(watch, wish)
    missing = watch.log(wish)
    return LogDone(seconds, missing)


def _check(watch: Watch, wish: LogWish) -> None:
    """Refuse a change of the log that names nothing to change, or names
    something that the server does not have. Raises ApiProblem."""
    if wish.part:
        _require_part(watch, wish.part)
    changes_nothing = wish.level is None and wish.share is None and wish.trace is None
    if wish.seconds and changes_nothing:
        raise ApiProblem.invalid("it names neither `level` nor `share` nor `trace`")
    if wish.trace is not None and watch.trace is None:
        raise ApiProblem.invalid(
            "`trace`: `tracing.endpoint` of the settings names no collector"
        )
    if wish.name and not watch.calls.has(wish.name):
        raise ApiProblem.invalid("`name`: there is no such route or command")


def _require_part(watch: Watch, part: str) -> None:
    """Refuse the name of a part that the server does not have.

    A part is a Python module or package, such as ``gateway.cluster``. The error
    names similar parts. Raises ApiProblem.
    """
    nearest = watch.nearest(part)
    if nearest == [part]:
        return
    if nearest:
        near = f"the nearest: {', '.join(nearest)}"
    else:
        near = "they are named as `gateway.cluster`"
    raise ApiProblem.invalid(f"`part`: there is no {part}; {near}")
