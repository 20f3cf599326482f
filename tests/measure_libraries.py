"""CPU and memory of our own parts and of libraries for the same: ``python -m tests.measure_libraries``.

Needs ``h11 botocore python-multipart protobuf grpcio-tools`` beside the development packages; a part whose
library is missing is left out. Figures are the median of nine.
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
PROTO = Path(__file__).parents[1] / "sdk" / "protobuf"


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
    """Import a module in this process, and print what a fresh process takes for it."""
    module = importlib.import_module(name)
    script = (
        "import sys, hashlib, hmac, json, re, urllib.parse, msgspec\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        f"sys.path[:0] = {sys.path!r}\nbefore = rss()\nimport {name}\nprint(f'{{rss() - before:.1f}} MB')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    print(f"{name}, memory: {done.stdout.strip()}")
    return module


def heads() -> None:
    from imserver.transport.head import KnownHeads, parse_head

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
    s3 = importlib.import_module("imserver.storage.s3")
    digest = hashlib.sha256(b"x").hexdigest()
    credentials = s3.Credentials("AKIA", "secret", "eu-central-1")
    show(
        "S3 signature, ours",
        lambda: s3.signed_headers("PUT", "s3.example.org", "/b/k", {}, digest, credentials),
    )
    auth = load("botocore.auth")
    request_type = importlib.import_module("botocore.awsrequest").AWSRequest
    signer = auth.S3SigV4Auth(
        importlib.import_module("botocore.credentials").Credentials("AKIA", "secret"), "s3", "eu-central-1"
    )

    def by_botocore() -> None:
        headers = {"X-Amz-Content-SHA256": digest}
        signer.add_auth(request_type("PUT", "https://s3.example.org/b/k", headers=headers))

    show("S3 signature, botocore", by_botocore)


def forms() -> None:
    from imserver.api.form import read_multipart

    show(
        "multipart form, werkzeug with our bounds",
        lambda: read_multipart(FORM, "multipart/form-data; boundary=x"),
    )
    load("werkzeug.formparser")
    parser_type = load("python_multipart").MultipartParser

    def by_python_multipart() -> None:
        parts: list[bytes] = []
        parser = parser_type("x", {"on_part_data": lambda data, start, end: parts.append(data[start:end])})
        parser.write(FORM)
        parser.finalize()

    show("multipart form, python-multipart", by_python_multipart)


def document() -> None:
    from imserver.api.v1.openapi import document
    from imserver.api.v1.table import DOCUMENTED

    show("OpenAPI document", lambda: document(DOCUMENTED, {}), rounds=3)


def frames() -> None:
    from imserver.model import ChatMessage, Message, Request
    from imserver.protocol.protobuf import ProtobufDialect

    dialect = ProtobufDialect()
    with tempfile.TemporaryDirectory() as folder:
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={folder}"]
        subprocess.run([*compiler, "chat.proto"], check=True)
        sys.path.insert(0, folder)
        pb = load("chat_pb2")
    stored = Message(
        1234567, 55, 77, "987654321", "123456789", body=b"hello, how are you?", time_ms=1_700_000_000_000
    )
    told = pb.Message(session_type=2, receiver_id=123456789, message_type=1, content=stored.body)
    up = pb.UpMsg(msg=told, clientId=42, client_msg_id="0123456789abcdef0123")
    frame = pb.Input(type=3, data=up.SerializeToString()).SerializeToString()

    def read() -> Request:
        up = pb.UpMsg.FromString(pb.Input.FromString(frame).data)
        msg = up.msg
        return Request(
            "",
            "message",
            ChatMessage(
                number=up.clientId,
                session_type=msg.session_type,
                receiver=msg.receiver_id,
                sender=msg.sender_id,
                type=msg.message_type,
                content=msg.content,
                sent_ms=msg.send_time,
                client_msg_id=up.client_msg_id,
                kind=msg.kind,
                about=msg.about,
                meta=msg.meta.encode(),
            ),
        )

    def write() -> bytes:
        msg = pb.Message(
            session_type=1,
            receiver_id=int(stored.to),
            sender_id=int(stored.sender),
            message_type=1,
            content=stored.body,
            seq=stored.id,
            send_time=stored.time_ms,
        )
        data = pb.PushMsg(msg=msg).SerializeToString()
        output = pb.Output(type=3, code=200, CodeMsg="Success", data=data)
        batch: bytes = pb.OutputBatch(outputs=[output.SerializeToString()]).SerializeToString()
        return batch

    assert dialect.decode(frame).command == read().command
    assert dialect.encode_message(stored) == write()
    show("protobuf message read, ours", lambda: dialect.decode(frame))
    show("protobuf message read, google.protobuf", read)
    show("protobuf message written, ours", lambda: dialect.encode_message(stored))
    show("protobuf message written, google.protobuf", write)


def main() -> None:
    for part in (heads, signatures, forms, document, frames):
        try:
            part()
        except ImportError as missing:
            print(f"{part.__name__}: {missing}")


if __name__ == "__main__":
    main()
