"""Fields of many shapes of ``/api/v1``, with their descriptions in the
document."""

from typing import Annotated, Final

from msgspec import Struct

from imserver.gateway.auth.questions import GOCHAT
from imserver.gateway.config.declared import about

USUAL_PAGE: Final = 1000

App = Annotated[str, about("The app: a tenant of this server.", min_length=1)]
"""The type of a field: the app of a request. ``/api/v1`` finds the app by a
field of the name ``app``."""
AnyApp = Annotated[str, about("The app; empty: all apps that the key reaches.")]
User = Annotated[
    str,
    about(
        "The user id with which a user of the app logs in. In a `system:` app, it is "
        "the clientId.",
        min_length=1,
    ),
]
ChannelName = Annotated[
    str,
    about(
        "The name of a channel: 1 to 255 bytes of UTF-8. The part before a colon "
        "is its namespace.",
        min_length=1,
        max_length=255,
        examples=["orders:17"],
    ),
]
PageCursor = Annotated[
    str,
    about(
        "The start of this page: `next` of the previous page.",
        pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
    ),
]
"""The type of a field: where a page of a list begins, as :data:`NextCursor` of
the page before."""
NextCursor = Annotated[
    str, about("The `cursor` of the next page; empty on the last page.")
]
"""The type of a field of an answer: where the next page of a list begins."""
Limit = Annotated[
    int, about("The maximum number of entries on this page.", ge=1, le=10_000)
]
Missing = Annotated[
    list[str],
    about("Nodes that did not answer in time. The answer has no data of these nodes."),
]
AccountApp = Annotated[
    str, about("The app of the accounts; `gochat` for GoChat clients.", min_length=1)
]
"""The type of a field: the app of a request about accounts."""
Behalf = Annotated[
    str,
    about(
        "The acting user. It is usually required with an API key. The token of a user "
        "names its user.",
        max_length=255,
    ),
]


class AppPage(Struct, forbid_unknown_fields=True):
    """An app, and a page of its list."""

    app: App
    cursor: PageCursor = ""
    limit: Limit = USUAL_PAGE


class Acting(Struct, forbid_unknown_fields=True):
    """The user who acts."""

    app: AccountApp = GOCHAT
    user: Behalf = ""
