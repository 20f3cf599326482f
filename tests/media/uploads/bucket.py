"""A stand-in for S3: it keeps objects in memory, and checks each signature by the book, on its own.

It can be told to fail in the ways in which buckets do.
"""

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

ACCESS_KEY, SECRET_KEY, REGION, NAME = "AKIDEXAMPLE", "the/secret+of the bucket", "eu-central-1", "media"


@dataclass
class Standin:
    """What the bucket holds, what it was asked, and what goes wrong next."""

    url: str = ""
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """One a request: ``"500"``, ``"403"``, ``"hang up"`` before the answer, ``"cut off"`` within it."""


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _objection(handler: BaseHTTPRequestHandler, body: bytes) -> str:
    """What is wrong with the signature of a request; "" if it is right."""
    headers = handler.headers
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
        r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
        headers.get("Authorization", ""),
    )
    if not found:
        return "no signature"
    access_key, day, region, names, signature = found.groups()
    moment = headers["x-amz-date"]
    if (access_key, region, moment[:8]) != (ACCESS_KEY, REGION, day):
        return "wrong credential"
    if headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
        return "the body is not what was signed"
    signed = names.split(";")
    if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(signed) or signed != sorted(signed):
        return "headers that have to be signed are not"
    received = "".join(f"{name}:{headers[name].strip()}\n" for name in signed)
    request = f"{handler.command}\n{handler.path}\n\n{received}\n{names}\n{headers['x-amz-content-sha256']}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/s3/aws4_request\n{digest}"
    key = _hmac(_hmac(_hmac(_hmac(f"AWS4{SECRET_KEY}".encode(), day), region), "s3"), "aws4_request")
    return "" if _hmac(key, to_sign).hex() == signature else "wrong signature"


def _handler(bucket: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            bucket.requests.append(f"{self.command} {self.path}")
            failure = bucket.failures.pop(0) if bucket.failures else ""
            if failure == "hang up":
                self.close_connection = True
                return
            if failure.isdecimal():
                self._answer(int(failure), b"<Error/>")
                return
            if objection := _objection(self, body):
                self._answer(403, objection.encode())
                return
            prefix = f"/{NAME}/"
            assert self.path.startswith(prefix)
            name = unquote(self.path[len(prefix) :])
            if self.command == "PUT":
                bucket.objects[name] = body, self.headers["content-type"]
                self._answer(200)
            elif self.command == "DELETE":
                bucket.objects.pop(name, None)
                self._answer(204)
            elif name not in bucket.objects:
                self._answer(404, b"<Error/>")
            else:
                self._give(bucket.objects[name][0], failure == "cut off")

        def _give(self, content: bytes, cut_off: bool) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"])
            assert found, self.headers["range"]
            part = content[int(found[1]) : int(found[2]) + 1]
            if not cut_off:
                self._answer(206, part, Content_Range=f"bytes {found[1]}-{found[2]}/{len(content)}")
                return
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True

        do_GET = do_PUT = do_DELETE = _serve

    return Handler


@contextmanager
def standing_in() -> Iterator[Standin]:
    """A bucket while the block lasts."""
    bucket = Standin()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(bucket))
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
