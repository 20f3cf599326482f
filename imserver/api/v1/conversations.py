"""Routes that ask about conversations: lists, what was missed, history, search, receipts, marks."""

from __future__ import annotations

from typing import Any, Final

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.actor import ACTOR_PROBLEMS, actor
from imserver.api.v1.conversation import (
    ConversationsAnswer,
    ConversationsQuery,
    HistoryQuery,
    MarksAnswer,
    MarksQuery,
    MessagesAnswer,
    ReceiptsAnswer,
    ReceiptShown,
    ReceiptsQuery,
    SearchQuery,
    SyncAnswer,
    SyncQuery,
    shown_entry,
    shown_talk,
)
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.wire import reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.services.messages import page_bounds


def log_of(api: Api) -> Any:
    """The message log; None while nothing was ever stored."""
    store = api.services.store
    return store.log() if store.keeps else None


def conversations(api: Api, call: Call) -> Answer:
    """``GET /api/v1/conversations``."""
    asked = read_query(call, ConversationsQuery)
    who = actor(api, call, asked)
    log = log_of(api)
    talks, more = (
        ([], False) if log is None else log.list_conversations(who.app, who.user, asked.before, asked.limit)
    )
    listed = [shown_talk(talk, who.user) for talk in talks]
    return reply(call, ConversationsAnswer(listed, talks[-1].place if more else 0))


def history(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages``."""
    asked = read_query(call, HistoryQuery)
    who = actor(api, call, asked)
    log = log_of(api)
    if log is None:
        return reply(call, MessagesAnswer([], 0))
    read = log.history(who.app, who.user, asked.conversation, asked.before, asked.limit)
    entries, more = page_bounds.newest(*read)
    shown = [shown_entry(entry) for entry in entries]
    return reply(call, MessagesAnswer(shown, entries[0].id if more else 0))


def search(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages/search``."""
    asked = read_query(call, SearchQuery)
    who = actor(api, call, asked)
    if not asked.text.strip() or "\0" in asked.text:
        raise Problem(errors.HTTP_INVALID_REQUEST, "`text`: there is nothing to look for")
    entries, before = api.services.finding.search(
        who.app, who.user, asked.text, asked.conversation, asked.before, asked.limit
    )
    return reply(call, MessagesAnswer([shown_entry(entry) for entry in entries], before))


def receipts(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages/receipts``."""
    asked = read_query(call, ReceiptsQuery)
    who = actor(api, call, asked)
    log, behind = log_of(api), after(asked.cursor) or ""
    rows = [] if log is None else log.receipts(who.app, who.user, asked.conversation, behind, asked.limit)
    following = cursor_of(rows[-1].user) if len(rows) == asked.limit else ""
    shown = [ReceiptShown(row.user, row.read, row.received) for row in rows]
    return reply(call, ReceiptsAnswer(shown, following))


def sync(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages/sync``."""
    asked = read_query(call, SyncQuery)
    who = actor(api, call, asked)
    log, after_ = log_of(api), asked.after
    if after_ and (log is None or not log.floor(who.app) <= after_ <= log.head(who.app)):
        return reply(call, SyncAnswer([], 0, True, True))
    read = ([], False) if log is None else log.sync(who.app, who.user, after_, asked.limit)
    entries, more = page_bounds.oldest(*read)
    following = entries[-1].id if entries else after_
    return reply(call, SyncAnswer([shown_entry(entry) for entry in entries], following, more, False))


def marks(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages/marks``."""
    asked = read_query(call, MarksQuery)
    who = actor(api, call, asked)
    return reply(call, api.services.receipts.marks(who.app, who.user, asked.version))


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
