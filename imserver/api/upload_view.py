"""Flask's views of uploads: a file comes in, and goes out, piece by piece.

Bodies are read from the server below, not by Flask, which would keep them in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, request

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.form import BadBody
from imserver.api.reply import Answer
from imserver.api.style import PROBLEM, Problem
from imserver.api.v1.query import read_query
from imserver.api.v1.upload import FILE_PATH, PATH, THUMBNAIL_PATH, UploadQuery, shown
from imserver.api.v1.uploads import owner_of, still_holds
from imserver.api.views import as_request, to_response
from imserver.auth.authority import refusal
from imserver.auth.principal import NOBODY, PUSH_OR_USER, may
from imserver.errors import MediaUnavailable, StorageUnavailable
from imserver.services.files.transfers import TransferRefused
from imserver.services.files.uploads import ID_CHARACTERS, Offer
from imserver.storage.contract import Upload
from imserver.transport.fast import FastRequest

_RETRY_AFTER: Final = ("Retry-After", "2")
_OWN_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_SHOWN: Final = frozenset({"picture", "voice", "video"})
_CACHED: Final = "private, max-age=86400, immutable"
_NOTHING_RUNS: Final = "default-src 'none'; sandbox"
"""No file is a page: even if a browser takes it for one, nothing in it runs."""

Range = tuple[int, int]


def create_upload_view(api: Api) -> Blueprint:
    """The blueprint of the paths whose bodies are files."""
    view, blueprint = _View(api), Blueprint("uploads", __name__)
    for path, function, methods in (
        (PATH, view.take, ["POST"]),
        (FILE_PATH, view.give, ["GET"]),
        (THUMBNAIL_PATH, view.give_thumbnail, ["GET"]),
    ):
        blueprint.add_url_rule(
            path.replace("{id}", f"<string(length={ID_CHARACTERS}):id>"),
            endpoint=function.__name__,
            view_func=function,
            methods=methods,
            provide_automatic_options=False,
        )
    return blueprint


class _View:
    def __init__(self, api: Api) -> None:
        self._api = api

    # --- in -------------------------------------------------------------------------------------------------

    def take(self) -> Response:
        """``POST /api/v1/uploads``."""
        return self._answered(self._take)

    def _take(self, asked: FastRequest) -> Response:
        query = read_query(Call({}, "", NOBODY, request=asked), UploadQuery)
        principal = self._api.authority.identify(PUSH_OR_USER, asked.headers, asked.host, query.token)
        if not may(principal, PUSH_OR_USER):
            raise Problem(refusal(principal))
        call = Call({}, "", principal, request=asked)
        owner = owner_of(self._api, call, PUSH_OR_USER, query.app, query.user, query.token)
        if asked.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(errors.HTTP_UNKNOWN_ENCODING, "A file comes as it is")
        length = request.content_length
        if length is None:
            raise Problem(errors.HTTP_LENGTH_REQUIRED)
        offer = Offer(owner.app, owner.user, query.name, query.kind, length, asked.host)
        # The server's own stream: it ends with the body, and is read no further than is asked for.
        uploads = self._api.services.uploads
        row = uploads.receive(offer, request.environ["wsgi.input"].read)
        if not still_holds(self._api, owner):
            # Its account was deleted while it came: nobody else will remove it.
            uploads.delete(row.id)
            raise Problem(errors.HTTP_TOKEN_INVALID)
        headers = (("Location", f"{PATH}/{row.id}"), ("X-Request-Id", asked.id))
        return to_response(Answer(HTTPStatus.CREATED, _encode(shown(row)), headers=headers))

    def _answered(self, function: Callable[[FastRequest], Response]) -> Response:
        """What ``function`` answers, or why it does not."""
        asked = as_request()
        try:
            return function(asked)
        except Problem as problem:
            return _refused(asked, problem.problem, problem.detail, problem.headers)
        except TransferRefused as refused:
            return _refused(asked, refused.problem, refused.detail)
        except StorageUnavailable:
            return _refused(asked, errors.HTTP_STORAGE_UNAVAILABLE)
        except MediaUnavailable:
            return _refused(asked, errors.HTTP_MEDIA_UNAVAILABLE)
        except BadBody:
            return _refused(asked, errors.HTTP_INVALID_REQUEST)
        except TimeoutError:  # its sender fell silent
            return _refused(asked, errors.HTTP_TIMEOUT)
        except OSError:  # its sender went away; nobody reads this
            return _refused(asked, errors.HTTP_BAD_REQUEST)

    # --- out ------------------------------------------------------------------------------------------------

    def give(self, id: str) -> Response:
        """``GET /api/v1/uploads/<id>``."""
        return self._answered(lambda asked: self._give(asked, id, thumbnail=False))

    def give_thumbnail(self, id: str) -> Response:
        """``GET /api/v1/uploads/<id>/thumbnail``."""
        return self._answered(lambda asked: self._give(asked, id, thumbnail=True))

    def _give(self, asked: FastRequest, name: str, thumbnail: bool) -> Response:
        uploads = self._api.services.uploads
        row = uploads.find(name)
        if row is None or (thumbnail and not row.thumbnail_bytes):
            raise Problem(errors.HTTP_UNKNOWN_UPLOAD)
        tag = f'"{row.sha256[:32]}{"-t" if thumbnail else ""}"'
        headers = {**_headers(row, thumbnail), "ETag": tag, "X-Request-Id": asked.id}
        if _names(asked.headers.get("if-none-match", ""), tag):
            return _response((), HTTPStatus.NOT_MODIFIED, headers)
        size = row.thumbnail_bytes if thumbnail else row.bytes
        wanted = _range_of(asked.headers, tag, size)
        first, last = wanted or (0, size - 1)
        headers["Content-Length"] = str(last + 1 - first)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
        if request.method == "HEAD":
            return _response((), status, headers)
        return _response(uploads.open(row, thumbnail, first, last, asked.host), status, headers)


_encode: Final = msgspec.json.Encoder().encode


def _refused(
    asked: FastRequest,
    problem: errors.HttpProblem,
    detail: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    response = to_response(PROBLEM.refuse(problem, asked, detail))
    response.headers.extend(headers)
    if problem.temporary and "Retry-After" not in response.headers:
        response.headers.add(*_RETRY_AFTER)
    return response


def _response(content: Iterable[bytes], status: HTTPStatus, headers: dict[str, str]) -> Response:
    response = Response(content, f"{status.value} {status.phrase}", direct_passthrough=True)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _headers(row: Upload, thumbnail: bool) -> dict[str, str]:
    """What is said of a file besides its bytes."""
    inline = thumbnail or row.kind in _SHOWN
    disposition = "inline" if inline else "attachment"
    if row.name and not thumbnail:
        disposition += f"; filename*=UTF-8''{quote(row.name, safe='')}"
    return {
        "Content-Type": row.thumbnail_type if thumbnail else row.type,
        "Content-Disposition": disposition,
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHED,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _NOTHING_RUNS,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag, X-Request-Id",
    }


def _names(header: str, tag: str) -> bool:
    """Whether If-None-Match names this file (RFC 9110 section 13.1.2)."""
    return header.strip() == "*" or any(each.strip().removeprefix("W/") == tag for each in header.split(","))


def _range_of(headers: Any, tag: str, size: int) -> Range | None:
    """The bytes that are wanted; None: all of them (RFC 9110 section 14.2).

    What is no range of bytes, or several of them, or meant for another content, counts as nothing. Raises
    :class:`Problem` for one that the file does not have.
    """
    found = _OWN_RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", tag) != tag or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size - 1
        satisfiable = int(found[2]) > 0
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
        if found[2] and int(found[2]) < first:
            return None
        satisfiable = first < size
    if not satisfiable:
        raise Problem(errors.HTTP_RANGE, headers=(("Content-Range", f"bytes */{size}"),))
    return first, last
