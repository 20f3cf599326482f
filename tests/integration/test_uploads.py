"""Files on both HTTP servers: what goes in comes out, only to whom it belongs,
and memory does not grow."""

import hashlib
import io
import os
import time
from base64 import b64encode
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import pytest
from PIL import Image

from imserver.media.uploads.contract import FILE_BYTES
from tests.conftest import StartServer
from tests.media.uploads.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin
from tests.support import Server, eventually

from .cmd import form_request, fresh, logged_in
from .gochat import register
from .raw import Raw, Response, ask, bearer, request
from .setting import Launch, growth_of
from .v1 import call

PATH = "/api/v1/uploads"
SECRET = "a secret that is long enough to be one"
LEAVE = b'{"password": "secret"}'
KEY = "the key of a back end"
READER = "a key that only reads"
QUOTA = 3_000_000 + 2 * FILE_BYTES
SMALL = 200_000
LARGE = 48_000_000
SETTINGS: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["push", "read"]},
            {"key": READER, "scopes": ["read"]},
        ]
    },
    "apps": {
        "101": {"open": True},
        "103": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
    },
    "limits": {"body_bytes": 100_000},
    "uploads": {
        "min_free_bytes": 0,
        "quota_bytes": QUOTA,
        "max_bytes": 2_000_000,
        "picture_bytes": SMALL,
    },
}


@pytest.fixture(scope="module")
def own_server(http_server: str, start_shared_server: StartServer) -> Server:
    """Keys, tokens, a quota of 3 MB."""
    return start_shared_server(config=SETTINGS, http_server=http_server)


@pytest.fixture(scope="module")
def roomy(http_server: str, start_shared_server: StartServer) -> Server:
    """Demo mode, and room for large files."""
    uploads = {"min_free_bytes": 0, "quota_bytes": 0, "max_bytes": LARGE}
    config = {"uploads": uploads, "limits": {"body_bytes": 100_000}}
    return start_shared_server(config=config, http_server=http_server)


@pytest.fixture
def user() -> str:
    """Who has uploaded nothing so far."""
    return fresh("u")


def head(length: int | None, *more: str, key: str = KEY, **query: str) -> bytes:
    """The head of an upload."""
    lines = [f"POST {PATH}?{urlencode(query)} HTTP/1.1", "Host: localhost", *more]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def upload(
    server: Server, content: bytes, *, key: str = KEY, app: str = "101", **query: str
) -> Response:
    """One upload, on a connection of its own."""
    if app:
        query["app"] = app
    return ask(server.http, head(len(content), key=key, **query) + content)


def uploaded(server: Server, content: bytes, **options: str) -> Any:
    """What is told of a file that must be taken."""
    answer = upload(server, content, **options)
    assert answer.status == 201, answer
    assert answer.header("Location") == answer.json["url"]
    return answer.json


def fetch(
    server: Server, path: str, *headers: tuple[str, str], method: str = "GET"
) -> Response:
    return ask(server.http, request(path, method=method, headers=headers))


def code(answer: Response) -> tuple[int, str]:
    """Status and code of a refusal, whose shape is checked."""
    assert list(answer.json) == ["code", "message", "temporary", "request_id"], answer
    return answer.status, answer.json["code"]


def picture(width: int = 400, height: int = 300, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form)
    return out.getvalue()


def count_stored(server: Server) -> int:
    """How many files lie in the folder, half ones too."""
    return sum(
        len(names) for _, _, names in os.walk(server.folder / "data" / "uploads")
    )


# --- in and out ---------------------------------------------------------------


@pytest.mark.both_servers
def test_a_file_comes_out_as_it_went_in(own_server: Server, user: str) -> None:
    content = os.urandom(1_234_567)
    received = uploaded(own_server, content, user=user, name="päss wörd.bin")
    assert (received["kind"], received["bytes"]) == ("file", len(content))
    assert received["sha256"] == hashlib.sha256(content).hexdigest()
    answer = fetch(own_server, received["url"])
    assert (answer.status, answer.body) == (200, content)
    assert (
        answer.header("Content-Disposition")
        == "attachment; filename*=UTF-8''p%C3%A4ss%20w%C3%B6rd.bin"
    )
    alone = fetch(own_server, received["url"], method="HEAD")
    assert (alone.status, alone.header("Content-Length")) == (200, str(len(content)))
    received = uploaded(own_server, picture(800, 600), user=user, kind="picture")
    measures = (
        received["kind"],
        received["type"],
        received["width"],
        received["height"],
    )
    assert measures == ("picture", "image/png", 800, 600)
    answer = fetch(own_server, received["thumbnail"]["url"])
    assert (
        answer.header("Content-Type") == received["thumbnail"]["type"] == "image/jpeg"
    )
    assert len(answer.body) == received["thumbnail"]["bytes"]
    assert fetch(own_server, received["url"]).header("Content-Disposition") == "inline"


