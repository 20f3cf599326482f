"""Uploaded files in a bucket of S3 or a compatible server (MinIO, Ceph, R2),
with Signature V4."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from imserver.media.uploads.contract import MediaUnavailable
from imserver.media.uploads.declared import UploadSettings
from imserver.media.uploads.directory import PIECE_BYTES
from imserver.plugin.runtime import Threads

if TYPE_CHECKING:
    from urllib3 import PoolManager

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
"""The digest for requests without a body."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DATE_CHARACTERS: Final = 8
"""The length of the date at the beginning of a time stamp."""
_ATTEMPTS: Final = 3
_MAX_POOLS: Final = 4
"""Limit of the pools of connections, one for each host."""
_IDLE_CONNECTIONS: Final = 32


class Credentials(Struct, frozen=True):
    """The access key and the secret key of an account, and the region of its
    bucket."""

    access_key: str
    secret_key: str
    region: str


def canonical_path(path: str) -> str:
    """Escape a path for signing and sending: all bytes except unreserved ones
    and slashes. ``a b`` becomes ``a%20b``."""
    return quote(path, safe="/-_.~")


def signed_headers(
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    sha256: str,
    credentials: Credentials,
    now: datetime | None = None,
) -> dict[str, str]:
    """The headers of a request, with the headers of Signature V4, which S3
    checks.

    ``path`` must be canonical and without a query. ``sha256``: of the body, in
    hexadecimal. ``now``: the time of the request (None: now). All headers and
    Host are signed. Host is not in the result, because the sender of the
    request adds it.
    """
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "x-amz-content-sha256": sha256, "x-amz-date": moment}

    # The signed text has the headers in order, and then the digest of the body.
    names, canonical = _canonical_headers({**sent, "host": host})
    no_query = ""
    request = "\n".join([method, path, no_query, canonical, names, sha256])

    proof = _proof_of(request, moment, names, credentials)
    return {**sent, "authorization": proof}


def _canonical_headers(headers: Mapping[str, str]) -> tuple[str, str]:
    """The names of headers, and the headers, in the form that is signed:
    ``date;host`` and the lines ``date:…`` and ``host:…``."""
    header_lines = sorted(
        (name.lower(), " ".join(value.split())) for name, value in headers.items()
    )
    names = ";".join(name for name, _ in header_lines)
    canonical = "".join(f"{name}:{value}\n" for name, value in header_lines)
    return names, canonical


def _proof_of(request: str, moment: str, names: str, credentials: Credentials) -> str:
    """The header ``Authorization`` for a request in its canonical form.

    ``moment``: its time, as in ``x-amz-date``. ``names``: of its headers.
    """
    date = moment[:_DATE_CHARACTERS]
    scope = f"{date}/{credentials.region}/s3/aws4_request"
    request_digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = "\n".join([_ALGORITHM, moment, scope, request_digest])
    signature = _signature_of(date, to_sign, credentials)
    credential = f"Credential={credentials.access_key}/{scope}"
    return f"{_ALGORITHM} {credential},SignedHeaders={names},Signature={signature}"


def _signature_of(date: str, to_sign: str, credentials: Credentials) -> str:
    """The signature of a text in hexadecimal, with the key of a date such as
    ``20260729``."""
    # Each digest is the key of the next one. The last one signs the text.
    signature = f"AWS4{credentials.secret_key}".encode()
    for part in (date, credentials.region, "s3", "aws4_request", to_sign):
        signature = hmac.digest(signature, part.encode(), "sha256")
    return signature.hex()


