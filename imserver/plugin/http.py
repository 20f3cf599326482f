"""The face: routes, requests and their answers."""

from imserver.api.v1.conversations import ON_BEHALF, ConversationId
from imserver.api.v1.messages import MessageApi, SendRequest, problem_of
from imserver.api.v1.streamed import (
    MOST_PIECES,
    REFUSALS,
    PieceRequest,
    PieceResult,
    StreamAppended,
    StreamId,
    appended,
    pieces_of,
    require_answer,
)
from imserver.config.declared import about
from imserver.http.call import Api, Call, Route, decode, reply
from imserver.http.field import AccountApp, Acting, ActingPage, App, NextCursor, PageCursor
from imserver.http.form import BadBody, cursor_of, parse_form, parse_json, read_cursor
from imserver.http.limits import Limits
from imserver.http.operation import Header, Refusals, Resource, one_of, refuse
from imserver.http.reply import PROBLEM, ApiProblem, BatchAnswers, RequestRefused, success
from imserver.http.streaming import stream_head, stream_refused
from imserver.http.views import as_request, to_response
from imserver.http.wire import page_and_cursor
from imserver.transport.exchange import HttpRequest, HttpResponse

__all__ = [
    "MOST_PIECES",
    "ON_BEHALF",
    "PROBLEM",
    "REFUSALS",
    "AccountApp",
    "Acting",
    "ActingPage",
    "Api",
    "ApiProblem",
    "App",
    "BadBody",
    "BatchAnswers",
    "Call",
    "ConversationId",
    "Header",
    "HttpRequest",
    "HttpResponse",
    "Limits",
    "MessageApi",
    "NextCursor",
    "PageCursor",
    "PieceRequest",
    "PieceResult",
    "Refusals",
    "RequestRefused",
    "Resource",
    "Route",
    "SendRequest",
    "StreamAppended",
    "StreamId",
    "about",
    "appended",
    "as_request",
    "cursor_of",
    "decode",
    "one_of",
    "page_and_cursor",
    "parse_form",
    "parse_json",
    "pieces_of",
    "problem_of",
    "read_cursor",
    "refuse",
    "reply",
    "require_answer",
    "stream_head",
    "stream_refused",
    "success",
    "to_response",
]