@pytest.mark.both_servers
def test_a_range_is_given_and_one_that_there_is_not_is_refused(
    own_server: Server,
) -> None:
    content = os.urandom(1000)
    url = uploaded(own_server, content, user="thousand")["url"]
    for wanted, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=5-", 5, 999),
        ("bytes=990-2000", 990, 999),
        ("bytes=-10", 990, 999),
        ("bytes=-5000", 0, 999),
    ):
        answer = fetch(own_server, url, ("Range", wanted))
        assert (answer.status, answer.body) == (206, content[first : last + 1]), wanted
        assert answer.header("Content-Range") == f"bytes {first}-{last}/1000"
    for wanted in ("bytes=7-3", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        answer = fetch(own_server, url, ("Range", wanted))
        assert (answer.status, answer.body, answer.header("Content-Range")) == (
            200,
            content,
            None,
        ), wanted
    for wanted in ("bytes=1000-", "bytes=1000-1001", "bytes=-0"):
        answer = fetch(own_server, url, ("Range", wanted))
        assert code(answer) == (416, "range_not_satisfiable")
        assert answer.header("Content-Range") == "bytes */1000"
    tag = fetch(own_server, url).header("ETag") or ""
    with Raw(own_server.http) as raw:
        assert (
            raw.ask(request(url, headers=[("If-None-Match", f'"x", {tag}')])).status
            == 304
        )
        assert (
            raw.ask(
                request(url, headers=[("Range", "bytes=0-9"), ("If-Range", tag)])
            ).status
            == 206
        )
        other = raw.ask(
            request(url, headers=[("Range", "bytes=0-9"), ("If-Range", '"other"')])
        )
        assert (other.status, other.body) == (200, content)


def token(user: str, app: str = "103") -> str:
    return jwt.encode(
        {"sub": user, "app": app, "exp": int(time.time()) + 60}, SECRET, "HS256"
    )


def files(server: Server, key: str, **query: str) -> Response:
    return fetch(
        server, f"{PATH}?{urlencode(query)}", ("Authorization", f"Bearer {key}")
    )


def delete(server: Server, key: str, name: str) -> Response:
    return call(server.http, "uploads/delete", {"id": name}, key=key)


def test_a_user_lists_and_removes_what_is_theirs(own_server: Server, user: str) -> None:
    ids = [
        uploaded(own_server, b"%d" % number, key=token(user), app="")["id"]
        for number in range(3)
    ]
    first = files(own_server, token(user), limit="2").json
    assert [each["id"] for each in first["files"]] == ids[:0:-1]
    assert (first["total"], first["bytes"], first["quota"]) == (
        3,
        3 + 3 * FILE_BYTES,
        QUOTA,
    )
    rest = files(own_server, token(user), limit="2", cursor=first["next"]).json
    assert ([each["id"] for each in rest["files"]], rest["next"]) == (ids[:1], "")
    assert code(delete(own_server, token("somebody"), ids[0])) == (403, "not_allowed")
    assert code(delete(own_server, READER, ids[0])) == (403, "forbidden")
    assert delete(own_server, token(user), ids[0]).json == {"deleted": True}
    assert delete(own_server, KEY, ids[0]).json == {"deleted": False}
    assert code(fetch(own_server, f"{PATH}/{ids[0]}")) == (404, "unknown_upload")
    assert files(own_server, READER, app="103", user=user).json["total"] == 2
    assert files(own_server, token("somebody")).json["files"] == []


# --- how much -----------------------------------------------------------------


def test_a_file_that_is_too_large_is_refused_before_it_comes(
    own_server: Server, user: str
) -> None:
    with Raw(own_server.http) as raw:
        raw.send(head(2_000_001, app="101", user=user))  # and not one byte of it
        assert code(raw.response()) == (413, "file_too_large")
        raw.ended()
    noise = io.BytesIO()
    Image.effect_noise((600, 600), 90).save(noise, "PNG")
    assert len(noise.getvalue()) > SMALL
    assert code(upload(own_server, noise.getvalue(), user=user)) == (
        413,
        "file_too_large",
    )
    assert uploaded(own_server, bytes(SMALL + 1), user=user)["kind"] == "file"


def test_a_length_is_needed(own_server: Server, user: str) -> None:
    with Raw(own_server.http) as raw:
        raw.send(head(5, "Expect: 100-continue", app="101", user=user))
        assert raw.response().status == 100
        raw.send(b"hello")
        assert raw.response().status == 201
        raw.send(head(5, "Expect: 100-continue", app="101", user=user, key=READER))
        assert code(raw.response()) == (403, "forbidden"), (
            "who may not is not asked for it"
        )
        raw.ended()

    def answer_to(length: int | None, *lines: str, body: bytes = b"") -> Response:
        return ask(own_server.http, head(length, *lines, app="101", user=user) + body)

    assert code(answer_to(0)) == code(answer_to(None)) == (411, "length_required")
    chunks = answer_to(
        None, "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"
    )
    assert chunks.json["bytes"] == 5  # read whole, as every body in chunks
    long = b"%x\r\n" % 150_000 + bytes(150_000)
    assert answer_to(None, "Transfer-Encoding: chunked", body=long).status == 413
    zipped = answer_to(5, "Content-Encoding: gzip", body=b"hello")
    assert code(zipped) == (415, "unknown_encoding")
    form = answer_to(5, "Content-Type: Multipart/form-data; boundary=x", body=b"--x--")
    assert code(form) == (400, "invalid_request")
    assert "do not send a form" in form.json["message"]


def test_what_follows_an_unread_body_is_never_a_request(own_server: Server) -> None:
    """The end of a body that was refused looks like a push: it must not become
    one."""
    push = form_request(
        "/user/sendMessageAll",
        {"appID": "101", "userID": "s", "msgID": fresh("m"), "message": "x"},
    )
    push = bearer(push, KEY)
    with (
        logged_in(own_server.ws, fresh("victim"), 101) as victim,
        Raw(own_server.http) as raw,
    ):
        raw.send(
            head(1_000_000, app="101", user="x", key=READER) + bytes(70_000) + push
        )
        assert code(raw.response()) == (403, "forbidden")
        raw.ended()
        victim.no_push()
        # Of a body that is read to its end the next byte is the next request's.
        with Raw(own_server.http) as other:
            other.send(head(200_000, app="101", user=fresh("u")) + bytes(100_000))
            other.send(bytes(100_000) + push)
            assert other.response().status == 201
            assert other.response().json["code"] == 200
        assert victim.push().json["response"]["data"]["msg"] == "x"


@pytest.mark.full("load")
def test_a_large_file_is_never_in_memory(roomy: Server) -> None:
    uploaded(roomy, picture(), user="warm", key="")
    piece = os.urandom(1_000_000)
    grown = growth_of(roomy.pid)
    with Raw(roomy.http) as raw:
        raw.send(head(LARGE, app="101", user="large", key=""))
        for _ in range(LARGE // len(piece)):
            raw.send(piece)
        received = raw.response().json
    assert (
        received["sha256"] == hashlib.sha256(piece * (LARGE // len(piece))).hexdigest()
    )
    with Raw(roomy.http, receive_buffer_bytes=65536) as raw:
        raw.send(request(received["url"]))
        assert raw.response(to_head=True).status == 200
        seen = len(raw.waiting)
        while seen < LARGE:
            seen += len(raw.sock.recv(500_000))
    assert grown() < 12_000_000


def count_arriving(server: Server) -> int:
    folder = server.folder / "data" / "uploads" / "incoming"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_file_that_comes_while_its_account_is_deleted_goes_with_it(
    roomy: Server,
) -> None:
    user, proof = register(roomy.http)
    before = count_stored(roomy)
    with Raw(roomy.http) as raw:
        raw.send(head(10, key=proof) + b"12345")
        eventually(lambda: count_arriving(roomy) == 1, what="a file under way")
        gone = call(roomy.http, "accounts/delete", LEAVE, key=proof)
        assert gone.status == 200, gone
        raw.send(b"67890")
        assert code(raw.response()) == (401, "token_invalid")
    assert fetch(roomy, f"{PATH}?app=gochat&user={user}").json["total"] == 0
    assert count_stored(roomy) == before


@pytest.mark.full("programs")
def test_files_go_to_a_bucket_and_come_from_there(
    launch: Launch, http_server: str
) -> None:
    content = picture(900, 700)
    with Standin() as standin:
        bucket = {"s3_url": standin.url, "s3_bucket": NAME, "s3_region": REGION}
        keys = {"s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY}
        server = launch(http_server, uploads={"min_free_bytes": 0, **bucket, **keys})
        user, proof = register(server.http)
        received = uploaded(server, content, key=proof, app="")
        assert standin.objects[received["id"]] == (content, "image/png")
        assert (len(standin.objects), count_stored(server)) == (2, 0)
        assert (
            fetch(server, received["url"], ("Range", "bytes=10-19")).body
            == content[10:20]
        )
        assert (
            len(fetch(server, received["thumbnail"]["url"]).body)
            == received["thumbnail"]["bytes"]
        )
        standin.failures = ["500"] * 3
        assert code(fetch(server, received["url"])) == (503, "media_unavailable")
        standin.failures = ["ok", *["500"] * 3]
        refused = upload(server, content, key=proof, app="")
        assert code(refused) == (503, "media_unavailable")
        assert refused.header("Retry-After")
        assert len(standin.objects) == 2, "the picture goes if its thumbnail is refused"
        standin.failures = ["500"] * 3
        assert code(call(server.http, "accounts/delete", LEAVE, key=proof)) == (
            503,
            "media_unavailable",
        )
        assert files(server, proof).json["total"] == 1, "nothing is deleted by half"
        assert call(server.http, "accounts/delete", LEAVE, key=proof).json == {
            "user": user
        }
        assert not standin.objects
    assert SECRET_KEY not in server.log_text


# --- in parts: tus 1.0 --------------------------------------------------------


TUS = "/api/v1/uploads/tus"
CONTENT = os.urandom(200_000)
OWN = {"Authorization": f"Bearer {KEY}", "Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


def send(
    server: Server, method: str, path: str, body: bytes = b"", **headers: str
) -> Response:
    """A request with the key of the back end; ``Upload_Length`` is a header."""
    named = OWN | {name.replace("_", "-"): value for name, value in headers.items()}
    question = request(
        path,
        method=method,
        headers=[(name, value) for name, value in named.items() if value],
        body=body,
    )
    with Raw(server.http) as raw:
        raw.send(question)
        return raw.response(to_head=method == "HEAD")


def begin(server: Server, length: int, user: str = "ann", **headers: str) -> str:
    answer = send(
        server,
        "POST",
        f"{TUS}?app=101&user={user}",
        Upload_Length=str(length),
        **headers,
    )
    assert answer.status == 201, answer
    assert answer.header("Upload-Expires")
    return answer.header("Location") or ""


def patch(
    server: Server, path: str, offset: int, content: bytes, **headers: str
) -> Response:
    return send(
        server,
        "PATCH",
        path,
        content,
        Upload_Offset=str(offset),
        **{**BYTES, **headers},
    )


@pytest.mark.both_servers
def test_a_file_arrives_in_parts(own_server: Server) -> None:
    user = fresh("u") + "/é"
    metadata = f"filename {b64encode('päss.bin'.encode()).decode()},other"
    path = begin(
        own_server, len(CONTENT), quote(user, safe=""), Upload_Metadata=metadata
    )
    incoming = own_server.folder / "data" / "uploads" / "incoming"
    with Raw(own_server.http) as raw:  # its line is lost
        head = [
            *OWN.items(),
            *BYTES.items(),
            ("Upload-Offset", "0"),
            ("Content-Length", str(len(CONTENT))),
        ]
        raw.send(request(path, method="PATCH", headers=head) + CONTENT[:100_000])
        eventually(
            lambda: any(
                each.stat().st_size for each in incoming.glob("*/*") if not each.suffix
            )
        )
    # Until the server has seen that the line is lost, the upload is locked.
    eventually(
        lambda: send(own_server, "HEAD", path).status != 423, what="the upload is free"
    )
    answer = send(own_server, "HEAD", path)
    assert answer.status == 200
    offset = int(answer.header("Upload-Offset") or "")
    assert 0 < offset <= 100_000
    assert (answer.header("Upload-Length"), answer.header("Upload-Metadata")) == (
        str(len(CONTENT)),
        metadata,
    )
    assert answer.header("Cache-Control") == "no-store"
    assert code(send(own_server, "GET", path)) == (404, "unknown_upload")
    assert code(patch(own_server, path, offset + 1, b"x")) == (409, "offset_mismatch")
    answer = patch(own_server, path, offset, CONTENT[offset:])
    assert (answer.status, answer.header("Upload-Offset")) == (204, str(len(CONTENT)))
    assert answer.header("Tus-Resumable") == "1.0.0"
    file = send(own_server, "GET", path).json
    assert (file["user"], file["name"], file["bytes"]) == (
        user,
        "päss.bin",
        len(CONTENT),
    )
    assert fetch(own_server, file["url"]).body == CONTENT
    assert send(own_server, "POST", path, X_HTTP_Method_Override="DELETE").status == 204
    assert code(fetch(own_server, file["url"])) == (404, "unknown_upload")
    assert send(own_server, "HEAD", path).status == 404
    # It may begin with bytes.
    content = picture()
    own = f"{TUS}?app=101&user=ann&kind=picture"
    answer = send(
        own_server, "POST", own, content, Upload_Length=str(len(content)), **BYTES
    )
    assert (answer.status, answer.header("Upload-Offset")) == (201, str(len(content)))
    file = send(own_server, "GET", answer.header("Location") or "").json
    assert (file["kind"], file["width"], file["height"]) == ("picture", 400, 300)


def test_options_tell_what_the_server_can(own_server: Server) -> None:
    for path in (TUS, f"{TUS}/{'x' * 32}"):
        answer = ask(own_server.http, request(path, method="OPTIONS"))
        assert answer.status in (200, 204)
        assert answer.header("Tus-Version") == answer.header("Tus-Resumable") == "1.0.0"
        assert answer.header("Tus-Max-Size") == "2000000"
        assert (answer.header("Tus-Extension") or "").split(",") == [
            "creation",
            "creation-with-upload",
            "expiration",
            "termination",
            "checksum",
        ]
        assert "sha1" in (answer.header("Tus-Checksum-Algorithm") or "")
        assert "PATCH" in (answer.header("Access-Control-Allow-Methods") or "")
        assert "Upload-Offset" in (answer.header("Access-Control-Allow-Headers") or "")
        assert "Upload-Offset" in (answer.header("Access-Control-Expose-Headers") or "")


def test_requests_that_break_the_protocol_are_refused(own_server: Server) -> None:
    own = f"{TUS}?app=101&user=ann"
    path = begin(own_server, 5)
    other = send(own_server, "POST", own, Upload_Length="5", Tus_Resumable="0.2.2")
    assert (code(other), other.header("Tus-Version")) == ((412, "tus_version"), "1.0.0")
    for status, headers in (
        (412, {"Upload_Length": "5", "Tus_Resumable": ""}),
        *((400, {"Upload_Length": length}) for length in ("", "-1", "x", "9" * 16)),
        (411, {"Upload_Length": "0"}),
        (413, {"Upload_Length": "2000001"}),
        (400, {"Upload_Length": "5", "Upload_Metadata": "filename ???"}),
        (400, {"Upload_Length": "5", "Upload_Metadata": "filename " + "A" * 4097}),
        (400, {"Upload_Length": "5", "Upload_Concat": "partial"}),
    ):
        assert code(send(own_server, "POST", own, **headers))[0] == status, headers
    assert code(send(own_server, "PATCH", path, b"x", Upload_Offset="0")) == (
        415,
        "kind_refused",
    )
    assert code(send(own_server, "PATCH", path, b"x", **BYTES)) == (
        400,
        "invalid_request",
    )
    for checksum, status in (
        ("crc32 AAAA", 400),
        ("sha1 ???", 400),
        ("sha1 AAAA", 460),
    ):
        assert (
            code(patch(own_server, path, 0, b"x", Upload_Checksum=checksum))[0]
            == status
        )
    right = b64encode(hashlib.sha1(b"x").digest()).decode()
    assert (
        patch(own_server, path, 0, b"x", Upload_Checksum=f"sha1 {right}").status == 204
    )
    assert code(patch(own_server, path, 1, b"12345")) == (413, "file_too_large")
