"""The features of the nodes of a cluster, and the differences between nodes
that a cluster allows.

Nodes of two releases are one cluster, and a newer release has more features. So
a node is not refused because its release does not know a feature. The feature
works on the nodes that have it, until the older nodes are replaced.

If both releases know a feature, and one node leaves it out by the setting
``features``, the nodes may disagree. A feature with tables changes what is
stored, and a dialect defines the meaning of user ids and of channel names.
Either all nodes have such a feature or none, as far as they know it.
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
"""The features of version 1.0 that either all nodes have or no node. Nodes of
1.0 do not say which features they leave out."""


class NodeFeatures(Struct, frozen=True):
    """The features of a node, as its lease has them.

    ``names``: all of them. ``left_out``: features that its release knows but
    the node does not have. Of each of them, either all nodes have it or no
    node. ``for_older``: the list for nodes of 1.0, which refuse a node with
    another list than their own. It lacks the features that 1.0 does not know.
    All are sorted names with spaces between.
    """

    names: str
    left_out: str = ""
    for_older: str = ""


def names_of(lease: Lease) -> frozenset[str]:
    """The features of a node; empty if its release does not name them."""
    return frozenset((lease.all_features or lease.feature_names).split())


def absent_features(own: Lease, others: Iterable[Lease]) -> dict[str, frozenset[str]]:
    """Node → the features of this node that the other node does not have. Nodes
    that do not name their features are left out."""
    own_names = names_of(own)
    absent = {}
    for lease in others:
        names = names_of(lease)
        if names and not own_names <= names:
            absent[lease.node] = own_names - names
    return absent
