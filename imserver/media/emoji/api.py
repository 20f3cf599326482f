"""Own emoji of apps over ``/api/v1``."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from imserver.media.emoji.declared import (
    HTTP_EMOJI_EXISTS,
    HTTP_TOO_MANY_EMOJI,
    HTTP_UNKNOWN_EMOJI,
    MOST_BYTES,
    NAME,
)
from imserver.media.emoji.emoji import EmojiRow, OwnEmoji, version_of
from imserver.media.uploads.api import PATH
from imserver.media.uploads.declared import (
    HTTP_DISK_FULL,
    HTTP_FILE_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_QUOTA_EXCEEDED,
)
from imserver.plugin.errors import Problems
from imserver.plugin.http import AccountApp, Acting, Call, Resource, about, view
from imserver.plugin.identity import GOCHAT, Needs

EmojiName = Annotated[
    str,
    about(
        "The name, without colons: 2 to 30 lower-case letters, digits, `_` and `-`.",
        pattern=NAME,
        examples=["party"],
    ),
]


class EmojiShown(Struct, kw_only=True, omit_defaults=True):
    """An emoji of the app. In a text and as a reaction it is its name between
    colons: `:party:`."""

    name: EmojiName
    url: Annotated[
        str, about("The path from which to fetch the picture, on this server.")
    ]
    width: Annotated[int, about("The width of the picture, in pixels.")]
    height: Annotated[int, about("The height of the picture, in pixels.")]
    created: Annotated[int, about("When it was added, in Unix milliseconds.")]
    user: Annotated[str, about("Who has added it. Only back ends see it.")] = ""


class EmojiAnswer(Struct):
    """The emoji of the app."""

    version: Annotated[
        str, about("Another one after each change. Send it with the next request.")
    ]
    emoji: Annotated[
        list[EmojiShown] | UnsetType,
        about("All of them, by name; left out: they are as you know them."),
    ] = UNSET


class EmojiRemoved(Struct):
    """The emoji, which is text from now on."""

    name: EmojiName


routes = Resource(
    "emoji",
    service=lambda core, _: core.service(OwnEmoji),
    chapter="Own emoji of an app: small pictures with names, for texts and reactions.",
    hot=False,
    need=Needs.MODERATE,
)


@routes.get("/emoji", Needs.READ_OR_USER, base=Acting, user="optional")
def emoji(
    own: OwnEmoji,
    call: Call,
    version: Annotated[
        str, about("The version that you know; empty: none.", max_length=64)
    ] = "",
) -> EmojiAnswer:
    """List the emoji of the app, unless they are as you know them.

    A name that is not in the list is text. The pictures never change: another
    one has another address.
    """
    rows = own.of(call.app)
    current = version_of(rows)
    if version == current:
        return EmojiAnswer(current)
    if call.is_back_end:
        return EmojiAnswer(current, [_shown(row, row.member) for row in rows])
    return EmojiAnswer(current, [_shown(row) for row in rows])


@routes.post(
    "/emoji/add",
    schema=("EmojiToAdd", "An emoji for the app."),
    voice=True,
    problems=(
        HTTP_EMOJI_EXISTS,
        HTTP_TOO_MANY_EMOJI,
        HTTP_FILE_TOO_LARGE,
        HTTP_KIND_REFUSED,
        HTTP_QUOTA_EXCEEDED,
        HTTP_DISK_FULL,
        Problems.MEDIA_UNAVAILABLE,
    ),
)
def add(
    own: OwnEmoji,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    name: EmojiName,
    picture: Annotated[
        bytes,
        about(
            "The file in base64: PNG, GIF, WebP or JPEG, also moving ones, at most"
            " 512 × 512 pixels.",
            min_length=1,
            max_length=MOST_BYTES,
        ),
    ],
) -> EmojiShown:
    """Add an emoji to the app.

    An app has at most 300. The picture is stored as a file of the app: it stays
    when the account of the person is erased who has added it.
    """
    call.facts = {"name": name}
    # With an API key, no address is charged for the bytes.
    address = "" if call.principal.key else call.request.host
    row = own.add(call.app, name, picture, call.principal.staff, address)
    return _shown(row)


@routes.post(
    "/emoji/remove",
    schema=("EmojiToRemove", "An emoji of the app."),
    problems=(HTTP_UNKNOWN_EMOJI,),
)
def remove(
    own: OwnEmoji, call: Call, *, app: AccountApp = GOCHAT, name: EmojiName
) -> EmojiRemoved:
    """Remove an emoji of the app.

    Where it was used, its name stays as text.
    """
    own.remove(call.app, name)
    return EmojiRemoved(name)


def _shown(row: EmojiRow, user: str = "") -> EmojiShown:
    return view(EmojiShown, row, url=f"{PATH}/{row.picture}", user=user)
