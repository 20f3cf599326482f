"""Routes of the inbox: how a user has arranged their conversations."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from imserver.messenger.inbox.declared import HTTP_TOO_MANY_DRAFTS, HTTP_TOO_MANY_PINS
from imserver.messenger.inbox.inbox import Inbox
from imserver.messenger.inbox.rows import (
    Archived,
    Arrangement,
    ConversationMarks,
    FolderList,
    Marked,
    Pinned,
)
from imserver.messenger.inbox.wire import (
    MAX_DRAFT_BYTES,
    Arrange,
    Folder,
    FolderIds,
    FolderShapes,
    MentionShape,
    UnsentText,
    has_twice,
)
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about
from imserver.plugin.identity import Needs
from imserver.plugin.messages import ConversationId
from imserver.plugin.wire import Limit


class DraftShape(Struct, forbid_unknown_fields=True):
    """A text that is not sent yet."""

    text: Annotated[str, about("The text.")] = ""
    reply_to: Annotated[
        int,
        about(
            "The message to which the draft replies; 0: no message.", ge=0, le=Limit.ID
        ),
    ] = 0
    mentions: Annotated[
        list[MentionShape],
        about("The names in the draft that mention users.", max_length=Limit.MENTIONS),
    ] = []


class ArrangementShown(ConversationMarks, frozen=True):
    """The settings and the draft of a user for a conversation."""

    draft: Annotated[
        DraftShape | UnsetType, about("The draft of the user. Left out: no draft.")
    ] = UNSET
    folders: FolderIds | UnsetType = UNSET


class FoldersShown(Struct):
    """All folders of a user."""

    version: Annotated[
        int,
        about(
            "The version after the last change of the list; 0: the list never changed."
        ),
    ]
    folders: Annotated[list[Folder], about("The folders, in the order of the list.")]


class InboxAnswer(Struct):
    """Changes in the order of their versions."""

    conversations: list[ArrangementShown]
    version: Annotated[int, about("The `version` of the next request.")]
    more: Annotated[
        bool, about("Whether there are more entries. If so, ask again at once.")
    ]
    folders: Annotated[
        FoldersShown | UnsetType,
        about("The folders. Left out: the folders did not change after `version`."),
    ] = UNSET


routes = Resource(
    "inbox",
    service=lambda core, _: core.service(Inbox),
    base=Acting,
    chapter=(
        "Settings of a user for conversations, the same on all devices: pins, "
        "archive, folders, drafts."
    ),
    hot=False,
    need=Needs.ADMIN_OR_USER,
    act="",
)


@routes.get("/inbox")
def inbox(
    inbox: Inbox,
    call: Call,
    version: Annotated[
        int,
        about(
            "The `version` of the previous answer; 0: everything.", ge=0, le=Limit.ID
        ),
    ] = 0,
    limit: Annotated[
        int,
        about("The maximum number of conversations on this page.", ge=1, le=Limit.PAGE),
    ] = Limit.PAGE,
) -> InboxAnswer:
    """List a user's settings and drafts for conversations, and their changes.

    A conversation that is not in the list has no pin, no mark, no folder and no
    draft, and is not archived.
    """
    page = inbox.since(call.app, call.user, version, limit)
    answer = InboxAnswer(
        [_shown(each) for each in page.arrangements], page.version, page.has_more
    )
    if page.folders is not None:
        answer.folders = _shown_folders(page.folders)
    return answer


@routes.post(
    "/inbox",
    schema=(
        "ArrangeRequest",
        "Changes to the settings and the draft of a user for a conversation. Fields "
        "that you leave out do not change.",
    ),
    problems=(Problems.UNKNOWN_CONVERSATION, HTTP_TOO_MANY_PINS, HTTP_TOO_MANY_DRAFTS),
)
def arrange(
    inbox: Inbox,
    call: Call,
    conversation: ConversationId,
    pinned: Pinned | UnsetType = UNSET,
    archived: Archived | UnsetType = UNSET,
    marked: Marked | UnsetType = UNSET,
    draft: Annotated[
        DraftShape | UnsetType,
        about(
            f"The draft, at most {MAX_DRAFT_BYTES} bytes of JSON; an empty object "
            "removes it."
        ),
    ] = UNSET,
    folders: FolderIds | UnsetType = UNSET,
) -> ArrangementShown:
    """Pin, archive or mark a conversation as unread, put it into folders, or
    store a draft.

    All sessions of the user receive the change. If you archive a conversation,
    its pin ends. If you pin an archived conversation, it leaves the archive.
    """
    changes: dict[str, Any] = {
        "pinned": pinned,
        "archived": archived,
        "marked": marked,
    }
    if draft is not UNSET:
        changes["draft"] = _unsent(draft)
    if folders is not UNSET:
        changes["folders"] = tuple(folders)
    given = {name: value for name, value in changes.items() if value is not UNSET}
    change = Arrange(conversation, **given)
    after = inbox.arrange(call.app, call.user, change, by_user=not call.is_back_end)
    return _shown(after)


@routes.post(
    "/inbox/folders",
    schema=("FoldersRequest", "All folders of a user."),
)
def set_folders(inbox: Inbox, call: Call, folders: FolderShapes) -> FoldersShown:
    """Create, name, order and remove the folders of a user.

    The list replaces the previous list. All sessions of the user receive the
    new list.
    """
    if has_twice(folders):
        raise ApiProblem.invalid("`folders`: two have the same id")
    after = inbox.set_folders(
        call.app, call.user, tuple(folders), by_user=not call.is_back_end
    )
    return _shown_folders(after)


def _shown_folders(folders: FolderList) -> FoldersShown:
    """Return the folders of a user in the shape of the answer."""
    return FoldersShown(folders.version, list(folders.folders))


def _unsent(shape: DraftShape) -> UnsentText:
    """Return the draft of a request, to be stored.

    Raises ApiProblem if it is too long.
    """
    draft = UnsentText(shape.text, shape.reply_to, tuple(shape.mentions))
    if len(msgspec.json.encode(draft)) > MAX_DRAFT_BYTES:
        raise ApiProblem.invalid(f"`draft`: more than {MAX_DRAFT_BYTES} bytes")
    return draft


def _shown(arrangement: Arrangement) -> ArrangementShown:
    """Return an arrangement in the shape of the answer."""
    draft: DraftShape | UnsetType = UNSET
    if arrangement.draft:
        unsent = arrangement.draft
        draft = DraftShape(unsent.text, unsent.reply_to, list(unsent.mentions))
    return ArrangementShown(
        conversation=arrangement.conversation,
        version=arrangement.version,
        pinned=arrangement.pinned,
        archived=arrangement.archived,
        marked=arrangement.marked,
        draft=draft,
        folders=arrangement.folders,
    )
