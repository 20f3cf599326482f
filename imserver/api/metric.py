"""What a metric is, and how it is read off a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal

from msgspec import Struct

from imserver.metrics import Histogram

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram | Mapping[Any, float]
Read = Callable[[Any], Value | None]


class Metric(Struct, frozen=True):
    """One row: what Prometheus calls it, what it is, and how it is read off a node.

    ``read`` gets the node and returns a number, a :class:`Histogram`, or, where ``label`` is given, a number
    for each value of that label; None if this node has no such thing.
    """

    name: str
    kind: Kind
    help: str
    read: Read
    label: str = ""

    @property
    def unit(self) -> str:
        """``"seconds"``, ``"bytes"``, or ``""`` for what is only counted; it stands in the name."""
        return next((unit for unit in ("seconds", "bytes") if unit in self.name.split("_")), "")


def counters(prefix: str, path: str, helps: Mapping[str, str]) -> Iterator[Metric]:
    """A row for each field of the counters at ``path`` of the node; those of a cluster may be missing."""
    read_counters = attrgetter(path)

    def reading(name: str) -> Read:
        if path.startswith("cluster."):
            return lambda node: getattr(read_counters(node), name) if node.cluster is not None else None
        return lambda node: getattr(read_counters(node), name)

    for name, help_ in helps.items():
        yield Metric(f"{prefix}_{name}_total", "counter", help_, reading(name))


def of_cluster(read: Read) -> Read:
    """The same of the node's cluster; None on a node that is alone."""
    return lambda node: read(node.cluster) if node.cluster is not None else None
