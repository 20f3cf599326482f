"""The interface of an adapter of ``--follow``, which follows a running server.

An adapter writes the events of the server as small archives in the format of
its exports. Therefore the reader makes equal ids from both, and the importer
stores each message once.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import IO, ClassVar, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from imserver.plugin.errors import ImserverError
from imserver.plugin.runtime import retry_pause

T = TypeVar("T")

MARK: Final = "imserver"
"""Name that marks a message which was posted back. With its id in our log, it
stands in a field in which their server keeps values of apps. The reader of the
format skips marked messages, also in an archive. Therefore no message can come
back."""


class LiveError(ImserverError):
    """The server did not do what the adapter wanted; the text says why."""

    def __init__(self, text: str, is_final: bool = False, status: int = 0) -> None:
        """``is_final``: the server never will, because the token is not valid
        or the channel is gone. Otherwise it may do it later. ``status``: the
        HTTP status of its answer (413: too large); 0 if no valid answer
        came."""
        super().__init__(text)
        self.is_final = is_final
        self.status = status


class Live(Protocol):
    """A running server, as seen by the account of the token.

    An adapter is one module with one such class. Two greenlets or threads never
    call it at once.
    """

    name: ClassVar[str]
    """The name of the format that it writes: a key of
    :data:`~imserver_arrivals.formats.FORMATS`."""

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """Prepare the requests. The constructor sends no request.

        ``back``: id of a group there → the address to which messages of our app
        are posted. ``""`` stands for all other groups. If ``back`` is empty,
        nothing is posted back.
        """
        ...

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write the events since the ``cursor`` as an archive into an empty
        folder.

        Returns the new cursor. Waits for events up to ``seconds``. The folder
        stays empty if none came. You may write an event twice: it is stored
        once. Raises LiveError; then nobody reads the files.

        ``cursor`` is a text in a form of the adapter, with everything that a
        new process needs to miss nothing. The cursor of the call before means
        that its archive was stored. ``""`` begins with events from now on;
        ``@`` and Unix milliseconds begin with events since then. The archive
        names each person and each group that its messages need, with all
        members.
        """
        ...

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of our app, in the name of its sender.

        The message gets the :data:`MARK` and its ``id``. Returns False if no
        ``back`` leads to the group. Raises LiveError.
        """
        ...

    def close(self) -> None:
        """End the connections."""
        ...


# --- requests to a server of theirs -------------------------------------------

ANSWER_BYTES: Final = 32 << 20
"""Limit of the bytes of an answer that is read as a whole."""
ANSWER_SECONDS: Final = 60.0
"""How long an answer, or a piece of it, may take."""
FILE_SECONDS: Final = 600.0
_MOST_TRIES: Final = 5
"""How often a request is repeated that the server refused as too early."""
_LONGEST_WAIT: Final = 60.0
_LONGEST_PAUSE: Final = 30
"""The longest pause if the answer names none."""
_CONNECT_SECONDS: Final = 10
_PIECE_BYTES: Final = 1 << 16


def checked_address(address: str, schemes: Collection[str] = ("https", "http")) -> str:
    """Return an address to which a token may be sent, without a slash at its
    end.

    The token is a secret, so the connection must be encrypted, or stay on this
    machine. Raises LiveError for another address.
    """
    scheme, host = _scheme_and_host(address)
    if not host or scheme not in schemes:
        raise LiveError("an address begins with https://", is_final=True)
    is_encrypted = scheme.endswith("s")
    is_local = host in ("localhost", "::1") or host.startswith("127.")
    if not (is_encrypted or is_local):
        raise LiveError(f"{scheme}://{host} is not encrypted: use https", is_final=True)
    return address.rstrip("/")


def _scheme_and_host(address: str) -> tuple[str, str]:
    """Return the scheme and the host of an address; empty texts if it is not
    valid."""
    if not address.isprintable() or " " in address:
        return "", ""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError if it is not a port
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


class Server:
    """Sends requests to one server of theirs, each with the ``headers``.

    Its methods raise LiveError if an answer does not come, is not valid, is too
    large, or takes too long.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        """Prepare the requests. Raises LiveError if the address is not safe."""
        self._address = checked_address(address)
        self._host = urlsplit(address).hostname
        self._headers = dict(headers)
        timeout = Timeout(connect=_CONNECT_SECONDS, read=ANSWER_SECONDS)
        self._pool = PoolManager(maxsize=1, retries=False, timeout=timeout)

    def get(self, kind: type[T], path: str) -> T:
        """Send a GET, and return the JSON of the answer as a value of this
        kind."""
        return self._decoded(kind, self.ask("GET", path))

    def post(self, kind: type[T], path: str, body: object) -> T:
        """Send a POST with a JSON body, and return the JSON of the answer."""
        return self._decoded(kind, self.ask("POST", path, body))

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """Send a request, and return the bytes of the answer.

        ``path`` is added to the address. ``body`` becomes JSON; None sends no
        body.
        """
        with self._open_answer(method, path, body) as answer:
            return b"".join(self._read_pieces(answer, ANSWER_BYTES, ANSWER_SECONDS))

    def download(self, path: str, target: IO[bytes], most: int) -> None:
        """Write a file of at most ``most`` bytes to ``target``. A larger one
        raises LiveError."""
        with self._open_answer("GET", path, None) as answer:
            for piece in self._read_pieces(answer, most, FILE_SECONDS):
                target.write(piece)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _open_answer(self, method: str, path: str, body: object) -> BaseHTTPResponse:
        """Send a request, and return the answer before its body is read.

        The server may refuse requests that come too fast (429). Then the
        request is repeated after a pause, whose length the server usually
        names. Raises LiveError.
        """
        headers = self._headers
        content = None
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
            content = msgspec.json.encode(body)
        for attempt in range(1, _MOST_TRIES + 1):
            answer = self._send(method, path, content, headers)
            if 200 <= answer.status < 300:
                return answer
            answer.close()
            if answer.status != 429:
                break
            _wait_before_repeating(answer, attempt)
        raise self._refusal(answer.status, path)

    def _send(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str]
    ) -> BaseHTTPResponse:
        """Send a request once, and return the answer of any status.

        Raises LiveError if there is none.
        """
        try:
            return self._pool.request(
                method,
                self._address + path,
                body=content,
                headers=headers,
                # Another server must not get the token.
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise LiveError(f"{self._host} does not answer: {_reason(error)}") from None

    def _refusal(self, status: int, path: str) -> LiveError:
        """Return the error for an answer with a status that is no success.

        The query of the path is left out, because it may have secrets.
        """
        is_bad_token = status == 401
        why = f"HTTP {status} for {path.partition('?')[0]}"
        if is_bad_token:
            why = "the server does not accept the token"
        return LiveError(f"{self._host}: {why}", is_final=is_bad_token, status=status)

    def _read_pieces(
        self, answer: BaseHTTPResponse, most: int, seconds: float
    ) -> Iterator[bytes]:
        """Yield the body of an answer piece by piece.

        Raises LiveError if it has more than ``most`` bytes, or takes more than
        ``seconds`` in all.
        """
        # The timeout of the pool counts for one piece. A slow server could send
        # pieces for ever, so all of them have a deadline, too.
        deadline = monotonic() + seconds
        size = 0
        try:
            while True:
                # Returns as soon as some bytes are there.
                piece = answer.read1(_PIECE_BYTES)
                if not piece:
                    return
                size += len(piece)
                if size > most:
                    raise LiveError(f"{self._host}: an answer is too large", status=413)
                if monotonic() > deadline:
                    raise LiveError(f"{self._host}: an answer is too slow")
                yield piece
        except (HTTPError, OSError, ValueError) as error:
            raise LiveError(
                f"{self._host}: an answer is incomplete: {_reason(error)}"
            ) from None

    def _decoded(self, kind: type[T], content: bytes) -> T:
        """Return the JSON of an answer as a value of this kind. Raises
        LiveError."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (ValueError, RecursionError) as error:
            raise LiveError(
                f"{self._host}: an answer is not understood: {error}"
            ) from None


def _wait_before_repeating(answer: BaseHTTPResponse, attempt: int) -> None:
    """Wait as long as a server asks for, or longer after each attempt.

    ``attempt`` counts from 1.
    """
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        sleep(min(float(after), _LONGEST_WAIT))
    else:
        sleep(retry_pause(attempt, 1, _LONGEST_PAUSE))


def _reason(error: Exception) -> str:
    """Return why a request failed, without addresses, which may be secret.

    The text of the error itself has them, and the error that has caused it
    does not.
    """
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__
