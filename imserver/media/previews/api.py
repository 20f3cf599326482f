"""Previews of links over ``/api/v1``."""

from typing import Annotated, Final

from msgspec import Struct

from imserver.media.previews.previews import MessageId, Previews, PreviewsAnswer
from imserver.media.previews.rows import PersonWishes
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Call, Resource, about
from imserver.plugin.identity import Needs

MOST_MESSAGES: Final = 50

_Make = Annotated[
    bool, about("Whether messages of the user get previews of their links.")
]
_Show = Annotated[bool, about("Whether the user sees previews.")]


class PreviewWishes(Struct):
    """Whether the app allows previews, and the settings of the user."""

    on: Annotated[bool, about("Whether the app allows previews.")]
    make: _Make
    show: _Show


class PreviewRemoved(Struct):
    """The message."""

    message: MessageId


routes = Resource(
    "previews",
    service=lambda core, _: core.service(Previews),
    base=Acting,
    chapter="Title, description and picture of the pages to which messages link.",
    hot=False,
    need=Needs.ADMIN_OR_USER,
)


@routes.post(
    "/previews/show",
    schema=("PreviewsQuery", "The messages whose previews you want."),
    act="",
)
def show(
    previews: Previews,
    call: Call,
    messages: Annotated[
        list[MessageId],
        about("Ids of messages.", min_length=1, max_length=MOST_MESSAGES),
    ],
) -> PreviewsAnswer:
    """Show the previews of links in messages, and create missing previews.

    A message has no preview if the user cannot read it, or if its app does not
    allow previews.
    """
    return previews.show(call.app, call.user, list(dict.fromkeys(messages)))


@routes.get("/previews/wishes")
def wishes(previews: Previews, call: Call, request: Acting) -> PreviewWishes:
    """Show whether the app allows previews, and the settings of the user."""
    wishes = previews.wishes(call.app, call.user)
    return PreviewWishes(previews.is_on(call.app), wishes.make, wishes.show)


@routes.post("/previews/wishes", schema=("PreviewWish", "The settings of the user."))
def wish(previews: Previews, call: Call, make: _Make, show: _Show) -> PreviewWishes:
    """Set whether the user's links get previews, and whether the user sees the
    previews of others."""
    previews.rows.wish(call.app, call.user, PersonWishes(make, show))
    return PreviewWishes(previews.is_on(call.app), make, show)


@routes.post(
    "/previews/remove",
    schema=("OfMessage", "A message of the user."),
    problems=(Problems.UNKNOWN_MESSAGE,),
)
def remove(previews: Previews, call: Call, message: MessageId) -> PreviewRemoved:
    """Remove the preview of the user's own message, for everybody."""
    previews.remove(call.app, call.user, message)
    return PreviewRemoved(message)
