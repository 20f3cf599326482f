"""Chats with bots for the AI SDK and AG-UI: a client posts a message, and gets
the answer of the bot as a stream."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from time import time
from typing import Annotated, Any, Final, NamedTuple
from uuid import uuid4

import gevent
from msgspec import Meta, Struct
from msgspec.structs import replace

from imserver.plugin import FeatureRow, Parts, SettingsRow
from imserver.plugin.errors import CloseCode, Problems, StorageUnavailable, Unavailable
from imserver.plugin.http import (
    PROBLEM,
    ApiProblem,
    Call,
    HttpResponse,
    Route,
    stream_head,
    stream_refused,
)
from imserver.plugin.identity import Buckets, Needs, Principal, Rate, TooManyRequests
from imserver.plugin.messages import (
    Appended,
    Draft,
    Message,
    MessageLog,
    MessageServices,
    Rejected,
)
from imserver.plugin.services import ChannelRefused, Core
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Head,
    Stream,
    StreamEncoding,
    StreamPath,
    app_and_user,
    host_of,
)

from .requests import Chat, Question, read_message
from .wire import (
    NAME,
    Answer,
    AnswerDialect,
    Asking,
    Chunk,
    ChunkedEncoding,
    Socket,
    SocketDialect,
    ag_ui_line,
    is_number,
    metadata_of,
    resume_frame,
    run_line,
    socket_frame,
    socket_line,
    ui_line,
    whole_chunks,
)

PATH: Final = "/ai-chat"
PAGE: Final = 50
"""Messages on a page of the history."""
SILENT_SECONDS: Final = 10.0
"""How long a client waits for the first sign of a bot that has no
connection."""
LOST_SECONDS: Final = 30.0
"""How long a client waits for an answer that is neither stored nor being
streamed."""
MESSAGES: Final = Rate(
    "ai_chat_messages", "messages over /ai-chat", "user", "limits.messages_per_second"
)
MOST_ANSWERS: Final = 16
"""The most answers that one WebSocket receives at once."""
_TYPE: Final = "text/event-stream; charset=utf-8"
_HEADERS: Final = (
    b"x-vercel-ai-ui-message-stream: v1\r\nAccess-Control-Expose-Headers: *\r\n"
)
_DEVICE_CHARACTERS: Final = 12
"""Number of random hexadecimal digits that tell the connections of a user
apart."""
_SECOND_MS: Final = 1000
_OPEN_QUERY: Final = f"{NAME}.open"
_EMPTY: Final = HttpResponse(204, b"")


class AiChatSettings(Struct, frozen=True):
    """The section ``ai_chat``. ``app``: the app whose bots answer."""

    app: Annotated[str, Meta(min_length=1)] = "gochat"


class OpenQuery(Struct, frozen=True, array_like=True):
    """The query for the open streams of a bot in a channel, on one node."""

    app: str
    channel: str
    bot: str


class Form(NamedTuple):
    """The form of the answers for one kind of client, over HTTP."""

    line: Callable[[Answer, Chunk], bytes]
    """Writes a chunk of an answer."""
    chunked: StreamEncoding
    """Frames the bytes for HTTP/1.1."""
    plain: StreamEncoding
    """Frames the bytes for HTTP/1.0."""


class AnswerSource(NamedTuple):
    """Where an answer comes from: it is stored, or it comes later."""

    cursor: int
    """The entry of the log after which the answer comes."""
    stored: Message | None = None
    """The answer, if it is stored already."""


class AiChat:
    """Serves the chats of one node.

    A client posts a message to a bot by one request, and gets the answer as a
    stream of *chunks*. A bot is an account of a program.
    """

    def __init__(self, core: Core, services: MessageServices) -> None:
        """Take the services of the node, and answer queries of other nodes."""
        self._core = core
        self._settings = settings_of(core.config, AiChatSettings)
        self._messaging = services.messaging
        self._texts = services.streams
        self._starts = services.stream_starts
        self._log = core.store.part(MessageLog)
        self._rate = Buckets(MESSAGES, core.limits.messages_per_second)
        self._message_bytes = core.limits.message_bytes
        self._ui = _form(ui_line, UI)
        self._ag_ui = _form(ag_ui_line, AG_UI)
        core.queries.add(_OPEN_QUERY, OpenQuery, self._open_here)

    def paths(self, _serve: object) -> dict[str, StreamPath]:
        """Return the way to serve each path whose answer is a stream."""
        stream_ui = partial(self._stream_answer, self._ui)
        stream_ag_ui = partial(self._stream_answer, self._ag_ui)
        return {
            PATH: self._stream_path("POST", stream_ui),
            f"{PATH}/ag-ui": self._stream_path("POST", stream_ag_ui),
            f"{PATH}/*/stream": self._stream_path("GET", self._resume),
        }

    def _stream_path(
        self, method: str, open: Callable[[Stream, Head], None]
    ) -> StreamPath:
        """Return the way to serve a path. ``open`` opens its streams."""
        refuse = partial(stream_refused, self._core.node.request_log, style=PROBLEM)
        return StreamPath(method, partial(self._open_or_refuse, open), refuse)

    # --- streams --------------------------------------------------------------

    def _open_or_refuse(
        self, open: Callable[[Stream, Head], None], stream: Connection, head: Head
    ) -> None:
        """Open a stream, or refuse it with the status of its problem.

        May switch greenlets.
        """
        assert isinstance(stream, Stream)
        try:
            open(stream, head)
        except (ApiProblem, Unavailable) as error:
            log = self._core.node.request_log
            host = host_of(stream.peer)
            problem = _problem_of(error)
            stream.refuse(
                stream_refused(log, head, host, problem, PROBLEM), CloseCode.POLICY
            )

    def _stream_answer(self, form: Form, stream: Stream, head: Head) -> None:
        """Store the message of a request, and stream the answer to it.

        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        question = read_message(head.body)
        principal = self._user_of(head.headers, host_of(stream.peer))
        answer = self._new_answer_on_stream(stream, principal, question.chat, form)
        answer.thread = question.thread
        answer.run = question.run
        source = self._store_question(principal, question, answer)
        self._begin(form, stream, head, principal, answer, source)

    def _store_question(
        self, principal: Principal, question: Question, answer: Answer
    ) -> AnswerSource:
        """Store a question, and return where its answer comes from.

        A question without a text was stored before. May switch greenlets.
        Raises ApiProblem and StorageUnavailable.
        """
        chat = question.chat
        self._check_bot(principal, chat)
        # If the client sends the message again, it was stored earlier. Then it
        # has an answer already, or any open stream may be the answer.
        earlier = self._log.entries.sent(
            principal.app, principal.user, question.client_msg_id
        )
        streams = self._open_streams(principal, chat)
        if question.text:
            entry = self._store_message(principal, question)
        else:
            entry = self._stored_question(principal, chat, earlier)
        # The client names the stream if it has a part of the answer.
        if answer.stream:
            return AnswerSource(entry.id, self._find_stored(principal, answer, streams))

        answer.skipped = _streams_before(earlier, streams)
        gevent.spawn_later(SILENT_SECONDS, self._watch_bot, principal, chat, answer)
        if not earlier:
            return AnswerSource(entry.id)
        return AnswerSource(entry.id, self._find_after(principal, entry, answer))

    def _find_after(
        self, principal: Principal, question: Message, answer: Answer
    ) -> Message | None:
        """Return the stored answer to a question that was stored earlier, or
        None.

        May switch greenlets. Raises StorageUnavailable.
        """
        entries, _ = self._log.entries.history(
            principal.app, principal.user, question.conversation, 0, PAGE, question.id
        )
        return next(filter(answer.is_of, entries), None)

    def _stored_question(
        self, principal: Principal, chat: Chat, earlier: Message | None
    ) -> Message:
        """Return the question of a run that continues.

        ``earlier``: the user's message with the id of the run, if there is one.
        May switch greenlets. Raises ApiProblem if it is not in this chat.
        """
        receiver = chat.conversation or chat.bot
        if not earlier or (earlier.to or earlier.conversation) != receiver:
            raise ApiProblem(
                Problems.NOT_FOUND, "There is no such run of yours in this chat"
            )
        # The user may have left the group meanwhile.
        self._check_member(principal, chat)
        return earlier

    def _resume(self, stream: Stream, head: Head) -> None:
        """Stream an answer from its beginning.

        It is the open answer, or the one that the parameter ``message`` names,
        which may have ended meanwhile. If no answer is open, wait for the next
        one with ``wait``, and otherwise answer with status 204. May switch
        greenlets. Raises ApiProblem and Unavailable.
        """
        chat = Chat.of(head.path.split("/")[2])
        parameters = head.params()
        principal = self._user_of(head.headers, host_of(stream.peer))
        message = parameters.get("message", "")
        self._check_member(principal, chat)
        cursor = self._log.entries.head(principal.app)
        may_wait = bool(message or "wait" in parameters)
        streams = self._streams_to_resume(principal, chat, may_wait)
        if not (streams or may_wait):
            self._refuse_without_answer(stream, head)
            return

        answer = self._new_answer_on_stream(stream, principal, chat, self._ui)
        answer.stream = message or next(reversed(streams), "")
        stored = None
        if message:
            stored = self._find_stored(principal, answer, streams)
        source = AnswerSource(cursor, stored)
        self._begin(self._ui, stream, head, principal, answer, source)

    def _streams_to_resume(
        self, principal: Principal, chat: Chat, may_wait: bool
    ) -> dict[str, int]:
        """Return the open streams of a chat with a bot, as
        :meth:`_open_streams` does.

        ``may_wait``: the client waits for an answer if none is open. May switch
        greenlets. Raises ApiProblem if the chat is with no bot.
        """
        streams = self._open_streams(principal, chat, must_know=not may_wait)
        # An open stream is not delayed by this query.
        if not streams:
            self._check_bot(principal, chat)
        return streams

    def _refuse_without_answer(self, stream: Stream, head: Head) -> None:
        """Refuse a stream with status 204: there is no answer to resume."""
        log = self._core.node.request_log
        host = host_of(stream.peer)
        problem = ApiProblem(Problems.NOT_FOUND)
        style = replace(PROBLEM, refuse=lambda *_: _EMPTY)
        stream.refuse(stream_refused(log, head, host, problem, style), CloseCode.NORMAL)

    def _find_stored(
        self, principal: Principal, answer: Answer, streams: Collection[str]
    ) -> Message | None:
        """Return the answer that a client names, if it is stored.

        The name is in ``answer.stream``. ``streams``: the open streams. If the
        answer is neither stored nor open, it is given up after
        :data:`LOST_SECONDS`, and None is returned. May switch greenlets.
        """
        id = self._id_of_answer(principal.app, answer.bot, name=answer.stream)
        readable = self._log.entries.readable(principal.app, principal.user, [id])
        stored = next(filter(answer.is_of, readable), None)
        if stored is None and answer.stream not in streams:
            gevent.spawn_later(
                LOST_SECONDS, self._give_up, answer, "the answer is lost"
            )
        return stored

    def _id_of_answer(self, app: str, bot: str, name: str) -> int:
        """Return the id of the stored message that an answer has; 0 if none is
        stored.

        ``name``: the id of a stream or of a stored message. May switch
        greenlets.
        """
        sent = self._log.entries.sent(app, bot, name)
        if sent:
            return sent.id
        if is_number(name):
            return int(name)
        return 0

    def _watch_bot(self, principal: Principal, chat: Chat, answer: Answer) -> None:
        """Greenlet: give up an answer that has not begun, if the bot is away.

        The bot is away if it has neither a connection nor a stream. This is
        checked every :data:`SILENT_SECONDS` until the answer begins.
        """
        presence = self._core.presence
        while answer.connection.is_open and not (answer.begun or answer.over):
            streams = self._open_streams(principal, chat)
            has_stream = bool(streams.keys() - answer.skipped)
            if not has_stream and not presence.is_online((principal.app,), chat.bot):
                self._give_up(answer, "the bot does not answer")
                return
            gevent.sleep(SILENT_SECONDS)

    def _give_up(self, answer: Answer, why: str) -> None:
        """End an answer that has not begun, and tell the client why."""
        if answer.begun:
            return
        line = answer.encode(answer, {"type": "error", "errorText": why})
        if line:
            answer.connection.send(line)
        answer.close()

    def _new_answer_on_stream(
        self, stream: Stream, principal: Principal, chat: Chat, form: Form
    ) -> Answer:
        """Return the answer that an HTTP response will carry. It ends the
        response."""
        close = partial(stream.close, CloseCode.NORMAL)
        return self._new_answer(stream, principal, chat, form.line, close)

    def _new_answer(
        self,
        connection: Connection,
        principal: Principal,
        chat: Chat,
        line: Callable[[Answer, Chunk], bytes],
        close: Callable[[], object],
    ) -> Answer:
        """Return the answer that a connection will receive.

        ``line`` encodes its chunks, and ``close`` is called after its end.
        """
        return Answer(
            connection=connection,
            close=close,
            encode=line,
            user=principal.user,
            bot=chat.bot,
            conversation=chat.conversation,
            channel=chat.channel(principal.user),
            skipped=frozenset(),
        )

    def _begin(
        self,
        form: Form,
        stream: Stream,
        head: Head,
        principal: Principal,
        answer: Answer,
        source: AnswerSource,
    ) -> None:
        """Begin a session that receives an answer, and send what is there of
        it.

        May switch greenlets.
        """
        start = None
        if source.stored is None:
            start = self._starts.start(principal.app, principal.user, source.cursor)
        authorization = head.headers.get("authorization", "")
        if not self._begin_session(stream, principal, authorization):
            return

        self._send_head(form, stream, head, principal)
        stream.dialect_state = answer
        if source.stored is not None:
            stream.send(answer.take_message(source.stored))
        elif start is not None:
            self._starts.send(stream, start)

    def _send_head(
        self, form: Form, stream: Stream, head: Head, principal: Principal
    ) -> None:
        """Send the head of the HTTP response. The body can follow then."""
        log = self._core.node.request_log
        host = host_of(stream.peer)
        opening = stream_head(log, head, host, _TYPE, principal.label)
        # Further headers follow the last header of the head.
        opening = opening.removesuffix(b"\r\n") + _HEADERS
        if head.version == "1.0":
            stream.begin(form.plain, opening + b"\r\n")
        else:
            opening += b"Transfer-Encoding: chunked\r\n\r\n"
            stream.begin(form.chunked, opening)

    def _begin_session(
        self, connection: Connection, principal: Principal, authorization: str
    ) -> bool:
        """Begin a session of a user. False if the connection was closed.

        May switch greenlets.
        """
        token = authorization.partition(" ")[2].strip()
        device = f"{NAME}-{uuid4().hex[:_DEVICE_CHARACTERS]}"
        # Each connection is a separate device, so that a second one does not
        # end the first.
        return self._core.sessions.begin_for(
            connection, principal.app, principal, token, NAME, device
        )

    # --- sockets --------------------------------------------------------------

    def opened(self, connection: Connection, head: Head) -> None:
        """Handle a new WebSocket. Its session begins with its first request.

        A client that continues a run puts this request into the URL. May switch
        greenlets.
        """
        parameters = head.params()
        connection.dialect_state = Socket(
            authorization=f"Bearer {parameters.get('token', '')}"
        )
        if "offset" in parameters:
            connection.encoding.serve(connection, resume_frame(parameters), True)

    def run(self, connection: Connection, asking: Asking) -> None:
        """Run a request of a WebSocket. A problem is sent to the client.

        May switch greenlets.
        """
        socket = connection.dialect_state
        assert isinstance(socket, Socket)
        # A request with the id of an earlier one ends the earlier answer.
        answer = socket.answers.pop(asking.request, None)
        if answer is not None:
            answer.over = True
        if asking.kind == "abort":
            return
        try:
            # Two requests with one id would get frames that nobody could tell
            # apart.
            if answer is not None and not asking.is_run:
                raise ApiProblem.invalid("`requestId`: a request has it, which ends")
            self._answer_on_socket(connection, socket, asking)
        except (ApiProblem, Unavailable) as error:
            connection.send(asking.refusal(str(_problem_of(error))))
            if asking.offset is not None:
                connection.close(CloseCode.POLICY)

    def _answer_on_socket(
        self, connection: Connection, socket: Socket, asking: Asking
    ) -> None:
        """Stream an answer to a WebSocket.

        It is the answer to a message, or the open answer from its beginning.
        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        principal = self._user_of_socket(connection, socket, asking)
        if principal is None:
            return
        if len(socket.answers) >= MOST_ANSWERS:
            raise ApiProblem(Problems.TOO_MANY_REQUESTS)

        question = _question_of(asking)
        if question is None:
            self._resume_on_socket(connection, socket, asking, principal)
            return
        answer = self._new_answer_on_socket(
            connection, socket, asking, principal, question.chat
        )
        answer.thread = question.thread
        answer.run = question.run
        answer.stream, answer.passed = asking.position()
        source = self._store_question(principal, question, answer)
        self._begin_on_socket(connection, socket, asking, principal, answer, source)

    def _resume_on_socket(
        self,
        connection: Connection,
        socket: Socket,
        asking: Asking,
        principal: Principal,
    ) -> None:
        """Stream the open answer of a chat, or tell the client that there is
        none.

        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        chat = Chat.of(asking.chat)
        answer = self._new_answer_on_socket(connection, socket, asking, principal, chat)
        source = self._find_open(principal, chat, answer)
        if source is None:
            connection.send(socket_frame("no-active", asking.request))
            return
        self._begin_on_socket(connection, socket, asking, principal, answer, source)

    def _new_answer_on_socket(
        self,
        connection: Connection,
        socket: Socket,
        asking: Asking,
        principal: Principal,
        chat: Chat,
    ) -> Answer:
        """Return the answer that a WebSocket will receive, in the client's
        form."""

        def close() -> None:
            self._end_on_socket(connection, socket, asking, answer)

        if asking.is_run:
            line = run_line
        else:
            line = socket_line
        answer = self._new_answer(connection, principal, chat, line, close)
        answer.request = asking.request
        return answer

    def _find_open(
        self, principal: Principal, chat: Chat, answer: Answer
    ) -> AnswerSource | None:
        """Let an answer be the newest open stream of a chat. None if none is
        open.

        May switch greenlets. Raises ApiProblem.
        """
        self._check_member(principal, chat)
        cursor = self._log.entries.head(principal.app)
        streams = self._open_streams(principal, chat, must_know=True)
        if not streams:
            return None
        answer.stream = next(reversed(streams))
        return AnswerSource(cursor)

    def _user_of_socket(
        self, connection: Connection, socket: Socket, asking: Asking
    ) -> Principal | None:
        """Return the user who makes a request on a WebSocket.

        The first request begins the session. None if the WebSocket was closed.
        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        authorization = asking.authorization or socket.authorization
        principal = self._user_of(
            {"authorization": authorization}, host_of(connection.peer)
        )
        if connection.user is not None:
            if app_and_user(connection) != (principal.app, principal.user):
                raise ApiProblem(Problems.FORBIDDEN, "The WebSocket is of another user")
            return principal

        if not self._begin_session(connection, principal, authorization):
            return None
        connection.dialect_state = socket
        return principal

    def _begin_on_socket(
        self,
        connection: Connection,
        socket: Socket,
        asking: Asking,
        principal: Principal,
        answer: Answer,
        source: AnswerSource,
    ) -> None:
        """Begin an answer on a WebSocket, and send what is there of it.

        May switch greenlets.
        """
        start = None
        if source.stored is None:
            start = self._starts.start(principal.app, principal.user, source.cursor)

        socket.answers[asking.request] = answer
        if not asking.is_run:
            connection.send(socket_frame("start", asking.request))
        elif not answer.passed:
            # The client learns at once that the run continues. The real start
            # comes later as event 1, which the client has then.
            run_line(answer, {"type": "start"})
            answer.sequence = 0
            answer.passed = 1

        if source.stored is not None:
            answer.take_message(source.stored)
        elif start is not None:
            self._starts.send(connection, start)

    def _end_on_socket(
        self, connection: Connection, socket: Socket, asking: Asking, answer: Answer
    ) -> None:
        """Handle the end of an answer on a WebSocket.

        The client is told. If the connection was only for this answer, it is
        closed.
        """
        if socket.answers.get(asking.request) is not answer:
            return  # a new request has its id now
        del socket.answers[asking.request]
        if not asking.is_run:
            connection.send(socket_frame("end", asking.request))
        elif asking.offset is not None:
            connection.close(CloseCode.NORMAL)

    def _open_streams(
        self, principal: Principal, chat: Chat, must_know: bool = False
    ) -> dict[str, int]:
        """Return the open streams of a bot in a chat on all nodes, the oldest
        first.

        The result is: id of a stream → when it began, in Unix milliseconds. The
        time is 0 if a node of an older version has the stream, because such a
        node does not tell it.

        ``must_know``: raise ApiProblem if no stream is open and a node has not
        answered. May switch greenlets.
        """
        query = OpenQuery(principal.app, chat.channel(principal.user), chat.bot)
        answers, missing = self._core.ask_others(
            _OPEN_QUERY, query, list[tuple[int, str]]
        )
        rows = chain(self._open_here(query), *answers.values())
        streams = dict[str, int]()
        for begun, id in sorted(rows):
            # Several nodes may know a stream. The node that has it knew it
            # first.
            streams.setdefault(id, begun)
        if must_know and missing and not streams:
            raise ApiProblem(Problems.NOT_ACCEPTED)
        return streams

    def _open_here(self, query: OpenQuery) -> list[tuple[int, str]]:
        """Return the open streams of a bot on this node, as (time of its begin,
        id)."""
        streams = self._messaging.streams.of(query.app, query.channel).values()
        return [
            (stream.begun, stream.id)
            for stream in streams
            if stream.head.sender == query.bot
        ]

    # --- messages -------------------------------------------------------------

    def _store_message(self, principal: Principal, question: Question) -> Message:
        """Store the message of a user, and return its entry of the log.

        May switch greenlets. Raises ApiProblem and StorageUnavailable.
        """
        body = question.text.encode()
        if len(body) > self._message_bytes:
            raise ApiProblem.invalid("The message is too long")
        self._require_rate(principal)

        bot, conversation = question.chat
        to_user = bot
        if conversation:
            to_user = ""  # the message goes to a group
        draft = Draft(
            sender=principal.user,
            to_user=to_user,
            conversation=conversation,
            body=body,
            client_msg_id=question.client_msg_id,
            time_ms=int(time() * _SECOND_MS),
        )
        result = self._messaging.store(principal.app, draft, by_user=True)
        if isinstance(result, Appended):
            return result.entry
        raise _error_of_refusal(result)

    def _require_rate(self, principal: Principal) -> None:
        """Count a message of a user. Raises ApiProblem if there are too
        many."""
        try:
            self._rate.require_one((principal.app, principal.user), 1)
        except TooManyRequests as error:
            wait = (("Retry-After", str(error.seconds)),)
            raise ApiProblem(Problems.TOO_MANY_REQUESTS, "", wait, error) from None

    def _check_bot(self, principal: Principal, chat: Chat) -> None:
        """Refuse a chat with a user who is not a bot.

        May switch greenlets. Raises ApiProblem.
        """
        accounts = self._core.accounts.those_of(principal.app, [chat.bot])
        if not any(account.bot for account in accounts):
            raise ApiProblem(Problems.UNKNOWN_ACCOUNT, f"There is no bot {chat.bot}")

    def _check_member(self, principal: Principal, chat: Chat) -> None:
        """Refuse a user who is not a member of the group of a chat.

        May switch greenlets. Raises ApiProblem.
        """
        if not chat.conversation:
            return
        conversations = self._log.conversations
        member = conversations.member(principal.app, chat.conversation, principal.user)
        if member is None:
            raise ApiProblem(Problems.UNKNOWN_CONVERSATION)

    def history(self, call: Call) -> HttpResponse:
        """The messages of a chat in the form of the AI SDK, the oldest first.
        May switch greenlets."""
        principal = self._require_chat_user(call.principal)
        chat = Chat.of(call.request.path.split("/")[2])
        before = call.params.get("before", "0")
        if not is_number(before):
            raise ApiProblem.invalid("`before` is the id of a message")
        self._check_member(principal, chat)
        conversation = self._conversation_of(principal, chat)
        if not conversation:
            return call.reply({"messages": [], "before": 0})

        return call.reply(self._page(principal, chat, conversation, int(before)))

    def _page(
        self, principal: Principal, chat: Chat, conversation: int, before: int
    ) -> dict[str, Any]:
        """Return the messages before an id, and the ``before`` of the page
        before them.

        ``before`` is 0 for the newest page, and after the oldest one. May
        switch greenlets.
        """
        page, has_more = self._log.entries.history(
            principal.app, principal.user, conversation, before, PAGE
        )
        entries = sorted(page, key=lambda entry: entry.id)
        messages = [
            _message_of(entry, chat.bot) for entry in entries if entry.kind == "message"
        ]
        next_before = 0
        if has_more and entries:
            next_before = entries[0].id
        return {"messages": messages, "before": next_before}

    def _conversation_of(self, principal: Principal, chat: Chat) -> int:
        """Return the conversation of a chat; 0 if nobody has written in it
        yet."""
        if chat.conversation:
            return chat.conversation
        between = self._log.conversations.between(
            principal.app, principal.user, chat.bot
        )
        if between is None:
            return 0
        return between.id

    def stop(self, call: Call) -> HttpResponse:
        """Stop the open streams of a chat; the producer gets to know it. May
        switch greenlets."""
        principal = self._require_chat_user(call.principal)
        chat = Chat.of(call.request.path.split("/")[2])
        self._check_member(principal, chat)
        try:
            # Each producer is told that a reader has stopped its answer.
            results = [
                self._texts.stop(principal.app, id, principal.user).status
                for id in self._open_streams(principal, chat, must_know=True)
            ]
        except ChannelRefused:
            raise ApiProblem(Problems.NOT_ACCEPTED) from None
        if "not_allowed" in results:
            raise ApiProblem(Problems.NOT_ALLOWED, "Others may stop this answer")
        return call.reply({"stopped": results.count("closed")})

    # --- identity -------------------------------------------------------------

    def _user_of(self, headers: Any, host: str) -> Principal:
        """Return the user who makes a request for a stream.

        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        return self._require_chat_user(
            self._core.authority.identify(Needs.ADMIN_OR_USER, headers, host)
        )

    def _require_chat_user(self, principal: Principal) -> Principal:
        """Return the principal, if it may use the chats. Otherwise raise
        ApiProblem.

        It must be a user of the app that has the chats, and must not be banned.
        """
        app = self._app_with_chats()
        # A visitor of a page has a name, but no account.
        if not principal.user or principal.kind == "page":
            raise ApiProblem(Problems.TOKEN_INVALID)
        if not principal.may(Needs.ADMIN_OR_USER, app):
            raise ApiProblem(Problems.FORBIDDEN)
        ban = self._core.sessions.ban_of(app, principal.user)
        if ban:
            raise ApiProblem(Problems.BANNED, ban.text)
        return principal

    def _app_with_chats(self) -> str:
        """Return the app whose bots answer. Raises ApiProblem if there is no
        such app."""
        tenants = self._core.tenants
        app = tenants.resolve(self._settings.app)
        if tenants.find(app) is None:
            raise ApiProblem(
                Problems.UNKNOWN_APP, f"There is no app {app} (setting ai_chat.app)"
            )
        return app


