"""The view of uploads in parts: tus 1.0
(https://tus.io/protocols/resumable-upload), with extensions."""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from imserver.media.uploads.api import (
    BEGIN,
    PART,
    PART_TYPE,
    TUS_PATH,
    TUS_VERSION,
    check_after,
    shown,
)
from imserver.media.uploads.declared import (
    HTTP_KIND_REFUSED,
    HTTP_TUS_VERSION,
    HTTP_UNKNOWN_UPLOAD,
)
from imserver.media.uploads.resumable import (
    ALGORITHMS,
    Checksum,
    PartialUpload,
    ResumableUploads,
)
from imserver.media.uploads.uploads import Offer, Uploads
from imserver.media.uploads.views import (
    answered,
    blueprint_of,
    create_upload_view,
    offer_of,
    require_plain,
)
from imserver.plugin.http import Api, ApiProblem, Call, HttpRequest, HttpResponse
from imserver.plugin.services import Core
from imserver.plugin.views import to_response

MAX_METADATA: Final = 4096
"""Longest Upload-Metadata, in bytes."""
_METHODS: Final = ("OPTIONS", "POST", "HEAD", "PATCH", "GET", "DELETE")
_MORE_HEADERS: Final = {
    "Access-Control-Allow-Headers": "X-HTTP-Method-Override, Tus-Resumable, Upload-Length, Upload-Offset, "
    "Upload-Metadata, Upload-Checksum",
    "Access-Control-Expose-Headers": "Location, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, "
    "Tus-Checksum-Algorithm, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Expires",
}
"""Further items for headers of the API, for pages of other origins."""
Headers = tuple[tuple[str, str], ...]


def create_views(core: Core, api: Api) -> tuple[Blueprint, ...]:
    """The blueprints of uploads as a whole and in parts. A *blueprint* is
    Flask's name for a group of routes."""
    uploads = core.service(Uploads)
    view = _TusView(uploads, api)
    tus = blueprint_of(
        "tus",
        (TUS_PATH, view.begin, _METHODS),
        (f"{TUS_PATH}/{{id}}", view.continue_, _METHODS),
    )
    return create_upload_view(uploads, api), tus


