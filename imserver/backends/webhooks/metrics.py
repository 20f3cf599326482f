"""The metrics of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from imserver.backends.webhooks.parts import webhooks_of

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric

_EVENTS: Final = {
    "delivered": "Events that back ends and URLs of bots accepted",
    "failures": "Requests to them that failed",
    "dropped": "Events dropped before they were accepted",
}
_AUTHORISE: Final = {
    "asked": "Logins for which a back end was asked",
    "refused": "Logins that back ends refused",
    "undecided": "Logins refused because the back end did not answer in time",
}
_REVIEWS: Final = {
    "asked": "Messages and files for which a back end was asked",
    "replaced": "Messages that back ends replaced",
    "rejected": "Messages and files that back ends rejected",
    "undecided": "Messages and files that no back end reviewed in time",
}
_DECISIONS: Final = {
    "asked": "Decisions about clients, and calls of their methods, for which a back end was asked",
    "failed": "Those without a valid answer in time",
}


def _read(path: str) -> Callable[[Any], Any]:
    """Return a function that reads a value of a node's webhooks.

    ``path``: such as ``reviews.asked``, from the webhooks on.
    """
    value_of = attrgetter(path)

    def read(node: Any) -> Any:
        """Read the value at a scrape."""
        return value_of(webhooks_of(node))

    return read


def rows() -> tuple[Metric, ...]:
    """Return the metrics of webhooks. Called at the first scrape.

    Most counters are attributes of one name and have one label, the app.
    """
    from imserver.plugin.metrics import Metric  # most nodes start without it

    def counters(prefix: str, path: str, helps: Mapping[str, str]) -> Iterator[Metric]:
        """Make a counter for each attribute that ``helps`` names."""
        for name, help_ in helps.items():
            yield Metric(
                f"{prefix}_{name}_total",
                "counter",
                help_,
                _read(f"{path}.{name}"),
                label="app",
            )

    waiting = Metric(
        "imserver_webhook_waiting",
        "gauge",
        "Events that wait to be sent to back ends and bots",
        _read("tally.waiting"),
        label="app",
    )
    waiting_bytes = Metric(
        "imserver_webhook_waiting_bytes",
        "gauge",
        "Bytes of these events, of all apps",
        _read("tally.waiting_bytes"),
    )
    backlog = Metric(
        "imserver_webhook_backlog",
        "gauge",
        "Durable events, and entries of logs, that this node has to deliver",
        _read("feeds.backlog"),
        label="app",
    )
    return (
        waiting,
        waiting_bytes,
        backlog,
        *counters("imserver_webhook", "tally", _EVENTS),
        *counters("imserver_authorise", "back_ends.authoriser", _AUTHORISE),
        *counters("imserver_review", "reviews", _REVIEWS),
        *counters("imserver_back_end", "back_ends", _DECISIONS),
    )