def _form(line: Callable[[Answer, Chunk], bytes], dialect: AnswerDialect) -> Form:
    """Return the form of answers that ``line`` writes and a dialect ends."""
    return Form(
        line=line, chunked=ChunkedEncoding(dialect), plain=StreamEncoding(dialect)
    )


def _error_of_refusal(result: object) -> Exception:
    """Return the error for a question that was not stored.

    A result that is neither a rejection nor a failure of the storage means that
    the user sends too much.
    """
    if isinstance(result, Rejected):
        return ApiProblem(result.problem, result.explanation)
    if isinstance(result, StorageUnavailable):
        return result
    return ApiProblem(Problems.TOO_MANY_REQUESTS)


def _question_of(asking: Asking) -> Question | None:
    """Return the question of a request on a WebSocket.

    A request that continues a run of TanStack repeats the question without its
    text. None if a client of the AI SDK asks for the open answer. Raises
    ApiProblem.
    """
    if asking.kind == "send":
        return read_message(asking.body, asking.is_run)
    if not asking.is_run:
        return None
    run = asking.request
    chat = Chat.of(asking.chat)
    return Question(chat, text="", client_msg_id=run, thread=asking.chat, run=run)


def _streams_before(
    earlier: Message | None, streams: Mapping[str, int]
) -> frozenset[str]:
    """Return the open streams that began before a question.

    They are no answer to it. ``earlier`` is the question, if it was stored
    before; None if it is new, so that all streams began earlier.
    """
    return frozenset(
        id
        for id, begun in streams.items()
        if not earlier or 0 < begun < earlier.time_ms
    )


