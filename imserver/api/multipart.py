"""Reads multipart forms. Loaded when the first one comes: the parser is werkzeug's, and brings all of it."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from imserver.api.form import MAX_FIELDS, BadBody


class _Nowhere(BytesIO):
    """Where files go."""

    def write(self, data: Any, /) -> int:
        return len(data)


def multipart_to_urlencoded(body: bytes, content_type: str) -> bytes:
    """The text fields of a multipart form, without its files, as an urlencoded one.

    Raises :class:`BadBody`.
    """
    kind, options = parse_options_header(content_type)
    # No limit to memory: the body is in memory already.
    parser = FormDataParser(
        lambda *_, **__: _Nowhere(), max_form_memory_size=None, max_form_parts=MAX_FIELDS, silent=False
    )
    try:
        _, form, _ = parser.parse(BytesIO(body), kind, len(body), options)
    except Exception as error:  # the parser has errors of several kinds, HTTP's among them
        raise BadBody(str(error)) from None
    return urlencode(list(form.items(multi=True))).encode()