class _TusView:
    """The view of uploads in parts.

    A client begins an upload by POST, and gets its URL. It sends the bytes
    there by PATCH, in as many requests as it needs, and asks for the offset by
    HEAD.
    """

    def __init__(self, uploads: Uploads, api: Api) -> None:
        self._api = api
        self._uploads = uploads
        self._resumable = ResumableUploads(uploads)
        self._begin_endpoint = api.bind(BEGIN)
        self._part_endpoints = {
            method: api.bind(route) for method, route in PART.items()
        }

    def begin(self) -> Response:
        """Serve ``/api/v1/uploads/tus``, where uploads begin."""
        return self._serve(("POST",), self._begin)

    def continue_(self, id: str) -> Response:
        """Serve ``/api/v1/uploads/tus/<id>``, where uploads continue."""

        def answer(http_request: HttpRequest) -> Response:
            return self._continue(http_request, id)

        return self._serve(tuple(PART), answer)

    def _serve(
        self, methods: tuple[str, ...], function: Callable[[HttpRequest], Response]
    ) -> Response:
        """Answer a request by ``function``.

        OPTIONS is answered by the headers of the protocol alone. Other methods
        than ``methods`` are refused.
        """
        method = _method()
        if method == "OPTIONS":
            no_content = HttpResponse(HTTPStatus.NO_CONTENT, b"")
            return self._finished(to_response(no_content))
        if method not in methods:
            raise MethodNotAllowed(["OPTIONS", *methods])
        return self._finished(answered(function))

    def _finished(self, response: Response) -> Response:
        """Add the headers of the protocol to a response, and return it.

        The abilities of the server are in the response to OPTIONS, and to a
        client with another version of the protocol.
        """
        response.headers["Access-Control-Allow-Methods"] = ", ".join(_METHODS)
        for name, more in _MORE_HEADERS.items():
            response.headers[name] += f", {more}"
        response.headers["Tus-Resumable"] = TUS_VERSION
        if (
            request.method == "OPTIONS"
            or response.status_code == HTTPStatus.PRECONDITION_FAILED
        ):
            self._add_abilities(response)
        # A response of this status has no body.
        if response.status_code == HTTPStatus.NO_CONTENT:
            response.headers.pop("Content-Length", None)
            response.headers.pop("Content-Type", None)
        return response

    def _add_abilities(self, response: Response) -> None:
        """Add the headers that say what this server can do."""
        response.headers["Tus-Version"] = TUS_VERSION
        response.headers["Tus-Extension"] = (
            "creation,creation-with-upload,expiration,termination,checksum"
        )
        response.headers["Tus-Max-Size"] = str(self._uploads.settings.max_bytes)
        response.headers["Tus-Checksum-Algorithm"] = ",".join(ALGORITHMS)

    def _begin(self, http_request: HttpRequest) -> Response:
        """Begin an upload, and answer with its URL. The request may have its
        first bytes. Raises ApiProblem and TransferRefused."""
        call = self._api.call_of(self._begin_endpoint, http_request)
        _require_version(http_request)
        metadata = http_request.headers.get("upload-metadata", "")
        offer = _offer_in(call, http_request, metadata)

        with self._resumable.begun(offer, metadata) as part:
            if request.content_length:
                self._append(call, part, offer, offset=0)
            headers = (("Location", _location_of(part, call)), *_progress(part))
        return _response(http_request, HTTPStatus.CREATED, headers)

    def _continue(self, http_request: HttpRequest, name: str) -> Response:
        """Describe, delete or continue an upload, as the method of the request
        says.

        ``name`` is its id. Raises ApiProblem and TransferRefused.
        """
        method = _method()
        call = self._api.call_of(self._part_endpoints[method], http_request)
        # GET is not part of the protocol: any client may ask for a finished
        # file.
        if method != "GET":
            _require_version(http_request)
        with self._resumable.opened(call.app, call.user, name) as part:
            if method == "GET":
                return self._describe(http_request, part)
            if method == "DELETE":
                self._delete(call, part)
                return _response(http_request, HTTPStatus.NO_CONTENT)
            if method == "HEAD":
                return _response(http_request, HTTPStatus.OK, _state_headers(part))
            return self._receive_part(http_request, call, part)

    def _receive_part(
        self, http_request: HttpRequest, call: Call, part: PartialUpload
    ) -> Response:
        """Append the body of a request (``PATCH``) to an upload. Raises
        ApiProblem and TransferRefused."""
        offset = _number_in(http_request, "upload-offset")
        offer = offer_of(call, name="", kind="", length=part.state.length)
        self._append(call, part, offer, offset)
        return _response(http_request, HTTPStatus.NO_CONTENT, _progress(part))

    def _delete(self, call: Call, part: PartialUpload) -> None:
        """Delete an upload. If it was finished, its file is deleted, which is
        recorded."""
        self._resumable.remove(part)
        if part.finished:
            self._api.acted("uploads.delete", call, given={"id": part.id})

    def _describe(self, http_request: HttpRequest, part: PartialUpload) -> Response:
        """Answer with the file of a finished upload. Raises ApiProblem if the
        upload is unfinished."""
        row = None
        if part.finished:
            row = self._uploads.find(part.id)
        if row is None:
            raise ApiProblem(HTTP_UNKNOWN_UPLOAD, "The upload is unfinished")
        file = msgspec.json.encode(shown(row))
        return _response(http_request, HTTPStatus.OK, body=file)

    def _append(
        self, call: Call, part: PartialUpload, offer: Offer, offset: int
    ) -> None:
        """Append the body of a request to an upload that has ``offset`` bytes.

        If the file is complete, the rights of the sender are checked again,
        because the upload may have taken long. Raises ApiProblem and
        TransferRefused.
        """
        http_request = call.request
        if http_request.headers.get("content-type", "") != PART_TYPE:
            raise ApiProblem(
                HTTP_KIND_REFUSED, f"The Content-Type of the bytes is {PART_TYPE}"
            )
        require_plain(http_request)

        # The server's own stream: it ends with the body, and reads no more than
        # requested.
        row = self._resumable.append(
            part,
            offer,
            offset,
            request.content_length or 0,
            request.environ["wsgi.input"].read,
            _checksum(http_request),
        )
        if row is not None:
            try:
                check_after(self._api, call, call.input.token)
            except BaseException:
                self._resumable.remove(part)
                raise


