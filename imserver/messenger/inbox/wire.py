"""The commands of clients on their inboxes, and their decoders."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Struct

from imserver.plugin.errors import ReplyCode
from imserver.plugin.http import about
from imserver.plugin.wire import Command, Fields, Limit, Readers, Refused, well_formed

MAX_DRAFT_BYTES: Final = 16_384
"""The most bytes of a draft with its mentions, as JSON."""


class MentionShape(Struct, frozen=True, forbid_unknown_fields=True):
    """A name in a draft that mentions a user."""

    name: Annotated[str, about("The name in the text, without `@`.")]
    user: Annotated[str, about("The user.")]


class UnsentText(
    Struct, frozen=True, omit_defaults=True, rename={"reply_to": "replyTo"}
):
    """A text that a user has not sent yet. ``reply_to``: the message to which
    the text replies (0: no message)."""

    text: str = ""
    reply_to: int = 0
    mentions: tuple[MentionShape, ...] = ()


NO_DRAFT: Final = UnsentText()


class Folder(Struct, frozen=True, forbid_unknown_fields=True):
    """A folder for conversations of a user."""

    MOST: ClassVar[int] = 20
    """The most folders of a user."""

    id: Annotated[
        int,
        about(
            "A number that the client has chosen for a new folder.",
            ge=1,
            le=Limit.NUMBER,
        ),
    ]
    name: Annotated[str, about("The name of the folder.", min_length=1, max_length=50)]


FolderIds = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=Limit.NUMBER)]],
    about(
        "The ids of the folders in which the conversation is.", max_length=Folder.MOST
    ),
]
FolderShapes = Annotated[
    list[Folder],
    about("The folders, in the order of the list.", max_length=Folder.MOST),
]


class Arrange(Command, frozen=True, gc=False):
    """Change the user's arrangement of a conversation, on all devices of the
    user. A field that is None does not change.

    ``pinned``: the conversation with the greatest number comes first.
    ``archived``, ``marked``: the newest entry at the time when the conversation
    was archived, or marked as unread. The value 0 ends each of these three.
    :data:`NO_DRAFT` removes the draft. ``folders``: the ids of the folders in
    which the conversation is.
    """

    conversation: int
    pinned: int | None = None
    archived: int | None = None
    marked: int | None = None
    draft: UnsentText | None = None
    folders: tuple[int, ...] | None = None


class SetFolders(Command, frozen=True, gc=False):
    """Replace the folders of the user by this ordered list."""

    folders: tuple[Folder, ...]


class AskArrangements(Command, frozen=True, gc=False):
    """Request the changes by :class:`Arrange` after a version, of at most
    ``limit`` conversations."""

    version: int
    limit: int


class _Draft(Struct, forbid_unknown_fields=True):
    text: str = ""
    reply_to: Annotated[int, msgspec.Meta(ge=0, le=Limit.ID)] = msgspec.field(
        default=0, name="replyto"
    )
    mentions: Annotated[
        list[MentionShape], msgspec.Meta(max_length=Limit.MENTIONS)
    ] = []


def _arrange(data: bytes) -> Arrange:
    """Read a change of an arrangement. Only the given keys change.

    Example: ``{"conversation": 7, "pinned": 3, "folders": [1]}``. Raises
    :class:`Refused` with code 1001 if no key is given, or a value is invalid.
    """
    fields = Fields.of(data)
    values = fields.values
    changes: dict[str, Any] = {
        key: fields.id(key) for key in ("pinned", "archived", "marked") if key in values
    }
    if "draft" in values:
        changes["draft"] = _unsent(values["draft"])
    if "folders" in values:
        changes["folders"] = _tuple_of(values["folders"], FolderIds)
    conversation = fields.needed_id("conversation")
    if not changes:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Arrange(conversation, **changes)


def _unsent(value: Any) -> UnsentText:
    """Read a draft from its JSON.

    Raises :class:`Refused` with code 1001 if it is invalid or too long.
    """
    try:
        given = msgspec.convert(value, _Draft)
    except (ValueError, RecursionError):
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    # Texts from JSON may have characters that cannot be stored.
    mentions = [
        MentionShape(well_formed(each.name), well_formed(each.user))
        for each in given.mentions
    ]
    draft = UnsentText(well_formed(given.text), given.reply_to, tuple(mentions))
    if len(msgspec.json.encode(draft)) > MAX_DRAFT_BYTES:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return draft


def _arrangements(data: bytes) -> AskArrangements:
    """Read the request for the changes after a version."""
    fields = Fields.of(data)
    return AskArrangements(fields.id("version"), fields.limit())


def _tuple_of(value: Any, kind: Any) -> tuple[Any, ...]:
    """Return the items of a list of this type.

    Raises :class:`Refused` with code 1001 if the value is not such a list.
    """
    try:
        return tuple(msgspec.convert(value, kind))
    except (ValueError, RecursionError):
        raise Refused(ReplyCode.BAD_PARAMETER) from None


def _folders(data: bytes) -> SetFolders:
    """Read the list that replaces the folders of a user.

    Raises :class:`Refused` with code 1001 if it is invalid.
    """
    shapes = _tuple_of(Fields.of(data).values.get("folders"), FolderShapes)
    folders = tuple(Folder(each.id, well_formed(each.name)) for each in shapes)
    if has_twice(folders):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return SetFolders(folders)


def has_twice(folders: Sequence[Folder]) -> bool:
    """Tell whether two of the folders have the same id."""
    return len({each.id for each in folders}) < len(folders)


COMMANDS: Final[Readers] = {
    "arrange": _arrange,
    "arrangements": _arrangements,
    "setFolders": _folders,
}
