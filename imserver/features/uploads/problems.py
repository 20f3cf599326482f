"""HTTP problems of files."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_QUOTA_EXCEEDED: Final = HttpProblem(
    403, "quota_exceeded", "A quota of uploaded files is reached: of the user, the app or the address."
)
HTTP_UNKNOWN_UPLOAD: Final = HttpProblem(404, "unknown_upload", "No such file.")
HTTP_OFFSET_MISMATCH: Final = HttpProblem(
    409, "offset_mismatch", "Upload-Offset differs from the stored offset; read it with HEAD."
)
HTTP_LENGTH_REQUIRED: Final = HttpProblem(411, "length_required", "An upload needs a Content-Length above 0.")
HTTP_TUS_VERSION: Final = HttpProblem(412, "tus_version", "Uploads in parts need Tus-Resumable: 1.0.0.")
HTTP_FILE_TOO_LARGE: Final = HttpProblem(
    413, "file_too_large", "The file is over uploads.max_bytes, or over the limit of its kind."
)
HTTP_KIND_REFUSED: Final = HttpProblem(
    415,
    "kind_refused",
    "Files of this type are not accepted, or the content does not match the declared type.",
)
HTTP_RANGE: Final = HttpProblem(
    416, "range_not_satisfiable", "The file does not contain the requested range."
)
HTTP_UPLOAD_LOCKED: Final = HttpProblem(
    423, "upload_locked", "Another request for this upload is running.", temporary=True
)
HTTP_CHECKSUM_MISMATCH: Final = HttpProblem(
    460, "checksum_mismatch", "The bytes do not have the checksum of Upload-Checksum; send them again."
)
HTTP_DISK_FULL: Final = HttpProblem(
    507, "disk_full", "The upload would leave less than uploads.min_free_bytes on the disk.", temporary=True
)

PROBLEMS: Final = (
    HTTP_QUOTA_EXCEEDED,
    HTTP_UNKNOWN_UPLOAD,
    HTTP_OFFSET_MISMATCH,
    HTTP_LENGTH_REQUIRED,
    HTTP_TUS_VERSION,
    HTTP_FILE_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_RANGE,
    HTTP_UPLOAD_LOCKED,
    HTTP_CHECKSUM_MISMATCH,
    HTTP_DISK_FULL,
)
"""All of them."""
