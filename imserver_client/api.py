"""The HTTP API from Python: pushes, presence, channels, sessions, apps
(docs/guides/README.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
import urllib3
from msgspec import Struct

from imserver_client.errors import ClientError, NotConnected, RequestRefused
from imserver_client.results import (
    App,
    BatchResult,
    Channel,
    ChannelPage,
    ChannelResult,
    ChannelSubscriberPage,
    Counts,
    HistoryPage,
    MailboxClaim,
    PieceResult,
    Presence,
    PushAnswer,
    StreamEnd,
    UserPage,
)
from imserver_client.session import Backoff
from imserver_client.streams import TextStream

PREFIX: Final = "/api/v1/"
TIMEOUT_SECONDS: Final = 10.0
TRIES: Final = 3
MAX_PAUSE_SECONDS: Final = 30.0
"""The longest pause before another try. If the server wants a longer one, the
call raises its refusal."""
PAGE_SIZE: Final = 1000
_CONNECTIONS: Final = 16
_QUOTED_BYTES: Final = 200
"""How many bytes of a malformed answer an error quotes."""

T = TypeVar("T")


class _Problem(Struct):
    code: str = ""
    message: str = ""
    temporary: bool = False
    request_id: str = ""


def push_body(
    app: str,
    text: str | None = None,
    *,
    data: Any = None,
    type: str = "text",
    **fields: Any,
) -> dict[str, Any]:
    """Return the body of a push. Arguments that are None, empty or 0 are left
    out.

    Give either ``text``, or ``data`` with a ``type`` of your own.
    """
    return {"app": app, **_content_fields(text, data, type, fields)}


def _content_fields(
    text: str | None, data: Any, type: str, more: dict[str, Any]
) -> dict[str, Any]:
    """The fields with the content of a push or publication.

    ``more``: further fields. A field that is None, empty or 0 is left out.
    """
    fields: dict[str, Any] = {}
    if text is None:
        fields["data"] = data
    else:
        fields["text"] = text
    if type != "text":
        fields["type"] = type
    for name, value in more.items():
        if value not in (None, "", 0, ()):
            fields[name] = value
    return fields


OPEN_STREAM: Final = "channels/stream/open"
APPEND_PIECES: Final = "channels/stream/append"
CLOSE_STREAM: Final = "channels/stream/close"
"""Routes of streamed messages. They are commands of a publisher connection,
too."""


class StreamFields(TypedDict, total=False):
    """Further arguments of :func:`stream_body`."""

    type: str
    sender: str
    tags: Mapping[str, str] | None


def stream_body(
    app: str,
    channel: str,
    text: str = "",
    *,
    type: str = "text",
    sender: str = "",
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The body that opens a streamed message, from the arguments of
    :meth:`Api.open_stream`."""
    fields = {"text": text, "type": type, "sender": sender, "tags": tags or {}}
    return {"app": app, "channel": channel, **fields}


def pieces_body(app: str, pieces: Sequence[tuple[str, int, str]]) -> dict[str, Any]:
    """The body that appends pieces to streamed messages."""
    encoded = [
        {"stream": stream, "piece": piece, "text": text}
        for stream, piece, text in pieces
    ]
    return {"app": app, "pieces": encoded}


def end_body(app: str, stream: str, incomplete: bool) -> dict[str, Any]:
    """The body that closes a streamed message."""
    return {"app": app, "stream": stream, "incomplete": incomplete}


def _publication(
    text: str | None,
    data: Any,
    type: str,
    sender: str,
    id: str,
    except_users: Sequence[str],
    tags: Mapping[str, str] | None,
    with_history: bool,
) -> dict[str, Any]:
    """Return the fields of a publication, without its app and its channel.

    Arguments that have their default are left out, because the server knows it.
    """
    more = {"sender": sender, "id": id, "except_users": except_users, "tags": tags}
    fields = _content_fields(text, data, type, more)
    if not with_history:
        fields["with_history"] = False
    return fields