class Bucket:
    """The store of uploaded files in a bucket of S3.

    The path of its URL names the bucket (``http://host/bucket/name``), which
    all compatible servers understand.
    """

    store_name = "s3"

    def __init__(self, settings: UploadSettings, files: Threads) -> None:
        """Take the address and the credentials from the settings. No connection
        is opened yet."""
        self._files = files
        address = urlsplit(settings.s3_url)
        self._origin = f"{address.scheme}://{address.netloc}"
        self._host = address.netloc
        self._folder = (
            f"{address.path.rstrip('/')}/{settings.s3_bucket}/{settings.s3_prefix}"
        )
        self._credentials = Credentials(
            settings.s3_access_key, settings.s3_secret_key, settings.s3_region
        )
        self._seconds = settings.s3_seconds
        self._connections: PoolManager | None = None

    def put(self, name: str, path: str, size: int, sha256: str, kind: str) -> None:
        """Send a file under a name. Raises MediaUnavailable unless the bucket
        confirms it."""
        headers = {"content-type": kind, "content-length": str(size)}
        accepted = (HTTPStatus.OK,)
        self._request("PUT", name, headers, accepted, sha256, path).drain_conn()

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """Yield the bytes of a file from index ``first`` to index ``last``, in
        pieces.

        The request is sent now, and its answer is read when the result is
        iterated. Raises FileNotFoundError and MediaUnavailable.
        """
        if last < first:
            return iter(())
        headers = {"range": f"bytes={first}-{last}"}
        # Asking for a range also works for a whole file.
        accepted = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_FOUND)
        answer = self._request("GET", name, headers, accepted)
        if answer.status == HTTPStatus.NOT_FOUND:
            answer.drain_conn()
            raise FileNotFoundError(name)
        return _pieces(answer, last + 1 - first)

    def delete(self, name: str) -> None:
        """Delete a file, if it exists. Raises MediaUnavailable."""
        # A missing file counts as deleted.
        accepted = (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)
        self._request("DELETE", name, {}, accepted).drain_conn()

    def _open_connections(self) -> PoolManager:
        """The connections to the bucket, which are made for the first
        request."""
        # Imported here, because nodes without a bucket need not load it.
        from urllib3 import PoolManager, Timeout

        if self._connections is None:
            timeout = Timeout(connect=self._seconds, read=self._seconds)
            self._connections = PoolManager(
                _MAX_POOLS, maxsize=_IDLE_CONNECTIONS, retries=False, timeout=timeout
            )
        return self._connections

    def _request(
        self,
        method: str,
        name: str,
        headers: dict[str, str],
        accepted: tuple[int, ...],
        sha256: str = EMPTY_SHA256,
        path: str = "",
    ) -> Any:
        """Send a request, and return the answer, whose status is one of
        ``accepted``.

        A request that fails is sent again, at most :data:`_ATTEMPTS` times in
        all. ``path``: the file with the body; ``""``: there is no body.
        ``sha256``: of the body. Raises MediaUnavailable.
        """
        from urllib3.exceptions import HTTPError

        connections = self._open_connections()
        target = canonical_path(self._folder + name)
        failure = ""
        for _ in range(_ATTEMPTS):  # all requests here may be repeated
            try:
                # Signed anew each time, because a signature expires.
                signed = signed_headers(
                    method, self._host, target, headers, sha256, self._credentials
                )
                answer = connections.request(
                    method,
                    self._origin + target,
                    headers=signed,
                    body=self._content(path) if path else None,
                    redirect=False,
                    preload_content=False,
                )
            except (HTTPError, OSError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if answer.status in accepted:
                return answer
            answer.drain_conn()
            failure = f"status {answer.status}"
            if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                break  # the same request would be refused again
        raise self._refused(method, failure)

    def _refused(self, method: str, failure: str) -> MediaUnavailable:
        """Log a request that has failed, and return its error."""
        logging.getLogger(__name__).error(
            "the bucket at %s refused a %s: %s", self._host, method, failure
        )
        return MediaUnavailable(f"the bucket refused the request: {failure}")

    def close(self) -> None:
        """Close the idle connections."""
        if self._connections is not None:
            self._connections.clear()

    def _content(self, path: str) -> Iterator[bytes]:
        """Yield the file at ``path``, in pieces that a thread reads."""
        file: IO[bytes] = self._files.do(Path(path).open, "rb")
        try:
            while piece := self._files.do(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()


def _pieces(answer: Any, size: int) -> Iterator[bytes]:
    """Yield the body of an answer, which has ``size`` bytes, in pieces. Raises
    MediaUnavailable if it is shorter."""
    from urllib3.exceptions import HTTPError

    try:
        while size:
            piece: bytes = answer.read(min(PIECE_BYTES, size), decode_content=False)
            if not piece:
                raise MediaUnavailable(
                    "the answer of the bucket is shorter than announced"
                )
            size -= len(piece)
            yield piece
    except (HTTPError, OSError) as error:
        raise MediaUnavailable(f"{type(error).__name__}: {error}") from None
    finally:
        if size:
            # The rest would be read as the beginning of the next answer.
            answer.close()
        else:
            answer.release_conn()
