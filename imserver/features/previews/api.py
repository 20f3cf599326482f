"""Previews of links over ``/api/v1``."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct

from imserver.features.previews.previews import MessagePreview, PageSummary, Previews
from imserver.features.previews.rows import PersonWishes
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Call, Resource, about
from imserver.plugin.identity import Needs
from imserver.plugin.wire import Limit

MOST_MESSAGES: Final = 50

MessageId = Annotated[int, about("The id of a message.", ge=1, le=Limit.ID)]
_Make = Annotated[bool, about("Whether messages of the user get previews of their links.")]
_Show = Annotated[bool, about("Whether the user sees previews.")]


class PreviewShown(Struct, kw_only=True, omit_defaults=True):
    """The preview of the first link in a message."""

    message: MessageId
    url: Annotated[str, about("The link, as the server fetches it.")]
    title: Annotated[str, about("The title of the page, in one line.")]
    description: Annotated[str, about("What the page says about itself, in one line.")] = ""
    site: Annotated[str, about("The name of the site.")] = ""
    picture: Annotated[str, about("The path of the picture on this server.")] = ""
    width: Annotated[int, about("The width of the picture, in pixels.")] = 0
    height: Annotated[int, about("The height of the picture, in pixels.")] = 0


class PreviewsAnswer(Struct):
    """The previews that there are, and those that come."""

    previews: list[PreviewShown]
    pending: Annotated[list[MessageId], about("Messages whose previews are being made. Ask again for these.")]


class PreviewWishes(Struct):
    """What the app and the user want."""

    on: Annotated[bool, about("Whether the app has previews.")]
    make: _Make
    show: _Show


class PreviewRemoved(Struct):
    """The message."""

    message: MessageId


routes = Resource(
    "previews",
    service=lambda core, _: core.service(Previews),
    base=Acting,
    chapter="Title, description and picture of the pages that messages link to.",
    hot=False,
)


@routes.post(
    "/previews/show",
    Needs.ADMIN_OR_USER,
    schema=("PreviewsQuery", "Messages whose previews are wanted."),
    act="",
)
def show(
    previews: Previews,
    call: Call,
    messages: Annotated[list[MessageId], about("Ids of messages.", min_length=1, max_length=MOST_MESSAGES)],
) -> PreviewsAnswer:
    """Show the previews of links in messages, and make those that do not exist yet.

    Messages that the user cannot read have none, nor have messages in an app without previews.
    """
    found = previews.show(call.app, call.user, list(dict.fromkeys(messages)))
    return PreviewsAnswer(list(map(_shown, found.previews)), found.pending)


@routes.get(
    "/previews/wishes",
    Needs.ADMIN_OR_USER,
)
def wishes(previews: Previews, call: Call, request: Acting) -> PreviewWishes:
    """Show whether the app has previews, and what the user wants."""
    wanted = previews.wishes(call.app, call.user)
    return PreviewWishes(previews.is_on(call.app), wanted.make, wanted.show)


@routes.post(
    "/previews/wishes",
    Needs.ADMIN_OR_USER,
    schema=("PreviewWish", "What the user wants."),
)
def wish(previews: Previews, call: Call, make: _Make, show: _Show) -> PreviewWishes:
    """Say whether links of the user get previews, and whether the user sees those of others."""
    previews.wish(call.app, call.user, PersonWishes(make, show))
    return PreviewWishes(previews.is_on(call.app), make, show)


@routes.post(
    "/previews/remove",
    Needs.ADMIN_OR_USER,
    schema=("OfMessage", "A message of the user."),
    problems=(Problems.UNKNOWN_MESSAGE,),
)
def remove(previews: Previews, call: Call, message: MessageId) -> PreviewRemoved:
    """Remove the preview below one's own message, for everybody."""
    previews.remove(call.app, call.user, message)
    return PreviewRemoved(message)


def _shown(row: MessagePreview) -> PreviewShown:
    preview: PageSummary = row.preview
    return PreviewShown(
        message=row.message,
        url=row.url,
        title=preview.title,
        description=preview.description,
        site=preview.site,
        picture=preview.picture,
        width=preview.width,
        height=preview.height,
    )
