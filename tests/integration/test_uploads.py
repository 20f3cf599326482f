"""Files on both HTTP servers: what goes in comes out, only to whom it belongs, and memory does not grow."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm
from PIL import Image

from imserver.media.uploads.contract import FILE_BYTES
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.media.uploads.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin, standing_in
from tests.support import Server, eventually
from tests.users import User

from .cmd import form_request, fresh, logged_in
from .gochat import register
from .raw import PATIENCE_SECONDS, Raw, Response, ask, bearer, request, select_readable
from .setting import Launch, rss_bytes
from .v1 import call, good

PATH = "/api/v1/uploads"
SECRET = "a secret that is long enough to be one"
ADMIN = "the key of an operator"
LEAVE = b'{"password": "secret"}'
KEY, READER, ELSEWHERE = "the key of a back end", "a key that only reads", "a key of another app"
QUOTA = 3_000_000 + 2 * FILE_BYTES
SMALL, LARGE = 200_000, 48_000_000
SETTINGS: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["push", "read"]},
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": READER, "scopes": ["read"]},
            {"key": ELSEWHERE, "scopes": ["push", "read"], "apps": ["102"]},
        ]
    },
    "apps": {
        "101": {"open": True},
        "104": {"account_tokens": "required"},
        "102": {},
        "103": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
    },
    "limits": {"body_bytes": 100_000},
    "uploads": {"min_free_bytes": 0, "quota_bytes": QUOTA, "max_bytes": 2_000_000, "picture_bytes": SMALL},
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


def upload(server: Server, content: bytes, *, key: str = KEY, app: str = "101", **query: str) -> Response:
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


def fetch(server: Server, path: str, *headers: tuple[str, str], method: str = "GET") -> Response:
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
    return sum(len(names) for _, _, names in os.walk(server.folder / "data" / "uploads"))


# --- in and out ---------------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_a_file_comes_out_as_it_went_in(own_server: Server, user: str) -> None:
    content = os.urandom(1_234_567)
    received = uploaded(own_server, content, user=user, name="../../etc/päss wörd.bin")
    assert received["kind"] == "file"
    assert received["bytes"] == len(content)
    assert received["sha256"] == hashlib.sha256(content).hexdigest()
    assert received["name"] == "päss wörd.bin"
    answer = fetch(own_server, received["url"])
    assert (answer.status, answer.body) == (200, content)
    assert answer.header("Content-Disposition") == "attachment; filename*=UTF-8''p%C3%A4ss%20w%C3%B6rd.bin"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("Content-Security-Policy") == "default-src 'none'; sandbox"
    alone = fetch(own_server, received["url"], method="HEAD")
    assert (alone.status, alone.header("Content-Length")) == (200, str(len(content)))


def test_a_picture_has_its_measures_and_a_thumbnail(own_server: Server, user: str) -> None:
    received = uploaded(own_server, picture(800, 600), user=user, kind="picture")
    assert (received["kind"], received["type"], received["width"], received["height"]) == (
        "picture",
        "image/png",
        800,
        600,
    )
    answer = fetch(own_server, received["thumbnail"]["url"])
    assert answer.header("Content-Type") == received["thumbnail"]["type"] == "image/jpeg"
    assert len(answer.body) == received["thumbnail"]["bytes"]
    with Image.open(io.BytesIO(answer.body)) as small:
        assert small.size == (640, 480)
    assert fetch(own_server, received["url"]).header("Content-Disposition") == "inline"


def test_what_only_begins_like_a_picture_is_saved_and_never_shown(own_server: Server, user: str) -> None:
    page = b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>"
    assert code(upload(own_server, page, user=user, kind="picture")) == (415, "kind_refused")
    answer = fetch(own_server, uploaded(own_server, page, user=user, name="a.png")["url"])
    assert answer.header("Content-Type") == "application/octet-stream"
    assert (answer.header("Content-Disposition") or "").startswith("attachment")


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=5-", 206, 5, 999),
        ("bytes=990-2000", 206, 990, 999),
        ("bytes=-10", 206, 990, 999),
        ("bytes=-5000", 206, 0, 999),
        ("bytes=7-3", 200, 0, 999),
        ("bytes=-", 200, 0, 999),
        ("lines=1-2", 200, 0, 999),
        ("bytes=0-1,5-6", 200, 0, 999),
    ],
)
@pytest.mark.both_servers
def test_a_range_is_given(
    own_server: Server, thousand: Any, wanted: str, status: int, first: int, last: int
) -> None:
    url, content = thousand
    answer = fetch(own_server, url, ("Range", wanted))
    assert (answer.status, answer.body) == (status, content[first : last + 1])
    assert answer.header("Content-Range") == (f"bytes {first}-{last}/1000" if status == 206 else None)


@pytest.fixture(scope="module")
def thousand(own_server: Server) -> tuple[str, bytes]:
    """A file of 1,000 bytes: its address and content."""
    content = os.urandom(1000)
    return uploaded(own_server, content, user="thousand")["url"], content


@pytest.mark.parametrize("wanted", ["bytes=1000-", "bytes=1000-1001", "bytes=-0"])
def test_a_range_that_there_is_not_is_refused(own_server: Server, thousand: Any, wanted: str) -> None:
    answer = fetch(own_server, thousand[0], ("Range", wanted))
    assert code(answer) == (416, "range_not_satisfiable")
    assert answer.header("Content-Range") == "bytes */1000"


def test_the_document_lists_parts_and_nothing_new(own_server: Server) -> None:
    paths = ask(own_server.http, request("/api/v1/openapi.json")).json["paths"]
    for path in ("/api/v1/uploads/{id}", "/api/v1/uploads/{id}/thumbnail"):
        responses = paths[path]["get"]["responses"]
        assert next(iter(responses)) == "200"
        assert responses["206"]["content"] == responses["200"]["content"]
        assert "content" not in responses["304"]


def test_who_has_it_already_is_informed(own_server: Server, thousand: Any) -> None:
    url, content = thousand
    tag = fetch(own_server, url).header("ETag") or ""
    with Raw(own_server.http) as raw:
        assert raw.ask(request(url, headers=[("If-None-Match", f'"x", {tag}')])).status == 304
        assert raw.ask(request(url, headers=[("Range", "bytes=0-9"), ("If-Range", tag)])).status == 206
        other = raw.ask(request(url, headers=[("Range", "bytes=0-9"), ("If-Range", '"other"')]))
        assert (other.status, other.body) == (200, content)


# --- who ----------------------------------------------------------------------------------------------------


def test_a_key_needs_its_scope_and_its_app(own_server: Server, user: str) -> None:
    assert code(upload(own_server, b"x", user=user, key="")) == (401, "unauthorized")
    assert code(upload(own_server, b"x", user=user, key="wrong")) == (401, "token_invalid")
    assert code(upload(own_server, b"x", user=user, key=READER)) == (403, "forbidden")
    assert code(upload(own_server, b"x", user=user, key=ELSEWHERE)) == (403, "forbidden")
    assert code(upload(own_server, b"x", user=user, app="999")) == (404, "unknown_app")
    assert code(upload(own_server, b"x")) == (400, "invalid_request")
    assert uploaded(own_server, b"x", user=user, key=ELSEWHERE, app="102")["app"] == "102"


def token(user: str, app: str = "103") -> str:
    return jwt.encode({"sub": user, "app": app, "exp": int(time.time()) + 60}, SECRET, "HS256")


def test_a_token_is_good_for_its_own_user_only(own_server: Server, user: str) -> None:
    received = uploaded(own_server, b"mine", key=token(user), app="")
    assert (received["app"], received["user"]) == ("103", user)
    assert uploaded(own_server, b"mine", key="", app="", token=token(user))["user"] == user
    assert code(upload(own_server, b"x", key=token(user), app="103", user="bob")) == (403, "not_allowed")
    assert code(upload(own_server, b"x", key=token(user), app="101")) == (403, "not_allowed")
    assert code(upload(own_server, b"x", key=token(user)[:-3] + "abc", app="")) == (401, "token_invalid")


def files(server: Server, key: str, **query: str) -> Response:
    return fetch(server, f"{PATH}?{urlencode(query)}", ("Authorization", f"Bearer {key}"))


def delete(server: Server, key: str, name: str) -> Response:
    return call(server.http, "uploads/delete", {"id": name}, key=key)


def test_a_user_lists_and_removes_what_is_theirs(own_server: Server, user: str) -> None:
    ids = [uploaded(own_server, b"%d" % number, key=token(user), app="")["id"] for number in range(3)]
    first = files(own_server, token(user), limit="2").json
    assert [each["id"] for each in first["files"]] == ids[:0:-1]
    assert (first["total"], first["bytes"], first["quota"]) == (3, 3 + 3 * FILE_BYTES, QUOTA)
    rest = files(own_server, token(user), limit="2", cursor=first["next"]).json
    assert ([each["id"] for each in rest["files"]], rest["next"]) == (ids[:1], "")
    assert code(delete(own_server, token("somebody"), ids[0])) == (403, "not_allowed")
    assert code(delete(own_server, READER, ids[0])) == (403, "forbidden")
    assert delete(own_server, token(user), ids[0]).json == {"deleted": True}
    assert delete(own_server, KEY, ids[0]).json == {"deleted": False}
    assert code(fetch(own_server, f"{PATH}/{ids[0]}")) == (404, "unknown_upload")
    assert files(own_server, READER, app="103", user=user).json["total"] == 2
    assert files(own_server, token("somebody")).json["files"] == []


# --- how much -----------------------------------------------------------------------------------------------


def test_a_quota_holds_and_what_was_refused_leaves_nothing(own_server: Server, user: str) -> None:
    before = count_stored(own_server)
    first = uploaded(own_server, bytes(1_500_000), user=user)
    assert code(upload(own_server, bytes(1_500_001), user=user)) == (403, "quota_exceeded")
    second = uploaded(own_server, bytes(1_500_000), user=user)
    assert code(upload(own_server, b"x", user=user)) == (403, "quota_exceeded")
    for received in (first, second):
        assert delete(own_server, KEY, received["id"]).json == {"deleted": True}
    uploaded(own_server, b"x", user=user)
    assert count_stored(own_server) == before + 1


def test_a_file_that_is_too_large_is_refused_before_it_comes(own_server: Server, user: str) -> None:
    with Raw(own_server.http) as raw:
        raw.send(head(2_000_001, app="101", user=user))  # and not one byte of it
        assert code(raw.response()) == (413, "file_too_large")
        raw.ended()
    noise = io.BytesIO()
    Image.effect_noise((600, 600), 90).save(noise, "PNG")
    assert len(noise.getvalue()) > SMALL
    assert code(upload(own_server, noise.getvalue(), user=user)) == (413, "file_too_large")
    assert uploaded(own_server, bytes(SMALL + 1), user=user)["kind"] == "file"


def test_who_waits_strangers_among_is_asked_or_refused(own_server: Server, user: str) -> None:
    with Raw(own_server.http) as raw:
        raw.send(head(5, "Expect: 100-continue", app="101", user=user))
        assert raw.response().status == 100
        raw.send(b"hello")
        assert raw.response().status == 201
        raw.send(head(5, "Expect: 100-continue", app="101", user=user, key=READER))
        assert code(raw.response()) == (403, "forbidden")
        raw.ended()


def test_a_length_is_needed(own_server: Server, user: str) -> None:
    assert code(ask(own_server.http, head(0, app="101", user=user))) == (411, "length_required")
    assert code(ask(own_server.http, head(None, app="101", user=user))) == (411, "length_required")
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    answer = ask(own_server.http, head(None, "Transfer-Encoding: chunked", app="101", user=user) + chunks)
    assert answer.json["bytes"] == 5  # read whole, as every body in chunks
    long = b"%x\r\n" % 150_000 + bytes(150_000)
    answer = ask(own_server.http, head(None, "Transfer-Encoding: chunked", app="101", user=user) + long)
    assert answer.status == 413
    answer = ask(own_server.http, head(5, "Content-Encoding: gzip", app="101", user=user) + b"hello")
    assert code(answer) == (415, "unknown_encoding")
    kind = "Content-Type: Multipart/form-data; boundary=x"
    form = ask(own_server.http, head(5, kind, app="101", user=user) + b"--x--")
    assert code(form) == (400, "invalid_request")
    assert "do not send a form" in form.json["message"]
    page = ask(own_server.http, head(5, "Content-Type: multipart/related", app="101", user=user) + b"--x--")
    assert page.status == 201, "a file of this type"


# --- nobody reads two stories -------------------------------------------------------------------------------


def test_what_follows_an_unread_body_is_never_a_request(own_server: Server) -> None:
    """The end of a body that was refused looks like a push: it must not become one."""
    push = form_request(
        "/user/sendMessageAll", {"appID": "101", "userID": "s", "msgID": fresh("m"), "message": "x"}
    )
    push = bearer(push, KEY)
    with logged_in(own_server.ws, fresh("victim"), 101) as victim, Raw(own_server.http) as raw:
        raw.send(head(1_000_000, app="101", user="x", key=READER) + bytes(70_000) + push)
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


# --- memory, time, how many ---------------------------------------------------------------------------------


@pytest.mark.full
def test_a_large_file_is_never_in_memory(roomy: Server) -> None:
    uploaded(roomy, picture(), user="warm", key="")
    piece, before = os.urandom(1_000_000), rss_bytes(roomy.pid)
    highest = before
    with Raw(roomy.http) as raw:
        raw.send(head(LARGE, app="101", user="large", key=""))
        for _ in range(LARGE // len(piece)):
            raw.send(piece)
            highest = max(highest, rss_bytes(roomy.pid))
        received = raw.response().json
    assert received["sha256"] == hashlib.sha256(piece * (LARGE // len(piece))).hexdigest()
    with Raw(roomy.http, receive_buffer_bytes=65536) as raw:
        raw.send(request(received["url"]))
        assert raw.response(to_head=True).status == 200
        seen = 0
        while seen < LARGE:
            seen += len(raw._take(min(500_000, LARGE - seen), time.monotonic() + PATIENCE_SECONDS))
            highest = max(highest, rss_bytes(roomy.pid))
    assert highest - before < 12_000_000


@pytest.mark.full
def test_others_are_served_while_files_come_and_no_more_come_than_may(
    launch: Launch, http_server: str
) -> None:
    uploads = {"min_free_bytes": 0, "quota_bytes": 0, "max_bytes": LARGE, "at_once": 3, "seconds": 10}
    roomy = launch(http_server, uploads=uploads)
    with Raw(roomy.http) as first, Raw(roomy.http) as second, Raw(roomy.http) as third:
        for login_request in (first, second, third):
            login_request.send(head(LARGE, app="101", user="slow", key="") + bytes(100))
        eventually(lambda: count_arriving(roomy) == 3, what="three files under way")
        assert code(upload(roomy, b"x", user="late", key="")) == (503, "busy")
        assert fetch(roomy, "/health").status == 200
        third.leave()  # in the middle of it
        eventually(lambda: count_arriving(roomy) == 2, what="one has gone")
        uploaded(roomy, b"x", user="late", key="")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not select_readable(first.sock, 0.1):
            first.send(b"x")  # never silent for long
        assert code(first.response()) == (408, "timeout")
        assert code(second.response()) == (408, "timeout")
    eventually(lambda: count_arriving(roomy) == 0, what="nothing under way")


def count_arriving(server: Server) -> int:
    folder = server.folder / "data" / "uploads" / "incoming"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# --- accounts and pages -------------------------------------------------------------------------------------


def test_an_account_uploads_with_its_token_and_its_files_go_with_it(roomy: Server) -> None:
    user, proof = register(roomy.http)
    received = uploaded(roomy, b"a photograph", app="", key=proof)
    assert (received["app"], received["user"]) == ("gochat", user)
    assert files(roomy, proof).json["total"] == 1
    assert code(upload(roomy, b"x", app="gochat", key=proof, user="1" + user)) == (403, "not_allowed")
    gone = call(roomy.http, "accounts/delete", LEAVE, key=proof)
    assert gone.status == 200, gone
    assert code(fetch(roomy, received["url"])) == (404, "unknown_upload")
    assert roomy.get(f"{PATH}?app=gochat&user={user}")[1].startswith(b'{"bytes":0,')


def test_an_account_of_another_app_names_its_app_and_uploads(own_server: Server) -> None:
    answer = User.register(own_server, "104", key=ADMIN)
    user, proof = answer.user, answer.token
    received = uploaded(own_server, b"a photograph", key=proof, app="104")
    assert (received["app"], received["user"]) == ("104", user)
    assert files(own_server, proof, app="104").json["total"] == 1
    assert code(upload(own_server, b"x", key=proof, app="102")) == (401, "token_invalid")
    assert code(upload(own_server, b"x", key=proof, app="104", user="1" + user)) == (403, "not_allowed")
    assert delete(own_server, proof, received["id"]).json == {"deleted": True}


def test_a_file_that_comes_while_its_account_is_deleted_goes_with_it(roomy: Server) -> None:
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


def test_a_file_is_removed_if_its_issuer_goes_away_while_it_comes(own_server: Server, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    known = json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    (tmp_path / "keys").write_text(json.dumps({"keys": [{**known, "kid": "1"}]}))
    app, before = fresh("shop"), count_stored(own_server)
    issuer = f"https://{app}.example.org"
    claims = {"iss": issuer, "aud": "shop", "sub": "ann", "exp": time.time() + 600}
    proof = jwt.encode(claims, key, "EdDSA", {"kid": "1"})
    row = {"issuer": issuer, "audience": "shop", "jwks_url": ""}
    with serve_folder(tmp_path) as site:
        row["jwks_url"] = f"{site}/keys"
        good(own_server.http, "apps/create", {"app": app, "settings": {"jwt": [row]}}, key=ADMIN)
        # On a busy machine the keys may come too late for the first request.
        eventually(lambda: files(own_server, proof, app=app).status == 200, what="the keys are known")
        with Raw(own_server.http) as raw:
            raw.send(head(10, key=proof, app=app) + b"12345")
            eventually(lambda: count_arriving(own_server) == 1, what="a file under way")
            row["jwks_url"] = f"{site}/gone"
            good(own_server.http, "apps/set", {"app": app, "settings": {"jwt": [row]}}, key=ADMIN)
            raw.send(b"67890")
            assert code(raw.response()) == (503, "issuer_unavailable")
    assert files(own_server, KEY, app=app, user="ann").json["total"] == 0
    assert count_stored(own_server) == before


# --- a bucket -----------------------------------------------------------------------------------------------


@pytest.fixture
def standin() -> Iterator[Standin]:
    with standing_in() as bucket:
        yield bucket


@pytest.mark.full
def test_files_go_to_a_bucket_and_come_from_there(launch: Launch, http_server: str, standin: Standin) -> None:
    bucket_settings = {
        "s3_url": standin.url,
        "s3_bucket": NAME,
        "s3_region": REGION,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": SECRET_KEY,
    }
    server = launch(http_server, uploads={"min_free_bytes": 0, **bucket_settings})
    content = picture(900, 700)
    received = uploaded(server, content, user="ann", key="")
    assert standin.objects[received["id"]] == (content, "image/png")
    assert len(standin.objects) == 2
    assert count_stored(server) == 0
    assert fetch(server, received["url"]).body == content
    assert fetch(server, received["url"], ("Range", "bytes=10-19")).body == content[10:20]
    assert len(fetch(server, received["thumbnail"]["url"]).body) == received["thumbnail"]["bytes"]
    standin.failures = ["500"] * 3
    assert code(fetch(server, received["url"])) == (503, "media_unavailable")
    standin.failures = ["500"] * 3
    refused = upload(server, b"x", user="ann", key="")
    assert code(refused) == (503, "media_unavailable")
    assert refused.header("Retry-After")
    standin.failures = ["ok", *["500"] * 3]
    assert code(upload(server, content, user="ann", key="")) == (503, "media_unavailable")
    assert len(standin.objects) == 2, "the picture goes if its thumbnail is refused"
    assert files(server, "", app="101", user="ann").json["total"] == 1
    assert delete(server, "", received["id"]).json == {"deleted": True}
    assert not standin.objects
    user, proof = register(server.http)
    uploaded(server, content, key=proof, app="")
    leave = bearer(request("/api/v1/accounts/delete", method="POST", body=LEAVE), proof)
    standin.failures = ["500"] * 3
    assert code(ask(server.http, leave)) == (503, "media_unavailable")
    assert files(server, proof).json["total"] == 1, "nothing is deleted by half"
    assert ask(server.http, leave).json == {"user": user}
    assert not standin.objects
    assert SECRET_KEY not in server.log_text


# --- settings, nodes ----------------------------------------------------------------------------------------


def test_a_disk_that_is_full_takes_nothing(launch: Launch, http_server: str) -> None:
    server = launch(http_server, uploads={"min_free_bytes": 1 << 60})
    assert code(upload(server, b"x", user="ann", key="")) == (507, "disk_full")
    assert "the disk of the folder of uploads is full" in server.log_text


@pytest.mark.full
def test_a_server_that_stops_waits_for_no_file_that_is_still_coming(launch: Launch, http_server: str) -> None:
    server = launch(http_server, uploads={"min_free_bytes": 0})
    with Raw(server.http) as raw:
        raw.send(head(1_000_000, app="101", user="ann", key="") + bytes(1000))
        eventually(lambda: count_arriving(server) == 1, what="a file under way")
        assert server.stop() == 0


@pytest.mark.full
def test_kinds_that_are_not_wanted_are_refused(launch: Launch, http_server: str) -> None:
    server = launch(http_server, uploads={"min_free_bytes": 0, "kinds": ["picture"], "thumbnail_pixels": 0})
    assert code(upload(server, b"hello", user="ann", key="")) == (415, "kind_refused")
    assert code(upload(server, b"hello", user="ann", key="", kind="file")) == (415, "kind_refused")
    assert uploaded(server, picture(), user="ann", key="")["thumbnail"] is None


@pytest.mark.full
def test_what_one_node_took_another_one_of_the_same_folder_gives(
    launch: Launch, http_server: str, tmp_path: Path
) -> None:
    shared = {
        "uploads": {"min_free_bytes": 0, "directory": str(tmp_path / "media")},
        "storage": {"url": f"sqlite:///{tmp_path}/shared.db"},
    }
    first, second = launch(http_server, **shared), launch(http_server, **shared)
    received = uploaded(first, picture(), user="ann", key="")
    assert fetch(second, received["url"]).body == picture()
    assert delete(second, "", received["id"]).json == {"deleted": True}
    assert code(fetch(first, received["url"])) == (404, "unknown_upload")


def test_addresses_below_a_path_have_it_in_the_header_alone(launch: Launch, http_server: str) -> None:
    server = launch(http_server, app={"http_url": "https://www.example.com/im/"})
    stored = upload(server, b"text", user="ann", key="")
    assert stored.json["url"].startswith("/api/v1/uploads/"), "messages outlive the address of their server"
    assert stored.header("Location") == "/im" + stored.json["url"]
    rows = [("Tus-Resumable", "1.0.0"), ("Upload-Length", "8"), ("Content-Length", "0")]
    parts = request("/api/v1/uploads/tus?app=default&user=ann", method="POST", headers=rows)
    assert (ask(server.http, parts).header("Location") or "").startswith("/im/api/v1/uploads/tus/")
