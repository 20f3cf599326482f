"""A server of theirs that runs: what an adapter of ``--follow`` is.

An adapter writes what happens there as small archives of the format that its
exports have. So the reader of the format makes the same ids of both, and the
importer stores each message once, whichever way it comes.
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
"""A message that is posted back bears this name and its id in our log, in a
field of theirs that keeps what apps write there. The reader of the format
passes over who bears it, in an archive, too: so no message goes round, whatever
else is lost."""


class LiveError(ImserverError):
    """Their server did not do what was asked; the text says why. ``is_final``:
    it never will (a token that does not count, a channel that is gone);
    otherwise it may be asked again. ``status``: of its answer, of HTTP (413: it
    is too large); 0: there was none, or it was no good one."""

    def __init__(self, text: str, is_final: bool = False, status: int = 0) -> None:
        super().__init__(text)
        self.is_final = is_final
        self.status = status


class Live(Protocol):
    """A server of theirs, as the account sees it whose token it gets.

    One module with one such class. Nothing here is called by two greenlets or
    threads at once.
    """

    name: ClassVar[str]
    """The name of the format that it writes, of
    :data:`~imserver_arrivals.formats.FORMATS`."""

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """``back``: the id of a group there → where ours are posted (``""``:
        of all other groups); empty: nothing is posted back. Nothing is asked
        yet."""
        ...

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write what has happened since the ``cursor`` as an archive into an
        empty folder, and return the new cursor. It waits up to ``seconds`` for
        something to happen. The folder stays empty if nothing has.

        ``cursor`` is a text of its own, with all that a new process needs to
        miss nothing; that of the call before means that the archive was stored.
        Without any (``""``) it begins with what happens from now on; with ``@``
        and Unix milliseconds, with what has happened since then. The archive
        names each person and each group that its messages need, with all
        members. What is written again is stored once. Raises LiveError; what
        was written then is not read.
        """
        ...

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of ours, with the :data:`MARK` and its ``id``, in the
        name of its sender. False: no ``back`` leads to the group. Raises
        LiveError."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


# --- requests to a server of theirs -------------------------------------------

ANSWER_BYTES: Final = 32 << 20
"""Limit of an answer that is read as a whole."""
ANSWER_SECONDS: Final = 60.0
"""How long an answer, or a piece of it, may take."""
FILE_SECONDS: Final = 600.0
_MOST_WAITS: Final = 5
"""How often a request is repeated that came too soon."""
_LONGEST_WAIT: Final = 60.0
_LONGEST_PAUSE: Final = 30
"""The longest pause where the answer names none."""
_CONNECT_SECONDS: Final = 10
_PIECE_BYTES: Final = 1 << 16


def checked_address(address: str, schemes: Collection[str] = ("https", "http")) -> str:
    """An address to which a token may go: one of this machine, or an encrypted
    one. Raises LiveError."""
    try:
        if not address.isprintable() or " " in address:
            raise ValueError("it has signs that no address has")
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in schemes:
        raise LiveError("an address begins with https://", is_final=True)
    if (
        not parts.scheme.endswith("s")
        and host not in ("localhost", "::1")
        and not host.startswith("127.")
    ):
        raise LiveError(
            f"{parts.scheme}://{host} is not encrypted: use https", is_final=True
        )
    return address.rstrip("/")


class Server:
    """Requests to one server. ``headers`` go with each of them. Raises
    LiveError where an answer does not come, is no good one, is too large, or
    takes too long."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._address = checked_address(address)
        self._host = urlsplit(address).hostname
        self._headers = dict(headers)
        timeout = Timeout(connect=_CONNECT_SECONDS, read=ANSWER_SECONDS)
        self._pool = PoolManager(maxsize=1, retries=False, timeout=timeout)

    def get(self, kind: type[T], path: str) -> T:
        """The answer to a GET, as JSON of this kind."""
        return self._decoded(kind, self.ask("GET", path))

    def post(self, kind: type[T], path: str, body: object) -> T:
        """The answer to a POST of a body of JSON."""
        return self._decoded(kind, self.ask("POST", path, body))

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The answer to a request as it is. ``path`` is added to the address.
        ``body`` becomes JSON."""
        with self._answer(method, path, body) as answer:
            return b"".join(self._pieces(answer, ANSWER_BYTES, ANSWER_SECONDS))

    def download(self, path: str, target: IO[bytes], most: int) -> None:
        """Write a file of at most so many bytes."""
        with self._answer("GET", path, None) as answer:
            for piece in self._pieces(answer, most, FILE_SECONDS):
                target.write(piece)

    def close(self) -> None:
        self._pool.clear()

    def _answer(self, method: str, path: str, body: object) -> BaseHTTPResponse:
        headers = self._headers
        content = None
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
            content = msgspec.json.encode(body)
        for tries in range(1, _MOST_WAITS + 1):
            try:
                answer = self._pool.request(
                    method,
                    self._address + path,
                    body=content,
                    headers=headers,
                    redirect=False,
                    preload_content=False,
                )
            except (HTTPError, OSError, ValueError) as error:
                raise LiveError(
                    f"{self._host} does not answer: {_reason(error)}"
                ) from None
            if 200 <= answer.status < 300:
                return answer
            answer.close()
            if answer.status != 429:
                break
            after = answer.headers.get("Retry-After", "")
            if after.isdecimal():
                sleep(min(float(after), _LONGEST_WAIT))
            else:
                sleep(retry_pause(tries, 1, _LONGEST_PAUSE))
        is_token = answer.status == 401
        why = f"HTTP {answer.status} for {path.partition('?')[0]}"
        if is_token:
            why = "the token does not count"
        raise LiveError(f"{self._host}: {why}", is_token, answer.status)

    def _pieces(
        self, answer: BaseHTTPResponse, most: int, seconds: float
    ) -> Iterator[bytes]:
        deadline = monotonic() + seconds
        size = 0
        try:
            while True:
                piece = answer.read1(_PIECE_BYTES)  # it does not wait for all of them
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
                f"{self._host}: an answer breaks off: {_reason(error)}"
            ) from None

    def _decoded(self, kind: type[T], content: bytes) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (ValueError, RecursionError) as error:
            raise LiveError(
                f"{self._host}: an answer is not understood: {error}"
            ) from None


def _reason(error: Exception) -> str:
    """Why a request failed, without addresses, which may be secret."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__
