"""The views whose bodies are files, not JSON: uploads as a whole, files,
thumbnails."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, request

from imserver.media.uploads.api import (
    FILE_PATH,
    PATH,
    THUMBNAIL_PATH,
    UPLOAD,
    UploadQuery,
    check_after,
    shown,
)
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.declared import (
    HTTP_LENGTH_REQUIRED,
    HTTP_RANGE,
    HTTP_UNKNOWN_UPLOAD,
)
from imserver.media.uploads.uploads import ID_CHARACTERS, Offer, Uploads
from imserver.plugin.errors import HttpProblem, Problems, ServiceRefused
from imserver.plugin.http import (
    PROBLEM,
    Api,
    ApiProblem,
    Call,
    HttpRequest,
    HttpResponse,
    RequestRefused,
)
from imserver.plugin.views import as_request, to_response

_TAG_CHARACTERS: Final = 32
"""Characters of the checksum that are in the entity tag."""


def create_upload_view(uploads: Uploads, api: Api) -> Blueprint:
    """The blueprint of the paths whose bodies are files. A *blueprint* is
    Flask's name for a group of routes."""
    view = _UploadView(uploads, api)
    return blueprint_of(
        "uploads",
        (PATH, view.upload, ("POST",)),
        (FILE_PATH, view.download, ("GET",)),
        (THUMBNAIL_PATH, view.download_thumbnail, ("GET",)),
    )


def blueprint_of(
    name: str, *views: tuple[str, Callable[..., Response], Sequence[str]]
) -> Blueprint:
    """The blueprint of some views.

    Each of ``views`` is a path, a function and methods. ``{id}`` in a path
    stands for the id of a file.
    """
    blueprint = Blueprint(name, __name__)
    for path, function, methods in views:
        blueprint.add_url_rule(
            path.replace("{id}", f"<string(length={ID_CHARACTERS}):id>"),
            endpoint=function.__name__,
            view_func=function,
            methods=list(methods),
            provide_automatic_options=False,
        )
    return blueprint


class _UploadView:
    """The views of files as a whole: upload, download, and download of a
    thumbnail."""

    def __init__(self, uploads: Uploads, api: Api) -> None:
        self._api = api
        self._uploads = uploads
        self._endpoint = api.bind(UPLOAD)

    # --- in -------------------------------------------------------------------

    def upload(self) -> Response:
        """Serve ``POST /api/v1/uploads``."""
        return answered(self._upload)

    def _upload(self, http_request: HttpRequest) -> Response:
        """Receive a file as a whole, and answer with its row. Raises ApiProblem
        and TransferRefused."""
        api = self._api
        call = api.call_of(self._endpoint, http_request)
        query: UploadQuery = call.input
        length = _length_of_file(http_request)
        offer = offer_of(call, query.name, query.kind, length)

        # The server's own stream: it ends with the body, and reads no more than
        # requested.
        uploads = self._uploads
        row = uploads.receive(offer, request.environ["wsgi.input"].read)
        self._delete_unless_allowed(row, call, query.token)
        return _created(http_request, row)

    def _delete_unless_allowed(self, row: Upload, call: Call, token: str) -> None:
        """Delete a file that has just arrived, and raise the error, if the
        rights of its sender have ended during a long upload."""
        try:
            check_after(self._api, call, token)
        except BaseException:
            self._uploads.delete(row.id)  # nothing else would delete the file
            raise

    # --- out ------------------------------------------------------------------

    def download(self, id: str) -> Response:
        """Serve ``GET /api/v1/uploads/<id>``."""
        return answered(partial(self._download, name=id, thumbnail=False))

    def download_thumbnail(self, id: str) -> Response:
        """Serve ``GET /api/v1/uploads/<id>/thumbnail``."""
        return answered(partial(self._download, name=id, thumbnail=True))

    def _download(
        self, http_request: HttpRequest, name: str, thumbnail: bool
    ) -> Response:
        """Answer with a file, or with its thumbnail.

        The answer has the whole content or the requested range. If the client
        has the content already, it is 304 without content. Raises ApiProblem
        and TransferRefused.
        """
        uploads = self._uploads
        row = uploads.find(name)
        if row is None or (thumbnail and not row.thumbnail_bytes):
            raise ApiProblem(HTTP_UNKNOWN_UPLOAD)

        size = row.thumbnail_bytes if thumbnail else row.bytes
        tag = _tag_of(row, thumbnail)
        headers = {
            **_headers(row, thumbnail),
            "ETag": tag,
            "X-Request-Id": http_request.id,
        }
        # Before the file is opened: nothing is sent then.
        if _is_known(tag, http_request.headers.get("if-none-match", "")):
            return _response((), HTTPStatus.NOT_MODIFIED, headers)

        status = HTTPStatus.OK
        first = 0
        last = size - 1
        requested_range = _range_of(http_request.headers, tag, size)
        if requested_range is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            first, last = requested_range
        headers |= _range_headers(status, first, last, size)
        # The headers tell what a GET would send.
        if request.method == "HEAD":
            return _response((), status, headers)
        pieces = uploads.open(row, thumbnail, first, last, http_request.host)
        return _response(pieces, status, headers)


def _created(http_request: HttpRequest, row: Upload) -> Response:
    """The answer to an upload: the file, and its address."""
    headers = (
        ("Location", f"{request.script_root}{PATH}/{row.id}"),
        ("X-Request-Id", http_request.id),
    )
    file = msgspec.json.encode(shown(row))
    return to_response(HttpResponse(HTTPStatus.CREATED, file, headers=headers))


