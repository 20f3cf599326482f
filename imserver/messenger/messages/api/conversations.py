"""Reading stored messages: conversations, history, sync, search, receipts,
marks."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.declared import about
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.errors import Problems
from imserver.gateway.http import field
from imserver.gateway.http.call import Call
from imserver.gateway.http.field import Acting
from imserver.gateway.http.form import read_cursor
from imserver.gateway.http.operation import Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.model import Limit
from imserver.messenger.delivery.receipts import MarksAnswer, ReceiptShown
from imserver.messenger.log.commands import NO_FILTER, Search, SearchFilter
from imserver.messenger.log.contract import ConversationSummary, Entry
from imserver.messenger.log.model import EntryView, Reaction
from imserver.messenger.log.threads import Thread, ThreadState
from imserver.messenger.messages.message_commands import ThreadCommands
from imserver.messenger.messages.services import MessageServices
from imserver.plugin.http import page_and_cursor, view

T = TypeVar("T")

ConversationId = Annotated[
    int, about("The conversation. A group has the same id.", ge=1, le=Limit.ID)
]
"""The type of a field: the id of a conversation."""
MessageId = Annotated[
    int,
    about(
        "The id of the message: its position in the log of the app.", ge=1, le=Limit.ID
    ),
]
Before = Annotated[
    int,
    about(
        "The start of this page: `before` of the previous page; 0: the newest entry.",
        ge=0,
        le=Limit.ID,
    ),
]
After = Annotated[
    int,
    about(
        "List the first messages after this message, instead of the last messages "
        "before `before`.",
        ge=0,
        le=Limit.ID,
    ),
]
PageLimit = Annotated[
    int, about("The maximum number of entries on this page.", ge=1, le=200)
]


class SearchQuery(Acting, kw_only=True):
    """A search in one conversation, or in all of a user."""

    text: Annotated[
        str,
        about(
            "The text to search for. You may leave it out if you give a filter.",
            max_length=256,
        ),
    ] = ""
    conversation: Annotated[
        int,
        about(
            "Search only this conversation; 0: all conversations of the user.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    sender: Annotated[
        str, about("Find only messages of this user.", max_length=MAX_USER_BYTES)
    ] = msgspec.field(default="", name="from")
    types: Annotated[
        str,
        about(
            "Find only messages of these types, separated by commas. The default is "
            "`text` if `text` or `link` is given, otherwise all types."
        ),
    ] = ""
    link: Annotated[bool, about("Find only messages with a link.")] = False
    since: Annotated[
        int,
        about(
            "Find only messages sent at this time or later, in Unix milliseconds.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    until: Annotated[
        int,
        about(
            "Find only messages sent before this time, in Unix milliseconds; 0: up to "
            "now.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    before: Before = 0
    limit: PageLimit = 50


class MessageShown(EntryView, omit_defaults=True):
    """An entry of a conversation. Empty fields are left out."""

    text: Annotated[str | UnsetType, about("The message as text.")] = UNSET  # type: ignore[assignment]
    data: Annotated[Any, about("The content as JSON, if it is not text.")] = UNSET
    base64: Annotated[
        bytes | UnsetType, about("The content in base64, if it is not JSON.")
    ] = UNSET  # type: ignore[assignment]
    client_msg_id: Annotated[str, about("The id that the sender gave the message.")] = (
        msgspec.field(default="", name="client_msg_id")
    )
    meta: Annotated[
        Any,
        about(
            "Data about the entry. Users: who are mentioned, joined or left. "
            "`edited`, `reacted`: the last edit of the message, and the last "
            "reaction. `forwarded`: `from` and `id` of the original message. `count`, "
            "of a reaction: the number of users who then react with its emoji. "
            "`thread`: the first message of the thread of this reply. `also`: the "
            "conversation also shows the reply. `replies`: `count`, `last` (id), "
            "`time` and `users` of the replies in the thread of this message."
        ),
    ] = UNSET
    reactions: Annotated[
        tuple[Annotated[Reaction, Meta(title="ReactionShown")], ...] | UnsetType,
        about("Reactions to the message."),
    ] = UNSET  # type: ignore[assignment]


class PinsAnswer(Struct):
    """Pinned messages, the last pinned message first."""

    messages: list[MessageShown]
    before: Annotated[
        int, about("`before` of the next page; 0: this is the last page.")
    ]


class MessagesAnswer(Struct):
    """Entries in the order of their ids."""

    messages: list[MessageShown]
    before: Annotated[
        int,
        about(
            "`before` of the next page of older entries; 0: there are no older "
            "entries. If the request is a search or asks for some types, a page may "
            "be empty although there is a next page."
        ),
    ]
    after: Annotated[
        int | UnsetType,
        about(
            "`after` of the next page of newer entries, if the request had `after`; "
            "0: there are no newer entries."
        ),
    ] = UNSET


class SyncAnswer(Struct):
    """The entries that the user may read after a position, of all
    conversations, ordered by id."""

    messages: list[MessageShown]
    after: Annotated[int, about("The `after` of the next request.")]
    more: Annotated[
        bool, about("Whether there are more entries. If so, ask again at once.")
    ]
    begin_anew: Annotated[
        bool,
        about(
            "True if entries after this position have expired, or if the position "
            "belongs to another log. Then discard your entries and start with 0."
        ),
    ]


class ConversationShown(Struct):
    """A conversation as a member sees it."""

    conversation: Annotated[
        int, about("The id of the conversation. A group has the same id.")
    ]
    kind: Annotated[
        Literal["user", "group"],
        about(
            "The kind of the conversation. `user`: a conversation of two users, or of "
            "one user who saves messages."
        ),
    ]
    peer: Annotated[
        str, about("The other user, or the user themselves; empty for a group.")
    ]
    name: Annotated[str, about("The name of a group.")]
    role: Annotated[str, about("The role of the user in the group.")]
    unread: Annotated[
        int, about("The number of unread messages of other users, at most 1,000.")
    ]
    mentions: Annotated[
        int, about("The number of unread messages that mention the user.")
    ]
    read: Annotated[int, about("The last message that was read.")]
    last: Annotated[
        MessageShown | None, about("The newest entry that the user may read.")
    ]
    avatar: Annotated[
        str, about("The URL of the picture of a group; empty: no picture.")
    ] = ""
    added: Annotated[
        bool,
        about(
            "Whether the user became a member of the group after the last message "
            "that they have read."
        ),
    ] = False
    open: Annotated[
        bool, about("For a group: whether other users can find and join it.")
    ] = False
    everybody: Annotated[
        Literal["", "members", "all"],
        about(
            "For a group: the accounts that are members without joining. Empty: only "
            "users who were added or have joined."
        ),
    ] = ""
    write: Annotated[str, about("For a group: the lowest role that may write.")] = (
        "member"
    )
    reply: Annotated[
        str, about("For a group: the lowest role that may reply in threads.")
    ] = "member"
    unread_more: Annotated[
        bool, about("Whether there are more unread messages than `unread`.")
    ] = False


class ConversationsAnswer(Struct):
    """Conversations, the most recent first."""

    conversations: list[ConversationShown]
    before: Annotated[
        int, about("`before` of the next page; 0: this is the last page.")
    ]


class ReceiptsAnswer(Struct):
    """Members who have sent receipts, ordered by id."""

    receipts: list[ReceiptShown]
    next: field.NextCursor


def shown_entry(entry: Entry) -> MessageShown:
    """Return an entry in the shape of the answer. Empty fields are left out."""
    view = entry.view()
    return MessageShown(
        id=entry.id,
        conversation=entry.conversation,
        seq=entry.seq,
        kind=entry.kind,
        sender=entry.sender,
        to=view.to,
        type=view.type,
        text=_or_unset(view.text),
        data=_or_unset(view.data),
        base64=_or_unset(view.base64),
        client_msg_id=entry.client_msg_id,
        about=entry.about,
        meta=_or_unset(view.meta),
        time=entry.time_ms,
        reactions=view.reactions or UNSET,
    )


def _or_unset(value: T | None) -> T | UnsetType:
    """Return the value of a field, or UNSET if it is None.

    The answer leaves out fields that are UNSET.
    """
    if value is None:
        return UNSET
    return value


routes = Resource(
    "conversations",
    service=lambda core, _: core.service(MessageServices),
    base=Acting,
    hot=False,
    need=Needs.ADMIN_OR_MEMBER,
)


@routes.get("/conversations")
def conversations(
    api: MessageServices, call: Call, before: Before = 0, limit: PageLimit = 50
) -> ConversationsAnswer:
    """List the conversations of a user, the most recent first."""
    summaries, more = api.log.conversations.page(call.app, call.user, before, limit)
    conversations = [_shown_conversation(each, call.user) for each in summaries]
    next_before = 0
    if more:
        next_before = summaries[-1].position
    return ConversationsAnswer(conversations, next_before)


def _shown_conversation(summary: ConversationSummary, user: str) -> ConversationShown:
    """Return a conversation of a user in the shape of the answer."""
    row = summary.conversation
    options = row.option_values()
    kind: Literal["user", "group"] = "group"
    if row.members:
        kind = "user"
    last = None
    if summary.last is not None:
        last = shown_entry(summary.last)
    return ConversationShown(
        conversation=row.id,
        kind=kind,
        peer=row.peer(user),
        name=row.name,
        role=summary.role,
        unread=summary.unread,
        mentions=summary.mentions,
        read=summary.read,
        last=last,
        avatar=row.avatar,
        added=summary.is_new,
        open=row.open,
        everybody=row.everybody,
        write=options["write"],
        reply=options["reply"],
        unread_more=summary.unread_more,
    )


@routes.get("/messages")
def history(
    api: MessageServices,
    call: Call,
    conversation: ConversationId,
    before: Before = 0,
    after: After | UnsetType = UNSET,
    types: Annotated[
        str,
        about(
            "List only messages of these types, separated by commas. You cannot "
            "combine this field with `after`."
        ),
    ] = "",
    limit: PageLimit = 50,
) -> MessagesAnswer:
    """List the messages of a conversation, the newest page first.

    Users cannot read messages from before they joined or after they left, nor
    messages that they have hidden. Reactions are not listed as entries. Each
    message has its reactions.
    """
    type_names = _types_of(types)
    if type_names and after is not UNSET:
        raise ApiProblem.invalid("`types`: not with `after`")
    if type_names:
        # Only a search finds messages by their type.
        search = Search(
            text="",
            conversation=conversation,
            before=before,
            limit=limit,
            filter=SearchFilter(types=type_names),
        )
        return _found(api, call, search)

    first_after = None
    if after is not UNSET:
        first_after = after
    entries, more = api.log.entries.history(
        call.app, call.user, conversation, before, limit, first_after
    )
    answer = MessagesAnswer([shown_entry(entry) for entry in entries], 0, 0)
    if more and entries:
        if after is UNSET:
            answer.before = entries[0].id
        else:
            answer.after = entries[-1].id
    return answer


def _found(api: MessageServices, call: Call, search: Search) -> MessagesAnswer:
    """Return the messages that a search of the acting user finds."""
    entries, before = api.search.search(call.app, call.user, search)
    return MessagesAnswer([shown_entry(entry) for entry in entries], before)


@routes.get("/conversations/pins")
def pins(
    api: MessageServices,
    call: Call,
    conversation: ConversationId,
    before: Annotated[
        int,
        about("`before` of the previous page; 0: the first page.", ge=0, le=Limit.ID),
    ] = 0,
) -> PinsAnswer:
    """List the pinned messages of a conversation."""
    entries, next_before = api.log.entries.pins(
        call.app, call.user, conversation, before
    )
    return PinsAnswer([shown_entry(entry) for entry in entries], next_before)


@routes.get("/messages/search")
def search(api: MessageServices, call: Call, request: SearchQuery) -> MessagesAnswer:
    """Search messages.

    Searches the messages that the user may read, by their words or a filter. A
    message must contain all words of `text`, in any order. The last word may be
    the beginning of a longer word. "Words in quotes" must follow each other.
    Case, accents and width make no difference. In messages with JSON, the
    search looks at `name`, `title`, `text` and `caption`. The searches of a
    user may take 15 seconds in a minute.
    """
    filter = SearchFilter(
        sender=request.sender,
        types=_types_of(request.types),
        link=request.link,
        since=request.since,
        until=request.until,
    )
    text = request.text
    # A text of spaces has no words, and is refused even with a filter.
    lacks_words = not text.strip() and (text or filter == NO_FILTER)
    if lacks_words or "\0" in text + request.sender:
        raise ApiProblem.invalid(
            "`text`: empty without a filter, or it contains U+0000"
        )
    search = Search(text, request.conversation, request.before, request.limit, filter)
    return _found(api, call, search)


def _types_of(text: str) -> tuple[str, ...]:
    """Return the types of a query; ``text,picture`` gives two.

    Raises ApiProblem if there are too many.
    """
    types = tuple(name for name in text.split(",") if name)
    if len(types) > Limit.TYPES or "\0" in text:
        raise ApiProblem.invalid(f"`types`: at most {Limit.TYPES}")
    return types


@routes.get("/messages/receipts")
def receipts(
    api: MessageServices,
    call: Call,
    conversation: ConversationId,
    cursor: field.PageCursor = "",
    limit: PageLimit = 50,
) -> ReceiptsAnswer:
    """List the read positions of the other members of a conversation."""
    after_user = read_cursor(cursor) or ""
    # One more row is read, to know whether there are more.
    receipts = api.log.marks.receipts(
        call.app, call.user, conversation, after_user, limit + 1
    )
    rows, next_cursor = page_and_cursor(receipts, limit, lambda row: row.user)
    page = [ReceiptShown(row.user, row.read, row.received) for row in rows]
    return ReceiptsAnswer(page, next_cursor)


@routes.get("/messages/sync")
def sync(
    api: MessageServices,
    call: Call,
    after: Annotated[
        int,
        about(
            "The position from which to continue: `after` of the previous page; 0: "
            "the first entry.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0,
    limit: PageLimit = 50,
) -> SyncAnswer:
    """List the entries that a user missed in all conversations.

    Lists the entries after a position of the log, in order, for clients without
    a connection or after a reconnect. The client saves `after`, and applies
    recalls and edits to the messages that they refer to.
    """
    entries, more = api.log.entries.sync(call.app, call.user, after, limit)
    # The extent is read after the page, because entries of the page may expire
    # meanwhile. If entries after the position have expired, the client must
    # begin anew.
    if after and not api.log.entries.extent(call.app).continues(after):
        return SyncAnswer([], 0, more=True, begin_anew=True)
    position = entries[-1].id if entries else after
    shown = [shown_entry(entry) for entry in entries]
    return SyncAnswer(shown, position, more, begin_anew=False)


@routes.get("/messages/marks")
def marks(
    api: MessageServices,
    call: Call,
    version: Annotated[
        int,
        about("The `version` of the previous answer; 0: all marks.", ge=0, le=Limit.ID),
    ] = 0,
) -> MarksAnswer:
    """List the read positions and hidden messages of a user on all devices."""
    return api.receipts.marks(call.app, call.user, version)


FirstMessage = Annotated[
    int, about("The first message of the thread.", ge=1, le=Limit.ID)
]


class ThreadShown(ThreadState, frozen=True):
    """A thread as a user sees it."""

    message: Annotated[
        MessageShown | None,
        about(
            "The first message of the thread; null: the message has expired, or the "
            "user may not read it."
        ),
    ]


class ThreadAnswer(ThreadShown, frozen=True, kw_only=True):
    """A thread with a page of its replies, in the order of their ids."""

    messages: list[MessageShown]
    before: Annotated[
        int,
        about(
            "`before` of the next page of older replies; 0: there are no older replies."
        ),
    ]


class ThreadsAnswer(Struct):
    """Threads, ordered by their newest replies, the newest first."""

    threads: list[ThreadShown]
    before: Annotated[
        int, about("`before` of the next page; 0: this is the last page.")
    ]


def _shown(thread: Thread | None) -> ThreadShown:
    """Return a thread in the shape of the answer.

    Raises ApiProblem if ``thread`` is None, because the user cannot read it.
    """
    if thread is None:
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    message = None
    if thread.message is not None:
        message = shown_entry(thread.message)
    return view(ThreadShown, thread, message=message)


thread_routes = Resource(
    "conversations",
    service=lambda core, _: core.service(MessageServices).threads,
    base=Acting,
    hot=False,
    problems=(Problems.UNKNOWN_MESSAGE,),
    need=Needs.ADMIN_OR_MEMBER,
    act="",
)


@thread_routes.get("/threads/list")
def list_threads(
    threads: ThreadCommands, call: Call, before: Before = 0, limit: PageLimit = 50
) -> ThreadsAnswer:
    """List the threads that a user follows.

    A user who writes in a thread or is mentioned in it follows the thread from
    then on. The author of its first message follows it, too. Threads with the
    newest replies come first.
    """
    page, more = threads.list(call.app, call.user, before, limit)
    next_before = 0
    if more:
        next_before = page[-1].last
    return ThreadsAnswer([_shown(each) for each in page], next_before)


@thread_routes.get("/threads/get")
def get_thread(
    threads: ThreadCommands,
    call: Call,
    thread: FirstMessage,
    before: Before = 0,
    limit: PageLimit = 50,
) -> ThreadAnswer:
    """Read the replies of a thread.

    The replies are messages of the conversation, so its history also has them.
    Any message can begin a thread.
    """
    page = threads.page(call.app, call.user, thread, before, limit)
    if page is None:
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    row, entries, next_before = page
    messages = [shown_entry(entry) for entry in entries]
    return view(ThreadAnswer, _shown(row), messages=messages, before=next_before)


@thread_routes.post("/threads/follow", schema=("FollowRequest", "A thread to follow."))
def follow_thread(
    threads: ThreadCommands,
    call: Call,
    thread: FirstMessage,
    remove: Annotated[
        bool,
        about("Whether to mute the thread, so that the user no longer follows it."),
    ] = False,
) -> ThreadShown:
    """Follow a thread, or mute it.

    The server notifies a user of replies in the threads that they follow. A
    muted thread stays muted, even if it mentions the user.
    """
    return _shown(threads.follow(call.app, call.user, thread, not remove))


@thread_routes.post(
    "/threads/read",
    schema=("ReadThreadRequest", "A thread and the last reply that the user has read."),
)
def read_thread(
    threads: ThreadCommands, call: Call, thread: FirstMessage, id: MessageId
) -> ThreadShown:
    """Mark a thread as read up to a reply.

    The position never moves back. The server stores it only for users who
    follow the thread or have muted it.
    """
    return _shown(threads.read(call.app, call.user, thread, id))
