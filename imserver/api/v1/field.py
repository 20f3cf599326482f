"""Fields that many shapes of ``/api/v1`` have, with what the document says of them."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.auth.account_tokens import GOCHAT

PAGE_LIMIT: Final = 10_000
"""Most entries of one page of a list."""
USUAL_PAGE: Final = 1000

App = Annotated[str, Meta(min_length=1, description="The app: a tenant of this server.")]
AnyApp = Annotated[str, Meta(description="The app; none: all that the key reaches.")]
User = Annotated[
    str,
    Meta(
        min_length=1,
        description="A user of the app, by the id under which they log in. In a `system:` app that is the "
        "clientId.",
    ),
]
RoomName = Annotated[
    str, Meta(min_length=1, max_length=255, description="The name of a room: 1 to 255 bytes of UTF-8.")
]
ConnectionId = Annotated[
    str, Meta(min_length=1, description="The id of a connection, from presence or rooms.")
]
Cursor = Annotated[
    str,
    Meta(
        pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
        description="Where to go on: `next` of the page before.",
    ),
]
Next = Annotated[str, Meta(description="The `cursor` of the page that follows; empty at the end.")]
Limit = Annotated[int, Meta(ge=1, le=PAGE_LIMIT, description="Most entries of this page.")]
Device = Annotated[str, Meta(description="The name that the device gave itself; empty if it gave none.")]
Dialect = Annotated[str, Meta(description="The protocol that the connection speaks: `cmd`, `client`, …")]
Since = Annotated[int, Meta(description="When the session began, in Unix seconds.")]
Node = Annotated[str, Meta(description="The server process that holds the connection.")]
Missing = Annotated[
    list[str],
    Meta(description="Server processes that did not answer in time: what is theirs is left out."),
]
AccountApp = Annotated[
    str, Meta(min_length=1, description="The app of the accounts; `gochat` where clients of GoChat are.")
]
Behalf = Annotated[
    str,
    Meta(
        max_length=255,
        description="The user who acts. A back end has to name them; a user's own token is enough.",
    ),
]


class Acting(Struct, forbid_unknown_fields=True):
    """The user who acts."""

    app: AccountApp = GOCHAT
    user: Behalf = ""


class ActingPage(Acting):
    """The user who acts, and a page of the list."""

    cursor: Cursor = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most entries of this page.")] = 100
