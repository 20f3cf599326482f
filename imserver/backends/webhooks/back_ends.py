"""Back ends that decide about logins, subscriptions and publications, and
answer other methods of clients.

Requests and answers have the form of Centrifugo's proxies. The app's
``back_ends`` has one address for each kind of request.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import time
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from imserver.backends.webhooks.requests import (
    Asking,
    AuthoriseHook,
    Authoriser,
    T,
    document_in,
)
from imserver.plugin.errors import ClientError
from imserver.plugin.identity import (
    BackEndCall,
    BackEndRefused,
    BackEnds,
    BackEndUnavailable,
    LoginAnswer,
)
from imserver.plugin.runtime import Outgoing, Unreachable
from imserver.plugin.wire import Connection, host_of, without_nulls

_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,8190}[!-~])?")
"""Valid value of a header that a client sets: ASCII without control characters.
With them a client could begin another header."""


class BackEndHook(Struct, frozen=True):
    """The settings by which the back end of an app decides about its clients.

    ``secret`` signs the requests. ``urls``: call → its URL. ``seconds``: time
    limit of an answer. ``headers``: the names of headers of a client that
    requests repeat. ``emulated_headers``: the names of such headers that a
    client sets in its SDK.
    """

    app: str
    secret: bytes
    urls: Mapping[str, str]
    seconds: float
    headers: tuple[str, ...]
    emulated_headers: tuple[str, ...]


class _Error(Struct):
    """The error with which a back end refuses a request of a client."""

    code: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    message: str = ""
    temporary: bool = False


class _Disconnect(Struct):
    """The order of a back end to end the connection."""

    code: Annotated[int, Meta(ge=3000, le=4999)]
    reason: str = ""


class _Answer(Struct):
    """The answer of a back end: one of these three, or nothing."""

    result: Raw | UnsetType = UNSET
    error: _Error | None = None
    disconnect: _Disconnect | None = None


_EXPIRED: Final = b'{"result":{"expired":true}}'
_NOTHING_MEANS: Final[Mapping[BackEndCall, bytes]] = {
    "connect": b'{"disconnect":{"code":3501,"reason":"bad request"}}',
    "refresh": _EXPIRED,
    "sub_refresh": _EXPIRED,
}
"""The meaning of an answer without result, error and disconnect, for the calls
where it does not mean "allowed"."""


class BackEndRequests(BackEnds):
    """Asks the back ends of apps about their clients, and counts the answers.

    A slow back end delays only the clients that need its answer. An app without
    ``back_ends`` costs one look-up in :attr:`hooks`.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        connection_id: Callable[[Connection], str],
        node: Callable[[], str],
    ) -> None:
        """Begin without back ends: :meth:`set` adds them.

        ``connection_id`` returns the id of a connection in requests. ``node``
        returns the name of this node.
        """
        self._connection_id = connection_id
        self._node = node
        self._authorise: dict[str, AuthoriseHook] = {}
        """App → the hook that decides about logins."""
        self._ready: set[str] = set()
        """The apps whose hooks have a usable secret."""
        self.authoriser = Authoriser(outgoing)
        # Each call has turns of its own, so slow logins do not delay
        # publications.
        self._asking = {
            call: Asking(outgoing, f"back_ends.{call}")
            for call in get_args(BackEndCall)
        }
        self.hooks: dict[str, BackEndHook] = {}
        """App → its hook. Do not change it."""
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """App → questions that got no valid answer in time."""

    def set(
        self,
        app: str,
        hook: BackEndHook | None,
        authorise: AuthoriseHook | None = None,
        is_ready: bool = False,
    ) -> None:
        """Set the back end that decides for an app; None: no back end does.

        ``authorise``: decides about logins. ``is_ready``: all its hooks have a
        usable secret.
        """
        if hook is None:
            self.hooks.pop(app, None)
        else:
            self.hooks[app] = hook
        if authorise is None:
            self._authorise.pop(app, None)
        else:
            self._authorise[app] = authorise
            # A metric that begins with its first event shows no increase.
            self.authoriser.undecided[app] += 0
        if is_ready:
            self._ready.add(app)
        else:
            self._ready.discard(app)

    def is_ready(self, app: str) -> bool:
        """Whether the server can ask the back end of an app.

        It needs the secret that signs requests. Never switches greenlets.
        """
        return app in self._ready

    def authorise(
        self, app: str, user: str, token: str, dialect: str, peer: str, device: str
    ) -> LoginAnswer | None:
        """Ask the back end whether a user may log in.

        Returns None if no valid answer comes within :data:`ASK_SECONDS`, or if
        the app has no such hook. Switches greenlets.
        """
        hook = self._authorise.get(app)
        if hook is None:
            return None
        # The token is passed on as it is: only the back end can check it.
        facts = {
            "event": "authorise",
            "app": hook.app,
            "time": int(time()),
            "node": self._node(),
            "user": user,
            "device": device,
            "dialect": dialect,
            "token": token,
            "address": host_of(peer),
        }
        return self.authoriser.ask(hook, facts)

    def has(self, app: str, call: BackEndCall) -> bool:
        """Whether a back end of the app answers this call. Never switches
        greenlets."""
        hook = self.hooks.get(app)
        return hook is not None and call in hook.urls

    def headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str] | None:
        """Return the headers of a new client that requests about it repeat.

        None: the app has no back end. Never switches greenlets.
        """
        hook = self.hooks.get(app)
        if hook is None:
            return None
        return _select_headers(hook.headers, given)

    def emulated_headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that a client has set in its SDK.

        Browsers cannot set headers of a WebSocket, so SDKs send them as data.
        Never switches greenlets.
        """
        hook = self.hooks.get(app)
        if hook is None or not hook.emulated_headers:
            return {}
        valid = {
            name.lower(): value
            for name, value in given.items()
            if _HEADER_VALUE.fullmatch(value)
        }
        return _select_headers(hook.emulated_headers, valid)

    def ask(
        self,
        app: str,
        call: BackEndCall,
        connection: Connection,
        facts: Mapping[str, Any],
        kind: type[T],
    ) -> T:
        """Ask the back end about a connection, and return the result.

        ``facts``: fields of the request besides those about the client.
        ``kind``: the type of the result. Switches greenlets, at most for
        ``back_ends.seconds``. Raises :class:`BackEndUnavailable` if no valid
        answer comes. Raises :class:`BackEndRefused` if the back end answers
        with an error, or ends the connection.
        """
        asking = self._asking[call]
        hook = self.hooks.get(app)
        self.asked[app] += 1
        try:
            if hook is None or call not in hook.urls:
                raise Unreachable("it is not set")
            with asking.counting(app, kind="requests"):
                client = self._client(connection)
                # Before its answer to ``connect`` a client has no user.
                if call != "connect":
                    client["user"] = connection.user or ""
                body = msgspec.json.encode({**client, **facts})
                status, content = asking.post(
                    app,
                    hook.urls[call],
                    hook.secret,
                    body=lambda: body,
                    seconds=hook.seconds,
                    headers=_headers_of(connection),
                )
                decode = partial(_decode_answer, call, kind)
                answer, result = document_in(status, content, decode)
        except Unreachable as problem:
            self.failed[app] += 1
            asking.warn(app, problem)
            raise BackEndUnavailable(str(problem)) from None

        # The order to disconnect counts even if there is a result.
        if answer.disconnect is not None or result is None:
            raise _refusal(answer)
        return result

    def _client(self, connection: Connection) -> dict[str, Any]:
        """Return the fields of each request that describe its client.

        ``protocol`` is the dialect, or the codec if the dialect has several.
        """
        dialect = connection.encoding.dialect
        protocol = dialect.name
        if dialect.subprotocol:
            protocol = "json" if dialect.text else "protobuf"
        client: dict[str, Any] = {
            "client": self._connection_id(connection),
            "transport": "websocket",
            "protocol": protocol,
            "encoding": "json",
        }
        state = connection.dialect_state
        if state is not None and state.facts is not None:
            # A connection that does not use WebSocket has noted what it uses.
            client["transport"] = state.facts.transport
            if state.facts.meta:
                client["meta"] = Raw(state.facts.meta)
        return client


def _headers_of(connection: Connection) -> Mapping[str, str]:
    """Return the headers of a client that requests about it repeat."""
    state = connection.dialect_state
    # Only clients of some dialects have noted their headers.
    if state is None or state.facts is None:
        return {}
    return state.facts.headers


def _refusal(answer: _Answer) -> BackEndRefused:
    """Return the exception for an answer that refuses a client."""
    disconnect = answer.disconnect
    if disconnect is not None:
        return BackEndRefused(None, (disconnect.code, disconnect.reason))
    # An answer without a result and a disconnect is an error.
    error = answer.error
    assert error is not None
    return BackEndRefused(ClientError(error.code, error.message, error.temporary))


def _decode_answer(
    call: BackEndCall, kind: type[T], content: bytes
) -> tuple[_Answer, T | None]:
    """Decode an answer to a call. Returns the answer and its result.

    The result None: the answer is an error, or ends the connection. ``kind``:
    the type of the result. Raises ValueError and RecursionError.
    """
    # The parts that are passed on undecoded must be valid JSON, too.
    msgspec.json.decode(content)
    document = without_nulls(content, 2)
    answer = msgspec.json.decode(document, type=_Answer)
    if answer == _Answer():
        answer = _meaning_of_nothing(call, document)

    result: T | None = None
    if answer.result is not UNSET:
        # It must be valid also next to an error.
        result = msgspec.json.decode(answer.result, type=kind)
    if answer.error is not None:
        return answer, None
    return answer, result


def _select_headers(names: Iterable[str], headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with these names that a client has set.

    The names in ``headers`` are in lower case; the result has them as in
    ``names``.
    """
    values = {name: headers.get(name.lower(), "") for name in names}
    return {name: value for name, value in values.items() if value}


def _meaning_of_nothing(call: BackEndCall, document: bytes) -> _Answer:
    """Return the answer that an empty document means for a call.

    Raises ValueError if the document is not empty. It may be an error in
    another form, and must not allow anything.
    """
    if msgspec.json.decode(document):
        raise ValueError("it has neither result nor error nor disconnect")
    meaning = _NOTHING_MEANS.get(call, b'{"result":{}}')
    return msgspec.json.decode(meaning, type=_Answer)