def _without_user(body: dict[str, Any]) -> dict[str, Any]:
    """The body without ``user`` if that is empty. Then the token of a bot names
    the user."""
    return {name: value for name, value in body.items() if name != "user" or value}


class Api:
    """The API of the server at ``url``, with an API ``key`` (none in demo
    mode). May be shared by threads.

    It keeps connections open. Every call may raise :class:`RequestRefused` (the
    server refused it) or :class:`NotConnected` (no answer within
    ``timeout_seconds``), and :class:`ClientError` if the answer is malformed. A
    call that may be repeated without harm is tried up to ``tries`` times while
    the error is temporary. Pushes and publications have an idempotency key for
    this, so the server accepts each only once. If no target has accepted one,
    the server refuses it with ``not_accepted``, which is temporary.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
    ) -> None:
        """Make no connection yet: the first call does. ``url`` may have no
        scheme, which is then http."""
        if "://" not in url:
            url = f"http://{url}"
        self._url = url.rstrip("/") + PREFIX
        self._tries = max(1, tries)
        headers = {}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._pool = urllib3.PoolManager(
            _CONNECTIONS,
            headers=headers,
            timeout=urllib3.Timeout(timeout_seconds),
            retries=False,
        )

    def close(self) -> None:
        """End the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
    ) -> Any:
        """Call any route once, and return the answer as plain Python data.

        ``path``: after ``/api/v1/``. ``body``: the JSON body; with GET, the
        parameters of the address, as in ``query``. An answer without a body is
        None.
        """
        if method == "GET":
            query = {**(body or {}), **(query or {})}
            body = None
        path = path.removeprefix("/").removeprefix(PREFIX[1:])
        answer = self._request(method, path, query, body, repeat_id=None)
        if answer:
            return decode_answer(answer, object)
        return None

    # --- pushes ---------------------------------------------------------------

    def push(
        self,
        app: str,
        text: str | None = None,
        *,
        data: Any = None,
        type: str = "text",
        user: str | None = None,
        device: str | None = None,
        users: Sequence[str] | None = None,
        connection: str | None = None,
        channel: str | None = None,
        all: bool = False,
        targets: Sequence[dict[str, Any]] | None = None,
        sender: str = "",
        id: str = "",
        ttl_seconds: int = 0,
        except_users: Sequence[str] = (),
        group: str | None = None,
        store: bool = False,
    ) -> PushAnswer:
        """Push ``text``, or ``data`` (any JSON) with a ``type`` of your own.

        Targets are a ``user`` (optionally on one ``device``), ``users``, a
        ``connection``, a ``channel``, or ``all`` of the app. ``targets`` of
        mixed kinds are ``{"user": …}``, ``{"channel": …}`` and so on. A push to
        an absent user waits for ``ttl_seconds``. ``id`` is shown to clients,
        and accepted only once. With ``store`` the push is saved in the log, for
        users and for a ``group``.
        """
        body = push_body(
            app,
            text,
            data=data,
            type=type,
            user=user,
            device=device,
            users=users,
            connection=connection,
            channel=channel,
            all=all,
            targets=targets,
            sender=sender,
            id=id,
            ttl_seconds=ttl_seconds,
            except_users=except_users,
            group=group,
            store=store,
        )
        return self._push("push", body, PushAnswer)

    def batch(
        self, commands: Sequence[tuple[str, dict[str, Any]]]
    ) -> tuple[BatchResult, ...]:
        """Carry out many commands in order: pairs of a path such as ``"push"``
        and its body."""
        body = {"commands": [{path: command} for path, command in commands]}
        return self._push("batch", body, tuple[BatchResult, ...], "results")

    # --- users who are online -------------------------------------------------

    def presence(self, app: str, user: str) -> Presence:
        """Get whether a user is online, where, and since when."""
        rows = self._get("presence", tuple[Presence, ...], "users", app=app, user=user)
        return rows[0]

    def presences(
        self, app: str, users: Sequence[str], *, sessions: bool = False
    ) -> tuple[Presence, ...]:
        """Get whether each of many users is online, with their ``sessions`` if
        wanted."""
        body = {"app": app, "users": list(users), "sessions": sessions}
        return self._post("presence", body, tuple[Presence, ...], "users")

    def users(self, app: str, cursor: str = "", limit: int = PAGE_SIZE) -> UserPage:
        """Get a page of the users who are online."""
        return self._get("users", UserPage, app=app, cursor=cursor, limit=limit)

    def all_users(self, app: str) -> Iterator[str]:
        """Yield all users who are online, page after page."""
        page = self.users(app)
        yield from page.users
        while page.next:
            page = self.users(app, page.next)
            yield from page.users

    def counts(self, app: str = "") -> tuple[Counts, ...]:
        """Get the numbers of users, sessions and channels of an app, or of each
        app of the key."""
        return self._get("counts", tuple[Counts, ...], "apps", app=app)

    # --- channels -------------------------------------------------------------

    def publish(
        self,
        app: str,
        channel: str,
        text: str | None = None,
        *,
        data: Any = None,
        type: str = "text",
        sender: str = "",
        id: str = "",
        except_users: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        with_history: bool = True,
    ) -> ChannelResult:
        """Publish to the subscribers of a channel, and to its history, if it
        has one."""
        fields = _publication(
            text, data, type, sender, id, except_users, tags, with_history
        )
        body = {"app": app, "channel": channel, **fields}
        return self._push("channels/publish", body, ChannelResult)

    def broadcast(
        self,
        app: str,
        channels: Sequence[str],
        text: str | None = None,
        *,
        data: Any = None,
        type: str = "text",
        sender: str = "",
        id: str = "",
        except_users: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        with_history: bool = True,
    ) -> tuple[ChannelResult, ...]:
        """Publish the same content to several channels. Returns the result for
        each, in their order."""
        fields = _publication(
            text, data, type, sender, id, except_users, tags, with_history
        )
        body = {"app": app, "channels": list(channels), **fields}
        return self._push(
            "channels/broadcast", body, tuple[ChannelResult, ...], "results"
        )

    def history(
        self,
        app: str,
        channel: str,
        *,
        offset: int = -1,
        epoch: str = "",
        limit: int = 100,
        reverse: bool = False,
    ) -> HistoryPage:
        """Get publications after ``offset`` (with ``reverse``: before it); -1:
        from the end."""
        return self._get(
            "channels/history",
            HistoryPage,
            app=app,
            channel=channel,
            offset=offset,
            epoch=epoch,
            limit=limit,
            reverse=reverse,
        )

    def remove_history(self, app: str, channel: str) -> None:
        """Remove the publications of a channel."""
        self._post("channels/history/remove", {"app": app, "channel": channel}, dict)

    def stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> TextStream:
        """Make a streamed message: ``with api.stream("shop", "answers") as
        stream: stream.append("Hi")``.

        ``fields``: ``type``, ``sender``, ``tags``.
        """
        # Encoded here, too, so that a wrong argument is an error of this call.
        stream_body(app, channel, text, **fields)
        return TextStream(
            self, app, partial(self.open_stream, app, channel, text, **fields)
        )

    def open_stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> str:
        """Open a streamed message that begins with ``text``; return its id.
        :meth:`stream` is easier."""
        body = stream_body(app, channel, text, **fields)
        answer = self._request("POST", OPEN_STREAM, body=body, repeat_id=None)
        return decode_answer(answer, str, "stream")

    def append_pieces(
        self, app: str, pieces: Sequence[tuple[str, int, str]]
    ) -> tuple[PieceResult, ...]:
        """Append pieces to streamed messages: (id of the stream, number of the
        piece, text). The pieces of a stream have the numbers 1, 2, 3 and so on.
        You may repeat the call."""
        body = pieces_body(app, pieces)
        return self._post(APPEND_PIECES, body, tuple[PieceResult, ...], "results")

    def close_stream(
        self, app: str, stream: str, *, incomplete: bool = False
    ) -> StreamEnd:
        """Close a streamed message. ``incomplete``: its text is not finished.
        You may repeat the call."""
        return self._post(CLOSE_STREAM, end_body(app, stream, incomplete), StreamEnd)

    def channel(self, app: str, channel: str) -> Channel:
        """Get the number of subscribers of a channel, and the position of its
        history."""
        return self._get("channels/info", Channel, app=app, channel=channel)

    def channels(
        self, app: str, cursor: str = "", limit: int = PAGE_SIZE
    ) -> ChannelPage:
        """Get a page of the channels of an app that have subscribers."""
        return self._get(
            "channels/list", ChannelPage, app=app, cursor=cursor, limit=limit
        )

    def subscribers(
        self, app: str, channel: str, cursor: str = "", limit: int = PAGE_SIZE
    ) -> ChannelSubscriberPage:
        """Get a page of the subscribers of a channel, in the order of
        subscribing."""
        return self._get(
            "channels/presence",
            ChannelSubscriberPage,
            app=app,
            channel=channel,
            cursor=cursor,
            limit=limit,
        )

    def subscribe(
        self,
        app: str,
        channel: str,
        *,
        users: Sequence[str] = (),
        connections: Sequence[str] = (),
    ) -> int:
        """Subscribe single connections, and all connections of users; return
        the number of new subscriptions."""
        return self._change(
            "channels/subscribe", "subscribed", app, users, connections, channel=channel
        )

    def unsubscribe(
        self,
        app: str,
        channel: str,
        *,
        users: Sequence[str] = (),
        connections: Sequence[str] = (),
    ) -> int:
        """Unsubscribe connections and users from a channel; return how many
        connections were subscribed."""
        return self._change(
            "channels/unsubscribe",
            "unsubscribed",
            app,
            users,
            connections,
            channel=channel,
        )

    # --- sessions -------------------------------------------------------------

    def disconnect(
        self,
        app: str,
        *,
        users: Sequence[str] = (),
        device: str | None = None,
        connections: Sequence[str] = (),
    ) -> int:
        """End the sessions of users (on one device, or on all) and single
        connections; return how many sessions have ended."""
        more = {}
        if device is not None:
            more["device"] = device
        return self._change("disconnect", "closed", app, users, connections, **more)

    def ban(
        self, app: str, users: Sequence[str], seconds: float, reason: str = ""
    ) -> int:
        """Ban users for some seconds, or (0) for good; return how many sessions
        have ended. The users see the reason."""
        body = {"app": app, "users": list(users), "seconds": seconds}
        if reason:
            body["reason"] = reason
        return self._post("ban", body, int, "closed")

    def moderate(self, act: str, app: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Act as a moderator: ``moderate("delete", "shop", {"messages": [7]})``
        posts to ``/api/v1/moderation/delete``. Returns the answer, which has
        the ``act`` to undo a removal with."""
        return self._post(f"moderation/{act}", {"app": app, **fields}, dict[str, Any])

    def unban(self, app: str, users: Sequence[str]) -> None:
        """Lift the ban of users."""
        self._post("unban", {"app": app, "users": list(users)}, dict)

    # --- apps -----------------------------------------------------------------

    def apps(self) -> list[App]:
        """Get all apps that the key may use, page after page."""
        apps: list[App] = []
        cursor = ""
        while True:
            page = self._get("apps", dict[str, Any], cursor=cursor)
            apps += msgspec.convert(page["apps"], list[App])
            cursor = page.get("next", "")
            if not cursor:
                return apps

    def create_app(self, app: str, settings: Mapping[str, Any] | None = None) -> App:
        """Create an app. ``settings`` has keys of the configuration's section
        ``apps``."""
        body = {"app": app, "settings": settings or {}}
        answer = self._request("POST", "apps/create", body=body, repeat_id=None)
        return decode_answer(answer, App)

    def set_app(
        self,
        app: str,
        settings: Mapping[str, Any] | None = None,
        unset: Sequence[str] = (),
    ) -> App:
        """Change settings of an app that was created at run time. Each of the
        ``unset`` settings gets its default again."""
        body = {"app": app, "settings": settings or {}, "unset": list(unset)}
        answer = self._request("POST", "apps/set", body=body, repeat_id=None)
        return decode_answer(answer, App)

    # --- mailboxes ------------------------------------------------------------

    def claim(
        self,
        app: str,
        *,
        user: str = "",
        seconds: int = 60,
        wait: int = 0,
        limit: int = 1,
        tries: int = 5,
    ) -> MailboxClaim:
        """Claim the messages of a bot that wait longest, for a number of
        seconds.

        ``wait``: how many seconds the server waits for a message; fewer than
        ``timeout_seconds``. ``user``: the bot, if the key is not a token of the
        bot.
        """
        body = {
            "app": app,
            "user": user,
            "seconds": seconds,
            "wait": wait,
            "limit": limit,
            "tries": tries,
        }
        # A repeated claim would be another claim.
        answer = self._request(
            "POST", "mailbox/claim", body=_without_user(body), repeat_id=None
        )
        return decode_answer(answer, MailboxClaim)

    def renew(self, app: str, token: str, seconds: int = 60, *, user: str = "") -> int:
        """Extend a claim. Returns its new end, in Unix milliseconds. The server
        refuses with ``claim_ended`` if the claim has ended."""
        body = _without_user(
            {"app": app, "user": user, "token": token, "seconds": seconds}
        )
        return self._post("mailbox/renew", body, int, "until")

    def ack(self, app: str, token: str, *, user: str = "") -> None:
        """Acknowledge the messages of a claim, so that nobody gets them again.
        The server refuses with ``claim_ended`` if the claim has ended: another
        worker gets them."""
        body = _without_user({"app": app, "user": user, "token": token})
        self._post("mailbox/ack", body, dict)

    def nack(
        self,
        app: str,
        token: str,
        seconds: int = 0,
        reason: str = "",
        *,
        user: str = "",
    ) -> None:
        """Give the messages of a claim back. They may be claimed again after
        some ``seconds``.

        The server refuses with ``claim_ended`` if the claim has ended.
        """
        body = {
            "app": app,
            "user": user,
            "token": token,
            "seconds": seconds,
            "reason": reason,
        }
        # Not repeated: the messages may belong to another claim by then.
        answer = self._request(
            "POST", "mailbox/nack", body=_without_user(body), repeat_id=None
        )
        decode_answer(answer, dict)

    # --- requests -------------------------------------------------------------

    def _get(self, path: str, answer: type[T], field: str = "", **query: Any) -> T:
        """Send a GET request, and decode the answer, or one ``field`` of it."""
        content = self._request("GET", path, query)
        return decode_answer(content, answer, field)

    def _post(
        self, path: str, body: dict[str, Any], answer: type[T], field: str = ""
    ) -> T:
        """Send a POST request, and decode the answer, or one ``field`` of
        it."""
        content = self._request("POST", path, body=body)
        return decode_answer(content, answer, field)

    def _change(
        self,
        path: str,
        field: str,
        app: str,
        users: Sequence[str],
        connections: Sequence[str],
        **fields: Any,
    ) -> int:
        """Send a request about users and connections, with further ``fields``.

        Returns the number in the ``field`` of the answer.
        """
        body = {
            "app": app,
            "users": list(users),
            "connections": list(connections),
            **fields,
        }
        return self._post(path, body, int, field)

    def _push(
        self, path: str, body: dict[str, Any], answer: type[T], field: str = ""
    ) -> T:
        """Send a push, which may be repeated without being delivered twice."""
        # A push with an id is accepted once, and needs no idempotency key.
        repeat_id = "" if body.get("id") else uuid4().hex
        content = self._request("POST", path, body=body, repeat_id=repeat_id)
        return decode_answer(content, answer, field)

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: Any = None,
        repeat_id: str | None = "",
    ) -> bytes:
        """Send a request, and return the body of the answer. After a temporary
        failure the request is sent again.

        ``repeat_id``: the idempotency key under which the request may be
        repeated; ``""``: it may be repeated without a key; None: it must not be
        repeated. Raises :class:`RequestRefused` and :class:`NotConnected`.
        """
        url = self._url + path
        if query:
            url += f"?{_encoded(query)}"
        headers = {**self._pool.headers, "Accept-Encoding": "gzip"}
        if repeat_id:
            headers["Idempotency-Key"] = repeat_id
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        tries = self._tries if repeat_id is not None else 1
        return self._request_again(tries, method, url, content, headers)

    def _request_again(
        self,
        tries: int,
        method: str,
        url: str,
        content: bytes | None,
        headers: dict[str, str],
    ) -> bytes:
        """Send a request up to ``tries`` times, with pauses between, and return
        the body of the answer. Raises RequestRefused and NotConnected."""
        backoff = Backoff()
        for tries_left in reversed(range(tries)):
            try:
                return self._request_once(method, url, content, headers)
            except NotConnected:
                if not tries_left:
                    raise
                time.sleep(backoff.pause())
            except RequestRefused as error:
                if not (tries_left and _may_be_repeated(error)):
                    raise
                # The server may say how long to wait.
                time.sleep(error.retry_after_seconds or backoff.pause())
        raise AssertionError("the last try returns or raises")

    def _request_once(
        self, method: str, url: str, content: bytes | None, headers: dict[str, str]
    ) -> bytes:
        """Send a request once, and return the body of the answer. Raises
        :class:`RequestRefused` and :class:`NotConnected`."""
        try:
            answer = self._pool.request(method, url, body=content, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise NotConnected(f"{method} {url}: no answer: {error}") from error
        if answer.status < 300:
            return answer.data

        problem = _problem_in(answer)
        address = url.partition("?")[0]  # the query may have names of users
        raise RequestRefused(
            answer.status,
            problem.code,
            problem.message,
            problem.temporary,
            problem.request_id,
            retry_after_seconds=_pause_in(answer.headers),
            request=f"{method} {address}",
        )


def _pause_in(headers: Mapping[str, str]) -> float:
    """The seconds after which the server accepts a request again; 0.0 if it
    does not say. A date, which is another form of the header, is ignored."""
    retry_after = headers.get("Retry-After", "")
    if retry_after.isdecimal():
        return float(retry_after)
    return 0.0


def _may_be_repeated(error: RequestRefused) -> bool:
    """Whether a refused request may be accepted soon."""
    return error.temporary and error.retry_after_seconds <= MAX_PAUSE_SECONDS


def _problem_in(answer: urllib3.BaseHTTPResponse) -> _Problem:
    """The problem that an answer describes. If a proxy has answered, this is
    the beginning of its text."""
    try:
        return msgspec.json.decode(answer.data, type=_Problem)
    except (ValueError, RecursionError):
        text = answer.data[:_QUOTED_BYTES].decode("utf-8", "replace")
        return _Problem(message=text, temporary=answer.status >= 500)


def _encoded(query: Mapping[str, Any]) -> str:
    """Encode the parameters of an address.

    A parameter that is ``""`` or None is left out. True becomes ``true``.
    """
    given: dict[str, Any] = {}
    for name, value in query.items():
        if isinstance(value, bool):
            given[name] = str(value).lower()
        elif value not in ("", None):
            given[name] = value
    return urlencode(given)


def decode_answer(body: bytes | str, answer: type[T], field: str = "") -> T:
    """Decode an answer, or one ``field`` of it, as the type ``answer``.

    Raises :class:`ClientError` if it is malformed.
    """
    try:
        data = msgspec.json.decode(body)
        if field:
            data = data[field]
        return msgspec.convert(data, answer)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ClientError(f"malformed answer: {error!r}") from error
