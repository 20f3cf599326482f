"""Reads multipart forms. Loaded when the first one comes: the parser is werkzeug's, and brings all of it."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from imserver.api.form import MAX_FORM_BYTES, BadBody

MAX_PARTS = 1000
MAX_HEAD_BYTES = 128 << 10
"""Bytes that all parts' headers may have together. werkzeug takes 0.2 ms for a KiB of them."""

_end_of_head = re.compile(rb"\r\n\r\n|\r\r|\n\n").search


class _Nowhere(BytesIO):
    """Where files go."""

    def write(self, data: Any, /) -> int:
        return len(data)


def read_multipart(body: bytes, content_type: str) -> list[tuple[str, str]]:
    """The text fields of a multipart form in their order, without its files.

    Raises :class:`BadBody`.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "").encode("latin-1", "replace")
    if len(body) > MAX_FORM_BYTES or not boundary or _head_bytes(body, boundary) > MAX_HEAD_BYTES:
        raise BadBody("too large for a form")
    parser = FormDataParser(
        lambda *_, **__: _Nowhere(),
        max_form_memory_size=MAX_FORM_BYTES,
        max_form_parts=MAX_PARTS,
        silent=False,
    )
    try:
        _, form, _ = parser.parse(BytesIO(body), kind, len(body), options)
    except Exception as error:  # the parser has errors of several kinds, HTTP's among them
        raise BadBody(str(error)) from None
    pairs = list(form.items(multi=True))
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise BadBody("a field contains U+0000")
    return pairs


def _head_bytes(body: bytes, boundary: bytes) -> int:
    """Bytes of the preamble and of the headers of all parts, at least."""
    mark, total, start = b"--" + boundary, 0, 0
    for _ in range(MAX_PARTS + 1):
        end = body.find(mark, start)
        head = _end_of_head(body, start, len(body) if end < 0 else end)
        total += (head.start() if head else len(body) if end < 0 else end) - start
        if end < 0:
            return total
        start = end + len(mark)
    raise BadBody("too many parts")
