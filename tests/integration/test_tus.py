"""Uploads in parts over HTTP: tus 1.0 on both servers."""

import hashlib
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import StartServer
from tests.support import Server, eventually

from .cmd import form_request, fresh, logged_in
from .raw import Raw, Response, ask, request
from .test_uploads import KEY, READER, SETTINGS, code, fetch, picture, token

PATH = "/api/v1/uploads/tus"
VIDEO = b"\0\0\0\x18ftypisom"
CONTENT = os.urandom(200_000)
OWN = {"Authorization": f"Bearer {KEY}", "Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def own_server(http_server: str, start_shared_server: StartServer) -> Server:
    return start_shared_server(config=SETTINGS, http_server=http_server)


def send(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
    """A request with the key of the back end; ``Upload_Length`` is a header."""
    named = OWN | {name.replace("_", "-"): value for name, value in headers.items()}
    question = request(
        path, method=method, headers=[(name, value) for name, value in named.items() if value], body=body
    )
    with Raw(server.http) as raw:
        raw.send(question)
        return raw.response(to_head=method == "HEAD")


def begin(server: Server, length: int, user: str = "ann", **headers: str) -> str:
    answer = send(server, "POST", f"{PATH}?app=101&user={user}", Upload_Length=str(length), **headers)
    assert answer.status == 201, answer
    assert answer.header("Upload-Expires")
    return answer.header("Location") or ""


def patch(server: Server, path: str, offset: int, content: bytes, **headers: str) -> Response:
    return send(server, "PATCH", path, content, Upload_Offset=str(offset), **{**BYTES, **headers})


def unfinished_bytes(server: Server) -> int:
    """The bytes of all unfinished uploads."""
    parts = (server.folder / "data" / "uploads" / "incoming").glob("*/*")
    return sum(path.stat().st_size for path in parts if not path.suffix)


def unfinished(server: Server) -> set[Path]:
    return set((server.folder / "data" / "uploads" / "incoming").glob("*/*"))


def found(answer: Response) -> Response | None:
    return None if answer.status == 423 else answer


@pytest.mark.both_servers
def test_a_file_arrives_in_parts(own_server: Server) -> None:
    user, metadata = fresh("u") + "/é", f"filename {b64encode('päss.bin'.encode()).decode()},other"
    path = begin(own_server, len(CONTENT), quote(user, safe=""), Upload_Metadata=metadata)
    with Raw(own_server.http) as raw:  # its line is lost
        head = [*OWN.items(), *BYTES.items(), ("Upload-Offset", "0"), ("Content-Length", str(len(CONTENT)))]
        raw.send(request(path, method="PATCH", headers=head) + CONTENT[:100_000])
        eventually(lambda: unfinished_bytes(own_server) > 0, what="the first bytes are on the disk")
    # Until the server has seen that the line is lost, the upload is locked.
    answer = eventually(lambda: found(send(own_server, "HEAD", path)), what="the upload is free")
    assert answer.status == 200
    offset = int(answer.header("Upload-Offset") or "")
    assert 0 < offset <= 100_000
    assert (answer.header("Upload-Length"), answer.header("Upload-Metadata")) == (str(len(CONTENT)), metadata)
    assert answer.header("Cache-Control") == "no-store"
    assert code(send(own_server, "GET", path)) == (404, "unknown_upload")
    assert code(patch(own_server, path, offset + 1, b"x")) == (409, "offset_mismatch")
    answer = patch(own_server, path, offset, CONTENT[offset:])
    assert (answer.status, answer.header("Upload-Offset")) == (204, str(len(CONTENT)))
    assert answer.header("Tus-Resumable") == "1.0.0"
    file = send(own_server, "GET", path).json
    assert (file["user"], file["name"], file["bytes"]) == (user, "päss.bin", len(CONTENT))
    assert file["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert fetch(own_server, file["url"]).body == CONTENT
    assert send(own_server, "HEAD", path).header("Upload-Offset") == str(len(CONTENT))
    assert send(own_server, "POST", path, X_HTTP_Method_Override="DELETE").status == 204
    assert code(fetch(own_server, file["url"])) == (404, "unknown_upload")
    assert send(own_server, "HEAD", path).status == 404


def test_an_upload_may_begin_with_bytes(own_server: Server) -> None:
    content = picture()
    answer = send(
        own_server,
        "POST",
        f"{PATH}?app=101&user=ann&kind=picture",
        content,
        Upload_Length=str(len(content)),
        **BYTES,
    )
    assert (answer.status, answer.header("Upload-Offset")) == (201, str(len(content)))
    file = send(own_server, "GET", answer.header("Location") or "").json
    assert (file["kind"], file["width"], file["height"]) == ("picture", 400, 300)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content-Type": "text/plain"}, 415), ({**BYTES, "Upload_Checksum": "sha1 AAAA"}, 460)],
)
def test_an_upload_whose_first_bytes_are_refused_is_gone(
    own_server: Server, headers: dict[str, str], status: int
) -> None:
    before, path = unfinished(own_server), f"{PATH}?app=101&user={fresh('u')}"
    answer = send(own_server, "POST", path, b"x" * 100, Upload_Length="2000000", **headers)
    assert answer.status == status, answer
    assert unfinished(own_server) == before


def test_options_tell_what_the_server_can(own_server: Server) -> None:
    for path in (PATH, f"{PATH}/{'x' * 32}"):
        answer = ask(own_server.http, request(path, method="OPTIONS"))
        assert answer.status in (200, 204)
        assert answer.header("Tus-Version") == answer.header("Tus-Resumable") == "1.0.0"
        assert answer.header("Tus-Max-Size") == "2000000"
        assert (answer.header("Tus-Extension") or "").split(",") == [
            *("creation", "creation-with-upload", "expiration", "termination", "checksum")
        ]
        assert "sha1" in (answer.header("Tus-Checksum-Algorithm") or "")
        assert "PATCH" in (answer.header("Access-Control-Allow-Methods") or "")
        assert "Upload-Offset" in (answer.header("Access-Control-Allow-Headers") or "")
        assert "Upload-Offset" in (answer.header("Access-Control-Expose-Headers") or "")


def test_requests_that_break_the_protocol_are_refused(own_server: Server) -> None:
    own = f"{PATH}?app=101&user=ann"
    other = send(own_server, "POST", own, Upload_Length="5", Tus_Resumable="0.2.2")
    assert code(other) == (412, "tus_version")
    assert other.header("Tus-Version") == "1.0.0"
    assert code(send(own_server, "POST", own, Upload_Length="5", Tus_Resumable=""))[0] == 412
    for length in ("", "-1", "x", "9" * 16):
        assert code(send(own_server, "POST", own, Upload_Length=length)) == (400, "invalid_request")
    assert code(send(own_server, "POST", own, Upload_Length="0")) == (411, "length_required")
    assert code(send(own_server, "POST", own, Upload_Length="2000001")) == (413, "file_too_large")
    for metadata in ("filename ???", "filename " + "A" * 4097):
        answer = send(own_server, "POST", own, Upload_Length="5", Upload_Metadata=metadata)
        assert code(answer) == (400, "invalid_request")
    concatenation = send(own_server, "POST", own, Upload_Length="5", Upload_Concat="partial")
    assert code(concatenation) == (400, "invalid_request")
    path = begin(own_server, 5)
    assert code(send(own_server, "PATCH", path, b"x", Upload_Offset="0")) == (415, "kind_refused")
    assert code(send(own_server, "PATCH", path, b"x", **BYTES)) == (400, "invalid_request")
    for checksum in ("crc32 AAAA", "sha1 ???"):
        assert code(patch(own_server, path, 0, b"x", Upload_Checksum=checksum)) == (400, "invalid_request")
    wrong = patch(own_server, path, 0, b"x", Upload_Checksum="sha1 AAAA")
    assert code(wrong) == (460, "checksum_mismatch")
    right = b64encode(hashlib.sha1(b"x").digest()).decode()
    assert patch(own_server, path, 0, b"x", Upload_Checksum=f"sha1 {right}").status == 204
    assert code(patch(own_server, path, 1, b"12345")) == (413, "file_too_large")
    assert send(own_server, "PUT", path).status == 405
    assert send(own_server, "HEAD", f"{PATH}/{'x' * 32}?app=101&user=ann").status == 404


def test_only_its_user_continues_an_upload(own_server: Server) -> None:
    proof = f"Bearer {token('ann')}"
    answer = send(own_server, "POST", PATH, Upload_Length="5", Authorization=proof)
    path = answer.header("Location") or ""
    assert "?" not in path
    assert send(own_server, "HEAD", path, Authorization=proof).status == 200
    assert send(own_server, "HEAD", f"{path}?app=103&user=ann").status == 200, "the back end may"
    assert send(own_server, "HEAD", path, Authorization=f"Bearer {token('bob')}").status == 404
    assert send(own_server, "HEAD", f"{path}?app=103&user=bob").status == 404
    for method in ("GET", "PATCH", "DELETE"):
        bob = send(own_server, method, f"{path}?user=ann", Authorization=f"Bearer {token('bob')}")
        assert code(bob) == (403, "not_allowed")
        assert code(send(own_server, method, path, Authorization="Bearer x")) == (401, "token_invalid")
        assert code(send(own_server, method, path, Authorization="")) == (401, "unauthorized")
        assert code(send(own_server, method, path, Authorization=f"Bearer {READER}")) == (403, "forbidden")
    assert patch(own_server, path, 0, b"hello", Authorization=proof).status == 204


@pytest.mark.full
def test_messages_arrive_while_a_large_video_goes_up(
    http_server: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    server = Server(tmp_path, config={"uploads": {"min_free_bytes": 0}}, http_server=http_server)
    done = threading.Event()

    def go_up(video: bytes) -> None:
        try:
            answer = send(
                server, "POST", f"{PATH}?app=101&user=ann", Authorization="", Upload_Length=str(len(video))
            )
            path, offset = answer.header("Location") or "", 0
            while offset < len(video):
                piece = video[offset : offset + (4 << 20)]
                answer = patch(server, path, offset, piece, Authorization="")
                offset = int(answer.header("Upload-Offset") or "")
            assert send(server, "GET", path, Authorization="").json["kind"] == "video"
        finally:
            done.set()

    try:
        with logged_in(server.ws, fresh("ann"), 101) as reader, ThreadPoolExecutor() as threads:
            go_up(VIDEO)  # loads what the first upload of a server needs
            done.clear()
            uploading = threads.submit(go_up, VIDEO + bytes(50_000_000 - len(VIDEO)))
            waits: list[float] = []
            meanwhile = 0
            while not done.is_set() or len(waits) < 20:
                begun = time.monotonic()
                body = {"appID": "101", "userID": "bob", "msgID": fresh("m"), "message": str(len(waits))}
                assert ask(server.http, form_request("/user/sendMessageAll", body)).json["code"] == 200
                assert reader.push().json["response"]["data"]["msg"] == str(len(waits))
                waits.append(time.monotonic() - begun)
                meanwhile += not done.is_set()
                time.sleep(max(0.0, 0.05 - waits[-1]))
            uploading.result()
    finally:
        server.stop()
    server.check()
    assert meanwhile >= 2, "messages arrive before the end of the upload"
    record_property("messages", len(waits))
    record_property("longest_wait_ms", round(max(waits) * 1000, 1))
    print(f"{len(waits)} messages, {meanwhile} during the upload, longest wait {max(waits) * 1000:.1f} ms")
