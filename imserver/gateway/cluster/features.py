"""The features of the nodes of a cluster, and the differences with which nodes
can live.

Nodes of two releases are one cluster, and a newer release has more features. So
a feature that the release of a node does not know is no reason to refuse it:
the feature works on the nodes that have it, and waits for the others to be
replaced.

A feature that both releases know, and that one node leaves out by the setting
``features``, is another matter. A feature with tables changes what is stored,
and a dialect says what ids of users and names of channels mean. Either all
nodes have such a feature or none, as far as they know it.
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
"""The features of version 1.0 that all nodes have, or none. Its nodes do not
say what they leave out."""


class NodeFeatures(Struct, frozen=True):
    """The features of a node, as its lease has them.

    ``names``: all of them. ``left_out``: features that its release knows, that
    it does not have, and that all nodes must have, or none. ``for_older``: the
    list for nodes of 1.0, which refuse a node with another list than their own.
    It lacks the features that 1.0 does not know. All are sorted names with
    spaces between.
    """

    names: str
    left_out: str = ""
    for_older: str = ""


def names_of(lease: Lease) -> frozenset[str]:
    """The features of a node; empty: it is of a release that does not name
    them."""
    return frozenset((lease.all_features or lease.feature_names).split())


def absent_features(own: Lease, others: Iterable[Lease]) -> dict[str, frozenset[str]]:
    """Node → the features of this node that it does not have. Nodes that name
    none are left out."""
    own_names = names_of(own)
    absent = {}
    for lease in others:
        names = names_of(lease)
        if names and not own_names <= names:
            absent[lease.node] = own_names - names
    return absent
