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
    """An emoji of the app. To use an emoji in a text or as a reaction, write
    its name between colons: `:party:`."""

    name: EmojiName
    url: Annotated[str, about("The path of the picture on this server.")]
    width: Annotated[int, about("The width of the picture, in pixels.")]
    height: Annotated[int, about("The height of the picture, in pixels.")]
    created: Annotated[int, about("When the emoji was added, in Unix milliseconds.")]
    user: Annotated[str, about("Who has added the emoji. Only back ends see this.")] = (
        ""
    )


class EmojiAnswer(Struct):
    """The emoji of the app."""

    version: Annotated[
        str,
        about(
            "The version of the list. It changes with each change. Send it with "
            "the next request."
        ),
    ]
    emoji: Annotated[
        list[EmojiShown] | UnsetType,
        about(
            "All emoji of the app, by name. Left out if the list has not changed "
            "since your version."
        ),
    ] = UNSET


class EmojiRemoved(Struct):
    """The removed emoji. Texts with this name show the name from now on."""

    name: EmojiName


routes = Resource(
    "emoji",
    service=lambda core, _: core.service(OwnEmoji),
    chapter="Emoji of an app: small pictures with names, for texts and reactions.",
    hot=False,
    need=Needs.MODERATE,
)


@routes.get("/emoji", Needs.READ_OR_USER, base=Acting, user="optional")
def emoji(
    own: OwnEmoji,
    call: Call,
    version: Annotated[
        str, about("The version of your list; empty: you have no list.", max_length=64)
    ] = "",
) -> EmojiAnswer:
    """List the emoji of the app, unless your list is still current.

    A name that is not in the list is shown as text. The picture at an address
    never changes: a new picture has a new address.
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
            "The file in base64: PNG, GIF, WebP or JPEG, also animated, at most 512 × "
            "512 pixels.",
            min_length=1,
            max_length=MOST_BYTES,
        ),
    ],
) -> EmojiShown:
    """Add an emoji to the app.

    An app has at most 300 emoji. The picture is stored as a file of the app. It
    stays when the account that has added it is erased.
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

    Texts and reactions that use the emoji show its name as text.
    """
    own.remove(call.app, name)
    return EmojiRemoved(name)


def _shown(row: EmojiRow, user: str = "") -> EmojiShown:
    """An emoji as the answers show it. ``user``: who has added it; ``""``: it
    is not shown."""
    return view(EmojiShown, row, url=f"{PATH}/{row.picture}", user=user)
