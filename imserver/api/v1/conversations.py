"""Routes of conversations: lists, history, search, receipts; reading, recalling, editing."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from gevent.event import AsyncResult

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.actor import ACTOR_PROBLEMS, Acting, actor
from imserver.api.v1.conversation import (
    ConversationsAnswer,
    ConversationsQuery,
    EditRequest,
    HistoryQuery,
    MessagesAnswer,
    ReadAnswer,
    ReadRequest,
    RecallRequest,
    ReceiptsAnswer,
    ReceiptShown,
    ReceiptsQuery,
    RevisionAnswer,
    SearchQuery,
    shown_entry,
    shown_talk,
)
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.wire import read, reply
from imserver.errors import StorageUnavailable
from imserver.services.messages.revisions import revision
from imserver.storage.log_contract import RECALLED, Appended, Rejected

_read_read: Final = msgspec.json.Decoder(ReadRequest)
_read_recall: Final = msgspec.json.Decoder(RecallRequest)
_read_edit: Final = msgspec.json.Decoder(EditRequest)


def _log(api: Api) -> Any:
    """The message log; None while nothing was ever stored."""
    store = api.services.store
    return store.log() if store.keeps else None


# --- asking -------------------------------------------------------------------------------------------------


def conversations(api: Api, call: Call) -> Answer:
    """``GET /api/v1/conversations``."""
    asked = read_query(call, ConversationsQuery)
    who = actor(api, call, asked)
    log = _log(api)
    talks, more = ([], False) if log is None else log.talks(who.app, who.user, asked.before, asked.limit)
    listed = [shown_talk(talk, who.user) for talk in talks]
    return reply(call, ConversationsAnswer(listed, talks[-1].place if more else 0))


def history(api: Api, call: Call) -> Answer:
    """``GET /api/v1/messages``."""
    asked = read_query(call, HistoryQuery)
    who = actor(api, call, asked)
    log = _log(api)
    if log is None:
        return reply(call, MessagesAnswer([], 0))
    entries, more = log.history(who.app, who.user, asked.conversation, asked.before, asked.limit)
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
    log, behind = _log(api), after(asked.cursor) or ""
    rows = [] if log is None else log.receipts(who.app, who.user, asked.conversation, behind, asked.limit)
    following = cursor_of(rows[-1].user) if len(rows) == asked.limit else ""
    shown = [ReceiptShown(row.user, row.read, row.received) for row in rows]
    return reply(call, ReceiptsAnswer(shown, following))


# --- changing -----------------------------------------------------------------------------------------------


def mark_read(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/read``."""
    asked = read(api, call, _read_read)
    who = actor(api, call, asked)
    noted = api.services.receipts.note(who.app, who.user, asked.conversation, read=asked.id)
    if noted is None:
        raise Problem(errors.HTTP_UNKNOWN_CONVERSATION)
    return reply(call, ReadAnswer(asked.conversation, noted.receipt.read))


def recall(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/recall``."""
    asked = read(api, call, _read_recall)
    return _revise(api, call, asked, asked.id, "recall", "")


def edit(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/edit``."""
    asked = read(api, call, _read_edit)
    return _revise(api, call, asked, asked.id, "edit", asked.text)


def _revise(
    api: Api, call: Call, asked: Acting, about: int, kind: Literal["recall", "edit"], text: str
) -> Answer:
    who = actor(api, call, asked, needs_user=False)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        raise Problem(errors.HTTP_INVALID_REQUEST, "`text`: it is no text") from None
    draft = revision(_log(api), who.app, who.user, about, kind, body=body)
    if draft is None:
        raise Problem(errors.HTTP_UNKNOWN_MESSAGE)
    settled: AsyncResult[Any] = AsyncResult()
    api.services.messaging.send(who.app, draft, settled.set)
    result = settled.get()
    if isinstance(result, StorageUnavailable):
        raise result
    if not isinstance(result, Appended):  # it was recalled, or its sender is no member any more
        gone = isinstance(result, Rejected) and result.reason == RECALLED
        raise Problem(errors.HTTP_UNKNOWN_MESSAGE if gone else errors.HTTP_UNKNOWN_CONVERSATION)
    return reply(call, RevisionAnswer(result.entry.id, result.entry.conversation, result.entry.seq))


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
_STORED: Final = {"id": 8, "conversation": 1, "seq": 4}


def _query(path: str, function: Any, summary: str, description: str = "", **more: Any) -> Operation:
    more.setdefault("problems", ACTOR_PROBLEMS)
    return Operation(
        "GET", f"/api/v1/{path}", "", function, "conversations", summary, description, hot=False, **more
    )


def _row(word: str, function: Any, summary: str, description: str, **more: Any) -> Operation:
    path = f"/api/v1/messages/{word}"
    problems = (*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_CONVERSATION, *more.pop("problems", ()))
    return Operation(
        "POST",
        path,
        "",
        function,
        "conversations",
        summary,
        description,
        problems=problems,
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
    _row(
        "read",
        mark_read,
        "A user has read a conversation up to a message",
        "Never back. Those who wrote it are told.",
        body=ReadRequest,
        answer=ReadAnswer,
        example_body={**_ON_BEHALF, "conversation": 1, "id": 7},
        example_answer={"conversation": 1, "read": 7},
    ),
    _row(
        "recall",
        recall,
        "Take a message back",
        "Nobody reads it any more. It is an entry of its own, which tells everybody who may read the "
        "message.",
        body=RecallRequest,
        answer=RevisionAnswer,
        problems=(errors.HTTP_UNKNOWN_MESSAGE,),
        example_body={**_ON_BEHALF, "id": 7},
        example_answer=_STORED,
    ),
    _row(
        "edit",
        edit,
        "Let a message say something else",
        "Nobody reads what it said before. It is an entry of its own, which tells everybody who may read the "
        "message. One that was recalled stays as it is.",
        body=EditRequest,
        answer=RevisionAnswer,
        problems=(errors.HTTP_UNKNOWN_MESSAGE,),
        example_body={**_ON_BEHALF, "id": 7, "text": "tea!"},
        example_answer=_STORED,
    ),
)
