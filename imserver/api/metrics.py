"""``GET /metrics``: the table of metrics in Prometheus' text format 0.0.4, for all nodes of this machine.

Nodes of one machine share a port, so a scrape reaches any of them; that one asks the others
(:mod:`imserver.services.nodes`) and answers for all, each sample with a label ``node``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from imserver.api.call import Api, Call
from imserver.metrics import Histogram
from imserver.transport.exchange import HttpResponse

if TYPE_CHECKING:
    from imserver.api.metric_table import Metric, Value

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UP: Final = "imserver_node_up"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def metrics(api: Api, _call: Call) -> HttpResponse:
    """``GET /metrics``: all apps, so it takes an admin of all apps."""
    texts, missing = api.services.overview.metrics()
    return HttpResponse(200, merge(texts, missing).encode(), CONTENT_TYPE)


def render(node: Any, name: str) -> str:
    """All metrics of this node, labelled ``name``. Does not switch to another greenlet."""
    # Half a megabyte that a node without scrapes does without.
    from imserver.api.metric_table import METRICS

    lines: list[str] = []
    for metric in METRICS:
        value = metric.read(node)
        if value is not None:
            lines.append(f"# HELP {metric.name} {metric.help}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += _samples(metric, value, _labels(node=name))
    return "\n".join((*lines, ""))


def _samples(metric: Metric, value: Value, labels: str) -> Iterator[str]:
    if isinstance(value, Histogram):
        below = accumulate(value.counts)
        for bound, count in zip((*value.bounds, "+Inf"), below, strict=True):
            yield f"{metric.name}_bucket{{{labels},{_labels(le=bound)}}} {count}"
        yield f"{metric.name}_sum{{{labels}}} {value.total!r}"
        yield f"{metric.name}_count{{{labels}}} {sum(value.counts)}"
    elif isinstance(value, Mapping):
        for key, number in value.items():
            yield f"{metric.name}{{{labels},{_labels(**{metric.label: key})}}} {number!r}"
    else:
        yield f"{metric.name}{{{labels}}} {value!r}"


def _labels(**values: object) -> str:
    return ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in values.items())


def merge(texts: Iterable[str], missing: Iterable[str] = ()) -> str:
    """The metrics of several nodes as one text, in which each metric is described once.

    ``missing`` names nodes that did not answer: for these only the node_up gauge is 0.
    """
    families: dict[str, tuple[dict[str, str], list[str]]] = {}
    for text in texts:
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("#"):
                _, keyword, name, _ = line.split(" ", 3)
                described, samples = families.setdefault(name, ({}, []))
                described.setdefault(keyword, line)
            else:
                samples.append(line)
    if _UP in families:
        families[_UP][1].extend(f"{_UP}{{{_labels(node=name)}}} 0" for name in missing)
    lines = (line for described, samples in families.values() for line in (*described.values(), *samples))
    return "\n".join((*lines, ""))