def _location_of(part: PartialUpload, call: Call) -> str:
    """The URL to which a client sends the bytes of an upload."""
    location = f"{request.script_root}{TUS_PATH}/{part.id}"
    if call.is_back_end:
        # The key of a back end does not say whose upload it is.
        location += "?" + urlencode({"app": call.app, "user": call.user})
    return location


def _offer_in(call: Call, http_request: HttpRequest, metadata: str) -> Offer:
    """The file that a client offers in a request to begin an upload. Raises
    ApiProblem."""
    if http_request.headers.get("upload-concat"):
        raise ApiProblem.invalid("`Upload-Concat`: this server joins no uploads")
    # The query of this server comes before the metadata of tus.
    name = call.input.name or _file_name(metadata)
    length = _number_in(http_request, "upload-length")
    return offer_of(call, name, call.input.kind, length)


def _method() -> str:
    """The method of a request. Some clients cannot send PATCH and DELETE, and
    name the method in a header."""
    return request.headers.get("X-HTTP-Method-Override", request.method).upper()


def _require_version(http_request: HttpRequest) -> None:
    """Raise ApiProblem if the client has another version of the protocol."""
    if http_request.headers.get("tus-resumable") != TUS_VERSION:
        raise ApiProblem(HTTP_TUS_VERSION)


def _number_in(http_request: HttpRequest, header: str) -> int:
    """The number of bytes in a header. Raises ApiProblem if the header has no
    number."""
    text = http_request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise ApiProblem.invalid(f"`{header.title()}`: expected a number of bytes")
    return int(text)


def _file_name(metadata: str) -> str:
    """The name of the file in the header ``Upload-Metadata``, whose values are
    in Base64: ``filename cGxhbi5wZGY=,kind …``.

    Returns ``""`` without a name. Raises :class:`ApiProblem`.
    """
    if len(metadata) > MAX_METADATA:
        raise ApiProblem.invalid(f"`Upload-Metadata` has at most {MAX_METADATA} bytes")
    values: dict[str, bytes] = {}
    for pair in metadata.split(","):
        # An empty item, as after a comma at the end, is allowed.
        if not pair:
            continue
        key, _, value = pair.strip().partition(" ")
        values[key] = _base64(value, "Upload-Metadata")
    name = values.get("filename", b"")
    return name.decode(errors="replace")


def _checksum(http_request: HttpRequest) -> Checksum | None:
    """The checksum of the body, from the header ``Upload-Checksum: sha1
    <base64>``.

    Returns None if there is no header. Raises ApiProblem.
    """
    text = http_request.headers.get("upload-checksum")
    if text is None:
        return None
    algorithm, _, digest = text.partition(" ")
    if algorithm not in ALGORITHMS:
        raise ApiProblem.invalid(f"`Upload-Checksum`: use {', '.join(ALGORITHMS)}")
    return Checksum(algorithm, _base64(digest, "Upload-Checksum"))


def _base64(text: str, header: str) -> bytes:
    """Decode the value of a header. Raises ApiProblem."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiProblem.invalid(f"`{header}`: invalid base64") from None


def _progress(part: PartialUpload) -> Headers:
    """The headers with the offset of an upload and, if it is unfinished, the
    time at which it expires."""
    from email.utils import formatdate  # few nodes take files in parts

    offset = ("Upload-Offset", str(part.offset))
    if part.finished:
        return (offset,)
    return (offset, ("Upload-Expires", formatdate(part.expires, usegmt=True)))


def _state_headers(part: PartialUpload) -> Headers:
    """The headers of the answer to HEAD: the offset and the length of an
    upload, and the metadata that the client has sent."""
    headers: Headers = (
        *_progress(part),
        ("Upload-Length", str(part.state.length)),
        ("Cache-Control", "no-store"),
    )
    if part.state.metadata:
        return (*headers, ("Upload-Metadata", part.state.metadata))
    return headers


def _response(
    http_request: HttpRequest,
    status: HTTPStatus,
    headers: Headers = (),
    body: bytes = b"",
) -> Response:
    """A response of this view, with the id of the request."""
    all_headers = (*headers, ("X-Request-Id", http_request.id))
    return to_response(HttpResponse(status, body, headers=all_headers))
