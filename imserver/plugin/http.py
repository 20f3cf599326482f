"""The face: routes, requests and their answers."""

from imserver.api.v1 import messages
from imserver.api.v1.conversations import ON_BEHALF, ConversationId
from imserver.api.v1.messages import MessageApi, SendRequest, message_api, problem_of
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
from imserver.api.v1.table import described
from imserver.http import field
from imserver.http.call import Api, Call, Route, admit, authorise, decode, read, reply, unpacked_body
from imserver.http.field import Acting, ActingPage, about
from imserver.http.form import BadBody, cursor, parse_form, parse_json, read_cursor
from imserver.http.limits import Limits
from imserver.http.operation import Header, Refusals, Resource, one_of, refuse, route_of
from imserver.http.rates import Rates, too_many
from imserver.http.reply import PREFLIGHT, PROBLEM, ApiProblem, BatchAnswers, RequestRefused, Style, success
from imserver.http.streaming import stream_head, stream_refused
from imserver.http.views import as_request, to_response
from imserver.http.wire import GZIP, after, page_and_cursor
from imserver.transport.exchange import CORS, HttpRequest, HttpResponse

__all__ = [
    "CORS",
    "GZIP",
    "MOST_PIECES",
    "ON_BEHALF",
    "PREFLIGHT",
    "PROBLEM",
    "REFUSALS",
    "Acting",
    "ActingPage",
    "Api",
    "ApiProblem",
    "BadBody",
    "BatchAnswers",
    "Call",
    "ConversationId",
    "Header",
    "HttpRequest",
    "HttpResponse",
    "Limits",
    "MessageApi",
    "PieceRequest",
    "PieceResult",
    "Rates",
    "Refusals",
    "RequestRefused",
    "Resource",
    "Route",
    "SendRequest",
    "StreamAppended",
    "StreamId",
    "Style",
    "about",
    "admit",
    "after",
    "appended",
    "as_request",
    "authorise",
    "cursor",
    "decode",
    "described",
    "field",
    "message_api",
    "messages",
    "one_of",
    "page_and_cursor",
    "parse_form",
    "parse_json",
    "pieces_of",
    "problem_of",
    "read",
    "read_cursor",
    "refuse",
    "reply",
    "require_answer",
    "route_of",
    "stream_head",
    "stream_refused",
    "success",
    "to_response",
    "too_many",
    "unpacked_body",
]