def _tag_of(row: Upload, thumbnail: bool) -> str:
    """The entity tag of a file, or of its thumbnail. A client sends it with
    later requests, to get no second copy."""
    version = row.sha256[:_TAG_CHARACTERS]
    if thumbnail:
        return f'"{version}-t"'
    return f'"{version}"'


def _length_of_file(http_request: HttpRequest) -> int:
    """The length of a file that is the body of a request. Raises ApiProblem if
    the body has another form."""
    require_plain(http_request)
    content_type = http_request.headers.get("content-type", "").lower()
    if content_type.startswith("multipart/form-data"):
        raise ApiProblem.invalid(
            "The body of the request is the file itself; do not send a form"
        )
    length = request.content_length
    if length is None:
        raise ApiProblem(HTTP_LENGTH_REQUIRED)
    return length


def _is_known(tag: str, header: str) -> bool:
    """Whether the client has the content already.

    The value of its header ``If-None-Match`` names the entity tags that it has
    (RFC 9110 section 13.1.2).
    """
    if header.strip() == "*":
        return True
    return tag in (text.strip().removeprefix("W/") for text in header.split(","))


def offer_of(call: Call, name: str, kind: str, length: int) -> Offer:
    """The offer to upload a file, for a request."""
    return Offer(
        app=call.app,
        user=call.user,
        name=name,
        kind=kind,
        length=length,
        address=call.request.host,
        by_user=not call.is_back_end,
    )


def require_plain(http_request: HttpRequest) -> None:
    """Refuse a file that is sent in a content encoding, such as gzip. Raises
    ApiProblem."""
    if http_request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiProblem(
            Problems.UNKNOWN_ENCODING, "Upload the file without a Content-Encoding"
        )


def answered(function: Callable[[HttpRequest], Response]) -> Response:
    """Call a view of files with the current request, and return its answer.

    If it raises an error that a client should know, the answer tells it.
    """
    http_request = as_request()
    try:
        return function(http_request)
    except RequestRefused as refused:
        return to_response(refused.answer)
    except ApiProblem as problem:
        return _refused(http_request, problem.problem, problem.detail, problem.headers)
    except ServiceRefused as error:
        return _refused(http_request, error.problem, error.detail.format(error))
    except TimeoutError:  # the sender has stopped sending
        return _refused(http_request, Problems.TIMEOUT)
    except OSError:  # the sender has disconnected; nobody reads this
        return _refused(http_request, Problems.BAD_REQUEST)


def _refused(
    http_request: HttpRequest,
    problem: HttpProblem,
    detail: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """The answer with a problem. A temporary one tells the client when to try
    again."""
    response = to_response(PROBLEM.refuse(problem, http_request, detail))
    response.headers.extend(headers)
    if problem.temporary and "Retry-After" not in response.headers:
        response.headers.add("Retry-After", "2")
    return response


def _response(
    content: Iterable[bytes], status: HTTPStatus, headers: dict[str, str]
) -> Response:
    """The response with the bytes of a file. Only these headers are sent."""
    response = Response(
        content, f"{status.value} {status.phrase}", direct_passthrough=True
    )
    # Flask has added headers of its own.
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _headers(row: Upload, thumbnail: bool) -> dict[str, str]:
    """The headers of a file, or of its thumbnail, that depend only on its
    row."""
    if thumbnail:
        content_headers = HttpResponse.content_headers(row.thumbnail_type, "")
    else:
        content_headers = HttpResponse.content_headers(row.type, row.name)
    # The content of an id never changes, so clients may keep it.
    return {
        **dict(content_headers),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=86400, immutable",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag, X-Request-Id",
    }


def _range_of(headers: Any, tag: str, size: int) -> tuple[int, int] | None:
    """The range of bytes that the header ``Range`` requests (RFC 9110 section
    14.2).

    Returns the index of the first and of the last byte, or None if the whole
    file is sent. The header is ignored if it is not a single range of bytes, or
    if it is meant for other content. Raises :class:`ApiProblem` for a range
    outside the file.
    """
    header = headers.get("range", "").replace(" ", "")
    # The limit of digits spares us numbers of any length.
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header)
    is_for_this_content = headers.get("if-range", tag) == tag
    if match is None or not is_for_this_content:
        return None
    first_text, last_text = match.groups()
    if not (first_text or last_text):
        return None

    # "bytes=-500" means the last 500 bytes.
    if not first_text:
        return _last_bytes(int(last_text), size)
    first = int(first_text)
    last = min(int(last_text or size - 1), size - 1)
    if last_text and int(last_text) < first:
        return None
    if first >= size:
        raise _outside(size)
    return first, last


def _range_headers(
    status: HTTPStatus, first: int, last: int, size: int
) -> dict[str, str]:
    """The headers that say which bytes of a file an answer has. ``size``: of
    the whole file."""
    headers = {"Content-Length": str(last + 1 - first)}
    if status == HTTPStatus.PARTIAL_CONTENT:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return headers


def _last_bytes(length: int, size: int) -> tuple[int, int]:
    """The range of the last ``length`` bytes of a file. Raises ApiProblem if
    they are none."""
    if not length:
        raise _outside(size)
    return max(size - length, 0), size - 1


def _outside(size: int) -> ApiProblem:
    """The error for a range outside a file of this size."""
    return ApiProblem(HTTP_RANGE, headers=(("Content-Range", f"bytes */{size}"),))
