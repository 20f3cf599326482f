"""Reading stored messages: conversations, history, sync, search, receipts, marks."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.field import Acting
from imserver.api.v1.operation import ACTOR_PROBLEMS, Operation
from imserver.api.v1.wire import after, reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.model import Message
from imserver.protocol.cmd import entry_view
from imserver.services.messages.deliverer import newest_page, oldest_page
from imserver.storage.log.contract import ConversationSummary, Entry, message_of
from imserver.transport.exchange import HttpResponse

_MAX_PAGE = 200
MAX_ID = 2**63 - 1

Place = Annotated[int, Meta(ge=1, le=MAX_ID, description="The conversation; of a group, that is the group.")]
AnyPlace = Annotated[int, Meta(ge=0, le=MAX_ID, description="Only this conversation; 0: all of the user's.")]
MessageId = Annotated[int, Meta(ge=1, le=MAX_ID, description="The message: its place in the log of the app.")]
Before = Annotated[
    int,
    Meta(ge=0, le=MAX_ID, description="Where to go on: `before` of the page before; 0: at the newest."),
]
PageLimit = Annotated[int, Meta(ge=1, le=_MAX_PAGE, description="Most entries of this page.")]
Words = Annotated[str, Meta(min_length=1, max_length=256, description="What is looked for in texts.")]


class ConversationsQuery(Acting, kw_only=True):
    """Whose conversations, and which page of them."""

    before: Before = 0
    limit: PageLimit = 50


class HistoryQuery(Acting, kw_only=True):
    """Who reads which conversation, and which page of it."""

    conversation: Place
    before: Before = 0
    limit: PageLimit = 50


class SearchQuery(Acting, kw_only=True):
    """Who looks for what, and where."""

    text: Words
    conversation: AnyPlace = 0
    before: Before = 0
    limit: PageLimit = 50


class SyncQuery(Acting, kw_only=True):
    """Who has everything up to where, and how much of the rest is wanted."""

    after: Annotated[
        int,
        Meta(ge=0, le=MAX_ID, description="Where the page before has ended: its `after`; 0: from the first."),
    ] = 0
    limit: PageLimit = 50


class MarksQuery(Acting, kw_only=True):
    """Whose marks, and since when."""

    version: Annotated[
        int, Meta(ge=0, le=MAX_ID, description="The version of the answer before; 0: all marks.")
    ] = 0


class ReceiptsQuery(Acting, kw_only=True):
    """Who asks about which conversation, and which page."""

    conversation: Place
    cursor: field.Cursor = ""
    limit: PageLimit = 50


class MessageShown(Struct, omit_defaults=True):
    """An entry of a conversation. What is empty is left out."""

    id: Annotated[int, Meta(description="Its place in the log of the app.")]
    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    seq: Annotated[int, Meta(description="Its place in the conversation.")]
    kind: Annotated[
        Literal["message", "edit", "recall", "group", "join", "leave"], Meta(description="What it is.")
    ]
    sender: Annotated[str, Meta(description="The sender; empty: a back end.")] = msgspec.field(name="from")
    to: Annotated[str, Meta(description="The receiver; empty in a group.")] = ""
    type: Annotated[str, Meta(description="What the message is: `text`, or another word.")] = ""
    text: Annotated[str | UnsetType, Meta(description="The words, where the message is text.")] = UNSET
    data: Annotated[Any, Meta(description="What it is made of, where it is no text.")] = UNSET
    base64: Annotated[bytes | UnsetType, Meta(description="The same, where it is no JSON.")] = UNSET
    client_msg_id: Annotated[str, Meta(description="The id that its sender gave it.")] = ""
    about: Annotated[
        int,
        Meta(
            description="The message that it replies to, edits or recalls; its own id, if it takes the "
            "place of a recalled message."
        ),
    ] = 0
    meta: Annotated[
        Any,
        Meta(description="Users who are mentioned, joined or left; `edited`: the last edit of the message."),
    ] = UNSET
    time: Annotated[int, Meta(description="When it was sent, in Unix milliseconds.")] = 0


class MessagesAnswer(Struct):
    """Entries in the order of their ids."""

    messages: list[MessageShown]
    before: Annotated[
        int,
        Meta(
            description="`before` of the page of older ones; 0: there are none. A search may have to go on "
            "after a page with nothing on it."
        ),
    ]


class SyncAnswer(Struct):
    """What the user may read behind a place, of all conversations, in the order of the ids."""

    messages: list[MessageShown]
    after: Annotated[int, Meta(description="Where to go on: `after` of the next question.")]
    more: Annotated[bool, Meta(description="There is more: ask again at once.")]
    begin_anew: Annotated[
        bool,
        Meta(
            description="Something behind this place has expired, or it is none of this log: forget what you "
            "have, and begin with 0."
        ),
    ]


class ConversationShown(Struct):
    """A conversation as one of its members sees it."""

    conversation: Annotated[int, Meta(description="Its number; of a group, that is the group.")]
    kind: Annotated[Literal["user", "group"], Meta(description="Of two users, or a group.")]
    peer: Annotated[str, Meta(description="The other user; empty for a group.")]
    name: Annotated[str, Meta(description="What a group is called.")]
    role: Annotated[str, Meta(description="What the user is in the group.")]
    unread: Annotated[int, Meta(description="Messages of others that were not read; counted up to 1,000.")]
    read: Annotated[int, Meta(description="The last message that was read.")]
    last: Annotated[MessageShown | None, Meta(description="The newest entry that the user may read.")]


class ConversationsAnswer(Struct):
    """Conversations, those with the newest entries first."""

    conversations: list[ConversationShown]
    before: Annotated[int, Meta(description="`before` of the following page; 0: there is none.")]


class ReceiptShown(Struct):
    """How far somebody is."""

    user: Annotated[str, Meta(description="Another member.")]
    read: Annotated[int, Meta(description="The last message that they read; 0: none.")]
    received: Annotated[int, Meta(description="The last that one of their devices received; 0: none.")]


class PeerReceipt(ReceiptShown):
    """The same, of the other one in a conversation of two."""

    conversation: Annotated[int, Meta(description="The conversation.")]


class ReadMark(Struct):
    """How far the user has read a conversation."""

    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    id: Annotated[int, Meta(description="The last message that was read.")]


class MarksAnswer(Struct):
    """What the user has marked since, on whatever device, and how far those are with whom they talk alone."""

    version: Annotated[int, Meta(description="The version that it is now.")]
    read: list[ReadMark]
    hidden: Annotated[list[int], Meta(description="Messages that are not to be shown.")]
    receipts: list[PeerReceipt]


class ReceiptsAnswer(Struct):
    """Members who have sent receipts, ordered by id."""

    receipts: list[ReceiptShown]
    next: field.Next


def shown_entry(entry: Entry) -> MessageShown:
    """An entry as it is answered."""
    message: Message = message_of(entry)
    told = entry_view(message)
    return MessageShown(
        entry.id,
        entry.conversation,
        entry.seq,
        entry.kind,
        entry.sender,
        message.to,
        told.type,
        UNSET if told.text is None else told.text,
        UNSET if told.data is None else told.data,
        UNSET if told.base64 is None else told.base64,
        entry.client_msg_id,
        entry.about,
        UNSET if told.meta is None else told.meta,
        entry.time_ms,
    )


def shown_talk(talk: ConversationSummary, user: str) -> ConversationShown:
    """A conversation as it is answered to a member."""
    known = talk.conversation
    return ConversationShown(
        known.id,
        "user" if known.members else "group",
        next((each for each in known.members if each != user), ""),
        known.name,
        talk.role,
        talk.unread,
        talk.read,
        None if talk.last is None else shown_entry(talk.last),
    )


def log_of(api: Api) -> Any:
    """The message log; None while nothing was ever stored."""
    store = api.services.store
    return store.log() if store.keeps else None


def conversations(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/conversations``."""
    asked: ConversationsQuery = call.asked
    log = log_of(api)
    talks, more = (
        ([], False) if log is None else log.list_conversations(call.app, call.user, asked.before, asked.limit)
    )
    listed = [shown_talk(talk, call.user) for talk in talks]
    return reply(call, ConversationsAnswer(listed, talks[-1].place if more else 0))