def _message_of(entry: Message, bot: str) -> dict[str, Any]:
    """Return a stored message in the form of the AI SDK.

    ``{"id": "m1", "role": "user", "metadata": {…}, "parts": [{"type": "text",
    "text": "Hi"}]}`` is an example. A message whose producer has sent chunks
    also has them, as ``chunks``.
    """
    chunks = whole_chunks(entry)
    role = "user"
    if entry.sender == bot:
        role = "assistant"
    message = {
        "id": entry.client_msg_id or str(entry.id),
        "role": role,
        "metadata": metadata_of(entry),
        "parts": _parts_of(chunks),
    }
    if entry.type == NAME:
        return {**message, "chunks": chunks}
    return message


def _parts_of(chunks: list[Chunk]) -> list[Chunk]:
    """Return the parts of a message for the AI SDK: its text, and its data."""
    parts = [chunk for chunk in chunks if chunk["type"].startswith("data-")]
    text = "".join(
        [chunk.get("delta", "") for chunk in chunks if chunk["type"] == "text-delta"]
    )
    if text:
        parts.insert(0, {"type": "text", "text": text})
    return parts


def _problem_of(error: ApiProblem | Unavailable) -> ApiProblem:
    """Return the problem with which an error is answered."""
    if isinstance(error, ApiProblem):
        return error
    return ApiProblem(error.problem)


