"""The features of the nodes of a cluster, and the differences between nodes
that a cluster allows.

Nodes of two releases are one cluster, and a newer release has more features. So
a node is not refused because its release does not know a feature. The feature
works on the nodes that have it, until the older nodes are replaced.

If both releases know a feature, and one node leaves it out by the setting
``features``, the nodes may disagree. A feature with tables changes what is
stored, and a dialect defines the meaning of user ids and of channel names. So
either all nodes have such a feature or no node has it, among the nodes with a
release that knows it.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from imserver.gateway.cluster.registry import Lease

FIRST_RELEASE: Final = frozenset(
    (
        "accounts",
        "action",
        "admin",
        "audit",
        "bots",
        "centrifuge",
        "client",
        "groups",
        "inbox",
        "invitations",
        "keys",
        "messages",
        "notifications",
        "oauth",
        "pages",
        "protobuf",
        "pusher",
        "quotas",
        "refusals",
        "safety",
        "uploads",
        "webhooks",
    )
)
"""The features of version 1.0."""
_OPTIONAL: Final = frozenset(("admin", "pages", "refusals"))
"""The features of version 1.0 without tables and dialects."""
REQUIRED_OF_FIRST_RELEASE: Final = " ".join(sorted(FIRST_RELEASE - _OPTIONAL))
"""The features of version 1.0 that either all nodes or no node must have. Nodes
of 1.0 do not say which features they leave out."""


class NodeFeatures(Struct, frozen=True):
    """The features of a node, as its lease has them.

    Each field is a list of sorted names with spaces between. ``names`` has all
    features of the node. ``left_out`` has features that the release of the node
    knows but the node does not have. No other node of the cluster may have such
    a feature. ``for_older`` is the list for nodes of 1.0, which refuse a node
    with a list that differs from theirs. The list lacks features that 1.0 does
    not know.
    """

    names: str
    left_out: str = ""
    for_older: str = ""


def names_of(lease: Lease) -> frozenset[str]:
    """Return the features of a node; the set is empty if the release of the
    node does not name its features."""
    return frozenset((lease.all_features or lease.feature_names).split())


def absent_features(own: Lease, others: Iterable[Lease]) -> dict[str, frozenset[str]]:
    """Return the features of this node that other nodes do not have, by their
    node.

    Nodes that have all these features, or that do not name their features, are
    not in the result.
    """
    own_names = names_of(own)
    absent = {}
    for lease in others:
        names = names_of(lease)
        if names and not own_names <= names:
            absent[lease.node] = own_names - names
    return absent