def history(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/messages``."""
    asked: HistoryQuery = call.asked
    log = log_of(api)
    if log is None:
        return reply(call, MessagesAnswer([], 0))
    read = log.history(call.app, call.user, asked.conversation, asked.before, asked.limit)
    entries, more = newest_page(*read)
    shown = [shown_entry(entry) for entry in entries]
    return reply(call, MessagesAnswer(shown, entries[0].id if more else 0))


def search(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/messages/search``."""
    asked: SearchQuery = call.asked
    if not asked.text.strip() or "\0" in asked.text:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`text`: there is nothing to look for")
    entries, before = api.services.message_search.search(
        call.app, call.user, asked.text, asked.conversation, asked.before, asked.limit
    )
    return reply(call, MessagesAnswer([shown_entry(entry) for entry in entries], before))


def receipts(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/messages/receipts``."""
    asked: ReceiptsQuery = call.asked
    log, behind = log_of(api), after(asked.cursor) or ""
    rows = [] if log is None else log.receipts(call.app, call.user, asked.conversation, behind, asked.limit)
    following = cursor_of(rows[-1].user) if len(rows) == asked.limit else ""
    shown = [ReceiptShown(row.user, row.read, row.received) for row in rows]
    return reply(call, ReceiptsAnswer(shown, following))


def sync(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/messages/sync``."""
    asked: SyncQuery = call.asked
    log, after_ = log_of(api), asked.after
    if after_ and (log is None or not log.floor(call.app) <= after_ <= log.head(call.app)):
        return reply(call, SyncAnswer([], 0, True, True))
    read = ([], False) if log is None else log.sync(call.app, call.user, after_, asked.limit)
    entries, more = oldest_page(*read)
    following = entries[-1].id if entries else after_
    return reply(call, SyncAnswer([shown_entry(entry) for entry in entries], following, more, False))


def marks(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/messages/marks``."""
    asked: MarksQuery = call.asked
    return reply(call, api.services.receipts.marks(call.app, call.user, asked.version))


# --- as they are declared -----------------------------------------------------------------------------------

_MESSAGE: Final = {
    "id": 7,
    "conversation": 1,
    "seq": 3,
    "kind": "message",
    "from": "bob",
    "to": "ann",
    "type": "text",
    "text": "tea?",
    "time": 1795155803000,
}
_ON_BEHALF: Final = {"app": "101", "user": "ann"}


def _query(path: str, function: Any, summary: str, description: str = "", **more: Any) -> Operation:
    more.setdefault("problems", ACTOR_PROBLEMS)
    return Operation(
        "GET",
        f"/api/v1/{path}",
        ADMIN_OR_ACCOUNT,
        function,
        "conversations",
        summary,
        description,
        hot=False,
        **more,
    )


OPERATIONS: Final = (
    _query(
        "conversations",
        conversations,
        "The conversations of a user, those with news first",
        query=ConversationsQuery,
        answer=ConversationsAnswer,
        example_query=_ON_BEHALF,
        example_answer={
            "conversations": [
                {
                    "conversation": 1,
                    "kind": "user",
                    "peer": "bob",
                    "name": "",
                    "role": "member",
                    "unread": 1,
                    "read": 6,
                    "last": _MESSAGE,
                }
            ],
            "before": 0,
        },
    ),
    _query(
        "messages",
        history,
        "What was said in a conversation, the newest page first",
        "Nobody reads what was said before they came or after they left, nor what they have hidden.",
        query=HistoryQuery,
        answer=MessagesAnswer,
        example_query={**_ON_BEHALF, "conversation": 1},
        example_answer={"messages": [_MESSAGE], "before": 0},
    ),
    _query(
        "messages/search",
        search,
        "Messages in which something is said",
        "Of those that the user may read. Letters of ASCII count alike in any case.",
        query=SearchQuery,
        answer=MessagesAnswer,
        example_query={**_ON_BEHALF, "text": "tea"},
        example_answer={"messages": [_MESSAGE], "before": 0},
    ),
    _query(
        "messages/receipts",
        receipts,
        "How far the other members of a conversation have read",
        query=ReceiptsQuery,
        answer=ReceiptsAnswer,
        example_query={**_ON_BEHALF, "conversation": 1},
        example_answer={"receipts": [{"user": "bob", "read": 7, "received": 7}], "next": ""},
    ),
    _query(
        "messages/sync",
        sync,
        "What a user missed, of all conversations",
        "For who has no connection that tells it, or comes back: the entries behind a place in the log, in "
        "its order. A front-end keeps `after`, and applies recalls and edits to what they are about.",
        query=SyncQuery,
        answer=SyncAnswer,
        example_query={**_ON_BEHALF, "after": 6},
        example_answer={"messages": [_MESSAGE], "after": 7, "more": False, "begin_anew": False},
    ),
    _query(
        "messages/marks",
        marks,
        "What a user has read and hidden, on any device",
        query=MarksQuery,
        answer=MarksAnswer,
        example_query={**_ON_BEHALF, "version": 3},
        example_answer={
            "version": 5,
            "read": [{"conversation": 1, "id": 7}],
            "hidden": [6],
            "receipts": [{"user": "bob", "read": 7, "received": 7, "conversation": 1}],
        },
    ),
)
