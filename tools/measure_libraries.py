"""CPU and memory of our own parts and of libraries for the same: ``python -m
tools.measure_libraries``.

Needs ``h11 botocore python-multipart`` beside the development packages; a part
whose library is missing is left out. Figures are the median of nine.
"""

import hashlib
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import running

HEAD = (
    b"POST /user/sendMessage HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: python-requests/2.31\r\n"
    b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 42\r\n"
    b"Authorization: Bearer imk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG\r\n\r\n"
)
FORM = b"".join(
    b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\nvalue\r\n' % name
    for name in (b"appID", b"userID", b"msgID", b"message")
)
FORM += b"--x--\r\n"


def show(what: str, run: Callable[[], object], rounds: int = 2000) -> None:
    """Print the CPU time of one call in microseconds."""
    run()
    times = []
    for _ in range(9):
        began = time.process_time()
        for _ in range(rounds):
            run()
        times.append((time.process_time() - began) / rounds * 1e6)
    print(f"{what}: {statistics.median(times):.2f} µs")


def load(name: str) -> Any:
    """Import a module in this process, and print what a fresh process takes for
    it."""
    module = importlib.import_module(name)
    script = (
        "import sys, hashlib, hmac, json, re, urllib.parse, msgspec\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        f"sys.path[:0] = {sys.path!r}\nbefore = rss()\nimport {name}\nprint(f'{{rss() - before:.1f}} MB')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    print(f"{name}, memory: {done.stdout.strip()}")
    return module


def heads() -> None:
    from imserver.gateway.transport.http1 import KnownHeads, parse_head

    known = KnownHeads()
    show("request head, known", lambda: known.read(HEAD))
    show("request head, httptools", lambda: parse_head(HEAD))
    h11 = load("h11")

    def by_h11() -> None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(HEAD)
        connection.next_event()

    show("request head, h11", by_h11)


def signatures() -> None:
    s3 = importlib.import_module("imserver.media.uploads.s3")
    digest = hashlib.sha256(b"x").hexdigest()
    credentials = s3.Credentials("AKIA", "secret", "eu-central-1")
    show(
        "S3 signature, ours",
        lambda: s3.signed_headers(
            "PUT", "s3.example.org", "/b/k", {}, digest, credentials
        ),
    )
    auth = load("botocore.auth")
    request_type = importlib.import_module("botocore.awsrequest").AWSRequest
    signer = auth.S3SigV4Auth(
        importlib.import_module("botocore.credentials").Credentials("AKIA", "secret"),
        "s3",
        "eu-central-1",
    )

    def by_botocore() -> None:
        headers = {"X-Amz-Content-SHA256": digest}
        signer.add_auth(
            request_type("PUT", "https://s3.example.org/b/k", headers=headers)
        )

    show("S3 signature, botocore", by_botocore)


def forms() -> None:
    from imserver.gateway.http.form import read_multipart

    show(
        "multipart form, werkzeug with our bounds",
        lambda: read_multipart(FORM, "multipart/form-data; boundary=x"),
    )
    load("werkzeug.formparser")
    parser_type = load("python_multipart").MultipartParser

    def by_python_multipart() -> None:
        parts: list[bytes] = []
        parser = parser_type(
            "x",
            {"on_part_data": lambda data, start, end: parts.append(data[start:end])},
        )
        parser.write(FORM)
        parser.finalize()

    show("multipart form, python-multipart", by_python_multipart)


def document() -> None:
    from imserver.gateway.http.openapi import document
    from tests.rows import DOCUMENTED

    show("OpenAPI document", lambda: document(DOCUMENTED, {}), rounds=3)


def frames() -> None:
    load("imserver.dialects.protobuf.chat_pb2")
    from imserver.dialects.protobuf import chat_pb2 as pb
    from imserver.dialects.protobuf.wire import ProtobufDialect, uplink_ack
    from imserver.messenger.log.model import Message

    dialect = ProtobufDialect()
    stored = Message(
        123456,
        77,
        4242,
        "266",
        ("266", "267"),
        body=b"a message of forty bytes, as people type",
        time_ms=1795156528123,
    )
    entry = dialect.encode_entry(stored)
    for text, language in (
        (stored.body, "ASCII"),
        ("今天晚上一起吃饭吗？老地方见".encode(), "Chinese"),
    ):
        entry.content = text  # type: ignore[union-attr]
        up = pb.UpMsg(msg=entry, clientId=17)
        frame = pb.Input(type=3, data=up.SerializeToString()).SerializeToString()
        show(
            f"protobuf message read, {language}",
            lambda frame=frame: dialect.decode(frame),  # type: ignore[misc]
        )
    show("protobuf message written", lambda: dialect.encode_message(stored))
    show("protobuf ack written", lambda: uplink_ack(17, stored.id))


SERVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 201 Created\\r\\nContent-Length: 0\\r\\n\\r\\n")
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def requests() -> None:
    from imserver.gateway.transport.outgoing import Outgoing, PublicRequests

    with running(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        for what, sender in (
            ("ours", PublicRequests(allow_loopback=True)),
            ("urllib3", Outgoing()),
        ):
            show(
                f"request, {what}",
                lambda one=sender: one.send(url, {}, b"x" * 500, 10),  # type: ignore[misc]
                500,
            )
            sender.close()


def pipelines() -> None:
    import redis
    from gevent import monkey

    from imserver.gateway.cluster.redis.connection import address_of
    from imserver.gateway.cluster.redis.masters import open_link
    from imserver.gateway.cluster.registry import RegistryCounters
    from tests.gateway.cluster.redis_server import RedisServer

    monkey.patch_socket()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            link = open_link(address_of(server.settings), 5.0, RegistryCounters())
            client = redis.Redis(*address_of(server.settings).hosts[0])

            def library(commands: list[tuple[str, ...]]) -> None:
                pipeline = client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                pipeline.execute(raise_on_error=False)

            for count in (1, 10, 100):
                commands = [
                    ("HGET", "imserver:measure", f"user{number}")
                    for number in range(count)
                ]
                show(
                    f"{count} commands of Redis, ours",
                    lambda each=commands: link.exchange(each),  # type: ignore[misc]
                    400,
                )
                show(
                    f"{count} commands, redis-py",
                    lambda each=commands: library(each),  # type: ignore[misc]
                    400,
                )
        finally:
            server.kill()


def main() -> None:
    for part in (heads, signatures, forms, document, frames, requests, pipelines):
        try:
            part()
        except ImportError as missing:
            print(f"{part.__name__}: {missing}")


if __name__ == "__main__":
    main()