UI: Final = AnswerDialect(b"data: [DONE]\n\n")
AG_UI: Final = AnswerDialect()
SOCKET: Final = SocketDialect()


def _route(
    method: str, path: str, function: Callable[[AiChat, Call], HttpResponse]
) -> Route:
    """Return a route of the feature. Browsers ask ``OPTIONS`` without a
    token."""
    if method == "OPTIONS":
        need = Needs.ANYONE
    else:
        need = Needs.ADMIN_OR_USER
    return Route(
        method,
        f"{PATH}{path}",
        need,
        function,
        hot=True,
        limited=True,
        style=PROBLEM,
        service=lambda core, _: core.service(AiChat),
    )


def _build(core: Core) -> Parts:
    """Return the parts of the feature for a node: its service, and what it
    serves."""
    ai_chat = AiChat(core, core.service(MessageServices))
    # A request brings its own token, so it needs no session.
    commands: CommandTable = {Asking: CommandRow(ai_chat.run, needs_session=False)}
    return Parts(
        services=(ai_chat,),
        commands=commands,
        opened={NAME: ai_chat.opened},
        streams=ai_chat.paths,
    )


ROUTES: Final = (
    _route("POST", "/*/stop", AiChat.stop),
    _route("GET", "/*/messages", AiChat.history),
    *(
        _route("OPTIONS", path, lambda _ai_chat, _call: _EMPTY)
        for path in ("", "/ag-ui", "/*/stream")
    ),
)
FEATURE: Final = FeatureRow(
    NAME,
    _build,
    (SOCKET,),
    ROUTES,
    uses=("messages", "bots"),
    settings=SettingsRow({NAME: AiChatSettings}),
)
