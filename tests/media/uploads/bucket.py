"""A stand-in for S3: it keeps objects in memory, and checks each signature by
the book, on its own.

It can be told to fail in the ways in which buckets do.
"""

import hashlib
import hmac
import re
from urllib.parse import unquote

from tests.integration.receiver import Answer, Post, Receiver

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "the/secret+of the bucket"
REGION = "eu-central-1"
NAME = "media"


class Standin(Receiver):
    """What the bucket holds, what it was asked, and what goes wrong next."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.failures: list[str] = []
        """One a request: ``"500"``, ``"403"``, ``"hang up"`` before the answer,
        ``"cut off"`` within it."""
        self.reply = self._serve

    @property
    def requests(self) -> list[str]:
        return [f"{post.method} {post.path}" for post in self.posts]

    def _serve(self, post: Post) -> Answer | None:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "hang up":
            return None
        if failure.isdecimal():
            return int(failure), b"<Error/>"
        if objection := _objection(post):
            return 403, objection.encode()
        prefix = f"/{NAME}/"
        assert post.path.startswith(prefix)
        name = unquote(post.path[len(prefix) :])
        if post.method == "PUT":
            self.objects[name] = post.body, post.headers["content-type"]
            return 200, b""
        if post.method == "DELETE":
            self.objects.pop(name, None)
            return 204, b""
        if name not in self.objects:
            return 404, b"<Error/>"
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", post.headers["range"])
        assert found, post.headers["range"]
        content = self.objects[name][0]
        part = content[int(found[1]) : int(found[2]) + 1]
        if failure == "cut off":
            return 206, part[: len(part) // 2], {"Content-Length": str(len(part))}
        return (
            206,
            part,
            {"Content-Range": f"bytes {found[1]}-{found[2]}/{len(content)}"},
        )


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _objection(post: Post) -> str:
    """What is wrong with the signature of a request; "" if it is right."""
    headers = post.headers
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
        r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
        headers.get("authorization", ""),
    )
    if not found:
        return "no signature"
    access_key, day, region, names, signature = found.groups()
    moment = headers["x-amz-date"]
    if (access_key, region, moment[:8]) != (ACCESS_KEY, REGION, day):
        return "wrong credential"
    if headers["x-amz-content-sha256"] != hashlib.sha256(post.body).hexdigest():
        return "the body is not what was signed"
    signed = names.split(";")
    if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(
        signed
    ) or signed != sorted(signed):
        return "headers that have to be signed are not"
    received = "".join(f"{name}:{headers[name].strip()}\n" for name in signed)
    request = f"{post.method}\n{post.path}\n\n{received}\n{names}\n{headers['x-amz-content-sha256']}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/s3/aws4_request\n{digest}"
    key = _hmac(
        _hmac(_hmac(_hmac(f"AWS4{SECRET_KEY}".encode(), day), region), "s3"),
        "aws4_request",
    )
    return "" if _hmac(key, to_sign).hex() == signature else "wrong signature"
